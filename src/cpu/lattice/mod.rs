//! The recursions over frames and states.

use crate::cpu::emissions::Poisoned;
use crate::memory::OutOfMemory;

pub(crate) mod scaled;
pub(crate) mod viterbi;

/// Why the computation of an item stopped early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Poisoned,
    OutOfMemory(OutOfMemory),
}

impl From<Poisoned> for Stop {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

impl From<OutOfMemory> for Stop {
    fn from(out: OutOfMemory) -> Self {
        Self::OutOfMemory(out)
    }
}
