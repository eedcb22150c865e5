//! Eight lattices abreast, one to a lane: what [`Tiles::sweep`] does for one of them, to the last bit.
//!
//! With lattices in lanes, what flows from pair to pair flows from vector to vector: no lane is turned, no
//! pair waits for its neighbour, and scales and checks are made for eight at once.

use super::range::{FARTHEST, LEAST_OF_TILES, LOWEST};
use super::{whole_exponent_of as exponent_of, whole_pow2 as pow2, *};

/// Lattices side by side.
pub(in super::super) const LANES: usize = 8;

/// Lattices that are faster side by side than one after the other.
pub(in super::super) const FEWEST: usize = 5;

/// A number for each lane.
type Lanes = Pairs;
/// By pair, or by frame: a number for each lane.
type Numbers = [Lanes; PAIRS];

/// A tile of each lattice.
#[derive(Debug, Clone, Copy)]
struct Block {
    blank: Numbers,
    label: Numbers,
}

/// What the numbers of a tile of each lattice stand for: a state is `number · 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Scales {
    exponent: [i64; LANES],
    factor: Lanes,
    /// The largest state.
    top: Lanes,
    /// What states are multiplied by before the next run, in two steps.
    by: Lanes,
    and_by: Lanes,
}

/// What does not change on the way.
#[derive(Debug, Clone, Copy)]
struct Links {
    skip: Numbers,
    /// Where the label's emissions stand in the table of its lane.
    places: [[u32; LANES]; PAIRS],
}

/// One direction of up to eight lattices.
#[derive(Debug, Default)]
pub(in super::super) struct Abreast {
    blocks: Vec<Block>,
    scales: Vec<Scales>,
    links: Vec<Links>,
    /// By lane: `U_n`, and the entries of a frame.
    labels: [usize; LANES],
    entries: [usize; LANES],
    /// By lane: whether all that it did is sure to be exact, and whether it has not come to its end.
    fit: [bool; LANES],
    goes_on: [bool; LANES],
    /// By lane: a table of emissions in f64.
    wide: [Vec<[f64; RUN]>; LANES],
}

/// One of the lattices, and what comes next for it.
pub(in super::super) struct Lane<'a, R> {
    pub lattice: &'a Tiles,
    pub track: &'a mut Track,
    pub runs: Range<usize>,
    pub table: Table<'a, R>,
}

