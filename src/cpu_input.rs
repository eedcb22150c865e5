//! The float input on the host, by dtype: whole, or frame by frame in f64, with any strides.

use crate::problem::plan::{InputKind, Plan, Strides};
use crate::problem::validate::Call;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::ops::Deref;

/// The tensor itself if it is on the CPU, else a copy there.
pub(crate) fn on_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)
}

/// Evaluates an expression with the entries and the layout of a float tensor on the CPU, once for each dtype. Any other
/// dtype or device is an error.
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

/// The entries of a checked tensor on the host.
pub(crate) struct Rows<S> {
    storage: S,
    strides: Strides,
}

/// The rows of `tensor`, which must be on the host and have the plan's shape.
pub(crate) fn rows<'a>(
    plan: &Plan,
    tensor: &'a Tensor,
) -> Rows<impl Deref<Target = Storage> + use<'a>> {
    let (storage, layout) = tensor.storage_and_layout();
    Rows {
        strides: plan.input.strides(layout),
        storage,
    }
}

impl<S: Deref<Target = Storage>> Rows<S> {
    /// Reads `row.len()` classes of one frame, from class `first`.
    pub fn read(&self, item: usize, frame: usize, first: usize, row: &mut [f64]) {
        let Strides { class: stride, .. } = self.strides;
        let start = self.start(item, frame) + first * stride;
        self.gather(start, stride, row);
    }

    /// Reads one class of an item in its first `column.len()` frames.
    pub fn column(&self, item: usize, class: usize, column: &mut [f64]) {
        let start = self.start(item, 0) + class * self.strides.class;
        self.gather(start, self.strides.frame, column);
    }

    fn start(&self, item: usize, frame: usize) -> usize {
        self.strides.offset + item * self.strides.item + frame * self.strides.frame
    }

    fn gather(&self, start: usize, stride: usize, out: &mut [f64]) {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => gather(data, start, stride, out, f64::from),
            Storage::Cpu(CpuStorage::F64(data)) => gather(data, start, stride, out, |x| x),
            Storage::Cpu(CpuStorage::F16(data)) => gather(data, start, stride, out, f16::to_f64),
            Storage::Cpu(CpuStorage::BF16(data)) => gather(data, start, stride, out, bf16::to_f64),
            _ => unreachable!("the dtype was checked and the tensor is on the host"),
        }
    }
}

fn gather<E: Copy>(
    data: &[E],
    start: usize,
    stride: usize,
    out: &mut [f64],
    widen: impl Fn(E) -> f64,
) {
    if stride == 1 {
        for (out, &x) in out.iter_mut().zip(&data[start..]) {
            *out = widen(x);
        }
    } else {
        for (i, out) in out.iter_mut().enumerate() {
            *out = widen(data[start + i * stride]);
        }
    }
}

/// An error with the position if a row contains NaN or +inf, or if all of its logits are −inf. A sum over alignments
/// would be NaN or +inf, and so would every hypothesis.
pub(crate) fn check_row(call: &Call, item: usize, frame: usize, row: &[f64]) -> Result<()> {
    let Call { function, .. } = call;
    let name = call.input_name();
    // A fold without an early exit, which the compiler vectorises.
    if !row.iter().fold(true, |ok, &x| ok & (x < f64::INFINITY)) {
        let class = row.iter().position(|&x| x.is_nan() || x == f64::INFINITY);
        let class = class.unwrap_or_default();
        bail!(
            "{function}: {name} of item {item} have {} at frame {frame}, class {class}; expected a \
             number or -inf",
            row[class]
        )
    }
    if call.input == InputKind::Logits && row.iter().all(|&x| x == f64::NEG_INFINITY) {
        bail!(
            "{function}: {name} of item {item} are all -inf at frame {frame}, where a softmax has \
             no value"
        )
    }
    Ok(())
}
