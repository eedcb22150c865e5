//! Greedy decoding and beam search: against the enumeration of all paths, in every form of input.

use crate::common::labellings::labellings;
use crate::common::oracle::collapse;
use crate::common::views::VIEWS;
use crate::common::{self, Rng, devices, holds, tensors};
use candle_core::{DType, Device, Result, Tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, BeamSearch, End, GreedyOptions, Hotwords, Hypothesis, InputLayout, LanguageModel,
    ScoreOptions, beam_search, beam_search_batch, beam_search_batch_with, beam_search_with,
    greedy_decode_batch, score_transcripts,
};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sums of at most a few thousand terms in f64.
const TOLERANCE: f64 = 1e-9;

/// Log-probabilities (frames, classes) with a log-softmax, some of them −inf.
pub fn distribution(
    rng: &mut Rng,
    frames: usize,
    classes: usize,
    scale: f64,
    holes: f64,
) -> Vec<f64> {
    let mut values = rng.values(frames * classes, scale);
    for row in values.chunks_exact_mut(classes) {
        for x in row.iter_mut() {
            if rng.unit() < holes {
                *x = f64::NEG_INFINITY;
            }
        }
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        if sum > 0.0 {
            row.iter_mut().for_each(|x| *x -= sum.ln());
        }
    }
    values
}

pub fn tensor(values: &[f64], classes: usize) -> Tensor {
    let dims = [values.len() / classes, classes];
    tensors::floats(values, &dims, DType::F64, &Device::Cpu)
}

pub fn exact(blank: usize) -> BeamOptions<'static> {
    BeamOptions {
        blank,
        beam_width: usize::MAX,
        n_best: usize::MAX,
        ..Default::default()
    }
}

/// What a hypothesis says of its best path: a class a frame, if the spans fit together.
fn path_of(hypothesis: &Hypothesis, frames: usize, blank: usize) -> Vec<usize> {
    let mut path = vec![blank; frames];
    let mut end = 0;
    for (span, &token) in hypothesis.spans.iter().zip(&hypothesis.tokens) {
        assert_eq!(span.token, token);
        assert!(span.start >= end && span.end > span.start && span.end <= frames);
        path[span.start..span.end].fill(token as usize);
        end = span.end;
    }
    assert_eq!(hypothesis.spans.len(), hypothesis.tokens.len());
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_n_best_at_full_width_are_those_of_the_enumeration(
        (frames, classes) in (1usize..=6, 1usize..=4),
        seed in any::<u64>(),
        scale in prop::sample::select(vec![0.5, 4.0, 300.0]),
        holes in prop::sample::select(vec![0.0, 0.3]),
    ) {
        let mut rng = Rng::new(seed);
        let blank = rng.below(classes);
        let values = distribution(&mut rng, frames, classes, scale, holes);
        let want = labellings(&values, classes, blank);
        let got = beam_search(&tensor(&values, classes), exact(blank)).unwrap();
        prop_assert_eq!(got.len(), want.len());
        for (i, got) in got.iter().enumerate() {
            let same = want.iter().find(|want| want.tokens == got.tokens).unwrap();
            let tolerance = TOLERANCE * same.score.abs().max(1.0);
            prop_assert!((got.score - same.score).abs() < tolerance, "{:?} {:?}", got, same);
            // In order, up to rounding.
            prop_assert!((got.score - want[i].score).abs() < tolerance);
            prop_assert_eq!(got.lm_score, 0.0);
            let path = path_of(got, frames, blank);
            prop_assert!(same.paths.contains(&path), "{:?} is not in {:?}", path, same.paths);
            for span in &got.spans {
                let frames = span.start..span.end;
                let sum: f64 = frames.map(|t| values[t * classes + span.token as usize]).sum();
                let mean = sum / (span.end - span.start) as f64;
                prop_assert!((f64::from(span.score) - mean).abs() < 1e-5 * mean.abs().max(1.0));
            }
        }
    }

    #[test]
    fn a_narrow_beam_gives_lower_bounds_and_no_labelling_twice(
        seed in any::<u64>(),
        beam_width in 1usize..12,
    ) {
        let mut rng = Rng::new(seed);
        let values = distribution(&mut rng, 6, 4, 2.0, 0.1);
        let want = labellings(&values, 4, 0);
        let opts = BeamOptions { beam_width, ..exact(0) };
        let got = beam_search(&tensor(&values, 4), opts).unwrap();
        prop_assert!(got.len() <= beam_width);
        for (i, hypothesis) in got.iter().enumerate() {
            let same = want.iter().find(|want| want.tokens == hypothesis.tokens).unwrap();
            prop_assert!(hypothesis.score <= same.score + TOLERANCE);
            prop_assert!(got[..i].iter().all(|other| other.tokens != hypothesis.tokens));
        }
    }

    #[test]
    fn chunks_of_any_size_give_the_bits_of_one(
        seed in any::<u64>(),
        cuts in prop::collection::vec(0usize..9, 1..12),
    ) {
        let mut rng = Rng::new(seed);
        let values = distribution(&mut rng, 40, 6, 3.0, 0.05);
        let log_probs = tensor(&values, 6);
        let opts = BeamOptions { beam_width: 7, n_best: 7, ..Default::default() };
        let at_once = beam_search(&log_probs, opts).unwrap();
        let mut search = BeamSearch::new(6, opts).unwrap();
        let mut first = 0;
        for size in cuts.into_iter().cycle().take(400).chain([40]) {
            let size = size.min(40 - first);
            search.push(&log_probs.narrow(0, first, size).unwrap()).unwrap();
            first += size;
            if first == 40 {
                break;
            }
        }
        if first < 40 {
            search.push(&log_probs.narrow(0, first, 40 - first).unwrap()).unwrap();
        }
        prop_assert_eq!(search.frames(), 40);
        prop_assert_eq!(search.hypotheses().unwrap(), at_once.clone());
        prop_assert_eq!(search.finish().unwrap(), at_once);
    }

    #[test]
    fn a_language_model_reorders_as_the_enumeration_says(
        seed in any::<u64>(),
        lm_weight in prop::sample::select(vec![0.0, 0.7, 1.0]),
        token_bonus in -1.0f64..1.0,
        end_of_text: bool,
        bonus: bool,
    ) {
        let mut rng = Rng::new(seed);
        let (frames, classes) = (5, 4);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let model = Bigram::random(&mut rng, classes, bonus);
        let end = if end_of_text { End::Required } else { End::Ignored };
        let opts = BeamOptions { lm_weight, token_bonus, end, ..exact(0) };
        let got = beam_search_with(&tensor(&values, classes), &model, opts).unwrap();
        let mut want: Vec<(f64, f64, Vec<u32>)> = labellings(&values, classes, 0)
            .into_iter()
            .map(|l| {
                let mut lm = lm_weight * model.weigh(&l.tokens, end_of_text);
                if lm_weight == 0.0 {
                    lm = 0.0;
                }
                (l.score, lm + token_bonus * l.tokens.len() as f64, l.tokens)
            })
            .filter(|want| want.1 > f64::NEG_INFINITY)
            .collect();
        want.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)));
        prop_assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            prop_assert!((got.total_score() - want.0 - want.1).abs() < TOLERANCE);
            prop_assert!((got.lm_score - want.1).abs() < TOLERANCE);
            prop_assert_eq!(&got.tokens, &want.2);
        }
        // The leaving out of tokens by `max_score` loses nothing in a narrow beam either.
        let narrow = BeamOptions { beam_width: 3, ..opts };
        let all = Unbounded(&model);
        prop_assert_eq!(
            beam_search_with(&tensor(&values, classes), &model, narrow).unwrap(),
            beam_search_with(&tensor(&values, classes), &all, narrow).unwrap()
        );
    }
}

