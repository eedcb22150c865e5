//! What a loss allocates, counted by the allocator of this program: the peak of a training step,
//! and that scoring does not grow with the length.
//!
//! `cargo bench --bench memory` prints the tables and fails when a bound does not hold;
//! `-- --write` puts them into docs/benchmarks.md too.

#[path = "common/page.rs"]
mod page;

use candle_core::{Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss, ctc_loss_with_logits};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Live bytes of all allocations but candle's copies of the gradient, and their peak.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The size of a gradient; allocations of this size are counted.
static GRADIENT: AtomicUsize = AtomicUsize::new(usize::MAX);
static GRADIENTS: AtomicUsize = AtomicUsize::new(0);
/// Candle's copies: where they are, so that their end can be told from that of ours.
static COPIES: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// How often a training step and a score are repeated for their largest peak.
const STEPS: usize = 10;
const SCORES: usize = 50;

/// Bytes of a training step for each frame and state, beside the gradient and the table of posteriors, at most.
const BYTES_OF_A_STATE: f64 = 2.0;

struct Counting;

fn grew(pointer: *mut u8, bytes: usize) {
    if bytes == GRADIENT.load(SeqCst) {
        // A training step allocates this size three times: our gradient first, then the zeros
        // that candle adds it to, then their sum.
        let nth = GRADIENTS.fetch_add(1, SeqCst);
        if let Some(copy) = nth.checked_sub(1).and_then(|copy| COPIES.get(copy)) {
            copy.store(pointer as usize, SeqCst);
            return;
        }
    }
    let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
    PEAK.fetch_max(live, SeqCst);
}

fn shrank(pointer: *mut u8, bytes: usize) {
    for copy in &COPIES {
        let candle = copy.compare_exchange(pointer as usize, 0, SeqCst, SeqCst);
        if candle.is_ok() {
            return;
        }
    }
    LIVE.fetch_sub(bytes, SeqCst);
}

// SAFETY: every call goes to the system allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let pointer = unsafe { System.alloc(layout) };
        grew(pointer, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        grew(pointer, layout.size());
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrank(pointer, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy)]
struct Shape {
    frames: usize,
    batch: usize,
    classes: usize,
    labels: usize,
}

impl Shape {
    fn gradient(self) -> usize {
        4 * self.frames * self.batch * self.classes
    }

    /// States of the lattices, as the sum over all frames.
    fn states(self) -> usize {
        self.batch * self.frames * (2 * self.labels + 1)
    }

    /// Label `i` of the batch.
    fn label(self, i: usize) -> u32 {
        1 + (i * 7 % (self.classes - 1)) as u32
    }

    /// Bytes of the posteriors that the forward pass keeps: one f32 for each frame and class in use, in whole blocks
    /// of 8 frames.
    fn posteriors(self) -> usize {
        let entries = |item: usize| {
            let labels = item * self.labels..(item + 1) * self.labels;
            let used: BTreeSet<u32> = labels.map(|i| self.label(i)).collect();
            used.len() + 1
        };
        let entries: usize = (0..self.batch).map(entries).sum();
        4 * self.frames.next_multiple_of(8) * entries
    }

    fn text(self) -> String {
        let Shape {
            frames,
            batch,
            classes,
            labels,
        } = self;
        format!("{frames}, {batch}, {classes}, {labels}")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    LogProbs,
    Logits,
}

struct Case {
    shape: Shape,
    leaf: Var,
    targets: Tensor,
}

impl Case {
    fn new(shape: Shape) -> Result<Self> {
        let dims = (shape.frames, shape.batch, shape.classes);
        let x = Tensor::randn(0f32, 1.0, dims, &Device::Cpu)?;
        let labels = (0..shape.batch * shape.labels)
            .map(|i| shape.label(i))
            .collect();
        Ok(Self {
            shape,
            leaf: Var::from_tensor(&candle_nn::ops::log_softmax(&x, 2)?)?,
            targets: Tensor::from_vec(labels, (shape.batch, shape.labels), &Device::Cpu)?,
        })
    }

    fn loss(&self, input: Input, x: &Tensor) -> Result<Tensor> {
        let loss = match input {
            Input::LogProbs => ctc_loss,
            Input::Logits => ctc_loss_with_logits,
        };
        let frames = vec![self.shape.frames; self.shape.batch];
        let labels = vec![self.shape.labels; self.shape.batch];
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        loss(x, &self.targets, frames, labels, opts)
    }

