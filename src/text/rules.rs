//! Spelling by the rules of a tokenizer, through the crate `tokenizers`.

use super::encode::shortened;
use super::surface::Surface;
use candle_core::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{Model, Tokenizer};

/// The class of text that a model does not know, if it has no token for such text. Without a class, a BPE model drops
/// the text, so that the offsets of the rest are too small, and other models fail. No vocabulary has so many classes.
const UNKNOWN: u32 = u32::MAX;

/// How text is cut into tokens.
#[derive(Clone)]
pub(super) struct Rules(Kind);

#[derive(Clone)]
enum Kind {
    /// All of a `tokenizer.json`: its own normalisation, words and model. It takes text as people write it.
    Pipeline(Arc<Tokenizer>),
    /// The merges of a SentencePiece BPE model. They take a surface that is written with the mark of the vocabulary.
    Merges(Arc<BPE>),
}

impl Rules {
    pub fn from_tokenizer_json(file: &Value) -> Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::msg(format!("not a valid tokenizer.json: {error}"))
        };
        let mut tokenizer =
            Tokenizer::from_bytes(file.to_string()).map_err(|error| invalid(&error))?;
        // Not before: one more token in the file would change the classes of added tokens.
        if let Some(model) = with_unknown(&file["model"]) {
            let model: ModelWrapper =
                serde_json::from_str(&model.to_string()).map_err(|error| invalid(&error))?;
            tokenizer.with_model(model);
        }
        Ok(Self(Kind::Pipeline(Arc::new(tokenizer))))
    }

    /// The rules of a SentencePiece BPE model, if the scores are those of one: ranks 0, −1, −2, ...
    pub fn from_scores(
        tokens: &[String],
        scores: &[f64],
        surfaces: &[Surface],
    ) -> Result<Option<Self>> {
        let mut pieces: Vec<(usize, f64)> = scores.iter().copied().enumerate().collect();
        pieces.retain(|(class, _)| matches!(surfaces[*class], Surface::Text(_)));
        pieces.sort_by(|a, b| b.1.total_cmp(&a.1));
        // Symbols that the user of the trainer defined have a score of 0, too.
        let lowest = pieces.last().map_or(0.0, |(_, score)| *score);
        let distinct = pieces
            .windows(2)
            .filter(|pair| pair[0].1 != pair[1].1)
            .count();
        let ranks = pieces.iter().all(|(_, score)| score.fract() == 0.0);
        if !ranks || lowest > -1.0 || distinct as f64 != -lowest {
            return Ok(None);
        }
        let byte = |class: &usize| matches!(surfaces[*class], Surface::Byte(_));
        let bytes: Vec<usize> = (0..tokens.len()).filter(byte).collect();
        let byte_fallback = bytes.len() == 256;
        let classes = pieces.iter().map(|(class, _)| *class).chain(bytes);
        let mut vocab: HashMap<String, u32> = classes
            .map(|class| (tokens[class].clone(), class as u32))
            .collect();
        let mut merges = Vec::new();
        for (class, _) in &pieces {
            let token = tokens[*class].as_str();
            let splits = token
                .char_indices()
                .skip(1)
                .map(|(at, _)| token.split_at(at));
            let mut splits: Vec<_> = splits
                .filter_map(|(left, right)| {
                    Some((vocab.get(left)?, vocab.get(right)?, left, right))
                })
                .collect();
            splits.sort();
            merges.extend(
                splits
                    .into_iter()
                    .map(|(_, _, left, right)| (left.to_owned(), right.to_owned())),
            );
        }
        let unknown = no_token(vocab.keys());
        vocab.insert(unknown.clone(), UNKNOWN);
        let model = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
            .unk_token(unknown)
            .byte_fallback(byte_fallback)
            .build()
            .map_err(|error| {
                Error::msg(format!(
                    "the SentencePiece BPE model cannot be used: {error}"
                ))
            })?;
        Ok(Some(Self(Kind::Merges(Arc::new(model)))))
    }

    /// Whether these take text as people write it, and not a surface.
    pub fn is_pipeline(&self) -> bool {
        matches!(self.0, Kind::Pipeline(_))
    }

    /// The class that a token has in the classes of a text.
    pub fn class_of(&self, token: &str) -> Option<u32> {
        match &self.0 {
            Kind::Pipeline(tokenizer) => tokenizer.token_to_id(token),
            Kind::Merges(model) => model.token_to_id(token),
        }
    }

    /// The classes of a text, each with its bytes there. A class that is not one of the vocabulary stands for what the
    /// rules do not know.
    pub fn cut(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let failed = |error| {
            Error::msg(format!(
                "the rules of the vocabulary fail at {:?}: {error}",
                shortened(text)
            ))
        };
        match &self.0 {
            Kind::Pipeline(tokenizer) => {
                let encoding = tokenizer.encode(text, false).map_err(failed)?;
                let offsets = encoding
                    .get_offsets()
                    .iter()
                    .map(|&(start, end)| start..end);
                Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
            }
            Kind::Merges(model) => {
                let tokens = model.tokenize(text).map_err(failed)?;
                Ok(tokens
                    .into_iter()
                    .map(|token| (token.id, token.offsets.0..token.offsets.1))
                    .collect())
            }
        }
    }
}

/// A model with a token for unknown text, if it has none. A unigram model, whose vocabulary is a list, stays as it is.
fn with_unknown(model: &Value) -> Option<Value> {
    let vocab = model["vocab"].as_object()?;
    let unknown = match model["unk_token"].as_str() {
        Some(name) if vocab.contains_key(name) => return None,
        Some(name) => name.to_owned(),
        None => no_token(vocab.keys()),
    };
    let mut model = model.clone();
    model["vocab"][&unknown] = UNKNOWN.into();
    model["unk_token"] = unknown.into();
    Some(model)
}

/// A name that none of the tokens has.
fn no_token<'a>(tokens: impl Iterator<Item = &'a String>) -> String {
    let longest = tokens.map(String::len).max().unwrap_or_default();
    "\0".repeat(longest + 1)
}
