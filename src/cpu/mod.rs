//! The CPU: one task an item, vector code inside it.
//!
//! [`forward`] gives the losses and, when a gradient is wanted, the posteriors of the labels and
//! of the blank in each frame, which is all that [`gradient`] needs.

mod emission;
mod isa;
mod prefix;
mod real;
mod rows;
mod score;
mod tasks;
mod tiles;
mod viterbi;
mod wide;

pub use isa::Isa;
pub(crate) use prefix::log_sums;
pub(crate) use real::{Element, Real};
pub(crate) use rows::gradient;
pub(crate) use score::{Occupancy, occupancy, score, state_posteriors};
pub(crate) use viterbi::{NoPath, Path, Star, viterbi};

use crate::classes::Classes;
use crate::plan::{InputKind, Plan, Strides};
use emission::{Found, LANES, RowBuffers, RowStats, Source, exact_sum, is_poison};
use tiles::{Backward, Direction, Forward, Scratch, Table, Tiles, Track, Unfit};
use std::ops::Range;
use tasks::{Threads, share_out};

/// What the backward pass needs of the forward pass.
pub(crate) struct Saved<R> {
    items: Vec<SavedItem<R>>,
}

struct SavedItem<R> {
    loss: f64,
    /// The classes that the target uses.
    classes: Vec<u32>,
    /// `(T_n, classes + 1)`: the posterior of each class that the target uses, then of the blank.
    /// Empty when the loss is not finite.
    posterior: Vec<R>,
    /// `T_n` entries for logits; none for log-probabilities, and none when the loss is not
    /// finite.
    stats: Vec<RowStats<R>>,
}

/// The loss of each item, and what the backward pass needs when `keep` is set.
pub(crate) fn forward<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    keep: bool,
) -> (Vec<f64>, Option<Saved<E::Real>>) {
    let mut items: Vec<Option<SavedItem<E::Real>>> = Vec::new();
    items.resize_with(plan.batch, || None);
    // Items fill the threads; where there are few of them, their parts do too.
    let work = work(plan);
    let split = plan.batch < 4 * rayon::current_num_threads() && work > 2 * WORTH_A_THREAD;
    let threads = if split { Threads::Rayon } else { Threads::Candle };
    share_out(
        items.iter_mut().enumerate(),
        threads,
        (work / WORTH_A_THREAD).max(1),
        |(n, to), buffers: &mut Buffers<E>| {
            *to = Some(item(plan, data, strides, n, keep, split, buffers));
        },
    );
    let items: Vec<_> = items.into_iter().flatten().collect();
    let losses = items.iter().map(|item| item.loss).collect();
    (losses, keep.then_some(Saved { items }))
}

/// How much work the lattices of a plan are: about nanoseconds.
fn work(plan: &Plan) -> usize {
    let item = |n| plan.input_lengths[n] * (3 * plan.target_length(n) + 30);
    (0..plan.batch).map(item).sum()
}

/// What a thread must have to do so that waking it is worth while.
const WORTH_A_THREAD: usize = 1 << 14;

/// Working memory of one task, kept from item to item.
struct Buffers<E: Element> {
    lattice: Tiles,
    /// The logarithm of what each frame was divided by.
    largest: Vec<E::Real>,
    forward: Way<E>,
    backward: Way<E>,
}

/// That of one direction.
struct Way<E: Element> {
    /// Up to the middle, and past it.
    track: Track,
    on: Track,
    scratch: Scratch,
    values: Vec<E::Real>,
    largest: Vec<E::Real>,
    rows: RowBuffers<E>,
}

impl<E: Element> Default for Buffers<E> {
    fn default() -> Self {
        let way = || Way {
            track: Track::default(),
            on: Track::default(),
            scratch: Scratch::default(),
            values: Vec::new(),
            largest: Vec::new(),
            rows: RowBuffers::default(),
        };
        Self {
            lattice: Tiles::default(),
            largest: Vec::new(),
            forward: way(),
            backward: way(),
        }
    }
}

