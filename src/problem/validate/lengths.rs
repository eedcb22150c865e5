//! The lengths of a call: one of each item, and none beyond the input or the targets.

use super::Call;
use super::input::{Dims, layout_hint};
use crate::problem::integers::int_values;
use crate::problem::lengths::{IntoLengths, Lengths};
use candle_core::{DType, Result, Tensor, bail};

/// More frames than any tensor has: it holds at most `isize::MAX` bytes, and a frame takes at least two. Also
/// represents an unknown number of frames.
pub(super) const MOST_FRAMES: usize = isize::MAX as usize / 2;

/// The frames of each item, at most those of the input.
pub(super) fn input_lengths_of(
    call: Call,
    input_lengths: Lengths,
    dims: Dims,
) -> Result<Vec<usize>> {
    let (function, frames) = (call.function, dims.frames);
    let input_lengths = lengths(function, "input_lengths", input_lengths, dims)?;
    let hint = || {
        let fit = input_lengths.iter().all(|&length| length <= dims.batch);
        layout_hint(dims, fit)
    };
    at_most(
        function,
        "input_lengths",
        &input_lengths,
        frames,
        "T",
        "frames; lengths count the frames that the model puts out, after its strides",
        hint,
    )?;
    Ok(input_lengths)
}

/// Converts the frames of each item, reads them if they are a tensor, and checks them.
pub(super) fn frames_given(
    call: Call,
    dims: Dims,
    input_lengths: impl IntoLengths,
) -> Result<Vec<usize>> {
    let lengths = input_lengths_given(call, dims, input_lengths)?;
    input_lengths_of(call, read(lengths)?, dims)
}

/// Converts both kinds of lengths without reading tensors, and checks how many these hold.
pub(super) fn both_given(
    call: Call,
    dims: Dims,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
) -> Result<(Lengths, Lengths)> {
    Ok((
        input_lengths_given(call, dims, input_lengths)?,
        target_lengths_given(call.function, dims, targets, target_lengths)?,
    ))
}

fn input_lengths_given(call: Call, dims: Dims, lengths: impl IntoLengths) -> Result<Lengths> {
    let lengths = given(call.function, "input_lengths", lengths)?;
    check_tensor_count(call.function, "input_lengths", &lengths, dims)?;
    let most = ("T", dims.frames);
    check_u8(call.function, "input_lengths", &lengths, dims, most)?;
    Ok(lengths)
}

pub(super) fn target_lengths_given(
    function: &str,
    dims: Dims,
    targets: &Tensor,
    lengths: impl IntoLengths,
) -> Result<Lengths> {
    let lengths = given(function, "target_lengths", lengths)?;
    check_tensor_count(function, "target_lengths", &lengths, dims)?;
    // The maximum number of labels of a target, from the shape of the targets.
    let most = match *targets.dims() {
        [all] => ("the number of labels", all),
        [_, longest] => ("S", longest),
        _ => return Ok(lengths),
    };
    check_u8(function, "target_lengths", &lengths, dims, most)?;
    Ok(lengths)
}

/// Refuses a tensor of u8 for lengths that may exceed 255, since candle's sum of a u8 mask wraps: a length of 300
/// becomes 44. `size` and `most` are the name and the value of the largest possible length. A wrong number of lengths
/// is reported elsewhere.
fn check_u8(
    function: &str,
    name: &str,
    lengths: &Lengths,
    dims: Dims,
    (size, most): (&str, usize),
) -> Result<()> {
    let may_wrap =
        |tensor: &Tensor| tensor.dtype() == DType::U8 && tensor.elem_count() == dims.batch;
    if most > u8::MAX.into() && lengths.tensor().is_some_and(may_wrap) {
        bail!(
            "{function}: {name} have dtype u8, which ends at 255, but {size} = {most}; the sum of a \
             u8 mask wraps there: sum it as mask.to_dtype(DType::U32)"
        )
    }
    Ok(())
}

/// Converts lengths; an error names the argument.
pub(super) fn given(function: &str, name: &str, lengths: impl IntoLengths) -> Result<Lengths> {
    lengths
        .into_lengths()
        .map_err(|error| candle_core::Error::Msg(format!("{function}: {name}: {error}")).bt())
}

/// Reads lengths if they are a tensor.
pub(super) fn read(lengths: Lengths) -> Result<Lengths> {
    let values = match lengths.tensor() {
        Some(tensor) => int_values(&[tensor])?.pop().unwrap_or_default(),
        None => return Ok(lengths),
    };
    Ok(lengths.with_values(&values))
}

/// Checks that there is one length per item.
pub(super) fn check_count(function: &str, name: &str, entries: usize, dims: Dims) -> Result<()> {
    let batch = dims.batch;
    if entries == batch {
        return Ok(());
    }
    let hint = layout_hint(dims, entries == dims.frames);
    bail!("{function}: {name} has {entries} entries, but the batch has N = {batch} items{hint}")
}

/// The same for a tensor with a dimension before it is read, since a view of stride 0 may have any number of entries.
fn check_tensor_count(function: &str, name: &str, lengths: &Lengths, dims: Dims) -> Result<()> {
    match lengths.tensor().map(Tensor::dims) {
        Some(&[entries]) => check_count(function, name, entries, dims),
        _ => Ok(()),
    }
}

/// Checks for one non-negative length per item.
pub(super) fn lengths(
    function: &str,
    name: &str,
    lengths: Lengths,
    dims: Dims,
) -> Result<Vec<usize>> {
    let batch = dims.batch;
    let values = match lengths {
        Lengths::Scalar(one) if batch == 1 => vec![one],
        Lengths::Scalar(one) => bail!(
            "{function}: {name} is the single number {one}, but the batch has N = {batch} items; \
             give one length for each{}",
            layout_hint(dims, dims.frames == 1)
        ),
        Lengths::Batch(values) => values,
        Lengths::Tensor(_) => unreachable!("lengths are read before they are checked"),
    };
    check_count(function, name, values.len(), dims)?;
    let checked = values.iter().enumerate().map(|(item, &value)| {
        if value < 0 {
            bail!("{function}: {name}[{item}] = {value}; a length must not be negative")
        }
        // A value that does not fit is too long for any tensor.
        Ok(usize::try_from(value).unwrap_or(usize::MAX))
    });
    checked.collect()
}

pub(super) fn at_most(
    function: &str,
    name: &str,
    lengths: &[usize],
    most: usize,
    size: &str,
    unit: &str,
    hint: impl Fn() -> String,
) -> Result<()> {
    match lengths.iter().position(|&length| length > most) {
        Some(item) => bail!(
            "{function}: {name}[{item}] = {}, but there are only {size} = {most} {unit}{}",
            lengths[item],
            hint()
        ),
        None => Ok(()),
    }
}
