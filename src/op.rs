//! The custom operations: what candle's graph sees, and the only place that knows every backend.
//!
//! [`CtcForward`] gives one loss an item. When its input is tracked it also forms the posteriors
//! and keeps them for the backward pass; candle keeps the operation itself as long as the graph
//! lives, and with it that state. [`CtcBackward`] writes the gradient from them.

use crate::cpu::{self, Real};
use crate::plan::Plan;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// The losses of all items of a batch, each times its weight: `(N)` or `()`.
pub(crate) fn losses(input: &Tensor, plan: Arc<Plan>) -> Result<Tensor> {
    let tracked = input.track_op();
    input.apply_op1(CtcForward {
        plan,
        saved: tracked.then(OnceLock::new),
    })
}

/// What a backend keeps from the forward to the backward pass.
enum Saved {
    F32(cpu::Saved<f32>),
    F64(cpu::Saved<f64>),
}

struct CtcForward {
    plan: Arc<Plan>,
    /// Filled by the forward pass; `None` when no gradient is wanted.
    saved: Option<OnceLock<Arc<Saved>>>,
}

impl CtcForward {
    fn cpu<E: cpu::Element>(
        &self,
        data: &[E],
        layout: &Layout,
        wrap: fn(cpu::Saved<E::Real>) -> Saved,
    ) -> (CpuStorage, Shape) {
        let strides = self.plan.strides(layout);
        let (losses, saved) = cpu::forward(&self.plan, data, strides, self.saved.is_some());
        if let (Some(cell), Some(saved)) = (&self.saved, saved) {
            // The cell is empty: candle runs the forward pass of an operation once.
            let _ = cell.set(Arc::new(wrap(saved)));
        }
        (
            E::Real::to_cpu_storage_owned(losses),
            Shape::from(self.plan.loss_shape()),
        )
    }
}

impl CustomOp1 for CtcForward {
    fn name(&self) -> &'static str {
        "ctc-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(match storage {
            CpuStorage::F32(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::F64(data) => self.cpu(data, layout, Saved::F64),
            CpuStorage::F16(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::BF16(data) => self.cpu(data, layout, Saved::F32),
            other => bail!("ctc-loss: unsupported dtype {:?}", dtype_of(other)),
        })
    }

    fn bwd(&self, input: &Tensor, _losses: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let Some(saved) = self.saved.as_ref().and_then(OnceLock::get) else {
            bail!("ctc-loss: no state was kept for the backward pass")
        };
        let backward = CtcBackward {
            plan: self.plan.clone(),
            saved: saved.clone(),
        };
        input.apply_op2_no_bwd(upstream, &backward).map(Some)
    }
}

struct CtcBackward {
    plan: Arc<Plan>,
    saved: Arc<Saved>,
}

impl CtcBackward {
    fn cpu<E: cpu::Element>(
        &self,
        input: (&[E], &Layout),
        saved: &cpu::Saved<E::Real>,
        upstream: (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (data, layout) = input;
        let (upstream, upstream_layout) = (upstream.0.as_slice::<E::Real>()?, upstream.1);
        let stride = upstream_layout.stride().first().copied().unwrap_or(0);
        let start = upstream_layout.start_offset();
        let upstream: Vec<E::Real> = (0..self.plan.batch)
            .map(|n| E::Real::narrow(upstream[start + n * stride].widen() * self.plan.weight(n)))
            .collect();
        let strides = self.plan.strides(layout);
        let gradient = cpu::gradient(&self.plan, data, strides, saved, &upstream);
        Ok((E::to_cpu_storage_owned(gradient), layout.shape().clone()))
    }
}

impl CustomOp2 for CtcBackward {
    fn name(&self) -> &'static str {
        "ctc-loss-backward"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let upstream = (upstream, upstream_layout);
        match (input, &*self.saved) {
            (CpuStorage::F32(data), Saved::F32(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F64(data), Saved::F64(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F16(data), Saved::F32(saved)) => {
                self.cpu::<f16>((data, layout), saved, upstream)
            }
            (CpuStorage::BF16(data), Saved::F32(saved)) => {
                self.cpu::<bf16>((data, layout), saved, upstream)
            }
            (other, _) => bail!("ctc-loss: unsupported dtype {:?}", dtype_of(other)),
        }
    }
}

fn dtype_of(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}
