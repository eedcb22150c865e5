//! Best paths that may leave labels of the target out.
//!
//! A path may skip a label. The rest of the target then follows the usual rules: two equal labels that become neighbours
//! need a blank between them. The recursion is that of the module above, with more ways into a state. Let i be a pair
//! before which the labels j+1 to i−1 may be left out:
//!
//! ```text
//! v_t(blank i) = y_t(blank)   + max(..., v(label j))                                  at t−1
//! v_t(label i) = y_t(label i) + max(..., v(label j) if it differs from label i)       at t−1
//! ```
//!
//! Where all labels before i may be left out, label i is also entered from the first blank; where all labels after j may
//! be, label j leads to the last blank, and the path may end in it. So the blanks before the first label that is read are
//! the first blank, those after the last are the last, and all others stand before the next label that is read. Of equal
//! candidates the one that leaves out least in this step wins.
//!
//! A path may advance by many pairs in a frame, so that no band bounds where it can be: rows are computed whole, by one
//! thread. About the square root of 16 T rows lie between two kept ones, which balances what is kept with the origins of
//! a segment.

use super::{DEAD, Failure, Item, NoPath, Path};
use crate::cpu::simd::isa::dispatch;
use crate::cpu::simd::real::{Element, Real};
use crate::memory::{filled_room, room_for};

/// Labels in a row that may be left out between two that are read, at most: what four bits hold of an origin.
pub(crate) const MOST_OMITTED: usize = 12;

/// What paths may leave out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Omissions<'a> {
    /// These labels, wherever they stand, in ascending order.
    pub optional: &'a [u32],
    /// Any number of labels at either end.
    pub free_ends: bool,
}

impl Omissions<'_> {
    pub fn is_empty(self) -> bool {
        self.optional.is_empty() && !self.free_ends
    }

    /// What may be left out of a target; `None` if nothing may be.
    pub fn of(self, target: &[u32]) -> Option<Omissible> {
        if self.is_empty() {
            return None;
        }
        let optional: Vec<bool> = target
            .iter()
            .map(|label| self.optional.binary_search(label).is_ok())
            .collect();
        if target.is_empty() || !(self.free_ends || optional.contains(&true)) {
            return None;
        }
        let mut before = vec![0; target.len() + 1];
        for (i, &optional) in optional.iter().enumerate() {
            before[i + 1] = if optional { before[i] + 1 } else { 0 };
        }
        let (first, last) = match self.free_ends {
            true => (target.len() - 1, target.len() - 1),
            false => (
                optional.iter().take_while(|&&optional| optional).count(),
                optional
                    .iter()
                    .rev()
                    .take_while(|&&optional| optional)
                    .count(),
            ),
        };
        Some(Omissible {
            before,
            first,
            last,
            all: self.free_ends || !optional.contains(&false),
        })
    }

    /// The minimum number of frames for a target.
    pub fn frames_needed(self, target: &[u32]) -> usize {
        let Some(omissible) = self.of(target) else {
            return crate::problem::plan::frames_needed(target);
        };
        if omissible.all {
            return 0;
        }
        // The frames until each label is reached.
        let mut needed: Vec<usize> = Vec::with_capacity(target.len());
        for (i, &label) in target.iter().enumerate() {
            let from = i.saturating_sub(1 + omissible.before[i]);
            let ways = (from..i).map(|j| needed[j] + usize::from(target[j] == label));
            let start = (i <= omissible.first).then_some(0);
            needed.push(1 + ways.chain(start).min().unwrap_or(0));
        }
        let ends = target.len() - 1 - omissible.last.min(target.len() - 1);
        needed[ends..].iter().copied().min().unwrap_or(0)
    }
}

/// What paths may leave out of one target.
pub(crate) struct Omissible {
    /// For each pair, how many labels directly before it may be left out.
    before: Vec<usize>,
    /// How many labels at the start may be left out, and how many at the end.
    first: usize,
    last: usize,
    /// Whether all may be.
    all: bool,
}

/// Where a label came from: itself, its blank, the first blank, or the label d + 1 before it ([`FROM_LABEL`] + d).
const FROM_BLANK: u8 = 1;
const FROM_FIRST_BLANK: u8 = 2;
const FROM_LABEL: u8 = 3;
/// Where a blank came from, times 16: itself, the label d + 1 before it (d + 1), or for the last blank any label.
const BLANK: u8 = 16;
const FROM_ANY_LABEL: u8 = 15;

/// The states after one frame. Element 0 of `label` belongs to the pair before the first, which is never reached.
struct Row {
    blank: Vec<f64>,
    label: Vec<f64>,
}

impl Row {
    fn new(pairs: usize) -> Self {
        Self {
            blank: vec![DEAD; pairs],
            label: vec![DEAD; pairs + 1],
        }
    }
}

