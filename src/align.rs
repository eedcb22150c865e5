//! Forced alignment: the frames of each label of a transcript.

use crate::cpu::{self, NoPath};
use crate::cpu_input::{used_classes_on_host, with_entries};
use crate::distribution::{self, check_normalised};
use crate::gpu;
use crate::options::{InputKind, InputLayout, Wildcard};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call, check_rows};
use crate::spans::TokenSpan;
use candle_core::{Result, Tensor, bail};

/// The options of [`forced_align`] and [`forced_align_batch`].
///
/// ```
/// use candle_ctc::AlignOptions;
/// let opts = AlignOptions { star: Some(32), ..Default::default() };
/// assert_eq!((opts.blank, opts.outside), (0, None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlignOptions<'a> {
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
    /// A wildcard label, for audio that the transcript leaves out. It may be a number beyond the classes; if it is a
    /// class, that class is not read (in logits it still takes part in the softmax). Default none.
    pub star: Option<u32>,
    /// The emission of the star. Default `Wildcard::Constant(0.0)`, which is certainty: a frame then goes to the star
    /// unless its own label is as certain.
    pub star_emission: Wildcard,
    /// The emission of audio before the first label and after the last, for a transcript that covers only a
    /// part of the recording. In those frames, the larger of this emission and the blank's log-probability
    /// counts. Default none: apart from blanks, the recording begins and ends with the transcript.
    pub outside: Option<Wildcard>,
    /// Labels that the audio may leave out wherever they stand, such as separators, punctuation or hesitations; at most 12
    /// of them in a row. Default none.
    pub optional: &'a [u32],
    /// Whether the audio may begin and end anywhere in the target, which leaves out any number of labels at either end,
    /// even all. Default `false`.
    pub free_ends: bool,
}

impl Default for AlignOptions<'_> {
    fn default() -> Self {
        Self {
            blank: 0,
            layout: InputLayout::default(),
            input: InputKind::default(),
            normalised: true,
            star: None,
            star_emission: Wildcard::Constant(0.0),
            outside: None,
            optional: &[],
            free_ends: false,
        }
    }
}

impl AlignOptions<'_> {
    /// The defaults with [`InputLayout::BatchMajor`].
    pub fn batch_major() -> Self {
        Self {
            layout: InputLayout::BatchMajor,
            ..Self::default()
        }
    }

    /// `optional` are the labels of the option of that name, sorted.
    fn omissions<'a>(&self, optional: &'a [u32]) -> cpu::Omissions<'a> {
        cpu::Omissions {
            optional,
            free_ends: self.free_ends,
        }
    }

    fn call(&self, function: &'static str) -> Call {
        let call = Call::new(
            function,
            self.input,
            self.normalised,
            self.blank,
            self.layout,
        );
        Call {
            star: self.star,
            ..call
        }
    }
}

/// The best path of one item.
///
/// As `AsRef<[u32]>` it is the labels of the target.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Alignment {
    /// The labels of the target.
    pub tokens: Vec<u32>,
    /// The label of each frame, including blanks.
    pub labels: Vec<u32>,
    /// The log-probability of that label at each frame.
    pub frame_scores: Vec<f32>,
    /// The log-probability of the whole path: the sum in f64 of its frames' log-probabilities, before these are rounded
    /// to f32 for `frame_scores`.
    pub score: f64,
    /// The frames of each label of the target, in order. A label that the path leaves out has no frames: it starts and
    /// ends where the label before it ends (at 0 if there is none), and its score is 0. CTM skips words without frames; for
    /// subtitles and TextGrids leave them out first.
    pub spans: Vec<TokenSpan>,
}

impl AsRef<[u32]> for Alignment {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}

