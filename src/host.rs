//! Reading a float tensor on the host.

use candle_core::{Device, Result, Tensor};

/// The tensor itself when it is on the CPU, else a copy there.
pub(crate) fn on_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)
}

/// Evaluates an expression with the entries and the layout of a float tensor on the CPU, once
/// for each dtype. Another dtype or place is an error.
macro_rules! with_entries {
    ($tensor:expr, |$data:ident, $layout:ident| $body:expr) => {{
        use candle_core::{CpuStorage, Storage};
        let (storage, $layout) = $tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::F32($data)) => Ok($body),
            Storage::Cpu(CpuStorage::F64($data)) => Ok($body),
            Storage::Cpu(CpuStorage::F16($data)) => Ok($body),
            Storage::Cpu(CpuStorage::BF16($data)) => Ok($body),
            _ => Err(candle_core::Error::Msg(format!(
                "entries of dtype {:?} cannot be read on the CPU",
                $tensor.dtype()
            ))
            .bt()),
        }
    }};
}

pub(crate) use with_entries;
