//! Most tests of the crate, as one program: candle is linked once. `cargo test --test it kernels::` runs one file.
//!
//! Tests that set the state of the process, such as its instruction set or its allocator, are programs of their own
//! beside this folder.

#[path = "../common/mod.rs"]
mod common;

mod accuracy;
mod align;
mod autograd;
mod batches;
mod boundaries;
mod checks;
mod cli;
mod convolution;
mod decode;
mod determinism;
mod device;
mod edges;
mod emissions;
mod errors;
mod faults;
mod forms;
mod frame_confidence;
mod golden;
mod gradient;
mod hostile;
mod hotwords;
mod inference;
mod kernels;
mod keywords;
mod label_prior;
mod lengths;
mod lexicon;
mod likelihoods;
mod linear;
mod long_targets;
mod minimum_bayes_risk;
mod ngram;
mod omissions;
mod oracle;
mod prefix;
mod properties;
mod score;
mod star;
mod text;
mod training;
mod utterances;
mod views;
