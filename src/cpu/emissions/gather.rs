//! From the input to the emissions that a lattice reads: for each frame, the entries of the blank and of the classes
//! that the target uses, either unchanged or as probabilities relative to the largest of them. For logits, also
//! computes the log-sum-exp of each row.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

use crate::cpu::emissions::Poisoned;
use crate::cpu::emissions::far_apart::raw_emissions;
use crate::cpu::emissions::softmax::{RowStats, log_sum_exp};
use crate::cpu::emissions::table::{
    Depth, EmissionWindow, EmissionsTo, Entries, HalfTable, ItemTable, LOG_UNIT, Table,
};
use crate::cpu::simd::isa::{dispatch, dispatch_simd};
use crate::cpu::simd::lanes::{LANES, Lanes, larger};
use crate::cpu::simd::prefetch::{prefetch, prefetch_all};
use crate::cpu::simd::real::{Element, Real};
use crate::cpu::time::{BLOCK_FRAMES, Direction, FrameBlocks, ordered};
use crate::memory::{OutOfMemory, filled, zeroed};
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::WithDType;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// The input of a loss in memory.
#[derive(Clone, Copy)]
pub(crate) struct LossInput<'a, E> {
    pub data: &'a [E],
    pub strides: Strides,
    /// See [`Source::weights`].
    pub weights: Option<&'a [f64]>,
}

/// The entries of one item in the input, and the classes that its target uses.
pub(crate) struct Source<'a, E: Element> {
    data: &'a [E],
    strides: Strides,
    kind: InputKind,
    classes: usize,
    blocks: FrameBlocks,
    /// Index of the first entry of frame 0.
    start: usize,
    /// The classes that the target uses.
    used: &'a [u32],
    blank: usize,
    /// Offset of the farthest of these classes, or of the blank, from the start of its frame.
    reach: usize,
    /// Whether the entries are kept for the posterior pass.
    pub kept: bool,
    /// The statistics of all rows of logits, if they are known; otherwise whole rows are read for them.
    pub known_stats: Option<&'a [RowStats<E::Real>]>,
    /// What is added to the entries: a number for each class, then the delay penalty, as in
    /// [`EmissionWeights`](crate::problem::weights::EmissionWeights).
    pub weights: Option<&'a [f64]>,
}

impl<'a, E: Element> Source<'a, E> {
    const NO_STATS: RowStats<E::Real> = RowStats {
        maximum: E::Real::ZERO,
        sum: 1.0,
    };

    /// The source of `item`, whose target uses the classes `used`.
    pub fn new(plan: &Plan, data: &'a [E], strides: Strides, item: usize, used: &'a [u32]) -> Self {
        let farthest = used
            .iter()
            .fold(plan.input.blank, |a, &b| a.max(b as usize));
        Self {
            data,
            strides,
            kind: plan.input.kind,
            classes: plan.input.classes,
            blocks: FrameBlocks {
                frames: plan.input_lengths[item],
            },
            start: strides.offset + item * strides.item,
            used,
            blank: plan.input.blank,
            reach: farthest * strides.class,
            kept: false,
            known_stats: None,
            weights: None,
        }
    }

    /// Whether all entries of a row are read, and not only those of the classes that the target uses.
    fn reads_whole_rows(&self) -> bool {
        self.kind == InputKind::Logits && self.known_stats.is_none()
    }

    pub fn blocks(&self) -> FrameBlocks {
        self.blocks
    }

    /// Entries gathered per frame: one for each class that the target uses, then the blank.
    pub fn entries(&self) -> usize {
        self.used.len() + 1
    }

    /// Empty row statistics for `frames` frames; none for log-probabilities.
    pub fn no_stats(&self, frames: usize) -> Vec<RowStats<E::Real>> {
        match self.kind {
            InputKind::LogProbs => Vec::new(),
            InputKind::Logits => vec![Self::NO_STATS; frames],
        }
    }

    /// Allocates a table for all blocks.
    pub fn room(&self) -> Result<ItemTable<E::Real>, OutOfMemory> {
        let (blocks, frames) = (self.blocks.count(), self.blocks.frames);
        let stats = match self.kind {
            InputKind::LogProbs => 0,
            InputKind::Logits => frames,
        };
        Ok(ItemTable {
            blocks: self.blocks,
            width: self.entries(),
            entries: zeroed(blocks.saturating_mul(self.entries()))?,
            stats: filled(Self::NO_STATS, stats)?,
            kinds: filled(Entries::Plain, blocks)?,
            log_scales: Vec::new(),
        })
    }

