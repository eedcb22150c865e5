//! The float input on the host, by dtype: whole, or frame by frame in f64, with any strides.

use crate::memory::elements;
use crate::problem::plan::{Input, InputKind, Plan, Strides};
use crate::problem::validate::Call;
use candle_core::{CpuStorage, D, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::collections::BTreeSet;
use std::ops::Deref;

/// The tensor itself if it is on the CPU, else a copy there.
pub(crate) fn on_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)
}

/// The input on the host, with the plan that fits it. Of log-probabilities on a GPU only the classes that targets use are
/// copied, and renumbered in their order, unless they are more than half of all.
pub(crate) fn used_classes_on_host(plan: Plan, input: &Tensor) -> Result<(Plan, Tensor)> {
    let selected = match (input.device(), plan.input.kind) {
        (Device::Cpu, _) | (_, InputKind::Logits) => None,
        (_, InputKind::LogProbs) => used_classes(&plan, &input.detach()),
    };
    match selected {
        Some(selected) => Ok(selected),
        None => Ok((plan, on_host(input)?)),
    }
}

/// `None` where nothing is to be gained, or if candle cannot select them: CUDA devices before compute capability 8.0 have
/// no such kernel for bf16, and its kernel counts elements with 32 bits.
fn used_classes(plan: &Plan, input: &Tensor) -> Option<(Plan, Tensor)> {
    let used: BTreeSet<u32> = plan.labels.iter().copied().collect();
    let used: Vec<u32> = used.into_iter().chain([plan.input.blank as u32]).collect();
    const MOST: usize = u32::MAX as usize;
    let elements = elements(1, input.dims());
    if 2 * used.len() > plan.input.classes || !matches!(elements, Some(1..=MOST)) {
        return None;
    }
    let select = || {
        let classes = Tensor::new(used.as_slice(), input.device())?;
        on_host(&input.contiguous()?.index_select(&classes, D::Minus1)?)
    };
    let selected = select().ok()?;
    let labels = &used[..used.len() - 1];
    let number = |label| labels.binary_search(label).ok().map(|place| place as u32);
    let plan = Plan {
        labels: plan.labels.iter().map(number).collect::<Option<_>>()?,
        input: Input {
            classes: used.len(),
            blank: labels.len(),
            ..plan.input
        },
        ..plan.clone()
    };
    Some((plan, selected))
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

    /// One entry.
    #[inline]
    pub fn entry(&self, item: usize, frame: usize, class: usize) -> f64 {
        let at = self.start(item, frame) + class * self.strides.class;
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => data[at].into(),
            Storage::Cpu(CpuStorage::F64(data)) => data[at],
            Storage::Cpu(CpuStorage::F16(data)) => data[at].to_f64(),
            Storage::Cpu(CpuStorage::BF16(data)) => data[at].to_f64(),
            _ => unreachable!("the dtype was checked and the tensor is on the host"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::InputLayout;
    use candle_core::DType;

    fn plan(labels: Vec<u32>) -> Plan {
        Plan {
            input: Input {
                frames: 3,
                batch: 2,
                classes: 9,
                blank: 4,
                layout: Some(InputLayout::TimeMajor),
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![3, 2],
            label_offsets: vec![0, labels.len() - 1, labels.len()],
            labels,
        }
    }

    // The way of a tensor on a GPU, here with the CPU as the device.
    #[test]
    fn the_classes_that_targets_use_are_selected() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let input = Tensor::randn(0f32, 2., (2, 3, 9), &Device::Cpu).unwrap();
            let input = input.to_dtype(dtype).unwrap().transpose(0, 1).unwrap();
            let (used, got) = used_classes(&plan(vec![7, 2, 7, 2]), &input).unwrap();
            assert_eq!((used.labels, used.input.blank), (vec![1, 0, 1, 0], 2));
            assert_eq!(used.input.classes, 3);
            let read = |tensor: &Tensor| {
                let wide = tensor.to_dtype(DType::F64).unwrap();
                wide.to_vec3::<f64>().unwrap().concat()
            };
            for (got, row) in read(&got).iter().zip(read(&input)) {
                assert_eq!(*got, [row[2], row[7], row[4]]);
            }
        }
    }

    #[test]
    fn most_classes_and_none_are_copied_as_they_are() {
        let input = Tensor::zeros((3, 2, 9), DType::F32, &Device::Cpu).unwrap();
        assert!(used_classes(&plan(vec![1, 2, 3]), &input).is_some());
        assert!(used_classes(&plan(vec![1, 2, 3, 5]), &input).is_none());
        let none = Tensor::zeros((0, 2, 9), DType::F32, &Device::Cpu).unwrap();
        assert!(used_classes(&plan(vec![1]), &none).is_none());
    }
}
