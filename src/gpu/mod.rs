//! The GPU backend, common to CUDA and Metal: tables and a few launches for the loss and its gradient (`loss`), the
//! scores of candidates (`scores`) and best paths (`best_paths`). `cuda` and `metal` only allocate memory and launch
//! kernels; `simulator` does the same on the CPU, for tests.

mod best_paths;
#[cfg(feature = "cuda")]
mod cuda;
mod integers;
mod launch;
mod loss;
#[cfg(feature = "metal")]
mod metal;
mod params;
mod scores;
#[cfg(ctc_softgpu)]
pub(crate) mod simulator;
mod tables;

pub(crate) use best_paths::best_paths;
pub(crate) use integers::read_together;
pub(crate) use launch::Launch;
pub(crate) use loss::{Saved, forward, gradient, memory_needed};
pub(crate) use params::{Integers, Sizes};
pub(crate) use scores::scores;

use crate::problem::plan::{Input, real};
use candle_core::{CpuStorage, DType, Result, Storage, WithDType, bail};
use std::ops::Deref;

/// The operations of a device. Launches run in the order in which they are issued; only [`Backend::read`] waits for
/// them.
pub(crate) trait Backend: Sized {
    /// Whether there are kernels for f64.
    const F64: bool;
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

    /// Waits, and copies a whole storage to the host.
    fn read(&self, storage: &Self::Storage) -> Result<CpuStorage>;

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

impl Content<'_> {
    /// Its size in bytes; `None` if that overflows.
    fn bytes(&self) -> Option<usize> {
        match self {
            Self::Room(count, dtype) => count.checked_mul(dtype.size_in_bytes()),
            Self::Words(words) => Some(size_of_val(*words)),
        }
    }
}

/// Alignment of the parts of an allocation, in bytes.
const ALIGNED: usize = 256;

