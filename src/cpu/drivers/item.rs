//! One item: both directions to the middle, and past it if posteriors are needed.

use crate::cpu::emissions::gather::{GatherScratch, LossInput, Source};
use crate::cpu::emissions::table::{EmissionWindow, HalfTable, ItemTable};
use crate::cpu::gradient::SavedItem;
use crate::cpu::lattice::Stop;
use crate::cpu::lattice::scaled::{
    Allowance, ClassPosteriors, PathProbability, Posteriors, ScaledLattice, Scratch, Track,
};
use crate::cpu::simd::real::{Element, Real};
use crate::cpu::threads::{Threads, Work, run_jobs};
use crate::cpu::time::{Backward, Direction, Forward};
use crate::memory::OutOfMemory;
use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::Result as CandleResult;

/// Calls `work` with each item, and whether the item should itself use several threads. Threads first share the items;
/// if there are few items, each item is split as well.
pub(crate) fn each_item<E: Element, T: Send>(
    plan: &Plan,
    work: impl Fn(usize, bool, &mut Buffers<E>) -> Result<T, OutOfMemory> + Sync,
) -> CandleResult<Vec<T>> {
    let mut items: Vec<Option<Result<T, OutOfMemory>>> = Vec::new();
    items.resize_with(plan.input.batch, || None);
    let all = Work::of(plan);
    let split = plan.input.batch < 4 * rayon::current_num_threads() && all.threads() >= 2;
    let threads = if split {
        Threads::Rayon
    } else {
        Threads::Candle
    };
    run_jobs(
        items.iter_mut().enumerate(),
        threads,
        all.threads(),
        all.is_small(),
        |(n, to), buffers: &mut Buffers<E>| *to = Some(work(n, split, buffers)),
    );
    let items = items.into_iter().flatten().enumerate();
    items
        .map(|(n, item)| item.map_err(|out| plan.out_of_memory(n, out)))
        .collect()
}

/// Scratch memory of one job, reused from item to item.
#[derive(Default)]
pub(crate) struct Buffers<E: Element> {
    pub numbering: Numbering,
    pub lattice: ScaledLattice,
    pub forward: DirectionState<E>,
    pub backward: DirectionState<E>,
}

/// Scratch memory of one direction.
#[derive(Default)]
pub(crate) struct DirectionState<E: Element> {
    /// The sweep up to the middle, and the posterior pass after it.
    pub track: Track,
    pub on: Track,
    pub scratch: Scratch,
    pub read: EmissionWindow<E::Real>,
    pub gather_scratch: GatherScratch<E>,
}

/// Computes one item, on several threads if `split`.
pub(crate) fn item<E: Element>(
    plan: &Plan,
    input: LossInput<E>,
    n: usize,
    keep: bool,
    split: bool,
    buffers: &mut Buffers<E>,
) -> Result<SavedItem<E::Real>, OutOfMemory> {
    let used = buffers.numbering.classes(plan.target(n));
    let mut problem = Problem::new(plan, input.data, input.strides, n, &used, split);
    problem.source.weights = input.weights;
    let solved = problem.solve_or_score(keep, buffers)?;
    Ok(SavedItem::new(solved, used.distinct))
}

/// `−ln P`. A probability that is above 1 only by rounding counts as 1: a loss is negative only if the input implies
/// it.
pub(crate) fn loss_from(log_p: f64, frames: usize, kind: InputKind, epsilon: f64) -> f64 {
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

/// Runs both closures, on two threads if `split`.
pub(crate) fn both<A: Send, B: Send>(
    split: bool,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    if split { rayon::join(a, b) } else { (a(), b()) }
}

/// One item with its entries and its target.
pub(crate) struct Problem<'a, E: Element> {
    pub plan: &'a Plan,
    pub n: usize,
    pub source: Source<'a, E>,
    pub used: &'a Classes,
    /// Whether to split the work of this item over threads.
    pub split: bool,
}

/// A loss and, if it has posteriors, the table of all frames.
pub(crate) type Solved<R> = (f64, Option<ItemTable<R>>);

/// Blocks whose emissions are in memory at a time if nothing is kept; fewer if a single thread computes them.
pub(crate) fn at_once(split: bool) -> usize {
    if split { 16 } else { 4 }
}

