//! The memory of a loss, known before it is computed.

use crate::cpu::{BLOCK_FRAMES, PAIRS};
#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
use crate::gpu;
use crate::options::{InputKind, InputLayout};
use crate::problem::plan::Input;
use crate::problem::validate::ROWS_HELD;
use candle_core::utils::barrier_pool;
use candle_core::{DType, Device, Result, bail};

/// The memory of a loss in addition to its input and the gradient, in bytes: see [`memory_needed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryNeeded {
    /// Kept from a loss to its backward pass: the posteriors of the labels in each frame.
    pub kept: u64,
    /// The most that a training step takes at a time, including `kept`.
    pub training: u64,
}

/// Bytes that a training step takes, at most, for each frame and state of the batch, beside the posteriors.
const BYTES_OF_A_STATE: usize = 2;

/// Rows of the classes for each thread, at most: it works on one frame at a time.
const ROWS_OF_A_THREAD: usize = 4;

/// Bytes that a training step may take whatever the shape.
const BYTES_OF_ANY: u128 = 1 << 20;

/// The most memory that [`ctc_loss`](crate::ctc_loss) or [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) takes, in
/// addition to the input and its gradient.
///
/// The gradient has the size of the input, and `backward` of candle holds up to three of that size at a time. On the
/// CPU, lengths below T and labels that repeat lower the need; on a GPU they do not. With many classes, a training step
/// on the CPU takes more memory with more threads.
///
/// A loss without a gradient, and scores, take a few megabytes for each thread of a CPU, however many frames there are. On
/// a GPU, such a loss takes about `training - kept`. On Metal, candle rounds each buffer up to a power of two, so all this
/// may double.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_ctc::{InputKind, memory_needed};
///
/// # fn main() -> candle_core::Result<()> {
/// // Half a minute of speech, 50 frames a second, in a batch of 32; characters.
/// let shape = (1500, 32, 32);
/// let needed = memory_needed(shape, 400, DType::F32, InputKind::Logits, &Device::Cpu)?;
/// assert_eq!(needed.kept, 32 * (1504 * 32 * 4 + 1500 * 16 + 1504 / 8));
/// assert!(needed.training < 90_000_000);
/// # Ok(())
/// # }
/// ```
///
/// # Arguments
///
/// * `(frames, batch, classes)` - T, N and C of the input.
/// * `labels` - S, the labels of the longest target. With [`Checks::Device`](crate::Checks::Device) and concatenated
///   targets whose lengths are on the GPU: all labels of the batch.
/// * `dtype` - of the input: f32, f64, f16 or bf16.
/// * `input` - log-probabilities for `ctc_loss`, logits for `ctc_loss_with_logits`.
/// * `device` - of the input.
///
/// # Errors
///
/// A dtype that an input cannot have, such as f64 on Metal; no classes; more frames, items, classes or labels than a
/// GPU takes; sizes whose memory is beyond 64 bits.
pub fn memory_needed(
    (frames, batch, classes): (usize, usize, usize),
    labels: usize,
    dtype: DType,
    input: InputKind,
    device: &Device,
) -> Result<MemoryNeeded> {
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        bail!("memory_needed: an input of dtype {dtype:?}; it must be f32, f64, f16 or bf16")
    }
    if classes == 0 {
        bail!("memory_needed: there are no classes; at least the blank is one")
    }
    let input = Input {
        frames,
        batch,
        classes,
        blank: 0,
        layout: Some(InputLayout::TimeMajor),
        kind: input,
    };
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => on_gpu(device, &input, labels, dtype),
        #[cfg(feature = "metal")]
        Device::Metal(device) => on_gpu(device, &input, labels, dtype),
        #[cfg(ctc_softgpu)]
        Device::Cpu => on_gpu(&gpu::simulator::Simulator, &input, labels, dtype),
        _ => match on_cpu(&input, labels, dtype) {
            Some(needed) => Ok(needed),
            None => bail!(
                "memory_needed: {frames} frames, {batch} items, {classes} classes and {labels} labels take more than \
                 2^64 bytes"
            ),
        },
    }
}

/// `None` if the memory is beyond 64 bits.
#[cfg_attr(ctc_softgpu, allow(dead_code))]
fn on_cpu(input: &Input, labels: usize, dtype: DType) -> Option<MemoryNeeded> {
    let product = |factors: &[usize]| {
        let factors = factors.iter().map(|&factor| factor as u128);
        factors.fold(1, u128::saturating_mul)
    };
    let sum =
        |terms: &[u128]| u64::try_from(terms.iter().copied().fold(0, u128::saturating_add)).ok();
    let (frames, batch) = (input.frames, input.batch);
    let real = if dtype == DType::F64 { 8 } else { 4 };
    // Of the classes, those of a target and the blank.
    let entries = labels.min(input.classes - 1) + 1;
    // Each item's frames are rounded up to whole blocks, and its pairs of a blank and a label to whole tiles.
    let blocks = frames.div_ceil(BLOCK_FRAMES);
    let tiles = labels / PAIRS + 1;
    // Of logits, the maximum of each row and the sum of its exponentials; and it is checked whether rows fit.
    let (stats, rows_checked) = match input.kind {
        InputKind::Logits => (16, ROWS_HELD),
        InputKind::LogProbs => (0, 0),
    };
    let kept = sum(&[
        product(&[batch, blocks, BLOCK_FRAMES, entries, real]),
        product(&[batch, blocks]),
        product(&[batch, frames, stats]),
    ])?;
    let threads = rayon::current_num_threads().max(barrier_pool().n_workers() + 1);
    let rows = product(&[threads, ROWS_OF_A_THREAD, input.classes, real]);
    let training = sum(&[
        kept.into(),
        product(&[batch, frames, tiles, 2 * PAIRS, BYTES_OF_A_STATE]),
        rows.max(product(&[rows_checked, input.classes, 8])),
        BYTES_OF_ANY,
    ])?;
    Some(MemoryNeeded { kept, training })
}

#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
fn on_gpu<B: gpu::Backend>(
    backend: &B,
    input: &Input,
    labels: usize,
    dtype: DType,
) -> Result<MemoryNeeded> {
    if dtype == DType::F64 && !B::F64 {
        bail!("memory_needed: an input of f64; this GPU has no f64: take f32")
    }
    let (kept, forward) = gpu::memory_needed(backend, input, labels, dtype)?;
    match kept.checked_add(forward) {
        Some(training) => Ok(MemoryNeeded { kept, training }),
        None => bail!("memory_needed: the sizes take more than 2^64 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_uses_at_most_all_classes() {
        let kept = |labels, input| {
            let input = Input {
                frames: 8,
                batch: 1,
                classes: 3,
                blank: 0,
                layout: None,
                kind: input,
            };
            on_cpu(&input, labels, DType::F32).unwrap().kept
        };
        // Entries of f32 in 8 frames for the labels and the blank, and a byte for the block.
        assert_eq!(kept(1, InputKind::LogProbs), 8 * 2 * 4 + 1);
        for labels in [2, 3, 10] {
            assert_eq!(kept(labels, InputKind::LogProbs), 8 * 3 * 4 + 1);
            assert_eq!(kept(labels, InputKind::Logits), 8 * 3 * 4 + 1 + 8 * 16);
        }
    }
}
