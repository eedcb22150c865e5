//! Eight interleaved lattices, one per lane: bit-identical to [`ScaledLattice::sweep`] on each of them.
//!
//! With one lattice per lane, states flow from vector to vector: no lanes are shifted, no pair waits for its neighbour,
//! and scales and checks are computed for eight lattices at once.

use super::range::{
    FARTHEST, GUARD, LEAST_KEPT, LEAST_KEPT_OF_TILES, LEAST_OF_TILES, MIN_NORMAL_EXP,
};
use super::{whole_exponent_of as exponent_of, whole_pow2 as pow2, *};

/// Lattices that are interleaved.
pub(crate) const LANES: usize = 8;

/// The smallest number of lattices for which interleaving is faster than computing them one after another.
pub(crate) const FEWEST: usize = 5;

/// A number for each lane.
type Lanes = Pairs;
/// A number for each lane, by pair or by frame.
type Numbers = [Lanes; PAIRS];

/// A tile of each lattice.
#[derive(Debug, Clone, Copy)]
struct JointTile {
    blank: Numbers,
    label: Numbers,
}

/// The scale of a tile of each lattice: a state is `number · 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Scales {
    exponent: [i64; LANES],
    factor: Lanes,
    /// The largest state.
    top: Lanes,
    /// Factors on the states before the next block, in two steps, since their product may be out of the range of f64.
    by: Lanes,
    and_by: Lanes,
    /// States below this are then set to 0.
    least_kept: Lanes,
    /// The exponent of the bound on what was lost, as in [`Forgone::tiles`].
    lost: Lanes,
    /// That exponent after the next block, for lanes in which some state is then below `least`.
    next_lost: Lanes,
    /// The smallest state that is certainly exact after the next block.
    least: Lanes,
    /// The number of states of at least `least`.
    exact: Lanes,
}

/// The links between pairs, constant over all blocks.
#[derive(Debug, Clone, Copy)]
struct Links {
    skip: Numbers,
    /// Indices of the labels' emissions in the table of each lane.
    places: [[u32; LANES]; PAIRS],
}

/// One direction of up to eight lattices.
#[derive(Debug, Default)]
pub(crate) struct Interleaved {
    tiles: Vec<JointTile>,
    scales: Vec<Scales>,
    links: Vec<Links>,
    /// For each lane, `U_n` and the entries of a frame.
    labels: [usize; LANES],
    entries: [usize; LANES],
    /// For each lane, whether it still has frames to go.
    goes_on: [bool; LANES],
    /// As in [`Forgone`], for each lane: whether any tile is not exact, whether any ever was not, and the growth of losses
    /// since then.
    some_lost: [bool; LANES],
    ever_lost: [bool; LANES],
    growth: [f64; LANES],
    /// The emissions of the block in progress. A new array for each block would have to be cleared: 7 % of the
    /// instructions.
    emissions: Box<Emissions>,
    /// For each lane, a table of emissions in f64.
    wide: [Vec<[f64; BLOCK_FRAMES]>; LANES],
}

/// One of the lattices, with the blocks to sweep next.
pub(crate) struct Lane<'a, R> {
    pub lattice: &'a ScaledLattice,
    pub track: &'a mut Track,
    pub blocks: Range<usize>,
    pub table: Table<'a, R>,
}

