//! Confidences of frames against their formulas, and what is made of them.

use crate::common::{Rng, tensors};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    Aggregation, ConfidenceMeasure, ConfidenceOptions, Gaps, InputKind, TokenSpan, fastq_qualities,
    fill_gaps, frame_confidence, frame_confidence_batch, phred_quality, span_confidence,
};

const MEASURES: [ConfidenceMeasure; 8] = [
    ConfidenceMeasure::Probability,
    ConfidenceMeasure::Margin,
    ConfidenceMeasure::Gibbs { alpha: 1.0 },
    ConfidenceMeasure::Gibbs { alpha: 0.25 },
    ConfidenceMeasure::Tsallis { alpha: 1.0 },
    ConfidenceMeasure::Tsallis { alpha: 1.0 / 3.0 },
    ConfidenceMeasure::Tsallis { alpha: 0.999999 },
    ConfidenceMeasure::Tsallis { alpha: 2.0 },
];

/// By the definition, from probabilities.
fn by_definition(p: &[f64], measure: ConfidenceMeasure) -> f64 {
    let entropy = |p: &[f64]| -> f64 {
        match measure {
            ConfidenceMeasure::Gibbs { alpha } => p
                .iter()
                .filter(|&&p| p > 0.0)
                .map(|p| -alpha * p.powf(alpha) * p.ln())
                .sum(),
            ConfidenceMeasure::Tsallis { alpha: 1.0 } => {
                p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum()
            }
            ConfidenceMeasure::Tsallis { alpha } => {
                (1.0 - p.iter().map(|p| p.powf(alpha)).sum::<f64>()) / (alpha - 1.0)
            }
            _ => unreachable!(),
        }
    };
    let mut sorted = p.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    match measure {
        ConfidenceMeasure::Probability => sorted[0],
        ConfidenceMeasure::Margin => sorted[0] - sorted[1],
        _ => {
            let uniform = vec![1.0 / p.len() as f64; p.len()];
            (1.0 - entropy(p) / entropy(&uniform)).clamp(0.0, 1.0)
        }
    }
}

#[test]
fn measures_are_those_of_their_formulas() {
    let mut rng = Rng::new(91);
    for classes in [2, 3, 40] {
        let logits = rng.values(6 * classes, 5.0);
        let rows: Vec<Vec<f64>> = logits
            .chunks_exact(classes)
            .map(|row| {
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                row.iter().map(|x| x.exp() / sum).collect()
            })
            .collect();
        for measure in MEASURES {
            let want: Vec<f64> = rows.iter().map(|p| by_definition(p, measure)).collect();
            for dtype in [DType::F64, DType::F32] {
                let input = tensors::floats(&logits, &[6, classes], dtype, &Device::Cpu);
                let opts = ConfidenceOptions {
                    input: InputKind::Logits,
                    ..Default::default()
                };
                let got = frame_confidence(&input, measure, opts).unwrap();
                let log_probs = candle_nn::ops::log_softmax(&input, 1).unwrap();
                let same = frame_confidence(&log_probs, measure, ConfidenceOptions::default());
                let within = if dtype == DType::F64 { 1e-9 } else { 1e-5 };
                for ((got, same), want) in got.iter().zip(same.unwrap()).zip(&want) {
                    assert!((got - want).abs() < within, "{measure:?}: {got}, {want}");
                    assert!((same - want).abs() < within, "{measure:?}: {same}, {want}");
                }
            }
        }
    }
}

