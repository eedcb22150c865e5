//! The confidence of a model in each token of a transcript, and the position of the token.

use crate::cpu::{self, Occupancy};
use crate::cpu_input::{used_classes_on_host, with_entries};
use crate::distribution::check_normalised;
use crate::options::{InputKind, InputLayout};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use candle_core::{Device, Result, Tensor};

/// Statistics of one token of a transcript.
///
/// With `γ_t` the probability that a path which reads as the transcript is in this token at frame t (the posterior of
/// its state, from alpha and beta), and `p_t` the model's probability of its label:
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
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

/// The confidence in a word, from those of its tokens.
///
/// One wrong letter makes a wrong word: `least` shows it, where a mean over many letters may hide it. `mean` is
/// smoother, and better as a weight or for a threshold over whole utterances. To tell right words from wrong ones,
/// measure both: in `examples/speech` of the repository `mean` does so slightly better.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WordConfidence {
    /// The labels of the word.
    pub tokens: Vec<u32>,
    /// The smallest [`TokenConfidence::probability`] of its tokens.
    pub least: f64,
    /// The geometric mean of those probabilities.
    pub mean: f64,
    /// The smallest [`TokenConfidence::posterior`]: the confidence in the position of the word.
    pub posterior: f64,
    /// The expected start, in frames: the middle of the first token's expected frame, less half of the token's expected
    /// number of frames. 0 for a target that does not fit.
    pub start: f64,
    /// The expected end, in frames: the middle of the last token's expected frame, plus half of the token's expected
    /// number of frames. 0 for a target that does not fit.
    pub end: f64,
}

impl WordConfidence {
    /// The confidence in these tokens as one word; `None` without tokens. NaN where a token has NaN.
    pub fn of(tokens: &[TokenConfidence]) -> Option<Self> {
        let (first, last) = (tokens.first()?, tokens.last()?);
        let least = |of: fn(&TokenConfidence) -> f64| {
            // NaN must stay, which f64::min would pass over.
            let smaller = |least: f64, x: f64| {
                if least.is_nan() || x >= least {
                    least
                } else {
                    x
                }
            };
            tokens.iter().map(of).fold(f64::INFINITY, smaller)
        };
        // A token of an impossible target has no place: all its fields are 0.
        let edge = |token: &TokenConfidence, side: f64| match token.expected_frames {
            0.0 => 0.0,
            frames => token.expected_frame + 0.5 + side * frames / 2.0,
        };
        let logs: f64 = tokens.iter().map(|token| token.probability.ln()).sum();
        Some(Self {
            tokens: tokens.iter().map(|token| token.token).collect(),
            least: least(|token| token.probability),
            mean: (logs / tokens.len() as f64).exp(),
            posterior: least(|token| token.posterior),
            start: edge(first, -1.0),
            end: edge(last, 1.0),
        })
    }

    /// Start and end in seconds, for frames `hop` seconds apart.
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start * hop, self.end * hop)
    }
}

/// The confidence in each word: consecutive tokens between `separator` tokens. Separators belong to no word, and empty
/// words are left out.
///
/// For a vocabulary that marks words otherwise, see [`text::Word::confidence`](crate::text::Word::confidence).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ConfidenceOptions, token_confidence, word_confidence};
///
/// # fn main() -> candle_core::Result<()> {
/// // Class 0 is the blank, class 3 the space between words.
/// let p = [[0.1f32, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.5, 0.3], [0.9, 0.03, 0.03, 0.04]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let tokens = token_confidence(&log_probs, &[1, 3, 2], ConfidenceOptions::default())?;
/// let words = word_confidence(&tokens, 3);
/// assert_eq!((words.len(), words[1].tokens.as_slice()), (2, &[2][..]));
/// assert!(words[0].least > 0.6 && words[1].least < 0.6);
/// # Ok(())
/// # }
/// ```
pub fn word_confidence(tokens: &[TokenConfidence], separator: u32) -> Vec<WordConfidence> {
    let words = tokens.split(|token| token.token == separator);
    words.filter_map(WordConfidence::of).collect()
}

