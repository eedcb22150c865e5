//! How exact f32 is, against the f64 truth for the same f32 input.
//!
//! The truth is the oracle's recursion in f64 log space with compensated sums. `tests/it/oracle.rs` checks that
//! against enumeration and the closed form, and `uniform_inputs` checks it here once more, at full size.

use crate::common::oracle::{recursion, repeats, uniform_loss};
use crate::common::tolerance::Tolerance;
use crate::common::{self, Entry, Rng, devices, holds, run, tensors};
use candle_core::{DType, Device};
use candle_ctc::{CtcLossOptions, Reduction};

/// (T, C, S)
const SIZES: [(usize, usize, usize); 4] = [
    (1500, 32, 200),
    (3000, 1025, 300),
    (20000, 6, 5),
    (4000, 3, 1200),
];

/// The rounding of a frame's emission, 6e-8 relative, is the same at each frame of a uniform input, so it adds
/// up to a part of the loss itself. The rest is the rounding of T products, which partly cancels.
fn loss_tolerance(frames: usize) -> Tolerance {
    Tolerance {
        absolute: if frames <= 3000 { 1e-5 } else { 2e-5 },
        relative: 2e-7,
    }
}

/// Each posterior is normalised at its own frame. On the CPU, where the lattice is in f64, what stays is the
/// rounding of emissions and of the result. On a GPU, in f32, it is the relative rounding of neighbours, too: 6e-8 a
/// frame, growing like its square root.
fn gradient_tolerance(device: &Device, frames: usize) -> Tolerance {
    Tolerance {
        absolute: match device {
            Device::Cpu if !cfg!(ctc_softgpu) => 2e-7,
            _ if frames <= 4000 => 2e-6,
            _ => 5e-6,
        },
        relative: 0.0,
    }
}

/// Compares one item with the truth, in f32 on every device.
fn check(what: &str, entry: Entry, input: &[f64], classes: usize, target: &[usize]) {
    let input = tensors::rounded(input, DType::F32);
    let frames = input.len() / classes;
    let (log_probs, entry_gradient): (Vec<f64>, fn(f64, f64) -> f64) = match entry {
        Entry::LogProbs => (input.clone(), |_, posterior| -posterior),
        Entry::Logits => (log_softmax(&input, classes), |log_prob, posterior| {
            log_prob.exp() - posterior
        }),
    };
    let truth = recursion(&log_probs, classes, target, 0);
    assert!(
        truth.loss.is_finite() && truth.loss > 0.0,
        "{what}: {}",
        truth.loss
    );
    let want: Vec<f64> = log_probs
        .iter()
        .zip(&truth.posterior)
        .map(|(&l, &p)| entry_gradient(l, p))
        .collect();
    for device in devices() {
        let out = run_one(entry, &input, classes, target, DType::F32, &device);
        let what = format!("{what} {entry:?} T = {frames}");
        assert!(out.loss[0] >= 0.0, "{what}: negative loss {}", out.loss[0]);
        println!(
            "{what}: loss {} off by {:e}, gradient off by {:e}",
            truth.loss,
            (out.loss[0] - truth.loss).abs(),
            out.gradient
                .iter()
                .zip(&want)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max),
        );
        loss_tolerance(frames).check(&format!("{what}: loss"), &out.loss, &[truth.loss]);
        gradient_tolerance(&device, frames).check(
            &format!("{what}: gradient"),
            &out.gradient,
            &want,
        );
    }
}

fn run_one(
    entry: Entry,
    input: &[f64],
    classes: usize,
    target: &[usize],
    dtype: DType,
    device: &Device,
) -> common::Outcome {
    let frames = input.len() / classes;
    let x = tensors::floats(input, &[frames, 1, classes], dtype, device);
    let targets = tensors::concatenated(&[target.to_vec()], DType::U32, device);
    let options = CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    };
    run(
        entry,
        &x,
        &targets,
        &[frames],
        &[target.len()],
        options,
        None,
    )
    .unwrap()
}

fn log_softmax(values: &[f64], classes: usize) -> Vec<f64> {
    values
        .chunks_exact(classes)
        .flat_map(|frame| {
            let largest = frame.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = frame.iter().map(|x| (x - largest).exp()).sum();
            frame.iter().map(move |x| x - largest - sum.ln())
        })
        .collect()
}

/// A target that fits, and a path that reads as it: each label once, at even distances, blank elsewhere.
fn target_and_path(
    rng: &mut Rng,
    frames: usize,
    classes: usize,
    length: usize,
) -> (Vec<usize>, Vec<usize>) {
    let target = rng.target(length, classes, 0, 0.25);
    assert!(length + repeats(&target) <= frames);
    let mut path = vec![0; frames];
    for (i, &label) in target.iter().enumerate() {
        path[i * frames / length] = label;
    }
    (target, path)
}

/// Runs `check` on an input made for each size.
fn at_all_sizes(
    seed: u64,
    what: &str,
    entry: Entry,
    make: impl Fn(&mut Rng, usize, usize, &[usize]) -> Vec<f64>,
) {
    for (frames, classes, length) in SIZES {
        let mut rng = Rng::new(seed);
        let (target, path) = target_and_path(&mut rng, frames, classes, length);
        let input = make(&mut rng, frames, classes, &path);
        check(what, entry, &input, classes, &target);
    }
}

/// Like a trained model: the path is ahead of the other classes by e^20.
fn ahead(rng: &mut Rng, frames: usize, classes: usize, path: &[usize]) -> Vec<f64> {
    let mut values = rng.values(frames * classes, 2.0);
    for (t, &label) in path.iter().enumerate() {
        values[t * classes + label] += 20.0;
    }
    values
}

