//! Training over many steps with batches that hold every kind of item: no weight becomes NaN, and the loss falls.
//!
//! `CTC_TRAINING_STEPS` sets the number of steps; the default keeps the tests short.

use crate::common::Rng;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_ctc::{
    CtcLossOptions, GradientKind, Reduction, ctc_loss, ctc_loss_with_logits, pad_targets,
};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear};

const FRAMES: usize = 24;
const ITEMS: usize = 6;
const CLASSES: usize = 8;

/// A batch: features that tell the labels, through noise.
struct Batch {
    /// `(T, N, CLASSES)`.
    features: Tensor,
    targets: Tensor,
    input_lengths: Vec<usize>,
    target_lengths: Vec<usize>,
}

impl Batch {
    /// With `odd`, the first item has no label, and the second more labels than frames.
    fn new(rng: &mut Rng, odd: bool) -> Result<Self> {
        let mut features = vec![0f32; FRAMES * ITEMS * CLASSES];
        let mut targets: Vec<Vec<u32>> = Vec::new();
        let mut input_lengths = Vec::new();
        for item in 0..ITEMS {
            let mut classes: Vec<usize> = Vec::new();
            let mut target = Vec::new();
            while classes.len() < FRAMES - 4 && !(odd && item == 0) {
                // A third of the labels repeats the one before.
                let label = match target.last() {
                    Some(&last) if rng.below(3) == 0 => last as usize,
                    _ => 1 + rng.below(CLASSES - 1),
                };
                target.push(label as u32);
                classes.extend([label, label, 0]);
            }
            classes.resize(FRAMES, 0);
            for (frame, class) in classes.into_iter().enumerate() {
                for feature in 0..CLASSES {
                    let value =
                        f64::from(u8::from(feature == class)) + 0.3 * (2.0 * rng.unit() - 1.0);
                    features[(frame * ITEMS + item) * CLASSES + feature] = value as f32;
                }
            }
            let too_long = odd && item == 1;
            input_lengths.push(if too_long { target.len() - 1 } else { FRAMES });
            targets.push(target);
        }
        let (targets, target_lengths) = pad_targets(&targets, &Device::Cpu)?;
        Ok(Self {
            features: Tensor::from_vec(features, (FRAMES, ITEMS, CLASSES), &Device::Cpu)?,
            targets,
            input_lengths,
            target_lengths,
        })
    }
}

/// A way to train.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    dtype: DType,
    reduction: Reduction,
    zero_infinity: bool,
    gradient: GradientKind,
    logits: bool,
}

const MEAN: Recipe = Recipe {
    dtype: DType::F32,
    reduction: Reduction::Mean,
    zero_infinity: true,
    gradient: GradientKind::Exact,
    logits: true,
};

const RECIPES: [Recipe; 9] = [
    MEAN,
    Recipe {
        reduction: Reduction::Sum,
        ..MEAN
    },
    Recipe {
        reduction: Reduction::None,
        ..MEAN
    },
    Recipe {
        dtype: DType::BF16,
        ..MEAN
    },
    Recipe {
        dtype: DType::F16,
        ..MEAN
    },
    // The loss of an item that does not fit is +inf, and its gradient 0.
    Recipe {
        zero_infinity: false,
        ..MEAN
    },
    Recipe {
        zero_infinity: false,
        reduction: Reduction::Sum,
        logits: false,
        ..MEAN
    },
    Recipe {
        logits: false,
        dtype: DType::BF16,
        ..MEAN
    },
    Recipe {
        logits: false,
        gradient: GradientKind::Torch,
        ..MEAN
    },
];

impl Recipe {
    /// A single loss: the mean over the items where the recipe does not reduce them.
    fn loss(&self, model: &[Linear; 2], batch: &Batch) -> Result<Tensor> {
        let hidden = model[0].forward(&batch.features)?.tanh()?;
        let output = model[1].forward(&hidden)?;
        let opts = CtcLossOptions {
            reduction: self.reduction,
            zero_infinity: self.zero_infinity,
            gradient: self.gradient,
            ..Default::default()
        };
        let (targets, lengths) = (&batch.targets, &batch.input_lengths);
        let loss = match self.logits {
            true => {
                let logits = output.to_dtype(self.dtype)?;
                ctc_loss_with_logits(&logits, targets, lengths, &batch.target_lengths, opts)?
            }
            false => {
                let log_probs = candle_nn::ops::log_softmax(&output, D::Minus1)?;
                let log_probs = log_probs.to_dtype(self.dtype)?;
                ctc_loss(&log_probs, targets, lengths, &batch.target_lengths, opts)?
            }
        };
        loss.to_dtype(DType::F32)?.mean_all()
    }
}

#[test]
fn no_kind_of_item_spoils_a_training() -> Result<()> {
    let steps = std::env::var("CTC_TRAINING_STEPS").map_or(120, |steps| steps.parse().unwrap());
    for recipe in RECIPES {
        let mut rng = Rng::new(7);
        let watched = Batch::new(&mut rng, false)?;
        let weights = VarMap::new();
        let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
        let model = [
            linear(CLASSES, 16, vb.pp("in"))?,
            linear(16, CLASSES, vb.pp("out"))?,
        ];
        // candle's own start is random in each run.
        for var in weights.all_vars() {
            let values = rng.values(var.elem_count(), 0.4);
            let values = Tensor::from_vec(values, var.shape(), &Device::Cpu)?;
            var.set(&values.to_dtype(DType::F32)?)?;
        }
        let params = ParamsAdamW {
            lr: 0.02,
            weight_decay: 0.0,
            ..Default::default()
        };
        let mut optimiser = AdamW::new(weights.all_vars(), params)?;
        let first = recipe.loss(&model, &watched)?.to_scalar::<f32>()?;
        for step in 0..steps {
            let batch = Batch::new(&mut rng, step % 3 > 0)?;
            let loss = recipe.loss(&model, &batch)?;
            optimiser.backward_step(&loss)?;
            let value = loss.to_scalar::<f32>()?;
            let must_be_finite = recipe.zero_infinity || step % 3 == 0;
            assert!(
                value.is_finite() == must_be_finite,
                "{recipe:?} {step} {value}"
            );
            assert!(!value.is_nan(), "{recipe:?} {step}");
            for var in weights.all_vars() {
                let sum = var.abs()?.sum_all()?.to_scalar::<f32>()?;
                assert!(sum.is_finite(), "{recipe:?} {step}");
            }
        }
        let last = recipe.loss(&model, &watched)?.to_scalar::<f32>()?;
        assert!(last < 0.2 * first, "{recipe:?}: {first} to {last}");
    }
    Ok(())
}
