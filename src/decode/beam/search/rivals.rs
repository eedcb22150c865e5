//! Prefixes that are alike to the language model: one that scores no better than another makes room.

use super::{BeamSearch, Entry, place_of};
use crate::decode::arena::NONE;
use crate::decode::language_model::LanguageModel;
use std::ops::Range;

/// Scratch memory, reused from frame to frame.
#[derive(Default)]
pub(super) struct Rivals {
    /// The prefixes with a known state of the language model: its key, the last token, and the place in the beam.
    alike: Vec<(u128, u32, u32)>,
    /// Those of them with rivals, which are prefixes of the same key and last token: the number of labels, the place in
    /// the beam, and where the rivals are in `alike`.
    order: Vec<(u32, u32, Range<usize>)>,
    /// For each prefix in the beam, its family, and whether it is to be dropped.
    family: Vec<Family>,
    beaten: Vec<bool>,
}

/// The relatives of a prefix in the beam.
#[derive(Debug, Clone, Copy)]
struct Family {
    /// The place of its parent.
    parent: Option<u32>,
    /// The number of its children.
    children: u32,
    /// The number of its labels.
    depth: u32,
}

impl<L: LanguageModel> BeamSearch<L> {
    /// Drops each prefix that is behind another with the same last token and an equal state of the language model: with
    /// the model's score, neither its alignments that end in a blank nor those that end in the token are more probable
    /// than the other's. All that follows adds the same to both.
    ///
    /// A prefix also gathers from its parent, so its parent must be out of the beam, or behind the parent of the other.
    /// A prefix is kept while it has a child in the beam, which gathers from it.
    /// Ancestors farther up are not compared, nor parents that come back to the beam: with these, a prefix that was
    /// dropped may have come out ahead.
    pub(super) fn drop_beaten(&mut self) {
        if !self.is_asked() {
            return;
        }
        let (tree, beam) = (&self.tree, &self.beam);
        let Rivals {
            alike,
            order,
            family,
            beaten,
        } = &mut self.work.rivals;
        let parent_of = |entry: &Entry| {
            let parent = (entry.token != NONE).then(|| tree.node(entry.node).parent)?;
            place_of(tree, beam, parent)
        };
        family.clear();
        family.extend(beam.iter().map(|entry| Family {
            parent: parent_of(entry),
            children: 0,
            depth: tree.node(entry.node).depth,
        }));
        for slot in 0..family.len() {
            if let Some(parent) = family[slot].parent {
                family[parent as usize].children += 1;
            }
        }
        alike.clear();
        for (slot, entry) in (0..).zip(beam) {
            if let Some(key) = self.language_model.state_key(tree.state(entry.node)) {
                alike.push((key, entry.token, slot));
            }
        }
        alike.sort_unstable();
        beaten.clear();
        beaten.resize(beam.len(), false);
        // Whether `a` is behind `b`, each with a score of the language model: its own, or that of its child.
        let is_behind = |(a, lm_a): (u32, f64), (b, lm_b): (u32, f64)| {
            let (a, b) = (&beam[a as usize], &beam[b as usize]);
            a.token == b.token
                && lm_a + a.blank <= lm_b + b.blank
                && lm_a + a.label <= lm_b + b.label
        };
        let mut start = 0;
        for group in alike.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let rivals = start..start + group.len();
            start = rivals.end;
            let depth = |slot: u32| family[slot as usize].depth;
            if rivals.len() > 1 {
                order.extend(
                    group
                        .iter()
                        .map(|&(.., slot)| (depth(slot), slot, rivals.clone())),
                );
            }
        }
        // Children before their parents.
        order.sort_unstable_by_key(|&(depth, slot, _)| (u32::MAX - depth, slot));
        let mut any = false;
        for (_, slot, rivals) in order.drain(..) {
            let (lm, own) = (beam[slot as usize].lm, family[slot as usize]);
            let beats = |&(.., other): &(u128, u32, u32)| {
                let lm_other = beam[other as usize].lm;
                let parents = || match (own.parent, family[other as usize].parent) {
                    (None, _) => true,
                    (Some(own), Some(other)) => is_behind((own, lm), (other, lm_other)),
                    (Some(_), None) => false,
                };
                // The beam is sorted, so of two that are behind each other the first stays.
                other < slot
                    && !beaten[other as usize]
                    && is_behind((slot, lm), (other, lm_other))
                    && parents()
            };
            if own.children == 0 && alike[rivals].iter().any(beats) {
                beaten[slot as usize] = true;
                any = true;
                if let Some(parent) = own.parent {
                    family[parent as usize].children -= 1;
                }
            }
        }
        if any {
            for (entry, _) in beam.iter().zip(&*beaten).filter(|(_, beaten)| **beaten) {
                self.tree.take_following(entry.node);
            }
            let mut slots = beaten.iter();
            self.beam.retain(|_| slots.next() == Some(&false));
            for (slot, entry) in self.beam.iter().enumerate() {
                self.tree.set_slot(entry.node, slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BeamOptions, EMPTY_PREFIX, Entry};
    use super::*;
    use crate::decode::arena::ROOT;
    use candle_core::Result;

    /// A model whose states are all alike.
    struct Alike;

    impl LanguageModel for Alike {
        type State = ();

        fn start(&self) -> Result<()> {
            Ok(())
        }

        fn score(&self, _state: &(), _token: u32) -> Result<f64> {
            Ok(0.0)
        }

        fn advance(&self, _state: &(), _token: u32) -> Result<()> {
            Ok(())
        }

        fn state_key(&self, _state: &()) -> Option<u128> {
            Some(7)
        }
    }

    /// What is left of a beam of labels with the probabilities of a blank and of the last label at the end.
    fn kept(beam: &[(&[u32], f64, f64)]) -> Vec<Vec<u32>> {
        let opts = BeamOptions {
            beam_width: beam.len(),
            ..Default::default()
        };
        let mut search = BeamSearch::with_language_model(6, Alike, opts).unwrap();
        search.beam.clear();
        for (labels, blank, label) in beam {
            let mut node = ROOT;
            for &token in *labels {
                node = match search.tree.child(node, token) {
                    Some(child) => child,
                    None => search.tree.add_child(node, token, ()).unwrap(),
                };
            }
            search.tree.set_slot(node, search.beam.len());
            search.beam.push(Entry {
                node,
                token: *labels.last().unwrap(),
                blank: blank.ln(),
                label: label.ln(),
                total: (blank + label).ln(),
                ..EMPTY_PREFIX
            });
        }
        search.drop_beaten();
        for (slot, entry) in search.beam.iter().enumerate() {
            assert_eq!(search.tree.node(entry.node).slot, slot as u32);
        }
        let left = search.beam.iter();
        left.map(|entry| search.tree.tokens(entry.node)).collect()
    }

    #[test]
    fn of_prefixes_that_are_alike_one_that_is_behind_is_dropped() {
        // Behind in both kinds of alignment.
        assert_eq!(kept(&[(&[1, 3], 0.2, 0.1), (&[2, 3], 0.1, 0.1)]), [[1, 3]]);
        // They need not be neighbours in the beam.
        assert_eq!(
            kept(&[
                (&[1, 3], 0.2, 0.1),
                (&[5, 4], 0.15, 0.1),
                (&[2, 3], 0.1, 0.1)
            ]),
            [[1, 3], [5, 4]]
        );
        // In one kind alone, or with another last label: both may win.
        let labels: [&[u32]; 2] = [&[1, 3], &[2, 3]];
        assert_eq!(
            kept(&[(labels[0], 0.3, 0.1), (labels[1], 0.1, 0.2)]),
            labels
        );
        assert_eq!(
            kept(&[(labels[0], 0.3, 0.1), (labels[1], 0.0, 0.2)]),
            labels
        );
        let others: [&[u32]; 2] = [&[1, 3], &[1, 4]];
        assert_eq!(
            kept(&[(others[0], 0.3, 0.1), (others[1], 0.1, 0.1)]),
            others
        );
    }

    #[test]
    fn a_prefix_that_gathers_from_its_parent_is_behind_if_that_is_behind_too() {
        let beam: [&[u32]; 3] = [&[1], &[2, 3], &[1, 3]];
        // The parent of the second is not in the beam.
        assert_eq!(
            kept(&[
                (beam[0], 0.25, 0.25),
                (beam[1], 0.0, 0.11),
                (beam[2], 0.0, 0.10)
            ]),
            beam
        );
        // It is, with another last label, so that a repeat would gather otherwise.
        let four: [&[u32]; 4] = [&[2], &[1], &[2, 3], &[1, 3]];
        let with = |first: f64, second: f64| {
            kept(&[
                (four[0], first, first),
                (four[1], second, second),
                (four[2], 0.0, 0.11),
                (four[3], 0.0, 0.10),
            ])
        };
        assert_eq!(with(0.3, 0.2), four);
        // With the same one, ahead and behind.
        let same: [&[u32]; 4] = [&[2, 4], &[1, 4], &[2, 4, 3], &[1, 4, 3]];
        let with = |first: f64, second: f64| {
            kept(&[
                (same[0], first, first),
                (same[1], second, second),
                (same[2], 0.0, 0.11),
                (same[3], 0.0, 0.10),
            ])
        };
        // The parent goes with its child.
        assert_eq!(with(0.3, 0.2), [same[0], same[2]]);
        assert_eq!(with(0.3, 0.3), [same[0], same[2]]);
    }

    #[test]
    fn a_prefix_that_another_one_continues_is_kept() {
        let beam: [&[u32]; 3] = [&[1, 3], &[2, 3], &[2, 3, 5]];
        assert_eq!(
            kept(&[
                (beam[0], 0.3, 0.2),
                (beam[1], 0.1, 0.1),
                (beam[2], 0.1, 0.1)
            ]),
            beam
        );
    }
}
