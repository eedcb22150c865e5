//! The training loop of each process.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss_with_logits};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::{CLASSES, FEATURES, Share, Utterance, batch};
use crate::optimisation::{clip, learning_rate, sorted};
use crate::processes::Processes;

/// How to train.
#[derive(clap::Args)]
pub struct TrainConfig {
    /// Number of training steps
    #[arg(long, default_value_t = 50)]
    pub steps: usize,

    /// Utterances per step, over all processes
    #[arg(long, default_value = "8")]
    pub batch_size: NonZeroUsize,

    /// Decides the utterances and the initial weights
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A convolution over five frames, and a linear layer at each frame.
///
/// No item depends on what else is in its batch: the zeros behind a short one are those that the convolution pads with.
/// A second convolution would see what the first made of them, and would need a mask.
struct Model {
    conv: Linear,
    head: Linear,
}

impl Model {
    const KERNEL: usize = 5;

    fn new(vb: VarBuilder) -> Result<Self> {
        const HIDDEN: usize = 64;
        Ok(Self {
            conv: linear(Self::KERNEL * FEATURES, HIDDEN, vb.pp("conv"))?,
            head: linear(HIDDEN, CLASSES, vb.pp("head"))?,
        })
    }

    /// Takes features (N, T, FEATURES) to logits (N, T, CLASSES).
    ///
    /// The convolution is a product with windows of frames: candle 0.11.1's `conv1d` gives wrong gradients of batches.
    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let frames = features.dim(1)?;
        let padded = features.pad_with_zeros(1, Self::KERNEL / 2, Self::KERNEL / 2)?;
        let windows = (0..Self::KERNEL)
            .map(|at| padded.narrow(1, at, frames))
            .collect::<Result<Vec<_>, _>>()?;
        let hidden = self.conv.forward(&Tensor::cat(&windows, 2)?)?.relu()?;
        Ok(self.head.forward(&hidden)?)
    }
}

/// Draws the initial weights: the same in every process, for candle's own cannot be seeded on the CPU.
fn init_weights(weights: &VarMap, seed: u64) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (_, var) in sorted(weights)? {
        let inputs: usize = var.dims()[1..].iter().product();
        let bound = if var.rank() == 1 {
            0.0
        } else {
            (3.0 / inputs as f32).sqrt()
        };
        let values: Vec<f32> = (0..var.elem_count())
            .map(|_| bound * rng.random_range(-1f32..1.0))
            .collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Trains a model, and calls `report` with the number and the loss of each step. Returns the losses.
pub fn train(
    utterances: &[Utterance],
    config: &TrainConfig,
    processes: &Processes,
    mut report: impl FnMut(usize, f64),
) -> Result<Vec<f64>> {
    let TrainConfig {
        steps,
        batch_size,
        seed,
    } = *config;
    let device = processes.device();
    let weights = VarMap::new();
    let model = Model::new(VarBuilder::from_varmap(&weights, DType::F32, device))?;
    init_weights(&weights, seed)?;
    let vars: Vec<Var> = sorted(&weights)?.into_iter().map(|(_, var)| var).collect();
    let mut optimizer = AdamW::new(vars.clone(), ParamsAdamW::default())?;

    let mut losses = Vec::new();
    for step in 0..steps {
        let batch = batch(utterances, batch_size.get(), step);
        let share = Share::new(batch, processes.rank(), processes.count(), device)?;
        let (loss, labels) = match &share {
            Some(share) => (
                sum_of_losses(&model, share)?,
                share.target_lengths.iter().sum(),
            ),
            // Nothing to compute, but the others wait for this process in the sum.
            None => (Tensor::zeros((), DType::F32, device)?, 0),
        };
        let mut gradients = loss.backward()?;
        let loss = all_reduce(&mut gradients, &vars, &loss, labels, processes)?;
        ensure!(loss.is_finite(), "the loss is {loss} at step {}", step + 1);
        // From here on all processes do the same. What depends on the size of the gradients must come after the sum.
        clip(&mut gradients, &vars, 5.0)?;
        optimizer.set_learning_rate(learning_rate(step, steps, 5, 1e-2));
        optimizer.step(&gradients)?;
        report(step + 1, loss);
        losses.push(loss);
    }
    processes
        .ensure_same(&flat(&vars)?)
        .context("after the last step")?;
    Ok(losses)
}

fn sum_of_losses(model: &Model, share: &Share) -> Result<Tensor> {
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        ..CtcLossOptions::batch_major()
    };
    let logits = model.forward(&share.features)?;
    Ok(ctc_loss_with_logits(
        &logits,
        &share.targets,
        &share.frames,
        &share.target_lengths,
        opts,
    )?)
}

/// Replaces the gradients of this process's share by those of the whole batch's loss per label, and returns that loss.
///
/// `loss` is the sum of the share's losses, `labels` the number of its labels. Gradients, loss and labels are summed in
/// one message, in f64.
fn all_reduce(
    gradients: &mut GradStore,
    vars: &[Var],
    loss: &Tensor,
    labels: usize,
    processes: &Processes,
) -> Result<f64> {
    let mut message = Vec::with_capacity(vars.len() + 2);
    for var in vars {
        let gradient = match gradients.remove(var) {
            Some(gradient) => gradient,
            None => var.zeros_like()?,
        };
        message.push(gradient.flatten_all()?.to_dtype(DType::F64)?);
    }
    message.push(loss.reshape(1)?.to_dtype(DType::F64)?);
    message.push(Tensor::new(&[labels as f64], loss.device())?);
    let sums = processes.sum(&Tensor::cat(&message, 0)?)?;

    let mut at = 0;
    let mut next = |length: usize| {
        at += length;
        sums.narrow(0, at - length, length)
    };
    let summed = vars
        .iter()
        .map(|var| next(var.elem_count()))
        .collect::<Result<Vec<_>, _>>()?;
    let [loss, labels] = <[f64; 2]>::try_from(next(2)?.to_vec1()?).expect("two numbers");
    let normaliser = labels.max(1.0); // no label in the whole batch
    for (var, gradient) in vars.iter().zip(summed) {
        gradients.insert(
            var,
            (gradient / normaliser)?
                .to_dtype(DType::F32)?
                .reshape(var.shape())?,
        );
    }
    Ok(loss / normaliser)
}

/// All weights, one after another.
fn flat(vars: &[Var]) -> Result<Tensor> {
    let parts = vars
        .iter()
        .map(|var| var.flatten_all())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}
