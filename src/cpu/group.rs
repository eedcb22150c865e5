//! Losses without posteriors, of a batch that is large enough for each thread to take eight items side
//! by side. To the last bit they are those of the items one by one.

use super::real::Element;
use super::runs::{Backward, Direction, Forward, Table};
use super::tasks::{Threads, share_out};
use super::tiles::{ABREAST, Abreast, FEWEST_ABREAST, Lane, OutOfRange, Tiles, Track};
use super::{Desk, OutOfMemory, Problem, Read, Work};
use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::{Plan, Strides};
use candle_core::Result as CandleResult;
use std::cmp::Reverse;
use std::ops::Range;

/// The loss of each item.
pub(super) fn losses<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
) -> CandleResult<Vec<f64>> {
    let mut losses: Vec<Result<f64, OutOfMemory>> = vec![Ok(0.0); plan.batch];
    let mut items: Vec<(usize, &mut Result<f64, OutOfMemory>)> =
        losses.iter_mut().enumerate().collect();
    let work = Work::of(plan);
    // Those that go together should end together, and the longest not begin last.
    items.sort_by_key(|(n, _)| Reverse((plan.input_lengths[*n], plan.target_length(*n))));
    share_out(
        items.chunks_mut(ABREAST),
        Threads::Candle,
        work.threads(),
        work.is_small(),
        |some, buffers: &mut Buffers<E>| group(plan, data, strides, some, buffers),
    );
    let losses = losses.into_iter().enumerate();
    losses
        .map(|(n, loss)| loss.map_err(|out| out.of_item(plan, n)))
        .collect()
}

/// Runs of each item whose emissions are in memory at a time.
const AT_ONCE: usize = 16;

/// Working memory of a thread, kept from group to group.
#[derive(Default)]
struct Buffers<E: Element> {
    numbering: Numbering,
    members: Vec<Member<E::Real>>,
    abreast: Abreast,
    desk: Desk<E>,
    alone: super::Buffers<E>,
}

/// What one item of a group has in memory.
#[derive(Default)]
struct Member<R> {
    used: Classes,
    lattice: Tiles,
    ways: Ways<R>,
}

#[derive(Default)]
struct Ways<R> {
    forward: Way<R>,
    backward: Way<R>,
}

impl<R> Ways<R> {
    fn of<D: Direction>(&mut self) -> &mut Way<R> {
        if D::FORWARD {
            &mut self.forward
        } else {
            &mut self.backward
        }
    }
}

/// One direction.
#[derive(Default)]
struct Way<R> {
    track: Track,
    read: Read<R>,
}

/// One item of a group on its way.
struct Item<'a, E: Element> {
    problem: Problem<'a, E>,
    lattice: &'a Tiles,
    ways: &'a mut Ways<E::Real>,
    /// Whether it can go on side by side with the others.
    fit: Result<(), OutOfRange>,
    loss: &'a mut Result<f64, OutOfMemory>,
}

/// Up to [`ABREAST`] items.
fn group<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    items: &mut [(usize, &mut Result<f64, OutOfMemory>)],
    buffers: &mut Buffers<E>,
) {
    let Buffers {
        numbering,
        members,
        abreast,
        desk,
        alone,
    } = buffers;
    members.resize_with(ABREAST, Member::default);
    let mut group = Vec::with_capacity(ABREAST);
    for ((n, loss), member) in items.iter_mut().zip(members) {
        let Member {
            used,
            lattice,
            ways,
        } = member;
        numbering.number(plan.target(*n), used);
        let problem = Problem::new(plan, data, strides, *n, used, false);
        if problem.has_lattice() {
            problem.lattice(lattice);
            group.push(Item {
                problem,
                lattice,
                ways,
                fit: Ok(()),
                loss,
            });
        } else {
            **loss = Ok(problem.loss_without_lattice());
        }
    }
    if group.len() < FEWEST_ABREAST {
        for Item { problem, loss, .. } in group {
            *loss = problem.loss_alone(alone);
        }
        return;
    }
    sweep::<Forward, E>(&mut group, abreast, desk);
    sweep::<Backward, E>(&mut group, abreast, desk);
    for item in group {
        *item.loss = match item.log_p() {
            Ok(log_p) => Ok(item.problem.loss(log_p)),
            Err(OutOfRange) => item.problem.loss_alone(alone),
        };
    }
}

