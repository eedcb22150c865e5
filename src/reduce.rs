//! From one loss an item to what the caller asked for.

use crate::options::{CtcLossOptions, Reduction};
use candle_core::{Result, Tensor};

/// Applies `zero_infinity`, then the reduction. For a mean the losses come weighted: see
/// [`Plan::weight`](crate::plan::Plan::weight).
///
/// The weights are not multiplied in here because candle keeps a gradient for every argument of a
/// product, constants too, and with it the whole graph of the loss.
pub(crate) fn reduce(losses: Tensor, opts: CtcLossOptions) -> Result<Tensor> {
    let losses = if opts.zero_infinity {
        let infinite = losses.eq(f64::INFINITY)?;
        infinite.where_cond(&losses.zeros_like()?, &losses)?
    } else {
        losses
    };
    match opts.reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum | Reduction::Mean => losses.sum_all(),
    }
}
