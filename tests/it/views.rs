//! A view of any strides and offset gives the bits of its contiguous copy, in the loss and in the gradient.

use crate::common::views::VIEWS;
use crate::common::{self, Entry, Rng, bits, devices, holds, run, tensors};
use candle_core::{DType, Device, Tensor, Var};
use candle_ctc::{CtcLossOptions, GradientKind, InputLayout, Reduction};

const FRAMES: usize = 12;
const ITEMS: usize = 3;
const CLASSES: usize = 7;
const INPUT_LENGTHS: [usize; ITEMS] = [12, 9, 10];
const TARGET_LENGTHS: [usize; ITEMS] = [4, 2, 3];

fn targets(device: &Device) -> Tensor {
    let targets = [vec![1, 1, 6, 2], vec![3, 4], vec![5, 5, 5]];
    tensors::padded(&targets, 0, 0, DType::U32, device)
}

fn contiguous(layout: InputLayout, dtype: DType, device: &Device) -> Tensor {
    let dims = match layout {
        InputLayout::TimeMajor => [FRAMES, ITEMS, CLASSES],
        InputLayout::BatchMajor => [ITEMS, FRAMES, CLASSES],
    };
    tensors::floats(
        &Rng::new(50).values(FRAMES * ITEMS * CLASSES, 3.0),
        &dims,
        dtype,
        device,
    )
}

fn options(layout: InputLayout, gradient: GradientKind) -> CtcLossOptions {
    CtcLossOptions {
        layout,
        gradient,
        reduction: Reduction::None,
        ..Default::default()
    }
}

/// Calls `check` with all that a view may depend on.
fn everywhere(mut check: impl FnMut(Entry, CtcLossOptions, DType, &Device)) {
    for device in devices() {
        for dtype in tensors::FLOATS
            .into_iter()
            .filter(|&dtype| holds(&device, dtype))
        {
            for layout in [InputLayout::TimeMajor, InputLayout::BatchMajor] {
                for gradient in [GradientKind::Exact, GradientKind::Torch] {
                    for entry in Entry::ALL {
                        check(entry, options(layout, gradient), dtype, &device);
                    }
                }
            }
        }
    }
}

#[test]
fn views_are_views_with_the_same_values() {
    for device in devices() {
        let x = contiguous(InputLayout::TimeMajor, DType::F32, &device);
        for view in &VIEWS {
            let seen = (view.view)(&(view.store)(&x).unwrap()).unwrap();
            let (start, _) = (seen.layout().start_offset(), seen.dims());
            assert!(!seen.is_contiguous() || start > 0, "{}", view.name);
            assert_eq!(seen.dims(), x.dims(), "{}", view.name);
            assert_eq!(tensors::read(&seen), tensors::read(&x), "{}", view.name);
        }
    }
}

#[test]
fn a_view_gives_the_loss_and_gradient_of_its_contiguous_copy() {
    everywhere(|entry, options, dtype, device| {
        let x = contiguous(options.layout, dtype, device);
        let targets = targets(device);
        let want = run(
            entry,
            &x,
            &targets,
            &INPUT_LENGTHS,
            &TARGET_LENGTHS,
            options,
            None,
        )
        .unwrap();
        for view in &VIEWS {
            let what = format!("{} {entry:?} {options:?} {dtype:?}", view.name);
            let base = Var::from_tensor(&(view.store)(&x).unwrap()).unwrap();
            let seen = (view.view)(&base).unwrap();
            let loss = entry
                .loss(&seen, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, options)
                .unwrap();
            assert_eq!(
                bits(&tensors::read(&loss)),
                bits(&want.loss),
                "{what}: loss"
            );

            let gradients = loss.backward().unwrap();
            let base_gradient = gradients.get(&base).unwrap();
            let gradient = (view.view)(base_gradient).unwrap();
            // Signed zeros may change on the way back through candle's narrow.
            let (got, want) = (tensors::read(&gradient), &want.gradient);
            assert!(
                got.iter().zip(want).all(|(a, b)| a == b),
                "{what}: gradient"
            );
            let all: f64 = tensors::read(base_gradient).iter().map(|g| g.abs()).sum();
            let seen: f64 = got.iter().map(|g| g.abs()).sum();
            assert!(
                (all - seen).abs() <= 1e-9 * seen,
                "{what}: gradient outside of the view"
            );
        }
    });
}

