//! The best path against a plain recursion, confidences against the plain lattice and their definitions, and spans.

#![no_main]

use candle_core::{DType, Device};
use candle_ctc::{
    Aggregation, AlignOptions, Alignment, ConfidenceMeasure, ConfidenceOptions, Gaps, InputKind,
    TokenConfidence, TokenSpan, Wildcard, fastq_qualities, fill_gaps, forced_align,
    forced_align_batch, frame_confidence, frame_confidence_batch, group_words, phred_quality,
    span_confidence, state_posteriors, state_posteriors_batch, token_confidence,
    token_confidence_batch, word_confidence,
};
use candle_ctc_fuzz::best_path::Problem;
use candle_ctc_fuzz::common::tolerance::Tolerance;
use candle_ctc_fuzz::common::{bits, lattice, tensors};
use candle_ctc_fuzz::{Emissions, Item, Source, knowledge, measures};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

fn run(source: &mut Source) {
    let (entries, longest, cells) = match source.below(8) {
        0 => (1 << 15, 4200, 1 << 14),
        _ => (1 << 9, 40, 1 << 8),
    };
    let shape = source.shape(entries, longest, 1);
    let emissions = source.emissions(shape);
    let [frames, items, classes] = shape;
    let blank = source.below(classes);
    let most = (cells / (frames * items).max(1)).min(frames + 2);
    let targets: Vec<Vec<usize>> = (0..items)
        .map(|_| source.target(most, classes, blank))
        .collect();
    let input = source.pick(&[InputKind::LogProbs, InputKind::Logits]);
    let normalised = source.below(8) == 0;
    let of_confidence = ConfidenceOptions {
        blank,
        input,
        normalised,
        layout: emissions.layout,
    };
    match source.below(6) {
        0 if items > 0 => confidences(source, &emissions, &targets[0], of_confidence),
        1 => together(source, &emissions, &targets, of_confidence),
        2 => of_frames(source, &emissions, of_confidence),
        3 => spans(source),
        _ => alignments(source, &emissions, targets, blank, input, normalised),
    }
}

fn wildcard(source: &mut Source) -> Wildcard {
    let nats = source.pick(&[0.0, 0.5, -3.0, 20.0, f32::MIN, f32::NAN]);
    match source.below(3) {
        0 => Wildcard::Constant(nats),
        1 => Wildcard::Largest { penalty: nats },
        _ => Wildcard::Mean { penalty: nats },
    }
}

fn alignments(
    source: &mut Source,
    emissions: &Emissions,
    mut targets: Vec<Vec<usize>>,
    blank: usize,
    input: InputKind,
    normalised: bool,
) {
    let classes = emissions.classes;
    let mut opts = AlignOptions {
        blank,
        input,
        normalised,
        layout: emissions.layout,
        ..Default::default()
    };
    if source.flag() {
        let star = source.below(classes + 2);
        opts.star = Some(star as u32);
        opts.star_emission = wildcard(source);
        for target in &mut targets {
            let mut rng = source.rng();
            target
                .iter_mut()
                .filter(|_| rng.below(4) == 0)
                .for_each(|label| *label = star);
        }
    }
    if source.below(3) == 0 {
        opts.outside = Some(wildcard(source));
    }
    let optional: Vec<u32> = (0..source.below(4))
        .map(|_| source.below(classes + 1) as u32)
        .collect();
    opts.optional = &optional;
    opts.free_ends = source.below(4) == 0;
    let input_lengths: Vec<usize> = (0..emissions.items)
        .map(|_| emissions.frames - source.below(emissions.frames.min(4) + 1))
        .collect();
    let lengths: Vec<usize> = targets.iter().map(Vec::len).collect();
    let tensor = tensors::padded(&targets, source.below(2), 3, DType::U32, &Device::Cpu);
    let found = forced_align_batch(&emissions.tensor, &tensor, &input_lengths, &lengths, opts);
    // A batch fails as a whole where one utterance fails for its arguments or its numbers.
    let mut all = true;
    for n in 0..emissions.items {
        let utterance = emissions
            .utterance(n)
            .narrow(0, 0, input_lengths[n])
            .unwrap();
        let target: Vec<u32> = targets[n].iter().map(|&x| x as u32).collect();
        let alone = forced_align(&utterance, &target, opts);
        match (&alone, &found) {
            (Ok(alone), Ok(found)) => assert_eq!(Some(alone), found[n].as_ref(), "item {n} alone"),
            (Err(_), Ok(found)) => assert_eq!(found[n], None, "item {n} alone fails"),
            (Ok(_), Err(_)) => {}
            (Err(_), Err(_)) => all = false,
        }
        let values = emissions.item(n, input_lengths[n]);
        check_path(
            alone,
            &values,
            classes,
            &target,
            opts,
            emissions.tensor.dtype(),
        );
    }
    assert!(
        found.is_ok() || !all || emissions.items == 0,
        "only the batch fails: {found:?}"
    );
}