/// Aligns a transcript with the frames of one utterance: finds the single most probable path that reads as the target.
///
/// The path maximises the sum of log-probabilities over the CTC lattice (Graves et al. 2006; the Viterbi recursion). It
/// is found exactly, in f64 arithmetic, for every input dtype. Ties are broken from the last frame to the first: the
/// path ends in the last label rather than in the blank after it; of equal predecessors, a state prefers itself, then
/// the state before it, then the label before the blank that it skips.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1, `(1, T, C)` or `(T, 1, C)`, for either layout; natural
///   logarithms, or logits with [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. A tensor on a CUDA device
///   is aligned there; one on Metal, which has no f64, and one with wildcards or labels that may be left out, on the CPU.
///   `T` may be 0: the empty target then has the empty path, with a score of 0.
/// * `target` - the labels, without blanks.
/// * `opts` - see [`AlignOptions`].
///
/// # Audio that the transcript leaves out
///
/// Put [`AlignOptions::star`] into the target where something is missing, or set [`AlignOptions::outside`] if the
/// transcript covers only a part of the recording; [`Wildcard`] says what such frames are worth. Frames outside are
/// blanks in [`Alignment::labels`], with the wildcard's emission as their score.
///
/// # Labels that the audio leaves out
///
/// [`AlignOptions::optional`] names labels that may be missing, and with [`AlignOptions::free_ends`] the recording may
/// be a part of the transcript, as a transcript may be a part of the recording with [`AlignOptions::outside`]. Both may
/// be set: then the two overlap. The best path is the best of all targets that remain when such labels are left out.
/// Ties are broken as above; of equal predecessors that leave labels out, the nearest wins. A label that was left out
/// has an empty span. With either option one thread aligns each item and computes all states of each frame: 180000
/// frames with 15000 labels and free ends took 15 s and 52 MB.
///
/// # Memory
///
/// For each item in progress (one per thread): 16 bytes per label and 2048 frames, and at most 4 MiB more, so an hour
/// of speech with 180000 frames and 15000 labels takes about 25 MB (31 MB were measured, including the result). Items
/// longer than 2048 frames also use several threads each. A wildcard that depends on the frame takes 8 bytes a frame. For
/// logits, the log-softmax is held as well: the size of the input in f32, or in f64 for f64. On a CUDA device: for each
/// item 16 bytes per label and 2048 frames, at most 4 MiB more, 8 to 12 bytes a frame, and for logits 28 more (f64: 56);
/// items are taken together up to 1 GiB.
///
/// # Errors
///
/// If the shape, the dtype, a label or the blank does not fit; if the target needs more frames than there are; if every
/// path has probability 0; if a NaN or +inf occurs at the blank or at a label of the target (in a long item, mostly
/// only the part that paths can reach is checked), or anywhere in a used frame of logits, or of any input with a
/// wildcard that depends on the frame; if the input cannot be
/// log-probabilities (see [`InputKind::LogProbs`]). The message names the frame, the class and the numbers.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{AlignOptions, forced_align, group_words};
///
/// # fn main() -> candle_core::Result<()> {
/// let p = [[0.1f32, 0.8, 0.1], [0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7]];
/// let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?; // (T, C)
/// let alignment = forced_align(&log_probs, &[1, 2], AlignOptions::default())?;
/// assert_eq!(alignment.labels, [1, 1, 0, 2]);
/// let span = alignment.spans[0];
/// assert_eq!((span.token, span.start, span.end), (1, 0, 2));
/// // Class 2 as the separator of words:
/// assert_eq!(group_words(&alignment.spans, 2)[0].tokens, [1]);
/// # Ok(())
/// # }
/// ```
///
/// With audio that the transcript does not cover, assigned to a star:
///
/// ```
/// # use candle_core::{Device, Tensor};
/// # use candle_ctc::{AlignOptions, Wildcard, forced_align};
/// # fn main() -> candle_core::Result<()> {
/// # let p = [[0.1f32, 0.1, 0.8], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]];
/// # let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?;
/// let star_emission = Wildcard::Largest { penalty: 1.0 };
/// let opts = AlignOptions { star: Some(3), star_emission, ..Default::default() };
/// let alignment = forced_align(&log_probs, &[3, 1], opts)?; // <star>, then label 1
/// assert_eq!(alignment.labels, [3, 3, 1]);
///
/// // The same where the transcript is known to be a part: label 1, with anything around it.
/// let opts = AlignOptions { outside: Some(star_emission), ..Default::default() };
/// let span = forced_align(&log_probs, &[1], opts)?.spans[0];
/// assert_eq!((span.start, span.end), (2, 3));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "viterbi")]
pub fn forced_align(log_probs: &Tensor, target: &[u32], opts: AlignOptions) -> Result<Alignment> {
    let call = opts.call("forced_align");
    let (log_probs, plan) = validate::utterance_and_target(call, log_probs, target)?;
    match align(&call, &opts, plan, &log_probs)?.swap_remove(0) {
        Ok(alignment) => Ok(alignment),
        Err(Unaligned::TooLong { needed }) if opts.optional.is_empty() && !opts.free_ends => bail!(
            "forced_align: the target needs {} frames ({} labels, {} of them equal to the one \
             before), but there are {}",
            needed,
            target.len(),
            needed - target.len(),
            log_probs.dim(0)?
        ),
        Err(Unaligned::TooLong { needed }) => bail!(
            "forced_align: the target needs {} frames without its optional labels, but there are {}",
            needed,
            log_probs.dim(0)?
        ),
        Err(Unaligned::Impossible) => bail!(
            "forced_align: every path has probability 0 (log-probabilities of -inf are in the way)"
        ),
    }
}