impl Interleaved {
    /// Starts with these lattices.
    pub fn start<'a, D: Direction>(&mut self, lattices: impl Iterator<Item = &'a ScaledLattice>) {
        self.tiles.clear();
        self.scales.clear();
        self.links.clear();
        self.goes_on = [false; LANES];
        (self.some_lost, self.ever_lost) = ([false; LANES], [false; LANES]);
        self.growth = [0.0; LANES];
        for (j, lattice) in lattices.enumerate() {
            self.goes_on[j] = true;
            (self.labels[j], self.entries[j]) = (lattice.labels, lattice.entries);
            let tiles = lattice.places.len().max(self.tiles.len());
            self.tiles.resize(tiles, NO_JOINT_TILE);
            self.scales.resize(tiles, NO_SCALES);
            self.links.resize(tiles, NO_LINKS);
            let sides = lattice.places.iter().zip(lattice.skip::<D>());
            for (links, (places, skip)) in self.links.iter_mut().zip(sides) {
                for i in 0..PAIRS {
                    links.places[i][j] = places[i];
                    links.skip[i].0[j] = skip.0[i];
                }
            }
            let first = lattice.first::<D>();
            self.tiles[first / PAIRS].blank[first % PAIRS].0[j] = 1.0;
            self.scales[first / PAIRS].top.0[j] = 1.0;
        }
    }

    /// Sweeps each lane through its `blocks`, which must be the next ones. A lane with fewer blocks finishes early.
    /// When a lane reaches the middle, its states are copied to its track.
    pub fn sweep<D: Direction, R: Real>(&mut self, lanes: &mut [Lane<R>]) {
        dispatch_simd(SweepInterleaved::<D, R> {
            interleaved: self,
            lanes,
            direction: PhantomData,
        });
    }

    /// The `i`th block of each lane that has one; `None` if none has.
    #[inline(always)]
    fn step<'a, D: Direction, R: Real>(
        &mut self,
        lanes: &mut [Lane<'a, R>],
        i: usize,
    ) -> Option<Step<'a, R>> {
        let mut blocks = [None; LANES];
        for j in 0..LANES {
            let lane = lanes.get(j).filter(|lane| i < lane.blocks.len());
            let next = lane.map(|lane| nth::<D>(&lane.blocks, i));
            blocks[j] = next.filter(|_| self.goes_on[j]);
            if blocks[j].is_none() {
                self.stop(j);
            }
        }
        let table = lanes
            .iter()
            .zip(blocks)
            .find_map(|(lane, block)| Some(lane.table.block(block?)))?;
        let mut step = Step {
            blocks,
            tables: [table; LANES],
            frames: [0; LANES],
            low: [0; LANES],
            high: [0; LANES],
            cuts: [None; LANES],
            raw: false,
            reached: ReachedOfLanes::NOTHING,
        };
        for (j, (lane, block)) in lanes.iter_mut().zip(blocks).enumerate() {
            if let Some(block) = block {
                assert_eq!(lane.table.entries, self.entries[j]);
                let frames = lane.lattice.blocks.frames_of(block..block + 1);
                let live = lane.lattice.live(&frames);
                step.tables[j] = lane.table.block(block);
                step.frames[j] = frames.len();
                (step.low[j], step.high[j]) = (live.start as i64, live.end as i64);
                let kind = lane.table.kind(block);
                step.cuts[j] = kind.depth().cut;
                step.raw |= kind.is_raw();
                let past = &mut lane.track.past;
                step.reached
                    .set(j, &lane.lattice.reached::<D>(&frames, past));
            }
        }
        Some(step)
    }

    /// Marks lane `j` as finished.
    fn stop(&mut self, j: usize) {
        if self.goes_on[j] {
            self.goes_on[j] = false;
            for places in self.links.iter_mut().flat_map(|links| &mut links.places) {
                places[j] = 0;
            }
        }
    }

    /// The growth of earlier losses in the block of each lane, in binary orders.
    fn grow(&mut self, lanes: &[Lane<impl Real>], step: &Step<impl Real>) -> [f64; LANES] {
        let mut grew = [0.0; LANES];
        for (j, lane) in lanes.iter().enumerate() {
            let Some(block) = step.blocks[j].filter(|_| self.ever_lost[j]) else {
                continue;
            };
            // Candidates of one utterance share their table.
            let shared = j > 0
                && step.blocks[j - 1] == step.blocks[j]
                && grew[j - 1] > 0.0
                && std::ptr::eq(lanes[j - 1].table.values, lane.table.values);
            grew[j] = if shared {
                grew[j - 1]
            } else {
                growth(&lane.table, block, step.frames[j])
            };
            self.growth[j] += grew[j];
        }
        grew
    }

    /// Gives each of the live tiles of each lane a new exponent. The states are multiplied in the next pass. With
    /// `LOSSY`, also bounds what is lost in the next block, in which earlier losses grow by `grew` binary orders. Returns
    /// the lanes in which no state of some tile flows on, since the next tile is too far above.
    #[inline(always)]
    fn scale<D: Direction, const LOSSY: bool>(
        &mut self,
        step: &Step<impl Real>,
        grew: &[f64; LANES],
    ) -> [bool; LANES] {
        // The rules of [`TileBefore`] and of [`Forgone`].
        let (mut own_before, mut before) = ([NO_TILE; LANES], [NO_TILE; LANES]);
        let (mut lost_before, mut stays) = ([EMPTY_EXP; LANES], [false; LANES]);
        for b in ordered::<D>(step.live()) {
            let scales = &mut self.scales[b];
            let (exponent, top) = (scales.exponent, scales.top);
            let at = b as i64;
            let (mut by, mut and_by, mut factor) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            let mut fresh = exponent;
            for j in 0..LANES {
                let live = (step.low[j] <= at) & (at < step.high[j]);
                let held = (top.0[j] > 0.0) & live;
                let own = exponent[j] + exponent_of(top.0[j]);
                let own = if held { own } else { NO_TILE };
                let largest = own.max(own_before[j]);
                let wanted = if largest > NO_TILE {
                    (largest - TARGET_EXP as i64).max(before[j] - FARTHEST as i64)
                } else {
                    NO_TILE
                };
                fresh[j] = if live { wanted } else { exponent[j] };
                let shift = (exponent[j] - wanted).max(-2044);
                let half = shift / 2;
                // Tiles that are no longer live must not grow.
                by[j] = if live { pow2(half) } else { 0.0 };
                and_by[j] = pow2(shift - half);
                let change = before[j] - wanted;
                let flows = live & (before[j] > NO_TILE) & (wanted > NO_TILE);
                factor[j] = if flows { pow2(change) } else { 0.0 };
                stays[j] |= flows & (change < MIN_NORMAL_EXP);
                if LOSSY {
                    if live && scales.lost.0[j] > EMPTY_EXP {
                        let dropped = wanted as f64 + LEAST_KEPT;
                        scales.lost.0[j] = scales.lost.0[j].max(dropped);
                        scales.least_kept.0[j] = LEAST_KEPT_OF_TILES;
                    } else {
                        scales.least_kept.0[j] = 0.0;
                    }
                    let earlier = scales.lost.0[j].max(lost_before[j]);
                    let mut lost = grown(earlier, grew[j]);
                    if wanted > NO_TILE {
                        let before = if flows { before[j] } else { NO_TILE };
                        let new = new_loss(wanted, before, factor[j], false, step.cuts[j]);
                        lost = lost.max(new);
                    }
                    let least = pow2((lost + GUARD) as i64 - wanted);
                    scales.least.0[j] = least.max(f64::MIN_POSITIVE);
                    scales.next_lost.0[j] = lost;
                    lost_before[j] = if live { scales.lost.0[j] } else { EMPTY_EXP };
                }
                own_before[j] = own;
                before[j] = if live { wanted } else { NO_TILE };
            }
            scales.exponent = fresh;
            scales.factor = Pairs(factor);
            (scales.by, scales.and_by) = (Pairs(by), Pairs(and_by));
        }
        stays
    }

    /// Updates the bounds of lane `j` after a block: that of each tile that is not exact. If `exact`, all tiles are.
    /// Without `lossy`, nothing had been lost before the block.
    #[inline(never)]
    fn settle<D: Direction>(&mut self, j: usize, step: &Step<impl Real>, exact: bool, lossy: bool) {
        let mut before = NO_TILE;
        let mut some = false;
        for b in ordered::<D>(step.low[j] as usize..step.high[j] as usize) {
            let scales = &mut self.scales[b];
            let (exponent, at) = (scales.exponent[j], b as i64);
            let stays = (before > NO_TILE) & (exponent > NO_TILE) & (scales.factor.0[j] == 0.0);
            let exact = exact
                || (scales.exact.0[j] >= step.reached.count(j, at..at + 1) && (lossy || !stays));
            let new = if exact {
                EMPTY_EXP
            } else if lossy {
                scales.next_lost.0[j]
            } else if exponent > NO_TILE {
                new_loss(exponent, before, scales.factor.0[j], false, None)
            } else {
                // The tile before holds nothing, and has lost nothing.
                EMPTY_EXP
            };
            scales.lost.0[j] = new;
            some |= new > EMPTY_EXP;
            before = exponent;
        }
        self.some_lost[j] = some;
        self.ever_lost[j] |= some;
    }

    /// Copies lane `j` to its track.
    fn give_back<R>(&self, j: usize, lane: &mut Lane<R>) {
        let Track { row, forgone, .. } = &mut *lane.track;
        for (b, (tile, scale)) in row.numbers.iter_mut().zip(&mut row.scales).enumerate() {
            let (joint, scales) = (&self.tiles[b], &self.scales[b]);
            for i in 0..PAIRS {
                tile.blank.0[i] = joint.blank[i].0[j];
                tile.label.0[i] = joint.label[i].0[j];
            }
            scale.exponent = scales.exponent[j];
            scale.factor = scales.factor.0[j];
            forgone.tiles[b] = scales.lost.0[j];
        }
        (forgone.some, forgone.ever) = (self.some_lost[j], self.ever_lost[j]);
        forgone.growth = self.growth[j];
    }
}

