//! The checked problem that every backend works from. Tensors occur only in targets that stay on a device.

use crate::memory::{OutOfMemory, elements};
pub(crate) use crate::options::InputKind;
use crate::options::{GradientKind, InputLayout, Reduction};
use crate::problem::weights::EmissionWeights;
use candle_core::{DType, Layout, Result, Tensor, bail};

/// Integers of a loss whose targets stay on a device, of shape `()`, `(N)` or `(N, S)`: values that the host has checked,
/// or a tensor that it has not read.
#[derive(Debug, Clone)]
pub(crate) enum IntSource {
    Values(Vec<i64>),
    Tensor(Tensor),
}

impl IntSource {
    /// The number of integers; `usize::MAX`, which no memory holds, for a view of more.
    pub fn count(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Tensor(tensor) => elements(1, tensor.dims()).unwrap_or(usize::MAX),
        }
    }
}

/// Lengths and targets on a device, to be checked there: only their shapes are known.
#[derive(Debug, Clone)]
pub(crate) struct DeviceTargets {
    pub input_lengths: IntSource,
    pub target_lengths: IntSource,
    pub targets: IntSource,
    /// Labels per row of padded targets, at least 1; 0 for a concatenation.
    pub row: usize,
    /// The maximum number of labels of a target.
    pub labels: usize,
}

/// The input of a function: its sizes, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    /// `T`: frames of the input.
    pub frames: usize,
    /// `N`: items of the batch; 1 if the input has no batch dimension.
    pub batch: usize,
    /// `C`: classes, including the blank.
    pub classes: usize,
    /// The blank class.
    pub blank: usize,
    /// `None` if the input is `(T, C)`.
    pub layout: Option<InputLayout>,
    pub kind: InputKind,
}

/// A checked CTC problem. Everything in it is in range: the lengths fit the input, the labels are classes, and none of
/// them is the blank.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub input: Input,
    /// `T_n` for each item, at most `T`.
    pub input_lengths: Vec<usize>,
    /// The labels of all targets, concatenated.
    pub labels: Vec<u32>,
    /// Offsets of the items in `labels`, and the total: `N + 1` elements.
    pub label_offsets: Vec<usize>,
}

/// Lengths and labels of a loss: read and checked, or left on the device, whose kernels check them.
#[derive(Debug, Clone)]
pub(crate) enum Targets {
    Host(Plan),
    Device(Input, DeviceTargets),
}

/// A loss: its targets, and the options that no other function has.
#[derive(Debug, Clone)]
pub(crate) struct LossProblem {
    pub targets: Targets,
    pub gradient: GradientKind,
    /// How the losses of the batch are reduced; see also [`LossProblem::weight`].
    pub reduction: Reduction,
    /// Whether a loss of +inf passes no gradient, not even [`GradientKind::Torch`]'s NaN.
    pub zero_infinity: bool,
    /// What is added to the entries of the input, if anything is.
    pub weights: Option<EmissionWeights>,
}

impl LossProblem {
    pub fn input(&self) -> &Input {
        match &self.targets {
            Targets::Host(plan) => &plan.input,
            Targets::Device(input, _) => input,
        }
    }

    /// The plan, for the CPU: targets stay on a device only if the input is there too.
    pub fn plan(&self) -> Result<&Plan> {
        match &self.targets {
            Targets::Host(plan) => Ok(plan),
            Targets::Device(..) => bail!("ctc-loss: the targets were not read to the CPU"),
        }
    }

    /// Whether the gradient has a term in the entries of the input themselves, beside the posteriors.
    pub fn reads_input_again(&self) -> bool {
        self.input().kind == InputKind::Logits || self.gradient == GradientKind::Torch
    }

    /// The weight of the loss of item `n`: `1 / (max(U_n, 1) · N)` for [`Reduction::Mean`], else 1.
    pub fn weight(&self, plan: &Plan, n: usize) -> f64 {
        if self.reduction == Reduction::Mean {
            1.0 / (plan.target_length(n).max(1) * plan.input.batch) as f64
        } else {
            1.0
        }
    }

    /// The shape of the loss: `(N)` if it is not reduced and there is a batch dimension, else `()`.
    pub fn loss_shape(&self) -> Vec<usize> {
        let input = self.input();
        match (self.reduction, input.layout) {
            (Reduction::None, Some(_)) => vec![input.batch],
            _ => vec![],
        }
    }
}

/// The offset and strides of the input in its storage, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strides {
    pub offset: usize,
    pub frame: usize,
    pub item: usize,
    pub class: usize,
}

impl Strides {
    /// The place of an entry in the storage.
    pub fn place(&self, frame: usize, item: usize, class: usize) -> usize {
        self.offset + frame * self.frame + item * self.item + class * self.class
    }
}

impl Plan {
    /// The labels of item `n`.
    pub fn target(&self, n: usize) -> &[u32] {
        &self.labels[self.label_offsets[n]..self.label_offsets[n + 1]]
    }

