//! The vocabulary: tokens, classes, and what they stand for.

use super::choices::Choices;
use super::files::Source;
use super::prepare::Case;
use super::rules::Rules;
use super::surface::{Surface, WordMark};
use aho_corasick::AhoCorasick;
use std::collections::{HashMap, HashSet};

/// What the classes of a model stand for.
///
/// Files, blanks, word marks and the rules of spelling are described in the [module](super).
#[derive(Clone)]
pub struct Vocabulary {
    pub(super) source: Source,
    pub(super) choices: Choices,
    pub(super) classes: HashMap<String, u32>,
    pub(super) blank: u32,
    pub(super) mark: WordMark,
    pub(super) case: Case,
    /// What each class stands for.
    pub(super) surfaces: Vec<Surface>,
    /// The characters of all tokens that stand for text.
    pub(super) characters: HashSet<char>,
    /// The characters with which a token begins a word, after the space.
    pub(super) word_starts: HashSet<char>,
    /// Whether a token is a space.
    pub(super) has_space: bool,
    /// Finds the surfaces of `matched` in a text.
    pub(super) matcher: AhoCorasick,
    pub(super) matched: Vec<u32>,
    /// The classes that stand for single bytes.
    pub(super) bytes: HashMap<u8, u32>,
    pub(super) rules: Option<Rules>,
}

impl Vocabulary {
    /// The class of the blank, for the field `blank` of the options of this crate's functions.
    pub fn blank(&self) -> usize {
        self.blank as usize
    }

    /// The number of classes, the blank included: the last dimension of the model's output.
    pub fn class_count(&self) -> usize {
        self.source.tokens.len()
    }

    /// The token of a class, as the file writes it.
    pub fn token(&self, class: u32) -> Option<&str> {
        self.source.tokens.get(class as usize).map(String::as_str)
    }

    /// The class of a token, as the file writes it.
    pub fn class_of(&self, token: &str) -> Option<u32> {
        self.classes.get(token).copied()
    }

    /// The tokens in the order of their classes.
    pub fn tokens(&self) -> &[String] {
        &self.source.tokens
    }

    /// The classes that a transcript should not hold, in ascending order: the tokens for unknown text, for the
    /// beginning and the end of a text, for padding, and others that print nothing, without the blank. They are meant
    /// for [`BeamOptions::suppress`](crate::BeamOptions::suppress): hypotheses that differ only in tokens that print
    /// nothing have the same text. Names that are printed, such as `<noise>`, are not among them.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<pad>", "<s>", "</s>", "<unk>", "|", "a", "<noise>"])?;
    /// assert_eq!(vocabulary.special_classes(), [1, 2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "skip_special_tokens")]
    pub fn special_classes(&self) -> Vec<u32> {
        let surfaces = self.surfaces.iter().zip(0..);
        let special = surfaces.filter(|&(surface, class)| {
            class != self.blank && (*surface == Surface::Silent || self.is_unknown(class))
        });
        special.map(|(_, class)| class).collect()
    }

    /// Whether a class stands for unknown text: by what the file says, or by its name.
    fn is_unknown(&self, class: u32) -> bool {
        let token = &self.source.tokens[class as usize];
        let is = |name: &str| token.eq_ignore_ascii_case(name);
        self.source.unknown == Some(class) || is("<unk>") || is("[unk]")
    }

    /// How words are marked.
    pub fn word_mark(&self) -> &WordMark {
        &self.mark
    }

    /// The class between words, as [`group_words`](crate::group_words) takes it, if the vocabulary has one.
    pub fn separator(&self) -> Option<u32> {
        match &self.mark {
            WordMark::Separator(token) => self.class_of(token),
            _ => None,
        }
    }

    /// What happens to the case of text.
    pub fn case(&self) -> Case {
        self.case
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("class_count", &self.class_count())
            .field("blank", &self.blank)
            .field("word_mark", &self.mark)
            .field("case", &self.case)
            .finish_non_exhaustive()
    }
}
