//! The loss, its gradient and scores, against the plain lattice in f64.

#![no_main]

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    CtcLoss, CtcLossOptions, EmissionOptions, GradientKind, InputKind, InputLayout, Reduction,
    ScoreOptions, append_star, ctc_loss, ctc_loss_and_gradient, ctc_loss_and_gradient_with_logits,
    ctc_loss_linear, ctc_loss_with_logits, score_transcripts_batch, transcript_log_likelihoods,
};
use candle_ctc_fuzz::common::tolerance::{self, Tolerance};
use candle_ctc_fuzz::common::{bits, tensors};
use candle_ctc_fuzz::{Emissions, Item, Source, posterior_gradient};
use libfuzzer_sys::fuzz_target;

/// Entries of the input, frames and cells of the lattice of one execution, small and large.
const SMALL: [usize; 3] = [1 << 9, 40, 1 << 9];
const LARGE: [usize; 3] = [1 << 16, 4200, 1 << 14];

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));

/// A batch and what it is to read as.
struct Batch {
    emissions: Emissions,
    targets: Vec<Vec<usize>>,
    input_lengths: Vec<usize>,
    logits: bool,
    opts: CtcLossOptions,
    weights: Option<Weights>,
}

/// The numbers of [`EmissionOptions`], which every float dtype holds exactly, and so does f32 their sums.
#[derive(Debug, Clone)]
struct Weights {
    /// 0 without `class_weights`.
    of_class: Vec<f64>,
    class_weights: Option<Tensor>,
    of_blank: f64,
    delay: f64,
}

impl Weights {
    fn new(source: &mut Source, classes: usize) -> Self {
        let scale = source.pick(&[0.125, 0.5]);
        let with_classes = source.flag();
        let mut rng = source.rng();
        let mut number = || scale * (rng.below(129) as f64 - 64.0);
        let of_blank = number();
        let of_class: Vec<f64> = match with_classes {
            true => (0..classes).map(|_| number()).collect(),
            false => vec![0.0; classes],
        };
        let dtype = source.dtype();
        let tensor = || tensors::floats(&of_class, &[classes], dtype, &Device::Cpu);
        Self {
            class_weights: with_classes.then(tensor),
            of_blank: if source.flag() { of_blank } else { 0.0 },
            delay: source.pick(&[0.0, 0.0, 0.015625, 0.5, -0.25]),
            of_class,
        }
    }

    fn options(&self) -> EmissionOptions {
        EmissionOptions {
            class_weights: self.class_weights.clone(),
            blank_weight: self.of_blank,
            delay_penalty: self.delay,
        }
    }

    /// The rows of an item with their weights, as a dtype in which sums are computed has them.
    fn added_to(&self, rows: &[f64], blank: usize, dtype: DType) -> Vec<f64> {
        let classes = self.of_class.len();
        let weighted = rows.iter().enumerate().map(|(i, x)| {
            let (t, class) = (i / classes, i % classes);
            let of_kind = match class == blank {
                true => self.of_blank,
                false => -self.delay * t as f64,
            };
            x + (self.of_class[class] + of_kind)
        });
        let dtype = if dtype == DType::F64 {
            dtype
        } else {
            DType::F32
        };
        tensors::rounded(&weighted.collect::<Vec<_>>(), dtype)
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Emissions {
            frames,
            items,
            classes,
            ref values,
            ref tensor,
            ..
        } = self.emissions;
        let finite = values.iter().filter(|x| x.is_finite());
        let largest = finite.fold(0.0, |most: f64, x| most.max(x.abs()));
        write!(
            f,
            "({frames}, {items}, {classes}) up to {largest:e}, {:?}, logits {}, {:?}, {:?}",
            tensor.dtype(),
            self.logits,
            self.opts,
            self.weights
        )
    }
}

