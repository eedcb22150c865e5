//! The label prior: how often a model gives each class. Its logarithm is subtracted from log-probabilities in training.

use crate::cpu_input::on_host;
use crate::distribution::check_normalised;
use crate::memory::check_cpu_room;
use crate::options::{InputKind, InputLayout};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::real;
use crate::problem::validate::{self, Call};
use candle_core::{DType, Result, Tensor, bail};

const OBSERVE: &str = "LabelPrior::observe";

/// An estimate of how often a model gives each class, for a loss that takes `log p(class) − scale · log prior(class)`.
///
/// A model that is trained with CTC alone gives the blank nearly all frames, and each label one: its outputs are *peaky*,
/// and words come out shorter than they are. The blank's prior is the largest, so subtracting it leaves labels more
/// frames, which makes the times of alignments more exact (Huang et al. 2024, <https://arxiv.org/abs/2406.02560>).
///
/// [`class_weights`](Self::class_weights) subtract it in the loss; see [`EmissionOptions`](crate::EmissionOptions).
/// Alignment and decoding need no prior.
///
/// ```
/// use candle_core::{D, Device, Tensor, Var};
/// use candle_ctc::{CtcLoss, CtcLossOptions, EmissionOptions, InputLayout, LabelPrior};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Var::randn(0f32, 1., (9, 2, 5), &Device::Cpu)?; // (T, N, C)
/// let targets = Tensor::new(&[[1u32, 2, 2], [4, 0, 0]], &Device::Cpu)?;
/// let mut prior = LabelPrior::new();
/// for epoch in 0..2 {
///     // For each batch:
///     let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
///     prior.observe(&log_probs, [9, 7], InputLayout::TimeMajor)?;
///     let emissions = EmissionOptions { class_weights: prior.class_weights(0.3)?, ..Default::default() };
///     let criterion = CtcLoss::new(CtcLossOptions::default()).emissions(emissions);
///     let loss = criterion.forward(&log_probs, &targets, [9, 7], [3, 1])?;
///     # loss.backward()?;
///     // After the last batch:
///     prior.next_epoch();
/// }
/// assert_eq!(prior.log_prior()?.unwrap().dims(), [5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct LabelPrior {
    /// The estimate in use.
    previous: Option<Sums>,
    /// What was observed since.
    current: Option<Sums>,
}

/// The sum of the probabilities of each class over frames.
#[derive(Debug, Clone)]
struct Sums {
    /// (C), f32, or f64 for f64.
    probabilities: Tensor,
    frames: usize,
}

