//! Losses without posteriors, for batches that give each thread at least eight items to interleave. The results are
//! bit-identical to those of single items.

use crate::cpu::drivers::item::{self, Problem};
use crate::cpu::emissions::gather::{GatherScratch, LossInput};
use crate::cpu::emissions::table::{EmissionWindow, Table};
use crate::cpu::lattice::scaled::{
    Allowance, FEWEST_INTERLEAVED, INTERLEAVED, Interleaved, Lane, ScaledLattice, Track,
};
use crate::cpu::simd::real::Element;
use crate::cpu::threads::{Threads, Work, run_jobs};
use crate::cpu::time::{Backward, Direction, Forward};
use crate::memory::OutOfMemory;
use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::Plan;
use candle_core::Result as CandleResult;
use std::cmp::Reverse;
use std::ops::Range;

/// The loss of each item.
pub(crate) fn losses<E: Element>(plan: &Plan, input: LossInput<E>) -> CandleResult<Vec<f64>> {
    let mut losses: Vec<Result<f64, OutOfMemory>> = vec![Ok(0.0); plan.input.batch];
    let mut items: Vec<(usize, &mut Result<f64, OutOfMemory>)> =
        losses.iter_mut().enumerate().collect();
    let work = Work::of(plan);
    // Items of a group should end together, and the longest should not start last.
    items.sort_by_key(|(n, _)| Reverse((plan.input_lengths[*n], plan.target_length(*n))));
    run_jobs(
        items.chunks_mut(INTERLEAVED),
        Threads::Candle,
        work.threads(),
        work.is_small(),
        |some, buffers: &mut Buffers<E>| group(plan, input, some, buffers),
    );
    let losses = losses.into_iter().enumerate();
    losses
        .map(|(n, loss)| loss.map_err(|out| plan.out_of_memory(n, out)))
        .collect()
}

/// Blocks of each item whose emissions are in memory at a time.
const AT_ONCE: usize = 16;

/// Scratch memory of a thread, reused from group to group.
#[derive(Default)]
struct Buffers<E: Element> {
    numbering: Numbering,
    members: Vec<Member<E::Real>>,
    interleaved: Interleaved,
    gather_scratch: GatherScratch<E>,
    alone: item::Buffers<E>,
}

/// Scratch memory of one item of a group.
#[derive(Default)]
struct Member<R> {
    used: Classes,
    lattice: ScaledLattice,
    directions: Directions<R>,
}

#[derive(Default)]
struct Directions<R> {
    forward: DirectionState<R>,
    backward: DirectionState<R>,
}

impl<R> Directions<R> {
    fn of<D: Direction>(&mut self) -> &mut DirectionState<R> {
        if D::FORWARD {
            &mut self.forward
        } else {
            &mut self.backward
        }
    }
}

/// The progress of one direction.
#[derive(Default)]
struct DirectionState<R> {
    track: Track,
    read: EmissionWindow<R>,
}

/// One item of a group in progress.
struct Item<'a, E: Element> {
    problem: Problem<'a, E>,
    lattice: &'a ScaledLattice,
    directions: &'a mut Directions<E::Real>,
    /// Whether its entries could be read so far; if not, it is computed alone.
    readable: bool,
    loss: &'a mut Result<f64, OutOfMemory>,
}

/// Computes up to [`INTERLEAVED`] items.
fn group<E: Element>(
    plan: &Plan,
    input: LossInput<E>,
    items: &mut [(usize, &mut Result<f64, OutOfMemory>)],
    buffers: &mut Buffers<E>,
) {
    let Buffers {
        numbering,
        members,
        interleaved,
        gather_scratch,
        alone,
    } = buffers;
    members.resize_with(INTERLEAVED, Member::default);
    let mut group = Vec::with_capacity(INTERLEAVED);
    for ((n, loss), member) in items.iter_mut().zip(members) {
        let Member {
            used,
            lattice,
            directions,
        } = member;
        numbering.number(plan.target(*n), used);
        let mut problem = Problem::new(plan, input.data, input.strides, *n, used, false);
        problem.source.weights = input.weights;
        if problem.has_lattice() {
            problem.lattice(lattice);
            group.push(Item {
                problem,
                lattice,
                directions,
                readable: true,
                loss,
            });
        } else {
            **loss = Ok(problem.loss_without_lattice());
        }
    }
    if group.len() < FEWEST_INTERLEAVED {
        for Item { problem, loss, .. } in group {
            *loss = problem.loss_alone(alone);
        }
        return;
    }
    sweep::<Forward, E>(&mut group, interleaved, gather_scratch);
    sweep::<Backward, E>(&mut group, interleaved, gather_scratch);
    for item in group {
        *item.loss = match item.log_p() {
            Ok(log_p) => Ok(item.problem.loss(log_p)),
            Err(allowances) => item.problem.loss_allowing(alone, allowances),
        };
    }
}

