//! The posterior pass: one direction past the middle, forming the posteriors of the blocks that the other direction has
//! swept.

use super::*;

/// [`ScaledLattice::posterior_pass`].
pub(crate) struct PosteriorPass<'a, D, R> {
    pub lattice: &'a ScaledLattice,
    pub track: &'a mut Track,
    pub other: &'a Track,
    pub met: PathProbability,
    pub half: HalfEmissions<'a, R>,
    pub to: &'a mut dyn Posteriors<R>,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for PosteriorPass<'_, D, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            lattice,
            track,
            half,
            scratch,
            met,
            to,
            ..
        } = self;
        let (tiles, states) = (lattice.places.len(), to.of_states());
        scratch.rows.resize(tiles, [EMPTY; BLOCK_FRAMES]);
        scratch.tile_scales.resize(tiles, 0.0);
        scratch.other.resize(tiles);
        scratch.finer.resize(tiles);
        track.make_ready();
        track.patience = Patience::new(lattice.coarsest);
        // The blocks of the other direction, from the middle back to its start.
        let blocks = lattice.blocks.half::<D::Other>();
        let first = blocks.start;
        for (step, i) in ordered::<D>(blocks).enumerate() {
            let block = lattice.blocks.frames_of(i..i + 1);
            let (live, frames) = (lattice.live(&block), block.len());
            let place = (i - first) * lattice.entries;
            let entries = place..place + lattice.entries;
            let next = if D::FORWARD {
                place.checked_add(lattice.entries)
            } else {
                place.checked_sub(lattice.entries)
            };
            prefetch_block(next.and_then(|next| half.values.get(next..next + lattice.entries)));
            let kept = self.other.kept.nth_back(step);
            let part = Part {
                block: i,
                frames,
                live: live.clone(),
                met,
                log_scales: half
                    .log_scales
                    .get((i - first) * BLOCK_FRAMES..)
                    .unwrap_or_default(),
            };
            let table = &mut half.values[entries];
            let raw = half.kinds[i - first].is_raw();
            if track.patience.first() == Level::Tiles {
                if raw {
                    scratch.emissions.set_raw(lattice, table, &live);
                } else {
                    scratch.emissions.set(simd, lattice, table, live.clone());
                }
                let (row, trial, other) = (&track.row, &mut track.trial, &mut scratch.other);
                if kept.level() == Level::Tiles {
                    kept.restore_tiles(other, live.clone(), TARGET_EXP_OF_ROWS);
                } else {
                    let finer = &mut scratch.finer;
                    kept.restore_finer(finer, live.clone());
                    scale_tiles::<S, D::Other>(
                        simd,
                        finer,
                        other,
                        live.clone(),
                        TARGET_EXP_OF_ROWS,
                    );
                }
                scale_tiles::<S, D>(simd, row, trial, live.clone(), TARGET_EXP_OF_POSTERIORS);
                if self.other.forgone.ever {
                    // Drop states that are insignificant next to those of the other direction.
                    let least = (met.exponent - range::GUARD - range::COUNT) as i64;
                    let least_of = |top: f64| least - top as i64 - 14;
                    drop_below::<S, D>(
                        simd,
                        trial,
                        live.clone(),
                        least_of(TARGET_EXP_OF_ROWS),
                        &other.scales,
                    );
                    drop_below::<S, D::Other>(
                        simd,
                        other,
                        live.clone(),
                        least_of(TARGET_EXP_OF_POSTERIORS),
                        &trial.scales,
                    );
                }
                let with = (&mut scratch.emissions, [].as_slice());
                let mut record = Record(&mut scratch.rows);
                lattice.advance::<S, D::Other, _, false>(
                    simd,
                    other,
                    with,
                    0..frames,
                    live.clone(),
                    &mut record,
                );
                let mut most = EMPTY_EXP;
                for b in live.clone() {
                    let (own, other) = (track.trial.scales[b].exponent, &scratch.other.scales);
                    scratch.tile_scales[b] = pow2((own + other[b].exponent) as f64 - met.exponent);
                    let ahead = own + scale_ahead::<D>(other, &live, b);
                    let e = ahead as f64 - met.exponent;
                    most = if e > most { e } else { most };
                }
                if most <= range::MOST {
                    let mut blanks = [ZEROS; BLOCK_FRAMES];
                    let join = JoinTiles::<D> {
                        lattice,
                        trial: &mut track.trial,
                        part: &part,
                        blanks: &mut blanks,
                        scratch,
                        direction: PhantomData,
                    };
                    if states {
                        dispatch_simd(join);
                    } else {
                        join.join::<S, false>(simd);
                    }
                    let table = (&mut *table, raw);
                    if to.take(PosteriorBlock::new(
                        lattice,
                        table,
                        &blanks,
                        &part,
                        scratch,
                        Level::Tiles,
                    )) {
                        std::mem::swap(&mut track.row, &mut track.trial);
                        track.patience.done(Level::Tiles, Level::Tiles);
                        continue;
                    }
                }
            }
            posterior_pass_finer::<D, R>(lattice, track, &kept, (table, raw), &part, to, scratch);
        }
    }
}

