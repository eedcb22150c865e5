//! N-gram models: against KenLM's figures and a plain implementation, in a beam search, and files that are none.
//!
//! `ngram/generate.py` says what the cases are and writes them.

use crate::common::Rng;
use crate::common::labellings::labellings;
use crate::decode::{distribution, exact, tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, BeamSearch, End, Hypothesis, LanguageModel, NgramLm, TokenNgram, WordModel,
    beam_search_batch_with, beam_search_with,
};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

const LN_10: f64 = std::f64::consts::LN_10;

fn folder() -> String {
    // Elsewhere when this program runs on another machine than the one that built it.
    let root = std::env::var("CTC_TEST_ROOT").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    format!("{root}/tests/ngram")
}

#[test]
fn scores_are_those_of_kenlm() {
    let cases = std::fs::read_to_string(format!("{}/scores.json", folder())).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let mut compared = 0;
    for case in cases.as_array().unwrap() {
        let file = case["file"].as_str().unwrap();
        let model = NgramLm::from_path(format!("{}/{file}", folder())).unwrap();
        assert_eq!(model.order() as u64, case["order"].as_u64().unwrap());
        for sentence in case["sentences"].as_array().unwrap() {
            let words = sentence["words"].as_array().unwrap();
            let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
            let want = sentence["log10"].as_array().unwrap();
            let want: Vec<f64> = want.iter().map(|x| LN_10 * x.as_f64().unwrap()).collect();
            let got = model.score_words(&words);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                let tolerance = 1e-6 * want.abs().max(1.0);
                assert!(
                    (got - want).abs() < tolerance,
                    "{file} {words:?}: {got}, KenLM {want}"
                );
                compared += 1;
            }
            let sum: f64 = want.iter().sum();
            assert!((model.score_sentence(&words) - sum).abs() < 1e-6 * sum.abs().max(1.0));
        }
    }
    assert!(compared > 2000, "{compared}");
}

/// A model of random figures, as the text of an ARPA file and as a map from n-grams to (probability, backoff) in log10.
pub struct RandomNgrams {
    pub arpa: String,
    table: HashMap<Vec<String>, (f64, f64)>,
    order: usize,
}

impl RandomNgrams {
    /// Each n-gram begins with one of the order before. `normal`: no backoff is above 0.
    pub fn new(rng: &mut Rng, words: &[&str], order: usize, unknown: bool, normal: bool) -> Self {
        let mut table = HashMap::new();
        let mut known: Vec<&str> = words.to_vec();
        known.push("</s>");
        known.extend(unknown.then_some("<unk>"));
        let mut contexts: Vec<Vec<String>> = vec![vec![]];
        let mut arpa = String::from("\\data\\\n");
        let mut sections = String::new();
        for n in 1..=order {
            let mut grams = Vec::new();
            for context in &contexts {
                for word in known.iter().chain(["<s>"].iter().filter(|_| n == 1)) {
                    if n == 1 || rng.unit() < 0.5 {
                        let mut gram = context.clone();
                        gram.push(word.to_string());
                        grams.push(gram);
                    }
                }
            }
            for at in (1..grams.len()).rev() {
                grams.swap(at, rng.below(at + 1));
            }
            arpa += &format!("ngram {n}={}\n", grams.len());
            sections += &format!("\n\\{n}-grams:\n");
            for gram in &grams {
                let prob = -3.0 * rng.unit();
                let backoff = if normal {
                    -rng.unit()
                } else {
                    1.0 - 3.0 * rng.unit()
                };
                sections += &format!("{prob:.7}\t{}", gram.join(" "));
                let has_backoff = n < order && rng.unit() < 0.9;
                if has_backoff {
                    sections += &format!("\t{backoff:.7}");
                }
                sections += "\n";
                table.insert(
                    gram.clone(),
                    (prob, if has_backoff { backoff } else { 0.0 }),
                );
            }
            contexts = grams;
            contexts.retain(|gram| gram[n - 1] != "</s>");
        }
        arpa += &sections;
        arpa += "\n\\end\\\n";
        Self { arpa, table, order }
    }

    /// The score of each word and of the end, in nats, from the definition.
    pub fn score_words(&self, words: &[&str]) -> Vec<f64> {
        let known = |word: &str| self.table.contains_key(&vec![word.to_owned()]);
        let name = |word: &&str| {
            if known(word) {
                word.to_string()
            } else {
                "<unk>".into()
            }
        };
        let text = ["<s>"].iter().chain(words).chain(&["</s>"]);
        let text: Vec<String> = text.map(name).collect();
        (1..text.len())
            .map(|end| {
                let first = (end + 1).saturating_sub(self.order);
                let mut sum = 0.0;
                for start in first..=end {
                    if let Some((prob, _)) = self.table.get(&text[start..=end]) {
                        return LN_10 * (sum + prob);
                    }
                    let context = self.table.get(&text[start..end]);
                    sum += context.map_or(0.0, |(_, backoff)| *backoff);
                }
                LN_10 * (sum - 100.0)
            })
            .collect()
    }

