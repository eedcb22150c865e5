//! From the input to the emissions that a lattice reads: for each frame the entries of the classes
//! that the target uses and of the blank, as they are or as probabilities relative to the largest of
//! them. For logits the log-sum-exp of the row is taken on the way.

#![allow(
    clippy::needless_range_loop,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

use super::fetch::{fetch, fetch_all};
use super::isa::{dispatch, dispatch_simd};
use super::lanes::{Block, LANES, larger};
use super::real::{Element, Real};
use super::runs::{Depth, Entries, RUN, Runs};
use super::softmax::{RowStats, log_sum_exp};
use super::tiles::raw_emissions;
use super::{Kept, OutOfMemory, Poisoned, filled, zeroed};
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::WithDType;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Logarithms are added up with this factor, so that sums of entries near ±1e308 stay finite: 2^−64.
pub(super) const LOG_UNIT: f64 = 1.0 / (1u128 << 64) as f64;

/// The entries of one item in the input, and which of them its target uses.
pub(super) struct Source<'a, E> {
    data: &'a [E],
    strides: Strides,
    kind: InputKind,
    classes: usize,
    runs: Runs,
    /// Where the entries of frame 0 begin.
    start: usize,
    /// The classes that the target uses.
    used: &'a [u32],
    blank: usize,
    /// How far the farthest of these is from the start of its frame.
    reach: usize,
    /// Whether what is read is kept.
    pub kept: bool,
}

impl<'a, E: Element> Source<'a, E> {
    const NO_STATS: RowStats<E::Real> = RowStats {
        maximum: E::Real::ZERO,
        sum: 1.0,
    };

    /// Of `item`, whose target uses the classes `used`.
    pub fn new(plan: &Plan, data: &'a [E], strides: Strides, item: usize, used: &'a [u32]) -> Self {
        let farthest = used.iter().fold(plan.blank, |a, &b| a.max(b as usize));
        Self {
            data,
            strides,
            kind: plan.input,
            classes: plan.classes,
            runs: Runs {
                frames: plan.input_lengths[item],
            },
            start: strides.offset + item * strides.item,
            used,
            blank: plan.blank,
            reach: farthest * strides.class,
            kept: false,
        }
    }

    pub fn runs(&self) -> Runs {
        self.runs
    }

    /// Entries gathered for a frame: one for each class that the target uses, then the blank.
    pub fn entries(&self) -> usize {
        self.used.len() + 1
    }

    /// Places for the row statistics of `frames` frames: none for log-probabilities.
    pub fn no_stats(&self, frames: usize) -> Vec<RowStats<E::Real>> {
        match self.kind {
            InputKind::LogProbs => Vec::new(),
            InputKind::Logits => vec![Self::NO_STATS; frames],
        }
    }

    /// Room for all runs.
    pub fn room(&self) -> Result<Kept<E::Real>, OutOfMemory> {
        let (runs, frames) = (self.runs.count(), self.runs.frames);
        let stats = match self.kind {
            InputKind::LogProbs => 0,
            InputKind::Logits => frames,
        };
        Ok(Kept {
            runs: self.runs,
            width: self.entries(),
            entries: zeroed(runs.saturating_mul(self.entries()))?,
            stats: filled(Self::NO_STATS, stats)?,
            kinds: filled(Entries::Plain, runs)?,
            log_scales: Vec::new(),
        })
    }

    /// How much work a frame is, in entries read.
    fn weight(&self) -> usize {
        self.entries()
            + match self.kind {
                InputKind::LogProbs => 0,
                InputKind::Logits => self.classes,
            }
    }

    /// Fills the table `to` with the entries of `runs`, and `stats`, which has one place for each of
    /// their frames (none for log-probabilities). The last frame of the item stands in for those that
    /// its last run does not have. On several threads if `split`.
    pub fn gather(
        &self,
        runs: Range<usize>,
        to: &mut [[E::Real; RUN]],
        stats: &mut [RowStats<E::Real>],
        split: bool,
        buffers: &mut RowBuffers<E>,
    ) {
        let share = (SHARE / (RUN * self.weight())).max(1);
        if !split || runs.len() <= share {
            return self.gather_runs(runs.start, to, stats, buffers);
        }
        let mut stats: Vec<&mut [RowStats<E::Real>]> = stats.chunks_mut(share * RUN).collect();
        stats.resize_with(runs.len().div_ceil(share), Default::default);
        (to.par_chunks_mut(share * self.entries()), stats)
            .into_par_iter()
            .enumerate()
            .for_each(|(i, (to, stats))| {
                let first = runs.start + i * share;
                self.gather_runs(first, to, stats, &mut RowBuffers::default());
            });
    }