fn batch(source: &mut Source, [entries, longest, cells]: [usize; 3]) -> Batch {
    let shape = source.shape(entries, longest, 1);
    let [frames, items, classes] = shape;
    let emissions = source.emissions(shape);
    let blank = source.below(classes);
    let most = cells / (frames * items).max(1);
    let targets: Vec<Vec<usize>> = (0..items)
        .map(|_| source.target(most.min(frames + 2), classes, blank))
        .collect();
    let input_lengths = (0..items)
        .map(|_| match source.below(4) {
            0 => source.below(frames + 1),
            _ => frames - source.below(frames.min(4) + 1).min(frames),
        })
        .collect();
    let opts = CtcLossOptions {
        blank,
        reduction: source.pick(&[Reduction::None, Reduction::Mean, Reduction::Sum]),
        zero_infinity: source.flag(),
        gradient: source.pick(&[
            GradientKind::Exact,
            GradientKind::Exact,
            GradientKind::Torch,
        ]),
        layout: emissions.layout,
        ..Default::default()
    };
    Batch {
        emissions,
        targets,
        input_lengths,
        logits: source.flag(),
        opts,
        weights: None,
    }
}

/// Targets as a tensor, padded with anything or concatenated, of a dtype that holds the labels.
fn target_tensor(source: &mut Source, batch: &Batch) -> Tensor {
    let dtype = source.pick(match batch.emissions.classes {
        ..=256 => &tensors::INTEGERS[..],
        _ => &[DType::U32, DType::I64, DType::I32],
    });
    if source.flag() {
        return tensors::concatenated(&batch.targets, dtype, &Device::Cpu);
    }
    let (extra, padding) = (source.below(3), source.pick(&[0, 1, 255]));
    tensors::padded(&batch.targets, extra, padding, dtype, &Device::Cpu)
}

fn run(source: &mut Source) {
    let limits = match source.below(8) {
        0 => LARGE,
        _ => SMALL,
    };
    let mut batch = batch(source, limits);
    let targets = target_tensor(source, &batch);
    let part = source.below(8);
    if part == 4 || part == 5 || (part == 1 && source.flag()) {
        batch.weights = Some(Weights::new(source, batch.emissions.classes));
    }
    match part {
        0 => bad_arguments(source, &batch, &targets),
        1 => linear(source, &batch, &targets),
        2 => candidates(source, &batch),
        3 => stars(source, &batch),
        4 if source.below(4) == 0 => bad_weights(source, &batch, &targets),
        _ => losses(source, &batch, &targets),
    }
}

/// What is wrong with the arguments is an error and never a panic.
fn bad_arguments(source: &mut Source, batch: &Batch, targets: &Tensor) {
    let Emissions {
        tensor,
        frames,
        items,
        classes,
        ..
    } = &batch.emissions;
    if *items == 0 {
        return;
    }
    let mut opts = batch.opts;
    let mut input_lengths: Vec<i64> = batch.input_lengths.iter().map(|&x| x as i64).collect();
    let mut target_lengths: Vec<i64> = batch.targets.iter().map(|x| x.len() as i64).collect();
    let mut targets = targets.clone();
    let at = source.below(*items);
    let lengths = [*frames as i64 + 1, -1, i64::MIN, i64::MAX, 1 << 32];
    match source.below(7) {
        0 => opts.blank = source.pick(&[*classes, usize::MAX, 1 << 32]),
        1 => input_lengths[at] = source.pick(&lengths),
        // More labels than any of these targets has.
        2 => target_lengths[at] = source.pick(&[-1, i64::MIN, i64::MAX, 1 << 32, 1 << 20]),
        3 => input_lengths.push(1),
        4 => target_lengths.push(0),
        5 => targets = targets.to_dtype(DType::F32).unwrap(),
        _ => {
            // A label that is none in a place that is read.
            let label = source.pick(&[-1, *classes as i64, opts.blank as i64, i64::MAX, 1 << 32]);
            let mut labels: Vec<i64> = batch.targets.concat().iter().map(|&x| x as i64).collect();
            let position = source.below(labels.len() + 1);
            labels.insert(position, label);
            let mut end = 0;
            let item = target_lengths.iter().position(|&length| {
                end += length;
                position as i64 <= end
            });
            target_lengths[item.unwrap()] += 1;
            targets = tensors::integers(&labels, &[labels.len()], DType::I64, &Device::Cpu);
        }
    }
    let call = if batch.logits {
        ctc_loss_with_logits
    } else {
        ctc_loss
    };
    let result = call(tensor, &targets, &input_lengths, &target_lengths, opts);
    assert!(
        result.is_err(),
        "{opts:?} {input_lengths:?} {target_lengths:?} {targets:?}"
    );
}

