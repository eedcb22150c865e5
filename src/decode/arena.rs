//! Data shared by the prefixes of a beam: a tree of labels, and the spans of their best alignments.
//!
//! A prefix is the index of a node; its labels are on the path to the root. Prefixes are never copied. Nodes that no
//! prefix of the beam leads to are dropped now and then, so that the memory of a stream grows no faster than its
//! labels.

use crate::spans::TokenSpan;
use candle_core::{Result, bail};
use foldhash::fast::RandomState;
use std::cmp::Ordering;
use std::collections::HashMap;

/// No node, label or span.
pub(super) const NONE: u32 = u32::MAX;

/// The empty prefix.
pub(super) const ROOT: u32 = 0;

/// Number of entries from which unused ones are dropped.
pub(super) const KEEP: usize = 1 << 16;

/// Number of states from which those of prefixes outside the beam are dropped.
pub(super) const STATES: usize = 1 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub parent: u32,
    /// The last label of the prefix.
    pub token: u32,
    /// The number of its labels.
    pub depth: u32,
    /// The index of the prefix in the beam; valid only if that entry of the beam refers back to this node.
    pub slot: u32,
}

/// The tokens that a language model lets follow a prefix.
#[derive(Debug, Default)]
pub(super) enum Following {
    /// The model was not asked yet.
    #[default]
    Unknown,
    Any,
    /// In ascending order, with what each adds to the score of the prefix.
    Listed(Box<[(u32, Weight)]>),
}

impl Following {
    pub fn new(tokens: &mut Vec<u32>) -> Self {
        tokens.sort_unstable();
        tokens.dedup();
        let unknown = tokens.iter().map(|token| (*token, Weight(f64::NAN)));
        Self::Listed(unknown.collect())
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// The weight of a token in a list.
    pub fn find(list: &mut [(u32, Weight)], token: u32) -> Option<&mut Weight> {
        let at = list
            .binary_search_by_key(&token, |(token, _)| *token)
            .ok()?;
        Some(&mut list[at].1)
    }

    pub fn list(&mut self) -> Option<&mut [(u32, Weight)]> {
        match self {
            Self::Listed(list) => Some(list),
            _ => None,
        }
    }
}

/// What a token adds to the score of a prefix; NaN until it was computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight(f64);

impl Weight {
    #[inline]
    pub fn get(&mut self, compute: impl FnOnce() -> Result<f64>) -> Result<f64> {
        if self.0.is_nan() {
            self.0 = compute()?;
        }
        Ok(self.0)
    }
}

/// The prefixes. Those of the beam have a language-model state and the tokens that may follow, others may have a state.
pub(super) struct Tree<S> {
    nodes: Vec<Node>,
    states: Vec<Option<S>>,
    /// The prefixes with a state, and the number of these from which most are dropped.
    held: Vec<u32>,
    most_held: usize,
    following: Vec<Following>,
    children: HashMap<(u32, u32), u32, RandomState>,
    limit: usize,
}

impl<S> Tree<S> {
    pub fn new(state: S) -> Self {
        let root = Node {
            parent: NONE,
            token: NONE,
            depth: 0,
            slot: 0,
        };
        Self {
            nodes: vec![root],
            states: vec![Some(state)],
            held: vec![ROOT],
            most_held: STATES,
            following: vec![Following::Unknown],
            children: HashMap::default(),
            limit: KEEP,
        }
    }

    #[inline]
    pub fn node(&self, id: u32) -> Node {
        self.nodes[id as usize]
    }

    /// The state of a prefix of the beam.
    pub fn state(&self, id: u32) -> &S {
        match &self.states[id as usize] {
            Some(state) => state,
            None => unreachable!("prefixes of the beam keep their states"),
        }
    }

    pub fn has_state(&self, id: u32) -> bool {
        self.states[id as usize].is_some()
    }

    /// Sets the state of a prefix that has none.
    pub fn put_state(&mut self, id: u32, state: S) {
        self.states[id as usize] = Some(state);
        self.held.push(id);
    }

    pub fn has_many_states(&self) -> bool {
        self.held.len() > self.most_held
    }

    /// Drops all states but those of these prefixes. A state may be large, such as a row of scores for all classes.
    pub fn keep_states(&mut self, used: impl Iterator<Item = u32>) {
        let states = &mut self.states;
        let kept: Vec<(u32, Option<S>)> = used.map(|id| (id, states[id as usize].take())).collect();
        for id in self.held.drain(..) {
            states[id as usize] = None;
        }
        for (id, state) in kept {
            states[id as usize] = state;
            self.held.push(id);
        }
        self.most_held = (16 * self.held.len()).max(STATES);
    }

    pub fn take_following(&mut self, id: u32) -> Following {
        std::mem::take(&mut self.following[id as usize])
    }

    pub fn put_following(&mut self, id: u32, following: Following) {
        self.following[id as usize] = following;
    }

    pub fn set_slot(&mut self, id: u32, slot: usize) {
        self.nodes[id as usize].slot = slot as u32;
    }

    pub fn child(&self, parent: u32, token: u32) -> Option<u32> {
        self.children.get(&(parent, token)).copied()
    }

