//! The program `ctc`: its outputs, and a clear error for every bad file.

#[path = "../../src/bin/ctc/program/mod.rs"]
mod program;

use candle_core::{DType, Device, Tensor};
use clap::{CommandFactory, Parser};
use serde_json::Value;
use std::path::Path;

/// What a command line printed, and how many of its files failed.
struct Printed {
    out: String,
    err: String,
    failed: usize,
}

/// Runs a command line. An error is what stops the whole program.
fn try_all(args: &[&str]) -> Result<Printed, String> {
    on_console(args, false)
}

/// The same, on a terminal or not.
fn on_console(args: &[&str], progress: bool) -> Result<Printed, String> {
    let cli = program::Cli::try_parse_from(std::iter::once(&"ctc").chain(args))
        .map_err(|error| error.to_string())?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = program::Console {
        out: &mut out,
        err: &mut err,
        progress,
    };
    let failed = program::run(&cli, &mut console).map_err(|error| format!("{error:#}"))?;
    Ok(Printed {
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
        failed,
    })
}

/// What a command line prints where all goes well, else its errors.
fn run(args: &[&str]) -> Result<String, String> {
    match try_all(args)? {
        Printed { out, failed: 0, .. } => Ok(out),
        Printed { err, .. } => Err(err),
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
fn special_tokens_are_in_no_hypothesis_of_a_beam() {
    let demo = Demo::new(TEXT);
    let vocab = demo.file("special.json", r#"["<pad>", "<s>", "</s>", "<unk>", "a"]"#);
    let probs = [[0.1f32, 0.1, 0.1, 0.5, 0.2], [0.2, 0.3, 0.3, 0.1, 0.1]];
    let log_probs = Tensor::new(&probs, &Device::Cpu).unwrap().log().unwrap();
    let emissions = demo.npy("special.npy", &log_probs);
    let said = demo.file("said.tsv", &format!("{emissions}\ta\n"));
    let out = run(&["decode", &emissions, "--vocab", &vocab, "--n-best", "9"]).unwrap();
    let texts: Vec<&str> = out
        .lines()
        .map(|line| line.split('\t').nth(1).unwrap())
        .collect();
    assert_eq!(texts, ["a", ""]);
    let arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 <unk>\n-1 a\n\\end\\\n";
    let arpa = demo.file("a.arpa", arpa);
    let grid = ["--alphas", "0", "--betas", "0", "--rounds", "0"];
    let tune = [
        "tune",
        "--manifest",
        &said,
        "--vocab",
        &vocab,
        "--lm",
        &arpa,
    ];
    let out = run(&[&tune[..], &grid].concat()).unwrap();
    let row: Vec<f64> = out.trim().split('\t').map(|x| x.parse().unwrap()).collect();
    assert_eq!(row, [0.0; 4], "{out}");
}

#[test]
fn where_no_other_token_is_possible_a_special_one_is_found() {
    let demo = Demo::new(TEXT);
    let vocab = demo.file("special.json", r#"["<pad>", "<s>", "</s>", "<unk>", "a"]"#);
    let probs = [[0.0f32, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]];
    let log_probs = Tensor::new(&probs, &Device::Cpu).unwrap().log().unwrap();
    let emissions = demo.npy("certain.npy", &log_probs);
    let decode = ["decode", &emissions, "--vocab", &vocab];
    let out = run(&decode).unwrap();
    assert!(out.contains("\t<unk>") && out.ends_with("a\n"), "{out}");
    // The lexicon lacks it.
    let words = demo.file("words.txt", "a\n");
    fails(
        &[&decode[..], &["--lexicon", &words]].concat(),
        &["certain.npy: every transcript", "probability of 0"],
    );
}

#[test]
fn json_has_the_score_of_the_table_beside_its_parts() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let fox = demo.file("fox.txt", "fox\t2\n");
    let decode = ["decode", &emissions, "--vocab", &vocab, "--hotwords", &fox];
    let table = run(&decode).unwrap();
    let printed: f64 = table.split('\t').next().unwrap().parse().unwrap();
    let json = run(&[&decode[..], &["--json"]].concat()).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let [score, lm_score, total] =
        ["score", "lm_score", "total_score"].map(|key| json[0][key].as_f64().unwrap());
    assert!((lm_score - 2.0).abs() < 1e-9, "{json}");
    assert!((total - (score + lm_score)).abs() < 1e-9, "{json}");
    assert!((total - printed).abs() < 1e-4, "{total} {table}");
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
        &["<TEXTS|--file <FILE>|--manifest <MANIFEST>>"],
    );
    // Blank lines are no transcripts, which would have a share.
    let file = demo.file(
        "blank.txt",
        "\nthe quick brown box\n \nthe thick brown fox\n\n",
    );
    let with_blanks = [&args[..args.len() - 1], &[&file]].concat();
    assert_eq!(run(&with_blanks).unwrap(), out);
    let none = demo.file("none.txt", "\n");
    fails(
        &["score", &emissions, "--vocab", &vocab, "--file", &none],
        &["no transcript"],
    );
}

/// The JSON, TextGrid, SRT and SVG that `args`, an alignment, and `more` write; nothing else is printed.
fn every_format(demo: &Demo, args: &[&str], more: &[&str]) -> [String; 4] {
    let paths = ["a.json", "a.TextGrid", "a.srt", "a.svg"].map(|name| demo.path(name));
    let [json, grid, srt, svg] = &paths;
    let outputs = [
        "--json",
        json,
        "--textgrid",
        grid,
        "--srt",
        srt,
        "--svg",
        svg,
    ];
    assert_eq!(run(&[args, more, &outputs].concat()).unwrap(), "");
    paths.map(|path| std::fs::read_to_string(path).unwrap())
}

#[test]
fn alignments_come_in_every_format() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let args = [
        "align", &emissions, "--vocab", &vocab, TEXT, "--hop", "0.04",
    ];
    let [json, grid, srt, svg] = every_format(&demo, &args, &["--words-per-cue", "3"]);

    let value: Value = serde_json::from_str(&json).unwrap();
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

    assert!(grid.starts_with("File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n"));
    assert!(grid.contains("name = \"words\"") && grid.contains("text = \"quick\""));
    let cues: Vec<&str> = srt.trim().split("\n\n").collect();
    assert_eq!(cues.len(), 2);
    assert!(cues[0].starts_with("1\n00:00:00,") && cues[0].ends_with("the quick brown"));
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
        &["'nan' for '--partial", "finite"],
    );
}

#[test]
fn a_transcript_may_stand_in_a_file() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let file = demo.file("lines.txt", "\u{feff}the quick\r\n\r\nbrown fox\n\n");
    let (align, words) = (
        ["align", &emissions, "--vocab", &vocab],
        ["words", &emissions, "--vocab", &vocab],
    );
    let json = |more: &[&str]| -> Value {
        serde_json::from_str(&run(&[&align[..], more].concat()).unwrap()).unwrap()
    };
    let (of_file, of_text) = (json(&["--file", &file]), json(&[TEXT]));
    assert_eq!(of_file["text"], "the quick\r\n\r\nbrown fox");
    for key in ["score", "words", "tokens"] {
        assert_eq!(of_file[key], of_text[key]);
    }
    let listed = |more: &[&str]| run(&[&words[..], more].concat()).unwrap();
    assert_eq!(listed(&["--file", &file]), listed(&["--text", TEXT]));
    let part = demo.file("part.txt", "quick brown\n");
    let partial = ["--file", &part, "--partial"];
    assert_eq!(json(&partial), json(&["quick brown", "--partial"]));

    // Longer than an argument of a command may be.
    let long = demo.file("long.txt", &"fox\n".repeat(40_000));
    let empty = demo.file("empty.txt", "\n");
    let (missing, list) = (demo.path("missing.txt"), demo.path("list.tsv"));
    for args in [&align, &words] {
        let file_fails = |path, part| {
            fails(&[&args[..], &["--file", path]].concat(), &[part]);
        };
        file_fails(&long, "the transcript needs 159999 frames");
        file_fails(&empty, "the transcript is empty");
        file_fails(&missing, "missing.txt: No such file");
        let with_list = [
            args[0],
            "--vocab",
            &vocab,
            "--manifest",
            &list,
            "--file",
            &file,
        ];
        fails(&with_list, &["cannot be used with"]);
    }
    let both = [&align[..], &[TEXT, "--file", &file]].concat();
    fails(&both, &["cannot be used with"]);
    let both = [&words[..], &["--text", TEXT, "--file", &file]].concat();
    fails(&both, &["cannot be used with"]);
    fails(&align, &["<TEXT|--file <FILE>|--manifest <MANIFEST>>"]);
}

