//! The best path through the lattice: the CTC recursion with a maximum in place of the sum.
//!
//! States are stored as pairs, as in `lattice/scaled`: `blank[i]` precedes label i. `y_t` are the log-probabilities;
//! `skip[i]` is 0 where label i differs from the label before it, and −inf elsewhere:
//!
//! ```text
//! v_t(blank i) = y_t(blank)   + max(v(blank i), v(label i−1))                        at t−1
//! v_t(label i) = y_t(label i) + max(v(label i), v(blank i), v(label i−1) + skip[i])  at t−1
//! ```
//!
//! The recursion needs no exponential, and f64 keeps a sum over any number of frames exact to a few roundings, so all
//! inputs are converted to f64. Of equal candidates, the first in the order above wins.
//!
//! Memory. Only the row before each segment of [`SEGMENT`] frames is kept. Back-pointers are computed for one segment
//! at a time, from the last to the first. Once the state at the end of a segment is known, only the `SEGMENT` pairs
//! before it can lie on the path, so the second computation covers a window of `SEGMENT × SEGMENT` rather than whole
//! rows.
//!
//! Threads. The pairs are cut into tiles of [`TILE`] pairs. A tile depends on its left neighbour only through the value
//! of that tile's last label at each frame. So the tiles (segment a, columns c) with the same a + c are independent.

use crate::cpu::simd::isa::dispatch;
use crate::cpu::simd::lanes::LANES;
use crate::cpu::simd::real::{Element, Real};
use crate::memory::room_for;
use crate::problem::plan::{Plan, Strides};
use rayon::prelude::*;
use std::ops::Range;

mod omissions;
mod wildcards;

pub(crate) use omissions::{MOST_OMITTED, Omissions};
use wildcards::WildcardEmissions;
pub(crate) use wildcards::Wildcards;

/// Frames between kept rows.
const SEGMENT: usize = 2048;

/// Pairs per tile.
const TILE: usize = 1024;

const DEAD: f64 = f64::NEG_INFINITY;

/// The best path of one item.
#[derive(Default)]
pub(crate) struct Path {
    /// The state of each frame: 2i for the blank before label i, 2i + 1 for label i.
    pub states: Vec<u32>,
    /// The log-probability of the class of each frame.
    pub frame_scores: Vec<f32>,
    /// The log-probability of the path.
    pub score: f64,
}

/// Why an item has no best path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPath {
    /// Every path has probability 0.
    Impossible,
    /// A NaN or +inf among the entries that the target uses.
    Undefined { frame: usize, class: usize },
}

/// Why an item has no result.
enum Failure {
    NoPath(NoPath),
    /// Out of memory.
    Memory(candle_core::Error),
}

impl From<NoPath> for Failure {
    fn from(no_path: NoPath) -> Self {
        Self::NoPath(no_path)
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Memory(error)
    }
}

/// The best path of each item. Every target must fit into its frames, without what it may leave out. Fails if memory
/// runs out.
pub(crate) fn viterbi<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    wildcards: Wildcards,
    omissions: Omissions,
) -> candle_core::Result<Vec<Result<Path, NoPath>>> {
    (0..plan.input.batch)
        .into_par_iter()
        .map(|n| {
            let mut item = Item {
                n,
                data,
                strides,
                start: strides.offset + n * strides.item,
                frames: plan.input_lengths[n],
                target: plan.target(n),
                blank: plan.input.blank,
                star: None,
                outside: None,
                segment: SEGMENT,
                tile: TILE,
            };
            let prepared = item.prepare(wildcards, plan.input.classes);
            let path = prepared.and_then(|()| match omissions.of(item.target) {
                None => item.best_path(),
                Some(omissible) => item.best_path_with_omissions(&omissible),
            });
            match path {
                Ok(path) => Ok(Ok(path)),
                Err(Failure::NoPath(no_path)) => Ok(Err(no_path)),
                Err(Failure::Memory(error)) => Err(error),
            }
        })
        .collect()
}

struct Item<'a, E> {
    n: usize,
    data: &'a [E],
    strides: Strides,
    /// Index of the first entry of frame 0.
    start: usize,
    frames: usize,
    target: &'a [u32],
    blank: usize,
    star: Option<(u32, WildcardEmissions)>,
    outside: Option<WildcardEmissions>,
    /// [`SEGMENT`] and [`TILE`]; smaller in tests.
    segment: usize,
    tile: usize,
}

