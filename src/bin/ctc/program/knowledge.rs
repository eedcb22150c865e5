//! What the beam search knows of the language: an n-gram model, a lexicon, hotwords, from files.

use super::cli::KnowledgeFiles;
use super::errors::short;
use super::input::{Source, read_text, shown};
use super::ngram;
use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::Tensor;
use candle_ctc::text::{Vocabulary, WordMark};
use candle_ctc::{
    BeamOptions, Hotwords, Hypothesis, Lexicon, LexiconOptions, NgramLm, NoLanguageModel,
    WordModel, beam_search, beam_search_with,
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
    /// What the user should know of the files.
    notes: Vec<String>,
}

/// A word that a language model lacks is hardly ever found if its weighted score is below this, in nats. A model without
/// `<unk>` gives -230 times the weight.
const LEAST_UNKNOWN: f64 = -100.0;

impl Files {
    pub fn read(args: &KnowledgeFiles, vocabulary: &Vocabulary, progress: bool) -> Result<Self> {
        let phrases = match &args.hotwords {
            Some(path) => lines(path, |line| phrase(line, args.boost))?,
            None => Vec::new(),
        };
        let mut notes = Vec::new();
        let words = match &args.lexicon {
            Some(path) => Some(words(path, vocabulary, &mut notes)?),
            None => None,
        };
        let model = args.lm.as_ref().map(|path| ngram::read(path, progress));
        Ok(Self {
            phrases,
            words,
            model: model.transpose()?.map(Arc::new),
            unknown: args.unknown,
            notes,
        })
    }

    /// The note on words that a language model of this weight lacks, if they are hardly ever found.
    fn improbable_unknown(&self, alpha: f64) -> Result<Option<String>> {
        let (Some(model), Some(_)) = (&self.model, self.unknown) else {
            return Ok(None);
        };
        let score = model.estimate(None).map_err(short)?;
        let note = format!(
            "the language model has no <unk>, or an improbable one: each word that it lacks scores {score:.1} nats \
             times alpha, and --unknown on top, so that such words are hardly ever found; ctc ngram --estimate writes \
             models with <unk>"
        );
        Ok((alpha * score < LEAST_UNKNOWN).then_some(note))
    }

    /// A lexicon under the hotwords. A note names those that cannot be found.
    fn under_hotwords<W: WordModel>(
        &self,
        lexicon: Lexicon<W>,
        vocabulary: &Vocabulary,
        notes: &mut Vec<String>,
    ) -> candle_core::Result<Hotwords<Lexicon<W>>> {
        let hotwords = Hotwords::new(vocabulary, self.phrases.clone(), lexicon)?;
        let lost = self.not_in(hotwords.model(), vocabulary)?;
        if !lost.is_empty() {
            let list = match self.words {
                Some(_) => "lexicon",
                None => "language model",
            };
            notes.push(format!(
                "these hotwords cannot be found, since the {list} lacks words of theirs in this spelling: {}; --unknown \
                 lets the search find other words",
                listing(&lost)
            ));
        }
        Ok(hotwords)
    }

    /// The hotwords to prefer that no text of a lexicon contains.
    fn not_in<W: WordModel>(
        &self,
        lexicon: &Lexicon<W>,
        vocabulary: &Vocabulary,
    ) -> candle_core::Result<Vec<&str>> {
        let mut lost = Vec::new();
        for (phrase, boost) in &self.phrases {
            if *boost > 0.0 && !lexicon.can_contain(vocabulary, phrase)? {
                lost.push(phrase.as_str());
            }
        }
        Ok(lost)
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
    /// The notes are what the user should know of the files, and of their use with these weights.
    pub fn new(
        files: &Files,
        vocabulary: &Vocabulary,
        alpha: f64,
        beta: f64,
    ) -> Result<(Self, Vec<String>)> {
        let opts = LexiconOptions {
            lm_weight: alpha,
            word_bonus: beta,
            unknown_score: files.unknown.unwrap_or(f64::NEG_INFINITY),
            skip_unspellable: true,
            ..Default::default()
        };
        let mut notes = files.notes.clone();
        notes.extend(files.improbable_unknown(alpha)?);
        let knowledge = match (files.model.clone(), files.words.clone()) {
            (None, None) if files.phrases.is_empty() => Ok(Self::Nothing),
            (None, None) => Hotwords::new(vocabulary, files.phrases.clone(), NoLanguageModel)
                .map(|model| Self::Phrases(Box::new(model))),
            (None, Some(words)) => {
                Lexicon::with_spellings(vocabulary, words, NoLanguageModel, opts)
                    .and_then(|lexicon| files.under_hotwords(lexicon, vocabulary, &mut notes))
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
                notes.extend(left_out("language model", lexicon.skipped()));
                files.under_hotwords(lexicon, vocabulary, &mut notes)
            })
            .map(|model| Self::WordsWithModel(Box::new(model))),
        };
        Ok((knowledge.map_err(short)?, notes))
    }

