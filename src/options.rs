//! What a caller can choose. No logic here.

/// How the losses of a batch become one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// One loss for each item: shape `(N)`, or `()` when the input has no batch dimension.
    None,
    /// Each loss divided by its target length (at least 1), then the mean over the batch.
    #[default]
    Mean,
    /// The sum over the batch.
    Sum,
}

/// Which gradient [`ctc_loss`](crate::ctc_loss) gives for `log_probs`.
///
/// Behind any log-softmax the two lead to the same gradient of the logits.
/// [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) has only one gradient,
/// `softmax − posterior`; this option does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GradientKind {
    /// The derivative of the loss: `−posterior`. It agrees with finite differences on
    /// `log_probs`, and it is 0 wherever the loss does not depend on the input.
    #[default]
    Exact,
    /// What PyTorch gives at `log_probs`: `exp(log_probs) − posterior`, which is the gradient of
    /// logits behind a log-softmax, and NaN where PyTorch has NaN (entries at −inf, and the
    /// frames of an item whose loss is +inf, unless `zero_infinity` is set).
    Torch,
}

/// The order of the dimensions of a batched input. It says nothing of strides: any view will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum InputLayout {
    /// `(T, N, C)`: frames, batch, classes. PyTorch's order.
    #[default]
    TimeMajor,
    /// `(N, T, C)`: batch, frames, classes. What most candle models emit.
    BatchMajor,
}

/// What the input of a function of inference holds.
///
/// The loss has a function for each: [`ctc_loss`](crate::ctc_loss) and
/// [`ctc_loss_with_logits`](crate::ctc_loss_with_logits).
///
/// ```
/// use candle_core::{D, Device, Tensor};
/// use candle_ctc::{BeamOptions, InputKind, beam_search};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::new(&[[1f64, 3., -2.], [2., 0., 5.]], &Device::Cpu)?; // (T, C)
/// let opts = BeamOptions { input: InputKind::Logits, ..Default::default() };
/// let from_logits = &beam_search(&logits, opts)?[0];
/// let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
/// let from_log_probs = &beam_search(&log_probs, BeamOptions::default())?[0];
/// assert_eq!(from_logits.tokens, from_log_probs.tokens);
/// assert!((from_logits.score - from_log_probs.score).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum InputKind {
    /// Natural logarithms of probabilities, as a log-softmax gives them, used as they are.
    ///
    /// # Sanity check
    ///
    /// Logits or probabilities passed by mistake would give absurd scores without an error.
    /// Therefore up to three frames of each item (the first, the middle and the last within its
    /// length) are checked. With `S` the sum of the exponentials of a frame's entries, the call
    /// fails
    ///
    /// - if `S` is above 2 in one of these frames (in f16 and bf16, above the larger bound that
    ///   rounding explains). A distribution has `S = 1`, and a star column beside it adds at most
    ///   1;
    /// - if `S` is below 0.1 in all of them although no class is masked (no entry is −50 or less).
    ///
    /// Masked classes, quantised or smoothed probabilities and averages of log-probabilities pass.
    /// Frames with NaN or +inf are left to other checks. Set `normalised: false` in the options to
    /// skip the check, for scores that are not normalised on purpose, such as log-probabilities
    /// minus a label prior.
    #[default]
    LogProbs,
    /// The output of a linear layer: the log-softmax over the classes is part of the function, and
    /// results are those for `log_softmax(input)`, to rounding. Log-probabilities are valid logits,
    /// since a log-softmax leaves them unchanged; probabilities are not. There is no sanity check
    /// of logits.
    Logits,
}

/// Where lengths and targets that are on a GPU are checked. Those on the host are always checked there,
/// and a bad one is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Checks {
    /// They are copied to the host, with one small copy, which waits for what the GPU still has to do.
    /// A bad length or label is an error.
    #[default]
    Host,
    /// They are checked on the GPU and nothing is read back. An item with a bad length or label (with
    /// concatenated targets whose lengths do not add up: every item) gets a loss and a gradient of NaN, and
    /// nothing outside the tensors is read or written. Memory is laid out for targets of S labels: give
    /// them padded, or the lengths on the host.
    Device,
}

/// The options of [`ctc_loss`](crate::ctc_loss), [`ctc_loss_with_logits`](crate::ctc_loss_with_logits)
/// and [`CtcLoss`](crate::CtcLoss). The defaults are PyTorch's.
///
/// ```
/// use candle_ctc::{CtcLossOptions, Reduction};
/// let opts = CtcLossOptions { reduction: Reduction::Sum, ..Default::default() };
/// assert_eq!((opts.blank, opts.zero_infinity), (0, false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtcLossOptions {
    /// The class that stands for "no label". Default 0.
    pub blank: usize,
    /// How the losses become one tensor. Default [`Reduction::Mean`].
    pub reduction: Reduction,
    /// Replace a loss of +inf, and its gradient, by 0. A NaN stays NaN. Default `false`.
    pub zero_infinity: bool,
    /// Which gradient `log_probs` gets. Default [`GradientKind::Exact`].
    pub gradient: GradientKind,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`].
    pub layout: InputLayout,
    /// Where lengths and targets that are on a GPU are checked. Default [`Checks::Host`].
    pub checks: Checks,
}

impl CtcLossOptions {
    /// The defaults with [`InputLayout::BatchMajor`].
    pub fn batch_major() -> Self {
        Self {
            layout: InputLayout::BatchMajor,
            ..Self::default()
        }
    }
}
