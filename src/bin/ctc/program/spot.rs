//! `ctc spot`.

use super::batch::{self, Console, Findings};
use super::cli::SpotArgs;
use super::errors::short;
use super::input::{Model, Source, read_text};
use super::output;
use super::spelling::spell;
use anyhow::{Result, ensure};
use candle_ctc::text::Vocabulary;
use candle_ctc::{KeywordHit, SpotOptions, spot_keywords};
use std::fmt::Write;

/// A phrase where it was found.
pub type Found<'a> = (&'a str, KeywordHit);

pub fn run(args: &SpotArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let hop = args.time.hop;
    let phrases = phrases(args)?;
    let labels = phrases
        .iter()
        .map(|phrase| labels(phrase, &model.vocabulary));
    let labels: Vec<Vec<u32>> = labels.collect::<Result<_>>()?;
    let header = match args.json {
        true => "",
        false => "phrase\tstart\tend\tscore\tper token\n",
    };
    batch::run(
        std::slice::from_ref(&args.emissions),
        |path| path,
        header,
        console,
        |path| {
            let source = model.load(path)?;
            let found = search(&source, &phrases, &labels, args.threshold)?;
            let result = match args.json {
                true => format!("{:#}\n", output::hits(&source, &found, hop)),
                false => table(&found, hop)?,
            };
            Ok(Findings {
                result: result.into(),
                ..Default::default()
            })
        },
    )
}

/// The phrases of the command line and of the file.
fn phrases(args: &SpotArgs) -> Result<Vec<String>> {
    let mut phrases = args.phrases.clone();
    if let Some(file) = &args.file {
        let content = read_text(file)?;
        let lines = content.lines().map(str::trim);
        phrases.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    ensure!(
        !phrases.is_empty(),
        "no phrase given: name some, or a --file with one a line"
    );
    Ok(phrases)
}

fn labels(phrase: &str, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
    let hint = "write the phrase without it";
    let labels = spell(vocabulary, phrase, None, hint)?.labels;
    ensure!(!labels.is_empty(), "the phrase {phrase:?} has no text");
    Ok(labels)
}

/// All hits in order of time.
fn search<'a>(
    source: &Source,
    phrases: &'a [String],
    labels: &[Vec<u32>],
    threshold: f64,
) -> Result<Vec<Found<'a>>> {
    let opts = SpotOptions {
        blank: source.vocabulary.blank(),
        threshold,
        ..Default::default()
    };
    let hits = spot_keywords(&source.log_probs, labels, opts).map_err(short)?;
    let of_phrase = |(phrase, hits): (&'a String, Vec<KeywordHit>)| {
        let hits = hits.into_iter();
        hits.map(|hit| (phrase.as_str(), hit))
    };
    let mut found: Vec<Found> = phrases.iter().zip(hits).flat_map(of_phrase).collect();
    found.sort_by_key(|(_, hit)| (hit.start, hit.end));
    Ok(found)
}

/// A line for each hit.
fn table(found: &[Found], hop: f64) -> Result<String> {
    let mut table = String::new();
    for (phrase, hit) in found {
        let (start, end) = hit.seconds(hop);
        writeln!(
            table,
            "{phrase}\t{start:.3}\t{end:.3}\t{:.4}\t{:.4}",
            hit.score,
            hit.per_token()
        )?;
    }
    Ok(table)
}