/// As a process, which has standard input.
#[cfg(feature = "cli")]
mod process {
    use super::{Demo, TEXT, fails, run};
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    /// What the program does with this standard input, which it must read.
    fn process(args: &[&str], input: &str) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ctc"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = process.stdin.take().unwrap();
        pipe.write_all(input.as_bytes()).unwrap();
        drop(pipe);
        process.wait_with_output().unwrap()
    }

    /// What the program prints, which must succeed.
    fn piped(args: &[&str], input: &str) -> Vec<u8> {
        let output = process(args, input);
        assert!(output.status.success(), "{args:?}: {output:?}");
        output.stdout
    }

    #[test]
    fn an_error_of_standard_input_names_it() {
        let demo = Demo::new(TEXT);
        let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
        let decode = ["decode", &emissions, "--vocab", &vocab, "--lexicon", "-"];
        let align = ["align", "--vocab", &vocab, "--manifest", "-"];
        let twice = [&decode[..], &["--hotwords", "-"]].concat();
        let cases: [(&[&str], &str, &str); 5] = [
            (&twice, "fox\n", "two options; name a file in all but one"),
            (&decode, "\n", "has no lines"),
            (&decode, "42\n", "can spell none of the words"),
            (&align, "\n", "has no lines"),
            (&align, "fox\n", "line 1 is \"fox\""),
        ];
        for (args, input, part) in cases {
            let output = process(args, input);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            let message = String::from_utf8(output.stderr).unwrap();
            assert!(
                message.contains("standard input") && message.contains(part),
                "{message}"
            );
        }
    }

    #[test]
    fn a_dash_is_standard_input_or_output() {
        let demo = Demo::new(TEXT);
        let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
        let list = format!("{emissions}\t{TEXT}\n");
        let lines = TEXT.replace(' ', "\n");
        let (list_file, lines_file) = (demo.file("list.tsv", &list), demo.file("lines", &lines));
        let reads: [(&[&str], &str, &str); 6] = [
            (&["align", &emissions, "--file"], &lines, &lines_file),
            (&["words", &emissions, "--file"], &lines, &lines_file),
            (&["score", &emissions, "--file"], &lines, &lines_file),
            (&["spot", &emissions, "--file"], &lines, &lines_file),
            (&["decode", &emissions, "--lexicon"], &lines, &lines_file),
            (&["align", "--manifest"], &list, &list_file),
        ];
        for (args, input, file) in reads {
            let read = |path| [args, &[path, "--vocab", &vocab]].concat();
            let expected = run(&read(file)).unwrap();
            assert_eq!(piped(&read("-"), input), expected.as_bytes(), "{args:?}");
        }
        let models = [demo.path("piped.ngram"), demo.path("read.ngram")];
        piped(&["ngram", "-", &models[0], "--estimate", "2"], &lines);
        run(&["ngram", &lines_file, &models[1], "--estimate", "2"]).unwrap();
        let [piped_model, read_model] = models.map(|path| std::fs::read(path).unwrap());
        assert_eq!(piped_model, read_model);

        let align = ["align", &emissions, TEXT, "--vocab", &vocab];
        for option in ["--json", "--textgrid", "--srt", "--svg", "--png"] {
            let file = demo.path("output");
            let to = |path| [&align[..], &[option, path]].concat();
            run(&to(&file)).unwrap();
            let expected = std::fs::read(&file).unwrap();
            assert!(piped(&to("-"), "") == expected, "{option}");
        }
        assert!(!Path::new("-").exists());
        let json = run(&[&align[..], &["--json", "-"]].concat()).unwrap();
        assert_eq!(json, run(&align).unwrap());
        let both = ["--json", "-", "--srt", "-"];
        fails(&[&align[..], &both].concat(), &["2 outputs", "-"]);
        let json = demo.path("a.json");
        let both = ["--json", &json, "--srt", "-"];
        let srt = run(&[&align[..], &both].concat()).unwrap();
        assert!(srt.starts_with("1\n00:00:00,"), "{srt}");
        fails(
            &[
                "align",
                "--manifest",
                &list_file,
                "--vocab",
                &vocab,
                "--srt",
                "-",
            ],
            &["--manifest", "a folder, not -"],
        );
        fails(
            &["ngram", &lines_file, "-", "--estimate", "2"],
            &["'-' for '<OUT>'", "name a file"],
        );
    }
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
    fails(
        &["decode", &emissions, "--vocab", &vocab, "--tensor", "a"],
        &[".npy file has", "--tensor"],
    );
    let cube = demo.npy("cube.npy", &zeros(&[2, 4, 28], DType::F32));
    with_emissions(&cube, &["[2, 4, 28]", "(T, C)"]);
    let empty = demo.npy("empty.npy", &zeros(&[0, 28], DType::F32));
    with_emissions(&empty, &["[0, 28]"]);
    let wide = demo.npy("wide.npy", &zeros(&[0, 6625], DType::F32));
    with_emissions(&wide, &["[0, 6625]", "nothing in it"]);
    let logits = demo.npy("logits.npy", &zeros(&[4, 28], DType::F32));
    with_emissions(&logits, &["frame 0", "--logits"]);
    let nan = demo.npy(
        "nan.npy",
        &(zeros(&[4, 28], DType::F32) * f64::NAN).unwrap(),
    );
    with_emissions(&nan, &["frame 0 has NaN"]);
    let probs = (zeros(&[4, 28], DType::F32) + 1.0 / 28.0).unwrap();
    let probs = demo.npy("probs.npy", &probs);
    with_emissions(&probs, &["frame 0 has probabilities", "their logarithms"]);
    // Headers that claim more than there is, in each form that candle reads.
    let claims = |version: u8, length: &[u8], header: &str| {
        let path = demo.path("claims.npy");
        let start = [b"\x93NUMPY", &[version, 0][..], length].concat();
        std::fs::write(&path, [&start, header.as_bytes(), &[0; 400]].concat()).unwrap();
        with_emissions(&path, &["its header"]);
    };
    for shape in [
        "'shape': (99999999999, 28)",
        "'shape' : (99999999999, 28)",
        "shape:(99999999999, 28)",
        "'shape': 99999999999",
        "'shape': (1, 28), 'shape': (99999999999, 28)",
        "'shape': ((), 99999999999, 28)",
        "'shape': ()(99999999999, 28)",
        "'shape': (9223372036854775808, 4, 0)",
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, {shape}, }}\n");
        claims(1, &(header.len() as u16).to_le_bytes(), &header);
    }
    claims(2, &u32::MAX.to_le_bytes(), "{}");

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
    with(&["--beam", "0"], &["--beam"]);
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

/// The numbers behind `key`, in the order of a text.
fn numbers(text: &str, key: &str) -> Vec<f64> {
    let lines = text.lines().map(str::trim);
    let values = lines.filter_map(|line| line.strip_prefix(key));
    values.map(|value| value.parse().unwrap()).collect()
}

fn times(value: &Value) -> (f64, f64) {
    let [start, end] = ["start", "end"].map(|edge| value[edge].as_f64().unwrap());
    (start, end)
}

