//! The forward-backward recursion of CTC in plain f64, tile by tile.
//!
//! The extended target blank, l_1, blank, …, l_U, blank has 2U + 1 states. They are kept as pairs:
//! `blank[i]` stands before label i (and `blank[U]` behind the last), `label[i]` is label i. With
//! `y_t` the emissions, divided by the largest of their frame, and `skip[i]` = 1 where label i
//! differs from the one before it:
//!
//! ```text
//! alpha_t(blank i) = y_t(blank)   · (alpha(blank i) + alpha(label i−1))                        at t−1
//! alpha_t(label i) = y_t(label i) · (alpha(label i) + alpha(blank i) + skip[i] · alpha(label i−1))
//! beta_t(blank i)  = y_t(blank)   · (beta(blank i) + beta(label i))                            at t+1
//! beta_t(label i)  = y_t(label i) · (beta(label i) + beta(blank i+1) + skip[i+1] · beta(label i+1))
//! ```
//!
//! Both include the emission of their own frame. What stands in brackets is called the *inflow*;
//! `posterior_t(s) = alpha_t(s) · inflow of beta_t(s) / P`, and the same with the two exchanged.
//! So the two directions start at both ends, meet in the middle, where `P` is known, and each
//! walks on through the half that the other has behind it, forming posteriors as it goes.
//!
//! **Tiles and runs.** A tile is 16 pairs; a run is up to 8 frames. A tile goes through all frames
//! of a run with its states in registers and leaves behind what its neighbour needs of it in each
//! frame. Only the states at the start of each run are kept (a *checkpoint*); the walk makes the
//! rows of a run again from there.
//!
//! **Scale.** Groups of 8 pairs share a power of two, set anew before each run so that the largest
//! state of a group is near 2^[`TOP`], or less where a neighbour is far ahead: a group's exponent is
//! at most [`AHEAD`] below that of the group from which states flow into it. In the 8 frames of a
//! run states flow no further than one group, and no state grows by more than 3^8 < 2^13, so nothing
//! exceeds 2^(TOP + AHEAD + 13) < 2^1023.
//!
//! **What is lost.** A state below 2^-1022 may vanish. What vanishes in a run can reach a state of
//! the next group multiplied by at most 2^(AHEAD + 26). So it is less than 2^-60 of any state that
//! ends the run above [`LEAST`] = 2^(-1022 + AHEAD + 26 + 60). On the way to the middle, a run that
//! ends with a live state below that is [`Unfit`], as is one with groups too far apart for a factor
//! between them; so `P` is exact. On the way on, states that no path needs any more may vanish.
//! That none is missed shows in each frame: the posteriors must add up to 1 within [`OFF`]. An item that does not
//! fit is computed in numbers with exponents of their own (`wide`).

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

use super::emission::fold_lanes;
use super::isa::{dispatch_simd, mul_add_f64};
use super::real::Real;
use super::runs::{Backward, Direction, RUN, Runs, Table, ordered};
use super::square::{Square, transpose};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;
use std::ops::Range;

/// Pairs of a tile.
pub(super) const PAIRS: usize = 16;
/// Pairs that share an exponent.
const GROUP: usize = 8;
const GROUPS: usize = PAIRS / GROUP;
// States flow by one pair a frame: in a run no further than one group, and a group's frames are as many
// as its pairs.
const _: () = assert!(RUN == GROUP);

/// The largest state of a group is brought to between 2^TOP and 2^(TOP + 1).
const TOP: i64 = 350;
/// The most that the exponent of a group may be below that of the group it receives from.
const AHEAD: i64 = 300;
/// The exponent of the least state that is sure to be exact.
const LEAST: i64 = -1022 + AHEAD + 26 + 60;
/// The exponent of a group that holds nothing and receives nothing.
const NOWHERE: i64 = -(1 << 40);
/// How far from 1 the posteriors of a frame may add up to. Rounding over 20000 frames takes 1e-12.
const OFF: f64 = 1e-10;

/// This arithmetic does not hold the item's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

fn fits(fit: bool) -> Result<(), Unfit> {
    if fit { Ok(()) } else { Err(Unfit) }
}

/// One value for each pair of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Pairs([f64; PAIRS]);

const ZEROS: Pairs = Pairs([0.0; PAIRS]);

/// One value for each state of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Tile {
    blank: Pairs,
    label: Pairs,
}

const EMPTY: Tile = Tile {
    blank: ZEROS,
    label: ZEROS,
};

