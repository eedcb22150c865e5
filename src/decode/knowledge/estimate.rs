//! Estimates an n-gram model from text, with Witten-Bell smoothing.
//!
//! Let `c(h w)` be how often the word `w` follows the words `h`, `c(h)` how often any word does, and `t(h)` how many
//! different words do:
//!
//! ```text
//! P(w | h) = (c(h w) + t(h) · P(w | h')) / (c(h) + t(h))        h': h without its first word
//! P(w)     = (c(w) + t / v) / (c + t)                           v: the words that are known, with <unk>
//! ```
//!
//! So a word that was never seen after `h` has `t(h) / (c(h) + t(h))`, the backoff of `h`, times `P(w | h')`.

use super::ngram::NgramLm;
use super::table::{Entry, Table};
use super::trie::MOST_ORDERS;
use candle_core::{Result, bail};
use indexmap::IndexSet;
use std::collections::HashMap;

/// The log10 probability of `<s>`, which follows no word.
const NEVER: f32 = -99.0;

/// The numbers of the words that every model has.
const START: u32 = 0;
const END: u32 = 1;
const UNKNOWN: u32 = 2;
const MARKS: [&str; 3] = ["<s>", "</s>", "<unk>"];

impl NgramLm {
    /// Estimates a model from sentences: of words, or of characters or tokens. Probabilities are smoothed by the method
    /// of Witten and Bell (1991, <https://doi.org/10.1109/18.87000>), interpolated.
    ///
    /// The word `<unk>` may stand in a sentence, for words that the model shall not know.
    ///
    /// It is meant for texts that fit into memory, such as the transcripts of a training set: each different n-gram
    /// takes some 100 bytes while they are counted. For billions of words, `lmplz` of KenLM writes an ARPA file.
    ///
    /// ```
    /// use candle_ctc::NgramLm;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let sentences = ["open the door", "open the window", "close the door"];
    /// let words = NgramLm::from_sentences(2, sentences.map(|text| text.split(' ')))?;
    /// // "the" stands before "door" twice, and before two different words in three places.
    /// // Alone, "door" has 2 of 12 places, of which 3 are the ends of sentences; 6 words are known with "</s>".
    /// let door = (2.0 + 6.0 / 7.0) / (12.0 + 6.0);
    /// let behind_the: f64 = (2.0 + 2.0 * door) / (3.0 + 2.0);
    /// assert!((words.score_words(&["open", "the", "door"])[2] - behind_the.ln()).abs() < 1e-6);
    ///
    /// let characters = |text: &'static str| text.chars().map(String::from);
    /// let letters = NgramLm::from_sentences(5, sentences.map(characters))?;
    /// assert!(letters.contains("w"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An order of 0 or above 255; no sentences; a word that is empty, `<s>` or `</s>`; or memory that runs
    /// out while the model is built from its counts.
    pub fn from_sentences<S: AsRef<str>>(
        order: usize,
        sentences: impl IntoIterator<Item = impl IntoIterator<Item = S>>,
    ) -> Result<Self> {
        if order == 0 || order > MOST_ORDERS {
            bail!("NgramLm::from_sentences: order = {order}; it must be from 1 to {MOST_ORDERS}")
        }
        let mut words: IndexSet<Box<str>> = MARKS.into_iter().map(Box::from).collect();
        let mut counts = Counts::new(order);
        let mut ids = Vec::new();
        for (number, sentence) in sentences.into_iter().enumerate() {
            ids.clear();
            ids.push(START);
            for word in sentence {
                let word = word.as_ref();
                if word.is_empty() || MARKS[..2].contains(&word) {
                    bail!(
                        "NgramLm::from_sentences: word {} of sentence {number} is {word:?}, which is no word",
                        ids.len() - 1
                    )
                }
                let id = match words.get_index_of(word) {
                    Some(id) => id,
                    None => words.insert_full(word.into()).0,
                };
                if id >= u32::MAX as usize - 3 {
                    bail!("NgramLm::from_sentences: there are more than {id} different words")
                }
                ids.push(id as u32);
            }
            ids.push(END);
            counts.add(&ids);
        }
        if counts.total == 0 {
            bail!("NgramLm::from_sentences: there are no sentences")
        }
        counts.model(&words)
    }
}

