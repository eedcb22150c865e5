//! The loss of the output of a linear layer, without a tensor of all its logits.
//!
//! The batch is cut into groups of items, see [`groups`]. For each group: the logits, one matrix product; the loss and
//! its gradient with respect to these logits, by the operation that serves every loss; the gradients of the layer's
//! input and parameters, two products; then the logits are dropped. If the loss is a single number, all of that is done
//! in the forward pass, since the gradient of any function of the loss is a multiple of the loss's own. Losses of items
//! have weights that only the backward pass knows: there the logits are made again.

use crate::cpu_input::on_host;
use crate::memory::check_room;
use crate::op;
use crate::options::{Checks, CtcLossOptions, EmissionOptions, InputKind, InputLayout};
use crate::precomputed;
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::{Input, LossProblem, Plan, Targets};
use crate::problem::validate;
use crate::problem::weights::EmissionWeights;
use crate::reduce::reduce;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, DType, Device, Layout, MetalStorage, Result, Shape, Tensor,
    bail,
};
use std::sync::Arc;

const FUNCTION: &str = "ctc_loss_linear";

/// The Connectionist Temporal Classification loss of a linear layer's output, `hidden · weightᵀ + bias`, without a tensor
/// of all logits.
///
/// The loss and its gradients are those of [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) behind a
/// [`candle_nn::Linear`](https://docs.rs/candle-nn/latest/candle_nn/struct.Linear.html) layer, up to the rounding of the
/// matrix products. That way keeps four to five tensors of (N, T, C) at a time: the logits, a copy with the bias, the
/// gradient, zeros, and their sum. This function keeps two of a few items each. So memory grows with the classes only
/// as the weight does, and of the frames behind an item's length few are multiplied, as zeros. Use it where there are
/// many classes; with a few dozen it is slower than the layer and the loss.
///
/// With `T` frames, `N` items, `D` features and `C` classes (including the blank):
///
/// # Arguments
///
/// * `hidden` - the input of the layer: `(T, N, D)`, or `(N, T, D)` with [`InputLayout::BatchMajor`], or `(T, D)` for
///   one item. f32, f64, f16 or bf16; any strides.
/// * `weight` - `(C, D)`, as `Linear::weight`; of the dtype and on the device of `hidden`.
/// * `bias` - `(C)` or `None`, as `Linear::bias`.
/// * `targets`, `input_lengths`, `target_lengths` - those of [`ctc_loss`](crate::ctc_loss). Those on a GPU are read to
///   the host.
/// * `opts` - see [`CtcLossOptions`]; [`Checks::Device`] is not supported.
///
/// # Returns
///
/// The loss, as [`ctc_loss`](crate::ctc_loss) returns it. It is differentiable in `hidden`, `weight` and `bias`; a
/// gradient that nothing tracks is not computed.
///
/// The gradients of a single loss ([`Reduction::Mean`](crate::Reduction::Mean), `Sum`, or one item) are computed together
/// with it: for a loss without a backward pass, `detach()` all three tensors. With
/// [`Reduction::None`](crate::Reduction::None) the backward pass makes the logits again. On a GPU the call waits for the
/// losses of the items, which are reduced on the host. In f16 and bf16 the statistics
/// of the softmax are f32; so are the logits on the CPU, and the sums over groups of items in the gradients of `weight`
/// and `bias`.
///
/// # Memory
///
/// The logits of a group of items and their gradient: about 32 MiB each on the CPU and 256 MiB on a GPU, but at least one
/// item and 256 frames. Beside that, the gradients, and of the weight's three at a time.
///
/// # Errors
///
/// If shapes, dtypes, devices, lengths, labels or the blank do not fit together; the message names the item and the
/// numbers. Also if `T` or `N` is 0, if the logits of a group do not fit into memory, and on Metal for f64.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_ctc::{CtcLossOptions, ctc_loss_linear};
/// use candle_nn::{VarBuilder, VarMap, linear};
///
/// # fn main() -> candle_core::Result<()> {
/// let (device, weights) = (Device::Cpu, VarMap::new());
/// let head = linear(8, 5, VarBuilder::from_varmap(&weights, DType::F32, &device))?;
/// let hidden = Tensor::randn(0f32, 1., (2, 9, 8), &device)?; // (N, T, D)
/// let targets = Tensor::new(&[[1u32, 2, 2], [4, 0, 0]], &device)?;
/// let opts = CtcLossOptions::batch_major();
/// let loss = ctc_loss_linear(&hidden, head.weight(), head.bias(), &targets, [9, 7], [3, 1], opts)?;
/// let grads = loss.backward()?;
/// assert_eq!(grads.get(head.weight()).unwrap().dims(), [5, 8]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "fused linear cross entropy")]
pub fn ctc_loss_linear(
    hidden: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<Tensor> {
    let (layer, emissions) = ((hidden, weight, bias), EmissionOptions::default());
    loss(
        layer,
        targets,
        input_lengths,
        target_lengths,
        opts,
        &emissions,
    )
}

/// [`ctc_loss_linear`] with weights of the emissions.
pub(crate) fn loss(
    (hidden, weight, bias): (&Tensor, &Tensor, Option<&Tensor>),
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
    emissions: &EmissionOptions,
) -> Result<Tensor> {
    check_layer(hidden, weight, bias)?;
    if opts.checks == Checks::Device {
        bail!(
            "{FUNCTION}: lengths are read on the host, to cut the batch into groups of items; use Checks::Host"
        )
    }
    // The arguments of a loss of logits are checked against a view that has their shape and one element.
    let mut shape = hidden.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weight.dims()[0];
    }
    let logits = Tensor::zeros((), hidden.dtype(), hidden.device())?.broadcast_as(shape)?;
    let mut problem = validate::loss(
        FUNCTION,
        InputKind::Logits,
        &logits,
        targets,
        input_lengths,
        target_lengths,
        opts,
    )?;
    problem.weights = EmissionWeights::new(emissions, &logits, problem.input())?;
    let dtype = product_dtype(hidden);
    let frames = frames_at_a_time(problem.input().classes, dtype, hidden.device());
    let linear = LinearLoss {
        problem,
        frames,
        dtype,
    };
    linear.apply(hidden, weight, bias)
}