const NO_JOINT_TILE: JointTile = JointTile {
    blank: [ZEROS; PAIRS],
    label: [ZEROS; PAIRS],
};
const NO_SCALES: Scales = Scales {
    exponent: [0; LANES],
    factor: ZEROS,
    top: ZEROS,
    by: ZEROS,
    and_by: ZEROS,
    least_kept: ZEROS,
    lost: Pairs([EMPTY_EXP; LANES]),
    next_lost: Pairs([EMPTY_EXP; LANES]),
    least: ZEROS,
    exact: ZEROS,
};
const NO_LINKS: Links = Links {
    skip: [ZEROS; PAIRS],
    places: [[0; LANES]; PAIRS],
};

/// One block of each lane that has one.
struct Step<'a, R> {
    /// The index of each block.
    blocks: [Option<usize>; LANES],
    /// The emissions. A lane without a block borrows another lane's table and reads only index 0.
    tables: [&'a [[R; BLOCK_FRAMES]]; LANES],
    /// The frames of the block; 0 if there is no block.
    frames: [usize; LANES],
    /// The live tiles: `low..high`.
    low: [i64; LANES],
    high: [i64; LANES],
    /// Emissions below 2^cut were replaced by 0.
    cuts: [Option<i32>; LANES],
    /// Whether any block is [`Entries::Raw`].
    raw: bool,
    /// The states that can be reached at the end of the block.
    reached: ReachedOfLanes,
}

