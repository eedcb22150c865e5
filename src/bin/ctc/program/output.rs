//! An alignment as JSON, TextGrid and SRT.

use super::input::Source;
use candle_core::Result;
use candle_ctc::text::{SubtitleOptions, Word, to_srt, to_textgrid};
use candle_ctc::{Alignment, TokenSpan};
use serde_json::{Value, json};

/// An alignment with its words and texts.
pub struct Aligned {
    pub text: String,
    pub alignment: Alignment,
    pub words: Vec<Word>,
    /// The token of each span.
    pub tokens: Vec<String>,
    /// Seconds from one frame to the next.
    pub hop: f64,
    pub frames: usize,
}

impl Aligned {
    pub fn new(source: &Source, text: &str, alignment: Alignment) -> Self {
        let vocabulary = &source.vocabulary;
        let token = |span: &TokenSpan| vocabulary.token(span.token).unwrap_or_default().to_owned();
        Self {
            text: text.to_owned(),
            words: vocabulary.words(&alignment.spans),
            tokens: alignment.spans.iter().map(token).collect(),
            hop: source.hop,
            frames: source.frames,
            alignment,
        }
    }

    /// Seconds of the whole utterance.
    pub fn duration(&self) -> f64 {
        self.frames as f64 * self.hop
    }

    pub fn json(&self) -> String {
        let word = |word: &Word| interval(&word.text, word.seconds(self.hop), word.score);
        let spans = self.alignment.spans.iter().zip(&self.tokens);
        let tokens = spans.map(|(span, token)| interval(token, span.seconds(self.hop), span.score));
        let value = json!({
            "text": self.text,
            "score": self.alignment.score,
            "duration": round(self.duration()),
            "words": self.words.iter().map(word).collect::<Vec<_>>(),
            "tokens": tokens.collect::<Vec<_>>(),
        });
        format!("{value:#}")
    }

    /// A Praat TextGrid with a tier of words and a tier of tokens.
    pub fn textgrid(&self) -> Result<String> {
        to_textgrid(&self.words, self.hop, self.frames)
    }

    /// Subtitles of at most `words` words each.
    pub fn srt(&self, words: usize) -> Result<String> {
        let opts = SubtitleOptions {
            words,
            ..Default::default()
        };
        to_srt(&self.words, self.hop, opts)
    }
}

/// Spans with times, as JSON.
pub fn spans(source: &Source, spans: &[TokenSpan]) -> Vec<Value> {
    let entry = |span: &TokenSpan| {
        let token = source.vocabulary.token(span.token).unwrap_or_default();
        interval(token, span.seconds(source.hop), span.score)
    };
    spans.iter().map(entry).collect()
}

fn interval(text: &str, (start, end): (f64, f64), score: f32) -> Value {
    json!({"text": text, "start": round(start), "end": round(end), "score": score})
}

/// Seconds to the microsecond.
fn round(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
