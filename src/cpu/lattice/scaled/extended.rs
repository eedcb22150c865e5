//! The same recursion with an exponent per state, for blocks outside the range of the scaled arithmetic: neighbours
//! further apart than f64 reaches.
//!
//! A state is `m · 2^e`, both f64. A sum takes the largest exponent of its terms and multiplies each mantissa by an
//! exact power of two. Nothing is lost above 2^−240 of a sum, so there is no range to check. Operations have the same
//! order as in the scaled arithmetic, so the results are bit-identical where that is in range.

use super::*;
use crate::cpu::emissions::far_apart::split;
use crate::cpu::simd::isa::dispatch_simd;
#[cfg(doc)]
use crate::cpu::simd::power::NEGLIGIBLE;
use crate::cpu::simd::power::{exponent_of, exponents, pow2, shifted, times_power};
use crate::cpu::simd::real::Real;
use crate::cpu::time::Backward;

/// Frames between normalisations of the mantissas to [1, 2). In a frame a mantissa grows by less than 2^2.1 and shrinks
/// by at most 2^126 (an emission of e^−87), so mantissas stay between 2^−252 and 2^5. A sum then omits terms below
/// 2^−495 ([`NEGLIGIBLE`]).
const NORMALISE: usize = 2;
const _: () = assert!(BLOCK_FRAMES.is_multiple_of(NORMALISE));

/// The states of a vector of pairs, each with its own exponent, or their inflows.
#[derive(Clone, Copy)]
pub(crate) struct Extended<S: Simd> {
    pub blank: Number<S>,
    pub label: Number<S>,
}

/// Mantissas and exponents.
#[derive(Clone, Copy)]
pub(crate) struct Number<S: Simd> {
    pub m: S::f64s,
    pub e: S::f64s,
}

impl<S: Simd> Number<S> {
    /// Vector `v` of a tile's numbers.
    #[inline(always)]
    fn load(_: S, m: &Pairs, e: &Pairs, v: usize) -> Self {
        Self {
            m: S::as_simd_f64s(&m.0).0[v],
            e: S::as_simd_f64s(&e.0).0[v],
        }
    }

    #[inline(always)]
    fn store(self, _: S, m: &mut Pairs, e: &mut Pairs, v: usize) {
        S::as_mut_simd_f64s(&mut m.0).0[v] = self.m;
        S::as_mut_simd_f64s(&mut e.0).0[v] = self.e;
    }

    #[inline(always)]
    fn zero(simd: S) -> Self {
        Self {
            m: simd.splat_f64s(0.0),
            e: simd.splat_f64s(EMPTY_EXP),
        }
    }

    #[inline(always)]
    fn add(self, simd: S, other: Self) -> Self {
        let e = simd.max_f64s(self.e, other.e);
        let a = times_power(simd, self.m, simd.sub_f64s(self.e, e));
        let b = times_power(simd, other.m, simd.sub_f64s(other.e, e));
        Self {
            m: simd.add_f64s(a, b),
            e,
        }
    }

    /// `(self + b) + c`
    #[inline(always)]
    fn add_two(self, simd: S, b: Self, c: Self) -> Self {
        let e = simd.max_f64s(simd.max_f64s(self.e, b.e), c.e);
        let a = times_power(simd, self.m, simd.sub_f64s(self.e, e));
        let b = times_power(simd, b.m, simd.sub_f64s(b.e, e));
        let c = times_power(simd, c.m, simd.sub_f64s(c.e, e));
        Self {
            m: simd.add_f64s(simd.add_f64s(a, b), c),
            e,
        }
    }

    #[inline(always)]
    fn times(self, simd: S, other: Self) -> Self {
        Self {
            m: simd.mul_f64s(self.m, other.m),
            e: simd.add_f64s(self.e, other.e),
        }
    }

    /// As plain numbers, divided by `2^top`.
    #[inline(always)]
    fn over(self, simd: S, top: f64) -> S::f64s {
        times_power(simd, self.m, simd.sub_f64s(self.e, simd.splat_f64s(top)))
    }

