//! Many transcripts of one item: the emissions are converted once for all of them.
//!
//! 1. The labels that any candidate uses, each once, are one wide "target": its emissions, in
//!    numbers with their own exponent, are a compact table of a few frames.
//! 2. Each candidate gathers its emissions from the table and takes the two directions of its own
//!    lattice through those frames.
//! 3. When the directions have met, `P` is read off.
//!
//! Only the table of the current frames and two rows of states for each candidate and direction
//! are held. The same candidate twice is computed once.
//!
//! Prefixes. Candidates with a common prefix have the same alpha up to the end of the prefix, at
//! every frame; with meeting directions, common suffixes do the same for beta. A list whose
//! candidates differ in one place, anywhere, could so save half of its steps on average, and one
//! that differs in several places much less: only what lies before the first change and behind
//! the last is common. The steps are themselves less than half of the time; fetching emissions
//! is most of the rest. So the lattices are kept apart, and only equal candidates are shared.

use super::emission::{Emissions, Found, Source, padded};
use super::isa::dispatch;
use super::lattice::{Direction, Lattice, Rows};
use super::real::{Element, Real};
use super::{forward, loss_from};
use crate::classes::Classes;
use crate::plan::{Plan, Strides, frames_needed};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Entries of a table: 512 KiB in f32, which stays in the second-level cache.
const TABLE: usize = 1 << 16;

/// Frames that a candidate gathers at a time.
const AT_ONCE: usize = 4;

/// One candidate on its way through the frames.
struct Candidate<R: Real> {
    lattice: Lattice<R>,
    /// The column of each label in the table.
    columns: Vec<u32>,
    alpha: Rows<R>,
    beta: Rows<R>,
    emissions: Emissions<R>,
    fetched: Vec<R::Pair>,
}

/// `ln P` of each candidate for item `n` of the plan, whose own target is not looked at.
pub(crate) fn score<E: Element, S: AsRef<[u32]> + Sync>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    candidates: &[S],
) -> Vec<f64> {
    let frames = plan.input_lengths[n];
    let mut distinct: BTreeMap<&[u32], f64> = candidates
        .iter()
        .map(|candidate| (candidate.as_ref(), f64::NEG_INFINITY))
        .collect();
    if frames == 0 {
        if let Some(empty) = distinct.get_mut([].as_slice()) {
            *empty = 0.0;
        }
    } else {
        let targets: Vec<&[u32]> = distinct.keys().copied().collect();
        let scores = together(plan, data, strides, n, &targets);
        let scores = scores.unwrap_or_else(|| apart(plan, data, strides, n, &targets));
        for (to, score) in distinct.values_mut().zip(scores) {
            *to = score;
        }
    }
    let of = |candidate: &S| distinct[candidate.as_ref()];
    candidates.iter().map(of).collect()
}

/// The plan of item `n` alone, for a target of its own.
fn alone(plan: &Plan, n: usize, target: Vec<u32>) -> Plan {
    Plan {
        batch: 1,
        layout: None,
        input_lengths: vec![plan.input_lengths[n]],
        label_offsets: vec![0, target.len()],
        labels: target,
        ..plan.clone()
    }
}

fn item_strides(strides: Strides, n: usize) -> Strides {
    Strides {
        offset: strides.offset + n * strides.item,
        ..strides
    }
}

/// Each candidate through the loss: for entries that one candidate uses and another does not, when
/// they are NaN or too large for the exponents of f32.
fn apart<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    targets: &[&[u32]],
) -> Vec<f64> {
    let strides = item_strides(strides, n);
    let score = |target: &&[u32]| {
        let plan = alone(plan, n, target.to_vec());
        let mut buffers = super::Buffers::<E>::default();
        // 0 − x, so that a certain transcript has 0 and not −0.
        0.0 - super::item(&plan, data, strides, 0, false, &mut buffers).loss
    };
    targets.par_iter().map(score).collect()
}

