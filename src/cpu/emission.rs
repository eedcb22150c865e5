//! From the input to the emissions that a lattice reads: `y_t(label)` and `y_t(blank)` as
//! mantissa and exponent, converted once for each frame and label of the target.

use super::isa::dispatch;
use super::real::{Element, LOG_LIMIT, Real};
use crate::plan::{InputKind, Plan, Strides};
use rayon::prelude::*;
use std::ops::Range;

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

/// The entries of one item in the input, and which of them its target uses.
pub(super) struct Source<'a, E> {
    data: &'a [E],
    strides: Strides,
    kind: InputKind,
    classes: usize,
    /// Where the entries of frame 0 begin.
    start: usize,
    /// For each label of the target, then for the blank: its distance from the frame's start.
    columns: Vec<usize>,
}

impl<'a, E: Element> Source<'a, E> {
    pub fn new(plan: &Plan, data: &'a [E], strides: Strides, item: usize) -> Self {
        let classes = plan.target(item).iter().map(|&label| label as usize);
        Self {
            data,
            strides,
            kind: plan.input,
            classes: plan.classes,
            start: strides.offset + item * strides.item,
            columns: classes
                .chain([plan.blank])
                .map(|class| class * strides.class)
                .collect(),
        }
    }

    /// `U + 1`: the labels and the blank.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    fn frame(&self, t: usize) -> usize {
        self.start + t * self.strides.frame
    }

    /// How much work a frame is, in entries read.
    fn weight(&self) -> usize {
        self.width()
            + match self.kind {
                InputKind::LogProbs => 0,
                InputKind::Logits => self.classes,
            }
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

/// The emissions of a run of frames.
pub(super) struct Emissions<R: Real> {
    /// The first frame.
    pub first: usize,
    /// Entries a frame: the labels, padded to whole blocks with zeros.
    pub width: usize,
    pub labels_m: Vec<R>,
    pub labels_e: Vec<R::Exp>,
    /// The blank of each frame.
    pub blanks: Vec<(R, R::Exp)>,
    /// The log-softmax of each frame, when the input holds logits.
    pub stats: Vec<RowStats<R>>,
    /// `Σ_t` of the logarithms that were divided out: a frame's entries are relative to the
    /// largest of them, so that a path that stays on the largest is multiplied by exactly 1.
    pub log_scale: f64,
    /// `Σ_t max |log p|` of the relative entries, −inf left out.
    pub path: f64,
    /// A NaN or +inf was among the entries.
    pub poisoned: bool,
}

impl<R: Real> Default for Emissions<R> {
    fn default() -> Self {
        Self {
            first: 0,
            width: 0,
            labels_m: Vec::new(),
            labels_e: Vec::new(),
            blanks: Vec::new(),
            stats: Vec::new(),
            log_scale: 0.0,
            path: 0.0,
            poisoned: false,
        }
    }
}

/// Entries below which frames are not shared out over threads.
const PARALLEL_WEIGHT: usize = 1 << 16;

impl<R: Real> Emissions<R> {
    /// Forgets what earlier conversions found.
    pub fn reset(&mut self) {
        self.log_scale = 0.0;
        self.path = 0.0;
        self.poisoned = false;
    }

    /// Converts `frames` of `source`, in place of what was here.
    pub fn convert<E: Element>(&mut self, source: &Source<E>, frames: Range<usize>) {
        let count = frames.len();
        let width = padded(source.width());
        self.first = frames.start;
        self.width = width;
        self.labels_m.resize(count * width, R::ONE);
        self.labels_e.resize(count * width, R::ZERO_EXP);
        self.blanks.resize(count, (R::ONE, R::ZERO_EXP));
        let no_stats = RowStats {
            maximum: R::ZERO,
            sum: 1.0,
        };
        self.stats.resize(count, no_stats);
        let share = (PARALLEL_WEIGHT / source.weight()).max(1);
        let found = if count <= share {
            convert_run(
                source,
                frames.start,
                &mut self.labels_m,
                &mut self.labels_e,
                &mut self.blanks,
                &mut self.stats,
            )
        } else {
            (
                self.labels_m.par_chunks_mut(share * width),
                self.labels_e.par_chunks_mut(share * width),
                self.blanks.par_chunks_mut(share),
                self.stats.par_chunks_mut(share),
            )
                .into_par_iter()
                .enumerate()
                .map(|(i, (m, e, blanks, stats))| {
                    convert_run(source, frames.start + i * share, m, e, blanks, stats)
                })
                // Shares are of one size whatever the threads, and their order is kept.
                .collect::<Vec<_>>()
                .into_iter()
                .fold(Found::default(), Found::and)
        };
        self.log_scale += found.log_scale;
        self.path += found.path;
        self.poisoned |= found.poisoned;
    }

    /// The emissions of frame `t`: the labels, and the blank.
    #[inline(always)]
    pub fn frame(&self, t: usize) -> Frame<'_, R> {
        let i = t - self.first;
        let row = i * self.width..(i + 1) * self.width;
        Frame {
            labels_m: &self.labels_m[row.clone()],
            labels_e: &self.labels_e[row],
            blank: self.blanks[i],
        }
    }
}

