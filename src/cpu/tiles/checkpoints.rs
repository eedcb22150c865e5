//! The states at the start of each block, from which the rows of the block are made again.

use super::super::isa::dispatch;
use super::super::lanes::fold_lanes;
use super::super::{OutOfMemory, Stop};
use super::extended::normalise_any;
use super::power::pow2;
use super::range::{NOWHERE, NOWHERE_BELOW, TOP};
use super::{Level, PAIRS, Pairs, Row, Scale, Tile};
use std::ops::Range;

/// The checkpoints of one direction, in its order.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    starts: Vec<Start>,
    numbers: Vec<Tile>,
    /// Of each tile at [`Level::Tiles`].
    scales: Vec<Scale>,
    /// Of each tile at the other levels.
    bases: Vec<f64>,
    /// How far the exponents of its states are above the base: of pairs, or of blanks and then of labels in units of
    /// 2^[`STEP`].
    steps: Vec<[[i32; PAIRS]; 2]>,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    level: Level,
    tile: usize,
    /// The first of its scales, or of its bases and steps.
    scale: usize,
}

const STEP: f64 = 512.0;

/// A state further below the largest of its tile counts as 0: 7e11 nats.
const FARTHEST: f64 = STEP * (i32::MAX as f64 - 1.0);

/// The step of a pair that holds nothing.
const NO_PAIR: i32 = i32::MIN;

impl Checkpoints {
    pub fn clear(&mut self) {
        self.starts.clear();
        self.numbers.clear();
        self.scales.clear();
        self.bases.clear();
        self.steps.clear();
    }

    /// Makes room for so many blocks, with so many live tiles in all.
    pub fn reserve(&mut self, blocks: usize, tiles: usize) -> Result<(), Stop> {
        const BYTES: usize = size_of::<(Tile, Scale, f64, [[i32; PAIRS]; 2])>();
        let tried = [
            self.starts.try_reserve_exact(blocks),
            self.numbers.try_reserve_exact(tiles),
            self.scales.try_reserve_exact(tiles),
            self.bases.try_reserve_exact(tiles),
            self.steps.try_reserve_exact(tiles),
        ];
        if tried.iter().any(Result::is_err) {
            let bytes = tiles.saturating_mul(BYTES);
            return Err(OutOfMemory { bytes }.into());
        }
        Ok(())
    }

    /// What to go back to.
    pub fn mark(&self) -> [usize; 4] {
        let Self {
            starts,
            numbers,
            scales,
            bases,
            ..
        } = self;
        [starts.len(), numbers.len(), scales.len(), bases.len()]
    }

    /// Forgets the checkpoints that came after `mark`.
    pub fn back_to(&mut self, [starts, numbers, scales, bases]: [usize; 4]) {
        self.starts.truncate(starts);
        self.numbers.truncate(numbers);
        self.scales.truncate(scales);
        self.bases.truncate(bases);
        self.steps.truncate(bases);
    }

    fn begin(&mut self, level: Level) {
        self.starts.push(Start {
            level,
            tile: self.numbers.len(),
            scale: match level {
                Level::Tiles => self.scales.len(),
                _ => self.bases.len(),
            },
        });
    }

    /// Adds the live tiles of a row in which tiles share an exponent.
    #[inline(always)]
    pub fn add_tiles(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::Tiles);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        self.scales.extend_from_slice(&row.scales[live]);
    }

    /// Adds those of a row in which pairs share an exponent. Whether they are near enough to each other.
    #[inline(always)]
    pub fn add_pairs(&mut self, row: &Row, live: Range<usize>) -> bool {
        self.begin(Level::Pairs);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        let mut near = true;
        for exponents in &row.exponents[live] {
            let exponents = &exponents.blank.0;
            let base = largest(exponents);
            let mut steps = [0; PAIRS];
            for k in 0..PAIRS {
                let step = exponents[k] - base;
                let dead = exponents[k] <= NOWHERE_BELOW;
                near &= dead | (step > -f64::from(i32::MAX));
                steps[k] = if dead { NO_PAIR } else { step as i32 };
            }
            self.bases.push(base);
            self.steps.push([steps, [0; PAIRS]]);
        }
        near
    }

    /// Adds those of a row in which each state has an exponent of its own.
    pub fn add_states(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::States);
        dispatch(
            #[inline(always)]
            || {
                for b in live {
                    let (mut m, mut e) = (row.numbers[b], row.exponents[b]);
                    normalise_any(&mut m.blank, &mut e.blank);
                    normalise_any(&mut m.label, &mut e.label);
                    let base = larger(largest(&e.blank.0), largest(&e.label.0));
                    let blanks = steps_of(&mut m.blank, &e.blank, base);
                    let labels = steps_of(&mut m.label, &e.label, base);
                    self.numbers.push(m);
                    self.bases.push(base);
                    self.steps.push([blanks, labels]);
                }
            },
        );
    }

    /// The last checkpoint, the one before it, and so on.
    pub fn nth_back(&self, nth: usize) -> Checkpoint<'_> {
        Checkpoint {
            of: self,
            start: self.starts[self.starts.len() - 1 - nth],
        }
    }
}

