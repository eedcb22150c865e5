//! The prefix beam search.
//!
//! For each prefix `g` of the beam and each frame the search holds two log-probabilities: of the alignments so far that
//! end in a blank, `b(g)`, and of those that end in the last label of `g`, `l(g)`; `a(g) = b(g) + l(g)` is their sum
//! (Hannun et al. 2014). With the emissions `y(c)` of the next frame:
//!
//! ```text
//! b'(g)   = a(g) · y(blank)
//! l'(g)   = l(g) · y(last of g) + h(g) · y(last of g)
//! l'(g c) = h(g c) · y(c)                               for g c not in the beam
//! h(g c)  = b(g) if c is the last label of g, else a(g); 0 for g not in the beam
//! ```
//!
//! So each prefix gathers from its parent, and only new prefixes are separate candidates. One frame costs two
//! logarithms per prefix. Candidates are generated best first (classes in descending order of emission), up to the
//! first one below what the beam already holds, so few of the `beam_width · C` candidates are generated, and none is
//! missed.
//!
//! All values are logarithms in f64. Along with each sum, the search keeps the best single alignment, for the spans.

mod rivals;

use self::rivals::Rivals;
use super::options::{BeamOptions, End, check_options};
use crate::cpu_input::on_host;
use crate::cpu_input::{check_row, rows};
use crate::decode::arena::{Following, NONE, ROOT, Spans, Tree};
use crate::decode::language_model::{LanguageModel, NoLanguageModel};
use crate::decode::{Hypothesis, log_add};
use crate::distribution::{check_normalised, log_softmax};
use crate::options::InputKind;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use crate::spans::TokenSpan;
use candle_core::{Result, Tensor, bail};
use std::cmp::Ordering;

/// A beam search that takes its frames in chunks, for streaming audio.
///
/// The result is bit-identical for any division into chunks, and equals that of [`beam_search`](crate::beam_search) on
/// all frames. Memory: about 100 bytes per prefix of the beam, with a lexicon also 16 for each token that may follow it,
/// and 100 bytes for each token and span that the prefixes of the beam lead back to; others are dropped from time to time.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::{BeamOptions, BeamSearch, beam_search};
///
/// # fn main() -> candle_core::Result<()> {
/// let log_probs = candle_nn::ops::log_softmax(
///     &Tensor::randn(0f32, 3., (100, 8), &Device::Cpu)?,
///     1,
/// )?;
/// let mut search = BeamSearch::new(8, BeamOptions::default())?;
/// for first in (0..100).step_by(20) {
///     search.push(&log_probs.narrow(0, first, 20)?)?;
///     let so_far = search.hypotheses()?;
///     assert_eq!(so_far.len(), 1);
/// }
/// assert_eq!(search.finish()?, beam_search(&log_probs, BeamOptions::default())?);
/// # Ok(())
/// # }
/// ```
pub struct BeamSearch<L: LanguageModel = NoLanguageModel> {
    /// Without `suppress`, which is in `allowed`.
    opts: BeamOptions<'static>,
    classes: usize,
    language_model: L,
    /// For each class, whether a hypothesis may hold it.
    allowed: Vec<bool>,
    frames: usize,
    tree: Tree<L::State>,
    spans: Spans,
    /// The prefixes, best first.
    beam: Vec<Entry>,
    /// Whether the last frame brought a prefix that was not in the beam before it.
    grew: bool,
    work: Work,
}

/// Longer lists of tokens that may follow a prefix are not kept with it.
const LISTED: usize = 64;

/// A prefix of the beam.
#[derive(Debug, Clone, Copy)]
struct Entry {
    node: u32,
    /// The last label; [`NONE`] for the empty prefix.
    token: u32,
    lm: f64,
    /// The log-probabilities of the alignments that end in a blank, in the last label, and of both together.
    blank: f64,
    label: f64,
    total: f64,
    best_blank: BlankPath,
    best_label: LabelPath,
}

/// The best alignment of a prefix that ends in a blank.
#[derive(Debug, Clone, Copy)]
struct BlankPath {
    score: f64,
    /// Its spans, in [`Spans`].
    spans: u32,
}