    pub fn model(&self) -> NgramLm {
        NgramLm::from_arpa(self.arpa.as_bytes()).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn scores_are_those_of_the_definition(
        seed in any::<u64>(),
        order in 1usize..=5,
        unknown: bool,
        normal: bool,
    ) {
        let mut rng = Rng::new(seed);
        let words = ["a", "b", "ç"];
        let plain = RandomNgrams::new(&mut rng, &words, order, unknown, normal);
        let model = plain.model();
        prop_assert_eq!(model.order(), order);
        prop_assert_eq!(model.words().count(), 3);
        for _ in 0..20 {
            let text: Vec<&str> =
                (0..rng.below(9)).map(|_| ["a", "b", "ç", "other"][rng.below(4)]).collect();
            let (got, want) = (model.score_words(&text), plain.score_words(&text));
            for (got, want) in got.iter().zip(&want) {
                // Figures are kept in f32.
                prop_assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{text:?} {got} {want}");
            }
        }
    }

    #[test]
    fn a_model_of_tokens_ranks_as_the_enumeration_says(
        seed in any::<u64>(),
        order in 1usize..=4,
        normal: bool,
        lm_weight in prop::sample::select(vec![0.6, 1.0]),
        end in prop::sample::select(vec![End::Required, End::Ignored]),
    ) {
        let mut rng = Rng::new(seed);
        let (frames, classes) = (1 + rng.below(6), 4);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let log_probs = tensor(&values, classes);
        // The model does not know "c".
        let plain = RandomNgrams::new(&mut rng, &["a", "b"], order, true, normal);
        let model = TokenNgram::with_names(plain.model(), ["<pad>", "a", "b", "c"]).unwrap();
        prop_assert_eq!(model.unknown_classes(), [0, 3]);
        let opts = BeamOptions { lm_weight, end, ..exact(0) };
        let got = beam_search_with(&log_probs, &model, opts).unwrap();
        let score = |tokens: &[u32]| {
            let names: Vec<&str> = tokens.iter().map(|t| ["", "a", "b", "c"][*t as usize]).collect();
            let mut scores = plain.model().score_words(&names);
            if end == End::Ignored {
                scores.pop();
            }
            lm_weight * scores.iter().sum::<f64>()
        };
        is_the_enumeration(&got, &values, classes, 0, score)?;
        a_bound_loses_nothing(&log_probs, &model, BeamOptions { beam_width: 3, n_best: 3, ..opts })?;
        keys_change_nothing_in_a_wide_beam(&log_probs, &model)?;
        equal_keys_have_equal_scores(&mut rng, &model)?;
        in_chunks_as_at_once(&mut rng, &model)?;
    }

    #[test]
    fn the_binary_form_is_the_same_model(
        seed in any::<u64>(),
        order in 1usize..=5,
        unknown: bool,
        normal: bool,
        quantised: bool,
    ) {
        let mut rng = Rng::new(seed);
        let plain = RandomNgrams::new(&mut rng, &["a", "b", "ç"], order, unknown, normal);
        let mut model = plain.model();
        if quantised {
            model = model.quantised().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        model.save(&path).unwrap();
        let mapped = NgramLm::from_path(&path).unwrap();
        let read = NgramLm::from_binary(&std::fs::read(&path).unwrap()[..]).unwrap();
        // Onto the file that it comes from.
        mapped.save(&path).unwrap();
        let again = NgramLm::from_path(&path).unwrap();
        for other in [mapped, read, again] {
            prop_assert_eq!(other.ngram_counts(), model.ngram_counts());
            prop_assert_eq!(other.is_quantised(), quantised);
            prop_assert!(other.words().eq(model.words()));
            prop_assert_eq!(WordModel::max_score(&other), WordModel::max_score(&model));
            for _ in 0..10 {
                let text: Vec<&str> =
                    (0..rng.below(9)).map(|_| ["a", "b", "ç", "other"][rng.below(4)]).collect();
                prop_assert_eq!(other.score_words(&text), model.score_words(&text));
            }
        }
    }

    /// A file whose checksum is right and whose content is not: the worst that may happen is an error.
    #[test]
    fn a_binary_file_that_contradicts_itself_ends_no_program(
        seed in any::<u64>(),
        order in 1usize..=4,
        quantised: bool,
    ) {
        let mut rng = Rng::new(seed);
        let mut model = RandomNgrams::new(&mut rng, &["a", "b"], order, true, false).model();
        if quantised {
            model = model.quantised().unwrap();
        }
        let good = binary(&model);
        for _ in 0..50 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(2) {
                // Before the checksum, and often in the header.
                let end = if rng.below(3) == 0 { 8 * 20 } else { bytes.len() - 8 };
                let at = 4 * rng.below(end / 4);
                let value = [0, 1, u32::MAX, 1 << 31, rng.below(40) as u32, rng.below(1 << 30) as u32]
                    [rng.below(6)];
                bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            }
            sign(&mut bytes);
            if let Ok(model) = NgramLm::from_binary(&bytes[..]) {
                prop_assert!(model.words().count() < 10);
                let scores = model.score_words(&["a", "b", "x", "b", "a"]);
                prop_assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
            }
        }
    }

    /// From the definition, with plain counts.
    #[test]
    fn estimates_are_those_of_witten_and_bell(seed in any::<u64>(), order in 1usize..=4) {
        let mut rng = Rng::new(seed);
        let names = ["a", "b", "c", "d", "<unk>"];
        // Half of the texts know "<unk>".
        let known = if rng.below(2) == 0 { 5 } else { 4 };
        let sentences: Vec<Vec<&str>> = (0..1 + rng.below(6))
            .map(|_| (0..rng.below(7)).map(|_| names[rng.below(known)]).collect())
            .collect();
        let model = NgramLm::from_sentences(order, sentences.iter().map(|s| s.iter())).unwrap();
        prop_assert_eq!(model.order(), order);

        let marked: Vec<Vec<&str>> = sentences
            .iter()
            .map(|sentence| [&["<s>"][..], &sentence[..], &["</s>"]].concat())
            .collect();
        let count = |ngram: &[&str]| {
            let windows = marked.iter().flat_map(|sentence| sentence.windows(ngram.len()));
            windows.filter(|window| *window == ngram).count() as f64
        };
        let mut vocabulary: Vec<&str> = marked.concat();
        vocabulary.retain(|word| *word != "<s>");
        vocabulary.sort_unstable();
        vocabulary.dedup();
        let types = vocabulary.len() as f64;
        if !vocabulary.contains(&"<unk>") {
            vocabulary.push("<unk>");
        }
        fn prob(context: &[&str], word: &str, vocabulary: &[&str], types: f64, count: &dyn Fn(&[&str]) -> f64) -> f64 {
            let followers = vocabulary.iter().map(|other| count(&[context, &[other]].concat()));
            let followers: Vec<f64> = followers.collect();
            let all: f64 = followers.iter().sum();
            let different = followers.iter().filter(|count| **count > 0.0).count() as f64;
            let own = count(&[context, &[word]].concat());
            match context {
                [] => (own + types / vocabulary.len() as f64) / (all + types),
                [_, shorter @ ..] => {
                    let shorter = prob(shorter, word, vocabulary, types, count);
                    if all == 0.0 { shorter } else { (own + different * shorter) / (all + different) }
                }
            }
        }
        for _ in 0..5 {
            let text: Vec<&str> =
                (0..rng.below(5)).map(|_| vocabulary[rng.below(vocabulary.len())]).filter(|w| *w != "</s>").collect();
            let mut history = vec!["<s>"];
            let scores = model.score_words(&text);
            for (word, score) in text.iter().chain(&["</s>"]).zip(scores) {
                let context = &history[history.len().saturating_sub(order - 1)..];
                let want = prob(context, word, &vocabulary, types, &count).ln();
                prop_assert!((score - want).abs() < 1e-5, "{text:?} {word} {score} {want}");
                history.push(word);
            }
            // Whatever stands before, the probabilities of all words and the end add up.
            let all: f64 = vocabulary
                .iter()
                .map(|word| match *word {
                    "</s>" => model.score_words(&text)[text.len()].exp(),
                    word => model.score_words(&[&text[..], &[word]].concat())[text.len()].exp(),
                })
                .sum();
            prop_assert!((all - 1.0).abs() < 1e-5, "{text:?} {all}");
        }
    }

    #[test]
    fn broken_files_are_errors_and_no_more(seed in any::<u64>(), cuts in any::<bool>()) {
        let mut rng = Rng::new(seed);
        let mut bytes = RandomNgrams::new(&mut rng, &["a", "b"], 3, true, false).arpa.into_bytes();
        if cuts {
            bytes.truncate(rng.below(bytes.len() - 2));
            prop_assert!(NgramLm::from_arpa(&bytes[..]).is_err());
        }
        for _ in 0..1 + rng.below(4) {
            let (at, with) = (rng.below(bytes.len().max(1)), b"\n\\ \t-19ae<>\xff\0"[rng.below(13)]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
        }
        // Whether it is read or refused: neither panics, and what was read scores.
        if let Ok(model) = NgramLm::from_arpa(&bytes[..]) {
            prop_assert!(model.score_sentence(&["a", "b", "a"]).is_finite());
        }
    }
}

/// Every labelling whose score is above −inf is found, with the scores of the enumeration.
pub fn is_the_enumeration(
    got: &[Hypothesis],
    values: &[f64],
    classes: usize,
    blank: usize,
    score: impl Fn(&[u32]) -> f64,
) -> std::result::Result<(), TestCaseError> {
    let mut want: Vec<(f64, f64, Vec<u32>)> = labellings(values, classes, blank)
        .into_iter()
        .map(|labelling| (labelling.score, score(&labelling.tokens), labelling.tokens))
        .filter(|(_, lm, _)| *lm > f64::NEG_INFINITY)
        .collect();
    want.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)));
    prop_assert_eq!(got.len(), want.len());
    for (at, got) in got.iter().enumerate() {
        let same = want.iter().find(|want| want.2 == got.tokens).unwrap();
        prop_assert!((got.score - same.0).abs() < 1e-9, "{got:?} {same:?}");
        prop_assert!((got.lm_score - same.1).abs() < 1e-9, "{got:?} {same:?}");
        // In order, up to rounding.
        prop_assert!((got.total_score() - want[at].0 - want[at].1).abs() < 1e-9);
    }
    Ok(())
}

