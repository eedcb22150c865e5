//! Likelihoods of candidate transcripts.

use crate::cpu;
use crate::cpu_input::{on_host, with_entries};
use crate::distribution::check_normalised;
use crate::gpu;
use crate::options::{InputKind, InputLayout};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use candle_core::{Result, Tensor};

/// The options of [`score_transcripts`] and related functions.
///
/// ```
/// use candle_ctc::ScoreOptions;
/// let opts = ScoreOptions { per_token: true, ..Default::default() };
/// assert!(!opts.softmax && opts.normalised);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScoreOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`]. Functions of one utterance take a
    /// batch dimension of 1 in either place, and ignore this.
    pub layout: InputLayout,
    /// The kind of input. Default [`InputKind::LogProbs`]. The log-softmax of logits needs no extra tensor.
    pub input: InputKind,
    /// Whether to check that log-probabilities are normalised: see [`InputKind::LogProbs`]. Default
    /// `true`.
    #[doc(alias = "normalized")]
    pub normalised: bool,
    /// Divides each log-likelihood by the number of labels (at least 1), so that long and short transcripts are
    /// comparable. Default `false`.
    pub per_token: bool,
    /// Returns probabilities instead of logarithms: a softmax of the scores over the candidates of an item. All zero if
    /// no candidate fits; a score of NaN stays NaN. Default `false`.
    pub softmax: bool,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            blank: 0,
            layout: InputLayout::default(),
            input: InputKind::default(),
            normalised: true,
            per_token: false,
            softmax: false,
        }
    }
}

impl ScoreOptions {
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

/// The scores of one candidate, from [`rank_transcripts`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TranscriptScore {
    /// The index of the transcript in the argument.
    pub index: usize,
    /// `ln P(transcript)`, in nats.
    pub log_likelihood: f64,
    /// `log_likelihood` divided by the number of labels (at least 1).
    pub per_token: f64,
    /// The probability among the candidates: the softmax of `log_likelihood`, or of `per_token` with
    /// [`ScoreOptions::per_token`].
    pub probability: f64,
}

/// The log-likelihoods of many transcripts of one utterance.
///
/// Each is `ln P(transcript)`, summed over all alignments (Graves et al. 2006,
/// <https://doi.org/10.1145/1143844.1143891>): the negative of a loss that is not reduced. The emissions are not
/// copied and no gradient state is kept. Of log-probabilities, only the classes that some transcript uses are read (and
/// three frames for the check), once for all transcripts; the lattices run in parallel. Since transcripts share their
/// emissions, a score may differ from that of a list of one by up to 8.2e-8 nats a frame in f32 and half
/// precision. They share them on a GPU, too.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1; natural logarithms, or logits with [`InputKind::Logits`].
///   f32, f64, f16 or bf16; any strides. The scores of a tensor on a GPU are computed there. `T` may be 0: the
///   empty transcript then has a score of 0 and any other −inf.
/// * `transcripts` - label sequences, without blanks; the empty one is allowed.
/// * `opts` - see [`ScoreOptions`].
///
/// # Returns
///
/// One score per transcript, in order, in nats unless the options change that. A transcript that needs more frames than
/// there are has −inf. A NaN or +inf at the blank or at a label of the transcript gives NaN.
///
/// # Errors
///
/// If the shape, the dtype, a label or the blank does not fit, or if the input cannot be log-probabilities (see
/// [`InputKind::LogProbs`]); the message names the transcript, or the frame, and the numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ScoreOptions, score_transcripts};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?; // (T, C)
/// let scores = score_transcripts(&log_probs, &[vec![], vec![1u32]], ScoreOptions::default())?;
/// assert!((scores[0] - 0.3f64.ln()).abs() < 1e-12); // blank, blank
/// assert!((scores[1] - 0.7f64.ln()).abs() < 1e-12); // all other paths
///
/// let opts = ScoreOptions { softmax: true, ..Default::default() };
/// let shares = score_transcripts(&log_probs, &[vec![], vec![1u32]], opts)?;
/// assert!((shares[1] - 0.7).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn score_transcripts<S: AsRef<[u32]> + Sync>(
    log_probs: &Tensor,
    transcripts: &[S],
    opts: ScoreOptions,
) -> Result<Vec<f64>> {
    let scores = one_utterance("score_transcripts", log_probs, transcripts, opts)?;
    Ok(finish(scores, transcripts, opts))
}

