//! The lexicon in a beam search: against the enumeration of all labellings, read as words in all ways.

use crate::common::Rng;
use crate::decode::{distribution, exact, tensor};
use crate::ngram::{
    RandomNgrams, Unhinted, a_bound_loses_nothing, equal_keys_have_equal_scores,
    in_chunks_as_at_once, is_the_enumeration, keys_change_nothing_in_a_wide_beam,
};
use candle_ctc::text::{Vocabulary, WordMark};
use candle_ctc::{
    BeamOptions, End, Hotwords, LanguageModel, Lexicon, LexiconOptions, NgramLm, NoLanguageModel,
    ScoreOptions, TokenNgram, WordModel, beam_search, beam_search_with, score_transcripts,
};
use proptest::prelude::*;

/// How the labellings of a vocabulary are read, written without the crate's own reading.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Marks {
    /// Class 1 stands between words.
    Separator,
    /// These classes begin a word.
    Prefix(&'static [u32]),
    /// These classes end a word.
    Suffix(&'static [u32]),
    /// Nothing marks words.
    None,
}

struct Case {
    marks: Marks,
    vocabulary: Vocabulary,
    /// Words with their spellings. Some words have two, and some spellings belong to two words.
    spelled: Vec<(&'static str, Vec<u32>)>,
}

fn cases() -> Vec<Case> {
    let vocabulary = |tokens: &[&str]| Vocabulary::from_tokens(tokens.iter().copied()).unwrap();
    vec![
        Case {
            marks: Marks::Separator,
            vocabulary: vocabulary(&["<pad>", "|", "a", "b"]),
            spelled: vec![
                ("a", vec![2]),
                ("ab", vec![2, 3]),
                ("abb", vec![2, 3, 3]),
                ("bee", vec![3]),
                ("be", vec![3]),
                ("be", vec![3, 2]),
            ],
        },
        Case {
            marks: Marks::Prefix(&[1, 3]),
            vocabulary: vocabulary(&["<blk>", "▁a", "b", "▁b"]),
            spelled: vec![
                ("a", vec![1]),
                ("ab", vec![1, 2]),
                ("bb", vec![3, 2]),
                ("bbb", vec![3, 2, 2]),
                ("eh", vec![1]),
                ("ah", vec![1]),
            ],
        },
        Case {
            marks: Marks::Suffix(&[1]),
            vocabulary: vocabulary(&["<blk>", "a</w>", "b", "a"]),
            spelled: vec![
                ("a", vec![1]),
                ("ba", vec![2, 1]),
                ("baa", vec![2, 3, 1]),
                ("bah", vec![2, 1]),
            ],
        },
        Case {
            marks: Marks::None,
            vocabulary: vocabulary(&["<blk>", "a", "b", "c"]),
            spelled: vec![
                ("a", vec![1]),
                ("ab", vec![1, 2]),
                ("aba", vec![1, 2, 1]),
                ("b", vec![2]),
                ("ca", vec![3, 1]),
                ("cab", vec![3, 1, 2]),
                ("kab", vec![3, 1, 2]),
            ],
        },
    ]
}

impl Case {
    /// The words of which a run of labels without boundaries inside may be one: `None` is a word outside.
    fn words(&self, run: &[u32], outside: bool) -> Vec<Option<&'static str>> {
        let spelled = self.spelled.iter().filter(|(_, labels)| labels == run);
        let words: Vec<_> = spelled.map(|(word, _)| Some(*word)).collect();
        let may_be_outside = self.marks != Marks::None || run.len() == 1;
        match words.is_empty() && outside && may_be_outside {
            true => vec![None],
            false => words,
        }
    }

    /// All ways to cut labels into runs that are words.
    fn cuts(&self, labels: &[u32]) -> Vec<Vec<Vec<u32>>> {
        let cut = |begins: &dyn Fn(u32, u32) -> bool| {
            let runs = labels.chunk_by(|a, b| !begins(*a, *b));
            vec![runs.map(<[u32]>::to_vec).collect()]
        };
        match self.marks {
            Marks::Separator => {
                let runs = labels
                    .split(|label| *label == 1)
                    .filter(|run| !run.is_empty());
                vec![runs.map(<[u32]>::to_vec).collect()]
            }
            Marks::Prefix(first) => cut(&|_, next| first.contains(&next)),
            Marks::Suffix(last) => cut(&|before, _| last.contains(&before)),
            Marks::None => {
                let gaps = labels.len().saturating_sub(1);
                (0..1u32 << gaps)
                    .map(|cuts| {
                        let mut runs: Vec<Vec<u32>> = Vec::new();
                        for (at, label) in labels.iter().enumerate() {
                            match at > 0 && cuts >> (at - 1) & 1 == 0 {
                                true => runs.last_mut().unwrap().push(*label),
                                false => runs.push(vec![*label]),
                            }
                        }
                        runs
                    })
                    .collect()
            }
        }
    }

    /// All readings of labels as words.
    fn readings(&self, labels: &[u32], outside: bool) -> Vec<Vec<Option<&'static str>>> {
        let mut readings = Vec::new();
        for runs in self.cuts(labels) {
            let mut of_cut = vec![Vec::new()];
            for run in &runs {
                let words = self.words(run, outside);
                of_cut = of_cut
                    .iter()
                    .flat_map(|reading| {
                        words
                            .iter()
                            .map(move |word| [&reading[..], &[*word]].concat())
                    })
                    .collect();
            }
            readings.extend(of_cut);
        }
        readings
    }

    /// The score of the best reading, its end included; −inf without one.
    fn score(&self, labels: &[u32], opts: LexiconOptions, score: impl Fn(&[&str]) -> f64) -> f64 {
        let outside = opts.unknown_score > f64::NEG_INFINITY;
        let readings = self.readings(labels, outside).into_iter().map(|reading| {
            let words: Vec<&str> = reading
                .iter()
                .map(|word| word.unwrap_or("outside"))
                .collect();
            let unknown = reading.iter().filter(|word| word.is_none()).count() as f64;
            let mut sum = opts.lm_weight * score(&words) + opts.word_bonus * words.len() as f64;
            if unknown > 0.0 {
                sum += unknown * opts.unknown_score;
            }
            sum
        });
        readings.fold(f64::NEG_INFINITY, f64::max)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn words_score_as_the_enumeration_says(
        seed in any::<u64>(),
        case in 0usize..4,
        order in 0usize..=3,
        unknown_score in prop::sample::select(vec![f64::NEG_INFINITY, -0.5, -4.0]),
        word_bonus in prop::sample::select(vec![0.0, 1.5]),
        lm_weight in prop::sample::select(vec![0.5, 1.0]),
        normal: bool,
    ) {
        let case = &cases()[case];
        let mut rng = Rng::new(seed);
        let (frames, classes) = (1 + rng.below(6), 4);
        let values = distribution(&mut rng, frames, classes, 2.0, 0.1);
        let log_probs = tensor(&values, classes);
        let opts = LexiconOptions { unknown_score, word_bonus, lm_weight, ..Default::default() };
        let beam = BeamOptions { end: End::Required, ..exact(0) };
        let narrow = BeamOptions { beam_width: 3, n_best: 3, ..beam };
        let spelled = case.spelled.clone();
        if order == 0 {
            let lexicon = Lexicon::with_spellings(&case.vocabulary, spelled, NoLanguageModel, opts).unwrap();
            let got = beam_search_with(&log_probs, &lexicon, beam).unwrap();
            is_the_enumeration(&got, &values, classes, 0, |labels| case.score(labels, opts, |_| 0.0))?;
            a_bound_loses_nothing(&log_probs, &lexicon, narrow)?;
            keys_change_nothing_in_a_wide_beam(&log_probs, &lexicon)?;
            equal_keys_have_equal_scores(&mut rng, &lexicon)?;
            in_chunks_as_at_once(&mut rng, &lexicon)?;
        } else {
            // The model does not know the last word.
            let mut words: Vec<&str> = spelled.iter().map(|(word, _)| *word).collect();
            words.pop();
            words.dedup();
            let model = RandomNgrams::new(&mut rng, &words, order, true, normal).model();
            let lexicon = Lexicon::with_spellings(&case.vocabulary, spelled, &model, opts).unwrap();
            let got = beam_search_with(&log_probs, &lexicon, beam).unwrap();
            let score = |words: &[&str]| model.score_sentence(words);
            is_the_enumeration(&got, &values, classes, 0, |labels| case.score(labels, opts, score))?;
            a_bound_loses_nothing(&log_probs, &lexicon, narrow)?;
            keys_change_nothing_in_a_wide_beam(&log_probs, &lexicon)?;
            equal_keys_have_equal_scores(&mut rng, &lexicon)?;
            in_chunks_as_at_once(&mut rng, &lexicon)?;
        }
    }
}

#[test]
fn prefixes_share_keys_in_every_model() {
    let mut rng = Rng::new(31);
    let mut pairs = [0; 3];
    for case in cases() {
        let mut words: Vec<&str> = case.spelled.iter().map(|(word, _)| *word).collect();
        words.dedup();
        for order in 1..=3 {
            let model = RandomNgrams::new(&mut rng, &words, order, true, true).model();
            let spelled = case.spelled.clone();
            let opts = LexiconOptions::default();
            let lexicon = Lexicon::with_spellings(&case.vocabulary, spelled, &model, opts).unwrap();
            pairs[0] += equal_keys_have_equal_scores(&mut rng, &lexicon).unwrap();
            let phrases = [("a", 1.0), ("b", 0.5)];
            if let Ok(hotwords) = Hotwords::new(&case.vocabulary, phrases, &lexicon) {
                pairs[1] += equal_keys_have_equal_scores(&mut rng, &hotwords).unwrap();
            }
            let model = RandomNgrams::new(&mut rng, &["a", "b", "c"], order, true, true).model();
            let tokens = TokenNgram::with_names(&model, ["<blank>", "a", "b", "c"]).unwrap();
            pairs[2] += equal_keys_have_equal_scores(&mut rng, &tokens).unwrap();
        }
    }
    assert!(pairs.iter().all(|pairs| *pairs > 20), "{pairs:?}");
}

/// Counts how often a model is asked for a score.
struct Counting<'a, L>(&'a L, std::sync::atomic::AtomicUsize);

