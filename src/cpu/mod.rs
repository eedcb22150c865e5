//! The CPU backend: one job per item, vector code within it.
//!
//! [`forward`] computes the losses and, if a gradient is wanted, the posteriors of the labels and of the blank in each
//! frame, which are all that [`gradient`](fn@gradient) needs.

mod drivers;
mod emissions;
mod gradient;
mod lattice;
mod nbest_gradient;
mod simd;
mod threads;
mod time;

pub(crate) use drivers::candidates::score;
pub(crate) use drivers::nbest::solve_list;
pub(crate) use drivers::state_posteriors::{Occupancy, occupancy, state_posteriors};
pub(crate) use emissions::log_sums::log_sums;
pub(crate) use gradient::{Saved, gradient};
pub(crate) use lattice::scaled::PAIRS;
pub(crate) use lattice::viterbi::{MOST_OMITTED, NoPath, Omissions, Path, Wildcards, viterbi};
pub(crate) use nbest_gradient::{SavedList, list_gradient};
pub use simd::isa::Isa;
pub(crate) use simd::real::{Element, Real};
pub(crate) use time::BLOCK_FRAMES;

use crate::problem::plan::Plan;
use candle_core::Result;
use drivers::item::{Buffers, each_item, item};
pub(crate) use emissions::gather::LossInput;
use gradient::Losses;
use lattice::scaled::INTERLEAVED;

/// The loss of each item and, if `keep` is set, the data for the backward pass.
pub(crate) fn forward<E: Element>(
    plan: &Plan,
    input: LossInput<E>,
    keep: bool,
) -> Result<Losses<E::Real>> {
    // With posteriors, single items are better: an item stays in the cache from one pass over it to the next.
    if !keep && plan.input.batch >= INTERLEAVED * rayon::current_num_threads() {
        return Ok((drivers::batch::losses(plan, input)?, None));
    }
    let items = each_item(plan, |n, split, buffers: &mut Buffers<E>| {
        item(plan, input, n, keep, split, buffers)
    })?;
    let losses = items.iter().map(|item| item.loss).collect();
    Ok((losses, keep.then_some(Saved { items })))
}
