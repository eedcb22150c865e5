//! The line reader of the Python package `legere` 0.11 (MIT): a MobileNet-style backbone of depthwise separable
//! convolutions, a recurrent layer in each direction, and a linear layer. 360,000 weights.

use anyhow::{Context, Result, ensure};
use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::rnn::{GRU, GRUConfig, RNN, gru};
use candle_nn::{BatchNorm, Linear, Module, ModuleT, VarBuilder, VarMap, batch_norm, linear};
use std::path::Path;

/// Every line image has this height in pixels.
pub const HEIGHT: usize = 32;

/// Columns of an image that make one frame.
pub const COLUMNS_PER_FRAME: usize = 4;

/// Channels in and out of each block, and its vertical and horizontal stride.
const BLOCKS: [(usize, usize, (usize, usize)); 6] = [
    (24, 48, (2, 2)),
    (48, 64, (1, 1)),
    (64, 96, (2, 1)),
    (96, 128, (1, 1)),
    (128, 160, (2, 1)),
    (160, 192, (2, 1)),
];
const FEATURES: usize = 192;
const HIDDEN: usize = 128;

/// The weights of a checkpoint, as variables that can be trained further.
pub fn load_weights(path: &Path, device: &Device) -> Result<VarMap> {
    let name = path.display();
    let tensors = PthTensors::new(path, Some("model"))
        .with_context(|| format!("{name} is no checkpoint with the weights under \"model\""))?;
    let weights = VarMap::new();
    let mut data = weights.data().lock().unwrap();
    for key in tensors.tensor_infos().keys() {
        let tensor = tensors
            .get(key)?
            .context("a tensor is listed and not there")?;
        // Counters of batches are integers, and not needed.
        if tensor.dtype() == DType::F32 {
            data.insert(key.clone(), Var::from_tensor(&tensor.to_device(device)?)?);
        }
    }
    ensure!(!data.is_empty(), "{name} holds no weights");
    drop(data);
    Ok(weights)
}

/// The variables that training changes: all but the statistics of the batch normalisation.
pub fn trainable(weights: &VarMap) -> Vec<Var> {
    let data = weights.data().lock().unwrap();
    let mut named: Vec<_> = data
        .iter()
        .filter(|(name, _)| !name.contains("running_"))
        .collect();
    named.sort_by_key(|(name, _)| name.as_str());
    named.into_iter().map(|(_, var)| var.clone()).collect()
}

/// Reads images of lines.
pub struct LineReader {
    stem: (Tensor, BatchNorm),
    blocks: Vec<Block>,
    forwards: GRU,
    backwards: GRU,
    head: Linear,
}

impl LineReader {
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        let stem = vb.pp("stem");
        let blocks = BLOCKS.iter().enumerate().map(|(i, &(from, to, stride))| {
            Block::new(from, to, stride, vb.pp(format!("blocks.{i}")))
        });
        // PyTorch keeps the two directions under one name, with a suffix.
        let backwards = vb
            .clone()
            .rename_f(|name: &str| format!("{name}_reverse"))
            .pp("rnn");
        Ok(Self {
            stem: (
                stem.get((24, 1, 3, 3), "0.weight")?,
                batch_norm(24, 1e-5, stem.pp("1"))?,
            ),
            blocks: blocks.collect::<Result<_>>()?,
            forwards: gru(FEATURES, HIDDEN, GRUConfig::default(), vb.pp("rnn"))?,
            backwards: gru(FEATURES, HIDDEN, GRUConfig::default(), backwards)?,
            head: linear(2 * HIDDEN, classes, vb.pp("head"))?,
        })
    }

    /// Takes images `(N, 1, 32, W)`, black at −1 and white at 1, `W` a multiple of [`COLUMNS_PER_FRAME`], to logits
    /// `(N, W / 4, C)`.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (kernel, norm) = &self.stem;
        let mut x = norm
            .forward_t(&images.conv2d(kernel, 1, 2, 1, 1)?, false)?
            .relu()?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // (N, features, 1, frames) to frames of (N, features).
        let x = x.squeeze(2)?.permute((2, 0, 1))?.contiguous()?;
        let frames: Vec<Tensor> = (0..x.dim(0)?)
            .map(|t| x.get(t))
            .collect::<candle_core::Result<_>>()?;
        let ahead = run(&self.forwards, frames.iter())?;
        let mut behind = run(&self.backwards, frames.iter().rev())?;
        behind.reverse();
        let x = Tensor::cat(&[Tensor::stack(&ahead, 1)?, Tensor::stack(&behind, 1)?], 2)?;
        Ok(self.head.forward(&x)?)
    }
}

/// Runs a recurrent layer over frames `(N, features)` and returns its output at each.
fn run<'a>(cell: &GRU, frames: impl Iterator<Item = &'a Tensor>) -> Result<Vec<Tensor>> {
    let mut outputs = Vec::new();
    let mut state = None;
    for frame in frames {
        let before = match state {
            Some(state) => state,
            None => cell.zero_state(frame.dim(0)?)?,
        };
        let after = cell.step(frame, &before)?;
        outputs.push(after.h().clone());
        state = Some(after);
    }
    Ok(outputs)
}

/// A depthwise convolution of 3 × 3, then one of 1 × 1, each with its batch normalisation.
struct Block {
    depthwise: Tensor,
    norm1: BatchNorm,
    pointwise: Tensor,
    norm2: BatchNorm,
    stride: (usize, usize),
}

impl Block {
    fn new(from: usize, to: usize, stride: (usize, usize), vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            depthwise: vb.get((from, 1, 3, 3), "depthwise.weight")?,
            norm1: batch_norm(from, 1e-5, vb.pp("bn1"))?,
            pointwise: vb.get((to, from, 1, 1), "pointwise.weight")?,
            norm2: batch_norm(to, 1e-5, vb.pp("bn2"))?,
            stride,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = depthwise(x, &self.depthwise, self.stride)?;
        let x = self.norm1.forward_t(&x, false)?.relu()?;
        let x = x.conv2d(&self.pointwise, 0, 1, 1, 1)?;
        Ok(self.norm2.forward_t(&x, false)?.relu()?)
    }
}

/// A depthwise convolution with a kernel of 3 × 3 and a padding of 1: a weighted sum of nine shifted images. candle's
/// own takes one stride for both directions, and calls itself once for each channel.
fn depthwise(x: &Tensor, kernel: &Tensor, (down, across): (usize, usize)) -> Result<Tensor> {
    let (_, channels, height, width) = x.dims4()?;
    let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    let every = |count: usize, step: usize| -> Result<Tensor> {
        let places: Vec<u32> = (0..count as u32).step_by(step).collect();
        Ok(Tensor::new(places, x.device())?)
    };
    let (rows, columns) = (every(height, down)?, every(width, across)?);
    let mut sum: Option<Tensor> = None;
    for row in 0..3 {
        let shifted = padded.narrow(2, row, height)?;
        let shifted = match down {
            1 => shifted,
            _ => shifted.contiguous()?.index_select(&rows, 2)?,
        };
        for column in 0..3 {
            let shifted = shifted.narrow(3, column, width)?;
            let shifted = match across {
                1 => shifted,
                _ => shifted.contiguous()?.index_select(&columns, 3)?,
            };
            let weight = kernel.narrow(2, row, 1)?.narrow(3, column, 1)?;
            let term = shifted.broadcast_mul(&weight.reshape((1, channels, 1, 1))?)?;
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
    }
    sum.context("a kernel has nine entries")
}
