//! Results as JSON, TextGrid and SRT.

use super::alignment::Aligned;
use super::input::Source;
use super::spot::Found;
use super::words::RatedWord;
use candle_core::Result;
use candle_ctc::text::{SubtitleOptions, to_srt, to_textgrid};
use candle_ctc::{Hypothesis, TokenSpan};
use serde_json::{Value, json};
use std::path::Path;

/// An object as a line, with the file that it is about.
pub fn line(file: &Path, mut object: Value) -> String {
    object["file"] = file.display().to_string().into();
    format!("{object}\n")
}

pub fn alignment(aligned: &Aligned) -> Value {
    let hop = aligned.hop;
    let words = aligned.words.iter();
    let words = words.map(|word| interval(&word.text, word.seconds(hop), word.score));
    let spans = aligned.alignment.spans.iter().zip(&aligned.tokens);
    let tokens = spans.map(|(span, token)| interval(token, span.seconds(hop), span.score));
    json!({
        "text": aligned.text,
        "score": aligned.alignment.score,
        "duration": round(aligned.duration()),
        "words": words.collect::<Vec<_>>(),
        "tokens": tokens.collect::<Vec<_>>(),
    })
}

pub fn hypotheses(source: &Source, found: &[Hypothesis], hop: f64) -> Value {
    let hypothesis = |found: &Hypothesis| {
        json!({
            "text": source.vocabulary.decode(&found.tokens),
            "score": found.score,
            "lm_score": found.lm_score,
            "total_score": found.total_score(),
            "tokens": tokens(source, &found.spans, hop),
        })
    };
    found.iter().map(hypothesis).collect()
}

pub fn hits(source: &Source, found: &[Found], hop: f64) -> Value {
    let hit = |(phrase, hit): &Found| {
        let (start, end) = hit.seconds(hop);
        json!({
            "phrase": phrase,
            "start": round(start),
            "end": round(end),
            "score": hit.score,
            "per_token": hit.per_token(),
            "tokens": tokens(source, &hit.spans, hop),
        })
    };
    found.iter().map(hit).collect()
}

pub fn words(words: &[RatedWord], hop: f64) -> Value {
    let word = |(word, confidence): &RatedWord| {
        let mut value = interval(&word.text, word.seconds(hop), word.score);
        value["confidence"] = json!(confidence.as_ref().map(|confidence| confidence.least));
        value
    };
    words.iter().map(word).collect()
}

/// A Praat TextGrid with a tier of words and a tier of tokens.
pub fn textgrid(aligned: &Aligned) -> Result<String> {
    to_textgrid(&aligned.words, aligned.hop, aligned.frames)
}

/// Subtitles of at most `words` words each.
pub fn srt(aligned: &Aligned, words: usize) -> Result<String> {
    let opts = SubtitleOptions {
        words,
        ..Default::default()
    };
    to_srt(&aligned.words, aligned.hop, opts)
}

fn tokens(source: &Source, spans: &[TokenSpan], hop: f64) -> Value {
    let token = |span: &TokenSpan| {
        let token = source.vocabulary.token(span.token).unwrap_or_default();
        interval(token, span.seconds(hop), span.score)
    };
    spans.iter().map(token).collect()
}

fn interval(text: &str, (start, end): (f64, f64), score: f32) -> Value {
    json!({"text": text, "start": round(start), "end": round(end), "score": score})
}

/// Seconds to the microsecond.
fn round(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