fn check_layer(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let (dims, &[classes, features]) = (hidden.dims(), weight.dims()) else {
        bail!(
            "{FUNCTION}: weight has shape {:?}; expected (C, D)",
            weight.dims()
        )
    };
    if !matches!(dims.len(), 2 | 3) || dims[dims.len() - 1] != features {
        bail!(
            "{FUNCTION}: hidden has shape {dims:?} and weight {:?}; expected (T, N, D), (N, T, D) or (T, D) and (C, D)",
            weight.dims()
        )
    }
    if features == 0 {
        bail!(
            "{FUNCTION}: hidden has shape {dims:?}: D = 0 features, of which there must be at least 1"
        )
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [classes]) {
        bail!(
            "{FUNCTION}: bias has shape {:?} and weight {:?}; expected (C) and (C, D)",
            bias.dims(),
            weight.dims()
        )
    }
    for (name, tensor) in [("weight", Some(weight)), ("bias", bias)] {
        let Some(tensor) = tensor else { continue };
        if tensor.dtype() != hidden.dtype() {
            bail!(
                "{FUNCTION}: hidden has dtype {:?} and {name} {:?}; convert one of them with to_dtype",
                hidden.dtype(),
                tensor.dtype()
            )
        }
        if !tensor.device().same_device(hidden.device()) {
            bail!(
                "{FUNCTION}: hidden is on {:?} and {name} on {:?}; move one of them with to_device",
                hidden.device().location(),
                tensor.device().location()
            )
        }
    }
    Ok(())
}

