//! Language models to decode with, as their files describe them.

use crate::Source;
use candle_ctc::text::Vocabulary;
use candle_ctc::{Hotwords, Lexicon, LexiconOptions, NgramLm};
use std::fmt::Write;

/// A vocabulary of so many characters, with marks of words or without.
pub fn vocabulary(source: &mut Source, classes: usize) -> Vocabulary {
    let separator = source.flag();
    let tokens = (0..classes).map(|class| match class {
        0 => "<blk>".to_owned(),
        1 if separator => "|".to_owned(),
        _ => char::from_u32('a' as u32 + class as u32 - 1)
            .unwrap()
            .to_string(),
    });
    Vocabulary::from_tokens(tokens).unwrap()
}

/// A word of these characters.
pub fn word(source: &mut Source, vocabulary: &Vocabulary) -> String {
    let length = 1 + source.below(3);
    let letters = (0..length).map(|_| {
        let class = 1 + source.below(vocabulary.class_count() - 1);
        match vocabulary.token(class as u32) {
            Some("|") | None => "b",
            Some(token) => token,
        }
    });
    letters.collect()
}

/// An n-gram model over these words, of order 1 to 3.
pub fn ngrams(source: &mut Source, words: &[String]) -> NgramLm {
    let mut all: Vec<String> = ["<s>", "</s>"].map(String::from).into();
    for word in words {
        if !all.contains(word) {
            all.push(word.clone());
        }
    }
    if source.flag() {
        all.push("<unk>".into());
    }
    let mut orders: Vec<Vec<String>> = vec![all.clone()];
    for _ in 0..source.below(3) {
        let mut longer = Vec::new();
        for before in orders.last().unwrap().clone() {
            for word in all.iter().filter(|word| *word != "<s>") {
                if !before.ends_with("</s>") && source.below(3) == 0 && longer.len() < 40 {
                    longer.push(format!("{before} {word}"));
                }
            }
        }
        orders.push(longer);
    }
    let mut text = String::from("\\data\\\n");
    for (order, ngrams) in orders.iter().enumerate() {
        writeln!(text, "ngram {}={}", order + 1, ngrams.len()).unwrap();
    }
    for (order, ngrams) in orders.iter().enumerate() {
        writeln!(text, "\n\\{}-grams:", order + 1).unwrap();
        for ngram in ngrams {
            let log10 = -(source.below(400) as f64) / 100.0;
            write!(text, "{log10}\t{ngram}").unwrap();
            if order + 1 < orders.len() {
                write!(text, "\t{}", source.below(300) as f64 / 100.0 - 2.0).unwrap();
            }
            text.push('\n');
        }
    }
    text.push_str("\n\\end\\\n");
    NgramLm::from_arpa(text.as_bytes()).unwrap()
}

/// A lexicon of these words over a model of words.
pub fn lexicon(
    source: &mut Source,
    vocabulary: &Vocabulary,
    words: &[String],
    model: NgramLm,
) -> Lexicon<NgramLm> {
    let opts = LexiconOptions {
        lm_weight: source.below(5) as f64 / 2.0,
        word_bonus: source.below(9) as f64 / 2.0 - 2.0,
        unknown_score: source.pick(&[f64::NEG_INFINITY, -5.0, 0.0]),
        spellings: 1 + source.below(3),
        skip_unspellable: true,
        readings: source.pick(&[1, 2, 32]),
    };
    Lexicon::new(vocabulary, words, model, opts).unwrap()
}

/// Phrases of these words with boosts of both signs, on top of a model.
pub fn hotwords<L>(
    source: &mut Source,
    vocabulary: &Vocabulary,
    words: &[String],
    model: L,
) -> Hotwords<L> {
    let count = source.below(5);
    let phrases: Vec<(String, f64)> = (0..count)
        .map(|_| {
            let length = 1 + source.below(2);
            let phrase: Vec<&str> = (0..length)
                .map(|_| &*words[source.below(words.len())])
                .collect();
            let separator = if vocabulary.separator().is_some() {
                " "
            } else {
                ""
            };
            (phrase.join(separator), source.below(17) as f64 / 2.0 - 4.0)
        })
        .collect();
    Hotwords::new(vocabulary, phrases, model).unwrap()
}