/// Forms the posteriors of a block of [`PosteriorPass`] at [`Level::Tiles`]. Dispatched as a function of its own, it
/// also writes the posterior of each blank; inlined into the posterior pass it does not.
pub(crate) struct JoinTiles<'a, D> {
    pub lattice: &'a ScaledLattice,
    pub trial: &'a mut Row,
    pub part: &'a Part<'a>,
    pub blanks: &'a mut Tile8x8,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction> JoinTiles<'_, D> {
    #[inline(always)]
    pub fn join<S: Simd, const STATES: bool>(self, simd: S) {
        let Self {
            lattice,
            trial,
            part,
            blanks,
            scratch,
            ..
        } = self;
        let mut join = Join::<false, STATES> {
            rows: &mut scratch.rows,
            tile_scales: &scratch.tile_scales,
            scales: &[],
            blanks,
        };
        let (with, frames) = ((&mut scratch.emissions, [].as_slice()), 0..part.frames);
        let live = part.live.clone();
        lattice.advance::<S, D, _, false>(simd, trial, with, frames, live, &mut join);
    }
}

impl<D: Direction> WithSimd for JoinTiles<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.join::<S, true>(simd);
    }
}

/// Takes a block of [`PosteriorPass`] at a finer level than [`Level::Tiles`].
pub(crate) fn posterior_pass_finer<D: Direction, R: Real>(
    lattice: &ScaledLattice,
    track: &mut Track,
    kept: &Checkpoint,
    (table, raw): (&mut [[R; BLOCK_FRAMES]], bool),
    part: &Part,
    to: &mut dyn Posteriors<R>,
    scratch: &mut Scratch,
) {
    let first = track.patience.first();
    if first < Level::States && kept.level() < Level::States {
        scratch.emissions.set_any(lattice, (table, raw), &part.live);
        make_rows::<D>(lattice, kept, part, Level::Pairs, scratch);
        let mut blanks = [ZEROS; BLOCK_FRAMES];
        let joined = dispatch_simd(JoinPairs::<D> {
            lattice,
            track,
            part,
            blanks: &mut blanks,
            scratch,
            direction: PhantomData,
        });
        let table = (&mut *table, raw);
        if joined
            && to.take(PosteriorBlock::new(
                lattice,
                table,
                &blanks,
                part,
                scratch,
                Level::Pairs,
            ))
        {
            std::mem::swap(&mut track.row, &mut track.trial);
            track.patience.done(first, Level::Pairs);
            return;
        }
    }
    track.patience.done(first, Level::States);
    posterior_pass_states::<D, R>(lattice, track, kept, (table, raw), part, to, scratch);
}

