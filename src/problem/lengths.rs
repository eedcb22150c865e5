//! The forms in which a caller may give lengths.

use crate::problem::integers::check_int;
use candle_core::{Result, Tensor, bail};

/// Lengths as given, not yet checked against the batch.
#[derive(Debug, Clone)]
pub enum Lengths {
    /// One length with no batch dimension: a plain number or a tensor of shape `()`.
    Scalar(i128),
    /// One length for each item.
    Batch(Vec<i128>),
    /// A tensor of integers of shape `(N)` or `()`, not yet read.
    Tensor(Tensor),
}

/// Lengths of the items of a batch, in any of several forms.
///
/// Implemented for `&Tensor` (any integer dtype, any device, shape `(N)` or `()`), `&[T]`,
/// `[T; N]`, `&[T; N]`, `Vec<T>`, `&Vec<T>` and a plain `T`, where `T` is `usize`, `u64`, `u32`,
/// `u8`, `i64`, `i32` or `i16`; and for [`Lengths`]. A plain number or a `()` tensor stands for an input with no batch
/// dimension or a batch of one.
///
/// A tensor of u8 is an error if a length may be above 255: candle's sum of a u8 mask wraps, and 300 becomes 44. Sum
/// masks in u32, `mask.to_dtype(DType::U32)?.sum(1)?`.
pub trait IntoLengths {
    /// Converts to [`Lengths`]. A tensor is not read here.
    ///
    /// # Errors
    /// If a tensor is not of an integer dtype or has more than one dimension.
    fn into_lengths(self) -> Result<Lengths>;
}

impl IntoLengths for &Tensor {
    fn into_lengths(self) -> Result<Lengths> {
        if self.rank() > 1 {
            bail!("lengths have shape {:?}; expected (N) or ()", self.dims())
        }
        check_int(self, "lengths")?;
        Ok(Lengths::Tensor(self.detach()))
    }
}

impl IntoLengths for Lengths {
    fn into_lengths(self) -> Result<Lengths> {
        match self {
            Lengths::Tensor(tensor) => (&tensor).into_lengths(),
            other => Ok(other),
        }
    }
}

impl Lengths {
    /// The tensor, if the lengths are one.
    pub(crate) fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Replaces a tensor by `values`, its content.
    pub(crate) fn with_values(self, values: &[i64]) -> Self {
        match self {
            Self::Tensor(tensor) if tensor.rank() == 0 => Self::Scalar(values[0].into()),
            Self::Tensor(_) => Self::Batch(values.iter().map(|&value| value.into()).collect()),
            other => other,
        }
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

int_lengths!(usize, u64, u32, u8, i64, i32, i16);
