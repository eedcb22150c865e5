//! Transposition of 8 × 8 tiles.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

use crate::cpu::simd::f64x8::{SIDE, Tile8x8, ZEROS};
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::isa::known;
use crate::cpu::simd::real::Real;
use pulp::Simd;

/// Transposes a tile.
#[inline(always)]
pub(crate) fn transpose<S: Simd>(simd: S, from: &Tile8x8) -> Tile8x8 {
    // Two-vector shuffles take half the steps.
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = known(simd) {
            return x86::transpose_v4(simd, from);
        }
        if let Some(simd) = known(simd) {
            return x86::transpose_v3(simd, from);
        }
    }
    transpose_portable(simd, from)
}

/// [`transpose`] for eight rows of any type, converted to f64.
#[inline(always)]
pub(crate) fn transpose_widen<S: Simd, R: Real>(simd: S, rows: &[&[R; SIDE]; SIDE]) -> Tile8x8 {
    #[cfg(target_arch = "x86_64")]
    if let (Some(simd), Some(rows)) = (known(simd), R::as_f32_rows(rows)) {
        return x86::transpose_widen_v4(simd, rows);
    }
    let mut square = [ZEROS; SIDE];
    for i in 0..SIDE {
        for k in 0..SIDE {
            square[i].0[k] = rows[i][k].widen();
        }
    }
    transpose(simd, &square)
}