/// A narrow beam finds the same whether the model bounds its scores and lists the tokens that may follow, or not.
pub fn a_bound_loses_nothing<L: LanguageModel>(
    log_probs: &candle_core::Tensor,
    model: &L,
    opts: BeamOptions,
) -> std::result::Result<(), TestCaseError> {
    for opts in [
        opts,
        BeamOptions {
            tokens_per_frame: 2,
            ..opts
        },
        BeamOptions {
            token_threshold: -1.5,
            suppress: &[2],
            ..opts
        },
    ] {
        let hinted = beam_search_with(log_probs, model, opts).unwrap();
        let plain = beam_search_with(log_probs, &Unhinted(model), opts).unwrap();
        prop_assert_eq!(hinted, plain, "{:?}", opts);
    }
    Ok(())
}

/// Prefixes whose states have the same key have the same scores, whatever follows. For models over 4 classes, with blank
/// 0. Returns how many pairs there were.
pub fn equal_keys_have_equal_scores<L: LanguageModel>(
    rng: &mut Rng,
    model: &L,
) -> std::result::Result<usize, TestCaseError> {
    let mut seen: HashMap<u128, (Vec<u32>, L::State)> = HashMap::new();
    let scores = |state: &L::State| -> Vec<u64> {
        let next = (1..4).map(|token| model.score(state, token).unwrap().to_bits());
        next.chain([model.end(state).unwrap().to_bits()]).collect()
    };
    let mut pairs = 0;
    for _ in 0..40 {
        let mut state = model.start().unwrap();
        let mut prefix = Vec::new();
        for _ in 0..rng.below(7) {
            let token = 1 + rng.below(3) as u32;
            if model.score(&state, token).unwrap() == f64::NEG_INFINITY {
                break;
            }
            state = model.advance(&state, token).unwrap();
            prefix.push(token);
        }
        let Some(key) = model.state_key(&state) else {
            continue;
        };
        match seen.get(&key) {
            Some((other, _)) if *other == prefix => {}
            Some((other, alike)) => {
                pairs += 1;
                prop_assert_eq!(scores(&state), scores(alike), "{:?} {:?}", &prefix, other);
                for token in 1..4 {
                    if model.score(&state, token).unwrap() > f64::NEG_INFINITY {
                        let behind = |state| model.advance(state, token).unwrap();
                        prop_assert_eq!(scores(&behind(&state)), scores(&behind(alike)));
                    }
                }
            }
            None => drop(seen.insert(key, (prefix, state))),
        }
    }
    Ok(pairs)
}

