//! Prefix scores against the enumeration of all labellings.

use crate::common::labellings::{Labelling, labellings};
use crate::common::oracle::recursion;
use crate::common::{Rng, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{LanguageModel, PrefixScorer, PrefixScorerOptions, PrefixState};
use proptest::prelude::*;

const TOLERANCE: f64 = 1e-9;

fn distribution(rng: &mut Rng, frames: usize, classes: usize, scale: f64) -> Vec<f64> {
    let mut values = rng.values(frames * classes, scale);
    for row in values.chunks_exact_mut(classes) {
        let high = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = high + row.iter().map(|x| (x - high).exp()).sum::<f64>().ln();
        row.iter_mut().for_each(|x| *x -= sum);
    }
    values
}

fn scorer(values: &[f64], classes: usize, blank: usize) -> PrefixScorer {
    let dims = [values.len() / classes, classes];
    let log_probs = tensors::floats(values, &dims, DType::F64, &Device::Cpu);
    PrefixScorer::new(&log_probs, options(blank)).unwrap()
}

fn options(blank: usize) -> PrefixScorerOptions {
    PrefixScorerOptions {
        blank,
        ..Default::default()
    }
}

/// `ln` of the sum over the labellings that `keep` admits.
fn total(all: &[Labelling], keep: impl Fn(&[u32]) -> bool) -> f64 {
    let scores: Vec<f64> = all
        .iter()
        .filter(|l| keep(&l.tokens))
        .map(|l| l.score)
        .collect();
    let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + scores.iter().map(|s| (s - high).exp()).sum::<f64>().ln()
}

fn close(got: f64, want: f64) -> bool {
    got == want || (got - want).abs() < TOLERANCE * want.abs().max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn scores_are_sums_over_all_labellings(
        (frames, classes) in (1usize..=6, 2usize..=4),
        seed in any::<u64>(),
        scale in prop::sample::select(vec![0.5, 4.0, 40.0]),
        prefix in prop::collection::vec(0usize..3, 0..5),
    ) {
        let mut rng = Rng::new(seed);
        let blank = rng.below(classes);
        let values = distribution(&mut rng, frames, classes, scale);
        let all = labellings(&values, classes, blank);
        let scorer = scorer(&values, classes, blank);
        let mut states = vec![scorer.initial_state()];
        let mut prefixes: Vec<Vec<u32>> = vec![vec![]];
        for label in prefix {
            let label = label % (classes - 1);
            let token = (label + usize::from(label >= blank)) as u32;
            states.push(scorer.extend(states.last().unwrap(), token).unwrap());
            let mut longer = prefixes.last().unwrap().clone();
            longer.push(token);
            prefixes.push(longer);
        }
        let scores = scorer.score(&states).unwrap();
        prop_assert_eq!(scores.len(), states.len());
        for ((state, prefix), scores) in states.iter().zip(&prefixes).zip(&scores) {
            prop_assert_eq!(state.last(), prefix.last().copied());
            let begins = total(&all, |tokens| tokens.starts_with(prefix));
            prop_assert!(close(state.score(), begins) || prefix.is_empty() && begins.abs() < TOLERANCE);
            let ends = total(&all, |tokens| tokens == prefix);
            prop_assert!(close(scores.end, ends), "{} {}", scores.end, ends);
            prop_assert_eq!(scores.end, state.end_score());
            prop_assert_eq!(scores.next.len(), classes);
            for (class, &got) in scores.next.iter().enumerate() {
                let longer = [&prefix[..], &[class as u32]].concat();
                let want = if class == blank {
                    f64::NEG_INFINITY
                } else {
                    total(&all, |tokens| tokens.starts_with(&longer))
                };
                prop_assert!(close(got, want), "{:?}: {} {}", longer, got, want);
                if class != blank {
                    let state = scorer.extend(state, class as u32).unwrap();
                    prop_assert!(close(state.score(), got));
                }
            }
        }
    }
}

#[test]
fn a_long_input_with_many_classes_does_not_underflow() {
    let (frames, classes) = (800, 700);
    let mut rng = Rng::new(5);
    let values = distribution(&mut rng, frames, classes, 30.0);
    let scorer = scorer(&values, classes, 0);
    let tokens: Vec<usize> = (0..40).map(|i| 1 + (i * 37) % 600).collect();
    let mut state = scorer.initial_state();
    for &token in &tokens {
        let next = &scorer.score(&[&state]).unwrap()[0].next;
        // What goes on or ends is all there is, whatever its size.
        let end = state.end_score();
        let high = next.iter().copied().fold(end, f64::max);
        let sum = next
            .iter()
            .chain([&end])
            .map(|x| (x - high).exp())
            .sum::<f64>();
        let sum = high + sum.ln();
        assert!(close(sum, state.score()), "{sum} {}", state.score());
        state = scorer.extend(&state, token as u32).unwrap();
        assert!(close(state.score(), next[token]));
    }
    let truth = -recursion(&values, classes, &tokens, 0).loss;
    assert!(truth < -10_000.0, "beyond the range of f64: {truth}");
    assert!(close(state.end_score(), truth));
}

#[test]
fn every_dtype_and_view_gives_the_same() {
    let values = distribution(&mut Rng::new(8), 9, 6, 2.0);
    for dtype in tensors::FLOATS {
        let rounded = tensors::rounded(&values, dtype);
        let want = scorer(&rounded, 6, 3);
        let input = tensors::floats(&values, &[9, 6], dtype, &Device::Cpu);
        let transposed = input.t().unwrap().contiguous().unwrap().t().unwrap();
        let padded = Tensor::cat(&[&input, &input], 0).unwrap();
        let padded = Tensor::cat(&[&padded, &padded], 1).unwrap();
        let inside = padded.narrow(0, 9, 9).unwrap().narrow(1, 6, 6).unwrap();
        for view in [input, transposed, inside] {
            let got = PrefixScorer::new(&view, options(3)).unwrap();
            let run = |scorer: &PrefixScorer| {
                let one = scorer.extend(&scorer.initial_state(), 4).unwrap();
                let two = scorer.extend(&one, 4).unwrap();
                (scorer.score(&[&one, &two]).unwrap(), two)
            };
            assert_eq!(run(&got), run(&want), "{dtype:?}");
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_other_hypotheses() {
    let values = distribution(&mut Rng::new(2), 30, 500, 5.0);
    let scorer = scorer(&values, 500, 0);
    let empty = scorer.initial_state();
    let states: Vec<PrefixState> = (1..6).map(|t| scorer.extend(&empty, t).unwrap()).collect();
    let together = scorer.score(&states).unwrap();
    assert_eq!(together.len(), states.len());
    for (state, scores) in states.iter().zip(together) {
        assert_eq!(scorer.score(&[state]).unwrap(), [scores]);
    }
    assert!(scorer.score::<PrefixState>(&[]).unwrap().is_empty());
}

#[test]
fn states_with_the_same_numbers_are_equal_and_others_are_not() {
    let values = distribution(&mut Rng::new(4), 5, 3, 2.0);
    let (one, same) = (scorer(&values, 3, 0), scorer(&values, 3, 0));
    assert_eq!((one.frames(), one.classes()), (5, 3));
    assert_eq!(one.initial_state(), same.initial_state());
    // With another blank the empty prefix has the same score, and other alignments.
    let other = scorer(&values, 3, 1).initial_state();
    assert_eq!(other.score(), one.initial_state().score());
    assert_ne!(other, one.initial_state());
}

#[test]
fn wrong_input_is_an_error_that_names_it() {
    let check = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "{message:?} does not name {part:?}");
        }
    };
    let mut values = vec![-1.0; 4 * 3];
    let good = scorer(&values, 3, 0);
    let state = good.initial_state();
    for token in [0, 3, u32::MAX] {
        check(
            good.extend(&state, token).unwrap_err().to_string(),
            &[&token.to_string(), "C = 3"],
        );
    }
    let other = scorer(&values[..9], 3, 0).initial_state();
    let error = good.score(&[&state, &other]).unwrap_err().to_string();
    check(error, &["state 1", "T = 3", "4"]);
    // As many frames, and more classes.
    let more = scorer(&[-(50f64.ln()); 4 * 50], 50, 0);
    let other = more.extend(&more.initial_state(), 40).unwrap();
    let error = good.score(&[&state, &other]).unwrap_err().to_string();
    check(error, &["state 1", "another scorer"]);
    check(
        good.extend(&other, 1).unwrap_err().to_string(),
        &["the state", "another scorer"],
    );
    values[7] = f64::NAN;
    let new = |dims: &[usize], blank| {
        let input = tensors::floats(&values, dims, DType::F32, &Device::Cpu);
        match PrefixScorer::new(&input, options(blank)) {
            Ok(_) => panic!("no error"),
            Err(error) => error.to_string(),
        }
    };
    check(new(&[4, 3], 0), &["NaN", "frame 2", "class 1"]);
    check(new(&[4, 3], 3), &["blank = 3"]);
    check(new(&[2, 2, 3], 0), &["[2, 2, 3]", "(T, C)"]);
}

/// `ln P(token)` for each class, and that of the end.
struct Unigram(Vec<f64>, f64);

impl LanguageModel for Unigram {
    type State = ();

    fn start(&self) -> candle_core::Result<()> {
        Ok(())
    }

    fn score(&self, (): &(), token: u32) -> candle_core::Result<f64> {
        // Forbidden tokens are not asked for.
        assert!(token > 0);
        Ok(self.0[token as usize])
    }

    fn advance(&self, (): &(), _token: u32) -> candle_core::Result<()> {
        Ok(())
    }

    fn end(&self, (): &()) -> candle_core::Result<f64> {
        Ok(self.1)
    }
}

#[test]
fn a_language_model_is_added_to_the_scores() {
    let mut rng = Rng::new(3);
    let scorer = scorer(&distribution(&mut rng, 6, 4, 2.0), 4, 0);
    let plain = scorer.score(&[&scorer.initial_state()]).unwrap().remove(0);
    let model = Unigram(vec![0.0, -1.0, f64::NEG_INFINITY, -2.0], -0.5);
    let mut fused = plain.clone();
    fused.fuse(&model, &(), 0.0).unwrap();
    assert_eq!(fused, plain);
    fused.fuse(&model, &(), 0.25).unwrap();
    let want = [
        f64::NEG_INFINITY,
        plain.next[1] - 0.25,
        f64::NEG_INFINITY,
        plain.next[3] - 0.5,
    ];
    assert_eq!((fused.next, fused.end), (want.to_vec(), plain.end - 0.125));

    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let error = plain.clone().fuse(&model, &(), weight).unwrap_err();
        assert!(error.to_string().contains("weight"), "{error}");
    }
    for (broken, of) in [
        (Unigram(vec![0.0, -1.0, f64::NAN, 0.0], 0.0), "token 2"),
        (Unigram(vec![0.0; 4], f64::INFINITY), "the end of the text"),
    ] {
        let mut scores = plain.clone();
        let error = scores.fuse(&broken, &(), 1.0).unwrap_err().to_string();
        assert_eq!(scores, plain);
        assert!(error.contains(of), "{error}");
    }
}
