//! CTC from its definition, in f64.
//!
//! [`enumerate`] sums over every path. [`recursion`] is the textbook forward and backward recursion
//! (Graves et al. 2006, section 4.1) in log space. Neither shares code with the crate.

use candle_ctc::{CtcLossOptions, GradientKind, Reduction};

/// What the definition says of one item.
#[derive(Debug, Clone)]
pub struct Truth {
    pub loss: f64,
    /// (frames, classes): the probability that a path that reads as the target is in this class at this
    /// frame. All zero when no path does, all NaN when the loss is.
    pub posterior: Vec<f64>,
}

impl Truth {
    /// No path reads as the target.
    fn impossible(entries: usize) -> Self {
        Truth {
            loss: f64::INFINITY,
            posterior: vec![0.0; entries],
        }
    }

    fn undefined(entries: usize) -> Self {
        Truth {
            loss: f64::NAN,
            posterior: vec![f64::NAN; entries],
        }
    }
}

/// ln(exp(a) + exp(b)).
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// A sum that carries its own rounding error (Neumaier), so that 20000 terms cost one rounding.
#[derive(Default)]
struct Sum {
    sum: f64,
    error: f64,
}

impl Sum {
    fn add(&mut self, x: f64) {
        let next = self.sum + x;
        self.error += if self.sum.abs() >= x.abs() {
            (self.sum - next) + x
        } else {
            (x - next) + self.sum
        };
        self.sum = next;
    }

    fn total(&self) -> f64 {
        self.sum + self.error
    }
}

fn reads_nan(log_probs: &[f64], classes: usize, target: &[usize], blank: usize) -> bool {
    log_probs
        .chunks_exact(classes)
        .any(|frame| frame[blank].is_nan() || target.iter().any(|&label| frame[label].is_nan()))
}

/// What a path reads as: runs joined, then blanks dropped.
pub fn collapse(path: &[usize], blank: usize) -> Vec<usize> {
    let mut labels = path.to_vec();
    labels.dedup();
    labels.retain(|&label| label != blank);
    labels
}

