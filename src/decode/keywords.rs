//! Keyword spotting: where phrases stand in an utterance, and how sure that is.
//!
//! A segment of frames scores, for a phrase, the largest sum of `y(t, path) − max y(t, ·)` over the paths that read as
//! the phrase, begin with its first label and end with its last. It is found by the Viterbi recursion over the labels
//! and the blanks between them, with a start at each frame. Each state carries the start of its best path, so no table
//! of states is kept. No term is above 0: a state below the threshold cannot rise again and is dropped, so in most
//! frames only the first label is looked at.
//!
//! Hits are the best segment, then the best that does not overlap it, and so on. A segment that ends before a hit is
//! not affected by it. One that ends after it may have started in it; it is computed again when its turn comes, up to
//! the frame from which all states started after the hit anyway.

use super::arena::{NONE, Spans};
use crate::cpu_input::{Rows, check_row, on_host, rows};
use crate::distribution::{check_normalised, log_softmax};
use crate::memory::room_for;
use crate::options::{InputKind, InputLayout};
use crate::problem::lengths::IntoLengths;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use crate::spans::TokenSpan;
use candle_core::{Error, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::{Deref, Range};

/// The options of [`spot_keywords`] and [`spot_keywords_batch`].
///
/// ```
/// use candle_ctc::SpotOptions;
/// let opts = SpotOptions { threshold: -0.5, ..Default::default() };
/// assert_eq!(opts.blank, 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpotOptions {
    /// The blank class. Default 0.
    pub blank: usize,
    /// The kind of input. Default [`InputKind::LogProbs`].
    pub input: InputKind,
    /// Whether to check that log-probabilities are normalised: see [`InputKind::LogProbs`]. Default
    /// `true`.
    #[doc(alias = "normalized")]
    pub normalised: bool,
    /// The least [`KeywordHit::per_token`], in nats: at most 0. Lower values find more, right and wrong, and take
    /// longer. Default −1.
    pub threshold: f64,
    /// The order of dimensions of a batched input. Default [`InputLayout::TimeMajor`]. [`spot_keywords`] takes a batch
    /// dimension of 1 in either place, and ignores this.
    pub layout: InputLayout,
}

impl Default for SpotOptions {
    fn default() -> Self {
        Self {
            blank: 0,
            input: InputKind::default(),
            normalised: true,
            threshold: -1.0,
            layout: InputLayout::default(),
        }
    }
}

impl SpotOptions {
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

/// An occurrence of a phrase, from [`spot_keywords`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeywordHit {
    /// The first frame of the first label.
    pub start: usize,
    /// One past the last frame of the last label.
    pub end: usize,
    /// The log-likelihood ratio in nats: the log-probability of the phrase's best path over these frames, less that of
    /// the best path of any kind. At most 0, and 0 if the phrase is what greedy decoding reads there.
    pub score: f64,
    /// The frames of each label in the phrase's best path.
    pub spans: Vec<TokenSpan>,
}

impl KeywordHit {
    /// `score` divided by the number of labels: comparable between phrases.
    pub fn per_token(&self) -> f64 {
        self.score / self.spans.len() as f64
    }

    /// Start and end in seconds, for frames `hop` seconds apart.
    pub fn seconds(&self, hop: f64) -> (f64, f64) {
        (self.start as f64 * hop, self.end as f64 * hop)
    }

