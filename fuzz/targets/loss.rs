//! The loss, its gradient and scores, against the plain lattice in f64; what tells of a loss before it is computed;
//! label priors.

#![no_main]

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    CtcLoss, CtcLossOptions, EmissionOptions, GradientKind, InputKind, InputLayout, LabelPrior,
    Reduction, ScoreOptions, append_star, conv_lengths, ctc_loss, ctc_loss_and_gradient,
    ctc_loss_and_gradient_with_logits, ctc_loss_linear, ctc_loss_with_logits, feasibility,
    memory_needed, pad_targets, rank_transcripts, rank_transcripts_batch, score_transcripts,
    score_transcripts_batch, transcript_log_likelihoods,
};
use candle_ctc_fuzz::common::tolerance::{self, Tolerance};
use candle_ctc_fuzz::common::{bits, lattice, tensors};
use candle_ctc_fuzz::{Emissions, Item, Source, label_prior, posterior_gradient, ranking};
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
    let part = source.below(12);
    if part == 4 || part == 5 || (part == 1 && source.flag()) {
        batch.weights = Some(Weights::new(source, batch.emissions.classes));
    }
    match part {
        0 => bad_arguments(source, &batch, &targets),
        1 => linear(source, &batch, &targets),
        2 => candidates(source, &batch),
        3 => stars(source, &batch),
        8 => fits(source, &batch),
        9 => prior(source, &mut batch, &targets),
        10 => ranks(source, &batch),
        11 => sizes(source),
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

fn score_options(batch: &Batch) -> ScoreOptions {
    ScoreOptions {
        blank: batch.opts.blank,
        layout: batch.emissions.layout,
        input: if batch.logits {
            InputKind::Logits
        } else {
            InputKind::LogProbs
        },
        normalised: false,
        ..Default::default()
    }
}

/// The candidates of each item: its target and others.
fn candidate_lists(source: &mut Source, batch: &Batch) -> Vec<Vec<Vec<u32>>> {
    let (classes, blank) = (batch.emissions.classes, batch.opts.blank);
    let list = |target: &Vec<usize>| {
        let mut list = vec![target.clone()];
        for _ in 0..source.below(12) {
            list.push(source.target(target.len() + 2, classes, blank));
        }
        list.iter()
            .map(|target| target.iter().map(|&x| x as u32).collect())
            .collect()
    };
    batch.targets.iter().map(list).collect()
}

/// How far a score may be from the truth, beside candidates that share its emissions.
fn shared_tolerance(dtype: DType, frames: usize) -> Tolerance {
    let shared = match dtype {
        DType::F64 => 0.0,
        _ => 8.2e-8 * frames as f64,
    };
    let Tolerance { absolute, relative } = tolerance::loss(dtype);
    Tolerance {
        absolute: absolute + shared,
        relative,
    }
}

/// Scores of several transcripts are −loss, and so are the differentiable ones.
fn candidates(source: &mut Source, batch: &Batch) {
    let emissions = &batch.emissions;
    let dtype = emissions.tensor.dtype();
    let opts = score_options(batch);
    let lists = candidate_lists(source, batch);
    let scores =
        score_transcripts_batch(&emissions.tensor, &batch.input_lengths, &lists, opts).unwrap();
    for (n, (scores, list)) in scores.iter().zip(&lists).enumerate() {
        let frames = batch.input_lengths[n];
        let values = emissions.item(n, frames);
        let truths = list.iter().map(|target| truth_of(batch, &values, target));
        let truths: Vec<Option<(f64, Vec<f64>)>> = truths.collect();
        let close = shared_tolerance(dtype, frames);
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

/// A target fits if there is a frame for each label, and one for the blank between equal neighbours.
fn fits(source: &mut Source, batch: &Batch) {
    let Emissions {
        frames,
        items,
        classes,
        ..
    } = batch.emissions;
    // Labels may be any numbers.
    let shift = source.pick(&[0, 1, u32::MAX as usize - classes]);
    let shifted = batch.targets.iter().map(|target| {
        let labels = target.iter().map(|label| label + shift);
        labels.collect::<Vec<_>>()
    });
    let shifted: Vec<Vec<usize>> = shifted.collect();
    let (padded, lengths) = padded(&shifted);
    let targets = match source.flag() {
        true => padded,
        false => tensors::concatenated(&shifted, DType::I64, &Device::Cpu),
    };
    // More frames than there are.
    let more = source.pick(&[0, 0, 1, 1 << 20]);
    let input_lengths: Vec<usize> = batch.input_lengths.iter().map(|x| x + more).collect();
    if items == 0 {
        let _ = feasibility(&targets, &input_lengths, &lengths);
        return;
    }
    if source.below(4) == 0 {
        return unfit_arguments(source, &shifted, &input_lengths);
    }
    let found = match source.flag() {
        true => feasibility(&targets, &input_lengths, &lengths),
        false => {
            let tensor = |lengths: &[usize]| {
                let lengths: Vec<i64> = lengths.iter().map(|&x| x as i64).collect();
                tensors::integers(&lengths, &[items], DType::I64, &Device::Cpu)
            };
            feasibility(&targets, &tensor(&input_lengths), &tensor(&lengths))
        }
    };
    let found = found.unwrap();
    let zeros = vec![0.0; frames * classes];
    for (n, target) in batch.targets.iter().enumerate() {
        let repeats = target.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let needed = target.len() + repeats;
        let one = found[n];
        let want = (input_lengths[n] >= needed, input_lengths[n], needed);
        assert_eq!(
            (one.feasible, one.frames, one.frames_needed),
            want,
            "{target:?}"
        );
        let item = lattice::Item {
            log_probs: &zeros[..batch.input_lengths[n] * classes],
            classes,
            target,
            blank: batch.opts.blank,
        };
        let has_path = item.sums().loss.is_finite();
        assert_eq!(has_path, batch.input_lengths[n] >= needed, "{target:?}");
    }
    if frames == 0 || more > 0 {
        return;
    }
    // Of finite emissions, the loss of a target that fits is finite, and no other.
    let input = Tensor::zeros((frames, items, classes), DType::F32, &Device::Cpu).unwrap();
    let targets = tensors::concatenated(&batch.targets, DType::I64, &Device::Cpu);
    let opts = CtcLossOptions {
        blank: batch.opts.blank,
        reduction: Reduction::None,
        ..Default::default()
    };
    let loss = ctc_loss_with_logits(&input, &targets, &input_lengths, &lengths, opts).unwrap();
    let finite = tensors::read(&loss).into_iter().map(f64::is_finite);
    let feasible = found.iter().map(|one| one.feasible);
    assert!(finite.eq(feasible), "{found:?}");
}

/// What `pad_targets` makes of targets, which has each in a row of its own.
fn padded(targets: &[Vec<usize>]) -> (Tensor, Vec<usize>) {
    let labels = |target: &Vec<usize>| target.iter().map(|&label| label as u32).collect();
    let lists: Vec<Vec<u32>> = targets.iter().map(labels).collect();
    let (tensor, lengths) = pad_targets(&lists, &Device::Cpu).unwrap();
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
    assert_eq!(tensor.dims(), [lists.len(), longest]);
    let rows = tensor.to_vec2::<u32>().unwrap();
    for ((row, list), length) in rows.iter().zip(&lists).zip(&lengths) {
        assert_eq!(*length, list.len());
        assert!(row.starts_with(list) && row[*length..].iter().all(|label| *label == 0));
    }
    (tensor, lengths)
}

/// Lengths and labels that none can be are errors of `feasibility`.
fn unfit_arguments(source: &mut Source, targets: &[Vec<usize>], input_lengths: &[usize]) {
    let signed = |values: &[usize]| values.iter().map(|&x| x as i64).collect::<Vec<_>>();
    let lengths: Vec<usize> = targets.iter().map(Vec::len).collect();
    let (mut frames, mut counts) = (signed(input_lengths), signed(&lengths));
    let (mut labels, mut dtype) = (signed(&targets.concat()), DType::I64);
    let at = source.below(targets.len());
    match source.below(6) {
        0 => frames[at] = source.pick(&[-1, i64::MIN, i64::MAX]),
        1 => counts[at] = source.pick(&[-1, i64::MIN, i64::MAX, 1 << 32, 1 << 20]),
        2 => frames.push(1),
        3 => counts.push(0),
        4 => dtype = DType::F32,
        _ => {
            let before: usize = lengths[..at].iter().sum();
            labels.insert(before, source.pick(&[-1, i64::MIN, 1 << 32, i64::MAX]));
            counts[at] += 1;
        }
    }
    let tensor = tensors::integers(&labels, &[labels.len()], DType::I64, &Device::Cpu);
    let tensor = tensor.to_dtype(dtype).unwrap();
    let found = feasibility(&tensor, &frames, &counts);
    assert!(
        found.is_err(),
        "{labels:?} {dtype:?} {frames:?} {counts:?} {found:?}"
    );
}

/// The estimate is the mean probability of each class, in parts as all at once; the loss with it is that of the
/// lattice.
fn prior(source: &mut Source, batch: &mut Batch, targets: &Tensor) {
    let emissions = &batch.emissions;
    let (input, layout) = (&emissions.tensor, emissions.layout);
    let lengths = &batch.input_lengths;
    let items: Vec<Vec<f64>> = (0..emissions.items)
        .map(|n| emissions.item(n, lengths[n]))
        .collect();
    // Sums of such numbers need not be finite in f32.
    let is_large = |x: &f64| *x > 80.0 && x.is_finite();
    if items.iter().flatten().any(is_large) {
        return;
    }
    let (mut prior, mut parts) = (LabelPrior::new(), LabelPrior::new());
    assert!(prior.class_weights(0.5).unwrap().is_none());
    // What an earlier epoch has seen, which a later one replaces.
    let mut want = None;
    if source.flag() && !items.is_empty() {
        let first = emissions.utterance(0);
        if prior.observe(&first, lengths[0], layout).is_ok() {
            want = label_prior::log_prior(&items[..1], emissions.classes);
        }
        prior.next_epoch();
    }
    let seen = prior.observe(input, lengths, layout);
    let sum = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>();
    let mut rows = items
        .iter()
        .flat_map(|item| item.chunks_exact(emissions.classes));
    assert!(
        seen.is_ok() || !rows.all(|row| (0.1..=2.0).contains(&sum(row))),
        "{seen:?}"
    );
    if seen.is_err() {
        return;
    }
    let in_parts = in_parts(source, &mut parts, emissions, lengths, &items);
    let of_these = label_prior::log_prior(&items, emissions.classes);
    if in_parts.is_ok() {
        check_prior(&mut parts, &of_these, emissions);
    }
    let want = of_these.or(want);
    check_prior(&mut prior, &want, emissions);
    unseen(source, &mut prior, emissions, lengths);
    check_prior(&mut prior, &want, emissions);

    let scale = source.pick(&[0.25, 1.0, -0.5, 0.0]);
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(prior.class_weights(bad).is_err());
    }
    let Some(weights) = prior.class_weights(scale).unwrap() else {
        return;
    };
    let of_class = tensors::read(&weights);
    let log_prior = want.expect("there are weights");
    let want: Vec<f64> = log_prior.iter().map(|prior| -scale * prior).collect();
    prior_tolerance(emissions).check("weights of a prior", &of_class, &want);
    batch.weights = Some(Weights {
        of_class,
        class_weights: Some(weights),
        of_blank: 0.0,
        delay: 0.0,
    });
    losses(source, batch, targets);
}

/// The same frames, item by item, and those of an item in two parts.
fn in_parts(
    source: &mut Source,
    prior: &mut LabelPrior,
    emissions: &Emissions,
    lengths: &[usize],
    items: &[Vec<f64>],
) -> Result<()> {
    for (n, item) in items.iter().enumerate() {
        // An item that is undefined in one part is left out as a whole.
        let whole = item.iter().any(|x| x.is_nan() || *x == f64::INFINITY);
        let first = match whole {
            true => lengths[n],
            false => source.below(lengths[n] + 1),
        };
        for (start, frames) in [(0, first), (first, lengths[n] - first)] {
            let part = emissions.utterance(n).narrow(0, start, frames)?;
            prior.observe(&part, frames, emissions.layout)?;
        }
    }
    Ok(())
}

/// Sums of f32 lose a digit in a few thousand frames.
fn prior_tolerance(emissions: &Emissions) -> Tolerance {
    let absolute = match emissions.tensor.dtype() {
        DType::F64 => 1e-11,
        _ => 1e-5 + 1e-7 * (emissions.frames * emissions.items) as f64,
    };
    Tolerance {
        absolute,
        relative: 0.0,
    }
}

fn check_prior(prior: &mut LabelPrior, want: &Option<Vec<f64>>, emissions: &Emissions) {
    prior.next_epoch();
    let found = prior.log_prior().unwrap();
    assert_eq!(found.is_some(), want.is_some());
    if let (Some(found), Some(want)) = (found, want) {
        prior_tolerance(emissions).check("label prior", &tensors::read(&found), want);
    }
}

/// What cannot be observed is an error.
fn unseen(source: &mut Source, prior: &mut LabelPrior, emissions: &Emissions, lengths: &[usize]) {
    let (input, layout) = (&emissions.tensor, emissions.layout);
    let (frames, items) = (emissions.frames, emissions.items);
    let known = prior.log_prior().unwrap().is_some();
    let classes = emissions.classes + 1;
    let result = match source.below(4) {
        0 if items > 0 => {
            let mut lengths = lengths.to_vec();
            lengths[source.below(items)] = source.pick(&[frames + 1, usize::MAX]);
            prior.observe(input, lengths, layout)
        }
        1 => prior.observe(input, vec![0; items + 1], layout),
        // Other classes and another precision than before.
        2 if known => {
            let more = Tensor::zeros((1, classes), input.dtype(), &Device::Cpu).unwrap();
            prior.observe(&more, 0usize, layout)
        }
        3 if known => {
            let other = match input.dtype() {
                DType::F64 => DType::F32,
                _ => DType::F64,
            };
            let other = Tensor::zeros((1, classes - 1), other, &Device::Cpu).unwrap();
            prior.observe(&other, 0usize, layout)
        }
        _ => {
            let integers = Tensor::zeros((1, classes), DType::I64, &Device::Cpu).unwrap();
            prior.observe(&integers, 1usize, layout)
        }
    };
    assert!(result.is_err());
}

/// The ranking of candidates has their log-likelihoods, in order.
fn ranks(source: &mut Source, batch: &Batch) {
    let emissions = &batch.emissions;
    let plain = score_options(batch);
    let mut opts = ScoreOptions {
        per_token: source.flag(),
        softmax: source.flag(),
        ..plain
    };
    let mut lists = candidate_lists(source, batch);
    for list in &mut lists {
        // Equal candidates keep their order.
        if source.flag() {
            list.push(list[source.below(list.len())].clone());
        }
    }
    let mut input_lengths = batch.input_lengths.clone();
    let bad = source.below(16);
    let at = source.below(lists.len().max(1));
    match bad {
        0 => opts.blank = source.pick(&[emissions.classes, usize::MAX]),
        1 => lists.push(Vec::new()),
        2 if !lists.is_empty() => {
            let label = source.pick(&[opts.blank as u32, emissions.classes as u32, u32::MAX]);
            lists[at].push(vec![label]);
        }
        3 if !lists.is_empty() => {
            input_lengths[at] = source.pick(&[emissions.frames + 1, usize::MAX])
        }
        _ => {}
    }
    let ranked = rank_transcripts_batch(&emissions.tensor, &input_lengths, &lists, opts);
    if bad < 2 || (bad < 4 && !lists.is_empty()) {
        assert!(ranked.is_err(), "{opts:?} {input_lengths:?} {lists:?}");
        return;
    }
    for (n, (ranked, list)) in ranked.unwrap().iter().zip(&lists).enumerate() {
        let frames = input_lengths[n];
        let lengths: Vec<usize> = list.iter().map(Vec::len).collect();
        ranking::check(ranked, &lengths, opts.per_token);
        let utterance = emissions.utterance(n).narrow(0, 0, frames).unwrap();
        let alone = rank_transcripts(&utterance, list, opts).unwrap();
        assert_eq!(
            format!("{alone:?}"),
            format!("{ranked:?}"),
            "item {n} alone"
        );
        let values = emissions.item(n, frames);
        let close = shared_tolerance(emissions.tensor.dtype(), frames);
        for one in ranked {
            let target = &list[one.index];
            if let Some((loss, _)) = truth_of(batch, &values, target) {
                let what = format!("rank of {target:?} in {frames} frames of item {n}");
                close.check(&what, &[one.log_likelihood], &[-loss]);
                let single = score_transcripts(&utterance, &[target], plain).unwrap();
                close.check(&what, &[one.log_likelihood], &single);
            }
        }
    }
}

/// Sizes that are computed from other sizes.
fn sizes(source: &mut Source) {
    let largest = [usize::MAX, usize::MAX - 1, usize::MAX / 2, 1 << 62, 1 << 32];
    let mut number = || match source.below(4) {
        0 => source.pick(&largest),
        1 => source.below(2000),
        _ => source.below(9),
    };
    let lengths = [number(), number(), number()];
    let [kernel, stride, padding, dilation] = [(); 4].map(|()| number());
    let found = conv_lengths(&lengths, kernel, stride, padding, dilation);
    let [reach, both] = [
        kernel.saturating_sub(1) as u128 * dilation as u128,
        2 * padding as u128,
    ];
    let padded = lengths.map(|length| length as u128 + both);
    let most = usize::MAX as u128;
    let fits = reach <= most && padded.iter().all(|padded| *padded <= most);
    let right = kernel > 0 && stride > 0 && dilation > 0 && fits;
    let what = format!("{lengths:?} {kernel} {stride} {padding} {dilation}: {found:?}");
    assert_eq!(found.is_ok(), right, "{what}");
    for (count, padded) in found.into_iter().flatten().zip(padded) {
        // The last place of the kernel is within the input, and one more would not be.
        let reaches = |places: u128| (places * stride as u128).checked_add(reach);
        let is_within = |places| reaches(places).is_some_and(|reach| reach < padded);
        let count = count as u128;
        assert!(!is_within(count), "{what}");
        assert!(count == 0 || is_within(count - 1), "{what}");
    }

    let [frames, batch, classes, labels] = [(); 4].map(|()| number());
    let dtype = source.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16, DType::U32]);
    let input = source.pick(&[InputKind::LogProbs, InputKind::Logits]);
    let found = memory_needed((frames, batch, classes), labels, dtype, input, &Device::Cpu);
    if classes == 0 || dtype == DType::U32 {
        assert!(found.is_err());
        return;
    }
    let size = if dtype == DType::F64 { 8.0 } else { 4.0 };
    let used = labels.min(classes - 1) as f64 + 1.0;
    let (items, frames) = (batch as f64, frames as f64);
    // A number for each frame and class that is used, rounded up to whole blocks; and less than three more for a frame.
    let least = items * frames * used * size;
    let most = items * (frames + 8.0) * (used * size + 24.0);
    // Of the lattice, at most two bytes for each state, with eight labels more than there are; and a few rows for each
    // thread.
    let states = items.max(1.0) * frames.max(1.0) * (labels as f64 + 9.0);
    let training = most.max(used * size) + 4.0 * states + 1e5 * classes as f64 + 1e7;
    let what = format!("{frames} {batch} {classes} {labels} {dtype:?} {input:?}: {found:?}");
    match found {
        Ok(found) => {
            let (kept, all) = (found.kept as f64, found.training as f64);
            assert!(least <= kept * 1.0001 && kept <= most * 1.0001, "{what}");
            assert!(kept <= all && all <= training * 1.0001, "{what}");
        }
        Err(_) => assert!(training > 2f64.powi(63), "{what}"),
    }
}
