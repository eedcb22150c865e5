//! Subtitles: SubRip (SRT) and WebVTT.

use super::{check, one_line};
use crate::text::Word;
use candle_core::{Result, bail};
use std::fmt::Write;
use unicode_segmentation::GraphemeCursor;

/// How words are grouped into subtitles.
///
/// ```
/// use candle_ctc::text::SubtitleOptions;
/// let opts = SubtitleOptions::default();
/// assert_eq!((opts.characters, opts.lines, opts.words), (42, 2, usize::MAX));
/// assert_eq!((opts.seconds, opts.pause), (7.0, 1.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubtitleOptions {
    /// The most characters in a line. A longer word has a line of its own.
    pub characters: usize,
    /// The most lines of a subtitle.
    pub lines: usize,
    /// The most words of a subtitle. 1 for word by word.
    pub words: usize,
    /// The longest time that a subtitle is shown, in seconds. A longer word has a subtitle of its own.
    pub seconds: f64,
    /// A pause of this many seconds or more begins a new subtitle.
    pub pause: f64,
}

impl Default for SubtitleOptions {
    fn default() -> Self {
        Self {
            characters: 42,
            lines: 2,
            words: usize::MAX,
            seconds: 7.0,
            pause: 1.0,
        }
    }
}

/// Words as SubRip subtitles (`.srt`), UTF-8. The format has no way to escape markup: players may read `<i>` in a word
/// as such.
///
/// ```
/// use candle_ctc::TokenSpan;
/// use candle_ctc::text::{SubtitleOptions, Vocabulary, to_srt};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁hello", "▁world"])?;
/// let span = |token, start, end| TokenSpan { token, start, end, score: -0.5 };
/// let words = vocabulary.words(&[span(1, 10, 20), span(2, 25, 30)]);
/// let srt = to_srt(&words, 0.02, SubtitleOptions::default())?;
/// assert_eq!(srt, "1\n00:00:00,200 --> 00:00:00,600\nhello world\n\n");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A `seconds_per_frame` that is not positive and finite, times above 1e9 seconds, words that are not in the order of
/// time, or options that leave no room for a word or are NaN.
#[doc(alias = "subtitles")]
pub fn to_srt(words: &[Word], seconds_per_frame: f64, opts: SubtitleOptions) -> Result<String> {
    let mut out = String::new();
    for (number, cue) in cues(words, seconds_per_frame, opts)?.iter().enumerate() {
        let times = (time(cue.start, ','), time(cue.end, ','));
        // Readers take a line with the arrow for the next time.
        let text = cue.text.replace("-->", "->");
        push(
            &mut out,
            format_args!("{}\n{} --> {}\n{text}\n\n", number + 1, times.0, times.1),
        );
    }
    Ok(out)
}

/// Words as WebVTT subtitles (`.vtt`), UTF-8, for the `<track>` of a web page. `&`, `<` and `>` are escaped.
///
/// # Errors
///
/// Those of [`to_srt`].
#[doc(alias = "subtitles")]
pub fn to_webvtt(words: &[Word], seconds_per_frame: f64, opts: SubtitleOptions) -> Result<String> {
    let mut out = "WEBVTT\n\n".to_owned();
    for cue in cues(words, seconds_per_frame, opts)? {
        let text = cue
            .text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        push(
            &mut out,
            format_args!(
                "{} --> {}\n{text}\n\n",
                time(cue.start, '.'),
                time(cue.end, '.')
            ),
        );
    }
    Ok(out)
}

/// Writing to a `String` does not fail.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

struct Cue {
    /// In milliseconds.
    start: u64,
    end: u64,
    text: String,
}

fn cues(words: &[Word], seconds_per_frame: f64, opts: SubtitleOptions) -> Result<Vec<Cue>> {
    check(words, seconds_per_frame)?;
    if opts.characters == 0
        || opts.lines == 0
        || opts.words == 0
        || opts.seconds.is_nan()
        || opts.seconds <= 0.0
    {
        bail!(
            "subtitles of {} words and {} seconds, in {} lines of {} characters, have no room; all must be above 0",
            opts.words,
            opts.seconds,
            opts.lines,
            opts.characters
        )
    }
    if opts.pause.is_nan() {
        bail!("the pause between subtitles is NaN")
    }
    let mut cues = Vec::new();
    let mut open = OpenCue::default();
    for word in words {
        let text = one_line(&word.text);
        if text.trim().is_empty() {
            continue;
        }
        let span = word.seconds(seconds_per_frame);
        let fits = open.words < opts.words
            && span.1 - open.start <= opts.seconds
            && span.0 - open.end < opts.pause;
        if open.lines.is_empty() || !fits || !open.add(&text, word.space_before, &opts) {
            open.close(&mut cues);
            (open.start, open.end) = span;
            open.begin_line(text);
        }
        open.words += 1;
        // A word may end before the one before it.
        open.end = open.end.max(span.1);
    }
    open.close(&mut cues);
    // The times of two cues do not overlap, so that players never show both.
    for index in 1..cues.len() {
        let next: u64 = cues[index].start;
        let cue = &mut cues[index - 1];
        cue.end = cue.end.min(next).max(cue.start + 1);
    }
    Ok(cues)
}

#[derive(Default)]
struct OpenCue {
    start: f64,
    end: f64,
    lines: Vec<String>,
    /// Of the last line.
    characters: usize,
    words: usize,
}

impl OpenCue {
    /// Adds a word if there is room.
    fn add(&mut self, text: &str, space: bool, opts: &SubtitleOptions) -> bool {
        let lines = self.lines.len();
        let Some(line) = self.lines.last_mut() else {
            return false;
        };
        let before = line.len();
        line.push_str(if space { " " } else { "" });
        line.push_str(text);
        let added = characters_from(line, before);
        if self.characters + added <= opts.characters {
            self.characters += added;
            return true;
        }
        line.truncate(before);
        let room = lines < opts.lines;
        if room {
            self.begin_line(text.to_owned());
        }
        room
    }

    fn begin_line(&mut self, text: String) {
        self.characters = characters_from(&text, 0);
        self.lines.push(text);
    }

    fn close(&mut self, cues: &mut Vec<Cue>) {
        if self.lines.is_empty() {
            return;
        }
        let milliseconds = |seconds: f64| (seconds * 1e3).round() as u64;
        let start = milliseconds(self.start);
        cues.push(Cue {
            start,
            // Readers want every subtitle to last.
            end: milliseconds(self.end).max(start + 1),
            text: self.lines.join("\n"),
        });
        self.lines.clear();
        self.words = 0;
    }
}

/// The characters (grapheme clusters) of a line that begin at this byte or later. A mark that combines with the text
/// before it begins none.
fn characters_from(line: &str, byte: usize) -> usize {
    let mut cursor = GraphemeCursor::new(byte, line.len(), true);
    let mut count = usize::from(cursor.is_boundary(line, 0) == Ok(true));
    while let Ok(Some(boundary)) = cursor.next_boundary(line, 0) {
        count += usize::from(boundary < line.len());
    }
    count
}

fn time(milliseconds: u64, decimal: char) -> String {
    let seconds = milliseconds / 1000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}{decimal}{:03}",
        seconds % 60,
        milliseconds % 1000
    )
}
