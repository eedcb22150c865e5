//! The CPU: one task an item, vector code inside it.
//!
//! [`forward`] gives the losses and, when a gradient is wanted, the posteriors of the labels and
//! of the blank in each frame, which is all that [`gradient`] needs.

mod emission;
mod isa;
mod lattice;
mod prefix;
mod real;
mod rows;
mod score;
mod viterbi;

pub use isa::Isa;
pub(crate) use prefix::log_sums;
pub(crate) use real::{Element, Real};
pub(crate) use rows::gradient;
pub(crate) use score::{Occupancy, occupancy, score, state_posteriors};
pub(crate) use viterbi::{NoPath, Path, Star, viterbi};

use crate::classes::Classes;
use crate::plan::{InputKind, Plan, Strides};
use emission::{Emissions, Found, RowStats, Source, is_poison};
use lattice::{Direction, Lattice, Rows};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    let items = each_item(plan.batch, |n, buffers: &mut Buffers<E::Real>| {
        item(plan, data, strides, n, keep, buffers)
    });
    let losses = items.iter().map(|item| item.loss).collect();
    (losses, keep.then_some(Saved { items }))
}

/// Runs `work` for each item and collects what it gives, in order. There are as many tasks as
/// threads, each takes the next item when it is done with one, and each has one `B` for all its
/// items: its memory is touched once, not once an item.
fn each_item<T: Send, B: Default>(
    items: usize,
    work: impl Fn(usize, &mut B) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let tasks = rayon::current_num_threads().min(items);
    let mut done: Vec<(usize, T)> = (0..tasks)
        .into_par_iter()
        .with_max_len(1)
        .flat_map_iter(|_| {
            let mut buffers = B::default();
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= items {
                    return done;
                }
                done.push((n, work(n, &mut buffers)));
            }
        })
        .collect();
    done.sort_unstable_by_key(|&(n, _)| n);
    done.into_iter().map(|(_, item)| item).collect()
}

/// Working memory of one task, kept from item to item.
struct Buffers<R: Real> {
    forward: DirectionBuffers<R>,
    backward: DirectionBuffers<R>,
}

struct DirectionBuffers<R: Real> {
    /// Up to the middle.
    rows: Rows<R>,
    /// Past it.
    walk: Rows<R>,
    emissions: Emissions<R>,
}

impl<R: Real> Default for Buffers<R> {
    fn default() -> Self {
        let direction = || DirectionBuffers {
            rows: Rows::default(),
            walk: Rows::default(),
            emissions: Emissions::default(),
        };
        Self {
            forward: direction(),
            backward: direction(),
        }
    }
}

fn item<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    keep: bool,
    buffers: &mut Buffers<E::Real>,
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
    let used = Classes::new(plan.target(n));
    let source = Source::new(plan, data, strides, n, &used);
    let problem = Problem {
        plan,
        n,
        source: &source,
        used: &used,
        // Items fill the threads; where there are few of them, their parts do too.
        split: plan.batch < 4 * rayon::current_num_threads(),
    };
    if !plan.is_feasible(n) {
        return without_lattice(if problem.is_poisoned() {
            f64::NAN
        } else {
            f64::INFINITY
        });
    }
    let mut kept = keep.then(|| problem.gather_all());
    let mut end = problem.run(kept.as_mut(), buffers);
    if end.found.too_far || end.found.path >= E::Real::PATH_LIMIT {
        // Log-probabilities too far apart for f32 and its exponents: the same again in f64, where
        // only those beyond its own limit count as −inf.
        end = problem.run(kept.as_mut(), &mut Buffers::<f64>::default());
    }
    if end.found.poisoned {
        return without_lattice(f64::NAN);
    }
    if end.log_p == f64::NEG_INFINITY {
        return without_lattice(f64::INFINITY);
    }
    let loss = loss_from(end.log_p, frames, plan.input, E::Real::EPSILON);
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

/// Frames whose emissions are in memory at a time.
const CHUNK: usize = 32;

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

/// Where a pass over an item ended.
struct End {
    log_p: f64,
    found: Found,
}

