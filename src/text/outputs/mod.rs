//! Words as files: one file for each format.

pub(super) mod ctm;
pub(super) mod json;
pub(super) mod subtitles;
pub(super) mod textgrid;

use super::words::Word;
use candle_core::{Result, bail};

/// The latest time that is written, in seconds: 30 years. Up to there, f64 tells microseconds apart.
const LATEST: f64 = 1e9;

/// Checks what all formats need: a frame rate, and words in the order of time.
fn check(words: &[Word], seconds_per_frame: f64) -> Result<()> {
    if !(seconds_per_frame.is_finite() && seconds_per_frame > 0.0) {
        bail!("seconds_per_frame is {seconds_per_frame}; it must be positive and finite")
    }
    let mut last = 0;
    for (index, word) in words.iter().enumerate() {
        if word.end < word.start {
            bail!(
                "word {index}, {:?}, ends at frame {}, before its start at {}",
                word.text,
                word.end,
                word.start
            )
        }
        if word.start < last {
            bail!(
                "word {index}, {:?}, starts at frame {}, before the word before it at {last}",
                word.text,
                word.start
            )
        }
        last = word.start;
        check_time(word.end, seconds_per_frame)?;
    }
    Ok(())
}

/// Checks that a time can be written.
fn check_time(frame: usize, seconds_per_frame: f64) -> Result<()> {
    let time = frame as f64 * seconds_per_frame;
    if time > LATEST {
        bail!(
            "with {seconds_per_frame:e} seconds per frame, frame {frame} is at {time:e} seconds; times may be up to \
             {LATEST:e}"
        )
    }
    Ok(())
}

/// Seconds to a microsecond, which hides what 3 · 0.1 has after the decimal point.
fn seconds(frame: usize, seconds_per_frame: f64) -> f64 {
    (frame as f64 * seconds_per_frame * 1e6).round() / 1e6
}

/// A text in one line.
fn one_line(text: &str) -> String {
    text.split([
        '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}',
    ])
    .filter(|line| !line.is_empty())
    .collect::<Vec<_>>()
    .join(" ")
}
