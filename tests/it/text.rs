//! Vocabularies, spelling, words, files of words, and error rates.
//!
//! The files in tests/text are what SentencePiece, HuggingFace's tokenizers and jiwer wrote; see generate.py there.

use candle_core::Result;
use candle_ctc::text::{
    Case, ErrorRate, SubtitleOptions, Unspellable, Vocabulary, Word, WordMark,
    character_error_rate, to_ctm, to_json, to_srt, to_textgrid, to_token_ctm, to_webvtt,
    word_error_rate,
};
use candle_ctc::{Lexicon, LexiconOptions, NoLanguageModel, TokenSpan};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "text", name]
        .iter()
        .collect()
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

fn read(text: &str) -> Vocabulary {
    Vocabulary::from_bytes(text.as_bytes()).unwrap()
}

fn tokens(tokens: &[&str]) -> Vocabulary {
    Vocabulary::from_tokens(tokens.iter().copied()).unwrap()
}

/// The message of an error that contains all of these.
#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    // Without the backtrace that candle may append.
    let error = result.expect_err("no error").to_string();
    let message = error.lines().next().unwrap_or_default();
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// One span for each label, two frames long.
fn spans(labels: &[u32]) -> Vec<TokenSpan> {
    let span = |(at, &token): (usize, &u32)| TokenSpan {
        token,
        start: 3 * at,
        end: 3 * at + 2,
        score: -0.25,
    };
    labels.iter().enumerate().map(span).collect()
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

// ---- Forms of files

#[test]
fn every_form_of_a_file_gives_the_same_vocabulary() {
    let forms = [
        "{\"<pad>\": 0, \"|\": 1, \"a\": 2, \"b\": 3}",
        "{\"3\": \"b\", \"0\": \"<pad>\", \"1\": \"|\", \"2\": \"a\"}",
        "[\"<pad>\", \"|\", \"a\", \"b\"]",
        "<pad>\n|\na\nb",
        "<pad> 0\n| 1\na 2\nb 3\n",
        "b 3\n<pad> 0\na\t2\n|   1\n",
        "0 <pad>\n1 |\n2 a\n3\tb\n",
    ];
    for form in forms {
        for text in [
            form.to_owned(),
            format!("\u{feff}{form}"),
            form.replace('\n', "\r\n"),
            format!("{form}\n\r\n\n"),
        ] {
            let vocabulary = read(&text);
            assert_eq!(vocabulary.tokens(), ["<pad>", "|", "a", "b"], "{text:?}");
            assert_eq!(vocabulary.encode("ab a").unwrap(), [2, 3, 1, 2]);
            assert_eq!(
                (
                    vocabulary.blank(),
                    vocabulary.separator(),
                    vocabulary.class_count()
                ),
                (0, Some(1), 4)
            );
        }
    }
}

#[test]
fn lists_may_hold_brackets_spaces_numbers_and_an_empty_token() {
    assert_eq!(
        read("[PAD]\n[UNK]\na\n##b\n").tokens(),
        ["[PAD]", "[UNK]", "a", "##b"]
    );
    assert_eq!(read("{\n}\n<blank>\n").tokens(), ["{", "}", "<blank>"]);
    let bracket = Vocabulary::builder().blank(1).from_bytes(b"{").unwrap();
    assert_eq!(bracket.tokens(), ["{", "<blank>"]);
    assert_eq!(read("<blank>\n \n0\n1\n").encode("0 1").unwrap(), [2, 1, 3]);
    let empty = read("a\n\nb\n\n\n");
    assert_eq!(
        (empty.tokens(), empty.blank()),
        (&["a".into(), String::new(), "b".into()][..], 1)
    );
    // One line that looks like another form is a token.
    for last in ["c 7", "c\t0.5"] {
        let list = read(&format!("<blank>\na\nb\n{last}\n"));
        assert_eq!(list.tokens(), ["<blank>", "a", "b", last]);
    }
    // Numbers behind tabs are classes, not scores.
    assert_eq!(read("b\t1\n<blk>\t0\n").tokens(), ["<blk>", "b"]);
    // Tokens that are numbers themselves, behind their numbers.
    assert_eq!(
        read("0 <blk>\n1 0\n2 1\n3 2\n").tokens(),
        ["<blk>", "0", "1", "2"]
    );
    // The space itself with its number.
    assert_eq!(
        read("<blk> 0\n  1\na 2\n").encode("a a").unwrap(),
        [2, 1, 2]
    );
    assert_eq!(
        read("<blk> 0\n<space> 1\na 2\n").encode("a a").unwrap(),
        [2, 1, 2]
    );
}

#[test]
fn faulty_files_are_errors_that_say_what_is_wrong() {
    let fails = |text: &str, parts: &[&str]| fails(Vocabulary::from_bytes(text.as_bytes()), parts);
    fails("", &["no tokens"]);
    fails("\n\r\n", &["no tokens"]);
    fails(
        "{\"<pad>\": 0, \"a\": 2}",
        &["class 1 has no token", "\"a\" has class 2"],
    );
    fails(
        "{\"<pad>\": 0, \"a\": 0}",
        &["class 0 has two tokens", "\"<pad>\"", "\"a\""],
    );
    fails("{\"<pad>\": 0, \"a\": -1}", &["\"a\"", "-1"]);
    fails("{\"<pad>\": 0, \"a\": 1.5}", &["\"a\"", "1.5"]);
    fails(
        "{\"eng\": {\"a\": 0}, \"fra\": {\"b\": 0}}",
        &["\"eng\"", "language", "jq .eng"],
    );
    fails("[\"<pad>\", 3]", &["entry 1", "3"]);
    fails("{\"<pad>\": 0,", &["JSON"]);
    fails("[\"<pad>\", \"a\"", &["JSON"]);
    fails("<blk> 0\na 1\nb 1\n", &["class 1 has two tokens"]);
    fails("<blk> 1\na 2\nb 3\n", &["class 0 has no token"]);
    fails("<blk> 0\na 1\nb\n", &["line 3", "\"b\"", "2 of 3"]);
    fails("<blk>\t0\na\t-1.5\nb\n", &["line 3", "score"]);
    fails("<blk>\t0\na\t-1.5\nb\tnan\n", &["line 3", "score"]);
    // Half of the lines have a score.
    fails("<blk>\t0\na\t-1.5\nb\nc\n", &["line 3", "score"]);
    fails("<pad>\na\nb\na\n", &["\"a\"", "class 1", "class 3"]);
    fails(
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}}}",
        &["tokenizer.json"],
    );
    let bytes = |bytes: &[u8], parts: &[&str]| self::fails(Vocabulary::from_bytes(bytes), parts);
    bytes(b"\xff\xfea\0b\0", &["UTF-16", "UTF-8"]);
    bytes(b"<blk>\n\xe9\n", &["not UTF-8", "byte 6"]);
    bytes(
        b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02",
        &["spm_export_vocab"],
    );
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.JSON");
    fails(Vocabulary::from_path(&path), &["vocab.JSON", "cannot read"]);
    // Not a list of two tokens: the name says JSON.
    std::fs::write(&path, "[PAD]\na\n").unwrap();
    fails(
        Vocabulary::from_path(&path),
        &["vocab.JSON", "not valid JSON"],
    );
    std::fs::write(&path, "[\"a\"]").unwrap();
    fails(
        Vocabulary::from_path(&path),
        &["vocab.JSON", "which class is the blank"],
    );
    fails(
        Vocabulary::builder().scores_from_path(&path),
        &["vocab.JSON", "no scores"],
    );
    std::fs::write(&path, "[\"<pad>\", \"a\"]").unwrap();
    assert_eq!(Vocabulary::from_path(&path).unwrap().class_count(), 2);
}

#[test]
fn disambiguation_symbols_are_no_classes() {
    let vocabulary = Vocabulary::from_path(data("tokens.txt")).unwrap();
    let file = std::fs::read_to_string(data("tokens.txt")).unwrap();
    assert!(file.lines().last().unwrap().starts_with("#1 "));
    assert_eq!(vocabulary.class_count(), file.lines().count() - 2);
    assert_eq!((vocabulary.blank(), vocabulary.class_of("#0")), (0, None));
}

// ---- The blank

#[test]
fn blanks_are_found_by_name() {
    let cases: [(&[&str], usize); 13] = [
        (&["a", "<blank>"], 1),
        (&["a", "<BLK>"], 1),
        (&["a", "<ctc>", "<pad>"], 1),
        (&["<pad>", "a", "<blank>"], 2),
        (&["<unk>", "<pad>", "a"], 1),
        (&["a", "[PAD]", "b"], 1),
        (&["<eps>", "SIL", "AA"], 0),
        (&["a", "", "b"], 1),
        (&["-", "a", "b"], 0),
        (&["a", "b", "_"], 2),
        (&["ε", "a", "b"], 0),
        (&["-", "_", "a"], 0),
        (&["-"], 0),
    ];
    for (names, blank) in cases {
        assert_eq!(tokens(names).blank(), blank, "{names:?}");
    }
}

#[test]
fn an_unknown_blank_is_never_guessed() {
    let cases: [&[&str]; 6] = [
        &["<nothing>", "a", "b"],
        // In the middle they are a hyphen and an underscore.
        &["a", "-", "b"],
        &["a", "_", "b"],
        &["-", "a", "_"],
        // A letter.
        &["ε", "α", "β"],
        &["a", "ε", "b"],
    ];
    for names in cases {
        fails(
            Vocabulary::from_tokens(names.iter().copied()),
            &[
                "which class is the blank?",
                "builder().blank",
                names[0],
                &format!("class {}", names.len()),
            ],
        );
    }
    fails(
        Vocabulary::from_tokens(["<pad>", "a", "<eps>"]),
        &["class 0", "class 2", "builder().blank"],
    );
    fails(
        Vocabulary::from_tokens(["<blank>", "a", "<blk>"]),
        &["class 0", "class 2"],
    );
}

