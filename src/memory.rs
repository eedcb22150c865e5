//! Fallible allocation, and large allocations. Views of stride 0 can have any shape, and `Vec::with_capacity` aborts
//! the process if memory runs out.

use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::mem::MaybeUninit;

/// An empty vector with capacity for a tensor of `shape`. If memory runs out, the error names `what` it was for.
pub(crate) fn room_for<T>(what: &str, shape: &[usize]) -> Result<Vec<T>> {
    room_for_copies(what, 1, shape)
}

fn room_for_copies<T>(what: &str, copies: usize, shape: &[usize]) -> Result<Vec<T>> {
    let mut room = Vec::new();
    match elements(copies, shape) {
        Some(count) if room.try_reserve_exact(count).is_ok() => Ok(room),
        _ => {
            let one = size_of::<T>() as u128;
            let bytes = [copies]
                .iter()
                .chain(shape)
                .fold(one, |bytes, &size| bytes.saturating_mul(size as u128));
            let held = match copies {
                1 => String::new(),
                _ => format!(", held {copies} times,"),
            };
            bail!(
                "{what} of shape {shape:?}{held} needs {bytes} bytes, which could not be allocated"
            )
        }
    }
}

/// The elements of so many tensors of `shape`; `None` if they are more than `usize` counts. Candle's own count wraps.
pub(crate) fn elements(copies: usize, shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(copies, |count, &size| count.checked_mul(size))
}

/// A vector for a tensor of `shape`, each element `value`. Fails as [`room_for`] does.
pub(crate) fn filled_room<T: Clone>(what: &str, shape: &[usize], value: T) -> Result<Vec<T>> {
    let mut room = room_for(what, shape)?;
    room.resize(shape.iter().product(), value);
    Ok(room)
}

/// A failed allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    pub bytes: usize,
}

/// `count` copies of `value`, or an error if memory runs out.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> std::result::Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    if vec.try_reserve_exact(count).is_err() {
        return Err(OutOfMemory {
            bytes: count.saturating_mul(size_of::<T>()),
        });
    }
    vec.resize(count, value);
    Ok(vec)
}

/// `count` zeros, or an error if memory runs out. Pages that the system provides as zeros are not written again.
pub(crate) fn zeroed<T: Zeroable>(count: usize) -> std::result::Result<Vec<T>, OutOfMemory> {
    try_zeroed_vec(count).map_err(|()| OutOfMemory {
        bytes: count.saturating_mul(size_of::<T>()),
    })
}

/// An error if there is no memory for so many tensors of `shape`, which are allocated later by code that cannot report
/// it.
pub(crate) fn check_room<T>(what: &str, copies: usize, shape: &[usize]) -> Result<()> {
    const ALWAYS: usize = 1 << 20;
    match elements(copies, shape) {
        Some(..=ALWAYS) => Ok(()),
        _ => room_for_copies::<T>(what, copies, shape).map(drop),
    }
}

/// An error if candle, which would end the process, has no memory for so many tensors of `shape` on the CPU, beside
/// `like` and in its dtype, or in f32 if that is a shorter one.
pub(crate) fn check_cpu_room(
    like: &Tensor,
    what: &str,
    copies: usize,
    shape: &[usize],
) -> Result<()> {
    match (like.device(), like.dtype()) {
        (Device::Cpu, DType::F64) => check_room::<f64>(what, copies, shape),
        (Device::Cpu, _) => check_room::<f32>(what, copies, shape),
        _ => Ok(()),
    }
}

/// Requests huge pages for large fresh memory. Otherwise 160 MB are mapped as 40000 pages, each at its first write,
/// which takes as long as the writing.
pub(crate) fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const FEWEST_BYTES: usize = 4 << 20;
        const PAGE: usize = 4096;
        let bytes = size_of_val(memory);
        if bytes >= FEWEST_BYTES {
            let start = memory.as_mut_ptr() as usize;
            let skipped = start.next_multiple_of(PAGE) - start;
            let whole = (bytes - skipped) / PAGE * PAGE;
            // SAFETY: only whole pages inside the memory, whose content does not change; if the system refuses, nothing
            // happens.
            unsafe {
                let first = memory.as_mut_ptr().cast::<u8>().add(skipped);
                libc::madvise(first.cast(), whole, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_fits() {
        assert!(
            room_for::<f32>("the gradient", &[3, 4, 5])
                .unwrap()
                .capacity()
                >= 60
        );
        assert!(room_for::<f32>("the gradient", &[3, 0, 5]).is_ok());
    }

    #[test]
    fn an_error_says_how_much_was_wanted() {
        let message = |shape: &[usize]| {
            room_for::<f32>("the gradient", shape)
                .unwrap_err()
                .to_string()
        };
        let refused = message(&[1 << 45, 1, 4]);
        let expected = "the gradient of shape [35184372088832, 1, 4] needs 562949953421312 bytes";
        assert!(refused.starts_with(expected), "{refused}");
        // Beyond the address space, and beyond 64 bits.
        assert!(message(&[1 << 61]).contains(" 9223372036854775808 bytes"));
        assert!(message(&[1 << 40, 1 << 40]).contains(" 4835703278458516698824704 bytes"));
        // The shape is that of one tensor, however many are held.
        let refused = check_room::<f32>("the gradient", 3, &[1 << 45, 4]);
        let expected =
            "the gradient of shape [35184372088832, 4], held 3 times, needs 1688849860263936 bytes";
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{refused}");
    }
}
