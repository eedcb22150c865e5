//! Learns to hear spoken sentences with the CTC loss, then aligns, decodes and streams them.
//!
//! `examples/speech/get.sh` makes the corpus; then `cargo run --release --example speech`. See
//! `examples/speech/README.md`.

mod corpus;
mod features;
mod language;
mod listening;
mod model;
#[path = "../ocr/optimisation.rs"]
mod optimisation;
mod streaming;
mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{Hypothesis, NgramLm, NoLanguageModel, beam_search};
use candle_nn::{VarBuilder, VarMap};
use clap::Parser;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::corpus::{Corpus, Utterance};
use crate::language::{Language, Score};
use crate::listening::median;
use crate::model::Model;
use crate::training::{Progress, TrainConfig};

/// Learn to hear spoken sentences; then show times, confidence, re-ranking and a stream.
#[derive(Parser, Debug)]
struct Args {
    /// The corpus that get.sh makes
    #[arg(long, default_value = "target/speech/corpus")]
    corpus: PathBuf,

    /// Folder for the weights, and for the emissions and the vocabulary of one sentence
    #[arg(long, default_value = "target/speech")]
    out: PathBuf,

    /// Number of training steps [default: 3000, or 100 with --smoke]
    #[arg(long)]
    steps: Option<usize>,

    /// Sentences per training step
    #[arg(long, default_value_t = 8)]
    batch_size: usize,

    /// Highest learning rate
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,

    /// Decides the initial weights and the order of the sentences
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Start from the weights in this file, as an earlier run saved them
    #[arg(long)]
    weights: Option<PathBuf>,

    /// What a name that no training text has is worth to the search, in nats
    #[arg(long, default_value_t = 20.0)]
    boost: f64,

