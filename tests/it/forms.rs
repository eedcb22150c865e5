//! Every accepted form of the arguments says the same thing: shapes, dtypes, target forms, length forms.

use crate::common::{self, Entry, Rng, bits, devices, holds, in_layout, run, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    CtcLoss, CtcLossOptions, GradientKind, InputLayout, IntoLengths, Reduction, ctc_loss,
    ctc_loss_with_logits,
};

const FRAMES: usize = 9;
const CLASSES: usize = 5;
const INPUT_LENGTHS: [usize; 3] = [9, 6, 8];
const TARGET_LENGTHS: [usize; 3] = [3, 1, 4];

fn targets() -> Vec<Vec<usize>> {
    vec![vec![1, 1, 2], vec![4], vec![3, 2, 3, 3]]
}

fn input(items: usize, dtype: DType, device: &Device) -> Tensor {
    let values = Rng::new(20).values(FRAMES * items * CLASSES, 2.0);
    tensors::floats(&values, &[FRAMES, items, CLASSES], dtype, device)
}

fn none() -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    }
}

/// The losses of the three items with lengths in any form.
fn losses(
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    device: &Device,
) -> Vec<u64> {
    let targets = tensors::padded(&targets(), 0, 0, DType::I64, device);
    let input = input(3, DType::F32, device);
    bits(&tensors::read(
        &ctc_loss(&input, &targets, input_lengths, target_lengths, none()).unwrap(),
    ))
}

#[test]
fn default_options_are_blank_0_mean_exact_and_time_major() {
    let options = CtcLossOptions::default();
    assert_eq!(options.blank, 0);
    assert_eq!(options.reduction, Reduction::Mean);
    assert!(!options.zero_infinity);
    assert_eq!(options.gradient, GradientKind::Exact);
    assert_eq!(options.layout, InputLayout::TimeMajor);
}

#[test]
fn lengths_may_be_slices_arrays_and_vecs_of_every_integer() {
    for device in devices() {
        let want = losses(INPUT_LENGTHS.as_slice(), TARGET_LENGTHS.as_slice(), &device);
        macro_rules! check {
            ($($t:ty),*) => {$({
                let (i, u) = (INPUT_LENGTHS.map(|x| x as $t), TARGET_LENGTHS.map(|x| x as $t));
                assert_eq!(losses(i, u, &device), want, "arrays of {}", stringify!($t));
                assert_eq!(losses(&i, &u, &device), want, "array references of {}", stringify!($t));
                assert_eq!(losses(&i[..], &u[..], &device), want, "slices of {}", stringify!($t));
                assert_eq!(losses(i.to_vec(), u.to_vec(), &device), want, "vecs of {}", stringify!($t));
                assert_eq!(losses(&i.to_vec(), &u.to_vec(), &device), want, "vec references of {}", stringify!($t));
            })*};
        }
        check!(usize, u32, i32, i64);
    }
}

#[test]
fn lengths_may_be_tensors_of_every_integer_dtype_on_the_cpu_or_the_device() {
    for device in devices() {
        let want = losses(INPUT_LENGTHS, TARGET_LENGTHS, &device);
        for dtype in tensors::INTEGERS {
            for place in [&Device::Cpu, &device] {
                let i = tensors::integers(&INPUT_LENGTHS.map(|x| x as i64), &[3], dtype, place);
                let u = tensors::integers(&TARGET_LENGTHS.map(|x| x as i64), &[3], dtype, place);
                assert_eq!(losses(&i, &u, &device), want, "{dtype:?}");
            }
        }
    }
}

#[test]
fn kinds_of_lengths_may_be_mixed() {
    let device = Device::Cpu;
    let want = losses(INPUT_LENGTHS, TARGET_LENGTHS, &device);
    let i = Tensor::new(&[9u8, 6, 8], &device).unwrap();
    let u = Tensor::new(&[3i64, 1, 4], &device).unwrap();
    assert_eq!(losses(&i, vec![3usize, 1, 4], &device), want);
    assert_eq!(losses([9i32, 6, 8], &u, &device), want);
    assert_eq!(losses([9u32, 6, 8], vec![3i64, 1, 4], &device), want);
}

