//! Weights of the emissions of a loss, against the definition: enumeration, and the recursion on weighted entries.

use crate::common::oracle::{Problem, Truth, enumerate, recursion};
use crate::common::{Entry, Rng, devices, gpus, holds, in_layout, tensors, tolerance, weighted};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    Checks, CtcLoss, CtcLossOptions, EmissionOptions, GradientKind, InputLayout, Reduction,
};

/// A test's own copy of the options, to compute the expected emissions from.
struct Weights {
    of_class: Vec<f64>,
    of_blank: f64,
    delay: f64,
}

impl Weights {
    /// Numbers that f32 holds exactly.
    fn new(rng: &mut Rng, classes: usize) -> Self {
        let mut number = |scale: f64| (rng.values(1, scale)[0] * 64.0).round() / 64.0;
        Self {
            of_class: (0..classes).map(|_| number(2.0)).collect(),
            of_blank: number(3.0),
            delay: number(0.5),
        }
    }

    fn options(&self, dtype: DType, device: &Device) -> EmissionOptions {
        let dims = [self.of_class.len()];
        EmissionOptions {
            class_weights: Some(tensors::floats(&self.of_class, &dims, dtype, device)),
            blank_weight: self.of_blank,
            delay_penalty: self.delay,
        }
    }

    /// The frames of one item, (T_n, C), with their weights.
    fn added_to(&self, rows: &[f64], blank: usize) -> Vec<f64> {
        let classes = self.of_class.len();
        let weighted = rows.iter().enumerate().map(|(i, x)| {
            let (t, class) = (i / classes, i % classes);
            let of_kind = match class == blank {
                true => self.of_blank,
                false => -self.delay * t as f64,
            };
            x + self.of_class[class] + of_kind
        });
        weighted.collect()
    }
}

/// The losses of the items, and the gradient at `values`, with an upstream gradient of 1 for each loss.
fn expected(
    problem: &Problem,
    weights: &Weights,
    entry: Entry,
    kind: GradientKind,
    truth: impl Fn(&[f64], &[usize]) -> Truth,
) -> (Vec<f64>, Vec<f64>) {
    let plain = match entry {
        Entry::LogProbs => problem.clone(),
        Entry::Logits => problem.log_softmax(),
    };
    let (mut losses, mut gradient) = (Vec::new(), vec![0.0; problem.values.len()]);
    for n in 0..problem.items() {
        let rows = plain.item(n);
        let truth = truth(&weights.added_to(&rows, problem.blank), &problem.targets[n]);
        for (i, (x, posterior)) in rows.iter().zip(&truth.posterior).enumerate() {
            let (t, class) = (i / problem.classes, i % problem.classes);
            // The softmax is of the entries without weights.
            let dense = entry == Entry::Logits || kind == GradientKind::Torch;
            let feasible = truth.loss < f64::INFINITY;
            gradient[problem.at(t, n, class)] = match (dense, feasible) {
                (true, true) => x.exp() - posterior,
                (true, false) if entry == Entry::LogProbs => f64::NAN,
                _ => 0.0 - posterior,
            };
        }
        losses.push(truth.loss);
    }
    (losses, gradient)
}

/// The losses and the gradient that the crate computes.
fn found(
    problem: &Problem,
    criterion: &CtcLoss,
    entry: Entry,
    dtype: DType,
    device: &Device,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let dims = [problem.frames, problem.items(), problem.classes];
    let layout = criterion.options().layout;
    let input = in_layout(
        &tensors::floats(&problem.values, &dims, dtype, device),
        layout,
    );
    let leaf = Var::from_tensor(&input)?;
    let blank = problem.blank as i64;
    let targets = tensors::padded(&problem.targets, 0, blank, DType::U32, device);
    let lengths = (&problem.input_lengths, problem.target_lengths());
    let loss = match entry {
        Entry::LogProbs => criterion.forward(&leaf, &targets, lengths.0, lengths.1)?,
        Entry::Logits => criterion.forward_with_logits(&leaf, &targets, lengths.0, lengths.1)?,
    };
    let grads = weighted(&loss, None)?.backward()?;
    let mut gradient = grads.get(&leaf).unwrap().clone();
    if layout == InputLayout::BatchMajor {
        gradient = gradient.transpose(0, 1)?;
    }
    Ok((tensors::read(&loss), tensors::read(&gradient)))
}