/// [`score_transcripts`] for each utterance of a batch.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)`. `T`
///   and `N` may be 0.
/// * `input_lengths` - frames of each item, at most `T`.
/// * `transcripts` - the candidates of each item; their number may differ.
/// * `opts` - see [`ScoreOptions`].
///
/// # Returns
///
/// For each item the scores of its candidates, as returned by [`score_transcripts`].
///
/// # Errors
///
/// As for [`score_transcripts`], and if lengths do not fit the batch.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_ctc::{InputKind, ScoreOptions, score_transcripts_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::zeros((2, 6, 4), DType::F32, &Device::Cpu)?; // (N, T, C)
/// let opts = ScoreOptions { input: InputKind::Logits, ..ScoreOptions::batch_major() };
/// let candidates = [vec![vec![1, 2], vec![3]], vec![vec![2u32, 2]]];
/// let scores = score_transcripts_batch(&logits, [6, 2], &candidates, opts)?;
/// assert!(scores[0][0] > scores[0][1]); // two labels have more alignments than one
/// assert_eq!(scores[1], [f64::NEG_INFINITY]); // three frames are needed
/// # Ok(())
/// # }
/// ```
pub fn score_transcripts_batch<S: AsRef<[u32]> + Sync, L: AsRef<[S]>>(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    transcripts: &[L],
    opts: ScoreOptions,
) -> Result<Vec<Vec<f64>>> {
    let call = opts.call("score_transcripts_batch");
    let lists: Vec<&[S]> = transcripts.iter().map(AsRef::as_ref).collect();
    let plan = validate::plan_for_transcripts(call, log_probs, input_lengths, &lists)?;
    let scores = scores(&call, &plan, log_probs, &lists)?;
    let finished = scores
        .into_iter()
        .zip(&lists)
        .map(|(scores, list)| finish(scores, list, opts));
    Ok(finished.collect())
}

/// Ranks the candidates of one utterance, for example the n-best list of a decoder, best first.
///
/// Candidates are ordered by `log_likelihood`, or by `per_token` with [`ScoreOptions::per_token`]; equal candidates
/// keep their order, and NaN comes last. [`ScoreOptions::softmax`] has no effect here. Arguments and errors are those
/// of [`score_transcripts`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{ScoreOptions, rank_transcripts};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?;
/// let ranked = rank_transcripts(&log_probs, &[vec![], vec![1u32]], ScoreOptions::default())?;
/// assert_eq!(ranked[0].index, 1);
/// assert!((ranked[0].probability - 0.7).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "n-best")]
pub fn rank_transcripts<S: AsRef<[u32]> + Sync>(
    log_probs: &Tensor,
    transcripts: &[S],
    opts: ScoreOptions,
) -> Result<Vec<TranscriptScore>> {
    let raw = one_utterance("rank_transcripts", log_probs, transcripts, opts)?;
    Ok(ranking(&raw, transcripts, opts))
}

/// [`rank_transcripts`] for each utterance of a batch. Arguments and errors are those of [`score_transcripts_batch`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_ctc::{InputKind, ScoreOptions, rank_transcripts_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::zeros((2, 6, 4), DType::F32, &Device::Cpu)?; // (N, T, C)
/// let opts = ScoreOptions { input: InputKind::Logits, ..ScoreOptions::batch_major() };
/// let candidates = [vec![vec![3], vec![1, 2]], vec![vec![2u32]]];
/// let ranked = rank_transcripts_batch(&logits, [6, 2], &candidates, opts)?;
/// assert_eq!((ranked[0][0].index, ranked[1][0].probability), (1, 1.0));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "n-best")]
pub fn rank_transcripts_batch<S: AsRef<[u32]> + Sync, L: AsRef<[S]>>(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    transcripts: &[L],
    opts: ScoreOptions,
) -> Result<Vec<Vec<TranscriptScore>>> {
    let call = opts.call("rank_transcripts_batch");
    let lists: Vec<&[S]> = transcripts.iter().map(AsRef::as_ref).collect();
    let plan = validate::plan_for_transcripts(call, log_probs, input_lengths, &lists)?;
    let raw = scores(&call, &plan, log_probs, &lists)?;
    let items = raw.iter().zip(&lists);
    Ok(items.map(|(raw, list)| ranking(raw, list, opts)).collect())
}

