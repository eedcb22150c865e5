//! What the loss costs on a GPU: a line of JSON for each shape and mode. `benches/gpu/compare.py` starts it
//! and sets PyTorch and others beside it.
//!
//! Modes: `train` (loss and gradient from log-probabilities, candle's own backward pass included), `logits`
//! (the same from logits), `gradient` (the same as one of those without candle's backward pass), `score` (loss alone),
//! and `copy` (the bandwidth of the card, in GB/s of bytes read and written).
//!
//! With `--once`, each shape and mode runs once, for a profiler.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    CtcLossOptions, Reduction, ctc_loss, ctc_loss_and_gradient, ctc_loss_and_gradient_with_logits,
    ctc_loss_with_logits,
};
use serde_json::json;
use std::time::Instant;

/// T, N, C, S.
type Shape = (usize, usize, usize, usize);

/// The shapes, their dtype, and the mode of the gradient.
const SHAPES: [(Shape, DType, &str); 9] = [
    ((64, 4, 32, 16), DType::F32, "train"),
    ((256, 16, 64, 48), DType::F32, "train"),
    ((512, 32, 64, 48), DType::F32, "train"),
    ((1024, 32, 128, 96), DType::F32, "train"),
    ((1000, 64, 32, 120), DType::F32, "train"),
    ((500, 16, 5000, 60), DType::F32, "logits"),
    ((500, 16, 5000, 60), DType::BF16, "logits"),
    ((183, 90, 10241, 29), DType::F32, "logits"),
    ((1500, 32, 10000, 200), DType::F32, "logits"),
];
/// One item, of few and of many frames: what a frame costs.
const SLOPES: [usize; 3] = [16, 48, 120];
const SLOPE_FRAMES: [usize; 2] = [1000, 4000];
/// Input sets in turn, so that none stays in a cache.
const SETS: usize = 4;
const ROUNDS: usize = 30;

fn main() -> Result<()> {
    let device = device()?;
    if device.is_cpu() {
        println!("gpu: no GPU here, nothing to measure");
        return Ok(());
    }
    let once = std::env::args().any(|argument| argument == "--once");
    let rounds = if once { 0 } else { ROUNDS };
    first_call(&device)?;
    if !once {
        copy(&device)?;
    }
    for (shape, dtype, mode) in SHAPES {
        let sets: Vec<Case> = (0..if once { 1 } else { SETS })
            .map(|_| Case::new(shape, dtype, mode, &device))
            .collect::<Result<_>>()?;
        for mode in [mode, "gradient", "score"] {
            measure(&device, rounds, (shape, dtype, mode), &sets)?;
        }
    }
    for labels in SLOPES {
        for frames in SLOPE_FRAMES {
            let shape = (frames, 1, 32, labels);
            let sets = [Case::new(shape, DType::F32, "train", &device)?];
            for mode in ["train", "score"] {
                measure(&device, rounds, (shape, DType::F32, mode), &sets)?;
            }
        }
    }
    Ok(())
}

/// How long the first loss and the first gradient of a process take: the driver compiles the kernels.
fn first_call(device: &Device) -> Result<()> {
    let case = Case::new((64, 4, 32, 16), DType::F32, "train", device)?;
    for mode in ["score", "train"] {
        device.synchronize()?;
        let start = Instant::now();
        case.run(mode)?;
        device.synchronize()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        println!("{}", json!({ "who": "first call", "mode": mode, "ms": ms }));
    }
    Ok(())
}

/// Lets the pool that candle allocates from keep what is free. By default it goes back to the driver at each
/// synchronisation, and large tensors are then mapped anew in each round. PyTorch's allocator keeps its memory too.
#[cfg(feature = "cuda")]
fn keep_memory(device: &Device) -> Result<()> {
    use candle_core::cuda_backend::{WrapErr, cudarc::driver::sys};
    let stream = device.as_cuda_device()?.cuda_stream();
    let mut pool = std::ptr::null_mut();
    let mut most = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is there, and the attribute is a number of 64 bits.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device())
            .result()
            .w()?;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut most).cast())
            .result()
            .w()
    }
}

