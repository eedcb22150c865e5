//! Tensors of every dtype from plain numbers, and back.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

/// The integer dtypes that targets and lengths may have.
pub const INTEGERS: [DType; 5] = [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64];

/// The float dtypes that an input may have.
pub const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// Where a tensor of so many values can be: Metal has no empty buffers.
fn place(count: usize, device: &Device) -> &Device {
    match device {
        Device::Metal(_) if count == 0 => &Device::Cpu,
        device => device,
    }
}

/// A contiguous float tensor; each value is rounded once to the dtype. An empty one is on the CPU if the
/// device is Metal.
pub fn floats(values: &[f64], dims: &[usize], dtype: DType, device: &Device) -> Tensor {
    let device = place(values.len(), device);
    fn build<T: candle_core::WithDType>(
        values: &[f64],
        dims: &[usize],
        device: &Device,
        convert: impl Fn(f64) -> T,
    ) -> Tensor {
        let values: Vec<T> = values.iter().map(|&v| convert(v)).collect();
        Tensor::from_vec(values, dims, device).unwrap()
    }
    match dtype {
        DType::F32 => build(values, dims, device, |v| v as f32),
        DType::F64 => build(values, dims, device, |v| v),
        DType::F16 => build(values, dims, device, f16::from_f64),
        DType::BF16 => build(values, dims, device, bf16::from_f64),
        other => panic!("{other:?} is not a float dtype here"),
    }
}

/// A contiguous integer tensor; a value that the dtype does not hold wraps. An empty one is on the CPU if
/// the device is Metal.
pub fn integers(values: &[i64], dims: &[usize], dtype: DType, device: &Device) -> Tensor {
    let device = place(values.len(), device);
    macro_rules! build {
        ($t:ty) => {{
            let values: Vec<$t> = values.iter().map(|&v| v as $t).collect();
            Tensor::from_vec(values, dims, device).unwrap()
        }};
    }
    match dtype {
        DType::U8 => build!(u8),
        DType::U32 => build!(u32),
        DType::I16 => build!(i16),
        DType::I32 => build!(i32),
        DType::I64 => build!(i64),
        other => panic!("{other:?} is not an integer dtype"),
    }
}

/// Targets as (N, S), where S is the longest plus `extra` and what lies beyond a length is `padding`.
pub fn padded(
    targets: &[Vec<usize>],
    extra: usize,
    padding: i64,
    dtype: DType,
    device: &Device,
) -> Tensor {
    let width = targets.iter().map(Vec::len).max().unwrap_or(0) + extra;
    let mut values = Vec::with_capacity(targets.len() * width);
    for target in targets {
        values.extend(target.iter().map(|&label| label as i64));
        values.extend(std::iter::repeat_n(padding, width - target.len()));
    }
    integers(&values, &[targets.len(), width], dtype, device)
}

/// Targets one after the other.
pub fn concatenated(targets: &[Vec<usize>], dtype: DType, device: &Device) -> Tensor {
    let values: Vec<i64> = targets.concat().iter().map(|&label| label as i64).collect();
    integers(&values, &[values.len()], dtype, device)
}

/// Every value of a float tensor, in f64 (exact: f64 holds every value of the other dtypes).
pub fn read(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor
        .to_device(&Device::Cpu)
        .unwrap()
        .flatten_all()
        .unwrap();
    match tensor.dtype() {
        DType::F64 => tensor.to_vec1::<f64>().unwrap(),
        DType::F32 => widen(tensor.to_vec1::<f32>().unwrap(), f64::from),
        DType::F16 => widen(tensor.to_vec1::<f16>().unwrap(), f16::to_f64),
        DType::BF16 => widen(tensor.to_vec1::<bf16>().unwrap(), bf16::to_f64),
        other => panic!("{other:?} is not a float dtype here"),
    }
}

fn widen<T>(values: Vec<T>, convert: impl Fn(T) -> f64) -> Vec<f64> {
    values.into_iter().map(convert).collect()
}

/// What a dtype makes of each value.
pub fn rounded(values: &[f64], dtype: DType) -> Vec<f64> {
    read(&floats(values, &[values.len()], dtype, &Device::Cpu))
}
