//! The recursion: a few tiles through the frames of a block.

use super::*;

impl ScaledLattice {
    /// Takes the live tiles through `frames` of a block, calling `visitor` for each tile and frame. A factor is the
    /// power of two by which the flow from a neighbour of another exponent is multiplied. With `FINE`, each pair has
    /// its own, in `factors`; otherwise each tile has one ([`Scale::factor`]).
    #[inline(always)]
    pub fn advance<S: Simd, D: Direction, V: Visitor, const FINE: bool>(
        &self,
        simd: S,
        row: &mut Row,
        (emissions, factors): (&mut Spread, &[Pairs]),
        frames: Range<usize>,
        live: Range<usize>,
        visitor: &mut V,
    ) {
        let (mut edges, first) = ([[simd.splat_f64s(0.0); 2]; BLOCK_FRAMES], frames.start);
        let edges = &mut edges[..frames.len()];
        // As many tiles at once as registers allow: a single tile would wait for its own results.
        let mut left = live;
        while !left.is_empty() {
            let count = left.len().min(S::F64_LANES / 2);
            let low = if D::FORWARD {
                left.start
            } else {
                left.end - count
            };
            let with = (&mut *emissions, factors);
            let edges = (first, &mut *edges);
            match count {
                1 => self.pass::<S, D, V, 1, FINE>(simd, row, with, low, edges, visitor),
                2 => self.pass::<S, D, V, 2, FINE>(simd, row, with, low, edges, visitor),
                3 => self.pass::<S, D, V, 3, FINE>(simd, row, with, low, edges, visitor),
                _ => self.pass::<S, D, V, 4, FINE>(simd, row, with, low, edges, visitor),
            }
            left = if D::FORWARD {
                left.start + count..left.end
            } else {
                left.start..low
            };
        }
    }

    /// The same for `N` neighbouring tiles from tile `low`. For each frame from `first`, `edges` holds the edge of the
    /// neighbour that flows into them, and on return their own edge.
    // No closures here or below: a call that is not inlined loses its instruction set.
    #[inline(always)]
    pub fn pass<S: Simd, D: Direction, V: Visitor, const N: usize, const FINE: bool>(
        &self,
        simd: S,
        row: &mut Row,
        (emissions, factors): (&mut Spread, &[Pairs]),
        low: usize,
        (first, edges): (usize, &mut [[S::f64s; 2]]),
        visitor: &mut V,
    ) {
        let skip = &self.skip::<D>()[low..low + N];
        let numbers = &mut row.numbers[low..low + N];
        let scales = &row.scales[low..low + N];
        let labels = &mut emissions.labels[low..low + N];
        let mut links = [Links::new(simd, &skip[0], &ZEROS); N];
        let mut states = [States::load(simd, &numbers[0]); N];
        for i in 0..N {
            let factors = if FINE {
                factors[low + i]
            } else {
                spread::<D>(scales[i].factor)
            };
            links[i] = Links::new(simd, &skip[i], &factors);
            states[i] = States::load(simd, &numbers[i]);
        }
        let frames = edges.len();
        for (j, edge) in edges.iter_mut().enumerate() {
            let k = first + if D::FORWARD { j } else { frames - 1 - j };
            let mut flows = states;
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                flows[i] = states[i].inflow::<D>(simd, edge, &links[i]);
            }
            // The order does not depend on `N`, since visitors add up.
            let mut sum = visitor.sum(simd, k);
            for j in 0..N {
                let i = if D::FORWARD { j } else { N - 1 - j };
                states[i] = flows[i].times(simd, emissions.blanks[k], &labels[i][k]);
                let (at, place) = ((low + i, k), &mut labels[i][k]);
                sum = visitor.visit(simd, at, &flows[i], &states[i], place, sum);
            }
            visitor.keep(simd, k, &sum);
        }
        for i in 0..N {
            states[i].store(simd, &mut numbers[i]);
        }
    }

    /// Whether all live states that can be reached at the end of a part of a block are certainly exact: at least
    /// `least`.
    #[inline(always)]
    pub fn check<S: Simd>(
        &self,
        simd: S,
        row: &Row,
        least: &[Pairs],
        reached: &Reached,
        live: Range<usize>,
    ) -> bool {
        let (reached, mut exact) = (ReachedLanes::new(simd, reached), simd.splat_f64s(1.0));
        for b in live {
            let here = reached.at_least(simd, &row.numbers[b], &load(simd, &least[b]), b);
            exact = simd.min_f64s(exact, here);
        }
        simd.reduce_min_f64s(exact) == 1.0
    }
}

