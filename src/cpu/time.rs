//! Division of the frames of an item: into blocks of a few frames, starting at the first, and into two halves, one per
//! direction.

use std::ops::Range;

/// Frames per block. The last block of an item may have fewer.
pub(crate) const BLOCK_FRAMES: usize = 8;

/// Forward or backward in time.
pub(crate) trait Direction: Copy + Send + Sync {
    const FORWARD: bool;
    type Other: Direction<Other = Self>;
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Backward;

impl Direction for Forward {
    const FORWARD: bool = true;
    type Other = Backward;
}

impl Direction for Backward {
    const FORWARD: bool = false;
    type Other = Forward;
}

/// The indices of a range: ascending forward, descending backward.
#[inline(always)]
pub(crate) fn ordered<D: Direction>(range: Range<usize>) -> impl ExactSizeIterator<Item = usize> {
    (0..range.len()).map(move |i| nth::<D>(&range, i))
}

/// The `i`th index of [`ordered`].
#[inline(always)]
pub(crate) fn nth<D: Direction>(range: &Range<usize>, i: usize) -> usize {
    if D::FORWARD {
        range.start + i
    } else {
        range.end - 1 - i
    }
}

/// The blocks of an item.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameBlocks {
    /// `T_n`: frames of the item.
    pub frames: usize,
}

impl FrameBlocks {
    pub fn count(self) -> usize {
        self.frames.div_ceil(BLOCK_FRAMES)
    }

    /// The frame where the two directions meet: forward takes the frames before it.
    pub fn middle(self) -> usize {
        self.frames_of(self.half::<Forward>()).end
    }

    /// The blocks that `D` sweeps on its way to the middle.
    #[inline(always)]
    pub fn half<D: Direction>(self) -> Range<usize> {
        let middle = self.count().div_ceil(2);
        if D::FORWARD {
            0..middle
        } else {
            middle..self.count()
        }
    }

    /// The frames of `blocks`.
    #[inline(always)]
    pub fn frames_of(self, blocks: Range<usize>) -> Range<usize> {
        let frame = |block: usize| (block * BLOCK_FRAMES).min(self.frames);
        frame(blocks.start)..frame(blocks.end)
    }

    /// The blocks that `D` sweeps on its way to the middle, up to `at_once` at a time.
    pub fn chunks<D: Direction>(self, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.half::<D>().len()).step_by(at_once);
        starts.map(move |taken| self.chunk::<D>(taken, at_once))
    }

    /// The next `at_once` of them after the first `taken`, or the rest.
    pub fn chunk<D: Direction>(self, taken: usize, at_once: usize) -> Range<usize> {
        let half = self.half::<D>();
        let taken = taken.min(half.len());
        let count = at_once.min(half.len() - taken);
        if D::FORWARD {
            half.start + taken..half.start + taken + count
        } else {
            half.end - taken - count..half.end - taken
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_directions_share_all_frames() {
        for frames in 1..200 {
            let blocks = FrameBlocks { frames };
            for at_once in [1, 2, 3, 100] {
                let mut early: Vec<usize> = blocks
                    .chunks::<Forward>(at_once)
                    .flat_map(|some| blocks.frames_of(some))
                    .collect();
                assert_eq!(early.len(), blocks.middle());
                let mut late: Vec<_> = blocks
                    .chunks::<Backward>(at_once)
                    .map(|some| blocks.frames_of(some))
                    .collect();
                late.reverse();
                early.extend(late.into_iter().flatten());
                assert!(early.into_iter().eq(0..frames), "{frames}, {at_once}");
            }
        }
    }
}