    /// [`Source::gather`], and then emissions in place of the entries, each divided by the largest of its
    /// frame. `scales` receives for each run the logarithm of all that its frames were divided by, times [`LOG_UNIT`],
    /// the softmax denominators of logits among it; `to.log_scales` receives the plain logarithm of each frame, where it
    /// has room. A run in which an entry is below e^−87, and not 0, keeps its entries as they are; its emissions are in
    /// `to.wide`.
    pub fn emissions<'b>(
        &self,
        runs: Range<usize>,
        to: EmissionsTo<'b, E::Real>,
        scales: &mut Vec<f64>,
        split: bool,
        buffers: &mut RowBuffers<E>,
    ) -> Result<EmissionsTo<'b, E::Real>, Poisoned> {
        let frames = self.runs.frames_of(runs.clone()).len();
        let EmissionsTo {
            entries,
            stats,
            kinds,
            log_scales,
            wide,
        } = to;
        self.gather(runs.clone(), entries, stats, split, buffers);
        let RowBuffers {
            tops,
            raw_run,
            unmasked,
            ..
        } = buffers;
        tops.resize(runs.len(), [E::Real::ZERO; RUN]);
        to_emissions(entries, self.entries(), tops, kinds, split);
        let marked = kinds.iter_mut().enumerate();
        for (i, kind) in marked.filter(|(_, kind)| kind.is_raw()) {
            let of_run = i * self.entries()..(i + 1) * self.entries();
            let run = &mut entries[of_run.clone()];
            self.gather_run((runs.start + i) * RUN, run, raw_run);
            let masked = is_masked(run)?;
            for top in &mut tops[i] {
                // Any finite number will do to measure from where there is none.
                if top.widen() == f64::NEG_INFINITY {
                    *top = E::Real::ZERO;
                }
            }
            if masked && unmask(run, unmasked) {
                let (mut top, mut still) = ([[E::Real::ZERO; RUN]], [Entries::Plain]);
                to_emissions(unmasked, run.len(), &mut top, &mut still, false);
                if still == [Entries::Plain] {
                    tops[i] = top[0];
                    mask(run, unmasked);
                    *kind = Entries::Masked;
                    continue;
                }
            }
            if wide.len() < runs.len() * self.entries() {
                wide.resize(runs.len() * self.entries(), [0.0; RUN]);
            }
            *kind = Entries::Raw(raw_emissions(run, &mut wide[of_run]));
        }
        scales.clear();
        let mut finite = true;
        for (i, tops) in tops.iter().enumerate() {
            let of_run = i * RUN..frames.min((i + 1) * RUN);
            let mut sum = 0.0;
            for (t, &top) in of_run.zip(tops) {
                let scale = match stats.get(t) {
                    Some(stats) => stats.log_softmax(top),
                    None => top.widen(),
                };
                if let Some(to) = log_scales.get_mut(t) {
                    *to = scale;
                }
                sum += scale * LOG_UNIT;
            }
            finite &= sum.is_finite();
            scales.push(sum);
        }
        if !finite && stats.iter().any(RowStats::is_poisoned) {
            return Err(Poisoned);
        }
        Ok(EmissionsTo {
            entries,
            stats,
            kinds,
            log_scales,
            wide,
        })
    }

    /// Whether a NaN or +inf is among the entries, of logits in all rows.
    pub fn is_poisoned(&self) -> bool {
        const AT_ONCE: usize = 16;
        let mut entries = vec![[E::Real::ZERO; RUN]; AT_ONCE * self.entries()];
        let mut buffers = RowBuffers::default();
        (0..self.runs.count()).step_by(AT_ONCE).any(|first| {
            let runs = first..(first + AT_ONCE).min(self.runs.count());
            let mut stats = self.no_stats(self.runs.frames_of(runs.clone()).len());
            let entries = &mut entries[..runs.len() * self.entries()];
            self.gather(runs, entries, &mut stats, false, &mut buffers);
            stats.iter().any(RowStats::is_poisoned)
                || entries.as_flattened().iter().any(|x| x.is_poison())
        })
    }

    /// Asks for the memory of `runs`, whose entries will be gathered soon, where rows are short. Hardware does
    /// not see what is wanted: each item has a few lines of every frame, and goes through them from both ends.
    pub fn fetch(&self, runs: Range<usize>) {
        if self.kind == InputKind::Logits || self.row_bytes() > SHORT {
            return;
        }
        for t in self.runs.frames_of(runs) {
            let start = self.start + t * self.strides.frame;
            fetch_all(&self.data[start..start + self.reach + 1]);
        }
    }

    fn gather_runs(
        &self,
        first: usize,
        to: &mut [[E::Real; RUN]],
        stats: &mut [RowStats<E::Real>],
        buffers: &mut RowBuffers<E>,
    ) {
        let mut stats = stats.chunks_mut(RUN);
        for (run, to) in (first..).zip(to.chunks_exact_mut(self.entries())) {
            // Rows that are read whole, first: their entries are then near.
            for (t, stats) in (run * RUN..).zip(stats.next().unwrap_or_default()) {
                let RowBuffers { raw, row, .. } = &mut *buffers;
                let start = self.start + t * self.strides.frame;
                let (stride, classes) = (self.strides.class, self.classes);
                let row = read_row(self.data, start, stride, classes, raw, row);
                let next = next_row(self.data, start + self.strides.frame, stride, classes);
                *stats = log_sum_exp(row, next);
            }
            // Not dispatched: loads from many rows are faster one by one than by gathering instructions.
            self.gather_run(run * RUN, to, &mut buffers.raw_run);
        }
    }

    /// The entries of the run from `frame` on.
    fn gather_run(&self, frame: usize, to: &mut [[E::Real; RUN]], raw: &mut Vec<[E; RUN]>) {
        if let Some(data) = E::as_real(self.data) {
            return self.pick(data, frame, to);
        }
        raw.resize(to.len(), [E::zero(); RUN]);
        self.pick(self.data, frame, raw);
        E::widen_slice(raw.as_flattened(), to.as_flattened_mut());
    }

    fn pick<T: WithDType>(&self, data: &[T], frame: usize, to: &mut [[T; RUN]]) {
        // Memory of logits is near: rows were read whole just now.
        let least = if self.kept { SHORT } else { 4 * SHORT };
        if self.kind == InputKind::LogProbs && self.row_bytes() > least {
            self.pick_run::<T, true>(data, frame, to);
        } else {
            self.pick_run::<T, false>(data, frame, to);
        }
    }

    /// With `AHEAD` the same entries of the next run are asked for.
    fn pick_run<T: WithDType, const AHEAD: bool>(
        &self,
        data: &[T],
        frame: usize,
        to: &mut [[T; RUN]],
    ) {
        let last = self.runs.frames - 1;
        let rows_from = |frame: usize| {
            let mut rows = [data; RUN];
            for k in 0..RUN {
                let start = self.start + (frame + k).min(last) * self.strides.frame;
                rows[k] = &data[start..start + self.reach + 1];
            }
            rows
        };
        // All rows are on their way from memory at the same time.
        let rows = rows_from(frame);
        let next = if AHEAD { rows_from(frame + RUN) } else { rows };
        let column = |class: usize| class * self.strides.class;
        let (labels, blank) = to.split_at_mut(self.used.len());
        for (to, &class) in labels.iter_mut().zip(self.used) {
            // SAFETY: no column is above `reach`.
            unsafe { pick_column::<T, AHEAD>(&rows, &next, column(class as usize), to) };
        }
        // SAFETY: as above.
        unsafe { pick_column::<T, AHEAD>(&rows, &next, column(self.blank), &mut blank[0]) };
    }

    /// From the first to the last that may be wanted of a row.
    fn row_bytes(&self) -> usize {
        (self.reach + 1) * size_of::<E>()
    }
}

