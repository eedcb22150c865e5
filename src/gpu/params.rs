//! What goes to the kernels whole: the twins of the structs in `kernels/common.h`.

use crate::options::{GradientKind, InputLayout, Reduction};
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::Layout;

/// The same for all items.
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
    /// Emissions of a frame: the most classes that a target uses, and the blank.
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

impl Sizes {
    /// `labels` and `entries` as the fields; `keep` when a gradient will be wanted. No tensor is placed yet.
    pub fn new(plan: &Plan, labels: usize, entries: usize, keep: bool) -> Self {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        // Sizes of tensors that exist: all fit.
        let size = |size: usize| size as i64;
        Self {
            frames: size(plan.frames),
            batch: size(plan.batch),
            classes: size(plan.classes),
            x_offset: 0,
            x_frame: 0,
            x_item: 0,
            x_class: 0,
            up_offset: 0,
            up_item: 0,
            labels: size(labels),
            entries: size(entries),
            // A class; the kernels' labels have 32 bits.
            blank: plan.blank as u32,
            flags: flag(plan.input == InputKind::Logits, LOGITS)
                | flag(plan.gradient == GradientKind::Torch, TORCH)
                | flag(plan.reduction == Reduction::Mean, MEAN)
                | flag(plan.zero_infinity, ZERO_INFINITY)
                | flag(keep, KEEP)
                | flag(plan.layout == Some(InputLayout::BatchMajor), BATCH_MAJOR),
        }
    }

    /// With the place of the input.
    pub fn reading(self, strides: Strides) -> Self {
        Self {
            x_offset: strides.offset as i64,
            x_frame: strides.frame as i64,
            x_item: strides.item as i64,
            x_class: strides.class as i64,
            ..self
        }
    }

    /// With the place of the upstream gradient, `(N)` or `()`.
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

/// Where integers stand, and where they go one behind the other.
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