#[test]
fn a_blank_can_be_chosen() {
    let named = Vocabulary::builder()
        .blank("<nothing>")
        .from_tokens(["a", "<nothing>", "b"])
        .unwrap();
    assert_eq!((named.blank(), named.decode(&[0, 1, 2])), (1, "ab".into()));
    let numbered = Vocabulary::builder()
        .blank(2)
        .from_tokens(["a", " ", "b"])
        .unwrap();
    assert_eq!((numbered.blank(), numbered.class_count()), (2, 3));
    fails(numbered.encode("b"), &["\"b\"", "character 1"]);
    // Behind the last token, as NeMo has it.
    let behind = Vocabulary::builder()
        .blank(3)
        .from_tokens([" ", "a", "b"])
        .unwrap();
    assert_eq!(
        (behind.blank(), behind.class_count(), behind.token(3)),
        (3, 4, Some("<blank>"))
    );
    assert_eq!(behind.encode("b a").unwrap(), [2, 0, 1]);
    let scored = Vocabulary::builder()
        .blank(3)
        .from_bytes(b"<unk>\t0\n\xe2\x96\x81a\t-1\n\xe2\x96\x81\t-0.5\n");
    assert_eq!(scored.unwrap().encode("a").unwrap(), [1]);
    // A blank marks no words, whatever its name.
    let bar = Vocabulary::builder()
        .blank("|")
        .from_tokens(["|", "a", "b"])
        .unwrap();
    assert_eq!(bar.word_mark(), &WordMark::None);
    let other = tokens(&["<pad>", "|", "a"]).with_blank("a").unwrap();
    assert_eq!((other.blank(), other.encode("a").is_err()), (2, true));

    let builder = Vocabulary::builder;
    fails(
        builder().blank("x").from_tokens(["a"]),
        &["\"x\"", "not a token"],
    );
    fails(
        builder().blank(3).from_tokens(["a", "b"]),
        &["class 3", "0 to 1", "class 2"],
    );
    fails(
        builder().blank(2).from_tokens(["a", "<blank>"]),
        &["class 2", "class 1"],
    );
    fails(
        builder()
            .blank("|")
            .word_mark(WordMark::Separator("|".into()))
            .from_tokens(["a", "|"]),
        &["\"|\""],
    );
}

// ---- Words

#[test]
fn word_marks_are_found_by_what_stands_in_the_vocabulary() {
    let prefix = |mark: &str, first_word| WordMark::Prefix {
        mark: mark.into(),
        first_word,
    };
    let separator = |token: &str| WordMark::Separator(token.into());
    let cases: [(&[&str], WordMark); 20] = [
        (&["<pad>", "|", "a"], separator("|")),
        (&["<pad>", " ", "|", "a"], separator(" ")),
        (&["<pad>", "<space>", " ", "a"], separator("<space>")),
        (&["<pad>", "▁", "a"], separator("▁")),
        (&["<pad>", "▁", "▁a", "a"], prefix("▁", true)),
        (
            &["<pad>", "Ġa", "a"],
            WordMark::ByteLevel { first_word: false },
        ),
        (&["<pad>", "Ġa", "a", "東"], prefix("Ġ", false)),
        // A letter of Maltese.
        (&["<pad>", "Ġ", " ", "a"], separator(" ")),
        (
            &["<pad>", "a", "##a", "#"],
            WordMark::Continuation("##".into()),
        ),
        (&["<pad>", "a", "a</w>"], WordMark::EndOfWord("</w>".into())),
        (&["<pad>", "a@@", "a"], WordMark::Continued("@@".into())),
        (&["<pad>", "HH", "AH", "L"], WordMark::EachToken),
        (&["<pad>", "yes", "no"], WordMark::EachToken),
        (&["<pad>", "a", "b"], WordMark::None),
        // A quarter of the tokens are units of several characters, and less than a quarter.
        (&["<pad>", "ab", "c", "d", "e"], WordMark::EachToken),
        (&["<pad>", "ab", "c", "d", "e", "f"], WordMark::None),
        (&["<pad>", "東京", "大", "阪"], WordMark::None),
        (&["<pad>", "the", " cat"], WordMark::None),
        // All that a keyboard has: the bar is one of them.
        (&["<pad>", "a", "{", "|", "}"], WordMark::None),
        (&["<pad>", "a", "{", "|"], separator("|")),
    ];
    for (names, mark) in cases {
        assert_eq!(tokens(names).word_mark(), &mark, "{names:?}");
    }
    let chosen = Vocabulary::builder()
        .word_mark(separator("_"))
        .from_tokens(["<pad>", "_", "a"])
        .unwrap();
    assert_eq!(chosen.encode("a a").unwrap(), [2, 1, 2]);
    fails(
        Vocabulary::builder()
            .word_mark(separator("/"))
            .from_tokens(["<pad>", "a"]),
        &["separator", "\"/\"", "not a token"],
    );
}

#[test]
fn an_empty_word_mark_is_an_error() {
    let prefix = WordMark::Prefix {
        mark: String::new(),
        first_word: true,
    };
    for mark in [prefix, WordMark::Separator(String::new())] {
        let builder = Vocabulary::builder().blank("<pad>").word_mark(mark);
        fails(
            builder.from_tokens(["<pad>", "", "a"]),
            &["mark of words", "is empty"],
        );
    }
}

/// Every kind of mark: text, labels, and back; and the words of these labels.
#[test]
fn texts_come_back_with_every_word_mark() {
    let cases: [(&[&str], &str, &[u32]); 9] = [
        (
            &["<pad>", "|", "t", "h", "e", "c"],
            "the tc",
            &[2, 3, 4, 1, 2, 5],
        ),
        (
            &["<pad>", "▁the", "▁c", "at", "s"],
            "the cats",
            &[1, 2, 3, 4],
        ),
        (
            &["<pad>", "the", "Ġc", "at", "s"],
            "the cats",
            &[1, 2, 3, 4],
        ),
        (
            &["<pad>", "the", "c", "##at", "##s", "at"],
            "the cats",
            &[1, 2, 3, 4],
        ),
        (
            &["<pad>", "the</w>", "c", "at", "s</w>", "s"],
            "the cats",
            &[1, 2, 3, 4],
        ),
        (
            &["<pad>", "the", "c@@", "at@@", "s"],
            "the cats",
            &[1, 2, 3, 4],
        ),
        (&["<pad>", "HH", "AH", "L"], "HH AH L", &[1, 2, 3]),
        (&["<pad>", "the", " ca", "ts"], "the cats", &[1, 2, 3]),
        (
            &["<pad>", "Ġcaf", "Ã", "©", "Ġt", "t"],
            "t caf\u{e9}",
            &[5, 1, 2, 3],
        ),
    ];
    for (names, text, labels) in cases {
        let vocabulary = tokens(names);
        assert_eq!(vocabulary.encode(text).unwrap(), labels, "{names:?}");
        assert_eq!(vocabulary.decode(labels), text);
        let words = vocabulary.words(&spans(labels));
        assert_eq!(
            texts(&words),
            text.split(' ').collect::<Vec<_>>(),
            "{names:?}"
        );
        assert_eq!(words[0].start, 0);
        assert_eq!(words.last().unwrap().end, 3 * labels.len() - 1);
    }
    // SentencePiece without a space before the first word.
    let mark = WordMark::Prefix {
        mark: "▁".into(),
        first_word: false,
    };
    let bare = Vocabulary::builder()
        .word_mark(mark)
        .from_tokens(["<pad>", "the", "▁cat"])
        .unwrap();
    assert_eq!(bare.encode("the cat").unwrap(), [1, 2]);
}

#[test]
fn words_have_the_frames_and_scores_of_their_tokens() {
    let vocabulary = tokens(&["<blk>", "|", "a", "b", "<unk>"]);
    let span = |token, start, end, score| TokenSpan {
        token,
        start,
        end,
        score,
    };
    let words = vocabulary.words(&[
        span(1, 0, 1, -9.0),
        span(2, 2, 3, -1.0),
        span(3, 4, 7, -0.2),
        span(1, 8, 9, -9.0),
        span(1, 9, 9, -9.0),
        span(4, 10, 12, -0.5),
        span(0, 12, 13, -0.5),
        span(9, 13, 14, -0.5),
    ]);
    assert_eq!(texts(&words), ["ab", "<unk>\u{fffd}"]);
    assert_eq!(
        (words[0].start, words[0].end, words[0].space_before),
        (2, 7, false)
    );
    assert!((words[0].score - -1.6 / 4.0).abs() < 1e-6);
    assert_eq!(
        (words[1].start, words[1].end, words[1].space_before),
        (10, 14, true)
    );
    assert_eq!(words[0].tokens[1].text, "b");
    assert_eq!(words[0].tokens[1].span, span(3, 4, 7, -0.2));
    // Where they stand in the argument, past separators and blanks.
    let indices = |word: &Word| -> Vec<usize> { word.tokens.iter().map(|t| t.index).collect() };
    assert_eq!(
        (indices(&words[0]), indices(&words[1])),
        (vec![1, 2], vec![5, 7])
    );
    assert_eq!(words[0].seconds(0.5), (1.0, 3.5));
    assert!(vocabulary.words(&[]).is_empty());
    // A space of its own belongs to no word, though it begins one.
    let pieces = tokens(&["<blk>", "▁", "▁the", "c", "at"]);
    let words = pieces.words(&spans(&[2, 1, 3, 4]));
    assert_eq!((texts(&words), words[1].start), (vec!["the", "cat"], 6));
}

