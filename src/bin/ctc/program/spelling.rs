//! From the text of a transcript to its labels.

use super::errors::{short, with_hint};
use anyhow::Result;
use candle_ctc::text::{Unspellable, Unspelled, Vocabulary};
use unicode_segmentation::UnicodeSegmentation;

/// The labels of a transcript.
pub struct Spelled {
    pub labels: Vec<u32>,
    /// What was left out or has a star.
    pub unspelled: Vec<Unspelled>,
    /// The same in words, for the user.
    pub notes: Vec<String>,
}

/// Spells `text`. What the vocabulary cannot spell is treated as `unspellable` says; without it, it is an error, which
/// ends in `hint`.
pub fn spell(
    vocabulary: &Vocabulary,
    text: &str,
    unspellable: Option<Unspellable>,
    hint: &str,
) -> Result<Spelled> {
    let Some(unspellable) = unspellable else {
        let labels = vocabulary.encode(text);
        return Ok(Spelled {
            labels: labels.map_err(|error| with_hint(error, hint))?,
            unspelled: Vec::new(),
            notes: Vec::new(),
        });
    };
    let encoding = vocabulary.encode_lossy(text, unspellable).map_err(short)?;
    let shown = beginning(text);
    // Characters as in the errors of `encode`. The parts are in order: counting from one to the next takes linear time.
    let (mut at, mut position) = (0, 1);
    let note = |part: &Unspelled| {
        position += text[at..part.start].graphemes(true).count();
        at = part.start;
        let missing = match part.text.as_str() {
            "" => "no token of the vocabulary begins or ends a word".to_owned(),
            text => format!("the vocabulary cannot spell {text:?}"),
        };
        format!("{missing} at character {position} of {shown:?}")
    };
    Ok(Spelled {
        notes: encoding.unspelled.iter().map(note).collect(),
        labels: encoding.labels,
        unspelled: encoding.unspelled,
    })
}

/// A text that may be as long as a book, for a message.
pub fn beginning(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
