//! The alignment of a transcript with an utterance.

use super::cli::FitArgs;
use super::errors::short;
use super::input::Source;
use super::spelling::{Spelled, beginning, spell};
use anyhow::{Result, ensure};
use candle_ctc::text::{Unspellable, Unspelled, Vocabulary, Word};
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
        ensure!(
            !labels.is_empty() || unspelled.is_empty(),
            "the vocabulary can spell nothing of the transcript {:?}",
            beginning(text)
        );
        let alignment = align(source, &labels, star, fit)?;
        let stars = stars(&labels, star, &unspelled);
        let mut words = words(vocabulary, &alignment.spans, text, &stars);
        let token = |span: &TokenSpan| vocabulary.token(span.token).unwrap_or(STAR).to_owned();
        let mut tokens: Vec<String> = alignment.spans.iter().map(token).collect();
        restore(&stars, &mut words, &mut tokens);
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

/// The index of a star among the labels, and the text that it stands for.
type Starred<'a> = (usize, &'a Unspelled);

/// The stars in order.
fn stars<'a>(labels: &[u32], star: Option<u32>, unspelled: &'a [Unspelled]) -> Vec<Starred<'a>> {
    let indices = (0..labels.len()).filter(|&index| Some(labels[index]) == star);
    let indices: Vec<usize> = indices.collect();
    // A space has no star.
    let texts = unspelled.iter().filter(|part| !part.text.trim().is_empty());
    let texts: Vec<&Unspelled> = texts.collect();
    if indices.len() != texts.len() {
        return Vec::new();
    }
    indices.into_iter().zip(texts).collect()
}

/// The words of an alignment of `text`. Tokens may mark words, which a star does not: there the text tells where they
/// begin and end.
fn words(
    vocabulary: &Vocabulary,
    spans: &[TokenSpan],
    text: &str,
    stars: &[Starred<'_>],
) -> Vec<Word> {
    let is_border = |c: Option<char>| c.is_none_or(char::is_whitespace);
    let mut borders = Vec::new();
    for &(index, part) in stars {
        if is_border(text[..part.start].chars().next_back()) {
            borders.push(index);
        }
        if is_border(text[part.end..].chars().next()) {
            borders.push(index + 1);
        }
    }
    borders.push(spans.len());
    let mut words = Vec::new();
    let mut start = 0;
    for end in borders {
        let mut found = vocabulary.words(&spans[start..end]);
        for token in found.iter_mut().flat_map(|word| &mut word.tokens) {
            token.index += start;
        }
        if let (Some(first), false) = (found.first_mut(), words.is_empty()) {
            first.space_before = true;
        }
        words.append(&mut found);
        start = end;
    }
    words
}

/// Puts the text that could not be spelled in place of its stars.
fn restore(stars: &[Starred<'_>], words: &mut [Word], tokens: &mut [String]) {
    // With one space between words, as elsewhere in the results.
    let one_line = |part: &Unspelled| part.text.split_whitespace().collect::<Vec<_>>().join(" ");
    for &(index, part) in stars {
        tokens[index] = one_line(part);
    }
    // The indices are in order.
    let text_of = |index: usize| {
        let found = stars.binary_search_by_key(&index, |(index, _)| *index).ok();
        found.map(|at| tokens[stars[at].0].as_str())
    };
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
