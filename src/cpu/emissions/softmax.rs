//! The log-sum-exp of a row, and its softmax.
//!
//! In the sum, entries equal to the largest are counted separately, so that small terms are not lost beside a 1. The
//! other terms are summed in the type of the row, some chunks at a time, and then in f64. The partial sum is rescaled
//! when a larger entry appears, so a row is read once. The order of summation is that of 16 lanes for any vector width.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

use crate::cpu::simd::isa::dispatch_simd;
use crate::cpu::simd::lanes::{LANES, Lanes, larger};
use crate::cpu::simd::nontemporal::StreamingWriter;
use crate::cpu::simd::prefetch::prefetch;
use crate::cpu::simd::real::Real;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// The statistics of a row for its softmax: `log p = x − maximum − ln sum`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStats<R> {
    pub maximum: R,
    /// `Σ exp(x − maximum)` over the classes.
    pub sum: f64,
}

impl<R: Real> RowStats<R> {
    /// `log p` of the entry `x`. The difference is taken first: a common offset of the row may be far larger than the
    /// differences within it. Not finite if the row contains NaN or +inf, or only −inf.
    pub fn log_softmax(&self, x: R) -> f64 {
        (x.widen() - self.maximum.widen()) - self.sum.ln()
    }

    /// Whether the row contains NaN or +inf, or only −inf.
    pub fn is_poisoned(&self) -> bool {
        !(self.maximum.widen() + self.sum.ln()).is_finite()
    }
}

/// Chunks whose terms are summed in the type of the row.
const BLOCKS: usize = 16;

/// The largest entry of a row and `Σ exp(x − largest)`. The sum is NaN if the row contains NaN; the largest is infinite
/// if the row contains +inf, or only −inf. `next` is the following row, which is prefetched meanwhile, since hardware
/// prefetch stops at a page boundary.
pub(crate) fn log_sum_exp<R: Real, E>(row: &[R], next: &[E]) -> RowStats<R> {
    dispatch_simd(LogSumExp { row, next })
}

/// Writes `scale · softmax(x)` to `out`; `next` as for [`log_sum_exp`].
pub(crate) fn softmax<'a, R: Real, E>(
    row: &[R],
    stats: &RowStats<R>,
    scale: R,
    out: &'a mut [MaybeUninit<R>],
    next: &[E],
) -> &'a mut [R] {
    assert_eq!(row.len(), out.len());
    let terms = Terms::new(row, stats, scale, next);
    dispatch_simd(Softmax { terms, out });
    // SAFETY: `out` is as long as the row, and all of it was written.
    unsafe { written(out) }
}

/// Writes `scale · softmax(x) + add` to `out` with non-temporal stores. Rows must have at least one chunk.
///
/// # Safety
///
/// As for [`StreamingWriter::fill`].
pub(crate) unsafe fn stream_softmax<R: Real, E>(
    row: &[R],
    stats: &RowStats<R>,
    scale: R,
    add: &[R],
    (stream, out): (&mut StreamingWriter, &mut [MaybeUninit<R>]),
    next: &[E],
) {
    assert!(row.len() == out.len() && add.len() == out.len());
    let terms = Terms::new(row, stats, scale, next);
    dispatch_simd(StreamSoftmax {
        terms,
        add,
        stream,
        out,
    });
}

/// Memory that has been initialised.
///
/// # Safety
///
/// All of it must have been written.
pub(crate) unsafe fn written<T>(memory: &mut [MaybeUninit<T>]) -> &mut [T] {
    // SAFETY: guaranteed by the caller.
    unsafe { &mut *(std::ptr::from_mut(memory) as *mut [T]) }
}

/// Prefetches the chunk of a row from entry `at`, if it exists.
#[inline(always)]
fn fetch_from<E>(row: &[E], at: usize) {
    if let Some(entry) = row.get(at) {
        prefetch(entry);
    }
}

/// The chunk of a row from entry `at`.
#[inline(always)]
pub(crate) fn chunk_from<R>(row: &[R], at: usize) -> &Lanes<R> {
    let (chunks, _) = row[at..].as_chunks::<LANES>();
    &chunks[0]
}

struct LogSumExp<'a, R, E> {
    row: &'a [R],
    next: &'a [E],
}

