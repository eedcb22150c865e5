//! `ctc spot`.

use super::batch::{self, Console, Findings};
use super::cli::SpotArgs;
use super::errors::short;
use super::input::{Model, Source, read_text};
use super::output;
use super::spelling::spell;
use anyhow::{Result, ensure};
use candle_ctc::text::{Vocabulary, WordMark};
use candle_ctc::{KeywordHit, SpotOptions, spot_keywords};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A phrase where it was found.
pub type Found<'a> = (&'a str, KeywordHit);

pub fn run(args: &SpotArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let hop = args.time.hop;
    let phrases = phrases(args)?;
    let spellings = phrases
        .iter()
        .map(|phrase| spellings(phrase, &model.vocabulary));
    let spellings: Vec<Vec<Vec<u32>>> = spellings.collect::<Result<_>>()?;
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
            let found = search(&source, &phrases, &spellings, args.threshold)?;
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

/// The labels of a phrase at the beginning of a text, and those after other words if these differ.
fn spellings(phrase: &str, vocabulary: &Vocabulary) -> Result<Vec<Vec<u32>>> {
    let hint = "write the phrase without it";
    let first = spell(vocabulary, phrase, None, hint)?.labels;
    ensure!(!first.is_empty(), "the phrase {phrase:?} has no text");
    let second = match vocabulary.word_mark() {
        WordMark::Prefix { .. } | WordMark::ByteLevel { .. } => {
            let twice = vocabulary.encode(&format!("{phrase} {phrase}")).ok();
            twice.and_then(|twice| Some(twice.strip_prefix(&first[..])?.to_vec()))
        }
        _ => None,
    };
    let second = second.filter(|second| !second.is_empty() && *second != first);
    Ok([Some(first), second].into_iter().flatten().collect())
}

/// All hits in order of time.
fn search<'a>(
    source: &Source,
    phrases: &'a [String],
    spellings: &[Vec<Vec<u32>>],
    threshold: f64,
) -> Result<Vec<Found<'a>>> {
    let opts = SpotOptions {
        blank: source.vocabulary.blank(),
        threshold,
        ..Default::default()
    };
    let all: Vec<&Vec<u32>> = spellings.iter().flatten().collect();
    let hits = spot_keywords(&source.log_probs, &all, opts).map_err(short)?;
    let mut hits = hits.into_iter();
    let mut found: Vec<Found> = Vec::new();
    for (phrase, spellings) in phrases.iter().zip(spellings) {
        let of_phrase: Vec<KeywordHit> = hits.by_ref().take(spellings.len()).flatten().collect();
        let of_phrase = apart(of_phrase).into_iter();
        found.extend(of_phrase.map(|hit| (phrase.as_str(), hit)));
    }
    found.sort_by_key(|(_, hit)| (hit.start, hit.end));
    Ok(found)
}

/// The best of the hits of a phrase in its spellings, without those that overlap better ones or share a label with them,
/// in order of time.
fn apart(mut hits: Vec<KeywordHit>) -> Vec<KeywordHit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.start.cmp(&b.start)));
    let mut kept: BTreeMap<usize, KeywordHit> = BTreeMap::new();
    for hit in hits {
        let before = kept.range(..=hit.start).next_back();
        let after = kept.range(hit.start..).next();
        if before.is_none_or(|(_, other)| are_apart(other, &hit))
            && after.is_none_or(|(_, other)| are_apart(&hit, other))
        {
            kept.insert(hit.start, hit);
        }
    }
    kept.into_values().collect()
}

/// Whether a hit ends before another begins. Equal labels without a frame between them are one label.
fn are_apart(first: &KeywordHit, second: &KeywordHit) -> bool {
    let last = first.spans.last().map(|span| span.token);
    let gap = usize::from(last == second.spans.first().map(|span| span.token));
    first.end + gap <= second.start
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
