//! The CPU: one task an item, vector code inside it.
//!
//! [`forward`] gives the losses and, when a gradient is wanted, the posteriors of the labels and
//! of the blank in each frame, which is all that [`gradient`] needs.

mod emission;
mod fetch;
mod group;
mod isa;
mod lanes;
mod occupancy;
mod prefix;
mod real;
mod rows;
mod runs;
mod score;
mod shift;
mod softmax;
mod square;
mod stream;
mod tasks;
mod tiles;
mod viterbi;

pub use isa::Isa;
pub(crate) use occupancy::{Occupancy, occupancy, state_posteriors};
pub(crate) use prefix::log_sums;
pub(crate) use real::{Element, Real};
pub(crate) use rows::gradient;
pub(crate) use score::score;
pub(crate) use viterbi::{NoPath, Path, Star, viterbi};

use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::{InputKind, Plan, Strides};
use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use candle_core::Result as CandleResult;
use emission::{EmissionsTo, LOG_UNIT, RowBuffers, Source};
use runs::{Backward, Direction, Entries, Forward, RUN, Runs, Table, ordered};
use softmax::RowStats;
use std::ops::Range;
use tasks::{Threads, share_out};
use tiles::{ABREAST, ClassPosteriors, HalfTable, Met, Posteriors, Scratch, Tiles, Track};

/// Memory that could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    pub bytes: usize,
}

impl OutOfMemory {
    /// The error of item `n`.
    pub fn of_item(self, plan: &Plan, n: usize) -> candle_core::Error {
        candle_core::Error::Msg(format!(
            "ctc: item {n} with {} frames and {} labels needs {} bytes for its lattice, which the system does not give",
            plan.input_lengths[n],
            plan.target_length(n),
            self.bytes
        ))
        .bt()
    }
}

/// A NaN or +inf is among the entries that an item uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Poisoned;

/// Why an item is not gone through to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Poisoned,
    /// The coarsest level does not hold a block, and no other was to be tried.
    OutOfRange,
    OutOfMemory(OutOfMemory),
}

impl From<Poisoned> for Stop {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

impl From<OutOfMemory> for Stop {
    fn from(out: OutOfMemory) -> Self {
        Self::OutOfMemory(out)
    }
}

/// `count` times the same, if there is memory for it.
fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    if vec.try_reserve_exact(count).is_err() {
        return Err(OutOfMemory {
            bytes: count.saturating_mul(size_of::<T>()),
        });
    }
    vec.resize(count, value);
    Ok(vec)
}

/// `count` zeros, if there is memory for them: fresh memory from the system is not written to.
fn zeroed<T: Zeroable>(count: usize) -> Result<Vec<T>, OutOfMemory> {
    try_zeroed_vec(count).map_err(|()| OutOfMemory {
        bytes: count.saturating_mul(size_of::<T>()),
    })
}

/// What the backward pass needs of the forward pass.
pub(crate) struct Saved<R> {
    items: Vec<SavedItem<R>>,
}

struct SavedItem<R> {
    loss: f64,
    /// The classes that the target uses.
    classes: Vec<u32>,
    /// Frame by frame the posterior of each class that the target uses, then of the blank, in as many runs as
    /// the item has. Empty when the loss is NaN or +inf.
    posterior: Vec<[R; RUN]>,
    /// `T_n` entries for logits; none for log-probabilities, and none without posteriors.
    stats: Vec<RowStats<R>>,
}

/// The loss of each item, and what the backward pass needs.
pub(crate) type Losses<R> = (Vec<f64>, Option<Saved<R>>);

/// The loss of each item, with what the backward pass needs when `keep` is set.
pub(crate) fn forward<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    keep: bool,
) -> CandleResult<Losses<E::Real>> {
    // With posteriors, an item is in the cache from one pass over it to the next.
    if !keep && plan.batch >= ABREAST * rayon::current_num_threads() {
        return Ok((group::losses(plan, data, strides)?, None));
    }
    let items = each_item(plan, |n, split, buffers: &mut Buffers<E>| {
        item(plan, data, strides, n, keep, split, buffers)
    })?;
    let losses = items.iter().map(|item| item.loss).collect();
    Ok((losses, keep.then_some(Saved { items })))
}