/// An alignment against the best path.
fn check_path(
    found: candle_core::Result<Alignment>,
    values: &[f64],
    classes: usize,
    target: &[u32],
    opts: AlignOptions,
    dtype: DType,
) {
    let item = Item {
        values,
        weighted: values,
        classes,
        target: &[],
        blank: opts.blank,
        logits: true,
    };
    // Arguments that may be an error, and entries that need not be read.
    let finite = |wildcard: Wildcard| match wildcard {
        Wildcard::Constant(nats)
        | Wildcard::Largest { penalty: nats }
        | Wildcard::Mean { penalty: nats } => nats.is_finite(),
        _ => true,
    };
    let wildcards = [opts.star.map(|_| opts.star_emission), opts.outside];
    let bad = opts.star == Some(opts.blank as u32)
        || !wildcards.into_iter().flatten().all(finite)
        || classes <= 1 + usize::from(opts.star.is_some_and(|star| (star as usize) < classes))
        || opts
            .optional
            .iter()
            .any(|&x| x as usize == opts.blank || x as usize >= classes && opts.star != Some(x))
        || target
            .chunk_by(|a, b| opts.optional.contains(a) == opts.optional.contains(b))
            .any(|run| run.len() > 12 && opts.optional.contains(&run[0]));
    if bad || opts.normalised || item.is_undefined() {
        return;
    }
    let logits = opts.input == InputKind::Logits;
    let log_probs: Vec<f64> = match logits {
        false => values.to_vec(),
        true => values
            .chunks_exact(classes)
            .flat_map(|row| {
                let (largest, sum) = lattice::softmax_scale(row);
                row.iter().map(move |x| (x - largest) - sum.ln())
            })
            .collect(),
    };
    let problem = Problem {
        log_probs: &log_probs,
        classes,
        target,
        opts,
    };
    let best = problem.score();
    let Ok(found) = found else {
        let no_path = if logits && dtype != DType::F64 {
            best < -1e37
        } else {
            best == f64::NEG_INFINITY
        };
        assert!(no_path, "no path, but one scores {best}");
        return;
    };
    let frames = values.len() / classes;
    let size: f64 = found.frame_scores.iter().map(|x| f64::from(x.abs())).sum();
    let absolute = match (dtype, logits) {
        (DType::F64, _) | (_, false) => 1e-9 + 1e-12 * size,
        _ => 1e-5 * (frames as f64 + 1.0) + 1e-6 * size,
    };
    if size.is_finite() && best.abs() < 1e37 {
        Tolerance {
            absolute,
            relative: 1e-12,
        }
        .check("best score", &[found.score], &[best]);
    }
    let own = check_spans(&problem, &found, frames);
    if size.is_finite() && size < 1e37 {
        let absolute = absolute + 1e-5 + 1e-6 * size;
        Tolerance {
            absolute,
            relative: 0.0,
        }
        .check("score of the path", &[own], &[found.score]);
    }
}

