//! Builds an n-gram model, order by order.

use super::dictionary::Dictionary;
use super::ngram::NgramLm;
use super::storage::Numbers;
use super::trie::{Links, ROOT, Trie, reserve};
use candle_core::{Result, bail};
use indexmap::IndexSet;

/// The log10 probability of an unknown word where the model has no `<unk>`, as in KenLM.
const NO_UNKNOWN: f32 = -100.0;

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

/// The n-grams of a model that is being built, and its words.
pub(super) struct Table {
    words: IndexSet<Box<str>>,
    nodes: Nodes,
    /// The n-grams of the order that is being read.
    entries: Vec<Entry>,
    counts: Vec<usize>,
    orders: usize,
    /// The n-gram that was found last, to find the next one faster: its words, and the node of each prefix.
    path: Vec<(u32, u32)>,
}

/// The arrays of a [`Trie`], up to the order that is being read.
#[derive(Default)]
struct Nodes {
    starts: Vec<u32>,
    word: Vec<u32>,
    prob: Vec<f32>,
    suffix: Vec<u32>,
    backoff: Vec<f32>,
    first_child: Vec<u32>,
}

impl Nodes {
    fn links(&self) -> Links<'_> {
        Links {
            word: &self.word,
            suffix: &self.suffix,
            first_child: &self.first_child,
        }
    }
}

impl Table {
    pub fn new(orders: usize) -> Self {
        Self {
            words: IndexSet::new(),
            nodes: Nodes::default(),
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
                let Some(node) = self.nodes.links().child(parent, id) else {
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

    /// Adds an n-gram of order 2 or more by the numbers of its words. The n-gram before its last word is there.
    pub fn add_ngram(&mut self, words: &[u32], entry: Entry, left: usize) -> Result<()> {
        let (parent, word) = match words {
            [before @ .., word] => {
                let links = self.nodes.links();
                let child = |node: Option<u32>, word: &u32| links.child(node?, *word);
                (before.iter().fold(Some(ROOT), child), *word)
            }
            [] => (None, 0),
        };
        let Some(parent) = parent else {
            bail!("the n-gram before the last word of {words:?} is missing")
        };
        self.add(
            Entry {
                parent,
                word,
                ..entry
            },
            left,
        )
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
        if self.nodes.word.len() + at + 3 > u32::MAX as usize {
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
        let nodes = &mut self.nodes;
        nodes.word.push(0);
        nodes.prob.push(0.0);
        nodes.suffix.push(ROOT);
        nodes.backoff.push(0.0);
        nodes.first_child.push(1);
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
        let nodes = &mut self.nodes;
        reserve(&mut nodes.word, count, count)?;
        reserve(&mut nodes.prob, count, count)?;
        reserve(&mut nodes.suffix, count, count)?;
        let first = nodes.word.len();
        nodes.starts.push(first as u32);
        nodes.word.extend(entries.iter().map(|entry| entry.word));
        nodes.prob.extend(entries.iter().map(|entry| entry.prob));

        // The contexts of the order before, which are the last ones, get their children; those without any, too.
        let contexts = nodes.backoff.len();
        let mut at = 0;
        for context in nodes.first_child.len()..=contexts {
            while at < count && (entries[at].parent as usize) < context {
                at += 1;
            }
            nodes.first_child.push((first + at) as u32);
        }

        for entry in entries {
            let suffix = match entry.parent {
                ROOT => ROOT,
                parent => nodes
                    .links()
                    .longest(nodes.suffix[parent as usize], entry.word),
            };
            nodes.suffix.push(suffix);
        }
        if is_context {
            reserve(&mut nodes.backoff, count, count)?;
            // One more for the end of the children of the last.
            reserve(&mut nodes.first_child, count + 1, count + 1)?;
            nodes
                .backoff
                .extend(entries.iter().map(|entry| entry.backoff));
        }
        Ok(())
    }

    /// The model.
    pub fn finish(self) -> Result<NgramLm> {
        let id = |word: &str| self.words.get_index_of(word);
        let (Some(start), Some(end), Some(unknown)) = (id("<s>"), id("</s>"), self.unknown())
        else {
            bail!("the model has no words")
        };
        let [start, end, unknown] = [start, end, unknown].map(|id| id as u32);
        let Nodes {
            starts,
            word,
            prob,
            suffix,
            backoff,
            first_child,
        } = self.nodes;
        let trie = Trie {
            starts,
            word: word.into(),
            prob: Numbers::Exact(prob.into()),
            suffix: suffix.into(),
            backoff: Numbers::Exact(backoff.into()),
            first_child: first_child.into(),
        };
        Ok(NgramLm {
            words: Dictionary::new(self.words)?,
            start,
            end,
            unknown,
            max_log10: trie.max_log10()?,
            trie,
            counts: self.counts,
        })
    }
}