impl<L: LanguageModel> LanguageModel for Counting<'_, L> {
    type State = L::State;

    fn start(&self) -> candle_core::Result<L::State> {
        self.0.start()
    }

    fn score(&self, state: &L::State, token: u32) -> candle_core::Result<f64> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.score(state, token)
    }

    fn advance(&self, state: &L::State, token: u32) -> candle_core::Result<L::State> {
        self.0.advance(state, token)
    }

    fn end(&self, state: &L::State) -> candle_core::Result<f64> {
        self.0.end(state)
    }

    fn max_score_in(&self, state: &L::State) -> f64 {
        self.0.max_score_in(state)
    }

    fn next_tokens(&self, state: &L::State, most: usize, tokens: &mut Vec<u32>) -> bool {
        self.0.next_tokens(state, most, tokens)
    }

    fn state_key(&self, state: &L::State) -> Option<u128> {
        self.0.state_key(state)
    }
}

#[test]
fn a_narrow_beam_finds_more_where_the_model_tells_which_prefixes_are_alike() {
    let letters = "abcdefgh".chars().map(String::from);
    let marks = ["<blank>", "|"].map(String::from).into_iter();
    let vocabulary = Vocabulary::from_tokens(marks.chain(letters)).unwrap();
    let classes = vocabulary.class_count();
    let mut rng = Rng::new(11);
    let mut words: Vec<String> = (0..60)
        .map(|_| {
            (0..2 + rng.below(4))
                .map(|_| (b'a' + rng.below(8) as u8) as char)
                .collect()
        })
        .collect();
    words.sort();
    words.dedup();
    let sentence = |rng: &mut Rng, words: &[String]| -> Vec<String> {
        // Each word has two favourite followers.
        let mut at = rng.below(words.len());
        let mut next = || {
            let word = words[at].clone();
            at = (at * 7 + 1 + rng.below(2)) % words.len();
            word
        };
        (0..6).map(|_| next()).collect()
    };
    let sentences: Vec<Vec<String>> = (0..200).map(|_| sentence(&mut rng, &words)).collect();
    let model = NgramLm::from_sentences(2, sentences.iter().map(|s| s.iter())).unwrap();
    let lexicon = Lexicon::new(&vocabulary, &words, &model, LexiconOptions::default()).unwrap();
    let opts = BeamOptions {
        beam_width: 5,
        ..Default::default()
    };
    let (mut better, mut worse, mut gains) = (0, 0, 0.0);
    let (mut asked, mut asked_plainly) = (0, 0);
    for _ in 0..60 {
        let text = sentence(&mut rng, &words).join(" ");
        let labels = vocabulary.encode(&text).unwrap();
        let mut values = rng.values(2 * labels.len() * classes, 2.5);
        for (at, label) in labels.iter().enumerate() {
            values[2 * at * classes + *label as usize] += 3.0;
            values[(2 * at + 1) * classes] += 3.0;
        }
        let log_probs = candle_nn::ops::log_softmax(&tensor(&values, classes), 1).unwrap();
        let counting = Counting(&lexicon, 0.into());
        let best = beam_search_with(&log_probs, &counting, opts)
            .unwrap()
            .remove(0);
        asked += counting.1.into_inner();
        let unhinted = Unhinted(&lexicon);
        let counting = Counting(&unhinted, 0.into());
        let plain = beam_search_with(&log_probs, &counting, opts)
            .unwrap()
            .remove(0);
        asked_plainly += counting.1.into_inner();
        // Over all alignments: what left the beam is missing in the search's own sums.
        let texts = [&best.tokens, &plain.tokens];
        let exact = score_transcripts(&log_probs, &texts, ScoreOptions::default()).unwrap();
        assert!(best.score <= exact[0] + 1e-9, "{} {}", best.score, exact[0]);
        let gain = (exact[0] + best.lm_score) - (exact[1] + plain.lm_score);
        better += usize::from(gain > 1e-9);
        worse += usize::from(gain < -1e-9);
        gains += gain;
    }
    // Not in each text: a beam that keeps other prefixes may lose the best one, too.
    assert!(
        better >= worse + 8 && gains > 5.0,
        "{better} better, {worse} worse, {gains}"
    );
    assert!(asked < asked_plainly / 3, "{asked} {asked_plainly}");
}