/// [`forced_align`] for each item of a batch: on all threads of the current rayon pool, or on the CUDA device of the
/// tensor.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)` for
///   one item; otherwise as for [`forced_align`]. `T` and `N` may be 0.
/// * `targets` - `(N, S)` padded, or the labels of all items concatenated in one dimension; any integer dtype, on any
///   device.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `target_lengths` - labels of each item.
/// * `opts` - see [`AlignOptions`].
///
/// # Returns
///
/// For each item, in order, its [`Alignment`]; `None` if its target needs more frames than it has or every path has
/// probability 0. Such an item does not affect the others. [`feasibility`](fn@crate::feasibility) counts the frames
/// that a target needs.
///
/// # Errors
///
/// If shapes, dtypes, lengths, labels or the blank do not fit together; and, as for [`forced_align`], if an item's
/// input contains NaN or +inf where it is used or cannot be log-probabilities: the whole call then fails, with a
/// message that names the item, the frame and the class.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{AlignOptions, InputKind, forced_align_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::randn(0f32, 1., (2, 6, 4), &Device::Cpu)?; // (N, T, C)
/// let targets = Tensor::new(&[[1u32, 2, 0], [3, 3, 1]], &Device::Cpu)?; // (N, S), the first padded
/// let opts = AlignOptions { input: InputKind::Logits, ..AlignOptions::batch_major() };
/// let found = forced_align_batch(&logits, &targets, [6, 3], [2, 3], opts)?;
/// assert_eq!(found[0].as_ref().map(|alignment| alignment.spans.len()), Some(2));
/// assert_eq!(found[1], None); // 3, blank, 3, 1 takes four frames
/// # Ok(())
/// # }
/// ```
pub fn forced_align_batch(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: AlignOptions,
) -> Result<Vec<Option<Alignment>>> {
    let call = opts.call("forced_align_batch");
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    let items = align(&call, &opts, plan, log_probs)?.into_iter();
    Ok(items.map(|item| item.ok()).collect())
}

/// Why an item has no alignment.
enum Unaligned {
    /// The target does not fit into the frames.
    TooLong { needed: usize },
    /// Every path has probability 0.
    Impossible,
}

fn align(
    call: &Call,
    opts: &AlignOptions,
    plan: Plan,
    log_probs: &Tensor,
) -> Result<Vec<std::result::Result<Alignment, Unaligned>>> {
    if u32::try_from(opts.blank).is_err() {
        bail!(
            "{}: blank = {}; labels are numbers of 32 bits, and it is returned as one",
            call.function,
            opts.blank
        )
    }
    let wildcards = wildcards(call, opts, plan.input.classes)?;
    let mut optional = opts.optional.to_vec();
    optional.sort_unstable();
    check_optional(call, &optional, &plan)?;
    let omissions = opts.omissions(&optional);
    check_normalised(call, &plan, log_probs, 0)?;
    // A target that does not fit is not computed: its item gets no frames.
    let needed: Vec<usize> = (0..plan.input.batch)
        .map(|n| omissions.frames_needed(plan.target(n)))
        .collect();
    let lengths = plan.input_lengths.iter().zip(&needed);
    let fits: Vec<bool> = lengths.map(|(frames, needed)| frames >= needed).collect();
    let mut fitting = plan.clone();
    for (frames, fits) in fitting.input_lengths.iter_mut().zip(&fits) {
        *frames *= usize::from(*fits);
    }
    // The rows of logits are checked even where the target does not fit, which is up to the host.
    let all_rows = plan.input.kind == InputKind::LogProbs || fits.iter().all(|&fits| fits);
    let plain = wildcards.is_empty() && omissions.is_empty();
    let paths = match all_rows && plain {
        true => gpu::best_paths(&fitting, log_probs)?,
        false => None,
    };
    let paths = match paths {
        Some(paths) => paths.into_iter().map(Ok).collect(),
        None => {
            let whole_rows = plan.input.kind == InputKind::Logits || !plain;
            let (used, host) = match whole_rows {
                true => (fitting, distribution::log_probs(call, &plan, log_probs)?),
                false => used_classes_on_host(fitting, log_probs)?,
            };
            let paths = with_entries!(host, |data, layout| {
                cpu::viterbi(
                    &used,
                    data,
                    used.input.strides(layout),
                    wildcards,
                    omissions,
                )
            })??;
            // The classes that were selected have their own numbers.
            let number = |class: usize| match used.labels.iter().position(|&l| l as usize == class)
            {
                _ if class == used.input.blank => plan.input.blank,
                Some(label) => plan.labels[label] as usize,
                None => class,
            };
            let named = paths.into_iter().map(|path| match path {
                Err(NoPath::Undefined { frame, class }) => Err(NoPath::Undefined {
                    frame,
                    class: number(class),
                }),
                path => path,
            });
            named.collect::<Vec<_>>()
        }
    };
    let items = paths.into_iter().enumerate().map(|(n, path)| match path {
        _ if !fits[n] => Ok(Err(Unaligned::TooLong { needed: needed[n] })),
        Ok(path) => Ok(Ok(alignment(&plan, n, path))),
        Err(NoPath::Impossible) => Ok(Err(Unaligned::Impossible)),
        Err(NoPath::Undefined { frame, class }) => bail!(
            "{}: {} of item {n} have a NaN or +inf at frame {frame}, class {class}",
            call.function,
            call.input_name()
        ),
    });
    items.collect()
}

