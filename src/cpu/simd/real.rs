//! The number types of a lattice's input and output, and their exponential.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::isa::known;
use crate::cpu::simd::isa::{fuses, mul_add_f32};
use crate::cpu::simd::lanes::{LANES, Lanes, fold_lanes, larger};
use crate::cpu::time::BLOCK_FRAMES;
use bytemuck::Zeroable;
use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Simd, cast};
use std::f32::consts::LN_2;
use std::mem::MaybeUninit;

/// The type of entries, posteriors and gradients.
pub(crate) trait Real: WithDType + Default + Zeroable {
    const ZERO: Self;
    const ONE: Self;
    /// The distance from 1 to the next larger number.
    const EPSILON: f64;

    /// Replaces `x` by `e^(x − reference)`, correct to one rounding of the result, for differences from −87 to 0. Where
    /// a difference is lower or NaN, `fit` becomes 0. With `NOT_ABOVE_ZERO` no reference is above 0, which makes the
    /// same result cheaper.
    fn exp_ratio<S: Simd, const NOT_ABOVE_ZERO: bool>(
        simd: S,
        x: &mut Lanes<Self>,
        reference: &Lanes<Self>,
        fit: &mut Lanes<Self>,
    );

    /// `e^(x − maximum)` for differences of at most 0; 0 if it would be subnormal.
    fn exp_below<S: Simd>(simd: S, x: &Lanes<Self>, maximum: Self) -> Lanes<Self>;

    /// The largest number; none is NaN.
    fn largest<S: Simd>(simd: S, x: &Lanes<Self>) -> Self;

    /// The sum of the lanes, pairwise in a fixed order.
    fn sum<S: Simd>(simd: S, x: &Lanes<Self>) -> f64;

    /// Rounds eight posteriors, with one instruction where available: after shuffles, the compiler turns a plain loop
    /// into more shuffles. Results below the normal numbers of f32 become 0, since most processors are slow with
    /// subnormal numbers, here and wherever the gradient goes: they took 7 % of a step.
    fn narrow_posteriors<S: Simd>(simd: S, from: &[f64; BLOCK_FRAMES]) -> [Self; BLOCK_FRAMES];

    /// The rows themselves, if they are f32.
    #[cfg(target_arch = "x86_64")]
    fn as_f32_rows<'a>(
        rows: &'a [&'a [Self; BLOCK_FRAMES]; BLOCK_FRAMES],
    ) -> Option<&'a [&'a [f32; BLOCK_FRAMES]; BLOCK_FRAMES]>;

    fn widen(self) -> f64;
    fn narrow(x: f64) -> Self;

    /// Whether a loss is +inf in this type, including by overflow.
    fn is_infinite_loss(loss: f64) -> bool {
        Self::narrow(loss).widen() == f64::INFINITY
    }

    /// Whether the number is NaN or +inf, which are invalid as entries of the input.
    #[inline(always)]
    fn is_poison(self) -> bool {
        let x = self.widen();
        x.is_nan() | (x == f64::INFINITY)
    }
}

// 2^52 · 1.5: adding it to an f64 rounds to an integer, which ends up in the low bits.
pub(crate) const MAGIC_64: f64 = 6_755_399_441_055_744.0;
const MAGIC_32: f32 = 12_582_912.0;
const LOG2_E: f64 = std::f64::consts::LOG2_E;
// ln 2 in two parts; the high one has 32 bits, so that its product with an integer below 2^21 is exact (Cody and
// Waite).
const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
pub(crate) const LN_2_PARTS: [f64; 2] = [LN_2_HIGH, LN_2_LOW];

/// `x = n · ln 2 + r` with `|r| <= ln 2 / 2`: `n`, the bits that end in `n`, and `r`.
#[inline(always)]
fn reduce_f64(x: f64) -> (f64, u64, f64) {
    let shifted = x * LOG2_E + MAGIC_64;
    let n = shifted - MAGIC_64;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    (n, shifted.to_bits(), r)
}

/// `a − b` rounded, and the rounding error (Knuth's two-sum).
macro_rules! exact_difference {
    ($a:expr, $b:expr) => {{
        let difference = $a - $b;
        let minus_b = difference - $a;
        let lost = ($a - (difference - minus_b)) - ($b + minus_b);
        (difference, lost)
    }};
}

