//! The forward-backward recursion of CTC in numbers with their own exponent.
//!
//! States, recursion and the meeting of the two directions are those of the tiles, whose file defines them.
//!
//! A direction counts *steps*: step k makes row k from row k − 1. Forward, row 0 stands before
//! frame 0 and step k consumes frame k − 1; backward, row 0 stands behind the last frame and step
//! k consumes frame T − k.

use super::super::isa::dispatch;
use super::super::lanes::{LANES, fold_lanes};
use super::super::runs::{Backward, Direction, Runs};
use super::emission::{Emissions, padded};
use super::number::{ZERO_BELOW, ZERO_EXP, max, normalise, pow2};
use crate::classes::Classes;
use std::ops::Range;

/// Steps after which mantissas are brought back to [1, 2). In one step a mantissa grows by less
/// than 2^2.1 (three terms and an emission below 1.42) and shrinks by at most 2^0.51, so in 16
/// they stay between 2^−9 and 2^35; a term that is dropped for being 2^1022 below is then less
/// than 2^−970 of its sum.
const RENORMALISE: usize = 16;

/// The shape of one item's lattice.
pub(in super::super) struct Lattice {
    /// `T_n`.
    pub frames: usize,
    /// `U_n`.
    labels: usize,
    /// `U_n + 1` in whole blocks.
    width: usize,
    /// 0 where label i may follow label i − 1 with no blank between them, a zero's exponent
    /// elsewhere; entry i + 1 is for label i.
    skip: Vec<f64>,
}

/// Rows of states. In memory each row is its blanks, then its labels, each with one pad before
/// and one behind.
#[derive(Default)]
pub(in super::super) struct Rows {
    /// Rows that are kept: 0 to `kept`. Later steps take turns in two rows behind those.
    kept: usize,
    track: usize,
    m: Vec<f64>,
    e: Vec<f64>,
}

/// Pair i stands at i + 1.
#[derive(Clone, Copy)]
pub(in super::super) struct Row<'a> {
    pub blank_m: &'a [f64],
    pub blank_e: &'a [f64],
    pub label_m: &'a [f64],
    pub label_e: &'a [f64],
}

struct RowMut<'a> {
    blank_m: &'a mut [f64],
    blank_e: &'a mut [f64],
    label_m: &'a mut [f64],
    label_e: &'a mut [f64],
}

impl Rows {
    /// Makes room for rows 0 to `kept`, and two more.
    pub fn prepare(&mut self, lattice: &Lattice, kept: usize) {
        self.kept = kept;
        self.track = lattice.width + 2;
        let size = (kept + 3) * 2 * self.track;
        // Old contents are overwritten before they are read: see `step`.
        self.m.resize(size, 1.0);
        self.e.resize(size, ZERO_EXP);
    }

    /// Row 0 of a direction: all in its first state.
    pub fn start<D: Direction>(&mut self, lattice: &Lattice) {
        self.m[..2 * self.track].fill(1.0);
        self.e[..2 * self.track].fill(ZERO_EXP);
        let first = if D::FORWARD { 0 } else { lattice.labels };
        self.e[first + 1] = 0.0;
    }

    /// Row 0 as a copy of row `k` of `other`.
    pub fn start_from(&mut self, other: &Rows, k: usize) {
        let row = other.slot(k) * 2 * self.track..(other.slot(k) + 1) * 2 * self.track;
        self.m[..2 * self.track].copy_from_slice(&other.m[row.clone()]);
        self.e[..2 * self.track].copy_from_slice(&other.e[row]);
    }

    fn slot(&self, k: usize) -> usize {
        if k <= self.kept {
            k
        } else {
            self.kept + 1 + (k - self.kept) % 2
        }
    }

