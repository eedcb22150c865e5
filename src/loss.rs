//! The loss functions.

#[cfg(doc)]
use crate::ctc_loss_linear;
use crate::linear;
use crate::op;
use crate::options::{CtcLossOptions, EmissionOptions};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::InputKind;
use crate::problem::validate;
use crate::problem::weights::EmissionWeights;
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

/// The Connectionist Temporal Classification loss of log-probabilities.
///
/// For each item the loss is `−log P(target)`, with the probability summed over all alignments of the target with the
/// frames (Graves et al. 2006, <https://doi.org/10.1145/1143844.1143891>). It is differentiable in `log_probs`; see
/// [`GradientKind`](crate::GradientKind).
///
/// With `T` frames, `N` items, `C` classes (including the blank) and `S` labels in the longest target:
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)` for one item. Natural
///   logarithms, normally from a log-softmax. f32, f64, f16 or bf16; any strides.
/// * `targets` - `(N, S)` padded, of which the first `target_lengths[n]` entries of row `n` are read, or the labels of
///   all items concatenated in one dimension. u8, u32, i16, i32 or i64; on any device.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `target_lengths` - labels of each item.
/// * `opts` - see [`CtcLossOptions`].
///
/// # Returns
///
/// A scalar, or with [`Reduction::None`](crate::Reduction::None) a tensor `(N)` (a scalar for input `(T, C)`), in nats;
/// f64 for f64 and f32 for all other dtypes. The gradient has the dtype of `log_probs`.
///
/// A target that does not fit into its frames has probability 0: its loss is +inf and its gradient 0. A NaN or +inf at
/// the blank or at a label of the target, in a used frame, gives NaN. An entry more than 1.49e9 below the largest entry
/// that the target uses in its frame counts as −inf.
///
/// The entries are used as they are. Passing logits or probabilities gives a wrong loss without an error; a negative
/// loss is a sign of that, where there is neither [a star](crate::append_star) nor [a weight](CtcLoss::emissions). If
/// `log_probs` leads back to no variable, the loss has no gradient and `backward` succeeds without training anything:
/// [`CtcLoss::require_grad`] makes that an error.
///
/// # Errors
///
/// If shapes, dtypes, lengths, labels or the blank do not fit together; the message names the item and the numbers. Also
/// if `T` or `N` is 0, if the lattice or the gradient does not fit into memory, and on Metal for f64. With
/// [`Checks::Device`](crate::Checks::Device), an item with an invalid length or label that stays on the GPU has a loss
/// and a gradient of NaN instead.
///
/// `backward` fails if it reads the input again, as it does for logits and for
/// [`GradientKind::Torch`](crate::GradientKind::Torch), and a variable that was the input has been set in between, by an
/// optimiser or by [`Var::set`](candle_core::Var::set). Eight entries are compared, so a change of a few others goes
/// unnoticed; on a GPU none are.
///
/// # Examples
///
/// The three examples of PyTorch's `CTCLoss` page. Padded targets:
///
/// ```
/// use candle_core::{D, Device, Tensor, Var};
/// use candle_ctc::{CtcLossOptions, ctc_loss};
///
/// # fn main() -> candle_core::Result<()> {
/// let (t, n, c, s) = (50, 16, 20, 30);
/// let device = Device::Cpu;
/// let logits = Var::randn(0f32, 1., (t, n, c), &device)?;
/// let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
/// // Labels are 1..C: class 0 is the blank.
/// let targets = Tensor::rand(1f32, c as f32, (n, s), &device)?.to_dtype(candle_core::DType::U32)?;
/// let input_lengths = vec![t; n];
/// let target_lengths: Vec<usize> = (0..n).map(|i| 10 + i).collect();
/// let loss = ctc_loss(&log_probs, &targets, &input_lengths, &target_lengths, CtcLossOptions::default())?;
/// let grads = loss.backward()?;
/// assert_eq!(grads.get(&logits).unwrap().dims(), [t, n, c]);
/// # Ok(())
/// # }
/// ```
///
/// Concatenated targets:
///
/// ```
/// # use candle_core::{D, Device, Tensor, Var};
/// # use candle_ctc::{CtcLossOptions, ctc_loss};
/// # fn main() -> candle_core::Result<()> {
/// # let (t, n, c) = (50, 16, 20);
/// # let device = Device::Cpu;
/// # let logits = Var::randn(0f32, 1., (t, n, c), &device)?;
/// # let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
/// let target_lengths: Vec<u32> = (0..n as u32).map(|i| 1 + i).collect();
/// let total: u32 = target_lengths.iter().sum();
/// let targets: Vec<u32> = (0..total).map(|i| 1 + i * 7 % 19).collect();
/// let targets = Tensor::new(targets, &device)?;
/// let loss = ctc_loss(&log_probs, &targets, vec![t; n], target_lengths, CtcLossOptions::default())?;
/// assert_eq!(loss.rank(), 0);
/// # loss.backward()?;
/// # Ok(())
/// # }
/// ```
///
/// One item, without a batch dimension:
///
/// ```
/// # use candle_core::{D, Device, Tensor, Var};
/// # use candle_ctc::{CtcLossOptions, ctc_loss};
/// # fn main() -> candle_core::Result<()> {
/// # let (t, c) = (50, 20);
/// # let device = Device::Cpu;
/// # let logits = Var::randn(0f32, 1., (t, c), &device)?;
/// let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?; // (T, C)
/// let targets = Tensor::new(&[3i64, 3, 7, 1, 19], &device)?;
/// let loss = ctc_loss(&log_probs, &targets, t, 5, CtcLossOptions::default())?;
/// assert!(loss.to_scalar::<f32>()? > 0.);
/// # loss.backward()?;
/// # Ok(())
/// # }
/// ```
///
/// [`InputLayout::BatchMajor`]: crate::InputLayout::BatchMajor
#[doc(alias = "CTCLoss")]
pub fn ctc_loss(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<Tensor> {
    let plain = EmissionOptions::default();
    let lengths = (input_lengths, target_lengths);
    loss(
        InputKind::LogProbs,
        log_probs,
        targets,
        lengths,
        opts,
        &plain,
    )
}

/// The Connectionist Temporal Classification loss of logits: [`ctc_loss`] of their log-softmax over the classes, as one
/// operation.
///
/// No tensor of log-probabilities is created: the input is read twice and its gradient, `softmax − posterior`, is
/// written once. Prefer this function for training.
///
/// Arguments, result and errors are those of [`ctc_loss`], with `logits` in place of `log_probs`. A NaN or +inf
/// anywhere in a used frame gives NaN; −inf masks a class. Log-probabilities are valid logits, since log-softmax leaves
/// them unchanged; probabilities are not.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_ctc::{CtcLossOptions, InputLayout, ctc_loss_with_logits};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Var::randn(0f32, 1., (2, 9, 5), &Device::Cpu)?; // (N, T, C)
/// let targets = Tensor::new(&[[1u32, 2, 2], [4, 0, 0]], &Device::Cpu)?;
/// let opts = CtcLossOptions { layout: InputLayout::BatchMajor, ..Default::default() };
/// let loss = ctc_loss_with_logits(&logits, &targets, [9, 7], [3, 1], opts)?;
/// let grads = loss.backward()?;
/// assert_eq!(grads.get(&logits).unwrap().dims(), [2, 9, 5]);
/// # Ok(())
/// # }
/// ```
pub fn ctc_loss_with_logits(
    logits: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<Tensor> {
    let plain = EmissionOptions::default();
    let lengths = (input_lengths, target_lengths);
    loss(InputKind::Logits, logits, targets, lengths, opts, &plain)
}

/// [`ctc_loss`] or [`ctc_loss_with_logits`], with weights of the emissions.
fn loss(
    kind: InputKind,
    input: &Tensor,
    targets: &Tensor,
    (input_lengths, target_lengths): (impl IntoLengths, impl IntoLengths),
    opts: CtcLossOptions,
    emissions: &EmissionOptions,
) -> Result<Tensor> {
    let function = match kind {
        InputKind::LogProbs => "ctc_loss",
        InputKind::Logits => "ctc_loss_with_logits",
    };
    let mut problem = validate::loss(
        function,
        kind,
        input,
        targets,
        input_lengths,
        target_lengths,
        opts,
    )?;
    problem.weights = EmissionWeights::new(emissions, input, problem.input())?;
    op::loss(input, Arc::new(problem))
}

/// [`ctc_loss`] and its gradient with respect to `log_probs`, computed together and without a graph.
///
/// For callers with their own backward pass. It avoids the overhead that candle adds to each gradient: a tensor of
/// zeros and an addition to it, which take half the time of a step on a GPU if there are many classes.
///
/// Arguments and errors are those of [`ctc_loss`].
///
/// # Returns
///
/// The loss, as returned by [`ctc_loss`], and a gradient of the shape and dtype of `log_probs`. For losses that are not
/// reduced, it is the gradient of their sum: each item's own. Neither is tracked, and `log_probs` need not be.
///
/// candle's `backward` starts from a loss. To continue from this gradient, use the product of the two tensors as the
/// loss, `(&log_probs * &gradient)?.sum_all()?.backward()?`; in a training loop, `ctc_loss(…)?.backward()?` is shorter
/// and faster.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{CtcLossOptions, ctc_loss_and_gradient};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?; // (T, C)
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// let (loss, gradient) = ctc_loss_and_gradient(&log_probs, &targets, 2, 1, CtcLossOptions::default())?;
/// assert!((loss.to_scalar::<f64>()? + 0.7f64.ln()).abs() < 1e-12);
/// assert_eq!(gradient.dims(), [2, 2]);
/// # Ok(())
/// # }
/// ```
pub fn ctc_loss_and_gradient(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<(Tensor, Tensor)> {
    let kind = InputKind::LogProbs;
    let problem = validate::loss(
        "ctc_loss_and_gradient",
        kind,
        log_probs,
        targets,
        input_lengths,
        target_lengths,
        opts,
    )?;
    op::loss_and_gradient(log_probs, Arc::new(problem))
}

/// [`ctc_loss_with_logits`] and its gradient with respect to `logits`, computed together and without a graph: see
/// [`ctc_loss_and_gradient`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{CtcLossOptions, ctc_loss_and_gradient_with_logits};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::randn(0f32, 1., (9, 2, 5), &Device::Cpu)?; // (T, N, C)
/// let targets = Tensor::new(&[[1u32, 2, 2], [4, 0, 0]], &Device::Cpu)?;
/// let opts = CtcLossOptions::default();
/// let (loss, gradient) = ctc_loss_and_gradient_with_logits(&logits, &targets, [9, 7], [3, 1], opts)?;
/// assert_eq!((loss.rank(), gradient.dims()), (0, logits.dims()));
/// # Ok(())
/// # }
/// ```
pub fn ctc_loss_and_gradient_with_logits(
    logits: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<(Tensor, Tensor)> {
    let kind = InputKind::Logits;
    let problem = validate::loss(
        "ctc_loss_and_gradient_with_logits",
        kind,
        logits,
        targets,
        input_lengths,
        target_lengths,
        opts,
    )?;
    op::loss_and_gradient(logits, Arc::new(problem))
}

/// [`ctc_loss`] with stored options, for a training loop.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{CtcLoss, CtcLossOptions, Reduction};
///
/// # fn main() -> candle_core::Result<()> {
/// let criterion = CtcLoss::new(CtcLossOptions { reduction: Reduction::Sum, ..Default::default() });
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?; // (T, C)
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// let loss = criterion.forward(&log_probs, &targets, 2, 1)?.to_scalar::<f64>()?;
/// // The alignments are (1, 1), (blank, 1) and (1, blank).
/// let probability: f64 = 0.4 * 0.5 + 0.6 * 0.5 + 0.4 * 0.5;
/// assert!((loss + probability.ln()).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[doc(alias = "CTCLoss")]
pub struct CtcLoss {
    opts: CtcLossOptions,
    emissions: EmissionOptions,
    require_grad: bool,
}

impl CtcLoss {
    /// Creates the loss with these options.
    pub fn new(opts: CtcLossOptions) -> Self {
        Self {
            opts,
            ..Self::default()
        }
    }

    /// Makes an input that leads back to no variable an error. Default `false`.
    ///
    /// The loss of such an input has no gradient: `backward` succeeds, and nothing is trained. That happens if the model
    /// was built without a `VarMap`, if its output was detached, or if an operation of candle that has no gradient lies
    /// between.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_ctc::{CtcLoss, CtcLossOptions};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let criterion = CtcLoss::new(CtcLossOptions::default()).require_grad(true);
    /// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?;
    /// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
    /// let error = criterion.forward(&log_probs, &targets, 2, 1).unwrap_err();
    /// assert!(error.to_string().contains("no variable"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the loss itself is not changed"]
    pub fn require_grad(self, require_grad: bool) -> Self {
        Self {
            require_grad,
            ..self
        }
    }

    /// Adds weights to the log-probabilities: of classes, such as a label prior, of the blank, or of labels that come
    /// late. Default: none.
    ///
    /// The loss is `−log Σ` over the paths of `exp` of the sum of a path's weighted emissions, and its gradients are
    /// exact on every backend. With [`GradientKind::Torch`](crate::GradientKind::Torch) the gradient of `log_probs` is
    /// `exp(log_probs) − posterior`: the weights change the posteriors only. With weights the loss is no longer the
    /// logarithm of a probability, and may be negative. No tensor of weighted log-probabilities is made. Use the
    /// weights in training alone: alignment, scoring and decoding take the plain log-probabilities.
    ///
    /// # Errors
    /// The `forward` methods fail if `class_weights` do not have the shape `(C)`, a float dtype and the device of the
    /// input, or if a weight is not finite in f32 (f64 for f64 input); class weights on a GPU are not read.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_ctc::{CtcLoss, CtcLossOptions, EmissionOptions};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let emissions = EmissionOptions { blank_weight: -0.5, ..Default::default() };
    /// let criterion = CtcLoss::new(CtcLossOptions::default()).emissions(emissions);
    /// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?; // (T, C)
    /// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
    /// let loss = criterion.forward(&log_probs, &targets, 2, 1)?.to_scalar::<f64>()?;
    /// // The alignments are (1, 1), (blank, 1) and (1, blank).
    /// let weight = (-0.5f64).exp();
    /// let sum = 0.4 * 0.5 + 0.6 * weight * 0.5 + 0.4 * 0.5 * weight;
    /// assert!((loss + sum.ln()).abs() < 1e-12);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the loss itself is not changed"]
    pub fn emissions(self, emissions: EmissionOptions) -> Self {
        Self { emissions, ..self }
    }

    /// The options.
    pub fn options(&self) -> CtcLossOptions {
        self.opts
    }

    /// [`ctc_loss`] with these options.
    ///
    /// # Errors
    /// As [`ctc_loss`] and [`Self::emissions`], and with [`Self::require_grad`] for an input that leads back to no
    /// variable.
    pub fn forward(
        &self,
        log_probs: &Tensor,
        targets: &Tensor,
        input_lengths: impl IntoLengths,
        target_lengths: impl IntoLengths,
    ) -> Result<Tensor> {
        self.check_grad("log_probs", log_probs)?;
        let (kind, lengths) = (InputKind::LogProbs, (input_lengths, target_lengths));
        loss(
            kind,
            log_probs,
            targets,
            lengths,
            self.opts,
            &self.emissions,
        )
    }

    /// [`ctc_loss_with_logits`] with these options.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_logits(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        input_lengths: impl IntoLengths,
        target_lengths: impl IntoLengths,
    ) -> Result<Tensor> {
        self.check_grad("logits", logits)?;
        let (kind, lengths) = (InputKind::Logits, (input_lengths, target_lengths));
        loss(kind, logits, targets, lengths, self.opts, &self.emissions)
    }

    /// [`ctc_loss_linear`] with these options.
    ///
    /// # Errors
    /// As [`ctc_loss_linear`] and [`Self::emissions`], and with [`Self::require_grad`] if neither `hidden` nor `weight`
    /// nor `bias` leads back to a variable.
    pub fn forward_linear(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        targets: &Tensor,
        input_lengths: impl IntoLengths,
        target_lengths: impl IntoLengths,
    ) -> Result<Tensor> {
        if !weight.track_op() && !bias.is_some_and(Tensor::track_op) {
            self.check_grad("hidden, weight and bias", hidden)?;
        }
        linear::loss(
            (hidden, weight, bias),
            targets,
            input_lengths,
            target_lengths,
            self.opts,
            &self.emissions,
        )
    }

    fn check_grad(&self, name: &str, input: &Tensor) -> Result<()> {
        if self.require_grad && !input.track_op() {
            bail!(
                "CtcLoss: {name} lead back to no variable, so the loss has no gradient; build the model from a \
                 VarMap, and do not detach its output"
            )
        }
        Ok(())
    }
}
