//! The way through a GPU, the same for CUDA and Metal: tables, a few launches, and what is kept between
//! forward and backward. `cuda` and `metal` know how to allocate and to launch, and nothing else; `simulator`
//! does it on the CPU, for tests.

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
use crate::problem::plan::{DeviceTargets, IntSource, Plan};
use candle_core::{DType, Layout, Result, Storage, WithDType, bail};
use std::ops::Deref;
use tables::Tables;

/// What a backend can do. Launches are run in the order in which they are asked for, and nothing waits for
/// them but [`Backend::read`].
pub(crate) trait Backend: Sized {
    /// Of a tensor.
    type Storage;
    /// Memory that no tensor has.
    type Memory;

    /// An uninitialised tensor of `count` elements.
    fn allocate(&self, count: usize, dtype: DType) -> Result<Self::Storage>;

    /// Memory for several uses, with one allocation where that takes less time.
    fn memory<const N: usize>(&self, contents: [Content<'_>; N]) -> Result<[Self::Memory; N]>;

    /// A tensor of numbers from the host; at least one.
    fn upload<T: WithDType>(&self, values: &[T]) -> Result<Self::Storage>;

    /// Waits, and copies all of a storage of i64 to the host.
    fn read(&self, storage: &Self::Storage) -> Result<Vec<i64>>;

    /// The storage of a tensor, if it is this backend's.
    fn storage(storage: &Storage) -> Option<Held<'_, Self::Storage>>;

    /// Dynamic shared (threadgroup) memory that a block may have, in bytes.
    fn shared_bytes(&self) -> usize;

    /// The most threads that a block of this kernel may have.
    fn max_threads(&self, _kernel: &str) -> Result<usize> {
        Ok(launch::LATTICE_THREADS)
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// The arguments must be those that the kernel of this name takes, and as large as it takes them to be.
    unsafe fn launch(&self, launch: &Launch, arguments: &mut [Arg<'_, Self>]) -> Result<()>;
}

/// What memory is to hold.
pub(crate) enum Content<'a> {
    /// So many elements, at least one, which come uninitialised.
    Room(usize, DType),
    /// Words from the host; at least one.
    Words(&'a [u32]),
}

/// What `make` makes of each content.
#[cfg(any(feature = "metal", ctc_softgpu))]
pub(crate) fn each<M, const N: usize>(
    contents: [Content<'_>; N],
    make: impl Fn(Content<'_>) -> Result<M>,
) -> Result<[M; N]> {
    let made = contents.into_iter().map(make).collect::<Result<Vec<M>>>()?;
    made.try_into()
        .map_err(|_| candle_core::Error::msg("ctc-loss: not all memory was made"))
}

/// A storage, borrowed or made for the occasion.
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

/// An argument of a kernel.
pub(crate) enum Arg<'a, B: Backend> {
    Sizes(Sizes),
    Integers(Integers),
    I64(i64),
    U32(u32),
    /// Tensors.
    In(&'a B::Storage),
    Out(&'a mut B::Storage),
    /// Memory of no tensor, to be read and to be written.
    From(&'a B::Memory),
    To(&'a mut B::Memory),
}

/// What is kept from the forward to the backward pass.
pub(crate) struct Saved<B: Backend> {
    sizes: Sizes,
    tables: B::Memory,
    /// The posterior of each state, in place of the lattice.
    kept: B::Memory,
    /// For logits, the largest of each row and its sum of exponentials.
    stats: B::Memory,
    /// Not weighted.
    losses: B::Memory,
}

/// A loss, and what a gradient of it needs.
type Forward<B> = (<B as Backend>::Storage, Option<Saved<B>>);

/// The arithmetic that serves a dtype of the input.
fn real(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// A product of sizes, for an allocation.
fn product(factors: &[usize]) -> Result<usize> {
    let product = factors
        .iter()
        .try_fold(1usize, |product, &factor| product.checked_mul(factor));
    match product {
        Some(product) if product <= isize::MAX as usize / 16 => Ok(product),
        _ => bail!("ctc-loss: a buffer of {factors:?} elements does not fit any memory"),
    }
}

/// The loss, reduced, of dtype f64 for f64 and else f32, and with `keep` the state for [`gradient`].
pub(crate) fn forward<B: Backend>(
    backend: &B,
    plan: &Plan,
    input: &B::Storage,
    dtype: DType,
    layout: &Layout,
    keep: bool,
) -> Result<Forward<B>> {
    let (batch, frames) = (plan.batch, plan.frames);
    if i32::try_from(frames).is_err() || u32::try_from(plan.classes).is_err() {
        bail!(
            "ctc-loss: T = {frames} frames and C = {} classes; a GPU takes fewer than 2^31",
            plan.classes
        )
    }
    let host = match &plan.unread {
        None => Tables::new(plan)?,
        Some(unread) => Tables::unread(unread.labels, plan.classes),
    };
    let (labels, entries) = (host.labels, host.entries);
    let sizes = Sizes::new(plan, labels, entries, keep).reading(plan.strides(layout));
    let real = real(dtype);
    // An f32 emission is a mantissa and an exponent of 32 bits; one of f64 is padded to 16 bytes.
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
        match plan.unread {
            None => Content::Words(&host.words),
            Some(_) => Content::Room(product(&tables::shape(batch, labels))?, DType::U32),
        },
        Content::Room(some(keep, &[rows, 4, labels + 1])?, word),
        Content::Room(some(sizes.is_logits(), &[rows, 2])?, real),
        Content::Room(batch, real),
    ])?;
    if let Some(unread) = &plan.unread {
        prepare(backend, plan, unread, &mut tables)?;
    }
    // What only this pass needs.
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
    // SAFETY: the arguments are those of the kernel; the buffers hold a place for each row and entry.
    unsafe { backend.launch(&launch, &mut arguments[..count])? };

    let reduced = plan.reduction != Reduction::None && batch > 1;
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
    // SAFETY: as above; `kept` has four words for each pair of each row, and `edges` what was asked for.
    unsafe { backend.launch(&lattice, &mut arguments[..count])? };
    if reduced {
        // SAFETY: the arguments are those of the kernel, and there are so many losses.
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
    plan: &Plan,
    input: (&B::Storage, DType, &Layout),
    saved: &Saved<B>,
    upstream: (&B::Storage, &Layout),
) -> Result<B::Storage> {
    let (input, dtype, layout) = input;
    let (upstream, up_layout) = upstream;
    let sizes = saved
        .sizes
        .reading(plan.strides(layout))
        .upstream(up_layout);
    let mut gradient = backend.allocate(product(&plan.input_shape())?, dtype)?;
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
    // SAFETY: the arguments are those of the kernel. The input has the shape that it had in the forward
    // pass, and the gradient has a place for each of its entries.
    unsafe { backend.launch(&launch, &mut arguments[..count])? };
    Ok(gradient)
}

/// Makes the tables of targets that the host has not read.
fn prepare<B: Backend>(
    backend: &B,
    plan: &Plan,
    unread: &DeviceTargets,
    tables: &mut B::Memory,
) -> Result<()> {
    let integers = pack(
        backend,
        &[
            &unread.input_lengths,
            &unread.target_lengths,
            &unread.targets,
        ],
    )?;
    let sizes = Sizes::new(plan, unread.labels, 0, false);
    // SAFETY: the arguments are those of the kernel. It checks lengths and labels against the sizes and
    // the count of integers, and the tables have room for `labels` of each item.
    unsafe {
        backend.launch(
            &launch::prepare(plan.batch),
            &mut [
                Arg::Sizes(sizes),
                Arg::I64(unread.row as i64),
                Arg::I64(unread.targets.count() as i64),
                Arg::In(&integers),
                Arg::To(tables),
            ],
        )
    }
}

/// Reads integers that are on a device, all with one copy to the host.
pub(crate) fn read_together<B: Backend>(backend: &B, parts: &[IntSource]) -> Result<Vec<Vec<i64>>> {
    let packed = pack(backend, &parts.iter().collect::<Vec<_>>())?;
    let mut values = backend.read(&packed)?.into_iter();
    Ok(parts
        .iter()
        .map(|part| values.by_ref().take(part.count()).collect())
        .collect())
}

/// Integers of any dtype and layout one behind the other, as i64.
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
    // SAFETY: the arguments are those of the kernel, and `packed` has room for them behind `to`.
    unsafe {
        backend.launch(
            &launch::widen(dtype, rows * columns),
            &mut [Arg::Integers(integers), Arg::In(from), Arg::Out(packed)],
        )
    }
}