/// Calls `work` with each item, and whether it is to share its work out over threads. Items fill the threads; where
/// there are few of them, their parts do too.
fn each_item<E: Element, T: Send>(
    plan: &Plan,
    work: impl Fn(usize, bool, &mut Buffers<E>) -> Result<T, OutOfMemory> + Sync,
) -> CandleResult<Vec<T>> {
    let mut items: Vec<Option<Result<T, OutOfMemory>>> = Vec::new();
    items.resize_with(plan.batch, || None);
    let all = Work::of(plan);
    let split = plan.batch < 4 * rayon::current_num_threads() && all.threads() >= 2;
    let threads = if split {
        Threads::Rayon
    } else {
        Threads::Candle
    };
    share_out(
        items.iter_mut().enumerate(),
        threads,
        all.threads(),
        all.is_small(),
        |(n, to), buffers: &mut Buffers<E>| *to = Some(work(n, split, buffers)),
    );
    let items = items.into_iter().flatten().enumerate();
    items
        .map(|(n, item)| item.map_err(|out| out.of_item(plan, n)))
        .collect()
}

/// How much work a plan is: about nanoseconds.
struct Work(usize);

impl Work {
    fn of(plan: &Plan) -> Self {
        let row = match plan.input {
            InputKind::LogProbs => 30,
            InputKind::Logits => 30 + plan.classes / 2,
        };
        let item = |n: usize| {
            plan.input_lengths[n].saturating_mul(plan.target_length(n).saturating_mul(3) + row)
        };
        Self((0..plan.batch).map(item).fold(0, usize::saturating_add))
    }

    /// Threads that are worth waking.
    fn threads(&self) -> usize {
        const WORTH_A_THREAD: usize = 1 << 14;
        (self.0 / WORTH_A_THREAD).max(1)
    }

    /// Whether working memory is small too, and what it takes to ask for it matters.
    fn is_small(&self) -> bool {
        self.0 <= 1 << 20
    }
}

/// Working memory of one task, kept from item to item.
#[derive(Default)]
struct Buffers<E: Element> {
    numbering: Numbering,
    lattice: Tiles,
    forward: Way<E>,
    backward: Way<E>,
}

/// That of one direction.
#[derive(Default)]
struct Way<E: Element> {
    /// Up to the middle, and past it.
    track: Track,
    on: Track,
    scratch: Scratch,
    read: Read<E::Real>,
    desk: Desk<E>,
}

/// The emissions of a few runs.
#[derive(Default)]
struct Read<R> {
    values: Vec<[R; RUN]>,
    /// Of runs that are [`Entries::Raw`] the emissions.
    wide: Vec<[f64; RUN]>,
    stats: Vec<RowStats<R>>,
    kinds: Vec<Entries>,
    /// The logarithm of what all those so far were divided by, times [`LOG_UNIT`].
    log_scale: f64,
}

impl<R> Read<R> {
    /// The logarithm of what those of both were divided by.
    fn log_scale_with(&self, other: &Self) -> f64 {
        (self.log_scale + other.log_scale) / LOG_UNIT
    }
}

/// What it takes to read them.
#[derive(Default)]
struct Desk<E: Element> {
    /// The logarithm of what each run was divided by, times [`LOG_UNIT`].
    scales: Vec<f64>,
    rows: RowBuffers<E>,
}

/// One item, with `split` on several threads.
fn item<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    keep: bool,
    split: bool,
    buffers: &mut Buffers<E>,
) -> Result<SavedItem<E::Real>, OutOfMemory> {
    let used = buffers.numbering.classes(plan.target(n));
    let mut problem = Problem::new(plan, data, strides, n, &used, split);
    problem.source.kept = keep;
    let (loss, kept) = if keep && problem.has_lattice() {
        let kept = problem.source.room()?;
        problem.solve(buffers, kept, &mut ClassPosteriors, &mut ClassPosteriors)?
    } else {
        (problem.loss_alone(buffers)?, None)
    };
    // In f64 a path can have a probability beyond all numbers: its loss is −inf.
    Ok(match kept.filter(|_| loss < f64::INFINITY) {
        None => SavedItem {
            loss,
            classes: Vec::new(),
            posterior: Vec::new(),
            stats: Vec::new(),
        },
        Some(kept) => SavedItem {
            loss,
            classes: used.distinct,
            posterior: kept.entries,
            stats: kept.stats,
        },
    })
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
    source: Source<'a, E>,
    used: &'a Classes,
    /// Share the work of this item out over threads.
    split: bool,
}

