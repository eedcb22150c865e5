//! The data set: random lines of text, their images, and the tensors made of them.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::COLUMNS_PER_FRAME;
use crate::render::{Fonts, HEIGHT, Style, render};

/// The characters that the model can write. Class 0 is the CTC blank, so the character at index
/// `i` of this list is class `i + 1`.
pub const ALPHABET: &str = " abcdefghijklmnopqrstuvwxyz";

/// The class that stands for "no character here".
pub const BLANK: usize = 0;

/// Some common English words.
const WORDS: &str = include_str!("words.txt");

/// Number of classes: the characters and the blank.
pub fn num_classes() -> usize {
    ALPHABET.chars().count() + 1
}

/// The classes that spell `text`.
pub fn encode(text: &str) -> Result<Vec<u32>> {
    text.chars()
        .map(|c| {
            let index = ALPHABET.chars().position(|a| a == c);
            index
                .map(|i| i as u32 + 1)
                .with_context(|| format!("{c:?} is not in the alphabet"))
        })
        .collect()
}

/// The text that a list of classes spells; blanks and unknown classes are left out.
pub fn decode(classes: &[u32]) -> String {
    classes
        .iter()
        .filter_map(|&class| ALPHABET.chars().nth((class as usize).checked_sub(1)?))
        .collect()
}

/// Which part of the data a line belongs to. The parts draw from separate random streams.
#[derive(Clone, Copy, Debug)]
pub enum Split {
    Train,
    HeldOut,
}

/// One line of text and its image.
pub struct Line {
    pub text: String,
    pub image: GrayImage,
}

/// An endless supply of lines. The line at a given index is always the same one, for one seed.
pub struct Lines {
    fonts: Fonts,
    words: Vec<&'static str>,
    seed: u64,
    split: Split,
}

impl Lines {
    pub fn new(seed: u64, split: Split) -> Result<Self> {
        Ok(Self {
            fonts: Fonts::embedded()?,
            words: WORDS.split_whitespace().collect(),
            seed,
            split,
        })
    }

    /// The English words.
    pub fn words(&self) -> &[&'static str] {
        &self.words
    }

    /// The text of the line with this index, without its image.
    pub fn text(&self, index: u64) -> String {
        random_text(&self.words, &mut self.stream(index))
    }

    fn stream(&self, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Even streams are for training and odd ones are held out; no two lines share a stream.
        rng.set_stream(2 * index + u64::from(matches!(self.split, Split::HeldOut)));
        rng
    }

    /// Makes the line with this index.
    pub fn line(&self, index: u64) -> Result<Line> {
        let mut rng = self.stream(index);
        let text = random_text(&self.words, &mut rng);
        let style = Style::random(&self.fonts, &mut rng);
        let image = render(&text, &style, &mut rng)?;
        Ok(Line { text, image })
    }

    /// Makes the `count` lines that start at index `first`.
    pub fn lines(&self, first: u64, count: usize) -> Result<Vec<Line>> {
        (first..first + count as u64)
            .map(|index| self.line(index))
            .collect()
    }
}

/// Lines of text as the tensors that the model and the loss take.
pub struct Batch {
    /// Images, `(lines, 1, HEIGHT, widest)`, dark ink positive. Each is brought to mean 0 and
    /// standard deviation 1, so that brightness and contrast do not matter. Narrower lines are
    /// continued with their last column.
    pub images: Tensor,
    /// The width of each image before it was continued.
    pub widths: Vec<usize>,
    /// Classes, `(lines, longest)`. Shorter lines are filled up; the loss skips the filling.
    pub targets: Tensor,
    /// The number of characters of each line.
    pub target_lengths: Vec<usize>,
}

impl Batch {
    pub fn new(lines: &[Line], device: &Device) -> Result<Self> {
        let widths: Vec<usize> = lines.iter().map(|l| l.image.width() as usize).collect();
        let widest = widths
            .iter()
            .copied()
            .max()
            .context("a batch needs at least one line")?;
        let widest = widest.next_multiple_of(COLUMNS_PER_FRAME);
        let mut pixels = Vec::with_capacity(lines.len() * HEIGHT as usize * widest);
        for Line { image, .. } in lines {
            let (mean, deviation) = mean_and_deviation(image);
            for y in 0..HEIGHT {
                for x in 0..widest as u32 {
                    let &Luma([grey]) = image.get_pixel(x.min(image.width() - 1), y);
                    pixels.push((mean - f32::from(grey)) / deviation);
                }
            }
        }
        let images = Tensor::from_vec(pixels, (lines.len(), 1, HEIGHT as usize, widest), device)?;

        let encoded = lines
            .iter()
            .map(|l| encode(&l.text))
            .collect::<Result<Vec<_>>>()?;
        let (targets, target_lengths) = pad_targets(encoded, device)?;
        Ok(Self {
            images,
            widths,
            targets,
            target_lengths,
        })
    }
}

/// The mean and the standard deviation of the grey levels; the latter is at least 1.
fn mean_and_deviation(image: &GrayImage) -> (f32, f32) {
    let count = image.len() as f32;
    let mean = image.iter().map(|&grey| f32::from(grey)).sum::<f32>() / count;
    let variance = image
        .iter()
        .map(|&grey| (f32::from(grey) - mean).powi(2))
        .sum::<f32>()
        / count;
    (mean, variance.sqrt().max(1.0))
}

/// Turns label sequences of different lengths into one `(count, longest)` tensor, and lengths.
pub fn pad_targets(mut encoded: Vec<Vec<u32>>, device: &Device) -> Result<(Tensor, Vec<usize>)> {
    let lengths: Vec<usize> = encoded.iter().map(Vec::len).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    for labels in &mut encoded {
        labels.resize(longest, BLANK as u32);
    }
    let count = encoded.len();
    let targets = Tensor::from_vec(encoded.concat(), (count, longest), device)?;
    Ok((targets, lengths))
}

/// The most characters that a line has.
const LONGEST: usize = 16;

/// Two words or more, as many as fit on the line: half of them English, half of them made up.
fn random_text(words: &[&str], rng: &mut impl Rng) -> String {
    loop {
        let mut text = random_word(words, rng);
        loop {
            let word = random_word(words, rng);
            if text.len() + 1 + word.len() > LONGEST {
                break;
            }
            text.push(' ');
            text.push_str(&word);
        }
        if text.contains(' ') {
            return text;
        }
    }
}

fn random_word(words: &[&str], rng: &mut impl Rng) -> String {
    match words.choose(rng) {
        Some(word) if rng.random_bool(0.5) => (*word).to_string(),
        _ => made_up_word(rng),
    }
}

/// A word that nobody has seen before but that can be pronounced.
fn made_up_word(rng: &mut impl Rng) -> String {
    const STARTS: &[&str] = &[
        "b", "bl", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m",
        "n", "p", "ph", "pl", "qu", "r", "s", "sh", "sk", "sp", "st", "t", "th", "tr", "v", "w",
        "x", "y", "z",
    ];
    const VOWELS: &[&str] = &[
        "a", "e", "i", "o", "u", "y", "ai", "ea", "ee", "ie", "oo", "ou",
    ];
    const ENDS: &[&str] = &[
        "", "", "", "b", "ck", "d", "ff", "g", "j", "k", "l", "ll", "m", "n", "nd", "p", "r", "rk",
        "s", "ss", "t", "v", "w", "x", "z", "zz",
    ];
    let mut word = String::new();
    for _ in 0..rng.random_range(1..=2) {
        for part in [STARTS, VOWELS, ENDS] {
            word.push_str(part.choose(rng).copied().unwrap_or_default());
        }
    }
    word
}
