//! The confidence in the tokens of an alignment, which may leave out parts of the utterance.

use super::errors::short;
use super::input::Source;
use anyhow::Result;
use candle_ctc::{ConfidenceOptions, TokenConfidence, TokenSpan, token_confidence};

/// The confidence in each span, `None` for a star. Each run of tokens between stars is rated on the frames between the
/// stars. With `partial`, only the frames from the first token to the last count.
pub fn of_spans(
    source: &Source,
    spans: &[TokenSpan],
    star: Option<u32>,
    partial: bool,
) -> Result<Vec<Option<TokenConfidence>>> {
    let opts = ConfidenceOptions {
        blank: source.vocabulary.blank(),
        ..Default::default()
    };
    let (mut start, last) = match (spans, partial) {
        ([first, .., last], true) => (first.start, last.end),
        ([one], true) => (one.start, one.end),
        _ => (0, source.frames),
    };
    let is_star = |span: &TokenSpan| Some(span.token) == star;
    let mut runs = spans.chunk_by(|a, b| is_star(a) == is_star(b)).peekable();
    let mut found = Vec::with_capacity(spans.len());
    while let Some(run) = runs.next() {
        let end = runs.peek().map_or(last, |next| next[0].start);
        if is_star(&run[0]) {
            found.extend(run.iter().map(|_| None));
        } else {
            let frames = source.log_probs.narrow(0, start, end - start)?;
            let labels: Vec<u32> = run.iter().map(|span| span.token).collect();
            let tokens = token_confidence(&frames, &labels, opts).map_err(short)?;
            found.extend(tokens.into_iter().map(Some));
        }
        start = run[run.len() - 1].end;
    }
    Ok(found)
}
