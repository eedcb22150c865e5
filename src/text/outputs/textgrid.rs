//! TextGrid, of the phonetics program Praat.

use super::{check, check_time, one_line, seconds};
use crate::text::Word;
use candle_core::{Result, bail};

/// An interval of a tier: start and end in frames, and text.
type Interval = (usize, usize, String);

/// Words and tokens as the interval tiers `words` and `tokens` of a Praat TextGrid, UTF-8. Time between words is an
/// interval without text, as Praat wants it.
///
/// `frames` is the length of the utterance, to which the tiers extend.
///
/// ```
/// use candle_ctc::TokenSpan;
/// use candle_ctc::text::{Vocabulary, to_textgrid};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁hi"])?;
/// let words = vocabulary.words(&[TokenSpan { token: 1, start: 5, end: 10, score: -0.5 }]);
/// let grid = to_textgrid(&words, 0.02, 15)?;
/// assert!(grid.starts_with("File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\nxmin = 0\nxmax = 0.3\n"));
/// assert!(grid.contains("xmin = 0.1\n            xmax = 0.2\n            text = \"hi\"\n"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A `seconds_per_frame` that is not positive and finite; times above 1e9 seconds; no frames; words or tokens that have
/// no frames, overlap, or end after the last frame.
pub fn to_textgrid(words: &[Word], seconds_per_frame: f64, frames: usize) -> Result<String> {
    check(words, seconds_per_frame)?;
    check_time(frames, seconds_per_frame)?;
    if frames == 0 {
        bail!(
            "an utterance of 0 frames has no TextGrid; give the number of frames of the whole utterance"
        )
    }
    let time = |frame: usize| seconds(frame, seconds_per_frame);
    let word_intervals: Vec<Interval> = words
        .iter()
        .map(|word| (word.start, word.end, word.text.clone()))
        .collect();
    let spans = words.iter().flat_map(|word| &word.tokens);
    let mut token_intervals: Vec<Interval> = spans
        .map(|token| (token.span.start, token.span.end, token.text.clone()))
        .collect();
    // A token that belongs to two words.
    token_intervals.dedup();
    let tiers = [
        ("words", "word", word_intervals),
        ("tokens", "token", token_intervals),
    ];

    let mut out = format!(
        "File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\nxmin = 0\nxmax = {0}\ntiers? <exists>\nsize = \
         {1}\nitem []:\n",
        time(frames),
        tiers.len()
    );
    for (number, (name, what, intervals)) in tiers.into_iter().enumerate() {
        let intervals = filled(intervals, frames, what)?;
        out += &format!(
            "    item [{}]:\n        class = \"IntervalTier\"\n        name = \"{name}\"\n        xmin = 0\n        \
             xmax = {}\n        intervals: size = {}\n",
            number + 1,
            time(frames),
            intervals.len()
        );
        for (index, (start, end, text)) in intervals.iter().enumerate() {
            // A quotation mark is doubled; there is no other escape.
            let text = one_line(text).replace('"', "\"\"");
            out += &format!(
                "        intervals [{}]:\n            xmin = {}\n            xmax = {}\n            text = \
                 \"{text}\"\n",
                index + 1,
                time(*start),
                time(*end)
            );
        }
    }
    Ok(out)
}

/// Intervals without gaps from the first frame to the last.
fn filled(intervals: Vec<Interval>, frames: usize, what: &str) -> Result<Vec<Interval>> {
    let mut filled = Vec::new();
    let mut last = 0;
    for (start, end, text) in intervals {
        if end <= start {
            bail!(
                "the {what} {text:?} at frame {start} has no frames; a TextGrid has no interval of no length"
            )
        }
        if start < last {
            bail!(
                "the {what} {text:?} starts at frame {start}, before the one before it ends at {last}"
            )
        }
        if end > frames {
            bail!("the {what} {text:?} ends at frame {end}; the utterance has {frames} frames")
        }
        if start > last {
            filled.push((last, start, String::new()));
        }
        filled.push((start, end, text));
        last = end;
    }
    if last < frames {
        filled.push((last, frames, String::new()));
    }
    Ok(filled)
}
