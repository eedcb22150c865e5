//! What reads files and texts: vocabularies, n-gram models, words, phrases, and the outputs.

#![no_main]

use candle_ctc::text::{
    Case, ErrorRate, SubtitleOptions, Unspellable, Vocabulary, WordMark, character_error_rate,
    to_ctm, to_json, to_srt, to_textgrid, to_token_ctm, to_webvtt, word_error_rate,
};
use candle_ctc::{
    Hotwords, LanguageModel, Lexicon, LexiconOptions, NgramLm, NoLanguageModel, TokenNgram,
    TokenSpan,
};
use candle_ctc_fuzz::outputs::Written;
use candle_ctc_fuzz::witten_bell::Counts;
use candle_ctc_fuzz::{Source, edits, files, knowledge};
use flate2::{Compression, Crc, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;
use std::io::Write;

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

fn run(source: &mut Source) {
    match source.below(16) {
        0 | 4 | 8 => ngrams(source),
        1 | 5 | 9 => phrases(source),
        2 | 6 | 10 => rates(source),
        3 | 7 | 11 => vocabulary(source),
        12 | 13 => estimates(source),
        _ => changed_file(source),
    }
}

fn text(source: &mut Source, most: usize) -> String {
    String::from_utf8_lossy(source.bytes(most)).into_owned()
}

/// An n-gram model, plain, compressed, or compressed and cut off.
fn ngrams(source: &mut Source) {
    let sentence = text(source, 30);
    let packing = source.below(4);
    let cut = source.below(64);
    let file = source.rest();
    let packed = |file: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(file).unwrap();
        encoder.finish().unwrap()
    };
    let model = match packing {
        0 => {
            let mut bytes = packed(file);
            bytes.truncate(bytes.len().saturating_sub(cut));
            let model = NgramLm::from_arpa(&bytes[..]);
            from_path(&bytes, &model);
            model
        }
        1 => {
            // Several members, as gzip allows.
            let (first, second) = file.split_at(file.len() / 2);
            let bytes = [packed(first), packed(second)].concat();
            let (plain, members) = (NgramLm::from_arpa(file), NgramLm::from_arpa(&bytes[..]));
            assert_eq!(plain.is_ok(), members.is_ok());
            if !file.starts_with(&NgramLm::BINARY_MAGIC) {
                from_path(file, &plain);
            }
            members
        }
        _ => NgramLm::from_arpa(file),
    };
    let Ok(model) = model else { return };
    let words: Vec<&str> = sentence
        .split_whitespace()
        .chain(model.words().take(3))
        .collect();
    let scores = model.score_words(&words);
    assert_eq!(scores.len(), words.len() + 1);
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    assert!((scores.iter().sum::<f64>() - model.score_sentence(&words)).abs() < 1e-9);
    assert_eq!(model.ngram_counts().len(), model.order());
    let names: Vec<String> = ["<blk>".to_owned()]
        .into_iter()
        .chain(words.iter().map(|word| word.to_string()))
        .collect();
    if let Ok(tokens) = TokenNgram::with_names(&model, &names) {
        let labels: Vec<u32> = (1..names.len() as u32).collect();
        walk(&tokens, &labels);
    }
    if cut % 4 == 0 {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        other_forms(model, &words);
    }
}

/// A model of sentences is that of Witten and Bell, and is the same in its other forms.
fn estimates(source: &mut Source) {
    let order = match source.below(8) {
        0 => source.pick(&[0, 255, 256, usize::MAX]),
        order => order,
    };
    let others = text(source, 20);
    let content = String::from_utf8_lossy(source.rest()).into_owned();
    // Of an empty text there are no sentences, and words are never empty.
    let sentences: Vec<Vec<&str>> = content
        .lines()
        .take(30)
        .map(|line| line.split_whitespace().take(20).collect())
        .collect();
    let lines = sentences.iter().map(|sentence| sentence.iter());
    let model = NgramLm::from_sentences(order, lines);
    let is_mark = |word: &&str| ["<s>", "</s>"].contains(word);
    let fits = (1..=255).contains(&order)
        && !sentences.is_empty()
        && !sentences.iter().flatten().any(is_mark);
    assert_eq!(model.is_ok(), fits, "order {order} of {sentences:?}");
    let Ok(model) = model else { return };
    assert_eq!(model.order(), order);
    let counts = Counts::new(&sentences);
    let mut histories: Vec<Vec<&str>> = sentences.iter().take(3).cloned().collect();
    histories.push(
        others
            .split_whitespace()
            .filter(|word| !is_mark(word))
            .collect(),
    );
    for history in &histories {
        let scores = model.score_words(history);
        for (at, score) in scores.iter().enumerate() {
            let word = history.get(at).copied().unwrap_or("</s>");
            let want = counts.prob(order, &history[..at], word).ln();
            // Probabilities and backoffs are f32.
            let slack = 1e-6 * (order.min(at + 2) as f64) + 1e-6 * want.abs();
            assert!(
                (score - want).abs() <= slack,
                "{word:?} behind {:?}: {score}, by counts {want}; {sentences:?}",
                &history[..at]
            );
        }
        adds_up(&model, history);
    }
    let words: Vec<&str> = histories.concat();
    for model in other_forms(model, &words) {
        adds_up(&model, &words[..words.len().min(5)]);
    }
}

