//! Greedy decoding: the best class of each frame, repeats merged, blanks dropped.

use super::Hypothesis;
use crate::cpu_input::{check_row, rows};
use crate::distribution::{check_normalised, log_softmax};
use crate::options::{InputKind, InputLayout};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use crate::spans::TokenSpan;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// The options of [`greedy_decode`] and [`greedy_decode_batch`].
///
/// ```
/// use candle_ctc::{GreedyOptions, InputKind, InputLayout};
/// let opts = GreedyOptions { input: InputKind::Logits, ..GreedyOptions::batch_major() };
/// assert_eq!((opts.blank, opts.layout), (0, InputLayout::BatchMajor));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GreedyOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`]. Functions of one utterance take a
    /// batch dimension of 1 in either place, and ignore this.
    pub layout: InputLayout,
    /// The kind of input. Default [`InputKind::LogProbs`].
    pub input: InputKind,
    /// Whether to check that log-probabilities are normalised: see [`InputKind::LogProbs`]. Default
    /// `true`.
    #[doc(alias = "normalized")]
    pub normalised: bool,
}

impl Default for GreedyOptions {
    fn default() -> Self {
        Self {
            blank: 0,
            layout: InputLayout::default(),
            input: InputKind::default(),
            normalised: true,
        }
    }
}

impl GreedyOptions {
    /// The defaults with [`InputLayout::BatchMajor`].
    pub fn batch_major() -> Self {
        Self {
            layout: InputLayout::BatchMajor,
            ..Self::default()
        }
    }

    fn call(&self, function: &'static str) -> Call {
        Call::new(
            function,
            self.input,
            self.normalised,
            self.blank,
            self.layout,
        )
    }
}

/// Decodes one utterance greedily: takes the most probable class of each frame, merges repeats and drops blanks. That
/// is the labelling of the single best path (Graves et al. 2006, section 3.2,
/// <https://doi.org/10.1145/1143844.1143891>).
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1, `(1, T, C)` or `(T, 1, C)`, for either layout; natural
///   logarithms, or logits with [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. `T` may be 0.
/// * `opts` - see [`GreedyOptions`].
///
/// On a GPU the best classes are found there, and one tensor of `3·T` numbers is read back, besides up to three
/// frames for the check of log-probabilities.
///
/// # Returns
///
/// The [`Hypothesis`]. Its score is the log-probability of the best path, in nats; a span covers the consecutive frames
/// of a token, with their mean log-probability. Of equal classes in a frame, the one with the smallest number is taken
/// (on a GPU, the one that candle's `argmax` returns). A frame whose log-probabilities are all −inf makes the score
/// −inf. An utterance without frames has no tokens and a score of 0.
///
/// # Errors
///
/// If the shape, the dtype or the blank does not fit, if a frame contains NaN or +inf (or logits that are all −inf), or
/// if the input cannot be log-probabilities (see [`InputKind::LogProbs`]); the message names the frame.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{GreedyOptions, greedy_decode};
///
/// # fn main() -> candle_core::Result<()> {
/// let p = [[0.1f32, 0.8, 0.1], [0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let best = greedy_decode(&log_probs, GreedyOptions::default())?;
/// assert_eq!(best.tokens, [1, 2]);
/// assert_eq!((best.spans[0].start, best.spans[0].end), (0, 2));
/// assert!((best.score.exp() - 0.8 * 0.7 * 0.8 * 0.7).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "best_path")]
pub fn greedy_decode(log_probs: &Tensor, opts: GreedyOptions) -> Result<Hypothesis> {
    let call = opts.call("greedy_decode");
    let log_probs = validate::utterance(call.function, log_probs)?;
    let plan = validate::plan_for_utterance(call, &log_probs)?;
    Ok(best_paths(&call, &plan, &log_probs)?.swap_remove(0))
}

/// [`greedy_decode`] for each utterance of a batch.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)` for one item; otherwise as
///   for [`greedy_decode`]. `T` and `N` may be 0.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `opts` - see [`GreedyOptions`].
///
/// On a GPU the best classes are found there, and one tensor of `3·T·N` numbers is read back, besides up to three
/// frames per item for the check of log-probabilities.
///
/// # Returns
///
/// One [`Hypothesis`] per item, in order, as [`greedy_decode`] returns it.
///
/// # Errors
///
/// As for [`greedy_decode`], and if lengths do not fit the batch; the message names the item and the frame.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{GreedyOptions, InputKind, greedy_decode_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::randn(0f32, 1., (2, 6, 4), &Device::Cpu)?; // (N, T, C)
/// let opts = GreedyOptions { input: InputKind::Logits, ..GreedyOptions::batch_major() };
/// let best = greedy_decode_batch(&logits, [6, 0], opts)?;
/// assert_eq!((best.len(), best[1].tokens.len()), (2, 0));
/// # Ok(())
/// # }
/// ```
pub fn greedy_decode_batch(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    opts: GreedyOptions,
) -> Result<Vec<Hypothesis>> {
    let call = opts.call("greedy_decode_batch");
    let plan = validate::plan_for_decoding(call, log_probs, input_lengths)?;
    best_paths(&call, &plan, log_probs)
}