fn item<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    keep: bool,
    split: bool,
    buffers: &mut Buffers<E>,
) -> SavedItem<E::Real> {
    let frames = plan.input_lengths[n];
    let without_lattice = |loss| SavedItem {
        loss,
        classes: Vec::new(),
        posterior: Vec::new(),
        stats: Vec::new(),
    };
    if frames == 0 {
        return without_lattice(match plan.target_length(n) {
            0 => 0.0,
            _ => f64::INFINITY,
        });
    }
    let used = Classes::new(plan.target(n)).or_labels(plan.target(n), LANES);
    let source = Source::new(plan, data, strides, n, &used);
    let problem = Problem {
        plan,
        n,
        source: &source,
        used: &used,
        split,
    };
    if !plan.is_feasible(n) {
        return without_lattice(if problem.is_poisoned() {
            f64::NAN
        } else {
            f64::INFINITY
        });
    }
    let solved = problem.in_tiles(keep, buffers);
    let (log_p, kept) = solved.unwrap_or_else(|Unfit| problem.in_wide(keep));
    if log_p.is_nan() {
        return without_lattice(f64::NAN);
    }
    if log_p == f64::NEG_INFINITY {
        return without_lattice(f64::INFINITY);
    }
    let loss = loss_from(log_p, frames, plan.input, E::Real::EPSILON);
    match kept {
        None => without_lattice(loss),
        Some(kept) => SavedItem {
            loss,
            classes: used.distinct,
            posterior: kept.entries,
            stats: kept.stats,
        },
    }
}

/// `−ln P`. A probability that rounding alone lifted above 1 is 1: a loss is not below 0 unless
/// the input says so.
fn loss_from(log_p: f64, frames: usize, kind: InputKind, epsilon: f64) -> f64 {
    let rounding = match kind {
        InputKind::Logits => f64::INFINITY,
        InputKind::LogProbs => 2.0 * epsilon * frames as f64,
    };
    if log_p > 0.0 && log_p <= rounding {
        0.0
    } else {
        // 0 − x, so that ln 1 gives 0 and not −0.
        0.0 - log_p
    }
}

/// Runs both, on two threads if `split`.
fn both<A: Send, B: Send>(
    split: bool,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    if split { rayon::join(a, b) } else { (a(), b()) }
}

/// One item that has frames.
struct Problem<'a, E: Element> {
    plan: &'a Plan,
    n: usize,
    source: &'a Source<'a, E>,
    used: &'a Classes,
    /// Share the work of this item out over threads.
    split: bool,
}

/// The gathered input of all frames of an item; at the end the posteriors, entry by entry in its
/// place.
struct Kept<S> {
    entries: Vec<S>,
    stats: Vec<RowStats<S>>,
}

/// `ln P` of an item, and the posteriors when they are wanted.
type Solved<E> = (f64, Option<Kept<<E as Element>::Real>>);

/// Frames whose emissions are in memory at a time when nothing is kept.
const CHUNK: usize = 32;

/// The sum of the logarithms that frames were divided by.
fn log_scale<R: Real>(largest: &[R], stats: &[RowStats<R>]) -> f64 {
    exact_sum(largest) + Found::normalisers(stats).log_scale
}

impl<E: Element> Way<E> {
    fn sweep<D: Direction>(&mut self, lattice: &Tiles, table: Table<E::Real>) -> Result<(), Unfit> {
        let runs = 0..lattice.runs::<D>();
        lattice.sweep::<D, _>(&mut self.track, runs, table, true, &mut self.scratch)
    }
}

