//! What the loss costs on a GPU: a line of JSON for each shape and mode. `benches/gpu/compare.py` starts it
//! and sets PyTorch and others beside it.
//!
//! Modes: `train` (loss and gradient from log-probabilities, candle's own backward pass included), `logits`
//! (the same from logits), `score` (loss alone), `accumulate` (what candle's backward pass does with a
//! gradient), and `copy` (the bandwidth of the card, in GB/s of bytes read and written).

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss, ctc_loss_with_logits};
use serde_json::json;
use std::time::Instant;

/// T, N, C, S.
type Shape = (usize, usize, usize, usize);

/// The shapes, and the mode of the gradient.
const SHAPES: [(Shape, &str); 7] = [
    ((64, 4, 32, 16), "train"),
    ((256, 16, 64, 48), "train"),
    ((512, 32, 64, 48), "train"),
    ((1024, 32, 128, 96), "train"),
    ((1000, 64, 32, 120), "train"),
    ((500, 16, 5000, 60), "logits"),
    ((1500, 32, 10000, 200), "logits"),
];
/// Input sets in turn, so that none stays in a cache.
const SETS: usize = 4;
const ROUNDS: usize = 30;

fn main() -> Result<()> {
    let device = device()?;
    if device.is_cpu() {
        println!("gpu: no GPU here, nothing to measure");
        return Ok(());
    }
    copy(&device)?;
    for (shape, mode) in SHAPES {
        let sets: Vec<Case> = (0..SETS)
            .map(|_| Case::new(shape, &device))
            .collect::<Result<_>>()?;
        for mode in [mode, "score", "accumulate"] {
            measure(&device, shape, mode, || {
                sets.iter().try_for_each(|set| set.run(mode))
            })?;
        }
    }
    // One warp a direction and one item: what a frame costs, from two lengths.
    for frames in [1000, 4000] {
        let case = Case::new((frames, 1, 32, 20), &device)?;
        measure(&device, (frames, 1, 32, 20), "score", || {
            (0..SETS).try_for_each(|_| case.run("score"))
        })?;
    }
    Ok(())
}

fn device() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return Device::new_cuda(0).or(Ok(Device::Cpu));
    #[cfg(all(feature = "metal", not(feature = "cuda")))]
    return Device::new_metal(0).or(Ok(Device::Cpu));
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    Ok(Device::Cpu)
}

/// Times `turn`, which runs each of the sets once: the median over rounds, for one set.
fn measure(device: &Device, shape: Shape, mode: &str, turn: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 0..3 {
        turn()?;
    }
    device.synchronize()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        turn()?;
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e3 / SETS as f64);
    }
    times.sort_by(f64::total_cmp);
    let (t, n, c, s) = shape;
    println!(
        "{}",
        json!({ "who": "candle-ctc", "shape": [t, n, c, s], "mode": mode, "ms": times[ROUNDS / 2],
                "fastest": times[0], "slowest": times[ROUNDS - 1] })
    );
    Ok(())
}

fn copy(device: &Device) -> Result<()> {
    let count = 1 << 28;
    let from = Tensor::ones(count, DType::F32, device)?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        device.synchronize()?;
        let start = Instant::now();
        let to = from.copy()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(to);
    }
    let bytes = 2.0 * 4.0 * count as f64;
    println!("{}", json!({ "who": "copy", "GB/s": bytes / best / 1e9 }));
    Ok(())
}

struct Case {
    leaf: Var,
    gradient: Tensor,
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
}

impl Case {
    fn new((t, n, c, s): Shape, device: &Device) -> Result<Self> {
        let logits = Tensor::randn(0f32, 1., (t, n, c), device)?;
        let largest = logits.max_keepdim(2)?;
        let sum = logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(2)?;
        let log_probs = logits.broadcast_sub(&(largest + sum.log()?)?)?;
        let targets = Tensor::rand(1f32, c as f32, (n, s), &Device::Cpu)?.to_dtype(DType::U32)?;
        Ok(Self {
            leaf: Var::from_tensor(&log_probs)?,
            gradient: log_probs.copy()?,
            targets,
            input_lengths: vec![t; n],
            target_lengths: vec![s; n],
        })
    }

    fn run(&self, mode: &str) -> Result<()> {
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let loss = match mode {
            "logits" => ctc_loss_with_logits,
            _ => ctc_loss,
        };
        match mode {
            "accumulate" => {
                self.leaf.zeros_like()?.add(&self.gradient)?;
            }
            "score" => {
                let input = self.leaf.as_detached_tensor();
                loss(
                    &input,
                    &self.targets,
                    &self.input_lengths,
                    &self.target_lengths,
                    opts,
                )?;
            }
            _ => {
                loss(
                    self.leaf.as_tensor(),
                    &self.targets,
                    &self.input_lengths,
                    &self.target_lengths,
                    opts,
                )?
                .backward()?;
            }
        }
        Ok(())
    }
}
