//! The program behind its command line, apart from `main`, so that tests can run it.

mod demo;
mod input;
mod output;
mod picture;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use candle_ctc::text::{Vocabulary, WordMark};
use candle_ctc::{
    AlignOptions, BeamOptions, GreedyOptions, Hypothesis, ScoreOptions, Wildcard, beam_search,
    feasibility, forced_align, greedy_decode, rank_transcripts,
};
use clap::{Args, Parser, Subcommand};
use input::Source;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Scores, aligns and decodes the output of a CTC model.
#[derive(Debug, Parser)]
#[command(name = "ctc", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log-likelihoods of transcripts, most probable first.
    Score {
        #[command(flatten)]
        source: SourceArgs,
        /// The transcripts.
        texts: Vec<String>,
        /// A file with more transcripts, one a line.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Rank by the log-likelihood of a token in place of that of the whole transcript.
        #[arg(long)]
        per_token: bool,
    },
    /// Where each token of a transcript stands. Prints JSON unless an output is named.
    Align {
        #[command(flatten)]
        source: SourceArgs,
        /// The transcript.
        text: String,
        /// The transcript covers only a part of the audio. A frame before or behind it is worth its best class other
        /// than the blank less PENALTY nats, or the blank.
        #[arg(long, value_name = "PENALTY", num_args = 0..=1, require_equals = true, default_missing_value = "2")]
        partial: Option<f32>,
        /// Write tokens and words with their times as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Write a Praat TextGrid with a tier of words and a tier of tokens.
        #[arg(long)]
        textgrid: Option<PathBuf>,
        /// Write subtitles.
        #[arg(long)]
        srt: Option<PathBuf>,
        /// Words in one subtitle, at most.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
        words_per_cue: u32,
        /// Draw the lattice with the path over the emissions.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// The best transcripts, as score and text.
    Decode {
        #[command(flatten)]
        source: SourceArgs,
        /// Take the best class of each frame in place of a beam search.
        #[arg(long, conflicts_with_all = ["beam", "n_best"])]
        greedy: bool,
        /// The width of the beam.
        #[arg(long, default_value_t = 50)]
        beam: usize,
        /// How many transcripts to print, at most.
        #[arg(long, default_value_t = 1)]
        n_best: usize,
        /// Print JSON, with the times of the tokens.
        #[arg(long)]
        json: bool,
    },
    /// Makes emissions and a vocabulary to try the other commands on.
    Demo {
        /// The folder to write to.
        #[arg(long)]
        out: PathBuf,
        /// What the emissions say: letters and spaces.
        #[arg(long, default_value = "the quick brown fox")]
        text: String,
    },
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): a .npy or .safetensors file.
    emissions: PathBuf,
    /// The vocabulary: vocab.json, tokenizer.json, a JSON list, SentencePiece's .vocab, or a file with
    /// a token, or a token and its class, on each line.
    #[arg(long)]
    vocab: PathBuf,
    /// Which tensor of a .safetensors file; not needed when there is only one.
    #[arg(long)]
    tensor: Option<String>,
    /// The emissions are logits: apply a log-softmax.
    #[arg(long)]
    logits: bool,
    /// The blank, as a class if it is a number, else as a token. Default: the token with a known name,
    /// such as <blank>, <blk> or <pad>.
    #[arg(long)]
    blank: Option<String>,
    /// The token between words. Default: how the vocabulary marks words.
    #[arg(long)]
    separator: Option<String>,
    /// Seconds from one frame to the next.
    #[arg(long, default_value_t = 0.02)]
    hop: f64,
}

