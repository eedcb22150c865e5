//! What all functions of inference share: the kind of input, its sanity check, and input with no frames
//! or no items.

use crate::common::views::VIEWS;
use crate::common::{self, Rng, devices, holds, tensors};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_ctc::{
    AlignOptions, BeamOptions, BeamSearch, ConfidenceOptions, GreedyOptions, Hypothesis, InputKind,
    InputLayout, PrefixScorer, PrefixScorerOptions, ScoreOptions, Wildcard, beam_search,
    beam_search_batch, forced_align, forced_align_batch, greedy_decode_batch, rank_transcripts,
    score_transcripts, score_transcripts_batch, state_posteriors_batch, token_confidence_batch,
};
use candle_nn::ops::log_softmax;

/// The options that all functions have.
#[derive(Clone, Copy)]
struct Common {
    input: InputKind,
    normalised: bool,
    layout: InputLayout,
}

const LOG_PROBS: Common = Common {
    input: InputKind::LogProbs,
    normalised: true,
    layout: InputLayout::TimeMajor,
};

const LOGITS: Common = Common {
    input: InputKind::Logits,
    ..LOG_PROBS
};

const UNCHECKED: Common = Common {
    normalised: false,
    ..LOG_PROBS
};

impl Common {
    fn score(self) -> ScoreOptions {
        ScoreOptions {
            input: self.input,
            normalised: self.normalised,
            layout: self.layout,
            ..Default::default()
        }
    }

    fn confidence(self) -> ConfidenceOptions {
        ConfidenceOptions {
            input: self.input,
            normalised: self.normalised,
            layout: self.layout,
            ..Default::default()
        }
    }

    fn align(self) -> AlignOptions<'static> {
        AlignOptions {
            input: self.input,
            normalised: self.normalised,
            layout: self.layout,
            ..Default::default()
        }
    }

    fn greedy(self) -> GreedyOptions {
        GreedyOptions {
            input: self.input,
            normalised: self.normalised,
            layout: self.layout,
            ..Default::default()
        }
    }

    fn beam(self) -> BeamOptions<'static> {
        BeamOptions {
            input: self.input,
            normalised: self.normalised,
            layout: self.layout,
            n_best: 3,
            ..Default::default()
        }
    }

    fn prefix(self) -> PrefixScorerOptions {
        PrefixScorerOptions {
            input: self.input,
            normalised: self.normalised,
            ..Default::default()
        }
    }
}

const TARGET: [u32; 3] = [1, 2, 2];

fn targets() -> Tensor {
    Tensor::new(&TARGET, &Device::Cpu).unwrap()
}

fn numbers(found: &[Hypothesis]) -> Vec<f64> {
    let of = |h: &Hypothesis| {
        let spans = h.spans.iter().flat_map(|s| {
            let (start, end) = (s.start as f64, s.end as f64);
            [start, end, f64::from(s.token), s.score.into()]
        });
        [h.score].into_iter().chain(spans).collect::<Vec<f64>>()
    };
    found.iter().flat_map(of).collect()
}

