//! Lengths that come wrong without a sign: a u8 tensor whose sum wrapped, and lengths for the other layout.

use crate::common::{devices, for_confidence, tensors};
use candle_core::{DType, Device, Result, Tensor};
use candle_ctc::{
    AlignOptions, BeamOptions, Checks, CtcLossOptions, GreedyOptions, InputLayout, IntoLengths,
    ScoreOptions, beam_search_batch, ctc_loss, ctc_loss_with_logits, feasibility,
    forced_align_batch, greedy_decode_batch, score_transcripts_batch, state_posteriors_batch,
    token_confidence_batch,
};

/// The first line of each result's error, with the name of its function.
fn messages<I: IntoLengths + Clone, L: IntoLengths + Clone>(
    input: &Tensor,
    targets: &Tensor,
    input_lengths: I,
    target_lengths: L,
    layout: InputLayout,
) -> Vec<(&'static str, Option<String>)> {
    let (i, l) = (|| input_lengths.clone(), || target_lengths.clone());
    let score = ScoreOptions {
        layout,
        ..Default::default()
    };
    let align = AlignOptions {
        layout,
        ..Default::default()
    };
    let greedy = GreedyOptions {
        layout,
        ..Default::default()
    };
    let beam = BeamOptions {
        layout,
        beam_width: 2,
        ..Default::default()
    };
    let of = |name, result: Result<()>| {
        let text = result.err().map(|error| error.to_string());
        let line = text.map(|text| text.lines().next().unwrap_or_default().to_string());
        (name, line)
    };
    let mut all = Vec::new();
    for checks in [Checks::Host, Checks::Device] {
        let opts = CtcLossOptions {
            layout,
            checks,
            ..Default::default()
        };
        let losses = [
            ("ctc_loss", ctc_loss(input, targets, i(), l(), opts)),
            (
                "ctc_loss_with_logits",
                ctc_loss_with_logits(input, targets, i(), l(), opts),
            ),
        ];
        all.extend(losses.map(|(name, loss)| of(name, loss.map(|_| ()))));
    }
    let aligned = forced_align_batch(input, targets, i(), l(), align);
    let tokens = token_confidence_batch(input, targets, i(), l(), for_confidence(score));
    let states = state_posteriors_batch(input, targets, i(), l(), for_confidence(score));
    all.push(of("forced_align_batch", aligned.map(|_| ())));
    all.push(of("token_confidence_batch", tokens.map(|_| ())));
    all.push(of("state_posteriors_batch", states.map(|_| ())));
    let transcripts = vec![vec![[1u32]]; 2];
    let scores = score_transcripts_batch(input, i(), &transcripts, score);
    all.push(of("score_transcripts_batch", scores.map(|_| ())));
    let found = greedy_decode_batch(input, i(), greedy);
    all.push(of("greedy_decode_batch", found.map(|_| ())));
    let found = beam_search_batch(input, i(), beam);
    all.push(of("beam_search_batch", found.map(|_| ())));
    all
}

/// Functions that take no target lengths.
const WITHOUT_TARGETS: [&str; 3] = [
    "score_transcripts_batch",
    "greedy_decode_batch",
    "beam_search_batch",
];

fn uniform(dims: &[usize], device: &Device) -> Tensor {
    let classes = *dims.last().unwrap() as f64;
    let values = vec![-classes.ln(); dims.iter().product()];
    tensors::floats(&values, dims, DType::F32, device)
}

#[test]
fn u8_lengths_are_refused_where_a_sum_of_u8_wraps() {
    const TIME_MAJOR: InputLayout = InputLayout::TimeMajor;
    for device in devices() {
        let lengths = |values: &[i64; 2], dtype| tensors::integers(values, &[2], dtype, &device);
        let input = uniform(&[300, 2, 3], &device);
        let targets = tensors::integers(&[1; 4], &[2, 2], DType::U32, &device);
        // What candle makes of the sum of a u8 mask of 300 ones, without overflow checks.
        let mask = Tensor::ones((2, 300), DType::U8, &device).unwrap();
        let wrapped = lengths(&[44, 44], DType::U8);
        for (name, message) in messages(&input, &targets, &wrapped, [2, 2], TIME_MAJOR) {
            let message = message.unwrap_or_else(|| panic!("{name}: no error"));
            for part in [name, "input_lengths", "u8", "255", "T = 300", "DType::U32"] {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
            assert!(message.len() < 200, "{message}");
        }
        let counted = mask.to_dtype(DType::U32).unwrap().sum(1).unwrap();
        for (name, message) in messages(&input, &targets, &counted, [2, 2], TIME_MAJOR) {
            assert_eq!(message, None, "{name}");
        }
        // S is too large, then the number of labels one after the other.
        let wide = tensors::integers(&[1; 600], &[2, 300], DType::U32, &device);
        let flat = tensors::integers(&[1; 260], &[260], DType::U32, &device);
        let (two, u8s) = (lengths(&[2, 2], DType::U8), lengths(&[200, 60], DType::U8));
        for (targets, lengths, size) in [
            (&wide, &two, "S = 300"),
            (&flat, &u8s, "the number of labels = 260"),
        ] {
            for (name, message) in messages(&input, targets, [300, 300], lengths, TIME_MAJOR) {
                if WITHOUT_TARGETS.contains(&name) {
                    assert_eq!(message, None);
                    continue;
                }
                let message = message.unwrap_or_else(|| panic!("{name}: no error"));
                for part in [name, "target_lengths", "u8", "255", size, "DType::U32"] {
                    assert!(message.contains(part), "{message:?} lacks {part:?}");
                }
            }
            let error = feasibility(targets, [300, 300], lengths).unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains("feasibility: target_lengths") && message.contains(size),
                "{message}"
            );
        }
        // For another number of items the layout is more likely to be wrong.
        let swapped = uniform(&[300, 20, 3], &device);
        let many = tensors::integers(&[20; 300], &[300], DType::U8, &device);
        for (name, message) in messages(&swapped, &targets, &many, [2; 20], TIME_MAJOR) {
            let message = message.unwrap_or_else(|| panic!("{name}: no error"));
            assert!(
                message.contains("300 entries") && message.contains("BatchMajor"),
                "{message}"
            );
        }
        // Up to 255 nothing wraps.
        let input = uniform(&[255, 2, 3], &device);
        let targets = tensors::integers(&[1; 510], &[2, 255], DType::U32, &device);
        let frames = lengths(&[255, 7], DType::U8);
        for (name, message) in messages(&input, &targets, &frames, &two, TIME_MAJOR) {
            assert_eq!(message, None, "{name}");
        }
    }
}