    /// `U_n`: the number of labels of item `n`.
    pub fn target_length(&self, n: usize) -> usize {
        self.label_offsets[n + 1] - self.label_offsets[n]
    }

    /// Whether the target of item `n` fits into its frames: one frame for each label, and one for the blank between two
    /// equal neighbours.
    pub fn is_feasible(&self, n: usize) -> bool {
        self.input_lengths[n] >= frames_needed(self.target(n))
    }

    /// The error if there is no memory for the lattice of item `n`.
    pub fn out_of_memory(&self, n: usize, out: OutOfMemory) -> candle_core::Error {
        candle_core::Error::Msg(format!(
            "ctc: item {n} with {} frames and {} labels needs {} bytes for its lattice, which the system does not give",
            self.input_lengths[n],
            self.target_length(n),
            out.bytes
        ))
        .bt()
    }
}

impl Input {
    /// The shape of the input.
    pub fn shape(&self) -> Vec<usize> {
        let (frames, batch, classes) = (self.frames, self.batch, self.classes);
        match self.layout {
            None => vec![frames, classes],
            Some(InputLayout::TimeMajor) => vec![frames, batch, classes],
            Some(InputLayout::BatchMajor) => vec![batch, frames, classes],
        }
    }

    /// The strides of an input of this shape.
    pub fn strides(&self, layout: &Layout) -> Strides {
        let offset = layout.start_offset();
        let (frame, item, class) = match (self.layout, layout.stride()) {
            (None, &[frame, class]) => (frame, 0, class),
            (Some(InputLayout::TimeMajor), &[frame, item, class]) => (frame, item, class),
            (Some(InputLayout::BatchMajor), &[item, frame, class]) => (frame, item, class),
            _ => unreachable!("the rank was checked"),
        };
        Strides {
            offset,
            frame,
            item,
            class,
        }
    }

    /// The frame and the item of row `row` of a contiguous tensor of the input's shape.
    pub fn frame_and_item(&self, row: usize) -> (usize, usize) {
        match self.layout {
            None => (row, 0),
            Some(InputLayout::TimeMajor) => (row / self.batch, row % self.batch),
            Some(InputLayout::BatchMajor) => (row % self.frames, row / self.frames),
        }
    }
}

/// The arithmetic type for a dtype of the input.
pub(crate) fn real(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The minimum number of frames for a target: `U + R`, with `R` adjacent repeats.
pub(crate) fn frames_needed(target: &[u32]) -> usize {
    target.len() + target.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layout: Option<InputLayout>) -> Plan {
        Plan {
            input: Input {
                frames: 5,
                batch: if layout.is_some() { 3 } else { 1 },
                classes: 4,
                blank: 0,
                layout,
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![5, 3, 2],
            labels: vec![1, 1, 2, 3, 3, 3],
            label_offsets: vec![0, 3, 3, 6],
        }
    }

    #[test]
    fn targets_are_cut_from_the_concatenation() {
        let plan = plan(Some(InputLayout::TimeMajor));
        assert_eq!(plan.target(0), [1, 1, 2]);
        assert_eq!(plan.target(1), [0u32; 0]);
        assert_eq!(plan.target_length(2), 3);
    }

    #[test]
    fn repeats_need_a_blank_between_them() {
        let plan = plan(Some(InputLayout::TimeMajor));
        assert_eq!(frames_needed(plan.target(0)), 4);
        assert!(plan.is_feasible(0) && plan.is_feasible(1));
        assert_eq!(frames_needed(plan.target(2)), 5);
        assert!(!plan.is_feasible(2));
    }

    #[test]
    fn rows_name_their_frame_and_item_in_each_layout() {
        assert_eq!(
            plan(Some(InputLayout::TimeMajor)).input.frame_and_item(7),
            (2, 1)
        );
        assert_eq!(
            plan(Some(InputLayout::BatchMajor)).input.frame_and_item(7),
            (2, 1)
        );
        assert_eq!(plan(None).input.frame_and_item(4), (4, 0));
    }

    #[test]
    fn strides_follow_the_layout_of_a_view() {
        use candle_core::{DType, Device, Tensor};
        let tensor = Tensor::zeros((3, 5, 9), DType::F32, &Device::Cpu).unwrap();
        let view = tensor.narrow(2, 5, 4).unwrap();
        let batch_major = plan(Some(InputLayout::BatchMajor))
            .input
            .strides(view.layout());
        let expected = Strides {
            offset: 5,
            frame: 9,
            item: 45,
            class: 1,
        };
        assert_eq!(batch_major, expected);
        let swapped = view.transpose(0, 1).unwrap();
        let time_major = plan(Some(InputLayout::TimeMajor))
            .input
            .strides(swapped.layout());
        assert_eq!(time_major, expected);
    }
}
