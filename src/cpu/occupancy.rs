//! The posterior of each state in each frame, for looking at: in f64 for all dtypes, each row kept.

use super::emission::Source;
use super::forward;
use super::real::Element;
use super::runs::{Backward, Direction, Forward};
use super::wide::{Emissions, Lattice, Rows, ZERO_BELOW, ZERO_EXP};
use crate::classes::Classes;
use crate::plan::{Plan, Strides};
use rayon::prelude::*;
use std::f64::consts::LN_2;

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
    let (losses, _) = forward(plan, data, strides, false);
    let items = losses.into_par_iter().enumerate().map(|(n, loss)| {
        let mut occupancy = Occupancy {
            log_p: -loss,
            labels: Vec::new(),
            probabilities: Vec::new(),
        };
        let labels = plan.target_length(n);
        if loss.is_finite() && labels > 0 {
            let (posterior, emissions) = states(plan, data, strides, n);
            let frames = posterior.chunks_exact(2 * labels + 1);
            occupancy.labels = frames
                .flat_map(|frame| frame.iter().skip(1).step_by(2).copied())
                .collect();
            for t in 0..plan.input_lengths[n] {
                // Entries are relative to the largest of their frame.
                let scale = emissions.scales[t];
                let y = emissions.frame(t);
                let entries = y.labels_m.iter().zip(y.labels_e).take(labels);
                let probabilities = entries.map(|(&m, &e)| m * (e * LN_2 + scale).exp());
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
    states(plan, data, strides, n).0
}

/// The same, and the emissions that it came from.
fn states<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
) -> (Vec<f64>, Emissions) {
    let (frames, labels) = (plan.input_lengths[n], plan.target_length(n));
    let states = 2 * labels + 1;
    let mut posterior = vec![0.0; frames * states];
    let mut emissions = Emissions::default();
    if frames == 0 {
        return (posterior, emissions);
    }
    let used = Classes::new(plan.target(n));
    let source = Source::new(plan, data, strides, n, &used.distinct);
    if emissions.read(&source, &used).poisoned {
        posterior.fill(f64::NAN);
        return (posterior, emissions);
    }
    if !plan.is_feasible(n) {
        return (posterior, emissions);
    }
    let lattice = Lattice::new(frames, plan.target(n));
    let (mut alpha, mut beta) = (Rows::default(), Rows::default());
    all_rows::<Forward>(&lattice, &mut alpha, &emissions);
    all_rows::<Backward>(&lattice, &mut beta, &emissions);
    for (t, out) in posterior.chunks_exact_mut(states).enumerate() {
        // Both rows hold the emission of frame t: it is divided out once.
        let (alpha, beta) = (alpha.row(t + 1), beta.row(frames - t));
        let y = emissions.frame(t);
        let mut exponents = vec![ZERO_EXP; states];
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
        let top = exponents.iter().copied().fold(ZERO_EXP, f64::max);
        if top <= ZERO_BELOW {
            out.fill(0.0);
            continue;
        }
        for (x, e) in out.iter_mut().zip(exponents) {
            *x *= f64::exp2(e - top);
        }
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|x| *x /= sum);
    }
    (posterior, emissions)
}

/// One direction through all frames, each row kept.
fn all_rows<D: Direction>(lattice: &Lattice, rows: &mut Rows, emissions: &Emissions) {
    rows.prepare(lattice, lattice.frames);
    rows.start::<D>(lattice);
    lattice.sweep::<D>(rows, 1..lattice.frames + 1, emissions);
}