/// Whatever stands before, the probabilities of all words and of the end are 1.
fn adds_up(model: &NgramLm, history: &[&str]) {
    let behind = |word: &str| model.score_words(&[history, &[word]].concat())[history.len()];
    let words: Vec<&str> = model.words().take(101).collect();
    if words.len() > 100 {
        return;
    }
    let all: f64 = words.iter().map(|word| behind(word).exp()).sum();
    let all = all + behind("<unk>").exp() + model.score_words(history)[history.len()].exp();
    assert!((all - 1.0).abs() < 1e-5, "{all} behind {history:?}");
}

/// The model quantised and read from its binary form: one of few n-grams scores as the model does.
fn other_forms(model: NgramLm, words: &[&str]) -> Vec<NgramLm> {
    let known = |model: &NgramLm| {
        let all: Vec<String> = model.words().map(String::from).collect();
        let of_these: Vec<bool> = words.iter().map(|word| model.contains(word)).collect();
        (all, of_these)
    };
    let (scores, names) = (model.score_words(words), known(&model));
    let counts = model.ngram_counts().to_vec();
    // With <unk>, which the model has in any case.
    let exact = counts.iter().all(|count| *count < 256);
    let read = NgramLm::from_binary(&file(&model)[..]).unwrap();
    let quantised = model.quantised().unwrap();
    let read_quantised = NgramLm::from_binary(&file(&quantised)[..]).unwrap();
    assert!(!read.is_quantised() && quantised.is_quantised() && read_quantised.is_quantised());
    let near = quantised.score_words(words);
    assert_eq!(read_quantised.score_words(words), near);
    if exact {
        assert_eq!(near, scores, "quantised {words:?}");
    }
    assert!(near.iter().all(|score| score.is_finite()), "{near:?}");
    assert_eq!(read.score_words(words), scores, "read {words:?}");
    let forms = vec![read, quantised, read_quantised];
    for form in &forms {
        assert_eq!(form.ngram_counts(), counts);
        assert_eq!(known(form), names);
    }
    forms
        .into_iter()
        .filter(|form| exact || !form.is_quantised())
        .collect()
}

/// The bytes of a model's file. Mapped, it is the same model.
fn file(model: &NgramLm) -> Vec<u8> {
    let path = files::path("model");
    model.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mapped = NgramLm::from_path(&path);
    std::fs::remove_file(&path).unwrap();
    let mapped = mapped.unwrap();
    assert_eq!(mapped.is_quantised(), model.is_quantised());
    assert_same(&mapped, model);
    bytes
}

/// A file of these bytes is the model that was read from them, or the same error.
fn from_path(bytes: &[u8], model: &candle_core::Result<NgramLm>) {
    let path = files::path("bytes");
    std::fs::write(&path, bytes).unwrap();
    let mapped = NgramLm::from_path(&path);
    std::fs::remove_file(&path).unwrap();
    match (mapped, model) {
        (Ok(mapped), Ok(model)) => assert_same(&mapped, model),
        (Err(of_path), Err(of_bytes)) => {
            let [of_path, of_bytes] = [&of_path, of_bytes].map(|error| error.to_string());
            assert!(of_path.ends_with(&of_bytes), "{of_path:?} {of_bytes:?}");
        }
        (mapped, model) => panic!("{:?} from a path, {:?}", mapped.is_ok(), model.is_ok()),
    }
}

/// The words of a model, in order, and others have the same scores in both.
fn assert_same(a: &NgramLm, b: &NgramLm) {
    assert_eq!(a.ngram_counts(), b.ngram_counts());
    assert!(a.words().eq(b.words()));
    let words: Vec<&str> = a.words().take(50).chain(["other", "a", "b"]).collect();
    assert_eq!(a.score_words(&words), b.score_words(&words));
}