impl<'a, E: Element> Problem<'a, E> {
    pub fn new(
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

    /// Whether any path exists: there are frames, and enough of them for the target.
    pub fn has_lattice(&self) -> bool {
        self.source.blocks().frames > 0 && self.plan.is_feasible(self.n)
    }

    pub fn loss_without_lattice(&self) -> f64 {
        if self.plan.is_feasible(self.n) {
            // No frames and no labels: the empty path has probability 1.
            0.0
        } else if self.source.is_poisoned() {
            f64::NAN
        } else {
            f64::INFINITY
        }
    }

    pub fn loss(&self, log_p: f64) -> f64 {
        let frames = self.source.blocks().frames;
        let kind = match self.source.weights {
            None => self.plan.input.kind,
            // With weights, `P` may be above 1.
            Some(_) => InputKind::LogProbs,
        };
        loss_from(log_p, frames, kind, E::Real::EPSILON)
    }

    /// Sets up the lattice of this item.
    pub fn lattice(&self, lattice: &mut ScaledLattice) {
        let (frames, entries) = (self.source.blocks().frames, self.source.entries());
        let target = self.plan.target(self.n);
        lattice.prepare(frames, target, &self.used.place, entries);
    }

    /// The loss and, if `keep` is set and there is a lattice, the table of its posteriors.
    pub fn solve_or_score(
        &mut self,
        keep: bool,
        buffers: &mut Buffers<E>,
    ) -> Result<Solved<E::Real>, OutOfMemory> {
        self.source.kept = keep;
        if keep && self.has_lattice() {
            let kept = self.source.room()?;
            self.solve(buffers, kept, &mut ClassPosteriors, &mut ClassPosteriors)
        } else {
            Ok((self.loss_alone(buffers)?, None))
        }
    }

    /// The loss, without keeping anything for a gradient.
    pub fn loss_alone(&self, buffers: &mut Buffers<E>) -> Result<f64, OutOfMemory> {
        if !self.has_lattice() {
            return Ok(self.loss_without_lattice());
        }
        self.loss_allowing(buffers, Default::default())
    }

    /// The loss of an item that has a lattice; its first sweep has these allowances.
    pub fn loss_allowing(
        &self,
        buffers: &mut Buffers<E>,
        allowances: [Allowance; 2],
    ) -> Result<f64, OutOfMemory> {
        self.lattice(&mut buffers.lattice);
        let met = self.to_the_middle(buffers, allowances, None, None);
        Ok(self.loss(log_p_of(met)?.0))
    }

    /// The loss and, if `P` is not 0, the table of all frames, after `early` and `late` have received the posteriors of
    /// its two halves.
    pub fn solve(
        &self,
        buffers: &mut Buffers<E>,
        mut kept: ItemTable<E::Real>,
        early: &mut (dyn Posteriors<E::Real> + Send),
        late: &mut (dyn Posteriors<E::Real> + Send),
    ) -> Result<Solved<E::Real>, OutOfMemory> {
        self.lattice(&mut buffers.lattice);
        let halves = kept.halves();
        let (early_half, late_half) = (Some(halves.0), Some(halves.1));
        let met = self.to_the_middle(buffers, Default::default(), early_half, late_half);
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
            || {
                lattice.posterior_pass::<Forward, _>(
                    alpha_on,
                    beta,
                    met,
                    late_half.table(),
                    late,
                    f,
                )
            },
            || {
                lattice.posterior_pass::<Backward, _>(
                    beta_on,
                    alpha,
                    met,
                    early_half.table(),
                    early,
                    b,
                )
            },
        );
        Ok((loss, Some(kept)))
    }

    /// Sweeps both directions up to the middle, storing emissions in the halves if given. Returns `P` relative to the
    /// scaled emissions, and the logarithm of the total factor by which the emissions were divided.
    pub fn to_the_middle(
        &self,
        buffers: &mut Buffers<E>,
        mut allowances: [Allowance; 2],
        early: Option<HalfTable<E::Real>>,
        late: Option<HalfTable<E::Real>>,
    ) -> Result<(PathProbability, f64), Stop> {
        let Buffers {
            lattice,
            forward,
            backward,
            ..
        } = buffers;
        let (mut early, mut late) = (early, late);
        loop {
            let lattice = &*lattice;
            let (early, late) = (early.as_mut(), late.as_mut());
            let budgeted = matches!(allowances[0], Allowance::Budget(_));
            let [to_forward, to_backward] = allowances;
            lattice.start::<Forward>(&mut forward.track, to_forward);
            lattice.start::<Backward>(&mut backward.track, to_backward);
            let (early, late) = both(
                self.split,
                || self.sweep::<Forward>(lattice, forward, early),
                || self.sweep::<Backward>(lattice, backward, late),
            );
            early.and(late)?;
            let (alpha, beta) = (&forward.track, &backward.track);
            let met = lattice.join_directions(alpha, beta);
            if lattice.certain(alpha, beta, met) {
                return Ok((met, forward.read.log_scale_with(&backward.read)));
            }
            // A sweep within a budget loses nothing that matters, but for rounding.
            allowances = if budgeted {
                [Allowance::NOTHING, Allowance::NOTHING]
            } else {
                lattice.budgets(alpha, beta, met)
            };
        }
    }

