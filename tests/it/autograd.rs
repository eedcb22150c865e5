//! The loss is one operation among others in candle's graph.

use crate::common::oracle::Problem;
use crate::common::{self, Entry, Rng, bits, devices, holds, run, tensors, tolerance};
use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{
    CtcLossOptions, GradientKind, Reduction, ctc_loss, ctc_loss_and_gradient,
    ctc_loss_and_gradient_with_logits, ctc_loss_with_logits,
};

const FRAMES: usize = 10;
const ITEMS: usize = 3;
const CLASSES: usize = 6;
const INPUT_LENGTHS: [usize; ITEMS] = [10, 8, 9];
const TARGET_LENGTHS: [usize; ITEMS] = [3, 0, 2];

fn targets(device: &Device) -> Tensor {
    tensors::padded(
        &[vec![1, 1, 5], vec![], vec![4, 2]],
        0,
        0,
        DType::U32,
        device,
    )
}

fn other_targets(device: &Device) -> Tensor {
    tensors::padded(
        &[vec![2, 3, 2], vec![], vec![5, 5]],
        0,
        0,
        DType::U32,
        device,
    )
}

fn logits(seed: u64, device: &Device) -> Tensor {
    let values = Rng::new(seed).values(FRAMES * ITEMS * CLASSES, 2.0);
    tensors::floats(&values, &[FRAMES, ITEMS, CLASSES], DType::F32, device)
}

fn none() -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    }
}

fn gradient_of(scalar: &Tensor, leaf: &Tensor) -> Vec<f64> {
    tensors::read(scalar.backward().unwrap().get(leaf).unwrap())
}

fn check(got: &[f64], want: &[f64]) {
    tolerance::gradient(DType::F32).check("gradient", got, want);
}

