//! Inputs as sure and unsure models give them, and the shapes at which the cost of a training step must not depend on
//! them.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    ConfidenceOptions, CtcLossOptions, Reduction, ScoreOptions, ctc_loss, score_transcripts,
    token_confidence_batch,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

/// How sure a model is.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    /// Logits of the right class are higher by so many nats in each frame, over noise from 0 to 1. A label leads in
    /// half of its frames, the blank in the others.
    Lead(f64),
    /// Logits are normal with this standard deviation.
    Noise(f64),
    /// As noise with a standard deviation of 1, but for one class of each frame, which is so many nats lower.
    Apart(f64),
    /// The same, but each entry is so many nats lower with a probability of one half.
    Half(f64),
    /// As noise with a standard deviation of 1, but the blank is higher by so many nats in all frames.
    Blank(f64),
    /// As noise with a standard deviation of 1, but a label for each frame, from the first on, and then the blank are
    /// higher by so many nats.
    Early(f64),
    /// As noise with a standard deviation of 1, but each entry is −inf with this probability. Never the blank's.
    Masked(f64),
}

pub const LEADS: [Model; 10] = [
    Model::Lead(0.0),
    Model::Lead(6.0),
    Model::Lead(12.0),
    Model::Lead(14.0),
    Model::Lead(16.0),
    Model::Lead(20.0),
    Model::Lead(30.0),
    Model::Lead(80.0),
    Model::Lead(100.0),
    Model::Lead(1000.0),
];

pub const NOISE: [Model; 4] = [
    Model::Noise(0.5),
    Model::Noise(1.0),
    Model::Noise(2.0),
    Model::Noise(4.0),
];

impl std::fmt::Display for Model {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Lead(nats) => write!(to, "lead {nats}"),
            Self::Noise(deviation) => write!(to, "noise {deviation}"),
            Self::Apart(nats) => write!(to, "apart {nats}"),
            Self::Half(nats) => write!(to, "half lower by {nats}"),
            Self::Blank(nats) => write!(to, "blank ahead by {nats}"),
            Self::Early(nats) => write!(to, "labels early, ahead by {nats}"),
            Self::Masked(share) => write!(to, "masked {share}"),
        }
    }
}

pub const APART: [Model; 3] = [Model::Noise(1.0), Model::Apart(100.0), Model::Apart(1e4)];

/// Models that are sure of something else than the target, or whose entries are far apart, after plain noise.
pub const OTHERS: [Model; 18] = [
    Model::Noise(1.0),
    Model::Noise(5.0),
    Model::Noise(10.0),
    Model::Noise(20.0),
    Model::Lead(20.0),
    Model::Lead(40.0),
    Model::Lead(100.0),
    Model::Blank(20.0),
    Model::Blank(40.0),
    Model::Blank(60.0),
    Model::Blank(100.0),
    Model::Early(20.0),
    Model::Early(40.0),
    Model::Early(100.0),
    Model::Half(20.0),
    Model::Half(40.0),
    Model::Half(100.0),
    Model::Masked(0.02),
];

/// Where they are measured.
pub const OTHERS_AT: [Shape; 2] = [shape(500, 16, 32, 100), shape(150, 16, 80, 20)];

/// (T, N, C) log-probabilities in f32 with targets of the same length.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub frames: usize,
    pub batch: usize,
    pub classes: usize,
    pub labels: usize,
}

const fn shape(frames: usize, batch: usize, classes: usize, labels: usize) -> Shape {
    Shape {
        frames,
        batch,
        classes,
        labels,
    }
}

/// The shapes, each with the models that must cost the same there.
pub const SHAPES: [(Shape, &[Model]); 10] = [
    (shape(1000, 16, 32, 120), &LEADS),
    (shape(1667, 16, 6, 400), &LEADS),
    (shape(1667, 1, 6, 400), &LEADS),
    (shape(150, 64, 80, 20), &LEADS),
    (shape(500, 16, 5000, 60), &LEADS),
    (shape(4000, 1, 30, 2000), &LEADS),
    (shape(500, 1, 32, 100), &APART),
    (shape(8000, 1, 32, 200), &NOISE),
    (shape(40000, 1, 32, 4000), &NOISE),
    (shape(200000, 1, 32, 10000), &NOISE),
];

/// Targets that take three fifths of their frames, at any length, before training.
pub const LENGTHS: [Shape; 5] = [
    shape(2500, 1, 30, 1500),
    shape(5000, 1, 30, 3000),
    shape(10000, 1, 30, 6000),
    shape(20000, 1, 30, 12000),
    shape(40000, 1, 30, 24000),
];

/// Where the confidence of each token is measured beside a training step.
pub const CONFIDENCES: [Shape; 2] = [shape(1500, 64, 32, 300), shape(40000, 1, 32, 6000)];

impl std::fmt::Display for Shape {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self {
            frames,
            batch,
            classes,
            labels,
        } = self;
        write!(to, "{frames}, {batch}, {classes}, {labels}")
    }
}

