//! Prefix scores for joint attention/CTC decoding.
//!
//! For a prefix `g` the scorer holds, for each number of frames `t`, the log-probability of the alignments of `g` with
//! the first `t` frames: `b_t(g)` for those that end in a blank and `l_t(g)` for those that end in the last label of
//! `g`. With emissions `y_t(c)`, the probability that a labelling begins with `g c` is (algorithm 2 of Watanabe et al.
//! 2017)
//!
//! ```text
//! P(g c …) = Σ_t h_(t-1) · y_t(c)
//! h_t      = b_t(g) if c is the last label of g, else b_t(g) + l_t(g)
//! ```
//!
//! All classes but the last label share `h`, so one pass over the emissions scores all of them.

use super::language_model::{LanguageModel, check_weight};
use super::log_add;
use crate::cpu;
use crate::cpu_input::rows;
use crate::distribution::{self, check_normalised};
use crate::memory::check_room;
use crate::options::{InputKind, InputLayout};
use crate::problem::plan::{Input, Plan};
use crate::problem::validate::{self, Call};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::borrow::Borrow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Classes per job: the sums of a dozen hypotheses stay in the cache.
const BLOCK: usize = 256;

/// The options of [`PrefixScorer`].
///
/// ```
/// use candle_ctc::{InputKind, PrefixScorerOptions};
/// let opts = PrefixScorerOptions { input: InputKind::Logits, ..Default::default() };
/// assert_eq!((opts.blank, opts.normalised), (0, true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixScorerOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// The kind of input. Default [`InputKind::LogProbs`].
    pub input: InputKind,
    /// Whether to check that log-probabilities are normalised: see [`InputKind::LogProbs`]. Default
    /// `true`.
    #[doc(alias = "normalized")]
    pub normalised: bool,
}

impl Default for PrefixScorerOptions {
    fn default() -> Self {
        Self {
            blank: 0,
            input: InputKind::default(),
            normalised: true,
        }
    }
}

/// Scores the prefixes of one utterance for joint attention/CTC decoding (Watanabe et al. 2017,
/// <https://doi.org/10.1109/JSTSP.2017.2763455>, algorithm 2).
///
/// A label-synchronous decoder grows hypotheses one token at a time. At each step it obtains the CTC scores of all next
/// tokens of all its hypotheses ([`score`](Self::score)), adds them with some weight to its own, and calls
/// [`extend`](Self::extend) for the hypotheses it keeps.
///
/// All scores are natural logarithms, in f64. A score is the probability of whole labellings only if each frame is a
/// distribution, as after a log-softmax.
///
/// Memory: log-probabilities are not copied (a tensor on a GPU is copied to the host once); for logits, the log-softmax
/// is kept, in f32, or f64 for f64; a state takes 16 bytes per frame; a call of `score` takes 8 bytes for each state
/// and class, and 4 KiB for each state and thread. Time: `score` makes two passes over the emissions, on all threads of
/// the current rayon pool; `extend` makes one over the frames.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{PrefixScorer, PrefixScorerOptions};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.5f32, 0.3, 0.2], [0.4, 0.5, 0.1]], &Device::Cpu)?.log()?;
/// let scorer = PrefixScorer::new(&log_probs, PrefixScorerOptions::default())?;
/// let empty = scorer.initial_state();
/// let scores = &scorer.score(&[&empty])?[0];
/// // "1 …": class 1 in the first frame, or the blank and then class 1.
/// assert!((scores.next[1].exp() - (0.3 + 0.5 * 0.5)).abs() < 1e-6);
/// // The text ends here: two blanks.
/// assert!((scores.end.exp() - 0.5 * 0.4).abs() < 1e-6);
/// let one = scorer.extend(&empty, 1)?;
/// assert_eq!(one.score(), scores.next[1]);
/// # Ok(())
/// # }
/// ```
pub struct PrefixScorer {
    /// Unique to this scorer.
    id: u64,
    plan: Plan,
    log_probs: Tensor,
}

/// A prefix, as seen by a [`PrefixScorer`]. It belongs to the scorer that made it.
#[derive(Debug, Clone)]
pub struct PrefixState {
    /// The `id` of its scorer.
    scorer: u64,
    last: Option<u32>,
    score: f64,
    /// For 0 to `T` frames, the log-probability of the alignments that end in a blank.
    blank: Vec<f64>,
    /// The same for alignments that end in the last label.
    label: Vec<f64>,
}

/// States with the same numbers are equal, even from different scorers.
impl PartialEq for PrefixState {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |state: &Self| (state.last, state.score);
        numbers(self) == numbers(other) && self.blank == other.blank && self.label == other.label
    }
}

impl PrefixState {
    /// `ln P(prefix …)`: of all labellings that begin with the prefix, including the prefix itself. 0 for the empty
    /// prefix.
    pub fn score(&self) -> f64 {
        self.score
    }

    /// `ln P(labelling)`, where the labelling is exactly the prefix.
    pub fn end_score(&self) -> f64 {
        let last = self.blank.len() - 1;
        log_add(self.blank[last], self.label[last])
    }

