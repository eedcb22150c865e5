//! A lexicon: words and how they are spelled, with a model of words.

use super::spelling::{BOUNDARY, Symbols};
use super::tree::{LabelTree, ROOT};
use super::words::WordModel;
use crate::decode::language_model::{LanguageModel, NoLanguageModel, check_weight};
use crate::text::{TokenEdges, Vocabulary};
use candle_core::{Result, bail};
use std::collections::HashMap;

/// An expectation below this counts as this, so that a rare word does not loosen the bound on all scores.
const LEAST_EXPECTED: f64 = -25.0;

/// What rounding may add to the score of a token.
const ROUNDING: f64 = 1e-6;

/// The word of an entry that the word model does not know. It is the number of no other word.
const UNKNOWN: u32 = u32::MAX;

/// The options of a [`Lexicon`].
///
/// All scores are in nats. [`BeamOptions::lm_weight`](crate::BeamOptions::lm_weight) multiplies the score of the
/// lexicon as a whole; `lm_weight` here multiplies that of the word model alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LexiconOptions {
    /// The weight of the word model's scores, from 0 to 1e100. Default 1. With 0 the words of the lexicon are still the
    /// only ones, or others cost `unknown_score`.
    pub lm_weight: f64,
    /// Added for each word, from −1e6 to 1e6. Default 0.
    pub word_bonus: f64,
    /// Added for each word that is not in the lexicon, to the word model's score of an unknown word: from −1e9
    /// to 1e6. Default −inf: there are no such words.
    pub unknown_score: f64,
    /// How many spellings of each word the vocabulary gives, at least 1: that of
    /// [`Vocabulary::encode`](crate::text::Vocabulary::encode), then others, those with long tokens first. A word that
    /// the vocabulary spells differently at the start of a text gets up to this many spellings for each of the two
    /// positions. Default 1.
    pub spellings: usize,
    /// Whether words that the vocabulary cannot spell, or cannot spell as one word, are left out; otherwise they are an
    /// error. Default `false`.
    pub skip_unspellable: bool,
    /// The number of readings of a prefix that are kept, at least 1. A prefix has several where words are spelled alike
    /// or nothing marks where words end. Default 32.
    pub readings: usize,
}

impl Default for LexiconOptions {
    fn default() -> Self {
        Self {
            lm_weight: 1.0,
            word_bonus: 0.0,
            unknown_score: f64::NEG_INFINITY,
            spellings: 1,
            skip_unspellable: false,
            readings: 32,
        }
    }
}

/// Words and their spellings, with a model of words: a [`LanguageModel`] that lets a beam search find these words only,
/// or others at a cost.
///
/// A text of finished words has the sum of the word model's scores, plus `word_bonus` for each word. An unfinished word
/// has the score of the best word that it may become, without a history ([`WordModel::estimate`]); when the word ends,
/// its own score takes the place of that. A text cannot end in the middle of a word:
/// [`BeamOptions::end`](crate::BeamOptions::end) decides whether a hypothesis that does is kept.
///
/// Words end where the vocabulary marks it. Separators may also stand at the ends of a text and several in a row. Where
/// nothing marks words ([`WordMark::EachToken`](crate::text::WordMark::EachToken),
/// [`WordMark::None`](crate::text::WordMark::None), and tokens of scripts without spaces), words follow each other
/// directly. If a prefix can be read in several ways, the best one counts.
///
/// With `unknown_score`, any tokens between two boundaries are a word unless the lexicon has it. Where nothing marks
/// words, such a word is one token.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::text::Vocabulary;
/// use candle_ctc::{BeamOptions, Lexicon, LexiconOptions, NgramLm, beam_search_with};
///
/// # fn main() -> candle_core::Result<()> {
/// let arpa = "\\data\\\nngram 1=5\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-0.5 cat\n-1.5 car\n-3 <unk>\n\n\\end\\\n";
/// let lm = NgramLm::from_arpa(arpa.as_bytes())?; // or from_path("4gram.arpa.gz")
/// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "c", "r", "t"])?;
/// let lexicon = Lexicon::new(&vocabulary, lm.words(), &lm, LexiconOptions::default())?;
///
/// let row = |class: usize| (0..6).map(|c| if c == class { 0.75f32 } else { 0.05 }).collect::<Vec<_>>();
/// let probs = Tensor::new(vec![row(3), row(2), vec![0.1, 0.1, 0.1, 0.1, 0.35, 0.25]], &Device::Cpu)?;
/// let best = beam_search_with(&probs.log()?, &lexicon, BeamOptions::default())?.remove(0);
/// assert_eq!(vocabulary.decode(&best.tokens), "cat"); // the emissions alone say "car"
/// assert!((best.lm_score - lm.score_sentence(&["cat"])).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Lexicon<W = NoLanguageModel> {
    model: W,
    opts: LexiconOptions,
    symbols: Symbols,
    tree: LabelTree,
    /// For each node, the largest expected score of the words that begin with it and are longer.
    expected: Vec<f64>,
    /// What is expected of a word that is not in the lexicon; −inf without such words.
    expected_unknown: f64,
    /// The most that a token can add to a reading at each node, between words (at the root), and in a word that is not
    /// in the lexicon.
    gain: Vec<f64>,
    gain_unlisted: f64,
    /// The tokens that may stand after the last token of a word.
    behind_words: Vec<u32>,
    /// The tokens without text.
    separators: Vec<u32>,
    max_score: f64,
    skipped: Vec<String>,
}

