//! What the tests share. Nothing here calls the crate's own arithmetic: the figures that tests compare
//! with come from [`oracle`], which is written from the definition.
#![allow(dead_code)] // Each test program uses its own part.

pub mod labellings;
pub mod lattice;
pub mod oracle;
pub mod tensors;
pub mod tolerance;
pub mod views;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    ConfidenceOptions, CtcLossOptions, InputLayout, ScoreOptions, ctc_loss, ctc_loss_with_logits,
};
use oracle::Problem;

/// What the confidence functions share with scores.
pub fn for_confidence(opts: ScoreOptions) -> ConfidenceOptions {
    ConfidenceOptions {
        blank: opts.blank,
        layout: opts.layout,
        input: opts.input,
        normalised: opts.normalised,
    }
}

/// A deterministic random number generator (splitmix64), so that a failing test fails again.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` values uniform in `-scale..scale`.
    pub fn values(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count)
            .map(|_| (2.0 * self.unit() - 1.0) * scale)
            .collect()
    }

    /// A target of `length` labels that are not the blank; a label repeats its neighbour with probability
    /// `repeats`.
    pub fn target(
        &mut self,
        length: usize,
        classes: usize,
        blank: usize,
        repeats: f64,
    ) -> Vec<usize> {
        let mut target: Vec<usize> = Vec::with_capacity(length);
        while target.len() < length {
            match target.last() {
                Some(&last) if self.unit() < repeats => target.push(last),
                _ => {
                    let label = self.below(classes - 1);
                    target.push(label + usize::from(label >= blank));
                }
            }
        }
        target
    }
}

/// The CPU, and the GPU of each backend that is compiled in and present.
pub fn devices() -> Vec<Device> {
    #[allow(unused_mut)]
    let mut devices = vec![Device::Cpu];
    #[cfg(feature = "cuda")]
    devices.extend(Device::new_cuda(0));
    #[cfg(feature = "metal")]
    devices.extend(Device::new_metal(0));
    devices
}

/// The GPUs; the CPU where the kernels run on it in simulation. There must be one: tests of these are ignored where
/// no backend is compiled in.
#[track_caller]
pub fn gpus() -> Vec<Device> {
    let mut gpus = devices();
    gpus.retain(|device| cfg!(ctc_softgpu) || !device.is_cpu());
    assert!(!gpus.is_empty(), "no GPU is here");
    gpus
}

/// Whether a device computes with a dtype: Metal has no f64.
pub fn holds(device: &Device, dtype: DType) -> bool {
    !(device.is_metal() && dtype == DType::F64)
}

/// Which function of the crate is called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry {
    LogProbs,
    Logits,
}

impl Entry {
    pub const ALL: [Entry; 2] = [Entry::LogProbs, Entry::Logits];

    /// Calls the entry with lengths given as slices.
    pub fn loss(
        self,
        input: &Tensor,
        targets: &Tensor,
        input_lengths: &[usize],
        target_lengths: &[usize],
        options: CtcLossOptions,
    ) -> Result<Tensor> {
        match self {
            Entry::LogProbs => ctc_loss(input, targets, input_lengths, target_lengths, options),
            Entry::Logits => {
                ctc_loss_with_logits(input, targets, input_lengths, target_lengths, options)
            }
        }
    }
}

/// A loss and the gradient at the input, read back to f64.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub loss: Vec<f64>,
    pub loss_dtype: DType,
    pub loss_dims: Vec<usize>,
    pub gradient: Vec<f64>,
    pub gradient_dtype: DType,
}

impl Outcome {
    /// Every bit of the loss and of the gradient; all NaNs count as one.
    pub fn bits(&self) -> (Vec<u64>, Vec<u64>) {
        (bits(&self.loss), bits(&self.gradient))
    }
}

/// The bits of each value; all NaNs count as one.
pub fn bits(values: &[f64]) -> Vec<u64> {
    values
        .iter()
        .map(|v| if v.is_nan() { f64::NAN } else { *v }.to_bits())
        .collect()
}

/// `sum(upstream * loss)`, which is what gets differentiated. Without an upstream, the sum of the losses.
pub fn weighted(loss: &Tensor, upstream: Option<&[f64]>) -> Result<Tensor> {
    match upstream {
        None => loss.sum_all(),
        Some(upstream) => {
            let upstream = tensors::floats(upstream, loss.dims(), loss.dtype(), loss.device());
            (upstream * loss)?.sum_all()
        }
    }
}

/// Runs the loss and its backward pass with `input` as the leaf.
pub fn run(
    entry: Entry,
    input: &Tensor,
    targets: &Tensor,
    input_lengths: &[usize],
    target_lengths: &[usize],
    options: CtcLossOptions,
    upstream: Option<&[f64]>,
) -> Result<Outcome> {
    let leaf = Var::from_tensor(input)?;
    let loss = entry.loss(&leaf, targets, input_lengths, target_lengths, options)?;
    let gradients = weighted(&loss, upstream)?.backward()?;
    let gradient = gradients.get(&leaf).expect("the leaf has a gradient");
    assert_eq!(
        gradient.dims(),
        input.dims(),
        "the gradient has the shape of the input"
    );
    Ok(Outcome {
        loss: tensors::read(&loss),
        loss_dtype: loss.dtype(),
        loss_dims: loss.dims().to_vec(),
        gradient: tensors::read(gradient),
        gradient_dtype: gradient.dtype(),
    })
}

/// Runs a problem with padded targets in the layout that `options` ask for. The gradient comes back time-major.
pub fn run_problem(
    entry: Entry,
    problem: &Problem,
    options: CtcLossOptions,
    dtype: DType,
    device: &Device,
    upstream: Option<&[f64]>,
) -> Result<Outcome> {
    let time_major = tensors::floats(
        &problem.values,
        &[problem.frames, problem.items(), problem.classes],
        dtype,
        device,
    );
    let input = in_layout(&time_major, options.layout);
    let targets = tensors::padded(
        &problem.targets,
        0,
        problem.blank as i64,
        DType::I64,
        device,
    );
    let mut outcome = run(
        entry,
        &input,
        &targets,
        &problem.input_lengths,
        &problem.target_lengths(),
        options,
        upstream,
    )?;
    if options.layout == InputLayout::BatchMajor {
        outcome.gradient = oracle::swap_axes(
            &outcome.gradient,
            problem.items(),
            problem.frames,
            problem.classes,
        );
    }
    Ok(outcome)
}

/// A contiguous copy of a time-major tensor in the layout asked for.
pub fn in_layout(time_major: &Tensor, layout: InputLayout) -> Tensor {
    match layout {
        InputLayout::TimeMajor => time_major.clone(),
        InputLayout::BatchMajor => time_major.transpose(0, 1).unwrap().contiguous().unwrap(),
    }
}