/// The score of labels, with the end or without.
fn total<L: LanguageModel>(model: &L, labels: &[u32], end: bool) -> f64 {
    let mut state = model.start().unwrap();
    let mut sum = 0.0;
    for &label in labels {
        let score = model.score(&state, label).unwrap();
        assert!(score <= model.max_score_in(&state));
        assert!(model.max_score_in(&state) <= model.max_score());
        if score == f64::NEG_INFINITY {
            return score;
        }
        sum += score;
        state = model.advance(&state, label).unwrap();
    }
    if end {
        sum + model.end(&state).unwrap()
    } else {
        sum
    }
}

#[test]
fn an_open_word_scores_the_best_that_it_may_become() {
    let arpa = "\\data\\\nngram 1=6\nngram 2=1\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-0.5 ca\n-1.5 cab\n-2.5 b\n\
                -3 <unk>\n\n\\2-grams:\n-0.25 b cab\n\n\\end\\\n";
    let model = candle_ctc::NgramLm::from_arpa(arpa.as_bytes()).unwrap();
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b", "c"]).unwrap();
    let lexicon = Lexicon::new(
        &vocabulary,
        model.words(),
        &model,
        LexiconOptions::default(),
    )
    .unwrap();
    let at = |text: &str, log10: f64| {
        let labels: Vec<u32> = text
            .chars()
            .map(|c| "_|abc".find(c).unwrap() as u32)
            .collect();
        let got = total(&lexicon, &labels, false) / std::f64::consts::LN_10;
        assert!((got - log10).abs() < 1e-6, "{text}: {got}, not {log10}");
    };
    at("", 0.0);
    at("c", -0.5);
    at("ca", -0.5);
    at("cab", -1.5);
    at("b", -2.5);
    at("b|c", -2.5 - 0.5);
    at("b|ca", -2.5 - 0.5);
    // More than was expected.
    at("b|cab", -2.5 - 0.25);
    at("b|b", -5.0);
    for (labels, end) in [
        (&[3, 1, 4][..], f64::NEG_INFINITY),
        (&[3], -2.5 - 1.0),
        (&[3, 1], -3.5),
    ] {
        let got = total(&lexicon, labels, true) / std::f64::consts::LN_10;
        assert!(
            (got - end).abs() < 1e-6 || got == end,
            "{labels:?}: {got}, not {end}"
        );
    }
    assert_eq!(total(&lexicon, &[2], false), f64::NEG_INFINITY);
}