/// A file that was changed and has a checksum that fits: it is refused, or is a model that scores.
fn changed_file(source: &mut Source) {
    let words: Vec<String> = ["a", "b", "ab", "ç"].map(String::from).into();
    let words = &words[..1 + source.below(4)];
    let mut model = match source.flag() {
        true => knowledge::ngrams(source, words),
        false => {
            let sentence = words.iter().chain(words.first());
            NgramLm::from_sentences(1 + source.below(4), [sentence]).unwrap()
        }
    };
    if source.flag() {
        model = model.quantised().unwrap();
    }
    let mut bytes = file(&model);
    let header = 8 * 24;
    for _ in 0..1 + source.below(8) {
        let before = bytes.len() - 8;
        let end = if source.flag() {
            header.min(before)
        } else {
            before
        };
        match source.below(8) {
            0 => bytes[source.below(end)] ^= 1 << source.below(8),
            1 => {
                let at = 8 * source.below(end / 8);
                let value = source.pick(&[0, 1, u64::MAX, 1 << 63, 1 << 32, f64::NAN.to_bits()]);
                bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            }
            // Neighbours change places.
            2 => {
                let at = 4 * source.below(end / 4 - 1);
                bytes[at..at + 8].rotate_left(4);
            }
            // One more or one less.
            3 | 4 => {
                let at = 4 * source.below(end / 4);
                let number = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
                let number = number.wrapping_add_signed(source.pick(&[1, -1]));
                bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
            }
            5 => {
                let length = 8 * (1 + source.below(bytes.len() / 8));
                bytes.resize(length.max(8 * 4), 0);
                // The size of the whole file.
                let size = bytes.len() as u64;
                bytes[16..24].copy_from_slice(&size.to_ne_bytes());
            }
            _ => {
                let at = 4 * source.below(end / 4);
                let value = source.pick(&[0, 1, 2, 7, u32::MAX, 1 << 31, f32::NAN.to_bits(), 0xff]);
                bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            }
        }
    }
    sign(&mut bytes);
    let model = NgramLm::from_binary(&bytes[..]);
    if bytes.starts_with(&NgramLm::BINARY_MAGIC) {
        from_path(&bytes, &model);
    }
    let Ok(model) = model else { return };
    let sentence: Vec<String> = model.words().take(50).map(String::from).collect();
    let others = ["a", "b", "other", "ab", "a"].map(String::from);
    let sentence = [&others[..], &sentence, &others].concat();
    let scores = model.score_words(&sentence);
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    let known: Vec<bool> = sentence.iter().map(|word| model.contains(word)).collect();
    let again = NgramLm::from_binary(&file(&model)[..]).unwrap();
    assert_eq!(again.score_words(&sentence), scores);
    let quantised = model.quantised().unwrap();
    let scores = quantised.score_words(&sentence);
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    assert!(
        sentence
            .iter()
            .map(|word| quantised.contains(word))
            .eq(known)
    );
}

/// Puts the checksum of a binary file right.
fn sign(bytes: &mut [u8]) {
    let at = bytes.len() - 8;
    let mut crc = Crc::new();
    crc.update(&bytes[..at]);
    bytes[at..].copy_from_slice(&u64::from(crc.sum()).to_ne_bytes());
}

/// Follows a model along labels: no score is NaN or above the largest. The sum with the end.
fn walk<L: LanguageModel>(model: &L, labels: &[u32]) -> f64 {
    let mut state = model.start().unwrap();
    let mut sum = 0.0;
    for &label in labels {
        let Ok(score) = model.score(&state, label) else {
            return f64::NAN;
        };
        assert!(
            !score.is_nan() && score <= model.max_score() + 1e-9,
            "{score} {}",
            model.max_score()
        );
        if score == f64::NEG_INFINITY {
            return score;
        }
        sum += score;
        state = model.advance(&state, label).unwrap();
    }
    let end = model.end(&state).unwrap();
    assert!(!end.is_nan());
    sum + end
}

fn marked(source: &mut Source) -> Vocabulary {
    let tokens: &[&str] = source.pick(&[
        &["<blk>", "|", "a", "b", "c", "ab", "é"][..],
        &["<blk>", "▁", "▁a", "b", "▁ab", "c", "<0x41>", "<0xC3>"],
        &["<blk>", "a", "##b", "##a", "c", "ab"],
        &["<blk>", "Ġa", "b", "Ġ", "c", "ab"],
        &["<blk>", "a", "b", "字", "漢", "か\u{3099}"],
        &["[PAD]", "a", "b", "|", "B", "C"],
    ]);
    Vocabulary::from_tokens(tokens.iter().copied()).unwrap()
}

