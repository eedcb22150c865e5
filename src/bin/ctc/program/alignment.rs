//! The alignment of a transcript with an utterance.

use super::cli::FitArgs;
use super::errors::short;
use super::input::Source;
use super::spelling::{Spelled, spell};
use anyhow::{Result, ensure};
use candle_ctc::text::{Unspellable, Unspelled, Word};
use candle_ctc::{AlignOptions, Alignment, Feasibility, TokenSpan, Wildcard, forced_align};

/// An alignment with its words and texts.
pub struct Aligned {
    pub text: String,
    pub alignment: Alignment,
    /// Where the vocabulary could not spell a word, it reads as the transcript does.
    pub words: Vec<Word>,
    /// The token of each span, or the text that the vocabulary could not spell.
    pub tokens: Vec<String>,
    /// The label of such text.
    pub star: Option<u32>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Seconds from one frame to the next.
    pub hop: f64,
    pub frames: usize,
}

impl Aligned {
    /// `hop`: seconds from one frame to the next.
    pub fn new(source: &Source, text: &str, fit: &FitArgs, hop: f64) -> Result<Self> {
        let vocabulary = source.vocabulary;
        let star = fit.lossy.map(|_| vocabulary.class_count() as u32);
        let unspellable = match star {
            Some(star) => Some(Unspellable::Star(star)),
            None => fit.skip.then_some(Unspellable::Skip),
        };
        let hint = "--skip leaves it out, and --lossy lets it stand for any audio";
        let Spelled {
            labels,
            unspelled,
            notes,
        } = spell(vocabulary, text, unspellable, hint)?;
        let alignment = align(source, &labels, star, fit)?;
        let mut words = vocabulary.words(&alignment.spans);
        let token = |span: &TokenSpan| vocabulary.token(span.token).unwrap_or(STAR).to_owned();
        let mut tokens: Vec<String> = alignment.spans.iter().map(token).collect();
        let stars = (0..labels.len()).filter(|&index| Some(labels[index]) == star);
        restore(
            &unspelled,
            &stars.collect::<Vec<_>>(),
            &mut words,
            &mut tokens,
        );
        Ok(Self {
            text: text.to_owned(),
            words,
            tokens,
            star,
            notes,
            hop,
            frames: source.frames,
            alignment,
        })
    }

    /// Seconds of the whole utterance.
    pub fn duration(&self) -> f64 {
        self.frames as f64 * self.hop
    }
}

/// What stands for a star in the text of a word.
const STAR: &str = "\u{fffd}";

fn align(source: &Source, labels: &[u32], star: Option<u32>, fit: &FitArgs) -> Result<Alignment> {
    ensure!(!labels.is_empty(), "the transcript is empty");
    let fits = Feasibility::of(labels, source.frames);
    ensure!(
        fits.feasible,
        "the transcript needs {} frames, but there are only {}",
        fits.frames_needed,
        source.frames
    );
    let mut opts = AlignOptions {
        blank: source.vocabulary.blank(),
        star,
        outside: fit.partial.map(|penalty| Wildcard::Largest { penalty }),
        ..Default::default()
    };
    if let Some(penalty) = fit.lossy {
        opts.star_emission = Wildcard::Constant(-penalty);
    }
    forced_align(&source.log_probs, labels, opts).map_err(short)
}

/// Puts the text that could not be spelled in place of its stars, which have these indices.
fn restore(unspelled: &[Unspelled], stars: &[usize], words: &mut [Word], tokens: &mut [String]) {
    // A space has no star.
    let texts = unspelled.iter().map(|part| part.text.as_str());
    let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
    if stars.len() != texts.len() {
        return;
    }
    for (&index, text) in stars.iter().zip(&texts) {
        tokens[index] = (*text).to_owned();
    }
    // The indices are in order.
    let text_of = |index: usize| stars.binary_search(&index).ok().map(|at| texts[at]);
    for word in words {
        let of_word = word.tokens.iter().map(|token| token.index);
        let mut of_word = of_word.filter_map(text_of).peekable();
        if of_word.peek().is_none() {
            continue;
        }
        // Each in place of a star of its own: a text may have the character that stands for a star.
        let mut text = String::new();
        for (number, part) in word.text.split(STAR).enumerate() {
            if number > 0 {
                text += of_word.next().unwrap_or(STAR);
            }
            text += part;
        }
        word.text = text;
        for token in &mut word.tokens {
            if let Some(text) = text_of(token.index) {
                token.text = text.to_owned();
            }
        }
    }
}
