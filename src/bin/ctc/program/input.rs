//! Vocabularies and emissions from files.

use super::cli::ModelArgs;
use super::errors::short;
use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_ctc::text::{Vocabulary, WordMark};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The model that emissions come from: how to read them.
pub struct Model<'a> {
    pub vocabulary: Vocabulary,
    args: &'a ModelArgs,
}

/// One utterance and what its classes mean.
pub struct Source<'a> {
    /// (T, C), f32 or f64.
    pub log_probs: Tensor,
    pub frames: usize,
    pub vocabulary: &'a Vocabulary,
}

impl<'a> Model<'a> {
    pub fn new(args: &'a ModelArgs) -> Result<Self> {
        let mut builder = Vocabulary::builder();
        if let Some(blank) = &args.blank {
            builder = match blank.parse::<u32>() {
                Ok(class) => builder.blank(class),
                Err(_) => builder.blank(blank.as_str()),
            };
        }
        if let Some(separator) = &args.separator {
            builder = builder.word_mark(WordMark::Separator(separator.clone()));
        }
        let vocabulary = builder.from_path(&args.vocab).map_err(short)?;
        Ok(Self { vocabulary, args })
    }

    /// Errors do not name the file.
    pub fn load(&self, emissions: &Path) -> Result<Source<'_>> {
        let log_probs = read(emissions, self.args)?;
        let (frames, classes) = log_probs.dims2()?;
        ensure!(
            classes == self.vocabulary.class_count(),
            "there are C = {classes} classes, but {} has {} tokens",
            self.args.vocab.display(),
            self.vocabulary.class_count()
        );
        Ok(Source {
            log_probs,
            frames,
            vocabulary: &self.vocabulary,
        })
    }
}

/// Over the last dimension. candle-nn has one, too; nothing else of it is needed here.
pub fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sum)
}

/// Log-probabilities of shape (T, C).
fn read(path: &Path, args: &ModelArgs) -> Result<Tensor> {
    // For a plain message when the file is missing; candle's readers wrap it in their own.
    std::fs::File::open(path).context("cannot read it")?;
    let tensor = match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => {
            ensure!(
                args.tensor.is_none(),
                "a .npy file has one array and no names: --tensor is for .safetensors files"
            );
            check_npy(path)?;
            Tensor::read_npy(path).map_err(short)
        }
        Some("safetensors") => from_safetensors(path, args.tensor.as_deref()),
        _ => bail!("emissions must be a .npy or .safetensors file"),
    };
    let tensor = tensor.context("cannot use it")?;
    let tensor = match tensor.dims() {
        [1, _, _] => tensor.squeeze(0)?,
        [_, _] => tensor,
        other => bail!("the shape is {other:?}; expected (T, C) or (1, T, C)"),
    };
    ensure!(
        tensor.elem_count() > 0,
        "the shape is {:?}; there is nothing in it",
        tensor.dims()
    );
    let tensor = match tensor.dtype() {
        DType::F32 | DType::F64 => tensor,
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32)?,
        other => bail!("the dtype is {other:?}; expected f16, bf16, f32 or f64"),
    };
    let log_probs = match args.logits {
        true => log_softmax(&tensor)?,
        false => tensor.clone(),
    };
    // The most common mistake is to forget --logits: log-probabilities sum to 1 in each frame.
    let sums = log_probs.exp()?.sum(D::Minus1)?.to_dtype(DType::F64)?;
    for (frame, sum) in sums.to_vec1::<f64>()?.into_iter().enumerate() {
        if !is_about_one(sum, 0.05) {
            // What the file has: the log-softmax of a frame with +inf is NaN.
            let row = tensor.get(frame)?.to_dtype(DType::F64)?.to_vec1()?;
            return Err(not_log_probs(&row, frame, sum));
        }
    }
    Ok(log_probs)
}

/// The longest header of a .npy file that is read; NumPy's have 128 bytes.
const LONGEST_HEADER: u64 = 1 << 16;

