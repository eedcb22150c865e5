//! From labels to text and words.

use super::surface::{WordMark, is_ideograph};
use super::vocabulary::Vocabulary;
use crate::confidence::{TokenConfidence, WordConfidence};
use crate::spans::{TokenSpan, mean_score, range_of};
use candle_core::{Error, Result};
use std::ops::Range;

/// A word with its place in the utterance. From [`Vocabulary::words`].
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// The text, without the marks of words.
    pub text: String,
    /// The first frame of its first token that has frames.
    pub start: usize,
    /// One past the last frame of its last token that has frames.
    pub end: usize,
    /// The mean log-probability over the frames of its tokens, in nats, as [`WordSpan::score`](crate::WordSpan::score).
    pub score: f32,
    /// Whether a space stands between this word and the one before it: true but for the first word and within text
    /// whose script has no spaces.
    pub space_before: bool,
    /// The tokens.
    pub tokens: Vec<WordToken>,
}

/// A token of a [`Word`].
#[derive(Debug, Clone, PartialEq)]
pub struct WordToken {
    /// The token, as the vocabulary writes it.
    pub text: String,
    /// The class, the frames and the score.
    pub span: TokenSpan,
    /// The index of the span in the argument of [`Vocabulary::words`]. Tokens that are not printed, separators and marks
    /// that stand alone are in no word, and a token with a space in the middle is in two.
    pub index: usize,
}

impl Word {
    /// Start and end in seconds, for frames `seconds_per_frame` seconds apart.
    pub fn seconds(&self, seconds_per_frame: f64) -> (f64, f64) {
        (
            self.start as f64 * seconds_per_frame,
            self.end as f64 * seconds_per_frame,
        )
    }

    /// The confidence in this word, from that in each token of the utterance: what
    /// [`token_confidence`](crate::token_confidence) gives for the labels whose spans [`Vocabulary::words`] was given.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_ctc::text::Vocabulary;
    /// use candle_ctc::{ConfidenceOptions, GreedyOptions, greedy_decode, token_confidence};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁a", "▁b"])?;
    /// let p = [[0.1f32, 0.8, 0.1], [0.2, 0.2, 0.6]];
    /// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
    /// let best = greedy_decode(&log_probs, GreedyOptions::default())?;
    /// let tokens = token_confidence(&log_probs, &best.tokens, ConfidenceOptions::default())?;
    /// let words = vocabulary.words(&best.spans);
    /// assert!(words[0].confidence(&tokens)?.least > words[1].confidence(&tokens)?.least);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If `tokens` has no entry for a token of this word, or one of another label.
    pub fn confidence(&self, tokens: &[TokenConfidence]) -> Result<WordConfidence> {
        let of_token = |token: &WordToken| {
            let found = tokens.get(token.index);
            found
                .filter(|found| found.token == token.span.token)
                .copied()
        };
        let of_word: Option<Vec<TokenConfidence>> = self.tokens.iter().map(of_token).collect();
        let confidence = of_word.and_then(|tokens| WordConfidence::of(&tokens));
        confidence.ok_or_else(|| {
            let labels = self.tokens.iter().map(|token| (token.index, token.span.token));
            Error::Msg(format!(
                "confidence of the word {:?}: its tokens (index, label) are {:?}, and there are {} confidences, which do \
                 not have them all; give those of all labels of the utterance",
                self.text,
                labels.collect::<Vec<_>>(),
                tokens.len()
            ))
        })
    }
}

impl Vocabulary {
    /// The text of labels, with one space between words and none at the ends.
    ///
    /// The blank and other tokens that are not printed are left out. A label that is no class of the vocabulary, such
    /// as a star, becomes U+FFFD, as does a byte that is part of no character.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["[PAD]", "the", "cat", "##s"])?;
    /// assert_eq!(vocabulary.decode(&[1, 2, 3]), "the cats");
    /// # Ok(())
    /// # }
    /// ```
    pub fn decode(&self, labels: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &label in labels {
            let surface = self.printed(label);
            if self.mark == WordMark::EachToken && !surface.is_empty() {
                bytes.push(b' ');
            }
            bytes.extend_from_slice(surface);
        }
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }

