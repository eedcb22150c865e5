//! No input panics, whatever its dtype, shape or values: a call gives a tensor or an error.

use crate::common::{self, Entry, Rng, devices, for_confidence, holds, tensors};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    AlignOptions, BeamOptions, BeamSearch, Checks, ConfidenceMeasure, ConfidenceOptions, CtcLoss,
    CtcLossOptions, EmissionOptions, GradientKind, GreedyOptions, InputKind, InputLayout,
    LabelPrior, PrefixScorer, PrefixScorerOptions, Reduction, ScoreOptions, Wildcard, append_star,
    beam_search, ctc_loss, ctc_loss_linear, ctc_loss_with_logits, feasibility, forced_align,
    forced_align_batch, frame_confidence, greedy_decode_batch, score_transcripts,
    state_posteriors_batch, token_confidence_batch, transcript_log_likelihoods,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

const FLOATS: [f64; 19] = [
    0.0,
    -0.0,
    -0.5,
    -3.0,
    1.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f32::MAX as f64,
    f32::MIN as f64,
    f64::MAX,
    f64::MIN,
    1e30,
    -1e30,
    -1e9,
    -2e9,
    1e-40,
    -1e-310,
    -65504.0,
];

const INTEGERS: [i64; 14] = [
    0,
    1,
    2,
    3,
    -1,
    -100,
    255,
    9999,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 32,
    u32::MAX as i64,
    i64::MAX,
    i64::MIN,
];

const DTYPES: [DType; 14] = [
    DType::U8,
    DType::U32,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::BF16,
    DType::F16,
    DType::F32,
    DType::F64,
    DType::F8E4M3,
    DType::F6E2M3,
    DType::F6E3M2,
    DType::F4,
    DType::F8E8M0,
];

