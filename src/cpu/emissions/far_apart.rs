//! Emissions in f64, from entries that are too far apart for emissions in their own type: either as plain numbers or as
//! mantissas and exponents. Both forms represent the same numbers.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

use crate::cpu::emissions::table::Depth;
use crate::cpu::simd::f64x8::{F64x8, SIDE, ZEROS, load, vectors};
use crate::cpu::simd::isa::{dispatch_simd, mul_add_f64};
use crate::cpu::simd::lanes::larger;
use crate::cpu::simd::power::{EMPTY_EXP, powers};
use crate::cpu::simd::real::Real;
use crate::cpu::simd::real::{FACTORIALS, LN_2_PARTS, MAGIC_64};
use crate::cpu::time::BLOCK_FRAMES;
use pulp::{Simd, WithSimd};

/// An entry more than this many nats below the largest of its frame counts as −inf: 2^31 · ln 2.
const FAR_BELOW: f64 = 1.4885e9;

/// The least exponent of an emission that is a plain number. Its mantissa may be below 1.
const LOWEST_EXP: f64 = -1021.0;

/// The exponent of a missing emission.
const NONE: f64 = i32::MIN as f64;

/// The emissions `e^(x − largest)` of `block`. Those below 2^[`LOWEST_EXP`] become 0; the returned depth records them.
pub(crate) fn raw_emissions<R: Real>(
    block: &[[R; BLOCK_FRAMES]],
    to: &mut [[f64; BLOCK_FRAMES]],
) -> Depth {
    dispatch_simd(RawEmissions { block, to })
}

struct RawEmissions<'a, R> {
    block: &'a [[R; BLOCK_FRAMES]],
    to: &'a mut [[f64; BLOCK_FRAMES]],
}

impl<R: Real> WithSimd for RawEmissions<'_, R> {
    type Output = Depth;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Depth {
        let (zero, none) = (simd.splat_f64s(0.0), simd.splat_f64s(NONE));
        let tops = load(simd, &largest(self.block));
        let mut faintest = [zero; SIDE];
        let (mut cut, mut masked) = ([none; SIDE], [none; SIDE]);
        for (entry, to) in self.block.iter().zip(self.to) {
            let entry = load(simd, &widened(entry));
            let (to, _) = S::as_mut_simd_f64s(to);
            for v in 0..vectors::<S>() {
                let (m, e) = exp_split::<S, R>(simd, entry[v], tops[v]);
                let fits = simd.greater_than_or_equal_f64s(e, simd.splat_f64s(LOWEST_EXP));
                let emission = simd.mul_f64s(m, powers(simd, e));
                to[v] = simd.select_f64s(fits, emission, zero);
                let faint = simd.select_f64s(fits, e, zero);
                faintest[v] = simd.min_f64s(faintest[v], faint);
                cut[v] = simd.max_f64s(cut[v], simd.select_f64s(fits, none, e));
                let there = simd.greater_than_f64s(e, none);
                masked[v] = simd.select_f64s(there, masked[v], zero);
            }
        }
        for v in 1..vectors::<S>() {
            faintest[0] = simd.min_f64s(faintest[0], faintest[v]);
            cut[0] = simd.max_f64s(cut[0], cut[v]);
            masked[0] = simd.max_f64s(masked[0], masked[v]);
        }
        let (cut, masked) = (
            simd.reduce_max_f64s(cut[0]),
            simd.reduce_max_f64s(masked[0]),
        );
        Depth {
            // Mantissas are between 1/2 and 2.
            faintest: simd.reduce_min_f64s(faintest[0]) as i32 - 1,
            cut: (cut > NONE).then_some(cut as i32 + 1),
            masked: masked > NONE,
        }
    }
}

/// The emissions of `block` as mantissas (about 0.7 to 1.4) and exponents; a zero has the exponent [`EMPTY_EXP`].
#[inline(always)]
pub(crate) fn split<S: Simd, R: Real>(
    simd: S,
    block: &[[R; BLOCK_FRAMES]],
    m: &mut [F64x8],
    e: &mut [F64x8],
) {
    let tops = load(simd, &largest(block));
    for ((entry, m), e) in block.iter().zip(m).zip(e) {
        let entry = load(simd, &widened(entry));
        let (m, _) = S::as_mut_simd_f64s(&mut m.0);
        let (e, _) = S::as_mut_simd_f64s(&mut e.0);
        for v in 0..vectors::<S>() {
            (m[v], e[v]) = exp_split::<S, R>(simd, entry[v], tops[v]);
        }
    }
}

#[inline(always)]
fn widened<R: Real>(entry: &[R; BLOCK_FRAMES]) -> F64x8 {
    let mut to = ZEROS;
    for k in 0..BLOCK_FRAMES {
        to.0[k] = entry[k].widen();
    }
    to
}

/// The largest entry of each frame, or 0 if all are −inf.
#[inline(always)]
fn largest<R: Real>(block: &[[R; BLOCK_FRAMES]]) -> F64x8 {
    let mut tops = [R::narrow(f64::NEG_INFINITY); BLOCK_FRAMES];
    for entry in block {
        for k in 0..BLOCK_FRAMES {
            tops[k] = larger(tops[k], entry[k]);
        }
    }
    let mut tops = widened(&tops);
    for top in &mut tops.0 {
        if *top == f64::NEG_INFINITY {
            *top = 0.0;
        }
    }
    tops
}