/// A tile at some frame. A state is `number · 2^(exponent of its group − TOP)`.
#[derive(Debug, Clone, Copy)]
struct Place {
    numbers: Tile,
    exponents: [i64; GROUPS],
    /// What numbers are multiplied by that flow into a group from the one before it.
    factors: [f64; GROUPS],
}

const NOTHING: Place = Place {
    numbers: EMPTY,
    exponents: [TOP; GROUPS],
    factors: [1.0; GROUPS],
};

/// The states of one direction, and its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Track {
    tiles: Vec<Place>,
    /// The live tiles at the start of each run, and where each run begins.
    kept: Vec<Place>,
    starts: Vec<usize>,
    /// The labels that can be reached before the frame that was consumed last.
    past: usize,
}

/// What a run works with.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    emissions: Spread,
    /// `[tile][frame]`: the rows of the other direction.
    rows: Vec<[Tile; RUN]>,
    /// By tile: what makes posteriors of products.
    scales: Vec<Pairs>,
    /// `[tile][frame]`: the posteriors of the labels.
    posterior: Vec<[Pairs; RUN]>,
    /// By entry: the posterior of its class in each frame.
    classes: Vec<[f64; RUN]>,
    other: Track,
}

/// The emissions of a run, as the tiles read them.
#[derive(Debug, Default)]
struct Spread {
    /// `[tile][frame]`
    labels: Vec<[Pairs; RUN]>,
    blanks: [f64; RUN],
}

/// Where the two directions met: `P = mantissa · 2^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    mantissa: f64,
    exponent: i64,
}

impl Met {
    /// Adds `number · 2^e`, for a number that is 0 or normal.
    fn add(&mut self, number: f64, e: i64) {
        if number > 0.0 {
            let own = exponent_of(number);
            let top = self.exponent.max(own + e);
            self.mantissa = self.mantissa * pow2(self.exponent - top)
                + number * pow2(-own) * pow2(own + e - top);
            self.exponent = top;
        }
    }

    pub fn ln(self) -> f64 {
        self.mantissa.ln() + self.exponent as f64 * std::f64::consts::LN_2
    }
}

/// `2^e`: 0 below the normal numbers, and no more than 2^1023.
#[inline(always)]
fn pow2(e: i64) -> f64 {
    if e < -1022 {
        0.0
    } else {
        f64::from_bits(((e.min(1023) + 1023) as u64) << 52)
    }
}

/// The exponent of a normal number above 0.
#[inline(always)]
fn exponent_of(x: f64) -> i64 {
    (x.to_bits() >> 52) as i64 - 1023
}

/// What one direction needs to know of a target.
#[derive(Debug, Default)]
struct Side {
    /// By pair: 1 where its label may follow the one before it with no blank between.
    skip: Vec<Pairs>,
    /// For each label, in the order in which this direction meets them: the frames that it takes to get
    /// there.
    needed: Vec<usize>,
}

impl Side {
    /// This direction meets label `at(j)` as its j-th.
    fn prepare(&mut self, target: &[u32], tiles: usize, at: impl Fn(usize) -> usize) {
        self.skip.clear();
        self.skip.resize(tiles, ZEROS);
        self.needed.clear();
        let mut needed = 0;
        for j in 0..target.len() {
            let i = at(j);
            let differs = j > 0 && target[i] != target[at(j - 1)];
            self.skip[i / PAIRS].0[i % PAIRS] = f64::from(differs);
            // A repeat takes one more, for the blank before it.
            needed += if j == 0 || differs { 1 } else { 2 };
            self.needed.push(needed);
        }
    }
}

/// The pairs whose blanks, and those whose labels, can be reached.
#[derive(Debug, Clone)]
struct Reached {
    blanks: Range<usize>,
    labels: Range<usize>,
}

/// The lattice of one item.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    runs: Runs,
    /// `U_n`.
    labels: usize,
    /// Emissions of a frame; the blank's is the last.
    entries: usize,
    /// For each pair, which of them is its label's.
    places: Vec<[u32; PAIRS]>,
    forward: Side,
    backward: Side,
}

impl Tiles {
    /// Becomes the lattice of `target`. A frame has `entries` emissions: that of label i stands at
    /// `places[i]`, that of the blank is the last.
    pub fn prepare(&mut self, frames: usize, target: &[u32], places: &[u32], entries: usize) {
        let labels = target.len();
        let tiles = labels / PAIRS + 1;
        assert!(places.iter().all(|&place| (place as usize) < entries));
        self.runs = Runs { frames };
        self.labels = labels;
        self.entries = entries;
        self.places.clear();
        self.places.resize(tiles, [0; PAIRS]);
        self.places.as_flattened_mut()[..labels].copy_from_slice(places);
        self.forward.prepare(target, tiles, |j| j);
        self.backward.prepare(target, tiles, |j| labels - 1 - j);
    }

