//! `ctc decode`.

use super::batch::{self, Console, Findings};
use super::cli::{DecodeArgs, SearchArgs};
use super::errors::short;
use super::input::{Model, Source};
use super::knowledge::{Files, Knowledge};
use super::output;
use anyhow::{Result, ensure};
use candle_ctc::{BeamOptions, GreedyOptions, Hypothesis, greedy_decode};
use std::fmt::Write;

pub fn run(args: &DecodeArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let knowledge = knowledge(&args.search, &model, console)?;
    let several = args.emissions.len() > 1;
    batch::run(
        &args.emissions,
        |path| path,
        "",
        console,
        |path| {
            let source = model.load(path)?;
            let found = search(&source, &args.search, &knowledge, args.n_best)?;
            let result = match (args.json, several) {
                (true, false) => format!("{:#}\n", output::hypotheses(&source, &found, args.hop)),
                (true, true) => {
                    let found = output::hypotheses(&source, &found, args.hop);
                    output::line(path, serde_json::json!({"hypotheses": found}))
                }
                (false, _) => {
                    let file = several.then(|| format!("{}\t", path.display()));
                    table(&source, &found, &file.unwrap_or_default())?
                }
            };
            Ok(Findings {
                result: result.into(),
                ..Default::default()
            })
        },
    )
}

/// What the search knows of the language. Prints what the user should know of its files.
pub fn knowledge(args: &SearchArgs, model: &Model, console: &mut Console) -> Result<Knowledge> {
    let (args, vocabulary) = (&args.knowledge, &model.vocabulary);
    let files = Files::read(&args.files, vocabulary, console.progress)?;
    let (knowledge, notes) = Knowledge::new(&files, vocabulary, args.alpha, args.beta)?;
    for note in notes {
        writeln!(console.err, "note: {note}")?;
    }
    Ok(knowledge)
}

/// The best transcripts, the best first.
pub fn search(
    source: &Source,
    args: &SearchArgs,
    knowledge: &Knowledge,
    n_best: usize,
) -> Result<Vec<Hypothesis>> {
    let found = if args.greedy {
        let opts = GreedyOptions {
            blank: source.vocabulary.blank(),
            ..Default::default()
        };
        greedy_decode(&source.log_probs, opts).map(|found| vec![found])
    } else {
        let opts = BeamOptions {
            beam_width: args.beam,
            n_best,
            ..Default::default()
        };
        knowledge.transcripts(source, opts)
    };
    let found = found.map_err(short)?;
    ensure!(
        !found.is_empty(),
        "every transcript that may be found has a probability of 0"
    );
    Ok(found)
}

/// A line for each hypothesis, with `file` in front.
fn table(source: &Source, found: &[Hypothesis], file: &str) -> Result<String> {
    let mut table = String::new();
    for hypothesis in found {
        let text = source.vocabulary.decode(&hypothesis.tokens);
        let score = hypothesis.total_score();
        writeln!(table, "{file}{score:.4}\t{text}")?;
    }
    Ok(table)
}