    /// Normalises mantissas between 2^−500 and 2^500 to [1, 2).
    #[inline(always)]
    fn near_one(self, simd: S) -> Self {
        let own = exponents(simd, self.m);
        Self {
            m: times_power(simd, self.m, simd.neg_f64s(own)),
            e: simd.max_f64s(simd.add_f64s(self.e, own), simd.splat_f64s(EMPTY_EXP)),
        }
    }

    /// Moved up by one lane, filled with the last lane of `before`.
    #[inline(always)]
    fn up(self, simd: S, before: Self) -> Self {
        Self {
            m: shift::up(simd, before.m, self.m),
            e: shift::up(simd, before.e, self.e),
        }
    }

    /// Moved down by one lane, filled with the first lane of `after`.
    #[inline(always)]
    fn down(self, simd: S, after: Self) -> Self {
        Self {
            m: shift::down(simd, self.m, after.m),
            e: shift::down(simd, self.e, after.e),
        }
    }

    #[inline(always)]
    fn with_exponent(self, simd: S, more: S::f64s) -> Self {
        Self {
            m: self.m,
            e: simd.add_f64s(self.e, more),
        }
    }

    /// Normalises any mantissas to [1, 2); a 0 becomes 1 with the exponent of zero.
    #[inline(always)]
    fn normalised(self, simd: S) -> Self {
        // Scale subnormal numbers up first.
        let Self { m, e } = self;
        let small = simd.less_than_f64s(m, simd.splat_f64s(pow2(-500.0)));
        let large = simd.mul_f64s(m, simd.splat_f64s(pow2(500.0)));
        let m = simd.select_f64s(small, large, m);
        let e = simd.select_f64s(small, simd.sub_f64s(e, simd.splat_f64s(500.0)), e);
        let zero = simd.equal_f64s(m, simd.splat_f64s(0.0));
        let own = exponents(simd, m);
        let m = shifted(simd, m, simd.neg_f64s(own));
        let nowhere = simd.splat_f64s(EMPTY_EXP);
        let e = simd.max_f64s(simd.add_f64s(e, own), nowhere);
        Self {
            m: simd.select_f64s(zero, simd.splat_f64s(1.0), m),
            e: simd.select_f64s(zero, nowhere, e),
        }
    }
}

/// [`Scratch::normalise_rows`].
struct NormaliseRows<'a> {
    scratch: &'a mut Scratch,
    part: &'a super::Part<'a>,
}

impl WithSimd for NormaliseRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scratch, part } = self;
        for b in part.live.clone() {
            for k in 0..part.frames {
                let exponents = scratch.part_exponents[k / PART][b];
                let (m, e) = (&mut scratch.rows[b][k], &mut scratch.row_exponents[b][k]);
                (e.blank, e.label) = (exponents, exponents);
                for v in 0..vectors::<S>() {
                    Extended::load(simd, m, e, v).store(simd, m, e, v);
                }
            }
        }
    }
}

impl Scratch {
    /// Gives each state of the rows of a block its own exponent, with a mantissa in [1, 2).
    pub(crate) fn normalise_rows(&mut self, part: &super::Part) {
        let scratch = self;
        dispatch_simd(NormaliseRows { scratch, part });
    }
}

/// Normalises mantissas to [1, 2), lane by lane; a 0 gets the exponent of zero.
#[inline(always)]
pub(crate) fn normalise_any(m: &mut Pairs, e: &mut Pairs) {
    const FRACTION: u64 = 0x000f_ffff_ffff_ffff;
    for k in 0..PAIRS {
        let small = m.0[k] < pow2(-500.0);
        let (by, change) = if small {
            (pow2(500.0), 500.0)
        } else {
            (1.0, 0.0)
        };
        let all = m.0[k] * by;
        let exponent = e.0[k] - change + exponent_of(all);
        let dead = (m.0[k] == 0.0) | (exponent < EMPTY_EXP);
        m.0[k] = f64::from_bits((all.to_bits() & FRACTION) | 1.0f64.to_bits());
        e.0[k] = if dead { EMPTY_EXP } else { exponent };
    }
}