fn added(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn scaled(a: &[f64], factor: f64) -> Vec<f64> {
    a.iter().map(|a| a * factor).collect()
}

fn log_softmax(x: &Tensor) -> Tensor {
    let shifted = x.broadcast_sub(&x.max_keepdim(2).unwrap()).unwrap();
    let sum = shifted.exp().unwrap().sum_keepdim(2).unwrap();
    shifted.broadcast_sub(&sum.log().unwrap()).unwrap()
}

#[test]
fn gradient_flows_through_operations_before_and_after() {
    const FEATURES: usize = 4;
    for device in devices() {
        for entry in Entry::ALL {
            let mut rng = Rng::new(70);
            let features = tensors::floats(
                &rng.values(FRAMES * ITEMS * FEATURES, 1.0),
                &[FRAMES * ITEMS, FEATURES],
                DType::F32,
                &device,
            );
            let weight = tensors::floats(
                &rng.values(FEATURES * CLASSES, 1.0),
                &[FEATURES, CLASSES],
                DType::F32,
                &device,
            );
            let weight = Var::from_tensor(&weight).unwrap();
            // A matrix product, as products and a sum.
            let logits = features
                .unsqueeze(2)
                .unwrap()
                .broadcast_mul(&weight.unsqueeze(0).unwrap())
                .unwrap()
                .sum(1)
                .unwrap()
                .reshape((FRAMES, ITEMS, CLASSES))
                .unwrap();
            let input = if entry == Entry::Logits {
                logits.clone()
            } else {
                log_softmax(&logits)
            };
            let loss = entry
                .loss(
                    &input,
                    &targets(&device),
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    none(),
                )
                .unwrap();
            // 3 x^2 - x, summed over the items.
            let scalar = ((loss.sqr().unwrap() * 3.0).unwrap() - &loss)
                .unwrap()
                .sum_all()
                .unwrap();
            let got = gradient_of(&scalar, &weight);

            // By hand: upstream 6 x - 1, then the transposed product.
            let upstream: Vec<f64> = tensors::read(&loss).iter().map(|x| 6.0 * x - 1.0).collect();
            let at_logits = run(
                Entry::Logits,
                &logits.detach(),
                &targets(&device),
                &INPUT_LENGTHS,
                &TARGET_LENGTHS,
                none(),
                Some(&upstream),
            );
            let at_logits = at_logits.unwrap().gradient;
            let features = tensors::read(&features);
            let want: Vec<f64> = (0..FEATURES * CLASSES)
                .map(|i| {
                    let (f, c) = (i / CLASSES, i % CLASSES);
                    (0..FRAMES * ITEMS)
                        .map(|r| features[r * FEATURES + f] * at_logits[r * CLASSES + c])
                        .sum()
                })
                .collect();
            // Thirty products of upstream gradients near 100.
            tolerance::Tolerance {
                absolute: 1e-2,
                relative: 1e-4,
            }
            .check("gradient", &got, &want);
        }
    }
}

#[test]
fn several_losses_in_one_graph_add_up() {
    for device in devices() {
        for entry in Entry::ALL {
            let (x, a, b) = (
                logits(71, &device),
                targets(&device),
                other_targets(&device),
            );
            let alone = |t| {
                run(entry, &x, t, &INPUT_LENGTHS, &TARGET_LENGTHS, none(), None)
                    .unwrap()
                    .gradient
            };
            let want = added(&alone(&a), &scaled(&alone(&b), -0.5));

            let leaf = Var::from_tensor(&x).unwrap();
            let loss = |t| {
                entry
                    .loss(&leaf, t, &INPUT_LENGTHS, &TARGET_LENGTHS, none())
                    .unwrap()
                    .sum_all()
                    .unwrap()
            };
            let scalar = (loss(&a) + (loss(&b) * -0.5).unwrap()).unwrap();
            check(&gradient_of(&scalar, &leaf), &want);
        }
    }
}

#[test]
fn two_inputs_in_one_graph_have_their_own_gradients() {
    let device = Device::Cpu;
    let t = targets(&device);
    let (x, y) = (logits(72, &device), logits(73, &device));
    let alone = |x, entry: Entry| {
        run(entry, x, &t, &INPUT_LENGTHS, &TARGET_LENGTHS, none(), None)
            .unwrap()
            .gradient
    };
    let (a, b) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&y).unwrap());
    let scalar = (ctc_loss(&a, &t, INPUT_LENGTHS, TARGET_LENGTHS, none())
        .unwrap()
        .sum_all()
        .unwrap()
        + ctc_loss_with_logits(&b, &t, INPUT_LENGTHS, TARGET_LENGTHS, none())
            .unwrap()
            .sum_all()
            .unwrap())
    .unwrap();
    let gradients = scalar.backward().unwrap();
    check(
        &tensors::read(gradients.get(&a).unwrap()),
        &alone(&x, Entry::LogProbs),
    );
    check(
        &tensors::read(gradients.get(&b).unwrap()),
        &alone(&y, Entry::Logits),
    );
}

#[test]
fn backward_twice_gives_the_same_bits() {
    for device in devices() {
        for entry in Entry::ALL {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                let leaf = Var::from_tensor(&logits(74, &device)).unwrap();
                let options = CtcLossOptions {
                    reduction,
                    ..none()
                };
                let loss = entry
                    .loss(
                        &leaf,
                        &targets(&device),
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                    )
                    .unwrap();
                let first = gradient_of(&loss, &leaf);
                assert_eq!(
                    common::bits(&gradient_of(&loss, &leaf)),
                    common::bits(&first)
                );
                // And with another upstream gradient.
                check(
                    &gradient_of(&(&loss * 2.0).unwrap(), &leaf),
                    &scaled(&first, 2.0),
                );
            }
        }
    }
}

#[test]
fn backward_from_none_is_backward_from_the_sum() {
    for device in devices() {
        for entry in Entry::ALL {
            let leaf = Var::from_tensor(&logits(75, &device)).unwrap();
            let go = |reduction| {
                let options = CtcLossOptions {
                    reduction,
                    ..none()
                };
                let loss = entry
                    .loss(
                        &leaf,
                        &targets(&device),
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                    )
                    .unwrap();
                gradient_of(&loss, &leaf)
            };
            check(&go(Reduction::None), &go(Reduction::Sum));
        }
    }
}