#[test]
fn words_that_are_not_one_word_are_skipped_too() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let words = ["a", "a\u{a0}b", "\u{3000}", "x"];
    let opts = |skip_unspellable| LexiconOptions {
        skip_unspellable,
        ..Default::default()
    };
    let lexicon = Lexicon::new(&vocabulary, words, NoLanguageModel, opts(true)).unwrap();
    assert_eq!(lexicon.skipped(), &words[1..]);
    for word in &words[1..] {
        let error = Lexicon::new(&vocabulary, [word], NoLanguageModel, opts(false)).unwrap_err();
        assert!(error.to_string().contains(&format!("{word:?}")), "{error}");
    }
}

#[test]
fn a_token_of_two_words_is_in_no_unlisted_word() {
    let vocabulary = Vocabulary::from_tokens(["<blk>", "▁a", "▁b", "▁a▁b"]).unwrap();
    let opts = LexiconOptions {
        unknown_score: -1.0,
        ..Default::default()
    };
    let lexicon = Lexicon::new(&vocabulary, ["a"], NoLanguageModel, opts).unwrap();
    assert_eq!(total(&lexicon, &[1], true), 0.0);
    assert!(total(&lexicon, &[2], true).is_finite());
    assert_eq!(total(&lexicon, &[3], true), f64::NEG_INFINITY);
}