impl<S: Simd> Extended<S> {
    /// Vector `v` of a tile.
    #[inline(always)]
    fn load(simd: S, m: &Tile, e: &Tile, v: usize) -> Self {
        Self {
            blank: Number::load(simd, &m.blank, &e.blank, v).normalised(simd),
            label: Number::load(simd, &m.label, &e.label, v).normalised(simd),
        }
    }

    #[inline(always)]
    fn store(&self, simd: S, m: &mut Tile, e: &mut Tile, v: usize) {
        self.blank.store(simd, &mut m.blank, &mut e.blank, v);
        self.label.store(simd, &mut m.label, &mut e.label, v);
    }

    #[inline(always)]
    fn zero(simd: S) -> Self {
        Self {
            blank: Number::zero(simd),
            label: Number::zero(simd),
        }
    }

    #[inline(always)]
    fn near_one(&self, simd: S) -> Self {
        Self {
            blank: self.blank.near_one(simd),
            label: self.label.near_one(simd),
        }
    }

    /// The inflow of each state. `edge` is the vector that flows into this one; `skip` is added to the exponents of the
    /// flow from label to label.
    #[inline(always)]
    fn inflow<D: Direction>(&self, simd: S, edge: &Self, skip: S::f64s) -> Self {
        let Self { blank, label } = *self;
        if D::FORWARD {
            let before = label.up(simd, edge.label);
            let skipped = before.with_exponent(simd, skip);
            Self {
                blank: blank.add(simd, before),
                label: label.add_two(simd, blank, skipped),
            }
        } else {
            let skipped = label.down(simd, edge.label).with_exponent(simd, skip);
            Self {
                blank: blank.add(simd, label),
                label: label.add_two(simd, blank.down(simd, edge.blank), skipped),
            }
        }
    }
}

/// Maps `skip` to an addend for exponents: 0 where a label may follow the one before it, the exponent of zero
/// elsewhere.
#[inline(always)]
fn closed<S: Simd>(simd: S, skip: &Pairs, v: usize) -> S::f64s {
    let closed = simd.sub_f64s(simd.splat_f64s(1.0), S::as_simd_f64s(&skip.0).0[v]);
    simd.mul_f64s(closed, simd.splat_f64s(EMPTY_EXP))
}

/// The exponents of the emissions of a block; the mantissas are stored in place of the plain emissions.
#[derive(Debug, Default)]
pub(crate) struct SpreadExponents {
    /// `[tile][frame]`: 0 for a plain emission, the exponent of zero where there is no label.
    pub labels: Vec<Tile8x8>,
    pub blanks: [f64; BLOCK_FRAMES],
    /// Scratch memory: the entries of a block as mantissas and exponents.
    m: Vec<Pairs>,
    e: Vec<Pairs>,
}

struct SetExtended<'a, R> {
    spread: &'a mut Spread,
    lattice: &'a ScaledLattice,
    block: &'a [[R; BLOCK_FRAMES]],
    raw: bool,
    live: Range<usize>,
}

impl<R: Real> WithSimd for SetExtended<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.spread
            .set_both(simd, self.lattice, self.block, self.raw, self.live);
    }
}

impl SpreadExponents {
    /// The emissions of the entries of the block, as mantissas and exponents.
    pub fn entries(&self) -> impl Iterator<Item = (&Pairs, &Pairs)> {
        self.m.iter().zip(&self.e)
    }
}

