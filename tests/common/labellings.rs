//! Every labelling of a small problem, from every path.

use super::oracle::collapse;
use std::collections::BTreeMap;

/// What the paths of one labelling add up to.
#[derive(Debug, Clone)]
pub struct Labelling {
    pub tokens: Vec<u32>,
    /// `ln P`, summed over the paths.
    pub score: f64,
    /// The log-probability of the best path.
    pub best: f64,
    /// The best paths: several when they tie.
    pub paths: Vec<Vec<usize>>,
}

/// All labellings of probability above 0, best first. `log_probs` is (frames, classes).
pub fn labellings(log_probs: &[f64], classes: usize, blank: usize) -> Vec<Labelling> {
    let frames = log_probs.len() / classes;
    let mut found: BTreeMap<Vec<usize>, Vec<(f64, Vec<usize>)>> = BTreeMap::new();
    for number in 0..classes.pow(frames as u32) {
        let path: Vec<usize> = (0..frames)
            .map(|t| number / classes.pow(t as u32) % classes)
            .collect();
        let score: f64 = (0..frames).map(|t| log_probs[t * classes + path[t]]).sum();
        if score > f64::NEG_INFINITY {
            let paths = found.entry(collapse(&path, blank)).or_default();
            paths.push((score, path));
        }
    }
    let mut labellings: Vec<Labelling> = found
        .into_iter()
        .map(|(tokens, paths)| {
            let best = paths.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = paths.iter().map(|p| (p.0 - best).exp()).sum();
            let tied = paths.into_iter().filter(|p| p.0 > best - 1e-9);
            Labelling {
                tokens: tokens.into_iter().map(|token| token as u32).collect(),
                score: best + sum.ln(),
                best,
                paths: tied.map(|p| p.1).collect(),
            }
        })
        .collect();
    labellings.sort_by(|a, b| b.score.total_cmp(&a.score));
    labellings
}
