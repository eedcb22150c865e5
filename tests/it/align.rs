//! Forced alignment: the best path, exactly; torchaudio's figures; spans, words, ties and errors.

use crate::common::oracle::{collapse, repeats};
use crate::common::{Rng, tensors, views};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    AlignOptions, Alignment, Feasibility, InputKind, InputLayout, TokenSpan, Wildcard, feasibility,
    forced_align, forced_align_batch, group_words, pad_targets,
};
use proptest::prelude::*;

/// f64 sums in another order, for scores up to a few thousand.
const SCORE: f64 = 1e-9;

/// The f64 values of f32 log-probabilities: (frames, classes).
fn log_probs(rng: &mut Rng, frames: usize, classes: usize, scale: f64) -> Vec<f64> {
    let mut values = rng.values(frames * classes, scale);
    for row in values.chunks_exact_mut(classes) {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut()
            .for_each(|x| *x = f64::from((*x - sum.ln()) as f32));
    }
    values
}

fn emission(values: &[f64], classes: usize, star: Option<(usize, f64)>, t: usize, c: usize) -> f64 {
    match star {
        Some((label, log_prob)) if label == c => log_prob,
        _ => values[t * classes + c],
    }
}

/// The best score over all paths that read as `target`, by enumeration; `classes` counts the star.
fn best_by_enumeration(
    emission: impl Fn(usize, usize) -> f64,
    (frames, classes): (usize, usize),
    target: &[usize],
    blank: usize,
) -> f64 {
    let mut best = f64::NEG_INFINITY;
    let mut path = vec![0; frames];
    loop {
        if collapse(&path, blank) == target {
            let score: f64 = path.iter().enumerate().map(|(t, &c)| emission(t, c)).sum();
            best = best.max(score);
        }
        let Some(t) = (0..frames).find(|&t| path[t] + 1 < classes) else {
            return best;
        };
        path[t] += 1;
        path[..t].fill(0);
    }
}

/// The textbook Viterbi recursion over all states, with back-pointers for every frame. Ties as
/// documented: an earlier predecessor only when it is better.
fn viterbi(values: &[f64], classes: usize, target: &[usize], blank: usize) -> (Vec<u32>, f64) {
    let frames = values.len() / classes;
    let mut labels = vec![blank];
    for &label in target {
        labels.extend([label, blank]);
    }
    let states = labels.len();
    let mut row = vec![f64::NEG_INFINITY; states];
    let mut back = vec![0u8; frames * states];
    for t in 0..frames {
        let mut next = row.clone();
        for s in 0..states {
            let mut best = if t == 0 {
                if s < 2 { 0.0 } else { f64::NEG_INFINITY }
            } else {
                row[s]
            };
            for d in 1..=2 {
                let skip = d == 1 || (s % 2 == 1 && labels[s] != labels[s.saturating_sub(2)]);
                if t > 0 && s >= d && skip && row[s - d] > best {
                    best = row[s - d];
                    back[t * states + s] = d as u8;
                }
            }
            next[s] = best + values[t * classes + labels[s]];
        }
        row = next;
    }
    let mut s = states - 1;
    if states > 1 && row[s - 1] >= row[s] {
        s -= 1;
    }
    let score = row[s];
    let mut path = vec![0; frames];
    for t in (0..frames).rev() {
        path[t] = labels[s] as u32;
        s -= usize::from(back[t * states + s]);
    }
    (path, score)
}

/// The alignments of a batch in which every item has one.
fn all(result: candle_core::Result<Vec<Option<Alignment>>>) -> Vec<Alignment> {
    let items = result.unwrap().into_iter();
    items.map(|item| item.expect("an alignment")).collect()
}

fn align_one(
    values: &[f64],
    classes: usize,
    target: &[usize],
    opts: AlignOptions,
) -> candle_core::Result<Alignment> {
    let frames = values.len() / classes;
    let input = tensors::floats(values, &[frames, classes], DType::F32, &Device::Cpu);
    let target: Vec<u32> = target.iter().map(|&label| label as u32).collect();
    forced_align(&input, &target, opts)
}