/// Log-probabilities or logits that a dtype holds exactly; NaN behind the lengths.
fn problem(
    rng: &mut Rng,
    dims: [usize; 3],
    lengths: &[usize],
    targets: &[&[usize]],
    dtype: DType,
) -> Problem {
    let [frames, items, classes] = dims;
    let mut problem = Problem {
        frames,
        classes,
        blank: 1,
        values: rng.values(frames * items * classes, 2.0),
        targets: targets.iter().map(|target| target.to_vec()).collect(),
        input_lengths: lengths.to_vec(),
    };
    problem = problem.log_softmax();
    problem.values = tensors::rounded(&problem.values, dtype);
    for (n, &length) in lengths.iter().enumerate() {
        for t in length..frames {
            let at = problem.at(t, n, 0);
            problem.values[at..at + classes].fill(f64::NAN);
        }
    }
    problem
}

fn check(
    problem: &Problem,
    dtype: DType,
    device: &Device,
    truth: impl Fn(&[f64], &[usize]) -> Truth,
) {
    let weights = Weights::new(&mut Rng::new(7), problem.classes);
    let layouts = [InputLayout::TimeMajor, InputLayout::BatchMajor];
    let kinds = [GradientKind::Exact, GradientKind::Torch];
    for (i, entry) in Entry::ALL.into_iter().cycle().take(4).enumerate() {
        let (layout, gradient) = (layouts[i / 2], kinds[i / 2]);
        let opts = CtcLossOptions {
            blank: problem.blank,
            reduction: Reduction::None,
            layout,
            gradient,
            ..Default::default()
        };
        let criterion = CtcLoss::new(opts).emissions(weights.options(DType::F32, device));
        let found = found(problem, &criterion, entry, dtype, device).unwrap();
        let expected = expected(problem, &weights, entry, gradient, &truth);
        let what = format!("{entry:?} {dtype:?} {opts:?}");
        tolerance::loss(dtype).check(&what, &found.0, &expected.0);
        tolerance::gradient(dtype).check(&what, &found.1, &expected.1);
    }
}

// The last target does not fit; the one before it has no labels.
fn check_short_rows(dtypes: &[DType]) {
    let targets: [&[usize]; 4] = [&[0, 2], &[2, 2], &[], &[0, 0]];
    for (device, &dtype) in devices()
        .iter()
        .flat_map(|device| dtypes.iter().map(move |d| (device, d)))
    {
        if holds(device, dtype) {
            let mut rng = Rng::new(1);
            let problem = problem(&mut rng, [5, 4, 3], &[5, 4, 3, 2], &targets, dtype);
            let blank = problem.blank;
            check(&problem, dtype, device, |rows, target| {
                enumerate(rows, 3, target, blank)
            });
        }
    }
}

#[test]
fn a_path_of_f32_counts_with_its_weights() {
    check_short_rows(&[DType::F32]);
}

#[test]
fn a_path_of_other_dtypes_counts_with_its_weights() {
    check_short_rows(&[DType::F64, DType::F16, DType::BF16]);
}

// Rows that the GPU's kernels take in several steps, and more classes in use than a warp has lanes.
fn check_long_rows(dtypes: &[DType]) {
    let labels = |count: usize, classes: usize| -> Vec<usize> {
        let label = |i: usize| 2 + (i * 7) % (classes - 2);
        (0..count).map(label).collect()
    };
    let sizes = [
        (70, 300, 40),
        (40, 2100, 12),
        (20, 4200, 6),
        (33, 40, 9),
        (150, 600, 140),
    ];
    for (frames, classes, count) in sizes {
        let (long, short) = (labels(count, classes), labels(count / 3, classes));
        for (device, &dtype) in devices()
            .iter()
            .flat_map(|device| dtypes.iter().map(move |d| (device, d)))
        {
            if holds(device, dtype) {
                let mut rng = Rng::new(2);
                let (dims, lengths) = ([frames, 2, classes], [frames, frames - 5]);
                let problem = problem(&mut rng, dims, &lengths, &[&long, &short], dtype);
                let blank = problem.blank;
                check(&problem, dtype, device, |rows, target| {
                    recursion(rows, classes, target, blank)
                });
            }
        }
    }
}

#[test]
fn weights_of_long_rows_of_f32_are_those_of_the_recursion() {
    check_long_rows(&[DType::F32]);
}

