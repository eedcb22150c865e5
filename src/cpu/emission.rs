//! From the input to the emissions that a lattice reads: for each frame the entries of the classes
//! that the target uses and of the blank, as they are or as probabilities relative to the largest of
//! them. For logits the log-sum-exp of the row is taken on the way.

use super::isa::dispatch;
use super::real::{Element, Real};
use crate::classes::Classes;
use crate::plan::{InputKind, Plan, Strides};
use rayon::prelude::*;

/// States are worked on in blocks of this many (blank, label) pairs.
pub(super) const LANES: usize = 16;

/// Rounds up to whole blocks.
pub(super) fn padded(pairs: usize) -> usize {
    pairs.next_multiple_of(LANES)
}

/// What a log-softmax over the row of a frame needs: `log p = x − maximum − ln sum`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowStats<R> {
    pub maximum: R,
    /// `Σ exp(x − maximum)` over the classes.
    pub sum: f64,
}

/// What was seen on the way to the emissions of some frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// `Σ_t` of the logarithms that were divided out. A frame's entries are relative to the
    /// largest of them, so that a path that stays on the largest is multiplied by exactly 1.
    pub log_scale: f64,
    /// A NaN or +inf was among the entries.
    pub poisoned: bool,
}

impl Found {
    /// What dividing by the softmax denominators of some frames adds.
    pub fn normalisers<R: Real>(stats: &[RowStats<R>]) -> Found {
        let mut found = Found::default();
        for stats in stats {
            let normaliser = stats.maximum.widen() + stats.sum.ln();
            found.log_scale -= normaliser;
            found.poisoned |= !normaliser.is_finite();
        }
        found
    }

    pub fn and(self, other: Found) -> Found {
        Found {
            log_scale: self.log_scale + other.log_scale,
            poisoned: self.poisoned | other.poisoned,
        }
    }
}

/// The entries of one item in the input, and which of them its target uses.
pub(super) struct Source<'a, E> {
    data: &'a [E],
    strides: Strides,
    kind: InputKind,
    classes: usize,
    /// Where the entries of frame 0 begin.
    start: usize,
    /// For each class that the target uses, then for the blank: its distance from the frame's
    /// start.
    columns: Vec<usize>,
    /// The largest of them.
    reach: usize,
}

impl<'a, E: Element> Source<'a, E> {
    pub fn new(plan: &Plan, data: &'a [E], strides: Strides, item: usize, used: &Classes) -> Self {
        let classes = used.distinct.iter().map(|&class| class as usize);
        let columns: Vec<usize> = classes
            .chain([plan.blank])
            .map(|class| class * strides.class)
            .collect();
        Self {
            data,
            strides,
            kind: plan.input,
            classes: plan.classes,
            start: strides.offset + item * strides.item,
            reach: columns.iter().copied().fold(0, usize::max),
            columns,
        }
    }

    /// Entries gathered for a frame: one for each class that the target uses, then the blank.
    pub fn entries(&self) -> usize {
        self.columns.len()
    }

    /// Places for the row statistics of `frames` frames: none for log-probabilities.
    pub fn no_stats(&self, frames: usize) -> Vec<RowStats<E::Real>> {
        let (maximum, sum) = (E::Real::ZERO, 1.0);
        match self.kind {
            InputKind::LogProbs => Vec::new(),
            InputKind::Logits => vec![RowStats { maximum, sum }; frames],
        }
    }

    /// How much work a frame is, in entries read.
    fn weight(&self) -> usize {
        self.entries()
            + match self.kind {
                InputKind::LogProbs => 0,
                InputKind::Logits => self.classes,
            }
    }

    /// Fills `to` with the entries of the frames from `first` on, and `stats`, which has one place
    /// for each of them (none for log-probabilities). On several threads if `split`.
    pub fn gather(
        &self,
        first: usize,
        to: &mut [E::Real],
        stats: &mut [RowStats<E::Real>],
        split: bool,
    ) {
        let share = (SHARE / self.weight()).max(1);
        let runs = to.len().div_ceil(share * self.entries());
        if runs <= 1 || !split {
            return self.gather_run(first, to, stats);
        }
        let mut stats: Vec<&mut [RowStats<E::Real>]> = stats.chunks_mut(share).collect();
        stats.resize_with(runs, Default::default);
        (to.par_chunks_mut(share * self.entries()), stats)
            .into_par_iter()
            .enumerate()
            .for_each(|(i, (to, stats))| self.gather_run(first + i * share, to, stats));
    }