/// The readings of a prefix, for a [`Lexicon`].
#[derive(Debug, Clone)]
pub struct LexiconState<S>(Vec<Reading<S>>);

/// A way to read a prefix as words.
#[derive(Debug, Clone)]
struct Reading<S> {
    place: Place,
    /// The word model's state after the finished words.
    words: S,
    /// The score of the finished words and what is expected of the open one, less that of the best reading.
    value: f64,
}

/// Where a reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A word may begin.
    Between,
    /// In a word, at a node of the tree.
    Inside(u32),
    /// In a word that is not in the lexicon.
    Unlisted,
    /// Behind a word that a boundary must follow.
    Finished,
}

/// What a token makes of a reading.
enum Step {
    /// It is in a word, or between words.
    Open(Place),
    /// A word of the lexicon ends with it: its number in the word model.
    Word(Place, Option<u32>),
    /// A word that is not in the lexicon ends with it.
    UnlistedWord(Place),
}

impl<W: WordModel> Lexicon<W> {
    /// A lexicon of words, spelled by the vocabulary. Words that occur twice count once.
    ///
    /// # Errors
    ///
    /// A word that the vocabulary cannot spell, or that has a space in it or no text: with
    /// [`LexiconOptions::skip_unspellable`] only if there is no other word. No words, words none of which the model
    /// knows, invalid options, and errors of the model.
    pub fn new<S: AsRef<str>>(
        vocabulary: &Vocabulary,
        words: impl IntoIterator<Item = S>,
        model: W,
        opts: LexiconOptions,
    ) -> Result<Self> {
        check_options(&opts)?;
        let symbols = Symbols::new(vocabulary);
        // A space that is no ASCII space, as some models of text from the web have, is a boundary, too.
        let is_one_word = |labels: &Vec<u32>| {
            let symbols = symbols.spell("Lexicon", labels);
            symbols.is_ok_and(|found| !found.is_empty() && !found.contains(&BOUNDARY))
        };
        let mut spelled: Vec<(String, Vec<u32>)> = Vec::new();
        let mut skipped = Vec::new();
        for word in words {
            let word = word.as_ref();
            match spellings(vocabulary, word, opts.spellings) {
                Ok(found) if opts.skip_unspellable && !found.iter().all(is_one_word) => {
                    skipped.push(word.to_owned())
                }
                Ok(found) => {
                    spelled.extend(found.into_iter().map(|labels| (word.to_owned(), labels)))
                }
                Err(_) if opts.skip_unspellable => skipped.push(word.to_owned()),
                Err(error) => bail!(
                    "Lexicon: the word {word:?} cannot be spelled: {error}; skip_unspellable leaves such words out"
                ),
            }
        }
        if let ([], [first, ..]) = (&spelled[..], &skipped[..]) {
            bail!(
                "Lexicon: the vocabulary can spell none of the words, of which there are {}, such as {first:?}, as one \
                 word",
                skipped.len()
            )
        }
        let mut lexicon = Self::with_spellings(vocabulary, spelled, model, opts)?;
        lexicon.skipped = skipped;
        Ok(lexicon)
    }