    /// The tiles with pairs that can be reached from the start before frame `run.end`, and from
    /// which the end can be reached after frame `run.start`.
    #[inline(always)]
    fn live(&self, run: &Range<usize>) -> Range<usize> {
        let low = self.labels.saturating_sub(self.runs.frames - run.start + 1);
        let high = run.end.min(self.labels);
        low / PAIRS..high / PAIRS + 1
    }

    /// The labels of tile `b`: as many as it has pairs, or up to the last label.
    #[inline(always)]
    fn labels_of(&self, b: usize) -> Range<usize> {
        b * PAIRS..((b + 1) * PAIRS).min(self.labels)
    }

    #[inline(always)]
    fn side<D: Direction>(&self) -> &Side {
        if D::FORWARD {
            &self.forward
        } else {
            &self.backward
        }
    }

    /// What `D` can have reached after `consumed` frames, of which `past` labels before the last of them:
    /// that count is brought up to date.
    #[inline(always)]
    fn reached<D: Direction>(&self, consumed: usize, past: &mut usize) -> Reached {
        let needed = &self.side::<D>().needed;
        while needed.get(*past).is_some_and(|&needed| needed < consumed) {
            *past += 1;
        }
        // Behind each label a blank takes one frame more, as the next label does if it is another.
        let labels = *past + usize::from(needed.get(*past) == Some(&consumed));
        if D::FORWARD {
            Reached {
                blanks: 0..*past + 1,
                labels: 0..labels,
            }
        } else {
            Reached {
                blanks: self.labels - *past..self.labels + 1,
                labels: self.labels - labels..self.labels,
            }
        }
    }

    /// Sets `track` to before the first frame of `D`.
    pub fn start<D: Direction>(&self, track: &mut Track) {
        track.tiles.clear();
        track.tiles.resize(self.places.len(), NOTHING);
        track.kept.clear();
        track.starts.clear();
        track.past = 0;
        let first = if D::FORWARD { 0 } else { self.labels };
        track.tiles[first / PAIRS].numbers.blank.0[first % PAIRS] = 1.0;
    }

    /// Takes `track` through `runs` on the way to the middle, as far as they come next. With `keep`, the
    /// start of each is kept.
    pub fn sweep<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        runs: Range<usize>,
        table: Table<R>,
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Unfit> {
        dispatch_simd(Sweep::<D, R> {
            lattice: self,
            track,
            runs,
            table,
            keep,
            scratch,
            direction: PhantomData,
        })
    }

    /// `P`, where the two directions have met.
    pub fn meet(&self, alpha: &Track, beta: &Track) -> Result<Met, Unfit> {
        const SMALLER: i64 = 480;
        let middle = self.runs.middle();
        let mut met = Met {
            mantissa: 0.0,
            exponent: NOWHERE,
        };
        for b in self.live(&(middle..middle)) {
            let (alpha, here) = (&alpha.tiles[b], &beta.tiles[b]);
            let above = beta.tiles.get(b + 1).unwrap_or(&NOTHING);
            let sums = self.products(b, alpha, [here, above], 1.0);
            for g in 0..GROUPS {
                let e = alpha.exponents[g] + here.exponents[g] - 2 * TOP;
                if sums[g].is_finite() {
                    met.add(sums[g], e);
                } else {
                    // Of the products so scaled, those that vanish do not matter.
                    let sums = self.products(b, alpha, [here, above], pow2(-SMALLER));
                    fits(sums[g].is_finite())?;
                    met.add(sums[g], e + 2 * SMALLER);
                }
            }
        }
        fits(met.mantissa > 0.0)?;
        Ok(met)
    }

    /// By group of tile `b`: the sum of the products of its alphas and what flows into its betas, which
    /// are those of `here` and of the tile above it. Both are multiplied by `scale` first.
    fn products(
        &self,
        b: usize,
        alpha: &Place,
        [here, above]: [&Place; 2],
        scale: f64,
    ) -> [f64; GROUPS] {
        let factor = spread::<Backward>(&here.factors).0;
        let skip = &self.backward.skip[b].0;
        let (blank, label) = (&here.numbers.blank.0, &here.numbers.label.0);
        let mut sums = [0.0; GROUPS];
        for k in 0..PAIRS {
            let (next_blank, next_label) = if k + 1 < PAIRS {
                (blank[k + 1], label[k + 1])
            } else {
                (above.numbers.blank.0[0], above.numbers.label.0[0])
            };
            let to_blank = blank[k] + label[k];
            let to_label = label[k] + next_blank * factor[k] + next_label * (skip[k] * factor[k]);
            let alpha = (alpha.numbers.blank.0[k], alpha.numbers.label.0[k]);
            sums[k / GROUP] += (alpha.0 * scale) * (to_blank * scale);
            sums[k / GROUP] += (alpha.1 * scale) * (to_label * scale);
        }
        sums
    }

