//! From one loss an item to what the caller asked for, on the host. The kernels of a GPU do the same.
//!
//! This is part of the operation and not of candle's graph behind it: candle's own kernels for Metal are
//! compiled with fast math and may lose a NaN or an infinity, and candle keeps a gradient for every argument
//! of a product, constants too, and with it the whole graph of the loss.

use crate::cpu::Real;
use crate::options::Reduction;
use crate::problem::plan::Plan;

/// Applies `zero_infinity`, the weights and the reduction to the losses of all items, to return them as `R`.
///
/// Whether a loss is infinite is judged item by item, before the weight, in the type in which it is returned: a
/// loss of 1e39 is +inf in f32. A sum of finite losses that overflows is +inf, `zero_infinity` or not, as in
/// PyTorch: no item is to be left out of it, and each has its gradient.
pub(crate) fn reduce<R: Real>(plan: &Plan, mut losses: Vec<f64>) -> Vec<f64> {
    for (n, loss) in losses.iter_mut().enumerate() {
        if R::is_infinite_loss(*loss) {
            *loss = if plan.zero_infinity {
                0.0
            } else {
                f64::INFINITY
            };
        }
        *loss *= plan.weight(n);
    }
    match plan.reduction {
        Reduction::None => losses,
        Reduction::Sum | Reduction::Mean => vec![losses.iter().sum()],
    }
}
