//! The edges of the definition: empty targets and inputs, items that cannot be aligned, NaN and infinities,
//! padding, repeats, and what each reduction makes of them.

use crate::common::oracle::Problem;
use crate::common::{
    self, Entry, Outcome, Rng, devices, holds, run, run_problem, tensors, tolerance,
};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{CtcLossOptions, GradientKind, Reduction};

const KINDS: [GradientKind; 2] = [GradientKind::Exact, GradientKind::Torch];
const INF: f64 = f64::INFINITY;

fn problem(
    frames: usize,
    classes: usize,
    targets: &[&[usize]],
    input_lengths: &[usize],
) -> Problem {
    let values = Rng::new(30).values(frames * targets.len() * classes, 2.0);
    Problem {
        frames,
        classes,
        blank: 0,
        values,
        targets: targets.iter().map(|target| target.to_vec()).collect(),
        input_lengths: input_lengths.to_vec(),
    }
}

fn none(gradient: GradientKind, zero_infinity: bool) -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        gradient,
        zero_infinity,
        ..Default::default()
    }
}

/// Calls `check` with every entry, kind of gradient, f32 or f64, and device.
fn everywhere(mut check: impl FnMut(Entry, GradientKind, DType, &Device)) {
    for device in devices() {
        for dtype in [DType::F32, DType::F64] {
            if !holds(&device, dtype) {
                continue;
            }
            for entry in Entry::ALL {
                for kind in KINDS {
                    check(entry, kind, dtype, &device);
                }
            }
        }
    }
}

/// Runs a problem and compares it with the oracle.
fn check(
    entry: Entry,
    problem: &Problem,
    options: CtcLossOptions,
    dtype: DType,
    device: &Device,
) -> Outcome {
    let mut problem = problem.clone();
    problem.values = tensors::rounded(&problem.values, dtype);
    let outcome = run_problem(entry, &problem, options, dtype, device, None).unwrap();
    let (loss, gradient) = match entry {
        Entry::LogProbs => problem.expected(&options, None),
        Entry::Logits => problem.expected_with_logits(&options, None),
    };
    let what = format!("{entry:?} {options:?} {dtype:?}");
    tolerance::loss(dtype).check(&format!("{what}: loss"), &outcome.loss, &loss);
    tolerance::gradient(dtype).check(&format!("{what}: gradient"), &outcome.gradient, &gradient);
    outcome
}

/// The gradient of one item, (T, C).
fn item_gradient(outcome: &Outcome, problem: &Problem, n: usize) -> Vec<f64> {
    (0..problem.frames)
        .flat_map(|t| outcome.gradient[problem.at(t, n, 0)..][..problem.classes].to_vec())
        .collect()
}

#[test]
fn an_empty_target_costs_the_blank_at_every_frame() {
    let p = problem(6, 4, &[&[], &[1, 2], &[]], &[6, 6, 4]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        if entry == Entry::LogProbs {
            for (n, frames) in [(0, 6), (2, 4)] {
                let want: f64 = -(0..frames).map(|t| p.values[p.at(t, n, 0)]).sum::<f64>();
                tolerance::loss(dtype).check("loss", &[out.loss[n]], &[want]);
            }
        }
    });
}

#[test]
fn all_targets_may_be_empty_in_every_form() {
    let p = problem(6, 4, &[&[], &[]], &[6, 3]);
    everywhere(|entry, kind, dtype, device| {
        let want = check(entry, &p, none(kind, false), dtype, device);
        let input = tensors::floats(&p.values, &[6, 2, 4], dtype, device);
        let forms = [
            tensors::integers(&[], &[2, 0], DType::I64, device),
            tensors::integers(&[], &[0], DType::U32, device),
            tensors::integers(&[-5; 6], &[2, 3], DType::I32, device),
        ];
        for targets in &forms {
            let got = run(
                entry,
                &input,
                targets,
                &[6, 3],
                &[0, 0],
                none(kind, false),
                None,
            )
            .unwrap();
            assert_eq!(got.bits(), want.bits(), "{:?}", targets.dims());
        }
    });
}

#[test]
fn an_unbatched_target_may_be_empty_in_every_form() {
    let p = problem(6, 4, &[&[]], &[6]);
    everywhere(|entry, kind, dtype, device| {
        let want = check(entry, &p, none(kind, false), dtype, device);
        let input = tensors::floats(&p.values, &[6, 4], dtype, device);
        for dims in [&[0][..], &[1, 0]] {
            let targets = tensors::integers(&[], dims, DType::I64, device);
            let got = run(entry, &input, &targets, &[6], &[0], none(kind, false), None).unwrap();
            assert_eq!(got.bits(), want.bits(), "{dims:?}");
        }
    });
}

#[test]
fn an_input_of_length_0_gives_0_for_an_empty_target_and_infinity_otherwise() {
    let p = problem(5, 4, &[&[], &[1, 2], &[3]], &[0, 0, 5]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        assert_eq!(out.loss[0], 0.0);
        assert_eq!(out.loss[1], INF);
        for n in [0, 1] {
            assert!(
                item_gradient(&out, &p, n).iter().all(|&g| g == 0.0),
                "{entry:?} {kind:?}"
            );
        }
        assert!(item_gradient(&out, &p, 2).iter().any(|&g| g != 0.0));
    });
}

