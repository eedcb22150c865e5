//! The reduction of the items' losses on the host. The GPU kernels do the same.
//!
//! The reduction is part of the operation, not of candle's graph: candle's own Metal kernels are compiled with fast
//! math and may lose a NaN or an infinity; and candle keeps a gradient for every factor of a product, even a constant,
//! and with it the whole graph of the loss.

use crate::cpu::Real;
use crate::options::Reduction;
use crate::problem::plan::{LossProblem, Plan};

/// Applies `zero_infinity`, the weights and the reduction to the losses of all items, for results of type `R`.
///
/// Whether a loss is infinite is decided item by item, before weighting, in the type in which it is returned: a loss of
/// 1e39 is +inf in f32. A sum of finite losses that overflows is +inf regardless of `zero_infinity`, as in PyTorch: no
/// item may be dropped from it, and each has its gradient.
pub(crate) fn reduce<R: Real>(
    problem: &LossProblem,
    plan: &Plan,
    mut losses: Vec<f64>,
) -> Vec<f64> {
    for (n, loss) in losses.iter_mut().enumerate() {
        if R::is_infinite_loss(*loss) {
            *loss = if problem.zero_infinity {
                0.0
            } else {
                f64::INFINITY
            };
        }
        *loss *= problem.weight(plan, n);
    }
    match problem.reduction {
        Reduction::None => losses,
        Reduction::Sum | Reduction::Mean => vec![losses.iter().sum()],
    }
}
