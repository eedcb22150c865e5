//! The confidence of a model in each token of a transcript, and the position of the token.

use crate::cpu::{self, Occupancy};
use crate::cpu_input::{on_host, with_entries};
use crate::distribution::check_normalised;
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use crate::score::ScoreOptions;
use candle_core::{Device, Result, Tensor};

/// Statistics of one token of a transcript.
///
/// With `γ_t` the probability that a path which reads as the transcript is in this token at frame t (the posterior of
/// its state, from alpha and beta), and `p_t` the model's probability of its label:
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenConfidence {
    /// The label.
    pub token: u32,
    /// The largest `γ_t`, in [0, 1]: the confidence in the position of the token, given the transcript.
    pub posterior: f64,
    /// `Σ γ_t p_t / Σ γ_t`: the model's probability of the label, averaged over the frames of the token. In [0, 1] for
    /// normalised log-probabilities; with `normalised: false` it may be above 1, and it is +inf if an entry above 709
    /// has a posterior. Low if the audio does not support the token.
    pub probability: f64,
    /// `Σ t γ_t / Σ γ_t`: the expected frame of the token, counted from 0.
    pub expected_frame: f64,
    /// `Σ γ_t`: the expected number of frames of the token.
    pub expected_frames: f64,
}

/// The confidence of each token of each target.
///
/// # Arguments
///
/// Those of [`ctc_loss`](crate::ctc_loss), with [`ScoreOptions`]; `per_token` and `softmax` are ignored. A tensor on a
/// GPU is copied to the host first.
///
/// # Returns
///
/// For each item, one [`TokenConfidence`] per label of its target. If the target does not fit into its frames, or has
/// probability 0, all fields but `token` are 0; if an entry that it uses is NaN, they are NaN. The call takes the
/// memory of a training step.
///
/// # Errors
///
/// As for [`ctc_loss`](crate::ctc_loss), but `T` and `N` may be 0; and if the input cannot be log-probabilities (see
/// [`InputKind::LogProbs`](crate::InputKind::LogProbs)).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ScoreOptions, token_confidence};
///
/// # fn main() -> candle_core::Result<()> {
/// let p = [[0.8f64, 0.2], [0.1, 0.9], [0.8, 0.2]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// let token = token_confidence(&log_probs, &targets, 3, 1, ScoreOptions::default())?[0][0];
/// assert!((token.expected_frame - 1.0).abs() < 1e-9);
/// assert!(token.posterior > 0.9 && token.probability > 0.6);
/// # Ok(())
/// # }
/// ```
pub fn token_confidence(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: ScoreOptions,
) -> Result<Vec<Vec<TokenConfidence>>> {
    let call = opts.call("token_confidence");
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    confidences_of(&call, &plan, log_probs)
}

fn confidences_of(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
) -> Result<Vec<Vec<TokenConfidence>>> {
    check_normalised(call, plan, log_probs, 0)?;
    let host = on_host(log_probs)?;
    with_entries!(host, |data, layout| {
        let items = cpu::occupancy(plan, data, plan.input.strides(layout))?;
        let items = items.iter().enumerate();
        items
            .map(|(n, item)| confidences(plan.target(n), item))
            .collect()
    })
}

fn confidences(target: &[u32], item: &Occupancy) -> Vec<TokenConfidence> {
    let nothing = if item.log_p.is_nan() { f64::NAN } else { 0.0 };
    let mut tokens: Vec<TokenConfidence> = target
        .iter()
        .map(|&token| TokenConfidence {
            token,
            posterior: nothing,
            probability: nothing,
            expected_frame: nothing,
            expected_frames: nothing,
        })
        .collect();
    for (token, frames) in tokens.iter_mut().zip(&item.tokens) {
        token.posterior = frames.largest;
        token.probability = frames.times_probability / frames.sum;
        token.expected_frame = frames.times_frame / frames.sum;
        token.expected_frames = frames.sum;
    }
    tokens
}

/// The posterior of every state at every frame, given the target.
///
/// The states of an item are blank, l1, blank, l2, …, blank: state 2i + 1 is label i (counted from
/// 0), state 2i the blank before it. Each row sums to 1.
///
/// Arguments and errors are those of [`token_confidence`].
///
/// # Returns
///
/// For each item a tensor `(T_n, 2 U_n + 1)` on the CPU, f64 for f64 and f32 for all other dtypes. All zero if the
/// target does not fit into its frames or has probability 0, all NaN if an entry that it uses is NaN. Besides the
/// result, the call takes the memory of a training step.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ScoreOptions, state_posteriors};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?;
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// let states = &state_posteriors(&log_probs, &targets, 2, 1, ScoreOptions::default())?[0];
/// // Of the paths (1, 1), (blank, 1) and (1, blank), the second starts in the first blank.
/// let first = states.to_vec2::<f64>()?[0][0];
/// assert!((first - 0.6 * 0.5 / 0.7).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn state_posteriors(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: ScoreOptions,
) -> Result<Vec<Tensor>> {
    let call = opts.call("state_posteriors");
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    states_of(&call, &plan, log_probs)
}

fn states_of(call: &Call, plan: &Plan, log_probs: &Tensor) -> Result<Vec<Tensor>> {
    check_normalised(call, plan, log_probs, 0)?;
    let host = on_host(log_probs)?;
    with_entries!(host, |data, layout| {
        let items = cpu::state_posteriors(plan, data, plan.input.strides(layout))?;
        let tensors = items.into_iter().enumerate().map(|(n, posterior)| {
            let shape = (plan.input_lengths[n], 2 * plan.target_length(n) + 1);
            Tensor::from_vec(posterior, shape, &Device::Cpu)
        });
        tensors.collect::<Result<_>>()
    })?
}
