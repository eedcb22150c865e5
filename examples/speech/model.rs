//! The model: convolutions along the time, with one output frame for two frames of the features.

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_ctc::conv_lengths;
use candle_nn::{Init, LayerNorm, Linear, Module, VarBuilder, layer_norm_no_bias, linear};

use crate::corpus::{Features, Utterance};
use crate::features::BANDS;

const CHANNELS: usize = 128;

/// Frames of the features that make one frame of the output.
pub const STRIDE: usize = 2;
/// The first layer: kernel and padding. An even number of frames comes out as exactly half as many; candle 0.11 cannot
/// differentiate a strided convolution that leaves over a frame.
const FIRST: (usize, usize) = (6, 2);

/// The kernel of the other layers, and how far apart its taps are in each of them.
const KERNEL: usize = 5;
const DILATIONS: [usize; 6] = [1, 1, 2, 2, 4, 1];

/// The names of what is in the file of the weights and is not trained.
pub const MEAN: &str = "features.mean";
pub const DEVIATION: &str = "features.deviation";

/// How many frames of the output on either side the model looks at.
pub const CONTEXT: usize = {
    let mut context = FIRST.0.div_ceil(2) / STRIDE + 1;
    let mut layer = 0;
    while layer < DILATIONS.len() {
        context += KERNEL / 2 * DILATIONS[layer];
        layer += 1;
    }
    context
};

/// A convolution along the time of `(N, T, C)`.
///
/// `conv1d` of candle 0.11.1 gives a wrong gradient of the kernel for batches, so this is `conv2d` over a height of 1.
fn conv_over_time(
    input: &Tensor,
    kernel: &Tensor,
    padding: usize,
    stride: usize,
    dilation: usize,
) -> candle_core::Result<Tensor> {
    let input = input.transpose(1, 2)?.unsqueeze(2)?; // (N, C, 1, T)
    let input = input.pad_with_zeros(3, padding, padding)?;
    let output = input.conv2d(&kernel.unsqueeze(2)?, 0, stride, dilation, 1)?;
    output.squeeze(2)?.transpose(1, 2)?.contiguous()
}

/// `x + conv(relu(norm(x)))`.
struct Block {
    norm: LayerNorm,
    kernel: Tensor,
    bias: Tensor,
    dilation: usize,
}

impl Block {
    fn new(dilation: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            // A layer norm with a bias takes a way through candle-nn 0.11.1 that has no gradient.
            norm: layer_norm_no_bias(CHANNELS, 1e-5, vb.pp("norm"))?,
            kernel: vb.get((CHANNELS, CHANNELS, KERNEL), "kernel")?,
            bias: vb.get_with_hints(CHANNELS, "bias", Init::Const(0.0))?,
            dilation,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let inner = self.norm.forward(x)?.relu()?.broadcast_mul(mask)?;
        let padding = KERNEL / 2 * self.dilation;
        let inner = conv_over_time(&inner, &self.kernel, padding, 1, self.dilation)?;
        Ok((x + inner.broadcast_add(&self.bias)?)?)
    }
}

pub struct Model {
    /// The mean of each band over the training data, and its standard deviation.
    mean: Tensor,
    deviation: Tensor,
    first: Tensor,
    first_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

/// What the model says about a batch.
pub struct Output {
    /// `(N, T, C)`.
    pub logits: Tensor,
    /// The frames of each utterance.
    pub frames: Vec<usize>,
}

impl Model {
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        let blocks = DILATIONS
            .iter()
            .enumerate()
            .map(|(index, &dilation)| Block::new(dilation, vb.pp(format!("block{index}"))));
        // Kept with the weights, so that a saved model needs nothing else, but not trained.
        let constant = |name, value| -> Result<Tensor> {
            Ok(vb.get_with_hints(BANDS, name, Init::Const(value))?.detach())
        };
        Ok(Self {
            mean: constant(MEAN, 0.0)?,
            deviation: constant(DEVIATION, 1.0)?,
            first: vb.get((CHANNELS, BANDS, FIRST.0), "first.kernel")?,
            first_bias: vb.get_with_hints(CHANNELS, "first.bias", Init::Const(0.0))?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: layer_norm_no_bias(CHANNELS, 1e-5, vb.pp("norm"))?,
            head: linear(CHANNELS, classes, vb.pp("head"))?,
        })
    }

    /// The number of output frames for a number of feature frames.
    pub fn output_frames(frames: &[usize]) -> Result<Vec<usize>> {
        Ok(conv_lengths(frames, FIRST.0, STRIDE, FIRST.1, 1)?)
    }

    /// The logits of a batch. An utterance comes out the same, but for rounding, whatever it is batched with: what lies
    /// behind its end is zero before every convolution, as it is when it is alone.
    pub fn forward(&self, features: &Features) -> Result<Output> {
        let frames = Self::output_frames(&features.frames)?;
        let x = features
            .values
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.deviation)?;
        let x = x.broadcast_mul(&mask(&features.frames, x.dim(1)?)?)?;
        let x = x.pad_with_zeros(1, 0, x.dim(1)? % STRIDE)?;
        let x = conv_over_time(&x, &self.first, FIRST.1, STRIDE, 1)?;
        let mut x = x.broadcast_add(&self.first_bias)?;
        let mask = mask(&frames, x.dim(1)?)?;
        for block in &self.blocks {
            x = block.forward(&x, &mask)?;
        }
        let logits = self.head.forward(&self.norm.forward(&x)?)?;
        Ok(Output { logits, frames })
    }
}

/// `(N, T, 1)`: 1 in the frames of each utterance and 0 behind them.
fn mask(frames: &[usize], longest: usize) -> Result<Tensor> {
    let values: Vec<f32> = frames
        .iter()
        .flat_map(|&frames| (0..longest).map(move |t| f32::from(t < frames)))
        .collect();
    Ok(Tensor::from_vec(
        values,
        (frames.len(), longest, 1),
        &Device::Cpu,
    )?)
}

/// The mean of each band over all frames, and its standard deviation.
pub fn statistics(utterances: &[Utterance]) -> (Vec<f32>, Vec<f32>) {
    let mut sums = [(0.0f64, 0.0f64); BANDS];
    let mut frames = 0.0;
    for frame in utterances
        .iter()
        .flat_map(|u| u.features.chunks_exact(BANDS))
    {
        for (sum, &value) in sums.iter_mut().zip(frame) {
            sum.0 += f64::from(value);
            sum.1 += f64::from(value).powi(2);
        }
        frames += 1.0;
    }
    let mean = sums.map(|(sum, _)| sum / frames);
    let deviation =
        sums.map(|(sum, squares)| (squares / frames - (sum / frames).powi(2)).max(1e-6).sqrt());
    (
        mean.iter().map(|&x| x as f32).collect(),
        deviation.iter().map(|&x| x as f32).collect(),
    )
}
