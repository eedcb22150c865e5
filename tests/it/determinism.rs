//! A result has the same bits in every run, whatever else is in the batch and however many threads there are.

use crate::common::oracle::{Problem, repeats};
use crate::common::{Entry, Outcome, Rng, bits, devices, holds, run_problem, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    CtcLossOptions, GradientKind, InputKind, InputLayout, Reduction, ScoreOptions,
    score_transcripts,
};

fn problem(seed: u64, frames: usize, items: usize, classes: usize, longest: usize) -> Problem {
    let mut rng = Rng::new(seed);
    let targets: Vec<_> = (0..items)
        .map(|_| {
            let length = rng.below(longest + 1);
            rng.target(length, classes, 0, 0.3)
        })
        .collect();
    let input_lengths = targets
        .iter()
        .map(|target| {
            let least = (target.len() + repeats(target)).min(frames);
            least + rng.below(frames + 1 - least)
        })
        .collect();
    Problem {
        frames,
        classes,
        blank: 0,
        values: rng.values(frames * items * classes, 4.0),
        targets,
        input_lengths,
    }
}

fn none(gradient: GradientKind) -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        gradient,
        ..Default::default()
    }
}

/// The problem with the items in `keep`, in that order.
fn choose(problem: &Problem, keep: &[usize]) -> Problem {
    let mut values = Vec::new();
    for t in 0..problem.frames {
        for &n in keep {
            values.extend_from_slice(&problem.values[problem.at(t, n, 0)..][..problem.classes]);
        }
    }
    Problem {
        values,
        targets: keep.iter().map(|&n| problem.targets[n].clone()).collect(),
        input_lengths: keep.iter().map(|&n| problem.input_lengths[n]).collect(),
        ..problem.clone()
    }
}

fn item_bits(outcome: &Outcome, problem: &Problem, n: usize) -> (u64, Vec<u64>) {
    let gradient: Vec<f64> = (0..problem.frames)
        .flat_map(|t| outcome.gradient[problem.at(t, n, 0)..][..problem.classes].to_vec())
        .collect();
    (outcome.loss[n].to_bits(), bits(&gradient))
}

/// Calls `check` with every entry, kind, dtype and device.
fn everywhere(mut check: impl FnMut(Entry, CtcLossOptions, DType, &Device)) {
    for device in devices() {
        for dtype in tensors::FLOATS
            .into_iter()
            .filter(|&dtype| holds(&device, dtype))
        {
            for entry in Entry::ALL {
                for kind in [GradientKind::Exact, GradientKind::Torch] {
                    check(entry, none(kind), dtype, &device);
                }
            }
        }
    }
}

#[test]
fn an_item_alone_has_the_bits_it_has_in_a_batch() {
    // On a GPU long rows are read in vectors, and those of an odd length start elsewhere in each.
    for (frames, items, classes, longest) in [
        (9, 7, 5, 4),
        (70, 12, 33, 30),
        (3, 3, 261, 2),
        (3, 3, 1031, 2),
    ] {
        let p = problem(60, frames, items, classes, longest);
        everywhere(|entry, options, dtype, device| {
            let whole = run_problem(entry, &p, options, dtype, device, None).unwrap();
            for n in 0..items {
                let alone = choose(&p, &[n]);
                let out = run_problem(entry, &alone, options, dtype, device, None).unwrap();
                assert_eq!(
                    item_bits(&out, &alone, 0),
                    item_bits(&whole, &p, n),
                    "item {n} {entry:?} {options:?} {dtype:?}"
                );
            }
        });
    }
}

