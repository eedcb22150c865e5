//! `ctc align`.

use super::alignment::Aligned;
use super::batch::{self, Console, Findings};
use super::cli::AlignArgs;
use super::input::{Model, Source};
use super::manifest::{self, Entry};
use super::{make_folder, output, picture, write};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub fn run(args: &AlignArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let entries = match &args.manifest {
        Some(path) => manifest::read(path)?,
        None => vec![Entry {
            emissions: args.emissions.clone().context("no emissions given")?,
            text: args.text.clone().context("no transcript given")?,
        }],
    };
    let outputs = outputs(args);
    if args.manifest.is_some() && !outputs.is_empty() {
        check_names(&entries)?;
        for (_, folder) in &outputs {
            make_folder(folder)?;
        }
    }
    batch::run(
        &entries,
        |entry| &entry.emissions,
        "",
        console,
        |entry| {
            let source = model.load(&entry.emissions)?;
            let aligned = Aligned::new(&source, &entry.text, &args.fit, args.time.hop)?;
            for (format, path) in &outputs {
                let path = match args.manifest {
                    Some(_) => file_in(path, &entry.emissions, *format),
                    None => path.to_path_buf(),
                };
                write(&path, content(*format, &source, &aligned, args)?)?;
            }
            let result = match (&args.manifest, outputs.is_empty()) {
                (_, false) => String::new(),
                (None, true) => format!("{:#}\n", output::alignment(&aligned)),
                (Some(_), true) => output::line(&entry.emissions, output::alignment(&aligned)),
            };
            Ok(Findings {
                result,
                notes: aligned.notes,
            })
        },
    )
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    TextGrid,
    Srt,
    Svg,
    Png,
}

/// The outputs that are asked for, with their paths.
fn outputs(args: &AlignArgs) -> Vec<(Format, &Path)> {
    let all = [
        (Format::Json, &args.json),
        (Format::TextGrid, &args.textgrid),
        (Format::Srt, &args.srt),
        (Format::Svg, &args.svg),
        (Format::Png, &args.png),
    ];
    all.into_iter()
        .filter_map(|(format, path)| Some((format, path.as_deref()?)))
        .collect()
}

fn content(
    format: Format,
    source: &Source,
    aligned: &Aligned,
    args: &AlignArgs,
) -> Result<Vec<u8>> {
    Ok(match format {
        Format::Json => format!("{:#}", output::alignment(aligned)).into_bytes(),
        Format::TextGrid => output::textgrid(aligned)?.into_bytes(),
        Format::Srt => output::srt(aligned, args.words_per_cue)?.into_bytes(),
        Format::Svg => picture::svg(source, aligned)?.into_bytes(),
        Format::Png => picture::png(source, aligned)?,
    })
}

/// The output for a file of a manifest.
fn file_in(folder: &Path, emissions: &Path, format: Format) -> PathBuf {
    let extension = match format {
        Format::Json => "json",
        Format::TextGrid => "TextGrid",
        Format::Srt => "srt",
        Format::Svg => "svg",
        Format::Png => "png",
    };
    let mut name = emissions.file_stem().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    folder.join(name)
}

/// No output may replace another.
fn check_names(entries: &[Entry]) -> Result<()> {
    let mut names: HashMap<&OsStr, &Path> = HashMap::new();
    for Entry { emissions, .. } in entries {
        let name = emissions.file_stem().unwrap_or_default();
        if let Some(other) = names.insert(name, emissions) {
            bail!(
                "the outputs of {} and {} would have the same name; use a manifest for each",
                other.display(),
                emissions.display()
            )
        }
    }
    Ok(())
}