/// A search for one hypothesis makes room by the keys of states. While there is room, it changes nothing.
pub fn keys_change_nothing_in_a_wide_beam<L: LanguageModel>(
    log_probs: &candle_core::Tensor,
    model: &L,
) -> std::result::Result<(), TestCaseError> {
    let opts = BeamOptions {
        beam_width: 5000,
        ..Default::default()
    };
    let keyed = beam_search_with(log_probs, model, opts).unwrap();
    prop_assert_eq!(
        keyed,
        beam_search_with(log_probs, &Unhinted(model), opts).unwrap()
    );
    Ok(())
}

/// A stream in random chunks, and a batch, give what one call gives. For models over 4 classes, with blank 0.
pub fn in_chunks_as_at_once<L: LanguageModel + Sync>(
    rng: &mut Rng,
    model: &L,
) -> std::result::Result<(), TestCaseError> {
    let values = distribution(rng, 30, 4, 3.0, 0.05);
    let log_probs = tensor(&values, 4);
    let opts = BeamOptions {
        beam_width: 6,
        n_best: if rng.below(2) == 0 { 1 } else { 6 },
        ..Default::default()
    };
    let at_once = beam_search_with(&log_probs, model, opts).unwrap();
    let mut search = BeamSearch::with_language_model(4, model, opts).unwrap();
    let mut first = 0;
    while first < 30 {
        let size = rng.below(8).min(30 - first);
        search
            .push(&log_probs.narrow(0, first, size).unwrap())
            .unwrap();
        first += size;
    }
    prop_assert_eq!(&search.finish().unwrap(), &at_once);
    let batch = log_probs.unsqueeze(1).unwrap().repeat((1, 2, 1)).unwrap();
    let in_batch = beam_search_batch_with(&batch, [30, 30], model, opts).unwrap();
    prop_assert_eq!(in_batch, [at_once.clone(), at_once]);
    Ok(())
}

/// A model that tells the search nothing but its scores.
pub struct Unhinted<'a, L>(pub &'a L);

impl<L: LanguageModel> LanguageModel for Unhinted<'_, L> {
    type State = L::State;

    fn start(&self) -> candle_core::Result<L::State> {
        self.0.start()
    }

    fn score(&self, state: &L::State, token: u32) -> candle_core::Result<f64> {
        self.0.score(state, token)
    }

    fn advance(&self, state: &L::State, token: u32) -> candle_core::Result<L::State> {
        self.0.advance(state, token)
    }

    fn end(&self, state: &L::State) -> candle_core::Result<f64> {
        self.0.end(state)
    }

    fn max_score(&self) -> f64 {
        f64::INFINITY
    }
}

const GOOD: &str = "\\data\\
ngram 1=4
ngram 2=3
ngram 3=1

\\1-grams:
-99\t<s>\t-0.5
-1\t</s>
-0.5\ta\t-0.25
-2\t<unk>

\\2-grams:
-0.25\t<s> a\t-0.125
-0.5\ta a
-1\ta </s>

\\3-grams:
-0.0625\t<s> a a

\\end\\
";

#[track_caller]
fn refused(bytes: &[u8]) -> String {
    NgramLm::from_arpa(bytes).unwrap_err().to_string()
}

