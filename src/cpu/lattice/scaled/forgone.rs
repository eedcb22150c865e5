//! What a direction has lost, tile by tile, as a bound; and what it may lose. DESIGN.md says *forgone* for lost; it has
//! nothing to do with the loss of an item.

use super::range::{COUNT, GUARD, NO_FLOW};
use super::*;
use crate::cpu::time::{Backward, Forward};

/// What a direction may lose on its way to the middle.
#[derive(Debug, Clone, Default)]
pub(crate) enum Allowance {
    /// Anything. [`ScaledLattice::certain`] tells in the middle whether it mattered.
    #[default]
    Anything,
    /// Only what does not matter, according to an earlier sweep of both directions.
    Budget(Budget),
}

impl Allowance {
    pub const NOTHING: Self = Self::Budget(Budget {
        most: Vec::new(),
        growth: 0.0,
    });
}

/// The losses of a direction that do not matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    /// For each tile, the exponent of the largest loss that does not matter in the middle, whatever tile it has reached
    /// by then. Empty if every loss matters.
    pub most: Vec<f64>,
    /// Bound on the growth of a loss from the first loss of the earlier sweep up to the middle, in binary orders.
    pub growth: f64,
}

/// Bounds on what a direction has lost, tile by tile.
///
/// A loss is a state, or a part of one, that became 0 because it was too small for its tile. Its share of later states
/// grows by no more than the sums of emissions ([`growth`]). In a block it flows no further than the next tile, so a tile
/// takes over the bound of the tile before it. A bound is on the largest single loss; there are fewer than 2^[`COUNT`].
/// A tile whose states are all at least 2^[`GUARD`] times its bound is exact, and starts anew without one.
#[derive(Debug, Default)]
pub(crate) struct Forgone {
    /// For each tile, the exponent of the bound, which includes its growth so far; [`EMPTY_EXP`] if nothing was lost.
    pub tiles: Vec<f64>,
    /// The same at the start of the block in progress, and after it.
    at_start: Vec<f64>,
    next: Vec<f64>,
    /// Whether any tile is not exact.
    pub some: bool,
    /// Whether any tile ever was not exact.
    pub ever: bool,
    /// Growth since the first loss, in binary orders.
    pub growth: f64,
    pub allowance: Allowance,
}

impl Forgone {
    pub fn start(&mut self, tiles: usize, allowance: Allowance) {
        self.tiles.clear();
        self.tiles.resize(tiles, EMPTY_EXP);
        (self.some, self.ever, self.growth) = (false, false, 0.0);
        self.allowance = allowance;
    }

    /// Makes room for the bounds of a block in progress.
    pub fn make_ready(&mut self) {
        for tiles_of_block in [&mut self.at_start, &mut self.next] {
            tiles_of_block.clear();
            tiles_of_block.resize(self.tiles.len(), EMPTY_EXP);
        }
    }

    /// The growth of earlier losses in a block, in binary orders.
    #[inline(always)]
    pub fn grow<R: Real>(&mut self, table: &Table<R>, block: usize, frames: usize) -> f64 {
        if !self.ever {
            return 0.0;
        }
        let orders = growth(table, block, frames);
        self.growth += orders;
        orders
    }

    /// Whether a loss of 2^`exponent` in tile `b` is allowed.
    #[inline(always)]
    fn allows(&self, b: usize, exponent: f64) -> bool {
        match &self.allowance {
            Allowance::Anything => true,
            Allowance::Budget(budget) => {
                let left = (budget.growth - self.growth).max(0.0);
                exponent <= EMPTY_EXP
                    || budget
                        .most
                        .get(b)
                        .is_some_and(|most| exponent + left <= *most)
            }
        }
    }

