//! The program `ctc`: its outputs, and a clear error for every bad file.

#[path = "../../src/bin/ctc/program/mod.rs"]
mod program;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use serde_json::Value;
use std::path::Path;

/// Runs a command line; the error is as the program prints it.
fn run(args: &[&str]) -> Result<String, String> {
    let cli = program::Cli::try_parse_from(std::iter::once(&"ctc").chain(args))
        .map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    match program::run(&cli, &mut out) {
        Ok(()) => Ok(String::from_utf8(out).unwrap()),
        Err(error) => Err(format!("{error:#}")),
    }
}

#[track_caller]
fn fails(args: &[&str], parts: &[&str]) {
    let message = run(args).unwrap_err();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

/// A folder with the demo in it.
struct Demo(tempfile::TempDir);

impl Demo {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(&[
            "demo",
            "--out",
            folder.path().to_str().unwrap(),
            "--text",
            text,
        ])
        .unwrap();
        Demo(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn npy(&self, name: &str, tensor: &Tensor) -> String {
        let path = self.path(name);
        tensor.write_npy(&path).unwrap();
        path
    }
}

const TEXT: &str = "the quick brown fox";

#[test]
fn decoding_finds_the_text_of_the_demo() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    for extra in [&["--greedy"][..], &["--beam", "20", "--n-best", "3"], &[]] {
        let args = [&["decode", &emissions, "--vocab", &vocab], extra].concat();
        let out = run(&args).unwrap();
        let first = out.lines().next().unwrap();
        assert_eq!(first.split('\t').nth(1), Some(TEXT));
    }
    let out = run(&[
        "decode", &emissions, "--vocab", &vocab, "--json", "--n-best", "2",
    ])
    .unwrap();
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2);
    assert_eq!(found[0]["text"], TEXT);
    assert_eq!(found[0]["tokens"].as_array().unwrap().len(), TEXT.len());
}

#[test]
fn scoring_ranks_the_right_text_first() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let file = demo.file("more.txt", "the quick brown box\nthe thick brown fox\n");
    let args = [
        "score", &emissions, "--vocab", &vocab, "a fox", TEXT, "--file", &file,
    ];
    let out = run(&args).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[1].ends_with(TEXT), "{out}");
    fails(
        &["score", &emissions, "--vocab", &vocab],
        &["no transcript"],
    );
}

#[test]
fn alignments_come_in_every_format() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let [json, grid, srt, svg] = ["a.json", "a.TextGrid", "a.srt", "a.svg"].map(|n| demo.path(n));
    let args = [
        "align", &emissions, "--vocab", &vocab, TEXT, "--hop", "0.04",
    ];
    let outputs = [
        "--json",
        &json,
        "--textgrid",
        &grid,
        "--srt",
        &srt,
        "--words-per-cue",
        "3",
        "--svg",
        &svg,
    ];
    assert_eq!(run(&[&args[..], &outputs].concat()).unwrap(), "");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();

    let value: Value = serde_json::from_str(&read(&json)).unwrap();
    let words = value["words"].as_array().unwrap();
    let texts: Vec<&str> = words.iter().map(|w| w["text"].as_str().unwrap()).collect();
    assert_eq!(texts, TEXT.split(' ').collect::<Vec<_>>());
    assert_eq!(value["tokens"].as_array().unwrap().len(), TEXT.len());
    let mut at = 0.0;
    for word in words {
        let (start, end) = (
            word["start"].as_f64().unwrap(),
            word["end"].as_f64().unwrap(),
        );
        assert!(start >= at && end > start);
        at = end;
    }
    assert!(at <= value["duration"].as_f64().unwrap());
    // Without an output, the same goes to standard output.
    let printed: Value = serde_json::from_str(&run(&args).unwrap()).unwrap();
    assert_eq!(printed, value);

    let grid = read(&grid);
    assert!(grid.starts_with("File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n"));
    assert!(grid.contains("name = \"words\"") && grid.contains("text = \"quick\""));
    let srt = read(&srt);
    let cues: Vec<&str> = srt.trim().split("\n\n").collect();
    assert_eq!(cues.len(), 2);
    assert!(cues[0].starts_with("1\n00:00:00,") && cues[0].ends_with("the quick brown"));
    let svg = read(&svg);
    assert!(svg.starts_with("<svg") && svg.contains("<polyline") && svg.contains("data:image/png"));
}

