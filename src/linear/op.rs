//! The loss as an operation of candle's graph.

use super::loss::{Gradients, LinearLoss, Wanted};
use crate::cpu_input::on_host;
use crate::precomputed;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, DType, Layout, MetalStorage, Result, Shape, Tensor,
};

/// The loss as an operation of candle's graph.
pub(super) struct LinearLossOp {
    pub linear: LinearLoss,
    pub wanted: Wanted,
    pub loss: Tensor,
    /// Of a single loss, divided by the number beside them; `None` for the losses of items.
    pub gradients: Option<(Gradients, f64)>,
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