/// The options of [`token_confidence`], [`state_posteriors`], [`frame_confidence`](crate::frame_confidence) and their
/// forms for batches.
///
/// ```
/// use candle_ctc::{ConfidenceOptions, InputKind};
/// let opts = ConfidenceOptions { input: InputKind::Logits, ..Default::default() };
/// assert!(opts.normalised && opts.blank == 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfidenceOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`]. Functions of one utterance take a
    /// batch dimension of 1 in either place, and ignore this.
    pub layout: InputLayout,
    /// The kind of input. Default [`InputKind::LogProbs`].
    pub input: InputKind,
    /// Whether to check that log-probabilities are normalised: see [`InputKind::LogProbs`]. Default
    /// `true`.
    #[doc(alias = "normalized")]
    pub normalised: bool,
}

impl Default for ConfidenceOptions {
    fn default() -> Self {
        Self {
            blank: 0,
            layout: InputLayout::default(),
            input: InputKind::default(),
            normalised: true,
        }
    }
}

impl ConfidenceOptions {
    /// The defaults with [`InputLayout::BatchMajor`].
    pub fn batch_major() -> Self {
        Self {
            layout: InputLayout::BatchMajor,
            ..Self::default()
        }
    }

    pub(crate) fn call(&self, function: &'static str) -> Call {
        Call::new(
            function,
            self.input,
            self.normalised,
            self.blank,
            self.layout,
        )
    }
}

/// The confidence of each token of a transcript of one utterance.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1, `(1, T, C)` or `(T, 1, C)`, for either layout; natural
///   logarithms, or logits with [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. Of log-probabilities
///   on a GPU, the classes that the target uses are copied to the host, unless they are more than half; of logits, all.
///   `T` may be 0.
/// * `target` - the labels, without blanks.
/// * `opts` - see [`ConfidenceOptions`].
///
/// # Returns
///
/// One [`TokenConfidence`] per label. If the target does not fit into its frames, or has probability 0, all fields but
/// `token` are 0; if an entry that it uses is NaN, they are NaN. The call takes the memory of a training step.
///
/// # Errors
///
/// If the shape, the dtype, a label or the blank does not fit, or if the input cannot be log-probabilities (see
/// [`InputKind::LogProbs`]); the message names the label or the frame, and the numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ConfidenceOptions, token_confidence};
///
/// # fn main() -> candle_core::Result<()> {
/// let p = [[0.8f64, 0.2], [0.1, 0.9], [0.8, 0.2]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let token = token_confidence(&log_probs, &[1], ConfidenceOptions::default())?[0];
/// assert!((token.expected_frame - 1.0).abs() < 1e-9);
/// assert!(token.posterior > 0.9 && token.probability > 0.6);
/// # Ok(())
/// # }
/// ```
pub fn token_confidence(
    log_probs: &Tensor,
    target: &[u32],
    opts: ConfidenceOptions,
) -> Result<Vec<TokenConfidence>> {
    let call = opts.call("token_confidence");
    let (log_probs, plan) = validate::utterance_and_target(call, log_probs, target)?;
    Ok(confidences_of(&call, plan, &log_probs)?.swap_remove(0))
}

/// [`token_confidence`] for each target of a batch.
///
/// # Arguments
///
/// Those of [`ctc_loss`](crate::ctc_loss), with [`ConfidenceOptions`]. Of log-probabilities on a GPU, the classes that
/// targets use are copied to the host, unless they are more than half; of logits, all.
///
/// # Returns
///
/// For each item, one [`TokenConfidence`] per label of its target, as [`token_confidence`] returns them.
///
/// # Errors
///
/// As for [`ctc_loss`](crate::ctc_loss), but `T` and `N` may be 0; and if the input cannot be log-probabilities (see
/// [`InputKind::LogProbs`]).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ConfidenceOptions, InputKind, token_confidence_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::randn(0f32, 1., (2, 6, 4), &Device::Cpu)?; // (N, T, C)
/// let targets = Tensor::new(&[[1u32, 2, 0], [3, 3, 1]], &Device::Cpu)?; // (N, S), the first padded
/// let opts = ConfidenceOptions { input: InputKind::Logits, ..ConfidenceOptions::batch_major() };
/// let tokens = token_confidence_batch(&logits, &targets, [6, 3], [2, 3], opts)?;
/// assert_eq!((tokens[0].len(), tokens[1].len()), (2, 3));
/// assert_eq!(tokens[1][0].posterior, 0.0); // 3, blank, 3, 1 takes four frames
/// # Ok(())
/// # }
/// ```
pub fn token_confidence_batch(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: ConfidenceOptions,
) -> Result<Vec<Vec<TokenConfidence>>> {
    let call = opts.call("token_confidence_batch");
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    confidences_of(&call, plan, log_probs)
}