/// Every function says how it read the input.
#[track_caller]
fn hints<I: IntoLengths + Clone, L: IntoLengths + Clone>(
    dims: &[usize; 3],
    targets: &Tensor,
    (input_lengths, target_lengths): (I, L),
    layout: InputLayout,
    parts: &[&str],
) {
    let input = uniform(dims, &Device::Cpu);
    let all = messages(&input, targets, input_lengths, target_lengths, layout);
    let other = match layout {
        InputLayout::TimeMajor => "(N, T, C) set layout to InputLayout::BatchMajor",
        InputLayout::BatchMajor => "(T, N, C) set layout to InputLayout::TimeMajor",
    };
    for (name, message) in all {
        let message = message.unwrap_or_else(|| panic!("{name}: no error"));
        for part in [name, other, "the input is read as"].iter().chain(parts) {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

#[test]
fn the_layout_is_named_in_every_error_that_it_may_have_caused() {
    let targets = tensors::integers(&[1; 4], &[2, 2], DType::U32, &Device::Cpu);
    let one = tensors::integers(&[1; 2], &[1, 2], DType::U32, &Device::Cpu);
    let tensor =
        |values: &[i64]| tensors::integers(values, &[values.len()], DType::I64, &Device::Cpu);
    for (layout, two_items, one_item) in [
        (InputLayout::TimeMajor, [2, 9, 3], [1, 9, 3]),
        (InputLayout::BatchMajor, [9, 2, 3], [9, 1, 3]),
    ] {
        let count = ["input_lengths has 2 entries", "N = 9"];
        hints(&two_items, &targets, ([9, 8], [2, 1]), layout, &count);
        let lengths = (vec![9usize, 8], &[2i32, 1][..]);
        hints(&two_items, &targets, lengths, layout, &count);
        let lengths = (&tensor(&[9, 8]), &tensor(&[2, 1]));
        hints(&two_items, &targets, lengths, layout, &count);
        // A single number for a batch of one.
        let scalar = ["single number 9", "N = 9"];
        hints(&one_item, &one, (9, 2), layout, &scalar);
        hints(&one_item, &one, ([9], [2]), layout, &["1 entries", "N = 9"]);
        // Longer than the frames as they are read, but not than the items.
        let lengths = ([9usize; 9], [2usize; 9]);
        let too_long = ["input_lengths[0] = 9", "T = 2"];
        hints(&two_items, &targets, lengths, layout, &too_long);
    }
}

#[test]
fn the_layout_is_named_where_targets_or_transcripts_are_for_the_other_dimension() {
    let input = uniform(&[2, 9, 3], &Device::Cpu);
    let targets = tensors::integers(&[1; 4], &[2, 2], DType::U32, &Device::Cpu);
    let hint = "the input is read as (T, N, C) = (2, 9, 3)";
    let error = ctc_loss(&input, &targets, [1; 9], [1; 9], CtcLossOptions::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("[2, 2]") && message.contains(hint),
        "{message}"
    );
    let lists = vec![vec![[1u32]]; 2];
    let error = score_transcripts_batch(&input, [1; 9], &lists, ScoreOptions::default());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("2 items") && message.contains(hint),
        "{message}"
    );
}

#[test]
fn the_layout_is_not_named_where_it_would_not_help() {
    let input = uniform(&[9, 2, 3], &Device::Cpu);
    let targets = tensors::integers(&[1; 4], &[2, 2], DType::U32, &Device::Cpu);
    for lengths in [&[9usize, 10][..], &[9, 9, 9]] {
        for (name, message) in messages(&input, &targets, lengths, [2, 2], InputLayout::TimeMajor) {
            let message = message.unwrap_or_else(|| panic!("{name}: no error"));
            assert!(!message.contains("layout"), "{message}");
        }
    }
}