#[test]
fn a_malformed_file_is_an_error_with_line_and_reason() {
    let cases = [
        ("\\data\\", "\\dat\\", "no line \"\\data\\\""),
        (
            "ngram 1=4",
            "ngram 1:4",
            "line 2: expected a count such as \"ngram 1=1000\", but found \"ngram 1:4\"",
        ),
        (
            "ngram 2=3\nngram 3",
            "ngram 3=3\nngram 3",
            "line 3: the count of 3-grams stands where that of 2-grams",
        ),
        (
            "ngram 2=3",
            "ngram 2=2",
            "line 15: there are more 2-grams than the 2 of \"ngram 2=2\"",
        ),
        (
            "ngram 2=3",
            "ngram 2=4",
            "line 16: the section of 2-grams ends after 3 of the 4",
        ),
        (
            "ngram 2=3",
            "ngram 2=99999999999999",
            "line 16: the section of 2-grams ends after 3 of the 9999",
        ),
        ("ngram 2=3", "ngram 2=-3", "line 3: expected a count"),
        (
            "\\2-grams:",
            "\\two-grams:",
            "line 12: expected \"\\\\2-grams:\"",
        ),
        (
            "\n\\3-grams:\n-0.0625\t<s> a a\n",
            "",
            "line 17: expected \"\\\\3-grams:\"",
        ),
        ("\\end\\", "", "line 21: the file ends before \"\\end\\\""),
        ("\\end\\", "\\4-grams:", "line 20: expected \"\\\\end\\\\\""),
        (
            "-0.5\ta a",
            "x\ta a",
            "line 14: the log10 probability \"x\" is not a finite number",
        ),
        (
            "-0.5\ta a",
            "nan\ta a",
            "line 14: the log10 probability \"nan\" is not a finite number",
        ),
        (
            "-0.5\ta a",
            "-1e999\ta a",
            "line 14: the log10 probability \"-1e999\" is not a finite number",
        ),
        (
            "-0.5\ta a",
            "0.5\ta a",
            "line 14: the log10 probability 0.5 is above 0",
        ),
        (
            "-0.5\ta a",
            "-0.5\ta b",
            "line 14: the word \"b\" of this 2-gram is no 1-gram",
        ),
        ("-0.5\ta a", "-0.5\ta", "line 14: a 2-gram has 2 words"),
        ("-0.5\ta a", "-0.5", "line 14: a 2-gram has 2 words"),
        (
            "-0.5\ta a",
            "-0.5\ta a inf",
            "line 14: the log10 backoff \"inf\" is not a finite number",
        ),
        (
            "-0.5\ta a",
            "-0.5\ta a -1 a",
            "line 14: \"a\" stands behind the backoff",
        ),
        (
            "-1\ta </s>",
            "-1\t<s> a",
            "line 15: this 2-gram stands in line 13 already",
        ),
        (
            "-2\t<unk>",
            "-2\ta",
            "line 10: the word \"a\" is a 1-gram already, entry 3 of that section",
        ),
        ("<s> a a", "a a a", ""),
        ("-0.5\ta a", "0\ta a", ""),
        (
            "<s> a a",
            "a <s> a",
            "line 18: the 2-gram \"a <s>\", with which this 3-gram begins, is missing",
        ),
        (
            "<s> a a",
            "<s> a a\t-0.5",
            "line 18: the backoff -0.5 belongs to an n-gram of the highest order",
        ),
        ("-1\t</s>", "-1\tb", "no 1-gram </s>"),
        ("-99\t<s>", "-99\tb", "no 1-gram <s>"),
    ];
    for (from, to, reason) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from:?}");
        match reason {
            "" => drop(NgramLm::from_arpa(text.as_bytes()).unwrap()),
            reason => assert!(
                refused(text.as_bytes()).contains(reason),
                "{}",
                refused(text.as_bytes())
            ),
        }
    }
    let latin = [&b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1 caf"[..], b"\xe9\n"].concat();
    assert!(refused(&latin).starts_with("line 5: the line is not UTF-8 at its byte 7"));
    assert!(refused(b"").contains("not in the ARPA format"));
    assert!(refused(b"mmap lm http://kheafield.com/code").contains("KenLM's binary format"));
    assert!(refused(b"BZh91AY").contains("bzip2"));
    assert!(refused(&vec![b'x'; 3 << 20]).contains("line 1: the line has more than 1048576 bytes"));
    let missing = NgramLm::from_path("no/such.arpa").unwrap_err().to_string();
    assert!(
        missing.starts_with("cannot read the n-gram model no/such.arpa: "),
        "{missing}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\\data\\\nngram").unwrap();
    let broken = NgramLm::from_path(file.path()).unwrap_err().to_string();
    assert!(
        broken.contains(&*file.path().to_string_lossy()) && broken.contains("line 2: "),
        "{broken}"
    );
}

#[test]
fn limits_of_a_file_are_taken_and_no_more() {
    let padded = |bytes: usize| format!("{}\n{GOOD}", "x".repeat(bytes - 1));
    NgramLm::from_arpa(padded(1 << 20).as_bytes()).unwrap();
    let reason = refused(padded((1 << 20) + 1).as_bytes());
    assert!(
        reason.contains("line 1: the line has more than 1048576 bytes"),
        "{reason}"
    );
    let of_order = |orders: usize| {
        let mut arpa = String::from("\\data\\\nngram 1=3\n");
        (2..=orders).for_each(|order| arpa += &format!("ngram {order}=0\n"));
        arpa += "\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 a\n";
        (2..=orders).for_each(|order| arpa += &format!("\\{order}-grams:\n"));
        arpa + "\\end\\\n"
    };
    let model = NgramLm::from_arpa(of_order(255).as_bytes()).unwrap();
    let again = NgramLm::from_binary(&binary(&model)[..]).unwrap();
    assert_eq!((model.order(), again.order()), (255, 255));
    assert_eq!(again.score_words(&["a"]), [-LN_10, -LN_10]);
    let reason = refused(of_order(256).as_bytes());
    assert!(reason.contains("the order 256 is above 255"), "{reason}");
}

#[test]
fn what_kenlm_reads_is_read() {
    let words = ["a", "a", "x"];
    let want = NgramLm::from_arpa(GOOD.as_bytes())
        .unwrap()
        .score_words(&words);
    // "<s> a", "<s> a a", the unknown word behind "a" (which "a a" backs off to), the end behind it.
    let log10 = [-0.25, -0.0625, -0.25 - 2.0, -1.0];
    for (want, log10) in want.iter().zip(log10) {
        assert!((want - LN_10 * log10).abs() < 1e-12, "{want} {log10}");
    }
    for text in [
        format!("\u{feff}{GOOD}"),
        format!("written by a toolkit\n\n{GOOD}"),
        GOOD.replace('\n', "\r\n"),
        GOOD.replace('\t', "  "),
        GOOD.replace("\n\n", "\n\n\n"),
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("<unk>", "<UNK>"),
        GOOD.replace("<s> a a", "<s> a a\t0"),
        format!("{GOOD}\nand more"),
    ] {
        let model = NgramLm::from_arpa(text.as_bytes()).unwrap();
        assert_eq!(model.score_words(&words), want, "{text}");
        assert_eq!(model.ngram_counts(), [4, 3, 1]);
    }
    let no_unknown = GOOD.replace("-2\t<unk>\n", "").replace("1=4", "1=3");
    let model = NgramLm::from_arpa(no_unknown.as_bytes()).unwrap();
    assert!((model.score_words(&words)[2] - LN_10 * -100.25).abs() < 1e-9);
    assert_eq!(model.words().collect::<Vec<_>>(), ["a"]);
    assert!(model.contains("a") && !model.contains("x"));
    // Spaces at the beginnings of lines mean nothing.
    let indented = GOOD.replace('\n', "\n \t");
    let model = NgramLm::from_arpa(indented.as_bytes()).unwrap();
    assert_eq!(model.score_words(&words), want);
}

