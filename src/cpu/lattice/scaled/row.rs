//! A row of the lattice: the states of one frame, tile by tile.

use super::*;

/// One value for each state of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Tile {
    pub blank: Pairs,
    pub label: Pairs,
}

pub(crate) const EMPTY: Tile = Tile {
    blank: ZEROS,
    label: ZEROS,
};

/// The exponent shared by the numbers of a tile: a state is `number · 2^exponent`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub exponent: i64,
    /// The factor on the flow into the tile from the tile before it.
    pub factor: f64,
}

pub(crate) const UNSCALED: Scale = Scale {
    exponent: 0,
    factor: 1.0,
};

/// A row of the lattice, tile by tile.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub numbers: Vec<Tile>,
    /// Whether the numbers of a tile share an exponent, in `scales`. Otherwise each has its own, in `exponents`: a
    /// state is `number · 2^exponent`. Few rows ever need `exponents`, so these have no memory until then.
    pub uniform: bool,
    pub scales: Vec<Scale>,
    pub exponents: Vec<Tile>,
}

/// The exponents of a tile of zeros.
pub(crate) const FAR: Tile = Tile {
    blank: Pairs([EMPTY_EXP; PAIRS]),
    label: Pairs([EMPTY_EXP; PAIRS]),
};

impl Row {
    pub fn resize(&mut self, tiles: usize) {
        self.numbers.resize(tiles, EMPTY);
        self.scales.resize(tiles, UNSCALED);
        self.exponents.resize(tiles, FAR);
    }

    /// Sets all states to zero. A zero may have any exponent.
    pub fn clear(&mut self, tiles: usize) {
        self.numbers.clear();
        self.numbers.resize(tiles, EMPTY);
        self.scales.clear();
        self.scales.resize(tiles, UNSCALED);
        self.uniform = true;
    }

    /// Marks the numbers of each tile as sharing an exponent.
    #[inline(always)]
    pub fn set_uniform(&mut self) {
        // Write only on change: the row is swapped with another soon after, which would wait for the store of this
        // byte.
        if !self.uniform {
            self.uniform = true;
        }
    }

    /// The exponents of tile `b`.
    #[inline(always)]
    pub fn exponents_of(&self, b: usize) -> Tile {
        if self.uniform {
            let exponent = self.scales[b].exponent as f64;
            let exponents = Pairs([exponent; PAIRS]);
            Tile {
                blank: exponents,
                label: exponents,
            }
        } else {
            self.exponents[b]
        }
    }

    /// Sets `smallest`, by tile, to the smallest number of `scaled` whose state is not 0 here; to 0 if scaling made such
    /// a state 0.
    #[inline(never)]
    pub fn smallest_of(&self, scaled: &Row, tiles: Range<usize>, smallest: &mut Vec<Pairs>) {
        smallest.resize(self.numbers.len(), ZEROS);
        for b in tiles {
            let (n, e, scaled) = (&self.numbers[b], self.exponents_of(b), &scaled.numbers[b]);
            let mut of_tile = Pairs([1.0; PAIRS]);
            for (n, e, scaled) in [
                (&n.blank, &e.blank, &scaled.blank),
                (&n.label, &e.label, &scaled.label),
            ] {
                for k in 0..PAIRS {
                    let alive = (n.0[k] > 0.0) & (e.0[k] > EMPTY_EXP_BELOW);
                    let number = if alive { scaled.0[k] } else { 1.0 };
                    let smaller = number < of_tile.0[k];
                    of_tile.0[k] = if smaller { number } else { of_tile.0[k] };
                }
            }
            smallest[b] = of_tile;
        }
    }

    /// The exponent of the largest state of some tiles.
    pub fn largest_exponent(&self, tiles: Range<usize>) -> f64 {
        let mut largest = EMPTY_EXP;
        for b in tiles {
            let (n, e) = (&self.numbers[b], self.exponents_of(b));
            for (n, e) in [(&n.blank, &e.blank), (&n.label, &e.label)] {
                for k in 0..PAIRS {
                    if n.0[k] > 0.0 {
                        largest = largest.max(exponent_of(n.0[k]) + e.0[k]);
                    }
                }
            }
        }
        largest
    }

    /// Gives each state of the live tiles its own exponent.
    #[inline(always)]
    pub fn separate(&mut self, live: Range<usize>) {
        if self.uniform {
            self.exponents.resize(self.numbers.len(), FAR);
            for b in live {
                self.exponents[b] = self.exponents_of(b);
            }
            self.uniform = false;
        }
    }

    /// Copies the live tiles of `other`, giving each state its own exponent.
    #[inline(always)]
    pub fn separate_from(&mut self, other: &Row, live: Range<usize>) {
        self.numbers[live.clone()].copy_from_slice(&other.numbers[live.clone()]);
        self.exponents.resize(self.numbers.len(), FAR);
        for b in live {
            self.exponents[b] = other.exponents_of(b);
        }
        self.uniform = false;
    }

    /// Copies `other`.
    pub fn copy_from(&mut self, other: &Row) {
        self.numbers.clone_from(&other.numbers);
        self.scales.clone_from(&other.scales);
        if !other.uniform {
            self.exponents.clone_from(&other.exponents);
        }
        self.uniform = other.uniform;
    }
}
