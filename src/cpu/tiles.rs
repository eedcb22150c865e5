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
//! **Tiles and runs.** A tile is 8 pairs; a run is up to 8 frames. A few tiles go through all frames of a
//! run together, with their states in registers, and leave behind what their neighbour needs of them
//! in each frame. Only the states at the start of each run are kept (a *checkpoint*); the walk makes
//! the rows of a run again from there.
//!
//! **Range.** A tile has a power of two in each run (`range.rs`). On the way to the middle a check at the end of the run
//! says whether all states are exact. If not, what was lost is either forgone ([`Forgone`]), and held against `P` in the
//! middle, or the run is done again with a power of two for each pair, and then with one for each state
//! (`extended.rs`). Past the middle `P` is known, and exponents alone say whether a run holds. So the time that an item
//! takes hardly depends on how far its states are apart.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

mod abreast;
mod checkpoints;
mod extended;
mod posteriors;
mod power;
mod range;
mod raw;

pub(super) use abreast::{Abreast, FEWEST as FEWEST_ABREAST, LANES as ABREAST, Lane};
use posteriors::Block;
pub(crate) use posteriors::TokenOccupancy;
pub(super) use posteriors::{ClassPosteriors, Posteriors, StatePosteriors, TokenSums};
pub(super) use raw::raw_emissions;

use super::Stop;
use super::fetch::fetch_all;
use super::isa::{dispatch_simd, mul_add_f64};
use super::real::Real;
use super::runs::{Depth, Direction, Entries, RUN, Runs, Table, nth, ordered};
use super::shift;
use super::square::{Octet as Pairs, Square, ZEROS, flat, transpose, turned};
use checkpoints::{Checkpoint, Checkpoints};
use extended::{JoinExtended, RecordExtended, SpreadExponents};
use power::{exponent_of, pow2, powers};
use pulp::{Simd, WithSimd};
use range::{
    NO_TILE, NOWHERE, NOWHERE_BELOW, Range8, TOP, TOP_OF_POSTERIORS, TOP_OF_ROWS, TileBefore,
    Window,
};
use std::marker::PhantomData;
use std::ops::Range;

/// Pairs of a tile. States flow by one pair a frame: in a run no further than one tile.
const PAIRS: usize = 8;
const _: () = assert!(RUN == PAIRS);

/// How far from 1 the posteriors of a frame may add up to, else their block is done at a finer level. Rounding over 20000
/// frames takes 1e-12.
const OFF: f64 = 1e-10;

/// This arithmetic does not hold the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

fn in_range(holds: bool) -> Result<(), OutOfRange> {
    if holds { Ok(()) } else { Err(OutOfRange) }
}

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

/// What the numbers of a tile stand for where they share an exponent: a state is `number · 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Scale {
    exponent: i64,
    /// What numbers are multiplied by that flow into the tile from the one before it.
    factor: f64,
}

const UNSCALED: Scale = Scale {
    exponent: 0,
    factor: 1.0,
};

/// A row of the lattice, tile by tile.
#[derive(Debug, Default)]
struct Row {
    numbers: Vec<Tile>,
    /// Whether the numbers of a tile share an exponent, so that `scales` say what they stand for. Else `exponents`
    /// do: a state is `number · 2^exponent`.
    uniform: bool,
    scales: Vec<Scale>,
    exponents: Vec<Tile>,
}

const FAR: Tile = Tile {
    blank: Pairs([NOWHERE; PAIRS]),
    label: Pairs([NOWHERE; PAIRS]),
};

impl Row {
    fn resize(&mut self, tiles: usize) {
        self.numbers.resize(tiles, EMPTY);
        self.scales.resize(tiles, UNSCALED);
        self.exponents.resize(tiles, FAR);
    }

    /// Becomes a row of zeros. A zero has any exponent.
    fn clear(&mut self, tiles: usize) {
        self.numbers.clear();
        self.scales.clear();
        self.resize(tiles);
        self.uniform = true;
    }

    /// Says that the numbers of a tile share an exponent.
    #[inline(always)]
    fn set_uniform(&mut self) {
        // Not written where it is so already: a row is exchanged for another soon after, and would wait for the byte.
        if !self.uniform {
            self.uniform = true;
        }
    }

    /// The exponents of tile `b`.
    #[inline(always)]
    fn exponents_of(&self, b: usize) -> Tile {
        if self.uniform {
            let exponent = self.scales[b].exponent as f64;
            let exponents = Pairs([exponent; PAIRS]);
            Tile {
                blank: exponents,
                label: exponents,
            }
        } else {
            self.exponents[b]
        }
    }

    /// The smallest number of these tiles in `scaled` that is not 0; or 0, if a state is there that is not 0 here.
    #[inline(never)]
    fn smallest_of(&self, scaled: &Row, tiles: Range<usize>) -> f64 {
        let mut smallest = 1f64;
        for b in tiles {
            let (n, e, scaled) = (&self.numbers[b], self.exponents_of(b), &scaled.numbers[b]);
            for (n, e, scaled) in [
                (&n.blank, &e.blank, &scaled.blank),
                (&n.label, &e.label, &scaled.label),
            ] {
                for k in 0..PAIRS {
                    let alive = (n.0[k] > 0.0) & (e.0[k] > NOWHERE_BELOW);
                    let number = if alive { scaled.0[k] } else { 1.0 };
                    smallest = if number < smallest { number } else { smallest };
                }
            }
        }
        smallest
    }

    /// The exponent of the largest state of some tiles.
    fn largest_exponent(&self, tiles: Range<usize>) -> f64 {
        let mut largest = NOWHERE;
        for b in tiles {
            let (n, e) = (&self.numbers[b], self.exponents_of(b));
            for (n, e) in [(&n.blank, &e.blank), (&n.label, &e.label)] {
                for k in 0..PAIRS {
                    if n.0[k] > 0.0 {
                        largest = largest.max(exponent_of(n.0[k]) + e.0[k]);
                    }
                }
            }
        }
        largest
    }

    /// Gives each state of the live tiles an exponent of its own.
    #[inline(always)]
    fn separate(&mut self, live: Range<usize>) {
        if self.uniform {
            for b in live {
                self.exponents[b] = self.exponents_of(b);
            }
            self.uniform = false;
        }
    }

    /// Becomes the live tiles of `other`, each state with an exponent of its own.
    #[inline(always)]
    fn separate_from(&mut self, other: &Row, live: Range<usize>) {
        self.numbers[live.clone()].copy_from_slice(&other.numbers[live.clone()]);
        for b in live {
            self.exponents[b] = other.exponents_of(b);
        }
        self.uniform = false;
    }

    /// Becomes what `other` is.
    fn copy_from(&mut self, other: &Row) {
        self.numbers.clone_from(&other.numbers);
        self.scales.clone_from(&other.scales);
        self.exponents.resize(other.numbers.len(), FAR);
        if !other.uniform {
            self.exponents.copy_from_slice(&other.exponents);
        }
        self.uniform = other.uniform;
    }
}

/// The states of one direction, and its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Track {
    // In boxes, since the two are exchanged after each block.
    row: Box<Row>,
    /// Where a block is tried that may not hold.
    trial: Box<Row>,
    kept: Checkpoints,
    past: Past,
    patience: Patience,
    forgone: Forgone,
    /// Whether there were emissions of 0.
    masked: bool,
}

