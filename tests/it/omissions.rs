//! Alignments that may leave labels out, against enumeration and a plain recursion.

use crate::common::{Rng, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::text::{SubtitleOptions, Vocabulary, to_ctm, to_srt, to_token_ctm};
use candle_ctc::{
    AlignOptions, Alignment, InputKind, TokenSpan, Wildcard, forced_align, forced_align_batch,
    group_words,
};

/// Multiples of a quarter, of which sums are exact, with a few entries of probability 0.
fn quarters(rng: &mut Rng, count: usize) -> Vec<f64> {
    (0..count)
        .map(|_| match rng.below(20) {
            0 => f64::NEG_INFINITY,
            n => -(n as f64) / 4.0,
        })
        .collect()
}

fn options(optional: &[u32], free_ends: bool) -> AlignOptions<'_> {
    AlignOptions {
        normalised: false,
        optional,
        free_ends,
        ..Default::default()
    }
}

/// The targets that remain when labels are left out, those that leave out fewest first.
fn remaining(target: &[u32], opts: &AlignOptions) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = Vec::new();
    for kept in 0..1u32 << target.len() {
        let is_kept = |i: usize| kept >> i & 1 == 1;
        let (first, last) = match (kept.trailing_zeros(), 31 - kept.leading_zeros().min(31)) {
            _ if kept == 0 => (target.len(), 0),
            (first, last) => (first as usize, last as usize),
        };
        let may_go = |i: usize| {
            let outer = opts.free_ends && (i < first || i > last || kept == 0);
            outer || opts.optional.contains(&target[i])
        };
        if (0..target.len()).all(|i| is_kept(i) || may_go(i)) {
            found.push(
                (0..target.len())
                    .filter(|&i| is_kept(i))
                    .map(|i| target[i])
                    .collect(),
            );
        }
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.len()));
    found
}

/// The labels that an alignment reads, and that its numbers belong together.
fn read(alignment: &Alignment, target: &[u32], frames: usize) -> Vec<u32> {
    assert_eq!(alignment.labels.len(), frames);
    assert_eq!(alignment.tokens, target);
    assert_eq!(alignment.spans.len(), target.len());
    let mut end = 0;
    for (span, &token) in alignment.spans.iter().zip(target) {
        assert_eq!(span.token, token);
        assert!(span.start >= end && span.end >= span.start);
        if span.frames() == 0 {
            assert_eq!((span.start, span.score), (end, 0.0));
        }
        assert!(
            alignment.labels[span.start..span.end]
                .iter()
                .all(|&label| label == token)
        );
        end = span.end;
    }
    let in_spans: usize = alignment.spans.iter().map(|span| span.frames()).sum();
    let blanks = alignment.labels.iter().filter(|&&label| label == 0).count();
    assert_eq!(in_spans + blanks, frames);
    let sum: f64 = alignment
        .frame_scores
        .iter()
        .map(|&score| f64::from(score))
        .sum();
    assert!(
        (sum - alignment.score).abs() < 1e-3 * (1.0 + sum.abs()),
        "{sum} {}",
        alignment.score
    );
    let spans = alignment.spans.iter().filter(|span| span.frames() > 0);
    spans.map(|span| span.token).collect()
}