impl LabelPrior {
    /// No estimate: until the first [`next_epoch`](Self::next_epoch), log-probabilities stay as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds up the probabilities of a batch, on its device. An item with NaN or +inf is left out. Only a sum and up to
    /// three rows of each item are copied to the host, the rows for the check that [`InputKind::LogProbs`] documents.
    ///
    /// # Arguments
    ///
    /// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)`: log-probabilities. f32,
    ///   f64, f16 or bf16.
    /// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
    /// * `layout` - the order of dimensions of a batched input.
    ///
    /// # Errors
    ///
    /// If shapes, dtypes or lengths do not fit together, if the input cannot be log-probabilities, or if earlier
    /// batches had another number of classes, were on another device, or were f64 and this one is not, or the reverse.
    /// The prior then stays as it was.
    pub fn observe(
        &mut self,
        log_probs: &Tensor,
        input_lengths: impl IntoLengths,
        layout: InputLayout,
    ) -> Result<()> {
        let call = Call::new(OBSERVE, InputKind::LogProbs, true, 0, layout);
        let plan = validate::plan_for_decoding(call, log_probs, input_lengths)?;
        let log_probs = log_probs.detach();
        check_normalised(&call, &plan, &log_probs, 0)?;
        if let Some(so_far) = self.current.as_ref().or(self.previous.as_ref()) {
            check_like(&so_far.probabilities, &log_probs)?;
        }
        // Kept only if all items succeed, so that an error leaves the prior as it was.
        let mut current = self.current.clone();
        for (item, &frames) in plan.input_lengths.iter().enumerate() {
            if frames == 0 {
                continue;
            }
            let log_probs = match plan.input.layout {
                None => log_probs.clone(),
                Some(InputLayout::TimeMajor) => log_probs.get_on_dim(1, item)?,
                // `get` would copy a view.
                Some(InputLayout::BatchMajor) => log_probs.get_on_dim(0, item)?,
            };
            let what = format!("{OBSERVE}: the probabilities of item {item}");
            let shape = [frames, plan.input.classes];
            check_cpu_room(&log_probs, &what, 2, &shape)?;
            let probabilities = log_probs
                .narrow(0, 0, frames)?
                .to_dtype(real(log_probs.dtype()))?
                .exp()?;
            // A product is faster than candle's sum over the first dimension.
            let ones = Tensor::ones((1, frames), probabilities.dtype(), probabilities.device())?;
            let sum = ones.matmul(&probabilities.contiguous()?)?.squeeze(0)?;
            let total = on_host(&sum.sum_all()?)?.to_dtype(DType::F64)?;
            if !total.to_scalar::<f64>()?.is_finite() {
                continue;
            }
            let (sum, so_far) = match &current {
                None => (sum, 0),
                Some(so_far) => ((&so_far.probabilities + sum)?, so_far.frames),
            };
            current = Some(Sums {
                probabilities: sum,
                frames: so_far + frames,
            });
        }
        self.current = current;
        Ok(())
    }

    /// Takes what was observed since the last call as the estimate from now on. Without any, the estimate stays.
    pub fn next_epoch(&mut self) {
        if let Some(current) = self.current.take() {
            self.previous = Some(current);
        }
    }

    /// The logarithm of the estimate in use, `(C)`, or `None` before the first. It is smoothed by one frame that is spread
    /// evenly over the classes, so that no class has a prior of 0.
    ///
    /// # Errors
    ///
    /// Errors of the device.
    pub fn log_prior(&self) -> Result<Option<Tensor>> {
        let log_prior = |sums: &Sums| {
            let even = 1.0 / sums.probabilities.elem_count() as f64;
            let total = 1.0 / (sums.frames + 1) as f64;
            sums.probabilities.affine(total, even * total)?.log()
        };
        self.previous.as_ref().map(log_prior).transpose()
    }

    /// `−scale · log_prior`, `(C)`, for [`EmissionOptions`](crate::EmissionOptions); `None` before the first estimate.
    ///
    /// # Errors
    ///
    /// If `scale` is NaN or infinite.
    pub fn class_weights(&self, scale: f64) -> Result<Option<Tensor>> {
        if !scale.is_finite() {
            bail!("LabelPrior::class_weights: scale is {scale}; expected a number, such as 0.3")
        }
        let log_prior = self.log_prior()?;
        log_prior.map(|log_prior| log_prior * -scale).transpose()
    }
}

/// Whether log-probabilities have the classes and the device of what was observed before.
fn check_like(observed: &Tensor, log_probs: &Tensor) -> Result<()> {
    let (before, now) = (observed.dims()[0], log_probs.dims().last().copied());
    if now != Some(before) {
        bail!(
            "{OBSERVE}: log_probs have shape {:?}, but those observed before had C = {before} classes",
            log_probs.dims()
        )
    }
    if (observed.dtype() == DType::F64) != (log_probs.dtype() == DType::F64) {
        bail!(
            "{OBSERVE}: log_probs are {:?}, but those observed before were summed in {:?}; convert them with to_dtype",
            log_probs.dtype(),
            observed.dtype()
        )
    }
    if !observed.device().same_device(log_probs.device()) {
        bail!(
            "{OBSERVE}: log_probs are on {:?}, but those observed before were on {:?}; move them with to_device",
            log_probs.device().location(),
            observed.device().location()
        )
    }
    Ok(())
}
