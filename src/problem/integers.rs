//! Tensors of integers: lengths and labels, on the host or on a GPU.

#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
use crate::gpu;
#[cfg(ctc_softgpu)]
use crate::gpu::simulator::Simulator;
use crate::memory::room_for;
#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
use crate::problem::plan::IntSource;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Checks that a tensor holds integers.
pub(crate) fn check_int(tensor: &Tensor, what: &str) -> Result<()> {
    match tensor.dtype() {
        DType::U8 | DType::U32 | DType::I16 | DType::I32 | DType::I64 => Ok(()),
        other => bail!(
            "{what} have dtype {other:?}; expected u8, u32, i16, i32 or i64, as to_dtype(DType::U32) makes them"
        ),
    }
}

/// The values of integer tensors in row-major order, on the host. Tensors on a GPU are read with one copy.
pub(crate) fn int_values(tensors: &[&Tensor]) -> Result<Vec<Vec<i64>>> {
    let on_gpu: Vec<&Tensor> = tensors
        .iter()
        .copied()
        .filter(|tensor| is_on_gpu(tensor))
        .collect();
    let together = match on_gpu.len() {
        0 | 1 => None,
        _ => read_together(&on_gpu)?,
    };
    let Some(together) = together else {
        return tensors.iter().map(|tensor| values(tensor)).collect();
    };
    let mut together = together.into_iter();
    tensors
        .iter()
        .map(|tensor| match is_on_gpu(tensor) {
            true => Ok(together.next().unwrap_or_default()),
            false => values(tensor),
        })
        .collect()
}

fn values(tensor: &Tensor) -> Result<Vec<i64>> {
    fn read<T: candle_core::WithDType + Into<i64>>(flat: &Tensor) -> Result<Vec<i64>> {
        Ok(flat.to_vec1::<T>()?.into_iter().map(Into::into).collect())
    }
    // Not `elem_count`, which wraps for views of stride 0.
    if tensor.dims().contains(&0) {
        return Ok(Vec::new());
    }
    // A view of stride 0 may have any size. Check the allocation here, since candle's copy would abort the process.
    drop(room_for::<i64>(
        "a tensor of labels or lengths",
        tensor.dims(),
    )?);
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    match flat.dtype() {
        DType::U8 => read::<u8>(&flat),
        DType::U32 => read::<u32>(&flat),
        DType::I16 => read::<i16>(&flat),
        DType::I32 => read::<i32>(&flat),
        _ => read::<i64>(&flat),
    }
}

/// Whether a tensor is on a device with a GPU backend.
pub(crate) fn is_on_gpu(tensor: &Tensor) -> bool {
    cfg!(ctc_softgpu) || !tensor.device().is_cpu()
}

/// The values of integer tensors on a GPU, with one copy to the host. `None` for tensors on the CPU, on several
/// devices, or of more than two dimensions.
fn read_together(tensors: &[&Tensor]) -> Result<Option<Vec<Vec<i64>>>> {
    let Some(first) = tensors.first().map(|tensor| tensor.device()) else {
        return Ok(None);
    };
    if tensors
        .iter()
        .any(|tensor| tensor.rank() > 2 || !tensor.device().same_device(first))
    {
        return Ok(None);
    }
    match first {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => gpu::read_together(device, &integers(tensors)).map(Some),
        #[cfg(feature = "metal")]
        Device::Metal(device) => gpu::read_together(device, &integers(tensors)).map(Some),
        #[cfg(ctc_softgpu)]
        Device::Cpu => gpu::read_together(&Simulator, &integers(tensors)).map(Some),
        _ => Ok(None),
    }
}

#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
fn integers(tensors: &[&Tensor]) -> Vec<IntSource> {
    let integer = |&tensor: &&Tensor| IntSource::Tensor(tensor.clone());
    tensors.iter().map(integer).collect()
}
