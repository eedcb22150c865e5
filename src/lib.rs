//! The Connectionist Temporal Classification loss for [candle](https://docs.rs/candle-core).

mod align;
mod cpu;
mod decode;
mod feasibility;
mod host;
mod lengths;
mod loss;
mod op;
mod options;
mod plan;
mod reduce;
mod score;
mod validate;

pub use align::{AlignOptions, Alignment, TokenSpan, WordSpan, forced_align, group_words};
pub use cpu::Isa;
pub use decode::{
    BeamOptions, BeamSearch, CtcPrefixScorer, DecodeOptions, Hypothesis, LanguageModel,
    NoLanguageModel, PrefixOptions, PrefixScores, PrefixState, beam_search, beam_search_batch,
    beam_search_batch_with, beam_search_with, greedy_decode,
};
pub use feasibility::{Feasibility, feasibility};
pub use lengths::{IntoLengths, Lengths};
pub use loss::{CtcLoss, ctc_loss, ctc_loss_with_logits};
pub use options::{CtcLossOptions, GradientKind, InputLayout, Reduction};
pub use score::{
    ScoreOptions, TokenConfidence, TranscriptScore, rank_transcripts, score_transcripts,
    score_transcripts_batch, state_posteriors, token_confidence,
};
