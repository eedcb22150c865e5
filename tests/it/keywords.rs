//! Keyword spotting: against the enumeration of all paths of all segments, and in every form of input.

use crate::common::oracle::collapse;
use crate::common::views::VIEWS;
use crate::common::{Rng, tensors};
use crate::decode::{distribution, tensor};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    GreedyOptions, InputKind, InputLayout, KeywordHit, SpotOptions, greedy_decode, spot_keywords,
    spot_keywords_batch,
};
use proptest::prelude::*;

/// A segment with its score.
type Segment = (f64, usize, usize);

/// An utterance whose entries need not be normalised.
struct Case {
    values: Vec<f64>,
    classes: usize,
    blank: usize,
}

impl Case {
    /// Entries on a grid, so that there are many ties and sums are exact; some are −inf.
    fn on_grid(rng: &mut Rng, frames: usize, classes: usize, steps: usize) -> Self {
        let value = |rng: &mut Rng| match rng.below(12) {
            0 => f64::NEG_INFINITY,
            _ => -0.25 * rng.below(steps) as f64,
        };
        Self {
            values: (0..frames * classes).map(|_| value(rng)).collect(),
            classes,
            blank: rng.below(classes),
        }
    }

    fn random(rng: &mut Rng, frames: usize, classes: usize) -> Self {
        Self {
            values: distribution(rng, frames, classes, 3.0, 0.05),
            classes,
            blank: rng.below(classes),
        }
    }

    fn frames(&self) -> usize {
        self.values.len() / self.classes
    }

    fn ratio(&self, frame: usize, class: usize) -> f64 {
        let row = &self.values[frame * self.classes..][..self.classes];
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match row[class] {
            f64::NEG_INFINITY => f64::NEG_INFINITY,
            entry => entry - largest,
        }
    }

    fn phrase(&self, rng: &mut Rng, most: usize) -> Vec<u32> {
        let length = 1 + rng.below(most);
        let labels = rng.target(length, self.classes, self.blank, 0.3);
        labels.into_iter().map(|label| label as u32).collect()
    }

    /// All segments, by the enumeration of their paths.
    fn by_enumeration(&self, phrase: &[u32]) -> Vec<Segment> {
        let (first, last) = (phrase[0] as usize, phrase[phrase.len() - 1] as usize);
        let phrase: Vec<usize> = phrase.iter().map(|&label| label as usize).collect();
        let mut found = Vec::new();
        for start in 0..self.frames() {
            for end in start + 1..=self.frames() {
                let length = end - start;
                let mut best = f64::NEG_INFINITY;
                for number in 0..self.classes.pow(length as u32) {
                    let digit = |at: usize| number / self.classes.pow(at as u32) % self.classes;
                    let path: Vec<usize> = (0..length).map(digit).collect();
                    let ends = path[0] == first && path[length - 1] == last;
                    if ends && collapse(&path, self.blank) == phrase {
                        let ratios = path.iter().enumerate();
                        let ratios = ratios.map(|(at, &class)| self.ratio(start + at, class));
                        best = best.max(ratios.sum());
                    }
                }
                found.push((best, start, end));
            }
        }
        found
    }

    /// The same by a table for each start.
    fn by_tables(&self, phrase: &[u32]) -> Vec<Segment> {
        let mut symbols = vec![phrase[0] as usize];
        for &label in &phrase[1..] {
            symbols.extend([self.blank, label as usize]);
        }
        let mut found = Vec::new();
        for start in 0..self.frames() {
            let mut states = vec![f64::NEG_INFINITY; symbols.len()];
            for frame in start..self.frames() {
                let before = states.clone();
                for at in 0..symbols.len() {
                    let mut best = before[at];
                    if at > 0 {
                        best = best.max(before[at - 1]);
                    }
                    if at > 1 && symbols[at] != self.blank && symbols[at] != symbols[at - 2] {
                        best = best.max(before[at - 2]);
                    }
                    if at == 0 && frame == start {
                        best = 0.0;
                    }
                    states[at] = best + self.ratio(frame, symbols[at]);
                }
                found.push((states[symbols.len() - 1], start, frame + 1));
            }
        }
        found
    }

    fn spot(&self, phrases: &[Vec<u32>], threshold: f64) -> Vec<Vec<KeywordHit>> {
        let opts = SpotOptions {
            blank: self.blank,
            normalised: false,
            threshold,
            ..Default::default()
        };
        spot_keywords(&tensor(&self.values, self.classes), phrases, opts).unwrap()
    }

