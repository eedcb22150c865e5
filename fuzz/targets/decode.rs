//! The decoders: in chunks as all at once, scores below the exact ones, and language models that add up. Keywords: the
//! hits of a table of all segments. The least expected distance, by all distances.

#![no_main]

use candle_core::{DType, Tensor};
use candle_ctc::{
    BeamOptions, BeamSearch, End, GreedyOptions, Hypothesis, InputKind, LanguageModel,
    NoLanguageModel, PrefixScorer, PrefixScorerOptions, PrefixScores, ScoreOptions, SpotOptions,
    TokenNgram, beam_search, beam_search_batch, beam_search_batch_with, beam_search_with,
    greedy_decode, greedy_decode_batch, minimum_bayes_risk, score_transcripts, spot_keywords,
    spot_keywords_batch,
};
use candle_ctc_fuzz::common::{labellings, lattice};
use candle_ctc_fuzz::edits::{Costs, distance};
use candle_ctc_fuzz::models::{Advancing, Hashed, Way};
use candle_ctc_fuzz::segments::{Segment, Utterance};
use candle_ctc_fuzz::{Emissions, Source, knowledge};
use libfuzzer_sys::fuzz_target;
use std::cell::Cell;

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

/// The emissions of a batch, and the options that all decoders share.
struct Batch {
    emissions: Emissions,
    input_lengths: Vec<usize>,
    blank: usize,
    input: InputKind,
    normalised: bool,
}

fn run(source: &mut Source) {
    let (entries, longest) = match source.below(8) {
        0 => (1 << 13, 700),
        _ => (1 << 8, 24),
    };
    let mut shape = source.shape(entries, longest, 3);
    // The letters of the alphabet.
    shape[2] = shape[2].min(24);
    let emissions = source.emissions(shape);
    let input_lengths = (0..emissions.items)
        .map(|_| emissions.frames - source.below(emissions.frames.min(4) + 1))
        .collect();
    let batch = Batch {
        emissions,
        input_lengths,
        blank: 0,
        input: source.pick(&[InputKind::LogProbs, InputKind::Logits]),
        normalised: source.below(8) == 0,
    };
    match source.below(8) {
        0 => greedy(source, &batch),
        1 => prefixes(source, &batch),
        2 => keywords(source, &batch),
        3 => least_risk(source),
        _ => beams(source, &batch),
    }
}

impl Batch {
    fn utterance(&self, n: usize) -> Tensor {
        self.emissions
            .utterance(n)
            .narrow(0, 0, self.input_lengths[n])
            .unwrap()
    }

    /// The log-probabilities of an item in f64; `None` if some are undefined.
    fn log_probs(&self, n: usize) -> Option<Vec<f64>> {
        let values = self.emissions.item(n, self.input_lengths[n]);
        let classes = self.emissions.classes;
        let mut rows = values.chunks_exact(classes);
        if values.iter().any(|x| x.is_nan() || *x == f64::INFINITY) {
            return None;
        }
        if self.input == InputKind::LogProbs {
            return Some(values);
        }
        if rows.any(|row| row.iter().all(|x| *x == f64::NEG_INFINITY)) {
            return None;
        }
        let normalised = values.chunks_exact(classes).flat_map(|row| {
            let (largest, sum) = lattice::softmax_scale(row);
            row.iter().map(move |x| (x - largest) - sum.ln())
        });
        Some(normalised.collect())
    }

    /// How far a score may be from the exact one. A sum over frames has the digits of the largest of them: where the best
    /// entry of one is 3.4e38 and that of another −3.4e38, none are left.
    fn slack(&self, n: usize, score: f64) -> f64 {
        let frames = self.input_lengths[n] as f64 + 1.0;
        let size = self.size(n, score);
        match self.emissions.tensor.dtype() {
            DType::F64 => 1e-9 + 1e-11 * size,
            _ => 1e-5 * frames + 1e-6 * size,
        }
    }