/// One direction of all of them up to the middle, a few runs at a time.
fn sweep<D: Direction, E: Element>(
    group: &mut [Item<E>],
    abreast: &mut Abreast,
    desk: &mut Desk<E>,
) {
    for item in &mut *group {
        let way = item.ways.of::<D>();
        item.lattice.start::<D>(&mut way.track);
        way.read.log_scale = 0.0;
    }
    abreast.start::<D>(group.iter().map(|item| item.lattice));
    let runs = |item: &Item<E>| item.problem.source.runs().half::<D>().len();
    let longest = group.iter().map(runs).max().unwrap_or(0);
    for taken in (0..longest).step_by(AT_ONCE) {
        let lanes = group.iter_mut().map(|item| {
            let runs = item.problem.source.runs().chunk::<D>(taken, AT_ONCE);
            item.lane::<D>(runs, desk)
        });
        let mut lanes: Vec<Lane<E::Real>> = lanes.collect();
        abreast.sweep::<D, _>(&mut lanes);
    }
    for (j, item) in group.iter_mut().enumerate() {
        item.fit = item.fit.and(abreast.fits(j));
    }
}

impl<E: Element> Item<'_, E> {
    /// What is to be done with `runs`: nothing where they do not fit.
    fn lane<D: Direction>(&mut self, runs: Range<usize>, desk: &mut Desk<E>) -> Lane<'_, E::Real> {
        let Way { track, read } = self.ways.of::<D>();
        // What does not fit is done alone, and needs nothing more here.
        let table = self.fit.and_then(|()| {
            let source = &self.problem.source;
            let table = source.read::<D>(runs.clone(), None, read, desk, false);
            table
                .ok()
                .filter(|table| table.kinds.iter().all(|kind| kind.all_above_zero()))
                .ok_or(OutOfRange)
        });
        let (runs, table) = match table {
            Ok(table) => (runs, table),
            Err(OutOfRange) => {
                self.fit = Err(OutOfRange);
                (0..0, Table::default())
            }
        };
        Lane {
            lattice: self.lattice,
            track,
            runs,
            table,
        }
    }

    /// `ln P` where both directions are in the middle.
    fn log_p(&self) -> Result<f64, OutOfRange> {
        self.fit?;
        let Ways { forward, backward } = &*self.ways;
        let met = self.lattice.meet(&forward.track, &backward.track);
        Ok(met.ln() + forward.read.log_scale_with(&backward.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::tests::on_each;
    use crate::cpu::item;
    use crate::options::Reduction;
    use crate::problem::plan::{InputKind, frames_needed};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// A batch in which lengths differ (unless it is `even`), some targets do not fit, and with `bad` some
    /// entries are no numbers, masked, or far below the others.
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
        // Bursts in which some classes are far below the others, or for a while all labels but few: to
        // the limits of what tiles hold, and past them.
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
            frames,
            batch: items,
            classes: classes as usize,
            blank: 0,
            layout: Some(Default::default()),
            input,
            gradient: Default::default(),
            reduction: Reduction::None,
            zero_infinity: false,
            input_lengths: lengths,
            labels,
            label_offsets: ends,
            unread: None,
        };
        (plan, data)
    }

    fn agree<E: Element>(plan: &Plan, data: &[E]) -> Result<(), TestCaseError> {
        let strides = Strides {
            offset: 0,
            frame: plan.batch * plan.classes,
            item: plan.classes,
            class: 1,
        };
        let mut buffers = super::super::Buffers::default();
        let alone = |n| {
            item(plan, data, strides, n, false, false, &mut buffers)
                .unwrap()
                .loss
        };
        let alone: Vec<f64> = (0..plan.batch).map(alone).collect();
        let together = losses(plan, data, strides).unwrap();
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        prop_assert!(
            alone.iter().zip(&together).all(same),
            "{alone:?} {together:?}"
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn side_by_side_is_one_by_one_to_the_last_bit(
            seed: u64,
            bad: bool,
            even: bool,
            logits: bool,
        ) {
            let input = if logits { InputKind::Logits } else { InputKind::LogProbs };
            let (plan, data) = batch(seed, bad, even, input);
            let singles: Vec<f32> = data.iter().map(|&x| x as f32).collect();
            let halves: Vec<half::bf16> = data.iter().map(|&x| half::bf16::from_f64(x)).collect();
            let mut result = Ok(());
            on_each(|_| {
                result = result
                    .clone()
                    .and(agree(&plan, &data))
                    .and_then(|()| agree(&plan, &singles))
                    .and_then(|()| agree(&plan, &halves));
            });
            result?;
        }
    }
}
