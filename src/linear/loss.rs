//! The losses of all items, and the gradients of the layer.

use super::FUNCTION;
use super::group::{Group, GroupLosses, groups};
use super::op::LinearLossOp;
use crate::memory::check_cpu_room;
use crate::op;
use crate::options::InputLayout;
use crate::problem::plan::LossProblem;
use crate::reduce::reduce;
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;

/// The input and the parameters of the layer, without their graph.
pub(super) struct Layer {
    /// (N, T, D).
    pub hidden: Tensor,
    /// (C, D), in the dtype of the products.
    pub weight: Tensor,
    /// (C), in the dtype of the products.
    pub bias: Option<Tensor>,
}

/// Gradients of a layer, where they are wanted: of its input, weight and bias.
pub(super) type Gradients = [Option<Tensor>; 3];

/// Whether each of these gradients is wanted.
pub(super) type Wanted = [bool; 3];

/// The loss of a layer, and how its batch is cut.
pub(super) struct LinearLoss {
    pub problem: LossProblem,
    /// See [`groups`].
    pub frames: usize,
    /// Of the matrix products.
    pub dtype: DType,
}

impl LinearLoss {
    pub fn apply(self, hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let wanted =
            [Some(hidden), Some(weight), bias].map(|tensor| tensor.is_some_and(Tensor::track_op));
        let (plan, layer) = (self.problem.plan()?, self.layer(hidden, weight, bias)?);
        let tracked = wanted.contains(&true);
        let (losses, gradients) = if tracked && self.is_single() {
            let weights = (0..plan.input.batch).map(|n| self.problem.weight(plan, n));
            let mut weights: Vec<f64> = weights.collect();
            let unit = self.scale_up(&mut weights);
            let (losses, gradients) = self.losses_and_gradients(&layer, &weights, wanted)?;
            (losses, Some((gradients, unit)))
        } else {
            (self.losses(&layer)?, None)
        };
        let loss = self.reduced(losses, hidden)?;
        if !tracked {
            return Ok(loss);
        }
        // Without a bias, any tensor without a graph takes its place.
        let bias = bias.unwrap_or(&loss).clone();
        let op = LinearLossOp {
            linear: self,
            wanted,
            loss,
            gradients,
        };
        hidden.apply_op3(weight, &bias, op)
    }