    /// The spans of a hit are a path with its score.
    fn check_spans(&self, hit: &KeywordHit, phrase: &[u32]) {
        let mut path = vec![self.blank; hit.end - hit.start];
        for span in &hit.spans {
            let frames = span.start - hit.start..span.end - hit.start;
            assert!(!frames.is_empty() && path[frames.clone()].iter().all(|&c| c == self.blank));
            path[frames].fill(span.token as usize);
            let entries = span.range();
            let entries = entries.map(|t| self.values[t * self.classes + span.token as usize]);
            let mean = entries.sum::<f64>() / span.frames() as f64;
            assert!((f64::from(span.score) - mean).abs() < 1e-5 * mean.abs().max(1.0));
        }
        let tokens: Vec<u32> = hit.spans.iter().map(|span| span.token).collect();
        assert_eq!(tokens, phrase);
        assert_eq!(
            (hit.spans[0].start, hit.spans[hit.spans.len() - 1].end),
            (hit.start, hit.end)
        );
        let read = collapse(&path, self.blank);
        let read: Vec<u32> = read.into_iter().map(|class| class as u32).collect();
        assert_eq!(read, phrase);
        let ratios = path.iter().enumerate();
        let score: f64 = ratios.map(|(at, &c)| self.ratio(hit.start + at, c)).sum();
        assert!((score - hit.score).abs() < 1e-9 * score.abs().max(1.0));
        assert_eq!(hit.per_token(), hit.score / phrase.len() as f64);
    }
}

/// The segments that the documentation says are hits.
fn chosen(mut segments: Vec<Segment>, phrase: &[u32], threshold: f64) -> Vec<Segment> {
    let gap = usize::from(phrase[0] == phrase[phrase.len() - 1]);
    let least = threshold * phrase.len() as f64;
    segments.retain(|&(score, ..)| score > f64::NEG_INFINITY && score >= least);
    segments.sort_by(|a, b| {
        let (score, start) = (b.0.total_cmp(&a.0), a.1.cmp(&b.1));
        score.then(start).then(b.2.cmp(&a.2))
    });
    let mut taken: Vec<Segment> = Vec::new();
    for (score, start, end) in segments {
        let apart = |other: &Segment| end + gap <= other.1 || other.2 + gap <= start;
        if taken.iter().all(apart) {
            taken.push((score, start, end));
        }
    }
    taken.sort_by_key(|segment| segment.1);
    taken
}

fn thresholds() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![0.0, -0.25, -1.0, -5.0, f64::NEG_INFINITY])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn hits_are_those_of_the_enumeration(
        seed in any::<u64>(),
        frames in 1usize..=6,
        classes in 2usize..=3,
        threshold in thresholds(),
        grid: bool,
    ) {
        let mut rng = Rng::new(seed);
        let case = match grid {
            true => Case::on_grid(&mut rng, frames, classes, 4),
            false => Case::random(&mut rng, frames, classes),
        };
        let phrase = case.phrase(&mut rng, 3);
        let got = case.spot(std::slice::from_ref(&phrase), threshold).remove(0);
        let want = chosen(case.by_enumeration(&phrase), &phrase, threshold);
        let segments: Vec<_> = got.iter().map(|hit| (hit.score, hit.start, hit.end)).collect();
        prop_assert_eq!(segments, want, "{:?}", phrase);
        got.iter().for_each(|hit| case.check_spans(hit, &phrase));
    }

    #[test]
    fn many_hits_are_those_of_all_segments(
        seed in any::<u64>(),
        frames in 1usize..=100,
        classes in 2usize..=5,
        threshold in thresholds(),
        steps in 2usize..=12,
        grid: bool,
    ) {
        let mut rng = Rng::new(seed);
        let case = match grid {
            true => Case::on_grid(&mut rng, frames, classes, steps),
            false => Case::random(&mut rng, frames, classes),
        };
        let phrases: Vec<Vec<u32>> = (0..4).map(|_| case.phrase(&mut rng, 5)).collect();
        for (got, phrase) in case.spot(&phrases, threshold).iter().zip(&phrases) {
            let want = chosen(case.by_tables(phrase), phrase, threshold);
            let segments: Vec<_> = got.iter().map(|hit| (hit.score, hit.start, hit.end)).collect();
            prop_assert_eq!(segments, want, "{:?}", phrase);
            got.iter().for_each(|hit| case.check_spans(hit, phrase));
        }
    }
}

