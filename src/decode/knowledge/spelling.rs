//! Words and phrases as sequences of symbols: tokens, and the boundaries between words.

use crate::text::{TokenEdges, Vocabulary};
use candle_core::{Result, bail};

/// The symbol for the edge of a word. Every other symbol is a class.
pub(super) const BOUNDARY: u32 = u32::MAX;

/// What each token of a vocabulary means for words.
#[derive(Debug, Clone)]
pub(super) struct Symbols {
    edges: Vec<TokenEdges>,
    blank: usize,
}

impl Symbols {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        Self {
            edges: vocabulary.token_edges(),
            blank: vocabulary.blank(),
        }
    }

    /// The edges of a token.
    pub fn edges(&self, what: &str, token: u32) -> Result<TokenEdges> {
        match self.edges.get(token as usize) {
            Some(edges) => Ok(*edges),
            None => bail!(
                "{what}: token {token} is no class of its vocabulary, which has {} classes",
                self.edges.len()
            ),
        }
    }

    /// The tokens that may stand after the last token of a word.
    pub fn behind_words(&self) -> Vec<u32> {
        self.tokens_with(|edges| edges.space_before || edges.unspaced)
    }

    /// The tokens without text.
    pub fn separators(&self) -> Vec<u32> {
        self.tokens_with(|edges| !edges.has_text)
    }

    fn tokens_with(&self, has: impl Fn(&TokenEdges) -> bool) -> Vec<u32> {
        let tokens = (0..).zip(&self.edges);
        tokens
            .filter(|(_, edges)| has(edges))
            .map(|(token, _)| token)
            .collect()
    }

    /// The symbols of a token: of " ab", which begins a word, the boundary and the token.
    pub fn of(edges: TokenEdges, token: u32) -> impl Iterator<Item = u32> {
        let before = edges.space_before.then_some(BOUNDARY);
        let after = (edges.has_text && edges.space_after).then_some(BOUNDARY);
        let text = edges.has_text.then_some(token);
        [before, text, after].into_iter().flatten()
    }

    /// The symbols of labels, without boundaries at the ends and with one between words.
    pub fn spell(&self, what: &str, labels: &[u32]) -> Result<Vec<u32>> {
        let mut symbols = Vec::with_capacity(labels.len());
        for &label in labels {
            if label as usize == self.blank {
                bail!("{what}: the spelling {labels:?} has the blank, class {label}")
            }
            for symbol in Self::of(self.edges(what, label)?, label) {
                if symbol != BOUNDARY || symbols.last().is_some_and(|last| *last != BOUNDARY) {
                    symbols.push(symbol);
                }
            }
        }
        if symbols.last() == Some(&BOUNDARY) {
            symbols.pop();
        }
        Ok(symbols)
    }

    /// Whether no boundary stands between words that end and begin with these symbols.
    pub fn is_unspaced(&self, symbol: u32) -> bool {
        self.edges
            .get(symbol as usize)
            .is_some_and(|edges| edges.unspaced)
    }
}
