//! Writes a section of docs/benchmarks.md.

use std::path::Path;

/// Whether `--write` was among the arguments.
pub fn wanted() -> bool {
    std::env::args().any(|arg| arg == "--write")
}

/// Puts `text` between the markers of the section `name`.
pub fn replace(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let page = std::fs::read_to_string(&path).expect("docs/benchmarks.md");
    let (begin, end) = (
        format!("<!-- {name}: begin -->"),
        format!("<!-- {name}: end -->"),
    );
    let (before, rest) = page.split_once(&begin).expect("the first marker");
    let (_, after) = rest.split_once(&end).expect("the second marker");
    let page = format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim());
    std::fs::write(path, page).expect("docs/benchmarks.md");
}