/// All that each function that takes one utterance says of `(T, C)`, as numbers.
fn one_utterance(input: &Tensor, with: Common) -> Vec<(&'static str, Result<Vec<f64>>)> {
    let lists = [&TARGET[..], &[2], &[]];
    let classes = input.dims()[input.rank() - 1];
    let ranked = rank_transcripts(input, &lists, with.score()).map(|ranked| {
        let numbers = ranked
            .iter()
            .map(|r| [r.index as f64, r.log_likelihood, r.probability]);
        numbers.flatten().collect()
    });
    let aligned = forced_align(input, &TARGET, with.align()).map(|alignment| {
        let labels = alignment.labels.iter().map(|&label| f64::from(label));
        let scores = alignment.frame_scores.iter().map(|&score| f64::from(score));
        labels.chain(scores).chain([alignment.score]).collect()
    });
    let streamed = BeamSearch::new(classes, with.beam()).and_then(|mut search| {
        search.push(input)?;
        Ok(numbers(&search.finish()?))
    });
    let prefix = PrefixScorer::new(input, with.prefix()).and_then(|scorer| {
        let one = scorer.extend(&scorer.initial_state(), 2)?;
        let mut scores = scorer.score(&[one])?.remove(0);
        scores.next.push(scores.end);
        Ok(scores.next)
    });
    vec![
        (
            "score_transcripts",
            score_transcripts(input, &lists, with.score()),
        ),
        ("rank_transcripts", ranked),
        ("forced_align", aligned),
        (
            "beam_search",
            beam_search(input, with.beam()).map(|found| numbers(&found)),
        ),
        ("BeamSearch::push", streamed),
        ("PrefixScorer", prefix),
    ]
}

/// The same of the functions that take a batch, all items with [`TARGET`].
fn batch(input: &Tensor, lengths: &[usize], with: Common) -> Vec<(&'static str, Result<Vec<f64>>)> {
    let items = lengths.len();
    let targets = match items {
        // Nothing can be stacked.
        0 => Tensor::zeros((0, 3), DType::U32, &Device::Cpu).unwrap(),
        _ => Tensor::stack(&vec![targets(); items], 0).unwrap(),
    };
    let target_lengths = vec![3usize; items];
    let lists = vec![vec![&TARGET[..], &[2], &[]]; items];
    let scores = score_transcripts_batch(input, lengths, &lists, with.score());
    let aligned = forced_align_batch(input, &targets, lengths, &target_lengths, with.align());
    let tokens =
        token_confidence_batch(input, &targets, lengths, &target_lengths, with.confidence());
    let states =
        state_posteriors_batch(input, &targets, lengths, &target_lengths, with.confidence());
    let greedy = greedy_decode_batch(input, lengths, with.greedy());
    let beams = beam_search_batch(input, lengths, with.beam());
    vec![
        ("score_transcripts_batch", scores.map(|all| all.concat())),
        (
            "forced_align_batch",
            aligned.map(|all| all.iter().flatten().map(|a| a.score).collect()),
        ),
        (
            "token_confidence_batch",
            tokens.map(|all| {
                let all = all.iter().flatten();
                let of = |t: &candle_ctc::TokenConfidence| {
                    [
                        t.posterior,
                        t.probability,
                        t.expected_frame,
                        t.expected_frames,
                    ]
                };
                all.flat_map(of).collect()
            }),
        ),
        (
            "state_posteriors_batch",
            states.map(|all| all.iter().flat_map(tensors::read).collect()),
        ),
        ("greedy_decode_batch", greedy.map(|found| numbers(&found))),
        (
            "beam_search_batch",
            beams.map(|found| numbers(&found.concat())),
        ),
    ]
}

/// Logits as models give them: a clear best class a frame, and all of them far from 0.
fn logits(frames: usize, classes: usize) -> Vec<f64> {
    let mut rng = Rng::new(77);
    let values = rng.values(frames * classes, 4.0);
    values.into_iter().map(|x| x + 11.0).collect()
}

#[track_caller]
fn close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?} {want:?}");
    for (got, want) in got.iter().zip(want) {
        let same = got == want || (got - want).abs() < tolerance * want.abs().max(1.0);
        assert!(same, "{what}: {got} {want}");
    }
}

