//! The types that a lattice takes in and gives back, and their exponential.

use super::log_sum_exp::{log_sum_exp_f32, log_sum_exp_f64};
use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// What entries, posteriors and gradients are kept in.
pub(crate) trait Real:
    WithDType
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
{
    const ZERO: Self;
    /// The distance from 1 to the next number.
    const EPSILON: f64;

    /// `e^(x − reference)`, exact to a rounding of the result, for a difference from −87 to 0.
    fn exp_ratio(x: Self, reference: Self) -> Self;

    /// `e^x` for `x <= 0`; 0 for `x` below the logarithm of the smallest normal number.
    fn exp_negative(x: Self) -> Self;

    /// The largest entry of a row and `Σ exp(x − largest)`. The sum is NaN when the row holds a NaN or
    /// +inf, or nothing but −inf.
    fn log_sum_exp(row: &[Self]) -> (Self, f64);

    fn widen(self) -> f64;
    fn narrow(x: f64) -> Self;
}

// 2^52 · 1.5: adding it to an f64 rounds to an integer, which then stands in the low bits.
pub(super) const MAGIC_64: f64 = 6_755_399_441_055_744.0;
pub(super) const MAGIC_32: f32 = 12_582_912.0;
const LOG2_E: f64 = std::f64::consts::LOG2_E;
// ln 2 in two parts; the high one has 32 bits, so that its product with an integer below 2^21 is
// exact (Cody and Waite).
const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// `x = n · ln 2 + r` with `|r| <= ln 2 / 2`: `n`, the bits that end in `n`, and `r`.
#[inline(always)]
pub(super) fn reduce_f64(x: f64) -> (f64, u64, f64) {
    let shifted = x * LOG2_E + MAGIC_64;
    let n = shifted - MAGIC_64;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    (n, shifted.to_bits(), r)
}

/// ln 2 in two parts for f32. The first has 16 bits: exact in a product with an integer below 2^8.
pub(super) const F32_LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

/// The same for f32: `n` in the low bits, and `r`, for |n| below 2^8.
#[inline(always)]
fn reduce_f32(x: f32) -> (u32, f32) {
    let shifted = x * (LOG2_E as f32) + MAGIC_32;
    let n = shifted - MAGIC_32;
    let r = (x - n * F32_LN_2[0]) - n * F32_LN_2[1];
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

pub(super) use exact_difference;

/// `e^r = 1 + r + r² p(r)` for `|r| <= 0.3466`, with the polynomial `p` of degree 4 that is best over
/// this interval, highest power first; the relative error is 3e-9, a twentieth of an f32 step.
pub(super) const F32_EXP: [f32; 5] = [
    0.001_381_460_2,
    0.008_368_716,
    0.041_668_39,
    0.166_665_21,
    0.499_999_94,
];

/// `e^x` is 0 below it: its power of two would not be a normal number.
pub(super) const F32_LOWEST: f32 = -87.0;

#[inline(always)]
fn exp_series_f32(r: f32) -> f32 {
    let mut p = F32_EXP[0];
    for &c in &F32_EXP[1..] {
        p = p * r + c;
    }
    (p * r) * r + r + 1.0
}

/// The same from the Taylor series, 1/k! from k = 13 down to k = 2. Cut after r^13 the relative error
/// is 4e-18.
#[inline(always)]
pub(super) fn exp_series_f64(r: f64) -> f64 {
    const FACTORIALS: [f64; 11] = [
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
        2.0,
    ];
    let mut p = 1.0 / 6_227_020_800.0;
    for factorial in FACTORIALS {
        p = p * r + 1.0 / factorial;
    }
    (p * r) * r + r + 1.0
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const EPSILON: f64 = f32::EPSILON as f64;

    #[inline(always)]
    fn exp_ratio(x: f32, reference: f32) -> f32 {
        let (difference, lost) = exact_difference!(x, reference);
        let (bits, r) = reduce_f32(difference);
        let scale = f32::from_bits(bits.wrapping_add(127) << 23);
        exp_series_f32(r + lost) * scale
    }

    #[inline(always)]
    fn exp_negative(x: f32) -> f32 {
        let (bits, r) = reduce_f32(x);
        let scale = f32::from_bits(bits.wrapping_add(127) << 23);
        if x < F32_LOWEST {
            0.0
        } else {
            exp_series_f32(r) * scale
        }
    }

    fn log_sum_exp(row: &[f32]) -> (f32, f64) {
        log_sum_exp_f32(row)
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
    const ZERO: Self = 0.0;
    const EPSILON: f64 = f64::EPSILON;

    #[inline(always)]
    fn exp_ratio(x: f64, reference: f64) -> f64 {
        let (difference, lost) = exact_difference!(x, reference);
        let (_, bits, r) = reduce_f64(difference);
        let scale = f64::from_bits(bits.wrapping_add(1023) << 52);
        exp_series_f64(r + lost) * scale
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

    fn log_sum_exp(row: &[f64]) -> (f64, f64) {
        log_sum_exp_f64(row)
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
    fn exp_ratio_is_exact_to_a_step() {
        for i in 0..8_000 {
            let (x, reference) = (-7.3 - 0.0107 * i as f32, -7.3 + 0.0001 * i as f32);
            let truth = (f64::from(x) - f64::from(reference)).exp();
            let y = <f32 as Real>::exp_ratio(x, reference);
            // 6e-8 for the rounding of the result and as much for that of r.
            assert!(
                (f64::from(y) / truth - 1.0).abs() < 1.3e-7,
                "{x} {reference}"
            );
            let y = <f64 as Real>::exp_ratio(x.into(), reference.into());
            assert!((y / truth - 1.0).abs() < 4e-16, "{x} {reference}");
        }
        assert_eq!(<f32 as Real>::exp_ratio(-3.5, -3.5), 1.0);
        assert_eq!(<f64 as Real>::exp_ratio(8.25, 8.25), 1.0);
        // −87 is the lowest difference, and its power of two is a normal number.
        assert!((<f32 as Real>::exp_ratio(-87.0, 0.0).ln() + 87.0).abs() < 1e-5);
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
}
