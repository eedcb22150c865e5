//! Each way through the GPU kernels once, in f32 and in little time: what a fault planted in a kernel must
//! not pass. The CPU runs it too.

use crate::common::oracle::{Problem, repeats};
use crate::common::{Entry, Rng, devices, gpus, run_problem, tensors, tolerance};
use candle_core::{DType, Tensor, Var};
use candle_ctc::{
    Checks, CtcLossOptions, GradientKind, InputLayout, Reduction, ctc_loss, ctc_loss_with_logits,
};

/// Items with targets of these lengths, of labels that often repeat, and a few frames to spare.
fn problem(seed: u64, lengths: &[usize], classes: usize, spare: usize) -> Problem {
    let mut rng = Rng::new(seed);
    let targets: Vec<Vec<usize>> = lengths
        .iter()
        .map(|&length| rng.target(length, classes, 1, 0.3))
        .collect();
    let input_lengths: Vec<usize> = targets
        .iter()
        .map(|target| target.len() + repeats(target) + rng.below(spare))
        .collect();
    // One frame more than any item has.
    let frames = input_lengths.iter().copied().max().unwrap_or(0) + 1;
    let values = rng.values(frames * lengths.len() * classes, 3.0);
    Problem {
        frames,
        classes,
        blank: 1,
        values: tensors::rounded(&values, DType::F32),
        targets,
        input_lengths,
    }
}

fn options(reduction: Reduction) -> CtcLossOptions {
    CtcLossOptions {
        blank: 1,
        reduction,
        ..Default::default()
    }
}

/// Compares loss and gradient with the truth for the input as it is.
fn check(entry: Entry, problem: &Problem, options: CtcLossOptions) {
    let (loss, gradient) = match entry {
        Entry::LogProbs => problem.expected(&options, None),
        Entry::Logits => problem.expected_with_logits(&options, None),
    };
    for device in devices() {
        let got = run_problem(entry, problem, options, DType::F32, &device, None).unwrap();
        tolerance::loss(DType::F32).check("loss", &got.loss, &loss);
        tolerance::gradient(DType::F32).check("gradient", &got.gradient, &gradient);
    }
}

fn probabilities(problem: &Problem) -> Problem {
    let problem = problem.log_softmax();
    Problem {
        values: tensors::rounded(&problem.values, DType::F32),
        ..problem
    }
}

#[test]
fn one_pair_a_lane() {
    let logits = problem(1, &[3, 0, 9, 1, 6], 5, 7);
    for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
        check(Entry::Logits, &logits, options(reduction));
        check(Entry::LogProbs, &probabilities(&logits), options(reduction));
    }
    let torch = CtcLossOptions {
        gradient: GradientKind::Torch,
        layout: InputLayout::BatchMajor,
        ..options(Reduction::Sum)
    };
    check(Entry::LogProbs, &probabilities(&logits), torch);
}

#[test]
fn two_pairs_a_lane_and_several_tiles() {
    check(
        Entry::Logits,
        &problem(2, &[45, 20], 30, 30),
        options(Reduction::None),
    );
    check(
        Entry::Logits,
        &problem(3, &[130, 64], 6, 20),
        options(Reduction::None),
    );
}

#[test]
fn four_pairs_a_lane_and_edges_in_device_memory() {
    check(
        Entry::Logits,
        &problem(4, &[215], 4, 9),
        options(Reduction::None),
    );
    check(
        Entry::Logits,
        &problem(5, &[505, 2], 40, 5),
        options(Reduction::None),
    );
}

#[test]
fn long_rows_of_a_warp_and_of_a_block() {
    for classes in [300, 4500] {
        let long = problem(6, &[12, 30], classes, 9);
        check(Entry::Logits, &long, options(Reduction::None));
        // Few classes beside the blank, each many times.
        let mut often = problem(7, &[40], classes, 9);
        for label in &mut often.targets[0] {
            *label = 2 + *label % 3;
        }
        often.input_lengths[0] = often.frames;
        often.frames += 40;
        often.input_lengths[0] += 40;
        let values = Rng::new(8).values(often.frames * classes, 3.0);
        often.values = tensors::rounded(&values, DType::F32);
        check(Entry::Logits, &often, options(Reduction::None));
    }
    // More classes of the target than the lanes of a warp take at once, some of them several times.
    let many = problem(19, &[170], 300, 5);
    check(Entry::Logits, &many, options(Reduction::None));
}