/// All candidates on one table; `None` when an entry is NaN or the exponents may not suffice.
fn together<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    targets: &[&[u32]],
) -> Option<Vec<f64>> {
    let frames = plan.input_lengths[n];
    let mut used: Vec<u32> = targets.concat();
    used.sort_unstable();
    used.dedup();
    let chunk = (TABLE / padded(used.len() + 1)).clamp(16, 256);
    let all = alone(plan, n, used);
    let classes = Classes::new(&all.labels);
    let source = Source::new(&all, data, item_strides(strides, n), 0, &classes);
    let mut scores = vec![f64::NEG_INFINITY; targets.len()];
    let mut candidates: Vec<(&mut f64, Candidate<E::Real>)> = targets
        .iter()
        .zip(&mut scores)
        .filter(|(target, _)| frames_needed(target) <= frames)
        .map(|(target, score)| (score, Candidate::new(frames, target, &all.labels)))
        .collect();
    // A few shares a thread. A candidate's score does not depend on its share.
    let share = candidates
        .len()
        .div_ceil(4 * rayon::current_num_threads())
        .max(1);
    let middle = frames.div_ceil(2);
    let (mut early, mut late) = (Table::default(), Table::default());
    for start in (0..middle).step_by(chunk) {
        // Steps of either direction; the backward one may have one fewer.
        let forward = start..(start + chunk).min(middle);
        let backward = start..(start + chunk).min(frames - middle).max(start);
        rayon::join(
            || early.convert(&source, &classes, forward.clone()),
            || {
                let frames = frames - backward.end..frames - backward.start;
                late.convert(&source, &classes, frames);
            },
        );
        let steps = [
            (Direction::Forward, forward, &early),
            (Direction::Backward, backward, &late),
        ];
        candidates.par_chunks_mut(share).for_each(|candidates| {
            for (direction, steps, table) in &steps {
                // All candidates go through a few frames while these are in the first-level cache.
                for start in steps.clone().step_by(AT_ONCE) {
                    let run = start..(start + AT_ONCE).min(steps.end);
                    for (_, candidate) in candidates.iter_mut() {
                        candidate.gather(*direction, run.clone(), table);
                        candidate.advance(*direction, run.clone());
                    }
                }
            }
        });
        let found = early.found.and(late.found);
        if found.poisoned || found.too_far {
            return None;
        }
    }
    let found = early.found.and(late.found);
    if found.path >= E::Real::PATH_LIMIT {
        return None;
    }
    let log_scale = found.log_scale;
    candidates.par_iter_mut().for_each(|(score, candidate)| {
        let (log_p, _) = candidate.lattice.meet(&candidate.alpha, &candidate.beta);
        **score = 0.0 - loss_from(log_p + log_scale, frames, plan.input, E::Real::EPSILON);
    });
    drop(candidates);
    Some(scores)
}

impl<R: Real> Candidate<R> {
    /// `used` holds all labels of the target, in order.
    fn new(frames: usize, target: &[u32], used: &[u32]) -> Self {
        let lattice = Lattice::new(frames, target);
        let (mut alpha, mut beta) = (Rows::default(), Rows::default());
        alpha.prepare(&lattice, 0);
        beta.prepare(&lattice, 0);
        alpha.start(&lattice, Direction::Forward);
        beta.start(&lattice, Direction::Backward);
        let mut columns: Vec<u32> = target
            .iter()
            .map(|label| used.partition_point(|other| other < label) as u32)
            .collect();
        // The column behind the last label is zero: see `Emissions::convert`.
        columns.resize(padded(target.len() + 1), used.len() as u32);
        Self {
            lattice,
            columns,
            alpha,
            beta,
            emissions: Emissions::default(),
            fetched: Vec::new(),
        }
    }

    /// Fetches the emissions of `steps` (counted from 0) of one direction.
    fn gather(&mut self, direction: Direction, steps: Range<usize>, table: &Table<R>) {
        let frames = match direction {
            Direction::Forward => steps,
            Direction::Backward => {
                self.lattice.frames - steps.end..self.lattice.frames - steps.start
            }
        };
        let (fetched, emissions) = (&mut self.fetched, &mut self.emissions);
        table.gather(frames, &self.columns, fetched, emissions);
    }