/// The table of all runs of an item: its emissions, at the end its posteriors, which stand frame by frame.
struct Kept<R> {
    runs: Runs,
    /// Entries of a frame.
    width: usize,
    entries: Vec<[R; RUN]>,
    /// By frame, or none.
    stats: Vec<RowStats<R>>,
    /// By run.
    kinds: Vec<Entries>,
    /// By frame, where it is wanted: the logarithm of what its emissions were divided by.
    log_scales: Vec<f64>,
}

/// A loss, and where there is one the table of all frames.
type Solved<R> = (f64, Option<Kept<R>>);

/// What one direction has of it on its way to the middle.
struct Half<'a, R> {
    runs: Runs,
    width: usize,
    /// The first run.
    first: usize,
    entries: &'a mut [[R; RUN]],
    stats: &'a mut [RowStats<R>],
    kinds: &'a mut [Entries],
    log_scales: &'a mut [f64],
}

impl<R> Kept<R> {
    /// Before the middle and from there on.
    fn halves(&mut self) -> (Half<'_, R>, Half<'_, R>) {
        let (runs, width) = (self.runs, self.width);
        let middle = runs.half::<Backward>().start;
        let (early, late) = self.entries.split_at_mut(middle * width);
        let frames = runs.middle().min(self.stats.len());
        let (early_stats, late_stats) = self.stats.split_at_mut(frames);
        let (early_kinds, late_kinds) = self.kinds.split_at_mut(middle);
        let frames = runs.middle().min(self.log_scales.len());
        let (early_scales, late_scales) = self.log_scales.split_at_mut(frames);
        let half = |first, entries, stats, kinds, log_scales| Half {
            runs,
            width,
            first,
            entries,
            stats,
            kinds,
            log_scales,
        };
        (
            half(0, early, early_stats, early_kinds, early_scales),
            half(middle, late, late_stats, late_kinds, late_scales),
        )
    }
}

impl<'a, R> Half<'a, R> {
    /// Where the emissions of some of its runs go.
    fn of<'b>(
        &'b mut self,
        some: Range<usize>,
        wide: &'b mut Vec<[f64; RUN]>,
    ) -> EmissionsTo<'b, R> {
        let (frames, start) = (self.runs.frames_of(some.clone()), self.first * RUN);
        let frames = frames.start - start..frames.end - start;
        let runs = some.start - self.first..some.end - self.first;
        let entries = runs.start * self.width..runs.end * self.width;
        EmissionsTo {
            entries: &mut self.entries[entries],
            stats: self.stats.get_mut(frames.clone()).unwrap_or_default(),
            kinds: &mut self.kinds[runs],
            log_scales: self.log_scales.get_mut(frames).unwrap_or_default(),
            wide,
        }
    }

    fn table(self) -> HalfTable<'a, R> {
        HalfTable {
            values: self.entries,
            kinds: self.kinds,
            log_scales: self.log_scales,
        }
    }
}

impl<E: Element> Source<'_, E> {
    /// The emissions of some runs, which stay in `half` if there is one.
    fn read<'b, D: Direction>(
        &self,
        some: Range<usize>,
        half: Option<&'b mut Half<'_, E::Real>>,
        read: &'b mut Read<E::Real>,
        desk: &mut Desk<E>,
        split: bool,
    ) -> Result<Table<'b, E::Real>, Poisoned> {
        let (entries, runs) = (self.entries(), self.runs());
        let Desk { scales, rows } = desk;
        let to = match half {
            Some(half) => half.of(some.clone(), &mut read.wide),
            None => {
                let frames = runs.frames_of(some.clone()).len();
                let values = some.len() * entries;
                read.values.resize(values, [E::Real::ZERO; RUN]);
                read.kinds.resize(some.len(), Entries::Plain);
                read.stats.clear();
                read.stats.extend(self.no_stats(frames));
                EmissionsTo {
                    entries: &mut read.values,
                    stats: &mut read.stats,
                    kinds: &mut read.kinds,
                    log_scales: &mut [],
                    wide: &mut read.wide,
                }
            }
        };
        let EmissionsTo {
            entries: values,
            kinds,
            wide,
            ..
        } = self.emissions(some.clone(), to, scales, split, rows)?;
        // Run by run in the order of the direction, however many there are at a time.
        for run in ordered::<D>(0..some.len()) {
            read.log_scale += scales[run];
        }
        Ok(Table {
            first: some.start,
            entries,
            values,
            wide,
            kinds,
        })
    }
}

