//! The forms in which a caller may give lengths.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Lengths as given, not yet checked against the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lengths {
    /// One length with no batch dimension: a plain number or a tensor of shape `()`.
    Scalar(i128),
    /// One length for each item.
    Batch(Vec<i128>),
}

/// Anything that gives one length for each item of a batch.
///
/// Implemented for `&Tensor` (any integer dtype, any device, shape `(N)` or `()`), `&[T]`,
/// `[T; N]`, `&[T; N]`, `Vec<T>`, `&Vec<T>` and a plain `T`, where `T` is `usize`, `u32`, `i32`
/// or `i64`. A plain number or a `()` tensor stands for an input with no batch dimension or a
/// batch of one.
pub trait IntoLengths {
    /// Reads the lengths. A tensor on a device is copied to the host.
    ///
    /// # Errors
    /// When a tensor is not of an integer dtype or has more than one dimension.
    fn into_lengths(self) -> Result<Lengths>;
}

impl IntoLengths for &Tensor {
    fn into_lengths(self) -> Result<Lengths> {
        if self.rank() > 1 {
            bail!("lengths have shape {:?}; expected (N) or ()", self.dims())
        }
        let values = int_values(self, "lengths")?;
        Ok(match (self.rank(), values.as_slice()) {
            (0, &[one]) => Lengths::Scalar(one.into()),
            _ => Lengths::Batch(values.into_iter().map(i128::from).collect()),
        })
    }
}

/// All values of an integer tensor in row-major order, on the host.
pub(crate) fn int_values(tensor: &Tensor, what: &str) -> Result<Vec<i64>> {
    fn read<T: candle_core::WithDType + Into<i64>>(flat: &Tensor) -> Result<Vec<i64>> {
        Ok(flat.to_vec1::<T>()?.into_iter().map(Into::into).collect())
    }
    let dtype = tensor.dtype();
    if !matches!(
        dtype,
        DType::U8 | DType::U32 | DType::I16 | DType::I32 | DType::I64
    ) {
        bail!("{what} have dtype {dtype:?}; expected u8, u32, i16, i32 or i64")
    }
    if tensor.elem_count() == 0 {
        return Ok(Vec::new());
    }
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    match dtype {
        DType::U8 => read::<u8>(&flat),
        DType::U32 => read::<u32>(&flat),
        DType::I16 => read::<i16>(&flat),
        DType::I32 => read::<i32>(&flat),
        _ => read::<i64>(&flat),
    }
}

macro_rules! int_lengths {
    ($($int:ty),*) => {$(
        impl IntoLengths for $int {
            fn into_lengths(self) -> Result<Lengths> {
                Ok(Lengths::Scalar(self as i128))
            }
        }

        impl IntoLengths for &[$int] {
            fn into_lengths(self) -> Result<Lengths> {
                Ok(Lengths::Batch(self.iter().map(|&value| value as i128).collect()))
            }
        }

        impl<const N: usize> IntoLengths for &[$int; N] {
            fn into_lengths(self) -> Result<Lengths> {
                self.as_slice().into_lengths()
            }
        }

        impl<const N: usize> IntoLengths for [$int; N] {
            fn into_lengths(self) -> Result<Lengths> {
                self.as_slice().into_lengths()
            }
        }

        impl IntoLengths for Vec<$int> {
            fn into_lengths(self) -> Result<Lengths> {
                self.as_slice().into_lengths()
            }
        }

        impl IntoLengths for &Vec<$int> {
            fn into_lengths(self) -> Result<Lengths> {
                self.as_slice().into_lengths()
            }
        }
    )*};
}

int_lengths!(usize, u32, i32, i64);
