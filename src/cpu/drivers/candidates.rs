//! Many transcripts of one item: the emissions are converted once for all of them.
//!
//! 1. The labels that any candidate uses, each once, form one combined "target", whose emissions are a compact table of
//!    a few frames.
//! 2. Each candidate sweeps one direction of its own lattice through those frames, reading its emissions from the
//!    table. The two directions run in parallel, each with its own table.
//! 3. When the directions have met, `P` is computed.
//!
//! Only the table of the current frames and two rows of states per candidate are in memory. Equal candidates are
//! computed once.
//!
//! Prefixes. Candidates with a common prefix have the same alpha up to the end of the prefix, at every frame; common
//! suffixes likewise share beta. A list of candidates that differ in one place, anywhere, could so save half of its
//! steps on average, but candidates that differ in several places save much less: only the parts before the first and
//! after the last change are common. So lattices are kept separate, and only equal candidates are shared.

use crate::cpu::drivers::item::{both, item, loss_from};
use crate::cpu::emissions::gather::GatherScratch;
use crate::cpu::emissions::gather::Source;
use crate::cpu::emissions::table::{EmissionWindow, Entries, Table};
use crate::cpu::lattice::scaled::{
    FEWEST_INTERLEAVED, INTERLEAVED, Interleaved, Lane, OutOfRange, ScaledLattice, Scratch, Track,
};
use crate::cpu::simd::real::{Element, Real};
use crate::cpu::threads::{Threads, run_jobs};
use crate::cpu::time::{BLOCK_FRAMES, Backward, Direction, Forward};
use crate::memory::OutOfMemory;
use crate::problem::plan::{Input, Plan, Strides, frames_needed};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

/// Entries of a table: 256 KiB, which stay in the second-level cache.
const TABLE: usize = 1 << 16;

/// `ln P` of each candidate for item `n` of the plan, whose own target is ignored.
pub(crate) fn score<E: Element, S: AsRef<[u32]> + Sync>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    candidates: &[S],
) -> Result<Vec<f64>, OutOfMemory> {
    let frames = plan.input_lengths[n];
    let mut distinct: BTreeMap<&[u32], f64> = candidates
        .iter()
        .map(|candidate| (candidate.as_ref(), f64::NEG_INFINITY))
        .collect();
    if frames == 0 {
        if let Some(empty) = distinct.get_mut([].as_slice()) {
            *empty = 0.0;
        }
    } else {
        let targets: Vec<&[u32]> = distinct.keys().copied().collect();
        let scores = together(plan, data, strides, n, &targets);
        // Candidates that failed are computed one by one, like a loss: an entry that only some candidates use is NaN,
        // infinite or too far from the others, or states are too far apart.
        let mut missing: Vec<(&[u32], Result<&mut f64, OutOfMemory>)> = Vec::new();
        for ((target, to), score) in distinct.iter_mut().zip(scores) {
            match score {
                Ok(score) => *to = score,
                Err(OutOfRange) => missing.push((*target, Ok(to))),
            }
        }
        let most = usize::MAX;
        run_jobs(
            missing.iter_mut(),
            Threads::Rayon,
            most,
            false,
            |(target, to), buffers| {
                let plan = alone(plan, n, target.to_vec());
                let strides = item_strides(strides, n);
                match item(&plan, data, strides, 0, false, true, buffers) {
                    // 0 − x, so that a certain transcript has 0 and not −0.
                    Ok(item) => {
                        if let Ok(to) = to {
                            **to = 0.0 - item.loss;
                        }
                    }
                    Err(out) => *to = Err(out),
                }
            },
        );
        for (_, scored) in missing {
            scored?;
        }
    }
    let of = |candidate: &S| distinct[candidate.as_ref()];
    Ok(candidates.iter().map(of).collect())
}

