//! The functions of one utterance give what those of a batch give for each item, in every shape of one utterance.

use crate::common::{Rng, tensors};
use candle_core::{DType, Device, Result, Tensor};
use candle_ctc::{
    AlignOptions, BeamOptions, ConfidenceOptions, GreedyOptions, Hypothesis, InputKind,
    ScoreOptions, TokenConfidence, WordConfidence, beam_search, beam_search_batch, forced_align,
    forced_align_batch, greedy_decode, greedy_decode_batch, pad_targets, rank_transcripts,
    rank_transcripts_batch, score_transcripts, score_transcripts_batch, state_posteriors,
    state_posteriors_batch, token_confidence, token_confidence_batch, word_confidence,
};

const FRAMES: [usize; 4] = [12, 0, 7, 1];
const CLASSES: usize = 5;

fn batch() -> (Tensor, Vec<Vec<u32>>) {
    let values = Rng::new(5).values(FRAMES.len() * 12 * CLASSES, 2.0);
    let input = tensors::floats(&values, &[4, 12, CLASSES], DType::F32, &Device::Cpu);
    (input, vec![vec![1, 1, 3], vec![], vec![4, 2], vec![2, 3]])
}

/// Item `n` as (T, C), (1, T, C) and (T, 1, C).
fn shapes(input: &Tensor, n: usize) -> [Tensor; 3] {
    let alone = input.get(n).unwrap().narrow(0, 0, FRAMES[n]).unwrap();
    let batch_major = alone.unsqueeze(0).unwrap();
    let time_major = alone.unsqueeze(1).unwrap();
    [alone, batch_major, time_major]
}

#[test]
fn one_utterance_is_an_item_of_a_batch() -> Result<()> {
    let (input, targets) = batch();
    let kind = InputKind::Logits;
    let greedy = GreedyOptions {
        input: kind,
        ..GreedyOptions::batch_major()
    };
    let beam = BeamOptions {
        input: kind,
        n_best: 3,
        ..BeamOptions::batch_major()
    };
    let align = AlignOptions {
        input: kind,
        ..AlignOptions::batch_major()
    };
    let confidence = ConfidenceOptions {
        input: kind,
        ..ConfidenceOptions::batch_major()
    };
    let score = ScoreOptions {
        input: kind,
        ..ScoreOptions::batch_major()
    };
    let (padded, lengths) = pad_targets(&targets, &Device::Cpu)?;
    assert_eq!(lengths, [3, 0, 2, 2]);
    let best = greedy_decode_batch(&input, FRAMES, greedy)?;
    let found = beam_search_batch(&input, FRAMES, beam)?;
    let aligned = forced_align_batch(&input, &padded, FRAMES, &lengths, align)?;
    let tokens = token_confidence_batch(&input, &padded, FRAMES, &lengths, confidence)?;
    let states = state_posteriors_batch(&input, &padded, FRAMES, &lengths, confidence)?;
    // The n-best list goes into scores as it is.
    let scores = score_transcripts_batch(&input, FRAMES, &found, score)?;
    let ranked = rank_transcripts_batch(&input, FRAMES, &found, score)?;
    for n in 0..FRAMES.len() {
        for x in shapes(&input, n) {
            assert_eq!(greedy_decode(&x, greedy)?, best[n]);
            assert_eq!(beam_search(&x, beam)?, found[n]);
            assert_eq!(forced_align(&x, &targets[n], align).ok(), aligned[n]);
            assert_eq!(token_confidence(&x, &targets[n], confidence)?, tokens[n]);
            let alone = state_posteriors(&x, &targets[n], confidence)?;
            assert_eq!(alone.dims(), states[n].dims());
            assert_eq!(tensors::read(&alone), tensors::read(&states[n]));
            assert_eq!(score_transcripts(&x, &found[n], score)?, scores[n]);
            assert_eq!(rank_transcripts(&x, &found[n], score)?, ranked[n]);
        }
        // Exact, and above what the beam has.
        for (Hypothesis { score, .. }, &exact) in found[n].iter().zip(&scores[n]) {
            assert!(exact >= score - 1e-6, "{exact} {score}");
        }
    }
    // The target of item 3 needs two frames and has one.
    assert!(aligned[3].is_none() && aligned[2].as_ref().unwrap().tokens == targets[2]);
    assert!(tokens[3].iter().all(|token| token.posterior == 0.0));
    assert_eq!(ranked[3][0].index, 0);
    Ok(())
}

