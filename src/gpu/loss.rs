//! The loss and its gradient: their launches, and the state kept between forward and backward pass.

use super::integers::pack;
use super::params::Sizes;
use super::tables::{self, Tables};
use super::{
    Arg, Backend, Content, Rows, check_sizes, gather, launch, offsets, product, real, word,
};
use crate::options::Reduction;
use crate::problem::plan::{DeviceTargets, Input, LossProblem, Targets};
use candle_core::{DType, Layout, Result, bail};

/// The state kept from the forward to the backward pass.
pub(crate) struct Saved<B: Backend> {
    sizes: Sizes,
    tables: B::Memory,
    /// The posterior of each state, in place of the lattice.
    kept: B::Memory,
    /// For logits, the maximum of each row and its sum of exponentials.
    stats: B::Memory,
    /// The losses before weighting.
    losses: B::Memory,
}

/// A loss and, if requested, the state for its gradient.
type Forward<B> = (<B as Backend>::Storage, Option<Saved<B>>);

/// The memory of [`Saved`], in its order. `words` are those of the tables, if the host has them; `keep` if there will be
/// a backward pass.
fn of_both_passes<'a>(
    sizes: &Sizes,
    real: DType,
    words: Option<&'a [u32]>,
    keep: bool,
) -> Result<[Content<'a>; 4]> {
    let (batch, labels) = (sizes.batch as usize, sizes.labels as usize);
    let rows = product(&[batch, sizes.frames as usize])?;
    Ok([
        match words {
            Some(words) => Content::Words(words),
            None => Content::Room(product(&tables::shape(batch, labels))?, DType::U32),
        },
        Content::Room(product_if(keep, &[rows, 4, labels + 1])?, word(real)),
        Content::Room(product_if(sizes.is_logits(), &[rows, 2])?, real),
        Content::Room(batch, real),
    ])
}

/// The memory that the forward pass alone needs: emissions, the records beside them, weighted losses, and for each item
/// `spilled` bytes of edges.
fn of_forward_pass(sizes: &Sizes, real: DType, spilled: usize) -> Result<[Content<'static>; 4]> {
    let (batch, entries) = (sizes.batch as usize, sizes.entries as usize);
    let rows = product(&[batch, sizes.frames as usize])?;
    Ok([
        Content::Room(product(&[rows, entries, 2])?, word(real)),
        Content::Room(product(&[rows, 3])?, real),
        Content::Room(batch, real),
        Content::Room(product_if(spilled > 0, &[batch, spilled / 8])?, DType::I64),
    ])
}

/// The product of sizes, or 1 where nothing is wanted.
fn product_if(wanted: bool, factors: &[usize]) -> Result<usize> {
    match wanted {
        true => product(factors),
        false => Ok(1),
    }
}

/// The bytes that a loss with a gradient keeps for its backward pass, and those of its forward pass beside them. Targets
/// have up to `labels` labels, and may be on the device.
pub(crate) fn memory_needed<B: Backend>(
    backend: &B,
    input: &Input,
    labels: usize,
    dtype: DType,
) -> Result<(u64, u64)> {
    check_sizes(input)?;
    let integers = product(&[input.batch, labels.saturating_add(2)])?;
    let host = Tables::on_device(labels, input.classes);
    let sizes = Sizes::new(input, labels, host.entries);
    let real = real(dtype);
    let (_, spilled) = launch::lattice(&sizes, real, backend.shared_bytes(), |_| {
        Ok(launch::LATTICE_THREADS)
    })?;
    let kept = total(&of_both_passes(&sizes, real, None, true)?)?;
    let forward = total(&of_forward_pass(&sizes, real, spilled)?)?;
    // Lengths and targets of tensors on the device are packed before the rest is allocated.
    let packed = total(&[Content::Room(integers, DType::I64)])?;
    Ok((kept, forward.max(packed)))
}