/// The best alignment of a prefix that ends in its last label.
#[derive(Debug, Clone, Copy)]
struct LabelPath {
    score: f64,
    /// The spans before that of the last label.
    spans: u32,
    /// The first frame of the span of the last label, and the score before it.
    start: usize,
    before: f64,
}

const NO_LABEL_PATH: LabelPath = LabelPath {
    score: f64::NEG_INFINITY,
    spans: NONE,
    start: 0,
    before: 0.0,
};

/// The beam before the first frame.
const EMPTY_PREFIX: Entry = Entry {
    node: ROOT,
    token: NONE,
    lm: 0.0,
    blank: 0.0,
    label: f64::NEG_INFINITY,
    total: 0.0,
    best_blank: BlankPath {
        score: 0.0,
        spans: NONE,
    },
    best_label: NO_LABEL_PATH,
};

/// A prefix of the beam after a frame in which it takes no further label.
#[derive(Debug, Clone, Copy)]
struct Stay {
    blank: f64,
    label: f64,
    total: f64,
    /// The index of its parent in the beam, or [`NONE`].
    parent: u32,
}

/// A candidate for the next beam.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Its score, including the language model.
    rank: f64,
    /// What the language model adds to that.
    lm: f64,
    /// The index in the beam of the prefix that it comes from.
    slot: u32,
    /// The label that it adds, plus 1; 0 if it adds none.
    step: u32,
}

impl Candidate {
    /// Best first; no two candidates are equal.
    fn order(&self, other: &Self) -> Ordering {
        other
            .rank
            .total_cmp(&self.rank)
            .then((self.slot, self.step).cmp(&(other.slot, other.step)))
    }
}

/// Scratch memory, reused from frame to frame.
struct Work {
    row: Vec<f64>,
    /// The tokens that may extend a prefix, most probable first, with their log-probabilities.
    tokens: Vec<(f64, u32)>,
    /// For each class the same, −inf for those that may not: filled if a language model is asked.
    chosen: Vec<f64>,
    stays: Vec<Stay>,
    candidates: Vec<Candidate>,
    /// The tokens that the language model lets follow a prefix.
    next_tokens: Vec<u32>,
    /// For each candidate, its prefix in the tree.
    nodes: Vec<u32>,
    /// The prefixes that the tree does not have yet: the parent and the label.
    new: Vec<(u32, u32)>,
    next: Vec<Entry>,
    rivals: Rivals,
    /// For each prefix in the beam, its children in the beam: the first, and the next of the same parent.
    first_child: Vec<u32>,
    next_child: Vec<u32>,
    /// For each class, the last prefix (counted over all frames) that has it as a child.
    seen: Vec<u64>,
    visits: u64,
    /// For each prefix in the beam, the spans of its best label path, closed at this frame.
    closed: Vec<Option<u32>>,
}

impl BeamSearch {
    /// A search over frames of `classes` classes.
    ///
    /// # Errors
    ///
    /// If the options are invalid, or if the blank is not a class.
    pub fn new(classes: usize, opts: BeamOptions) -> Result<Self> {
        Self::with_language_model(classes, NoLanguageModel, opts)
    }
}

impl<L: LanguageModel> BeamSearch<L> {
    /// A search with a language model or a lexicon, which may be passed by reference.
    ///
    /// # Errors
    ///
    /// If the options are invalid, if the blank is not a class, or if the model fails.
    pub fn with_language_model(
        classes: usize,
        language_model: L,
        opts: BeamOptions,
    ) -> Result<Self> {
        check_options("BeamSearch", classes, &opts)?;
        Self::unchecked(classes, language_model, opts)
    }

