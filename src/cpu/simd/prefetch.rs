//! Software prefetch: a hint that never affects results.

/// Bytes per cache line.
pub(crate) const LINE: usize = 64;

/// Prefetches the cache line of an address.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch neither reads nor writes.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches a whole slice.
#[inline(always)]
pub(crate) fn prefetch_all<T>(memory: &[T]) {
    for line in memory.chunks((LINE / size_of::<T>().max(1)).max(1)) {
        prefetch(line.as_ptr());
    }
}
