//! Hotwords in a beam search: against the enumeration of all labellings and the phrases that occur in them.

use crate::common::Rng;
use crate::decode::{distribution, exact, tensor};
use crate::ngram::{
    RandomNgrams, a_bound_loses_nothing, equal_keys_have_equal_scores, in_chunks_as_at_once,
    is_the_enumeration, keys_change_nothing_in_a_wide_beam,
};
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, End, Hotwords, LanguageModel, Lexicon, LexiconOptions, NoLanguageModel,
    TokenNgram, beam_search_with,
};
use proptest::prelude::*;

/// A vocabulary of four classes, and how its labels are cut into words: at class 1, or before or behind these classes.
/// If nothing marks words, each token is one.
struct Case {
    vocabulary: Vocabulary,
    cut: Cut,
}

enum Cut {
    At,
    Before(&'static [u32]),
    Behind(&'static [u32]),
    Everywhere,
}

fn cases() -> Vec<Case> {
    let case = |tokens: [&str; 4], cut| Case {
        vocabulary: Vocabulary::from_tokens(tokens).unwrap(),
        cut,
    };
    vec![
        case(["<pad>", "|", "a", "b"], Cut::At),
        case(["<blk>", "▁a", "b", "▁b"], Cut::Before(&[1, 3])),
        case(["<blk>", "a</w>", "b", "b</w>"], Cut::Behind(&[1, 3])),
        case(["<blk>", "你", "好", "我"], Cut::Everywhere),
    ]
}

impl Case {
    /// Random phrases of one to three words that can be spelled in one way.
    fn phrases(&self, rng: &mut Rng, count: usize) -> Vec<(String, f64)> {
        let mut phrases: Vec<(String, f64)> = Vec::new();
        while phrases.len() < count {
            let labels: Vec<u32> = (0..1 + rng.below(4))
                .map(|_| 1 + rng.below(3) as u32)
                .collect();
            let phrase = self.vocabulary.decode(&labels);
            let known = phrases.iter().any(|(other, _)| *other == phrase);
            if !known && !phrase.is_empty() && self.vocabulary.encode(&phrase).is_ok() {
                phrases.push((phrase, 4.0 * rng.unit() - 1.0));
            }
        }
        phrases
    }

    /// The words of labels, each as its labels.
    fn words<'a>(&self, labels: &'a [u32]) -> Vec<&'a [u32]> {
        let words: Vec<&[u32]> = match self.cut {
            Cut::At => labels.split(|label| *label == 1).collect(),
            Cut::Before(first) => labels.chunk_by(|_, next| !first.contains(next)).collect(),
            Cut::Behind(last) => labels.chunk_by(|label, _| !last.contains(label)).collect(),
            Cut::Everywhere => labels.chunks(1).collect(),
        };
        words.into_iter().filter(|word| !word.is_empty()).collect()
    }

    /// The sum of the boosts of all phrases that occur in labels.
    fn boost(&self, labels: &[u32], phrases: &[(String, f64)]) -> f64 {
        let words = self.words(labels);
        let earned = |(phrase, boost): &(String, f64)| {
            let spelled = self.vocabulary.encode(phrase).unwrap();
            let phrase = self.words(&spelled);
            let occurs = |window: &&[&[u32]]| **window == phrase[..];
            boost * words.windows(phrase.len()).filter(occurs).count() as f64
        };
        phrases.iter().map(earned).sum()
    }
}

