//! A lattice of numbers with exponents of their own, for items that the tiles do not hold: masked
//! entries, and entries so far apart that states of neighbouring labels leave the range of f64.
//!
//! It is three to five times as slow as the tiles, as exact, and has no range to leave.

mod emission;
mod lattice;
mod number;

pub(super) use emission::Emissions;
pub(super) use lattice::{Lattice, Rows};
pub(super) use number::{ZERO_BELOW, ZERO_EXP};

use super::emission::RowBuffers;
use super::real::{Element, Real};
use super::runs::{Backward, Direction, Forward, RUN, Table};
use super::{Half, Kept, Problem, Solved, at_once, both};
use emission::Found;

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
        let mut kept = keep.then(|| self.source.gather_all(self.split));
        let runs = self.source.runs();
        let lattice = Lattice::new(runs.frames, self.plan.target(self.n));
        let (mut forward, mut backward) = (Way::default(), Way::default());
        let halves = kept.as_mut().map(Kept::halves);
        let (early, late) = halves.unzip();
        let (early, late) = both(
            self.split,
            || self.wide_sweep::<Forward>(&lattice, &mut forward, early),
            || self.wide_sweep::<Backward>(&lattice, &mut backward, late),
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
            let (early, late) = kept.halves();
            let (alpha, beta) = (&forward.rows, &backward.rows);
            forward.walk.prepare(&lattice, 0);
            forward.walk.start_from(alpha, lattice.steps::<Forward>());
            backward.walk.prepare(&lattice, 0);
            backward.walk.start_from(beta, lattice.steps::<Backward>());
            let (alpha_on, beta_on) = (&mut forward.walk, &mut backward.walk);
            let (f, b) = (&mut forward.emissions, &mut backward.emissions);
            both(
                self.split,
                || self.wide_walk::<Forward>(&lattice, alpha_on, beta, f, top, late),
                || self.wide_walk::<Backward>(&lattice, beta_on, alpha, b, top, early),
            );
        }
        (log_p + found.log_scale, kept)
    }

    /// One direction up to the middle. `half` holds the entries of its runs, if they are at hand.
    fn wide_sweep<D: Direction>(
        &self,
        lattice: &Lattice,
        way: &mut Way,
        mut half: Option<Half<E::Real>>,
    ) -> Found {
        let (entries, runs) = (self.source.entries(), self.source.runs());
        let Way {
            rows, emissions, ..
        } = way;
        let kept = if half.is_some() {
            lattice.steps::<D>()
        } else {
            0
        };
        rows.prepare(lattice, kept);
        rows.start::<D>(lattice);
        let mut found = Found::default();
        let (mut gathered, mut buffers) = (Vec::new(), RowBuffers::default());
        for some in runs.chunks::<D>(at_once(false)) {
            let frames = runs.frames_of(some.clone());
            let mut fresh = self.source.no_stats(frames.len());
            let (values, stats) = match &mut half {
                Some(half) => half.of(some.clone()),
                None => {
                    gathered.resize(some.len() * entries, [E::Real::ZERO; RUN]);
                    let (to, buffers) = (&mut gathered, &mut buffers);
                    self.source
                        .gather(some.clone(), to, &mut fresh, self.split, buffers);
                    (gathered.as_mut_slice(), fresh.as_mut_slice())
                }
            };
            let table = Table {
                first: some.start,
                entries,
                values,
            };
            found = found.and(emissions.convert(self.used, frames.clone(), table, stats));
            lattice.sweep::<D>(rows, lattice.steps_of::<D>(frames), emissions);
        }
        found
    }

    /// One direction past the middle: `half` holds the entries of the frames there and receives
    /// their posteriors.
    fn wide_walk<D: Direction>(
        &self,
        lattice: &Lattice,
        rows: &mut Rows,
        other: &Rows,
        emissions: &mut Emissions,
        top: f64,
        mut half: Half<E::Real>,
    ) {
        let (entries, runs) = (self.source.entries(), self.source.runs());
        // The other direction's way backward in its own order is this one's way on.
        let mut chunks: Vec<_> = runs.chunks::<D::Other>(at_once(false)).collect();
        chunks.reverse();
        for some in chunks {
            let frames = runs.frames_of(some.clone());
            let (values, _) = half.of(some.clone());
            let table = Table {
                first: some.start,
                entries,
                values: &*values,
            };
            // What these frames hold was found on the first pass over them.
            let _ = emissions.convert(self.used, frames.clone(), table, &[]);
            let write = &mut |t: usize, posterior: &[f64]| {
                let row = (t - some.start * RUN) * entries;
                let row = &mut values.as_flattened_mut()[row..row + entries];
                for (to, &from) in row.iter_mut().zip(posterior) {
                    *to = E::Real::narrow(from);
                }
            };
            let (steps, used) = (lattice.steps_of::<D>(frames), self.used);
            lattice.walk_on::<D>(rows, steps, other, emissions, top, used, write);
        }
    }
}