/// Whether labels are one of so many spellings of "cat".
fn spells_cat(vocabulary: &Vocabulary, spellings: usize, labels: &[u32]) -> bool {
    let opts = LexiconOptions {
        spellings,
        ..Default::default()
    };
    let lexicon = Lexicon::new(vocabulary, ["cat"], NoLanguageModel, opts).unwrap();
    total(&lexicon, labels, true) == 0.0
}

#[test]
fn a_vocabulary_of_pieces_spells_words() {
    let vocabulary = Vocabulary::from_tokens(["<blk>", "▁", "▁ca", "t", "a", "c", "▁cat"]).unwrap();
    let finished = |spellings: usize, labels: &[u32]| spells_cat(&vocabulary, spellings, labels);
    assert!(finished(1, &[6]) && finished(1, &[6, 6]));
    for labels in [&[2, 3][..], &[1, 5, 4, 3], &[6, 2, 3]] {
        assert!(!finished(1, labels) && finished(9, labels), "{labels:?}");
    }
    for labels in [&[2][..], &[6, 3], &[6, 4], &[6, 5, 4, 3]] {
        assert!(!finished(9, labels), "{labels:?}");
    }
}

#[test]
fn the_first_word_may_lack_the_space_of_the_others() {
    let mark = WordMark::Prefix {
        mark: "▁".into(),
        first_word: false,
    };
    let tokens = ["<blk>", "▁cat", "cat", "▁"];
    let vocabulary = Vocabulary::builder()
        .word_mark(mark)
        .from_tokens(tokens)
        .unwrap();
    let lexicon = Lexicon::new(
        &vocabulary,
        ["cat"],
        NoLanguageModel,
        LexiconOptions::default(),
    )
    .unwrap();
    assert_eq!(total(&lexicon, &[2, 1], true), 0.0);
    assert_eq!(total(&lexicon, &[2, 2], true), f64::NEG_INFINITY);
}

#[test]
fn rules_tell_whether_the_first_word_has_the_mark() {
    let mut file = crate::text::json("unigram.json");
    for (scheme, differs) in [("always", false), ("never", true)] {
        file["pre_tokenizer"]["prepend_scheme"] = scheme.into();
        let vocabulary = Vocabulary::from_bytes(file.to_string().as_bytes()).unwrap();
        let labels = vocabulary.encode("smile smile smile").unwrap();
        let first = vocabulary.token(labels[0]).unwrap();
        assert_eq!(!first.starts_with('▁'), differs, "{first}");
        let opts = LexiconOptions::default();
        let lexicon = Lexicon::new(&vocabulary, ["smile"], NoLanguageModel, opts).unwrap();
        assert_eq!(total(&lexicon, &labels, true), 0.0, "{scheme}");
        let hotwords = Hotwords::new(&vocabulary, [("smile", 2.0)], NoLanguageModel).unwrap();
        let boosts = total(&hotwords, &labels, true);
        assert!((boosts - 6.0).abs() < 1e-9, "{scheme} {boosts}");
    }
}