/// How often each n-gram stands in the text, order by order.
struct Counts {
    orders: Vec<HashMap<Box<[u32]>, u64>>,
    /// All words, with the ends of sentences.
    total: u64,
}

/// What follows a context: how many words, and how many different ones.
#[derive(Debug, Clone, Copy, Default)]
struct Followers {
    all: u64,
    different: u64,
}

impl Counts {
    fn new(order: usize) -> Self {
        Self {
            orders: vec![HashMap::new(); order],
            total: 0,
        }
    }

    fn add(&mut self, sentence: &[u32]) {
        for (order, counts) in (1..).zip(&mut self.orders) {
            for ngram in sentence.windows(order) {
                match counts.get_mut(ngram) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(ngram.into(), 1);
                    }
                }
            }
        }
        self.total += sentence.len() as u64 - 1;
    }

    fn model(&self, words: &IndexSet<Box<str>>) -> Result<NgramLm> {
        let mut table = Table::new(self.orders.len());
        let mut shorter: HashMap<&[u32], f64> = HashMap::new();
        let mut contexts: HashMap<&[u32], Followers> = HashMap::new();
        for (at, counts) in self.orders.iter().enumerate() {
            let behind = self.orders.get(at + 1).map(followers).unwrap_or_default();
            let backoff = |ngram: &[u32]| match behind.get(ngram) {
                Some(Followers { all, different }) => {
                    (*different as f64 / (all + different) as f64).log10() as f32
                }
                None => 0.0,
            };
            let mut probs: HashMap<&[u32], f64> = HashMap::with_capacity(counts.len());
            if at == 0 {
                let known = counts.keys().filter(|ngram| ngram[0] != START).count() as f64;
                let with_unknown =
                    known + f64::from(u8::from(!counts.contains_key(&[UNKNOWN][..])));
                let total = self.total as f64;
                for (id, word) in (0..).zip(words) {
                    let (ngram, count) = match counts.get_key_value(&[id][..]) {
                        Some((ngram, count)) => (&**ngram, *count as f64),
                        None => (&[UNKNOWN][..], 0.0),
                    };
                    let prob = (count + known / with_unknown) / (total + known);
                    probs.insert(ngram, prob);
                    let log10 = match id {
                        START => NEVER,
                        _ => prob.log10() as f32,
                    };
                    let entry = Entry {
                        backoff: backoff(&[id]),
                        ..Entry::new(log10)
                    };
                    table.add_word(word, entry, words.len() - id as usize)?;
                }
            } else {
                for (left, (ngram, count)) in (1..=counts.len()).rev().zip(counts) {
                    let Followers { all, different } = contexts[&ngram[..at]];
                    let different = different as f64;
                    let prob = (*count as f64 + different * shorter[&ngram[1..]])
                        / (all as f64 + different);
                    probs.insert(ngram, prob);
                    let entry = Entry {
                        backoff: backoff(ngram),
                        ..Entry::new(prob.log10() as f32)
                    };
                    table.add_ngram(ngram, entry, left)?;
                }
            }
            // No n-gram stands there twice, so no line is asked for.
            table.finish_order(|_| 0)?;
            shorter = probs;
            contexts = behind;
        }
        table.finish()
    }
}

/// What follows each n-gram but its last word.
fn followers(counts: &HashMap<Box<[u32]>, u64>) -> HashMap<&[u32], Followers> {
    let mut contexts: HashMap<&[u32], Followers> = HashMap::new();
    for (ngram, count) in counts {
        let of = contexts.entry(&ngram[..ngram.len() - 1]).or_default();
        of.all += count;
        of.different += 1;
    }
    contexts
}
