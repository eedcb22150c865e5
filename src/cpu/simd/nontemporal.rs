//! Non-temporal stores.
//!
//! A normal store reads its cache line first, since the processor does not know that the whole line will be
//! overwritten. Non-temporal stores of whole lines avoid that: if as much is read as written, they save a quarter of
//! the traffic.

use crate::cpu::simd::lanes::{LANES, Lanes};
use crate::cpu::simd::prefetch::LINE;
use std::mem::MaybeUninit;

/// Smallest buffer, in bytes, for non-temporal stores: its next reader would find little of it in the cache anyway.
const FEWEST_BYTES: usize = 16 << 20;

/// Writes memory with non-temporal stores. Dropping it makes them visible to all threads.
pub(crate) struct StreamingWriter(());

impl StreamingWriter {
    /// A writer for a buffer of `bytes` bytes, if non-temporal stores pay off.
    pub fn for_size(bytes: usize) -> Option<Self> {
        // Lazily, since dropping a `StreamingWriter` executes a fence.
        (cfg!(target_arch = "x86_64") && bytes >= FEWEST_BYTES).then(|| Self(()))
    }

    /// Writes all of `to`, which has at least one chunk. `chunk(i)` returns the entries from `i`.
    ///
    /// # Safety
    ///
    /// `to` must not be read before the writer is dropped.
    #[inline(always)]
    pub unsafe fn fill<T: Copy>(
        &mut self,
        to: &mut [MaybeUninit<T>],
        mut chunk: impl FnMut(usize) -> Lanes<T>,
    ) {
        const { assert!(LINE.is_multiple_of(size_of::<T>()) && LINE <= size_of::<Lanes<T>>()) };
        assert!(to.len() >= LANES);
        // The ends share cache lines with neighbouring memory.
        let last = to.len() - LANES;
        let head = to.as_ptr().align_offset(LINE);
        assert!(head < LANES);
        for (to, from) in to[..head].iter_mut().zip(chunk(0)) {
            to.write(from);
        }
        let mut at = head;
        while at <= last {
            // SAFETY: the chunk ends inside `to`, and lines start `head` entries after its start; the caller guarantees
            // the rest.
            unsafe { write_lines(to.as_mut_ptr().add(at).cast(), &chunk(at)) };
            at += LANES;
        }
        for (to, &from) in to[at..].iter_mut().zip(&chunk(last)[at - last..]) {
            to.write(from);
        }
    }
}

impl Drop for StreamingWriter {
    fn drop(&mut self) {
        #[cfg(test)]
        tests::FENCES.set(tests::FENCES.get() + 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `sfence` is part of the x86-64 baseline.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
}

/// Writes a chunk with non-temporal stores.
///
/// # Safety
///
/// `to` must be aligned to a cache line and writable, and must not be read before the [`StreamingWriter`] is dropped.
#[inline(always)]
unsafe fn write_lines<T: Copy>(to: *mut Lanes<T>, chunk: &Lanes<T>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        const { assert!(size_of::<Lanes<T>>().is_multiple_of(size_of::<__m128i>())) };
        let (to, from) = (
            to.cast::<__m128i>(),
            std::ptr::from_ref(chunk).cast::<__m128i>(),
        );
        for i in 0..size_of::<Lanes<T>>() / size_of::<__m128i>() {
            // SAFETY: inside both chunks; the first is aligned.
            unsafe { _mm_stream_si128(to.add(i), _mm_loadu_si128(from.add(i))) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: guaranteed by the caller.
    unsafe {
        to.write(*chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// Fences that this thread has executed.
        pub static FENCES: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn memory_in_the_cache_has_no_fence() {
        FENCES.set(0);
        assert!(StreamingWriter::for_size(FEWEST_BYTES - 1).is_none());
        assert_eq!(FENCES.get(), 0);
        drop(StreamingWriter::for_size(FEWEST_BYTES));
        assert_eq!(FENCES.get(), usize::from(cfg!(target_arch = "x86_64")));
    }

    #[test]
    fn memory_is_filled_wherever_lines_begin() {
        let entries: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let chunk = |at: usize| std::array::from_fn(|k| entries[at + k]);
        for start in 0..20 {
            for length in LANES..100 {
                let mut memory = vec![-1.0f32; 200];
                let mut stream = StreamingWriter(());
                let to = &mut memory[start..start + length];
                // SAFETY: only numbers are written.
                let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [MaybeUninit<f32>]) };
                // SAFETY: the writer is dropped before the memory is read.
                unsafe { stream.fill(to, chunk) };
                drop(stream);
                let (before, rest) = memory.split_at(start);
                assert_eq!(rest[..length], entries[..length], "{start}, {length}");
                assert!(before.iter().chain(&rest[length..]).all(|&x| x == -1.0));
            }
        }
    }
}