#[test]
fn further_spellings_stand_in_every_place() {
    let tokens = |mark: &str| {
        let words = ["cat", "ca"].map(|word| format!("{mark}{word}"));
        let plain = ["<blk>", "cat", "ca", "t"].map(str::to_owned);
        plain.into_iter().chain(words)
    };
    let prefix = WordMark::Prefix {
        mark: "▁".into(),
        first_word: false,
    };
    for (mark, token) in [
        (prefix, "▁"),
        (WordMark::ByteLevel { first_word: false }, "Ġ"),
    ] {
        let builder = Vocabulary::builder().word_mark(mark.clone());
        let vocabulary = builder.from_tokens(tokens(token)).unwrap();
        let finished =
            |spellings: usize, labels: &[u32]| spells_cat(&vocabulary, spellings, labels);
        assert!(finished(1, &[1, 4]) && finished(2, &[1, 4]), "{mark:?}");
        for labels in [&[2, 3][..], &[1, 5, 3], &[2, 3, 5, 3, 4]] {
            assert!(!finished(1, labels), "{mark:?} {labels:?}");
            assert!(finished(2, labels), "{mark:?} {labels:?}");
        }
        assert!(!finished(2, &[1, 2, 3]), "{mark:?}");
    }
}

#[test]
fn words_without_spaces_follow_each_other() {
    // Chinese without spaces beside English with them.
    let vocabulary = Vocabulary::from_tokens(["<blk>", "你", "好", "▁ok", "▁oh", "s"]).unwrap();
    let opts = LexiconOptions::default();
    let lexicon = Lexicon::new(&vocabulary, ["你好", "好", "ok"], NoLanguageModel, opts).unwrap();
    for labels in [&[1, 2][..], &[2, 1, 2], &[3, 2, 3], &[2, 3, 3]] {
        assert_eq!(total(&lexicon, labels, true), 0.0, "{labels:?}");
    }
    for labels in [&[1][..], &[3, 5], &[1, 3]] {
        assert_eq!(
            total(&lexicon, labels, true),
            f64::NEG_INFINITY,
            "{labels:?}"
        );
    }
}

#[test]
fn readings_are_limited() {
    // Homophones: 40 words of one spelling. The last is the least likely first word, and the best one to go on from.
    struct Chain;
    const NO_WORD: u32 = u32::MAX;
    impl WordModel for Chain {
        type State = u32;
        fn word_id(&self, word: &str) -> Option<u32> {
            word[1..].parse().ok()
        }
        fn start(&self) -> candle_core::Result<u32> {
            Ok(NO_WORD)
        }
        fn score(&self, before: &u32, word: Option<u32>) -> candle_core::Result<f64> {
            Ok(match *before {
                NO_WORD => -1.0 - f64::from(word.unwrap_or_default()),
                39 => 0.0,
                _ => -100.0,
            })
        }
        fn advance(&self, _: &u32, word: Option<u32>) -> candle_core::Result<u32> {
            Ok(word.unwrap_or_default())
        }
    }
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a"]).unwrap();
    let words: Vec<(String, [u32; 1])> = (0..40).map(|n| (format!("w{n}"), [2])).collect();
    let best = |readings| {
        let opts = LexiconOptions {
            readings,
            ..Default::default()
        };
        let lexicon = Lexicon::with_spellings(&vocabulary, words.clone(), Chain, opts).unwrap();
        total(&lexicon, &[2, 1, 2], true)
    };
    assert_eq!(best(40), -40.0);
    for fewer in [39, 1] {
        assert_eq!(best(fewer), -101.0);
    }
}

#[test]
fn a_word_has_a_number_that_is_none_of_the_lexicons_own() {
    #[derive(Debug)]
    struct Numbered(u32);
    impl WordModel for Numbered {
        type State = ();
        fn word_id(&self, _: &str) -> Option<u32> {
            Some(self.0)
        }
        fn start(&self) -> candle_core::Result<()> {
            Ok(())
        }
        fn score(&self, _: &(), word: Option<u32>) -> candle_core::Result<f64> {
            Ok(if word == Some(self.0) { -1.0 } else { -50.0 })
        }
        fn advance(&self, _: &(), _: Option<u32>) -> candle_core::Result<()> {
            Ok(())
        }
    }
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let lexicon = |number| {
        Lexicon::new(
            &vocabulary,
            ["ab"],
            Numbered(number),
            LexiconOptions::default(),
        )
    };
    let last = lexicon(u32::MAX - 1).unwrap();
    assert_eq!(total(&last, &[2, 3], true), -1.0);
    refused(
        lexicon(u32::MAX),
        "gives the word \"ab\" the number 4294967295; numbers must be below it",
    );
}

/// A model to which all words are the same.
#[derive(Debug, Default)]
struct Uniform {
    score: f64,
    estimate: f64,
    end: f64,
}

