//! The Rust side of `benches/compare/knowledge.py`: times beam searches with a lexicon, an n-gram model and hotwords, and
//! prints the texts. Arguments: the ARPA file, the file of words, the boost of hotwords, the width of the beam, the
//! number of runs, two files of hotwords, and the `.npy` files. Without arguments it does nothing.

use candle_core::{Error, Result, Tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{
    BeamOptions, Hotwords, LanguageModel, Lexicon, LexiconOptions, NgramLm, beam_search_with,
};
use std::time::Instant;

struct Bench {
    vocabulary: Vocabulary,
    inputs: Vec<Tensor>,
    runs: usize,
}

impl Bench {
    /// Prints the median time of an utterance in milliseconds, and the texts.
    fn run(&self, name: &str, model: &impl LanguageModel, opts: BeamOptions) -> Result<()> {
        let mut times = Vec::new();
        let mut texts = Vec::new();
        for _ in 0..self.runs {
            let start = Instant::now();
            let search = |input| beam_search_with(input, model, opts);
            let found = self.inputs.iter().map(search).collect::<Result<Vec<_>>>()?;
            times.push(start.elapsed().as_secs_f64() / self.inputs.len() as f64);
            let text = |found: &Vec<candle_ctc::Hypothesis>| {
                let best = found
                    .first()
                    .map(|best| self.vocabulary.decode(&best.tokens));
                best.unwrap_or_default().trim().to_owned()
            };
            texts = found.iter().map(text).collect();
        }
        times.sort_by(f64::total_cmp);
        println!("{name}\tms\t{}", 1e3 * times[times.len() / 2]);
        for text in texts {
            println!("{name}\ttext\t{text}");
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let args: Vec<String> = args.collect();
    let [arpa, words, boost, width, runs, few, many, files @ ..] = &args[..] else {
        println!(
            "usage: compare_knowledge ARPA WORDS BOOST WIDTH RUNS HOTWORDS100 HOTWORDS1000 FILE.npy..."
        );
        return Ok(());
    };
    let letters = ('a'..='z').map(String::from);
    let vocabulary = Vocabulary::from_tokens(
        ["<blank>".to_owned(), " ".to_owned()]
            .into_iter()
            .chain(letters),
    )?;
    let model = NgramLm::from_path(arpa)?;
    let words = std::fs::read_to_string(words)?;
    let lexicon = Lexicon::new(
        &vocabulary,
        words.lines(),
        &model,
        LexiconOptions::default(),
    )?;
    let exact = BeamOptions {
        beam_width: width.parse().map_err(Error::wrap)?,
        ..Default::default()
    };
    let pruned = BeamOptions {
        token_threshold: -5.0,
        beam_threshold: 10.0,
        ..exact
    };
    let bench = Bench {
        inputs: files.iter().map(Tensor::read_npy).collect::<Result<_>>()?,
        runs: runs.parse().map_err(Error::wrap)?,
        vocabulary,
    };
    bench.run("exact", &lexicon, exact)?;
    for (name, parts) in [("half", 2), ("fifth", 5)] {
        let narrower = BeamOptions {
            beam_width: exact.beam_width / parts,
            ..exact
        };
        bench.run(name, &lexicon, narrower)?;
    }
    bench.run("pruned", &lexicon, pruned)?;
    let boost: f64 = boost.parse().map_err(Error::wrap)?;
    for (name, file) in [("hotwords100", few), ("hotwords1000", many)] {
        let phrases = std::fs::read_to_string(file)?;
        let phrases = phrases.lines().map(|line| (line, boost));
        let hotwords = Hotwords::new(&bench.vocabulary, phrases, &lexicon)?;
        bench.run(name, &hotwords, pruned)?;
    }
    Ok(())
}