    /// Fills `to` with the emissions of the frames from `first` on, each divided by the largest of
    /// its frame, whose logarithm goes to `largest`; and `stats` as [`Source::gather`] does. Says
    /// whether all of them are in range: no NaN, no −inf, none below e^−87.
    pub fn emissions(
        &self,
        first: usize,
        to: &mut [E::Real],
        largest: &mut [E::Real],
        stats: &mut [RowStats<E::Real>],
        split: bool,
        buffers: &mut RowBuffers<E>,
    ) -> bool {
        let share = (SHARE / self.weight()).max(1);
        let runs = largest.len().div_ceil(share);
        if runs <= 1 || !split {
            return self.emissions_run(first, to, largest, stats, buffers);
        }
        let mut stats: Vec<&mut [RowStats<E::Real>]> = stats.chunks_mut(share).collect();
        stats.resize_with(runs, Default::default);
        let shares = (
            to.par_chunks_mut(share * self.entries()),
            largest.par_chunks_mut(share),
            stats,
        );
        shares
            .into_par_iter()
            .enumerate()
            .map(|(i, (to, largest, stats))| {
                let buffers = &mut RowBuffers::default();
                self.emissions_run(first + i * share, to, largest, stats, buffers)
            })
            .reduce(|| true, |a, b| a & b)
    }

    fn emissions_run(
        &self,
        first: usize,
        to: &mut [E::Real],
        largest: &mut [E::Real],
        stats: &mut [RowStats<E::Real>],
        buffers: &mut RowBuffers<E>,
    ) -> bool {
        let (entries, width) = (self.entries(), padded(self.entries()));
        let mut rows = std::mem::take(&mut buffers.picked);
        rows.resize(AT_ONCE * width, E::Real::ZERO);
        let regular = dispatch(
            #[inline(always)]
            || {
                let mut regular = true;
                for start in (0..largest.len()).step_by(AT_ONCE) {
                    let some = start..(start + AT_ONCE).min(largest.len());
                    // Two passes: what is stored in pieces is best not loaded whole at once.
                    for (t, row) in some.clone().zip(rows.chunks_exact_mut(width)) {
                        self.gather_row(first + t, &mut row[..entries], stats.get_mut(t), buffers);
                        let filler = row[0];
                        row[entries..].fill(filler);
                    }
                    for (t, row) in some.zip(rows.chunks_exact(width)) {
                        // Whole blocks; the next row overwrites what goes beyond this one.
                        let room = to.len().min(t * entries + width);
                        let to = &mut to[t * entries..room];
                        regular &= linear_row(row, to, &mut largest[t]);
                    }
                }
                regular
            },
        );
        buffers.picked = rows;
        regular
    }

    fn gather_run(&self, first: usize, to: &mut [E::Real], stats: &mut [RowStats<E::Real>]) {
        let mut buffers = RowBuffers::default();
        dispatch(
            #[inline(always)]
            || {
                for (i, to) in to.chunks_exact_mut(self.entries()).enumerate() {
                    self.gather_row(first + i, to, stats.get_mut(i), &mut buffers);
                }
            },
        )
    }

    /// The entries of frame `t`; for logits its statistics too.
    #[inline(always)]
    fn gather_row(
        &self,
        t: usize,
        to: &mut [E::Real],
        stats: Option<&mut RowStats<E::Real>>,
        buffers: &mut RowBuffers<E>,
    ) {
        let start = self.start + t * self.strides.frame;
        let RowBuffers { raw, row, .. } = buffers;
        if let Some(stats) = stats {
            let (stride, classes) = (self.strides.class, self.classes);
            let row = read_row(self.data, start, stride, classes, raw, row);
            let (maximum, sum) = E::Real::log_sum_exp(row);
            *stats = RowStats { maximum, sum };
        }
        let data = &self.data[start..];
        if let Some(data) = E::as_real(data) {
            assert!(self.reach < data.len());
            for (to, &column) in to.iter_mut().zip(&self.columns) {
                // SAFETY: no column is above `reach`.
                *to = unsafe { *data.get_unchecked(column) };
            }
        } else {
            raw.clear();
            raw.extend(self.columns.iter().map(|&column| data[column]));
            E::widen_slice(raw, to);
        }
    }
}

