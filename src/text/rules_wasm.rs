//! The rules of tokenizers on WebAssembly, where candle does without the crate `tokenizers`: there are none.

use super::surface::Surface;
use candle_core::{Result, bail};
use std::ops::Range;

#[derive(Clone)]
pub(super) enum Rules {}

impl Rules {
    pub fn from_tokenizer_json(_file: &serde_json::Value) -> Result<Self> {
        bail!(
            "a tokenizer.json needs the crate tokenizers, which candle does not use on WebAssembly; give a vocab.json"
        )
    }

    /// No rules: unigram scores need none. The ranks of a BPE model, which are whole numbers, are an error.
    pub fn from_scores(
        tokens: &[String],
        scores: &[f64],
        surfaces: &[Surface],
    ) -> Result<Option<Self>> {
        let texts = || {
            scores
                .iter()
                .zip(surfaces)
                .filter(|(_, surface)| matches!(surface, Surface::Text(_)))
        };
        if texts().all(|(score, _)| score.fract() == 0.0) && texts().any(|(score, _)| *score < 0.0)
        {
            bail!(
                "the scores of these {} tokens are the ranks of a BPE model, which needs the crate tokenizers; candle \
                 does not use it on WebAssembly",
                tokens.len()
            )
        }
        Ok(None)
    }

    pub fn is_pipeline(&self) -> bool {
        match *self {}
    }

    pub fn class_of(&self, _token: &str) -> Option<u32> {
        match *self {}
    }

    pub fn cut(&self, _text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        match *self {}
    }
}