impl Abreast {
    /// Begins with these lattices.
    pub fn start<'a, D: Direction>(&mut self, lattices: impl Iterator<Item = &'a Tiles>) {
        self.blocks.clear();
        self.scales.clear();
        self.links.clear();
        (self.fit, self.goes_on) = ([false; LANES], [false; LANES]);
        for (j, lattice) in lattices.enumerate() {
            (self.fit[j], self.goes_on[j]) = (true, true);
            (self.labels[j], self.entries[j]) = (lattice.labels, lattice.entries);
            let tiles = lattice.places.len().max(self.blocks.len());
            self.blocks.resize(tiles, NO_BLOCK);
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
            self.blocks[first / PAIRS].blank[first % PAIRS].0[j] = 1.0;
            self.scales[first / PAIRS].top.0[j] = 1.0;
        }
    }

    /// Takes each lane through its runs, as far as they come next. One that has fewer than others is done
    /// with them. A lane's track has the states when it is in the middle.
    pub fn sweep<D: Direction, R: Real>(&mut self, lanes: &mut [Lane<R>]) {
        dispatch_simd(SweepAbreast::<D, R> {
            abreast: self,
            lanes,
            direction: PhantomData,
        });
    }

    /// Whether what a lane did so far is sure to be exact.
    pub fn fits(&self, lane: usize) -> Result<(), OutOfRange> {
        in_range(self.fit[lane])
    }

    /// The `i`th run of each lane that has one; `None` if none has.
    #[inline(always)]
    fn step<'a, D: Direction, R: Real>(
        &mut self,
        lanes: &[Lane<'a, R>],
        i: usize,
    ) -> Option<Step<'a, R>> {
        let mut runs = [None; LANES];
        for j in 0..LANES {
            let lane = lanes.get(j).filter(|lane| i < lane.runs.len());
            let next = lane.map(|lane| nth::<D>(&lane.runs, i));
            // What has stopped has no emissions to go on with.
            self.fit[j] &= self.goes_on[j] || next.is_none();
            runs[j] = next.filter(|_| self.fit[j]);
            if runs[j].is_none() {
                self.stop(j);
            }
        }
        let of_lanes = lanes.iter().zip(runs);
        let table = of_lanes
            .clone()
            .find_map(|(lane, run)| Some(lane.table.run(run?)))?;
        let mut step = Step {
            runs,
            tables: [table; LANES],
            frames: [0; LANES],
            low: [0; LANES],
            high: [0; LANES],
        };
        for (j, (lane, run)) in of_lanes.enumerate() {
            if let Some(run) = run {
                assert_eq!(lane.table.entries, self.entries[j]);
                let frames = lane.lattice.runs.frames_of(run..run + 1);
                let live = lane.lattice.live(&frames);
                step.tables[j] = lane.table.run(run);
                step.frames[j] = frames.len();
                (step.low[j], step.high[j]) = (live.start as i64, live.end as i64);
            }
        }
        Some(step)
    }

    /// Lane `j` has come to its end.
    fn stop(&mut self, j: usize) {
        if self.goes_on[j] {
            self.goes_on[j] = false;
            for places in self.links.iter_mut().flat_map(|links| &mut links.places) {
                places[j] = 0;
            }
        }
    }

    /// Gives each of the live tiles of each lane a fresh exponent. States are not multiplied yet.
    #[inline(always)]
    fn scale<D: Direction>(&mut self, step: &Step<impl Real>) {
        // As [`TileBefore`] has it.
        let (mut own_before, mut before) = ([NO_TILE; LANES], [NO_TILE; LANES]);
        let mut near = [true; LANES];
        for b in ordered::<D>(step.live()) {
            let Scales { exponent, top, .. } = self.scales[b];
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
                    largest - TOP as i64
                } else {
                    NO_TILE
                };
                fresh[j] = if live { wanted } else { exponent[j] };
                let shift = (exponent[j] - wanted).max(-2044);
                let half = shift / 2;
                // What is not live any more must not grow.
                by[j] = if live { pow2(half) } else { 0.0 };
                and_by[j] = pow2(shift - half);
                let change = before[j] - wanted;
                let flows = live & (before[j] > NO_TILE) & (wanted > NO_TILE);
                factor[j] = if flows { pow2(change) } else { 0.0 };
                near[j] &= !flows | ((LOWEST..=FARTHEST as i64).contains(&change));
                own_before[j] = own;
                before[j] = if live { wanted } else { NO_TILE };
            }
            self.scales[b] = Scales {
                exponent: fresh,
                factor: Pairs(factor),
                top,
                by: Pairs(by),
                and_by: Pairs(and_by),
            };
        }
        for j in 0..LANES {
            self.fit[j] &= near[j];
        }
    }

    /// Lane `j` to its track.
    fn give_back<R>(&self, j: usize, lane: &mut Lane<R>) {
        let row = &mut lane.track.row;
        for (b, (tile, scale)) in row.numbers.iter_mut().zip(&mut row.scales).enumerate() {
            let (block, scales) = (&self.blocks[b], &self.scales[b]);
            for i in 0..PAIRS {
                tile.blank.0[i] = block.blank[i].0[j];
                tile.label.0[i] = block.label[i].0[j];
            }
            scale.exponent = scales.exponent[j];
            scale.factor = scales.factor.0[j];
        }
    }
}

const NO_BLOCK: Block = Block {
    blank: [ZEROS; PAIRS],
    label: [ZEROS; PAIRS],
};
const NO_SCALES: Scales = Scales {
    exponent: [0; LANES],
    factor: ZEROS,
    top: ZEROS,
    by: ZEROS,
    and_by: ZEROS,
};
const NO_LINKS: Links = Links {
    skip: [ZEROS; PAIRS],
    places: [[0; LANES]; PAIRS],
};

/// One run of each lane that has one.
struct Step<'a, R> {
    /// Which run.
    runs: [Option<usize>; LANES],
    /// The emissions. A lane without a run has the table of another, and looks at place 0 only.
    tables: [&'a [[R; RUN]]; LANES],
    /// The frames of the run; none where there is no run.
    frames: [usize; LANES],
    /// The live tiles: from `low` to before `high`.
    low: [i64; LANES],
    high: [i64; LANES],
}

impl<'a, R: Real> Step<'a, R> {
    /// Whether a lane has a run that is [`Entries::Raw`].
    fn is_raw(&self, lanes: &[Lane<R>]) -> bool {
        let of_lanes = lanes.iter().zip(self.runs);
        let mut runs = of_lanes.filter_map(|(lane, run)| Some(lane.table.kind(run?)));
        runs.any(Entries::is_raw)
    }