#[test]
fn chinese_has_words_of_a_character_and_needs_no_mark() {
    let vocabulary = tokens(&["<blank>", "你", "好", "▁HELLO", "▁WOR", "LD"]);
    let labels = vocabulary.encode("你好 hello world").unwrap();
    assert_eq!(labels, [1, 2, 3, 4, 5]);
    assert_eq!(vocabulary.decode(&labels), "你好 HELLO WORLD");
    let words = vocabulary.words(&spans(&labels));
    assert_eq!(texts(&words), ["你", "好", "HELLO", "WORLD"]);
    assert_eq!(
        words
            .iter()
            .map(|word| word.space_before)
            .collect::<Vec<_>>(),
        [false, false, true, true]
    );
    let json: Value = serde_json::from_str(&to_json(&words, 0.1).unwrap()).unwrap();
    assert_eq!(json["text"], "你好 HELLO WORLD");
    // Beside a Chinese character, a word needs no mark.
    let words_of = |labels: &[u32]| vocabulary.words(&spans(labels));
    assert_eq!(texts(&words_of(&[1, 5, 2])), ["你", "LD", "好"]);
    // A part of the words has no space before its first.
    let json: Value = serde_json::from_str(&to_json(&words[2..], 0.1).unwrap()).unwrap();
    assert_eq!(json["text"], "HELLO WORLD");
    // A token of a character with a mark takes the space.
    let marked = tokens(&["<blk>", "▁你", "▁a"]);
    assert_eq!(marked.encode("a 你").unwrap(), [2, 1]);
}

#[test]
fn what_is_not_text_is_not_printed_and_spells_nothing() {
    let vocabulary = tokens(&[
        "<pad>", "<s>", "</s>", "<unk>", "|", "A", "<", "S", ">", "<|en|>", "[noise]",
    ]);
    assert_eq!(vocabulary.special_classes(), [1, 2, 3, 9]);
    assert_eq!(vocabulary.encode("<s>").unwrap(), [6, 7, 8]);
    assert_eq!(vocabulary.decode(&[1, 5, 0, 2, 9]), "A");
    assert_eq!(
        vocabulary.decode(&[5, 4, 3, 4, 4, 10, 4]),
        "A <unk> [noise]"
    );
    assert_eq!(vocabulary.decode(&[5, 99]), "A\u{fffd}");
    // Brackets around what is no name.
    let brackets = tokens(&["<pad>", "|", "<3>", "[!!]"]);
    assert_eq!(brackets.encode("<3> [!!]").unwrap(), [2, 1, 3]);
    let brackets = tokens(&["<pad>", " ", "<||>", "<a|>", "[a]"]);
    assert_eq!(brackets.encode("<||> <a|> [a]").unwrap(), [2, 1, 3, 1, 4]);
}

// ---- Spelling

#[test]
fn text_is_brought_to_the_case_and_the_form_of_the_vocabulary() {
    let upper = tokens(&["<pad>", "|", "A", "É", "S", "'"]);
    assert_eq!(upper.case(), Case::Upper);
    assert_eq!(
        upper.encode("e\u{301}a'ß\u{3000}É").unwrap(),
        [3, 2, 5, 4, 4, 1, 3]
    );
    let lower = tokens(&["<pad>", "|", "ο", "δ", "ς", "σ"]);
    assert_eq!(lower.case(), Case::Lower);
    assert_eq!(lower.encode("ΟΔΟΣ ΣΟ").unwrap(), [2, 3, 2, 4, 1, 5, 2]);
    // Decomposed in the vocabulary, as a token of its own and as a part of one.
    let marks = tokens(&["<pad>", "|", "e", "\u{301}", "o\u{302}t"]);
    assert_eq!(marks.encode("\u{e9} \u{f4}t").unwrap(), [2, 3, 1, 4]);
    assert_eq!(marks.encode("e\u{301}").unwrap(), [2, 3]);
    let mixed = tokens(&["<pad>", "|", "A", "a", "b"]);
    assert_eq!(
        (mixed.case(), mixed.encode("Aa").unwrap()),
        (Case::Keep, vec![2, 3])
    );
    fails(
        mixed.encode("aB"),
        &["\"B\"", "character 2", "\"b\" is one", "case"],
    );
    let chosen = Vocabulary::builder()
        .case(Case::Lower)
        .from_tokens(["<pad>", "|", "A", "a", "b"])
        .unwrap();
    assert_eq!(chosen.encode("aB").unwrap(), [3, 4]);
    // Characters of a script without case, and a lower-case letter that has no upper-case one.
    assert_eq!(tokens(&["<pad>", "א", "ב"]).case(), Case::Keep);
    assert_eq!(tokens(&["<pad>", "A", "ĸ"]).case(), Case::Upper);
    assert_eq!(upper.encode("").unwrap(), [0u32; 0]);
    assert_eq!(upper.encode(" \u{a0}\n").unwrap(), [0u32; 0]);
}

/// Unicode makes one character of a space and the marks around it.
#[test]
fn a_space_is_a_space_whatever_combines_with_it() {
    let marks = tokens(&["<pad>", "|", "a", "b", "\u{301}"]);
    assert_eq!(marks.encode(" \u{301}a").unwrap(), [4, 2]);
    for text in ["a \u{301}b", "a  \u{301}b", "a\u{a0}\u{301}b"] {
        assert_eq!(marks.encode(text).unwrap(), [2, 1, 4, 3], "{text:?}");
    }
    // What is left out does not take the space with it.
    let plain = tokens(&["<pad>", "|", "a", "b"]);
    for (text, lost, start) in [("a \u{200c}b", "\u{200c}", 2), ("a\u{600} b", "\u{600}", 1)] {
        let lossy = plain.encode_lossy(text, Unspellable::Skip).unwrap();
        assert_eq!(lossy.labels, [2, 1, 3], "{text:?}");
        assert_eq!(lossy.unspelled.len(), 1);
        assert_eq!(
            (lossy.unspelled[0].text.as_str(), lossy.unspelled[0].start),
            (lost, start)
        );
    }
}

#[test]
fn a_text_that_can_be_spelled_is_spelled() {
    // The longest token leaves something that no token fits.
    let vocabulary = tokens(&["<blk>", "▁ab", "▁a", "bc", "abc", "c"]);
    assert_eq!(vocabulary.encode("abc").unwrap(), [1, 5]);
    let dead_end = tokens(&["<blk>", "▁ab", "▁a", "bc"]);
    assert_eq!(dead_end.encode("abc").unwrap(), [2, 3]);
    assert_eq!(dead_end.encode("abc ab abc").unwrap(), [2, 3, 1, 2, 3]);
}

#[test]
fn errors_name_the_character_its_place_and_what_to_do() {
    let vocabulary = tokens(&["<pad>", "|", "a", "e", "'", "-"]);
    let fails = |text: &str, parts: &[&str]| fails(vocabulary.encode(text), parts);
    fails(
        "e\u{301}a a! a",
        &[
            "\"\u{e9}\"",
            "character 1",
            "\"e\" could be written",
            "encode_lossy",
        ],
    );
    fails("  a a! a", &["\"!\"", "character 6", "encode_lossy"]);
    fails(
        "a\u{2019}a",
        &["\"\u{2019}\"", "character 2", "\"'\" could be written"],
    );
    fails("a \u{2013} a", &["\"\u{2013}\"", "\"-\" could be written"]);
    fails("a 4", &["\"4\"", "numbers as words"]);
    fails("a\u{200b}a", &["\\u{200b}", "character 2"]);
    fails("क\u{93f}", &["U+0915 U+093F"]);
    let long = format!("{}!", "a".repeat(200));
    fails(&long, &["character 201", "…"]);
    // No advice where there is none to give: a character that is part of a token only, and an accent alone.
    let pair = tokens(&["<pad>", "|", "ab"]);
    for text in ["b", "\u{301}"] {
        self::fails(
            pair.encode(text),
            &["at character 1 of", "\"; encode_lossy"],
        );
    }

    // Nor for a flag, both letters of which are in the vocabulary.
    self::fails(
        tokens(&["<pad>", "|", "x\u{1f1e9}", "x\u{1f1ea}"]).encode("\u{1f1e9}\u{1f1ea}"),
        &["at character 1 of", "\"; encode_lossy"],
    );

    let none = tokens(&["<pad>", "a", "b"]);
    self::fails(
        none.encode("ab ab"),
        &["the space", "character 3", "word_mark"],
    );
    let phonemes = Vocabulary::builder()
        .word_mark(WordMark::None)
        .from_tokens(["<pad>", "HH", "AH"])
        .unwrap();
    self::fails(phonemes.encode("HH AH"), &["the space", "encode_tokens"]);
    self::fails(
        tokens(&["<pad>", "▁a", "b"]).encode("a b"),
        &["begins or ends a word", "character 2", "▁"],
    );
    self::fails(
        tokens(&["<pad>", "▁a", "b"]).encode("b"),
        &["begins or ends a word", "character 1"],
    );
}