    /// The words of an utterance, from the spans of its tokens, as [`forced_align`](crate::forced_align) and
    /// [`greedy_decode`](crate::greedy_decode) give them.
    ///
    /// Words are separated by the spaces in the text of [`Self::decode`]. Text without spaces is one word,
    /// except that a word also ends at each token boundary beside a Chinese character or kana. A separator
    /// belongs to no word. A token with a space in the middle belongs to both words.
    ///
    /// ```
    /// use candle_ctc::TokenSpan;
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁the", "▁c", "at"])?;
    /// let span = |token, start, end| TokenSpan { token, start, end, score: -0.5 };
    /// let words = vocabulary.words(&[span(1, 2, 5), span(2, 7, 8), span(3, 9, 10)]);
    /// assert_eq!((words[0].text.as_str(), words[0].start, words[0].end), ("the", 2, 5));
    /// assert_eq!((words[1].text.as_str(), words[1].seconds(0.04)), ("cat", (0.28, 0.4)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn words(&self, spans: &[TokenSpan]) -> Vec<Word> {
        let mut words = Vec::new();
        let mut open = Open::default();
        for (index, &span) in spans.iter().enumerate() {
            let surface = self.printed(span.token);
            if surface.is_empty() {
                continue;
            }
            if self.mark == WordMark::EachToken {
                open.close(&mut words, true, self);
            } else if open.breaks_before(surface) {
                open.close(&mut words, false, self);
            }
            for (part, bytes) in surface.split(|byte| *byte == b' ').enumerate() {
                if part > 0 {
                    open.close(&mut words, true, self);
                }
                if !bytes.is_empty() {
                    open.bytes.extend_from_slice(bytes);
                    open.spans.push(span);
                    open.indices.push(index);
                }
            }
        }
        open.close(&mut words, true, self);
        words
    }

    fn printed(&self, label: u32) -> &[u8] {
        match self.surfaces.get(label as usize) {
            Some(surface) => surface.bytes(),
            None => "\u{fffd}".as_bytes(),
        }
    }
}

/// The word that is being put together.
#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    spans: Vec<TokenSpan>,
    indices: Vec<usize>,
    space_before: bool,
}

impl Open {
    /// Ends the word, if there is one. `space`: a space follows it.
    fn close(&mut self, words: &mut Vec<Word>, space: bool, vocabulary: &Vocabulary) {
        if let Some(Range { start, end }) = range_of(&self.spans) {
            let token = |(span, &index): (&TokenSpan, &usize)| WordToken {
                text: vocabulary
                    .token(span.token)
                    .unwrap_or("\u{fffd}")
                    .to_owned(),
                span: *span,
                index,
            };
            words.push(Word {
                text: String::from_utf8_lossy(&self.bytes).into_owned(),
                start,
                end,
                score: mean_score(&self.spans),
                space_before: self.space_before && !words.is_empty(),
                tokens: self.spans.iter().zip(&self.indices).map(token).collect(),
            });
            self.space_before = false;
        }
        self.space_before |= space;
        self.bytes.clear();
        self.spans.clear();
        self.indices.clear();
    }

    /// Whether a word without a space before it begins with this surface: beside a Chinese character or kana.
    fn breaks_before(&self, surface: &[u8]) -> bool {
        let behind = std::str::from_utf8(surface).ok();
        let first = behind.and_then(|behind| behind.chars().next());
        match (last_character(&self.bytes), first) {
            (Some(last), Some(first)) => {
                first != ' ' && (is_ideograph(last) || is_ideograph(first))
            }
            _ => false,
        }
    }
}

/// The last character of a text, of which it may have a part only. Looks at no more: a text may be one word.
fn last_character(bytes: &[u8]) -> Option<char> {
    let end = &bytes[bytes.len().saturating_sub(4)..];
    let is_start = |byte: &u8| byte & 0xc0 != 0x80;
    let start = end.iter().rposition(is_start)?;
    std::str::from_utf8(&end[start..]).ok()?.chars().next()
}

/// The text of words.
pub(super) fn join(words: &[Word]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 && word.space_before {
            text.push(' ');
        }
        text.push_str(&word.text);
    }
    text
}