/// The recursion over the rows of one item.
struct Rows<'a, 'b, E> {
    item: &'a Item<'b, E>,
    omissible: &'a Omissible,
    /// Pairs before which labels may be left out, other than at the start.
    leaping: Vec<usize>,
    /// 0 where label i differs from the label before it, −∞ elsewhere.
    skip: Vec<f64>,
    /// 0 where label i is entered from the first blank, −∞ elsewhere.
    enter: Vec<f64>,
    /// The index in `y` of each label.
    index: Vec<u32>,
    /// The class of each element of `y` but the last two, which are the star and no label.
    classes: Vec<usize>,
    y: Vec<f64>,
    old: Row,
    new: Row,
}

impl<'a, 'b, E: Element> Rows<'a, 'b, E> {
    fn new(item: &'a Item<'b, E>, omissible: &'a Omissible) -> Self {
        let (target, pairs) = (item.target, item.target.len() + 1);
        let (classes, mut index) = item.emissions_of(target);
        index.push(classes.len() as u32 + 1);
        let bias = |allowed: bool| if allowed { 0.0 } else { DEAD };
        let is_label = |i: usize| i > 0 && i < target.len();
        Self {
            leaping: (2..pairs).filter(|&i| omissible.before[i] > 0).collect(),
            skip: (0..pairs)
                .map(|i| bias(is_label(i) && target[i] != target[i - 1]))
                .collect(),
            enter: (0..pairs)
                .map(|i| bias(is_label(i) && i <= omissible.first))
                .collect(),
            index,
            y: vec![DEAD; classes.len() + 2],
            classes,
            old: Row::new(pairs),
            new: Row::new(pairs),
            item,
            omissible,
        }
    }

    /// Begins before the first frame.
    fn start(&mut self) {
        self.old.blank.fill(DEAD);
        self.old.label.fill(DEAD);
        self.old.blank[0] = 0.0;
    }

    /// Frame `t`. `origins` receives a byte for each pair; returns the label from which the last blank came, where that is
    /// none of those before it.
    fn frame(&mut self, t: usize, origins: &mut [u8]) -> Result<usize, NoPath> {
        self.read(t)?;
        dispatch(
            #[inline(always)]
            || self.step(t, origins),
        );
        self.leap(t, origins);
        let from = self.leave(t, origins);
        std::mem::swap(&mut self.old, &mut self.new);
        Ok(from)
    }

    fn read(&mut self, t: usize) -> Result<(), NoPath> {
        for (y, &class) in self.y.iter_mut().zip(&self.classes) {
            *y = self.item.entry(t, class);
            if y.is_poison() {
                return Err(NoPath::Undefined { frame: t, class });
            }
        }
        if let Some((_, star)) = &self.item.star {
            let place = self.classes.len();
            self.y[place] = star.at(t);
        }
        Ok(())
    }

    /// The ways of the usual recursion, and those from the first blank.
    #[inline(always)]
    fn step(&mut self, t: usize, origins: &mut [u8]) {
        let pairs = self.old.blank.len();
        let (y_blank, first) = (self.y[0], self.old.blank[0]);
        let dead = self.y.len() - 1;
        let outer = [0, pairs - 1].map(|pair| (pair, self.item.blank_at(t, pair, self.y[0])));
        let Row { blank, label } = &self.old;
        let (before, label) = (&label[..pairs], &label[1..][..pairs]);
        let (new_blank, new_label) = (
            &mut self.new.blank[..pairs],
            &mut self.new.label[1..][..pairs],
        );
        let (skip, enter, index) = (
            &self.skip[..pairs],
            &self.enter[..pairs],
            &self.index[..pairs],
        );
        let (blank, origins) = (&blank[..pairs], &mut origins[..pairs]);
        for i in 0..pairs {
            let to_blank = before[i] > blank[i];
            new_blank[i] = if to_blank { before[i] } else { blank[i] } + y_blank;
            let (mut best, mut origin) = (label[i], 0);
            if blank[i] > best {
                (best, origin) = (blank[i], FROM_BLANK);
            }
            let jump = before[i] + skip[i];
            if jump > best {
                (best, origin) = (jump, FROM_LABEL);
            }
            let entered = first + enter[i];
            if entered > best {
                (best, origin) = (entered, FROM_FIRST_BLANK);
            }
            new_label[i] = best + self.y[(index[i] as usize).min(dead)];
            origins[i] = origin | if to_blank { BLANK } else { 0 };
        }
        for (pair, y) in outer {
            new_blank[pair] = before[pair].max(blank[pair]) + y;
        }
    }

    /// The ways that leave out labels before a pair.
    fn leap(&mut self, t: usize, origins: &mut [u8]) {
        let target = self.item.target;
        for &i in &self.leaping {
            let (blank, label) = (self.old.blank[i], self.old.label[i + 1]);
            let (mut to_blank, mut from_blank) = (blank, 0);
            let (mut to_label, mut from_label) = (label, 0);
            if blank > to_label {
                (to_label, from_label) = (blank, FROM_BLANK);
            }
            for d in 0..=self.omissible.before[i].min(i - 1) {
                let (other, step) = (self.old.label[i - d], d as u8);
                if other > to_blank {
                    (to_blank, from_blank) = (other, 1 + step);
                }
                if i < target.len() && target[i] != target[i - 1 - d] && other > to_label {
                    (to_label, from_label) = (other, FROM_LABEL + step);
                }
            }
            let entered = self.old.blank[0] + self.enter[i];
            if entered > to_label {
                (to_label, from_label) = (entered, FROM_FIRST_BLANK);
            }
            self.new.blank[i] = to_blank + self.item.blank_at(t, i, self.y[0]);
            self.new.label[i + 1] = to_label + self.y[self.index[i] as usize];
            origins[i] = from_label | (BLANK * from_blank);
        }
    }

