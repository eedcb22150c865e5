//! A training step of a linear layer and the loss: `ctc_loss_linear` beside candle's layer followed by
//! `ctc_loss_with_logits`. Time and peak memory, with full lengths and with lengths from a quarter of the frames up.
//!
//! `cargo bench --bench linear` prints the table and fails when a bound does not hold; `-- --write` puts it into
//! docs/benchmarks.md too. If `CTC_COMPARE_VENV` names a virtual environment with PyTorch, PyTorch runs the same step,
//! in turn.

#[path = "common/heap.rs"]
mod heap;
#[path = "common/page.rs"]
mod page;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss_linear, ctc_loss_with_logits};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Frames, items, features, classes and labels, in the order of the tables.
struct Shape {
    frames: usize,
    items: usize,
    features: usize,
    classes: usize,
    labels: usize,
    uneven: bool,
    rounds: usize,
}

const fn shape(sizes: [usize; 5], uneven: bool, rounds: usize) -> Shape {
    let [frames, items, features, classes, labels] = sizes;
    Shape {
        frames,
        items,
        features,
        classes,
        labels,
        uneven,
        rounds,
    }
}

const SHAPES: [Shape; 5] = [
    shape([183, 90, 512, 10241, 29], false, 3),
    shape([183, 90, 512, 10241, 29], true, 3),
    shape([500, 16, 256, 5000, 60], false, 5),
    shape([500, 16, 256, 5000, 60], true, 5),
    shape([1500, 8, 512, 128000, 200], false, 1),
];

/// Bytes above which the layer and the loss are not run one after the other: this machine has 24 GiB.
const MOST_LOGITS: usize = 2 << 30;

/// The most memory, beside that of the layer and the loss one after the other, and the most time.
const MOST_MEMORY: f64 = 0.2;
const MOST_TIME: f64 = 1.0;

struct Step {
    hidden: Var,
    weight: Var,
    bias: Var,
    targets: Tensor,
    lengths: Vec<usize>,
    labels: Vec<usize>,
}

impl Step {
    fn new(shape: &Shape) -> Result<Self> {
        let device = &Device::Cpu;
        let var = |dims: &[usize], scale: f64| {
            Var::from_tensor(&(Tensor::randn(0f32, 1., dims, device)? * scale)?)
        };
        let Shape {
            frames,
            items,
            features,
            classes,
            ..
        } = *shape;
        let labels = (0..items * shape.labels).map(|i| 1 + (i * 7919 % (classes - 1)) as u32);
        // Evenly spread from a quarter of the frames to all of them, in no order.
        let length = |item: usize| match shape.uneven {
            true => frames - item * 7 % items * (frames - frames / 4) / items,
            false => frames,
        };
        Ok(Self {
            hidden: var(&[frames, items, features], 1.0)?,
            weight: var(&[classes, features], (features as f64).sqrt().recip())?,
            bias: var(&[classes], 0.1)?,
            targets: Tensor::from_iter(labels, device)?.reshape((items, shape.labels))?,
            lengths: (0..items).map(length).collect(),
            labels: vec![shape.labels; items],
        })
    }

    fn opts() -> CtcLossOptions {
        CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        }
    }

    fn fused(&self) -> Result<f32> {
        let (hidden, weight, bias) = (&self.hidden, &self.weight, Some(self.bias.as_tensor()));
        let loss = ctc_loss_linear(
            hidden,
            weight,
            bias,
            &self.targets,
            &self.lengths,
            &self.labels,
            Self::opts(),
        )?;
        loss.backward()?;
        loss.to_scalar()
    }

    fn unfused(&self) -> Result<f32> {
        let (frames, items, features) = self.hidden.dims3()?;
        let flat = self.hidden.reshape((frames * items, features))?;
        let logits = flat.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?;
        let logits = logits.reshape((frames, items, ()))?;
        let loss = ctc_loss_with_logits(
            &logits,
            &self.targets,
            &self.lengths,
            &self.labels,
            Self::opts(),
        )?;
        loss.backward()?;
        loss.to_scalar()
    }
}