    /// The best transcripts, the best first: without special tokens, unless these alone have a probability above 0 in
    /// some frame.
    pub fn transcripts(
        &self,
        source: &Source,
        opts: BeamOptions,
    ) -> candle_core::Result<Vec<Hypothesis>> {
        let opts = BeamOptions {
            blank: source.vocabulary.blank(),
            ..opts
        };
        let special = source.vocabulary.special_classes();
        let without = BeamOptions {
            suppress: &special,
            ..opts
        };
        let found = self.search(&source.log_probs, without)?;
        match found.is_empty() {
            true => self.search(&source.log_probs, opts),
            false => Ok(found),
        }
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
    let shown = shown(path);
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

/// The words of a lexicon. A note names those that the vocabulary cannot spell.
fn words(path: &Path, vocabulary: &Vocabulary, notes: &mut Vec<String>) -> Result<Vec<Spelled>> {
    let (mut spelled, mut skipped, mut reason) = (Vec::new(), Vec::new(), None);
    for (word, spellings) in lines(path, |line| word(line, vocabulary))? {
        match spellings {
            Ok(spellings) => {
                spelled.extend(spellings.into_iter().map(|labels| (word.clone(), labels)))
            }
            Err(error) => {
                skipped.push(word);
                reason.get_or_insert(error);
            }
        }
    }
    if let (true, Some(error)) = (spelled.is_empty(), reason) {
        bail!(
            "{}: the vocabulary can spell none of the words: {}",
            shown(path),
            short(error)
        )
    }
    notes.extend(left_out("lexicon", &skipped));
    Ok(spelled)
}

/// A word with its spellings, or the error if the vocabulary has none.
type Word = (String, candle_core::Result<Vec<Vec<u32>>>);

/// A word as it is spelled at the beginning of a text and after another word, or a word and its tokens.
fn word(line: &str, vocabulary: &Vocabulary) -> Result<Word> {
    let Some((word, tokens)) = line.split_once(char::is_whitespace) else {
        return Ok((line.to_owned(), spellings(line, vocabulary)));
    };
    let labels = vocabulary.encode_tokens(tokens).map_err(short)?;
    Ok((word.to_owned(), Ok(vec![labels])))
}

fn spellings(word: &str, vocabulary: &Vocabulary) -> candle_core::Result<Vec<Vec<u32>>> {
    let first = vocabulary.encode(word)?;
    let text = vocabulary.decode(&first);
    // Tokens that are units have spaces between them within a word, too.
    if *vocabulary.word_mark() != WordMark::EachToken && text.contains(' ') {
        // Such as "a-b", where the rules of a tokenizer.json make words of punctuation.
        candle_core::bail!("it spells {word:?} as several words, {text:?}")
    }
    // A vocabulary without a mark of words has no space.
    let twice = vocabulary.encode(&format!("{word} {word}")).ok();
    let second = twice.and_then(|twice| Some(twice.strip_prefix(&first[..])?.to_vec()));
    Ok([Some(first), second].into_iter().flatten().collect())
}

/// The note on words that the vocabulary cannot spell, if there are any.
fn left_out(list: &str, words: &[String]) -> Option<String> {
    (!words.is_empty()).then(|| {
        format!(
            "these words of the {list} are left out, since the vocabulary cannot spell each as one word: {}",
            listing(words)
        )
    })
}

/// The first of some words, and how many more there are.
fn listing(words: &[impl AsRef<str>]) -> String {
    const MOST: usize = 3;
    let shown = words.iter().take(MOST);
    let shown: Vec<String> = shown.map(|word| format!("{:?}", word.as_ref())).collect();
    let shown = shown.join(", ");
    match words.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
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
