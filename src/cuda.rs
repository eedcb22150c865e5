//! CUDA: how the launches of [`gpu`](crate::gpu) reach candle's device. Kernels are compiled to PTX by
//! `build.rs`, run on the stream of the tensor's device, and are loaded once for each device.

use crate::gpu::{Arg, Backend, Held, Launch};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Result, Shape, Storage, WithDType, bail,
};

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/ctc.ptx"));

/// candle finds a module by its name alone.
const MODULE: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));

// SAFETY: both are plain integers in C's layout, twins of the kernels' own structs.
unsafe impl DeviceRepr for crate::gpu::Sizes {}
// SAFETY: as above.
unsafe impl DeviceRepr for crate::gpu::Integers {}

/// Does `$body` with the slice of a storage, of whatever dtype the kernels know.
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
    type Storage = CudaStorage;

    fn allocate(&self, count: usize, dtype: DType) -> Result<CudaStorage> {
        // SAFETY: the kernels write what they later read.
        unsafe { self.alloc_uninit(&Shape::from(count), dtype) }
    }

    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Self::Storage> {
        self.storage_from_slice(values)
    }

    fn read(&self, storage: &CudaStorage) -> Result<Vec<i64>> {
        match storage.to_cpu_storage()? {
            CpuStorage::I64(values) => Ok(values),
            _ => bail!("ctc-loss: integers are read as i64"),
        }
    }

    fn storage(storage: &Storage) -> Option<Held<'_, CudaStorage>> {
        match storage {
            Storage::Cuda(storage) => Some(Held::Borrowed(storage)),
            _ => None,
        }
    }

    fn shared_bytes(&self) -> usize {
        // What every device gives without being asked.
        47 << 10
    }

    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, CudaStorage>]) -> Result<()> {
        let function = self.get_or_load_custom_func(&launch.kernel, MODULE, PTX)?;
        let mut builder = function.builder();
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
            }
        }
        let config = LaunchConfig {
            grid_dim: (launch.blocks as u32, 1, 1),
            block_dim: (launch.threads as u32, 1, 1),
            shared_mem_bytes: launch.shared_bytes as u32,
        };
        // SAFETY: the caller's.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}
