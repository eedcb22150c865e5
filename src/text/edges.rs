//! Where words may begin and end, token by token, and how a word is spelled within a text: for lexicons and hotwords.

use super::surface::{Surface, WordMark, is_unspaced};
use super::vocabulary::Vocabulary;
use candle_core::Result;

/// What a token says of the words around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TokenEdges {
    /// It begins with a space, so that a word ends before it, or is nothing but spaces.
    pub space_before: bool,
    /// It ends with a space.
    pub space_after: bool,
    /// It is more than spaces.
    pub has_text: bool,
    /// It is text, and of one word: not a name such as `<unk>`, and no token that is not printed.
    pub in_one_word: bool,
    /// Words may begin and end beside it without a space: the vocabulary marks no words, or its script has no spaces.
    pub unspaced: bool,
}

impl Vocabulary {
    /// The edges of each token.
    pub(crate) fn token_edges(&self) -> Vec<TokenEdges> {
        let unmarked = matches!(self.mark, WordMark::EachToken | WordMark::None) && !self.has_space;
        let edges = |surface: &Surface| match surface {
            Surface::Text(bytes) => {
                let text = bytes.trim_ascii();
                let is_unspaced = |text: &str| text.chars().all(is_unspaced);
                let unspaced = std::str::from_utf8(text).is_ok_and(is_unspaced);
                TokenEdges {
                    space_before: bytes.first() == Some(&b' '),
                    space_after: bytes.last() == Some(&b' '),
                    has_text: !text.is_empty(),
                    in_one_word: !text.is_empty() && !text.contains(&b' '),
                    unspaced: !text.is_empty() && (unmarked || unspaced),
                }
            }
            Surface::Byte(_) => TokenEdges {
                has_text: true,
                in_one_word: true,
                unspaced: unmarked,
                ..Default::default()
            },
            Surface::Silent | Surface::Name(_) => TokenEdges {
                has_text: true,
                unspaced: unmarked,
                ..Default::default()
            },
        };
        self.surfaces.iter().map(edges).collect()
    }

    /// The labels of words as they stand in a text: as [`Self::encode`] spells them at its beginning, and, where that
    /// differs, after other words.
    pub(crate) fn spell_words(&self, words: &str) -> Result<Vec<Vec<u32>>> {
        let first = self.encode(words)?;
        // The rules of a tokenizer.json alone tell whether the first word has the mark.
        let by_rules = self.is_by_rules();
        let may_differ = match self.mark {
            WordMark::Prefix { first_word, .. } | WordMark::ByteLevel { first_word } => {
                by_rules || !first_word
            }
            _ => false,
        };
        let surface = |label: &u32| self.surfaces.get(*label as usize).map(Surface::bytes);
        let is_marked = first
            .first()
            .and_then(surface)
            .is_some_and(|surface| surface.starts_with(b" "));
        if !may_differ || is_marked {
            return Ok(vec![first]);
        }
        let twice = self.encode(&format!("{words} {words}"))?;
        let second = twice.strip_prefix(&first[..]).map(<[u32]>::to_vec);
        let second = second.filter(|second| *second != first);
        Ok([Some(first), second].into_iter().flatten().collect())
    }
}