#[test]
fn phonemes_are_entered_one_by_one() {
    let vocabulary = tokens(&["<eps>", "HH", "AH0", "L", "OW1", "<unk>"]);
    for text in ["HH AH0 L OW1", " hh\tah0  l ow1\n"] {
        assert_eq!(vocabulary.encode(text).unwrap(), [1, 2, 3, 4]);
        assert_eq!(vocabulary.encode_tokens(text).unwrap(), [1, 2, 3, 4]);
    }
    assert_eq!(vocabulary.decode(&[1, 2, 3, 4]), "HH AH0 L OW1");
    fails(vocabulary.encode("HH AH L"), &["\"AH\"", "character 4"]);
    fails(vocabulary.encode_tokens("HH AH L"), &["entry 2", "\"AH\""]);
    fails(vocabulary.encode_tokens("HH <eps>"), &["entry 2", "blank"]);
    let lossy = vocabulary
        .encode_lossy("HH XX L", Unspellable::Star(7))
        .unwrap();
    assert_eq!(
        (lossy.labels, lossy.unspelled[0].text.as_str()),
        (vec![1, 7, 3], "XX")
    );
    assert_eq!(
        vocabulary
            .encode_lossy("XX HH <eps>", Unspellable::Skip)
            .unwrap()
            .labels,
        [1]
    );
    let ipa = tokens(&["<pad>", "tʃ", "e\u{303}", "a"]);
    assert_eq!(ipa.encode_tokens("a tʃ \u{1ebd}").unwrap(), [3, 1, 2]);
    let spellings = vocabulary.spellings("HH L").unwrap();
    assert_eq!(spellings.iter().collect::<Vec<_>>(), [vec![1, 3]]);
}

#[test]
fn lossy_encodings_say_what_they_leave_out() {
    let vocabulary = tokens(&["<pad>", "|", "a", "b"]);
    let star = 4;
    type LossyCase<'a> = (&'a str, &'a [u32], &'a [u32], &'a [(&'a str, usize)]);
    let cases: [LossyCase; 7] = [
        (
            "a, b!",
            &[2, 1, 3],
            &[2, star, 1, 3, star],
            &[(",", 1), ("!", 4)],
        ),
        ("a 42 b", &[2, 1, 3], &[2, 1, star, 1, 3], &[("42", 2)]),
        ("42 b", &[3], &[star, 1, 3], &[("42", 0)]),
        ("b 42", &[3], &[3, 1, star], &[("42", 2)]),
        ("é 东西", &[], &[star, 1, star], &[("é", 0), ("东西", 3)]),
        ("axb", &[2, 3], &[2, star, 3], &[("x", 1)]),
        ("ab", &[2, 3], &[2, 3], &[]),
    ];
    for (text, skipped, starred, unspelled) in cases {
        for (kind, labels) in [
            (Unspellable::Skip, skipped),
            (Unspellable::Star(star), starred),
        ] {
            let encoding = vocabulary.encode_lossy(text, kind).unwrap();
            assert_eq!(encoding.labels, labels, "{text:?} {kind:?}");
            let found: Vec<_> = encoding
                .unspelled
                .iter()
                .map(|part| (part.text.as_str(), part.start))
                .collect();
            assert_eq!(found, unspelled, "{text:?} {kind:?}");
            assert!(
                encoding
                    .unspelled
                    .iter()
                    .all(|part| text[part.start..part.end] == part.text)
            );
        }
    }
    fails(
        vocabulary.encode_lossy("a", Unspellable::Star(0)),
        &["star", "blank"],
    );
    // The mark of a word of which nothing is left goes, too.
    let pieces = tokens(&["<pad>", "▁", "▁a", "b"]);
    assert_eq!(
        pieces
            .encode_lossy("a 7 b", Unspellable::Skip)
            .unwrap()
            .labels,
        [2, 1, 3]
    );
    // The second word is still spelled as a second word, however many are left out.
    let second = tokens(&["<pad>", "a", "Ġb", "Ġa"]);
    assert_eq!(
        second
            .encode_lossy("7 b 8 a", Unspellable::Skip)
            .unwrap()
            .labels,
        [2, 3]
    );
    let many = vocabulary
        .encode_lossy(&"7 ".repeat(20_000), Unspellable::Skip)
        .unwrap();
    assert_eq!((many.labels.len(), many.unspelled.len()), (0, 20_000));
    let ends = tokens(&["<pad>", "a</w>", "b", "</w>"]);
    assert_eq!(
        ends.encode_lossy("7 a 8 b 9", Unspellable::Skip)
            .unwrap()
            .labels,
        [1, 2, 3]
    );
    let spaced = tokens(&["<pad>", "a", "b", " b"]);
    assert_eq!(
        spaced
            .encode_lossy("7 b 8", Unspellable::Skip)
            .unwrap()
            .labels,
        [3]
    );
    assert_eq!(
        vocabulary
            .encode_lossy("7 8 a 9 b 7", Unspellable::Skip)
            .unwrap()
            .labels,
        [2, 1, 3]
    );
    // No token begins a word with b.
    let bound = tokens(&["<pad>", "▁a", "b"])
        .encode_lossy("a b 7", Unspellable::Skip)
        .unwrap();
    assert_eq!(bound.labels, [1, 2]);
    assert_eq!(
        bound
            .unspelled
            .iter()
            .map(|part| part.text.as_str())
            .collect::<Vec<_>>(),
        [" ", "7"]
    );
}

#[test]
fn lossy_encodings_name_each_gap_once_and_in_order() {
    // No token begins a word with b. Between words that gap shows only when the word before it is left out; at the
    // start of the text it shows both times.
    let vocabulary = tokens(&["<pad>", "▁a", "b"]);
    let cases = [
        ("b 7", vec![2u32], vec![("", 0usize), ("7", 2)]),
        ("a x b", vec![1, 2], vec![("x", 2), (" ", 3)]),
        ("a x b y", vec![1, 2], vec![("x", 2), (" ", 3), ("y", 6)]),
        ("a x !b", vec![1, 2], vec![("x !", 2)]),
    ];
    for (text, labels, unspelled) in cases {
        let encoding = vocabulary.encode_lossy(text, Unspellable::Skip).unwrap();
        let found: Vec<_> = encoding
            .unspelled
            .iter()
            .map(|part| (part.text.as_str(), part.start))
            .collect();
        assert_eq!(encoding.labels, labels, "{text:?}");
        assert_eq!(found, unspelled, "{text:?}");
    }
    // No token ends a word with b; the gap touches the word that is left out.
    let ends = tokens(&["<pad>", "a</w>", "b"]);
    let encoding = ends.encode_lossy("b x a", Unspellable::Skip).unwrap();
    let found = encoding.unspelled.iter();
    let found: Vec<_> = found.map(|part| (part.text.as_str(), part.start)).collect();
    assert_eq!(encoding.labels, [2, 1]);
    assert_eq!(found, [(" ", 1), ("x", 2)]);
}

#[test]
fn bytes_stand_for_characters_without_a_token() {
    let file = "<unk>\t0\n<0xC3>\t0\n<0xA9>\t0\n▁a\t-2\n▁\t-3\na\t-3\né\t-9\n<blk>\t0\n";
    let vocabulary = read(file);
    // Not by bytes, whose score is 0.
    assert_eq!(vocabulary.encode("aé").unwrap(), [3, 6]);
    let without = read(&file.replace("é\t-9\n", ""));
    assert_eq!(without.encode("aé").unwrap(), [3, 1, 2]);
    assert_eq!(without.decode(&[3, 1, 2]), "aé");
    assert_eq!(without.decode(&[3, 1]), "a\u{fffd}");
    fails(without.encode("ab"), &["\"b\"", "character 2"]);
    // All bytes beside the ranks of a BPE model, which then spells by them.
    let bytes: String = (0..=255u8)
        .map(|byte| format!("<0x{byte:02X}>\t0\n"))
        .collect();
    let merges = read(&format!("<blk>\t0\n{bytes}▁a\t0\n▁\t-1\na\t-2\n"));
    assert_eq!(merges.encode("aé").unwrap(), [257, 0xc3 + 1, 0xa9 + 1]);
}

#[test]
fn of_spellings_with_equal_scores_the_longest_token_is_taken() {
    let vocabulary = Vocabulary::builder()
        .word_mark(WordMark::None)
        .scores([("a", -0.5), ("b", -0.5), ("ab", -1.0)])
        .from_tokens(["<blk>", "a", "b", "ab"])
        .unwrap();
    assert_eq!(vocabulary.encode("ab").unwrap(), [3]);
}

#[test]
fn spellings_are_those_that_sentencepiece_and_tokenizers_choose() {
    let expected = json("spellings.json");
    for (file, cases) in expected.as_object().unwrap() {
        let vocabulary = Vocabulary::from_path(data(file)).unwrap();
        let mut shorter = 0;
        for case in cases.as_array().unwrap() {
            let text = case[0].as_str().unwrap();
            let labels: Vec<u32> = serde_json::from_value(case[1].clone()).unwrap();
            assert_eq!(vocabulary.encode(text).unwrap(), labels, "{file}: {text:?}");
            // WordPiece of BERT makes words of punctuation; there is none in these texts.
            assert_eq!(vocabulary.decode(&labels), text, "{file}");
            assert_eq!(
                texts(&vocabulary.words(&spans(&labels))),
                text.split(' ').collect::<Vec<_>>()
            );
            let spellings = vocabulary.spellings(text).unwrap();
            assert!(spellings.contains(&labels), "{file}: {text:?}");
            shorter += usize::from(spellings.count() > 1.0);
        }
        assert!(
            shorter > 0 || file == "characters.vocab",
            "{file}: every text has one spelling only"
        );
    }
}

