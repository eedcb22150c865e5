//! Whether an input that the backward pass reads again is still the one that the loss was computed from.
//!
//! candle changes a variable in place: [`Var::set`](candle_core::Var::set), which its optimisers call. A gradient from
//! old posteriors and new logits would be that of no loss.

use crate::problem::plan::{Plan, Strides};
use candle_core::{Result, WithDType, bail};

/// The entries that are looked at. An optimiser changes nearly all of them at once.
const ENTRIES: usize = 8;

/// A few entries of an input as the forward pass read them.
#[derive(Debug, Default)]
pub(crate) struct Sample(Vec<Entry>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    frame: usize,
    item: usize,
    class: usize,
    value: f64,
}

impl Sample {
    /// Entries of used frames, spread over items, frames and classes.
    pub fn new<E: WithDType>(plan: &Plan, data: &[E], strides: Strides) -> Self {
        let classes = plan.input.classes;
        let items = plan.input_lengths.len();
        let entry = |at: usize| {
            // In u128: views of stride 0 have any number of frames and classes.
            let part = |size: usize, share: usize, of: usize| {
                (size as u128 * share as u128 / of as u128) as usize
            };
            let item = part(items, at, ENTRIES);
            let frames = *plan.input_lengths.get(item)?;
            let frame = part(frames, 2 * at + 1, 2 * ENTRIES);
            let class = part(classes, 2 * at + 1, 2 * ENTRIES);
            let value = *data.get(strides.place(frame, item, class))?;
            (frame < frames).then_some(Entry {
                frame,
                item,
                class,
                value: value.to_f64(),
            })
        };
        Self((0..ENTRIES).filter_map(entry).collect())
    }

    /// An error if one of the entries has another value.
    pub fn check<E: WithDType>(&self, operation: &str, data: &[E], strides: Strides) -> Result<()> {
        for &Entry {
            frame,
            item,
            class,
            value,
        } in &self.0
        {
            let now = data[strides.place(frame, item, class)].to_f64();
            if now.to_bits() != value.to_bits() {
                bail!(
                    "{operation}: the input has changed since the loss was computed: of item {item}, frame {frame}, class \
                     {class} was {value} and is {now}. Call backward before the variable is set, by an optimiser or by \
                     Var::set, or compute the loss again"
                )
            }
        }
        Ok(())
    }
}
