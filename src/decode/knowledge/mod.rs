//! Language knowledge for the beam search: n-gram models, lexicons and hotwords, each a
//! [`LanguageModel`](super::LanguageModel).
//!
//! `ngram.rs` has the [`NgramLm`]: a `dictionary.rs` of its words and a `trie.rs` of its n-grams, in the arrays of
//! `storage.rs`. `arpa.rs` reads one and `estimate.rs` counts one, both into `table.rs`; `binary.rs` writes and
//! maps it. [`TokenNgram`] scores tokens by it, [`Lexicon`]
//! words; `words.rs` has what a lexicon asks of a model. [`Hotwords`] stand on top of any model. For the last two
//! `spelling.rs` turns labels into tokens and boundaries between words, and `tree.rs` shares their beginnings.

mod arpa;
mod binary;
mod dictionary;
mod estimate;
mod hotwords;
mod lexicon;
mod ngram;
mod spelling;
mod storage;
mod table;
mod token_ngram;
mod tree;
mod trie;
mod words;

pub use hotwords::{HotwordState, Hotwords};
pub use lexicon::{Lexicon, LexiconOptions, LexiconState};
pub use ngram::{NgramLm, NgramState};
pub use token_ngram::TokenNgram;
pub use words::WordModel;