#[test]
fn certainty_is_1_and_no_knowledge_is_0() {
    let none = f64::NEG_INFINITY;
    let third = (1f64 / 3.0).ln();
    let rows = [0.0, none, none, third, third, third];
    let input = tensors::floats(&rows, &[2, 3], DType::F64, &Device::Cpu);
    for measure in MEASURES {
        let got = frame_confidence(&input, measure, ConfidenceOptions::default()).unwrap();
        let uniform = match measure {
            ConfidenceMeasure::Probability => 1.0 / 3.0,
            _ => 0.0,
        };
        assert!(
            (got[0] - 1.0).abs() < 1e-9 && (got[1] - uniform).abs() < 1e-9,
            "{measure:?} {got:?}"
        );
    }
    // One class is always certain.
    let one = Tensor::zeros((2, 1), DType::F32, &Device::Cpu).unwrap();
    for measure in MEASURES {
        let got = frame_confidence(&one, measure, ConfidenceOptions::default()).unwrap();
        assert_eq!(got, [1.0, 1.0], "{measure:?}");
    }
}

/// C^(1−α) underflows here.
#[test]
fn an_entropy_with_a_large_alpha_is_a_number() {
    let third = (1f64 / 3.0).ln();
    let rows = [0.0, -800.0, -800.0, third, third, third];
    let input = tensors::floats(&rows, &[2, 3], DType::F64, &Device::Cpu);
    let measure = ConfidenceMeasure::Gibbs { alpha: 1000.0 };
    let got = frame_confidence(&input, measure, ConfidenceOptions::default()).unwrap();
    assert!(got[0] == 1.0 && got[1].abs() < 1e-9, "{got:?}");
}

/// Two powers nearly cancel; and a probability of e^−800 underflows, while its power is e^−0.8.
#[test]
fn an_entropy_of_tsallis_keeps_its_digits() {
    let rows = [0.5f64, 0.3, 0.2].map(f64::ln);
    let input = tensors::floats(&rows, &[1, 3], DType::F64, &Device::Cpu);
    let opts = ConfidenceOptions::default();
    let of = |input: &Tensor, alpha: f64| {
        let measure = ConfidenceMeasure::Tsallis { alpha };
        frame_confidence(input, measure, opts).unwrap()[0]
    };
    assert!((of(&input, 1.0 - 1e-12) - of(&input, 1.0)).abs() < 1e-9);
    let input = tensors::floats(&[0.0, -800.0, -800.0], &[1, 3], DType::F64, &Device::Cpu);
    // p^α is e^−0.8 for two of the classes.
    let want = 1.0 - 2.0 * (-0.8f64).exp() / (3f64.powf(0.999) - 1.0);
    assert!((of(&input, 0.001) - want).abs() < 1e-9);
}

#[test]
fn logits_in_place_of_log_probabilities_are_an_error() {
    let input = Tensor::full(3f32, (2, 4), &Device::Cpu).unwrap();
    let opts = ConfidenceOptions::default();
    let error = frame_confidence(&input, ConfidenceMeasure::Probability, opts).unwrap_err();
    assert!(error.to_string().contains("look like logits"), "{error}");
    let opts = ConfidenceOptions {
        normalised: false,
        ..opts
    };
    assert!(frame_confidence(&input, ConfidenceMeasure::Probability, opts).is_ok());
}

#[test]
fn items_of_a_batch_are_as_alone_and_errors_name_them() {
    let mut rng = Rng::new(92);
    let mut values = rng.values(3 * 5 * 4, 3.0);
    let opts = ConfidenceOptions {
        input: InputKind::Logits,
        ..ConfidenceOptions::batch_major()
    };
    let measure = ConfidenceMeasure::Gibbs { alpha: 0.5 };
    // Behind the length of an item nothing is read.
    values[5 * 4 + 3 * 4 + 1] = f64::NAN;
    let input = |values: &[f64]| tensors::floats(values, &[3, 5, 4], DType::F32, &Device::Cpu);
    let lengths = [5, 3, 0];
    let got = frame_confidence_batch(&input(&values), lengths, measure, opts).unwrap();
    for (n, frames) in lengths.into_iter().enumerate() {
        let item = input(&values)
            .narrow(0, n, 1)
            .unwrap()
            .narrow(1, 0, frames)
            .unwrap();
        assert_eq!(got[n], frame_confidence(&item, measure, opts).unwrap());
        assert_eq!(got[n].len(), frames);
    }
    values[5 * 4 + 2 * 4 + 1] = f64::INFINITY;
    let error = frame_confidence_batch(&input(&values), lengths, measure, opts);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("item 1") && error.contains("frame 2, class 1"),
        "{error}"
    );
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let measure = ConfidenceMeasure::Tsallis { alpha };
        let error = frame_confidence_batch(&input(&[0.0; 60]), lengths, measure, opts);
        assert!(error.unwrap_err().to_string().contains("alpha = "));
    }
}

