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

mod candidates;
mod entry;
mod frame;
mod rivals;

use self::candidates::Candidate;
use self::entry::{EMPTY_PREFIX, Entry};
use self::rivals::Rivals;
use super::options::{BeamOptions, End, check_options};
use crate::cpu_input::on_host;
use crate::cpu_input::{check_row, rows};
use crate::decode::Hypothesis;
use crate::decode::arena::{Spans, Tree};
use crate::decode::language_model::{LanguageModel, NoLanguageModel};
use crate::distribution::{check_normalised, log_softmax};
use crate::options::InputKind;
use crate::problem::plan::Plan;
use crate::problem::validate::{self, Call};
use candle_core::{Result, Tensor, bail};

/// A beam search that takes its frames in chunks, for streaming audio.
///
/// The result is bit-identical for any division into chunks, and equals that of [`beam_search`](crate::beam_search) on
/// all frames. Memory: about 100 bytes per prefix of the beam, with a lexicon also 16 for each token that may follow it,
/// and 100 bytes for each token and span that the prefixes of the beam lead back to; others are dropped from time to time.
/// Of the language model's states at most 1024 are kept from frame to frame, or 16 for each prefix of a wide beam.
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

/// A prefix of the beam after a frame in which it takes no further label.
#[derive(Debug, Clone, Copy)]
struct Stay {
    blank: f64,
    label: f64,
    total: f64,
    /// The index of its parent in the beam, or [`NONE`].
    parent: u32,
}

/// Scratch memory, reused from frame to frame.
struct Work {
    row: Vec<f64>,
    /// The tokens that may extend a prefix, most probable first, with their log-probabilities.
    tokens: Vec<(f64, u32)>,
    /// For each class, its log-probability if it is in `tokens`, else −inf. Filled only if a language model is asked.
    chosen: Vec<f64>,
    stays: Vec<Stay>,
    candidates: Vec<Candidate>,
    /// The tokens that the language model lets follow a prefix.
    next_tokens: Vec<u32>,
    /// For each candidate, its prefix in the tree.
    nodes: Vec<u32>,
    /// The prefixes that the tree does not have yet, or not with a state: the candidate, the parent and the label.
    new: Vec<(usize, u32, u32)>,
    next: Vec<Entry>,
    rivals: Rivals,
    /// For each prefix in the beam, its children in the beam: the first, and the next of the same parent.
    first_child: Vec<u32>,
    next_child: Vec<u32>,
    /// For each class, the last visit to a prefix that has a child in the beam with this class as its last label.
    seen: Vec<u64>,
    /// Visits to prefixes, over all frames.
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
        let found = self.beam.iter().zip(scores);
        let mut found: Vec<(&Entry, f64)> = found
            .filter(|(_, lm_score)| *lm_score > f64::NEG_INFINITY)
            .collect();
        found.sort_by(|a, b| {
            let rank = |(entry, lm_score): &(&Entry, f64)| entry.total + lm_score;
            let by_rank = rank(b).total_cmp(&rank(a));
            by_rank.then_with(|| self.tree.order(a.0.node, b.0.node))
        });
        found.truncate(self.opts.n_best);
        let hypotheses = found.into_iter().map(|(entry, lm_score)| {
            let spans = if entry.ends_in_label() {
                let mut spans = self.spans.read(entry.best_label.spans);
                spans.push(entry.open_span(self.frames));
                spans
            } else {
                self.spans.read(entry.best_blank.spans)
            };
            Hypothesis {
                tokens: self.tree.tokens(entry.node),
                score: entry.total,
                lm_score,
                spans,
            }
        });
        Ok(hypotheses.collect())
    }
}