impl Spread {
    /// [`Spread::set`] as mantissas and exponents. Entries that are `raw` become `e^(x − largest of its frame)`; others
    /// are emissions already and have an exponent of 0.
    pub(crate) fn set_extended<R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        block: &[[R; BLOCK_FRAMES]],
        raw: bool,
        live: Range<usize>,
    ) {
        dispatch_simd(SetExtended {
            spread: self,
            lattice,
            block,
            raw,
            live,
        });
    }

    #[inline(always)]
    fn set_both<S: Simd, R: Real>(
        &mut self,
        simd: S,
        lattice: &ScaledLattice,
        block: &[[R; BLOCK_FRAMES]],
        raw: bool,
        live: Range<usize>,
    ) {
        self.labels
            .resize(lattice.places.len(), [ZEROS; BLOCK_FRAMES]);
        let Spread {
            labels,
            blanks,
            exponents,
            ..
        } = self;
        exponents
            .labels
            .resize(lattice.places.len(), [ZEROS; BLOCK_FRAMES]);
        let block = &block[..lattice.entries];
        exponents.m.resize(block.len(), ZEROS);
        exponents.e.resize(block.len(), ZEROS);
        if raw {
            split(simd, block, &mut exponents.m, &mut exponents.e);
        } else {
            for (m, x) in exponents.m.iter_mut().zip(block) {
                for k in 0..BLOCK_FRAMES {
                    m.0[k] = x[k].widen();
                }
            }
            exponents.e.fill(ZEROS);
            for (m, e) in exponents.m.iter_mut().zip(&mut exponents.e) {
                for k in 0..BLOCK_FRAMES {
                    if m.0[k] == 0.0 {
                        (m.0[k], e.0[k]) = (1.0, EMPTY_EXP);
                    }
                }
            }
        }
        let blank = lattice.entries - 1;
        *blanks = exponents.m[blank].0;
        exponents.blanks = exponents.e[blank].0;
        for b in live {
            let (mut m, mut e) = (
                [Pairs([1.0; PAIRS]); PAIRS],
                [Pairs([EMPTY_EXP; PAIRS]); PAIRS],
            );
            let there = lattice.labels.saturating_sub(b * PAIRS).min(PAIRS);
            for i in 0..there {
                let place = lattice.places[b][i] as usize;
                (m[i], e[i]) = (exponents.m[place], exponents.e[place]);
            }
            labels[b] = transpose(simd, &m);
            exponents.labels[b] = transpose(simd, &e);
        }
    }
}

/// An action on each vector of pairs in each frame of a block.
pub(crate) trait ExtendedVisitor {
    /// Visits vector `v` of tile `b` in frame `k`, `at = (b, k, v)`, like [`Visitor::visit`].
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        at: (usize, usize, usize),
        flow: &Extended<S>,
        states: &Extended<S>,
        place: &mut Pairs,
    );
}

impl ExtendedVisitor for Alone {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        _: S,
        _: (usize, usize, usize),
        _: &Extended<S>,
        _: &Extended<S>,
        _: &mut Pairs,
    ) {
    }
}

/// Records the states.
pub(crate) struct RecordExtended<'a> {
    pub numbers: &'a mut [[Tile; BLOCK_FRAMES]],
    pub exponents: &'a mut [[Tile; BLOCK_FRAMES]],
}

impl ExtendedVisitor for RecordExtended<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k, v): (usize, usize, usize),
        _: &Extended<S>,
        states: &Extended<S>,
        _: &mut Pairs,
    ) {
        states.store(simd, &mut self.numbers[b][k], &mut self.exponents[b][k], v);
    }
}

/// Forms posteriors from the rows of the other direction. Label posteriors overwrite the label emissions; with
/// `states`, blank posteriors overwrite the rows.
pub(crate) struct JoinExtended<'a> {
    pub numbers: &'a mut [[Tile; BLOCK_FRAMES]],
    pub exponents: &'a [[Tile; BLOCK_FRAMES]],
    /// The exponent of `P`.
    pub top: f64,
    pub blanks: &'a mut Tile8x8,
    pub states: bool,
}

