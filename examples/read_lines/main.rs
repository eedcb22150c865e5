//! A pretrained model, from its weights to words with places and confidence, and trained further with the CTC loss.
//!
//! `examples/read_lines/get.sh` fetches the weights, 1.5 MB; see `examples/read_lines/README.md`.

mod model;
#[path = "../ocr/render.rs"]
#[allow(dead_code)]
mod render;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use candle_ctc::text::{ErrorRate, Vocabulary, character_error_rate, word_error_rate};
use candle_ctc::{
    AlignOptions, BeamOptions, ConfidenceOptions, CtcLoss, CtcLossOptions, GreedyOptions,
    InputKind, ScoreOptions, beam_search_batch, forced_align, greedy_decode_batch, pad_targets,
    rank_transcripts, token_confidence, word_confidence,
};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder};
use clap::Parser;
use image::{GrayImage, Luma};
use model::{COLUMNS_PER_FRAME, HEIGHT, LineReader};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use render::{Fonts, Style, render};
use std::path::PathBuf;
use std::time::Instant;

/// The characters that the model can write, in the order of its classes; class 0 is the blank.
const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789áàâãçéêíóôõúüÁÀÂÃÇÉÊÍÓÔÕÚÜ .,;:!?'\"()[]{}%$#@&*+-=/\\_<>|°ºª";

/// What the lines say.
const TEXTS: [&str; 16] = [
    "The ship left port at 6:45 on Monday.",
    "Why is the sky blue? Nobody asked.",
    "Invoice 2031: 14 boxes, $96.50 each",
    "Rain in the north; sun in the south.",
    "She said \"never\" and meant it!",
    "Flight LX318 to Zurich, gate B27",
    "A coração não se manda, diz o povo.",
    "Please reply by 30/09 (at noon).",
    "3 + 4 = 7, and 9 - 5 = 4",
    "Keep calm & carry on, as they say",
    "The quick brown fox jumps over it.",
    "Mix 250 g of flour with 2 eggs.",
    "Room 12 is free from May to July",
    "Não há água na fonte do jardim.",
    "An old man and his dog went home.",
    "Serial number: XQ-7741-KZ",
];

/// Reads lines of print with a pretrained model, then trains it on the lines that it reads badly.
#[derive(Parser, Debug)]
struct Args {
    /// The weights, as `get.sh` fetches them
    #[arg(long, default_value = "target/read_lines/model.pt")]
    weights: PathBuf,

    /// Folder for the emissions and the vocabulary of the first line, and for the images of all
    #[arg(long, default_value = "target/read_lines")]
    out: PathBuf,

    /// Decides the typefaces and the noise
    #[arg(long, default_value_t = 3)]
    seed: u64,

    /// Steps of training
    #[arg(long, default_value_t = 15)]
    steps: usize,

    /// Fail if the model reads worse than it should, or if training does not help
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::Cpu;
    std::fs::create_dir_all(&args.out)?;
    let mut tokens = vec!["<blank>".to_owned()];
    tokens.extend(ALPHABET.chars().map(String::from));
    let vocabulary = Vocabulary::from_tokens(tokens)?;
    let weights = model::load_weights(&args.weights, &device).with_context(|| {
        format!(
            "no weights in {}; examples/read_lines/get.sh fetches them",
            args.weights.display()
        )
    })?;
    let vb = VarBuilder::from_varmap(&weights, candle_core::DType::F32, &device);
    let stored = weights.all_vars().len();
    let reader = LineReader::new(vocabulary.class_count(), vb)?;
    // A `VarMap` makes up what it does not have.
    ensure!(
        weights.all_vars().len() == stored,
        "the checkpoint lacks weights of this model"
    );

    // Read all lines as one batch.
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let fonts = Fonts::embedded()?;
    let lines = TEXTS
        .iter()
        .map(|text| render(text, &Style::random(&fonts, &mut rng), &mut rng))
        .collect::<Result<Vec<GrayImage>>>()?;
    for (number, line) in lines.iter().enumerate() {
        line.save(args.out.join(format!("line-{number:02}.png")))?;
    }
    let (images, frames) = batch(&lines, &device)?;
    let start = Instant::now();
    let logits = reader.forward(&images)?.detach();
    println!("{} lines read in {:.2?}\n", lines.len(), start.elapsed());
    let greedy = GreedyOptions {
        input: InputKind::Logits,
        ..GreedyOptions::batch_major()
    };
    let beam = BeamOptions {
        input: InputKind::Logits,
        ..BeamOptions::batch_major()
    };
    let best = greedy_decode_batch(&logits, &frames[..], greedy)?;
    let searched = beam_search_batch(&logits, &frames[..], beam)?;
    let (mut characters, mut words) = (Vec::new(), Vec::new());
    for ((text, best), searched) in TEXTS.iter().zip(&best).zip(&searched) {
        let read = vocabulary.decode(&searched[0].tokens);
        let mark = if read == *text { ' ' } else { '*' };
        println!("{mark} {read}");
        let greedy = vocabulary.decode(&best.tokens);
        if greedy != read {
            println!("  best path: {greedy}");
        }
        characters.push(character_error_rate(text, &read));
        words.push(word_error_rate(text, &read));
    }
    let (characters, words): (ErrorRate, ErrorRate) =
        (characters.into_iter().sum(), words.into_iter().sum());
    println!(
        "\ncharacter error rate {:.2} %, word error rate {:.2} %",
        100.0 * characters.rate(),
        100.0 * words.rate()
    );

