//! The sweep: one direction up to the middle.

use super::*;

/// [`ScaledLattice::sweep`].
pub(crate) struct Sweep<'a, D, R> {
    pub lattice: &'a ScaledLattice,
    pub track: &'a mut Track,
    pub blocks: Range<usize>,
    pub table: Table<'a, R>,
    pub keep: bool,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction, R: Real> WithSimd for Sweep<'_, D, R> {
    type Output = Result<(), Stop>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            lattice,
            track,
            table,
            keep,
            scratch,
            ..
        } = self;
        for i in ordered::<D>(self.blocks) {
            let block = lattice.blocks.frames_of(i..i + 1);
            let live = lattice.live(&block);
            let (kind, emissions) = (table.kind(i), &mut scratch.emissions);
            let depth = kind.depth();
            track.masked |= !kind.all_above_zero();
            let (first, past) = (track.patience.first(), track.past);
            if kind.is_raw() {
                emissions.set_plain(lattice, table.wide(i), &live);
            } else {
                emissions.set(simd, lattice, table.block(i), live.clone());
            }
            if first == Level::Tiles {
                let scaled = scale_tiles::<S, D>(
                    simd,
                    &track.row,
                    &mut track.trial,
                    live.clone(),
                    TARGET_EXP,
                );
                if track.forgone.frames > 0.0 {
                    let least = track.forgone.negligible();
                    drop_below::<S, D>(simd, &mut track.trial, live.clone(), least, None);
                }
                let mark = track.kept.mark();
                if keep {
                    track.kept.add_tiles(&track.trial, live.clone());
                }
                let with = (&mut scratch.emissions, [].as_slice());
                let (trial, frames) = (&mut track.trial, 0..block.len());
                let mut exact = false;
                if track.masked {
                    let least = track.row.smallest_of(trial, live.clone());
                    exact = lattice.advance_masked::<S, D>(
                        simd,
                        trial,
                        (least, depth.faintest),
                        with,
                        frames,
                        live.clone(),
                    );
                } else {
                    lattice.advance::<S, D, _, false>(
                        simd,
                        trial,
                        with,
                        frames,
                        live.clone(),
                        &mut Alone,
                    );
                }
                let reached = lattice.reached::<D>(&block, &mut track.past);
                let forgoing = track.forgone.frames > 0.0;
                if forgoing {
                    track.forgone.grow(&table, i, block.len());
                }
                let flows = scaled.stays == NO_TILE;
                let top = scaled.largest as f64;
                // States that cannot flow on, and may have grown in this block.
                let stays = scaled.stays as f64 + TARGET_EXP + range::COUNT;
                // Bound on the contribution of emissions that count as 0, from the largest states.
                let cut = depth
                    .cut
                    .map_or(EMPTY_EXP, |cut| top + range::MOST_OF_TILES + f64::from(cut));
                let lost = (top + range::LOST).max(stays).max(cut);
                let held = (forgoing && lost <= track.forgone.exponent) || {
                    let whole = flows
                        && (exact
                            || lattice.check::<S, false>(
                                simd,
                                &track.trial,
                                &[],
                                &reached,
                                live.clone(),
                            ));
                    let lost = if whole { (cut, false) } else { (lost, true) };
                    (whole && (depth.cut.is_none() || cut <= track.forgone.exponent))
                        || lattice.forgoes::<D, R>(track, lost, top, (&table, i), &block)
                };
                if held {
                    std::mem::swap(&mut track.row, &mut track.trial);
                    track.patience.done(first, first);
                    continue;
                }
                if lattice.coarse_only {
                    return Err(Stop::OutOfRange);
                }
                track.kept.back_to(mark);
                track.past = past;
            } else if track.forgone.frames > 0.0 {
                track.forgone.grow(&table, i, block.len());
            }
            let entries = (table.block(i), kind);
            track.sweep_finer::<D, R>(lattice, &block, entries, first, keep, scratch)?;
        }
        Ok(())
    }
}

impl ScaledLattice {
    /// Whether the loss of a block at [`Level::Tiles`] can be forgone. `top` is the largest exponent of its tiles.
    #[inline(never)]
    pub fn forgoes<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        lost: (f64, bool),
        top: f64,
        (table, i): (&Table<R>, usize),
        block: &Range<usize>,
    ) -> bool {
        if !self.forgoes {
            return false;
        }
        if track.forgone.frames == 0.0 {
            track.forgone.grow(table, i, block.len());
        }
        let middle = self.blocks.middle();
        let (consumed, left) = if D::FORWARD {
            (block.end, middle.saturating_sub(block.end))
        } else {
            (
                self.blocks.frames - block.start,
                block.start.saturating_sub(middle),
            )
        };
        let largest = match table.kind(i).is_raw() {
            // A raw block may shrink states more than any block before it.
            true => track.trial.largest_exponent(self.live(block)),
            false => top + TARGET_EXP,
        };
        track
            .forgone
            .may_add(lost, largest, consumed as f64, left as f64)
    }
}

impl Track {
    /// Sweeps a block at a finer level than [`Level::Tiles`].
    pub fn sweep_finer<D: Direction, R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        block: &Range<usize>,
        (entries, kind): (&[[R; BLOCK_FRAMES]], Entries),
        first: Level,
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Stop> {
        if first < Level::States && kind.depth().cut.is_none() {
            let (mark, past) = (self.kept.mark(), self.past);
            let held = dispatch_simd(SweepPairs::<D> {
                lattice,
                track: self,
                block,
                keep,
                scratch,
                direction: PhantomData,
            });
            if held {
                std::mem::swap(&mut self.row, &mut self.trial);
                self.patience.done(first, Level::Pairs);
                return Ok(());
            }
            self.kept.back_to(mark);
            self.past = past;
        }
        self.sweep_states::<D, R>(lattice, block, (entries, kind.is_raw()), keep, scratch)?;
        self.patience.done(first, Level::States);
        Ok(())
    }