/// Weights that are no finite numbers for each class are an error.
fn bad_weights(source: &mut Source, batch: &Batch, targets: &Tensor) {
    let Some(weights) = &batch.weights else {
        return;
    };
    let (emissions, mut numbers) = (&batch.emissions, weights.of_class.clone());
    let mut opts = weights.options();
    let dtype = emissions.tensor.dtype();
    let bad = match dtype {
        DType::F64 => source.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        _ => source.pick(&[f64::NAN, f64::INFINITY, 1e39, -1e300]),
    };
    let tensor =
        |numbers: &[f64], dtype| tensors::floats(numbers, &[numbers.len()], dtype, &Device::Cpu);
    match source.below(5) {
        0 => opts.blank_weight = bad,
        1 => opts.delay_penalty = bad,
        2 => {
            let at = source.below(numbers.len());
            numbers[at] = bad;
            opts.class_weights = Some(tensor(&numbers, DType::F64));
        }
        3 => {
            numbers.push(1.0);
            opts.class_weights = Some(tensor(&numbers, source.dtype()));
        }
        _ => {
            let integers = tensor(&numbers, DType::F32).to_dtype(DType::I64).unwrap();
            opts.class_weights = Some(integers);
        }
    }
    let criterion = CtcLoss::new(batch.opts).emissions(opts);
    let lengths: Vec<usize> = batch.targets.iter().map(Vec::len).collect();
    let (input, frames) = (&emissions.tensor, &batch.input_lengths);
    let result = match batch.logits {
        true => criterion.forward_with_logits(input, targets, frames, &lengths),
        false => criterion.forward(input, targets, frames, &lengths),
    };
    assert!(result.is_err(), "{:?}", criterion);
}

/// The loss and the gradient of a batch or of one of its items, in one call, or by a backward pass.
fn loss_and_gradient(
    batch: &Batch,
    in_one_call: bool,
    input: &Tensor,
    targets: &Tensor,
    (frames, lengths): (&[usize], &[usize]),
) -> Result<(Tensor, Tensor)> {
    let opts = batch.opts;
    if in_one_call && batch.weights.is_none() {
        let call = match batch.logits {
            true => ctc_loss_and_gradient_with_logits,
            false => ctc_loss_and_gradient,
        };
        return call(input, targets, frames, lengths, opts);
    }
    let leaf = Var::from_tensor(input)?;
    let weights = batch.weights.as_ref().map(Weights::options);
    let loss = match (weights, batch.logits) {
        (None, false) => ctc_loss(&leaf, targets, frames, lengths, opts),
        (None, true) => ctc_loss_with_logits(&leaf, targets, frames, lengths, opts),
        (Some(weights), logits) => {
            let criterion = CtcLoss::new(opts).emissions(weights);
            match logits {
                false => criterion.forward(&leaf, targets, frames, lengths),
                true => criterion.forward_with_logits(&leaf, targets, frames, lengths),
            }
        }
    }?;
    let gradient = loss.sum_all()?.backward()?.remove(&leaf);
    Ok((loss, gradient.expect("the input is a variable")))
}

fn losses(source: &mut Source, batch: &Batch, targets: &Tensor) {
    let emissions = &batch.emissions;
    let lengths: Vec<usize> = batch.targets.iter().map(Vec::len).collect();
    let lengths = (&batch.input_lengths[..], &lengths[..]);
    let result = loss_and_gradient(batch, source.flag(), &emissions.tensor, targets, lengths);
    if emissions.frames == 0 || emissions.items == 0 {
        assert!(result.is_err());
        return;
    }
    let (loss, gradient) = result.unwrap();
    assert_eq!(gradient.dims(), emissions.tensor.dims());
    assert_eq!(gradient.dtype(), emissions.tensor.dtype());
    if batch.opts.reduction == Reduction::None {
        item_alone(source, batch, &loss, &gradient);
    }
    let wanted = all_expected(batch);
    check_losses(batch, &wanted, &loss);
    let tolerance = tolerance::gradient(emissions.tensor.dtype());
    check_gradients(batch, &wanted, &gradient, tolerance);
}

