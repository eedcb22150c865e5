//! The best path of each item, by a kernel in f64. It does the same sums as `cpu/lattice/viterbi` and breaks ties alike.

use super::{
    Arg, Backend, Content, MOST_BYTES, Rows, Sizes, check_sizes, gather, launch, on_gpu, product,
    real, word,
};
use crate::cpu::Path;
use crate::memory::room_for;
use crate::problem::plan::{Input, Plan, Strides};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Result, Tensor, bail};
use std::ops::Range;

/// Frames between kept rows: `CTC_SEGMENT`.
const SEGMENT: usize = 2048;
/// Inputs with more frames than this are left to the host: the kernel counts frames with 32 bits.
const MOST_FRAMES: usize = 1 << 30;

/// The best path of each item. A target that does not fit must come without frames: its path is empty. `None` if the
/// tensor is on the CPU or its device has no f64; or if an item has no path, or a NaN or +inf where it is used: the host
/// finds out which.
pub(crate) fn best_paths(plan: &Plan, input: &Tensor) -> Result<Option<Vec<Path>>> {
    if plan.input.frames > MOST_FRAMES {
        return Ok(None);
    }
    let dtype = input.dtype();
    let paths: Option<Result<Option<Vec<Path>>>> = on_gpu!(input, |backend, storage, layout| {
        paths_on(backend, plan, storage, dtype, plan.input.strides(layout))
    });
    Ok(paths.transpose()?.flatten())
}

/// The target of an item, without labels if it has no frames: those of a target that does not fit would take memory for
/// each item.
fn target(plan: &Plan, n: usize) -> &[u32] {
    match plan.input_lengths[n] {
        0 => &[],
        _ => plan.target(n),
    }
}

/// What the kernel needs for each item.
struct Room {
    frames: usize,
    labels: usize,
    /// Pairs of which a segment's frames keep the origins.
    window: usize,
    /// Rows that are kept between segments.
    kept_rows: usize,
}

impl Room {
    fn new(plan: &Plan, items: Range<usize>) -> Self {
        let most = |of: &dyn Fn(usize) -> usize| items.clone().map(of).max().unwrap_or(0);
        let frames = most(&|n| plan.input_lengths[n]);
        let labels = most(&|n| target(plan, n).len());
        let segment = frames.min(SEGMENT);
        Self {
            frames,
            labels,
            // A path that ends in one of two pairs comes from one of `segment + 1`.
            window: (labels + 1).min(segment + 1),
            kept_rows: frames.div_ceil(SEGMENT).saturating_sub(2),
        }
    }

    /// Numbers in f64 kept for each item, and its bytes of origins.
    fn kept(&self) -> Result<usize> {
        product(&[self.kept_rows, 2, self.labels + 1])
    }

    fn notes(&self) -> Result<usize> {
        product(&[self.frames.min(SEGMENT), self.window])
    }

    fn bytes(&self) -> Result<usize> {
        Ok(self.kept()?.saturating_mul(8).saturating_add(self.notes()?))
    }
}

fn paths_on<B: Backend>(
    backend: &B,
    plan: &Plan,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
) -> Result<Option<Vec<Path>>> {
    if !B::F64 || plan.input_lengths.iter().all(|&frames| frames == 0) {
        return Ok(None);
    }
    check_sizes(&plan.input)?;
    let whole = Room::new(plan, 0..plan.input.batch);
    let together = (MOST_BYTES / whole.bytes()?.max(1)).clamp(1, plan.input.batch);
    let mut paths = Vec::with_capacity(plan.input.batch);
    for first in (0..plan.input.batch).step_by(together) {
        let items = first..plan.input.batch.min(first + together);
        match some_paths(backend, plan, items, input, dtype, strides)? {
            Some(some) => paths.extend(some),
            None => return Ok(None),
        }
    }
    Ok(Some(paths))
}