    /// A lexicon of words with their spellings as labels. A word with several spellings stands there once for each.
    /// Marks of words at the ends of a spelling that are tokens of their own, such as separators, are left out.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    /// use candle_ctc::{Lexicon, LexiconOptions, NoLanguageModel};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<eps>", "HH", "AH", "L", "OW", "EH"])?; // phonemes
    /// let words = [("hello", "HH AH L OW"), ("hello", "HH EH L OW")];
    /// let spelled: candle_core::Result<Vec<_>> =
    ///     words.iter().map(|(word, tokens)| Ok((*word, vocabulary.encode_tokens(tokens)?))).collect();
    /// let lexicon =
    ///     Lexicon::with_spellings(&vocabulary, spelled?, NoLanguageModel, LexiconOptions::default())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A spelling that is empty, or has in it a boundary between words, the blank, or a label that is not a class; no
    /// words, or words none of which the model knows; invalid options; and errors of the model.
    pub fn with_spellings<S: AsRef<str>, L: AsRef<[u32]>>(
        vocabulary: &Vocabulary,
        spelled: impl IntoIterator<Item = (S, L)>,
        model: W,
        opts: LexiconOptions,
    ) -> Result<Self> {
        check_options(&opts)?;
        let symbols = Symbols::new(vocabulary);
        let (behind_words, separators) = (symbols.behind_words(), symbols.separators());
        let mut sequences = Vec::new();
        let mut first = None;
        for (word, labels) in spelled {
            let word = word.as_ref();
            let spelling = symbols.spell("Lexicon", labels.as_ref())?;
            if spelling.is_empty() {
                bail!(
                    "Lexicon: the word {word:?} has a spelling without text, {:?}",
                    labels.as_ref()
                )
            }
            if spelling.contains(&BOUNDARY) {
                bail!(
                    "Lexicon: the spelling {:?} of the word {word:?} has a boundary between words in it; give each \
                     word on its own",
                    labels.as_ref()
                )
            }
            let number = model.word_id(word);
            if number == Some(UNKNOWN) {
                bail!(
                    "Lexicon: the word model gives the word {word:?} the number {UNKNOWN}; numbers must be below it"
                )
            }
            sequences.push((spelling, number.unwrap_or(UNKNOWN)));
            first.get_or_insert_with(|| word.to_owned());
        }
        let Some(first) = first else {
            bail!("Lexicon: there are no words")
        };
        if sequences.iter().all(|(_, word)| *word == UNKNOWN) {
            bail!(
                "Lexicon: the word model knows none of the words, such as {first:?}; give them as it writes them, \
                 upper or lower case included"
            )
        }
        let tree = LabelTree::new(sequences)?;
        Self {
            model,
            opts,
            symbols,
            tree,
            expected: Vec::new(),
            expected_unknown: f64::NEG_INFINITY,
            gain: Vec::new(),
            gain_unlisted: 0.0,
            behind_words,
            separators,
            max_score: 0.0,
            skipped: Vec::new(),
        }
        .with_expectations()
    }

    /// The words that were left out since the vocabulary cannot spell them, or cannot spell them as one word.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The word model.
    pub fn model(&self) -> &W {
        &self.model
    }