    /// The size of a score and of the largest finite entry of each frame.
    fn size(&self, n: usize, score: f64) -> f64 {
        let log_probs = self.log_probs(n).unwrap_or_default();
        let best = log_probs.chunks(self.emissions.classes).map(|row| {
            let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if best.is_finite() { best.abs() } else { 0.0 }
        });
        best.fold(score.abs(), f64::max)
    }
}

fn greedy(source: &mut Source, batch: &Batch) {
    let opts = GreedyOptions {
        blank: source.below(batch.emissions.classes),
        layout: batch.emissions.layout,
        input: batch.input,
        normalised: batch.normalised,
    };
    let found = greedy_decode_batch(&batch.emissions.tensor, &batch.input_lengths, opts);
    for n in 0..batch.emissions.items {
        let alone = greedy_decode(&batch.utterance(n), opts);
        if let Ok(found) = &found {
            assert_eq!(&found[n], alone.as_ref().unwrap(), "item {n} alone");
        }
        let (Ok(alone), Some(log_probs)) = (alone, batch.log_probs(n)) else {
            continue;
        };
        let rows = log_probs.chunks_exact(batch.emissions.classes);
        let best = rows.map(|row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let best: f64 = best.sum();
        let size = if best.is_finite() { best } else { 0.0 };
        assert!(
            alone.score == best || (alone.score - best).abs() <= batch.slack(n, size),
            "{} {best}",
            alone.score
        );
        check_spans(&alone, batch.input_lengths[n]);
    }
}

fn check_spans(found: &Hypothesis, frames: usize) {
    assert_eq!(found.tokens.len(), found.spans.len());
    let mut end = 0;
    for (span, token) in found.spans.iter().zip(&found.tokens) {
        assert!(
            span.token == *token
                && end <= span.start
                && span.start < span.end
                && span.end <= frames,
            "{found:?}"
        );
        end = span.end;
    }
}

/// More frames than this are compared with all segments for one phrase only.
const LONG: usize = 100;

fn keywords(source: &mut Source, batch: &Batch) {
    let emissions = &batch.emissions;
    let classes = emissions.classes;
    let blank = source.below(classes);
    let mut opts = SpotOptions {
        blank,
        input: batch.input,
        normalised: batch.normalised,
        threshold: source.pick(&[0.0, -0.25, -1.0, -2.0, -5.0, -1e9, f64::NEG_INFINITY]),
        layout: emissions.layout,
    };
    let mut phrases: Vec<Vec<u32>> = (0..1 + source.below(3))
        .map(|_| {
            let labels = source.target(5, classes, blank);
            let first = usize::from(blank == 0);
            let labels = if labels.is_empty() {
                vec![first]
            } else {
                labels
            };
            labels.into_iter().map(|label| label as u32).collect()
        })
        .collect();
    let bad = source.below(16);
    match bad {
        0 => opts.threshold = source.pick(&[f64::NAN, 1e-300, f64::INFINITY]),
        1 => opts.blank = source.pick(&[classes, usize::MAX]),
        2 => {
            let label = source.pick(&[blank as u32, classes as u32, u32::MAX]);
            let at = source.below(phrases.len());
            phrases[at].push(label);
        }
        3 => phrases.push(Vec::new()),
        _ => {}
    }
    let found = spot_keywords_batch(&emissions.tensor, &batch.input_lengths, &phrases, opts);
    if bad < 4 {
        assert!(found.is_err(), "{opts:?} {phrases:?}");
    }
    let mut undefined = false;
    let one = source.below(emissions.items.max(1));
    for n in 0..emissions.items {
        let alone = spot_keywords(&batch.utterance(n), &phrases, opts);
        if bad < 4 {
            assert!(alone.is_err(), "{opts:?} {phrases:?}");
            continue;
        }
        if let Ok(found) = &found {
            assert_eq!(&found[n], alone.as_ref().unwrap(), "item {n} alone");
        }
        let log_probs = batch.log_probs(n);
        undefined |= log_probs.is_none();
        assert!(
            alone.is_err() == log_probs.is_none() || batch.normalised,
            "{alone:?}"
        );
        let (Ok(alone), Some(log_probs)) = (alone, log_probs) else {
            continue;
        };
        let values = emissions.item(n, batch.input_lengths[n]);
        let utterance = Utterance {
            values: &values,
            classes,
            blank,
        };
        assert_eq!(alone.len(), phrases.len());
        for (at, (hits, phrase)) in alone.iter().zip(&phrases).enumerate() {
            for hit in hits {
                utterance.check_spans(hit, phrase);
                check_means(hit, &log_probs, classes);
            }
            if batch.input_lengths[n] <= LONG || (n == one && at == 0) {
                let found = hits.iter().map(|hit| Segment {
                    score: hit.score,
                    start: hit.start,
                    end: hit.end,
                });
                let want = utterance.hits(phrase, opts.threshold);
                assert_eq!(found.collect::<Vec<_>>(), want, "{phrase:?} {opts:?}");
            }
        }
    }
    assert!(bad < 4 || found.is_err() == undefined || batch.normalised);
}

/// The score of a span is the mean of its log-probabilities.
fn check_means(hit: &candle_ctc::KeywordHit, log_probs: &[f64], classes: usize) {
    for span in &hit.spans {
        let entries = span
            .range()
            .map(|t| log_probs[t * classes + span.token as usize]);
        let mean = entries.sum::<f64>() / span.range().len() as f64;
        let difference = (f64::from(span.score) - mean).abs();
        assert!(
            mean.abs() > 1e30 || difference <= 1e-5 * mean.abs().max(1.0),
            "{mean} {hit:?}"
        );
    }
}

/// Scores with those of a language model: each is the sum, and nothing else changes.
fn check_fused(next: &PrefixScores, model: &Hashed, prefix: u64, weight: f64) {
    let mut fused = next.clone();
    let result = fused.fuse(model, &prefix, weight);
    if !(0.0..=1e100).contains(&weight) {
        assert!(result.is_err(), "weight {weight}");
        return;
    }
    let tokens = (0..next.next.len() as u32).map(|token| model.score(&prefix, token).unwrap());
    let given = tokens.chain([model.end(&prefix).unwrap()]);
    let before = next.next.iter().chain([&next.end]);
    let pairs: Vec<(f64, f64)> = before.copied().zip(given).collect();
    let none = f64::NEG_INFINITY;
    let is_bad = |&(before, given): &(f64, f64)| {
        before != none && weight != 0.0 && (given.is_nan() || given == f64::INFINITY)
    };
    if pairs.iter().any(is_bad) {
        assert!(result.is_err(), "{pairs:?}");
        return;
    }
    result.unwrap();
    let sum = |&(before, given): &(f64, f64)| match before == none || weight == 0.0 {
        true => before,
        false => before + weight * given,
    };
    let want: Vec<f64> = pairs.iter().map(sum).collect();
    let got: Vec<f64> = fused.next.iter().chain([&fused.end]).copied().collect();
    assert_eq!(got, want, "{pairs:?} weight {weight}");
}

fn hashed(source: &mut Source, bad: Option<f64>) -> Hashed {
    Hashed {
        seed: source.below(1 << 16) as u64,
        forbids: source.pick(&[2, 7, u64::MAX]),
        bad,
    }
}

fn prefixes(source: &mut Source, batch: &Batch) {
    if batch.emissions.items == 0 {
        return;
    }
    let opts = PrefixScorerOptions {
        blank: batch.blank,
        input: batch.input,
        normalised: batch.normalised,
    };
    let utterance = batch.utterance(0);
    let Ok(scorer) = PrefixScorer::new(&utterance, opts) else {
        assert!(batch.normalised || batch.log_probs(0).is_none());
        return;
    };
    let mut state = scorer.initial_state();
    let mut labels = Vec::new();
    let bad = source.pick(&[None, None, Some(f64::NAN), Some(f64::INFINITY)]);
    let model = hashed(source, bad);
    let mut prefix = model.start().unwrap();
    for _ in 0..source.below(6) {
        let label = 1 + source.below(batch.emissions.classes - 1) as u32;
        let next = scorer.score(&[&state]).unwrap().remove(0);
        assert_eq!(next.end, state.end_score());
        let weight = match source.below(8) {
            0 => source.number(),
            half => half as f64 / 2.0 - 0.5,
        };
        check_fused(&next, &model, prefix, weight);
        prefix = model.advance(&prefix, label).unwrap();
        let longer = scorer.extend(&state, label).unwrap();
        let (a, b) = (next.next[label as usize], longer.score());
        assert!(a == b || (a - b).abs() <= 1e-9 * (1.0 + a.abs()), "{a} {b}");
        if batch.input == InputKind::Logits {
            // Of distributions, what goes on or ends is all there is.
            let all = next
                .next
                .iter()
                .chain([&next.end])
                .map(|x| (x - state.score()).exp())
                .sum::<f64>();
            let slack = 1e-4 * (batch.input_lengths[0] as f64 + 1.0);
            assert!(state.score() < -600.0 || (all - 1.0).abs() < slack, "{all}");
        }
        state = longer;
        labels.push(label);
    }
    if opts.normalised {
        return;
    }
    let exact = exact(batch, 0, &labels);
    assert_score(batch, 0, state.end_score(), exact);
}

/// A log-likelihood from the plain lattice; `None` where it is not defined.
fn exact(batch: &Batch, n: usize, labels: &[u32]) -> Option<f64> {
    let log_probs = batch.log_probs(n)?;
    let target: Vec<usize> = labels.iter().map(|&x| x as usize).collect();
    let item = lattice::Item {
        log_probs: &log_probs,
        classes: batch.emissions.classes,
        target: &target,
        blank: batch.blank,
    };
    Some(-item.sums().loss)
}

#[track_caller]
fn assert_score(batch: &Batch, n: usize, got: f64, exact: Option<f64>) {
    let Some(exact) = exact else { return };
    let size = if exact.is_finite() { exact } else { 0.0 };
    // Numbers that a f32 logarithm of a softmax cannot hold.
    if size.abs() < 1e30 {
        assert!(
            got == exact || (got - exact).abs() <= batch.slack(n, size),
            "{got}, exactly {exact}"
        );
    }
}

fn beams(source: &mut Source, batch: &Batch) {
    let vocabulary = knowledge::vocabulary(source, batch.emissions.classes);
    let words: Vec<String> = (0..1 + source.below(6))
        .map(|_| knowledge::word(source, &vocabulary))
        .collect();
    let suppress = [1 + source.below(batch.emissions.classes - 1) as u32];
    let mut opts = BeamOptions {
        blank: batch.blank,
        layout: batch.emissions.layout,
        input: batch.input,
        normalised: batch.normalised,
        beam_width: source.pick(&[1, 2, 3, 5, 16, 50]),
        n_best: source.pick(&[1, 2, 50]),
        lm_weight: source.below(5) as f64 / 2.0,
        token_bonus: source.below(9) as f64 / 2.0 - 2.0,
        end: source.pick(&[End::Required, End::Preferred, End::Ignored]),
        ..Default::default()
    };
    match source.below(8) {
        0 => opts.tokens_per_frame = 1 + source.below(3),
        1 => opts.token_threshold = -(source.below(20) as f64),
        2 => opts.beam_threshold = source.below(20) as f64,
        3 => opts.suppress = &suppress,
        // Numbers that are errors, or should be.
        4 => {
            let number = source.number();
            match source.below(4) {
                0 => opts.token_bonus = number,
                1 => opts.lm_weight = number,
                2 => opts.token_threshold = number,
                _ => opts.beam_threshold = number,
            }
        }
        _ => {}
    }
    match source.below(5) {
        0 if source.flag() => {
            let model = hashed(source, None);
            search(source, batch, &model, opts);
        }
        0 => {
            without_model(batch, opts);
            search(source, batch, &NoLanguageModel, opts);
        }
        1 => {
            let tokens: Vec<String> = vocabulary.tokens().to_vec();
            let model =
                TokenNgram::new(knowledge::ngrams(source, &tokens[1..]), &vocabulary).unwrap();
            search(source, batch, &model, opts);
        }
        2 => {
            let model = knowledge::hotwords(source, &vocabulary, &words, NoLanguageModel);
            search(source, batch, &model, opts);
        }
        model => {
            let ngrams = knowledge::ngrams(source, &words);
            let lexicon = knowledge::lexicon(source, &vocabulary, &words, ngrams);
            if model == 3 {
                return search(source, batch, &lexicon, opts);
            }
            let model = knowledge::hotwords(source, &vocabulary, &words, lexicon);
            search(source, batch, &model, opts);
        }
    }
}

/// The functions without a language model search as with an empty one.
fn without_model(batch: &Batch, opts: BeamOptions) {
    let (input, lengths) = (&batch.emissions.tensor, &batch.input_lengths);
    let results = [
        beam_search_batch(input, lengths, opts),
        beam_search_batch_with(input, lengths, &NoLanguageModel, opts),
    ];
    assert!(are_alike(&results), "{results:?}");
    for n in 0..batch.emissions.items {
        let utterance = batch.utterance(n);
        let results = [
            beam_search(&utterance, opts),
            beam_search_with(&utterance, &NoLanguageModel, opts),
        ];
        assert!(are_alike(&results), "{results:?}");
    }
}

fn are_alike<T: PartialEq>([a, b]: &[candle_core::Result<T>; 2]) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (a, b) => a.is_err() && b.is_err(),
    }
}

