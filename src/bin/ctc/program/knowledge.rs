//! What the beam search knows of the language: an n-gram model, a lexicon, hotwords, from files.

use super::cli::KnowledgeFiles;
use super::errors::short;
use super::input::read_text;
use super::ngram;
use anyhow::{Context, Result, anyhow, ensure};
use candle_core::Tensor;
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, Hotwords, Hypothesis, Lexicon, LexiconOptions, NgramLm, NoLanguageModel,
    beam_search, beam_search_with,
};
use std::path::Path;
use std::sync::Arc;

/// A word with its spelling as labels.
type Spelled = (String, Vec<u32>);

/// What the files say, read once for all weights.
pub struct Files {
    phrases: Vec<(String, f64)>,
    words: Option<Vec<Spelled>>,
    model: Option<Arc<NgramLm>>,
    unknown: Option<f64>,
}

impl Files {
    pub fn read(args: &KnowledgeFiles, vocabulary: &Vocabulary, progress: bool) -> Result<Self> {
        let phrases = match &args.hotwords {
            Some(path) => lines(path, |line| phrase(line, args.boost))?,
            None => Vec::new(),
        };
        let words = match &args.lexicon {
            Some(path) => Some(lines(path, |line| spelled(line, vocabulary))?.concat()),
            None => None,
        };
        let model = args.lm.as_ref().map(|path| ngram::read(path, progress));
        let files = Self {
            phrases,
            words,
            model: model.transpose()?.map(Arc::new),
            unknown: args.unknown,
        };
        ensure!(
            files.unknown.is_none() || files.has_words(),
            "--unknown is about words: it needs --lm or --lexicon"
        );
        Ok(files)
    }

    /// Whether there are words, which have a weight.
    pub fn has_words(&self) -> bool {
        self.has_model() || self.words.is_some()
    }

    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }
}

/// One model for each way to put the parts together.
pub enum Knowledge {
    Nothing,
    Phrases(Box<Hotwords>),
    Words(Box<Hotwords<Lexicon>>),
    WordsWithModel(Box<Hotwords<Lexicon<Arc<NgramLm>>>>),
}

impl Knowledge {
    /// The notes are what the user should know of the files.
    pub fn new(
        files: &Files,
        vocabulary: &Vocabulary,
        alpha: f64,
        beta: f64,
    ) -> Result<(Self, Vec<String>)> {
        ensure!(
            beta == 0.0 || files.has_words(),
            "--beta is about words: it needs --lm or --lexicon"
        );
        let opts = LexiconOptions {
            lm_weight: alpha,
            word_bonus: beta,
            unknown_score: files.unknown.unwrap_or(f64::NEG_INFINITY),
            skip_unspellable: true,
            ..Default::default()
        };
        let mut notes = Vec::new();
        let (phrases, listed) = (files.phrases.clone(), files.words.clone());
        let knowledge = match (files.model.clone(), listed) {
            (None, None) if phrases.is_empty() => Ok(Self::Nothing),
            (None, None) => Hotwords::new(vocabulary, phrases, NoLanguageModel)
                .map(|model| Self::Phrases(Box::new(model))),
            (None, Some(words)) => {
                Lexicon::with_spellings(vocabulary, words, NoLanguageModel, opts)
                    .and_then(|lexicon| Hotwords::new(vocabulary, phrases, lexicon))
                    .map(|model| Self::Words(Box::new(model)))
            }
            (Some(model), words) => match words {
                Some(words) => Lexicon::with_spellings(vocabulary, words, model, opts),
                None => {
                    let words: Vec<String> = model.words().map(str::to_owned).collect();
                    Lexicon::new(vocabulary, words, model, opts)
                }
            }
            .and_then(|lexicon| {
                if let [first, ..] = lexicon.skipped() {
                    let count = lexicon.skipped().len();
                    notes.push(format!(
                        "the vocabulary cannot spell {count} words of the language model, such as {first:?}"
                    ));
                }
                Hotwords::new(vocabulary, phrases, lexicon)
            })
            .map(|model| Self::WordsWithModel(Box::new(model))),
        };
        Ok((knowledge.map_err(short)?, notes))
    }

    pub fn search(
        &self,
        log_probs: &Tensor,
        opts: BeamOptions,
    ) -> candle_core::Result<Vec<Hypothesis>> {
        match self {
            Self::Nothing => beam_search(log_probs, opts),
            Self::Phrases(model) => beam_search_with(log_probs, &**model, opts),
            Self::Words(model) => beam_search_with(log_probs, &**model, opts),
            Self::WordsWithModel(model) => beam_search_with(log_probs, &**model, opts),
        }
    }
}

/// What `read` makes of each line that is not blank. Errors name the file and the line.
fn lines<T>(path: &Path, read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let shown = path.display();
    let content = read_text(path)?;
    let lines = content.lines().enumerate();
    let entries: Vec<T> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            read(line.trim()).with_context(|| format!("{shown}: line {}", index + 1))
        })
        .collect::<Result<_>>()?;
    ensure!(!entries.is_empty(), "{shown} has no lines");
    Ok(entries)
}

/// A word as it is spelled at the beginning of a text and behind another word, or a word and its tokens.
fn spelled(line: &str, vocabulary: &Vocabulary) -> Result<Vec<Spelled>> {
    let spelled = |word: &str, labels: &[u32]| (word.to_owned(), labels.to_vec());
    let Some((word, tokens)) = line.split_once(char::is_whitespace) else {
        let first = vocabulary.encode(line).map_err(short)?;
        // A vocabulary without a mark of words has no space.
        let twice = vocabulary.encode(&format!("{line} {line}")).ok();
        let second = twice
            .as_deref()
            .and_then(|twice| twice.strip_prefix(&first[..]));
        let places = [Some(&first[..]), second].into_iter().flatten();
        return Ok(places.map(|labels| spelled(line, labels)).collect());
    };
    let labels = vocabulary.encode_tokens(tokens).map_err(short)?;
    Ok(vec![spelled(word, &labels)])
}

/// A phrase, or a phrase, a tab and its boost.
fn phrase(line: &str, boost: f64) -> Result<(String, f64)> {
    let Some((phrase, number)) = line.split_once('\t') else {
        return Ok((line.to_owned(), boost));
    };
    let boost = number.trim().parse();
    let boost = boost.map_err(|_| anyhow!("the boost {number:?} is not a number"))?;
    Ok((phrase.trim().to_owned(), boost))
}