/// What was lost of the states of a direction, for it was not expected to count.
#[derive(Debug, Clone, Copy)]
struct Forgone {
    /// The exponent of all of it, as it can have grown up to now.
    exponent: f64,
    /// Binary orders that it grew by, in so many frames.
    grew: f64,
    frames: f64,
}

const NOTHING_FORGONE: Forgone = Forgone {
    exponent: NOWHERE,
    grew: 0.0,
    frames: 0.0,
};

impl Default for Forgone {
    fn default() -> Self {
        NOTHING_FORGONE
    }
}

impl Forgone {
    /// Takes it through the frames of a block. A state flows to three at most: all of different classes.
    #[inline(always)]
    fn grow<R: Real>(&mut self, table: &Table<R>, run: usize, frames: usize) {
        if table.kind(run).is_raw() {
            self.grow_with(table.wide(run), frames);
        } else {
            self.grow_with(table.run(run), frames);
        }
    }

    #[inline(always)]
    fn grow_with<R: Real>(&mut self, emissions: &[[R; RUN]], frames: usize) {
        let mut sums = [0.0; RUN];
        for emission in emissions {
            for k in 0..RUN {
                sums[k] += emission[k].widen();
            }
        }
        let mut product = 1.0;
        for k in 0..frames {
            product *= sums[k].min(3.0);
        }
        let orders = exponent_of(product) + 1.0;
        if self.exponent > NOWHERE {
            self.exponent += orders;
        }
        self.grew += orders;
        self.frames += frames as f64;
    }

    /// Whether so much can be forgone, with so many frames behind and so many left up to the middle, when the
    /// largest state is at 2^`largest`. This is a guess: [`Tiles::certain`] holds it against `P` later. The guess is that
    /// the frames to come grow and shrink states half as much again as the frames so far. With `drop`, what is smaller
    /// may be lost from here on, too.
    fn may_add(
        &mut self,
        (lost, drop): (f64, bool),
        largest: f64,
        consumed: f64,
        left: f64,
    ) -> bool {
        if lost <= self.exponent {
            return true;
        }
        let grows = 1.5 * left * self.grew / self.frames.max(1.0);
        let shrinks = 1.5 * left * (largest / consumed).min(0.0);
        let most = largest + shrinks - grows - 3.0 * range::GUARD;
        if lost < most && drop {
            // More than this block lost: what is so small is dropped from here on, before it is subnormal.
            self.exponent = lost.max(most.min(largest - range::DROPPED + range::COUNT));
        } else if lost < most {
            self.exponent = lost;
        }
        lost < most
    }

    /// What is smaller than this exponent makes no difference to all that is forgone.
    fn negligible(&self) -> i64 {
        (self.exponent - range::COUNT) as i64
    }
}

/// How finely the range of a block is kept: what does not hold is tried again with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Level {
    /// An exponent for each tile and block.
    #[default]
    Tiles,
    /// One for each pair and 4 frames.
    Pairs,
    /// One for each state and frame, which always holds.
    States,
}

impl Level {
    fn coarser(self) -> Self {
        match self {
            Self::States => Self::Pairs,
            _ => Self::Tiles,
        }
    }
}

/// Frames of a part of a block at [`Level::Pairs`].
const PART: usize = 4;
const PARTS: usize = RUN.div_ceil(PART);

/// The level to begin a block with: where a coarser one did not hold, it rarely does in the next few.
#[derive(Debug, Clone, Copy, Default)]
struct Patience {
    coarsest: Level,
    level: Level,
    wait: u32,
    left: u32,
}

impl Patience {
    const LONGEST: u32 = 16;

    fn new(coarsest: Level) -> Self {
        Self {
            coarsest,
            level: coarsest,
            ..Default::default()
        }
    }

    fn first(&self) -> Level {
        match self.left {
            0 => self.level.coarser().max(self.coarsest),
            _ => self.level,
        }
    }

    /// A block was begun with `first` and held with `held`.
    #[inline(always)]
    fn done(&mut self, first: Level, held: Level) {
        if (self.left == 0) & (self.level == first) & (first == held) {
            return;
        }
        self.left = self.left.saturating_sub(1);
        if held > first {
            self.wait = (2 * self.wait).clamp(1, Self::LONGEST);
            self.left = self.wait;
        } else if held < self.level {
            self.wait = 0;
        }
        self.level = held;
    }
}

/// How far a direction can have come.
#[derive(Debug, Clone, Copy)]
struct Past {
    /// The labels that it can reach before the frame that it consumed last.
    labels: usize,
    /// The frames that it takes to get to the next.
    next: usize,
}

impl Default for Past {
    fn default() -> Self {
        Self { labels: 0, next: 1 }
    }
}

/// What a run works with.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    emissions: Spread,
    range: Range8,
    /// `[tile][frame]`: the rows of the other direction, and their exponents where each state has its own.
    rows: Vec<[Tile; RUN]>,
    row_exponents: Vec<[Tile; RUN]>,
    /// What makes posteriors of products: by tile, and by pair.
    tile_scales: Vec<f64>,
    scales: Vec<Pairs>,
    /// Of each part of the block: the exponents of the other direction's pairs.
    part_exponents: [Vec<Pairs>; PARTS],
    /// By entry: the posterior of its class in each frame.
    classes: Vec<Pairs>,
    other: Row,
    finer: Row,
}

/// The emissions of a run, as the tiles read them.
#[derive(Debug, Default)]
struct Spread {
    /// `[tile][frame]`
    labels: Vec<Square>,
    blanks: [f64; RUN],
    exponents: SpreadExponents,
    /// By entry, of a raw run of the walk.
    wide: Vec<[f64; RUN]>,
}

/// Where the two directions met: `P = mantissa · 2^exponent`, with a mantissa in [1, 2), or 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    mantissa: f64,
    exponent: f64,
}

const NO_PATH: Met = Met {
    mantissa: 0.0,
    exponent: 0.0,
};

impl Met {
    pub fn ln(self) -> f64 {
        self.mantissa.ln() + self.exponent * std::f64::consts::LN_2
    }

    pub fn is_zero(self) -> bool {
        self.mantissa == 0.0
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
    /// The coarsest level that is tried.
    pub coarsest: Level,
    /// Whether states may be lost that are not expected to count.
    pub forgoes: bool,
    /// Whether a block that [`Level::Tiles`] does not hold ends a sweep.
    pub coarse_only: bool,
    /// For each pair, which of them is its label's.
    places: Vec<[u32; PAIRS]>,
    /// By pair: 1 where its label may follow the one before it with no blank between, in the order of
    /// the direction.
    forward_skip: Vec<Pairs>,
    backward_skip: Vec<Pairs>,
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
        for (skip, first) in [(&mut self.forward_skip, 1), (&mut self.backward_skip, 0)] {
            skip.clear();
            skip.resize(tiles, ZEROS);
            let skip = flat(skip).iter_mut().skip(first);
            for (skip, pair) in skip.zip(target.windows(2)) {
                *skip = f64::from(pair[0] != pair[1]);
            }
        }
    }

    /// The tiles with pairs that can be reached from the start before frame `run.end`, and from
    /// which the end can be reached after frame `run.start`.
    #[inline(always)]
    fn live(&self, run: &Range<usize>) -> Range<usize> {
        let low = self.labels.saturating_sub(self.runs.frames - run.start + 1);
        let high = run.end.min(self.labels);
        low / PAIRS..high / PAIRS + 1
    }