/// The score of labels under a model, its end included.
fn total<L: LanguageModel>(model: &L, labels: &[u32]) -> f64 {
    let mut state = model.start().unwrap();
    let mut sum = 0.0;
    for &label in labels {
        let score = model.score(&state, label).unwrap();
        assert!(score <= model.max_score(), "{score} {}", model.max_score());
        sum += score;
        state = model.advance(&state, label).unwrap();
    }
    sum + model.end(&state).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn phrases_earn_what_the_enumeration_says(
        seed in any::<u64>(),
        case in 0usize..4,
        count in 1usize..6,
        under in 0usize..3,
    ) {
        let case = &cases()[case];
        let mut rng = Rng::new(seed);
        let (frames, classes) = (1 + rng.below(6), 4);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let log_probs = tensor(&values, classes);
        let phrases = case.phrases(&mut rng, count);
        let beam = BeamOptions { end: End::Required, lm_weight: 0.75, ..exact(0) };
        let narrow = BeamOptions { beam_width: 3, n_best: 3, ..beam };
        macro_rules! check {
            ($model:expr) => {{
                let model = $model;
                let hotwords = Hotwords::new(&case.vocabulary, phrases.clone(), &model).unwrap();
                let got = beam_search_with(&log_probs, &hotwords, beam).unwrap();
                let score = |labels: &[u32]| 0.75 * (total(&model, labels) + case.boost(labels, &phrases));
                is_the_enumeration(&got, &values, classes, 0, score)?;
                a_bound_loses_nothing(&log_probs, &hotwords, narrow)?;
                keys_change_nothing_in_a_wide_beam(&log_probs, &hotwords)?;
                equal_keys_have_equal_scores(&mut rng, &hotwords)?;
                in_chunks_as_at_once(&mut rng, &hotwords)?;
            }};
        }
        match under {
            0 => check!(NoLanguageModel),
            1 => {
                let names = case.vocabulary.tokens();
                let words: Vec<&str> = names[1..].iter().map(String::as_str).collect();
                let model = RandomNgrams::new(&mut rng, &words, 2, true, true).model();
                check!(TokenNgram::new(model, &case.vocabulary).unwrap())
            }
            _ => {
                let words: Vec<String> = case.phrases(&mut rng, 4).into_iter().map(|(p, _)| p).collect();
                let words: Vec<&str> = words.iter().flat_map(|phrase| phrase.split(' ')).collect();
                let model = RandomNgrams::new(&mut rng, &["a", "b"], 2, true, true).model();
                let opts = LexiconOptions { unknown_score: -1.0, ..Default::default() };
                match Lexicon::new(&case.vocabulary, words.iter().chain(&["a", "b"]), model, LexiconOptions {
                    skip_unspellable: true, ..opts
                }) {
                    Ok(lexicon) => check!(lexicon),
                    // The model knows no Chinese.
                    Err(_) => check!(Lexicon::new(&case.vocabulary, words, NoLanguageModel, opts).unwrap()),
                }
            }
        }
    }

    #[test]
    fn long_texts_with_many_phrases_earn_each_occurrence(seed in any::<u64>(), case in 0usize..4) {
        let case = &cases()[case];
        let mut rng = Rng::new(seed);
        let phrases = case.phrases(&mut rng, 12);
        let hotwords = Hotwords::new(&case.vocabulary, phrases.clone(), NoLanguageModel).unwrap();
        let labels: Vec<u32> = (0..300).map(|_| 1 + rng.below(3) as u32).collect();
        let (got, want) = (total(&hotwords, &labels), case.boost(&labels, &phrases));
        prop_assert!((got - want).abs() < 1e-9, "{got} {want}");
    }
}

#[test]
fn thousands_of_phrases() {
    let tokens = ["<pad>", "|", "a", "b", "c", "d", "e", "f", "g", "h"];
    let vocabulary = Vocabulary::from_tokens(tokens).unwrap();
    let mut rng = Rng::new(5);
    let word = |rng: &mut Rng| -> String {
        (0..2 + rng.below(3))
            .map(|_| char::from(b'a' + rng.below(8) as u8))
            .collect()
    };
    let mut phrases: Vec<String> = (0..5000)
        .map(|n| {
            if n % 3 == 0 {
                format!("{} {}", word(&mut rng), word(&mut rng))
            } else {
                word(&mut rng)
            }
        })
        .collect();
    phrases.sort();
    phrases.dedup();
    let boosted = phrases.iter().map(|phrase| (phrase, 1.0));
    let hotwords = Hotwords::new(&vocabulary, boosted, NoLanguageModel).unwrap();
    let words: Vec<String> = (0..2000).map(|_| word(&mut rng)).collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    let occurrences = words
        .iter()
        .cloned()
        .chain(pairs)
        .filter(|text| phrases.binary_search(text).is_ok());
    let want = occurrences.count();
    let labels = vocabulary.encode(&words.join(" ")).unwrap();
    assert!(want > 500, "{want}");
    assert!((total(&hotwords, &labels) - want as f64).abs() < 1e-6);
}

#[test]
fn a_phrase_earns_its_shares_and_gives_them_back() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let phrases = [("ab", 3.0), ("ab", 1.0), ("ab ba", 8.0), ("b", -2.0)];
    let hotwords = Hotwords::new(&vocabulary, phrases, NoLanguageModel).unwrap();
    let mut state = hotwords.start().unwrap();
    // "ab" alone would earn 1.5 a token; "ab ba" earns 2 a token, beside what "ab" earns when it is complete.
    for (label, want) in [
        (2, 2.0),
        (3, 2.0),
        (1, 3.0),
        (3, 2.0),
        (2, 2.0),
        (3, -8.0),
        (1, 0.0),
        (3, 0.0),
        (1, -2.0),
    ] {
        let got = hotwords.score(&state, label).unwrap();
        assert!((got - want).abs() < 1e-12, "{label}: {got}, not {want}");
        state = hotwords.advance(&state, label).unwrap();
    }
    assert_eq!(hotwords.end(&state).unwrap(), 0.0);
    state = hotwords.advance(&state, 2).unwrap();
    assert_eq!(hotwords.end(&state).unwrap(), -2.0);
}

