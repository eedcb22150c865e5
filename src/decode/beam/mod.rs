//! Prefix beam search: of one utterance, of a batch, and of a stream.

mod options;
mod search;

pub use options::{BeamOptions, End};
pub use search::BeamSearch;

use super::Hypothesis;
use super::language_model::{LanguageModel, NoLanguageModel};
use crate::cpu_input::on_host;
use crate::distribution::check_normalised;
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use candle_core::{Result, Tensor};
use options::check_options;
use rayon::prelude::*;

/// Finds the most probable labellings of one utterance by prefix beam search (Graves et al. 2006,
/// section 3.2, <https://doi.org/10.1145/1143844.1143891>; Hannun et al. 2014,
/// <https://arxiv.org/abs/1408.2873>).
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1; natural logarithms, or logits with
///   [`InputKind::Logits`](crate::InputKind::Logits). f32, f64, f16 or bf16; any strides. `T` may be 0. The search runs
///   on the CPU in f64; a tensor on a GPU is copied to the host first.
/// * `opts` - see [`BeamOptions`].
///
/// # Returns
///
/// At most `n_best` hypotheses, best first. [`Hypothesis::score`] is the log-probability of the labelling in nats,
/// summed over its alignments within the beam: a lower bound of its log-likelihood, and equal to it if nothing was
/// pruned. Labellings of probability 0 are left out; the result is empty if all are. Without frames the only labelling
/// is the empty one, with a score of 0. The spans are those of the best single alignment within the beam.
///
/// Ties are broken deterministically, so equal input gives equal output. In the beam, extensions of a better prefix
/// come first; of the same prefix, the prefix itself comes first, then its extensions by class number. In the result,
/// equal hypotheses are ordered by tokens, lexicographically.
///
/// # Errors
///
/// If shapes, dtypes or options do not fit together, if a frame contains NaN or +inf (or logits that are all −inf), or
/// if the input cannot be log-probabilities (see [`InputKind::LogProbs`](crate::InputKind::LogProbs)); the message
/// names the item (0 for one utterance), the frame and the class.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{BeamOptions, beam_search};
///
/// # fn main() -> candle_core::Result<()> {
/// // The best path reads as nothing, but "1" is the best labelling: 0.4·0.6 + 0.6·0.4 + 0.4·0.4.
/// let log_probs = Tensor::new(&[[0.6f32, 0.4], [0.6, 0.4]], &Device::Cpu)?.log()?;
/// let opts = BeamOptions { n_best: 2, ..Default::default() };
/// let found = beam_search(&log_probs, opts)?;
/// assert_eq!(found[0].tokens, [1]);
/// assert!((found[0].score.exp() - 0.64).abs() < 1e-6);
/// assert!(found[1].tokens.is_empty());
/// # Ok(())
/// # }
/// ```
pub fn beam_search(log_probs: &Tensor, opts: BeamOptions) -> Result<Vec<Hypothesis>> {
    beam_search_with(log_probs, &NoLanguageModel, opts)
}

/// [`beam_search`] with a language model or a lexicon.
///
/// Prefixes are ranked by `score + lm_score`, where [`Hypothesis::lm_score`] is `lm_weight` times the model's scores
/// plus `token_bonus` for each token. [`Lexicon`](crate::Lexicon), [`TokenNgram`](crate::TokenNgram),
/// [`Hotwords`](crate::Hotwords) and [`LanguageModel`] each have an example.
///
/// # Errors
///
/// Those of [`beam_search`], errors of the model, and a score of the model that is NaN, +inf or above its
/// [`max_score`](LanguageModel::max_score).
pub fn beam_search_with<L: LanguageModel + ?Sized>(
    log_probs: &Tensor,
    language_model: &L,
    opts: BeamOptions,
) -> Result<Vec<Hypothesis>> {
    let call = opts.call("beam_search");
    let log_probs = validate::utterance(call.function, log_probs)?;
    let plan = validate::plan_for_utterance(call, &log_probs)?;
    check_options(call.function, plan.input.classes, &opts)?;
    check_normalised(&call, &plan, &log_probs, 0)?;
    let log_probs = on_host(&log_probs)?;
    search_item(&call, &plan, &log_probs, 0, language_model, opts)
}

/// [`beam_search`] for each item of a batch, on all threads of the current rayon pool.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`](crate::InputLayout::BatchMajor), or
///   `(T, C)` for one item. `T` and `N` may be 0.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `opts` - see [`BeamOptions`].
///
/// # Returns
///
/// The hypotheses of each item, in order. An item of length 0 has the empty labelling, with a
/// score of 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{BeamOptions, beam_search_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let probs = [[[0.1f32, 0.9], [0.8, 0.2]], [[0.3, 0.7], [0.9, 0.1]]];
/// let log_probs = Tensor::new(&probs, &Device::Cpu)?.log()?; // (N, T, C)
/// let found = beam_search_batch(&log_probs, &[2, 1], BeamOptions::batch_major())?;
/// assert_eq!(found[1][0].tokens, [1]); // item 1, its best hypothesis
/// assert!((found[1][0].score.exp() - 0.7).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of [`beam_search`], and lengths that do not fit; the message names the item.
pub fn beam_search_batch(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    opts: BeamOptions,
) -> Result<Vec<Vec<Hypothesis>>> {
    beam_search_batch_with(log_probs, input_lengths, &NoLanguageModel, opts)
}

/// [`beam_search_batch`] with a language model or a lexicon, shared by all items.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::text::Vocabulary;
/// use candle_ctc::{BeamOptions, Hotwords, NoLanguageModel, beam_search_batch_with};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "n", "o", "w"])?;
/// let names = Hotwords::new(&vocabulary, [("now", 3.0)], NoLanguageModel)?;
/// # let frame = |likely: usize| (0..5).map(|c| if c == likely { 0.5f32 } else { 0.125 }).collect::<Vec<_>>();
/// # let probs: Vec<Vec<f32>> = [2, 3, 0].into_iter().map(frame).collect();
/// # let log_probs = Tensor::stack(&[Tensor::new(probs, &Device::Cpu)?.log()?], 0)?;
/// let opts = BeamOptions { blank: vocabulary.blank(), ..BeamOptions::batch_major() };
/// let found = beam_search_batch_with(&log_probs, &[3], &names, opts)?; // log_probs: (N, T, 5)
/// assert_eq!(vocabulary.decode(&found[0][0].tokens), "now");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of [`beam_search_batch`] and [`beam_search_with`].
pub fn beam_search_batch_with<L: LanguageModel + Sync + ?Sized>(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    language_model: &L,
    opts: BeamOptions,
) -> Result<Vec<Vec<Hypothesis>>> {
    let call = opts.call("beam_search_batch");
    let plan = validate::plan_for_decoding(call, log_probs, input_lengths)?;
    check_options(call.function, plan.input.classes, &opts)?;
    check_normalised(&call, &plan, log_probs, 0)?;
    let log_probs = on_host(log_probs)?;
    (0..plan.input.batch)
        .into_par_iter()
        .map(|item| search_item(&call, &plan, &log_probs, item, language_model, opts))
        .collect()
}

fn search_item<L: LanguageModel + ?Sized>(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
    item: usize,
    language_model: &L,
    opts: BeamOptions,
) -> Result<Vec<Hypothesis>> {
    let mut search = BeamSearch::unchecked(plan.input.classes, language_model, opts)?;
    search.take(call, plan, log_probs, item)?;
    search.finish()
}
