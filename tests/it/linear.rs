//! The loss of a linear layer, against the layer and the loss one after the other and against finite differences.
//!
//! How a batch is cut into groups is tested beside the code.

use crate::common::{Rng, devices, gpus, holds, tensors, tolerance, weighted};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    Checks, CtcLoss, CtcLossOptions, EmissionOptions, InputLayout, Reduction, ctc_loss_linear,
    ctc_loss_with_logits,
};

const FEATURES: usize = 3;
const CLASSES: usize = 5;
const FRAMES: usize = 9;
const LENGTHS: [usize; 4] = [9, 6, 8, 0];

fn targets() -> Vec<Vec<usize>> {
    vec![vec![1, 1, 4], vec![3], vec![], vec![]]
}

/// A batch, time-major, with the parameters of a layer.
struct Case {
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
}

impl Case {
    fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        let mut rng = Rng::new(seed);
        let mut floats = |dims: &[usize]| {
            let values = rng.values(dims.iter().product(), 1.5);
            tensors::floats(&values, dims, dtype, device)
        };
        Self {
            hidden: floats(&[FRAMES, LENGTHS.len(), FEATURES]),
            weight: floats(&[CLASSES, FEATURES]),
            bias: floats(&[CLASSES]),
            targets: tensors::padded(&targets(), 1, 7, DType::I64, device),
        }
    }

    fn loss(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        opts: CtcLossOptions,
    ) -> Result<Tensor> {
        let lengths = targets().iter().map(Vec::len).collect::<Vec<_>>();
        ctc_loss_linear(hidden, weight, bias, &self.targets, LENGTHS, lengths, opts)
    }

    /// The layer and the loss one after the other, in the dtype of the tensors.
    fn unfused(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        opts: CtcLossOptions,
    ) -> Result<Tensor> {
        let (first, second, features) = hidden.dims3()?;
        let flat = hidden.reshape((first * second, features))?;
        let logits = flat.matmul(&weight.t()?)?;
        let logits = match bias {
            Some(bias) => logits.broadcast_add(bias)?,
            None => logits,
        };
        let logits = logits.reshape((first, second, ()))?;
        let lengths = targets().iter().map(Vec::len).collect::<Vec<_>>();
        ctc_loss_with_logits(&logits, &self.targets, LENGTHS, lengths, opts)
    }
}

fn sum() -> CtcLossOptions {
    CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    }
}

fn near(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims());
    for (a, b) in tensors::read(found)
        .into_iter()
        .zip(tensors::read(expected))
    {
        assert!(
            a == b || (a - b).abs() <= tolerance * b.abs().max(1.0),
            "{a} {b}"
        );
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let case = Case::new(1, DType::F64, &Device::Cpu);
    let upstream = [0.7, -1.3, 0.4, 2.0];
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        let opts = CtcLossOptions {
            reduction,
            ..Default::default()
        };
        let objective = |leaves: &[Tensor; 3]| {
            let [hidden, weight, bias] = leaves;
            let loss = case.loss(hidden, weight, Some(bias), opts).unwrap();
            weighted(&loss, Some(&upstream[..loss.elem_count()])).unwrap()
        };
        let at = [&case.hidden, &case.weight, &case.bias];
        let leaves = at.map(|tensor| Var::from_tensor(tensor).unwrap());
        let tracked = leaves.each_ref().map(|leaf| leaf.as_tensor().clone());
        let grads = objective(&tracked).backward().unwrap();
        for (which, leaf) in leaves.iter().enumerate() {
            let gradient = tensors::read(grads.get(leaf).unwrap());
            let values = tensors::read(leaf);
            for (i, analytic) in gradient.into_iter().enumerate() {
                let step = 1e-5;
                let at = |by: f64| {
                    let mut moved = values.clone();
                    moved[i] += by;
                    let mut all = leaves.each_ref().map(|leaf| leaf.detach());
                    all[which] = tensors::floats(&moved, leaf.dims(), DType::F64, &Device::Cpu);
                    tensors::read(&objective(&all))[0]
                };
                let numeric = (at(step) - at(-step)) / (2.0 * step);
                assert!(
                    (numeric - analytic).abs() < 1e-8,
                    "{reduction:?}, input {which}, entry {i}: {numeric} {analytic}"
                );
            }
        }
    }
}