/// An item has the bits that it has alone, and without the frames behind its length.
fn item_alone(source: &mut Source, batch: &Batch, loss: &Tensor, gradient: &Tensor) {
    let emissions = &batch.emissions;
    let n = source.below(emissions.items);
    let mut item = emissions.utterance(n);
    let mut gradient = Emissions {
        tensor: gradient.clone(),
        values: Vec::new(),
        ..*emissions
    }
    .utterance(n);
    let frames = batch.input_lengths[n];
    if source.flag() && frames > 0 {
        item = item.narrow(0, 0, frames).unwrap();
        gradient = gradient.narrow(0, 0, frames).unwrap();
    }
    let labels: Vec<i64> = batch.targets[n].iter().map(|&x| x as i64).collect();
    let labels = tensors::integers(&labels, &[labels.len()], DType::I64, &Device::Cpu);
    let lengths = (&[frames][..], &[batch.targets[n].len()][..]);
    let (own_loss, own_gradient) = loss_and_gradient(batch, true, &item, &labels, lengths).unwrap();
    assert_eq!(
        bits(&tensors::read(&own_loss))[0],
        bits(&tensors::read(loss))[n],
        "item {n} alone"
    );
    // candle's sum with zeros makes 0 of −0 and, in some places of a bf16 tensor, of subnormal numbers.
    let least = match item.dtype() {
        DType::BF16 => f64::from(f32::MIN_POSITIVE),
        _ => f64::MIN_POSITIVE,
    };
    let values = |tensor: &Tensor| {
        let values = tensors::read(&tensor.contiguous().unwrap());
        let flushed = values
            .iter()
            .map(|x| if x.abs() < least { 0.0 } else { *x });
        bits(&flushed.collect::<Vec<_>>())
    };
    assert_eq!(
        values(&own_gradient),
        values(&gradient),
        "gradient of item {n} alone"
    );
}

impl Batch {
    fn item<'a>(&'a self, n: usize, values: &'a [f64], weighted: &'a [f64]) -> Item<'a> {
        Item {
            values,
            weighted,
            classes: self.emissions.classes,
            target: &self.targets[n],
            blank: self.opts.blank,
            logits: self.logits,
        }
    }

    /// How far a loss may be from the truth. Weighted emissions cancel, and then the rounding of each frame shows.
    fn tolerance(&self) -> Tolerance {
        let Tolerance { absolute, relative } = tolerance::loss(self.emissions.tensor.dtype());
        let frames = match (&self.weights, self.emissions.tensor.dtype()) {
            (None, _) | (_, DType::F64) => 0,
            (Some(_), _) => self.emissions.frames,
        };
        Tolerance {
            absolute: absolute + 2.0 * f64::from(f32::EPSILON) * frames as f64,
            relative,
        }
    }

    /// The weight of an item in the loss.
    fn weight(&self, n: usize) -> f64 {
        match self.opts.reduction {
            Reduction::Mean => {
                1.0 / self.targets[n].len().max(1) as f64 / self.targets.len() as f64
            }
            _ => 1.0,
        }
    }
}

/// The part of an item in the loss of a batch, and the gradient of its rows; `None` where nothing exact is promised.
type Expected = Option<(f64, Vec<f64>)>;

fn all_expected(batch: &Batch) -> Vec<Expected> {
    let items = 0..batch.emissions.items;
    items.map(|n| expected(batch, n)).collect()
}

fn expected(batch: &Batch, n: usize) -> Expected {
    let values = batch.emissions.item(n, batch.input_lengths[n]);
    let dtype = batch.emissions.tensor.dtype();
    let weighted = match &batch.weights {
        Some(weights) => weights.added_to(&values, batch.opts.blank, dtype),
        None => values.clone(),
    };
    let item = batch.item(n, &values, &weighted);
    let (loss, posterior) = item.truth()?;
    // f32 results have no larger numbers.
    if loss.is_finite() && loss.abs() > 1e37 {
        return None;
    }
    let weight = batch.weight(n);
    let mut gradient = posterior_gradient(&item, loss, &posterior);
    if batch.opts.gradient == GradientKind::Torch && !batch.logits {
        let torch = |(x, p): (&f64, &f64)| match loss == f64::INFINITY || *x == f64::NEG_INFINITY {
            true => f64::NAN,
            false => x.exp() - p,
        };
        gradient = values.iter().zip(&posterior).map(torch).collect();
    }
    if batch.opts.zero_infinity && loss == f64::INFINITY {
        return Some((0.0, vec![0.0; gradient.len()]));
    }
    gradient.iter_mut().for_each(|x| *x *= weight);
    Some((loss * weight, gradient))
}

