//! Targets of all lengths at which a GPU path changes its ways: one pair of states a lane or more, one tile
//! or several, states between frames in shared memory or not. The CPU runs them too.

use crate::common::oracle::{Problem, repeats};
use crate::common::{Entry, Rng, devices, holds, run_problem, tensors, tolerance};
use candle_core::DType;
use candle_ctc::{CtcLossOptions, Reduction};

/// Items with targets of these lengths and a few frames to spare.
fn problem(seed: u64, lengths: &[usize], classes: usize, spare: usize) -> Problem {
    let mut rng = Rng::new(seed);
    let targets: Vec<Vec<usize>> = lengths
        .iter()
        .map(|&length| rng.target(length, classes, 0, 0.2))
        .collect();
    let input_lengths: Vec<usize> = targets
        .iter()
        .map(|target| target.len() + repeats(target) + 1 + rng.below(spare))
        .collect();
    let frames = input_lengths.iter().copied().max().unwrap_or(0);
    Problem {
        frames,
        classes,
        blank: 0,
        values: rng.values(frames * lengths.len() * classes, 3.0),
        targets,
        input_lengths,
    }
}

fn options() -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    }
}

/// Compares loss and gradient with the truth for the values as the dtype holds them.
fn check(problem: &Problem, dtype: DType) {
    let problem = Problem {
        values: tensors::rounded(&problem.values, dtype),
        ..problem.clone()
    };
    let (loss, gradient) = problem.expected_with_logits(&options(), None);
    for device in devices().iter().filter(|device| holds(device, dtype)) {
        let got = run_problem(Entry::Logits, &problem, options(), dtype, device, None).unwrap();
        tolerance::loss(dtype).check("loss", &got.loss, &loss);
        tolerance::gradient(dtype).check("gradient", &got.gradient, &gradient);
    }
}

#[test]
fn every_length_near_the_edge_of_a_tile() {
    for dtype in [DType::F32, DType::F64] {
        for length in [
            30, 31, 32, 33, 63, 64, 65, 111, 112, 127, 128, 129, 160, 207, 208, 209,
        ] {
            check(&problem(length as u64, &[length, length / 2], 6, 20), dtype);
        }
    }
}

#[test]
fn targets_beyond_all_tiles_at_once_and_beyond_shared_memory() {
    check(&problem(1, &[500, 3], 9, 8), DType::F32);
    check(&problem(2, &[420], 9, 8), DType::F64);
}

/// Entries too far apart for exponents of 32 bits, in one item of two and over several tiles.
#[test]
fn entries_far_apart_over_several_tiles() {
    let mut problem = problem(3, &[90, 90], 5, 9);
    for t in [10, 40, 41, 77] {
        let at = problem.at(t, 1, 0);
        let kept = problem.targets[1][t.min(80)];
        for class in 0..5 {
            if class != kept {
                problem.values[at + class] -= 1.0e9;
            }
        }
    }
    check(&problem, DType::F32);
}

/// The same bits alone and beside an item that makes the launch another.
#[test]
fn a_longer_companion_changes_no_bit() {
    for dtype in [DType::F32, DType::F64] {
        for device in devices().iter().filter(|device| holds(device, dtype)) {
            for length in [5, 40, 100] {
                let both = problem(length as u64, &[length, 230], 7, 9);
                let alone = Problem {
                    frames: both.frames,
                    values: (0..both.frames)
                        .flat_map(|t| both.values[both.at(t, 0, 0)..][..7].to_vec())
                        .collect(),
                    targets: vec![both.targets[0].clone()],
                    input_lengths: vec![both.input_lengths[0]],
                    ..both.clone()
                };
                for entry in Entry::ALL {
                    let run = |problem: &Problem| {
                        run_problem(entry, problem, options(), dtype, device, None).unwrap()
                    };
                    let (together, single) = (run(&both), run(&alone));
                    assert_eq!(together.loss[0].to_bits(), single.loss[0].to_bits());
                    for t in 0..both.frames {
                        assert_eq!(
                            together.gradient[both.at(t, 0, 0)..][..7],
                            single.gradient[alone.at(t, 0, 0)..][..7],
                            "{entry:?} {dtype:?} length {length}, frame {t}"
                        );
                    }
                }
            }
        }
    }
}
