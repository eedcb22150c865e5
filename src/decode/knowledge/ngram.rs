//! An n-gram language model with backoff, as a trie in sorted arrays.

use super::words::WordModel;
use candle_core::{Result, bail};
use indexmap::IndexSet;
use std::f64::consts::LN_10;

/// The node of the empty n-gram.
const ROOT: u32 = 0;

/// The log10 probability of an unknown word where the model has no `<unk>`, as in KenLM.
const NO_UNKNOWN: f32 = -100.0;

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
    words: IndexSet<Box<str>>,
    start: u32,
    end: u32,
    unknown: u32,
    trie: Trie,
    counts: Vec<usize>,
    max_log10: f64,
}

/// The n-grams as a trie: the children of "a b" are all "a b c". Nodes are numbered by order, then by parent, then by
/// the last word, so the children of a node lie side by side. Node 0 is the empty n-gram, node `1 + w` the word `w`.
///
/// The nodes of the highest order have no children and no backoff, so only the others, the *contexts*, can be a state.
#[derive(Default)]
struct Trie {
    /// The last word.
    word: Vec<u32>,
    /// log10 of its probability behind the words before it.
    prob: Vec<f32>,
    /// The longest proper suffix of the n-gram that is a context: of "a b c" the node of "b c", "c" or the root.
    suffix: Vec<u32>,
    /// Of contexts: log10 of the factor for words that are no child.
    backoff: Vec<f32>,
    /// Of contexts: the first child. The children end where those of the next context begin.
    first_child: Vec<u32>,
}

/// The history of an [`NgramLm`]: the longest part of it that the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NgramState(u32);

impl NgramLm {
    /// The log-probability of a sentence in nats, its end included.
    pub fn score_sentence<S: AsRef<str>>(&self, words: &[S]) -> f64 {
        self.score_words(words).iter().sum()
    }

    /// The log-probability of each word of a sentence in nats, and behind them that of its end.
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

    /// The number of n-grams of each order, from 1 on, as the file announces it.
    pub fn ngram_counts(&self) -> &[usize] {
        &self.counts
    }

    /// Whether the model knows a word.
    pub fn contains(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// The words in the order of the file, without `<s>`, `</s>` and `<unk>`.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let others = [self.start, self.end, self.unknown];
        let words = self.words.iter().zip(0..);
        words
            .filter(move |(_, id)| !others.contains(id))
            .map(|(word, _)| &**word)
    }

    fn id_or_unknown(&self, word: &str) -> u32 {
        self.words
            .get_index_of(word)
            .map_or(self.unknown, |id| id as u32)
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
        self.words.get_index_of(word).map(|id| id as u32)
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
}

impl Trie {
    fn contexts(&self) -> usize {
        self.backoff.len()
    }

    /// The n-gram of a context and a word. Every word is a child of the root.
    #[inline]
    fn child(&self, context: u32, word: u32) -> Option<u32> {
        if context == ROOT {
            return Some(1 + word);
        }
        let first = self.first_child[context as usize] as usize;
        let end = self.first_child[context as usize + 1] as usize;
        let at = self.word[first..end].binary_search(&word).ok()?;
        Some((first + at) as u32)
    }

    /// The longest n-gram of the model that ends in `word`, behind a context.
    fn longest(&self, mut context: u32, word: u32) -> u32 {
        loop {
            match self.child(context, word) {
                Some(node) => return node,
                None => context = self.suffix[context as usize],
            }
        }
    }

    /// log10 of the probability of a word behind a context. Summed from the shortest context on, as
    /// [`Self::max_log10`] is, so that rounding leaves it at or below that.
    fn log10(&self, context: u32, word: u32) -> f64 {
        match self.child(context, word) {
            Some(node) => f64::from(self.prob[node as usize]),
            None => {
                let shorter = self.suffix[context as usize];
                f64::from(self.backoff[context as usize]) + self.log10(shorter, word)
            }
        }
    }

    /// The context behind a context and a word.
    fn next(&self, context: u32, word: u32) -> u32 {
        let node = self.longest(context, word);
        match (node as usize) < self.contexts() {
            true => node,
            false => self.suffix[node as usize],
        }
    }