    pub fn layer(&self, hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Layer> {
        let (dtype, hidden) = (self.dtype, hidden.detach());
        let what = format!("{FUNCTION}: weight");
        check_cpu_room(weight, &what, 1, weight.dims())?;
        Ok(Layer {
            hidden: match self.problem.input().layout {
                None => hidden.unsqueeze(0)?,
                Some(InputLayout::TimeMajor) => hidden.transpose(0, 1)?,
                Some(InputLayout::BatchMajor) => hidden,
            },
            weight: weight.detach().to_dtype(dtype)?,
            bias: bias.map(|bias| bias.detach().to_dtype(dtype)).transpose()?,
        })
    }

    /// Scales the weights of a mean up for gradients in half precision, where small ones are 0; by a power of two, so that
    /// no bit changes. What the gradients must be multiplied by is returned: the caller does so in f32, together with the
    /// scale of the loss, if it has one.
    fn scale_up(&self, weights: &mut [f64]) -> f64 {
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if !matches!(self.dtype, DType::F16 | DType::BF16) || largest == 0.0 {
            return 1.0;
        }
        let unit = largest.log2().ceil().exp2();
        weights.iter_mut().for_each(|weight| *weight /= unit);
        unit
    }

    /// Whether the loss is a single number.
    fn is_single(&self) -> bool {
        self.problem.loss_shape().is_empty()
    }

    /// The loss as it is returned, from those of the items.
    fn reduced(&self, losses: Vec<f64>, hidden: &Tensor) -> Result<Tensor> {
        let (plan, shape) = (self.problem.plan()?, self.problem.loss_shape());
        let device = hidden.device();
        if hidden.dtype() == DType::F64 {
            return Tensor::from_vec(reduce::<f64>(&self.problem, plan, losses), shape, device);
        }
        let reduced = reduce::<f32>(&self.problem, plan, losses).into_iter();
        Tensor::from_vec(
            reduced.map(|loss| loss as f32).collect::<Vec<f32>>(),
            shape,
            device,
        )
    }

    /// The losses of the items.
    fn losses(&self, layer: &Layer) -> Result<Vec<f64>> {
        let mut losses = GroupLosses::default();
        for items in groups(&self.problem.plan()?.input_lengths, self.frames) {
            let group = Group::new(&self.problem, items)?;
            let rows = group.rows(layer)?;
            let loss = op::loss(&group.logits(layer, &rows)?, Arc::new(group.problem))?;
            losses.push(&group.items, loss);
        }
        losses.read()
    }

    /// The losses of the items, and the gradients of their sum with these weights.
    pub fn losses_and_gradients(
        &self,
        layer: &Layer,
        weights: &[f64],
        wanted: Wanted,
    ) -> Result<(Vec<f64>, Gradients)> {
        let plan = self.problem.plan()?;
        let what = |of: &str| format!("{FUNCTION}: the gradient of {of}");
        check_cpu_room(&layer.hidden, &what("hidden"), 1, layer.hidden.dims())?;
        check_cpu_room(&layer.weight, &what("weight"), 1, layer.weight.dims())?;
        let mut losses = GroupLosses::default();
        let mut of_hidden = Vec::with_capacity(plan.input.batch);
        let (mut of_weight, mut of_bias) = (None, None);
        for items in groups(&plan.input_lengths, self.frames) {
            let group = Group::new(&self.problem, items)?;
            let rows = group.rows(layer)?;
            let logits = group.logits(layer, &rows)?;
            let weights: Vec<f64> = group.items.iter().map(|&item| weights[item]).collect();
            let problem = Arc::new(group.problem.clone());
            let (loss, gradient) = op::losses_and_gradient(&logits, problem, &weights)?;
            drop(logits);
            losses.push(&group.items, loss);
            let gradient = gradient.flatten_to(1)?;
            if wanted[0] {
                let products = gradient.matmul(&layer.weight)?;
                of_hidden.extend(group.used_frames(&products)?);
            }
            if wanted[1] {
                add_to(&mut of_weight, &gradient.t()?.matmul(&rows.flatten_to(1)?)?)?;
            }
            if wanted[2] {
                // A product is faster than candle's sum over the first dimension.
                let ones = rows.narrow(2, 0, 1)?.flatten_all()?.ones_like()?;
                let sum = ones.unsqueeze(0)?.matmul(&gradient)?;
                add_to(&mut of_bias, &sum.squeeze(0)?)?;
            }
        }
        let of_hidden = match wanted[0] {
            true => Some(self.assembled(&layer.hidden, of_hidden)?),
            false => None,
        };
        Ok((losses.read()?, [of_hidden, of_weight, of_bias]))
    }

    /// The gradient of `hidden`, in its layout, from those of the used frames of each item, in any order.
    fn assembled(&self, hidden: &Tensor, mut items: Vec<(usize, Tensor)>) -> Result<Tensor> {
        items.sort_by_key(|(item, _)| *item);
        let frames = hidden.dim(1)?;
        let mut whole = Vec::with_capacity(items.len());
        for (_, used) in items {
            whole.push(used.pad_with_zeros(0, 0, frames - used.dim(0)?)?);
        }
        match self.problem.input().layout {
            None => Ok(whole.swap_remove(0)),
            Some(InputLayout::TimeMajor) => Tensor::stack(&whole, 1),
            Some(InputLayout::BatchMajor) => Tensor::stack(&whole, 0),
        }
    }
}

/// Adds to a sum, which is f32 for half precision.
fn add_to(sum: &mut Option<Tensor>, term: &Tensor) -> Result<()> {
    let term = match term.dtype() {
        DType::F16 | DType::BF16 => term.to_dtype(DType::F32)?,
        _ => term.clone(),
    };
    *sum = Some(match sum.take() {
        Some(sum) => (sum + term)?,
        None => term,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::group::frames_at_a_time;
    use super::*;
    use crate::options::InputKind;
    use crate::problem::validate;
    use crate::{CtcLossOptions, Reduction};
    use candle_core::{Device, Var};

    /// The loss, and the gradients of hidden, weight and bias.
    type Outcome = (Vec<f64>, Vec<Vec<f64>>);

    fn outcome(loss: &Tensor, leaves: &[&Var], upstream: &Tensor) -> Outcome {
        let read = |tensor: &Tensor| -> Vec<f64> {
            let wide = tensor.to_dtype(DType::F64).unwrap();
            wide.flatten_all().unwrap().to_vec1().unwrap()
        };
        let grads = (loss * upstream)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let gradients = leaves.iter().map(|leaf| read(grads.get(leaf).unwrap()));
        (read(loss), gradients.collect())
    }

    #[track_caller]
    fn near(found: &Outcome, expected: &Outcome, tolerance: f64) {
        let gradients = found.1.iter().zip(&expected.1);
        for (found, expected) in gradients.chain([(&found.0, &expected.0)]) {
            assert_eq!(found.len(), expected.len());
            let largest = expected
                .iter()
                .filter(|x| x.is_finite())
                .fold(1.0, |a: f64, x| a.max(x.abs()));
            for (a, b) in found.iter().zip(expected) {
                let same = a == b || (a - b).abs() <= tolerance * largest;
                assert!(same, "{a} {b}");
            }
        }
    }

    // Every way to cut a batch into groups gives what the layer and the loss give one after the other.
    #[test]
    fn the_loss_is_that_of_the_logits_however_the_batch_is_cut() {
        let (items, frames, features, classes) = (5, 23, 3, 6);
        let targets: [&[u32]; 5] = [&[1, 1, 2], &[4], &[], &[5, 4, 5, 1], &[2, 2, 2]];
        // Item 4 does not fit; item 2 has no frames.
        let (lengths, target_lengths) = ([23, 22, 0, 9, 4], targets.map(<[u32]>::len));
        let labels = Tensor::new(targets.concat(), &Device::Cpu).unwrap();
        let dtypes = [
            (DType::F64, 1e-12),
            (DType::F32, 3e-6),
            (DType::F16, 3e-3),
            (DType::BF16, 2e-2),
        ];
        for (dtype, tolerance) in dtypes {
            let layouts = [InputLayout::TimeMajor, InputLayout::BatchMajor];
            for (layout, reduction) in layouts.into_iter().flat_map(|layout| {
                [Reduction::None, Reduction::Sum, Reduction::Mean].map(|r| (layout, r))
            }) {
                let shape = match layout {
                    InputLayout::TimeMajor => (frames, items, features),
                    InputLayout::BatchMajor => (items, frames, features),
                };
                let leaf =
                    |tensor: Tensor| Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap();
                let hidden = leaf(Tensor::randn(0f64, 1., shape, &Device::Cpu).unwrap());
                let weight =
                    leaf(Tensor::randn(0f64, 1., (classes, features), &Device::Cpu).unwrap());
                let bias = leaf(Tensor::randn(0f64, 1., classes, &Device::Cpu).unwrap());
                let opts = CtcLossOptions {
                    layout,
                    reduction,
                    blank: 3,
                    zero_infinity: true,
                    ..Default::default()
                };
                let wide = if dtype == DType::F64 {
                    DType::F64
                } else {
                    DType::F32
                };
                let of_items = reduction == Reduction::None;
                let upstream = Tensor::randn(
                    1f64,
                    0.5,
                    if of_items { vec![items] } else { vec![] },
                    &Device::Cpu,
                );
                let upstream = upstream.unwrap().to_dtype(wide).unwrap();

                let flat = hidden.to_dtype(wide).unwrap().flatten_to(1).unwrap();
                let logits = flat
                    .matmul(&weight.to_dtype(wide).unwrap().t().unwrap())
                    .unwrap();
                let logits = logits.broadcast_add(&bias.to_dtype(wide).unwrap()).unwrap();
                let logits = logits.reshape((shape.0, shape.1, classes)).unwrap();
                let loss =
                    crate::ctc_loss_with_logits(&logits, &labels, lengths, target_lengths, opts)
                        .unwrap();
                let leaves = [&hidden, &weight, &bias];
                let expected = outcome(&loss, &leaves, &upstream);
                assert!(expected.0.iter().all(|loss| loss.is_finite()));

                for most in [1, 22, 23, 44, 46, 1000] {
                    let call = "ctc_loss_linear";
                    let kind = InputKind::Logits;
                    let problem =
                        validate::loss(call, kind, &logits, &labels, lengths, target_lengths, opts)
                            .unwrap();
                    let linear = LinearLoss {
                        problem,
                        frames: most,
                        dtype: wide,
                    };
                    let loss = linear.apply(&hidden, &weight, Some(&bias)).unwrap();
                    assert_eq!(loss.dtype(), wide);
                    near(&outcome(&loss, &leaves, &upstream), &expected, tolerance);
                }
            }
        }
    }

    // As on a GPU, with products in half precision: each frame adds 0.6 to the gradient of the bias, 120000 in all.
    #[test]
    fn a_mean_of_many_frames_in_f16_does_not_overflow() {
        let (items, frames, classes) = (200, 1000, 40);
        let device = &Device::Cpu;
        let hidden = Tensor::zeros((frames, items, 1), DType::F16, device).unwrap();
        let weight = Tensor::zeros((classes, 1), DType::F16, device).unwrap();
        let bias = Var::zeros(classes, DType::F16, device).unwrap();
        let labels = Tensor::ones((items, 1), DType::U32, device).unwrap();
        let logits = Tensor::zeros((), DType::F16, device).unwrap();
        let logits = logits.broadcast_as((frames, items, classes)).unwrap();
        let (lengths, of_targets) = (vec![frames; items], vec![1; items]);
        let (kind, opts) = (InputKind::Logits, CtcLossOptions::default());
        let problem =
            validate::loss("", kind, &logits, &labels, lengths, of_targets, opts).unwrap();
        let linear = LinearLoss {
            problem,
            frames: frames_at_a_time(classes, DType::F16, device),
            dtype: DType::F16,
        };
        let loss = linear.apply(&hidden, &weight, Some(&bias)).unwrap();
        let grads = loss.backward().unwrap();
        let gradient = grads.get(&bias).unwrap().to_dtype(DType::F32).unwrap();
        let gradient = gradient.to_vec1::<f32>().unwrap();
        // A class that no target has: 1/40 of each of 1000 frames.
        assert!(gradient.iter().all(|x| x.is_finite()), "{gradient:?}");
        assert!((gradient[2] - 25.0).abs() < 0.5, "{gradient:?}");
    }

    // As on a GPU, with products in half precision: 0.001 of an entry of 1e-4 is 0 there, but the scale of the loss keeps
    // the gradient in range.
    #[test]
    fn a_scaled_mean_in_f16_keeps_small_gradients() {
        let (items, frames, classes) = (64, 3, 40);
        let device = &Device::Cpu;
        let hidden = Tensor::ones((frames, items, 1), DType::F16, device).unwrap();
        let weight = Tensor::arange(0f32, classes as f32, device).unwrap();
        let weight = (weight.unsqueeze(1).unwrap() * -0.2).unwrap();
        let weight = Var::from_tensor(&weight.to_dtype(DType::F16).unwrap()).unwrap();
        let labels = Tensor::ones((items, 1), DType::U32, device).unwrap();
        let (lengths, of_targets) = (vec![frames; items], vec![1; items]);
        let gradient = |dtype: DType, scale: f64| {
            let logits = Tensor::zeros((frames, items, classes), DType::F16, device).unwrap();
            let opts = CtcLossOptions::default();
            let kind = InputKind::Logits;
            let problem =
                validate::loss("", kind, &logits, &labels, &lengths, &of_targets, opts).unwrap();
            let linear = LinearLoss {
                problem,
                frames: 100,
                dtype,
            };
            let loss = linear.apply(&hidden, &weight, None).unwrap();
            let grads = (loss * scale).unwrap().backward().unwrap();
            let gradient = grads.get(&weight).unwrap().to_dtype(DType::F64).unwrap();
            gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        let scale = 1024.0;
        for (half, exact) in gradient(DType::F16, scale)
            .into_iter()
            .zip(gradient(DType::F32, scale))
        {
            assert!(
                exact != 0.0 && (half / exact - 1.0).abs() < 0.02,
                "{half} {exact}"
            );
        }
    }
}
