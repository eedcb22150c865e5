//! CTM, the format of NIST's scoring tools and of Kaldi.

use super::{check, seconds};
use crate::text::Word;
use candle_core::{Result, bail};

/// Words as CTM: `recording channel start duration word confidence` a line, with times in seconds. The confidence is
/// the probability of [`Word::score`], from 0 to 1. Words without frames, which an alignment left out, are skipped.
///
/// ```
/// use candle_ctc::TokenSpan;
/// use candle_ctc::text::{Vocabulary, to_ctm};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁hi"])?;
/// let words = vocabulary.words(&[TokenSpan { token: 1, start: 5, end: 10, score: 0.0 }]);
/// assert_eq!(to_ctm(&words, 0.02, "call-7", "1")?, "call-7 1 0.100 0.100 hi 1.000\n");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A `seconds_per_frame` that is not positive and finite; times above 1e9 seconds; words that are not in the order of
/// time; a name of a recording or channel, or a word, that is empty or has spaces; a recording that begins with `;;`,
/// which begins a comment.
pub fn to_ctm(
    words: &[Word],
    seconds_per_frame: f64,
    recording: &str,
    channel: &str,
) -> Result<String> {
    check(words, seconds_per_frame)?;
    let items = words
        .iter()
        .map(|word| (word.start, word.end, word.text.clone(), word.score));
    lines(items, seconds_per_frame, recording, channel)
}

/// The tokens of words as CTM, see [`to_ctm`]. Tokens are as the vocabulary writes them, with `▁` for a space.
///
/// # Errors
///
/// Those of [`to_ctm`].
pub fn to_token_ctm(
    words: &[Word],
    seconds_per_frame: f64,
    recording: &str,
    channel: &str,
) -> Result<String> {
    check(words, seconds_per_frame)?;
    let mut tokens: Vec<_> = words.iter().flat_map(|word| &word.tokens).collect();
    // A token that belongs to two words.
    tokens.dedup_by_key(|token| (token.index, token.span.start, token.span.end));
    let items = tokens.into_iter().map(|token| {
        (
            token.span.start,
            token.span.end,
            token.text.replace(' ', "▁"),
            token.span.score,
        )
    });
    lines(items, seconds_per_frame, recording, channel)
}

fn lines(
    items: impl Iterator<Item = (usize, usize, String, f32)>,
    seconds_per_frame: f64,
    recording: &str,
    channel: &str,
) -> Result<String> {
    let field = |what: &str, text: &str| {
        if text.is_empty() || text.contains(char::is_whitespace) {
            bail!("the {what} of a CTM file is {text:?}; it must not be empty or have spaces")
        }
        Ok(())
    };
    field("recording", recording)?;
    field("channel", channel)?;
    if recording.starts_with(";;") {
        bail!("the recording of a CTM file is {recording:?}; a line with ;; in front is a comment")
    }
    let mut out = String::new();
    for (start, end, text, score) in items {
        field("word", &text)?;
        if end < start {
            bail!("{text:?} ends at frame {end}, before its start at {start}")
        }
        // Left out by the audio.
        if end == start {
            continue;
        }
        let times = (
            seconds(start, seconds_per_frame),
            seconds(end, seconds_per_frame),
        );
        let confidence = f64::from(score).exp().clamp(0.0, 1.0);
        if confidence.is_nan() {
            bail!("the score of {text:?} at frame {start} is NaN")
        }
        out += &format!(
            "{recording} {channel} {:.3} {:.3} {text} {confidence:.3}\n",
            times.0,
            times.1 - times.0
        );
    }
    Ok(out)
}
