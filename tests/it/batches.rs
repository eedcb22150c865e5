//! What puts a batch together, and the loss that asks for a graph.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{CtcLoss, CtcLossOptions, Reduction, conv_lengths, ctc_loss, pad_targets};

#[test]
fn padded_targets_give_the_losses_of_concatenated_ones() -> Result<()> {
    let targets = [vec![1u32, 2, 2], vec![], vec![3]];
    let (padded, lengths) = pad_targets(&targets, &Device::Cpu)?;
    let logits = Tensor::randn(0f32, 1., (6, 3, 4), &Device::Cpu)?;
    let log_probs = candle_nn::ops::log_softmax(&logits, 2)?;
    let opts = CtcLossOptions {
        reduction: Reduction::None,
        ..Default::default()
    };
    let joined = Tensor::new(targets.concat(), &Device::Cpu)?;
    let a = ctc_loss(&log_probs, &padded, [6, 6, 6], &lengths, opts)?;
    let b = ctc_loss(&log_probs, &joined, [6, 6, 6], &lengths, opts)?;
    assert_eq!(a.to_vec1::<f32>()?, b.to_vec1::<f32>()?);
    // No labels at all, slices, and no items.
    let (padded, lengths) = pad_targets(&[&[][..], &[]], &Device::Cpu)?;
    assert_eq!((padded.dims(), lengths), (&[2, 1][..], vec![0, 0]));
    let (padded, lengths) = pad_targets(&[] as &[Vec<u32>], &Device::Cpu)?;
    assert_eq!((padded.dims(), lengths), (&[0, 1][..], vec![]));
    Ok(())
}

#[test]
fn lengths_behind_a_convolution_are_those_of_its_output() -> Result<()> {
    for kernel in 1..6 {
        for stride in 1..4 {
            for padding in 0..3 {
                for dilation in 1..4 {
                    for length in 1..14usize {
                        let got = conv_lengths(&[length], kernel, stride, padding, dilation)?[0];
                        if length + 2 * padding <= dilation * (kernel - 1) {
                            // candle refuses such a convolution.
                            assert_eq!(got, 0);
                            continue;
                        }
                        let x = Tensor::zeros((1, 1, length), DType::F32, &Device::Cpu)?;
                        let k = Tensor::zeros((1, 1, kernel), DType::F32, &Device::Cpu)?;
                        let want = x.conv1d(&k, padding, stride, dilation, 1)?.dim(2)?;
                        assert_eq!(got, want, "{length} {kernel} {stride} {padding} {dilation}");
                    }
                }
            }
        }
    }
    assert_eq!(conv_lengths(&[0, 9], 3, 2, 0, 1)?, [0, 4]);
    let message = |result: Result<Vec<usize>>| result.unwrap_err().to_string();
    for (name, [kernel, stride, dilation]) in [
        ("kernel", [0, 1, 1]),
        ("stride", [1, 0, 1]),
        ("dilation", [1, 1, 0]),
    ] {
        let text = message(conv_lengths(&[5], kernel, stride, 0, dilation));
        assert!(text.contains(&format!("{name} = 0")), "{text}");
    }
    for (length, kernel, padding) in [(usize::MAX, 3, 1), (5, 3, usize::MAX), (5, usize::MAX, 0)] {
        let text = message(conv_lengths(&[1, length], kernel, 1, padding, 2));
        assert!(text.contains("too large"), "{text}");
    }
    Ok(())
}

#[test]
fn a_loss_that_requires_a_gradient_refuses_an_input_without_a_graph() -> Result<()> {
    let values = Tensor::new(&[[-0.5f32, -0.9], [-0.6, -0.8]], &Device::Cpu)?;
    let targets = Tensor::new(&[1u32], &Device::Cpu)?;
    let strict = CtcLoss::new(CtcLossOptions::default()).require_grad(true);
    let var = Var::from_tensor(&values)?;
    let behind = (var.as_tensor() * 1.5)?;
    for (input, tracked) in [
        (values.clone(), false),
        (behind.detach(), false),
        (behind.clone(), true),
        (var.as_tensor().clone(), true),
    ] {
        for logits in [false, true] {
            let loss = |criterion: &CtcLoss| match logits {
                true => criterion.forward_with_logits(&input, &targets, 2, 1),
                false => criterion.forward(&input, &targets, 2, 1),
            };
            let name = if logits { "logits" } else { "log_probs" };
            match loss(&strict) {
                Ok(loss) => {
                    assert!(tracked);
                    assert!(loss.backward()?.get(&var).is_some());
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(!tracked && text.contains(name), "{text}");
                }
            }
            // Anything goes without the requirement.
            loss(&CtcLoss::default())?;
            loss(&strict.clone().require_grad(false))?;
        }
    }
    Ok(())
}
