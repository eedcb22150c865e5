//! The readers of the program `ctc`: emissions, manifests, lexicons and hotwords, whatever is in the files.

#![no_main]

use candle_core::{DType, Tensor, safetensors};
use candle_ctc::BeamOptions;
use candle_ctc_fuzz::common::{lattice, tensors, tolerance::Tolerance};
use candle_ctc_fuzz::{Source, files};
use cli::{KnowledgeFiles, ModelArgs};
use input::Model;
use knowledge::{Files, Knowledge};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::path::PathBuf;

#[path = "../../src/bin/ctc/program/errors.rs"]
#[allow(dead_code)]
mod errors;
#[path = "../../src/bin/ctc/program/input.rs"]
#[allow(dead_code)]
mod input;
#[path = "../../src/bin/ctc/program/knowledge.rs"]
#[allow(dead_code)]
mod knowledge;
#[path = "../../src/bin/ctc/program/manifest.rs"]
mod manifest;

/// The options that the readers take, without the command line that they come from.
mod cli {
    use std::path::PathBuf;

    pub struct ModelArgs {
        pub vocab: PathBuf,
        pub tensor: Option<String>,
        pub logits: bool,
        pub blank: Option<String>,
        pub separator: Option<String>,
    }

    pub struct KnowledgeFiles {
        pub lm: Option<PathBuf>,
        pub lexicon: Option<PathBuf>,
        pub hotwords: Option<PathBuf>,
        pub boost: f64,
        pub unknown: Option<f64>,
    }
}

/// The reader of models, without its progress.
mod ngram {
    use candle_ctc::NgramLm;
    use std::path::Path;

    pub fn read(path: &Path, _progress: bool) -> anyhow::Result<NgramLm> {
        NgramLm::from_path(path).map_err(super::errors::short)
    }
}

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

fn run(source: &mut Source) {
    match source.below(4) {
        0 => manifests(source),
        1 => word_lists(source),
        _ => emissions(source),
    }
}