/// The bytes of an allocation.
fn total<const N: usize>(contents: &[Content<'_>; N]) -> Result<u64> {
    let (_, words) = offsets(contents)?;
    Ok(4 * words as u64)
}

/// The reduced loss, f64 for f64 input and f32 otherwise, and with `keep` the state for [`gradient`].
pub(crate) fn forward<B: Backend>(
    backend: &B,
    problem: &LossProblem,
    input: &B::Storage,
    dtype: DType,
    layout: &Layout,
    keep: bool,
) -> Result<Forward<B>> {
    let batch = problem.input().batch;
    check_sizes(problem.input())?;
    let host = match &problem.targets {
        Targets::Host(plan) => Tables::new(plan)?,
        Targets::Device(input, targets) => Tables::on_device(targets.labels, input.classes),
    };
    let (labels, entries) = (host.labels, host.entries);
    let sizes = Sizes::new(problem.input(), labels, entries)
        .of_loss(problem, keep)
        .reading(problem.input().strides(layout));
    let real = real(dtype);
    let (lattice, spilled) = launch::lattice(&sizes, real, backend.shared_bytes(), |kernel| {
        backend.max_threads(kernel)
    })?;
    let words = match problem.targets {
        Targets::Host(_) => Some(host.words.as_slice()),
        Targets::Device(..) => None,
    };
    let [mut tables, mut kept, mut stats, mut losses] =
        backend.memory(of_both_passes(&sizes, real, words, keep)?)?;
    if let Targets::Device(_, targets) = &problem.targets {
        prepare(backend, problem, targets, &mut tables)?;
    }
    let [mut emissions, mut records, mut weighted, mut edges] =
        backend.memory(of_forward_pass(&sizes, real, spilled)?)?;
    let gathered = Rows {
        emissions: &mut emissions,
        records: &mut records,
        stats: &mut stats,
    };
    let held = problem.weights.as_ref();
    let held = held.map(|weights| weights.tensor().storage_and_layout().0);
    let weights = match &held {
        Some(held) => match B::storage(held) {
            Some(storage) => Some(storage),
            None => bail!("ctc-loss: weights and input are on different devices"),
        },
        None => None,
    };
    // SAFETY: the tables are those of `sizes`, the memory has room for each row and entry, and the weights are contiguous.
    unsafe {
        gather(
            backend,
            &sizes,
            (input, dtype),
            &tables,
            weights.as_deref(),
            gathered,
        )?
    };

    let reduced = problem.reduction != Reduction::None && batch > 1;
    let mut loss = backend.allocate(if reduced { 1 } else { batch }, real)?;
    let mut arguments = [
        Arg::Sizes(sizes),
        Arg::From(&tables),
        Arg::From(&emissions),
        Arg::From(&records),
        Arg::To(&mut kept),
        Arg::To(&mut losses),
        match reduced {
            true => Arg::To(&mut weighted),
            false => Arg::Out(&mut loss),
        },
        Arg::To(&mut edges),
    ];
    let count = arguments.len() - usize::from(spilled == 0);
    // SAFETY: as above; `kept` has four words for each pair of each row, and `edges` has the size that
    // `launch::lattice` requires.
    unsafe { backend.launch(&lattice, &mut arguments[..count])? };
    if reduced {
        // SAFETY: the arguments are those of the kernel, and `weighted` holds `batch` losses.
        unsafe {
            backend.launch(
                &launch::reduce(real),
                &mut [
                    Arg::I64(batch as i64),
                    Arg::From(&weighted),
                    Arg::Out(&mut loss),
                ],
            )?;
        }
    }
    let saved = keep.then_some(Saved {
        sizes,
        tables,
        kept,
        stats,
        losses,
    });
    Ok((loss, saved))
}

/// The gradient of `Σ_n upstream[n] · loss[n]` with respect to the input, contiguous in the input's shape.
pub(crate) fn gradient<B: Backend>(
    backend: &B,
    problem: &LossProblem,
    input: (&B::Storage, DType, &Layout),
    saved: &Saved<B>,
    upstream: (&B::Storage, &Layout),
) -> Result<B::Storage> {
    let (input, dtype, layout) = input;
    let (upstream, up_layout) = upstream;
    let sizes = saved
        .sizes
        .reading(problem.input().strides(layout))
        .upstream(up_layout);
    let mut gradient = backend.allocate(product(&problem.input().shape())?, dtype)?;
    let (launch, wide) = launch::gradient(dtype, &sizes);
    let mut arguments = [
        Arg::Sizes(sizes),
        Arg::In(input),
        Arg::From(&saved.tables),
        Arg::From(&saved.kept),
        Arg::From(&saved.stats),
        Arg::From(&saved.losses),
        Arg::In(upstream),
        Arg::Out(&mut gradient),
        Arg::U32(wide.unwrap_or_default().into()),
    ];
    let count = arguments.len() - usize::from(wide.is_none());
    // SAFETY: the arguments are those of the kernel. The input has the same shape as in the forward pass, and the
    // gradient has an element for each of its entries.
    unsafe { backend.launch(&launch, &mut arguments[..count])? };
    Ok(gradient)
}

/// Computes the tables of targets that the host has not read.
fn prepare<B: Backend>(
    backend: &B,
    problem: &LossProblem,
    targets: &DeviceTargets,
    tables: &mut B::Memory,
) -> Result<()> {
    let integers = pack(
        backend,
        &[
            &targets.input_lengths,
            &targets.target_lengths,
            &targets.targets,
        ],
    )?;
    let sizes = Sizes::new(problem.input(), targets.labels, 0);
    // SAFETY: the arguments are those of the kernel. It checks lengths and labels against the sizes and the count of
    // integers, and the tables have room for `labels` labels per item.
    unsafe {
        backend.launch(
            &launch::prepare(problem.input().batch),
            &mut [
                Arg::Sizes(sizes),
                Arg::I64(targets.row as i64),
                Arg::I64(targets.targets.count() as i64),
                Arg::In(&integers),
                Arg::To(tables),
            ],
        )
    }
}