    /// Sweeps one direction up to the middle, a few blocks at a time, storing emissions in `half` if given.
    pub fn sweep<D: Direction>(
        &self,
        lattice: &ScaledLattice,
        state: &mut DirectionState<E>,
        mut half: Option<&mut HalfTable<E::Real>>,
    ) -> Result<(), Stop> {
        let DirectionState {
            track,
            scratch,
            read,
            gather_scratch,
            ..
        } = state;
        let keep = half.is_some();
        if keep {
            lattice.reserve::<D>(track)?;
        }
        read.log_scale = 0.0;
        let mut chunks = self
            .source
            .blocks()
            .chunks::<D>(at_once(self.split))
            .peekable();
        while let Some(some) = chunks.next() {
            let table = self.source.read::<D>(
                some.clone(),
                half.as_deref_mut(),
                read,
                gather_scratch,
                self.split,
            )?;
            if let Some(next) = chunks.peek() {
                self.source.prefetch(next.clone());
            }
            lattice.sweep::<D, _>(track, some, table, keep, scratch)?;
        }
        Ok(())
    }
}

/// `ln P`, which is NaN for a poisoned item, and `P` itself unless it is 0.
pub(crate) fn log_p_of(
    met: Result<(PathProbability, f64), Stop>,
) -> Result<(f64, Option<PathProbability>), OutOfMemory> {
    match met {
        Err(Stop::Poisoned) => Ok((f64::NAN, None)),
        Err(Stop::OutOfMemory(out)) => Err(out),
        Ok((met, _)) if met.is_zero() => Ok((f64::NEG_INFINITY, None)),
        Ok((met, log_scale)) => Ok((met.ln() + log_scale, Some(met))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::lattice::scaled::{Level, PosteriorBlock};
    use crate::problem::plan::Input;

    fn plan(frames: usize, classes: usize, target: &[u32]) -> Plan {
        Plan {
            input: Input {
                frames,
                batch: 1,
                classes,
                blank: 0,
                layout: None,
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![frames],
            labels: target.to_vec(),
            label_offsets: vec![0, target.len()],
        }
    }

    /// Pseudo-random numbers in [0, 1).
    fn random() -> impl FnMut() -> f64 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    const LEVELS: [Level; 3] = [Level::Tiles, Level::Pairs, Level::States];

    /// The loss and the posteriors of item 0, with no level coarser than `level`.
    fn solve(plan: &Plan, data: &[f64], used: &Classes, level: Level) -> (f64, Vec<f64>) {
        let strides = Strides {
            offset: 0,
            frame: plan.input.classes,
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
        let entries = plan.input.frames * problem.source.entries();
        let posteriors = kept.map(|kept| kept.entries.as_flattened()[..entries].to_vec());
        (loss, posteriors.unwrap_or_default())
    }

    /// The loss and the posteriors at each level. Losses must be bit-identical; posteriors may differ within the
    /// tolerance of their sum.
    fn at_each_level(plan: &Plan, data: &[f64]) -> (f64, Vec<f64>) {
        let _held = crate::cpu::simd::isa::tests::held();
        let target = plan.target(0);
        // Each label as a class of its own: the posteriors are then those of the labels.
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

    /// The loss of a target and the posteriors of its classes, from the definition in log space.
    fn plain(plan: &Plan, data: &[f64]) -> (f64, Vec<f64>) {
        let add = |a: f64, b: f64| {
            let (high, low) = if a > b { (a, b) } else { (b, a) };
            if low == f64::NEG_INFINITY {
                high
            } else {
                high + (low - high).exp().ln_1p()
            }
        };
        let (frames, target) = (plan.input.frames, plan.target(0));
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
                alpha[t + 1][s] = sum + data[t * plan.input.classes + class(s)];
            }
        }
        // Beta without the emission of its own frame.
        beta[frames][states.saturating_sub(2)..].fill(0.0);
        for t in (1..frames).rev() {
            for s in 0..states {
                let next = |on: usize| match s + on {
                    to if to < states => beta[t + 1][to] + data[t * plan.input.classes + class(to)],
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

    /// Compares all levels with the definition.
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
        let step = 1e-12 + 1e-15 * true_loss.abs() * plan.input.frames as f64;
        for (i, (a, b)) in posteriors.iter().zip(&truth).enumerate() {
            assert!((a - b).abs() <= step, "{what}, {i}: {a} {b}");
        }
    }

    #[test]
    fn a_probability_above_1_counts_as_1_only_within_rounding() {
        use InputKind::{LogProbs, Logits};
        let loss = |log_p, kind| loss_from(log_p, 100, kind, f64::EPSILON);
        let rounding = 200.0 * f64::EPSILON;
        assert_eq!(loss(rounding, LogProbs), 0.0);
        assert_eq!(loss(2.0 * rounding, LogProbs), -2.0 * rounding);
        assert_eq!(loss(1.0, Logits), 0.0);
        for kind in [LogProbs, Logits] {
            assert_eq!(loss(-3.0, kind), 3.0);
            assert_eq!(loss(f64::NEG_INFINITY, kind), f64::INFINITY);
            assert!(loss(f64::NAN, kind).is_nan());
            assert_eq!(loss(0.0, kind).to_bits(), 0.0f64.to_bits());
        }
    }

    #[test]
    fn an_item_without_a_path_needs_no_lattice() {
        let _held = crate::cpu::simd::isa::tests::held();
        let alone = |frames: usize, target: &[u32], entry: f64| {
            let (plan, used) = (plan(frames, 2, target), Classes::new(target));
            let strides = Strides {
                offset: 0,
                frame: 2,
                item: 0,
                class: 1,
            };
            let data = vec![entry; 2 * frames];
            let problem = Problem::new(&plan, &data, strides, 0, &used, false);
            let loss = problem.loss_alone(&mut Buffers::default()).unwrap();
            (problem.has_lattice(), loss)
        };
        assert_eq!(alone(0, &[], 0.0), (false, 0.0));
        assert_eq!(alone(0, &[1], 0.0), (false, f64::INFINITY));
        assert_eq!(alone(2, &[1, 1], -1.0), (false, f64::INFINITY));
        let (lattice, poisoned) = alone(2, &[1, 1], f64::NAN);
        assert!(!lattice && poisoned.is_nan());
        let (lattice, loss) = alone(2, &[], -1.0);
        assert!(lattice && (loss - 2.0).abs() < 1e-12);
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
        // The path is above everything else, or the blank is above every label.
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
        // Each frame contains the next label, far below everything else: there is one path.
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

    /// The states of a row are more than 2^40 binary orders apart, too far for the steps of a checkpoint.
    #[test]
    fn states_of_a_tile_may_be_any_distance_apart() {
        const COST: f64 = 1.4e9;
        let frames = 2100;
        let plan = plan(frames, 3, &[1, 2]);
        let free = |t: usize| if t < 1000 || t == frames - 1 { 2 } else { 1 };
        let entry = |i: usize| if i % 3 == free(i / 3) { 0.0 } else { -COST };
        let data: Vec<f64> = (0..3 * frames).map(entry).collect();
        // To stay in label 1 costs 1000 frames, to leave it at once 1100. It begins in any of the first 1001 frames.
        let (loss, posteriors) = at_each_level(&plan, &data);
        assert!(
            (loss - (1000.0 * COST - 1001f64.ln())).abs() < 1e-3,
            "{loss}"
        );
        for (t, frame) in posteriors.chunks_exact(3).enumerate() {
            let began = (t + 1).min(1001) as f64 / 1001.0;
            let want = match t == frames - 1 {
                true => [0.0, 1.0, 0.0],
                false => [began, 0.0, 1.0 - began],
            };
            for (got, want) in frame.iter().zip(want) {
                assert!((got - want).abs() < 1e-9, "{t}: {frame:?} {want}");
            }
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

    /// The numbers of blocks at each level.
    type Blocks = [usize; 3];

    /// What the last sweep of an item was allowed to lose. The first may lose anything; the second has a budget, or may
    /// lose nothing where the first found no path; a third may lose nothing.
    #[derive(Debug, PartialEq)]
    enum Losses {
        Anything,
        Budgeted,
        Nothing,
    }

    /// Counts the blocks of posteriors at each level, with those that are rejected and formed anew.
    #[derive(Default)]
    struct Counted(Blocks);

    impl Posteriors<f64> for Counted {
        fn of_states(&self) -> bool {
            false
        }

        fn take(&mut self, block: PosteriorBlock<f64>) -> bool {
            self.0[block.level as usize] += 1;
            ClassPosteriors.take(block)
        }
    }

    /// For an item with random entries, each lowered by the value of `below` for its frame and class: the numbers of
    /// blocks of each direction, in the sweep and in the posterior pass, and what the last sweep was allowed to lose.
    fn work_of_gradient(
        frames: usize,
        labels: usize,
        below: impl Fn(usize, usize) -> f64,
    ) -> ([Blocks; 2], [Blocks; 2], Losses) {
        let _held = crate::cpu::simd::isa::tests::held();
        let target: Vec<u32> = (0..labels).map(|i| 1 + i as u32 % 5).collect();
        let (plan, used) = (plan(frames, 6, &target), Classes::new(&target));
        let mut random = random();
        let entry = |i: usize| -below(i / 6, i % 6) - random();
        let data: Vec<f64> = (0..6 * frames).map(entry).collect();
        let strides = Strides {
            offset: 0,
            frame: 6,
            item: 0,
            class: 1,
        };
        let problem = Problem::new(&plan, &data, strides, 0, &used, false);
        let mut buffers = Buffers::default();
        let room = problem.source.room().unwrap();
        let (mut early, mut late) = (Counted::default(), Counted::default());
        problem
            .solve(&mut buffers, room, &mut early, &mut late)
            .unwrap();
        let tracks = [&buffers.forward.track, &buffers.backward.track];
        let blocks = tracks.map(|track| {
            LEVELS.map(|level| track.kept.levels().filter(|&held| held == level).count())
        });
        let losses = match &buffers.forward.track.forgone.allowance {
            Allowance::Anything => Losses::Anything,
            Allowance::Budget(budget) if !budget.most.is_empty() => Losses::Budgeted,
            Allowance::Budget(_) => Losses::Nothing,
        };
        (blocks, [early.0, late.0], losses)
    }

    fn work(
        frames: usize,
        labels: usize,
        below: impl Fn(usize, usize) -> f64,
    ) -> ([Blocks; 2], Losses) {
        let (blocks, _, losses) = work_of_gradient(frames, labels, below);
        (blocks, losses)
    }

    #[test]
    fn posteriors_are_formed_at_the_coarsest_level_that_holds() {
        // The path is above everything else: a label every five frames, and blanks between them.
        let sure = |labels: usize, depth: f64| {
            let said = |t: usize| if t % 5 == 2 { 1 + t / 5 % 5 } else { 0 };
            let below = move |t, class| if class == said(t) { 0.0 } else { depth };
            work_of_gradient(400, labels, below).1
        };
        assert_eq!(sure(60, 30.0), [[25, 0, 0]; 2]);
        assert_eq!(sure(60, 60.0), [[25, 0, 0]; 2]);
        assert_eq!(sure(60, 70.0), [[0, 25, 0], [6, 19, 0]]);
        assert_eq!(sure(60, 80.0), [[4, 15, 6], [6, 19, 0]]);
        assert_eq!(sure(60, 100.0), [[0, 25, 0]; 2]);
        assert_eq!(sure(60, 150.0), [[0, 0, 25]; 2]);
        assert_eq!(sure(30, 80.0), [[0, 25, 0]; 2]);
        assert_eq!(sure(30, 150.0), [[0, 5, 20]; 2]);
        // One of three classes is above everything else.
        let turns = |depth: f64| {
            let below = move |t: usize, class| if class == t % 3 { 0.0 } else { depth };
            work_of_gradient(200, 30, below).1
        };
        assert_eq!(turns(50.0), [[13, 0, 0], [12, 0, 0]]);
        assert_eq!(turns(60.0), [[5, 8, 0], [12, 0, 0]]);
        assert_eq!(turns(80.0), [[0, 13, 0], [0, 12, 0]]);
        assert_eq!(turns(100.0), [[0, 7, 6], [0, 12, 0]]);
        assert_eq!(turns(200.0), [[0, 0, 13], [0, 0, 12]]);
    }

    /// A block at a finer level than it needs, or another sweep, costs time and changes no bit of any result.
    #[test]
    fn blocks_are_computed_at_the_coarsest_level_that_holds() {
        use Losses::{Anything, Budgeted, Nothing};
        const NEVER: f64 = f64::INFINITY;
        // A label every five frames, in order, and blanks between them.
        let said = |t: usize, of: usize| if t % 5 == 2 { 1 + t / 5 % of } else { 0 };
        // The blank is above all labels.
        let blanks = |depth: f64| {
            let below = move |_, class| if class == 0 { 0.0 } else { depth };
            work(400, 60, below)
        };
        assert_eq!(blanks(30.0), ([[25, 0, 0]; 2], Anything));
        assert_eq!(blanks(80.0), ([[25, 0, 0]; 2], Anything));
        assert_eq!(blanks(82.0), ([[15, 10, 0], [25, 0, 0]], Budgeted));
        assert_eq!(blanks(84.0), ([[1, 24, 0], [25, 0, 0]], Budgeted));
        assert_eq!(blanks(88.0), ([[1, 24, 0], [6, 19, 0]], Budgeted));
        assert_eq!(blanks(100.0), ([[1, 24, 0], [2, 23, 0]], Nothing));
        assert_eq!(blanks(150.0), ([[1, 0, 24], [1, 24, 0]], Nothing));
        assert_eq!(blanks(200.0), ([[0, 0, 25]; 2], Nothing));
        assert_eq!(blanks(NEVER), ([[25, 0, 0]; 2], Anything));
        // The path is above everything else.
        let sure = |depth: f64| {
            let below = move |t, class| if class == said(t, 5) { 0.0 } else { depth };
            work(400, 60, below)
        };
        assert_eq!(sure(30.0), ([[25, 0, 0]; 2], Anything));
        assert_eq!(sure(78.0), ([[25, 0, 0]; 2], Anything));
        assert_eq!(sure(80.0), ([[14, 7, 4], [15, 10, 0]], Budgeted));
        assert_eq!(sure(82.0), ([[9, 11, 5], [15, 10, 0]], Budgeted));
        assert_eq!(sure(92.0), ([[1, 24, 0], [2, 23, 0]], Budgeted));
        assert_eq!(sure(150.0), ([[1, 0, 24]; 2], Budgeted));
        assert_eq!(sure(1e9), ([[0, 0, 25]; 2], Nothing));
        assert_eq!(sure(NEVER), ([[25, 0, 0]; 2], Anything));
        // Another text is above everything else.
        let wrong = |depth: f64| {
            let below = move |t, class| if class == said(t, 4) { 0.0 } else { depth };
            work(400, 60, below)
        };
        assert_eq!(wrong(66.0), ([[25, 0, 0]; 2], Anything));
        assert_eq!(wrong(70.0), ([[20, 5, 0], [23, 2, 0]], Budgeted));
        assert_eq!(wrong(76.0), ([[15, 10, 0], [20, 5, 0]], Budgeted));
        assert_eq!(wrong(96.0), ([[6, 19, 0]; 2], Budgeted));
        assert_eq!(wrong(120.0), ([[1, 24, 0]; 2], Budgeted));
        // The path is above everything else in odd frames.
        let odd = |depth: f64| {
            let far = move |t: usize, class| t % 2 == 1 && class != said(t, 5);
            let below = move |t, class| if far(t, class) { depth } else { 0.0 };
            work(401, 63, below)
        };
        assert_eq!(odd(150.0), ([[26, 0, 0], [25, 0, 0]], Anything));
        assert_eq!(odd(200.0), ([[8, 5, 13], [9, 3, 13]], Budgeted));
        assert_eq!(odd(1e9), ([[0, 0, 26], [1, 0, 24]], Nothing));
        // One label at a time is above everything else, in an item with little room.
        let tight = |depth: f64| {
            let below = move |t, class| if class == 1 + t % 5 { 0.0 } else { depth };
            work(64, 60, below)
        };
        assert_eq!(tight(200.0), ([[4, 0, 0]; 2], Anything));
        assert_eq!(tight(1e9), ([[0, 0, 4]; 2], Nothing));
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
        // No path is left, yet a NaN is still reported.
        let mut data = vec![f64::NEG_INFINITY; 4 * 40];
        assert_eq!(at_each_level(&plan, &data).0, f64::INFINITY);
        data[4 * 39] = f64::NAN;
        assert!(at_each_level(&plan, &data).0.is_nan());
    }
}
