//! Scores, aligns and decodes the output of a CTC model from the command line.
//!
//! ```text
//! cargo run --release --example ctc -- demo --out demo
//! cargo run --release --example ctc -- align demo/emissions.npy --vocab demo/vocab.json \
//!     "the quick brown fox" --svg demo/lattice.svg
//! ```

mod program;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match program::run(&program::Cli::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
