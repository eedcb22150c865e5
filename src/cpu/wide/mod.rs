//! A lattice of numbers with exponents of their own, for items that the tiles do not hold: masked
//! entries, and entries so far apart that states of neighbouring labels leave the range of f64.
//!
//! It is three to five times as slow as the tiles, as exact, and has no range to leave.

mod emission;
mod lattice;
mod number;

pub(super) use emission::Emissions;
pub(super) use lattice::{Direction, Lattice, Rows};
pub(super) use number::{ZERO_BELOW, ZERO_EXP};

use super::emission::Found;
use super::real::{Element, Real};
use super::{Kept, Problem, Solved, both};

/// Frames whose emissions are in memory at a time.
const CHUNK: usize = 32;

/// Working memory of one direction.
#[derive(Default)]
struct Way {
    /// Up to the middle.
    rows: Rows,
    /// Past it.
    walk: Rows,
    emissions: Emissions,
}

impl<E: Element> Problem<'_, E> {
    /// `ln P`, NaN where an entry is no number, and with `keep` the posteriors.
    pub(super) fn in_wide(&self, keep: bool) -> Solved<E> {
        let mut kept = keep.then(|| self.gather_all());
        let lattice = Lattice::new(self.frames(), self.plan.target(self.n));
        let (mut forward, mut backward) = (Way::default(), Way::default());
        let input = kept.as_ref();
        let (early, late) = both(
            self.split,
            || self.wide_sweep(&lattice, Direction::Forward, &mut forward, input),
            || self.wide_sweep(&lattice, Direction::Backward, &mut backward, input),
        );
        let found = early.and(late);
        if found.poisoned {
            return (f64::NAN, None);
        }
        let (log_p, top) = lattice.meet(&forward.rows, &backward.rows);
        if log_p == f64::NEG_INFINITY {
            return (log_p, None);
        }
        if let Some(kept) = &mut kept {
            let middle = lattice.middle() * self.source.entries();
            let (early, late) = kept.entries.split_at_mut(middle);
            let (alpha, beta) = (&forward.rows, &backward.rows);
            forward.walk.prepare(&lattice, 0);
            forward
                .walk
                .start_from(alpha, lattice.steps(Direction::Forward));
            backward.walk.prepare(&lattice, 0);
            backward
                .walk
                .start_from(beta, lattice.steps(Direction::Backward));
            let (alpha_on, beta_on) = (&mut forward.walk, &mut backward.walk);
            let (f, b) = (&mut forward.emissions, &mut backward.emissions);
            both(
                self.split,
                || self.wide_walk(&lattice, Direction::Forward, alpha_on, beta, f, top, late),
                || self.wide_walk(&lattice, Direction::Backward, beta_on, alpha, b, top, early),
            );
        }
        (log_p + found.log_scale, kept)
    }

    /// One direction up to the middle.
    fn wide_sweep(
        &self,
        lattice: &Lattice,
        direction: Direction,
        way: &mut Way,
        kept: Option<&Kept<E::Real>>,
    ) -> Found {
        let entries = self.source.entries();
        let steps = lattice.steps(direction);
        let Way {
            rows, emissions, ..
        } = way;
        rows.prepare(lattice, if kept.is_some() { steps } else { 0 });
        rows.start(lattice, direction);
        let mut found = Found::default();
        let mut gathered = Vec::new();
        let mut stats = Vec::new();
        for start in (0..steps).step_by(CHUNK) {
            let end = (start + CHUNK).min(steps);
            let frames = lattice.frames_of(direction, start + 1..end + 1);
            let (input, stats) = match kept {
                Some(kept) => (
                    &kept.entries[frames.start * entries..frames.end * entries],
                    kept.stats.get(frames.clone()).unwrap_or_default(),
                ),
                None => {
                    gathered.resize(frames.len() * entries, E::Real::ZERO);
                    stats.clear();
                    stats.extend(self.source.no_stats(frames.len()));
                    let (to, stats) = (&mut gathered, &mut stats);
                    self.source.gather(frames.start, to, stats, self.split);
                    (gathered.as_slice(), stats.as_slice())
                }
            };
            found = found.and(Found::normalisers(stats));
            found = found.and(emissions.convert(self.used, frames.start, input));
            lattice.sweep(direction, rows, start + 1..end + 1, emissions);
        }
        found
    }

    /// One direction past the middle: `half` holds the entries of the frames there and receives
    /// their posteriors.
    #[allow(clippy::too_many_arguments)]
    fn wide_walk(
        &self,
        lattice: &Lattice,
        direction: Direction,
        rows: &mut Rows,
        other: &Rows,
        emissions: &mut Emissions,
        top: f64,
        half: &mut [E::Real],
    ) {
        let entries = self.source.entries();
        let first = match direction {
            Direction::Forward => lattice.middle(),
            Direction::Backward => 0,
        };
        for start in (lattice.steps(direction)..lattice.frames).step_by(CHUNK) {
            let steps = start + 1..(start + CHUNK).min(lattice.frames) + 1;
            let frames = lattice.frames_of(direction, steps.clone());
            let places = (frames.start - first) * entries..(frames.end - first) * entries;
            let half = &mut half[places];
            // What these frames hold was found on the first pass over them.
            let _ = emissions.convert(self.used, frames.start, half);
            let write = &mut |t: usize, posterior: &[f64]| {
                let place = (t - frames.start) * entries;
                for (to, from) in half[place..place + entries].iter_mut().zip(posterior) {
                    *to = E::Real::narrow(*from);
                }
            };
            let used = self.used;
            lattice.walk_on(direction, rows, steps, other, emissions, top, used, write);
        }
    }
}
