//! `ctc score`.

use super::batch::{self, Console, Findings};
use super::cli::ScoreArgs;
use super::errors::short;
use super::input::{Model, Source, read_text};
use super::manifest;
use super::spelling::spell;
use anyhow::{Context, Result, ensure};
use candle_ctc::text::Unspellable;
use candle_ctc::{ScoreOptions, rank_transcripts};
use indexmap::IndexMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Emissions and the transcripts to rank.
struct Candidates {
    emissions: PathBuf,
    texts: Vec<String>,
}

pub fn run(args: &ScoreArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let items = candidates(args)?;
    let named = args.manifest.is_some();
    let file = if named { "file\t" } else { "" };
    let header = format!("{file}log-likelihood\tper token\tshare\ttranscript\n");
    batch::run(
        &items,
        |item| &item.emissions,
        &header,
        console,
        |item| {
            let source = model.load(&item.emissions)?;
            let file = named.then(|| format!("{}\t", item.emissions.display()));
            table(&source, item, args, &file.unwrap_or_default())
        },
    )
}

fn candidates(args: &ScoreArgs) -> Result<Vec<Candidates>> {
    if let Some(path) = &args.manifest {
        let mut texts: IndexMap<PathBuf, Vec<String>> = IndexMap::new();
        for entry in manifest::read(path)? {
            texts.entry(entry.emissions).or_default().push(entry.text);
        }
        let items = texts.into_iter();
        return Ok(items
            .map(|(emissions, texts)| Candidates { emissions, texts })
            .collect());
    }
    let mut texts = args.texts.clone();
    if let Some(file) = &args.file {
        let content = read_text(file)?;
        let lines = content.lines().filter(|line| !line.trim().is_empty());
        texts.extend(lines.map(str::to_owned));
    }
    ensure!(
        !texts.is_empty(),
        "no transcript given: name some, or a --file with one a line"
    );
    let emissions = args.emissions.clone().context("no emissions given")?;
    Ok(vec![Candidates { emissions, texts }])
}

/// A line for each transcript, with `file` in front.
fn table(source: &Source, item: &Candidates, args: &ScoreArgs, file: &str) -> Result<Findings> {
    let unspellable = args.skip.then_some(Unspellable::Skip);
    let hint = "--skip leaves it out; scores are comparable where all transcripts lack the same";
    let (mut transcripts, mut notes) = (Vec::new(), Vec::new());
    for text in &item.texts {
        let spelled = spell(source.vocabulary, text, unspellable, hint)?;
        transcripts.push(spelled.labels);
        notes.extend(spelled.notes);
    }
    let opts = ScoreOptions {
        blank: source.vocabulary.blank(),
        per_token: args.per_token,
        ..Default::default()
    };
    let mut table = String::new();
    for found in rank_transcripts(&source.log_probs, &transcripts, opts).map_err(short)? {
        writeln!(
            table,
            "{file}{:.4}\t{:.4}\t{:.4}\t{}",
            found.log_likelihood, found.per_token, found.probability, item.texts[found.index]
        )?;
    }
    Ok(Findings {
        result: table.into(),
        notes,
    })
}