#[test]
fn what_greedy_decoding_reads_scores_0() {
    let mut rng = Rng::new(3);
    let values = distribution(&mut rng, 200, 5, 4.0, 0.0);
    let log_probs = tensor(&values, 5);
    let best = greedy_decode(&log_probs, GreedyOptions::default()).unwrap();
    let mut phrases = Vec::new();
    let mut wanted = Vec::new();
    for first in (0..best.tokens.len() - 4).step_by(3) {
        phrases.push(best.tokens[first..first + 4].to_vec());
        wanted.push(best.spans[first].start..best.spans[first + 3].end);
    }
    let opts = SpotOptions {
        threshold: 0.0,
        ..Default::default()
    };
    let found = spot_keywords(&log_probs, &phrases, opts).unwrap();
    for ((hits, wanted), phrase) in found.iter().zip(&wanted).zip(&phrases) {
        assert!(hits.iter().all(|hit| hit.score == 0.0));
        // A phrase that ends as it begins may overlap itself.
        let overlaps = |hit: &KeywordHit| hit.start <= wanted.end && wanted.start <= hit.end;
        let same = hits.iter().find(|hit| overlaps(hit)).unwrap();
        assert!(same.range() == *wanted || phrase[0] == phrase[3] || phrase[..2] == phrase[2..]);
    }
}

#[test]
fn a_batch_has_the_hits_of_each_utterance() {
    let mut rng = Rng::new(17);
    let (items, frames, classes) = (4, 40, 5);
    let values = rng.values(items * frames * classes, 4.0);
    let logits = tensors::floats(&values, &[items, frames, classes], DType::F32, &Device::Cpu);
    let lengths = [40, 0, 17, 33];
    let phrases = [vec![1], vec![2, 3], vec![4, 4, 1]];
    let opts = SpotOptions {
        input: InputKind::Logits,
        threshold: -2.0,
        ..SpotOptions::batch_major()
    };
    let got = spot_keywords_batch(&logits, lengths, &phrases, opts).unwrap();
    let mut found = 0;
    for (item, got) in got.iter().enumerate() {
        let alone = logits
            .get(item)
            .unwrap()
            .narrow(0, 0, lengths[item])
            .unwrap();
        assert_eq!(*got, spot_keywords(&alone, &phrases, opts).unwrap());
        found += got.iter().map(Vec::len).sum::<usize>();
    }
    assert!(found > 10);
    let time_major = logits.transpose(0, 1).unwrap();
    let opts = SpotOptions {
        layout: InputLayout::TimeMajor,
        ..opts
    };
    assert_eq!(
        spot_keywords_batch(&time_major, lengths, &phrases, opts).unwrap(),
        got
    );

    let refused = |lengths: [usize; 4], phrases: &[Vec<u32>]| {
        let error = spot_keywords_batch(&time_major, lengths, phrases, opts).unwrap_err();
        error.to_string()
    };
    let error = refused([40, 41, 0, 0], &phrases);
    assert!(
        error.contains("spot_keywords_batch") && error.contains("41"),
        "{error}"
    );
    let error = refused(lengths, &[vec![1], vec![]]);
    assert!(error.contains("phrase 1 has no labels"), "{error}");
    let mut values = values;
    values[(2 * frames + 5) * classes + 3] = f64::NAN;
    let broken = tensors::floats(&values, &[items, frames, classes], DType::F32, &Device::Cpu);
    let opts = SpotOptions {
        layout: InputLayout::BatchMajor,
        ..opts
    };
    let error = spot_keywords_batch(&broken, lengths, &phrases, opts)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("item 2") && error.contains("frame 5"),
        "{error}"
    );
    // A batch without items, and an utterance as a batch.
    let empty = Tensor::zeros((0, frames, classes), DType::F32, &Device::Cpu).unwrap();
    let none: [usize; 0] = [];
    assert!(
        spot_keywords_batch(&empty, none, &phrases, opts)
            .unwrap()
            .is_empty()
    );
    let alone = logits.get(2).unwrap();
    assert_eq!(
        spot_keywords_batch(&alone, [17], &phrases, opts).unwrap(),
        got[2..3]
    );
    // Behind the end of an item, nothing is read.
    assert!(spot_keywords_batch(&broken, [40, 40, 5, 40], &phrases, opts).is_ok());
}

