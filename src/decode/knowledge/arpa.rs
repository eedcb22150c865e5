//! Reads n-gram models in the ARPA format, line by line.
//!
//! ```text
//! \data\
//! ngram 1=4
//! ngram 2=2
//!
//! \1-grams:
//! -0.7 <s> -0.2        log10 of the probability, the words, log10 of the backoff (0 where it is missing)
//! ...
//! \2-grams:
//! -0.3 <s> a           entries of the highest order have no backoff
//! ...
//! \end\
//! ```

use super::ngram::NgramLm;
use super::table::{Entry, Table};
use super::trie::MOST_ORDERS;
use crate::text::shortened;
use candle_core::{Error, Result, bail};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// Longer lines are in no ARPA file.
const LONGEST_LINE: usize = 1 << 20;

/// How a file begins that is compressed with gzip.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// How files begin that are not read, and what they are.
const REFUSED: [(&[u8], &str); 5] = [
    (
        b"mmap lm http",
        "in KenLM's binary format; give the ARPA file that it was made from",
    ),
    (
        &NgramLm::BINARY_MAGIC,
        "in the binary form of candle-ctc; from_binary reads it, and from_path",
    ),
    (
        b"BZh",
        "compressed with bzip2; unpack it, or compress it with gzip",
    ),
    (
        b"\xfd7zXZ",
        "compressed with xz; unpack it, or compress it with gzip",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed with zstd; unpack it, or compress it with gzip",
    ),
];

/// The bytes of the longest of these beginnings.
const LONGEST_MAGIC: u64 = REFUSED[0].0.len() as u64;

impl NgramLm {
    /// Reads a model from a file, whatever its name: ARPA, plain or compressed with gzip (see [`Self::from_arpa`]), or
    /// the binary form that [`Self::save`] writes.
    ///
    /// The latter is mapped into memory: while the model is in use, nobody may write into the file or shorten it, as
    /// copying another file over it does. Scores would change, or the process would be ended by the system. Replacing the
    /// file by another of the same name, as `save` does, is safe.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, and the errors of [`Self::from_arpa`] and [`Self::from_binary`]; the message names
    /// the file.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match File::open(path).map_err(Error::wrap).and_then(from_file) {
            Ok(model) => Ok(model),
            Err(error) => bail!("cannot read the n-gram model {}: {error}", path.display()),
        }
    }

    /// Reads a model in the ARPA format, plain or compressed with gzip, as KenLM's `lmplz`, SRILM and others write it.
    ///
    /// The input is read once, line by line. Beside the model itself, memory holds 20 bytes for each n-gram of one
    /// order at a time.
    ///
    /// These do no harm: text before `\data\`, blank lines between sections, Windows line ends, spaces in place of
    /// tabs, a missing backoff (it is 0), a backoff of 0 in the highest order, positive backoffs, and an n-gram "a b c"
    /// without "b c". Without `<unk>`, an unknown word has a log10 probability of −100, as in KenLM; `<UNK>` stands for
    /// it, too.
    ///
    /// # Errors
    ///
    /// Input that is not UTF-8 or not ARPA, missing sections and counts that are wrong, numbers that are not finite, a
    /// probability above 1, an n-gram that occurs twice, holds a word that is no 1-gram, or lacks the shorter n-gram
    /// that it begins with, a model without `<s>` or `</s>`, a file that ends early, or memory that runs out. The
    /// message names the line and the reason.
    ///
    /// ```
    /// use candle_ctc::NgramLm;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n0.2 a\n\\end\\\n";
    /// let error = NgramLm::from_arpa(arpa.as_bytes()).unwrap_err().to_string();
    /// assert!(error.starts_with("line 7: the log10 probability 0.2 is above 0"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_arpa(mut input: impl Read) -> Result<Self> {
        let mut start = Vec::new();
        // A reader may give less at once, or be interrupted.
        let mut first = input.by_ref().take(LONGEST_MAGIC);
        if let Err(error) = first.read_to_end(&mut start) {
            bail!("line 1: {error}")
        }
        for (magic, what) in REFUSED {
            if start.starts_with(magic) {
                bail!("the model is {what}")
            }
        }
        let packed = start.starts_with(GZIP);
        let input = BufReader::with_capacity(1 << 16, Cursor::new(start).chain(input));
        if packed {
            return read(BufReader::with_capacity(
                1 << 16,
                MultiGzDecoder::new(input),
            ));
        }
        read(input)
    }
}

