//! What a loss adds to log-probabilities before it sums over paths.

use crate::memory::check_room;
use crate::options::EmissionOptions;
use crate::problem::plan::{Input, real};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The weights of the emissions of a loss, on the device of its input.
#[derive(Debug, Clone)]
pub(crate) struct EmissionWeights {
    /// `(C + 1)`, contiguous: a number for each class, then the delay penalty. f64 for f64 input, f32 for all other dtypes.
    values: Tensor,
}

impl EmissionWeights {
    /// Checks the options; `None` if they change nothing.
    pub fn new(opts: &EmissionOptions, input: &Tensor, sizes: &Input) -> Result<Option<Self>> {
        let (blank_weight, delay_penalty) = (opts.blank_weight, opts.delay_penalty);
        if opts.class_weights.is_none() && blank_weight == 0.0 && delay_penalty == 0.0 {
            return Ok(None);
        }
        let (classes, device) = (sizes.classes, input.device());
        let dtype = real(input.dtype());
        check_number("blank_weight", blank_weight, dtype)?;
        check_number("delay_penalty", delay_penalty, dtype)?;
        if let Some(weights) = &opts.class_weights {
            check_tensor(weights, input, classes)?;
        }
        // A view of stride 0 may have any number of classes.
        let what = "EmissionOptions: the vector of class weights";
        check_room::<f64>(what, 4, &[classes])?;
        let mut values = vec![0.0; classes + 1];
        values[sizes.blank] = blank_weight;
        values[classes] = delay_penalty;
        // Metal converts no f64.
        let values = Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?;
        let mut values = values.to_device(device)?;
        if let Some(weights) = &opts.class_weights {
            let weights = weights.detach().to_dtype(dtype)?;
            values = (values + weights.pad_with_zeros(0, 0, 1)?)?;
        }
        let weights = Self { values };
        if device.is_cpu() {
            for (class, weight) in weights.read()?.into_iter().enumerate() {
                check_number(&format!("the weight of class {class}"), weight, dtype)?;
            }
        }
        Ok(Some(weights))
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

/// A number must be finite in the dtype in which it is added.
fn check_number(name: &str, number: f64, dtype: DType) -> Result<()> {
    let finite = match dtype {
        DType::F32 => (number as f32).is_finite(),
        _ => number.is_finite(),
    };
    if !finite {
        bail!(
            "EmissionOptions: {name} is {number}; expected a number of nats that is finite in {dtype:?}"
        )
    }
    Ok(())
}

/// Checks all but the numbers: on a GPU they are not read.
fn check_tensor(weights: &Tensor, input: &Tensor, classes: usize) -> Result<()> {
    let dtype = weights.dtype();
    if weights.dims() != [classes] {
        bail!(
            "EmissionOptions: class_weights have shape {:?}; expected (C) = [{classes}]",
            weights.dims()
        )
    }
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        bail!("EmissionOptions: class_weights have dtype {dtype:?}; expected f32, f64, f16 or bf16")
    }
    if !weights.device().same_device(input.device()) {
        bail!(
            "EmissionOptions: class_weights are on {:?} and the input on {:?}; move one of them with to_device",
            weights.device().location(),
            input.device().location()
        )
    }
    if dtype == DType::F64 && weights.device().is_metal() {
        bail!(
            "EmissionOptions: class_weights have dtype F64, which Metal does not support; make them of f32"
        )
    }
    Ok(())
}