/// Runs whose emissions are in memory at a time when nothing is kept: fewer when no other thread is to
/// help with them.
fn at_once(split: bool) -> usize {
    if split { 16 } else { 4 }
}

impl<'a, E: Element> Problem<'a, E> {
    fn new(
        plan: &'a Plan,
        data: &'a [E],
        strides: Strides,
        n: usize,
        used: &'a Classes,
        split: bool,
    ) -> Self {
        Self {
            plan,
            n,
            source: Source::new(plan, data, strides, n, &used.distinct),
            used,
            split,
        }
    }

    /// Whether there are paths: frames, and enough of them for the target.
    fn has_lattice(&self) -> bool {
        self.source.runs().frames > 0 && self.plan.is_feasible(self.n)
    }

    fn loss_without_lattice(&self) -> f64 {
        if self.plan.is_feasible(self.n) {
            // No frames and no labels: the empty path is certain.
            0.0
        } else if self.source.is_poisoned() {
            f64::NAN
        } else {
            f64::INFINITY
        }
    }

    fn loss(&self, log_p: f64) -> f64 {
        let frames = self.source.runs().frames;
        loss_from(log_p, frames, self.plan.input, E::Real::EPSILON)
    }

    /// Makes its lattice.
    fn lattice(&self, lattice: &mut Tiles) {
        let (frames, entries) = (self.source.runs().frames, self.source.entries());
        let target = self.plan.target(self.n);
        lattice.prepare(frames, target, &self.used.place, entries);
    }

    /// The loss, with nothing kept.
    fn loss_alone(&self, buffers: &mut Buffers<E>) -> Result<f64, OutOfMemory> {
        if !self.has_lattice() {
            return Ok(self.loss_without_lattice());
        }
        self.lattice(&mut buffers.lattice);
        let met = self.to_the_middle(buffers, None, None);
        Ok(self.loss(log_p_of(met)?.0))
    }

    /// The loss, and where there is one the table of all frames, behind the posteriors that `early` and `late`
    /// took of its halves.
    fn solve(
        &self,
        buffers: &mut Buffers<E>,
        mut kept: Kept<E::Real>,
        early: &mut (dyn Posteriors<E::Real> + Send),
        late: &mut (dyn Posteriors<E::Real> + Send),
    ) -> Result<Solved<E::Real>, OutOfMemory> {
        self.lattice(&mut buffers.lattice);
        let halves = kept.halves();
        let met = self.to_the_middle(buffers, Some(halves.0), Some(halves.1));
        let (log_p, met) = log_p_of(met)?;
        let loss = self.loss(log_p);
        let Some(met) = met else {
            return Ok((loss, None));
        };
        let Buffers {
            lattice,
            forward,
            backward,
            ..
        } = buffers;
        let (alpha, beta) = (&forward.track, &backward.track);
        forward.on.follow(alpha);
        backward.on.follow(beta);
        let (early_half, late_half) = kept.halves();
        let (f, b) = (&mut forward.scratch, &mut backward.scratch);
        let (alpha_on, beta_on) = (&mut forward.on, &mut backward.on);
        both(
            self.split,
            || lattice.walk::<Forward, _>(alpha_on, beta, met, late_half.table(), late, f),
            || lattice.walk::<Backward, _>(beta_on, alpha, met, early_half.table(), early, b),
        );
        Ok((loss, Some(kept)))
    }

    /// Both directions up to the middle, with their emissions kept in the halves if there are any: `P`, and the
    /// logarithm of what all emissions were divided by.
    fn to_the_middle(
        &self,
        buffers: &mut Buffers<E>,
        early: Option<Half<E::Real>>,
        late: Option<Half<E::Real>>,
    ) -> Result<(Met, f64), Stop> {
        let Buffers {
            lattice,
            forward,
            backward,
            ..
        } = buffers;
        let (mut early, mut late) = (early, late);
        for forgoes in [true, false] {
            lattice.forgoes = forgoes;
            let lattice = &*lattice;
            let (early, late) = (early.as_mut(), late.as_mut());
            let (early, late) = both(
                self.split,
                || self.sweep::<Forward>(lattice, forward, early),
                || self.sweep::<Backward>(lattice, backward, late),
            );
            early.and(late)?;
            let met = lattice.meet(&forward.track, &backward.track);
            if lattice.certain(&forward.track, &backward.track, met) {
                return Ok((met, forward.read.log_scale_with(&backward.read)));
            }
        }
        unreachable!("nothing is forgone the second time")
    }