/// The end of the paths: a pair from `first` to `last`, after `frames` frames.
#[derive(Clone, Copy)]
struct Goal {
    first: usize,
    last: usize,
    frames: usize,
}

impl Goal {
    /// The end of an item with `labels` labels: the last label or the blank after it, which belong to two pairs.
    fn end(labels: usize, frames: usize) -> Self {
        Self {
            first: labels.saturating_sub(1),
            last: labels,
            frames,
        }
    }

    /// The pairs in which a path from the start to the goal can be after `done` frames. A path is in pair 0 in the
    /// first frame, and advances by at most one pair in each later frame.
    #[inline(always)]
    fn band(self, done: usize) -> Range<usize> {
        let first = self.first.saturating_sub(self.frames - done);
        first..done.saturating_sub(1).min(self.last) + 1
    }

    /// The union of the bands after `done` or more frames.
    fn pairs_from(self, done: usize) -> Range<usize> {
        self.band(done).start..self.last + 1
    }
}

/// Consecutive pairs, in whole vectors of [`LANES`].
struct Tile {
    /// The first pair.
    first: usize,
    /// `v(blank)` of each pair.
    blank: Vec<f64>,
    /// `v(label)` of each pair, after one element for the pair before the first.
    label: Vec<f64>,
    skip: Vec<f64>,
    /// The index in `y` of each label.
    index: Vec<u32>,
    /// The class of each element of `y`: the blank, then the labels of the tile, each once.
    classes: Vec<usize>,
    /// Log-probabilities at the current frame: of `classes`, then of the star, then −inf for no label.
    y: Vec<f64>,
    /// The rows before the first frame of each segment: the blanks, then the labels.
    checkpoints: Vec<f64>,
    undefined: Option<NoPath>,
}

impl Tile {
    /// The tile of `pairs` of the target; pair U has no label.
    fn new<E: Element>(item: &Item<E>, pairs: Range<usize>) -> Self {
        let width = pairs.len().next_multiple_of(LANES);
        let target = item.target;
        let labels = &target[pairs.start.min(target.len())..pairs.end.min(target.len())];
        let (classes, mut index) = item.emissions_of(labels);
        index.resize(width, classes.len() as u32 + 1);
        let mut skip = vec![DEAD; width];
        for (k, skip) in skip.iter_mut().enumerate().take(labels.len()) {
            let i = pairs.start + k;
            if i > 0 && target[i] != target[i - 1] {
                *skip = 0.0;
            }
        }
        let y = vec![DEAD; classes.len() + 2];
        Self {
            first: pairs.start,
            blank: vec![DEAD; width],
            label: vec![DEAD; width + 1],
            skip,
            index,
            classes,
            y,
            checkpoints: Vec::new(),
            undefined: None,
        }
    }

    fn keep(&mut self) {
        self.checkpoints.extend_from_slice(&self.blank);
        self.checkpoints.extend_from_slice(&self.label[1..]);
    }

    /// The blanks and the labels before segment `a`.
    fn kept(&self, a: usize) -> (&[f64], &[f64]) {
        let width = self.blank.len();
        self.checkpoints[2 * width * a..2 * width * (a + 1)].split_at(width)
    }