    /// Takes `track` on past the middle, through the half that `other` has behind it. `half` is the
    /// table of the emissions there and receives the posteriors of the classes in their place.
    pub fn walk<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        other: &Track,
        met: Met,
        half: &mut [[R; RUN]],
        scratch: &mut Scratch,
    ) -> Result<(), Unfit> {
        dispatch_simd(Walk::<D, R> {
            lattice: self,
            track,
            other,
            met,
            half,
            scratch,
            direction: PhantomData,
        })
    }

    /// Takes the live tiles through the frames of a run, and `visitor` along.
    #[inline(always)]
    fn advance<S: Simd, D: Direction, V: Visitor>(
        &self,
        simd: S,
        tiles: &mut [Place],
        emissions: &Spread,
        frames: usize,
        live: Range<usize>,
        visitor: &mut V,
    ) {
        let mut edges = [[simd.splat_f64s(0.0); 2]; RUN];
        let edges = &mut edges[..frames];
        let mut order = ordered::<D>(live);
        while let Some(b) = order.next() {
            // With eight lanes a tile alone would wait for its own results.
            match if S::F64_LANES == 8 {
                order.next()
            } else {
                None
            } {
                Some(c) => {
                    self.pass::<S, D, V, 2>(simd, tiles, emissions, [b, c], edges, visitor);
                }
                None => self.pass::<S, D, V, 1>(simd, tiles, emissions, [b], edges, visitor),
            }
        }
    }

    /// The same for a few neighbours. `edges` holds, for each frame, the end of the neighbour that
    /// flows into them, and then their own.
    // No closures here or below: what the compiler does not inline loses its instruction set.
    #[inline(always)]
    fn pass<S: Simd, D: Direction, V: Visitor, const N: usize>(
        &self,
        simd: S,
        tiles: &mut [Place],
        emissions: &Spread,
        some: [usize; N],
        edges: &mut [[S::f64s; 2]],
        visitor: &mut V,
    ) {
        let skip = &self.side::<D>().skip;
        let mut links = [Links::new::<D>(simd, &skip[some[0]], &tiles[some[0]]); N];
        let mut states = [States::load(simd, &tiles[some[0]].numbers); N];
        for i in 1..N {
            links[i] = Links::new::<D>(simd, &skip[some[i]], &tiles[some[i]]);
            states[i] = States::load(simd, &tiles[some[i]].numbers);
        }
        let frames = edges.len();
        for (j, edge) in edges.iter_mut().enumerate() {
            let k = if D::FORWARD { j } else { frames - 1 - j };
            let mut flows = states;
            for i in 0..N {
                flows[i] = states[i].inflow::<D>(simd, edge, &links[i]);
            }
            for i in 0..N {
                let b = some[i];
                states[i] = flows[i].times(simd, emissions.blanks[k], &emissions.labels[b][k]);
                visitor.visit(simd, b, k, &flows[i], &states[i]);
            }
        }
        for i in 0..N {
            states[i].store(simd, &mut tiles[some[i]].numbers);
        }
    }

    /// Whether all live states that can be reached at the end of a run are sure to be exact.
    #[inline(always)]
    fn check<S: Simd>(
        &self,
        simd: S,
        tiles: &[Place],
        reached: &Reached,
        live: Range<usize>,
    ) -> Result<(), Unfit> {
        const PLACES: Pairs = {
            let mut places = ZEROS;
            let mut k = 0;
            while k < PAIRS {
                places.0[k] = k as f64;
                k += 1;
            }
            places
        };
        let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
        let least = simd.splat_f64s(pow2(LEAST));
        let places = load(simd, &PLACES);
        let mut fit = one;
        for b in live {
            let numbers = &tiles[b].numbers;
            for (m, reached) in [
                (&numbers.blank, &reached.blanks),
                (&numbers.label, &reached.labels),
            ] {
                let m = load(simd, m);
                let first = (b * PAIRS) as f64;
                let start = simd.splat_f64s(reached.start as f64 - first);
                let end = simd.splat_f64s(reached.end as f64 - first);
                for v in 0..vectors::<S>() {
                    // A NaN is not.
                    let exact = simd.greater_than_or_equal_f64s(m[v], least);
                    let below = simd.less_than_f64s(places[v], start);
                    let above = simd.greater_than_or_equal_f64s(places[v], end);
                    let elsewhere = simd.or_m64s(below, above);
                    fit = simd.select_f64s(simd.or_m64s(exact, elsewhere), fit, zero);
                }
            }
        }
        fits(simd.reduce_min_f64s(fit) == 1.0)
    }

    /// The posteriors of the classes in the frames of a run, from those of the states. `blanks` are
    /// those of all blanks, pair by pair.
    #[inline(always)]
    fn write<S: Simd, R: Real>(
        &self,
        simd: S,
        to: &mut [[R; RUN]],
        blanks: &[Pairs; RUN],
        (met, frames): (Met, usize),
        live: Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Unfit> {
        let blank = self.entries - 1;
        scratch.classes.clear();
        scratch.classes.resize(self.entries, [0.0; RUN]);
        let classes = scratch.classes.as_mut_slice();
        for b in live {
            let (places, posterior) = (&self.places[b], &scratch.posterior[b]);
            // Pairs behind the last label have a posterior of 0.
            for g in 0..self.labels_of(b).len().div_ceil(GROUP) {
                let labels = transpose(simd, &group_of(posterior, g));
                for i in 0..GROUP {
                    let class = &mut classes[places[g * GROUP + i] as usize];
                    for k in 0..RUN {
                        class[k] += labels[i][k];
                    }
                }
            }
        }
        for g in 0..GROUPS {
            let blanks = transpose(simd, &group_of(blanks, g));
            for i in 0..GROUP {
                for k in 0..RUN {
                    classes[blank][k] += blanks[i][k];
                }
            }
        }
        // Four at a time, so that additions do not wait for each other.
        let mut sums = [[0.0; RUN]; 4];
        let (fours, rest) = classes.as_chunks::<4>();
        for four in fours {
            for c in 0..4 {
                for k in 0..RUN {
                    sums[c][k] += four[c][k];
                }
            }
        }
        for class in rest {
            for k in 0..RUN {
                sums[0][k] += class[k];
            }
        }
        let (mut fit, mut scale) = (true, [0.0; RUN]);
        for k in 0..RUN {
            let sum = (sums[0][k] + sums[1][k]) + (sums[2][k] + sums[3][k]);
            fit &= k >= frames || (sum / met.mantissa - 1.0).abs() <= OFF;
            // Dividing by the frame's own sum takes out the rounding that all its states share.
            scale[k] = 1.0 / sum;
        }
        for (to, class) in to.iter_mut().zip(classes) {
            for k in 0..RUN {
                to[k] = R::narrow(class[k] * scale[k]);
            }
        }
        fits(fit)
    }
}