    /// The same with emissions in f64. Those that are not are put into `wide`.
    fn widened<'b>(&self, lanes: &[Lane<'b, R>], wide: &'b mut [Vec<[f64; RUN]>]) -> Step<'b, f64> {
        let mut tables = [None; LANES];
        for (j, (lane, wide)) in lanes.iter().zip(wide).enumerate() {
            let Some(run) = self.runs[j] else { continue };
            tables[j] = Some(if lane.table.kind(run).is_raw() {
                lane.table.wide(run)
            } else {
                wide.clear();
                wide.extend(lane.table.run(run).iter().map(|x| x.map(Real::widen)));
                wide
            });
        }
        let any = tables.iter().flatten().next().copied().unwrap_or_default();
        Step {
            runs: self.runs,
            tables: tables.map(|table| table.unwrap_or(any)),
            frames: self.frames,
            low: self.low,
            high: self.high,
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

/// [`Abreast::sweep`].
struct SweepAbreast<'a, 'b, D, R> {
    abreast: &'a mut Abreast,
    lanes: &'a mut [Lane<'b, R>],
    direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for SweepAbreast<'_, '_, D, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (abreast, lanes) = (self.abreast, self.lanes);
        let steps = lanes.iter().map(|lane| lane.runs.len()).max();
        for i in 0..steps.unwrap_or(0) {
            let Some(step) = abreast.step::<D, R>(lanes, i) else {
                continue;
            };
            abreast.scale::<D>(&step);
            let exact = if step.is_raw(lanes) {
                let mut wide = std::mem::take(&mut abreast.wide);
                let step = step.widened(lanes, &mut wide);
                let exact = dispatch_simd(AdvanceWide::<D> {
                    abreast,
                    step: &step,
                    direction: PhantomData,
                });
                abreast.wide = wide;
                exact
            } else {
                advance::<S, D, R>(simd, abreast, &step)
            };
            for (j, lane) in lanes.iter_mut().enumerate() {
                if step.goes_on(j) {
                    let run = nth::<D>(&lane.runs, i);
                    let live = step.low[j] as usize..step.high[j] as usize;
                    abreast.fit[j] &= exact.0[j] == lane.reachable::<D>(run, live);
                    if lane.ends_with::<D>(run) {
                        abreast.give_back(j, lane);
                    }
                }
            }
        }
    }
}

impl<R> Lane<'_, R> {
    /// Whether `D` is in the middle after `run`.
    fn ends_with<D: Direction>(&self, run: usize) -> bool {
        let half = self.lattice.runs.half::<D>();
        if D::FORWARD {
            run + 1 == half.end
        } else {
            run == half.start
        }
    }

    /// How many states of the live tiles `D` can have reached at the end of `run`.
    fn reachable<D: Direction>(&mut self, run: usize, live: Range<usize>) -> f64 {
        let frames = self.lattice.runs.frames_of(run..run + 1);
        let reached = self.lattice.reached::<D>(&frames, &mut self.track.past);
        let within = |pairs: Range<usize>| {
            let end = pairs.end.min(live.end * PAIRS);
            end.saturating_sub(pairs.start.max(live.start * PAIRS))
        };
        (within(reached.blanks) + within(reached.labels)) as f64
    }
}

