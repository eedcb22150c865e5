//! From emissions to labellings: greedy decoding, prefix beam search with language knowledge, the choice from an n-best
//! list, prefix scores for joint attention/CTC decoding, and keyword spotting.

mod arena;
mod beam;
mod greedy;
mod keywords;
mod knowledge;
mod language_model;
mod minimum_bayes_risk;
mod prefix;

pub use beam::{
    BeamOptions, BeamSearch, End, beam_search, beam_search_batch, beam_search_batch_with,
    beam_search_with,
};
pub use greedy::{GreedyOptions, greedy_decode, greedy_decode_batch};
pub use keywords::{KeywordHit, SpotOptions, spot_keywords, spot_keywords_batch};
pub use knowledge::{
    HotwordState, Hotwords, Lexicon, LexiconOptions, LexiconState, NgramLm, NgramState, TokenNgram,
    WordModel,
};
pub use language_model::{LanguageModel, NoLanguageModel};
pub use minimum_bayes_risk::minimum_bayes_risk;
pub use prefix::{PrefixScorer, PrefixScorerOptions, PrefixScores, PrefixState};

use crate::spans::TokenSpan;

/// A labelling that a decoder found.
///
/// As `AsRef<[u32]>` it is its tokens, so an n-best list goes into [`rank_transcripts`](crate::rank_transcripts) as it
/// is.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Hypothesis {
    /// The labels: blanks are dropped, and the frames of a label count once. Equal labels may follow each other.
    pub tokens: Vec<u32>,
    /// The log-probability under CTC, in nats. From a beam search: of the labelling, summed over its alignments within
    /// the beam. From greedy decoding: of the single best path.
    pub score: f64,
    /// The contribution of the language model and the token bonus, including weights; 0 without them.
    pub lm_score: f64,
    /// The frames of each token in the best alignment that the decoder found, one span per token.
    /// [`Vocabulary::words`](crate::text::Vocabulary::words) makes of them words with times and scores.
    pub spans: Vec<TokenSpan>,
}

impl Hypothesis {
    /// `score + lm_score`: the ranking criterion of a beam search.
    pub fn total_score(&self) -> f64 {
        self.score + self.lm_score
    }
}

impl AsRef<[u32]> for Hypothesis {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}

/// `ln(e^a + e^b)`, for values below +inf.
#[inline]
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}
