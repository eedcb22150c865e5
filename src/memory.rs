//! Memory that may be refused, and large memory. Views of stride 0 have any shape, and to ask for too much through
//! `Vec::with_capacity` ends the process.

use candle_core::{Result, bail};
use std::mem::MaybeUninit;

/// An empty vector with room for a tensor of `shape`. Where there is no such memory the error says for `what` it
/// was to be.
pub(crate) fn room_for<T>(what: &str, shape: &[usize]) -> Result<Vec<T>> {
    let count = shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size));
    let mut room = Vec::new();
    match count {
        Some(count) if room.try_reserve_exact(count).is_ok() => Ok(room),
        _ => {
            let bytes = shape.iter().fold(size_of::<T>() as u128, |bytes, &size| {
                bytes.saturating_mul(size as u128)
            });
            bail!("{what} of shape {shape:?} needs {bytes} bytes, which could not be allocated")
        }
    }
}

/// Asks the system for huge pages under large fresh memory. 160 MB are otherwise mapped in 40000 pieces, at the first
/// write to each, which takes as long as the writing.
pub(crate) fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const LEAST: usize = 4 << 20;
        const PAGE: usize = 4096;
        let bytes = size_of_val(memory);
        if bytes >= LEAST {
            let start = memory.as_mut_ptr() as usize;
            let skipped = start.next_multiple_of(PAGE) - start;
            let whole = (bytes - skipped) / PAGE * PAGE;
            // SAFETY: whole pages inside the memory, which stays what it is; where the system refuses,
            // nothing changes.
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
        // Beyond all addresses, and beyond 64 bits.
        assert!(message(&[1 << 61]).contains(" 9223372036854775808 bytes"));
        assert!(message(&[1 << 40, 1 << 40]).contains(" 4835703278458516698824704 bytes"));
    }
}
