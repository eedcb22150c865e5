//! The ways to compute on the CPU: one item, an interleaved batch of losses, many candidates of one utterance, with
//! posteriors or without, state posteriors.

pub(crate) mod batch;
pub(crate) mod candidates;
pub(crate) mod item;
pub(crate) mod nbest;
pub(crate) mod state_posteriors;
