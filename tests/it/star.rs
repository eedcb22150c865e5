//! The star of a loss, against the definition; and that a model learns from transcripts with gaps.

use crate::common::oracle::enumerate;
use crate::common::{Rng, devices, holds, tensors, tolerance};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_ctc::{
    CtcLossOptions, GreedyOptions, Reduction, append_star, ctc_loss, ctc_loss_with_logits,
    greedy_decode_batch,
};
use candle_nn::ops::log_softmax;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

const PENALTY: f64 = 0.75;

/// The rows (T, C) with the star's column, from its definition.
fn with_star(rows: &[f64], classes: usize, blank: usize) -> Vec<f64> {
    let appended = rows.chunks(classes).flat_map(|row| {
        let terms = row.iter().enumerate();
        let sum: f64 = terms
            .map(|(class, x)| (x - if class == blank { 0.0 } else { PENALTY }).exp())
            .sum();
        row.iter().copied().chain([sum.ln()])
    });
    appended.collect()
}

#[test]
fn the_loss_is_that_of_all_paths_through_the_star() -> Result<()> {
    let (frames, classes, blank) = (5, 3, 1);
    for device in devices() {
        for dtype in tensors::FLOATS {
            if !holds(&device, dtype) {
                continue;
            }
            let mut rng = Rng::new(1);
            let values = tensors::floats(
                &rng.values(frames * classes, 1.5),
                &[frames, classes],
                DType::F64,
                &Device::Cpu,
            );
            let values = tensors::read(&log_softmax(&values, 1)?);
            let values = tensors::rounded(&values, dtype);
            for target in [vec![3], vec![3, 0], vec![0, 3, 2], vec![3, 3]] {
                // Behind the length there is NaN, which reaches neither loss nor gradient.
                let mut padded = values.clone();
                padded.extend([f64::NAN; 3]);
                let leaf = Var::from_tensor(&tensors::floats(
                    &padded,
                    &[frames + 1, classes],
                    dtype,
                    &device,
                ))?;
                let labels: Vec<u32> = target.iter().map(|&label| label as u32).collect();
                let labels = Tensor::new(labels, &device)?;
                let opts = CtcLossOptions {
                    blank,
                    reduction: Reduction::Sum,
                    ..Default::default()
                };
                let loss = |leaf: &Tensor| {
                    let log_probs = append_star(leaf, blank, PENALTY)?;
                    ctc_loss(&log_probs, &labels, frames, target.len(), opts)
                };
                let found = loss(&leaf)?;
                let truth = enumerate(
                    &with_star(&values, classes, blank),
                    classes + 1,
                    &target,
                    blank,
                );
                let tolerance = match dtype {
                    DType::F64 | DType::F32 => tolerance::loss(dtype),
                    // The star is rounded.
                    _ => tolerance::gradient(dtype),
                };
                tolerance.check("loss", &tensors::read(&found), &[truth.loss]);

                let gradient = tensors::read(found.backward()?.get(&leaf).unwrap());
                let mut expected = vec![0.0; gradient.len()];
                for (i, x) in values.iter().enumerate() {
                    let (t, class) = (i / classes, i % classes);
                    let posterior = &truth.posterior[t * (classes + 1)..];
                    let star: f64 =
                        with_star(&values[t * classes..][..classes], classes, blank)[classes];
                    let part = (x - if class == blank { 0.0 } else { PENALTY } - star).exp();
                    expected[i] = -posterior[class] - posterior[classes] * part;
                }
                let tolerance = match dtype {
                    DType::F16 => tolerance::Tolerance {
                        absolute: 2e-3,
                        relative: 2e-3,
                    },
                    DType::BF16 => tolerance::Tolerance {
                        absolute: 1e-2,
                        relative: 1e-2,
                    },
                    _ => tolerance::gradient(dtype),
                };
                tolerance.check("gradient", &gradient, &expected);
            }
        }
    }
    Ok(())
}

#[test]
fn masked_rows_and_classes_have_no_nan() -> Result<()> {
    let (masked, device) = (f64::NEG_INFINITY, &Device::Cpu);
    let leaf = Var::from_tensor(&Tensor::new(
        &[
            [0.5f64.ln(), masked, 0.5f64.ln()],
            [masked; 3],
            [0.0, masked, masked],
        ],
        device,
    )?)?;
    let log_probs = append_star(&leaf, 0, 0.0)?;
    let star = tensors::read(&log_probs.narrow(1, 3, 1)?);
    assert!(
        star[0].abs() < 1e-12 && star[1] == masked && star[2] == 0.0,
        "{star:?}"
    );
    let labels = Tensor::new(&[3u32], device)?;
    let opts = CtcLossOptions {
        zero_infinity: true,
        ..Default::default()
    };
    let loss = ctc_loss(&log_probs, &labels, 3, 1, opts)?;
    let gradient = tensors::read(loss.backward()?.get(&leaf).unwrap());
    assert_eq!(gradient, [0.0; 9]);
    Ok(())
}