/// Lower bound of an emission relative to the largest of its frame, as a logarithm: such emissions are normal numbers
/// in any type.
const LOWEST: f32 = -87.0;

/// Here the power of two in `e^x` is 2^-127, which becomes 0 when only its exponent bits are written.
const ZERO_AT: f32 = -88.0;

/// `e^(x + lost)` for `x` from [`ZERO_AT`] to 0 and a small `lost`. Without `EXACT`, the result may have an additional
/// relative error of 3e-9 `|x|`, far less than the effect of rounding `x`, and `lost` must be 0. NaN for NaN.
#[inline(always)]
fn exp_f32<S: Simd, const EXACT: bool>(simd: S, x: S::f32s, lost: S::f32s) -> S::f32s {
    // ln 2 in two parts. With fused multiply-add, the first is the nearest f32; otherwise it has 16 bits, so that its
    // product with an integer below 2^8 is exact.
    let [high, low] = if fuses::<S>() {
        [LN_2, -1.904_654_3e-9]
    } else {
        [0.693_145_75, 1.428_606_8e-6]
    };
    // e^r = 1 + r + r² p(r) for |r| <= 0.3466, with the best polynomial p of degree 4 on this interval, highest power
    // first; the relative error is 3e-9, a twentieth of an f32 ulp.
    const SERIES: [f32; 5] = [
        0.001_381_460_2,
        0.008_368_716,
        0.041_668_39,
        0.166_665_21,
        0.499_999_94,
    ];
    // x = n · ln 2 + r. The low bits of `shifted` hold n + 127, the exponent bits of 2^n.
    let magic = simd.splat_f32s(MAGIC_32 + 127.0);
    let shifted = mul_add_f32(simd, x, simd.splat_f32s(LOG2_E as f32), magic);
    let scale = cast(simd.wrapping_dyn_shl_u32s(cast(shifted), simd.splat_u32s(23)));
    let n = simd.sub_f32s(shifted, magic);
    let mut r = mul_add_f32(simd, n, simd.splat_f32s(-high), x);
    if EXACT || !fuses::<S>() {
        r = simd.add_f32s(r, mul_add_f32(simd, n, simd.splat_f32s(-low), lost));
    }
    // Two powers at a time, to shorten the chain of dependent operations.
    let two = simd.mul_f32s(r, r);
    let [c4, c3, c2, c1, c0] = SERIES.map(|c| simd.splat_f32s(c));
    let upper = mul_add_f32(simd, c4, two, mul_add_f32(simd, c3, r, c2));
    let p = mul_add_f32(simd, upper, two, mul_add_f32(simd, c1, r, c0));
    mul_add_f32(simd, mul_add_f32(simd, p, two, r), scale, scale)
}

/// `k!` from k = 13 down to k = 2, for the Taylor series of `e^r`, `|r| <= ln 2 / 2`. Truncated after r^13, its
/// relative error is 4e-18.
pub(crate) const FACTORIALS: [f64; 12] = [
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
    2.0,
];

#[inline(always)]
fn exp_series_f64(r: f64) -> f64 {
    let mut p = 1.0 / FACTORIALS[0];
    for factorial in &FACTORIALS[1..] {
        p = p * r + 1.0 / factorial;
    }
    (p * r) * r + r + 1.0
}