fn some_paths<B: Backend>(
    backend: &B,
    plan: &Plan,
    items: Range<usize>,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
) -> Result<Option<Vec<Path>>> {
    let room = Room::new(plan, items.clone());
    if room.frames == 0 {
        return Ok(Some(items.map(|_| Path::default()).collect()));
    }
    let (batch, frames) = (items.len(), room.frames);
    let strides = Strides {
        offset: strides.offset + items.start * strides.item,
        ..strides
    };
    let input_of = Input {
        batch,
        frames,
        ..plan.input
    };
    let sizes = Sizes::new(&input_of, room.labels, 1).reading(strides);
    let real = real(dtype);
    let table = table(plan, items.clone(), room.labels)?;
    let rows = product(&[batch, frames])?;
    let (launch, spilled) = launch::best_path(dtype, &sizes, backend.shared_bytes());
    let spilled_rows = product(&[if spilled { batch } else { 1 }, 4, room.labels + 1])?;
    let stats_of = if sizes.is_logits() { rows } else { 1 };
    let [tables, mut spilled_states, mut kept, mut notes, mut stats] = backend.memory([
        Content::Words(&table),
        Content::Room(if spilled { spilled_rows } else { 1 }, DType::F64),
        Content::Room(product(&[batch, room.kept()?])?.max(1), DType::F64),
        Content::Room(product(&[batch, room.notes()?])?, DType::U8),
        Content::Room(product(&[stats_of, 2])?, real),
    ])?;
    if sizes.is_logits() {
        row_sums(backend, &sizes, input, dtype, &table[..batch], &mut stats)?;
    }
    let mut states = backend.allocate(rows, DType::U32)?;
    let mut scores = backend.allocate(rows, real)?;
    let mut found = backend.allocate(batch, DType::U32)?;
    // SAFETY: the arguments are those of the kernel. The buffers hold for each item what `Room` counts; the window is
    // that of the longest target, and no item has more frames than `sizes`.
    unsafe {
        backend.launch(
            &launch,
            &mut [
                Arg::Sizes(sizes),
                Arg::In(input),
                Arg::From(&tables),
                Arg::From(&stats),
                Arg::To(&mut spilled_states),
                Arg::To(&mut kept),
                Arg::To(&mut notes),
                Arg::I64(room.window as i64),
                Arg::U32(spilled.into()),
                Arg::Out(&mut states),
                Arg::Out(&mut scores),
                Arg::Out(&mut found),
            ],
        )?;
    }
    let (CpuStorage::U32(states), CpuStorage::U32(found)) =
        (backend.read(&states)?, backend.read(&found)?)
    else {
        bail!("forced_align: states are read as u32")
    };
    let its_frames = |n: usize| plan.input_lengths[n];
    if items
        .clone()
        .zip(&found)
        .any(|(n, &found)| its_frames(n) > 0 && found == 0)
    {
        return Ok(None);
    }
    let of_item = |n: usize| (n - items.start) * frames..(n - items.start) * frames + its_frames(n);
    let paths = match backend.read(&scores)? {
        CpuStorage::F32(scores) => items
            .clone()
            .map(|n| path(&states[of_item(n)], &scores[of_item(n)], |y| y, f64::from))
            .collect(),
        CpuStorage::F64(scores) => items
            .clone()
            .map(|n| {
                path(
                    &states[of_item(n)],
                    &scores[of_item(n)],
                    |y| y as f32,
                    |y| y,
                )
            })
            .collect(),
        other => bail!("forced_align: scores of dtype {:?}", other.dtype()),
    };
    Ok(Some(paths))
}

/// A path, of which the score is added up in the order of the recursion.
fn path<M: Copy>(
    states: &[u32],
    scores: &[M],
    narrow: impl Fn(M) -> f32,
    widen: impl Fn(M) -> f64,
) -> Path {
    Path {
        states: states.to_vec(),
        frame_scores: scores.iter().map(|&score| narrow(score)).collect(),
        score: scores.iter().fold(0.0, |sum, &score| sum + widen(score)),
    }
}

/// The maximum of each row of logits and its sum of exponentials.
fn row_sums<B: Backend>(
    backend: &B,
    sizes: &Sizes,
    input: &B::Storage,
    dtype: DType,
    frames: &[u32],
    stats: &mut B::Memory,
) -> Result<()> {
    let (batch, rows) = (
        frames.len(),
        product(&[frames.len(), sizes.frames as usize])?,
    );
    let real = real(dtype);
    let word = word(real);
    // Lengths, and no labels: the kernel then gathers the blank alone.
    let mut words = vec![0; 4 * batch];
    words[..batch].copy_from_slice(frames);
    let [tables, mut emissions, mut records] = backend.memory([
        Content::Words(&words),
        Content::Room(product(&[rows, 2])?, word),
        Content::Room(product(&[rows, 3])?, real),
    ])?;
    let gathered = Rows {
        emissions: &mut emissions,
        records: &mut records,
        stats,
    };
    // SAFETY: the tables are those of `sizes`, which has one entry a row, and the memory has room for each row.
    unsafe { gather(backend, sizes, (input, dtype), &tables, None, gathered) }
}

/// The frames and the labels of each item, and the labels themselves in rows of `labels`.
fn table(plan: &Plan, items: Range<usize>, labels: usize) -> Result<Vec<u32>> {
    let shape = [items.len(), labels.saturating_add(2)];
    let mut words = room_for("forced_align: the table of the targets", &shape)?;
    // Lengths have been checked to be below 2^31.
    words.extend(items.clone().map(|n| plan.input_lengths[n] as u32));
    words.extend(items.clone().map(|n| target(plan, n).len() as u32));
    for target in items.map(|n| target(plan, n)) {
        words.extend_from_slice(target);
        words.resize(words.len() + labels - target.len(), 0);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{InputKind, InputLayout};

    #[test]
    fn a_target_without_frames_takes_no_room() {
        let plan = Plan {
            input: Input {
                frames: 9,
                batch: 2,
                classes: 8,
                blank: 0,
                layout: Some(InputLayout::TimeMajor),
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![9, 0],
            labels: vec![7, 3, 1, 1, 1, 1, 1],
            label_offsets: vec![0, 2, 7],
        };
        let room = Room::new(&plan, 0..2);
        assert_eq!((room.labels, room.window), (2, 3));
        let table = table(&plan, 0..2, room.labels).unwrap();
        assert_eq!(table, [9, 0, /**/ 2, 0, /**/ 7, 3, /**/ 0, 0]);
    }
}
