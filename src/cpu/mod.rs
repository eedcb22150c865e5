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

use crate::plan::{Plan, Strides};
use emission::{Emissions, RowStats, Source};
use lattice::{Direction, Lattice, Rows};
use rayon::prelude::*;

/// What the backward pass needs of the forward pass.
pub(crate) struct Saved<R> {
    items: Vec<SavedItem<R>>,
}

struct SavedItem<R> {
    loss: f64,
    /// `(T_n, U_n + 1)`: the posterior of each label's state, then of all blanks together. Empty
    /// when the loss is not finite.
    posterior: Vec<R>,
    /// `T_n` entries for logits; none for log-probabilities, and none when the loss is not
    /// finite.
    stats: Vec<RowStats<R>>,
}

/// The loss of each item, in nats, and what the backward pass needs when `keep` is set.
pub(crate) fn forward<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    keep: bool,
) -> (Vec<E::Real>, Option<Saved<E::Real>>) {
    let items: Vec<SavedItem<E::Real>> = (0..plan.batch)
        .into_par_iter()
        .map_init(Buffers::<E::Real>::default, |buffers, n| {
            item(plan, data, strides, n, keep, buffers)
        })
        .collect();
    let losses = items
        .iter()
        .map(|item| E::Real::narrow(item.loss))
        .collect();
    (losses, keep.then_some(Saved { items }))
}

/// Working memory of one task, kept from item to item.
struct Buffers<R: Real> {
    alpha: Rows<R>,
    beta: Rows<R>,
    alpha_walk: Rows<R>,
    beta_walk: Rows<R>,
    emissions: Emissions<R>,
    late_emissions: Emissions<R>,
}