/// `ln P(token | previous)`, with class 0 as the edge of the text; some are forbidden.
struct Bigram {
    classes: usize,
    table: Vec<f64>,
    most: f64,
}

impl Bigram {
    fn random(rng: &mut Rng, classes: usize, bonus: bool) -> Self {
        let table: Vec<f64> = (0..classes * classes)
            .map(|_| match rng.unit() {
                x if x < 0.2 => f64::NEG_INFINITY,
                x if bonus => 3.0 * x,
                x => -3.0 * x,
            })
            .collect();
        Bigram {
            classes,
            table,
            most: if bonus { 3.0 } else { 0.0 },
        }
    }

    fn at(&self, previous: u32, token: u32) -> f64 {
        self.table[previous as usize * self.classes + token as usize]
    }

    fn weigh(&self, tokens: &[u32], end: bool) -> f64 {
        let mut previous = 0;
        let mut sum = 0.0;
        for &token in tokens {
            sum += self.at(previous, token);
            previous = token;
        }
        if end { sum + self.at(previous, 0) } else { sum }
    }
}

impl LanguageModel for Bigram {
    type State = u32;

    fn start(&self) -> Result<u32> {
        Ok(0)
    }

    fn score(&self, &previous: &u32, token: u32) -> Result<f64> {
        Ok(self.at(previous, token))
    }

    fn advance(&self, _: &u32, token: u32) -> Result<u32> {
        Ok(token)
    }

    fn end(&self, &previous: &u32) -> Result<f64> {
        Ok(self.at(previous, 0))
    }

    fn max_score(&self) -> f64 {
        self.most
    }
}

/// The same model without a bound on its scores.
struct Unbounded<'a>(&'a Bigram);

impl LanguageModel for Unbounded<'_> {
    type State = u32;

    fn start(&self) -> Result<u32> {
        self.0.start()
    }

    fn score(&self, state: &u32, token: u32) -> Result<f64> {
        self.0.score(state, token)
    }

    fn advance(&self, state: &u32, token: u32) -> Result<u32> {
        self.0.advance(state, token)
    }

    fn end(&self, state: &u32) -> Result<f64> {
        self.0.end(state)
    }

    fn max_score(&self) -> f64 {
        f64::INFINITY
    }
}

/// Prefix beam search as the textbook has it: every extension of every prefix, joined in a map.
fn plain_beam(values: &[f64], classes: usize, width: usize) -> Vec<(Vec<u32>, f64)> {
    use std::collections::HashMap;
    let add = |a: f64, b: f64| {
        let high = a.max(b);
        if high == f64::NEG_INFINITY {
            return high;
        }
        high + ((a - high).exp() + (b - high).exp()).ln()
    };
    let none = f64::NEG_INFINITY;
    let mut beam = vec![(vec![], 0.0, none)];
    for row in values.chunks_exact(classes) {
        let mut next: HashMap<Vec<u32>, (f64, f64)> = HashMap::new();
        for (tokens, blank, label) in &beam {
            let both = add(*blank, *label);
            let stay = next.entry(tokens.clone()).or_insert((none, none));
            stay.0 = add(stay.0, both + row[0]);
            if let Some(&last) = tokens.last() {
                stay.1 = add(stay.1, label + row[last as usize]);
            }
            for token in 1..classes as u32 {
                let from = if tokens.last() == Some(&token) {
                    *blank
                } else {
                    both
                };
                let mut longer = tokens.clone();
                longer.push(token);
                let entry = next.entry(longer).or_insert((none, none));
                entry.1 = add(entry.1, from + row[token as usize]);
            }
        }
        beam = next.into_iter().map(|(k, (b, l))| (k, b, l)).collect();
        beam.sort_by(|x, y| add(y.1, y.2).total_cmp(&add(x.1, x.2)));
        beam.truncate(width);
    }
    beam.into_iter().map(|(k, b, l)| (k, add(b, l))).collect()
}

#[test]
fn leaving_out_candidates_early_changes_nothing() {
    for (seed, classes, width) in [(1, 5, 1), (2, 12, 4), (3, 40, 3), (4, 9, 30), (5, 60, 16)] {
        let mut rng = Rng::new(seed);
        let values = distribution(&mut rng, 60, classes, 4.0, 0.0);
        let want = plain_beam(&values, classes, width);
        let opts = BeamOptions {
            beam_width: width,
            n_best: width,
            ..Default::default()
        };
        let got = beam_search(&tensor(&values, classes), opts).unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.tokens, want.0, "{classes} classes, width {width}");
            assert!((got.score - want.1).abs() < TOLERANCE);
        }
        // Without a model, no prefix makes room for others where one hypothesis is wanted.
        let opts = BeamOptions { n_best: 1, ..opts };
        let best = beam_search(&tensor(&values, classes), opts).unwrap();
        assert_eq!(best[..], got[..1]);
    }
}

#[test]
fn long_input_does_not_underflow() {
    // Enough frames for the tree of prefixes to be cleared of unused ones several times.
    let (frames, classes) = (20_000, 8);
    let mut rng = Rng::new(9);
    let values = distribution(&mut rng, frames, classes, 8.0, 0.0);
    let opts = BeamOptions {
        beam_width: 16,
        n_best: 4,
        ..Default::default()
    };
    let found = beam_search(&tensor(&values, classes), opts).unwrap();
    let best = &found[0];
    let target: Vec<usize> = best.tokens.iter().map(|&token| token as usize).collect();
    let log_probs = tensor(&values, classes);
    let truth = score_transcripts(&log_probs, &[&best.tokens], ScoreOptions::default()).unwrap()[0];
    assert!(best.score <= truth + 1e-6, "{truth} {}", best.score);
    let path = path_of(best, frames, 0);
    assert_eq!(collapse(&path, 0), target);
    let frame_scores: f64 = (0..frames).map(|t| values[t * classes + path[t]]).sum();
    assert!(frame_scores <= best.score);
}