impl ExtendedVisitor for JoinExtended<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k, v): (usize, usize, usize),
        flow: &Extended<S>,
        _: &Extended<S>,
        place: &mut Pairs,
    ) {
        let (m, e) = (&mut self.numbers[b][k], &self.exponents[b][k]);
        let blank = Number::load(simd, &m.blank, &e.blank, v);
        let label = Number::load(simd, &m.label, &e.label, v);
        let blank = flow.blank.times(simd, blank).over(simd, self.top);
        S::as_mut_simd_f64s(&mut place.0).0[v] = flow.label.times(simd, label).over(simd, self.top);
        let sum = &mut S::as_mut_simd_f64s(&mut self.blanks[k].0).0[v];
        *sum = simd.add_f64s(*sum, blank);
        if self.states {
            S::as_mut_simd_f64s(&mut m.blank.0).0[v] = blank;
        }
    }
}

/// [`ScaledLattice::advance_extended`].
struct AdvanceExtended<'a, D, V> {
    lattice: &'a ScaledLattice,
    row: &'a mut Row,
    spread: &'a mut Spread,
    frames: usize,
    live: Range<usize>,
    visitor: V,
    direction: PhantomData<D>,
}

impl<D: Direction, V: ExtendedVisitor> WithSimd for AdvanceExtended<'_, D, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut edges = [Extended::zero(simd); BLOCK_FRAMES];
        let edges = &mut edges[..self.frames];
        // Two vectors at once, or four: a single one would wait for its own results.
        let vectors = vectors::<S>();
        let mut left = self.live.start * vectors..self.live.end * vectors;
        while !left.is_empty() {
            let count = if left.len() >= 4 { 4 } else { 1 };
            let low = if D::FORWARD {
                left.start
            } else {
                left.end - count
            };
            match count {
                1 => self.pass::<S, 1>(simd, low, edges),
                _ => self.pass::<S, 4>(simd, low, edges),
            }
            left = if D::FORWARD {
                left.start + count..left.end
            } else {
                left.start..low
            };
        }
    }
}

impl<D: Direction, V: ExtendedVisitor> AdvanceExtended<'_, D, V> {
    /// `N` neighbouring vectors from vector `low`. For each frame, `edges` holds the vector that flows into them, and
    /// on return the last of their own.
    #[inline(always)]
    fn pass<S: Simd, const N: usize>(&mut self, simd: S, low: usize, edges: &mut [Extended<S>]) {
        let Spread {
            labels,
            blanks,
            exponents: spread,
            ..
        } = &mut *self.spread;
        let mut states = [Extended::zero(simd); N];
        let mut skip = [simd.splat_f64s(0.0); N];
        for i in 0..N {
            let (b, v) = place::<S>(low + i);
            states[i] = Extended::load(simd, &self.row.numbers[b], &self.row.exponents[b], v);
            skip[i] = closed(simd, &self.lattice.skip::<D>()[b], v);
        }
        let frames = edges.len();
        for (j, edge) in edges.iter_mut().enumerate() {
            let k = if D::FORWARD { j } else { frames - 1 - j };
            let mut before = *edge;
            *edge = if D::FORWARD { states[N - 1] } else { states[0] };
            let blank = Number::<S> {
                m: simd.splat_f64s(blanks[k]),
                e: simd.splat_f64s(spread.blanks[k]),
            };
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                let (b, v) = place::<S>(low + i);
                let flow = states[i].inflow::<D>(simd, &before, skip[i]);
                before = states[i];
                let label = Number::load(simd, &labels[b][k], &spread.labels[b][k], v);
                states[i] = Extended {
                    blank: flow.blank.times(simd, blank),
                    label: flow.label.times(simd, label),
                };
                let place = &mut labels[b][k];
                self.visitor
                    .visit(simd, (b, k, v), &flow, &states[i], place);
            }
            if (j + 1).is_multiple_of(NORMALISE) {
                for i in 0..N {
                    states[i] = states[i].near_one(simd);
                }
            }
        }
        for i in 0..N {
            let (b, v) = place::<S>(low + i);
            let (m, e) = (&mut self.row.numbers[b], &mut self.row.exponents[b]);
            states[i].near_one(simd).store(simd, m, e, v);
        }
    }
}

