//! What a loss keeps: nothing without a gradient, and nothing once its graph is dropped. And what a training step takes
//! while it works, which is the same for all inputs of a shape.
//!
//! A counting allocator watches every allocation of this program, so the tests take turns.

mod common;
#[path = "../benches/common/heap.rs"]
mod heap;
#[path = "../benches/common/models.rs"]
mod models;

use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{
    CtcLossOptions, InputKind, InputLayout, LabelPrior, MemoryNeeded, Reduction, ScoreOptions,
    ctc_loss_linear, memory_needed, transcript_log_likelihoods,
};
use common::{Entry, Rng, tensors};
use heap::{live, peak_of, peak_without};
use models::{CONFIDENCES, LENGTHS, Model, OTHERS, OTHERS_AT, SHAPES, Shape, Step};
use std::sync::{Mutex, MutexGuard};

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
        let before = live();
        for with_backward in [false, true] {
            let leaf = Var::from_tensor(&input()).unwrap();
            let loss = loss(entry, &leaf, &targets);
            let gradients = with_backward.then(|| loss.backward().unwrap());
            assert!(live() > before + NOISE, "the counter counts");
            drop((gradients, loss, leaf));
            let after = live();
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
            let before = live();
            let options = CtcLossOptions {
                reduction,
                ..Default::default()
            };
            let loss = entry.loss(&leaf, &targets, &[FRAMES; ITEMS], &[LABELS; ITEMS], options);
            let loss = loss.unwrap();
            let gradients = loss.backward().unwrap();
            drop(loss);
            // The gradient itself has the size of the input.
            let kept = live().saturating_sub(before);
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
        let before = live();
        let loss = loss(entry, &x, &targets);
        let after = live();
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
        let peak = peak_of(|| {
            loss(entry, &x, &targets);
        });
        assert!(
            peak < LATTICE / 8,
            "{entry:?}: {peak} bytes at the peak; a lattice is {LATTICE}"
        );
    }
}

#[test]
fn an_nbest_list_has_one_dense_gradient() {
    let _turn = turn();
    const FRAMES: usize = 500;
    const CLASSES: usize = 4000;
    const INPUT: usize = FRAMES * CLASSES * 4;
    let mut rng = Rng::new(92);
    let labels = |target: Vec<usize>| target.into_iter().map(|label| label as u32).collect();
    let list: Vec<Vec<u32>> = (0..24)
        .map(|_| labels(rng.target(40, CLASSES, 0, 0.2)))
        .collect();
    let values = rng.values(FRAMES * CLASSES, 2.0);
    let input = tensors::floats(&values, &[FRAMES, CLASSES], DType::F32, &Device::Cpu);
    let leaf = Var::from_tensor(&input).unwrap();
    let opts = ScoreOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    let step = || {
        let values = transcript_log_likelihoods(&leaf, &list, opts).unwrap();
        let gradients = values.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&leaf).unwrap().dims(), [FRAMES, CLASSES]);
    };
    step();
    let peak = peak_of(step);
    // The gradient, candle's zeros, and their sum; dense posteriors of all would be 24 times the input.
    assert!(
        peak < 4 * INPUT,
        "{peak} bytes at the peak; the input is {INPUT}"
    );
}

/// The check that log-probabilities are such reads three rows of each item, in parts.
#[test]
fn the_check_of_many_wide_rows_keeps_few_of_them() {
    const MANY: usize = 300;
    const WIDE: usize = 20_000;
    let _turn = turn();
    let even = Tensor::full(-(WIDE as f32).ln(), (1, 1, 1), &Device::Cpu).unwrap();
    let even = even.broadcast_as((3, MANY, WIDE)).unwrap();
    let observe = |items: usize| {
        let some = even.narrow(1, 0, items).unwrap();
        let observed =
            LabelPrior::new().observe(&some, vec![3usize; items], InputLayout::TimeMajor);
        observed.unwrap();
    };
    observe(1);
    let peak = peak_of(|| observe(MANY));
    // All rows in f64.
    let all = 3 * MANY * WIDE * 8;
    assert!(
        peak < all,
        "{peak} bytes at the peak; the rows of all items are {all}"
    );
}