#[test]
fn emissions_of_any_size_are_summed_without_underflow() {
    // e^-1000 a frame: far below the smallest f64.
    let values: Vec<f64> = (0..5 * 3).map(|i| -1000.0 - (i * 7 % 5) as f64).collect();
    let want = labellings(&values, 3, 0);
    let got = beam_search(&tensor(&values, 3), exact(0)).unwrap();
    assert_eq!(got.len(), want.len());
    assert!((got[0].score - want[0].score).abs() < TOLERANCE * 5000.0);
}

#[test]
fn ties_are_broken_in_the_documented_order() {
    let values = vec![(1f64 / 3.0).ln(); 2 * 3];
    let got = beam_search(&tensor(&values, 3), exact(0)).unwrap();
    let tokens: Vec<&[u32]> = got.iter().map(|h| &h.tokens[..]).collect();
    // "1" and "2" have three paths each, the others one.
    let want: [&[u32]; 5] = [&[1], &[2], &[], &[1, 2], &[2, 1]];
    assert_eq!(tokens, want);
}

#[test]
fn thresholds_leave_out_what_they_say() {
    let p = [[0.5f64, 0.3, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05]];
    let values: Vec<f64> = p.concat().iter().map(|p| p.ln()).collect();
    let found = |opts: BeamOptions| -> Vec<Vec<u32>> {
        let found = beam_search(&tensor(&values, 4), opts).unwrap();
        found.into_iter().map(|h| h.tokens).collect()
    };
    let by_value = found(BeamOptions {
        token_threshold: 0.1f64.ln(),
        ..exact(0)
    });
    assert!(by_value.iter().flatten().all(|&token| token < 3));
    assert_eq!(by_value.len(), 5);
    // No token is certain.
    let certain = found(BeamOptions {
        token_threshold: 0.0,
        ..exact(0)
    });
    assert_eq!(certain, [Vec::<u32>::new()]);
    let by_count = found(BeamOptions {
        tokens_per_frame: 1,
        ..exact(0)
    });
    assert_eq!(by_count, [vec![1], vec![]]);
    let by_score = found(BeamOptions {
        beam_threshold: 0.0,
        ..exact(0)
    });
    assert_eq!(by_score.len(), 1);
    // A new prefix leaves the one behind that it comes from: ln 3 is above 1.
    let values = [0.25f64.ln(), 0.75f64.ln()];
    for (beam_threshold, count) in [(1.0, 1), (1.2, 2)] {
        let opts = BeamOptions {
            beam_threshold,
            ..exact(0)
        };
        let found = beam_search(&tensor(&values, 2), opts).unwrap();
        assert_eq!((found.len(), &found[0].tokens[..]), (count, &[1][..]));
    }
    // One that is as good as the best is not below it.
    let opts = BeamOptions {
        beam_threshold: 0.0,
        ..exact(0)
    };
    let equal = [0.5f64.ln(), 0.5f64.ln()];
    let found = beam_search(&tensor(&equal, 2), opts).unwrap();
    let tokens: Vec<&[u32]> = found.iter().map(|h| &h.tokens[..]).collect();
    let want: [&[u32]; 2] = [&[], &[1]];
    assert_eq!(tokens, want);
}

#[test]
fn a_model_may_choose_a_token_that_is_less_probable_than_many() {
    // Of six tokens it allows the last one alone, which it likes. The end scores 0.
    let row = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0].map(|score: f64| match score {
        0.0 => f64::NEG_INFINITY,
        score => score,
    });
    let mut table = row.repeat(7);
    table.iter_mut().step_by(7).for_each(|end| *end = 0.0);
    let model = Bigram {
        classes: 7,
        table,
        most: 3.0,
    };
    let values = [0.05f64, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08].map(f64::ln);
    let opts = BeamOptions {
        beam_width: 1,
        ..Default::default()
    };
    let best = beam_search_with(&tensor(&values, 7), &model, opts)
        .unwrap()
        .remove(0);
    assert_eq!((&best.tokens[..], best.lm_score), (&[6][..], 3.0));
}

#[test]
fn of_equally_good_alignments_spans_begin_and_end_early() {
    let best = |second: [f64; 2]| {
        let values = [0.5f64.ln(), 0.5f64.ln(), second[0].ln(), second[1].ln()];
        let mut search = BeamSearch::new(2, BeamOptions::default()).unwrap();
        search.push(&tensor(&values, 2)).unwrap();
        let found = search.hypotheses().unwrap().remove(0);
        assert_eq!(found.tokens, [1]);
        (found.spans[0].range(), search.trailing_blanks())
    };
    // "1 1" is as good as "blank 1".
    assert_eq!(best([0.25, 0.75]), (0..2, 0));
    // "1 1" is as good as "1 blank".
    assert_eq!(best([0.5, 0.5]), (0..1, 1));
}

#[test]
fn the_token_bonus_is_taken_up_to_its_limits() {
    let input = tensor(&[-(3f64.ln()); 6], 3);
    let with = |token_bonus| {
        let opts = BeamOptions {
            token_bonus,
            ..Default::default()
        };
        beam_search(&input, opts)
    };
    for (token_bonus, tokens) in [(1e100, 2), (-1e100, 0)] {
        let best = with(token_bonus).unwrap().remove(0);
        assert_eq!(best.tokens.len(), tokens);
        assert_eq!(best.lm_score, token_bonus * tokens as f64);
    }
    for token_bonus in [1.01e100, -1.01e100] {
        fails(with(token_bonus), &["it must be from -1e100 to 1e100"]);
    }
}

