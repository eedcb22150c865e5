//! From the input to the emissions that a lattice reads.

pub(crate) mod far_apart;
pub(crate) mod gather;
pub(crate) mod log_sums;
pub(crate) mod softmax;
pub(crate) mod table;

/// An entry that an item uses is NaN or +inf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Poisoned;
