//! `ctc align`.

use super::alignment::Aligned;
use super::batch::{self, Console, Findings};
use super::cli::AlignArgs;
use super::input::{Model, Source, is_dash, transcript};
use super::manifest::{self, Entry};
use super::{make_folder, output, picture, write};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub fn run(args: &AlignArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let entries = match &args.manifest {
        Some(path) => manifest::read(path)?,
        None => vec![Entry {
            emissions: args.emissions.clone().context("no emissions given")?,
            text: transcript(args.text.as_deref(), args.file.as_deref())?
                .context("no transcript given")?,
        }],
    };
    let outputs = outputs(args);
    check_standard_output(args, &outputs)?;
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
            let mut result = Vec::new();
            for (format, path) in &outputs {
                let content = content(*format, &source, &aligned, args)?;
                match args.manifest {
                    Some(_) => write(&file_in(path, &entry.emissions, *format), content)?,
                    None if is_dash(path) => result = content,
                    None => write(path, content)?,
                }
            }
            if outputs.is_empty() {
                result = output::line(&entry.emissions, output::alignment(&aligned)).into();
            }
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

/// The outputs that are asked for, with their paths. If none are, JSON of one file goes to standard output.
fn outputs(args: &AlignArgs) -> Vec<(Format, &Path)> {
    let all = [
        (Format::Json, &args.json),
        (Format::TextGrid, &args.textgrid),
        (Format::Srt, &args.srt),
        (Format::Svg, &args.svg),
        (Format::Png, &args.png),
    ];
    let named = all.into_iter();
    let mut named: Vec<(Format, &Path)> = named
        .filter_map(|(format, path)| Some((format, path.as_deref()?)))
        .collect();
    if named.is_empty() && args.manifest.is_none() {
        named.push((Format::Json, Path::new("-")));
    }
    named
}

/// One output of one file may go to standard output.
fn check_standard_output(args: &AlignArgs, outputs: &[(Format, &Path)]) -> Result<()> {
    let count = outputs.iter().filter(|(_, path)| is_dash(path)).count();
    ensure!(
        count == 0 || args.manifest.is_none(),
        "with --manifest an output is a folder, not -, which is standard output"
    );
    ensure!(
        count <= 1,
        "{count} outputs go to -, which is standard output; name files for all but one"
    );
    Ok(())
}

fn content(
    format: Format,
    source: &Source,
    aligned: &Aligned,
    args: &AlignArgs,
) -> Result<Vec<u8>> {
    Ok(match format {
        Format::Json => format!("{:#}\n", output::alignment(aligned)).into_bytes(),
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
