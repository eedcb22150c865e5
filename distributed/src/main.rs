//! Data-parallel training: many processes that give the loss curve of one. See `distributed/README.md`.

mod data;
#[path = "../../examples/ocr/optimisation.rs"]
mod optimisation;
mod processes;
mod training;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use crate::processes::Processes;
use crate::training::TrainConfig;

/// Train a small model on synthetic utterances; each process computes its share of every batch.
#[derive(Parser)]
struct Args {
    /// Utterances of the training set. The last batch of an epoch is smaller if the batch size does not divide them
    #[arg(long, default_value = "25")]
    utterances: NonZeroUsize,

    #[command(flatten)]
    config: TrainConfig,

    /// Write the loss of each step to this file
    #[arg(long)]
    losses: Option<PathBuf>,

    /// Fail unless each loss is within 1e-4 of that in this file, as `--losses` wrote it
    #[arg(long)]
    check: Option<PathBuf>,
}

fn main() {
    let args = Args::parse();
    // candle and candle-ctc compute in threads of their own; only this one calls MPI.
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        eprintln!("MPI has been started already");
        std::process::exit(1);
    };
    let world = universe.world();
    end_all_on_panic();
    if let Err(error) = run(&args, &world) {
        eprintln!("process {} of {}: {error:#}", world.rank(), world.size());
        // To return would wait here, in MPI's finalisation, for processes that wait for this one in a sum.
        world.abort(1);
    }
}

/// Has a panic end all processes: unwinding would finalise MPI, and wait there for ever.
fn end_all_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        SimpleCommunicator::world().abort(101);
    }));
}

fn run(args: &Args, world: &SimpleCommunicator) -> Result<()> {
    let processes = Processes::new(world.duplicate())?;
    let (rank, count) = (processes.rank(), processes.count());
    let location = processes.device().location();
    println!(
        "process {rank} of {count}: PID {}, {location:?}",
        std::process::id()
    );
    let utterances = data::utterances(args.utterances.get(), args.config.seed);
    // One process speaks for all, whose losses are the same.
    if rank > 0 {
        training::train(&utterances, &args.config, &processes, |_, _| ())?;
        return Ok(());
    }
    let expected = args.check.as_deref().map(read).transpose()?;
    let losses = training::train(&utterances, &args.config, &processes, |step, loss| {
        println!("step {step:3}  loss {loss:8.5} per label");
    })?;
    if let Some(path) = &args.losses {
        write(path, &losses)?;
    }
    match expected {
        Some(expected) => compare(&losses, &expected),
        None => Ok(()),
    }
}

/// Writes a loss a line.
fn write(path: &Path, losses: &[f64]) -> Result<()> {
    let lines: String = losses.iter().map(|loss| format!("{loss}\n")).collect();
    std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<f64>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let loss = |line: &str| {
        line.parse()
            .with_context(|| format!("{line:?} in {} is no loss", path.display()))
    };
    text.lines().map(loss).collect()
}

/// Fails unless the losses are the expected ones, to 1e-4.
fn compare(losses: &[f64], expected: &[f64]) -> Result<()> {
    let (steps, others) = (losses.len(), expected.len());
    ensure!(
        steps == others,
        "{steps} losses to compare with {others}: give --steps {others}"
    );
    let mut largest = 0f64;
    for (step, (loss, expected)) in losses.iter().zip(expected).enumerate() {
        let difference = (loss - expected).abs();
        ensure!(
            difference <= 1e-4,
            "the loss of step {} is {loss}, and {expected} was expected",
            step + 1
        );
        largest = largest.max(difference);
    }
    println!("{steps} losses differ from the expected ones by at most {largest:.1e}");
    Ok(())
}