    #[inline(always)]
    fn skip<D: Direction>(&self) -> &[Pairs] {
        if D::FORWARD {
            &self.forward_skip
        } else {
            &self.backward_skip
        }
    }

    /// What `D` can have reached after the frames of `run`. `past` is brought up to date.
    #[inline(always)]
    fn reached<D: Direction>(&self, run: &Range<usize>, past: &mut Past) -> Reached {
        let consumed = if D::FORWARD {
            run.end
        } else {
            self.runs.frames - run.start
        };
        while past.labels < self.labels && past.next < consumed {
            past.labels += 1;
            past.next += 1;
            if past.labels < self.labels {
                let i = if D::FORWARD {
                    past.labels
                } else {
                    self.labels - 1 - past.labels
                };
                // A repeat takes one more, for the blank before it.
                past.next += usize::from(self.skip::<D>()[i / PAIRS].0[i % PAIRS] == 0.0);
            }
        }
        // Behind each label a blank takes one frame more, as the next label does if it is another.
        let labels = past.labels + usize::from(past.labels < self.labels && past.next == consumed);
        if D::FORWARD {
            Reached {
                blanks: 0..past.labels + 1,
                labels: 0..labels,
            }
        } else {
            Reached {
                blanks: self.labels - past.labels..self.labels + 1,
                labels: self.labels - labels..self.labels,
            }
        }
    }

    /// Sets `track` to before the first frame of `D`.
    pub fn start<D: Direction>(&self, track: &mut Track) {
        let tiles = self.places.len();
        track.row.clear(tiles);
        track.trial.clear(tiles);
        track.kept.clear();
        track.past = Past::default();
        track.forgone = NOTHING_FORGONE;
        track.masked = false;
        track.patience = Patience::new(self.coarsest);
        let first = self.first::<D>();
        track.row.numbers[first / PAIRS].blank.0[first % PAIRS] = 1.0;
    }

    /// Makes room for the checkpoints of all runs of `D`.
    pub fn reserve<D: Direction>(&self, track: &mut Track) -> Result<(), Stop> {
        let runs = self.runs.half::<D>();
        let tiles = runs
            .clone()
            .map(|i| self.live(&self.runs.frames_of(i..i + 1)).len());
        track.kept.reserve(runs.len(), tiles.sum())
    }

    /// `U_n`.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// The pair from whose blank `D` sets out.
    fn first<D: Direction>(&self) -> usize {
        if D::FORWARD { 0 } else { self.labels }
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
    ) -> Result<(), Stop> {
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

    /// Whether `P` is exact though something was forgone: what was lost of one direction can meet the largest state of
    /// the other, or what that lost.
    pub fn certain(&self, alpha: &Track, beta: &Track, met: Met) -> bool {
        // Fewer than 2^40 states, each lost once; and what flows there is a sum of three.
        const SLACK: f64 = range::COUNT + range::GUARD;
        let [a, b] = [alpha.forgone.exponent, beta.forgone.exponent];
        if a <= NOWHERE && b <= NOWHERE {
            return true;
        }
        if met.is_zero() {
            return false;
        }
        let middle = self.runs.middle();
        let live = self.live(&(middle..middle));
        let after = live.start..(live.end + 1).min(self.places.len());
        let most_a = alpha.row.largest_exponent(live).max(a);
        let most_b = beta.row.largest_exponent(after).max(b);
        (a + most_b).max(b + most_a) + SLACK <= met.exponent
    }

    /// Takes `track` on past the middle, through the half that `other` has behind it. `half` has the emissions
    /// there, and `to` takes the posteriors.
    pub fn walk<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        other: &Track,
        met: Met,
        half: HalfTable<R>,
        to: &mut dyn Posteriors<R>,
        scratch: &mut Scratch,
    ) {
        dispatch_simd(Walk::<D, R> {
            lattice: self,
            track,
            other,
            met,
            half,
            to,
            scratch,
            direction: PhantomData,
        })
    }

    /// Takes the live tiles through `frames` of a run, and `visitor` along. With `FINE`, pairs have the factors of
    /// their own that are in `factors`; else tiles have.
    #[inline(always)]
    fn advance<S: Simd, D: Direction, V: Visitor, const FINE: bool>(
        &self,
        simd: S,
        row: &mut Row,
        (emissions, factors): (&mut Spread, &[Pairs]),
        frames: Range<usize>,
        live: Range<usize>,
        visitor: &mut V,
    ) {
        let (mut edges, first) = ([[simd.splat_f64s(0.0); 2]; RUN], frames.start);
        let edges = &mut edges[..frames.len()];
        // As many tiles together as there are registers for: one would wait for its own results.
        let mut left = live;
        while !left.is_empty() {
            let count = left.len().min(S::F64_LANES / 2);
            let low = if D::FORWARD {
                left.start
            } else {
                left.end - count
            };
            let with = (&mut *emissions, factors);
            let edges = (first, &mut *edges);
            match count {
                1 => self.pass::<S, D, V, 1, FINE>(simd, row, with, low, edges, visitor),
                2 => self.pass::<S, D, V, 2, FINE>(simd, row, with, low, edges, visitor),
                3 => self.pass::<S, D, V, 3, FINE>(simd, row, with, low, edges, visitor),
                _ => self.pass::<S, D, V, 4, FINE>(simd, row, with, low, edges, visitor),
            }
            left = if D::FORWARD {
                left.start + count..left.end
            } else {
                left.start..low
            };
        }
    }