fn search<L: LanguageModel + Sync>(
    source: &mut Source,
    batch: &Batch,
    model: &L,
    opts: BeamOptions,
) {
    if batch.emissions.items == 0 {
        let found =
            beam_search_batch_with(&batch.emissions.tensor, &batch.input_lengths, model, opts);
        assert!(found.is_err() || found.is_ok_and(|found| found.is_empty()));
        return;
    }
    let n = source.below(batch.emissions.items);
    let utterance = batch.utterance(n);
    let found = beam_search_with(&utterance, model, opts);
    let together =
        beam_search_batch_with(&batch.emissions.tensor, &batch.input_lengths, model, opts);
    if let Ok(together) = &together {
        assert_eq!(&together[n], found.as_ref().unwrap(), "item {n} alone");
    }
    let chunked = in_chunks(source, batch, n, &utterance, model, opts);
    advanced_otherwise(source, &utterance, model, opts, &found);
    let Ok(found) = found else { return };
    // The check of three frames sees others where the input comes in parts.
    if !batch.normalised {
        assert_eq!(chunked.unwrap(), found, "in chunks");
    }
    assert!(found.len() <= opts.n_best.min(opts.beam_width));
    for pair in found.windows(2) {
        assert!(pair[0].total_score() >= pair[1].total_score(), "{found:?}");
        assert!(pair[0].tokens != pair[1].tokens, "{found:?}");
    }
    let transcripts: Vec<&[u32]> = found.iter().map(|one| &one.tokens[..]).collect();
    let score_opts = ScoreOptions {
        blank: opts.blank,
        input: opts.input,
        normalised: false,
        ..Default::default()
    };
    let scores = score_transcripts(&utterance, &transcripts, score_opts).unwrap();
    for (one, score) in found.iter().zip(scores) {
        check_spans(one, batch.input_lengths[n]);
        let exact = exact(batch, n, &one.tokens).unwrap();
        let slack = batch.slack(n, exact);
        assert!(
            one.score <= exact + slack,
            "{} is above the exact score {exact}",
            one.score
        );
        // Entries 1.49e9 nats below the largest of their frame count as −inf.
        if batch.size(n, exact) < 1e9 {
            assert!(
                (score - exact).abs() <= slack,
                "score {score}, exactly {exact}: {:?} of {:?} {opts:?}",
                one.tokens,
                batch.log_probs(n)
            );
        }
        check_model(one, model, opts);
        assert!(!one.tokens.iter().any(|token| opts.suppress.contains(token)));
    }
    exhaustive(batch, n, &utterance, model, opts);
}