#[test]
fn every_format_of_a_partial_transcript_has_the_times_of_the_whole_audio() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let part = "quick brown";
    let args = ["align", &emissions, "--vocab", &vocab, part, "--partial"];
    let [json, grid, srt, svg] = every_format(&demo, &args, &[]);
    let whole = run(&["align", &emissions, "--vocab", &vocab, TEXT]).unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let value: Value = serde_json::from_str(&json).unwrap();
    let duration = value["duration"].as_f64().unwrap();
    let words: Vec<(f64, f64)> = value["words"]
        .as_array()
        .unwrap()
        .iter()
        .map(times)
        .collect();
    // The emissions are sure of each letter, so that the words stand where they do in the whole transcript.
    assert_eq!(
        words,
        [times(&whole["words"][1]), times(&whole["words"][2])]
    );

    // The tier of words: silence, quick, silence, brown, silence.
    let tier = grid.split("name = \"words\"").nth(1).unwrap();
    let tier = tier.split("name = \"tokens\"").next().unwrap();
    let texts: Vec<&str> = tier
        .lines()
        .filter_map(|l| l.trim().strip_prefix("text = "))
        .collect();
    assert_eq!(texts, ["\"\"", "\"quick\"", "\"\"", "\"brown\"", "\"\""]);
    let (quick, brown) = (words[0], words[1]);
    // The first number of each is that of the tier.
    let starts = [0.0, 0.0, quick.0, quick.1, brown.0, brown.1];
    assert_eq!(numbers(tier, "xmin = ")[..6], starts);
    let ends = [duration, quick.0, quick.1, brown.0, brown.1, duration];
    assert_eq!(numbers(tier, "xmax = ")[..6], ends);

    let stamp = |seconds: f64| format!("00:00:{:06.3}", seconds).replace('.', ",");
    let cue = format!("1\n{} --> {}\n{part}\n", stamp(quick.0), stamp(brown.1));
    assert_eq!(srt.trim_end(), cue.trim_end());

    // The path in the picture is in a token's row in the frames of the token, and in a blank's else.
    let points = svg
        .split("points=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let heights = points
        .split(' ')
        .map(|p| p.split_once(',').unwrap().1.parse::<f64>().unwrap());
    let heights: Vec<f64> = heights.collect();
    assert_eq!(heights.len(), (duration / 0.02).round() as usize);
    let mut rows = heights.clone();
    rows.dedup();
    let tokens = value["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), part.len());
    let row_height = heights[heights.len() - 1] - heights[0];
    let row_height = row_height / (2 * tokens.len()) as f64;
    for (frame, height) in heights.iter().enumerate() {
        let row = ((height - heights[0]) / row_height).round() as usize;
        let middle = (frame as f64 + 0.5) * 0.02;
        let token = tokens.iter().position(|token| {
            let (start, end) = times(token);
            start < middle && middle < end
        });
        match token {
            Some(token) => assert_eq!(row, 2 * token + 1, "frame {frame}"),
            None => assert_eq!(row % 2, 0, "frame {frame}"),
        }
    }
    let labels: Vec<&str> = svg.split("text-anchor=\"end\"").skip(1).collect();
    let label = |text: &&str| {
        text.split('>')
            .nth(1)
            .unwrap()
            .trim()
            .chars()
            .next()
            .unwrap()
    };
    let labels: String = labels.iter().map(label).collect();
    assert_eq!(labels, part.replace(' ', "|"));
}

#[test]
fn a_png_shows_the_heat_map_and_the_path() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let [png, svg] = ["a.png", "a.svg"].map(|name| demo.path(name));
    let args = [
        "align", &emissions, "--vocab", &vocab, TEXT, "--png", &png, "--svg", &svg,
    ];
    assert_eq!(run(&args).unwrap(), "");
    let picture = image::open(&png).unwrap().to_rgb8();
    // Two pixels for each unit of the SVG.
    let svg = std::fs::read_to_string(svg).unwrap();
    let attribute = |name: &str| -> u32 {
        let value = svg.split(&format!(" {name}=\"")).nth(1).unwrap();
        value.split('"').next().unwrap().parse().unwrap()
    };
    let (width, height) = picture.dimensions();
    assert_eq!(
        (width, height),
        (2 * attribute("width"), 2 * attribute("height"))
    );
    let points = svg
        .split("points=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let points: Vec<&str> = points.split(' ').collect();
    // The ends of the line are within a pixel.
    for point in &points[1..points.len() - 1] {
        let (x, y) = point.split_once(',').unwrap();
        let [x, y] = [x, y].map(|v| (2.0 * v.parse::<f64>().unwrap()) as u32);
        assert_eq!(
            picture.get_pixel(x, y).0,
            [0xe4, 0x57, 0x2e],
            "the path at {point}"
        );
    }
    // Dark ink of the score and of the words, in the rows above the lattice.
    let dark = |y: u32| (0..width).any(|x| picture.get_pixel(x, y).0 == [0x33; 3]);
    assert!((20..44).any(dark) && (70..90).any(dark));
    // The dark blue of probable tokens.
    let blue = |pixel: &&image::Rgb<u8>| pixel.0[2].saturating_sub(pixel.0[0]) > 80;
    assert!(picture.pixels().filter(blue).count() > 1000);
}

/// Two demos and a manifest of them, with a line for a file that is missing between them.
fn two_demos() -> (Demo, Demo, String) {
    let (one, two) = (Demo::new(TEXT), Demo::new("hello world"));
    std::fs::rename(two.path("emissions.npy"), one.path("second.npy")).unwrap();
    let lines = [
        format!("{}\t{TEXT}", one.path("emissions.npy")),
        String::new(),
        format!("{}\twho knows", one.path("missing.npy")),
        format!("{}\thello world", one.path("second.npy")),
    ];
    let manifest = one.file("list.tsv", &lines.join("\n"));
    (one, two, manifest)
}

#[test]
fn of_several_files_one_that_fails_is_named_and_the_others_run() {
    let (demo, _folder, manifest) = two_demos();
    let vocab = demo.path("vocab.json");
    let [first, missing, second] =
        ["emissions.npy", "missing.npy", "second.npy"].map(|n| demo.path(n));
    let only_missing = |printed: &Printed| {
        assert_eq!(printed.failed, 1);
        let lines: Vec<&str> = printed.err.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(&format!("error: {missing}: cannot read it: No such file")));
        assert_eq!(lines[1], "error: 1 of 3 failed");
    };
    let json = |line: &str| -> Value { serde_json::from_str(line).unwrap() };

    let decode = ["decode", &first, &missing, &second, "--vocab", &vocab];
    let printed = try_all(&decode).unwrap();
    only_missing(&printed);
    let columns = |line: &str| -> Vec<String> { line.split('\t').map(str::to_owned).collect() };
    let rows: Vec<_> = printed.out.lines().map(columns).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0][0], &rows[0][2][..]), (&first, TEXT));
    assert_eq!((&rows[1][0], &rows[1][2][..]), (&second, "hello world"));
    let printed = try_all(&[&decode[..], &["--json"]].concat()).unwrap();
    only_missing(&printed);
    let found: Vec<Value> = printed.out.lines().map(json).collect();
    assert_eq!(found[1]["file"], second.as_str());
    assert_eq!(found[1]["hypotheses"][0]["text"], "hello world");

    let printed = try_all(&["align", "--vocab", &vocab, "--manifest", &manifest]).unwrap();
    only_missing(&printed);
    let found: Vec<Value> = printed.out.lines().map(json).collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["file"], first.as_str());
    assert_eq!(found[1]["words"][1]["text"], "world");

    let printed = try_all(&["words", "--vocab", &vocab, "--manifest", &manifest]).unwrap();
    only_missing(&printed);
    let rows: Vec<_> = printed.out.lines().map(columns).collect();
    assert_eq!(
        rows[0],
        ["file", "word", "start", "end", "score", "confidence"]
    );
    assert_eq!(rows.len(), 1 + 4 + 2);
    assert_eq!(rows[6][..2], [second.clone(), "world".to_owned()]);
}

#[test]
fn a_table_without_rows_has_no_header() {
    let demo = Demo::new(TEXT);
    let (missing, vocab) = (demo.path("missing.npy"), demo.path("vocab.json"));
    let emissions = demo.path("emissions.npy");
    for more in [
        &["score", &missing, "fox"][..],
        &["words", &missing],
        &["words", &missing, &missing],
        &["spot", &missing, "fox"],
        &["score", &emissions, "42"],
    ] {
        let printed = try_all(&[more, &["--vocab", &vocab]].concat()).unwrap();
        assert!(printed.failed > 0, "{more:?}");
        assert_eq!(printed.out, "", "{more:?}");
    }
    // It stands above the first file that works.
    let args = ["words", &missing, &emissions, "--vocab", &vocab];
    let printed = try_all(&args).unwrap();
    assert!(printed.out.starts_with("file\tword\t"), "{}", printed.out);
    assert_eq!(printed.out.matches("confidence").count(), 1);
    // Phrases that stand nowhere are a result.
    let none = ["spot", &emissions, "zzz", "--vocab", &vocab];
    let out = run(&none).unwrap();
    assert_eq!(out, "phrase\tstart\tend\tscore\tper token\n");
}

#[test]
fn outputs_of_several_files_go_to_folders() {
    let (demo, _folder, manifest) = two_demos();
    let vocab = demo.path("vocab.json");
    let (grids, png) = (demo.path("grids"), demo.path("deep/png"));
    let args = [
        "align",
        "--vocab",
        &vocab,
        "--manifest",
        &manifest,
        "--textgrid",
        &grids,
        "--png",
        &png,
    ];
    let printed = try_all(&args).unwrap();
    assert_eq!((printed.failed, &printed.out[..]), (1, ""));
    for (name, word) in [("emissions", "quick"), ("second", "world")] {
        let grid = std::fs::read_to_string(format!("{grids}/{name}.TextGrid")).unwrap();
        assert!(grid.contains(&format!("text = \"{word}\"")));
        assert!(Path::new(&format!("{png}/{name}.png")).exists());
    }
    let twice = demo.file("twice.tsv", "a/x.npy\ta\nb/x.npy\tb\n");
    let args = [
        "align",
        "--vocab",
        &vocab,
        "--manifest",
        &twice,
        "--srt",
        &grids,
    ];
    fails(&args, &["a/x.npy", "b/x.npy", "same name"]);
}

#[test]
fn a_manifest_ranks_the_transcripts_of_each_file() {
    let (demo, _folder, _) = two_demos();
    let vocab = demo.path("vocab.json");
    let [first, second] = ["emissions.npy", "second.npy"].map(|name| demo.path(name));
    let lines = [
        format!("{first}\ta fox"),
        format!("{second}\thello world"),
        format!("{first}\t{TEXT}"),
    ];
    let manifest = demo.file("candidates.tsv", &lines.join("\n"));
    let out = run(&["score", "--vocab", &vocab, "--manifest", &manifest]).unwrap();
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        rows[0],
        ["file", "log-likelihood", "per token", "share", "transcript"]
    );
    let files_and_texts: Vec<_> = rows[1..].iter().map(|row| (row[0], row[4])).collect();
    let expected = [(&first, TEXT), (&first, "a fox"), (&second, "hello world")];
    assert_eq!(
        files_and_texts,
        expected.map(|(file, text)| (file.as_str(), text))
    );
    // The share is among the transcripts of the file.
    assert_eq!(rows[3][3], "1.0000");

    let score = ["score", "--vocab", &vocab, "--manifest"];
    let bad = demo.file("bad.tsv", "a.npy\ttext\nb.npy text\n");
    fails(
        &[&score[..], &[&bad]].concat(),
        &["bad.tsv", "line 2", "a tab"],
    );
    let empty = demo.file("empty.tsv", "\n");
    fails(
        &[&score[..], &[&empty]].concat(),
        &["empty.tsv", "no lines"],
    );
    let missing = demo.path("missing.tsv");
    fails(
        &[&score[..], &[&missing]].concat(),
        &["cannot read", "missing.tsv"],
    );
    fails(
        &[&score[..], &[&bad, &first]].concat(),
        &["cannot be used with"],
    );
}