    /// The frames.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Finds phrases in one utterance: where each stands, and how sure that is.
///
/// A segment of frames is compared with the best path over the same frames, whatever that reads as: see
/// [`KeywordHit::score`]. Nothing outside the segment counts, and no language model is needed. It is exact: no path is
/// pruned whose segment is above the threshold.
///
/// A phrase is found wherever its labels stand, also within words. If you put separators around a phrase, they must be
/// in the audio too: only whole words match, and a word at the very start or end of the recording is missed. Pieces
/// with a mark such as `▁` begin a word anyway.
///
/// # Arguments
///
/// * `log_probs` - `(T, C)`, or with a batch dimension of 1, `(1, T, C)` or `(T, 1, C)`; natural logarithms, or logits
///   with [`InputKind::Logits`]. f32, f64, f16 or bf16; any strides. The search runs on the CPU in f64; a tensor on a
///   GPU is copied to the host first. `T` may be 0.
/// * `phrases` - the labels of each phrase, without blanks. Phrases are searched for on all threads of the current
///   rayon pool, and do not affect each other.
/// * `opts` - see [`SpotOptions`].
///
/// # Returns
///
/// For each phrase its hits, in order of time. The first to be taken is the segment with the highest score, then the
/// best of those that do not overlap it, and so on, as long as the threshold is met. Of equal scores the segment that
/// starts first is taken, and of these the longest: so a hit has all frames of its first and last label in which these
/// are the most probable classes. Hits of a phrase whose first label is also its last have at least a frame between
/// them; without it the two labels would be one. A phrase that needs more frames than there are has no hits. A frame in
/// which all log-probabilities are −inf is in no hit.
///
/// Of equal paths within a segment, a state prefers itself, then the state before it, then the label before the blank
/// that it skips.
///
/// # Time and memory
///
/// Frames times labels for each phrase, and mostly far less, since what falls below the threshold is dropped. Where a
/// low threshold keeps the beginning of a phrase alive across many hits, the frames after each are computed again: at
/// worst the time grows with the square of the frames. Memory: 8 bytes a frame; for each phrase in progress, 64 bytes a
/// label, and up to 72 a frame of a stretch in which the threshold is met by a beginning of the phrase.
///
/// # Errors
///
/// If the shape, the dtype or the blank does not fit; if a phrase has no labels, the blank or a label that is no class;
/// if the threshold is NaN or above 0; if a frame contains NaN or +inf (or logits that are all −inf), or if the input
/// cannot be log-probabilities (see [`InputKind::LogProbs`]). The message names the phrase, or the frame and the class.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::text::Vocabulary;
/// use candle_ctc::{SpotOptions, spot_keywords};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "c", "r", "t"])?;
/// let row = |class: usize| (0..6).map(|c| if c == class { 0.75f32 } else { 0.05 }).collect::<Vec<_>>();
/// let last = vec![0.1, 0.1, 0.1, 0.1, 0.35, 0.25];
/// let probs = Tensor::new(vec![row(0), row(3), row(2), last, row(1)], &Device::Cpu)?;
///
/// let phrases = [vocabulary.encode("car")?, vocabulary.encode("cat")?, vocabulary.encode("rat")?];
/// let found = spot_keywords(&probs.log()?, &phrases, SpotOptions::default())?;
/// assert_eq!((found[0][0].range(), found[0][0].score), (1..4, 0.0)); // what greedy decoding reads
/// assert!((found[1][0].score - (0.25f64 / 0.35).ln()).abs() < 1e-6); // nearly as probable
/// assert!(found[2].is_empty());
/// # Ok(())
/// # }
/// ```
#[doc(alias = "keyword_spotting")]
pub fn spot_keywords<S: AsRef<[u32]> + Sync>(
    log_probs: &Tensor,
    phrases: &[S],
    opts: SpotOptions,
) -> Result<Vec<Vec<KeywordHit>>> {
    let call = opts.call("spot_keywords");
    let log_probs = validate::utterance(call.function, log_probs)?;
    let plan = validate::plan_for_utterance(call, &log_probs)?;
    Ok(spot(&call, &plan, &log_probs, phrases, opts.threshold)?.swap_remove(0))
}

/// [`spot_keywords`] for each utterance of a batch: the same phrases in each.
///
/// # Arguments
///
/// * `log_probs` - `(T, N, C)`, or `(N, T, C)` with [`InputLayout::BatchMajor`], or `(T, C)` for one item; otherwise as
///   for [`spot_keywords`]. `T` and `N` may be 0.
/// * `input_lengths` - frames of each item, at most `T`. Later frames are not read.
/// * `phrases`, `opts` - as for [`spot_keywords`].
///
/// # Returns
///
/// For each item, for each phrase, its hits, as [`spot_keywords`] returns them.
///
/// # Errors
///
/// As for [`spot_keywords`], and if lengths do not fit the batch; the message names the item and the frame.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{SpotOptions, spot_keywords_batch};
///
/// # fn main() -> candle_core::Result<()> {
/// let frame = |class: usize| (0..4).map(|c| if c == class { 0.7f32 } else { 0.1 }).collect::<Vec<_>>();
/// let probs = Tensor::new(vec![vec![frame(1), frame(2), frame(3)], vec![frame(2), frame(3), frame(0)]], &Device::Cpu)?;
/// // (N, T, C); of the second item, two frames.
/// let hits = spot_keywords_batch(&probs.log()?, [3, 2], &[vec![2, 3]], SpotOptions::batch_major())?;
/// assert_eq!((hits[0][0][0].range(), hits[1][0][0].range()), (1..3, 0..2));
/// # Ok(())
/// # }
/// ```
pub fn spot_keywords_batch<S: AsRef<[u32]> + Sync>(
    log_probs: &Tensor,
    input_lengths: impl IntoLengths,
    phrases: &[S],
    opts: SpotOptions,
) -> Result<Vec<Vec<Vec<KeywordHit>>>> {
    let call = opts.call("spot_keywords_batch");
    let plan = validate::plan_for_decoding(call, log_probs, input_lengths)?;
    spot(&call, &plan, log_probs, phrases, opts.threshold)
}

fn spot<S: AsRef<[u32]> + Sync>(
    call: &Call,
    plan: &Plan,
    log_probs: &Tensor,
    phrases: &[S],
    threshold: f64,
) -> Result<Vec<Vec<Vec<KeywordHit>>>> {
    validate::check_phrases(*call, plan.input.classes, phrases)?;
    if threshold.is_nan() || threshold > 0.0 {
        bail!(
            "{}: threshold = {threshold}; it is a log-likelihood ratio and must be at most 0",
            call.function
        )
    }
    check_normalised(call, plan, log_probs, 0)?;
    let host = on_host(log_probs)?;
    let rows = rows(plan, &host);
    let items = (0..plan.input.batch).into_par_iter().map(|item| {
        let frames = Frames::new(call, plan, &rows, item)?;
        let hits = phrases.par_iter().map(|phrase| {
            let labels = phrase.as_ref();
            let least = threshold * labels.len() as f64;
            Lattice::new(&frames, labels, least).hits()
        });
        hits.collect()
    });
    items.collect()
}

/// The frames of an utterance.
struct Frames<'a, S> {
    call: Call,
    classes: usize,
    rows: &'a Rows<S>,
    item: usize,
    /// The largest entry of each frame.
    largest: Vec<f64>,
}

