//! Writes that go past the cache.
//!
//! The cache reads a line of memory before the first write to it, since it does not know that all of the line
//! will be written. Much memory is better written in whole lines and without that: where as much is read as
//! written, a quarter of the traffic is saved.

use super::fetch::LINE;
use super::lanes::{Block, LANES};
use std::mem::MaybeUninit;

/// Memory of so many bytes or more: what reads it next would find little of it in the cache.
const LEAST: usize = 16 << 20;

/// What was written through it has arrived, for all threads, when it is dropped.
pub(super) struct Stream(());

impl Stream {
    /// For memory of so many bytes, if it is to be written past the cache.
    pub fn worth(bytes: usize) -> Option<Self> {
        // Lazily: to drop a `Stream` is a fence.
        (cfg!(target_arch = "x86_64") && bytes >= LEAST).then(|| Self(()))
    }

    /// Writes all of `to`, which has a block or more. `block(i)` gives the entries from `i` on.
    ///
    /// # Safety
    ///
    /// Nothing reads `to` before this is dropped.
    #[inline(always)]
    pub unsafe fn fill<T: Copy>(
        &mut self,
        to: &mut [MaybeUninit<T>],
        mut block: impl FnMut(usize) -> Block<T>,
    ) {
        const { assert!(LINE.is_multiple_of(size_of::<T>()) && LINE <= size_of::<Block<T>>()) };
        assert!(to.len() >= LANES);
        // The ends share lines with what is beside them.
        let last = to.len() - LANES;
        let head = to.as_ptr().align_offset(LINE);
        assert!(head < LANES);
        for (to, from) in to[..head].iter_mut().zip(block(0)) {
            to.write(from);
        }
        let mut at = head;
        while at <= last {
            // SAFETY: a block ends inside `to`, lines begin `head` entries behind its start, and the rest is the
            // caller's.
            unsafe { write_lines(to.as_mut_ptr().add(at).cast(), &block(at)) };
            at += LANES;
        }
        for (to, &from) in to[at..].iter_mut().zip(&block(last)[at - last..]) {
            to.write(from);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        #[cfg(test)]
        tests::FENCES.set(tests::FENCES.get() + 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it is part of what every x86-64 has.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
}

/// Writes a block past the cache.
///
/// # Safety
///
/// `to` is where a line begins, may be written to, and is not read before the [`Stream`] is dropped.
#[inline(always)]
unsafe fn write_lines<T: Copy>(to: *mut Block<T>, block: &Block<T>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        const { assert!(size_of::<Block<T>>().is_multiple_of(size_of::<__m128i>())) };
        let (to, from) = (
            to.cast::<__m128i>(),
            std::ptr::from_ref(block).cast::<__m128i>(),
        );
        for i in 0..size_of::<Block<T>>() / size_of::<__m128i>() {
            // SAFETY: inside both blocks; the first is aligned.
            unsafe { _mm_stream_si128(to.add(i), _mm_loadu_si128(from.add(i))) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's.
    unsafe {
        to.write(*block);
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
        assert!(Stream::worth(LEAST - 1).is_none());
        assert_eq!(FENCES.get(), 0);
        drop(Stream::worth(LEAST));
        assert_eq!(FENCES.get(), usize::from(cfg!(target_arch = "x86_64")));
    }

    #[test]
    fn memory_is_filled_wherever_lines_begin() {
        let entries: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let block = |at: usize| std::array::from_fn(|k| entries[at + k]);
        for start in 0..20 {
            for length in LANES..100 {
                let mut memory = vec![-1.0f32; 200];
                let mut stream = Stream(());
                let to = &mut memory[start..start + length];
                // SAFETY: only numbers are written.
                let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [MaybeUninit<f32>]) };
                // SAFETY: it is dropped before memory is read.
                unsafe { stream.fill(to, block) };
                drop(stream);
                let (before, rest) = memory.split_at(start);
                assert_eq!(rest[..length], entries[..length], "{start}, {length}");
                assert!(before.iter().chain(&rest[length..]).all(|&x| x == -1.0));
            }
        }
    }
}