// Masks are often the smallest number of the dtype.
#[test]
fn a_star_has_the_range_of_its_dtype() -> Result<()> {
    let device = &Device::Cpu;
    for (dtype, least) in [(DType::F32, f64::from(f32::MIN)), (DType::F64, f64::MIN)] {
        let rows = [
            [least, least, least],
            [f64::NEG_INFINITY, -1.5e30, least],
            [-2e30, -2e30, -2e30],
        ];
        let leaf = Var::from_tensor(&Tensor::new(&rows, device)?.to_dtype(dtype)?)?;
        let star = append_star(&leaf, 0, 0.0)?.narrow(1, 3, 1)?;
        let wanted = Tensor::new(&[[least], [-1.5e30], [-2e30]], device)?.to_dtype(dtype)?;
        assert_eq!(tensors::read(&star), tensors::read(&wanted), "{dtype:?}");
        // The classes share the gradient of the star.
        let gradient = tensors::read(star.sum_all()?.backward()?.get(&leaf).unwrap());
        let sums: Vec<f64> = gradient.chunks(3).map(|row| row.iter().sum()).collect();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");
        assert_eq!(gradient[3..6], [0.0, 1.0, 0.0], "{dtype:?}");
    }
    Ok(())
}

// A masked class adds nothing to a star, and gets no gradient of it; the input is a view, of which item 1 has no star.
#[test]
fn a_star_among_masked_classes_of_a_batch() -> Result<()> {
    let (masked, device) = (f64::NEG_INFINITY, &Device::Cpu);
    let [p, q] = [0.75f64.ln(), 0.25f64.ln()];
    let item = Tensor::new(&[[p, masked, q], [masked, q, p]], device)?;
    // Class 2 of item 1 is not read.
    let other = Tensor::new(&[[p, q, f64::NAN], [q, p, f64::NAN]], device)?;
    let leaf = Var::from_tensor(&Tensor::stack(&[item, other], 0)?)?; // (N, T, C)
    let log_probs = append_star(&leaf.transpose(0, 1)?, 0, PENALTY)?;
    let labels = Tensor::new(&[[3u32], [1]], device)?;
    let opts = CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    };
    let loss = ctc_loss(&log_probs, &labels, [2, 2], [1, 1], opts)?;
    let found = tensors::read(&loss);
    let rest = (-PENALTY).exp();
    let star = [0.75 + 0.25 * rest, rest];
    // The paths of item 0: star, star; blank, star. Behind a star there is no blank in frame 1.
    let sum = star[0] * star[1] + 0.75 * star[1];
    let plain = 0.25 * 0.75 + 0.25 * 0.25 + 0.75 * 0.75;
    tolerance::loss(DType::F64).check("loss", &found, &[-sum.ln(), -f64::ln(plain)]);
    let gradient = tensors::read(loss.sum_all()?.backward()?.get(&leaf).unwrap());
    // Frame 1 of item 0 is the star's, from labels alone.
    let taken = star[0] * star[1] / sum;
    let expected = [
        -(1.0 - taken) - taken * 0.75 / star[0],
        0.0,
        -taken * 0.25 * rest / star[0],
        0.0,
        -0.25,
        -0.75,
    ];
    tolerance::gradient(DType::F64).check("gradient", &gradient[..6], &expected);
    assert!(gradient[6..].iter().all(|x| x.is_finite()), "{gradient:?}");
    Ok(())
}

#[test]
fn nothing_has_a_star_of_nothing() -> Result<()> {
    for dims in [[0, 2, 3], [2, 0, 3]] {
        let empty = Tensor::zeros(&dims, DType::F32, &Device::Cpu)?;
        assert_eq!(append_star(&empty, 0, 1.0)?.dims(), [dims[0], dims[1], 4]);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let device = &Device::Cpu;
    let rows = Tensor::zeros((2, 3), DType::F32, device)?;
    let cases = [
        (
            append_star(&Tensor::zeros((), DType::F32, device)?, 0, 1.0),
            "single number",
        ),
        (append_star(&rows, 3, 1.0), "blank = 3"),
        (append_star(&rows, 0, f64::NAN), "penalty is NaN"),
        (append_star(&rows.to_dtype(DType::U32)?, 0, 1.0), "U32"),
    ];
    for (result, part) in cases {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("append_star") && error.contains(part),
            "{error} lacks {part}"
        );
    }
    Ok(())
}

const FEATURES: usize = 12;
const LETTERS: usize = 8;
const FRAMES: usize = 60;