/// Sweeps one direction of all items up to the middle, a few blocks at a time.
fn sweep<D: Direction, E: Element>(
    group: &mut [Item<E>],
    interleaved: &mut Interleaved,
    gather_scratch: &mut GatherScratch<E>,
) {
    for item in &mut *group {
        let state = item.directions.of::<D>();
        item.lattice
            .start::<D>(&mut state.track, Allowance::Anything);
        state.read.log_scale = 0.0;
    }
    interleaved.start::<D>(group.iter().map(|item| item.lattice));
    let blocks = |item: &Item<E>| item.problem.source.blocks().half::<D>().len();
    let longest = group.iter().map(blocks).max().unwrap_or(0);
    for taken in (0..longest).step_by(AT_ONCE) {
        let lanes = group.iter_mut().map(|item| {
            let blocks = item.problem.source.blocks().chunk::<D>(taken, AT_ONCE);
            item.lane::<D>(blocks, gather_scratch)
        });
        let mut lanes: Vec<Lane<E::Real>> = lanes.collect();
        interleaved.sweep::<D, _>(&mut lanes);
    }
}

impl<E: Element> Item<'_, E> {
    /// The lane of this item for `blocks`; an empty one if they cannot be read.
    fn lane<D: Direction>(
        &mut self,
        blocks: Range<usize>,
        gather_scratch: &mut GatherScratch<E>,
    ) -> Lane<'_, E::Real> {
        let DirectionState { track, read } = self.directions.of::<D>();
        let source = &self.problem.source;
        let mut table = None;
        if self.readable {
            let read = source.read::<D>(blocks.clone(), None, read, gather_scratch, false);
            table = read.ok();
        }
        self.readable = table.is_some();
        let (blocks, table) = table.map_or((0..0, Table::default()), |table| (blocks, table));
        Lane {
            lattice: self.lattice,
            track,
            blocks,
            table,
        }
    }

    /// `ln P`, once both directions are in the middle; or what they may lose when the item is computed alone.
    fn log_p(&self) -> Result<f64, [Allowance; 2]> {
        if !self.readable {
            return Err([Allowance::Anything, Allowance::Anything]);
        }
        let Directions { forward, backward } = &*self.directions;
        let (alpha, beta) = (&forward.track, &backward.track);
        let met = self.lattice.join_directions(alpha, beta);
        if !self.lattice.certain(alpha, beta, met) {
            Err(self.lattice.budgets(alpha, beta, met))
        } else if met.is_zero() {
            Ok(f64::NEG_INFINITY)
        } else {
            Ok(met.ln() + forward.read.log_scale_with(&backward.read))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::item;
    use crate::cpu::simd::isa::tests::on_each;
    use crate::problem::plan::Input;
    use crate::problem::plan::{InputKind, Strides, frames_needed};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// A batch with different lengths (unless `even`) in which some targets do not fit; with `bad`, some entries are
    /// NaN, infinite, masked, or far below the others.
    fn batch(seed: u64, bad: bool, even: bool, input: InputKind) -> (Plan, Vec<f64>) {
        let mut random = StdRng::seed_from_u64(seed);
        let (frames, items) = (random.random_range(1..300), random.random_range(1..20));
        let classes = random.random_range(2..12);
        let most = if random.random() { 8 } else { 60 };
        let (mut lengths, mut labels, mut ends) = (Vec::new(), Vec::new(), vec![0]);
        for _ in 0..items {
            let count = if even {
                most
            } else {
                random.random_range(0..=most)
            };
            let target: Vec<u32> = (0..count)
                .map(|_| random.random_range(1..classes))
                .collect();
            let enough = random.random_bool(0.95);
            lengths.push(match (even, enough) {
                (true, _) => frames,
                (false, true) => frames.min(frames_needed(&target) + random.random_range(0..60)),
                (false, false) => random.random_range(0..=frames),
            });
            labels.extend(target);
            ends.push(labels.len());
        }
        // Bursts in which some classes, or for a while all labels but few, are far below the others: up to the limits
        // of the range of tiles, and past them.
        let depths: Vec<f64> = (0..items).map(|_| 86.0 * random.random::<f64>()).collect();
        let mut below = vec![0.0; items * classes as usize];
        let mut data = Vec::new();
        for _ in 0..frames {
            for (at, below) in below.iter_mut().enumerate() {
                if bad && random.random_bool(0.1) {
                    let far = random.random_bool(0.5);
                    *below = if far {
                        depths[at / classes as usize]
                    } else {
                        0.0
                    };
                }
                data.push(-*below - 3.0 * random.random::<f64>());
            }
        }
        if bad {
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..data.len());
                data[at] =
                    [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -90.0][random.random_range(0..4)];
            }
        }
        let plan = Plan {
            input: Input {
                frames,
                batch: items,
                classes: classes as usize,
                blank: 0,
                layout: Some(Default::default()),
                kind: input,
            },
            input_lengths: lengths,
            labels,
            label_offsets: ends,
        };
        (plan, data)
    }

    fn agree<E: Element>(
        plan: &Plan,
        data: &[E],
        weights: Option<&[f64]>,
    ) -> Result<(), TestCaseError> {
        let strides = Strides {
            offset: 0,
            frame: plan.input.batch * plan.input.classes,
            item: plan.input.classes,
            class: 1,
        };
        let input = LossInput {
            data,
            strides,
            weights,
        };
        let mut buffers = item::Buffers::default();
        let alone = |n| {
            item(plan, input, n, false, false, &mut buffers)
                .unwrap()
                .loss
        };
        let alone: Vec<f64> = (0..plan.input.batch).map(alone).collect();
        let together = losses(plan, input).unwrap();
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        prop_assert!(
            alone.iter().zip(&together).all(same),
            "{alone:?} {together:?}"
        );
        Ok(())
    }

    /// Each frame contains the next label, far below everything else: the first sweep loses the only path at some
    /// depths, and says so.
    #[test]
    fn a_path_that_the_first_sweep_loses_is_found() {
        let labels = 16;
        let classes = labels + 1;
        for first in (600..=860).step_by(INTERLEAVED) {
            let depths: Vec<f64> = (0..INTERLEAVED)
                .map(|n| (first + n) as f64 / 10.0)
                .collect();
            let mut data = vec![0.0; labels * INTERLEAVED * classes];
            for (row, entries) in data.chunks_exact_mut(classes).enumerate() {
                entries[row / INTERLEAVED + 1] = -depths[row % INTERLEAVED];
            }
            let plan = Plan {
                input: Input {
                    frames: labels,
                    batch: INTERLEAVED,
                    classes,
                    blank: 0,
                    layout: Some(Default::default()),
                    kind: InputKind::LogProbs,
                },
                input_lengths: vec![labels; INTERLEAVED],
                labels: (1..=labels as u32).collect::<Vec<_>>().repeat(INTERLEAVED),
                label_offsets: (0..=INTERLEAVED).map(|n| n * labels).collect(),
            };
            agree(&plan, &data, None).unwrap();
            let strides = Strides {
                offset: 0,
                frame: INTERLEAVED * classes,
                item: classes,
                class: 1,
            };
            let input = LossInput {
                data: &data,
                strides,
                weights: None,
            };
            for (loss, depth) in losses(&plan, input).unwrap().into_iter().zip(depths) {
                let want = labels as f64 * depth;
                assert!((loss - want).abs() < 1e-10, "{depth}: {loss} {want}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn side_by_side_is_one_by_one_to_the_last_bit(
            seed: u64,
            bad: bool,
            even: bool,
            logits: bool,
            weighted: bool,
        ) {
            let input = if logits { InputKind::Logits } else { InputKind::LogProbs };
            let (plan, data) = batch(seed, bad, even, input);
            let singles: Vec<f32> = data.iter().map(|&x| x as f32).collect();
            let halves: Vec<half::bf16> = data.iter().map(|&x| half::bf16::from_f64(x)).collect();
            let weights: Vec<f64> = (0..=plan.input.classes).map(|k| 0.3 * k as f64 - 1.0).collect();
            let weights = weighted.then_some(weights.as_slice());
            let mut result = Ok(());
            on_each(|_| {
                result = result
                    .clone()
                    .and(agree(&plan, &data, weights))
                    .and_then(|()| agree(&plan, &singles, weights))
                    .and_then(|()| agree(&plan, &halves, weights));
            });
            result?;
        }
    }
}