#[test]
fn words_have_times_scores_and_confidences() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let words = ["words", &emissions, "--vocab", &vocab, "--hop", "0.04"];
    let found = run(&words).unwrap();
    let given = run(&[&words[..], &["--text", TEXT]].concat()).unwrap();
    // The emissions are sure: what is found is the text, and where.
    assert_eq!(found, given);
    let align = [
        "align", &emissions, "--vocab", &vocab, TEXT, "--hop", "0.04",
    ];
    let aligned: Value = serde_json::from_str(&run(&align).unwrap()).unwrap();
    let json = run(&[&words[..], &["--text", TEXT, "--json"]].concat()).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let rows: Vec<Vec<&str>> = given
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows[0], ["word", "start", "end", "score", "confidence"]);
    assert_eq!(rows.len(), 5);
    for (index, row) in rows[1..].iter().enumerate() {
        let (word, aligned) = (&json[index], &aligned["words"][index]);
        assert_eq!(row[0], aligned["text"].as_str().unwrap());
        for (column, key) in ["text", "start", "end", "score", "confidence"]
            .iter()
            .enumerate()
        {
            if *key != "confidence" {
                assert_eq!(word[key], aligned[key]);
            }
            if *key != "text" {
                let printed: f64 = row[column].parse().unwrap();
                assert!((printed - word[key].as_f64().unwrap()).abs() < 1e-3);
            }
        }
    }
    let confidences = |text: &str, more: &[&str]| -> Vec<Option<f64>> {
        let out = run(&[&words[..], &["--text", text, "--json"], more].concat()).unwrap();
        let value: Value = serde_json::from_str(&out).unwrap();
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word["confidence"].as_f64())
            .collect()
    };
    let right = confidences(TEXT, &[]);
    assert!(right.iter().all(|word| word.unwrap() > 0.7), "{right:?}");
    // One wrong word is the one that is not believed.
    let wrong = confidences("the quick brawn fox", &[]);
    assert!(
        wrong[2].unwrap() < 0.1 && wrong[1].unwrap() > 0.7,
        "{wrong:?}"
    );
    // A part, and what is between text that cannot be spelled, are rated by their own frames.
    let near = |found: &[Option<f64>], expected: &[Option<f64>]| {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            match (found, expected) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 0.05),
                (None, None) => {}
                _ => panic!("{found:?} {expected:?}"),
            }
        }
    };
    near(&confidences("quick brown", &["--partial"]), &right[1..3]);
    near(
        &confidences("the 42 brown fox", &["--lossy"]),
        &[right[0], None, right[2], right[3]],
    );
    let dashed = run(&[&words[..], &["--text", "the 42 brown fox", "--lossy"]].concat()).unwrap();
    assert!(dashed.lines().nth(2).unwrap().starts_with("42\t") && dashed.contains("\t-\n"));
    // Silence has no words.
    let silence = demo.npy(
        "silence.npy",
        &Tensor::new(&[[0f32, -80., -80.]; 9], &Device::Cpu).unwrap(),
    );
    let three = demo.file("three.txt", "<pad>\n|\na\n");
    let out = run(&["words", &silence, "--vocab", &three, "--json"]).unwrap();
    assert_eq!(out, "[]\n");
    fails(&[&words[..], &["--lossy"]].concat(), &["--text"]);
}