#[test]
fn an_untracked_view_gives_the_loss_of_its_contiguous_copy() {
    everywhere(|entry, options, dtype, device| {
        let x = contiguous(options.layout, dtype, device);
        let targets = targets(device);
        let go = |x: &Tensor| {
            bits(&tensors::read(
                &entry
                    .loss(x, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, options)
                    .unwrap(),
            ))
        };
        let want = go(&x);
        for view in &VIEWS {
            let seen = (view.view)(&(view.store)(&x).unwrap()).unwrap();
            assert_eq!(
                go(&seen),
                want,
                "{} {entry:?} {options:?} {dtype:?}",
                view.name
            );
        }
    });
}

#[test]
fn a_broadcast_view_gives_the_loss_and_gradient_of_its_contiguous_copy() {
    everywhere(|entry, options, dtype, device| {
        let x = contiguous(options.layout, dtype, device);
        let targets = targets(device);
        for dim in 0..3 {
            let base =
                Var::from_tensor(&x.narrow(dim, 1, 1).unwrap().contiguous().unwrap()).unwrap();
            let seen = base.broadcast_as(x.shape()).unwrap();
            let copy = Var::from_tensor(&seen.contiguous().unwrap()).unwrap();
            let go = |x: &Tensor| {
                entry
                    .loss(x, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, options)
                    .unwrap()
            };
            let what = format!("dim {dim} {entry:?} {options:?} {dtype:?}");
            let (a, b) = (go(&seen), go(&copy));
            assert_eq!(
                bits(&tensors::read(&a)),
                bits(&tensors::read(&b)),
                "{what}: loss"
            );
            let a = a.backward().unwrap().get(&base).unwrap().clone();
            let b = b
                .backward()
                .unwrap()
                .get(&copy)
                .unwrap()
                .sum_keepdim(dim)
                .unwrap();
            // NaN never occurs here; signed zeros may differ in candle's own sums.
            assert!(
                tensors::read(&a)
                    .iter()
                    .zip(tensors::read(&b))
                    .all(|(a, b)| *a == b),
                "{what}: gradient"
            );
        }
    });
}

#[test]
fn an_unbatched_view_gives_the_loss_of_its_contiguous_copy() {
    everywhere(|entry, options, dtype, device| {
        let x = contiguous(options.layout, dtype, device);
        let item_dim = if options.layout == InputLayout::TimeMajor {
            1
        } else {
            0
        };
        let one = tensors::integers(&[3, 3, 1], &[3], DType::I64, device);
        let go = |x: &Tensor| {
            run(entry, x, &one, &[10], &[3], options, None)
                .unwrap()
                .bits()
        };
        let view = x.narrow(item_dim, 1, 1).unwrap().squeeze(item_dim).unwrap();
        assert!(options.layout == InputLayout::BatchMajor || !view.is_contiguous());
        let loss = |x: &Tensor| {
            bits(&tensors::read(
                &entry.loss(x, &one, &[10], &[3], options).unwrap(),
            ))
        };
        assert_eq!(loss(&view), loss(&view.contiguous().unwrap()));
        assert_eq!(go(&view), go(&view.contiguous().unwrap()));
    });
}

#[test]
fn an_upstream_gradient_may_be_a_view() {
    // The gradient of an expanded or transposed loss reaches the op with strides of its own.
    for device in devices() {
        for entry in Entry::ALL {
            let options = options(InputLayout::TimeMajor, GradientKind::Exact);
            let x = contiguous(InputLayout::TimeMajor, DType::F32, &device);
            let targets = targets(&device);
            let weights = tensors::floats(
                &[1.0, -2.0, 0.5, 3.0, 0.25, -1.0],
                &[3, 2],
                DType::F32,
                &device,
            );
            let go = |reshape: &dyn Fn(&Tensor) -> Tensor| {
                let leaf = Var::from_tensor(&x).unwrap();
                let loss = entry
                    .loss(&leaf, &targets, &INPUT_LENGTHS, &TARGET_LENGTHS, options)
                    .unwrap();
                let scalar = (reshape(&loss) * &weights).unwrap().sum_all().unwrap();
                tensors::read(scalar.backward().unwrap().get(&leaf).unwrap())
            };
            let expanded = go(&|loss| loss.unsqueeze(1).unwrap().broadcast_as((3, 2)).unwrap());
            let transposed = go(&|loss| {
                loss.unsqueeze(0)
                    .unwrap()
                    .broadcast_as((2, 3))
                    .unwrap()
                    .t()
                    .unwrap()
            });
            let summed = run(
                entry,
                &x,
                &targets,
                &INPUT_LENGTHS,
                &TARGET_LENGTHS,
                options,
                Some(&[-1.0, 3.5, -0.75]),
            );
            let summed = summed.unwrap().gradient;
            for got in [expanded, transposed] {
                common::tolerance::gradient(DType::F32).check("gradient", &got, &summed);
            }
        }
    }
}
