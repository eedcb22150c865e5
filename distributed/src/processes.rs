//! The processes of a run, and the sum over all of them.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// This process and the others.
pub struct Processes {
    world: SimpleCommunicator,
    device: Device,
    #[cfg(feature = "nccl")]
    nccl: nccl::AllReduce,
}

impl Processes {
    /// With the feature `nccl` each process takes a GPU of its own, without it the CPU. All processes must call this.
    pub fn new(world: SimpleCommunicator) -> Result<Self> {
        #[cfg(feature = "nccl")]
        let device = nccl::device_of(&world)?;
        #[cfg(not(feature = "nccl"))]
        let device = Device::Cpu;
        Ok(Self {
            #[cfg(feature = "nccl")]
            nccl: nccl::AllReduce::new(&world, &device)?,
            world,
            device,
        })
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    /// The number of processes.
    pub fn count(&self) -> usize {
        self.world.size() as usize
    }

    /// Where this process computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The sum of the tensors of all processes, which are (n) in f64. All processes must call this.
    #[cfg(not(feature = "nccl"))]
    pub fn sum(&self, values: &Tensor) -> Result<Tensor> {
        let values: Vec<f64> = values.to_vec1()?;
        let mut sums = vec![0f64; values.len()];
        let add = mpi::collective::SystemOperation::sum();
        self.world.all_reduce_into(&values[..], &mut sums[..], add);
        Ok(Tensor::new(sums, &self.device)?)
    }

    /// The sum of the tensors of all processes, which are (n) in f64: on the GPUs. All processes must call this.
    #[cfg(feature = "nccl")]
    pub fn sum(&self, values: &Tensor) -> Result<Tensor> {
        let sums = values.copy()?;
        sums.inplace_op1(&self.nccl)?;
        Ok(sums)
    }

    /// Fails unless all processes have the same bits in `values`, (n) in f32. All processes must call this.
    pub fn ensure_same(&self, values: &Tensor) -> Result<()> {
        let own: Vec<f32> = values.to_vec1()?;
        let mut first = own.clone();
        self.world.process_at_rank(0).broadcast_into(&mut first[..]);
        let different = own
            .iter()
            .zip(&first)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        ensure!(
            different == 0,
            "{different} of {} weights differ from those of process 0",
            own.len()
        );
        Ok(())
    }
}

#[cfg(feature = "nccl")]
mod nccl {
    use anyhow::{Context, Result, anyhow};
    use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
    use candle_core::{CpuStorage, CudaStorage, Device, InplaceOp1, Layout, bail};
    use mpi::topology::SimpleCommunicator;
    use mpi::traits::*;

    /// The first process of a machine takes its first GPU, and so on.
    pub fn device_of(world: &SimpleCommunicator) -> Result<Device> {
        let gpu = world.split_shared(world.rank()).rank() as usize;
        Device::new_cuda(gpu).with_context(|| {
            format!("cannot use GPU {gpu}: each process of a machine needs a GPU of its own")
        })
    }

    /// The sum of f64 over all processes, in place.
    pub struct AllReduce(Comm);

    impl AllReduce {
        /// Process 0 makes the identifier by which the processes find each other, and MPI brings it to the others.
        pub fn new(world: &SimpleCommunicator, device: &Device) -> Result<Self> {
            let mut id = [0; 128];
            if world.rank() == 0 {
                id = *Id::new()
                    .map_err(|error| anyhow!("NCCL: {error:?}"))?
                    .internal();
            }
            world.process_at_rank(0).broadcast_into(&mut id[..]);
            let stream = device.as_cuda_device()?.cuda_stream();
            Comm::from_rank(
                stream,
                world.rank() as usize,
                world.size() as usize,
                Id::uninit(id),
            )
            .map(Self)
            .map_err(|error| anyhow!("NCCL: {error:?}"))
        }
    }

    impl InplaceOp1 for AllReduce {
        fn name(&self) -> &'static str {
            "all-reduce"
        }

        fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
            bail!("NCCL sums tensors on a GPU, and this one is on the CPU")
        }

        fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
            let values = storage.as_cuda_slice_mut::<f64>()?;
            if layout.contiguous_offsets() != Some((0, values.len())) {
                bail!("the tensor to sum is a part of another");
            }
            self.0
                .all_reduce_in_place(values, &ReduceOp::Sum)
                .map_err(|error| candle_core::Error::msg(format!("NCCL: {error:?}")))?;
            Ok(())
        }
    }
}
