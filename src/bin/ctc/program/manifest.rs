//! Lists of emissions and their transcripts.

use super::input::{read_text, shown};
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Emissions and a transcript of them.
pub struct Entry {
    pub emissions: PathBuf,
    pub text: String,
}

/// Reads a path of emissions, a tab and a transcript from each line. Paths are relative to the current directory. Empty
/// lines are skipped.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let shown = shown(path);
    let content = read_text(path)?;
    let mut entries = Vec::new();
    for (index, line) in content.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match line.split_once('\t') {
            Some((emissions, text)) if !emissions.trim().is_empty() => entries.push(Entry {
                emissions: emissions.trim().into(),
                text: text.to_owned(),
            }),
            _ => bail!(
                "{shown}: line {} is {line:?}; expected a path of emissions, a tab and a transcript",
                index + 1
            ),
        }
    }
    ensure!(
        !entries.is_empty(),
        "{shown} has no lines; each must be a path of emissions, a tab and a transcript"
    );
    Ok(entries)
}