#[test]
fn the_best_of_all_remaining_targets_is_found() {
    let mut rng = Rng::new(81);
    let (mut found, mut shorter) = (0, 0);
    for round in 0..3000 {
        let frames = 1 + rng.below(7);
        let length = rng.below(6);
        let target: Vec<u32> = (0..length).map(|_| 1 + rng.below(3) as u32).collect();
        let optional: Vec<u32> = (1..4).filter(|_| rng.below(3) == 0).collect();
        let values = quarters(&mut rng, frames * 4);
        let input = tensors::floats(&values, &[frames, 4], DType::F64, &Device::Cpu);
        let mut opts = options(&optional, rng.below(2) == 0);
        if round % 3 == 0 {
            opts.outside = Some(Wildcard::Largest { penalty: 0.5 });
        }
        if round % 5 == 0 {
            opts.star = Some(3);
            opts.star_emission = Wildcard::Constant(-0.75);
        }
        let plain = AlignOptions {
            optional: &[],
            free_ends: false,
            ..opts
        };
        let mut best: Option<Alignment> = None;
        for one in remaining(&target, &opts) {
            let Ok(one) = forced_align(&input, &one, plain) else {
                continue;
            };
            if best.as_ref().is_none_or(|best| one.score > best.score) {
                best = Some(one);
            }
        }
        let got = forced_align(&input, &target, opts);
        match (got, best) {
            (Ok(got), Some(best)) => {
                assert_eq!(got.score, best.score, "{target:?} {optional:?} {opts:?}");
                let reads = read(&got, &target, frames);
                assert!(
                    remaining(&target, &opts).contains(&reads),
                    "{reads:?} of {target:?}"
                );
                let same = forced_align(&input, &reads, plain).unwrap();
                assert_eq!(same.score, got.score);
                // Equal paths are told apart as without omissions. But behind labels that are left out at the end, the
                // last blank comes before the label that is read last.
                let left_out = got.spans.last().is_some_and(|span| span.frames() == 0);
                if !(left_out && got.labels.ends_with(&[0])) || same.labels.ends_with(&[0]) {
                    assert_eq!(got.labels, same.labels, "{target:?} {optional:?} {opts:?}");
                }
                found += 1;
                shorter += usize::from(reads.len() < target.len());
            }
            (Err(_), None) => {}
            (got, best) => {
                panic!("{got:?}, expected {best:?} for {target:?} {optional:?} {opts:?}")
            }
        }
    }
    assert!(
        found > 1500 && shorter > 800,
        "{found} found, {shorter} of them shorter"
    );
}

/// The score of the best path by a recursion over all pairs of states.
fn by_recursion(
    values: &[f64],
    frames: usize,
    classes: usize,
    target: &[u32],
    opts: &AlignOptions,
) -> f64 {
    let labels = target.len();
    let none = f64::NEG_INFINITY;
    let may_go = |range: std::ops::Range<usize>| {
        range
            .into_iter()
            .all(|i| opts.optional.contains(&target[i]))
    };
    // Whether label j may be followed by label i, or by the end if i is U; and likewise for the start.
    let follows = |j: usize, i: usize| match i == labels && opts.free_ends {
        true => true,
        false => may_go(j + 1..i),
    };
    let starts = |i: usize| opts.free_ends && i < labels || may_go(0..i);
    let mut blank = vec![none; labels + 1];
    let mut label = vec![none; labels];
    let mut first = 0.0;
    for t in 0..frames {
        let y = &values[t * classes..];
        let (old_blank, old_label) = (blank.clone(), label.clone());
        for i in 0..=labels {
            let from = (0..i).filter(|&j| follows(j, i)).map(|j| old_label[j]);
            let best = from.fold(old_blank[i], f64::max);
            blank[i] = best + y[0];
            if i < labels {
                let from = (0..i).filter(|&j| follows(j, i) && target[j] != target[i]);
                let best = from
                    .map(|j| old_label[j])
                    .fold(old_label[i].max(old_blank[i]), f64::max);
                let entered = if starts(i) { first } else { none };
                label[i] = best.max(entered) + y[target[i] as usize];
            }
        }
        first += y[0];
    }
    let ends = (0..labels)
        .filter(|&j| follows(j, labels))
        .map(|j| label[j]);
    let nothing = if opts.free_ends || may_go(0..labels) {
        first
    } else {
        none
    };
    ends.fold(blank[labels].max(nothing), f64::max)
}