    /// Takes steps for which the emissions are gathered.
    fn advance(&mut self, direction: Direction, steps: Range<usize>) {
        let rows = match direction {
            Direction::Forward => &mut self.alpha,
            Direction::Backward => &mut self.beta,
        };
        let steps = steps.start + 1..steps.end + 1;
        self.lattice.sweep(direction, rows, steps, &self.emissions);
    }
}

/// The emissions of all labels that are used, for a run of frames.
struct Table<R: Real> {
    emissions: Emissions<R>,
    /// Of all frames so far.
    found: Found,
    /// The same with mantissa and exponent side by side, so that a candidate fetches both at once.
    pairs: Vec<R::Pair>,
}

impl<R: Real> Default for Table<R> {
    fn default() -> Self {
        Self {
            emissions: Emissions::default(),
            found: Found::default(),
            pairs: Vec::new(),
        }
    }
}

impl<R: Real> Table<R> {
    fn convert<E: Element>(&mut self, source: &Source<E>, used: &Classes, frames: Range<usize>) {
        let found = self.emissions.read(source, used, frames);
        self.found = self.found.and(found);
        let (m, e) = (&self.emissions.labels_m, &self.emissions.labels_e);
        self.pairs.clear();
        self.pairs
            .extend(m.iter().zip(e).map(|(&m, &e)| R::pair(m, e)));
    }

    /// Puts `frames` of the table into `to`, with its labels at `columns` (in whole blocks).
    fn gather(
        &self,
        frames: Range<usize>,
        columns: &[u32],
        fetched: &mut Vec<R::Pair>,
        to: &mut Emissions<R>,
    ) {
        let (width, from) = (columns.len(), self.emissions.width);
        let skipped = frames.start - self.emissions.first;
        to.first = frames.start;
        to.width = width;
        to.blanks.clear();
        let blanks = &self.emissions.blanks[skipped..skipped + frames.len()];
        to.blanks.extend_from_slice(blanks);
        to.labels_m.resize(frames.len() * width, R::ONE);
        to.labels_e.resize(frames.len() * width, R::ZERO_EXP);
        fetched.resize(width, R::pair(R::ONE, R::ZERO_EXP));
        let rows_m = to.labels_m.chunks_exact_mut(width);
        let rows_e = to.labels_e.chunks_exact_mut(width);
        let rows = self.pairs.chunks_exact(from).skip(skipped);
        dispatch(
            #[inline(always)]
            || {
                for ((m, e), row) in rows_m.zip(rows_e).zip(rows) {
                    // Two loops: the first is bound by its loads, the second is vector code.
                    for (to, &column) in fetched.iter_mut().zip(columns) {
                        *to = row[column as usize];
                    }
                    for ((m, e), &pair) in m.iter_mut().zip(e).zip(&*fetched) {
                        (*m, *e) = R::unpair(pair);
                    }
                }
            },
        )
    }
}

/// What a transcript's path does in each frame.
pub(crate) struct Occupancy {
    /// `ln P`.
    pub log_p: f64,
    /// `(T_n, U_n)`: the posterior of each label. Empty when `log_p` is not finite.
    pub labels: Vec<f64>,
    /// `(T_n, U_n)`: `p(label)` by the model. Empty when `log_p` is not finite.
    pub probabilities: Vec<f64>,
}