#[test]
fn each_item_takes_its_own_upstream_gradient() {
    for device in devices() {
        for entry in Entry::ALL {
            for gradient in [GradientKind::Exact, GradientKind::Torch] {
                let options = CtcLossOptions { gradient, ..none() };
                let go = |upstream: [f64; ITEMS]| {
                    let (x, t) = (logits(76, &device), targets(&device));
                    run(
                        entry,
                        &x,
                        &t,
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                        Some(&upstream),
                    )
                    .unwrap()
                    .gradient
                };
                let parts = [
                    go([1.0, 0.0, 0.0]),
                    go([0.0, 1.0, 0.0]),
                    go([0.0, 0.0, 1.0]),
                ];
                for (n, part) in parts.iter().enumerate() {
                    for (i, &g) in part.iter().enumerate() {
                        assert!(
                            g == 0.0 || i / CLASSES % ITEMS == n,
                            "item {n} leaks into entry {i}"
                        );
                    }
                    assert!(part.iter().any(|&g| g != 0.0));
                }
                let want = added(
                    &scaled(&parts[0], -1.5),
                    &added(&scaled(&parts[1], 4.0), &scaled(&parts[2], 0.25)),
                );
                check(&go([-1.5, 4.0, 0.25]), &want);
            }
        }
    }
}

#[test]
fn a_loss_used_twice_gets_both_gradients() {
    for device in devices() {
        for entry in Entry::ALL {
            let leaf = Var::from_tensor(&logits(77, &device)).unwrap();
            let loss = entry
                .loss(
                    &leaf,
                    &targets(&device),
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    CtcLossOptions::default(),
                )
                .unwrap();
            let value = tensors::read(&loss)[0];
            let want = scaled(&gradient_of(&loss, &leaf), 2.0 * value);
            check(&gradient_of(&(&loss * &loss).unwrap(), &leaf), &want);
        }
    }
}

#[test]
fn an_input_used_by_the_loss_and_elsewhere_gets_both_gradients() {
    for device in devices() {
        for entry in Entry::ALL {
            let leaf = Var::from_tensor(&logits(78, &device)).unwrap();
            let loss = entry
                .loss(
                    &leaf,
                    &targets(&device),
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    CtcLossOptions::default(),
                )
                .unwrap();
            let penalty = (leaf.sqr().unwrap().sum_all().unwrap() * 0.1).unwrap();
            let want = added(
                &gradient_of(&loss, &leaf),
                &scaled(&tensors::read(&leaf), 0.2),
            );
            check(&gradient_of(&(loss + penalty).unwrap(), &leaf), &want);
        }
    }
}

#[test]
fn an_untracked_input_gives_an_untracked_loss() {
    for device in devices() {
        for entry in Entry::ALL {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                let options = CtcLossOptions {
                    reduction,
                    ..none()
                };
                let go = |x: &Tensor| {
                    entry
                        .loss(
                            x,
                            &targets(&device),
                            &INPUT_LENGTHS,
                            &TARGET_LENGTHS,
                            options,
                        )
                        .unwrap()
                };
                let x = logits(79, &device);
                assert!(!go(&x).track_op());
                let leaf = Var::from_tensor(&x).unwrap();
                assert!(go(&leaf).track_op());
                assert!(!go(&leaf.detach()).track_op());
            }
        }
    }
}

#[test]
fn a_zero_upstream_gradient_gives_a_zero_gradient() {
    for device in devices() {
        for entry in Entry::ALL {
            let (x, t) = (logits(80, &device), targets(&device));
            let zero = Some(&[0.0; ITEMS][..]);
            let out = run(entry, &x, &t, &INPUT_LENGTHS, &TARGET_LENGTHS, none(), zero).unwrap();
            assert!(out.gradient.iter().all(|&g| g == 0.0));
        }
    }
}

#[test]
fn gradient_reaches_an_f32_leaf_through_a_half_input() {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16] {
            for entry in Entry::ALL {
                let leaf = Var::from_tensor(&logits(81, &device)).unwrap();
                let half = leaf.to_dtype(dtype).unwrap();
                let loss = entry
                    .loss(
                        &half,
                        &targets(&device),
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        CtcLossOptions::default(),
                    )
                    .unwrap();
                let got = gradient_of(&loss, &leaf);
                let t = targets(&device);
                let options = CtcLossOptions::default();
                let want = run(
                    entry,
                    &half.detach(),
                    &t,
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    options,
                    None,
                )
                .unwrap();
                assert_eq!(got, want.gradient);
            }
        }
    }
}

