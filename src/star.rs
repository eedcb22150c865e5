//! The star of a loss: a label that stands for any labels, as one more class.

use crate::memory::check_cpu_room;
use crate::precomputed;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, Device, Layout, MetalStorage, Result, Shape,
    Tensor, bail,
};

/// Appends a class to log-probabilities, the star, for training on transcripts with gaps.
///
/// The star is the label `C`. In a target it stands for one or more frames of any classes: any labels, or silence. Put it
/// where words may be missing, between all words if nobody knows where, and at the ends (star temporal classification,
/// Pratap et al. 2022, <https://arxiv.org/abs/2201.12208>). Its log-probability in a frame is
/// `log(p(blank) + e^(−penalty) · Σ p(label))`.
///
/// The result is not normalised. Use it for [`ctc_loss`](crate::ctc_loss) alone, which may then be negative, with
/// [`GradientKind::Exact`](crate::GradientKind::Exact), the default. Alignment has
/// [a star of its own](crate::AlignOptions::star), and decoding takes `log_probs` as they are.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, `(N, T, C)` or `(T, C)`, from a log-softmax. f32, f64, f16 or bf16.
/// * `blank` - the blank class.
/// * `penalty` - in nats, for each frame that the star takes from a label. With 0 a star explains everything, and a model
///   learns little from the words beside it; a large penalty makes the star a pause. Begin with about 2, and lower it as
///   the model improves.
///
/// # Returns
///
/// `(…, C + 1)`, in the dtype of `log_probs`. The gradient of the star is shared out in proportion to what each class adds
/// to it. Frames after an item's length get a gradient of 0, even where they hold NaN.
///
/// # Errors
///
/// If `log_probs` are a single number or not of a float dtype, if the blank is not a class, or if `penalty` is not finite.
///
/// ```
/// use candle_core::{D, Device, Tensor, Var};
/// use candle_ctc::{CtcLossOptions, append_star, ctc_loss};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Var::randn(0f32, 1., (12, 1, 5), &Device::Cpu)?; // (T, N, C)
/// let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
/// let star = 5; // C
/// let targets = Tensor::new(&[[3u32, 1, star, 2, star]], &Device::Cpu)?;
/// let with_star = append_star(&log_probs, 0, 2.0)?;
/// let loss = ctc_loss(&with_star, &targets, [12], [5], CtcLossOptions::default())?;
/// assert_eq!(loss.backward()?.get(&logits).unwrap().dims(), [12, 1, 5]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "star temporal classification")]
#[doc(alias = "STC")]
pub fn append_star(log_probs: &Tensor, blank: usize, penalty: f64) -> Result<Tensor> {
    let Some(&classes) = log_probs.dims().last() else {
        bail!("append_star: log_probs are a single number; expected (T, N, C), (N, T, C) or (T, C)")
    };
    if blank >= classes {
        bail!("append_star: blank = {blank}, but there are C = {classes} classes")
    }
    let dtype = log_probs.dtype();
    let wide = match dtype {
        DType::F64 => DType::F64,
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        _ => {
            bail!("append_star: log_probs have dtype {dtype:?}; expected f32, f64, f16 or bf16")
        }
    };
    if !(penalty as f32).is_finite() {
        bail!("append_star: penalty is {penalty}; expected a number of nats that is finite in f32")
    }
    let mut dims = log_probs.dims().to_vec();
    dims[log_probs.rank() - 1] += 1;
    if dims.contains(&0) {
        return Tensor::zeros(dims, dtype, log_probs.device());
    }
    check_cpu_room(log_probs, "append_star: the tensor with a star", 3, &dims)?;
    let mut weights = vec![-penalty; classes];
    weights[blank] = 0.0;
    // Metal converts no f64.
    let weights = Tensor::new(weights, &Device::Cpu)?.to_dtype(wide)?;
    let weights = weights.to_device(log_probs.device())?;
    // −inf for a row of −inf, NaN for a row with NaN.
    let (largest, terms) = relative_exp(&weighted(log_probs, &weights)?)?;
    let star = (terms.sum_keepdim(D::Minus1)?.log()? + largest)?.to_dtype(dtype)?;
    let star = log_probs.apply_op1(StarOp { star, weights })?;
    Tensor::cat(&[log_probs, &star], D::Minus1)
}

/// Log-probabilities with their weights, without a graph.
fn weighted(log_probs: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let wide = log_probs.detach().to_dtype(weights.dtype())?;
    wide.broadcast_add(weights)
}

/// The largest number of each row, and the exponential of each number relative to it.
fn relative_exp(rows: &Tensor) -> Result<(Tensor, Tensor)> {
    // The smallest number is the reference of a row without finite entries.
    let least = match rows.dtype() {
        DType::F64 => f64::MIN,
        _ => f32::MIN.into(),
    };
    let largest = rows.max_keepdim(D::Minus1)?.maximum(least)?;
    let terms = rows.broadcast_sub(&largest)?.exp()?;
    Ok((largest, terms))
}

struct StarOp {
    /// `(…, 1)`, in the dtype of the input.
    star: Tensor,
    /// `(C)`: minus the penalty, and 0 for the blank. f32, or f64 for f64 input.
    weights: Tensor,
}

impl CustomOp1 for StarOp {
    fn name(&self) -> &'static str {
        "ctc-star"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        precomputed::on_cpu(&self.star)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        precomputed::on_cuda(&self.star)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        precomputed::on_metal(&self.star)
    }

    fn bwd(&self, log_probs: &Tensor, _star: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let (_, terms) = relative_exp(&weighted(log_probs, &self.weights)?)?;
        let shares = terms.broadcast_div(&terms.sum_keepdim(D::Minus1)?)?;
        let upstream = upstream.to_dtype(self.weights.dtype())?;
        let gradient = shares.broadcast_mul(&upstream)?;
        // Where a star has no part in the loss, its frame may hold NaN.
        let without = upstream.eq(0f64)?.broadcast_as(gradient.shape())?;
        let gradient = without.where_cond(&gradient.zeros_like()?, &gradient)?;
        gradient.to_dtype(log_probs.dtype()).map(Some)
    }
}
