//! From what a file says, and what the caller chooses, to a vocabulary.

use super::choices::{Choices, TokenOrClass};
use super::files::{self, Source};
use super::marks::{find_mark, surfaces};
use super::prepare::Case;
use super::rules::Rules;
use super::surface::{Surface, WordMark};
use super::vocabulary::Vocabulary;
use aho_corasick::AhoCorasick;
use candle_core::{Error, Result, bail};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Reads a [`Vocabulary`] with settings that the vocabulary alone does not tell.
///
/// ```
/// use candle_ctc::text::Vocabulary;
///
/// # fn main() -> candle_core::Result<()> {
/// // NeMo's blank is the class after the last token.
/// let vocabulary = Vocabulary::builder().blank(3).from_tokens([" ", "a", "b"])?;
/// assert_eq!((vocabulary.blank(), vocabulary.class_count()), (3, 4));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct VocabularyBuilder {
    choices: Choices,
}

impl Vocabulary {
    /// A vocabulary from tokens in the order of their classes. For a blank without a known name, and other settings,
    /// see [`Self::builder`].
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<blk>", "▁the", "▁c", "at", "s"])?;
    /// let labels = vocabulary.encode("the cats")?;
    /// assert_eq!(labels, [1, 2, 3, 4]);
    /// assert_eq!(vocabulary.decode(&labels), "the cats");
    ///
    /// let phonemes = Vocabulary::from_tokens(["<eps>", "HH", "AH", "L", "OW"])?;
    /// assert_eq!(phonemes.encode("HH AH L OW")?, [1, 2, 3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A token that occurs twice, no tokens, or no blank with a known name, or several.
    pub fn from_tokens<S: Into<String>>(tokens: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::builder().from_tokens(tokens)
    }

    /// A vocabulary from a file of any form that the [module](super) lists.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or has none of the forms; no blank with a known name, or several. The error names the
    /// file.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().from_path(path)
    }

    /// A vocabulary from the content of a file, see [`Self::from_path`].
    ///
    /// # Errors
    ///
    /// Those of [`Self::from_path`], without a name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::builder().from_bytes(bytes)
    }

    /// Reads a vocabulary with a blank, a word mark, a case or scores that you choose.
    pub fn builder() -> VocabularyBuilder {
        VocabularyBuilder::default()
    }

    /// The same vocabulary with another blank: a token, or a class. The class after the last token adds one.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"])?.with_blank("b")?;
    /// assert_eq!(vocabulary.blank(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A token that is not in the vocabulary, or a class that is too large.
    pub fn with_blank(self, blank: impl Into<TokenOrClass>) -> Result<Self> {
        let choices = Choices {
            blank: Some(blank.into()),
            ..self.choices
        };
        assemble(self.source, choices)
    }
}

// `from_path` and the like are the last step of a chain, as in the crate `csv`.
#[allow(clippy::wrong_self_convention)]
impl VocabularyBuilder {
    /// The blank: a token, or a class. The class after the last token is a blank without a token.
    pub fn blank(mut self, blank: impl Into<TokenOrClass>) -> Self {
        self.choices.blank = Some(blank.into());
        self
    }

    /// How words are marked.
    pub fn word_mark(mut self, mark: WordMark) -> Self {
        self.choices.mark = Some(mark);
        self
    }

    /// What happens to the case of text.
    pub fn case(mut self, case: Case) -> Self {
        self.choices.case = Some(case);
        self
    }

    /// SentencePiece's score of each token, for a vocabulary file that has none, as those of icefall and WeNet. Scores
    /// of other tokens are ignored; a token that stands for text and has no score is an error.
    pub fn scores<S: Into<String>>(mut self, scores: impl IntoIterator<Item = (S, f64)>) -> Self {
        let scores = scores
            .into_iter()
            .map(|(token, score)| (token.into(), score));
        self.choices.scores = Some(scores.collect());
        self
    }

    /// The scores of SentencePiece's `.vocab` file, see [`Self::scores`].
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or has no scores.
    pub fn scores_from_path(self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source = in_file(path, files::parse(&files::load(path)?, false))?;
        match source.scores {
            Some(scores) => Ok(self.scores(source.tokens.into_iter().zip(scores))),
            None => bail!(
                "{} has no scores; expected a token, a tab and a score a line",
                path.display()
            ),
        }
    }

