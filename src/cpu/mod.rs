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
mod wide;

pub use isa::Isa;
pub(crate) use occupancy::{Occupancy, occupancy, state_posteriors};
pub(crate) use prefix::log_sums;
pub(crate) use real::{Element, Real};
pub(crate) use rows::gradient;
pub(crate) use score::score;
pub(crate) use viterbi::{NoPath, Path, Star, viterbi};

use crate::classes::{Classes, Numbering};
use crate::plan::{InputKind, Plan, Strides};
use emission::{RowBuffers, Source};
use runs::{Backward, Direction, Forward, RUN, Runs, Table, ordered};
use softmax::RowStats;
use std::ops::Range;
use tasks::{Threads, share_out};
use tiles::{ABREAST, Scratch, Tiles, Track, Unfit};

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

/// The loss of each item, and what the backward pass needs when `keep` is set.
pub(crate) fn forward<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    keep: bool,
) -> (Vec<f64>, Option<Saved<E::Real>>) {
    // With posteriors, an item is in the cache from one pass over it to the next.
    if !keep && plan.batch >= ABREAST * rayon::current_num_threads() {
        return (group::losses(plan, data, strides), None);
    }
    let mut items: Vec<Option<SavedItem<E::Real>>> = Vec::new();
    items.resize_with(plan.batch, || None);
    // Items fill the threads; where there are few of them, their parts do too.
    let work = Work::of(plan);
    let split = plan.batch < 4 * rayon::current_num_threads() && work.threads() >= 2;
    let threads = if split {
        Threads::Rayon
    } else {
        Threads::Candle
    };
    share_out(
        items.iter_mut().enumerate(),
        threads,
        work.threads(),
        work.is_small(),
        |(n, to), buffers: &mut Buffers<E>| {
            *to = Some(item(plan, data, strides, n, keep, split, buffers));
        },
    );
    let items: Vec<_> = items.into_iter().flatten().collect();
    let losses = items.iter().map(|item| item.loss).collect();
    (losses, keep.then_some(Saved { items }))
}

/// How much work a plan is: about nanoseconds.
struct Work(usize);

impl Work {
    fn of(plan: &Plan) -> Self {
        let row = match plan.input {
            InputKind::LogProbs => 30,
            InputKind::Logits => 30 + plan.classes / 2,
        };
        let item = |n| plan.input_lengths[n] * (3 * plan.target_length(n) + row);
        Self((0..plan.batch).map(item).sum())
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
    stats: Vec<RowStats<R>>,
    /// The logarithm of what all those so far were divided by.
    log_scale: f64,
}

impl<R> Read<R> {
    /// The logarithm of what the emissions of both directions were divided by.
    fn and(&self, other: &Read<R>) -> Result<f64, Unfit> {
        let log_scale = self.log_scale + other.log_scale;
        // With the NaN or infinity of a poisoned row it is no number.
        if log_scale.is_finite() {
            Ok(log_scale)
        } else {
            Err(Unfit)
        }
    }
}

/// What it takes to read them.
#[derive(Default)]
struct Desk<E: Element> {
    /// The logarithm of what each run was divided by.
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
) -> SavedItem<E::Real> {
    let used = buffers.numbering.classes(plan.target(n));
    let mut problem = Problem::new(plan, data, strides, n, &used, split);
    problem.source.kept = keep;
    let (loss, kept) = if !problem.has_lattice() {
        (problem.loss_without_lattice(), None)
    } else {
        let (log_p, kept) = match problem.in_tiles(keep, buffers) {
            // The loss does not depend on whether posteriors are wanted, to the last bit.
            Ok((log_p, None)) if keep => (log_p, problem.in_wide(true).1),
            Ok(solved) => solved,
            Err(Unfit) => problem.in_wide(keep),
        };
        (problem.loss(log_p), kept)
    };
    // In f64 a path can have a probability beyond all numbers: its loss is −inf.
    match kept.filter(|_| loss < f64::INFINITY) {
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
    source: Source<'a, E>,
    used: &'a Classes,
    /// Share the work of this item out over threads.
    split: bool,
}

/// The table of all runs of an item: its entries as they come, then its emissions, at the end its
/// posteriors, which stand frame by frame.
struct Kept<R> {
    runs: Runs,
    /// Entries of a frame.
    width: usize,
    entries: Vec<[R; RUN]>,
    /// By frame, or none.
    stats: Vec<RowStats<R>>,
}

/// What one direction has of it on its way to the middle.
struct Half<'a, R> {
    runs: Runs,
    width: usize,
    /// The first run.
    first: usize,
    entries: &'a mut [[R; RUN]],
    stats: &'a mut [RowStats<R>],
}

impl<R> Kept<R> {
    /// Before the middle and from there on.
    fn halves(&mut self) -> (Half<'_, R>, Half<'_, R>) {
        let (runs, width) = (self.runs, self.width);
        let middle = runs.half::<Backward>().start;
        let (early, late) = self.entries.split_at_mut(middle * width);
        let frames = runs.middle().min(self.stats.len());
        let (early_stats, late_stats) = self.stats.split_at_mut(frames);
        let half = |first, entries, stats| Half {
            runs,
            width,
            first,
            entries,
            stats,
        };
        (half(0, early, early_stats), half(middle, late, late_stats))
    }
}

impl<R> Half<'_, R> {
    /// The entries of some of its runs, and the statistics of their frames.
    fn of(&mut self, some: Range<usize>) -> (&mut [[R; RUN]], &mut [RowStats<R>]) {
        let (frames, start) = (self.runs.frames_of(some.clone()), self.first * RUN);
        let stats = self.stats.get_mut(frames.start - start..frames.end - start);
        let entries = (some.start - self.first) * self.width..(some.end - self.first) * self.width;
        (&mut self.entries[entries], stats.unwrap_or_default())
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
    ) -> Result<Table<'b, E::Real>, Unfit> {
        let (entries, runs) = (self.entries(), self.runs());
        let (values, stats) = match half {
            Some(half) => half.of(some.clone()),
            None => {
                let frames = runs.frames_of(some.clone()).len();
                read.values
                    .resize(some.len() * entries, [E::Real::ZERO; RUN]);
                read.stats.clear();
                read.stats.extend(self.no_stats(frames));
                (read.values.as_mut_slice(), read.stats.as_mut_slice())
            }
        };
        let Desk { scales, rows } = desk;
        if !self.emissions(some.clone(), values, stats, scales, split, rows) {
            return Err(Unfit);
        }
        // Run by run in the order of the direction, however many there are at a time.
        for run in ordered::<D>(0..some.len()) {
            read.log_scale += scales[run];
        }
        Ok(Table {
            first: some.start,
            entries,
            values,
        })
    }
}