/// All prefixes with their probabilities, where only these tokens of a frame may make a new prefix.
fn plain_prefixes(
    values: &[f64],
    classes: usize,
    blank: usize,
    may_extend: impl Fn(&[f64], usize) -> bool,
) -> BTreeMap<Vec<u32>, f64> {
    // The probabilities of the paths that end in a blank, and in the last label.
    let mut beam = BTreeMap::from([(vec![], (1.0, 0.0))]);
    for row in values.chunks_exact(classes) {
        let mut next: BTreeMap<Vec<u32>, (f64, f64)> = BTreeMap::new();
        for (prefix, &(ends_blank, ends_label)) in &beam {
            let last = prefix.last().copied();
            let stay = next.entry(prefix.clone()).or_default();
            stay.0 += (ends_blank + ends_label) * row[blank].exp();
            if let Some(last) = last {
                stay.1 += ends_label * row[last as usize].exp();
            }
            for class in (0..classes).filter(|&class| class != blank) {
                let longer = [&prefix[..], &[class as u32]].concat();
                if beam.contains_key(&longer) || may_extend(row, class) {
                    let repeats = last == Some(class as u32);
                    let before = ends_blank + if repeats { 0.0 } else { ends_label };
                    next.entry(longer).or_default().1 += before * row[class].exp();
                }
            }
        }
        next.retain(|_, (ends_blank, ends_label)| *ends_blank + *ends_label > 0.0);
        beam = next;
    }
    let sums = beam.into_iter();
    sums.map(|(prefix, (blank, label))| (prefix, blank + label))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_relative_threshold_is_that_of_the_definition(
        seed in any::<u64>(),
        frames in 1usize..=6,
        classes in 2usize..=4,
        relative in prop::sample::select(vec![0.0, 0.4, 1.5, 4.0]),
        absolute in prop::sample::select(vec![f64::NEG_INFINITY, -1.0]),
        model: bool,
    ) {
        let mut rng = Rng::new(seed);
        let blank = rng.below(classes);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let log_probs = tensor(&values, classes);
        let opts = BeamOptions {
            relative_token_threshold: relative,
            token_threshold: absolute,
            token_bonus: 0.25,
            ..exact(blank)
        };
        let want = plain_prefixes(&values, classes, blank, |row, class| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row[class] >= largest - relative && row[class] >= absolute
        });
        let got = match model {
            true => beam_search_with(&log_probs, &OnlyEnd(0.0), opts).unwrap(),
            false => beam_search(&log_probs, opts).unwrap(),
        };
        prop_assert_eq!(got.len(), want.len());
        for hypothesis in &got {
            let want = want[&hypothesis.tokens].ln();
            prop_assert!((hypothesis.score - want).abs() < TOLERANCE * want.abs().max(1.0));
        }
        let narrow = BeamOptions { beam_width: 4, n_best: 4, ..opts };
        let at_once = beam_search(&log_probs, narrow).unwrap();
        let mut search = BeamSearch::new(classes, narrow).unwrap();
        let cut = rng.below(frames + 1);
        search.push(&log_probs.narrow(0, 0, cut).unwrap()).unwrap();
        search.push(&log_probs.narrow(0, cut, frames - cut).unwrap()).unwrap();
        prop_assert_eq!(search.finish().unwrap(), at_once);
    }
}

#[test]
fn a_lexicon_admits_its_entries_only() {
    /// Words 1 2 and 2 2 3, and nothing else.
    struct Lexicon;
    const WORDS: [&[u32]; 2] = [&[1, 2], &[2, 2, 3]];
    impl LanguageModel for Lexicon {
        type State = Vec<u32>;
        fn start(&self) -> Result<Vec<u32>> {
            Ok(vec![])
        }
        fn score(&self, state: &Vec<u32>, token: u32) -> Result<f64> {
            let longer = [&state[..], &[token]].concat();
            let fits = WORDS.iter().any(|word| word.starts_with(&longer));
            Ok(if fits { 0.0 } else { f64::NEG_INFINITY })
        }
        fn advance(&self, state: &Vec<u32>, token: u32) -> Result<Vec<u32>> {
            Ok([&state[..], &[token]].concat())
        }
        fn end(&self, state: &Vec<u32>) -> Result<f64> {
            let ends = WORDS.contains(&&state[..]);
            Ok(if ends { 0.0 } else { f64::NEG_INFINITY })
        }
    }
    let mut rng = Rng::new(3);
    let values = distribution(&mut rng, 6, 4, 1.0, 0.0);
    let log_probs = tensor(&values, 4);
    let found = beam_search_with(&log_probs, &Lexicon, exact(0)).unwrap();
    let mut tokens: Vec<Vec<u32>> = found.into_iter().map(|h| h.tokens).collect();
    tokens.sort();
    assert_eq!(tokens, WORDS);
    let mut search = BeamSearch::with_language_model(4, Lexicon, exact(0)).unwrap();
    search.push(&log_probs).unwrap();
    // Beginnings of words count while the text goes on.
    assert_eq!(search.hypotheses().unwrap().len(), 6);
    assert_eq!(search.finish().unwrap().len(), 2);
}

/// (T, N, C) of a dtype on a device, and the same values in f64.
fn batch(dtype: DType, device: &Device) -> (Tensor, Vec<f64>) {
    let values = distribution(&mut Rng::new(21), 12 * 3, 5, 4.0, 0.0);
    let tensor = tensors::floats(&values, &[12, 3, 5], dtype, device);
    (tensor, tensors::rounded(&values, dtype))
}

const LENGTHS: [usize; 3] = [12, 0, 7];

#[test]
fn every_dtype_view_and_layout_gives_the_figures_of_one_item() {
    for device in devices() {
        for dtype in tensors::FLOATS.into_iter().filter(|&d| holds(&device, d)) {
            let (log_probs, values) = batch(dtype, &device);
            let opts = BeamOptions {
                blank: 2,
                beam_width: 8,
                n_best: 3,
                ..Default::default()
            };
            let mut beams = Vec::new();
            let mut greedy = Vec::new();
            for (item, &length) in LENGTHS.iter().enumerate() {
                let rows = (0..length).flat_map(|t| &values[(t * 3 + item) * 5..][..5]);
                let rows: Vec<f64> = rows.copied().collect();
                if length == 0 {
                    let empty = vec![Hypothesis::default()];
                    beams.push(empty.clone());
                    greedy.extend(empty);
                    continue;
                }
                beams.push(beam_search(&tensor(&rows, 5), opts).unwrap());
                let opts = GreedyOptions {
                    blank: 2,
                    ..Default::default()
                };
                greedy.extend(greedy_decode_batch(&tensor(&rows, 5), length, opts).unwrap());
            }
            for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
                let contiguous = common::in_layout(&log_probs, layout);
                let views = VIEWS
                    .iter()
                    .map(|v| (v.view)(&(v.store)(&contiguous).unwrap()).unwrap());
                for input in std::iter::once(contiguous.clone()).chain(views) {
                    let beam = BeamOptions { layout, ..opts };
                    let got = beam_search_batch(&input, LENGTHS, beam).unwrap();
                    assert_eq!(got, beams, "{dtype:?}");
                    let opts = GreedyOptions {
                        blank: 2,
                        layout,
                        ..Default::default()
                    };
                    let got = greedy_decode_batch(&input, LENGTHS, opts).unwrap();
                    assert_eq!(got, greedy, "{dtype:?}");
                }
            }
        }
    }
}

