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
//! **Scale.** Each tile has a power of two, set anew before each run so that its largest state is near
//! 2^[`TOP`], or less where a neighbour is far ahead: a tile's exponent is at most [`AHEAD`] below that
//! of the tile from which states flow into it. In the 8 frames of a run states flow no further than
//! one tile, and no state grows by more than 3^8 < 2^13, so nothing exceeds
//! 2^(TOP + AHEAD + 13) < 2^1023.
//!
//! **What is lost.** A state below 2^-1022 may vanish. What vanishes in a run can reach a state of
//! the next tile multiplied by at most 2^(AHEAD + 26). So it is less than 2^-60 of any state that
//! ends the run above [`LEAST`] = 2^(-1022 + AHEAD + 26 + 60). On the way to the middle, a run that
//! ends with a live state below that is [`Unfit`], as is one with tiles too far apart for a factor
//! between them, and a meeting where dead states hide what counts; so `P` is exact. On the way on, states that no path needs any more may vanish.
//! That none is missed shows in each frame: the posteriors must add up to 1 within [`OFF`]. An item that does not
//! fit is computed in numbers with exponents of their own (`wide`).

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "loops of a fixed count over arrays are what becomes vector code"
)]

mod abreast;

pub(super) use abreast::{Abreast, FEWEST as FEWEST_ABREAST, LANES as ABREAST, Lane};

use super::fetch::fetch_all;
use super::isa::{dispatch_simd, mul_add_f64};
use super::real::Real;
use super::runs::{Backward, Direction, RUN, Runs, Table, nth, ordered};
use super::shift;
use super::square::{Octet as Pairs, Square, ZEROS, flat, transpose, turned};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;
use std::ops::Range;

/// Pairs of a tile. States flow by one pair a frame: in a run no further than one tile.
const PAIRS: usize = 8;
const _: () = assert!(RUN == PAIRS);

/// The largest state of a tile is brought to between 2^TOP and 2^(TOP + 1).
const TOP: i64 = 350;
/// The most that the exponent of a tile may be below that of the tile it receives from.
const AHEAD: i64 = 300;
/// The exponent of the least state that is sure to be exact.
const LEAST: i64 = -1022 + AHEAD + 26 + 60;
/// The exponent of a tile that holds nothing and receives nothing.
const NOWHERE: i64 = -(1 << 40);
/// How far from 1 the posteriors of a frame may add up to. Rounding over 20000 frames takes 1e-12.
const OFF: f64 = 1e-10;

/// This arithmetic does not hold the item's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

fn fits(fit: bool) -> Result<(), Unfit> {
    if fit { Ok(()) } else { Err(Unfit) }
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

/// What the numbers of a tile stand for: a state is `number · 2^(exponent − TOP)`.
#[derive(Debug, Clone, Copy)]
struct Scale {
    exponent: i64,
    /// What numbers are multiplied by that flow into the tile from the one before it.
    factor: f64,
}

const UNSCALED: Scale = Scale {
    exponent: TOP,
    factor: 1.0,
};

/// The tiles of a row of the lattice.
#[derive(Debug, Default)]
struct Row {
    numbers: Vec<Tile>,
    scales: Vec<Scale>,
}

impl Row {
    fn resize(&mut self, tiles: usize) {
        self.numbers.resize(tiles, EMPTY);
        self.scales.resize(tiles, UNSCALED);
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.scales.clear();
    }

    /// Adds some tiles of another.
    fn extend(&mut self, from: &Row, tiles: Range<usize>) {
        self.numbers.extend_from_slice(&from.numbers[tiles.clone()]);
        self.scales.extend_from_slice(&from.scales[tiles]);
    }

    /// Replaces `tiles` by those of another from `start` on.
    fn copy(&mut self, tiles: Range<usize>, from: &Row, start: usize) {
        let source = start..start + tiles.len();
        self.numbers[tiles.clone()].copy_from_slice(&from.numbers[source.clone()]);
        self.scales[tiles].copy_from_slice(&from.scales[source]);
    }
}

/// The states of one direction, and its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Track {
    row: Row,
    /// The live tiles at the start of each run, and where each run begins.
    kept: Row,
    starts: Vec<usize>,
    past: Past,
}

