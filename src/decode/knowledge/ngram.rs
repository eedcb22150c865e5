//! An n-gram language model with backoff, of words or tokens.

use super::dictionary::Dictionary;
use super::trie::{ROOT, Trie};
use super::words::WordModel;
use candle_core::Result;
use std::f64::consts::LN_10;

/// An n-gram language model with backoff, of any order, over words or over tokens.
///
/// It scores a word by the longest n-gram that the model has: `ln P(w | a b)` is that of "a b w", or without it the
/// backoff of "a b" plus `ln P(w | b)`, and so on. A word that the model does not know counts as `<unk>`.
///
/// In a beam search it stands in a [`Lexicon`](crate::Lexicon), which spells its words, or in a
/// [`TokenNgram`](crate::TokenNgram) if its words are the tokens of the acoustic model.
///
/// Memory: 20 bytes for each n-gram, 12 for each of the highest order, and the words. A state is 4 bytes.
///
/// ```
/// use candle_ctc::NgramLm;
///
/// # fn main() -> candle_core::Result<()> {
/// let arpa = b"\\data\\
/// ngram 1=4
/// ngram 2=1
///
/// \\1-grams:
/// -99\t<s>\t-0.5
/// -0.5\t</s>
/// -0.7\ta\t-0.1
/// -1.5\t<unk>
///
/// \\2-grams:
/// -0.2\t<s> a
///
/// \\end\\
/// ";
/// let model = NgramLm::from_arpa(&arpa[..])?; // or NgramLm::from_path("3gram.arpa.gz")
/// // "<s> a" is there. "a </s>" is not: the backoff of "a" and the probability of "</s>".
/// let log10 = -0.2 + (-0.1 - 0.5);
/// assert!((model.score_sentence(&["a"]) - log10 * 10f64.ln()).abs() < 1e-6);
/// assert_eq!((model.order(), model.contains("b")), (2, false));
/// # Ok(())
/// # }
/// ```
pub struct NgramLm {
    pub(super) words: Dictionary,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) unknown: u32,
    pub(super) trie: Trie,
    pub(super) counts: Vec<usize>,
    pub(super) max_log10: f64,
}

/// The history of an [`NgramLm`]: the longest part of it that the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NgramState(u32);

impl NgramLm {
    /// The log-probability of a sentence in nats, its end included.
    pub fn score_sentence<S: AsRef<str>>(&self, words: &[S]) -> f64 {
        self.score_words(words).iter().sum()
    }

    /// The log-probability of each word of a sentence in nats, followed by that of its end.
    pub fn score_words<S: AsRef<str>>(&self, words: &[S]) -> Vec<f64> {
        let ids = words.iter().map(|word| self.id_or_unknown(word.as_ref()));
        let mut node = self.begin();
        let mut scores = Vec::with_capacity(words.len() + 1);
        for word in ids.chain([self.end]) {
            scores.push(LN_10 * self.trie.log10(node, word));
            node = self.trie.next(node, word);
        }
        scores
    }

    /// The order: the number of words of the longest n-grams.
    pub fn order(&self) -> usize {
        self.counts.len()
    }

    /// The number of n-grams of each order, from 1 on, as the file announces it, or as they were counted.
    pub fn ngram_counts(&self) -> &[usize] {
        &self.counts
    }

    /// Whether the model knows a word.
    pub fn contains(&self, word: &str) -> bool {
        self.words.id(word).is_some()
    }

    /// The words in the order in which they were read, without `<s>`, `</s>` and `<unk>`.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let others = [self.start, self.end, self.unknown];
        let words = self.words.words().zip(0..);
        words
            .filter(move |(_, id)| !others.contains(id))
            .map(|(word, _)| word)
    }

    fn id_or_unknown(&self, word: &str) -> u32 {
        self.words.id(word).unwrap_or(self.unknown)
    }

    /// The context of `<s>`.
    fn begin(&self) -> u32 {
        self.trie.next(ROOT, self.start)
    }
}

impl std::fmt::Debug for NgramLm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("NgramLm");
        f.field("ngram_counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl WordModel for NgramLm {
    type State = NgramState;

    fn word_id(&self, word: &str) -> Option<u32> {
        self.words.id(word)
    }

    fn start(&self) -> Result<NgramState> {
        Ok(NgramState(self.begin()))
    }

    fn score(&self, state: &NgramState, word: Option<u32>) -> Result<f64> {
        Ok(LN_10 * self.trie.log10(state.0, word.unwrap_or(self.unknown)))
    }

    fn advance(&self, state: &NgramState, word: Option<u32>) -> Result<NgramState> {
        Ok(NgramState(
            self.trie.next(state.0, word.unwrap_or(self.unknown)),
        ))
    }

    fn end(&self, state: &NgramState) -> Result<f64> {
        Ok(LN_10 * self.trie.log10(state.0, self.end))
    }

    fn estimate(&self, word: Option<u32>) -> Result<f64> {
        Ok(LN_10 * self.trie.log10(ROOT, word.unwrap_or(self.unknown)))
    }

    fn max_score(&self) -> f64 {
        LN_10 * self.max_log10
    }

    fn state_key(&self, state: &NgramState) -> Option<u64> {
        Some(state.0.into())
    }
}