impl<E: Element> Problem<'_, E> {
    fn frames(&self) -> usize {
        self.plan.input_lengths[self.n]
    }

    /// `ln P`, and with `keep` the posteriors.
    fn in_tiles(&self, keep: bool, buffers: &mut Buffers<E>) -> Result<Solved<E>, Unfit> {
        let (frames, entries) = (self.frames(), self.source.entries());
        let Buffers {
            lattice,
            largest,
            forward,
            backward,
        } = buffers;
        lattice.prepare(frames, self.plan.target(self.n), &self.used.place, entries);
        lattice.start::<Forward>(&mut forward.track);
        lattice.start::<Backward>(&mut backward.track);
        if !keep {
            let (early, late) = both(
                self.split,
                || self.score::<Forward>(lattice, forward),
                || self.score::<Backward>(lattice, backward),
            );
            let log_scale = early? + late?;
            let met = lattice.meet(&forward.track, &backward.track)?;
            return Ok((met.ln() + log_scale, None));
        }
        let mut kept = Kept {
            entries: vec![E::Real::ZERO; frames * entries],
            stats: self.source.no_stats(frames),
        };
        let (values, stats) = (&mut kept.entries, &mut kept.stats);
        self.emissions(0..frames, values, largest, stats, &mut forward.rows)?;
        // In the same order as without posteriors.
        let part = |frames: Range<usize>| {
            log_scale(&largest[frames.clone()], kept.stats.get(frames).unwrap_or_default())
        };
        let early: f64 = lattice.chunks::<Forward>(CHUNK).map(|(_, frames)| part(frames)).sum();
        let late: f64 = lattice.chunks::<Backward>(CHUNK).map(|(_, frames)| part(frames)).sum();
        let log_scale = early + late;
        let table = Table {
            first: 0,
            values: &kept.entries,
        };
        let (early, late) = both(
            self.split,
            || forward.sweep::<Forward>(lattice, table),
            || backward.sweep::<Backward>(lattice, table),
        );
        early.and(late)?;
        let (alpha, beta) = (&forward.track, &backward.track);
        let met = lattice.meet(alpha, beta)?;
        forward.on.follow(alpha);
        backward.on.follow(beta);
        let (early, late) = kept.entries.split_at_mut(lattice.middle() * entries);
        let (f, b) = (&mut forward.scratch, &mut backward.scratch);
        let (late, early) = both(
            self.split,
            || lattice.walk::<Forward, _>(&mut forward.on, beta, met, late, f),
            || lattice.walk::<Backward, _>(&mut backward.on, alpha, met, early, b),
        );
        early.and(late)?;
        Ok((met.ln() + log_scale, Some(kept)))
    }

    /// The emissions of some frames.
    fn emissions(
        &self,
        frames: Range<usize>,
        values: &mut Vec<E::Real>,
        largest: &mut Vec<E::Real>,
        stats: &mut [RowStats<E::Real>],
        rows: &mut RowBuffers<E>,
    ) -> Result<(), Unfit> {
        values.resize(frames.len() * self.source.entries(), E::Real::ZERO);
        largest.resize(frames.len(), E::Real::ZERO);
        let (source, first) = (self.source, frames.start);
        let regular = source.emissions(first, values, largest, stats, self.split, rows);
        if regular && !Found::normalisers(stats).poisoned {
            Ok(())
        } else {
            Err(Unfit)
        }
    }

    /// One direction up to the middle, with the emissions of a few frames in memory at a time.
    fn score<D: Direction>(&self, lattice: &Tiles, way: &mut Way<E>) -> Result<f64, Unfit> {
        let Way {
            track,
            scratch,
            values,
            largest,
            rows,
            ..
        } = way;
        let mut sum = 0.0;
        for (runs, frames) in lattice.chunks::<D>(CHUNK) {
            let first = frames.start;
            let mut stats = self.source.no_stats(frames.len());
            self.emissions(frames, values, largest, &mut stats, rows)?;
            sum += log_scale(largest, &stats);
            lattice.sweep::<D, _>(track, runs, Table { first, values }, false, scratch)?;
        }
        Ok(sum)
    }

    fn gather_all(&self) -> Kept<E::Real> {
        let mut entries = vec![E::Real::ZERO; self.frames() * self.source.entries()];
        let mut stats = self.source.no_stats(self.frames());
        self.source.gather(0, &mut entries, &mut stats, self.split);
        Kept { entries, stats }
    }

    /// Whether a NaN or +inf is among the entries, for an item that has no lattice.
    fn is_poisoned(&self) -> bool {
        let kept = self.gather_all();
        Found::normalisers(&kept.stats).poisoned || kept.entries.iter().any(|&x| is_poison(x))
    }
}