/// Forms the posteriors of a block of [`PosteriorPass`] in parts, with an exponent per pair. Returns whether all are in
/// range.
pub(crate) struct JoinPairs<'a, D> {
    pub lattice: &'a ScaledLattice,
    pub track: &'a mut Track,
    pub part: &'a Part<'a>,
    pub blanks: &'a mut Tile8x8,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for JoinPairs<'_, D> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self {
            lattice,
            track: Track { row, trial, .. },
            part,
            blanks,
            scratch,
            ..
        } = self;
        let live = part.live.clone();
        scratch.scales.resize(lattice.places.len(), ZEROS);
        let minus_top = simd.splat_f64s(-part.met.exponent);
        let mut begins = true;
        for frames in parts::<D>(part.frames) {
            let range = &mut scratch.range;
            if begins {
                trial.separate_from(row, live.clone());
            }
            if !range.scale::<S, D, false>(simd, trial, live.clone(), TARGET_EXP_OF_POSTERIORS) {
                return false;
            }
            let (mut most, mut window) = (simd.splat_f64s(EMPTY_EXP), Window::nothing(simd));
            for b in ordered::<D::Other>(live.clone()) {
                let own = load(simd, &trial.exponents[b].blank);
                let mut both = load(simd, &scratch.part_exponents[frames.start / PART][b]);
                for j in 0..vectors::<S>() {
                    let v = if D::FORWARD {
                        vectors::<S>() - 1 - j
                    } else {
                        j
                    };
                    let own = simd.add_f64s(own[v], minus_top);
                    // Within a part, a state moves at most four pairs ahead.
                    let (_, ahead) = window.next::<D::Other>(simd, both[v]);
                    most = simd.max_f64s(most, simd.add_f64s(own, ahead));
                    both[v] = simd.add_f64s(own, both[v]);
                    // Posteriors below 2^-160 become 0, so that no product is below the normal numbers.
                    let counts = simd.greater_than_f64s(both[v], simd.splat_f64s(-850.0));
                    both[v] = simd.select_f64s(counts, powers(simd, both[v]), simd.splat_f64s(0.0));
                }
                store(simd, &mut scratch.scales[b], &both);
            }
            if simd.reduce_max_f64s(most) > range::MOST {
                return false;
            }
            let with = (&mut scratch.emissions, range.factors.as_slice());
            let mut join = Join::<true, true> {
                rows: &mut scratch.rows,
                tile_scales: &[],
                scales: &scratch.scales,
                blanks: &mut *blanks,
            };
            lattice.advance::<S, D, _, true>(simd, trial, with, frames, live.clone(), &mut join);
            begins = false;
        }
        true
    }
}

/// Recomputes the rows of a block of the direction opposite to `D` from its checkpoint, and their exponents for each
/// part of the block, for posteriors at `level`. Uses the emissions in `scratch`.
pub(crate) fn make_rows<D: Direction>(
    lattice: &ScaledLattice,
    kept: &Checkpoint,
    part: &Part,
    level: Level,
    scratch: &mut Scratch,
) {
    dispatch_simd(MakeRows::<D::Other> {
        lattice,
        kept,
        part,
        level,
        scratch,
        direction: PhantomData,
    });
}

/// [`make_rows`] for direction `D`.
pub(crate) struct MakeRows<'a, D> {
    pub lattice: &'a ScaledLattice,
    pub kept: &'a Checkpoint<'a>,
    pub part: &'a Part<'a>,
    pub level: Level,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for MakeRows<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            lattice,
            kept,
            part,
            level,
            scratch:
                Scratch {
                    emissions,
                    range,
                    other,
                    rows,
                    part_exponents,
                    ..
                },
            ..
        } = self;
        let (tiles, live) = (lattice.places.len(), part.live.clone());
        for exponents in &mut *part_exponents {
            exponents.resize(tiles, ZEROS);
        }
        let mut record = Record(rows);
        let top = match level {
            // The full range of f64 loses nothing significant.
            Level::States => TARGET_EXP,
            _ => TARGET_EXP_OF_ROWS,
        };
        let of_tiles = kept.level() == Level::Tiles;
        if of_tiles && level == Level::States {
            kept.restore_tiles(other, live.clone(), top);
            for b in live.clone() {
                let exponents = other.exponents_of(b).blank;
                for part in &mut *part_exponents {
                    part[b] = exponents;
                }
            }
            let with = (&mut *emissions, [].as_slice());
            let frames = 0..part.frames;
            lattice.advance::<S, D, _, false>(simd, other, with, frames, live, &mut record);
            return;
        }
        if of_tiles {
            // The one exponent of a tile would overrate its smaller pairs.
            kept.restore_tiles(other, live.clone(), TARGET_EXP);
            other.separate(live.clone());
        } else {
            kept.restore_pairs(other, live.clone(), top);
        }
        let mut begins = true;
        for frames in parts::<D>(part.frames) {
            if begins && !of_tiles {
                range.factors_of::<S, D>(simd, other, live.clone());
            } else {
                range.scale::<S, D, false>(simd, other, live.clone(), top);
            }
            for b in live.clone() {
                part_exponents[frames.start / PART][b] = other.exponents[b].blank;
            }
            let with = (&mut *emissions, range.factors.as_slice());
            lattice.advance::<S, D, _, true>(simd, other, with, frames, live.clone(), &mut record);
            begins = false;
        }
    }
}