    /// The work of a frame, in entries read.
    fn weight(&self) -> usize {
        let row = if self.reads_whole_rows() {
            self.classes
        } else {
            0
        };
        self.entries() + row
    }

    /// Fills the table `to` with the entries of `blocks`, and `stats` with one element per frame (none for
    /// log-probabilities). If the last block of the item is partial, its last frame is repeated. Uses several threads
    /// if `split`.
    pub fn gather(
        &self,
        blocks: Range<usize>,
        to: &mut [[E::Real; BLOCK_FRAMES]],
        stats: &mut [RowStats<E::Real>],
        split: bool,
        buffers: &mut RowBuffers<E>,
    ) {
        let share = (SHARE / (BLOCK_FRAMES * self.weight())).max(1);
        if !split || blocks.len() <= share {
            return self.gather_blocks(blocks.start, to, stats, buffers);
        }
        let mut stats: Vec<&mut [RowStats<E::Real>]> =
            stats.chunks_mut(share * BLOCK_FRAMES).collect();
        stats.resize_with(blocks.len().div_ceil(share), Default::default);
        (to.par_chunks_mut(share * self.entries()), stats)
            .into_par_iter()
            .enumerate()
            .for_each(|(i, (to, stats))| {
                let first = blocks.start + i * share;
                self.gather_blocks(first, to, stats, &mut RowBuffers::default());
            });
    }