    /// The largest value of [`Self::log10`], or a bound on it.
    fn max_log10(&self) -> Result<f64> {
        let mut most: Vec<f64> = Vec::new();
        reserve(&mut most, self.contexts(), self.contexts())?;
        for context in 0..self.contexts() {
            let children =
                self.first_child[context] as usize..self.first_child[context + 1] as usize;
            let own = self.prob[children]
                .iter()
                .copied()
                .fold(f32::NEG_INFINITY, f32::max);
            let shorter = match most.get(self.suffix[context] as usize) {
                Some(most) => f64::from(self.backoff[context]) + most,
                None => f64::NEG_INFINITY,
            };
            most.push(f64::from(own).max(shorter));
        }
        Ok(most.into_iter().fold(0.0, f64::max))
    }
}

/// An n-gram of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub parent: u32,
    pub word: u32,
    pub prob: f32,
    pub backoff: f32,
    /// Its place among those of its order, set when it is added.
    pub at: u32,
}

impl Entry {
    pub fn new(prob: f32) -> Self {
        Self {
            parent: ROOT,
            word: 0,
            prob,
            backoff: 0.0,
            at: 0,
        }
    }
}

/// Builds a model, order by order.
pub(super) struct Table {
    words: IndexSet<Box<str>>,
    trie: Trie,
    /// The n-grams of the order that is being read.
    entries: Vec<Entry>,
    counts: Vec<usize>,
    orders: usize,
    /// The n-gram that was found last, to find the next one faster: its words, and the node of each prefix.
    path: Vec<(u32, u32)>,
}

impl Table {
    pub fn new(orders: usize) -> Self {
        Self {
            words: IndexSet::new(),
            trie: Trie::default(),
            entries: Vec::new(),
            counts: Vec::new(),
            orders,
            path: Vec::new(),
        }
    }

    pub fn orders(&self) -> usize {
        self.orders
    }

    /// Adds a 1-gram.
    pub fn add_word(&mut self, word: &str, entry: Entry, left: usize) -> Result<()> {
        if let Some(first) = self.words.get_index_of(word) {
            bail!(
                "the word {word:?} is a 1-gram already, entry {} of that section",
                first + 1
            )
        }
        if self.words.try_reserve(1).is_err() {
            bail!(
                "there is no memory for more than {} words",
                self.words.len()
            )
        }
        let id = self.words.len() as u32; // `add` limits their number.
        self.words.insert(word.into());
        self.add(Entry { word: id, ..entry }, left)
    }

