//! The confidence of a model in each frame, from its distribution over the classes alone; and from there in tokens and
//! words.

use crate::confidence::ConfidenceOptions;
use crate::cpu_input::{check_row, on_host, rows};
use crate::distribution::{check_normalised, log_softmax};
use crate::memory::room_for;
use crate::options::InputKind;
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// How sure a distribution `p` over `C` classes is, in [0, 1].
///
/// Models trained with CTC are close to certain at most frames, right or wrong. Entropies with an `alpha` below 1 weigh the
/// small probabilities more and tell the two apart better (Laptev and Ginsburg 2022, <https://arxiv.org/abs/2212.08703>,
/// who recommend 1/3). Both entropies are divided by that of the uniform distribution and subtracted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ConfidenceMeasure {
    /// The largest probability.
    Probability,
    /// The largest probability less the second.
    Margin,
    /// `1 − H / H_uniform` with `H = −α Σ p^α ln p`: the entropy of Gibbs for `α = 1`.
    Gibbs {
        /// Positive.
        alpha: f64,
    },
    /// `1 − H / H_uniform` with `H = (1 − Σ p^α) / (α − 1)`: the entropy of Tsallis, which for `α = 1` is that of Gibbs.
    Tsallis {
        /// Positive.
        alpha: f64,
    },
}

impl ConfidenceMeasure {
    /// The measure of a row of log-probabilities.
    fn of(self, row: &[f64]) -> f64 {
        let classes = row.len() as f64;
        if row.len() < 2 {
            return 1.0;
        }
        let confidence = match self {
            Self::Probability => row.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp(),
            Self::Margin => {
                let [first, second] =
                    row.iter()
                        .fold([f64::NEG_INFINITY; 2], |[a, b], &x| match x {
                            x if x > a => [x, a],
                            x if x > b => [a, x],
                            _ => [a, b],
                        });
                first.exp() - second.exp()
            }
            Self::Gibbs { alpha } => {
                // The terms of probabilities 0 and 1 are 0.
                let terms = row.iter().filter(|&&x| x > f64::NEG_INFINITY && x != 0.0);
                // Each term is divided by C^(1−α), which may be too small a number by itself.
                let uniform = (1.0 - alpha) * classes.ln();
                let entropy: f64 = terms.map(|x| -x * (alpha * x - uniform).exp()).sum();
                1.0 - entropy / classes.ln()
            }
            Self::Tsallis { alpha } if alpha == 1.0 => Self::Gibbs { alpha }.of(row),
            Self::Tsallis { alpha } => {
                // Σ p^α − 1 = Σ p (p^(α−1) − 1), which has no cancellation near α = 1.
                let terms = row.iter().filter(|&&x| x > f64::NEG_INFINITY);
                let sum: f64 = terms
                    .map(|x| match (alpha - 1.0) * x {
                        power if power.abs() < 1.0 => x.exp() * power.exp_m1(),
                        _ => (alpha * x).exp() - x.exp(),
                    })
                    .sum();
                1.0 - sum / ((1.0 - alpha) * classes.ln()).exp_m1()
            }
        };
        confidence.clamp(0.0, 1.0)
    }

    fn check(self, function: &str) -> Result<()> {
        match self {
            Self::Gibbs { alpha } | Self::Tsallis { alpha }
                if !(alpha > 0.0 && alpha.is_finite()) =>
            {
                bail!("{function}: alpha = {alpha}; it must be positive and finite")
            }
            _ => Ok(()),
        }
    }
}

/// The confidence of a model in each frame of one utterance.
///
/// It needs no transcript: it tells how far the distribution of a frame is from the uniform one, blanks included.
/// [`token_confidence`](crate::token_confidence) tells how well the frames support a given transcript.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1, `(1, T, C)` or `(T, 1, C)`, for either layout; natural
///   logarithms, or logits with [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. A tensor on a GPU is copied to
///   the host. `T` may be 0.
/// * `measure` - see [`ConfidenceMeasure`].
/// * `opts` - see [`ConfidenceOptions`].
///
/// # Returns
///
/// One number in [0, 1] for each frame. [`span_confidence`] makes of them the confidence in tokens and words.
///
/// # Errors
///
/// If the shape, the dtype or the blank does not fit, if `alpha` is not positive, if a frame contains NaN or +inf (or
/// logits that are all −inf), or if the input cannot be log-probabilities (see [`InputKind::LogProbs`]).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{
///     Aggregation, ConfidenceMeasure, ConfidenceOptions, GreedyOptions, frame_confidence, greedy_decode,
///     span_confidence,
/// };
///
/// # fn main() -> candle_core::Result<()> {
/// let p = [[0.1f32, 0.8, 0.1], [0.8, 0.1, 0.1], [0.4, 0.1, 0.5]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let best = greedy_decode(&log_probs, GreedyOptions::default())?;
/// let measure = ConfidenceMeasure::Tsallis { alpha: 1.0 / 3.0 };
/// let frames = frame_confidence(&log_probs, measure, ConfidenceOptions::default())?;
/// let ranges = best.spans.iter().map(|span| span.range());
/// let tokens = span_confidence(&frames, ranges, Aggregation::Mean)?;
/// assert_eq!(best.tokens, [1, 2]);
/// assert!(tokens[0] > tokens[1]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "entropy")]
pub fn frame_confidence(
    log_probs: &Tensor,
    measure: ConfidenceMeasure,
    opts: ConfidenceOptions,
) -> Result<Vec<f64>> {
    let call = opts.call("frame_confidence");
    let log_probs = validate::utterance(call.function, log_probs)?;
    let plan = validate::plan_for_utterance(call, &log_probs)?;
    Ok(confidences(&call, &plan, &log_probs, measure)?.swap_remove(0))
}