    pub fn add_child(&mut self, parent: u32, token: u32, state: S) -> Result<u32> {
        let id = self.nodes.len();
        if id >= NONE as usize {
            bail!("beam_search: more than {NONE} prefixes; choose a smaller beam_width")
        }
        self.nodes.push(Node {
            parent,
            token,
            depth: self.node(parent).depth + 1,
            slot: NONE,
        });
        self.states.push(None);
        self.put_state(id as u32, state);
        self.following.push(Following::Unknown);
        self.children.insert((parent, token), id as u32);
        Ok(id as u32)
    }

    /// The labels of a prefix.
    pub fn tokens(&self, id: u32) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut node = self.node(id);
        while node.parent != NONE {
            tokens.push(node.token);
            node = self.node(node.parent);
        }
        tokens.reverse();
        tokens
    }

    /// The longest prefix with which both of these begin.
    pub fn common(&self, mut a: u32, mut b: u32) -> u32 {
        while a != b {
            let (node_a, node_b) = (self.node(a), self.node(b));
            if node_a.depth >= node_b.depth {
                a = node_a.parent;
            } else {
                b = node_b.parent;
            }
        }
        a
    }

    /// The lexicographic order of the labels of two prefixes, which takes the time of those that they do not share.
    pub fn order(&self, mut a: u32, mut b: u32) -> Ordering {
        // The labels behind the common beginning; `None` for a prefix that is the beginning of the other.
        let (mut label_a, mut label_b) = (None, None);
        while a != b {
            let (node_a, node_b) = (self.node(a), self.node(b));
            if node_a.depth >= node_b.depth {
                (a, label_a) = (node_a.parent, Some(node_a.token));
            } else {
                (b, label_b) = (node_b.parent, Some(node_b.token));
            }
        }
        label_a.cmp(&label_b)
    }

    pub fn is_full(&self) -> bool {
        self.nodes.len() > self.limit
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Drops the nodes that no prefix in `used` leads to, and renumbers `used`.
    pub fn compact<'a>(&mut self, used: impl Iterator<Item = &'a mut u32>) {
        // The root is kept, so that its index stays the same.
        let (renumber, used) = renumber(self.nodes.len(), used, [ROOT], |id| self.node(id).parent);
        for id in used {
            *id = renumber[*id as usize];
        }
        let mut kept = 0;
        for id in 0..self.nodes.len() {
            if renumber[id] != NONE {
                let mut node = self.nodes[id];
                if node.parent != NONE {
                    node.parent = renumber[node.parent as usize];
                }
                self.nodes[kept] = node;
                self.states.swap(kept, id);
                self.following.swap(kept, id);
                kept += 1;
            }
        }
        self.nodes.truncate(kept);
        self.states.truncate(kept);
        self.following.truncate(kept);
        self.held.retain_mut(|id| {
            *id = renumber[*id as usize];
            *id != NONE
        });
        self.children = (1..kept as u32)
            .map(|id| ((self.node(id).parent, self.node(id).token), id))
            .collect();
        self.limit = (4 * kept).max(KEEP);
    }
}

/// A finished span of an alignment, and the span before it.
#[derive(Debug, Clone, Copy)]
struct Link {
    span: TokenSpan,
    before: u32,
}

/// The spans of alignments; alignments with a common beginning share its spans.
pub(super) struct Spans {
    links: Vec<Link>,
    limit: usize,
}

impl Spans {
    pub fn new() -> Self {
        Self {
            links: Vec::new(),
            limit: KEEP,
        }
    }

    pub fn push(&mut self, span: TokenSpan, before: u32) -> Result<u32> {
        let id = self.links.len();
        if id >= NONE as usize {
            bail!(
                "there are more than {NONE} spans of tokens to keep; search a shorter stretch, or with a smaller beam_width"
            )
        }
        self.links.push(Link { span, before });
        Ok(id as u32)
    }

    /// The span at index `last`, if it is one.
    pub fn last(&self, last: u32) -> Option<TokenSpan> {
        self.links.get(last as usize).map(|link| link.span)
    }

    /// The spans that end in `last`, in order.
    pub fn read(&self, last: u32) -> Vec<TokenSpan> {
        let mut spans = Vec::new();
        let mut at = last;
        while at != NONE {
            let link = self.links[at as usize];
            spans.push(link.span);
            at = link.before;
        }
        spans.reverse();
        spans
    }

    pub fn is_full(&self) -> bool {
        self.links.len() > self.limit
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Drops the spans that nothing in `used` leads to, and renumbers `used`.
    pub fn compact<'a>(&mut self, used: impl Iterator<Item = &'a mut u32>) {
        let (renumber, used) = renumber(self.links.len(), used, [], |id| {
            self.links[id as usize].before
        });
        for id in used {
            if *id != NONE {
                *id = renumber[*id as usize];
            }
        }
        let mut kept = 0;
        for id in 0..self.links.len() {
            if renumber[id] != NONE {
                let mut link = self.links[id];
                if link.before != NONE {
                    link.before = renumber[link.before as usize];
                }
                self.links[kept] = link;
                kept += 1;
            }
        }
        self.links.truncate(kept);
        self.limit = (4 * kept).max(KEEP);
    }
}

