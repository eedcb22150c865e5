//! The best path against a plain recursion, and confidences against the plain lattice.

#![no_main]

use candle_core::{DType, Device};
use candle_ctc::{
    Aggregation, AlignOptions, Alignment, ConfidenceMeasure, ConfidenceOptions, Gaps, InputKind,
    Wildcard, fill_gaps, forced_align, forced_align_batch, frame_confidence, group_words,
    span_confidence, state_posteriors, token_confidence, word_confidence,
};
use candle_ctc_fuzz::best_path::Problem;
use candle_ctc_fuzz::common::tolerance::Tolerance;
use candle_ctc_fuzz::common::{lattice, tensors};
use candle_ctc_fuzz::{Emissions, Item, Source};
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
    match source.below(3) {
        0 if items > 0 => confidences(
            source,
            &emissions,
            &targets[0],
            ConfidenceOptions {
                blank,
                input,
                normalised,
                ..Default::default()
            },
        ),
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
    let measure = match source.below(4) {
        0 => ConfidenceMeasure::Probability,
        1 => ConfidenceMeasure::Margin,
        2 => ConfidenceMeasure::Gibbs {
            alpha: source.number(),
        },
        _ => ConfidenceMeasure::Tsallis {
            alpha: source.number(),
        },
    };
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
    if let Ok(found) = frame_confidence(&utterance, measure, opts) {
        assert_eq!(found.len(), frames);
        if logits && !item.is_undefined() {
            assert!(
                found.iter().all(|x| (-1e-6..=1.0 + 1e-6).contains(x)),
                "{measure:?}: {found:?}"
            );
        }
        let spans = [
            0..frames,
            frames / 2..frames,
            source.below(9)..source.below(9),
        ];
        let _ = span_confidence(
            &found,
            spans,
            source.pick(&[Aggregation::Mean, Aggregation::Minimum]),
        );
    }
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
    let _ = word_confidence(&tokens, labels.first().copied().unwrap_or(0));
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
