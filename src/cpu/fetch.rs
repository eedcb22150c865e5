//! Memory that is asked for before it is used. Wherever that is, nothing changes.

/// Bytes of a line of the cache.
pub(super) const LINE: usize = 64;

/// Asks for the line of the cache that an address is in.
#[inline(always)]
pub(super) fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it neither reads nor writes.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for all of it.
#[inline(always)]
pub(super) fn fetch_all<T>(memory: &[T]) {
    for line in memory.chunks((LINE / size_of::<T>().max(1)).max(1)) {
        fetch(line.as_ptr());
    }
}