#[test]
fn all_inputs_may_have_length_0() {
    let p = problem(3, 4, &[&[], &[1]], &[0, 0]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        assert_eq!(out.loss, [0.0, INF]);
        assert!(out.gradient.iter().all(|&g| g == 0.0));
    });
}

#[test]
fn an_item_that_cannot_be_aligned_has_infinite_loss_and_its_neighbours_are_untouched() {
    // 3 labels in 2 frames; 3 labels and 2 repeats in 4 frames; the last fits exactly.
    let p = problem(5, 4, &[&[1, 2, 3], &[1, 1, 1], &[2, 2, 2]], &[2, 4, 5]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        assert_eq!(out.loss[..2], [INF, INF]);
        assert!(out.loss[2].is_finite());
    });
}

#[test]
fn exact_gradient_of_an_item_that_cannot_be_aligned_is_0() {
    let p = problem(5, 4, &[&[1, 2, 3], &[1, 1, 1], &[2, 2]], &[2, 4, 5]);
    everywhere(|entry, _, dtype, device| {
        for zero_infinity in [false, true] {
            let out = check(
                entry,
                &p,
                none(GradientKind::Exact, zero_infinity),
                dtype,
                device,
            );
            for n in [0, 1] {
                assert!(item_gradient(&out, &p, n).iter().all(|&g| g == 0.0));
            }
        }
    });
}

#[test]
fn torch_gradient_of_an_item_that_cannot_be_aligned_is_nan_on_its_frames_alone() {
    let p = problem(5, 4, &[&[1, 2, 3], &[2, 2]], &[2, 5]);
    everywhere(|entry, _, dtype, device| {
        if entry == Entry::Logits {
            return; // That gradient is never PyTorch's NaN.
        }
        let out = check(entry, &p, none(GradientKind::Torch, false), dtype, device);
        let gradient = item_gradient(&out, &p, 0);
        assert!(gradient[..2 * 4].iter().all(|g| g.is_nan()));
        assert!(gradient[2 * 4..].iter().all(|&g| g == 0.0));
        assert!(item_gradient(&out, &p, 1).iter().all(|g| g.is_finite()));
    });
}

#[test]
fn zero_infinity_gives_loss_0_and_gradient_0_to_infinite_items_only() {
    let p = problem(5, 4, &[&[1, 2, 3], &[2, 2], &[1]], &[2, 5, 0]);
    everywhere(|entry, kind, dtype, device| {
        let zeroed = check(entry, &p, none(kind, true), dtype, device);
        let plain = check(entry, &p, none(kind, false), dtype, device);
        assert_eq!((zeroed.loss[0], zeroed.loss[2]), (0.0, 0.0));
        for n in [0, 2] {
            assert!(
                item_gradient(&zeroed, &p, n).iter().all(|&g| g == 0.0),
                "{entry:?} {kind:?}"
            );
        }
        assert_eq!(zeroed.loss[1], plain.loss[1]);
        assert_eq!(item_gradient(&zeroed, &p, 1), item_gradient(&plain, &p, 1));
    });
}

#[test]
fn zero_infinity_does_not_hide_nan() {
    let mut p = problem(5, 4, &[&[1, 2], &[3]], &[5, 5]);
    let i = p.at(2, 0, 1);
    p.values[i] = f64::NAN;
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, true), dtype, device);
        assert!(out.loss[0].is_nan() && out.loss[1].is_finite());
    });
}

/// Of each dtype a number so low that a few of them add up to −inf.
const LOWEST: [(DType, f64); 3] = [
    (DType::F32, f32::MIN as f64),
    (DType::F64, f64::MIN),
    (DType::BF16, -3.3895313892515355e38),
];

/// `frames` frames of three items. In the first all classes of its target are at `lowest`; for logits,
/// class 3 is above them by twice that.
fn overflowing(frames: usize, lowest: f64) -> Problem {
    let mut p = problem(frames, 4, &[&[1], &[2], &[3, 1]], &[frames; 3]);
    p.values = p.values.iter().map(|x| x - 3.0).collect();
    for t in 0..frames {
        for c in 0..3 {
            let i = p.at(t, 0, c);
            p.values[i] = lowest;
        }
        let i = p.at(t, 0, 3);
        p.values[i] = -lowest;
    }
    p
}

