//! Numbers with their own exponent: `mantissa · 2^exponent`.
//!
//! The probabilities of a lattice span thousands of binary orders, so each state carries an
//! exponent beside its mantissa. A sum brings the terms to the largest exponent by exact powers
//! of two; no logarithm and no exponential is taken in the recursion. Mantissas stay near 1 but
//! are not brought back to `[1, 2)` at every step: see [`RENORMALISE`](super::lattice).
//!
//! A zero is any number whose exponent is at or near [`Real::ZERO_EXP`]; its mantissa is not 0.

use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// An entry further (in nats) below the largest of its frame counts as −inf: 2^31 · ln 2.
pub(super) const FAR_BELOW: f64 = 1.4885e9;

/// The arithmetic of a lattice: mantissas of this type, exponents of [`Real::Exp`].
pub(crate) trait Real:
    WithDType
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
{
    /// An exponent. For f64 it is an f64 too: it holds integers up to 2^53, and SSE2 and AVX2
    /// have the maximum and conversions of f64 but not of i64.
    type Exp: Copy + PartialOrd + Send + Sync + std::fmt::Debug + 'static;

    /// A mantissa and an exponent as one word, to be moved at once.
    type Pair: Copy + Send + Sync + 'static;

    const ZERO: Self;
    const ONE: Self;
    /// The exponent of a zero. Exponents never fall below it.
    const ZERO_EXP: Self::Exp;
    /// An exponent at or below this belongs to a zero.
    const ZERO_BELOW: Self::Exp;
    const EXP_0: Self::Exp;
    /// The distance from 1 to the next number.
    const EPSILON: f64;
    /// Differences of log-probabilities (in nats) up to this are exact to a rounding of the
    /// mantissa.
    const LOG_LIMIT: Self;
    /// The largest sum of |log p| (in nats) along a path that the exponents hold with certainty.
    const PATH_LIMIT: f64;

    fn exp_add(a: Self::Exp, b: Self::Exp) -> Self::Exp;
    fn exp_sub(a: Self::Exp, b: Self::Exp) -> Self::Exp;
    fn exp_max(a: Self::Exp, b: Self::Exp) -> Self::Exp;
    fn exp_to_f64(e: Self::Exp) -> f64;

    /// `2^d` for `d` from well below 0 up to about 100; 0 for `d` below the smallest normal.
    fn pow2(d: Self::Exp) -> Self;

    /// The same number with its mantissa in `[1, 2)`.
    fn normalise(m: Self, e: Self::Exp) -> (Self, Self::Exp);

    /// `e^(x − reference)` as mantissa (about 0.7 to 1.4) and exponent, for a difference of less
    /// than [`Real::LOG_LIMIT`] either way.
    fn exp_split(x: Self, reference: Self) -> (Self, Self::Exp);

    /// `e^x` for `x <= 0`; 0 for `x` below the logarithm of the smallest normal number.
    fn exp_negative(x: Self) -> Self;

    fn pair(m: Self, e: Self::Exp) -> Self::Pair;
    fn unpair(pair: Self::Pair) -> (Self, Self::Exp);

    fn widen(self) -> f64;
    fn narrow(x: f64) -> Self;
}

// 2^52 · 1.5: adding it to an f64 rounds to an integer, which then stands in the low bits.
const MAGIC_64: f64 = 6_755_399_441_055_744.0;
const MAGIC_32: f32 = 12_582_912.0;
const LOG2_E: f64 = std::f64::consts::LOG2_E;
// ln 2 in two parts; the high one has 32 bits, so that its product with an integer below 2^21 is
// exact (Cody and Waite).
const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// `x = n · ln 2 + r` with `|r| <= ln 2 / 2`: `n`, the bits that end in `n`, and `r`.
#[inline(always)]
fn reduce_f64(x: f64) -> (f64, u64, f64) {
    let shifted = x * LOG2_E + MAGIC_64;
    let n = shifted - MAGIC_64;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    (n, shifted.to_bits(), r)
}

