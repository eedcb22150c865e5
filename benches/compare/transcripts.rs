//! Times what `score.py` and `align.py` time, on the same inputs, and prints one line for each:
//!
//! ```text
//! cargo run --release --example compare_transcripts -- score   (then: python benches/compare/score.py)
//! cargo run --release --example compare_transcripts -- align   (then: python benches/compare/align.py)
//! cargo run --release --example compare_transcripts -- hour
//! ```
//!
//! Inputs are made from one formula in both languages. Each figure is the best of several runs.

use candle_core::{Device, Result, Tensor};
use candle_ctc::{AlignOptions, ScoreOptions, forced_align, forced_align_batch, score_transcripts};
use std::time::{Duration, Instant};

/// Uniform numbers in [0, 1) from a 32-bit generator (Numerical Recipes), as in the Python files.
struct Lcg(u32);

impl Lcg {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
        ((u64::from(self.0) * u64::from(bound)) >> 32) as u32
    }
}

/// Logits `sin(0.37 i) · 3` behind a log-softmax.
fn log_probs(rows: usize, classes: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..rows * classes)
        .map(|i| ((0.37 * i as f64).sin() * 3.0) as f32)
        .collect();
    for row in values.chunks_exact_mut(classes) {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter_mut().for_each(|x| *x -= sum.ln() as f32);
    }
    values
}

fn best<T>(runs: usize, mut run: impl FnMut() -> Result<T>) -> Result<(Duration, T)> {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..runs {
        let start = Instant::now();
        let value = run()?;
        let time = start.elapsed();
        if best.as_ref().is_none_or(|(least, _)| time < *least) {
            best = Some((time, value));
        }
    }
    best.ok_or_else(|| candle_core::Error::Msg("no run".into()))
}

/// The most memory that this process has held, in MB, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kb.map_or("unknown".into(), |kb| format!("{:.0} MB", kb / 1e3))
}

fn score() -> Result<()> {
    let (frames, classes, length, count) = (1500, 5000, 200, 64);
    let input = Tensor::from_vec(log_probs(frames, classes), (frames, classes), &Device::Cpu)?;
    let mut random = Lcg(1);
    let base: Vec<u32> = (0..length).map(|_| 1 + random.below(4999)).collect();
    let n_best: Vec<Vec<u32>> = (0..count)
        .map(|_| {
            let mut target = base.clone();
            for _ in 0..10 {
                let place = random.below(200) as usize;
                target[place] = 1 + random.below(4999);
            }
            target
        })
        .collect();
    let unrelated: Vec<Vec<u32>> = (0..count)
        .map(|_| (0..length).map(|_| 1 + random.below(4999)).collect())
        .collect();
    for (name, candidates) in [("n-best", n_best), ("unrelated", unrelated)] {
        let before = peak_memory();
        let opts = ScoreOptions::default();
        let (time, scores) = best(9, || score_transcripts(&input, &candidates, opts))?;
        println!(
            "score {name}: {:.2} ms, sum {:.3}; peak memory {before} before, {} after",
            time.as_secs_f64() * 1e3,
            scores.iter().sum::<f64>(),
            peak_memory()
        );
    }
    Ok(())
}

fn align() -> Result<()> {
    let (items, frames, length, classes) = (16, 1500, 200, 32);
    let values = log_probs(items * frames, classes);
    let input = Tensor::from_vec(values, (items, frames, classes), &Device::Cpu)?;
    let mut random = Lcg(1);
    let targets: Vec<u32> = (0..items * length).map(|_| 1 + random.below(31)).collect();
    let targets = Tensor::from_vec(targets, (items, length), &Device::Cpu)?;
    let opts = AlignOptions::batch_major();
    let (time, alignments) = best(20, || {
        forced_align_batch(&input, &targets, [frames; 16], [length; 16], opts)
    })?;
    println!(
        "align: {:.2} ms, sum of scores {:.3}; peak memory {}",
        time.as_secs_f64() * 1e3,
        alignments.iter().flatten().map(|a| a.score).sum::<f64>(),
        peak_memory()
    );
    Ok(())
}

fn hour() -> Result<()> {
    let (frames, length, classes) = (180_000, 15_000, 32);
    let input = Tensor::from_vec(log_probs(frames, classes), (frames, classes), &Device::Cpu)?;
    let mut random = Lcg(1);
    let target: Vec<u32> = (0..length).map(|_| 1 + random.below(31)).collect();
    let before = peak_memory();
    let opts = AlignOptions::default();
    let (time, alignment) = best(3, || forced_align(&input, &target, opts))?;
    println!(
        "hour (T = {frames}, S = {length}, C = {classes}): {:.2} s, score {:.3}, {} spans; \
         peak memory {before} with the input, {} after",
        time.as_secs_f64(),
        alignment.score,
        alignment.spans.len(),
        peak_memory()
    );
    Ok(())
}

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("score") => score(),
        Some("align") => align(),
        Some("hour") => hour(),
        other => {
            eprintln!("say score, align or hour, not {other:?}");
            std::process::exit(2)
        }
    }
}
