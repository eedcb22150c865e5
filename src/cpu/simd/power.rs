//! Powers of two, a vector at a time.

use crate::cpu::simd::f64x8::SIDE;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::isa::known;
use crate::cpu::simd::real::MAGIC_64;
use pulp::Simd;

/// The exponent of zero.
pub(crate) const EMPTY_EXP: f64 = -1_125_899_906_842_624.0; // -2^50
/// Exponents at or below this represent zero.
pub(crate) const EMPTY_EXP_BELOW: f64 = EMPTY_EXP / 2.0;

/// `2^e` for integral `e`: 0 below the normal numbers, and at most 2^1023.
#[inline(always)]
pub(crate) fn pow2(e: f64) -> f64 {
    let e = if e > -1023.0 { e } else { -1023.0 };
    let e = if e < 1023.0 { e } else { 1023.0 };
    f64::from_bits((e + (MAGIC_64 + 1023.0)).to_bits() << 52)
}

/// The exponent of a positive normal number.
#[inline(always)]
pub(crate) fn exponent_of(x: f64) -> f64 {
    const TWO_52: u64 = 0x4330_0000_0000_0000; // the bits of 2^52
    f64::from_bits((x.to_bits() >> 52) | TWO_52) - (f64::from_bits(TWO_52) + 1023.0)
}

/// [`pow2`] of each lane.
#[inline(always)]
pub(crate) fn powers<S: Simd>(simd: S, e: S::f64s) -> S::f64s {
    let e = simd.max_f64s(e, simd.splat_f64s(-1023.0));
    let e = simd.min_f64s(e, simd.splat_f64s(1023.0));
    power_of_shifted(simd, simd.add_f64s(e, simd.splat_f64s(MAGIC_64 + 1023.0)))
}

/// [`times_power`] returns 0 for exponents below this, so that no result is subnormal, which is slow on most
/// processors.
pub(crate) const NEGLIGIBLE: f64 = -500.0;

/// `m · 2^d` for `d` up to 1000; 0 for `d` below [`NEGLIGIBLE`].
#[inline(always)]
pub(crate) fn times_power<S: Simd>(simd: S, m: S::f64s, d: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(product) = x86::scalef_above(simd, m, d, NEGLIGIBLE) {
        return product;
    }
    let counts = simd.greater_than_or_equal_f64s(d, simd.splat_f64s(NEGLIGIBLE));
    let d = simd.select_f64s(counts, d, simd.splat_f64s(-1023.0));
    let power = power_of_shifted(simd, simd.add_f64s(d, simd.splat_f64s(MAGIC_64 + 1023.0)));
    simd.mul_f64s(m, power)
}

/// `x · 2^d` for any `d`, if the result is below 2^1023. (The power alone may be out of range.)
#[inline(always)]
pub(crate) fn shifted<S: Simd>(simd: S, x: S::f64s, d: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(product) = x86::scalef(simd, x, d) {
        return product;
    }
    let half = simd.max_f64s(d, simd.splat_f64s(-1022.0));
    let half = simd.min_f64s(half, simd.splat_f64s(1022.0));
    let rest = simd.sub_f64s(d, half);
    simd.mul_f64s(simd.mul_f64s(x, powers(simd, half)), powers(simd, rest))
}

/// The exponent of each number; for 0, that of zero. (For subnormal numbers it may be too low.)
#[inline(always)]
pub(crate) fn exponents<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(exponents) = x86::getexp(simd, x) {
        return simd.max_f64s(exponents, simd.splat_f64s(EMPTY_EXP));
    }
    let _ = simd;
    let mut lanes = [0.0; SIDE];
    S::as_mut_simd_f64s(&mut lanes).0[0] = x;
    for x in &mut lanes[..S::F64_LANES] {
        *x = if *x > 0.0 { exponent_of(*x) } else { EMPTY_EXP };
    }
    S::as_simd_f64s(&lanes).0[0]
}