#[test]
fn the_largest_score_may_come_from_backoffs_above_0() {
    let arpa = "\\data\\\nngram 1=5\nngram 2=1\nngram 3=1\n\n\\1-grams:\n-99 <s>\n-0.5 </s>\n-0.5 a 1\n-0.5 b\n\
                -100 <unk>\n\n\\2-grams:\n-0.5 b a 2\n\n\\3-grams:\n-1 b a a\n\n\\end\\\n";
    let model = NgramLm::from_arpa(arpa.as_bytes()).unwrap();
    // The backoffs of "b a" and of "a", and the probability of "b".
    let score = model.score_words(&["b", "a", "b"])[2];
    assert!((score - LN_10 * (2.0 + 1.0 - 0.5)).abs() < 1e-12, "{score}");
    let most = WordModel::max_score(&model);
    assert!(score <= most, "{score} {most}");
}

#[test]
fn compressed_files_are_read_to_their_checksum() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(GOOD.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let model = NgramLm::from_arpa(&packed[..]).unwrap();
    let plain = NgramLm::from_arpa(GOOD.as_bytes()).unwrap();
    assert_eq!(model.score_words(&["a"]), plain.score_words(&["a"]));
    for length in 2..packed.len() {
        assert!(NgramLm::from_arpa(&packed[..length]).is_err(), "{length}");
    }
    let mut wrong = packed.clone();
    let checksum = packed.len() - 8;
    wrong[checksum] ^= 1;
    assert!(
        refused(&wrong).contains("behind the end of the model"),
        "{}",
        refused(&wrong)
    );
}

/// The bytes of the file of a model.
fn binary(model: &NgramLm) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model.save(&path).unwrap();
    // Nothing else is left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::read(path).unwrap()
}

/// Puts the checksum of a binary file right.
fn sign(bytes: &mut [u8]) {
    let at = bytes.len() - 8;
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[..at]);
    bytes[at..].copy_from_slice(&u64::from(crc.sum()).to_ne_bytes());
}

#[test]
fn a_binary_file_is_refused_with_the_reason() {
    let good = binary(&NgramLm::from_arpa(GOOD.as_bytes()).unwrap());
    let refused = |bytes: &[u8], expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, bytes).unwrap();
        for error in [
            NgramLm::from_binary(bytes).unwrap_err().to_string(),
            NgramLm::from_path(&path).unwrap_err().to_string(),
        ] {
            assert!(error.contains(expected), "{error}");
        }
    };
    for length in (16..good.len()).step_by(5) {
        refused(&good[..length], "it is not complete");
    }
    refused(&good[..good.len() - 8], "it is not complete");
    let mut longer = good.clone();
    longer.push(0);
    refused(&longer, "but more follow");
    for at in (8 * 13..good.len()).step_by(3) {
        let mut changed = good.clone();
        changed[at] ^= 4;
        refused(&changed, "the checksum is wrong");
    }
    let mut other_order = good.clone();
    other_order[8..16].reverse();
    refused(&other_order, "another byte order");
    let mut other_version = good.clone();
    other_version[8..16].copy_from_slice(&7u64.to_ne_bytes());
    refused(&other_version, "version 7");
    let error = NgramLm::from_binary(GOOD.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains("not in the binary form"), "{error}");
    let error = NgramLm::from_arpa(&good[..]).unwrap_err().to_string();
    assert!(error.contains("from_binary reads it"), "{error}");
    let gone = std::path::Path::new("/no such folder/model");
    let error = NgramLm::from_binary(&good[..])
        .unwrap()
        .save(gone)
        .unwrap_err();
    assert!(
        error.to_string().contains("/no such folder/model"),
        "{error}"
    );
}

/// A binary file with these bytes at these places, and the right checksum, is refused.
#[track_caller]
fn contradicts_itself(good: &[u8], changes: &[(usize, &[u8])]) {
    let mut changed = good.to_vec();
    for (at, bytes) in changes {
        assert_ne!(changed[*at..][..bytes.len()], **bytes);
        changed[*at..][..bytes.len()].copy_from_slice(bytes);
    }
    sign(&mut changed);
    let error = NgramLm::from_binary(&changed[..]).unwrap_err().to_string();
    assert!(error.contains("the file contradicts itself"), "{error}");
}