fn from_file(mut file: File) -> Result<NgramLm> {
    let mut start = Vec::new();
    file.by_ref()
        .take(NgramLm::BINARY_MAGIC.len() as u64)
        .read_to_end(&mut start)?;
    let is_binary = start == NgramLm::BINARY_MAGIC;
    if is_binary && file.metadata()?.is_file() {
        return NgramLm::map(&file);
    }
    // The file may be a pipe, which cannot go back.
    let whole = Cursor::new(start).chain(file);
    match is_binary {
        true => NgramLm::from_binary(whole),
        false => NgramLm::from_arpa(whole),
    }
}

fn read(input: impl BufRead) -> Result<NgramLm> {
    let mut lines = Lines::new(input);
    let counts = header(&mut lines)?;
    let mut table = Table::new(counts.len());
    for (order, &count) in (1..).zip(&counts) {
        let name = format!("\\{order}-grams:");
        if lines.line() != name {
            return lines.fail(format_args!(
                "expected {name:?}, the section of the next order, but found {:?}",
                shortened(lines.line())
            ));
        }
        let first = lines.number + 1;
        section(&mut lines, &mut table, order, count)?;
        table.finish_order(|at| first + u64::from(at))?;
    }
    if lines.line() != "\\end\\" {
        return lines.fail(format_args!(
            "expected \"\\\\end\\\\\", but found {:?}",
            shortened(lines.line())
        ));
    }
    lines.drain()?;
    table.finish()
}

/// Reads up to the first section: the number of n-grams of each order. The current line is then that of the section.
fn header<R: BufRead>(lines: &mut Lines<R>) -> Result<Vec<usize>> {
    loop {
        if !lines.advance()? {
            bail!("the model has no line \"\\data\\\", so it is not in the ARPA format")
        }
        if lines.line() == "\\data\\" {
            break;
        }
    }
    let mut counts = Vec::new();
    loop {
        lines.must_advance()?;
        let line = lines.line();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('\\') {
            break;
        }
        let parts = line
            .strip_prefix("ngram")
            .and_then(|rest| rest.split_once('='));
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let numbers = parts.map(|(order, count)| (number(order), number(count)));
        let Some((Some(order), Some(count))) = numbers else {
            return lines.fail(format_args!(
                "expected a count such as \"ngram 1=1000\", but found {:?}",
                shortened(line)
            ));
        };
        if counts.len() + 1 != order {
            return lines.fail(format_args!(
                "the count of {order}-grams stands where that of {}-grams belongs",
                counts.len() + 1
            ));
        }
        if order > MOST_ORDERS {
            return lines.fail(format_args!("the order {order} is above {MOST_ORDERS}"));
        }
        counts.push(count);
    }
    if counts.is_empty() {
        return lines.fail(format_args!(
            "the header has no count such as \"ngram 1=1000\""
        ));
    }
    Ok(counts)
}

/// Reads the n-grams of an order. The current line is then the one after them that is not blank.
fn section<R: BufRead>(
    lines: &mut Lines<R>,
    table: &mut Table,
    order: usize,
    count: usize,
) -> Result<()> {
    let mut found = 0;
    let top = order == table.orders();
    loop {
        lines.must_advance()?;
        let line = lines.line();
        if line.is_empty() || line.starts_with('\\') {
            break;
        }
        if found == count {
            return lines.fail(format_args!(
                "there are more {order}-grams than the {count} of \"ngram {order}={count}\""
            ));
        }
        if let Err(error) = entry(table, line, order, top, count - found) {
            return lines.fail(format_args!("{error}"));
        }
        found += 1;
    }
    if found != count {
        return lines.fail(format_args!(
            "the section of {order}-grams ends after {found} of the {count} of \"ngram {order}={count}\""
        ));
    }
    while lines.line().is_empty() {
        lines.must_advance()?;
    }
    Ok(())
}