/// Without scores icefall's tokens are spelled by the longest match, which is not how the model was trained.
#[test]
fn scores_make_the_spelling_that_of_the_model() {
    let longest = Vocabulary::from_path(data("tokens.txt")).unwrap();
    let builder = Vocabulary::builder()
        .scores_from_path(data("unigram.vocab"))
        .unwrap();
    let scored = builder.from_path(data("tokens.txt")).unwrap();
    let model = Vocabulary::from_path(data("unigram.vocab")).unwrap();
    let names = |vocabulary: &Vocabulary, labels: &[u32]| -> Vec<String> {
        labels
            .iter()
            .map(|&label| vocabulary.token(label).unwrap().to_owned())
            .collect()
    };
    let mut differ = 0;
    for case in json("spellings.json")["unigram.vocab"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let wanted = names(&model, &model.encode(text).unwrap());
        assert_eq!(
            names(&scored, &scored.encode(text).unwrap()),
            wanted,
            "{text:?}"
        );
        differ += usize::from(names(&longest, &longest.encode(text).unwrap()) != wanted);
    }
    assert!(differ > 0, "the longest match is the same everywhere");
    let wrong = Vocabulary::builder().scores([("▁the", -1.0)]);
    fails(
        wrong.from_path(data("tokens.txt")),
        &["no score", "tokens.txt"],
    );
    let infinite = Vocabulary::builder().scores([("a", f64::NAN)]);
    fails(infinite.from_tokens(["<blk>", "a"]), &["\"a\"", "finite"]);
}

#[test]
fn a_tokenizer_json_spells_by_its_own_rules_and_hides_nothing() {
    let bytes = Vocabulary::from_path(data("byte_level.json")).unwrap();
    assert_eq!(
        bytes.word_mark(),
        &WordMark::ByteLevel { first_word: false }
    );
    // A special token in the text would be that token.
    fails(bytes.encode("a <pad> b"), &["\"<pad>\"", "character 3"]);
    let spellings = bytes.spellings("東").unwrap();
    assert!(spellings.contains(&bytes.encode("東").unwrap()));

    let wordpiece = Vocabulary::from_path(data("wordpiece.json")).unwrap();
    assert_eq!(wordpiece.class_of("[PAD]"), Some(wordpiece.blank() as u32));
    let unknown = wordpiece.class_of("[UNK]").unwrap();
    fails(
        wordpiece.encode("about 東 again"),
        &["\"東\"", "character 7"],
    );
    let about = wordpiece.encode("About").unwrap();
    let again = wordpiece.encode("again").unwrap();
    let lossy = wordpiece
        .encode_lossy("About 東 again", Unspellable::Skip)
        .unwrap();
    assert_eq!(lossy.labels, [about.clone(), again.clone()].concat());
    assert!(!lossy.labels.contains(&unknown));
    let star = wordpiece.class_count() as u32;
    let lossy = wordpiece
        .encode_lossy("東 About 東 again 東", Unspellable::Star(star))
        .unwrap();
    assert_eq!(
        lossy.labels,
        [vec![star], about, vec![star], again, vec![star]].concat()
    );
    assert_eq!(lossy.unspelled.len(), 3);

    let unigram = Vocabulary::from_path(data("unigram.json")).unwrap();
    assert_eq!(
        unigram.decode(&[unigram.class_of("<unk>").unwrap()]),
        "<unk>"
    );
    fails(unigram.encode("about Zürich"), &["\"ü\"", "character 8"]);
    assert_eq!(unigram.encode("").unwrap(), [0u32; 0]);
    let lossy = unigram
        .encode_lossy("ab\u{f8}out", Unspellable::Skip)
        .unwrap();
    assert_eq!(unigram.decode(&lossy.labels), "about");
}

#[test]
fn a_tokenizer_json_tells_which_tokens_are_special_and_which_is_unknown() {
    let mut file = json("wordpiece.json");
    let added = |id: u32, content: &str, special: bool| {
        serde_json::json!({
            "id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false
        })
    };
    // Names that tell nothing by themselves.
    file["added_tokens"] = Value::Array(vec![
        added(0, "[PAD]", true),
        added(160, "hmm", true),
        added(161, "cough", false),
    ]);
    file["model"]["unk_token"] = "??".into();
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove("[UNK]");
    vocab.insert("??".to_owned(), 1.into());
    let vocabulary = Vocabulary::from_bytes(file.to_string().as_bytes()).unwrap();
    assert_eq!(vocabulary.class_count(), 162);
    let (a, unknown) = (vocabulary.class_of("a").unwrap(), 1);
    assert_eq!(vocabulary.decode(&[a, 160, 161]), "a cough");
    // With [CLS] and [SEP].
    assert_eq!(vocabulary.special_classes(), [1, 2, 3, 160]);
    // An unknown word is left out, and not spelled by the token for it.
    assert_eq!(vocabulary.decode(&[unknown]), "??");
    fails(vocabulary.encode("a 東"), &["\"東\"", "character 3"]);
    assert_eq!(vocabulary.encode("a").unwrap(), [a]);
}

/// Options that are for training would cut a text, fill it up with blanks, or spell it at random.
#[test]
fn a_tokenizer_json_neither_cuts_nor_pads_nor_rolls_dice() {
    let mut file = json("byte_level.json");
    let text = "again and again the same words ".repeat(5);
    let plain = Vocabulary::from_bytes(file.to_string().as_bytes())
        .unwrap()
        .encode(&text)
        .unwrap();
    file["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    });
    file["padding"] = serde_json::json!({
        "strategy": {"Fixed": 500}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>"
    });
    file["model"]["dropout"] = serde_json::json!(0.5);
    let trained = Vocabulary::from_bytes(file.to_string().as_bytes()).unwrap();
    assert_eq!(trained.encode(&text).unwrap(), plain);

    file["model"]["continuing_subword_prefix"] = "#########".into();
    fails(
        Vocabulary::from_bytes(file.to_string().as_bytes()),
        &["merge", "\"#########\""],
    );
}

/// A `tokenizer.json` with this model.
fn tokenizer(model: Value, normalizer: Value, pre_tokenizer: Value) -> Vocabulary {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model
    });
    Vocabulary::from_bytes(file.to_string().as_bytes()).unwrap()
}

fn bpe(vocab: Value, merges: Value, unknown: Value) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
        "merges": merges
    })
}

fn unigram(vocab: Value) -> Value {
    json!({"type": "Unigram", "unk_id": 1, "byte_fallback": false, "vocab": vocab})
}

fn metaspace(prepend_scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme, "split": true})
}

/// The labels, and the texts without a token with their first bytes.
fn lossy(
    vocabulary: &Vocabulary,
    text: &str,
    unspellable: Unspellable,
) -> (Vec<u32>, Vec<(String, usize)>) {
    let found = vocabulary.encode_lossy(text, unspellable).unwrap();
    let parts = found.unspelled.into_iter();
    (
        found.labels,
        parts.map(|part| (part.text, part.start)).collect(),
    )
}

/// A BPE model without a token for unknown text drops what it does not know, and miscounts the bytes of the rest.
#[test]
fn a_bpe_model_that_drops_characters_loses_no_others() {
    let letters = json!({"<pad>": 0, " ": 1, "a": 2, "b": 3, "c": 4});
    let vocabulary = tokenizer(
        bpe(letters, json!([]), Value::Null),
        Value::Null,
        Value::Null,
    );
    assert_eq!(vocabulary.encode("ab c").unwrap(), [2, 3, 1, 4]);
    fails(vocabulary.encode("4ab c"), &["\"4\"", "character 1"]);
    assert_eq!(
        lossy(&vocabulary, "4ab c", Unspellable::Skip),
        (vec![2, 3, 1, 4], vec![("4".to_owned(), 0)])
    );
    // A star takes the place of the whole word.
    assert_eq!(
        lossy(&vocabulary, "a4b4 c", Unspellable::Star(5)),
        (vec![5, 4], vec![("a4b4".to_owned(), 0)])
    );

    // A byte of a character without a token.
    let bytes = json!({"<pad>": 0, "a": 1, "Ġ": 2, "Ġa": 3, "Ã": 4});
    let by_bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let model = bpe(bytes, json!([["Ġ", "a"]]), Value::Null);
    let vocabulary = tokenizer(model, Value::Null, by_bytes);
    assert_eq!(vocabulary.encode("a a").unwrap(), [1, 3]);
    fails(vocabulary.encode("aé"), &["\"é\"", "character 2"]);
    assert_eq!(
        lossy(&vocabulary, "aé a", Unspellable::Skip),
        (vec![1, 3], vec![("é".to_owned(), 1)])
    );
}

#[test]
fn a_model_without_a_token_for_unknown_text_names_the_text() {
    let pieces = json!({"<pad>": 0, "a": 1, "##b": 2});
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": pieces
    });
    let vocabulary = tokenizer(model, Value::Null, json!({"type": "Whitespace"}));
    assert_eq!(vocabulary.encode("ab a").unwrap(), [1, 2, 1]);
    fails(vocabulary.encode("ab x"), &["\"x\"", "character 4"]);
    assert_eq!(
        lossy(&vocabulary, "ab x a", Unspellable::Skip),
        (vec![1, 2, 1], vec![("x".to_owned(), 3)])
    );
}

/// Rules may know whole words only.
#[test]
fn an_error_names_the_character_that_a_word_of_a_tokenizer_json_fails_at() {
    let pieces = json!({"<pad>": 0, "[UNK]": 1, "a": 2, "b": 3, "##b": 4});
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": pieces
    });
    let vocabulary = tokenizer(model, Value::Null, json!({"type": "Whitespace"}));
    assert_eq!(vocabulary.encode("ab b").unwrap(), [2, 4, 3]);
    fails(
        vocabulary.encode("b abX"),
        &["no token", "\"X\"", "character 5"],
    );
    // All characters are in tokens, but no token continues a word with a.
    fails(
        vocabulary.encode("b Bab"),
        &["do not spell \"Bab\"", "character 3"],
    );
}