#[test]
fn a_score_that_is_rounded_up_is_within_the_bound() {
    let vocabulary = Vocabulary::from_tokens(["<blk>", "▁a", "b", "▁b"]).unwrap();
    // The token "▁b" behind "▁a" completes one phrase and begins another: 0.1 + 0.3 - 0.1, which is rounded to more
    // than 0.3, the most that a token earns.
    let unit = f64::from(1 << 20);
    let phrases = [("a", 0.1 * unit), ("b", 0.3 * unit)];
    let hotwords = Hotwords::new(&vocabulary, phrases, NoLanguageModel).unwrap();
    assert!((total(&hotwords, &[1, 3]) - 0.4 * unit).abs() < 1e-6);
}

#[test]
fn on_top_of_a_lexicon_hotwords_list_what_it_lists() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let opts = LexiconOptions::default();
    let lexicon = Lexicon::new(&vocabulary, ["ab"], NoLanguageModel, opts).unwrap();
    let hotwords = Hotwords::new(&vocabulary, [("ab", 1.0)], &lexicon).unwrap();
    let mut tokens = Vec::new();
    assert!(hotwords.next_tokens(&hotwords.start().unwrap(), 9, &mut tokens));
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2]);
}

#[test]
fn hotwords_refuse_what_they_cannot_hold() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let error = |phrase: &str, boost: f64| {
        let hotwords = Hotwords::new(&vocabulary, [("a", 1.0), (phrase, boost)], NoLanguageModel);
        hotwords.unwrap_err().to_string()
    };
    assert!(
        error("a!", 1.0).starts_with("Hotwords: \"a!\" cannot be spelled: no token"),
        "{}",
        error("a!", 1.0)
    );
    assert!(error(" ", 1.0).contains("has no text"));
    assert!(error("ab", f64::NAN).contains("the boost of \"ab\" is NaN"));
    assert!(error("ab", f64::INFINITY).contains("the boost of \"ab\" is inf"));
    let none = Hotwords::new(
        &vocabulary,
        [("a", 1.0)].into_iter().take(0),
        NoLanguageModel,
    )
    .unwrap();
    assert_eq!(total(&none, &[2, 1, 3]), 0.0);
    assert!(
        none.score(&none.start().unwrap(), 7)
            .unwrap_err()
            .to_string()
            .contains("token 7 is no class")
    );
}

#[test]
fn a_lexicon_tells_which_phrases_its_texts_can_contain() {
    let opts = LexiconOptions::default();
    let letters = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let lexicon = Lexicon::new(&letters, ["ab", "b"], NoLanguageModel, opts).unwrap();
    for (phrase, found) in [("ab b", true), ("b", true), ("a", false), ("b a", false)] {
        let contains = lexicon.can_contain(&letters, phrase).unwrap();
        assert_eq!(contains, found, "{phrase}");
    }
    assert!(lexicon.can_contain(&letters, "c").is_err());
    let other = [("a", [3u32])];
    let other = Lexicon::with_spellings(&letters, other, NoLanguageModel, opts).unwrap();
    assert!(!other.can_contain(&letters, "a").unwrap());

    // Within a word that nothing separates, and as words are spelled behind others.
    let unspaced = Vocabulary::from_tokens(["<blk>", "王", "小", "明"]).unwrap();
    let marked = Vocabulary::from_tokens(["<pad>", "fox", "Ġfox", "dog"]).unwrap();
    for (vocabulary, word, labels, phrase) in [
        (&unspaced, "王小明", &[1u32, 2, 3][..], "小明"),
        (&marked, "fox", &[2], "fox"),
    ] {
        let words = [(word, labels)];
        let lexicon = Lexicon::with_spellings(vocabulary, words, NoLanguageModel, opts).unwrap();
        assert!(lexicon.can_contain(vocabulary, phrase).unwrap());
        let hotwords = Hotwords::new(vocabulary, [(phrase, 2.0)], &lexicon).unwrap();
        assert!((total(&hotwords, labels) - 2.0).abs() < 1e-9);
    }
}

#[test]
fn without_a_model_prefixes_in_which_no_phrase_goes_on_are_alike() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let hotwords = Hotwords::new(&vocabulary, [("ab", 1.0)], NoLanguageModel).unwrap();
    let key = |labels: &[u32]| {
        let start = hotwords.start().unwrap();
        let behind = labels.iter().fold(start, |state, label| {
            hotwords.advance(&state, *label).unwrap()
        });
        hotwords.state_key(&behind)
    };
    assert!(key(&[3]).is_some());
    assert_eq!(key(&[3]), key(&[3, 3]));
    assert_ne!(key(&[3]), key(&[2]));
}
