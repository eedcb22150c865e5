//! What a loss adds to log-probabilities before it sums over paths.

use crate::cpu_input::on_host;
use crate::options::EmissionOptions;
use crate::problem::plan::Input;
use candle_core::{DType, Result, Tensor, bail};

/// The weights of the emissions of a loss, on the device of its input.
#[derive(Debug, Clone)]
pub(crate) struct EmissionWeights {
    /// `(C + 1)`, contiguous: a number for each class, then the delay penalty. f64 for f64 input, f32 for all other dtypes.
    values: Tensor,
}

impl EmissionWeights {
    /// Checks the options; `None` if they change nothing.
    pub fn new(opts: &EmissionOptions, input: &Tensor, sizes: &Input) -> Result<Option<Self>> {
        for (name, value) in [
            ("blank_weight", opts.blank_weight),
            ("delay_penalty", opts.delay_penalty),
        ] {
            if !value.is_finite() {
                bail!("EmissionOptions: {name} is {value}; expected a finite number of nats")
            }
        }
        let dtype = match input.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let (classes, device) = (sizes.classes, input.device());
        if opts.class_weights.is_none() && opts.blank_weight == 0.0 && opts.delay_penalty == 0.0 {
            return Ok(None);
        }
        let mut values = vec![0.0; classes + 1];
        values[sizes.blank] = opts.blank_weight;
        values[classes] = opts.delay_penalty;
        let mut values = Tensor::new(values, device)?.to_dtype(dtype)?;
        if let Some(weights) = &opts.class_weights {
            check(weights, input, classes)?;
            let weights = weights.detach().to_dtype(dtype)?;
            values = (values + weights.pad_with_zeros(0, 0, 1)?)?;
        }
        Ok(Some(Self { values }))
    }

    /// The numbers, for the CPU.
    pub fn read(&self) -> Result<Vec<f64>> {
        self.values.to_dtype(DType::F64)?.to_vec1()
    }

    /// The tensor, for a GPU.
    pub fn tensor(&self) -> &Tensor {
        &self.values
    }
}

/// Weights on a GPU are not read: they may be NaN there.
fn check(weights: &Tensor, input: &Tensor, classes: usize) -> Result<()> {
    if weights.dims() != [classes] {
        bail!(
            "EmissionOptions: class_weights have shape {:?}; expected (C) = [{classes}]",
            weights.dims()
        )
    }
    if !weights.dtype().is_float() {
        bail!(
            "EmissionOptions: class_weights have dtype {:?}; expected F32, F64, F16 or BF16",
            weights.dtype()
        )
    }
    if !weights.device().same_device(input.device()) {
        bail!(
            "EmissionOptions: class_weights are on {:?} and the input on {:?}; move one of them with to_device",
            weights.device().location(),
            input.device().location()
        )
    }
    if weights.device().is_cpu() {
        let values = on_host(weights)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        if let Some(class) = values.iter().position(|weight| !weight.is_finite()) {
            bail!(
                "EmissionOptions: class_weights[{class}] = {}; expected finite numbers of nats",
                values[class]
            )
        }
    }
    Ok(())
}