/// Much memory is written in another way on the CPU, and rows with few labels otherwise than those with many.
#[test]
fn an_item_has_the_same_bits_in_a_large_gradient() {
    let (frames, items, classes) = (330, 13, 1003);
    let mut p = problem(64, frames, items, classes, 120);
    assert!(size_of::<f32>() * frames * items * classes > 16 << 20);
    p.targets[3] = Vec::new();
    p.input_lengths[4] = p.targets[4].len() / 2;
    let nan = p.at(7, 5, 11);
    p.values[nan] = f64::NAN;
    let upstream: Vec<f64> = (0..items).map(|n| 0.3 * n as f64 - 1.0).collect();
    let device = Device::Cpu;
    for dtype in [DType::F32, DType::F64] {
        for (entry, layout) in [
            (Entry::LogProbs, InputLayout::TimeMajor),
            (Entry::Logits, InputLayout::TimeMajor),
            (Entry::Logits, InputLayout::BatchMajor),
        ] {
            let options = CtcLossOptions {
                layout,
                ..none(GradientKind::Exact)
            };
            let whole = run_problem(entry, &p, options, dtype, &device, Some(&upstream)).unwrap();
            for n in 0..items {
                let (alone, weight) = (choose(&p, &[n]), Some(&upstream[n..][..1]));
                let out = run_problem(entry, &alone, options, dtype, &device, weight).unwrap();
                assert_eq!(
                    item_bits(&out, &alone, 0),
                    item_bits(&whole, &p, n),
                    "item {n} {entry:?} {layout:?} {dtype:?}"
                );
            }
        }
    }
}

#[test]
fn an_item_has_the_same_bits_beside_nan_and_items_that_cannot_be_aligned() {
    let p = problem(61, 20, 3, 6, 8);
    let mut bad = p.clone();
    for t in 0..p.frames {
        let i = bad.at(t, 0, 0);
        bad.values[i..i + 6].fill(f64::NAN);
    }
    bad.targets[2] = vec![1; 15];
    everywhere(|entry, options, dtype, device| {
        let clean = run_problem(entry, &p, options, dtype, device, None).unwrap();
        let beside = run_problem(entry, &bad, options, dtype, device, None).unwrap();
        assert_eq!(item_bits(&beside, &bad, 1), item_bits(&clean, &p, 1));
    });
}

#[test]
fn items_of_a_batch_may_be_reordered_and_repeated() {
    let p = problem(62, 25, 6, 8, 9);
    let order = [3, 3, 0, 5, 1, 1, 4, 2];
    let q = choose(&p, &order);
    everywhere(|entry, options, dtype, device| {
        let a = run_problem(entry, &p, options, dtype, device, None).unwrap();
        let b = run_problem(entry, &q, options, dtype, device, None).unwrap();
        for (place, &n) in order.iter().enumerate() {
            assert_eq!(item_bits(&b, &q, place), item_bits(&a, &p, n));
        }
    });
}

#[test]
fn frames_and_classes_added_as_padding_change_no_bits() {
    let p = problem(63, 20, 4, 6, 8);
    let mut longer = p.clone();
    longer.frames += 13;
    longer.values.extend(Rng::new(64).values(13 * 4 * 6, 5.0));
    everywhere(|entry, options, dtype, device| {
        let a = run_problem(entry, &p, options, dtype, device, None).unwrap();
        let b = run_problem(entry, &longer, options, dtype, device, None).unwrap();
        assert_eq!(bits(&a.loss), bits(&b.loss));
        assert_eq!(bits(&a.gradient), bits(&b.gradient[..a.gradient.len()]));
        assert!(b.gradient[a.gradient.len()..].iter().all(|&g| g == 0.0));
    });
}

#[test]
fn an_untracked_loss_has_the_bits_of_a_tracked_one() {
    let p = problem(65, 60, 5, 9, 20);
    everywhere(|entry, options, dtype, device| {
        let tracked = run_problem(entry, &p, options, dtype, device, None).unwrap();
        let input = tensors::floats(&p.values, &[60, 5, 9], dtype, device);
        let targets = tensors::padded(&p.targets, 0, 0, DType::U32, device);
        let loss = entry
            .loss(
                &input,
                &targets,
                &p.input_lengths,
                &p.target_lengths(),
                options,
            )
            .unwrap();
        assert_eq!(
            bits(&tensors::read(&loss)),
            bits(&tracked.loss),
            "{entry:?} {dtype:?}"
        );
    });
}