#[test]
fn the_label_for_unknown_text_spells_nothing_in_part_either() {
    // The file's rules decompose é, and have a token for e alone.
    let letters = json!({"<pad>": 0, "<unk>": 1, "a": 2, "e": 3});
    let model = bpe(letters, json!([]), "<unk>".into());
    let vocabulary = tokenizer(model, json!({"type": "NFD"}), Value::Null);
    assert_eq!(vocabulary.encode("ae").unwrap(), [2, 3]);
    fails(vocabulary.encode("aé"), &["\"é\"", "character 2"]);
    assert_eq!(
        lossy(&vocabulary, "aé", Unspellable::Skip),
        (vec![2], vec![("é".to_owned(), 1)])
    );

    // No token begins a word with b.
    let pieces = json!([["<pad>", 0.0], ["<unk>", 0.0], ["▁a", -1.0], ["b", -1.0]]);
    let vocabulary = tokenizer(unigram(pieces), Value::Null, metaspace("always"));
    assert_eq!(vocabulary.encode("ab a").unwrap(), [2, 3, 2]);
    fails(
        vocabulary.encode("a b"),
        &["begins or ends a word", "character 2"],
    );
    assert_eq!(
        lossy(&vocabulary, "a b", Unspellable::Skip),
        (vec![2, 3], vec![(" ".to_owned(), 1)])
    );
}

/// The crate `tokenizers` numbers added tokens itself.
#[test]
fn an_added_token_whose_id_is_that_of_another_is_an_error() {
    let mut file = json("byte_level.json");
    file["model"]["vocab"] = json!({"<pad>": 0, "a": 1, "c": 3});
    file["model"]["merges"] = json!([]);
    file["added_tokens"] = json!([{
        "id": 2, "content": "b", "special": false, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false
    }]);
    let read = |file: &Value| Vocabulary::from_bytes(file.to_string().as_bytes());
    fails(read(&file), &["\"b\" has the id 2", "3"]);
    file["model"]["vocab"]["c"] = 2.into();
    file["added_tokens"][0]["id"] = 3.into();
    assert_eq!(read(&file).unwrap().encode("abc").unwrap(), [1, 3, 2]);
}

/// The first word may be marked otherwise than the mark tells by itself.
#[test]
fn a_tokenizer_json_says_how_a_lexicon_spells_later_words() {
    let pieces = json!([["<pad>", 0.0], ["<unk>", 0.0], ["a", -1.0], ["▁a", -1.0]]);
    let vocabulary = tokenizer(unigram(pieces), Value::Null, metaspace("never"));
    assert_eq!(vocabulary.encode("a a").unwrap(), [2, 3]);
    let opts = LexiconOptions::default();
    let lexicon = Lexicon::new(&vocabulary, ["a"], NoLanguageModel, opts).unwrap();
    assert!(lexicon.can_contain(&vocabulary, "a a").unwrap());
}

#[test]
fn merges_that_lead_nowhere_are_an_error() {
    // Ranks of BPE, and no token for b alone.
    let vocabulary = read("<blk>\t0\n▁a\t-0\nab\t-1\n▁\t-2\na\t-3\n");
    assert_eq!(vocabulary.encode("aa").unwrap(), [1, 4]);
    fails(vocabulary.encode("aab"), &["\"b\"", "merge"]);
    fails(vocabulary.encode("aba"), &["\"b\" in \"aba\""]);
    // A separator in place of a prefix.
    let separated = read("<blk>\t0\na\t-0\nb\t-1\n|\t-2\n");
    assert_eq!(separated.word_mark(), &WordMark::Separator("|".into()));
    assert_eq!(separated.encode("a b").unwrap(), [1, 3, 2]);
    // The tokens in another order than their ranks.
    let vocabulary = read("<blk>\t0\na\t-3\n▁a\t-0\n▁\t-2\nab\t-1\n");
    assert_eq!(vocabulary.encode("aa").unwrap(), [2, 1]);
    fails(vocabulary.encode("aab"), &["\"b\"", "merge"]);
    // The fewest ranks.
    let vocabulary = read("<blk>\t0\nab\t-0\n▁\t-1\na\t-1\n");
    fails(vocabulary.encode("ab"), &["\"b\"", "merge"]);
}

#[test]
fn spellings_are_all_spellings() {
    let vocabulary = tokens(&["<blk>", "|", "a", "aa", "aaa", "b"]);
    let spellings = vocabulary.spellings("aaa b").unwrap();
    let found: Vec<Vec<u32>> = spellings.iter().collect();
    assert_eq!(
        found,
        [
            vec![4, 1, 5],
            vec![3, 2, 1, 5],
            vec![2, 3, 1, 5],
            vec![2, 2, 2, 1, 5]
        ]
    );
    assert_eq!(
        (spellings.count(), spellings.nodes(), spellings.arcs().len()),
        (4.0, 6, 8)
    );
    assert!(found.iter().all(|labels| spellings.contains(labels)));
    assert!(
        !spellings.contains(&[4, 1]) && !spellings.contains(&[4, 5]) && !spellings.contains(&[])
    );
    for arc in spellings.arcs() {
        assert!(arc.from < arc.to && arc.to < spellings.nodes());
    }
    let empty = vocabulary.spellings(" ").unwrap();
    assert_eq!(
        (empty.nodes(), empty.count(), empty.iter().count()),
        (1, 1.0, 1)
    );
    assert!(empty.contains(&[]));
    fails(vocabulary.spellings("ac"), &["\"c\"", "character 2"]);
    // Numbers that nobody can list: 3-bonacci.
    let many = vocabulary.spellings(&"a".repeat(5000)).unwrap();
    assert_eq!(many.count(), f64::INFINITY);
    assert_eq!(many.iter().take(3).count(), 3);
}

#[test]
fn a_word_of_500_000_tokens_is_put_together_in_no_time() {
    // No time limit, as below.
    let vocabulary = tokens(&["<pad>", "ก", "ข"]);
    let labels: Vec<u32> = (0..500_000).map(|at| 1 + at % 2).collect();
    let words = vocabulary.words(&spans(&labels));
    assert_eq!((words.len(), words[0].tokens.len()), (1, labels.len()));
}

#[test]
fn vocabularies_of_100_000_tokens_load_and_spell_in_no_time() {
    // No time limit, which a busy machine would break: enough that a quadratic way would never end.
    let names = (0..100_000).map(|n| format!("▁w{n}x"));
    let vocabulary = Vocabulary::from_tokens(
        ["<blk>".to_owned(), "▁".to_owned()]
            .into_iter()
            .chain(names),
    )
    .unwrap();
    let words: Vec<String> = (0..100_000).map(|n| format!("w{n}x")).collect();
    let labels = vocabulary.encode(&words.join(" ")).unwrap();
    assert_eq!(labels, (2..100_002).collect::<Vec<u32>>());
    let lossy = vocabulary
        .encode_lossy(&"?".repeat(100_000), Unspellable::Star(7))
        .unwrap();
    assert_eq!(
        (lossy.unspelled.len(), lossy.unspelled[0].end),
        (1, 100_000)
    );
}