/// The offsets of the parts of an allocation, and its size, in words.
fn offsets<const N: usize>(contents: &[Content<'_>; N]) -> Result<([usize; N], usize)> {
    let mut end = 0usize;
    let mut starts = [0; N];
    for (start, content) in starts.iter_mut().zip(contents) {
        let bytes = content
            .bytes()
            .and_then(|bytes| bytes.checked_next_multiple_of(ALIGNED));
        *start = end;
        end = match bytes.and_then(|bytes| end.checked_add(bytes / 4)) {
            Some(end) if end <= isize::MAX as usize / 4 => end,
            _ => bail!("ctc-loss: buffers that do not fit any memory"),
        };
    }
    Ok((starts, end))
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

/// The dtype that stands for the words of emissions and states: an f32 emission is a mantissa and a 32-bit exponent; an f64
/// emission is padded to 16 bytes.
fn word(real: DType) -> DType {
    match real {
        DType::F64 => DType::I64,
        _ => DType::U32,
    }
}

/// What [`gather`] leaves: for each row the emissions, three numbers beside them, and of logits the maximum and the sum of
/// exponentials.
struct Rows<'a, B: Backend> {
    emissions: &'a mut B::Memory,
    records: &'a mut B::Memory,
    stats: &'a mut B::Memory,
}

/// Gathers the emissions of the classes that `tables` name, with `weights` if there are any.
///
/// # Safety
/// `weights` must hold a number for each class and one more; `tables` must have the layout of `sizes`, and the memory
/// room for each row and entry of `sizes`: two words of an emission, three numbers of a record, and of logits two of
/// `stats`.
unsafe fn gather<B: Backend>(
    backend: &B,
    sizes: &Sizes,
    (input, dtype): (&B::Storage, DType),
    tables: &B::Memory,
    weights: Option<&B::Storage>,
    rows: Rows<'_, B>,
) -> Result<()> {
    let (launch, wide) = launch::gather(dtype, sizes, weights.is_some());
    let mut arguments = vec![
        Arg::Sizes(*sizes),
        Arg::In(input),
        Arg::From(tables),
        Arg::To(rows.emissions),
        Arg::To(rows.records),
        Arg::To(rows.stats),
    ];
    arguments.extend(weights.map(Arg::In));
    arguments.extend(wide.map(|wide| Arg::U32(wide.into())));
    // SAFETY: the arguments are those of the kernel, with memory as the caller promises.
    unsafe { backend.launch(&launch, &mut arguments) }
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

/// Device memory for the items of one launch of an inference function, in bytes, if there is more than one.
const MOST_BYTES: usize = 1 << 30;

/// From this size on, the kernels' integers may overflow. The lattice counts frames in an `int`, and asks for up to two
/// blocks of them ahead; a launch has fewer than 2^31 blocks, one for each item; and loops over classes add a number of
/// threads to a `uint`.
const TOO_MANY: usize = (1 << 31) - 1024;

/// Checks that sizes fit the kernels' integers.
fn check_sizes(input: &Input) -> Result<()> {
    let (frames, batch, classes) = (input.frames, input.batch, input.classes);
    if [frames, batch, classes].into_iter().max() >= Some(TOO_MANY) {
        bail!(
            "ctc: T = {frames} frames, N = {batch} items and C = {classes} classes; a GPU takes fewer than 2^31 - 1024 \
             of each"
        )
    }
    Ok(())
}

/// Evaluates an expression with the device, the storage and the layout of a tensor on a GPU; `None` if it is on the CPU.
macro_rules! on_gpu {
    ($tensor:expr, |$backend:ident, $storage:ident, $layout:ident| $body:expr) => {{
        let (storage, $layout) = $tensor.storage_and_layout();
        match &*storage {
            #[cfg(feature = "cuda")]
            candle_core::Storage::Cuda($storage) => {
                let $backend = &$storage.device;
                Some($body)
            }
            #[cfg(feature = "metal")]
            candle_core::Storage::Metal($storage) => {
                use candle_core::backend::BackendStorage;
                let $backend = $storage.device();
                Some($body)
            }
            #[cfg(ctc_softgpu)]
            candle_core::Storage::Cpu(storage) => {
                let $storage = &crate::gpu::simulator::Memory::from_cpu(storage)?;
                let $backend = &crate::gpu::simulator::Simulator;
                Some($body)
            }
            _ => None,
        }
    }};
}
use on_gpu;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_apart() {
        let words = [7; 65];
        let (starts, end) = offsets(&[
            Content::Room(3, DType::F64),
            Content::Words(&words),
            Content::Room(1, DType::U32),
            Content::Room(64, DType::F32),
        ])
        .unwrap();
        assert_eq!((starts, end), ([0, 64, 192, 256], 320));
    }

    #[test]
    fn frames_items_and_classes_leave_room_in_31_bits() {
        use crate::options::InputKind;
        const MOST: usize = TOO_MANY - 1;
        let check = |frames, batch, classes| {
            check_sizes(&Input {
                frames,
                batch,
                classes,
                blank: 0,
                layout: None,
                kind: InputKind::LogProbs,
            })
        };
        // The next frames that a lattice asks for: two blocks of at most 8.
        assert!(i32::try_from(MOST + 2 * 8).is_ok());
        assert!(check(MOST, MOST, MOST).is_ok());
        for [frames, batch, classes] in [[MOST + 1, 1, 1], [1, MOST + 1, 1], [1, 1, MOST + 1]] {
            assert!(check(frames, batch, classes).is_err());
        }
    }

    #[test]
    fn parts_that_fit_no_memory_are_an_error() {
        let half = || Content::Room(isize::MAX as usize / 16, DType::F64);
        assert!(offsets(&[half()]).is_ok());
        assert!(offsets(&[half(), half(), half()]).is_err());
        assert!(offsets(&[Content::Room(usize::MAX / 4, DType::F64)]).is_err());
    }
}
