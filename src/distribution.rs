//! Rows of the input as distributions over the classes: the log-softmax of logits on the host, and the sanity check for
//! logits or probabilities passed as log-probabilities.

use crate::cpu_input::on_host;
use crate::cpu_input::{check_row, rows};
use crate::memory::{check_room, filled_room};
use crate::options::InputLayout;
use crate::problem::plan::{InputKind, Plan};
use crate::problem::validate::Call;
use candle_core::{DType, Device, IndexOp, Result, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Replaces the logits of a row by their log-softmax. At least one entry must be finite, and none NaN or +inf.
///
/// The difference from the largest entry is taken first, so that a common offset costs no precision.
pub(crate) fn log_softmax(row: &mut [f64]) {
    /// A term below this does not change an f64 sum of at least 1.
    const NEGLIGIBLE: f64 = -50.0;
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for x in &mut *row {
        *x -= largest;
        if *x > NEGLIGIBLE {
            sum += x.exp();
        }
    }
    let log_sum = sum.ln();
    row.iter_mut().for_each(|x| *x -= log_sum);
}

/// Log-probabilities on the host, in the shape of `input`: the input itself, or the log-softmax of logits, in f64 for
/// f64 and in f32 for all other dtypes. Frames beyond an item's length are 0 in the latter. Every row of logits has
/// passed [`check_row`].
pub(crate) fn log_probs(call: &Call, plan: &Plan, input: &Tensor) -> Result<Tensor> {
    match call.input {
        InputKind::LogProbs => on_host(input),
        InputKind::Logits => checked_log_probs(call, plan, input),
    }
}

/// [`log_probs`], with [`check_row`] also applied to rows of log-probabilities.
pub(crate) fn checked_log_probs(call: &Call, plan: &Plan, input: &Tensor) -> Result<Tensor> {
    let host = on_host(input)?;
    {
        let rows = rows(plan, &host);
        let mut row = vec![0.0; plan.input.classes];
        for (item, &frames) in plan.input_lengths.iter().enumerate() {
            for frame in 0..frames {
                rows.read(item, frame, 0, &mut row);
                check_row(call, item, frame, &row)?;
            }
        }
    }
    match (call.input, host.dtype()) {
        (InputKind::LogProbs, _) => Ok(host),
        (InputKind::Logits, DType::F64) => normalised::<f64>(call, plan, &host),
        (InputKind::Logits, _) => normalised::<f32>(call, plan, &host),
    }
}

fn normalised<T: WithDType>(call: &Call, plan: &Plan, host: &Tensor) -> Result<Tensor> {
    let what = format!("{}: log-probabilities", call.function);
    let mut values = filled_room(&what, host.dims(), T::zero())?;
    let rows = rows(plan, host);
    values
        .par_chunks_mut(plan.input.classes)
        .enumerate()
        .for_each_init(
            || vec![0.0; plan.input.classes],
            |row, (i, out)| {
                let (frame, item) = plan.input.frame_and_item(i);
                if frame < plan.input_lengths[item] {
                    rows.read(item, frame, 0, row);
                    log_softmax(row);
                    for (out, &x) in out.iter_mut().zip(&*row) {
                        *out = T::from_f64(x);
                    }
                }
            },
        );
    Tensor::from_vec(values, host.dims(), &Device::Cpu)
}

/// Checks the first, the middle and the last frame of each item by the rule that [`InputKind::LogProbs`] documents. The
/// input may be on any device. `first` is the number of the first frame, for messages.
pub(crate) fn check_normalised(
    call: &Call,
    plan: &Plan,
    input: &Tensor,
    first: usize,
) -> Result<()> {
    if call.input == InputKind::Logits || !call.normalised {
        return Ok(());
    }
    let mut places = Vec::new();
    for (item, &frames) in plan.input_lengths.iter().enumerate() {
        let some = [0, frames / 2, frames.saturating_sub(1)];
        places.extend(some.into_iter().take(frames).map(|frame| (item, frame)));
    }
    if places.is_empty() {
        return Ok(());
    }
    let row = |&(item, frame): &(usize, usize)| match plan.input.layout {
        None => input.i(frame),
        Some(InputLayout::TimeMajor) => input.i((frame, item)),
        Some(InputLayout::BatchMajor) => input.i((item, frame)),
    };
    let star = call.star.map(|star| star as usize);
    let most = most(plan.input.classes, input.dtype());
    let mut rows: Vec<((usize, usize), RowSums)> = Vec::new();
    // A batch of thousands of items is read in parts, so that the copies stay small.
    let at_once = (ENTRIES_AT_ONCE / plan.input.classes).clamp(1, ROWS_AT_ONCE);
    for places in places.chunks(at_once) {
        let what = format!("{}: a row to check", call.function);
        check_room::<f64>(&what, 3 * places.len(), &[plan.input.classes])?;
        // One small copy from a GPU, and the conversion on the host: Metal has no f64.
        let picked = places.iter().map(row).collect::<Result<Vec<_>>>()?;
        let picked = on_host(&Tensor::stack(&picked, 0)?)?;
        let picked = picked.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let sums = places.iter().zip(&picked);
        rows.extend(sums.filter_map(|(place, row)| Some((*place, RowSums::of(row, star)?))));
    }
    for item in rows.chunk_by(|a, b| a.0.0 == b.0.0) {
        let high = item.iter().find(|(_, row)| row.exponentials > most);
        let low = item
            .iter()
            .all(|(_, row)| row.exponentials < LEAST && !row.masked);
        if let Some(&((item, frame), row)) = high.or(item.first().filter(|_| low)) {
            return row.refuse(call, item, first + frame);
        }
    }
    Ok(())
}

/// The most rows that are read at a time, and the most entries in them unless a single row has more.
const ROWS_AT_ONCE: usize = 4096;
const ENTRIES_AT_ONCE: usize = 1 << 22;

/// The smallest valid sum of exponentials in a row without masks.
const LEAST: f64 = 0.1;

/// An entry at or below this is a mask.
const MASK: f64 = -50.0;

/// The largest sum of exponentials that rounding can explain, for a distribution with one star column (at most 1)
/// beside it and a log-softmax computed in `dtype` throughout. With u = ε/2:
///
/// - the difference, the logarithm and the result are each rounded once, so `log p` has an error of at most 3u (|log p|
///   + ln C), and Σ p e^(3u (|log p| + ln C)) is at most C^(6u) = C^(3ε) (the worst case is p = 1/C);
/// - a sequential sum (candle's, in half precision) loses at most a relative u with each of C terms, so the softmax's
///   denominator may be too small by a factor of 1 + C u.
fn most(classes: usize, dtype: DType) -> f64 {
    let epsilon = match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f32::EPSILON.into(),
        DType::F16 => half::f16::EPSILON.into(),
        _ => half::bf16::EPSILON.into(),
    };
    let classes = classes as f64;
    2.0 * classes.powf(3.0 * epsilon) * (1.0 + classes * epsilon / 2.0)
}

