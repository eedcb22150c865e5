//! The position of a token or a word in an utterance.

use std::ops::Range;

/// Consecutive frames in one label of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSpan {
    /// The label.
    pub token: u32,
    /// The first frame.
    pub start: usize,
    /// One past the last frame.
    pub end: usize,
    /// The mean log-probability over the span, in nats.
    pub score: f32,
}

impl TokenSpan {
    /// Start and end in seconds, for frames `hop` seconds apart.
    ///
    /// ```
    /// use candle_ctc::TokenSpan;
    /// let span = TokenSpan { token: 4, start: 50, end: 60, score: -0.1 };
    /// assert_eq!(span.seconds(0.02), (1.0, 1.2));
    /// ```
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start as f64 * hop, self.end as f64 * hop)
    }

    /// The number of frames; 0 if the end is before the start.
    pub fn frames(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// The frames.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Consecutive tokens between separators.
#[derive(Debug, Clone, PartialEq)]
pub struct WordSpan {
    /// The labels of the word.
    pub tokens: Vec<u32>,
    /// The first frame of its first token that has frames.
    pub start: usize,
    /// One past the last frame of its last token that has frames.
    pub end: usize,
    /// The mean log-probability over the frames of its tokens, in nats. Blanks between tokens do not count, and neither
    /// does a token without frames. 0 for a word without frames, whose path is empty and so has probability 1.
    pub score: f32,
}

impl WordSpan {
    /// Start and end in seconds, for frames `hop` seconds apart.
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start as f64 * hop, self.end as f64 * hop)
    }

    /// The frames.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// How the blank frames between two spans are assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gaps {
    /// To the span before the blanks.
    Left,
    /// To the span after the blanks.
    Right,
    /// Half to each; of an odd number, the span after the blanks gets one more.
    Half,
}

/// Extends spans over the frames between them, so that each span ends where the next begins. Models trained with CTC
/// emit a label in a frame or two, and the sound goes on through the blanks after it.
///
/// Frames before the first span and after the last stay out, and scores stay those of the labels' own frames. A span
/// without frames, of a label that an alignment leaves out, takes none and stays at the end of the span before it.
///
/// ```
/// use candle_ctc::{Gaps, TokenSpan, fill_gaps};
/// let span = |start, end| TokenSpan { token: 1, start, end, score: -0.1 };
/// let ranges = |gaps| fill_gaps(&[span(2, 3), span(6, 7)], gaps).iter().map(|span| span.range()).collect::<Vec<_>>();
/// assert_eq!(ranges(Gaps::Left), [2..6, 6..7]);
/// assert_eq!(ranges(Gaps::Right), [2..3, 3..7]);
/// assert_eq!(ranges(Gaps::Half), [2..4, 4..7]);
/// ```
pub fn fill_gaps(spans: &[TokenSpan], gaps: Gaps) -> Vec<TokenSpan> {
    let mut filled = spans.to_vec();
    let mut last: Option<usize> = None;
    for i in 0..filled.len() {
        if filled[i].frames() == 0 {
            continue;
        }
        if let Some(before) = last {
            let (end, start) = (filled[before].end, filled[i].start.max(filled[before].end));
            let border = match gaps {
                Gaps::Left => start,
                Gaps::Right => end,
                Gaps::Half => end + (start - end) / 2,
            };
            filled[before].end = border;
            filled[i].start = border;
            filled[i].end = filled[i].end.max(border);
            // Those between the two have no frames.
            for span in &mut filled[before + 1..i] {
                (span.start, span.end) = (border, border);
            }
        }
        last = Some(i);
    }
    // Those behind the last have no frames either.
    if let Some(last) = last {
        let end = filled[last].end;
        for span in &mut filled[last + 1..] {
            (span.start, span.end) = (end, end);
        }
    }
    filled
}

/// Groups token spans into words: consecutive tokens between `separator` tokens. Separators belong to no word, and
/// empty words are left out.
///
/// ```
/// use candle_ctc::{TokenSpan, group_words};
/// let span = |token, start, end| TokenSpan { token, start, end, score: -0.5 };
/// let words = group_words(&[span(7, 0, 2), span(9, 3, 4), span(4, 5, 6), span(8, 8, 9)], 4);
/// assert_eq!(words.len(), 2);
/// assert_eq!((words[0].tokens.as_slice(), words[0].start, words[0].end), ([7, 9].as_slice(), 0, 4));
/// assert_eq!(words[1].seconds(0.5), (4.0, 4.5));
/// ```
pub fn group_words(spans: &[TokenSpan], separator: u32) -> Vec<WordSpan> {
    let words = spans.split(|span| span.token == separator);
    let words = words.filter_map(|word| {
        let Range { start, end } = range_of(word)?;
        Some(WordSpan {
            tokens: word.iter().map(|span| span.token).collect(),
            start,
            end,
            score: mean_score(word),
        })
    });
    words.collect()
}

/// The frames from the first to the last of spans, those without frames aside; if none has any, where they stand. `None`
/// for no spans.
pub(crate) fn range_of(spans: &[TokenSpan]) -> Option<Range<usize>> {
    let first = spans.iter().find(|span| span.frames() > 0);
    let last = spans.iter().rfind(|span| span.frames() > 0);
    let (first, last) = (first.or(spans.first())?, last.or(spans.last())?);
    Some(first.start..last.end)
}

/// The mean log-probability over the frames of spans, 0 for none.
pub(crate) fn mean_score(spans: &[TokenSpan]) -> f32 {
    let of = |span: &TokenSpan| span.frames() as f64;
    let frames: f64 = spans.iter().map(of).sum();
    let sum: f64 = spans
        .iter()
        .filter(|span| span.frames() > 0)
        .map(|span| f64::from(span.score) * of(span))
        .sum();
    (sum / frames.max(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, end: usize) -> TokenSpan {
        TokenSpan {
            token: 1,
            start,
            end,
            score: -1.0,
        }
    }

    #[test]
    fn spans_that_overlap_stay_in_order() {
        for gaps in [Gaps::Left, Gaps::Right, Gaps::Half] {
            let filled = fill_gaps(&[span(0, 10), span(3, 5), span(7, 12)], gaps);
            let ranges: Vec<_> = filled.iter().map(TokenSpan::range).collect();
            assert_eq!(ranges, [0..10, 10..10, 10..12], "{gaps:?}");
            // A span without frames stays behind the one before it, whose end moved.
            let filled = fill_gaps(&[span(0, 10), span(3, 5), span(5, 5)], gaps);
            let ranges: Vec<_> = filled.iter().map(TokenSpan::range).collect();
            assert_eq!(ranges, [0..10, 10..10, 10..10], "{gaps:?}");
        }
    }

    #[test]
    fn a_span_that_ends_before_it_starts_has_no_frames() {
        let spans = [span(5, 3), span(6, 8), span(0, usize::MAX)];
        assert_eq!(spans[0].frames(), 0);
        assert_eq!(mean_score(&spans), -1.0);
        assert_eq!(fill_gaps(&spans, Gaps::Left).len(), 3);
        assert_eq!(group_words(&spans, 9)[0].tokens, [1, 1, 1]);
    }
}