/// [`advance`] with emissions in f64.
struct AdvanceWide<'a, 'b, D> {
    abreast: &'a mut Abreast,
    step: &'a Step<'b, f64>,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for AdvanceWide<'_, '_, D> {
    type Output = Lanes;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Lanes {
        advance::<S, D, f64>(simd, self.abreast, self.step)
    }
}

/// Takes the live blocks through a run. How many states of each lane are sure to be exact.
#[inline(always)]
fn advance<S: Simd, D: Direction, R: Real>(
    simd: S,
    abreast: &mut Abreast,
    step: &Step<R>,
) -> Lanes {
    let mut entries = [&step.tables[0][0]; LANES];
    for j in 0..LANES {
        // The blank's are the last; every table has them.
        entries[j] = &step.tables[j][step.tables[j].len() - 1];
    }
    let mut emissions = Emissions {
        blanks: turned(simd, &entries),
        labels: [[ZEROS; RUN]; PAIRS],
    };
    let mut frames = ZEROS;
    let mut partial = false;
    for j in 0..LANES {
        frames.0[j] = step.frames[j] as f64;
        partial |= !step.frames[j].is_multiple_of(RUN);
    }
    let mut edges = [[ZEROS; 2]; RUN];
    let mut exact = ZEROS;
    let going = (0..LANES).filter(|&j| step.goes_on(j));
    let fewest = going.map(|j| abreast.labels[j]).min().unwrap_or(0);
    for b in ordered::<D>(step.live()) {
        let links = &abreast.links[b];
        for i in 0..PAIRS {
            for j in 0..LANES {
                // SAFETY: the place is below `entries` of its lane, as many as its table has; or it is
                // 0, which every table has.
                entries[j] = unsafe { step.tables[j].get_unchecked(links.places[i][j] as usize) };
            }
            let square = &mut emissions.labels[i];
            *square = turned(simd, &entries);
            // There is no label behind the last.
            let pair = b * PAIRS + i;
            if pair >= fewest {
                let mut there = ZEROS;
                for j in 0..LANES {
                    there.0[j] = if pair < abreast.labels[j] { 1.0 } else { 0.0 };
                }
                for v in 0..vectors::<S>() {
                    let there = part(simd, &there, v);
                    for k in 0..RUN {
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
        let (block, scales) = (&mut abreast.blocks[b], &mut abreast.scales[b]);
        let skip = &links.skip;
        for v in 0..vectors::<S>() {
            let lanes = Part {
                block,
                scales,
                skip,
                emissions: &emissions,
                frames: &frames,
                live: &live,
                edges: &mut edges,
                exact: &mut exact,
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

/// The emissions of a run, for each lane.
struct Emissions {
    /// By frame.
    blanks: Numbers,
    /// `[pair][frame]`
    labels: [Numbers; PAIRS],
}

/// A block and what it takes to go through a run.
struct Part<'a> {
    block: &'a mut Block,
    scales: &'a mut Scales,
    skip: &'a Numbers,
    emissions: &'a Emissions,
    /// Frames of each lane.
    frames: &'a Lanes,
    /// 1 in lanes that are live here.
    live: &'a Lanes,
    /// By frame: the blank and the label of the pair of the neighbour that flows into this block, and
    /// then of its own.
    edges: &'a mut [[Lanes; 2]; RUN],
    exact: &'a mut Lanes,
}

/// Vector `v` of all lanes.
#[inline(always)]
fn part<S: Simd>(_: S, lanes: &Lanes, v: usize) -> S::f64s {
    S::as_simd_f64s(&lanes.0).0[v]
}

#[inline(always)]
fn set<S: Simd>(_: S, lanes: &mut Lanes, v: usize, to: S::f64s) {
    S::as_mut_simd_f64s(&mut lanes.0).0[v] = to;
}

impl Part<'_> {
    /// Vector `v` of the lanes. With `PARTIAL`, lanes may have fewer frames than the run.
    #[inline(always)]
    fn pass<S: Simd, D: Direction, const PARTIAL: bool>(self, simd: S, v: usize) {
        let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
        let by = part(simd, &self.scales.by, v);
        let and_by = part(simd, &self.scales.and_by, v);
        let factor = part(simd, &self.scales.factor, v);
        let least = simd.splat_f64s(LEAST_OF_TILES);
        let least = simd.mul_f64s(least, simd.max_f64s(factor, one));
        let frames = part(simd, self.frames, v);
        let (mut blank, mut label) = ([zero; PAIRS], [zero; PAIRS]);
        for i in 0..PAIRS {
            blank[i] = simd.mul_f64s(part(simd, &self.block.blank[i], v), by);
            label[i] = simd.mul_f64s(part(simd, &self.block.label[i], v), by);
            blank[i] = simd.mul_f64s(blank[i], and_by);
            label[i] = simd.mul_f64s(label[i], and_by);
        }
        for j in 0..RUN {
            let k = if D::FORWARD { j } else { RUN - 1 - j };
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
            // Against the flow, so that each pair still finds its neighbour as it was.
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
        // Several sums and maxima, none of which waits for another.
        let (mut exact, mut top) = ([zero; 4], [zero; 4]);
        exact[0] = part(simd, self.exact, v);
        for i in 0..PAIRS {
            for (state, to) in [(blank[i], 2 * (i % 2)), (label[i], 2 * (i % 2) + 1)] {
                // A NaN is not.
                let sure = simd.greater_than_or_equal_f64s(state, least);
                exact[to] = simd.select_f64s(sure, simd.add_f64s(exact[to], live), exact[to]);
                top[to] = simd.max_f64s(top[to], state);
            }
            set(simd, &mut self.block.blank[i], v, blank[i]);
            set(simd, &mut self.block.label[i], v, label[i]);
        }
        let [a, b, c, d] = exact;
        let exact = simd.add_f64s(simd.add_f64s(a, b), simd.add_f64s(c, d));
        let [a, b, c, d] = top;
        let top = simd.max_f64s(simd.max_f64s(a, b), simd.max_f64s(c, d));
        set(simd, self.exact, v, exact);
        set(simd, &mut self.scales.top, v, top);
    }
}