#[test]
fn lengths_may_be_views_with_strides_and_offsets() {
    let device = Device::Cpu;
    let want = losses(INPUT_LENGTHS, TARGET_LENGTHS, &device);
    // Columns 1 and 2 of a table.
    let table = Tensor::new(
        &[[77u32, 9, 3, 77], [77, 6, 1, 77], [77, 8, 4, 77]],
        &device,
    )
    .unwrap();
    let column = |i| table.narrow(1, i, 1).unwrap().squeeze(1).unwrap();
    assert!(!column(1).is_contiguous());
    assert_eq!(losses(&column(1), &column(2), &device), want);
    // One length for all items, broadcast.
    let all = Tensor::new(&[9i64], &device)
        .unwrap()
        .broadcast_as(3)
        .unwrap();
    assert_eq!(
        losses(&all, TARGET_LENGTHS, &device),
        losses([9usize; 3], TARGET_LENGTHS, &device)
    );
}

#[test]
fn a_single_item_takes_scalar_lengths_of_every_integer() {
    for device in devices() {
        let target = tensors::integers(&[1, 3, 3], &[1, 3], DType::U32, &device);
        let batched = input(1, DType::F32, &device);
        let unbatched = batched.squeeze(1).unwrap();
        let read = |loss: candle_core::Result<Tensor>| bits(&tensors::read(&loss.unwrap()));
        let want = read(ctc_loss(&batched, &target, [8usize], [3usize], none()));
        macro_rules! check {
            ($($t:ty),*) => {$(
                for input in [&batched, &unbatched] {
                    assert_eq!(read(ctc_loss(input, &target, 8 as $t, 3 as $t, none())), want, stringify!($t));
                }
            )*};
        }
        check!(usize, u32, i32, i64);
        for dtype in tensors::INTEGERS {
            let scalar = |x| tensors::integers(&[x], &[], dtype, &device);
            let one = |x| tensors::integers(&[x], &[1], dtype, &device);
            for input in [&batched, &unbatched] {
                assert_eq!(
                    read(ctc_loss(input, &target, &scalar(8), &scalar(3), none())),
                    want,
                    "{dtype:?}"
                );
                assert_eq!(
                    read(ctc_loss(input, &target, &one(8), 3usize, none())),
                    want,
                    "{dtype:?}"
                );
            }
        }
    }
}

