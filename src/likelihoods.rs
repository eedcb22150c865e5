//! Differentiable log-likelihoods of an n-best list.

use crate::cpu::{self, Element, Real, SavedList};
use crate::distribution::check_normalised;
use crate::op;
use crate::options::{GradientKind, InputKind, InputLayout, Reduction};
use crate::problem::integers::is_on_gpu;
use crate::problem::plan::{Input, LossProblem, Plan, Targets, frames_needed};
use crate::problem::validate::{self, Call};
use crate::score::ScoreOptions;
use crate::unchanged::Sample;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// The log-likelihoods of many transcripts of one utterance, as a tensor that leads back to the input: for training on
/// an n-best list, such as minimum-risk training.
///
/// Each is `ln P(transcript)`, as [`score_transcripts`](crate::score_transcripts) returns it and to its precision: the
/// negative of a loss that is not reduced. The docs of [`ctc_loss`](crate::ctc_loss) say when it is −inf or NaN.
/// `docs/recipes.md` in the repository has minimum-risk training as an example.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1; natural logarithms, or logits with
///   [`InputKind::Logits`](crate::InputKind::Logits). f32, f64, f16 or bf16; any strides. `T` may be 0: the result then
///   leads back to nothing.
/// * `transcripts` - label sequences, without blanks. They may differ in length, be equal or empty.
/// * `opts` - see [`ScoreOptions`]. `per_token` divides the gradient, too; `softmax` is an error.
///
/// # Returns
///
/// A tensor `(K)` for K transcripts, in order, in nats; f64 for f64 and f32 for all other dtypes. A value has the same
/// bits whatever the other transcripts are, and for any number of threads.
///
/// The gradient has the shape and dtype of `log_probs`. With `w` the gradient of the K values, it is
/// `Σ_k w_k · posterior_k`, and for logits `Σ_k w_k · (posterior_k − softmax)`; on the CPU it is summed in f64. A
/// transcript of probability 0 adds nothing to it; a value of NaN makes all of it NaN.
///
/// On the CPU the memory for the gradient is that of one tensor of the input's size and `T` numbers for each distinct
/// label of each transcript. On a GPU the loss computes the values from a view that repeats the utterance, and its
/// backward pass takes K times the input's memory (in f32 for half precision), which candle sums up.
///
/// # Errors
///
/// As for [`score_transcripts`](crate::score_transcripts); also if there is no transcript, if `opts.softmax` is set, if
/// the lattices or the gradient do not fit into memory, and on Metal for f64.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_ctc::{ScoreOptions, transcript_log_likelihoods};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = Tensor::new(&[[0.6f64, 0.4], [0.5, 0.5]], &Device::Cpu)?.log()?; // (T, C)
/// let log_probs = Var::from_tensor(&log_probs)?;
/// let list = [vec![], vec![1u32]];
/// let values = transcript_log_likelihoods(&log_probs, &list, ScoreOptions::default())?; // (K)
/// assert!((values.to_vec1::<f64>()?[1] - 0.7f64.ln()).abs() < 1e-12);
///
/// let gradients = values.get(1)?.backward()?;
/// let gradient = gradients.get(&log_probs).unwrap().to_vec2::<f64>()?;
/// // Of the paths (1, 1), (blank, 1) and (1, blank), the first and the last have a 1 in frame 0.
/// assert!((gradient[0][1] - 0.4 / 0.7).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "n-best")]
#[doc(alias = "minimum risk")]
pub fn transcript_log_likelihoods<S: AsRef<[u32]>>(
    log_probs: &Tensor,
    transcripts: &[S],
    opts: ScoreOptions,
) -> Result<Tensor> {
    let call = opts.call("transcript_log_likelihoods");
    let input = validate::utterance_or(call.function, log_probs, || {
        "; of a batch, give one item at a time".into()
    })?;
    let transcripts: Vec<&[u32]> = transcripts.iter().map(AsRef::as_ref).collect();
    log_likelihoods(call, &input, &transcripts, opts)
}

