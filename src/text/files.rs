//! The forms of vocabulary files, told apart by their content.

use super::rules::Rules;
use candle_core::{Result, bail};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What a file says.
#[derive(Clone, Default)]
pub(super) struct Source {
    /// The token of each class.
    pub tokens: Vec<String>,
    /// The SentencePiece score of each token.
    pub scores: Option<Vec<f64>>,
    /// Special tokens that the file names as such: never printed.
    pub special: HashSet<u32>,
    /// The token for unknown text, if the file names one.
    pub unknown: Option<u32>,
    /// How the file spells text, where it says so.
    pub rules: Option<Rules>,
}

/// The content of a file, with its name in every error.
pub(super) fn load(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) => bail!("cannot read the vocabulary {}: {error}", path.display()),
    }
}

/// Whether a file's name says that it is JSON.
pub(super) fn is_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Reads a vocabulary. With `json`, text that only looks like JSON is an error and not a list of tokens.
pub(super) fn parse(bytes: &[u8], json: bool) -> Result<Source> {
    let text = text(bytes)?;
    let start = text.trim_start();
    if json || start.starts_with(['{', '[']) {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => return from_json(&value),
            // A list of tokens may begin with "[PAD]" or "{".
            Err(error) if json || starts_like_json(start) => bail!("not valid JSON: {error}"),
            Err(_) => {}
        }
    }
    from_lines(text)
}

fn text(bytes: &[u8]) -> Result<&str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("the vocabulary is UTF-16; save it as UTF-8")
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let binary = "for a SentencePiece .model give its .vocab, which `spm_export_vocab --model=NAME.model \
                  --output=NAME.vocab` writes";
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => {
            bail!("the vocabulary is not text, since it holds zero bytes; {binary}")
        }
        Ok(text) => Ok(text),
        Err(error) => bail!(
            "the vocabulary is not UTF-8 at byte {}; save it as UTF-8, or {binary}",
            error.valid_up_to()
        ),
    }
}

fn starts_like_json(text: &str) -> bool {
    let inside = text[1..].trim_start();
    inside.starts_with('"') || inside.is_empty() && text.len() > 1
}

// ---- JSON

fn from_json(value: &Value) -> Result<Source> {
    match value {
        Value::Array(list) => {
            let token = |(class, value): (usize, &Value)| match value.as_str() {
                Some(token) => Ok(token.to_owned()),
                None => {
                    bail!("entry {class} of the JSON list is {value}; expected a token, as text")
                }
            };
            let tokens = list.iter().enumerate().map(token).collect::<Result<_>>()?;
            Ok(Source {
                tokens,
                ..Default::default()
            })
        }
        Value::Object(object)
            if object
                .get("model")
                .is_some_and(|model| model.get("vocab").is_some()) =>
        {
            from_tokenizer(value)
        }
        Value::Object(object) if !object.is_empty() && object.values().all(Value::is_string) => {
            let entry = |(class, token): (&String, &Value)| match class.parse() {
                Ok(class) => Ok((token.as_str().unwrap_or_default().to_owned(), class)),
                Err(_) => bail!(
                    "{class:?} stands for the text {token}; expected a class, {{\"token\": class}}"
                ),
            };
            let entries = object.iter().map(entry).collect::<Result<_>>()?;
            Ok(Source {
                tokens: by_class(entries)?,
                ..Default::default()
            })
        }
        Value::Object(object) => {
            let entry = |(token, class): (&String, &Value)| match (class.as_u64(), class) {
                (Some(class), _) => Ok((token.clone(), class)),
                (None, Value::Object(_)) => bail!(
                    "the class of {token:?} is an object; if the file has a vocabulary for each language, give that of \
                     one language, as `jq .{token}` prints it"
                ),
                _ => bail!("the class of {token:?} is {class}; expected a number from 0"),
            };
            let entries = object.iter().map(entry).collect::<Result<_>>()?;
            Ok(Source {
                tokens: by_class(entries)?,
                ..Default::default()
            })
        }
        _ => bail!("expected a JSON object from token to class, or a list of tokens"),
    }
}