/// [`frame_confidence`] for each utterance of a batch.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`](crate::InputLayout::BatchMajor), or `(T, C)`
///   for one item; otherwise as for [`frame_confidence`]. `T` and `N` may be 0.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `measure`, `opts` - as for [`frame_confidence`].
///
/// # Returns
///
/// For each item, one number for each of its frames.
///
/// # Errors
///
/// As for [`frame_confidence`], and if lengths do not fit the batch.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_ctc::{ConfidenceMeasure, ConfidenceOptions, InputKind, frame_confidence_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::zeros((2, 6, 4), DType::F32, &Device::Cpu)?; // (N, T, C)
/// let opts = ConfidenceOptions { input: InputKind::Logits, ..ConfidenceOptions::batch_major() };
/// let frames = frame_confidence_batch(&logits, [6, 2], ConfidenceMeasure::Margin, opts)?;
/// assert_eq!(frames[1], [0.0, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn frame_confidence_batch(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    measure: ConfidenceMeasure,
    opts: ConfidenceOptions,
) -> Result<Vec<Vec<f64>>> {
    let call = opts.call("frame_confidence_batch");
    let plan = validate::plan_for_decoding(call, log_probs, input_lengths)?;
    confidences(&call, &plan, log_probs, measure)
}

fn confidences(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
    measure: ConfidenceMeasure,
) -> Result<Vec<Vec<f64>>> {
    measure.check(call.function)?;
    check_normalised(call, plan, log_probs, 0)?;
    let host = on_host(log_probs)?;
    let of_item = |item: usize| {
        let rows = rows(plan, &host);
        let mut row = vec![0.0; plan.input.classes];
        let frames = plan.input_lengths[item];
        let what = format!("{}: the confidences of item {item}", call.function);
        let mut confidences = room_for(&what, &[frames])?;
        for frame in 0..frames {
            rows.read(item, frame, 0, &mut row);
            check_row(call, item, frame, &row)?;
            if call.input == InputKind::Logits {
                log_softmax(&mut row);
            }
            confidences.push(measure.of(&row));
        }
        Ok(confidences)
    };
    (0..plan.input.batch).into_par_iter().map(of_item).collect()
}

/// How the confidences of several frames become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Aggregation {
    /// The arithmetic mean.
    #[default]
    Mean,
    /// The smallest.
    Minimum,
    /// The product, as if frames were independent. It falls with the number of frames.
    Product,
}

impl Aggregation {
    fn of(self, frames: &[f64]) -> f64 {
        match (self, frames) {
            (_, []) => 0.0,
            (Self::Mean, frames) => frames.iter().sum::<f64>() / frames.len() as f64,
            (Self::Product, frames) => frames.iter().product(),
            (Self::Minimum, frames) => {
                // A NaN stays.
                let smaller = |a: f64, b: f64| if a.is_nan() || a < b { a } else { b };
                frames.iter().copied().fold(f64::INFINITY, smaller)
            }
        }
    }
}

/// The confidence in spans of frames, from that of the frames: of tokens, with the ranges of their spans, or of words.
///
/// A span without frames, that of a label which an alignment leaves out, has a confidence of 0. Blanks within a word count;
/// to leave them out, aggregate over its tokens first.
///
/// # Errors
///
/// If a range is not within the frames; the message names the span.
///
/// ```
/// use candle_ctc::{Aggregation, span_confidence};
/// # fn main() -> candle_core::Result<()> {
/// let frames = [0.9, 0.5, 1.0, 0.7];
/// assert_eq!(span_confidence(&frames, [0..2, 3..4], Aggregation::Minimum)?, [0.5, 0.7]);
/// # Ok(())
/// # }
/// ```
pub fn span_confidence(
    frames: &[f64],
    spans: impl IntoIterator<Item = Range<usize>>,
    aggregation: Aggregation,
) -> Result<Vec<f64>> {
    let spans = spans.into_iter().enumerate();
    spans
        .map(|(i, range)| match frames.get(range.clone()) {
            Some(frames) => Ok(aggregation.of(frames)),
            None => bail!(
                "span_confidence: span {i} has the frames {range:?}, but there are {}",
                frames.len()
            ),
        })
        .collect()
}

/// The Phred quality of a result that is right with this probability: `−10 log₁₀(1 − p)`. +inf for 1, NaN above 1.
///
/// ```
/// assert!((candle_ctc::phred_quality(0.999) - 30.0).abs() < 1e-9);
/// ```
pub fn phred_quality(probability: f64) -> f64 {
    -10.0 * (1.0 - probability).log10()
}

/// The qualities of a read as FASTQ writes them: a character for each probability of being right, from `!` (0) to `~`
/// (93), rounded to the nearest whole [`phred_quality`]. NaN and a number above 1 give `!`.
///
/// ```
/// assert_eq!(candle_ctc::fastq_qualities([0.0, 0.9, 0.999, 1.0]), "!+?~");
/// ```
#[doc(alias = "phred")]
pub fn fastq_qualities(probabilities: impl IntoIterator<Item = f64>) -> String {
    // A cast of NaN gives 0.
    let character = |p| char::from(b'!' + phred_quality(p).round().clamp(0.0, 93.0) as u8);
    probabilities.into_iter().map(character).collect()
}