/// The number of adjacent equal labels.
pub fn repeats(target: &[usize]) -> usize {
    target.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

/// Sums over all `classes ^ frames` paths. `log_probs` is (frames, classes).
pub fn enumerate(log_probs: &[f64], classes: usize, target: &[usize], blank: usize) -> Truth {
    if reads_nan(log_probs, classes, target, blank) {
        return Truth::undefined(log_probs.len());
    }
    let frames = log_probs.len() / classes;
    let mut paths = Vec::new();
    let mut path = vec![0; frames];
    loop {
        if collapse(&path, blank) == target {
            let score: f64 = path
                .iter()
                .enumerate()
                .map(|(t, &label)| log_probs[t * classes + label])
                .sum();
            paths.push((path.clone(), score));
        }
        // The next path: count up in base `classes`.
        let Some(t) = (0..frames).find(|&t| path[t] + 1 < classes) else {
            break;
        };
        path[t] += 1;
        path[..t].fill(0);
    }
    let best = paths.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    if best == f64::NEG_INFINITY {
        return Truth::impossible(log_probs.len());
    }
    let total: f64 = paths.iter().map(|p| (p.1 - best).exp()).sum();
    let mut posterior = vec![0.0; log_probs.len()];
    for (path, score) in &paths {
        for (t, &label) in path.iter().enumerate() {
            posterior[t * classes + label] += (score - best).exp() / total;
        }
    }
    Truth {
        loss: -(best + total.ln()),
        posterior,
    }
}

/// The forward and backward recursion in log space. `log_probs` is (frames, classes), without +inf.
///
/// Each row of alpha and beta has its largest entry moved to 0, and the moves are summed with their
/// rounding error kept. So an error here is that of f64 near 1, not near the loss.
pub fn recursion(log_probs: &[f64], classes: usize, target: &[usize], blank: usize) -> Truth {
    if reads_nan(log_probs, classes, target, blank) {
        return Truth::undefined(log_probs.len());
    }
    let frames = log_probs.len() / classes;
    if frames == 0 {
        let loss = if target.is_empty() {
            0.0
        } else {
            f64::INFINITY
        };
        return Truth {
            loss,
            posterior: Vec::new(),
        };
    }

    // blank, l1, blank, l2, ..., blank
    let mut labels = vec![blank];
    for &label in target {
        labels.extend([label, blank]);
    }
    let states = labels.len();
    // Whether a path may go from state s - 2 to state s.
    let skips: Vec<bool> = (0..states)
        .map(|s| s >= 2 && labels[s] != blank && labels[s] != labels[s - 2])
        .collect();
    let emission = |t: usize, s: usize| log_probs[t * classes + labels[s]];
    let rescale = |row: &mut [f64]| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest > f64::NEG_INFINITY {
            row.iter_mut().for_each(|x| *x -= largest);
        }
        largest
    };

    let mut alpha = vec![f64::NEG_INFINITY; frames * states];
    let mut moved = Sum::default();
    for s in 0..states.min(2) {
        alpha[s] = emission(0, s);
    }
    moved.add(rescale(&mut alpha[..states]));
    for t in 1..frames {
        let (before, now) = alpha.split_at_mut(t * states);
        let before = &before[(t - 1) * states..];
        let now = &mut now[..states];
        for s in 0..states {
            let mut sum = before[s];
            if s >= 1 {
                sum = log_add(sum, before[s - 1]);
            }
            if skips[s] {
                sum = log_add(sum, before[s - 2]);
            }
            now[s] = sum + emission(t, s);
        }
        let largest = rescale(now);
        if largest == f64::NEG_INFINITY {
            return Truth::impossible(log_probs.len());
        }
        moved.add(largest);
    }
    let last = &alpha[(frames - 1) * states..];
    let end = if states == 1 {
        last[0]
    } else {
        log_add(last[states - 1], last[states - 2])
    };
    if end == f64::NEG_INFINITY {
        return Truth::impossible(log_probs.len());
    }
    moved.add(end);

    // beta excludes the emission of its own frame, so alpha * beta counts each emission once.
    let mut posterior = vec![0.0; log_probs.len()];
    let mut beta = vec![f64::NEG_INFINITY; states];
    beta[states.saturating_sub(2)..].fill(0.0);
    let mut joint = vec![0.0; states];
    for t in (0..frames).rev() {
        for s in 0..states {
            joint[s] = alpha[t * states + s] + beta[s];
        }
        rescale(&mut joint);
        joint.iter_mut().for_each(|x| *x = x.exp());
        let total: f64 = joint.iter().sum();
        for s in 0..states {
            posterior[t * classes + labels[s]] += joint[s] / total;
        }
        if t > 0 {
            // Move beta from frame t to frame t - 1, in place: each state reads itself and later ones.
            for s in 0..states {
                beta[s] += emission(t, s);
            }
            for s in 0..states {
                let mut sum = beta[s];
                if s + 1 < states {
                    sum = log_add(sum, beta[s + 1]);
                }
                if s + 2 < states && skips[s + 2] {
                    sum = log_add(sum, beta[s + 2]);
                }
                beta[s] = sum;
            }
            rescale(&mut beta);
        }
    }
    Truth {
        loss: -moved.total(),
        posterior,
    }
}

/// ln of the gamma function, by Stirling's series after a shift; good to 1e-13 relative.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 20.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let i = 1.0 / x;
    let series = i * (1.0 / 12.0 - i * i * (1.0 / 360.0 - i * i * (1.0 / 1260.0 - i * i / 1680.0)));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

/// The loss when every class has log-probability `log_prob` at each of `frames` frames:
/// `-T log_prob - ln binom(T + U - R, 2U)`, and +inf when T < U + R.
pub fn uniform_loss(frames: usize, log_prob: f64, length: usize, repeats: usize) -> f64 {
    if frames < length + repeats {
        return f64::INFINITY;
    }
    let (top, below) = ((frames + length - repeats) as f64, (2 * length) as f64);
    let ln_binom = ln_gamma(top + 1.0) - ln_gamma(below + 1.0) - ln_gamma(top - below + 1.0);
    -(frames as f64) * log_prob - ln_binom
}

/// A batch: the input, as log-probabilities or as logits, and what it is to read as.
#[derive(Debug, Clone)]
pub struct Problem {
    pub frames: usize,
    pub classes: usize,
    pub blank: usize,
    /// (frames, items, classes)
    pub values: Vec<f64>,
    pub targets: Vec<Vec<usize>>,
    pub input_lengths: Vec<usize>,
}