fn best_paths(call: &Call, plan: &Plan, log_probs: &Tensor) -> Result<Vec<Hypothesis>> {
    let log_probs = log_probs.detach();
    check_normalised(call, plan, &log_probs, 0)?;
    if log_probs.device().is_cpu() || log_probs.dims().contains(&0) {
        on_host(call, plan, &log_probs.to_device(&Device::Cpu)?)
    } else {
        on_device(call, plan, &log_probs)
    }
}

fn on_host(call: &Call, plan: &Plan, log_probs: &Tensor) -> Result<Vec<Hypothesis>> {
    (0..plan.input.batch)
        .into_par_iter()
        .map(|item| {
            let rows = rows(plan, log_probs);
            let mut row = vec![0.0; plan.input.classes];
            let mut path = Path::new(plan.input.blank);
            for frame in 0..plan.input_lengths[item] {
                rows.read(item, frame, 0, &mut row);
                check_row(call, item, frame, &row)?;
                // Before the softmax, whose rounding makes equals of logits that are not.
                let class = first_largest(&row);
                if call.input == InputKind::Logits {
                    log_softmax(&mut row);
                }
                path.push(class as u32, row[class]);
            }
            Ok(path.finish())
        })
        .collect()
}

/// The index of the largest entry; the first of equal entries.
fn first_largest(row: &[f64]) -> usize {
    // The maximum first, in vector code; then its index.
    let best = row
        .iter()
        .fold(f64::NEG_INFINITY, |a, &x| if x > a { x } else { a });
    let class = row.iter().position(|&x| x == best);
    class.unwrap_or_default()
}

/// The same, with the work over the classes on the tensor's device.
fn on_device(call: &Call, plan: &Plan, log_probs: &Tensor) -> Result<Vec<Hypothesis>> {
    let Call { function, .. } = call;
    // Both types hold every class number exactly: f32 up to 2^24, and the class numbers of f64 input are u32.
    let dtype = match log_probs.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    if dtype == DType::F32 && plan.input.classes > 1 << 24 {
        bail!(
            "{function}: C = {} classes; at most 2^24 on this device",
            plan.input.classes
        )
    }
    let class = log_probs.argmax(D::Minus1)?.to_dtype(dtype)?;
    let best = log_probs.max(D::Minus1)?.to_dtype(dtype)?;
    // A NaN anywhere in the row shows up in the sum. For logits it is the sum of the softmax, relative to the largest.
    let sum = match call.input {
        InputKind::LogProbs => log_probs.sum(D::Minus1)?.to_dtype(dtype)?,
        InputKind::Logits => {
            let below = log_probs
                .to_dtype(dtype)?
                .broadcast_sub(&best.unsqueeze(D::Minus1)?)?;
            below.exp()?.sum(D::Minus1)?
        }
    };
    // One copy to the host, and the conversion there: Metal has no f64.
    let found = Tensor::stack(&[class, best, sum], 0)?.to_device(&Device::Cpu)?;
    let found = found.to_dtype(DType::F64)?.flatten_all()?;
    let found = found.to_vec1::<f64>()?;
    let (classes, rest) = found.split_at(plan.input.frames * plan.input.batch);
    let (best, sums) = rest.split_at(plan.input.frames * plan.input.batch);
    let mut paths: Vec<Path> = (0..plan.input.batch)
        .map(|_| Path::new(plan.input.blank))
        .collect();
    let mut wrong: Option<(usize, usize)> = None;
    for row in 0..classes.len() {
        let (frame, item) = plan.input.frame_and_item(row);
        if frame >= plan.input_lengths[item] {
            continue;
        }
        if sums[row].is_nan() || best[row] == f64::INFINITY {
            wrong = Some(wrong.map_or((item, frame), |w| w.min((item, frame))));
        }
        let log_prob = match call.input {
            InputKind::LogProbs => best[row],
            InputKind::Logits => -sums[row].ln(),
        };
        paths[item].push(classes[row] as u32, log_prob);
    }
    if let Some((item, frame)) = wrong {
        let (name, or) = match call.input {
            InputKind::LogProbs => ("log_probs", ""),
            InputKind::Logits => ("logits", ", or nothing but -inf,"),
        };
        bail!("{function}: {name} of item {item} have NaN or +inf{or} at frame {frame}")
    }
    Ok(paths.into_iter().map(Path::finish).collect())
}

/// The best path so far.
struct Path {
    blank: u32,
    last: u32,
    frames: usize,
    /// The sum over the frames of the open span.
    run: f64,
    hypothesis: Hypothesis,
}

