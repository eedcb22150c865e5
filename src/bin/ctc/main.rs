//! Scores, aligns and decodes the output of a CTC model from the command line.
//!
//! ```text
//! cargo install --path . --features cli
//! ctc demo --out demo
//! ctc align demo/emissions.npy --vocab demo/vocab.json "the quick brown fox" --svg demo/lattice.svg
//! ```

mod program;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = program::Cli::parse();
    let mut console = program::Console {
        out: &mut std::io::stdout().lock(),
        err: &mut std::io::stderr(),
        progress: std::io::stderr().is_terminal(),
    };
    match program::run(&cli, &mut console) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
