//! Loss and gradient are those of PyTorch, entry by entry.
//!
//! `golden/generate.py` says what the cases are and writes them.

use crate::common::{self, tensors, tolerance, weighted};
use candle_core::{DType, Device, Tensor, Var, safetensors};
use candle_ctc::{CtcLossOptions, GradientKind, Reduction, ctc_loss, ctc_loss_with_logits};
use serde_json::Value;
use std::collections::HashMap;

struct Case {
    name: String,
    at_logits: bool,
    /// f64, with the values of f32.
    input: Tensor,
    targets: Vec<i64>,
    targets_dims: Vec<usize>,
    targets_dtype: DType,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
    options: CtcLossOptions,
    upstream: Option<Vec<f64>>,
    loss: Vec<f64>,
    loss_dims: Vec<usize>,
    gradient: Vec<f64>,
}

fn cases() -> Vec<Case> {
    // Elsewhere when this program runs on another machine than the one that built it.
    let root = std::env::var("CTC_TEST_ROOT").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    let folder = format!("{root}/tests/golden");
    let index = std::fs::read_to_string(format!("{folder}/cases.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let tensors = safetensors::load(format!("{folder}/cases.safetensors"), &Device::Cpu).unwrap();
    let rows = index["cases"].as_array().unwrap();
    rows.iter().map(|row| case(row, &tensors)).collect()
}

fn case(row: &Value, tensors: &HashMap<String, Tensor>) -> Case {
    let name = row["name"].as_str().unwrap().to_string();
    let tensor = |part: &str| tensors[&format!("{name}.{part}")].clone();
    let lengths = |key: &str| -> Vec<usize> {
        let values = row[key].as_array().unwrap();
        values
            .iter()
            .map(|v| v.as_u64().unwrap() as usize)
            .collect()
    };
    let targets = tensor("targets");
    Case {
        at_logits: match row["leaf"].as_str().unwrap() {
            "logits" => true,
            "log_probs" => false,
            other => panic!("{other}"),
        },
        input: tensor("input").to_dtype(DType::F64).unwrap(),
        targets: targets.flatten_all().unwrap().to_vec1().unwrap(),
        targets_dims: targets.dims().to_vec(),
        targets_dtype: row["targets_dtype"].as_str().unwrap().parse().unwrap(),
        input_lengths: lengths("input_lengths"),
        target_lengths: lengths("target_lengths"),
        options: CtcLossOptions {
            blank: row["blank"].as_u64().unwrap() as usize,
            reduction: match row["reduction"].as_str().unwrap() {
                "none" => Reduction::None,
                "mean" => Reduction::Mean,
                "sum" => Reduction::Sum,
                other => panic!("{other}"),
            },
            zero_infinity: row["zero_infinity"].as_bool().unwrap(),
            ..Default::default()
        },
        upstream: row["upstream"]
            .as_array()
            .map(|values| values.iter().map(|v| v.as_f64().unwrap()).collect()),
        loss: tensors::read(&tensor("loss")),
        loss_dims: tensor("loss").dims().to_vec(),
        gradient: tensors::read(&tensor("gradient")),
        name,
    }
}

/// How the crate is called on a case.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Route {
    /// `ctc_loss` on the leaf.
    LogProbs,
    /// log_softmax of candle, then `ctc_loss`.
    LogSoftmax,
    /// `ctc_loss_with_logits` on the leaf.
    Logits,
}

/// log_softmax from candle's own differentiable operations.
fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(candle_core::D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(candle_core::D::Minus1)?.log()?)
}

fn check(case: &Case, route: Route, gradient: GradientKind, dtype: DType, device: &Device) {
    let what = format!(
        "{} {route:?} {gradient:?} {dtype:?} {:?}",
        case.name,
        device.location()
    );
    let leaf = case
        .input
        .to_dtype(dtype)
        .unwrap()
        .to_device(device)
        .unwrap();
    let leaf = Var::from_tensor(&leaf).unwrap();
    let targets = tensors::integers(
        &case.targets,
        &case.targets_dims,
        case.targets_dtype,
        device,
    );
    let (il, tl) = (
        case.input_lengths.as_slice(),
        case.target_lengths.as_slice(),
    );
    let options = CtcLossOptions {
        gradient,
        ..case.options
    };
    let loss = match route {
        Route::LogProbs => ctc_loss(&leaf, &targets, il, tl, options),
        Route::LogSoftmax => ctc_loss(&log_softmax(&leaf).unwrap(), &targets, il, tl, options),
        Route::Logits => ctc_loss_with_logits(&leaf, &targets, il, tl, options),
    }
    .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(loss.dims(), case.loss_dims, "{what}: shape of the loss");
    assert_eq!(loss.dtype(), dtype, "{what}: dtype of the loss");
    tolerance::golden(dtype).check(&format!("{what}: loss"), &tensors::read(&loss), &case.loss);

    let gradients = weighted(&loss, case.upstream.as_deref())
        .unwrap()
        .backward()
        .unwrap();
    let got = tensors::read(gradients.get(&leaf).unwrap());
    let mut want = case.gradient.clone();
    if gradient == GradientKind::Exact {
        // PyTorch has NaN where an item cannot be aligned; the derivative is 0 there.
        want.iter_mut()
            .filter(|g| g.is_nan())
            .for_each(|g| *g = 0.0);
    }
    tolerance::golden(dtype).check(&format!("{what}: gradient"), &got, &want);
}

fn check_all(at_logits: bool, route: Route, gradient: GradientKind) {
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| case.at_logits == at_logits)
        .collect();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for device in common::devices() {
        for dtype in [DType::F64, DType::F32] {
            if common::holds(&device, dtype) {
                for case in &cases {
                    check(case, route, gradient, dtype, &device);
                }
            }
        }
    }
}

#[test]
fn torch_gradient_at_log_probs_is_pytorchs() {
    check_all(false, Route::LogProbs, GradientKind::Torch);
}

#[test]
fn exact_gradient_through_a_log_softmax_is_pytorchs() {
    check_all(true, Route::LogSoftmax, GradientKind::Exact);
}

#[test]
fn torch_gradient_through_a_log_softmax_is_pytorchs() {
    check_all(true, Route::LogSoftmax, GradientKind::Torch);
}

#[test]
fn exact_gradient_with_logits_is_pytorchs() {
    check_all(true, Route::Logits, GradientKind::Exact);
}
