//! Text: vocabularies, transcripts, words, subtitles and error rates. Nothing here takes a tensor.
//!
//! A [`Vocabulary`] says what each class of a model stands for. It reads the files that come with models, turns text
//! into labels for the functions of this crate, and labels into text:
//!
//! ```
//! use candle_ctc::text::Vocabulary;
//!
//! # fn main() -> candle_core::Result<()> {
//! let vocab = br#"{"<pad>": 0, "|": 1, "A": 2, "C": 3, "T": 4}"#; // or Vocabulary::from_path("vocab.json")
//! let vocabulary = Vocabulary::from_bytes(vocab)?;
//! assert_eq!(vocabulary.blank(), 0);
//! assert_eq!(vocabulary.encode("a cat")?, [2, 1, 3, 2, 4]);
//! assert_eq!(vocabulary.decode(&[2, 1, 3, 2, 4]), "A CAT");
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! | File | Class of a token |
//! |---|---|
//! | JSON object `{"token": class}`, such as HuggingFace's `vocab.json`; also `{"class": "token"}` | as it says |
//! | JSON list `["token", ...]` | its place in the list, from 0 |
//! | one token a line | its line, from 0 |
//! | `token id` a line: icefall, k2, WeNet, sherpa; also `id token` | as it says; `#0`, `#1`, ... at the end are left out: they belong to the decoding graph and are no classes |
//! | `token<TAB>score` a line: SentencePiece's `.vocab` | its line, from 0 |
//! | HuggingFace's `tokenizer.json` | as it says |
//!
//! The content decides, not the name. A byte-order mark, Windows line ends and empty lines at the end do no harm. An
//! empty line before the end is the empty token. Every class must have one token and every token one class.
//!
//! # The blank
//!
//! The blank is found by its name: `<blank>`, `<blk>` or `<ctc>`; else `<pad>`, `[PAD]`, `<eps>` or the empty token;
//! else `ε`, `-` or `_` as the first or the last token (`ε` only where no other Greek letter is a token). Case does not
//! matter. No such token, or two of one rank, is an error that asks for the blank: name it with
//! [`VocabularyBuilder::blank`]. It may be the class after the last token, as in NeMo.
//!
//! # Words
//!
//! [`WordMark`] lists how vocabularies mark words, and how the mark of a vocabulary is found. Text in scripts without
//! spaces needs no mark; in [`Vocabulary::words`] each Chinese character and each kana is a word then.
//!
//! Tokens such as `<unk>` or `[noise]`, with a name in angle or square brackets, never spell text.
//! [`Vocabulary::decode`] leaves out the blank, `<pad>`, `<s>`, `</s>`, `<sos/eos>`, `<mask>`, `[CLS]`, `[SEP]`, tokens
//! like `<|endoftext|>`, and special tokens of a `tokenizer.json`. It writes others by their name. `<0x41>` is the byte
//! 0x41.
//!
//! # From text to labels
//!
//! 1. Whitespace of any kind and length becomes one space, and none at the ends.
//! 2. Case becomes that of the vocabulary, see [`Case`], by Unicode's rules, which depend on no language: for
//!    Turkish, change the case beforehand.
//! 3. Each character is taken in Unicode's composed form (NFC) if the vocabulary has its parts, else in the decomposed
//!    form (NFD) if it has those. "Character" means what a reader takes for one: a grapheme cluster.
//! 4. Tokens spell the text. Where several spellings exist:
//!    - With a `tokenizer.json`, the file's own rules choose, through the crate `tokenizers` (not on WebAssembly).
//!    - With SentencePiece scores, the spelling with the highest sum is taken for a unigram model, and merges are made
//!      in their order for a BPE model. (BPE scores are 0, −1, −2, ...)
//!    - Otherwise the longest token at each position is taken, among those from which the rest can be spelled. A model
//!      that was trained on SentencePiece's spellings knows others: give its scores with
//!      [`VocabularyBuilder::scores_from_path`], or use all spellings, [`Vocabulary::spellings`].
//!
//! Text that no tokens spell is an error that names the character and its position. [`Vocabulary::encode_lossy`] skips
//! such characters or puts a star for them, and lists them.
//!
//! # From labels to files
//!
//! [`Vocabulary::words`] groups the spans of an alignment into [`Word`]s. [`to_json`], [`to_srt`], [`to_webvtt`],
//! [`to_textgrid`], [`to_ctm`] and [`to_token_ctm`] write them. [`character_error_rate`] and [`word_error_rate`]
//! compare texts.

mod builder;
mod choices;
mod edges;
mod encode;
mod error_rates;
mod files;
mod marks;
mod outputs;
mod prepare;
#[cfg(not(target_arch = "wasm32"))]
mod rules;
#[cfg(target_arch = "wasm32")]
#[path = "rules_wasm.rs"]
mod rules;
mod spellings;
mod surface;
mod vocabulary;
mod words;

pub use builder::VocabularyBuilder;
pub use choices::TokenOrClass;
pub(crate) use edges::TokenEdges;
pub(crate) use encode::shortened;
pub use encode::{LossyEncoding, Unspellable, Unspelled};
pub use error_rates::{ErrorRate, character_error_rate, word_error_rate};
pub use outputs::ctm::{to_ctm, to_token_ctm};
pub use outputs::json::to_json;
pub use outputs::subtitles::{SubtitleOptions, to_srt, to_webvtt};
pub use outputs::textgrid::to_textgrid;
pub use prepare::Case;
pub use spellings::{SpellingArc, Spellings};
pub use surface::WordMark;
pub use vocabulary::Vocabulary;
pub use words::{Word, WordToken};