/// [`Tiles::sweep`].
struct Sweep<'a, D, R> {
    lattice: &'a Tiles,
    track: &'a mut Track,
    runs: Range<usize>,
    table: Table<'a, R>,
    keep: bool,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for Sweep<'_, D, R> {
    type Output = Result<(), Unfit>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let (lattice, track) = (self.lattice, self.track);
        let emissions = &mut self.scratch.emissions;
        for i in ordered::<D>(self.runs) {
            let run = lattice.runs.frames_of(i..i + 1);
            let live = lattice.live(&run);
            fits(track.scale::<D>(live.clone()))?;
            if self.keep {
                track.starts.push(track.kept.len());
                track.kept.extend_from_slice(&track.tiles[live.clone()]);
            }
            emissions.set(simd, lattice, self.table.run(i), live.clone());
            let (tiles, frames) = (&mut track.tiles, run.len());
            lattice.advance::<S, D, _>(simd, tiles, emissions, frames, live.clone(), &mut Alone);
            let consumed = if D::FORWARD {
                run.end
            } else {
                lattice.runs.frames - run.start
            };
            let reached = lattice.reached::<D>(consumed, &mut track.past);
            lattice.check(simd, tiles, &reached, live)?;
        }
        Ok(())
    }
}

/// [`Tiles::walk`].
struct Walk<'a, D, R> {
    lattice: &'a Tiles,
    track: &'a mut Track,
    other: &'a Track,
    met: Met,
    half: &'a mut [[R; RUN]],
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for Walk<'_, D, R> {
    type Output = Result<(), Unfit>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            lattice,
            track,
            half,
            scratch,
            ..
        } = self;
        let tiles = lattice.places.len();
        scratch.rows.resize(tiles, [EMPTY; RUN]);
        scratch.scales.resize(tiles, ZEROS);
        scratch.posterior.resize(tiles, [ZEROS; RUN]);
        scratch.other.tiles.resize(tiles, NOTHING);
        // The runs of the other direction, from the middle back to its start.
        let runs = lattice.runs.half::<D::Other>();
        let first = runs.start;
        for (i, &start) in ordered::<D>(runs).zip(self.other.starts.iter().rev()) {
            let run = lattice.runs.frames_of(i..i + 1);
            let (live, frames) = (lattice.live(&run), run.len());
            let table = &mut half[(i - first) * lattice.entries..][..lattice.entries];
            scratch.emissions.set(simd, lattice, table, live.clone());
            scratch.other.tiles[live.clone()]
                .copy_from_slice(&self.other.kept[start..start + live.len()]);
            lattice.advance::<S, D::Other, _>(
                simd,
                &mut scratch.other.tiles,
                &scratch.emissions,
                frames,
                live.clone(),
                &mut Record(&mut scratch.rows),
            );
            // Groups too far apart: what does not flow then is missing from the sums, if it matters.
            let _ = track.scale::<D>(live.clone());
            for b in live.clone() {
                let (mine, others) = (&track.tiles[b], &scratch.other.tiles[b]);
                for g in 0..GROUPS {
                    let e = mine.exponents[g] + others.exponents[g] - 2 * TOP - self.met.exponent;
                    // See `product`. Below 2^-1022 the scale is 0; posteriors that matter are then
                    // missing from the sum of their frame, which is checked.
                    fits(e <= 350)?;
                    scratch.scales[b].0[g * GROUP..(g + 1) * GROUP].fill(pow2(e));
                }
            }
            let mut blanks = [ZEROS; RUN];
            let mut join = Join {
                rows: &scratch.rows,
                scales: &scratch.scales,
                posterior: &mut scratch.posterior,
                blanks: &mut blanks,
            };
            let emissions = &scratch.emissions;
            lattice.advance::<S, D, _>(
                simd,
                &mut track.tiles,
                emissions,
                frames,
                live.clone(),
                &mut join,
            );
            let met = (self.met, frames);
            lattice.write(simd, table, &blanks, met, live, scratch)?;
        }
        Ok(())
    }
}

