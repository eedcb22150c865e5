//! What the search may know of the language: words, their order, and names.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use candle_ctc::text::{ErrorRate, Vocabulary, word_error_rate};
use candle_ctc::{
    BeamOptions, Hotwords, Hypothesis, LanguageModel, Lexicon, LexiconOptions, NgramLm,
    NoLanguageModel, WordModel, beam_search_with,
};
use rayon::prelude::*;

use crate::corpus::Utterance;

/// The weight of word trigrams, and the cost of a word that is in no training text. They were chosen before the first
/// measurement, and not tuned.
const WEIGHT: f64 = 0.5;
const UNKNOWN: f64 = -5.0;

/// Language models of the training texts, and hotwords on top.
pub struct Language<'a> {
    lexicon: Lexicon,
    trigrams: Lexicon<&'a NgramLm>,
    open: Lexicon<&'a NgramLm>,
    with_names: Hotwords<Lexicon<&'a NgramLm>>,
}

/// What a search knew, in words, and what it found.
pub type Found = (&'static str, Vec<Vec<Hypothesis>>);

impl<'a> Language<'a> {
    /// `model` is a model of the training texts; `names` are words that may be in none of them, with a boost in nats.
    pub fn new(
        train: &[Utterance],
        model: &'a NgramLm,
        (names, boost): (&BTreeSet<&str>, f64),
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let words = words_of(train);
        let open = |words| lexicon(vocabulary, words, model, UNKNOWN);
        let boosted = names.iter().map(|name| (name, boost));
        Ok(Self {
            lexicon: lexicon(vocabulary, &words, NoLanguageModel, f64::NEG_INFINITY)?,
            trigrams: lexicon(vocabulary, &words, model, f64::NEG_INFINITY)?,
            open: open(&words)?,
            with_names: Hotwords::new(vocabulary, boosted, open(&(&words | names))?)?,
        })
    }

    /// The texts that searches find with more and more knowledge.
    pub fn search(&self, emissions: &[Tensor]) -> Result<Vec<Found>> {
        Ok(vec![
            (
                "beam search, words of the training",
                search(emissions, &self.lexicon)?,
            ),
            (
                "beam search, word trigrams of the training",
                search(emissions, &self.trigrams)?,
            ),
            (
                "beam search, word trigrams, other words allowed",
                search(emissions, &self.open)?,
            ),
            (
                "beam search, the same with names as words and hotwords",
                search(emissions, &self.with_names)?,
            ),
        ])
    }
}

fn lexicon<W: WordModel>(
    vocabulary: &Vocabulary,
    words: &BTreeSet<&str>,
    model: W,
    unknown_score: f64,
) -> Result<Lexicon<W>> {
    let opts = LexiconOptions {
        lm_weight: WEIGHT,
        unknown_score,
        ..Default::default()
    };
    Ok(Lexicon::new(vocabulary, words, model, opts)?)
}

/// The best texts of each utterance, best first.
pub fn search<L: LanguageModel + Sync>(
    emissions: &[Tensor],
    model: &L,
) -> Result<Vec<Vec<Hypothesis>>> {
    let options = BeamOptions {
        beam_width: 32,
        n_best: 16,
        ..Default::default()
    };
    let found = emissions.par_iter().map(|log_probs| {
        let hypotheses = beam_search_with(log_probs, model, options)?;
        ensure!(!hypotheses.is_empty(), "the search found nothing");
        Ok(hypotheses)
    });
    found.collect()
}

/// The words of texts.
pub fn words_of(utterances: &[Utterance]) -> BTreeSet<&str> {
    let texts = utterances.iter();
    texts
        .flat_map(|utterance| utterance.text.split(' '))
        .collect()
}

/// What is wrong in the first hypotheses, and how names fare.
#[derive(Default)]
pub struct Score {
    pub words: ErrorRate,
    /// Names that were said.
    pub said: usize,
    /// Of these, the ones that were found.
    pub found: usize,
    /// Names that were found and not said.
    pub wrong: usize,
}

impl Score {
    pub fn new(
        utterances: &[Utterance],
        found: &[Vec<Hypothesis>],
        vocabulary: &Vocabulary,
        names: &BTreeSet<&str>,
    ) -> Self {
        let mut score = Self::default();
        for (utterance, hypotheses) in utterances.iter().zip(found) {
            let text = vocabulary.decode(&hypotheses[0].tokens);
            score.words += word_error_rate(&utterance.text, &text);
            for name in names {
                let count = |text: &str| text.split(' ').filter(|word| word == name).count();
                let (said, heard) = (count(&utterance.text), count(&text));
                score.said += said;
                score.found += said.min(heard);
                score.wrong += heard.saturating_sub(said);
            }
        }
        score
    }
}