impl WordModel for Uniform {
    type State = ();

    fn word_id(&self, _: &str) -> Option<u32> {
        Some(0)
    }

    fn start(&self) -> candle_core::Result<()> {
        Ok(())
    }

    fn score(&self, _: &(), _: Option<u32>) -> candle_core::Result<f64> {
        Ok(self.score)
    }

    fn advance(&self, _: &(), _: Option<u32>) -> candle_core::Result<()> {
        Ok(())
    }

    fn end(&self, _: &()) -> candle_core::Result<f64> {
        Ok(self.end)
    }

    fn estimate(&self, _: Option<u32>) -> candle_core::Result<f64> {
        Ok(self.estimate)
    }
}

#[test]
fn an_expectation_that_is_no_score_is_an_error() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    for bad in [f64::NAN, f64::INFINITY] {
        let model = Uniform {
            estimate: bad,
            ..Default::default()
        };
        refused(
            Lexicon::new(&vocabulary, ["ab"], model, LexiconOptions::default()),
            &format!("expects a score of {bad} for a word"),
        );
    }
}

#[test]
fn a_word_or_an_end_without_a_score_is_an_error() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let lexicon = |score, end| {
        let model = Uniform {
            score,
            end,
            ..Default::default()
        };
        Lexicon::new(&vocabulary, ["a"], model, LexiconOptions::default()).unwrap()
    };
    for bad in [f64::NAN, f64::INFINITY] {
        let bad_word = lexicon(bad, 0.0);
        let error = bad_word.score(&bad_word.start().unwrap(), 2).unwrap_err();
        let expected = format!("the word model gave {bad} for a word");
        assert!(error.to_string().contains(&expected), "{error}");
        let bad_end = lexicon(0.0, bad);
        let error = bad_end.end(&bad_end.start().unwrap()).unwrap_err();
        let expected = format!("the word model gave {bad} for the end of the text");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn an_unlisted_word_may_earn_more_than_is_expected_of_it() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let opts = LexiconOptions {
        unknown_score: 2.0,
        ..Default::default()
    };
    let modest = Uniform {
        estimate: -5.0,
        ..Default::default()
    };
    let lexicon = Lexicon::new(&vocabulary, ["aa"], modest, opts).unwrap();
    // "b", and "b a"; "aa" is in the lexicon.
    for (labels, want) in [(&[3][..], 2.0), (&[3, 1, 2], 4.0), (&[2, 2], 0.0)] {
        assert_eq!(total(&lexicon, labels, true), want, "{labels:?}");
    }
    // Scores of words are log-probabilities unless the model says otherwise.
    assert_eq!(lexicon.model().max_score(), 0.0);
}

#[test]
fn a_lexicon_of_weight_0_restricts_nothing() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let opts = LexiconOptions::default();
    let lexicon = Lexicon::new(&vocabulary, ["ab"], NoLanguageModel, opts).unwrap();
    let values = [0.1f64, 0.1, 0.2, 0.6, 0.1, 0.1, 0.2, 0.6].map(f64::ln);
    let log_probs = tensor(&values, 4);
    let opts = BeamOptions {
        lm_weight: 0.0,
        end: End::Required,
        ..exact(0)
    };
    let found = beam_search_with(&log_probs, &lexicon, opts).unwrap();
    assert_eq!(found[0].tokens, [3]);
    assert_eq!(found, beam_search(&log_probs, exact(0)).unwrap());
}

#[test]
fn what_may_follow_is_listed_once_each_if_it_is_not_too_much() {
    for case in cases() {
        let spelled = case.spelled.clone();
        let opts = LexiconOptions::default();
        let lexicon =
            Lexicon::with_spellings(&case.vocabulary, spelled, NoLanguageModel, opts).unwrap();
        let mut states = vec![lexicon.start().unwrap()];
        for _ in 0..4 {
            let mut longer = Vec::new();
            for state in &states {
                let list = |most: usize| {
                    let mut tokens = Vec::new();
                    let listed = lexicon.next_tokens(state, most, &mut tokens);
                    tokens.sort_unstable();
                    listed.then_some(tokens)
                };
                let all = list(usize::MAX).unwrap();
                assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
                assert_eq!(list(all.len()).as_ref(), Some(&all));
                if let Some(fewer) = all.len().checked_sub(1) {
                    assert_eq!(list(fewer), None);
                }
                for token in 1..4 {
                    let score = lexicon.score(state, token).unwrap();
                    // Without a model of words nothing adds to the score, neither a word nor its beginning.
                    assert!(score == 0.0 || score == f64::NEG_INFINITY, "{score}");
                    if score == 0.0 {
                        assert!(all.contains(&token), "{token} {all:?}");
                        longer.push(lexicon.advance(state, token).unwrap());
                    }
                }
            }
            states = longer;
        }
    }
}

