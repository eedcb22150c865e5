//! The float input on the host, by dtype: whole, or frame by frame in f64, with any strides.

use crate::problem::labels::Classes;
use crate::problem::plan::{Input, InputKind, Plan, Strides};
use crate::problem::validate::Call;
use candle_core::{CpuStorage, D, DType, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::ops::Deref;

/// The tensor itself if it is on the CPU, else a copy there.
pub(crate) fn on_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)
}

/// The input on the host, with the plan that fits it. Of a tensor on a GPU only the classes that targets use are copied:
/// they are renumbered, and logits become log-probabilities, in f64 for f64 and in f32 for all other dtypes.
pub(crate) fn used_classes_on_host(plan: Plan, input: &Tensor) -> Result<(Plan, Tensor)> {
    match input.device() {
        Device::Cpu => Ok((plan, input.detach())),
        _ => used_classes(plan, &input.detach()),
    }
}

fn used_classes(mut plan: Plan, input: &Tensor) -> Result<(Plan, Tensor)> {
    let Classes {
        mut distinct,
        place,
    } = Classes::new(&plan.labels);
    let blank = distinct.len();
    distinct.push(plan.input.blank as u32);
    if 2 * distinct.len() > plan.input.classes {
        return Ok((plan, on_host(input)?));
    }
    let (used, classes) = (distinct.len(), D::Minus1);
    let distinct = Tensor::new(distinct, input.device())?;
    let select = |from: &Tensor| from.contiguous()?.index_select(&distinct, classes);
    let selected = match plan.input.kind {
        InputKind::LogProbs => select(input)?,
        InputKind::Logits => {
            let dtype = match input.dtype() {
                DType::F64 => DType::F64,
                _ => DType::F32,
            };
            let wide = input.to_dtype(dtype)?;
            let below = wide.broadcast_sub(&wide.max_keepdim(classes)?)?;
            let log_sum = below.exp()?.sum_keepdim(classes)?.log()?;
            select(&below)?.broadcast_sub(&log_sum)?
        }
    };
    plan.labels = place;
    plan.input = Input {
        classes: used,
        blank,
        kind: InputKind::LogProbs,
        ..plan.input
    };
    Ok((plan, on_host(&selected)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::InputLayout;

    // The way of a tensor on a GPU, here with the CPU as the device.
    #[test]
    fn the_classes_that_targets_use_are_selected() {
        for kind in [InputKind::LogProbs, InputKind::Logits] {
            for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
                let plan = Plan {
                    input: Input {
                        frames: 3,
                        batch: 2,
                        classes: 9,
                        blank: 4,
                        layout: Some(InputLayout::TimeMajor),
                        kind,
                    },
                    input_lengths: vec![3, 2],
                    labels: vec![7, 2, 7, 2],
                    label_offsets: vec![0, 3, 4],
                };
                let input = Tensor::randn(0f32, 2., (2, 3, 9), &Device::Cpu).unwrap();
                let input = input.to_dtype(dtype).unwrap().transpose(0, 1).unwrap();
                let (used, got) = used_classes(plan, &input).unwrap();
                assert_eq!((used.labels, used.input.blank), (vec![0, 1, 0, 1], 2));
                assert_eq!(
                    (used.input.classes, used.input.kind),
                    (3, InputKind::LogProbs)
                );
                let read = |tensor: &Tensor| {
                    let wide = tensor.to_dtype(DType::F64).unwrap();
                    wide.to_vec3::<f64>().unwrap()
                };
                let (got, rows) = (read(&got), read(&input));
                for (got, row) in got.iter().flatten().zip(rows.iter().flatten()) {
                    let mut row = row.clone();
                    let within = match kind {
                        InputKind::LogProbs => 0.0,
                        InputKind::Logits => {
                            crate::distribution::log_softmax(&mut row);
                            if dtype == DType::F64 { 1e-14 } else { 2e-6 }
                        }
                    };
                    for (got, class) in got.iter().zip([7, 2, 4]) {
                        assert!(
                            (got - row[class]).abs() <= within,
                            "{dtype:?} {got} {row:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn most_classes_are_copied_as_they_are() {
        let plan = Plan {
            input: Input {
                frames: 2,
                batch: 1,
                classes: 3,
                blank: 0,
                layout: None,
                kind: InputKind::Logits,
            },
            input_lengths: vec![2],
            labels: vec![2],
            label_offsets: vec![0, 1],
        };
        let input = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let (same, whole) = used_classes(plan, &input).unwrap();
        assert_eq!((same.labels, same.input.classes), (vec![2], 3));
        assert_eq!(whole.dims(), [2, 3]);
    }
}