/// The plan of item `n` alone, with another target.
fn alone(plan: &Plan, n: usize, target: Vec<u32>) -> Plan {
    Plan {
        input: Input {
            batch: 1,
            layout: None,
            ..plan.input
        },
        input_lengths: vec![plan.input_lengths[n]],
        label_offsets: vec![0, target.len()],
        labels: target,
    }
}

fn item_strides(strides: Strides, n: usize) -> Strides {
    Strides {
        offset: strides.offset + n * strides.item,
        ..strides
    }
}

/// Scores all candidates on one table.
fn together<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    targets: &[&[u32]],
) -> Vec<Result<f64, OutOfRange>> {
    let frames = plan.input_lengths[n];
    let mut used: Vec<u32> = targets.concat();
    used.sort_unstable();
    used.dedup();
    let all = alone(plan, n, used);
    let source = Source::new(&all, data, item_strides(strides, n), 0, &all.labels);
    // `None` for a target that does not fit into the frames.
    let mut lattices: Vec<Option<ScaledLattice>> = targets
        .iter()
        .map(|target| {
            (frames_needed(target) <= frames).then(|| {
                let column = |label| all.labels.partition_point(|&other| other < label) as u32;
                let columns: Vec<u32> = target.iter().map(|&label| column(label)).collect();
                let mut lattice = ScaledLattice::default();
                lattice.prepare(frames, target, &columns, source.entries());
                // The same as interleaved lattices, which have no other level: the rest is computed alone, so that
                // scores do not depend on the other candidates.
                lattice.coarse_only = true;
                lattice
            })
        })
        .collect();
    // With two threads, each takes one direction, and neither waits for the other.
    let threads = rayon::current_num_threads().div_ceil(2);
    let all_of = |lattices: &[Option<ScaledLattice>], zeros| {
        let (early, late) = both(
            true,
            || sweep::<Forward, E>(&source, lattices, threads, zeros),
            || sweep::<Backward, E>(&source, lattices, threads, zeros),
        );
        Ok((early?, late?))
    };
    let swept = all_of(&lattices, false).or_else(|OutOfRange| {
        for lattice in lattices.iter_mut().flatten() {
            lattice.forgoes = true;
        }
        all_of(&lattices, true)
    });
    let Ok((early, late)) = swept else {
        return vec![Err(OutOfRange); targets.len()];
    };
    let log_scale = early.read.log_scale_with(&late.read);
    let scores = lattices.iter().enumerate().map(|(i, lattice)| {
        let Some(lattice) = lattice else {
            return Ok(f64::NEG_INFINITY);
        };
        let (alpha, beta) = (early.track(i)?, late.track(i)?);
        let met = lattice.join_directions(alpha, beta);
        if !lattice.certain(alpha, beta, met) {
            return Err(OutOfRange);
        }
        let log_p = met.ln() + log_scale;
        Ok(0.0 - loss_from(log_p, frames, plan.input.kind, E::Real::EPSILON))
    });
    scores.collect()
}

/// One direction of all candidates.
struct Swept<R> {
    tracks: Vec<Track>,
    in_range: Vec<Result<(), OutOfRange>>,
    read: EmissionWindow<R>,
}

impl<R> Swept<R> {
    fn track(&self, i: usize) -> Result<&Track, OutOfRange> {
        self.in_range[i].map(|()| &self.tracks[i])
    }
}

/// One candidate in progress.
struct Candidate<'a> {
    lattice: &'a ScaledLattice,
    track: &'a mut Track,
    in_range: &'a mut Result<(), OutOfRange>,
}

/// Some of the candidates, interleaved or one after another.
struct CandidateGroup<'a> {
    interleaved: Option<Interleaved>,
    candidates: Vec<Candidate<'a>>,
}