/// Segments by trying every one: the highest sum of scores, or the longest token first.
fn reference_spelling(
    text: &str,
    pieces: &[(String, f64)],
    scored: bool,
) -> Option<(f64, Vec<u32>)> {
    if text.is_empty() {
        return Some((0.0, Vec::new()));
    }
    let mut found: Vec<(f64, usize, Vec<u32>)> = Vec::new();
    for ((piece, score), class) in pieces.iter().zip(1..) {
        if let Some((sum, labels)) = text
            .strip_prefix(piece.as_str())
            .and_then(|rest| reference_spelling(rest, pieces, scored))
        {
            found.push((sum + score, piece.len(), [vec![class], labels].concat()));
        }
    }
    let best = found.into_iter().max_by(|a, b| match scored {
        true => a.0.total_cmp(&b.0),
        false => a.1.cmp(&b.1),
    });
    best.map(|(sum, _, labels)| (sum, labels))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn encode_finds_the_best_spelling(
        pieces in proptest::collection::btree_map("[abc]{1,3}", -9.0f64..-0.1, 1..8),
        text in "[abc]{0,8}",
        scored: bool,
    ) {
        let pieces: Vec<(String, f64)> = pieces.into_iter().collect();
        let builder = Vocabulary::builder().word_mark(WordMark::None);
        let builder = if scored { builder.scores(pieces.clone()) } else { builder };
        let names = std::iter::once("<blk>").chain(pieces.iter().map(|(piece, _)| piece.as_str()));
        let vocabulary = builder.from_tokens(names).unwrap();
        match reference_spelling(&text, &pieces, scored) {
            None => prop_assert!(vocabulary.encode(&text).is_err()),
            Some((sum, wanted)) => {
                let labels = vocabulary.encode(&text).unwrap();
                if scored {
                    let found: f64 = labels.iter().map(|&label| pieces[label as usize - 1].1).sum();
                    prop_assert!((found - sum).abs() < 1e-9);
                } else {
                    prop_assert_eq!(&labels, &wanted);
                }
                prop_assert_eq!(vocabulary.decode(&labels), text.clone());
                let spellings = vocabulary.spellings(&text).unwrap();
                prop_assert!(spellings.contains(&labels));
                let all: Vec<Vec<u32>> = spellings.iter().collect();
                prop_assert_eq!(all.len() as f64, spellings.count());
                prop_assert!(all.iter().all(|labels| vocabulary.decode(labels) == text));
            }
        }
    }

    /// Any text comes back unchanged, unless an error or the list of characters left out says why not.
    #[test]
    fn decode_undoes_encode(text in "[abc é\u{301}ß東.\u{1F642}]{0,12}", mark in 0usize..5) {
        let vocabulary = match mark {
            0 => tokens(&["<pad>", "|", "a", "b", "ab", "é", "\u{301}", "東"]),
            1 => tokens(&["<pad>", "▁", "▁a", "a", "b", "ab", "é", "東"]),
            2 => tokens(&["<pad>", "a", "##a", "b", "##b", "##ab", "é", "東"]),
            3 => tokens(&["<pad>", "a", "a</w>", "b", "b</w>", "é</w>", "東</w>"]),
            _ => Vocabulary::from_path(data("byte_level.json")).unwrap(),
        };
        let lossy = vocabulary.encode_lossy(&text, Unspellable::Skip).unwrap();
        match vocabulary.encode(&text) {
            Ok(labels) => {
                prop_assert!(lossy.unspelled.is_empty());
                prop_assert_eq!(&lossy.labels, &labels);
                // The vocabulary may have a decomposed form: what readers see is the same.
                let nothing_lost = character_error_rate(&text, &vocabulary.decode(&labels));
                prop_assert_eq!(nothing_lost.errors(), 0, "{:?}", vocabulary.decode(&labels));
                prop_assert!(vocabulary.spellings(&text).unwrap().contains(&labels));
                let words = vocabulary.words(&spans(&labels));
                let space = |word: &Word| if word.space_before { " " } else { "" };
                let joined: String = words.iter().map(|word| format!("{}{}", space(word), word.text)).collect();
                prop_assert_eq!(joined, vocabulary.decode(&labels));
            }
            Err(error) => {
                prop_assert!(!lossy.unspelled.is_empty());
                prop_assert!(error.to_string().contains(" at character "), "{}", error);
                for part in &lossy.unspelled {
                    prop_assert_eq!(&text[part.start..part.end], part.text.as_str());
                }
            }
        }
    }

    #[test]
    fn no_file_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        text in "[<>\\[\\]{}\"a0 \t\n:,.\\-▁]{0,40}",
    ) {
        let _ = Vocabulary::from_bytes(&bytes);
        if let Ok(vocabulary) = Vocabulary::builder().blank(0).from_bytes(text.as_bytes()) {
            let _ = vocabulary.encode(&text);
            let _ = vocabulary.encode_lossy(&text, Unspellable::Star(9));
            let _ = vocabulary.encode_tokens(&text);
            let _ = vocabulary.words(&spans(&[0, 1, 2, 3]));
        }
    }

    #[test]
    fn error_counts_are_those_of_the_best_alignment(reference in "[abc]{0,5}", hypothesis in "[abc]{0,5}") {
        let rate = character_error_rate(&reference, &hypothesis);
        let (r, h): (Vec<char>, Vec<char>) = (reference.chars().collect(), hypothesis.chars().collect());
        let (errors, gaps) = best_alignment(&r, &h);
        prop_assert_eq!(rate.errors(), errors);
        prop_assert_eq!(rate.insertions + rate.deletions, gaps);
        prop_assert_eq!(r.len() + rate.insertions, h.len() + rate.deletions);
        prop_assert_eq!(rate.errors(), strsim::levenshtein(&reference, &hypothesis));
        prop_assert_eq!(rate.reference_length, r.len());
    }
}

/// Errors, and insertions and deletions, by trying every alignment.
fn best_alignment(reference: &[char], hypothesis: &[char]) -> (usize, usize) {
    match (reference, hypothesis) {
        ([], rest) | (rest, []) => (rest.len(), rest.len()),
        ([r, reference_rest @ ..], [h, hypothesis_rest @ ..]) => {
            let pair = best_alignment(reference_rest, hypothesis_rest);
            let deletion = best_alignment(reference_rest, hypothesis);
            let insertion = best_alignment(reference, hypothesis_rest);
            let gap = |(errors, gaps): (usize, usize)| (errors + 1, gaps + 1);
            (pair.0 + usize::from(r != h), pair.1)
                .min(gap(deletion))
                .min(gap(insertion))
        }
    }
}

// ---- Error rates

#[test]
fn error_rates_agree_with_jiwer() {
    let mut sum = ErrorRate::default();
    for case in json("error_rates.json").as_array().unwrap() {
        let (reference, hypothesis) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        let (words, characters) = (
            word_error_rate(reference, hypothesis),
            character_error_rate(reference, hypothesis),
        );
        assert_eq!(
            (words.errors(), characters.errors()),
            (
                case[2].as_u64().unwrap() as usize,
                case[3].as_u64().unwrap() as usize
            )
        );
        assert!((words.rate() - case[4].as_f64().unwrap()).abs() < 1e-12);
        assert!((characters.rate() - case[5].as_f64().unwrap()).abs() < 1e-12);
        sum += words;
    }
    assert!(sum.errors() > 10 && sum.rate() < 1.0);
}

#[test]
fn error_rates_at_the_edges() {
    let counts = |rate: ErrorRate| {
        (
            rate.substitutions,
            rate.insertions,
            rate.deletions,
            rate.reference_length,
        )
    };
    assert_eq!(counts(word_error_rate("a b c", "a x c d")), (1, 1, 0, 3));
    assert_eq!(counts(word_error_rate("", "a b")), (0, 2, 0, 0));
    assert_eq!(counts(word_error_rate("a b", " ")), (0, 0, 2, 2));
    assert_eq!(
        (
            word_error_rate("", "a").rate(),
            word_error_rate("", "").rate()
        ),
        (f64::INFINITY, 0.0)
    );
    assert_eq!(word_error_rate("a", "b c d").rate(), 3.0);
    let sum = word_error_rate("a", "a b") + word_error_rate("c d", "x");
    let sum = sum + word_error_rate("", "e f");
    assert_eq!(counts(sum), (1, 3, 1, 3));
    // Composed or not, and whatever the whitespace.
    assert_eq!(
        character_error_rate("caf\u{e9}  au", "\tcafe\u{301} au\n").errors(),
        0
    );
    assert_eq!(
        word_error_rate("caf\u{e9}  au", "\tcafe\u{301} au\n").errors(),
        0
    );
    assert_eq!(counts(character_error_rate("ab", "bc")), (2, 0, 0, 2));
}

// ---- Files of words

/// Two words, `say` and `"<b>&`, with a pause between them, and a third after a long pause.
fn sample() -> Vec<Word> {
    let vocabulary = tokens(&["<blk>", "▁say", "▁\"<b>", "&", "▁-->"]);
    let span = |token, start, end| TokenSpan {
        token,
        start,
        end,
        score: -0.5,
    };
    vocabulary.words(&[
        span(1, 3, 5),
        span(2, 6, 8),
        span(3, 8, 10),
        span(4, 100, 101),
    ])
}

#[test]
fn json_is_read_back() {
    let mut words = sample();
    words[0].score = f32::NEG_INFINITY;
    words[1].score = -0.1;
    let json: Value = serde_json::from_str(&to_json(&words, 0.1).unwrap()).unwrap();
    assert_eq!(json["text"], "say \"<b>& -->");
    assert_eq!(json["words"][0]["score"], Value::Null);
    // Rounded: the f32 nearest to -0.1 has more digits in f64.
    assert_eq!(json["words"][1]["score"].as_f64(), Some(-0.1));
    assert_eq!(json["words"][1]["tokens"][0]["score"].as_f64(), Some(-0.5));
    assert_eq!(json["words"][1]["text"], "\"<b>&");
    assert_eq!(
        (
            json["words"][0]["start"].as_f64(),
            json["words"][0]["end"].as_f64()
        ),
        (Some(0.3), Some(0.5))
    );
    assert_eq!(json["words"][1]["tokens"][1]["token"], "&");
    assert_eq!(json["words"][1]["tokens"][1]["class"], 3);
    assert_eq!(
        to_json(&[], 0.1)
            .map(|text| serde_json::from_str::<Value>(&text).unwrap()["words"].clone())
            .unwrap(),
        Value::Array(vec![])
    );
}

#[test]
fn subtitles_have_the_form_that_players_demand() {
    let srt = to_srt(&sample(), 0.1, SubtitleOptions::default()).unwrap();
    let expected =
        "1\n00:00:00,300 --> 00:00:01,000\nsay \"<b>&\n\n2\n00:00:10,000 --> 00:00:10,100\n->\n\n";
    assert_eq!(srt, expected);
    let vtt = to_webvtt(&sample(), 0.1, SubtitleOptions::default()).unwrap();
    let expected = "WEBVTT\n\n00:00:00.300 --> 00:00:01.000\nsay \"&lt;b&gt;&amp;\n\n\
                    00:00:10.000 --> 00:00:10.100\n--&gt;\n\n";
    assert_eq!(vtt, expected);
    // Minutes and hours.
    assert!(
        to_srt(&sample(), 1.0, SubtitleOptions::default())
            .unwrap()
            .contains("00:01:40,000 --> 00:01:41,000")
    );
    assert!(
        to_srt(&sample(), 3600.0, SubtitleOptions::default())
            .unwrap()
            .contains("03:00:00,000 --> 05:00:00,000")
    );
    assert_eq!(
        to_webvtt(&[], 0.1, SubtitleOptions::default()).unwrap(),
        "WEBVTT\n\n"
    );
}