/// A file of this process with this content.
fn write(name: &str, content: &[u8]) -> PathBuf {
    let path = files::path(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A vocabulary of so many classes, and options that take everything else as it is.
fn model_args(source: &mut Source, classes: usize) -> ModelArgs {
    let vocabulary = candle_ctc_fuzz::knowledge::vocabulary(source, classes);
    ModelArgs {
        vocab: write("vocab.txt", vocabulary.tokens().join("\n").as_bytes()),
        tensor: None,
        logits: source.flag(),
        blank: None,
        separator: None,
    }
}

/// Emissions are read as they were written. A file that was changed is an error, or is read; one that claims more than
/// it holds is an error.
fn emissions(source: &mut Source) {
    let (frames, classes) = (source.below(6), 3 + source.below(5));
    let in_npy = source.below(4) > 0;
    let dtypes = match in_npy {
        true => &[DType::F32, DType::F64, DType::F16][..],
        false => &tensors::FLOATS,
    };
    let dtype = source.pick(dtypes);
    let emissions = source.emissions_of([frames, 1, classes], dtype);
    let mut tensor = emissions.utterance(0).contiguous().unwrap();
    if source.flag() {
        tensor = tensor.unsqueeze(0).unwrap();
    }
    let args = model_args(source, classes);
    let model = Model::new(&args).unwrap();
    let path = files::path(match in_npy {
        true => "emissions.npy",
        false => "emissions.safetensors",
    });
    match in_npy {
        true => tensor.write_npy(&path).unwrap(),
        false => safetensors::save(&HashMap::from([("emissions", tensor)]), &path).unwrap(),
    }
    let loaded = model.load(&path).map(|loaded| loaded.log_probs);
    check_loaded(loaded, &emissions.values, classes, dtype, args.logits);

    let bytes = std::fs::read(&path).unwrap();
    let (bytes, is_a_lie) = match source.below(3) {
        0 if in_npy => (lie(source, &bytes), true),
        1 => (bytes[..source.below(bytes.len())].to_vec(), true),
        _ => (changed(source, bytes), false),
    };
    std::fs::write(&path, &bytes).unwrap();
    let loaded = model.load(&path);
    assert!(
        loaded.is_err() || !is_a_lie,
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    if let Ok(loaded) = loaded {
        let (frames, own) = loaded.log_probs.dims2().unwrap();
        assert!((frames, own) == (loaded.frames, classes) && frames > 0);
    }
}

/// What was read of these values, which are used if all frames are distributions.
fn check_loaded(
    loaded: anyhow::Result<Tensor>,
    values: &[f64],
    classes: usize,
    dtype: DType,
    logits: bool,
) {
    let sum = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>();
    let mut sums = values.chunks_exact(classes).map(sum);
    let near = |least: f64| move |sum: f64| (sum - 1.0).abs() < least;
    let is_bad = |x: &f64| x.is_nan() || *x == f64::INFINITY;
    let is_frame =
        |row: &[f64]| !row.iter().any(is_bad) && row.iter().any(|x| *x != f64::NEG_INFINITY);
    let fit = !values.is_empty() && values.chunks_exact(classes).all(is_frame);
    let must = fit && (logits || sums.clone().all(near(0.049)));
    let may = fit && (logits || sums.all(near(0.051)));
    assert!(loaded.is_err() || may, "{values:?}");
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!must, "{error:#}: {values:?}"),
    };
    let want: Vec<f64> = values
        .chunks_exact(classes)
        .flat_map(|row| {
            let (largest, sum) = match logits {
                true => lattice::softmax_scale(row),
                false => (0.0, 1.0),
            };
            row.iter().map(move |x| (x - largest) - sum.ln())
        })
        .collect();
    let close = Tolerance {
        absolute: if dtype == DType::F64 { 1e-12 } else { 1e-5 },
        relative: 1e-6,
    };
    // Differences that f32 may not hold.
    let pairs = tensors::read(&loaded).into_iter().zip(want);
    let (got, want): (Vec<f64>, Vec<f64>) = pairs.filter(|(_, want)| *want > -1e37).unzip();
    close.check("what was read", &got, &want);
}

/// A .npy file that claims to have more entries than it has, in any spelling that its reader takes.
fn lie(source: &mut Source, bytes: &[u8]) -> Vec<u8> {
    let (header, length) = match bytes[6] {
        1 => (10, u16::from_le_bytes([bytes[8], bytes[9]]) as usize),
        version => panic!("version {version}"),
    };
    let data = &bytes[header + length..];
    let many = source.pick(&[1 << 28, 1 << 33, 1 << 40, 1 << 62, u64::MAX]);
    let few = source.pick(&[1, 3, 1u64 << 32]);
    let shape = match source.below(4) {
        0 => format!("({many}, {few})"),
        1 => format!("({few},{many},)"),
        2 => format!("(1, {few}, {many})"),
        _ => format!("{many}"),
    };
    let text = match source.below(9) {
        0 => format!("'shape' : {shape}"),
        1 => format!("shape:{shape}"),
        2 => format!("'shape': (1, 3), 'shape': {shape}"),
        3 => format!("'other': (1), 'shape': {shape}"),
        4 => format!("'shape':\n{shape}"),
        5 => format!("'shape': ((), {many}, {few})"),
        6 => format!("'shape': ()({many})"),
        _ => format!("'shape': {shape}"),
    };
    let text = format!("{{'descr': '<f4', 'fortran_order': False, {text}, }}\n");
    let claimed = match source.below(8) {
        0 => u32::MAX,
        _ => text.len() as u32,
    };
    let start = match source.flag() {
        true => [&b"\x93NUMPY\x01\x00"[..], &claimed.to_le_bytes()[..2]].concat(),
        false => [&b"\x93NUMPY\x02\x00"[..], &claimed.to_le_bytes()].concat(),
    };
    [&start, text.as_bytes(), data].concat()
}

/// Some bytes are others, a few more follow, or all is new.
fn changed(source: &mut Source, mut bytes: Vec<u8>) -> Vec<u8> {
    // Most of what can be wrong is in the header.
    let end = bytes.len().min(source.pick(&[16, 128, 1 << 12]));
    for _ in 0..source.below(6) {
        let at = source.below(end);
        bytes[at] = match source.flag() {
            true => bytes[at] ^ (1 << source.below(8)),
            false => source.pick(b"0123456789'(),:{}<>[]\"\x00\xff"),
        };
    }
    match source.below(4) {
        0 => source.rest().to_vec(),
        1 => [&bytes, source.rest()].concat(),
        _ => bytes,
    }
}

/// A manifest has a path and a text in each line that is not blank.
fn manifests(source: &mut Source) {
    let content = source.rest();
    let found = manifest::read(&write("manifest.tsv", content));
    let entries = |content: &str| -> Option<Vec<(PathBuf, String)>> {
        let mut entries = Vec::new();
        let content = content.strip_prefix('\u{feff}').unwrap_or(content);
        for line in content.lines() {
            if line.chars().all(char::is_whitespace) {
                continue;
            }
            let tab = line.find('\t')?;
            let path = line[..tab].trim();
            if path.is_empty() {
                return None;
            }
            entries.push((path.into(), line[tab + 1..].to_owned()));
        }
        (!entries.is_empty()).then_some(entries)
    };
    let want = std::str::from_utf8(content).ok().and_then(entries);
    let found = found.map(|found| {
        let pairs = found.into_iter().map(|entry| (entry.emissions, entry.text));
        pairs.collect::<Vec<_>>()
    });
    assert_eq!(found.as_ref().ok(), want.as_ref(), "{found:?}");
}

/// Lists of words and phrases: an error names the file, and a search finds what they allow.
fn word_lists(source: &mut Source) {
    let classes = 3 + source.below(5);
    let args = model_args(source, classes);
    let model = Model::new(&args).unwrap();
    let words: Vec<String> = (0..1 + source.below(4))
        .map(|_| candle_ctc_fuzz::knowledge::word(source, &model.vocabulary))
        .collect();
    let path = files::path("model");
    let lm = source.flag().then(|| {
        let model = candle_ctc_fuzz::knowledge::ngrams(source, &words);
        model.save(&path).unwrap();
        path
    });
    let unknown = source.pick(&[None, None, Some(-1.0), Some(f64::NAN)]);
    let emissions = source.emissions_of([4, 1, classes], DType::F32);
    let boost = source.number();
    let which = source.below(3);
    let mut content = source.rest().to_vec();
    // Of few bytes, words that the vocabulary has.
    if content.len() < 12 {
        content = words.join("\n").into_bytes();
    }
    let half = content.len() / 2;
    let lexicon = (which != 1).then(|| write("words.txt", &content[..half.max(1)]));
    let hotwords = (which != 0).then(|| write("phrases.txt", &content[half..]));
    let files = KnowledgeFiles {
        lm,
        lexicon,
        hotwords,
        boost,
        unknown,
    };
    let files = match Files::read(&files, &model.vocabulary, false) {
        Ok(files) => files,
        Err(error) => {
            let error = format!("{error:#}");
            let named = [&files.lm, &files.lexicon, &files.hotwords];
            let mut named = named.into_iter().flatten();
            let names = |path: &PathBuf| error.contains(&*path.to_string_lossy());
            return assert!(named.any(names), "{error}");
        }
    };
    let Ok((knowledge, _)) = Knowledge::new(&files, &model.vocabulary, 0.5, 0.25) else {
        return;
    };
    let opts = BeamOptions {
        n_best: 3,
        ..Default::default()
    };
    let log_probs = input::log_softmax(&emissions.utterance(0)).unwrap();
    for found in knowledge.search(&log_probs, opts).unwrap_or_default() {
        assert!(
            !found.score.is_nan() && !found.lm_score.is_nan(),
            "{found:?}"
        );
    }
}