#[test]
fn a_batch_is_refused_with_the_name_of_the_other_function() {
    let (input, _) = batch();
    let lists = [[1u32]];
    let errors = [
        greedy_decode(&input, GreedyOptions::default()).map(drop),
        token_confidence(&input, &[1], ConfidenceOptions::default()).map(drop),
        state_posteriors(&input, &[1], ConfidenceOptions::default()).map(drop),
        score_transcripts(&input, &lists, ScoreOptions::default()).map(drop),
        rank_transcripts(&input, &lists, ScoreOptions::default()).map(drop),
        forced_align(&input, &[1], AlignOptions::default()).map(drop),
        beam_search(&input, BeamOptions::default()).map(drop),
    ];
    let names = [
        "greedy_decode",
        "token_confidence",
        "state_posteriors",
        "score_transcripts",
        "rank_transcripts",
        "forced_align",
        "beam_search",
    ];
    for (error, name) in errors.into_iter().zip(names) {
        let text = error.unwrap_err().to_string();
        let named = text.starts_with(name) && text.contains(&format!("there is {name}_batch"));
        assert!(named && text.contains("[4, 12, 5]"), "{text}");
    }
    let one = input.get(0).unwrap();
    for label in [0, 5, u32::MAX] {
        let error = token_confidence(&one, &[1, label], ConfidenceOptions::default());
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains(&label.to_string()) && text.contains("position 1"),
            "{text}"
        );
    }
}

/// Confidences of a model that is sure of its tokens with these probabilities.
fn confidences(probabilities: &[f64]) -> Vec<TokenConfidence> {
    let rows: Vec<f64> = probabilities
        .iter()
        .flat_map(|&p| [(1.0 - p) / 2.0, (1.0 - p) / 2.0, p])
        .collect();
    let mut rows = Tensor::from_vec(rows, (probabilities.len(), 3), &Device::Cpu).unwrap();
    // Every second token is class 1.
    let swapped = rows
        .index_select(&Tensor::new(&[0u32, 2, 1], &Device::Cpu).unwrap(), 1)
        .unwrap();
    let odd: Vec<Tensor> = (0..probabilities.len())
        .map(|t| if t % 2 == 0 { &rows } else { &swapped }.get(t).unwrap())
        .collect();
    rows = Tensor::stack(&odd, 0).unwrap();
    let target: Vec<u32> = (0..probabilities.len() as u32).map(|t| 2 - t % 2).collect();
    let log_probs = rows.log().unwrap();
    token_confidence(&log_probs, &target, ConfidenceOptions::default()).unwrap()
}

#[test]
fn the_confidence_in_a_word_is_that_of_its_tokens() {
    // As many frames as tokens: one path, whose token t has frame t and a posterior of 1.
    let tokens = confidences(&[0.9, 0.5, 0.8, 0.6]);
    let word = WordConfidence::of(&tokens).unwrap();
    let mean = (0.9f64 * 0.5 * 0.8 * 0.6).powf(0.25);
    assert!((word.least - 0.5).abs() < 1e-12 && (word.mean - mean).abs() < 1e-12);
    assert!((word.posterior - 1.0).abs() < 1e-12);
    assert!((word.start - 0.0).abs() < 1e-12 && (word.end - 4.0).abs() < 1e-12);
    assert_eq!(word.seconds(0.5).1, word.end * 0.5);
    // Class 1 as the separator: two words of a token each, and none where separators meet.
    let words = word_confidence(&tokens, 1);
    assert_eq!((words.len(), words[1].tokens.as_slice()), (2, &[2][..]));
    assert!((words[1].least - 0.8).abs() < 1e-12);
    assert!((words[1].seconds(0.5).0 - 1.0).abs() < 1e-12);
    assert!(word_confidence(&[tokens[1], tokens[3]], 1).is_empty());
    assert_eq!(WordConfidence::of(&[]), None);
    // A token of three frames.
    let certain = Tensor::new(&[[0f64, 1.0]; 3], &Device::Cpu).unwrap();
    let certain = certain.log().unwrap();
    let long = token_confidence(&certain, &[1], ConfidenceOptions::default()).unwrap();
    let long = WordConfidence::of(&long).unwrap();
    assert!(long.start.abs() < 1e-12 && (long.end - 3.0).abs() < 1e-12);
    // A target that does not fit has no place.
    let one = Tensor::new(&[[0.5f64, 0.5]], &Device::Cpu)
        .unwrap()
        .log()
        .unwrap();
    let none = token_confidence(&one, &[1, 1], ConfidenceOptions::default()).unwrap();
    let none = WordConfidence::of(&none).unwrap();
    assert_eq!(
        (none.start, none.end, none.least, none.mean),
        (0.0, 0.0, 0.0, 0.0)
    );
    // What is not a number stays so, wherever it stands.
    let frame = [0.1f64.ln(), 0.45f64.ln(), 0.45f64.ln()];
    let bad = Tensor::new(
        &[frame, [f64::NAN, frame[1], frame[2]], frame],
        &Device::Cpu,
    )
    .unwrap();
    let opts = ConfidenceOptions {
        normalised: false,
        ..Default::default()
    };
    let spoilt = token_confidence(&bad, &[1, 2], opts).unwrap();
    for order in [
        [spoilt[0], tokens[0], tokens[1]],
        [tokens[0], spoilt[0], tokens[1]],
        [tokens[0], tokens[1], spoilt[0]],
    ] {
        let word = WordConfidence::of(&order).unwrap();
        assert!(word.least.is_nan() && word.mean.is_nan() && word.posterior.is_nan());
    }
}