/// The same for f32: `n` in the low bits, and `r`, for |n| below 2^15.
#[inline(always)]
fn reduce_f32(x: f32) -> (u32, f32) {
    // ln 2 in three parts. The first two have 9 bits: exact in a product with such an n.
    const HIGH: f32 = 0.693_359_4;
    const MIDDLE: f32 = -0.00021219253540039062;
    const LOW: f32 = -1.904654300e-09;
    let shifted = x * (LOG2_E as f32) + MAGIC_32;
    let n = shifted - MAGIC_32;
    let r = ((x - n * HIGH) - n * MIDDLE) - n * LOW;
    (shifted.to_bits(), r)
}

/// `a − b` rounded, and what the rounding lost (Knuth's two-sum).
macro_rules! exact_difference {
    ($a:expr, $b:expr) => {{
        let difference = $a - $b;
        let minus_b = difference - $a;
        let lost = ($a - (difference - minus_b)) - ($b + minus_b);
        (difference, lost)
    }};
}

// The Taylor series of e^r, 1/k! from k = 2, for |r| <= 0.3466. Cut after r^7 the relative error is
// 5e-9, a twelfth of an f32 step; cut after r^13 it is 4e-18.
macro_rules! exp_series {
    ($r:expr, $t:ty, [$last:expr $(, $c:expr)*]) => {{
        let r = $r;
        let mut p: $t = 1.0 / $last;
        $( p = p * r + 1.0 / $c; )*
        (p * r) * r + r + 1.0
    }};
}

#[inline(always)]
fn exp_series_f32(r: f32) -> f32 {
    exp_series!(r, f32, [5040.0, 720.0, 120.0, 24.0, 6.0, 2.0])
}

#[inline(always)]
fn exp_series_f64(r: f64) -> f64 {
    exp_series!(
        r,
        f64,
        [
            6_227_020_800.0,
            479_001_600.0,
            39_916_800.0,
            3_628_800.0,
            362_880.0,
            40_320.0,
            5040.0,
            720.0,
            120.0,
            24.0,
            6.0,
            2.0
        ]
    )
}

impl Real for f32 {
    type Exp = i32;
    type Pair = u64;

    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    // Sums of two such exponents and a difference with a live one still fit an i32.
    const ZERO_EXP: i32 = -(1 << 29);
    const ZERO_BELOW: i32 = -(1 << 28);
    const EXP_0: i32 = 0;
    const EPSILON: f64 = f32::EPSILON as f64;
    const LOG_LIMIT: f32 = 22_000.0; // below 2^15 · ln 2: see `reduce_f32`
    const PATH_LIMIT: f64 = 9.0e7; // below 2^27 · ln 2