    /// Whether a text of this lexicon can contain a phrase, so that [`Hotwords`](crate::Hotwords) can prefer it. It
    /// cannot if the lexicon lacks a word of it in the vocabulary's spelling, that of
    /// [`Vocabulary::encode`](crate::text::Vocabulary::encode). A phrase in which nothing marks words, such as a Chinese
    /// one, can stand within longer words: for these the answer is always true.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    /// use candle_ctc::{Lexicon, LexiconOptions, NoLanguageModel};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "c", "r", "t"])?;
    /// let lexicon = Lexicon::new(&vocabulary, ["cat", "car"], NoLanguageModel, LexiconOptions::default())?;
    /// assert!(lexicon.can_contain(&vocabulary, "car cat")?);
    /// assert!(!lexicon.can_contain(&vocabulary, "cart")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A phrase that the vocabulary cannot spell, a vocabulary of more classes than that of the lexicon, and errors of
    /// the model.
    pub fn can_contain(&self, vocabulary: &Vocabulary, phrase: &str) -> Result<bool> {
        for labels in vocabulary.spell_words(phrase)? {
            let is_unspaced = |label: &u32| self.symbols.is_unspaced(*label);
            if labels.iter().any(is_unspaced) || self.allows(&labels)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the search can find a text of these labels.
    fn allows(&self, labels: &[u32]) -> Result<bool> {
        let mut state = self.start()?;
        for &label in labels {
            if self.score(&state, label)? == f64::NEG_INFINITY {
                return Ok(false);
            }
            state = self.advance(&state, label)?;
        }
        Ok(self.end(&state)? > f64::NEG_INFINITY)
    }

    /// Computes what is expected of words before they end, and the bound on scores that follows.
    fn with_expectations(mut self) -> Result<Self> {
        let mut expected = HashMap::new();
        for node in 0..self.tree.len() as u32 {
            for &entry in self.tree.entries(node) {
                if let std::collections::hash_map::Entry::Vacant(place) = expected.entry(entry) {
                    place.insert(self.expect(model_word(entry), self.opts.word_bonus)?);
                }
            }
        }
        if self.allows_unlisted() {
            self.expected_unknown =
                self.expect(None, self.opts.word_bonus + self.opts.unknown_score)?;
        }
        self.expected = self.tree.largest_below(|entry| expected[&entry]);
        let finished = weighted(self.opts.lm_weight, self.model.max_score()) + self.opts.word_bonus;
        let finished_unlisted = finished + self.opts.unknown_score;
        let gain = |node| match node {
            ROOT => self.gain(node, Place::Between, finished, finished_unlisted),
            node => self.gain(node, Place::Inside(node), finished, finished_unlisted),
        };
        self.gain = (0..self.tree.len() as u32).map(gain).collect();
        self.gain_unlisted = match self.allows_unlisted() {
            true => (finished_unlisted - self.expected_unknown).max(0.0),
            false => 0.0,
        };
        self.max_score = self.gain.iter().copied().fold(self.gain_unlisted, f64::max) + ROUNDING;
        Ok(self)
    }

    /// The most that a token can add to a reading at `place`, whose word goes on at the children of `node`.
    fn gain(&self, node: u32, place: Place, finished: f64, finished_unlisted: f64) -> f64 {
        let before = self.expected(place);
        if before == f64::NEG_INFINITY {
            // No reading stands where no word goes on.
            return 0.0;
        }
        let mut most = self.expected_unknown.max(finished_unlisted);
        for child in self.tree.children(node) {
            most = most.max(self.expected(Place::Inside(child)));
            if !self.tree.entries(child).is_empty() {
                most = most.max(finished);
            }
        }
        // Between words, a separator adds nothing.
        (most - before).max(0.0)
    }

    fn expect(&self, word: Option<u32>, bonus: f64) -> Result<f64> {
        let score = self.model.estimate(word)?;
        if score.is_nan() || score == f64::INFINITY {
            bail!("Lexicon: the word model expects a score of {score} for a word")
        }
        Ok((weighted(self.opts.lm_weight, score) + bonus).max(LEAST_EXPECTED))
    }

    fn allows_unlisted(&self) -> bool {
        self.opts.unknown_score > f64::NEG_INFINITY
    }

    /// What a token makes of a reading at `place`.
    fn steps(
        &self,
        place: Place,
        token: u32,
        edges: TokenEdges,
        mut visit: impl FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let unlisted = self.allows_unlisted() && edges.in_one_word;
        let place = match place {
            Place::Inside(_) | Place::Unlisted if edges.space_before => return Ok(()),
            Place::Finished if edges.space_before || edges.unspaced => Place::Between,
            place => place,
        };
        if !edges.has_text {
            return match place {
                Place::Between => visit(Step::Open(Place::Between)),
                _ => Ok(()),
            };
        }
        let behind = match edges.space_after || edges.unspaced {
            true => Place::Between,
            false => Place::Finished,
        };
        let node = match place {
            Place::Between => self.tree.child(ROOT, token),
            Place::Inside(node) => self.tree.child(node, token),
            Place::Unlisted => None,
            Place::Finished => return Ok(()),
        };
        let words = node.map_or(&[][..], |node| self.tree.entries(node));
        for &word in words {
            visit(Step::Word(behind, model_word(word)))?;
        }
        // A token that needs no boundary beside it is an unlisted word of its own, and is part of no other.
        let unlisted = unlisted && (!edges.unspaced || place == Place::Between);
        if unlisted && words.is_empty() {
            visit(Step::UnlistedWord(behind))?;
        }
        if edges.space_after {
            return Ok(());
        }
        let goes_on = unlisted && !edges.unspaced;
        match node {
            Some(node) if goes_on || !self.tree.children(node).is_empty() => {
                visit(Step::Open(Place::Inside(node)))
            }
            None if goes_on => visit(Step::Open(Place::Unlisted)),
            _ => Ok(()),
        }
    }

    /// What is expected of the open word at a place.
    fn expected(&self, place: Place) -> f64 {
        match place {
            Place::Between | Place::Finished => 0.0,
            Place::Inside(node) => self.expected[node as usize].max(self.expected_unknown),
            Place::Unlisted => self.expected_unknown,
        }
    }

    /// The score of a finished word.
    fn word_score(&self, state: &W::State, word: Option<u32>, bonus: f64) -> Result<f64> {
        let score = self.model.score(state, word)?;
        if score.is_nan() || score == f64::INFINITY {
            bail!("Lexicon: the word model gave {score} for a word")
        }
        Ok(weighted(self.opts.lm_weight, score) + bonus)
    }

    /// Visits what a token makes of a state: the place, the reading that it comes from, its value, and the word that
    /// was finished, if one was.
    fn follow<'a>(
        &self,
        state: &'a LexiconState<W::State>,
        token: u32,
        mut visit: impl FnMut(Place, &'a W::State, f64, Option<Option<u32>>) -> Result<()>,
    ) -> Result<()> {
        let edges = self.symbols.edges("Lexicon", token)?;
        for reading in &state.0 {
            let before = reading.value - self.expected(reading.place);
            let words = &reading.words;
            self.steps(reading.place, token, edges, |step| match step {
                Step::Open(place) => visit(place, words, before + self.expected(place), None),
                Step::Word(place, word) => {
                    let score = self.word_score(words, word, self.opts.word_bonus)?;
                    visit(place, words, before + score, Some(word))
                }
                Step::UnlistedWord(place) => {
                    let bonus = self.opts.word_bonus + self.opts.unknown_score;
                    visit(
                        place,
                        words,
                        before + self.word_score(words, None, bonus)?,
                        Some(None),
                    )
                }
            })?;
        }
        Ok(())
    }
}

impl<W: WordModel> LanguageModel for Lexicon<W> {
    type State = LexiconState<W::State>;

    fn start(&self) -> Result<Self::State> {
        Ok(LexiconState(vec![Reading {
            place: Place::Between,
            words: self.model.start()?,
            value: 0.0,
        }]))
    }

    fn score(&self, state: &Self::State, token: u32) -> Result<f64> {
        let mut best = f64::NEG_INFINITY;
        self.follow(state, token, |_, _, value, _| {
            best = best.max(value);
            Ok(())
        })?;
        Ok(best)
    }

    fn advance(&self, state: &Self::State, token: u32) -> Result<Self::State> {
        let mut readings: Vec<Reading<W::State>> = Vec::new();
        self.follow(state, token, |place, words, value, finished| {
            if value == f64::NEG_INFINITY {
                return Ok(());
            }
            let words = match finished {
                Some(word) => self.model.advance(words, word)?,
                None => words.clone(),
            };
            let same = readings
                .iter_mut()
                .find(|other| other.place == place && other.words == words);
            match same {
                Some(other) => other.value = other.value.max(value),
                None => readings.push(Reading {
                    place,
                    words,
                    value,
                }),
            }
            Ok(())
        })?;
        readings.sort_by(|a, b| b.value.total_cmp(&a.value));
        readings.truncate(self.opts.readings);
        let best = readings.first().map_or(0.0, |reading| reading.value);
        readings
            .iter_mut()
            .for_each(|reading| reading.value -= best);
        Ok(LexiconState(readings))
    }

    fn end(&self, state: &Self::State) -> Result<f64> {
        let mut best = f64::NEG_INFINITY;
        for reading in &state.0 {
            if matches!(reading.place, Place::Between | Place::Finished) {
                let end = self.model.end(&reading.words)?;
                if end.is_nan() || end == f64::INFINITY {
                    bail!("Lexicon: the word model gave {end} for the end of the text")
                }
                best = best.max(reading.value + weighted(self.opts.lm_weight, end));
            }
        }
        Ok(best)
    }

    fn max_score(&self) -> f64 {
        self.max_score
    }

    fn max_score_in(&self, state: &Self::State) -> f64 {
        let most = state.0.iter().map(|reading| {
            reading.value
                + match reading.place {
                    Place::Between | Place::Finished => self.gain[ROOT as usize],
                    Place::Inside(node) => self.gain[node as usize],
                    Place::Unlisted => self.gain_unlisted,
                }
        });
        most.fold(f64::NEG_INFINITY, f64::max) + ROUNDING
    }

    fn state_key(&self, state: &Self::State) -> Option<u128> {
        let [reading] = &state.0[..] else {
            return None;
        };
        let place = match reading.place {
            Place::Inside(node) => node.checked_add(3)?,
            Place::Between => 0,
            Place::Unlisted => 1,
            Place::Finished => 2,
        };
        let words = self.model.state_key(&reading.words)?;
        Some(u128::from(place) << u64::BITS | u128::from(words))
    }

    fn next_tokens(&self, state: &Self::State, most: usize, tokens: &mut Vec<u32>) -> bool {
        if self.allows_unlisted() {
            return false;
        }
        for reading in &state.0 {
            let start = tokens.len();
            match reading.place {
                Place::Inside(node) => tokens.extend_from_slice(self.tree.labels(node)),
                Place::Finished if self.behind_words.len() <= most => {
                    tokens.extend_from_slice(&self.behind_words);
                }
                Place::Between if self.tree.labels(ROOT).len() <= most => {
                    tokens.extend_from_slice(self.tree.labels(ROOT));
                    tokens.extend_from_slice(&self.separators);
                }
                _ => return false,
            }
            // Several readings go on with the same tokens now and then.
            let mut at = start;
            while start > 0 && at < tokens.len() {
                match tokens[..start].contains(&tokens[at]) {
                    true => drop(tokens.swap_remove(at)),
                    false => at += 1,
                }
            }
            if tokens.len() > most {
                return false;
            }
        }
        true
    }
}

fn model_word(entry: u32) -> Option<u32> {
    (entry != UNKNOWN).then_some(entry)
}

/// A weight of 0 leaves nothing of −inf.
fn weighted(weight: f64, score: f64) -> f64 {
    match weight {
        0.0 => 0.0,
        weight => weight * score,
    }
}

/// The spellings of a word that a lexicon takes: at most `count` for each place where the word may stand, at the start
/// of a text or after other words.
fn spellings(vocabulary: &Vocabulary, word: &str, count: usize) -> Result<Vec<Vec<u32>>> {
    let mut found = vocabulary.spell_words(word)?;
    if count > 1 {
        for at in 0..found.len() {
            let all = vocabulary.respellings(&found[at]);
            let others = all.iter().filter(|labels| *labels != found[at]);
            let others: Vec<_> = others.take(count - 1).collect();
            found.extend(others);
        }
    }
    Ok(found)
}

fn check_options(opts: &LexiconOptions) -> Result<()> {
    check_weight("Lexicon", "lm_weight", opts.lm_weight)?;
    // Beyond, rounding would exceed what the bound on scores allows for: see ROUNDING.
    if opts.word_bonus.is_nan() || opts.word_bonus.abs() > 1e6 {
        bail!(
            "Lexicon: word_bonus = {}; it must be from -1e6 to 1e6",
            opts.word_bonus
        )
    }
    let forbids = opts.unknown_score == f64::NEG_INFINITY;
    if !forbids && !(-1e9..=1e6).contains(&opts.unknown_score) {
        bail!(
            "Lexicon: unknown_score = {}; it must be from -1e9 to 1e6, or -inf, which forbids unknown words",
            opts.unknown_score
        )
    }
    for (name, value) in [("spellings", opts.spellings), ("readings", opts.readings)] {
        if value == 0 {
            bail!("Lexicon: {name} = 0; it must be at least 1")
        }
    }
    Ok(())
}