    /// The ways from any label into the last blank.
    fn leave(&mut self, t: usize, origins: &mut [u8]) -> usize {
        let last = self.item.target.len();
        let leaving = last - self.omissible.last..last;
        let y = self.item.blank_at(t, last, self.y[0]);
        // Label j is element j + 1.
        let best = self.old.label[leaving.clone()]
            .iter()
            .copied()
            .fold(DEAD, f64::max);
        if best + y > self.new.blank[last] {
            self.new.blank[last] = best + y;
            origins[last] = (origins[last] & (BLANK - 1)) | (BLANK * FROM_ANY_LABEL);
            let from = leaving.rev().find(|&place| self.old.label[place] == best);
            return from.unwrap_or(1) - 1;
        }
        0
    }

    /// The pair in which the best path ends, whether in its label, and its score.
    fn end(&self) -> (usize, bool, f64) {
        let last = self.item.target.len();
        let label = |j: usize| self.old.label[j + 1];
        let (mut pair, mut in_label, mut score) = (last - 1, true, label(last - 1));
        if self.old.blank[last] > score {
            (pair, in_label, score) = (last, false, self.old.blank[last]);
        }
        for j in (last - 1 - self.omissible.last.min(last - 1)..last - 1).rev() {
            if label(j) > score {
                (pair, in_label, score) = (j, true, label(j));
            }
        }
        // All labels may be left out: the path may stay in the first blank.
        if self.omissible.all && self.old.blank[0] > score {
            (pair, in_label, score) = (0, false, self.old.blank[0]);
        }
        (pair, in_label, score)
    }
}

impl<E: Element> Item<'_, E> {
    pub(super) fn best_path_with_omissions(&self, omissible: &Omissible) -> Result<Path, Failure> {
        if self.frames == 0 {
            return Ok(Path::default());
        }
        let pairs = self.target.len() + 1;
        let segment = self
            .frames
            .saturating_mul(16)
            .isqrt()
            .clamp(8, self.frames.max(8));
        let segments = self.frames.div_ceil(segment);
        let what = format!("forced_align: the best path of item {}", self.n);
        let mut states = filled_room(&what, &[self.frames], 0u32)?;
        let frame_scores = room_for(&what, &[self.frames])?;
        let mut kept: Vec<f64> = room_for(&what, &[segments - 1, 2, pairs])?;
        let mut origins = filled_room(&what, &[segment.min(self.frames), pairs], 0u8)?;
        let mut leaves = vec![0; segment];
        let mut rows = Rows::new(self, omissible);
        rows.start();
        for t in 0..(segments - 1) * segment {
            rows.frame(t, &mut origins[..pairs])?;
            if (t + 1) % segment == 0 {
                kept.extend_from_slice(&rows.old.blank);
                kept.extend_from_slice(&rows.old.label[1..]);
            }
        }
        let mut score = DEAD;
        let mut end: Option<(usize, bool)> = None;
        for a in (0..segments).rev() {
            let frames = a * segment..self.frames.min((a + 1) * segment);
            match a {
                0 => rows.start(),
                _ => {
                    let row = &kept[2 * pairs * (a - 1)..2 * pairs * a];
                    rows.old.blank.copy_from_slice(&row[..pairs]);
                    rows.old.label[1..].copy_from_slice(&row[pairs..]);
                }
            }
            for (t, origins) in frames.clone().zip(origins.chunks_exact_mut(pairs)) {
                leaves[t - frames.start] = rows.frame(t, origins)?;
            }
            let (mut pair, mut in_label) = match end {
                Some(end) => end,
                None => {
                    let (pair, in_label, best) = rows.end();
                    score = best;
                    if score == DEAD {
                        return Err(NoPath::Impossible.into());
                    }
                    (pair, in_label)
                }
            };
            for t in frames.clone().rev() {
                states[t] = 2 * pair as u32 + u32::from(in_label);
                let origin = origins[(t - frames.start) * pairs + pair];
                (pair, in_label) = match (in_label, origin % BLANK, origin / BLANK) {
                    (false, _, 0) | (true, 0, _) => (pair, in_label),
                    (false, _, FROM_ANY_LABEL) => (leaves[t - frames.start], true),
                    (false, _, d) => (pair - usize::from(d), true),
                    (true, FROM_BLANK, _) => (pair, false),
                    (true, FROM_FIRST_BLANK, _) => (0, false),
                    (true, d, _) => (pair - 1 - usize::from(d - FROM_LABEL), true),
                };
            }
            end = Some((pair, in_label));
        }
        Ok(self.path(states, frame_scores, score))
    }
}
