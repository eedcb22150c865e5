//! The log-likelihoods of the candidates of each utterance. The candidates of an utterance share its rows: one launch
//! gathers the emissions of all classes that any of them uses, and one runs the lattice of each candidate.

use super::{
    Arg, Backend, Content, MOST_BYTES, Rows, Sizes, check_sizes, gather, launch, on_gpu, product,
    real, word,
};
use crate::memory::filled_room;
use crate::problem::labels::{Classes, Numbering};
use crate::problem::plan::{Input, Plan, Strides, frames_needed};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Result, Tensor, bail};
use std::ops::Range;

/// For each item of a plan without targets, the log-likelihood of each of its candidates, whose labels have been checked.
/// `None` if the tensor is on the CPU; and for an item of which a score is NaN, since here an entry that one candidate uses
/// spoils the others: a NaN or +inf, or a number so far below another candidate's that it would count as −inf.
pub(crate) fn scores(
    plan: &Plan,
    log_probs: &Tensor,
    lists: &[Vec<&[u32]>],
) -> Result<Option<Vec<Option<Vec<f64>>>>> {
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
    let sound = |scores: Vec<f64>| match scores.iter().any(|score| score.is_nan()) {
        true => None,
        false => Some(scores),
    };
    let scores = scores.transpose()?;
    Ok(scores.map(|items| items.into_iter().map(sound).collect()))
}

fn scores_on<B: Backend>(
    backend: &B,
    plan: &Plan,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
    lists: &[Vec<&[u32]>],
) -> Result<Vec<Vec<f64>>> {
    check_sizes(&plan.input)?;
    let mut numbering = Numbering::default();
    let classes: Vec<Classes> = lists
        .iter()
        .map(|list| numbering.classes(&list.concat()))
        .collect();
    // Bytes of an utterance, if all were as large as the largest: emissions, and for each label of a candidate its place
    // in the tables and the states that meet there.
    let entries = classes.iter().map(|one| one.distinct.len() + 1).max();
    let emissions = product(&[plan.input.frames, entries.unwrap_or(1), 16])?;
    let candidates = lists.iter().map(Vec::len).max().unwrap_or(0);
    let labels = lists.iter().flatten().map(|one| one.len()).max();
    let labels = labels.unwrap_or(0).min(plan.input.frames) + 1;
    let bytes = emissions.saturating_add(product(&[candidates, labels, 4 * 32 + 2 * 4])?);
    let together = (MOST_BYTES / bytes.max(1)).clamp(1, lists.len().max(1));
    let mut scores = Vec::with_capacity(lists.len());
    for first in (0..lists.len()).step_by(together) {
        let items = first..lists.len().min(first + together);
        let tables = Tables::new(
            plan,
            items.clone(),
            &lists[items.clone()],
            &classes[items.clone()],
        )?;
        let strides = Strides {
            offset: strides.offset + first * strides.item,
            ..strides
        };
        let mut found = match tables.candidates {
            0 => Vec::new(),
            _ => launch(backend, plan, &tables, input, dtype, strides)?,
        }
        .into_iter();
        scores.extend(
            lists[items]
                .iter()
                .map(|list| found.by_ref().take(list.len()).collect::<Vec<_>>()),
        );
    }
    Ok(scores)
}

/// The scores of all candidates, one after the other.
fn launch<B: Backend>(
    backend: &B,
    plan: &Plan,
    tables: &Tables,
    input: &B::Storage,
    dtype: DType,
    strides: Strides,
) -> Result<Vec<f64>> {
    let utterances = Input {
        frames: tables.frames,
        batch: tables.utterances,
        ..plan.input
    };
    let candidates = Input {
        batch: tables.candidates,
        ..utterances
    };
    let of_rows = Sizes::new(&utterances, tables.classes, tables.classes + 1).reading(strides);
    let of_candidates = Sizes::new(&candidates, tables.labels, tables.classes + 1).of_candidates();
    let real = real(dtype);
    let word = word(real);
    let (lattice, spilled) =
        launch::lattice(&of_candidates, real, backend.shared_bytes(), |kernel| {
            backend.max_threads(kernel)
        })?;
    let rows = product(&[tables.utterances, tables.frames.max(1)])?;
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
        Content::Room(product(&[rows, tables.classes + 1, 2])?, word),
        Content::Room(product(&[rows, 3])?, real),
        Content::Room(product(&[stats_of, 2])?, real),
        Content::Room(1, word),
        Content::Room(product(&[tables.candidates, edges_of])?, DType::I64),
    ])?;
    if tables.frames > 0 {
        let gathered = Rows {
            emissions: &mut emissions,
            records: &mut records,
            stats: &mut stats,
        };
        // SAFETY: the tables are those of `of_rows`, and the memory has room for each row and entry.
        unsafe {
            gather(
                backend,
                &of_rows,
                (input, dtype),
                &row_table,
                None,
                gathered,
            )?
        };
    }
    let mut high = backend.allocate(tables.candidates, real)?;
    let mut low = backend.allocate(tables.candidates, real)?;
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
    // SAFETY: the arguments are those of the kernel. Each candidate has the rows of its utterance and keeps no states,
    // and `edges` has the size that `launch::lattice` requires.
    unsafe { backend.launch(&lattice, &mut arguments[..count])? };
    let part = |storage| match backend.read(storage)? {
        CpuStorage::F32(values) => Ok(values.into_iter().map(f64::from).collect::<Vec<f64>>()),
        CpuStorage::F64(values) => Ok(values),
        other => bail!("score_transcripts: scores of dtype {:?}", other.dtype()),
    };
    let (high, low) = (part(&high)?, part(&low)?);
    Ok(high
        .iter()
        .zip(&low)
        .map(|(high, low)| high + low)
        .collect())
}

