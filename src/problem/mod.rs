//! From the arguments of a public function to a checked problem.
//!
//! [`validate`] leads: it takes lengths in any form ([`lengths`]), reads tensors of integers, from a GPU too
//! ([`integers`]), and makes a [`plan`], in which nothing is out of range. [`labels`] numbers the classes that a target
//! uses.

pub(crate) mod integers;
pub(crate) mod labels;
pub(crate) mod lengths;
pub(crate) mod plan;
pub(crate) mod validate;