#[test]
fn sizes_in_a_binary_file_have_to_agree() {
    // The counts of n-grams begin at the 14th number.
    let three_orders = binary(&NgramLm::from_arpa(GOOD.as_bytes()).unwrap());
    contradicts_itself(&three_orders, &[(8 * 13, &5u64.to_ne_bytes())]);
    contradicts_itself(&three_orders, &[(8 * 14, &2u64.to_ne_bytes())]);
    // Behind 19 numbers, the ends of the 4 words and their order come the words of 9 nodes. Nodes 6 and 7 are "a </s>"
    // and "a a": two children of one node with different words, of which there are 4.
    let words = 8 * 19 + 32 + 16;
    assert_eq!(three_orders[words + 4 * 6..][..4], 1u32.to_ne_bytes());
    for word in [1u32, 4] {
        contradicts_itself(&three_orders, &[(words + 4 * 7, &word.to_ne_bytes())]);
    }
    // Behind the words, the suffixes and the first children, 40 bytes each, come the probabilities.
    let prob = words + 3 * 40 + 4 * 7;
    assert_eq!(three_orders[prob..][..4], (-0.5f32).to_ne_bytes());
    for log10 in [0.5, f32::NEG_INFINITY, f32::NAN] {
        contradicts_itself(&three_orders, &[(prob, &log10.to_ne_bytes())]);
    }

    let arpa = "\\data\\\nngram 1=4\nngram 2=0\nngram 3=0\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 a\n-2 <unk>\n\n\
                \\2-grams:\n\n\\3-grams:\n\n\\end\\\n";
    let words_alone = binary(&NgramLm::from_arpa(arpa.as_bytes()).unwrap());
    // The 2-grams begin before the 1-grams, with as many of both as these bounds say.
    contradicts_itself(
        &words_alone,
        &[
            (8 * 13, &u64::MAX.to_ne_bytes()),
            (8 * 14, &5u64.to_ne_bytes()),
            (8 * 17, &0u64.to_ne_bytes()),
        ],
    );
    // The only 1-gram is the empty one, and the words are 2-grams, as these counts and bounds say.
    contradicts_itself(
        &words_alone,
        &[
            (8 * 13, &1u64.to_ne_bytes()),
            (8 * 14, &4u64.to_ne_bytes()),
            (8 * 16, &0u64.to_ne_bytes()),
            (8 * 17, &1u64.to_ne_bytes()),
        ],
    );
    // The last word in the order of bytes is "a", number 2: it is none of the 4 words, or "<unk>" a second time.
    let last_sorted = 8 * 19 + 32 + 12;
    assert_eq!(words_alone[last_sorted..][..4], 2u32.to_ne_bytes());
    for word in [4u32, 3] {
        contradicts_itself(&words_alone, &[(last_sorted, &word.to_ne_bytes())]);
    }
    // The last word is a child of the first. The first children begin behind 19 numbers, the ends of the 4 words, their
    // order, and the words and suffixes of 5 nodes: 32, 16, 24 and 24 bytes.
    let second_first_child = 8 * 19 + 32 + 16 + 24 + 24 + 4;
    assert_eq!(words_alone[second_first_child..][..4], 5u32.to_ne_bytes());
    contradicts_itself(&words_alone, &[(second_first_child, &4u32.to_ne_bytes())]);
}

/// Fails when it is read.
struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("read too far"))
    }
}

#[test]
fn behind_a_binary_model_no_more_is_read_than_that_more_follows() {
    let bytes = binary(&NgramLm::from_arpa(GOOD.as_bytes()).unwrap());
    let more = [0u8; 8];
    let input = bytes.as_slice().chain(more.as_slice()).chain(Unreadable);
    let error = NgramLm::from_binary(input).unwrap_err().to_string();
    assert!(error.contains("but more follow"), "{error}");
}

#[test]
fn what_cannot_be_estimated_is_an_error() {
    let refused = |order, sentences: &[&[&str]]| {
        let sentences = sentences.iter().map(|sentence| sentence.iter());
        NgramLm::from_sentences(order, sentences)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(0, &[&["a"]]).contains("order = 0"));
    assert!(refused(256, &[&["a"]]).contains("from 1 to 255"));
    assert_eq!(NgramLm::from_sentences(255, [["a"]]).unwrap().order(), 255);
    assert!(refused(2, &[]).contains("no sentences"));
    let error = refused(2, &[&["a"], &["b", "</s>"]]);
    assert!(
        error.contains("word 1 of sentence 1 is \"</s>\""),
        "{error}"
    );
    assert!(refused(2, &[&["a", ""]]).contains("word 1 of sentence 0"));
    // A sentence without words is one; an order that no sentence reaches has no n-grams.
    let none: [&str; 0] = [];
    let model = NgramLm::from_sentences(4, [none]).unwrap();
    assert_eq!(model.ngram_counts(), [3, 1, 0, 0]);
    let half = model.score_sentence(&none).exp();
    assert!((half - (1.0 + 0.75) / 2.0).abs() < 1e-6, "{half}");
    let again = NgramLm::from_binary(&binary(&model)[..]).unwrap();
    assert_eq!(again.ngram_counts(), [3, 1, 0, 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_may_come_through_a_pipe() {
    let model = NgramLm::from_arpa(GOOD.as_bytes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("arpa", GOOD.as_bytes().to_vec()),
        ("binary", binary(&model)),
    ] {
        let path = pipe(&folder.path().join(name));
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, bytes).unwrap()
        });
        let read = NgramLm::from_path(&path).unwrap();
        writer.join().unwrap();
        assert_eq!(read.score_words(&["a"]), model.score_words(&["a"]));
    }
    // And go through one.
    let path = pipe(&folder.path().join("out"));
    std::thread::scope(|scope| {
        scope.spawn(|| model.save(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), binary(&model));
    });
    // Through a link, what it leads to is replaced.
    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    model.save(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), binary(&model));
}

/// Makes a named pipe.
#[cfg(target_os = "linux")]
pub fn pipe(path: &std::path::Path) -> std::path::PathBuf {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
    path.to_owned()
}

#[test]
fn threads_may_save_to_one_file() {
    let model = NgramLm::from_arpa(GOOD.as_bytes()).unwrap();
    let want = binary(&model);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| model.save(&path).unwrap());
        }
    });
    assert_eq!(std::fs::read(&path).unwrap(), want);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_reader_of_the_binary_form_may_hesitate() {
    let model = NgramLm::from_arpa(GOOD.as_bytes()).unwrap();
    let bytes = binary(&model);
    let read = NgramLm::from_binary(Hesitant {
        bytes: &bytes,
        interrupted: false,
    });
    assert_eq!(read.unwrap().score_words(&["a"]), model.score_words(&["a"]));
}

