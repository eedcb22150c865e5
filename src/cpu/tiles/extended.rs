//! The same recursion with an exponent for each state, for blocks that the scaled arithmetic does not hold: neighbours
//! further apart than f64 reaches.
//!
//! A state is `m · 2^e`, both f64. A sum takes the largest exponent of its terms and multiplies each mantissa by
//! an exact power of two, so nothing is lost but what is below 2^−240 of a sum; there is no range to leave, and
//! nothing to check. Operations come in the order of the scaled arithmetic, so the results are bit-identical where
//! that holds the numbers.

use super::super::isa::dispatch_simd;
use super::super::real::Real;
use super::super::runs::Backward;
#[cfg(doc)]
use super::power::NEGLIGIBLE;
use super::power::{exponent_of, exponents, pow2, shifted, times_power};
use super::range::NOWHERE;
use super::raw::split;
use super::*;

/// Frames after which mantissas are brought back to [1, 2). In a frame a mantissa grows by less than 2^2.1 and
/// shrinks by at most 2^126 (an emission of e^−87), so they stay between 2^−252 and 2^5. What a sum leaves out is below
/// 2^−495, then ([`NEGLIGIBLE`]).
const NORMALISE: usize = 2;
const _: () = assert!(RUN.is_multiple_of(NORMALISE));

/// The states of a vector of pairs, each with an exponent of its own, or what flows into them.
#[derive(Clone, Copy)]
pub(super) struct Extended<S: Simd> {
    pub blank: Number<S>,
    pub label: Number<S>,
}

/// Mantissas and exponents.
#[derive(Clone, Copy)]
pub(super) struct Number<S: Simd> {
    pub m: S::f64s,
    pub e: S::f64s,
}

impl<S: Simd> Number<S> {
    /// Vector `v` of these.
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
            e: simd.splat_f64s(NOWHERE),
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

    /// As plain numbers, over `2^top`.
    #[inline(always)]
    fn over(self, simd: S, top: f64) -> S::f64s {
        times_power(simd, self.m, simd.sub_f64s(self.e, simd.splat_f64s(top)))
    }

    /// With mantissas in [1, 2) again, which are now between 2^−500 and 2^500.
    #[inline(always)]
    fn near_one(self, simd: S) -> Self {
        let own = exponents(simd, self.m);
        Self {
            m: times_power(simd, self.m, simd.neg_f64s(own)),
            e: simd.max_f64s(simd.add_f64s(self.e, own), simd.splat_f64s(NOWHERE)),
        }
    }

    /// One lane up, with the last of `before` in front.
    #[inline(always)]
    fn up(self, simd: S, before: Self) -> Self {
        Self {
            m: shift::up(simd, before.m, self.m),
            e: shift::up(simd, before.e, self.e),
        }
    }

    /// One lane down, with the first of `after` behind.
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

    /// With mantissas in [1, 2), whatever they are now; a 0 becomes 1 with the exponent of a zero.
    #[inline(always)]
    fn normalised(self, simd: S) -> Self {
        // Numbers below the normal ones are brought up first.
        let Self { m, e } = self;
        let small = simd.less_than_f64s(m, simd.splat_f64s(pow2(-500.0)));
        let large = simd.mul_f64s(m, simd.splat_f64s(pow2(500.0)));
        let m = simd.select_f64s(small, large, m);
        let e = simd.select_f64s(small, simd.sub_f64s(e, simd.splat_f64s(500.0)), e);
        let zero = simd.equal_f64s(m, simd.splat_f64s(0.0));
        let own = exponents(simd, m);
        let m = shifted(simd, m, simd.neg_f64s(own));
        let nowhere = simd.splat_f64s(NOWHERE);
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
    /// Gives each state of the rows of a block an exponent of its own, with a mantissa in [1, 2).
    pub(super) fn normalise_rows(&mut self, part: &super::Part) {
        let scratch = self;
        dispatch_simd(NormaliseRows { scratch, part });
    }
}

/// Mantissas in [1, 2), lane by lane; a 0 gets the exponent of a zero.
#[inline(always)]
pub(super) fn normalise_any(m: &mut Pairs, e: &mut Pairs) {
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
        let dead = (m.0[k] == 0.0) | (exponent < NOWHERE);
        m.0[k] = f64::from_bits((all.to_bits() & FRACTION) | 1.0f64.to_bits());
        e.0[k] = if dead { NOWHERE } else { exponent };
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

    /// What flows into each state. `edge` is the vector that flows into this one. What is added to the exponents
    /// of labels that come from label to label is `skip`.
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

/// From 1 where a label may follow the one before it, and 0 elsewhere, to what is added to an exponent: 0, and that of a
/// zero.
#[inline(always)]
fn closed<S: Simd>(simd: S, skip: &Pairs, v: usize) -> S::f64s {
    let closed = simd.sub_f64s(simd.splat_f64s(1.0), S::as_simd_f64s(&skip.0).0[v]);
    simd.mul_f64s(closed, simd.splat_f64s(NOWHERE))
}

/// The exponents of the emissions of a block; their mantissas stand where the scaled arithmetic has its emissions.
#[derive(Debug, Default)]
pub(super) struct SpreadExponents {
    /// `[tile][frame]`: 0 for an emission that is a plain number, an exponent of zero where there is no label.
    pub labels: Vec<Square>,
    pub blanks: [f64; RUN],
    /// Working memory: the entries of a block as mantissas and exponents.
    m: Vec<Pairs>,
    e: Vec<Pairs>,
}

struct SetExtended<'a, R> {
    spread: &'a mut Spread,
    lattice: &'a Tiles,
    run: &'a [[R; RUN]],
    raw: bool,
    live: Range<usize>,
}

impl<R: Real> WithSimd for SetExtended<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.spread
            .set_both(simd, self.lattice, self.run, self.raw, self.live);
    }
}