    fn step(&self, input: Input) -> Result<()> {
        let gradients = self.loss(input, &self.leaf)?.backward()?;
        assert!(gradients.get(&self.leaf).is_some());
        Ok(())
    }

    /// The peak of a training step without candle's copies of the gradient. Threads meet as they
    /// will, so it is the largest of several steps.
    fn training_peak(&self, input: Input) -> Result<usize> {
        // Whatever is made once is made now.
        self.step(input)?;
        let before = LIVE.load(SeqCst);
        PEAK.store(before, SeqCst);
        for _ in 0..STEPS {
            GRADIENTS.store(0, SeqCst);
            GRADIENT.store(self.shape.gradient(), SeqCst);
            self.step(input)?;
            GRADIENT.store(usize::MAX, SeqCst);
            let gradients = GRADIENTS.load(SeqCst);
            assert_eq!(
                gradients, 3,
                "one gradient of ours, and candle's two copies"
            );
        }
        Ok(PEAK.load(SeqCst) - before)
    }

    fn scoring_peak(&self, input: Input) -> Result<usize> {
        let x = self.leaf.as_detached_tensor();
        self.loss(input, &x)?;
        let before = LIVE.load(SeqCst);
        PEAK.store(before, SeqCst);
        for _ in 0..SCORES {
            self.loss(input, &x)?.to_scalar::<f32>()?;
        }
        Ok(PEAK.load(SeqCst) - before)
    }
}

fn kib(bytes: usize) -> String {
    format!("{:.0}", bytes as f64 / 1024.0)
}

fn main() -> Result<()> {
    // Working memory is held by each thread: their number is part of the result. Inside a pool the loss
    // keeps to that pool.
    let two_threads = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    two_threads.expect("a pool").install(measure)
}

fn measure() -> Result<()> {
    let mut text = String::from("Two threads; the largest of 10 steps and of 50 scores. KiB.\n\n");
    text += "| Training step: T, N, C, S | input | gradient | our peak beside it | table of posteriors | the rest, \
             bytes for each frame and state |\n";
    text += "|---|---|---:|---:|---:|---:|\n";
    let mut failures = Vec::new();
    let shapes = [
        (50, 16, 20, 30),
        (150, 64, 80, 20),
        (500, 16, 32, 80),
        (1000, 16, 32, 120),
        (2000, 2, 16, 300),
        (500, 4, 1000, 60),
    ];
    for (frames, batch, classes, labels) in shapes {
        let shape = Shape {
            frames,
            batch,
            classes,
            labels,
        };
        let case = Case::new(shape)?;
        for (input, name) in [
            (Input::LogProbs, "log-probabilities"),
            (Input::Logits, "logits"),
        ] {
            let peak = case.training_peak(input)?;
            let beside = peak.saturating_sub(shape.gradient());
            let rest = beside.saturating_sub(shape.posteriors()) as f64 / shape.states() as f64;
            writeln!(
                text,
                "| {} | {name} | {} | {} | {} | {rest:.2} |",
                shape.text(),
                kib(shape.gradient()),
                kib(beside),
                kib(shape.posteriors()),
            )
            .expect("a string grows");
            if rest > BYTES_OF_A_STATE {
                failures.push(format!("{} {name}: {beside} bytes", shape.text()));
            }
        }
    }
    text += "\n| Scoring: C = 32, S = 80 | peak, T = 1000 | T = 2000 | T = 4000 |\n";
    text += "|---|---:|---:|---:|\n";
    // A few items, and a batch whose items go side by side.
    for (batch, input, name) in [
        (4, Input::LogProbs, "log-probabilities"),
        (4, Input::Logits, "logits"),
        (64, Input::LogProbs, "log-probabilities"),
        (64, Input::Logits, "logits"),
    ] {
        let mut peaks = Vec::new();
        for frames in [1000, 2000, 4000] {
            let case = Case::new(Shape {
                frames,
                batch,
                classes: 32,
                labels: 80,
            })?;
            peaks.push(case.scoring_peak(input)?);
        }
        let cells: Vec<String> = peaks.iter().map(|&peak| kib(peak)).collect();
        writeln!(text, "| N = {batch}, {name} | {} |", cells.join(" | ")).expect("a string grows");
        // The pool's own queues may grow by a little.
        if peaks[2] > peaks[0] + peaks[0] / 4 {
            failures.push(format!(
                "scoring, N = {batch}, {name}: the peak grows with T"
            ));
        }
    }
    println!("{text}");
    if page::wanted() {
        page::replace("memory", &text);
    }
    assert!(failures.is_empty(), "out of bounds: {failures:#?}");
    Ok(())
}