/// The place of a prefix in a beam, if it is there.
#[inline]
fn place_of<S>(tree: &Tree<S>, beam: &[Entry], prefix: u32) -> Option<u32> {
    let place = tree.node(prefix).slot;
    (beam.get(place as usize)?.node == prefix).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::arena::{KEEP, STATES};
    use candle_core::Device;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::cell::Cell;
    use std::sync::Arc;

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

    /// A model of pairs of tokens whose states can be counted.
    struct Counted(Arc<()>);

    impl LanguageModel for Counted {
        type State = (u32, Arc<()>);

        fn start(&self) -> Result<Self::State> {
            Ok((0, Arc::clone(&self.0)))
        }

        fn score(&self, state: &Self::State, token: u32) -> Result<f64> {
            Ok(-0.1 * f64::from((3 * state.0 + token) % 5))
        }

        fn advance(&self, _state: &Self::State, token: u32) -> Result<Self::State> {
            Ok((token, Arc::clone(&self.0)))
        }
    }

    /// The same with keys of its states; each call of a number that `period` divides fails.
    struct Flaky {
        model: Counted,
        period: u32,
        calls: Cell<u32>,
    }

    impl Flaky {
        fn call(&self) -> Result<()> {
            self.calls.set(self.calls.get() + 1);
            match self.calls.get().is_multiple_of(self.period) {
                true => bail!("for once"),
                false => Ok(()),
            }
        }
    }

    impl LanguageModel for Flaky {
        type State = (u32, Arc<()>);

        fn start(&self) -> Result<Self::State> {
            self.model.start()
        }

        fn score(&self, state: &Self::State, token: u32) -> Result<f64> {
            self.call()?;
            self.model.score(state, token)
        }

        fn advance(&self, state: &Self::State, token: u32) -> Result<Self::State> {
            self.call()?;
            self.model.advance(state, token)
        }

        fn state_key(&self, state: &Self::State) -> Option<u128> {
            Some(u128::from(state.0))
        }
    }

    /// A frame of logits.
    fn frame(random: &mut StdRng, classes: usize) -> Tensor {
        let values: Vec<f32> = (0..classes)
            .map(|_| -8.0 * random.random::<f32>())
            .collect();
        Tensor::from_vec(values, (1, classes), &Device::Cpu).unwrap()
    }

    #[test]
    fn frames_may_be_pushed_again_after_states_were_dropped() {
        let classes = 8;
        let opts = BeamOptions {
            beam_width: 16,
            input: InputKind::Logits,
            ..Default::default()
        };
        let states = Arc::new(());
        let search = |period, states: &Arc<()>| {
            let model = Flaky {
                model: Counted(Arc::clone(states)),
                period,
                calls: Cell::new(0),
            };
            BeamSearch::with_language_model(classes, model, opts).unwrap()
        };
        let mut sound = search(u32::MAX, &Arc::new(()));
        // More calls than a frame takes.
        let mut flaky = search(1009, &states);
        let mut random = StdRng::seed_from_u64(12);
        let (mut errors, mut before, mut drops) = (0, 0, 0);
        for at in 0..1500 {
            let frame = frame(&mut random, classes);
            sound.push(&frame).unwrap();
            while flaky.push(&frame).is_err() {
                errors += 1;
                assert_eq!(flaky.frames(), at);
            }
            let held = Arc::strong_count(&states);
            drops += usize::from(held < before);
            before = held;
        }
        assert!(errors > 0 && drops > 0, "{errors} {drops}");
        assert_eq!(flaky.finish().unwrap(), sound.finish().unwrap());
    }

    #[test]
    fn few_states_of_a_language_model_are_kept() {
        let classes = 8;
        let opts = BeamOptions {
            beam_width: 16,
            input: InputKind::Logits,
            ..Default::default()
        };
        let states = Arc::new(());
        let model = Counted(Arc::clone(&states));
        let mut random = StdRng::seed_from_u64(11);
        let mut search = BeamSearch::with_language_model(classes, model, opts).unwrap();
        let mut before = 0;
        let mut drops = 0;
        for _ in 0..2000 {
            search.push(&frame(&mut random, classes)).unwrap();
            // Two belong to the model and to this test.
            let held = Arc::strong_count(&states) - 2;
            assert!(held <= STATES, "{held}");
            drops += usize::from(held < before);
            before = held;
        }
        assert!(drops > 1, "{drops}");
        // Prefixes that came back have the state of their last token.
        let best = search.finish().unwrap().remove(0);
        let mut want = 0.0;
        let mut last = 0;
        for &token in &best.tokens {
            want -= 0.1 * f64::from((3 * last + token) % 5);
            last = token;
        }
        assert!(
            (best.lm_score - want).abs() < 1e-6,
            "{} {want}",
            best.lm_score
        );
    }
}
