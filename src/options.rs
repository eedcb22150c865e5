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