    /// The n-gram that all but the last of these words make, and the last word; `None` if these are fewer than `order`.
    pub fn find<'a>(
        &mut self,
        words: impl Iterator<Item = &'a str>,
        order: usize,
    ) -> Result<Option<(u32, u32)>> {
        let mut parent = ROOT;
        let mut same = true;
        for (at, word) in words.enumerate() {
            let Some(id) = self.words.get_index_of(word).map(|id| id as u32) else {
                bail!("the word {word:?} of this {order}-gram is no 1-gram")
            };
            if at + 1 == order {
                return Ok(Some((parent, id)));
            }
            same &= self.path.get(at).is_some_and(|(word, _)| *word == id);
            if !same {
                let Some(node) = self.trie.child(parent, id) else {
                    self.path.truncate(at);
                    bail!(
                        "the {}-gram {:?}, with which this {order}-gram begins, is missing",
                        at + 1,
                        self.text(at, id)
                    )
                };
                self.path.truncate(at);
                self.path.push((id, node));
            }
            parent = self.path[at].1;
        }
        Ok(None)
    }

    /// The words of the current path up to `at`, and `last`.
    fn text(&self, at: usize, last: u32) -> String {
        let ids = self.path[..at].iter().map(|(id, _)| *id).chain([last]);
        let words: Vec<&str> = ids.map(|id| &*self.words[id as usize]).collect();
        words.join(" ")
    }

    /// Adds an n-gram. `left` is the number that may still come, this one included.
    pub fn add(&mut self, entry: Entry, left: usize) -> Result<()> {
        let at = self.entries.len();
        // The root, `<unk>` where it is missing, and the end of the last children have numbers, too.
        if self.trie.word.len() + at + 3 > u32::MAX as usize {
            bail!(
                "the model has more than {} n-grams, the most that a model may have",
                u32::MAX - 3
            )
        }
        if at == self.entries.capacity() {
            reserve(&mut self.entries, at.max(1 << 10).min(left), left)?;
        }
        self.entries.push(Entry {
            at: at as u32,
            ..entry
        });
        Ok(())
    }

    /// Puts the n-grams that were added into the trie. `line_of` gives the line of each, by its place.
    pub fn finish_order(&mut self, line_of: impl Fn(u32) -> u64) -> Result<()> {
        self.counts.push(self.entries.len());
        self.path.clear();
        if self.counts.len() == 1 {
            self.complete_words()?;
        }
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by_key(|entry| (entry.parent, entry.word, entry.at));
        for pair in entries.windows(2) {
            if (pair[0].parent, pair[0].word) == (pair[1].parent, pair[1].word) {
                bail!(
                    "line {}: this {}-gram stands in line {} already",
                    line_of(pair[1].at),
                    self.counts.len(),
                    line_of(pair[0].at)
                )
            }
        }
        self.append(&entries)
    }

    /// Adds the root, and `<unk>` if the file does not have it.
    fn complete_words(&mut self) -> Result<()> {
        for mark in ["<s>", "</s>"] {
            if !self.words.contains(mark) {
                bail!("the model has no 1-gram {mark}, which marks an edge of sentences")
            }
        }
        if self.unknown().is_none() {
            self.add_word("<unk>", Entry::new(NO_UNKNOWN), 1)?;
        }
        let trie = &mut self.trie;
        trie.word.push(0);
        trie.prob.push(0.0);
        trie.suffix.push(ROOT);
        trie.backoff.push(0.0);
        trie.first_child.push(1);
        Ok(())
    }

    fn unknown(&self) -> Option<usize> {
        let names = ["<unk>", "<UNK>"];
        names.iter().find_map(|name| self.words.get_index_of(*name))
    }

    /// Appends nodes of one order, sorted.
    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let count = entries.len();
        let is_context = self.counts.len() < self.orders;
        let trie = &mut self.trie;
        reserve(&mut trie.word, count, count)?;
        reserve(&mut trie.prob, count, count)?;
        reserve(&mut trie.suffix, count, count)?;
        let first = trie.word.len();
        trie.word.extend(entries.iter().map(|entry| entry.word));
        trie.prob.extend(entries.iter().map(|entry| entry.prob));

        // The contexts of the order before, which are the last ones, get their children; those without any, too.
        let contexts = trie.contexts();
        let mut at = 0;
        for context in trie.first_child.len()..=contexts {
            while at < count && (entries[at].parent as usize) < context {
                at += 1;
            }
            trie.first_child.push((first + at) as u32);
        }

        for entry in entries {
            let suffix = match entry.parent {
                ROOT => ROOT,
                parent => trie.longest(trie.suffix[parent as usize], entry.word),
            };
            trie.suffix.push(suffix);
        }
        if is_context {
            reserve(&mut trie.backoff, count, count)?;
            // One more for the end of the children of the last.
            reserve(&mut trie.first_child, count + 1, count + 1)?;
            trie.backoff
                .extend(entries.iter().map(|entry| entry.backoff));
        }
        Ok(())
    }

    /// The model.
    pub fn finish(mut self) -> Result<NgramLm> {
        let max_log10 = self.trie.max_log10()?;
        self.words.shrink_to_fit();
        let id = |word: &str| self.words.get_index_of(word);
        match (id("<s>"), id("</s>"), self.unknown()) {
            (Some(start), Some(end), Some(unknown)) => Ok(NgramLm {
                start: start as u32,
                end: end as u32,
                unknown: unknown as u32,
                words: self.words,
                trie: self.trie,
                counts: self.counts,
                max_log10,
            }),
            _ => bail!("the model has no words"),
        }
    }
}

/// Room for `wanted` more elements, of which at most `most` will come.
fn reserve<T>(vec: &mut Vec<T>, wanted: usize, most: usize) -> Result<()> {
    let wanted = wanted.min(most);
    if vec.try_reserve_exact(wanted).is_err() {
        let bytes = vec
            .len()
            .saturating_add(wanted)
            .saturating_mul(size_of::<T>());
        bail!("the n-gram model needs {bytes} bytes in one piece, which could not be allocated")
    }
    Ok(())
}