    /// Begins a block. Sets small states to 0 in tiles that are not exact, where that is allowed, so that none becomes
    /// subnormal in the block.
    #[inline(always)]
    pub fn begin<S: Simd>(&mut self, simd: S, row: &mut Row, live: Range<usize>) {
        if !self.some {
            return;
        }
        self.at_start[live.clone()].copy_from_slice(&self.tiles[live.clone()]);
        for b in live {
            if self.tiles[b] <= EMPTY_EXP {
                continue;
            }
            let dropped = row.scales[b].exponent as f64 + range::LEAST_KEPT;
            if !self.allows(b, dropped) {
                continue;
            }
            self.at_start[b] = self.at_start[b].max(dropped);
            zero_below(simd, &mut row.numbers[b], range::LEAST_KEPT_OF_TILES);
        }
    }

    /// Whether a block at [`Level::Tiles`], and all before it, lost nothing that counts: all states that can be reached
    /// are 2^[`GUARD`] above whatever may have vanished, and each tile flows into the next.
    #[inline(always)]
    pub fn loses_nothing<S: Simd, D: Direction>(
        &self,
        simd: S,
        block: &SettledBlock,
        reached: &Reached,
    ) -> bool {
        if self.some || block.cut.is_some() {
            return false;
        }
        let reached = ReachedLanes::new(simd, reached);
        let (mut flows, mut exact) = (true, simd.splat_f64s(1.0));
        let mut before = range::NO_TILE;
        for b in ordered::<D>(block.live.clone()) {
            let Scale { exponent, factor } = block.row.scales[b];
            flows &= (factor > 0.0) | (before <= NO_FLOW) | (exponent <= NO_FLOW);
            before = exponent;
            // Numbers that vanish in the tile before may be larger than those that vanish here.
            let larger = if factor > 1.0 { factor } else { 1.0 };
            let least = [simd.splat_f64s(range::LEAST_OF_TILES * larger); PAIRS];
            let here = reached.at_least(simd, &block.row.numbers[b], &least, b);
            exact = simd.min_f64s(exact, here);
        }
        flows && simd.reduce_min_f64s(exact) == 1.0
    }

    /// Makes the bounds of [`Settle`] final.
    pub fn accept(&mut self, live: Range<usize>) {
        self.some = self.next[live.clone()].iter().any(|&lost| lost > EMPTY_EXP);
        self.ever |= self.some;
        self.tiles[live.clone()].copy_from_slice(&self.next[live]);
    }

    /// Accounts for a block that lost nothing, in which earlier losses grew by `grew` binary orders.
    pub fn carry<D: Direction>(&mut self, live: Range<usize>, grew: f64) {
        let mut before = EMPTY_EXP;
        for b in ordered::<D>(live) {
            let own = self.tiles[b];
            let earlier = own.max(before);
            self.tiles[b] = grown(earlier, grew);
            before = own;
        }
    }
}

/// What a block at [`Level::Tiles`] lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// All states are exact.
    Exact,
    /// Bounds are known for all tiles: whether the block adds to them, and whether all that was lost is allowed.
    Bounded { loses: bool, allowed: bool },
}

/// A block after its last frame.
pub(crate) struct SettledBlock<'a> {
    pub row: &'a Row,
    pub live: Range<usize>,
    /// For each tile, the smallest states above 0 in the block, if known.
    pub smallest: Option<&'a [Pairs]>,
    /// Emissions above 0 are at least 2^faintest.
    pub faintest: i32,
    /// Emissions below 2^cut counted as 0.
    pub cut: Option<i32>,
}

impl Settled {
    /// Whether the block may have lost anything itself, beside what was lost before it.
    pub fn loses(self) -> bool {
        matches!(self, Self::Bounded { loses: true, .. })
    }
}

impl SettledBlock<'_> {
    /// The smallest state of tile `b` above 0 in the block; 0 if it is not known.
    #[inline(always)]
    fn smallest<S: Simd>(&self, simd: S, b: usize) -> f64 {
        let Some(smallest) = self.smallest else {
            return 0.0;
        };
        let smallest = load(simd, &smallest[b]);
        let mut least = smallest[0];
        for v in 1..vectors::<S>() {
            least = simd.min_f64s(least, smallest[v]);
        }
        simd.reduce_min_f64s(least)
    }
}