#[test]
fn greedy_reads_the_best_path() {
    let mut rng = Rng::new(33);
    for _ in 0..50 {
        let (frames, classes) = (1 + rng.below(30), 1 + rng.below(5));
        let blank = rng.below(classes);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.0);
        let opts = GreedyOptions {
            blank,
            ..Default::default()
        };
        let got = &greedy_decode_batch(&tensor(&values, classes), frames, opts).unwrap()[0];
        let best = |row: &[f64]| {
            (0..classes)
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap()
        };
        let path: Vec<usize> = values.chunks_exact(classes).map(best).collect();
        let tokens: Vec<usize> = got.tokens.iter().map(|&token| token as usize).collect();
        assert_eq!(tokens, collapse(&path, blank));
        assert_eq!(path_of(got, frames, blank), path);
        let score: f64 = values.chunks_exact(classes).map(|row| row[best(row)]).sum();
        assert!((got.score - score).abs() < 1e-12);
        for span in &got.spans {
            let rows = values.chunks_exact(classes);
            let rows = rows.skip(span.start).take(span.range().len());
            let sum: f64 = rows.map(|row| row[span.token as usize]).sum();
            let mean = sum / span.range().len() as f64;
            assert!((f64::from(span.score) - mean).abs() < 1e-6, "{span:?}");
        }
    }
}

#[test]
fn a_frame_of_nothing_has_no_labelling() {
    let values = vec![f64::NEG_INFINITY; 3 * 4];
    assert_eq!(beam_search(&tensor(&values, 4), exact(0)).unwrap(), []);
    let greedy = greedy_decode_batch(&tensor(&values, 4), 3, GreedyOptions::default()).unwrap();
    assert_eq!(greedy[0].score, f64::NEG_INFINITY);
}

#[test]
fn padding_is_never_read() {
    let (log_probs, mut values) = batch(DType::F64, &Device::Cpu);
    for (item, &length) in LENGTHS.iter().enumerate() {
        for t in length..12 {
            values[(t * 3 + item) * 5..][..5].fill(f64::NAN);
        }
    }
    let padded = tensors::floats(&values, &[12, 3, 5], DType::F64, &Device::Cpu);
    let opts = BeamOptions::default();
    assert_eq!(
        beam_search_batch(&padded, LENGTHS, opts).unwrap(),
        beam_search_batch(&log_probs, LENGTHS, opts).unwrap()
    );
    greedy_decode_batch(&padded, LENGTHS, GreedyOptions::default()).unwrap();
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

#[test]
fn wrong_input_is_an_error_that_names_it() {
    let (log_probs, mut values) = batch(DType::F32, &Device::Cpu);
    let (beam, greedy) = (BeamOptions::default(), GreedyOptions::default());
    let one = log_probs.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
    fails(
        beam_search(&log_probs, beam),
        &["beam_search", "[12, 3, 5]", "(T, C)"],
    );
    let integers = one.to_dtype(DType::U32).unwrap();
    fails(beam_search(&integers, beam), &["beam_search", "U32"]);
    fails(
        greedy_decode_batch(&integers, 12, greedy),
        &["greedy_decode_batch", "U32"],
    );
    fails(
        greedy_decode_batch(&log_probs, [12, 13, 1], greedy),
        &["input_lengths[1] = 13", "12"],
    );
    fails(
        greedy_decode_batch(&log_probs, [12, 1], greedy),
        &["2 entries", "N = 3"],
    );
    fails(
        beam_search_batch(&log_probs, [12, -1, 1], beam),
        &["input_lengths[1] = -1"],
    );
    let wrong = |change: fn(&mut BeamOptions)| {
        let mut opts = BeamOptions::default();
        change(&mut opts);
        beam_search(&one, opts)
    };
    fails(wrong(|o| o.blank = 5), &["blank = 5", "C = 5"]);
    fails(wrong(|o| o.beam_width = 0), &["beam_width = 0"]);
    fails(wrong(|o| o.n_best = 0), &["n_best = 0"]);
    fails(wrong(|o| o.tokens_per_frame = 0), &["tokens_per_frame = 0"]);
    fails(
        wrong(|o| o.token_threshold = f64::NAN),
        &["token_threshold"],
    );
    fails(
        wrong(|o| o.token_threshold = 0.05),
        &["token_threshold = 0.05", "log-probability"],
    );
    fails(wrong(|o| o.beam_threshold = -1.0), &["beam_threshold = -1"]);
    fails(
        wrong(|o| o.relative_token_threshold = -0.5),
        &["relative_token_threshold = -0.5", "at least 0"],
    );
    fails(
        wrong(|o| o.relative_token_threshold = f64::NAN),
        &["relative_token_threshold = NaN"],
    );
    fails(wrong(|o| o.lm_weight = f64::INFINITY), &["lm_weight = inf"]);
    fails(
        wrong(|o| o.lm_weight = 1e308),
        &["lm_weight = 1", "it must be from 0 to 1e100"],
    );
    fails(wrong(|o| o.token_bonus = f64::NAN), &["token_bonus = NaN"]);
    for bad in [f64::NAN, f64::INFINITY] {
        values[(6 * 3 + 2) * 5 + 4] = bad;
        let input = tensors::floats(&values, &[12, 3, 5], DType::F32, &Device::Cpu);
        let expected = ["item 2", "frame 6", "class 4", &bad.to_string()];
        fails(beam_search_batch(&input, LENGTHS, beam), &expected);
        fails(greedy_decode_batch(&input, LENGTHS, greedy), &expected);
    }
    let mut search = BeamSearch::new(4, beam).unwrap();
    fails(search.push(&one), &["C = 5", "4"]);
    assert!(BeamSearch::new(0, beam).is_err());
}

#[test]
fn a_language_model_that_fails_ends_the_search() {
    struct Broken(f64);
    impl LanguageModel for Broken {
        type State = ();
        fn start(&self) -> Result<()> {
            Ok(())
        }
        fn score(&self, _: &(), _: u32) -> Result<f64> {
            Ok(self.0)
        }
        fn advance(&self, _: &(), _: u32) -> Result<()> {
            candle_core::bail!("no more")
        }
    }
    let (log_probs, _) = batch(DType::F32, &Device::Cpu);
    let opts = BeamOptions::default();
    let run = |score| beam_search_batch_with(&log_probs, LENGTHS, &Broken(score), opts);
    fails(run(f64::NAN), &["language model", "NaN", "token"]);
    fails(run(-1.0), &["no more"]);
    // Its max_score is 0.
    fails(run(4.0), &["gave 4", "its max_score is 0"]);
}

#[test]
fn a_score_above_the_bound_of_its_state_names_that_bound() {
    struct Bounded;
    impl LanguageModel for Bounded {
        type State = ();
        fn start(&self) -> Result<()> {
            Ok(())
        }
        fn score(&self, _: &(), _: u32) -> Result<f64> {
            Ok(4.0)
        }
        fn advance(&self, _: &(), _: u32) -> Result<()> {
            Ok(())
        }
        fn max_score(&self) -> f64 {
            5.0
        }
        fn max_score_in(&self, _: &()) -> f64 {
            1.0
        }
    }
    let (log_probs, _) = batch(DType::F32, &Device::Cpu);
    let found = beam_search_batch_with(&log_probs, LENGTHS, &Bounded, BeamOptions::default());
    fails(found, &["gave 4", "its max_score_in for this state is 1"]);
}

/// A model that allows token 1 alone, and fails if it is asked for what the search has to leave out.
struct OneToken {
    /// The tokens that it lists; `None` if any may follow.
    listed: Option<Vec<u32>>,
    /// Whether it has a score for other tokens: that they are forbidden.
    forbids: bool,
}

impl LanguageModel for OneToken {
    type State = ();

    fn start(&self) -> Result<()> {
        Ok(())
    }

    fn score(&self, _: &(), token: u32) -> Result<f64> {
        match token {
            1 => Ok(0.0),
            _ if self.forbids => Ok(f64::NEG_INFINITY),
            _ => candle_core::bail!("asked for a score of token {token}"),
        }
    }

    fn advance(&self, _: &(), token: u32) -> Result<()> {
        match token {
            1 => Ok(()),
            _ => candle_core::bail!("asked for the state behind token {token}"),
        }
    }

    fn next_tokens(&self, _: &(), _most: usize, tokens: &mut Vec<u32>) -> bool {
        tokens.extend(self.listed.iter().flatten());
        self.listed.is_some()
    }
}

#[test]
fn a_model_is_not_asked_for_tokens_that_cannot_enter_the_beam() {
    let found = |p: &[f64], model: &OneToken, opts| -> Vec<Vec<u32>> {
        let values: Vec<f64> = p.iter().map(|p| p.ln()).collect();
        let found = beam_search_with(&tensor(&values, p.len()), model, opts).unwrap();
        found.into_iter().map(|found| found.tokens).collect()
    };
    let mut model = OneToken {
        listed: None,
        forbids: false,
    };
    // A token of probability 0, and one less probable than the last prefix of a full beam.
    let narrow = BeamOptions {
        beam_width: 1,
        ..Default::default()
    };
    let empty: [u32; 0] = [];
    assert_eq!(found(&[0.5, 0.25, 0.25], &model, narrow), [empty]);
    assert_eq!(found(&[0.0, 1.0, 0.0], &model, exact(0)), [[1]]);
    // Forbidden tokens enter no beam, however wide.
    model.forbids = true;
    assert_eq!(
        found(&[0.25, 0.5, 0.25], &model, exact(0)),
        [vec![1], vec![]]
    );
    // In a list: a token twice, the blank, and one that is no class.
    let model = OneToken {
        listed: Some(vec![1, 9, 1, 0]),
        forbids: false,
    };
    let p = [0.125, 0.375, 0.125, 0.125, 0.125, 0.125];
    assert_eq!(found(&p, &model, exact(0)), [vec![1], vec![]]);
    // In a list: a token of probability 0.
    let model = OneToken {
        listed: Some(vec![1, 2]),
        forbids: false,
    };
    let p = [0.125, 0.375, 0.0, 0.25, 0.25];
    assert_eq!(found(&p, &model, exact(0)), [vec![1], vec![]]);
}

/// Advances all prefixes in one call, which it counts, or too few of them.
struct AtOnce<'a> {
    model: &'a Bigram,
    calls: std::sync::atomic::AtomicUsize,
    missing: usize,
}