#[test]
fn subtitles_are_cut_by_lines_time_and_pauses() {
    let vocabulary = tokens(&["<blk>", "▁four", "▁by", "▁two"]);
    let words = vocabulary.words(&spans(&[1, 2, 3, 1, 2, 3]));
    let cues = |opts: SubtitleOptions| -> Vec<String> {
        let srt = to_srt(&words, 0.1, opts).unwrap();
        srt.split_terminator("\n\n")
            .map(|cue| cue.splitn(3, '\n').nth(2).unwrap().to_owned())
            .collect()
    };
    let opts = SubtitleOptions::default();
    assert_eq!(cues(opts), ["four by two four by two"]);
    assert_eq!(
        cues(SubtitleOptions {
            characters: 11,
            ..opts
        }),
        ["four by two\nfour by two"]
    );
    assert_eq!(
        cues(SubtitleOptions {
            characters: 7,
            ..opts
        }),
        ["four by\ntwo", "four by\ntwo"]
    );
    assert_eq!(
        cues(SubtitleOptions {
            characters: 1,
            lines: 1,
            ..opts
        })
        .len(),
        6
    );
    assert_eq!(
        cues(SubtitleOptions { words: 4, ..opts }),
        ["four by two four", "by two"]
    );
    assert_eq!(
        cues(SubtitleOptions {
            seconds: 0.9,
            ..opts
        }),
        ["four by two", "four by two"]
    );
    assert_eq!(
        cues(SubtitleOptions {
            pause: 0.05,
            ..opts
        })
        .len(),
        6
    );
    for opts in [
        SubtitleOptions {
            characters: 0,
            ..opts
        },
        SubtitleOptions { lines: 0, ..opts },
        SubtitleOptions { words: 0, ..opts },
        SubtitleOptions {
            seconds: 0.0,
            ..opts
        },
        SubtitleOptions {
            seconds: f64::NAN,
            ..opts
        },
        SubtitleOptions {
            pause: f64::NAN,
            ..opts
        },
    ] {
        assert!(to_srt(&words, 0.1, opts).is_err(), "{opts:?}");
    }
    // A mark that combines with the word before it is no character of its own.
    let marked = tokens(&["<blk>", "か", "\u{3099}"]).words(&spans(&[1, 2, 1, 2, 1, 2]));
    assert_eq!(texts(&marked), ["か", "\u{3099}"].repeat(3));
    let narrow = SubtitleOptions {
        characters: 3,
        lines: 1,
        ..opts
    };
    let srt = to_srt(&marked, 0.1, narrow).unwrap();
    assert!(
        srt.ends_with(&format!("\n{}\n\n", "か\u{3099}".repeat(3))),
        "{srt}"
    );
    // A word within the time of the one before it.
    let mut nested = words[..2].to_vec();
    (nested[0].start, nested[0].end) = (0, 10);
    (nested[1].start, nested[1].end) = (3, 5);
    assert_eq!(
        to_srt(&nested, 0.1, opts).unwrap(),
        "1\n00:00:00,000 --> 00:00:01,000\nfour by\n\n"
    );
    // A word without time, and line breaks in one: readers end a subtitle at an empty line.
    let mut odd = words.clone();
    odd[0].end = odd[0].start;
    odd[0].text = "a\n\r\nb".into();
    odd.truncate(1);
    assert_eq!(
        to_srt(&odd, 0.1, opts).unwrap(),
        "1\n00:00:00,000 --> 00:00:00,001\na b\n\n"
    );
}

#[test]
fn textgrids_have_no_gaps() {
    let mut words = sample();
    words.truncate(2);
    let grid = to_textgrid(&words, 0.1, 12).unwrap();
    assert_eq!(
        grid,
        "File type = \"ooTextFile\"
Object class = \"TextGrid\"

xmin = 0
xmax = 1.2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = \"IntervalTier\"
        name = \"words\"
        xmin = 0
        xmax = 1.2
        intervals: size = 5
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = \"\"
        intervals [2]:
            xmin = 0.3
            xmax = 0.5
            text = \"say\"
        intervals [3]:
            xmin = 0.5
            xmax = 0.6
            text = \"\"
        intervals [4]:
            xmin = 0.6
            xmax = 1
            text = \"\"\"<b>&\"
        intervals [5]:
            xmin = 1
            xmax = 1.2
            text = \"\"
    item [2]:
        class = \"IntervalTier\"
        name = \"tokens\"
        xmin = 0
        xmax = 1.2
        intervals: size = 6
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = \"\"
        intervals [2]:
            xmin = 0.3
            xmax = 0.5
            text = \"▁say\"
        intervals [3]:
            xmin = 0.5
            xmax = 0.6
            text = \"\"
        intervals [4]:
            xmin = 0.6
            xmax = 0.8
            text = \"▁\"\"<b>\"
        intervals [5]:
            xmin = 0.8
            xmax = 1
            text = \"&\"
        intervals [6]:
            xmin = 1
            xmax = 1.2
            text = \"\"
"
    );
    fails(
        to_textgrid(&words, 0.1, 9),
        &["ends at frame 10", "9 frames"],
    );
    fails(to_textgrid(&words, 0.1, 0), &["0 frames"]);
    fails(to_textgrid(&words, 0.1, usize::MAX), &["up to 1e9"]);
    // To the last frame.
    let full = to_textgrid(&words, 0.1, 10).unwrap();
    assert!(full.ends_with("xmax = 1\n            text = \"&\"\n"));
    // A token of two words is one interval, once the caller has shared its frames between the words.
    let mut shared = tokens(&["<blk>", "a b", "c"]).words(&spans(&[1, 2]));
    fails(to_textgrid(&shared, 0.1, 5), &["word", "starts at frame 0"]);
    (shared[0].end, shared[1].start) = (1, 1);
    let grid = to_textgrid(&shared, 0.1, 5).unwrap();
    assert_eq!(grid.matches("text = \"a b\"").count(), 1);
    let mut empty = words.clone();
    empty[1].start = empty[1].end;
    fails(to_textgrid(&empty, 0.1, 12), &["no frames", "word"]);
    let mut overlap = words;
    overlap[1].start = 4;
    fails(
        to_textgrid(&overlap, 0.1, 12),
        &["starts at frame 4", "ends at 5"],
    );
}

#[test]
fn ctm_has_a_line_for_each_word_or_token() {
    let words = &sample()[..2];
    let ctm = to_ctm(words, 0.1, "call-7", "A").unwrap();
    assert_eq!(
        ctm,
        "call-7 A 0.300 0.200 say 0.607\ncall-7 A 0.600 0.400 \"<b>& 0.607\n"
    );
    let ctm = to_token_ctm(words, 0.1, "call-7", "A").unwrap();
    let expected = "call-7 A 0.300 0.200 ▁say 0.607\ncall-7 A 0.600 0.200 ▁\"<b> 0.607\ncall-7 A 0.800 0.200 & 0.607\n";
    assert_eq!(ctm, expected);
    fails(
        to_ctm(words, 0.1, "call 7", "A"),
        &["recording", "\"call 7\""],
    );
    fails(to_ctm(words, 0.1, ";;7", "A"), &["comment"]);
    fails(to_ctm(words, 0.1, "7", ""), &["channel"]);
    let mut odd = words.to_vec();
    odd[0].text = "a b".into();
    fails(to_ctm(&odd, 0.1, "7", "A"), &["\"a b\""]);
    odd[0].text = "a".into();
    odd[0].score = f32::NAN;
    fails(to_ctm(&odd, 0.1, "7", "A"), &["NaN", "\"a\""]);
    // Words of two utterances: tokens have the indices of their own.
    let vocabulary = tokens(&["<blk>", "▁a"]);
    let spans_at = |start| {
        [TokenSpan {
            token: 1,
            start,
            end: start + 1,
            score: 0.0,
        }]
    };
    let words = [0, 5]
        .map(|start| vocabulary.words(&spans_at(start)))
        .concat();
    assert_eq!(
        to_token_ctm(&words, 0.1, "7", "A").unwrap(),
        "7 A 0.000 0.100 ▁a 1.000\n7 A 0.500 0.100 ▁a 1.000\n"
    );
    // A token with a space in it, which belongs to two words, has one line.
    let shared = tokens(&["<blk>", "a b", "c"]);
    let words = shared.words(&spans(&[1, 2]));
    assert_eq!(texts(&words), ["a", "bc"]);
    assert_eq!(
        to_token_ctm(&words, 0.1, "7", "A").unwrap().lines().count(),
        2
    );
}

#[test]
fn all_formats_refuse_times_that_make_no_sense() {
    let words = sample();
    let all = |words: &[Word], seconds: f64| {
        [
            to_json(words, seconds),
            to_srt(words, seconds, SubtitleOptions::default()),
            to_webvtt(words, seconds, SubtitleOptions::default()),
            to_textgrid(words, seconds, 200),
            to_ctm(words, seconds, "r", "1"),
            to_token_ctm(words, seconds, "r", "1"),
        ]
    };
    for seconds in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        all(&words, seconds)
            .into_iter()
            .for_each(|result| fails(result, &["seconds_per_frame", "positive"]));
    }
    // Finite, but milliseconds of them are not.
    for seconds in [2e9, 1e100, f64::MAX] {
        all(&words, seconds)
            .into_iter()
            .for_each(|result| fails(result, &["seconds per frame", "up to 1e9"]));
    }
    let swapped = vec![words[1].clone(), words[0].clone()];
    all(&swapped, 0.1)
        .into_iter()
        .for_each(|result| fails(result, &["word 1", "\"say\""]));
    let mut backward = words.clone();
    backward[0].end = 1;
    all(&backward, 0.1)
        .into_iter()
        .for_each(|result| fails(result, &["word 0", "frame 1"]));
    assert!(all(&words, 0.1).into_iter().all(|result| result.is_ok()));
}