/// For each lane, the pairs whose blank, and those whose label, can be reached: their start and their end.
#[derive(Debug, Clone, Copy)]
struct ReachedOfLanes {
    blanks: [Lanes; 2],
    labels: [Lanes; 2],
}

impl ReachedOfLanes {
    const NOTHING: Self = Self {
        blanks: [ZEROS; 2],
        labels: [ZEROS; 2],
    };

    fn set(&mut self, lane: usize, Reached { blanks, labels }: &Reached) {
        for (to, range) in [(&mut self.blanks, blanks), (&mut self.labels, labels)] {
            to[0].0[lane] = range.start as f64;
            to[1].0[lane] = range.end as f64;
        }
    }

    /// The number of states of some tiles of a lane that can be reached.
    fn count(&self, lane: usize, tiles: Range<i64>) -> f64 {
        let [first, last] = [tiles.start, tiles.end].map(|tile| (tile * PAIRS as i64) as f64);
        let counts = [&self.blanks, &self.labels].map(|[start, end]| {
            let (start, end) = (start.0[lane].max(first), end.0[lane].min(last));
            (end - start).max(0.0)
        });
        counts.iter().sum()
    }
}

impl<'a, R: Real> Step<'a, R> {
    /// The same with emissions in f64, converted into `wide` where necessary.
    fn widened<'b>(
        &self,
        lanes: &[Lane<'b, R>],
        wide: &'b mut [Vec<[f64; BLOCK_FRAMES]>],
    ) -> Step<'b, f64> {
        let mut tables = [None; LANES];
        for (j, (lane, wide)) in lanes.iter().zip(wide).enumerate() {
            let Some(block) = self.blocks[j] else {
                continue;
            };
            tables[j] = Some(if lane.table.kind(block).is_raw() {
                lane.table.wide(block)
            } else {
                wide.clear();
                wide.extend(lane.table.block(block).iter().map(|x| x.map(Real::widen)));
                wide
            });
        }
        let any = tables.iter().flatten().next().copied().unwrap_or_default();
        Step {
            blocks: self.blocks,
            tables: tables.map(|table| table.unwrap_or(any)),
            frames: self.frames,
            low: self.low,
            high: self.high,
            cuts: self.cuts,
            raw: self.raw,
            reached: self.reached,
        }
    }
}