    // The words of the first line: where they stand, and how sure the model is.
    let (line, text) = (logits.get(0)?.narrow(0, 0, frames[0])?, TEXTS[0]);
    let labels = vocabulary.encode(text)?;
    let align = AlignOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    let confidence = ConfidenceOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    let alignment = forced_align(&line, &labels, align)?;
    let space = ALPHABET
        .chars()
        .position(|c| c == ' ')
        .context("no space")? as u32
        + 1;
    let sure = word_confidence(&token_confidence(&line, &labels, confidence)?, space);
    println!(
        "\n{text:?}: columns of each word, and the probability of its least certain character"
    );
    for (word, sure) in vocabulary.words(&alignment.spans).iter().zip(&sure) {
        let (from, to) = word.seconds(COLUMNS_PER_FRAME as f64);
        println!("  {:>10}  {from:4} to {to:4}  {:.3}", word.text, sure.least);
    }
    // Does it tell the text from near misses?
    let misses = [
        "The ship left port at 6:46 on Monday.",
        "The shop left port at 6:45 on Monday.",
        text,
    ];
    let candidates = misses
        .map(|text| vocabulary.encode(text))
        .into_iter()
        .collect::<candle_core::Result<Vec<_>>>()?;
    let score = ScoreOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    println!("\nranked transcripts");
    let ranked = rank_transcripts(&line, &candidates, score)?;
    for ranked in &ranked {
        println!("  {:.5}  {}", ranked.probability, misses[ranked.index]);
    }
    candle_nn::ops::log_softmax(&line, 1)?.write_npy(args.out.join("emissions.npy"))?;
    let list: Vec<Option<&str>> = (0..vocabulary.class_count() as u32)
        .map(|class| vocabulary.token(class))
        .collect();
    std::fs::write(args.out.join("vocab.json"), serde_json::to_string(&list)?)?;

    // Train it further on these lines.
    let targets = TEXTS
        .map(|text| vocabulary.encode(text))
        .into_iter()
        .collect::<candle_core::Result<Vec<_>>>()?;
    let (targets, target_lengths) = pad_targets(&targets, &device)?;
    let criterion = CtcLoss::new(CtcLossOptions::batch_major()).require_grad(true);
    let params = ParamsAdamW {
        lr: 2e-4,
        weight_decay: 0.0,
        ..Default::default()
    };
    let mut optimizer = AdamW::new(model::trainable(&weights), params)?;
    let forward = || -> Result<(Tensor, Tensor)> {
        let logits = reader.forward(&images)?;
        let loss =
            criterion.forward_with_logits(&logits, &targets, &frames[..], &target_lengths[..])?;
        Ok((logits, loss))
    };
    let before = forward()?.1.to_scalar::<f32>()?;
    let start = Instant::now();
    for _ in 0..args.steps {
        optimizer.backward_step(&forward()?.1)?;
    }
    println!(
        "\n{} steps of training in {:.1?}",
        args.steps,
        start.elapsed()
    );
    let (logits, loss) = forward()?;
    let after = loss.to_scalar::<f32>()?;
    let searched = beam_search_batch(&logits.detach(), &frames[..], beam)?;
    let wrong_after: ErrorRate = TEXTS
        .iter()
        .zip(&searched)
        .map(|(text, found)| character_error_rate(text, &vocabulary.decode(&found[0].tokens)))
        .sum();
    println!(
        "loss {before:.4} to {after:.4}, character error rate {:.2} to {:.2} %",
        100.0 * characters.rate(),
        100.0 * wrong_after.rate()
    );
    if args.check {
        // With legere's own decoder it is 9.3 %.
        ensure!(
            characters.rate() <= 0.1,
            "more than 10 % of the characters are wrong"
        );
        ensure!(ranked[0].index == 2, "a near miss is ranked above the text");
        ensure!(
            args.steps == 0 || (after < before && wrong_after.rate() < characters.rate()),
            "training helps neither the loss nor the error rate"
        );
    }
    Ok(())
}

/// Puts images of lines into a batch `(N, 1, 32, W)`, black at −1, padded with white, and counts the frames of each.
fn batch(lines: &[GrayImage], device: &Device) -> Result<(Tensor, Vec<usize>)> {
    let frames: Vec<usize> = lines
        .iter()
        .map(|line| (line.width() as usize).div_ceil(COLUMNS_PER_FRAME))
        .collect();
    let width = frames.iter().max().copied().unwrap_or(0) * COLUMNS_PER_FRAME;
    let mut pixels = Vec::with_capacity(lines.len() * HEIGHT * width);
    for line in lines {
        for y in 0..HEIGHT as u32 {
            pixels.extend((0..width as u32).map(|x| {
                let Luma([grey]) = line.get_pixel_checked(x, y).copied().unwrap_or(Luma([255]));
                f32::from(grey) / 127.5 - 1.0
            }));
        }
    }
    Ok((
        Tensor::from_vec(pixels, (lines.len(), 1, HEIGHT, width), device)?,
        frames,
    ))
}
