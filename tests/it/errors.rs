//! Every input outside the contract is an error that names what is wrong: the item, the position, the value
//! and the limit.

use crate::common::{Rng, devices, tensors};
use candle_core::{DType, Device, Error, Tensor};
use candle_ctc::{
    Checks, CtcLoss, CtcLossOptions, InputLayout, IntoLengths, ctc_loss, ctc_loss_with_logits,
};

/// The message without the backtrace that candle may append.
fn message(error: &Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_string()
}

/// The whole words and numbers of a message, a minus sign included.
fn words(message: &str) -> Vec<String> {
    message
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .map(|word| word.trim_end_matches('-').to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Calls every entry, and checks that each fails with a message that has all of `expected` as words.
#[track_caller]
fn fails<I: IntoLengths + Clone, L: IntoLengths + Clone>(
    input: &Tensor,
    targets: &Tensor,
    input_lengths: I,
    target_lengths: L,
    options: CtcLossOptions,
    expected: &[&str],
) {
    let results = [
        ctc_loss(
            input,
            targets,
            input_lengths.clone(),
            target_lengths.clone(),
            options,
        ),
        ctc_loss_with_logits(
            input,
            targets,
            input_lengths.clone(),
            target_lengths.clone(),
            options,
        ),
        CtcLoss::new(options).forward(input, targets, input_lengths, target_lengths),
    ];
    for result in results {
        let message = match result {
            Ok(_) => panic!("no error; wanted one with {expected:?}"),
            Err(error) => message(&error),
        };
        let words = words(&message);
        for part in expected {
            assert!(
                words.iter().any(|word| word == part),
                "{message:?} does not name {part:?}"
            );
        }
    }
}

fn input(dims: &[usize], device: &Device) -> Tensor {
    let values = Rng::new(40).values(dims.iter().product(), 2.0);
    tensors::floats(&values, dims, DType::F32, device)
}

/// 11 frames, 4 items, 13 classes.
fn batch(device: &Device) -> Tensor {
    input(&[11, 4, 13], device)
}

/// Targets for [`batch`], 7 wide.
fn wide(device: &Device) -> Tensor {
    rows(&[1; 28], device)
}

fn rows(values: &[i64; 28], device: &Device) -> Tensor {
    tensors::integers(values, &[4, 7], DType::I64, device)
}

const OPTIONS: CtcLossOptions = CtcLossOptions {
    blank: 0,
    reduction: candle_ctc::Reduction::Mean,
    zero_infinity: false,
    gradient: candle_ctc::GradientKind::Exact,
    layout: InputLayout::TimeMajor,
    checks: Checks::Host,
};

#[test]
fn log_probs_of_another_rank() {
    for device in devices() {
        for dims in [&[][..], &[13], &[11, 4, 13, 1]] {
            let rank = dims.len().to_string();
            let named = if dims.len() == 4 {
                vec!["11", "4", "13"]
            } else {
                vec![rank.as_str()]
            };
            let result = ctc_loss(
                &input(dims, &device),
                &wide(&device),
                [11; 4],
                [2; 4],
                OPTIONS,
            );
            let message = message(&result.expect_err("an error"));
            // Either the rank or the shape itself.
            let words = words(&message);
            assert!(
                named
                    .iter()
                    .all(|part| words.iter().any(|word| word == part))
                    || message.contains(&format!("{dims:?}")),
                "{message:?}"
            );
            fails(
                &input(dims, &device),
                &wide(&device),
                [11; 4],
                [2; 4],
                OPTIONS,
                &[],
            );
        }
    }
}

#[test]
fn the_other_layout_is_named_where_it_would_fit() {
    let device = Device::Cpu;
    let x = input(&[4, 11, 13], &device);
    fails(
        &x,
        &wide(&device),
        [11; 4],
        [2; 4],
        OPTIONS,
        &["input_lengths", "4", "11", "layout", "batchmajor"],
    );
    let x = input(&[11, 4, 13], &device);
    let options = CtcLossOptions {
        layout: InputLayout::BatchMajor,
        ..OPTIONS
    };
    fails(
        &x,
        &wide(&device),
        [4; 4],
        [2; 4],
        options,
        &["input_lengths", "4", "11", "layout", "timemajor"],
    );
}

#[test]
fn log_probs_of_integers() {
    for dtype in tensors::INTEGERS {
        let x = tensors::integers(&[0; 572], &[11, 4, 13], dtype, &Device::Cpu);
        fails(
            &x,
            &wide(&Device::Cpu),
            [11; 4],
            [2; 4],
            OPTIONS,
            &[dtype.as_str()],
        );
    }
}

#[test]
fn log_probs_of_a_float_dtype_that_cannot_be_computed_with() {
    for dtype in [
        DType::F8E4M3,
        DType::F6E2M3,
        DType::F6E3M2,
        DType::F4,
        DType::F8E8M0,
    ] {
        let Ok(x) = Tensor::zeros((11, 4, 13), dtype, &Device::Cpu) else {
            continue; // candle cannot make one
        };
        fails(
            &x,
            &wide(&Device::Cpu),
            [11; 4],
            [2; 4],
            OPTIONS,
            &[dtype.as_str()],
        );
    }
    // At least this one exists on the CPU.
    let x = Tensor::zeros((11, 4, 13), DType::F32, &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F8E4M3)
        .unwrap();
    fails(
        &x,
        &wide(&Device::Cpu),
        [11; 4],
        [2; 4],
        OPTIONS,
        &["f8e4m3"],
    );
}

#[test]
fn targets_of_floats() {
    for dtype in [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
    ] {
        let targets = Tensor::ones((4, 7), DType::F32, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        fails(
            &batch(&Device::Cpu),
            &targets,
            [11; 4],
            [2; 4],
            OPTIONS,
            &["targets", dtype.as_str()],
        );
    }
}

#[test]
fn targets_of_another_rank() {
    for device in devices() {
        for dims in [&[][..], &[4, 7, 1]] {
            let targets =
                tensors::integers(&vec![1; dims.iter().product()], dims, DType::U32, &device);
            fails(
                &batch(&device),
                &targets,
                [11; 4],
                [2; 4],
                OPTIONS,
                &["targets"],
            );
            fails(
                &input(&[11, 13], &device),
                &targets,
                11usize,
                2usize,
                OPTIONS,
                &["targets"],
            );
        }
    }
}

#[test]
fn padded_targets_for_another_number_of_items() {
    for device in devices() {
        for items in [0usize, 1, 3, 5, 9] {
            let targets = tensors::integers(&vec![1; items * 7], &[items, 7], DType::U32, &device);
            let named = ["targets".to_string(), items.to_string(), "4".to_string()];
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            fails(&batch(&device), &targets, [11; 4], [2; 4], OPTIONS, &named);
        }
        let two = tensors::integers(&[1; 14], &[2, 7], DType::U32, &device);
        fails(
            &input(&[11, 13], &device),
            &two,
            11usize,
            2usize,
            OPTIONS,
            &["targets", "2", "1"],
        );
    }
}

#[test]
fn concatenated_targets_that_do_not_add_up() {
    for device in devices() {
        for have in [0i64, 9, 17, 19, 40] {
            let targets = tensors::integers(
                &vec![1; have as usize],
                &[have as usize],
                DType::U32,
                &device,
            );
            // 3 + 4 + 5 + 6
            fails(
                &batch(&device),
                &targets,
                [11; 4],
                [3, 4, 5, 6],
                OPTIONS,
                &["targets", &have.to_string(), "18"],
            );
        }
        // The same for one item, batched or not.
        let six = tensors::integers(&[1; 6], &[6], DType::U32, &device);
        fails(
            &input(&[11, 1, 13], &device),
            &six,
            11usize,
            5usize,
            OPTIONS,
            &["6", "5"],
        );
        fails(
            &input(&[11, 13], &device),
            &six,
            11usize,
            5usize,
            OPTIONS,
            &["6", "5"],
        );
        fails(
            &input(&[11, 13], &device),
            &six,
            11usize,
            7usize,
            OPTIONS,
            &["6", "7"],
        );
    }
}

#[test]
fn lengths_for_another_number_of_items() {
    let device = Device::Cpu;
    for count in [0usize, 1, 3, 5] {
        let lengths = vec![2usize; count];
        let tensor = tensors::integers(&vec![2; count], &[count], DType::I64, &device);
        let named = [count.to_string(), "4".to_string()];
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        fails(
            &batch(&device),
            &wide(&device),
            lengths.clone(),
            [2; 4],
            OPTIONS,
            &named,
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            lengths.clone(),
            OPTIONS,
            &named,
        );
        fails(
            &batch(&device),
            &wide(&device),
            &tensor,
            [2; 4],
            OPTIONS,
            &named,
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            &tensor,
            OPTIONS,
            &named,
        );
    }
    fails(
        &input(&[11, 13], &device),
        &tensors::integers(&[1; 2], &[2], DType::U32, &device),
        [11, 11],
        2usize,
        OPTIONS,
        &["2", "1"],
    );
}

#[test]
fn lengths_are_named_input_or_target() {
    let device = Device::Cpu;
    let text =
        |result: candle_core::Result<Tensor>| message(&result.unwrap_err()).replace(['_', ' '], "");
    let a = text(ctc_loss(
        &batch(&device),
        &wide(&device),
        [2; 3],
        [2; 4],
        OPTIONS,
    ));
    let b = text(ctc_loss(
        &batch(&device),
        &wide(&device),
        [2; 4],
        [2; 3],
        OPTIONS,
    ));
    assert!(
        a.contains("inputlength") && !a.contains("targetlength"),
        "{a}"
    );
    assert!(
        b.contains("targetlength") && !b.contains("inputlength"),
        "{b}"
    );
    let a = text(ctc_loss(
        &batch(&device),
        &wide(&device),
        [2, 99, 2, 2],
        [2; 4],
        OPTIONS,
    ));
    let b = text(ctc_loss(
        &batch(&device),
        &wide(&device),
        [2; 4],
        [2, 99, 2, 2],
        OPTIONS,
    ));
    assert!(
        a.contains("inputlength") && !a.contains("targetlength"),
        "{a}"
    );
    assert!(
        b.contains("targetlength") && !b.contains("inputlength"),
        "{b}"
    );
}

#[test]
fn a_scalar_length_for_several_items() {
    for device in devices() {
        let scalar = tensors::integers(&[2], &[], DType::I64, &device);
        fails(
            &batch(&device),
            &wide(&device),
            11usize,
            [2; 4],
            OPTIONS,
            &["4"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            2i64,
            OPTIONS,
            &["4"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            &scalar,
            [2; 4],
            OPTIONS,
            &["4"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            &scalar,
            OPTIONS,
            &["4"],
        );
    }
}

#[test]
fn lengths_of_another_rank_or_of_floats() {
    for device in devices() {
        let table = tensors::integers(&[2; 4], &[4, 1], DType::I64, &device);
        fails(
            &batch(&device),
            &wide(&device),
            &table,
            [2; 4],
            OPTIONS,
            &[],
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            &table,
            OPTIONS,
            &[],
        );
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let floats = tensors::floats(&[2.0; 4], &[4], dtype, &device);
            fails(
                &batch(&device),
                &wide(&device),
                &floats,
                [2; 4],
                OPTIONS,
                &["input_lengths", dtype.as_str()],
            );
            fails(
                &batch(&device),
                &wide(&device),
                [11; 4],
                &floats,
                OPTIONS,
                &["target_lengths", dtype.as_str()],
            );
        }
    }
}

#[test]
fn an_input_length_beyond_the_frames() {
    let device = Device::Cpu;
    // Item 2 has 29 of 11 frames.
    let named = ["2", "29", "11"];
    fails(
        &batch(&device),
        &wide(&device),
        [7usize, 8, 29, 9],
        [3; 4],
        OPTIONS,
        &named,
    );
    fails(
        &batch(&device),
        &wide(&device),
        [7i32, 8, 29, 9],
        [3; 4],
        OPTIONS,
        &named,
    );
    for dtype in tensors::INTEGERS {
        let lengths = tensors::integers(&[7, 8, 29, 9], &[4], dtype, &device);
        fails(
            &batch(&device),
            &wide(&device),
            &lengths,
            [3; 4],
            OPTIONS,
            &named,
        );
    }
    fails(
        &batch(&device),
        &wide(&device),
        [7usize, 8, 12, 9],
        [3; 4],
        OPTIONS,
        &["2", "12", "11"],
    );
    let max = usize::MAX.to_string();
    fails(
        &batch(&device),
        &wide(&device),
        [7, 8, usize::MAX, 9],
        [3; 4],
        OPTIONS,
        &["2", &max, "11"],
    );
    let one = tensors::integers(&[1; 2], &[2], DType::U32, &device);
    fails(
        &input(&[11, 13], &device),
        &one,
        12usize,
        2usize,
        OPTIONS,
        &["12", "11"],
    );
}

#[test]
fn an_input_length_beyond_the_frames_of_a_batch_major_input() {
    let device = Device::Cpu;
    let options = CtcLossOptions {
        layout: InputLayout::BatchMajor,
        ..OPTIONS
    };
    let x = input(&[4, 11, 13], &device);
    fails(
        &x,
        &wide(&device),
        [7usize, 8, 29, 9],
        [3; 4],
        options,
        &["2", "29", "11"],
    );
    // Time-major by mistake: 11 items of 4 frames.
    fails(
        &batch(&device),
        &wide(&device),
        [4; 4],
        [3; 4],
        options,
        &["4", "11"],
    );
}

#[test]
fn a_target_length_beyond_the_width() {
    let device = Device::Cpu;
    // Item 3 has 8 of 7 labels.
    fails(
        &batch(&device),
        &wide(&device),
        [11; 4],
        [2usize, 0, 7, 8],
        OPTIONS,
        &["3", "8", "7"],
    );
    fails(
        &batch(&device),
        &wide(&device),
        [11; 4],
        [2u32, 0, 7, 80],
        OPTIONS,
        &["3", "80", "7"],
    );
    for dtype in tensors::INTEGERS {
        let lengths = tensors::integers(&[2, 0, 7, 80], &[4], dtype, &device);
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            &lengths,
            OPTIONS,
            &["3", "80", "7"],
        );
    }
    let max = usize::MAX.to_string();
    fails(
        &batch(&device),
        &wide(&device),
        [11; 4],
        [2, 0, 7, usize::MAX],
        OPTIONS,
        &["3", &max, "7"],
    );
    let row = tensors::integers(&[1; 7], &[1, 7], DType::U32, &device);
    fails(
        &input(&[11, 13], &device),
        &row,
        11usize,
        9usize,
        OPTIONS,
        &["9", "7"],
    );
}

#[test]
fn concatenated_target_lengths_that_overflow() {
    let device = Device::Cpu;
    let targets = tensors::integers(&[1; 6], &[6], DType::I64, &device);
    let half = usize::MAX / 2 + 1;
    // The sum is 6 when it wraps around.
    fails(
        &batch(&device),
        &targets,
        [11; 4],
        [half, half, 3, 3],
        OPTIONS,
        &["6"],
    );
    fails(
        &batch(&device),
        &targets,
        [11; 4],
        [usize::MAX; 4],
        OPTIONS,
        &["6"],
    );
}

#[test]
fn a_negative_length() {
    for device in devices() {
        let (i32s, i64s) = ([2i32, 3, 2, -6], [2i64, 3, 2, -6]);
        fails(
            &batch(&device),
            &wide(&device),
            i32s,
            [2; 4],
            OPTIONS,
            &["3", "-6"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            i32s,
            OPTIONS,
            &["3", "-6"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            i64s,
            [2; 4],
            OPTIONS,
            &["3", "-6"],
        );
        fails(
            &batch(&device),
            &wide(&device),
            [11; 4],
            i64s,
            OPTIONS,
            &["3", "-6"],
        );
        for dtype in [DType::I16, DType::I32, DType::I64] {
            let lengths = tensors::integers(&i64s, &[4], dtype, &device);
            fails(
                &batch(&device),
                &wide(&device),
                &lengths,
                [2; 4],
                OPTIONS,
                &["3", "-6"],
            );
            fails(
                &batch(&device),
                &wide(&device),
                [11; 4],
                &lengths,
                OPTIONS,
                &["3", "-6"],
            );
        }
        let least = i64::MIN.to_string();
        fails(
            &batch(&device),
            &wide(&device),
            [1, i64::MIN, 1, 1],
            [2; 4],
            OPTIONS,
            &["1", &least],
        );
        // Concatenated, where the sum alone is right.
        let flat = tensors::integers(&[1; 6], &[6], DType::I64, &device);
        fails(
            &batch(&device),
            &flat,
            [11; 4],
            [3i64, 8, -6, 1],
            OPTIONS,
            &["2", "-6"],
        );
        let one = tensors::integers(&[1; 2], &[1, 2], DType::U32, &device);
        fails(
            &input(&[11, 13], &device),
            &one,
            -6i32,
            2i32,
            OPTIONS,
            &["-6"],
        );
        fails(
            &input(&[11, 13], &device),
            &one,
            11i32,
            -6i32,
            OPTIONS,
            &["-6"],
        );
    }
}

#[test]
fn a_blank_that_is_no_class() {
    for device in devices() {
        for blank in [13, 14, usize::MAX] {
            let options = CtcLossOptions { blank, ..OPTIONS };
            fails(
                &batch(&device),
                &wide(&device),
                [11; 4],
                [2; 4],
                options,
                &["blank", &blank.to_string(), "13"],
            );
        }
    }
}

#[test]
fn a_target_that_is_no_class() {
    for device in devices() {
        for (label, dtypes) in [
            (13, &tensors::INTEGERS[..]),
            (77, &tensors::INTEGERS),
            (-8, &[DType::I16, DType::I32, DType::I64]),
            (i64::MIN, &[DType::I64]),
            (i64::MAX, &[DType::I64]),
            // Its low 32 bits are 5, a class.
            ((1 << 32) + 5, &[DType::I64]),
            (u32::MAX as i64, &[DType::U32, DType::I64]),
            (255, &[DType::U8]),
        ] {
            // Item 2, position 5.
            let mut values = [1; 28];
            values[2 * 7 + 5] = label;
            let named = ["2", "5", &label.to_string(), "13"];
            for &dtype in dtypes {
                let padded = tensors::integers(&values, &[4, 7], dtype, &device);
                fails(
                    &batch(&device),
                    &padded,
                    [11; 4],
                    [3, 4, 6, 7],
                    OPTIONS,
                    &named,
                );
                // Concatenated: items of 3, 4, 6 and 2 labels; item 2 starts at 7.
                let mut values = [1; 15];
                values[7 + 5] = label;
                let flat = tensors::integers(&values, &[15], dtype, &device);
                fails(
                    &batch(&device),
                    &flat,
                    [11; 4],
                    [3, 4, 6, 2],
                    OPTIONS,
                    &named,
                );
                let one = tensors::integers(&[1, 2, 3, 4, 3, label], &[6], dtype, &device);
                fails(
                    &input(&[11, 13], &device),
                    &one,
                    11usize,
                    6usize,
                    OPTIONS,
                    &["5", &label.to_string(), "13"],
                );
            }
        }
    }
}

#[test]
fn a_target_that_is_no_class_in_an_item_that_cannot_be_aligned() {
    let device = Device::Cpu;
    let mut values = [1; 28];
    values[2 * 7 + 5] = 77;
    fails(
        &batch(&device),
        &rows(&values, &device),
        [11, 11, 0, 11],
        [3, 4, 6, 7],
        OPTIONS,
        &["2", "5", "77", "13"],
    );
}

#[test]
fn the_blank_among_the_targets() {
    for device in devices() {
        for blank in [0, 4, 12] {
            // Item 3, position 6.
            let mut values = [1; 28];
            values[3 * 7 + 6] = blank as i64;
            let options = CtcLossOptions { blank, ..OPTIONS };
            let targets = rows(&values, &device);
            fails(
                &batch(&device),
                &targets,
                [11; 4],
                [3, 4, 6, 7],
                options,
                &["blank", "3", "6", &blank.to_string()],
            );
            // Beyond the length it is padding.
            ctc_loss(&batch(&device), &targets, [11; 4], [3, 4, 6, 6], options).unwrap();
        }
        let flat = tensors::integers(&[1, 2, 3, 4, 0], &[5], DType::U8, &device);
        fails(
            &batch(&device),
            &flat,
            [11; 4],
            [1, 3, 1, 0],
            OPTIONS,
            &["blank", "2", "0"],
        );
    }
}

#[test]
fn the_first_wrong_label_is_the_one_named() {
    let device = Device::Cpu;
    let mut values = [1; 28];
    values[7 + 2] = 55;
    values[7 + 3] = 66;
    values[14] = 77;
    fails(
        &batch(&device),
        &rows(&values, &device),
        [11; 4],
        [7; 4],
        OPTIONS,
        &["1", "2", "55", "13"],
    );
}

#[test]
fn no_frames_no_items_or_no_classes() {
    for device in devices() {
        let none = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device).unwrap();
        let empty = tensors::integers(&[], &[0], DType::U32, &device);
        let items = tensors::integers(&[], &[4, 0], DType::U32, &device);
        let no_lengths: [usize; 0] = [];
        fails(
            &none(&[0, 4, 13]),
            &items,
            [0usize; 4],
            [0usize; 4],
            OPTIONS,
            &["0"],
        );
        fails(
            &none(&[11, 0, 13]),
            &empty,
            no_lengths,
            no_lengths,
            OPTIONS,
            &["0"],
        );
        fails(
            &none(&[11, 4, 0]),
            &items,
            [11usize; 4],
            [0usize; 4],
            OPTIONS,
            &["0"],
        );
        fails(&none(&[0, 13]), &empty, 0usize, 0usize, OPTIONS, &["0"]);
        fails(&none(&[11, 0]), &empty, 11usize, 0usize, OPTIONS, &["0"]);
        let options = CtcLossOptions {
            layout: InputLayout::BatchMajor,
            ..OPTIONS
        };
        fails(
            &none(&[4, 0, 13]),
            &items,
            [0usize; 4],
            [0usize; 4],
            options,
            &["0"],
        );
        fails(
            &none(&[0, 11, 13]),
            &empty,
            no_lengths,
            no_lengths,
            options,
            &["0"],
        );
    }
}

#[test]
fn messages_start_in_lower_case_and_fit_one_line() {
    let device = Device::Cpu;
    let mut values = [1; 28];
    values[3] = 99;
    let wrong = [
        ctc_loss(
            &batch(&device),
            &rows(&values, &device),
            [11; 4],
            [7; 4],
            OPTIONS,
        ),
        ctc_loss(&batch(&device), &wide(&device), [12; 4], [7; 4], OPTIONS),
        ctc_loss(&batch(&device), &wide(&device), [11; 4], [8; 4], OPTIONS),
        ctc_loss(&batch(&device), &wide(&device), [11; 3], [7; 4], OPTIONS),
        ctc_loss(
            &input(&[13], &device),
            &wide(&device),
            [11; 4],
            [7; 4],
            OPTIONS,
        ),
        ctc_loss(
            &batch(&device),
            &wide(&device),
            [11; 4],
            [7; 4],
            CtcLossOptions {
                blank: 13,
                ..OPTIONS
            },
        ),
    ];
    for result in wrong {
        let message = message(&result.unwrap_err());
        assert!(
            message.starts_with(|c: char| c.is_lowercase()),
            "{message:?}"
        );
        assert!(message.len() > 15 && message.len() < 200, "{message:?}");
    }
}