    // Wrapping: a path beyond PATH_LIMIT is computed again in f64, whatever came out here.
    #[inline(always)]
    fn exp_add(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    fn exp_sub(a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }

    #[inline(always)]
    fn exp_max(a: i32, b: i32) -> i32 {
        a.max(b)
    }

    #[inline(always)]
    fn exp_to_f64(e: i32) -> f64 {
        f64::from(e)
    }

    #[inline(always)]
    fn pow2(d: i32) -> f32 {
        f32::from_bits((d.max(-127).wrapping_add(127) << 23) as u32)
    }

    #[inline(always)]
    fn normalise(m: f32, e: i32) -> (f32, i32) {
        let bits = m.to_bits();
        let one = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
        (one, e.wrapping_add((bits >> 23) as i32 - 127))
    }

    #[inline(always)]
    fn exp_split(x: f32, reference: f32) -> (f32, i32) {
        let (difference, lost) = exact_difference!(x, reference);
        let (bits, r) = reduce_f32(difference);
        let n = bits.wrapping_sub(MAGIC_32.to_bits()) as i32;
        (exp_series_f32(r + lost), n)
    }

    #[inline(always)]
    fn exp_negative(x: f32) -> f32 {
        let (bits, r) = reduce_f32(x);
        let scale = f32::from_bits(bits.wrapping_add(127) << 23);
        if x < -87.0 {
            0.0
        } else {
            exp_series_f32(r) * scale
        }
    }

    #[inline(always)]
    fn pair(m: f32, e: i32) -> u64 {
        u64::from(m.to_bits()) | u64::from(e as u32) << 32
    }

    #[inline(always)]
    fn unpair(pair: u64) -> (f32, i32) {
        (f32::from_bits(pair as u32), (pair >> 32) as i32)
    }

    #[inline(always)]
    fn widen(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn narrow(x: f64) -> f32 {
        x as f32
    }
}

impl Real for f64 {
    type Exp = f64;
    type Pair = [f64; 2];

    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const ZERO_EXP: f64 = -1_125_899_906_842_624.0; // -2^50
    const ZERO_BELOW: f64 = -562_949_953_421_312.0; // -2^49
    const EXP_0: f64 = 0.0;
    const EPSILON: f64 = f64::EPSILON;
    const LOG_LIMIT: f64 = FAR_BELOW;
    const PATH_LIMIT: f64 = f64::INFINITY;

    #[inline(always)]
    fn exp_add(a: f64, b: f64) -> f64 {
        a + b
    }

    #[inline(always)]
    fn exp_sub(a: f64, b: f64) -> f64 {
        a - b
    }

    #[inline(always)]
    fn exp_max(a: f64, b: f64) -> f64 {
        if a > b { a } else { b }
    }

    #[inline(always)]
    fn exp_to_f64(e: f64) -> f64 {
        e
    }

    #[inline(always)]
    fn pow2(d: f64) -> f64 {
        f64::from_bits((Self::exp_max(d, -1023.0) + (MAGIC_64 + 1023.0)).to_bits() << 52)
    }

    #[inline(always)]
    fn normalise(m: f64, e: f64) -> (f64, f64) {
        const TWO_52: u64 = 0x4330_0000_0000_0000; // the bits of 2^52
        let bits = m.to_bits();
        let one = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
        let exponent = f64::from_bits((bits >> 52) | TWO_52) - (f64::from_bits(TWO_52) + 1023.0);
        (one, e + exponent)
    }

    #[inline(always)]
    fn exp_split(x: f64, reference: f64) -> (f64, f64) {
        let (difference, lost) = exact_difference!(x, reference);
        let (n, _, r) = reduce_f64(difference);
        (exp_series_f64(r + lost), n)
    }

    #[inline(always)]
    fn exp_negative(x: f64) -> f64 {
        let (_, bits, r) = reduce_f64(x);
        let scale = f64::from_bits(bits.wrapping_add(1023) << 52);
        if x < -708.0 {
            0.0
        } else {
            exp_series_f64(r) * scale
        }
    }

    #[inline(always)]
    fn pair(m: f64, e: f64) -> [f64; 2] {
        [m, e]
    }

    #[inline(always)]
    fn unpair([m, e]: [f64; 2]) -> (f64, f64) {
        (m, e)
    }

    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }

    #[inline(always)]
    fn narrow(x: f64) -> f64 {
        x
    }
}

/// A dtype of the input, and the arithmetic that serves it.
pub(crate) trait Element: WithDType {
    type Real: Real;

    /// Converts `from` into `to`; the lengths agree.
    fn widen_slice(from: &[Self], to: &mut [Self::Real]);

    /// Rounds `from` into `to`; the lengths agree.
    fn narrow_slice(from: &[Self::Real], to: &mut [Self]);

    /// The slice itself, when no conversion is needed.
    fn as_real(slice: &[Self]) -> Option<&[Self::Real]>;