// Views of hidden, weight and bias; weights that are used elsewhere, too; the loss twice in a graph.
#[test]
fn views_tied_weights_and_two_losses_of_one_graph() {
    let case = Case::new(2, DType::F64, &Device::Cpu);
    let steps = |linear: bool| {
        // (C, D + 1): the bias is a column of the same tensor, and the embedding of the labels its rows.
        let table = Tensor::cat(&[&case.weight, &case.bias.unsqueeze(1).unwrap()], 1).unwrap();
        let table = Var::from_tensor(&table).unwrap();
        let wide = Var::from_tensor(&case.hidden.transpose(0, 2).unwrap().contiguous().unwrap());
        let wide = wide.unwrap();
        let weight = table.narrow(1, 0, FEATURES).unwrap();
        let bias = table.narrow(1, FEATURES, 1).unwrap().squeeze(1).unwrap();
        let hidden = wide.transpose(0, 2).unwrap();
        let embedded = weight.narrow(0, 1, 2).unwrap().sum_all().unwrap();
        let loss = |hidden: &Tensor, opts| match linear {
            true => case.loss(hidden, &weight, Some(&bias), opts).unwrap(),
            false => case.unfused(hidden, &weight, Some(&bias), opts).unwrap(),
        };
        let first = loss(&hidden, sum());
        let second = loss(&(&hidden * 0.5).unwrap(), CtcLossOptions::default());
        let third = loss(
            &hidden.contiguous().unwrap().flip(&[0]).unwrap(),
            CtcLossOptions {
                reduction: Reduction::None,
                ..Default::default()
            },
        );
        let third = weighted(&third, Some(&[1.0, 0.0, -2.0, 0.5])).unwrap();
        let total =
            (((first * 3.0).unwrap() + second).unwrap() + (third + embedded).unwrap()).unwrap();
        let grads = total.backward().unwrap();
        let of = |leaf: &Var| grads.get(leaf).unwrap().clone();
        (total, of(&table), of(&wide))
    };
    let (found, expected) = (steps(true), steps(false));
    near(&found.0, &expected.0, 1e-12);
    near(&found.1, &expected.1, 1e-11);
    near(&found.2, &expected.2, 1e-11);
}

