//! From class scores to text: reading a line, counting mistakes, and weighing transcripts.

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss_with_logits};
use image::{GrayImage, Luma};

use crate::data::{BLANK, Batch, Lines, decode, encode, pad_targets};
use crate::model::Crnn;

/// Reads each line of a batch along the best path: the best class at every frame, with repeats
/// merged and blanks dropped.
pub fn read(scores: &Tensor, frames: &[usize]) -> Result<Vec<String>> {
    let best = scores
        .argmax(D::Minus1)?
        .t()?
        .to_dtype(DType::U32)?
        .to_vec2::<u32>()?;
    let lines = best.into_iter().zip(frames).map(|(mut path, &frames)| {
        path.truncate(frames);
        path.dedup();
        path.retain(|&class| class != BLANK as u32);
        decode(&path)
    });
    Ok(lines.collect())
}

/// How well a model reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    /// Characters that had to be read, spaces included.
    pub characters: usize,
    /// Characters to insert, delete or replace to turn what was read into the true text.
    pub edits: usize,
    /// Lines that had to be read.
    pub lines: usize,
    /// Lines with at least one mistake.
    pub wrong_lines: usize,
}

impl Errors {
    /// Adds one line to the count.
    pub fn count(&mut self, truth: &str, read: &str) {
        let edits = strsim::levenshtein(truth, read);
        self.characters += truth.chars().count();
        self.edits += edits;
        self.lines += 1;
        self.wrong_lines += usize::from(edits > 0);
    }

    /// The character error rate: edits of all lines over characters of all lines.
    pub fn rate(&self) -> f64 {
        self.edits as f64 / self.characters.max(1) as f64
    }
}

/// Reads the first `count` lines and counts the mistakes.
pub fn evaluate(model: &Crnn, lines: &Lines, count: usize, device: &Device) -> Result<Errors> {
    const BATCH: usize = 32;
    let mut errors = Errors::default();
    for first in (0..count).step_by(BATCH) {
        let lines = lines.lines(first as u64, BATCH.min(count - first))?;
        let batch = Batch::new(&lines, device)?;
        let scores = model.forward(&batch.images)?;
        let frames: Vec<usize> = batch.widths.iter().map(|&w| Crnn::frames(w)).collect();
        for (line, text) in lines.iter().zip(read(&scores, &frames)?) {
            errors.count(&line.text, &text);
        }
    }
    Ok(errors)
}

/// The probability that the model gives to each transcript of one line, the likeliest first.
/// `scores` are those of that line alone, `(frames, 1, classes)`.
///
/// This is what the CTC loss is: minus the logarithm of the probability of a transcript. So the
/// line is repeated once per transcript, and one call answers for all of them.
pub fn rank(scores: &Tensor, transcripts: &[String]) -> Result<Vec<(String, f64)>> {
    let (frames, _, classes) = scores.dims3()?;
    let count = transcripts.len();
    let scores = scores.broadcast_as((frames, count, classes))?;
    let encoded = transcripts
        .iter()
        .map(|t| encode(t))
        .collect::<Result<Vec<_>>>()?;
    let (targets, target_lengths) = pad_targets(encoded, scores.device())?;
    let frames = vec![frames; count];
    let options = CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    };
    let losses = ctc_loss_with_logits(&scores, &targets, &frames, &target_lengths, options)?;
    let losses = losses.to_dtype(DType::F64)?.to_vec1::<f64>()?;

    let mut ranked: Vec<_> = transcripts
        .iter()
        .cloned()
        .zip(losses.into_iter().map(|loss| (-loss).exp()))
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(ranked)
}

/// Texts that are easily mistaken for this one.
pub fn near_misses(text: &str) -> Vec<String> {
    /// Letters, and what they look like in a poor print.
    const LOOK_ALIKES: [(&str, &str); 14] = [
        ("m", "rn"),
        ("rn", "m"),
        ("l", "i"),
        ("i", "l"),
        ("e", "c"),
        ("c", "e"),
        ("o", "a"),
        ("a", "o"),
        ("u", "v"),
        ("v", "y"),
        ("h", "b"),
        ("n", "r"),
        ("t", "f"),
        ("w", "vv"),
    ];
    let mut found = Vec::new();
    for (letters, others) in LOOK_ALIKES {
        if found.len() < 4 && text.contains(letters) {
            found.push(text.replacen(letters, others, 1));
        }
    }

    // One letter dropped, one written twice, two exchanged.
    let chars: Vec<char> = text.chars().collect();
    let middle = chars.len() / 2;
    if middle > 0 {
        let (head, tail) = (&chars[..middle], &chars[middle..]);
        found.push([head, &tail[1..]].concat().iter().collect());
        found.push([head, &tail[..1], tail].concat().iter().collect());
        let mut swapped = chars.clone();
        swapped.swap(middle - 1, middle);
        found.push(swapped.iter().collect());
    }

    // Two words exchanged, a space lost, the last word lost.
    if let Some((first, rest)) = text.split_once(' ') {
        found.push(format!("{rest} {first}"));
        found.push(format!("{first}{rest}"));
    }
    if let Some((start, _)) = text.rsplit_once(' ') {
        found.push(start.to_string());
    }

    found.retain(|other| other != text);
    found.sort();
    found.dedup();
    found
}

/// Draws an image with block characters, four pixels to a character.
pub fn to_blocks(image: &GrayImage) -> Result<String> {
    let darkest = image.iter().min().context("the image is empty")?;
    let lightest = image.iter().max().context("the image is empty")?;
    let threshold = darkest / 2 + lightest / 2;
    let ink = |x: u32, y: u32| match image.get_pixel_checked(x, y) {
        Some(&Luma([grey])) => usize::from(grey < threshold),
        None => 0,
    };
    let blocks: Vec<char> = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█".chars().collect();
    let mut text = String::new();
    for y in (0..image.height()).step_by(2) {
        let row: String = (0..image.width())
            .step_by(2)
            .map(|x| ink(x, y) + 2 * ink(x + 1, y) + 4 * ink(x, y + 1) + 8 * ink(x + 1, y + 1))
            .map(|index| blocks[index])
            .collect();
        if !row.trim().is_empty() {
            text.push_str(row.trim_end());
            text.push('\n');
        }
    }
    Ok(text)
}