fn check_losses(batch: &Batch, wanted: &[Expected], loss: &Tensor) {
    let loss = tensors::read(loss);
    if batch.opts.reduction == Reduction::None {
        for (n, want) in wanted.iter().enumerate() {
            let Some((want, _)) = want else { continue };
            let target = &batch.targets[n];
            let what = format!(
                "loss of {target:?} in {} of {batch:?}",
                batch.input_lengths[n]
            );
            batch.tolerance().check(&what, &[loss[n]], &[*want]);
        }
        return;
    }
    let losses = wanted.iter().map(|want| Some(want.as_ref()?.0));
    let Some(losses) = losses.collect::<Option<Vec<f64>>>() else {
        return;
    };
    let size: f64 = losses
        .iter()
        .map(|x| if x.is_finite() { x.abs() } else { 0.0 })
        .sum();
    let Tolerance { absolute, relative } = batch.tolerance();
    let tolerance = Tolerance {
        absolute: (absolute + relative * size) * losses.len() as f64,
        relative,
    };
    tolerance.check("reduced loss", &loss, &[losses.iter().sum()]);
}

/// The gradient of each item's rows is the one that is wanted, and that of the rows behind them is 0.
fn check_gradients(batch: &Batch, wanted: &[Expected], gradient: &Tensor, tolerance: Tolerance) {
    let gradient = match batch.opts.layout {
        InputLayout::TimeMajor => gradient.clone(),
        InputLayout::BatchMajor => gradient.transpose(0, 1).unwrap(),
    };
    let (frames, items, classes) = gradient.dims3().unwrap();
    let gradient = tensors::read(&gradient.contiguous().unwrap());
    for (n, want) in wanted.iter().enumerate() {
        let Some((_, rows)) = want else { continue };
        let mut got = Vec::with_capacity(frames * classes);
        (0..frames)
            .for_each(|t| got.extend_from_slice(&gradient[(t * items + n) * classes..][..classes]));
        let (used, behind) = got.split_at(rows.len());
        check_gradient(batch, used, rows, tolerance);
        assert!(
            behind.iter().all(|x| *x == 0.0),
            "frames behind the length have a gradient"
        );
    }
}

/// Entries that the dtype cannot hold, as `exp` of a large log-probability in PyTorch's gradient, are left out.
fn check_gradient(batch: &Batch, got: &[f64], want: &[f64], tolerance: Tolerance) {
    let holds = |x: f64| !x.is_finite() || x.abs() < 6e4;
    let kept: Vec<usize> = (0..got.len().min(want.len()))
        .filter(|&i| holds(want[i]))
        .collect();
    let of = |values: &[f64]| kept.iter().map(|&i| values[i]).collect::<Vec<_>>();
    assert_eq!(got.len(), want.len());
    tolerance.check(&format!("gradient of {batch:?}"), &of(got), &of(want));
}