#[test]
fn a_loss_that_overflows_counts_as_infinite() {
    for device in devices() {
        for (dtype, lowest) in LOWEST {
            if !holds(&device, dtype) {
                continue;
            }
            let p = overflowing(8, lowest);
            for (entry, kind) in Entry::ALL.into_iter().flat_map(|e| KINDS.map(|k| (e, k))) {
                let run = |zero_infinity, reduction| {
                    let options = CtcLossOptions {
                        reduction,
                        ..none(kind, zero_infinity)
                    };
                    run_problem(entry, &p, options, dtype, &device, None).unwrap()
                };
                let what = format!("{entry:?} {kind:?} {dtype:?}");
                let plain = run(false, Reduction::None);
                assert_eq!(plain.loss[0], INF, "{what}");
                // As for an item that cannot be aligned.
                let nan = entry == Entry::LogProbs && kind == GradientKind::Torch;
                let infinite = item_gradient(&plain, &p, 0);
                assert!(
                    infinite
                        .iter()
                        .all(|&g| if nan { g.is_nan() } else { g == 0.0 }),
                    "{what}: {infinite:?}"
                );
                let finite: f64 = plain.loss[1..].iter().sum();
                let mean = (plain.loss[1] + plain.loss[2] / 2.0) / 3.0;
                assert!(finite.is_finite());
                for (reduction, want) in [
                    (Reduction::None, finite),
                    (Reduction::Sum, finite),
                    (Reduction::Mean, mean),
                ] {
                    let zeroed = run(true, reduction);
                    let what = format!("{what} {reduction:?}");
                    let sum: f64 = zeroed.loss.iter().sum();
                    assert!((sum / want - 1.0).abs() < 1e-6, "{what}: {sum}, not {want}");
                    assert!(
                        item_gradient(&zeroed, &p, 0).iter().all(|&g| g == 0.0),
                        "{what}"
                    );
                    if reduction == Reduction::Mean {
                        assert_eq!(run(false, reduction).loss, [INF], "{what}");
                    } else {
                        assert_eq!(
                            item_gradient(&zeroed, &p, 1),
                            item_gradient(&plain, &p, 1),
                            "{what}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_sum_of_finite_losses_that_overflows_is_infinite_and_has_a_gradient() {
    for device in devices() {
        for (dtype, lowest) in LOWEST {
            if !holds(&device, dtype) {
                continue;
            }
            let mut p = problem(1, 4, &[&[1], &[1]], &[1, 1]);
            p.values = vec![lowest, lowest, 0.0, 0.0, lowest, lowest, 0.0, 0.0];
            let options = CtcLossOptions {
                reduction: Reduction::Sum,
                ..none(GradientKind::Exact, true)
            };
            let out = run_problem(Entry::LogProbs, &p, options, dtype, &device, None).unwrap();
            assert_eq!(out.loss, [INF], "{dtype:?}");
            for n in [0, 1] {
                assert_eq!(
                    item_gradient(&out, &p, n),
                    [0.0, -1.0, 0.0, 0.0],
                    "{dtype:?}"
                );
            }
        }
    }
}

#[test]
fn mean_divides_each_loss_by_its_target_length_then_by_the_batch() {
    let p = problem(8, 4, &[&[1, 2, 3], &[], &[2]], &[8, 7, 6]);
    everywhere(|entry, kind, dtype, device| {
        let items = check(entry, &p, none(kind, false), dtype, device).loss;
        let options = CtcLossOptions {
            reduction: Reduction::Mean,
            ..none(kind, false)
        };
        let mean = check(entry, &p, options, dtype, device).loss;
        let want = (items[0] / 3.0 + items[1] + items[2]) / 3.0;
        tolerance::loss(dtype).check("mean", &mean, &[want]);
    });
}

#[test]
fn mean_keeps_zeroed_items_in_the_denominator() {
    let p = problem(4, 4, &[&[1, 1, 1], &[2]], &[4, 4]);
    everywhere(|entry, kind, dtype, device| {
        let items = check(entry, &p, none(kind, true), dtype, device).loss;
        let options = CtcLossOptions {
            reduction: Reduction::Mean,
            ..none(kind, true)
        };
        let mean = check(entry, &p, options, dtype, device).loss;
        assert_eq!(items[0], 0.0);
        tolerance::loss(dtype).check("mean", &mean, &[items[1] / 2.0]);
    });
}

#[test]
fn sum_adds_the_losses() {
    let p = problem(8, 4, &[&[1, 2, 3], &[], &[2]], &[8, 7, 6]);
    everywhere(|entry, kind, dtype, device| {
        let items = check(entry, &p, none(kind, false), dtype, device).loss;
        let options = CtcLossOptions {
            reduction: Reduction::Sum,
            ..none(kind, false)
        };
        let sum = check(entry, &p, options, dtype, device).loss;
        tolerance::loss(dtype).check("sum", &sum, &[items.iter().sum()]);
    });
}

#[test]
fn mean_and_sum_of_a_batch_with_an_infinite_item_are_infinite() {
    let p = problem(4, 4, &[&[1, 1, 1], &[2]], &[4, 4]);
    everywhere(|entry, kind, dtype, device| {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let options = CtcLossOptions {
                reduction,
                ..none(kind, false)
            };
            assert_eq!(check(entry, &p, options, dtype, device).loss, [INF]);
        }
    });
}

/// NaN, or the +inf that no probability has, at one frame and class of item 0 shows in that item alone.
fn spoils_its_item(value: f64) {
    let clean = problem(6, 5, &[&[1, 2], &[3]], &[5, 6]);
    // The blank or a label, at the first, a middle and the last used frame. Label 2 cannot be reached at
    // frame 0, nor label 1 at frame 4: it is still not hidden.
    for (t, c) in [0, 2, 4]
        .into_iter()
        .flat_map(|t| [0, 1, 2].map(|c| (t, c)))
    {
        let mut p = clean.clone();
        let i = p.at(t, 0, c);
        p.values[i] = value;
        everywhere(|entry, kind, dtype, device| {
            let before = check(entry, &clean, none(kind, false), dtype, device);
            let out = run_problem(entry, &p, none(kind, false), dtype, device, None).unwrap();
            let what = format!("{value} {entry:?} {kind:?} frame {t} class {c}");
            assert!(out.loss[0].is_nan(), "{what}: {:?}", out.loss);
            let gradient = item_gradient(&out, &p, 0);
            assert!(
                gradient[..5 * 5].iter().all(|g| g.is_nan()),
                "{what}: {gradient:?}"
            );
            assert!(
                gradient[5 * 5..].iter().all(|&g| g == 0.0),
                "{what}: beyond the length"
            );
            assert_eq!(out.loss[1], before.loss[1]);
            assert_eq!(item_gradient(&out, &p, 1), item_gradient(&before, &p, 1));
        });
    }
}

#[test]
fn nan_in_a_used_class_at_a_used_frame_gives_nan_loss_and_gradient_to_that_item() {
    spoils_its_item(f64::NAN);
}

#[test]
fn plus_infinity_in_a_used_class_at_a_used_frame_gives_nan_loss_and_gradient_to_that_item() {
    spoils_its_item(INF);
}

#[test]
fn nan_reaches_mean_and_sum() {
    let mut p = problem(6, 5, &[&[1, 2], &[3]], &[5, 6]);
    let i = p.at(1, 0, 0);
    p.values[i] = f64::NAN;
    everywhere(|entry, kind, dtype, device| {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            for zero_infinity in [false, true] {
                let options = CtcLossOptions {
                    reduction,
                    ..none(kind, zero_infinity)
                };
                let out = run_problem(entry, &p, options, dtype, device, None).unwrap();
                assert!(out.loss[0].is_nan());
            }
        }
    });
}

#[test]
fn nan_in_an_unused_class_is_not_read_from_log_probs() {
    let clean = problem(6, 5, &[&[1, 2], &[3]], &[6, 6]);
    let mut p = clean.clone();
    for t in 0..6 {
        let i = p.at(t, 0, 4);
        p.values[i] = f64::NAN;
    }
    everywhere(|entry, _, dtype, device| {
        if entry == Entry::LogProbs {
            let options = none(GradientKind::Exact, false);
            let got = run_problem(entry, &p, options, dtype, device, None).unwrap();
            let want = check(entry, &clean, options, dtype, device);
            assert_eq!(got.bits(), want.bits());
        }
    });
}

#[test]
fn nan_or_plus_infinity_in_an_unused_class_is_nan_loss_from_logits() {
    // The third is NaN as CUDA writes it, with all its bits set.
    for value in [f64::NAN, INF, f64::from_bits(0x7fff_ffff_ffff_ffff)] {
        let mut p = problem(6, 5, &[&[1, 2], &[3]], &[6, 6]);
        let i = p.at(3, 0, 4);
        p.values[i] = value;
        everywhere(|entry, kind, dtype, device| {
            if entry == Entry::Logits {
                let out = run_problem(entry, &p, none(kind, false), dtype, device, None).unwrap();
                assert!(out.loss[0].is_nan() && out.loss[1].is_finite(), "{value}");
                assert!(
                    item_gradient(&out, &p, 0).iter().all(|g| g.is_nan()),
                    "{value}"
                );
            }
        });
    }
}

#[test]
fn frames_beyond_the_input_length_are_not_read_and_have_gradient_0() {
    let clean = problem(8, 4, &[&[1, 2], &[3, 3], &[]], &[5, 8, 0]);
    for garbage in [f64::NAN, INF, -INF, 1e30, -1e9] {
        let mut p = clean.clone();
        for n in 0..3 {
            for t in p.input_lengths[n]..8 {
                let i = p.at(t, n, 0);
                p.values[i..i + 4].fill(garbage);
            }
        }
        everywhere(|entry, kind, dtype, device| {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                let options = CtcLossOptions {
                    reduction,
                    ..none(kind, false)
                };
                let got = run_problem(entry, &p, options, dtype, device, None).unwrap();
                let want = run_problem(entry, &clean, options, dtype, device, None).unwrap();
                assert_eq!(got.bits(), want.bits(), "{garbage} {entry:?} {kind:?}");
                for (n, frames) in [(0, 5), (2, 0)] {
                    let gradient = item_gradient(&got, &p, n);
                    assert!(
                        gradient[frames * 4..]
                            .iter()
                            .all(|&g| g.to_bits() << 1 == 0),
                        "{garbage} {entry:?}"
                    );
                }
            }
        });
    }
}

#[test]
fn targets_beyond_the_target_length_are_not_read() {
    let p = problem(8, 4, &[&[1, 2], &[3, 3, 1], &[]], &[8, 8, 8]);
    everywhere(|entry, kind, dtype, device| {
        let want = check(entry, &p, none(kind, false), dtype, device);
        let input = tensors::floats(&p.values, &[8, 3, 4], dtype, device);
        for (padding, int) in [
            (-100, DType::I64),
            (i64::MIN, DType::I64),
            (i64::MAX, DType::I64),
            (9999, DType::I32),
            (-1, DType::I16),
            (u32::MAX as i64, DType::U32),
            (255, DType::U8),
            (0, DType::U8),
        ] {
            let targets = tensors::padded(&p.targets, 2, padding, int, device);
            let got = run(
                entry,
                &input,
                &targets,
                &[8, 8, 8],
                &[2, 3, 0],
                none(kind, false),
                None,
            )
            .unwrap();
            assert_eq!(got.bits(), want.bits(), "{padding} {int:?}");
        }
    });
}

#[test]
fn minus_infinity_in_an_unused_class_changes_no_loss_and_brings_no_nan() {
    let clean = problem(6, 5, &[&[1, 2], &[3]], &[6, 6]);
    let mut p = clean.clone();
    for t in 2..4 {
        let i = p.at(t, 0, 4);
        p.values[i] = -INF;
    }
    everywhere(|entry, _, dtype, device| {
        let out = check(entry, &p, none(GradientKind::Exact, false), dtype, device);
        assert!(out.gradient.iter().all(|g| g.is_finite()));
        assert_eq!(out.gradient[p.at(2, 0, 4)], 0.0);
        if entry == Entry::LogProbs {
            let want = check(
                entry,
                &clean,
                none(GradientKind::Exact, false),
                dtype,
                device,
            );
            assert_eq!(out.bits(), want.bits());
        }
    });
}

#[test]
fn minus_infinity_in_a_used_class_forbids_it_at_that_frame_alone() {
    for c in [0, 1, 2] {
        let mut p = problem(7, 5, &[&[1, 2], &[3]], &[7, 6]);
        for t in 2..4 {
            let i = p.at(t, 0, c);
            p.values[i] = -INF;
        }
        everywhere(|entry, _, dtype, device| {
            let out = check(entry, &p, none(GradientKind::Exact, false), dtype, device);
            assert!(out.loss[0].is_finite() && out.gradient.iter().all(|g| g.is_finite()));
            assert_eq!(out.gradient[p.at(2, 0, c)], 0.0);
        });
    }
}

#[test]
fn minus_infinity_on_every_path_makes_the_item_infeasible() {
    // A label forbidden at all frames, and a frame where nothing is allowed that the target could use.
    let mut p = problem(6, 5, &[&[1, 2], &[3, 1], &[4]], &[6, 6, 6]);
    for t in 0..6 {
        let i = p.at(t, 0, 2);
        p.values[i] = -INF;
    }
    for c in [0, 1, 3] {
        let i = p.at(3, 1, c);
        p.values[i] = -INF;
    }
    everywhere(|entry, kind, dtype, device| {
        for zero_infinity in [false, true] {
            let out = check(entry, &p, none(kind, zero_infinity), dtype, device);
            let want = if zero_infinity { 0.0 } else { INF };
            assert_eq!(out.loss[..2], [want, want]);
            assert!(item_gradient(&out, &p, 2).iter().all(|g| g.is_finite()));
        }
    });
}

#[test]
fn torch_gradient_at_log_probs_is_nan_where_they_are_minus_infinity() {
    let mut p = problem(6, 5, &[&[1, 2]], &[6]);
    let (unused, used) = (p.at(2, 0, 4), p.at(3, 0, 1));
    p.values[unused] = -INF;
    p.values[used] = -INF;
    everywhere(|entry, _, dtype, device| {
        if entry == Entry::LogProbs {
            let out = check(entry, &p, none(GradientKind::Torch, false), dtype, device);
            let nan: Vec<usize> = (0..out.gradient.len())
                .filter(|&i| out.gradient[i].is_nan())
                .collect();
            assert_eq!(nan, [unused, used]);
        }
    });
}

#[test]
fn certain_path_costs_0_and_never_less() {
    // log 1 on one path, log 0 elsewhere.
    let path = [0, 1, 1, 0, 2, 2, 0, 2];
    let mut p = problem(8, 3, &[&[1, 2, 2]], &[8]);
    for (t, class) in path.into_iter().enumerate() {
        for c in 0..3 {
            let i = p.at(t, 0, c);
            p.values[i] = if class == c { 0.0 } else { -INF };
        }
    }
    everywhere(|entry, _, dtype, device| {
        let out = check(entry, &p, none(GradientKind::Exact, false), dtype, device);
        assert_eq!(out.loss, [0.0]);
    });
}

#[test]
fn a_target_that_fits_in_one_way_only_costs_that_path() {
    let p = problem(5, 4, &[&[1, 1, 1], &[1, 2, 3, 2, 1]], &[5, 5]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        if entry == Entry::LogProbs && kind == GradientKind::Exact {
            let paths = [[1, 0, 1, 0, 1], [1, 2, 3, 2, 1]];
            for (n, path) in paths.iter().enumerate() {
                let want: f64 = -(0..5).map(|t| p.values[p.at(t, n, path[t])]).sum::<f64>();
                tolerance::loss(dtype).check("loss", &[out.loss[n]], &[want]);
                for (t, &c) in path.iter().enumerate() {
                    tolerance::gradient(dtype).check(
                        "gradient",
                        &[out.gradient[p.at(t, n, c)]],
                        &[-1.0],
                    );
                }
            }
        }
    });
}

#[test]
fn one_class_is_the_blank_alone() {
    let p = problem(4, 1, &[&[], &[]], &[4, 3]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        if entry == Entry::Logits {
            assert!(
                out.loss.iter().all(|&loss| loss.abs() < 1e-6)
                    && out.gradient.iter().all(|g| g.abs() < 1e-6)
            );
        }
    });
}

#[test]
fn one_frame_holds_one_label_or_none() {
    let p = problem(1, 3, &[&[], &[1], &[2], &[1, 2]], &[1, 1, 1, 1]);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        assert!(out.loss[..3].iter().all(|loss| loss.is_finite()));
        assert_eq!(out.loss[3], INF);
    });
}

