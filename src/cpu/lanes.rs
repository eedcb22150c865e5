//! Blocks of numbers that are worked on at once, whatever a vector of the instruction set holds.

use super::real::Real;

/// Numbers of a block.
pub(super) const LANES: usize = 16;

pub(super) type Block<R> = [R; LANES];

/// The larger of two; NaN is not.
#[inline(always)]
pub(super) fn larger<R: Real>(a: R, b: R) -> R {
    if b > a { b } else { a }
}

/// All lanes brought together pairwise, in an order that is always the same.
#[inline(always)]
pub(super) fn fold_lanes<T: Copy, const N: usize>(
    mut lanes: [T; N],
    merge: impl Fn(T, T) -> T,
) -> T {
    let mut half = N / 2;
    while half > 0 {
        for k in 0..half {
            lanes[k] = merge(lanes[k], lanes[k + half]);
        }
        half /= 2;
    }
    lanes[0]
}