/// How the prefixes of a beam are advanced changes nothing, unless a state is missing.
fn advanced_otherwise<L: LanguageModel>(
    source: &mut Source,
    utterance: &Tensor,
    model: &L,
    opts: BeamOptions,
    found: &candle_core::Result<Vec<Hypothesis>>,
) {
    let way = source.pick(&[Way::Each, Way::Together, Way::Together, Way::TooFew]);
    let other = Advancing {
        model,
        way,
        advanced: Cell::new(0),
    };
    let result = beam_search_with(utterance, &other, opts);
    if way == Way::TooFew && other.advanced.get() > 0 {
        assert!(result.is_err(), "a state is missing");
        return;
    }
    match (found, result) {
        (Ok(found), result) => assert_eq!(&result.unwrap(), found, "{way:?}"),
        (Err(_), result) => assert!(result.is_err(), "{way:?}"),
    }
}

/// What a model says of a labelling is the sum of what it says of its tokens.
fn check_model<L: LanguageModel>(found: &Hypothesis, model: &L, opts: BeamOptions) {
    let mut state = model.start().unwrap();
    let mut sum = 0.0;
    for &token in &found.tokens {
        let score = model.score(&state, token).unwrap();
        assert!(
            score <= model.max_score() + 1e-9,
            "{score} is above {}",
            model.max_score()
        );
        sum += score;
        state = model.advance(&state, token).unwrap();
    }
    let bonus = opts.token_bonus * found.tokens.len() as f64;
    let close = |sum: f64| {
        let weighted = if opts.lm_weight == 0.0 {
            0.0
        } else {
            opts.lm_weight * sum
        };
        (found.lm_score - (weighted + bonus)).abs() <= 1e-6 * (1.0 + sum.abs() + bonus.abs())
    };
    let end = model.end(&state).unwrap();
    let with_end = close(sum + end);
    let without = close(sum);
    let right = match opts.end {
        End::Required => with_end,
        End::Ignored => without,
        _ => with_end || without,
    };
    assert!(
        right,
        "lm_score {} of tokens that score {sum}, end {end}: {opts:?}",
        found.lm_score
    );
}