/// Takes a block of [`PosteriorPass`] with an exponent per state.
pub(crate) fn posterior_pass_states<D: Direction, R: Real>(
    lattice: &ScaledLattice,
    track: &mut Track,
    kept: &Checkpoint,
    (table, raw): (&mut [[R; BLOCK_FRAMES]], bool),
    part: &Part,
    to: &mut dyn Posteriors<R>,
    scratch: &mut Scratch,
) {
    let live = part.live.clone();
    let of_states = kept.level() == Level::States;
    scratch
        .row_exponents
        .resize(lattice.places.len(), [FAR; BLOCK_FRAMES]);
    if !of_states {
        scratch.emissions.set_any(lattice, (table, raw), &live);
        make_rows::<D>(lattice, kept, part, Level::States, scratch);
        scratch.normalise_rows(part);
    }
    let emissions = &mut scratch.emissions;
    emissions.set_extended(lattice, table, raw, live.clone());
    let (rows, row_exponents) = (&mut scratch.rows, &mut scratch.row_exponents);
    if of_states {
        let other = &mut scratch.other;
        kept.restore_states(other, live.clone());
        let record = RecordExtended {
            numbers: rows,
            exponents: row_exponents,
        };
        let (frames, live) = (part.frames, live.clone());
        lattice.advance_extended::<D::Other, _>(other, emissions, frames, live, record);
    }
    track.row.separate(live.clone());
    let mut blanks = [ZEROS; BLOCK_FRAMES];
    let join = JoinExtended {
        numbers: rows,
        exponents: row_exponents,
        top: part.met.exponent,
        blanks: &mut blanks,
        states: to.of_states(),
    };
    lattice.advance_extended::<D, _>(&mut track.row, emissions, part.frames, live, join);
    let table = (table, raw);
    to.take(PosteriorBlock::new(
        lattice,
        table,
        &blanks,
        part,
        scratch,
        Level::States,
    ));
}

/// A block whose posteriors are being formed.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub block: usize,
    pub frames: usize,
    pub live: Range<usize>,
    pub met: PathProbability,
    /// For each frame, the logarithm of the number by which its emissions were divided; empty if not needed.
    pub log_scales: &'a [f64],
}

/// The parts of a block of `frames` frames, in the order of `D`.
pub(crate) fn parts<D: Direction>(frames: usize) -> impl Iterator<Item = Range<usize>> {
    let count = frames.div_ceil(PART);
    ordered::<D>(0..count).map(move |i| i * PART..((i + 1) * PART).min(frames))
}

/// Forms posteriors from the rows of the other direction. Label posteriors overwrite the label emissions; with
/// `STATES`, blank posteriors overwrite the rows.
pub(crate) struct Join<'a, const FINE: bool, const STATES: bool> {
    pub rows: &'a mut [[Tile; BLOCK_FRAMES]],
    /// Factor from product to posterior for each tile; with `FINE`, `scales` has it for each pair.
    pub tile_scales: &'a [f64],
    pub scales: &'a [Pairs],
    /// The blank posteriors, summed over all tiles, by position of the pair in its tile.
    pub blanks: &'a mut Tile8x8,
}

impl<const FINE: bool, const STATES: bool> Visitor for Join<'_, FINE, STATES> {
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, k: usize) -> Vectors<S> {
        load(simd, &self.blanks[k])
    }

    #[inline(always)]
    fn visit<S: Simd>(
        &mut self,
        simd: S,
        (b, k): (usize, usize),
        flow: &States<S>,
        _: &States<S>,
        place: &mut Pairs,
        mut sum: Vectors<S>,
    ) -> Vectors<S> {
        let row = &mut self.rows[b][k];
        let scale = if FINE {
            load(simd, &self.scales[b])
        } else {
            [simd.splat_f64s(self.tile_scales[b]); PAIRS]
        };
        let blank = product(simd, &flow.blank, &row.blank, &scale);
        let label = product(simd, &flow.label, &row.label, &scale);
        store(simd, place, &label);
        if STATES {
            store(simd, &mut row.blank, &blank);
        }
        for v in 0..vectors::<S>() {
            sum[v] = simd.add_f64s(sum[v], blank[v]);
        }
        sum
    }

    #[inline(always)]
    fn keep<S: Simd>(&mut self, simd: S, k: usize, sum: &Vectors<S>) {
        store(simd, &mut self.blanks[k], sum);
    }
}

/// `(row · scale) · flow`
///
/// A posterior is at most 1. [`range::MOST`] ensures that the first product is below 2^1023, and that the posterior is
/// negligible where that product is below the normal numbers.
#[inline(always)]
pub(crate) fn product<S: Simd>(
    simd: S,
    flow: &Vectors<S>,
    row: &Pairs,
    scale: &Vectors<S>,
) -> Vectors<S> {
    let mut row = load(simd, row);
    for v in 0..vectors::<S>() {
        row[v] = simd.mul_f64s(simd.mul_f64s(row[v], scale[v]), flow[v]);
    }
    row
}