impl Shape {
    fn targets(self) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(1);
        let labels = 1..self.classes as u32;
        (0..self.batch * self.labels)
            .map(|_| random.random_range(labels.clone()))
            .collect()
    }

    fn log_probs(self, model: Model, targets: &[u32]) -> Result<Tensor> {
        let Shape {
            frames,
            batch,
            classes,
            labels,
        } = self;
        let mut random = StdRng::seed_from_u64(2);
        let mut data = vec![0f32; frames * batch * classes];
        for (row, entries) in data.chunks_exact_mut(classes).enumerate() {
            let (t, n) = (row / batch, row % batch);
            match model {
                Model::Lead(lead) => {
                    entries.fill_with(|| random.random());
                    // In which label frame t lies, and how far.
                    let place = |t: usize| t as f64 * labels as f64 / frames as f64;
                    // The first frame of a label is always its own.
                    let first = t == 0 || place(t) as usize > place(t - 1) as usize;
                    let leader = if first || place(t).fract() < 0.5 {
                        targets[n * labels + place(t) as usize] as usize
                    } else {
                        0
                    };
                    entries[leader] += lead as f32;
                }
                Model::Noise(deviation) => {
                    entries.fill_with(|| deviation as f32 * random.sample::<f32, _>(StandardNormal))
                }
                Model::Apart(nats) => {
                    entries.fill_with(|| random.sample(StandardNormal));
                    entries[random.random_range(0..classes)] -= nats as f32;
                }
                Model::Half(nats) => entries.fill_with(|| {
                    let lower = if random.random() { nats as f32 } else { 0.0 };
                    random.sample::<f32, _>(StandardNormal) - lower
                }),
                Model::Blank(nats) => {
                    entries.fill_with(|| random.sample(StandardNormal));
                    entries[0] += nats as f32;
                }
                Model::Early(nats) => {
                    entries.fill_with(|| random.sample(StandardNormal));
                    let target = &targets[n * labels..][..labels];
                    entries[target.get(t).copied().unwrap_or(0) as usize] += nats as f32;
                }
                Model::Masked(share) => {
                    entries.fill_with(|| random.sample(StandardNormal));
                    for entry in &mut entries[1..] {
                        if random.random_bool(share) {
                            *entry = f32::NEG_INFINITY;
                        }
                    }
                }
            }
            let top = entries.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = entries.iter().map(|x| (x - top).exp()).sum();
            let log_sum = top + sum.ln();
            entries.iter_mut().for_each(|x| *x -= log_sum);
        }
        Tensor::from_vec(data, (frames, batch, classes), &Device::Cpu)
    }

    /// States of the lattices, as the sum over all frames.
    pub fn states(self) -> usize {
        self.frames * self.batch * (2 * self.labels + 1)
    }

    /// Bytes of the gradient.
    pub fn gradient(self) -> usize {
        DType::F32.size_in_bytes() * self.frames * self.batch * self.classes
    }
}

/// A training step, and the inputs that it shares with [`Step::confidence`].
pub struct Step {
    shape: Shape,
    log_probs: Var,
    labels: Vec<u32>,
    /// `(N, S)`
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
}

impl Step {
    pub fn new(shape: Shape, model: Model) -> Result<Self> {
        let labels = shape.targets();
        let size = (shape.batch, shape.labels);
        Ok(Self {
            shape,
            log_probs: Var::from_tensor(&shape.log_probs(model, &labels)?)?,
            targets: Tensor::from_slice(&labels, size, &Device::Cpu)?,
            labels,
            input_lengths: vec![shape.frames; shape.batch],
            target_lengths: vec![shape.labels; shape.batch],
        })
    }

    /// The loss and its gradient.
    pub fn run(&self) -> Result<()> {
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let (input, targets) = (&self.log_probs, &self.targets);
        let loss = ctc_loss(
            input,
            targets,
            &self.input_lengths,
            &self.target_lengths,
            opts,
        )?;
        assert!(loss.to_scalar::<f32>()?.is_finite());
        loss.backward()?;
        Ok(())
    }

    /// The losses alone.
    pub fn loss(&self) -> Result<()> {
        let input = self.log_probs.as_detached_tensor();
        let (frames, labels) = (&self.input_lengths, &self.target_lengths);
        let loss = ctc_loss(&input, &self.targets, frames, labels, Default::default())?;
        assert!((0.0..f32::INFINITY).contains(&loss.to_scalar::<f32>()?));
        Ok(())
    }

    /// The scores of 50 candidates for the first item: its target with three labels changed.
    pub fn candidates(&self) -> Result<()> {
        let mut random = StdRng::seed_from_u64(3);
        let Shape {
            classes, labels, ..
        } = self.shape;
        let candidate = |_| {
            let mut candidate = self.labels[..labels].to_vec();
            for _ in 0..3 {
                candidate[random.random_range(0..labels)] = random.random_range(1..classes as u32);
            }
            candidate
        };
        let candidates: Vec<Vec<u32>> = (0..50).map(candidate).collect();
        let item = self.log_probs.as_detached_tensor().narrow(1, 0, 1)?;
        let scores = score_transcripts(&item, &candidates, ScoreOptions::default())?;
        assert!(scores.iter().all(|score| *score <= 0.0));
        Ok(())
    }

    /// The confidence of each token.
    pub fn confidence(&self) -> Result<()> {
        let (input, targets) = (&self.log_probs.as_detached_tensor(), &self.targets);
        let opts = ConfidenceOptions::default();
        let lengths = (&self.input_lengths, &self.target_lengths);
        let tokens = token_confidence_batch(input, targets, lengths.0, lengths.1, opts)?;
        assert!(tokens.iter().flatten().all(|token| token.posterior > 0.0));
        Ok(())
    }

    /// Bytes of the posteriors that the forward pass keeps: one f32 for each frame and class in use, in whole blocks
    /// of 8 frames.
    pub fn posteriors(&self) -> usize {
        let of_item = |target: &[u32]| {
            let mut used = target.to_vec();
            used.sort_unstable();
            used.dedup();
            4 * self.shape.frames.next_multiple_of(8) * (used.len() + 1)
        };
        self.labels.chunks(self.shape.labels).map(of_item).sum()
    }
}
