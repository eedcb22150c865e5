//! The corpus: sound files with their texts, as features and labels, and batches of them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use candle_ctc::pad_targets;
use candle_ctc::text::Vocabulary;
use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::Deserialize;

use crate::features::{BANDS, LogMel};

/// The characters that the model can write, in the order of their classes. Class 0 is the blank.
const CHARACTERS: &str = " abcdefghijklmnopqrstuvwxyz";

/// The vocabulary of the model: the blank and single characters.
pub fn vocabulary() -> Result<Vocabulary> {
    let characters = CHARACTERS.chars().map(String::from);
    Ok(Vocabulary::from_tokens(
        std::iter::once("<blank>".to_owned()).chain(characters),
    )?)
}

/// A line of the manifest.
#[derive(Deserialize)]
struct Entry {
    file: String,
    split: String,
    text: String,
    words: Vec<(f64, f64)>,
}

/// One sentence.
pub struct Utterance {
    pub text: String,
    pub labels: Vec<u32>,
    /// Frame after frame, [`BANDS`] numbers each.
    pub features: Vec<f32>,
    /// Start and end of each word in seconds, from the synthesiser.
    pub words: Vec<(f64, f64)>,
}

impl Utterance {
    /// The number of frames of the features.
    pub fn frames(&self) -> usize {
        self.features.len() / BANDS
    }
}

pub struct Corpus {
    pub train: Vec<Utterance>,
    /// Texts that are not in `train`, by its voices.
    pub seen: Vec<Utterance>,
    /// Texts that are not in `train`, by a voice that is not.
    pub unseen: Vec<Utterance>,
    /// Texts with names that are nowhere in `train`, by its voices.
    pub names: Vec<Utterance>,
    /// Seconds from one frame of the features to the next.
    pub hop: f64,
}