    /// [`Source::gather`], then replaces the entries by emissions: `e^(x − largest of its frame)`. `scales` receives,
    /// for each block, the logarithm of the total factor by which its frames were divided, including the softmax
    /// denominators of logits, times [`LOG_UNIT`]; `to.log_scales` receives the plain logarithm of each frame, if not
    /// empty. A block with a non-zero emission below e^−87 keeps its entries unchanged; its emissions are in `to.wide`.
    pub fn emissions<'b>(
        &self,
        blocks: Range<usize>,
        to: EmissionsTo<'b, E::Real>,
        scales: &mut Vec<f64>,
        split: bool,
        buffers: &mut RowBuffers<E>,
    ) -> Result<EmissionsTo<'b, E::Real>, Poisoned> {
        let frames = self.blocks.frames_of(blocks.clone()).len();
        let EmissionsTo {
            entries,
            stats,
            kinds,
            log_scales,
            wide,
        } = to;
        self.gather(blocks.clone(), entries, stats, split, buffers);
        let RowBuffers {
            tops,
            raw_block,
            unmasked,
            ..
        } = buffers;
        tops.resize(blocks.len(), [E::Real::ZERO; BLOCK_FRAMES]);
        to_emissions(entries, self.entries(), tops, kinds, split);
        let marked = kinds.iter_mut().enumerate();
        for (i, kind) in marked.filter(|(_, kind)| kind.is_raw()) {
            let of_block = i * self.entries()..(i + 1) * self.entries();
            let block = &mut entries[of_block.clone()];
            self.gather_block((blocks.start + i) * BLOCK_FRAMES, block, raw_block);
            let masked = is_masked(block)?;
            for top in &mut tops[i] {
                // Any finite reference will do for a frame without finite entries.
                if top.widen() == f64::NEG_INFINITY {
                    *top = E::Real::ZERO;
                }
            }
            if masked && unmask(block, unmasked) {
                let (mut top, mut still) = ([[E::Real::ZERO; BLOCK_FRAMES]], [Entries::Plain]);
                to_emissions(unmasked, block.len(), &mut top, &mut still, false);
                if still == [Entries::Plain] {
                    tops[i] = top[0];
                    mask(block, unmasked);
                    *kind = Entries::Masked;
                    continue;
                }
            }
            if wide.len() < blocks.len() * self.entries() {
                wide.resize(blocks.len() * self.entries(), [0.0; BLOCK_FRAMES]);
            }
            *kind = Entries::Raw(raw_emissions(block, &mut wide[of_block]));
        }
        scales.clear();
        let mut finite = true;
        for (i, tops) in tops.iter().enumerate() {
            let of_block = i * BLOCK_FRAMES..frames.min((i + 1) * BLOCK_FRAMES);
            let mut sum = 0.0;
            for (t, &top) in of_block.zip(tops) {
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

    /// Whether any entry is NaN or +inf; for logits, in whole rows.
    pub fn is_poisoned(&self) -> bool {
        const AT_ONCE: usize = 16;
        let count = self.blocks.count();
        let mut entries = vec![[E::Real::ZERO; BLOCK_FRAMES]; AT_ONCE.min(count) * self.entries()];
        let mut buffers = RowBuffers::default();
        (0..count).step_by(AT_ONCE).any(|first| {
            let blocks = first..(first + AT_ONCE).min(count);
            let mut stats = self.no_stats(self.blocks.frames_of(blocks.clone()).len());
            let entries = &mut entries[..blocks.len() * self.entries()];
            self.gather(blocks, entries, &mut stats, false, &mut buffers);
            stats.iter().any(RowStats::is_poisoned)
                || entries.as_flattened().iter().any(|x| x.is_poison())
        })
    }

    /// Prefetches the memory of `blocks`, whose entries will be gathered soon, if rows are short. Hardware prefetch
    /// does not recognise the pattern: each item has a few cache lines of every frame, read from both ends.
    pub fn prefetch(&self, blocks: Range<usize>) {
        if self.reads_whole_rows() || self.row_bytes() > SHORT {
            return;
        }
        for t in self.blocks.frames_of(blocks) {
            let start = self.start + t * self.strides.frame;
            prefetch_all(&self.data[start..start + self.reach + 1]);
        }
    }

    fn gather_blocks(
        &self,
        first: usize,
        to: &mut [[E::Real; BLOCK_FRAMES]],
        stats: &mut [RowStats<E::Real>],
        buffers: &mut RowBuffers<E>,
    ) {
        let mut stats = stats.chunks_mut(BLOCK_FRAMES);
        for (block, to) in (first..).zip(to.chunks_exact_mut(self.entries())) {
            // Read whole rows first: their entries are then in the cache.
            for (t, stats) in (block * BLOCK_FRAMES..).zip(stats.next().unwrap_or_default()) {
                if let Some(known) = self.known_stats {
                    *stats = known[t];
                    continue;
                }
                let RowBuffers { raw, row, .. } = &mut *buffers;
                let start = self.start + t * self.strides.frame;
                let (stride, classes) = (self.strides.class, self.classes);
                let row = read_row(self.data, start, stride, classes, raw, row);
                let next = next_row(self.data, start + self.strides.frame, stride, classes);
                *stats = log_sum_exp(row, next);
            }
            // Not dispatched: scalar loads from many rows are faster than gather instructions.
            self.gather_block(block * BLOCK_FRAMES, to, &mut buffers.raw_block);
        }
    }

    /// The entries of the block that starts at `frame`.
    fn gather_block(
        &self,
        frame: usize,
        to: &mut [[E::Real; BLOCK_FRAMES]],
        raw: &mut Vec<[E; BLOCK_FRAMES]>,
    ) {
        if let Some(data) = E::as_real(self.data) {
            self.pick(data, frame, to);
        } else {
            raw.resize(to.len(), [E::zero(); BLOCK_FRAMES]);
            self.pick(self.data, frame, raw);
            E::widen_slice(raw.as_flattened(), to.as_flattened_mut());
        }
        if let Some(weights) = self.weights {
            self.add_weights(weights, frame, to);
        }
    }

    /// Adds the weights of the classes, and to labels what the delay penalty makes of the frame.
    #[cold]
    fn add_weights(&self, weights: &[f64], frame: usize, to: &mut [[E::Real; BLOCK_FRAMES]]) {
        let (of_class, delay_penalty) = (&weights[..self.classes], weights[self.classes]);
        let last = self.blocks.frames - 1;
        let of_label: [f64; BLOCK_FRAMES] =
            std::array::from_fn(|k| -delay_penalty * (frame + k).min(last) as f64);
        let of_blank = [0.0; BLOCK_FRAMES];
        let labels = self.used.iter().map(|&class| (class as usize, &of_label));
        for ((class, of_frame), to) in labels.chain([(self.blank, &of_blank)]).zip(to) {
            for (to, of_frame) in to.iter_mut().zip(of_frame) {
                *to = E::Real::narrow(to.widen() + (of_class[class] + of_frame));
            }
        }
    }

    fn pick<T: WithDType>(&self, data: &[T], frame: usize, to: &mut [[T; BLOCK_FRAMES]]) {
        // Rows that were just read whole are in the cache.
        let least = if self.kept { SHORT } else { 4 * SHORT };
        if !self.reads_whole_rows() && self.row_bytes() > least {
            self.pick_block::<T, true>(data, frame, to);
        } else {
            self.pick_block::<T, false>(data, frame, to);
        }
    }

    /// With `PREFETCH`, prefetches the same entries of the next block.
    fn pick_block<T: WithDType, const PREFETCH: bool>(
        &self,
        data: &[T],
        frame: usize,
        to: &mut [[T; BLOCK_FRAMES]],
    ) {
        let last = self.blocks.frames - 1;
        let rows_from = |frame: usize| {
            let mut rows = [data; BLOCK_FRAMES];
            for k in 0..BLOCK_FRAMES {
                let start = self.start + (frame + k).min(last) * self.strides.frame;
                rows[k] = &data[start..start + self.reach + 1];
            }
            rows
        };
        // Loads from all rows are in flight at the same time.
        let rows = rows_from(frame);
        let next = if PREFETCH {
            rows_from(frame + BLOCK_FRAMES)
        } else {
            rows
        };
        let column = |class: usize| class * self.strides.class;
        let (labels, blank) = to.split_at_mut(self.used.len());
        for (to, &class) in labels.iter_mut().zip(self.used) {
            // SAFETY: no column is above `reach`.
            unsafe { pick_column::<T, PREFETCH>(&rows, &next, column(class as usize), to) };
        }
        // SAFETY: as above.
        unsafe { pick_column::<T, PREFETCH>(&rows, &next, column(self.blank), &mut blank[0]) };
    }

    /// Bytes from the first to the last entry of a row that may be read.
    fn row_bytes(&self) -> usize {
        (self.reach + 1) * size_of::<E>()
    }
}

/// Reads one entry of each row. With `PREFETCH`, prefetches the same entry of each of `next`.
///
/// # Safety
///
/// The rows have more than `column` entries.
#[inline(always)]
unsafe fn pick_column<T: WithDType, const PREFETCH: bool>(
    rows: &[&[T]; BLOCK_FRAMES],
    next: &[&[T]; BLOCK_FRAMES],
    column: usize,
    to: &mut [T; BLOCK_FRAMES],
) {
    if PREFETCH {
        for row in next {
            prefetch(row.as_ptr().wrapping_add(column));
        }
    }
    let mut numbers = [T::zero(); BLOCK_FRAMES];
    for k in 0..BLOCK_FRAMES {
        // SAFETY: guaranteed by the caller.
        numbers[k] = unsafe { *rows[k].get_unchecked(column) };
    }
    *to = in_registers(numbers);
}

/// Returns the same numbers, combined in registers: two stores write them to memory instead of eight, on which these
/// loops would wait.
#[inline(always)]
fn in_registers<T: WithDType>(numbers: [T; BLOCK_FRAMES]) -> [T; BLOCK_FRAMES] {
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == size_of::<f32>() {
        use std::arch::x86_64::_mm_set_ps;
        use std::mem::transmute_copy;
        // SAFETY: both are eight numbers of 32 bits; a dtype of that size has no padding and no invalid bit patterns.
        unsafe {
            let [a, b, c, d, e, f, g, h] = transmute_copy::<_, [f32; BLOCK_FRAMES]>(&numbers);
            return transmute_copy(&[_mm_set_ps(d, c, b, a), _mm_set_ps(h, g, f, e)]);
        }
    }
    numbers
}

/// Whether a block contains −inf.
fn is_masked<R: Real>(block: &[[R; BLOCK_FRAMES]]) -> Result<bool, Poisoned> {
    let (none, infinite) = (R::narrow(f64::NEG_INFINITY), R::narrow(f64::INFINITY));
    let (numbers, masked) = dispatch(
        #[inline(always)]
        || {
            let (mut numbers, mut masked) = ([true; BLOCK_FRAMES], [false; BLOCK_FRAMES]);
            for entry in block {
                for k in 0..BLOCK_FRAMES {
                    // False for NaN.
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

/// Whether each frame of a block has an entry above −inf. `unmasked` receives the block with the largest entry of the
/// frame in place of −inf.
fn unmask<R: Real>(block: &[[R; BLOCK_FRAMES]], unmasked: &mut Vec<[R; BLOCK_FRAMES]>) -> bool {
    let none = R::narrow(f64::NEG_INFINITY);
    unmasked.resize(block.len(), [R::ZERO; BLOCK_FRAMES]);
    let tops = dispatch(
        #[inline(always)]
        || {
            let tops = largest(block);
            for (to, entry) in unmasked.iter_mut().zip(block) {
                for k in 0..BLOCK_FRAMES {
                    to[k] = if entry[k] == none { tops[k] } else { entry[k] };
                }
            }
            tops
        },
    );
    !tops.contains(&none)
}

/// Replaces the entries of a block by the emissions in `unmasked`, and −inf by 0.
fn mask<R: Real>(block: &mut [[R; BLOCK_FRAMES]], unmasked: &[[R; BLOCK_FRAMES]]) {
    let none = R::narrow(f64::NEG_INFINITY);
    for (entry, emission) in block.iter_mut().zip(unmasked) {
        for k in 0..BLOCK_FRAMES {
            entry[k] = if entry[k] == none {
                R::ZERO
            } else {
                emission[k]
            };
        }
    }
}

/// The second half of [`Source::emissions`]: `tops` receives the largest entry of each frame. A block with an emission
/// out of range becomes [`Entries::Raw`], the others [`Entries::Plain`].
fn to_emissions<R: Real>(
    table: &mut [[R; BLOCK_FRAMES]],
    entries: usize,
    tops: &mut [[R; BLOCK_FRAMES]],
    kinds: &mut [Entries],
    split: bool,
) {
    let share = (SHARE / (BLOCK_FRAMES * entries)).max(1);
    let convert = |(table, tops, kinds): (
        &mut [[R; BLOCK_FRAMES]],
        &mut [[R; BLOCK_FRAMES]],
        &mut [Entries],
    )| {
        dispatch_simd(LinearBlocks {
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

struct LinearBlocks<'a, R> {
    table: &'a mut [[R; BLOCK_FRAMES]],
    entries: usize,
    tops: &'a mut [[R; BLOCK_FRAMES]],
    kinds: &'a mut [Entries],
}

impl<R: Real> WithSimd for LinearBlocks<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // First the largest entries of a few blocks, then their exponentials: independent work in each step.
        let few = self.table.chunks_mut(FEW * self.entries);
        let to = self.tops.chunks_mut(FEW).zip(self.kinds.chunks_mut(FEW));
        for (blocks, (to, kinds)) in few.zip(to) {
            let mut tops = [[R::ZERO; LANES]; FEW];
            for (block, tops) in blocks.chunks_exact(self.entries).zip(&mut tops) {
                *tops = largest(block);
            }
            let blocks = blocks.chunks_exact_mut(self.entries);
            for (block, (tops, kind)) in blocks.zip(tops.iter().zip(kinds)) {
                let mut fit = [R::ONE; LANES];
                let above = tops
                    .iter()
                    .fold(false, |above, &top| above | (top > R::ZERO));
                if above {
                    linear_block::<S, R, false>(simd, block, tops, &mut fit);
                } else {
                    linear_block::<S, R, true>(simd, block, tops, &mut fit);
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
                to.copy_from_slice(&tops[..BLOCK_FRAMES]);
            }
        }
    }
}

/// Blocks that are converted together.
const FEW: usize = 4;

/// The largest entry of each frame, repeated in both halves of the lanes.
#[inline(always)]
fn largest<R: Real>(block: &[[R; BLOCK_FRAMES]]) -> Lanes<R> {
    let (chunks, rest) = block.as_flattened().as_chunks::<LANES>();
    let mut tops = [R::narrow(f64::NEG_INFINITY); LANES];
    for chunk in chunks {
        for k in 0..LANES {
            tops[k] = larger(tops[k], chunk[k]);
        }
    }
    for (top, &x) in tops.iter_mut().zip(rest) {
        *top = larger(*top, x);
    }
    for k in 0..BLOCK_FRAMES {
        tops[k] = larger(tops[k], tops[k + BLOCK_FRAMES]);
        tops[k + BLOCK_FRAMES] = tops[k];
    }
    tops
}

/// Replaces the entries of a block by `exp(x − largest)`. `fit` becomes 0 in lanes with an emission out of range. With
/// `NOT_ABOVE_ZERO`, none of the largest entries is above 0.
#[inline(always)]
fn linear_block<S: Simd, R: Real, const NOT_ABOVE_ZERO: bool>(
    simd: S,
    block: &mut [[R; BLOCK_FRAMES]],
    tops: &Lanes<R>,
    fit: &mut Lanes<R>,
) {
    let (chunks, rest) = block.as_flattened_mut().as_chunks_mut::<LANES>();
    for chunk in chunks {
        R::exp_ratio::<S, NOT_ABOVE_ZERO>(simd, chunk, tops, fit);
    }
    if let Some(rest) = rest.first_chunk_mut::<BLOCK_FRAMES>() {
        let mut last = *tops;
        last[..BLOCK_FRAMES].copy_from_slice(rest);
        R::exp_ratio::<S, NOT_ABOVE_ZERO>(simd, &mut last, tops, fit);
        rest.copy_from_slice(&last[..BLOCK_FRAMES]);
    }
}

/// Scratch memory for rows of the input.
#[derive(Default)]
pub(crate) struct RowBuffers<E: Element> {
    raw: Vec<E>,
    row: Vec<E::Real>,
    raw_block: Vec<[E; BLOCK_FRAMES]>,
    unmasked: Vec<[E::Real; BLOCK_FRAMES]>,
    tops: Vec<[E::Real; BLOCK_FRAMES]>,
}

/// Rows of at most this many bytes are prefetched whole, some blocks ahead. In longer rows, only the entries in use are
/// prefetched, one block ahead; if nothing is kept, so that rows may stay in the cache, only in rows of more than four
/// times this size.
const SHORT: usize = 512;

/// Entries that a thread reads at a time.
const SHARE: usize = 1 << 16;

/// The row at `start`, if it exists and is contiguous; otherwise empty.
pub(crate) fn next_row<E>(data: &[E], start: usize, stride: usize, classes: usize) -> &[E] {
    match data.get(start..start + classes) {
        Some(row) if stride == 1 => row,
        _ => &[],
    }
}

/// One row of the input in the type of the arithmetic. Borrowed if possible.
#[inline(always)]
pub(crate) fn read_row<'a, E: Element>(
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

/// Scratch memory for reading emissions.
#[derive(Default)]
pub(crate) struct GatherScratch<E: Element> {
    /// For each block, the logarithm of the factor by which it was divided, times [`LOG_UNIT`].
    pub scales: Vec<f64>,
    pub rows: RowBuffers<E>,
}

impl<E: Element> Source<'_, E> {
    /// The emissions of some blocks, stored in `half` if given, otherwise in `read`.
    pub fn read<'b, D: Direction>(
        &self,
        some: Range<usize>,
        half: Option<&'b mut HalfTable<'_, E::Real>>,
        read: &'b mut EmissionWindow<E::Real>,
        gather_scratch: &mut GatherScratch<E>,
        split: bool,
    ) -> Result<Table<'b, E::Real>, Poisoned> {
        let (entries, blocks) = (self.entries(), self.blocks());
        let GatherScratch { scales, rows } = gather_scratch;
        let to = match half {
            Some(half) => half.of(some.clone(), &mut read.wide),
            None => {
                let frames = blocks.frames_of(some.clone()).len();
                let values = some.len() * entries;
                read.values.resize(values, [E::Real::ZERO; BLOCK_FRAMES]);
                read.kinds.resize(some.len(), Entries::Plain);
                read.stats.clear();
                read.stats.extend(self.no_stats(frames));
                EmissionsTo {
                    entries: &mut read.values,
                    stats: &mut read.stats,
                    kinds: &mut read.kinds,
                    log_scales: &mut [],
                    wide: &mut read.wide,
                }
            }
        };
        let EmissionsTo {
            entries: values,
            kinds,
            wide,
            ..
        } = self.emissions(some.clone(), to, scales, split, rows)?;
        // Block by block in the order of the direction, so that the sum does not depend on the chunk size.
        for block in ordered::<D>(0..some.len()) {
            read.log_scale += scales[block];
        }
        Ok(Table {
            first: some.start,
            entries,
            values,
            wide,
            kinds,
        })
    }
}
