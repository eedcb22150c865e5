//! Consumers of the posteriors of a block: by class, for the gradient; by state; or summed over the frames of each
//! token.

use super::*;
use crate::cpu::simd::real::Real;
use crate::cpu::time::BLOCK_FRAMES;

/// A block of the posterior pass whose posteriors have been formed.
pub(crate) struct PosteriorBlock<'a, R> {
    lattice: &'a ScaledLattice,
    /// The emissions of the block.
    table: &'a mut [[R; BLOCK_FRAMES]],
    /// The posteriors of the blanks, summed by position of the pair in its tile.
    blanks: &'a Tile8x8,
    part: &'a Part<'a>,
    /// Label posteriors are in the place of the lattice's emissions and, if requested, blank posteriors in the place of
    /// the rows.
    scratch: &'a mut Scratch,
    /// The level at which they were formed. At a coarser one than [`Level::States`], the block is rejected if the
    /// posteriors of a frame do not add up to 1.
    pub(crate) level: Level,
    /// Whether the table has raw entries. Their emissions are in `scratch`.
    raw: bool,
}

impl<'a, R> PosteriorBlock<'a, R> {
    pub(crate) fn new(
        lattice: &'a ScaledLattice,
        (table, raw): (&'a mut [[R; BLOCK_FRAMES]], bool),
        blanks: &'a Tile8x8,
        part: &'a Part<'a>,
        scratch: &'a mut Scratch,
        level: Level,
    ) -> Self {
        Self {
            lattice,
            table,
            blanks,
            part,
            scratch,
            level,
            raw,
        }
    }
}

/// Receives the posteriors of the states, block by block.
pub(crate) trait Posteriors<R> {
    /// Whether the posterior of each single blank is needed.
    fn of_states(&self) -> bool;

    /// Takes the posteriors of a block. Returns false if it rejects the block.
    fn take(&mut self, block: PosteriorBlock<R>) -> bool;
}

/// [`Posteriors`] in vector code.
trait Take<R> {
    const OF_STATES: bool;

    fn take_with<S: Simd>(&mut self, simd: S, block: PosteriorBlock<R>) -> bool;
}

impl<R: Real, T: Take<R>> Posteriors<R> for T {
    fn of_states(&self) -> bool {
        T::OF_STATES
    }

    fn take(&mut self, block: PosteriorBlock<R>) -> bool {
        dispatch_simd(TakeBlock { to: self, block })
    }
}

struct TakeBlock<'a, 'b, T, R> {
    to: &'a mut T,
    block: PosteriorBlock<'b, R>,
}

impl<R: Real, T: Take<R>> WithSimd for TakeBlock<'_, '_, T, R> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        self.to.take_with(simd, self.block)
    }
}

/// Factors on the posteriors of each frame, from their sums: dividing by the frame's own sum removes the rounding that
/// all its states share. `None` if a sum deviates from 1 and there is a finer level.
#[inline(always)]
fn scales(sums: &[f64; BLOCK_FRAMES], part: &Part, level: Level) -> Option<Pairs> {
    let (mut fit, mut scale) = (true, ZEROS);
    for k in 0..BLOCK_FRAMES {
        fit &= k >= part.frames || (sums[k] / part.met.mantissa - 1.0).abs() <= SUM_TOLERANCE;
        scale.0[k] = 1.0 / sums[k];
    }
    (fit || level == Level::States).then_some(scale)
}

/// Writes the posteriors of the classes in the place of their emissions, frame by frame.
pub(crate) struct ClassPosteriors;

impl<R: Real> Take<R> for ClassPosteriors {
    const OF_STATES: bool = false;

