//! The Connectionist Temporal Classification loss for [candle](https://docs.rs/candle-core).

mod cpu;
mod lengths;
mod loss;
mod op;
mod options;
mod plan;
mod reduce;
mod validate;

pub use cpu::Isa;
pub use lengths::{IntoLengths, Lengths};
pub use loss::{CtcLoss, ctc_loss, ctc_loss_with_logits};
pub use options::{CtcLossOptions, GradientKind, InputLayout, Reduction};