/// So many rows that a warp takes several frames of an item; most of them behind the item's end.
#[test]
fn frames_that_a_warp_takes_together() {
    let mut lengths: Vec<usize> = (0..150).map(|n| [2, 1, 4, 3, 0][n % 5]).collect();
    lengths[7] = 110;
    let many = problem(31, &lengths, 3, 20);
    assert!(many.frames * lengths.len() >= 2 * 8192);
    check(Entry::Logits, &many, options(Reduction::Mean));
}

/// A row that a warp takes together with others, with NaN or +inf in a class that no target has.
#[test]
fn a_short_row_that_is_spoilt_where_no_target_looks() {
    let mut lengths: Vec<usize> = (0..150).map(|n| [2, 1, 4, 3, 1][n % 5]).collect();
    lengths[7] = 110;
    let mut many = problem(32, &lengths, 9, 20);
    assert!(many.frames * lengths.len() >= 2 * 8192);
    for (n, bad) in [(3, f64::NAN), (77, f64::INFINITY), (149, f64::NAN)] {
        let unused = (2..9)
            .find(|class| !many.targets[n].contains(class))
            .unwrap();
        let at = many.at(many.input_lengths[n] - 1, n, unused);
        many.values[at] = bad;
    }
    for device in devices() {
        let opts = options(Reduction::None);
        let out = run_problem(Entry::Logits, &many, opts, DType::F32, &device, None).unwrap();
        for (n, loss) in out.loss.iter().enumerate() {
            let spoilt = [3, 77, 149].contains(&n);
            assert_eq!(loss.is_nan(), spoilt, "item {n}: {loss}");
        }
    }
}

/// Entries too far apart for exponents of 32 bits; differences that f32 cannot split; masks.
#[test]
fn entries_far_apart() {
    let mut far = problem(9, &[40, 9], 5, 9);
    for (t, depth) in [(3, 3.0e4), (10, 1.0e9), (20, 1.0e9), (33, 7.0e5)] {
        let at = far.at(t, 0, 0);
        for class in 0..5 {
            if class != far.targets[0][(t * 39 / 40).min(39)] {
                far.values[at + class] -= depth;
            }
        }
    }
    let at = far.at(2, 1, 0);
    far.values[at] = f64::NEG_INFINITY;
    far.values = tensors::rounded(&far.values, DType::F32);
    check(Entry::Logits, &far, options(Reduction::None));
}

/// A target that leaves no frame to spare must take every label, however far below it is.
#[test]
fn entries_far_below_that_are_needed() {
    let mut tight = problem(14, &[9], 12, 1);
    tight.targets[0] = (2..11).collect();
    tight.input_lengths[0] = 9;
    for (t, below) in [(2, 3.037e4), (5, 7.1234e5), (7, 88.5)] {
        let at = tight.at(t, 0, tight.targets[0][t]);
        tight.values[at] = -below;
    }
    tight.values = tensors::rounded(&tight.values, DType::F32);
    check(Entry::LogProbs, &tight, options(Reduction::None));
}

/// One path alone: it takes a new label at every frame, from tile to tile.
#[test]
fn paths_that_advance_at_every_frame() {
    for length in [20, 70, 150, 260] {
        let mut tight = problem(16, &[length], 12, 1);
        tight.targets[0] = (0..length).map(|i| 2 + i % 9).collect();
        tight.input_lengths[0] = length;
        tight.frames = length;
        tight.values = Rng::new(17).values(length * 12, 2.0);
        tight.values = tensors::rounded(&tight.values, DType::F32);
        check(Entry::Logits, &tight, options(Reduction::None));
    }
}

