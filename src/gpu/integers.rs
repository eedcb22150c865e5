//! Lengths and targets on a device: read to the host, or brought to i64 for the kernels.

use super::{Arg, Backend, Integers, launch, product};
use crate::problem::plan::IntSource;
use candle_core::{CpuStorage, DType, Layout, Result, bail};

/// Reads integers from a device, all with one copy to the host.
pub(crate) fn read_together<B: Backend>(backend: &B, parts: &[IntSource]) -> Result<Vec<Vec<i64>>> {
    let packed = pack(backend, &parts.iter().collect::<Vec<_>>())?;
    let CpuStorage::I64(values) = backend.read(&packed)? else {
        bail!("ctc-loss: integers are read as i64")
    };
    let mut values = values.into_iter();
    Ok(parts
        .iter()
        .map(|part| values.by_ref().take(part.count()).collect())
        .collect())
}

/// Concatenates integers of any dtype and layout, as i64.
pub(crate) fn pack<B: Backend>(backend: &B, parts: &[&IntSource]) -> Result<B::Storage> {
    let total = parts
        .iter()
        .fold(0usize, |total, part| total.saturating_add(part.count()));
    let mut packed = backend.allocate(product(&[total.max(1)])?, DType::I64)?;
    let mut to = 0;
    for part in parts {
        let count = part.count();
        if count == 0 {
            continue;
        }
        match part {
            IntSource::Values(values) => {
                let storage = backend.upload(values)?;
                widen(
                    backend,
                    &storage,
                    DType::I64,
                    &Layout::contiguous(count),
                    to,
                    &mut packed,
                )?;
            }
            IntSource::Tensor(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                match B::storage(&storage) {
                    Some(storage) => {
                        widen(backend, &storage, tensor.dtype(), layout, to, &mut packed)?;
                    }
                    None => bail!("ctc-loss: lengths and targets are on different devices"),
                }
            }
        }
        to += count;
    }
    Ok(packed)
}

fn widen<B: Backend>(
    backend: &B,
    from: &B::Storage,
    dtype: DType,
    layout: &Layout,
    to: usize,
    packed: &mut B::Storage,
) -> Result<()> {
    let (rows, columns, row, column) = match (layout.dims(), layout.stride()) {
        (&[], _) => (1, 1, 0, 0),
        (&[columns], &[column]) => (1, columns, 0, column),
        (&[rows, columns], &[row, column]) => (rows, columns, row, column),
        (dims, _) => bail!("ctc-loss: integers of shape {dims:?}"),
    };
    let integers = Integers {
        rows: rows as i64,
        columns: columns as i64,
        offset: layout.start_offset() as i64,
        row: row as i64,
        column: column as i64,
        to: to as i64,
    };
    // SAFETY: the arguments are those of the kernel, and `packed` has room for the integers after index `to`.
    unsafe {
        backend.launch(
            &launch::widen(dtype, rows * columns),
            &mut [Arg::Integers(integers), Arg::In(from), Arg::Out(packed)],
        )
    }
}