/// `e^x` for `x <= 0`; 0 if it would be subnormal.
#[inline(always)]
pub(crate) fn exp_negative_f64(x: f64) -> f64 {
    let (_, bits, r) = reduce_f64(x);
    let scale = f64::from_bits(bits.wrapping_add(1023) << 52);
    if x < -708.0 {
        0.0
    } else {
        exp_series_f64(r) * scale
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const EPSILON: f64 = f32::EPSILON as f64;

    #[inline(always)]
    fn exp_ratio<S: Simd, const NOT_ABOVE_ZERO: bool>(
        simd: S,
        x: &mut Lanes<f32>,
        reference: &Lanes<f32>,
        fit: &mut Lanes<f32>,
    ) {
        let (x, _) = S::as_mut_simd_f32s(x);
        let (reference, _) = S::as_simd_f32s(reference);
        let (fit, _) = S::as_mut_simd_f32s(fit);
        let (lowest, zero) = (simd.splat_f32s(LOWEST), simd.splat_f32s(0.0));
        for v in 0..LANES / S::F32_LANES {
            // The difference and its rounding error: Dekker's two-sum if `x` has the larger magnitude, otherwise
            // Knuth's.
            let difference = simd.sub_f32s(x[v], reference[v]);
            let lost = if NOT_ABOVE_ZERO {
                simd.sub_f32s(simd.sub_f32s(x[v], difference), reference[v])
            } else {
                let minus_reference = simd.sub_f32s(difference, x[v]);
                simd.sub_f32s(
                    simd.sub_f32s(x[v], simd.sub_f32s(difference, minus_reference)),
                    simd.add_f32s(reference[v], minus_reference),
                )
            };
            let fits = simd.greater_than_or_equal_f32s(difference, lowest);
            fit[v] = simd.select_f32s(fits, fit[v], zero);
            x[v] = exp_f32::<S, true>(simd, difference, lost);
        }
    }

    #[inline(always)]
    fn exp_below<S: Simd>(simd: S, x: &Lanes<f32>, maximum: f32) -> Lanes<f32> {
        let mut to = [0.0; LANES];
        for k in 0..LANES {
            let x = x[k] - maximum;
            // False for NaN, which passes through.
            to[k] = if x < ZERO_AT { ZERO_AT } else { x };
        }
        let (y, _) = S::as_mut_simd_f32s(&mut to);
        for v in 0..LANES / S::F32_LANES {
            y[v] = exp_f32::<S, false>(simd, y[v], simd.splat_f32s(0.0));
        }
        to
    }

    #[inline(always)]
    fn largest<S: Simd>(simd: S, x: &Lanes<f32>) -> f32 {
        let (x, _) = S::as_simd_f32s(x);
        let mut top = x[0];
        for v in 1..LANES / S::F32_LANES {
            top = simd.max_f32s(top, x[v]);
        }
        simd.reduce_max_f32s(top)
    }

    #[inline(always)]
    fn sum<S: Simd>(simd: S, x: &Lanes<f32>) -> f64 {
        let mut wide = [0.0; LANES];
        for k in 0..LANES {
            wide[k] = f64::from(x[k]);
        }
        f64::sum(simd, &wide)
    }

    #[inline(always)]
    fn narrow_posteriors<S: Simd>(simd: S, from: &[f64; BLOCK_FRAMES]) -> [f32; BLOCK_FRAMES] {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = simd;
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = known::<S, pulp::x86::V4>(simd) {
            use std::{
                arch::x86_64::{__m256, __m512d, _CMP_NLT_UQ},
                mem::transmute,
            };
            // SAFETY: the first two are eight f64, the others eight f32.
            return unsafe {
                let from = transmute::<[f64; BLOCK_FRAMES], __m512d>(*from);
                let least = simd.avx512f._mm512_set1_pd(f32::MIN_POSITIVE.into());
                let normal = simd.avx512f._mm512_cmp_pd_mask::<_CMP_NLT_UQ>(from, least);
                transmute::<__m256, [f32; BLOCK_FRAMES]>(
                    simd.avx512f._mm512_maskz_cvtpd_ps(normal, from),
                )
            };
        }
        let mut to = [0.0; BLOCK_FRAMES];
        for k in 0..BLOCK_FRAMES {
            let small = from[k] < f32::MIN_POSITIVE.into();
            to[k] = if small { 0.0 } else { from[k] } as f32;
        }
        to
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn as_f32_rows<'a>(
        rows: &'a [&'a [f32; BLOCK_FRAMES]; BLOCK_FRAMES],
    ) -> Option<&'a [&'a [f32; BLOCK_FRAMES]; BLOCK_FRAMES]> {
        Some(rows)
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

/// Lane by lane: f64 is for accuracy, and pulp has no 64-bit shifts.
impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const EPSILON: f64 = f64::EPSILON;

    #[inline(always)]
    fn exp_ratio<S: Simd, const NOT_ABOVE_ZERO: bool>(
        _: S,
        x: &mut Lanes<f64>,
        reference: &Lanes<f64>,
        fit: &mut Lanes<f64>,
    ) {
        for k in 0..LANES {
            let (difference, lost) = exact_difference!(x[k], reference[k]);
            let (_, bits, r) = reduce_f64(difference);
            let scale = f64::from_bits(bits.wrapping_add(1023) << 52);
            x[k] = exp_series_f64(r + lost) * scale;
            fit[k] = if difference >= f64::from(LOWEST) {
                fit[k]
            } else {
                0.0
            };
        }
    }

    #[inline(always)]
    fn exp_below<S: Simd>(_: S, x: &Lanes<f64>, maximum: f64) -> Lanes<f64> {
        let mut to = [0.0; LANES];
        for k in 0..LANES {
            to[k] = exp_negative_f64(x[k] - maximum);
        }
        to
    }

    #[inline(always)]
    fn largest<S: Simd>(_: S, x: &Lanes<f64>) -> f64 {
        fold_lanes(*x, larger)
    }

    #[inline(always)]
    fn sum<S: Simd>(simd: S, x: &Lanes<f64>) -> f64 {
        let mut x = *x;
        let (x, _) = S::as_mut_simd_f64s(&mut x);
        // Add the halves repeatedly, as `reduce_sum` does within a vector.
        let mut half = x.len() / 2;
        while half > 0 {
            for v in 0..half {
                x[v] = simd.add_f64s(x[v], x[v + half]);
            }
            half /= 2;
        }
        simd.reduce_sum_f64s(x[0])
    }

    #[inline(always)]
    fn narrow_posteriors<S: Simd>(_: S, from: &[f64; BLOCK_FRAMES]) -> [f64; BLOCK_FRAMES] {
        *from
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn as_f32_rows<'a>(
        _: &'a [&'a [f64; BLOCK_FRAMES]; BLOCK_FRAMES],
    ) -> Option<&'a [&'a [f32; BLOCK_FRAMES]; BLOCK_FRAMES]> {
        None
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

/// A dtype of the input, and its arithmetic type.
pub(crate) trait Element: WithDType + Default {
    type Real: Real;

    /// Converts `from` into `to`; both have the same length.
    fn widen_slice(from: &[Self], to: &mut [Self::Real]);

    /// Rounds `from` into `to`; both have the same length.
    fn narrow_slice(from: &[Self::Real], to: &mut [Self]);

    /// The slice itself, if no conversion is needed.
    fn as_real(slice: &[Self]) -> Option<&[Self::Real]>;

    /// The same for possibly uninitialised memory.
    fn as_real_uninit(memory: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self::Real>]>;
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
            fn as_real_uninit(
                memory: &mut [MaybeUninit<Self>],
            ) -> Option<&mut [MaybeUninit<Self::Real>]> {
                Some(memory)
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
            fn as_real_uninit(
                _: &mut [MaybeUninit<Self>],
            ) -> Option<&mut [MaybeUninit<Self::Real>]> {
                None
            }
        })*
    };
}