/// The statistics of a row for the check.
#[derive(Clone, Copy)]
struct RowSums {
    /// The sum of the exponentials of the entries.
    exponentials: f64,
    /// Whether any class is masked, or left out because a star stands for it.
    masked: bool,
    /// The sum of the entries, if all are in [0, 1].
    probabilities: Option<f64>,
}

impl RowSums {
    /// `None` for a row with NaN or +inf, which other checks report.
    fn of(row: &[f64], star: Option<usize>) -> Option<Self> {
        let entries = || {
            let all = row.iter().enumerate();
            all.filter(|&(class, _)| Some(class) != star)
                .map(|(_, &x)| x)
        };
        entries().all(|x| x < f64::INFINITY).then(|| Self {
            exponentials: entries().map(f64::exp).sum(),
            masked: star.is_some_and(|star| star < row.len()) || entries().any(|x| x <= MASK),
            probabilities: entries()
                .all(|x| (0.0..=1.0).contains(&x))
                .then(|| entries().sum()),
        })
    }

    fn refuse(self, call: &Call, item: usize, frame: usize) -> Result<()> {
        /// Tolerance for a sum of probabilities in half precision.
        const ABOUT: f64 = 0.1;
        let Call { function, .. } = call;
        let otherwise = "or set normalised: false if this is meant";
        match self.probabilities {
            Some(sum) if (sum - 1.0).abs() < ABOUT => bail!(
                "{function}: log_probs of item {item} look like probabilities: at frame {frame} \
                 they are from 0 to 1 and add up to {sum:.3}; take their .log(), give logits with \
                 input: InputKind::Logits, {otherwise}"
            ),
            _ => bail!(
                "{function}: log_probs of item {item} look like logits: at frame {frame} their \
                 exponentials add up to {}, not to 1; set input: InputKind::Logits, {otherwise}",
                // Three decimals, or scientific notation where these are not informative.
                match self.exponentials {
                    sum if (1e-2..1e6).contains(&sum) => format!("{sum:.3}"),
                    sum => format!("{sum:.3e}"),
                }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_softmax_keeps_its_digits() {
        for offset in [0.0, -1e12, 1e300] {
            let mut row = [offset, offset, f64::NEG_INFINITY];
            log_softmax(&mut row);
            assert_eq!(row[..2], [-(2f64.ln()); 2]);
            assert_eq!(row[2], f64::NEG_INFINITY);
        }
    }

    /// A log-softmax computed in `dtype` throughout, like candle's.
    fn rounded_log_softmax(logits: Vec<f32>, dtype: DType) -> Vec<f64> {
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let logits = logits.to_dtype(dtype).unwrap();
        let log_probs = candle_nn::ops::log_softmax(&logits, 0).unwrap();
        let log_probs = log_probs.to_dtype(DType::F64).unwrap();
        log_probs.to_vec1().unwrap()
    }

    /// Every log-probability too large by all that rounding can do, and a star beside them.
    #[test]
    fn the_largest_error_of_rounding_is_let_through() {
        for (dtype, epsilon) in [
            (DType::F32, f64::from(f32::EPSILON)),
            (DType::F16, half::f16::EPSILON.to_f64()),
            (DType::BF16, half::bf16::EPSILON.to_f64()),
        ] {
            for classes in [2, 40, 1000] {
                let count = classes as f64;
                let error = 3.0 * epsilon * count.ln() + (count * epsilon / 2.0).ln_1p();
                let mut row = vec![error - count.ln(); classes];
                row.push(0.0);
                let sum = RowSums::of(&row, None).unwrap().exponentials;
                let most = most(classes, dtype);
                assert!(sum <= most, "{dtype:?} {classes}: {sum} {most}");
            }
        }
    }

    #[test]
    fn what_rounding_explains_is_let_through_and_logits_are_not() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for classes in [2, 40, 1000, 5000, 50_000] {
                let most = most(classes, dtype);
                for scale in [0.0, 1.0, 8.0] {
                    let logits: Vec<f32> = (0..classes)
                        .map(|i| scale * (i as f32 * 0.37).sin())
                        .collect();
                    let log_probs = rounded_log_softmax(logits.clone(), dtype);
                    // Half of the bound is for a star.
                    let sum = RowSums::of(&log_probs, None).unwrap().exponentials;
                    assert!(
                        sum <= most / 2.0,
                        "{dtype:?} {classes} {scale}: {sum} {most}"
                    );
                    let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
                    let sum = RowSums::of(&logits, None).unwrap().exponentials;
                    assert!(classes == 2 || sum > most, "{dtype:?} {classes} {scale}");
                }
                // The smallest sum of exponentials that probabilities can have.
                let probabilities = vec![1.0 / classes as f64; classes];
                assert!(RowSums::of(&probabilities, None).unwrap().exponentials > most);
            }
        }
    }
}
