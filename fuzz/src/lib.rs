//! What the targets share: arguments from the bytes that libFuzzer mutates, and the truth to compare with, which is
//! that of the tests: nothing of it calls the crate's arithmetic.

#[path = "../../tests/common/mod.rs"]
pub mod common;

pub mod best_path;
pub mod edits;
pub mod files;
pub mod knowledge;
pub mod label_prior;
pub mod measures;
pub mod models;
pub mod outputs;
pub mod ranking;
pub mod segments;
mod source;
mod truth;
pub mod witten_bell;

pub use source::{Emissions, Source};
pub use truth::{Item, posterior_gradient};