    #[inline(always)]
    pub fn row(&self, k: usize) -> Row<'_> {
        let start = self.slot(k) * 2 * self.track;
        let place = start..start + 2 * self.track;
        Row::of(&self.m[place.clone()], &self.e[place])
    }

    /// Row `k − 1` to read and row `k` to write.
    #[inline(always)]
    fn step_rows(&mut self, k: usize) -> (Row<'_>, RowMut<'_>) {
        let (from, to, track) = (self.slot(k - 1), self.slot(k), self.track);
        let ([from_m, to_m], [from_e, to_e]) = (
            two(&mut self.m, 2 * track, from, to),
            two(&mut self.e, 2 * track, from, to),
        );
        let (blank_m, label_m) = to_m.split_at_mut(track);
        let (blank_e, label_e) = to_e.split_at_mut(track);
        let to = RowMut {
            blank_m,
            blank_e,
            label_m,
            label_e,
        };
        (Row::of(from_m, from_e), to)
    }
}

/// Chunks `a` and `b`, which differ, of chunks of `size`.
#[inline(always)]
fn two<T>(slice: &mut [T], size: usize, a: usize, b: usize) -> [&mut [T]; 2] {
    if a < b {
        let (low, high) = slice.split_at_mut(b * size);
        [&mut low[a * size..(a + 1) * size], &mut high[..size]]
    } else {
        let (low, high) = slice.split_at_mut(a * size);
        [&mut high[..size], &mut low[b * size..(b + 1) * size]]
    }
}

#[inline(always)]
fn block<T>(slice: &[T], start: usize) -> &[T; LANES] {
    slice[start..start + LANES].try_into().expect("a block")
}

/// `a + b`, unnormalised.
#[inline(always)]
fn sum2(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let e = max(a.1, b.1);
    let m = a.0 * pow2(a.1 - e) + b.0 * pow2(b.1 - e);
    (m, e)
}

/// `a + b + c`, unnormalised.
#[inline(always)]
fn sum3(a: (f64, f64), b: (f64, f64), c: (f64, f64)) -> (f64, f64) {
    let e = max(max(a.1, b.1), c.1);
    let m = a.0 * pow2(a.1 - e) + b.0 * pow2(b.1 - e) + c.0 * pow2(c.1 - e);
    (m, e)
}

/// `a · y`, unnormalised, its exponent not below a zero's.
#[inline(always)]
fn times(a: (f64, f64), y: (f64, f64)) -> (f64, f64) {
    (a.0 * y.0, max(a.1 + y.1, ZERO_EXP))
}

/// Numbers of one track, as the mantissas and exponents of a block.
#[derive(Clone, Copy)]
struct Numbers<'a> {
    m: &'a [f64; LANES],
    e: &'a [f64; LANES],
}

impl Numbers<'_> {
    #[inline(always)]
    fn lane(&self, k: usize) -> (f64, f64) {
        (self.m[k], self.e[k])
    }
}

impl<'a> Row<'a> {
    /// From the mantissas and the exponents of its blanks and then of its labels.
    #[inline(always)]
    fn of(m: &'a [f64], e: &'a [f64]) -> Self {
        let (blank_m, label_m) = m.split_at(m.len() / 2);
        let (blank_e, label_e) = e.split_at(e.len() / 2);
        Self {
            blank_m,
            blank_e,
            label_m,
            label_e,
        }
    }

    /// The blanks from place `start` on, pads counted.
    #[inline(always)]
    fn blanks(self, start: usize) -> Numbers<'a> {
        Numbers {
            m: block(self.blank_m, start),
            e: block(self.blank_e, start),
        }
    }

    /// The labels from place `start` on, pads counted.
    #[inline(always)]
    fn labels(self, start: usize) -> Numbers<'a> {
        Numbers {
            m: block(self.label_m, start),
            e: block(self.label_e, start),
        }
    }
}