impl<R> Step<'_, R> {
    fn goes_on(&self, lane: usize) -> bool {
        self.frames[lane] > 0
    }

    /// The tiles that are live in some lane.
    fn live(&self) -> Range<usize> {
        let lanes = || (0..LANES).filter(|&j| self.goes_on(j));
        let low = lanes().map(|j| self.low[j]).min().unwrap_or(0);
        let high = lanes().map(|j| self.high[j]).max().unwrap_or(0);
        low as usize..high as usize
    }
}

/// [`Interleaved::sweep`].
struct SweepInterleaved<'a, 'b, D, R> {
    interleaved: &'a mut Interleaved,
    lanes: &'a mut [Lane<'b, R>],
    direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for SweepInterleaved<'_, '_, D, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (interleaved, lanes) = (self.interleaved, self.lanes);
        let steps = lanes.iter().map(|lane| lane.blocks.len()).max();
        for i in 0..steps.unwrap_or(0) {
            let Some(step) = interleaved.step::<D, R>(lanes, i) else {
                continue;
            };
            let grew = interleaved.grow(lanes, &step);
            let lossy = interleaved.some_lost.contains(&true) || step.cuts != [None; LANES];
            let stays = if lossy {
                interleaved.scale::<D, true>(&step, &grew)
            } else {
                interleaved.scale::<D, false>(&step, &grew)
            };
            let exact = if step.raw {
                let mut wide = std::mem::take(&mut interleaved.wide);
                let step = step.widened(lanes, &mut wide);
                let exact = dispatch_simd(AdvanceWide::<D> {
                    interleaved,
                    step: &step,
                    lossy,
                    direction: PhantomData,
                });
                interleaved.wide = wide;
                exact
            } else {
                advance::<S, D, R>(simd, interleaved, &step, lossy)
            };
            for (j, lane) in lanes.iter_mut().enumerate() {
                if step.goes_on(j) {
                    let all = exact.0[j] == step.reached.count(j, step.low[j]..step.high[j]);
                    let all = all && !stays[j];
                    if !all || interleaved.some_lost[j] {
                        interleaved.settle::<D>(j, &step, all, lossy);
                    }
                    let block = nth::<D>(&lane.blocks, i);
                    if lane.ends_with::<D>(block) {
                        interleaved.give_back(j, lane);
                    }
                }
            }
        }
    }
}

impl<R> Lane<'_, R> {
    /// Whether `D` reaches the middle after `block`.
    fn ends_with<D: Direction>(&self, block: usize) -> bool {
        let half = self.lattice.blocks.half::<D>();
        if D::FORWARD {
            block + 1 == half.end
        } else {
            block == half.start
        }
    }
}