/// The posteriors of the labels of each item, and the model's probabilities of those labels.
pub(crate) fn occupancy<E: Element>(plan: &Plan, data: &[E], strides: Strides) -> Vec<Occupancy> {
    // The losses come unweighted: no plan for scoring asks for a mean.
    let (losses, _) = forward(plan, data, strides, false);
    let items = losses.into_par_iter().enumerate().map(|(n, loss)| {
        let log_p = -loss.widen();
        let mut occupancy = Occupancy {
            log_p,
            labels: Vec::new(),
            probabilities: Vec::new(),
        };
        let states = 2 * plan.target_length(n) + 1;
        if log_p.is_finite() && states > 1 {
            let posterior = state_posteriors(plan, data, strides, n);
            let frames = posterior.chunks_exact(states);
            occupancy.labels = frames
                .flat_map(|frame| frame.iter().skip(1).step_by(2).copied())
                .collect();
            let used = Classes::new(plan.target(n));
            let source = Source::new(plan, data, strides, n, &used);
            let mut emissions = Emissions::<f64>::default();
            for t in 0..plan.input_lengths[n] {
                // One frame at a time, since entries are relative to the largest of their frame.
                let scale = emissions.read(&source, &used, t..t + 1).log_scale.exp();
                let y = emissions.frame(t);
                let entries = y.labels_m.iter().zip(y.labels_e);
                let entries = entries.take(plan.target_length(n));
                let probabilities = entries.map(|(&m, &e)| m * f64::exp2(e) * scale);
                occupancy.probabilities.extend(probabilities);
            }
        }
        occupancy
    });
    items.collect()
}

