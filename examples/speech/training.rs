//! The training loop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use candle_ctc::{CtcLoss, CtcLossOptions, Feasibility, Reduction};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::corpus::{Batch, Utterance, shuffled_batches};
use crate::model::{DEVIATION, MEAN, Model, statistics};
use crate::optimisation::{clip, learning_rate, sorted};

/// How to train.
pub struct TrainConfig {
    pub steps: usize,
    pub batch_size: usize,
    /// The learning rate at the end of the warm-up.
    pub learning_rate: f64,
    pub seed: u64,
    /// Whether to change the features at random.
    pub disturbed: bool,
    /// Steps between two reports.
    pub report_every: usize,
}

/// What a report is about.
pub struct Progress {
    pub step: usize,
    /// Mean loss since the report before.
    pub loss: f64,
}

/// What came of the training.
pub struct Trained {
    /// The loss of every step.
    pub losses: Vec<f64>,
    /// The time of all steps, without reports.
    pub time: Duration,
    /// The part of it that the loss and its gradient took, in the steps where that was measured.
    pub share_of_loss: f64,
}

/// Draws the initial weights, and takes the statistics of the features from the training data.
///
/// candle-nn has already given every weight an initial value, but candle's random numbers on the CPU cannot be seeded.
pub fn init_weights(weights: &VarMap, train: &[Utterance], rng: &mut impl Rng) -> Result<()> {
    let (mean, deviation) = statistics(train);
    for (name, var) in sorted(weights)? {
        let values: Vec<f32> = match (name.as_str(), var.dims()) {
            (MEAN, _) => mean.clone(),
            (DEVIATION, _) => deviation.clone(),
            // The weights of the norms are 1 and the biases 0, as they are.
            (_, [_]) => continue,
            (_, dims) => {
                let inputs: usize = dims[1..].iter().product();
                let bound = (3.0 / inputs as f64).sqrt();
                (0..var.elem_count())
                    .map(|_| (rng.random_range(-1.0..1.0) * bound) as f32)
                    .collect()
            }
        };
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Fails if a text has too many characters for its frames: its loss would be infinite.
pub fn check_feasible(utterances: &[Utterance]) -> Result<()> {
    let frames: Vec<usize> = utterances.iter().map(Utterance::frames).collect();
    let frames = Model::output_frames(&frames)?;
    for (utterance, frames) in utterances.iter().zip(frames) {
        let item = Feasibility::of(&utterance.labels, frames);
        ensure!(
            item.feasible,
            "{:?} needs {} frames and has {}; a smaller stride of the model gives more",
            utterance.text,
            item.frames_needed,
            item.frames
        );
    }
    Ok(())
}

/// Trains the model.
pub fn train(
    model: &Model,
    weights: &VarMap,
    utterances: &[Utterance],
    config: &TrainConfig,
    mut report: impl FnMut(Progress) -> Result<()>,
) -> Result<Trained> {
    check_feasible(utterances)?;
    let vars: Vec<Var> = sorted(weights)?
        .into_iter()
        .filter(|(name, _)| ![MEAN, DEVIATION].contains(&name.as_str()))
        .map(|(_, var)| var)
        .collect();
    let params = ParamsAdamW {
        weight_decay: 0.01,
        beta2: 0.98,
        ..Default::default()
    };
    let mut optimizer = AdamW::new(vars.clone(), params)?;
    let criterion = CtcLoss::new(CtcLossOptions {
        reduction: Reduction::Mean,
        ..CtcLossOptions::batch_major()
    })
    .require_grad(true);
    let bar = ProgressBar::new(config.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps, {eta} left, loss {msg}",
    )?);

    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut batches = VecDeque::new();
    let mut losses = Vec::with_capacity(config.steps);
    let mut reported = 0;
    let mut time = Duration::ZERO;
    let mut measured = (Duration::ZERO, Duration::ZERO);
    for step in 0..config.steps {
        let start = Instant::now();
        if batches.is_empty() {
            batches.extend(shuffled_batches(utterances, config.batch_size, &mut rng));
        }
        let batch = batches
            .pop_front()
            .context("there is nothing to train with")?;
        let items: Vec<&Utterance> = batch.iter().map(|&index| &utterances[index]).collect();
        let batch = Batch::new(&items, config.disturbed, &mut rng)?;
        let output = model.forward(&batch.features)?;
        let loss_of = |logits: &Tensor| {
            criterion.forward_with_logits(
                logits,
                &batch.targets,
                &output.frames,
                &batch.target_lengths,
            )
        };
        let loss = loss_of(&output.logits)?;
        let mut grads = loss.backward()?;
        clip(&mut grads, &vars, 5.0)?;
        optimizer.set_learning_rate(learning_rate(
            step,
            config.steps,
            (config.steps / 10).clamp(1, 100),
            config.learning_rate,
        ));
        optimizer.step(&grads)?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        ensure!(loss.is_finite(), "the loss is {loss} at step {}", step + 1);
        let step_time = start.elapsed();
        time += step_time;

        // The loss and its gradient alone, now and then: the step does not tell which part of its time they took.
        if step % 20 == 10 {
            let logits = Var::from_tensor(&output.logits.detach())?;
            let start = Instant::now();
            loss_of(&logits)?.backward()?;
            measured.0 += start.elapsed();
            measured.1 += step_time;
        }
        losses.push(loss);
        bar.set_message(format!("{loss:.3}"));
        bar.inc(1);
        if losses.len() % config.report_every == 0 || losses.len() == config.steps {
            let recent = &losses[reported..];
            let loss = recent.iter().sum::<f64>() / recent.len() as f64;
            reported = losses.len();
            bar.suspend(|| {
                report(Progress {
                    step: step + 1,
                    loss,
                })
            })?;
        }
    }
    bar.finish_and_clear();
    Ok(Trained {
        losses,
        time,
        share_of_loss: measured.0.as_secs_f64() / measured.1.as_secs_f64(),
    })
}
