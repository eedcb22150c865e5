//! Whether the cost of a training step depends on the numbers in its input: time and peak memory over how
//! sure a model is, over noise of several sizes, and over targets that nearly fill their frames. And what the confidence
//! of each token costs beside a training step.
//!
//! `cargo bench --bench range` prints the tables and fails when a bound does not hold; `-- --write` puts
//! them into docs/benchmarks.md too.

#[path = "common/heap.rs"]
mod heap;
#[path = "common/models.rs"]
mod models;
#[path = "common/page.rs"]
mod page;

use candle_core::Result;
use models::{CONFIDENCES, LENGTHS, Model, OTHERS, OTHERS_AT, SHAPES, Shape, Step};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How much longer the slowest model of a shape may take than the fastest, and how much more memory.
const MOST_TIME: f64 = 2.0;
const MOST_MEMORY: f64 = 1.5;

/// Bytes for each frame and state, at most.
const BYTES_OF_A_STATE: f64 = 2.0;

/// How much longer the confidences may take than a training step.
const MOST_OF_CONFIDENCE: f64 = 3.0;

struct Measured {
    time: Duration,
    /// The peak beside gradients and the table of posteriors.
    bytes: usize,
}

/// Steps in turn, so that a machine that is busy for a while is so for all of them.
fn measure(shape: Shape, models: &[Model]) -> Result<Vec<Measured>> {
    let steps = models.iter().map(|&model| Step::new(shape, model));
    let steps: Vec<Step> = steps.collect::<Result<_>>()?;
    let mut bytes = Vec::new();
    let start = Instant::now();
    for step in &steps {
        step.run()?;
        let mut ran = Ok(());
        let peak = heap::peak_without(shape.gradient(), || ran = step.run());
        ran?;
        bytes.push(peak.saturating_sub(step.posteriors()));
    }
    let once = start.elapsed().as_secs_f64() / (2 * steps.len()) as f64;
    let rounds = (0.4 / once).clamp(2.0, 60.0) as usize;
    let mut times = vec![Vec::new(); steps.len()];
    for _ in 0..rounds {
        for (step, times) in steps.iter().zip(&mut times) {
            times.push(time(|| step.run())?);
        }
    }
    let measured = times.into_iter().zip(bytes).map(|(mut times, bytes)| {
        times.sort_unstable();
        Measured {
            time: times[times.len() / 4],
            bytes,
        }
    });
    Ok(measured.collect())
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn row(shape: Shape, model: Model, measured: &Measured, relative: [f64; 2]) -> String {
    let Measured { time, bytes } = measured;
    let [times, memory] = relative;
    format!(
        "| {shape} | {model} | {:.3} | {times:.2} | {:.0} | {memory:.2} | {:.2} |",
        milliseconds(*time),
        *bytes as f64 / 1024.0,
        *bytes as f64 / shape.states() as f64,
    )
}

/// Models that are sure of something else, as times over those of noise. No bound holds for them.
fn others(text: &mut String) -> Result<()> {
    writeln!(
        text,
        "\nModels that are sure of something else than the target, or whose entries are far apart: times over those of \
         noise with a standard deviation of 1. One loss, one training step, a batch of losses, 50 candidates of one \
         utterance, and the confidence of each token:\n\n\
         | T, N, C, S | model | loss | step | losses | candidates | confidence |\n\
         |---|---|---:|---:|---:|---:|---:|"
    )
    .expect("a string grows");
    for shape in OTHERS_AT {
        let one = Shape { batch: 1, ..shape };
        let steps = OTHERS.map(|model| Ok((Step::new(one, model)?, Step::new(shape, model)?)));
        let steps: Vec<(Step, Step)> = steps.into_iter().collect::<Result<_>>()?;
        let mut best = vec![[Duration::MAX; 5]; steps.len()];
        for round in 0..40 {
            for ((one, all), best) in steps.iter().zip(&mut best) {
                let times = [
                    time(|| one.loss())?,
                    time(|| one.run())?,
                    time(|| all.loss())?,
                    time(|| one.candidates())?,
                    time(|| one.confidence())?,
                ];
                if round > 0 {
                    *best = std::array::from_fn(|i| best[i].min(times[i]));
                }
            }
        }
        for (model, times) in OTHERS.iter().zip(&best) {
            let ratio = |i: usize| times[i].as_secs_f64() / best[0][i].as_secs_f64();
            let ratios: Vec<String> = (0..5).map(|i| format!("{:.1}", ratio(i))).collect();
            let line = format!("| {shape} | {model} | {} |", ratios.join(" | "));
            println!("{line}");
            writeln!(text, "{line}").expect("a string grows");
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut text = format!(
        "{} threads. Memory is the peak beside gradients and the table of posteriors.\n\n\
         | T, N, C, S | model | ms | over the fastest | KiB | over the least | bytes for each frame and state |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
        candle_core::utils::get_num_threads(),
    );
    let mut faults = Vec::new();
    for (shape, models) in SHAPES {
        let all = measure(shape, models)?;
        let least_time = all.iter().map(|one| one.time).min().unwrap_or_default();
        let least_bytes = all.iter().map(|one| one.bytes).min().unwrap_or_default();
        for (&model, measured) in models.iter().zip(&all) {
            let times = measured.time.as_secs_f64() / least_time.as_secs_f64();
            let memory = measured.bytes as f64 / least_bytes as f64;
            let line = row(shape, model, measured, [times, memory]);
            println!("{line}");
            writeln!(text, "{line}").expect("a string grows");
            let bytes = measured.bytes as f64 / shape.states() as f64;
            if times > MOST_TIME || memory > MOST_MEMORY || bytes > BYTES_OF_A_STATE {
                faults.push(line);
            }
        }
    }
    writeln!(
        text,
        "\nTargets that take three fifths of their frames, noise with a standard deviation of 1:\n\n\
         | T, N, C, S | ms | ps for each frame and state | KiB | bytes for each frame and state |\n\
         |---|---:|---:|---:|---:|"
    )
    .expect("a string grows");
    let mut slopes = Vec::new();
    for shape in LENGTHS {
        let [Measured { time, bytes }] = measure(shape, &[Model::Noise(1.0)])?[..] else {
            unreachable!("one model, one measurement");
        };
        let states = shape.states() as f64;
        let slope = 1e12 * time.as_secs_f64() / states;
        let line = format!(
            "| {shape} | {:.2} | {slope:.0} | {:.0} | {:.2} |",
            milliseconds(time),
            bytes as f64 / 1024.0,
            bytes as f64 / states,
        );
        println!("{line}");
        writeln!(text, "{line}").expect("a string grows");
        slopes.push(slope);
    }
    let least = slopes.iter().copied().fold(f64::INFINITY, f64::min);
    faults.extend(
        slopes
            .iter()
            .filter(|&slope| slope / least > MOST_TIME)
            .map(|slope| format!("{slope:.0} ps for each frame and state, {least:.0} at best")),
    );
    writeln!(
        text,
        "\nThe confidence of each token, noise with a standard deviation of 1:\n\n\
         | T, N, C, S | training step, ms | confidences, ms | ratio | KiB | bytes for each frame and label |\n\
         |---|---:|---:|---:|---:|---:|"
    )
    .expect("a string grows");
    for shape in CONFIDENCES {
        let step = Step::new(shape, Model::Noise(1.0))?;
        let (mut steps, mut confidences) = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            steps = steps.min(time(|| step.run())?);
            confidences = confidences.min(time(|| step.confidence())?);
        }
        let mut ran = Ok(());
        let bytes = heap::peak_of(|| ran = step.confidence());
        ran?;
        let ratio = confidences.as_secs_f64() / steps.as_secs_f64();
        let line = format!(
            "| {shape} | {:.2} | {:.2} | {ratio:.2} | {:.0} | {:.2} |",
            milliseconds(steps),
            milliseconds(confidences),
            bytes as f64 / 1024.0,
            bytes as f64 / (shape.frames * shape.batch * shape.labels) as f64,
        );
        println!("{line}");
        writeln!(text, "{line}").expect("a string grows");
        if ratio > MOST_OF_CONFIDENCE {
            faults.push(line);
        }
    }
    others(&mut text)?;
    if page::wanted() {
        page::replace("range", &text);
    }
    assert!(faults.is_empty(), "out of bounds: {faults:#?}");
    Ok(())
}