#[test]
fn a_training_step_keeps_no_lattice() {
    let _turn = turn();
    for entry in Entry::ALL {
        let targets = targets();
        warm_up(entry, &targets);
        let leaf = Var::from_tensor(&input()).unwrap();
        let peak = peak_of(|| {
            loss(entry, &leaf, &targets).backward().unwrap();
        });
        assert!(
            peak < LATTICE / 2,
            "{entry:?}: {peak} bytes at the peak; a lattice is {LATTICE}"
        );
    }
}

// At the edge of a group: 16 or 17 of these items are 32 MiB of logits.
#[test]
fn the_loss_of_a_linear_layer_keeps_no_logits() {
    let _turn = turn();
    let (frames, features, classes, labels) = (104, 4, 5000, 5);
    for items in [16, 17, 64] {
        let mut rng = Rng::new(92);
        let mut leaf = |dims: &[usize]| {
            let values = rng.values(dims.iter().product(), 1.0);
            Var::from_tensor(&tensors::floats(&values, dims, DType::F32, &Device::Cpu)).unwrap()
        };
        let hidden = leaf(&[items, frames, features]);
        let (weight, bias) = (leaf(&[classes, features]), leaf(&[classes]));
        let targets = Tensor::ones((items, labels), DType::U32, &Device::Cpu).unwrap();
        let (lengths, of_targets) = (vec![frames; items], vec![labels; items]);
        let opts = CtcLossOptions::batch_major();
        let linear = || {
            let bias = Some(bias.as_tensor());
            ctc_loss_linear(
                &hidden,
                &weight,
                bias,
                &targets,
                &lengths,
                &of_targets,
                opts,
            )
        };
        let unfused = || {
            let flat = hidden.flatten_to(1)?;
            let logits = flat.matmul(&weight.t()?)?.broadcast_add(&bias)?;
            let logits = logits.reshape((items, frames, classes))?;
            Entry::Logits.loss(&logits, &targets, &lengths, &of_targets, opts)
        };
        let peak = |loss: &dyn Fn() -> candle_core::Result<Tensor>| {
            peak_of(|| drop(loss().unwrap().backward().unwrap()))
        };
        let (few, all) = (peak(&linear), peak(&unfused));
        let group = 2 * items.min(16) * frames * classes * 4;
        assert!(few < group + (4 << 20), "{items} items: {few} bytes");
        let logits = items * frames * classes * 4;
        assert!(all > 4 * logits, "{items} items: {all} bytes");
        assert!(items < 64 || 5 * few < all, "{items} items: {few} {all}");
    }
}

/// The peak of a training step beside gradients and the table of posteriors.
fn peak_of_step(shape: Shape, model: Model) -> usize {
    let step = Step::new(shape, model).unwrap();
    let peak = peak_without(shape.gradient(), || step.run().unwrap());
    peak.saturating_sub(step.posteriors())
}

/// Bytes of a training step for each frame and state, at most.
const BYTES_OF_A_STATE: usize = 2;

/// States up to which threads keep the scratch memory of a call for the next, so that its peak depends on the calls
/// before.
const SHORT: usize = 1 << 17;
/// States from which the scratch memory of a thread is a small part of the peak. In a step with fewer, one thread may take
/// all the work, or each a part of it.
const MANY: usize = 1 << 22;
/// States from which a step takes seconds: two models will do there, and `cargo bench --bench range` has all.
const LONG: usize = 1 << 31;

