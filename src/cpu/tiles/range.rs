//! Exponents of tiles and of pairs: what keeps the scaled arithmetic inside the range of f64, and what proves that
//! nothing that counts was lost. Numbers below 2^−1022 may vanish.
//!
//! **Tiles** ([`Level::Tiles`]). In the 8 frames of a block states flow no further than one tile, and no state grows by
//! more than 3^8 < 2^13. The exponent of a tile is such that the largest state of it and of the tile before it (in the
//! order of the direction) is at 2^TOP. So nothing exceeds 2^(TOP + 14) < 2^1023. What vanishes in a tile is less than
//! 2^−1022 of its scale, and it receives what vanishes in the tile before it, in that one's scale; all together are
//! multiplied by less than 2^26 on the way to a state (3^8 ways, 8 frames of a few operations each).
//!
//! **Pairs** ([`Level::Pairs`]). In a part of 4 frames the states of pair i receive from the pairs i − 4 to i only, and
//! so do exponents and what vanishes.
//!
//! **Exact.** At both levels, a state that ends its part 2^GUARD above all that may have been lost on the way to it is
//! exact: not even its rounding differs from the one without loss, but in one case of 2^57. So it does not matter for
//! the result which level an item was computed with.

use super::super::runs::{Direction, ordered};
use super::super::shift;
#[cfg(doc)]
use super::Level;
use super::power::{exponents, powers, shifted};
use super::{PART, Pairs, Row, Scale, States, Vectors, ZEROS, load, store, vectors, whole_pow2};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;
use std::ops::Range;

/// The exponent of a zero.
pub(super) const NOWHERE: f64 = -1_125_899_906_842_624.0; // -2^50
/// An exponent at or below this belongs to a zero.
pub(super) const NOWHERE_BELOW: f64 = NOWHERE / 2.0;

/// The largest state that can flow into a tile or a pair is brought to between 2^TOP and 2^(TOP + 1).
pub(super) const TOP: f64 = 1008.0;
/// The same where posteriors are formed: for the direction that forms them, and for the one whose rows are made
/// again. With these, the number that makes a posterior of their product is in the middle of the range.
pub(super) const TOP_OF_POSTERIORS: f64 = 150.0;
pub(super) const TOP_OF_ROWS: f64 = 508.0;

/// The exponent of a tile that holds nothing and receives nothing.
pub(super) const NO_TILE: i64 = -(1 << 60);
/// The least number that is sure to be exact at the end of a block, where no tile before has a larger exponent.
pub(super) const LEAST_OF_TILES: f64 = f64::from_bits(((LEAST as i64 + 1023) as u64) << 52);

/// Bits by which a state that counts is above all that may have been lost on the way to it.
pub(super) const GUARD: f64 = 110.0;
const LEAST: f64 = LOST + GUARD;

/// What a block can lose at most, as an exponent over the largest one of its tiles.
pub(super) const LOST: f64 = -1022.0 + 26.0;

/// No state of a tile is larger at the end of a block, as an exponent over that of the tile.
pub(super) const MOST_OF_TILES: f64 = TOP + 14.0;

/// Fewer than 2^COUNT states are lost, each once; and what flows is a sum of three.
pub(super) const COUNT: f64 = 42.0;

/// Where something is forgone, states this far below the largest are set to 0. The other states of a block at
/// [`Level::Tiles`] then never become subnormal, which processors are slow with: an emission in f32 is at least 2^-126.
pub(super) const DROPPED: f64 = TOP - (-1022.0 + 8.0 * 120.0);

/// How far the exponents of a tile or pair, of both directions together, may be above that of `P` where posteriors are
/// formed. What is lost of the states of one direction counts as much as those of the other are large. Most is lost of
/// those that cannot flow on, since their exponent is more than 1022 below that of the next: all that they hold.
pub(super) const MOST: f64 =
    -(LOWEST as f64) - (TOP_OF_ROWS + 14.0) - (TOP_OF_POSTERIORS + 14.0) - COUNT - GUARD;

/// The exponent of a neighbour may be no further above that of a pair, for a factor between them.
pub(super) const FARTHEST: f64 = 1000.0;

/// What a part of a block is run with, pair by pair.
#[derive(Debug, Default)]
pub(super) struct Range8 {
    /// What is multiplied that flows into a pair from the one before it.
    pub factors: Vec<Pairs>,
    /// The least number that is sure to be exact at its end.
    pub least: Vec<Pairs>,
}

/// A vector of pairs, the larger of each pair and the one before it, these moved by one lane, and the largest of each
/// pair and the three before it.
#[derive(Clone, Copy)]
pub(super) struct Window<S: Simd> {
    here: S::f64s,
    two: S::f64s,
    two_before: S::f64s,
    four: S::f64s,
}

impl<S: Simd> Window<S> {
    /// What stands before the first vector: nothing.
    #[inline(always)]
    pub fn nothing(simd: S) -> Self {
        let nowhere = simd.splat_f64s(NOWHERE);
        Self {
            here: nowhere,
            two: nowhere,
            two_before: nowhere,
            four: nowhere,
        }
    }