/// With rotations and selections, which every instruction set has.
#[inline(always)]
fn transpose_portable<S: Simd>(simd: S, from: &Tile8x8) -> Tile8x8 {
    let lanes = S::F64_LANES;
    let mut to = [ZEROS; SIDE];
    // Squares as wide as a vector, each moved to its place across the diagonal.
    for i in 0..SIDE / lanes {
        for j in 0..SIDE / lanes {
            let mut square = [simd.splat_f64s(0.0); SIDE];
            for k in 0..lanes {
                square[k] = S::as_simd_f64s(&from[i * lanes + k].0).0[j];
            }
            // Swap quarters across the diagonal, then the quarters within those.
            let mut step = lanes / 2;
            while step > 0 {
                let mut upper = [0; SIDE];
                for k in 0..SIDE {
                    upper[k] = u64::from(k & step != 0);
                }
                let upper = S::as_simd_u64s(&upper).0[0];
                let upper = simd.equal_u64s(upper, simd.splat_u64s(1));
                for k in 0..lanes {
                    if k & step == 0 {
                        let (a, b) = (square[k], square[k + step]);
                        let (a_turned, b_turned) = (
                            simd.rotate_left_f64s(a, step),
                            simd.rotate_right_f64s(b, step),
                        );
                        square[k] = simd.select_f64s(upper, b_turned, a);
                        square[k + step] = simd.select_f64s(upper, b, a_turned);
                    }
                }
                step /= 2;
            }
            for k in 0..lanes {
                S::as_mut_simd_f64s(&mut to[j * lanes + k].0).0[i] = square[k];
            }
        }
    }
    to
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::cpu::simd::f64x8::{SIDE, Tile8x8, ZEROS};
    use pulp::x86::{V3, V4};
    use std::arch::x86_64::{__m256, __m256d, __m512d, __m512i};
    use std::mem::transmute;

    // No closures here: a call that is not inlined loses its instruction set.
    #[inline(always)]
    pub fn transpose_v4(simd: V4, from: &Tile8x8) -> Tile8x8 {
        let simd = simd.avx512f;
        // SAFETY: both are sixty-four f64.
        let [a, b, c, d, e, f, g, h] = unsafe { transmute::<Tile8x8, [__m512d; SIDE]>(*from) };
        // For each pair of rows, the even and the odd columns.
        let even = [
            simd._mm512_unpacklo_pd(a, b),
            simd._mm512_unpacklo_pd(c, d),
            simd._mm512_unpacklo_pd(e, f),
            simd._mm512_unpacklo_pd(g, h),
        ];
        let odd = [
            simd._mm512_unpackhi_pd(a, b),
            simd._mm512_unpackhi_pd(c, d),
            simd._mm512_unpackhi_pd(e, f),
            simd._mm512_unpackhi_pd(g, h),
        ];
        let [a, c, e, g] = quarters(simd, even);
        let [b, d, f, h] = quarters(simd, odd);
        // SAFETY: as above.
        unsafe { transmute::<[__m512d; SIDE], Tile8x8>([a, b, c, d, e, f, g, h]) }
    }

    /// Transposes four rows of four quarters each.
    #[inline(always)]
    fn quarters(simd: pulp::core_arch::x86::Avx512f, [a, b, c, d]: [__m512d; 4]) -> [__m512d; 4] {
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        let even = [
            simd._mm512_shuffle_f64x2::<EVEN>(a, b),
            simd._mm512_shuffle_f64x2::<EVEN>(c, d),
        ];
        let odd = [
            simd._mm512_shuffle_f64x2::<ODD>(a, b),
            simd._mm512_shuffle_f64x2::<ODD>(c, d),
        ];
        [
            simd._mm512_shuffle_f64x2::<EVEN>(even[0], even[1]),
            simd._mm512_shuffle_f64x2::<EVEN>(odd[0], odd[1]),
            simd._mm512_shuffle_f64x2::<ODD>(even[0], even[1]),
            simd._mm512_shuffle_f64x2::<ODD>(odd[0], odd[1]),
        ]
    }

    /// Transposes in f32, where a vector holds two rows: a third of the steps.
    #[inline(always)]
    pub fn transpose_widen_v4(simd: V4, rows: &[&[f32; SIDE]; SIDE]) -> Tile8x8 {
        // Lane selections from two vectors. The first splits four rows into their first and last four columns; the
        // second combines four columns of these rows and of the other four rows into two columns and two more.
        const PICKS: [[[u32; 16]; 2]; 2] = {
            let mut picks = [[[0; 16]; 2]; 2];
            let mut i = 0;
            while i < 32 {
                let (of, i32) = (i / 16, i as u32 % 16);
                picks[0][of][i % 16] = i32 % 4 * 8 + i32 / 4 + 4 * of as u32;
                picks[1][of][i % 16] = i32 / 4 % 2 * 16 + (i32 / 8 + 2 * of as u32) * 4 + i32 % 4;
                i += 1;
            }
            picks
        };
        let (f, dq) = (simd.avx512f, simd.avx512dq);
        // SAFETY: all are vectors of 32 bits.
        let [columns, pairs] =
            unsafe { transmute::<[[[u32; 16]; 2]; 2], [[__m512i; 2]; 2]>(PICKS) };
        let mut two = [f._mm512_setzero_ps(); 4];
        for i in 0..4 {
            // SAFETY: both are eight f32.
            let [a, b] = unsafe {
                transmute::<[[f32; SIDE]; 2], [__m256; 2]>([*rows[2 * i], *rows[2 * i + 1]])
            };
            two[i] = dq._mm512_insertf32x8::<1>(f._mm512_castps256_ps512(a), b);
        }
        let mut to = [f._mm512_setzero_pd(); SIDE];
        for half in 0..2 {
            let upper = f._mm512_permutex2var_ps(two[0], columns[half], two[1]);
            let lower = f._mm512_permutex2var_ps(two[2], columns[half], two[3]);
            for pair in 0..2 {
                let both = f._mm512_permutex2var_ps(upper, pairs[pair], lower);
                let (first, second) = (
                    f._mm512_castps512_ps256(both),
                    dq._mm512_extractf32x8_ps::<1>(both),
                );
                to[4 * half + 2 * pair] = f._mm512_cvtps_pd(first);
                to[4 * half + 2 * pair + 1] = f._mm512_cvtps_pd(second);
            }
        }
        // SAFETY: both are sixty-four f64.
        unsafe { transmute::<[__m512d; SIDE], Tile8x8>(to) }
    }

    #[inline(always)]
    pub fn transpose_v3(simd: V3, from: &Tile8x8) -> Tile8x8 {
        const HALF: usize = SIDE / 2;
        const LOW: i32 = 0x20;
        const HIGH: i32 = 0x31;
        let simd = simd.avx;
        let mut to = [ZEROS; SIDE];
        for i in 0..2 {
            for j in 0..2 {
                let mut rows = [[0.0; HALF]; HALF];
                for k in 0..HALF {
                    rows[k].copy_from_slice(&from[i * HALF + k].0[j * HALF..(j + 1) * HALF]);
                }
                // SAFETY: both are sixteen f64.
                let [a, b, c, d] =
                    unsafe { transmute::<[[f64; HALF]; HALF], [__m256d; HALF]>(rows) };
                let even = [simd._mm256_unpacklo_pd(a, b), simd._mm256_unpacklo_pd(c, d)];
                let odd = [simd._mm256_unpackhi_pd(a, b), simd._mm256_unpackhi_pd(c, d)];
                let columns = [
                    simd._mm256_permute2f128_pd::<LOW>(even[0], even[1]),
                    simd._mm256_permute2f128_pd::<LOW>(odd[0], odd[1]),
                    simd._mm256_permute2f128_pd::<HIGH>(even[0], even[1]),
                    simd._mm256_permute2f128_pd::<HIGH>(odd[0], odd[1]),
                ];
                // SAFETY: as above.
                let columns = unsafe { transmute::<[__m256d; HALF], [[f64; HALF]; HALF]>(columns) };
                for k in 0..HALF {
                    to[j * HALF + k].0[i * HALF..(i + 1) * HALF].copy_from_slice(&columns[k]);
                }
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::f64x8::F64x8;
    use crate::cpu::simd::isa::{dispatch_simd, tests::on_each};
    use pulp::WithSimd;

    /// All implementations that the dispatched instruction set has.
    struct Both(Tile8x8);

    impl WithSimd for Both {
        type Output = [Tile8x8; 4];

        fn with_simd<S: Simd>(self, simd: S) -> [Tile8x8; 4] {
            let singles = self.0.map(|row| row.0.map(|x| x as f32));
            [
                transpose(simd, &self.0),
                transpose_portable(simd, &self.0),
                transpose_widen(simd, &self.0.each_ref().map(|row| &row.0)),
                transpose_widen(simd, &singles.each_ref()),
            ]
        }
    }

    #[test]
    fn rows_become_columns() {
        let number = |i: usize, j: usize| (SIDE * i + j) as f64;
        let from = std::array::from_fn(|i| F64x8(std::array::from_fn(|j| number(i, j))));
        let transpose_widen: Tile8x8 =
            std::array::from_fn(|i| F64x8(std::array::from_fn(|j| number(j, i))));
        on_each(|isa| assert_eq!(dispatch_simd(Both(from)), [transpose_widen; 4], "{isa:?}"));
    }
}