#[test]
fn a_training_step_takes_the_same_memory_however_sure_a_model_is() {
    let _turn = turn();
    warm_up(Entry::ALL[0], &targets());
    let others = OTHERS_AT.map(|shape| (shape, OTHERS.as_slice()));
    for (shape, models) in SHAPES.into_iter().chain(others) {
        if shape.states() <= SHORT {
            continue;
        }
        let some = match (models, shape.states()) {
            ([first, .., last], LONG..) => vec![*first, *last],
            (all, _) => all.to_vec(),
        };
        let peaks: Vec<usize> = some.iter().map(|&m| peak_of_step(shape, m)).collect();
        let (least, most) = (*peaks.iter().min().unwrap(), *peaks.iter().max().unwrap());
        let threads = match shape.states() < MANY {
            true => candle_core::utils::get_num_threads(),
            false => 1,
        };
        assert!(
            2 * most <= 3 * threads * (least + NOISE),
            "{shape:?}: {peaks:?} bytes"
        );
        let bound = BYTES_OF_A_STATE * shape.states() + NOISE;
        assert!(most <= bound, "{shape:?}: {peaks:?} bytes of {bound}");
    }
}

/// A loss whose items have all frames and labels, and as many classes as there can be.
struct FullLengths {
    entry: Entry,
    input: Var,
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
    needed: MemoryNeeded,
}

impl FullLengths {
    fn new(
        (frames, batch, classes): (usize, usize, usize),
        labels: usize,
        dtype: DType,
        entry: Entry,
    ) -> Self {
        let device = &Device::Cpu;
        let values = Rng::new(93).values(frames * batch * classes, 2.0);
        let input = tensors::floats(&values, &[frames, batch, classes], dtype, device);
        let target: Vec<usize> = (0..labels).map(|i| 1 + i % (classes - 1)).collect();
        let kind = match entry {
            Entry::Logits => InputKind::Logits,
            Entry::LogProbs => InputKind::LogProbs,
        };
        Self {
            entry,
            input: Var::from_tensor(&input).unwrap(),
            targets: tensors::padded(&vec![target; batch], 0, 0, DType::U32, device),
            input_lengths: vec![frames; batch],
            target_lengths: vec![labels; batch],
            needed: memory_needed((frames, batch, classes), labels, dtype, kind, device).unwrap(),
        }
    }

    fn loss(&self) -> Tensor {
        let (frames, labels) = (&self.input_lengths, &self.target_lengths);
        let opts = CtcLossOptions::default();
        let loss = self
            .entry
            .loss(&self.input, &self.targets, frames, labels, opts);
        loss.unwrap()
    }
}

#[test]
fn a_loss_takes_what_was_announced_and_not_much_less() {
    let _turn = turn();
    warm_up(Entry::ALL[0], &targets());
    for (frames, batch, classes, labels) in [
        (4000, 4, 20, 40),
        (4001, 3, 100, 60),
        (3000, 2, 16, 300),
        (50000, 3, 20, 0),
        (4096, 1, 3, 200),
        (20, 4, 150_000, 15),
    ] {
        assert!(frames * batch * (2 * labels + 1) > SHORT || classes > SHORT);
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for entry in Entry::ALL {
                let full = FullLengths::new((frames, batch, classes), labels, dtype, entry);
                let needed = full.needed;
                let what =
                    format!("{frames} {batch} {classes} {labels} {dtype:?} {entry:?}: {needed:?}");
                drop(full.loss());
                let before = live();
                let graph = full.loss();
                let kept = (live() - before) as u64;
                assert!(
                    kept <= needed.kept + NOISE as u64 && kept + NOISE as u64 >= needed.kept,
                    "{what}: {kept} kept"
                );
                drop(graph);
                let gradient = frames * batch * classes * dtype.size_in_bytes();
                let peak = peak_without(gradient, || {
                    full.loss().backward().unwrap();
                });
                assert!(peak as u64 <= needed.training, "{what}: {peak} at the peak");
                assert!(
                    needed.training <= 4 * (peak as u64 + (1 << 20)),
                    "{what}: {peak} at the peak"
                );
            }
        }
    }
}

