//! Loss and gradient are those of the oracle, over random problems, forms and dtypes.
//!
//! The seed is fixed. `PROPTEST_RNG_SEED=7 PROPTEST_CASES=20000 cargo test --release --test properties` looks
//! further.

use crate::common::oracle::{Problem, swap_axes};
use crate::common::views::VIEWS;
use crate::common::{self, Entry, Rng, run, tensors, tolerance};
use candle_core::{DType, Device};
use candle_ctc::{Checks, CtcLossOptions, GradientKind, InputLayout, Reduction};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Everything that a random call has besides its numbers.
#[derive(Debug, Clone)]
struct Call {
    problem: Problem,
    options: CtcLossOptions,
    entry: Entry,
    dtype: DType,
    targets_dtype: DType,
    concatenated: bool,
    extra_width: usize,
    /// A row of `VIEWS`, or none for a contiguous tensor.
    view: Option<usize>,
    seed: u64,
}

fn options(blank: usize) -> impl Strategy<Value = CtcLossOptions> {
    (
        prop::sample::select(vec![Reduction::None, Reduction::Mean, Reduction::Sum]),
        any::<bool>(),
        prop::sample::select(vec![GradientKind::Exact, GradientKind::Torch]),
        prop::sample::select(vec![InputLayout::TimeMajor, InputLayout::BatchMajor]),
        prop::sample::select(vec![Checks::Host, Checks::Device]),
    )
        .prop_map(
            move |(reduction, zero_infinity, gradient, layout, checks)| CtcLossOptions {
                blank,
                reduction,
                zero_infinity,
                gradient,
                layout,
                checks,
            },
        )
}

fn problem(
    frames: usize,
    classes: usize,
    items: usize,
    longest: usize,
) -> impl Strategy<Value = Problem> {
    (
        1..=frames,
        1..=classes,
        1..=items,
        any::<u64>(),
        0.0..1.0,
        prop::sample::select(vec![0.5, 3.0, 15.0]),
    )
        .prop_map(move |(frames, classes, items, seed, repeats, scale)| {
            let mut rng = Rng::new(seed);
            let blank = rng.below(classes);
            let targets: Vec<_> = (0..items)
                .map(|_| {
                    let length = if classes == 1 {
                        0
                    } else {
                        rng.below(longest.min(frames) + 1)
                    };
                    rng.target(length, classes, blank, repeats)
                })
                .collect();
            // One in eight is of any length, so some cannot be aligned.
            let input_lengths = targets
                .iter()
                .map(|target| {
                    let least = (target.len() + common::oracle::repeats(target)).min(frames);
                    if rng.below(8) == 0 {
                        rng.below(frames + 1)
                    } else {
                        least + rng.below(frames + 1 - least)
                    }
                })
                .collect();
            // Below 1: PyTorch's gradient has exp(log_probs), which f16 must hold.
            let mut values = rng.values(frames * items * classes, scale);
            values.iter_mut().for_each(|x| *x += 1.0 - scale);
            Problem {
                frames,
                classes,
                blank,
                values,
                targets,
                input_lengths,
            }
        })
}

fn call(
    frames: usize,
    classes: usize,
    items: usize,
    longest: usize,
) -> impl Strategy<Value = Call> {
    problem(frames, classes, items, longest).prop_flat_map(|problem| {
        (
            options(problem.blank),
            prop::sample::select(Entry::ALL.to_vec()),
            prop::sample::select(tensors::FLOATS.to_vec()),
            prop::sample::select(tensors::INTEGERS.to_vec()),
            any::<bool>(),
            0usize..3,
            prop::option::of(0..VIEWS.len()),
            any::<u64>(),
        )
            .prop_map(
                move |(
                    options,
                    entry,
                    dtype,
                    targets_dtype,
                    concatenated,
                    extra_width,
                    view,
                    seed,
                )| Call {
                    problem: problem.clone(),
                    options,
                    entry,
                    dtype,
                    targets_dtype,
                    concatenated,
                    extra_width,
                    view,
                    seed,
                },
            )
    })
}

fn agrees_with_the_oracle(call: &Call, device: &Device) {
    let Call {
        options,
        entry,
        dtype,
        ..
    } = *call;
    let mut problem = call.problem.clone();
    problem.values = tensors::rounded(&problem.values, dtype);
    let mut rng = Rng::new(call.seed);
    let outputs = if options.reduction == Reduction::None {
        problem.items()
    } else {
        1
    };
    let upstream = tensors::rounded(&rng.values(outputs, 1.0), DType::F32);

    let time_major = tensors::floats(
        &problem.values,
        &[problem.frames, problem.items(), problem.classes],
        dtype,
        device,
    );
    let mut input = common::in_layout(&time_major, options.layout);
    if let Some(view) = call.view {
        let base = (VIEWS[view].store)(&input).unwrap();
        input = (VIEWS[view].view)(&base).unwrap();
    }
    let targets = if call.concatenated {
        tensors::concatenated(&problem.targets, call.targets_dtype, device)
    } else {
        tensors::padded(
            &problem.targets,
            call.extra_width,
            97,
            call.targets_dtype,
            device,
        )
    };
    let target_lengths = problem.target_lengths();
    let outcome = run(
        entry,
        &input,
        &targets,
        &problem.input_lengths,
        &target_lengths,
        options,
        Some(&upstream),
    )
    .unwrap();

    let (loss, mut gradient) = match entry {
        Entry::LogProbs => problem.expected(&options, Some(&upstream)),
        Entry::Logits => problem.expected_with_logits(&options, Some(&upstream)),
    };
    if options.layout == InputLayout::BatchMajor {
        gradient = swap_axes(&gradient, problem.frames, problem.items(), problem.classes);
    }
    assert_eq!(outcome.gradient_dtype, dtype);
    assert_eq!(
        outcome.loss_dtype,
        if dtype == DType::F64 {
            DType::F64
        } else {
            DType::F32
        }
    );
    let dims: &[usize] = if options.reduction == Reduction::None {
        &[problem.items()]
    } else {
        &[]
    };
    assert_eq!(outcome.loss_dims, dims);
    tolerance::loss(dtype).check("loss", &outcome.loss, &loss);
    tolerance::gradient(dtype).check("gradient", &outcome.gradient, &gradient);
}

/// So many cases, always the same ones, unless the environment says otherwise.
fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

fn on_every_device(call: &Call) {
    for device in common::devices() {
        if common::holds(&device, call.dtype) {
            agrees_with_the_oracle(call, &device);
        }
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn small_problems_agree_with_the_oracle(call in call(9, 5, 4, 5)) {
        on_every_device(&call);
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn middling_problems_agree_with_the_oracle(call in call(70, 40, 6, 33)) {
        on_every_device(&call);
    }
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn large_problems_agree_with_the_oracle(call in call(300, 150, 3, 140)) {
        on_every_device(&call);
    }
}