    #[inline(always)]
    fn take_with<S: Simd>(&mut self, simd: S, block: PosteriorBlock<R>) -> bool {
        let PosteriorBlock {
            lattice,
            table: to,
            blanks,
            part,
            scratch,
            level,
            ..
        } = block;
        let blank = lattice.entries - 1;
        scratch.classes.clear();
        scratch.classes.resize(lattice.entries.max(PAIRS), ZEROS);
        let classes = scratch.classes.as_mut_slice();
        for b in part.live.clone() {
            // Pairs after the last label have a posterior of 0.
            let labels = transpose(simd, &scratch.emissions.labels[b]);
            for i in 0..PAIRS {
                // SAFETY: `prepare` has checked that all places are below `entries`.
                let class = unsafe { classes.get_unchecked_mut(lattice.places[b][i] as usize) };
                add_to(simd, class, &load(simd, &labels[i]));
            }
        }
        let blanks = transpose(simd, blanks);
        for i in 0..PAIRS {
            add_to(simd, &mut classes[blank], &load(simd, &blanks[i]));
        }
        // Four at a time, so that additions do not wait for each other.
        let mut sums = [[0.0; BLOCK_FRAMES]; 4];
        let (fours, rest) = classes.as_chunks::<4>();
        for four in fours {
            for c in 0..4 {
                for k in 0..BLOCK_FRAMES {
                    sums[c][k] += four[c].0[k];
                }
            }
        }
        for class in rest {
            for k in 0..BLOCK_FRAMES {
                sums[0][k] += class.0[k];
            }
        }
        for k in 0..BLOCK_FRAMES {
            sums[0][k] = (sums[0][k] + sums[1][k]) + (sums[2][k] + sums[3][k]);
        }
        let Some(scale) = scales(&sums[0], part, level) else {
            return false;
        };
        let scales = load(simd, &scale);
        // Transpose eight columns at a time; the last eight may overlap the ones before.
        let (to, entries) = (to.as_flattened_mut(), lattice.entries);
        for first in (0..entries).step_by(PAIRS) {
            let first = first.min(entries.saturating_sub(PAIRS));
            let mut square = [ZEROS; PAIRS];
            square.copy_from_slice(&scratch.classes[first..first + PAIRS]);
            for class in &mut square {
                let mut scaled = load(simd, class);
                for v in 0..vectors::<S>() {
                    scaled[v] = simd.mul_f64s(scaled[v], scales[v]);
                }
                store(simd, class, &scaled);
            }
            let rows = transpose(simd, &square);
            if entries < PAIRS {
                for (to, row) in to.chunks_exact_mut(entries).zip(&rows) {
                    let row = R::narrow_posteriors(simd, &row.0);
                    to.copy_from_slice(&row[..entries]);
                }
                continue;
            }
            for k in 0..BLOCK_FRAMES {
                let start = k * entries + first;
                to[start..start + PAIRS].copy_from_slice(&R::narrow_posteriors(simd, &rows[k].0));
            }
        }
        true
    }
}

impl<R> PosteriorBlock<'_, R> {
    /// [`scales`] of the sums over all states, frame by frame.
    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S) -> Option<Pairs> {
        let mut sums = *self.blanks;
        for b in self.part.live.clone() {
            for k in 0..BLOCK_FRAMES {
                let labels = &self.scratch.emissions.labels[b][k];
                add_to(simd, &mut sums[k], &load(simd, labels));
            }
        }
        let columns = transpose(simd, &sums);
        let mut sums = [0.0; BLOCK_FRAMES];
        for column in &columns {
            for k in 0..BLOCK_FRAMES {
                sums[k] += column.0[k];
            }
        }
        scales(&sums, self.part, self.level)
    }
}

/// Writes the posteriors of all states, frame by frame: blank, label, blank, …, blank.
pub(crate) struct StatePosteriors<'a, R> {
    /// `(frames, 2 U + 1)`
    pub to: &'a mut [R],
    /// The first frame of `to`.
    pub first: usize,
}

impl<R: Real> Take<R> for StatePosteriors<'_, R> {
    const OF_STATES: bool = true;

    #[inline(always)]
    fn take_with<S: Simd>(&mut self, simd: S, block: PosteriorBlock<R>) -> bool {
        let Some(scales) = block.scales(simd) else {
            return false;
        };
        let PosteriorBlock {
            lattice,
            part,
            scratch,
            ..
        } = block;
        let (width, frame) = (
            2 * lattice.labels + 1,
            part.block * BLOCK_FRAMES - self.first,
        );
        let rows = self.to[frame * width..].chunks_exact_mut(width);
        for (k, row) in rows.take(part.frames).enumerate() {
            for b in part.live.clone() {
                let (blanks, labels) = (&scratch.rows[b][k].blank, &scratch.emissions.labels[b][k]);
                let states = row[2 * b * PAIRS..].chunks_mut(2);
                for (to, (blank, label)) in states.zip(blanks.0.iter().zip(&labels.0)) {
                    to[0] = R::narrow(blank * scales.0[k]);
                    // The last blank has no label.
                    if let [_, to] = to {
                        *to = R::narrow(label * scales.0[k]);
                    }
                }
            }
        }
        true
    }
}

