//! Tables of emissions, block by block: for each entry, the 8 frames of the block.

use crate::cpu::emissions::softmax::RowStats;
use crate::cpu::time::{BLOCK_FRAMES, Backward, FrameBlocks};
use std::ops::Range;

/// The entries of some blocks, as `[block][entry][frame]`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Table<'a, R> {
    /// The first block.
    pub first: usize,
    /// Entries per frame.
    pub entries: usize,
    pub values: &'a [[R; BLOCK_FRAMES]],
    /// The emissions of the blocks that are [`Entries::Raw`], laid out like `values`; empty if there is no such block.
    pub wide: &'a [[f64; BLOCK_FRAMES]],
    /// One per block.
    pub kinds: &'a [Entries],
}

/// The form of the entries of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Entries {
    /// Emissions, all above 0.
    #[default]
    Plain,
    /// Emissions, some of them 0.
    Masked,
    /// Unchanged input, since the entries are too far apart for emissions in their type. Their emissions are computed
    /// in f64.
    Raw(Depth),
}

/// The range of emissions in f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Non-zero emissions are at least 2^faintest.
    pub faintest: i32,
    /// If set, some emissions below 2^cut were replaced by 0.
    pub cut: Option<i32>,
    /// Whether some emissions are exactly 0.
    pub masked: bool,
}

impl Depth {
    /// The depth of emissions in f32.
    pub const PLAIN: Self = Self {
        faintest: -126,
        cut: None,
        masked: false,
    };
}

impl Entries {
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Raw(_))
    }

    #[inline(always)]
    pub fn depth(self) -> Depth {
        match self {
            Self::Raw(depth) => depth,
            _ => Depth::PLAIN,
        }
    }
}

impl<'a, R> Table<'a, R> {
    /// The emissions of a block that is [`Entries::Raw`].
    #[inline(always)]
    pub fn wide(&self, block: usize) -> &'a [[f64; BLOCK_FRAMES]] {
        let start = (block - self.first) * self.entries;
        &self.wide[start..start + self.entries]
    }

    #[inline(always)]
    pub fn kind(&self, block: usize) -> Entries {
        self.kinds[block - self.first]
    }

    #[inline(always)]
    pub fn block(&self, block: usize) -> &'a [[R; BLOCK_FRAMES]] {
        let start = (block - self.first) * self.entries;
        &self.values[start..start + self.entries]
    }
}

/// Logarithms are summed in this unit, 2^−64, so that sums of entries near ±1e308 stay finite.
pub(crate) const LOG_UNIT: f64 = 1.0 / (1u128 << 64) as f64;

/// The output of `Source::emissions`.
pub(crate) struct EmissionsTo<'a, R> {
    pub entries: &'a mut [[R; BLOCK_FRAMES]],
    /// One element per frame; empty for log-probabilities.
    pub stats: &'a mut [RowStats<R>],
    pub kinds: &'a mut [Entries],
    /// One element per frame, or empty.
    pub log_scales: &'a mut [f64],
    /// The emissions of the blocks that are [`Entries::Raw`].
    pub wide: &'a mut Vec<[f64; BLOCK_FRAMES]>,
}

/// The emissions of a few blocks.
#[derive(Default)]
pub(crate) struct EmissionWindow<R> {
    pub values: Vec<[R; BLOCK_FRAMES]>,
    /// The emissions of the blocks that are [`Entries::Raw`].
    pub wide: Vec<[f64; BLOCK_FRAMES]>,
    pub stats: Vec<RowStats<R>>,
    pub kinds: Vec<Entries>,
    /// The logarithm of the total factor by which all blocks so far were divided, times [`LOG_UNIT`].
    pub log_scale: f64,
}

impl<R> EmissionWindow<R> {
    /// The logarithm of the total factor by which the frames of both windows were divided.
    pub fn log_scale_with(&self, other: &Self) -> f64 {
        (self.log_scale + other.log_scale) / LOG_UNIT
    }
}

/// The table of all blocks of an item: first its emissions, later its posteriors, which are stored frame by frame.
pub(crate) struct ItemTable<R> {
    pub blocks: FrameBlocks,
    /// Entries per frame.
    pub width: usize,
    pub entries: Vec<[R; BLOCK_FRAMES]>,
    /// One element per frame, or empty.
    pub stats: Vec<RowStats<R>>,
    /// One per block.
    pub kinds: Vec<Entries>,
    /// For each frame, the logarithm of the factor by which its emissions were divided; empty if not needed.
    pub log_scales: Vec<f64>,
}

/// The part of an [`ItemTable`] that one direction fills on its way to the middle.
pub(crate) struct HalfTable<'a, R> {
    pub blocks: FrameBlocks,
    pub width: usize,
    /// The first block.
    pub first: usize,
    pub entries: &'a mut [[R; BLOCK_FRAMES]],
    pub stats: &'a mut [RowStats<R>],
    pub kinds: &'a mut [Entries],
    pub log_scales: &'a mut [f64],
}

impl<R> ItemTable<R> {
    /// The halves before and after the middle.
    pub fn halves(&mut self) -> (HalfTable<'_, R>, HalfTable<'_, R>) {
        let (blocks, width) = (self.blocks, self.width);
        let middle = blocks.half::<Backward>().start;
        let (early, late) = self.entries.split_at_mut(middle * width);
        let frames = blocks.middle().min(self.stats.len());
        let (early_stats, late_stats) = self.stats.split_at_mut(frames);
        let (early_kinds, late_kinds) = self.kinds.split_at_mut(middle);
        let frames = blocks.middle().min(self.log_scales.len());
        let (early_scales, late_scales) = self.log_scales.split_at_mut(frames);
        let half = |first, entries, stats, kinds, log_scales| HalfTable {
            blocks,
            width,
            first,
            entries,
            stats,
            kinds,
            log_scales,
        };
        (
            half(0, early, early_stats, early_kinds, early_scales),
            half(middle, late, late_stats, late_kinds, late_scales),
        )
    }
}

impl<'a, R> HalfTable<'a, R> {
    /// The output for the emissions of some of its blocks.
    pub fn of<'b>(
        &'b mut self,
        some: Range<usize>,
        wide: &'b mut Vec<[f64; BLOCK_FRAMES]>,
    ) -> EmissionsTo<'b, R> {
        let (frames, start) = (
            self.blocks.frames_of(some.clone()),
            self.first * BLOCK_FRAMES,
        );
        let frames = frames.start - start..frames.end - start;
        let blocks = some.start - self.first..some.end - self.first;
        let entries = blocks.start * self.width..blocks.end * self.width;
        EmissionsTo {
            entries: &mut self.entries[entries],
            stats: self.stats.get_mut(frames.clone()).unwrap_or_default(),
            kinds: &mut self.kinds[blocks],
            log_scales: self.log_scales.get_mut(frames).unwrap_or_default(),
            wide,
        }
    }

    pub fn table(self) -> HalfEmissions<'a, R> {
        HalfEmissions {
            values: self.entries,
            kinds: self.kinds,
            log_scales: self.log_scales,
        }
    }
}

/// The emissions of one half of an item.
pub(crate) struct HalfEmissions<'a, R> {
    pub values: &'a mut [[R; BLOCK_FRAMES]],
    /// One per block.
    pub kinds: &'a [Entries],
    /// For each frame, the logarithm of the factor by which its emissions were divided; empty if not needed.
    pub log_scales: &'a [f64],
}