#[test]
fn targets_of_every_integer_dtype_padded_or_concatenated_give_the_same_bits() {
    for device in devices() {
        for entry in Entry::ALL {
            for kind in [GradientKind::Exact, GradientKind::Torch] {
                let options = CtcLossOptions {
                    gradient: kind,
                    ..none()
                };
                let go = |targets: &Tensor| {
                    let input = input(3, DType::F32, &device);
                    run(
                        entry,
                        &input,
                        targets,
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                        None,
                    )
                    .unwrap()
                    .bits()
                };
                let want = go(&tensors::padded(&targets(), 0, 0, DType::I64, &device));
                for dtype in tensors::INTEGERS {
                    for place in [&Device::Cpu, &device] {
                        let what = format!("{entry:?} {dtype:?}");
                        assert_eq!(
                            go(&tensors::padded(&targets(), 0, 0, dtype, place)),
                            want,
                            "{what} padded"
                        );
                        assert_eq!(
                            go(&tensors::padded(&targets(), 2, 0, dtype, place)),
                            want,
                            "{what} wider"
                        );
                        assert_eq!(
                            go(&tensors::concatenated(&targets(), dtype, place)),
                            want,
                            "{what} concatenated"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn targets_may_be_views_with_strides_and_offsets() {
    for device in devices() {
        let input = input(3, DType::F32, &device);
        let go = |targets: &Tensor| {
            run(
                Entry::LogProbs,
                &input,
                targets,
                &INPUT_LENGTHS,
                &TARGET_LENGTHS,
                none(),
                None,
            )
            .unwrap()
            .bits()
        };
        let padded = tensors::padded(&targets(), 0, 0, DType::U32, &device);
        let want = go(&padded);
        let turned = padded.t().unwrap().contiguous().unwrap().t().unwrap();
        assert!(!turned.is_contiguous());
        assert_eq!(go(&turned), want, "transposed");
        let wide = Tensor::cat(&[&padded, &padded, &padded], 1).unwrap();
        assert_eq!(
            go(&wide.narrow(1, 4, 4).unwrap()),
            want,
            "narrowed in the positions"
        );
        let tall = Tensor::cat(&[&padded, &padded, &padded], 0).unwrap();
        assert_eq!(
            go(&tall.narrow(0, 3, 3).unwrap()),
            want,
            "narrowed in the batch"
        );
        let flat = tensors::concatenated(&targets(), DType::U32, &device);
        let spread = Tensor::stack(&[&flat, &flat], 1).unwrap();
        let every_second = spread.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
        assert_eq!(go(&every_second), want, "every second entry");
    }
}

#[test]
fn broadcast_targets_are_the_same_target_for_each_item() {
    for device in devices() {
        let one = tensors::integers(&[2, 2, 4], &[1, 3], DType::I64, &device);
        let input = input(3, DType::F32, &device);
        let go = |targets: &Tensor| {
            run(
                Entry::LogProbs,
                &input,
                targets,
                &[9, 9, 7],
                &[3, 2, 3],
                none(),
                None,
            )
            .unwrap()
            .bits()
        };
        let broadcast = one.broadcast_as((3, 3)).unwrap();
        assert_eq!(go(&broadcast), go(&broadcast.contiguous().unwrap()));
    }
}

#[test]
fn an_unbatched_input_gives_a_scalar_equal_to_a_batch_of_one() {
    for device in devices() {
        for entry in Entry::ALL {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
                    let options = CtcLossOptions {
                        reduction,
                        layout,
                        ..Default::default()
                    };
                    let unbatched = input(1, DType::F32, &device).squeeze(1).unwrap();
                    let batched = match layout {
                        InputLayout::TimeMajor => unbatched.unsqueeze(1).unwrap(),
                        InputLayout::BatchMajor => unbatched.unsqueeze(0).unwrap(),
                    };
                    let row = tensors::integers(&[1, 3, 3], &[1, 3], DType::U32, &device);
                    let flat = tensors::integers(&[1, 3, 3], &[3], DType::U32, &device);
                    let want = run(entry, &batched, &row, &[8], &[3], options, None).unwrap();
                    for (input, targets) in
                        [(&batched, &flat), (&unbatched, &row), (&unbatched, &flat)]
                    {
                        let got = run(entry, input, targets, &[8], &[3], options, None).unwrap();
                        assert_eq!(got.bits(), want.bits());
                        let batch_of_losses = reduction == Reduction::None && input.rank() == 3;
                        assert_eq!(
                            got.loss_dims,
                            if batch_of_losses { vec![1] } else { vec![] }
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn an_unbatched_row_of_targets_may_be_padded() {
    let device = Device::Cpu;
    let unbatched = input(1, DType::F32, &device).squeeze(1).unwrap();
    let row = tensors::integers(&[1, 3, -9, 1 << 40], &[1, 4], DType::I64, &device);
    let flat = tensors::integers(&[1, 3], &[2], DType::I64, &device);
    let go = |targets| {
        run(
            Entry::LogProbs,
            &unbatched,
            targets,
            &[8],
            &[2],
            none(),
            None,
        )
        .unwrap()
        .bits()
    };
    assert_eq!(go(&row), go(&flat));
}

#[test]
fn batch_major_gives_the_bits_of_time_major() {
    for device in devices() {
        for entry in Entry::ALL {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                let time_major = input(3, DType::F32, &device);
                let targets = tensors::padded(&targets(), 0, 0, DType::U32, &device);
                let go = |layout| {
                    let options = CtcLossOptions {
                        layout,
                        reduction,
                        ..Default::default()
                    };
                    let input = in_layout(&time_major, layout);
                    run(
                        entry,
                        &input,
                        &targets,
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                        None,
                    )
                    .unwrap()
                };
                let (a, b) = (go(InputLayout::TimeMajor), go(InputLayout::BatchMajor));
                assert_eq!(bits(&a.loss), bits(&b.loss));
                let turned = common::oracle::swap_axes(&b.gradient, 3, FRAMES, CLASSES);
                assert_eq!(bits(&a.gradient), bits(&turned));
            }
        }
    }
}

#[test]
fn gradient_has_the_dtype_of_the_input_and_the_loss_is_f32_or_f64() {
    for device in devices() {
        for entry in Entry::ALL {
            for dtype in tensors::FLOATS
                .into_iter()
                .filter(|&dtype| holds(&device, dtype))
            {
                for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                    let options = CtcLossOptions {
                        reduction,
                        ..Default::default()
                    };
                    let targets = tensors::padded(&targets(), 0, 0, DType::U32, &device);
                    let input = input(3, dtype, &device);
                    let out = run(
                        entry,
                        &input,
                        &targets,
                        &INPUT_LENGTHS,
                        &TARGET_LENGTHS,
                        options,
                        None,
                    )
                    .unwrap();
                    assert_eq!(out.gradient_dtype, dtype);
                    assert_eq!(
                        out.loss_dtype,
                        if dtype == DType::F64 {
                            DType::F64
                        } else {
                            DType::F32
                        }
                    );
                    assert_eq!(
                        out.loss_dims,
                        if reduction == Reduction::None {
                            vec![3]
                        } else {
                            vec![]
                        }
                    );
                }
            }
        }
    }
}

#[test]
fn a_half_input_gives_the_loss_of_its_values_in_f32() {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16] {
            let half = input(3, dtype, &device);
            let wide = tensors::floats(&tensors::read(&half), half.dims(), DType::F32, &device);
            let targets = tensors::padded(&targets(), 0, 0, DType::U32, &device);
            for entry in Entry::ALL {
                let go = |x| {
                    tensors::read(
                        &entry
                            .loss(x, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, none())
                            .unwrap(),
                    )
                };
                common::tolerance::loss(DType::F32).check("loss", &go(&half), &go(&wide));
            }
        }
    }
}

#[test]
fn ctc_loss_struct_forwards_its_options() {
    let device = Device::Cpu;
    let input = input(3, DType::F32, &device);
    let targets = [vec![1, 1, 2], vec![3], vec![3, 2, 3, 3]];
    let targets = tensors::padded(&targets, 0, 0, DType::U32, &device);
    let (i, u) = (INPUT_LENGTHS, TARGET_LENGTHS);
    for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
        let options = CtcLossOptions {
            blank: 4,
            reduction,
            ..Default::default()
        };
        let module = CtcLoss::new(options);
        assert_eq!(module.options(), options);
        let loss = module.forward(&input, &targets, i, u).unwrap();
        let want = ctc_loss(&input, &targets, i, u, options).unwrap();
        assert_eq!(tensors::read(&loss), tensors::read(&want));
        let loss = module.forward_with_logits(&input, &targets, i, u).unwrap();
        let want = ctc_loss_with_logits(&input, &targets, i, u, options).unwrap();
        assert_eq!(tensors::read(&loss), tensors::read(&want));
    }
}

#[test]
fn logits_entry_ignores_a_shift_of_each_row() {
    let device = Device::Cpu;
    let logits = input(3, DType::F64, &device);
    let shift = tensors::floats(
        &Rng::new(21).values(FRAMES * 3, 50.0),
        &[FRAMES, 3, 1],
        DType::F64,
        &device,
    );
    let targets = tensors::padded(&targets(), 0, 0, DType::U32, &device);
    let go = |x: &Tensor| {
        tensors::read(
            &ctc_loss_with_logits(x, &targets, INPUT_LENGTHS, TARGET_LENGTHS, none()).unwrap(),
        )
    };
    let want = go(&logits);
    common::tolerance::loss(DType::F64).check(
        "loss",
        &go(&logits.broadcast_add(&shift).unwrap()),
        &want,
    );
}