/// Sums over the frames of one direction, for each token.
#[derive(Default)]
pub(crate) struct TokenSums {
    /// By pair and frame of a block: the largest posterior, and the sums of the posterior, of posterior times frame
    /// index, and of posterior times label probability.
    sums: Vec<[Pairs; 4]>,
    /// For each entry, the probability of its class in each frame of a block.
    probabilities: Vec<Pairs>,
}

impl<R: Real> Take<R> for TokenSums {
    const OF_STATES: bool = false;

    #[inline(always)]
    fn take_with<S: Simd>(&mut self, simd: S, block: PosteriorBlock<R>) -> bool {
        let Some(mut scales) = block.scales(simd) else {
            return false;
        };
        let PosteriorBlock {
            lattice,
            table,
            part,
            scratch,
            level,
            raw,
            ..
        } = block;
        let start = part.block * BLOCK_FRAMES;
        let (mut log_scales, mut frames) = ([0.0; BLOCK_FRAMES], ZEROS);
        log_scales[..part.frames].copy_from_slice(&part.log_scales[..part.frames]);
        for k in 0..BLOCK_FRAMES {
            frames.0[k] = (start + k) as f64;
            if k >= part.frames {
                scales.0[k] = 0.0;
            }
        }
        self.probabilities.resize(table.len(), ZEROS);
        if level < Level::States {
            let mut powers = ZEROS;
            for k in 0..BLOCK_FRAMES {
                powers.0[k] = log_scales[k].exp();
            }
            for (i, to) in self.probabilities.iter_mut().enumerate() {
                for k in 0..BLOCK_FRAMES {
                    let emission = match raw {
                        true => scratch.emissions.wide[i][k],
                        false => table[i][k].widen(),
                    };
                    to.0[k] = emission * powers.0[k];
                }
            }
        } else {
            let exponents = scratch.emissions.exponents.entries();
            for (to, (m, e)) in self.probabilities.iter_mut().zip(exponents) {
                for k in 0..BLOCK_FRAMES {
                    let ln = e.0[k] * std::f64::consts::LN_2 + log_scales[k];
                    to.0[k] = m.0[k] * ln.exp();
                }
            }
        }
        self.sums.resize(lattice.places.len() * PAIRS, [ZEROS; 4]);
        for b in part.live.clone() {
            let labels = transpose(simd, &scratch.emissions.labels[b]);
            for i in 0..PAIRS {
                let [largest, sum, times_frame, times_p] = &mut self.sums[b * PAIRS + i];
                let p = &self.probabilities[lattice.places[b][i] as usize];
                for k in 0..BLOCK_FRAMES {
                    let posterior = if k < part.frames { labels[i].0[k] } else { 0.0 };
                    let posterior = posterior * scales.0[k];
                    let posterior = if posterior < 1.0 { posterior } else { 1.0 };
                    let top = largest.0[k];
                    largest.0[k] = if posterior > top { posterior } else { top };
                    sum.0[k] += posterior;
                    times_frame.0[k] += posterior * frames.0[k];
                    // A probability may overflow if the input is not normalised; it counts only where its posterior is
                    // above 0.
                    let weighted = posterior * p.0[k];
                    times_p.0[k] += if posterior > 0.0 { weighted } else { 0.0 };
                }
            }
        }
        true
    }
}

/// Posterior statistics of a token, over frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenOccupancy {
    /// The largest posterior.
    pub largest: f64,
    /// The sum of the posteriors.
    pub sum: f64,
    /// The sum of frame index times posterior.
    pub times_frame: f64,
    /// The sum of label probability times posterior.
    pub times_probability: f64,
}

impl TokenSums {
    /// The sums of token `i`.
    pub fn token(&self, i: usize) -> TokenOccupancy {
        let Some([largest, rest @ ..]) = self.sums.get(i) else {
            return TokenOccupancy::default();
        };
        let [sum, times_frame, times_probability] = rest.each_ref().map(|x| x.0.iter().sum());
        TokenOccupancy {
            largest: largest.0.iter().copied().fold(0.0, f64::max),
            sum,
            times_frame,
            times_probability,
        }
    }
}

impl TokenOccupancy {
    /// Combines the statistics of two disjoint sets of frames.
    pub fn and(self, other: Self) -> Self {
        Self {
            largest: self.largest.max(other.largest),
            sum: self.sum + other.sum,
            times_frame: self.times_frame + other.times_frame,
            times_probability: self.times_probability + other.times_probability,
        }
    }
}