/// How far a direction can have come.
#[derive(Debug)]
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
    /// `[tile][frame]`: the rows of the other direction.
    rows: Vec<[Tile; RUN]>,
    /// By tile: what makes posteriors of products.
    scales: Vec<f64>,
    /// By entry: the posterior of its class in each frame.
    classes: Vec<Pairs>,
    other: Row,
}

/// The emissions of a run, as the tiles read them.
#[derive(Debug, Default)]
struct Spread {
    /// `[tile][frame]`
    labels: Vec<Square>,
    blanks: [f64; RUN],
}

/// Where the two directions met: `P = mantissa · 2^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    mantissa: f64,
    exponent: i64,
}

impl Met {
    /// Adds `number · 2^e`.
    fn add(&mut self, number: f64, e: i64) {
        if number > 0.0 {
            let own = exponent_of(number);
            let top = self.exponent.max(own + e);
            // In two steps: 2^-1023 is no normal number.
            self.mantissa = self.mantissa * pow2(self.exponent - top)
                + number * 0.5 * pow2(1 - own) * pow2(own + e - top);
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
        track.row.clear();
        track.row.resize(self.places.len());
        track.kept.clear();
        track.starts.clear();
        track.past = Past::default();
        let first = self.first::<D>();
        track.row.numbers[first / PAIRS].blank.0[first % PAIRS] = 1.0;
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
        // The exponent of what may have vanished: each of the 16 products (of up to 3 terms) of a tile
        // loses what is below 2^-1022.
        let mut lost = NOWHERE;
        let (alpha, beta) = (&alpha.row, &beta.row);
        for b in self.live(&(middle..middle)) {
            let sum = self.products(b, alpha, beta, 1.0);
            let e = alpha.scales[b].exponent + beta.scales[b].exponent - 2 * TOP;
            let (sum, e) = if sum.is_finite() {
                (sum, e)
            } else {
                let sum = self.products(b, alpha, beta, pow2(-SMALLER));
                fits(sum.is_finite())?;
                (sum, e + 2 * SMALLER)
            };
            met.add(sum, e);
            lost = lost.max(e - 1022 + 6);
        }
        // States that no path needs may hide those that it does.
        fits(met.mantissa > 0.0 && met.exponent >= lost + 60)?;
        Ok(met)
    }

    /// The sum of the products of the alphas of tile `b` and what flows into its betas, both multiplied
    /// by `scale` first.
    fn products(&self, b: usize, alpha: &Row, beta: &Row, scale: f64) -> f64 {
        let factor = spread::<Backward>(beta.scales[b].factor).0;
        let skip = &self.backward_skip[b].0;
        let (alpha, beta, above) = (
            &alpha.numbers[b],
            &beta.numbers[b],
            beta.numbers.get(b + 1).unwrap_or(&EMPTY),
        );
        let (blank, label) = (&beta.blank.0, &beta.label.0);
        let mut sum = 0.0;
        for k in 0..PAIRS {
            let (next_blank, next_label) = if k + 1 < PAIRS {
                (blank[k + 1], label[k + 1])
            } else {
                (above.blank.0[0], above.label.0[0])
            };
            let to_blank = blank[k] + label[k];
            let to_label = label[k] + next_blank * factor[k] + next_label * (skip[k] * factor[k]);
            sum += (alpha.blank.0[k] * scale) * (to_blank * scale);
            sum += (alpha.label.0[k] * scale) * (to_label * scale);
        }
        sum
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
        row: &mut Row,
        emissions: &mut Spread,
        frames: usize,
        live: Range<usize>,
        visitor: &mut V,
    ) {
        let mut edges = [[simd.splat_f64s(0.0); 2]; RUN];
        let edges = &mut edges[..frames];
        // As many tiles together as there are registers for: one would wait for its own results.
        let mut left = live;
        while !left.is_empty() {
            let count = left.len().min(S::F64_LANES / 2);
            let low = if D::FORWARD {
                left.start
            } else {
                left.end - count
            };
            match count {
                1 => self.pass::<S, D, V, 1>(simd, row, emissions, low, edges, visitor),
                2 => self.pass::<S, D, V, 2>(simd, row, emissions, low, edges, visitor),
                3 => self.pass::<S, D, V, 3>(simd, row, emissions, low, edges, visitor),
                _ => self.pass::<S, D, V, 4>(simd, row, emissions, low, edges, visitor),
            }
            left = if D::FORWARD {
                left.start + count..left.end
            } else {
                left.start..low
            };
        }
    }

    /// The same for `N` neighbours from tile `low` on. `edges` holds, for each frame, the end of the
    /// neighbour that flows into them, and then their own.
    // No closures here or below: what the compiler does not inline loses its instruction set.
    #[inline(always)]
    fn pass<S: Simd, D: Direction, V: Visitor, const N: usize>(
        &self,
        simd: S,
        row: &mut Row,
        emissions: &mut Spread,
        low: usize,
        edges: &mut [[S::f64s; 2]],
        visitor: &mut V,
    ) {
        let skip = &self.skip::<D>()[low..low + N];
        let numbers = &mut row.numbers[low..low + N];
        let scales = &row.scales[low..low + N];
        let labels = &mut emissions.labels[low..low + N];
        let mut links = [Links::new::<D>(simd, &skip[0], scales[0]); N];
        let mut states = [States::load(simd, &numbers[0]); N];
        for i in 1..N {
            links[i] = Links::new::<D>(simd, &skip[i], scales[i]);
            states[i] = States::load(simd, &numbers[i]);
        }
        let frames = edges.len();
        for (j, edge) in edges.iter_mut().enumerate() {
            let k = if D::FORWARD { j } else { frames - 1 - j };
            let mut flows = states;
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                flows[i] = states[i].inflow::<D>(simd, edge, &links[i]);
            }
            // In the same order however many go together: visitors add up.
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                states[i] = flows[i].times(simd, emissions.blanks[k], &labels[i][k]);
                visitor.visit(simd, (low + i, k), &flows[i], &states[i], &mut labels[i][k]);
            }
        }
        for i in 0..N {
            states[i].store(simd, &mut numbers[i]);
        }
    }

    /// Whether all live states that can be reached at the end of a run are sure to be exact.
    #[inline(always)]
    fn check<S: Simd>(
        &self,
        simd: S,
        tiles: &[Tile],
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
            let [blank, label] = [load(simd, &tiles[b].blank), load(simd, &tiles[b].label)];
            for v in 0..vectors::<S>() {
                let place = simd.add_f64s(places[v], first);
                for (m, start, end) in [
                    (blank[v], bounds[0], bounds[1]),
                    (label[v], bounds[2], bounds[3]),
                ] {
                    // A NaN is not.
                    let exact = simd.greater_than_or_equal_f64s(m, least);
                    let below = simd.less_than_f64s(place, start);
                    let above = simd.greater_than_or_equal_f64s(place, end);
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
        blanks: &Square,
        (met, frames): (Met, usize),
        live: Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Unfit> {
        let blank = self.entries - 1;
        scratch.classes.clear();
        scratch.classes.resize(self.entries.max(PAIRS), ZEROS);
        let classes = scratch.classes.as_mut_slice();
        for b in live {
            // Pairs behind the last label have a posterior of 0.
            let labels = transpose(simd, &scratch.emissions.labels[b]);
            for i in 0..PAIRS {
                // SAFETY: `prepare` has seen that all places are below `entries`.
                let class = unsafe { classes.get_unchecked_mut(self.places[b][i] as usize) };
                add_to(simd, class, &load(simd, &labels[i]));
            }
        }
        let blanks = transpose(simd, blanks);
        for i in 0..PAIRS {
            add_to(simd, &mut classes[blank], &load(simd, &blanks[i]));
        }
        // Four at a time, so that additions do not wait for each other.
        let mut sums = [[0.0; RUN]; 4];
        let (fours, rest) = classes.as_chunks::<4>();
        for four in fours {
            for c in 0..4 {
                for k in 0..RUN {
                    sums[c][k] += four[c].0[k];
                }
            }
        }
        for class in rest {
            for k in 0..RUN {
                sums[0][k] += class.0[k];
            }
        }
        let (mut fit, mut scale) = (true, ZEROS);
        for k in 0..RUN {
            let sum = (sums[0][k] + sums[1][k]) + (sums[2][k] + sums[3][k]);
            fit &= k >= frames || (sum / met.mantissa - 1.0).abs() <= OFF;
            // Dividing by the frame's own sum takes out the rounding that all its states share.
            scale.0[k] = 1.0 / sum;
        }
        let scales = load(simd, &scale);
        // Columns become rows, eight at a time; the last eight, some of them again.
        let (to, entries) = (to.as_flattened_mut(), self.entries);
        for first in (0..entries).step_by(PAIRS) {
            let first = first.min(entries.saturating_sub(PAIRS));
            let mut square = [ZEROS; PAIRS];
            square.copy_from_slice(&scratch.classes[first..first + PAIRS]);
            for class in &mut square {
                let mut scaled = load(simd, class);
                for v in 0..vectors::<S>() {
                    scaled[v] = simd.mul_f64s(scaled[v], scales[v]);
                }
                store(simd, class, &scaled);
            }
            let rows = transpose(simd, &square);
            if entries < PAIRS {
                for (to, row) in to.chunks_exact_mut(entries).zip(&rows) {
                    for (to, &x) in to.iter_mut().zip(&row.0) {
                        *to = R::narrow(x);
                    }
                }
                continue;
            }
            for k in 0..RUN {
                let start = k * entries + first;
                to[start..start + PAIRS].copy_from_slice(&R::narrow_all(simd, &rows[k].0));
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
            fits(track.row.scale::<S, D>(simd, live.clone()))?;
            if self.keep {
                track.starts.push(track.kept.scales.len());
                track.kept.extend(&track.row, live.clone());
            }
            emissions.set(simd, lattice, self.table.run(i), live.clone());
            let (row, frames) = (&mut track.row, run.len());
            lattice.advance::<S, D, _>(simd, row, emissions, frames, live.clone(), &mut Alone);
            let reached = lattice.reached::<D>(&run, &mut track.past);
            lattice.check(simd, &track.row.numbers, &reached, live)?;
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
        scratch.scales.resize(tiles, 0.0);
        scratch.other.resize(tiles);
        // The runs of the other direction, from the middle back to its start.
        let runs = lattice.runs.half::<D::Other>();
        let first = runs.start;
        for (i, &start) in ordered::<D>(runs).zip(self.other.starts.iter().rev()) {
            let run = lattice.runs.frames_of(i..i + 1);
            let (live, frames) = (lattice.live(&run), run.len());
            let place = (i - first) * lattice.entries;
            let table = &half[place..place + lattice.entries];
            scratch.emissions.set(simd, lattice, table, live.clone());
            let next = if D::FORWARD {
                place.checked_add(lattice.entries)
            } else {
                place.checked_sub(lattice.entries)
            };
            ask_for_run(next.and_then(|next| half.get(next..next + lattice.entries)));
            scratch.other.copy(live.clone(), &self.other.kept, start);
            lattice.advance::<S, D::Other, _>(
                simd,
                &mut scratch.other,
                &mut scratch.emissions,
                frames,
                live.clone(),
                &mut Record(&mut scratch.rows),
            );
            // Tiles too far apart: what does not flow then is missing from the sums, if it matters.
            let _ = track.row.scale::<S, D>(simd, live.clone());
            for b in live.clone() {
                let both = track.row.scales[b].exponent + scratch.other.scales[b].exponent;
                let e = both - 2 * TOP - self.met.exponent;
                // See `product`. Below 2^-1022 the scale is 0; posteriors that matter are then
                // missing from the sum of their frame, which is checked.
                fits(e <= 350)?;
                scratch.scales[b] = pow2(e);
            }
            let mut blanks = [ZEROS; RUN];
            let mut join = Join {
                rows: &scratch.rows,
                scales: &scratch.scales,
                blanks: &mut blanks,
            };
            let emissions = &mut scratch.emissions;
            lattice.advance::<S, D, _>(
                simd,
                &mut track.row,
                emissions,
                frames,
                live.clone(),
                &mut join,
            );
            let met = (self.met, frames);
            let table = &mut half[place..place + lattice.entries];
            lattice.write(simd, table, &blanks, met, live, scratch)?;
        }
        Ok(())
    }
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
    /// Tile `b` in frame `k` of the run: what flows into its states, and then the states. The emissions of its
    /// labels in this frame are not needed any more: their place is the visitor's.
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        at: (usize, usize),
        flow: &States<S>,
        states: &States<S>,
        place: &mut Pairs,
    );
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
    ) {
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
    ) {
        states.store(simd, &mut self.0[b][k]);
    }
}

/// Forms posteriors with the rows of the other direction: those of the labels in place of their emissions.
struct Join<'a> {
    rows: &'a [[Tile; RUN]],
    scales: &'a [f64],
    /// Of all tiles: the blanks, pair by pair.
    blanks: &'a mut Square,
}

impl Visitor for Join<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k): (usize, usize),
        flow: &States<S>,
        _: &States<S>,
        place: &mut Pairs,
    ) {
        let (row, scale) = (&self.rows[b][k], simd.splat_f64s(self.scales[b]));
        let blank = product(simd, &flow.blank, &row.blank, scale);
        let label = product(simd, &flow.label, &row.label, scale);
        store(simd, place, &label);
        add_to(simd, &mut self.blanks[k], &blank);
    }
}

