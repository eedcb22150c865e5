//! From text to labels.

use super::prepare::{Piece, Prepared, Spaces, prepare};
use super::rules::Rules;
use super::spellings::{Arc, Kind, Lattice, Spellings};
use super::surface::{Surface, WordMark, is_unspaced};
use super::vocabulary::Vocabulary;
use candle_core::{Result, bail};
use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

/// What becomes of text that no token fits, in [`Vocabulary::encode_lossy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unspellable {
    /// It is left out, and so is a word that has nothing else.
    #[default]
    Skip,
    /// This label stands for it, such as the star of [`AlignOptions::star`](crate::AlignOptions::star). Characters in a
    /// row have one star. Spaces have none. With a `tokenizer.json` the star stands for the whole word.
    Star(u32),
}

/// Labels of a text, and what they leave out. From [`Vocabulary::encode_lossy`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LossyEncoding {
    /// The labels.
    pub labels: Vec<u32>,
    /// What no token fits, in the order of the text.
    pub unspelled: Vec<Unspelled>,
}

/// Text that no token fits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unspelled {
    /// The text: characters in a row, or the whole word where the vocabulary has tokens for words, its rules know words
    /// only, or a star stands for the word. Empty where only the mark of a word is missing.
    pub text: String,
    /// Its first byte in the whole text.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

