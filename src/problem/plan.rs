//! The checked problem: what every backend works from. Pure data, no tensors.

pub(crate) use crate::options::InputKind;
use crate::options::{GradientKind, InputLayout, Reduction};
use candle_core::{Layout, Tensor};

/// Integers of a caller that are not read yet, in shape `()`, `(N)` or `(N, S)`.
#[derive(Debug, Clone)]
pub(crate) enum IntSource {
    Values(Vec<i64>),
    Tensor(Tensor),
}

impl IntSource {
    pub fn count(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Tensor(tensor) => tensor.elem_count(),
        }
    }
}

/// Lengths and targets on a device, to be checked there: only their shapes are known.
#[derive(Debug, Clone)]
pub(crate) struct DeviceTargets {
    pub input_lengths: IntSource,
    pub target_lengths: IntSource,
    pub targets: IntSource,
    /// Labels of a row of padded targets; 0 for a concatenation.
    pub row: usize,
    /// The most labels that a target can have.
    pub labels: usize,
}

/// A checked CTC problem. Nothing in it can be out of range: the lengths fit the input, the
/// labels are classes, and none of them is the blank.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `T`: frames of the input.
    pub frames: usize,
    /// `N`: items of the batch; 1 when the input has no batch dimension.
    pub batch: usize,
    /// `C`: classes, the blank among them.
    pub classes: usize,
    /// The class that stands for "no label".
    pub blank: usize,
    /// `None` when the input is `(T, C)`.
    pub layout: Option<InputLayout>,
    pub input: InputKind,
    pub gradient: GradientKind,
    /// How the losses of the batch become one: see also [`Plan::weight`].
    pub reduction: Reduction,
    /// A loss of +inf passes no gradient, not even [`GradientKind::Torch`]'s NaN.
    pub zero_infinity: bool,
    /// `T_n`, one for each item, at most `frames`.
    pub input_lengths: Vec<usize>,
    /// The labels of all targets, one after the other.
    pub labels: Vec<u32>,
    /// Where the labels of each item begin, and the end: `batch + 1` entries.
    pub label_offsets: Vec<usize>,
    /// Lengths and labels that only a device knows. Those above are then empty.
    pub unread: Option<DeviceTargets>,
}

/// Where the entries of the input stand in its storage, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strides {
    pub offset: usize,
    pub frame: usize,
    pub item: usize,
    pub class: usize,
}

impl Plan {
    /// The labels of item `n`.
    pub fn target(&self, n: usize) -> &[u32] {
        &self.labels[self.label_offsets[n]..self.label_offsets[n + 1]]
    }

    /// `U_n`: the labels in the target of item `n`.
    pub fn target_length(&self, n: usize) -> usize {
        self.label_offsets[n + 1] - self.label_offsets[n]
    }

    /// What the loss of item `n` is multiplied by: for a mean over the batch of losses that are
    /// divided by their target lengths, `1 / (max(U_n, 1) · N)`; else 1.
    pub fn weight(&self, n: usize) -> f64 {
        if self.reduction == Reduction::Mean {
            1.0 / (self.target_length(n).max(1) * self.batch) as f64
        } else {
            1.0
        }
    }

    /// Whether the target of item `n` fits into its frames: each label takes one, and so does
    /// the blank that must stand between two equal neighbours.
    pub fn is_feasible(&self, n: usize) -> bool {
        self.input_lengths[n] >= frames_needed(self.target(n))
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Vec<usize> {
        let (frames, batch, classes) = (self.frames, self.batch, self.classes);
        match self.layout {
            None => vec![frames, classes],
            Some(InputLayout::TimeMajor) => vec![frames, batch, classes],
            Some(InputLayout::BatchMajor) => vec![batch, frames, classes],
        }
    }

    /// The shape of the loss: `(N)` if it is not reduced and there is a batch dimension, else `()`.
    pub fn loss_shape(&self) -> Vec<usize> {
        match (self.reduction, self.layout) {
            (Reduction::None, Some(_)) => vec![self.batch],
            _ => vec![],
        }
    }

    /// Reads the strides of an input that has the plan's shape.
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

/// The fewest frames into which a target fits: `U + R`, with `R` its adjacent repeats.
pub(crate) fn frames_needed(target: &[u32]) -> usize {
    target.len() + target.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layout: Option<InputLayout>) -> Plan {
        Plan {
            frames: 5,
            batch: if layout.is_some() { 3 } else { 1 },
            classes: 4,
            blank: 0,
            layout,
            input: InputKind::LogProbs,
            gradient: GradientKind::Exact,
            reduction: Reduction::None,
            zero_infinity: false,
            input_lengths: vec![5, 3, 2],
            labels: vec![1, 1, 2, 3, 3, 3],
            label_offsets: vec![0, 3, 3, 6],
            unread: None,
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
        assert_eq!(plan(Some(InputLayout::TimeMajor)).frame_and_item(7), (2, 1));
        assert_eq!(
            plan(Some(InputLayout::BatchMajor)).frame_and_item(7),
            (2, 1)
        );
        assert_eq!(plan(None).frame_and_item(4), (4, 0));
    }

    #[test]
    fn strides_follow_the_layout_of_a_view() {
        use candle_core::{DType, Device, Tensor};
        let tensor = Tensor::zeros((3, 5, 9), DType::F32, &Device::Cpu).unwrap();
        let view = tensor.narrow(2, 5, 4).unwrap();
        let batch_major = plan(Some(InputLayout::BatchMajor)).strides(view.layout());
        let expected = Strides {
            offset: 5,
            frame: 9,
            item: 45,
            class: 1,
        };
        assert_eq!(batch_major, expected);
        let swapped = view.transpose(0, 1).unwrap();
        let time_major = plan(Some(InputLayout::TimeMajor)).strides(swapped.layout());
        assert_eq!(time_major, expected);
    }
}
