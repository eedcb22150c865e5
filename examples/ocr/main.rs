//! Learns to read lines of printed text with the CTC loss.
//!
//! Run it with `cargo run --release --example ocr`. See `examples/ocr/README.md`.

mod data;
mod language;
mod model;
mod optimisation;
mod reading;
mod render;
mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::data::{Batch, Line, Lines, Split};
use crate::model::{Crnn, CrnnConfig};
use crate::training::{Progress, TrainConfig};

/// Learn to read lines of printed text, drawn at random in a dozen typefaces.
#[derive(Parser, Debug)]
struct Args {
    /// Number of training steps [default: 1200, or 60 with --smoke]
    #[arg(long)]
    steps: Option<usize>,

    /// Where to compute
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,

    /// Decides the lines, the initial weights, everything but how the processor rounds
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Lines per training step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,

    /// Highest learning rate
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,

    /// Folder for the weights and for the image of the line shown at the end
    #[arg(long, default_value = "target/ocr")]
    out: PathBuf,

    /// Start from the weights in this file, as an earlier run saved them
    #[arg(long)]
    weights: Option<PathBuf>,

    /// A short run that only checks that the loss falls, and fails if it does not
    #[arg(long)]
    smoke: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
    Metal,
}

impl Place {
    fn device(self) -> Result<Device> {
        match self {
            Place::Cpu => Ok(Device::Cpu),
            Place::Cuda => Device::new_cuda(0)
                .context("cannot use CUDA; was this built with `--features cuda`?"),
            Place::Metal => Device::new_metal(0)
                .context("cannot use Metal; was this built with `--features metal`?"),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batch_size > 0, "--batch-size must be at least 1");
    let steps = args.steps.unwrap_or(if args.smoke { 60 } else { 1200 });
    let (watched, final_count) = if args.smoke { (32, 32) } else { (128, 512) };
    let device = args.device.device()?;
    // Find out now, not after the training, whether the results can be saved.
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create the folder {}", args.out.display()))?;

    // The model.
    let config = CrnnConfig {
        height: render::HEIGHT as usize,
        channels: [16, 32, 48],
        frame: 64,
        hidden: 64,
        classes: data::num_classes(),
    };
    let mut weights = VarMap::new();
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &device);
    let model = Crnn::new(vb, &config).context("cannot build the model")?;
    match &args.weights {
        None => training::init_weights(&weights, &mut ChaCha8Rng::seed_from_u64(args.seed))?,
        Some(path) => weights
            .load(path)
            .with_context(|| format!("cannot load the weights {}", path.display()))?,
    }
    let parameters: usize = weights.all_vars().iter().map(|v| v.elem_count()).sum();
    println!(
        "{parameters} weights; {steps} steps of {} lines",
        args.batch_size
    );

    // Train, and read held-out lines now and then.
    let train_lines = Lines::new(args.seed, Split::Train)?;
    let held_out = Lines::new(args.seed, Split::HeldOut)?;
    let config = TrainConfig {
        steps,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        report_every: 100,
    };
    let started = Instant::now();
    let losses = training::train(
        &model,
        &weights,
        &train_lines,
        &config,
        |Progress { step, loss }| {
            let errors = reading::evaluate(&model, &held_out, watched, &device)?;
            println!(
                "step {step:5}  {:4.0} s  loss {loss:6.3}  held-out character error rate {:6.2} %",
                started.elapsed().as_secs_f64(),
                100.0 * errors.rate(),
            );
            Ok(())
        },
    )?;
    println!("trained in {:.0} s", started.elapsed().as_secs_f64());
    let path = args.out.join("model.safetensors");
    weights
        .save(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("weights saved to {}", path.display());

    // How good is it now?
    let errors = reading::evaluate(&model, &held_out, final_count, &device)?;
    println!(
        "{} held-out lines: character error rate {:.2} % ({} edits for {} characters), \
         {} lines without a mistake",
        errors.lines,
        100.0 * errors.rate(),
        errors.edits,
        errors.characters,
        errors.lines - errors.wrong_lines,
    );
    println!("\nThe same lines with a beam search that knows of the language:\n");
    for reading in language::readings(&model, &train_lines, &held_out, final_count, &device)? {
        println!(
            "  character error rate {:.2} % ({} edits), {} of {} new words read: {}",
            100.0 * reading.errors.rate(),
            reading.errors.edits,
            reading.right,
            reading.new_words,
            reading.knowledge,
        );
    }
    show(
        &model,
        &held_out.line(0)?,
        &args.out.join("line.png"),
        &device,
    )?;
    if args.smoke {
        check_fall(&losses)?;
    }
    Ok(())
}

/// Shows one line, what the model reads there, and how likely it finds other readings.
fn show(model: &Crnn, line: &Line, path: &Path, device: &Device) -> Result<()> {
    line.image
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nThe first held-out line, saved to {}:\n", path.display());
    println!("{}", reading::to_blocks(&line.image)?);

    let batch = Batch::new(std::slice::from_ref(line), device)?;
    let scores = model.forward(&batch.images)?;
    let read = reading::read(&scores, &[Crnn::frames(batch.widths[0])])?;
    println!(
        "Read as {:?}. The probability of some transcripts:\n",
        read.concat()
    );
    let mut transcripts = reading::near_misses(&line.text);
    transcripts.push(line.text.clone());
    for (text, probability) in reading::rank(&scores, &transcripts)? {
        let mark = if text == line.text {
            "  <- the true one"
        } else {
            ""
        };
        println!("  {probability:9.2e}  {text:?}{mark}");
    }
    Ok(())
}

/// Fails unless the loss ended clearly below where it started.
fn check_fall(losses: &[f64]) -> Result<()> {
    const WINDOW: usize = 5;
    ensure!(
        losses.len() >= 2 * WINDOW,
        "too few steps to tell whether the loss falls"
    );
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let first = mean(&losses[..WINDOW]);
    let last = mean(&losses[losses.len() - WINDOW..]);
    println!("\nloss: {first:.3} over the first {WINDOW} steps, {last:.3} over the last");
    ensure!(last < 0.8 * first, "the loss did not fall by a fifth");
    Ok(())
}