/// `ln P` of an item, and the posteriors when they are wanted.
type Solved<E> = (f64, Option<Kept<<E as Element>::Real>>);

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
        } else if self.is_poisoned() {
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

    /// `ln P`, and with `keep` the posteriors, unless only those do not fit.
    fn in_tiles(&self, keep: bool, buffers: &mut Buffers<E>) -> Result<Solved<E>, Unfit> {
        let Buffers {
            lattice,
            forward,
            backward,
            ..
        } = buffers;
        self.lattice(lattice);
        let mut kept = keep.then(|| self.source.room());
        let (early, late) = kept.as_mut().map(Kept::halves).unzip();
        let (early, late) = both(
            self.split,
            || self.sweep::<Forward>(lattice, forward, early),
            || self.sweep::<Backward>(lattice, backward, late),
        );
        early.and(late)?;
        let (alpha, beta) = (&forward.track, &backward.track);
        let met = lattice.meet(alpha, beta)?;
        let log_p = met.ln() + forward.read.and(&backward.read)?;
        let Some(mut kept) = kept else {
            return Ok((log_p, None));
        };
        forward.on.follow(alpha);
        backward.on.follow(beta);
        let (early, late) = kept.halves();
        let (f, b) = (&mut forward.scratch, &mut backward.scratch);
        let (late, early) = both(
            self.split,
            || lattice.walk::<Forward, _>(&mut forward.on, beta, met, late.entries, f),
            || lattice.walk::<Backward, _>(&mut backward.on, alpha, met, early.entries, b),
        );
        let fit = early.and(late).is_ok();
        Ok((log_p, fit.then_some(kept)))
    }

    /// One direction up to the middle, a few runs at a time, whose emissions stay in `half` if there is
    /// one.
    fn sweep<D: Direction>(
        &self,
        lattice: &Tiles,
        way: &mut Way<E>,
        mut half: Option<Half<E::Real>>,
    ) -> Result<(), Unfit> {
        let Way {
            track,
            scratch,
            read,
            desk,
            ..
        } = way;
        let keep = half.is_some();
        lattice.start::<D>(track);
        read.log_scale = 0.0;
        let mut chunks = self
            .source
            .runs()
            .chunks::<D>(at_once(self.split))
            .peekable();
        while let Some(some) = chunks.next() {
            let table =
                self.source
                    .read::<D>(some.clone(), half.as_mut(), read, desk, self.split)?;
            if let Some(next) = chunks.peek() {
                self.source.fetch(next.clone());
            }
            lattice.sweep::<D, _>(track, some, table, keep, scratch)?;
        }
        Ok(())
    }

    /// Whether a NaN or +inf is among the entries, for an item that has no lattice.
    fn is_poisoned(&self) -> bool {
        let kept = self.source.gather_all(self.split);
        let mut entries = kept.entries.as_flattened().iter();
        kept.stats.iter().any(RowStats::is_poisoned) || entries.any(|x| x.is_poison())
    }
}

#[cfg(test)]
mod tests {
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