    /// A short run on few sentences, which fails unless the model learns them and a stream gives what the whole gives
    #[arg(long)]
    smoke: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batch_size > 0, "--batch-size must be at least 1");
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create the folder {}", args.out.display()))?;
    let started = Instant::now();
    let vocabulary = corpus::vocabulary()?;
    let limit = if args.smoke { 2 } else { usize::MAX };
    let corpus = Corpus::load(&args.corpus, &vocabulary, limit)?;
    for (name, part) in corpus.held_out() {
        let repeated = listening::texts_in(&corpus.train, part);
        ensure!(
            repeated == 0,
            "{repeated} texts of {name:?} are in the training data"
        );
    }
    let count = |part: &[Utterance]| {
        let frames: usize = part.iter().map(Utterance::frames).sum();
        format!("{} ({:.0} s)", part.len(), frames as f64 * corpus.hop)
    };
    println!(
        "sentences: {} to train with, {} of these voices, {} of another, {} with new names; read in {:.1} s",
        count(&corpus.train),
        count(&corpus.seen),
        count(&corpus.unseen),
        count(&corpus.names),
        started.elapsed().as_secs_f64()
    );

    let mut weights = VarMap::new();
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    let model = Model::new(vocabulary.class_count(), vb).context("cannot build the model")?;
    match &args.weights {
        None => {
            let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
            training::init_weights(&weights, &corpus.train, &mut rng)?;
        }
        Some(path) => weights
            .load(path)
            .with_context(|| format!("cannot load the weights {}", path.display()))?,
    }
    let parameters: usize = weights.all_vars().iter().map(|v| v.elem_count()).sum();
    let steps = args.steps.unwrap_or(if args.smoke { 100 } else { 3000 });
    println!(
        "{parameters} weights; {steps} steps of {} sentences",
        args.batch_size
    );
    let config = TrainConfig {
        steps,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        seed: args.seed,
        disturbed: !args.smoke,
        report_every: if args.smoke { 50 } else { 200 },
    };
    let trained = training::train(
        &model,
        &weights,
        &corpus.train,
        &config,
        |Progress { step, loss }| {
            let watched = &corpus.seen[..corpus.seen.len().min(64)];
            let emissions = listening::emissions(&model, watched)?;
            let errors = listening::greedy_errors(watched, &emissions, &vocabulary)?;
            println!(
                "step {step:5}  {:4.0} s  loss {loss:6.3}  held-out: word error rate {:6.2} %, blanks {:4.1} % of frames",
                started.elapsed().as_secs_f64(),
                100.0 * errors.rate(),
                100.0 * listening::share_of_blanks(&emissions, vocabulary.blank() as u32)?,
            );
            Ok(())
        },
    )?;
    if steps > 0 {
        println!(
            "{:.3} s a step, of which the loss and its gradient take {:.1} %",
            trained.time.as_secs_f64() / steps as f64,
            100.0 * trained.share_of_loss
        );
        let path = args.out.join("model.safetensors");
        weights
            .save(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    if args.smoke {
        return check(&model, &corpus, &trained.losses, &vocabulary);
    }
    evaluate(&model, &corpus, &vocabulary, &args)?;
    println!("\nall of it took {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Prints what the model makes of the held-out sentences.
fn evaluate(model: &Model, corpus: &Corpus, vocabulary: &Vocabulary, args: &Args) -> Result<()> {
    // Seconds from one frame of the model's output to the next.
    let frame = corpus.hop * model::STRIDE as f64;
    let trigrams = NgramLm::from_sentences(3, corpus.train.iter().map(|u| u.text.split(' ')))?;
    let known = language::words_of(&corpus.train);
    let names = language::words_of(&corpus.names)
        .difference(&known)
        .copied()
        .collect();
    let language = Language::new(&corpus.train, &trigrams, (&names, args.boost), vocabulary)?;
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for (name, part) in corpus.held_out() {
        let start = Instant::now();
        let emissions = listening::emissions(model, part)?;
        let heard_in = start.elapsed().as_secs_f64();
        let found = language::search(&emissions, &NoLanguageModel)?;
        println!(
            "\n{} held-out sentences, {name}: emissions in {heard_in:.1} s, searched in {:.1} s",
            part.len(),
            start.elapsed().as_secs_f64() - heard_in
        );
        let show = |what: &str, score: Score| {
            let Score {
                words,
                said,
                found,
                wrong,
            } = score;
            println!(
                "  word error rate {:5.2} % ({} of {} words), names found {found} of {said}, wrong ones {wrong}  {what}",
                100.0 * words.rate(),
                words.errors(),
                words.reference_length
            );
        };
        let of = |found: &[Vec<Hypothesis>]| Score::new(part, found, vocabulary, &names);
        show("best path", of(&listening::best_paths(&emissions)?));
        show("beam search", of(&found));
        for (what, weight) in [
            ("16 best, ranked by likelihood", 0.0),
            ("16 best, ranked by likelihood and word trigrams", 0.5),
        ] {
            let ranked = listening::ranked(&emissions, &found, vocabulary, &trigrams, weight)?;
            show(what, of(&ranked));
        }
        for (what, found) in language.search(&emissions)? {
            show(what, of(&found));
        }

        let (starts, ends) = listening::boundary_distances(part, &emissions, vocabulary, frame)?;
        let milliseconds = |values: &[f64]| 1000.0 * median(values.to_vec());
        let distance = |values: &[f64], by: f64| {
            1000.0 * median(values.iter().map(|x| (x + by).abs()).collect())
        };
        println!(
            "  alignment: starts are {:+.0} ms from the true ones, ends {:+.0} ms (median); the median distance is \
             {:.0} and {:.0} ms, with words a frame longer on either side {:.0} and {:.0} ms",
            milliseconds(&starts),
            milliseconds(&ends),
            distance(&starts, 0.0),
            distance(&ends, 0.0),
            distance(&starts, -frame),
            distance(&ends, frame),
        );
        for ((utterance, log_probs), found) in part.iter().zip(&emissions).zip(&found) {
            for word in listening::heard(utterance, log_probs, &found[0], vocabulary, frame)? {
                let list = if word.right { &mut right } else { &mut wrong };
                list.push((word.confidence.least, word.confidence.mean));
            }
        }
    }

    println!(
        "\nconfidence, {} right words and {} wrong ones",
        right.len(),
        wrong.len()
    );
    for (name, which) in [
        ("least", (|c| c.0) as fn(&(f64, f64)) -> f64),
        ("mean", |c| c.1),
    ] {
        let of = |list: &[(f64, f64)]| list.iter().map(which).collect::<Vec<f64>>();
        let (right, wrong) = (of(&right), of(&wrong));
        let average = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
        println!(
            "  {name:5}: {:.3} on average for right words, {:.3} for wrong ones; a right word has more than a wrong \
             one in {:.1} % of pairs",
            average(&right),
            average(&wrong),
            100.0 * listening::separation(&right, &wrong)
        );
    }

    let utterance = corpus
        .unseen
        .first()
        .context("there is no held-out sentence")?;
    show_sentence(model, utterance, vocabulary, frame, &args.out)?;
    let streams = compare_streams(model, &corpus.seen, vocabulary)?;
    println!(
        "\n{} of {} sentences have the same text as a stream; log-probabilities differ by {:.1e} at most",
        streams.same,
        corpus.seen.len(),
        streams.difference
    );
    Ok(())
}

/// One sentence: its words, its alignment, and how a stream hears it.
fn show_sentence(
    model: &Model,
    utterance: &Utterance,
    vocabulary: &Vocabulary,
    frame: f64,
    out: &Path,
) -> Result<()> {
    let emissions = listening::emissions(model, std::slice::from_ref(utterance))?;
    let found = language::search(&emissions, &NoLanguageModel)?;
    println!(
        "\n{:?}\n\n  heard       from    to  confidence",
        utterance.text
    );
    for word in listening::heard(utterance, &emissions[0], &found[0][0], vocabulary, frame)? {
        println!(
            "  {:10} {:5.2} {:5.2}  {:.3}{}",
            word.text,
            word.time.0,
            word.time.1,
            word.confidence.least,
            if word.right { "" } else { "  (wrong)" }
        );
    }
    println!("\n  aligned     from    to    true times");
    let words = listening::align(&emissions[0], utterance, vocabulary)?;
    for (word, (start, end)) in words.iter().zip(&utterance.words) {
        let (from, to) = word.seconds(frame);
        println!(
            "  {:10} {from:5.2} {to:5.2}   {start:5.2} {end:5.2}",
            word.text
        );
    }

    println!("\n  as a stream: what is certain | what may change");
    let streamed = streaming::stream(model, &utterance.features, vocabulary)?;
    for step in &streamed.steps {
        println!(
            "  {:4.1} s  {} | {}",
            step.frames as f64 * frame,
            step.stable,
            step.open
        );
    }

    // For the program `ctc`.
    emissions[0].write_npy(out.join("emissions.npy"))?;
    let tokens: Vec<Option<&str>> = (0..vocabulary.class_count() as u32)
        .map(|class| vocabulary.token(class))
        .collect();
    std::fs::write(out.join("vocab.json"), serde_json::to_string(&tokens)?)?;
    println!(
        "\n  a picture of the alignment:\n  cargo run --release --features cli --bin ctc -- align {} --vocab {} {:?} \
         --hop {frame:.5} --svg alignment.svg",
        out.join("emissions.npy").display(),
        out.join("vocab.json").display(),
        utterance.text
    );
    Ok(())
}

/// Sentences as streams and as a whole.
struct Streams {
    /// The sentences with the same text.
    same: usize,
    /// The largest difference between log-probabilities.
    difference: f64,
}

fn compare_streams(model: &Model, part: &[Utterance], vocabulary: &Vocabulary) -> Result<Streams> {
    let mut streams = Streams {
        same: 0,
        difference: 0.0,
    };
    let emissions = listening::emissions(model, part)?;
    for (utterance, log_probs) in part.iter().zip(&emissions) {
        let streamed = streaming::stream(model, &utterance.features, vocabulary)?;
        let whole = beam_search(log_probs, streaming::options())?.remove(0);
        streams.same += usize::from(streamed.best.tokens == whole.tokens);
        let difference = (streamed.log_probs - log_probs)?.abs()?;
        let difference = f64::from(difference.flatten_all()?.max(0)?.to_scalar::<f32>()?);
        streams.difference = streams.difference.max(difference);
    }
    Ok(streams)
}

/// Fails unless the model has learnt the few sentences of `--smoke`, and hears the same in a stream and in any batch.
fn check(model: &Model, corpus: &Corpus, losses: &[f64], vocabulary: &Vocabulary) -> Result<()> {
    let (first, last) = (losses.first(), losses.last());
    let (Some(first), Some(last)) = (first, last) else {
        anyhow::bail!("--smoke needs steps")
    };
    let emissions = listening::emissions(model, &corpus.train)?;
    let errors = listening::greedy_errors(&corpus.train, &emissions, vocabulary)?;
    println!(
        "loss {first:.3} to {last:.3}, word error rate on these sentences {:.1} %",
        100.0 * errors.rate()
    );
    ensure!(
        errors.rate() < 0.2,
        "the model has not learnt the sentences"
    );
    let alone = listening::emissions(model, &corpus.train[..1])?;
    let difference = (&emissions[0] - &alone[0])?.abs()?.flatten_all()?.max(0)?;
    let difference: f32 = Tensor::to_scalar(&difference)?;
    println!("in a batch and alone, log-probabilities differ by {difference:.1e} at most");
    ensure!(difference < 1e-3, "the batch changes what the model hears");
    let streams = compare_streams(model, &corpus.train, vocabulary)?;
    println!(
        "in a stream and as a whole, by {:.1e} at most",
        streams.difference
    );
    ensure!(
        streams.same == corpus.train.len() && streams.difference < 1e-3,
        "a stream gives another text than the whole"
    );
    Ok(())
}
