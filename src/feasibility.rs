//! Whether a target fits into its frames.

use crate::problem::lengths::IntoLengths;
use crate::problem::plan::frames_needed;
use crate::problem::validate;
use candle_core::{Result, Tensor};

/// Whether a target fits into its frames, and how many it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Feasibility {
    /// `frames >= frames_needed`: some path reads as the target.
    pub feasible: bool,
    /// Frames of the item.
    pub frames: usize,
    /// The minimum number of frames: one for each label, and one for the blank between two equal neighbours.
    pub frames_needed: usize,
}

impl Feasibility {
    /// Whether the labels of one utterance fit into its frames; [`feasibility`] is the same for a batch of tensors.
    ///
    /// ```
    /// use candle_ctc::Feasibility;
    ///
    /// let item = Feasibility::of(&[7, 7, 3], 3);
    /// assert_eq!((item.feasible, item.frames_needed), (false, 4));
    /// ```
    pub fn of(labels: &[u32], frames: usize) -> Self {
        let frames_needed = frames_needed(labels);
        Self {
            feasible: frames >= frames_needed,
            frames,
            frames_needed,
        }
    }
}

/// Determines for each item of a batch whether its target fits into its frames; [`Feasibility::of`] does so for slices.
///
/// An item that does not fit has a loss of +inf and a log-likelihood of −inf, and [`forced_align`](crate::forced_align)
/// refuses it.
///
/// # Arguments
///
/// * `targets` - `(N, S)` padded, or the labels of all items concatenated in one dimension; any integer dtype, on any
///   device. Neither the classes nor the blank are known here: a label may be any number from 0 to 2^32 − 1.
/// * `input_lengths` - frames of each item.
/// * `target_lengths` - labels of each item.
///
/// # Errors
///
/// If the shapes or the lengths do not fit together, or a label is out of range.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::feasibility;
///
/// # fn main() -> candle_core::Result<()> {
/// let targets = Tensor::new(&[[7u32, 7, 3], [1, 2, 3]], &Device::Cpu)?;
/// let items = feasibility(&targets, [3, 3], [3, 3])?;
/// // A blank must stand between the two sevens.
/// assert_eq!((items[0].feasible, items[0].frames_needed), (false, 4));
/// assert!(items[1].feasible);
/// # Ok(())
/// # }
/// ```
pub fn feasibility(
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
) -> Result<Vec<Feasibility>> {
    let (input_lengths, labels, offsets) =
        validate::targets_only("feasibility", targets, input_lengths, target_lengths)?;
    let targets = offsets.windows(2).map(|of| &labels[of[0]..of[1]]);
    let items = targets.zip(input_lengths);
    Ok(items
        .map(|(target, frames)| Feasibility::of(target, frames))
        .collect())
}