/// Working memory for rows of the input.
pub(super) struct RowBuffers<E: Element> {
    raw: Vec<E>,
    row: Vec<E::Real>,
    picked: Vec<E::Real>,
}

impl<E: Element> Default for RowBuffers<E> {
    fn default() -> Self {
        Self {
            raw: Vec::new(),
            row: Vec::new(),
            picked: Vec::new(),
        }
    }
}

/// Frames whose entries are gathered before they are converted.
const AT_ONCE: usize = 16;

/// Entries that a thread reads at a time.
const SHARE: usize = 1 << 16;

/// One row of the input as the arithmetic wants it. Borrowed where it can be.
#[inline(always)]
pub(super) fn read_row<'a, E: Element>(
    data: &'a [E],
    start: usize,
    stride: usize,
    classes: usize,
    raw: &'a mut Vec<E>,
    row: &'a mut Vec<E::Real>,
) -> &'a [E::Real] {
    let entries = if stride == 1 {
        &data[start..start + classes]
    } else {
        raw.clear();
        raw.extend((0..classes).map(|class| data[start + class * stride]));
        raw
    };
    if let Some(reals) = E::as_real(entries) {
        return reals;
    }
    row.resize(classes, E::Real::ZERO);
    E::widen_slice(entries, row);
    row
}

/// `exp(x − largest)` of a row in whole blocks, as much as `to` takes; `largest` is set. Whether all
/// entries are within [`LOWEST`] of it.
#[inline(always)]
fn linear_row<R: Real>(row: &[R], to: &mut [R], largest: &mut R) -> bool {
    let (blocks, _) = row.as_chunks::<LANES>();
    let top = largest_of(blocks, &[]);
    *largest = top;
    let limit = R::narrow(LOWEST);
    let mut live = [true; LANES];
    let mut convert = |block: &[R; LANES]| {
        let mut y = [R::ZERO; LANES];
        for k in 0..LANES {
            live[k] &= top - block[k] <= limit;
            y[k] = R::exp_ratio(block[k], top);
        }
        y
    };
    let (to, rest) = to.as_chunks_mut::<LANES>();
    for (to, block) in to.iter_mut().zip(blocks) {
        *to = convert(block);
    }
    if let Some(block) = blocks.get(to.len()) {
        let y = convert(block);
        rest.copy_from_slice(&y[..rest.len()]);
    }
    fold_lanes(live, |a, b| a & b)
}

/// How far (in nats) emissions may be below the largest of their frame to be plain numbers of any
/// type: e^−87 is above the least normal f32.
const LOWEST: f64 = 87.0;

/// The sum in f64, in an order that is always the same and loses little.
pub(super) fn exact_sum<R: Real>(values: &[R]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (sum, x) in lanes.iter_mut().zip(block) {
            *sum += x.widen();
        }
    }
    for (sum, x) in lanes.iter_mut().zip(rest) {
        *sum += x.widen();
    }
    fold_lanes(lanes, |a, b| a + b)
}

/// NaN or +inf.
pub(super) fn is_poison<R: Real>(x: R) -> bool {
    let x = x.widen();
    x.is_nan() || x == f64::INFINITY
}

/// All lanes brought together pairwise, in an order that is always the same.
#[inline(always)]
pub(super) fn fold_lanes<T: Copy, const N: usize>(
    mut lanes: [T; N],
    merge: impl Fn(T, T) -> T,
) -> T {
    let mut half = N / 2;
    while half > 0 {
        for k in 0..half {
            lanes[k] = merge(lanes[k], lanes[k + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest entry, NaN left out; −inf when there is none.
#[inline(always)]
pub(super) fn largest_of<R: Real>(blocks: &[[R; LANES]], rest: &[R]) -> R {
    let mut lanes = [R::narrow(f64::NEG_INFINITY); LANES];
    for block in blocks {
        for k in 0..LANES {
            lanes[k] = if block[k] > lanes[k] {
                block[k]
            } else {
                lanes[k]
            };
        }
    }
    let larger = |a: R, b: R| if b > a { b } else { a };
    rest.iter().copied().fold(fold_lanes(lanes, larger), larger)
}