/// Words and phrases from lines.
fn phrases(source: &mut Source) {
    let vocabulary = marked(source);
    let labels: Vec<u32> = (0..source.below(12))
        .map(|_| source.below(vocabulary.class_count() + 1) as u32)
        .collect();
    let opts = LexiconOptions {
        lm_weight: source.pick(&[1.0, 0.0, f64::NAN, -1.0, 1e300]),
        word_bonus: source.pick(&[0.0, 1.0, f64::INFINITY, -1e100]),
        unknown_score: source.pick(&[f64::NEG_INFINITY, -3.0, f64::NAN, 1e100]),
        spellings: source.pick(&[1, 2, 7, 0]),
        skip_unspellable: source.flag(),
        readings: source.pick(&[32, 1, 0]),
    };
    let boosts: Vec<f64> = (0..4).map(|_| source.number()).collect();
    let content = String::from_utf8_lossy(source.rest()).into_owned();
    let lines: Vec<&str> = content.lines().take(40).collect();
    let phrases = || {
        lines
            .iter()
            .zip(boosts.iter().cycle())
            .map(|(line, boost)| (*line, *boost))
    };
    if let Ok(hotwords) = Hotwords::new(&vocabulary, phrases(), NoLanguageModel) {
        walk(&hotwords, &labels);
        for &line in &lines {
            if let Ok(labels) = vocabulary.encode(line) {
                walk(&hotwords, &labels);
            }
        }
    }
    let spelled = lines.iter().filter_map(|line| {
        let (word, tokens) = line.split_once(' ').unwrap_or((line, line));
        Some((word, vocabulary.encode_tokens(tokens).ok()?))
    });
    let spelled = Lexicon::with_spellings(&vocabulary, spelled, NoLanguageModel, opts);
    for lexicon in [
        Lexicon::new(&vocabulary, &lines, NoLanguageModel, opts),
        spelled,
    ]
    .into_iter()
    .flatten()
    {
        walk(&lexicon, &labels);
        for &line in &lines {
            if let Ok(labels) = vocabulary.encode(line) {
                walk(&lexicon, &labels);
            }
        }
        if let Ok(hotwords) = Hotwords::new(&vocabulary, phrases(), &lexicon) {
            walk(&hotwords, &labels);
        }
    }
}

fn rates(source: &mut Source) {
    let (a, b) = (text(source, 60), text(source, 60));
    for rate in [word_error_rate, character_error_rate] {
        let (forth, back) = (rate(&a, &b), rate(&b, &a));
        assert_eq!(forth.errors(), back.errors(), "{a:?} {b:?}");
        assert_eq!(
            (forth.insertions, forth.deletions),
            (back.deletions, back.insertions)
        );
        assert_eq!(rate(&a, &a).errors(), 0);
        assert!(forth.rate() >= 0.0);
    }
    let found = word_error_rate(&a, &b);
    // Other text may have another form in NFC.
    if a.is_ascii() && b.is_ascii() {
        let [said, heard] = [&a, &b].map(|text| text.split_whitespace().collect::<Vec<_>>());
        check_errors(found, &said, &heard);
        let [said, heard] = [said, heard].map(|words| words.join(" ").chars().collect::<Vec<_>>());
        check_errors(character_error_rate(&a, &b), &said, &heard);
    }
    // The sum over several texts has the errors of all.
    let others = [found, word_error_rate(&b, &a), character_error_rate(&a, &b)];
    let all: ErrorRate = others.into_iter().sum();
    let mut added = ErrorRate::default();
    others.into_iter().for_each(|rate| added += rate);
    let sum = |of: fn(&ErrorRate) -> usize| others.iter().map(of).sum::<usize>();
    let (errors, length) = (sum(ErrorRate::errors), sum(|rate| rate.reference_length));
    assert_eq!((all.errors(), all.reference_length), (errors, length));
    assert_eq!(all, added);
    if length > 0 {
        assert_eq!(all.rate(), errors as f64 / length as f64);
    }
}

fn check_errors<T: PartialEq + Debug>(found: ErrorRate, said: &[T], heard: &[T]) {
    let parts = [found.substitutions, found.insertions, found.deletions];
    assert_eq!(parts, edits::errors(said, heard), "{said:?} {heard:?}");
    assert_eq!(found.reference_length, said.len());
}