    /// The same for `N` neighbours from tile `low` on. `edges` holds, for each frame from `first` on, the end of the
    /// neighbour that flows into them, and then their own.
    // No closures here or below: what the compiler does not inline loses its instruction set.
    #[inline(always)]
    fn pass<S: Simd, D: Direction, V: Visitor, const N: usize, const FINE: bool>(
        &self,
        simd: S,
        row: &mut Row,
        (emissions, factors): (&mut Spread, &[Pairs]),
        low: usize,
        (first, edges): (usize, &mut [[S::f64s; 2]]),
        visitor: &mut V,
    ) {
        let skip = &self.skip::<D>()[low..low + N];
        let numbers = &mut row.numbers[low..low + N];
        let scales = &row.scales[low..low + N];
        let labels = &mut emissions.labels[low..low + N];
        let mut links = [Links::new(simd, &skip[0], &ZEROS); N];
        let mut states = [States::load(simd, &numbers[0]); N];
        for i in 0..N {
            let factors = if FINE {
                factors[low + i]
            } else {
                spread::<D>(scales[i].factor)
            };
            links[i] = Links::new(simd, &skip[i], &factors);
            states[i] = States::load(simd, &numbers[i]);
        }
        let frames = edges.len();
        for (j, edge) in edges.iter_mut().enumerate() {
            let k = first + if D::FORWARD { j } else { frames - 1 - j };
            let mut flows = states;
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                flows[i] = states[i].inflow::<D>(simd, edge, &links[i]);
            }
            // In the same order however many go together: visitors add up.
            let mut sum = visitor.sum(simd, k);
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                states[i] = flows[i].times(simd, emissions.blanks[k], &labels[i][k]);
                let (at, place) = ((low + i, k), &mut labels[i][k]);
                sum = visitor.visit(simd, at, &flows[i], &states[i], place, sum);
            }
            visitor.keep(simd, k, &sum);
        }
        for i in 0..N {
            states[i].store(simd, &mut numbers[i]);
        }
    }

    /// [`Self::advance`] at [`Level::Tiles`] with emissions that may be 0. `least` is the smallest state before it that is
    /// not 0. Whether all states are sure to be exact: none came to 0 but by a factor of 0, for all stay so large that
    /// an emission above 0, of 2^`faintest` at least, leaves a normal number.
    #[inline(always)]
    fn advance_masked<S: Simd, D: Direction>(
        &self,
        simd: S,
        row: &mut Row,
        (least, faintest): (f64, i32),
        with: (&mut Spread, &[Pairs]),
        frames: Range<usize>,
        live: Range<usize>,
    ) -> bool {
        let (mut smaller, mut larger) = (1f64, 1f64);
        for b in live.clone() {
            let factor = row.scales[b].factor;
            smaller = if factor > 0.0 {
                smaller.min(factor)
            } else {
                smaller
            };
            larger = larger.max(factor);
        }
        let mut smallest = Smallest(Pairs([least; PAIRS]));
        self.advance::<S, D, _, false>(simd, row, with, frames, live, &mut smallest);
        let fainter = whole_pow2(i64::from(Depth::PLAIN.faintest - faintest).max(0));
        let least = range::LEAST_OF_TILES * fainter * larger;
        smallest.0.0.iter().all(|&x| x * smaller >= least)
    }

    /// Whether all live states that can be reached at the end of a run are sure to be exact: no less than `least` with
    /// `FINE`, else than what their tile asks for.
    #[inline(always)]
    fn check<S: Simd, const FINE: bool>(
        &self,
        simd: S,
        row: &Row,
        least: &[Pairs],
        reached: &Reached,
        live: Range<usize>,
    ) -> bool {
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
        let [blanks, labels] = [&reached.blanks, &reached.labels];
        let bounds = [
            simd.splat_f64s(blanks.start as f64),
            simd.splat_f64s(blanks.end as f64),
            simd.splat_f64s(labels.start as f64),
            simd.splat_f64s(labels.end as f64),
        ];
        let places = load(simd, &PLACES);
        let mut fit = one;
        for b in live {
            let first = simd.splat_f64s((b * PAIRS) as f64);
            let states = States::load(simd, &row.numbers[b]);
            let [blank, label] = [states.blank, states.label];
            let least = if FINE {
                load(simd, &least[b])
            } else {
                // What vanishes in the tile before may be larger than what does here.
                let factor = row.scales[b].factor;
                let larger = if factor > 1.0 { factor } else { 1.0 };
                [simd.splat_f64s(range::LEAST_OF_TILES * larger); PAIRS]
            };
            for v in 0..vectors::<S>() {
                let place = simd.add_f64s(places[v], first);
                for (m, start, end) in [
                    (blank[v], bounds[0], bounds[1]),
                    (label[v], bounds[2], bounds[3]),
                ] {
                    // A NaN is not.
                    let exact = simd.greater_than_or_equal_f64s(m, least[v]);
                    let below = simd.less_than_f64s(place, start);
                    let above = simd.greater_than_or_equal_f64s(place, end);
                    let elsewhere = simd.or_m64s(below, above);
                    fit = simd.select_f64s(simd.or_m64s(exact, elsewhere), fit, zero);
                }
            }
        }
        simd.reduce_min_f64s(fit) == 1.0
    }
}

/// The table of one half of an item.
pub(super) struct HalfTable<'a, R> {
    pub values: &'a mut [[R; RUN]],
    /// By run.
    pub kinds: &'a [Entries],
    /// By frame, where it is wanted: the logarithm of what its emissions were divided by.
    pub log_scales: &'a [f64],
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
    type Output = Result<(), Stop>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            lattice,
            track,
            table,
            keep,
            scratch,
            ..
        } = self;
        for i in ordered::<D>(self.runs) {
            let run = lattice.runs.frames_of(i..i + 1);
            let live = lattice.live(&run);
            let (kind, emissions) = (table.kind(i), &mut scratch.emissions);
            let depth = kind.depth();
            track.masked |= !kind.all_above_zero();
            let (first, past) = (track.patience.first(), track.past);
            if kind.is_raw() {
                emissions.set_plain(lattice, table.wide(i), &live);
            } else {
                emissions.set(simd, lattice, table.run(i), live.clone());
            }
            if first == Level::Tiles {
                let scaled =
                    scale_tiles::<S, D>(simd, &track.row, &mut track.trial, live.clone(), TOP);
                if track.forgone.frames > 0.0 {
                    let least = track.forgone.negligible();
                    drop_below::<S, D>(simd, &mut track.trial, live.clone(), least, None);
                }
                let mark = track.kept.mark();
                if keep {
                    track.kept.add_tiles(&track.trial, live.clone());
                }
                let with = (&mut scratch.emissions, [].as_slice());
                let (trial, frames) = (&mut track.trial, 0..run.len());
                let mut exact = false;
                if track.masked {
                    let least = track.row.smallest_of(trial, live.clone());
                    exact = lattice.advance_masked::<S, D>(
                        simd,
                        trial,
                        (least, depth.faintest),
                        with,
                        frames,
                        live.clone(),
                    );
                } else {
                    lattice.advance::<S, D, _, false>(
                        simd,
                        trial,
                        with,
                        frames,
                        live.clone(),
                        &mut Alone,
                    );
                }
                let reached = lattice.reached::<D>(&run, &mut track.past);
                let forgoing = track.forgone.frames > 0.0;
                if forgoing {
                    track.forgone.grow(&table, i, run.len());
                }
                let flows = scaled.stays == NO_TILE;
                let top = scaled.largest as f64;
                // What cannot flow on, and can have grown in this block.
                let stays = scaled.stays as f64 + TOP + range::COUNT;
                // What emissions that count as 0 would have made of the largest states.
                let cut = depth
                    .cut
                    .map_or(NOWHERE, |cut| top + range::MOST_OF_TILES + f64::from(cut));
                let lost = (top + range::LOST).max(stays).max(cut);
                let held = (forgoing && lost <= track.forgone.exponent) || {
                    let whole = flows
                        && (exact
                            || lattice.check::<S, false>(
                                simd,
                                &track.trial,
                                &[],
                                &reached,
                                live.clone(),
                            ));
                    let lost = if whole { (cut, false) } else { (lost, true) };
                    (whole && (depth.cut.is_none() || cut <= track.forgone.exponent))
                        || lattice.forgoes::<D, R>(track, lost, top, (&table, i), &run)
                };
                if held {
                    std::mem::swap(&mut track.row, &mut track.trial);
                    track.patience.done(first, first);
                    continue;
                }
                if lattice.coarse_only {
                    return Err(Stop::OutOfRange);
                }
                track.kept.back_to(mark);
                track.past = past;
            } else if track.forgone.frames > 0.0 {
                track.forgone.grow(&table, i, run.len());
            }
            let entries = (table.run(i), kind);
            track.sweep_finer::<D, R>(lattice, &run, entries, first, keep, scratch)?;
        }
        Ok(())
    }
}

