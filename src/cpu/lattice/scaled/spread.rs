//! The emissions of a block, spread to the pairs of the lattice.

use super::*;

/// The emissions of a block, laid out as the tiles read them.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// `[tile][frame]`
    pub labels: Vec<Tile8x8>,
    pub blanks: [f64; BLOCK_FRAMES],
    pub exponents: SpreadExponents,
    /// For each entry, the emissions of a raw block in the posterior pass.
    pub wide: Vec<[f64; BLOCK_FRAMES]>,
}

/// [`Spread::set`].
pub(crate) struct SetPlain<'a, R> {
    pub spread: &'a mut Spread,
    pub lattice: &'a ScaledLattice,
    pub block: &'a [[R; BLOCK_FRAMES]],
    pub live: Range<usize>,
}

impl<R: Real> WithSimd for SetPlain<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.spread.set(simd, self.lattice, self.block, self.live);
    }
}

impl Spread {
    /// [`Self::set`], dispatched to the instruction set in use.
    pub fn set_plain<R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        block: &[[R; BLOCK_FRAMES]],
        live: &Range<usize>,
    ) {
        dispatch_simd(SetPlain {
            spread: self,
            lattice,
            block,
            live: live.clone(),
        });
    }

    /// [`Self::set`] with the emissions of raw entries.
    pub fn set_raw<R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        block: &[[R; BLOCK_FRAMES]],
        live: &Range<usize>,
    ) {
        let mut wide = std::mem::take(&mut self.wide);
        wide.resize(block.len(), [0.0; BLOCK_FRAMES]);
        raw_emissions(block, &mut wide);
        self.set_plain(lattice, &wide, live);
        self.wide = wide;
    }

    /// [`Self::set`] with emissions, or with those of raw entries.
    pub fn set_any<R: Real>(
        &mut self,
        lattice: &ScaledLattice,
        (block, raw): (&[[R; BLOCK_FRAMES]], bool),
        live: &Range<usize>,
    ) {
        if raw {
            self.set_raw(lattice, block, live);
        } else {
            self.set_plain(lattice, block, live);
        }
    }

    /// Spreads the emissions of a block to the pairs of the live tiles.
    #[inline(always)]
    pub fn set<S: Simd, R: Real>(
        &mut self,
        simd: S,
        lattice: &ScaledLattice,
        block: &[[R; BLOCK_FRAMES]],
        live: Range<usize>,
    ) {
        self.labels
            .resize(lattice.places.len(), [ZEROS; BLOCK_FRAMES]);
        for k in 0..BLOCK_FRAMES {
            self.blanks[k] = block[lattice.entries - 1][k].widen();
        }
        let block = &block[..lattice.entries];
        for b in live {
            let mut entries = [ZEROS; PAIRS];
            for i in 0..PAIRS {
                // SAFETY: `prepare` has checked that all places are below `entries`.
                let entry = unsafe { block.get_unchecked(lattice.places[b][i] as usize) };
                for k in 0..BLOCK_FRAMES {
                    entries[i].0[k] = entry[k].widen();
                }
            }
            // Pairs after the last label have no emission.
            for i in lattice.labels.saturating_sub(b * PAIRS)..PAIRS {
                entries[i] = ZEROS;
            }
            self.labels[b] = transpose(simd, &entries);
        }
    }
}
