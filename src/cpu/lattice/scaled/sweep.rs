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
        track.make_ready();
        for i in ordered::<D>(self.blocks) {
            let block = lattice.blocks.frames_of(i..i + 1);
            let live = lattice.live(&block);
            let (kind, emissions) = (table.kind(i), &mut scratch.emissions);
            let (first, past) = (track.patience.first(), track.past);
            if kind.is_raw() {
                emissions.set_plain(lattice, table.wide(i), &live);
            } else {
                emissions.set(simd, lattice, table.block(i), live.clone());
            }
            let grew = track.forgone.grow(&table, i, block.len());
            if first == Level::Tiles {
                let mark = track.kept.mark();
                let tiles = TilesBlock {
                    lattice,
                    block: &block,
                    depth: kind.depth(),
                    keep,
                    grew,
                };
                let careful = track.careful.on;
                let mut settled = if careful {
                    tiles.sweep_carefully::<D>(track, scratch)
                } else {
                    tiles.sweep::<S, D, false>(simd, track, scratch)
                };
                if track.careful.tries(settled, &track.forgone.allowance) {
                    track.kept.back_to(mark);
                    track.past = past;
                    settled = tiles.sweep_carefully::<D>(track, scratch);
                    track.careful.tried(settled);
                }
                let held = match settled {
                    Settled::Exact => true,
                    Settled::Bounded { allowed, .. } => {
                        if allowed {
                            track.forgone.accept(live.clone());
                        }
                        allowed
                    }
                };
                if held {
                    std::mem::swap(&mut track.row, &mut track.trial);
                    track.patience.done(first, first);
                    continue;
                }
                track.kept.back_to(mark);
                track.past = past;
            }
            track.forgone.carry::<D>(live, grew);
            let entries = (table.block(i), kind);
            track.sweep_finer::<D, R>(lattice, &block, entries, first, keep, scratch)?;
        }
        Ok(())
    }
}

/// A block to be swept at [`Level::Tiles`].
struct TilesBlock<'a> {
    lattice: &'a ScaledLattice,
    block: &'a Range<usize>,
    depth: Depth,
    keep: bool,
    /// The growth of earlier losses, in binary orders.
    grew: f64,
}

impl TilesBlock<'_> {
    /// Sweeps `track.row` to `track.trial`.
    #[inline(always)]
    fn sweep<S: Simd, D: Direction, const CAREFUL: bool>(
        &self,
        simd: S,
        track: &mut Track,
        scratch: &mut Scratch,
    ) -> Settled {
        let (lattice, block) = (self.lattice, self.block);
        let live = lattice.live(block);
        let (row, trial) = (&*track.row, &mut *track.trial);
        scale_tiles::<S, D>(simd, row, trial, live.clone(), TARGET_EXP);
        track.forgone.begin(simd, trial, live.clone());
        if self.keep {
            track.kept.add_tiles(trial, live.clone());
        }
        let (with, frames) = ((&mut scratch.emissions, [].as_slice()), 0..block.len());
        let mut smallest = None;
        if CAREFUL {
            row.smallest_of(trial, live.clone(), &mut scratch.smallest);
            let visitor = &mut Smallest(&mut scratch.smallest);
            lattice.advance::<S, D, _, false>(simd, trial, with, frames, live.clone(), visitor);
            smallest = Some(scratch.smallest.as_slice());
        } else {
            let visitor = &mut Alone;
            lattice.advance::<S, D, _, false>(simd, trial, with, frames, live.clone(), visitor);
        }
        let reached = lattice.reached::<D>(block, &mut track.past);
        let Depth { faintest, cut, .. } = self.depth;
        let after = SettledBlock {
            row: trial,
            live,
            smallest,
            faintest,
            cut,
        };
        let forgone = &mut track.forgone;
        if forgone.loses_nothing::<S, D>(simd, &after, &reached) {
            return Settled::Exact;
        }
        dispatch_simd(Settle::<D> {
            forgone,
            block: &after,
            reached: &reached,
            grew: self.grew,
            direction: PhantomData,
        })
    }

    /// The same, and finds out in which tiles states vanished.
    fn sweep_carefully<D: Direction>(&self, track: &mut Track, scratch: &mut Scratch) -> Settled {
        dispatch_simd(SweepCarefully::<D> {
            block: self,
            track,
            scratch,
            direction: PhantomData,
        })
    }
}

/// [`TilesBlock::sweep_carefully`].
struct SweepCarefully<'a, D> {
    block: &'a TilesBlock<'a>,
    track: &'a mut Track,
    scratch: &'a mut Scratch,
    direction: PhantomData<D>,
}

impl<D: Direction> WithSimd for SweepCarefully<'_, D> {
    type Output = Settled;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Settled {
        self.block
            .sweep::<S, D, true>(simd, self.track, self.scratch)
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
            if !lattice.check::<S>(simd, trial, least, &reached, live.clone()) {
                return false;
            }
            begins = false;
        }
        true
    }
}

/// Gives each of the live tiles of `from` a new exponent and stores the result in `to`.
#[inline(always)]
pub(crate) fn scale_tiles<S: Simd, D: Direction>(
    simd: S,
    from: &Row,
    to: &mut Row,
    live: Range<usize>,
    top: f64,
) {
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
}

/// Sets to 0 each state of the live tiles that is below 2^`least` even when multiplied by the largest scale of the
/// other direction that it can meet: that of its own tile or of the next, since in a block it moves at most one tile
/// ahead. `over` holds these scales.
#[inline(always)]
pub(crate) fn drop_below<S: Simd, D: Direction>(
    simd: S,
    row: &mut Row,
    live: Range<usize>,
    least: i64,
    over: &[Scale],
) {
    for b in live.clone() {
        let by = scale_ahead::<D>(over, &live, b);
        let least = whole_pow2(least - row.scales[b].exponent - by);
        zero_below(simd, &mut row.numbers[b], least);
    }
}

/// Sets the states of a tile that are below `least` to 0.
#[inline(always)]
pub(crate) fn zero_below<S: Simd>(simd: S, tile: &mut Tile, least: f64) {
    let (zero, least) = (simd.splat_f64s(0.0), simd.splat_f64s(least));
    let mut states = States::load(simd, tile);
    for v in 0..vectors::<S>() {
        for state in [&mut states.blank[v], &mut states.label[v]] {
            *state = simd.select_f64s(simd.less_than_f64s(*state, least), zero, *state);
        }
    }
    states.store(simd, tile);
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
