//! Minimum-Bayes-risk decoding of an n-best list.

use candle_core::{Result, bail};

/// The index of the hypothesis with the least expected distance to what was said: minimum-Bayes-risk decoding of an
/// n-best list (Goel and Byrne 2000, <https://doi.org/10.1006/csla.2000.0138>).
///
/// The most probable transcript is the best guess if any error spoils all of it. To make few word errors, another one
/// may be better: one that has much in common with many others.
///
/// # Arguments
///
/// * `hypotheses` - the list, in any form that `distance` takes: texts, labels, [`Hypothesis`](crate::Hypothesis).
/// * `weights` - the probability of each to be what was said, such as the scores of
///   [`score_transcripts`](crate::score_transcripts) with `softmax: true`. They need not add up to 1.
/// * `distance` - `distance(said, found)` is the cost of finding `found` where `said` was said, such as the number of
///   word errors. It is called for all pairs, K² times.
///
/// # Returns
///
/// The index of the hypothesis `found` with the smallest `Σ_k weights[k] · distance(hypotheses[k], found)`: the first
/// one if several have it.
///
/// # Errors
///
/// If there is no hypothesis or not one weight for each, if a weight is negative or not finite, if all are 0, or if a
/// distance is NaN or infinite.
///
/// ```
/// use candle_ctc::minimum_bayes_risk;
/// use candle_ctc::text::word_error_rate;
///
/// # fn main() -> candle_core::Result<()> {
/// let texts = ["we met a tall boy", "we met the small boys", "we met the tall boys"];
/// let errors = |said: &&str, found: &&str| word_error_rate(said, found).errors() as f64;
/// // The last one is the least probable. Its expected errors are 0.4 · 2 + 0.35 · 1; those of the first are 0.35 · 3 +
/// // 0.25 · 2, and those of the second 0.4 · 3 + 0.25 · 1.
/// assert_eq!(minimum_bayes_risk(&texts, &[0.4, 0.35, 0.25], errors)?, 2);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "mbr")]
pub fn minimum_bayes_risk<H>(
    hypotheses: &[H],
    weights: &[f64],
    distance: impl Fn(&H, &H) -> f64,
) -> Result<usize> {
    check(hypotheses.len(), weights)?;
    let mut best = (0, f64::INFINITY);
    for (index, found) in hypotheses.iter().enumerate() {
        let mut risk = 0.0;
        for (other, (said, weight)) in hypotheses.iter().zip(weights).enumerate() {
            let cost = distance(said, found);
            if !cost.is_finite() {
                bail!(
                    "minimum_bayes_risk: the distance from hypothesis {other} to hypothesis {index} is {cost}; \
                     expected a finite number"
                )
            }
            risk += weight * cost;
        }
        if !risk.is_finite() {
            bail!(
                "minimum_bayes_risk: the weights times the distances of hypothesis {index} add up to {risk}; scale the \
                 weights so that their sum is 1"
            )
        }
        if risk < best.1 {
            best = (index, risk);
        }
    }
    Ok(best.0)
}

fn check(hypotheses: usize, weights: &[f64]) -> Result<()> {
    if hypotheses == 0 {
        bail!("minimum_bayes_risk: there are no hypotheses; give at least one")
    }
    if weights.len() != hypotheses {
        bail!(
            "minimum_bayes_risk: there are {hypotheses} hypotheses and {} weights; give one weight for each",
            weights.len()
        )
    }
    if let Some(index) = weights.iter().position(|x| !x.is_finite() || *x < 0.0) {
        bail!(
            "minimum_bayes_risk: weights[{index}] = {}; expected a probability, at least 0 (log-likelihoods become \
             probabilities by a softmax)",
            weights[index]
        )
    }
    if weights.iter().all(|&weight| weight == 0.0) {
        bail!("minimum_bayes_risk: all {hypotheses} weights are 0; at least one must be positive")
    }
    Ok(())
}
