//! The memory of a loss, known before it is computed.

use crate::cpu::{BLOCK_FRAMES, PAIRS};
use crate::options::InputKind;
use candle_core::{DType, Result, bail};

/// What a loss takes beside its input and the gradient, in bytes: see [`memory_needed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryNeeded {
    /// Kept from a loss to its backward pass: the posteriors of the labels in each frame.
    pub kept: u64,
    /// The most that a training step takes at a time, `kept` among it.
    pub training: u64,
}

/// Beside the posteriors, a training step takes at most this for each frame and state of the batch.
const BYTES_OF_A_STATE: u64 = 2;

/// And this whatever the shape.
const BYTES_OF_ANY: u64 = 1 << 20;

/// The most memory that [`ctc_loss`](crate::ctc_loss) or [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) takes on
/// the CPU for an input of `(frames, batch, classes)` and targets of up to `labels` labels, beside the input and its
/// gradient.
///
/// The gradient has the size of the input, and `backward` of candle holds up to three of that size at a time. A loss
/// without a gradient, and scores, take a few megabytes for each thread, however many frames there are. Lengths below
/// `frames` and labels that repeat take less.
///
/// ```
/// use candle_core::DType;
/// use candle_ctc::{InputKind, memory_needed};
///
/// # fn main() -> candle_core::Result<()> {
/// // Half a minute of speech, 50 frames a second, in a batch of 32; characters.
/// let needed = memory_needed((1500, 32, 32), 400, DType::F32, InputKind::Logits)?;
/// assert_eq!(needed.kept, 32 * (1504 * 32 * 4 + 1500 * 16 + 1504 / 8));
/// assert!(needed.training < 90_000_000);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A dtype that no input has, no classes, and sizes whose memory is beyond 64 bits.
pub fn memory_needed(
    (frames, batch, classes): (usize, usize, usize),
    labels: usize,
    dtype: DType,
    input: InputKind,
) -> Result<MemoryNeeded> {
    let real = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => 4,
        DType::F64 => 8,
        _ => bail!("memory_needed: an input of dtype {dtype:?}; it must be f32, f64, f16 or bf16"),
    };
    if classes == 0 {
        bail!("memory_needed: there are no classes; at least the blank is one")
    }
    let bytes = || -> Option<MemoryNeeded> {
        let [frames, batch, classes, labels] = [frames, batch, classes, labels].map(|n| n as u64);
        // Of the classes, those of a target and the blank.
        let entries = labels.min(classes - 1).checked_add(1)?;
        // Each item's frames are rounded up to whole blocks, and its pairs of a blank and a label to whole tiles.
        let (block, tile) = (BLOCK_FRAMES as u64, PAIRS as u64);
        let blocks = frames.div_ceil(block);
        let posteriors = blocks.checked_mul(block)?.checked_mul(entries)?;
        let of_rows = match input {
            InputKind::LogProbs => 0,
            // The maximum of the row and the sum of its exponentials.
            InputKind::Logits => frames.checked_mul(16)?,
        };
        let of_an_item = posteriors.checked_mul(real)?.checked_add(blocks)?;
        let kept = of_an_item.checked_add(of_rows)?.checked_mul(batch)?;
        let states = (labels / tile + 1)
            .checked_mul(2 * tile)?
            .checked_mul(frames)?;
        let scratch = states.checked_mul(batch)?.checked_mul(BYTES_OF_A_STATE)?;
        let training = kept.checked_add(scratch)?.checked_add(BYTES_OF_ANY)?;
        Some(MemoryNeeded { kept, training })
    };
    match bytes() {
        Some(needed) => Ok(needed),
        None => bail!(
            "memory_needed: {frames} frames, {batch} items, {classes} classes and {labels} labels take more than 2^64 bytes"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_uses_at_most_all_classes() {
        let kept = |labels, input| {
            let needed = memory_needed((8, 1, 3), labels, DType::F32, input).unwrap();
            needed.kept
        };
        // Entries of f32 in 8 frames for the labels and the blank, and a byte for the block.
        assert_eq!(kept(1, InputKind::LogProbs), 8 * 2 * 4 + 1);
        for labels in [2, 3, 10] {
            assert_eq!(kept(labels, InputKind::LogProbs), 8 * 3 * 4 + 1);
            assert_eq!(kept(labels, InputKind::Logits), 8 * 3 * 4 + 1 + 8 * 16);
        }
    }
}
