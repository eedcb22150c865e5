//! The states at the start of each block, from which the rows of the block are made again.

use super::super::isa::dispatch;
use super::super::lanes::fold_lanes;
use super::super::{OutOfMemory, Stop};
use super::extended::normalise_any;
use super::power::pow2;
use super::range::{NOWHERE, NOWHERE_BELOW, TOP};
use super::{Level, PAIRS, Pairs, Row, Scale, Tile};
use crate::memory::prefer_huge_pages;
use std::ops::Range;

/// The checkpoints of one direction, in its order.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    starts: Vec<Start>,
    numbers: Vec<Tile>,
    /// Of each tile at [`Level::Tiles`].
    scales: Vec<Scale>,
    /// Of each tile at [`Level::States`].
    bases: Vec<f64>,
    /// Of each tile at [`Level::Pairs`] the exponents of its pairs; at [`Level::States`] the [`Steps`] of its states.
    exponents: Vec<Pairs>,
    /// Of each tile in place of steps, where these do not reach from one state of a tile to the other.
    far: Vec<Tile>,
}

/// How far the exponents of a blank and of a label are above the base of their tile, in units of [`STEP`]: as many
/// bytes as one exponent.
type Steps = [i32; 2];

fn packed([blank, label]: Steps) -> f64 {
    f64::from_bits(u64::from(blank as u32) << 32 | u64::from(label as u32))
}

fn unpacked(steps: f64) -> Steps {
    [(steps.to_bits() >> 32) as i32, steps.to_bits() as i32]
}

/// How many of each a [`Checkpoints`] holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    starts: usize,
    numbers: usize,
    scales: usize,
    bases: usize,
    exponents: usize,
    far: usize,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    level: Level,
    tile: usize,
    /// The first of its scales or exponents.
    scale: usize,
    /// The first of its bases, or of its exponents in `far`.
    base: usize,
    far: bool,
}

const STEP: f64 = 512.0;

/// How far a state may be below the largest of its tile for steps: 7e11 nats.
const FARTHEST: f64 = STEP * (i32::MAX as f64 - 1.0);

impl Checkpoints {
    pub fn clear(&mut self) {
        self.starts.clear();
        self.numbers.clear();
        self.scales.clear();
        self.bases.clear();
        self.exponents.clear();
        self.far.clear();
    }

    /// Makes room for so many blocks, with so many live tiles in all.
    pub fn reserve(&mut self, blocks: usize, tiles: usize) -> Result<(), Stop> {
        const BYTES: usize = size_of::<(Tile, Scale, f64, Pairs)>();
        let tried = [
            self.starts.try_reserve_exact(blocks),
            self.numbers.try_reserve_exact(tiles),
            self.scales.try_reserve_exact(tiles),
            self.bases.try_reserve_exact(tiles),
            self.exponents.try_reserve_exact(tiles),
        ];
        if tried.iter().any(Result::is_err) {
            let bytes = tiles.saturating_mul(BYTES);
            return Err(OutOfMemory { bytes }.into());
        }
        prefer_huge_pages(self.numbers.spare_capacity_mut());
        prefer_huge_pages(self.exponents.spare_capacity_mut());
        Ok(())
    }

    /// What to go back to.
    pub fn mark(&self) -> Mark {
        Mark {
            starts: self.starts.len(),
            numbers: self.numbers.len(),
            scales: self.scales.len(),
            bases: self.bases.len(),
            exponents: self.exponents.len(),
            far: self.far.len(),
        }
    }

    /// Forgets the checkpoints that came after `mark`.
    pub fn back_to(&mut self, mark: Mark) {
        self.starts.truncate(mark.starts);
        self.numbers.truncate(mark.numbers);
        self.scales.truncate(mark.scales);
        self.bases.truncate(mark.bases);
        self.exponents.truncate(mark.exponents);
        self.far.truncate(mark.far);
    }

    fn begin(&mut self, level: Level) {
        self.starts.push(Start {
            level,
            tile: self.numbers.len(),
            scale: match level {
                Level::Tiles => self.scales.len(),
                _ => self.exponents.len(),
            },
            base: self.bases.len(),
            far: false,
        });
    }

