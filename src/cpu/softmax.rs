//! The log-sum-exp of a row, and its softmax.
//!
//! In the sum the largest entries are counted, so that small terms are not lost beside a 1. The others
//! are added up in the type of the row, some at a time, and then in f64. The order is that of 16 lanes,
//! whatever a vector holds.

#![allow(
    clippy::needless_range_loop,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

use super::emission::{LANES, fold_lanes, larger};
use super::isa::dispatch_simd;
use super::real::{Block, Real};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// What a softmax over a row needs: `log p = x − maximum − ln sum`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStats<R> {
    pub maximum: R,
    /// `Σ exp(x − maximum)` over the classes.
    pub sum: f64,
}

impl<R: Real> RowStats<R> {
    /// `log p` of the entry `x`. The difference comes first: what rows have in common may be far larger than
    /// what they differ by. No finite number where the row has none that is larger than −inf, or one that
    /// is no number.
    pub fn log_softmax(&self, x: R) -> f64 {
        (x.widen() - self.maximum.widen()) - self.sum.ln()
    }

    /// Whether the row holds a NaN or +inf, or nothing but −inf.
    pub fn is_poisoned(&self) -> bool {
        !(self.maximum.widen() + self.sum.ln()).is_finite()
    }
}

/// Blocks of lanes whose terms are added up in the type of the row.
const BLOCKS: usize = 32;

/// The largest entry of a row and `Σ exp(x − largest)`. The sum is NaN when the row holds a NaN; the largest
/// is infinite when it holds +inf, or nothing but −inf. `next` is the row that comes then, which is asked
/// for meanwhile: what hardware fetches ahead ends with a page of memory.
pub(super) fn log_sum_exp<R: Real, E>(row: &[R], next: &[E]) -> RowStats<R> {
    dispatch_simd(LogSumExp { row, next })
}

/// Writes `scale · softmax(x)` to `out`, with `next` as for [`log_sum_exp`].
pub(super) fn softmax<'a, R: Real, E>(
    row: &[R],
    stats: &RowStats<R>,
    scale: R,
    out: &'a mut [MaybeUninit<R>],
    next: &[E],
) -> &'a mut [R] {
    assert_eq!(row.len(), out.len());
    dispatch_simd(Softmax {
        row,
        next,
        maximum: stats.maximum,
        scale: R::narrow(scale.widen() / stats.sum),
        out,
    });
    // SAFETY: as long as the row, all of which was written.
    unsafe { out.assume_init_mut() }
}

/// Asks for memory that will be used soon. Wherever that is, nothing changes.
#[inline(always)]
pub(super) fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it neither reads nor writes.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for block `i` of a row, if there is one.
#[inline(always)]
fn fetch_block<E>(row: &[E], i: usize) {
    if let Some(entry) = row.get(i * LANES) {
        fetch(entry);
    }
}

struct LogSumExp<'a, R, E> {
    row: &'a [R],
    next: &'a [E],
}

impl<R: Real, E> WithSimd for LogSumExp<'_, R, E> {
    type Output = RowStats<R>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> RowStats<R> {
        let (blocks, rest) = self.row.as_chunks::<LANES>();
        let (mut maximum, mut total) = (R::narrow(f64::NEG_INFINITY), 0.0);
        // What is missing of the last block adds nothing.
        let last = last_block(self.row, maximum);
        let last = if rest.is_empty() { &[] } else { &[last][..] };
        for (i, some) in blocks.chunks(BLOCKS).chain([last]).enumerate() {
            for block in i * BLOCKS..i * BLOCKS + some.len() {
                fetch_block(self.next, block);
            }
            add_terms(simd, some, &mut maximum, &mut total);
        }
        RowStats {
            maximum,
            sum: total,
        }
    }
}

/// The last entries of a row in their lanes, `missing` in the others.
#[inline(always)]
fn last_block<R: Real>(row: &[R], missing: R) -> Block<R> {
    let rest = row.len() % LANES;
    let mut block = [missing; LANES];
    if let Some(last) = row.last_chunk::<LANES>() {
        for k in 0..LANES {
            block[k] = if k < LANES - rest { missing } else { last[k] };
        }
    } else {
        for (to, &x) in block.iter_mut().zip(row) {
            *to = x;
        }
    }
    block
}

