//! The log-likelihoods of the candidates of each utterance. The candidates of an utterance share its rows: one launch
//! gathers the emissions of all classes that any of them uses, and one runs the lattice of each candidate.

use super::{Arg, Backend, Content, Sizes, check_sizes, launch, on_gpu, product, real};
use crate::memory::room_for;
use crate::problem::labels::Classes;
use crate::problem::plan::{Input, Plan, Strides, frames_needed};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Result, Tensor, bail};

/// For each item of a plan without targets, the log-likelihood of each of its candidates, whose labels have been
/// checked; +0 and −∞ are exact. `None` if the tensor is on the CPU, or if a score is NaN: a NaN in an entry that one
/// candidate uses spoils the others here.
pub(crate) fn scores(
    plan: &Plan,
    log_probs: &Tensor,
    lists: &[Vec<&[u32]>],
) -> Result<Option<Vec<Vec<f64>>>> {
    let dtype = log_probs.dtype();
    let scores: Option<Result<Vec<Vec<f64>>>> = on_gpu!(log_probs, |backend, storage, layout| {
        scores_on(
            backend,
            plan,
            storage,
            dtype,
            plan.input.strides(layout),
            lists,
        )
    });
    let scores = scores.transpose()?;
    Ok(scores.filter(|scores| scores.iter().flatten().all(|score| !score.is_nan())))
}

fn scores_on<B: Backend>(
    backend: &B,
    plan: &Plan,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
    lists: &[Vec<&[u32]>],
) -> Result<Vec<Vec<f64>>> {
    // All is queued before the first result is waited for.
    let mut queued = Vec::with_capacity(lists.len());
    for (n, list) in lists.iter().enumerate() {
        let frames = plan.input_lengths[n];
        queued.push(if frames == 0 || list.is_empty() {
            None
        } else {
            let strides = Strides {
                offset: strides.offset + n * strides.item,
                ..strides
            };
            let utterance = Input {
                frames,
                batch: 1,
                ..plan.input
            };
            Some(queue(backend, &utterance, input, dtype, strides, list)?)
        });
    }
    let items = queued.into_iter().zip(lists);
    items
        .map(|(queued, list)| match queued {
            Some(parts) => read(backend, &parts),
            // No frames: only the empty transcript has a path.
            None => Ok(list
                .iter()
                .map(|candidate| match candidate.is_empty() {
                    true => 0.0,
                    false => f64::NEG_INFINITY,
                })
                .collect()),
        })
        .collect()
}

/// The two parts of each score, on the device.
type Parts<B> = [<B as Backend>::Storage; 2];

fn queue<B: Backend>(
    backend: &B,
    utterance: &Input,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
    list: &[&[u32]],
) -> Result<Parts<B>> {
    check_sizes(utterance.frames, utterance.classes)?;
    let tables = CandidateTables::new(utterance.frames, list)?;
    let entries = tables.used + 1;
    let of_rows = Sizes::new(utterance, 0, entries).reading(strides);
    let candidates = Input {
        batch: list.len(),
        ..*utterance
    };
    let of_candidates = Sizes::new(&candidates, tables.labels, entries).of_candidates();
    let real = real(dtype);
    let word = match real {
        DType::F64 => DType::I64,
        _ => DType::U32,
    };
    let (lattice, spilled) =
        launch::lattice(&of_candidates, real, backend.shared_bytes(), |kernel| {
            backend.max_threads(kernel)
        })?;
    let rows = utterance.frames;
    let stats_of = if of_rows.is_logits() { rows } else { 1 };
    let edges_of = if spilled > 0 { spilled / 8 } else { 1 };
    let [
        row_table,
        lattice_table,
        mut emissions,
        mut records,
        mut stats,
        mut kept,
        mut edges,
    ] = backend.memory([
        Content::Words(&tables.of_rows),
        Content::Words(&tables.of_candidates),
        Content::Room(product(&[rows, entries, 2])?, word),
        Content::Room(product(&[rows, 3])?, real),
        Content::Room(product(&[stats_of, 2])?, real),
        Content::Room(1, word),
        Content::Room(product(&[list.len(), edges_of])?, DType::I64),
    ])?;
    let (gather, wide) = launch::gather(dtype, &of_rows, entries);
    let mut arguments = [
        Arg::Sizes(of_rows),
        Arg::In(input),
        Arg::From(&row_table),
        Arg::To(&mut emissions),
        Arg::To(&mut records),
        Arg::To(&mut stats),
        Arg::U32(wide.unwrap_or_default().into()),
    ];
    let count = arguments.len() - usize::from(wide.is_none());
    // SAFETY: the arguments are those of the kernel, for one item; the buffers have an element for each row and entry.
    unsafe { backend.launch(&gather, &mut arguments[..count])? };
    let mut high = backend.allocate(list.len(), real)?;
    let mut low = backend.allocate(list.len(), real)?;
    let mut arguments = [
        Arg::Sizes(of_candidates),
        Arg::From(&lattice_table),
        Arg::From(&emissions),
        Arg::From(&records),
        Arg::To(&mut kept),
        Arg::Out(&mut high),
        Arg::Out(&mut low),
        Arg::To(&mut edges),
    ];
    let count = arguments.len() - usize::from(spilled == 0);
    // SAFETY: the arguments are those of the kernel. Candidates share the rows of one item and keep no states, and
    // `edges` has the size that `launch::lattice` requires.
    unsafe { backend.launch(&lattice, &mut arguments[..count])? };
    Ok([high, low])
}