element!(real: f32, f64; half: f16, bf16);

#[cfg(test)]
mod tests {
    use super::*;

    use crate::cpu::simd::isa::{Isa, dispatch_simd, tests::on_each};
    use pulp::WithSimd;

    struct Narrow([f64; BLOCK_FRAMES]);

    impl WithSimd for Narrow {
        type Output = [f32; BLOCK_FRAMES];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> [f32; BLOCK_FRAMES] {
            f32::narrow_posteriors(simd, &self.0)
        }
    }

    #[test]
    fn posteriors_below_the_normal_numbers_are_zero() {
        let least = f64::from(f32::MIN_POSITIVE);
        on_each(|isa| {
            let [normal, below, far, zero, one, third, nan, large] = dispatch_simd(Narrow([
                least,
                0.999 * least,
                1e-300,
                0.0,
                1.0,
                1.0 / 3.0,
                f64::NAN,
                1e30,
            ]));
            assert_eq!(
                [normal, below, far, zero],
                [f32::MIN_POSITIVE, 0.0, 0.0, 0.0],
                "{isa:?}"
            );
            assert_eq!([one, third, large], [1.0, 1.0 / 3.0, 1e30], "{isa:?}");
            assert!(nan.is_nan(), "{isa:?}");
        });
    }

    /// `e^(x − reference)` by both functions, and whether it is in range.
    struct Exponentials<R>(Lanes<R>, R);