/// One entry of each row. With `AHEAD` that of each of `next` is asked for.
///
/// # Safety
///
/// The rows have more than `column` entries.
#[inline(always)]
unsafe fn pick_column<T: WithDType, const AHEAD: bool>(
    rows: &[&[T]; RUN],
    next: &[&[T]; RUN],
    column: usize,
    to: &mut [T; RUN],
) {
    if AHEAD {
        for row in next {
            fetch(row.as_ptr().wrapping_add(column));
        }
    }
    let mut numbers = [T::zero(); RUN];
    for k in 0..RUN {
        // SAFETY: the caller's.
        numbers[k] = unsafe { *rows[k].get_unchecked(column) };
    }
    *to = in_registers(numbers);
}

/// The same numbers. They come together in registers, so that two stores take them to memory and not
/// eight, which is what these loads would wait for.
#[inline(always)]
fn in_registers<T: WithDType>(numbers: [T; RUN]) -> [T; RUN] {
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == size_of::<f32>() {
        use std::arch::x86_64::_mm_set_ps;
        use std::mem::transmute_copy;
        // SAFETY: both are eight numbers of 32 bits; a dtype of that size has neither padding nor bits that are
        // no number of it.
        unsafe {
            let [a, b, c, d, e, f, g, h] = transmute_copy::<_, [f32; RUN]>(&numbers);
            return transmute_copy(&[_mm_set_ps(d, c, b, a), _mm_set_ps(h, g, f, e)]);
        }
    }
    numbers
}