#[test]
fn text_that_cannot_be_spelled_stands_for_any_audio_with_lossy() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let whole = run(&["align", &emissions, "--vocab", &vocab, TEXT]).unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let align = ["align", &emissions, "--vocab", &vocab, "the 42 brown f0x!"];
    fails(&align, &[&emissions, "\"4\" at character 5", "--lossy"]);
    for lossy in ["--lossy", "--lossy=0.8"] {
        let printed = try_all(&[&align[..], &[lossy]].concat()).unwrap();
        let notes: Vec<&str> = printed.err.lines().collect();
        let note = |part: &str| {
            format!(
                "note: {emissions}: the vocabulary cannot spell {part} of {:?}",
                align[4]
            )
        };
        let expected = [
            "\"42\" at character 5",
            "\"0\" at character 15",
            "\"!\" at character 17",
        ];
        assert_eq!(notes, expected.map(note));
        let value: Value = serde_json::from_str(&printed.out).unwrap();
        let words = value["words"].as_array().unwrap();
        let texts: Vec<&str> = words
            .iter()
            .map(|word| word["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts, ["the", "42", "brown", "f0x!"]);
        // The words that are spelled stand where they do in the right transcript; 42 stands for "quick".
        for index in 0..3 {
            assert_eq!(
                times(&words[index]),
                times(&whole["words"][index]),
                "{}",
                words[index]
            );
        }
        assert_eq!(words[3]["start"], whole["words"][3]["start"]);
        let tokens = value["tokens"].as_array().unwrap().iter();
        let tokens: Vec<&str> = tokens
            .map(|token| token["text"].as_str().unwrap())
            .collect();
        assert_eq!(tokens.concat(), "the|42|brown|f0x!");
    }
    // The character that stands for a star while a text is aligned may be in the text.
    let broken = [&align[..4], &["the \u{fffd}u1ck brown fox", "--lossy"]].concat();
    let value: Value = serde_json::from_str(&run(&broken).unwrap()).unwrap();
    assert_eq!(value["words"][1]["text"], "\u{fffd}u1ck");
    // The text tells where a word begins and ends, where tokens mark words and the star does not.
    let frames = Tensor::zeros((9, 3), DType::F32, &Device::Cpu).unwrap();
    let uniform = demo.npy("uniform.npy", &frames);
    for (name, tokens) in [
        ("begins.json", r#"["<blk>", "▁a", "▁b"]"#),
        ("ends.json", r#"["<blk>", "a</w>", "b</w>"]"#),
    ] {
        let vocab = demo.file(name, tokens);
        let words = ["words", &uniform, "--vocab", &vocab, "--logits", "--lossy"];
        let out = run(&[&words[..], &["--text", "a 42 b", "--json"]].concat()).unwrap();
        let value: Value = serde_json::from_str(&out).unwrap();
        let words: Vec<&str> = value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word["text"].as_str().unwrap())
            .collect();
        assert_eq!(words, ["a", "42", "b"], "{name}");
        assert_eq!(value[1]["confidence"], Value::Null);
        assert!(value[2]["confidence"].is_number());
        // One star may stand for several words: they are one line of a table.
        let lines = ["words", &uniform, "--vocab", &vocab, "--logits", "--lossy"];
        let out = run(&[&lines[..], &["--text", "a 4\n2 b"]].concat()).unwrap();
        assert_eq!(out.lines().count(), 4, "{out}");
        assert!(out.lines().nth(2).unwrap().starts_with("4 2\t"), "{out}");
    }
    let (srt, svg) = (demo.path("a.srt"), demo.path("a.svg"));
    let outputs = ["--lossy", "--srt", &srt, "--svg", &svg];
    assert!(run(&[&align[..], &outputs].concat()).is_ok());
    assert!(
        std::fs::read_to_string(srt)
            .unwrap()
            .contains("the 42 brown f0x!")
    );
    assert!(std::fs::read_to_string(svg).unwrap().contains("42"));
    fails(
        &[&align[..], &["--lossy=nan"]].concat(),
        &["'nan' for '--lossy", "finite"],
    );
}

#[test]
fn a_sentence_with_punctuation_and_capitals_is_scored_and_aligned_with_skip() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let sentence = "The quick, brown fox!";
    let notes = [(",", 10), ("!", 21)].map(|(text, position)| {
        format!(
            "note: {emissions}: the vocabulary cannot spell {text:?} at character {position} of \
             {sentence:?}"
        )
    });
    let (emissions, vocab) = (emissions.as_str(), vocab.as_str());
    let command = |name| [name, emissions, "--vocab", vocab];
    for (name, text) in [("score", None), ("align", None), ("words", Some("--text"))] {
        let with = |sentence, skip: bool| {
            let text: Vec<&str> = text.into_iter().chain([sentence]).collect();
            let skip: &[&str] = if skip { &["--skip"] } else { &[] };
            try_all(&[&command(name)[..], &text, skip].concat())
        };
        let plain = with(TEXT, false).unwrap();
        let skipped = with(sentence, true).unwrap();
        assert_eq!(skipped.err.lines().collect::<Vec<_>>(), notes, "{name}");
        // The same figures; only the transcript reads as it was written.
        let read = |out: &str| out.replace(sentence, TEXT);
        assert_eq!(read(&skipped.out), read(&plain.out), "{name}");
        let refused = with(sentence, false).unwrap();
        assert_eq!(refused.failed, 1);
        assert!(
            refused.err.contains("\",\" at character 10") && refused.err.contains("--skip"),
            "{}",
            refused.err
        );
    }
    // A vocabulary that cannot mark the word.
    let frames = Tensor::zeros((9, 5), DType::F32, &Device::Cpu).unwrap();
    let uniform = demo.npy("uniform.npy", &frames);
    let pieces = demo.file("pieces.json", r#"["<blk>", "▁the", "c", "a", "t"]"#);
    let align = ["align", &uniform, "--vocab", &pieces, "cat"];
    let unmarked = [&align[..], &["--logits", "--skip"]].concat();
    let printed = try_all(&unmarked).unwrap();
    assert_eq!(
        printed.err,
        format!(
            "note: {uniform}: no token of the vocabulary begins or ends a word at character 1 of \"cat\"\n"
        )
    );
    // Of a long text, a note has the beginning alone.
    let long = format!("the!{}", " fox".repeat(300));
    let printed = try_all(&[&command("score")[..], &[&long, "--skip"]].concat()).unwrap();
    let expected = format!(
        "\"!\" at character 4 of {:?}\n",
        format!("{}…", &long[..60])
    );
    assert!(printed.err.ends_with(&expected), "{}", printed.err);
    // A letter with a combining accent is one character, as in an error.
    let accent = "fe\u{301}x 5";
    let printed = try_all(&[&command("score")[..], &[accent, "--skip"]].concat()).unwrap();
    let ends = |number: usize| format!("at character {number} of {accent:?}");
    let found: Vec<&str> = printed.err.lines().collect();
    assert!(
        found.len() == 2 && found[0].ends_with(&ends(2)) && found[1].ends_with(&ends(5)),
        "{found:?}"
    );
    fails(
        &[&command("align")[..], &["42!", "--skip"]].concat(),
        &["can spell nothing of the transcript \"42!\""],
    );
    let both = [&command("align")[..], &[sentence, "--skip", "--lossy"]].concat();
    fails(&both, &["cannot be used with"]);
    let no_text = [&command("words")[..], &["--skip"]].concat();
    fails(&no_text, &["--text"]);
}

#[test]
fn decoding_knows_words_of_a_model_a_lexicon_and_hotwords() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    // So wide that the scores are those of the transcripts, whatever else is in the beam.
    let decode = ["decode", &emissions, "--vocab", &vocab, "--beam", "2000"];
    let first = |more: &[&str]| -> (f64, String) {
        let out = run(&[&decode[..], more].concat()).unwrap();
        let (score, text) = out.lines().next().unwrap().split_once('\t').unwrap();
        (score.parse().unwrap(), text.to_owned())
    };
    let plain = first(&[]);
    assert_eq!(plain.1, TEXT);

    // Of words that do not include "brown", the nearest are found; it is written in the lexicon in two ways.
    let words = demo.file(
        "words.txt",
        "the\nquick\nbrawn b r a w n\n\nbrawn b r a n |\nfox\n",
    );
    let listed = first(&["--lexicon", &words]);
    assert_eq!(listed.1, "the quick brawn fox");
    assert!(listed.0 < plain.0);
    // A word that is not listed costs 1, so it is cheaper than a wrong one. Each word adds 0.5.
    let others = first(&["--lexicon", &words, "--unknown", "-1", "--beta", "0.5"]);
    assert_eq!(others.1, TEXT);
    assert!(
        (others.0 - (plain.0 - 1.0 + 4.0 * 0.5)).abs() < 2e-4,
        "{others:?} {plain:?}"
    );

    let arpa = "\\data\\\nngram 1=7\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 the\n-1 quick\n-1 brawn\n-1 fox\n-1 42\n\\end\\\n";
    let arpa = demo.file("lm.arpa", arpa);
    let printed = try_all(&[&decode[..], &["--lm", &arpa, "--alpha", "0.5"]].concat()).unwrap();
    assert!(
        printed.out.ends_with("\tthe quick brawn fox\n"),
        "{}",
        printed.out
    );
    assert_eq!(
        printed.err,
        "note: these words of the language model are left out, since the vocabulary cannot spell each as \
         one word: \"42\"\n"
    );
    // Four words and the end, each of a tenth.
    let score: f64 = printed.out.split('\t').next().unwrap().parse().unwrap();
    let emissions_alone = first(&[
        "--lexicon",
        &demo.file("one.txt", "the\nquick\nbrawn\nfox\n"),
    ])
    .0;
    let model = 0.5 * 5.0 * 0.1f64.ln();
    assert!(
        (score - (emissions_alone + model)).abs() < 2e-4,
        "{score} {emissions_alone}"
    );

    // The same model in the form that is mapped, and once more rounded: there are only two values.
    let (mapped, rounded) = (demo.path("lm.ngram"), demo.path("rounded.ngram"));
    let written = run(&["ngram", &arpa, &mapped]).unwrap();
    assert_eq!(written, format!("wrote {mapped}: order 1, 7 n-grams\n"));
    let written = run(&["ngram", &mapped, &rounded, "--quantise"]).unwrap();
    assert!(written.ends_with("7 n-grams, rounded\n"), "{written}");
    for model in [&mapped, &rounded] {
        let again = try_all(&[&decode[..], &["--lm", model, "--alpha", "0.5"]].concat()).unwrap();
        assert_eq!((&again.out, &again.err), (&printed.out, &printed.err));
    }
    fails(&["ngram", "no.arpa", &mapped], &["no.arpa"]);
    let text = demo.file("lines.txt", "the quick brown fox\n");
    for args in [
        &["ngram", &text, &mapped][..],
        &[&decode[..], &["--lm", &text]].concat(),
    ] {
        fails(args, &["lines.txt", "ARPA", "--estimate ORDER"]);
    }
    // On a terminal, a file and a pipe.
    let decoded = |path: &str| {
        let args = [&decode[..], &["--lm", path, "--alpha", "0.5"]].concat();
        on_console(&args, true).unwrap().out
    };
    assert_eq!(decoded(&arpa), printed.out);
    #[cfg(target_os = "linux")]
    {
        let pipe = demo.path("pipe");
        crate::ngram::pipe(pipe.as_ref());
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::copy(&arpa, &pipe).unwrap());
            assert_eq!(decoded(&pipe), printed.out);
        });
    }
    // "brown" stands nowhere in the text.
    let text = demo.file("text.txt", "the quick brawn fox\n\nthe fox\n");
    let written = run(&["ngram", &text, &mapped, "--estimate", "2"]).unwrap();
    assert!(written.ends_with("order 2, 7 + 6 n-grams\n"), "{written}");
    assert_eq!(first(&["--lm", &mapped]).1, "the quick brawn fox");
    let empty = demo.file("empty.txt", "\n");
    fails(
        &["ngram", &empty, &mapped, "--estimate", "255"],
        &["--estimate: there are no sentences"],
    );

    let names = demo.file("names.txt", "box\t12\nzebra\n");
    let fox = demo.file("fox.txt", "fox\n");
    let shunned = first(&["--hotwords", &fox, "--boost", "-2"]);
    assert!(shunned.0 < plain.0 - 1.0, "{shunned:?} {plain:?}");
    let preferred = first(&["--hotwords", &names]);
    assert_eq!(preferred.1, "the quick brown box");
    let words_too = run(&["words", &emissions, "--vocab", &vocab, "--hotwords", &names]).unwrap();
    assert!(
        words_too.lines().last().unwrap().starts_with("box\t"),
        "{words_too}"
    );

    let broken = demo.file("broken.txt", "the\nquick q u ! c k\n");
    fails(
        &[&decode[..], &["--lexicon", &broken]].concat(),
        &[&broken, "line 2", "\"!\""],
    );
    let broken = demo.file("boosts.txt", "fox\tmuch\n");
    fails(
        &[&decode[..], &["--hotwords", &broken]].concat(),
        &[&broken, "line 1", "\"much\""],
    );
    let none = demo.file("none.txt", "\n");
    fails(
        &[&decode[..], &["--hotwords", &none]].concat(),
        &["no lines"],
    );
    fails(&[&decode[..], &["--lm", &none]].concat(), &[&none, "ARPA"]);
    fails(&[&decode[..], &["--beta", "1"]].concat(), &["--lexicon"]);
    fails(
        &[&decode[..], &["--greedy", "--lm", &arpa]].concat(),
        &["cannot be used with"],
    );
}

#[test]
fn a_word_that_the_vocabulary_spells_as_several_is_left_out_of_a_lexicon() {
    let demo = Demo::new("a");
    // Punctuation is a word of its own.
    let vocab = r###"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "-": 4, "##b": 5}}}"###;
    let vocab = demo.file("tokenizer.json", vocab);
    let row = |likely: usize| -> Vec<f32> {
        let prob = |class| if class == likely { 0.75 } else { 0.05 };
        (0..6).map(prob).collect()
    };
    let probs = Tensor::new(vec![row(2), row(5)], &Device::Cpu).unwrap();
    let emissions = demo.npy("ab.npy", &probs.log().unwrap());
    let decode = |words: &str| {
        let words = demo.file("words.txt", words);
        let args = ["decode", &emissions, "--vocab", &vocab, "--lexicon", &words];
        try_all(&args).map(|printed| (printed.out, printed.err))
    };
    let (out, err) = decode("a-b\nab\n").unwrap();
    assert!(out.ends_with("\tab\n"), "{out}");
    let note = "note: these words of the lexicon are left out, since the vocabulary cannot spell each as \
                one word: \"a-b\"\n";
    assert_eq!(err, note);
    let error = decode("a-b\n").unwrap_err();
    let expected = "none of the words: it spells \"a-b\" as several words, \"a - b\"";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_word_of_a_lexicon_may_have_several_tokens_that_are_units() {
    let demo = Demo::new("a");
    // Nothing marks words, and many tokens have several letters: each is a unit, with spaces between them.
    let vocab = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"[PAD]": 0, "ab": 1, "cd": 2, "a": 3, "b": 4, "c": 5, "d": 6},
            "merges": [["a", "b"], ["c", "d"]]}}"#;
    let vocab = demo.file("tokenizer.json", vocab);
    let row = |likely: usize| -> Vec<f32> {
        let prob = |class| if class == likely { 0.7 } else { 0.05 };
        (0..7).map(prob).collect()
    };
    let probs = Tensor::new(vec![row(1), row(2)], &Device::Cpu).unwrap();
    let emissions = demo.npy("abcd.npy", &probs.log().unwrap());
    let words = demo.file("words.txt", "abcd\n");
    let args = ["decode", &emissions, "--vocab", &vocab, "--lexicon", &words];
    let printed = try_all(&args).unwrap();
    assert!(printed.out.ends_with("\tab cd\n"), "{}", printed.out);
    assert_eq!(printed.err, "");
}