#[test]
#[cfg_attr(
    not(any(ctc_softgpu, feature = "cuda", feature = "metal")),
    ignore = "needs a GPU or its simulation"
)]
fn a_gpu_gives_the_loss_of_the_logits() {
    for device in gpus() {
        let dtypes = [(DType::F64, 1e-11), (DType::F32, 2e-5), (DType::BF16, 5e-2)];
        for (dtype, tolerance) in dtypes {
            if !holds(&device, dtype) {
                continue;
            }
            let case = Case::new(3, dtype, &device);
            let wide = if dtype == DType::BF16 {
                DType::F32
            } else {
                dtype
            };
            for reduction in [Reduction::None, Reduction::Mean] {
                let opts = CtcLossOptions {
                    reduction,
                    ..Default::default()
                };
                let run = |linear: bool| {
                    let at = [&case.hidden, &case.weight, &case.bias];
                    let leaves = at.map(|tensor| Var::from_tensor(tensor).unwrap());
                    let [hidden, weight, bias] = leaves.each_ref().map(|leaf| leaf.as_tensor());
                    let loss = match linear {
                        true => case.loss(hidden, weight, Some(bias), opts).unwrap(),
                        false => {
                            let [hidden, weight, bias] =
                                [hidden, weight, bias].map(|x| x.to_dtype(wide).unwrap());
                            case.unfused(&hidden, &weight, Some(&bias), opts).unwrap()
                        }
                    };
                    let grads = weighted(&loss, Some(&[2.0, 0.5, -1.0, 1.5][..loss.elem_count()]));
                    let grads = grads.unwrap().backward().unwrap();
                    let found = leaves
                        .each_ref()
                        .map(|leaf| grads.get(leaf).unwrap().clone());
                    (loss, found)
                };
                let (found, expected) = (run(true), run(false));
                near(&found.0, &expected.0, tolerance);
                for (found, expected) in found.1.iter().zip(&expected.1) {
                    assert_eq!(found.dtype(), dtype);
                    near(found, expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn layouts_and_one_item_and_no_bias() {
    let case = Case::new(4, DType::F64, &Device::Cpu);
    let time_major = case.loss(&case.hidden, &case.weight, None, sum()).unwrap();
    let unfused = case.unfused(&case.hidden, &case.weight, None, sum());
    near(&time_major, &unfused.unwrap(), 1e-12);
    let batch_major = case.hidden.transpose(0, 1).unwrap();
    let opts = CtcLossOptions {
        layout: InputLayout::BatchMajor,
        ..sum()
    };
    near(
        &case.loss(&batch_major, &case.weight, None, opts).unwrap(),
        &time_major,
        1e-12,
    );

    let none = CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    };
    let leaf = Var::from_tensor(&case.hidden).unwrap();
    let losses = case.loss(&leaf, &case.weight, None, none).unwrap();
    let all = losses.sum_all().unwrap().backward().unwrap();
    for (item, target) in targets().iter().enumerate() {
        let hidden = Var::from_tensor(&case.hidden.get_on_dim(1, item).unwrap()).unwrap();
        let target = tensors::concatenated(std::slice::from_ref(target), DType::U32, &Device::Cpu);
        let length = LENGTHS[item];
        let alone = ctc_loss_linear(
            &hidden,
            &case.weight,
            None,
            &target,
            length,
            target.elem_count(),
            none,
        );
        let alone = alone.unwrap();
        assert_eq!(alone.rank(), 0);
        near(&alone, &losses.get(item).unwrap(), 1e-12);
        let grads = alone.backward().unwrap();
        let of_all = all.get(&leaf).unwrap().get_on_dim(1, item).unwrap();
        near(grads.get(&hidden).unwrap(), &of_all, 1e-12);
    }
}

// What stands behind a length is not read, and has a gradient of 0.
#[test]
fn frames_behind_a_length_may_hold_anything() {
    let case = Case::new(5, DType::F32, &Device::Cpu);
    let run = |behind: f64| {
        let mut values = tensors::read(&case.hidden);
        for (frame, row) in values.chunks_mut(LENGTHS.len() * FEATURES).enumerate() {
            for (item, entries) in row.chunks_mut(FEATURES).enumerate() {
                if frame >= LENGTHS[item] {
                    entries.fill(behind);
                }
            }
        }
        let hidden = tensors::floats(&values, case.hidden.dims(), DType::F32, &Device::Cpu);
        let leaves = [&hidden, &case.weight].map(|tensor| Var::from_tensor(tensor).unwrap());
        let loss = case.loss(&leaves[0], &leaves[1], None, sum()).unwrap();
        let grads = loss.backward().unwrap();
        let gradients = leaves
            .each_ref()
            .map(|leaf| tensors::read(grads.get(leaf).unwrap()));
        (tensors::read(&loss), gradients)
    };
    let zeros = run(0.0);
    for behind in [f64::NAN, f64::INFINITY, 1e30] {
        assert_eq!(run(behind), zeros);
    }
    let of_hidden = &zeros.1[0];
    for (at, gradient) in of_hidden.iter().enumerate() {
        let (frame, item) = (at / (4 * FEATURES), at / FEATURES % 4);
        assert_eq!(frame < LENGTHS[item], *gradient != 0.0, "{frame} {item}");
    }
}

#[test]
fn an_item_that_does_not_fit_has_no_gradient_and_zero_infinity_drops_it() {
    let device = Device::Cpu;
    let values = Rng::new(6).values(2 * 2 * 2, 1.0);
    let weight = Tensor::new(&[[1f64, -1.], [0.5, 0.2], [0.0, 1.0]], &device).unwrap();
    let targets = Tensor::new(&[[1u32, 1], [2, 1]], &device).unwrap();
    for zero_infinity in [false, true] {
        let hidden = tensors::floats(&values, &[2, 2, 2], DType::F64, &device);
        let hidden = Var::from_tensor(&hidden).unwrap();
        let opts = CtcLossOptions {
            zero_infinity,
            ..sum()
        };
        let loss = ctc_loss_linear(&hidden, &weight, None, &targets, [2, 2], [2, 2], opts).unwrap();
        let total = tensors::read(&loss)[0];
        assert_eq!(total.is_finite(), zero_infinity, "{total}");
        let grads = loss.backward().unwrap();
        let gradient = grads.get(&hidden).unwrap();
        let of = |item| tensors::read(&gradient.get_on_dim(1, item).unwrap());
        assert!(of(0).iter().all(|&x| x == 0.0));
        assert!(of(1).iter().all(|&x| x != 0.0 && x.is_finite()));
    }
}

#[test]
fn only_what_is_tracked_has_a_gradient() {
    let case = Case::new(7, DType::F32, &Device::Cpu);
    let bias = Some(&case.bias);
    let none = case.loss(&case.hidden, &case.weight, bias, sum()).unwrap();
    assert!(!none.track_op());
    for reduction in [Reduction::None, Reduction::Sum] {
        let opts = CtcLossOptions {
            reduction,
            ..Default::default()
        };
        let weight = Var::from_tensor(&case.weight).unwrap();
        let loss = case.loss(&case.hidden, &weight, bias, opts).unwrap();
        let grads = loss.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&weight).is_some() && grads.get(&case.hidden).is_none());
        assert!(grads.get(&case.bias).is_none());
    }
    let criterion = CtcLoss::new(sum()).require_grad(true);
    let (lengths, of_targets) = (LENGTHS, [3, 1, 0, 0]);
    let forward = |hidden: &Tensor, weight: &Tensor| {
        criterion.forward_linear(hidden, weight, bias, &case.targets, lengths, of_targets)
    };
    let error = forward(&case.hidden, &case.weight).unwrap_err().to_string();
    assert!(error.contains("no variable"), "{error}");
    let weight = Var::from_tensor(&case.weight).unwrap();
    let loss = forward(&case.hidden, &weight).unwrap();
    assert_eq!(tensors::read(&loss), tensors::read(&none));
}

/// Hidden, weight, bias and options, and what their error names.
type Refused<'a> = (
    &'a Tensor,
    &'a Tensor,
    Option<&'a Tensor>,
    CtcLossOptions,
    &'a [&'a str],
);

#[test]
fn bad_arguments_are_errors_that_name_the_shapes() {
    let device = &Device::Cpu;
    let case = Case::new(8, DType::F32, device);
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, device).unwrap();
    let wide = case.weight.to_dtype(DType::F64).unwrap();
    let integers = zeros(&[9, 4, 3]).to_dtype(DType::U32).unwrap();
    let integer_weight = zeros(&[5, 3]).to_dtype(DType::U32).unwrap();
    let cases: [Refused; 10] = [
        (
            &case.hidden,
            &zeros(&[5, 4]),
            None,
            sum(),
            &["[9, 4, 3]", "[5, 4]", "(C, D)"],
        ),
        (&case.hidden, &zeros(&[5]), None, sum(), &["[5]", "(C, D)"]),
        (
            &zeros(&[3]),
            &case.weight,
            None,
            sum(),
            &["[3]", "(T, N, D)"],
        ),
        (&zeros(&[9, 4, 0]), &zeros(&[5, 0]), None, sum(), &["D = 0"]),
        (
            &case.hidden,
            &case.weight,
            Some(&zeros(&[4])),
            sum(),
            &["bias", "[4]", "[5, 3]"],
        ),
        (&case.hidden, &wide, None, sum(), &["weight", "F32", "F64"]),
        (&integers, &integer_weight, None, sum(), &["U32"]),
        (&zeros(&[0, 4, 3]), &case.weight, None, sum(), &["T = 0"]),
        (
            &case.hidden,
            &case.weight,
            None,
            CtcLossOptions {
                checks: Checks::Device,
                ..sum()
            },
            &["Checks::Host"],
        ),
        (
            &case.hidden,
            &case.weight,
            None,
            CtcLossOptions { blank: 5, ..sum() },
            &["blank", "5"],
        ),
    ];
    for (hidden, weight, bias, opts, parts) in cases {
        let error = case
            .loss(hidden, weight, bias, opts)
            .unwrap_err()
            .to_string();
        for part in parts.iter().chain([&"ctc_loss_linear"]) {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
    // A view of 2^50 frames takes no memory, but its gradient would.
    let endless = zeros(&[1, 1, 3]).broadcast_as((1 << 50, 1, 3)).unwrap();
    let weight = Var::from_tensor(&case.weight).unwrap();
    let targets = Tensor::new(&[1u32], device).unwrap();
    let error = ctc_loss_linear(
        &endless,
        &weight,
        None,
        &targets,
        [1usize << 50],
        [1],
        sum(),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("bytes"), "{error}");
}

#[test]
fn logits_that_do_not_fit_into_memory_are_an_error() {
    let view = |dims: &[usize]| {
        let one = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        one.broadcast_as(dims).unwrap()
    };
    let (frames, classes) = (1 << 20, 1 << 24);
    let (hidden, weight) = (view(&[frames, 1, 1]), view(&[classes, 1]));
    let targets = Tensor::new(&[[1u32]], &Device::Cpu).unwrap();
    let result = ctc_loss_linear(&hidden, &weight, None, &targets, [frames], [1], sum());
    let error = result.unwrap_err().to_string();
    assert!(error.contains("the logits of a group"), "{error}");
}

#[test]
fn weights_of_emissions_are_those_of_the_logits() -> Result<()> {
    let (frames, items, features, classes) = (12, 5, 3, 6);
    let targets: [&[usize]; 5] = [&[0, 2, 2], &[5], &[], &[4, 3, 4], &[2]];
    let target_lengths = targets.map(<[usize]>::len);
    let lengths = [12, 7, 3, 11, 12];
    for device in devices() {
        let mut rng = Rng::new(3);
        let weights = EmissionOptions {
            class_weights: Some(tensors::floats(
                &rng.values(classes, 2.0),
                &[classes],
                DType::F32,
                &device,
            )),
            blank_weight: -0.5,
            delay_penalty: 0.25,
        };
        let mut floats = |dims: &[usize]| {
            let values = rng.values(dims.iter().product(), 1.0);
            Var::from_tensor(&tensors::floats(&values, dims, DType::F32, &device))
        };
        let (hidden, weight) = (
            floats(&[frames, items, features])?,
            floats(&[classes, features])?,
        );
        let labels = tensors::padded(&targets.map(<[usize]>::to_vec), 0, 1, DType::U32, &device);
        for reduction in [Reduction::None, Reduction::Mean] {
            let opts = CtcLossOptions {
                blank: 1,
                reduction,
                ..Default::default()
            };
            let criterion = CtcLoss::new(opts).emissions(weights.clone());
            let fused = criterion.forward_linear(
                &hidden,
                &weight,
                None,
                &labels,
                lengths,
                target_lengths,
            )?;
            let logits = hidden.flatten_to(1)?.matmul(&weight.t()?)?;
            let logits = logits.reshape((frames, items, classes))?;
            let plain = criterion.forward_with_logits(&logits, &labels, lengths, target_lengths)?;
            let [fused, plain] = [fused, plain].map(|loss| {
                let grads = weighted(&loss, None).unwrap().backward().unwrap();
                let of = |var: &Var| tensors::read(grads.get(var).unwrap());
                (tensors::read(&loss), of(&hidden), of(&weight))
            });
            tolerance::loss(DType::F32).check("loss", &fused.0, &plain.0);
            for (fused, plain) in [(fused.1, plain.1), (fused.2, plain.2)] {
                tolerance::gradient(DType::F32).check("gradient", &fused, &plain);
            }
        }
    }
    Ok(())
}
