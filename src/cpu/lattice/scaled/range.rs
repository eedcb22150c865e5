//! Exponents of tiles and of pairs: they keep the scaled arithmetic within the range of f64, and prove that nothing
//! significant was lost. Numbers below 2^−1022 may vanish.
//!
//! **Tiles** ([`Level::Tiles`]). In the 8 frames of a block, states flow no further than one tile, and no state grows
//! by more than 3^8 < 2^13. The exponent of a tile is chosen so that the largest state of it and of the tile before it
//! (in the order of the direction) is at 2^TARGET_EXP. So nothing exceeds 2^(TARGET_EXP + 14) < 2^1023. A number that
//! vanishes in a tile is less than 2^−1022 of its scale; the tile also receives the losses of the tile before it, in
//! the scale of that tile. Together they grow by less than 2^26 before they arrive in a state (3^8 ways, 8 frames of a
//! few operations each).
//!
//! **Pairs** ([`Level::Pairs`]). In a part of 4 frames, pair i receives states, and therefore losses, from the pairs i
//! − 4 to i only; its exponent depends on the same pairs.
//!
//! **Exact.** At both levels, a state that ends its part 2^GUARD above everything that may have been lost on the way to
//! it is exact: even its rounding is the same as without loss, except in one case of 2^57. So the result does not
//! depend on the level at which an item was computed. Other losses are bounded in `forgone.rs`.

#[cfg(doc)]
use super::Level;
use super::{PART, Pairs, Row, Scale, States, whole_pow2};
use crate::cpu::simd::f64x8::{Vectors, ZEROS, load, store, vectors};
use crate::cpu::simd::power::{EMPTY_EXP, EMPTY_EXP_BELOW, exponents, powers, shifted};
use crate::cpu::simd::shift;
use crate::cpu::time::{Direction, ordered};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;
use std::ops::Range;

/// The largest state that can flow into a tile or a pair is scaled to between 2^TARGET_EXP and 2^(TARGET_EXP + 1).
pub(crate) const TARGET_EXP: f64 = 1008.0;
/// The target exponents of the posterior pass: for the direction that forms posteriors, and for the one whose rows are
/// recomputed. They put the factor from product to posterior in the middle of the range.
pub(crate) const TARGET_EXP_OF_POSTERIORS: f64 = 150.0;
pub(crate) const TARGET_EXP_OF_ROWS: f64 = 508.0;

/// The exponent of a tile that is empty and receives nothing.
pub(crate) const NO_TILE: i64 = -(1 << 60);
/// An exponent, or a difference of two, that is at or below this belongs to a tile that holds nothing.
pub(crate) const NO_FLOW: i64 = NO_TILE / 2;
/// The smallest number that is certainly exact at the end of a block, where no earlier tile has a larger exponent.
pub(crate) const LEAST_OF_TILES: f64 = f64::from_bits(((MIN_EXACT_EXP as i64 + 1023) as u64) << 52);

/// Bits by which a significant state exceeds everything that may have been lost on the way to it.
pub(crate) const GUARD: f64 = 110.0;
const MIN_EXACT_EXP: f64 = LOST + GUARD;

/// Bound on the loss of a block, as an exponent relative to the largest exponent of its tiles.
pub(crate) const LOST: f64 = -1022.0 + 26.0;

/// Bound on the states of a tile at the end of a block, as an exponent relative to that of the tile.
pub(crate) const MOST_OF_TILES: f64 = TARGET_EXP + 14.0;

/// Fewer than 2^COUNT terms are lost: each state at most once, and an inflow has three terms.
pub(crate) const COUNT: f64 = 42.0;

/// In a tile that is not exact, states below 2^LEAST_KEPT in its scale are set to 0. The others then rarely become
/// subnormal, which is slow on most processors: eight emissions in a row would have to be below 2^-120, and in f32 they
/// are at least 2^-126.
pub(crate) const LEAST_KEPT: f64 = -1022.0 + 8.0 * 120.0;
pub(crate) const LEAST_KEPT_OF_TILES: f64 =
    f64::from_bits(((LEAST_KEPT as i64 + 1023) as u64) << 52);