#[test]
fn an_entry_that_no_distribution_has_is_named_with_its_frame_and_class() {
    let demo = Demo::new("a");
    let vocab = demo.file("three.txt", "<pad>\n|\na\n");
    let good = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
    let (inf, none) = (f32::INFINITY, f32::NEG_INFINITY);
    for (bad, part) in [
        ([0.0, 0.0, f32::NAN], "NaN at class 2"),
        ([0.0, inf, 0.0], "inf at class 1"),
        ([none, inf, 0.0], "inf at class 1"),
        ([none; 3], "-inf at every class"),
    ] {
        let frames = Tensor::new(&[good, bad], &Device::Cpu).unwrap();
        let emissions = demo.npy("bad.npy", &frames);
        let decode = ["decode", &emissions, "--vocab", &vocab];
        for logits in [&["--logits"][..], &[]] {
            let args = [&decode[..], logits].concat();
            fails(
                &args,
                &["bad.npy", &format!("frame 1 has {part}; expected a number")],
            );
        }
    }
    // -inf beside numbers is no error.
    let sure = Tensor::new(&[[none, none, 0.0]], &Device::Cpu).unwrap();
    let emissions = demo.npy("sure.npy", &sure);
    for logits in [&["--logits"][..], &[]] {
        let args = [&["decode", &emissions, "--vocab", &vocab], logits].concat();
        assert!(run(&args).unwrap().ends_with("\ta\n"));
    }
}

#[test]
fn averaged_log_probabilities_are_normalised_on_demand() {
    let demo = Demo::new(TEXT);
    let vocab = demo.path("vocab.json");
    let one = Tensor::read_npy(demo.path("emissions.npy")).unwrap();
    let uniform = (one.zeros_like().unwrap() - 28f64.ln()).unwrap();
    let average = ((one + uniform).unwrap() / 2.0).unwrap();
    let sum = average
        .exp()
        .unwrap()
        .sum(1)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()[0];
    let average = demo.npy("average.npy", &average);
    let decode = ["decode", &average, "--vocab", &vocab];
    let sum = format!("frame 0 sum to {sum:.4}, not to 1");
    fails(&decode, &[&sum, "--logits", "average"]);
    let out = run(&[&decode[..], &["--logits"]].concat()).unwrap();
    assert!(out.ends_with(&format!("\t{TEXT}\n")), "{out}");
}

/// An ARPA file of 1-grams.
fn unigrams(words: &str) -> String {
    let lines: String = words
        .split(' ')
        .map(|word| format!("-1 {word}\n"))
        .collect();
    let count = lines.lines().count() + 2;
    format!("\\data\\\nngram 1={count}\n\n\\1-grams:\n-99 <s>\n-1 </s>\n{lines}\\end\\\n")
}

#[test]
fn a_note_tells_of_words_that_a_search_cannot_find() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let notes = |more: &[&str]| {
        let args = [&["decode", &emissions, "--vocab", &vocab], more].concat();
        try_all(&args).unwrap().err
    };
    let model = demo.file("lm.arpa", &unigrams(TEXT));
    let lexicon = demo.file("words.txt", &TEXT.replace(' ', "\n"));
    let names = "fox\nQuick BROWN\nbox\t3\nfox box\nanya\nzed\nyann\njo\t-2\n";
    let names = demo.file("names.txt", names);
    for (option, file, list) in [
        ("--lm", &model, "language model"),
        ("--lexicon", &lexicon, "lexicon"),
    ] {
        let printed = notes(&[option, file, "--hotwords", &names]);
        let expected = format!(
            "note: these hotwords cannot be found, since the {list} lacks words of theirs in this spelling: \"box\", \
             \"fox box\", \"anya\" and 2 more; --unknown lets the search find other words\n"
        );
        assert_eq!(printed, expected);
        let known = demo.file("known.txt", "fox\nquick brown\n");
        assert_eq!(notes(&[option, file, "--hotwords", &known]), "");
    }
    assert_eq!(notes(&["--hotwords", &names]), "");
    assert_eq!(
        notes(&[
            "--lexicon",
            &lexicon,
            "--hotwords",
            &names,
            "--unknown",
            "-1"
        ]),
        ""
    );

    // Unless the model knows <unk>, other words have -100 as their log10.
    let unknown = ["--unknown", "-1", "--hotwords", &names];
    let printed = notes(&[&["--lm", &model][..], &unknown].concat());
    assert!(
        printed.lines().count() == 1
            && printed.contains("no <unk>")
            && printed.contains("-230.3 nats"),
        "{printed}"
    );
    assert_eq!(notes(&["--lm", &model]), "");
    // At a small weight they cost little.
    for alpha in ["0", "0.4"] {
        let weighted = ["--lm", &model, "--alpha", alpha];
        assert_eq!(notes(&[&weighted[..], &unknown].concat()), "");
    }
    // Tuning tells of it once, however many weights it tries, and whichever comes first.
    let list = demo.file("list.tsv", &format!("{emissions}\t{TEXT}\n"));
    let tune = |alphas: &str| {
        let files = ["--manifest", &list, "--vocab", &vocab, "--lm", &model];
        let grid = [
            "--unknown",
            "-1",
            "--alphas",
            alphas,
            "--betas",
            "0,1",
            "--rounds",
            "0",
        ];
        try_all(&[&["tune"][..], &files, &grid].concat())
            .unwrap()
            .err
    };
    assert_eq!(tune("0,0.4"), "");
    assert_eq!(tune("0,1,2"), printed);
    let open = demo.file("open.arpa", &unigrams(&format!("{TEXT} <unk>")));
    assert_eq!(notes(&[&["--lm", &open][..], &unknown].concat()), "");
}

#[test]
fn no_note_names_a_hotword_that_a_search_can_find() {
    let demo = Demo::new("a");
    let notes = |tokens: &[&str], words: &str, names: &str| {
        let vocab = demo.file("tokens.txt", &tokens.join("\n"));
        let frames = Tensor::zeros((9, tokens.len()), DType::F32, &Device::Cpu).unwrap();
        let emissions = demo.npy("uniform.npy", &frames);
        let (words, names) = (demo.file("words.txt", words), demo.file("names.txt", names));
        let decode = ["decode", &emissions, "--logits", "--vocab", &vocab];
        let files = ["--lexicon", &words, "--hotwords", &names];
        try_all(&[&decode[..], &files].concat()).unwrap().err
    };
    // It stands within a word.
    assert_eq!(notes(&["<pad>", "王", "小", "明"], "王小明", "小明"), "");
    // It stands behind another word.
    let marked = ["<pad>", "fox", "Ġfox", "dog"];
    assert_eq!(notes(&marked, "dog\nfox Ġfox", "fox"), "");
    // The lexicon has the word, but not as the search for hotwords spells it.
    let letters = ["<pad>", "|", "r", "e", "a", "d", "iy"];
    let printed = notes(&letters, "read r iy d\nred", "read\nred");
    assert!(
        printed.contains("since the lexicon lacks words of theirs in this spelling: \"read\"; "),
        "{printed}"
    );
}

#[test]
fn words_of_a_lexicon_that_cannot_be_spelled_are_left_out_with_a_note() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let decode = ["decode", &emissions, "--vocab", &vocab, "--lexicon"];
    let note = |words: &str| {
        format!(
            "note: these words of the lexicon are left out, since the vocabulary cannot spell each as \
             one word: {words}\n"
        )
    };
    let listed = demo.file("words.txt", "the\nquick\n4\nbrown\nfox\n3rd\n");
    let printed = try_all(&[&decode[..], &[&listed]].concat()).unwrap();
    assert!(
        printed.out.ends_with(&format!("\t{TEXT}\n")),
        "{}",
        printed.out
    );
    assert_eq!(printed.err, note("\"4\", \"3rd\""));
    let many = demo.file("many.txt", "1\n2\n3\n4\n5\nfox\n");
    let printed = try_all(&[&decode[..], &[&many]].concat()).unwrap();
    assert_eq!(printed.err, note("\"1\", \"2\", \"3\" and 2 more"));
    let none = demo.file("none.txt", "4\n3rd\n");
    fails(
        &[&decode[..], &[&none]].concat(),
        &[&none, "none of the words", "\"4\" at character 1"],
    );
    // A model of another language.
    let russian = demo.file("russian.arpa", &unigrams("быстрая лиса"));
    fails(
        &["decode", &emissions, "--vocab", &vocab, "--lm", &russian],
        &["can spell none of the words, of which there are 2"],
    );
}