/// The tile of a vector, and the index of the vector in it.
#[inline(always)]
fn place<S: Simd>(vector: usize) -> (usize, usize) {
    (vector / vectors::<S>(), vector % vectors::<S>())
}

impl ScaledLattice {
    /// Takes the live tiles through the frames of a block, calling `visitor` for each vector and frame.
    pub(crate) fn advance_extended<D: Direction, V: ExtendedVisitor>(
        &self,
        row: &mut Row,
        spread: &mut Spread,
        frames: usize,
        live: Range<usize>,
        visitor: V,
    ) {
        dispatch_simd(AdvanceExtended::<D, V> {
            lattice: self,
            row,
            spread,
            frames,
            live,
            visitor,
            direction: PhantomData,
        });
    }

    /// `P`, from the states of both directions in the middle.
    pub fn join_directions(&self, alpha: &Track, beta: &Track) -> PathProbability {
        dispatch_simd(JoinDirections {
            lattice: self,
            alpha: &alpha.row,
            beta: &beta.row,
        })
    }
}

/// [`ScaledLattice::join_directions`].
struct JoinDirections<'a> {
    lattice: &'a ScaledLattice,
    alpha: &'a Row,
    beta: &'a Row,
}

impl WithSimd for JoinDirections<'_> {
    type Output = PathProbability;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> PathProbability {
        match self.plain(simd) {
            Some(p) => p,
            None => self.extended(simd),
        }
    }
}

/// Exponents of tiles may lie this far apart where `P` is added up in plain numbers.
const NEAR: i64 = 500;
/// In plain numbers, both factors of a product are multiplied by 2^−HALF first: they are below 2^1023.
const HALF: i64 = 520;
/// A sum of plain numbers that is no less than this is exact but for rounding: no term lost more than 2^−1074 · 2^504.
const SURE: f64 = f64::from_bits((1023 - 400) << 52);