fn log_likelihoods(
    call: Call,
    input: &Tensor,
    transcripts: &[&[u32]],
    opts: ScoreOptions,
) -> Result<Tensor> {
    let list = checked(call, input, transcripts, opts)?;
    let Input {
        frames, classes, ..
    } = list.plan.input;
    if frames == 0 {
        list.without_frames(input)
    } else if is_on_gpu(input) {
        list.on_gpu(input)
    } else {
        validate::check_rows(call.function, call.input_name(), classes)?;
        let saved = input.track_op().then(OnceLock::new);
        let list = Arc::new(list);
        input.apply_op1(ListForward { list, saved })
    }
}

fn checked(call: Call, input: &Tensor, transcripts: &[&[u32]], opts: ScoreOptions) -> Result<List> {
    let function = call.function;
    if opts.softmax {
        bail!(
            "{function}: softmax: true asks for probabilities, but the result is log-likelihoods; take the softmax of \
             the result, as candle_nn::ops::softmax(&values, 0)"
        )
    }
    if transcripts.is_empty() {
        bail!("{function}: there are no transcripts; give at least one")
    }
    let alone = validate::plan_for_transcripts(call, input, input.dims()[0], &[transcripts])?;
    check_normalised(&call, &alone, &input.detach(), 0)?;
    let lengths = transcripts.iter().map(|labels| labels.len());
    let ends = lengths.scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let plan = Plan {
        input: Input {
            batch: transcripts.len(),
            ..alone.input
        },
        input_lengths: vec![alone.input.frames; transcripts.len()],
        labels: transcripts.concat(),
        label_offsets: [0].into_iter().chain(ends).collect(),
    };
    Ok(List {
        plan,
        per_token: opts.per_token,
    })
}

/// A checked n-best list.
struct List {
    /// Each transcript is an item. The input has no dimension for them: all items read the same frames.
    plan: Plan,
    per_token: bool,
}

impl List {
    fn len(&self) -> usize {
        self.plan.input.batch
    }

    /// What the log-likelihood of transcript `k` is divided by.
    fn divisor(&self, k: usize) -> f64 {
        match self.per_token {
            true => self.plan.target_length(k).max(1) as f64,
            false => 1.0,
        }
    }

    /// The value of a transcript, given its loss: −inf where [`cpu::list_gradient`] counts it as impossible.
    fn value<R: Real>(&self, k: usize, loss: f64) -> R {
        if R::is_infinite_loss(loss) {
            return R::narrow(f64::NEG_INFINITY);
        }
        // 0 − x, so that a certain transcript has 0 and not −0.
        R::narrow((0.0 - loss) / self.divisor(k))
    }