    /// See [`Vocabulary::from_tokens`].
    ///
    /// # Errors
    ///
    /// Those of [`Vocabulary::from_tokens`], and settings that do not fit the tokens.
    pub fn from_tokens<S: Into<String>>(
        self,
        tokens: impl IntoIterator<Item = S>,
    ) -> Result<Vocabulary> {
        let tokens = tokens.into_iter().map(Into::into).collect();
        assemble(
            Source {
                tokens,
                ..Default::default()
            },
            self.choices,
        )
    }

    /// See [`Vocabulary::from_path`].
    ///
    /// # Errors
    ///
    /// Those of [`Vocabulary::from_path`], and settings that do not fit the tokens.
    pub fn from_path(self, path: impl AsRef<Path>) -> Result<Vocabulary> {
        let path = path.as_ref();
        let bytes = files::load(path)?;
        let source = files::parse(&bytes, files::is_json(path));
        in_file(
            path,
            source.and_then(|source| assemble(source, self.choices)),
        )
    }

    /// See [`Vocabulary::from_bytes`].
    ///
    /// # Errors
    ///
    /// Those of [`Vocabulary::from_bytes`], and settings that do not fit the tokens.
    pub fn from_bytes(self, bytes: &[u8]) -> Result<Vocabulary> {
        assemble(files::parse(bytes, false)?, self.choices)
    }
}

fn in_file<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        // Without a backtrace in the middle of the message.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        Error::msg(format!("{}: {line}", path.display()))
    })
}

/// Builds a vocabulary, or says what does not fit.
pub(super) fn assemble(mut source: Source, choices: Choices) -> Result<Vocabulary> {
    if source.tokens.is_empty() {
        bail!("the vocabulary has no tokens")
    }
    if u32::try_from(source.tokens.len()).is_err() {
        bail!(
            "the vocabulary has {} tokens; expected less than 2^32",
            source.tokens.len()
        )
    }
    let mut classes = HashMap::with_capacity(source.tokens.len());
    for (token, class) in source.tokens.iter().zip(0u32..) {
        if let Some(first) = classes.insert(token.clone(), class) {
            bail!(
                "the token {token:?} is class {first} and class {class}; each token must have one class"
            )
        }
    }
    let blank = find_blank(&mut source, &mut classes, choices.blank.as_ref())?;
    if let Some(scores) = &mut source.scores {
        // A blank after the last token.
        scores.resize(source.tokens.len(), 0.0);
    }
    let mark = match &choices.mark {
        Some(mark) => mark.clone(),
        None => find_mark(&source, blank),
    };
    if mark.text() == Some("") {
        bail!("the mark of words, {mark:?}, is empty; expected the text that marks a word")
    }
    if let WordMark::Separator(separator) = &mark {
        match classes.get(separator) {
            None => bail!("the separator {separator:?} is not a token"),
            Some(&class) if class == blank => bail!("{separator:?} is the blank and the separator"),
            Some(_) => {}
        }
    }
    let surfaces = surfaces(&source, blank, &mark);
    if let Some(scores) = &choices.scores {
        source.scores = Some(assign_scores(&source, &surfaces, scores)?);
    }
    let mut rules = source.rules.clone();
    if let (None, Some(scores)) = (&rules, &source.scores) {
        rules = Rules::from_scores(&source.tokens, scores, &surfaces)?;
    }

    let mut characters = HashSet::new();
    let mut word_starts = HashSet::new();
    let mut bytes = HashMap::new();
    let mut matched = Vec::new();
    for (surface, class) in surfaces.iter().zip(0u32..) {
        match surface {
            Surface::Text(text) => {
                matched.push(class);
                let text = String::from_utf8_lossy(text);
                characters.extend(text.chars());
                word_starts.extend(text.strip_prefix(' ').and_then(|rest| rest.chars().next()));
            }
            Surface::Byte(byte) => {
                bytes.insert(*byte, class);
            }
            Surface::Silent | Surface::Name(_) => {}
        }
    }
    let patterns = matched
        .iter()
        .map(|&class| surfaces[class as usize].bytes());
    let matcher = AhoCorasick::new(patterns).map_err(|error| {
        Error::msg(format!(
            "the tokens are too long to be searched for: {error}"
        ))
    })?;
    let case = choices.case.unwrap_or_else(|| Case::of(&characters));
    let has_space = surfaces
        .iter()
        .any(|surface| *surface == Surface::Text(b" ".to_vec()));
    Ok(Vocabulary {
        source,
        choices,
        classes,
        blank,
        mark,
        case,
        surfaces,
        characters,
        word_starts,
        has_space,
        matcher,
        matched,
        bytes,
        rules,
    })
}