impl Vocabulary {
    /// The labels of a text. The [module](super) has the rules. Text of no words has no labels.
    ///
    /// For a vocabulary whose tokens are units, such as phonemes ([`WordMark::EachToken`]), the text is a list of
    /// tokens separated by spaces.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b", "é"])?;
    /// // Upper case, a decomposed é, and spaces where none belong.
    /// assert_eq!(vocabulary.encode(" AB\tBE\u{301} ")?, [2, 3, 1, 3, 4]);
    /// let error = vocabulary.encode("ab, b").unwrap_err().to_string();
    /// assert!(error.starts_with("no token of the vocabulary fits \",\" at character 3 of \"ab, b\""));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Text that no tokens spell: the error names the character, its position, counted from 1, and what to do.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.spell(text, Unspellable::Skip)?;
        match encoding.unspelled.first() {
            None => Ok(encoding.labels),
            Some(first) => bail!("{}", self.explain(text, first)),
        }
    }

    /// The labels of a text. Parts that no token fits are skipped or replaced by a star, and are listed in
    /// [`LossyEncoding::unspelled`].
    ///
    /// ```
    /// use candle_ctc::text::{Unspellable, Vocabulary};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"])?;
    /// let star = vocabulary.class_count() as u32;
    /// let encoding = vocabulary.encode_lossy("a 42, b", Unspellable::Star(star))?;
    /// assert_eq!(encoding.labels, [2, 1, star, 1, 3]);
    /// assert_eq!((encoding.unspelled[0].text.as_str(), encoding.unspelled[0].start), ("42,", 2));
    /// assert_eq!(vocabulary.encode_lossy("a 42, b", Unspellable::Skip)?.labels, [2, 1, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A star that is the blank, or rules of a `tokenizer.json` that fail.
    pub fn encode_lossy(&self, text: &str, unspellable: Unspellable) -> Result<LossyEncoding> {
        if unspellable == Unspellable::Star(self.blank) {
            bail!("the star is class {}, which is the blank", self.blank)
        }
        self.spell(text, unspellable)
    }

    /// The labels of tokens that are separated by spaces, such as phonemes. Each must be a token, as it is or in the
    /// case and Unicode form of the vocabulary.
    ///
    /// ```
    /// use candle_ctc::text::Vocabulary;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vocabulary = Vocabulary::from_tokens(["<eps>", "HH", "AH", "L", "OW"])?;
    /// assert_eq!(vocabulary.encode_tokens("HH AH L OW")?, [1, 2, 3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An entry that is no token, or is the blank: the error names it and its position, counted from 1.
    pub fn encode_tokens(&self, tokens: &str) -> Result<Vec<u32>> {
        let entries = tokens.split_whitespace().enumerate();
        let label = |(at, token): (usize, &str)| match self.entry(token) {
            Some(class) if class == self.blank => {
                bail!(
                    "entry {} of the tokens, {token:?}, is the blank, which is no label",
                    at + 1
                )
            }
            Some(class) => Ok(class),
            None => bail!(
                "entry {} of the tokens, {token:?}, is not a token of the vocabulary{}",
                at + 1,
                self.near(token)
            ),
        };
        entries.map(label).collect()
    }

    /// All spellings of a text as a lattice. That of [`Self::encode`] is one of them.
    ///
    /// # Errors
    ///
    /// Those of [`Self::encode`].
    pub fn spellings(&self, text: &str) -> Result<Spellings> {
        Ok(self.respellings(&self.encode(text)?))
    }

    /// All spellings of the text that these labels spell, as they stand: also where that is not the beginning of a
    /// text.
    pub(crate) fn respellings(&self, labels: &[u32]) -> Spellings {
        let bytes = labels.iter().flat_map(|&label| self.surface(label));
        let text = match self.mark {
            WordMark::EachToken => None,
            // The rules may change a text, so its spellings are those of the labels' text.
            _ => String::from_utf8(bytes.copied().collect()).ok(),
        };
        let all = text.map(|text| self.lattice(&whole(text)).spellings());
        match all {
            Some(all) if all.contains(labels) => all,
            // Such as a vocabulary whose rules use bytes where there is a token.
            _ => Spellings::chain(labels),
        }
    }

    /// The class of an entry of a list of tokens.
    fn entry(&self, token: &str) -> Option<u32> {
        let nfc: String = token.nfc().collect();
        let nfd: String = token.nfd().collect();
        let cased = self.case.apply(token);
        let forms = [
            token,
            &nfc,
            &nfd,
            &cased,
            &cased.nfc().collect::<String>(),
            &cased.nfd().collect::<String>(),
        ];
        forms.iter().find_map(|form| self.class_of(form))
    }

    fn surface(&self, class: u32) -> &[u8] {
        self.surfaces
            .get(class as usize)
            .map_or(&[], Surface::bytes)
    }

    /// A text with the spaces that the word mark asks for.
    fn prepare(&self, text: &str) -> Prepared {
        let first = match self.mark {
            WordMark::Prefix { first_word, .. } | WordMark::ByteLevel { first_word } => first_word,
            WordMark::Continuation(_) => true,
            _ => false,
        };
        let last = matches!(self.mark, WordMark::EndOfWord(_) | WordMark::Continued(_));
        // Vocabularies for Chinese and English mark English words only.
        let optional = matches!(self.mark, WordMark::Prefix { .. }) && !self.has_space;
        let spaced = |c: char| !(optional && is_unspaced(c) && !self.word_starts.contains(&c));
        prepare(
            text,
            self.case,
            Spaces { first, last },
            |text| self.has_all(text),
            spaced,
        )
    }

    fn has_all(&self, text: &str) -> bool {
        text.chars().all(|c| self.characters.contains(&c))
    }

    fn lattice(&self, prepared: &Prepared) -> Lattice {
        let found = self.matcher.find_overlapping_iter(prepared.text.as_bytes());
        let tokens = found.map(|found| Arc {
            start: found.start(),
            end: found.end(),
            kind: Kind::Token(self.matched[found.pattern().as_usize()]),
        });
        let bytes = prepared
            .text
            .bytes()
            .enumerate()
            .filter(|_| !self.bytes.is_empty());
        let bytes = bytes.filter_map(|(at, byte)| {
            let class = self.bytes.get(&byte).filter(|_| byte != b' ')?;
            Some(Arc {
                start: at,
                end: at + 1,
                kind: Kind::Byte(*class),
            })
        });
        Lattice::new(prepared, tokens.chain(bytes))
    }

    fn spell(&self, text: &str, unspellable: Unspellable) -> Result<LossyEncoding> {
        match (&self.mark, &self.rules) {
            (_, Some(rules)) if rules.is_pipeline() => {
                self.spell_by_pipeline(rules, text, unspellable)
            }
            (WordMark::EachToken, _) => Ok(self.spell_entries(text, unspellable)),
            _ => self.spell_by_lattice(text, unspellable),
        }
    }

    /// For a vocabulary whose tokens are units.
    fn spell_entries(&self, text: &str, unspellable: Unspellable) -> LossyEncoding {
        let mut encoding = LossyEncoding::default();
        for token in text.split_whitespace() {
            let start = token.as_ptr() as usize - text.as_ptr() as usize;
            match self.entry(token).filter(|&class| class != self.blank) {
                Some(class) => encoding.labels.push(class),
                None => {
                    encoding.labels.extend(unspellable.star());
                    encoding
                        .unspelled
                        .push(Unspelled::new(text, start..start + token.len()));
                }
            }
        }
        encoding
    }

    fn spell_by_lattice(&self, text: &str, unspellable: Unspellable) -> Result<LossyEncoding> {
        let prepared = self.prepare(text);
        let mut missing = vec![false; prepared.pieces.len()];
        let mut encoding = self.collect(text, &prepared, unspellable, &mut missing)?;
        if unspellable == Unspellable::Skip && missing.contains(&true) {
            // Words of which nothing is left take their spaces with them.
            let rest = prepared.without(&self.empty_words(&prepared, &missing));
            let again = self.collect(
                text,
                &rest,
                unspellable,
                &mut vec![false; rest.pieces.len()],
            )?;
            encoding.labels = again.labels;
            let mut others = Vec::new();
            for part in again.unspelled {
                // Both lists are in order, and no two parts of one overlap.
                let at = encoding
                    .unspelled
                    .partition_point(|other| other.end < part.start);
                let near = encoding.unspelled[at..]
                    .iter()
                    .take_while(|other| other.start <= part.end);
                let overlaps = |other: &Unspelled| other.start < part.end && part.start < other.end;
                if !near
                    .into_iter()
                    .any(|other| overlaps(other) || *other == part)
                {
                    others.push(part);
                }
            }
            encoding.unspelled.extend(others);
            encoding.unspelled.sort_by_key(|part| part.start);
        }
        Ok(encoding)
    }

    /// The labels of a prepared text, what they leave out, and the pieces that this concerns.
    fn collect(
        &self,
        text: &str,
        prepared: &Prepared,
        unspellable: Unspellable,
        missing: &mut [bool],
    ) -> Result<LossyEncoding> {
        let mut encoding = LossyEncoding::default();
        for step in self.follow(prepared)? {
            let pieces = match step {
                Step::Label(class) => {
                    encoding.labels.push(class);
                    continue;
                }
                Step::Gap(pieces) => pieces,
            };
            missing[pieces.clone()].fill(true);
            // Not the spaces at its ends, unless there is nothing else.
            let ink: Vec<usize> = pieces
                .clone()
                .filter(|piece| !prepared.pieces[*piece].is_space)
                .collect();
            let origin = |piece: usize| prepared.pieces[piece].origin.clone();
            let range = match ink[..] {
                [] => origin(pieces.start),
                [first, ..] => origin(first).start..origin(ink[ink.len() - 1]).end,
            };
            encoding.unspelled.push(Unspelled::new(text, range));
            encoding
                .labels
                .extend(unspellable.star().filter(|_| !ink.is_empty()));
        }
        Ok(encoding)
    }

    /// The pieces of words of which all is missing, with the space that belongs to each.
    fn empty_words(&self, prepared: &Prepared, missing: &[bool]) -> Vec<bool> {
        let pieces = &prepared.pieces;
        let mut empty = vec![false; pieces.len()];
        let mut kept_before = false;
        let mut start = 0;
        for word in pieces.split(|piece| piece.is_space) {
            let end = start + word.len();
            if word.is_empty() || missing[start..end].contains(&false) {
                kept_before |= !word.is_empty();
                start = end + 1;
                continue;
            }
            empty[start..end].fill(true);
            let (before, behind) = match self.mark {
                WordMark::EndOfWord(_) | WordMark::Continued(_) => (false, true),
                // No separator at the start of the text.
                WordMark::Separator(_) => (true, !kept_before),
                _ => (true, false),
            };
            if before && start > 0 {
                empty[start - 1] = true;
            }
            if behind && end < pieces.len() {
                empty[end] = true;
            }
            start = end + 1;
        }
        empty
    }

    /// The best path through the spellings of a prepared text.
    fn follow(&self, prepared: &Prepared) -> Result<Vec<Step>> {
        let lattice = self.lattice(prepared);
        let arcs = lattice.best(self.source.scores.as_deref());
        let mut path: Vec<Step> = Vec::with_capacity(arcs.len());
        let mut at = 0;
        while at < arcs.len() {
            let is_gap = |arc: &Arc| arc.kind == Kind::Gap;
            let gap = is_gap(&arcs[at]);
            let run = arcs[at..]
                .iter()
                .take_while(|arc| is_gap(arc) == gap)
                .count();
            let range = arcs[at].start..arcs[at + run - 1].end;
            let pieces = |range: &Range<usize>| {
                let piece = |at| prepared.pieces.partition_point(|piece| piece.at < at);
                piece(range.start)..piece(range.end)
            };
            match (&self.rules, gap) {
                (_, true) => path.push(Step::Gap(pieces(&range))),
                (Some(rules), false) => {
                    self.merge(rules, prepared, range, &mut path)?;
                }
                (_, false) => {
                    path.extend(arcs[at..at + run].iter().filter_map(|arc| match arc.kind {
                        Kind::Token(class) | Kind::Byte(class) => Some(Step::Label(class)),
                        Kind::Gap => None,
                    }))
                }
            }
            at += run;
        }
        Ok(path)
    }

    /// Spells a part of a prepared text by the merges of a BPE model.
    fn merge(
        &self,
        rules: &Rules,
        prepared: &Prepared,
        range: Range<usize>,
        path: &mut Vec<Step>,
    ) -> Result<()> {
        let mark = match &self.mark {
            WordMark::Prefix { mark, .. } | WordMark::Separator(mark) => mark.as_str(),
            _ => " ",
        };
        let marked = prepared.text[range].replace(' ', mark);
        for (class, bytes) in rules.cut(&marked)? {
            if !self.spells(class) {
                bail!(
                    "{:?} in {:?} is in tokens of the vocabulary, but not a token of its own, so that no merge leads \
                     to one; the scores or the vocabulary may be those of another model",
                    &marked[bytes],
                    shortened(marked.replace(mark, " ").trim())
                )
            }
            path.push(Step::Label(class));
        }
        Ok(())
    }

    /// By the rules of a `tokenizer.json`.
    fn spell_by_pipeline(
        &self,
        rules: &Rules,
        text: &str,
        unspellable: Unspellable,
    ) -> Result<LossyEncoding> {
        let prepared = prepare(
            text,
            self.case,
            Spaces::default(),
            |text| self.has_all(text),
            |_| true,
        );
        let mut left_out = vec![false; prepared.pieces.len()];
        let mut encoding = LossyEncoding::default();
        loop {
            let rest = Rest::new(&prepared, &left_out, unspellable);
            let cut = match rest.text.as_str() {
                "" => Vec::new(),
                text => rules.cut(text)?,
            };
            let (spelled, others): (Vec<_>, Vec<_>) =
                cut.into_iter().partition(|(class, _)| self.spells(*class));
            let mut covered = vec![false; rest.text.len()];
            for (_, bytes) in &spelled {
                covered[bytes.clone()].fill(true);
            }
            // The rules may make several characters of one and know a part of them.
            for (_, bytes) in &others {
                covered[bytes.clone()].fill(false);
            }
            let known =
                |bytes: &Range<usize>| covered[bytes.clone()].iter().all(|covered| *covered);
            let unknown = rest.pieces.iter().filter(|(_, bytes)| !known(bytes));
            let unknown: Vec<usize> = unknown.map(|(piece, _)| *piece).collect();
            // Rules look at whole words: without some characters they may cut the others in another way.
            if !unknown.is_empty() {
                unknown.into_iter().for_each(|piece| left_out[piece] = true);
                continue;
            }
            let mut stars = rest.stars.iter().peekable();
            for (class, bytes) in spelled {
                while stars.next_if(|star| **star < bytes.end).is_some() {
                    encoding.labels.extend(unspellable.star());
                }
                encoding.labels.push(class);
            }
            stars.for_each(|_| encoding.labels.extend(unspellable.star()));
            // Those that are left stand for the marks of words.
            let marks = others
                .iter()
                .map(|(_, bytes)| Unspelled::new(text, rest.space_before(&prepared, bytes.start)));
            encoding.unspelled.extend(marks);
            break;
        }
        if unspellable.star().is_some() {
            // A word with something unknown in it has one star.
            let mut start = 0;
            for word in prepared.pieces.chunk_by(|a, b| a.is_space == b.is_space) {
                let word = start..start + word.len();
                start = word.end;
                if left_out[word.clone()].contains(&true) {
                    left_out[word].fill(true);
                }
            }
        }
        let pieces: Vec<usize> = (0..left_out.len())
            .filter(|piece| left_out[*piece])
            .collect();
        for run in pieces.chunk_by(|a, b| a + 1 == *b) {
            let origin = |piece: usize| &prepared.pieces[piece].origin;
            let range = origin(run[0]).start..origin(run[run.len() - 1]).end;
            encoding.unspelled.push(Unspelled::new(text, range));
        }
        encoding
            .unspelled
            .sort_by_key(|part| (part.start, part.end));
        encoding.unspelled.dedup();
        Ok(encoding)
    }

    /// Whether a class spells text.
    fn spells(&self, class: u32) -> bool {
        matches!(
            self.surfaces.get(class as usize),
            Some(Surface::Text(_) | Surface::Byte(_))
        )
    }

    /// The error for text that cannot be spelled.
    fn explain(&self, text: &str, unspelled: &Unspelled) -> String {
        let (start, part) = self.part_to_name(unspelled);
        let position = text[..start].graphemes(true).count() + 1;
        let place = format!("at character {position} of {:?}", shortened(text));
        let character: String = part.nfc().collect();
        let character = character.as_str();
        let lossy = "; encode_lossy leaves it out or puts a star for it";
        if character.trim().is_empty() {
            let entries: Vec<&str> = text.split_whitespace().collect();
            if entries.len() > 1 && entries.iter().all(|entry| self.entry(entry).is_some()) {
                return format!(
                    "no token of the vocabulary fits the space {place}, but each entry is a token: use encode_tokens, \
                     or set WordMark::EachToken"
                );
            }
            return match &self.mark {
                WordMark::Separator(_) | WordMark::None => format!(
                    "no token of the vocabulary fits the space {place}, since it has no known mark of words: take \
                     spaces out, or set VocabularyBuilder::word_mark{lossy}"
                ),
                mark => format!(
                    "no token of the vocabulary begins or ends a word {place} (words are marked by {mark:?}){lossy}"
                ),
            };
        }
        if self.is_by_rules() && self.has_form_of(character) {
            return format!(
                "the rules of the vocabulary do not spell {character:?} {place}, though its characters are in \
                 tokens{lossy}"
            );
        }
        format!(
            "no token of the vocabulary fits {character:?} {place}{}{lossy}",
            self.near(character)
        )
    }

    /// The part of a text without a token that an error names, and its first byte in the whole text: the first
    /// character. The rules of a `tokenizer.json` may know whole words only: of these the first character that is in no
    /// token, or the word if there is none.
    fn part_to_name<'a>(&self, unspelled: &'a Unspelled) -> (usize, &'a str) {
        let whole = (unspelled.start, unspelled.text.as_str());
        let by_rules = self.is_by_rules();
        if self.mark == WordMark::EachToken && !by_rules {
            return whole;
        }
        let mut characters = unspelled.text.grapheme_indices(true);
        let named = characters.find(|(_, character)| !(by_rules && self.has_form_of(character)));
        named.map_or(whole, |(at, character)| (unspelled.start + at, character))
    }

    /// Whether the rules of a `tokenizer.json` spell texts.
    pub(super) fn is_by_rules(&self) -> bool {
        self.rules.as_ref().is_some_and(Rules::is_pipeline)
    }

    /// Whether the characters of a text are in tokens, in one of the forms in which text is spelled.
    fn has_form_of(&self, text: &str) -> bool {
        let cased = self.case.apply(text);
        let forms: [String; 2] = [cased.nfc().collect(), cased.nfd().collect()];
        self.has_all(&cased) || forms.iter().any(|form| self.has_all(form))
    }

    /// What the vocabulary has instead of a character or an entry.
    fn near(&self, text: &str) -> String {
        let has = |other: &str| {
            other != text
                && !other.is_empty()
                && (self.class_of(other).is_some() || self.has_all(other))
        };
        let other_case = [text.to_lowercase(), text.to_uppercase()];
        if let Some(other) = other_case.iter().find(|other| has(other)) {
            return format!(", but {other:?} is one: see VocabularyBuilder::case");
        }
        let plain: String = text
            .nfkd()
            .filter(|c| !is_combining_mark(*c))
            .map(plain)
            .collect();
        let plain_case = [plain.clone(), plain.to_lowercase(), plain.to_uppercase()];
        if let Some(other) = plain_case.iter().find(|other| has(other)) {
            return format!(", but {other:?} could be written for it");
        }
        if text.chars().all(char::is_numeric) {
            return ": write numbers as words".to_owned();
        }
        let missing: Vec<String> = text
            .chars()
            .filter(|c| !self.characters.contains(c))
            .map(|c| format!("U+{:04X}", u32::from(c)))
            .collect();
        match text.chars().count() {
            2.. if !missing.is_empty() && self.mark != WordMark::EachToken => {
                format!(": it has no {}", missing.join(" "))
            }
            _ => String::new(),
        }
    }
}