/// What flows into the pairs of one block.
struct Inflow<'a> {
    /// The same blank, and the label that comes before it.
    blank: [Numbers<'a>; 2],
    /// The same label, the blank that comes before it, and the label that comes before it.
    label: [Numbers<'a>; 3],
    skip: &'a [f64; LANES],
}

impl<'a> Inflow<'a> {
    /// Into the pairs from `start` on, out of `row`. Before means earlier in time: on the way
    /// back, the states behind.
    #[inline(always)]
    fn new<D: Direction>(row: Row<'a>, skip: &'a [f64], start: usize) -> Self {
        // With the pad in front, pair i stands at i + 1.
        let (low, here, high) = (start, start + 1, start + 2);
        if D::FORWARD {
            Self {
                blank: [row.blanks(here), row.labels(low)],
                label: [row.labels(here), row.blanks(here), row.labels(low)],
                skip: block(skip, here),
            }
        } else {
            Self {
                blank: [row.blanks(here), row.labels(here)],
                label: [row.labels(here), row.blanks(high), row.labels(high)],
                skip: block(skip, high),
            }
        }
    }

    /// Into blank `k` of the block.
    #[inline(always)]
    fn blank(&self, k: usize) -> (f64, f64) {
        sum2(self.blank[0].lane(k), self.blank[1].lane(k))
    }

    /// Into label `k` of the block.
    #[inline(always)]
    fn label(&self, k: usize) -> (f64, f64) {
        let (m, e) = self.label[2].lane(k);
        let far = (m, e + self.skip[k]);
        sum3(self.label[0].lane(k), self.label[1].lane(k), far)
    }
}

/// `a · b · 2^−top` as a plain number.
#[inline(always)]
fn product(a: (f64, f64), b: (f64, f64), top: f64) -> f64 {
    a.0 * b.0 * pow2(a.1 + b.1 - top)
}

/// The posterior of one frame as a step forms it.
struct Posterior<'a> {
    /// The row of the other direction that includes the frame.
    kept: Row<'a>,
    top: f64,
    /// Sums over the blanks and over the labels, by lane.
    blanks: [f64; LANES],
    labels: [f64; LANES],
    /// Of each label's state, not yet normalised.
    states: &'a mut [f64],
}

impl Lattice {
    pub fn new(frames: usize, target: &[u32]) -> Self {
        let width = padded(target.len() + 1);
        let mut skip = vec![ZERO_EXP; width + 2];
        for (i, pair) in target.windows(2).enumerate() {
            if pair[0] != pair[1] {
                skip[i + 2] = 0.0;
            }
        }
        Self {
            frames,
            labels: target.len(),
            width,
            skip,
        }
    }

    fn runs(&self) -> Runs {
        Runs {
            frames: self.frames,
        }
    }

    /// The steps of a direction up to the middle.
    pub fn steps<D: Direction>(&self) -> usize {
        self.runs().frames_of(self.runs().half::<D>()).len()
    }

    /// The blocks of pairs that can be reached at frame `t` from the start, and from which the
    /// end can be reached: pairs `U − (T − t)` to `t`.
    #[inline(always)]
    fn blocks(&self, t: usize) -> Range<usize> {
        let low = self.labels.saturating_sub(self.frames - t);
        let high = t.min(self.labels);
        low / LANES..high / LANES + 1
    }

    /// The pairs that can be reached at frame `t` from the start, and from which the end can be.
    pub fn pairs(&self, t: usize) -> Range<usize> {
        self.labels.saturating_sub(self.frames - t)..t.min(self.labels) + 1
    }

    /// The frame that step `k` consumes.
    #[inline(always)]
    pub fn frame_of<D: Direction>(&self, k: usize) -> usize {
        if D::FORWARD { k - 1 } else { self.frames - k }
    }

    /// The steps that consume `frames`.
    pub fn steps_of<D: Direction>(&self, frames: Range<usize>) -> Range<usize> {
        if D::FORWARD {
            frames.start + 1..frames.end + 1
        } else {
            self.frames + 1 - frames.end..self.frames + 1 - frames.start
        }
    }

