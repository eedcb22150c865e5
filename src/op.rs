//! The custom operations of candle's graph, which dispatch to every backend.
//!
//! [`CtcForward`] computes the reduced loss. If its input is tracked, it also computes the posteriors and keeps them
//! for the backward pass; candle keeps the operation, and with it that state, as long as the graph lives.
//! [`CtcBackward`] writes the gradient from them.

use crate::cpu::{self, Real};
#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
use crate::gpu;
#[cfg(ctc_softgpu)]
use crate::gpu::simulator::{Memory, Simulator};
use crate::problem::plan::LossProblem;
use crate::problem::weights::EmissionWeights;
use crate::reduce::reduce;
use crate::unchanged::Sample;
#[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
use candle_core::DType;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaDevice, CudaStorage};
#[cfg(feature = "metal")]
use candle_core::{MetalDevice, MetalStorage};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// The reduced loss of a batch: `(N)` or `()`.
pub(crate) fn loss(input: &Tensor, problem: Arc<LossProblem>) -> Result<Tensor> {
    let tracked = input.track_op();
    input.apply_op1(CtcForward {
        problem,
        saved: tracked.then(OnceLock::new),
    })
}

/// The reduced loss, and the gradient of its sum with respect to the input, without a graph.
pub(crate) fn loss_and_gradient(
    input: &Tensor,
    problem: Arc<LossProblem>,
) -> Result<(Tensor, Tensor)> {
    with_gradient(input, problem, Tensor::ones_like)
}

/// The losses of a batch that are not reduced, `(N)`, and the gradient of their sum with these weights.
pub(crate) fn losses_and_gradient(
    input: &Tensor,
    problem: Arc<LossProblem>,
    weights: &[f64],
) -> Result<(Tensor, Tensor)> {
    with_gradient(input, problem, |losses| {
        let weights = Tensor::new(weights, &Device::Cpu)?.to_dtype(losses.dtype())?;
        weights.to_device(losses.device())
    })
}

fn with_gradient(
    input: &Tensor,
    problem: Arc<LossProblem>,
    upstream: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let input = input.detach();
    let forward = CtcForward {
        problem,
        saved: Some(OnceLock::new()),
    };
    let losses = input.apply_op1_no_bwd(&forward)?;
    let gradient = input.apply_op2_no_bwd(&upstream(&losses)?, &forward.backward()?)?;
    Ok((losses, gradient))
}

/// The state that a backend keeps from the forward to the backward pass.
enum Saved {
    F32(cpu::Saved<f32>),
    F64(cpu::Saved<f64>),
    #[cfg(feature = "cuda")]
    Cuda(Box<gpu::Saved<CudaDevice>>),
    #[cfg(feature = "metal")]
    Metal(Box<gpu::Saved<MetalDevice>>),
    #[cfg(ctc_softgpu)]
    Simulated(Box<gpu::Saved<Simulator>>),
}

struct CtcForward {
    problem: Arc<LossProblem>,
    /// Filled by the forward pass; `None` if no gradient is wanted.
    saved: Option<OnceLock<Arc<(Saved, Sample)>>>,
}

impl CtcForward {
    fn keep(&self, saved: Option<Saved>, sample: impl FnOnce() -> Sample) {
        if let (Some(cell), Some(saved)) = (&self.saved, saved) {
            // The cell is empty: candle runs the forward pass of an operation once.
            let _ = cell.set(Arc::new((saved, sample())));
        }
    }

    /// The operation that writes the gradient, once the forward pass has run.
    fn backward(&self) -> Result<CtcBackward> {
        match self.saved.as_ref().and_then(OnceLock::get) {
            Some(saved) => Ok(CtcBackward {
                problem: self.problem.clone(),
                saved: saved.clone(),
            }),
            None => bail!("ctc-loss: no state was kept for the backward pass"),
        }
    }

    fn shape(&self) -> Shape {
        Shape::from(self.problem.loss_shape())
    }

    fn cpu<E: cpu::Element>(
        &self,
        data: &[E],
        layout: &Layout,
        wrap: fn(cpu::Saved<E::Real>) -> Saved,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = self.problem.plan()?;
        let weights = self.problem.weights.as_ref();
        let weights = weights.map(EmissionWeights::read).transpose()?;
        let strides = plan.input.strides(layout);
        let input = cpu::LossInput {
            data,
            strides,
            weights: weights.as_deref(),
        };
        let (losses, saved) = cpu::forward(plan, input, self.saved.is_some())?;
        self.keep(saved.map(wrap), || Sample::new(plan, data, strides));
        let reduced = reduce::<E::Real>(&self.problem, plan, losses);
        let reduced = reduced.into_iter().map(E::Real::narrow).collect();
        Ok((E::Real::to_cpu_storage_owned(reduced), self.shape()))
    }