impl Track {
    /// Becomes what `other` is, without its checkpoints.
    pub fn follow(&mut self, other: &Track) {
        self.row.clear();
        self.row.extend(&other.row, 0..other.row.scales.len());
        self.kept.clear();
        self.starts.clear();
    }
}

impl Row {
    /// Gives each of the live tiles a fresh exponent. Whether there is a factor between all neighbours:
    /// where a tile is too far below the next, nothing flows.
    #[inline(always)]
    fn scale<S: Simd, D: Direction>(&mut self, simd: S, live: Range<usize>) -> bool {
        let mut before: Option<i64> = None;
        let mut near = true;
        for b in ordered::<D>(live) {
            let (numbers, scale) = (&mut self.numbers[b], &mut self.scales[b]);
            let mut states = States::load(simd, numbers);
            let top = states.largest(simd);
            let own = scale.exponent - TOP + exponent_of(top);
            let wanted = match (top > 0.0, before) {
                (true, Some(before)) => own.max(before - AHEAD),
                (true, None) => own,
                // Nothing here yet: what flows in brings its scale.
                (false, Some(before)) => before,
                (false, None) => NOWHERE,
            };
            let shift = if top > 0.0 {
                (scale.exponent - wanted).min(1000)
            } else {
                scale.exponent - wanted
            };
            let by = pow2(shift);
            states.multiply(simd, by);
            states.store(simd, numbers);
            scale.exponent -= shift;
            let change = before.map_or(0, |before| before - scale.exponent);
            near &= change >= -1022;
            scale.factor = pow2(change);
            before = Some(scale.exponent).filter(|&e| e > NOWHERE);
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
/// In this order nothing overflows: `scale` is at most 2^350. A first product that vanishes is below
/// 2^-1022, so the second would be below 2^-359.
#[inline(always)]
fn product<S: Simd>(simd: S, flow: &Vectors<S>, row: &Pairs, scale: S::f64s) -> Vectors<S> {
    let mut row = load(simd, row);
    for v in 0..vectors::<S>() {
        row[v] = simd.mul_f64s(simd.mul_f64s(row[v], scale), flow[v]);
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
    fn new<D: Direction>(simd: S, skip: &Pairs, scale: Scale) -> Self {
        let blank = load(simd, &spread::<D>(scale.factor));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_size_add_up() {
        for (number, e) in [
            (f64::MAX, -2000),
            (1.5 * pow2(1023), -1227),
            (pow2(1023), 0),
            (pow2(-1022), 40),
            (1.0, -3000),
            (3.0, 5000),
        ] {
            let mut met = Met {
                mantissa: 0.0,
                exponent: NOWHERE,
            };
            met.add(number, e);
            let ln = number.ln() + e as f64 * std::f64::consts::LN_2;
            assert!((met.ln() - ln).abs() <= 1e-12, "{number:e} {e}");
            met.add(number, e);
            let twice = ln + std::f64::consts::LN_2;
            assert!((met.ln() - twice).abs() <= 1e-12, "{number:e} {e}");
        }
    }
}