#[test]
fn long_alignments_agree_with_a_plain_recursion() {
    let mut rng = Rng::new(82);
    for (frames, length) in [
        (1, 3),
        (7, 2),
        (8, 9),
        (9, 30),
        (63, 20),
        (64, 21),
        (65, 70),
        (700, 90),
        (1500, 40),
    ] {
        for round in 0..6 {
            let target: Vec<u32> = (0..length).map(|_| 1 + rng.below(6) as u32).collect();
            let optional: Vec<u32> = match round % 3 {
                0 => vec![],
                1 => vec![2],
                _ => vec![5, 3],
            };
            let opts = options(&optional, round < 4);
            // No more than twelve in a row.
            let longest = target
                .chunk_by(|a, b| optional.contains(a) == optional.contains(b))
                .filter(|run| optional.contains(&run[0]))
                .map(<[u32]>::len)
                .max();
            assert!(longest.unwrap_or(0) <= 12);
            let values = quarters(&mut rng, frames * 7);
            let want = by_recursion(&values, frames, 7, &target, &opts);
            let input = tensors::floats(&values, &[frames, 7], DType::F32, &Device::Cpu);
            match forced_align(&input, &target, opts) {
                Ok(got) => {
                    assert_eq!(
                        got.score, want,
                        "{frames} frames, {length} labels, {opts:?}"
                    );
                    read(&got, &target, frames);
                }
                Err(_) => assert_eq!(want, f64::NEG_INFINITY, "{frames} frames, {length} labels"),
            }
        }
    }
}

/// All paths are equal, in several segments of frames.
#[test]
fn of_equal_paths_the_end_that_leaves_out_least_wins() {
    let align = |frames: usize, target: &[u32], opts| {
        let input = Tensor::zeros((frames, 4), DType::F32, &Device::Cpu).unwrap();
        forced_align(&input, target, opts).unwrap()
    };
    // The last label prefers itself to the labels before it.
    assert_eq!(align(3, &[1, 2, 3], options(&[], true)).labels, [3, 3, 3]);
    assert_eq!(align(3, &[1, 2], options(&[2], false)).labels, [1, 2, 2]);
    let long = align(64, &[1, 2, 3], options(&[3], false));
    assert_eq!(read(&long, &[1, 2, 3], 64), [1, 2, 3]);
    assert_eq!((long.spans[0].end, long.spans[1].end), (1, 2));
}

/// A recording of the middle of a transcript, and one that holds the middle beside other speech.
#[test]
fn the_part_that_was_read_is_found() {
    let target = [1u32, 2, 3, 1, 2, 4, 3, 1];
    // Certain of 3, 1, blank, 2, 4.
    let spoken = [3usize, 1, 0, 2, 4];
    let mut values = vec![-8.0; spoken.len() * 5];
    for (t, &class) in spoken.iter().enumerate() {
        values[t * 5 + class] = -0.01;
    }
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let input = tensors::floats(&values, &[spoken.len(), 5], dtype, &Device::Cpu);
        let opts = options(&[], true);
        let got = forced_align(&input, &target, opts).unwrap();
        assert_eq!(read(&got, &target, 5), [3, 1, 2, 4], "{dtype:?}");
        assert_eq!((got.spans[2].start, got.spans[5].end), (0, 5));
        assert_eq!((got.spans[0].start, got.spans[0].end), (0, 0));
        assert_eq!((got.spans[7].start, got.spans[7].end), (5, 5));
        // Words without frames are kept, with a score of 0.
        let words = group_words(&got.spans, 4);
        assert_eq!(
            (words[1].tokens.as_slice(), words[1].start, words[1].score),
            ([3, 1].as_slice(), 5, 0.0)
        );
        // From logits, and in a view with other strides.
        let logits = input.t().unwrap().contiguous().unwrap().t().unwrap();
        let opts = AlignOptions {
            input: InputKind::Logits,
            ..opts
        };
        let same = forced_align(&logits, &target, opts).unwrap();
        assert_eq!(same.labels, got.labels);
        // Beside other speech: class 4, which stands in no label that is left.
        let around = Tensor::cat(&[&logits.narrow(0, 4, 1).unwrap(), &logits], 0).unwrap();
        let opts = AlignOptions {
            outside: Some(Wildcard::Largest { penalty: 1.0 }),
            ..opts
        };
        let got = forced_align(&around, &[2, 3, 1, 2], opts).unwrap();
        assert_eq!(read(&got, &[2, 3, 1, 2], 6), [3, 1, 2]);
        assert_eq!((got.spans[1].start, got.spans[3].end), (1, 5));
    }
}