#[test]
fn a_quantised_model_is_near_the_exact_one() {
    let mut rng = Rng::new(5);
    let names: Vec<String> = (0..200).map(|word| format!("w{word}")).collect();
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let exact = RandomNgrams::new(&mut rng, &words, 2, true, true);
    let model = exact.model();
    // More than 256 of order 2, so some are rounded; fewer of order 1, so those are not.
    let [few, many] = model.ngram_counts() else {
        panic!("{model:?}")
    };
    assert!(*few < 256 && *many > 10_000, "{model:?}");
    let quantised = exact.model().quantised().unwrap();
    let smaller = binary(&quantised).len() as f64 / binary(&model).len() as f64;
    assert!((0.7..0.85).contains(&smaller), "{smaller}");
    let (mut largest, mut words_scored) = (0f64, 0);
    for _ in 0..300 {
        let text = [words[rng.below(200)], words[rng.below(200)]];
        let scores = quantised
            .score_words(&text)
            .into_iter()
            .zip(model.score_words(&text));
        for (got, want) in scores {
            largest = largest.max((got - want).abs());
            words_scored += 1;
        }
    }
    // Probabilities spread over 3 in log10, at most 4 to a group.
    assert!(
        largest > 1e-6 && largest < 0.15,
        "{largest} of {words_scored}"
    );
    // Again, nothing changes.
    let text = [words[3], words[7]];
    let scores = quantised.score_words(&text);
    assert_eq!(quantised.quantised().unwrap().score_words(&text), scores);
    // More than 256 words, and 100 below them all the unknown one: it stays there, and the rare words where they are.
    let exact = RandomNgrams::new(&mut rng, &words, 1, false, true);
    let more: Vec<String> = (0..300).map(|word| format!("v{word}")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let many = RandomNgrams::new(&mut rng, &more, 1, false, true);
    for plain in [exact, many] {
        let (exact, rounded) = (plain.model(), plain.model().quantised().unwrap());
        for word in ["w3", "v7", "v299", "unknown"] {
            let [exact, rounded] = [&exact, &rounded].map(|model| model.score_words(&[word])[0]);
            assert!(
                (exact - rounded).abs() < 0.8 * LN_10,
                "{word} {exact} {rounded}"
            );
        }
        let least = [&exact, &rounded].map(|model| model.score_words(&["unknown"])[0]);
        assert_eq!(least[0], least[1]);
    }
    // As many n-grams, of few values.
    let mut arpa = String::from("\\data\\\nngram 1=1002\n\n\\1-grams:\n-99 <s>\n-1 </s>\n");
    (0..1000).for_each(|word| arpa += &format!("-{} w{word}\n", 3 + word % 3));
    arpa += "\\end\\\n";
    let exact = NgramLm::from_arpa(arpa.as_bytes()).unwrap();
    let text = ["w0", "w1", "w2", "unknown"];
    let scores = exact.score_words(&text);
    assert_eq!(exact.quantised().unwrap().score_words(&text), scores);
    // Few values are kept as they are.
    let few = RandomNgrams::new(&mut rng, &["a", "b"], 3, true, false);
    let (exact, quantised) = (few.model(), few.model().quantised().unwrap());
    assert_eq!(
        quantised.score_words(&["a", "b", "b"]),
        exact.score_words(&["a", "b", "b"])
    );
}

/// Gives a byte at a time, and is interrupted before each.
struct Hesitant<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Hesitant<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let most = out.len().min(1);
        self.bytes.read(&mut out[..most])
    }
}

#[test]
fn a_reader_may_give_a_byte_at_a_time() {
    let hesitant = |bytes| {
        NgramLm::from_arpa(Hesitant {
            bytes,
            interrupted: false,
        })
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(GOOD.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let want = NgramLm::from_arpa(GOOD.as_bytes())
        .unwrap()
        .score_words(&["a"]);
    for bytes in [GOOD.as_bytes(), &packed] {
        assert_eq!(hesitant(bytes).unwrap().score_words(&["a"]), want);
    }
    for bytes in [
        &b"mmap lm http://kheafield.com/code"[..],
        b"BZh9",
        b"",
        b"\x1f",
    ] {
        // A backtrace may follow.
        let first_line = |text: String| text.lines().next().map(str::to_owned);
        let error = hesitant(bytes).unwrap_err().to_string();
        assert_eq!(first_line(error), first_line(refused(bytes)));
    }
}

#[test]
fn a_model_of_tokens_says_what_it_does_not_know() {
    let model = Arc::new(NgramLm::from_arpa(GOOD.as_bytes()).unwrap());
    let vocabulary = Vocabulary::from_tokens(["<pad>", "a", "b"]).unwrap();
    let tokens = TokenNgram::new(model.clone(), &vocabulary).unwrap();
    assert_eq!(tokens.unknown_classes(), [0, 2]);
    let error = tokens
        .score(&tokens.start().unwrap(), 3)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("token 3 is no class; the model was made for 3 classes"),
        "{error}"
    );
    let others = Vocabulary::from_tokens(["<pad>", "x", "y"]).unwrap();
    let error = TokenNgram::new(&*model, &others).unwrap_err().to_string();
    assert!(
        error.contains("knows none of the 3 tokens, such as \"<pad>\""),
        "{error}"
    );
    assert_eq!(
        format!("{model:?}"),
        "NgramLm { ngram_counts: [4, 3, 1], .. }"
    );
}