impl<R: Real, E> WithSimd for LogSumExp<'_, R, E> {
    type Output = RowStats<R>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> RowStats<R> {
        let lowest = R::narrow(f64::NEG_INFINITY);
        let mut stats = RowStats {
            maximum: lowest,
            sum: 0.0,
        };
        let (chunks, rest) = self.row.as_chunks::<LANES>();
        // The missing lanes of the last chunk add nothing.
        let last = last_block(self.row, lowest);
        let last = if rest.is_empty() { &[] } else { &[last][..] };
        let mut first = 0;
        while first < chunks.len() || first == 0 {
            let end = (first + BLOCKS).min(chunks.len());
            for chunk in first..end {
                fetch_from(self.next, chunk * LANES);
            }
            let last = if end == chunks.len() { last } else { &[] };
            stats.add(simd, [&chunks[first..end], last]);
            first += BLOCKS;
        }
        stats
    }
}

/// The last entries of a row that do not fill a chunk, in their lanes, and `missing` in the other lanes.
#[inline(always)]
fn last_block<R: Real>(row: &[R], missing: R) -> Lanes<R> {
    let rest = row.len() % LANES;
    let mut chunk = [missing; LANES];
    if let Some(last) = row.last_chunk::<LANES>() {
        for k in 0..LANES {
            chunk[k] = if k < LANES - rest { missing } else { last[k] };
        }
    } else {
        for (to, &x) in chunk.iter_mut().zip(row) {
            *to = x;
        }
    }
    chunk
}

impl<R: Real> RowStats<R> {
    /// Adds some chunks to the statistics.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, some: [&[Lanes<R>]; 2]) {
        let mut tops = tops_of(some[0]);
        for chunk in some[1] {
            for k in 0..LANES {
                tops[k] = larger(tops[k], chunk[k]);
            }
        }
        let top = R::largest(simd, &tops);
        if top > self.maximum {
            if self.sum != 0.0 {
                self.sum *= (self.maximum.widen() - top.widen()).exp();
            }
            self.maximum = top;
        }
        let (mut ones, mut others) = ([R::ZERO; LANES], [R::ZERO; LANES]);
        for chunks in some {
            // Most chunks do not contain the maximum.
            if top < self.maximum {
                for chunk in chunks {
                    let terms = R::exp_below(simd, chunk, self.maximum);
                    for k in 0..LANES {
                        others[k] += terms[k];
                    }
                }
            } else {
                for chunk in chunks {
                    let terms = R::exp_below(simd, chunk, self.maximum);
                    for k in 0..LANES {
                        let largest = chunk[k] == self.maximum;
                        ones[k] += if largest { R::ONE } else { R::ZERO };
                        others[k] += if largest { R::ZERO } else { terms[k] };
                    }
                }
            }
        }
        self.sum += R::sum(simd, &ones) + R::sum(simd, &others);
    }
}

/// The largest entry of each lane, ignoring NaN; −inf if there is none.
#[inline(always)]
pub(crate) fn tops_of<R: Real>(chunks: &[Lanes<R>]) -> Lanes<R> {
    // Four chains, so that comparisons do not wait for each other.
    let mut tops = [[R::narrow(f64::NEG_INFINITY); LANES]; 4];
    let (fours, rest) = chunks.as_chunks::<4>();
    for four in fours {
        for c in 0..4 {
            for k in 0..LANES {
                tops[c][k] = larger(tops[c][k], four[c][k]);
            }
        }
    }
    for chunk in rest {
        for k in 0..LANES {
            tops[0][k] = larger(tops[0][k], chunk[k]);
        }
    }
    let mut top = tops[0];
    for c in 1..4 {
        for k in 0..LANES {
            top[k] = larger(top[k], tops[c][k]);
        }
    }
    top
}

/// The terms of a softmax, chunk by chunk.
struct Terms<'a, R, E> {
    row: &'a [R],
    next: &'a [E],
    maximum: R,
    scale: R,
}

impl<'a, R: Real, E> Terms<'a, R, E> {
    fn new(row: &'a [R], stats: &RowStats<R>, scale: R, next: &'a [E]) -> Self {
        Self {
            row,
            next,
            maximum: stats.maximum,
            scale: R::narrow(scale.widen() / stats.sum),
        }
    }

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, chunk: &Lanes<R>) -> Lanes<R> {
        let mut terms = R::exp_below(simd, chunk, self.maximum);
        for term in &mut terms {
            *term *= self.scale;
        }
        terms
    }
}

struct Softmax<'a, R, E> {
    terms: Terms<'a, R, E>,
    out: &'a mut [MaybeUninit<R>],
}

