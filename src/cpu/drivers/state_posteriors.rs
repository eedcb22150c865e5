//! The posteriors of the states of a target, for inspection: frame by frame, or summarised for each token.

use crate::cpu::drivers::item::{Buffers, Problem, each_item};
use crate::cpu::lattice::scaled::{StatePosteriors, TokenSums};
use crate::cpu::simd::real::{Element, Real};
use crate::memory::{OutOfMemory, zeroed};
use crate::problem::labels::Classes;
use crate::problem::plan::{Plan, Strides};
use candle_core::Result;

pub(crate) use crate::cpu::lattice::scaled::TokenOccupancy;

/// The occupancy of the tokens of a transcript.
pub(crate) struct Occupancy {
    /// `ln P`.
    pub log_p: f64,
    /// One element per label. Empty if `P` is 0 or NaN.
    pub tokens: Vec<TokenOccupancy>,
}

/// The occupancy of each item.
pub(crate) fn occupancy<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
) -> Result<Vec<Occupancy>> {
    each_item(plan, |n, split, buffers: &mut Buffers<E>| {
        let used = Classes::new(plan.target(n));
        let mut problem = Problem::new(plan, data, strides, n, &used, split);
        problem.source.kept = true;
        if !problem.has_lattice() {
            return Ok(Occupancy {
                log_p: -problem.loss_without_lattice(),
                tokens: Vec::new(),
            });
        }
        let mut kept = problem.source.room()?;
        kept.log_scales = zeroed(plan.input_lengths[n])?;
        let (mut early, mut late) = (TokenSums::default(), TokenSums::default());
        let (loss, kept) = problem.solve(buffers, kept, &mut early, &mut late)?;
        let tokens = match kept {
            None => Vec::new(),
            Some(_) => (0..plan.target_length(n))
                .map(|i| early.token(i).and(late.token(i)))
                .collect(),
        };
        Ok(Occupancy {
            log_p: -loss,
            tokens,
        })
    })
}

/// For each item, the posterior of every state at every frame, `(T_n, 2 U_n + 1)`; all zero if `P` is 0, all NaN if `P`
/// is undefined.
pub(crate) fn state_posteriors<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
) -> Result<Vec<Vec<E::Real>>> {
    each_item(plan, |n, split, buffers: &mut Buffers<E>| {
        let used = Classes::new(plan.target(n));
        let mut problem = Problem::new(plan, data, strides, n, &used, split);
        problem.source.kept = true;
        let (frames, states) = (plan.input_lengths[n], 2 * plan.target_length(n) + 1);
        let count = frames
            .checked_mul(states)
            .ok_or(OutOfMemory { bytes: usize::MAX })?;
        let mut posteriors: Vec<E::Real> = zeroed(count)?;
        let loss = if problem.has_lattice() {
            let kept = problem.source.room()?;
            let middle = problem.source.blocks().middle();
            let (early, late) = posteriors.split_at_mut(middle * states);
            let (mut early, mut late) = (
                StatePosteriors {
                    to: early,
                    first: 0,
                },
                StatePosteriors {
                    to: late,
                    first: middle,
                },
            );
            problem.solve(buffers, kept, &mut early, &mut late)?.0
        } else {
            problem.loss_without_lattice()
        };
        if loss.is_nan() {
            posteriors.fill(E::Real::narrow(f64::NAN));
        }
        Ok(posteriors)
    })
}
