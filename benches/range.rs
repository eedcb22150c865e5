//! Whether the cost of a training step depends on the numbers in its input: time and peak memory over how
//! sure a model is, over noise of several sizes, and over targets that nearly fill their frames.
//!
//! `cargo bench --bench range` prints the tables and fails when a bound does not hold; `-- --write` puts
//! them into docs/benchmarks.md too.

#[path = "common/page.rs"]
mod page;

use candle_core::{Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Live bytes of all allocations that are not as large as a gradient, and their peak.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The size of a gradient: ours, the zeros that candle adds it to, and their sum.
static GRADIENT: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

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
        if layout.size() != GRADIENT.load(SeqCst) {
            LIVE.fetch_sub(layout.size(), SeqCst);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn grew(bytes: usize) {
    if bytes != GRADIENT.load(SeqCst) {
        let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
        PEAK.fetch_max(live, SeqCst);
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

/// Where the entries of the input come from.
#[derive(Clone, Copy)]
enum Model {
    /// The right class leads by so many nats in each frame, over noise from 0 to 1. A label leads in half of its
    /// frames, and the blank in the others.
    Lead(f64),
    /// Logits are normal with this standard deviation.
    Noise(f64),
}

impl Shape {
    fn targets(self) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(1);
        let labels = 1..self.classes as u32;
        (0..self.batch * self.labels)
            .map(|_| random.random_range(labels.clone()))
            .collect()
    }

    /// Log-probabilities (T, N, C).
    fn input(self, model: Model, targets: &[u32]) -> Result<Tensor> {
        let Shape {
            frames,
            batch,
            classes,
            labels,
        } = self;
        let mut random = StdRng::seed_from_u64(2);
        let mut data = vec![0f32; frames * batch * classes];
        for (row, entries) in data.chunks_exact_mut(classes).enumerate() {
            let (t, n) = (row / batch, row % batch);
            match model {
                Model::Lead(lead) => {
                    entries.fill_with(|| random.random());
                    let place = t as f64 * labels as f64 / frames as f64;
                    // The first frame of a label is always its own.
                    let first = t == 0
                        || place as usize
                            > ((t - 1) as f64 * labels as f64 / frames as f64) as usize;
                    let leader = if first || place.fract() < 0.5 {
                        targets[n * labels + place as usize] as usize
                    } else {
                        0
                    };
                    entries[leader] += lead as f32;
                }
                Model::Noise(std) => {
                    entries.fill_with(|| std as f32 * random.sample::<f32, _>(StandardNormal))
                }
            }
            let top = entries.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = entries.iter().map(|x| (x - top).exp()).sum();
            let log_sum = top + sum.ln();
            entries.iter_mut().for_each(|x| *x -= log_sum);
        }
        Tensor::from_vec(data, (frames, batch, classes), &Device::Cpu)
    }

    /// Bytes of the posteriors: one f32 for each frame and class in use, in whole blocks of 8 frames.
    fn table(self, targets: &[u32]) -> usize {
        let of_item = |target: &[u32]| {
            let mut used = target.to_vec();
            used.sort_unstable();
            used.dedup();
            4 * self.frames.next_multiple_of(8) * (used.len() + 1)
        };
        targets.chunks(self.labels).map(of_item).sum()
    }
}

struct Measured {
    time: Duration,
    /// The peak beside gradients and the table of posteriors.
    bytes: usize,
}

fn measure(shape: Shape, model: Model) -> Result<Measured> {
    let Shape {
        frames,
        batch,
        classes,
        labels,
    } = shape;
    let targets = shape.targets();
    let leaf = Var::from_tensor(&shape.input(model, &targets)?)?;
    let padded = Tensor::from_slice(&targets, (batch, labels), &Device::Cpu)?;
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    };
    let step = || -> Result<()> {
        let loss = ctc_loss(
            &leaf,
            &padded,
            vec![frames; batch],
            vec![labels; batch],
            opts,
        )?;
        assert!(loss.to_scalar::<f32>()?.is_finite());
        loss.backward()?;
        Ok(())
    };
    let start = Instant::now();
    step()?;
    let once = start.elapsed();
    let rounds = (0.4 / once.as_secs_f64()).clamp(2.0, 60.0) as usize;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        step()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let before = LIVE.load(SeqCst);
    PEAK.store(before, SeqCst);
    GRADIENT.store(4 * frames * batch * classes, SeqCst);
    step()?;
    GRADIENT.store(usize::MAX, SeqCst);
    let peak = PEAK.load(SeqCst) - before;
    Ok(Measured {
        time: times[times.len() / 4],
        bytes: peak.saturating_sub(shape.table(&targets)),
    })
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let lead = [0.0, 6.0, 12.0, 14.0, 16.0, 20.0, 30.0, 80.0].map(Model::Lead);
    let noise = [0.5, 1.0, 2.0, 4.0].map(Model::Noise);
    let mut cases: Vec<([usize; 4], &[Model])> = vec![
        ([1000, 16, 32, 120], &lead),
        ([1667, 16, 6, 400], &lead),
        ([1667, 1, 6, 400], &lead),
        ([150, 64, 80, 20], &lead),
        ([500, 16, 5000, 60], &lead),
        ([8000, 1, 32, 200], &noise),
    ];
    if !quick {
        cases.extend([
            ([4000, 1, 30, 2000], lead.as_slice()),
            ([40000, 1, 32, 4000], &noise),
            ([200000, 1, 32, 10000], &noise),
        ]);
        for frames in [2500, 5000, 10000, 20000, 40000] {
            cases.push(([frames, 1, 30, frames * 3 / 5], &noise[1..2]));
        }
    }
    let mut text = String::new();
    for ([frames, batch, classes, labels], models) in cases {
        let shape = Shape {
            frames,
            batch,
            classes,
            labels,
        };
        let states = frames * batch * (2 * labels + 1);
        let (mut least_time, mut least_bytes) = (f64::INFINITY, usize::MAX);
        for &model in models {
            let Measured { time, bytes } = measure(shape, model)?;
            let time = 1e3 * time.as_secs_f64();
            least_time = least_time.min(time);
            least_bytes = least_bytes.min(bytes);
            let name = match model {
                Model::Lead(m) => format!("lead {m}"),
                Model::Noise(std) => format!("noise {std}"),
            };
            let line = format!(
                "| {frames}, {batch}, {classes}, {labels} | {name} | {time:.3} | {:.2} | {:.0} | {:.2} | {:.2} |",
                time / least_time,
                bytes as f64 / 1024.0,
                bytes as f64 / least_bytes as f64,
                bytes as f64 / states as f64,
            );
            println!("{line}");
            writeln!(text, "{line}").expect("a string grows");
        }
    }
    if page::wanted() {
        page::replace("range", &text);
    }
    Ok(())
}