/// What must hold of any alignment.
fn check(alignment: &Alignment, target: &[usize], blank: usize) {
    let path: Vec<usize> = alignment.labels.iter().map(|&l| l as usize).collect();
    assert_eq!(collapse(&path, blank), target);
    let sum: f64 = alignment.frame_scores.iter().map(|&s| f64::from(s)).sum();
    assert!((sum - alignment.score).abs() < SCORE * (1.0 + sum.abs()));
    let tokens: Vec<usize> = alignment.spans.iter().map(|s| s.token as usize).collect();
    assert_eq!(tokens, target);
    let mut covered = vec![blank as u32; path.len()];
    for span in &alignment.spans {
        assert!(span.start < span.end);
        assert!(
            covered[span.start..span.end]
                .iter()
                .all(|&l| l == blank as u32)
        );
        covered[span.start..span.end].fill(span.token);
        let scores = &alignment.frame_scores[span.start..span.end];
        let mean = scores.iter().sum::<f32>() / scores.len() as f32;
        assert!((mean - span.score).abs() <= 1e-5 * (1.0 + mean.abs()));
    }
    assert_eq!(covered, alignment.labels);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_score_is_the_best_of_all_paths(seed in any::<u64>(), frames in 1usize..7, length in 0usize..5, blank in 0usize..3) {
        let mut rng = Rng::new(seed);
        let target = rng.target(length, 3, blank, 0.3);
        let values = log_probs(&mut rng, frames, 3, 2.0);
        let opts = AlignOptions { blank, ..Default::default() };
        let got = align_one(&values, 3, &target, opts);
        if length + repeats(&target) > frames {
            prop_assert!(got.is_err());
        } else {
            let got = got.unwrap();
            check(&got, &target, blank);
            let best = best_by_enumeration(|t, c| values[t * 3 + c], (frames, 3), &target, blank);
            prop_assert!((got.score - best).abs() < SCORE, "{} {best}", got.score);
        }
    }

    #[test]
    fn a_star_is_a_class_of_its_own(seed in any::<u64>(), frames in 3usize..7, inside in any::<bool>()) {
        let mut rng = Rng::new(seed);
        let (star, classes) = if inside { (2, 3) } else { (3, 3) };
        let values = log_probs(&mut rng, frames, classes, 2.0);
        let target = [1, star, 1];
        let log_prob = -(rng.unit() * 2.0) as f32;
        let opts = AlignOptions { star: Some(star as u32), star_emission: Wildcard::Constant(log_prob), ..Default::default() };
        let got = align_one(&values, classes, &target, opts).unwrap();
        check(&got, &target, 0);
        let star = Some((star, f64::from(log_prob)));
        let best = best_by_enumeration(|t, c| emission(&values, classes, star, t, c), (frames, 4 - usize::from(inside)), &target, 0);
        prop_assert!((got.score - best).abs() < SCORE);
    }

    /// A star and frames outside, with emissions of each rule: the best of all paths, whose frames have these scores.
    #[test]
    fn wildcards_count_as_their_rules_say(
        seed in any::<u64>(),
        frames in 1usize..7,
        rules in [0usize..4, 0..3],
        length in 0usize..3,
        inside: bool,
    ) {
        let mut rng = Rng::new(seed);
        let classes = 3;
        let star = if inside { 2 } else { 3 };
        let mut target: Vec<usize> = (0..length).map(|_| 1 + rng.below(2)).collect();
        if rng.unit() < 0.6 {
            target.insert(rng.below(target.len() + 1), star);
        }
        let values = log_probs(&mut rng, frames, classes, 2.0);
        let mut wildcard = |rule: usize| {
            let nats = rng.unit() as f32 * 2.0;
            let option = match rule {
                0 => Wildcard::Constant(-nats),
                1 => Wildcard::Largest { penalty: nats },
                _ => Wildcard::Mean { penalty: nats },
            };
            // The classes other than blank and star.
            let others = |t: usize| values[t * classes + 1..][..2 - usize::from(inside)].to_vec();
            let emissions: Vec<f64> = (0..frames)
                .map(|t| match rule {
                    0 => -f64::from(nats),
                    1 => others(t).iter().copied().fold(f64::NEG_INFINITY, f64::max) - f64::from(nats),
                    _ => {
                        let mean = others(t).iter().map(|x| x.exp()).sum::<f64>() / others(t).len() as f64;
                        mean.ln() - f64::from(nats)
                    }
                })
                .collect();
            (option, emissions)
        };
        let (star_emission, star_scores) = wildcard(rules[1]);
        let outside = (rules[0] < 3).then(|| wildcard(rules[0]));
        let opts = AlignOptions {
            star: Some(star as u32),
            star_emission,
            outside: outside.as_ref().map(|(option, _)| *option),
            ..Default::default()
        };
        let score = |path: &[usize]| -> Vec<f64> {
            let mut labels = path.iter().enumerate().filter(|(_, class)| **class != 0);
            let (first, last) = (labels.clone().next(), labels.next_back());
            let within = first.map_or(frames, |(t, _)| t)..last.map_or(frames, |(t, _)| t);
            let scores = path.iter().enumerate().map(|(t, &class)| match class {
                _ if class == star => star_scores[t],
                0 if !within.contains(&t) => {
                    let blank = values[t * classes];
                    outside.as_ref().map_or(blank, |(_, outside)| outside[t].max(blank))
                }
                _ => values[t * classes + class],
            });
            scores.collect()
        };
        let mut best = f64::NEG_INFINITY;
        let mut path = vec![0; frames];
        loop {
            if collapse(&path, 0) == target {
                best = best.max(score(&path).iter().sum());
            }
            let Some(t) = (0..frames).find(|&t| path[t] < star) else { break };
            path[t] += 1;
            path[..t].fill(0);
        }
        match align_one(&values, classes, &target, opts) {
            Err(_) => prop_assert_eq!(best, f64::NEG_INFINITY),
            Ok(got) => {
                prop_assert!((got.score - best).abs() < SCORE, "{} {best}", got.score);
                let path: Vec<usize> = got.labels.iter().map(|&label| label as usize).collect();
                prop_assert_eq!(collapse(&path, 0), target);
                for (got, want) in got.frame_scores.iter().zip(score(&path)) {
                    prop_assert!((f64::from(*got) - want).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn paths_are_those_of_the_plain_recursion(seed in any::<u64>(), frames in 1usize..260, length in 0usize..90, coarse in any::<bool>()) {
        let mut rng = Rng::new(seed);
        let target = rng.target(length, 6, 0, 0.2);
        let mut values = log_probs(&mut rng, frames, 6, 3.0);
        if coarse {
            // Whole numbers: every sum is exact, and ties are everywhere.
            values.iter_mut().for_each(|x| *x = x.round().min(0.0));
        }
        if let Ok(got) = align_one(&values, 6, &target, AlignOptions::default()) {
            check(&got, &target, 0);
            let (path, score) = viterbi(&values, 6, &target, 0);
            prop_assert_eq!(got.labels, path);
            prop_assert!((got.score - score).abs() < SCORE);
        } else {
            prop_assert!(length + repeats(&target) > frames);
        }
    }
}

/// Several segments of frames and several tiles of pairs; also with ties everywhere.
#[test]
fn long_items_are_exact_across_segments_and_tiles() {
    for (frames, length, coarse) in [
        (2048, 900, false),
        (2049, 40, false),
        (6500, 2500, false),
        (6500, 2500, true),
        (5000, 4200, false),
        (9000, 1023, true),
    ] {
        let mut rng = Rng::new(frames as u64 + length as u64);
        let target = rng.target(length, 9, 0, 0.01);
        let mut values = log_probs(&mut rng, frames, 9, 3.0);
        if coarse {
            values.iter_mut().for_each(|x| *x = x.round().min(0.0));
        }
        let got = align_one(&values, 9, &target, AlignOptions::default()).unwrap();
        check(&got, &target, 0);
        let (path, score) = viterbi(&values, 9, &target, 0);
        assert!((got.score - score).abs() < SCORE * (1.0 + score.abs()));
        assert!(got.labels == path, "the path of ({frames}, {length})");
    }
}

#[test]
fn torchaudio_gives_the_same_paths_and_spans() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/align/");
    let index = std::fs::read_to_string(format!("{folder}cases.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let stored =
        candle_core::safetensors::load(format!("{folder}cases.safetensors"), &Device::Cpu).unwrap();
    let cases = index.as_array().unwrap();
    assert!(cases.len() >= 8, "{} cases", cases.len());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let items = case["items"].as_array().unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<usize> {
            let values = value.as_array().unwrap().iter();
            values.map(|v| v.as_u64().unwrap() as usize).collect()
        };
        let targets: Vec<Vec<usize>> = items.iter().map(|i| numbers(&i["target"])).collect();
        let frames: Vec<usize> = items
            .iter()
            .map(|i| i["frames"].as_u64().unwrap() as usize)
            .collect();
        let lengths: Vec<usize> = targets.iter().map(Vec::len).collect();
        let opts = AlignOptions {
            blank: case["blank"].as_u64().unwrap() as usize,
            star: case["star"].as_u64().map(|star| star as u32),
            layout: InputLayout::BatchMajor,
            ..Default::default()
        };
        let padded = tensors::padded(&targets, 2, 99, DType::I64, &Device::Cpu);
        for dtype in [DType::F32, DType::F64] {
            let input = stored[name].to_dtype(dtype).unwrap();
            let got = all(forced_align_batch(&input, &padded, &frames, &lengths, opts));
            assert_eq!(got.len(), items.len());
            for (got, item) in got.iter().zip(items) {
                let labels: Vec<usize> = got.labels.iter().map(|&l| l as usize).collect();
                assert_eq!(labels, numbers(&item["labels"]), "{name}");
                let score = item["score"].as_f64().unwrap();
                assert!(
                    (got.score - score).abs() < SCORE * (1.0 + score.abs()),
                    "{name}"
                );
                if let Some(scores) = item["frame_scores"].as_array() {
                    for (a, b) in got.frame_scores.iter().zip(scores) {
                        // Rounded to f32.
                        assert!(
                            (f64::from(*a) - b.as_f64().unwrap()).abs()
                                < 1e-6 * (1.0 + b.as_f64().unwrap().abs())
                        );
                    }
                }
                let spans = item["spans"].as_array().unwrap();
                assert_eq!(got.spans.len(), spans.len(), "{name}");
                for (span, want) in got.spans.iter().zip(spans) {
                    assert_eq!(u64::from(span.token), want[0].as_u64().unwrap());
                    assert_eq!(span.start as u64, want[1].as_u64().unwrap());
                    assert_eq!(span.end as u64, want[2].as_u64().unwrap());
                    let score = want[3].as_f64().unwrap();
                    assert!((f64::from(span.score) - score).abs() < 1e-6 * (1.0 + score.abs()));
                }
            }
        }
    }
}

#[test]
fn views_layouts_and_dtypes_agree_with_the_item_alone() {
    let mut rng = Rng::new(5);
    let (frames, classes) = (40, 7);
    let targets: Vec<Vec<usize>> = [9, 0, 12].map(|u| rng.target(u, classes, 0, 0.2)).to_vec();
    let input_lengths = [40, 17, 33];
    let lengths = [9, 0, 12];
    let values = log_probs(&mut rng, frames * 3, classes, 3.0);
    let padded = tensors::padded(&targets, 1, -1, DType::I32, &Device::Cpu);
    let joined = tensors::concatenated(&targets, DType::U8, &Device::Cpu);
    for dtype in tensors::FLOATS {
        let input = tensors::floats(&values, &[frames, 3, classes], dtype, &Device::Cpu);
        let exact = tensors::read(&input);
        let opts = AlignOptions::default();
        let align = |input: &Tensor, targets: &Tensor, opts| {
            all(forced_align_batch(
                input,
                targets,
                input_lengths,
                lengths,
                opts,
            ))
        };
        let got = align(&input, &padded, opts);
        for n in 0..3 {
            let item: Vec<f64> = (0..input_lengths[n])
                .flat_map(|t| exact[(t * 3 + n) * classes..][..classes].to_vec())
                .collect();
            let (path, score) = viterbi(&item, classes, &targets[n], 0);
            assert_eq!(got[n].labels, path);
            assert!((got[n].score - score).abs() < SCORE);
        }
        assert_eq!(got, align(&input, &joined, opts));
        for view in &views::VIEWS {
            let base = (view.store)(&input).unwrap();
            let seen = (view.view)(&base).unwrap();
            assert_eq!(got, align(&seen, &padded, opts), "{}", view.name);
        }
        let swapped = input.transpose(0, 1).unwrap();
        assert_eq!(got, align(&swapped, &padded, AlignOptions::batch_major()));
    }
}

#[test]
fn ties_prefer_to_stay_and_to_end_in_the_last_label() {
    // All paths are equal: the last label is entered as early as its neighbours allow, going back.
    let got = align_one(&[-1.0; 12], 3, &[1, 2], AlignOptions::default()).unwrap();
    assert_eq!(got.labels, [1, 2, 2, 2]);
    let got = align_one(&[-1.0; 12], 3, &[1, 1], AlignOptions::default()).unwrap();
    assert_eq!(got.labels, [1, 0, 1, 1]);
}

#[test]
fn empty_targets_and_empty_items_align() {
    let got = align_one(&[-1.0; 6], 3, &[], AlignOptions::default()).unwrap();
    assert_eq!(
        (got.labels, got.score, got.spans.len()),
        (vec![0, 0], -2.0, 0)
    );
    let input = uniform(&[4, 2, 3]);
    let targets = Tensor::new(&[[1u32], [0]], &Device::Cpu).unwrap();
    let opts = AlignOptions::default();
    let got = all(forced_align_batch(&input, &targets, [4, 0], [1, 0], opts));
    assert!(got[1].labels.is_empty() && got[1].score == 0.0);
}

/// Every class as probable as any other.
fn uniform(dims: &[usize]) -> Tensor {
    let classes = *dims.last().unwrap() as f64;
    let values = vec![-classes.ln(); dims.iter().product()];
    tensors::floats(&values, dims, DType::F32, &Device::Cpu)
}

#[test]
fn an_item_that_cannot_be_aligned_does_not_take_the_others_with_it() {
    let mut rng = Rng::new(12);
    let (frames, classes) = (6, 4);
    let mut values = log_probs(&mut rng, frames * 5, classes, 2.0);
    // Item 3 has no path: label 2 is never possible.
    for t in 0..frames {
        values[(t * 5 + 3) * classes + 2] = f64::NEG_INFINITY;
    }
    // NaN in an item that does not fit is not used, and neither is padding.
    values[5 * classes + 1] = f64::NAN; // item 0, frame 1
    values[(4 * 5 + 4) * classes] = f64::NAN; // item 4, frame 4
    let input = tensors::floats(&values, &[frames, 5, classes], DType::F64, &Device::Cpu);
    let targets = [
        [1i64, 1, 1, 3],
        [1, 2, 3, 0],
        [3, 3, 0, 0],
        [1, 2, 3, 0],
        [2, 0, 0, 0],
    ];
    let targets = Tensor::new(&targets, &Device::Cpu).unwrap();
    let (input_lengths, target_lengths) = ([5, 6, 0, 6, 4], [4, 3, 2, 3, 1]);
    let opts = AlignOptions::default();
    let got = forced_align_batch(&input, &targets, input_lengths, target_lengths, opts).unwrap();
    let fits: Vec<bool> = got.iter().map(Option::is_some).collect();
    assert_eq!(fits, [false, true, false, false, true]);
    for (n, target) in [(1, &[1, 2, 3][..]), (4, &[2])] {
        let alone = input.narrow(1, n, 1).unwrap();
        let alone = alone.narrow(0, 0, input_lengths[n]).unwrap();
        assert_eq!(got[n], Some(forced_align(&alone, target, opts).unwrap()));
    }
}

#[test]
fn one_utterance_may_have_a_batch_dimension_of_one() {
    let mut rng = Rng::new(13);
    let values = log_probs(&mut rng, 9, 5, 2.0);
    let input = tensors::floats(&values, &[9, 5], DType::F32, &Device::Cpu);
    let opts = AlignOptions::default();
    let want = forced_align(&input, &[3, 3, 1], opts).unwrap();
    for dim in [0, 1] {
        let input = input.unsqueeze(dim).unwrap();
        for opts in [opts, AlignOptions::batch_major()] {
            assert_eq!(forced_align(&input, &[3, 3, 1], opts).unwrap(), want);
        }
    }
    let two = Tensor::stack(&[&input, &input], 0).unwrap();
    fails(
        forced_align(&two, &[1], opts),
        &["forced_align", "[2, 9, 5]", "(T, C)", "forced_align_batch"],
    );
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: candle_core::Result<T>, parts: &[&str]) {
    let message = result.expect_err("an error").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn errors_name_the_item_and_the_numbers() {
    let input = uniform(&[3, 2, 4]);
    let targets = Tensor::new(&[[1i64, 2, 3], [2, 2, 1]], &Device::Cpu).unwrap();
    let opts = AlignOptions::default();
    let align = |input: &Tensor, targets: &Tensor, opts| {
        forced_align_batch(input, targets, [3, 3], [3, 3], opts)
    };
    fails(
        forced_align(&uniform(&[3, 4]), &[2, 2, 1], opts),
        &[
            "forced_align",
            "needs 4 frames",
            "3 labels, 1",
            "there are 3",
        ],
    );
    fails(
        forced_align(&uniform(&[3, 4]), &[2, 7, 1], opts),
        &["forced_align", "label 7", "position 1", "C = 4"],
    );
    let bad = Tensor::new(&[[1i64, 2, 3], [2, 7, 1]], &Device::Cpu).unwrap();
    fails(
        align(&input, &bad, opts),
        &[
            "forced_align_batch",
            "item 1",
            "label 7",
            "position 1",
            "C = 4",
        ],
    );
    let star = AlignOptions {
        star: Some(9),
        ..opts
    };
    fails(align(&input, &bad, star), &["item 1", "label 7"]);
    fails(
        align(
            &input,
            &targets,
            AlignOptions {
                star: Some(0),
                ..opts
            },
        ),
        &["star = 0", "blank"],
    );
    let endless = AlignOptions {
        star: Some(4),
        star_emission: Wildcard::Constant(f32::INFINITY),
        ..opts
    };
    fails(
        forced_align_batch(&input, &targets, [3, 3], [3, 2], endless),
        &["star_emission", "inf"],
    );
    fails(
        align(&input, &targets, AlignOptions { blank: 4, ..opts }),
        &["blank = 4", "C = 4"],
    );
    fails(
        forced_align_batch(&input, &targets, [3, 5], [3, 2], opts),
        &["input_lengths[1] = 5", "T = 3"],
    );

    let mut values = vec![-1.0; 12];
    values[5] = f64::NAN;
    fails(
        align_one(&values, 4, &[1], opts),
        &["item 0", "frame 1", "class 1"],
    );
    let batch = tensors::floats(&values, &[3, 1, 4], DType::F32, &Device::Cpu);
    let one = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    fails(
        forced_align_batch(&batch, &one, 3, 1, opts),
        &["forced_align_batch", "item 0", "frame 1", "class 1"],
    );
    // A class that the target does not use is not read.
    assert!(align_one(&values, 4, &[2], opts).is_ok());
    values[5] = f64::INFINITY;
    fails(
        align_one(&values, 4, &[1], opts),
        &["+inf", "frame 1", "class 1"],
    );
    let impossible = [f64::NEG_INFINITY; 12];
    fails(
        align_one(&impossible, 4, &[1], opts),
        &["forced_align", "probability 0"],
    );
}

#[test]
fn feasibility_counts_labels_and_repeats() {
    let targets = Tensor::new(&[[5u32, 5, 5], [1, 2, 1], [9, 9, 9]], &Device::Cpu).unwrap();
    let got = feasibility(&targets, [4, 3, 0], [3, 3, 0]).unwrap();
    let summary: Vec<_> = got
        .iter()
        .map(|f| (f.feasible, f.frames, f.frames_needed))
        .collect();
    assert_eq!(summary, [(false, 4, 5), (true, 3, 3), (true, 0, 0)]);
    let alone = [(&[5, 5, 5][..], 4), (&[1, 2, 1], 3), (&[], 0)];
    assert_eq!(
        alone.map(|(labels, frames)| Feasibility::of(labels, frames)),
        got[..]
    );
    let joined = Tensor::new(&[4u8, 4], &Device::Cpu).unwrap();
    assert!(feasibility(&joined, 3, 2).unwrap()[0].feasible);
    let error = feasibility(&joined, [3, 3], [2, 1])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("feasibility") && error.contains("add up to 3"),
        "{error}"
    );
    for bad in [-1, -2, i64::MIN, 1 << 32, i64::MAX] {
        let targets = Tensor::new(&[4i64, bad], &Device::Cpu).unwrap();
        let error = feasibility(&targets, 3, 2).unwrap_err().to_string();
        assert!(
            error.contains(&format!("label {bad} at position 1")),
            "{error}"
        );
    }
    let floats = Tensor::new(&[4f32, 1.0], &Device::Cpu).unwrap();
    let error = feasibility(&floats, 3, 2).unwrap_err().to_string();
    assert!(
        error.contains("feasibility: targets have dtype F32"),
        "{error}"
    );
    // Any label: neither the classes nor the blank are known.
    let any = Tensor::new(&[0i64, (1 << 32) - 1], &Device::Cpu).unwrap();
    assert!(feasibility(&any, 3, 2).unwrap()[0].feasible);
}

#[test]
fn words_are_cut_at_separators() {
    let span = |token, start, end, score| TokenSpan {
        token,
        start,
        end,
        score,
    };
    let spans = [
        span(9, 0, 1, -9.0),
        span(1, 1, 2, -1.0),
        span(2, 3, 6, -2.0),
        span(9, 6, 7, -9.0),
        span(9, 8, 9, -9.0),
        span(3, 9, 10, -0.5),
    ];
    let words = group_words(&spans, 9);
    assert_eq!(words.len(), 2);
    assert_eq!(
        (&words[0].tokens[..], words[0].start, words[0].end),
        (&[1, 2][..], 1, 6)
    );
    // One frame at −1 and three at −2.
    assert_eq!(words[0].score, -1.75);
    assert_eq!((&words[1].tokens[..], words[1].score), (&[3][..], -0.5));
    assert_eq!(words[0].seconds(0.5), (0.5, 3.0));
    assert_eq!(spans[4].seconds(0.5), (4.0, 4.5));
    assert!(group_words(&[], 9).is_empty());
}

#[test]
fn a_word_without_frames_has_a_score_all_the_same() {
    let span = |token, start, end, score| TokenSpan {
        token,
        start,
        end,
        score,
    };
    // A token without frames does not count beside one that has some, whatever its score is.
    let words = group_words(
        &[
            span(1, 3, 3, f32::NAN),
            span(9, 3, 4, -9.0),
            span(2, 4, 4, f32::NEG_INFINITY),
            span(3, 4, 6, -1.5),
            span(9, 6, 7, -9.0),
            span(4, 7, 8, -0.5),
            span(5, 12, 12, 0.0),
        ],
        9,
    );
    let summary: Vec<_> = words.iter().map(|w| (w.start, w.end, w.score)).collect();
    assert_eq!(summary, [(3, 3, 0.0), (4, 6, -1.5), (7, 8, -0.5)]);
}

#[test]
fn a_length_that_no_tensor_can_have_is_not_feasible() {
    let targets = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
    for length in [usize::MAX, i64::MAX as usize, usize::MAX / 4 + 1] {
        for result in [
            feasibility(&targets, length, 2),
            feasibility(&targets, [length], [2]),
        ] {
            fails(
                result,
                &["feasibility", &length.to_string(), "no plausible length"],
            );
        }
    }
    assert!(feasibility(&targets, usize::MAX / 4, 2).unwrap()[0].feasible);
}

/// In every dtype, from logits, in any view, and over segments of frames.
#[test]
fn wildcards_do_not_depend_on_the_form_of_the_input() {
    let mut rng = Rng::new(12);
    let (classes, frames, batch) = (5, 4300, 2);
    let targets = [
        rng.target(40, classes, 0, 0.2),
        rng.target(25, classes, 0, 0.2),
    ];
    let values = rng.values(batch * frames * classes, 2.0);
    let opts = AlignOptions {
        star: Some(9),
        star_emission: Wildcard::Mean { penalty: 0.75 },
        outside: Some(Wildcard::Largest { penalty: 1.5 }),
        ..AlignOptions::batch_major()
    };
    let targets: Vec<Vec<u32>> = targets
        .iter()
        .map(|target| {
            let mut labels: Vec<u32> = target.iter().map(|&label| label as u32).collect();
            labels.insert(11, 9);
            labels
        })
        .collect();
    let (padded, lengths) = pad_targets(&targets, &Device::Cpu).unwrap();
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let dims = [batch, frames, classes];
        let logits = tensors::floats(&values, &dims, dtype, &Device::Cpu);
        let from_logits = AlignOptions {
            input: InputKind::Logits,
            ..opts
        };
        let input_lengths = [frames, frames - 7];
        let run = |input: &Tensor, opts| {
            forced_align_batch(input, &padded, input_lengths, &lengths, opts).unwrap()
        };
        let want = run(&logits, from_logits);
        // Another order in memory.
        let view = logits.permute((2, 0, 1)).unwrap().contiguous().unwrap();
        let view = view.permute((1, 2, 0)).unwrap();
        assert_eq!(run(&view, from_logits), want);
        for (n, target) in targets.iter().enumerate() {
            let item = logits
                .get(n)
                .unwrap()
                .narrow(0, 0, input_lengths[n])
                .unwrap();
            assert_eq!(forced_align(&item, target, from_logits).ok(), want[n]);
            // Each frame has the score that the rules give it.
            let found = want[n].as_ref().unwrap();
            let row: Vec<Vec<f64>> =
                candle_nn::ops::log_softmax(&item.to_dtype(DType::F64).unwrap(), 1)
                    .unwrap()
                    .to_vec2()
                    .unwrap();
            let (first, last) = (found.spans[0].start, found.spans[target.len() - 1].end);
            for (t, row) in row.iter().enumerate() {
                let largest = row[1..].iter().copied().fold(f64::NEG_INFINITY, f64::max) - 1.5;
                let mean = (row[1..].iter().map(|x| x.exp()).sum::<f64>() / 4.0).ln() - 0.75;
                let score = match found.labels[t] {
                    9 => mean,
                    0 if t < first || t >= last => row[0].max(largest),
                    label => row[label as usize],
                };
                let got = f64::from(found.frame_scores[t]);
                assert!((got - score).abs() < 1e-4, "{dtype:?} {t}: {got} {score}");
            }
        }
    }
}

#[test]
fn wildcards_read_every_view_of_log_probabilities() {
    let values = log_probs(&mut Rng::new(14), 6, 5, 3.0);
    let input = tensors::floats(&values, &[6, 5], DType::F64, &Device::Cpu);
    let view = input.t().unwrap().contiguous().unwrap().t().unwrap();
    let opts = AlignOptions {
        star: Some(5),
        star_emission: Wildcard::Mean { penalty: 0.25 },
        outside: Some(Wildcard::Largest { penalty: 0.5 }),
        ..Default::default()
    };
    let want = forced_align(&input, &[2, 5, 1], opts).unwrap();
    assert_eq!(forced_align(&view, &[2, 5, 1], opts).unwrap(), want);
}

/// The mean of classes of probability 0 is 0.
#[test]
fn a_star_has_no_frame_in_which_the_blank_is_certain() {
    let p = [0.5f64, 0.5, 1.0, 0.0, 0.25, 0.75].map(f64::ln);
    let opts = AlignOptions {
        star: Some(2),
        star_emission: Wildcard::Mean { penalty: 0.0 },
        ..Default::default()
    };
    let got = align_one(&p, 2, &[2], opts).unwrap();
    assert_eq!(got.labels, [0, 0, 2]);
    assert!((got.score - (0.5f64 * 0.75).ln()).abs() < 1e-6);
}

#[test]
fn wildcards_are_checked() {
    let uniform = |classes: usize| vec![-(classes as f64).ln(); 3 * classes];
    let with = |classes, star, star_emission, outside| {
        let opts = AlignOptions {
            star,
            star_emission,
            outside,
            ..Default::default()
        };
        align_one(&uniform(classes), classes, &[1], opts)
    };
    let certain = Wildcard::Constant(0.0);
    let largest = |penalty| Wildcard::Largest { penalty };
    for (result, parts) in [
        (
            with(3, Some(3), largest(f32::NAN), None),
            ["star_emission", "penalty of NaN"],
        ),
        (
            with(3, Some(3), certain, Some(largest(f32::INFINITY))),
            ["outside", "penalty of inf"],
        ),
        (
            with(2, Some(1), largest(0.0), None),
            ["star_emission", "C = 2"],
        ),
        (
            with(2, Some(1), certain, Some(Wildcard::Mean { penalty: 1.0 })),
            ["outside", "C = 2"],
        ),
    ] {
        let text = result.unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    // A star that is no class leaves the other class; and a constant needs none.
    assert!(with(2, Some(2), largest(0.5), Some(largest(0.5))).is_ok());
    assert!(with(2, Some(1), certain, None).is_ok());
    // A NaN in any class counts for a rule that reads it, within the item's length only.
    let mut values = uniform(4);
    values[2 * 4 + 3] = f64::NAN;
    for (frames, rule, fails) in [
        (3, Some(Wildcard::Mean { penalty: 0.5 }), true),
        (3, Some(certain), false),
        (3, None, false),
        (2, Some(Wildcard::Mean { penalty: 0.5 }), false),
    ] {
        let input = tensors::floats(&values, &[3, 1, 4], DType::F32, &Device::Cpu);
        let targets = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
        let opts = AlignOptions {
            outside: rule,
            normalised: false,
            ..Default::default()
        };
        let found = forced_align_batch(&input, &targets, frames, 1, opts);
        match found {
            Ok(_) => assert!(!fails),
            Err(error) => {
                let text = error.to_string();
                assert!(fails && text.contains("frame 2, class 3"), "{text}");
            }
        }
    }
}