#[test]
fn errors_name_options_in_place_of_functions_of_the_library() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let frames = Tensor::zeros((30, 4), DType::F32, &Device::Cpu).unwrap();
    let four = demo.npy("four.npy", &frames);
    let file = |name: &str, content: &str| demo.file(name, content);
    let no_blank = file("a.json", r#"["a", "b", "c"]"#);
    let two_blanks = file("two.json", r#"["<blank>", "<BLANK>", "a"]"#);
    let mixed = file("mixed.json", r#"["<pad>", "|", "a", "B"]"#);
    let unmarked = file("unmarked.json", r#"["<pad>", "a", "b", "c"]"#);
    let names = file("names.txt", "fox!\n");
    let numbers = file("numbers.txt", "42\n");
    let align = |vocab, text| vec!["align", &four, "--logits", "--vocab", vocab, text];
    let decode = |more: &[&'static str], file| {
        let args = ["decode", &emissions, "--vocab", &vocab];
        [&args[..], more, &[file]].concat()
    };
    let cases: [(Vec<&str>, &str); 7] = [
        (align(&no_blank, "a"), "Name the blank with --blank"),
        (align(&two_blanks, "a"), "name it with --blank"),
        (align(&mixed, "A"), "but \"a\" is one; --skip"),
        (
            align(&unmarked, "ab c"),
            "take spaces out, or name the token between words with --separator; --skip",
        ),
        (
            align(&unmarked, "a b"),
            "each entry is a token: take spaces out",
        ),
        (
            decode(&["--hotwords"], &names),
            "--hotwords: \"fox!\" cannot be spelled",
        ),
        (decode(&["--lexicon"], &numbers), "write numbers as words"),
    ];
    for (args, part) in cases {
        let message = run(&args).unwrap_err();
        assert!(message.contains(part), "{message}");
        for name in ["::", "encode_", "Hotwords", "Lexicon"] {
            assert!(!message.contains(name), "{message}");
        }
    }
}

#[test]
fn tuning_finds_the_weights_with_the_fewest_errors() {
    let demo = Demo::new(TEXT);
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let list = demo.file("list.tsv", &format!("\u{feff}{emissions}\t{TEXT}\n"));
    // The model does not know "brown", and prefers "brawn" the more, the larger its weight.
    let arpa = "\\data\\\nngram 1=6\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 the\n-1 quick\n-1 brawn\n-1 fox\n\\end\\\n";
    let arpa = demo.file("lm.arpa", arpa);
    let tune = [
        "tune",
        "--manifest",
        &list,
        "--vocab",
        &vocab,
        "--lm",
        &arpa,
        "--unknown",
        "-1",
    ];
    let rows = |more: &[&str]| -> Vec<[f64; 4]> {
        let out = run(&[&tune[..], more].concat()).unwrap();
        let row =
            |line: &str| -> Vec<f64> { line.split('\t').map(|x| x.parse().unwrap()).collect() };
        out.lines()
            .map(|line| row(line).try_into().unwrap())
            .collect()
    };
    // The grid, and then half a step to the side of the best: no weight of a model below 0.
    let found = rows(&["--alphas", "4,0", "--betas", "0", "--rounds", "1"]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0], [0.0, 0.0, 0.0, 0.0]);
    let at = |alpha: f64| *found.iter().find(|row| row[0] == alpha).unwrap();
    assert_eq!(at(4.0)[2], 25.0);
    assert!(at(4.0)[3] > 5.0 && at(4.0)[3] < 6.0, "{found:?}");
    assert!(
        found.windows(2).all(|pair| pair[0][2] <= pair[1][2]),
        "{found:?}"
    );
    let characters = rows(&[
        "--alphas",
        "4",
        "--betas",
        "0,1",
        "--rounds",
        "0",
        "--characters",
    ]);
    assert!(
        characters.len() == 2 && characters[0][3] <= characters[1][3],
        "{characters:?}"
    );
    // Without a grid: five by five, and the eight around the best twice, of which some lie at alphas below 0.
    let whole = rows(&["--beam", "20"]);
    assert!(
        (35..=41).contains(&whole.len()) && whole[0][2] == 0.0,
        "{whole:?}"
    );
    // A model that knows all words makes no errors with any weights.
    let easy = demo.file("easy.arpa", &unigrams(TEXT));
    let tune_easy = [&tune[..5], &["--lm", &easy, "--rounds", "0"]].concat();
    let out = run(&tune_easy).unwrap();
    assert!(out.starts_with("1\t0\t0.00\t0.00\n"), "{out}");
    assert!(out.contains("\n0\t0\t0.00\t0.00\n"), "{out}");
    // Case and punctuation do not count.
    let written = demo.file(
        "written.tsv",
        &format!("{emissions}\tThe QUICK, brown fox!\n"),
    );
    let tune_written = [&["tune", "--manifest", &written][..], &tune[3..]].concat();
    let point = ["--alphas", "0", "--betas", "-1", "--rounds", "0"];
    let printed = try_all(&[&tune_written[..], &point].concat()).unwrap();
    assert_eq!(printed.out, "0\t-1\t0.00\t0.00\n");
    assert!(
        printed.err.contains("\"!\"") && printed.err.contains("does not count"),
        "{}",
        printed.err
    );
    // A lexicon alone has no alpha.
    let words = demo.file("words.txt", "the\nquick\nbrown\nfox\n");
    let lexicon = [
        "tune",
        "--manifest",
        &list,
        "--vocab",
        &vocab,
        "--lexicon",
        &words,
    ];
    let out = run(&[&lexicon[..], &["--betas", "0,2", "--rounds", "0"]].concat()).unwrap();
    assert_eq!(out, "1\t0\t0.00\t0.00\n1\t2\t0.00\t0.00\n");

    fails(
        &[&tune[..], &["--alphas", "1,NaN"]].concat(),
        &["--alphas", "NaN"],
    );
    let missing = demo.file("missing.tsv", "no.npy\tthe\n");
    fails(
        &[&["tune", "--manifest", &missing][..], &tune[3..]].concat(),
        &["no.npy", "cannot read"],
    );
    let silent = demo.file("silent.tsv", &format!("{emissions}\t\n"));
    fails(
        &[&["tune", "--manifest", &silent][..], &tune[3..]].concat(),
        &["all transcripts are empty"],
    );
}

#[test]
fn words_of_a_lexicon_stand_behind_others_too() {
    // A byte-level vocabulary, in which the first word of a text has no mark.
    let demo = Demo::new(TEXT);
    let vocab = demo.file(
        "ids.json",
        r#"{"<pad>": 0, "cat": 1, "Ġcat": 2, "Ġdog": 3}"#,
    );
    let probs = [
        [0.05f32, 0.85, 0.05, 0.05],
        [0.85, 0.05, 0.05, 0.05],
        [0.05, 0.05, 0.55, 0.35],
    ];
    let log_probs = Tensor::new(&probs, &Device::Cpu).unwrap().log().unwrap();
    let emissions = demo.npy("ids.npy", &log_probs);
    let words = demo.file("ids.txt", "cat\n");
    let decode = ["decode", &emissions, "--vocab", &vocab, "--lexicon", &words];
    let out = run(&decode).unwrap();
    assert_eq!(out.split('\t').nth(1), Some("cat cat\n"), "{out}");
}

#[test]
fn a_phrase_is_found_at_the_beginning_and_behind_other_words() {
    let demo = Demo::new("a");
    // Only behind other words, a word has the mark.
    let vocab = demo.file("bytes.json", r#"["<pad>", "Ġcat", "cat", "dog", "Ġdog"]"#);
    let probs = [
        [0.05f32, 0.05, 0.05, 0.8, 0.05],
        [0.04, 0.6, 0.3, 0.03, 0.03],
    ];
    let log_probs = Tensor::new(&probs, &Device::Cpu).unwrap().log().unwrap();
    let emissions = demo.npy("dog.npy", &log_probs);
    let out = run(&["spot", &emissions, "--vocab", &vocab, "cat", "dog"]).unwrap();
    // "cat" without the mark is above the threshold there, too, but overlaps what is better.
    let wanted = "phrase\tstart\tend\tscore\tper token\n\
                  dog\t0.000\t0.020\t0.0000\t0.0000\n\
                  cat\t0.020\t0.040\t0.0000\t0.0000\n";
    assert_eq!(out, wanted);

    // "a a" behind another word would begin with the label that ends the first hit.
    let vocab = demo.file("a.json", r#"["<pad>", "a", "Ġa", "b"]"#);
    let probs = [
        [0.1f32, 0.7, 0.1, 0.1],
        [0.05, 0.05, 0.4, 0.5],
        [0.05, 0.05, 0.3, 0.6],
        [0.85, 0.05, 0.05, 0.05],
        [0.1, 0.1, 0.7, 0.1],
    ];
    let log_probs = Tensor::new(&probs, &Device::Cpu).unwrap().log().unwrap();
    let emissions = demo.npy("a.npy", &log_probs);
    let out = run(&["spot", &emissions, "--vocab", &vocab, "a a"]).unwrap();
    let wanted = "phrase\tstart\tend\tscore\tper token\na a\t0.000\t0.040\t-0.2231\t-0.1116\n";
    assert_eq!(out, wanted);
}

#[test]
fn phrases_are_found_with_their_times() {
    let demo = Demo::new("fox and fox");
    let (emissions, vocab) = (demo.path("emissions.npy"), demo.path("vocab.json"));
    let spot = ["spot", &emissions, "--vocab", &vocab];
    let words = run(&["words", &emissions, "--vocab", &vocab]).unwrap();
    let words: Vec<Vec<&str>> = words.lines().map(|l| l.split('\t').collect()).collect();
    let more = demo.file("phrases.txt", "\n Fox and\n");
    let out = run(&[&spot[..], &["and", "fox", "--file", &more]].concat()).unwrap();
    let hits: Vec<Vec<&str>> = out.lines().map(|l| l.split('\t').collect()).collect();
    let (first, last) = (&words[1], &words[3]);
    let both = ["Fox and", first[1], words[2][2]];
    let wanted = [
        ["phrase", "start", "end"],
        ["fox", first[1], first[2]],
        both,
        ["and", words[2][1], words[2][2]],
        ["fox", last[1], last[2]],
    ];
    assert_eq!(hits.len(), wanted.len(), "{out}");
    for (hit, wanted) in hits.iter().zip(wanted) {
        assert_eq!(hit[..3], wanted, "{out}");
    }
    assert_eq!(hits[1][3..], ["0.0000", "0.0000"]);

    // Others are less probable: none at first, then those of both words.
    let other = [&spot[..], &["box", "--json", "--threshold"]].concat();
    assert_eq!(run(&[&other[..], &["-0.1"]].concat()).unwrap(), "[]\n");
    let out = run(&[&other[..], &["-4"]].concat()).unwrap();
    let hits: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(hits.as_array().unwrap().len(), 2, "{out}");
    for (hit, word) in hits.as_array().unwrap().iter().zip([first, last]) {
        assert_eq!(hit["phrase"], "box");
        let per_token = hit["per_token"].as_f64().unwrap();
        assert!((-4.0..-0.1).contains(&per_token), "{out}");
        assert!((hit["score"].as_f64().unwrap() - 3.0 * per_token).abs() < 1e-9);
        assert_eq!(hit["tokens"][2]["text"], "x");
        let end: f64 = word[2].parse().unwrap();
        assert!((times(hit).1 - end).abs() < 1e-9 && times(hit) != (0.0, end));
    }

    fails(&spot, &["<PHRASES|--file <FILE>>"]);
    let none = demo.file("none.txt", "\n");
    fails(&[&spot[..], &["--file", &none]].concat(), &["no phrase"]);
    fails(
        &[&spot[..], &[" "]].concat(),
        &["the phrase \" \" has no text"],
    );
    fails(
        &[&spot[..], &["fox!"]].concat(),
        &["\"!\"", "write the phrase without it"],
    );
    fails(
        &[&spot[..], &["fox", "--threshold", "1"]].concat(),
        &["'1' for '--threshold", "at most 0"],
    );
}

#[test]
fn the_help_of_each_command_ends_with_examples_that_parse() {
    for command in program::Cli::command().get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        let (_, examples) = help.split_once("\nExamples:\n").unwrap();
        let lines: Vec<&str> = examples
            .lines()
            .filter(|l| l.starts_with("  ctc "))
            .collect();
        assert!(lines.len() >= 2, "{help}");
        for line in lines {
            // What is within quotes is one argument.
            let parts = line.split('"').enumerate();
            let args: Vec<&str> = parts
                .flat_map(|(index, part)| match index % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                })
                .collect();
            assert_eq!(args[1], command.get_name());
            if let Err(error) = program::Cli::try_parse_from(&args) {
                panic!("{line}: {error}");
            }
        }
    }
}

#[test]
fn a_wrong_command_line_has_exit_code_2() {
    let decode = ["decode", "a.npy", "--vocab", "v.json"];
    let words = ["words", "a.npy", "--vocab", "v.json", "--text", "a"];
    let list = ["words", "--manifest", "a.tsv", "--vocab", "v.json"];
    let search: [&[&str]; 5] = [
        &["--greedy"],
        &["--beam", "9"],
        &["--lm", "a.arpa"],
        &["--lexicon", "a.txt"],
        &["--hotwords", "a.txt"],
    ];
    // What a search takes is no use with a transcript.
    let unused = search
        .iter()
        .flat_map(|more| [&words[..], &list].map(|args| [args, more].concat()));
    // What would do nothing.
    let idle = [
        "score a.npy a --vocab v.json --hop 1",
        "decode a.npy --vocab v.json --hop 1",
        "align a.npy a --vocab v.json --words-per-cue 3",
        "tune --manifest a.tsv --vocab v.json --lm a --hop 1",
        "tune --manifest a.tsv --vocab v.json --lexicon a --alphas 1",
    ];
    let idle = idle.map(|line| line.split(' ').collect::<Vec<_>>());
    let wordless = [["--beta", "1"], ["--unknown", "-1"]].map(|more| [&decode[..], &more].concat());
    let wrong: [&[&str]; 7] = [
        &["tune", "--manifest", "a.tsv", "--vocab", "v.json"],
        &["decode", "--vocab", "v.json"],
        &["decode", "a.npy", "--vocab", "v.json", "--hop", "-1"],
        &["align", "a.npy", "--vocab", "v.json"],
        &["align", "--vocab", "v.json", "--manifest", "a.tsv", "a.npy"],
        &["words", "a.npy", "--vocab", "v.json", "--partial"],
        &["score", "a.npy", "--vocab", "v.json"],
    ];
    let wrong = wrong.into_iter().map(<[&str]>::to_vec);
    for args in wrong.chain(unused).chain(idle).chain(wordless) {
        let error = program::Cli::try_parse_from(std::iter::once(&"ctc").chain(&args)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
    let message = |args: &[&str]| {
        let args = std::iter::once(&"ctc").chain(args);
        program::Cli::try_parse_from(args).unwrap_err().to_string()
    };
    // Numbers that are out of range, also those below 0, which are no options.
    for (line, option, range) in [
        ("decode a.npy --n-best 0", "--n-best", "at least 1"),
        ("decode a.npy --n-best -1", "--n-best", "at least 1"),
        ("decode a.npy --beam -1", "--beam", "at least 1"),
        (
            "align a.npy a --srt b --words-per-cue -1",
            "--words-per-cue",
            "at least 1",
        ),
        ("words a.npy --hop -1", "--hop", "from 1e-9 to 1e9"),
        (
            "decode a.npy --json --hop -0.5",
            "--hop",
            "from 1e-9 to 1e9",
        ),
        // Its times would be infinite, which JSON writes as null.
        ("align a.npy a --hop 1e307", "--hop", "from 1e-9 to 1e9"),
        (
            "tune --manifest a --lm a --rounds -1",
            "--rounds",
            "at least 0",
        ),
        ("spot a.npy a --threshold 3", "--threshold", "at most 0"),
        ("spot a.npy a --threshold nan", "--threshold", "at most 0"),
        (
            "decode a.npy --lm a --alpha -1",
            "--alpha",
            "from 0.0 to 1e100",
        ),
        (
            "decode a.npy --lm a --beta 1e7",
            "--beta",
            "from -1000000.0 to 1000000.0",
        ),
        (
            "decode a.npy --lm a --unknown 1e7",
            "--unknown",
            "from -1000000000.0 to 1000000.0",
        ),
        (
            "decode a.npy --hotwords a --boost nan",
            "--boost",
            "from -1e100 to 1e100",
        ),
        (
            "tune --manifest a --lm a --alphas 1,-1",
            "--alphas",
            "from 0.0 to 1e100",
        ),
        (
            "tune --manifest a --lm a --alphas 1e101",
            "--alphas",
            "from 0.0 to 1e100",
        ),
        (
            "tune --manifest a --lm a --betas 0,2e6",
            "--betas",
            "from -1000000.0 to 1000000.0",
        ),
    ] {
        let args: Vec<&str> = line.split(' ').chain(["--vocab", "v.json"]).collect();
        let message = message(&args);
        let named = format!("for '{option} <");
        assert!(
            message.contains(&named) && message.contains(range),
            "{message}"
        );
    }
    for order in ["0", "256", "300", "-1", "many"] {
        let message = message(&["ngram", "a.txt", "a.ngram", "--estimate", order]);
        let expected =
            format!("'{order}' for '--estimate <ORDER>': it must be a whole number from 1 to 255");
        assert!(message.contains(&expected), "{message}");
    }
    let tune = ["tune", "--manifest", "a.tsv", "--vocab", "v.json"];
    for args in [&tune[..], &[&decode[..], &["--beta", "1"]].concat()] {
        let message = message(args);
        assert!(
            message.contains("--lm <FILE>|--lexicon <FILE>"),
            "{message}"
        );
    }
    // Each way to give words will do, and both.
    for files in [
        &["--lm", "a"][..],
        &["--lexicon", "a"],
        &["--lm", "a", "--lexicon", "b"],
    ] {
        let weights = ["--beta", "1", "--unknown", "-1"];
        for args in [
            [&decode[..], files, &weights].concat(),
            [&tune[..], files].concat(),
        ] {
            let args = std::iter::once(&"ctc").chain(&args);
            assert!(program::Cli::try_parse_from(args).is_ok(), "{files:?}");
        }
    }
}

#[test]
fn an_array_that_is_larger_than_its_file_is_an_error() {
    let demo = Demo::new(TEXT);
    for shape in [
        "(35184372088832, 4)",
        "(4611686018427387905, 4)",
        "(1, 9, 1000)",
    ] {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((text.len() as u16).to_le_bytes());
        file.extend(text.bytes());
        file.extend([0; 64]);
        let path = demo.path("short.npy");
        std::fs::write(&path, file).unwrap();
        let vocab = demo.path("vocab.json");
        fails(
            &["decode", &path, "--vocab", &vocab],
            &[
                "short.npy",
                &format!("its shape is {shape}, but it has only"),
            ],
        );
    }
}
