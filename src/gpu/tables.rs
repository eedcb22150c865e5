//! The kernels' tables of lengths and targets: 32-bit words, in the order that `kernels/common.h` defines.

use crate::memory::filled_room;
use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::{Plan, frames_needed};
use candle_core::Result;

/// The words, if the host knows them, and the sizes they are laid out for.
#[derive(Debug, PartialEq)]
pub(crate) struct Tables {
    pub words: Vec<u32>,
    /// S: the length of the longest target.
    pub labels: usize,
    /// The maximum number of classes that a target uses, plus the blank.
    pub entries: usize,
}

/// The shape of the words for `batch` items with up to `labels` labels each: four for lengths, and four for each label.
pub(crate) fn shape(batch: usize, labels: usize) -> [usize; 3] {
    [labels.saturating_add(1), 4, batch]
}

impl Tables {
    /// Sizes for targets of up to `labels` labels that the host has not read.
    pub fn on_device(labels: usize, classes: usize) -> Self {
        Self {
            words: Vec::new(),
            labels,
            entries: labels.min(classes - 1) + 1,
        }
    }

    /// Computes the tables. Fails if memory runs out.
    pub fn new(plan: &Plan) -> Result<Self> {
        let batch = plan.input.batch;
        let labels = (0..batch).map(|n| plan.target_length(n)).max().unwrap_or(0);
        // The longest target may be far longer than the others.
        let shape = shape(batch, labels);
        let mut words = filled_room("ctc-loss: the tables of the targets", &shape, 0)?;
        let (mut entries, mut numbering) = (1, Numbering::default());
        let mut used = Classes::default();
        let (lengths, rest) = words.split_at_mut(4 * batch);
        let (distinct, rest) = rest.split_at_mut(batch * labels);
        let (place, rest) = rest.split_at_mut(batch * labels);
        let (positions, ends) = rest.split_at_mut(batch * labels);
        for n in 0..batch {
            let target = plan.target(n);
            numbering.number(target, &mut used);
            // Lengths have been checked to be below 2^31.
            lengths[n] = plan.input_lengths[n] as u32;
            lengths[batch + n] = target.len() as u32;
            lengths[2 * batch + n] = used.distinct.len() as u32;
            lengths[3 * batch + n] = frames_needed(target) as u32;
            entries = entries.max(used.distinct.len() + 1);
            let of_classes = n * labels..n * labels + used.distinct.len();
            let of_labels = n * labels..n * labels + target.len();
            distinct[of_classes.clone()].copy_from_slice(&used.distinct);
            place[of_labels.clone()].copy_from_slice(&used.place);
            used.positions(&mut positions[of_labels], &mut ends[of_classes]);
        }
        Ok(Self {
            words,
            labels,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::InputLayout;
    use crate::problem::plan::{Input, InputKind};

    #[test]
    fn words_stand_where_the_kernels_look_for_them() {
        let plan = Plan {
            input: Input {
                frames: 9,
                batch: 2,
                classes: 8,
                blank: 0,
                layout: Some(InputLayout::TimeMajor),
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![9, 4],
            labels: vec![7, 3, 7, 5, 5],
            label_offsets: vec![0, 3, 5],
        };
        let tables = Tables::new(&plan).unwrap();
        assert_eq!((tables.labels, tables.entries), (3, 3));
        #[rustfmt::skip]
        assert_eq!(
            tables.words,
            [
                9, 4, // input lengths
                3, 2, // target lengths
                2, 1, // classes used
                3, 3, // frames needed
                7, 3, 0, /**/ 5, 0, 0, // distinct
                0, 1, 0, /**/ 0, 0, 0, // place of each label
                0, 2, 1, /**/ 0, 1, 0, // positions by class
                2, 3, 0, /**/ 2, 0, 0, // their ends
            ]
        );
    }
}
