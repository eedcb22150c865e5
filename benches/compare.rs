//! This crate's side of the comparison with other frameworks: a worker that
//! `benches/compare/compare.py` starts and asks, one line of JSON at a time.
//!
//! A request names a case (a safetensors file of inputs), a mode, and either how long to measure
//! or a file for the result. Modes: `train` (loss and gradient from log-probabilities),
//! `train-torch` (the same with PyTorch's gradient), `logits` (loss and gradient from logits),
//! `score` (loss alone), and two that are no contender but the ground they stand on: `floor`
//! (three passes over the data) and `accumulate` (what candle's backward pass does with a
//! gradient).

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, GradientKind, Reduction, ctc_loss, ctc_loss_with_logits};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

fn main() {
    if !std::env::args().any(|arg| arg == "worker") {
        println!("compare: a worker of benches/compare/compare.py; start that instead");
        return;
    }
    let mut case: Option<(String, Case)> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Value =
            serde_json::from_str(&line.expect("a line")).expect("a request in JSON");
        let path = request["case"].as_str().expect("a case");
        if case.as_ref().is_none_or(|(name, _)| name != path) {
            drop(case.take());
            case = Some((path.to_string(), Case::load(path).expect("inputs")));
        }
        let (_, case) = case.as_ref().expect("just loaded");
        let answer = answer(case, &request).expect("a result");
        println!("{answer}");
        std::io::stdout().flush().expect("a reader");
    }
}

fn answer(case: &Case, request: &Value) -> Result<Value> {
    let mode = request["mode"].as_str().expect("a mode");
    if let Some(path) = request["save"].as_str() {
        candle_core::safetensors::save(&case.result(mode)?, path)?;
        return Ok(json!({ "saved": path }));
    }
    let seconds = request["seconds"].as_f64().expect("a duration");
    for _ in 0..request["warm"].as_u64().unwrap_or(1) {
        case.run(mode)?;
    }
    let start = Instant::now();
    let mut times = Vec::new();
    // At least three runs, unless they are very slow.
    while start.elapsed().as_secs_f64() < seconds
        || (times.len() < 3 && start.elapsed().as_secs_f64() < 8.0 * seconds)
    {
        let start = Instant::now();
        case.run(mode)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(json!({ "ms": times }))
}

/// The inputs of one case.
struct Case {
    /// `(T, N, C)`: log-probabilities or logits.
    leaf: Var,
    /// `(N, S)`.
    targets: Tensor,
    input_lengths: Vec<u32>,
    target_lengths: Vec<u32>,
    /// The same entries as `leaf`, for the passes of the floor.
    entries: Vec<f32>,
    /// A gradient, as candle's backward pass would get it.
    gradient: Tensor,
}

impl Case {
    fn load(path: &str) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let lengths = |name: &str| tensors[name].to_dtype(DType::U32)?.to_vec1::<u32>();
        let input = &tensors["input"];
        Ok(Self {
            leaf: Var::from_tensor(input)?,
            targets: tensors["targets"].clone(),
            input_lengths: lengths("input_lengths")?,
            target_lengths: lengths("target_lengths")?,
            entries: input.flatten_all()?.to_vec1()?,
            gradient: input.copy()?,
        })
    }

    fn run(&self, mode: &str) -> Result<()> {
        match mode {
            "floor" => three_passes(&self.entries),
            "accumulate" => {
                // What `Tensor::backward` does with the first gradient that reaches a variable.
                let zeros = self.leaf.zeros_like()?;
                let sum = zeros.add(&self.gradient)?;
                drop(zeros);
                black_box(sum);
            }
            "score" => {
                let loss = self.loss(mode, &self.leaf.as_detached_tensor(), Reduction::Sum)?;
                black_box(loss.to_scalar::<f32>()?);
            }
            _ => {
                let loss = self.loss(mode, &self.leaf, Reduction::Sum)?;
                let gradients = loss.backward()?;
                black_box(gradients.get(&self.leaf));
            }
        }
        Ok(())
    }

    fn loss(&self, mode: &str, input: &Tensor, reduction: Reduction) -> Result<Tensor> {
        let loss = match mode {
            "logits" => ctc_loss_with_logits,
            _ => ctc_loss,
        };
        let gradient = match mode {
            "train-torch" => GradientKind::Torch,
            _ => GradientKind::Exact,
        };
        let opts = CtcLossOptions {
            reduction,
            gradient,
            ..Default::default()
        };
        loss(
            input,
            &self.targets,
            &self.input_lengths,
            &self.target_lengths,
            opts,
        )
    }

    /// The losses `(N)` and the gradient of their sum `(T, N, C)`.
    fn result(&self, mode: &str) -> Result<HashMap<&'static str, Tensor>> {
        let losses = self.loss(mode, &self.leaf, Reduction::None)?;
        let gradients = losses.backward()?;
        let gradient = gradients.get(&self.leaf).expect("the leaf's gradient");
        Ok(HashMap::from([
            ("losses", losses.detach()),
            ("gradient", gradient.clone()),
        ]))
    }
}

/// Entries that a task works on at a time.
const SHARE: usize = 1 << 16;
/// Sums kept side by side, so that additions do not wait for each other.
const LANES: usize = 64;

/// Two reads of `entries` and one write of as much into fresh memory: the least that a loss from
/// logits with its gradient can do. The second read and the write are one loop.
fn three_passes(entries: &[f32]) {
    let total: f32 = entries.par_chunks(SHARE).map(sum).sum();
    black_box(total);
    let mut fresh = Vec::<f32>::with_capacity(entries.len());
    fresh
        .spare_capacity_mut()
        .par_chunks_mut(SHARE)
        .zip(entries.par_chunks(SHARE))
        .for_each(|(to, from)| {
            for (to, from) in to.iter_mut().zip(from) {
                to.write(from * 0.5);
            }
        });
    black_box(fresh);
}

fn sum(entries: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (blocks, rest) = entries.as_chunks::<LANES>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += x;
        }
    }
    sums.iter().chain(rest).sum()
}
