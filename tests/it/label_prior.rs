//! The label prior, against enumeration; and that a model trained with it is less peaky.

use crate::common::oracle::enumerate;
use crate::common::{Rng, tensors};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_ctc::{
    CtcLoss, CtcLossOptions, EmissionOptions, InputLayout, LabelPrior, Reduction,
    ctc_loss_with_logits,
};
use candle_nn::ops::log_softmax;

const LAYOUTS: [InputLayout; 2] = [InputLayout::TimeMajor, InputLayout::BatchMajor];

/// The sum of losses with this prior.
fn criterion(prior: &LabelPrior, scale: f64) -> CtcLoss {
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    };
    CtcLoss::new(opts).emissions(EmissionOptions {
        class_weights: prior.class_weights(scale).unwrap(),
        ..Default::default()
    })
}

/// Log-probabilities (T, N, C) in f64, of which what stands behind a length is NaN.
fn log_probs(rng: &mut Rng, lengths: &[usize], frames: usize, classes: usize) -> Tensor {
    let dims = [frames, lengths.len(), classes];
    let logits = tensors::floats(
        &rng.values(dims.iter().product(), 2.0),
        &dims,
        DType::F64,
        &Device::Cpu,
    );
    let mut values = tensors::read(&log_softmax(&logits, D::Minus1).unwrap());
    for (frame, rows) in values.chunks_mut(lengths.len() * classes).enumerate() {
        for (row, &length) in rows.chunks_mut(classes).zip(lengths) {
            if frame >= length {
                row.fill(f64::NAN);
            }
        }
    }
    tensors::floats(&values, &dims, DType::F64, &Device::Cpu)
}

#[test]
fn the_prior_is_the_mean_probability_of_the_epoch_before() {
    let (classes, lengths) = (4, [6, 0, 3]);
    for dtype in tensors::FLOATS {
        for layout in LAYOUTS {
            let mut rng = Rng::new(1);
            let mut prior = LabelPrior::new();
            assert!(prior.log_prior().unwrap().is_none());
            for _epoch in 0..2 {
                let (mut sums, mut count) = (vec![0.0; classes], 0.0);
                for _batch in 0..2 {
                    let batch = log_probs(&mut rng, &lengths, 7, classes)
                        .to_dtype(dtype)
                        .unwrap();
                    for (i, row) in tensors::read(&batch).chunks(classes).enumerate() {
                        if i / 3 < lengths[i % 3] {
                            count += 1.0;
                            sums.iter_mut()
                                .zip(row)
                                .for_each(|(sum, x)| *sum += x.exp());
                        }
                    }
                    let batch = match layout {
                        InputLayout::TimeMajor => batch,
                        InputLayout::BatchMajor => batch.transpose(0, 1).unwrap(),
                    };
                    prior.observe(&batch, lengths, layout).unwrap();
                }
                prior.next_epoch();
                // A call without observations changes nothing.
                prior.next_epoch();
                let found = tensors::read(&prior.log_prior().unwrap().unwrap());
                for (found, sum) in found.iter().zip(sums) {
                    let expected = ((sum + 1.0 / classes as f64) / (count + 1.0)).ln();
                    let tolerance = if dtype == DType::F64 { 1e-13 } else { 1e-6 };
                    assert!((found - expected).abs() < tolerance, "{found} {expected}");
                }
            }
        }
    }
}

// The probability of a path is the product of p(class) / prior(class)^scale; the gradient is that of finite differences
// of the logits, with the prior held.
#[test]
fn the_loss_with_a_prior_is_that_of_all_paths() {
    let (frames, classes, scale) = (5, 3, 0.7);
    let target = [1u32, 2];
    let mut rng = Rng::new(2);
    let mut prior = LabelPrior::new();
    let observed = log_probs(&mut rng, &[frames], frames, classes);
    prior
        .observe(&observed, frames, InputLayout::TimeMajor)
        .unwrap();
    prior.next_epoch();
    let log_prior = tensors::read(&prior.log_prior().unwrap().unwrap());

    let device = &Device::Cpu;
    let values = rng.values(frames * classes, 2.0);
    let labels = Tensor::new(&target, device).unwrap();
    let loss = |logits: &Tensor| {
        let log_probs = log_softmax(logits, D::Minus1).unwrap();
        let criterion = criterion(&prior, scale);
        criterion
            .forward(&log_probs, &labels, frames, target.len())
            .unwrap()
    };
    let tensor = |values: &[f64]| tensors::floats(values, &[frames, classes], DType::F64, device);
    let value = |values: &[f64]| loss(&tensor(values)).to_scalar::<f64>().unwrap();

    let log_probs = tensors::read(&log_softmax(&tensor(&values), D::Minus1).unwrap());
    let adjusted = log_probs.chunks(classes).flat_map(|row| {
        row.iter()
            .zip(&log_prior)
            .map(|(x, prior)| x - scale * prior)
    });
    let adjusted: Vec<f64> = adjusted.collect();
    let target: Vec<usize> = target.iter().map(|&label| label as usize).collect();
    let truth = enumerate(&adjusted, classes, &target, 0);
    assert!((value(&values) - truth.loss).abs() < 1e-12);

    let leaf = Var::from_tensor(&tensor(&values)).unwrap();
    let grads = loss(&leaf).backward().unwrap();
    for (i, gradient) in tensors::read(grads.get(&leaf).unwrap())
        .into_iter()
        .enumerate()
    {
        let moved = |by: f64| {
            let mut values = values.clone();
            values[i] += by;
            value(&values)
        };
        let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((numeric - gradient).abs() < 1e-8, "{numeric} {gradient}");
    }
}

