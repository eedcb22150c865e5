//! The training loop.

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use candle_ctc::{CtcLossOptions, ctc_loss_with_logits};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;

use crate::data::{BLANK, Batch, Lines};
use crate::model::Crnn;
use crate::optimisation::{clip, learning_rate, sorted};

/// How to train.
pub struct TrainConfig {
    pub steps: usize,
    pub batch_size: usize,
    /// The learning rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Steps between two reports.
    pub report_every: usize,
}

/// What a report is about.
pub struct Progress {
    pub step: usize,
    /// Mean loss since the report before.
    pub loss: f64,
}

/// Draws the initial weights.
///
/// candle-nn has already given every weight an initial value, but candle's random numbers on the
/// CPU cannot be seeded. These can, so the same seed always trains the same model.
pub fn init_weights(weights: &VarMap, rng: &mut impl Rng) -> Result<()> {
    for (name, var) in sorted(weights)? {
        let bound = match var.dims() {
            // Biases, and the gates' biases, start at zero.
            [_] => 0.0,
            // Recurrent layers and the last layer.
            [_, inputs] if !name.starts_with("project") => (*inputs as f64).powf(-0.5),
            // Layers with a ReLU after them.
            [_, rest @ ..] => (6.0 / rest.iter().product::<usize>() as f64).sqrt(),
            [] => continue,
        };
        let values: Vec<f32> = (0..var.elem_count())
            .map(|_| (rng.random_range(-1.0..1.0) * bound) as f32)
            .collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Trains the model and returns the loss of every step.
pub fn train(
    model: &Crnn,
    weights: &VarMap,
    lines: &Lines,
    config: &TrainConfig,
    mut report: impl FnMut(Progress) -> Result<()>,
) -> Result<Vec<f64>> {
    let vars: Vec<Var> = sorted(weights)?.into_iter().map(|(_, var)| var).collect();
    let device = vars
        .first()
        .context("the model has no weights")?
        .device()
        .clone();
    let mut optimizer = AdamW::new(vars.clone(), ParamsAdamW::default())?;
    let bar = ProgressBar::new(config.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps, {eta} left, loss {msg}",
    )?);

    let mut losses = Vec::with_capacity(config.steps);
    let mut reported = 0;
    for step in 0..config.steps {
        let first = (step * config.batch_size) as u64;
        let batch = Batch::new(&lines.lines(first, config.batch_size)?, &device)?;
        let scores = model.forward(&batch.images)?;

        // The loss takes the scores as they are, and only looks at the frames and the labels
        // that belong to each line.
        let frames: Vec<usize> = batch.widths.iter().map(|&w| Crnn::frames(w)).collect();
        let options = CtcLossOptions {
            blank: BLANK,
            ..Default::default()
        };
        let loss = ctc_loss_with_logits(
            &scores,
            &batch.targets,
            &frames,
            &batch.target_lengths,
            options,
        )?;

        let mut grads = loss.backward()?;
        clip(&mut grads, &vars, 5.0)?;
        optimizer.set_learning_rate(learning_rate(
            step,
            config.steps,
            (config.steps / 20).clamp(1, 50),
            config.learning_rate,
        ));
        optimizer.step(&grads)?;

        let loss = f64::from(loss.to_scalar::<f32>()?);
        ensure!(loss.is_finite(), "the loss is {loss} at step {}", step + 1);
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
    Ok(losses)
}