fn wildcards(call: &Call, opts: &AlignOptions, classes: usize) -> Result<cpu::Wildcards> {
    let Call { function, .. } = call;
    if opts.star.is_some_and(|label| label as usize == opts.blank) {
        bail!("{function}: star = {} is the blank", opts.blank)
    }
    let check = |name: &str, wildcard: Wildcard| {
        let (of, nats) = match wildcard {
            Wildcard::Constant(log_prob) => ("log-probability", log_prob),
            Wildcard::Largest { penalty } | Wildcard::Mean { penalty } => ("penalty", penalty),
        };
        if !nats.is_finite() {
            bail!("{function}: {name} has a {of} of {nats}; it must be finite")
        }
        if matches!(wildcard, Wildcard::Constant(_)) {
            return Ok(());
        }
        // The classes that the rule looks at.
        let star = opts.star.is_some_and(|star| (star as usize) < classes);
        if classes <= 1 + usize::from(star) {
            bail!(
                "{function}: {name} depends on the classes other than blank and star, but with C = {classes} there are \
                 none; use Wildcard::Constant"
            )
        }
        check_rows(function, call.input_name(), classes)
    };
    if opts.star.is_some() {
        check("star_emission", opts.star_emission)?;
    }
    if let Some(outside) = opts.outside {
        check("outside", outside)?;
    }
    Ok(cpu::Wildcards {
        star: opts.star.map(|label| (label, opts.star_emission)),
        outside: opts.outside,
    })
}

/// Checks that optional labels, which are sorted, are labels, and that not too many stand in a row.
fn check_optional(call: &Call, optional: &[u32], plan: &Plan) -> Result<()> {
    let Call { function, .. } = call;
    for &label in optional {
        let class = label as usize;
        if class == call.blank || (class >= plan.input.classes && call.star != Some(label)) {
            bail!(
                "{function}: the optional label {label} is no label: C = {}, blank = {}",
                plan.input.classes,
                call.blank
            )
        }
    }
    let optional = |label: &u32| optional.binary_search(label).is_ok();
    for n in 0..plan.input.batch {
        let mut start = 0;
        for run in plan.target(n).chunk_by(|a, b| optional(a) == optional(b)) {
            if optional(&run[0]) && run.len() > cpu::MOST_OMITTED {
                bail!(
                    "{function}: the target of item {n} has {} optional labels in a row, from label {start} on; at \
                     most {} are taken",
                    run.len(),
                    cpu::MOST_OMITTED
                )
            }
            start += run.len();
        }
    }
    Ok(())
}

fn alignment(plan: &Plan, n: usize, path: cpu::Path) -> Alignment {
    let target = plan.target(n);
    let label = |state: u32| match state % 2 {
        0 => plan.input.blank as u32,
        _ => target[state as usize / 2],
    };
    let mut spans: Vec<TokenSpan> = Vec::with_capacity(target.len());
    // A label that is left out starts and ends where the one before it ends.
    let leave_out = |spans: &mut Vec<TokenSpan>, labels: &[u32]| {
        let at = spans.last().map_or(0, |span| span.end);
        spans.extend(labels.iter().map(|&token| TokenSpan {
            token,
            start: at,
            end: at,
            score: 0.0,
        }));
    };
    let mut start = 0;
    for run in path.states.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        if run[0] % 2 == 1 {
            let left_out = spans.len()..run[0] as usize / 2;
            leave_out(&mut spans, &target[left_out]);
            let sum: f64 = path.frame_scores[start..end]
                .iter()
                .map(|&score| f64::from(score))
                .sum();
            spans.push(TokenSpan {
                token: label(run[0]),
                start,
                end,
                score: (sum / run.len() as f64) as f32,
            });
        }
        start = end;
    }
    let left_out = spans.len()..target.len();
    leave_out(&mut spans, &target[left_out]);
    Alignment {
        tokens: target.to_vec(),
        labels: path.states.iter().map(|&state| label(state)).collect(),
        frame_scores: path.frame_scores,
        score: path.score,
        spans,
    }
}