/// Trains a table of logits for one utterance each, and returns the mean probability of the blank.
fn blank_share(scale: f64) -> f64 {
    let (frames, items, classes) = (24, 3, 5);
    let device = &Device::Cpu;
    let values = Rng::new(3).values(frames * items * classes, 0.1);
    let logits = tensors::floats(&values, &[frames, items, classes], DType::F32, device);
    let logits = Var::from_tensor(&logits).unwrap();
    let targets = Tensor::new(&[[1u32, 2, 3], [4, 3, 1], [2, 4, 2]], device).unwrap();
    let (lengths, of_targets) = ([frames; 3], [3; 3]);
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    };
    let mut prior = LabelPrior::new();
    for _epoch in 0..150 {
        let log_probs = log_softmax(&logits, D::Minus1).unwrap();
        prior
            .observe(&log_probs, lengths, InputLayout::TimeMajor)
            .unwrap();
        let criterion = criterion(&prior, scale);
        let loss = criterion
            .forward(&log_probs, &targets, lengths, of_targets)
            .unwrap();
        let grads = loss.backward().unwrap();
        let step = (grads.get(&logits).unwrap() * 0.5).unwrap();
        logits.set(&(logits.as_tensor() - step).unwrap()).unwrap();
        prior.next_epoch();
    }
    let plain = ctc_loss_with_logits(&logits, &targets, lengths, of_targets, opts).unwrap();
    let plain = tensors::read(&plain)[0] / items as f64;
    assert!(
        plain < 8.0,
        "scale {scale}: the transcripts are not learned: {plain}"
    );
    tensors::read(&prior.log_prior().unwrap().unwrap())[0].exp()
}

#[test]
fn a_model_trained_with_a_prior_is_less_peaky() {
    let (without, with) = (blank_share(0.0), blank_share(0.5));
    println!(
        "mean probability of the blank: {without:.3} without a prior, {with:.3} with a scale of 0.5"
    );
    assert!(with < 0.8 * without, "{without} {with}");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = &Device::Cpu;
    let even = |dims: &[usize], dtype| {
        let classes = dims[dims.len() - 1] as f64;
        (Tensor::zeros(dims, dtype, device).unwrap() - classes.ln()).unwrap()
    };
    let mut prior = LabelPrior::new();
    let layout = InputLayout::TimeMajor;
    let fits = even(&[3, 2, 4], DType::F32);
    // Nothing was observed yet.
    assert!(prior.class_weights(0.3).unwrap().is_none());
    prior.observe(&fits, [3, 2], layout).unwrap();
    let logits = (&fits + 5.0).unwrap();
    let observed: [(&Tensor, [usize; 2], &[&str]); 4] = [
        (
            &even(&[3, 2, 5], DType::F32),
            [3, 2],
            &["C = 4", "[3, 2, 5]"],
        ),
        (&even(&[3, 2, 4], DType::F64), [3, 2], &["F64", "F32"]),
        (&fits, [4, 2], &["input_lengths[0] = 4"]),
        (&logits, [3, 2], &["LabelPrior::observe", "logits"]),
    ];
    for (log_probs, lengths, parts) in observed {
        let error = prior
            .observe(log_probs, lengths, layout)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
    prior.next_epoch();
    for scale in [f64::NAN, f64::INFINITY] {
        let error = prior.class_weights(scale).unwrap_err().to_string();
        assert!(error.contains("scale"), "{error}");
    }
    // An item with NaN or +inf is left out.
    let mut dirty = LabelPrior::new();
    let mut values = tensors::read(&fits);
    values[4] = f64::NAN;
    let values = tensors::floats(&values, &[3, 2, 4], DType::F32, device);
    dirty.observe(&values, [3, 2], layout).unwrap();
    dirty.next_epoch();
    for found in tensors::read(&dirty.log_prior().unwrap().unwrap()) {
        assert!((found - 0.25f64.ln()).abs() < 1e-6, "{found}");
    }
    // An error in a later item leaves the batch out as a whole.
    let mut cut_short = LabelPrior::new();
    let view = even(&[1, 1, 4], DType::F32)
        .broadcast_as((2, 1 << 45, 4))
        .unwrap();
    let error = cut_short.observe(&view, [1usize, 1 << 45], InputLayout::BatchMajor);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the probabilities of item 1"), "{error}");
    cut_short.next_epoch();
    assert!(cut_short.log_prior().unwrap().is_none());
    // Half precision is observed in f32, and fits what f32 was.
    let half = even(&[3, 2, 4], DType::BF16);
    prior.observe(&half, [3, 2], layout).unwrap();
}