    /// Both ways through one item: `Err` where the tiles do not hold it, else the largest difference
    /// of a posterior. Losses must agree.
    fn both_ways(plan: &Plan, data: &[f64]) -> Result<f64, Unfit> {
        let _held = isa::tests::held();
        let strides = Strides {
            offset: 0,
            frame: plan.classes,
            item: 0,
            class: 1,
        };
        let mut worst = 0.0f64;
        let target = plan.target(0);
        // Each label a class of its own: posteriors are then those of the labels.
        let labels = Classes {
            distinct: target.to_vec(),
            place: (0..target.len() as u32).collect(),
        };
        for used in [Classes::new(target), labels] {
            let problem = Problem::new(plan, data, strides, 0, &used, false);
            let mut buffers = Buffers::default();
            let (alone, _) = problem.in_tiles(false, &mut buffers)?;
            let (log_p, kept) = problem.in_tiles(true, &mut buffers)?;
            let (wide, wide_kept) = problem.in_wide(true);
            assert_eq!(alone.to_bits(), log_p.to_bits());
            assert!(
                (log_p - wide).abs() <= 1e-12 * wide.abs().max(1.0),
                "{log_p} {wide}"
            );
            let (kept, wide) = (kept.ok_or(Unfit)?.entries, wide_kept.unwrap().entries);
            let frames = plan.frames * problem.source.entries();
            let [kept, wide] = [&kept, &wide].map(|kept| &kept.as_flattened()[..frames]);
            for (a, b) in kept.iter().zip(wide) {
                worst = worst.max((a - b).abs());
            }
        }
        Ok(worst)
    }

    #[test]
    fn tiles_and_wide_numbers_agree_at_every_edge_of_a_tile() {
        let mut random = random();
        for labels in [
            0, 1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 80,
        ] {
            for room in [0, 1, 2, 7, 8, 9, 15, 16, 17, 40, 300] {
                let target: Vec<u32> = (0..labels).map(|_| 1 + (3.0 * random()) as u32).collect();
                let frames = (crate::plan::frames_needed(&target) + room).max(1);
                let plan = plan(frames, 4, &target);
                let data: Vec<f64> = (0..4 * frames).map(|_| -6.0 * random()).collect();
                let worst = both_ways(&plan, &data);
                let worst = worst.unwrap_or_else(|Unfit| panic!("U = {labels}, T = {frames}"));
                assert!(worst <= 1e-11, "U = {labels}, T = {frames}: {worst}");
            }
        }
    }

    #[test]
    fn tiles_hold_what_trained_and_untrained_models_give() {
        let mut random = random();
        let target: Vec<u32> = (0..120).map(|_| 1 + (30.0 * random()) as u32).collect();
        let frames = 700;
        let plan = plan(frames, 32, &target);
        // The path ahead by 20 nats, or the blank by 20 from every label.
        for (ahead, path_only) in [(20.0, true), (20.0, false)] {
            let mut data: Vec<f64> = (0..32 * frames).map(|_| -ahead - 3.0 * random()).collect();
            for (t, row) in data.chunks_exact_mut(32).enumerate() {
                let label = target.get(t / 5).filter(|_| path_only && t % 5 == 2);
                row[label.map_or(0, |&label| label as usize)] = -0.1 * random();
            }
            let worst = both_ways(&plan, &data).unwrap_or_else(|Unfit| panic!("ahead by {ahead}"));
            assert!(worst <= 1e-11, "{ahead}: {worst}");
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
            let strides = Strides {
                offset: 0,
                frame: 17,
                item: 0,
                class: 1,
            };
            let (losses, _) = forward(&plan, &data, strides, false);
            assert!(
                (losses[0] - 16.0 * depth).abs() < 1e-10,
                "{depth}: {}",
                losses[0]
            );
        }
    }

    #[test]
    fn what_tiles_do_not_hold_is_said_and_not_wrong() {
        let mut random = random();
        let (mut fit, mut unfit) = (0, 0);
        for round in 0..400 {
            let labels = 1 + round % 40;
            let target: Vec<u32> = (0..labels).map(|_| 1 + (5.0 * random()) as u32).collect();
            let frames = crate::plan::frames_needed(&target) + (200.0 * random()) as usize;
            let plan = plan(frames, 6, &target);
            // Bursts in which all labels are far below the blank, or the blank below the labels.
            let depth = 86.0 * random();
            let mut below = [0.0; 6];
            let mut data = Vec::new();
            for _ in 0..frames {
                if random() < 0.1 {
                    below = std::array::from_fn(|_| if random() < 0.5 { depth } else { 0.0 });
                }
                data.extend(below.map(|below| -below - random()));
            }
            match both_ways(&plan, &data) {
                Ok(worst) => {
                    fit += 1;
                    assert!(worst <= 1e-9, "round {round}: {worst}");
                }
                Err(Unfit) => unfit += 1,
            }
        }
        println!("{fit} fit, {unfit} did not");
        assert!(fit > 100);
        let masked = plan(30, 4, &[1, 2, 3]);
        let mut data = vec![-1.0; 4 * 30];
        data[4 * 7 + 2] = f64::NEG_INFINITY;
        assert_eq!(both_ways(&masked, &data), Err(Unfit));
        data[4 * 7 + 2] = -90.0;
        assert_eq!(both_ways(&masked, &data), Err(Unfit));
    }
}
