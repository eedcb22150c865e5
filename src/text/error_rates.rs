//! Word and character error rates.

use std::iter::Sum;
use std::ops::{Add, AddAssign};
use unicode_normalization::UnicodeNormalization;

/// The errors of a hypothesis, or the sum over many.
///
/// They are counted in an alignment with the fewest errors. Where several have the fewest, it is one with the most
/// substitutions; other programs may split the same number otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ErrorRate {
    /// Words or characters of the reference in whose place the hypothesis has others.
    pub substitutions: usize,
    /// Words or characters that only the hypothesis has.
    pub insertions: usize,
    /// Words or characters that only the reference has.
    pub deletions: usize,
    /// The number of words or characters of the reference.
    pub reference_length: usize,
}

impl ErrorRate {
    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.substitutions + self.insertions + self.deletions
    }

    /// The errors for each word or character of the reference: 0 if there are no errors, +inf if there are and the
    /// reference is empty. It may be above 1.
    pub fn rate(&self) -> f64 {
        match self.errors() {
            0 => 0.0,
            errors => errors as f64 / self.reference_length as f64,
        }
    }
}

impl Add for ErrorRate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            insertions: self.insertions + other.insertions,
            deletions: self.deletions + other.deletions,
            reference_length: self.reference_length + other.reference_length,
        }
    }
}

impl AddAssign for ErrorRate {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ErrorRate {
    fn sum<I: Iterator<Item = Self>>(rates: I) -> Self {
        rates.fold(Self::default(), Self::add)
    }
}

/// The character error rate (CER).
///
/// Characters are Unicode code points in composed form (NFC), so that `é` is one character however it is written.
/// Each run of whitespace counts as one space; whitespace at the ends is ignored. Case and punctuation count. For
/// text in NFC with single spaces this is the CER of Python's `jiwer`.
///
/// ```
/// use candle_ctc::text::character_error_rate;
///
/// let rate = character_error_rate("the cat", "the hats");
/// assert_eq!((rate.substitutions, rate.insertions, rate.deletions), (1, 1, 0));
/// assert_eq!(rate.rate(), 2. / 7.);
/// ```
///
/// The time is proportional to the product of the two lengths.
#[doc(alias = "cer")]
#[doc(alias = "levenshtein")]
pub fn character_error_rate(reference: &str, hypothesis: &str) -> ErrorRate {
    let characters = |text: &str| -> Vec<char> {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").nfc().collect()
    };
    compare(&characters(reference), &characters(hypothesis))
}

/// The word error rate (WER). Words are separated by whitespace and compared in composed form (NFC). Case and
/// punctuation count.
///
/// ```
/// use candle_ctc::text::{ErrorRate, word_error_rate};
///
/// let pairs = [("the cat sat", "the cat"), ("on the mat", "on a mat")];
/// let total: ErrorRate = pairs.iter().map(|(reference, found)| word_error_rate(reference, found)).sum();
/// assert_eq!((total.substitutions, total.insertions, total.deletions), (1, 0, 1));
/// assert_eq!(total.rate(), 2. / 6.);
/// ```
#[doc(alias = "wer")]
#[doc(alias = "levenshtein")]
pub fn word_error_rate(reference: &str, hypothesis: &str) -> ErrorRate {
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .map(|word| word.nfc().collect())
            .collect()
    };
    compare(&words(reference), &words(hypothesis))
}

/// Counts the errors: Levenshtein's recursion over pairs of (errors, insertions and deletions).
fn compare<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> ErrorRate {
    // In order, so that the minimum has the fewest errors, then the fewest insertions and deletions.
    type Cost = (usize, usize);
    let gap = |cost: Cost| (cost.0 + 1, cost.1 + 1);
    let mut row: Vec<Cost> = (0..=hypothesis.len()).map(|count| (count, count)).collect();
    for (count, wanted) in reference.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], (count + 1, count + 1));
        for (at, found) in hypothesis.iter().enumerate() {
            let matched = (diagonal.0 + usize::from(wanted != found), diagonal.1);
            diagonal = row[at + 1];
            row[at + 1] = matched.min(gap(row[at])).min(gap(row[at + 1]));
        }
    }
    let (errors, gaps) = row[hypothesis.len()];
    // The insertions and the deletions: their sum is `gaps`, their difference that of the lengths.
    let insertions = (gaps + hypothesis.len() - reference.len()) / 2;
    ErrorRate {
        substitutions: errors - gaps,
        insertions,
        deletions: gaps - insertions,
        reference_length: reference.len(),
    }
}
