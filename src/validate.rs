//! Turns arguments into a [`Plan`], or says what is wrong with them: the one place for errors
//! that a user's input can cause.

use crate::lengths::{IntoLengths, Lengths, int_values};
use crate::options::{CtcLossOptions, InputLayout};
use crate::plan::{InputKind, Plan};
use candle_core::{DType, Result, Tensor, bail};

/// Checks all arguments of the loss and collects them.
pub(crate) fn plan(
    kind: InputKind,
    input: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<Plan> {
    let dims = input_dims(kind, input, opts)?;
    let Dims {
        frames,
        batch,
        classes,
        ..
    } = dims;
    let input_lengths = lengths("input_lengths", input_lengths.into_lengths()?, batch)?;
    at_most("input_lengths", &input_lengths, frames, "T", "frames")?;
    let target_lengths = lengths("target_lengths", target_lengths.into_lengths()?, batch)?;
    let (labels, label_offsets) = labels(targets, &target_lengths, dims, opts.blank)?;
    Ok(Plan {
        frames,
        batch,
        classes,
        blank: opts.blank,
        layout: dims.layout,
        input: kind,
        gradient: opts.gradient,
        zero_infinity: opts.zero_infinity,
        input_lengths,
        labels,
        label_offsets,
    })
}

#[derive(Clone, Copy)]
struct Dims {
    frames: usize,
    batch: usize,
    classes: usize,
    layout: Option<InputLayout>,
}

fn input_dims(kind: InputKind, input: &Tensor, opts: CtcLossOptions) -> Result<Dims> {
    let name = match kind {
        InputKind::LogProbs => "log_probs",
        InputKind::Logits => "logits",
    };
    let dtype = input.dtype();
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        bail!("ctc_loss: {name} have dtype {dtype:?}; expected f32, f64, f16 or bf16")
    }
    if dtype == DType::F64 && input.device().is_metal() {
        bail!(
            "ctc_loss: {name} have dtype F64, which Metal does not support; convert them with \
             to_dtype(DType::F32) or move them to the CPU"
        )
    }
    let (frames, batch, classes, layout) = match (input.dims(), opts.layout) {
        (&[frames, classes], _) => (frames, 1, classes, None),
        (&[frames, batch, classes], layout @ InputLayout::TimeMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (&[batch, frames, classes], layout @ InputLayout::BatchMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (other, layout) => {
            let batched = match layout {
                InputLayout::TimeMajor => "(T, N, C)",
                InputLayout::BatchMajor => "(N, T, C)",
            };
            bail!("ctc_loss: {name} have shape {other:?}; expected {batched} or (T, C)")
        }
    };
    if frames == 0 || batch == 0 {
        bail!(
            "ctc_loss: {name} have shape {:?}, with T = {frames} frames and N = {batch} items; \
             both must be at least 1",
            input.dims()
        )
    }
    if opts.blank >= classes {
        bail!(
            "ctc_loss: blank = {} is not a class; {name} have C = {classes} classes",
            opts.blank
        )
    }
    Ok(Dims {
        frames,
        batch,
        classes,
        layout,
    })
}

/// One non-negative length for each item.
fn lengths(name: &str, lengths: Lengths, batch: usize) -> Result<Vec<usize>> {
    let values = match lengths {
        Lengths::Scalar(one) if batch == 1 => vec![one],
        Lengths::Scalar(one) => bail!(
            "ctc_loss: {name} is the single number {one}, but the batch has N = {batch} items; \
             give one length for each"
        ),
        Lengths::Batch(values) => values,
    };
    if values.len() != batch {
        bail!(
            "ctc_loss: {name} has {} entries, but the batch has N = {batch} items",
            values.len()
        )
    }
    let checked = values.iter().enumerate().map(|(item, &value)| {
        if value < 0 {
            bail!("ctc_loss: {name}[{item}] = {value}; a length must not be negative")
        }
        // What does not fit is too long for any tensor.
        Ok(usize::try_from(value).unwrap_or(usize::MAX))
    });
    checked.collect()
}

fn at_most(name: &str, lengths: &[usize], most: usize, size: &str, unit: &str) -> Result<()> {
    match lengths.iter().position(|&length| length > most) {
        Some(item) => bail!(
            "ctc_loss: {name}[{item}] = {}, but there are only {size} = {most} {unit}",
            lengths[item]
        ),
        None => Ok(()),
    }
}

/// The labels of all items one after the other, and where each item begins.
fn labels(
    targets: &Tensor,
    target_lengths: &[usize],
    dims: Dims,
    blank: usize,
) -> Result<(Vec<u32>, Vec<usize>)> {
    let batch = dims.batch;
    // Where the targets of an item begin: every `row` entries, or one behind the other.
    let row = match targets.dims() {
        &[entries] => {
            let sum = target_lengths
                .iter()
                .try_fold(0usize, |sum, &length| sum.checked_add(length));
            if sum != Some(entries) {
                bail!(
                    "ctc_loss: targets are a concatenation of {entries} labels, but \
                     target_lengths add up to {}",
                    sum.map_or("more than fits".into(), |sum| sum.to_string())
                )
            }
            None
        }
        &[rows, longest] if rows == batch => {
            at_most(
                "target_lengths",
                target_lengths,
                longest,
                "S",
                "labels an item",
            )?;
            Some(longest)
        }
        other => bail!(
            "ctc_loss: targets have shape {other:?}; expected ({batch}, S), or a concatenation of \
             one dimension"
        ),
    };
    let values = int_values(targets, "targets")?;
    let mut labels = Vec::with_capacity(target_lengths.iter().sum());
    let mut label_offsets = Vec::with_capacity(batch + 1);
    label_offsets.push(0);
    for (item, &length) in target_lengths.iter().enumerate() {
        let start = row.map_or(labels.len(), |row| item * row);
        for (position, &label) in values[start..start + length].iter().enumerate() {
            match usize::try_from(label) {
                Ok(class) if class == blank => bail!(
                    "ctc_loss: the target of item {item} has the blank ({blank}) at position \
                     {position}; a target holds labels only"
                ),
                Ok(class) if class < dims.classes => labels.push(class as u32),
                _ => bail!(
                    "ctc_loss: the target of item {item} has label {label} at position \
                     {position}; labels must be at least 0 and below C = {}",
                    dims.classes
                ),
            }
        }
        label_offsets.push(labels.len());
    }
    Ok((labels, label_offsets))
}
