//! `ctc tune`.

use super::batch::Console;
use super::cli::{ALPHA_RANGE, BETA_RANGE, DEFAULT_ALPHA, DEFAULT_BETA, TuneArgs};
use super::errors::short;
use super::input::{Model, Source, shown};
use super::knowledge::{Files, Knowledge};
use super::manifest;
use super::spelling::spell;
use anyhow::{Context, Result, ensure};
use candle_ctc::BeamOptions;
use candle_ctc::text::{ErrorRate, Unspellable, character_error_rate, word_error_rate};
use rayon::prelude::*;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub fn run(args: &TuneArgs, console: &mut Console) -> Result<usize> {
    let model = Model::new(&args.model)?;
    let files = Files::read(&args.files, &model.vocabulary, console.progress)?;
    let alphas = match files.has_model() {
        true => &args.alphas[..],
        false => &[DEFAULT_ALPHA],
    };
    let grid = Grid {
        alphas: Axis::new(alphas, ALPHA_RANGE),
        betas: Axis::new(&args.betas, BETA_RANGE),
    };
    let (held_out, mut notes) = HeldOut::load(args, &model)?;
    for note in &notes {
        writeln!(console.err, "note: {note}")?;
    }
    let mut tried: Vec<Outcome> = Vec::new();
    let mut points = grid.points();
    for round in 0..=args.rounds {
        for (alpha, beta) in points {
            if tried
                .iter()
                .any(|one| (one.alpha, one.beta) == (alpha, beta))
            {
                continue;
            }
            let (knowledge, of_files) = Knowledge::new(&files, &model.vocabulary, alpha, beta)?;
            // Most of these are the same for all weights.
            for note in of_files {
                if !notes.contains(&note) {
                    writeln!(console.err, "note: {note}")?;
                    notes.push(note);
                }
            }
            let outcome = held_out.decode(&knowledge, alpha, beta)?;
            if console.progress {
                writeln!(console.err, "tried {}", outcome.row())?;
            }
            tried.push(outcome);
        }
        rank(&mut tried, args.characters);
        points = grid.around(&tried[0], 0.5f64.powi(round as i32 + 1));
    }
    for outcome in &tried {
        writeln!(console.out, "{}", outcome.row())?;
    }
    Ok(0)
}

/// A transcribed file.
struct Utterance<'a> {
    path: PathBuf,
    source: Source<'a>,
    /// As a model can write it: in the vocabulary's case and form, without what the vocabulary cannot spell.
    reference: String,
}

/// Transcribed files.
struct HeldOut<'a> {
    utterances: Vec<Utterance<'a>>,
    beam: usize,
}

impl<'a> HeldOut<'a> {
    /// The notes are what the user should know of the transcripts.
    fn load(args: &TuneArgs, model: &'a Model) -> Result<(Self, Vec<String>)> {
        let mut notes = Vec::new();
        let load = |entry: manifest::Entry| {
            let path = entry.emissions;
            let named = || path.display().to_string();
            let source = model.load(&path).with_context(named)?;
            let skip = Some(Unspellable::Skip);
            let spelled = spell(source.vocabulary, &entry.text, skip, "").with_context(named)?;
            let left_out = |note| format!("{}: {note}, which does not count", path.display());
            notes.extend(spelled.notes.into_iter().map(left_out));
            Ok(Utterance {
                reference: source.vocabulary.decode(&spelled.labels),
                path,
                source,
            })
        };
        let entries = manifest::read(&args.manifest)?.into_iter();
        let utterances: Vec<Utterance> = entries.map(load).collect::<Result<_>>()?;
        ensure!(
            utterances.iter().any(|one| !one.reference.is_empty()),
            "{}: all transcripts are empty, so that there is nothing to get right",
            shown(&args.manifest)
        );
        let beam = args.beam;
        Ok((Self { utterances, beam }, notes))
    }

    fn decode(&self, knowledge: &Knowledge, alpha: f64, beta: f64) -> Result<Outcome> {
        let rates = self.utterances.par_iter().map(|utterance| {
            let Utterance {
                path,
                source,
                reference,
            } = utterance;
            let opts = BeamOptions {
                beam_width: self.beam,
                ..Default::default()
            };
            let found = knowledge.transcripts(source, opts).map_err(short);
            let found = found.with_context(|| path.display().to_string())?;
            let text = match found.first() {
                Some(best) => source.vocabulary.decode(&best.tokens),
                None => String::new(),
            };
            Ok([
                word_error_rate(reference, &text),
                character_error_rate(reference, &text),
            ])
        });
        let rates = rates.collect::<Result<Vec<_>>>()?;
        let sum = |kind: usize| {
            rates
                .iter()
                .map(|rates| rates[kind])
                .sum::<ErrorRate>()
                .rate()
        };
        Ok(Outcome {
            alpha,
            beta,
            words: sum(0),
            characters: sum(1),
        })
    }
}

