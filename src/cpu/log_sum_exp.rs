//! The largest entry of a row and `Σ exp(x − largest)`.
//!
//! The largest are counted, so that small terms are not lost beside a 1. The others are added up in the
//! type of the row, 32 at a time, and then in f64. The order is that of 16 lanes, whatever a vector holds.

#![allow(
    clippy::needless_range_loop,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

use super::emission::{LANES, fold_lanes, largest_of};
use super::isa::{dispatch, dispatch_simd};
use super::real::{F32_EXP, F32_LN_2, F32_LOWEST, MAGIC_32, Real};
use pulp::{Simd, WithSimd, cast};
use std::f32::consts::LOG2_E;

/// Blocks of lanes whose terms are added up in the type of the row.
const RUN: usize = 32;

/// For f64: plain loops.
pub(super) fn log_sum_exp_f64(row: &[f64]) -> (f64, f64) {
    dispatch(
        #[inline(always)]
        || {
            let (blocks, rest) = row.as_chunks::<LANES>();
            let maximum = largest_of(blocks, rest);
            let (mut ones, mut others) = ([0.0; LANES], [0.0; LANES]);
            for block in blocks {
                for k in 0..LANES {
                    let largest = block[k] == maximum;
                    ones[k] += if largest { 1.0 } else { 0.0 };
                    others[k] += if largest {
                        0.0
                    } else {
                        f64::exp_negative(block[k] - maximum)
                    };
                }
            }
            let sum = fold_lanes(ones, |a, b| a + b) + fold_lanes(others, |a, b| a + b);
            (maximum, sum + rest_of(rest, maximum))
        },
    )
}

/// For f32: the same operations lane by lane as [`Real::exp_negative`], in named vectors, since the
/// sums do not stay in registers otherwise.
pub(super) fn log_sum_exp_f32(row: &[f32]) -> (f32, f64) {
    dispatch_simd(Row(row))
}

#[inline(always)]
fn rest_of<R: Real>(rest: &[R], maximum: R) -> f64 {
    let mut sum = 0.0;
    for &x in rest {
        // The largest gives exactly 1.
        sum += R::exp_negative(x - maximum).widen();
    }
    sum
}

struct Row<'a>(&'a [f32]);

/// A block in vector registers: as many as it takes, the others unused.
type Block<S> = [<S as Simd>::f32s; LANES];

#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32; LANES]) -> Block<S> {
    let mut to = [simd.splat_f32s(0.0); LANES];
    let (from, _) = S::as_simd_f32s(from);
    to[..from.len()].copy_from_slice(from);
    to
}

#[inline(always)]
fn lanes<S: Simd>(from: &Block<S>) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let (to, _) = S::as_mut_simd_f32s(&mut lanes);
    let count = to.len();
    to.copy_from_slice(&from[..count]);
    lanes
}

impl WithSimd for Row<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f64) {
        let vectors = LANES / S::F32_LANES;
        let (blocks, rest) = self.0.as_chunks::<LANES>();
        // Four chains, so that comparisons do not wait for each other.
        let mut tops = [[simd.splat_f32s(f32::NEG_INFINITY); LANES]; 4];
        let (fours, odd) = blocks.as_chunks::<4>();
        for four in fours {
            for c in 0..4 {
                larger(simd, &mut tops[c], &four[c]);
            }
        }
        for block in odd {
            larger(simd, &mut tops[0], block);
        }
        let tops = [0, 1, 2, 3].map(|c| lanes::<S>(&tops[c]));
        let maximum = largest_of(&tops, rest);

        let top = simd.splat_f32s(maximum);
        let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        let mut total = [0.0f64; LANES];
        for run in blocks.chunks(RUN) {
            let (mut ones, mut others) = ([zero; LANES], [zero; LANES]);
            for block in run {
                let x = load(simd, block);
                for v in 0..vectors {
                    let largest = simd.equal_f32s(x[v], top);
                    let e = exp_negative(simd, simd.sub_f32s(x[v], top));
                    ones[v] = simd.add_f32s(ones[v], simd.select_f32s(largest, one, zero));
                    others[v] = simd.add_f32s(others[v], simd.select_f32s(largest, zero, e));
                }
            }
            let (ones, others) = (lanes::<S>(&ones), lanes::<S>(&others));
            for k in 0..LANES {
                total[k] += f64::from(ones[k]) + f64::from(others[k]);
            }
        }
        let sum = fold_lanes(total, |a, b| a + b);
        (maximum, sum + rest_of(rest, maximum))
    }
}

/// The larger of each lane; a NaN is not.
#[inline(always)]
fn larger<S: Simd>(simd: S, top: &mut Block<S>, block: &[f32; LANES]) {
    let x = load(simd, block);
    for v in 0..LANES / S::F32_LANES {
        let larger = simd.greater_than_f32s(x[v], top[v]);
        top[v] = simd.select_f32s(larger, x[v], top[v]);
    }
}

/// [`Real::exp_negative`] of f32.
#[inline(always)]
fn exp_negative<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let constant = |c| simd.splat_f32s(c);
    let (mul, add, sub) = (
        |a, b| simd.mul_f32s(a, b),
        |a, b| simd.add_f32s(a, b),
        |a, b| simd.sub_f32s(a, b),
    );
    let magic = constant(MAGIC_32);
    let shifted = add(mul(x, constant(LOG2_E)), magic);
    let n = sub(shifted, magic);
    let r = sub(x, mul(n, constant(F32_LN_2[0])));
    let r = sub(r, mul(n, constant(F32_LN_2[1])));
    let mut p = constant(F32_EXP[0]);
    for c in 1..F32_EXP.len() {
        p = add(mul(p, r), constant(F32_EXP[c]));
    }
    let y = add(add(mul(mul(p, r), r), r), constant(1.0));
    let bits = simd.add_u32s(cast(shifted), simd.splat_u32s(127));
    let scale = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    let below = simd.less_than_f32s(x, constant(F32_LOWEST));
    simd.select_f32s(below, constant(0.0), mul(y, cast(scale)))
}
