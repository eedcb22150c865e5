//! Reading with what is known of the language: letters that follow each other, words, and names.

use std::collections::BTreeSet;

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, Hotwords, Hypothesis, Lexicon, LexiconOptions, NgramLm, NoLanguageModel,
    TokenNgram, beam_search_batch_with,
};
use candle_nn::ops::log_softmax;

use crate::data::{ALPHABET, Batch, Line, Lines, decode};
use crate::model::Crnn;
use crate::reading::Errors;

/// The lines of training whose text the letters are counted in.
const TEXTS: u64 = 20_000;

/// The weight of the letters, the cost of a word that is not listed, and the boost of a name. They were chosen before the
/// first measurement, and not tuned.
const WEIGHT: f64 = 0.5;
const UNKNOWN: f64 = -2.0;
const BOOST: f64 = 3.0;

/// What was read with some knowledge.
pub struct Reading {
    pub knowledge: &'static str,
    pub errors: Errors,
    /// Made-up words, which no line of training had, and how many of them were read without a mistake.
    pub new_words: usize,
    pub right: usize,
}

/// Reads the first `count` held-out lines with a beam search that knows more and more.
pub fn readings(
    model: &Crnn,
    train: &Lines,
    held_out: &Lines,
    count: usize,
    device: &Device,
) -> Result<Vec<Reading>> {
    let lines = held_out.lines(0, count)?;
    let scored = Scored::new(model, &lines, device)?;

    let letters = ALPHABET.chars().map(String::from);
    let vocabulary = Vocabulary::from_tokens(std::iter::once("<blank>".into()).chain(letters))?;
    let texts: Vec<String> = (0..TEXTS).map(|index| train.text(index)).collect();
    let letters = texts.iter().map(|text| text.chars().map(String::from));
    let letters = NgramLm::from_sentences(5, letters)?;
    let letters = TokenNgram::new(&letters, &vocabulary)?;
    let opts = LexiconOptions {
        unknown_score: UNKNOWN,
        ..Default::default()
    };
    let lexicon = Lexicon::new(&vocabulary, train.words(), NoLanguageModel, opts)?;

    // The words that no training text has, as the names that a form may ask for, and as many that no line has.
    let known: BTreeSet<&str> = texts.iter().flat_map(|text| text.split(' ')).collect();
    let other: Vec<String> = (0..count as u64)
        .map(|at| held_out.text(1 << 32 | at))
        .collect();
    let said = lines.iter().map(|line| line.text.as_str());
    let words = |texts: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        let words = texts.flat_map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        words
            .filter(|word| !known.contains(word.as_str()))
            .collect()
    };
    let new_words = words(&mut said.clone());
    let names = words(&mut said.chain(other.iter().map(String::as_str)));
    let names: Vec<_> = names.iter().map(|name| (name, BOOST)).collect();
    let names = Hotwords::new(&vocabulary, names, NoLanguageModel)?;

    let opts = BeamOptions {
        lm_weight: WEIGHT,
        ..Default::default()
    };
    let all = BeamOptions::default();
    Ok(vec![
        scored.read("nothing", &lines, &new_words, |x, lengths| {
            beam_search_batch_with(x, lengths, &NoLanguageModel, all)
        })?,
        scored.read(
            "letters of the training",
            &lines,
            &new_words,
            |x, lengths| beam_search_batch_with(x, lengths, &letters, opts),
        )?,
        scored.read("English words", &lines, &new_words, |x, lengths| {
            beam_search_batch_with(x, lengths, &lexicon, all)
        })?,
        scored.read("new words as hotwords", &lines, &new_words, |x, lengths| {
            beam_search_batch_with(x, lengths, &names, all)
        })?,
    ])
}

/// The log-probabilities of batches of lines, and their frames.
struct Scored(Vec<(Tensor, Vec<usize>)>);

impl Scored {
    fn new(model: &Crnn, lines: &[Line], device: &Device) -> Result<Self> {
        let score = |lines: &[Line]| {
            let batch = Batch::new(lines, device)?;
            let scores = model.forward(&batch.images)?.detach();
            let frames = batch
                .widths
                .iter()
                .map(|&width| Crnn::frames(width))
                .collect();
            Ok((log_softmax(&scores, D::Minus1)?, frames))
        };
        Ok(Self(lines.chunks(32).map(score).collect::<Result<_>>()?))
    }

    fn read(
        &self,
        knowledge: &'static str,
        lines: &[Line],
        new_words: &BTreeSet<String>,
        search: impl Fn(&Tensor, &[usize]) -> candle_core::Result<Vec<Vec<Hypothesis>>>,
    ) -> Result<Reading> {
        let mut reading = Reading {
            knowledge,
            errors: Errors::default(),
            new_words: 0,
            right: 0,
        };
        let mut found = Vec::new();
        for (log_probs, frames) in &self.0 {
            found.extend(search(log_probs, frames)?);
        }
        for (line, hypotheses) in lines.iter().zip(&found) {
            let read = hypotheses
                .first()
                .map_or(String::new(), |best| decode(&best.tokens));
            reading.errors.count(&line.text, &read);
            for word in line
                .text
                .split(' ')
                .filter(|word| new_words.contains(*word))
            {
                reading.new_words += 1;
                reading.right += usize::from(read.split(' ').any(|other| other == word));
            }
        }
        Ok(reading)
    }
}