/// The losses of targets with stars, and their gradient at the log-probabilities that the star was appended to.
fn stars(source: &mut Source, batch: &Batch) {
    let emissions = &batch.emissions;
    let (star, dtype) = (emissions.classes, emissions.tensor.dtype());
    let penalty = source.below(129) as f64 / 8.0 - 4.0;
    let mut rng = source.rng();
    let often = source.pick(&[2, 4, 30]);
    let targets = batch.targets.iter().map(|target| {
        let mut starred = Vec::new();
        for label in target.iter().map(|label| Some(*label)).chain([None]) {
            if rng.below(often) == 0 {
                starred.push(star);
            }
            starred.extend(label);
        }
        starred
    });
    let targets: Vec<Vec<usize>> = targets.collect();
    let lengths: Vec<usize> = targets.iter().map(Vec::len).collect();
    let leaf = Var::from_tensor(&emissions.tensor).unwrap();
    let appended = append_star(&leaf, batch.opts.blank, penalty).unwrap();
    let padded = tensors::padded(&targets, 0, 0, DType::I64, &Device::Cpu);
    let opts = CtcLossOptions {
        gradient: GradientKind::Exact,
        ..batch.opts
    };
    let result = ctc_loss(&appended, &padded, &batch.input_lengths, &lengths, opts);
    if emissions.frames == 0 || emissions.items == 0 {
        assert!(result.is_err());
        return;
    }
    let loss = result.unwrap();
    let gradient = loss.sum_all().unwrap().backward().unwrap();
    let gradient = gradient.get(&leaf).unwrap();

    let time_major = match emissions.layout {
        InputLayout::TimeMajor => appended.clone(),
        InputLayout::BatchMajor => appended.transpose(0, 1).unwrap(),
    };
    let values = tensors::read(&time_major.detach().contiguous().unwrap());
    let weights = |class: usize| if class == opts.blank { 0.0 } else { -penalty };
    check_stars(&values, &emissions.values, star, weights, dtype);
    let starred = Batch {
        emissions: Emissions {
            tensor: time_major,
            values,
            classes: star + 1,
            ..*emissions
        },
        targets,
        input_lengths: batch.input_lengths.clone(),
        logits: false,
        opts,
        weights: None,
    };
    let mut wanted = all_expected(&starred);
    check_losses(&starred, &wanted, &loss);
    // How far a share of a star may be off, in the dtype in which it is computed.
    let largest = emissions.values.iter().filter(|x| x.is_finite());
    let largest = largest.fold(0.0, |most: f64, x| most.max(x.abs()));
    let rounding = match dtype {
        DType::F64 => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    } * 4.0
        * (largest + (16 + star) as f64);
    if rounding > 1e-2 {
        return;
    }
    for (n, want) in wanted.iter_mut().enumerate() {
        let Some((_, rows)) = want else { continue };
        let plain = emissions.item(n, batch.input_lengths[n]);
        *rows = shared_out(rows, &plain, star, weights);
    }
    let Tolerance { absolute, relative } = tolerance::gradient(dtype);
    // Halves are rounded where a star's part is added, too.
    let tolerance = Tolerance {
        absolute: absolute + rounding,
        relative: 4.0 * relative,
    };
    check_gradients(&starred, &wanted, gradient, tolerance);
}

/// `ln Σ e^(x + weight)`; NaN where a term is NaN or +inf.
fn star_of(row: &[f64], weights: impl Fn(usize) -> f64) -> f64 {
    let terms = row.iter().enumerate().map(|(class, x)| x + weights(class));
    let terms: Vec<f64> = terms.collect();
    if terms.iter().any(|x| x.is_nan() || *x == f64::INFINITY) {
        return f64::NAN;
    }
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    let sum: f64 = terms.iter().map(|x| (x - largest).exp()).sum();
    largest + sum.ln()
}

/// Rows of so many classes are followed by their star, and are as they were.
fn check_stars(
    appended: &[f64],
    plain: &[f64],
    classes: usize,
    weights: impl Fn(usize) -> f64 + Copy,
    dtype: DType,
) {
    let unit = match dtype {
        DType::F64 => 1e-13,
        DType::F16 => 1e-3,
        DType::BF16 => 1e-2,
        _ => 1e-6,
    };
    let tolerance = Tolerance {
        absolute: (2.0 + 0.1 * classes as f64) * unit,
        relative: unit,
    };
    for (got, row) in appended
        .chunks_exact(classes + 1)
        .zip(plain.chunks_exact(classes))
    {
        let (got, star) = got.split_at(classes);
        assert_eq!(bits(got), bits(row), "the classes beside a star");
        let want = star_of(row, weights);
        // Sums that the dtype may not hold.
        let most = if dtype == DType::F16 { 6e4 } else { 1e37 };
        if want.is_nan() {
            let is_none = star[0].is_nan() || star[0] == f64::INFINITY;
            assert!(is_none, "the star {} of {row:?}", star[0]);
        } else if want == f64::NEG_INFINITY || want.abs() < most {
            tolerance.check(&format!("the star of {row:?}"), star, &[want]);
        }
    }
}

/// The gradient of (T, C + 1) as that of (T, C): a star's part goes to the classes in proportion to their terms.
fn shared_out(
    gradient: &[f64],
    plain: &[f64],
    classes: usize,
    weights: impl Fn(usize) -> f64 + Copy,
) -> Vec<f64> {
    let rows = gradient
        .chunks_exact(classes + 1)
        .zip(plain.chunks_exact(classes));
    let rows = rows.flat_map(|(gradient, row)| {
        let star = star_of(row, weights);
        let part = move |class: usize| match gradient[classes] {
            0.0 => 0.0,
            upstream => upstream * (row[class] + weights(class) - star).exp(),
        };
        (0..classes).map(move |class| gradient[class] + part(class))
    });
    rows.collect()
}

