//! The input of a call: its dtype, its shape and its classes.

use super::Call;
use crate::memory::check_room;
use crate::options::InputLayout;
use crate::problem::plan::InputKind;
use candle_core::{DType, Result, Tensor, bail};

#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) frames: usize,
    pub(super) batch: usize,
    pub(super) classes: usize,
    pub(super) layout: Option<InputLayout>,
}

pub(super) fn input_dims(call: Call, input: &Tensor) -> Result<Dims> {
    let (function, name) = (call.function, call.input_name());
    let dtype = input.dtype();
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        bail!("{function}: {name} have dtype {dtype:?}; expected f32, f64, f16 or bf16")
    }
    if dtype == DType::F64 && input.device().is_metal() {
        bail!(
            "{function}: {name} have dtype F64, which Metal does not support; convert them with \
             to_dtype(DType::F32) or move them to the CPU"
        )
    }
    let (frames, batch, classes, layout) = match (input.dims(), call.layout) {
        (&[frames, classes], _) => (frames, 1, classes, None),
        (&[frames, batch, classes], layout @ InputLayout::TimeMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (&[batch, frames, classes], layout @ InputLayout::BatchMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (other, layout) => {
            let batched = match layout {
                InputLayout::TimeMajor => "(T, N, C)",
                InputLayout::BatchMajor => "(N, T, C)",
            };
            bail!("{function}: {name} have shape {other:?}; expected {batched} or (T, C)")
        }
    };
    if call.blank >= classes {
        bail!(
            "{function}: blank = {} is not a class; {name} have C = {classes} classes",
            call.blank
        )
    }
    if call.input == InputKind::Logits || call.normalised {
        check_rows(function, name, classes)?;
    }
    Ok(Dims {
        frames,
        batch,
        classes,
        layout,
    })
}

/// An error if the rows that a call holds at a time do not fit any memory: a view of stride 0 may have any number of
/// classes.
pub(crate) fn check_rows(function: &str, name: &str, classes: usize) -> Result<()> {
    let what = format!("{function}: a row of {name}");
    check_room::<f64>(&what, ROWS_HELD, &[classes])
}

/// Rows of f64 that must fit the memory.
pub(crate) const ROWS_HELD: usize = 8;

/// The hint for an error that a wrong layout may have caused, because the argument would `fit` if frames and items were
/// exchanged: how the input was read, and how to choose the other layout.
pub(super) fn layout_hint(dims: Dims, fit: bool) -> String {
    let Dims {
        frames,
        batch,
        classes,
        layout,
    } = dims;
    match layout {
        Some(InputLayout::TimeMajor) if fit => format!(
            "; the input is read as (T, N, C) = ({frames}, {batch}, {classes}), for (N, T, C) set \
             layout to InputLayout::BatchMajor"
        ),
        Some(InputLayout::BatchMajor) if fit => format!(
            "; the input is read as (N, T, C) = ({batch}, {frames}, {classes}), for (T, N, C) set \
             layout to InputLayout::TimeMajor"
        ),
        _ => String::new(),
    }
}
