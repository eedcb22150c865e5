//! JSON.

use super::{check, seconds};
use crate::text::Word;
use candle_core::Result;
use serde_json::{Value, json};

/// Words and their tokens as JSON, indented: an object with the text and a list of words. Times are in seconds. `score`
/// is the mean log-probability in nats, and `null` where it is not finite.
///
/// ```
/// use candle_ctc::TokenSpan;
/// use candle_ctc::text::{Vocabulary, to_json};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁hi"])?;
/// let words = vocabulary.words(&[TokenSpan { token: 1, start: 5, end: 10, score: -0.5 }]);
/// let json: serde_json::Value = serde_json::from_str(&to_json(&words, 0.02)?).unwrap();
/// assert_eq!(json, serde_json::json!({
///     "text": "hi",
///     "words": [{
///         "text": "hi", "start": 0.1, "end": 0.2, "score": -0.5,
///         "tokens": [{"token": "▁hi", "class": 1, "start": 0.1, "end": 0.2, "score": -0.5}],
///     }],
/// }));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A `seconds_per_frame` that is not positive and finite, times above 1e9 seconds, or words that are not in the order of
/// time.
pub fn to_json(words: &[Word], seconds_per_frame: f64) -> Result<String> {
    check(words, seconds_per_frame)?;
    let score = |score: f32| (f64::from(score) * 1e6).round() / 1e6;
    let word = |word: &Word| {
        let tokens: Vec<Value> = word
            .tokens
            .iter()
            .map(|token| {
                json!({
                    "token": token.text,
                    "class": token.span.token,
                    "start": seconds(token.span.start, seconds_per_frame),
                    "end": seconds(token.span.end, seconds_per_frame),
                    "score": score(token.span.score),
                })
            })
            .collect();
        json!({
            "text": word.text,
            "start": seconds(word.start, seconds_per_frame),
            "end": seconds(word.end, seconds_per_frame),
            "score": score(word.score),
            "tokens": tokens,
        })
    };
    let document = json!({
        "text": crate::text::words::join(words),
        "words": words.iter().map(word).collect::<Vec<_>>(),
    });
    Ok(format!("{document:#}"))
}
