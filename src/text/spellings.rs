//! All ways in which tokens spell a text.

use super::prepare::Prepared;
use std::cmp::Reverse;
use std::ops::Range;

/// All spellings of a text, as a lattice: each path from node 0 to the last node spells it. From
/// [`Vocabulary::spellings`](super::Vocabulary::spellings).
///
/// ```
/// use candle_ctc::text::Vocabulary;
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<blank>", "|", "a", "b", "ab"])?;
/// let spellings = vocabulary.spellings("ab")?;
/// assert_eq!(spellings.count(), 2.0);
/// assert_eq!(spellings.iter().collect::<Vec<_>>(), [vec![4], vec![2, 3]]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Spellings {
    nodes: usize,
    arcs: Vec<SpellingArc>,
    /// The first arc of each node, and the number of arcs.
    first: Vec<usize>,
}

/// A token in a lattice of spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpellingArc {
    /// The node before the token.
    pub from: usize,
    /// The node after it, which has a larger number.
    pub to: usize,
    /// The class of the token.
    pub class: u32,
}

impl Spellings {
    /// The number of nodes, 1 for an empty text. Each lies on a spelling.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The arcs, in the order of their first node. Of one node those with the longest token come first.
    pub fn arcs(&self) -> &[SpellingArc] {
        &self.arcs
    }

    /// The number of spellings, which may be large. +inf above 1.8e308.
    pub fn count(&self) -> f64 {
        let mut counts = vec![0.0; self.nodes];
        counts[self.nodes - 1] = 1.0;
        for arc in self.arcs.iter().rev() {
            counts[arc.from] += counts[arc.to];
        }
        counts[0]
    }

    /// Whether these labels spell the text.
    pub fn contains(&self, labels: &[u32]) -> bool {
        let mut nodes = vec![0];
        for &label in labels {
            let next = nodes.iter().flat_map(|&node| self.arcs_from(node));
            nodes = next
                .filter(|arc| arc.class == label)
                .map(|arc| arc.to)
                .collect();
            nodes.sort_unstable();
            nodes.dedup();
        }
        nodes.contains(&(self.nodes - 1))
    }

    /// The labels of each spelling, those with long tokens at the start first. There may be very many: limit them with
    /// `take`.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u32>> + '_ {
        // Each entry is the next arc to try at a node of the current path.
        let mut next = vec![self.first[0]];
        let mut path: Vec<u32> = Vec::new();
        let mut empty = self.nodes == 1;
        std::iter::from_fn(move || {
            if std::mem::take(&mut empty) {
                return Some(Vec::new());
            }
            loop {
                let depth = next.len();
                let at = *next.last()?;
                let node = match depth {
                    1 => 0,
                    _ => self.arcs[next[depth - 2] - 1].to,
                };
                if at == self.first[node + 1] {
                    next.pop();
                    path.pop();
                    continue;
                }
                next[depth - 1] += 1;
                let arc = self.arcs[at];
                path.push(arc.class);
                if arc.to == self.nodes - 1 {
                    let found = path.clone();
                    path.pop();
                    return Some(found);
                }
                next.push(self.first[arc.to]);
            }
        })
    }

    fn arcs_from(&self, node: usize) -> &[SpellingArc] {
        &self.arcs[self.first[node]..self.first[node + 1]]
    }

    /// A lattice from arcs between arbitrary, increasing positions, sorted by their start.
    fn new(end: usize, arcs: impl Iterator<Item = (usize, usize, u32)> + Clone) -> Self {
        let mut number = vec![usize::MAX; end + 1];
        number[0] = 0;
        number[end] = 0;
        for (from, to, _) in arcs.clone() {
            number[from] = 0;
            number[to] = 0;
        }
        let mut nodes = 0;
        for number in number.iter_mut().filter(|number| **number == 0) {
            *number = nodes;
            nodes += 1;
        }
        let arcs: Vec<SpellingArc> = arcs
            .map(|(from, to, class)| SpellingArc {
                from: number[from],
                to: number[to],
                class,
            })
            .collect();
        let first = (0..=nodes)
            .map(|node| arcs.partition_point(|arc| arc.from < node))
            .collect();
        Self { nodes, arcs, first }
    }

    /// The lattice of one spelling.
    pub(super) fn chain(labels: &[u32]) -> Self {
        Self::new(
            labels.len(),
            labels
                .iter()
                .enumerate()
                .map(|(at, &class)| (at, at + 1, class)),
        )
    }
}