/// From `e + 1023 + MAGIC` to `2^e`.
#[inline(always)]
fn power_of_shifted<S: Simd>(simd: S, e: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(power) = x86::shifted_left(simd, e) {
        return power;
    }
    let _ = simd;
    let mut lanes = [0.0; SIDE];
    S::as_mut_simd_f64s(&mut lanes).0[0] = e;
    for e in &mut lanes[..S::F64_LANES] {
        *e = f64::from_bits(e.to_bits() << 52);
    }
    S::as_simd_f64s(&lanes).0[0]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::known;
    use pulp::Simd;
    use pulp::x86::{V3, V4};
    use std::arch::x86_64::{__m256d, __m512d, _CMP_GE_OQ};
    use std::mem::transmute_copy;

    #[inline(always)]
    pub fn scalef<S: Simd>(simd: S, m: S::f64s, d: S::f64s) -> Option<S::f64s> {
        let simd = known::<S, V4>(simd)?.avx512f;
        // SAFETY: S is V4, whose vectors are eight f64.
        Some(unsafe {
            let (m, d) = (transmute_copy::<_, __m512d>(&m), transmute_copy(&d));
            transmute_copy(&simd._mm512_scalef_pd(m, d))
        })
    }

    /// `m · 2^d`, or 0 where `d` is below `least`.
    #[inline(always)]
    pub fn scalef_above<S: Simd>(simd: S, m: S::f64s, d: S::f64s, least: f64) -> Option<S::f64s> {
        let simd = known::<S, V4>(simd)?.avx512f;
        // SAFETY: S is V4, whose vectors are eight f64.
        Some(unsafe {
            let (m, d) = (transmute_copy::<_, __m512d>(&m), transmute_copy(&d));
            let counts = simd._mm512_cmp_pd_mask::<_CMP_GE_OQ>(d, simd._mm512_set1_pd(least));
            transmute_copy(&simd._mm512_maskz_scalef_pd(counts, m, d))
        })
    }

    #[inline(always)]
    pub fn getexp<S: Simd>(simd: S, x: S::f64s) -> Option<S::f64s> {
        let simd = known::<S, V4>(simd)?.avx512f;
        // SAFETY: S is V4, whose vectors are eight f64.
        Some(unsafe { transmute_copy(&simd._mm512_getexp_pd(transmute_copy::<_, __m512d>(&x))) })
    }

    /// The bits of each number shifted left by 52, into the exponent field.
    #[inline(always)]
    pub fn shifted_left<S: Simd>(simd: S, x: S::f64s) -> Option<S::f64s> {
        if let Some(simd) = known::<S, V4>(simd) {
            let simd = simd.avx512f;
            // SAFETY: S is V4, whose vectors are eight f64.
            return Some(unsafe {
                let bits = simd._mm512_castpd_si512(transmute_copy::<_, __m512d>(&x));
                let bits = simd._mm512_slli_epi64::<52>(bits);
                transmute_copy(&simd._mm512_castsi512_pd(bits))
            });
        }
        let simd = known::<S, V3>(simd)?;
        // SAFETY: S is V3, whose vectors are four f64.
        Some(unsafe {
            let bits = simd
                .avx
                ._mm256_castpd_si256(transmute_copy::<_, __m256d>(&x));
            let bits = simd.avx2._mm256_slli_epi64::<52>(bits);
            transmute_copy(&simd.avx._mm256_castsi256_pd(bits))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::isa::{dispatch_simd, tests::on_each};
    use pulp::WithSimd;

    /// Results of powers, products, exponents of numbers and exponents.
    struct All([f64; SIDE], [f64; SIDE]);

    impl WithSimd for All {
        type Output = [[f64; SIDE]; 4];

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut to = [[0.0; SIDE]; 4];
            let (x, d) = (S::as_simd_f64s(&self.0).0, S::as_simd_f64s(&self.1).0);
            for v in 0..SIDE / S::F64_LANES {
                let results = [
                    powers(simd, d[v]),
                    times_power(simd, x[v], d[v]),
                    shifted(simd, x[v], d[v]),
                    exponents(simd, x[v]),
                ];
                for (to, result) in to.iter_mut().zip(results) {
                    S::as_mut_simd_f64s(to).0[v] = result;
                }
            }
            to
        }
    }

    #[test]
    fn powers_are_exact_and_vanish_far_below() {
        on_each(|isa| {
            for e in -1022..=1000 {
                let d = f64::from(e);
                let [powers, times, all, _] = dispatch_simd(All([1.75; SIDE], [d; SIDE]));
                let power = 2f64.powi(e);
                assert_eq!(power.log2(), d);
                assert_eq!((powers[3], pow2(d)), (power, power), "{isa:?} {e}");
                let counts = if d < NEGLIGIBLE { 0.0 } else { 1.75 * power };
                assert_eq!((times[5], all[7]), (counts, 1.75 * power), "{isa:?} {e}");
                let [.., exponents] = dispatch_simd(All([1.75 * power; SIDE], [d; SIDE]));
                assert_eq!(
                    (exponents[0], exponent_of(1.75 * power)),
                    (d, d),
                    "{isa:?} {e}"
                );
            }
            for (x, d, want) in [
                (1.5, -3000.0, 0.0),
                (1.5, EMPTY_EXP, 0.0),
                (2f64.powi(-1000), 2000.0, 2f64.powi(1000)),
                (2f64.powi(1000), -2000.0, 2f64.powi(-1000)),
                (2f64.powi(1000), -3000.0, 0.0),
                (0.0, 2000.0, 0.0),
            ] {
                let [.., all, _] = dispatch_simd(All([x; SIDE], [d; SIDE]));
                assert_eq!(all, [want; SIDE], "{isa:?} {x} {d}");
            }
            let [powers, .., exponents] = dispatch_simd(All([0.0; SIDE], [5000.0; SIDE]));
            assert_eq!((powers[0], exponents[0]), (2f64.powi(1023), EMPTY_EXP));
            assert_eq!((pow2(-1023.0), pow2(2.0 * EMPTY_EXP)), (0.0, 0.0));
        });
    }
}