#[test]
fn every_form_of_input_gives_the_same() {
    let mut rng = Rng::new(11);
    let (frames, classes) = (50, 6);
    let logits = rng.values(frames * classes, 4.0);
    let phrases = [vec![1], vec![2, 3], vec![4, 4], vec![5, 1, 2]];
    let spot = |input: &Tensor, input_kind| {
        let opts = SpotOptions {
            input: input_kind,
            threshold: -2.0,
            ..Default::default()
        };
        spot_keywords(input, &phrases, opts).unwrap()
    };
    for dtype in tensors::FLOATS {
        let rounded = tensors::rounded(&logits, dtype);
        let input = tensors::floats(&logits, &[frames, 1, classes], dtype, &Device::Cpu);
        let got = spot(&input, InputKind::Logits);
        assert!(got.iter().map(Vec::len).sum::<usize>() > 8);
        // As log-probabilities.
        let wide = tensor(&rounded, classes);
        let log_probs = candle_nn::ops::log_softmax(&wide, 1).unwrap();
        for (got, want) in got.iter().zip(spot(&log_probs, InputKind::LogProbs)) {
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert_eq!(got.range(), want.range());
                assert!((got.score - want.score).abs() < 1e-9);
                for (got, want) in got.spans.iter().zip(want.spans) {
                    assert_eq!(got.range(), want.range());
                    assert!((got.score - want.score).abs() < 1e-5);
                }
            }
        }
        for view in VIEWS {
            let seen = (view.view)(&(view.store)(&input).unwrap()).unwrap();
            assert_eq!(
                spot(&seen, InputKind::Logits),
                got,
                "{} {dtype:?}",
                view.name
            );
        }
        let batch_major = input.transpose(0, 1).unwrap();
        assert_eq!(spot(&batch_major, InputKind::Logits), got);
    }
}

#[test]
fn frames_of_stride_0_are_frames() {
    let row = Tensor::new(&[[0.7f32, 0.3]], &Device::Cpu)
        .unwrap()
        .log()
        .unwrap();
    let log_probs = row.broadcast_as((5, 2)).unwrap();
    let hits = |labels: &[u32]| {
        let found = spot_keywords(&log_probs, &[labels], SpotOptions::default());
        found.unwrap().remove(0)
    };
    let ratio = f64::from(0.3f32.ln()) - f64::from(0.7f32.ln());
    let ranges: Vec<_> = hits(&[1]).iter().map(KeywordHit::range).collect();
    assert_eq!(ranges, [0..1, 2..3, 4..5]);
    // All ties: the longest, with blanks between.
    let hit = hits(&[1, 1]).remove(0);
    assert_eq!((hit.range(), hit.spans[1].range()), (0..5, 4..5));
    assert!((hit.score - 2.0 * ratio).abs() < 1e-6);
}