/// The default options, without the check that log-probabilities are normalised.
macro_rules! unchecked {
    ($options:ident) => {
        $options {
            normalised: false,
            ..Default::default()
        }
    };
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

fn one_in(rng: &mut Rng, count: usize) -> bool {
    rng.below(count) == 0
}

/// Lengths that are usually right and sometimes of any value, count and form.
enum Lengths {
    I64(Vec<i64>),
    Usize(Vec<usize>),
    I32(Vec<i32>),
    Scalar(i64),
    UsizeScalar(usize),
    Tensor(Tensor),
}

macro_rules! with_lengths {
    ($lengths:expr, $name:ident => $call:expr) => {
        match $lengths {
            Lengths::I64(v) => {
                let $name = v.clone();
                $call
            }
            Lengths::Usize(v) => {
                let $name = v.clone();
                $call
            }
            Lengths::I32(v) => {
                let $name = v.clone();
                $call
            }
            Lengths::Scalar(v) => {
                let $name = *v;
                $call
            }
            Lengths::UsizeScalar(v) => {
                let $name = *v;
                $call
            }
            Lengths::Tensor(v) => {
                let $name = v;
                $call
            }
        }
    };
}

impl Lengths {
    fn random(rng: &mut Rng, right: &[usize], device: &Device) -> Self {
        let mut values: Vec<i64> = right.iter().map(|&x| x as i64).collect();
        if one_in(rng, 6) {
            for value in &mut values {
                if one_in(rng, 2) {
                    *value = pick(rng, &INTEGERS);
                }
            }
        }
        if one_in(rng, 20) {
            values.push(1);
        }
        if one_in(rng, 20) {
            values.pop();
        }
        match rng.below(9) {
            0 | 1 => Lengths::I64(values),
            2 | 3 => Lengths::Usize(values.iter().map(|&x| x as usize).collect()),
            4 => Lengths::I32(values.iter().map(|&x| x as i32).collect()),
            5 if one_in(rng, 2) => Lengths::UsizeScalar(pick(rng, &[0, 1, 2, usize::MAX])),
            5 => Lengths::Scalar(values.first().copied().unwrap_or(0)),
            6 if one_in(rng, 4) => match Tensor::zeros(values.len(), pick(rng, &DTYPES), device) {
                Ok(tensor) => Lengths::Tensor(tensor),
                Err(_) => Lengths::I64(values),
            },
            6 => Lengths::Tensor(tensors::integers(
                &[values.first().copied().unwrap_or(0)],
                &[],
                DType::I64,
                device,
            )),
            _ => Lengths::Tensor(tensors::integers(
                &values,
                &[values.len()],
                pick(rng, &tensors::INTEGERS),
                device,
            )),
        }
    }
}

struct Call {
    entry: Entry,
    input: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    options: CtcLossOptions,
}

impl Call {
    fn random(rng: &mut Rng, device: &Device) -> Self {
        let (frames, items, classes) = (1 + rng.below(6), 1 + rng.below(3), 1 + rng.below(5));
        let options = CtcLossOptions {
            blank: match rng.below(12) {
                0 => classes,
                1 => usize::MAX,
                2 => u32::MAX as usize,
                _ => rng.below(classes),
            },
            reduction: pick(rng, &[Reduction::None, Reduction::Mean, Reduction::Sum]),
            zero_infinity: one_in(rng, 2),
            gradient: pick(rng, &[GradientKind::Exact, GradientKind::Torch]),
            layout: pick(rng, &[InputLayout::TimeMajor, InputLayout::BatchMajor]),
            checks: pick(rng, &[Checks::Host, Checks::Device]),
        };

        let mut dims = match options.layout {
            InputLayout::TimeMajor => vec![frames, items, classes],
            InputLayout::BatchMajor => vec![items, frames, classes],
        };
        if items == 1 && one_in(rng, 2) {
            dims = vec![frames, classes];
        }
        if one_in(rng, 25) {
            let i = rng.below(dims.len());
            dims[i] = 0;
        }
        if one_in(rng, 25) {
            dims.push(1);
        }
        if one_in(rng, 40) {
            dims.truncate(rng.below(2));
        }
        let tame = one_in(rng, 2);
        let values: Vec<f64> = (0..dims.iter().product())
            .map(|_| {
                if tame && !one_in(rng, 4) {
                    -3.0 * rng.unit()
                } else {
                    pick(rng, &FLOATS)
                }
            })
            .collect();
        let mut dtype = pick(rng, &tensors::FLOATS);
        if !holds(device, dtype) {
            dtype = DType::F32;
        }
        let mut input = tensors::floats(&values, &dims, dtype, device);
        if one_in(rng, 12)
            && let Ok(other) = Tensor::zeros(dims.as_slice(), pick(rng, &DTYPES), device)
        {
            input = other;
        }
        if one_in(rng, 4) && dims.len() >= 2 && dtype.is_float() {
            // The same shape through a transposed memory layout.
            if let Ok(turned) = input
                .transpose(0, 1)
                .and_then(|x| x.contiguous())
                .and_then(|x| x.transpose(0, 1))
            {
                input = turned;
            }
        }

        let mut labels: Vec<Vec<usize>> = Vec::new();
        for _ in 0..items {
            let length = if classes < 2 { 0 } else { rng.below(4) };
            labels.push(rng.target(length, classes, options.blank.min(classes - 1), 0.3));
        }
        let mut target_dtype = pick(rng, &tensors::INTEGERS);
        let hostile = one_in(rng, 5);
        if hostile {
            target_dtype = DType::I64;
        }
        let mut targets = if one_in(rng, 2) {
            tensors::concatenated(&labels, target_dtype, device)
        } else {
            tensors::padded(
                &labels,
                rng.below(3),
                pick(rng, &INTEGERS),
                target_dtype,
                device,
            )
        };
        if hostile {
            let values: Vec<i64> = (0..targets.elem_count())
                .map(|_| pick(rng, &INTEGERS))
                .collect();
            targets = tensors::integers(&values, targets.dims(), DType::I64, device);
        }
        if one_in(rng, 25) {
            let dims = pick(
                rng,
                &[
                    &[][..],
                    &[0],
                    &[1],
                    &[0, 0],
                    &[3, 0],
                    &[0, 3],
                    &[2, 2],
                    &[1, 2, 2],
                    &[1, 1, 1, 1],
                ],
            );
            if let Ok(other) = Tensor::zeros(dims, pick(rng, &DTYPES), device) {
                targets = other;
            }
        }
        let target_lengths: Vec<usize> = labels.iter().map(Vec::len).collect();
        let input_lengths: Vec<usize> = (0..items).map(|_| rng.below(frames + 1)).collect();
        Call {
            entry: pick(rng, &Entry::ALL),
            input,
            targets,
            input_lengths: Lengths::random(rng, &input_lengths, device),
            target_lengths: Lengths::random(rng, &target_lengths, device),
            options,
        }
    }

    fn loss(&self, input: &Tensor) -> Result<Tensor> {
        with_lengths!(&self.input_lengths, i => with_lengths!(&self.target_lengths, u => match self.entry {
            Entry::LogProbs => ctc_loss(input, &self.targets, i, u, self.options),
            Entry::Logits => ctc_loss_with_logits(input, &self.targets, i, u, self.options),
        }))
    }

    /// Whether the call succeeded. Panics if the crate does, or on a result of a wrong form.
    fn go(&self) -> bool {
        // A tracked view of a leaf when candle can make one of this dtype.
        let leaf = Var::from_tensor(&self.input);
        let Ok(loss) = self.loss(&self.input) else {
            if let Ok(leaf) = leaf {
                assert!(self.loss(&leaf).is_err(), "fails only when untracked");
            }
            return false;
        };
        let wanted = if self.input.dtype() == DType::F64 {
            DType::F64
        } else {
            DType::F32
        };
        assert_eq!(loss.dtype(), wanted);
        let leaf = leaf.unwrap();
        let tracked = self.loss(&leaf).unwrap();
        assert_eq!(
            common::bits(&tensors::read(&tracked)),
            common::bits(&tensors::read(&loss))
        );
        let gradients = tracked.backward().unwrap();
        let gradient = gradients.get(&leaf).unwrap();
        assert_eq!(gradient.dims(), self.input.dims());
        assert_eq!(gradient.dtype(), self.input.dtype());
        if self.options.gradient == GradientKind::Exact && self.entry == Entry::LogProbs {
            let items = tensors::read(gradient);
            let outside = items
                .iter()
                .find(|&&g| !(g.is_nan() || (-1.01..=0.0).contains(&g)));
            assert_eq!(outside, None, "a posterior outside of 0..1");
        }
        true
    }

    fn describe(&self) -> String {
        let lengths = |lengths: &Lengths| match lengths {
            Lengths::I64(v) => format!("{v:?} (i64)"),
            Lengths::Usize(v) => format!("{v:?} (usize)"),
            Lengths::I32(v) => format!("{v:?} (i32)"),
            Lengths::Scalar(v) => format!("{v} (i64)"),
            Lengths::UsizeScalar(v) => format!("{v} (usize)"),
            Lengths::Tensor(v) => describe(v),
        };
        format!(
            "{:?} {:?}\n input {}\n targets {}\n input lengths {}\n target lengths {}",
            self.entry,
            self.options,
            describe(&self.input),
            describe(&self.targets),
            lengths(&self.input_lengths),
            lengths(&self.target_lengths),
        )
    }
}

fn describe(tensor: &Tensor) -> String {
    let head = format!("{:?} {:?}", tensor.dims(), tensor.dtype());
    let flat = tensor.flatten_all().and_then(|x| x.to_device(&Device::Cpu));
    let values = match (tensor.dtype(), flat) {
        (DType::I64, Ok(x)) => format!("{:?}", x.to_vec1::<i64>()),
        (dtype, Ok(x)) if tensors::FLOATS.contains(&dtype) => format!("{:?}", tensors::read(&x)),
        (dtype, Ok(x)) if tensors::INTEGERS.contains(&dtype) => {
            format!(
                "{:?}",
                x.to_dtype(DType::I64).and_then(|x| x.to_vec1::<i64>())
            )
        }
        _ => String::new(),
    };
    format!("{head} {values}")
}

#[test]
fn no_call_panics() {
    const CALLS: u64 = 20_000;
    for device in devices() {
        let calls = if device.is_cpu() { CALLS } else { CALLS / 10 };
        let (mut ok, mut failed) = (0, Vec::new());
        for seed in 0..calls {
            let call = Call::random(&mut Rng::new(1_000_000 + seed), &device);
            match catch_unwind(AssertUnwindSafe(|| call.go())) {
                Ok(true) => ok += 1,
                Ok(false) => (),
                Err(_) => failed.push((seed, call.describe())),
            }
            if failed.len() >= 5 {
                break;
            }
        }
        if let Some((seed, call)) = failed.first() {
            panic!(
                "{} calls went wrong; the first has seed {seed}: {call}",
                failed.len()
            );
        }
        // Enough calls get past the checks to reach the arithmetic, and enough do not.
        assert!(
            ok > calls / 4 && ok < calls * 3 / 4,
            "{ok} of {calls} calls succeeded"
        );
    }
}

#[test]
fn every_dtype_of_every_argument_gives_a_tensor_or_an_error() {
    for device in devices() {
        let x = Tensor::zeros((4, 2, 3), DType::F32, &device).unwrap();
        let good_targets = Tensor::ones((2, 1), DType::U32, &device).unwrap();
        let good_lengths = Tensor::ones(2, DType::U32, &device).unwrap();
        for dtype in DTYPES {
            let made = |dims: &[usize]| {
                Tensor::zeros(dims, dtype, &device).or_else(|_| {
                    Tensor::ones(dims, DType::F32, &device).and_then(|x| x.to_dtype(dtype))
                })
            };
            let options = CtcLossOptions {
                blank: 2,
                ..Default::default()
            };
            let is_float = tensors::FLOATS.contains(&dtype) && holds(&device, dtype);
            let is_int = tensors::INTEGERS.contains(&dtype);
            assert!(made(&[2]).is_ok() || !(is_float || is_int), "{dtype:?}");
            for entry in Entry::ALL {
                if let Ok(x) = made(&[4, 2, 3]) {
                    let result = entry.loss(&x, &good_targets, &[4, 4], &[1, 1], options);
                    assert_eq!(result.is_ok(), is_float, "log_probs {dtype:?}");
                }
                if let Ok(targets) = made(&[2, 1]) {
                    let result = entry.loss(&x, &targets, &[4, 4], &[1, 1], options);
                    assert_eq!(result.is_ok(), is_int, "targets {dtype:?}");
                }
                if let Ok(lengths) = made(&[2]) {
                    let go = |i: &Tensor, u: &Tensor| match entry {
                        Entry::LogProbs => ctc_loss(&x, &good_targets, i, u, options).is_ok(),
                        Entry::Logits => {
                            ctc_loss_with_logits(&x, &good_targets, i, u, options).is_ok()
                        }
                    };
                    assert_eq!(
                        go(&lengths, &good_lengths),
                        is_int,
                        "input lengths {dtype:?}"
                    );
                    assert_eq!(
                        go(&good_lengths, &lengths),
                        is_int,
                        "target lengths {dtype:?}"
                    );
                }
            }
        }
    }
}

/// A view of one small tensor may have more entries than any memory.
#[test]
fn what_fits_no_memory_is_an_error() {
    for device in devices() {
        let targets = Tensor::new(&[[1u32, 2]], &device).unwrap();
        for (frames, dtype, layout) in [
            (1usize << 45, DType::F32, InputLayout::TimeMajor),
            (1 << 45, DType::F16, InputLayout::BatchMajor),
            (1 << 61, DType::F32, InputLayout::BatchMajor),
            (1 << 62, DType::F32, InputLayout::TimeMajor),
        ] {
            let zeros = Tensor::zeros((1, 1, 4), dtype, &device).unwrap();
            let zeros = Var::from_tensor(&zeros).unwrap();
            let shape = match layout {
                InputLayout::TimeMajor => (frames, 1, 4),
                InputLayout::BatchMajor => (1, frames, 4),
            };
            let input = zeros.as_tensor().broadcast_as(shape).unwrap();
            let options = CtcLossOptions {
                layout,
                ..Default::default()
            };
            for entry in Entry::ALL {
                let loss = entry.loss(&input, &targets, &[5], &[2], options);
                let gradient = loss.and_then(|loss| loss.backward());
                let error = gradient.expect_err("so much memory").to_string();
                let bytes = frames as u128 * 4 * dtype.size_in_bytes() as u128;
                let on_cpu = format!("ctc-loss: the gradient of shape {:?} needs", input.dims());
                assert!(
                    error.contains(&on_cpu) && error.contains(&format!(" {bytes} bytes"))
                        || error.contains("a GPU takes fewer than 2^31"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_lattice_that_fits_no_memory_is_an_error() {
    let targets = Tensor::new(&[[1u32, 2]], &Device::Cpu).unwrap();
    for frames in [1usize << 45, 1 << 61, 1 << 62] {
        for dtype in [DType::F32, DType::F16, DType::F64] {
            let zeros = Tensor::zeros((1, 1, 4), dtype, &Device::Cpu).unwrap();
            let leaf = Var::from_tensor(&zeros).unwrap();
            let tracked = leaf.as_tensor().broadcast_as((frames, 1, 4)).unwrap();
            let plain = zeros.broadcast_as((frames, 1, 4)).unwrap();
            let opts = unchecked!(ScoreOptions);
            let losses = Entry::ALL.map(|entry| {
                let options = CtcLossOptions::default();
                let loss = entry.loss(&tracked, &targets, &[frames], &[2], options);
                loss.map(drop)
            });
            let results = losses.into_iter().chain([
                token_confidence_batch(&plain, &targets, frames, 2, for_confidence(opts)).map(drop),
                state_posteriors_batch(&plain, &targets, frames, 2, for_confidence(opts)).map(drop),
            ]);
            for result in results {
                let error = result.expect_err("so much memory").to_string();
                let item = format!("item 0 with {frames} frames and 2 labels needs ");
                assert!(
                    error.contains(&item) && error.contains(" bytes for its lattice")
                        || error.contains("a GPU takes fewer than 2^31"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn labels_and_lengths_that_fit_no_memory_are_an_error() {
    // More than an address space of 2^47 bytes holds: some systems promise any less.
    let one = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    let wide = one.broadcast_as((1, 1 << 46)).unwrap();
    let x = Tensor::zeros((3, 1, 3), DType::F32, &Device::Cpu).unwrap();
    let many = one.flatten_all().unwrap().broadcast_as(1 << 46).unwrap();
    let batch = x.broadcast_as((3, 1 << 46, 3)).unwrap();
    let labels = one.broadcast_as((1 << 46, 1)).unwrap();
    let opts = unchecked!(ScoreOptions);
    let results = [
        ctc_loss(&x, &wide, 3, 1, CtcLossOptions::default()).map(drop),
        ctc_loss(&batch, &labels, &many, &many, CtcLossOptions::default()).map(drop),
        token_confidence_batch(&batch, &labels, &many, &many, for_confidence(opts)).map(drop),
    ];
    for result in results {
        let error = result.expect_err("so much memory").to_string();
        // Several tensors are copied together on the kernels' way.
        let whose = [
            "a tensor of labels or lengths of shape [",
            "memory of shape [",
        ];
        assert!(
            whose.iter().any(|whose| error.contains(whose))
                && error.contains("bytes, which could not be allocated"),
            "{error}"
        );
    }
}

#[test]
fn an_alignment_that_fits_no_memory_is_an_error() {
    for frames in [1usize << 45, 1 << 61, 1 << 62] {
        let zeros = Tensor::zeros((1, 1, 4), DType::F32, &Device::Cpu).unwrap();
        let input = zeros.broadcast_as((frames, 1, 4)).unwrap();
        // All entries are 0: no log-distribution.
        let opts = unchecked!(AlignOptions);
        let error = forced_align(&input, &[1, 2], opts)
            .expect_err("so much memory")
            .to_string();
        let expected = format!(
            "forced_align: the best path of item 0 of shape [{frames}] needs {} bytes",
            frames as u128 * 4
        );
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn rows_of_classes_that_fit_no_memory_are_an_error() {
    const CLASSES: usize = 1 << 46;
    let one = Tensor::full(-20f32, (1, 1, 1), &Device::Cpu).unwrap();
    let x = one.broadcast_as((4, 1, CLASSES)).unwrap();
    let target = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    let score = |input, normalised| ScoreOptions {
        input,
        normalised,
        ..Default::default()
    };
    let align = AlignOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    let prefix = unchecked!(PrefixScorerOptions);
    let beam = unchecked!(BeamOptions);
    let greedy = unchecked!(GreedyOptions);
    let confidence =
        |opts| token_confidence_batch(&x, &target, [4], [1], for_confidence(opts)).map(drop);
    let scored = |opts| score_transcripts(&x, &[vec![1u32]], opts).map(drop);
    let results = [
        ctc_loss_with_logits(&x, &target, [4], [1], CtcLossOptions::default()).map(drop),
        scored(score(InputKind::Logits, true)),
        scored(score(InputKind::LogProbs, true)),
        confidence(score(InputKind::Logits, true)),
        confidence(score(InputKind::LogProbs, true)),
        forced_align(&x, &[1], align).map(drop),
        {
            let outside = Some(Wildcard::Largest { penalty: 0.0 });
            let opts = AlignOptions {
                outside,
                normalised: false,
                ..Default::default()
            };
            forced_align_batch(&x, &target, 4, 1, opts).map(drop)
        },
        PrefixScorer::new(&x, prefix).map(drop),
        greedy_decode_batch(&x, [4], greedy).map(drop),
        greedy_decode_batch(&x, [4], GreedyOptions::default()).map(drop),
        beam_search(&x, beam).map(drop),
        BeamSearch::new(CLASSES, BeamOptions::default()).map(drop),
    ];
    for (number, result) in results.into_iter().enumerate() {
        let error = result.expect_err("so much memory").to_string();
        // Functions that return labels take fewer than 2^32 classes.
        let parts = [
            "bytes, which could not be allocated",
            "C = 70368744177664 classes; fewer than 4294967296 are taken",
        ];
        assert!(
            parts.iter().any(|part| error.contains(part)),
            "{number}: {error}"
        );
        // The first is of the loss of logits.
        let expected = format!("a row of logits of shape [{CLASSES}], held 8 times, needs");
        assert!(number > 0 || error.contains(&expected), "{error}");
    }
    // What reads single entries takes any number of classes on the CPU.
    if !cfg!(ctc_softgpu) {
        let loss = ctc_loss(&x, &target, [4], [1], CtcLossOptions::default()).unwrap();
        assert!(loss.to_vec0::<f32>().unwrap().is_finite());
        // Log-likelihoods do not: their gradient holds rows.
        let opts = score(InputKind::LogProbs, false);
        let values = transcript_log_likelihoods(&x, &[[1u32]], opts);
        refused("log-likelihoods", values);
    }
}

/// A log-probability that stands for any number of frames or classes.
fn view(shape: (usize, usize, usize), dtype: DType) -> Tensor {
    let one = Tensor::full(-(4f32.ln()), (1, 1, 1), &Device::Cpu).unwrap();
    let one = one.to_dtype(dtype).unwrap();
    one.broadcast_as(shape).unwrap()
}

fn refused<T>(what: &str, result: Result<T>) {
    let error = result.err().expect(what).to_string();
    assert!(
        error.contains("bytes, which could not be allocated"),
        "{what}: {error}"
    );
}

#[test]
fn layers_that_fit_no_memory_are_an_error() {
    let target = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F16, DType::F64] {
        for (frames, features, few) in [(1 << 50, 3, false), (4, 1 << 45, true)] {
            let hidden = view((frames, 1, features), dtype);
            let weight = view((1, 5, features), dtype).squeeze(0).unwrap();
            let lengths = [if few { 4 } else { frames }];
            for reduction in [Reduction::None, Reduction::Mean] {
                let opts = CtcLossOptions {
                    reduction,
                    ..Default::default()
                };
                let what = format!("{dtype:?} {frames} {features} {reduction:?}");
                let loss = ctc_loss_linear(&hidden, &weight, None, &target, lengths, [1], opts);
                refused(&what, loss);
            }
        }
        // Frames that no item uses are not copied.
        let hidden = view((1 << 50, 1, 3), dtype);
        let weight = view((1, 5, 3), dtype).squeeze(0).unwrap();
        let opts = CtcLossOptions::default();
        let loss = ctc_loss_linear(&hidden, &weight, None, &target, [4], [1], opts).unwrap();
        let loss = loss.to_dtype(DType::F32).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap() > 0.0);
        // Their gradient takes memory all the same.
        let leaf = Var::from_tensor(&view((1, 1, 3), dtype)).unwrap();
        let hidden = leaf.as_tensor().broadcast_as((1 << 50, 1, 3)).unwrap();
        let loss = ctc_loss_linear(&hidden, &weight, None, &target, [4], [1], opts);
        refused("the gradient of hidden", loss);
    }
}

#[test]
fn a_star_or_weights_that_fit_no_memory_are_an_error() {
    let target = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        for shape in [(1 << 45, 1, 4), (1, 1, 1 << 46), (1 << 62, 1, 4)] {
            refused("star", append_star(&view(shape, dtype), 0, 2.0));
        }
        // The shape in the error is that of a tensor, and not of the three that are held.
        let star = append_star(&view((1 << 45, 1, 8), dtype), 0, 2.0);
        let error = star.expect_err("so much memory").to_string();
        assert!(
            error.contains("with a star of shape [35184372088832, 1, 9], held 3 times, needs "),
            "{error}"
        );
    }
    let loss = CtcLoss::new(CtcLossOptions::default()).emissions(EmissionOptions {
        blank_weight: -0.5,
        ..Default::default()
    });
    let many = view((4, 1, 1 << 46), DType::F32);
    refused("weights", loss.forward(&many, &target, [4], [1]));
}

#[test]
fn prefixes_that_fit_no_memory_are_an_error() {
    let input = view((1 << 45, 1, 4), DType::F32);
    let scorer = PrefixScorer::new(&input, PrefixScorerOptions::default());
    let error = scorer.err().expect("so many frames").to_string();
    let expected = format!(
        "PrefixScorer: a prefix of shape [{}], held 4 times,",
        1u64 << 45
    );
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn probabilities_and_confidences_that_fit_no_memory_are_an_error() {
    let frames = 1usize << 45;
    let input = view((frames, 1, 4), DType::F32);
    let mut prior = LabelPrior::new();
    refused(
        "prior",
        prior.observe(&input, [frames], InputLayout::TimeMajor),
    );
    assert!(prior.log_prior().unwrap().is_none());
    let opts = ConfidenceOptions::default();
    let measure = ConfidenceMeasure::Probability;
    let input = input.squeeze(1).unwrap();
    refused("confidence", frame_confidence(&input, measure, opts));
}

#[test]
fn sizes_whose_product_wraps_are_an_error() {
    let one = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    for shape in [(2, 1 << 63), (1 << 32, 1 << 32), (1 << 33, 1 << 40)] {
        let targets = one.broadcast_as(shape).unwrap();
        let lengths = vec![5usize; 2];
        assert!(feasibility(&targets, lengths.as_slice(), [1, 1]).is_err());
        let input = view((5, 2, 4), DType::F32);
        let tensor = |lengths: [i64; 2]| Tensor::new(&lengths, &Device::Cpu).unwrap();
        let (frames, labels) = (tensor([5, 5]), tensor([1, 1]));
        for checks in [Checks::Host, Checks::Device] {
            let opts = CtcLossOptions {
                checks,
                ..Default::default()
            };
            assert!(ctc_loss(&input, &targets, [5, 5], [1, 1], opts).is_err());
            // On a GPU, these are read with the targets.
            assert!(ctc_loss(&input, &targets, &frames, &labels, opts).is_err());
        }
    }
    // Lengths that are not as many as the items are not read.
    let length = |length: i64| Tensor::new(&[length], &Device::Cpu).unwrap();
    let many = length(5).broadcast_as(1usize << 45).unwrap();
    let input = view((5, 1, 4), DType::F32);
    let results = [
        ctc_loss(&input, &one, &many, [1], CtcLossOptions::default()).map(drop),
        ctc_loss(&input, &one, [5], &many, CtcLossOptions::default()).map(drop),
        greedy_decode_batch(&input, &many, GreedyOptions::default()).map(drop),
        feasibility(&one, [5usize], &many).map(drop),
    ];
    for result in results {
        let error = result.expect_err("so many lengths").to_string();
        assert!(error.contains("but the batch has N = 1 items"), "{error}");
    }
    // Neither are targets of a wrong shape.
    let many = one.broadcast_as((1usize << 45, 1)).unwrap();
    let results = [
        ctc_loss(&input, &many, [5], [1], CtcLossOptions::default()).map(drop),
        ctc_loss(
            &input,
            &many,
            &length(5),
            &length(1),
            CtcLossOptions::default(),
        )
        .map(drop),
        feasibility(&many, [5usize], [1]).map(drop),
    ];
    for result in results {
        let error = result.expect_err("so many targets").to_string();
        let expected = "targets have shape [35184372088832, 1]; expected (1, S)";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
#[cfg_attr(ctc_softgpu, ignore = "a GPU takes fewer than 2^31 classes")]
fn more_classes_than_labels_can_name_are_an_error_where_labels_come_out() {
    let target = Tensor::new(&[[1u32, 1]], &Device::Cpu).unwrap();
    let align = |classes: usize| {
        let opts = AlignOptions {
            blank: classes - 1,
            normalised: false,
            ..Default::default()
        };
        forced_align_batch(&view((3, 1, classes), DType::F32), &target, [3], [2], opts)
    };
    let labels = align(1 << 32).unwrap().remove(0).unwrap().labels;
    assert_eq!(labels, [1, u32::MAX, 1]);
    let error = align((1 << 32) + 2).unwrap_err().to_string();
    assert!(
        error.contains("blank = 4294967297; labels are numbers of 32 bits"),
        "{error}"
    );
}

/// The label 2^32 - 1 stands for none in the beam search.
#[test]
fn as_many_classes_as_labels_have_numbers_are_an_error_in_decoding() {
    let input = view((3, 1, 1 << 32), DType::F32);
    let beam = unchecked!(BeamOptions);
    let greedy = unchecked!(GreedyOptions);
    let results = [
        beam_search(&input, beam).map(drop),
        greedy_decode_batch(&input, [3], greedy).map(drop),
    ];
    for result in results {
        let error = result.expect_err("too many classes").to_string();
        let expected = "C = 4294967296 classes; fewer than 4294967296 are taken";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
#[cfg_attr(ctc_softgpu, ignore = "a GPU takes fewer than 2^31 classes")]
fn the_gradient_of_a_wide_view_is_an_error_or_right() {
    let one = Tensor::full(-1f32, (1, 1, 1), &Device::Cpu).unwrap();
    let leaf = Var::from_tensor(&one).unwrap();
    let wide = leaf.as_tensor().broadcast_as((4, 1, 1usize << 61)).unwrap();
    let target = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    let loss = ctc_loss(&wide, &target, [4], [1], CtcLossOptions::default()).unwrap();
    // Ten paths of four frames.
    assert!((loss.to_scalar::<f32>().unwrap() - (4.0 - 10f32.ln())).abs() < 1e-5);
    refused("gradient", loss.backward());
}
