//! The loss of the output of a linear layer, without a tensor of all its logits.
//!
//! The batch is cut into groups of items, see [`group`]. For each group: the logits, one matrix product; the loss and
//! its gradient with respect to these logits, by the operation that serves every loss; the gradients of the layer's
//! input and parameters, two products; then the logits are dropped. If the loss is a single number, all of that is done
//! in the forward pass, since the gradient of any function of the loss is a multiple of the loss's own. Losses of items
//! have weights that only the backward pass knows: there the logits are made again.

mod group;
mod loss;
mod op;

use crate::options::{Checks, CtcLossOptions, EmissionOptions, InputKind};
use crate::problem::lengths::IntoLengths;
use crate::problem::validate;
use crate::problem::weights::EmissionWeights;
use candle_core::{DType, Result, Tensor, bail};
use group::frames_at_a_time;
use loss::LinearLoss;

const FUNCTION: &str = "ctc_loss_linear";

/// The Connectionist Temporal Classification loss of a linear layer's output, `hidden · weightᵀ + bias`, without a tensor
/// of all logits.
///
/// The loss and its gradients are those of [`ctc_loss_with_logits`](crate::ctc_loss_with_logits) after a
/// [`candle_nn::Linear`](https://docs.rs/candle-nn/latest/candle_nn/struct.Linear.html) layer, up to the rounding of
/// the matrix products. Those two steps keep four to five tensors of (N, T, C) at a time: the logits, a copy with the
/// bias, the gradient, zeros, and their sum. This function keeps two tensors at a time, each covering only a few items
/// (see [Memory](#memory)). So memory grows with `C` only through the weight and its gradient, unless a single item
/// exceeds the limit of a group. Items of a group have similar lengths, so few frames of padding are multiplied. Use it
/// where there are many classes; with a few dozen it is slower than the layer and the loss.
///
/// With `T` frames, `N` items, `D` features and `C` classes (including the blank):
///
/// # Arguments
///
/// * `hidden` - the input of the layer: `(T, N, D)`, or `(N, T, D)` with
///   [`InputLayout::BatchMajor`](crate::InputLayout::BatchMajor), or `(T, D)` for one item. f32, f64, f16 or bf16; any
///   strides.
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
/// item and 256 frames. In addition: the gradients, and up to three copies of the weight's gradient at once.
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

/// The dtype of the matrix products: candle multiplies no bf16 on the CPU, and f16 slowly.
fn product_dtype(hidden: &Tensor) -> DType {
    match hidden.dtype() {
        DType::F16 | DType::BF16 if hidden.device().is_cpu() => DType::F32,
        dtype => dtype,
    }
}