    /// The values for an utterance without frames.
    fn without_frames(&self, input: &Tensor) -> Result<Tensor> {
        let value = |k| match frames_needed(self.plan.target(k)) {
            0 => 0.0,
            _ => f64::NEG_INFINITY,
        };
        let values: Vec<f64> = (0..self.len()).map(value).collect();
        let dtype = match input.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        Tensor::new(values, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(input.device())
    }

    /// The values from the loss of a view in which each item is the utterance.
    fn on_gpu(self, input: &Tensor) -> Result<Tensor> {
        // So that candle sums the gradients of half precision in f32.
        let input = match input.dtype() {
            DType::F16 | DType::BF16 => input.to_dtype(DType::F32)?,
            _ => input.clone(),
        };
        let factors: Vec<f64> = (0..self.len()).map(|k| 1.0 / self.divisor(k)).collect();
        let per_token = self.per_token;
        let Input {
            frames,
            batch,
            classes,
            ..
        } = self.plan.input;
        let problem = LossProblem {
            targets: Targets::Host(Plan {
                input: Input {
                    layout: Some(InputLayout::TimeMajor),
                    ..self.plan.input
                },
                ..self.plan
            }),
            gradient: GradientKind::Exact,
            reduction: Reduction::None,
            zero_infinity: false,
            weights: None,
        };
        let items = input.unsqueeze(1)?.expand((frames, batch, classes))?;
        let values = op::loss(&items, Arc::new(problem))?.affine(-1.0, 0.0)?;
        if per_token {
            let factors = Tensor::new(factors, &Device::Cpu)?.to_dtype(values.dtype())?;
            &values * factors.to_device(values.device())?
        } else {
            Ok(values)
        }
    }
}

/// What the CPU keeps from the forward to the backward pass.
enum Saved {
    F32(SavedList<f32>),
    F64(SavedList<f64>),
}

struct ListForward {
    list: Arc<List>,
    /// Filled by the forward pass; `None` if no gradient is wanted.
    saved: Option<OnceLock<Arc<(Saved, Sample)>>>,
}

impl ListForward {
    fn cpu<E: Element>(
        &self,
        data: &[E],
        layout: &Layout,
        wrap: fn(SavedList<E::Real>) -> Saved,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = &self.list.plan;
        let keep = self.saved.is_some();
        let strides = plan.input.strides(layout);
        let solved = cpu::solve_list(plan, data, strides, keep)?;
        let losses = solved.candidates.iter().map(|candidate| candidate.loss);
        let values: Vec<E::Real> = losses
            .enumerate()
            .map(|(k, loss)| self.list.value(k, loss))
            .collect();
        if let Some(cell) = &self.saved {
            // The cell is empty: candle runs the forward pass of an operation once.
            let sample = Sample::new(plan, data, strides);
            let _ = cell.set(Arc::new((wrap(solved), sample)));
        }
        let shape = Shape::from(values.len());
        Ok((E::Real::to_cpu_storage_owned(values), shape))
    }
}

impl CustomOp1 for ListForward {
    fn name(&self) -> &'static str {
        "ctc-log-likelihoods"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match storage {
            CpuStorage::F32(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::F64(data) => self.cpu(data, layout, Saved::F64),
            CpuStorage::F16(data) => self.cpu(data, layout, Saved::F32),
            CpuStorage::BF16(data) => self.cpu(data, layout, Saved::F32),
            other => bail!("{}: unsupported dtype {:?}", self.name(), other.dtype()),
        }
    }

    fn bwd(&self, input: &Tensor, _values: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let Some(saved) = self.saved.as_ref().and_then(OnceLock::get) else {
            bail!("{}: no state was kept for the backward pass", self.name())
        };
        let backward = ListBackward {
            list: self.list.clone(),
            saved: saved.clone(),
        };
        input.apply_op2_no_bwd(upstream, &backward).map(Some)
    }
}

struct ListBackward {
    list: Arc<List>,
    saved: Arc<(Saved, Sample)>,
}

impl ListBackward {
    fn cpu<E: Element>(
        &self,
        (data, layout): (&[E], &Layout),
        saved: &SavedList<E::Real>,
        (upstream, upstream_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let upstream = upstream.as_slice::<E::Real>()?;
        let (start, stride) = (upstream_layout.start_offset(), upstream_layout.stride()[0]);
        let weight = |k: usize| upstream[start + k * stride].widen() / self.list.divisor(k);
        let weights: Vec<f64> = (0..self.list.len()).map(weight).collect();
        let plan = &self.list.plan;
        let strides = plan.input.strides(layout);
        if plan.input.kind == InputKind::Logits {
            self.saved.1.check(self.name(), data, strides)?;
        }
        let input = (data, strides);
        let gradient = cpu::list_gradient(plan, input, saved, &weights)?;
        Ok((E::to_cpu_storage_owned(gradient), layout.shape().clone()))
    }
}

impl CustomOp2 for ListBackward {
    fn name(&self) -> &'static str {
        "ctc-log-likelihoods-backward"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let upstream = (upstream, upstream_layout);
        match (input, &self.saved.0) {
            (CpuStorage::F32(data), Saved::F32(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F64(data), Saved::F64(saved)) => self.cpu((data, layout), saved, upstream),
            (CpuStorage::F16(data), Saved::F32(saved)) => {
                self.cpu::<f16>((data, layout), saved, upstream)
            }
            (CpuStorage::BF16(data), Saved::F32(saved)) => {
                self.cpu::<bf16>((data, layout), saved, upstream)
            }
            (other, _) => bail!("{}: unsupported dtype {:?}", self.name(), other.dtype()),
        }
    }
}