#[test]
fn logits_give_what_their_log_softmax_gives() {
    let (frames, items, classes) = (12, 3, 5);
    let lengths = [12, 9, 4];
    let values = logits(frames * items, classes);
    for device in devices() {
        for dtype in tensors::FLOATS.into_iter().filter(|&d| holds(&device, d)) {
            let tolerance = if dtype == DType::F64 { 1e-9 } else { 2e-5 };
            let input = tensors::floats(&values, &[frames, items, classes], dtype, &device);
            let on_host = input.to_device(&Device::Cpu).unwrap();
            let exact = on_host.to_dtype(DType::F64).unwrap();
            let exact = log_softmax(&exact, D::Minus1).unwrap();
            let want = batch(&exact, &lengths, LOG_PROBS);
            let alone = |input: &Tensor| input.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
            let want_one = one_utterance(&alone(&exact), LOG_PROBS);
            let compare = |got: Vec<(&str, Result<Vec<f64>>)>,
                           want: &[(&str, Result<Vec<f64>>)],
                           view: &str| {
                for ((name, got), (_, want)) in got.iter().zip(want) {
                    let what = format!("{name} {dtype:?} {view}");
                    close(
                        got.as_ref().unwrap(),
                        want.as_ref().unwrap(),
                        tolerance,
                        &what,
                    );
                }
            };
            compare(batch(&input, &lengths, LOGITS), &want, "as it is");
            compare(one_utterance(&alone(&input), LOGITS), &want_one, "alone");
            for view in &VIEWS {
                let seen = (view.view)(&(view.store)(&input).unwrap()).unwrap();
                compare(batch(&seen, &lengths, LOGITS), &want, view.name);
                let seen = alone(&seen);
                compare(one_utterance(&seen, LOGITS), &want_one, view.name);
            }
            let batch_major = Common {
                layout: InputLayout::BatchMajor,
                ..LOGITS
            };
            let swapped = input.transpose(0, 1).unwrap();
            compare(batch(&swapped, &lengths, batch_major), &want, "swapped");
        }
    }
}

#[test]
fn a_star_and_thresholds_act_on_normalised_log_probabilities() {
    let values = logits(8, 5);
    let input = tensors::floats(&values, &[8, 5], DType::F64, &Device::Cpu);
    let exact = log_softmax(&input, 1).unwrap();
    for star in [9, 4] {
        let opts = AlignOptions {
            star: Some(star),
            star_emission: Wildcard::Constant(-1.0),
            ..Default::default()
        };
        let target = [1, star, 2];
        let want = forced_align(&exact, &target, opts).unwrap();
        let input_is_logits = AlignOptions {
            input: InputKind::Logits,
            ..opts
        };
        let got = forced_align(&input, &target, input_is_logits).unwrap();
        assert_eq!(got.labels, want.labels);
        assert!((got.score - want.score).abs() < 1e-9);
    }
    let (input, exact) = (
        input.narrow(0, 0, 4).unwrap(),
        exact.narrow(0, 0, 4).unwrap(),
    );
    let everything = BeamOptions {
        beam_width: usize::MAX,
        n_best: usize::MAX,
        ..Default::default()
    };
    let opts = BeamOptions {
        token_threshold: -1.2,
        ..everything
    };
    let want = beam_search(&exact, opts).unwrap();
    let opts = BeamOptions {
        input: InputKind::Logits,
        ..opts
    };
    let got = beam_search(&input, opts).unwrap();
    let tokens = |found: &[Hypothesis]| -> Vec<Vec<u32>> {
        found.iter().map(|h| h.tokens.clone()).collect()
    };
    assert_eq!(tokens(&got), tokens(&want));
    let all = beam_search(&exact, everything).unwrap();
    assert!(
        (2..all.len()).contains(&got.len()),
        "{} of {}",
        got.len(),
        all.len()
    );
}