impl<'a, S: Deref<Target = Storage>> Frames<'a, S> {
    fn new(call: &Call, plan: &Plan, rows: &'a Rows<S>, item: usize) -> Result<Self> {
        let (classes, frames) = (plan.input.classes, plan.input_lengths[item]);
        let what = format!("{}: the largest entries of all frames", call.function);
        let mut largest = room_for(&what, &[frames])?;
        let mut row = vec![0.0; classes];
        for frame in 0..frames {
            rows.read(item, frame, 0, &mut row);
            check_row(call, item, frame, &row)?;
            // In vector code, as f64::max is not.
            let entries = row.iter().copied();
            largest.push(entries.fold(f64::NEG_INFINITY, |a, x| if x > a { x } else { a }));
        }
        Ok(Self {
            call: *call,
            classes,
            rows,
            item,
            largest,
        })
    }

    /// How far a class is below the most probable one: at most 0, −inf for a class of probability 0.
    fn ratio(&self, frame: usize, class: usize) -> f64 {
        match self.rows.entry(self.item, frame, class) {
            f64::NEG_INFINITY => f64::NEG_INFINITY,
            entry => entry - self.largest[frame],
        }
    }

    /// The mean log-probability of a class over frames.
    fn mean(&self, class: usize, frames: Range<usize>) -> f64 {
        let count = frames.len() as f64;
        let mut row = vec![0.0; self.classes];
        let log_probs = frames.map(|frame| {
            if self.call.input == InputKind::LogProbs {
                return self.rows.entry(self.item, frame, class);
            }
            self.rows.read(self.item, frame, 0, &mut row);
            log_softmax(&mut row);
            row[class]
        });
        log_probs.sum::<f64>() / count
    }
}

/// The best path into a state.
#[derive(Debug, Clone, Copy)]
struct State {
    /// −inf if there is none.
    score: f64,
    /// The first frame.
    start: usize,
    /// The first frame of the current label.
    entered: usize,
    /// The spans of the labels before, in [`Spans`], where they are kept.
    spans: u32,
}

const DEAD: State = State {
    score: f64::NEG_INFINITY,
    start: usize::MAX,
    entered: 0,
    spans: NONE,
};

impl State {
    fn is_alive(&self) -> bool {
        self.score > f64::NEG_INFINITY
    }

    fn is_better(&self, other: &Self) -> bool {
        self.score > other.score || (self.score == other.score && self.start < other.start)
    }
}

/// The best segment that ends with a frame, and the first start of all live states.
#[derive(Debug, Clone, Copy)]
struct End {
    score: f64,
    start: usize,
    first_start: usize,
}

