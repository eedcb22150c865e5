//! Values that are computed before they enter candle's graph: the custom operation that enters them returns a copy, on
//! any backend.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, MetalStorage, Result, Shape, Storage, Tensor, bail};

/// A copy of `value` as the result of `cpu_fwd`.
pub(crate) fn on_cpu(value: &Tensor) -> Result<(CpuStorage, Shape)> {
    copy(value, |storage| match storage {
        Storage::Cpu(storage) => Some(storage),
        _ => None,
    })
}

/// A copy of `value` as the result of `cuda_fwd`.
pub(crate) fn on_cuda(value: &Tensor) -> Result<(CudaStorage, Shape)> {
    copy(value, |storage| match storage {
        Storage::Cuda(storage) => Some(storage),
        _ => None,
    })
}

/// A copy of `value` as the result of `metal_fwd`.
pub(crate) fn on_metal(value: &Tensor) -> Result<(MetalStorage, Shape)> {
    copy(value, |storage| match storage {
        Storage::Metal(storage) => Some(storage),
        _ => None,
    })
}

fn copy<S: BackendStorage>(
    value: &Tensor,
    of_backend: impl FnOnce(&Storage) -> Option<&S>,
) -> Result<(S, Shape)> {
    let (storage, layout) = value.storage_and_layout();
    if !layout.is_contiguous() || layout.start_offset() != 0 {
        bail!("ctc: the result is a view")
    }
    match of_backend(&storage) {
        Some(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
        None => bail!("ctc: the result is not on the device of the input"),
    }
}
