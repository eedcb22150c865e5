//! Instruction sets, and arithmetic that is bit-identical on all of them.

pub(crate) mod f64x8;
pub(crate) mod isa;
pub(crate) mod lanes;
pub(crate) mod nontemporal;
pub(crate) mod power;
pub(crate) mod prefetch;
pub(crate) mod real;
pub(crate) mod shift;
pub(crate) mod transpose;