fn device() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return match Device::new_cuda(0) {
        Ok(device) => keep_memory(&device).map(|()| device),
        Err(_) => Ok(Device::Cpu),
    };
    #[cfg(all(feature = "metal", not(feature = "cuda")))]
    return Device::new_metal(0).or(Ok(Device::Cpu));
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    Ok(Device::Cpu)
}

/// Times a turn, which runs each of the sets once: the median over rounds, for one set. `host` is the time
/// until all is queued. With no rounds there is one turn and no warm-up.
fn measure(
    device: &Device,
    rounds: usize,
    (shape, dtype, mode): (Shape, DType, &str),
    sets: &[Case],
) -> Result<()> {
    let turn = || sets.iter().try_for_each(|set| set.run(mode));
    if rounds > 0 {
        for _ in 0..3 {
            turn()?;
        }
    }
    let (mut times, mut hosts) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        device.synchronize()?;
        let start = Instant::now();
        turn()?;
        let queued = start.elapsed();
        device.synchronize()?;
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3 / sets.len() as f64;
        times.push(ms(start.elapsed()));
        hosts.push(ms(queued));
    }
    times.sort_by(f64::total_cmp);
    hosts.sort_by(f64::total_cmp);
    let (t, n, c, s) = shape;
    println!(
        "{}",
        json!({ "who": "candle-ctc", "shape": [t, n, c, s], "dtype": dtype.as_str(), "mode": mode,
                "ms": times[times.len() / 2], "fastest": times[0], "slowest": times[times.len() - 1],
                "host": hosts[hosts.len() / 2] })
    );
    Ok(())
}

fn copy(device: &Device) -> Result<()> {
    let count = 1 << 28;
    let from = Tensor::ones(count, DType::F32, device)?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        device.synchronize()?;
        let start = Instant::now();
        let to = from.copy()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(to);
    }
    let bytes = 2.0 * 4.0 * count as f64;
    println!("{}", json!({ "who": "copy", "GB/s": bytes / best / 1e9 }));
    Ok(())
}

struct Case {
    leaf: Var,
    /// Whether gradients are those of logits.
    logits: bool,
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
}

impl Case {
    fn new((t, n, c, s): Shape, dtype: DType, mode: &str, device: &Device) -> Result<Self> {
        let logits = Tensor::randn(0f32, 1., (t, n, c), device)?;
        let largest = logits.max_keepdim(2)?;
        let sum = logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(2)?;
        let log_probs = logits
            .broadcast_sub(&(largest + sum.log()?)?)?
            .to_dtype(dtype)?;
        let targets = Tensor::rand(1f32, c as f32, (n, s), &Device::Cpu)?.to_dtype(DType::U32)?;
        Ok(Self {
            leaf: Var::from_tensor(&log_probs)?,
            logits: mode == "logits",
            targets,
            input_lengths: vec![t; n],
            target_lengths: vec![s; n],
        })
    }

    fn run(&self, mode: &str) -> Result<()> {
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let (targets, input_lengths) = (&self.targets, &self.input_lengths);
        let target_lengths = &self.target_lengths;
        let leaf = self.leaf.as_tensor();
        match (mode, self.logits) {
            ("score", _) => {
                let input = leaf.detach();
                ctc_loss(&input, targets, input_lengths, target_lengths, opts)?;
            }
            ("gradient", false) => {
                ctc_loss_and_gradient(leaf, targets, input_lengths, target_lengths, opts)?;
            }
            ("gradient", true) => {
                ctc_loss_and_gradient_with_logits(
                    leaf,
                    targets,
                    input_lengths,
                    target_lengths,
                    opts,
                )?;
            }
            (_, logits) => {
                let loss = if logits {
                    ctc_loss_with_logits(leaf, targets, input_lengths, target_lengths, opts)?
                } else {
                    ctc_loss(leaf, targets, input_lengths, target_lengths, opts)?
                };
                loss.backward()?;
            }
        }
        Ok(())
    }
}