/// Entries of which every path takes the lower one at every other frame: mantissas shrink for 2400 frames.
#[test]
fn states_that_shrink_for_many_frames() {
    let mut alternating = problem(15, &[1], 4, 1);
    alternating.targets[0] = vec![2];
    alternating.frames = 2400;
    alternating.input_lengths[0] = 2400;
    alternating.values = (0..2400)
        .flat_map(|t| match t % 2 {
            0 => [-9.0, 0.0, -0.33, -9.0],
            _ => [-9.0, -0.33, 0.0, -9.0],
        })
        .collect();
    alternating.values = tensors::rounded(&alternating.values, DType::F32);
    check(Entry::Logits, &alternating, options(Reduction::None));
}

#[test]
fn scores_without_a_gradient() {
    let problem = probabilities(&problem(10, &[70, 12], 9, 20));
    let want = problem.expected(&options(Reduction::None), None).0;
    for device in devices() {
        // A view that begins behind the start of its storage.
        let dims = [problem.frames, 2, problem.classes];
        let input = tensors::floats(&problem.values, &dims, DType::F32, &device);
        let other = (&input * 0.5).unwrap();
        let input = Tensor::cat(&[&other, &input], 0).unwrap();
        let input = input.narrow(0, problem.frames, problem.frames).unwrap();
        let targets = tensors::padded(&problem.targets, 2, -1, DType::I16, &device);
        let loss = ctc_loss(
            &input,
            &targets,
            &problem.input_lengths,
            problem.target_lengths(),
            options(Reduction::None),
        );
        tolerance::loss(DType::F32).check("loss", &tensors::read(&loss.unwrap()), &want);
    }
}

/// The gradient of a view that begins behind the start of its storage, for each kernel that writes a row: few
/// labels, more labels than a short row may have, and none.
#[test]
fn gradients_of_a_view_that_begins_elsewhere() {
    let logits = problem(21, &[9, 70, 0], 9, 12);
    for (entry, problem) in [
        (Entry::Logits, logits.clone()),
        (Entry::LogProbs, probabilities(&logits)),
    ] {
        for gradient in [GradientKind::Exact, GradientKind::Torch] {
            let opts = CtcLossOptions {
                gradient,
                ..options(Reduction::None)
            };
            let (want, want_gradient) = match entry {
                Entry::LogProbs => problem.expected(&opts, None),
                Entry::Logits => problem.expected_with_logits(&opts, None),
            };
            let dims = [problem.frames, 3, problem.classes];
            for device in devices() {
                for dim in 0..3 {
                    let input = tensors::floats(&problem.values, &dims, DType::F32, &device);
                    let other = (&input * 0.5).unwrap();
                    let both = Tensor::cat(&[&other, &input], dim).unwrap();
                    let var = Var::from_tensor(&both).unwrap();
                    let view = var.narrow(dim, dims[dim], dims[dim]).unwrap();
                    let targets = tensors::padded(&problem.targets, 3, 0, DType::U32, &device);
                    let lengths = (&problem.input_lengths, problem.target_lengths());
                    let loss = match entry {
                        Entry::LogProbs => ctc_loss(&view, &targets, lengths.0, lengths.1, opts),
                        Entry::Logits => {
                            ctc_loss_with_logits(&view, &targets, lengths.0, lengths.1, opts)
                        }
                    };
                    let loss = loss.unwrap();
                    tolerance::loss(DType::F32).check("loss", &tensors::read(&loss), &want);
                    let gradient = loss.backward().unwrap().remove(&var).unwrap();
                    let gradient = gradient.narrow(dim, dims[dim], dims[dim]).unwrap();
                    let gradient = tensors::read(&gradient.contiguous().unwrap());
                    tolerance::gradient(DType::F32).check("gradient", &gradient, &want_gradient);
                }
            }
        }
    }
}

