//! The GPU backend, common to CUDA and Metal: tables, a few launches, and the state kept between forward and backward
//! pass. `cuda` and `metal` only allocate memory and launch kernels; `simulator` does the same on the CPU, for tests.

#[cfg(feature = "cuda")]
mod cuda;
mod launch;
#[cfg(feature = "metal")]
mod metal;
mod params;
#[cfg(ctc_softgpu)]
pub(crate) mod simulator;
mod tables;

pub(crate) use launch::Launch;
pub(crate) use params::{Integers, Sizes};

use crate::options::Reduction;
use crate::problem::plan::{DeviceTargets, IntSource, LossProblem, Targets};
use candle_core::{DType, Layout, Result, Storage, WithDType, bail};
use std::ops::Deref;
use tables::Tables;

/// The operations of a device. Launches run in the order in which they are issued; only [`Backend::read`] waits for
/// them.
pub(crate) trait Backend: Sized {
    /// The storage of a tensor.
    type Storage;
    /// Memory that belongs to no tensor.
    type Memory;

    /// An uninitialised tensor of `count` elements.
    fn allocate(&self, count: usize, dtype: DType) -> Result<Self::Storage>;

    /// Memory for several uses, in one allocation if that is faster.
    fn memory<const N: usize>(&self, contents: [Content<'_>; N]) -> Result<[Self::Memory; N]>;

    /// Uploads at least one number from the host to a new storage.
    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Self::Storage>;

    /// Waits, and copies a whole storage of i64 to the host.
    fn read(&self, storage: &Self::Storage) -> Result<Vec<i64>>;

    /// The storage of a tensor, if it belongs to this backend.
    fn storage(storage: &Storage) -> Option<Held<'_, Self::Storage>>;

    /// Dynamic shared (threadgroup) memory available to a block, in bytes.
    fn shared_bytes(&self) -> usize;

    /// The maximum number of threads per block of this kernel.
    fn max_threads(&self, _kernel: &str) -> Result<usize> {
        Ok(launch::LATTICE_THREADS)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The arguments must be those of the kernel of this name, with buffers as large as the kernel requires.
    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, Self>]) -> Result<()>;
}

/// The content of a piece of memory.
pub(crate) enum Content<'a> {
    /// Uninitialised space for this many elements; at least one.
    Room(usize, DType),
    /// Words from the host; at least one.
    Words(&'a [u32]),
}

/// Calls `make` for each content.
#[cfg(any(feature = "metal", ctc_softgpu))]
pub(crate) fn each<M, const N: usize>(
    contents: [Content<'_>; N],
    make: impl Fn(Content<'_>) -> Result<M>,
) -> Result<[M; N]> {
    let made = contents.into_iter().map(make).collect::<Result<Vec<M>>>()?;
    made.try_into()
        .map_err(|_| candle_core::Error::msg("ctc-loss: not all memory was made"))
}

/// A storage, borrowed or temporary.
pub(crate) enum Held<'a, S> {
    #[cfg_attr(ctc_softgpu, allow(dead_code))]
    Borrowed(&'a S),
    #[cfg(ctc_softgpu)]
    Owned(S),
}

impl<S> Deref for Held<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        match self {
            Self::Borrowed(storage) => storage,
            #[cfg(ctc_softgpu)]
            Self::Owned(storage) => storage,
        }
    }
}

/// A kernel argument.
pub(crate) enum Arg<'a, B: Backend> {
    Sizes(Sizes),
    Integers(Integers),
    I64(i64),
    U32(u32),
    /// Tensors, read or written.
    In(&'a B::Storage),
    Out(&'a mut B::Storage),
    /// Memory outside tensors, read or written.
    From(&'a B::Memory),
    To(&'a mut B::Memory),
}

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

/// The arithmetic type for a dtype of the input.
fn real(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The product of sizes, checked for use in an allocation.
fn product(factors: &[usize]) -> Result<usize> {
    let product = factors
        .iter()
        .try_fold(1usize, |product, &factor| product.checked_mul(factor));
    match product {
        Some(product) if product <= isize::MAX as usize / 16 => Ok(product),
        _ => bail!("ctc-loss: a buffer of {factors:?} elements does not fit any memory"),
    }
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
    let (batch, frames) = (problem.input().batch, problem.input().frames);
    if i32::try_from(frames).is_err() || u32::try_from(problem.input().classes).is_err() {
        bail!(
            "ctc-loss: T = {frames} frames and C = {} classes; a GPU takes fewer than 2^31",
            problem.input().classes
        )
    }
    let host = match &problem.targets {
        Targets::Host(plan) => Tables::new(plan)?,
        Targets::Device(input, targets) => Tables::on_device(targets.labels, input.classes),
    };
    let (labels, entries) = (host.labels, host.entries);
    let sizes = Sizes::new(problem, labels, entries, keep).reading(problem.input().strides(layout));
    let real = real(dtype);
    // An f32 emission is a mantissa and a 32-bit exponent; an f64 emission is padded to 16 bytes.
    let word = match real {
        DType::F64 => DType::I64,
        _ => DType::U32,
    };
    let rows = product(&[batch, frames])?;
    let some = |wanted: bool, factors: &[usize]| match wanted {
        true => product(factors),
        false => Ok(1),
    };
    let (lattice, spilled) = launch::lattice(&sizes, real, backend.shared_bytes(), |kernel| {
        backend.max_threads(kernel)
    })?;
    let [mut tables, mut kept, mut stats, mut losses] = backend.memory([
        match problem.targets {
            Targets::Host(_) => Content::Words(&host.words),
            Targets::Device(..) => {
                Content::Room(product(&tables::shape(batch, labels))?, DType::U32)
            }
        },
        Content::Room(some(keep, &[rows, 4, labels + 1])?, word),
        Content::Room(some(sizes.is_logits(), &[rows, 2])?, real),
        Content::Room(batch, real),
    ])?;
    if let Targets::Device(_, targets) = &problem.targets {
        prepare(backend, problem, targets, &mut tables)?;
    }
    // Memory that only this pass needs.
    let [mut emissions, mut records, mut weighted, mut edges] = backend.memory([
        Content::Room(product(&[rows, entries, 2])?, word),
        Content::Room(product(&[rows, 3])?, real),
        Content::Room(batch, real),
        Content::Room(some(spilled > 0, &[batch, spilled / 8])?, DType::I64),
    ])?;
    let (launch, wide) = launch::gather(dtype, &sizes, entries);
    let mut arguments = [
        Arg::Sizes(sizes),
        Arg::In(input),
        Arg::From(&tables),
        Arg::To(&mut emissions),
        Arg::To(&mut records),
        Arg::To(&mut stats),
        Arg::U32(wide.unwrap_or_default().into()),
    ];
    let count = arguments.len() - usize::from(wide.is_none());
    // SAFETY: the arguments are those of the kernel; the buffers have an element for each row and entry.
    unsafe { backend.launch(&launch, &mut arguments[..count])? };

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
    let sizes = Sizes::new(problem, targets.labels, 0, false);
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

/// Reads integers from a device, all with one copy to the host.
pub(crate) fn read_together<B: Backend>(backend: &B, parts: &[IntSource]) -> Result<Vec<Vec<i64>>> {
    let packed = pack(backend, &parts.iter().collect::<Vec<_>>())?;
    let mut values = backend.read(&packed)?.into_iter();
    Ok(parts
        .iter()
        .map(|part| values.by_ref().take(part.count()).collect())
        .collect())
}

/// Concatenates integers of any dtype and layout, as i64.
fn pack<B: Backend>(backend: &B, parts: &[&IntSource]) -> Result<B::Storage> {
    let total = parts
        .iter()
        .fold(0usize, |total, part| total.saturating_add(part.count()));
    let mut packed = backend.allocate(product(&[total.max(1)])?, DType::I64)?;
    let mut to = 0;
    for part in parts {
        let count = part.count();
        if count == 0 {
            continue;
        }
        match part {
            IntSource::Values(values) => {
                let storage = backend.upload(values)?;
                widen(
                    backend,
                    &storage,
                    DType::I64,
                    &Layout::contiguous(count),
                    to,
                    &mut packed,
                )?;
            }
            IntSource::Tensor(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                match B::storage(&storage) {
                    Some(storage) => {
                        widen(backend, &storage, tensor.dtype(), layout, to, &mut packed)?;
                    }
                    None => bail!("ctc-loss: lengths and targets are on different devices"),
                }
            }
        }
        to += count;
    }
    Ok(packed)
}

fn widen<B: Backend>(
    backend: &B,
    from: &B::Storage,
    dtype: DType,
    layout: &Layout,
    to: usize,
    packed: &mut B::Storage,
) -> Result<()> {
    let (rows, columns, row, column) = match (layout.dims(), layout.stride()) {
        (&[], _) => (1, 1, 0, 0),
        (&[columns], &[column]) => (1, columns, 0, column),
        (&[rows, columns], &[row, column]) => (rows, columns, row, column),
        (dims, _) => bail!("ctc-loss: integers of shape {dims:?}"),
    };
    let integers = Integers {
        rows: rows as i64,
        columns: columns as i64,
        offset: layout.start_offset() as i64,
        row: row as i64,
        column: column as i64,
        to: to as i64,
    };
    // SAFETY: the arguments are those of the kernel, and `packed` has room for the integers after index `to`.
    unsafe {
        backend.launch(
            &launch::widen(dtype, rows * columns),
            &mut [Arg::Integers(integers), Arg::In(from), Arg::Out(packed)],
        )
    }
}
