//! Runs the CUDA kernels on the CPU with `tools/softgpu`, for tests. With `--cfg ctc_softgpu`, which `build.rs` sets on
//! request, tensors on the CPU use the GPU backend.

use crate::gpu::{Arg, Backend, Content, Held, Launch, each};
use crate::memory::filled_room;
use candle_core::{CpuStorage, DType, Result, Storage, WithDType, bail};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

#[link(name = "softgpu")]
unsafe extern "C" {
    fn softgpu_open(path: *const c_char, report: *mut c_char, report_len: usize) -> *mut c_void;
    fn softgpu_register(ptr: *mut c_void, bytes: usize);
    fn softgpu_unregister(ptr: *mut c_void);
    fn softgpu_launch(
        library: *mut c_void,
        kernel: *const c_char,
        grid: *const u32,
        block: *const u32,
        shared_bytes: u32,
        arguments: *const *const c_void,
        count: u32,
        order: c_int,
        report: *mut c_char,
        report_len: usize,
    ) -> c_int;
}

/// The library of kernels that `CTC_SOFTGPU_KERNELS` names.
struct Library(*mut c_void);

// SAFETY: the handle may be used from any thread, as the library documents.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

fn library() -> Result<*mut c_void> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let opened = LIBRARY.get_or_init(|| {
        let path = std::env::var("CTC_SOFTGPU_KERNELS").map_err(|error| error.to_string())?;
        let path = CString::new(path).map_err(|error| error.to_string())?;
        let mut report = vec![0; 1 << 16];
        // SAFETY: the path is null-terminated, and the buffer is passed with its length.
        let library = unsafe { softgpu_open(path.as_ptr(), report.as_mut_ptr(), report.len()) };
        if library.is_null() {
            return Err(text(&report));
        }
        Ok(Library(library))
    });
    match opened {
        Ok(library) => Ok(library.0),
        Err(error) => bail!("softgpu: {error}"),
    }
}

