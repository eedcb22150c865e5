//! From one loss an item to what the caller asked for, on the host. The kernels of a GPU do the same.
//!
//! This is part of the operation and not of candle's graph behind it: candle's own kernels for Metal are
//! compiled with fast math and may lose a NaN or an infinity, and candle keeps a gradient for every argument
//! of a product, constants too, and with it the whole graph of the loss.

use crate::options::Reduction;
use crate::plan::Plan;

/// Applies `zero_infinity`, the weights and the reduction to the losses of all items.
pub(crate) fn reduce(plan: &Plan, mut losses: Vec<f64>) -> Vec<f64> {
    for (n, loss) in losses.iter_mut().enumerate() {
        if plan.zero_infinity && *loss == f64::INFINITY {
            *loss = 0.0;
        }
        *loss *= plan.weight(n);
    }
    match plan.reduction {
        Reduction::None => losses,
        Reduction::Sum | Reduction::Mean => vec![losses.iter().sum()],
    }
}