impl JoinDirections<'_> {
    /// `P` in plain numbers, where those of a tile share an exponent and these are near each other. It has the same bits
    /// as [`Self::extended`]: all scaling is by powers of two.
    #[inline(always)]
    fn plain<S: Simd>(&self, simd: S) -> Option<PathProbability> {
        let Self {
            lattice,
            alpha,
            beta,
        } = self;
        if !(alpha.uniform && beta.uniform) {
            return None;
        }
        let middle = lattice.blocks.middle();
        let live = lattice.live(&(middle..middle));
        let exponent = |b: usize| alpha.scales[b].exponent + beta.scales[b].exponent;
        let top = live.clone().map(exponent).max()?;
        let mut after = [simd.splat_f64s(0.0); 2];
        let mut exponent_after = range::NO_TILE;
        if let Some(tile) = beta.numbers.get(live.end) {
            let states = States::load(simd, tile);
            after = [states.blank[0], states.label[0]];
            exponent_after = beta.scales[live.end].exponent;
        }
        let half = simd.splat_f64s(whole_pow2(-HALF));
        let mut sums = [simd.splat_f64s(0.0); PAIRS];
        for b in live.rev() {
            let own = beta.scales[b].exponent;
            let (flows, below) = (exponent_after - own, exponent(b) - top);
            let flow_factor = if flows.abs() <= NEAR {
                whole_pow2(flows)
            } else if flows <= range::NO_FLOW {
                0.0
            } else {
                return None;
            };
            if below < -NEAR {
                return None;
            }
            let links = Links::new(
                simd,
                &lattice.backward_skip[b],
                &spread::<Backward>(flow_factor),
            );
            let flow =
                States::load(simd, &beta.numbers[b]).inflow::<Backward>(simd, &mut after, &links);
            exponent_after = own;
            let alpha = States::load(simd, &alpha.numbers[b]);
            let scale = simd.splat_f64s(whole_pow2(below - HALF));
            for v in (0..vectors::<S>()).rev() {
                let term = |alpha, flow| {
                    simd.mul_f64s(simd.mul_f64s(alpha, scale), simd.mul_f64s(flow, half))
                };
                sums[v] = simd.add_f64s(sums[v], term(alpha.blank[v], flow.blank[v]));
                sums[v] = simd.add_f64s(sums[v], term(alpha.label[v], flow.label[v]));
            }
        }
        let mut lanes = ZEROS;
        store(simd, &mut lanes, &sums);
        let mut sum = 0.0;
        for x in lanes.0 {
            sum += x;
        }
        if !(SURE..f64::INFINITY).contains(&sum) {
            return None;
        }
        let own = exponent_of(sum);
        Some(PathProbability {
            mantissa: sum * pow2(-own),
            exponent: own + (top + 2 * HALF) as f64,
        })
    }

    /// `P` with an exponent for each term.
    #[inline(always)]
    fn extended<S: Simd>(&self, simd: S) -> PathProbability {
        let Self {
            lattice,
            alpha,
            beta,
        } = self;
        let middle = lattice.blocks.middle();
        let (live, vectors) = (lattice.live(&(middle..middle)), vectors::<S>());
        // The inflows of beta also read the tile after the last.
        let mut edge = Extended::zero(simd);
        if let Some(after) = beta.numbers.get(live.end) {
            edge = Extended::load(simd, after, &beta.exponents_of(live.end), 0);
        }
        // One sum per pair of a tile.
        let (mut m, mut e) = (ZEROS, Pairs([EMPTY_EXP; PAIRS]));
        for vector in (live.start * vectors..live.end * vectors).rev() {
            let (b, v) = place::<S>(vector);
            let alpha = Extended::load(simd, &alpha.numbers[b], &alpha.exponents_of(b), v);
            let beta = Extended::load(simd, &beta.numbers[b], &beta.exponents_of(b), v);
            let skip = closed(simd, &lattice.backward_skip[b], v);
            let flow = beta.inflow::<Backward>(simd, &edge, skip);
            edge = beta;
            let blank = alpha.blank.times(simd, flow.blank);
            let label = alpha.label.times(simd, flow.label);
            let sum = Number::load(simd, &m, &e, v);
            let sum = sum.add(simd, blank).add(simd, label);
            sum.store(simd, &mut m, &mut e, v);
        }
        let mut top = EMPTY_EXP;
        for k in 0..PAIRS {
            top = if e.0[k] > top { e.0[k] } else { top };
        }
        let mut mantissa = 0.0;
        for k in 0..PAIRS {
            mantissa += m.0[k] * pow2(e.0[k] - top);
        }
        if top <= EMPTY_EXP_BELOW {
            return NO_PATH;
        }
        // The terms are products of mantissas in [1, 2) and sums of three: far from both ends of the range of f64.
        let own = exponent_of(mantissa);
        PathProbability {
            mantissa: mantissa * pow2(-own),
            exponent: own + top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalising_keeps_the_number() {
        for m in [1.0, 0.001, 5.0e8, 1.9999999, 2.0, 1e-300, 5e-320, 1e300] {
            let (mut n, mut e) = (Pairs([m; PAIRS]), Pairs([7.0; PAIRS]));
            normalise_any(&mut n, &mut e);
            assert!((1.0..2.0).contains(&n.0[3]), "{m}");
            assert!(
                (n.0[3].log2() + e.0[3] - 7.0 - m.log2()).abs() < 1e-12,
                "{m}"
            );
        }
        let (mut n, mut e) = (ZEROS, ZEROS);
        normalise_any(&mut n, &mut e);
        assert_eq!((n.0[0], e.0[0]), (1.0, EMPTY_EXP));
    }
}