impl SpreadExponents {
    /// The emissions of the entries of the block, as mantissas and exponents.
    pub fn entries(&self) -> impl Iterator<Item = (&Pairs, &Pairs)> {
        self.m.iter().zip(&self.e)
    }
}

impl Spread {
    /// [`Spread::set`] as mantissas and exponents. `raw` entries are no emissions yet: each becomes
    /// `e^(x − largest of its frame)`. Others are emissions, and their exponents 0.
    pub(super) fn set_extended<R: Real>(
        &mut self,
        lattice: &Tiles,
        run: &[[R; RUN]],
        raw: bool,
        live: Range<usize>,
    ) {
        dispatch_simd(SetExtended {
            spread: self,
            lattice,
            run,
            raw,
            live,
        });
    }

    #[inline(always)]
    fn set_both<S: Simd, R: Real>(
        &mut self,
        simd: S,
        lattice: &Tiles,
        run: &[[R; RUN]],
        raw: bool,
        live: Range<usize>,
    ) {
        self.labels.resize(lattice.places.len(), [ZEROS; RUN]);
        let Spread {
            labels,
            blanks,
            exponents,
            ..
        } = self;
        exponents.labels.resize(lattice.places.len(), [ZEROS; RUN]);
        let run = &run[..lattice.entries];
        exponents.m.resize(run.len(), ZEROS);
        exponents.e.resize(run.len(), ZEROS);
        if raw {
            split(simd, run, &mut exponents.m, &mut exponents.e);
        } else {
            for (m, x) in exponents.m.iter_mut().zip(run) {
                for k in 0..RUN {
                    m.0[k] = x[k].widen();
                }
            }
            exponents.e.fill(ZEROS);
            for (m, e) in exponents.m.iter_mut().zip(&mut exponents.e) {
                for k in 0..RUN {
                    if m.0[k] == 0.0 {
                        (m.0[k], e.0[k]) = (1.0, NOWHERE);
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
                [Pairs([NOWHERE; PAIRS]); PAIRS],
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

/// What is done with each vector of pairs in each frame of a block.
pub(super) trait ExtendedVisitor {
    /// Vector `v` of tile `b` in frame `k`, as [`Visitor::visit`] has it.
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

/// Writes the states down.
pub(super) struct RecordExtended<'a> {
    pub numbers: &'a mut [[Tile; RUN]],
    pub exponents: &'a mut [[Tile; RUN]],
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

/// Forms posteriors with the rows of the other direction: those of the labels in place of their emissions, and with
/// `states` those of the blanks in place of the rows.
pub(super) struct JoinExtended<'a> {
    pub numbers: &'a mut [[Tile; RUN]],
    pub exponents: &'a [[Tile; RUN]],
    /// The exponent of `P`.
    pub top: f64,
    pub blanks: &'a mut Square,
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

/// [`Tiles::advance_extended`].
struct AdvanceExtended<'a, D, V> {
    lattice: &'a Tiles,
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
        let mut edges = [Extended::zero(simd); RUN];
        let edges = &mut edges[..self.frames];
        // Two vectors together, or four: one would wait for its own results.
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
    /// `N` neighbours from vector `low` on. `edges` holds, for each frame, the vector that flows into them, and then
    /// the last of their own.
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

/// The tile of a vector, and which of its vectors it is.
#[inline(always)]
fn place<S: Simd>(vector: usize) -> (usize, usize) {
    (vector / vectors::<S>(), vector % vectors::<S>())
}

impl Tiles {
    /// Takes the live tiles through the frames of a block, and `visitor` along.
    pub(super) fn advance_extended<D: Direction, V: ExtendedVisitor>(
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

    /// `P`, where the two directions have met.
    pub fn meet(&self, alpha: &Track, beta: &Track) -> Met {
        dispatch_simd(Meet {
            lattice: self,
            alpha: &alpha.row,
            beta: &beta.row,
        })
    }
}

/// [`Tiles::meet`].
struct Meet<'a> {
    lattice: &'a Tiles,
    alpha: &'a Row,
    beta: &'a Row,
}

impl WithSimd for Meet<'_> {
    type Output = Met;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Met {
        let Self {
            lattice,
            alpha,
            beta,
        } = self;
        let middle = lattice.runs.middle();
        let (live, vectors) = (lattice.live(&(middle..middle)), vectors::<S>());
        // What flows into the betas, with the tile behind the last.
        let mut edge = Extended::zero(simd);
        if let Some(after) = beta.numbers.get(live.end) {
            edge = Extended::load(simd, after, &beta.exponents_of(live.end), 0);
        }
        // A sum for each pair of a tile.
        let (mut m, mut e) = (ZEROS, Pairs([NOWHERE; PAIRS]));
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
        let mut top = NOWHERE;
        for k in 0..PAIRS {
            top = if e.0[k] > top { e.0[k] } else { top };
        }
        let mut mantissa = 0.0;
        for k in 0..PAIRS {
            mantissa += m.0[k] * pow2(e.0[k] - top);
        }
        if top <= NOWHERE_BELOW {
            return NO_PATH;
        }
        // The terms are products of mantissas in [1, 2) and sums of three: far from both ends of f64.
        let own = exponent_of(mantissa);
        Met {
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
        assert_eq!((n.0[0], e.0[0]), (1.0, NOWHERE));
    }
}
