//! Consecutive vectors as one long row of numbers, moved by one lane.

use pulp::Simd;

/// `piece` moved up by one lane, filled with the last lane of `before`.
#[inline(always)]
pub(crate) fn up<S: Simd>(simd: S, before: S::f64s, piece: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(moved) = x86::moved::<S, true>(simd, before, piece) {
        return moved;
    }
    let lowest = simd.mask_between_m64s(0, 1).mask();
    let (before, piece) = (
        simd.rotate_right_f64s(before, 1),
        simd.rotate_right_f64s(piece, 1),
    );
    simd.select_f64s(lowest, before, piece)
}

/// `piece` moved down by one lane, filled with the first lane of `after`.
#[inline(always)]
pub(crate) fn down<S: Simd>(simd: S, piece: S::f64s, after: S::f64s) -> S::f64s {
    #[cfg(target_arch = "x86_64")]
    if let Some(moved) = x86::moved::<S, false>(simd, piece, after) {
        return moved;
    }
    let lanes = S::F64_LANES as u64;
    let highest = simd.mask_between_m64s(lanes - 1, lanes).mask();
    let (piece, after) = (
        simd.rotate_left_f64s(piece, 1),
        simd.rotate_left_f64s(after, 1),
    );
    simd.select_f64s(highest, after, piece)
}

/// With instructions that select from two vectors.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::cpu::simd::isa::known;
    use pulp::Simd;
    use pulp::x86::{V3, V4};
    use std::arch::x86_64::{__m256d, __m512d};
    use std::mem::transmute_copy;

    /// Of two neighbouring vectors, `high` moved up by one lane, or `low` moved down.
    #[inline(always)]
    pub fn moved<S: Simd, const UP: bool>(simd: S, low: S::f64s, high: S::f64s) -> Option<S::f64s> {
        if let Some(simd) = known::<S, V4>(simd) {
            let simd = simd.avx512f;
            // SAFETY: S is V4, whose vectors are eight f64.
            unsafe {
                let low = simd._mm512_castpd_si512(transmute_copy::<_, __m512d>(&low));
                let high = simd._mm512_castpd_si512(transmute_copy::<_, __m512d>(&high));
                let moved = if UP {
                    simd._mm512_alignr_epi64::<7>(high, low)
                } else {
                    simd._mm512_alignr_epi64::<1>(high, low)
                };
                return Some(transmute_copy(&moved));
            }
        }
        if let Some(simd) = known::<S, V3>(simd) {
            let simd = simd.avx;
            // SAFETY: S is V3, whose vectors are four f64.
            unsafe {
                let low: __m256d = transmute_copy(&low);
                let high: __m256d = transmute_copy(&high);
                let between = simd._mm256_permute2f128_pd::<0x21>(low, high);
                let moved = if UP {
                    simd._mm256_shuffle_pd::<0b0101>(between, high)
                } else {
                    simd._mm256_shuffle_pd::<0b0101>(low, between)
                };
                return Some(transmute_copy(&moved));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::isa::{dispatch_simd, tests::on_each};
    use pulp::WithSimd;

    /// Eight numbers between two other groups, moved up and down.
    struct Moved;

    impl WithSimd for Moved {
        type Output = [[f64; 8]; 2];

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let row: [f64; 24] = std::array::from_fn(|i| i as f64);
            let lanes = S::F64_LANES;
            let (pieces, _) = S::as_simd_f64s(&row);
            let mut moved = [[0.0; 8]; 2];
            for v in 0..8 / lanes {
                let at = 8 / lanes + v;
                let [low, high] = &mut moved;
                S::as_mut_simd_f64s(low).0[v] = up(simd, pieces[at - 1], pieces[at]);
                S::as_mut_simd_f64s(high).0[v] = down(simd, pieces[at], pieces[at + 1]);
            }
            moved
        }
    }

    #[test]
    fn rows_move_by_one_lane() {
        let from = |first: usize| std::array::from_fn(|i| (first + i) as f64);
        on_each(|isa| assert_eq!(dispatch_simd(Moved), [from(7), from(9)], "{isa:?}"));
    }
}