impl<E: Element> Problem<'_, E> {
    fn frames(&self) -> usize {
        self.plan.input_lengths[self.n]
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

    /// The whole lattice in the arithmetic of `R`. With `kept`, whose entries are then read in
    /// place of the input, the posteriors too, unless something that was found forbids it.
    fn run<R: Real>(&self, kept: Option<&mut Kept<E::Real>>, buffers: &mut Buffers<R>) -> End {
        let lattice = Lattice::<R>::new(self.frames(), self.plan.target(self.n));
        let Buffers { forward, backward } = buffers;
        let input = kept.as_deref();
        let (early, late) = both(
            self.split,
            || self.sweep(&lattice, Direction::Forward, forward, input),
            || self.sweep(&lattice, Direction::Backward, backward, input),
        );
        let found = early.and(late);
        let (log_p, top) = lattice.meet(&forward.rows, &backward.rows);
        let end = End {
            log_p: log_p + found.log_scale,
            found,
        };
        let usable = !found.poisoned && !found.too_far && found.path < R::PATH_LIMIT;
        if let (Some(kept), true) = (kept, usable && log_p > f64::NEG_INFINITY) {
            let middle = lattice.middle() * self.source.entries();
            let (early, late) = kept.entries.split_at_mut(middle);
            let (alpha, beta) = (&forward.rows, &backward.rows);
            let (alpha_walk, beta_walk) = (&mut forward.walk, &mut backward.walk);
            alpha_walk.prepare(&lattice, 0);
            alpha_walk.start_from(alpha, lattice.steps(Direction::Forward));
            beta_walk.prepare(&lattice, 0);
            beta_walk.start_from(beta, lattice.steps(Direction::Backward));
            let (f, b) = (&mut forward.emissions, &mut backward.emissions);
            both(
                self.split,
                || self.walk(&lattice, Direction::Forward, alpha_walk, beta, f, top, late),
                || {
                    self.walk(
                        &lattice,
                        Direction::Backward,
                        beta_walk,
                        alpha,
                        b,
                        top,
                        early,
                    )
                },
            );
        }
        end
    }

    /// One direction up to the middle.
    fn sweep<R: Real>(
        &self,
        lattice: &Lattice<R>,
        direction: Direction,
        buffers: &mut DirectionBuffers<R>,
        kept: Option<&Kept<E::Real>>,
    ) -> Found {
        let entries = self.source.entries();
        let steps = lattice.steps(direction);
        let DirectionBuffers {
            rows, emissions, ..
        } = buffers;
        rows.prepare(lattice, if kept.is_some() { steps } else { 0 });
        rows.start(lattice, direction);
        let mut found = Found::default();
        let mut gathered = Vec::new();
        let mut stats = Vec::new();
        for start in (0..steps).step_by(CHUNK) {
            let end = (start + CHUNK).min(steps);
            let frames = lattice.frames_of(direction, start + 1..end + 1);
            let (input, stats) = match kept {
                Some(kept) => (
                    &kept.entries[frames.start * entries..frames.end * entries],
                    kept.stats.get(frames.clone()).unwrap_or_default(),
                ),
                None => {
                    gathered.resize(frames.len() * entries, E::Real::ZERO);
                    stats.clear();
                    stats.extend(self.source.no_stats(frames.len()));
                    let (to, stats) = (&mut gathered, &mut stats);
                    self.source.gather(frames.start, to, stats, self.split);
                    (gathered.as_slice(), stats.as_slice())
                }
            };
            found = found.and(Found::normalisers(stats));
            found = found.and(emissions.convert(self.used, frames.start, input));
            lattice.sweep(direction, rows, start + 1..end + 1, emissions);
        }
        found
    }

    /// One direction past the middle: `half` holds the entries of the frames there and receives
    /// their posteriors.
    #[allow(clippy::too_many_arguments)]
    fn walk<R: Real>(
        &self,
        lattice: &Lattice<R>,
        direction: Direction,
        rows: &mut Rows<R>,
        other: &Rows<R>,
        emissions: &mut Emissions<R>,
        top: R::Exp,
        half: &mut [E::Real],
    ) {
        let entries = self.source.entries();
        let first = match direction {
            Direction::Forward => lattice.middle(),
            Direction::Backward => 0,
        };
        for start in (lattice.steps(direction)..lattice.frames).step_by(CHUNK) {
            let steps = start + 1..(start + CHUNK).min(lattice.frames) + 1;
            let frames = lattice.frames_of(direction, steps.clone());
            let places = (frames.start - first) * entries..(frames.end - first) * entries;
            let half = &mut half[places];
            // What these frames hold was found on the first pass over them.
            let _ = emissions.convert(self.used, frames.start, half);
            let write = &mut |t: usize, posterior: &[R]| {
                let place = (t - frames.start) * entries;
                for (to, from) in half[place..place + entries].iter_mut().zip(posterior) {
                    *to = E::Real::narrow(from.widen());
                }
            };
            let used = self.used;
            lattice.walk_on(direction, rows, steps, other, emissions, top, used, write);
        }
    }
}