#[test]
fn repeats_need_a_blank_between_them() {
    let p = problem(
        9,
        3,
        &[&[1, 1], &[1, 1, 1, 1, 1], &[1, 2, 2, 1, 1], &[2]],
        &[9, 9, 9, 9],
    );
    everywhere(|entry, kind, dtype, device| {
        check(entry, &p, none(kind, false), dtype, device);
    });
}

#[test]
fn the_blank_may_be_any_class() {
    for blank in 0..5 {
        let mut rng = Rng::new(31);
        let targets: Vec<_> = (0..3).map(|n| rng.target(n + 1, 5, blank, 0.3)).collect();
        let p = Problem {
            frames: 8,
            classes: 5,
            blank,
            values: rng.values(8 * 3 * 5, 2.0),
            targets,
            input_lengths: vec![8, 7, 6],
        };
        everywhere(|entry, kind, dtype, device| {
            check(
                entry,
                &p,
                CtcLossOptions {
                    blank,
                    ..none(kind, false)
                },
                dtype,
                device,
            );
        });
    }
}

#[test]
fn log_probs_need_not_be_normalised_and_may_be_positive() {
    let mut p = problem(6, 4, &[&[1, 2], &[3]], &[6, 6]);
    p.values.iter_mut().for_each(|x| *x += 3.0);
    everywhere(|entry, kind, dtype, device| {
        let out = check(entry, &p, none(kind, false), dtype, device);
        if entry == Entry::LogProbs {
            assert!(out.loss.iter().all(|&loss| loss < 0.0));
        }
    });
}