/// The error rates with a pair of weights.
struct Outcome {
    alpha: f64,
    beta: f64,
    words: f64,
    characters: f64,
}

impl Outcome {
    /// What is to be small: of equal rates of words, the one with fewer wrong characters, and the other way round.
    fn errors(&self, characters: bool) -> f64 {
        const BESIDE: f64 = 1e-6;
        match characters {
            true => self.characters + BESIDE * self.words,
            false => self.words + BESIDE * self.characters,
        }
    }

    /// From the default weights.
    fn distance(&self) -> f64 {
        (self.alpha - DEFAULT_ALPHA).hypot(self.beta - DEFAULT_BETA)
    }

    fn row(&self) -> String {
        let Self {
            alpha,
            beta,
            words,
            characters,
        } = self;
        format!(
            "{alpha}\t{beta}\t{:.2}\t{:.2}",
            100.0 * words,
            100.0 * characters
        )
    }
}

/// The fewest errors first; of equals the one nearest to the default weights: few files leave many equals, and the
/// corners of the grid suit other files worse.
fn rank(tried: &mut [Outcome], characters: bool) {
    tried.sort_by(|a, b| {
        let errors = a.errors(characters).total_cmp(&b.errors(characters));
        errors.then(a.distance().total_cmp(&b.distance()))
    });
}

/// The values of a weight to begin with, the largest step between them, and the values that the weight may have.
struct Axis {
    values: Vec<f64>,
    step: f64,
    range: RangeInclusive<f64>,
}

impl Axis {
    fn new(values: &[f64], range: RangeInclusive<f64>) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let steps = values.windows(2).map(|pair| pair[1] - pair[0]);
        Self {
            step: steps.fold(0.0, f64::max),
            values,
            range,
        }
    }

    /// A value and its neighbours at this share of the step.
    fn around(&self, value: f64, share: f64) -> Vec<f64> {
        let mut values = match self.step * share {
            0.0 => vec![value],
            step => vec![value - step, value, value + step],
        };
        values.retain(|value| self.range.contains(value));
        values
    }
}

struct Grid {
    alphas: Axis,
    betas: Axis,
}

impl Grid {
    fn points(&self) -> Vec<(f64, f64)> {
        pairs(&self.alphas.values, &self.betas.values)
    }

    /// The points around the best.
    fn around(&self, best: &Outcome, share: f64) -> Vec<(f64, f64)> {
        let alphas = self.alphas.around(best.alpha, share);
        pairs(&alphas, &self.betas.around(best.beta, share))
    }
}

fn pairs(alphas: &[f64], betas: &[f64]) -> Vec<(f64, f64)> {
    let of_alpha = |&alpha: &f64| betas.iter().map(move |&beta| (alpha, beta));
    alphas.iter().flat_map(of_alpha).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_leaves_the_range_of_a_weight() {
        let axis = Axis::new(&[-1e6, 0.0], BETA_RANGE);
        assert_eq!(axis.around(-1e6, 0.5), [-1e6, -5e5]);
        assert_eq!(axis.around(0.0, 0.5), [-5e5, 0.0, 5e5]);
    }

    #[test]
    fn the_errors_that_were_asked_for_come_first() {
        let outcome = |alpha: f64, words: f64, characters: f64| Outcome {
            alpha,
            beta: 0.0,
            words,
            characters,
        };
        let mut tried = [
            outcome(0.0, 0.3, 0.1),
            outcome(1.0, 0.2, 0.2),
            outcome(2.0, 0.2, 0.1),
            outcome(3.0, 0.2, 0.1),
        ];
        let alphas = |tried: &[Outcome]| tried.iter().map(|one| one.alpha).collect::<Vec<_>>();
        rank(&mut tried, false);
        assert_eq!(alphas(&tried), [2.0, 3.0, 1.0, 0.0]);
        rank(&mut tried, true);
        assert_eq!(alphas(&tried), [2.0, 3.0, 0.0, 1.0]);
    }

    #[test]
    fn of_equally_good_weights_those_nearest_to_the_defaults_come_first() {
        let outcome = |(alpha, beta): (f64, f64)| Outcome {
            alpha,
            beta,
            words: if alpha == 2.0 { 0.1 } else { 0.2 },
            characters: 0.1,
        };
        let points = pairs(&[0.0, 0.5, 1.0, 2.0], &[-2.0, -1.0, 0.0, 1.0]);
        let mut tried: Vec<Outcome> = points.into_iter().map(outcome).collect();
        rank(&mut tried, false);
        let first: Vec<_> = tried[..7].iter().map(|one| (one.alpha, one.beta)).collect();
        let of_two = [(2.0, 0.0), (2.0, -1.0), (2.0, 1.0), (2.0, -2.0)];
        assert_eq!(first[..4], of_two);
        assert_eq!(first[4..], [(1.0, 0.0), (0.5, 0.0), (0.0, 0.0)]);
    }
}