/// Whether a run has −inf.
fn is_masked<R: Real>(run: &[[R; RUN]]) -> Result<bool, Poisoned> {
    let (none, infinite) = (R::narrow(f64::NEG_INFINITY), R::narrow(f64::INFINITY));
    let (numbers, masked) = dispatch(
        #[inline(always)]
        || {
            let (mut numbers, mut masked) = ([true; RUN], [false; RUN]);
            for entry in run {
                for k in 0..RUN {
                    // A NaN is not.
                    numbers[k] &= entry[k] < infinite;
                    masked[k] |= entry[k] == none;
                }
            }
            (numbers, masked)
        },
    );
    if numbers.contains(&false) {
        return Err(Poisoned);
    }
    Ok(masked.contains(&true))
}

/// Whether each frame of a run has an entry above −inf. The run with the largest of its frame in place of −inf goes to
/// `unmasked`.
fn unmask<R: Real>(run: &[[R; RUN]], unmasked: &mut Vec<[R; RUN]>) -> bool {
    let none = R::narrow(f64::NEG_INFINITY);
    unmasked.resize(run.len(), [R::ZERO; RUN]);
    let tops = dispatch(
        #[inline(always)]
        || {
            let tops = largest(run);
            for (to, entry) in unmasked.iter_mut().zip(run) {
                for k in 0..RUN {
                    to[k] = if entry[k] == none { tops[k] } else { entry[k] };
                }
            }
            tops
        },
    );
    !tops.contains(&none)
}

/// The emissions of `unmasked` in place of a run's entries, and 0 for −inf.
fn mask<R: Real>(run: &mut [[R; RUN]], unmasked: &[[R; RUN]]) {
    let none = R::narrow(f64::NEG_INFINITY);
    for (entry, emission) in run.iter_mut().zip(unmasked) {
        for k in 0..RUN {
            entry[k] = if entry[k] == none {
                R::ZERO
            } else {
                emission[k]
            };
        }
    }
}

/// The second half of [`Source::emissions`]: what each frame was divided by goes to `tops`. A run of which an emission
/// is out of range is [`Entries::Raw`], the others [`Entries::Plain`].
fn to_emissions<R: Real>(
    table: &mut [[R; RUN]],
    entries: usize,
    tops: &mut [[R; RUN]],
    kinds: &mut [Entries],
    split: bool,
) {
    let share = (SHARE / (RUN * entries)).max(1);
    let convert = |(table, tops, kinds): (&mut [[R; RUN]], &mut [[R; RUN]], &mut [Entries])| {
        dispatch_simd(LinearRuns {
            table,
            entries,
            tops,
            kinds,
        })
    };
    if !split || tops.len() <= share {
        return convert((table, tops, kinds));
    }
    let shares = (
        table.par_chunks_mut(share * entries),
        tops.par_chunks_mut(share),
        kinds.par_chunks_mut(share),
    );
    shares.into_par_iter().for_each(convert);
}

struct LinearRuns<'a, R> {
    table: &'a mut [[R; RUN]],
    entries: usize,
    tops: &'a mut [[R; RUN]],
    kinds: &'a mut [Entries],
}