/// The software GPU's memory is the host's, and takes the sizes that CUDA's has.
#[cfg(ctc_softgpu)]
#[test]
fn a_gpu_takes_what_was_announced() {
    let _turn = turn();
    for (frames, batch, classes, labels) in [
        (300, 2, 4, 30),
        (400, 3, 4, 100),
        (64, 40, 4, 0),
        // Many emissions.
        (400, 3, 200, 150),
        // Edges beyond shared memory.
        (30, 40, 4, 700),
    ] {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for entry in Entry::ALL {
                let full = FullLengths::new((frames, batch, classes), labels, dtype, entry);
                let needed = full.needed;
                let what =
                    format!("{frames} {batch} {classes} {labels} {dtype:?} {entry:?}: {needed:?}");
                drop(full.loss());
                let before = live();
                let graph = full.loss();
                let kept = (live() - before) as u64;
                // The host keeps the labels, too.
                let noise = (NOISE + 4 * batch * labels) as u64;
                assert!(kept.abs_diff(needed.kept) <= noise, "{what}: {kept} kept");
                drop(graph);
                // Beside these, the copy of the input that stands for the GPU's, the host's tables of four words for each
                // label, and the report of a launch.
                let copied = frames * batch * classes * dtype.size_in_bytes();
                let peak = peak_without(copied, || drop(full.loss())) as u64;
                let noise = 4 * noise + (16 * batch * labels) as u64;
                assert!(
                    peak.abs_diff(needed.training) <= noise,
                    "{what}: {peak} at the peak"
                );
            }
        }
    }
    for shape in [(1 << 31, 1, 5), (1, 1, 1 << 31), (1 << 20, 1 << 60, 5)] {
        let kind = InputKind::LogProbs;
        let error = memory_needed(shape, 3, DType::F32, kind, &Device::Cpu).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("a GPU takes fewer") || error.contains("does not fit any memory"),
            "{error}"
        );
    }
}

#[cfg(not(ctc_softgpu))]
#[test]
fn announced_memory_of_no_input_or_of_too_much_is_an_error() {
    let _turn = turn();
    let needed =
        |shape, labels, dtype| memory_needed(shape, labels, dtype, InputKind::Logits, &Device::Cpu);
    assert!(needed((1, 1, 0), 1, DType::F32).is_err());
    assert!(needed((1, 1, 2), 1, DType::U32).is_err());
    for size in [usize::MAX, 1 << 62] {
        let error = needed((size, size, 5), size, DType::F64)
            .unwrap_err()
            .to_string();
        assert!(error.contains("more than 2^64 bytes"), "{error}");
    }
    assert_eq!(needed((0, 0, 1), 0, DType::F16).unwrap().kept, 0);
}

/// Bytes of scratch memory of losses and scores, at most, however many frames there are.
const SCRATCH: usize = 4 << 20;

#[test]
fn losses_and_scores_take_scratch_memory_alone_whatever_a_model_is_sure_of() {
    let _turn = turn();
    for shape in OTHERS_AT {
        let frames = 16 * shape.frames;
        let shape = Shape { frames, ..shape };
        // One number for each state.
        assert!(8 * shape.states() > 3 * SCRATCH);
        for model in OTHERS.into_iter().step_by(3) {
            let step = Step::new(shape, model).unwrap();
            let losses = heap::peak_of(|| step.loss().unwrap());
            let scores = heap::peak_of(|| step.candidates().unwrap());
            let most = losses.max(scores);
            assert!(
                most <= SCRATCH,
                "{shape:?} {model}: {losses}, {scores} bytes"
            );
        }
    }
}

#[test]
fn memory_of_a_training_step_grows_with_the_states_at_any_length() {
    let _turn = turn();
    for shape in LENGTHS {
        let peak = peak_of_step(shape, Model::Noise(1.0));
        let bound = BYTES_OF_A_STATE * shape.states() + NOISE;
        assert!(peak <= bound, "{shape:?}: {peak} bytes of {bound}");
    }
}

/// Bytes of the confidence of each token for each frame and label, at most.
const BYTES_OF_A_LABEL: usize = 16;

#[test]
fn the_confidence_of_tokens_takes_less_memory_than_a_lattice() {
    let _turn = turn();
    for shape in CONFIDENCES {
        let step = Step::new(shape, Model::Noise(1.0)).unwrap();
        let peak = peak_of(|| step.confidence().unwrap());
        let bound = BYTES_OF_A_LABEL * shape.frames * shape.batch * shape.labels;
        assert!(peak < bound, "{shape:?}: {peak} bytes of {bound}");
    }
}
