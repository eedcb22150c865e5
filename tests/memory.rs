//! What a loss keeps: nothing without a gradient, and nothing once its graph is dropped.
//!
//! A counting allocator watches every allocation of this program, so the tests take turns.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction};
use common::{Entry, Rng, tensors};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn grew(bytes: usize) {
    let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
    PEAK.fetch_max(live, SeqCst);
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
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What the test harness may allocate meanwhile.
const NOISE: usize = 64 << 10;

const FRAMES: usize = 2000;
const ITEMS: usize = 2;
const CLASSES: usize = 16;
const LABELS: usize = 300;
const STATES: usize = 2 * LABELS + 1;
/// One f32 for each state, frame and item.
const LATTICE: usize = FRAMES * STATES * ITEMS * 4;

fn input() -> Tensor {
    let values = Rng::new(90).values(FRAMES * ITEMS * CLASSES, 2.0);
    tensors::floats(&values, &[FRAMES, ITEMS, CLASSES], DType::F32, &Device::Cpu)
}

fn targets() -> Tensor {
    let mut rng = Rng::new(91);
    let targets = [
        rng.target(LABELS, CLASSES, 0, 0.2),
        rng.target(LABELS, CLASSES, 0, 0.2),
    ];
    tensors::padded(&targets, 0, 0, DType::U32, &Device::Cpu)
}

fn loss(entry: Entry, x: &Tensor, targets: &Tensor) -> Tensor {
    entry
        .loss(
            x,
            targets,
            &[FRAMES; ITEMS],
            &[LABELS; ITEMS],
            CtcLossOptions::default(),
        )
        .unwrap()
}

/// Starts the thread pool and whatever else is made once.
fn warm_up(entry: Entry, targets: &Tensor) {
    let leaf = Var::from_tensor(&input()).unwrap();
    loss(entry, &leaf, targets).backward().unwrap();
}

#[test]
fn dropping_the_graph_frees_all_that_the_loss_kept() {
    let _turn = turn();
    for entry in Entry::ALL {
        let targets = targets();
        warm_up(entry, &targets);
        let before = LIVE.load(SeqCst);
        for with_backward in [false, true] {
            let leaf = Var::from_tensor(&input()).unwrap();
            let loss = loss(entry, &leaf, &targets);
            let gradients = with_backward.then(|| loss.backward().unwrap());
            assert!(LIVE.load(SeqCst) > before + NOISE, "the counter counts");
            drop((gradients, loss, leaf));
            let after = LIVE.load(SeqCst);
            assert!(
                after <= before + NOISE,
                "{entry:?}: {} bytes stay",
                after - before
            );
        }
    }
}

#[test]
fn dropping_the_loss_frees_its_state_while_the_input_and_gradient_live() {
    let _turn = turn();
    for entry in Entry::ALL {
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
            let targets = targets();
            warm_up(entry, &targets);
            let leaf = Var::from_tensor(&input()).unwrap();
            let before = LIVE.load(SeqCst);
            let options = CtcLossOptions {
                reduction,
                ..Default::default()
            };
            let loss = entry.loss(&leaf, &targets, &[FRAMES; ITEMS], &[LABELS; ITEMS], options);
            let loss = loss.unwrap();
            let gradients = loss.backward().unwrap();
            drop(loss);
            // The gradient itself has the size of the input.
            let kept = LIVE.load(SeqCst).saturating_sub(before);
            assert!(
                kept <= FRAMES * ITEMS * CLASSES * 4 + NOISE,
                "{entry:?} {reduction:?}: {kept} bytes stay"
            );
            drop(gradients);
        }
    }
}

#[test]
fn an_untracked_loss_keeps_nothing() {
    let _turn = turn();
    for entry in Entry::ALL {
        let (targets, x) = (targets(), input());
        warm_up(entry, &targets);
        let before = LIVE.load(SeqCst);
        let loss = loss(entry, &x, &targets);
        let after = LIVE.load(SeqCst);
        assert!(
            after <= before + NOISE,
            "{entry:?}: {} bytes stay",
            after - before
        );
        drop(loss);
    }
}

#[test]
fn an_untracked_loss_stores_no_lattice() {
    let _turn = turn();
    for entry in Entry::ALL {
        let (targets, x) = (targets(), input());
        warm_up(entry, &targets);
        let before = LIVE.load(SeqCst);
        PEAK.store(before, SeqCst);
        loss(entry, &x, &targets);
        let peak = PEAK.load(SeqCst) - before;
        assert!(
            peak < LATTICE / 8,
            "{entry:?}: {peak} bytes at the peak; a lattice is {LATTICE}"
        );
    }
}

#[test]
fn a_training_step_keeps_no_lattice() {
    let _turn = turn();
    for entry in Entry::ALL {
        let targets = targets();
        warm_up(entry, &targets);
        let leaf = Var::from_tensor(&input()).unwrap();
        let before = LIVE.load(SeqCst);
        PEAK.store(before, SeqCst);
        loss(entry, &leaf, &targets).backward().unwrap();
        let peak = PEAK.load(SeqCst) - before;
        assert!(
            peak < LATTICE / 2,
            "{entry:?}: {peak} bytes at the peak; a lattice is {LATTICE}"
        );
    }
}