    /// Computes `frames`. `left` holds the last label of the tile to the left before each frame; `right` receives that
    /// of this tile. With `RECORD`, `choices` receives one byte per frame and pair: the origin of the label (0: itself,
    /// 1: its blank, 2: the label before), plus 4 if the blank comes from the label before it.
    fn sweep<E: Element, const RECORD: bool>(
        &mut self,
        item: &Item<E>,
        frames: Range<usize>,
        goal: Goal,
        left: &[f64],
        right: &mut [f64],
        choices: &mut [u8],
    ) {
        dispatch(
            #[inline(always)]
            || {
                let width = self.blank.len();
                let used = self.classes.len();
                let columns: Vec<usize> = self
                    .classes
                    .iter()
                    .map(|class| class * item.strides.class)
                    .collect();
                let mut raw = vec![E::zero(); used];
                let mut wide = vec![E::Real::ZERO; used];
                for (k, t) in frames.enumerate() {
                    right[k] = self.label[width];
                    self.label[0] = left[k];
                    let band = goal.band(t + 1);
                    let low = band.start.saturating_sub(self.first).min(width);
                    let high = band.end.saturating_sub(self.first).min(width);
                    if low >= high {
                        continue;
                    }
                    let start = item.start + t * item.strides.frame;
                    for (to, column) in raw.iter_mut().zip(&columns) {
                        *to = item.data[start + column];
                    }
                    E::widen_slice(&raw, &mut wide);
                    let mut poisoned = false;
                    for (y, x) in self.y.iter_mut().zip(&wide) {
                        *y = x.widen();
                        poisoned |= y.is_poison();
                    }
                    if poisoned && self.undefined.is_none() {
                        let bad = self.y.iter().position(|&y| y.is_poison());
                        self.undefined = bad.map(|place| NoPath::Undefined {
                            frame: t,
                            class: self.classes[place],
                        });
                    }
                    let last = self.y.len() - 1;
                    if let Some((_, star)) = &item.star {
                        self.y[last - 1] = star.at(t);
                    }
                    let y_blank = self.y[0];
                    let y_outside = item.outside_at(t, y_blank);
                    // From the last vector to the first: a pair reads the pair before it, which must still hold the
                    // previous frame.
                    for b in (low / LANES..high.div_ceil(LANES)).rev() {
                        let s = b * LANES;
                        let here = s..s + LANES;
                        let (mut y, mut blank, mut label) =
                            ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
                        let (mut before, mut skip) = ([0.0; LANES], [0.0; LANES]);
                        for (y, &i) in y.iter_mut().zip(&self.index[here.clone()]) {
                            // The minimum changes nothing; it proves to the compiler that the index is in bounds.
                            *y = self.y[(i as usize).min(last)];
                        }
                        blank.copy_from_slice(&self.blank[here.clone()]);
                        before.copy_from_slice(&self.label[here.clone()]);
                        label.copy_from_slice(&self.label[s + 1..s + 1 + LANES]);
                        skip.copy_from_slice(&self.skip[here.clone()]);
                        let mut y_blanks = [y_blank; LANES];
                        if let Some(y_outside) = y_outside {
                            for pair in [0, item.target.len()] {
                                let lane = pair.checked_sub(self.first + s);
                                if let Some(y) = lane.and_then(|lane| y_blanks.get_mut(lane)) {
                                    *y = y_outside;
                                }
                            }
                        }
                        let (mut new_blank, mut new_label) = ([0.0; LANES], [0.0; LANES]);
                        let mut choice = [0u64; LANES];
                        for k in 0..LANES {
                            let to_blank = before[k] > blank[k];
                            new_blank[k] =
                                if to_blank { before[k] } else { blank[k] } + y_blanks[k];
                            let jump = before[k] + skip[k];
                            let from_blank = blank[k] > label[k];
                            let best = if from_blank { blank[k] } else { label[k] };
                            let from_jump = jump > best;
                            new_label[k] = if from_jump { jump } else { best } + y[k];
                            if RECORD {
                                let near = u64::from(from_blank);
                                choice[k] =
                                    if from_jump { 2 } else { near } | if to_blank { 4 } else { 0 };
                            }
                        }
                        self.blank[here.clone()].copy_from_slice(&new_blank);
                        self.label[s + 1..s + 1 + LANES].copy_from_slice(&new_label);
                        if RECORD {
                            let to = &mut choices[k * width + s..k * width + s + LANES];
                            for (to, choice) in to.iter_mut().zip(choice) {
                                *to = choice as u8;
                            }
                        }
                    }
                }
            },
        )
    }
}