#[test]
fn weights_of_long_rows_of_other_dtypes_are_those_of_the_recursion() {
    check_long_rows(&[DType::F64, DType::F16, DType::BF16]);
}

// Many losses without gradients are computed side by side on the CPU.
#[test]
fn an_item_of_a_large_batch_has_the_bits_of_the_item_alone() -> Result<()> {
    let (frames, items, classes) = (30, 40, 5);
    let device = &Device::Cpu;
    let mut rng = Rng::new(4);
    let weights = Weights::new(&mut rng, classes).options(DType::F32, device);
    let targets: Vec<Vec<usize>> = (0..items)
        .map(|n| (0..n % 9).map(|i| 2 + (i + n) % 3).collect())
        .collect();
    let input = tensors::floats(
        &rng.values(frames * items * classes, 1.0),
        &[frames, items, classes],
        DType::F32,
        device,
    );
    let opts = CtcLossOptions {
        blank: 1,
        reduction: Reduction::None,
        ..Default::default()
    };
    let criterion = CtcLoss::new(opts).emissions(weights);
    let lengths: Vec<usize> = (0..items).map(|n| frames - n % 7).collect();
    let loss = |input: &Tensor, targets: &[Vec<usize>], lengths: &[usize]| -> Result<Vec<f64>> {
        let padded = tensors::padded(targets, 0, 1, DType::U32, device);
        let counts: Vec<usize> = targets.iter().map(Vec::len).collect();
        Ok(tensors::read(
            &criterion.forward_with_logits(input, &padded, lengths, counts)?,
        ))
    };
    // With few threads, so that each has at least eight items to take side by side.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let together = pool.install(|| loss(&input, &targets, &lengths))?;
    for n in 0..items {
        let alone = loss(&input.narrow(1, n, 1)?, &targets[n..=n], &lengths[n..=n])?;
        assert_eq!(alone[0].to_bits(), together[n].to_bits(), "item {n}");
    }
    Ok(())
}

#[test]
fn weights_of_zero_change_nothing() -> Result<()> {
    let mut rng = Rng::new(5);
    let problem = problem(
        &mut rng,
        [9, 2, 4],
        &[9, 6],
        &[&[0, 2, 2], &[3]],
        DType::F32,
    );
    let opts = CtcLossOptions {
        blank: 1,
        ..Default::default()
    };
    for device in devices() {
        let zeros = Tensor::zeros(4, DType::F32, &device)?;
        for class_weights in [None, Some(zeros)] {
            let emissions = EmissionOptions {
                class_weights,
                ..Default::default()
            };
            let weighted = CtcLoss::new(opts).emissions(emissions);
            for entry in Entry::ALL {
                let plain = found(&problem, &CtcLoss::new(opts), entry, DType::F32, &device)?;
                let weighted = found(&problem, &weighted, entry, DType::F32, &device)?;
                tolerance::loss(DType::F32).check("loss", &weighted.0, &plain.0);
                tolerance::gradient(DType::F32).check("gradient", &weighted.1, &plain.1);
            }
        }
    }
    Ok(())
}

#[test]
fn the_gradient_is_that_of_finite_differences() -> Result<()> {
    let (frames, classes, target) = (7, 4, [2u32, 2, 0]);
    let device = &Device::Cpu;
    let mut rng = Rng::new(6);
    let emissions = Weights::new(&mut rng, classes).options(DType::F64, device);
    let criterion = CtcLoss::new(CtcLossOptions {
        blank: 1,
        ..Default::default()
    })
    .emissions(emissions);
    let labels = Tensor::new(&target, device)?;
    let values = rng.values(frames * classes, 1.0);
    let loss = |values: &[f64]| -> Result<(Var, Tensor)> {
        let leaf = Var::from_tensor(&tensors::floats(
            values,
            &[frames, classes],
            DType::F64,
            device,
        ))?;
        let loss = criterion.forward_with_logits(&leaf, &labels, frames, target.len())?;
        Ok((leaf, loss))
    };
    let (leaf, value) = loss(&values)?;
    let gradient = tensors::read(value.backward()?.get(&leaf).unwrap());
    let moved = |i: usize, by: f64| -> Result<f64> {
        let mut values = values.clone();
        values[i] += by;
        loss(&values)?.1.to_scalar::<f64>()
    };
    let differences = (0..values.len()).map(|i| Ok((moved(i, 1e-5)? - moved(i, -1e-5)?) / 2e-5));
    let differences = differences.collect::<Result<Vec<f64>>>()?;
    tolerance::FINITE_DIFFERENCES.check("gradient", &gradient, &differences);
    Ok(())
}