#[test]
fn log_probs_far_below_what_f32_can_exponentiate_are_exact() {
    let mut p = problem(40, 6, &[&[1, 2, 2, 3], &[5, 4]], &[40, 33]);
    p.values.iter_mut().for_each(|x| *x = *x * 300.0 - 900.0);
    everywhere(|_, kind, dtype, device| {
        let options = none(kind, false);
        let mut p = p.clone();
        p.values = tensors::rounded(&p.values, dtype);
        let out = run_problem(Entry::LogProbs, &p, options, dtype, device, None).unwrap();
        let (loss, gradient) = p.expected(&options, None);
        tolerance::loss(dtype).check("loss", &out.loss, &loss);
        tolerance::gradient(dtype).check("gradient", &out.gradient, &gradient);
    });
}

#[test]
fn a_target_with_more_than_255_labels_works() {
    let mut rng = Rng::new(32);
    let target = rng.target(700, 30, 0, 0.2);
    let p = Problem {
        frames: 1000,
        classes: 30,
        blank: 0,
        values: rng.values(1000 * 30, 3.0),
        targets: vec![target],
        input_lengths: vec![1000],
    };
    everywhere(|entry, kind, dtype, device| {
        check(entry, &p, none(kind, false), dtype, device);
    });
}

#[test]
fn many_items_work() {
    let mut rng = Rng::new(33);
    let targets: Vec<_> = (0..600).map(|n| rng.target(n % 5, 4, 0, 0.3)).collect();
    let p = Problem {
        frames: 11,
        classes: 4,
        blank: 0,
        values: rng.values(11 * 600 * 4, 2.0),
        input_lengths: (0..600).map(|n| n % 12).collect(),
        targets,
    };
    everywhere(|entry, kind, dtype, device| {
        check(entry, &p, none(kind, false), dtype, device);
    });
}