    /// The last label; `None` for the empty prefix.
    pub fn last(&self) -> Option<u32> {
        self.last
    }

    /// The log-probability of the alignments with the first `frames` frames that `token` may follow.
    fn before(&self, frames: usize, token: u32) -> f64 {
        if self.last == Some(token) {
            self.blank[frames]
        } else {
            log_add(self.blank[frames], self.label[frames])
        }
    }
}

/// The scores of the continuations of a prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixScores {
    /// `ln P(prefix token …)` for each class, `C` elements; −inf for the blank.
    pub next: Vec<f64>,
    /// `ln P(prefix)` as a complete labelling: the score of the end of the sentence.
    pub end: f64,
}

impl PrefixScores {
    /// Adds `weight` times the model's score of each token to `next[token]`, and `weight` times its end-of-text score
    /// to `end` (shallow fusion). `state` is the model's state for the prefix; the caller keeps it and advances it.
    /// Entries of −inf stay, and the model is not asked for them.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_ctc::{LanguageModel, NgramLm, PrefixScorer, PrefixScorerOptions, TokenNgram};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// # let arpa = "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 a\n-1 b\n-2 <unk>\n\n\
    /// #             \\2-grams:\n-0.1 a b\n\n\\end\\\n";
    /// let model = NgramLm::from_arpa(arpa.as_bytes())?; // "b" is probable after "a"
    /// let model = TokenNgram::with_names(model, ["<blank>", "a", "b"])?;
    /// let probs = [[0.2f32, 0.7, 0.1], [0.4, 0.35, 0.25]];
    /// let scorer = PrefixScorer::new(&Tensor::new(&probs, &Device::Cpu)?.log()?, PrefixScorerOptions::default())?;
    ///
    /// let (empty, start) = (scorer.initial_state(), model.start()?);
    /// let (a, behind_a) = (scorer.extend(&empty, 1)?, model.advance(&start, 1)?);
    /// let mut scores = scorer.score(&[&a])?.remove(0);
    /// assert!(scores.end > scores.next[2]);
    /// scores.fuse(&model, &behind_a, 1.0)?;
    /// assert!(scores.next[2] > scores.end);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the weight is not from 0 to 1e100, or if the model fails or gives NaN or +inf: the scores are then as they
    /// were.
    #[doc(alias = "shallow fusion")]
    pub fn fuse<L: LanguageModel + ?Sized>(
        &mut self,
        model: &L,
        state: &L::State,
        weight: f64,
    ) -> Result<()> {
        check_weight("PrefixScores::fuse", "weight", weight)?;
        if weight == 0.0 {
            return Ok(());
        }
        let mut fused = self.clone();
        let next = fused.next.iter_mut().zip(0u32..);
        let next = next.map(|(score, token)| (score, Some(token)));
        for (score, token) in next.chain([(&mut fused.end, None)]) {
            if *score == f64::NEG_INFINITY {
                continue;
            }
            let given = match token {
                Some(token) => model.score(state, token)?,
                None => model.end(state)?,
            };
            if given.is_nan() || given == f64::INFINITY {
                let of = token.map_or("the end of the text".to_owned(), |t| format!("token {t}"));
                bail!("PrefixScores::fuse: the language model gave {given} for {of}")
            }
            *score += weight * given;
        }
        *self = fused;
        Ok(())
    }
}

