//! An alignment as JSON, TextGrid and SRT.

use super::input::Source;
use candle_ctc::{Alignment, TokenSpan, group_words};
use serde_json::{Value, json};
use std::fmt::Write;

/// An alignment with times and texts.
pub struct Aligned {
    pub text: String,
    pub alignment: Alignment,
    pub words: Vec<Interval>,
    pub tokens: Vec<Interval>,
    /// Seconds from one frame to the next.
    pub hop: f64,
    /// Seconds of the whole utterance.
    pub duration: f64,
}

/// A text and its time in seconds.
pub struct Interval {
    pub text: String,
    pub start: f64,
    pub end: f64,
    /// The mean log-probability of a frame.
    pub score: f32,
}

impl Aligned {
    pub fn new(source: &Source, text: &str, alignment: Alignment) -> Self {
        let vocabulary = &source.vocabulary;
        let tokens = alignment.spans.iter().map(|span| {
            let (start, end) = span.seconds(source.hop);
            Interval {
                text: vocabulary.tokens[span.token as usize].clone(),
                start,
                end,
                score: span.score,
            }
        });
        // Without a separator the whole text is one word.
        let separator = vocabulary.separator.unwrap_or(u32::MAX);
        let words = group_words(&alignment.spans, separator);
        let words = words.into_iter().map(|word| {
            let (start, end) = word.seconds(source.hop);
            Interval {
                text: vocabulary.decode(&word.tokens),
                start,
                end,
                score: word.score,
            }
        });
        Self {
            text: text.to_owned(),
            words: words.collect(),
            tokens: tokens.collect(),
            hop: source.hop,
            duration: source.frames as f64 * source.hop,
            alignment,
        }
    }

    pub fn json(&self) -> String {
        let intervals = |intervals: &[Interval]| -> Vec<Value> {
            let entry = |i: &Interval| json!({"text": i.text, "start": round(i.start), "end": round(i.end), "score": i.score});
            intervals.iter().map(entry).collect()
        };
        let value = json!({
            "text": self.text,
            "score": self.alignment.score,
            "duration": round(self.duration),
            "words": intervals(&self.words),
            "tokens": intervals(&self.tokens),
        });
        format!("{value:#}")
    }

    /// A Praat TextGrid in its long text format.
    pub fn textgrid(&self) -> String {
        let end = self.duration;
        let mut out = format!(
            "File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\nxmin = 0\nxmax = {}\n\
             tiers? <exists>\nsize = 2\nitem []:\n",
            round(end)
        );
        for (number, (name, tier)) in [("words", &self.words), ("tokens", &self.tokens)]
            .into_iter()
            .enumerate()
        {
            let tier = filled(tier, end);
            push(
                &mut out,
                format_args!(
                    "    item [{}]:\n        class = \"IntervalTier\"\n        name = \"{name}\"\n        \
                     xmin = 0\n        xmax = {}\n        intervals: size = {}\n",
                    number + 1,
                    round(end),
                    tier.len()
                ),
            );
            for (number, (start, end, text)) in tier.into_iter().enumerate() {
                push(
                    &mut out,
                    format_args!(
                        "        intervals [{}]:\n            xmin = {}\n            xmax = {}\n            \
                         text = \"{}\"\n",
                        number + 1,
                        round(start),
                        round(end),
                        text.replace('"', "\"\"")
                    ),
                );
            }
        }
        out
    }

    /// Subtitles of at most `words` words each.
    pub fn srt(&self, words: usize) -> String {
        let mut out = String::new();
        for (number, cue) in self.words.chunks(words).enumerate() {
            let texts: Vec<&str> = cue.iter().map(|word| word.text.as_str()).collect();
            push(
                &mut out,
                format_args!(
                    "{}\n{} --> {}\n{}\n\n",
                    number + 1,
                    srt_time(cue[0].start),
                    srt_time(cue[cue.len() - 1].end),
                    texts.join(" ")
                ),
            );
        }
        out
    }
}

fn push(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text)
        .expect("writing to a String cannot fail");
}

/// Spans with times, as JSON.
pub fn spans(source: &Source, spans: &[TokenSpan]) -> Vec<Value> {
    let entry = |span: &TokenSpan| {
        let (start, end) = span.seconds(source.hop);
        json!({
            "text": source.vocabulary.tokens[span.token as usize],
            "start": round(start),
            "end": round(end),
            "score": span.score,
        })
    };
    spans.iter().map(entry).collect()
}

/// Seconds to the microsecond.
fn round(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

fn srt_time(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round() as u64;
    let (s, m, h) = (ms / 1000 % 60, ms / 60_000 % 60, ms / 3_600_000);
    format!("{h:02}:{m:02}:{s:02},{:03}", ms % 1000)
}

/// A tier has no gaps: silence is an interval with an empty text.
fn filled(intervals: &[Interval], end: f64) -> Vec<(f64, f64, &str)> {
    let mut tier = Vec::new();
    let mut at = 0.0;
    for interval in intervals {
        if interval.start > at {
            tier.push((at, interval.start, ""));
        }
        tier.push((interval.start, interval.end, &*interval.text));
        at = interval.end;
    }
    if at < end {
        tier.push((at, end, ""));
    }
    tier
}