#[test]
fn an_input_of_more_than_2_to_32_entries_works() {
    // A broadcast view: 5e9 entries that take the memory of one.
    const FRAMES: usize = 50_000;
    const CLASSES: usize = 100_000;
    for device in devices() {
        let log_prob = -(CLASSES as f64).ln();
        let one = tensors::floats(&[log_prob], &[1, 1], DType::F32, &device);
        let x = one.broadcast_as((FRAMES, CLASSES)).unwrap();
        let target = [99_999, 1, 1, 77_777];
        let targets = tensors::integers(&target, &[4], DType::I64, &device);
        let options = none(GradientKind::Exact, false);
        let loss = Entry::LogProbs.loss(&x, &targets, &[FRAMES], &[4], options);
        let log_prob = tensors::read(&one)[0];
        let want = common::oracle::uniform_loss(FRAMES, log_prob, 4, 1);
        tolerance::loss(DType::F32).check("loss", &tensors::read(&loss.unwrap()), &[want]);
    }
}

#[test]
fn a_broadcast_input_is_the_same_item_again() {
    for device in devices() {
        for entry in Entry::ALL {
            let one = tensors::floats(
                &Rng::new(34).values(7 * 4, 2.0),
                &[7, 1, 4],
                DType::F32,
                &device,
            );
            let all: Tensor = one.broadcast_as((7, 3, 4)).unwrap();
            let targets = tensors::padded(
                &[vec![1, 2], vec![1, 2], vec![3]],
                0,
                0,
                DType::U32,
                &device,
            );
            let out = entry
                .loss(
                    &all,
                    &targets,
                    &[7, 7, 7],
                    &[2, 2, 1],
                    none(GradientKind::Exact, false),
                )
                .unwrap();
            let loss = tensors::read(&out);
            assert_eq!(loss[0], loss[1]);
            assert_ne!(loss[0], loss[2]);
        }
    }
}