impl Tiles {
    /// Whether what a block at [`Level::Tiles`] lost can be forgone: `top` is the largest exponent of its tiles.
    #[inline(never)]
    fn forgoes<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        lost: (f64, bool),
        top: f64,
        (table, i): (&Table<R>, usize),
        run: &Range<usize>,
    ) -> bool {
        if !self.forgoes {
            return false;
        }
        if track.forgone.frames == 0.0 {
            track.forgone.grow(table, i, run.len());
        }
        let middle = self.runs.middle();
        let (consumed, left) = if D::FORWARD {
            (run.end, middle.saturating_sub(run.end))
        } else {
            (
                self.runs.frames - run.start,
                run.start.saturating_sub(middle),
            )
        };
        let largest = match table.kind(i).is_raw() {
            // A block may take off more than any block before.
            true => track.trial.largest_exponent(self.live(run)),
            false => top + TOP,
        };
        track
            .forgone
            .may_add(lost, largest, consumed as f64, left as f64)
    }
}

impl Track {
    /// Takes a block at a finer level than that of tiles.
    fn sweep_finer<D: Direction, R: Real>(
        &mut self,
        lattice: &Tiles,
        run: &Range<usize>,
        (entries, kind): (&[[R; RUN]], Entries),
        first: Level,
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Stop> {
        if first < Level::States && kind.depth().cut.is_none() {
            let (mark, past) = (self.kept.mark(), self.past);
            let held = dispatch_simd(SweepPairs::<D> {
                lattice,
                track: self,
                run,
                keep,
                scratch,
                direction: PhantomData,
            });
            if held {
                std::mem::swap(&mut self.row, &mut self.trial);
                self.patience.done(first, Level::Pairs);
                return Ok(());
            }
            self.kept.back_to(mark);
            self.past = past;
        }
        self.sweep_states::<D, R>(lattice, run, (entries, kind.is_raw()), keep, scratch)?;
        self.patience.done(first, Level::States);
        Ok(())
    }

    /// Takes a block with an exponent for each state.
    fn sweep_states<D: Direction, R: Real>(
        &mut self,
        lattice: &Tiles,
        run: &Range<usize>,
        (entries, raw): (&[[R; RUN]], bool),
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Stop> {
        let live = lattice.live(run);
        self.row.separate(live.clone());
        if keep {
            self.kept.add_states(&self.row, live.clone());
        }
        let emissions = &mut scratch.emissions;
        emissions.set_extended(lattice, entries, raw, live.clone());
        lattice.advance_extended::<D, _>(&mut self.row, emissions, run.len(), live, Alone);
        lattice.reached::<D>(run, &mut self.past);
        Ok(())
    }
}

/// A block of [`Sweep`] in parts, with exponents of pairs. Whether it holds.
struct SweepPairs<'a, D> {
    lattice: &'a Tiles,
    track: &'a mut Track,
    run: &'a Range<usize>,
    keep: bool,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for SweepPairs<'_, D> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self {
            lattice,
            track:
                Track {
                    row,
                    trial,
                    kept,
                    past,
                    ..
                },
            run,
            scratch: Scratch {
                emissions, range, ..
            },
            ..
        } = self;
        let (live, mut begins) = (lattice.live(run), true);
        for part in parts::<D>(run.len()) {
            if begins {
                trial.separate_from(row, live.clone());
            }
            if !range.scale::<S, D, true>(simd, trial, live.clone(), TOP) {
                return false;
            }
            if begins && self.keep {
                kept.add_pairs(trial, live.clone());
            }
            let with = (&mut *emissions, range.factors.as_slice());
            let frames = part.clone();
            lattice.advance::<S, D, _, true>(simd, trial, with, frames, live.clone(), &mut Alone);
            let part = run.start + part.start..run.start + part.end;
            let reached = lattice.reached::<D>(&part, past);
            let least = range.least.as_slice();
            if !lattice.check::<S, true>(simd, trial, least, &reached, live.clone()) {
                return false;
            }
            begins = false;
        }
        true
    }
}

/// [`Tiles::walk`].
struct Walk<'a, D, R> {
    lattice: &'a Tiles,
    track: &'a mut Track,
    other: &'a Track,
    met: Met,
    half: HalfTable<'a, R>,
    to: &'a mut dyn Posteriors<R>,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for Walk<'_, D, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            lattice,
            track,
            half,
            scratch,
            met,
            to,
            ..
        } = self;
        let (tiles, states) = (lattice.places.len(), to.of_states());
        scratch.rows.resize(tiles, [EMPTY; RUN]);
        scratch.tile_scales.resize(tiles, 0.0);
        scratch.other.resize(tiles);
        scratch.finer.resize(tiles);
        track.patience = Patience::new(lattice.coarsest);
        // The runs of the other direction, from the middle back to its start.
        let runs = lattice.runs.half::<D::Other>();
        let first = runs.start;
        for (step, i) in ordered::<D>(runs).enumerate() {
            let run = lattice.runs.frames_of(i..i + 1);
            let (live, frames) = (lattice.live(&run), run.len());
            let place = (i - first) * lattice.entries;
            let entries = place..place + lattice.entries;
            let next = if D::FORWARD {
                place.checked_add(lattice.entries)
            } else {
                place.checked_sub(lattice.entries)
            };
            ask_for_run(next.and_then(|next| half.values.get(next..next + lattice.entries)));
            let kept = self.other.kept.nth_back(step);
            let part = Part {
                run: i,
                frames,
                live: live.clone(),
                met,
                log_scales: half.log_scales.get((i - first) * RUN..).unwrap_or_default(),
            };
            let table = &mut half.values[entries];
            let raw = half.kinds[i - first].is_raw();
            if track.patience.first() == Level::Tiles {
                if raw {
                    scratch.emissions.set_raw(lattice, table, &live);
                } else {
                    scratch.emissions.set(simd, lattice, table, live.clone());
                }
                let (row, trial, other) = (&track.row, &mut track.trial, &mut scratch.other);
                if kept.level() == Level::Tiles {
                    kept.restore_tiles(other, live.clone(), TOP_OF_ROWS);
                } else {
                    let finer = &mut scratch.finer;
                    kept.restore_finer(finer, live.clone());
                    scale_tiles::<S, D::Other>(simd, finer, other, live.clone(), TOP_OF_ROWS);
                }
                scale_tiles::<S, D>(simd, row, trial, live.clone(), TOP_OF_POSTERIORS);
                if self.other.forgone.frames > 0.0 {
                    // What cannot count beside the states of the other direction.
                    let least = (met.exponent - range::GUARD - range::COUNT) as i64;
                    let least_of = |top: f64| least - top as i64 - 14;
                    drop_below::<S, D>(
                        simd,
                        trial,
                        live.clone(),
                        least_of(TOP_OF_ROWS),
                        Some(&other.scales),
                    );
                    drop_below::<S, D::Other>(
                        simd,
                        other,
                        live.clone(),
                        least_of(TOP_OF_POSTERIORS),
                        Some(&trial.scales),
                    );
                }
                let with = (&mut scratch.emissions, [].as_slice());
                let mut record = Record(&mut scratch.rows);
                lattice.advance::<S, D::Other, _, false>(
                    simd,
                    other,
                    with,
                    0..frames,
                    live.clone(),
                    &mut record,
                );
                let mut most = NOWHERE;
                for b in live.clone() {
                    let (own, other) = (track.trial.scales[b].exponent, &scratch.other.scales);
                    scratch.tile_scales[b] = pow2((own + other[b].exponent) as f64 - met.exponent);
                    let ahead = own + scale_ahead::<D>(other, &live, b);
                    let e = ahead as f64 - met.exponent;
                    most = if e > most { e } else { most };
                }
                if most <= range::MOST {
                    let mut blanks = [ZEROS; RUN];
                    let join = JoinTiles::<D> {
                        lattice,
                        trial: &mut track.trial,
                        part: &part,
                        blanks: &mut blanks,
                        scratch,
                        direction: PhantomData,
                    };
                    if states {
                        dispatch_simd(join);
                    } else {
                        join.join::<S, false>(simd);
                    }
                    let table = (&mut *table, raw);
                    if to.take(Block::new(lattice, table, &blanks, &part, scratch, true)) {
                        std::mem::swap(&mut track.row, &mut track.trial);
                        track.patience.done(Level::Tiles, Level::Tiles);
                        continue;
                    }
                }
            }
            walk_finer::<D, R>(lattice, track, &kept, (table, raw), &part, to, scratch);
        }
    }
}