impl<E: Element> Item<'_, E> {
    fn best_path(&self) -> Result<Path, Failure> {
        if self.frames == 0 {
            return Ok(Path {
                states: Vec::new(),
                frame_scores: Vec::new(),
                score: 0.0,
            });
        }
        let labels = self.target.len();
        // Allocate first, so that no work is done for a path that does not fit into memory.
        let what = format!("forced_align: the best path of item {}", self.n);
        let mut states = room_for(&what, &[self.frames])?;
        let frame_scores = room_for(&what, &[self.frames])?;
        let tiles = self.checkpoints()?;
        states.resize(self.frames, 0u32);
        // The pair in which the path ends, and whether in its label; set by the last segment.
        let mut end: Option<(usize, bool)> = None;
        let mut score = 0.0;
        let mut choices = Vec::new();
        for a in (0..self.segments()).rev() {
            let segment = self.segment_frames(a);
            let start = segment.start;
            let goal = match end {
                None => Goal::end(labels, self.frames),
                Some((pair, _)) => Goal {
                    first: pair,
                    last: pair,
                    frames: segment.end,
                },
            };
            let mut window = self.window(goal.pairs_from(start), &tiles, a);
            let width = window.blank.len();
            choices.resize(segment.len() * width, 0);
            let (left, mut right) = (vec![DEAD; segment.len()], vec![DEAD; segment.len()]);
            window.sweep::<E, true>(self, segment.clone(), goal, &left, &mut right, &mut choices);
            if let Some(undefined) = window.undefined {
                return Err(undefined.into());
            }
            let (mut pair, mut in_label) = match end {
                Some(end) => end,
                None => {
                    let last = labels - window.first;
                    let blank = window.blank[last];
                    // The labels are offset by one, so element `last` is label U − 1; without labels it is −∞.
                    let label = window.label[last];
                    // Of two equal ends, prefer the last label.
                    let in_label = label >= blank;
                    score = if in_label { label } else { blank };
                    if score == DEAD {
                        return Err(NoPath::Impossible.into());
                    }
                    (labels - usize::from(in_label), in_label)
                }
            };
            for t in segment.rev() {
                states[t] = 2 * pair as u32 + u32::from(in_label);
                let choice = choices[(t - start) * width + pair - window.first];
                match (in_label, choice & 3, choice & 4) {
                    (false, _, 0) | (true, 0, _) => {}
                    (true, 1, _) => in_label = false,
                    _ => {
                        pair -= 1;
                        in_label = true;
                    }
                }
            }
            end = Some((pair, in_label));
        }
        Ok(self.path(states, frame_scores, score))
    }

    /// The path with these states; `frame_scores` has room for them.
    fn path(&self, states: Vec<u32>, mut frame_scores: Vec<f32>, score: f64) -> Path {
        let scores = states.iter().enumerate();
        frame_scores.extend(scores.map(|(t, &state)| self.log_prob(t, state) as f32));
        Path {
            states,
            frame_scores,
            score,
        }
    }

    /// The classes that these labels use, the blank first and each once, and for each label the index of its class among
    /// them; that of the star is one past the last.
    fn emissions_of(&self, labels: &[u32]) -> (Vec<usize>, Vec<u32>) {
        let mut used: Vec<u32> = labels.to_vec();
        used.retain(|&label| !self.is_star(label));
        used.sort_unstable();
        used.dedup();
        let place = |label: &u32| match used.binary_search(label) {
            Ok(place) => place as u32 + 1,
            Err(_) => used.len() as u32 + 1,
        };
        let index = labels.iter().map(place).collect();
        let used = used.iter().map(|&label| label as usize);
        ([self.blank].into_iter().chain(used).collect(), index)
    }

    fn log_prob(&self, t: usize, state: u32) -> f64 {
        let pair = state as usize / 2;
        if state.is_multiple_of(2) {
            return self.blank_at(t, pair, self.entry(t, self.blank));
        }
        let label = self.target[pair];
        match &self.star {
            Some((star, emissions)) if *star == label => emissions.at(t),
            _ => self.entry(t, label as usize),
        }
    }

    fn entry(&self, t: usize, class: usize) -> f64 {
        let place = self.start + t * self.strides.frame + class * self.strides.class;
        let mut wide = [E::Real::ZERO];
        E::widen_slice(&[self.data[place]], &mut wide);
        wide[0].widen()
    }

    fn segments(&self) -> usize {
        self.frames.div_ceil(self.segment)
    }

    /// The frames of segment `a`.
    fn segment_frames(&self, a: usize) -> Range<usize> {
        let start = a * self.segment;
        start..self.frames.min(start + self.segment)
    }

    /// The tiles of all pairs, with the rows before each segment. The last segment is not computed here.
    fn checkpoints(&self) -> Result<Vec<Tile>, Failure> {
        let segments = self.segments();
        let pairs = self.target.len() + 1;
        let firsts: Vec<usize> = (0..pairs).step_by(self.tile).collect();
        let mut tiles: Vec<Tile> = firsts
            .par_iter()
            .map(|&first| Tile::new(self, first..(first + self.tile).min(pairs)))
            .collect();
        tiles[0].blank[0] = 0.0;
        let what = format!("forced_align: the states that are kept of item {}", self.n);
        for tile in &mut tiles {
            tile.checkpoints = room_for(&what, &[segments, 2 * tile.blank.len()])?;
        }
        if segments == 1 {
            tiles.iter_mut().for_each(Tile::keep);
            return Ok(tiles);
        }
        let goal = Goal::end(self.target.len(), self.frames);
        // Two sets of borders alternate: a tile reads its left border from the previous turn, while its left neighbour,
        // one segment ahead, writes the other set.
        let no_border = vec![DEAD; self.segment];
        let mut before = vec![no_border.clone(); tiles.len()];
        let mut now = before.clone();
        for turn in 0..segments + tiles.len() - 1 {
            tiles
                .par_iter_mut()
                .zip(&mut now)
                .enumerate()
                .for_each(|(c, (tile, right))| {
                    let Some(a) = turn.checked_sub(c).filter(|&a| a < segments) else {
                        return;
                    };
                    tile.keep();
                    if a + 1 == segments {
                        return;
                    }
                    let left = if c == 0 { &no_border } else { &before[c - 1] };
                    let frames = self.segment_frames(a);
                    tile.sweep::<E, false>(self, frames, goal, left, right, &mut []);
                });
            std::mem::swap(&mut before, &mut now);
        }
        match tiles.iter().find_map(|tile| tile.undefined) {
            Some(undefined) => Err(undefined.into()),
            None => Ok(tiles),
        }
    }

    /// A tile of `pairs`, extended down to a whole vector, with the states before segment `a`.
    fn window(&self, pairs: Range<usize>, tiles: &[Tile], a: usize) -> Tile {
        let first = pairs.start / LANES * LANES;
        let mut window = Tile::new(self, first..pairs.end);
        for k in 0..window.blank.len() {
            let pair = first + k;
            if let Some(tile) = tiles.get(pair / self.tile) {
                // Tiles and windows are in whole vectors, so a tile has all pairs of a window.
                let ((blank, label), place) = (tile.kept(a), pair % self.tile);
                window.blank[k] = blank[place];
                window.label[k + 1] = label[place];
            }
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: usize = 4;

    /// The recursion of the module documentation without segments, tiles and bands: the states and the score of the
    /// best path, or `None` if every path has probability 0.
    fn plain(item: &Item<f64>) -> Option<(Vec<u32>, f64)> {
        let (frames, labels) = (item.frames, item.target.len());
        let emission = |t: usize, class: usize| match &item.star {
            Some((star, emissions)) if *star as usize == class => emissions.at(t),
            _ => item.data[t * CLASSES + class],
        };
        let blank_emission = |t: usize, pair: usize| {
            let blank = emission(t, item.blank);
            match &item.outside {
                Some(outside) if pair == 0 || pair == labels => outside.at(t).max(blank),
                _ => blank,
            }
        };
        // Indexed by pair + 1.
        let (mut blank, mut label) = (vec![DEAD; labels + 2], vec![DEAD; labels + 2]);
        blank[1] = 0.0;
        let mut choices = vec![[0u8; 2]; frames * (labels + 2)];
        for t in 0..frames {
            for i in (1..labels + 2).rev() {
                let to_blank = label[i - 1] > blank[i];
                let same = i > 1 && i <= labels && item.target[i - 1] == item.target[i - 2];
                let jump = if same || i == 1 { DEAD } else { label[i - 1] };
                let (mut best, mut choice) = (label[i], 0);
                if blank[i] > best {
                    (best, choice) = (blank[i], 1);
                }
                if jump > best {
                    (best, choice) = (jump, 2);
                }
                choices[t * (labels + 2) + i] = [u8::from(to_blank) * 2, choice];
                let from = if to_blank { label[i - 1] } else { blank[i] };
                blank[i] = from + blank_emission(t, i - 1);
                label[i] = match item.target.get(i - 1) {
                    Some(&class) => best + emission(t, class as usize),
                    None => DEAD,
                };
            }
        }
        let in_label = labels > 0 && label[labels] >= blank[labels + 1];
        let (mut pair, mut side) = (labels + 1 - usize::from(in_label), usize::from(in_label));
        let score = if in_label { label[pair] } else { blank[pair] };
        if score == DEAD {
            return None;
        }
        let mut states = vec![0; frames];
        for t in (0..frames).rev() {
            states[t] = 2 * (pair - 1) as u32 + side as u32;
            match (side, choices[t * (labels + 2) + pair][side]) {
                (_, 0) => {}
                (_, 1) => side = 0,
                _ => (pair, side) = (pair - 1, 1),
            }
        }
        Some((states, score))
    }

    /// A deterministic pseudo-random sequence.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(0x5851f42d4c957f2d).wrapping_add(1);
            (self.0 >> 33) % end
        }
    }

    fn compare(data: &[f64], target: &[u32], frames: usize, segment: usize, tile: usize) {
        compare_with(data, target, frames, (segment, tile), [None, None]);
    }

    /// Label 3 is a star with the first of these emissions, if it is there.
    fn compare_with(
        data: &[f64],
        target: &[u32],
        frames: usize,
        (segment, tile): (usize, usize),
        [star, outside]: [Option<&[f64]>; 2],
    ) {
        let item = Item {
            n: 0,
            data,
            strides: Strides {
                offset: 0,
                frame: CLASSES,
                item: 0,
                class: 1,
            },
            start: 0,
            frames,
            target,
            blank: 0,
            star: star.map(|star| (3, WildcardEmissions::Frames(star.to_vec()))),
            outside: outside.map(|outside| WildcardEmissions::Frames(outside.to_vec())),
            segment,
            tile,
        };
        let path = match item.best_path() {
            Ok(path) => Some((path.states, path.score)),
            Err(Failure::NoPath(NoPath::Impossible)) => None,
            Err(_) => panic!("an error"),
        };
        assert!(
            path == plain(&item),
            "T = {frames}, U = {}, segments of {segment}, tiles of {tile}",
            target.len()
        );
    }

    /// All numbers of frames and of labels, so that segments begin at every distance from the edge of a block; with
    /// random emissions, and with all emissions equal.
    #[test]
    fn segments_and_tiles_change_no_path() {
        let mut random = Random(7);
        for frames in 1..=80usize {
            for labels in 0..=frames {
                let target: Vec<u32> = (0..labels).map(|i| 1 + i as u32 % 3).collect();
                // Few distinct values, so that many paths tie, and some entries of probability 0.
                let mut data: Vec<f64> = (0..frames * CLASSES)
                    .map(|_| match random.below(24) {
                        0 => DEAD,
                        n => -(n as f64) / 4.0,
                    })
                    .collect();
                for (segment, tile) in [(8, 16), (16, 32), (24, 16), (64, 1024)] {
                    compare(&data, &target, frames, segment, tile);
                }
                let mut emissions = || -> Vec<f64> {
                    let emission = |_| -(random.below(12) as f64) / 4.0;
                    (0..frames).map(emission).collect()
                };
                let (star, outside) = (emissions(), emissions());
                for wildcards in [
                    [Some(&star[..]), None],
                    [None, Some(&outside)],
                    [Some(&star), Some(&outside)],
                ] {
                    compare_with(&data, &target, frames, (8, 16), wildcards);
                    compare_with(&data, &target, frames, (16, 1024), wildcards);
                }
                data.fill(0.0);
                compare(&data, &target, frames, 8, 16);
                compare(&data, &target, frames, 16, 1024);
            }
        }
    }

    #[test]
    fn the_last_segment_may_begin_with_the_last_step() {
        let target =
            |labels: usize| -> Vec<u32> { (0..labels).map(|i| 1 + i as u32 % 3).collect() };
        // A single possible path.
        let data = vec![0.0; 3000 * CLASSES];
        compare(&data, &target(3000), 3000, SEGMENT, TILE);
        // Labels 1 to 15 early, 16 and 17 in the last two frames: one in each of the two segments.
        let (frames, target) = (SEGMENT + 1, target(17));
        let mut data = vec![-10.0; frames * CLASSES];
        data.iter_mut()
            .step_by(CLASSES)
            .for_each(|blank| *blank = 0.0);
        let places = (0..15).map(|i| 5 + 10 * i).chain([frames - 2, frames - 1]);
        for (t, &label) in places.zip(&target) {
            data[t * CLASSES] = -10.0;
            data[t * CLASSES + label as usize] = 0.0;
        }
        compare(&data, &target, frames, SEGMENT, TILE);
    }

    /// Labels are cheap only at some frames, early or late, so that most paths follow an edge of the band.
    #[test]
    fn paths_along_the_edges_of_the_band_are_found() {
        let mut random = Random(11);
        for frames in 1..=80usize {
            for labels in 1..=frames {
                let target: Vec<u32> = (0..labels).map(|_| 1 + random.below(3) as u32).collect();
                for early in 0..=labels.min(4) {
                    let late = labels - early;
                    let data: Vec<f64> = (0..frames)
                        .flat_map(|t| {
                            let moving = t < early || t + late >= frames;
                            let label = if moving { 0.0 } else { -10.0 };
                            [if moving { -10.0 } else { 0.0 }, label, label, label]
                        })
                        .collect();
                    compare(&data, &target, frames, 8, 16);
                    compare(&data, &target, frames, 16, 16);
                }
            }
        }
    }
}