/// Noisy pictures of words of two letters, (N, T, D), with the words of each.
struct Lines {
    frames: Tensor,
    words: Vec<Vec<[u32; 2]>>,
}

fn lines(rng: &mut Rng, count: usize, shapes: &[f64]) -> Lines {
    let (mut frames, mut words) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (mut classes, mut line) = (vec![0; 1 + rng.below(3)], Vec::new());
        while classes.len() + 10 <= FRAMES {
            let word = [(); 2].map(|()| 1 + rng.below(LETTERS) as u32);
            for letter in word {
                classes.extend(vec![letter as usize; 1 + rng.below(3)]);
                classes.push(0);
            }
            classes.extend(vec![0; rng.below(2)]);
            line.push(word);
        }
        classes.resize(FRAMES, 0);
        let noise = rng.values(FRAMES * FEATURES, 0.6);
        let shape = classes
            .iter()
            .flat_map(|class| &shapes[class * FEATURES..][..FEATURES]);
        frames.extend(shape.zip(noise).map(|(x, noise)| (x + noise) as f32));
        words.push(line);
    }
    Lines {
        frames: Tensor::from_vec(frames, (count, FRAMES, FEATURES), &Device::Cpu).unwrap(),
        words,
    }
}

/// Trains on transcripts of which each word is missing with a probability of a third, and returns the rate of wrong
/// labels on other lines.
fn error_rate(star: bool) -> Result<f64> {
    let mut rng = Rng::new(9);
    let shapes = rng.values((LETTERS + 1) * FEATURES, 1.0);
    let (train, test) = (lines(&mut rng, 120, &shapes), lines(&mut rng, 60, &shapes));
    let label = LETTERS as u32 + 1;
    let targets = train.words.iter().map(|words| {
        let known = words.iter().filter(|_| rng.below(3) > 0);
        let labels = known.flat_map(|&[a, b]| if star { vec![label, a, b] } else { vec![a, b] });
        let mut labels: Vec<u32> = labels.collect();
        labels.extend(star.then_some(label));
        labels
    });
    let targets: Vec<Vec<u32>> = targets.collect();
    let (padded, lengths) = candle_ctc::pad_targets(&targets, &Device::Cpu)?;
    let weight = Var::zeros((FEATURES, LETTERS + 1), DType::F32, &Device::Cpu)?;
    let bias = Var::zeros(LETTERS + 1, DType::F32, &Device::Cpu)?;
    let logits = |lines: &Lines| {
        let flat = lines
            .frames
            .flatten_to(1)?
            .matmul(&weight)?
            .broadcast_add(&bias)?;
        flat.reshape((lines.words.len(), FRAMES, LETTERS + 1))
    };
    let params = ParamsAdamW {
        lr: 0.05,
        ..Default::default()
    };
    let mut optimizer = AdamW::new(vec![weight.clone(), bias.clone()], params)?;
    let opts = CtcLossOptions::batch_major();
    let frames = vec![FRAMES; train.words.len()];
    for step in 0..150 {
        let logits = logits(&train)?;
        let loss = if star {
            let penalty = 2.0 - 1.5 * (step as f64 / 150.0);
            let log_probs = append_star(&log_softmax(&logits, D::Minus1)?, 0, penalty)?;
            ctc_loss(&log_probs, &padded, &frames, &lengths, opts)?
        } else {
            ctc_loss_with_logits(&logits, &padded, &frames, &lengths, opts)?
        };
        optimizer.backward_step(&loss)?;
    }
    let log_probs = log_softmax(&logits(&test)?, D::Minus1)?;
    let opts = GreedyOptions {
        layout: candle_ctc::InputLayout::BatchMajor,
        ..Default::default()
    };
    let found = greedy_decode_batch(&log_probs, vec![FRAMES; test.words.len()], opts)?;
    let (mut wrong, mut all) = (0, 0);
    for (found, words) in found.iter().zip(&test.words) {
        let truth = words.concat();
        let letters = |labels: &[u32]| -> String {
            let letter = |&label: &u32| char::from(b'a' + label as u8);
            labels.iter().map(letter).collect()
        };
        wrong += strsim::levenshtein(&letters(&found.tokens), &letters(&truth));
        all += truth.len();
    }
    Ok(wrong as f64 / all as f64)
}

#[test]
#[cfg_attr(ctc_softgpu, ignore = "a training of minutes in simulation")]
fn with_a_star_a_model_learns_from_transcripts_with_gaps() -> Result<()> {
    let (without, with) = (error_rate(false)?, error_rate(true)?);
    println!(
        "rate of wrong labels with a third of the words missing: {without:.3}, with a star {with:.3}"
    );
    assert!(with < 0.5 * without, "{without} {with}");
    Ok(())
}