impl Problem {
    pub fn items(&self) -> usize {
        self.targets.len()
    }

    pub fn target_lengths(&self) -> Vec<usize> {
        self.targets.iter().map(Vec::len).collect()
    }

    /// The position of an entry in `values`.
    pub fn at(&self, t: usize, n: usize, c: usize) -> usize {
        (t * self.items() + n) * self.classes + c
    }

    /// The frames of one item up to its length, as (frames, classes).
    pub fn item(&self, n: usize) -> Vec<f64> {
        (0..self.input_lengths[n])
            .flat_map(|t| {
                self.values[self.at(t, n, 0)..][..self.classes]
                    .iter()
                    .copied()
            })
            .collect()
    }

    pub fn truth(&self, n: usize) -> Truth {
        recursion(&self.item(n), self.classes, &self.targets[n], self.blank)
    }

    /// The same problem after a log_softmax over the classes.
    pub fn log_softmax(&self) -> Problem {
        let mut problem = self.clone();
        for frame in problem.values.chunks_exact_mut(self.classes) {
            let largest = frame.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = frame.iter().map(|x| (x - largest).exp()).sum();
            frame
                .iter_mut()
                .for_each(|x| *x = (*x - largest) - sum.ln());
        }
        problem
    }

    /// The reduced loss and the gradient of `sum(upstream * loss)` at `values`, as log-probabilities.
    pub fn expected(
        &self,
        options: &CtcLossOptions,
        upstream: Option<&[f64]>,
    ) -> (Vec<f64>, Vec<f64>) {
        self.expect(
            options,
            upstream,
            |weight, log_prob, posterior, feasible| match (options.gradient, feasible) {
                (GradientKind::Exact, _) => -weight * posterior,
                (GradientKind::Torch, true) if log_prob > f64::NEG_INFINITY => {
                    weight * (log_prob.exp() - posterior)
                }
                (GradientKind::Torch, _) => f64::NAN,
            },
        )
    }

    /// The reduced loss and the gradient at `values`, as logits. Here the kind of gradient says nothing.
    pub fn expected_with_logits(
        &self,
        options: &CtcLossOptions,
        upstream: Option<&[f64]>,
    ) -> (Vec<f64>, Vec<f64>) {
        self.log_softmax().expect(
            options,
            upstream,
            |weight, log_prob, posterior, feasible| {
                if feasible {
                    weight * (log_prob.exp() - posterior)
                } else {
                    0.0
                }
            },
        )
    }

    fn expect(
        &self,
        options: &CtcLossOptions,
        upstream: Option<&[f64]>,
        entry: impl Fn(f64, f64, f64, bool) -> f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let items = self.items();
        let mut losses = Vec::with_capacity(items);
        let mut gradient = vec![0.0; self.values.len()];
        for n in 0..items {
            let truth = self.truth(n);
            let length = self.targets[n].len().max(1) as f64;
            let upstream = |i: usize| upstream.map_or(1.0, |upstream| upstream[i]);
            let weight = match options.reduction {
                Reduction::None => upstream(n),
                Reduction::Sum => upstream(0),
                Reduction::Mean => upstream(0) / length / items as f64,
            };
            let feasible = truth.loss != f64::INFINITY;
            let zeroed = options.zero_infinity && !feasible;
            losses.push(match options.reduction {
                _ if zeroed => 0.0,
                Reduction::Mean => truth.loss / length / items as f64,
                _ => truth.loss,
            });
            if zeroed {
                continue;
            }
            for t in 0..self.input_lengths[n] {
                for c in 0..self.classes {
                    let i = self.at(t, n, c);
                    let posterior = truth.posterior[t * self.classes + c];
                    gradient[i] = entry(weight, self.values[i], posterior, feasible);
                }
            }
        }
        let loss = match options.reduction {
            Reduction::None => losses,
            Reduction::Mean | Reduction::Sum => vec![losses.iter().sum()],
        };
        (loss, gradient)
    }
}

/// (a, b, c) to (b, a, c).
pub fn swap_axes(values: &[f64], a: usize, b: usize, c: usize) -> Vec<f64> {
    assert_eq!(values.len(), a * b * c);
    (0..b)
        .flat_map(|j| (0..a).map(move |i| (i, j)))
        .flat_map(|(i, j)| values[(i * b + j) * c..][..c].iter().copied())
        .collect()
}