// A table of logits learns the transcript: when each label is written first along the best path, and in how many frames.
#[test]
fn a_delay_penalty_makes_labels_early_and_short() -> Result<()> {
    let (frames, classes) = (40, 4);
    let device = &Device::Cpu;
    let labels = Tensor::new(&[1u32, 2, 3], device)?;
    let first_frames = |delay_penalty: f64| -> Result<(Vec<usize>, usize)> {
        let emissions = EmissionOptions {
            delay_penalty,
            ..Default::default()
        };
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let criterion = CtcLoss::new(opts).emissions(emissions);
        let logits = Var::zeros((frames, classes), DType::F64, device)?;
        for _ in 0..200 {
            let loss = criterion.forward_with_logits(&logits, &labels, frames, 3)?;
            let step = (loss.backward()?.get(&logits).unwrap() * 0.5)?;
            logits.set(&(logits.as_tensor() - step)?)?;
        }
        let best: Vec<u32> = logits.argmax(1)?.to_vec1()?;
        let first = |label: u32| best.iter().position(|&class| class == label).unwrap();
        let written = best.iter().filter(|&&class| class != 0).count();
        Ok(((1..4).map(first).collect(), written))
    };
    let (without, with) = (first_frames(0.0)?, first_frames(0.05)?);
    assert!(
        with.0
            .iter()
            .zip(&without.0)
            .all(|(with, without)| with < without),
        "{without:?} {with:?}"
    );
    assert!(with.1 <= without.1, "{without:?} {with:?}");
    Ok(())
}

#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU"
)]
fn targets_that_stay_on_the_device_have_weights_too() -> Result<()> {
    let mut rng = Rng::new(8);
    let targets: [&[usize]; 2] = [&[0, 2, 2], &[3]];
    let problem = problem(&mut rng, [9, 2, 4], &[9, 6], &targets, DType::F32);
    for device in gpus() {
        let weights = Weights::new(&mut rng, 4).options(DType::F32, &device);
        let [host, on_device] = [Checks::Host, Checks::Device].map(|checks| {
            let opts = CtcLossOptions {
                blank: 1,
                checks,
                ..Default::default()
            };
            let criterion = CtcLoss::new(opts).emissions(weights.clone());
            found(&problem, &criterion, Entry::Logits, DType::F32, &device).unwrap()
        });
        assert_eq!(host, on_device);
    }
    Ok(())
}

#[test]
fn weights_that_do_not_fit_are_an_error() -> Result<()> {
    let device = &Device::Cpu;
    let (input, labels) = (
        Tensor::zeros((3, 4), DType::F32, device)?,
        Tensor::new(&[1u32], device)?,
    );
    let weights = |values: &[f32]| -> Result<EmissionOptions> {
        let class_weights = Some(Tensor::new(values, device)?);
        Ok(EmissionOptions {
            class_weights,
            ..Default::default()
        })
    };
    let mut integers = weights(&[0.0; 4])?;
    integers.class_weights = Some(Tensor::zeros(4, DType::U32, device)?);
    let cases = [
        (weights(&[0.0; 3])?, vec!["class_weights", "[3]", "[4]"]),
        (weights(&[0.0, 1.0, f32::NAN, 0.0])?, vec!["class 2", "NaN"]),
        (
            weights(&[f32::NEG_INFINITY, 1.0, 0.0, 0.0])?,
            vec!["class 0", "-inf"],
        ),
        (integers, vec!["U32"]),
        (
            EmissionOptions {
                blank_weight: -1e39,
                ..Default::default()
            },
            vec!["blank_weight", "F32"],
        ),
        (
            EmissionOptions {
                blank_weight: f64::INFINITY,
                ..Default::default()
            },
            vec!["blank_weight"],
        ),
        (
            EmissionOptions {
                delay_penalty: f64::NAN,
                ..Default::default()
            },
            vec!["delay_penalty", "NaN"],
        ),
    ];
    for (emissions, parts) in cases {
        let criterion = CtcLoss::new(CtcLossOptions::default()).emissions(emissions);
        let error = criterion
            .forward_with_logits(&input, &labels, 3, 1)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
    Ok(())
}