/// The blank at 0.999 and the labels anywhere down to e^-60.
fn blank_ahead(rng: &mut Rng, frames: usize, classes: usize, _path: &[usize]) -> Vec<f64> {
    (0..frames * classes)
        .map(|i| {
            if i % classes == 0 {
                0.999f64.ln()
            } else {
                -7.0 - 53.0 * rng.unit()
            }
        })
        .collect()
}

fn random(rng: &mut Rng, frames: usize, classes: usize, _path: &[usize]) -> Vec<f64> {
    rng.values(frames * classes, 3.0)
}

#[test]
fn random_inputs() {
    at_all_sizes(
        100,
        "random",
        Entry::LogProbs,
        |rng, frames, classes, path| log_softmax(&random(rng, frames, classes, path), classes),
    );
}

#[test]
fn random_logits() {
    at_all_sizes(101, "random", Entry::Logits, random);
}

#[test]
fn uniform_inputs() {
    at_all_sizes(102, "uniform", Entry::LogProbs, |_, frames, classes, _| {
        vec![-(classes as f64).ln(); frames * classes]
    });
    for (frames, classes, length) in SIZES {
        let (target, _) = target_and_path(&mut Rng::new(102), frames, classes, length);
        let log_prob = f64::from(-(classes as f64).ln() as f32);
        let want = uniform_loss(frames, log_prob, length, repeats(&target));
        let input = vec![log_prob; frames * classes];
        for device in devices() {
            let out = run_one(
                Entry::LogProbs,
                &input,
                classes,
                &target,
                DType::F32,
                &device,
            );
            loss_tolerance(frames).check("closed form", &out.loss, &[want]);
        }
    }
}

#[test]
fn uniform_logits() {
    at_all_sizes(103, "uniform", Entry::Logits, |_, frames, classes, _| {
        vec![0.75; frames * classes]
    });
}

#[test]
fn inputs_with_a_path_far_ahead() {
    at_all_sizes(
        104,
        "path ahead",
        Entry::LogProbs,
        |rng, frames, classes, path| log_softmax(&ahead(rng, frames, classes, path), classes),
    );
}

#[test]
fn logits_with_a_path_far_ahead() {
    at_all_sizes(105, "path ahead", Entry::Logits, ahead);
}

#[test]
fn inputs_with_the_blank_far_ahead() {
    at_all_sizes(106, "blank ahead", Entry::LogProbs, blank_ahead);
}

#[test]
fn inputs_with_the_blank_far_ahead_and_masks() {
    at_all_sizes(
        107,
        "blank ahead, masked",
        Entry::LogProbs,
        |rng, frames, classes, path| {
            let mut values = blank_ahead(rng, frames, classes, path);
            for (i, value) in values.iter_mut().enumerate() {
                // One path stays open.
                if path[i / classes] != i % classes && rng.unit() < 0.3 {
                    *value = f64::NEG_INFINITY;
                }
            }
            values
        },
    );
}

#[test]
fn random_inputs_with_masks() {
    at_all_sizes(
        108,
        "random, masked",
        Entry::LogProbs,
        |rng, frames, classes, path| {
            let mut values = random(rng, frames, classes, path);
            for (i, value) in values.iter_mut().enumerate() {
                if path[i / classes] != i % classes && rng.unit() < 0.4 {
                    *value = f64::NEG_INFINITY;
                }
            }
            log_softmax(&values, classes)
        },
    );
}

#[test]
fn f64_inputs_are_exact_to_f64() {
    for (frames, classes, length) in [(1500, 32, 200), (20000, 6, 5)] {
        let mut rng = Rng::new(109);
        let (target, path) = target_and_path(&mut rng, frames, classes, length);
        let inputs = [
            vec![-(classes as f64).ln(); frames * classes],
            log_softmax(&random(&mut rng, frames, classes, &path), classes),
            log_softmax(&ahead(&mut rng, frames, classes, &path), classes),
        ];
        for input in inputs {
            let truth = recursion(&input, classes, &target, 0);
            for device in devices()
                .into_iter()
                .filter(|device| holds(device, DType::F64))
            {
                let out = run_one(
                    Entry::LogProbs,
                    &input,
                    classes,
                    &target,
                    DType::F64,
                    &device,
                );
                let want: Vec<f64> = truth.posterior.iter().map(|p| -p).collect();
                // 20000 roundings of 1.1e-16.
                Tolerance {
                    absolute: 1e-11,
                    relative: 1e-14,
                }
                .check("loss", &out.loss, &[truth.loss]);
                Tolerance {
                    absolute: 1e-11,
                    relative: 0.0,
                }
                .check("gradient", &out.gradient, &want);
            }
        }
    }
}

#[test]
fn nearly_certain_inputs_have_no_negative_loss() {
    let mut rng = Rng::new(110);
    for round in 0..60 {
        let (frames, classes) = (50 + rng.below(400), 3 + rng.below(20));
        let (target, path) = target_and_path(&mut rng, frames, classes, 20);
        let mut values = rng.values(frames * classes, 1.0);
        for (t, &label) in path.iter().enumerate() {
            values[t * classes + label] += 12.0 + (round % 15) as f64;
        }
        let input = tensors::rounded(&log_softmax(&values, classes), DType::F32);
        let truth = recursion(&input, classes, &target, 0);
        for device in devices() {
            let out = run_one(
                Entry::LogProbs,
                &input,
                classes,
                &target,
                DType::F32,
                &device,
            );
            assert!(
                out.loss[0] >= 0.0 || truth.loss < 0.0,
                "{} for {}",
                out.loss[0],
                truth.loss
            );
            let logits = run_one(
                Entry::Logits,
                &values,
                classes,
                &target,
                DType::F32,
                &device,
            );
            assert!(logits.loss[0] >= 0.0, "{} from logits", logits.loss[0]);
        }
    }
}
