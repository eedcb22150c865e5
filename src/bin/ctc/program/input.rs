//! Emissions and vocabularies from files.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// One utterance and what its classes mean.
pub struct Source {
    /// (T, C), f32 or f64.
    pub log_probs: Tensor,
    pub frames: usize,
    pub vocabulary: Vocabulary,
    /// Seconds from one frame to the next.
    pub hop: f64,
}

pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Over the last dimension. candle-nn has one, too; nothing else of it is needed here.
pub fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sum)
}

/// Log-probabilities of shape (T, C).
pub fn emissions(path: &Path, name: Option<&str>, logits: bool) -> Result<Tensor> {
    let shown = path.display();
    // For a plain message when the file is missing; candle's readers wrap it in their own.
    std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let tensor = match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => Tensor::read_npy(path).map_err(short),
        Some("safetensors") => from_safetensors(path, name),
        _ => bail!("{shown}: emissions must be a .npy or .safetensors file"),
    };
    let tensor = tensor.with_context(|| format!("cannot use {shown}"))?;
    let tensor = match tensor.dims() {
        [1, _, _] => tensor.squeeze(0)?,
        [_, _] => tensor,
        other => bail!("{shown} has shape {other:?}; expected (T, C) or (1, T, C)"),
    };
    ensure!(
        tensor.elem_count() > 0,
        "{shown} has shape {:?}; there is nothing in it",
        tensor.dims()
    );
    let tensor = match tensor.dtype() {
        DType::F32 | DType::F64 => tensor,
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32)?,
        other => bail!("{shown} has dtype {other:?}; expected f16, bf16, f32 or f64"),
    };
    if logits {
        return Ok(log_softmax(&tensor)?);
    }
    // The most common mistake is to forget --logits: log-probabilities sum to 1 in each frame.
    let sums = tensor.exp()?.sum(D::Minus1)?.to_dtype(DType::F64)?;
    for (frame, sum) in sums.to_vec1::<f64>()?.into_iter().enumerate() {
        // Loose enough for half precision.
        ensure!(
            (sum - 1.0).abs() < 0.05,
            "{shown}: the probabilities of frame {frame} sum to {sum:.4}, not to 1; if these are \
             logits, add --logits"
        );
    }
    Ok(tensor)
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

/// The first line of an error: candle may add a backtrace behind it.
fn short(error: candle_core::Error) -> anyhow::Error {
    let text = error.to_string();
    anyhow::anyhow!("{}", text.lines().next().unwrap_or("unknown error"))
}

/// What the classes mean.
#[derive(Debug)]
pub struct Vocabulary {
    /// The token of each class.
    pub tokens: Vec<String>,
    pub blank: usize,
    /// The class between words.
    pub separator: Option<u32>,
    classes: HashMap<String, u32>,
    /// Characters of the longest token.
    longest: usize,
}

const BLANKS: [&str; 6] = ["<blank>", "<blk>", "<pad>", "[PAD]", "<ctc>", ""];
const SEPARATORS: [&str; 3] = ["|", "▁", " "];

impl Vocabulary {
    pub fn load(path: &Path, blank: Option<&str>, separator: Option<&str>) -> Result<Self> {
        let text = read(path)?;
        let json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let tokens = if json {
            from_json(&text)
        } else {
            Ok(text.lines().map(str::to_owned).collect())
        };
        let tokens = tokens.with_context(|| format!("cannot use {}", path.display()))?;
        Self::new(tokens, blank, separator)
            .with_context(|| format!("cannot use {}", path.display()))
    }

    fn new(tokens: Vec<String>, blank: Option<&str>, separator: Option<&str>) -> Result<Self> {
        ensure!(!tokens.is_empty(), "it has no tokens");
        let mut classes = HashMap::new();
        for (class, token) in tokens.iter().enumerate() {
            if let Some(first) = classes.insert(token.clone(), class as u32) {
                bail!("the token {token:?} stands for both class {first} and class {class}")
            }
        }
        let class_of = |token: &str| classes.get(token).copied();
        let blank = match blank {
            Some(blank) => match (class_of(blank), blank.parse::<usize>()) {
                (Some(class), _) => class as usize,
                (None, Ok(class)) if class < tokens.len() => class,
                _ => bail!("the blank {blank:?} is neither a token nor a class"),
            },
            None => BLANKS.iter().find_map(|b| class_of(b)).unwrap_or(0) as usize,
        };
        let separator = match separator {
            Some(separator) => match class_of(separator) {
                Some(class) => Some(class),
                None => bail!("the separator {separator:?} is no token"),
            },
            None => SEPARATORS.iter().find_map(|s| class_of(s)),
        };
        ensure!(
            separator != Some(blank as u32),
            "the blank and the separator are the same token"
        );
        let longest = tokens.iter().map(|t| t.chars().count()).max();
        Ok(Self {
            longest: longest.unwrap_or(0),
            tokens,
            blank,
            separator,
            classes,
        })
    }

    /// The classes of a text: at each place the longest token that fits. Spaces stand for the
    /// separator, if there is one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = match self.separator {
            Some(separator) => words.join(&self.tokens[separator as usize]),
            None => words.join(" "),
        };
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let ends: Vec<usize> = starts.iter().copied().skip(1).chain([text.len()]).collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < starts.len() {
            let lengths = (1..=self.longest.min(starts.len() - at)).rev();
            let found = lengths.into_iter().find_map(|length| {
                let token = &text[starts[at]..ends[at + length - 1]];
                let class = *self.classes.get(token)?;
                (class as usize != self.blank).then_some((class, length))
            });
            let Some((class, length)) = found else {
                let character = text[starts[at]..].chars().next().unwrap_or(' ');
                let cases = [
                    character.to_lowercase().to_string(),
                    character.to_uppercase().to_string(),
                ];
                let other = cases.iter().find(|case| self.classes.contains_key(*case));
                let hint = other.map_or(String::new(), |other| format!(", but {other:?} is one"));
                bail!(
                    "no token of the vocabulary fits {character:?} at character {} of {:?}{hint}",
                    at + 1,
                    words.join(" ")
                )
            };
            tokens.push(class);
            at += length;
        }
        Ok(tokens)
    }

    /// The text of classes, with spaces for separators.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text: String = tokens
            .iter()
            .map(|&token| match self.separator {
                Some(separator) if separator == token => " ",
                _ => self.tokens[token as usize].as_str(),
            })
            .collect();
        text.trim().to_owned()
    }
}

fn from_json(text: &str) -> Result<Vec<String>> {
    let value: serde_json::Value = serde_json::from_str(text).context("it is not valid JSON")?;
    let name = |value: &serde_json::Value| match value.as_str() {
        Some(token) => Ok(token.to_owned()),
        None => bail!("{value} is not a token; expected a text"),
    };
    if let Some(list) = value.as_array() {
        return list.iter().map(name).collect();
    }
    let Some(object) = value.as_object() else {
        bail!("expected an object from token to class, or a list of tokens")
    };
    let mut tokens = vec![None; object.len()];
    for (token, class) in object {
        let slot = class
            .as_u64()
            .and_then(|class| tokens.get_mut(usize::try_from(class).ok()?));
        let Some(slot) = slot else {
            bail!(
                "the class of {token:?} is {class}; expected 0 to {}, each once",
                object.len() - 1
            )
        };
        if let Some(other) = slot.replace(token.clone()) {
            bail!("class {class} has two tokens, {other:?} and {token:?}")
        }
    }
    // As many tokens as classes, none twice: every class has one.
    Ok(tokens.into_iter().flatten().collect())
}
