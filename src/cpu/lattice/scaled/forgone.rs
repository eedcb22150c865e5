//! A bound on the states that a direction has lost on purpose, and its growth.

use super::*;

/// The states of a direction that were lost because they were not expected to matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forgone {
    /// Exponent of the bound on the total, including its growth so far.
    pub exponent: f64,
    /// Growth so far in binary orders, and the frames over which it was measured.
    pub grew: f64,
    pub frames: f64,
}

pub(crate) const NOTHING_FORGONE: Forgone = Forgone {
    exponent: EMPTY_EXP,
    grew: 0.0,
    frames: 0.0,
};

impl Default for Forgone {
    fn default() -> Self {
        NOTHING_FORGONE
    }
}

impl Forgone {
    /// Advances the bound by the frames of a block. A state flows to at most three states of different classes, itself
    /// among them.
    #[inline(always)]
    pub fn grow<R: Real>(&mut self, table: &Table<R>, block: usize, frames: usize) {
        if table.kind(block).is_raw() {
            self.grow_with(table.wide(block), frames);
        } else {
            self.grow_with(table.block(block), frames);
        }
    }

    #[inline(always)]
    pub fn grow_with<R: Real>(&mut self, emissions: &[[R; BLOCK_FRAMES]], frames: usize) {
        let mut sums = [0.0; BLOCK_FRAMES];
        for emission in emissions {
            for k in 0..BLOCK_FRAMES {
                sums[k] += emission[k].widen();
            }
        }
        let mut product = 1.0;
        for k in 0..frames {
            product *= sums[k].min(3.0);
        }
        let orders = exponent_of(product) + 1.0;
        if self.exponent > EMPTY_EXP {
            self.exponent += orders;
        }
        self.grew += orders;
        self.frames += frames as f64;
    }

    /// Whether `lost` may be forgone, after `consumed` frames and with `left` frames up to the middle, when the largest
    /// state is at 2^`largest`; if so, raises the bound. This is a guess, which [`ScaledLattice::certain`] later checks
    /// against `P`: that until the middle the largest state shrinks and the bound grows, per frame, at most 1.5 times as
    /// fast as so far. The margin of three guards is for the other direction. With `drop`, smaller states may be set to
    /// 0 from here on, too.
    pub fn may_add(
        &mut self,
        (lost, drop): (f64, bool),
        largest: f64,
        consumed: f64,
        left: f64,
    ) -> bool {
        if lost <= self.exponent {
            return true;
        }
        let grows = 1.5 * left * self.grew / self.frames.max(1.0);
        let shrinks = 1.5 * left * (largest / consumed).min(0.0);
        let most = largest + shrinks - grows - 3.0 * range::GUARD;
        if lost < most && drop {
            // More than this block lost, so that small states are dropped from here on before they become subnormal.
            self.exponent = lost.max(most.min(largest - range::DROPPED + range::COUNT));
        } else if lost < most {
            self.exponent = lost;
        }
        lost < most
    }

    /// States below this exponent are negligible next to everything forgone.
    pub fn negligible(&self) -> i64 {
        (self.exponent - range::COUNT) as i64
    }
}