/// The same frames in parts. What was called stable stays.
fn in_chunks<L: LanguageModel>(
    source: &mut Source,
    batch: &Batch,
    n: usize,
    utterance: &Tensor,
    model: &L,
    opts: BeamOptions,
) -> candle_core::Result<Vec<Hypothesis>> {
    let frames = batch.input_lengths[n];
    let mut search = BeamSearch::with_language_model(batch.emissions.classes, model, opts)?;
    if source.flag() {
        let _ = search.push(utterance);
        search.reset()?;
    }
    let (mut at, mut stable) = (0, Vec::new());
    while at < frames {
        let size = source.below(7).min(frames - at);
        // Once the bytes are at an end, the rest comes at once.
        let size = if size == 0 && source.below(3) == 0 {
            frames - at
        } else {
            size
        };
        search.push(&utterance.narrow(0, at, size)?)?;
        at += size;
        assert!(search.frames() == at && search.trailing_blanks() <= at);
        let best = search.hypotheses()?;
        if let Some(best) = best.first() {
            assert!(
                best.tokens.starts_with(&stable),
                "{best:?} lacks the stable {stable:?}"
            );
            stable = best.tokens[..search.stable_tokens()].to_vec();
        }
    }
    search.finish()
}

/// Without pruning, a small search finds all labellings with their exact scores.
fn exhaustive<L: LanguageModel>(
    batch: &Batch,
    n: usize,
    utterance: &Tensor,
    model: &L,
    opts: BeamOptions,
) {
    let (frames, classes) = (batch.input_lengths[n], batch.emissions.classes);
    let Some(log_probs) = batch
        .log_probs(n)
        .filter(|_| classes.pow(frames.min(9) as u32) <= 300 && frames > 0)
    else {
        return;
    };
    if log_probs.iter().any(|x| x.is_finite() && x.abs() > 1e4) {
        return;
    }
    let opts = BeamOptions {
        beam_width: usize::MAX,
        n_best: usize::MAX,
        tokens_per_frame: usize::MAX,
        token_threshold: f64::NEG_INFINITY,
        beam_threshold: f64::INFINITY,
        end: End::Ignored,
        suppress: &[],
        ..opts
    };
    let found = beam_search_with(utterance, model, opts).unwrap();
    let all = labellings::labellings(&log_probs, classes, batch.blank);
    let allowed = |tokens: &[u32]| {
        let mut state = model.start().unwrap();
        opts.lm_weight == 0.0
            || tokens.iter().all(|&token| {
                let may = model.score(&state, token).unwrap() > f64::NEG_INFINITY;
                if may {
                    state = model.advance(&state, token).unwrap();
                }
                may
            })
    };
    // f32 rounds the smallest to 0.
    let all: Vec<_> = all
        .iter()
        .filter(|one| one.score > -80.0 && allowed(&one.tokens))
        .collect();
    for one in &all {
        let got = found.iter().find(|found| found.tokens == one.tokens);
        let got = got.unwrap_or_else(|| panic!("{:?} is not found", one.tokens));
        assert!(
            (got.score - one.score).abs() <= batch.slack(n, one.score),
            "{got:?}, exactly {}",
            one.score
        );
    }
}

