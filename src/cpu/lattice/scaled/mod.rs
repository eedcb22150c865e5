//! The forward-backward recursion of CTC in plain f64, tile by tile.
//!
//! The extended target blank, l_1, blank, …, l_U, blank has 2U + 1 states, stored as pairs: `blank[i]` precedes label i
//! (`blank[U]` follows the last label), `label[i]` is label i. `y_t` are the emissions, divided by the largest of their
//! frame; `skip[i]` is 1 where label i differs from the label before it, else 0:
//!
//! ```text
//! alpha_t(blank i) = y_t(blank)   · (alpha(blank i) + alpha(label i−1))                        at t−1
//! alpha_t(label i) = y_t(label i) · (alpha(label i) + alpha(blank i) + skip[i] · alpha(label i−1))
//! beta_t(blank i)  = y_t(blank)   · (beta(blank i) + beta(label i))                            at t+1
//! beta_t(label i)  = y_t(label i) · (beta(label i) + beta(blank i+1) + skip[i+1] · beta(label i+1))
//! ```
//!
//! Both include the emission of their own frame. The sum in brackets is the *inflow*; `posterior_t(s) = alpha_t(s) ·
//! inflow of beta_t(s) / P`, and likewise with alpha and beta exchanged. The two directions start at opposite ends and
//! meet in the middle, where `P` is known. Each then continues through the other's half and forms the posteriors there
//! (the posterior pass).
//!
//! **Tiles and blocks.** A tile is 8 pairs; a block is up to 8 frames. A few tiles at a time go through all frames of a
//! block with their states in registers, and store, for each frame, the edge state that flows into the next tile. Only
//! the states at the start of each block are kept (a *checkpoint*); the posterior pass recomputes the rows of a block
//! from there.
//!
//! **Range.** Each tile has one power of two per block (`range.rs`). At the end of each block, tiles whose states are
//! not all exact get a bound on what they lost ([`Forgone`]). A first sweep may lose anything. In the middle, the bounds
//! are compared with `P`; if they might matter, both directions are swept once more, and no block may lose more than a
//! budget allows: a block that would is computed with a power of two per pair, or with one per state (`extended.rs`).
//! After failures, blocks start at a finer level ([`Patience`]). Past the middle `P` is known: the exponents of the two
//! directions decide, and the posteriors of a frame must add up to 1.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "the compiler vectorises loops of a fixed count over arrays"
)]

mod checkpoints;
mod extended;
mod forgone;
mod interleaved;
mod lattice;
mod posterior_pass;
mod posteriors;
mod range;
mod row;
mod spread;
mod step;
mod sweep;
mod track;

use crate::cpu::emissions::far_apart::raw_emissions;
pub(crate) use forgone::Allowance;
pub(crate) use interleaved::{
    FEWEST as FEWEST_INTERLEAVED, Interleaved, LANES as INTERLEAVED, Lane,
};
pub(crate) use posteriors::{
    ClassPosteriors, PosteriorBlock, Posteriors, StatePosteriors, TokenOccupancy, TokenSums,
};

use crate::cpu::emissions::table::{Depth, Entries, HalfEmissions, Table};
use crate::cpu::lattice::Stop;
use crate::cpu::simd::f64x8::{
    F64x8 as Pairs, Tile8x8, Vectors, ZEROS, add_to, flat, load, store, vectors,
};
use crate::cpu::simd::isa::{dispatch_simd, mul_add_f64};
use crate::cpu::simd::power::{EMPTY_EXP, EMPTY_EXP_BELOW, exponent_of, pow2, powers};
use crate::cpu::simd::prefetch::prefetch_all;
use crate::cpu::simd::real::Real;
use crate::cpu::simd::shift;
use crate::cpu::simd::transpose::{transpose, transpose_widen};
use crate::cpu::time::{BLOCK_FRAMES, Direction, FrameBlocks, nth, ordered};
use checkpoints::{Checkpoint, Checkpoints};
use extended::{JoinExtended, RecordExtended, SpreadExponents};
use forgone::*;
use lattice::Reached;
pub(crate) use lattice::ScaledLattice;
use posterior_pass::*;
use pulp::{Simd, WithSimd};
use range::{
    NO_TILE, Range8, TARGET_EXP, TARGET_EXP_OF_POSTERIORS, TARGET_EXP_OF_ROWS, TileBefore, Window,
};
use row::*;
use spread::*;
use std::marker::PhantomData;
use std::ops::Range;
use step::*;
use sweep::*;
use track::{Careful, Past, Patience};
pub(crate) use track::{Level, Scratch, Track};

/// Pairs of a tile. States flow by one pair a frame, so in one block no further than one tile.
pub(crate) const PAIRS: usize = 8;

const _: () = assert!(BLOCK_FRAMES == PAIRS);

/// Largest deviation from 1 of the sum of the posteriors of a frame; beyond it the block is recomputed at a finer
/// level. Rounding over 20000 frames amounts to 1e-12.
pub(crate) const SUM_TOLERANCE: f64 = 1e-10;

/// Frames of a part of a block at [`Level::Pairs`].
pub(crate) const PART: usize = 4;

pub(crate) const PARTS: usize = BLOCK_FRAMES.div_ceil(PART);

/// `P = mantissa · 2^exponent`, computed where the two directions meet; the mantissa is in [1, 2), or 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathProbability {
    pub mantissa: f64,
    pub exponent: f64,
}

pub(crate) const NO_PATH: PathProbability = PathProbability {
    mantissa: 0.0,
    exponent: 0.0,
};

impl PathProbability {
    pub fn ln(self) -> f64 {
        self.mantissa.ln() + self.exponent * std::f64::consts::LN_2
    }

    pub fn is_zero(self) -> bool {
        self.mantissa == 0.0
    }
}

/// `2^e`: 0 below the normal numbers, and at most 2^1023.
#[inline(always)]
pub(crate) fn whole_pow2(e: i64) -> f64 {
    if e < -1022 {
        0.0
    } else {
        f64::from_bits(((e.min(1023) + 1023) as u64) << 52)
    }
}

/// The exponent of a positive normal number.
#[inline(always)]
pub(crate) fn whole_exponent_of(x: f64) -> i64 {
    (x.to_bits() >> 52) as i64 - 1023
}

/// Prefetches the table of the next block if it is long. It is read class by class in target order, a pattern that
/// hardware prefetch does not recognise.
#[inline(always)]
pub(crate) fn prefetch_block<R>(block: Option<&[[R; BLOCK_FRAMES]]>) {
    const LONG: usize = 64;
    prefetch_all(
        block
            .filter(|block| block.len() >= LONG)
            .unwrap_or_default(),
    );
}