/// One path of eight frames; `mask` everywhere else, and on the path too for the first `masked_frames`.
fn masked(mask: f64, masked_frames: usize) -> Problem {
    let mut p = problem(8, 4, &[&[1, 2], &[3]], &[8, 8]);
    let path = [0, 1, 1, 0, 2, 0, 0, 0];
    for (t, &label) in path.iter().enumerate() {
        for c in 0..4 {
            if c != label || t < masked_frames {
                let i = p.at(t, 0, c);
                p.values[i] = mask;
            }
        }
    }
    p
}

#[test]
fn a_mask_of_minus_1e9_is_a_number() {
    // On every path the loss itself is 2e9 or 5e9.
    for masked_frames in [0, 2, 5] {
        let p = masked(-1e9, masked_frames);
        everywhere(|entry, kind, dtype, device| {
            if entry == Entry::LogProbs {
                let out = run_problem(entry, &p, none(kind, false), dtype, device, None).unwrap();
                let (loss, gradient) = p.expected(&none(kind, false), None);
                let what = format!("mask on {masked_frames} frames, {kind:?} {dtype:?}");
                tolerance::loss(dtype).check(&what, &out.loss, &loss);
                if masked_frames == 0 {
                    tolerance::gradient(dtype).check(&what, &out.gradient, &gradient);
                }
                assert!(out.gradient.iter().all(|g| g.is_finite()), "{what}");
            }
        });
    }
}

#[test]
fn log_probs_more_than_1_4e9_below_the_largest_used_one_count_as_minus_infinity() {
    let want = masked(-INF, 0);
    for mask in [-1.5e9, -1e30, f64::from(f32::MIN)] {
        let p = masked(mask, 0);
        everywhere(|entry, _, dtype, device| {
            if entry == Entry::LogProbs {
                let options = none(GradientKind::Exact, false);
                let got = run_problem(entry, &p, options, dtype, device, None).unwrap();
                let want = run_problem(entry, &want, options, dtype, device, None).unwrap();
                assert_eq!(got.bits(), want.bits(), "{mask:e} {dtype:?}");
                assert!(got.loss[0].is_finite());
            }
        });
    }
}

#[test]
fn a_frame_whose_used_entries_are_all_far_below_0_keeps_its_finite_loss() {
    for mask in [-1.5e9, -1e30] {
        let p = masked(mask, 3);
        everywhere(|entry, _, dtype, device| {
            if entry == Entry::LogProbs && matches!(dtype, DType::F32 | DType::F64) {
                let options = none(GradientKind::Exact, false);
                let out = run_problem(entry, &p, options, dtype, device, None).unwrap();
                let ratio = out.loss[0] / (-3.0 * mask);
                assert!((ratio - 1.0).abs() < 1e-6, "{mask:e} {dtype:?}: {ratio}");
            }
        });
    }
}

#[test]
fn a_large_finite_mask_of_logits_forbids_a_class() {
    // The largest logit of each frame is finite, so a softmax gives the mask probability 0.
    for mask in [-1e9, -1e30, f64::from(f32::MIN), -INF] {
        let p = masked(mask, 0);
        everywhere(|entry, kind, dtype, device| {
            if entry == Entry::Logits {
                let out = run_problem(entry, &p, none(kind, false), dtype, device, None).unwrap();
                // One path is left, and it is certain.
                tolerance::loss(dtype).check("loss", &out.loss[..1], &[0.0]);
                assert!(out.gradient.iter().all(|g| g.is_finite()), "{mask:e}");
            }
        });
    }
}

#[test]
fn the_kind_of_gradient_changes_nothing_with_logits() {
    let p = problem(5, 4, &[&[1, 2, 3], &[2, 2], &[1]], &[2, 5, 0]);
    everywhere(|entry, kind, dtype, device| {
        if entry == Entry::Logits {
            for zero_infinity in [false, true] {
                let go = |kind| {
                    run_problem(entry, &p, none(kind, zero_infinity), dtype, device, None)
                        .unwrap()
                        .bits()
                };
                assert_eq!(go(kind), go(GradientKind::Exact));
            }
        }
    });
}

#[test]
fn what_a_row_of_logits_has_in_common_does_not_matter() {
    // Also with a class of the second target that is masked.
    for third in [3.0, -INF] {
        for offset in [0.0, -1e9, 1e12, -1e15, 1e30, f64::from(f32::MIN)] {
            let row = [0.0, 5.0, third];
            let mut p = problem(2, 3, &[&[1], &[1, 2]], &[2, 2]);
            for n in 0..2 {
                for (c, &x) in row.iter().enumerate() {
                    let (first, second) = (p.at(0, n, c), p.at(1, n, c));
                    (p.values[first], p.values[second]) = (x, offset);
                }
            }
            let odds = row.map(f64::exp);
            let sum: f64 = odds.iter().sum();
            // All paths of (1) but "blank, blank", and the one of (1, 2).
            let want = [(2.0 * odds[1] + odds[0]) / sum / 3.0, odds[1] / sum / 3.0];
            let posterior = 2.0 * odds[1] / (2.0 * odds[1] + odds[0]);
            everywhere(|entry, kind, dtype, device| {
                if entry == Entry::Logits {
                    let options = none(kind, false);
                    let out = run_problem(entry, &p, options, dtype, device, None).unwrap();
                    let what = format!("{third} {offset:e} {dtype:?}");
                    assert_eq!(out.loss.len(), want.len());
                    for (loss, p) in out.loss.iter().zip(want) {
                        assert!((loss + p.ln()).abs() < 1e-6, "{what}: {:?}", out.loss);
                    }
                    let first = odds[1] / sum - posterior;
                    let gradient = item_gradient(&out, &p, 0);
                    assert!((gradient[1] - first).abs() < 1e-6, "{what}: {gradient:?}");
                }
            });
        }
    }
}