/// Scores of several transcripts are −loss, and so are the differentiable ones.
fn candidates(source: &mut Source, batch: &Batch) {
    let emissions = &batch.emissions;
    let dtype = emissions.tensor.dtype();
    let opts = ScoreOptions {
        blank: batch.opts.blank,
        layout: emissions.layout,
        input: if batch.logits {
            InputKind::Logits
        } else {
            InputKind::LogProbs
        },
        normalised: false,
        ..Default::default()
    };
    let lists: Vec<Vec<Vec<u32>>> = (0..emissions.items)
        .map(|n| {
            let mut list = vec![batch.targets[n].clone()];
            for _ in 0..source.below(12) {
                list.push(source.target(batch.targets[n].len() + 2, emissions.classes, opts.blank));
            }
            list.iter()
                .map(|target| target.iter().map(|&x| x as u32).collect())
                .collect()
        })
        .collect();
    let scores =
        score_transcripts_batch(&emissions.tensor, &batch.input_lengths, &lists, opts).unwrap();
    for (n, (scores, list)) in scores.iter().zip(&lists).enumerate() {
        let frames = batch.input_lengths[n];
        let values = emissions.item(n, frames);
        let truths = list.iter().map(|target| truth_of(batch, &values, target));
        let truths: Vec<Option<(f64, Vec<f64>)>> = truths.collect();
        let shared = match dtype {
            DType::F64 => 0.0,
            _ => 8.2e-8 * frames as f64,
        };
        let Tolerance { absolute, relative } = tolerance::loss(dtype);
        let close = Tolerance {
            absolute: absolute + shared,
            relative,
        };
        for ((score, truth), target) in scores.iter().zip(&truths).zip(list) {
            if let Some((loss, _)) = truth {
                let what = format!("score of {target:?} in {frames} frames of item {n}");
                close.check(&what, &[-score], &[*loss]);
            }
        }
        let exact: Option<Vec<_>> = truths.into_iter().collect();
        if let Some(truths) = exact.filter(|_| frames > 0) {
            let utterance = emissions.utterance(n).narrow(0, 0, frames).unwrap();
            likelihoods(source, batch, &utterance, list, opts, &truths, &values);
        }
    }
}

fn truth_of(batch: &Batch, values: &[f64], target: &[u32]) -> Option<(f64, Vec<f64>)> {
    let target: Vec<usize> = target.iter().map(|&x| x as usize).collect();
    let item = Item {
        target: &target,
        ..batch.item(0, values, values)
    };
    item.truth()
        .filter(|(loss, _)| !loss.is_finite() || loss.abs() < 1e37)
}

fn likelihoods(
    source: &mut Source,
    batch: &Batch,
    utterance: &Tensor,
    list: &[Vec<u32>],
    opts: ScoreOptions,
    truths: &[(f64, Vec<f64>)],
    values: &[f64],
) {
    let dtype = utterance.dtype();
    let leaf = Var::from_tensor(&utterance.contiguous().unwrap()).unwrap();
    let found = transcript_log_likelihoods(&leaf, list, opts).unwrap();
    let losses: Vec<f64> = truths.iter().map(|truth| -truth.0).collect();
    tolerance::loss(dtype).check("log-likelihoods", &tensors::read(&found), &losses);
    let weights: Vec<f64> = list
        .iter()
        .map(|_| source.below(5) as f64 / 2.0 - 1.0)
        .collect();
    let weights_of = tensors::floats(&weights, &[weights.len()], found.dtype(), &Device::Cpu);
    let sum = (&found * weights_of).unwrap().sum_all().unwrap();
    let gradient = tensors::read(sum.backward().unwrap().get(&leaf).unwrap());
    if losses.iter().any(|loss| loss.is_nan()) {
        return;
    }
    let mut want = vec![0.0; values.len()];
    for (weight, (loss, posterior)) in weights.iter().zip(truths) {
        let rows = posterior_gradient(&batch.item(0, values, values), *loss, posterior);
        want.iter_mut()
            .zip(rows)
            .for_each(|(sum, x)| *sum -= weight * x);
    }
    let Tolerance { absolute, relative } = tolerance::gradient(dtype);
    let close = Tolerance {
        absolute: absolute * list.len() as f64,
        relative,
    };
    close.check("gradient of log-likelihoods", &gradient, &want);
}

