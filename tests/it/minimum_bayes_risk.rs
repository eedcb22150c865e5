//! Minimum-Bayes-risk decoding against the expected distance over all paths.

use crate::common::oracle::collapse;
use crate::common::{Rng, tensors};
use candle_core::{DType, Device};
use candle_ctc::{InputKind, ScoreOptions, minimum_bayes_risk, score_transcripts};
use std::collections::BTreeSet;

/// The edit distance, from its definition.
fn distance(a: &[u32], b: &[u32]) -> f64 {
    match (a, b) {
        ([], rest) | (rest, []) => rest.len() as f64,
        ([x, more_a @ ..], [y, more_b @ ..]) => {
            let replaced = distance(more_a, more_b) + f64::from(u8::from(x != y));
            replaced
                .min(distance(a, more_b) + 1.0)
                .min(distance(more_a, b) + 1.0)
        }
    }
}

/// The labels of each of the `classes ^ frames` paths, and the probability of the path.
fn paths(logits: &[f64], classes: usize) -> Vec<(Vec<u32>, f64)> {
    let frames = logits.len() / classes;
    let path = |mut number: usize| {
        let mut path = Vec::new();
        let mut probability = 1.0;
        for row in logits.chunks_exact(classes) {
            let class = number % classes;
            number /= classes;
            path.push(class);
            probability *= row[class].exp() / row.iter().map(|x| x.exp()).sum::<f64>();
        }
        let labels = collapse(&path, 0);
        (
            labels.into_iter().map(|label| label as u32).collect(),
            probability,
        )
    };
    (0..classes.pow(frames as u32)).map(path).collect()
}

#[test]
fn the_choice_has_the_least_expected_distance_over_all_paths() {
    let mut differs = 0;
    for seed in 0..60 {
        let (frames, classes) = (4, 3);
        let logits = Rng::new(seed).values(frames * classes, 1.5);
        let paths = paths(&logits, classes);
        let all: BTreeSet<Vec<u32>> = paths.iter().map(|(labels, _)| labels.clone()).collect();
        let all: Vec<Vec<u32>> = all.into_iter().collect();
        let input = tensors::floats(&logits, &[frames, classes], DType::F64, &Device::Cpu);
        let opts = ScoreOptions {
            input: InputKind::Logits,
            softmax: true,
            ..Default::default()
        };
        let weights = score_transcripts(&input, &all, opts).unwrap();
        let risk = |found: &[u32]| -> f64 {
            paths
                .iter()
                .map(|(said, p)| p * distance(said, found))
                .sum()
        };
        let least = all
            .iter()
            .map(|found| risk(found))
            .fold(f64::INFINITY, f64::min);
        let edits = |said: &Vec<u32>, found: &Vec<u32>| distance(said, found);
        let chosen = minimum_bayes_risk(&all, &weights, edits).unwrap();
        assert!(risk(&all[chosen]) <= least + 1e-12, "seed {seed}");
        // The scale of the weights is of no account.
        let scaled: Vec<f64> = weights.iter().map(|weight| weight * 8.0).collect();
        assert_eq!(minimum_bayes_risk(&all, &scaled, edits).unwrap(), chosen);

        // If all errors cost the same, the choice is the most probable transcript.
        let most = (0..all.len())
            .max_by(|&a, &b| weights[a].total_cmp(&weights[b]))
            .unwrap();
        let unequal = |a: &Vec<u32>, b: &Vec<u32>| f64::from(u8::from(a != b));
        assert_eq!(minimum_bayes_risk(&all, &weights, unequal).unwrap(), most);
        differs += usize::from(most != chosen);
    }
    assert!(differs > 5, "{differs}");
}

#[test]
fn the_distance_is_from_what_was_said_to_what_was_found() {
    // To find 1 where 0 was said costs 5; the other way round costs 1.
    let costs = |&said: &usize, &found: &usize| [[0.0, 5.0], [1.0, 0.0]][said][found];
    assert_eq!(minimum_bayes_risk(&[0, 1], &[0.4, 0.6], costs).unwrap(), 0);
    let turned = |said: &usize, found: &usize| costs(found, said);
    assert_eq!(minimum_bayes_risk(&[0, 1], &[0.4, 0.6], turned).unwrap(), 1);
    // The first of equals, and one that stands alone.
    assert_eq!(
        minimum_bayes_risk(&[0, 0, 0], &[0.2, 0.5, 0.3], costs).unwrap(),
        0
    );
    assert_eq!(minimum_bayes_risk(&[1], &[1e-300], costs).unwrap(), 0);
}

#[test]
fn lists_and_weights_that_do_not_fit_are_errors() {
    let near = |a: &f64, b: &f64| (a - b).abs();
    for (list, weights, expected) in [
        (&[][..], &[][..], "no hypotheses"),
        (&[1.0, 2.0], &[1.0], "2 hypotheses and 1 weights"),
        (&[1.0, 2.0], &[0.5, -0.5], "weights[1] = -0.5"),
        (&[1.0, 2.0], &[f64::NAN, 0.5], "weights[0] = NaN"),
        (&[1.0, 2.0], &[0.5, f64::INFINITY], "weights[1] = inf"),
        (&[1.0, 2.0], &[0.0, 0.0], "all 2 weights are 0"),
        (
            &[1.0, f64::NAN],
            &[0.5, 0.5],
            "from hypothesis 1 to hypothesis 0 is NaN",
        ),
    ] {
        let error = minimum_bayes_risk(list, weights, near)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("minimum_bayes_risk: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