/// An error if the header of a .npy file claims more bytes, or more entries, than the file has: candle would ask for
/// memory for all of them. The shape must stand there once and as plain numbers in one pair of parentheses, so that
/// candle reads the same: it takes `((), 9)` and `()(9)` for `(9)`. Whatever else is wrong with a header, candle's
/// reader says.
fn check_npy(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut start = Vec::new();
    file.take(LONGEST_HEADER).read_to_end(&mut start)?;
    // The version, and the length of the header: of two bytes in version 1, of four in version 2.
    let (length, rest) = match start.strip_prefix(b"\x93NUMPY") {
        Some([1, _, a, b, rest @ ..]) => (u16::from_le_bytes([*a, *b]).into(), rest),
        Some([2, _, a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        _ => return Ok(()),
    };
    let Some(header) = rest.get(..length as usize) else {
        bail!(
            "its header says that it has {length} bytes itself, but only {} can be read",
            rest.len()
        )
    };
    let header = String::from_utf8_lossy(header);
    let mut behind = header.split("shape").skip(1);
    let Some(shape) = behind.next() else {
        return Ok(());
    };
    let shape = shape.trim_start_matches(|c: char| c == '\'' || c == ':' || c.is_whitespace());
    let shape = shape.strip_prefix('(').and_then(|x| x.split_once(')'));
    let is_plain = |c: char| c.is_ascii_digit() || c == ',' || c.is_whitespace();
    let shape = shape.filter(|&(shape, rest)| {
        shape.chars().all(is_plain) && rest.trim_start().starts_with([',', '}'])
    });
    let (Some((shape, _)), None) = (shape, behind.next()) else {
        bail!("its header is {header:?}; expected one 'shape': (...) with numbers in it")
    };
    let sizes = shape.split(|c: char| !c.is_ascii_digit());
    let sizes = sizes.filter(|size| !size.is_empty());
    let sizes: Vec<u128> = sizes
        .map(|size| size.parse().unwrap_or(u128::MAX))
        .collect();
    // Where a size is 0 there are no entries, but candle multiplies the other sizes all the same.
    let most = match sizes.contains(&0) {
        true => isize::MAX as u128,
        false => bytes.into(),
    };
    let count = sizes
        .iter()
        .map(|&size| size.max(1))
        .fold(1, u128::saturating_mul);
    ensure!(
        count <= most,
        "its header says that its shape is ({shape}), but it has only {bytes} bytes"
    );
    Ok(())
}

/// Tolerances are such that half precision passes.
fn is_about_one(sum: f64, tolerance: f64) -> bool {
    (sum - 1.0).abs() < tolerance
}

/// The error for a frame whose probabilities have another sum than 1: `row` is as in the file.
fn not_log_probs(row: &[f64], frame: usize, sum: f64) -> anyhow::Error {
    let is_bad = |value: &f64| value.is_nan() || *value == f64::INFINITY;
    if let Some(class) = row.iter().position(is_bad) {
        let bad = row[class];
        return anyhow!("frame {frame} has {bad} at class {class}; expected a number or -inf");
    }
    if row.iter().all(|value| *value == f64::NEG_INFINITY) {
        return anyhow!("frame {frame} has -inf at every class; expected a number at one of them");
    }
    let total: f64 = row.iter().sum();
    if is_about_one(total, 0.1) && row.iter().all(|value| (0.0..=1.0).contains(value)) {
        return anyhow!(
            "frame {frame} has probabilities, which sum to {total:.4}; give their logarithms"
        );
    }
    let sum = match sum {
        sum if (1e-2..1e6).contains(&sum) => format!("{sum:.4}"),
        sum => format!("{sum:.3e}"),
    };
    anyhow!(
        "the probabilities of frame {frame} sum to {sum}, not to 1; --logits normalises logits, and log-probabilities \
         whose sum is not 1, such as the average of two models'"
    )
}

fn from_safetensors(path: &Path, name: Option<&str>) -> Result<Tensor> {
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(short)?;
    let mut names: Vec<String> = tensors.keys().cloned().collect();
    names.sort();
    let name = match (name, &names[..]) {
        (Some(name), _) => name,
        (None, [one]) => one,
        (None, []) => bail!("it holds no tensor"),
        (None, _) => bail!("it holds several tensors; choose one with --tensor: {names:?}"),
    };
    match tensors.remove(name) {
        Some(tensor) => Ok(tensor),
        None => bail!("it holds no tensor {name:?}, only {names:?}"),
    }
}

/// Whether a path stands for standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file that is read, as messages name it.
pub fn shown(path: &Path) -> String {
    match is_dash(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// The transcript of the command line, or all of a file, without the white space at its end.
pub fn transcript(text: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    match file {
        Some(file) => Ok(Some(read_text(file)?.trim_end().to_owned())),
        None => Ok(text.map(str::to_owned)),
    }
}

/// A text file, without the mark of UTF-8 that some editors put in front; standard input for `-`.
pub fn read_text(path: &Path) -> Result<String> {
    let content = match is_dash(path) {
        true => standard_input(),
        false => std::fs::read_to_string(path).map_err(Into::into),
    };
    let content = content.with_context(|| format!("cannot read {}", shown(path)))?;
    Ok(match content.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => content,
    })
}

/// All of standard input, which is empty when it is read again.
fn standard_input() -> Result<String> {
    static READ: AtomicBool = AtomicBool::new(false);
    ensure!(
        !READ.swap(true, Ordering::Relaxed),
        "- stands for it in two options; name a file in all but one"
    );
    Ok(std::io::read_to_string(std::io::stdin())?)
}