impl LanguageModel for AtOnce<'_> {
    type State = u32;

    fn start(&self) -> Result<u32> {
        self.model.start()
    }

    fn score(&self, state: &u32, token: u32) -> Result<f64> {
        self.model.score(state, token)
    }

    fn advance(&self, _state: &u32, _token: u32) -> Result<u32> {
        candle_core::bail!("one prefix alone")
    }

    fn advance_all(&self, prefixes: &[(&u32, u32)]) -> Result<Vec<u32>> {
        assert!(!prefixes.is_empty());
        self.calls
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let states = prefixes.iter().skip(self.missing);
        states
            .map(|(state, token)| self.model.advance(state, *token))
            .collect()
    }

    fn end(&self, state: &u32) -> Result<f64> {
        self.model.end(state)
    }

    fn max_score(&self) -> f64 {
        self.model.max_score()
    }
}

#[test]
fn a_model_is_asked_once_a_frame_for_all_new_prefixes() {
    let (frames, classes) = (30, 6);
    let opts = BeamOptions {
        beam_width: 12,
        n_best: 12,
        ..Default::default()
    };
    let mut rng = Rng::new(23);
    let input = tensor(&distribution(&mut rng, frames, classes, 2.0, 0.0), classes);
    let bigram = Bigram::random(&mut rng, classes, false);
    let at_once = |missing| AtOnce {
        model: &bigram,
        calls: 0.into(),
        missing,
    };
    let want = beam_search_with(&input, &bigram, opts).unwrap();
    let model = at_once(0);
    assert_eq!(beam_search_with(&input, &model, opts).unwrap(), want);
    let calls = model.calls.into_inner();
    assert!((2..=frames).contains(&calls), "{calls}");

    // Through a pointer, and under hotwords.
    let vocabulary = Vocabulary::from_tokens(["<blank>", "a", "b", "c", "d", "e"]).unwrap();
    let none: [(&str, f64); 0] = [];
    let hotwords = Hotwords::new(&vocabulary, none, Box::new(at_once(0))).unwrap();
    assert_eq!(beam_search_with(&input, &hotwords, opts).unwrap(), want);

    let mut search = BeamSearch::with_language_model(classes, at_once(1), opts).unwrap();
    assert!(search.push(&input).is_err());
    assert_eq!(search.frames(), 0);
    let error = beam_search_with(&input, &at_once(1), opts)
        .unwrap_err()
        .to_string();
    assert!(error.contains("advance_all gave"), "{error}");
}

