//! From one loss an item to what the caller asked for.

use crate::options::{CtcLossOptions, Reduction};
use crate::plan::Plan;
use candle_core::{Result, Tensor};

/// Applies `zero_infinity`, then the reduction.
pub(crate) fn reduce(losses: Tensor, plan: &Plan, opts: CtcLossOptions) -> Result<Tensor> {
    let losses = if opts.zero_infinity {
        let infinite = losses.eq(f64::INFINITY)?;
        infinite.where_cond(&losses.zeros_like()?, &losses)?
    } else {
        losses
    };
    match opts.reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => losses.sum_all(),
        Reduction::Mean => {
            // An item whose loss was zeroed still counts in the mean.
            let weight = |n| 1.0 / (plan.target_length(n).max(1) * plan.batch) as f64;
            let weights: Vec<f64> = (0..plan.batch).map(weight).collect();
            let weights = Tensor::from_vec(weights, plan.loss_shape(), &candle_core::Device::Cpu)?
                .to_dtype(losses.dtype())?
                .to_device(losses.device())?;
            (losses * weights)?.sum_all()
        }
    }
}
