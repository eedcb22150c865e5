//! `Checks::Device`: lengths and targets on a GPU that the host never reads. On the CPU the option changes
//! nothing.

use crate::common::{Entry, Outcome, Rng, devices, gpus, run, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{Checks, CtcLossOptions, Reduction};

const FRAMES: usize = 9;
const CLASSES: usize = 5;
const TARGETS: [[i64; 4]; 3] = [[1, 1, 2, 4], [3, 0, 0, 0], [2, 4, 2, 0]];
const TARGET_LENGTHS: [i64; 3] = [4, 1, 3];
const INPUT_LENGTHS: [i64; 3] = [9, 7, 8];

fn options(checks: Checks) -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        checks,
        ..Default::default()
    }
}

fn input(device: &Device) -> Tensor {
    let values = Rng::new(7).values(FRAMES * 3 * CLASSES, 2.0);
    tensors::floats(&values, &[FRAMES, 3, CLASSES], DType::F32, device)
}

/// The loss and the gradient with all three tensors on the device.
fn with_tensors(
    entry: Entry,
    targets: &Tensor,
    input_lengths: &[i64],
    target_lengths: &[i64],
    checks: Checks,
) -> candle_core::Result<Outcome> {
    let device = targets.device();
    let leaf = candle_core::Var::from_tensor(&input(device))?;
    let input_lengths = tensors::integers(input_lengths, &[3], DType::I64, device);
    let target_lengths = tensors::integers(target_lengths, &[3], DType::U32, device);
    let opts = options(checks);
    let loss = match entry {
        Entry::LogProbs => {
            candle_ctc::ctc_loss(&leaf, targets, &input_lengths, &target_lengths, opts)?
        }
        Entry::Logits => {
            candle_ctc::ctc_loss_with_logits(&leaf, targets, &input_lengths, &target_lengths, opts)?
        }
    };
    let gradients = loss.sum_all()?.backward()?;
    let gradient = gradients.get(&leaf).expect("the leaf has a gradient");
    Ok(Outcome {
        loss: tensors::read(&loss),
        loss_dtype: loss.dtype(),
        loss_dims: loss.dims().to_vec(),
        gradient: tensors::read(gradient),
        gradient_dtype: gradient.dtype(),
    })
}

fn padded(rows: &[[i64; 4]; 3], device: &Device) -> Tensor {
    tensors::integers(&rows.concat(), &[3, 4], DType::I32, device)
}

/// What the host gets with all lengths in slices.
fn expected(entry: Entry, device: &Device) -> Outcome {
    let usize_of = |lengths: [i64; 3]| lengths.map(|length| length as usize);
    run(
        entry,
        &input(device),
        &padded(&TARGETS, device),
        &usize_of(INPUT_LENGTHS),
        &usize_of(TARGET_LENGTHS),
        options(Checks::Host),
        None,
    )
    .unwrap()
}

#[test]
fn good_input_gives_the_same_bits() {
    for device in devices() {
        for entry in Entry::ALL {
            let want = expected(entry, &device);
            let concatenated: Vec<i64> = TARGETS
                .iter()
                .zip(TARGET_LENGTHS)
                .flat_map(|(row, length)| row[..length as usize].to_vec())
                .collect();
            let concatenated = tensors::integers(&concatenated, &[8], DType::U8, &device);
            for targets in [padded(&TARGETS, &device), concatenated] {
                for checks in [Checks::Host, Checks::Device] {
                    let got =
                        with_tensors(entry, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, checks)
                            .unwrap();
                    assert_eq!(got.bits(), want.bits(), "{entry:?} {checks:?} {device:?}");
                }
            }
        }
    }
}

/// Item 1 is NaN, loss and gradient; the others are as ever.
fn only_item_1_is_nan(got: &Outcome, want: &Outcome, what: &str) {
    for n in 0..3 {
        let gradient = |outcome: &Outcome| -> Vec<u64> {
            (0..FRAMES)
                .flat_map(|t| outcome.gradient[(t * 3 + n) * CLASSES..][..CLASSES].to_vec())
                .map(f64::to_bits)
                .collect()
        };
        if n == 1 {
            assert!(got.loss[1].is_nan(), "{what}: {:?}", got.loss);
            let all = gradient(got)
                .into_iter()
                .all(|bits| f64::from_bits(bits).is_nan());
            assert!(all, "{what}: a gradient that is not NaN");
        } else {
            assert_eq!(got.loss[n], want.loss[n], "{what}: item {n}");
            assert_eq!(gradient(got), gradient(want), "{what}: item {n}");
        }
    }
}

