//! Emissions in f64, from entries that are too far apart for emissions in their own type: as plain numbers, or as
//! mantissas and exponents. Both are the same numbers.

use super::super::lanes::larger;
use super::super::real::{FACTORIALS, LN_2_PARTS, MAGIC_64};
use super::power::powers;
use super::range::NOWHERE;
use super::*;

/// An entry further (in nats) below the largest of its frame counts as −inf: 2^31 · ln 2.
const FAR_BELOW: f64 = 1.4885e9;

/// The least exponent of an emission that is a plain number. Its mantissa may be below 1.
const LEAST: f64 = -1021.0;

/// The exponent of an emission that is not there.
const NONE: f64 = i32::MIN as f64;

/// What `run` holds as emissions `e^(x − largest)`. Those below 2^[`LEAST`] become 0; the depth says which are.
pub(in super::super) fn raw_emissions<R: Real>(run: &[[R; RUN]], to: &mut [[f64; RUN]]) -> Depth {
    dispatch_simd(RawEmissions { run, to })
}

struct RawEmissions<'a, R> {
    run: &'a [[R; RUN]],
    to: &'a mut [[f64; RUN]],
}

impl<R: Real> WithSimd for RawEmissions<'_, R> {
    type Output = Depth;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Depth {
        let (zero, none) = (simd.splat_f64s(0.0), simd.splat_f64s(NONE));
        let tops = load(simd, &largest(self.run));
        let mut faintest = [zero; PAIRS];
        let (mut cut, mut masked) = ([none; PAIRS], [none; PAIRS]);
        for (entry, to) in self.run.iter().zip(self.to) {
            let entry = load(simd, &widened(entry));
            let (to, _) = S::as_mut_simd_f64s(to);
            for v in 0..vectors::<S>() {
                let (m, e) = exp_split::<S, R>(simd, entry[v], tops[v]);
                let fits = simd.greater_than_or_equal_f64s(e, simd.splat_f64s(LEAST));
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

/// The emissions of `run` as mantissas (about 0.7 to 1.4) and exponents; that of a zero is [`NOWHERE`].
#[inline(always)]
pub(super) fn split<S: Simd, R: Real>(simd: S, run: &[[R; RUN]], m: &mut [Pairs], e: &mut [Pairs]) {
    let tops = load(simd, &largest(run));
    for ((entry, m), e) in run.iter().zip(m).zip(e) {
        let entry = load(simd, &widened(entry));
        let (m, _) = S::as_mut_simd_f64s(&mut m.0);
        let (e, _) = S::as_mut_simd_f64s(&mut e.0);
        for v in 0..vectors::<S>() {
            (m[v], e[v]) = exp_split::<S, R>(simd, entry[v], tops[v]);
        }
    }
}

#[inline(always)]
fn widened<R: Real>(entry: &[R; RUN]) -> Pairs {
    let mut to = ZEROS;
    for k in 0..RUN {
        to.0[k] = entry[k].widen();
    }
    to
}

/// The largest entry of each frame, or 0 where all are −inf.
#[inline(always)]
fn largest<R: Real>(run: &[[R; RUN]]) -> Pairs {
    let mut tops = [R::narrow(f64::NEG_INFINITY); RUN];
    for entry in run {
        for k in 0..RUN {
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

/// `e^(x − reference)` as mantissa and exponent; 1 and [`NOWHERE`] where it counts as 0. Of numbers in f32 it is exact to
/// 1e-11, else to a step of the mantissa.
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
        // What the rounding of the difference lost (Knuth's two-sum).
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
    (m, simd.select_f64s(there, n, simd.splat_f64s(NOWHERE)))
}

#[cfg(test)]
mod tests {
    use super::super::super::isa::tests::on_each;
    use super::*;
    use std::f64::consts::LOG2_E;

    /// The mantissa, exponent and plain emission of `e^(x − reference)`.
    fn emission(x: f64, reference: f64) -> (f64, f64, f64, Depth) {
        struct Split<'a>(&'a [[f64; RUN]], [Pairs; 2], [Pairs; 2]);
        impl WithSimd for Split<'_> {
            type Output = (f64, f64);

            fn with_simd<S: Simd>(mut self, simd: S) -> (f64, f64) {
                split(simd, self.0, &mut self.1, &mut self.2);
                (self.1[1].0[3], self.2[1].0[3])
            }
        }
        let run = [[reference; RUN], [x; RUN]];
        let mut plain = [[0.0; RUN]; 2];
        let depth = raw_emissions(&run, &mut plain);
        assert_eq!(plain[0], [1.0; RUN]);
        let (m, e) = dispatch_simd(Split(&run, [ZEROS; 2], [ZEROS; 2]));
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
                if e >= LEAST {
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
                assert_eq!((m, e, plain), (1.0, NOWHERE, 0.0));
                assert!(depth.masked && depth.cut.is_none());
            }
        });
    }
}
