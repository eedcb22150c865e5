//! N-grams as a trie in sorted arrays.

use super::storage::{Array, Numbers};
use candle_core::{Result, bail};

/// The node of the empty n-gram.
pub(super) const ROOT: u32 = 0;

/// The orders that a model may have.
pub(super) const MOST_ORDERS: usize = 255;

/// The n-grams as a trie: the children of "a b" are all "a b c". Nodes are numbered by order, then by parent, then by
/// the last word, so the children of a node lie side by side. Node 0 is the empty n-gram, node `1 + w` the word `w`.
///
/// The nodes of the highest order have no children and no backoff, so only the others, the *contexts*, can be a state.
pub(super) struct Trie {
    /// The first node of each order, from order 1 on.
    pub starts: Vec<u32>,
    /// The last word.
    pub word: Array<u32>,
    /// log10 of its probability after the words before it.
    pub prob: Numbers,
    /// The longest proper suffix of the n-gram that is a context: of "a b c" the node of "b c", "c" or the root.
    pub suffix: Array<u32>,
    /// Of contexts: log10 of the factor for words that are no child.
    pub backoff: Numbers,
    /// Of contexts: the first child. The children end where those of the next context begin.
    pub first_child: Array<u32>,
}

/// What a walk through a trie needs.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    pub word: &'a [u32],
    pub suffix: &'a [u32],
    pub first_child: &'a [u32],
}

impl Links<'_> {
    /// The n-gram of a context and a word. Every word is a child of the root.
    #[inline]
    pub fn child(self, context: u32, word: u32) -> Option<u32> {
        if context == ROOT {
            return Some(1 + word);
        }
        let first = self.first_child[context as usize] as usize;
        let end = self.first_child[context as usize + 1] as usize;
        let at = self.word[first..end].binary_search(&word).ok()?;
        Some((first + at) as u32)
    }

    /// The longest n-gram of the model that ends in `word`, after a context.
    pub fn longest(self, mut context: u32, word: u32) -> u32 {
        loop {
            match self.child(context, word) {
                Some(node) => return node,
                None => context = self.suffix[context as usize],
            }
        }
    }
}

impl Trie {
    fn links(&self) -> Links<'_> {
        Links {
            word: &self.word,
            suffix: &self.suffix,
            first_child: &self.first_child,
        }
    }

    pub fn contexts(&self) -> usize {
        self.backoff.len()
    }

    fn prob(&self, node: u32) -> f64 {
        f64::from(self.prob.get(node, &self.starts))
    }

    fn backoff(&self, context: u32) -> f64 {
        f64::from(self.backoff.get(context, &self.starts))
    }

    /// log10 of the probability of a word after a context.
    pub fn log10(&self, context: u32, word: u32) -> f64 {
        self.log10_over(self.links(), context, word)
    }

    /// Summed from the shortest context on, as [`Self::max_log10`] is, so that rounding leaves it at or below that.
    fn log10_over(&self, links: Links, context: u32, word: u32) -> f64 {
        match links.child(context, word) {
            Some(node) => self.prob(node),
            None => {
                let shorter = links.suffix[context as usize];
                self.backoff(context) + self.log10_over(links, shorter, word)
            }
        }
    }

    /// The context after a context and a word.
    pub fn next(&self, context: u32, word: u32) -> u32 {
        let node = self.links().longest(context, word);
        match (node as usize) < self.contexts() {
            true => node,
            false => self.suffix[node as usize],
        }
    }

    /// The largest value of [`Self::log10`], or a bound on it.
    pub fn max_log10(&self) -> Result<f64> {
        let Links {
            suffix,
            first_child,
            ..
        } = self.links();
        let mut most: Vec<f64> = Vec::new();
        reserve(&mut most, self.contexts(), self.contexts())?;
        for context in 0..self.contexts() {
            let children = first_child[context]..first_child[context + 1];
            let own = children
                .map(|node| self.prob(node))
                .fold(f64::NEG_INFINITY, f64::max);
            let shorter = match most.get(suffix[context] as usize) {
                Some(most) => self.backoff(context as u32) + most,
                None => f64::NEG_INFINITY,
            };
            most.push(own.max(shorter));
        }
        Ok(most.into_iter().fold(0.0, f64::max))
    }

    /// With each number as one of 256 values of its order.
    pub fn quantised(self) -> Result<Self> {
        Ok(Self {
            prob: self.prob.quantised(&self.starts)?,
            backoff: self.backoff.quantised(&self.starts)?,
            ..self
        })
    }
}

/// Room for `wanted` more elements, of which at most `most` will come.
pub(super) fn reserve<T>(vec: &mut Vec<T>, wanted: usize, most: usize) -> Result<()> {
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