    /// Runs `steps` of one direction.
    pub fn sweep<D: Direction>(&self, rows: &mut Rows, steps: Range<usize>, emissions: &Emissions) {
        dispatch(
            #[inline(always)]
            || {
                for k in steps {
                    self.step::<D, false>(rows, k, k, emissions, None);
                }
            },
        )
    }

    /// `ln P` from row `k` of one direction and the row before it of the other. −inf when no path
    /// has a probability above 0. The second value is the exponent that posteriors refer to.
    pub fn meet(&self, alpha: &Rows, beta: &Rows) -> (f64, f64) {
        dispatch(
            #[inline(always)]
            || {
                let middle = self.runs().middle();
                let t = middle - 1;
                let beta = beta.row(self.frames - middle);
                let alpha = alpha.row(middle);
                let mut top = [ZERO_EXP + ZERO_EXP; LANES];
                for b in self.blocks(t) {
                    let flow = Inflow::new::<Backward>(beta, &self.skip, b * LANES);
                    let blanks = alpha.blanks(b * LANES + 1);
                    let labels = alpha.labels(b * LANES + 1);
                    for (k, top) in top.iter_mut().enumerate() {
                        *top = max(*top, blanks.e[k] + flow.blank(k).1);
                        *top = max(*top, labels.e[k] + flow.label(k).1);
                    }
                }
                let top = fold_lanes(top, max);
                let mut sum = [0.0f64; LANES];
                for b in self.blocks(t) {
                    let flow = Inflow::new::<Backward>(beta, &self.skip, b * LANES);
                    let blanks = alpha.blanks(b * LANES + 1);
                    let labels = alpha.labels(b * LANES + 1);
                    for (k, sum) in sum.iter_mut().enumerate() {
                        *sum += product(blanks.lane(k), flow.blank(k), top);
                        *sum += product(labels.lane(k), flow.label(k), top);
                    }
                }
                if top <= ZERO_BELOW {
                    (f64::NEG_INFINITY, top)
                } else {
                    let log_p = fold_lanes(sum, |a, b| a + b).ln() + top * std::f64::consts::LN_2;
                    (log_p, top)
                }
            },
        )
    }

    /// Walks on by `steps` through the half that `other` kept and hands the posterior of each
    /// frame to `write`: of each class that the target uses, then of the blank. Row 0 of `rows`
    /// is the row before the first of all steps past the middle.
    #[allow(clippy::too_many_arguments)]
    pub fn walk_on<D: Direction>(
        &self,
        rows: &mut Rows,
        steps: Range<usize>,
        other: &Rows,
        emissions: &Emissions,
        top: f64,
        classes: &Classes,
        write: &mut dyn FnMut(usize, &[f64]),
    ) {
        let from = self.steps::<D>();
        dispatch(
            #[inline(always)]
            || {
                let mut states = vec![0.0; self.width];
                let mut sums = vec![0.0; classes.distinct.len() + 1];
                for k in steps {
                    let t = self.frame_of::<D>(k);
                    // The row of the other direction that includes frame t.
                    let kept = other.row(self.frames + 1 - k);
                    let mut posterior = Posterior {
                        kept,
                        top,
                        blanks: [0.0; LANES],
                        labels: [0.0; LANES],
                        states: &mut states,
                    };
                    let frame = Some(&mut posterior);
                    self.step::<D, true>(rows, k, k - from, emissions, frame);
                    let (blanks, labels) = (posterior.blanks, posterior.labels);
                    let blank = fold_lanes(blanks, |a, b| a + b);
                    let sum = blank + fold_lanes(labels, |a, b| a + b);
                    // Dividing by the frame's own sum takes out the rounding that all its states
                    // share.
                    let scale = 1.0 / sum;
                    let blocks = self.blocks(t);
                    states[..blocks.start * LANES].fill(0.0);
                    states[blocks.end * LANES..].fill(0.0);
                    sums.fill(0.0);
                    for (&place, state) in classes.place.iter().zip(&states) {
                        sums[place as usize] += state * scale;
                    }
                    sums[classes.distinct.len()] = blank * scale;
                    write(t, &sums);
                }
            },
        )
    }