/// Runs a command and prints its result to `out`.
pub fn run(cli: &Cli, out: &mut dyn Write) -> Result<()> {
    match &cli.command {
        Command::Score {
            source,
            texts,
            file,
            per_token,
        } => {
            let mut texts = texts.clone();
            if let Some(file) = file {
                let content = std::fs::read_to_string(file);
                let content = content.with_context(|| format!("cannot read {}", file.display()))?;
                texts.extend(content.lines().map(str::to_owned));
            }
            score(&source.load()?, &texts, *per_token, out)
        }
        Command::Align {
            source,
            text,
            partial,
            json,
            textgrid,
            srt,
            words_per_cue,
            svg,
        } => {
            let source = source.load()?;
            let aligned = align(&source, text, *partial)?;
            let outputs = [
                (json, aligned.json()),
                (textgrid, aligned.textgrid()?),
                (srt, aligned.srt(*words_per_cue as usize)?),
            ];
            for (path, content) in outputs {
                if let Some(path) = path {
                    write(path, &content)?;
                }
            }
            if let Some(path) = svg {
                write(path, &picture::draw(&source, &aligned)?)?;
            }
            if [json, textgrid, srt, svg].iter().all(|path| path.is_none()) {
                writeln!(out, "{}", aligned.json())?;
            }
            Ok(())
        }
        Command::Decode {
            source,
            greedy,
            beam,
            n_best,
            json,
        } => {
            let source = source.load()?;
            let found = if *greedy {
                let opts = GreedyOptions {
                    blank: source.vocabulary.blank(),
                    ..Default::default()
                };
                vec![greedy_decode(&source.log_probs, opts)?]
            } else {
                let opts = BeamOptions {
                    blank: source.vocabulary.blank(),
                    beam_width: *beam,
                    n_best: *n_best,
                    ..Default::default()
                };
                beam_search(&source.log_probs, opts)?
            };
            print_hypotheses(&source, &found, *json, out)
        }
        Command::Demo { out: folder, text } => {
            demo::write(folder, text)?;
            writeln!(
                out,
                "wrote emissions.npy, vocab.json and transcript.txt to {}",
                folder.display()
            )?;
            Ok(())
        }
    }
}

fn write(path: &Path, content: &str) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

impl SourceArgs {
    fn load(&self) -> Result<Source> {
        ensure!(
            self.hop.is_finite() && self.hop > 0.0,
            "--hop is {}; it must be above 0",
            self.hop
        );
        let mut builder = Vocabulary::builder();
        if let Some(blank) = &self.blank {
            builder = match blank.parse::<u32>() {
                Ok(class) => builder.blank(class),
                Err(_) => builder.blank(blank.as_str()),
            };
        }
        if let Some(separator) = &self.separator {
            builder = builder.word_mark(WordMark::Separator(separator.clone()));
        }
        let vocabulary = builder.from_path(&self.vocab).map_err(input::short)?;
        let log_probs = input::emissions(&self.emissions, self.tensor.as_deref(), self.logits)?;
        let (frames, classes) = log_probs.dims2()?;
        if classes != vocabulary.class_count() {
            bail!(
                "{} has C = {classes} classes, but {} has {} tokens",
                self.emissions.display(),
                self.vocab.display(),
                vocabulary.class_count()
            )
        }
        Ok(Source {
            log_probs,
            frames,
            vocabulary,
            hop: self.hop,
        })
    }
}

fn score(source: &Source, texts: &[String], per_token: bool, out: &mut dyn Write) -> Result<()> {
    ensure!(
        !texts.is_empty(),
        "no transcript given: name some, or a --file with one a line"
    );
    let mut transcripts = Vec::new();
    for text in texts {
        transcripts.push(source.vocabulary.encode(text).map_err(input::short)?);
    }
    let opts = ScoreOptions {
        blank: source.vocabulary.blank(),
        per_token,
        ..Default::default()
    };
    writeln!(out, "log-likelihood\tper token\tshare\ttranscript")?;
    for found in rank_transcripts(&source.log_probs, &transcripts, opts)? {
        writeln!(
            out,
            "{:.4}\t{:.4}\t{:.4}\t{}",
            found.log_likelihood, found.per_token, found.probability, texts[found.index]
        )?;
    }
    Ok(())
}

fn align(source: &Source, text: &str, partial: Option<f32>) -> Result<output::Aligned> {
    let tokens = source.vocabulary.encode(text).map_err(input::short)?;
    ensure!(!tokens.is_empty(), "the transcript is empty");
    let targets = Tensor::new(tokens.as_slice(), &Device::Cpu)?;
    let fits = &feasibility(&targets, source.frames, tokens.len())?[0];
    ensure!(
        fits.feasible,
        "the transcript needs {} frames, but there are only {}",
        fits.frames_needed,
        source.frames
    );
    let opts = AlignOptions {
        blank: source.vocabulary.blank(),
        outside: partial.map(|penalty| Wildcard::Largest { penalty }),
        ..Default::default()
    };
    let alignment = forced_align(&source.log_probs, &tokens, opts)?;
    Ok(output::Aligned::new(source, text, alignment))
}

fn print_hypotheses(
    source: &Source,
    found: &[Hypothesis],
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let vocabulary = &source.vocabulary;
    if json {
        let found: Vec<serde_json::Value> = found
            .iter()
            .map(|h| {
                serde_json::json!({
                    "text": vocabulary.decode(&h.tokens),
                    "score": h.score,
                    "tokens": output::spans(source, &h.spans),
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        for hypothesis in found {
            let text = vocabulary.decode(&hypothesis.tokens);
            writeln!(out, "{:.4}\t{text}", hypothesis.score)?;
        }
    }
    Ok(())
}