#[test]
fn frames_may_be_pushed_again_when_the_language_model_failed() {
    /// Fails at the call of that number, counted down.
    struct Fails<'a> {
        model: &'a Bigram,
        calls: Cell<i64>,
        in_score: bool,
    }
    impl Fails<'_> {
        fn call(&self) -> Result<()> {
            self.calls.set(self.calls.get() - 1);
            match self.calls.get() {
                0 => candle_core::bail!("for once"),
                _ => Ok(()),
            }
        }
    }
    impl LanguageModel for Fails<'_> {
        type State = u32;
        fn start(&self) -> Result<u32> {
            self.model.start()
        }
        fn score(&self, state: &u32, token: u32) -> Result<f64> {
            if self.in_score {
                self.call()?;
            }
            self.model.score(state, token)
        }
        fn advance(&self, state: &u32, token: u32) -> Result<u32> {
            if !self.in_score {
                self.call()?;
            }
            self.model.advance(state, token)
        }
        fn max_score(&self) -> f64 {
            self.model.most
        }
    }
    let opts = BeamOptions {
        beam_width: 8,
        n_best: 8,
        ..Default::default()
    };
    let mut failed = 0;
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let classes = 4;
        let input = tensor(&distribution(&mut rng, 12, classes, 2.0, 0.0), classes);
        let bigram = Bigram::random(&mut rng, classes, false);
        let run = |calls, in_score| {
            let model = Fails {
                model: &bigram,
                calls: Cell::new(calls),
                in_score,
            };
            let mut search = BeamSearch::with_language_model(classes, model, opts).unwrap();
            let mut errors = 0;
            while search.frames() < 12 {
                let rest = input.narrow(0, search.frames(), 12 - search.frames());
                errors += usize::from(search.push(&rest.unwrap()).is_err());
            }
            (search.finish().unwrap(), errors)
        };
        for in_score in [false, true] {
            let (got, errors) = run(3 + seed as i64, in_score);
            assert_eq!(got, run(-1, in_score).0, "{seed} {in_score}");
            failed += errors;
        }
    }
    assert!(failed > 100);
}

/// Words "1 2" and "3", in any number, over class 4 as the space.
struct Words;

impl LanguageModel for Words {
    type State = u8;
    fn start(&self) -> Result<u8> {
        Ok(0)
    }
    fn score(&self, state: &u8, token: u32) -> Result<f64> {
        let allowed = matches!((state, token), (0, 1 | 3) | (1, 2) | (2, 4));
        Ok(if allowed { 0.0 } else { f64::NEG_INFINITY })
    }
    fn advance(&self, _: &u8, token: u32) -> Result<u8> {
        Ok([9, 1, 2, 2, 0][token as usize])
    }
    fn end(&self, state: &u8) -> Result<f64> {
        Ok(if *state == 2 { -0.5 } else { f64::NEG_INFINITY })
    }
}

#[test]
fn an_utterance_cut_off_in_a_word_ends_as_the_option_says() {
    // One frame is not enough for "1 2", and "3" is impossible.
    let never = f64::NEG_INFINITY;
    let cut = tensor(&[never, 0.0, never, never, never], 5);
    let with = |end, input: &Tensor| {
        let opts = BeamOptions { end, ..exact(0) };
        beam_search_with(input, &Words, opts).unwrap()
    };
    assert!(with(End::Required, &cut).is_empty());
    for end in [End::Preferred, End::Ignored] {
        let found = with(end, &cut);
        assert_eq!((found.len(), found[0].tokens.as_slice()), (1, &[1][..]));
        assert_eq!(found[0].lm_score, 0.0);
    }
    // Where a word can end, unfinished ones are left out by all but Ignored.
    let whole = tensor(&[-(5f64.ln()); 10], 5);
    let tokens = |end| -> Vec<Vec<u32>> {
        let found = with(end, &whole);
        found.into_iter().map(|found| found.tokens).collect()
    };
    let want = [vec![3], vec![1, 2]];
    for end in [End::Required, End::Preferred] {
        let mut found = tokens(end);
        found.sort_by_key(Vec::len);
        assert_eq!(found, want);
        assert!(with(end, &whole).iter().all(|found| found.lm_score == -0.5));
    }
    // A search goes on with the next utterance, and ends each as the option says.
    let opts = BeamOptions {
        end: End::Required,
        ..exact(0)
    };
    let mut search = BeamSearch::with_language_model(5, Words, opts).unwrap();
    for _ in 0..2 {
        search.push(&cut).unwrap();
        assert!(search.finish().unwrap().is_empty());
        search.reset().unwrap();
        search.push(&whole).unwrap();
        assert_eq!(search.finish().unwrap(), with(End::Required, &whole));
        search.reset().unwrap();
    }
    let open = tokens(End::Ignored);
    assert!(open.contains(&vec![1]) && open.contains(&vec![]) && open.contains(&vec![3, 4]));
}

#[test]
fn a_model_may_be_chosen_at_run_time() {
    let mut rng = Rng::new(8);
    let input = tensor(&distribution(&mut rng, 9, 5, 2.0, 0.0), 5);
    let opts = BeamOptions {
        n_best: 5,
        ..Default::default()
    };
    let want = beam_search_with(&input, &Words, opts).unwrap();
    let chosen: Box<dyn LanguageModel<State = u8>> = Box::new(Words);
    assert_eq!(beam_search_with(&input, &chosen, opts).unwrap(), want);
    assert_eq!(beam_search_with(&input, &*chosen, opts).unwrap(), want);
    let mut search = BeamSearch::with_language_model(5, chosen, opts).unwrap();
    search.push(&input).unwrap();
    assert_eq!(search.finish().unwrap(), want);
    // One model for several streams, and for a batch.
    let shared: Arc<dyn LanguageModel<State = u8> + Send + Sync> = Arc::new(Words);
    let streams = [(); 2].map(|()| BeamSearch::with_language_model(5, shared.clone(), opts));
    for mut search in streams.map(Result::unwrap) {
        search.push(&input).unwrap();
        assert_eq!(search.finish().unwrap(), want);
    }
    let batch = beam_search_batch_with(&input, input.dim(0).unwrap(), &shared, opts);
    assert_eq!(batch.unwrap(), [want]);
}

