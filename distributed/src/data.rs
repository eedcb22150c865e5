//! Utterances drawn from a seed: the same in every process.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_ctc::pad_targets;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Size of the feature vector of a frame.
pub const FEATURES: usize = 16;
/// Number of classes: the blank, 0, and eleven labels.
pub const CLASSES: usize = 12;

/// What was said, and how it sounds.
pub struct Utterance {
    /// (T, FEATURES), row-major.
    features: Vec<f32>,
    frames: usize,
    labels: Vec<u32>,
}

/// Draws utterances of 3 to 8 labels. Each label lasts for 3 to 6 frames, with 1 to 3 frames of silence behind it. A
/// frame is the label's sound, a fixed vector, with noise.
pub fn utterances(count: usize, seed: u64) -> Vec<Utterance> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sounds = vec![vec![0f32; FEATURES]]; // silence
    sounds.extend((1..CLASSES).map(|_| normal(&mut rng, FEATURES)));
    (0..count).map(|_| utterance(&sounds, &mut rng)).collect()
}

fn utterance(sounds: &[Vec<f32>], rng: &mut ChaCha8Rng) -> Utterance {
    let labels: Vec<u32> = (0..rng.random_range(3..=8))
        .map(|_| rng.random_range(1..CLASSES as u32))
        .collect();
    let mut features = Vec::new();
    for &label in &labels {
        for (class, frames) in [
            (label as usize, rng.random_range(3..=6)),
            (0, rng.random_range(1..=3)),
        ] {
            for _ in 0..frames {
                let noise = normal(rng, FEATURES);
                features.extend(sounds[class].iter().zip(noise).map(|(s, n)| s + 0.5 * n));
            }
        }
    }
    Utterance {
        frames: features.len() / FEATURES,
        features,
        labels,
    }
}

fn normal(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.sample(StandardNormal)).collect()
}

/// The utterances of a step. The last batch of an epoch may be smaller than `size`.
pub fn batch(utterances: &[Utterance], size: usize, step: usize) -> &[Utterance] {
    let first = step % utterances.len().div_ceil(size) * size;
    &utterances[first..utterances.len().min(first + size)]
}

/// A process's part of a batch, as tensors.
pub struct Share {
    /// (N, T, FEATURES); frames behind an utterance are 0.
    pub features: Tensor,
    pub frames: Vec<usize>,
    /// (N, S), padded.
    pub targets: Tensor,
    pub target_lengths: Vec<usize>,
}

impl Share {
    /// Every `processes`-th utterance, from the one with the number `rank` on; `None` where there is none.
    pub fn new(
        batch: &[Utterance],
        rank: usize,
        processes: usize,
        device: &Device,
    ) -> Result<Option<Self>> {
        ensure!(rank < processes, "process {rank} of {processes}");
        let items: Vec<&Utterance> = batch.iter().skip(rank).step_by(processes).collect();
        let Some(longest) = items.iter().map(|item| item.frames).max() else {
            return Ok(None);
        };
        let mut features = vec![0f32; items.len() * longest * FEATURES];
        for (row, item) in features.chunks_mut(longest * FEATURES).zip(&items) {
            row[..item.features.len()].copy_from_slice(&item.features);
        }
        let labels: Vec<&[u32]> = items.iter().map(|item| item.labels.as_slice()).collect();
        let (targets, target_lengths) = pad_targets(&labels, device)?;
        Ok(Some(Self {
            features: Tensor::from_vec(features, (items.len(), longest, FEATURES), device)?,
            frames: items.iter().map(|item| item.frames).collect(),
            targets,
            target_lengths,
        }))
    }
}
