//! What the search does with a frame.

use super::candidates::{Candidate, Frontier};
use super::entry::{BlankPath, Entry, LabelPath};
use super::{BeamSearch, Stay, Work, place_of};
use crate::decode::arena::{Following, NONE, Tree};
use crate::decode::beam::options::BeamOptions;
use crate::decode::language_model::LanguageModel;
use crate::decode::log_add;
use candle_core::{Result, bail};
use std::cmp::Ordering;

/// Longer lists of tokens that may follow a prefix are not kept with it.
const LISTED: usize = 64;

impl<L: LanguageModel> BeamSearch<L> {
    /// Takes the frame in `work.row`.
    pub(super) fn step(&mut self) -> Result<()> {
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
        if self.tree.has_many_states() {
            self.tree
                .keep_states(self.beam.iter().map(|entry| entry.node));
        }
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
                                // A repeated label follows only the alignments that end in a blank. Tokens that are
                                // less probable follow both kinds, and may still rank high enough.
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

    /// Finds the prefix of each candidate in the tree. New ones are added to it. The language model advances all of them,
    /// and those whose states were dropped, in one call.
    fn find_nodes(&mut self) -> Result<()> {
        let Work {
            candidates,
            nodes,
            new,
            ..
        } = &mut self.work;
        nodes.clear();
        new.clear();
        for (place, &Candidate { slot, step, .. }) in candidates.iter().enumerate() {
            let parent = self.beam[slot as usize].node;
            let node = match step {
                0 => Some(parent),
                step => self.tree.child(parent, step - 1),
            };
            nodes.push(node.unwrap_or(NONE));
            if node.is_none_or(|node| !self.tree.has_state(node)) {
                new.push((place, parent, step - 1));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let prefixes = new
            .iter()
            .map(|&(_, parent, token)| (self.tree.state(parent), token));
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
        for (&(place, parent, token), state) in new.iter().zip(states) {
            match nodes[place] {
                NONE => nodes[place] = self.tree.add_child(parent, token, state)?,
                node => self.tree.put_state(node, state),
            }
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
            // Only prefixes in the beam keep the list of tokens that may follow them.
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

/// What `token` adds to the score of the prefix of `state`. The language model must score it at most `bound`.
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
        let name = match bound == language_model.max_score() {
            true => "max_score",
            false => "max_score_in for this state",
        };
        bail!(
            "beam_search: the language model gave {score} for token {token}, but its {name} is {bound}"
        )
    }
    Ok(opts.lm_weight * score + opts.token_bonus)
}