    #[cfg(any(feature = "cuda", feature = "metal", ctc_softgpu))]
    fn gpu<B: gpu::Backend>(
        &self,
        backend: &B,
        (storage, dtype, layout): (&B::Storage, DType, &Layout),
        wrap: fn(gpu::Saved<B>) -> Saved,
    ) -> Result<(B::Storage, Shape)> {
        let keep = self.saved.is_some();
        let (losses, saved) = gpu::forward(backend, &self.problem, storage, dtype, layout, keep)?;
        // Entries of a GPU's memory are not read: the host would wait for it.
        self.keep(saved.map(wrap), Sample::default);
        Ok((losses, self.shape()))
    }
}

impl CustomOp1 for CtcForward {
    fn name(&self) -> &'static str {
        "ctc-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        #[cfg(ctc_softgpu)]
        {
            let input = (&Memory::from_cpu(storage)?, storage.dtype(), layout);
            let (losses, shape) =
                self.gpu(&Simulator, input, |saved| Saved::Simulated(Box::new(saved)))?;
            return Ok((losses.to_cpu()?, shape));
        }
        #[allow(unreachable_code)]
        match storage {
            CpuStorage::F32(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::F64(data) => self.cpu(data, layout, Saved::F64),
            CpuStorage::F16(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::BF16(data) => self.cpu(data, layout, Saved::F32),
            other => bail!("ctc-loss: unsupported dtype {:?}", other.dtype()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let input = (storage, storage.dtype(), layout);
        self.gpu(&storage.device, input, |saved| Saved::Cuda(Box::new(saved)))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(&self, storage: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let input = (storage, storage.dtype(), layout);
        self.gpu(storage.device(), input, |saved| {
            Saved::Metal(Box::new(saved))
        })
    }

    fn bwd(&self, input: &Tensor, _losses: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        input
            .apply_op2_no_bwd(upstream, &self.backward()?)
            .map(Some)
    }
}

struct CtcBackward {
    problem: Arc<LossProblem>,
    saved: Arc<(Saved, Sample)>,
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
        let plan = self.problem.plan()?;
        let weight = |n| self.problem.weight(plan, n);
        let upstream: Vec<E::Real> = (0..plan.input.batch)
            .map(|n| E::Real::narrow(upstream[start + n * stride].widen() * weight(n)))
            .collect();
        let strides = plan.input.strides(layout);
        if self.problem.reads_input_again() {
            self.saved.1.check(self.name(), data, strides)?;
        }
        let input = (data, strides);
        let gradient = cpu::gradient(&self.problem, plan, input, saved, &upstream)?;
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
        #[cfg(ctc_softgpu)]
        if let Saved::Simulated(saved) = &self.saved.0 {
            let (storage, up) = (Memory::from_cpu(input)?, Memory::from_cpu(upstream)?);
            let input = (&storage, input.dtype(), layout);
            let gradient = gpu::gradient(
                &Simulator,
                &self.problem,
                input,
                saved,
                (&up, upstream_layout),
            )?;
            return Ok((gradient.to_cpu()?, layout.shape().clone()));
        }
        let upstream = (upstream, upstream_layout);
        match (input, &self.saved.0) {
            (CpuStorage::F32(data), Saved::F32(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F64(data), Saved::F64(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F16(data), Saved::F32(saved)) => {
                self.cpu::<f16>((data, layout), saved, upstream)
            }
            (CpuStorage::BF16(data), Saved::F32(saved)) => {
                self.cpu::<bf16>((data, layout), saved, upstream)
            }
            (other, _) => bail!("ctc-loss: unsupported dtype {:?}", other.dtype()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        layout: &Layout,
        upstream: &CudaStorage,
        upstream_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let Saved::Cuda(saved) = &self.saved.0 else {
            bail!("ctc-loss: the forward pass did not run on a CUDA device")
        };
        let (storage, upstream) = ((input, input.dtype(), layout), (upstream, upstream_layout));
        let gradient = gpu::gradient(&input.device, &self.problem, storage, saved, upstream)?;
        Ok((gradient, layout.shape().clone()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        input: &MetalStorage,
        layout: &Layout,
        upstream: &MetalStorage,
        upstream_layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let Saved::Metal(saved) = &self.saved.0 else {
            bail!("ctc-loss: the forward pass did not run on a Metal device")
        };
        let (storage, upstream) = ((input, input.dtype(), layout), (upstream, upstream_layout));
        let gradient = gpu::gradient(input.device(), &self.problem, storage, saved, upstream)?;
        Ok((gradient, layout.shape().clone()))
    }
}
