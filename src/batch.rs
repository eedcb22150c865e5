//! Helpers that put a batch together: targets of different lengths, and lengths after convolutions.

use crate::memory::filled_room;
use candle_core::{Device, Result, Tensor, bail};

/// Puts the targets of a batch into one tensor, the shorter ones padded at their end.
///
/// # Returns
///
/// The targets as `(N, S)` of u32 on `device`, where `S` is the longest length, and the length of each.
/// [`ctc_loss`](crate::ctc_loss) and the functions for batches take them in this form. The padding is 0; it is never
/// read. `S` is at least 1, because candle has no empty tensors on a GPU; for the same reason `targets` must not be
/// empty there.
///
/// # Errors
///
/// If the tensor does not fit into memory, or cannot be made on the device.
///
/// ```
/// use candle_core::Device;
/// use candle_ctc::pad_targets;
///
/// # fn main() -> candle_core::Result<()> {
/// let (targets, target_lengths) = pad_targets(&[vec![3u32, 1, 4], vec![], vec![2]], &Device::Cpu)?;
/// assert_eq!(targets.to_vec2::<u32>()?, [[3, 1, 4], [0, 0, 0], [2, 0, 0]]);
/// assert_eq!(target_lengths, [3, 0, 1]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "pad_sequence")]
pub fn pad_targets<S: AsRef<[u32]>>(
    targets: &[S],
    device: &Device,
) -> Result<(Tensor, Vec<usize>)> {
    let targets: Vec<&[u32]> = targets.iter().map(AsRef::as_ref).collect();
    let lengths: Vec<usize> = targets.iter().map(|target| target.len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
    let mut labels = filled_room("pad_targets: the tensor", &[targets.len(), longest], 0u32)?;
    for (row, target) in labels.chunks_exact_mut(longest).zip(targets) {
        row[..target.len()].copy_from_slice(target);
    }
    let padded = Tensor::from_vec(labels, (lengths.len(), longest), device)?;
    Ok((padded, lengths))
}

/// The lengths of sequences after a convolution or a pooling, as PyTorch and candle compute the size of its output:
/// `(length + 2 · padding − dilation · (kernel − 1) − 1) / stride + 1`, rounded down; 0 for a sequence that is shorter
/// than the kernel reaches.
///
/// For the `input_lengths` of the loss when the model subsamples its frames. The convolution sees the padding of the
/// batch: a frame within the returned length may still depend on frames after the end of its sequence, so set those
/// to zero before each layer, as `padding` does for the longest sequence.
///
/// The order of the arguments is PyTorch's; candle's own convolutions take `padding` before `stride`.
///
/// # Errors
///
/// If `kernel`, `stride` or `dilation` is 0, or if a number is too large for the formula.
///
/// ```
/// use candle_ctc::conv_lengths;
///
/// # fn main() -> candle_core::Result<()> {
/// // Two layers of kernel 3, stride 2, padding 1: a quarter of the frames.
/// let lengths = conv_lengths(&[100, 57], 3, 2, 1, 1)?;
/// let lengths = conv_lengths(&lengths, 3, 2, 1, 1)?;
/// assert_eq!(lengths, [25, 15]);
/// # Ok(())
/// # }
/// ```
pub fn conv_lengths(
    lengths: &[usize],
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Result<Vec<usize>> {
    for (name, value) in [
        ("kernel", kernel),
        ("stride", stride),
        ("dilation", dilation),
    ] {
        if value == 0 {
            bail!("conv_lengths: {name} = 0; it must be at least 1")
        }
    }
    let reach = (kernel - 1).checked_mul(dilation);
    let both = padding.checked_mul(2);
    let behind = |(item, &length): (usize, &usize)| {
        let padded = both.and_then(|both| length.checked_add(both));
        match (padded, reach) {
            (Some(padded), Some(reach)) if padded > reach => Ok((padded - reach - 1) / stride + 1),
            (Some(_), Some(_)) => Ok(0),
            _ => bail!(
                "conv_lengths: lengths[{item}] = {length} with kernel = {kernel}, dilation = {dilation} and \
                 padding = {padding} is too large"
            ),
        }
    };
    lengths.iter().enumerate().map(behind).collect()
}
