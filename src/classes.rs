//! The distinct classes of a target, and where each of them stands in it.

/// Entries are gathered, and posteriors kept, once for each class that a target uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Classes {
    /// In the order of their first appearance. After [`Classes::or_labels`] they may be equal.
    pub distinct: Vec<u32>,
    /// For each position of the target, the place of its class in `distinct`.
    pub place: Vec<u32>,
    /// The positions of the target by class; within a class from first to last.
    pub positions: Vec<u32>,
    /// For each class, where its positions end.
    pub ends: Vec<u32>,
}

impl Classes {
    pub fn new(target: &[u32]) -> Self {
        let mut positions: Vec<u32> = (0..target.len() as u32).collect();
        positions.sort_by_key(|&i| target[i as usize]);
        let mut runs: Vec<&[u32]> = positions
            .chunk_by(|&a, &b| target[a as usize] == target[b as usize])
            .collect();
        runs.sort_by_key(|run| run[0]);
        let mut place = vec![0; target.len()];
        let mut ends = Vec::with_capacity(runs.len());
        let mut end = 0;
        for (class, run) in runs.iter().enumerate() {
            for &i in *run {
                place[i as usize] = class as u32;
            }
            end += run.len() as u32;
            ends.push(end);
        }
        Self {
            distinct: runs.iter().map(|run| target[run[0] as usize]).collect(),
            place,
            positions: runs.concat(),
            ends,
        }
    }

    /// The labels as they stand, each a class of its own, when that is less work than to tell equal
    /// ones: `block` entries of a frame are converted at once, and to find the entry of a label, and
    /// to bring it back, takes about half as long as that for as many labels.
    pub fn or_labels(self, target: &[u32], block: usize) -> Self {
        let blocks = |entries: usize| (entries + 1).div_ceil(block);
        let (distinct, labels) = (blocks(self.distinct.len()), blocks(target.len()));
        if 2 * (labels - distinct) > labels {
            return self;
        }
        let count = target.len() as u32;
        Self {
            distinct: target.to_vec(),
            place: (0..count).collect(),
            positions: (0..count).collect(),
            ends: (1..count + 1).collect(),
        }
    }

    /// For each class the sum of `values` at its positions, from first to last.
    #[inline(always)]
    pub fn sums<T: Copy + std::ops::Add<Output = T>>(
        &self,
        values: &[T],
        zero: T,
        mut put: impl FnMut(usize, T),
    ) {
        let mut start = 0;
        for (class, &end) in self.ends.iter().enumerate() {
            let run = &self.positions[start..end as usize];
            let sum = run.iter().fold(zero, |sum, &i| sum + values[i as usize]);
            put(class, sum);
            start = end as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_the_order_of_first_appearance() {
        let classes = Classes::new(&[7, 3, 7, 7, 9, 3]);
        assert_eq!(classes.distinct, [7, 3, 9]);
        assert_eq!(classes.place, [0, 1, 0, 0, 2, 1]);
        let mut sums = Vec::new();
        classes.sums(&[1, 10, 100, 1000, 5, 20], 0, |class, sum| {
            sums.push((class, sum));
        });
        assert_eq!(sums, [(0, 1101), (1, 30), (2, 5)]);
        assert!(Classes::new(&[]).distinct.is_empty());
    }
}