/// The choice from a list has the least expected distance, the first where several have it.
fn least_risk(source: &mut Source) {
    let mut lists: Vec<Vec<usize>> = (0..source.below(10))
        .map(|_| source.target(5, 4, 0))
        .collect();
    if let Some(first) = lists.first().cloned().filter(|_| source.flag()) {
        lists.push(first);
    }
    // Multiples of a power of two, so that sums are exact in any order.
    let mut weights: Vec<f64> = lists.iter().map(|_| source.below(9) as f64 / 8.0).collect();
    // Costs that tell what was said from what is found.
    let costs = Costs {
        substitution: source.pick(&[1.0, 1.5]),
        insertion: source.pick(&[1.0, 0.5]),
        deletion: source.pick(&[1.0, 2.0]),
    };
    let bad = source.below(16);
    let odd = source.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300]);
    let at = source.below(lists.len().max(1));
    match bad {
        0 => weights.push(1.0),
        1 if !weights.is_empty() => weights[at] = odd,
        _ => {}
    }
    let cost = |said: &Vec<usize>, found: &Vec<usize>| match bad {
        2 if said == &lists[at] => odd,
        _ => distance(said, found, costs),
    };
    let found = minimum_bayes_risk(&lists, &weights, cost);
    let risk = |found: &Vec<usize>| {
        let terms = lists.iter().zip(&weights);
        terms
            .map(|(said, weight)| weight * cost(said, found))
            .sum::<f64>()
    };
    let is_weight = |weight: &f64| (0.0..f64::INFINITY).contains(weight);
    let pairs = || {
        lists
            .iter()
            .flat_map(|said| lists.iter().map(move |found| (said, found)))
    };
    let right = weights.len() == lists.len()
        && weights.iter().all(is_weight)
        && weights.iter().any(|weight| *weight > 0.0)
        && pairs().all(|(said, found)| cost(said, found).is_finite())
        && lists.iter().all(|found| risk(found).is_finite());
    assert_eq!(found.is_ok(), right, "{lists:?} {weights:?}: {found:?}");
    let Ok(found) = found else { return };
    let risks: Vec<f64> = lists.iter().map(risk).collect();
    let least = risks.iter().copied().fold(f64::INFINITY, f64::min);
    let first = risks.iter().position(|risk| *risk == least);
    assert_eq!(Some(found), first, "{lists:?} {weights:?}: {risks:?}");
}