/// What is left of a text for the rules of a `tokenizer.json`.
#[derive(Default)]
struct Rest {
    text: String,
    /// Each piece that is left, with its bytes in the text.
    pieces: Vec<(usize, Range<usize>)>,
    /// Where stars go in the text.
    stars: Vec<usize>,
}

impl Rest {
    /// The text without some pieces; with stars, without the words that have one of them.
    fn new(prepared: &Prepared, left_out: &[bool], unspellable: Unspellable) -> Self {
        let mut rest = Self::default();
        let indices: Vec<usize> = (0..prepared.pieces.len()).collect();
        for word in indices.split(|piece| prepared.pieces[*piece].is_space) {
            if unspellable.star().is_some() && word.iter().any(|piece| left_out[*piece]) {
                rest.stars.push(rest.text.len());
                continue;
            }
            let mut space = !rest.text.is_empty();
            for &piece in word.iter().filter(|piece| !left_out[**piece]) {
                if std::mem::take(&mut space) {
                    rest.text.push(' ');
                }
                let start = rest.text.len();
                rest.text.push_str(&prepared.text[prepared.range(piece)]);
                rest.pieces.push((piece, start..rest.text.len()));
            }
        }
        rest
    }

    /// The space, in the text that was given, before the first piece that ends after a byte.
    fn space_before(&self, prepared: &Prepared, byte: usize) -> Range<usize> {
        let pieces = &prepared.pieces;
        let next = self.pieces.partition_point(|(_, bytes)| bytes.end <= byte);
        match self.pieces.get(next) {
            Some(&(piece, _)) if piece > 0 && pieces[piece - 1].is_space => {
                pieces[piece - 1].origin.clone()
            }
            Some(&(piece, _)) => {
                let start = pieces[piece].origin.start;
                start..start
            }
            None => {
                let end = pieces.last().map_or(0, |piece| piece.origin.end);
                end..end
            }
        }
    }
}

/// A part of the best path.
enum Step {
    Label(u32),
    /// Pieces of the prepared text that no token fits.
    Gap(Range<usize>),
}

impl Unspellable {
    fn star(self) -> Option<u32> {
        match self {
            Self::Skip => None,
            Self::Star(class) => Some(class),
        }
    }
}

impl Unspelled {
    fn new(text: &str, range: Range<usize>) -> Self {
        Self {
            text: text[range.clone()].to_owned(),
            start: range.start,
            end: range.end,
        }
    }
}

/// A text of which nothing is left out.
fn whole(text: String) -> Prepared {
    let piece = |(at, c): (usize, char)| Piece {
        at,
        origin: at..at + c.len_utf8(),
        is_space: c == ' ',
    };
    let pieces = text.char_indices().map(piece).collect();
    Prepared { text, pieces }
}

/// The beginning of a text that may be long, for a message.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.grapheme_indices(true).nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What is typed for a typographic character.
fn plain(c: char) -> char {
    match c {
        '‘' | '’' | 'ʼ' | '`' | '´' => '\'',
        '“' | '”' | '„' | '«' | '»' => '"',
        '‐' | '‑' | '–' | '—' | '−' => '-',
        c => c,
    }
}