    /// Step `k` of a direction, made in row `slot` of `rows` from the row before it.
    #[inline(always)]
    fn step<D: Direction, const WALK: bool>(
        &self,
        rows: &mut Rows,
        k: usize,
        slot: usize,
        emissions: &Emissions,
        mut posterior: Option<&mut Posterior<'_>>,
    ) {
        let t = self.frame_of::<D>(k);
        let y = emissions.frame(t);
        let blocks = self.blocks(t);
        let (from, mut to) = rows.step_rows(slot);
        for b in blocks.clone() {
            let start = b * LANES;
            let here = start + 1;
            let flow = Inflow::new::<D>(from, &self.skip, start);
            let y_labels = Numbers {
                m: block(y.labels_m, start),
                e: block(y.labels_e, start),
            };
            let (mut blank_m, mut blank_e) = ([1.0; LANES], [ZERO_EXP; LANES]);
            let (mut label_m, mut label_e) = ([1.0; LANES], [ZERO_EXP; LANES]);
            if let (true, Some(posterior)) = (WALK, posterior.as_mut()) {
                let kept_blanks = posterior.kept.blanks(here);
                let kept_labels = posterior.kept.labels(here);
                let mut states = [0.0; LANES];
                for k in 0..LANES {
                    let blank = flow.blank(k);
                    posterior.blanks[k] += product(kept_blanks.lane(k), blank, posterior.top);
                    (blank_m[k], blank_e[k]) = times(blank, y.blank);
                }
                for k in 0..LANES {
                    let label = flow.label(k);
                    states[k] = product(kept_labels.lane(k), label, posterior.top);
                    posterior.labels[k] += states[k];
                    (label_m[k], label_e[k]) = times(label, y_labels.lane(k));
                }
                posterior.states[start..start + LANES].copy_from_slice(&states);
            } else {
                for k in 0..LANES {
                    (blank_m[k], blank_e[k]) = times(flow.blank(k), y.blank);
                }
                for k in 0..LANES {
                    (label_m[k], label_e[k]) = times(flow.label(k), y_labels.lane(k));
                }
            }
            let here = here..here + LANES;
            to.blank_m[here.clone()].copy_from_slice(&blank_m);
            to.blank_e[here.clone()].copy_from_slice(&blank_e);
            to.label_m[here.clone()].copy_from_slice(&label_m);
            to.label_e[here].copy_from_slice(&label_e);
        }
        if k.is_multiple_of(RENORMALISE) {
            let live = blocks.start * LANES + 1..blocks.end * LANES + 1;
            for i in live {
                (to.blank_m[i], to.blank_e[i]) = normalise(to.blank_m[i], to.blank_e[i]);
                (to.label_m[i], to.label_e[i]) = normalise(to.label_m[i], to.label_e[i]);
            }
        }
        // The next step reads its own blocks and one pair beyond them; what this step did not
        // write there is zero.
        let next = if D::FORWARD {
            self.blocks((t + 1).min(self.frames - 1))
        } else {
            self.blocks(t.saturating_sub(1))
        };
        let low = next.start.min(blocks.start) * LANES;
        let high = (next.end.max(blocks.end) * LANES + 1).min(self.width + 1);
        to.clear(low..blocks.start * LANES + 1);
        to.clear(blocks.end * LANES + 1..high + 1);
    }
}

impl RowMut<'_> {
    #[inline(always)]
    fn clear(&mut self, places: Range<usize>) {
        self.blank_m[places.clone()].fill(1.0);
        self.blank_e[places.clone()].fill(ZERO_EXP);
        self.label_m[places.clone()].fill(1.0);
        self.label_e[places].fill(ZERO_EXP);
    }
}