/// [`Reached`], to be compared with the pairs of a tile.
#[derive(Clone, Copy)]
pub(crate) struct ReachedLanes<S: Simd> {
    /// The bounds of the blanks, then those of the labels.
    bounds: [[S::f64s; 2]; 2],
    /// The index of each pair in its tile: 0 to 7.
    places: Vectors<S>,
}

impl<S: Simd> ReachedLanes<S> {
    #[inline(always)]
    pub fn new(simd: S, reached: &Reached) -> Self {
        const PLACES: Pairs = {
            let mut places = ZEROS;
            let mut k = 0;
            while k < PAIRS {
                places.0[k] = k as f64;
                k += 1;
            }
            places
        };
        let [blanks, labels] = [&reached.blanks, &reached.labels];
        let splat = |pair: usize| simd.splat_f64s(pair as f64);
        Self {
            bounds: [
                [splat(blanks.start), splat(blanks.end)],
                [splat(labels.start), splat(labels.end)],
            ],
            places: load(simd, &PLACES),
        }
    }

    /// 1 in the lanes in which all states of tile `b` that can be reached are at least `least`, else 0.
    #[inline(always)]
    pub fn at_least(&self, simd: S, tile: &Tile, least: &Vectors<S>, b: usize) -> S::f64s {
        let first = simd.splat_f64s((b * PAIRS) as f64);
        let States { blank, label } = States::load(simd, tile);
        let (zero, mut all) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
        for v in 0..vectors::<S>() {
            let place = simd.add_f64s(self.places[v], first);
            for (state, [start, end]) in [(blank[v], self.bounds[0]), (label[v], self.bounds[1])] {
                // False for NaN.
                let enough = simd.greater_than_or_equal_f64s(state, least[v]);
                let below = simd.less_than_f64s(place, start);
                let above = simd.greater_than_or_equal_f64s(place, end);
                let elsewhere = simd.or_m64s(below, above);
                all = simd.select_f64s(simd.or_m64s(enough, elsewhere), all, zero);
            }
        }
        all
    }

    /// Whether all states of tile `b` that can be reached are at least `least`.
    #[inline(always)]
    pub fn all_at_least(&self, simd: S, tile: &Tile, least: f64, b: usize) -> bool {
        let least = [simd.splat_f64s(least); PAIRS];
        simd.reduce_min_f64s(self.at_least(simd, tile, &least, b)) == 1.0
    }
}

/// An action on each tile in each frame of a block.
pub(crate) trait Visitor {
    /// The sum of frame `k` over the tiles so far, for each of the 8 pairs of a tile.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, _k: usize) -> Vectors<S> {
        [simd.splat_f64s(0.0); PAIRS]
    }

    /// Visits tile `b` in frame `k` of the block, `at = (b, k)`, with the inflow of its states and the states. `place`
    /// has the emissions of its labels in this frame, which are no longer needed: the visitor may overwrite them.
    /// Returns `sum` plus its own contribution.
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        at: (usize, usize),
        flow: &States<S>,
        states: &States<S>,
        place: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S>;

    /// Stores the sum of frame `k`.
    #[inline(always)]
    fn keep<S: Simd>(&mut self, _: S, _k: usize, _sum: &Vectors<S>) {}
}

/// Does nothing: for the states alone.
pub(crate) struct Alone;

impl Visitor for Alone {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        _: S,
        _: (usize, usize),
        _: &States<S>,
        _: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        sum
    }
}

/// Records the states.
pub(crate) struct Record<'a>(pub &'a mut [[Tile; BLOCK_FRAMES]]);

impl Visitor for Record<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k): (usize, usize),
        _: &States<S>,
        states: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        states.store(simd, &mut self.0[b][k]);
        sum
    }
}

/// The smallest states above 0 of each tile, lane by lane.
pub(crate) struct Smallest<'a>(pub &'a mut [Pairs]);

impl Visitor for Smallest<'_> {
    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, _): (usize, usize),
        _: &States<S>,
        states: &States<S>,
        _: &mut Pairs,
        sum: Vectors<S>,
    ) -> Vectors<S> {
        let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
        let (smallest, _) = S::as_mut_simd_f64s(&mut self.0[b].0);
        for v in 0..vectors::<S>() {
            for state in [states.blank[v], states.label[v]] {
                let state = simd.select_f64s(simd.greater_than_f64s(state, zero), state, one);
                smallest[v] = simd.min_f64s(smallest[v], state);
            }
        }
        sum
    }
}