/// `e^(x − reference)` as mantissa and exponent; 1 and [`EMPTY_EXP`] if it counts as 0. Accurate to 1e-11 for entries
/// in f32, otherwise to one ulp of the mantissa.
#[inline(always)]
fn exp_split<S: Simd, R: Real>(simd: S, x: S::f64s, reference: S::f64s) -> (S::f64s, S::f64s) {
    let exact = R::EPSILON == f64::EPSILON;
    let there =
        simd.greater_than_or_equal_f64s(simd.sub_f64s(x, reference), simd.splat_f64s(-FAR_BELOW));
    let x = simd.select_f64s(there, x, reference);
    let difference = simd.sub_f64s(x, reference);
    let magic = simd.splat_f64s(MAGIC_64);
    let log2_e = simd.splat_f64s(std::f64::consts::LOG2_E);
    let n = simd.sub_f64s(mul_add_f64(simd, difference, log2_e, magic), magic);
    let [high, low] = LN_2_PARTS.map(|part| simd.splat_f64s(-part));
    let mut r = mul_add_f64(simd, n, low, mul_add_f64(simd, n, high, difference));
    if exact {
        // The rounding error of the difference (Knuth's two-sum).
        let minus_reference = simd.sub_f64s(difference, x);
        let lost = simd.sub_f64s(
            simd.sub_f64s(x, simd.sub_f64s(difference, minus_reference)),
            simd.add_f64s(reference, minus_reference),
        );
        r = simd.add_f64s(r, lost);
    }
    let first = if exact { 0 } else { 4 };
    let mut p = simd.splat_f64s(1.0 / FACTORIALS[first]);
    for i in first + 1..FACTORIALS.len() {
        p = mul_add_f64(simd, p, r, simd.splat_f64s(1.0 / FACTORIALS[i]));
    }
    let above_one = mul_add_f64(simd, simd.mul_f64s(p, r), r, r);
    let m = simd.add_f64s(above_one, simd.splat_f64s(1.0));
    (m, simd.select_f64s(there, n, simd.splat_f64s(EMPTY_EXP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::isa::tests::on_each;
    use std::f64::consts::LOG2_E;

    /// The mantissa, exponent and plain emission of `e^(x − reference)`.
    fn emission(x: f64, reference: f64) -> (f64, f64, f64, Depth) {
        struct Split<'a>(&'a [[f64; BLOCK_FRAMES]], [F64x8; 2], [F64x8; 2]);
        impl WithSimd for Split<'_> {
            type Output = (f64, f64);

            fn with_simd<S: Simd>(mut self, simd: S) -> (f64, f64) {
                split(simd, self.0, &mut self.1, &mut self.2);
                (self.1[1].0[3], self.2[1].0[3])
            }
        }
        let block = [[reference; BLOCK_FRAMES], [x; BLOCK_FRAMES]];
        let mut plain = [[0.0; BLOCK_FRAMES]; 2];
        let depth = raw_emissions(&block, &mut plain);
        assert_eq!(plain[0], [1.0; BLOCK_FRAMES]);
        let (m, e) = dispatch_simd(Split(&block, [ZEROS; 2], [ZEROS; 2]));
        (m, e, plain[1][3], depth)
    }

    #[test]
    fn emissions_are_exact_to_a_step_of_the_mantissa() {
        on_each(|isa| {
            for i in 0..20_000 {
                let (x, reference) = (-1.1 * f64::from(i) - 0.01, -7.3 - 0.001 * f64::from(i));
                let (x, reference) = (x.min(reference), x.max(reference));
                let truth = (x - reference) * LOG2_E;
                let (m, e, plain, depth) = emission(x, reference);
                let error = m.log2() + e - truth;
                assert!(
                    error.abs() < 4e-16 * truth.abs().max(1.0),
                    "{isa:?} {x}: {error}"
                );
                if e >= LOWEST_EXP {
                    assert_eq!(plain, m * 2f64.powf(e), "{isa:?} {x}");
                    assert!(plain >= f64::MIN_POSITIVE && depth.cut.is_none());
                    assert!(plain >= 2f64.powi(depth.faintest) || depth.faintest < -1022);
                } else {
                    assert_eq!((plain, depth.faintest), (0.0, -1));
                    assert!(depth.cut.is_some_and(|cut| truth < f64::from(cut)));
                }
                assert!(!depth.masked);
            }
            assert_eq!(
                emission(8.25, 8.25),
                (
                    1.0,
                    0.0,
                    1.0,
                    Depth {
                        faintest: -1,
                        ..Depth::PLAIN
                    }
                )
            );
            let (m, e, _, depth) = emission(-0.9 * FAR_BELOW, 0.0);
            let error = (m.log2() + e) / (-0.9 * FAR_BELOW * LOG2_E) - 1.0;
            assert!(error.abs() < 1e-15 && !depth.masked && depth.cut.is_some());
            for far in [-1.1 * FAR_BELOW, f64::NEG_INFINITY] {
                let (m, e, plain, depth) = emission(far, 0.0);
                assert_eq!((m, e, plain), (1.0, EMPTY_EXP, 0.0));
                assert!(depth.masked && depth.cut.is_none());
            }
        });
    }
}