    /// One direction up to the middle, a few runs at a time, whose emissions stay in `half` if there is
    /// one.
    fn sweep<D: Direction>(
        &self,
        lattice: &Tiles,
        way: &mut Way<E>,
        mut half: Option<&mut Half<E::Real>>,
    ) -> Result<(), Stop> {
        let Way {
            track,
            scratch,
            read,
            desk,
            ..
        } = way;
        let keep = half.is_some();
        lattice.start::<D>(track);
        if keep {
            lattice.reserve::<D>(track)?;
        }
        read.log_scale = 0.0;
        let mut chunks = self
            .source
            .runs()
            .chunks::<D>(at_once(self.split))
            .peekable();
        while let Some(some) = chunks.next() {
            let table =
                self.source
                    .read::<D>(some.clone(), half.as_deref_mut(), read, desk, self.split)?;
            if let Some(next) = chunks.peek() {
                self.source.fetch(next.clone());
            }
            lattice.sweep::<D, _>(track, some, table, keep, scratch)?;
        }
        Ok(())
    }
}

/// `ln P`, which is NaN for a poisoned item, and `P` itself unless it is 0.
fn log_p_of(met: Result<(Met, f64), Stop>) -> Result<(f64, Option<Met>), OutOfMemory> {
    match met {
        Err(Stop::Poisoned) => Ok((f64::NAN, None)),
        Err(Stop::OutOfRange) => unreachable!("all levels are tried"),
        Err(Stop::OutOfMemory(out)) => Err(out),
        Ok((met, _)) if met.is_zero() => Ok((f64::NEG_INFINITY, None)),
        Ok((met, log_scale)) => Ok((met.ln() + log_scale, Some(met))),
    }
}

#[cfg(test)]
mod tests {
    use super::tiles::Level;
    use super::*;
    use crate::options::Reduction;

    fn plan(frames: usize, classes: usize, target: &[u32]) -> Plan {
        Plan {
            frames,
            batch: 1,
            classes,
            blank: 0,
            layout: None,
            input: InputKind::LogProbs,
            gradient: Default::default(),
            reduction: Reduction::None,
            zero_infinity: false,
            input_lengths: vec![frames],
            labels: target.to_vec(),
            label_offsets: vec![0, target.len()],
            unread: None,
        }
    }

    /// Numbers in [0, 1).
    fn random() -> impl FnMut() -> f64 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    const LEVELS: [Level; 3] = [Level::Tiles, Level::Pairs, Level::States];

    /// The loss and the posteriors of item 0, with no level coarser than this one.
    fn solve(plan: &Plan, data: &[f64], used: &Classes, level: Level) -> (f64, Vec<f64>) {
        let strides = Strides {
            offset: 0,
            frame: plan.classes,
            item: 0,
            class: 1,
        };
        let problem = Problem::new(plan, data, strides, 0, used, false);
        let mut buffers = Buffers::default();
        buffers.lattice.coarsest = level;
        let alone = problem.loss_alone(&mut buffers).unwrap();
        let (early, late) = (&mut ClassPosteriors, &mut ClassPosteriors);
        let kept = problem.source.room().unwrap();
        let (loss, kept) = problem.solve(&mut buffers, kept, early, late).unwrap();
        assert_eq!(alone.to_bits(), loss.to_bits());
        let entries = plan.frames * problem.source.entries();
        let posteriors = kept.map(|kept| kept.entries.as_flattened()[..entries].to_vec());
        (loss, posteriors.unwrap_or_default())
    }