/// The words of the kernels' tables, which `kernels/common.h` defines, for some utterances and for their candidates.
#[derive(Debug, PartialEq)]
struct Tables {
    of_rows: Vec<u32>,
    of_candidates: Vec<u32>,
    utterances: usize,
    candidates: usize,
    /// T: frames of the longest utterance.
    frames: usize,
    /// S: labels of the longest candidate that fits into its frames, at least 1.
    labels: usize,
    /// The most classes that the candidates of an utterance use together.
    classes: usize,
}

impl Tables {
    /// Fails if memory runs out.
    fn new(
        plan: &Plan,
        items: Range<usize>,
        lists: &[Vec<&[u32]>],
        classes: &[Classes],
    ) -> Result<Self> {
        let frames_of = |n: usize| plan.input_lengths[items.start + n];
        let fits = |n: usize, one: &[u32]| frames_needed(one) <= frames_of(n);
        let (utterances, candidates) = (lists.len(), lists.iter().map(Vec::len).sum());
        let frames = (0..utterances).map(frames_of).max().unwrap_or(0);
        let most = classes
            .iter()
            .map(|one| one.distinct.len())
            .max()
            .unwrap_or(0);
        let fitting = lists.iter().enumerate().flat_map(|(n, list)| {
            list.iter()
                .filter(move |one| fits(n, one))
                .map(|one| one.len())
        });
        let labels = fitting.max().unwrap_or(0).max(1);
        let what = "score_transcripts: the tables of the candidates";

        // Of the rows: four numbers, of which the second and the fourth are not read, and the classes.
        let mut of_rows = filled_room(what, &[utterances, most + 4], 0)?;
        for (n, one) in classes.iter().enumerate() {
            // Lengths have been checked to be below 2^31.
            of_rows[n] = frames_of(n) as u32;
            of_rows[2 * utterances + n] = one.distinct.len() as u32;
            let start = 4 * utterances + n * most;
            of_rows[start..][..one.distinct.len()].copy_from_slice(&one.distinct);
        }

        // Of the candidates: four numbers, the utterance in the place of the classes, and the place of each label's class.
        let mut words = filled_room(
            what,
            &[candidates, labels.saturating_mul(2).saturating_add(4)],
            0,
        )?;
        let mut k = 0;
        for (n, (list, classes)) in lists.iter().zip(classes).enumerate() {
            let mut places = classes.place.as_slice();
            for one in list {
                let (its, rest) = places.split_at(one.len());
                places = rest;
                words[k] = frames_of(n) as u32;
                words[2 * candidates + k] = classes.distinct.len() as u32;
                words[4 * candidates + k * labels] = n as u32;
                if fits(n, one) {
                    words[candidates + k] = one.len() as u32;
                    words[3 * candidates + k] = frames_needed(one) as u32;
                    let start = 4 * candidates + (candidates + k) * labels;
                    words[start..][..one.len()].copy_from_slice(its);
                } else {
                    // More than there are; which labels it has does not matter.
                    words[candidates + k] = 1;
                    words[3 * candidates + k] = frames_of(n) as u32 + 1;
                }
                k += 1;
            }
        }
        Ok(Self {
            of_rows,
            of_candidates: words,
            utterances,
            candidates,
            frames,
            labels,
            classes: most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::InputLayout;
    use crate::problem::plan::InputKind;

    #[test]
    fn candidates_share_the_numbers_of_their_classes() {
        let plan = Plan {
            input: Input {
                frames: 9,
                batch: 3,
                classes: 8,
                blank: 0,
                layout: Some(InputLayout::TimeMajor),
                kind: InputKind::LogProbs,
            },
            input_lengths: vec![8, 9, 2],
            labels: Vec::new(),
            label_offsets: Vec::new(),
        };
        let lists: [Vec<&[u32]>; 2] = [vec![&[7, 3, 7], &[]], vec![&[5, 5], &[4]]];
        let classes = [Classes::new(&[7, 3, 7]), Classes::new(&[5, 5, 4])];
        let tables = Tables::new(&plan, 1..3, &lists, &classes).unwrap();
        assert_eq!((tables.utterances, tables.candidates), (2, 4));
        assert_eq!((tables.frames, tables.labels, tables.classes), (9, 3, 2));
        #[rustfmt::skip]
        assert_eq!(
            tables.of_rows,
            [
                9, 2, // input lengths
                0, 0, // not read
                2, 2, // classes used
                0, 0, // not read
                7, 3, /**/ 5, 4, // classes
            ]
        );
        // The third candidate needs three frames, and there are two.
        #[rustfmt::skip]
        assert_eq!(
            tables.of_candidates,
            [
                9, 9, 2, 2, // input lengths
                3, 0, 1, 1, // labels
                2, 2, 2, 2, // classes used
                3, 0, 3, 1, // frames needed
                0, 0, 0, /**/ 0, 0, 0, /**/ 1, 0, 0, /**/ 1, 0, 0, // utterances
                0, 1, 0, /**/ 0, 0, 0, /**/ 0, 0, 0, /**/ 1, 0, 0, // places
            ]
        );
    }
}
