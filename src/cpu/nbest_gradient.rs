//! The dense gradient of the log-likelihoods of an n-best list: one row of classes for each frame, the weighted sum of
//! the sparse posteriors of all candidates.

use crate::cpu::emissions::gather::{next_row, read_row};
use crate::cpu::emissions::softmax::{RowStats, softmax};
use crate::cpu::gradient::{SavedItem, by_rows, filled};
use crate::cpu::simd::real::{Element, Real};
use crate::problem::plan::{Plan, Strides};
use candle_core::Result;
use std::mem::MaybeUninit;

/// The losses of the candidates, and the data that the backward pass needs.
pub(crate) struct SavedList<R> {
    /// Their own statistics of rows are empty.
    pub candidates: Vec<SavedItem<R>>,
    /// One element for each frame of logits; empty for log-probabilities.
    pub stats: Vec<RowStats<R>>,
}

/// The gradient of `Σ_k weights[k] · ln P_k` with respect to an input of `(T, C)`. Fails if memory runs out.
pub(crate) fn list_gradient<E: Element>(
    plan: &Plan,
    (data, strides): (&[E], Strides),
    saved: &SavedList<E::Real>,
    weights: &[f64],
) -> Result<Vec<E>> {
    let shape = [plan.input.frames, plan.input.classes];
    let candidates = &saved.candidates;
    if candidates.iter().any(|candidate| candidate.loss.is_nan()) {
        // SAFETY: each of the rows is written.
        return unsafe {
            by_rows(&shape, |_, rows, (): &mut ()| {
                for row in rows {
                    filled(row, E::from_f64(f64::NAN));
                }
            })
        };
    }
    // A candidate with probability 0 does not depend on the input.
    let possible = |candidate: &SavedItem<E::Real>| !E::Real::is_infinite_loss(candidate.loss);
    let weighted: Vec<(&SavedItem<E::Real>, f64)> = candidates
        .iter()
        .zip(weights.iter().copied())
        .filter(|&(candidate, _)| possible(candidate))
        .collect();
    let all = ListGradient {
        plan,
        data,
        strides,
        stats: &saved.stats,
        total: weighted.iter().map(|&(_, weight)| weight).sum(),
        weighted,
    };
    // SAFETY: each of the rows is written.
    unsafe {
        by_rows(
            &shape,
            #[inline(always)]
            |first, rows, buffers: &mut RowBuffers<E>| {
                for (t, out) in (first..).zip(rows) {
                    all.write(t, out, buffers);
                }
            },
        )
    }
}

#[derive(Default)]
struct RowBuffers<E: Element> {
    /// For each class, the sum of a row. All 0 between rows.
    sums: Vec<f64>,
    raw: Vec<E>,
    input: Vec<E::Real>,
    wide: Vec<E::Real>,
}

/// The inputs of all rows.
struct ListGradient<'a, E: Element> {
    plan: &'a Plan,
    data: &'a [E],
    strides: Strides,
    stats: &'a [RowStats<E::Real>],
    weighted: Vec<(&'a SavedItem<E::Real>, f64)>,
    /// The sum of the weights: the weight of the softmax.
    total: f64,
}

impl<E: Element> ListGradient<'_, E> {
    /// Writes the row of frame `t`. Sums are in f64: weights of both signs may cancel.
    #[inline(always)]
    fn write(&self, t: usize, out: &mut [MaybeUninit<E>], buffers: &mut RowBuffers<E>) {
        let RowBuffers {
            sums,
            raw,
            input,
            wide,
        } = buffers;
        sums.resize(out.len(), 0.0);
        for &(candidate, weight) in &self.weighted {
            if let Some((&blank, labels)) = candidate.posteriors_at(t).split_last() {
                for (&class, &posterior) in candidate.classes.iter().zip(labels) {
                    sums[class as usize] += weight * posterior.widen();
                }
                sums[self.plan.input.blank] += weight * blank.widen();
            }
        }
        wide.clear();
        wide.reserve(out.len());
        let wide = &mut wide.spare_capacity_mut()[..out.len()];
        let wide = match self.stats.get(t) {
            Some(stats) => self.softmax(t, stats, wide, raw, input),
            None => filled(wide, E::Real::ZERO),
        };
        for (wide, sum) in wide.iter_mut().zip(sums) {
            *wide = E::Real::narrow(*sum - wide.widen());
            *sum = 0.0;
        }
        E::narrow_slice(wide, filled(out, E::zero()));
    }

    /// The softmax of frame `t`, times the sum of the weights.
    #[inline(always)]
    fn softmax<'b>(
        &self,
        t: usize,
        stats: &RowStats<E::Real>,
        out: &'b mut [MaybeUninit<E::Real>],
        raw: &mut Vec<E>,
        input: &mut Vec<E::Real>,
    ) -> &'b mut [E::Real] {
        let (stride, classes) = (self.strides.class, out.len());
        let start = self.strides.offset + t * self.strides.frame;
        let row = read_row(self.data, start, stride, classes, raw, input);
        let next = next_row(self.data, start + self.strides.frame, stride, classes);
        softmax(row, stats, E::Real::narrow(self.total), out, next)
    }
}