#[test]
fn logits_without_a_softmax_are_an_error() {
    for (bad, what) in [
        (f64::NAN, "NaN at frame 1, class 3"),
        (f64::INFINITY, "inf at frame 1, class 3"),
        (f64::NEG_INFINITY, "all -inf at frame 1"),
    ] {
        let mut values = logits(6, 5);
        let spoilt = if bad == f64::NEG_INFINITY {
            5..10
        } else {
            8..9
        };
        values[spoilt].fill(bad);
        let input = tensors::floats(&values, &[6, 5], DType::F32, &Device::Cpu);
        let mut results = one_utterance(&input, LOGITS);
        results.extend(batch(&input.unsqueeze(1).unwrap(), &[6], LOGITS));
        for (name, result) in results {
            match name {
                // NaN, as everywhere in these: they have no frame to name.
                "score_transcripts" | "rank_transcripts" | "score_transcripts_batch" => {
                    assert!(result.unwrap().iter().any(|x| x.is_nan()), "{name}");
                }
                "token_confidence_batch" | "state_posteriors_batch" => {
                    assert!(result.unwrap().iter().all(|x| x.is_nan()), "{name}");
                }
                _ => {
                    let message = result.unwrap_err().to_string();
                    for part in [name, "logits of item 0", what] {
                        assert!(message.contains(part), "{message}");
                    }
                }
            }
        }
    }
}

/// The first line: candle may append a backtrace.
fn message<T>(result: Result<T>, name: &str) -> String {
    let text = match result {
        Ok(_) => panic!("{name}: no error"),
        Err(error) => error.to_string(),
    };
    text.lines().next().unwrap_or_default().to_string()
}