    /// The loss and the posteriors at each level. Losses must be bit-identical; posteriors may miss what their sum
    /// is allowed to miss.
    fn at_each_level(plan: &Plan, data: &[f64]) -> (f64, Vec<f64>) {
        let _held = isa::tests::held();
        let target = plan.target(0);
        // Each label a class of its own: posteriors are then those of the labels.
        let labels = Classes {
            distinct: target.to_vec(),
            place: (0..target.len() as u32).collect(),
        };
        let [.., (loss, posteriors)] = [labels, Classes::new(target)].map(|used| {
            let [(loss, tiles), others @ ..] = LEVELS.map(|level| solve(plan, data, &used, level));
            for (level, (other, posteriors)) in LEVELS[1..].iter().zip(others) {
                assert_eq!(loss.to_bits(), other.to_bits(), "{level:?}: {loss} {other}");
                assert_eq!(tiles.len(), posteriors.len());
                for (i, (a, b)) in tiles.iter().zip(&posteriors).enumerate() {
                    let near = (a - b).abs() <= 1e-15 * a.abs() + 1e-11;
                    assert!(near, "{level:?} {i}: {a:e} {b:e}");
                }
            }
            (loss, tiles)
        });
        (loss, posteriors)
    }

    /// The log-probability of a target and the posteriors of its classes, from the definition in log space.
    fn plain(plan: &Plan, data: &[f64]) -> (f64, Vec<f64>) {
        let add = |a: f64, b: f64| {
            let (high, low) = if a > b { (a, b) } else { (b, a) };
            if low == f64::NEG_INFINITY {
                high
            } else {
                high + (low - high).exp().ln_1p()
            }
        };
        let (frames, target) = (plan.frames, plan.target(0));
        let class = |s: usize| {
            if s.is_multiple_of(2) {
                0
            } else {
                target[s / 2] as usize
            }
        };
        let states = 2 * target.len() + 1;
        let may_skip = |s: usize| s >= 2 && class(s) != 0 && class(s) != class(s - 2);
        let never = f64::NEG_INFINITY;
        let (mut alpha, mut beta) = (
            vec![vec![never; states]; frames + 1],
            vec![vec![never; states]; frames + 1],
        );
        for t in 0..frames {
            for s in 0..states {
                let before = |back: usize| if s >= back { alpha[t][s - back] } else { never };
                let mut sum = match t {
                    0 if s < 2 => 0.0,
                    0 => never,
                    _ => add(before(0), before(1)),
                };
                if t > 0 && may_skip(s) {
                    sum = add(sum, before(2));
                }
                alpha[t + 1][s] = sum + data[t * plan.classes + class(s)];
            }
        }
        // Beta without the emission of its own frame.
        beta[frames][states.saturating_sub(2)..].fill(0.0);
        for t in (1..frames).rev() {
            for s in 0..states {
                let next = |on: usize| match s + on {
                    to if to < states => beta[t + 1][to] + data[t * plan.classes + class(to)],
                    _ => never,
                };
                let mut sum = add(next(0), next(1));
                if s + 2 < states && may_skip(s + 2) {
                    sum = add(sum, next(2));
                }
                beta[t][s] = sum;
            }
        }
        let product = |t: usize, s: usize| alpha[t + 1][s] + beta[t + 1][s];
        let log_p = (0..states).map(|s| product(frames - 1, s)).fold(never, add);
        let used = Classes::new(target);
        let width = used.distinct.len() + 1;
        let mut posteriors = vec![0.0; frames * width];
        for t in 0..frames {
            for s in 0..states {
                let place = if s.is_multiple_of(2) {
                    width - 1
                } else {
                    used.place[s / 2] as usize
                };
                posteriors[t * width + place] += (product(t, s) - log_p).exp();
            }
        }
        (-log_p, posteriors)
    }

    /// Holds all levels to the definition.
    fn check(plan: &Plan, data: &[f64], what: &str) {
        let (loss, posteriors) = at_each_level(plan, data);
        let (true_loss, truth) = plain(plan, data);
        if true_loss == f64::INFINITY {
            assert_eq!(loss, true_loss, "{what}");
            return;
        }
        let near = (loss - true_loss).abs() <= 1e-12 * true_loss.abs().max(1.0);
        assert!(near, "{what}: {loss} {true_loss}");
        // The logarithms of the definition lose digits as they grow.
        let step = 1e-12 + 1e-15 * true_loss.abs() * plan.frames as f64;
        for (i, (a, b)) in posteriors.iter().zip(&truth).enumerate() {
            assert!((a - b).abs() <= step, "{what}, {i}: {a} {b}");
        }
    }