/// What is done with each tile in each frame of a run.
trait Visitor {
    /// Tile `b` in frame `k` of the run: what flows into its states, and then the states.
    fn visit<S: Simd>(&mut self, simd: S, b: usize, k: usize, flow: &States<S>, states: &States<S>);
}

struct Alone;

impl Visitor for Alone {
    #[inline(always)]
    fn visit<S: Simd>(&mut self, _: S, _: usize, _: usize, _: &States<S>, _: &States<S>) {}
}

/// Writes the states down.
struct Record<'a>(&'a mut [[Tile; RUN]]);

impl Visitor for Record<'_> {
    #[inline(always)]
    fn visit<S: Simd>(&mut self, simd: S, b: usize, k: usize, _: &States<S>, states: &States<S>) {
        states.store(simd, &mut self.0[b][k]);
    }
}

/// Forms posteriors with the rows of the other direction.
struct Join<'a> {
    rows: &'a [[Tile; RUN]],
    scales: &'a [Pairs],
    posterior: &'a mut [[Pairs; RUN]],
    /// Of all tiles: the blanks, pair by pair.
    blanks: &'a mut [Pairs; RUN],
}

impl Visitor for Join<'_> {
    #[inline(always)]
    fn visit<S: Simd>(&mut self, simd: S, b: usize, k: usize, flow: &States<S>, _: &States<S>) {
        let (row, scale) = (&self.rows[b][k], load(simd, &self.scales[b]));
        let blank = product(simd, &flow.blank, &row.blank, &scale);
        let label = product(simd, &flow.label, &row.label, &scale);
        store(simd, &mut self.posterior[b][k], &label);
        add_to(simd, &mut self.blanks[k], &blank);
    }
}

impl Track {
    /// Becomes what `other` is, without its checkpoints.
    pub fn follow(&mut self, other: &Track) {
        self.tiles.clear();
        self.tiles.extend_from_slice(&other.tiles);
        self.kept.clear();
        self.starts.clear();
    }