/// The posterior of every state at every frame, `(T_n, 2 U_n + 1)`, for item `n`; all zero when no
/// path has a probability above 0, all NaN when one is undefined.
pub(crate) fn state_posteriors<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
) -> Vec<f64> {
    let (frames, labels) = (plan.input_lengths[n], plan.target_length(n));
    let states = 2 * labels + 1;
    let mut posterior = vec![0.0; frames * states];
    if frames == 0 {
        return posterior;
    }
    // In f64 for all dtypes: this is for looking at, not for speed.
    let used = Classes::new(plan.target(n));
    let source = Source::new(plan, data, strides, n, &used);
    let mut emissions = Emissions::<f64>::default();
    if emissions.read(&source, &used, 0..frames).poisoned {
        posterior.fill(f64::NAN);
        return posterior;
    }
    if !plan.is_feasible(n) {
        return posterior;
    }
    let lattice = Lattice::<f64>::new(frames, plan.target(n));
    let (mut alpha, mut beta) = (Rows::default(), Rows::default());
    for (rows, direction) in [
        (&mut alpha, Direction::Forward),
        (&mut beta, Direction::Backward),
    ] {
        rows.prepare(&lattice, frames);
        rows.start(&lattice, direction);
        lattice.sweep(direction, rows, 1..frames + 1, &emissions);
    }
    for (t, out) in posterior.chunks_exact_mut(states).enumerate() {
        // Both rows hold the emission of frame t: it is divided out once.
        let (alpha, beta) = (alpha.row(t + 1), beta.row(frames - t));
        let y = emissions.frame(t);
        let mut exponents = vec![f64::ZERO_EXP; states];
        for i in lattice.pairs(t) {
            let (m, e) = y.blank;
            out[2 * i] = alpha.blank_m[i + 1] * beta.blank_m[i + 1] / m;
            exponents[2 * i] = alpha.blank_e[i + 1] + beta.blank_e[i + 1] - e;
            if i < labels {
                let (m, e) = (y.labels_m[i], y.labels_e[i]);
                out[2 * i + 1] = alpha.label_m[i + 1] * beta.label_m[i + 1] / m;
                exponents[2 * i + 1] = alpha.label_e[i + 1] + beta.label_e[i + 1] - e;
            }
        }
        let top = exponents.iter().copied().fold(f64::ZERO_EXP, f64::max);
        if top <= f64::ZERO_BELOW {
            out.fill(0.0);
            continue;
        }
        for (x, e) in out.iter_mut().zip(exponents) {
            *x *= f64::exp2(e - top);
        }
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|x| *x /= sum);
    }
    posterior
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn plan(frames: usize, classes: usize) -> Plan {
        Plan {
            frames,
            batch: 1,
            classes,
            blank: 0,
            layout: None,
            input: crate::plan::InputKind::LogProbs,
            gradient: Default::default(),
            reduction: crate::options::Reduction::None,
            zero_infinity: false,
            input_lengths: vec![frames],
            labels: Vec::new(),
            label_offsets: vec![0, 0],
            unread: None,
        }
    }

    /// Prints what the scoring of 64 candidates costs beside the steps of their lattices:
    /// `cargo test --release --lib -- --ignored --nocapture beside_the_lattices`
    #[test]
    #[ignore = "a measurement"]
    fn what_the_table_costs_beside_the_lattices() {
        let (frames, classes) = (1500, 5000);
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) as u32
        };
        let data: Vec<f32> = (0..frames * classes)
            .map(|_| -8.5 - (random() % 1000) as f32 * 1e-3)
            .collect();
        let strides = Strides {
            offset: 0,
            frame: classes,
            item: 0,
            class: 1,
        };
        let plan = plan(frames, classes);
        let base: Vec<u32> = (0..200).map(|_| 1 + random() % 4999).collect();
        // An n-best list (ten labels replaced in each), and candidates with nothing in common.
        let n_best: Vec<Vec<u32>> = (0..64)
            .map(|_| {
                let mut target = base.clone();
                for _ in 0..10 {
                    target[(random() % 200) as usize] = 1 + random() % 4999;
                }
                target
            })
            .collect();
        let unrelated: Vec<Vec<u32>> = (0..64)
            .map(|_| (0..200).map(|_| 1 + random() % 4999).collect())
            .collect();
        for (name, targets) in [("n-best", n_best), ("unrelated", unrelated)] {
            let (mut whole, mut alone) = (Duration::MAX, Duration::MAX);
            for _ in 0..7 {
                let start = cpu_time();
                let scores = score(&plan, &data, strides, 0, &targets);
                whole = whole.min(cpu_time() - start);
                assert!(scores.iter().all(|score| score.is_finite()));
                alone = alone.min(lattices(&plan, &data, strides, &targets));
            }
            println!(
                "{name}: {whole:?} in all, {alone:?} for the lattices: {:.2}",
                whole.as_secs_f64() / alone.as_secs_f64()
            );
        }
    }

    /// The processor time of all threads so far (Linux): other programs do not disturb it much.
    fn cpu_time() -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let nanos = tasks.map(|task| {
            let path = task.unwrap().path().join("schedstat");
            let line = std::fs::read_to_string(path).unwrap();
            let first = line.split(' ').next().unwrap();
            first.parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// The time of the steps alone, each with its emissions at hand in the first-level cache.
    fn lattices(plan: &Plan, data: &[f32], strides: Strides, targets: &[Vec<u32>]) -> Duration {
        let frames = plan.input_lengths[0];
        let mut used = targets.concat();
        used.sort_unstable();
        used.dedup();
        let all = alone(plan, 0, used);
        let classes = Classes::new(&all.labels);
        let source = Source::new(&all, data, strides, 0, &classes);
        let mut candidates: Vec<Candidate<f32>> = targets
            .iter()
            .map(|target| Candidate::new(frames, target, &all.labels))
            .collect();
        let (chunk, middle) = (16, frames.div_ceil(2));
        let mut table = Table::default();
        let mut time = Duration::ZERO;
        for start in (0..middle).step_by(chunk) {
            for direction in [Direction::Forward, Direction::Backward] {
                let (end, range);
                if direction == Direction::Forward {
                    end = (start + chunk).min(middle);
                    range = start..end;
                } else {
                    end = (start + chunk).min(frames - middle);
                    range = frames - end..frames - start;
                }
                table.convert(&source, &classes, range);
                let spent: Duration = candidates
                    .par_iter_mut()
                    .map(|candidate| {
                        candidate.gather(direction, start..end, &table);
                        let begin = Instant::now();
                        candidate.advance(direction, start..end);
                        begin.elapsed()
                    })
                    .sum();
                time += spent;
            }
        }
        time
    }
}
