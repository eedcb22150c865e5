//! The program behind its command line, apart from `main`, so that tests can run it.

mod align;
mod alignment;
mod batch;
mod cli;
mod confidence;
mod decode;
mod demo;
mod errors;
mod input;
mod knowledge;
mod manifest;
mod ngram;
mod output;
mod picture;
mod score;
mod spelling;
mod spot;
mod tune;
mod words;

pub use batch::Console;
pub use cli::Cli;

use anyhow::{Context, Result};
use cli::Command;
use std::path::Path;

/// Runs a command and prints its results. Returns how many files failed; their errors are printed, too.
pub fn run(cli: &Cli, console: &mut Console) -> Result<usize> {
    match &cli.command {
        Command::Score(args) => score::run(args, console),
        Command::Align(args) => align::run(args, console),
        Command::Words(args) => words::run(args, console),
        Command::Decode(args) => decode::run(args, console),
        Command::Tune(args) => tune::run(args, console),
        Command::Spot(args) => spot::run(args, console),
        Command::Ngram(args) => ngram::run(args, console),
        Command::Demo(args) => {
            demo::write(&args.out, &args.text)?;
            writeln!(
                console.out,
                "wrote emissions.npy, vocab.json and transcript.txt to {}",
                args.out.display()
            )?;
            Ok(0)
        }
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}