/// Bound on the sum of the exponents of both directions of a tile or pair, relative to the exponent of `P`, where
/// posteriors are formed. A loss in one direction is multiplied by the states of the other. The worst losses are states
/// that cannot flow on because their exponent is more than 1022 below that of the next tile or pair: they are lost
/// entirely.
pub(crate) const MOST: f64 = -(MIN_NORMAL_EXP as f64)
    - (TARGET_EXP_OF_ROWS + 14.0)
    - (TARGET_EXP_OF_POSTERIORS + 14.0)
    - COUNT
    - GUARD;

/// The largest exponent of a neighbour relative to that of a pair for which a factor between them exists.
pub(crate) const FARTHEST: f64 = 1000.0;

/// The factors and bounds of a part of a block, pair by pair.
#[derive(Debug, Default)]
pub(crate) struct Range8 {
    /// The factor on the flow into each pair from the pair before it.
    pub factors: Vec<Pairs>,
    /// The smallest number that is certainly exact at the end of the part.
    pub least: Vec<Pairs>,
}

/// A sliding window over vectors of exponents: one vector of pairs, the maximum of each pair and the one before it, the
/// same moved by one lane, and the maximum of each pair and the three before it.
#[derive(Clone, Copy)]
pub(crate) struct Window<S: Simd> {
    here: S::f64s,
    two: S::f64s,
    two_before: S::f64s,
    four: S::f64s,
}

impl<S: Simd> Window<S> {
    /// The window before the first vector: empty.
    #[inline(always)]
    pub fn nothing(simd: S) -> Self {
        let nowhere = simd.splat_f64s(EMPTY_EXP);
        Self {
            here: nowhere,
            two: nowhere,
            two_before: nowhere,
            four: nowhere,
        }
    }

    /// Advances to the next vector. Returns the predecessors of its pairs, and the maximum of each pair and the four
    /// before it.
    #[inline(always)]
    pub fn next<D: Direction>(&mut self, simd: S, here: S::f64s) -> (S::f64s, S::f64s) {
        const { assert!(PART == 4) };
        let before = moved::<S, D>(simd, self.here, here);
        let two = simd.max_f64s(here, before);
        let two_before = moved::<S, D>(simd, self.two, two);
        let further = moved::<S, D>(simd, self.two_before, two_before);
        let four = simd.max_f64s(two, further);
        let four_before = moved::<S, D>(simd, self.four, four);
        *self = Self {
            here,
            two,
            two_before,
            four,
        };
        (before, simd.max_f64s(four, four_before))
    }
}

/// The vector `here` moved by one lane, filled from `before`, the preceding vector in the order of `D`.
#[inline(always)]
fn moved<S: Simd, D: Direction>(simd: S, before: S::f64s, here: S::f64s) -> S::f64s {
    if D::FORWARD {
        shift::up(simd, before, here)
    } else {
        shift::down(simd, here, before)
    }
}