/// Candidates in order, with what the options make of their log-likelihoods.
fn ranking<S: AsRef<[u32]>>(
    raw: &[f64],
    transcripts: &[S],
    opts: ScoreOptions,
) -> Vec<TranscriptScore> {
    let with = |softmax, per_token| {
        let opts = ScoreOptions {
            softmax,
            per_token,
            ..opts
        };
        finish(raw.to_vec(), transcripts, opts)
    };
    let (per_token, shares) = (with(false, true), with(true, opts.per_token));
    let mut ranked: Vec<TranscriptScore> = (0..transcripts.len())
        .map(|index| TranscriptScore {
            index,
            log_likelihood: raw[index],
            per_token: per_token[index],
            probability: shares[index],
        })
        .collect();
    let key = |score: &TranscriptScore| {
        let key = if opts.per_token {
            score.per_token
        } else {
            score.log_likelihood
        };
        (!key.is_nan(), key)
    };
    ranked.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    ranked
}

fn one_utterance<S: AsRef<[u32]> + Sync>(
    function: &'static str,
    log_probs: &Tensor,
    transcripts: &[S],
    opts: ScoreOptions,
) -> Result<Vec<f64>> {
    let call = opts.call(function);
    let log_probs = validate::utterance(function, log_probs)?;
    let lists = [transcripts];
    let plan = validate::plan_for_transcripts(call, &log_probs, log_probs.dim(0)?, &lists)?;
    Ok(scores(&call, &plan, &log_probs, &lists)?.swap_remove(0))
}

fn scores<S: AsRef<[u32]> + Sync>(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
    lists: &[&[S]],
) -> Result<Vec<Vec<f64>>> {
    let lists = lists
        .iter()
        .map(|list| list.iter().map(AsRef::as_ref).collect());
    let lists: Vec<Vec<&[u32]>> = lists.collect();
    scores_of(call, plan, log_probs, &lists)
}

// Here and below, the arithmetic is called from functions without type parameters, so that it is compiled with this
// crate and not again in each crate that uses it.
fn scores_of(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
    lists: &[Vec<&[u32]>],
) -> Result<Vec<Vec<f64>>> {
    check_normalised(call, plan, log_probs, 0)?;
    let on_device = gpu::scores(plan, log_probs, lists)?;
    let on_device = on_device.unwrap_or_else(|| vec![None; lists.len()]);
    if on_device.iter().all(Option::is_some) {
        return Ok(on_device.into_iter().flatten().collect());
    }
    let host = on_host(log_probs)?;
    let scores: Result<_> = with_entries!(host, |data, layout| {
        let strides = plan.input.strides(layout);
        let items = on_device.into_iter().zip(lists).enumerate();
        items
            .map(|(n, (found, list))| match found {
                Some(scores) => Ok(scores),
                None => {
                    let scores = cpu::score(plan, data, strides, n, list);
                    scores.map_err(|out| plan.out_of_memory(n, out))
                }
            })
            .collect()
    })?;
    scores
}

/// Applies the options to log-likelihoods.
fn finish<S: AsRef<[u32]>>(mut scores: Vec<f64>, lists: &[S], opts: ScoreOptions) -> Vec<f64> {
    if opts.per_token {
        for (score, transcript) in scores.iter_mut().zip(lists) {
            *score /= transcript.as_ref().len().max(1) as f64;
        }
    }
    if opts.softmax {
        // A NaN stays NaN and takes no share from the others.
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if best == f64::NEG_INFINITY {
            // No candidate fits.
            for score in scores.iter_mut().filter(|score| !score.is_nan()) {
                *score = 0.0;
            }
            return scores;
        }
        let weights = scores.iter().map(|score| (score - best).exp());
        let sum: f64 = weights.filter(|weight| !weight.is_nan()).sum();
        for score in &mut scores {
            *score = (*score - best).exp() / sum;
        }
    }
    scores
}
