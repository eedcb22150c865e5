//! Measures of confidence, by their definitions.

use candle_ctc::{Aggregation, ConfidenceMeasure};

/// How sure a distribution is; `None` where these formulas lose too many digits.
pub fn confidence(measure: ConfidenceMeasure, probabilities: &[f64]) -> Option<f64> {
    let classes = probabilities.len() as f64;
    if probabilities.len() < 2 {
        return Some(1.0);
    }
    let positive = || probabilities.iter().copied().filter(|p| *p > 0.0);
    let power_sum = |alpha: f64| positive().map(|p| p.powf(alpha)).sum::<f64>();
    let mut sorted = probabilities.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.reverse();
    let (entropy, of_uniform) = match measure {
        ConfidenceMeasure::Probability => return Some(sorted[0]),
        ConfidenceMeasure::Margin => return Some(sorted[0] - sorted[1]),
        ConfidenceMeasure::Gibbs { alpha } | ConfidenceMeasure::Tsallis { alpha }
            if !(0.05..=8.0).contains(&alpha) =>
        {
            return None;
        }
        ConfidenceMeasure::Tsallis { alpha } if alpha != 1.0 => {
            if (alpha - 1.0).abs() < 0.01 {
                return None;
            }
            let of = |sum: f64| (1.0 - sum) / (alpha - 1.0);
            (of(power_sum(alpha)), of(classes.powf(1.0 - alpha)))
        }
        ConfidenceMeasure::Gibbs { alpha } | ConfidenceMeasure::Tsallis { alpha } => {
            let terms = positive().map(|p| p.powf(alpha) * p.ln());
            let of_uniform = -alpha * classes.powf(1.0 - alpha) * (1.0 / classes).ln();
            (-alpha * terms.sum::<f64>(), of_uniform)
        }
        other => panic!("no rule for {other:?}"),
    };
    Some(1.0 - entropy / of_uniform)
}

/// The confidence in a span from that of its frames.
pub fn aggregated(aggregation: Aggregation, frames: &[f64]) -> f64 {
    let (mut sum, mut product, mut least) = (0.0, 1.0, f64::INFINITY);
    for &x in frames {
        sum += x;
        product *= x;
        if x < least {
            least = x;
        }
    }
    match aggregation {
        _ if frames.is_empty() => 0.0,
        Aggregation::Mean => sum / frames.len() as f64,
        Aggregation::Product => product,
        Aggregation::Minimum => least,
        other => panic!("no rule for {other:?}"),
    }
}

/// The FASTQ character of a probability: as many above `!` as there are qualities whose lower bound it reaches. `None`
/// too close to a bound.
pub fn fastq(probability: f64) -> Option<char> {
    let bounds = (1..=93).map(|quality| 10f64.powf(-(f64::from(quality) - 0.5) / 10.0));
    let error = 1.0 - probability;
    let near = |bound: f64| (error / bound - 1.0).abs() < 1e-9;
    if bounds.clone().any(near) {
        return None;
    }
    // NaN, and an error below 0, which has no logarithm, reach none.
    let reached = bounds.filter(|bound| error >= 0.0 && error <= *bound);
    Some(char::from(b'!' + reached.count() as u8))
}
