//! The CTC lattice state by state, in f64: posteriors of states, confidences of tokens and the best path.
//!
//! The states of a target are blank, l1, blank, l2, …, blank. Only those that lie on some path are visited, so a
//! target as long as its frames costs as little as it should. Nothing here shares code with the crate, or with
//! [`oracle::recursion`](super::oracle::recursion), which sums over the same paths; `tests/it/oracle.rs` compares them.

use std::ops::Range;

/// The logarithm of a probability, as a sum of two numbers: a log-probability of −1e9 does not round those that
/// it is added to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Log {
    high: f64,
    low: f64,
}

impl Log {
    const ZERO: Log = Log {
        high: f64::NEG_INFINITY,
        low: 0.0,
    };
    const ONE: Log = Log {
        high: 0.0,
        low: 0.0,
    };

    fn is_zero(self) -> bool {
        self.high == f64::NEG_INFINITY
    }

    /// The product with `e^x`.
    fn times(self, x: f64) -> Log {
        let sum = self.high + x;
        if sum == f64::NEG_INFINITY {
            return Log::ZERO;
        }
        // The rounding error of the sum, exactly (Knuth).
        let part = sum - self.high;
        let error = (self.high - (sum - part)) + (x - part);
        Log {
            high: sum,
            low: self.low + error,
        }
    }

    /// The logarithm of the quotient. `other` is not zero.
    fn over(self, other: Log) -> f64 {
        (self.high - other.high) + (self.low - other.low)
    }

    fn plus(self, other: Log) -> Log {
        if self.is_zero() || other.is_zero() {
            return if self.is_zero() { other } else { self };
        }
        let difference = other.over(self);
        let (larger, below) = if difference > 0.0 {
            (other, -difference)
        } else {
            (self, difference)
        };
        // e^-60 is 1e-26.
        if below < -60.0 {
            return larger;
        }
        Log {
            low: larger.low + below.exp().ln_1p(),
            ..larger
        }
    }

    fn ln(self) -> f64 {
        self.high + self.low
    }
}

/// One item: its log-probabilities (frames, classes) and its target.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub log_probs: &'a [f64],
    pub classes: usize,
    pub target: &'a [usize],
    pub blank: usize,
}

/// The sum over all paths of an item. Zero probability gives a loss of +inf and posteriors of 0.
pub struct Sums {
    pub loss: f64,
    total: Log,
    /// By frame: the first state of those that any path can be in, and the posteriors from there on.
    rows: Vec<(usize, Vec<f64>)>,
}

/// The largest entry of a row, and the sum of all of them relative to it: NaN if all are −inf.
pub fn softmax_scale(row: &[f64]) -> (f64, f64) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = row.iter().map(|x| (x - largest).exp()).sum();
    (largest, sum)
}

/// What `token_confidence_batch` says of a token.
pub struct Token {
    pub posterior: f64,
    pub probability: f64,
    pub expected_frame: f64,
    pub expected_frames: f64,
}