#[test]
fn a_batch_leaves_out_what_each_item_may() {
    let values = [-0.1, -3.0, -3.0, -3.0, -0.1, -3.0].repeat(2);
    let input = tensors::floats(&values, &[2, 2, 3], DType::F32, &Device::Cpu);
    let opts = AlignOptions {
        layout: candle_ctc::InputLayout::BatchMajor,
        ..options(&[2], false)
    };
    // Each says blank, 1. The second target needs three frames, since its two 1 need a blank or the 2 between them.
    let targets = Tensor::new(&[[1u32, 2, 2], [1, 2, 1]], &Device::Cpu).unwrap();
    let got = forced_align_batch(&input, &targets, [2, 2], [3, 3], opts).unwrap();
    assert_eq!(got[0].as_ref().unwrap().labels, [0, 1]);
    assert_eq!(got[1], None);
}

/// What was not read has no time: words begin with what was, and CTM holds nothing else.
#[test]
fn words_and_outputs_hold_what_was_read() {
    let span = |token, start, end| TokenSpan {
        token,
        start,
        end,
        score: if start == end { 0.0 } else { -0.1 },
    };
    let vocabulary = Vocabulary::from_tokens(["<blk>", "|", "a", "l"]).unwrap();
    // "all all al": the first word was not read, of the second only its last letters were, and of the third the first.
    let spans = [
        (2, 0, 0),
        (3, 0, 0),
        (3, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (3, 50, 51),
        (3, 52, 54),
        (1, 55, 56),
        (2, 60, 61),
        (3, 61, 61),
        (3, 61, 61),
    ];
    let spans = spans.map(|(token, start, end)| span(token, start, end));
    let ranges = |words: Vec<(usize, usize)>| assert_eq!(words, [(0, 0), (50, 54), (60, 61)]);
    let words = vocabulary.words(&spans);
    ranges(words.iter().map(|word| (word.start, word.end)).collect());
    let grouped = group_words(&spans, 1);
    ranges(grouped.iter().map(|word| (word.start, word.end)).collect());
    let ctm = to_ctm(&words, 0.1, "r", "1").unwrap();
    assert_eq!(
        ctm,
        "r 1 5.000 0.400 all 0.905\nr 1 6.000 0.100 all 0.905\n"
    );
    let tokens = to_token_ctm(&words, 0.1, "r", "1").unwrap();
    assert_eq!(tokens.lines().count(), 3, "{tokens}");
    let read: Vec<_> = words
        .into_iter()
        .filter(|word| word.start < word.end)
        .collect();
    let srt = to_srt(&read, 0.1, SubtitleOptions::default()).unwrap();
    assert_eq!(srt, "1\n00:00:05,000 --> 00:00:06,100\nall all\n\n");
}

/// As many as may be left out in a row, in the middle and at either end.
#[test]
fn twelve_labels_in_a_row_may_be_left_out() {
    let many = [2u32; 12];
    let mut values = vec![-9.0; 3 * 4];
    for (t, class) in [1, 0, 3].into_iter().enumerate() {
        values[4 * t + class] = -0.01;
    }
    let input = tensors::floats(&values, &[3, 4], DType::F32, &Device::Cpu);
    let (one, three) = ([1u32], [3u32]);
    for target in [
        [&one[..], &many, &three].concat(),
        [&many[..], &one, &many, &three, &many].concat(),
    ] {
        let got = forced_align(&input, &target, options(&[2], false)).unwrap();
        assert_eq!(read(&got, &target, 3), [1, 3]);
        assert_eq!(got.labels, [1, 0, 3]);
    }
}

#[test]
fn errors_name_the_optional_label() {
    let input = Tensor::zeros((20, 4), DType::F32, &Device::Cpu).unwrap();
    let error = |target: &[u32], optional: &[u32]| {
        forced_align(&input, target, options(optional, false))
            .unwrap_err()
            .to_string()
    };
    assert!(error(&[1], &[0]).contains("optional label 0"));
    assert!(error(&[1], &[4]).contains("optional label 4"));
    let many = error(&[[1].as_slice(), &[2; 13]].concat(), &[2]);
    assert!(
        many.contains("13 optional labels in a row, from label 1"),
        "{many}"
    );
    let short = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    let error = forced_align(&short, &[1, 2, 1, 3], options(&[2], false))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("needs 4 frames without its optional labels, but there are 2"),
        "{error}"
    );
}
