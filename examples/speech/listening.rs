//! What an application does with a trained model: texts, times, confidence, re-ranking.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};
use candle_ctc::text::{ErrorRate, Vocabulary, Word, word_error_rate};
use candle_ctc::{
    AlignOptions, ConfidenceOptions, GreedyOptions, Hypothesis, NgramLm, ScoreOptions,
    WordConfidence, forced_align, greedy_decode, rank_transcripts, token_confidence,
};
use candle_nn::ops::log_softmax;

use crate::corpus::{Features, Utterance};
use crate::model::Model;

/// The log-probabilities of each utterance, `(T, C)`.
pub fn emissions(model: &Model, utterances: &[Utterance]) -> Result<Vec<Tensor>> {
    let mut found = Vec::with_capacity(utterances.len());
    for batch in utterances.chunks(16) {
        let items: Vec<&[f32]> = batch.iter().map(|u| u.features.as_slice()).collect();
        let output = model.forward(&Features::new(&items)?)?;
        // Detached: nothing is kept for a gradient.
        let log_probs = log_softmax(&output.logits.detach(), D::Minus1)?;
        for (item, &frames) in output.frames.iter().enumerate() {
            found.push(log_probs.get(item)?.narrow(0, 0, frames)?);
        }
    }
    Ok(found)
}

/// The text along the best path of each utterance, as its only hypothesis.
pub fn best_paths(emissions: &[Tensor]) -> Result<Vec<Vec<Hypothesis>>> {
    let read = |log_probs| Ok(vec![greedy_decode(log_probs, GreedyOptions::default())?]);
    emissions.iter().map(read).collect()
}

/// The words that are wrong along the best path.
pub fn greedy_errors(
    utterances: &[Utterance],
    emissions: &[Tensor],
    vocabulary: &Vocabulary,
) -> Result<ErrorRate> {
    let found = best_paths(emissions)?;
    let items = utterances.iter().zip(&found);
    let errors = items.map(|(utterance, found)| {
        word_error_rate(&utterance.text, &vocabulary.decode(&found[0].tokens))
    });
    Ok(errors.sum())
}

/// The part of all frames whose most probable class is the blank.
pub fn share_of_blanks(emissions: &[Tensor], blank: u32) -> Result<f64> {
    let (mut blanks, mut frames) = (0, 0);
    for log_probs in emissions {
        let best = log_probs.argmax(D::Minus1)?.to_vec1::<u32>()?;
        blanks += best.iter().filter(|&&class| class == blank).count();
        frames += best.len();
    }
    Ok(blanks as f64 / frames as f64)
}

/// The hypotheses of each utterance in a new order: by their likelihood over all alignments, plus `weight` times the
/// score of the language model.
pub fn ranked(
    emissions: &[Tensor],
    found: &[Vec<Hypothesis>],
    vocabulary: &Vocabulary,
    language: &NgramLm,
    weight: f64,
) -> Result<Vec<Vec<Hypothesis>>> {
    let items = emissions.iter().zip(found);
    items
        .map(|(log_probs, hypotheses)| {
            let ranked = rank_transcripts(log_probs, hypotheses, ScoreOptions::default())?;
            let mut scored: Vec<(f64, Hypothesis)> = ranked
                .iter()
                .map(|ranked| {
                    let hypothesis = &hypotheses[ranked.index];
                    let text = vocabulary.decode(&hypothesis.tokens);
                    let words: Vec<&str> = text.split_whitespace().collect();
                    let score = language.score_sentence(&words);
                    (ranked.log_likelihood + weight * score, hypothesis.clone())
                })
                .collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0));
            Ok(scored
                .into_iter()
                .map(|(_, hypothesis)| hypothesis)
                .collect())
        })
        .collect()
}

/// The words of a known text, from the frames that its best path gives them.
pub fn align(
    log_probs: &Tensor,
    utterance: &Utterance,
    vocabulary: &Vocabulary,
) -> Result<Vec<Word>> {
    let alignment = forced_align(log_probs, &utterance.labels, AlignOptions::default())?;
    Ok(vocabulary.words(&alignment.spans))
}

/// How far the boundaries of words are from those of the synthesiser, in seconds: of all starts, and of all ends.
pub fn boundary_distances(
    utterances: &[Utterance],
    emissions: &[Tensor],
    vocabulary: &Vocabulary,
    frame: f64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for (utterance, log_probs) in utterances.iter().zip(emissions) {
        let words = align(log_probs, utterance, vocabulary)?;
        ensure!(
            words.len() == utterance.words.len(),
            "{:?} has {} words and {} times in the manifest",
            utterance.text,
            words.len(),
            utterance.words.len()
        );
        for (word, &(start, end)) in words.iter().zip(&utterance.words) {
            let found = word.seconds(frame);
            starts.push(found.0 - start);
            ends.push(found.1 - end);
        }
    }
    Ok((starts, ends))
}

/// The median; NaN for nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    if count == 0 {
        return f64::NAN;
    }
    (values[(count - 1) / 2] + values[count / 2]) / 2.0
}

/// A word that was heard.
pub struct Heard {
    pub text: String,
    /// Start and end in seconds.
    pub time: (f64, f64),
    pub confidence: WordConfidence,
    /// Whether the word was said there: the same word in the manifest covers the middle of this one.
    pub right: bool,
}

/// The words of a hypothesis with times and confidence.
pub fn heard(
    utterance: &Utterance,
    log_probs: &Tensor,
    found: &Hypothesis,
    vocabulary: &Vocabulary,
    frame: f64,
) -> Result<Vec<Heard>> {
    let tokens = token_confidence(log_probs, &found.tokens, ConfidenceOptions::default())?;
    let said: Vec<(&str, (f64, f64))> = utterance
        .text
        .split(' ')
        .zip(utterance.words.iter().copied())
        .collect();
    let words = vocabulary.words(&found.spans);
    words
        .into_iter()
        .map(|word| {
            let confidence = word.confidence(&tokens)?;
            let time = word.seconds(frame);
            let middle = (time.0 + time.1) / 2.0;
            let right = said
                .iter()
                .any(|&(text, (start, end))| text == word.text && (start..end).contains(&middle));
            Ok(Heard {
                text: word.text,
                time,
                confidence,
                right,
            })
        })
        .collect()
}

/// How well confidence tells right words from wrong ones: the chance that a right word has more of it than a wrong
/// one (the area under the ROC curve). NaN if all are right or all are wrong.
pub fn separation(right: &[f64], wrong: &[f64]) -> f64 {
    let wins: f64 = right
        .iter()
        .flat_map(|r| wrong.iter().map(move |w| r.partial_cmp(w)))
        .map(|order| match order {
            Some(std::cmp::Ordering::Greater) => 1.0,
            Some(std::cmp::Ordering::Equal) => 0.5,
            _ => 0.0,
        })
        .sum();
    wins / (right.len() * wrong.len()) as f64
}

/// The number of texts that are also among the training texts.
pub fn texts_in(train: &[Utterance], utterances: &[Utterance]) -> usize {
    let known: HashSet<&str> = train.iter().map(|u| u.text.as_str()).collect();
    let repeated = utterances
        .iter()
        .filter(|u| known.contains(u.text.as_str()));
    repeated.count()
}
