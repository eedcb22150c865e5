//! A prefix of the beam, with its sums and its best alignments.

use crate::decode::arena::{NONE, ROOT};
use crate::spans::TokenSpan;

/// A prefix of the beam.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) node: u32,
    /// The last label; [`NONE`] for the empty prefix.
    pub(super) token: u32,
    /// The weighted scores of the language model and the token bonuses.
    pub(super) lm: f64,
    /// The log-probabilities of the alignments that end in a blank, in the last label, and of both together.
    pub(super) blank: f64,
    pub(super) label: f64,
    pub(super) total: f64,
    pub(super) best_blank: BlankPath,
    pub(super) best_label: LabelPath,
}

/// The best alignment of a prefix that ends in a blank.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlankPath {
    pub(super) score: f64,
    /// Its spans, in [`Spans`](crate::decode::arena::Spans).
    pub(super) spans: u32,
}

/// The best alignment of a prefix that ends in its last label.
#[derive(Debug, Clone, Copy)]
pub(super) struct LabelPath {
    pub(super) score: f64,
    /// The spans before that of the last label.
    pub(super) spans: u32,
    /// The first frame of the span of the last label, and the score before it.
    pub(super) start: usize,
    pub(super) before: f64,
}

const NO_LABEL_PATH: LabelPath = LabelPath {
    score: f64::NEG_INFINITY,
    spans: NONE,
    start: 0,
    before: 0.0,
};

/// The beam before the first frame.
pub(super) const EMPTY_PREFIX: Entry = Entry {
    node: ROOT,
    token: NONE,
    lm: 0.0,
    blank: 0.0,
    label: f64::NEG_INFINITY,
    total: 0.0,
    best_blank: BlankPath {
        score: 0.0,
        spans: NONE,
    },
    best_label: NO_LABEL_PATH,
};

impl Entry {
    /// Whether the best alignment ends in the last label rather than in a blank.
    #[inline]
    pub(super) fn ends_in_label(&self) -> bool {
        self.best_label.score > self.best_blank.score
    }

    /// The log-probability of the alignments that `token` may follow: equal labels must be separated by a blank.
    #[inline]
    pub(super) fn before(&self, token: u32) -> f64 {
        if token == self.token {
            self.blank
        } else {
            self.total
        }
    }

    /// The same for the best single alignment.
    pub(super) fn best_before(&self, token: u32) -> f64 {
        if token == self.token {
            self.best_blank.score
        } else {
            self.best_blank.score.max(self.best_label.score)
        }
    }

    /// The span of the last label in the best label path, ending before frame `end`.
    pub(super) fn open_span(&self, end: usize) -> TokenSpan {
        let LabelPath {
            score,
            start,
            before,
            ..
        } = self.best_label;
        TokenSpan {
            token: self.token,
            start,
            end,
            score: ((score - before) / (end - start) as f64) as f32,
        }
    }
}
