//! Groups of items, whose logits are in memory at the same time.

use super::FUNCTION;
use super::loss::Layer;
use crate::cpu_input::on_host;
use crate::memory::check_cpu_room;
use crate::options::InputLayout;
use crate::problem::plan::{Input, LossProblem, Plan, Targets};
use candle_core::{DType, Device, Result, Tensor};

/// The most frames of a group that has more than one item.
pub(super) fn frames_at_a_time(classes: usize, dtype: DType, device: &Device) -> usize {
    /// Each group adds to the gradient of the weight, which takes as long as the products of some dozen frames.
    const FEWEST: usize = 256;
    /// The products of a group are rounded to f16 before they are added to those of others: the gradient of a bias is up
    /// to 1 for each frame, and 65504 is the largest number.
    const MOST_IN_F16: usize = 4096;
    let bytes: usize = if device.is_cpu() { 32 << 20 } else { 256 << 20 };
    let most = match dtype {
        DType::F16 => MOST_IN_F16,
        _ => usize::MAX,
    };
    let frames = bytes / (classes * dtype.size_in_bytes());
    frames.max(FEWEST).min(most)
}

/// Cuts a batch into groups of at most `most` frames, padding included, or of one item. The items of a group have similar
/// lengths, unless the group has fewer than 32 frames, and so do those of consecutive groups: the longest come first.
pub(super) fn groups(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    const SMALL: usize = 32;
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(lengths[item]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for item in order {
        let fits = |group: &&mut Vec<usize>| {
            let frames = lengths[group[0]];
            let similar = lengths[item] >= frames - frames / 8 || frames * group.len() < SMALL;
            similar && frames.saturating_mul(group.len() + 1) <= most
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

/// Losses on the device, read to the host at the end, and their items.
#[derive(Default)]
pub(super) struct GroupLosses {
    groups: Vec<Tensor>,
    items: Vec<usize>,
}

impl GroupLosses {
    pub fn push(&mut self, items: &[usize], losses: Tensor) {
        self.items.extend_from_slice(items);
        self.groups.push(losses);
    }

    /// The losses in the order of the items.
    pub fn read(self) -> Result<Vec<f64>> {
        let losses = on_host(&Tensor::cat(&self.groups, 0)?)?;
        let losses: Vec<f64> = losses.to_dtype(DType::F64)?.to_vec1()?;
        let mut ordered = vec![0.0; losses.len()];
        for (item, loss) in self.items.into_iter().zip(losses) {
            ordered[item] = loss;
        }
        Ok(ordered)
    }
}

/// Some items of a batch, as a batch of their own, whose losses are not reduced.
pub(super) struct Group {
    pub items: Vec<usize>,
    pub problem: LossProblem,
}

impl Group {
    pub fn new(whole: &LossProblem, items: Vec<usize>) -> Result<Self> {
        let plan = whole.plan()?;
        let input_lengths: Vec<usize> = items.iter().map(|&n| plan.input_lengths[n]).collect();
        let mut label_offsets = vec![0];
        let mut labels = Vec::new();
        for &item in &items {
            labels.extend_from_slice(plan.target(item));
            label_offsets.push(labels.len());
        }
        let plan = Plan {
            input: Input {
                frames: input_lengths.iter().copied().max().unwrap_or(0).max(1),
                batch: items.len(),
                layout: Some(InputLayout::BatchMajor),
                ..plan.input
            },
            input_lengths,
            labels,
            label_offsets,
        };
        let problem = LossProblem {
            targets: Targets::Host(plan),
            reduction: crate::Reduction::None,
            ..whole.clone()
        };
        Ok(Self { items, problem })
    }

    /// The input of the layer: (n, frames, D) in the dtype of the products, and 0 after each item's length. What stands
    /// there is not read: 0 times a NaN would be a NaN in the gradient of the weight.
    pub fn rows(&self, layer: &Layer) -> Result<Tensor> {
        let (plan, dtype) = (self.problem.plan()?, layer.weight.dtype());
        let (items, features) = (self.items.len(), layer.weight.dims()[1]);
        let shape = [items, plan.input.frames, features];
        let what = format!("{FUNCTION}: hidden of a group of items");
        check_cpu_room(&layer.hidden, &what, 2, &shape)?;
        let mut rows = Vec::with_capacity(items);
        for (&item, &length) in self.items.iter().zip(&plan.input_lengths) {
            let padding = plan.input.frames - length;
            let used = layer.hidden.narrow(0, item, 1)?.squeeze(0)?;
            let used = used.narrow(0, 0, length)?;
            rows.push(used.pad_with_zeros(0, 0, padding)?);
        }
        Tensor::stack(&rows, 0)?.to_dtype(dtype)
    }

    /// (n, frames, C).
    pub fn logits(&self, layer: &Layer, rows: &Tensor) -> Result<Tensor> {
        let shape = self.problem.input().shape();
        let what = format!("{FUNCTION}: the logits of a group of items and their gradient");
        check_cpu_room(rows, &what, 2, &shape)?;
        let products = rows.flatten_to(1)?.matmul(&layer.weight.t()?)?;
        let logits = match &layer.bias {
            Some(bias) => products.broadcast_add(bias)?,
            None => products,
        };
        logits.reshape(shape)
    }

    /// Each item with the rows of its used frames, (T_n, D).
    pub fn used_frames(&self, products: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        let plan = self.problem.plan()?;
        let items = self.items.iter().zip(&plan.input_lengths).enumerate();
        items
            .map(|(i, (&item, &length))| {
                Ok((item, products.narrow(0, i * plan.input.frames, length)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logits_of_a_group_take_32_mib_within_bounds() {
        let frames = |classes, dtype| frames_at_a_time(classes, dtype, &Device::Cpu);
        assert_eq!(frames(1024, DType::F32), 8192);
        assert_eq!(frames(1024, DType::F64), 4096);
        assert_eq!(frames(1 << 20, DType::F32), 256);
        assert_eq!(frames(32, DType::F16), 4096);
    }

    #[test]
    fn groups_have_all_items_once_and_similar_lengths() {
        let lengths = [100, 3, 0, 100, 88, 87, 100, 3, 1, 100];
        let cuts: [(usize, &[&[usize]]); 4] = [
            (
                1,
                &[&[0], &[3], &[6], &[9], &[4], &[5], &[1], &[7], &[8], &[2]],
            ),
            (199, &[&[0], &[3], &[6], &[9], &[4, 5], &[1, 7, 8, 2]]),
            (300, &[&[0, 3, 6], &[9, 4], &[5], &[1, 7, 8, 2]]),
            (usize::MAX, &[&[0, 3, 6, 9, 4], &[5], &[1, 7, 8, 2]]),
        ];
        for (most, expected) in cuts {
            assert_eq!(groups(&lengths, most), expected, "{most}");
        }
        assert_eq!(groups(&[0, 0], 1), [[0, 1]]);
        // Fewer than 32 frames, and 32.
        assert_eq!(groups(&[31, 1], usize::MAX), [[0, 1]]);
        assert_eq!(groups(&[32, 1], usize::MAX), [[0], [1]]);
    }
}