impl End {
    fn is_hit(&self) -> bool {
        self.score > f64::NEG_INFINITY
    }
}

/// A hit while others are looked for.
#[derive(Debug, Clone, Copy)]
struct Taken {
    score: f64,
    end: usize,
    /// Up to this frame, the ends after the hit were computed with starts after it only.
    computed: usize,
}

impl Taken {
    fn new(segment: Segment, gap: usize) -> Self {
        Self {
            score: segment.score,
            end: segment.end,
            computed: segment.end + gap,
        }
    }
}

/// A segment that may be a hit. The largest is to be taken first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Segment {
    score: f64,
    start: usize,
    end: usize,
}

impl Eq for Segment {}

impl Ord for Segment {
    fn cmp(&self, other: &Self) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        let start = other.start.cmp(&self.start);
        score.then(start).then(self.end.cmp(&other.end))
    }
}

impl PartialOrd for Segment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The states of a phrase: its labels, and a blank between each two.
struct Lattice<'a, S> {
    frames: &'a Frames<'a, S>,
    labels: &'a [u32],
    /// The least score of a path.
    least: f64,
    /// The frames that must lie between two hits.
    gap: usize,
    states: Vec<State>,
    /// The number of states up to the last that is alive.
    reached: usize,
}

impl<'a, S: Deref<Target = Storage>> Lattice<'a, S> {
    fn new(frames: &'a Frames<'a, S>, labels: &'a [u32], least: f64) -> Self {
        Self {
            frames,
            labels,
            least,
            gap: usize::from(labels.first() == labels.last()),
            states: vec![DEAD; 2 * labels.len() - 1],
            reached: 0,
        }
    }

    /// Takes a frame, at which a path may start. With `spans`, the spans of all labels are kept there.
    fn step(&mut self, frame: usize, starts: bool, mut spans: Option<&mut Spans>) -> Result<()> {
        let count = self.states.len().min(self.reached + 2);
        self.reached = 0;
        // States behind are computed first, as they need the others as they were.
        for at in (0..count).rev() {
            let mut from = at;
            if at >= 1 && self.states[at - 1].is_better(&self.states[from]) {
                from = at - 1;
            }
            let label = at / 2;
            let skips = at >= 2 && at % 2 == 0 && self.labels[label] != self.labels[label - 1];
            if skips && self.states[at - 2].is_better(&self.states[from]) {
                from = at - 2;
            }
            let mut state = self.states[from];
            if from != at && state.is_alive() {
                if let (0, Some(spans)) = (from % 2, spans.as_deref_mut()) {
                    state.spans = self.close(from / 2, state, frame, spans)?;
                }
                state.entered = frame;
            }
            let fresh = State {
                score: 0.0,
                start: frame,
                entered: frame,
                spans: NONE,
            };
            if at == 0 && starts && fresh.is_better(&state) {
                state = fresh;
            }
            if state.is_alive() {
                let class = match at % 2 {
                    0 => self.labels[label] as usize,
                    _ => self.frames.call.blank,
                };
                state.score += self.frames.ratio(frame, class);
            }
            if state.score < self.least || !state.is_alive() {
                state = DEAD;
            } else {
                self.reached = self.reached.max(at + 1);
            }
            self.states[at] = state;
        }
        Ok(())
    }

    /// Keeps the span of a label that ends before `frame`.
    fn close(&self, label: usize, state: State, frame: usize, spans: &mut Spans) -> Result<u32> {
        let span = TokenSpan {
            token: self.labels[label],
            start: state.entered,
            end: frame,
            score: 0.0,
        };
        spans.push(span, state.spans)
    }

    fn clear(&mut self) {
        self.states.fill(DEAD);
        self.reached = 0;
    }

    fn end(&self) -> End {
        let last = &self.states[self.states.len() - 1];
        let live = self.states[..self.reached].iter();
        End {
            score: last.score,
            start: last.start,
            // Dead states start last.
            first_start: live.map(|state| state.start).min().unwrap_or(usize::MAX),
        }
    }

    /// The hits of the phrase. No segment goes beyond a frame after which no state is alive, so the stretches between
    /// such frames are searched one by one.
    fn hits(mut self) -> Result<Vec<KeywordHit>> {
        let mut hits = Vec::new();
        let mut ends: Vec<End> = Vec::new();
        let count = self.frames.largest.len();
        for frame in 0..count {
            self.step(frame, true, None)?;
            let alive = self.reached > 0;
            if alive || !ends.is_empty() {
                if ends.try_reserve(1).is_err() {
                    return Err(self.no_room(ends.len() + 1));
                }
                ends.push(self.end());
            }
            if !ends.is_empty() && (!alive || frame + 1 == count) {
                let first = frame + 1 - ends.len();
                self.choose(&mut ends, first, &mut hits)?;
                self.clear();
                ends.clear();
            }
        }
        Ok(hits)
    }

