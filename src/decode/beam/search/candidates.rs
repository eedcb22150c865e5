//! The candidates for the next beam, while they are collected.

use crate::decode::beam::options::BeamOptions;
use std::cmp::Ordering;

/// A candidate for the next beam.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its score, including the language model.
    pub(super) rank: f64,
    /// What the language model adds to that.
    pub(super) lm: f64,
    /// The index in the beam of the prefix that it comes from.
    pub(super) slot: u32,
    /// The label that it adds, plus 1; 0 if it adds none.
    pub(super) step: u32,
}

impl Candidate {
    /// Best first; no two candidates are equal.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        other
            .rank
            .total_cmp(&self.rank)
            .then((self.slot, self.step).cmp(&(other.slot, other.step)))
    }
}

/// The candidates for the next beam while they are collected.
pub(super) struct Frontier<'a> {
    candidates: &'a mut Vec<Candidate>,
    /// A candidate below this cannot be among the first `width`, or is too far below the best.
    pub(super) least: f64,
    width: usize,
    /// When there are this many candidates, all but the best `width` are dropped.
    room: usize,
}

impl<'a> Frontier<'a> {
    pub(super) fn new(candidates: &'a mut Vec<Candidate>, opts: &BeamOptions) -> Self {
        let width = opts.beam_width;
        let ranks = candidates.iter().map(|candidate| candidate.rank);
        let mut least = ranks.clone().fold(f64::NEG_INFINITY, f64::max) - opts.beam_threshold;
        if candidates.len() >= width {
            least = least.max(ranks.fold(f64::INFINITY, f64::min));
        }
        Self {
            candidates,
            least,
            width,
            room: width.saturating_mul(2).max(width.saturating_add(64)),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, score: f64, lm: f64, slot: usize, token: u32) {
        let rank = score + lm;
        if rank < self.least || rank == f64::NEG_INFINITY {
            return;
        }
        self.candidates.push(Candidate {
            rank,
            lm,
            slot: slot as u32,
            step: token + 1,
        });
        if self.candidates.len() >= self.room {
            let last = self.width - 1;
            self.candidates
                .select_nth_unstable_by(last, Candidate::order);
            self.candidates.truncate(self.width);
            self.least = self.least.max(self.candidates[last].rank);
        }
    }
}
