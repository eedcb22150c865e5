//! Kernel arguments passed by value: the same structs as in `kernels/common.h`.

use crate::options::{GradientKind, InputLayout, Reduction};
use crate::problem::plan::{Input, InputKind, LossProblem, Strides};
use candle_core::Layout;

/// Parameters common to all items.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sizes {
    pub frames: i64,
    pub batch: i64,
    pub classes: i64,
    x_offset: i64,
    x_frame: i64,
    x_item: i64,
    x_class: i64,
    up_offset: i64,
    up_item: i64,
    /// S: labels that the tables have room for.
    pub labels: i64,
    /// Emissions per frame: the maximum number of classes that a target uses, and the blank.
    pub entries: i64,
    blank: u32,
    flags: u32,
}

const LOGITS: u32 = 1;
const TORCH: u32 = 2;
const MEAN: u32 = 4;
const ZERO_INFINITY: u32 = 8;
const KEEP: u32 = 16;
const BATCH_MAJOR: u32 = 32;
const CANDIDATES: u32 = 64;
const WEIGHTED: u32 = 128;

fn flag(on: bool, flag: u32) -> u32 {
    if on { flag } else { 0 }
}

impl Sizes {
    /// Parameters for `labels` and `entries`, the fields of that name. Strides and offsets of tensors are not set yet.
    pub fn new(input: &Input, labels: usize, entries: usize) -> Self {
        // Sizes of existing tensors always fit.
        let size = |size: usize| size as i64;
        Self {
            frames: size(input.frames),
            batch: size(input.batch),
            classes: size(input.classes),
            x_offset: 0,
            x_frame: 0,
            x_item: 0,
            x_class: 0,
            up_offset: 0,
            up_item: 0,
            labels: size(labels),
            entries: size(entries),
            // The blank is a class, and the kernels' labels have 32 bits.
            blank: input.blank as u32,
            flags: flag(input.kind == InputKind::Logits, LOGITS)
                | flag(input.layout == Some(InputLayout::BatchMajor), BATCH_MAJOR),
        }
    }

    /// The options of a loss; `keep` if a gradient will be needed.
    pub fn of_loss(self, problem: &LossProblem, keep: bool) -> Self {
        Self {
            flags: self.flags
                | flag(problem.gradient == GradientKind::Torch, TORCH)
                | flag(problem.reduction == Reduction::Mean, MEAN)
                | flag(problem.zero_infinity, ZERO_INFINITY)
                | flag(keep, KEEP)
                | flag(problem.weights.is_some(), WEIGHTED),
            ..self
        }
    }

    /// The items are candidates, each for the frames of its utterance.
    pub fn of_candidates(self) -> Self {
        Self {
            flags: self.flags | CANDIDATES,
            ..self
        }
    }

    /// Sets the strides and offset of the input.
    pub fn reading(self, strides: Strides) -> Self {
        Self {
            x_offset: strides.offset as i64,
            x_frame: strides.frame as i64,
            x_item: strides.item as i64,
            x_class: strides.class as i64,
            ..self
        }
    }

    /// Sets the stride and offset of the upstream gradient, `(N)` or `()`.
    pub fn upstream(self, layout: &Layout) -> Self {
        Self {
            up_offset: layout.start_offset() as i64,
            up_item: layout.stride().first().copied().unwrap_or(0) as i64,
            ..self
        }
    }

    pub fn is_logits(&self) -> bool {
        self.flags & LOGITS != 0
    }
}

/// The layout of integers in a tensor, and the index `to` of their destination.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Integers {
    pub rows: i64,
    pub columns: i64,
    pub offset: i64,
    pub row: i64,
    pub column: i64,
    pub to: i64,
}