    /// Adds the live tiles of a row in which tiles share an exponent.
    #[inline(always)]
    pub fn add_tiles(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::Tiles);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        self.scales.extend_from_slice(&row.scales[live]);
    }

    /// Adds those of a row in which pairs share an exponent.
    #[inline(always)]
    pub fn add_pairs(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::Pairs);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        let exponents = row.exponents[live].iter().map(|e| e.blank);
        self.exponents.extend(exponents);
    }

    /// Adds those of a row in which each state has an exponent of its own.
    pub fn add_states(&mut self, row: &Row, live: Range<usize>) {
        let mark = self.mark();
        self.begin(Level::States);
        let mut near = true;
        dispatch(
            #[inline(always)]
            || {
                for b in live.clone() {
                    let (mut m, e) = normalised(row, b);
                    let base = larger(largest(&e.blank.0), largest(&e.label.0));
                    let blanks = steps_of(&mut m.blank, &e.blank, base, &mut near);
                    let labels = steps_of(&mut m.label, &e.label, base, &mut near);
                    let steps = |k: usize| packed([blanks[k], labels[k]]);
                    self.numbers.push(m);
                    self.bases.push(base);
                    self.exponents.push(Pairs(std::array::from_fn(steps)));
                }
            },
        );
        if !near {
            self.back_to(mark);
            self.starts.push(Start {
                level: Level::States,
                tile: self.numbers.len(),
                scale: 0,
                base: self.far.len(),
                far: true,
            });
            for (m, e) in live.map(|b| normalised(row, b)) {
                self.numbers.push(m);
                self.far.push(e);
            }
        }
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

/// The states of tile `b` with mantissas in [1, 2).
#[inline(always)]
fn normalised(row: &Row, b: usize) -> (Tile, Tile) {
    let (mut m, mut e) = (row.numbers[b], row.exponents[b]);
    normalise_any(&mut m.blank, &mut e.blank);
    normalise_any(&mut m.label, &mut e.label);
    (m, e)
}

/// The exponents over `base` in whole steps; the remainder is multiplied into the mantissas. `near` becomes false where
/// the steps do not reach.
#[inline(always)]
fn steps_of(m: &mut Pairs, e: &Pairs, base: f64, near: &mut bool) -> [i32; PAIRS] {
    let mut steps = [0; PAIRS];
    for k in 0..PAIRS {
        let above = e.0[k] - base;
        let zero = e.0[k] <= NOWHERE_BELOW;
        *near &= zero | (above >= -FARTHEST);
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

    /// The numbers of its tiles, and where their scales or exponents are.
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
        row.set_uniform();
    }

    /// Puts those of [`Level::Pairs`] back, with the largest state that can reach a pair at 2^`top`.
    #[inline(always)]
    pub fn restore_pairs(&self, row: &mut Row, live: Range<usize>, top: f64) {
        let (numbers, from) = self.parts(&live);
        for ((b, from), exponents) in live.zip(numbers).zip(&self.of.exponents[from]) {
            let (n, e) = (&mut row.numbers[b], &mut row.exponents[b]);
            lower(n, from, top);
            for k in 0..PAIRS {
                let exponent = exponents.0[k];
                let dead = exponent <= NOWHERE_BELOW;
                e.blank.0[k] = if dead {
                    NOWHERE
                } else {
                    exponent + (TOP - top)
                };
            }
            e.label = e.blank;
        }
        row.uniform = false;
    }

    /// Puts those of a finer level than [`Level::Tiles`] back.
    pub fn restore_finer(&self, row: &mut Row, live: Range<usize>) {
        dispatch(
            #[inline(always)]
            || match self.level() {
                Level::Pairs => self.restore_pairs(row, live, TOP),
                _ => self.restore_states(row, live),
            },
        );
    }

    /// Puts those of [`Level::States`] back.
    #[inline(always)]
    pub fn restore_states(&self, row: &mut Row, live: Range<usize>) {
        let (numbers, from) = self.parts(&live);
        row.numbers[live.clone()].copy_from_slice(numbers);
        row.uniform = false;
        if self.start.far {
            let far = &self.of.far[self.start.base..][..live.len()];
            row.exponents[live].copy_from_slice(far);
            return;
        }
        let bases = &self.of.bases[self.start.base..];
        let of = bases.iter().zip(&self.of.exponents[from]);
        for (e, (base, steps)) in row.exponents[live].iter_mut().zip(of) {
            for k in 0..PAIRS {
                let [blank, label] = unpacked(steps.0[k]);
                e.blank.0[k] = base + STEP * f64::from(blank);
                e.label.0[k] = base + STEP * f64::from(label);
            }
        }
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
