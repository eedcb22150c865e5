//! CUDA: launches of [`gpu`](crate::gpu) on candle's device. Kernels are compiled by `build.rs`, run on the stream of
//! the tensor's device, and are loaded once per device, on first use.

use crate::gpu::{Arg, Backend, Content, Held, Launch, offsets};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, DevicePtr, DeviceRepr, LaunchConfig,
    PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Result, Shape, Storage, WithDType, bail,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// An image built by `build.rs`: machine code and PTX, from which the driver selects what the device can run.
macro_rules! image {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name)).as_slice()
    };
}

/// The images, each with the name prefixes of its kernels; `kernels/ctc.cu` assigns kernels to images.
const IMAGES: [(&[&str], &[u8]); 10] = [
    (
        &["ctc_prepare", "ctc_widen_", "ctc_reduce_"],
        image!("common"),
    ),
    (
        &[
            "ctc_gather_f32",
            "ctc_gradient_f32",
            "ctc_gather_short_f32",
            "ctc_gather_weighted_f32",
            "ctc_gradient_short_f32",
        ],
        image!("rows_f32"),
    ),
    (
        &[
            "ctc_gather_f16",
            "ctc_gradient_f16",
            "ctc_gather_short_f16",
            "ctc_gather_weighted_f16",
            "ctc_gradient_short_f16",
        ],
        image!("rows_f16"),
    ),
    (
        &[
            "ctc_gather_bf16",
            "ctc_gradient_bf16",
            "ctc_gather_short_bf16",
            "ctc_gather_weighted_bf16",
            "ctc_gradient_short_bf16",
        ],
        image!("rows_bf16"),
    ),
    (
        &[
            "ctc_gather_f64",
            "ctc_gradient_f64",
            "ctc_gather_short_f64",
            "ctc_gather_weighted_f64",
            "ctc_gradient_short_f64",
        ],
        image!("rows_f64"),
    ),
    (&["ctc_lattice_f32_1"], image!("lattice_f32_1")),
    (&["ctc_lattice_f32_2"], image!("lattice_f32_2")),
    (&["ctc_lattice_f32_4"], image!("lattice_f32_4")),
    (&["ctc_lattice_f64_"], image!("lattice_f64")),
    (&["ctc_best_path_"], image!("best_path")),
];

/// The index of the image that contains a kernel.
fn image_of(kernel: &str) -> Option<usize> {
    IMAGES
        .iter()
        .position(|(names, _)| names.iter().any(|name| kernel.starts_with(name)))
}

/// Modules and functions loaded in one context.
#[derive(Default)]
struct Loaded {
    modules: HashMap<usize, Arc<CudaModule>>,
    functions: HashMap<String, CudaFunction>,
}

/// Keyed by the handle of the context. A module keeps its context alive, so a handle in this map is never reused for a
/// later context; and a device that is dropped and recreated finds its kernels, since the context still exists.
static LOADED: LazyLock<RwLock<HashMap<usize, Loaded>>> = LazyLock::new(RwLock::default);

/// The kernel with this name, loaded once per context. candle's own module cache accepts PTX only.
fn function(context: &Arc<CudaContext>, kernel: &str) -> Result<CudaFunction> {
    let handle = context.cu_ctx() as usize;
    {
        let loaded = LOADED.read().unwrap_or_else(PoisonError::into_inner);
        let found = loaded.get(&handle).and_then(|of| of.functions.get(kernel));
        if let Some(function) = found {
            return Ok(function.clone());
        }
    }
    let Some(image) = image_of(kernel) else {
        bail!("ctc-loss: no kernel {kernel}")
    };
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.entry(handle).or_default();
    let module = match loaded.modules.entry(image) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let image = Ptx::from_binary(IMAGES[image].1.to_vec());
            entry.insert(context.load_module(image).w()?)
        }
    };
    let function = module.load_function(kernel).w()?;
    loaded.functions.insert(kernel.into(), function.clone());
    Ok(function)
}

// SAFETY: both are plain integers in C layout, identical to the kernels' structs.
unsafe impl DeviceRepr for crate::gpu::Sizes {}
// SAFETY: as above.
unsafe impl DeviceRepr for crate::gpu::Integers {}

/// Words of a copy that does not block. A larger copy from unpinned memory waits for the stream.
const COPY: usize = (64 << 10) / 4;

/// A part of an allocation. Only the device's stream uses it, in order, so it needs no events.
pub(crate) struct Part {
    /// The allocation is freed with its last part, in stream order.
    _whole: Arc<CudaSlice<u32>>,
    address: u64,
}