#[test]
fn a_part_of_the_text_is_found_in_the_whole_audio() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let words = |text: &str, more: &[&str]| -> Vec<Value> {
        let args = ["align", &emissions, "--vocab", &vocab, text];
        let printed = run(&[&args[..], more].concat()).unwrap();
        let value: Value = serde_json::from_str(&printed).unwrap();
        value["words"].as_array().unwrap().clone()
    };
    let whole = words(TEXT, &[]);
    let middle: Vec<&str> = TEXT.split(' ').skip(1).take(2).collect();
    for more in ["--partial", "--partial=3.5"] {
        let part = words(&middle.join(" "), &[more]);
        assert_eq!(part.len(), 2);
        // Where they stand in the alignment of all of it, to a frame or two.
        for (part, whole) in part.iter().zip(&whole[1..3]) {
            assert_eq!(part["text"], whole["text"]);
            for edge in ["start", "end"] {
                let apart = part[edge].as_f64().unwrap() - whole[edge].as_f64().unwrap();
                assert!(apart.abs() <= 0.04 + 1e-9, "{part} {whole}");
            }
        }
    }
    // Without it, the rest of the audio counts as blanks, which it is not.
    let score = |more: &[&str]| {
        let text = middle.join(" ");
        let args = ["align", &emissions, "--vocab", &vocab, &text];
        let value: Value =
            serde_json::from_str(&run(&[&args[..], more].concat()).unwrap()).unwrap();
        value["score"].as_f64().unwrap()
    };
    assert!(score(&["--partial"]) > score(&[]) + 10.0);
    fails(
        &[
            "align",
            &emissions,
            "--vocab",
            &vocab,
            "fox",
            "--partial=nan",
        ],
        &["outside", "NaN"],
    );
}

#[test]
fn safetensors_logits_and_plain_vocabularies_are_read() {
    let demo = Demo::new("ab a");
    let log_probs = Tensor::read_npy(demo.path("emissions.npy")).unwrap();
    // Any shift of a frame gives logits of the same distribution.
    let logits = (log_probs.unsqueeze(0).unwrap() + 3.0).unwrap();
    let path = demo.path("two.safetensors");
    let half = log_probs.to_dtype(DType::F16).unwrap();
    let tensors = [("logits".to_owned(), logits), ("half".to_owned(), half)];
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let letters = ('a'..='z').map(|c| format!("{c}\n")).collect::<String>();
    let vocab = demo.file("vocab.txt", &format!("<pad>\n|\n{letters}"));
    let of = |tensor: &str, extra: &[&str]| {
        let args = ["decode", &path, "--vocab", &vocab, "--tensor", tensor];
        run(&[&args, extra].concat())
    };
    for (tensor, extra) in [("logits", &["--logits"][..]), ("half", &[])] {
        assert!(of(tensor, extra).unwrap().ends_with("\tab a\n"));
    }
    let message = of("logits", &[]).unwrap_err();
    assert!(
        message.contains("--logits") && message.contains("frame 0"),
        "{message}"
    );
    assert!(
        of("none", &[])
            .unwrap_err()
            .contains("\"half\", \"logits\"")
    );
    let several = ["decode", &path, "--vocab", &vocab];
    fails(&several, &["--tensor", "\"half\", \"logits\""]);
}

#[test]
fn the_longest_token_is_taken_and_missing_characters_are_named() {
    let demo = Demo::new("a");
    let vocab = demo.file("v.json", r#"["<blank>", " ", "t", "th", "the", "e", "s"]"#);
    let frames = Tensor::zeros((30, 7), DType::F32, &Device::Cpu).unwrap();
    let emissions = demo.npy("e.npy", &frames);
    let align = |text: &str| run(&["align", &emissions, "--vocab", &vocab, text, "--logits"]);
    let value: Value = serde_json::from_str(&align("these  th").unwrap()).unwrap();
    let tokens = value["tokens"].as_array().unwrap().iter();
    let tokens: Vec<&str> = tokens.map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["the", "s", "e", " ", "th"]);
    let message = align("the sea").unwrap_err();
    assert!(
        message.contains("\"a\"") && message.contains("character 7"),
        "{message}"
    );
    assert!(align(" ").unwrap_err().contains("empty"));
    let long = "s".repeat(16);
    let message = align(&long).unwrap_err();
    assert!(
        message.contains("31 frames") && message.contains("30"),
        "{message}"
    );
}

