//! Scores, aligns and decodes the output of a CTC model from the command line.
//!
//! ```text
//! cargo install candle-ctc --features cli
//! ctc demo --out demo
//! ctc align demo/emissions.npy --vocab demo/vocab.json "the quick brown fox" --svg demo/lattice.svg
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
