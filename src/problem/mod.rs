//! From the arguments of a public function to a checked problem.
//!
//! [`validate`] is the entry point: it accepts lengths in any form ([`lengths`]), reads tensors of integers, also from
//! a GPU ([`integers`]), and makes a [`plan`], in which everything is in range. [`labels`] numbers the classes that a
//! target uses; [`weights`] are what a loss adds to log-probabilities.

pub(crate) mod integers;
pub(crate) mod labels;
pub(crate) mod lengths;
pub(crate) mod plan;
pub(crate) mod validate;
pub(crate) mod weights;