/// A vocabulary from the bytes of a file, and texts in it.
fn vocabulary(source: &mut Source) {
    let texts = [text(source, 24), text(source, 24)];
    let mut builder = Vocabulary::builder();
    match source.below(6) {
        0 => builder = builder.blank(source.below(5) as u32),
        1 => builder = builder.blank(text(source, 4)),
        2 => builder = builder.word_mark(WordMark::Separator(text(source, 4))),
        3 => {
            builder = builder.word_mark(if source.flag() {
                WordMark::EachToken
            } else {
                WordMark::None
            })
        }
        4 => builder = builder.case(source.pick(&[Case::Upper, Case::Lower, Case::Keep])),
        _ => {}
    }
    let labels: Vec<u32> = (0..source.below(10))
        .map(|_| source.below(12) as u32)
        .collect();
    let hop = source.number();
    let subtitles = SubtitleOptions {
        characters: source.pick(&[42, 1, 0, usize::MAX]),
        lines: source.pick(&[2, 1, 0, usize::MAX]),
        words: source.pick(&[usize::MAX, 1, 0]),
        seconds: source.number(),
        pause: source.number(),
    };
    let Ok(vocabulary) = builder.from_bytes(source.rest()) else {
        return;
    };
    let classes = vocabulary.class_count() as u32;
    assert!((vocabulary.blank() as u32) < classes);
    for text in &texts {
        spell(&vocabulary, text);
    }
    spell(&vocabulary, &vocabulary.decode(&labels));
    outputs(&vocabulary, &labels, hop, subtitles);
}

fn spell(vocabulary: &Vocabulary, text: &str) {
    let is_label = |label: &u32| {
        (*label as usize) < vocabulary.class_count() && *label as usize != vocabulary.blank()
    };
    if let Ok(lossy) = vocabulary.encode_lossy(text, Unspellable::Skip) {
        assert!(lossy.labels.iter().all(is_label), "{lossy:?}");
        if let Ok(labels) = vocabulary.encode(text) {
            assert!(
                lossy.unspelled.is_empty() && lossy.labels == labels,
                "{lossy:?} {labels:?}"
            );
        }
    }
    let star = vocabulary.class_count() as u32;
    if let Ok(starred) = vocabulary.encode_lossy(text, Unspellable::Star(star)) {
        assert!(
            starred
                .labels
                .iter()
                .all(|label| *label == star || is_label(label))
        );
    }
    if let Ok(labels) = vocabulary.encode_tokens(text) {
        assert!(labels.iter().all(is_label));
    }
    if let (Ok(labels), Ok(spellings)) = (vocabulary.encode(text), vocabulary.spellings(text)) {
        assert!(
            spellings.contains(&labels),
            "{labels:?} is no spelling of {text:?}"
        );
        assert!(spellings.count() >= 1.0);
        let shown = vocabulary.decode(&labels);
        for spelling in spellings.iter().take(20) {
            assert!(spellings.contains(&spelling) && spelling.iter().all(is_label));
            assert_eq!(
                vocabulary.decode(&spelling),
                shown,
                "{spelling:?} for {labels:?}"
            );
        }
    }
}

fn outputs(vocabulary: &Vocabulary, labels: &[u32], hop: f64, opts: SubtitleOptions) {
    let mut end = 0;
    let spans: Vec<TokenSpan> = labels
        .iter()
        .map(|&token| {
            let start = end + token as usize % 3;
            end = start + token as usize % 4;
            TokenSpan {
                token,
                start,
                end,
                score: -0.5,
            }
        })
        .collect();
    let words = vocabulary.words(&spans);
    for word in &words {
        assert!(
            word.start <= word.end && word.end <= end && !word.text.is_empty(),
            "{word:?}"
        );
        assert!(
            !word.text.contains('\u{fffd}') || vocabulary.decode(labels).contains('\u{fffd}'),
            "{word:?}"
        );
    }
    let written = Written {
        words: &words,
        seconds_per_frame: hop,
        frames: end,
    };
    if let Ok(output) = to_srt(&words, hop, opts) {
        written.check_cues(&output, opts);
    }
    if let Ok(output) = to_webvtt(&words, hop, opts) {
        written.check_cues(&output, opts);
    }
    if let Ok(output) = to_json(&words, hop) {
        written.check_json(&output);
    }
    if let Ok(output) = to_textgrid(&words, hop, end) {
        written.check_textgrid(&output);
    }
    if let Ok(output) = to_ctm(&words, hop, "a", "1") {
        written.check_ctm(&output, ["a", "1"]);
    }
    if let Ok(output) = to_token_ctm(&words, hop, "a", "1") {
        assert!(
            output.lines().all(|line| line.split(' ').count() == 6),
            "{output}"
        );
    }
    // Of words in order, nothing but times can be wrong.
    let last = words.iter().map(|word| word.end).max().unwrap_or(0);
    let right = hop > 0.0 && hop.is_finite() && last as f64 * hop <= 1e9;
    assert_eq!(to_json(&words, hop).is_ok(), right, "{hop}");
}