#[test]
fn a_token_with_a_name_is_in_no_word_that_the_lexicon_lacks() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "<unk>"]).unwrap();
    let opts = LexiconOptions {
        unknown_score: -1.0,
        ..Default::default()
    };
    let lexicon = Lexicon::new(&vocabulary, ["aa"], NoLanguageModel, opts).unwrap();
    assert_eq!(total(&lexicon, &[2], true), -1.0);
    for labels in [&[3][..], &[2, 3], &[2, 2, 3], &[2, 1, 3]] {
        let score = total(&lexicon, labels, false);
        assert_eq!(score, f64::NEG_INFINITY, "{labels:?}");
    }
}

#[track_caller]
fn refused<W: WordModel + std::fmt::Debug>(lexicon: candle_core::Result<Lexicon<W>>, part: &str) {
    let error = lexicon.unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn a_lexicon_refuses_what_it_cannot_hold() {
    let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "b"]).unwrap();
    let opts = LexiconOptions::default();
    let new = |words: &[&str], opts| Lexicon::new(&vocabulary, words, NoLanguageModel, opts);
    refused(
        new(&["ab", "a!"], opts),
        "the word \"a!\" cannot be spelled: no token of the vocabulary fits \"!\"",
    );
    refused(new(&["a b"], opts), "has a boundary between words in it");
    refused(new(&[""], opts), "has a spelling without text");
    refused(new(&[], opts), "there are no words");
    let skipping = LexiconOptions {
        skip_unspellable: true,
        ..opts
    };
    let lexicon = new(&["ab", "a!"], skipping).unwrap();
    assert_eq!(lexicon.skipped(), ["a!"]);
    refused(
        new(&["a!", "да"], skipping),
        "the vocabulary can spell none of the words, of which there are 2, such as \"a!\"",
    );
    // It can spell these, but they are two words, and none.
    refused(
        new(&["a b", ""], skipping),
        "none of the words, of which there are 2, such as \"a b\", as one word",
    );
    refused(new(&[], skipping), "there are no words");
    let error = lexicon
        .score(&lexicon.start().unwrap(), 4)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("token 4 is no class of its vocabulary, which has 4 classes"),
        "{error}"
    );
    for (opts, part) in [
        (
            LexiconOptions {
                lm_weight: -1.0,
                ..opts
            },
            "lm_weight = -1",
        ),
        (
            LexiconOptions {
                lm_weight: f64::NAN,
                ..opts
            },
            "lm_weight = NaN",
        ),
        (
            LexiconOptions {
                word_bonus: f64::INFINITY,
                ..opts
            },
            "word_bonus = inf",
        ),
        (
            LexiconOptions {
                unknown_score: f64::INFINITY,
                ..opts
            },
            "unknown_score = inf",
        ),
        (
            LexiconOptions {
                spellings: 0,
                ..opts
            },
            "spellings = 0",
        ),
        (
            LexiconOptions {
                readings: 0,
                ..opts
            },
            "readings = 0",
        ),
    ] {
        refused(new(&["a"], opts), part);
        refused(
            Lexicon::with_spellings(&vocabulary, [("a", [2u32])], NoLanguageModel, opts),
            part,
        );
    }
    let spelled = |labels: &[u32]| {
        Lexicon::with_spellings(&vocabulary, [("a", labels)], NoLanguageModel, opts)
    };
    refused(spelled(&[2, 0]), "has the blank, class 0");
    refused(spelled(&[2, 9]), "token 9 is no class");
    refused(spelled(&[2, 1, 3]), "boundary between words");
    refused(spelled(&[1]), "without text");
    let arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 AB\n\\end\\\n";
    let model = candle_ctc::NgramLm::from_arpa(arpa.as_bytes()).unwrap();
    refused(
        Lexicon::new(&vocabulary, ["ab"], &model, opts),
        "knows none of the words, such as \"ab\"",
    );
}
