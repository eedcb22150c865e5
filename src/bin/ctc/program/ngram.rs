//! N-gram models from files, and `ctc ngram`.

use super::batch::Console;
use super::cli::NgramArgs;
use super::errors::short;
use super::input::read_text;
use anyhow::{Context, Result};
use candle_ctc::NgramLm;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

pub fn run(args: &NgramArgs, console: &mut Console) -> Result<usize> {
    let mut model = match args.estimate {
        Some(order) => {
            let text = read_text(&args.input)?;
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            NgramLm::from_sentences(order, lines.map(str::split_whitespace)).map_err(short)?
        }
        None => read(&args.input, console.progress)?,
    };
    if args.quantise {
        model = model.quantised().map_err(short)?;
    }
    model.save(&args.out).map_err(short)?;
    let counts = model.ngram_counts().iter().map(usize::to_string);
    let rounded = if model.is_quantised() {
        ", rounded"
    } else {
        ""
    };
    writeln!(
        console.out,
        "wrote {}: order {}, {} n-grams{rounded}",
        args.out.display(),
        model.order(),
        counts.collect::<Vec<_>>().join(" + "),
    )?;
    Ok(0)
}

/// A model from a file, with a bar if the file is parsed, which takes seconds for a large one.
pub fn read(path: &Path, progress: bool) -> Result<NgramLm> {
    // A pipe can be read only once, and has no length.
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let parsed = || -> std::io::Result<_> {
        let mut file = BufReader::new(File::open(path)?);
        let is_binary = file.fill_buf()?.starts_with(&NgramLm::BINARY_MAGIC);
        let length = file.get_ref().metadata()?.len();
        Ok((!is_binary).then_some((file, length)))
    };
    let parsed = match progress && is_file {
        true => parsed().with_context(|| format!("cannot read {}", path.display()))?,
        false => None,
    };
    let Some((file, length)) = parsed else {
        return NgramLm::from_path(path).map_err(short);
    };
    let template = "{wide_bar} {bytes}/{total_bytes} of the n-gram model, {eta} left";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(length).with_style(style);
    let model = NgramLm::from_arpa(bar.wrap_read(file)).map_err(short);
    bar.finish_and_clear();
    model.with_context(|| format!("cannot read the n-gram model {}", path.display()))
}
