//! Numbers with an exponent of their own: `mantissa · 2^exponent`, both f64.
//!
//! An f64 holds integers to 2^53, and SSE2 and AVX2 have a maximum of f64 but not of i64. A sum
//! brings its terms to the largest exponent by exact powers of two; mantissas stay near 1 but are
//! not brought back to `[1, 2)` at every step: see [`RENORMALISE`](super::lattice). A zero is any
//! number whose exponent is at or near [`ZERO_EXP`]; its mantissa is not 0.

use super::super::real::{MAGIC_64, exact_difference, exp_series_f64, reduce_f64};

/// The exponent of a zero. Exponents never fall below it.
pub(in super::super) const ZERO_EXP: f64 = -1_125_899_906_842_624.0; // -2^50
/// An exponent at or below this belongs to a zero.
pub(in super::super) const ZERO_BELOW: f64 = -562_949_953_421_312.0; // -2^49

/// An entry further (in nats) below the largest of its frame counts as −inf: 2^31 · ln 2.
pub(super) const FAR_BELOW: f64 = 1.4885e9;

#[inline(always)]
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// `2^d` for `d` from well below 0 up to about 1000; 0 for `d` below the smallest normal.
#[inline(always)]
pub(super) fn pow2(d: f64) -> f64 {
    f64::from_bits((max(d, -1023.0) + (MAGIC_64 + 1023.0)).to_bits() << 52)
}

/// The same number with its mantissa in `[1, 2)`.
#[inline(always)]
pub(super) fn normalise(m: f64, e: f64) -> (f64, f64) {
    const TWO_52: u64 = 0x4330_0000_0000_0000; // the bits of 2^52
    let bits = m.to_bits();
    let one = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    let exponent = f64::from_bits((bits >> 52) | TWO_52) - (f64::from_bits(TWO_52) + 1023.0);
    (one, e + exponent)
}

/// `e^(x − reference)` as mantissa (about 0.7 to 1.4) and exponent, for a difference of no more than
/// [`FAR_BELOW`] either way.
#[inline(always)]
pub(super) fn exp_split(x: f64, reference: f64) -> (f64, f64) {
    let (difference, lost) = exact_difference!(x, reference);
    let (n, _, r) = reduce_f64(difference);
    (exp_series_f64(r + lost), n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LOG2_E;

    #[test]
    fn exp_split_is_exact_to_a_step_of_the_mantissa() {
        for i in 0..20_000 {
            let (x, reference) = (-1.1 * f64::from(i) - 0.01, -7.3 - 0.001 * f64::from(i));
            let truth = (x - reference) * LOG2_E;
            let (m, e) = exp_split(x, reference);
            let error = m.log2() + e - truth;
            assert!(error.abs() < 4e-16 * truth.abs().max(1.0), "{x}: {error}");
        }
        assert_eq!(exp_split(8.25, 8.25), (1.0, 0.0));
    }

    #[test]
    fn exp_split_holds_near_the_limit() {
        let (m, e) = exp_split(-0.9 * FAR_BELOW, 0.0);
        assert!(((m.log2() + e) / (-0.9 * FAR_BELOW * LOG2_E) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn pow2_is_exact_and_vanishes_far_below() {
        for d in -1022..1000 {
            assert_eq!(pow2(f64::from(d)), 2f64.powi(d));
        }
        assert_eq!(pow2(2.0 * ZERO_EXP), 0.0);
    }

    #[test]
    fn normalise_keeps_the_number() {
        for m in [1.0, 0.001, 5.0e8, 1.9999999, 2.0] {
            let (n, e) = normalise(m, 7.0);
            assert!((1.0..2.0).contains(&n));
            assert_eq!(n * 2f64.powi(e as i32 - 7), m);
        }
    }
}