/// Every function refuses `(T, C)` with a message that has all of `parts`, unless told not to check.
#[track_caller]
fn refused(input: &Tensor, parts: &[&str]) {
    let frames = input.dims()[0];
    let several = input.unsqueeze(1).unwrap();
    let all = |with| {
        let mut results = one_utterance(input, with);
        results.extend(batch(&several, &[frames], with));
        results
    };
    for (name, result) in all(LOG_PROBS) {
        let message = message(result, name);
        for part in [name, "item 0", "InputKind::Logits", "normalised: false"]
            .iter()
            .chain(parts)
        {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(message.len() < 260, "{message}");
    }
    for with in [UNCHECKED, LOGITS] {
        for (name, result) in all(with) {
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }
}

#[track_caller]
fn accepted(input: &Tensor) {
    let frames = input.dims()[0];
    let several = input.unsqueeze(1).unwrap();
    let mut results = one_utterance(input, LOG_PROBS);
    results.extend(batch(&several, &[frames], LOG_PROBS));
    for (name, result) in results {
        if let Err(error) = result {
            // An impossible path has an error of its own.
            let message = error.to_string();
            assert!(!message.contains("look like"), "{name}: {message}");
        }
    }
}

#[test]
fn logits_and_probabilities_in_place_of_log_probabilities_are_errors() {
    for dtype in tensors::FLOATS {
        let input = tensors::floats(&logits(7, 5), &[7, 5], dtype, &Device::Cpu);
        refused(&input, &["look like logits", "frame 0"]);
        // Below 0 all over, and a network that has learnt nothing yet.
        let low = (&input - 20.0).unwrap();
        refused(&low, &["look like logits", "frame 0"]);
        let fresh = (input.zeros_like().unwrap() + 1e-3).unwrap();
        refused(&fresh, &["look like logits", "add up to 5.0"]);
        let probabilities = candle_nn::ops::softmax(&input, 1).unwrap();
        let parts = ["look like probabilities", ".log()", "add up to 1.00"];
        refused(&probabilities, &parts);
        let uniform = tensors::floats(&[0.5; 8], &[4, 2], dtype, &Device::Cpu);
        let opts = GreedyOptions::default();
        let text = message(greedy_decode_batch(&uniform, 4, opts), "two classes");
        assert!(text.contains("look like probabilities"), "{text}");
    }
}

#[test]
fn a_sum_of_a_tenth_is_let_through_and_less_is_not() {
    let first = std::hint::black_box(0.099f64).ln();
    let sum = |second: f64| first.exp() + second.exp();
    // In steps that are smaller than what the sum is rounded to.
    let mut second = 0.001f64.ln() - 1e-12;
    while sum(second) < 0.1 {
        second = second.next_up();
    }
    assert_eq!(sum(second), 0.1);
    let input = |second: f64| {
        // Entries that do not count in the sum, and are no masks.
        let rows = [first, second, -49.0, -49.0, -49.0].repeat(7);
        tensors::floats(&rows, &[7, 5], DType::F64, &Device::Cpu)
    };
    accepted(&input(second));
    refused(&input(second - 1e-9), &["look like logits", "0.100"]);
}

#[test]
fn what_is_not_quite_a_distribution_is_let_through() {
    let mut rng = Rng::new(4);
    let (frames, classes) = (9, 40);
    let exact = {
        let values = rng.values(frames * classes, 6.0);
        let input = tensors::floats(&values, &[frames, classes], DType::F64, &Device::Cpu);
        log_softmax(&input, 1).unwrap()
    };
    let rows = tensors::read(&exact);
    let with =
        |values: Vec<f64>| tensors::floats(&values, &[frames, classes], DType::F32, &Device::Cpu);
    let change = |f: &dyn Fn(usize, f64) -> f64| {
        let changed = rows.iter().enumerate().map(|(i, &x)| f(i % classes, x));
        with(changed.collect())
    };
    accepted(&exact);
    // Masks of all kinds, over most of the classes.
    for mask in [f64::NEG_INFINITY, f64::from(f32::MIN), -1e4, -100.0] {
        accepted(&change(&|class, x| if class % 10 == 3 { x } else { mask }));
    }
    accepted(&change(&|_, _| f64::NEG_INFINITY));
    // A star column.
    let star = Tensor::zeros((frames, 1), DType::F64, &Device::Cpu).unwrap();
    accepted(&Tensor::cat(&[&exact, &star], 1).unwrap());
    // Probabilities that were smoothed without the others making room, floored, or held in a byte.
    accepted(&change(&|_, x| (x.exp() + 0.02).ln()));
    accepted(&change(&|_, x| x.max(-9.0)));
    accepted(&change(&|_, x| ((x.exp() * 255.0).round() / 255.0).ln()));
    // The mean of two models that disagree in the middle frame.
    let peak = |class: usize| {
        let values = (0..classes).map(|c| if c == class { 0.0 } else { -12.0 });
        values.collect::<Vec<f64>>()
    };
    let (one, other) = (peak(3), peak(5));
    let mean: Vec<f64> = one.iter().zip(&other).map(|(a, b)| (a + b) / 2.0).collect();
    let agree = peak(0);
    let mut values = agree.repeat(frames);
    values[frames / 2 * classes..][..classes].copy_from_slice(&mean);
    assert!(mean.iter().map(|x| x.exp()).sum::<f64>() < 0.01);
    accepted(&with(values));
    // Candle's log-softmax in half precision, where the sum of many classes is far too small.
    for dtype in [DType::F16, DType::BF16] {
        for classes in [100, 5000] {
            let zeros = Tensor::zeros((3, classes), dtype, &Device::Cpu).unwrap();
            accepted(&log_softmax(&zeros, 1).unwrap());
        }
    }
    // NaN has errors of its own.
    let mut values = rows.clone();
    values[7] = f64::NAN;
    accepted(&with(values));
}

/// A row whose other classes add up to little is one of a mask, or of a star among the classes.
#[test]
fn a_mask_of_50_nats_and_a_star_take_the_rest() {
    let row = [0.05f64.ln(), 0.02f64.ln(), -50.0, -50.0, -50.0].repeat(7);
    accepted(&tensors::floats(&row, &[7, 5], DType::F64, &Device::Cpu));
    let row = [0.05f64.ln(), 0.02f64.ln(), 0.93f64.ln()].repeat(4);
    let input = tensors::floats(&row, &[4, 3], DType::F64, &Device::Cpu);
    let star = AlignOptions {
        star: Some(2),
        ..Default::default()
    };
    assert!(forced_align(&input, &[1, 2], star).is_ok());
}

#[test]
fn a_star_among_the_classes_is_not_checked() {
    let exact = tensors::floats(&logits(5, 4), &[5, 4], DType::F64, &Device::Cpu);
    let exact = log_softmax(&exact, 1).unwrap();
    let column = (Tensor::zeros((5, 1), DType::F64, &Device::Cpu).unwrap() + 7.0).unwrap();
    let input = Tensor::cat(&[&exact, &column], 1).unwrap();
    let star = AlignOptions {
        star: Some(4),
        ..Default::default()
    };
    assert!(forced_align(&input, &[1, 4, 2], star).is_ok());
    let text = message(
        forced_align(&input, &[1, 2], AlignOptions::default()),
        "no star",
    );
    assert!(text.contains("look like logits"), "{text}");
}

#[test]
fn the_first_the_middle_and_the_last_used_frame_of_each_item_are_checked() {
    let (frames, items, classes) = (11, 3, 4);
    let lengths = [11usize, 0, 6];
    let uniform = -(classes as f64).ln();
    for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
        let with = Common {
            layout,
            ..LOG_PROBS
        };
        for item in 0..items {
            for frame in 0..frames {
                let mut values = vec![uniform; frames * items * classes];
                values[(frame * items + item) * classes + 2] = 30.0;
                let dims = [frames, items, classes];
                let input = tensors::floats(&values, &dims, DType::F32, &Device::Cpu);
                let input = common::in_layout(&input, layout);
                let length = lengths[item];
                let checked = [0, length / 2, length.saturating_sub(1)];
                let seen = frame < length && checked.contains(&frame);
                for (name, result) in batch(&input, &lengths, with) {
                    if seen {
                        let message = message(result, name);
                        let parts = [format!("item {item}"), format!("frame {frame} ")];
                        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
                    } else {
                        assert!(result.is_ok(), "{name}: {result:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_chunk_that_is_refused_is_not_taken() {
    let good = tensors::floats(&[-(4f64.ln()); 12], &[3, 4], DType::F32, &Device::Cpu);
    let bad = Tensor::cat(&[&good, &(&good + 9.0).unwrap()], 0).unwrap();
    let mut search = BeamSearch::new(4, BeamOptions::default()).unwrap();
    search.push(&good).unwrap();
    let text = message(search.push(&bad), "push");
    // The middle frame of the chunk, behind three others.
    assert!(text.contains("frame 6 "), "{text}");
    assert_eq!(search.frames(), 3);
    search.push(&good).unwrap();
    let all = Tensor::cat(&[&good, &good], 0).unwrap();
    let whole = beam_search(&all, BeamOptions::default()).unwrap();
    assert_eq!(search.finish().unwrap(), whole);
}

#[test]
fn no_frames_are_an_utterance() {
    let empty = [Hypothesis::default()];
    let kinds = |device: Device| [(device.clone(), LOG_PROBS), (device, LOGITS)];
    for (device, with) in devices().into_iter().flat_map(kinds) {
        for dims in [&[0, 4][..], &[1, 0, 4], &[0, 1, 4]] {
            // Metal has no empty buffers.
            let input = tensors::floats(&[], dims, DType::F32, &device);
            let scores = score_transcripts(&input, &[&[][..], &[1]], with.score()).unwrap();
            assert_eq!(scores, [0.0, f64::NEG_INFINITY]);
            let ranked = rank_transcripts(&input, &[&[1][..], &[]], with.score()).unwrap();
            assert_eq!((ranked[0].index, ranked[0].probability), (1, 1.0));
            let alignment = forced_align(&input, &[], with.align()).unwrap();
            assert_eq!((alignment.score, alignment.labels.len()), (0.0, 0));
            let text = message(forced_align(&input, &[1], with.align()), "one label");
            assert!(text.contains("needs 1 frames"), "{text}");
            assert_eq!(beam_search(&input, with.beam()).unwrap(), empty);
            let mut search = BeamSearch::new(4, with.beam()).unwrap();
            search.push(&input).unwrap();
            assert_eq!(search.finish().unwrap(), empty);
            let scorer = PrefixScorer::new(&input, with.prefix()).unwrap();
            let state = scorer.initial_state();
            let scores = &scorer.score(&[&state]).unwrap()[0];
            assert_eq!((scores.end, scores.next.len()), (0.0, 4));
            assert!(scores.next.iter().all(|&x| x == f64::NEG_INFINITY));
            let next = scorer.extend(&state, 1).unwrap();
            assert_eq!(next.end_score(), f64::NEG_INFINITY);
        }
        let input = tensors::floats(&[], &[0, 4], DType::F32, &device);
        let found = greedy_decode_batch(&input, 0, with.greedy()).unwrap();
        assert_eq!(found, empty);
        let none = targets().narrow(0, 0, 0).unwrap();
        let tokens = token_confidence_batch(&input, &none, 0, 0, with.confidence()).unwrap();
        assert_eq!(tokens, [vec![]]);
        let tokens = token_confidence_batch(&input, &targets(), 0, 3, with.confidence()).unwrap();
        assert_eq!((tokens[0].len(), tokens[0][0].posterior), (3, 0.0));
        let states = state_posteriors_batch(&input, &targets(), 0, 3, with.confidence()).unwrap();
        assert_eq!(states[0].dims(), [0, 7]);
    }
    // A view of no frames behind the last of its tensor.
    let input = tensors::floats(&[-1.0; 8], &[4, 2], DType::F32, &Device::Cpu);
    let none = input.t().unwrap().narrow(0, 2, 0).unwrap();
    let scorer = PrefixScorer::new(&none, PrefixScorerOptions::default()).unwrap();
    let state = scorer.initial_state();
    assert_eq!(state.end_score(), 0.0);
    let next = scorer.extend(&state, 3).unwrap();
    assert_eq!(next.end_score(), f64::NEG_INFINITY);
}

#[test]
fn a_batch_without_frames_or_without_items_is_one() {
    for (layout, no_items, no_frames) in [
        (InputLayout::TimeMajor, [5, 0, 4], [0, 2, 4]),
        (InputLayout::BatchMajor, [0, 5, 4], [2, 0, 4]),
    ] {
        for with in [LOG_PROBS, LOGITS] {
            let with = Common { layout, ..with };
            let input = Tensor::zeros(&no_items, DType::F32, &Device::Cpu).unwrap();
            for (name, result) in batch(&input, &[], with) {
                assert!(result.unwrap().is_empty(), "{name}");
            }
            let none: &[usize] = &[];
            let lists: &[Vec<Vec<u32>>] = &[];
            let scores = score_transcripts_batch(&input, none, lists, with.score()).unwrap();
            assert!(scores.is_empty());
            assert!(
                greedy_decode_batch(&input, none, with.greedy())
                    .unwrap()
                    .is_empty()
            );
            let input = Tensor::zeros(&no_frames, DType::F32, &Device::Cpu).unwrap();
            for (name, result) in batch(&input, &[0, 0], with) {
                let got = result.unwrap();
                let want = match name {
                    "score_transcripts_batch" => {
                        [f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0].repeat(2)
                    }
                    // No target fits.
                    "forced_align_batch" | "state_posteriors_batch" => vec![],
                    "token_confidence_batch" => vec![0.0; 24],
                    _ => vec![0.0; 2],
                };
                assert_eq!(got, want, "{name}");
            }
        }
    }
    // No class is there for the blank.
    let input = Tensor::zeros((0, 0), DType::F32, &Device::Cpu).unwrap();
    let text = message(beam_search(&input, BeamOptions::default()), "no classes");
    assert!(
        text.contains("blank = 0") && text.contains("C = 0"),
        "{text}"
    );
}
