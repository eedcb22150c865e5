//! The options of the public functions. No logic here.

use candle_core::Tensor;

/// Reduction of the losses of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// One loss per item: shape `(N)`, or `()` if the input has no batch dimension.
    None,
    /// Each loss divided by its target length (at least 1), then the mean over the batch.
    #[default]
    Mean,
    /// The sum over the batch.
    Sum,
}

/// The gradient that [`ctc_loss`](crate::ctc_loss) returns for `log_probs`.
///
/// Through a log-softmax, both lead to the same gradient of the logits.
/// [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) has only one gradient, `softmax − posterior`; this option does
/// not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GradientKind {
    /// The derivative of the loss: `−posterior`. It agrees with finite differences on `log_probs`, and is 0 wherever
    /// the loss does not depend on the input.
    #[default]
    Exact,
    /// PyTorch's gradient of `log_probs`: `exp(log_probs) − posterior`, which is the gradient of the logits before a
    /// log-softmax, and NaN where PyTorch has NaN (entries at −inf, and the frames of an item whose loss is +inf,
    /// unless `zero_infinity` is set).
    Torch,
}

/// The order of the dimensions of a batched input. It is independent of strides: any view is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum InputLayout {
    /// `(T, N, C)`: frames, batch, classes. PyTorch's order.
    #[default]
    TimeMajor,
    /// `(N, T, C)`: batch, frames, classes. The order of most candle models.
    BatchMajor,
}

/// The kind of input of an inference function.
///
/// The loss has a function for each kind: [`ctc_loss`](crate::ctc_loss) and
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
    /// Natural logarithms of probabilities, normally from a log-softmax, used as they are.
    ///
    /// # Sanity check
    ///
    /// Logits or probabilities passed by mistake would give absurd scores without an error. Therefore up to three
    /// frames of each item (the first, the middle and the last within its length) are checked. With `S` the sum of the
    /// exponentials of a frame's entries, the call fails
    ///
    /// - if `S` is above 2 in one of these frames (in f16 and bf16, above a larger bound that allows for rounding). A
    ///   distribution has `S = 1`, and a star column beside it adds at most 1;
    /// - if `S` is below 0.1 in all of them although no class is masked (no entry is −50 or less).
    ///
    /// Masked classes, quantised or smoothed probabilities and averages of log-probabilities pass.
    /// Frames with NaN or +inf are left to other checks. Set `normalised: false` in the options to
    /// skip the check, for scores that are not normalised on purpose, such as log-probabilities
    /// minus a label prior.
    #[default]
    LogProbs,
    /// The output of a linear layer: the function includes the log-softmax over the classes, and results equal those
    /// for `log_softmax(input)` up to rounding. Log-probabilities are valid logits, since log-softmax leaves them
    /// unchanged; probabilities are not. Logits have no sanity check.
    Logits,
}

/// Where lengths and targets on a GPU are checked. Lengths on the host are always checked there. Labels on the host are,
/// too, unless their lengths stay on the GPU: then it is not known which of them are padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Checks {
    /// On the host, after one small copy that waits for the GPU's pending work. An invalid length or label is an error.
    #[default]
    Host,
    /// On the GPU of the input, without a copy to the host; tensors on another GPU are read and checked as if they were
    /// on the host. An item with an invalid length or label (with concatenated targets whose lengths do not add up:
    /// every item) gets a loss and a gradient of NaN, and no memory outside the tensors is accessed. Memory is laid out
    /// for S labels per item; with concatenated targets whose lengths are on the GPU, S is the number of all labels of
    /// the batch, so pass padded targets, or the lengths on the host.
    Device,
}

/// The options of the loss functions, such as [`ctc_loss`](crate::ctc_loss), and of [`CtcLoss`](crate::CtcLoss). The
/// defaults are PyTorch's.
///
/// ```
/// use candle_ctc::{CtcLossOptions, Reduction};
/// let opts = CtcLossOptions { reduction: Reduction::Sum, ..Default::default() };
/// assert_eq!((opts.blank, opts.zero_infinity), (0, false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtcLossOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// Reduction of the losses. Default [`Reduction::Mean`].
    pub reduction: Reduction,
    /// Replaces a loss of +inf, and its gradient, by 0. A NaN stays NaN. Default `false`. The test for +inf is made
    /// item by item, before the mean's weights, in the dtype in which the loss is returned (f32 for f32 and
    /// half-precision input); a sum of finite losses that overflows stays +inf.
    pub zero_infinity: bool,
    /// The gradient of `log_probs`. Default [`GradientKind::Exact`].
    pub gradient: GradientKind,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`].
    pub layout: InputLayout,
    /// Where lengths and targets on a GPU are checked. Default [`Checks::Host`].
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

/// What a loss adds to log-probabilities before it sums over paths: see [`CtcLoss::emissions`](crate::CtcLoss::emissions).
/// The defaults add nothing. [`ctc_loss_and_gradient`](crate::ctc_loss_and_gradient) and
/// [`ctc_loss_and_gradient_with_logits`](crate::ctc_loss_and_gradient_with_logits) do not take them.
///
/// In frame `t`, counted from 0, the blank counts as `log p(blank) + class_weights[blank] + blank_weight`, and
/// a label `k` as `log p(k) + class_weights[k] − delay_penalty · t`. All are in nats. For logits, `log p` is their
/// log-softmax, but the weights are added to the logits: if these are near 1e6, the weights lose the digits that such
/// logits cannot hold.
#[derive(Debug, Clone, Default)]
pub struct EmissionOptions {
    /// `(C)`, a float dtype, on the device of the input: a number for each class, such as
    /// [`LabelPrior::class_weights`](crate::LabelPrior::class_weights). They count as constants: no gradient flows to
    /// them. Default `None`. Numbers that are not finite are an error on the CPU; on a GPU they are not read, and make
    /// the loss NaN or meaningless.
    pub class_weights: Option<Tensor>,
    /// Added to the log-probability of the blank. Below 0, labels take more frames. Default 0.
    #[doc(alias = "blank penalty")]
    pub blank_weight: f64,
    /// This times the frame's number is subtracted from a label's log-probability there. Above 0, a model learns to
    /// emit labels early, and few frames of each, which lowers the latency of streaming. A label at the end of an item
    /// costs this times `T_n`: if that is more than a few nats, late labels are hard to learn. Default 0.
    pub delay_penalty: f64,
}

/// The emission, in nats, of audio that a transcript leaves out. It competes with log-probabilities; for logits,
/// with those after the log-softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Wildcard {
    /// The same log-probability at every frame.
    Constant(f32),
    /// The log-probability of the best label of the frame, that is, of the most probable class but the blank and the
    /// star, less a penalty. There must be such a class. A frame goes to the wildcard when its own label is more than
    /// `penalty` nats less probable than the best label. Blank frames do not, because the blank is not compared and all
    /// labels are improbable there.
    Largest {
        /// In nats.
        penalty: f32,
    },
    /// The logarithm of the mean probability of all classes but the blank and the star, less a penalty.
    Mean {
        /// In nats.
        penalty: f32,
    },
}