/// [`advance`] with emissions in f64.
struct AdvanceWide<'a, 'b, D> {
    interleaved: &'a mut Interleaved,
    step: &'a Step<'b, f64>,
    lossy: bool,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for AdvanceWide<'_, '_, D> {
    type Output = Lanes;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Lanes {
        advance::<S, D, f64>(simd, self.interleaved, self.step, self.lossy)
    }
}

/// Takes the live tiles through a block. Returns the number of states of each lane that are certainly exact. With
/// `lossy`, the bounds on what was lost are those of [`Scales`].
#[inline(always)]
fn advance<S: Simd, D: Direction, R: Real>(
    simd: S,
    interleaved: &mut Interleaved,
    step: &Step<R>,
    lossy: bool,
) -> Lanes {
    let mut entries = [&step.tables[0][0]; LANES];
    for j in 0..LANES {
        // The blank's emissions are the last; every table has them.
        entries[j] = &step.tables[j][step.tables[j].len() - 1];
    }
    let Interleaved {
        emissions,
        tiles,
        scales,
        links,
        labels,
        ..
    } = interleaved;
    emissions.blanks = transpose_widen(simd, &entries);
    let mut frames = ZEROS;
    let mut partial = false;
    for j in 0..LANES {
        frames.0[j] = step.frames[j] as f64;
        partial |= !step.frames[j].is_multiple_of(BLOCK_FRAMES);
    }
    let mut edges = [[ZEROS; 2]; BLOCK_FRAMES];
    let mut exact = ZEROS;
    let going = (0..LANES).filter(|&j| step.goes_on(j));
    let fewest = going.map(|j| labels[j]).min().unwrap_or(0);
    for b in ordered::<D>(step.live()) {
        let links = &links[b];
        for i in 0..PAIRS {
            for j in 0..LANES {
                // SAFETY: the place is below `entries` of its lane, which is the length of its table; or it is 0, which
                // every table has.
                entries[j] = unsafe { step.tables[j].get_unchecked(links.places[i][j] as usize) };
            }
            let square = &mut emissions.labels[i];
            *square = transpose_widen(simd, &entries);
            // There is no label after the last.
            let pair = b * PAIRS + i;
            if pair >= fewest {
                let mut there = ZEROS;
                for j in 0..LANES {
                    there.0[j] = if pair < labels[j] { 1.0 } else { 0.0 };
                }
                for v in 0..vectors::<S>() {
                    let there = part(simd, &there, v);
                    for k in 0..BLOCK_FRAMES {
                        let y = part(simd, &square[k], v);
                        set(simd, &mut square[k], v, simd.mul_f64s(y, there));
                    }
                }
            }
        }
        let mut live = ZEROS;
        for j in 0..LANES {
            let here = step.low[j] <= b as i64 && (b as i64) < step.high[j];
            live.0[j] = if here { 1.0 } else { 0.0 };
        }
        let (joint, scales) = (&mut tiles[b], &mut scales[b]);
        let skip = &links.skip;
        for v in 0..vectors::<S>() {
            let lanes = Part {
                joint,
                scales,
                skip,
                emissions,
                frames: &frames,
                live: &live,
                edges: &mut edges,
                exact: &mut exact,
                lossy,
            };
            if partial {
                lanes.pass::<S, D, true>(simd, v);
            } else {
                lanes.pass::<S, D, false>(simd, v);
            }
        }
    }
    exact
}

/// The emissions of a block, for each lane.
#[derive(Debug)]
struct Emissions {
    /// By frame.
    blanks: Numbers,
    /// `[pair][frame]`
    labels: [Numbers; PAIRS],
}

impl Default for Emissions {
    fn default() -> Self {
        Self {
            blanks: [ZEROS; BLOCK_FRAMES],
            labels: [[ZEROS; BLOCK_FRAMES]; PAIRS],
        }
    }
}

/// A joint tile, and its inputs for a block.
struct Part<'a> {
    joint: &'a mut JointTile,
    scales: &'a mut Scales,
    skip: &'a Numbers,
    emissions: &'a Emissions,
    /// Frames of each lane.
    frames: &'a Lanes,
    /// 1 in lanes in which this tile is live.
    live: &'a Lanes,
    /// For each frame, the blank and the label at the edge of the neighbour that flows into this tile, and on return of
    /// this tile's own edge.
    edges: &'a mut [[Lanes; 2]; BLOCK_FRAMES],
    exact: &'a mut Lanes,
    lossy: bool,
}

/// Vector `v` of the lanes.
#[inline(always)]
fn part<S: Simd>(_: S, lanes: &Lanes, v: usize) -> S::f64s {
    S::as_simd_f64s(&lanes.0).0[v]
}

#[inline(always)]
fn set<S: Simd>(_: S, lanes: &mut Lanes, v: usize, to: S::f64s) {
    S::as_mut_simd_f64s(&mut lanes.0).0[v] = to;
}