/// That spans and labels belong together; the score of the path.
fn check_spans(problem: &Problem, found: &Alignment, frames: usize) -> f64 {
    let opts = &problem.opts;
    assert_eq!(
        (found.labels.len(), found.frame_scores.len()),
        (frames, frames)
    );
    assert_eq!(
        (&found.tokens[..], found.spans.len()),
        (problem.target, problem.target.len())
    );
    let kept: Vec<usize> = (0..found.spans.len())
        .filter(|&i| found.spans[i].frames() > 0)
        .collect();
    let (first, last) = (kept.first().copied(), kept.last().copied());
    let mut covered = vec![opts.blank as u32; frames];
    let mut end = 0;
    for (i, span) in found.spans.iter().enumerate() {
        assert_eq!(span.token, problem.target[i]);
        assert!(
            end <= span.start && span.start <= span.end && span.end <= frames,
            "{:?}",
            found.spans
        );
        if span.frames() == 0 {
            assert_eq!((span.start, span.score), (end, 0.0));
            let outer = first.is_none_or(|first| i < first) || last.is_none_or(|last| i > last);
            assert!(
                outer && opts.free_ends || opts.optional.contains(&span.token),
                "label {i} is left out"
            );
        }
        covered[span.range()].fill(span.token);
        end = span.end;
    }
    assert_eq!(covered, found.labels);
    // Equal labels that follow each other have a blank between.
    for pair in kept.windows(2) {
        let [a, b] = [&found.spans[pair[0]], &found.spans[pair[1]]];
        assert!(a.token != b.token || a.end < b.start, "{:?}", found.spans);
    }
    for gaps in [Gaps::Left, Gaps::Right, Gaps::Half] {
        let filled = fill_gaps(&found.spans, gaps);
        assert!(filled.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    let words = group_words(&found.spans, problem.target.first().copied().unwrap_or(0));
    assert!(
        words
            .iter()
            .all(|word| word.start <= word.end && word.end <= frames)
    );
    let (start, end) = match (first, last) {
        (Some(first), Some(last)) => (found.spans[first].start, found.spans[last].end),
        _ => (frames, frames),
    };
    let scores = (0..frames).map(|t| match found.labels[t] {
        label if label as usize != opts.blank => problem.label(t, label),
        _ if t < start || t >= end => problem.edge(t),
        _ => problem.blank(t),
    });
    scores.sum()
}

fn confidences(
    source: &mut Source,
    emissions: &Emissions,
    target: &[usize],
    opts: ConfidenceOptions,
) {
    let n = source.below(emissions.items);
    let utterance = emissions.utterance(n);
    let frames = emissions.frames;
    let labels: Vec<u32> = target.iter().map(|&x| x as u32).collect();
    let values = emissions.item(n, frames);
    let logits = opts.input == InputKind::Logits;
    let item = Item {
        values: &values,
        weighted: &values,
        classes: emissions.classes,
        target,
        blank: opts.blank,
        logits,
    };
    let tokens = token_confidence(&utterance, &labels, opts);
    let posteriors = state_posteriors(&utterance, &labels, opts);
    if opts.normalised {
        return;
    }
    let (tokens, posteriors) = (tokens.unwrap(), posteriors.unwrap());
    assert_eq!(
        (tokens.len(), posteriors.dims()),
        (target.len(), &[frames, 2 * target.len() + 1][..])
    );
    check_words(source, &tokens, &labels);
    if item.is_undefined() {
        return;
    }
    // Posteriors are the same whatever is added to all entries of a frame.
    let Some((counted, _)) = item.counted() else {
        return;
    };
    let plain = lattice::Item {
        log_probs: &counted,
        classes: emissions.classes,
        target,
        blank: opts.blank,
    };
    let sums = plain.sums();
    let close = Tolerance {
        absolute: 1e-5,
        relative: 1e-5,
    };
    close.check(
        "state posteriors",
        &tensors::read(&posteriors),
        &sums.states(&plain),
    );
    let probabilities = item.probabilities();
    let states = sums.states(&plain);
    for (i, (got, want)) in tokens.iter().zip(sums.tokens(&plain)).enumerate() {
        close.check("posterior", &[got.posterior], &[want.posterior]);
        close.check(
            "expected frames",
            &[got.expected_frames],
            &[want.expected_frames],
        );
        let close_frame = Tolerance {
            absolute: 1e-5 * (frames as f64 + 1.0),
            relative: 1e-5,
        };
        close_frame.check(
            "expected frame",
            &[got.expected_frame],
            &[want.expected_frame],
        );
        if want.expected_frames > 0.0 {
            let probability = |t: usize| probabilities[t * emissions.classes + target[i]];
            let posterior = |t: usize| states[t * (2 * target.len() + 1) + 2 * i + 1];
            let weighed = (0..frames).map(|t| posterior(t) * probability(t));
            let want = weighed.sum::<f64>() / want.expected_frames;
            // Where e^x is out of range, so is the mean.
            if (0..frames).all(|t| probability(t) < 1e30) {
                close.check("probability", &[got.probability], &[want]);
            }
        }
    }
}

fn measure(source: &mut Source) -> ConfidenceMeasure {
    let alpha = match source.flag() {
        true => source.number(),
        false => source.pick(&[1.0 / 3.0, 0.5, 1.0, 2.0, 0.1, 5.0]),
    };
    match source.below(4) {
        0 => ConfidenceMeasure::Probability,
        1 => ConfidenceMeasure::Margin,
        2 => ConfidenceMeasure::Gibbs { alpha },
        _ => ConfidenceMeasure::Tsallis { alpha },
    }
}

fn lengths(source: &mut Source, emissions: &Emissions) -> Vec<usize> {
    let frames = emissions.frames;
    let length = |_| frames - source.below(frames.min(4) + 1);
    (0..emissions.items).map(length).collect()
}

/// Confidences of a batch are those of each of its items alone.
fn together(
    source: &mut Source,
    emissions: &Emissions,
    targets: &[Vec<usize>],
    opts: ConfidenceOptions,
) {
    let input_lengths = lengths(source, emissions);
    let counts: Vec<usize> = targets.iter().map(Vec::len).collect();
    let padded = tensors::padded(targets, source.below(2), 3, DType::U32, &Device::Cpu);
    let (input, frames) = (&emissions.tensor, &input_lengths);
    let tokens = token_confidence_batch(input, &padded, frames, &counts, opts);
    let states = state_posteriors_batch(input, &padded, frames, &counts, opts);
    let mut refused = false;
    for (n, target) in targets.iter().enumerate() {
        let utterance = emissions.utterance(n).narrow(0, 0, frames[n]).unwrap();
        let target: Vec<u32> = target.iter().map(|&x| x as u32).collect();
        let alone = token_confidence(&utterance, &target, opts);
        refused |= alone.is_err();
        if let Ok(tokens) = &tokens {
            let alone = alone.unwrap();
            assert_eq!(format!("{alone:?}"), format!("{:?}", tokens[n]), "item {n}");
        }
        if let Ok(states) = &states {
            let alone = state_posteriors(&utterance, &target, opts).unwrap();
            assert_eq!(alone.dims(), states[n].dims());
            let [alone, batch] = [&alone, &states[n]].map(|tensor| bits(&tensors::read(tensor)));
            assert_eq!(alone, batch, "item {n}");
        }
    }
    // Of no items, the arguments may be an error.
    assert!(targets.is_empty() || (tokens.is_err(), states.is_err()) == (refused, refused));
}

/// Confidences of frames are what their definitions say, and so are those of spans.
fn of_frames(source: &mut Source, emissions: &Emissions, opts: ConfidenceOptions) {
    let (measure, lengths) = (measure(source), lengths(source, emissions));
    let batch = frame_confidence_batch(&emissions.tensor, &lengths, measure, opts);
    let mut refused = false;
    for (n, &frames) in lengths.iter().enumerate() {
        let utterance = emissions.utterance(n).narrow(0, 0, frames).unwrap();
        let found = frame_confidence(&utterance, measure, opts);
        if let Ok(batch) = &batch {
            assert_eq!(bits(&batch[n]), bits(found.as_ref().unwrap()), "item {n}");
        }
        let values = emissions.item(n, frames);
        refused |= found.is_err();
        let Ok(found) = found else { continue };
        assert_eq!(found.len(), frames);
        check_frames(&found, &values, emissions.classes, measure, opts.input);
        check_ranges(source, &found);
    }
    assert!(lengths.is_empty() || batch.is_err() == refused);
}

fn check_frames(
    found: &[f64],
    values: &[f64],
    classes: usize,
    measure: ConfidenceMeasure,
    input: InputKind,
) {
    // The entries of log-probabilities may be anything.
    let are_shares = found.iter().all(|x| (0.0..=1.0).contains(x));
    assert!(are_shares || input == InputKind::LogProbs, "{found:?}");
    for (got, row) in found.iter().zip(values.chunks_exact(classes)) {
        let (largest, sum) = match input {
            InputKind::Logits => lattice::softmax_scale(row),
            _ => (0.0, 1.0),
        };
        let p: Vec<f64> = row.iter().map(|x| (x - largest).exp() / sum).collect();
        // The entropies are those of distributions.
        if (p.iter().sum::<f64>() - 1.0).abs() > 1e-9 {
            continue;
        }
        if let Some(want) = measures::confidence(measure, &p) {
            let want = want.clamp(0.0, 1.0);
            assert!(
                (got - want).abs() < 1e-6,
                "{measure:?} of {p:?}: {got}, not {want}"
            );
        }
    }
}

fn check_ranges(source: &mut Source, frames: &[f64]) {
    if frames.iter().any(|x| x.is_nan()) {
        return;
    }
    let ranges: Vec<_> = (0..3)
        .map(|_| source.below(frames.len() + 2)..source.below(frames.len() + 2))
        .collect();
    for aggregation in [
        Aggregation::Mean,
        Aggregation::Product,
        Aggregation::Minimum,
    ] {
        let found = span_confidence(frames, ranges.iter().cloned(), aggregation);
        let parts = ranges.iter().map(|range| frames.get(range.clone()));
        let Some(parts) = parts.collect::<Option<Vec<_>>>() else {
            assert!(found.is_err(), "{ranges:?}");
            return;
        };
        let want = parts
            .iter()
            .map(|part| measures::aggregated(aggregation, part));
        for (got, want) in found.unwrap().into_iter().zip(want) {
            assert!(
                (got - want).abs() < 1e-9,
                "{aggregation:?}: {got}, not {want}"
            );
        }
    }
    let mut probabilities = vec![0.0, 1.0, source.number()];
    probabilities.extend(frames.iter().map(|x| x + source.number() * 1e-3));
    let text = fastq_qualities(probabilities.iter().copied());
    assert_eq!(text.len(), probabilities.len());
    for (&probability, found) in probabilities.iter().zip(text.chars()) {
        let want = measures::fastq(probability);
        assert!(
            want.is_none_or(|want| want == found),
            "{probability}: {found:?}, not {want:?}"
        );
        let back = 1.0 - 10f64.powf(-phred_quality(probability) / 10.0);
        assert!(
            !(-1e3..=1.0).contains(&probability) || (back - probability).abs() < 1e-9,
            "{probability} {back}"
        );
    }
}

/// The confidence of words is that of their tokens.
fn check_words(source: &mut Source, tokens: &[TokenConfidence], labels: &[u32]) {
    let separator = labels.first().copied().unwrap_or(0);
    let mut wanted: Vec<Vec<TokenConfidence>> = vec![Vec::new()];
    for &token in tokens {
        match token.token == separator {
            true => wanted.push(Vec::new()),
            false => wanted.last_mut().unwrap().push(token),
        }
    }
    wanted.retain(|word| !word.is_empty());
    let found = word_confidence(tokens, separator);
    assert_eq!(found.len(), wanted.len());
    for (found, word) in found.iter().zip(&wanted) {
        let least = |of: fn(&TokenConfidence) -> f64| {
            let mut sorted: Vec<f64> = word.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            match sorted.iter().any(|x| x.is_nan()) {
                true => f64::NAN,
                false => sorted[0],
            }
        };
        let product: f64 = word.iter().map(|token| token.probability.ln()).sum();
        let edge = |token: &TokenConfidence, part: f64| match token.expected_frames {
            0.0 => 0.0,
            frames => token.expected_frame + 0.5 + part * frames,
        };
        let want = [
            least(|token| token.probability),
            (product / word.len() as f64).exp(),
            least(|token| token.posterior),
            edge(&word[0], -0.5),
            edge(&word[word.len() - 1], 0.5),
        ];
        let got = [
            found.least,
            found.mean,
            found.posterior,
            found.start,
            found.end,
        ];
        let close = Tolerance {
            absolute: 1e-12,
            relative: 1e-9,
        };
        close.check(&format!("{found:?} of {word:?}"), &got, &want);
        assert!(
            found
                .tokens
                .iter()
                .eq(word.iter().map(|token| &token.token))
        );
    }
    of_vocabulary(source, tokens, labels);
}

/// The same for words of a vocabulary: those of its spans.
fn of_vocabulary(source: &mut Source, tokens: &[TokenConfidence], labels: &[u32]) {
    let vocabulary = knowledge::vocabulary(source, 26);
    let spans: Vec<TokenSpan> = (0..)
        .zip(labels)
        .map(|(start, &token)| TokenSpan {
            token,
            start,
            end: start + 1,
            score: -0.5,
        })
        .collect();
    for word in vocabulary.words(&spans) {
        let found = word.confidence(tokens).unwrap();
        let own = word.tokens.iter().map(|token| tokens[token.index]);
        let own: Vec<TokenConfidence> = own.collect();
        let least = own.iter().map(|token| token.probability);
        let least = least.reduce(f64::min).unwrap();
        assert!(found.least == least || found.least.is_nan(), "{found:?}");
        assert!(found.tokens.iter().eq(own.iter().map(|token| &token.token)));
        // Confidences of fewer labels are not those of the utterance.
        let last = word.tokens.last().unwrap().index;
        assert!(word.confidence(&tokens[..last]).is_err());
    }
}

/// Spans in order, some without frames, which stand where the span before ends.
fn spans(source: &mut Source) {
    let mut end = source.below(3);
    let mut spans: Vec<TokenSpan> = Vec::new();
    for _ in 0..source.below(12) {
        let frames = source.below(4);
        let start = if frames == 0 {
            end
        } else {
            end + source.below(4)
        };
        end = start + frames;
        spans.push(TokenSpan {
            token: source.below(3) as u32,
            start,
            end,
            score: -(source.below(64) as f32) / 8.0,
        });
    }
    for gaps in [Gaps::Left, Gaps::Right, Gaps::Half] {
        check_filled(&spans, &fill_gaps(&spans, gaps), gaps, end);
    }
    let mut wanted: Vec<Vec<TokenSpan>> = vec![Vec::new()];
    for &span in &spans {
        match span.token {
            0 => wanted.push(Vec::new()),
            _ => wanted.last_mut().unwrap().push(span),
        }
    }
    wanted.retain(|word| !word.is_empty());
    let found = group_words(&spans, 0);
    assert_eq!(found.len(), wanted.len());
    for (found, word) in found.iter().zip(wanted) {
        let scores = word
            .iter()
            .flat_map(|span| span.range().map(|frame| (frame, f64::from(span.score))));
        let scores: Vec<(usize, f64)> = scores.collect();
        let (range, score) = match (scores.first(), scores.last()) {
            (Some(first), Some(last)) => {
                let sum: f64 = scores.iter().map(|(_, score)| score).sum();
                (first.0..last.0 + 1, sum / scores.len() as f64)
            }
            _ => (word[0].start..word[word.len() - 1].end, 0.0),
        };
        assert_eq!(found.range(), range, "{word:?}");
        assert!((f64::from(found.score) - score).abs() < 1e-5, "{word:?}");
        assert!(found.tokens.iter().eq(word.iter().map(|span| &span.token)));
    }
}

/// Each frame between two spans goes to the one that the rule names.
fn check_filled(spans: &[TokenSpan], filled: &[TokenSpan], gaps: Gaps, frames: usize) {
    let mut owners: Vec<Option<usize>> = vec![None; frames];
    for (i, span) in spans.iter().enumerate() {
        owners[span.range()].fill(Some(i));
    }
    let plain = owners.clone();
    for (frame, owner) in owners.iter_mut().enumerate() {
        let before = plain[..frame].iter().rposition(Option::is_some);
        let behind = plain[frame..].iter().position(Option::is_some);
        let (None, Some(before), Some(behind)) = (*owner, before, behind) else {
            continue;
        };
        // The gap is from behind `before` to before `behind`.
        let (at, size) = (frame - before - 1, frame + behind - before - 1);
        let to_first = match gaps {
            Gaps::Left => true,
            Gaps::Right => false,
            _ => at < size / 2,
        };
        *owner = plain[if to_first { before } else { frame + behind }];
    }
    assert_eq!(filled.len(), spans.len());
    for (i, (span, filled)) in spans.iter().zip(filled).enumerate() {
        assert_eq!((span.token, span.score), (filled.token, filled.score));
        let own = owners.iter().filter(|owner| **owner == Some(i)).count();
        let first = owners.iter().position(|owner| *owner == Some(i));
        assert_eq!(filled.frames(), own, "{gaps:?}: {spans:?} as {filled:?}");
        assert!(
            first.is_none_or(|first| first == filled.start),
            "{gaps:?}: {spans:?}"
        );
    }
    assert!(filled.windows(2).all(|pair| pair[0].end <= pair[1].start));
}