    pub(super) fn unchecked(classes: usize, language_model: L, opts: BeamOptions) -> Result<Self> {
        let start = language_model.start()?;
        let mut allowed = vec![true; classes];
        allowed[opts.blank] = false;
        for &class in opts.suppress {
            allowed[class as usize] = false;
        }
        Ok(Self {
            allowed,
            opts: BeamOptions {
                suppress: &[],
                ..opts
            },
            classes,
            language_model,
            frames: 0,
            tree: Tree::new(start),
            spans: Spans::new(),
            beam: vec![EMPTY_PREFIX],
            grew: false,
            work: Work {
                row: vec![0.0; classes],
                tokens: Vec::new(),
                chosen: vec![f64::NEG_INFINITY; classes],
                stays: Vec::new(),
                candidates: Vec::new(),
                next_tokens: Vec::new(),
                nodes: Vec::new(),
                new: Vec::new(),
                next: Vec::new(),
                rivals: Rivals::default(),
                first_child: Vec::new(),
                next_child: Vec::new(),
                seen: vec![0; classes],
                visits: 0,
                closed: Vec::new(),
            },
        })
    }

    /// Takes the next frames: `(t, C)`, or with a batch dimension of 1, with any number of frames, including none;
    /// log-probabilities or logits according to [`BeamOptions::input`], dtypes as for [`beam_search`](crate::beam_search).
    ///
    /// # Errors
    ///
    /// If shape or dtype are wrong, or if the first, middle and last frame cannot be log-probabilities (see
    /// [`InputKind::LogProbs`]): no frame has then been taken. If a frame contains NaN or +inf (or logits that are all
    /// −inf), or if the language model fails: the frames before it have then been taken. The frame number in the
    /// message counts from the start of the search.
    pub fn push(&mut self, log_probs: &Tensor) -> Result<()> {
        let call = self.opts.call("BeamSearch::push");
        let instead = || "; each item of a batch has a search of its own".to_owned();
        let log_probs = validate::utterance_or(call.function, log_probs, instead)?;
        let plan = validate::plan_for_utterance(call, &log_probs)?;
        if plan.input.classes != self.classes {
            bail!(
                "{}: {} have C = {} classes; the search was made for {}",
                call.function,
                call.input_name(),
                plan.input.classes,
                self.classes
            )
        }
        check_normalised(&call, &plan, &log_probs, self.frames)?;
        self.take(&call, &plan, &on_host(&log_probs)?, 0)
    }

    /// The number of frames taken so far.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Starts again with no frames, with the same options and language model.
    ///
    /// # Errors
    ///
    /// If the language model fails.
    pub fn reset(&mut self) -> Result<()> {
        self.tree = Tree::new(self.language_model.start()?);
        self.spans = Spans::new();
        self.beam.clear();
        self.beam.push(EMPTY_PREFIX);
        self.grew = false;
        self.frames = 0;
        Ok(())
    }