fn assign_scores(
    source: &Source,
    surfaces: &[Surface],
    scores: &HashMap<String, f64>,
) -> Result<Vec<f64>> {
    let tokens = source.tokens.iter().zip(surfaces).enumerate();
    let score = |(class, (token, surface)): (usize, (&String, &Surface))| match scores.get(token) {
        Some(score) if score.is_finite() => Ok(*score),
        Some(score) => bail!("the score of the token {token:?} is {score}; it must be finite"),
        None if matches!(surface, Surface::Text(_)) => bail!(
            "the token {token:?}, class {class}, has no score; the scores seem to be those of another vocabulary"
        ),
        None => Ok(0.0),
    };
    tokens.map(score).collect()
}

/// Names of blanks, in ranks: a name counts only where none of an earlier rank is a token.
const BLANKS: [&[&str]; 2] = [
    &["<blank>", "<blk>", "<ctc>"],
    &["<pad>", "[pad]", "<eps>", ""],
];

/// The blank's class. A blank after the last token is added.
fn find_blank(
    source: &mut Source,
    classes: &mut HashMap<String, u32>,
    chosen: Option<&TokenOrClass>,
) -> Result<u32> {
    let tokens = &mut source.tokens;
    let count = tokens.len();
    match chosen {
        Some(TokenOrClass::Token(token)) => {
            return match classes.get(token) {
                Some(&class) => Ok(class),
                None => bail!(
                    "the blank {token:?} is not a token; a blank without a token is given as a class"
                ),
            };
        }
        Some(&TokenOrClass::Class(class)) if (class as usize) < count => return Ok(class),
        Some(&TokenOrClass::Class(class)) if class as usize == count => {
            if let Some(other) = classes.insert("<blank>".to_owned(), class) {
                bail!(
                    "the blank is given as class {class}, behind the last token, but class {other} is \"<blank>\"; \
                     give {other}, or leave the blank out"
                )
            }
            tokens.push("<blank>".to_owned());
            return Ok(class);
        }
        Some(TokenOrClass::Class(class)) => bail!(
            "the blank is given as class {class}; the vocabulary has classes 0 to {}, and class {count} would be a \
             blank behind the last token",
            count - 1
        ),
        None => {}
    }
    let named = |token: &&(String, u32), names: &[&str]| names.contains(&token.0.as_str());
    let lower: Vec<(String, u32)> = tokens
        .iter()
        .map(|token| token.to_lowercase())
        .zip(0..)
        .collect();
    for names in BLANKS {
        let found: Vec<u32> = lower
            .iter()
            .filter(|token| named(token, names))
            .map(|token| token.1)
            .collect();
        match found[..] {
            [] => {}
            [class] => return Ok(class),
            [first, second, ..] => bail!(
                "the blank may be {:?} (class {first}) or {:?} (class {second}); name it with \
                 Vocabulary::builder().blank(...)",
                tokens[first as usize],
                tokens[second as usize]
            ),
        }
    }
    let greek = |token: &String| token.chars().all(|c| matches!(c, 'α'..='ω')) && token != "ε";
    let ends = [0, count - 1]
        .into_iter()
        .filter(|&class| match tokens[class].as_str() {
            "-" | "_" => true,
            "ε" => !tokens.iter().any(|token| !token.is_empty() && greek(token)),
            _ => false,
        });
    let mut ends: Vec<usize> = ends.collect();
    ends.dedup();
    match ends[..] {
        [class] => Ok(class as u32),
        _ => bail!(
            "which class is the blank? No token, or more than one, has a known name for it (<blank>, <blk>, <ctc>, \
             <pad>, [PAD], <eps>, the empty token; ε, - or _ as the first or last token). The first token is {:?}, the \
             last is {:?}, class {}. Name the blank with Vocabulary::builder().blank(...), by its token or class; class \
             {count} stands for a blank behind the last token, as NeMo has it. A blank before the first token, as \
             PaddleOCR has it, is put first in the list of tokens",
            tokens[0],
            tokens[count - 1],
            count - 1
        ),
    }
}
