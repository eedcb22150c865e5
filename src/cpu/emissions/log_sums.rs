//! `ln Σ_t e^(a[t] + x[t][c])` for many `a` and a chunk of classes `c` at once.

use crate::cpu::simd::isa::dispatch;
use crate::cpu::simd::lanes::LANES;
use crate::cpu::simd::real::exp_negative_f64;

/// A term this many nats below the largest adds less than one part in 10^21 to a sum.
const NEGLIGIBLE: f64 = -50.0;

/// The logarithms of the sums, `(a.len(), width)` row-major. `read(t, row)` writes the `width` entries of frame `t`. No
/// value may be NaN or +inf.
///
/// Two passes over the frames: the first finds the largest term of each sum, the second adds the terms relative to it.
/// Chunks of negligible terms are skipped; with peaky emissions, that is most of them.
pub(crate) fn log_sums(
    a: &[&[f64]],
    frames: usize,
    width: usize,
    read: impl Fn(usize, &mut [f64]),
) -> Vec<f64> {
    let padded = width.next_multiple_of(LANES);
    let mut row = vec![f64::NEG_INFINITY; padded];
    let mut largest = vec![f64::NEG_INFINITY; a.len() * padded];
    let mut sums = vec![0.0; a.len() * padded];
    for t in 0..frames {
        read(t, &mut row[..width]);
        for (a, largest) in a.iter().zip(largest.chunks_exact_mut(padded)) {
            if a[t] > f64::NEG_INFINITY {
                raise(a[t], &row, largest);
            }
        }
    }
    // For a sum without terms, any finite reference will do.
    for largest in &mut largest {
        if *largest == f64::NEG_INFINITY {
            *largest = 0.0;
        }
    }
    for t in 0..frames {
        read(t, &mut row[..width]);
        let of_states = largest
            .chunks_exact(padded)
            .zip(sums.chunks_exact_mut(padded));
        for (a, (largest, sums)) in a.iter().zip(of_states) {
            if a[t] > f64::NEG_INFINITY {
                add(a[t], &row, largest, sums);
            }
        }
    }
    let mut result = Vec::with_capacity(a.len() * width);
    for (largest, sums) in largest.chunks_exact(padded).zip(sums.chunks_exact(padded)) {
        let logs = largest
            .iter()
            .zip(sums)
            .map(|(largest, sum)| largest + sum.ln());
        result.extend(logs.take(width));
    }
    result
}

fn raise(a: f64, row: &[f64], largest: &mut [f64]) {
    dispatch(
        #[inline(always)]
        || {
            for (&x, largest) in row.iter().zip(largest) {
                let term = a + x;
                *largest = if term > *largest { term } else { *largest };
            }
        },
    )
}

fn add(a: f64, row: &[f64], largest: &[f64], sums: &mut [f64]) {
    dispatch(
        #[inline(always)]
        || {
            let (rows, _) = row.as_chunks::<LANES>();
            let (largest, _) = largest.as_chunks::<LANES>();
            let (sums, _) = sums.as_chunks_mut::<LANES>();
            for ((row, largest), sums) in rows.iter().zip(largest).zip(sums) {
                let mut terms = [0.0; LANES];
                let mut nearest = f64::NEG_INFINITY;
                for k in 0..LANES {
                    terms[k] = a + row[k] - largest[k];
                    nearest = if terms[k] > nearest {
                        terms[k]
                    } else {
                        nearest
                    };
                }
                if nearest > NEGLIGIBLE {
                    for k in 0..LANES {
                        sums[k] += exp_negative_f64(terms[k]);
                    }
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_the_definition() {
        let (frames, width) = (7, 19);
        let x = |t: usize, c: usize| match (t * 5 + c * 3) % 11 {
            0 => f64::NEG_INFINITY,
            k => -(k as f64) * 40.0 - c as f64,
        };
        let none = vec![f64::NEG_INFINITY; frames];
        let some: Vec<f64> = (0..frames).map(|t| -(t as f64) * 3.0 - 900.0).collect();
        let got = log_sums(&[&some, &none], frames, width, |t, row| {
            for (c, row) in row.iter_mut().enumerate() {
                *row = x(t, c);
            }
        });
        for c in 0..width {
            let terms = (0..frames).map(|t| some[t] + x(t, c));
            let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
            let want = largest + terms.map(|term| (term - largest).exp()).sum::<f64>().ln();
            assert!((got[c] - want).abs() < 1e-12 * want.abs(), "{c}");
            assert_eq!(got[width + c], f64::NEG_INFINITY);
        }
    }
}
