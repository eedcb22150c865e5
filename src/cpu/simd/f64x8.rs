//! Eight f64, in memory and in vector registers.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

use pulp::Simd;

/// The length of a [`F64x8`].
pub(crate) const SIDE: usize = 8;

/// Eight f64 in one cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct F64x8(pub [f64; SIDE]);

pub(crate) type Tile8x8 = [F64x8; SIDE];

pub(crate) const ZEROS: F64x8 = F64x8([0.0; SIDE]);

/// All numbers as one slice.
pub(crate) fn flat(rows: &mut [F64x8]) -> &mut [f64] {
    let count = rows.len() * SIDE;
    // SAFETY: a `F64x8` is eight f64 and nothing else.
    unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast(), count) }
}

/// A [`F64x8`] in vector registers; unused elements are ignored.
pub(crate) type Vectors<S> = [<S as Simd>::f64s; SIDE];

#[inline(always)]
pub(crate) fn vectors<S: Simd>() -> usize {
    SIDE / S::F64_LANES
}

#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &F64x8) -> Vectors<S> {
    let mut to = [simd.splat_f64s(0.0); SIDE];
    let (from, _) = S::as_simd_f64s(&from.0);
    for v in 0..vectors::<S>() {
        to[v] = from[v];
    }
    to
}

#[inline(always)]
pub(crate) fn store<S: Simd>(_: S, to: &mut F64x8, from: &Vectors<S>) {
    let (to, _) = S::as_mut_simd_f64s(&mut to.0);
    for v in 0..vectors::<S>() {
        to[v] = from[v];
    }
}

#[inline(always)]
pub(crate) fn add_to<S: Simd>(simd: S, to: &mut F64x8, from: &Vectors<S>) {
    let (to, _) = S::as_mut_simd_f64s(&mut to.0);
    for v in 0..vectors::<S>() {
        to[v] = simd.add_f64s(to[v], from[v]);
    }
}