impl CandidateGroup<'_> {
    fn sweep<D: Direction, R: Real>(
        &mut self,
        blocks: Range<usize>,
        table: Table<R>,
        scratch: &mut Scratch,
    ) {
        let Some(interleaved) = &mut self.interleaved else {
            for Candidate {
                lattice,
                track,
                in_range,
            } in &mut self.candidates
            {
                if in_range.is_ok() {
                    let swept = lattice.sweep::<D, _>(track, blocks.clone(), table, false, scratch);
                    **in_range = swept.map_err(|_| OutOfRange);
                }
            }
            return;
        };
        let lanes = self.candidates.iter_mut().map(|candidate| Lane {
            lattice: candidate.lattice,
            track: candidate.track,
            blocks: blocks.clone(),
            table,
        });
        let mut lanes: Vec<Lane<R>> = lanes.collect();
        interleaved.sweep::<D, _>(&mut lanes);
        for (j, candidate) in self.candidates.iter_mut().enumerate() {
            *candidate.in_range = interleaved.in_range_of_lane(j);
        }
    }
}

/// Sweeps one direction of all lattices up to the middle. [`OutOfRange`] if an entry is NaN, +inf or masked, or if
/// entries are too far apart for emissions in f64. With `zeros`, emissions of [`Entries::Raw`] blocks that are 0 because
/// they are too small are allowed, and lattices are not interleaved.
fn sweep<D: Direction, E: Element>(
    source: &Source<E>,
    lattices: &[Option<ScaledLattice>],
    threads: usize,
    zeros: bool,
) -> Result<Swept<E::Real>, OutOfRange> {
    let mut swept = Swept {
        tracks: lattices.iter().map(|_| Track::default()).collect(),
        in_range: vec![Ok(()); lattices.len()],
        read: EmissionWindow::default(),
    };
    let tracks = swept.tracks.iter_mut().zip(&mut swept.in_range);
    let mut candidates: Vec<Candidate> = lattices
        .iter()
        .zip(tracks)
        .filter_map(|(lattice, (track, in_range))| {
            let lattice = lattice.as_ref()?;
            lattice.start::<D>(track);
            Some(Candidate {
                lattice,
                track,
                in_range,
            })
        })
        .collect();
    candidates.sort_by_key(|candidate| Reverse(candidate.lattice.labels()));
    let interleaved = !zeros && candidates.len() >= INTERLEAVED * threads;
    let share = if interleaved {
        INTERLEAVED
    } else {
        candidates.len().div_ceil(4 * threads).max(1)
    };
    let mut groups = Vec::new();
    while !candidates.is_empty() {
        let rest = candidates.split_off(share.min(candidates.len()));
        let group = CandidateGroup {
            interleaved: (interleaved && candidates.len() >= FEWEST_INTERLEAVED).then(|| {
                let mut interleaved = Interleaved::default();
                interleaved.start::<D>(candidates.iter().map(|candidate| candidate.lattice));
                interleaved
            }),
            candidates,
        };
        groups.push(group);
        candidates = rest;
    }
    let (blocks, entries) = (source.blocks(), source.entries());
    let (mut read, mut gather_scratch) = (EmissionWindow::default(), GatherScratch::default());
    let at_once = (TABLE / (BLOCK_FRAMES * entries)).clamp(1, 64);
    for some in blocks.chunks::<D>(at_once) {
        let table = source
            .read::<D>(
                some.clone(),
                None,
                &mut read,
                &mut gather_scratch,
                threads > 1,
            )
            .map_err(|_| OutOfRange)?;
        // A masked entry may be a finite one that only counts as −inf beside an entry of another candidate.
        let here = |kind: &Entries| {
            kind.all_above_zero() || (zeros && kind.is_raw() && !kind.depth().masked)
        };
        if !table.kinds.iter().all(here) {
            return Err(OutOfRange);
        }
        run_jobs(
            groups.iter_mut(),
            Threads::Rayon,
            threads,
            false,
            |group, scratch| group.sweep::<D, _>(some.clone(), table, scratch),
        );
    }
    swept.read = read;
    Ok(swept)
}