/// Tables that the device makes, of integers of every dtype in views of every kind.
#[test]
fn lengths_and_targets_that_stay_on_the_device() {
    let problem = probabilities(&problem(11, &[17, 3, 40], 6, 9));
    let want = problem.expected(&options(Reduction::None), None).0;
    for device in devices() {
        let dims = [problem.frames, 3, problem.classes];
        let input = tensors::floats(&problem.values, &dims, DType::F32, &device);
        for dtype in tensors::INTEGERS {
            let integers = |values: &[usize]| -> Tensor {
                let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                tensors::integers(&values, &[3], dtype, &device)
            };
            let padded = tensors::padded(&problem.targets, 3, 99, dtype, &device);
            let narrowed = padded.narrow(1, 0, 42).unwrap();
            for targets in [
                narrowed,
                tensors::concatenated(&problem.targets, dtype, &device),
            ] {
                let opts = CtcLossOptions {
                    checks: Checks::Device,
                    ..options(Reduction::None)
                };
                let loss = ctc_loss(
                    &input,
                    &targets,
                    &integers(&problem.input_lengths),
                    &integers(&problem.target_lengths()),
                    opts,
                );
                let loss = tensors::read(&loss.unwrap());
                tolerance::loss(DType::F32).check(&format!("{dtype:?}"), &loss, &want);
            }
        }
    }
}

/// What the device must find and not follow.
#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn labels_that_are_no_classes() {
    for device in gpus() {
        let problem = probabilities(&problem(13, &[5, 6], 6, 9));
        let dims = [problem.frames, 2, problem.classes];
        let input = tensors::floats(&problem.values, &dims, DType::F32, &device);
        for (targets, dims) in [
            (
                vec![2i64, 3, 2, 4, 1 << 20, 0, 2, 3, 2, 5, 4, 0],
                vec![2, 6],
            ),
            (vec![2, 3, -7, 4, 2, 2, 3, 2, 5, 4, 0], vec![11]),
        ] {
            let targets = tensors::integers(&targets, &dims, DType::I64, &device);
            let opts = CtcLossOptions {
                checks: Checks::Device,
                ..options(Reduction::None)
            };
            let loss = ctc_loss(
                &input,
                &targets,
                [problem.frames, problem.frames],
                [5, 6],
                opts,
            );
            let loss = tensors::read(&loss.unwrap());
            assert!(loss[0].is_nan() && loss[1].is_finite(), "{loss:?}");
        }
    }
}

#[test]
fn items_that_have_no_lattice() {
    let mut odd = problem(12, &[3, 4, 0, 2, 5], 4, 6);
    odd.input_lengths[0] = 1; // too short
    odd.input_lengths[2] = 0; // nothing for nothing
    odd.input_lengths[3] = 0; // nothing for something
    let at = odd.at(2, 4, 0);
    odd.values[at + 1] = f64::NAN; // the blank of a frame that is used
    for device in devices() {
        for zero_infinity in [false, true] {
            let opts = CtcLossOptions {
                zero_infinity,
                ..options(Reduction::None)
            };
            let out = run_problem(Entry::LogProbs, &odd, opts, DType::F32, &device, None).unwrap();
            let infinite = if zero_infinity { 0.0 } else { f64::INFINITY };
            assert_eq!(out.loss[0], infinite);
            assert!(out.loss[1].is_finite());
            assert_eq!(out.loss[2].to_bits(), 0.0f64.to_bits());
            assert_eq!(out.loss[3], infinite);
            assert!(out.loss[4].is_nan());
            for t in 0..odd.frames {
                for (n, length) in odd.input_lengths.iter().enumerate() {
                    let row = &out.gradient[odd.at(t, n, 0)..][..4];
                    if n == 4 && t < *length {
                        assert!(row.iter().all(|g| g.is_nan()));
                    } else if n != 1 || t >= *length {
                        assert!(row.iter().all(|&g| g == 0.0), "frame {t} item {n}: {row:?}");
                    }
                }
            }
        }
    }
}