#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

#[inline(always)]
fn largest(exponents: &[f64; PAIRS]) -> f64 {
    fold_lanes(*exponents, larger)
}

/// How many steps exponents are above `base`; what is left of them goes to the mantissas.
#[inline(always)]
fn steps_of(m: &mut Pairs, e: &Pairs, base: f64) -> [i32; PAIRS] {
    let mut steps = [0; PAIRS];
    for k in 0..PAIRS {
        let above = e.0[k] - base;
        let zero = (e.0[k] <= NOWHERE_BELOW) | (above < -FARTHEST);
        let above = if zero { 0.0 } else { above };
        let step = (above * (1.0 / STEP)).floor();
        let rest = m.0[k] * pow2(above - STEP * step);
        m.0[k] = if zero { 0.0 } else { rest };
        steps[k] = step as i32;
    }
    steps
}

pub(super) struct Checkpoint<'a> {
    of: &'a Checkpoints,
    start: Start,
}

impl Checkpoint<'_> {
    pub fn level(&self) -> Level {
        self.start.level
    }

    /// The numbers of its tiles, and where their exponents are.
    fn parts(&self, live: &Range<usize>) -> (&[Tile], Range<usize>) {
        let Start { tile, scale, .. } = self.start;
        let numbers = &self.of.numbers[tile..tile + live.len()];
        (numbers, scale..scale + live.len())
    }

    /// Puts the live tiles of [`Level::Tiles`] back into `row`, with the largest state that can reach a tile at
    /// 2^`top`.
    #[inline(always)]
    pub fn restore_tiles(&self, row: &mut Row, live: Range<usize>, top: f64) {
        let (numbers, from) = self.parts(&live);
        for (to, from) in row.numbers[live.clone()].iter_mut().zip(numbers) {
            lower(to, from, top);
        }
        for (to, from) in row.scales[live].iter_mut().zip(&self.of.scales[from]) {
            *to = Scale {
                exponent: from.exponent + (TOP - top) as i64,
                factor: from.factor,
            };
        }
        row.uniform = true;
    }

    /// Puts those of [`Level::Pairs`] back, with the largest state that can reach a pair at 2^`top`.
    #[inline(always)]
    pub fn restore_pairs(&self, row: &mut Row, live: Range<usize>, top: f64) {
        let (numbers, from) = self.parts(&live);
        let of = (&self.of.bases[from.clone()], &self.of.steps[from]);
        for ((b, from), (base, [steps, _])) in live.zip(numbers).zip(of.0.iter().zip(of.1)) {
            let (n, e) = (&mut row.numbers[b], &mut row.exponents[b]);
            lower(n, from, top);
            for k in 0..PAIRS {
                let exponent = base + f64::from(steps[k]) + (TOP - top);
                e.blank.0[k] = if steps[k] == NO_PAIR {
                    NOWHERE
                } else {
                    exponent
                };
            }
            e.label = e.blank;
        }
        row.uniform = false;
    }

    /// Puts those of a finer level than [`Level::Tiles`] back.
    pub fn restore_finer(&self, row: &mut Row, live: Range<usize>) {
        match self.level() {
            Level::Pairs => self.restore_pairs(row, live, TOP),
            _ => self.restore_states(row, live),
        }
    }

    /// Puts those of [`Level::States`] back.
    #[inline(always)]
    pub fn restore_states(&self, row: &mut Row, live: Range<usize>) {
        let (numbers, from) = self.parts(&live);
        row.numbers[live.clone()].copy_from_slice(numbers);
        let of = (&self.of.bases[from.clone()], &self.of.steps[from]);
        for (e, (base, steps)) in row.exponents[live].iter_mut().zip(of.0.iter().zip(of.1)) {
            let of = |steps: &[i32; PAIRS]| {
                Pairs(std::array::from_fn(|k| base + STEP * f64::from(steps[k])))
            };
            (e.blank, e.label) = (of(&steps[0]), of(&steps[1]));
        }
        row.uniform = false;
    }
}

/// The same numbers with the largest at 2^`top` in place of 2^[`TOP`].
#[inline(always)]
fn lower(to: &mut Tile, from: &Tile, top: f64) {
    let by = pow2(top - TOP);
    for k in 0..PAIRS {
        to.blank.0[k] = from.blank.0[k] * by;
        to.label.0[k] = from.label.0[k] * by;
    }
}
