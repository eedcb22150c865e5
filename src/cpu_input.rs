//! The float input on the host, by dtype: whole, or a frame at a time in f64 from any strides.

use crate::problem::plan::{InputKind, Plan, Strides};
use crate::problem::validate::Call;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::ops::Deref;

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

/// The entries of a checked tensor on the host.
pub(crate) struct Rows<S> {
    storage: S,
    strides: Strides,
}

/// `tensor` is on the host and has the plan's shape.
pub(crate) fn rows<'a>(
    plan: &Plan,
    tensor: &'a Tensor,
) -> Rows<impl Deref<Target = Storage> + use<'a>> {
    let (storage, layout) = tensor.storage_and_layout();
    Rows {
        strides: plan.strides(layout),
        storage,
    }
}

impl<S: Deref<Target = Storage>> Rows<S> {
    /// Reads the classes of one frame from `first` on, as many as `row` holds.
    pub fn read(&self, item: usize, frame: usize, first: usize, row: &mut [f64]) {
        let Strides { class: stride, .. } = self.strides;
        let start = self.start(item, frame) + first * stride;
        self.gather(start, stride, row);
    }

    /// Reads one class of an item over its first frames, as many as `column` holds.
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

/// An error that says where, when a row holds NaN or +inf, or when all of its logits are −inf. A
/// sum over alignments would be NaN or +inf, and so would every hypothesis.
pub(crate) fn check_row(call: &Call, item: usize, frame: usize, row: &[f64]) -> Result<()> {
    let Call { function, .. } = call;
    let name = call.input_name();
    // A fold without an early way out: the compiler makes vector code of it.
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