/// Bounds what is lost after a block at [`Level::Tiles`], in which earlier losses grew by `grew` binary orders.
/// [`Forgone::accept`] makes the bounds final.
pub(crate) struct Settle<'a, D> {
    pub forgone: &'a mut Forgone,
    pub block: &'a SettledBlock<'a>,
    pub reached: &'a Reached,
    pub grew: f64,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for Settle<'_, D> {
    type Output = Settled;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Settled {
        let Self {
            forgone,
            block,
            grew,
            ..
        } = self;
        let reached = ReachedLanes::new(simd, self.reached);
        if !forgone.some {
            forgone.at_start[block.live.clone()].fill(EMPTY_EXP);
        }
        // A state of at least this is still a normal number after any emission above 0.
        let normal = whole_pow2(i64::from(-1018 - block.faintest));
        let (mut before, mut smallest_before) = ((range::NO_TILE, EMPTY_EXP), 1.0);
        let (mut loses, mut allowed) = (false, true);
        for b in ordered::<D>(block.live.clone()) {
            let Scale { exponent, factor } = block.row.scales[b];
            let earlier = forgone.at_start[b].max(before.1);
            let mut lost = grown(earlier, grew);
            let smallest = block.smallest(simd, b);
            if exponent > NO_FLOW {
                let inflow = smallest_before * if factor > 0.0 { factor.min(1.0) } else { 1.0 };
                let whole = smallest >= normal && inflow >= normal;
                let new = new_loss(exponent, before.0, factor, whole, block.cut);
                loses |= new > EMPTY_EXP;
                lost = lost.max(new);
                before = (exponent, forgone.at_start[b]);
            } else {
                before = (range::NO_TILE, forgone.at_start[b]);
            }
            smallest_before = smallest;
            if lost > EMPTY_EXP {
                let least = whole_pow2((lost + GUARD) as i64 - exponent).max(f64::MIN_POSITIVE);
                if reached.all_at_least(simd, &block.row.numbers[b], least, b) {
                    lost = EMPTY_EXP;
                } else {
                    allowed &= forgone.allows(b, lost);
                }
            }
            forgone.next[b] = lost;
        }
        Settled::Bounded { loses, allowed }
    }
}

/// The exponent of a bound on each state that a tile of this exponent loses in a block, or that it does not receive
/// from the tile before it, of exponent `before`.
#[inline(always)]
pub(crate) fn new_loss(
    exponent: i64,
    before: i64,
    factor: f64,
    whole: bool,
    cut: Option<i32>,
) -> f64 {
    let flows = before > NO_FLOW;
    let top = if flows {
        exponent.max(before)
    } else {
        exponent
    } as f64;
    let mut lost = EMPTY_EXP;
    if !whole {
        lost = top + range::LOST;
    }
    if flows && factor == 0.0 {
        // No state of the tile before flows on, and they may have grown in this block.
        lost = lost.max(before as f64 + TARGET_EXP + COUNT);
    }
    if let Some(cut) = cut {
        // The largest states, multiplied by an emission below 2^cut.
        lost = lost.max(top + range::MOST_OF_TILES + f64::from(cut));
    }
    lost
}

/// A bound that has grown by `grew` binary orders; [`EMPTY_EXP`], for no loss, stays.
#[inline(always)]
pub(crate) fn grown(bound: f64, grew: f64) -> f64 {
    if bound > EMPTY_EXP {
        bound + grew
    } else {
        EMPTY_EXP
    }
}

/// Bound on the growth of a loss over the frames of a block, in binary orders. A state flows to at most three states of
/// different classes, itself among them.
#[inline(always)]
pub(crate) fn growth<R: Real>(table: &Table<R>, block: usize, frames: usize) -> f64 {
    if table.kind(block).is_raw() {
        growth_with(table.wide(block), frames)
    } else {
        growth_with(table.block(block), frames)
    }
}