impl<R: Real> Default for Buffers<R> {
    fn default() -> Self {
        Self {
            alpha: Rows::default(),
            beta: Rows::default(),
            alpha_walk: Rows::default(),
            beta_walk: Rows::default(),
            emissions: Emissions::default(),
            late_emissions: Emissions::default(),
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
        posterior: Vec::new(),
        stats: Vec::new(),
    };
    if frames == 0 {
        return without_lattice(if plan.target_length(n) == 0 {
            0.0
        } else {
            f64::INFINITY
        });
    }
    let source = Source::new(plan, data, strides, n);
    let mut attempt = run(plan, n, &source, keep, buffers);
    if attempt.path >= E::Real::PATH_LIMIT && !attempt.poisoned {
        // Log-probabilities too large for the exponents of f32: the same again in f64.
        attempt = run(plan, n, &source, keep, &mut Buffers::<f64>::default());
    }
    if attempt.poisoned {
        return without_lattice(f64::NAN);
    }
    if !plan.is_feasible(n) || attempt.log_p == f64::NEG_INFINITY {
        return without_lattice(f64::INFINITY);
    }
    SavedItem {
        loss: loss_from(attempt.log_p, frames, plan.input, E::Real::EPSILON),
        posterior: attempt.posterior,
        stats: attempt.stats,
    }
}

/// `−ln P`. A probability that rounding alone lifted above 1 is 1: a loss is not below 0 unless
/// the input says so.
fn loss_from(log_p: f64, frames: usize, kind: crate::plan::InputKind, epsilon: f64) -> f64 {
    let rounding = match kind {
        crate::plan::InputKind::Logits => f64::INFINITY,
        crate::plan::InputKind::LogProbs => 2.0 * epsilon * frames as f64,
    };
    if log_p > 0.0 && log_p <= rounding {
        0.0
    } else {
        // 0 − x, so that ln 1 gives 0 and not −0.
        0.0 - log_p
    }
}

/// What a pass over one item found.
struct Attempt<S> {
    log_p: f64,
    /// See [`Emissions::path`].
    path: f64,
    poisoned: bool,
    posterior: Vec<S>,
    stats: Vec<RowStats<S>>,
}

/// Frames that are converted at a time when nothing is kept.
const CHUNK: usize = 64;

/// One item in the arithmetic of `R`.
fn run<E: Element, R: Real>(
    plan: &Plan,
    n: usize,
    source: &Source<E>,
    keep: bool,
    buffers: &mut Buffers<R>,
) -> Attempt<E::Real> {
    let frames = plan.input_lengths[n];
    let lattice = Lattice::<R>::new(frames, plan.target(n));
    let Buffers {
        alpha,
        beta,
        alpha_walk,
        beta_walk,
        emissions,
        late_emissions,
    } = buffers;
    emissions.reset();
    late_emissions.reset();
    let middle = lattice.middle();
    let (forward, backward) = (middle, frames - middle);
    if keep {
        emissions.convert(source, 0..frames);
    }
    // An item with too few frames has no lattice, but its entries are looked at like any other's.
    let feasible = plan.is_feasible(n);
    if !feasible {
        if !keep {
            for start in (0..frames).step_by(CHUNK) {
                emissions.convert(source, start..(start + CHUNK).min(frames));
            }
        }
        return Attempt {
            log_p: f64::NEG_INFINITY,
            path: 0.0,
            poisoned: emissions.poisoned,
            posterior: Vec::new(),
            stats: Vec::new(),
        };
    }
    alpha.prepare(&lattice, if keep { forward } else { 0 });
    beta.prepare(&lattice, if keep { backward } else { 0 });
    alpha.start(&lattice, Direction::Forward);
    beta.start(&lattice, Direction::Backward);
    if keep {
        let emissions = &*emissions;
        rayon::join(
            || lattice.sweep(Direction::Forward, alpha, 1..forward + 1, emissions),
            || lattice.sweep(Direction::Backward, beta, 1..backward + 1, emissions),
        );
    } else {
        rayon::join(
            || {
                for start in (0..forward).step_by(CHUNK) {
                    let end = (start + CHUNK).min(forward);
                    emissions.convert(source, start..end);
                    lattice.sweep(Direction::Forward, alpha, start + 1..end + 1, emissions);
                }
            },
            || {
                for start in (0..backward).step_by(CHUNK) {
                    let end = (start + CHUNK).min(backward);
                    late_emissions.convert(source, frames - end..frames - start);
                    lattice.sweep(
                        Direction::Backward,
                        beta,
                        start + 1..end + 1,
                        late_emissions,
                    );
                }
            },
        );
    }
    let (log_p, top) = lattice.meet(alpha, beta);
    let mut attempt = Attempt {
        log_p: log_p + emissions.log_scale + late_emissions.log_scale,
        path: emissions.path + late_emissions.path,
        poisoned: emissions.poisoned || late_emissions.poisoned,
        posterior: Vec::new(),
        stats: Vec::new(),
    };
    if !keep || log_p == f64::NEG_INFINITY || attempt.poisoned {
        return attempt;
    }
    let width = lattice.posterior_width();
    attempt.posterior = vec![E::Real::ZERO; frames * width];
    let (early, late) = attempt.posterior.split_at_mut(middle * width);
    let put = |half: &mut [E::Real], t: usize, posterior: &[R]| {
        for (to, from) in half[t * width..(t + 1) * width].iter_mut().zip(posterior) {
            *to = E::Real::narrow(from.widen());
        }
    };
    alpha_walk.prepare(&lattice, 0);
    beta_walk.prepare(&lattice, 0);
    alpha_walk.start_from(alpha, forward);
    beta_walk.start_from(beta, backward);
    let (alpha, beta, emissions) = (&*alpha, &*beta, &*emissions);
    rayon::join(
        || {
            let late = &mut |t, posterior: &[R]| put(late, t - middle, posterior);
            lattice.walk_on(Direction::Forward, alpha_walk, beta, emissions, top, late);
        },
        || {
            let early = &mut |t, posterior: &[R]| put(early, t, posterior);
            lattice.walk_on(Direction::Backward, beta_walk, alpha, emissions, top, early);
        },
    );
    if plan.input == crate::plan::InputKind::Logits {
        let narrow = |stats: &RowStats<R>| RowStats {
            maximum: E::Real::narrow(stats.maximum.widen()),
            sum: stats.sum,
        };
        attempt.stats = emissions.stats.iter().map(narrow).collect();
    }
    attempt
}