/// New indices, in the old order, for the entries that `used` and `also` lead to through `before`; `NONE` for the rest.
/// An entry leads only to smaller indices.
fn renumber<'a>(
    count: usize,
    used: impl Iterator<Item = &'a mut u32>,
    also: impl IntoIterator<Item = u32>,
    before: impl Fn(u32) -> u32,
) -> (Vec<u32>, Vec<&'a mut u32>) {
    let used: Vec<&mut u32> = used.collect();
    let mut numbers = vec![NONE; count];
    for start in used.iter().map(|id| **id).chain(also) {
        let mut at = start;
        while at != NONE && numbers[at as usize] == NONE {
            numbers[at as usize] = 0;
            at = before(at);
        }
    }
    let marked = numbers.iter_mut().filter(|number| **number != NONE);
    for (new, number) in marked.enumerate() {
        *number = new as u32;
    }
    (numbers, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(mut following: Following) -> Vec<u32> {
        let list = following.list().unwrap();
        list.iter().map(|(token, _)| *token).collect()
    }

    #[test]
    fn compaction_keeps_the_state_and_the_following_tokens_of_each_prefix() {
        // The state of a prefix is its labels.
        let mut tree: Tree<Vec<u32>> = Tree::new(Vec::new());
        let add = |tree: &mut Tree<Vec<u32>>, parent: u32, token: u32| {
            let labels = [&tree.state(parent)[..], &[token]].concat();
            tree.add_child(parent, token, labels).unwrap()
        };
        let one = add(&mut tree, ROOT, 1);
        let two = add(&mut tree, ROOT, 2);
        add(&mut tree, one, 5);
        let first = add(&mut tree, two, 3);
        let second = add(&mut tree, two, 4);
        // This one is dropped, and the list with it.
        tree.put_following(one, Following::new(&mut vec![6]));
        tree.put_following(first, Following::new(&mut vec![7]));
        tree.put_following(second, Following::new(&mut vec![9, 8]));

        let mut used = [second, first];
        tree.compact(used.iter_mut());
        let [second, first] = used;
        // The root, "2", "2 3" and "2 4".
        assert_eq!(tree.len(), 4);
        assert_eq!(tree.child(ROOT, 1), None);
        for (node, labels) in [(first, vec![2, 3]), (second, vec![2, 4])] {
            assert_eq!(tree.tokens(node), labels);
            assert_eq!(*tree.state(node), labels);
        }
        let two = tree.child(ROOT, 2).unwrap();
        assert_eq!(tree.child(two, 4), Some(second));
        assert_eq!(*tree.state(two), [2]);
        assert_eq!(listed(tree.take_following(first)), [7]);
        assert_eq!(listed(tree.take_following(second)), [8, 9]);

        let next = add(&mut tree, second, 6);
        assert_eq!(*tree.state(next), [2, 4, 6]);
        assert!(tree.take_following(next).is_unknown());
    }

    #[test]
    fn states_of_other_prefixes_are_dropped_and_put_again() {
        let mut tree: Tree<u32> = Tree::new(0);
        let one = tree.add_child(ROOT, 1, 10).unwrap();
        let two = tree.add_child(ROOT, 2, 20).unwrap();
        let three = tree.add_child(two, 3, 30).unwrap();
        tree.keep_states([three, one].into_iter());
        let with_state = |tree: &Tree<u32>| -> Vec<u32> {
            (0..tree.len() as u32)
                .filter(|id| tree.has_state(*id))
                .collect()
        };
        assert_eq!(with_state(&tree), [one, three]);
        assert_eq!((*tree.state(one), *tree.state(three)), (10, 30));

        tree.put_state(two, 21);
        let mut used = [three];
        tree.compact(used.iter_mut());
        let two = tree.child(ROOT, 2).unwrap();
        assert_eq!(with_state(&tree), [two, used[0]]);
        tree.keep_states([two].into_iter());
        assert_eq!(with_state(&tree), [two]);
        assert_eq!(*tree.state(two), 21);

        for token in 10..10 + STATES as u32 {
            assert!(!tree.has_many_states());
            tree.add_child(two, token, token).unwrap();
        }
        assert!(tree.has_many_states());
    }

    #[test]
    fn prefixes_have_the_order_of_their_labels() {
        let mut tree = Tree::new(());
        let mut all = vec![ROOT];
        for depth in 0..3 {
            // The tokens in another order than their numbers.
            for parent in all.clone() {
                if tree.node(parent).depth == depth {
                    let children = [7, 2, 5].map(|token| tree.add_child(parent, token, ()));
                    all.extend(children.map(Result::unwrap));
                }
            }
        }
        assert_eq!(all.len(), 40);
        for &a in &all {
            for &b in &all {
                let want = tree.tokens(a).cmp(&tree.tokens(b));
                assert_eq!(tree.order(a, b), want, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_token_that_a_model_lists_twice_counts_once() {
        assert_eq!(listed(Following::new(&mut vec![3, 1, 3])), [1, 3]);
    }
}