#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn a_bad_item_is_nan_and_the_others_are_not() {
    for device in gpus() {
        for entry in Entry::ALL {
            let want = expected(entry, &device);
            for label in [0, -1, 5, 1 << 20, i64::from(i32::MIN)] {
                let mut rows = TARGETS;
                rows[1][0] = label;
                let targets = padded(&rows, &device);
                let got = with_tensors(
                    entry,
                    &targets,
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    Checks::Device,
                );
                only_item_1_is_nan(&got.unwrap(), &want, &format!("label {label}"));
                let host = with_tensors(
                    entry,
                    &targets,
                    &INPUT_LENGTHS,
                    &TARGET_LENGTHS,
                    Checks::Host,
                );
                let message = host.unwrap_err().to_string();
                assert!(message.contains("item 1"), "{message}");
            }
            let targets = padded(&TARGETS, &device);
            for length in [-1, 10, i64::MAX, i64::MIN] {
                let lengths = [9, length, 8];
                let got = with_tensors(entry, &targets, &lengths, &TARGET_LENGTHS, Checks::Device);
                only_item_1_is_nan(&got.unwrap(), &want, &format!("input length {length}"));
            }
            for length in [5, u32::MAX.into()] {
                let lengths = [4, length, 3];
                let got = with_tensors(entry, &targets, &INPUT_LENGTHS, &lengths, Checks::Device);
                only_item_1_is_nan(&got.unwrap(), &want, &format!("target length {length}"));
            }
        }
    }
}

#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn a_bad_length_beside_padded_targets_without_labels_is_of_its_item_alone() {
    for device in gpus() {
        let none = Tensor::zeros((3, 0), DType::I64, &device).unwrap();
        for entry in Entry::ALL {
            let with = |lengths: [i64; 3]| {
                with_tensors(entry, &none, &INPUT_LENGTHS, &lengths, Checks::Device).unwrap()
            };
            only_item_1_is_nan(&with([0, 2, 0]), &with([0; 3]), "no labels");
        }
    }
}

#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn a_concatenation_that_does_not_add_up_is_nan_everywhere() {
    for device in gpus() {
        let targets = tensors::integers(&[1, 2, 3, 4, 1, 2, 3], &[7], DType::I64, &device);
        for lengths in [[3, 3, 2], [1, 1, 1], [7, 7, 7], [u32::MAX.into(), 8, 0]] {
            let got = with_tensors(
                Entry::LogProbs,
                &targets,
                &INPUT_LENGTHS,
                &lengths,
                Checks::Device,
            )
            .unwrap();
            assert!(got.loss.iter().all(|loss| loss.is_nan()), "{:?}", got.loss);
        }
    }
}

#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn lengths_that_the_host_knows_are_errors_at_once() {
    for device in gpus() {
        let targets = padded(&TARGETS, &device);
        let input = input(&device);
        let loss = |input_lengths: [usize; 3], target_lengths: [usize; 3]| {
            candle_ctc::ctc_loss(
                &input,
                &targets,
                input_lengths,
                target_lengths,
                options(Checks::Device),
            )
            .unwrap_err()
            .to_string()
        };
        let message = loss([9, 10, 8], [4, 1, 3]);
        assert!(message.contains("input_lengths[1] = 10"), "{message}");
        let message = loss([9, 9, 8], [4, 1, 5]);
        assert!(message.contains("target_lengths[2] = 5"), "{message}");
    }
}

#[test]
#[cfg_attr(not(any(feature = "cuda", feature = "metal")), ignore = "needs a GPU")]
fn labels_that_the_host_knows_are_errors_at_once() {
    for device in gpus() {
        let input = input(&device);
        let lengths = tensors::integers(&INPUT_LENGTHS, &[3], DType::I64, &device);
        let loss = |label: i64| {
            let mut rows = TARGETS;
            rows[1][0] = label;
            let targets = padded(&rows, &Device::Cpu);
            candle_ctc::ctc_loss(
                &input,
                &targets,
                &lengths,
                TARGET_LENGTHS,
                options(Checks::Device),
            )
        };
        assert!(loss(3).is_ok());
        let message = loss(5).unwrap_err().to_string();
        assert!(
            message.contains("the target of item 1 has label 5"),
            "{message}"
        );
    }
}