impl<R: Real, E> WithSimd for Softmax<'_, R, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { terms, out } = self;
        let (chunks, rest) = terms.row.as_chunks::<LANES>();
        let (out_blocks, out_rest) = out.as_chunks_mut::<LANES>();
        for (i, (out, chunk)) in out_blocks.iter_mut().zip(chunks).enumerate() {
            fetch_from(terms.next, i * LANES);
            // The next row of the output follows this one, if it exists.
            prefetch(out.as_ptr().wrapping_add(terms.row.len()));
            *out = terms.of(simd, chunk).map(MaybeUninit::new);
        }
        if rest.is_empty() {
            return;
        }
        let last = terms.of(simd, &last_block(terms.row, terms.maximum));
        let first = if chunks.is_empty() {
            0
        } else {
            LANES - rest.len()
        };
        for (out, &term) in out_rest.iter_mut().zip(&last[first..]) {
            out.write(term);
        }
    }
}

struct StreamSoftmax<'a, R, E> {
    terms: Terms<'a, R, E>,
    add: &'a [R],
    stream: &'a mut StreamingWriter,
    out: &'a mut [MaybeUninit<R>],
}

impl<R: Real, E> WithSimd for StreamSoftmax<'_, R, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            terms,
            add,
            stream,
            out,
        } = self;
        // SAFETY: required of the callers of `stream_softmax`, the only place that constructs this type.
        unsafe {
            stream.fill(
                out,
                #[inline(always)]
                |at| {
                    fetch_from(terms.next, at);
                    let mut sums = terms.of(simd, chunk_from(terms.row, at));
                    let add = chunk_from(add, at);
                    for k in 0..LANES {
                        sums[k] += add[k];
                    }
                    sums
                },
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_add_up_to_one() {
        for classes in [1, 2, 15, 16, 17, 31, 33, 500, 513, 1100] {
            let row: Vec<f32> = (0..classes)
                .map(|i| ((i * 7919 % 1000) as f32) * -0.013)
                .collect();
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row
                .iter()
                .map(|&x| (f64::from(x) - f64::from(top)).exp())
                .sum();
            let stats = log_sum_exp::<f32, f32>(&row, &[]);
            assert_eq!(stats.maximum, top);
            assert!((stats.sum / sum - 1.0).abs() < 5e-7, "{classes}");
            let mut out = Vec::with_capacity(classes);
            let out = &mut out.spare_capacity_mut()[..classes];
            let out = softmax::<f32, f32>(&row, &stats, 2.0, out, &[]);
            let total: f64 = out.iter().copied().map(f64::from).sum();
            assert!((total - 2.0).abs() < 1e-6, "{classes}: {total}");
        }
    }

    #[test]
    fn small_terms_are_not_lost_beside_a_one() {
        let mut row = vec![-20.0f32; 1000];
        row[700] = 0.0;
        let sum = log_sum_exp::<f32, f32>(&row, &[]).sum - 1.0;
        assert!((sum / (999.0 * (-20f64).exp()) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn larger_entries_may_come_late() {
        // Each chunk of lanes has a larger one.
        let row: Vec<f32> = (0..3000).map(|i| (i / 16) as f32 * 0.25).collect();
        let stats = log_sum_exp::<f32, f32>(&row, &[]);
        let terms = row.iter().map(|&x| f64::from(x - stats.maximum).exp());
        assert_eq!(stats.maximum, 46.75);
        assert!((stats.sum / terms.sum::<f64>() - 1.0).abs() < 2e-7);
    }

    #[test]
    fn what_is_no_number_is_seen() {
        for place in [0, 3, 20, 36] {
            let mut row = vec![-1.0; 37];
            row[place] = f32::NAN;
            assert!(log_sum_exp::<f32, f32>(&row, &[]).sum.is_nan(), "{place}");
            row[place] = f32::INFINITY;
            assert_eq!(
                log_sum_exp::<f32, f32>(&row, &[]).maximum,
                f32::INFINITY,
                "{place}"
            );
        }
        // NaN as CUDA writes it, with bits that must not leak into an exponent.
        for classes in [1, 16, 700] {
            let mut row = vec![-1.0; classes];
            row[classes / 2] = f32::from_bits(0x7fff_ffff);
            assert!(log_sum_exp::<f32, f32>(&row, &[]).sum.is_nan(), "{classes}");
        }
        assert_eq!(
            log_sum_exp::<f32, f32>(&[f32::NEG_INFINITY; 37], &[]).maximum,
            f32::NEG_INFINITY
        );
        // Masked entries add nothing, however many precede the first unmasked one.
        for (classes, place) in [(37, 11), (2000, 1999), (2000, 0), (513, 512)] {
            let mut masked = vec![f32::NEG_INFINITY; classes];
            masked[place] = 5.0;
            let stats = log_sum_exp::<f32, f32>(&masked, &[]);
            assert_eq!((stats.maximum, stats.sum), (5.0, 1.0));
            masked[place] = f32::NAN;
            assert!(log_sum_exp::<f32, f32>(&masked, &[]).sum.is_nan());
        }
    }
}
