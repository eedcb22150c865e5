//! The targets of a call: their shape and their labels.

use super::Call;
use super::input::{Dims, layout_hint};
use super::lengths::at_most;
use candle_core::{Result, bail};

/// Represent an unknown blank and an unknown number of classes.
pub(super) const NO_BLANK: usize = usize::MAX;
pub(super) const ANY_CLASS: usize = usize::MAX;

/// The row length of padded targets; `None` for concatenated targets. Lengths, if known, must fit the shape of the
/// targets.
pub(super) fn row_of(
    function: &str,
    targets: &[usize],
    target_lengths: Option<&[usize]>,
    dims: Dims,
) -> Result<Option<usize>> {
    let batch = dims.batch;
    match (targets, target_lengths) {
        (&[entries], Some(target_lengths)) => {
            let sum = target_lengths
                .iter()
                .try_fold(0usize, |sum, &length| sum.checked_add(length));
            if sum != Some(entries) {
                bail!(
                    "{function}: targets are a concatenation of {entries} labels, but \
                     target_lengths add up to {}; padded targets have two dimensions, (N, S)",
                    sum.map_or("more than fits".into(), |sum| sum.to_string())
                )
            }
            Ok(None)
        }
        (&[_], None) => Ok(None),
        (&[rows, longest], target_lengths) if rows == batch => {
            let lengths = target_lengths.unwrap_or_default();
            at_most(
                function,
                "target_lengths",
                lengths,
                longest,
                "S",
                "labels an item",
                String::new,
            )?;
            Ok(Some(longest))
        }
        (other, _) => bail!(
            "{function}: targets have shape {other:?}; expected ({batch}, S), or a concatenation of \
             one dimension{}",
            layout_hint(dims, other.len() == 2 && other[0] == dims.frames)
        ),
    }
}

/// The labels of all items, concatenated, and their offsets. The targets are given as shape and values.
pub(super) fn labels(
    call: Call,
    (targets, values): (&[usize], &[i64]),
    target_lengths: &[usize],
    dims: Dims,
) -> Result<(Vec<u32>, Vec<usize>)> {
    let row = row_of(call.function, targets, Some(target_lengths), dims)?;
    let mut labels = Vec::with_capacity(target_lengths.iter().sum());
    let mut label_offsets = Vec::with_capacity(dims.batch + 1);
    label_offsets.push(0);
    for (item, &length) in target_lengths.iter().enumerate() {
        let start = row.map_or(labels.len(), |row| item * row);
        let target = values[start..start + length].iter().copied();
        let of = || format!("the target of item {item}");
        check_labels(call, dims.classes, target.clone(), of)?;
        labels.extend(target.map(|label| label as u32));
        label_offsets.push(labels.len());
    }
    Ok((labels, label_offsets))
}

/// Each label must be the star, or a class other than the blank.
pub(super) fn check_labels(
    call: Call,
    classes: usize,
    labels: impl Iterator<Item = i64> + Clone,
    of: impl Fn() -> String,
) -> Result<()> {
    let (function, blank) = (call.function, call.blank);
    let is_blank = |label: i64| (blank != NO_BLANK) & (label == blank as i64);
    let (limit, star) = ((classes as u64).min(1 << 32), call.star.map(i64::from));
    // A negative label becomes too large as an unsigned number.
    let is_label =
        |label: i64| !is_blank(label) & (((label as u64) < limit) | (star == Some(label)));
    // Check all labels, which is faster than stopping at the first invalid one.
    if labels
        .clone()
        .fold(true, |all, label| all & is_label(label))
    {
        return Ok(());
    }
    for (position, label) in labels.enumerate() {
        if is_blank(label) {
            bail!(
                "{function}: {} has the blank ({blank}) at position {position}; it must hold labels \
                 only: where that is padding, the target length is too large, and where it is a label, \
                 blank must be another class",
                of()
            )
        }
        if !is_label(label) {
            let range = match classes {
                ANY_CLASS => "from 0 to 4294967295".to_string(),
                _ => format!("at least 0 and below C = {classes}, the classes of the input"),
            };
            bail!(
                "{function}: {} has label {label} at position {position}; labels must be {range}",
                of()
            )
        }
    }
    Ok(())
}
