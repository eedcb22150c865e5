//! What the docs promise of one item.

use crate::common::lattice;

/// One item: (frames, classes), as log-probabilities or logits.
pub struct Item<'a> {
    pub values: &'a [f64],
    /// The values with what a loss adds to them.
    pub weighted: &'a [f64],
    pub classes: usize,
    pub target: &'a [usize],
    pub blank: usize,
    pub logits: bool,
}

/// Entries further below the largest that the target uses count as −inf; near that limit nothing is promised.
const COUNTS: f64 = 1.3e9;
const COUNTS_NO_MORE: f64 = 1.5e9;
/// A little below the lowest log-probability that is told from −inf.
const LOWEST: f64 = 3e14;

impl Item<'_> {
    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.classes)
    }

    fn uses(&self, class: usize) -> bool {
        class == self.blank || self.target.contains(&class)
    }

    /// Whether an entry that counts is NaN or +inf, or a row of logits is no distribution.
    pub fn is_undefined(&self) -> bool {
        let bad = |x: f64| x.is_nan() || x == f64::INFINITY;
        if self.logits {
            return self.rows().any(|row| {
                row.iter().any(|&x| bad(x)) || row.iter().all(|&x| x == f64::NEG_INFINITY)
            });
        }
        let used: Vec<usize> = (0..self.classes)
            .filter(|&class| self.uses(class))
            .collect();
        self.rows()
            .any(|row| used.iter().any(|&class| bad(row[class])))
    }

    /// The weighted entries relative to the largest of their frame that the target uses, so that they add up, with those
    /// at −inf that count as such; and the sum of these largest. `None` near a documented limit.
    pub fn counted(&self) -> Option<(Vec<f64>, f64)> {
        let used: Vec<bool> = (0..self.classes).map(|class| self.uses(class)).collect();
        let mut counted = self.weighted.to_vec();
        let (mut depth, mut sum) = (0.0, 0.0);
        for row in counted.chunks_exact_mut(self.classes) {
            let entries = row.iter_mut().zip(&used).filter(|(_, used)| **used);
            let mut entries: Vec<&mut f64> = entries.map(|(x, _)| x).collect();
            let largest = entries.iter().fold(f64::NEG_INFINITY, |a, x| a.max(**x));
            let mut lowest: f64 = 0.0;
            for x in &mut entries {
                let below = largest - **x;
                if below > COUNTS_NO_MORE {
                    **x = f64::NEG_INFINITY;
                } else if below > COUNTS {
                    return None;
                } else if below > lowest {
                    lowest = below;
                }
                if largest.is_finite() {
                    **x -= largest;
                }
            }
            if largest.is_finite() {
                sum += largest;
            }
            depth += lowest;
        }
        (depth < LOWEST).then_some((counted, sum))
    }

    /// The loss and, for each entry, the posterior of its class; `None` where nothing exact is promised.
    pub fn truth(&self) -> Option<(f64, Vec<f64>)> {
        if self.is_undefined() {
            return Some((f64::NAN, vec![f64::NAN; self.values.len()]));
        }
        let (counted, largest) = self.counted()?;
        let item = lattice::Item {
            log_probs: &counted,
            classes: self.classes,
            target: self.target,
            blank: self.blank,
        };
        let sums = item.sums();
        let loss = match (sums.loss.is_finite(), self.logits) {
            (true, true) => {
                let weighted = self.weighted.chunks_exact(self.classes);
                let rows = self.rows().zip(weighted);
                sums.loss + rows.map(|(row, to)| self.surplus(row, to)).sum::<f64>()
            }
            (true, false) => sums.loss - largest,
            (false, _) => sums.loss,
        };
        Some((loss, sums.classes(&item)))
    }

    /// The log-sum-exp of a row of logits, relative to the largest weighted entry that the target uses.
    fn surplus(&self, row: &[f64], weighted: &[f64]) -> f64 {
        let used = (0..self.classes).filter(|&class| self.uses(class));
        let largest_used = used.fold(f64::NEG_INFINITY, |most, class| most.max(weighted[class]));
        let (largest, sum) = lattice::softmax_scale(row);
        (largest - largest_used) + sum.ln()
    }

    /// `softmax(values)` of logits, `exp(values)` of log-probabilities.
    pub fn probabilities(&self) -> Vec<f64> {
        let rows = self.rows().flat_map(|row| {
            let (largest, sum) = match self.logits {
                true => lattice::softmax_scale(row),
                false => (0.0, 1.0),
            };
            row.iter().map(move |x| (x - largest).exp() / sum)
        });
        rows.collect()
    }
}

/// The gradient of an item's loss: of logits, or of log-probabilities.
pub fn posterior_gradient(item: &Item, loss: f64, posterior: &[f64]) -> Vec<f64> {
    match item.logits {
        _ if loss == f64::INFINITY => vec![0.0; posterior.len()],
        true => item
            .probabilities()
            .iter()
            .zip(posterior)
            .map(|(y, p)| y - p)
            .collect(),
        false => posterior.iter().map(|p| -p).collect(),
    }
}