#[test]
fn suppressed_classes_are_in_no_hypothesis() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (frames, classes) = (5, 4);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let suppress = [1u32, 3];
        let suppress = &suppress[..seed as usize % 3];
        let opts = BeamOptions {
            suppress,
            ..exact(0)
        };
        let got = beam_search(&tensor(&values, classes), opts).unwrap();
        let allowed = |tokens: &[u32]| !tokens.iter().any(|token| suppress.contains(token));
        let want: Vec<Hypothesis> = beam_search(&tensor(&values, classes), exact(0))
            .unwrap()
            .into_iter()
            .filter(|found| allowed(&found.tokens))
            .collect();
        // All labellings are in both beams, so the others have the same scores.
        assert_eq!(got, want, "{seed}");
        assert_eq!(
            got.len() < labellings(&values, classes, 0).len(),
            !suppress.is_empty()
        );
    }
    // In a narrow beam, with few tokens a frame and with a model: as if the class had no probability.
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let (frames, classes) = (30, 6);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.0);
        let mut without = values.clone();
        without
            .iter_mut()
            .skip(2)
            .step_by(classes)
            .for_each(|x| *x = f64::NEG_INFINITY);
        let opts = BeamOptions {
            beam_width: 1 + seed as usize % 3,
            tokens_per_frame: [1, 2, usize::MAX][seed as usize / 3 % 3],
            n_best: 3,
            ..Default::default()
        };
        let (with, bare) = (tensor(&values, classes), tensor(&without, classes));
        let unchecked = BeamOptions {
            normalised: false,
            ..opts
        };
        let suppressed = BeamOptions {
            suppress: &[2],
            ..opts
        };
        let want = beam_search(&bare, unchecked).unwrap();
        assert_eq!(beam_search(&with, suppressed).unwrap(), want);
        let bigram = Bigram::random(&mut rng, classes, false);
        let want = beam_search_with(&bare, &bigram, unchecked).unwrap();
        assert_eq!(beam_search_with(&with, &bigram, suppressed).unwrap(), want);
        let mut search = BeamSearch::with_language_model(classes, &bigram, suppressed).unwrap();
        search.push(&with).unwrap();
        assert_eq!(search.finish().unwrap(), want);
    }
    let (log_probs, _) = batch(DType::F32, &Device::Cpu);
    for class in [0, 5, u32::MAX] {
        let opts = BeamOptions {
            suppress: &[1, class],
            ..Default::default()
        };
        let text = format!("suppress has {class}");
        fails(
            beam_search_batch(&log_probs, LENGTHS, opts),
            &["beam_search_batch", &text],
        );
        fails(BeamSearch::new(5, opts).map(drop), &["BeamSearch", &text]);
    }
}

#[test]
fn stable_tokens_stay_in_every_later_hypothesis() {
    let mut stable_ones = 0;
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let (frames, classes) = (60, 5);
        let input = tensor(&distribution(&mut rng, frames, classes, 4.0, 0.0), classes);
        let opts = BeamOptions {
            beam_width: 6,
            n_best: 6,
            ..Default::default()
        };
        let mut search = BeamSearch::new(classes, opts).unwrap();
        assert_eq!((search.stable_tokens(), search.trailing_blanks()), (0, 0));
        let mut stable: Vec<u32> = Vec::new();
        for t in 0..frames {
            search.push(&input.narrow(0, t, 1).unwrap()).unwrap();
            let found = search.hypotheses().unwrap();
            for later in &found {
                assert!(later.tokens.starts_with(&stable), "{seed} {t}");
            }
            let count = search.stable_tokens();
            assert!(count >= stable.len());
            stable = found[0].tokens[..count].to_vec();
            // It is the longest: the next token is not the same in all.
            let next = |found: &Hypothesis| found.tokens.get(count).copied();
            assert!(
                found
                    .iter()
                    .any(|other| next(other).is_none() || next(other) != next(&found[0]))
            );
            let last = found[0].spans.last().map_or(0, |span| span.end);
            assert_eq!(search.trailing_blanks(), t + 1 - last);
        }
        stable_ones += stable.len();
        // Started again, it is a new search.
        search.reset().unwrap();
        assert_eq!(
            (search.frames(), search.hypotheses().unwrap().len()),
            (0, 1)
        );
        search.push(&input).unwrap();
        assert_eq!(search.finish().unwrap(), beam_search(&input, opts).unwrap());
    }
    assert!(stable_ones > 100, "{stable_ones}");
}

/// The tree of prefixes drops what no hypothesis needs at 65536 nodes; flat emissions make at least 40 a frame.
#[test]
fn stable_tokens_and_a_new_utterance_outlive_what_the_tree_drops() {
    let mut rng = Rng::new(31);
    let (frames, classes) = (4000, 30);
    let input = tensor(&distribution(&mut rng, frames, classes, 1.0, 0.0), classes);
    let opts = BeamOptions {
        beam_width: 60,
        n_best: 60,
        ..Default::default()
    };
    let whole = beam_search(&input, opts).unwrap();
    let mut search = BeamSearch::new(classes, opts).unwrap();
    for _ in 0..2 {
        let mut stable: Vec<u32> = Vec::new();
        for t in (0..frames).step_by(100) {
            search.push(&input.narrow(0, t, 100).unwrap()).unwrap();
            let found = search.hypotheses().unwrap();
            assert!(found.iter().all(|found| found.tokens.starts_with(&stable)));
            let count = search.stable_tokens();
            assert!(count >= stable.len(), "{t}");
            stable = found[0].tokens[..count].to_vec();
            assert!(found.iter().all(|found| found.tokens.starts_with(&stable)));
            let last = found[0].spans.last().map_or(0, |span| span.end);
            assert_eq!(search.trailing_blanks(), t + 100 - last);
        }
        assert!(stable.len() > 1000, "{}", stable.len());
        assert_eq!(search.finish().unwrap(), whole);
        search.reset().unwrap();
        assert_eq!((search.frames(), search.stable_tokens()), (0, 0));
    }
}

/// A model that is asked for every token, and has a score for the end alone.
struct OnlyEnd(f64);

impl LanguageModel for OnlyEnd {
    type State = ();

    fn start(&self) -> Result<()> {
        Ok(())
    }

    fn score(&self, _: &(), _: u32) -> Result<f64> {
        Ok(0.0)
    }

    fn advance(&self, _: &(), _: u32) -> Result<()> {
        Ok(())
    }

    fn end(&self, _: &()) -> Result<f64> {
        Ok(self.0)
    }
}

#[test]
fn a_score_for_the_end_that_is_no_score_is_an_error_where_it_counts() {
    let input = tensor(&[-(3f64.ln()); 6], 3);
    let with = |score, end, lm_weight| {
        let opts = BeamOptions {
            end,
            lm_weight,
            ..Default::default()
        };
        beam_search_with(&input, &OnlyEnd(score), opts)
    };
    for score in [f64::NAN, f64::INFINITY] {
        for end in [End::Required, End::Preferred] {
            let error = with(score, end, 1.0).unwrap_err().to_string();
            assert!(error.contains("for the end of the text"), "{error}");
            // With a weight of 0 the model is not asked.
            assert!(!with(score, end, 0.0).unwrap().is_empty());
        }
        assert!(!with(score, End::Ignored, 1.0).unwrap().is_empty());
    }
    assert!(
        with(f64::NEG_INFINITY, End::Required, 1.0)
            .unwrap()
            .is_empty()
    );
    assert!(
        !with(f64::NEG_INFINITY, End::Preferred, 1.0)
            .unwrap()
            .is_empty()
    );
}