    /// The slice itself, when no conversion is needed.
    fn as_real_mut(slice: &mut [Self]) -> Option<&mut [Self::Real]>;
}

macro_rules! element {
    (real: $($real:ty),*; half: $($half:ty),*) => {
        $(impl Element for $real {
            type Real = $real;

            #[inline(always)]
            fn widen_slice(from: &[Self], to: &mut [Self::Real]) {
                to.copy_from_slice(from)
            }

            #[inline(always)]
            fn narrow_slice(from: &[Self::Real], to: &mut [Self]) {
                to.copy_from_slice(from)
            }

            #[inline(always)]
            fn as_real(slice: &[Self]) -> Option<&[Self::Real]> {
                Some(slice)
            }

            #[inline(always)]
            fn as_real_mut(slice: &mut [Self]) -> Option<&mut [Self::Real]> {
                Some(slice)
            }
        })*
        $(impl Element for $half {
            type Real = f32;

            #[inline(always)]
            fn widen_slice(from: &[Self], to: &mut [Self::Real]) {
                from.convert_to_f32_slice(to)
            }

            #[inline(always)]
            fn narrow_slice(from: &[Self::Real], to: &mut [Self]) {
                to.convert_from_f32_slice(from)
            }

            #[inline(always)]
            fn as_real(_: &[Self]) -> Option<&[Self::Real]> {
                None
            }

            #[inline(always)]
            fn as_real_mut(_: &mut [Self]) -> Option<&mut [Self::Real]> {
                None
            }
        })*
    };
}

element!(real: f32, f64; half: f16, bf16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_split_is_exact_to_a_step_of_the_mantissa() {
        for i in 0..20_000 {
            let (x, reference) = (-1.1 * i as f32 - 0.01, -7.3 - 0.001 * i as f32);
            let truth = (f64::from(x) - f64::from(reference)) * LOG2_E;
            let (m, e) = <f32 as Real>::exp_split(x, reference);
            let error = f64::from(m).log2() + f64::from(e) - truth;
            // 6e-8 for the rounding of the mantissa and as much for that of r, 1.44 times in log2.
            assert!(error.abs() < 1.8e-7, "{x} {reference}: {error}");
            let (m, e) = <f64 as Real>::exp_split(x.into(), reference.into());
            let error = m.log2() + e - truth;
            assert!(error.abs() < 4e-16 * truth.abs().max(1.0), "{x}: {error}");
        }
        assert_eq!(<f32 as Real>::exp_split(-3.5, -3.5), (1.0, 0));
        assert_eq!(<f64 as Real>::exp_split(8.25, 8.25), (1.0, 0.0));
    }

    #[test]
    fn exp_split_holds_near_the_limit() {
        let (m, e) = <f64 as Real>::exp_split(-0.9 * f64::LOG_LIMIT, 0.0);
        assert!(((m.log2() + e) / (-0.9 * f64::LOG_LIMIT * LOG2_E) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn exp_negative_agrees_with_the_standard_library() {
        for i in 0..8_700 {
            let x = -0.01 * i as f32;
            let truth = f64::from(x).exp();
            assert!(
                (f64::from(<f32 as Real>::exp_negative(x)) / truth - 1.0).abs() < 2e-7,
                "{x}"
            );
            let truth = (x as f64).exp();
            assert!(
                (<f64 as Real>::exp_negative(x as f64) / truth - 1.0).abs() < 4e-16,
                "{x}"
            );
        }
        assert_eq!(<f32 as Real>::exp_negative(f32::NEG_INFINITY), 0.0);
        assert_eq!(<f64 as Real>::exp_negative(f64::NEG_INFINITY), 0.0);
        assert_eq!(<f32 as Real>::exp_negative(0.0), 1.0);
        assert!(<f32 as Real>::exp_negative(f32::NAN).is_nan());
        assert!(<f64 as Real>::exp_negative(f64::NAN).is_nan());
    }

    #[test]
    fn pow2_is_exact_and_vanishes_far_below() {
        for d in -126..100 {
            assert_eq!(<f32 as Real>::pow2(d), 2f32.powi(d));
            assert_eq!(<f64 as Real>::pow2(f64::from(d)), 2f64.powi(d));
        }
        assert_eq!(<f32 as Real>::pow2(-(1 << 30)), 0.0);
        assert_eq!(<f64 as Real>::pow2(2.0 * f64::ZERO_EXP), 0.0);
    }

    #[test]
    fn normalise_keeps_the_number() {
        for m in [1.0f32, 0.001, 5.0e8, 1.9999999, 2.0] {
            let (n, e) = <f32 as Real>::normalise(m, 7);
            assert!((1.0..2.0).contains(&n));
            assert_eq!(n * 2f32.powi(e - 7), m);
            let (n, e) = <f64 as Real>::normalise(f64::from(m), 7.0);
            assert!((1.0..2.0).contains(&n));
            assert_eq!(n * 2f64.powi(e as i32 - 7), f64::from(m));
        }
    }
}
