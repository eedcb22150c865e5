//! Metal: launches of [`gpu`](crate::gpu) on candle's device. The kernels' source is compiled when a device first needs
//! them.

use crate::gpu::launch::WARP;
use crate::gpu::{Arg, Backend, Content, Held, Launch, each};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::metal_backend::DeviceId;
use candle_core::{CpuStorage, DType, MetalDevice, MetalStorage, Result, Storage, WithDType, bail};
use candle_metal_kernels::metal::{ComputeCommandEncoder, ComputePipeline, Library};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCompileOptions, MTLComputePipelineState, MTLMathMode, MTLSize};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// The source as one string, since Metal has no include path.
pub(crate) const SOURCE: &str = concat!(
    include_str!("../../kernels/platform_metal.h"),
    "\n#line 1 \"number.h\"\n",
    include_str!("../../kernels/number.h"),
    "\n#line 1 \"common.h\"\n",
    include_str!("../../kernels/common.h"),
    "\n#line 1 \"prepare.h\"\n",
    include_str!("../../kernels/prepare.h"),
    "\n#line 1 \"rows.h\"\n",
    include_str!("../../kernels/rows.h"),
    "\n#line 1 \"gather.h\"\n",
    include_str!("../../kernels/gather.h"),
    "\n#line 1 \"lattice.h\"\n",
    include_str!("../../kernels/lattice.h"),
    "\n#line 1 \"gradient.h\"\n",
    include_str!("../../kernels/gradient.h"),
    "\n#line 1 \"ctc.metal\"\n",
    include_str!("../../kernels/ctc.metal"),
);

/// Threadgroup memory of an Apple GPU, less what the kernels declare statically.
const SHARED_BYTES: usize = (32 << 10) - 512;

/// Pipelines compiled for one device.
struct Compiled {
    library: Library,
    pipelines: HashMap<String, ComputePipeline>,
}

fn metal_error(error: impl std::fmt::Display) -> candle_core::Error {
    candle_core::Error::Metal(error.to_string().into()).bt()
}

fn compile(device: &MetalDevice) -> Result<Library> {
    let options = MTLCompileOptions::new();
    // Fast math, the default, may assume that −inf and NaN do not occur.
    if objc2::available!(macos = 15.0, ios = 18.0, tvos = 18.0, visionos = 2.0) {
        options.setMathMode(MTLMathMode::Safe);
    } else {
        // The equivalent on older systems.
        #[allow(deprecated)]
        options.setFastMathEnabled(false);
    }
    device
        .metal_device()
        .new_library_with_source(SOURCE, Some(&options))
        .map_err(metal_error)
}

/// The kernel with this name, compiled once per device.
fn pipeline(device: &MetalDevice, kernel: &str) -> Result<ComputePipeline> {
    static COMPILED: OnceLock<Mutex<HashMap<DeviceId, Compiled>>> = OnceLock::new();
    let mut devices = COMPILED
        .get_or_init(Mutex::default)
        .lock()
        .map_err(metal_error)?;
    let compiled = match devices.entry(device.id()) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Compiled {
            library: compile(device)?,
            pipelines: HashMap::new(),
        }),
    };
    if let Some(pipeline) = compiled.pipelines.get(kernel) {
        return Ok(pipeline.clone());
    }
    let function = compiled
        .library
        .get_function(kernel, None)
        .map_err(metal_error)?;
    let pipeline = device
        .metal_device()
        .new_compute_pipeline_state_with_function(&function)
        .map_err(metal_error)?;
    check_width(kernel, &pipeline)?;
    compiled
        .pipelines
        .insert(kernel.to_string(), pipeline.clone());
    Ok(pipeline)
}

/// The kernels exchange values among 32 threads that a SIMD-group must hold. Those of Apple's GPUs do; an Intel GPU may
/// have narrower ones.
fn check_width(kernel: &str, pipeline: &ComputePipeline) -> Result<()> {
    let state: &ProtocolObject<dyn MTLComputePipelineState> = pipeline.as_ref();
    let width = state.threadExecutionWidth();
    if !width.is_multiple_of(WARP) {
        bail!(
            "ctc: the GPU runs {kernel} in SIMD-groups of {width} threads, which must be a multiple of {WARP}; move the \
             input to the CPU"
        )
    }
    Ok(())
}

impl Backend for MetalDevice {
    const F64: bool = false;
    type Storage = MetalStorage;
    type Memory = MetalStorage;

    fn allocate(&self, count: usize, dtype: DType) -> Result<MetalStorage> {
        let buffer = self.new_buffer(count, dtype, "ctc-loss")?;
        Ok(MetalStorage::new(buffer, self.clone(), count, dtype))
    }

    /// One buffer each: candle recycles buffers.
    fn memory<const N: usize>(&self, contents: [Content<'_>; N]) -> Result<[MetalStorage; N]> {
        each(contents, |content| match content {
            Content::Room(count, dtype) => self.allocate(count, dtype),
            Content::Words(words) => self.storage_from_slice(words),
        })
    }

    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Self::Storage> {
        self.storage_from_slice(values)
    }

    fn read(&self, storage: &MetalStorage) -> Result<CpuStorage> {
        storage.to_cpu_storage()
    }

    fn storage(storage: &Storage) -> Option<Held<'_, MetalStorage>> {
        match storage {
            Storage::Metal(storage) => Some(Held::Borrowed(storage)),
            _ => None,
        }
    }

    fn shared_bytes(&self) -> usize {
        SHARED_BYTES
    }

    fn max_threads(&self, kernel: &str) -> Result<usize> {
        Ok(pipeline(self, kernel)?.max_total_threads_per_threadgroup())
    }

    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, Self>]) -> Result<()> {
        let pipeline = pipeline(self, &launch.kernel)?;
        // All buffers are allocated before this: the guard holds a lock that an allocation also takes.
        let guard = self.command_encoder()?;
        let encoder: &ComputeCommandEncoder = guard.as_ref();
        encoder.set_compute_pipeline_state(&pipeline);
        for (index, argument) in arguments.iter().enumerate() {
            match argument {
                Arg::Sizes(sizes) => encoder.set_bytes(index, sizes),
                Arg::Integers(integers) => encoder.set_bytes(index, integers),
                Arg::I64(value) => encoder.set_bytes(index, value),
                Arg::U32(value) => encoder.set_bytes(index, value),
                // These calls also tell candle's encoder where it needs barriers.
                Arg::In(storage) | Arg::From(storage) => {
                    encoder.set_input_buffer(index, Some(storage.buffer()), 0);
                }
                Arg::Out(storage) | Arg::To(storage) => {
                    encoder.set_output_buffer(index, Some(storage.buffer()), 0);
                }
            }
        }
        if launch.shared_bytes > 0 {
            // Metal requires a multiple of 16.
            encoder.set_threadgroup_memory_length(0, launch.shared_bytes.next_multiple_of(16));
        }
        let size = |width: usize| MTLSize {
            width,
            height: 1,
            depth: 1,
        };
        encoder.dispatch_thread_groups(size(launch.blocks), size(launch.threads));
        Ok(())
    }
}