#[test]
fn descent_along_the_gradient_learns_the_target() {
    for device in devices() {
        for gradient in [GradientKind::Exact, GradientKind::Torch] {
            let leaf = Var::from_tensor(&logits(82, &device)).unwrap();
            let t = targets(&device);
            let options = CtcLossOptions {
                gradient,
                reduction: Reduction::Sum,
                ..Default::default()
            };
            let loss =
                || ctc_loss_with_logits(&leaf, &t, INPUT_LENGTHS, TARGET_LENGTHS, options).unwrap();
            let before = tensors::read(&loss())[0];
            for _ in 0..200 {
                let gradients = loss().backward().unwrap();
                let step = (gradients.get(&leaf).unwrap() * 2.0).unwrap();
                leaf.set(&(leaf.as_tensor() - step).unwrap()).unwrap();
            }
            let after = tensors::read(&loss())[0];
            assert!(
                before > 5.0 && (0.0..0.5).contains(&after),
                "{before} to {after}"
            );
        }
    }
}

/// Loss and gradient without a graph have the bits that candle's backward pass gives.
#[test]
fn loss_and_gradient_are_those_of_a_backward_pass() {
    let mut rng = Rng::new(71);
    let targets: Vec<Vec<usize>> = [3, 0, 5, 9]
        .iter()
        .map(|&length| rng.target(length, 6, 0, 0.3))
        .collect();
    // The last one does not fit.
    let problem = Problem {
        frames: 9,
        classes: 6,
        blank: 0,
        values: rng.values(9 * 4 * 6, 2.0),
        input_lengths: vec![9, 4, 8, 5],
        targets,
    }
    .log_softmax();
    for device in devices() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                for gradient in [GradientKind::Exact, GradientKind::Torch] {
                    if !holds(&device, dtype) {
                        continue;
                    }
                    let opts = CtcLossOptions {
                        reduction,
                        gradient,
                        zero_infinity: reduction == Reduction::Mean,
                        ..Default::default()
                    };
                    without_a_graph(&problem, opts, dtype, &device);
                }
            }
        }
    }
}

fn without_a_graph(problem: &Problem, opts: CtcLossOptions, dtype: DType, device: &Device) {
    let dims = [problem.frames, problem.items(), problem.classes];
    let input = tensors::floats(&problem.values, &dims, dtype, device);
    let targets = tensors::padded(&problem.targets, 0, 0, DType::U32, device);
    let lengths = (&problem.input_lengths, problem.target_lengths());
    for (entry, at_once) in [
        (
            Entry::LogProbs,
            ctc_loss_and_gradient(&input, &targets, lengths.0, &lengths.1, opts),
        ),
        (
            Entry::Logits,
            ctc_loss_and_gradient_with_logits(&input, &targets, lengths.0, &lengths.1, opts),
        ),
    ] {
        let (loss, gradient) = at_once.unwrap();
        let want = run(entry, &input, &targets, lengths.0, &lengths.1, opts, None).unwrap();
        assert_eq!(gradient.dims(), dims);
        assert_eq!(gradient.dtype(), dtype);
        assert_eq!(loss.dims(), want.loss_dims);
        assert!(!loss.track_op() && !gradient.track_op());
        let got = (tensors::read(&loss), tensors::read(&gradient));
        // −0 and 0 are one: candle adds the gradient to zeros.
        let plain = |values: &[f64]| bits(&values.iter().map(|v| v + 0.0).collect::<Vec<_>>());
        assert_eq!(
            plain(&got.0),
            plain(&want.loss),
            "{entry:?} {opts:?} {dtype:?}"
        );
        assert_eq!(
            plain(&got.1),
            plain(&want.gradient),
            "{entry:?} {opts:?} {dtype:?}"
        );
    }
}