fn read<B: Backend>(backend: &B, parts: &Parts<B>) -> Result<Vec<f64>> {
    let part = |storage| match backend.read(storage)? {
        CpuStorage::F32(values) => Ok(values.into_iter().map(f64::from).collect::<Vec<f64>>()),
        CpuStorage::F64(values) => Ok(values),
        other => bail!("ctc: scores of dtype {:?}", other.dtype()),
    };
    let (high, low) = (part(&parts[0])?, part(&parts[1])?);
    Ok(high
        .iter()
        .zip(&low)
        .map(|(high, low)| high + low)
        .collect())
}

/// The words of the kernels' tables, which `kernels/common.h` defines: of the rows, and of the candidates.
#[derive(Debug, PartialEq)]
struct CandidateTables {
    of_rows: Vec<u32>,
    of_candidates: Vec<u32>,
    /// S: the length of the longest candidate.
    labels: usize,
    /// How many classes the candidates use together.
    used: usize,
}

impl CandidateTables {
    /// Fails if memory runs out.
    fn new(frames: usize, list: &[&[u32]]) -> Result<Self> {
        let (count, labels) = (
            list.len(),
            list.iter().map(|one| one.len()).max().unwrap_or(0),
        );
        let what = "ctc: the tables of the candidates";
        let mut all = room_for::<u32>(what, &[list.iter().map(|one| one.len()).sum()])?;
        list.iter().for_each(|one| all.extend_from_slice(one));
        let classes = Classes::new(&all);
        let used = classes.distinct.len();
        // Lengths have been checked to be below 2^31. The second and the fourth number are not read.
        let mut of_rows = vec![frames as u32, 0, used as u32, 0];
        of_rows.extend_from_slice(&classes.distinct);
        // Four numbers, the classes (not read here), and the place of each label's class.
        let shape = [count, labels.saturating_mul(2).saturating_add(4)];
        let mut words = room_for(what, &shape)?;
        words.resize(shape.iter().product(), 0);
        let mut places = classes.place.as_slice();
        for (k, one) in list.iter().enumerate() {
            words[k] = frames as u32;
            words[count + k] = one.len() as u32;
            words[2 * count + k] = used as u32;
            words[3 * count + k] = frames_needed(one) as u32;
            let (its, rest) = places.split_at(one.len());
            let start = 4 * count + (count + k) * labels;
            words[start..start + one.len()].copy_from_slice(its);
            places = rest;
        }
        Ok(Self {
            of_rows,
            of_candidates: words,
            labels,
            used,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_share_the_numbers_of_their_classes() {
        let tables = CandidateTables::new(9, &[&[7, 3, 7], &[], &[5, 5]]).unwrap();
        assert_eq!((tables.labels, tables.used), (3, 3));
        assert_eq!(tables.of_rows, [9, 0, 3, 0, 7, 3, 5]);
        #[rustfmt::skip]
        assert_eq!(
            tables.of_candidates,
            [
                9, 9, 9, // input lengths
                3, 0, 2, // labels
                3, 3, 3, // classes used
                3, 0, 3, // frames needed
                0, 0, 0, /**/ 0, 0, 0, /**/ 0, 0, 0, // classes, not read
                0, 1, 0, /**/ 0, 0, 0, /**/ 2, 2, 0, // places
            ]
        );
    }
}