#[derive(Clone, Copy)]
struct Measured {
    milliseconds: f64,
    bytes: f64,
}

fn measure(step: impl FnOnce() -> Result<f32>) -> Result<(Measured, f32)> {
    let mut loss = Ok(0.0);
    let start = Instant::now();
    let bytes = heap::peak_of(|| loss = step()) as f64;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    Ok((
        Measured {
            milliseconds,
            bytes,
        },
        loss?,
    ))
}

/// The median by time.
fn median(mut all: Vec<Measured>) -> Option<Measured> {
    all.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
    let middle = all.len() / 2;
    all.into_iter().nth(middle)
}

/// The same step in PyTorch, in a process of its own, which prints milliseconds and bytes.
fn torch(shape: &Shape, lengths: &[usize]) -> Option<Measured> {
    let venv = std::env::var_os("CTC_COMPARE_VENV")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/linear.py");
    let sizes = [shape.frames, shape.features, shape.classes, shape.labels];
    let numbers = sizes.iter().chain(lengths);
    let output = Command::new(Path::new(&venv).join("bin/python"))
        .arg(script)
        .args(numbers.map(usize::to_string))
        .output()
        .expect("python");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut fields = text.split_whitespace().map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(milliseconds)), Some(Ok(bytes))) => Some(Measured {
            milliseconds,
            bytes,
        }),
        _ => panic!("PyTorch: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn main() -> Result<()> {
    let mut table = String::from(
        "| T, N, D, C, S | lengths | `ctc_loss_linear`, ms | candle, ms | ratio | PyTorch, ms | ratio | \
         `ctc_loss_linear`, MB | candle, MB | share | PyTorch, MB |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut failures = Vec::new();
    for shape in &SHAPES {
        let step = Step::new(shape)?;
        let logits = shape.frames * shape.items * shape.classes * DType::F32.size_in_bytes();
        let whole = logits <= MOST_LOGITS;
        let (mut fused, mut unfused, mut peers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..shape.rounds {
            let (measured, loss) = measure(|| step.fused())?;
            fused.push(measured);
            if whole {
                let (measured, expected) = measure(|| step.unfused())?;
                unfused.push(measured);
                assert!(
                    (loss - expected).abs() <= 1e-5 * expected,
                    "{loss} {expected}"
                );
                peers.extend(torch(shape, &step.lengths));
            }
        }
        let [fused, unfused, peer] = [fused, unfused, peers].map(median);
        let fused = fused.expect("a round");
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let time = unfused.map(|other| other.milliseconds / fused.milliseconds);
        let share = unfused.map(|other| fused.bytes / other.bytes);
        writeln!(
            table,
            "| {}, {}, {}, {}, {} | {} | {:.0} | {} | {} | {} | {} | {:.0} | {} | {} | {} |",
            shape.frames,
            shape.items,
            shape.features,
            shape.classes,
            shape.labels,
            if shape.uneven { "T/4 to T" } else { "T" },
            fused.milliseconds,
            number(unfused.map(|other| other.milliseconds), 0),
            number(time, 2),
            number(peer.map(|peer| peer.milliseconds), 0),
            number(peer.map(|peer| peer.milliseconds / fused.milliseconds), 2),
            fused.bytes / 1e6,
            number(unfused.map(|other| other.bytes / 1e6), 0),
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
            number(peer.map(|peer| peer.bytes / 1e6), 0),
        )
        .expect("a string takes any text");
        // Beside four tensors of logits where they were not made.
        let share = share.unwrap_or(fused.bytes / (4 * logits) as f64);
        if share > MOST_MEMORY {
            failures.push(format!("{:.0} % of the memory", 100.0 * share));
        }
        if time.is_some_and(|time| time.recip() > MOST_TIME) {
            failures.push(format!("{time:?} times as fast"));
        }
    }
    println!("{table}");
    if page::wanted() {
        page::replace("linear", &table);
    }
    assert!(failures.is_empty(), "{failures:?}");
    Ok(())
}