#[test]
fn every_run_has_the_same_bits() {
    let p = problem(66, 80, 9, 20, 25);
    everywhere(|entry, options, dtype, device| {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            let options = CtcLossOptions {
                reduction,
                ..options
            };
            let go = || {
                run_problem(entry, &p, options, dtype, device, None)
                    .unwrap()
                    .bits()
            };
            let first = go();
            for _ in 0..3 {
                assert_eq!(go(), first);
            }
        }
    });
}

#[test]
fn the_number_of_threads_changes_no_bits() {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let pools = [pool(1), pool(2), pool(5)];
    // One item, so that threads must share it; fewer, as many and more items than threads; one large item.
    for (frames, items, classes, longest) in [
        (50, 1, 7, 20),
        (50, 2, 7, 20),
        (50, 5, 7, 20),
        (50, 23, 7, 20),
        (700, 1, 300, 200),
    ] {
        let p = problem(67, frames, items, classes, longest);
        for entry in Entry::ALL {
            for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
                for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                    let options = CtcLossOptions {
                        layout,
                        reduction,
                        ..Default::default()
                    };
                    let go = || {
                        run_problem(entry, &p, options, DType::F32, &Device::Cpu, None)
                            .unwrap()
                            .bits()
                    };
                    let first = pools[0].install(go);
                    assert_eq!(pools[1].install(go), first);
                    assert_eq!(pools[2].install(go), first);
                    assert_eq!(go(), first);
                }
            }
        }
    }
}

#[test]
fn calls_from_several_threads_at_once_agree() {
    let go = |p: &Problem| {
        let options = none(GradientKind::Exact);
        run_problem(Entry::LogProbs, p, options, DType::F32, &Device::Cpu, None)
            .unwrap()
            .bits()
    };
    // Small; many items, for the threads of candle's own operations; one large item, whose parts rayon has.
    let problems = [
        problem(68, 60, 4, 9, 20),
        problem(69, 300, 40, 9, 60),
        problem(70, 900, 1, 300, 200),
    ];
    let want: Vec<_> = problems.iter().map(go).collect();
    let agree = || problems.iter().zip(&want).all(|(p, want)| go(p) == *want);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
    let pool = pool.unwrap();
    std::thread::scope(|scope| {
        let mut threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..5).all(|_| agree())))
            .collect();
        // Beside them, callers that are themselves tasks of a pool.
        threads.push(scope.spawn(|| {
            let ((a, b), c) = pool.install(|| rayon::join(|| rayon::join(agree, agree), agree));
            a && b && c
        }));
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
}

/// Candidates some of which leave the range of the scaled lattice: whether they go side by side depends on the number of
/// threads.
#[test]
fn the_number_of_threads_changes_no_bits_of_scores_of_hard_candidates() {
    let (frames, classes) = (33, 3);
    let mut values = vec![0f32; frames * classes];
    for t in [1, 4].into_iter().chain(6..=14).chain(18..=24) {
        values[t * classes] = -80.0;
    }
    values[24 * classes + 1] = -80.0;
    let raw = Tensor::from_vec(values, (frames, classes), &Device::Cpu).unwrap();
    let candidates: [&[u32]; 8] = [
        &[1, 1],
        &[2],
        &[2, 2, 1],
        &[1, 2, 2],
        &[2, 2],
        &[1, 2],
        &[1],
        &[],
    ];
    for input in [InputKind::LogProbs, InputKind::Logits] {
        let opts = ScoreOptions {
            input,
            normalised: false,
            ..Default::default()
        };
        let scores = |threads: usize| -> Vec<u64> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let scores = pool
                .unwrap()
                .install(|| score_transcripts(&raw, &candidates, opts).unwrap());
            scores.into_iter().map(f64::to_bits).collect()
        };
        let one = scores(1);
        for threads in [2, 3, 4, 8] {
            assert_eq!(one, scores(threads), "{threads} threads");
        }
    }
}