impl Range8 {
    /// Gives the pairs of the live tiles new exponents, with the largest state that can reach a pair within a part at
    /// 2^`top`. Returns whether a factor exists between all neighbours. With `BOUND`, also sets `least`.
    #[inline(always)]
    pub fn scale<S: Simd, D: Direction, const BOUND: bool>(
        &mut self,
        simd: S,
        row: &mut Row,
        live: Range<usize>,
        top: f64,
    ) -> bool {
        let tiles = row.numbers.len();
        self.factors.resize(tiles, ZEROS);
        if BOUND {
            self.least.resize(tiles, ZEROS);
        }
        let zero = simd.splat_f64s(0.0);
        let (top, nowhere) = (simd.splat_f64s(top), simd.splat_f64s(EMPTY_EXP));
        let (below, least) = (
            simd.splat_f64s(EMPTY_EXP_BELOW),
            simd.splat_f64s(MIN_EXACT_EXP),
        );
        let (mut own_window, mut window) = (Window::nothing(simd), Window::nothing(simd));
        let (mut far, mut near, mut last) = (zero, zero, nowhere);
        for b in ordered::<D>(live) {
            let mut n = States::load(simd, &row.numbers[b]);
            let mut e = States::load(simd, &row.exponents[b]);
            let (mut factors, mut leasts) = (n.blank, n.blank);
            for j in 0..vectors::<S>() {
                let v = if D::FORWARD {
                    j
                } else {
                    vectors::<S>() - 1 - j
                };
                let blank = simd.add_f64s(exponents(simd, n.blank[v]), e.blank[v]);
                let label = simd.add_f64s(exponents(simd, n.label[v]), e.label[v]);
                let own = simd.max_f64s(simd.max_f64s(blank, label), nowhere);
                let (_, largest) = own_window.next::<D>(simd, own);
                // Keep the exponent close enough to that of the pair before for a factor between them.
                let largest = {
                    let before = moved::<S, D>(simd, last, largest);
                    last = largest;
                    simd.max_f64s(largest, simd.sub_f64s(before, simd.splat_f64s(FARTHEST)))
                };
                let (before, above) = if BOUND {
                    window.next::<D>(simd, largest)
                } else {
                    let before = moved::<S, D>(simd, window.here, largest);
                    window.here = largest;
                    (before, before)
                };
                let exponent = simd.sub_f64s(largest, top);
                n.blank[v] = rescaled(simd, n.blank[v], e.blank[v], exponent);
                n.label[v] = rescaled(simd, n.label[v], e.label[v], exponent);
                (e.blank[v], e.label[v]) = (exponent, exponent);
                let change = simd.sub_f64s(before, largest);
                let alive = simd.greater_than_f64s(largest, below);
                factors[v] = simd.select_f64s(alive, powers(simd, change), zero);
                far = simd.max_f64s(far, simd.select_f64s(alive, change, zero));
                if BOUND {
                    let flows = simd.and_m64s(alive, simd.greater_than_f64s(before, below));
                    near = simd.min_f64s(near, simd.select_f64s(flows, change, zero));
                }
                if BOUND {
                    let above = simd.sub_f64s(above, largest);
                    leasts[v] = powers(simd, simd.add_f64s(above, least));
                }
            }
            n.store(simd, &mut row.numbers[b]);
            e.store(simd, &mut row.exponents[b]);
            store(simd, &mut self.factors[b], &factors);
            if BOUND {
                store(simd, &mut self.least[b], &leasts);
            }
        }
        simd.reduce_max_f64s(far) <= 1020.0
            && (!BOUND || simd.reduce_min_f64s(near) >= MIN_NORMAL_EXP as f64)
    }

    /// Computes the factors between pairs, for rows whose exponents are already set.
    #[inline(always)]
    pub fn factors_of<S: Simd, D: Direction>(&mut self, simd: S, row: &Row, live: Range<usize>) {
        self.factors.resize(row.numbers.len(), ZEROS);
        let (zero, below) = (simd.splat_f64s(0.0), simd.splat_f64s(EMPTY_EXP_BELOW));
        let mut before = simd.splat_f64s(EMPTY_EXP);
        for b in ordered::<D>(live) {
            let exponents = load(simd, &row.exponents[b].blank);
            let mut factors = exponents;
            for j in 0..vectors::<S>() {
                let v = if D::FORWARD {
                    j
                } else {
                    vectors::<S>() - 1 - j
                };
                let there = moved::<S, D>(simd, before, exponents[v]);
                let alive = simd.greater_than_f64s(exponents[v], below);
                let change = simd.sub_f64s(there, exponents[v]);
                factors[v] = simd.select_f64s(alive, powers(simd, change), zero);
                before = exponents[v];
            }
            store(simd, &mut self.factors[b], &factors);
        }
    }
}

