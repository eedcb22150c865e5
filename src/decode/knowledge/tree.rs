//! Sequences of labels as a tree that shares their beginnings.

use candle_core::{Result, bail};
use std::ops::Range;

/// The node of the empty sequence.
pub(super) const ROOT: u32 = 0;

/// Sequences of labels, each with a number, as a tree. Nodes are numbered by depth, and the children of a node lie side
/// by side, in the order of their labels.
#[derive(Debug, Clone)]
pub(super) struct LabelTree {
    /// The last label of each node; that of the root means nothing.
    label: Vec<u32>,
    /// The first child of each node, and the number of nodes.
    first_child: Vec<u32>,
    /// For each node, where its sequences begin in `entries`, and the number of these.
    first_entry: Vec<u32>,
    /// The numbers of the sequences that end in each node.
    entries: Vec<u32>,
}

impl LabelTree {
    /// A tree of sequences. Equal pairs become one.
    pub fn new(mut sequences: Vec<(Vec<u32>, u32)>) -> Result<Self> {
        sequences.sort_unstable();
        sequences.dedup();
        let labels: usize = sequences.iter().map(|(labels, _)| labels.len()).sum();
        if labels.max(sequences.len()) >= u32::MAX as usize {
            bail!(
                "spellings of {labels} labels in all are too many; at most {} fit",
                u32::MAX
            )
        }
        let mut tree = Self {
            label: vec![0],
            first_child: Vec::new(),
            first_entry: Vec::new(),
            entries: Vec::new(),
        };
        // For each node: its depth, and the sequences that begin with it, which lie side by side.
        let mut nodes = vec![(0, 0..sequences.len())];
        let mut at = 0;
        while at < nodes.len() {
            let (depth, Range { mut start, end }) = nodes[at].clone();
            tree.first_child.push(nodes.len() as u32);
            tree.first_entry.push(tree.entries.len() as u32);
            // Those that end here come first.
            while start < end && sequences[start].0.len() == depth {
                tree.entries.push(sequences[start].1);
                start += 1;
            }
            while start < end {
                let label = sequences[start].0[depth];
                let count =
                    sequences[start..end].partition_point(|(labels, _)| labels[depth] == label);
                tree.label.push(label);
                nodes.push((depth + 1, start..start + count));
                start += count;
            }
            at += 1;
        }
        tree.first_child.push(nodes.len() as u32);
        tree.first_entry.push(tree.entries.len() as u32);
        Ok(tree)
    }

    pub fn len(&self) -> usize {
        self.label.len()
    }

    pub fn label(&self, node: u32) -> u32 {
        self.label[node as usize]
    }

    pub fn children(&self, node: u32) -> Range<u32> {
        self.first_child[node as usize]..self.first_child[node as usize + 1]
    }

    /// The labels of the children of a node.
    pub fn labels(&self, node: u32) -> &[u32] {
        let children = self.children(node);
        &self.label[children.start as usize..children.end as usize]
    }

    /// The numbers of the sequences that end in a node.
    pub fn entries(&self, node: u32) -> &[u32] {
        let range = self.first_entry[node as usize]..self.first_entry[node as usize + 1];
        &self.entries[range.start as usize..range.end as usize]
    }

    #[inline]
    pub fn child(&self, node: u32, label: u32) -> Option<u32> {
        let at = self.labels(node).binary_search(&label).ok()?;
        Some(self.children(node).start + at as u32)
    }

    /// For each node the largest value of the sequences that begin with it and are longer, −inf where there are none.
    /// `value` is that of a sequence's number.
    pub fn largest_below(&self, value: impl Fn(u32) -> f64) -> Vec<f64> {
        let mut below = vec![f64::NEG_INFINITY; self.len()];
        for node in (0..self.len() as u32).rev() {
            for child in self.children(node) {
                let own = self.entries(child).iter().map(|entry| value(*entry));
                let largest = own.fold(below[child as usize], f64::max);
                below[node as usize] = below[node as usize].max(largest);
            }
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_is_given_twice_stands_there_once() {
        let sequences = [(&[1, 2][..], 7), (&[1], 5), (&[1, 2], 7), (&[1, 2], 3)];
        let sequences = sequences.map(|(labels, number)| (labels.to_vec(), number));
        let tree = LabelTree::new(sequences.to_vec()).unwrap();
        let one = tree.child(ROOT, 1).unwrap();
        assert_eq!(tree.entries(one), [5]);
        assert_eq!(tree.entries(tree.child(one, 2).unwrap()), [3, 7]);
    }
}