/// The loss of a linear layer is that of its logits.
fn linear(source: &mut Source, batch: &Batch, targets: &Tensor) {
    let Emissions {
        frames,
        items,
        classes,
        ..
    } = batch.emissions;
    let (features, dtype) = (1 + source.below(5), source.dtype());
    let hidden = source.emissions_of([frames, items, features], dtype);
    let mut rng = source.rng();
    let floats =
        |values: &[f64], dims: &[usize]| tensors::floats(values, dims, dtype, &Device::Cpu);
    let weight = Var::from_tensor(&floats(
        &rng.values(classes * features, 2.0),
        &[classes, features],
    ))
    .unwrap();
    let bias = Var::from_tensor(&floats(&rng.values(classes, 1.0), &[classes])).unwrap();
    let bias = source.flag().then_some(bias);
    let lengths: Vec<usize> = batch.targets.iter().map(Vec::len).collect();
    let opts = CtcLossOptions {
        layout: hidden.layout,
        ..batch.opts
    };
    let leaf = Var::from_tensor(&hidden.tensor).unwrap();
    let biases = bias.as_ref().map(|bias| bias.as_tensor());
    let (input, counts) = (&batch.input_lengths, &lengths);
    let result = match &batch.weights {
        None => ctc_loss_linear(&leaf, &weight, biases, targets, input, counts, opts),
        Some(weights) => {
            let criterion = CtcLoss::new(opts).emissions(weights.options());
            criterion.forward_linear(&leaf, &weight, biases, targets, input, counts)
        }
    };
    if frames == 0 || items == 0 {
        assert!(result.is_err());
        return;
    }
    let loss = result.unwrap();
    let gradients = loss.sum_all().unwrap().backward().unwrap();
    for parameter in [Some(&leaf), Some(&weight), bias.as_ref()]
        .into_iter()
        .flatten()
    {
        assert_eq!(gradients.get(parameter).unwrap().dims(), parameter.dims());
    }
    // Products in other dtypes round too much for a comparison.
    if dtype != DType::F64 {
        return;
    }
    let (weights, biases) = (
        tensors::read(&weight),
        bias.as_ref().map(|bias| tensors::read(bias)),
    );
    let product = |row: &[f64], class: usize| -> f64 {
        let weights = &weights[class * features..][..features];
        let sum: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
        sum + biases.as_ref().map_or(0.0, |biases| biases[class])
    };
    let rows = hidden.values.chunks_exact(features);
    let logits: Vec<f64> = rows
        .flat_map(|row| (0..classes).map(move |class| (row, class)))
        .map(|(row, class)| product(row, class))
        .collect();
    // Beyond this, the rounding of the products shows.
    if logits.iter().any(|x| !x.is_finite() || x.abs() > 1e3) {
        return;
    }
    let tensor = tensors::floats(&logits, &[frames, items, classes], dtype, &Device::Cpu);
    let plain = Batch {
        emissions: Emissions {
            tensor,
            layout: InputLayout::TimeMajor,
            values: logits,
            ..batch.emissions
        },
        logits: true,
        opts: CtcLossOptions {
            layout: InputLayout::TimeMajor,
            ..opts
        },
        targets: batch.targets.clone(),
        input_lengths: batch.input_lengths.clone(),
        weights: batch.weights.clone(),
    };
    let lengths = (&batch.input_lengths[..], &lengths[..]);
    let input = &plain.emissions.tensor;
    let (want, gradient) = loss_and_gradient(&plain, true, input, targets, lengths).unwrap();
    let close = Tolerance {
        absolute: 1e-8,
        relative: 1e-10,
    };
    close.check("linear loss", &tensors::read(&loss), &tensors::read(&want));
    let gradient = tensors::read(&gradient);
    let mut sums = vec![0.0; classes * features];
    for (row, gradient) in hidden
        .values
        .chunks_exact(features)
        .zip(gradient.chunks_exact(classes))
    {
        for (sum, (g, x)) in sums.iter_mut().zip(
            gradient
                .iter()
                .flat_map(|g| row.iter().map(move |x| (g, x))),
        ) {
            *sum += g * x;
        }
    }
    let close = Tolerance {
        absolute: 1e-7 * (frames * items) as f64,
        relative: 1e-9,
    };
    close.check(
        "gradient of the weight",
        &tensors::read(gradients.get(&weight).unwrap()),
        &sums,
    );
}