#[test]
fn spans_aggregate_their_frames() {
    let frames = [0.5, 1.0, 0.25, f64::NAN];
    let of = |aggregation| span_confidence(&frames, [0..3, 1..1, 2..4], aggregation).unwrap();
    for (aggregation, want) in [
        (Aggregation::Mean, 1.75 / 3.0),
        (Aggregation::Minimum, 0.25),
        (Aggregation::Product, 0.125),
    ] {
        let got = of(aggregation);
        assert_eq!(got[..2], [want, 0.0], "{aggregation:?}");
        assert!(got[2].is_nan(), "{aggregation:?}");
    }
    let frames = [f64::NAN, 0.5, 0.75, 1.0];
    let least = span_confidence(&frames, [0..2, 1..3], Aggregation::Minimum).unwrap();
    assert!(least[0].is_nan() && least[1] == 0.5, "{least:?}");
    let error = span_confidence(&frames, [0..1, 3..5], Aggregation::Mean).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("span 1 has the frames 3..5, but there are 4")
    );
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = span_confidence(&frames, [0..1, 3..1], Aggregation::Mean);
    assert!(backwards.is_err());
}

#[test]
fn qualities_are_phreds() {
    assert_eq!(phred_quality(0.0), 0.0);
    assert_eq!(phred_quality(1.0), f64::INFINITY);
    assert!((phred_quality(0.5) - 3.0103).abs() < 1e-4);
    assert_eq!(
        fastq_qualities([0.0, 0.5, 0.99, 1.0, f64::NAN, 1.5, -3.0]),
        "!$5~!!!"
    );
    assert_eq!(fastq_qualities([]), "");
}

fn span(start: usize, end: usize) -> TokenSpan {
    TokenSpan {
        token: 1,
        start,
        end,
        score: -0.5,
    }
}

fn filled(spans: &[TokenSpan], gaps: Gaps) -> Vec<(usize, usize)> {
    let filled = fill_gaps(spans, gaps);
    assert!(
        filled
            .iter()
            .zip(spans)
            .all(|(a, b)| (a.token, a.score) == (b.token, b.score))
    );
    filled.iter().map(|span| (span.start, span.end)).collect()
}

#[test]
fn gaps_are_shared_out() {
    let spans = [span(3, 4), span(4, 6), span(11, 12), span(14, 15)];
    assert_eq!(
        filled(&spans, Gaps::Left),
        [(3, 4), (4, 11), (11, 14), (14, 15)]
    );
    assert_eq!(
        filled(&spans, Gaps::Right),
        [(3, 4), (4, 6), (6, 12), (12, 15)]
    );
    assert_eq!(
        filled(&spans, Gaps::Half),
        [(3, 4), (4, 8), (8, 13), (13, 15)]
    );
    // Spans without frames stay behind the one before them, also at either end.
    let spans = [span(0, 0), span(2, 3), span(3, 3), span(7, 8), span(8, 8)];
    assert_eq!(
        filled(&spans, Gaps::Left),
        [(0, 0), (2, 7), (7, 7), (7, 8), (8, 8)]
    );
    assert_eq!(
        filled(&spans, Gaps::Right),
        [(0, 0), (2, 3), (3, 3), (3, 8), (8, 8)]
    );
    assert!(fill_gaps(&[], Gaps::Half).is_empty());
}