/// Takes one n-gram, of which `left` may still come, this one included.
fn entry(table: &mut Table, line: &str, order: usize, top: bool, left: usize) -> Result<()> {
    let mut fields = line.split([' ', '\t']).filter(|field| !field.is_empty());
    let prob = number("probability", fields.next().unwrap_or_default())?;
    if prob > 0.0 {
        bail!("the log10 probability {prob} is above 0, so the probability is above 1")
    }
    let words = fields.by_ref().take(order);
    let entry = Entry::new(prob);
    if order == 1 {
        let Some(word) = words.last() else {
            bail!(
                "a 1-gram has a probability and a word, but here is {:?}",
                shortened(line)
            )
        };
        let backoff = backoff(fields, top)?;
        return table.add_word(word, Entry { backoff, ..entry }, left);
    }
    let (parent, word) = match table.find(words, order)? {
        Some(found) => found,
        None => bail!(
            "a {order}-gram has {order} words, but here is {:?}",
            shortened(line)
        ),
    };
    let backoff = backoff(fields, top)?;
    table.add(
        Entry {
            parent,
            word,
            backoff,
            ..entry
        },
        left,
    )
}

fn backoff<'a>(mut fields: impl Iterator<Item = &'a str>, top: bool) -> Result<f32> {
    let Some(field) = fields.next() else {
        return Ok(0.0);
    };
    if let Some(more) = fields.next() {
        bail!("{:?} stands behind the backoff", shortened(more))
    }
    let backoff = number("backoff", field)?;
    if top && backoff != 0.0 {
        bail!("the backoff {backoff} belongs to an n-gram of the highest order, which has none")
    }
    Ok(backoff)
}

fn number(what: &str, field: &str) -> Result<f32> {
    match field.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!(
            "the log10 {what} {:?} is not a finite number",
            shortened(field)
        ),
    }
}

/// The lines of a text, without their ends and the spaces at them.
struct Lines<R> {
    input: R,
    bytes: Vec<u8>,
    /// The number of the current line, counted from 1.
    number: u64,
    line: String,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            bytes: Vec::new(),
            number: 0,
            line: String::new(),
        }
    }

    fn line(&self) -> &str {
        &self.line
    }

    /// Goes to the next line; false if there is none.
    fn advance(&mut self) -> Result<bool> {
        self.bytes = std::mem::take(&mut self.line).into_bytes();
        self.bytes.clear();
        self.number += 1;
        let mut limited = self.input.by_ref().take(LONGEST_LINE as u64 + 1);
        if let Err(error) = limited.read_until(b'\n', &mut self.bytes) {
            return self.fail(format_args!("{error}"));
        }
        if self.bytes.is_empty() {
            return Ok(false);
        }
        if self.bytes.len() > LONGEST_LINE {
            return self.fail(format_args!("the line has more than {LONGEST_LINE} bytes"));
        }
        if self.number == 1 && self.bytes.starts_with(b"\xef\xbb\xbf") {
            self.bytes.drain(..3);
        }
        match String::from_utf8(std::mem::take(&mut self.bytes)) {
            Ok(line) => self.line = line,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                return self.fail(format_args!("the line is not UTF-8 at its byte {}", at + 1));
            }
        }
        let kept = self.line.trim_end_matches(['\n', '\r', ' ', '\t']).len();
        self.line.truncate(kept);
        let blanks = self.line.len() - self.line.trim_start_matches([' ', '\t']).len();
        self.line.drain(..blanks);
        Ok(true)
    }

    /// Goes to the next line, which has to be there.
    fn must_advance(&mut self) -> Result<()> {
        match self.advance()? {
            true => Ok(()),
            false => self.fail(format_args!(
                "the file ends before \"\\end\\\": it is not complete"
            )),
        }
    }

    /// Reads the rest, so that the checksum of a compressed file is compared.
    fn drain(&mut self) -> Result<()> {
        match std::io::copy(&mut self.input, &mut std::io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => self.fail(format_args!("{error}, behind the end of the model")),
        }
    }

    fn fail<T>(&self, reason: std::fmt::Arguments) -> Result<T> {
        bail!("line {}: {reason}", self.number)
    }
}