    #[test]
    fn levels_agree_at_every_edge_of_a_tile() {
        let mut random = random();
        for labels in [
            0, 1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 80,
        ] {
            for room in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 40, 300] {
                let target: Vec<u32> = (0..labels).map(|_| 1 + (3.0 * random()) as u32).collect();
                let frames = (crate::problem::plan::frames_needed(&target) + room).max(1);
                let plan = plan(frames, 4, &target);
                let data: Vec<f64> = (0..4 * frames).map(|_| -6.0 * random()).collect();
                check(&plan, &data, &format!("U = {labels}, T = {frames}"));
            }
        }
    }

    #[test]
    fn sure_models_are_right_at_each_level() {
        let mut random = random();
        let target: Vec<u32> = (0..60).map(|_| 1 + (30.0 * random()) as u32).collect();
        let frames = 350;
        let plan = plan(frames, 32, &target);
        // The path ahead of all others, or the blank ahead of every label.
        for ahead in [6.0, 14.0, 20.0, 40.0, 80.0, 86.0, 100.0, 1000.0, 1e6] {
            for path_only in [true, false] {
                let mut data: Vec<f64> =
                    (0..32 * frames).map(|_| -ahead - 3.0 * random()).collect();
                for (t, row) in data.chunks_exact_mut(32).enumerate() {
                    let label = target.get(t / 5).filter(|_| path_only && t % 5 == 2);
                    row[label.map_or(0, |&label| label as usize)] = -0.1 * random();
                }
                check(&plan, &data, &format!("ahead by {ahead}, path {path_only}"));
            }
        }
    }

    #[test]
    fn a_path_hidden_behind_dead_states_is_not_lost_where_directions_meet() {
        // Each frame holds the next label, far below all others: there is one path.
        let target: Vec<u32> = (1..=16).collect();
        let plan = plan(16, 17, &target);
        for tenths in 600..=860 {
            let depth = f64::from(tenths) / 10.0;
            let mut data = vec![0.0; 16 * 17];
            for t in 0..16 {
                data[t * 17 + t + 1] = -depth;
            }
            let (loss, _) = at_each_level(&plan, &data);
            assert!((loss - 16.0 * depth).abs() < 1e-10, "{depth}: {loss}");
        }
    }

    #[test]
    fn bursts_of_any_depth_and_masks_are_right_at_each_level() {
        let mut random = random();
        for round in 0..1200 {
            let labels = 1 + round % 40;
            let target: Vec<u32> = (0..labels).map(|_| 1 + (5.0 * random()) as u32).collect();
            let room = if random() < 0.3 { 3.0 } else { 120.0 };
            let frames = crate::problem::plan::frames_needed(&target) + (room * random()) as usize;
            let plan = plan(frames, 6, &target);
            // Bursts in which some classes are far below the others, or masked.
            let deepest = [20.0, 86.0, 86.0, 400.0, 1e9][round % 5];
            let (depth, often) = (deepest * random(), [0.1, 0.1, 0.6][round % 3]);
            let masked = if round % 4 == 0 { 0.15 } else { 0.0 };
            let mut below = [0.0; 6];
            let mut data = Vec::new();
            for _ in 0..frames {
                if random() < often {
                    below = std::array::from_fn(|_| match random() {
                        x if x < masked => f64::INFINITY,
                        x if x < 0.5 => depth,
                        _ => 0.0,
                    });
                }
                data.extend(below.map(|below| -below - random()));
            }
            if deepest < 1e9 {
                check(&plan, &data, &format!("round {round}"));
            } else {
                at_each_level(&plan, &data);
            }
        }
    }

    #[test]
    fn an_entry_that_is_no_number_is_found_at_each_level() {
        let plan = plan(40, 4, &[1, 2, 3]);
        for bad in [f64::NAN, f64::INFINITY] {
            for frame in [0, 7, 8, 19, 20, 39] {
                for class in [0, 2] {
                    let mut data = vec![-1.0; 4 * 40];
                    data[4 * frame + class] = bad;
                    assert!(
                        at_each_level(&plan, &data).0.is_nan(),
                        "{bad} {frame} {class}"
                    );
                }
            }
        }
        // No path is left, and still a NaN is one.
        let mut data = vec![f64::NEG_INFINITY; 4 * 40];
        assert_eq!(at_each_level(&plan, &data).0, f64::INFINITY);
        data[4 * 39] = f64::NAN;
        assert!(at_each_level(&plan, &data).0.is_nan());
    }
}