/// Forms the posteriors of a block of [`Walk`] at [`Level::Tiles`]. Dispatched as a function of its own, it also writes
/// those of each blank; inlined into the walk it does not.
struct JoinTiles<'a, D> {
    lattice: &'a Tiles,
    trial: &'a mut Row,
    part: &'a Part<'a>,
    blanks: &'a mut Square,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction> JoinTiles<'_, D> {
    #[inline(always)]
    fn join<S: Simd, const STATES: bool>(self, simd: S) {
        let Self {
            lattice,
            trial,
            part,
            blanks,
            scratch,
            ..
        } = self;
        let mut join = Join::<false, STATES> {
            rows: &mut scratch.rows,
            tile_scales: &scratch.tile_scales,
            scales: &[],
            blanks,
        };
        let (with, frames) = ((&mut scratch.emissions, [].as_slice()), 0..part.frames);
        let live = part.live.clone();
        lattice.advance::<S, D, _, false>(simd, trial, with, frames, live, &mut join);
    }
}

impl<D: Direction> WithSimd for JoinTiles<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.join::<S, true>(simd);
    }
}

/// Takes a block of [`Walk`] at a finer level than that of tiles.
fn walk_finer<D: Direction, R: Real>(
    lattice: &Tiles,
    track: &mut Track,
    kept: &Checkpoint,
    (table, raw): (&mut [[R; RUN]], bool),
    part: &Part,
    to: &mut dyn Posteriors<R>,
    scratch: &mut Scratch,
) {
    let first = track.patience.first();
    if first < Level::States && kept.level() < Level::States {
        scratch.emissions.set_any(lattice, (table, raw), &part.live);
        make_rows::<D>(lattice, kept, part, TOP_OF_ROWS, scratch);
        let mut blanks = [ZEROS; RUN];
        let joined = dispatch_simd(JoinPairs::<D> {
            lattice,
            track,
            part,
            blanks: &mut blanks,
            scratch,
            direction: PhantomData,
        });
        let table = (&mut *table, raw);
        if joined && to.take(Block::new(lattice, table, &blanks, part, scratch, true)) {
            std::mem::swap(&mut track.row, &mut track.trial);
            track.patience.done(first, Level::Pairs);
            return;
        }
    }
    track.patience.done(first, Level::States);
    walk_states::<D, R>(lattice, track, kept, (table, raw), part, to, scratch);
}

/// Forms the posteriors of a block of [`Walk`] in parts, with exponents of pairs. Whether they hold.
struct JoinPairs<'a, D> {
    lattice: &'a Tiles,
    track: &'a mut Track,
    part: &'a Part<'a>,
    blanks: &'a mut Square,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for JoinPairs<'_, D> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self {
            lattice,
            track: Track { row, trial, .. },
            part,
            blanks,
            scratch,
            ..
        } = self;
        let live = part.live.clone();
        scratch.scales.resize(lattice.places.len(), ZEROS);
        let minus_top = simd.splat_f64s(-part.met.exponent);
        let mut begins = true;
        for frames in parts::<D>(part.frames) {
            let range = &mut scratch.range;
            if begins {
                trial.separate_from(row, live.clone());
            }
            if !range.scale::<S, D, false>(simd, trial, live.clone(), TOP_OF_POSTERIORS) {
                return false;
            }
            let (mut most, mut window) = (simd.splat_f64s(NOWHERE), Window::nothing(simd));
            for b in ordered::<D::Other>(live.clone()) {
                let own = load(simd, &trial.exponents[b].blank);
                let mut both = load(simd, &scratch.part_exponents[frames.start / PART][b]);
                for j in 0..vectors::<S>() {
                    let v = if D::FORWARD {
                        vectors::<S>() - 1 - j
                    } else {
                        j
                    };
                    let own = simd.add_f64s(own[v], minus_top);
                    // In a part a state comes as far as the fourth pair ahead.
                    let (_, ahead) = window.next::<D::Other>(simd, both[v]);
                    most = simd.max_f64s(most, simd.add_f64s(own, ahead));
                    both[v] = simd.add_f64s(own, both[v]);
                    // Posteriors below 2^-160 are 0: no product is below the normal numbers.
                    let counts = simd.greater_than_f64s(both[v], simd.splat_f64s(-850.0));
                    both[v] = simd.select_f64s(counts, powers(simd, both[v]), simd.splat_f64s(0.0));
                }
                store(simd, &mut scratch.scales[b], &both);
            }
            if simd.reduce_max_f64s(most) > range::MOST {
                return false;
            }
            let with = (&mut scratch.emissions, range.factors.as_slice());
            let mut join = Join::<true, true> {
                rows: &mut scratch.rows,
                tile_scales: &[],
                scales: &scratch.scales,
                blanks: &mut *blanks,
            };
            lattice.advance::<S, D, _, true>(simd, trial, with, frames, live.clone(), &mut join);
            begins = false;
        }
        true
    }
}

/// Makes the rows of a block of the other direction than `D` again, from its checkpoint, and their exponents by part of
/// the block. The emissions of the block are those of `scratch`.
fn make_rows<D: Direction>(
    lattice: &Tiles,
    kept: &Checkpoint,
    part: &Part,
    top: f64,
    scratch: &mut Scratch,
) {
    dispatch_simd(MakeRows::<D::Other> {
        lattice,
        kept,
        part,
        top,
        scratch,
        direction: PhantomData,
    });
}

/// [`make_rows`] of `D`.
struct MakeRows<'a, D> {
    lattice: &'a Tiles,
    kept: &'a Checkpoint<'a>,
    part: &'a Part<'a>,
    top: f64,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for MakeRows<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            lattice,
            kept,
            part,
            top,
            scratch:
                Scratch {
                    emissions,
                    range,
                    other,
                    rows,
                    part_exponents,
                    ..
                },
            ..
        } = self;
        let (tiles, live) = (lattice.places.len(), part.live.clone());
        for exponents in &mut *part_exponents {
            exponents.resize(tiles, ZEROS);
        }
        let mut record = Record(rows);
        if kept.level() == Level::Tiles {
            kept.restore_tiles(other, live.clone(), top);
            for b in live.clone() {
                let exponents = other.exponents_of(b).blank;
                for part in &mut *part_exponents {
                    part[b] = exponents;
                }
            }
            let with = (&mut *emissions, [].as_slice());
            let frames = 0..part.frames;
            lattice.advance::<S, D, _, false>(simd, other, with, frames, live, &mut record);
            return;
        }
        kept.restore_pairs(other, live.clone(), top);
        let mut begins = true;
        for frames in parts::<D>(part.frames) {
            if begins {
                range.factors_of::<S, D>(simd, other, live.clone());
            } else {
                range.scale::<S, D, false>(simd, other, live.clone(), top);
            }
            for b in live.clone() {
                part_exponents[frames.start / PART][b] = other.exponents[b].blank;
            }
            let with = (&mut *emissions, range.factors.as_slice());
            lattice.advance::<S, D, _, true>(simd, other, with, frames, live.clone(), &mut record);
            begins = false;
        }
    }
}