/// For each pair of a tile, the factor on the flow from the pair before it: 1 but at the edge, where it is `factor`.
#[inline(always)]
pub(crate) fn spread<D: Direction>(factor: f64) -> Pairs {
    let mut pairs = Pairs([1.0; PAIRS]);
    pairs.0[if D::FORWARD { 0 } else { PAIRS - 1 }] = factor;
    pairs
}

/// Factors on the flow from the neighbouring pair: into the blank (forward) or from the blank (backward), and from
/// label to label.
#[derive(Clone, Copy)]
pub(crate) struct Links<S: Simd> {
    pub blank: Vectors<S>,
    pub label: Vectors<S>,
}

impl<S: Simd> Links<S> {
    #[inline(always)]
    pub fn new(simd: S, skip: &Pairs, factors: &Pairs) -> Self {
        let blank = load(simd, factors);
        let mut label = load(simd, skip);
        for v in 0..vectors::<S>() {
            label[v] = simd.mul_f64s(label[v], blank[v]);
        }
        Self { blank, label }
    }
}

/// The states of a tile, or their inflows.
#[derive(Clone, Copy)]
pub(crate) struct States<S: Simd> {
    pub blank: Vectors<S>,
    pub label: Vectors<S>,
}

impl<S: Simd> States<S> {
    #[inline(always)]
    pub fn load(simd: S, tile: &Tile) -> Self {
        Self {
            blank: load(simd, &tile.blank),
            label: load(simd, &tile.label),
        }
    }

    #[inline(always)]
    pub fn store(&self, simd: S, tile: &mut Tile) {
        store(simd, &mut tile.blank, &self.blank);
        store(simd, &mut tile.label, &self.label);
    }

    /// The largest state; none is NaN.
    #[inline(always)]
    pub fn largest(&self, simd: S) -> f64 {
        let mut top = simd.max_f64s(self.blank[0], self.label[0]);
        for v in 1..vectors::<S>() {
            top = simd.max_f64s(top, simd.max_f64s(self.blank[v], self.label[v]));
        }
        simd.reduce_max_f64s(top)
    }

    #[inline(always)]
    pub fn multiply(&mut self, simd: S, by: f64) {
        let by = simd.splat_f64s(by);
        for v in 0..vectors::<S>() {
            self.blank[v] = simd.mul_f64s(self.blank[v], by);
            self.label[v] = simd.mul_f64s(self.label[v], by);
        }
    }

    /// The inflow of each state. `edge` holds the edge of the neighbour that flows into this tile, and on return this
    /// tile's own.
    #[inline(always)]
    pub fn inflow<D: Direction>(&self, simd: S, edge: &mut [S::f64s; 2], links: &Links<S>) -> Self {
        let last = vectors::<S>() - 1;
        let mut flow = *self;
        if D::FORWARD {
            for v in 0..=last {
                let before = shift::up(simd, edge[1], self.label[v]);
                edge[1] = self.label[v];
                let here = simd.add_f64s(self.label[v], self.blank[v]);
                flow.blank[v] = mul_add_f64(simd, before, links.blank[v], self.blank[v]);
                flow.label[v] = mul_add_f64(simd, before, links.label[v], here);
            }
        } else {
            for v in (0..=last).rev() {
                let after = [
                    shift::down(simd, self.blank[v], edge[0]),
                    shift::down(simd, self.label[v], edge[1]),
                ];
                *edge = [self.blank[v], self.label[v]];
                let near = mul_add_f64(simd, after[0], links.blank[v], self.label[v]);
                flow.blank[v] = simd.add_f64s(self.blank[v], self.label[v]);
                flow.label[v] = mul_add_f64(simd, after[1], links.label[v], near);
            }
        }
        flow
    }

    /// Multiplies by the emissions of a frame.
    #[inline(always)]
    pub fn times(mut self, simd: S, blank: f64, labels: &Pairs) -> Self {
        let blank = simd.splat_f64s(blank);
        let labels = load(simd, labels);
        for v in 0..vectors::<S>() {
            self.blank[v] = simd.mul_f64s(self.blank[v], blank);
            self.label[v] = simd.mul_f64s(self.label[v], labels[v]);
        }
        self
    }
}
