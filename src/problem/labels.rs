//! The distinct classes of a target, and their positions in it.

use std::collections::HashMap;

/// The distinct classes of a target. Entries are gathered, and posteriors kept, once per distinct class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    /// In order of first appearance.
    pub distinct: Vec<u32>,
    /// For each position of the target, the index of its class in `distinct`.
    pub place: Vec<u32>,
}

/// Finds the distinct classes of one target after another.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    /// For each class, its index for the current target, or [`NONE`].
    places: Vec<u32>,
}

const NONE: u32 = u32::MAX;
/// Classes below this are looked up in a table.
const DENSE: usize = 1 << 16;

/// The same with memory proportional to the labels.
fn sparse(target: &[u32], to: &mut Classes) {
    let mut places = HashMap::new();
    let Classes { distinct, place } = to;
    distinct.clear();
    place.clear();
    place.extend(target.iter().map(|&class| {
        *places.entry(class).or_insert_with(|| {
            distinct.push(class);
            distinct.len() as u32 - 1
        })
    }));
}

impl Numbering {
    pub fn classes(&mut self, target: &[u32]) -> Classes {
        let mut classes = Classes::default();
        self.number(target, &mut classes);
        classes
    }

    /// Overwrites `to`.
    pub fn number(&mut self, target: &[u32], to: &mut Classes) {
        let room = target.iter().max().map_or(0, |&top| top as usize + 1);
        if room > DENSE {
            return sparse(target, to);
        }
        if room > self.places.len() {
            self.places.resize(room, NONE);
        }
        let Classes { distinct, place } = to;
        distinct.resize(target.len(), 0);
        place.resize(target.len(), 0);
        let mut count = 0;
        for (&class, place) in target.iter().zip(place) {
            // Branch-free, since the branch would be unpredictable.
            let known = &mut self.places[class as usize];
            let new = *known == NONE;
            *place = if new { count as u32 } else { *known };
            *known = *place;
            distinct[count] = class;
            count += usize::from(new);
        }
        distinct.truncate(count);
        for &class in &*distinct {
            self.places[class as usize] = NONE;
        }
    }
}

impl Classes {
    pub fn new(target: &[u32]) -> Self {
        Numbering::default().classes(target)
    }

    /// Writes the positions of the target grouped by class, ascending within a class; and for each class the end of its
    /// group. Both slices must be zeroed.
    pub fn positions(&self, positions: &mut [u32], ends: &mut [u32]) {
        for &place in &self.place {
            ends[place as usize] += 1;
        }
        // First the start of each group. Writing a position advances it, up to the end of the group.
        let mut start = 0;
        for end in &mut *ends {
            let count = std::mem::replace(end, start);
            start += count;
        }
        for (i, &place) in (0..).zip(&self.place) {
            let next = &mut ends[place as usize];
            positions[*next as usize] = i;
            *next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(classes: &Classes) -> (Vec<u32>, Vec<u32>) {
        let mut positions = vec![0; classes.place.len()];
        let mut ends = vec![0; classes.distinct.len()];
        classes.positions(&mut positions, &mut ends);
        (positions, ends)
    }

    #[test]
    fn positions_are_sorted_by_class() {
        for labels in [0, 1, 2, 7, 100] {
            let target: Vec<u32> = (0..labels).map(|i| i * i * 7 % 11).collect();
            let classes = Classes::new(&target);
            let (positions, ends) = positions(&classes);
            let mut expected: Vec<u32> = (0..labels).collect();
            expected.sort_by_key(|&i| classes.place[i as usize]);
            assert_eq!(positions, expected);
            let end = |class| {
                classes
                    .place
                    .iter()
                    .filter(|&&place| place <= class)
                    .count()
            };
            let expected: Vec<u32> = (0..classes.distinct.len() as u32)
                .map(|class| end(class) as u32)
                .collect();
            assert_eq!(ends, expected);
        }
    }

    #[test]
    fn classes_keep_the_order_of_first_appearance() {
        let mut numbering = Numbering::default();
        let classes = numbering.classes(&[7, 3, 7, 7, 9, 3]);
        assert_eq!(classes.distinct, [7, 3, 9]);
        assert_eq!(classes.place, [0, 1, 0, 0, 2, 1]);
        let (positions, ends) = positions(&classes);
        assert_eq!(positions, [0, 2, 3, 1, 5, 4]);
        assert_eq!(ends, [3, 5, 6]);
        // Numbers of the previous target do not leak into the next.
        let next = numbering.classes(&[9, 3]);
        assert_eq!((next.distinct, next.place), (vec![9, 3], vec![0, 1]));
        assert!(Classes::new(&[]).distinct.is_empty());
        // Large class numbers take no more memory.
        let far = [7, 4_294_967_294, 7, 70_000, 4_294_967_294];
        let mut classes = Classes::default();
        // What was there before is overwritten.
        for _ in 0..2 {
            numbering.number(&far, &mut classes);
            assert_eq!(classes.distinct, [7, 4_294_967_294, 70_000]);
            assert_eq!(classes.place, [0, 1, 0, 2, 1]);
        }
    }
}