/// Takes a block of [`Walk`] with an exponent for each state.
fn walk_states<D: Direction, R: Real>(
    lattice: &Tiles,
    track: &mut Track,
    kept: &Checkpoint,
    (table, raw): (&mut [[R; RUN]], bool),
    part: &Part,
    to: &mut dyn Posteriors<R>,
    scratch: &mut Scratch,
) {
    let live = part.live.clone();
    let of_states = kept.level() == Level::States;
    scratch
        .row_exponents
        .resize(lattice.places.len(), [FAR; RUN]);
    if !of_states {
        // Nothing that counts is lost from the full range.
        scratch.emissions.set_any(lattice, (table, raw), &live);
        make_rows::<D>(lattice, kept, part, TOP, scratch);
        scratch.normalise_rows(part);
    }
    let emissions = &mut scratch.emissions;
    emissions.set_extended(lattice, table, raw, live.clone());
    let (rows, row_exponents) = (&mut scratch.rows, &mut scratch.row_exponents);
    if of_states {
        let other = &mut scratch.other;
        kept.restore_states(other, live.clone());
        let record = RecordExtended {
            numbers: rows,
            exponents: row_exponents,
        };
        let (frames, live) = (part.frames, live.clone());
        lattice.advance_extended::<D::Other, _>(other, emissions, frames, live, record);
    }
    track.row.separate(live.clone());
    let mut blanks = [ZEROS; RUN];
    let join = JoinExtended {
        numbers: rows,
        exponents: row_exponents,
        top: part.met.exponent,
        blanks: &mut blanks,
        states: to.of_states(),
    };
    lattice.advance_extended::<D, _>(&mut track.row, emissions, part.frames, live, join);
    let table = (table, raw);
    to.take(Block::new(lattice, table, &blanks, part, scratch, false));
}

/// A run whose posteriors are formed.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub run: usize,
    pub frames: usize,
    pub live: Range<usize>,
    met: Met,
    /// By frame, where it is wanted: the logarithm of what its emissions were divided by.
    pub log_scales: &'a [f64],
}

/// The parts of a block of so many frames, in the order of `D`.
fn parts<D: Direction>(frames: usize) -> impl Iterator<Item = Range<usize>> {
    let count = frames.div_ceil(PART);
    ordered::<D>(0..count).map(move |i| i * PART..((i + 1) * PART).min(frames))
}

/// Gives each of the live tiles of `from` a fresh exponent, and puts the result in `to`. What is to be known of the
/// exponents.
#[inline(always)]
fn scale_tiles<S: Simd, D: Direction>(
    simd: S,
    from: &Row,
    to: &mut Row,
    live: Range<usize>,
    top: f64,
) -> TileBefore {
    if !from.uniform {
        return dispatch_simd(range::ScaleSeparate::<D> {
            from,
            to,
            live,
            top: top as i64,
            direction: PhantomData,
        });
    }
    to.set_uniform();
    let mut before = TileBefore::NONE;
    for b in ordered::<D>(live) {
        let mut states = States::load(simd, &from.numbers[b]);
        let (exponent, largest) = (from.scales[b].exponent, states.largest(simd));
        let own = if largest > 0.0 {
            exponent + whole_exponent_of(largest)
        } else {
            NO_TILE
        };
        let scale = before.next(own, top as i64);
        let shift = exponent - scale.exponent;
        if (-1022..=1023).contains(&shift) {
            states.multiply(simd, whole_pow2(shift));
        } else {
            // In two steps: the power alone is beyond all numbers. Nothing is left of what is further below.
            let shift = shift.max(-2044);
            states.multiply(simd, whole_pow2(shift / 2));
            states.multiply(simd, whole_pow2(shift - shift / 2));
        }
        states.store(simd, &mut to.numbers[b]);
        to.scales[b] = scale;
    }
    before
}

/// Sets the states of the live tiles to 0 that are below 2^`least`, or with `over` that are once they are multiplied by
/// the scale of the tile of that which they meet: in a block of `D` a state comes as far as the next tile.
#[inline(always)]
fn drop_below<S: Simd, D: Direction>(
    simd: S,
    row: &mut Row,
    live: Range<usize>,
    least: i64,
    over: Option<&[Scale]>,
) {
    let zero = simd.splat_f64s(0.0);
    for b in live.clone() {
        let by = over.map_or(0, |scales| scale_ahead::<D>(scales, &live, b));
        let least = simd.splat_f64s(whole_pow2(least - row.scales[b].exponent - by));
        let mut states = States::load(simd, &row.numbers[b]);
        for v in 0..vectors::<S>() {
            for state in [&mut states.blank[v], &mut states.label[v]] {
                *state = simd.select_f64s(simd.less_than_f64s(*state, least), zero, *state);
            }
        }
        states.store(simd, &mut row.numbers[b]);
    }
}

/// The larger exponent of live tile `b` and of the next in the order of `D`.
#[inline(always)]
fn scale_ahead<D: Direction>(scales: &[Scale], live: &Range<usize>, b: usize) -> i64 {
    let next = if D::FORWARD {
        (b + 1).min(live.end - 1)
    } else {
        b.saturating_sub(1).max(live.start)
    };
    scales[b].exponent.max(scales[next].exponent)
}

/// `2^e`: 0 below the normal numbers, and no more than 2^1023.
#[inline(always)]
fn whole_pow2(e: i64) -> f64 {
    if e < -1022 {
        0.0
    } else {
        f64::from_bits(((e.min(1023) + 1023) as u64) << 52)
    }
}

/// The exponent of a normal number above 0.
#[inline(always)]
fn whole_exponent_of(x: f64) -> i64 {
    (x.to_bits() >> 52) as i64 - 1023
}

/// Asks for the table of the run that comes next, if it is a long one: it is read class by class in the order of
/// the target, which is none that hardware would see.
#[inline(always)]
fn ask_for_run<R>(run: Option<&[[R; RUN]]>) {
    const LONG: usize = 64;
    fetch_all(run.filter(|run| run.len() >= LONG).unwrap_or_default());
}

/// What is done with each tile in each frame of a run.
trait Visitor {
    /// What has been added up in frame `k`, pair by pair.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, _k: usize) -> Vectors<S> {
        [simd.splat_f64s(0.0); PAIRS]
    }

    /// Tile `b` in frame `k` of the run: what flows into its states, and then the states. The emissions of its
    /// labels in this frame are not needed any more: their place is the visitor's. It adds to the sum of the frame.
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        at: (usize, usize),
        flow: &States<S>,
        states: &States<S>,
        place: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S>;

    /// Keeps the sum of frame `k`.
    #[inline(always)]
    fn keep<S: Simd>(&mut self, _: S, _k: usize, _sum: &Vectors<S>) {}
}