impl Path {
    fn new(blank: usize) -> Self {
        Self {
            blank: blank as u32,
            last: blank as u32,
            frames: 0,
            run: 0.0,
            hypothesis: Hypothesis::default(),
        }
    }

    fn push(&mut self, class: u32, log_prob: f64) {
        if class != self.last {
            self.close();
            self.last = class;
            self.run = 0.0;
            if class != self.blank {
                self.hypothesis.tokens.push(class);
                self.hypothesis.spans.push(TokenSpan {
                    token: class,
                    start: self.frames,
                    end: self.frames,
                    score: 0.0,
                });
            }
        }
        self.run += log_prob;
        self.hypothesis.score += log_prob;
        self.frames += 1;
    }

    fn close(&mut self) {
        if self.last != self.blank
            && let Some(span) = self.hypothesis.spans.last_mut()
        {
            span.end = self.frames;
            span.score = (self.run / (span.end - span.start) as f64) as f32;
        }
    }

    fn finish(mut self) -> Hypothesis {
        self.close();
        self.hypothesis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(input: InputKind) -> Call {
        let opts = GreedyOptions {
            blank: 1,
            input,
            ..GreedyOptions::batch_major()
        };
        opts.call("greedy_decode_batch")
    }

    fn plan(call: Call, log_probs: &Tensor) -> Plan {
        validate::plan_for_decoding(call, log_probs, [40, 0, 33]).unwrap()
    }

    // The GPU code path, here with the CPU as the device.
    #[test]
    fn both_ways_agree() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let logits = Tensor::randn(0f32, 1., (3, 40, 5), &Device::Cpu).unwrap();
            let log_probs = logits.to_dtype(dtype).unwrap();
            let call = call(InputKind::LogProbs);
            let plan = plan(call, &log_probs);
            let host = on_host(&call, &plan, &log_probs).unwrap();
            assert_eq!(host, on_device(&call, &plan, &log_probs).unwrap());
            assert!(host[1].tokens.is_empty() && host[1].score == 0.0);
        }
    }

    #[test]
    fn both_ways_agree_on_logits() {
        let call = call(InputKind::Logits);
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let logits = Tensor::randn(80f32, 3., (3, 40, 5), &Device::Cpu).unwrap();
            let logits = logits.to_dtype(dtype).unwrap();
            let plan = plan(call, &logits);
            let host = on_host(&call, &plan, &logits).unwrap();
            let device = on_device(&call, &plan, &logits).unwrap();
            for (a, b) in host.iter().zip(device) {
                assert_eq!(a.tokens, b.tokens);
                assert!((a.score - b.score).abs() < 1e-4, "{dtype:?} {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn both_ways_tell_logits_apart_that_a_softmax_makes_equal() {
        let call = call(InputKind::Logits);
        let logits = Tensor::new(&[[[-1e-30f32, -9.0, 0.0]]], &Device::Cpu).unwrap();
        let plan = validate::plan_for_decoding(call, &logits, [1]).unwrap();
        for decode in [on_host, on_device] {
            assert_eq!(decode(&call, &plan, &logits).unwrap()[0].tokens, [2]);
        }
    }

    #[test]
    fn the_gpu_code_path_takes_as_many_classes_as_f32_tells_apart() {
        const MOST: usize = 1 << 24;
        let call = call(InputKind::LogProbs);
        let plan = |input: &Tensor| validate::plan_for_decoding(call, input, [1]).unwrap();
        // The last class is the largest.
        let most = Tensor::arange(0f32, MOST as f32, &Device::Cpu).unwrap();
        let most = most.reshape((1, 1, MOST)).unwrap();
        let found = on_device(&call, &plan(&most), &most).unwrap();
        assert_eq!(found[0].tokens, [MOST as u32 - 1]);
        let more = Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let more = more.broadcast_as((1, 1, MOST + 1)).unwrap();
        let error = on_device(&call, &plan(&more), &more).unwrap_err();
        assert!(error.to_string().contains("at most 2^24"), "{error}");
    }

    #[test]
    fn both_ways_refuse_nan_within_the_length_only() {
        for (frame, fails) in [(32, true), (33, false)] {
            let mut values = vec![-1f32; 3 * 40 * 5];
            values[(2 * 40 + frame) * 5 + 3] = f32::NAN;
            let log_probs = Tensor::from_vec(values, (3, 40, 5), &Device::Cpu).unwrap();
            for call in [call(InputKind::LogProbs), call(InputKind::Logits)] {
                let plan = plan(call, &log_probs);
                let host = on_host(&call, &plan, &log_probs);
                for result in [host, on_device(&call, &plan, &log_probs)] {
                    match result {
                        Ok(_) => assert!(!fails),
                        Err(error) => {
                            let message = error.to_string();
                            assert!(fails && message.contains("item 2"), "{message}");
                            assert!(message.contains("frame 32"), "{message}");
                        }
                    }
                }
            }
        }
    }
}