/// Evaluates `$body` with the slice of a storage, for each dtype that the kernels support.
macro_rules! with_slice {
    ($storage:expr, |$slice:ident| $body:expr) => {
        match $storage {
            CudaStorageSlice::U8($slice) => $body,
            CudaStorageSlice::U32($slice) => $body,
            CudaStorageSlice::I16($slice) => $body,
            CudaStorageSlice::I32($slice) => $body,
            CudaStorageSlice::I64($slice) => $body,
            CudaStorageSlice::F16($slice) => $body,
            CudaStorageSlice::BF16($slice) => $body,
            CudaStorageSlice::F32($slice) => $body,
            CudaStorageSlice::F64($slice) => $body,
            _ => bail!("ctc-loss: a dtype that no kernel takes"),
        }
    };
}

impl Backend for CudaDevice {
    const F64: bool = true;
    type Storage = CudaStorage;
    type Memory = Part;

    fn allocate(&self, count: usize, dtype: DType) -> Result<CudaStorage> {
        // SAFETY: the kernels write the memory before they read it.
        unsafe { self.alloc_uninit(&Shape::from(count), dtype) }
    }

    fn memory<const N: usize>(&self, contents: [Content<'_>; N]) -> Result<[Part; N]> {
        let (starts, words) = offsets(&contents)?;
        // SAFETY: the kernels write the memory before they read it.
        let mut whole = unsafe { self.alloc::<u32>(words) }?;
        for (content, &start) in contents.iter().zip(&starts) {
            if let Content::Words(words) = content {
                for (i, words) in words.chunks(COPY).enumerate() {
                    let start = start + i * COPY;
                    let mut to = whole.slice_mut(start..start + words.len());
                    self.memcpy_htod(words, &mut to)?;
                }
            }
        }
        let first = whole.device_ptr(&self.cuda_stream()).0;
        let whole = Arc::new(whole);
        Ok(starts.map(|start| Part {
            _whole: whole.clone(),
            address: first + 4 * start as u64,
        }))
    }

    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Self::Storage> {
        self.storage_from_slice(values)
    }

    fn read(&self, storage: &CudaStorage) -> Result<CpuStorage> {
        storage.to_cpu_storage()
    }

    fn storage(storage: &Storage) -> Option<Held<'_, CudaStorage>> {
        match storage {
            Storage::Cuda(storage) => Some(Held::Borrowed(storage)),
            _ => None,
        }
    }

    fn shared_bytes(&self) -> usize {
        // Available on every device without opting in.
        47 << 10
    }

    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, Self>]) -> Result<()> {
        let stream = self.cuda_stream();
        let function = function(stream.context(), &launch.kernel)?;
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Arg::Sizes(sizes) => {
                    builder.arg(&*sizes);
                }
                Arg::Integers(integers) => {
                    builder.arg(&*integers);
                }
                Arg::I64(value) => {
                    builder.arg(&*value);
                }
                Arg::U32(value) => {
                    builder.arg(&*value);
                }
                Arg::In(storage) => with_slice!(&storage.slice, |slice| {
                    builder.arg(slice);
                }),
                Arg::Out(storage) => with_slice!(&mut storage.slice, |slice| {
                    builder.arg(slice);
                }),
                Arg::From(part) => {
                    builder.arg(&part.address);
                }
                Arg::To(part) => {
                    builder.arg(&part.address);
                }
            }
        }
        let config = LaunchConfig {
            grid_dim: (launch.blocks as u32, 1, 1),
            block_dim: (launch.threads as u32, 1, 1),
            shared_mem_bytes: launch.shared_bytes as u32,
        };
        // SAFETY: guaranteed by the caller.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel of the source is in exactly one image, the one that its name implies.
    #[test]
    fn kernels_are_found_in_their_images() {
        let (rows, reals) = (["f32", "f16", "bf16", "f64"], ["f32", "f64"]);
        let mut kernels = vec!["ctc_prepare".to_string()];
        for integer in ["u8", "u32", "i16", "i32", "i64"] {
            kernels.push(format!("ctc_widen_{integer}"));
        }
        for dtype in rows {
            kernels.push(format!("ctc_gather_{dtype}"));
            kernels.push(format!("ctc_gather_weighted_{dtype}"));
            kernels.push(format!("ctc_gradient_{dtype}"));
            kernels.push(format!("ctc_best_path_{dtype}"));
        }
        for real in reals {
            kernels.push(format!("ctc_reduce_{real}"));
            for pairs in [1, 2, 4] {
                if (real, pairs) != ("f64", 4) {
                    kernels.push(format!("ctc_lattice_{real}_{pairs}"));
                    kernels.push(format!("ctc_lattice_{real}_{pairs}_spill"));
                }
            }
        }
        // An image without machine code compresses its PTX, so that no names are readable.
        let machine_code = contains(IMAGES[0].1, b".text.ctc_");
        for kernel in kernels {
            let having: Vec<usize> = (0..IMAGES.len())
                .filter(|&image| contains(IMAGES[image].1, format!(".text.{kernel}\0").as_bytes()))
                .collect();
            let image = image_of(&kernel).unwrap();
            assert!(!machine_code || having == [image], "{kernel}: {having:?}");
        }
    }

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }
}