/// A loss of thousands is a whole number of binary orders times ln 2, in two parts that each rounding of a product
/// is counted in once. With one path, through entries that are far from the largest of their frame, nothing else
/// is rounded that would show.
#[test]
fn a_large_loss_is_rounded_once() {
    let mut rng = Rng::new(14);
    for _ in 0..24 {
        let frames = 40 + rng.below(40);
        let label = f64::from(-(500.0 + 300.0 * rng.unit()) as f32);
        let far = Problem {
            frames,
            classes: 3,
            blank: 1,
            values: [label, 0.0, label].repeat(frames),
            targets: vec![(0..frames).map(|i| 2 * (i % 2)).collect()],
            input_lengths: vec![frames],
        };
        let want = -label * frames as f64;
        for device in devices() {
            let opts = options(Reduction::None);
            let got = run_problem(Entry::LogProbs, &far, opts, DType::F32, &device, None).unwrap();
            let unit = f64::from(want as f32) - f64::from((want as f32).next_down());
            let off = (got.loss[0] - want).abs() / unit;
            assert!(off < 0.51, "{} for {want}: {off} units", got.loss[0]);
        }
    }
}

/// Rows of an odd number of classes, which start anywhere in a vector: a block's and a warp's, one class behind the
/// other or not.
#[test]
fn long_rows_that_start_anywhere() {
    for (seed, classes) in [(15, 4101), (16, 301)] {
        let odd = problem(seed, &[3, 0, 2], classes, 2);
        let dims = [odd.frames, 3, classes];
        for (entry, problem) in [
            (Entry::Logits, odd.clone()),
            (Entry::LogProbs, probabilities(&odd)),
        ] {
            for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
                let opts = CtcLossOptions {
                    layout,
                    ..options(Reduction::None)
                };
                check(entry, &problem, opts);
            }
        }
        let (want, want_gradient) = odd.expected_with_logits(&options(Reduction::None), None);
        for device in devices() {
            // Classes that are not one behind the other, and a row that starts elsewhere than its gradient's.
            let flat = tensors::floats(&odd.values, &dims, DType::F32, &device);
            let apart = flat.permute((2, 0, 1)).unwrap().contiguous().unwrap();
            let shifted = Tensor::cat(&[&(&flat * 0.5).unwrap(), &flat], 2).unwrap();
            for (view, place) in [(apart, 0), (shifted, classes)] {
                let var = Var::from_tensor(&view).unwrap();
                let input = if place == 0 {
                    var.permute((1, 2, 0)).unwrap()
                } else {
                    var.narrow(2, place, classes).unwrap()
                };
                let targets = tensors::padded(&odd.targets, 0, 0, DType::U32, &device);
                let loss = ctc_loss_with_logits(
                    &input,
                    &targets,
                    &odd.input_lengths,
                    odd.target_lengths(),
                    options(Reduction::None),
                )
                .unwrap();
                tolerance::loss(DType::F32).check("loss", &tensors::read(&loss), &want);
                let gradient = loss.backward().unwrap().remove(&var).unwrap();
                let gradient = if place == 0 {
                    gradient.permute((1, 2, 0)).unwrap()
                } else {
                    gradient.narrow(2, place, classes).unwrap()
                };
                let gradient = tensors::read(&gradient.contiguous().unwrap());
                tolerance::gradient(DType::F32).check("gradient", &gradient, &want_gradient);
            }
            // A NaN in a class that no target has, and +inf.
            for bad in [f64::NAN, f64::INFINITY] {
                let mut spoilt = odd.clone();
                let unused = (2..classes).find(|class| !odd.targets[0].contains(class));
                let at = spoilt.at(0, 0, unused.unwrap());
                spoilt.values[at] = bad;
                let opts = options(Reduction::None);
                let out =
                    run_problem(Entry::Logits, &spoilt, opts, DType::F32, &device, None).unwrap();
                assert!(out.loss[0].is_nan() && out.loss[2].is_finite());
            }
        }
    }
}

/// On a machine that should have a GPU, a run that silently tests the CPU alone is a failure.
#[test]
fn the_gpu_is_there() {
    if std::env::var_os("CTC_EXPECT_GPU").is_some() {
        assert!(
            devices().len() > 1,
            "CTC_EXPECT_GPU is set, and candle finds no GPU"
        );
    }
}