    fn no_room(&self, frames: usize) -> Error {
        let Call { function, .. } = self.frames.call;
        Error::Msg(format!(
            "{function}: no memory for a stretch of {frames} frames; choose a higher threshold"
        ))
        .bt()
    }

    /// Adds the hits in a stretch of frames, of which `first` is the first.
    ///
    /// The queue has an entry for each frame. Scores only fall when starts are taken away. So an entry that is out of
    /// date, or whose segment starts in a hit, is an upper bound: the frame's current end is found, and goes into the
    /// queue in its place.
    fn choose(&mut self, ends: &mut [End], first: usize, hits: &mut Vec<KeywordHit>) -> Result<()> {
        let segment = |frame: usize, end: End| Segment {
            score: end.score,
            start: end.start,
            end: frame + 1,
        };
        let all = (first..).zip(&*ends).filter(|(_, end)| end.is_hit());
        let mut queue = Vec::new();
        if queue.try_reserve_exact(all.clone().count()).is_err() {
            return Err(self.no_room(ends.len()));
        }
        queue.extend(all.map(|(at, end)| segment(at, *end)));
        let mut queue = BinaryHeap::from(queue);
        let mut taken: BTreeMap<usize, Taken> = BTreeMap::new();
        while let Some(best) = queue.pop() {
            let frame = best.end - 1;
            let end = ends[frame - first];
            if !end.is_hit() {
                continue;
            }
            let next = taken.range(best.end..).next();
            let next = next.map_or(first + ends.len(), |(start, _)| start - self.gap);
            let before = taken.range_mut(..best.end).next_back();
            if let Some((_, before)) = before
                && end.start < before.end + self.gap
            {
                self.compute_behind(before, ends, first, frame, next)?;
            } else if segment(frame, end) == best {
                let blocked = best.start.saturating_sub(self.gap).max(first);
                let behind = (best.end + self.gap).min(next);
                for end in &mut ends[blocked - first..behind - first] {
                    end.score = f64::NEG_INFINITY;
                }
                taken.insert(best.start, Taken::new(best, self.gap));
                continue;
            }
            let end = ends[frame - first];
            if end.is_hit() {
                queue.push(segment(frame, end));
            }
        }
        for (start, hit) in taken {
            hits.push(self.trace(hit.score, start..hit.end)?);
        }
        Ok(())
    }

    /// Computes the ends after a hit once more, with starts after it only, up to `frame` at least, and before `next`,
    /// where the next hit or the end of the stretch is. The states of an earlier call are gone, so all of them are
    /// computed anew.
    fn compute_behind(
        &mut self,
        hit: &mut Taken,
        ends: &mut [End],
        first: usize,
        frame: usize,
        next: usize,
    ) -> Result<()> {
        let behind = hit.end + self.gap;
        // Twice as far as before, so that starting anew costs no more than the rest.
        let stop = (frame + 1)
            .max(behind + 2 * (hit.computed - behind))
            .min(next);
        self.clear();
        for frame in behind..stop {
            let end = &mut ends[frame - first];
            if frame >= hit.computed && end.first_start >= behind {
                hit.computed = next;
                return Ok(());
            }
            self.step(frame, true, None)?;
            *end = self.end();
        }
        hit.computed = stop;
        Ok(())
    }

    /// The best path of a segment.
    fn trace(&mut self, score: f64, Range { start, end }: Range<usize>) -> Result<KeywordHit> {
        self.clear();
        let mut spans = Spans::new();
        for frame in start..end {
            self.step(frame, frame == start, Some(&mut spans))?;
            if spans.is_full() {
                spans.compact(self.states.iter_mut().map(|state| &mut state.spans));
            }
        }
        let last = self.states[self.states.len() - 1];
        let last = self.close(self.labels.len() - 1, last, end, &mut spans)?;
        let mut spans = spans.read(last);
        for span in &mut spans {
            span.score = self.frames.mean(span.token as usize, span.range()) as f32;
        }
        Ok(KeywordHit {
            start,
            end,
            score,
            spans,
        })
    }
}
