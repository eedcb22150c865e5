//! What a training loop needs beside the optimiser, for more than one example.

use anyhow::Result;
use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::VarMap;

/// The learning rate of one of `steps` steps: a linear rise to `peak` over the first `warm_up`, then half a cosine down to
/// nearly zero.
pub fn learning_rate(step: usize, steps: usize, warm_up: usize, peak: f64) -> f64 {
    if step < warm_up {
        return peak * (step + 1) as f64 / warm_up as f64;
    }
    let done = (step - warm_up) as f64 / (steps - warm_up) as f64;
    peak * (0.01 + 0.99 * 0.5 * (1.0 + (done * std::f64::consts::PI).cos()))
}

/// Scales all gradients down together if they are longer than `longest` as one vector.
pub fn clip(grads: &mut GradStore, vars: &[Var], longest: f64) -> Result<()> {
    let mut squares = 0.0;
    for var in vars {
        if let Some(grad) = grads.get(var) {
            squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let length = squares.sqrt();
    if length > longest {
        for var in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, (grad * (longest / length))?);
            }
        }
    }
    Ok(())
}

/// The weights in the order of their names; a `VarMap` has no order of its own.
pub fn sorted(weights: &VarMap) -> Result<Vec<(String, Var)>> {
    let Ok(data) = weights.data().lock() else {
        anyhow::bail!("the weights are locked")
    };
    let mut vars: Vec<_> = data
        .iter()
        .map(|(name, var)| (name.clone(), var.clone()))
        .collect();
    vars.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(vars)
}
