//! All instruction sets give the same results but for roundings. That those with a fused multiply-add give the same
//! bits is for `golden_bits` to say: it compares each with stored ones, since few machines have two of them. In a file of
//! its own: the choice is the process's.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Isa, Reduction, ctc_loss, ctc_loss_with_logits};
use common::Rng;

/// Losses and gradients of `input` (T, N, C), as f64.
fn run(input: &Tensor, targets: &Tensor, logits: bool) -> Result<(Vec<f64>, Vec<f64>)> {
    let (frames, items, _) = input.dims3()?;
    let leaf = Var::from_tensor(input)?;
    let options = CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    };
    let input_lengths: Vec<usize> = (0..items).map(|n| frames - 3 * (n % 9)).collect();
    let target_lengths: Vec<usize> = (0..items).map(|n| targets.dims()[1] - n % 9).collect();
    let function = if logits {
        ctc_loss_with_logits
    } else {
        ctc_loss
    };
    let loss = function(&leaf, targets, &input_lengths, &target_lengths, options)?;
    // Losses alone may go another way, to the same bits.
    let alone = leaf.as_detached_tensor();
    let alone = function(&alone, targets, &input_lengths, &target_lengths, options)?;
    let gradient = loss.backward()?.get(&leaf).unwrap().clone();
    let values = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    assert_eq!(values(&alone)?, values(&loss)?);
    Ok((values(&loss)?, values(&gradient)?))
}

/// Within the roundings of the type that the results are kept in.
fn assert_near(got: &(Vec<f64>, Vec<f64>), other: &(Vec<f64>, Vec<f64>), dtype: DType, what: &str) {
    let (loss, gradient) = match dtype {
        DType::F64 => (1e-14, 1e-13),
        DType::F16 => (1e-6, 1e-3),
        DType::BF16 => (1e-6, 8e-3),
        _ => (1e-6, 1e-6),
    };
    for (a, b) in got.0.iter().zip(&other.0) {
        assert!((a / b - 1.0).abs() <= loss, "{what}: {a} {b}");
    }
    for (a, b) in got.1.iter().zip(&other.1) {
        assert!((a - b).abs() <= gradient, "{what}: {a} {b}");
    }
}

#[test]
#[cfg_attr(target_arch = "aarch64", ignore = "NEON is the only one here")]
fn every_instruction_set_gives_the_same_results() -> Result<()> {
    let (best, mut rng) = (Isa::current(), Rng::new(1));
    let others: Vec<Isa> = Isa::available()
        .into_iter()
        .filter(|&isa| isa != Isa::Baseline)
        .collect();
    assert!(!others.is_empty(), "a processor with nothing but SSE2");
    for (frames, items, classes, labels) in [
        (40, 3, 7, 9),
        (150, 2, 300, 40),
        (400, 2, 5, 90),
        (9, 1, 2, 1),
        // Items side by side, on machines of up to eight threads.
        (70, 67, 7, 20),
        // A gradient that is written past the cache.
        (150, 10, 3001, 20),
    ] {
        let device = Device::Cpu;
        let values = rng.values(frames * items * classes, 6.0);
        let input = Tensor::from_vec(values, (frames, items, classes), &device)?;
        let targets: Vec<u32> = (0..items * labels)
            .map(|i| 1 + (i * i % (classes - 1)) as u32)
            .collect();
        let targets = Tensor::from_vec(targets, (items, labels), &device)?;
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let input = input.to_dtype(dtype)?;
            for logits in [false, true] {
                assert!(Isa::Baseline.force());
                let baseline = run(&input, &targets, logits)?;
                assert!(baseline.0.iter().all(|loss| loss.is_finite()));
                for &isa in &others {
                    assert!(isa.force());
                    assert_eq!(Isa::current(), isa);
                    let got = run(&input, &targets, logits)?;
                    let what = format!("{isa:?} {dtype:?} logits: {logits}");
                    assert_near(&got, &baseline, dtype, &what);
                }
            }
        }
    }
    assert!(best.force());
    Ok(())
}