#[test]
fn every_bad_file_is_an_error_that_says_what_is_wrong() {
    let demo = Demo::new("a");
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let with_emissions = |path: &str, parts: &[&str]| {
        let all = [
            parts,
            &[Path::new(path).file_name().unwrap().to_str().unwrap()],
        ]
        .concat();
        fails(&["decode", path, "--vocab", &vocab], &all);
    };
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
    with_emissions(&demo.path("missing.npy"), &["cannot read", "No such file"]);
    with_emissions(&demo.file("text.csv", "1,2"), &[".npy or .safetensors"]);
    with_emissions(&demo.file("broken.npy", "not an array"), &["cannot use"]);
    with_emissions(&demo.file("broken.safetensors", "no"), &["cannot use"]);
    let ints = demo.npy("ints.npy", &zeros(&[4, 28], DType::I64));
    with_emissions(&ints, &["I64", "f32"]);
    let cube = demo.npy("cube.npy", &zeros(&[2, 4, 28], DType::F32));
    with_emissions(&cube, &["[2, 4, 28]", "(T, C)"]);
    let empty = demo.npy("empty.npy", &zeros(&[0, 28], DType::F32));
    with_emissions(&empty, &["[0, 28]"]);
    let logits = demo.npy("logits.npy", &zeros(&[4, 28], DType::F32));
    with_emissions(&logits, &["frame 0", "--logits"]);
    let nan = demo.npy(
        "nan.npy",
        &(zeros(&[4, 28], DType::F32) * f64::NAN).unwrap(),
    );
    with_emissions(&nan, &["frame 0", "NaN"]);

    let with_vocab = |path: &str, parts: &[&str]| {
        fails(&["decode", &emissions, "--vocab", path], parts);
    };
    with_vocab(&demo.path("missing.json"), &["cannot read", "missing.json"]);
    with_vocab(&demo.file("bad.json", "{"), &["bad.json", "not valid JSON"]);
    with_vocab(&demo.file("number.json", "3"), &["number.json", "object"]);
    with_vocab(&demo.file("mixed.json", r#"["a", 3]"#), &["entry 1", "3"]);
    with_vocab(
        &demo.file("gap.json", r#"{"a": 0, "b": 2}"#),
        &["class 1 has no token", "\"b\" has class 2"],
    );
    with_vocab(
        &demo.file("same.json", r#"{"a": 0, "b": 0}"#),
        &["class 0", "\"a\"", "\"b\""],
    );
    with_vocab(
        &demo.file("twice.txt", "a\nb\na\n"),
        &["\"a\"", "class 0", "class 2"],
    );
    with_vocab(&demo.file("none.txt", ""), &["none.txt", "no tokens"]);
    with_vocab(&demo.file("few.txt", "<pad>\nb\n"), &["C = 28", "2 tokens"]);

    let decode = ["decode", &emissions, "--vocab", &vocab];
    let with = |extra: &[&str], parts: &[&str]| fails(&[&decode, extra].concat(), parts);
    with(&["--blank", "nothing"], &["\"nothing\"", "not a token"]);
    // Behind the last token.
    with(&["--blank", "28"], &["C = 28", "29 tokens"]);
    with(&["--blank", "29"], &["class 29", "0 to 27"]);
    with(&["--separator", "_"], &["\"_\"", "not a token"]);
    with(
        &["--blank", "|", "--separator", "|"],
        &["the blank and the separator"],
    );
    with(&["--hop", "0"], &["--hop"]);
    with(&["--beam", "0"], &["beam_width = 0"]);
    with(
        &["--greedy", "--n-best", "2"],
        &["--greedy", "cannot be used with"],
    );
    let folder = demo.path("");
    let align = [
        "align", &emissions, "--vocab", &vocab, "a", "--json", &folder,
    ];
    fails(&align, &["cannot write"]);
    fails(
        &["demo", "--out", &folder, "--text", "naïve"],
        &["a to z", "naïve"],
    );
}