struct Alone;

impl Visitor for Alone {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        _: S,
        _: (usize, usize),
        _: &States<S>,
        _: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        sum
    }
}

/// Writes the states down.
struct Record<'a>(&'a mut [[Tile; RUN]]);

impl Visitor for Record<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k): (usize, usize),
        _: &States<S>,
        states: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        states.store(simd, &mut self.0[b][k]);
        sum
    }
}

/// The smallest states that are not 0, lane by lane.
struct Smallest(Pairs);

impl Visitor for Smallest {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        _: (usize, usize),
        _: &States<S>,
        states: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
        let (least, _) = S::as_mut_simd_f64s(&mut self.0.0);
        for v in 0..vectors::<S>() {
            for state in [states.blank[v], states.label[v]] {
                let state = simd.select_f64s(simd.greater_than_f64s(state, zero), state, one);
                least[v] = simd.min_f64s(least[v], state);
            }
        }
        sum
    }
}

/// Forms posteriors with the rows of the other direction: those of the labels in place of their emissions, and with
/// `STATES` those of the blanks in place of the rows.
struct Join<'a, const FINE: bool, const STATES: bool> {
    rows: &'a mut [[Tile; RUN]],
    /// By tile, and with `FINE` by pair.
    tile_scales: &'a [f64],
    scales: &'a [Pairs],
    /// Of all tiles: the blanks, pair by pair.
    blanks: &'a mut Square,
}

impl<const FINE: bool, const STATES: bool> Visitor for Join<'_, FINE, STATES> {
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, k: usize) -> Vectors<S> {
        load(simd, &self.blanks[k])
    }

    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k): (usize, usize),
        flow: &States<S>,
        _: &States<S>,
        place: &mut Pairs,
        mut sum: Vectors<S>,
    ) -> Vectors<S> {
        let row = &mut self.rows[b][k];
        let scale = if FINE {
            load(simd, &self.scales[b])
        } else {
            [simd.splat_f64s(self.tile_scales[b]); PAIRS]
        };
        let blank = product(simd, &flow.blank, &row.blank, &scale);
        let label = product(simd, &flow.label, &row.label, &scale);
        store(simd, place, &label);
        if STATES {
            store(simd, &mut row.blank, &blank);
        }
        for v in 0..vectors::<S>() {
            sum[v] = simd.add_f64s(sum[v], blank[v]);
        }
        sum
    }

    #[inline(always)]
    fn keep<S: Simd>(&mut self, simd: S, k: usize, sum: &Vectors<S>) {
        store(simd, &mut self.blanks[k], sum);
    }
}

impl Track {
    /// Becomes what `other` is, without its checkpoints.
    pub fn follow(&mut self, other: &Track) {
        self.row.copy_from(&other.row);
        self.trial.clear(other.row.numbers.len());
        self.kept.clear();
    }
}

/// [`Spread::set`].
struct SetPlain<'a, R> {
    spread: &'a mut Spread,
    lattice: &'a Tiles,
    run: &'a [[R; RUN]],
    live: Range<usize>,
}

impl<R: Real> WithSimd for SetPlain<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.spread.set(simd, self.lattice, self.run, self.live);
    }
}

impl Spread {
    /// [`Self::set`] with the instruction set in use.
    fn set_plain<R: Real>(&mut self, lattice: &Tiles, run: &[[R; RUN]], live: &Range<usize>) {
        dispatch_simd(SetPlain {
            spread: self,
            lattice,
            run,
            live: live.clone(),
        });
    }

    /// [`Self::set`] with the emissions of entries as they came.
    fn set_raw<R: Real>(&mut self, lattice: &Tiles, run: &[[R; RUN]], live: &Range<usize>) {
        let mut wide = std::mem::take(&mut self.wide);
        wide.resize(run.len(), [0.0; RUN]);
        raw_emissions(run, &mut wide);
        self.set_plain(lattice, &wide, live);
        self.wide = wide;
    }

    /// [`Self::set`] with emissions, or with those of entries as they came.
    fn set_any<R: Real>(
        &mut self,
        lattice: &Tiles,
        (run, raw): (&[[R; RUN]], bool),
        live: &Range<usize>,
    ) {
        if raw {
            self.set_raw(lattice, run, live);
        } else {
            self.set_plain(lattice, run, live);
        }
    }

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
        let run = &run[..lattice.entries];
        for b in live {
            let mut entries = [ZEROS; PAIRS];
            for i in 0..PAIRS {
                // SAFETY: `prepare` has seen that all places are below `entries`.
                let entry = unsafe { run.get_unchecked(lattice.places[b][i] as usize) };
                for k in 0..RUN {
                    entries[i].0[k] = entry[k].widen();
                }
            }
            // Pairs behind the last label stand for nothing.
            for i in lattice.labels.saturating_sub(b * PAIRS)..PAIRS {
                entries[i] = ZEROS;
            }
            self.labels[b] = transpose(simd, &entries);
        }
    }
}

/// By pair: what is multiplied that flows into it from the one before.
#[inline(always)]
fn spread<D: Direction>(factor: f64) -> Pairs {
    let mut pairs = Pairs([1.0; PAIRS]);
    pairs.0[if D::FORWARD { 0 } else { PAIRS - 1 }] = factor;
    pairs
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
/// A posterior is at most 1. The first product is below 2^1023, and where it is below the normal numbers the posterior
/// does not count: [`range::MOST`] sees to both.
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
    fn new(simd: S, skip: &Pairs, factors: &Pairs) -> Self {
        let blank = load(simd, factors);
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

    /// The largest: no state is NaN.
    #[inline(always)]
    fn largest(&self, simd: S) -> f64 {
        let mut top = simd.max_f64s(self.blank[0], self.label[0]);
        for v in 1..vectors::<S>() {
            top = simd.max_f64s(top, simd.max_f64s(self.blank[v], self.label[v]));
        }
        simd.reduce_max_f64s(top)
    }

    #[inline(always)]
    fn multiply(&mut self, simd: S, by: f64) {
        let by = simd.splat_f64s(by);
        for v in 0..vectors::<S>() {
            self.blank[v] = simd.mul_f64s(self.blank[v], by);
            self.label[v] = simd.mul_f64s(self.label[v], by);
        }
    }

    /// What flows into each state. `edge` holds the end of the neighbour that flows into this
    /// tile, and then its own.
    #[inline(always)]
    fn inflow<D: Direction>(&self, simd: S, edge: &mut [S::f64s; 2], links: &Links<S>) -> Self {
        let last = vectors::<S>() - 1;
        let mut flow = *self;
        if D::FORWARD {
            for v in 0..=last {
                let before = shift::up(simd, edge[1], self.label[v]);
                edge[1] = self.label[v];
                let here = simd.add_f64s(self.label[v], self.blank[v]);
                flow.blank[v] = mul_add_f64(simd, before, links.blank[v], self.blank[v]);
                flow.label[v] = mul_add_f64(simd, before, links.label[v], here);
            }
        } else {
            for v in (0..=last).rev() {
                let after = [
                    shift::down(simd, self.blank[v], edge[0]),
                    shift::down(simd, self.label[v], edge[1]),
                ];
                *edge = [self.blank[v], self.label[v]];
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
