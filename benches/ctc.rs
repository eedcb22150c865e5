//! Each public function on its own: `cargo bench --bench ctc`, or `-- --quick`, or one group with
//! `-- step`. As many threads as rayon takes; `RAYON_NUM_THREADS` sets them.

use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{
    CtcLoss, CtcLossOptions, GradientKind, InputLayout, Isa, Reduction, ctc_loss,
    ctc_loss_with_logits,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};

/// (T, N, C, S)
type Shape = (usize, usize, usize, usize);

const LATTICE: [Shape; 4] = [
    (50, 16, 20, 30),
    (150, 64, 80, 20),
    (500, 16, 32, 80),
    (1000, 16, 32, 120),
];
const WIDE: [Shape; 2] = [(500, 16, 5000, 60), (1500, 8, 1000, 200)];
/// One item: both directions share the threads.
const LONG: Shape = (4000, 1, 32, 400);
/// Where one thing is varied and the shape is not.
const MIDDLE: Shape = (500, 16, 32, 80);

struct Case {
    leaf: Var,
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
    opts: CtcLossOptions,
}

type Loss =
    fn(&Tensor, &Tensor, Vec<usize>, Vec<usize>, CtcLossOptions) -> candle_core::Result<Tensor>;

const LOG_PROBS: Loss = ctc_loss;
const LOGITS: Loss = ctc_loss_with_logits;

impl Case {
    /// Log-probabilities, which are logits too.
    fn new((frames, batch, classes, labels): Shape) -> Self {
        let x = Tensor::randn(0f32, 1.0, (frames, batch, classes), &Device::Cpu).unwrap();
        let targets = (0..batch * labels)
            .map(|i| 1 + (i * 7 % (classes - 1)) as u32)
            .collect();
        Self {
            leaf: Var::from_tensor(&candle_nn::ops::log_softmax(&x, 2).unwrap()).unwrap(),
            targets: Tensor::from_vec(targets, (batch, labels), &Device::Cpu).unwrap(),
            input_lengths: vec![frames; batch],
            target_lengths: vec![labels; batch],
            opts: CtcLossOptions {
                reduction: Reduction::Sum,
                ..Default::default()
            },
        }
    }

    fn of_dtype(mut self, dtype: DType) -> Self {
        self.leaf = Var::from_tensor(&self.leaf.to_dtype(dtype).unwrap()).unwrap();
        self
    }

    fn loss(&self, loss: Loss, x: &Tensor) -> Tensor {
        let lengths = (self.input_lengths.clone(), self.target_lengths.clone());
        loss(x, &self.targets, lengths.0, lengths.1, self.opts).unwrap()
    }

    /// The loss of an input that is not tracked.
    fn score(&self, loss: Loss) -> Tensor {
        self.loss(loss, &self.leaf.as_detached_tensor())
    }

    /// Loss and gradient.
    fn step(&self, loss: Loss) -> candle_core::backprop::GradStore {
        self.loss(loss, &self.leaf).backward().unwrap()
    }
}

fn text((frames, batch, classes, labels): Shape) -> String {
    format!("T{frames} N{batch} C{classes} S{labels}")
}

/// The stages that the public functions show: the loss alone, the loss with what its gradient
/// needs, the gradient, and all of a training step.
fn stages(group: &mut BenchmarkGroup<WallTime>, shape: Shape, loss: Loss) {
    let case = Case::new(shape);
    let id = |stage| BenchmarkId::new(stage, text(shape));
    group.bench_function(id("score"), |b| b.iter(|| case.score(loss)));
    group.bench_function(id("forward"), |b| b.iter(|| case.loss(loss, &case.leaf)));
    let tracked = case.loss(loss, &case.leaf);
    group.bench_function(id("backward"), |b| b.iter(|| tracked.backward().unwrap()));
    group.bench_function(id("step"), |b| b.iter(|| case.step(loss)));
}

fn log_probs(c: &mut Criterion) {
    let mut group = c.benchmark_group("ctc_loss");
    for shape in LATTICE.into_iter().chain([LONG]) {
        stages(&mut group, shape, LOG_PROBS);
    }
}

fn logits(c: &mut Criterion) {
    let mut group = c.benchmark_group("ctc_loss_with_logits");
    group.sample_size(10);
    for shape in WIDE.into_iter().chain([MIDDLE]) {
        stages(&mut group, shape, LOGITS);
    }
}

fn module(c: &mut Criterion) {
    let case = Case::new(MIDDLE);
    let module = CtcLoss::new(case.opts);
    let mut group = c.benchmark_group("CtcLoss");
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (x, lengths) = (&case.leaf, (&case.input_lengths, &case.target_lengths));
            module
                .forward(x, &case.targets, lengths.0, lengths.1)
                .unwrap()
        })
    });
    group.bench_function("forward_with_logits", |b| {
        b.iter(|| {
            let (x, lengths) = (&case.leaf, (&case.input_lengths, &case.target_lengths));
            module
                .forward_with_logits(x, &case.targets, lengths.0, lengths.1)
                .unwrap()
        })
    });
}

/// A training step with one choice varied.
fn choices(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let case = Case::new(MIDDLE).of_dtype(dtype);
        group.bench_function(BenchmarkId::new("dtype", dtype.as_str()), |b| {
            b.iter(|| case.step(LOG_PROBS))
        });
    }
    for gradient in [GradientKind::Exact, GradientKind::Torch] {
        let mut case = Case::new(MIDDLE);
        case.opts.gradient = gradient;
        group.bench_function(BenchmarkId::new("gradient", format!("{gradient:?}")), |b| {
            b.iter(|| case.step(LOG_PROBS))
        });
    }
    for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
        let mut case = Case::new(MIDDLE);
        if layout == InputLayout::BatchMajor {
            let x = case.leaf.transpose(0, 1).unwrap().contiguous().unwrap();
            case.leaf = Var::from_tensor(&x).unwrap();
            case.opts.layout = layout;
        }
        group.bench_function(BenchmarkId::new("layout", format!("{layout:?}")), |b| {
            b.iter(|| case.step(LOG_PROBS))
        });
    }
    let case = Case::new(MIDDLE);
    let best = Isa::current();
    for isa in Isa::available() {
        isa.force();
        group.bench_function(BenchmarkId::new("isa", format!("{isa:?}")), |b| {
            b.iter(|| case.step(LOG_PROBS))
        });
    }
    best.force();
}

criterion_group!(benches, log_probs, logits, module, choices);
criterion_main!(benches);
