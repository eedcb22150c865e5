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
use crate::cpu::emissions::gather::{GatherScratch, LossInput, Source};
use crate::cpu::emissions::table::{EmissionWindow, Table};
use crate::cpu::lattice::scaled::{
    Allowance, FEWEST_INTERLEAVED, INTERLEAVED, Interleaved, Lane, ScaledLattice, Scratch, Track,
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
        // The others are computed one by one, like a loss: an entry that only some candidates use is NaN, infinite or
        // too far from the others.
        let mut missing: Vec<(&[u32], Result<&mut f64, OutOfMemory>)> = Vec::new();
        for ((target, to), score) in distinct.iter_mut().zip(scores) {
            match score {
                Some(score) => *to = score,
                None => missing.push((*target, Ok(to))),
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
                let input = LossInput {
                    data,
                    strides: item_strides(strides, n),
                    weights: None,
                };
                match item(&plan, input, 0, false, true, buffers) {
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

/// Scores the candidates on one table; `None` for those whose score would not be right.
fn together<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    n: usize,
    targets: &[&[u32]],
) -> Vec<Option<f64>> {
    let frames = plan.input_lengths[n];
    let mut used: Vec<u32> = targets.concat();
    used.sort_unstable();
    used.dedup();
    let all = alone(plan, n, used);
    let source = Source::new(&all, data, item_strides(strides, n), 0, &all.labels);
    // A target that does not fit into the frames has probability 0.
    let mut scores = vec![Some(f64::NEG_INFINITY); targets.len()];
    let mut open = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        if frames_needed(target) <= frames {
            let column = |label| all.labels.partition_point(|&other| other < label) as u32;
            let columns: Vec<u32> = target.iter().map(|&label| column(label)).collect();
            let mut lattice = ScaledLattice::default();
            lattice.prepare(frames, target, &columns, source.entries());
            open.push(Open {
                i,
                lattice,
                allowances: Default::default(),
            });
        }
    }
    // With two threads, each takes one direction, and neither waits for the other.
    let threads = rayon::current_num_threads().div_ceil(2);
    // Candidates whose score is not certain after the first sweep are swept once more.
    for interleaved in [true, false] {
        // Entries that are NaN must be found even if no candidate fits.
        if open.is_empty() && !interleaved {
            break;
        }
        let swept = both(
            true,
            || sweep::<Forward, E>(&source, &open, threads, interleaved),
            || sweep::<Backward, E>(&source, &open, threads, interleaved),
        );
        let (Some(early), Some(late)) = swept else {
            return vec![None; targets.len()];
        };
        let log_scale = early.read.log_scale_with(&late.read);
        let mut still_open = Vec::new();
        let tracks = early.tracks.iter().zip(&late.tracks);
        for (mut candidate, (alpha, beta)) in open.into_iter().zip(tracks) {
            let lattice = &candidate.lattice;
            let met = lattice.join_directions(alpha, beta);
            if !lattice.certain(alpha, beta, met) {
                candidate.allowances = lattice.budgets(alpha, beta, met);
                still_open.push(candidate);
            } else if !met.is_zero() {
                let log_p = met.ln() + log_scale;
                let loss = loss_from(log_p, frames, plan.input.kind, E::Real::EPSILON);
                scores[candidate.i] = Some(0.0 - loss);
            }
        }
        open = still_open;
    }
    for Open { i, .. } in open {
        scores[i] = None;
    }
    scores
}

/// A candidate without a score yet.
struct Open {
    /// Its index.
    i: usize,
    lattice: ScaledLattice,
    /// What its two directions may lose.
    allowances: [Allowance; 2],
}

/// One direction of all candidates.
struct Swept<R> {
    tracks: Vec<Track>,
    read: EmissionWindow<R>,
}

/// One candidate in progress.
struct Candidate<'a> {
    lattice: &'a ScaledLattice,
    track: &'a mut Track,
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
            for Candidate { lattice, track } in &mut self.candidates {
                let swept = lattice.sweep::<D, _>(track, blocks.clone(), table, false, scratch);
                swept.expect("nothing is kept");
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
    }
}

/// Sweeps one direction of all candidates up to the middle, interleaved if there are enough. `None` if an entry is NaN
/// or +inf, or may count as −inf only because the list has an entry far above it.
fn sweep<D: Direction, E: Element>(
    source: &Source<E>,
    open: &[Open],
    threads: usize,
    interleaved: bool,
) -> Option<Swept<E::Real>> {
    let mut swept = Swept {
        tracks: open.iter().map(|_| Track::default()).collect(),
        read: EmissionWindow::default(),
    };
    let tracks = open.iter().zip(&mut swept.tracks);
    let mut candidates: Vec<Candidate> = tracks
        .map(
            |(
                Open {
                    lattice,
                    allowances,
                    ..
                },
                track,
            )| {
                let [forward, backward] = allowances;
                let allowance = if D::FORWARD { forward } else { backward };
                lattice.start::<D>(track, allowance.clone());
                Candidate { lattice, track }
            },
        )
        .collect();
    candidates.sort_by_key(|candidate| Reverse(candidate.lattice.labels()));
    let interleaved = interleaved && candidates.len() >= INTERLEAVED * threads;
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
            .ok()?;
        // A masked entry of a block of raw entries may be a finite one.
        if table
            .kinds
            .iter()
            .any(|kind| kind.is_raw() && kind.depth().masked)
        {
            return None;
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
    Some(swept)
}
