//! Forced alignment: where in the frames each label of a transcript stands.

use crate::cpu::{self, NoPath};
use crate::host::{on_host, with_entries};
use crate::lengths::IntoLengths;
use crate::options::InputLayout;
use crate::plan::{InputKind, Plan, frames_needed};
use crate::validate::{self, Call};
use candle_core::{Result, Tensor, bail};

/// The options of [`forced_align`].
///
/// ```
/// use candle_ctc::AlignOptions;
/// let opts = AlignOptions { star: Some(32), ..Default::default() };
/// assert_eq!((opts.blank, opts.star_log_prob), (0, 0.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AlignOptions {
    /// The class that stands for "no label". Default 0.
    pub blank: usize,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`].
    pub layout: InputLayout,
    /// A label that stands for anything: audio that the transcript leaves out. It may be a number
    /// beyond the classes; if it is a class, that class is not read. Default none.
    pub star: Option<u32>,
    /// The log-probability of the star at every frame, in nats. Default 0, which is certainty:
    /// then a frame goes to the star unless its own label is as certain.
    pub star_log_prob: f32,
}

/// The best path of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// The label of each frame, the blank included.
    pub labels: Vec<u32>,
    /// The log-probability of that label at each frame.
    pub frame_scores: Vec<f32>,
    /// The log-probability of the whole path: the sum of `frame_scores`, in f64.
    pub score: f64,
    /// The frames of each label of the target, in order.
    pub spans: Vec<TokenSpan>,
}

/// A run of frames in one label of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSpan {
    /// The label.
    pub token: u32,
    /// Its first frame.
    pub start: usize,
    /// The frame behind its last.
    pub end: usize,
    /// The mean log-probability over the span.
    pub score: f32,
}

impl TokenSpan {
    /// Start and end in seconds, for frames `hop` seconds apart.
    ///
    /// ```
    /// use candle_ctc::TokenSpan;
    /// let span = TokenSpan { token: 4, start: 50, end: 60, score: -0.1 };
    /// assert_eq!(span.seconds(0.02), (1.0, 1.2));
    /// ```
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start as f64 * hop, self.end as f64 * hop)
    }

    /// The number of frames.
    pub fn frames(&self) -> usize {
        self.end - self.start
    }
}

/// A run of tokens between separators.
#[derive(Debug, Clone, PartialEq)]
pub struct WordSpan {
    /// The labels of the word.
    pub tokens: Vec<u32>,
    /// The first frame of its first token.
    pub start: usize,
    /// The frame behind the last of its last token.
    pub end: usize,
    /// The mean log-probability over the frames of its tokens. Blanks between them do not count.
    pub score: f32,
}

impl WordSpan {
    /// Start and end in seconds, for frames `hop` seconds apart.
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start as f64 * hop, self.end as f64 * hop)
    }
}

