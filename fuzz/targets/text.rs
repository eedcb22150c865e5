//! What reads files and texts: vocabularies, n-gram models, words, phrases, and the outputs.

#![no_main]

use candle_ctc::text::{
    Case, SubtitleOptions, Unspellable, Vocabulary, WordMark, character_error_rate, to_ctm,
    to_json, to_srt, to_textgrid, to_token_ctm, to_webvtt, word_error_rate,
};
use candle_ctc::{
    Hotwords, LanguageModel, Lexicon, LexiconOptions, NgramLm, NoLanguageModel, TokenNgram,
    TokenSpan, fastq_qualities,
};
use candle_ctc_fuzz::Source;
use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

fn run(source: &mut Source) {
    match source.below(4) {
        0 => ngrams(source),
        1 => knowledge(source),
        2 => rates(source),
        _ => vocabulary(source),
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
            NgramLm::from_arpa(&bytes[..])
        }
        1 => {
            // Several members, as gzip allows.
            let (first, second) = file.split_at(file.len() / 2);
            let bytes = [packed(first), packed(second)].concat();
            let (plain, members) = (NgramLm::from_arpa(file), NgramLm::from_arpa(&bytes[..]));
            assert_eq!(plain.is_ok(), members.is_ok());
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
fn knowledge(source: &mut Source) {
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
    fastq_qualities((0..4).map(|_| source.number()));
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
    for result in [
        to_srt(&words, hop, opts),
        to_webvtt(&words, hop, opts),
        to_json(&words, hop),
        to_textgrid(&words, hop, end),
        to_ctm(&words, hop, "a", "1"),
        to_token_ctm(&words, hop, "a", "1"),
    ] {
        if let Ok(output) = result {
            assert!(
                !output.contains("NaN") || words.iter().any(|word| word.text.contains("NaN")),
                "{output}"
            );
        }
    }
}
