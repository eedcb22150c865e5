//! What a caller of the beam search chooses.

use crate::decode::language_model::check_weight;
use crate::options::{InputKind, InputLayout};
use crate::problem::validate::{Call, check_rows};
use candle_core::{Result, bail};

/// The options of [`beam_search`](crate::beam_search) and related functions.
///
/// `token_threshold`, `relative_token_threshold`, `tokens_per_frame` and `beam_threshold` are off by default: only the
/// width of the beam then limits the search.
///
/// ```
/// use candle_ctc::BeamOptions;
/// let opts = BeamOptions { beam_width: 100, n_best: 10, ..Default::default() };
/// assert_eq!((opts.blank, opts.lm_weight), (0, 1.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamOptions<'a> {
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
    /// Prefixes kept after each frame, at least 1. With `usize::MAX` nothing is pruned and the result is exact, at a
    /// cost that grows exponentially with the frames. Default 50.
    pub beam_width: usize,
    /// The maximum number of hypotheses to return, at least 1; at most `beam_width` are found. With 1 (the default) and
    /// a language model, a full beam also drops a prefix when another with the same last token and language-model state
    /// ([`LanguageModel::state_key`](crate::LanguageModel::state_key)) scores at least as well. This makes room for
    /// other texts; the result may therefore differ from the first hypothesis of `n_best: 2`.
    pub n_best: usize,
    /// A token below this log-probability in a frame (after the log-softmax of logits) extends no prefix there. The
    /// blank, and the repeated last label of a prefix, are not affected. Default −inf: off.
    pub token_threshold: f64,
    /// A token more than this below the most probable class of a frame, in nats, extends no prefix there (Shree and
    /// Jupuru 2025, <https://arxiv.org/abs/2510.09085>). The most probable class may also be the blank or one of
    /// `suppress`: where the model is sure of the blank, few tokens are tried. The blank, the repeated last
    /// label of a prefix, and longer prefixes that are in the beam already are not affected. Default +inf: off.
    pub relative_token_threshold: f64,
    /// Only this many tokens, the most probable of a frame, may extend a prefix there. The blank, and the repeated last
    /// label of a prefix, are not affected. At least 1. Default `usize::MAX`: off.
    pub tokens_per_frame: usize,
    /// Prefixes with a score more than this below the best are dropped, in nats. Default +inf: off.
    pub beam_threshold: f64,
    /// The weight of the language model's scores, from 0 to 1e100. Default 1. With 0 no score of the model counts, not
    /// even −inf: a lexicon restricts nothing, no hotword is preferred, and [`End::Required`] drops nothing. For a
    /// lexicon without the scores of its word model, set
    /// [`LexiconOptions::lm_weight`](crate::LexiconOptions::lm_weight) to 0.
    pub lm_weight: f64,
    /// Added to the score for each token, in nats, from −1e100 to 1e100: it compensates for a language model's
    /// preference for short texts. Default 0.
    pub token_bonus: f64,
    /// Whether a hypothesis must end where the language model lets a text end. Default [`End::Preferred`].
    pub end: End,
    /// Classes that no hypothesis may hold, such as `<s>`, `</s>` and `<unk>`, which
    /// [`Vocabulary::special_classes`](crate::text::Vocabulary::special_classes) lists. The probabilities of the other
    /// classes are not renormalised. Default none.
    pub suppress: &'a [u32],
}

/// What a beam search does with [`LanguageModel::end`](crate::LanguageModel::end), the score for the end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum End {
    /// The score is added, and a hypothesis whose end scores −inf is dropped: with a lexicon, one that ends in the
    /// middle of a word. A cut-off utterance may then have no hypothesis.
    Required,
    /// The same, but if no hypothesis is left, all are taken as they are, without a score for the end.
    #[default]
    Preferred,
    /// The score is not added.
    Ignored,
}

impl Default for BeamOptions<'_> {
    fn default() -> Self {
        Self {
            blank: 0,
            layout: InputLayout::default(),
            input: InputKind::default(),
            normalised: true,
            beam_width: 50,
            n_best: 1,
            token_threshold: f64::NEG_INFINITY,
            relative_token_threshold: f64::INFINITY,
            tokens_per_frame: usize::MAX,
            beam_threshold: f64::INFINITY,
            lm_weight: 1.0,
            token_bonus: 0.0,
            end: End::default(),
            suppress: &[],
        }
    }
}

impl BeamOptions<'_> {
    /// The defaults with [`InputLayout::BatchMajor`].
    pub fn batch_major() -> Self {
        Self {
            layout: InputLayout::BatchMajor,
            ..Self::default()
        }
    }

    pub(super) fn call(&self, function: &'static str) -> Call {
        Call::new(
            function,
            self.input,
            self.normalised,
            self.blank,
            self.layout,
        )
    }
}

/// Checks the options of a beam search over `classes` classes.
pub(super) fn check_options(
    function: &'static str,
    classes: usize,
    opts: &BeamOptions,
) -> Result<()> {
    if opts.blank >= classes {
        bail!(
            "{function}: blank = {} is not a class; there are C = {classes} classes",
            opts.blank
        )
    }
    check_rows(function, "frames", classes)?;
    for &class in opts.suppress {
        if class as usize >= classes || class as usize == opts.blank {
            bail!(
                "{function}: suppress has {class}; it lists classes below C = {classes} other than the blank ({})",
                opts.blank
            )
        }
    }
    for (name, value) in [
        ("beam_width", opts.beam_width),
        ("n_best", opts.n_best),
        ("tokens_per_frame", opts.tokens_per_frame),
    ] {
        if value == 0 {
            bail!("{function}: {name} = 0; it must be at least 1")
        }
    }
    if opts.token_threshold.is_nan() || opts.token_threshold > 0.0 {
        bail!(
            "{function}: token_threshold = {}; it is a log-probability and must be at most 0",
            opts.token_threshold
        )
    }
    for (name, value) in [
        ("relative_token_threshold", opts.relative_token_threshold),
        ("beam_threshold", opts.beam_threshold),
    ] {
        if value.is_nan() || value < 0.0 {
            bail!("{function}: {name} = {value}; it must be at least 0")
        }
    }
    check_weight(function, "lm_weight", opts.lm_weight)?;
    // The sum over the tokens of a text stays finite.
    if opts.token_bonus.is_nan() || opts.token_bonus.abs() > 1e100 {
        bail!(
            "{function}: token_bonus = {}; it must be from -1e100 to 1e100",
            opts.token_bonus
        )
    }
    Ok(())
}
