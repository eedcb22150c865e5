//! Checkpoints: the states at the start of each block, from which the rows of the block are recomputed.

use super::extended::normalise_any;
use super::range::TARGET_EXP;
use super::{Level, PAIRS, Pairs, Row, Scale, Tile};
use crate::cpu::lattice::Stop;
use crate::cpu::simd::isa::dispatch;
use crate::cpu::simd::lanes::fold_lanes;
use crate::cpu::simd::power::pow2;
use crate::cpu::simd::power::{EMPTY_EXP, EMPTY_EXP_BELOW};
use crate::memory::OutOfMemory;
use crate::memory::prefer_huge_pages;
use std::ops::Range;

/// The checkpoints of one direction, in its order.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    starts: Vec<Start>,
    numbers: Vec<Tile>,
    /// One per tile at [`Level::Tiles`].
    scales: Vec<Scale>,
    /// One per tile at [`Level::States`].
    bases: Vec<f64>,
    /// For each tile, the exponents of its pairs at [`Level::Pairs`], or the [`Steps`] of its states at
    /// [`Level::States`].
    exponents: Vec<Pairs>,
    /// Full exponents in place of steps, for rows in which the states of a tile are too far apart for steps.
    far: Vec<Tile>,
}

/// Exponents of a blank and of a label relative to the base of their tile, in units of [`STEP`]: as many bytes as one
/// f64 exponent.
type Steps = [i32; 2];

fn packed([blank, label]: Steps) -> f64 {
    f64::from_bits(u64::from(blank as u32) << 32 | u64::from(label as u32))
}

fn unpacked(steps: f64) -> Steps {
    [(steps.to_bits() >> 32) as i32, steps.to_bits() as i32]
}

/// The lengths of the vectors of a [`Checkpoints`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
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
    /// Index of its first scale or exponent.
    scale: usize,
    /// Index of its first base, or of its first exponents in `far`.
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

    /// Reserves memory for `blocks` blocks with `tiles` live tiles in total.
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

    /// A position to return to with [`Self::back_to`].
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

    /// Discards the checkpoints added after `mark`.
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

    /// Adds the live tiles of a row with an exponent per tile.
    #[inline(always)]
    pub fn add_tiles(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::Tiles);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        self.scales.extend_from_slice(&row.scales[live]);
    }

    /// Adds the live tiles of a row with an exponent per pair.
    #[inline(always)]
    pub fn add_pairs(&mut self, row: &Row, live: Range<usize>) {
        self.begin(Level::Pairs);
        self.numbers.extend_from_slice(&row.numbers[live.clone()]);
        let exponents = row.exponents[live].iter().map(|e| e.blank);
        self.exponents.extend(exponents);
    }

    /// Adds the live tiles of a row with an exponent per state.
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

    /// The levels of the blocks, in the order of the direction.
    #[cfg(test)]
    pub fn levels(&self) -> impl Iterator<Item = Level> {
        self.starts.iter().map(|start| start.level)
    }

    /// The `nth` checkpoint from the end; 0 is the last.
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

/// The states of tile `b`, with mantissas in [1, 2).
#[inline(always)]
fn normalised(row: &Row, b: usize) -> (Tile, Tile) {
    let (mut m, mut e) = (row.numbers[b], row.exponents[b]);
    normalise_any(&mut m.blank, &mut e.blank);
    normalise_any(&mut m.label, &mut e.label);
    (m, e)
}

/// The exponents relative to `base` in whole steps; the remainder is multiplied into the mantissas. Sets `near` to
/// false where an exponent is out of reach of steps.
#[inline(always)]
fn steps_of(m: &mut Pairs, e: &Pairs, base: f64, near: &mut bool) -> [i32; PAIRS] {
    let mut steps = [0; PAIRS];
    for k in 0..PAIRS {
        let above = e.0[k] - base;
        let zero = e.0[k] <= EMPTY_EXP_BELOW;
        *near &= zero | (above >= -FARTHEST);
        let above = if zero { 0.0 } else { above };
        let step = (above * (1.0 / STEP)).floor();
        let rest = m.0[k] * pow2(above - STEP * step);
        m.0[k] = if zero { 0.0 } else { rest };
        steps[k] = step as i32;
    }
    steps
}

pub(crate) struct Checkpoint<'a> {
    of: &'a Checkpoints,
    start: Start,
}

impl Checkpoint<'_> {
    pub fn level(&self) -> Level {
        self.start.level
    }

    /// The numbers of its tiles, and the range of their scales or exponents.
    fn parts(&self, live: &Range<usize>) -> (&[Tile], Range<usize>) {
        let Start { tile, scale, .. } = self.start;
        let numbers = &self.of.numbers[tile..tile + live.len()];
        (numbers, scale..scale + live.len())
    }

    /// Restores the live tiles of [`Level::Tiles`] into `row`, with the largest state that can reach a tile at 2^`top`.
    #[inline(always)]
    pub fn restore_tiles(&self, row: &mut Row, live: Range<usize>, top: f64) {
        let (numbers, from) = self.parts(&live);
        for (to, from) in row.numbers[live.clone()].iter_mut().zip(numbers) {
            lower(to, from, top);
        }
        for (to, from) in row.scales[live].iter_mut().zip(&self.of.scales[from]) {
            *to = Scale {
                exponent: from.exponent + (TARGET_EXP - top) as i64,
                factor: from.factor,
            };
        }
        row.set_uniform();
    }

    /// Restores the live tiles of [`Level::Pairs`], with the largest state that can reach a pair at 2^`top`.
    #[inline(always)]
    pub fn restore_pairs(&self, row: &mut Row, live: Range<usize>, top: f64) {
        let (numbers, from) = self.parts(&live);
        for ((b, from), exponents) in live.zip(numbers).zip(&self.of.exponents[from]) {
            let (n, e) = (&mut row.numbers[b], &mut row.exponents[b]);
            lower(n, from, top);
            for k in 0..PAIRS {
                let exponent = exponents.0[k];
                let dead = exponent <= EMPTY_EXP_BELOW;
                e.blank.0[k] = if dead {
                    EMPTY_EXP
                } else {
                    exponent + (TARGET_EXP - top)
                };
            }
            e.label = e.blank;
        }
        row.uniform = false;
    }

    /// Restores the live tiles of a finer level than [`Level::Tiles`].
    pub fn restore_finer(&self, row: &mut Row, live: Range<usize>) {
        dispatch(
            #[inline(always)]
            || match self.level() {
                Level::Pairs => self.restore_pairs(row, live, TARGET_EXP),
                _ => self.restore_states(row, live),
            },
        );
    }

    /// Restores the live tiles of [`Level::States`].
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

/// The same numbers, with the largest at 2^`top` instead of 2^[`TARGET_EXP`].
#[inline(always)]
fn lower(to: &mut Tile, from: &Tile, top: f64) {
    let by = pow2(top - TARGET_EXP);
    for k in 0..PAIRS {
        to.blank.0[k] = from.blank.0[k] * by;
        to.label.0[k] = from.label.0[k] * by;
    }
}
