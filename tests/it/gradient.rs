//! The gradient is the derivative of the loss: central differences in f64 agree with it.

use crate::common::oracle::Problem;
use crate::common::{self, Entry, Rng, run_problem, tensors, tolerance};
use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{CtcLossOptions, GradientKind, Reduction, ctc_loss};

fn problem(rng: &mut Rng) -> Problem {
    let classes = 2 + rng.below(4);
    let frames = 3 + rng.below(6);
    let items = 1 + rng.below(3);
    let blank = rng.below(classes);
    let targets: Vec<_> = (0..items)
        .map(|_| {
            let length = rng.below(4);
            rng.target(length, classes, blank, 0.3)
        })
        .collect();
    let input_lengths = targets
        .iter()
        .map(|target| {
            let least = target.len() + common::oracle::repeats(target);
            least.min(frames) + rng.below(frames + 1 - least.min(frames))
        })
        .collect();
    Problem {
        frames,
        classes,
        blank,
        values: rng.values(frames * items * classes, 2.0),
        targets,
        input_lengths,
    }
}

/// The loss that is differentiated: `sum(upstream * loss)`.
fn objective(
    entry: Entry,
    problem: &Problem,
    options: CtcLossOptions,
    upstream: &[f64],
    device: &Device,
) -> f64 {
    let input = tensors::floats(
        &problem.values,
        &[problem.frames, problem.items(), problem.classes],
        DType::F64,
        device,
    );
    let targets = tensors::padded(&problem.targets, 0, 0, DType::I64, device);
    let loss = entry
        .loss(
            &input,
            &targets,
            &problem.input_lengths,
            &problem.target_lengths(),
            options,
        )
        .unwrap();
    tensors::read(&loss)
        .iter()
        .zip(upstream)
        .map(|(l, u)| l * u)
        .sum()
}

fn finite_differences_agree(entry: Entry, kind: GradientKind) {
    const STEP: f64 = 1e-5;
    for device in common::devices() {
        if !common::holds(&device, DType::F64) {
            continue;
        }
        let mut rng = Rng::new(10);
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for _ in 0..12 {
                let problem = problem(&mut rng);
                let options = CtcLossOptions {
                    blank: problem.blank,
                    reduction,
                    zero_infinity: true,
                    gradient: kind,
                    ..Default::default()
                };
                let outputs = if reduction == Reduction::None {
                    problem.items()
                } else {
                    1
                };
                let upstream = rng.values(outputs, 2.0);
                let outcome = run_problem(
                    entry,
                    &problem,
                    options,
                    DType::F64,
                    &device,
                    Some(&upstream),
                )
                .unwrap();
                let mut moved = problem.clone();
                let differences: Vec<f64> = (0..problem.values.len())
                    .map(|i| {
                        moved.values[i] = problem.values[i] + STEP;
                        let above = objective(entry, &moved, options, &upstream, &device);
                        moved.values[i] = problem.values[i] - STEP;
                        let below = objective(entry, &moved, options, &upstream, &device);
                        moved.values[i] = problem.values[i];
                        (above - below) / (2.0 * STEP)
                    })
                    .collect();
                tolerance::FINITE_DIFFERENCES.check(
                    &format!("{entry:?} {kind:?} {problem:?} {options:?}"),
                    &outcome.gradient,
                    &differences,
                );
            }
        }
    }
}

#[test]
fn exact_gradient_is_the_derivative_at_log_probs() {
    finite_differences_agree(Entry::LogProbs, GradientKind::Exact);
}

#[test]
fn exact_gradient_is_the_derivative_at_logits() {
    finite_differences_agree(Entry::Logits, GradientKind::Exact);
}

#[test]
fn torch_gradient_is_the_derivative_at_logits() {
    finite_differences_agree(Entry::Logits, GradientKind::Torch);
}

/// That of a class which no target uses is +inf where the exponential is.
#[test]
fn torch_gradient_of_entries_above_0_is_exact() {
    for (dtype, large) in [(DType::F32, 100.0), (DType::F64, 800.0)] {
        let input = tensors::floats(&[1.0, 0.5, large], &[1, 1, 3], dtype, &Device::Cpu);
        let input = Var::from_tensor(&input).unwrap();
        let targets = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
        let options = CtcLossOptions {
            gradient: GradientKind::Torch,
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let loss = ctc_loss(&input, &targets, [1], [1], options).unwrap();
        let gradient = tensors::read(loss.backward().unwrap().get(&input).unwrap());
        assert!((gradient[0] - 1f64.exp()).abs() < 1e-6, "{gradient:?}");
        assert!(
            (gradient[1] - (0.5f64.exp() - 1.0)).abs() < 1e-6,
            "{gradient:?}"
        );
        assert_eq!(gradient[2], f64::INFINITY, "{gradient:?}");
    }
}

/// A gradient of this size may be written with non-temporal stores; rows as short as these must not be.
#[test]
fn a_large_gradient_of_few_classes_is_that_of_each_item_alone() {
    const FRAMES: usize = 60_000;
    const CLASSES: usize = 3;
    let gradient = |items: usize| {
        let input = Var::zeros((FRAMES, items, CLASSES), DType::F32, &Device::Cpu).unwrap();
        let targets = Tensor::ones((items, 1), DType::U32, &Device::Cpu).unwrap();
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let lengths = (vec![FRAMES; items], vec![1usize; items]);
        let loss = Entry::Logits.loss(&input, &targets, &lengths.0, &lengths.1, opts);
        let gradients = loss.unwrap().backward().unwrap();
        let last = gradients.get(&input).unwrap().narrow(1, items - 1, 1);
        tensors::read(&last.unwrap())
    };
    let (alone, among_many) = (gradient(1), gradient(25));
    assert!(alone.iter().any(|x| *x != 0.0));
    assert!(alone == among_many);
}

#[test]
fn torch_gradient_is_not_the_derivative_at_log_probs() {
    let mut rng = Rng::new(11);
    let mut problem = problem(&mut rng);
    problem.targets = vec![vec![1 - problem.blank.min(1)]];
    problem.input_lengths = vec![problem.frames];
    problem.values.truncate(problem.frames * problem.classes);
    let torch = CtcLossOptions {
        blank: problem.blank,
        gradient: GradientKind::Torch,
        ..Default::default()
    };
    let exact = CtcLossOptions {
        gradient: GradientKind::Exact,
        ..torch
    };
    let run = |options| {
        run_problem(
            Entry::LogProbs,
            &problem,
            options,
            DType::F64,
            &Device::Cpu,
            None,
        )
        .unwrap()
    };
    let difference: Vec<f64> = run(torch)
        .gradient
        .iter()
        .zip(&run(exact).gradient)
        .map(|(a, b)| a - b)
        .collect();
    let probs: Vec<f64> = problem.values.iter().map(|x| x.exp()).collect();
    tolerance::gradient(DType::F64).check("torch - exact = exp(log_probs)", &difference, &probs);
}