    /// Sweeps a block with an exponent per state.
    pub fn sweep_states<D: Direction, R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        block: &Range<usize>,
        (entries, raw): (&[[R; BLOCK_FRAMES]], bool),
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Stop> {
        let live = lattice.live(block);
        self.row.separate(live.clone());
        if keep {
            self.kept.add_states(&self.row, live.clone());
        }
        let emissions = &mut scratch.emissions;
        emissions.set_extended(lattice, entries, raw, live.clone());
        lattice.advance_extended::<D, _>(&mut self.row, emissions, block.len(), live, Alone);
        lattice.reached::<D>(block, &mut self.past);
        Ok(())
    }
}

/// Sweeps a block in parts, with an exponent per pair. Returns whether the result is exact.
pub(crate) struct SweepPairs<'a, D> {
    pub lattice: &'a ScaledLattice,
    pub track: &'a mut Track,
    pub block: &'a Range<usize>,
    pub keep: bool,
    pub scratch: &'a mut Scratch,
    pub direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for SweepPairs<'_, D> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self {
            lattice,
            track:
                Track {
                    row,
                    trial,
                    kept,
                    past,
                    ..
                },
            block,
            scratch: Scratch {
                emissions, range, ..
            },
            ..
        } = self;
        let (live, mut begins) = (lattice.live(block), true);
        for part in parts::<D>(block.len()) {
            if begins {
                trial.separate_from(row, live.clone());
            }
            if !range.scale::<S, D, true>(simd, trial, live.clone(), TARGET_EXP) {
                return false;
            }
            if begins && self.keep {
                kept.add_pairs(trial, live.clone());
            }
            let with = (&mut *emissions, range.factors.as_slice());
            let frames = part.clone();
            lattice.advance::<S, D, _, true>(simd, trial, with, frames, live.clone(), &mut Alone);
            let part = block.start + part.start..block.start + part.end;
            let reached = lattice.reached::<D>(&part, past);
            let least = range.least.as_slice();
            if !lattice.check::<S, true>(simd, trial, least, &reached, live.clone()) {
                return false;
            }
            begins = false;
        }
        true
    }
}

/// Gives each of the live tiles of `from` a new exponent and stores the result in `to`. Returns a summary of the
/// exponents.
#[inline(always)]
pub(crate) fn scale_tiles<S: Simd, D: Direction>(
    simd: S,
    from: &Row,
    to: &mut Row,
    live: Range<usize>,
    top: f64,
) -> TileBefore {
    if !from.uniform {
        return dispatch_simd(range::ScaleSeparate::<D> {
            from,
            to,
            live,
            top: top as i64,
            direction: PhantomData,
        });
    }
    to.set_uniform();
    let mut before = TileBefore::NONE;
    for b in ordered::<D>(live) {
        let mut states = States::load(simd, &from.numbers[b]);
        let (exponent, largest) = (from.scales[b].exponent, states.largest(simd));
        let own = if largest > 0.0 {
            exponent + whole_exponent_of(largest)
        } else {
            NO_TILE
        };
        let scale = before.next(own, top as i64);
        let shift = exponent - scale.exponent;
        if (-1022..=1023).contains(&shift) {
            states.multiply(simd, whole_pow2(shift));
        } else {
            // In two steps, since the power alone is out of range. States further below vanish entirely.
            let shift = shift.max(-2044);
            states.multiply(simd, whole_pow2(shift / 2));
            states.multiply(simd, whole_pow2(shift - shift / 2));
        }
        states.store(simd, &mut to.numbers[b]);
        to.scales[b] = scale;
    }
    before
}

/// Sets states of the live tiles below 2^`least` to 0. With `over`, the scales of the other direction, each state is
/// compared times the larger scale that it can meet there: that of its own tile, or of the next, since in a block a state
/// moves at most one tile ahead.
#[inline(always)]
pub(crate) fn drop_below<S: Simd, D: Direction>(
    simd: S,
    row: &mut Row,
    live: Range<usize>,
    least: i64,
    over: Option<&[Scale]>,
) {
    let zero = simd.splat_f64s(0.0);
    for b in live.clone() {
        let by = over.map_or(0, |scales| scale_ahead::<D>(scales, &live, b));
        let least = simd.splat_f64s(whole_pow2(least - row.scales[b].exponent - by));
        let mut states = States::load(simd, &row.numbers[b]);
        for v in 0..vectors::<S>() {
            for state in [&mut states.blank[v], &mut states.label[v]] {
                *state = simd.select_f64s(simd.less_than_f64s(*state, least), zero, *state);
            }
        }
        states.store(simd, &mut row.numbers[b]);
    }
}

/// The larger exponent of live tile `b` and of the next in the order of `D`.
#[inline(always)]
pub(crate) fn scale_ahead<D: Direction>(scales: &[Scale], live: &Range<usize>, b: usize) -> i64 {
    let next = if D::FORWARD {
        (b + 1).min(live.end - 1)
    } else {
        b.saturating_sub(1).max(live.start)
    };
    scales[b].exponent.max(scales[next].exponent)
}
