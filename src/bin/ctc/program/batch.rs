//! One file after another: results, errors and progress.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Where the program writes.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Errors and notes.
    pub err: &'a mut dyn Write,
    /// Whether standard error is a terminal, which can show progress.
    pub progress: bool,
}

/// What a command found out about a file.
#[derive(Default)]
pub struct Findings {
    /// Text, or an output of any format.
    pub result: Vec<u8>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Emissions of this size, in bytes, take seconds.
const LONG: u64 = 16 << 20;

/// Runs `work` on each of `items`, as many at a time as there are threads, and prints what it returns in order. `file`
/// tells the file of an item. The first result comes below `header`; without one there is no table to print it for.
/// Returns how many items failed; their errors are printed.
pub fn run<T: Sync>(
    items: &[T],
    file: impl Fn(&T) -> &Path,
    mut header: &str,
    console: &mut Console,
    work: impl Fn(&T) -> Result<Findings> + Sync,
) -> Result<usize> {
    let size = |item| std::fs::metadata(file(item)).map_or(0, |metadata| metadata.len());
    let long = items.len() > 1 || items.iter().map(size).sum::<u64>() >= LONG;
    let bar = progress_bar(items.len(), console.progress && long);
    let mut failed = 0;
    for group in items.chunks(rayon::current_num_threads()) {
        let found: Vec<_> = group
            .par_iter()
            .map(|item| {
                let found = work(item);
                bar.inc(1);
                found
            })
            .collect();
        bar.suspend(|| -> Result<()> {
            for (item, found) in group.iter().zip(found) {
                let file = file(item).display();
                match found {
                    Ok(findings) => {
                        for note in findings.notes {
                            writeln!(console.err, "note: {file}: {note}")?;
                        }
                        let header = std::mem::take(&mut header);
                        console.out.write_all(header.as_bytes())?;
                        console.out.write_all(&findings.result)?;
                    }
                    Err(error) => {
                        failed += 1;
                        writeln!(console.err, "error: {file}: {error:#}")?;
                    }
                }
            }
            Ok(())
        })?;
    }
    bar.finish_and_clear();
    if failed > 0 && items.len() > 1 {
        writeln!(console.err, "error: {failed} of {} failed", items.len())?;
    }
    Ok(failed)
}

fn progress_bar(count: usize, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = match count {
        // How far a single file has got is not known.
        1 => ProgressBar::new_spinner().with_message("working"),
        _ => ProgressBar::new(count as u64).with_style(
            ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
    };
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