/// Aligns each target with its frames: the single most probable path that reads as the target.
///
/// The path maximises the sum of log-probabilities over the lattice of CTC (Graves et al. 2006;
/// the Viterbi recursion). It is found exactly, in f64 arithmetic, for every input dtype. Ties
/// are broken from the last frame to the first: the path ends in the last label rather than in
/// the blank behind it, and of equal predecessors a state takes itself, then the state before it,
/// then the label before the blank that it skips.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)` for
///   one item; natural logarithms. f32, f64, f16 or bf16; any strides. A tensor on a GPU is
///   copied to the host first: the alignment itself runs on the CPU.
/// * `targets` - `(N, S)` padded, or the labels of all items one after the other in one
///   dimension; any integer dtype, on any device.
/// * `input_lengths` - frames of each item, at most `T`.
/// * `target_lengths` - labels of each item.
/// * `opts` - see [`AlignOptions`].
///
/// # Returns
///
/// One [`Alignment`] for each item, in order (a vector of one for `(T, C)`).
///
/// # Memory
///
/// For each item that is in work (one a thread): 16 bytes for each label and each 2048 frames,
/// and at most 4 MiB more, so an hour of speech with 180000 frames and 15000 labels takes about
/// 25 MB (31 MB were measured, the result included). Items longer than 2048 frames also use several threads each.
///
/// # Errors
///
/// When shapes, dtypes, lengths, labels or the blank do not fit together; when a target needs
/// more frames than its item has; when every path has probability 0; when a NaN or +inf stands at
/// the blank or at a label of the target (of a long item only the part that paths can reach is
/// looked at, by and large). The message names the item and the numbers.
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
/// let targets = Tensor::new(&[1u32, 2], &Device::Cpu)?;
/// let alignment = &forced_align(&log_probs, &targets, 4, 2, AlignOptions::default())?[0];
/// assert_eq!(alignment.labels, [1, 1, 0, 2]);
/// let span = alignment.spans[0];
/// assert_eq!((span.token, span.start, span.end), (1, 0, 2));
/// // Class 2 as the separator of words:
/// assert_eq!(group_words(&alignment.spans, 2)[0].tokens, [1]);
/// # Ok(())
/// # }
/// ```
///
/// With audio that the transcript does not cover, under a star:
///
/// ```
/// # use candle_core::{Device, Tensor};
/// # use candle_ctc::{AlignOptions, forced_align};
/// # fn main() -> candle_core::Result<()> {
/// # let p = [[0.1f32, 0.1, 0.8], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]];
/// # let log_probs = Tensor::new(&p, &Device::Cpu)?.log()?;
/// let opts = AlignOptions { star: Some(3), star_log_prob: -1.0, ..Default::default() };
/// let targets = Tensor::new(&[3u32, 1], &Device::Cpu)?; // <star>, then label 1
/// let alignment = &forced_align(&log_probs, &targets, 3, 2, opts)?[0];
/// assert_eq!(alignment.labels, [3, 3, 1]);
/// # Ok(())
/// # }
/// ```
pub fn forced_align(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: AlignOptions,
) -> Result<Vec<Alignment>> {
    let call = Call {
        function: "forced_align",
        input: InputKind::LogProbs,
        blank: opts.blank,
        layout: opts.layout,
        star: opts.star,
    };
    let plan = validate::plan_for(call, log_probs, targets, input_lengths, target_lengths)?;
    let star = star(&opts)?;
    for n in 0..plan.batch {
        if !plan.is_feasible(n) {
            bail!(
                "forced_align: the target of item {n} needs {} frames ({} labels, {} of them \
                 equal to the one before), but the item has {}",
                frames_needed(plan.target(n)),
                plan.target_length(n),
                frames_needed(plan.target(n)) - plan.target_length(n),
                plan.input_lengths[n]
            )
        }
    }
    let host = on_host(log_probs)?;
    let paths = with_entries!(host, |data, layout| {
        cpu::viterbi(&plan, data, plan.strides(layout), star)
    })??;
    let alignments = paths.into_iter().enumerate().map(|(n, path)| match path {
        Ok(path) => Ok(alignment(&plan, n, path)),
        Err(NoPath::Impossible) => bail!(
            "forced_align: every path of item {n} has probability 0 (log_probs of -inf are in \
             the way)"
        ),
        Err(NoPath::Undefined { frame, class }) => bail!(
            "forced_align: log_probs of item {n} have a NaN or +inf at frame {frame}, class {class}"
        ),
    });
    alignments.collect()
}

fn star(opts: &AlignOptions) -> Result<Option<cpu::Star>> {
    let Some(label) = opts.star else {
        return Ok(None);
    };
    if label as usize == opts.blank {
        bail!("forced_align: star = {label} is the blank")
    }
    if !opts.star_log_prob.is_finite() {
        bail!(
            "forced_align: star_log_prob = {}; it must be finite",
            opts.star_log_prob
        )
    }
    let log_prob = f64::from(opts.star_log_prob);
    Ok(Some(cpu::Star { label, log_prob }))
}

fn alignment(plan: &Plan, n: usize, path: cpu::Path) -> Alignment {
    let target = plan.target(n);
    let label = |state: u32| match state % 2 {
        0 => plan.blank as u32,
        _ => target[state as usize / 2],
    };
    let mut spans = Vec::with_capacity(target.len());
    let mut start = 0;
    for run in path.states.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        if run[0] % 2 == 1 {
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
    Alignment {
        labels: path.states.iter().map(|&state| label(state)).collect(),
        frame_scores: path.frame_scores,
        score: path.score,
        spans,
    }
}

/// Groups token spans into words: the runs of tokens between `separator` tokens. Separators
/// belong to no word, and empty words are left out.
///
/// ```
/// use candle_ctc::{TokenSpan, group_words};
/// let span = |token, start, end| TokenSpan { token, start, end, score: -0.5 };
/// let words = group_words(&[span(7, 0, 2), span(9, 3, 4), span(4, 5, 6), span(8, 8, 9)], 4);
/// assert_eq!(words.len(), 2);
/// assert_eq!((words[0].tokens.as_slice(), words[0].start, words[0].end), ([7, 9].as_slice(), 0, 4));
/// assert_eq!(words[1].seconds(0.5), (4.0, 4.5));
/// ```
pub fn group_words(spans: &[TokenSpan], separator: u32) -> Vec<WordSpan> {
    let words = spans.split(|span| span.token == separator);
    let words = words.filter_map(|word| {
        let (first, last) = (word.first()?, word.last()?);
        let frames: usize = word.iter().map(TokenSpan::frames).sum();
        let sum: f64 = word
            .iter()
            .map(|span| f64::from(span.score) * span.frames() as f64)
            .sum();
        Some(WordSpan {
            tokens: word.iter().map(|span| span.token).collect(),
            start: first.start,
            end: last.end,
            score: (sum / frames as f64) as f32,
        })
    });
    words.collect()
}