impl<R: Real> WithSimd for LinearRuns<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // First the largest of a few runs, then their exponentials: none of these waits for another.
        let few = self.table.chunks_mut(FEW * self.entries);
        let to = self.tops.chunks_mut(FEW).zip(self.kinds.chunks_mut(FEW));
        for (runs, (to, kinds)) in few.zip(to) {
            let mut tops = [[R::ZERO; LANES]; FEW];
            for (run, tops) in runs.chunks_exact(self.entries).zip(&mut tops) {
                *tops = largest(run);
            }
            let runs = runs.chunks_exact_mut(self.entries);
            for (run, (tops, kind)) in runs.zip(tops.iter().zip(kinds)) {
                let mut fit = [R::ONE; LANES];
                let above = tops
                    .iter()
                    .fold(false, |above, &top| above | (top > R::ZERO));
                if above {
                    linear_run::<S, R, false>(simd, run, tops, &mut fit);
                } else {
                    linear_run::<S, R, true>(simd, run, tops, &mut fit);
                }
                let mut all = true;
                for k in 0..LANES {
                    all &= fit[k] == R::ONE;
                }
                *kind = if all {
                    Entries::Plain
                } else {
                    Entries::Raw(Depth::PLAIN)
                };
            }
            for (to, tops) in to.iter_mut().zip(&tops) {
                to.copy_from_slice(&tops[..RUN]);
            }
        }
    }
}

/// Runs that are converted together.
const FEW: usize = 4;

/// The largest entry of each frame (twice).
#[inline(always)]
fn largest<R: Real>(run: &[[R; RUN]]) -> Block<R> {
    let (blocks, rest) = run.as_flattened().as_chunks::<LANES>();
    let mut tops = [R::narrow(f64::NEG_INFINITY); LANES];
    for block in blocks {
        for k in 0..LANES {
            tops[k] = larger(tops[k], block[k]);
        }
    }
    for (top, &x) in tops.iter_mut().zip(rest) {
        *top = larger(*top, x);
    }
    for k in 0..RUN {
        tops[k] = larger(tops[k], tops[k + RUN]);
        tops[k + RUN] = tops[k];
    }
    tops
}

/// `exp(x − largest)` in place of the entries of a run. `fit` is 1 as long as all of them are in range. With
/// `NOT_ABOVE_ZERO` none of the largest is above 0.
#[inline(always)]
fn linear_run<S: Simd, R: Real, const NOT_ABOVE_ZERO: bool>(
    simd: S,
    run: &mut [[R; RUN]],
    tops: &Block<R>,
    fit: &mut Block<R>,
) {
    let (blocks, rest) = run.as_flattened_mut().as_chunks_mut::<LANES>();
    for block in blocks {
        R::exp_ratio::<S, NOT_ABOVE_ZERO>(simd, block, tops, fit);
    }
    if let Some(rest) = rest.first_chunk_mut::<RUN>() {
        let mut last = *tops;
        last[..RUN].copy_from_slice(rest);
        R::exp_ratio::<S, NOT_ABOVE_ZERO>(simd, &mut last, tops, fit);
        rest.copy_from_slice(&last[..RUN]);
    }
}

/// Where [`Source::emissions`] puts what it makes.
pub(super) struct EmissionsTo<'a, R> {
    pub entries: &'a mut [[R; RUN]],
    /// A place for each frame, or none for log-probabilities.
    pub stats: &'a mut [RowStats<R>],
    pub kinds: &'a mut [Entries],
    /// A place for each frame, or none.
    pub log_scales: &'a mut [f64],
    /// Of runs that are [`Entries::Raw`] the emissions.
    pub wide: &'a mut Vec<[f64; RUN]>,
}

/// Working memory for rows of the input.
#[derive(Default)]
pub(super) struct RowBuffers<E: Element> {
    raw: Vec<E>,
    row: Vec<E::Real>,
    raw_run: Vec<[E; RUN]>,
    unmasked: Vec<[E::Real; RUN]>,
    tops: Vec<[E::Real; RUN]>,
}

/// Bytes of rows that are asked for whole, some runs ahead. Of longer ones what is wanted is asked for, one run
/// ahead; where nothing is kept, so that rows may stay in the cache, only of much longer ones.
const SHORT: usize = 512;

/// Entries that a thread reads at a time.
const SHARE: usize = 1 << 16;

/// The memory of the row at `start`, if there is one and it is in one piece.
pub(super) fn next_row<E>(data: &[E], start: usize, stride: usize, classes: usize) -> &[E] {
    match data.get(start..start + classes) {
        Some(row) if stride == 1 => row,
        _ => &[],
    }
}

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
