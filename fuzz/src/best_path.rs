//! The best path over all pairs of states, with labels that may be left out, a star and audio outside.

use candle_ctc::{AlignOptions, Wildcard};
use std::ops::Range;

/// One alignment: (frames, classes) log-probabilities without NaN and +inf.
pub struct Problem<'a> {
    pub log_probs: &'a [f64],
    pub classes: usize,
    pub target: &'a [u32],
    pub opts: AlignOptions<'a>,
}

impl Problem<'_> {
    fn row(&self, t: usize) -> &[f64] {
        &self.log_probs[t * self.classes..][..self.classes]
    }

    fn wildcard(&self, t: usize, wildcard: Wildcard) -> f64 {
        let others = self.row(t).iter().enumerate().filter(|(class, _)| {
            *class != self.opts.blank && Some(*class) != self.opts.star.map(|star| star as usize)
        });
        let others: Vec<f64> = others.map(|(_, x)| *x).collect();
        let largest = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match wildcard {
            Wildcard::Constant(log_prob) => log_prob.into(),
            Wildcard::Largest { penalty } => largest - f64::from(penalty),
            Wildcard::Mean { .. } if largest == f64::NEG_INFINITY => largest,
            Wildcard::Mean { penalty } => {
                let sum: f64 = others.iter().map(|x| (x - largest).exp()).sum();
                largest + (sum / others.len() as f64).ln() - f64::from(penalty)
            }
            other => panic!("no rule for {other:?}"),
        }
    }

    /// The emission of a label.
    pub fn label(&self, t: usize, label: u32) -> f64 {
        match self.opts.star == Some(label) {
            true => self.wildcard(t, self.opts.star_emission),
            false => self.row(t)[label as usize],
        }
    }

    pub fn blank(&self, t: usize) -> f64 {
        self.row(t)[self.opts.blank]
    }

    /// The emission of a blank before the first label or behind the last.
    pub fn edge(&self, t: usize) -> f64 {
        let outside = self.opts.outside.map(|outside| self.wildcard(t, outside));
        outside.map_or(self.blank(t), |outside| outside.max(self.blank(t)))
    }

    /// Whether labels may be left out, wherever they stand.
    fn may_go(&self, range: Range<usize>) -> bool {
        self.target[range]
            .iter()
            .all(|label| self.opts.optional.contains(label))
    }

    /// The score of the best path; −inf if there is none.
    pub fn score(&self) -> f64 {
        let (labels, frames) = (self.target.len(), self.log_probs.len() / self.classes);
        let none = f64::NEG_INFINITY;
        let ends = |j: usize| self.opts.free_ends || self.may_go(j + 1..labels);
        let starts = |i: usize| self.opts.free_ends || self.may_go(0..i);
        let follows = |j: usize, i: usize| {
            if i == labels {
                ends(j)
            } else {
                self.may_go(j + 1..i)
            }
        };
        // The states at each frame: blank i before label i, label i, and blanks before any label.
        let (mut blank, mut label) = (vec![none; labels + 1], vec![none; labels]);
        let mut first = 0.0;
        for t in 0..frames {
            let (old_blank, old_label) = (blank.clone(), label.clone());
            for i in 0..=labels {
                let from = (0..i).filter(|&j| follows(j, i)).map(|j| old_label[j]);
                let emission = if i == labels {
                    self.edge(t)
                } else {
                    self.blank(t)
                };
                blank[i] = from.fold(old_blank[i], f64::max) + emission;
            }
            for i in 0..labels {
                let from = (0..i).filter(|&j| follows(j, i) && self.target[j] != self.target[i]);
                let best = from
                    .map(|j| old_label[j])
                    .fold(old_label[i].max(old_blank[i]), f64::max);
                let entered = if starts(i) { first } else { none };
                label[i] = best.max(entered) + self.label(t, self.target[i]);
            }
            first += self.edge(t);
        }
        let nothing = if self.opts.free_ends || self.may_go(0..labels) {
            first
        } else {
            none
        };
        let last = (0..labels).filter(|&j| ends(j)).map(|j| label[j]);
        last.fold(blank[labels].max(nothing), f64::max)
    }
}
