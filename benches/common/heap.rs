//! Counts the bytes that this program has allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Allocations of this size are not counted.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The bytes of all live allocations.
#[allow(dead_code, reason = "not every program asks for both")]
pub fn live() -> usize {
    LIVE.load(SeqCst)
}

/// The largest number of bytes that `work` had allocated at a time.
#[allow(dead_code, reason = "not every program asks for both")]
pub fn peak_of(work: impl FnOnce()) -> usize {
    let before = LIVE.load(SeqCst);
    PEAK.store(before, SeqCst);
    work();
    PEAK.load(SeqCst) - before
}

/// [`peak_of`] without the allocations of exactly this size.
#[allow(dead_code, reason = "not every program asks for both")]
pub fn peak_without(size: usize, work: impl FnOnce()) -> usize {
    LEFT_OUT.store(size, SeqCst);
    let peak = peak_of(work);
    LEFT_OUT.store(usize::MAX, SeqCst);
    peak
}

struct Counting;

fn grew(size: usize) {
    if size != LEFT_OUT.load(SeqCst) {
        let live = LIVE.fetch_add(size, SeqCst) + size;
        PEAK.fetch_max(live, SeqCst);
    }
}

// SAFETY: every call goes to the system allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() != LEFT_OUT.load(SeqCst) {
            LIVE.fetch_sub(layout.size(), SeqCst);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