    /// Gives each group of the live tiles a fresh exponent. Whether there is a factor between all
    /// neighbours: where a group is too far below the next, nothing flows.
    #[inline(always)]
    fn scale<D: Direction>(&mut self, live: Range<usize>) -> bool {
        let mut before: Option<i64> = None;
        let mut near = true;
        for b in ordered::<D>(live) {
            let Place {
                numbers,
                exponents,
                factors,
            } = &mut self.tiles[b];
            let (blank, label) = (groups(&mut numbers.blank), groups(&mut numbers.label));
            for g in ordered::<D>(0..GROUPS) {
                let top = largest(&blank[g], &label[g]);
                let own = exponents[g] - TOP + exponent_of(top);
                let wanted = match (top > 0.0, before) {
                    (true, Some(before)) => own.max(before - AHEAD),
                    (true, None) => own,
                    // Nothing here yet: what flows in brings its scale.
                    (false, Some(before)) => before,
                    (false, None) => NOWHERE,
                };
                let shift = if top > 0.0 {
                    (exponents[g] - wanted).min(1000)
                } else {
                    exponents[g] - wanted
                };
                let exponent = exponents[g] - shift;
                let by = pow2(shift);
                for k in 0..GROUP {
                    blank[g][k] *= by;
                    label[g][k] *= by;
                }
                exponents[g] = exponent;
                let change = before.map_or(0, |before| before - exponent);
                near &= change >= -1022;
                factors[g] = pow2(change);
                before = Some(exponent).filter(|&e| e > NOWHERE);
            }
        }
        near
    }
}

impl Spread {
    /// Becomes the emissions of a run at the pairs of the live tiles.
    #[inline(always)]
    fn set<S: Simd, R: Real>(
        &mut self,
        simd: S,
        lattice: &Tiles,
        run: &[[R; RUN]],
        live: Range<usize>,
    ) {
        self.labels.resize(lattice.places.len(), [ZEROS; RUN]);
        for k in 0..RUN {
            self.blanks[k] = run[lattice.entries - 1][k].widen();
        }
        for b in live {
            let (places, to) = (&lattice.places[b], &mut self.labels[b]);
            let labels = lattice.labels_of(b).len();
            for g in 0..GROUPS {
                let mut entries = [[0.0; RUN]; GROUP];
                for i in 0..GROUP {
                    // Pairs behind the last label stand for nothing.
                    if g * GROUP + i < labels {
                        let entry = &run[places[g * GROUP + i] as usize];
                        for k in 0..RUN {
                            entries[i][k] = entry[k].widen();
                        }
                    }
                }
                let frames = transpose(simd, &entries);
                for k in 0..RUN {
                    to[k].0[g * GROUP..(g + 1) * GROUP].copy_from_slice(&frames[k]);
                }
            }
        }
    }
}

/// Group `g` of the pairs in each frame.
#[inline(always)]
fn group_of(frames: &[Pairs; RUN], g: usize) -> Square {
    let mut group = [[0.0; GROUP]; RUN];
    for k in 0..RUN {
        group[k].copy_from_slice(&frames[k].0[g * GROUP..(g + 1) * GROUP]);
    }
    group
}

#[inline(always)]
fn groups(pairs: &mut Pairs) -> &mut [[f64; GROUP]] {
    pairs.0.as_chunks_mut().0
}

/// By pair: what is multiplied that flows into it from the one before.
#[inline(always)]
fn spread<D: Direction>(factors: &[f64; GROUPS]) -> Pairs {
    let mut pairs = Pairs([1.0; PAIRS]);
    for (g, &factor) in factors.iter().enumerate() {
        let first = if D::FORWARD { 0 } else { GROUP - 1 };
        pairs.0[g * GROUP + first] = factor;
    }
    pairs
}

#[inline(always)]
fn largest(a: &[f64; GROUP], b: &[f64; GROUP]) -> f64 {
    let mut top = [0.0; GROUP];
    for k in 0..GROUP {
        top[k] = if a[k] > b[k] { a[k] } else { b[k] };
    }
    fold_lanes(top, |a, b| if b > a { b } else { a })
}

/// A [`Pairs`] in vector registers: as many as it takes, the others unused.
type Vectors<S> = [<S as Simd>::f64s; PAIRS];

#[inline(always)]
fn vectors<S: Simd>() -> usize {
    PAIRS / S::F64_LANES
}

#[inline(always)]
fn load<S: Simd>(simd: S, from: &Pairs) -> Vectors<S> {
    let mut to = [simd.splat_f64s(0.0); PAIRS];
    let (from, _) = S::as_simd_f64s(&from.0);
    for v in 0..vectors::<S>() {
        to[v] = from[v];
    }
    to
}

#[inline(always)]
fn store<S: Simd>(_: S, to: &mut Pairs, from: &Vectors<S>) {
    let (to, _) = S::as_mut_simd_f64s(&mut to.0);
    for v in 0..vectors::<S>() {
        to[v] = from[v];
    }
}