pub(super) struct Frame<'a, R: Real> {
    pub labels_m: &'a [R],
    pub labels_e: &'a [R::Exp],
    pub blank: (R, R::Exp),
}

#[derive(Default)]
struct Found {
    log_scale: f64,
    path: f64,
    poisoned: bool,
}

impl Found {
    fn and(self, other: Found) -> Found {
        Found {
            log_scale: self.log_scale + other.log_scale,
            path: self.path + other.path,
            poisoned: self.poisoned | other.poisoned,
        }
    }
}

/// Converts as many frames as `blanks` holds, from frame `first` on.
fn convert_run<E: Element, R: Real>(
    source: &Source<E>,
    first: usize,
    labels_m: &mut [R],
    labels_e: &mut [R::Exp],
    blanks: &mut [(R, R::Exp)],
    stats: &mut [RowStats<R>],
) -> Found {
    dispatch(
        #[inline(always)]
        || {
            let used = source.width();
            let width = padded(used);
            let mut raw = Vec::new();
            let mut row = Vec::new();
            let mut gathered = vec![E::Real::narrow(f64::NEG_INFINITY); width];
            let mut gathered_raw = vec![E::zero(); used];
            let mut found = Found::default();
            for (i, blank) in blanks.iter_mut().enumerate() {
                let start = source.frame(first + i);
                let mut normaliser = 0.0;
                if source.kind == InputKind::Logits {
                    let row = read_row(
                        source.data,
                        start,
                        source.strides.class,
                        source.classes,
                        &mut raw,
                        &mut row,
                    );
                    let (maximum, sum) = log_sum_exp(row);
                    stats[i] = RowStats {
                        maximum: R::narrow(maximum.widen()),
                        sum,
                    };
                    normaliser = maximum.widen() + sum.ln();
                }
                for (entry, &column) in gathered_raw.iter_mut().zip(&source.columns) {
                    *entry = source.data[start + column];
                }
                E::widen_slice(&gathered_raw, &mut gathered[..used]);
                let m = &mut labels_m[i * width..(i + 1) * width];
                let e = &mut labels_e[i * width..(i + 1) * width];
                convert_row(&gathered, m, e, &mut found);
                found.log_scale -= normaliser;
                found.poisoned |= !normaliser.is_finite();
                // The blank stood behind the last label; a zero takes its place.
                *blank = (m[used - 1], e[used - 1]);
                m[used - 1] = R::ONE;
                e[used - 1] = R::ZERO_EXP;
            }
            found
        },
    )
}

/// `exp(x − largest)` for whole blocks of one frame.
#[inline(always)]
fn convert_row<S: Real, R: Real>(x: &[S], m: &mut [R], e: &mut [R::Exp], found: &mut Found) {
    let (blocks, _) = x.as_chunks::<LANES>();
    let mut largest = largest_of(blocks, &[]).widen();
    if largest == f64::NEG_INFINITY {
        largest = 0.0;
    }
    found.log_scale += largest;
    let mut peaks = [0.0f64; LANES];
    let mut poisoned = [0u64; LANES];
    let blocks = x
        .chunks_exact(LANES)
        .zip(m.chunks_exact_mut(LANES))
        .zip(e.chunks_exact_mut(LANES));
    for ((x, m), e) in blocks {
        for k in 0..LANES {
            let log_p = x[k].widen() - largest;
            let live = log_p >= -LOG_LIMIT;
            poisoned[k] |= u64::from(!(log_p < LOG_LIMIT));
            let size = if live { log_p.abs() } else { 0.0 };
            peaks[k] = if size > peaks[k] { size } else { peaks[k] };
            let (mantissa, exponent) = R::exp_split(log_p);
            m[k] = if live { mantissa } else { R::ONE };
            e[k] = if live { exponent } else { R::ZERO_EXP };
        }
    }
    found.path += peaks.iter().fold(0.0, |a: f64, &b| a.max(b));
    found.poisoned |= poisoned.iter().any(|&p| p != 0);
}

/// The largest entry of a row and `Σ exp(x − largest)`. NaN when the row holds a NaN or +inf, or
/// nothing but −inf.
#[inline(always)]
pub(super) fn log_sum_exp<R: Real>(row: &[R]) -> (R, f64) {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let maximum = largest_of(blocks, rest);
    // Partial sums of at most 32 terms in the type of the row, their total in f64.
    let mut total = [0.0f64; LANES];
    for run in blocks.chunks(32) {
        let mut partial = [R::ZERO; LANES];
        for block in run {
            for k in 0..LANES {
                partial[k] += R::exp_negative(block[k] - maximum);
            }
        }
        for k in 0..LANES {
            total[k] += partial[k].widen();
        }
    }
    let mut sum = 0.0;
    for &x in rest {
        sum += R::exp_negative(x - maximum).widen();
    }
    for lane in total {
        sum += lane;
    }
    (maximum, sum)
}

/// The largest entry, NaN left out; −inf when there is none.
#[inline(always)]
fn largest_of<R: Real>(blocks: &[[R; LANES]], rest: &[R]) -> R {
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
    let larger = |a: R, &b: &R| if b > a { b } else { a };
    lanes[1..].iter().chain(rest).fold(lanes[0], larger)
}