#[test]
fn a_phrase_longer_than_the_utterance_has_no_hits() {
    let opts = SpotOptions {
        threshold: f64::NEG_INFINITY,
        ..Default::default()
    };
    let spot = |frames: usize| {
        let log_probs = Tensor::full(0.25f32.ln(), (frames, 4), &Device::Cpu).unwrap();
        let found = spot_keywords(&log_probs, &[&[1u32][..], &[2, 2], &[1, 2, 3]], opts).unwrap();
        let ranges = |hits: &Vec<KeywordHit>| hits.iter().map(|hit| (hit.start, hit.end)).collect();
        found.iter().map(ranges).collect::<Vec<Vec<_>>>()
    };
    let none: Vec<(usize, usize)> = Vec::new();
    assert_eq!(spot(0), vec![none; 3]);
    assert_eq!(spot(1), [vec![(0, 1)], vec![], vec![]]);
    assert_eq!(spot(2), [vec![(0, 2)], vec![], vec![]]);
    assert_eq!(spot(3), vec![vec![(0, 3)]; 3]);
    let none = Tensor::full(0.25f32.ln(), (3, 4), &Device::Cpu).unwrap();
    assert!(
        spot_keywords::<Vec<u32>>(&none, &[], opts)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn frames_of_probability_0_are_in_no_hit() {
    let inf = f64::NEG_INFINITY;
    let values = [-0.1, -3.0, -0.1, -3.0, inf, inf, -3.0, -0.1, -3.0, inf];
    let case = Case {
        values: values.to_vec(),
        classes: 2,
        blank: 0,
    };
    let hits = case.spot(&[vec![1]], inf).remove(0);
    let ranges: Vec<_> = hits.iter().map(KeywordHit::range).collect();
    assert_eq!(ranges, [0..1, 3..4]);
    assert_eq!(hits[1].score, 0.0);
    assert_eq!(hits[1].seconds(0.25), (0.75, 1.0));
}

#[test]
fn hits_from_the_best_at_the_start_to_the_worst_at_the_end() {
    // The beginning of the first hit is also the best beginning of all segments behind it.
    let frames = 4000;
    let row = |t: usize| [0.0, -1e-5 * t as f64 - 0.5 * (t % 2) as f64];
    let case = Case {
        values: (0..frames).flat_map(row).collect(),
        classes: 2,
        blank: 0,
    };
    let hits = case.spot(&[vec![1, 1, 1]], f64::NEG_INFINITY).remove(0);
    assert_eq!(hits.len(), frames / 6);
    for (number, hit) in hits.iter().enumerate() {
        assert_eq!(hit.range(), 6 * number..6 * number + 5);
    }
}

#[test]
fn phrases_do_not_affect_each_other() {
    let mut rng = Rng::new(5);
    let case = Case::random(&mut rng, 400, 12);
    let phrases: Vec<Vec<u32>> = (0..1000).map(|_| case.phrase(&mut rng, 6)).collect();
    let together = case.spot(&phrases, -1.5);
    assert!(together.iter().filter(|hits| !hits.is_empty()).count() > 100);
    for (number, phrase) in phrases.iter().enumerate().step_by(37) {
        let alone = case.spot(std::slice::from_ref(phrase), -1.5).remove(0);
        assert_eq!(alone, together[number]);
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(pool.install(|| case.spot(&phrases, -1.5)), together);
    }
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    let log_probs = Tensor::full(0.25f32.ln(), (3, 4), &Device::Cpu).unwrap();
    let refused = |log_probs: &Tensor, phrases: &[Vec<u32>], opts, part: &str| {
        let error = spot_keywords(log_probs, phrases, opts)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("spot_keywords: ") && error.contains(part),
            "{error}"
        );
    };
    let opts = SpotOptions::default();
    let good = vec![1, 2];
    refused(
        &log_probs,
        &[good.clone(), vec![]],
        opts,
        "phrase 1 has no labels",
    );
    refused(
        &log_probs,
        &[good.clone(), vec![1, 0]],
        opts,
        "phrase 1 has the blank (0) at position 1",
    );
    refused(
        &log_probs,
        &[vec![3, 4]],
        opts,
        "phrase 0 has label 4 at position 1; labels must be at least 0 and below C = 4",
    );
    let with = |threshold| SpotOptions { threshold, ..opts };
    refused(&log_probs, &[], with(f64::NAN), "threshold = NaN");
    refused(&log_probs, &[], with(0.5), "threshold = 0.5");
    let blank = SpotOptions { blank: 4, ..opts };
    refused(&log_probs, &[], blank, "blank = 4 is not a class");
    let phrases = [good];
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut values = vec![0.25f32.ln(); 12];
        values[7] = bad;
        let input = Tensor::from_vec(values, (3, 4), &Device::Cpu).unwrap();
        let place = format!("log_probs of item 0 have {shown} at frame 1, class 3");
        refused(&input, &phrases, opts, &place);
    }
    let logits = Tensor::full(9f32, (3, 4), &Device::Cpu).unwrap();
    refused(&logits, &phrases, opts, "look like logits");
    let none = Tensor::full(f32::NEG_INFINITY, (3, 4), &Device::Cpu).unwrap();
    let as_logits = SpotOptions {
        input: InputKind::Logits,
        ..opts
    };
    refused(
        &none,
        &phrases,
        as_logits,
        "logits of item 0 are all -inf at frame 0",
    );
    let batch = Tensor::zeros((3, 2, 4), DType::F32, &Device::Cpu).unwrap();
    refused(
        &batch,
        &phrases,
        opts,
        "for a batch there is spot_keywords_batch",
    );
    let integers = Tensor::zeros((3, 4), DType::U32, &Device::Cpu).unwrap();
    refused(&integers, &phrases, opts, "dtype U32");
}