/// The largest entry, NaN left out; −inf when there is none.
#[inline(always)]
pub(super) fn tops_of<R: Real>(blocks: &[Block<R>]) -> Block<R> {
    // Four chains, so that comparisons do not wait for each other.
    let mut tops = [[R::narrow(f64::NEG_INFINITY); LANES]; 4];
    let (fours, rest) = blocks.as_chunks::<4>();
    for four in fours {
        for c in 0..4 {
            for k in 0..LANES {
                tops[c][k] = larger(tops[c][k], four[c][k]);
            }
        }
    }
    for block in rest {
        for k in 0..LANES {
            tops[0][k] = larger(tops[0][k], block[k]);
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

/// Adds the terms of a few blocks to `total`.
#[inline(always)]
fn add_terms<S: Simd, R: Real>(simd: S, blocks: &[Block<R>], maximum: &mut R, total: &mut f64) {
    let top = R::largest(simd, &tops_of(blocks));
    if top > *maximum {
        *total *= (maximum.widen() - top.widen()).exp();
        *maximum = top;
    }
    let mut others = [R::ZERO; LANES];
    if top < *maximum {
        for block in blocks {
            let terms = R::exp_below(simd, block, *maximum);
            for k in 0..LANES {
                others[k] += terms[k];
            }
        }
    } else {
        let mut ones = [R::ZERO; LANES];
        for block in blocks {
            let terms = R::exp_below(simd, block, *maximum);
            for k in 0..LANES {
                let largest = block[k] == *maximum;
                ones[k] += if largest { R::ONE } else { R::ZERO };
                others[k] += if largest { R::ZERO } else { terms[k] };
            }
        }
        *total += R::sum(simd, &ones);
    }
    *total += R::sum(simd, &others);
}

struct Softmax<'a, R, E> {
    row: &'a [R],
    next: &'a [E],
    maximum: R,
    scale: R,
    out: &'a mut [MaybeUninit<R>],
}

impl<R: Real, E> WithSimd for Softmax<'_, R, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (blocks, rest) = self.row.as_chunks::<LANES>();
        let (out_blocks, out_rest) = self.out.as_chunks_mut::<LANES>();
        for (i, (out, block)) in out_blocks.iter_mut().zip(blocks).enumerate() {
            fetch_block(self.next, i);
            // The next row of the output stands behind this one, if there is one.
            fetch(out.as_ptr().wrapping_add(self.row.len()));
            let terms = R::exp_below(simd, block, self.maximum);
            for k in 0..LANES {
                out[k].write(terms[k] * self.scale);
            }
        }
        if rest.is_empty() {
            return;
        }
        let mut last = [self.maximum; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let terms = R::exp_below(simd, &last, self.maximum);
        for (out, term) in out_rest.iter_mut().zip(terms) {
            out.write(term * self.scale);
        }
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
        assert_eq!(
            log_sum_exp::<f32, f32>(&[f32::NEG_INFINITY; 37], &[]).maximum,
            f32::NEG_INFINITY
        );
        let mut masked = [f32::NEG_INFINITY; 37];
        masked[11] = 5.0;
        assert_eq!(log_sum_exp::<f32, f32>(&masked, &[]).sum, 1.0);
    }
}
#[cfg(test)]
mod timing {
    use super::*;
    #[test]
    #[ignore]
    fn timing() {
        for classes in [32usize, 992, 5008] {
            let row: Vec<f32> = (0..classes).map(|i| ((i * 7919 % 1000) as f32) * 0.006 - 3.0).collect();
            let mut out = Vec::with_capacity(classes);
            let reps = 4_000_000 / classes;
            let (mut a, mut b) = (f64::MAX, f64::MAX);
            let mut chain = 0u64;
            for _ in 0..20 {
                let t = std::time::Instant::now();
                let mut s = 0.0;
                for _ in 0..reps {
                    s += log_sum_exp::<f32, f32>(std::hint::black_box(&row), &[]).sum;
                }
                std::hint::black_box(s);
                a = a.min(t.elapsed().as_secs_f64());
                let stats = log_sum_exp::<f32, f32>(&row, &[]);
                let t = std::time::Instant::now();
                for _ in 0..reps {
                    softmax::<f32, f32>(std::hint::black_box(&row), &stats, 1.0, &mut out.spare_capacity_mut()[..classes], &[]);
                    std::hint::black_box(&mut out);
                }
                b = b.min(t.elapsed().as_secs_f64());
            }
            let t = std::time::Instant::now();
            let mut x = 1u64;
            for _ in 0..10_000_000u64 { x = std::hint::black_box(x ^ chain).wrapping_mul(3); chain = x; }
            let mul = t.elapsed().as_secs_f64() / 1e7 * 1e9;
            let blocks = (reps * classes) as f64 / 16.0;
            println!("{classes}: lse {:.2} ns, softmax {:.2} ns a block ({mul:.2})", a / blocks * 1e9, b / blocks * 1e9);
        }
    }
}
