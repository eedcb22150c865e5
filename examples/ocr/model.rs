//! The model: convolutions read the image, a recurrent layer in each direction reads along the
//! line, and a linear layer names the character at every frame.

use candle_core::{Result, Tensor};
use candle_nn::rnn::{LSTM, LSTMConfig, LSTMState, RNN};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module, VarBuilder, conv2d, linear, lstm};

/// The sizes of the model.
#[derive(Clone, Debug)]
pub struct CrnnConfig {
    /// Height of the images in pixels, a multiple of 4.
    pub height: usize,
    /// Output channels of the three convolutions.
    pub channels: [usize; 3],
    /// Width of a frame as the recurrent layers see it.
    pub frame: usize,
    /// Hidden size of the recurrent layer, in each direction.
    pub hidden: usize,
    /// Number of classes that come out, the blank among them.
    pub classes: usize,
}

/// A convolutional-recurrent network that reads lines of text.
pub struct Crnn {
    convs: [Conv2d; 3],
    project: Linear,
    forwards: LSTM,
    backwards: LSTM,
    head: Linear,
}

/// How many columns of the image make one frame: two convolutions halve the image.
pub const COLUMNS_PER_FRAME: usize = 4;

impl Crnn {
    pub fn new(vb: VarBuilder, config: &CrnnConfig) -> Result<Self> {
        let [c1, c2, c3] = config.channels;
        let halve = |padding| Conv2dConfig {
            padding,
            stride: 2,
            ..Default::default()
        };
        let keep = Conv2dConfig {
            padding: 1,
            ..Default::default()
        };
        let convs = [
            conv2d(1, c1, 5, halve(2), vb.pp("conv1"))?,
            conv2d(c1, c2, 3, halve(1), vb.pp("conv2"))?,
            conv2d(c2, c3, 3, keep, vb.pp("conv3"))?,
        ];
        let project = linear(c3 * config.height / 4, config.frame, vb.pp("project"))?;
        // One bias per gate is enough.
        let cell = LSTMConfig {
            b_hh_init: None,
            ..Default::default()
        };
        let forwards = lstm(config.frame, config.hidden, cell, vb.pp("forwards"))?;
        let backwards = lstm(config.frame, config.hidden, cell, vb.pp("backwards"))?;
        let head = linear(
            config.frame + 2 * config.hidden,
            config.classes,
            vb.pp("head"),
        )?;
        Ok(Self {
            convs,
            project,
            forwards,
            backwards,
            head,
        })
    }

    /// The number of frames that [`Crnn::forward`] makes of an image this wide.
    pub fn frames(width: usize) -> usize {
        width.div_ceil(COLUMNS_PER_FRAME)
    }

    /// Takes images `(batch, 1, height, width)` to class scores `(frames, batch, classes)`. The
    /// scores are not normalised; softmax over the classes makes them probabilities.
    ///
    /// Height and width must be multiples of [`COLUMNS_PER_FRAME`]: candle 0.11 cannot
    /// differentiate a strided convolution that leaves over a column but no row.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.clone();
        for conv in &self.convs {
            x = conv.forward(&x)?.relu()?;
        }
        // (batch, channels, rows, frames) -> (frames, batch, channels * rows)
        let x = x.permute((3, 0, 1, 2))?.flatten_from(2)?;
        let x = self.project.forward(&x)?.relu()?;

        let frames = split_frames(&x)?;
        let ahead = run(&self.forwards, frames.iter())?;
        let mut behind = run(&self.backwards, frames.iter().rev())?;
        behind.reverse();
        // The last layer also sees the frame itself. While the recurrent layers are still
        // learning what to remember, the convolutions can learn the letters without them.
        let x = Tensor::cat(
            &[x, Tensor::stack(&ahead, 0)?, Tensor::stack(&behind, 0)?],
            2,
        )?;
        self.head.forward(&x)
    }
}

/// Runs a recurrent layer over frames `(batch, features)` and returns its output at each.
fn run<'a>(cell: &LSTM, frames: impl Iterator<Item = &'a Tensor>) -> Result<Vec<Tensor>> {
    let mut outputs = Vec::new();
    let mut state: Option<LSTMState> = None;
    for frame in frames {
        let before = match state {
            Some(state) => state,
            None => cell.zero_state(frame.dim(0)?)?,
        };
        let after = cell.step(frame, &before)?;
        outputs.push(after.h.clone());
        state = Some(after);
    }
    Ok(outputs)
}

/// Splits `(frames, batch, features)` along its first dimension.
///
/// In the backward pass each slice is padded to the size of what it was cut from, so cutting
/// single frames from the whole costs time quadratic in their number. Cutting pieces first, and
/// frames from the pieces, is several times cheaper.
fn split_frames(x: &Tensor) -> Result<Vec<Tensor>> {
    const PIECE: usize = 8;
    let total = x.dim(0)?;
    let mut frames = Vec::with_capacity(total);
    for start in (0..total).step_by(PIECE) {
        let length = PIECE.min(total - start);
        let piece = x.narrow(0, start, length)?;
        for i in 0..length {
            frames.push(piece.get(i)?);
        }
    }
    Ok(frames)
}