/// [`scale_tiles`](super::scale_tiles) for rows in which each state has its own exponent.
pub(crate) struct ScaleSeparate<'a, D> {
    pub from: &'a Row,
    pub to: &'a mut Row,
    pub live: Range<usize>,
    pub top: i64,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for ScaleSeparate<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { from, to, live, .. } = self;
        to.set_uniform();
        let mut before = TileBefore::NONE;
        for b in ordered::<D>(live) {
            let own = largest(simd, from, b);
            let mut top = own[0];
            for v in 1..vectors::<S>() {
                top = simd.max_f64s(top, own[v]);
            }
            let own = simd.reduce_max_f64s(top);
            let own = if own > EMPTY_EXP_BELOW {
                own as i64
            } else {
                NO_TILE
            };
            let scale = before.next(own, self.top);
            let exponent = simd.splat_f64s(scale.exponent as f64);
            let mut n = States::load(simd, &from.numbers[b]);
            let e = States::load(simd, &from.exponents[b]);
            for v in 0..vectors::<S>() {
                n.blank[v] = rescaled(simd, n.blank[v], e.blank[v], exponent);
                n.label[v] = rescaled(simd, n.label[v], e.label[v], exponent);
            }
            n.store(simd, &mut to.numbers[b]);
            to.scales[b] = scale;
        }
    }
}

/// The exponents of the tiles of a row, one after another in the order of a direction.
pub(crate) struct TileBefore {
    /// The exponent of the largest state of the previous tile, and the exponent of that tile.
    own: i64,
    exponent: i64,
}

/// The lowest exponent of a factor between tiles or pairs.
pub(crate) const MIN_NORMAL_EXP: i64 = -1022;

impl TileBefore {
    pub const NONE: Self = Self {
        own: NO_TILE,
        exponent: NO_TILE,
    };

    /// The scale of the next tile, whose largest state has the exponent `own`.
    #[inline(always)]
    pub fn next(&mut self, own: i64, top: i64) -> Scale {
        let largest = own.max(self.own);
        let before = self.exponent;
        // Keep the exponent close enough to that of the tile before for a factor between them.
        let exponent = match largest > NO_TILE {
            true => (largest - top).max(before - FARTHEST as i64),
            false => NO_TILE,
        };
        let flows = (before > NO_TILE) & (exponent > NO_TILE);
        *self = Self { own, exponent };
        Scale {
            exponent,
            factor: if flows {
                whole_pow2(before - exponent)
            } else {
                0.0
            },
        }
    }
}

/// `n · 2^e` divided by `2^exponent`; 0 where `n · 2^e` is zero.
#[inline(always)]
fn rescaled<S: Simd>(simd: S, n: S::f64s, e: S::f64s, exponent: S::f64s) -> S::f64s {
    let alive = simd.greater_than_f64s(e, simd.splat_f64s(EMPTY_EXP_BELOW));
    let zero = simd.splat_f64s(0.0);
    let change = simd.select_f64s(alive, simd.sub_f64s(e, exponent), zero);
    shifted(simd, simd.select_f64s(alive, n, zero), change)
}

/// For each pair of tile `b`, the exponent of its larger state.
#[inline(always)]
fn largest<S: Simd>(simd: S, row: &Row, b: usize) -> Vectors<S> {
    let n = States::load(simd, &row.numbers[b]);
    let mut e = States::load(simd, &row.exponents[b]);
    for v in 0..vectors::<S>() {
        let blank = simd.add_f64s(exponents(simd, n.blank[v]), e.blank[v]);
        let label = simd.add_f64s(exponents(simd, n.label[v]), e.label[v]);
        e.blank[v] = simd.max_f64s(simd.max_f64s(blank, label), simd.splat_f64s(EMPTY_EXP));
    }
    e.blank
}

#[cfg(test)]
mod tests {
    use super::super::{PAIRS, Tile};
    use super::*;
    use crate::cpu::simd::isa::{dispatch_simd, tests::on_each};
    use crate::cpu::simd::power::pow2;
    use crate::cpu::time::{Backward, Forward};