/// An item whose path runs along a diagonal, through three tiles of the lattice in a block of frames: a state counts
/// there that is only large enough beside the states of the next tile.
#[test]
fn a_path_along_a_diagonal_keeps_its_posteriors() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../data/diagonal.json")).unwrap();
    let numbers = |name: &str| file[name].as_array().unwrap().iter();
    // There is no −inf in JSON.
    let number = |x: &serde_json::Value| x.as_f64().unwrap_or(f64::NEG_INFINITY);
    let target = numbers("target").map(|x| x.as_u64().unwrap() as usize);
    let (frames, classes) = (93, 7);
    let problem = Problem {
        frames,
        classes,
        blank: 0,
        values: numbers("log_probs").map(number).collect(),
        targets: vec![target.collect()],
        input_lengths: vec![frames],
    };
    let options = none(GradientKind::Exact, false);
    for device in devices()
        .into_iter()
        .filter(|device| holds(device, DType::F64))
    {
        let outcome = run_problem(
            Entry::LogProbs,
            &problem,
            options,
            DType::F64,
            &device,
            None,
        )
        .unwrap();
        let (_, want) = problem.expected(&options, None);
        for (i, (got, want)) in outcome.gradient.iter().zip(&want).enumerate() {
            let near = (got - want).abs() <= 1e-12 + 1e-9 * want.abs();
            assert!(
                near,
                "frame {}, class {}: {got} {want}",
                i / classes,
                i % classes
            );
        }
    }
}

/// The path is a label that costs 1e9 nats in each of hundreds of frames, beside one that costs nothing and leads
/// nowhere: 1e12 binary orders lie between the two.
#[test]
fn states_as_far_apart_as_masks_in_hundreds_of_frames_have_posteriors() {
    for (each, period) in [(-1e9, 755), (-1e9, 770), (-1e9, 900), (-1.48e9, 520)] {
        for dtype in [DType::F32, DType::F64] {
            let (frames, classes) = (2 * period + 20, 5);
            let mut values = vec![f64::NEG_INFINITY; frames * classes];
            let mut path = vec![1, 2];
            values[classes + 2] = 0.0;
            for t in 0..frames {
                values[t * classes + 1] = 0.0;
                if (2..2 + period).contains(&t) {
                    values[t * classes + 3] = each;
                    path.push(3);
                } else if t >= 2 + period {
                    values[t * classes + 4] = 0.0;
                    path.push(4);
                }
            }
            let x = tensors::floats(&values, &[frames, 1, classes], dtype, &Device::Cpu);
            let targets = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu).unwrap();
            let options = none(GradientKind::Exact, false);
            let leaf = candle_core::Var::from_tensor(&x).unwrap();
            let loss = Entry::LogProbs
                .loss(&leaf, &targets, &[frames], &[4], options)
                .unwrap();
            let want = -f64::from(each as f32) * period as f64;
            let got = loss.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0];
            assert!(
                (got / want - 1.0).abs() < 1e-6,
                "{each} {period}: {got} {want}"
            );
            let gradients = loss.backward().unwrap();
            let gradient = gradients.get(&leaf).unwrap().to_dtype(DType::F64).unwrap();
            let gradient = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (t, (row, &class)) in gradient.chunks_exact(classes).zip(&path).enumerate() {
                for (c, &got) in row.iter().enumerate() {
                    let want = if c == class { -1.0 } else { 0.0 };
                    assert!(
                        (got - want).abs() < 1e-6,
                        "{each} {period}: frame {t}, class {c}: {got}"
                    );
                }
            }
        }
    }
}

#[test]
#[cfg_attr(
    ctc_softgpu,
    ignore = "the kernels have no f64 beyond that of log-probabilities"
)]
fn entries_near_the_largest_f64_that_cancel_give_a_number() {
    let (frames, classes) = (32, 2);
    let values: Vec<f64> = (0..frames * classes)
        .map(|i| if i < frames { 1e308 } else { -1e308 })
        .collect();
    let x = tensors::floats(&values, &[frames, 1, classes], DType::F64, &Device::Cpu);
    let targets = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    let options = none(GradientKind::Exact, false);
    let loss = Entry::LogProbs
        .loss(&x, &targets, &[frames], &[1], options)
        .unwrap();
    // The true loss is far below the rounding of a single entry.
    let loss = loss.to_vec1::<f64>().unwrap()[0];
    assert!(loss.is_finite(), "{loss}");
}
