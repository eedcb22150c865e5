//! `ctc words`.

use super::alignment::Aligned;
use super::batch::{self, Console, Findings};
use super::cli::WordsArgs;
use super::confidence;
use super::decode;
use super::input::{Model, Source, transcript};
use super::knowledge::Knowledge;
use super::{manifest, output};
use anyhow::Result;
use candle_ctc::WordConfidence;
use candle_ctc::text::Word;
use std::fmt::Write;
use std::path::PathBuf;

/// Emissions and, if it is known, their transcript.
struct Item {
    emissions: PathBuf,
    text: Option<String>,
}

/// A word, with its confidence unless the vocabulary cannot spell it.
pub type RatedWord = (Word, Option<WordConfidence>);

pub fn run(args: &WordsArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let hop = args.time.hop;
    let knowledge = decode::knowledge(&args.search, &model, console)?;
    let items: Vec<Item> = match &args.manifest {
        Some(path) => {
            let item = |entry: manifest::Entry| Item {
                emissions: entry.emissions,
                text: Some(entry.text),
            };
            manifest::read(path)?.into_iter().map(item).collect()
        }
        None => {
            let text = transcript(args.text.as_deref(), args.file.as_deref())?;
            let item = |emissions: &PathBuf| Item {
                emissions: emissions.clone(),
                text: text.clone(),
            };
            args.emissions.iter().map(item).collect()
        }
    };
    let named = args.manifest.is_some() || items.len() > 1;
    let header = match (args.json, named) {
        (true, _) => "",
        (false, true) => "file\tword\tstart\tend\tscore\tconfidence\n",
        (false, false) => "word\tstart\tend\tscore\tconfidence\n",
    };
    batch::run(
        &items,
        |item| &item.emissions,
        header,
        console,
        |item| {
            let source = model.load(&item.emissions)?;
            let (words, notes) = words(&source, item.text.as_deref(), args, &knowledge)?;
            let result = match (args.json, named) {
                (true, false) => format!("{:#}\n", output::words(&words, hop)),
                (true, true) => {
                    let words = output::words(&words, hop);
                    output::line(&item.emissions, serde_json::json!({"words": words}))
                }
                (false, _) => {
                    let file = named.then(|| format!("{}\t", item.emissions.display()));
                    table(&words, hop, &file.unwrap_or_default())?
                }
            };
            Ok(Findings {
                result: result.into(),
                notes,
            })
        },
    )
}

/// The words of an utterance, and what the user should know of them.
fn words(
    source: &Source,
    text: Option<&str>,
    args: &WordsArgs,
    knowledge: &Knowledge,
) -> Result<(Vec<RatedWord>, Vec<String>)> {
    let (words, spans, star, notes) = match text {
        Some(text) => {
            let aligned = Aligned::new(source, text, &args.fit, args.time.hop)?;
            let spans = aligned.alignment.spans;
            (aligned.words, spans, aligned.star, aligned.notes)
        }
        None => {
            let best = decode::search(source, &args.search, knowledge, 1)?
                .into_iter()
                .next();
            let spans = best.map(|best| best.spans).unwrap_or_default();
            (source.vocabulary.words(&spans), spans, None, Vec::new())
        }
    };
    let tokens = confidence::of_spans(source, &spans, star, args.fit.partial.is_some())?;
    let rated = words.into_iter().map(|word| {
        let of_word: Option<Vec<_>> = word
            .tokens
            .iter()
            .map(|token| tokens[token.index])
            .collect();
        let confidence = of_word.and_then(|tokens| WordConfidence::of(&tokens));
        (word, confidence)
    });
    Ok((rated.collect(), notes))
}

/// A line for each word, with `file` in front.
fn table(words: &[RatedWord], hop: f64, file: &str) -> Result<String> {
    let mut table = String::new();
    for (word, confidence) in words {
        let (start, end) = word.seconds(hop);
        let confidence = match confidence {
            Some(confidence) => format!("{:.4}", confidence.least),
            None => "-".to_owned(),
        };
        writeln!(
            table,
            "{file}{}\t{start:.3}\t{end:.3}\t{:.4}\t{confidence}",
            word.text, word.score
        )?;
    }
    Ok(table)
}
