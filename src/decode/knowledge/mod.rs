//! Language knowledge for the beam search: n-gram models, lexicons and hotwords, each a
//! [`LanguageModel`](super::LanguageModel).
//!
//! `arpa.rs` reads an [`NgramLm`], which `ngram.rs` holds as a trie. [`TokenNgram`] scores tokens by it, [`Lexicon`]
//! words; `words.rs` has what a lexicon asks of a model. [`Hotwords`] stand on top of any model. For the last two
//! `spelling.rs` turns labels into tokens and boundaries between words, and `tree.rs` shares their beginnings.

mod arpa;
mod hotwords;
mod lexicon;
mod ngram;
mod spelling;
mod token_ngram;
mod tree;
mod words;

pub use hotwords::{HotwordState, Hotwords};
pub use lexicon::{Lexicon, LexiconOptions, LexiconState};
pub use ngram::{NgramLm, NgramState};
pub use token_ngram::TokenNgram;
pub use words::WordModel;