impl Part<'_> {
    /// Takes vector `v` of the lanes through a block. With `PARTIAL`, lanes may have fewer frames than the block.
    #[inline(always)]
    fn pass<S: Simd, D: Direction, const PARTIAL: bool>(self, simd: S, v: usize) {
        let zero = simd.splat_f64s(0.0);
        let by = part(simd, &self.scales.by, v);
        let and_by = part(simd, &self.scales.and_by, v);
        let factor = part(simd, &self.scales.factor, v);
        let least = if self.lossy {
            part(simd, &self.scales.least, v)
        } else {
            let least = simd.splat_f64s(LEAST_OF_TILES);
            simd.mul_f64s(least, simd.max_f64s(factor, simd.splat_f64s(1.0)))
        };
        let frames = part(simd, self.frames, v);
        let (mut blank, mut label) = ([zero; PAIRS], [zero; PAIRS]);
        for i in 0..PAIRS {
            blank[i] = simd.mul_f64s(part(simd, &self.joint.blank[i], v), by);
            label[i] = simd.mul_f64s(part(simd, &self.joint.label[i], v), by);
            blank[i] = simd.mul_f64s(blank[i], and_by);
            label[i] = simd.mul_f64s(label[i], and_by);
        }
        if self.lossy {
            let least_kept = part(simd, &self.scales.least_kept, v);
            for i in 0..PAIRS {
                let kept = simd.greater_than_or_equal_f64s(blank[i], least_kept);
                blank[i] = simd.select_f64s(kept, blank[i], zero);
                let kept = simd.greater_than_or_equal_f64s(label[i], least_kept);
                label[i] = simd.select_f64s(kept, label[i], zero);
            }
        }
        for j in 0..BLOCK_FRAMES {
            let k = if D::FORWARD { j } else { BLOCK_FRAMES - 1 - j };
            let edge = &mut self.edges[k];
            let outside = [
                simd.mul_f64s(part(simd, &edge[0], v), factor),
                simd.mul_f64s(part(simd, &edge[1], v), factor),
            ];
            let last = if D::FORWARD { PAIRS - 1 } else { 0 };
            set(simd, &mut edge[0], v, blank[last]);
            set(simd, &mut edge[1], v, label[last]);
            let y = part(simd, &self.emissions.blanks[k], v);
            let here = simd.less_than_f64s(simd.splat_f64s(k as f64), frames);
            // Against the flow, so that each pair still finds its neighbour's previous state.
            for j in 0..PAIRS {
                let (i, before) = if D::FORWARD {
                    let i = PAIRS - 1 - j;
                    let before = if i > 0 { label[i - 1] } else { outside[1] };
                    (i, [before, before])
                } else if j + 1 < PAIRS {
                    (j, [blank[j + 1], label[j + 1]])
                } else {
                    (j, outside)
                };
                let (own_blank, own_label) = (blank[i], label[i]);
                let both = simd.add_f64s(own_label, own_blank);
                let skip = part(simd, &self.skip[i], v);
                let (to_blank, to_label) = if D::FORWARD {
                    let to_blank = simd.add_f64s(before[0], own_blank);
                    (to_blank, mul_add_f64(simd, before[1], skip, both))
                } else {
                    let near = simd.add_f64s(before[0], own_label);
                    (both, mul_add_f64(simd, before[1], skip, near))
                };
                blank[i] = simd.mul_f64s(to_blank, y);
                let y = part(simd, &self.emissions.labels[i][k], v);
                label[i] = simd.mul_f64s(to_label, y);
                if PARTIAL {
                    blank[i] = simd.select_f64s(here, blank[i], own_blank);
                    label[i] = simd.select_f64s(here, label[i], own_label);
                }
            }
        }
        let live = part(simd, self.live, v);
        // Several independent sums and maxima, so that none waits for another.
        let (mut exact, mut top) = ([zero; 4], [zero; 4]);
        for i in 0..PAIRS {
            for (state, to) in [(blank[i], 2 * (i % 2)), (label[i], 2 * (i % 2) + 1)] {
                // False for NaN.
                let sure = simd.greater_than_or_equal_f64s(state, least);
                exact[to] = simd.select_f64s(sure, simd.add_f64s(exact[to], live), exact[to]);
                top[to] = simd.max_f64s(top[to], state);
            }
            set(simd, &mut self.joint.blank[i], v, blank[i]);
            set(simd, &mut self.joint.label[i], v, label[i]);
        }
        let [a, b, c, d] = exact;
        let exact = simd.add_f64s(simd.add_f64s(a, b), simd.add_f64s(c, d));
        let [a, b, c, d] = top;
        let top = simd.max_f64s(simd.max_f64s(a, b), simd.max_f64s(c, d));
        set(simd, &mut self.scales.top, v, top);
        set(simd, &mut self.scales.exact, v, exact);
        let total = part(simd, self.exact, v);
        set(simd, self.exact, v, simd.add_f64s(total, exact));
    }
}
