//! Text in the form in which a vocabulary spells it: spaces, case and Unicode's forms.

use std::collections::HashSet;
use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// What happens to the case of a text.
///
/// By default text is made upper-case if the vocabulary has upper-case letters and no lower-case ones, lower-case if it
/// is the other way round, and is kept otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Text is made upper-case.
    Upper,
    /// Text is made lower-case.
    Lower,
    /// Text is kept as it is.
    Keep,
}

impl Case {
    /// The case of a vocabulary with these characters.
    pub(super) fn of(characters: &HashSet<char>) -> Self {
        let upper = characters.iter().any(|c| c.is_uppercase());
        let lower = characters
            .iter()
            .any(|&c| c.to_uppercase().next() != Some(c) && c.is_lowercase());
        match (upper, lower) {
            (true, false) => Self::Upper,
            (false, true) => Self::Lower,
            _ => Self::Keep,
        }
    }

    /// A text in this case.
    pub(super) fn apply(self, text: &str) -> String {
        match self {
            Self::Upper => text.to_uppercase(),
            Self::Lower => text.to_lowercase(),
            Self::Keep => text.to_owned(),
        }
    }

    /// The number of characters that one character becomes.
    fn length(self, c: char) -> usize {
        match self {
            Self::Upper => c.to_uppercase().count(),
            Self::Lower => c.to_lowercase().count(),
            Self::Keep => 1,
        }
    }
}

/// Where spaces stand beside those between words.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spaces {
    pub first: bool,
    pub last: bool,
}

/// A text as the vocabulary spells it.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub text: String,
    /// Characters as readers see them, and spaces, in order. Together they are the text.
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Its first byte in the prepared text.
    pub at: usize,
    /// Its bytes in the text that was given. None for a space that the word mark asks for at the ends.
    pub origin: Range<usize>,
    pub is_space: bool,
}

impl Prepared {
    /// The text without some pieces.
    pub fn without(&self, left_out: &[bool]) -> Self {
        let mut rest = Self::default();
        for (index, piece) in self
            .pieces
            .iter()
            .enumerate()
            .filter(|(index, _)| !left_out[*index])
        {
            rest.push(
                &self.text[self.range(index)],
                piece.origin.clone(),
                piece.is_space,
            );
        }
        rest
    }

    /// The bytes of a piece in the prepared text.
    pub fn range(&self, piece: usize) -> Range<usize> {
        let end = self
            .pieces
            .get(piece + 1)
            .map_or(self.text.len(), |next| next.at);
        self.pieces[piece].at..end
    }
}

/// Prepares a text. `fits` tells whether the vocabulary has all characters of a string; `spaced`, whether a word that
/// begins with a character takes a space before it.
pub(super) fn prepare(
    text: &str,
    case: Case,
    spaces: Spaces,
    fits: impl Fn(&str) -> bool,
    spaced: impl Fn(char) -> bool,
) -> Prepared {
    let cased = case.apply(text);
    let origins = origins(text, &cased, case);
    let mut out = Prepared {
        text: String::with_capacity(cased.len() + 2),
        pieces: Vec::new(),
    };
    // Words first: Unicode makes one character of a space and the marks behind it.
    for word in cased.split_whitespace() {
        let word_start = word.as_ptr() as usize - cased.as_ptr() as usize;
        let start = origins[word_start].start;
        // None at the start of the text, unless one is asked for.
        let mut space = match out.pieces.last() {
            Some(piece) => Some(piece.origin.end..start),
            None => spaces.first.then_some(start..start),
        };
        for (at, grapheme) in word.grapheme_indices(true) {
            let at = word_start + at;
            let origin = origins[at].start..origins[at + grapheme.len() - 1].end;
            let first = grapheme.chars().next().unwrap_or_default();
            if let Some(space) = space.take().filter(|_| spaced(first)) {
                out.push(" ", space, true);
            }
            let form = [
                grapheme.nfc().collect::<String>(),
                grapheme.nfd().collect(),
                grapheme.to_owned(),
            ];
            let form = form.iter().find(|form| fits(form)).unwrap_or(&form[0]);
            out.push(form, origin, false);
        }
    }
    if spaces.last && !out.text.is_empty() {
        let end = out.pieces.last().map_or(0, |piece| piece.origin.end);
        out.push(" ", end..end, true);
    }
    out
}

impl Prepared {
    fn push(&mut self, text: &str, origin: Range<usize>, is_space: bool) {
        self.pieces.push(Piece {
            at: self.text.len(),
            origin,
            is_space,
        });
        self.text.push_str(text);
    }
}

/// For each byte of the text in its new case, the bytes of the character that it comes from.
fn origins(text: &str, cased: &str, case: Case) -> Vec<Range<usize>> {
    let mut origins = Vec::with_capacity(cased.len());
    let mut characters = cased.chars();
    for (at, c) in text.char_indices() {
        // The standard library changes one character at a time, but for a final sigma, which is one character, too.
        let bytes: usize = characters
            .by_ref()
            .take(case.length(c))
            .map(char::len_utf8)
            .sum();
        origins.extend(std::iter::repeat_n(at..at + c.len_utf8(), bytes));
    }
    origins
}
