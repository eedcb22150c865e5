//! Emissions that look like those of a trained model, for trying the program.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use std::path::Path;

/// Writes `emissions.npy`, `vocab.json` and `transcript.txt`.
pub fn write(folder: &Path, text: &str) -> Result<()> {
    let text = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase();
    ensure!(
        !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == ' '),
        "the demo speaks the letters a to z and spaces only, not {text:?}"
    );
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut tokens = vec!["<pad>".to_owned(), "|".to_owned()];
    tokens.extend(('a'..='z').map(String::from));
    let classes = tokens.len();
    let labels = text.bytes().map(|b| match b {
        b' ' => 1,
        letter => usize::from(letter - b'a') + 2,
    });
    let mut noise = Noise(7);
    let mut frames: Vec<Vec<f32>> = Vec::new();
    let silence = |frames: &mut Vec<Vec<f32>>, count: usize, noise: &mut Noise| {
        for _ in 0..count {
            frames.push(frame(classes, 0, None, noise));
        }
    };
    silence(&mut frames, 6, &mut noise);
    for label in labels {
        // A label is confused with a neighbour now and then.
        let other = 2 + (label + 3) % (classes - 2);
        for _ in 0..1 + noise.below(3) {
            frames.push(frame(classes, label, Some(other), &mut noise));
        }
        let pause = 2 + noise.below(3);
        silence(&mut frames, pause, &mut noise);
    }
    silence(&mut frames, 4, &mut noise);
    let count = frames.len();
    let logits = Tensor::from_vec(frames.concat(), (count, classes), &Device::Cpu)?;
    let log_probs = super::input::log_softmax(&logits)?;
    let emissions = folder.join("emissions.npy");
    log_probs
        .write_npy(&emissions)
        .with_context(|| format!("cannot write {}", emissions.display()))?;
    let classes: serde_json::Map<String, serde_json::Value> = tokens
        .into_iter()
        .enumerate()
        .map(|(class, token)| (token, class.into()))
        .collect();
    super::write(
        &folder.join("vocab.json"),
        &serde_json::to_string_pretty(&classes)?,
    )?;
    super::write(&folder.join("transcript.txt"), format!("{text}\n"))
}

fn frame(classes: usize, best: usize, second: Option<usize>, noise: &mut Noise) -> Vec<f32> {
    let mut row: Vec<f32> = (0..classes).map(|_| 2.0 * noise.unit()).collect();
    row[best] += 6.0 + 3.0 * noise.unit();
    row[0] += 3.0;
    if let Some(second) = second {
        row[second] += 4.0 * noise.unit();
    }
    row
}

/// A linear congruential generator: the demo is the same on every machine.
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f32) as usize
    }
}