fn from_tokenizer(value: &Value) -> Result<Source> {
    let model = &value["model"];
    let mut entries: Vec<(String, u64)> = match &model["vocab"] {
        Value::Object(vocab) => vocab
            .iter()
            .filter_map(|(token, class)| Some((token.clone(), class.as_u64()?)))
            .collect(),
        Value::Array(pieces) => pieces
            .iter()
            .enumerate()
            .filter_map(|(class, piece)| Some((piece.get(0)?.as_str()?.to_owned(), class as u64)))
            .collect(),
        other => bail!("model.vocab of the tokenizer is {other}; expected an object or a list"),
    };
    let mut special = HashSet::new();
    let mut texts = Vec::new();
    let known: HashMap<String, u64> = entries.iter().cloned().collect();
    let added = value["added_tokens"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for token in added {
        let (Some(content), Some(class)) = (token["content"].as_str(), token["id"].as_u64()) else {
            bail!("the added token {token} has no content or no id")
        };
        match token["special"] == true {
            true => special.extend(u32::try_from(class)),
            false => texts.push((content, class)),
        }
        if known.get(content) != Some(&class) {
            entries.push((content.to_owned(), class));
        }
    }
    let tokens = by_class(entries)?;
    let unknown = match (model["unk_token"].as_str(), model["unk_id"].as_u64()) {
        (Some(name), _) => tokens
            .iter()
            .position(|token| token == name)
            .map(|class| class as u32),
        (None, id) => id.and_then(|id| u32::try_from(id).ok()),
    };
    let rules = Rules::from_tokenizer_json(&for_spelling(value)?)?;
    for (token, class) in texts {
        let other = rules.class_of(token).filter(|id| u64::from(*id) != class);
        if let Some(other) = other {
            bail!(
                "the added token {token:?} has the id {class}, but would have {other} in a text: give added tokens \
                 that are not in model.vocab the ids that follow those of model.vocab, in order"
            )
        }
    }
    Ok(Source {
        tokens,
        scores: None,
        special,
        unknown,
        rules: Some(rules),
    })
}

/// A `tokenizer.json` without options for training, which would truncate a text, pad its labels, or drop merges at
/// random.
fn for_spelling(value: &Value) -> Result<Value> {
    let mut value = value.clone();
    for option in ["/truncation", "/padding", "/model/dropout"] {
        if let Some(option) = value.pointer_mut(option) {
            *option = Value::Null;
        }
    }
    // The crate `tokenizers` takes this for granted.
    let model = &value["model"];
    if let (Some(prefix), Some(merges)) = (
        model["continuing_subword_prefix"].as_str(),
        model["merges"].as_array(),
    ) {
        for merge in merges {
            let right = match merge.as_str() {
                Some(pair) => pair.split_once(' ').map(|(_, right)| right),
                None => merge.get(1).and_then(Value::as_str),
            };
            if !right.is_some_and(|right| right.starts_with(prefix)) {
                bail!(
                    "the merge {merge} of the tokenizer.json does not continue a word with {prefix:?}"
                )
            }
        }
    }
    Ok(value)
}

/// The tokens in the order of their classes.
fn by_class(entries: Vec<(String, u64)>) -> Result<Vec<String>> {
    let count = entries.len();
    let mut tokens: Vec<Option<String>> = vec![None; count];
    let mut beyond: Option<(String, u64)> = None;
    for (token, class) in entries {
        let slot = usize::try_from(class)
            .ok()
            .and_then(|class| tokens.get_mut(class));
        let Some(slot) = slot else {
            beyond.get_or_insert((token, class));
            continue;
        };
        if let Some(other) = slot.replace(token.clone()) {
            bail!("class {class} has two tokens, {other:?} and {token:?}")
        }
    }
    if let Some(missing) = tokens.iter().position(Option::is_none) {
        let hint = beyond.map_or(String::new(), |(token, class)| {
            format!(
                ", but {token:?} has class {class}; a file with other tokens may belong to this one"
            )
        });
        bail!("class {missing} has no token among {count}{hint}")
    }
    // None is missing.
    Ok(tokens.into_iter().flatten().collect())
}

// ---- Lines

fn from_lines(text: &str) -> Result<Source> {
    let mut lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    if let Some(scored) = scored(&lines)? {
        return Ok(scored);
    }
    // Tokens may be numbers, too: a form that all lines have goes before one that most have.
    let of_all = |form: Form| -> Option<Vec<(String, u64)>> {
        lines.iter().map(|line| form(line)).collect()
    };
    let entries = match of_all(token_id).or_else(|| of_all(id_token)) {
        Some(entries) => Some(entries),
        None => {
            refuse_most(&lines, token_id)?;
            refuse_most(&lines, id_token)?;
            None
        }
    };
    if let Some(entries) = entries {
        return Ok(Source {
            tokens: without_disambiguation(by_class(entries)?),
            ..Default::default()
        });
    }
    let tokens = lines.into_iter().map(str::to_owned).collect();
    Ok(Source {
        tokens,
        ..Default::default()
    })
}

/// `token<TAB>score` on each line, if this is the form. Classes are never negative and have no decimals.
fn scored(lines: &[&str]) -> Result<Option<Source>> {
    let parse = |line: &str| -> Option<(String, f64, bool)> {
        let (token, score) = line.rsplit_once('\t')?;
        let is_class = score.bytes().all(|byte| byte.is_ascii_digit());
        Some((token.to_owned(), score.parse().ok()?, is_class))
    };
    let parsed: Vec<_> = lines.iter().map(|line| parse(line)).collect();
    let fitting = parsed.iter().flatten().count();
    let some_score = parsed.iter().flatten().any(|(_, _, is_class)| !is_class);
    if !some_score || 2 * fitting < lines.len() {
        return Ok(None);
    }
    let mut source = Source::default();
    let mut scores = Vec::new();
    for (number, (parsed, line)) in parsed.into_iter().zip(lines).enumerate() {
        match parsed {
            Some((token, score, _)) if score.is_finite() => {
                source.tokens.push(token);
                scores.push(score);
            }
            _ => bail!(
                "line {} is {line:?}; expected a token, a tab and a score, as the others have",
                number + 1
            ),
        }
    }
    source.scores = Some(scores);
    Ok(Some(source))
}

fn token_id(line: &str) -> Option<(String, u64)> {
    let (token, id) = line.rsplit_once([' ', '\t'])?;
    let id = number(id)?;
    // A line for the space itself holds nothing else.
    let trimmed = token.trim_end_matches([' ', '\t']);
    Some((
        if trimmed.is_empty() { token } else { trimmed }.to_owned(),
        id,
    ))
}

fn id_token(line: &str) -> Option<(String, u64)> {
    let (id, token) = line.split_once([' ', '\t'])?;
    let trimmed = token.trim_start_matches([' ', '\t']);
    Some((
        if trimmed.is_empty() { token } else { trimmed }.to_owned(),
        number(id)?,
    ))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// How a line gives a token and its number.
type Form = fn(&str) -> Option<(String, u64)>;

/// An error if this is the form of most lines, but not of all.
fn refuse_most(lines: &[&str], form: Form) -> Result<()> {
    let fits: Vec<bool> = lines.iter().map(|line| form(line).is_some()).collect();
    let fitting = fits.iter().filter(|fits| **fits).count();
    if fitting == 0 || 2 * fitting < lines.len() {
        return Ok(());
    }
    match fits.iter().position(|fits| !fits) {
        Some(line) => bail!(
            "line {} is {:?}; expected a token and a number, as {fitting} of {} lines have",
            line + 1,
            lines[line],
            lines.len()
        ),
        None => Ok(()),
    }
}

/// Without `#0`, `#1`, ... at the end, which the decoding graphs of k2 and Kaldi use and no model has as classes.
fn without_disambiguation(mut tokens: Vec<String>) -> Vec<String> {
    while tokens
        .last()
        .is_some_and(|token| token.strip_prefix('#').and_then(number).is_some())
    {
        tokens.pop();
    }
    tokens
}