    impl<R: Real> WithSimd for Exponentials<R> {
        type Output = ([Lanes<R>; 2], bool);

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Exponentials(mut x, reference) = self;
            let mut fit = [R::ONE; LANES];
            let below = R::exp_below(simd, &x, reference);
            let (mut again, mut fit_again) = (x, fit);
            R::exp_ratio::<S, false>(simd, &mut x, &[reference; LANES], &mut fit);
            if reference.widen() <= 0.0 {
                R::exp_ratio::<S, true>(simd, &mut again, &[reference; LANES], &mut fit_again);
                let same = |(a, b): (&R, &R)| a.widen().to_bits() == b.widen().to_bits();
                assert!(fit != fit_again || x.iter().zip(&again).all(same));
                assert!(fit.iter().zip(&fit_again).all(same));
            }
            ([x, below], fit.iter().all(|fit| fit.widen() == 1.0))
        }
    }

    fn check<R: Real>(isa: Isa, step: f64) {
        for i in 0..1000 {
            let reference = R::narrow(-7.3 + 0.008 * i as f64);
            let x = std::array::from_fn(|k| {
                R::narrow(reference.widen() - 0.0054 * (16 * i + k) as f64)
            });
            let ([ratio, below], fits) = dispatch_simd(Exponentials(x, reference));
            assert!(fits, "{isa:?} {i}");
            for k in 0..LANES {
                let (difference, lost) = exact_difference!(x[k].widen(), reference.widen());
                let truth = difference.exp() * (1.0 + lost);
                let error = |y: R| (y.widen() / truth - 1.0).abs();
                // One ulp for the rounding of the result, and one for that of r.
                assert!(
                    error(ratio[k]) < step,
                    "{isa:?} {difference}: {}",
                    error(ratio[k])
                );
                // Here the difference itself is rounded.
                let rounded = step + 0.51 * R::EPSILON * difference.abs();
                assert!(
                    error(below[k]) < rounded,
                    "{isa:?} {difference}: {}",
                    error(below[k])
                );
            }
        }
    }

    #[test]
    fn exponentials_are_exact_to_a_step() {
        on_each(|isa| {
            check::<f32>(isa, 1.3e-7);
            check::<f64>(isa, 4e-16);
        });
    }

    fn edges<R: Real>(isa: Isa) {
        let of = |x: f64, reference: f64| {
            let x = [R::narrow(x); LANES];
            let ([ratio, below], fits) = dispatch_simd(Exponentials(x, R::narrow(reference)));
            (ratio[5].widen(), below[5].widen(), fits)
        };
        let (infinite, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!(of(-3.5, -3.5), (1.0, 1.0, true), "{isa:?}");
        assert_eq!(of(8.25, 8.25), (1.0, 1.0, true), "{isa:?}");
        // −87 is the lowest valid difference, and its power of two is a normal number.
        let (ratio, below, fits) = of(-87.0, 0.0);
        assert!((ratio.ln() + 87.0).abs() < 1e-5 && fits, "{isa:?}");
        assert!((below.ln() + 87.0).abs() < 1e-5, "{isa:?}");
        assert!(!of(-87.5, 0.0).2, "{isa:?}");
        assert_eq!(of(-infinite, 0.0).1, 0.0, "{isa:?}");
        assert_eq!(of(-1e30, 0.0).1, 0.0, "{isa:?}");
        for (x, reference) in [(nan, 0.0), (-infinite, -infinite), (infinite, infinite)] {
            let (_, below, fits) = of(x, reference);
            assert!(!fits && below.is_nan(), "{isa:?} {x}");
        }
        assert!(!of(-infinite, 0.0).2, "{isa:?}");
    }

    #[test]
    fn exponentials_know_their_range() {
        on_each(|isa| {
            edges::<f32>(isa);
            edges::<f64>(isa);
        });
    }
}