impl PrefixScorer {
    /// A scorer for one utterance.
    ///
    /// # Arguments
    ///
    /// * `log_probs` - `(T, C)`, or with a batch dimension of 1, from a log-softmax; or logits with
    ///   [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. `T` may be 0. For an item of a batch, narrow the
    ///   tensor to the frames of the item.
    /// * `opts` - see [`PrefixScorerOptions`].
    ///
    /// # Errors
    ///
    /// If shape, dtype or blank do not fit, if a frame contains NaN or +inf (or logits that are all −inf), or if the
    /// input cannot be log-probabilities (see [`InputKind::LogProbs`]); the message names the frame and the class.
    pub fn new(log_probs: &Tensor, opts: PrefixScorerOptions) -> Result<Self> {
        let layout = InputLayout::default();
        let call = Call::new(
            "PrefixScorer",
            opts.input,
            opts.normalised,
            opts.blank,
            layout,
        );
        let instead = || "; narrow a batch to one item and its frames".to_owned();
        let log_probs = validate::utterance_or(call.function, log_probs, instead)?;
        let plan = validate::plan_for_utterance(call, &log_probs)?;
        check_room::<f64>("PrefixScorer: a prefix", 4, &[plan.input.frames])?;
        check_normalised(&call, &plan, &log_probs, 0)?;
        let log_probs = distribution::checked_log_probs(&call, &plan, &log_probs)?;
        static SCORERS: AtomicU64 = AtomicU64::new(0);
        let id = SCORERS.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id,
            plan,
            log_probs,
        })
    }

    /// `T`: frames of the utterance.
    pub fn frames(&self) -> usize {
        self.plan.input.frames
    }

    /// `C`: classes, including the blank.
    pub fn classes(&self) -> usize {
        self.plan.input.classes
    }

    /// The state of the empty prefix.
    pub fn initial_state(&self) -> PrefixState {
        let mut blank = vec![0.0; self.plan.input.frames + 1];
        rows(&self.plan, &self.log_probs).column(0, self.plan.input.blank, &mut blank[1..]);
        let mut sum = 0.0;
        for entry in &mut blank {
            sum += *entry;
            *entry = sum;
        }
        PrefixState {
            scorer: self.id,
            last: None,
            score: 0.0,
            label: vec![f64::NEG_INFINITY; blank.len()],
            blank,
        }
    }

    /// The scores of all next tokens of each prefix, and of its end.
    ///
    /// # Errors
    ///
    /// If a state belongs to another scorer; the message names it.
    pub fn score<S: Borrow<PrefixState> + Sync>(&self, states: &[S]) -> Result<Vec<PrefixScores>> {
        let Input {
            frames, classes, ..
        } = self.plan.input;
        for (number, state) in states.iter().enumerate() {
            self.check(state.borrow(), || format!("state {number}"))?;
        }
        // For a class other than the last label, alignments of either ending may continue.
        let either: Vec<Vec<f64>> = states
            .iter()
            .map(|state| {
                let PrefixState { blank, label, .. } = state.borrow();
                let both = blank.iter().zip(label);
                both.map(|(&blank, &label)| log_add(blank, label)).collect()
            })
            .collect();
        let before: Vec<&[f64]> = either.iter().map(|either| &either[..frames]).collect();
        let blocks: Vec<(usize, Vec<f64>)> = (0..classes)
            .into_par_iter()
            .step_by(BLOCK)
            .map(|first| {
                let rows = rows(&self.plan, &self.log_probs);
                let width = BLOCK.min(classes - first);
                let read = |frame, row: &mut [f64]| rows.read(0, frame, first, row);
                (width, cpu::log_sums(&before, frames, width, read))
            })
            .collect();
        let rows = rows(&self.plan, &self.log_probs);
        let mut column = vec![0.0; frames];
        let scores = states.iter().enumerate().map(|(number, state)| {
            let state = state.borrow();
            let mut next = Vec::with_capacity(classes);
            for (width, block) in &blocks {
                next.extend_from_slice(&block[number * width..(number + 1) * width]);
            }
            next[self.plan.input.blank] = f64::NEG_INFINITY;
            if let Some(last) = state.last {
                rows.column(0, last as usize, &mut column);
                next[last as usize] = log_sum(state.blank.iter().zip(&column).map(|(b, y)| b + y));
            }
            PrefixScores {
                next,
                end: state.end_score(),
            }
        });
        Ok(scores.collect())
    }

    /// The state of a prefix with one more token.
    ///
    /// # Errors
    ///
    /// If the token is the blank or not a class, or if the state belongs to another scorer.
    pub fn extend(&self, state: &PrefixState, token: u32) -> Result<PrefixState> {
        let Input {
            frames,
            classes,
            blank,
            ..
        } = self.plan.input;
        if token as usize >= classes || token as usize == blank {
            bail!(
                "PrefixScorer::extend: token {token} cannot follow a prefix; expected a class \
                 below C = {classes} that is not the blank ({blank})"
            )
        }
        self.check(state, || "the state".into())?;
        let rows = rows(&self.plan, &self.log_probs);
        let mut tokens = vec![0.0; frames];
        let mut blanks = vec![0.0; frames];
        rows.column(0, token as usize, &mut tokens);
        rows.column(0, blank, &mut blanks);
        let mut next = PrefixState {
            scorer: self.id,
            last: Some(token),
            score: f64::NEG_INFINITY,
            blank: vec![f64::NEG_INFINITY; frames + 1],
            label: vec![f64::NEG_INFINITY; frames + 1],
        };
        for t in 0..frames {
            let before = state.before(t, token);
            next.label[t + 1] = log_add(next.label[t], before) + tokens[t];
            next.blank[t + 1] = log_add(next.blank[t], next.label[t]) + blanks[t];
        }
        let terms = (0..frames).map(|t| state.before(t, token) + tokens[t]);
        next.score = log_sum(terms);
        Ok(next)
    }

    fn check(&self, state: &PrefixState, name: impl Fn() -> String) -> Result<()> {
        if state.blank.len() != self.plan.input.frames + 1 {
            bail!(
                "PrefixScorer: {} is of an utterance with T = {} frames; this one has {}",
                name(),
                state.blank.len() - 1,
                self.plan.input.frames
            )
        }
        if state.scorer != self.id {
            bail!(
                "PrefixScorer: {} is of another scorer; begin with this one's initial_state",
                name()
            )
        }
        Ok(())
    }
}

/// `ln Σ e^x`.
fn log_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + terms.map(|term| (term - largest).exp()).sum::<f64>().ln()
}
