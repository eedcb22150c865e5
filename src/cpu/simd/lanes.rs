//! Fixed-size chunks of numbers, independent of the vector width of the instruction set.

/// Numbers per chunk.
pub(crate) const LANES: usize = 16;

pub(crate) type Lanes<R> = [R; LANES];

/// The larger of two numbers. If `b` is NaN, returns `a`.
#[inline(always)]
pub(crate) fn larger<T: PartialOrd + Copy>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Combines all lanes pairwise, in a fixed order.
#[inline(always)]
pub(crate) fn fold_lanes<T: Copy, const N: usize>(
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
