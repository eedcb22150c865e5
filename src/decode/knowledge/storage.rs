//! Arrays of numbers: in memory of their own, or in a file of the binary form.

use super::trie::reserve;
use bytemuck::{AnyBitPattern, NoUninit};
use candle_core::Result;
use memmap2::Mmap;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of a file, which begin at a multiple of 8.
pub(super) enum Image {
    Read(Vec<u64>),
    Mapped(Mmap),
}

impl Image {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(words) => bytemuck::cast_slice(words),
            Self::Mapped(map) => map,
        }
    }
}

/// A slice that owns its elements, or shares those of an [`Image`].
pub(super) enum Array<T> {
    Owned(Vec<T>),
    Shared {
        image: Arc<Image>,
        bytes: Range<usize>,
        elements: PhantomData<T>,
    },
}

impl<T: AnyBitPattern + NoUninit> Array<T> {
    /// A part of an image that begins at a multiple of 8 and has whole elements.
    pub fn shared(image: &Arc<Image>, bytes: Range<usize>) -> Self {
        Self::Shared {
            image: Arc::clone(image),
            bytes,
            elements: PhantomData,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: AnyBitPattern> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(elements) => elements,
            Self::Shared { image, bytes, .. } => {
                bytemuck::cast_slice(&image.bytes()[bytes.clone()])
            }
        }
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(elements: Vec<T>) -> Self {
        Self::Owned(elements)
    }
}

/// One number for each node of a trie.
pub(super) enum Numbers {
    Exact(Array<f32>),
    Quantised(Quantised),
}

/// The numbers of each order as one of [`BINS`] values.
pub(super) struct Quantised {
    /// [`BINS`] for the root and each order, in ascending order, and zeros after them where there are fewer.
    pub values: Array<f32>,
    /// For each node, which of the values of its order.
    pub codes: Array<u8>,
}

/// The number of values that a byte tells apart.
pub(super) const BINS: usize = 1 << u8::BITS;

impl Numbers {
    /// The number of a node. `starts` has the first node of each order.
    #[inline]
    pub fn get(&self, node: u32, starts: &[u32]) -> f32 {
        match self {
            Self::Exact(numbers) => numbers[node as usize],
            Self::Quantised(Quantised { values, codes }) => {
                let order = starts.iter().take_while(|start| **start <= node).count();
                values[BINS * order + usize::from(codes[node as usize])]
            }
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Exact(numbers) => numbers.len(),
            Self::Quantised(Quantised { codes, .. }) => codes.len(),
        }
    }

    /// The numbers of each order in groups of neighbours, each as its mean.
    pub fn quantised(self, starts: &[u32]) -> Result<Self> {
        if matches!(self, Self::Quantised(_)) {
            return Ok(self);
        }
        let bounds: Vec<usize> = std::iter::once(0)
            .chain(starts.iter().map(|start| *start as usize))
            .chain([self.len()])
            .map(|bound| bound.min(self.len()))
            .collect();
        let mut values = Vec::with_capacity(BINS * (starts.len() + 1));
        let mut codes = Vec::new();
        reserve(&mut codes, self.len(), self.len())?;
        for (order, bounds) in bounds.windows(2).enumerate() {
            let numbers = || (bounds[0]..bounds[1]).map(|node| self.get(node as u32, starts));
            let mut sorted: Vec<f32> = Vec::new();
            reserve(&mut sorted, bounds[1] - bounds[0], bounds[1] - bounds[0])?;
            sorted.extend(numbers());
            sorted.sort_unstable_by(f32::total_cmp);
            let groups = groups(&sorted);
            // The codes of numbers, by the largest number of each group.
            let last: Vec<f32> = groups.iter().map(|group| sorted[group.end - 1]).collect();
            codes.extend(numbers().map(|number| last.partition_point(|last| *last < number) as u8));
            values.extend(groups.iter().map(|group| mean(&sorted[group.clone()])));
            values.resize(BINS * (order + 1), 0.0);
        }
        Ok(Self::Quantised(Quantised {
            values: values.into(),
            codes: codes.into(),
        }))
    }
}

/// At most [`BINS`] ranges of sorted numbers, none of which divides equal ones: one for each different number if these
/// are few, else ranges with similar counts, none of which spans more than a 128th of all.
fn groups(sorted: &[f32]) -> Vec<Range<usize>> {
    let different = sorted.chunk_by(|a, b| a == b).take(BINS + 1).count();
    let (most, span) = match (different > BINS, sorted) {
        // Fewer than 128 groups end since they have enough numbers, and fewer than 128 since the next is too far off.
        (true, &[first, .., last]) => (sorted.len().div_ceil(127), (last - first) / 128.0),
        _ => (1, 0.0),
    };
    let mut groups = Vec::with_capacity(BINS);
    let mut start = 0;
    while start < sorted.len() {
        let rest = &sorted[start..];
        let near = rest.partition_point(|number| *number <= rest[0] + span);
        let last = rest[near.min(most) - 1];
        let end = start + rest.partition_point(|number| *number <= last);
        groups.push(start..end);
        start = end;
    }
    groups
}

fn mean(numbers: &[f32]) -> f32 {
    let sum: f64 = numbers.iter().copied().map(f64::from).sum();
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    ((sum / numbers.len() as f64) as f32).clamp(first, last)
}