impl Corpus {
    /// The sentences that are not for training, and what they are.
    pub fn held_out(&self) -> [(&'static str, &[Utterance]); 3] {
        [
            ("voices of the training", &self.seen),
            ("a voice not heard before", &self.unseen),
            ("names not heard before", &self.names),
        ]
    }

    /// Reads what `get.sh` has made, at most `limit` sentences of each split.
    pub fn load(folder: &Path, vocabulary: &Vocabulary, limit: usize) -> Result<Self> {
        let manifest = folder.join("manifest.jsonl");
        let lines = std::fs::read_to_string(&manifest).with_context(|| {
            format!(
                "no corpus in {}; examples/speech/get.sh makes it",
                manifest.display()
            )
        })?;
        let mut entries = lines
            .lines()
            .enumerate()
            .map(|(index, line)| {
                serde_json::from_str::<Entry>(line)
                    .with_context(|| format!("{}, line {}", manifest.display(), index + 1))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut taken = HashMap::new();
        entries.retain(|entry| {
            let count = taken.entry(entry.split.clone()).or_insert(0);
            *count += 1;
            *count <= limit
        });
        let first = entries
            .first()
            .with_context(|| format!("{} is empty", manifest.display()))?;
        let sample_rate = hound::WavReader::open(folder.join(&first.file))
            .with_context(|| first.file.clone())?
            .spec()
            .sample_rate as usize;
        let log_mel = LogMel::new(sample_rate)?;
        let utterances = entries
            .par_iter()
            .map(|entry| {
                let read = || -> Result<Utterance> {
                    let samples = read_wav(&folder.join(&entry.file), sample_rate)?;
                    Ok(Utterance {
                        text: entry.text.clone(),
                        labels: vocabulary.encode(&entry.text)?,
                        features: log_mel.features(&samples)?,
                        words: entry.words.clone(),
                    })
                };
                read().with_context(|| entry.file.clone())
            })
            .collect::<Result<Vec<_>>>()?;

        let mut corpus = Self {
            train: Vec::new(),
            seen: Vec::new(),
            unseen: Vec::new(),
            names: Vec::new(),
            hop: log_mel.seconds(),
        };
        for (entry, utterance) in entries.iter().zip(utterances) {
            match entry.split.as_str() {
                "train" => corpus.train.push(utterance),
                "seen" => corpus.seen.push(utterance),
                "unseen" => corpus.unseen.push(utterance),
                "names" => corpus.names.push(utterance),
                other => bail!("{}: there is no split {other:?}", entry.file),
            }
        }
        Ok(corpus)
    }
}

/// The samples of a file of one channel and 16 bits, from -1 to 1.
fn read_wav(path: &Path, sample_rate: usize) -> Result<Vec<f32>> {
    let mut reader = hound::WavReader::open(path)?;
    let spec = reader.spec();
    ensure!(
        spec.channels == 1 && spec.bits_per_sample == 16,
        "{} channels of {} bits; this reads one channel of 16 bits",
        spec.channels,
        spec.bits_per_sample
    );
    ensure!(
        spec.sample_rate as usize == sample_rate,
        "{} samples a second, {sample_rate} in the first file",
        spec.sample_rate
    );
    reader
        .samples::<i16>()
        .map(|sample| Ok(f32::from(sample?) / 32768.0))
        .collect()
}

/// Features of several utterances, the shorter ones continued with zeros.
pub struct Features {
    /// `(N, T, BANDS)`.
    pub values: Tensor,
    /// The frames of each utterance.
    pub frames: Vec<usize>,
}

impl Features {
    pub fn new(items: &[&[f32]]) -> Result<Self> {
        let frames: Vec<usize> = items.iter().map(|item| item.len() / BANDS).collect();
        let longest = frames.iter().copied().max().unwrap_or(0);
        let mut values = vec![0.0; items.len() * longest * BANDS];
        for (row, item) in values.chunks_mut(longest * BANDS).zip(items) {
            row[..item.len()].copy_from_slice(item);
        }
        let values = Tensor::from_vec(values, (items.len(), longest, BANDS), &Device::Cpu)?;
        Ok(Self { values, frames })
    }
}

/// What a training step takes.
pub struct Batch {
    pub features: Features,
    /// `(N, S)`, padded.
    pub targets: Tensor,
    pub target_lengths: Vec<usize>,
}

impl Batch {
    /// The utterances, with changes that a model should not mind if `disturbed`: see [`disturb`].
    pub fn new(utterances: &[&Utterance], disturbed: bool, rng: &mut impl Rng) -> Result<Self> {
        let disturbed: Vec<Vec<f32>> = utterances
            .iter()
            .map(|utterance| match disturbed {
                true => disturb(&utterance.features, rng),
                false => utterance.features.clone(),
            })
            .collect();
        let items: Vec<&[f32]> = disturbed.iter().map(Vec::as_slice).collect();
        let labels: Vec<&[u32]> = utterances.iter().map(|u| u.labels.as_slice()).collect();
        let (targets, target_lengths) = pad_targets(&labels, &Device::Cpu)?;
        Ok(Self {
            features: Features::new(&items)?,
            targets,
            target_lengths,
        })
    }
}

/// Shifts the spectrum by up to two bands, which resembles another size of the head, and silences some bands and
/// a short time (SpecAugment, <https://arxiv.org/abs/1904.08779>), so that the model relies on no single place.
fn disturb(features: &[f32], rng: &mut impl Rng) -> Vec<f32> {
    let frames = features.len() / BANDS;
    let shift = rng.random_range(-2..=2i32) as isize;
    let (bands, first_band) = (rng.random_range(0..=6), rng.random_range(0..BANDS - 6));
    let pause = rng.random_range(0..=8usize.min(frames));
    let from = rng.random_range(0..=frames - pause);
    let mean = features.iter().sum::<f32>() / features.len().max(1) as f32;
    let mut disturbed = Vec::with_capacity(features.len());
    for (t, frame) in features.chunks_exact(BANDS).enumerate() {
        for band in 0..BANDS {
            let source = band.saturating_add_signed(shift).min(BANDS - 1);
            let silenced = (first_band..first_band + bands).contains(&band)
                || (from..from + pause).contains(&t);
            disturbed.push(if silenced { mean } else { frame[source] });
        }
    }
    disturbed
}

/// The utterances of one pass through the data, in batches of similar length: indices, in random order.
pub fn shuffled_batches(
    utterances: &[Utterance],
    batch_size: usize,
    rng: &mut impl Rng,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..utterances.len()).collect();
    order.shuffle(rng);
    for pool in order.chunks_mut(8 * batch_size) {
        pool.sort_by_key(|&index| utterances[index].features.len());
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(batch_size).map(<[usize]>::to_vec).collect();
    batches.shuffle(rng);
    batches
}