    /// Goes on to the next vector. The pairs before its pairs, and the largest of each pair and the four before it.
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

/// The vector `here` moved on by one lane, behind the one that comes before it in the order of `D`.
#[inline(always)]
fn moved<S: Simd, D: Direction>(simd: S, before: S::f64s, here: S::f64s) -> S::f64s {
    if D::FORWARD {
        shift::up(simd, before, here)
    } else {
        shift::down(simd, here, before)
    }
}

impl Range8 {
    /// Gives the pairs of the live tiles fresh exponents, with the largest state that can reach a pair within a part
    /// at 2^`top`. Whether there is a factor between all neighbours. With `BOUND`, `least` says what is exact at its
    /// end.
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
        let (top, nowhere) = (simd.splat_f64s(top), simd.splat_f64s(NOWHERE));
        let (below, least) = (simd.splat_f64s(NOWHERE_BELOW), simd.splat_f64s(LEAST));
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
                // Not so far below the pair before that there is no factor between them.
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
            && (!BOUND || simd.reduce_min_f64s(near) >= LOWEST as f64)
    }

    /// The factors between the pairs of tiles whose exponents are fresh.
    #[inline(always)]
    pub fn factors_of<S: Simd, D: Direction>(&mut self, simd: S, row: &Row, live: Range<usize>) {
        self.factors.resize(row.numbers.len(), ZEROS);
        let (zero, below) = (simd.splat_f64s(0.0), simd.splat_f64s(NOWHERE_BELOW));
        let mut before = simd.splat_f64s(NOWHERE);
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

/// [`scale_tiles`](super::scale_tiles) where each state has an exponent of its own.
pub(super) struct ScaleSeparate<'a, D> {
    pub from: &'a Row,
    pub to: &'a mut Row,
    pub live: Range<usize>,
    pub top: i64,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for ScaleSeparate<'_, D> {
    type Output = TileBefore;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> TileBefore {
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
            let own = if own > NOWHERE_BELOW {
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
        before
    }
}

/// The exponents of the tiles of a row, one after the other in the order of a direction.
pub(super) struct TileBefore {
    /// The exponent of the largest state of the tile before, and the exponent of the tile.
    own: i64,
    exponent: i64,
    /// The largest exponent of all tiles.
    pub largest: i64,
    /// The exponent of what cannot flow on, for the next tile is too far above.
    pub stays: i64,
}

/// The lowest exponent of a factor between tiles or pairs.
pub(super) const LOWEST: i64 = -1022;

impl TileBefore {
    pub const NONE: Self = Self {
        own: NO_TILE,
        exponent: NO_TILE,
        largest: NO_TILE,
        stays: NO_TILE,
    };

    /// The scale of the next tile, whose largest state has this exponent.
    #[inline(always)]
    pub fn next(&mut self, own: i64, top: i64) -> Scale {
        let largest = own.max(self.own);
        let before = self.exponent;
        // Not so far below the tile before that there is no factor between them.
        let exponent = match largest > NO_TILE {
            true => (largest - top).max(before - FARTHEST as i64),
            false => NO_TILE,
        };
        let flows = (before > NO_TILE) & (exponent > NO_TILE);
        let stays = flows & (before - exponent < LOWEST);
        *self = Self {
            own,
            exponent,
            largest: self.largest.max(exponent),
            stays: if stays {
                self.stays.max(before)
            } else {
                self.stays
            },
        };
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

/// `n · 2^e` over `2^exponent`; 0 where it is a zero.
#[inline(always)]
fn rescaled<S: Simd>(simd: S, n: S::f64s, e: S::f64s, exponent: S::f64s) -> S::f64s {
    let alive = simd.greater_than_f64s(e, simd.splat_f64s(NOWHERE_BELOW));
    let zero = simd.splat_f64s(0.0);
    let change = simd.select_f64s(alive, simd.sub_f64s(e, exponent), zero);
    shifted(simd, simd.select_f64s(alive, n, zero), change)
}

/// By pair of tile `b` the exponent of its larger state.
#[inline(always)]
fn largest<S: Simd>(simd: S, row: &Row, b: usize) -> Vectors<S> {
    let n = States::load(simd, &row.numbers[b]);
    let mut e = States::load(simd, &row.exponents[b]);
    for v in 0..vectors::<S>() {
        let blank = simd.add_f64s(exponents(simd, n.blank[v]), e.blank[v]);
        let label = simd.add_f64s(exponents(simd, n.label[v]), e.label[v]);
        e.blank[v] = simd.max_f64s(simd.max_f64s(blank, label), simd.splat_f64s(NOWHERE));
    }
    e.blank
}

#[cfg(test)]
mod tests {
    use super::super::super::isa::{dispatch_simd, tests::on_each};
    use super::super::super::runs::{Backward, Forward};
    use super::super::power::pow2;
    use super::super::{PAIRS, Tile};
    use super::*;

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
                        |range: Range<usize>| own[range].iter().copied().fold(NOWHERE, f64::max);
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
            self.0.scale::<S, D, true>(simd, self.2, 0..3, TOP)
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
                // Against the flow the factor into a pair that is too far above is 0.
                let backward = Scale::<Backward>(&mut range, &from, &mut to, PhantomData);
                assert_eq!(dispatch_simd(backward), near, "{isa:?}");
            }
        });
    }
}