impl Item<'_> {
    pub fn frames(&self) -> usize {
        self.log_probs.len() / self.classes
    }

    fn states(&self) -> usize {
        2 * self.target.len() + 1
    }

    fn class(&self, state: usize) -> usize {
        match state % 2 {
            0 => self.blank,
            _ => self.target[state / 2],
        }
    }

    fn emission(&self, t: usize, state: usize) -> f64 {
        self.log_probs[t * self.classes + self.class(state)]
    }

    /// Whether a path may go from `state - 2` to `state`.
    fn skips(&self, state: usize) -> bool {
        state % 2 == 1 && state > 2 && self.target[state / 2] != self.target[state / 2 - 1]
    }

    /// The states at frame `t` that are at most two a frame away from either end.
    fn band(&self, t: usize) -> Range<usize> {
        let end = self.states();
        let low = (end - 1).saturating_sub(2 * (self.frames() - t) - 1);
        low..end.min(2 * t + 2).max(low)
    }

    /// Sums over all paths, each state and frame on its own.
    pub fn sums(&self) -> Sums {
        let (frames, states) = (self.frames(), self.states());
        let nothing = |loss| Sums {
            loss,
            total: Log::ZERO,
            rows: (0..frames).map(|_| (0, vec![0.0; states])).collect(),
        };
        if frames == 0 {
            return nothing(if states == 1 { 0.0 } else { f64::INFINITY });
        }
        let mut alpha: Vec<Vec<Log>> = Vec::with_capacity(frames);
        for t in 0..frames {
            let band = self.band(t);
            let before = |s: usize| {
                let low = self.band(t - 1).start;
                let row: &Vec<Log> = &alpha[t - 1];
                s.checked_sub(low)
                    .and_then(|k| row.get(k).copied())
                    .unwrap_or(Log::ZERO)
            };
            let row = band.map(|s| {
                let mut sum = Log::ONE;
                if t > 0 {
                    sum = before(s);
                    if s >= 1 {
                        sum = sum.plus(before(s - 1));
                    }
                    if self.skips(s) {
                        sum = sum.plus(before(s - 2));
                    }
                }
                sum.times(self.emission(t, s))
            });
            let row = row.collect();
            alpha.push(row);
        }
        let total = alpha[frames - 1].iter().fold(Log::ZERO, |a, &b| a.plus(b));
        if total.is_zero() {
            return nothing(f64::INFINITY);
        }
        let mut rows = vec![(0, Vec::new()); frames];
        // Without the emission of its own frame.
        let mut beta: Vec<Log> = vec![Log::ONE; alpha[frames - 1].len()];
        for t in (0..frames).rev() {
            let band = self.band(t);
            let joint = alpha[t].iter().zip(&beta).map(|(a, b)| {
                let joint = a.times(b.high).times(b.low);
                if joint.is_zero() {
                    0.0
                } else {
                    joint.over(total).exp()
                }
            });
            rows[t] = (band.start, joint.collect());
            if t > 0 {
                let after = |s: usize| {
                    let log = s.checked_sub(band.start).and_then(|k| beta.get(k));
                    log.map_or(Log::ZERO, |log| log.times(self.emission(t, s)))
                };
                beta = self
                    .band(t - 1)
                    .map(|s| {
                        let mut sum = after(s).plus(after(s + 1));
                        if s + 2 < states && self.skips(s + 2) {
                            sum = sum.plus(after(s + 2));
                        }
                        sum
                    })
                    .collect();
            }
        }
        Sums {
            loss: -total.ln(),
            total,
            rows,
        }
    }

    /// The largest log-probability of a path that reads as the target; −inf if there is none.
    pub fn best_score(&self) -> f64 {
        let frames = self.frames();
        if frames == 0 {
            return if self.target.is_empty() {
                0.0
            } else {
                f64::NEG_INFINITY
            };
        }
        let states = self.states();
        let mut before = vec![f64::NEG_INFINITY; states];
        let mut now = before.clone();
        for t in 0..frames {
            let band = self.band(t);
            // What is outside the band is not on any path, or was not reached yet.
            for s in band {
                let mut best = if t == 0 { 0.0 } else { before[s] };
                if t > 0 && s >= 1 {
                    best = best.max(before[s - 1]);
                }
                if t > 0 && self.skips(s) {
                    best = best.max(before[s - 2]);
                }
                now[s] = best + self.emission(t, s);
            }
            std::mem::swap(&mut before, &mut now);
        }
        let band = self.band(frames - 1);
        before[band]
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The log-probability of one path, given by the class of each frame.
    pub fn path_score(&self, path: &[u32]) -> f64 {
        assert_eq!(path.len(), self.frames());
        let entries = path.iter().zip(self.log_probs.chunks_exact(self.classes));
        entries.map(|(&class, row)| row[class as usize]).sum()
    }
}

impl Sums {
    /// The loss if the entries are logits: the log-sum-exp of each row is the largest entry and the logarithm of what
    /// the row sums up to beside it.
    pub fn loss_of_logits(&self, item: &Item) -> f64 {
        let mut total = self.total;
        for row in item.log_probs.chunks_exact(item.classes) {
            let (largest, sum) = softmax_scale(row);
            // A row of nothing but −inf is no distribution.
            if sum.is_nan() {
                return f64::NAN;
            }
            total = total.times(-largest).times(-sum.ln());
        }
        -total.ln()
    }

    /// (frames, classes): the posterior of each class.
    pub fn classes(&self, item: &Item) -> Vec<f64> {
        let mut posterior = vec![0.0; item.log_probs.len()];
        for (t, (first, row)) in self.rows.iter().enumerate() {
            for (s, x) in (*first..).zip(row) {
                posterior[t * item.classes + item.class(s)] += x;
            }
        }
        posterior
    }

    /// (frames, states): the posterior of each state.
    pub fn states(&self, item: &Item) -> Vec<f64> {
        let states = item.states();
        let mut posterior = vec![0.0; item.frames() * states];
        for (t, (first, row)) in self.rows.iter().enumerate() {
            posterior[t * states + first..][..row.len()].copy_from_slice(row);
        }
        posterior
    }

    /// The confidence of each token, from its definition. All 0 when there is no path.
    pub fn tokens(&self, item: &Item) -> Vec<Token> {
        let states = self.states(item);
        let rows = || states.chunks_exact(item.states());
        let weigh = |s: usize, f: &dyn Fn(usize) -> f64| {
            let terms = rows().enumerate().map(|(t, row)| row[s] * f(t));
            terms.sum::<f64>()
        };
        (0..item.target.len())
            .map(|i| {
                let s = 2 * i + 1;
                let frames = weigh(s, &|_| 1.0);
                if frames == 0.0 {
                    return Token {
                        posterior: 0.0,
                        probability: 0.0,
                        expected_frame: 0.0,
                        expected_frames: 0.0,
                    };
                }
                Token {
                    posterior: rows().map(|row| row[s]).fold(0.0, f64::max),
                    probability: weigh(s, &|t| item.emission(t, s).exp()) / frames,
                    expected_frame: weigh(s, &|t| t as f64) / frames,
                    expected_frames: frames,
                }
            })
            .collect()
    }
}