#[inline(always)]
fn growth_with<R: Real>(emissions: &[[R; BLOCK_FRAMES]], frames: usize) -> f64 {
    let mut sums = [0.0; BLOCK_FRAMES];
    for emission in emissions {
        for k in 0..BLOCK_FRAMES {
            sums[k] += emission[k].widen();
        }
    }
    let mut product = 1.0;
    for k in 0..frames {
        product *= sums[k].min(3.0);
    }
    exponent_of(product) + 1.0
}

impl ScaledLattice {
    /// Whether `P` is exact although states were lost.
    pub fn certain(&self, alpha: &Track, beta: &Track, met: PathProbability) -> bool {
        (!alpha.forgone.some && !beta.forgone.some)
            || (!met.is_zero()
                && self.within::<Forward>(alpha, beta, met)
                && self.within::<Backward>(beta, alpha, met))
    }

    /// Whether what `track` has lost does not matter. `other` is the other direction.
    fn within<D: Direction>(&self, track: &Track, other: &Track, met: PathProbability) -> bool {
        let mut most = self.most_in_the_middle::<D>(other, met);
        most.all(|(b, most)| track.forgone.tiles[b] <= most)
    }

    /// For each tile that `D` can have reached in the middle, in the order of `D`, the exponent of the largest loss
    /// that does not matter there. A loss is multiplied by at most the largest state of the other direction that it
    /// flows into, or by the other's own loss.
    fn most_in_the_middle<'a, D: Direction>(
        &self,
        other: &'a Track,
        met: PathProbability,
    ) -> impl DoubleEndedIterator<Item = (usize, f64)> + 'a {
        // Each of up to 2^COUNT terms may be lost once.
        const SLACK: f64 = COUNT + GUARD;
        let middle = self.blocks.middle();
        let live = self.live(&(middle..middle));
        let after = live.start..(live.end + 1).min(self.places.len());
        let largest = move |b: usize| {
            let state = other.row.largest_exponent(b..b + 1);
            state.max(other.forgone.tiles[b])
        };
        // Alpha in tile b meets beta in tiles b and b + 1.
        let (own, others) = if D::FORWARD {
            (live, after)
        } else {
            (after, live)
        };
        (0..own.len()).map(move |i| {
            let b = nth::<D>(&own, i);
            let meets = [b, if D::FORWARD { b + 1 } else { b.wrapping_sub(1) }];
            let meets = meets.into_iter().filter(|b| others.contains(b));
            let largest = meets.map(largest).fold(EMPTY_EXP, f64::max);
            (b, met.exponent - SLACK - largest)
        })
    }

    /// What each direction may lose in another sweep, after one that was not [`certain`](Self::certain).
    pub fn budgets(&self, alpha: &Track, beta: &Track, met: PathProbability) -> [Allowance; 2] {
        [
            self.budget::<Forward>(alpha, beta, met),
            self.budget::<Backward>(beta, alpha, met),
        ]
    }

    fn budget<D: Direction>(
        &self,
        track: &Track,
        other: &Track,
        met: PathProbability,
    ) -> Allowance {
        let mut budget = Budget::default();
        if !met.is_zero() {
            budget.growth = track.forgone.growth;
            budget.most.resize(self.places.len(), f64::INFINITY);
            // A loss may flow into any later tile.
            let mut least = f64::INFINITY;
            for (b, most) in self.most_in_the_middle::<D>(other, met).rev() {
                least = least.min(most);
                budget.most[b] = least;
            }
            // Tiles before those that are still live in the middle.
            let first = budget.most.iter().position(|most| most.is_finite());
            let last = budget.most.iter().rposition(|most| most.is_finite());
            match (D::FORWARD, first, last) {
                (true, Some(first), _) => budget.most[..first].fill(least),
                (false, _, Some(last)) => budget.most[last + 1..].fill(least),
                _ => {}
            }
        }
        Allowance::Budget(budget)
    }
}