fn text(report: &[c_char]) -> String {
    // SAFETY: the library null-terminates its reports.
    unsafe { CStr::from_ptr(report.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// Memory that kernels may access, initialised with garbage.
pub(crate) struct Memory {
    words: Box<[u64]>,
    bytes: usize,
    pub dtype: DType,
}

impl Memory {
    fn new(count: usize, dtype: DType) -> Result<Self> {
        let bytes = count * dtype.size_in_bytes();
        let count = bytes.div_ceil(8).max(1);
        let words = filled_room("softgpu: memory", &[count], 0xfff8_dead_7fc0_beef_u64)?;
        let mut words = words.into_boxed_slice();
        // SAFETY: the memory is ours until it is dropped.
        unsafe { softgpu_register(words.as_mut_ptr().cast(), bytes.max(1)) };
        Ok(Self {
            words,
            bytes,
            dtype,
        })
    }

    fn of<T: Copy>(values: &[T], dtype: DType) -> Result<Self> {
        let mut memory = Self::new(values.len(), dtype)?;
        debug_assert_eq!(memory.bytes, size_of_val(values));
        // SAFETY: both hold `bytes` bytes, and any bytes are valid words.
        unsafe {
            std::ptr::copy_nonoverlapping(
                values.as_ptr().cast::<u8>(),
                memory.words.as_mut_ptr().cast(),
                memory.bytes,
            );
        }
        Ok(memory)
    }

    fn values<T: Copy>(&self) -> Vec<T> {
        let count = self.bytes / size_of::<T>();
        // SAFETY: `T` is a number, the memory is aligned for it and holds `count` of them.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<T>(), count) }.to_vec()
    }

    /// Copies a storage from the CPU.
    pub fn from_cpu(storage: &CpuStorage) -> Result<Self> {
        match storage {
            CpuStorage::U8(values) => Self::of(values, DType::U8),
            CpuStorage::U32(values) => Self::of(values, DType::U32),
            CpuStorage::I16(values) => Self::of(values, DType::I16),
            CpuStorage::I32(values) => Self::of(values, DType::I32),
            CpuStorage::I64(values) => Self::of(values, DType::I64),
            CpuStorage::F16(values) => Self::of(values, DType::F16),
            CpuStorage::BF16(values) => Self::of(values, DType::BF16),
            CpuStorage::F32(values) => Self::of(values, DType::F32),
            CpuStorage::F64(values) => Self::of(values, DType::F64),
            _ => bail!("ctc-loss: a dtype that no kernel takes"),
        }
    }

    /// Copies to a storage on the CPU.
    pub fn to_cpu(&self) -> Result<CpuStorage> {
        Ok(match self.dtype {
            DType::U32 => CpuStorage::U32(self.values()),
            DType::I64 => CpuStorage::I64(self.values()),
            DType::F16 => CpuStorage::F16(self.values()),
            DType::BF16 => CpuStorage::BF16(self.values()),
            DType::F32 => CpuStorage::F32(self.values()),
            DType::F64 => CpuStorage::F64(self.values()),
            other => bail!("ctc-loss: a result of dtype {other:?}"),
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the memory was registered in `new`.
        unsafe { softgpu_unregister(self.words.as_mut_ptr().cast()) }
    }
}

/// The simulated device.
pub(crate) struct Simulator;

impl Backend for Simulator {
    const F64: bool = true;
    type Storage = Memory;
    type Memory = Memory;

    fn allocate(&self, count: usize, dtype: DType) -> Result<Memory> {
        Memory::new(count, dtype)
    }

    /// One allocation each, with bounds checks.
    fn memory<const N: usize>(&self, contents: [Content<'_>; N]) -> Result<[Memory; N]> {
        each(contents, |content| match content {
            Content::Room(count, dtype) => Memory::new(count, dtype),
            Content::Words(words) => Memory::of(words, DType::U32),
        })
    }

    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Memory> {
        Memory::of(values, T::DTYPE)
    }

    fn read(&self, storage: &Memory) -> Result<CpuStorage> {
        storage.to_cpu()
    }

    fn storage(storage: &Storage) -> Option<Held<'_, Memory>> {
        match storage {
            Storage::Cpu(storage) => Memory::from_cpu(storage).ok().map(Held::Owned),
            _ => None,
        }
    }

    fn shared_bytes(&self) -> usize {
        variable("CTC_SOFTGPU_SHARED_BYTES", 47 << 10)
    }

    fn max_threads(&self, _kernel: &str) -> Result<usize> {
        Ok(variable("CTC_SOFTGPU_THREADS", 256))
    }

    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, Self>]) -> Result<()> {
        let pointers: Vec<*const c_void> = arguments
            .iter_mut()
            .map(|argument| match argument {
                Arg::In(memory) | Arg::From(memory) => memory.words.as_ptr().cast(),
                Arg::Out(memory) | Arg::To(memory) => memory.words.as_mut_ptr().cast_const().cast(),
                _ => std::ptr::null(),
            })
            .collect();
        let values: Vec<*const c_void> = arguments
            .iter()
            .zip(&pointers)
            .map(|(argument, pointer)| match argument {
                Arg::Sizes(sizes) => std::ptr::from_ref(sizes).cast(),
                Arg::Integers(integers) => std::ptr::from_ref(integers).cast(),
                Arg::I64(value) => std::ptr::from_ref(value).cast(),
                Arg::U32(value) => std::ptr::from_ref(value).cast(),
                Arg::In(_) | Arg::Out(_) | Arg::From(_) | Arg::To(_) => {
                    std::ptr::from_ref(pointer).cast()
                }
            })
            .collect();
        let kernel = CString::new(launch.kernel.as_str()).map_err(candle_core::Error::wrap)?;
        let (grid, block) = ([launch.blocks as u32, 1, 1], [launch.threads as u32, 1, 1]);
        let mut report = vec![0; 1 << 16];
        // SAFETY: the values are those of the caller's arguments, and live until the call returns.
        let failed = unsafe {
            softgpu_launch(
                library()?,
                kernel.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                launch.shared_bytes as u32,
                values.as_ptr(),
                values.len() as u32,
                variable("CTC_SOFTGPU_ORDER", 0) as c_int,
                report.as_mut_ptr(),
                report.len(),
            )
        };
        if failed != 0 {
            // A panic rather than an error, which a test of errors might accept.
            panic!("softgpu: {}: {}", launch.kernel, text(&report));
        }
        Ok(())
    }
}

/// A number from an environment variable.
fn variable(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}