fn confidences_of(
    call: &Call,
    plan: Plan,
    log_probs: &Tensor,
) -> Result<Vec<Vec<TokenConfidence>>> {
    check_normalised(call, &plan, log_probs, 0)?;
    let (used, host) = used_classes_on_host(plan.clone(), log_probs)?;
    with_entries!(host, |data, layout| {
        let items = cpu::occupancy(&used, data, used.input.strides(layout))?;
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

/// The posterior of every state at every frame of one utterance, given its target.
///
/// The states are blank, l1, blank, l2, …, blank: state 2i + 1 is label i (counted from 0), state 2i the blank before
/// it. Each row sums to 1.
///
/// Arguments and errors are those of [`token_confidence`].
///
/// # Returns
///
/// A tensor `(T, 2U + 1)` for `U` labels, on the CPU, f64 for f64 and f32 for all other dtypes. All zero if the target
/// does not fit into its frames or has probability 0, all NaN if an entry that it uses is NaN. Besides the result, the
/// call takes the memory of a training step.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ConfidenceOptions, state_posteriors};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?;
/// let states = state_posteriors(&log_probs, &[1], ConfidenceOptions::default())?;
/// // Of the paths (1, 1), (blank, 1) and (1, blank), the second starts in the first blank.
/// let first = states.to_vec2::<f64>()?[0][0];
/// assert!((first - 0.6 * 0.5 / 0.7).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn state_posteriors(
    log_probs: &Tensor,
    target: &[u32],
    opts: ConfidenceOptions,
) -> Result<Tensor> {
    let call = opts.call("state_posteriors");
    let (log_probs, plan) = validate::utterance_and_target(call, log_probs, target)?;
    Ok(states_of(&call, plan, &log_probs)?.swap_remove(0))
}

/// [`state_posteriors`] for each target of a batch.
///
/// Arguments and errors are those of [`token_confidence_batch`].
///
/// # Returns
///
/// For each item a tensor `(T_n, 2 U_n + 1)`, as [`state_posteriors`] returns it.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ConfidenceOptions, InputKind, state_posteriors_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::randn(0f32, 1., (6, 2, 4), &Device::Cpu)?; // (T, N, C)
/// let targets = Tensor::new(&[1u32, 2, 3], &Device::Cpu)?; // concatenated
/// let opts = ConfidenceOptions { input: InputKind::Logits, ..Default::default() };
/// let states = state_posteriors_batch(&logits, &targets, [6, 5], [2, 1], opts)?;
/// assert_eq!((states[0].dims(), states[1].dims()), (&[6, 5][..], &[5, 3][..]));
/// # Ok(())
/// # }
/// ```
pub fn state_posteriors_batch(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: ConfidenceOptions,
) -> Result<Vec<Tensor>> {
    let call = opts.call("state_posteriors_batch");
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    states_of(&call, plan, log_probs)
}

fn states_of(call: &Call, plan: Plan, log_probs: &Tensor) -> Result<Vec<Tensor>> {
    check_normalised(call, &plan, log_probs, 0)?;
    let (plan, host) = used_classes_on_host(plan, log_probs)?;
    with_entries!(host, |data, layout| {
        let items = cpu::state_posteriors(&plan, data, plan.input.strides(layout))?;
        let tensors = items.into_iter().enumerate().map(|(n, posterior)| {
            let shape = (plan.input_lengths[n], 2 * plan.target_length(n) + 1);
            Tensor::from_vec(posterior, shape, &Device::Cpu)
        });
        tensors.collect::<Result<_>>()
    })?
}