#[inline(always)]
fn add_to<S: Simd>(simd: S, to: &mut Pairs, from: &Vectors<S>) {
    let (to, _) = S::as_mut_simd_f64s(&mut to.0);
    for v in 0..vectors::<S>() {
        to[v] = simd.add_f64s(to[v], from[v]);
    }
}

/// `(row · scale) · flow`
///
/// In this order nothing overflows: `scale` is at most 2^350. A first product that vanishes is below
/// 2^-1022, so the second would be below 2^-359.
#[inline(always)]
fn product<S: Simd>(simd: S, flow: &Vectors<S>, row: &Pairs, scale: &Vectors<S>) -> Vectors<S> {
    let mut row = load(simd, row);
    for v in 0..vectors::<S>() {
        row[v] = simd.mul_f64s(simd.mul_f64s(row[v], scale[v]), flow[v]);
    }
    row
}

/// How much of what comes from the pair before arrives: at the blank (forward) or from the blank
/// (backward), and from label to label.
#[derive(Clone, Copy)]
struct Links<S: Simd> {
    blank: Vectors<S>,
    label: Vectors<S>,
}

impl<S: Simd> Links<S> {
    #[inline(always)]
    fn new<D: Direction>(simd: S, skip: &Pairs, tile: &Place) -> Self {
        let blank = load(simd, &spread::<D>(&tile.factors));
        let mut label = load(simd, skip);
        for v in 0..vectors::<S>() {
            label[v] = simd.mul_f64s(label[v], blank[v]);
        }
        Self { blank, label }
    }
}

/// The states of a tile, or what flows into them.
#[derive(Clone, Copy)]
struct States<S: Simd> {
    blank: Vectors<S>,
    label: Vectors<S>,
}

impl<S: Simd> States<S> {
    #[inline(always)]
    fn load(simd: S, tile: &Tile) -> Self {
        Self {
            blank: load(simd, &tile.blank),
            label: load(simd, &tile.label),
        }
    }

    #[inline(always)]
    fn store(&self, simd: S, tile: &mut Tile) {
        store(simd, &mut tile.blank, &self.blank);
        store(simd, &mut tile.label, &self.label);
    }

    /// What flows into each state. `edge` holds the end of the neighbour that flows into this
    /// tile, and then its own.
    #[inline(always)]
    fn inflow<D: Direction>(&self, simd: S, edge: &mut [S::f64s; 2], links: &Links<S>) -> Self {
        let last = vectors::<S>() - 1;
        let mut flow = *self;
        if D::FORWARD {
            let lowest = simd.mask_between_m64s(0, 1).mask();
            let mut below = simd.rotate_right_f64s(edge[1], 1);
            edge[1] = self.label[last];
            for v in 0..=last {
                let turned = simd.rotate_right_f64s(self.label[v], 1);
                let before = simd.select_f64s(lowest, below, turned);
                below = turned;
                let here = simd.add_f64s(self.label[v], self.blank[v]);
                flow.blank[v] = mul_add_f64(simd, before, links.blank[v], self.blank[v]);
                flow.label[v] = mul_add_f64(simd, before, links.label[v], here);
            }
        } else {
            let lanes = S::F64_LANES as u64;
            let highest = simd.mask_between_m64s(lanes - 1, lanes).mask();
            let mut above = [
                simd.rotate_left_f64s(edge[0], 1),
                simd.rotate_left_f64s(edge[1], 1),
            ];
            *edge = [self.blank[0], self.label[0]];
            for v in (0..=last).rev() {
                let turned = [
                    simd.rotate_left_f64s(self.blank[v], 1),
                    simd.rotate_left_f64s(self.label[v], 1),
                ];
                let after = [
                    simd.select_f64s(highest, above[0], turned[0]),
                    simd.select_f64s(highest, above[1], turned[1]),
                ];
                above = turned;
                let near = mul_add_f64(simd, after[0], links.blank[v], self.label[v]);
                flow.blank[v] = simd.add_f64s(self.blank[v], self.label[v]);
                flow.label[v] = mul_add_f64(simd, after[1], links.label[v], near);
            }
        }
        flow
    }

    /// With the emissions of a frame.
    #[inline(always)]
    fn times(mut self, simd: S, blank: f64, labels: &Pairs) -> Self {
        let blank = simd.splat_f64s(blank);
        let labels = load(simd, labels);
        for v in 0..vectors::<S>() {
            self.blank[v] = simd.mul_f64s(self.blank[v], blank);
            self.label[v] = simd.mul_f64s(self.label[v], labels[v]);
        }
        self
    }
}