/// The most frames of a group that has more than one item.
fn frames_at_a_time(classes: usize, dtype: DType, device: &Device) -> usize {
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

/// The dtype of the matrix products: candle multiplies no bf16 on the CPU, and f16 slowly.
fn product_dtype(hidden: &Tensor) -> DType {
    match hidden.dtype() {
        DType::F16 | DType::BF16 if hidden.device().is_cpu() => DType::F32,
        dtype => dtype,
    }
}

/// Cuts a batch into groups of at most `most` frames, padding included, or of one item. The items of a group have similar
/// lengths, unless the group has fewer than 32 frames, and so do those of consecutive groups: the longest come first.
fn groups(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
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

/// The input and the parameters of the layer, without their graph.
struct Layer {
    /// (N, T, D).
    hidden: Tensor,
    /// (C, D), in the dtype of the products.
    weight: Tensor,
    /// (C), in the dtype of the products.
    bias: Option<Tensor>,
}

/// Gradients of a layer, where they are wanted: of its input, weight and bias.
type Gradients = [Option<Tensor>; 3];

/// Whether each of these gradients is wanted.
type Wanted = [bool; 3];

struct LinearLoss {
    problem: LossProblem,
    /// See [`groups`].
    frames: usize,
    /// Of the matrix products.
    dtype: DType,
}

impl LinearLoss {
    fn apply(self, hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
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

    fn layer(&self, hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Layer> {
        let (dtype, hidden) = (self.dtype, hidden.detach());
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
    fn losses_and_gradients(
        &self,
        layer: &Layer,
        weights: &[f64],
        wanted: Wanted,
    ) -> Result<(Vec<f64>, Gradients)> {
        let plan = self.problem.plan()?;
        check_cpu_room(
            &layer.hidden,
            "the gradient of hidden",
            &[],
            layer.hidden.dims(),
        )?;
        check_cpu_room(
            &layer.weight,
            "the gradient of weight",
            &[],
            layer.weight.dims(),
        )?;
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

/// An error if there is no memory for `counts` tensors of `shape` on the CPU, where candle would end the process.
fn check_cpu_room(like: &Tensor, what: &str, counts: &[usize], shape: &[usize]) -> Result<()> {
    let (what, shape) = (format!("{FUNCTION}: {what}"), [counts, shape].concat());
    match (like.device(), like.dtype()) {
        (Device::Cpu, DType::F64) => check_room::<f64>(&what, &shape),
        (Device::Cpu, _) => check_room::<f32>(&what, &shape),
        _ => Ok(()),
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

/// Losses on the device, read to the host at the end, and their items.
#[derive(Default)]
struct GroupLosses {
    groups: Vec<Tensor>,
    items: Vec<usize>,
}

impl GroupLosses {
    fn push(&mut self, items: &[usize], losses: Tensor) {
        self.items.extend_from_slice(items);
        self.groups.push(losses);
    }

    /// The losses in the order of the items.
    fn read(self) -> Result<Vec<f64>> {
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
struct Group {
    items: Vec<usize>,
    problem: LossProblem,
}

impl Group {
    fn new(whole: &LossProblem, items: Vec<usize>) -> Result<Self> {
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

    /// The input of the layer: (n, frames, D) in the dtype of the products, and 0 behind each item's length. What stands
    /// there is not read: 0 times a NaN would be a NaN in the gradient of the weight.
    fn rows(&self, layer: &Layer) -> Result<Tensor> {
        let (plan, dtype) = (self.problem.plan()?, layer.weight.dtype());
        let mut rows = Vec::with_capacity(self.items.len());
        for (&item, &length) in self.items.iter().zip(&plan.input_lengths) {
            let padding = plan.input.frames - length;
            let used = layer.hidden.get(item)?.narrow(0, 0, length)?;
            rows.push(used.pad_with_zeros(0, 0, padding)?);
        }
        Tensor::stack(&rows, 0)?.to_dtype(dtype)
    }

    /// (n, frames, C).
    fn logits(&self, layer: &Layer, rows: &Tensor) -> Result<Tensor> {
        let shape = self.problem.input().shape();
        check_cpu_room(
            rows,
            "the logits of a group of items and their gradient",
            &[2],
            &shape,
        )?;
        let products = rows.flatten_to(1)?.matmul(&layer.weight.t()?)?;
        let logits = match &layer.bias {
            Some(bias) => products.broadcast_add(bias)?,
            None => products,
        };
        logits.reshape(shape)
    }

    /// Each item with the rows of its used frames, (T_n, D).
    fn used_frames(&self, products: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        let plan = self.problem.plan()?;
        let items = self.items.iter().zip(&plan.input_lengths).enumerate();
        items
            .map(|(i, (&item, &length))| {
                Ok((item, products.narrow(0, i * plan.input.frames, length)?))
            })
            .collect()
    }
}

/// The loss as an operation of candle's graph.
struct LinearLossOp {
    linear: LinearLoss,
    wanted: Wanted,
    loss: Tensor,
    /// Of a single loss, divided by the number beside them; `None` for the losses of items.
    gradients: Option<(Gradients, f64)>,
}

impl LinearLossOp {
    /// The gradients for the gradient `upstream` of the losses.
    fn gradients(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        upstream: &Tensor,
    ) -> Result<Gradients> {
        let found = match &self.gradients {
            Some((gradients, unit)) => {
                let [of_hidden, of_weight, of_bias] = gradients.each_ref();
                let upstream = (upstream * *unit)?;
                let scaled = |gradient: &Option<Tensor>| {
                    let gradient = gradient
                        .as_ref()
                        .map(|gradient| scaled(gradient, &upstream));
                    gradient.transpose()
                };
                [scaled(of_hidden)?, scaled(of_weight)?, scaled(of_bias)?]
            }
            None => {
                let bias = (bias.id() != self.loss.id()).then_some(bias);
                let layer = self.linear.layer(hidden, weight, bias)?;
                let weights: Vec<f64> = on_host(upstream)?.to_dtype(DType::F64)?.to_vec1()?;
                let (_, gradients) =
                    self.linear
                        .losses_and_gradients(&layer, &weights, self.wanted)?;
                gradients
            }
        };
        let [of_hidden, of_weight, of_bias] = found;
        let dtype = hidden.dtype();
        let cast = |gradient: Option<Tensor>| {
            let gradient = gradient.map(|gradient| gradient.to_dtype(dtype));
            gradient.transpose()
        };
        Ok([cast(of_hidden)?, cast(of_weight)?, cast(of_bias)?])
    }
}

/// `gradient · upstream`, for a number `upstream`.
fn scaled(gradient: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    // 1 is what `backward` begins with.
    if upstream.device().is_cpu() && upstream.to_dtype(DType::F64)?.to_scalar::<f64>()? == 1.0 {
        return Ok(gradient.clone());
    }
    let dtype = upstream.dtype();
    gradient.to_dtype(dtype)?.broadcast_mul(upstream)
}

impl CustomOp3 for LinearLossOp {
    fn name(&self) -> &'static str {
        "ctc-loss-linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        precomputed::on_cpu(&self.loss)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        precomputed::on_cuda(&self.loss)
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        precomputed::on_metal(&self.loss)
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_hidden, of_weight, of_bias] = self.gradients(hidden, weight, bias, upstream)?;
        Ok((of_hidden, of_weight, of_bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reduction;
    use candle_core::Var;

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
    }

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