/// A token or a gap in a prepared text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arc {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Token(u32),
    /// One byte of a character, for where there is no token.
    Byte(u32),
    /// A character that no token fits.
    Gap,
}

impl Kind {
    /// Gaps count most, then bytes. A text has less than 2^32 of either, or the sums say so less exactly.
    fn cost(self) -> u64 {
        match self {
            Self::Token(_) => 0,
            Self::Byte(_) => 1,
            Self::Gap => 1 << 32,
        }
    }
}

/// The paths through a prepared text with the fewest gaps, and of these the ones with the fewest bytes.
#[derive(Debug)]
pub(super) struct Lattice {
    length: usize,
    /// By start, then the longest first. All lie on such a path.
    arcs: Vec<Arc>,
}

impl Lattice {
    /// From all tokens that stand in the text.
    pub fn new(prepared: &Prepared, tokens: impl Iterator<Item = Arc>) -> Self {
        let length = prepared.text.len();
        let gap = |range: Range<usize>| Arc {
            start: range.start,
            end: range.end,
            kind: Kind::Gap,
        };
        let gaps = (0..prepared.pieces.len()).map(|piece| gap(prepared.range(piece)));
        let mut arcs: Vec<Arc> = tokens.chain(gaps).collect();
        arcs.sort_unstable_by_key(|arc| (arc.start, Reverse(arc.end), arc.kind));

        // The cost from each position to the end. Not every position can be reached.
        let mut rest = vec![u64::MAX; length + 1];
        rest[length] = 0;
        for arc in arcs.iter().rev() {
            let cost = rest[arc.end].saturating_add(arc.kind.cost());
            rest[arc.start] = rest[arc.start].min(cost);
        }
        let mut reached = vec![false; length + 1];
        reached[0] = true;
        arcs.retain(|arc| {
            let best = rest[arc.start] != u64::MAX
                && rest[arc.end].saturating_add(arc.kind.cost()) == rest[arc.start];
            let keep = best && reached[arc.start];
            reached[arc.end] |= keep;
            keep
        });
        Self { length, arcs }
    }

    /// The path with the highest sum of scores; without scores, the one that takes the longest token each time.
    pub fn best(&self, scores: Option<&[f64]>) -> Vec<Arc> {
        let score = |arc: &Arc| match (scores, arc.kind) {
            (Some(scores), Kind::Token(class)) => scores[class as usize],
            _ => 0.0,
        };
        // The index of the next arc on the best path from each position, and its sum.
        let mut next: Vec<(f64, usize)> = vec![(f64::NEG_INFINITY, usize::MAX); self.length + 1];
        next[self.length].0 = 0.0;
        for (index, arc) in self.arcs.iter().enumerate().rev() {
            let sum = score(arc) + next[arc.end].0;
            // The arcs of one position come in reverse: of equal sums, the longest token comes last.
            if sum >= next[arc.start].0 {
                next[arc.start] = (sum, index);
            }
        }
        let mut path = Vec::new();
        let mut at = 0;
        while at < self.length {
            let arc = self.arcs[next[at].1];
            at = arc.end;
            path.push(arc);
        }
        path
    }

    /// All paths. Only without gaps.
    pub fn spellings(&self) -> Spellings {
        let arcs = self.arcs.iter().filter_map(|arc| match arc.kind {
            Kind::Token(class) | Kind::Byte(class) => Some((arc.start, arc.end, class)),
            Kind::Gap => None,
        });
        Spellings::new(self.length, arcs)
    }
}
