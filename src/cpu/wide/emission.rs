//! From gathered entries to the emissions that a wide lattice reads: each place of the target looks
//! its class up and converts it.

use super::super::emission::Source;
use super::super::isa::dispatch;
use super::super::lanes::{LANES, fold_lanes, larger};
use super::super::real::{Element, Real};
use super::super::runs::{RUN, Table};
use super::super::softmax::{RowStats, tops_of};
use super::number::{FAR_BELOW, ZERO_EXP, exp_split};
use crate::classes::Classes;
use std::ops::Range;

/// Rounds up to whole blocks.
pub(super) fn padded(pairs: usize) -> usize {
    pairs.next_multiple_of(LANES)
}

/// What was seen on the way to the emissions of some frames.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Found {
    /// `Σ_t` of the logarithms that were divided out. A frame's entries are relative to the
    /// largest of them, so that a path that stays on the largest is multiplied by exactly 1.
    pub log_scale: f64,
    /// A NaN or +inf was among the entries.
    pub poisoned: bool,
}

impl Found {
    pub fn and(self, other: Found) -> Found {
        Found {
            log_scale: self.log_scale + other.log_scale,
            poisoned: self.poisoned | other.poisoned,
        }
    }
}

/// The emissions of a run of frames.
#[derive(Default)]
pub(in super::super) struct Emissions {
    /// The first frame.
    pub first: usize,
    /// Entries a frame: the labels, padded to whole blocks with zeros.
    pub width: usize,
    pub labels_m: Vec<f64>,
    pub labels_e: Vec<f64>,
    /// The blank of each frame.
    pub blanks: Vec<(f64, f64)>,
    /// The logarithm of what each frame was divided by.
    pub scales: Vec<f64>,
    /// Working memory: the entries of a frame in whole blocks, and for each place of a row which
    /// of them it takes.
    entries: Vec<f64>,
    places: Vec<i32>,
}

impl Emissions {
    /// Converts the entries of `frames`, in place of what was here. `stats` are those of their rows, or
    /// none.
    pub fn convert<S: Real>(
        &mut self,
        used: &Classes,
        frames: Range<usize>,
        table: Table<S>,
        stats: &[RowStats<S>],
    ) -> Found {
        let count = table.entries;
        let labels = used.place.len();
        let width = padded(labels + 1);
        let (first, frames) = (frames.start, frames.len());
        self.first = first;
        self.width = width;
        self.labels_m.resize(frames * width, 1.0);
        self.labels_e.resize(frames * width, ZERO_EXP);
        self.blanks.resize(frames, (1.0, ZERO_EXP));
        self.scales.resize(frames, 0.0);
        self.entries.resize(padded(count), 0.0);
        // Behind the labels, and in the pads, the blank: nothing that was not there anyway.
        let blank = count - 1;
        self.places.clear();
        self.places
            .extend(used.place.iter().map(|&place| place as i32));
        self.places.resize(width, blank as i32);
        assert!(self.places.iter().all(|&place| (place as usize) < count));
        let Self {
            labels_m,
            labels_e,
            blanks,
            scales,
            entries,
            places,
            ..
        } = self;
        let mut found = Found::default();
        dispatch(
            #[inline(always)]
            || {
                let rows = labels_m
                    .chunks_exact_mut(width)
                    .zip(labels_e.chunks_exact_mut(width))
                    .zip(blanks.iter_mut().zip(scales));
                for (t, ((m, e), (to_blank, scale))) in (first..).zip(rows) {
                    for (to, from) in entries.iter_mut().zip(table.run(t / RUN)) {
                        *to = from[t % RUN].widen();
                    }
                    let x = entries[blank];
                    entries[count..].fill(x);
                    // SAFETY: the places were checked against `count` above, and `entries` has at
                    // least as many.
                    let largest = unsafe { convert_row(entries, places, m, e, &mut found) };
                    *scale = largest;
                    if let Some(stats) = stats.get(t - first) {
                        *scale = stats.log_softmax(S::narrow(largest));
                        found.poisoned |= stats.is_poisoned();
                    }
                    found.log_scale += *scale;
                    *to_blank = (m[labels], e[labels]);
                    m[labels..].fill(1.0);
                    e[labels..].fill(ZERO_EXP);
                }
            },
        );
        found
    }

    /// Gathers all frames of `source` and converts them.
    pub fn read<E: Element>(&mut self, source: &Source<E>, used: &Classes) -> Found {
        let kept = source.gather_all(true);
        let table = Table {
            first: 0,
            entries: source.entries(),
            values: &kept.entries,
        };
        self.convert(used, 0..source.runs().frames, table, &kept.stats)
    }

    /// The emissions of frame `t`: the labels, and the blank.
    #[inline(always)]
    pub fn frame(&self, t: usize) -> Frame<'_> {
        let i = t - self.first;
        let row = i * self.width..(i + 1) * self.width;
        Frame {
            labels_m: &self.labels_m[row.clone()],
            labels_e: &self.labels_e[row],
            blank: self.blanks[i],
        }
    }
}

pub(in super::super) struct Frame<'a> {
    pub labels_m: &'a [f64],
    pub labels_e: &'a [f64],
    pub blank: (f64, f64),
}

/// `exp(x − largest)` of the entries at `places`, in whole blocks. The largest.
///
/// # Safety
/// `places` must hold indices into `entries`.
#[inline(always)]
unsafe fn convert_row(
    entries: &[f64],
    places: &[i32],
    m: &mut [f64],
    e: &mut [f64],
    found: &mut Found,
) -> f64 {
    let (blocks, _) = entries.as_chunks::<LANES>();
    let (places, _) = places.as_chunks::<LANES>();
    let (m, _) = m.as_chunks_mut::<LANES>();
    let (e, _) = e.as_chunks_mut::<LANES>();
    let mut largest = fold_lanes(tops_of(blocks), larger);
    if largest == f64::NEG_INFINITY {
        largest = 0.0;
    }
    let mut live_all = [true; LANES];
    for ((places, m), e) in places.iter().zip(m).zip(e) {
        let (mut block_m, mut block_e) = ([1.0; LANES], [ZERO_EXP; LANES]);
        for k in 0..LANES {
            // SAFETY: the caller's. Unchecked and with a signed index of 32 bits, so that a block
            // is one vector load.
            let x = unsafe { *entries.as_ptr().offset(places[k] as isize) };
            let live = largest - x <= FAR_BELOW;
            live_all[k] &= live;
            let (mantissa, exponent) = exp_split(x, largest);
            block_m[k] = if live { mantissa } else { 1.0 };
            block_e[k] = if live { exponent } else { ZERO_EXP };
        }
        *m = block_m;
        *e = block_e;
    }
    if !fold_lanes(live_all, |a, b| a & b) {
        // −inf, too far below, or no number at all: rare enough to look again.
        found.poisoned |= entries.iter().any(|x| x.is_poison());
    }
    largest
}