    struct Windows<'a, D>(&'a [Pairs], PhantomData<D>);

    impl<D: Direction> WithSimd for Windows<'_, D> {
        type Output = Vec<[Pairs; 2]>;

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut to = vec![[ZEROS; 2]; self.0.len()];
            let mut window = Window::nothing(simd);
            for b in ordered::<D>(0..self.0.len()) {
                for v in ordered::<D>(0..vectors::<S>()) {
                    let here = load(simd, &self.0[b])[v];
                    let (before, largest) = window.next::<D>(simd, here);
                    let [to_before, to_largest] = &mut to[b];
                    S::as_mut_simd_f64s(&mut to_before.0).0[v] = before;
                    S::as_mut_simd_f64s(&mut to_largest.0).0[v] = largest;
                }
            }
            to
        }
    }

    fn windows<D: Direction>(own: &[f64]) -> [Vec<f64>; 2] {
        let (tiles, _) = own.as_chunks::<PAIRS>();
        let tiles: Vec<Pairs> = tiles.iter().map(|&tile| Pairs(tile)).collect();
        let windows = dispatch_simd(Windows::<D>(&tiles, PhantomData));
        [0, 1].map(|i| windows.iter().flat_map(|window| window[i].0).collect())
    }

    #[test]
    fn windows_hold_the_largest_of_five_pairs() {
        on_each(|_| {
            for pairs in [8, 16, 24, 32] {
                for top in 0..pairs {
                    let own: Vec<f64> = (0..pairs)
                        .map(|i| if i == top { 7.0 } else { -(i as f64) - 100.0 })
                        .collect();
                    let of =
                        |range: Range<usize>| own[range].iter().copied().fold(EMPTY_EXP, f64::max);
                    let (forward, backward) = (windows::<Forward>(&own), windows::<Backward>(&own));
                    for i in 0..pairs {
                        assert_eq!(forward[1][i], of(i.saturating_sub(PART)..i + 1));
                        assert_eq!(backward[1][i], of(i..(i + PART + 1).min(pairs)));
                        assert_eq!(forward[0][i], of(i.saturating_sub(1)..i));
                        assert_eq!(backward[0][i], of((i + 1).min(pairs)..(i + 2).min(pairs)));
                    }
                }
            }
        });
    }

    struct Scale<'a, D>(&'a mut Range8, &'a Row, &'a mut Row, PhantomData<D>);

    impl<D: Direction> WithSimd for Scale<'_, D> {
        type Output = bool;

        fn with_simd<S: Simd>(self, simd: S) -> bool {
            self.2.separate_from(self.1, 0..3);
            self.0.scale::<S, D, true>(simd, self.2, 0..3, TARGET_EXP)
        }
    }

    #[test]
    fn scaling_keeps_numbers_and_says_where_there_is_no_factor() {
        let tile = |exponent: f64| Tile {
            blank: Pairs([exponent; PAIRS]),
            label: Pairs([exponent; PAIRS]),
        };
        let numbers = Tile {
            blank: Pairs([1.5; PAIRS]),
            label: Pairs([1.25; PAIRS]),
        };
        on_each(|isa| {
            for (far, near) in [(-900.0, true), (-5000.0, false)] {
                // Tiles 1 and 2 are far below tile 0.
                let mut from = Row::default();
                from.resize(3);
                from.uniform = false;
                from.numbers.fill(numbers);
                from.exponents = vec![tile(40.0), tile(40.0 + far), tile(40.0 + far)];
                let (mut to, mut range) = (Row::default(), Range8::default());
                to.resize(3);
                let forward = Scale::<Forward>(&mut range, &from, &mut to, PhantomData);
                assert_eq!(dispatch_simd(forward), near, "{isa:?}");
                for b in 0..3 {
                    for k in 0..PAIRS {
                        let own = to.exponents[b].label.0[k] - from.exponents[b].label.0[k];
                        let want = 1.25 * pow2(-own);
                        let kept = to.numbers[b].label.0[k] == want;
                        assert!(!near || kept, "{isa:?} {b} {k}");
                    }
                }
                // Against the flow, the factor into a pair that is too far above is 0.
                let backward = Scale::<Backward>(&mut range, &from, &mut to, PhantomData);
                assert_eq!(dispatch_simd(backward), near, "{isa:?}");
            }
        });
    }
}