    /// How many tokens of the best hypothesis can no longer change: those with which every prefix of the beam begins.
    /// Whatever comes, each later hypothesis begins with them, so they can be shown as final.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_ctc::{BeamOptions, BeamSearch};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let probs = [[0.02f32, 0.98, 0.0], [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]];
    /// let log_probs = Tensor::new(&probs, &Device::Cpu)?.log()?; // (T, C)
    /// let mut search = BeamSearch::new(3, BeamOptions { beam_width: 3, ..Default::default() })?;
    /// search.push(&log_probs)?;
    /// let best = search.hypotheses()?.remove(0);
    /// let (stable, open) = best.tokens.split_at(search.stable_tokens());
    /// assert_eq!((stable, open), (&[1][..], &[][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stable_tokens(&self) -> usize {
        let nodes = self.beam.iter().map(|entry| entry.node);
        let shared = nodes.reduce(|a, b| self.tree.common(a, b));
        shared.map_or(0, |node| self.tree.node(node).depth as usize)
    }

    /// The number of frames since the last token of the best prefix, in its best alignment: all frames if it has no
    /// token. With the time of a frame, that is the silence after which an utterance may be taken to have ended. Of
    /// prefixes that are equally good, [`Self::hypotheses`] may list another one first.
    pub fn trailing_blanks(&self) -> usize {
        let Some(best) = self.beam.first() else {
            return self.frames;
        };
        if best.ends_in_label() {
            return 0;
        }
        let last = self.spans.last(best.best_blank.spans);
        self.frames - last.map_or(0, |span| span.end)
    }

    /// The best hypotheses so far, without the score for the end of the text.
    ///
    /// # Errors
    ///
    /// If the language model fails.
    pub fn hypotheses(&self) -> Result<Vec<Hypothesis>> {
        self.collect(End::Ignored)
    }

    /// The best hypotheses if the text ends here, best first: with the score for its end, as [`BeamOptions::end`] says.
    /// [`Self::reset`] starts the next utterance.
    ///
    /// # Errors
    ///
    /// If the language model fails.
    pub fn finish(&self) -> Result<Vec<Hypothesis>> {
        self.collect(self.opts.end)
    }

    pub(super) fn take(
        &mut self,
        call: &Call,
        plan: &Plan,
        log_probs: &Tensor,
        item: usize,
    ) -> Result<()> {
        let rows = rows(plan, log_probs);
        for frame in 0..plan.input_lengths[item] {
            let row = &mut self.work.row;
            rows.read(item, frame, 0, row);
            check_row(call, item, self.frames, row)?;
            if call.input == InputKind::Logits {
                log_softmax(row);
            }
            self.step()?;
        }
        Ok(())
    }

    /// Whether the language model is asked for scores.
    #[inline]
    fn is_asked(&self) -> bool {
        !self.language_model.is_constant() && self.opts.lm_weight != 0.0
    }

    /// Takes the frame in `work.row`.
    fn step(&mut self) -> Result<()> {
        // Before the frame, so that the beam belongs to `frames` frames even if the model panics here.
        if self.opts.n_best == 1 && self.beam.len() == self.opts.beam_width && self.grew {
            self.drop_beaten();
        }
        self.choose_tokens();
        self.stay();
        self.extend()?;
        self.choose_candidates();
        self.build_beam()?;
        self.frames += 1;
        if self.tree.is_full() {
            let used = self.beam.iter_mut().map(|entry| &mut entry.node);
            self.tree.compact(used);
        }
        if self.spans.is_full() {
            let used = self
                .beam
                .iter_mut()
                .flat_map(|entry| [&mut entry.best_blank.spans, &mut entry.best_label.spans]);
            self.spans.compact(used);
        }
        Ok(())
    }

    /// Lists the tokens that may extend a prefix, most probable first.
    fn choose_tokens(&mut self) {
        let asked = self.is_asked();
        let Work {
            row,
            tokens,
            chosen,
            ..
        } = &mut self.work;
        let opts = &self.opts;
        tokens.clear();
        let mut least = opts.token_threshold;
        if opts.relative_token_threshold < f64::INFINITY {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            least = least.max(largest - opts.relative_token_threshold);
        }
        for (class, (&log_p, &allowed)) in row.iter().zip(&self.allowed).enumerate() {
            if allowed && log_p > f64::NEG_INFINITY && log_p >= least {
                tokens.push((log_p, class as u32));
            }
        }
        let mut most = opts.tokens_per_frame;
        if !asked {
            // Every prefix ranks its extensions in this order. At most `beam_width` of them are in the beam already,
            // and one is its own last label; the next `beam_width` fill the beam, so that no later one can enter it.
            most = most.min(opts.beam_width.saturating_mul(2).saturating_add(2));
        }
        if tokens.len() > most {
            tokens.select_nth_unstable_by(most - 1, most_probable);
            tokens.truncate(most);
        }
        tokens.sort_unstable_by(most_probable);
        if asked {
            chosen.fill(f64::NEG_INFINITY);
            for &(emission, token) in tokens.iter() {
                chosen[token as usize] = emission;
            }
        }
    }

    /// Computes each prefix without a further label, and finds which prefixes are children of which.
    fn stay(&mut self) {
        let beam = &self.beam;
        let Work {
            row,
            stays,
            candidates,
            first_child,
            next_child,
            ..
        } = &mut self.work;
        stays.clear();
        candidates.clear();
        first_child.clear();
        first_child.resize(beam.len(), NONE);
        next_child.clear();
        next_child.resize(beam.len(), NONE);
        let blank = row[self.opts.blank];
        for (slot, entry) in beam.iter().enumerate() {
            let mut label = f64::NEG_INFINITY;
            let mut parent = NONE;
            if entry.token != NONE {
                let emission = row[entry.token as usize];
                label = entry.label + emission;
                let node = self.tree.node(entry.node).parent;
                if let Some(place) = place_of(&self.tree, beam, node) {
                    parent = place;
                    next_child[slot] = first_child[place as usize];
                    first_child[place as usize] = slot as u32;
                    let above = &beam[place as usize];
                    label = log_add(label, above.before(entry.token) + emission);
                }
            }
            let blank = entry.total + blank;
            let total = log_add(blank, label);
            stays.push(Stay {
                blank,
                label,
                total,
                parent,
            });
            let rank = total + entry.lm;
            if rank > f64::NEG_INFINITY {
                candidates.push(Candidate {
                    rank,
                    lm: entry.lm,
                    slot: slot as u32,
                    step: 0,
                });
            }
        }
    }

    /// Adds the prefixes with one more label that may enter the beam.
    fn extend(&mut self) -> Result<()> {
        let asked = self.is_asked();
        let Work {
            tokens,
            chosen,
            candidates,
            next_tokens,
            first_child,
            next_child,
            seen,
            visits,
            ..
        } = &mut self.work;
        let (model, opts, tree) = (&self.language_model, &self.opts, &mut self.tree);
        let mut frontier = Frontier::new(candidates, opts);
        for (slot, entry) in self.beam.iter().enumerate() {
            *visits += 1;
            let mut child = first_child[slot];
            while child != NONE {
                seen[self.beam[child as usize].token as usize] = *visits;
                child = next_child[child as usize];
            }
            let mut following = match asked {
                true => tree.take_following(entry.node),
                false => Following::Any,
            };
            if following.is_unknown() {
                let allowed = &self.allowed;
                following = list_following(model, tree, entry.node, allowed, next_tokens);
            }
            let bound = || match asked {
                true => model.max_score_in(tree.state(entry.node)),
                false => 0.0,
            };
            let weigh = |token| match asked {
                true => weight(model, tree.state(entry.node), opts, token, bound()),
                false => Ok(opts.token_bonus),
            };
            let is_new = |token: u32| seen[token as usize] != *visits;
            match following.list() {
                Some(list) if list.len() < tokens.len() => {
                    for (token, weight) in list {
                        let score = entry.before(*token) + chosen[*token as usize];
                        if score > f64::NEG_INFINITY && is_new(*token) {
                            let weight = weight.get(|| weigh(*token))?;
                            frontier.add(score, entry.lm + weight, slot, *token);
                        }
                    }
                }
                mut list => {
                    // The most that a token can add to the score of the prefix.
                    let most = entry.lm + (opts.lm_weight * bound() + opts.token_bonus);
                    for &(emission, token) in tokens.iter() {
                        let score = entry.before(token) + emission;
                        if score + most < frontier.least || score == f64::NEG_INFINITY {
                            if token == entry.token {
                                // A repeat follows only the alignments that end in a blank, and ranks too low; other
                                // tokens follow both kinds.
                                continue;
                            }
                            break;
                        }
                        if !is_new(token) {
                            continue;
                        }
                        let weight = match &mut list {
                            None => weigh(token)?,
                            Some(list) => match Following::find(list, token) {
                                Some(weight) => weight.get(|| weigh(token))?,
                                None => continue,
                            },
                        };
                        frontier.add(score, entry.lm + weight, slot, token);
                    }
                }
            }
            if asked {
                tree.put_following(entry.node, following);
            }
        }
        Ok(())
    }

    /// Keeps the candidates that form the next beam, best first.
    fn choose_candidates(&mut self) {
        let candidates = &mut self.work.candidates;
        let width = self.opts.beam_width;
        if candidates.len() > width {
            candidates.select_nth_unstable_by(width - 1, Candidate::order);
            candidates.truncate(width);
        }
        candidates.sort_unstable_by(Candidate::order);
        if let Some(best) = candidates.first() {
            let least = best.rank - self.opts.beam_threshold;
            let kept = candidates.partition_point(|candidate| candidate.rank >= least);
            candidates.truncate(kept);
        }
    }

    /// Finds the prefix of each candidate in the tree. New ones are added to it, and the language model advances all of
    /// them in one call.
    fn find_nodes(&mut self) -> Result<()> {
        let Work {
            candidates,
            nodes,
            new,
            ..
        } = &mut self.work;
        nodes.clear();
        new.clear();
        for &Candidate { slot, step, .. } in candidates.iter() {
            let parent = self.beam[slot as usize].node;
            let node = match step {
                0 => Some(parent),
                step => self.tree.child(parent, step - 1),
            };
            nodes.push(node.unwrap_or(NONE));
            if node.is_none() {
                new.push((parent, step - 1));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let prefixes = new
            .iter()
            .map(|&(parent, token)| (self.tree.state(parent), token));
        let states = self
            .language_model
            .advance_all(&prefixes.collect::<Vec<_>>())?;
        if states.len() != new.len() {
            bail!(
                "beam_search: the language model's advance_all gave {} states for {} prefixes",
                states.len(),
                new.len()
            )
        }
        let added = nodes.iter_mut().filter(|node| **node == NONE);
        for ((node, &(parent, token)), state) in added.zip(new.iter()).zip(states) {
            *node = self.tree.add_child(parent, token, state)?;
        }
        Ok(())
    }

    /// Builds the next beam from the candidates.
    fn build_beam(&mut self) -> Result<()> {
        self.find_nodes()?;
        self.work.closed.clear();
        self.work.closed.resize(self.beam.len(), None);
        let mut next = std::mem::take(&mut self.work.next);
        next.clear();
        for i in 0..self.work.candidates.len() {
            let candidate = self.work.candidates[i];
            let entry = match candidate.step {
                0 => self.stayed(candidate.slot as usize)?,
                _ => self.extended(candidate, self.work.nodes[i])?,
            };
            next.push(entry);
        }
        // If the model fails above, the beam is unchanged.
        for (slot, entry) in next.iter().enumerate() {
            self.tree.set_slot(entry.node, slot);
        }
        if self.is_asked() {
            // What may follow is kept with the prefixes of the beam alone.
            for entry in &self.beam {
                if place_of(&self.tree, &next, entry.node).is_none() {
                    self.tree.take_following(entry.node);
                }
            }
        }
        self.work.next = std::mem::replace(&mut self.beam, next);
        let candidates = &self.work.candidates;
        self.grew = candidates.iter().any(|candidate| candidate.step != 0);
        Ok(())
    }

    fn stayed(&mut self, slot: usize) -> Result<Entry> {
        let entry = self.beam[slot];
        let Stay {
            blank,
            label,
            total,
            parent,
        } = self.work.stays[slot];
        let mut best_blank = entry.best_blank;
        if entry.ends_in_label() {
            best_blank = BlankPath {
                score: entry.best_label.score,
                spans: self.close(slot)?,
            };
        }
        best_blank.score += self.work.row[self.opts.blank];
        let mut best_label = entry.best_label;
        if entry.token != NONE {
            if parent != NONE {
                let from = self.beam[parent as usize].best_before(entry.token);
                if from > best_label.score {
                    best_label = self.enter(parent as usize, entry.token)?;
                }
            }
            best_label.score += self.work.row[entry.token as usize];
        }
        Ok(Entry {
            blank,
            label,
            total,
            best_blank,
            best_label,
            ..entry
        })
    }

    fn extended(&mut self, candidate: Candidate, node: u32) -> Result<Entry> {
        let (slot, token) = (candidate.slot as usize, candidate.step - 1);
        let parent = self.beam[slot];
        let emission = self.work.row[token as usize];
        let label = parent.before(token) + emission;
        let mut best_label = self.enter(slot, token)?;
        best_label.score += emission;
        Ok(Entry {
            node,
            token,
            lm: candidate.lm,
            blank: f64::NEG_INFINITY,
            label,
            total: label,
            best_blank: BlankPath {
                score: f64::NEG_INFINITY,
                spans: NONE,
            },
            best_label,
        })
    }

    /// The best alignment of the prefix at `slot` that `token` may follow, with a new span for the token.
    fn enter(&mut self, slot: usize, token: u32) -> Result<LabelPath> {
        let entry = self.beam[slot];
        let before = entry.best_before(token);
        let spans = if before == entry.best_blank.score {
            entry.best_blank.spans
        } else {
            self.close(slot)?
        };
        Ok(LabelPath {
            score: before,
            spans,
            start: self.frames,
            before,
        })
    }

    /// The spans of the best label path at `slot`, the last of which ends before this frame.
    fn close(&mut self, slot: usize) -> Result<u32> {
        if let Some(spans) = self.work.closed[slot] {
            return Ok(spans);
        }
        let entry = self.beam[slot];
        let span = entry.open_span(self.frames);
        let spans = self.spans.push(span, entry.best_label.spans)?;
        self.work.closed[slot] = Some(spans);
        Ok(spans)
    }

    fn collect(&self, end: End) -> Result<Vec<Hypothesis>> {
        let mut scores = Vec::with_capacity(self.beam.len());
        for entry in &self.beam {
            let mut lm_score = entry.lm;
            if end != End::Ignored && self.opts.lm_weight != 0.0 {
                let end = self.language_model.end(self.tree.state(entry.node))?;
                if end.is_nan() || end == f64::INFINITY {
                    bail!("beam_search: the language model gave {end} for the end of the text")
                }
                lm_score += self.opts.lm_weight * end;
            }
            scores.push(lm_score);
        }
        let unfinished = scores.iter().all(|&score| score == f64::NEG_INFINITY);
        if unfinished && end == End::Preferred {
            scores = self.beam.iter().map(|entry| entry.lm).collect();
        }
        let mut found = Vec::with_capacity(self.beam.len());
        for (entry, lm_score) in self.beam.iter().zip(scores) {
            if lm_score > f64::NEG_INFINITY {
                found.push((entry, self.tree.tokens(entry.node), lm_score));
            }
        }
        found.sort_by(|a, b| {
            let rank = |found: &(&Entry, Vec<u32>, f64)| found.0.total + found.2;
            rank(b).total_cmp(&rank(a)).then_with(|| a.1.cmp(&b.1))
        });
        found.truncate(self.opts.n_best);
        let hypotheses = found.into_iter().map(|(entry, tokens, lm_score)| {
            let spans = if entry.ends_in_label() {
                let mut spans = self.spans.read(entry.best_label.spans);
                spans.push(entry.open_span(self.frames));
                spans
            } else {
                self.spans.read(entry.best_blank.spans)
            };
            Hypothesis {
                tokens,
                score: entry.total,
                lm_score,
                spans,
            }
        });
        Ok(hypotheses.collect())
    }
}

impl Entry {
    /// Whether the best alignment ends in the last label rather than in a blank.
    #[inline]
    fn ends_in_label(&self) -> bool {
        self.best_label.score > self.best_blank.score
    }

    /// The log-probability of the alignments that `token` may follow: equal labels must be separated by a blank.
    #[inline]
    fn before(&self, token: u32) -> f64 {
        if token == self.token {
            self.blank
        } else {
            self.total
        }
    }

    /// The same for the best single alignment.
    fn best_before(&self, token: u32) -> f64 {
        if token == self.token {
            self.best_blank.score
        } else {
            self.best_blank.score.max(self.best_label.score)
        }
    }

    /// The span of the last label in the best label path, ending before frame `end`.
    fn open_span(&self, end: usize) -> TokenSpan {
        let LabelPath {
            score,
            start,
            before,
            ..
        } = self.best_label;
        TokenSpan {
            token: self.token,
            start,
            end,
            score: ((score - before) / (end - start) as f64) as f32,
        }
    }
}

/// The place of a prefix in a beam, if it is there.
#[inline]
fn place_of<S>(tree: &Tree<S>, beam: &[Entry], prefix: u32) -> Option<u32> {
    let place = tree.node(prefix).slot;
    (beam.get(place as usize)?.node == prefix).then_some(place)
}

/// The tokens that the language model lets follow a prefix, of those that a hypothesis may hold; `tokens` is scratch
/// memory.
fn list_following<L: LanguageModel>(
    language_model: &L,
    tree: &Tree<L::State>,
    prefix: u32,
    allowed: &[bool],
    tokens: &mut Vec<u32>,
) -> Following {
    tokens.clear();
    if !language_model.next_tokens(tree.state(prefix), LISTED, tokens) {
        return Following::Any;
    }
    tokens.retain(|token| allowed.get(*token as usize) == Some(&true));
    Following::new(tokens)
}

/// The order of tokens with their log-probabilities: the most probable first, of equal ones the first class.
fn most_probable(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The candidates for the next beam while they are collected.
struct Frontier<'a> {
    candidates: &'a mut Vec<Candidate>,
    /// A candidate below this cannot be among the first `width`, or is too far below the best.
    least: f64,
    width: usize,
    /// The number of candidates from which those behind the first `width` are dropped.
    room: usize,
}

impl<'a> Frontier<'a> {
    fn new(candidates: &'a mut Vec<Candidate>, opts: &BeamOptions) -> Self {
        let width = opts.beam_width;
        let ranks = candidates.iter().map(|candidate| candidate.rank);
        let mut least = ranks.clone().fold(f64::NEG_INFINITY, f64::max) - opts.beam_threshold;
        if candidates.len() >= width {
            least = least.max(ranks.fold(f64::INFINITY, f64::min));
        }
        Self {
            candidates,
            least,
            width,
            room: width.saturating_mul(2).max(width.saturating_add(64)),
        }
    }

    #[inline]
    fn add(&mut self, score: f64, lm: f64, slot: usize, token: u32) {
        let rank = score + lm;
        if rank < self.least || rank == f64::NEG_INFINITY {
            return;
        }
        self.candidates.push(Candidate {
            rank,
            lm,
            slot: slot as u32,
            step: token + 1,
        });
        if self.candidates.len() >= self.room {
            let last = self.width - 1;
            self.candidates
                .select_nth_unstable_by(last, Candidate::order);
            self.candidates.truncate(self.width);
            self.least = self.least.max(self.candidates[last].rank);
        }
    }
}

/// The contribution of `token` to the score of the prefix of `state`, of which the language model says at most `bound`.
#[inline]
fn weight<L: LanguageModel>(
    language_model: &L,
    state: &L::State,
    opts: &BeamOptions,
    token: u32,
    bound: f64,
) -> Result<f64> {
    let score = language_model.score(state, token)?;
    if score.is_nan() || score == f64::INFINITY {
        bail!("beam_search: the language model gave {score} for token {token}")
    }
    if score > bound {
        bail!(
            "beam_search: the language model gave {score} for token {token}, but its max_score is {bound}"
        )
    }
    Ok(opts.lm_weight * score + opts.token_bonus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::arena::KEEP;
    use candle_core::Device;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn what_no_prefix_leads_to_is_dropped() {
        let (chunks, chunk, classes) = (400, 50, 8);
        let opts = BeamOptions {
            beam_width: 16,
            input: InputKind::Logits,
            ..Default::default()
        };
        let mut random = StdRng::seed_from_u64(9);
        let mut search = BeamSearch::new(classes, opts).unwrap();
        let mut before = [0, 0];
        let mut drops = [0, 0];
        for _ in 0..chunks {
            let values: Vec<f32> = (0..chunk * classes)
                .map(|_| -8.0 * random.random::<f32>())
                .collect();
            let frames = Tensor::from_vec(values, (chunk, classes), &Device::Cpu).unwrap();
            search.push(&frames).unwrap();
            let held = [search.tree.len(), search.spans.len()];
            for i in 0..2 {
                // Four times the need, which is about a label per frame, plus the contribution of a few frames.
                let most = (5 * search.frames()).max(KEEP) + 16 * chunk;
                assert!(held[i] <= most, "{held:?} {most}");
                drops[i] += usize::from(held[i] < before[i]);
            }
            before = held;
        }
        assert!(drops[0] > 0 && drops[1] > 0, "{drops:?}");
    }
}
