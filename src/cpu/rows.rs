//! The dense side of the gradient: one row of classes for each frame and item, written once.

use super::emission::{next_row, read_row};
use super::isa::dispatch;
use super::real::{Element, Real};
use super::runs::RUN;
use super::softmax::{RowStats, softmax};
use super::tasks::{Threads, share_out};
use super::{Saved, SavedItem};
use crate::options::GradientKind;
use crate::plan::{InputKind, Plan, Strides};
use std::mem::MaybeUninit;

/// Entries that a thread writes at a time: fewer where there are few in all. More than this is no
/// better, and with a quarter of it a large gradient takes half as long again.
const SHARE: usize = 1 << 15;

/// The gradient of `Σ_n upstream[n] · loss[n]` with respect to the input, in the input's shape.
pub(crate) fn gradient<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    saved: &Saved<E::Real>,
    upstream: &[E::Real],
) -> Vec<E> {
    let count = plan.frames * plan.batch * plan.classes;
    let mut gradient = Vec::with_capacity(count);
    prefer_huge_pages(gradient.spare_capacity_mut());
    let start_of = |row| {
        let (t, n) = plan.frame_and_item(row);
        strides.offset + t * strides.frame + n * strides.item
    };
    let rows = (SHARE.min(count / 2) / plan.classes).max(1);
    share_out(
        gradient.spare_capacity_mut()[..count]
            .chunks_mut(rows * plan.classes)
            .enumerate(),
        Threads::Candle,
        usize::MAX,
        false,
        |(share, out), buffers: &mut RowBuffers<E>| {
            dispatch(
                #[inline(always)]
                || {
                    for (row, out) in (share * rows..).zip(out.chunks_exact_mut(plan.classes)) {
                        let (t, n) = plan.frame_and_item(row);
                        let out = zeros(out);
                        if t >= plan.input_lengths[n] {
                            continue;
                        }
                        let row = Row {
                            plan,
                            data,
                            start: start_of(row),
                            next: start_of(row + 1),
                            stride: strides.class,
                            item: &saved.items[n],
                            t,
                            upstream: upstream[n],
                        };
                        row.write(out, buffers);
                    }
                },
            );
        },
    );
    // SAFETY: `count` is a multiple of the classes, so each entry is in a row of some share, and
    // each row was filled with zeros at least.
    unsafe { gradient.set_len(count) };
    gradient
}

/// Asks the system for huge pages under large fresh memory. A gradient of 160 MB is otherwise mapped in
/// 40000 pieces, at the first write to each, which takes as long as the writing.
fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const LEAST: usize = 4 << 20;
        const PAGE: usize = 4096;
        let bytes = size_of_val(memory);
        if bytes >= LEAST {
            let start = memory.as_mut_ptr() as usize;
            let skipped = start.next_multiple_of(PAGE) - start;
            // SAFETY: whole pages inside the memory, which stays what it is; where the system refuses,
            // nothing changes.
            unsafe {
                let first = memory.as_mut_ptr().cast::<u8>().add(skipped);
                libc::madvise(first.cast(), bytes - skipped, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Fills memory with zeros.
#[inline(always)]
fn zeros<E: Element>(memory: &mut [MaybeUninit<E>]) -> &mut [E] {
    for entry in &mut *memory {
        entry.write(E::zero());
    }
    // SAFETY: all entries were written just now, and `MaybeUninit<E>` has the layout of `E`.
    unsafe { &mut *(std::ptr::from_mut(memory) as *mut [E]) }
}

struct RowBuffers<E: Element> {
    raw: Vec<E>,
    input: Vec<E::Real>,
    out: Vec<E::Real>,
}

impl<E: Element> Default for RowBuffers<E> {
    fn default() -> Self {
        Self {
            raw: Vec::new(),
            input: Vec::new(),
            out: Vec::new(),
        }
    }
}

/// One frame of one item, within its input length.
struct Row<'a, E: Element> {
    plan: &'a Plan,
    data: &'a [E],
    start: usize,
    /// Where the next row starts.
    next: usize,
    stride: usize,
    item: &'a SavedItem<E::Real>,
    t: usize,
    upstream: E::Real,
}

impl<E: Element> Row<'_, E> {
    /// Writes the row; `out` holds zeros.
    #[inline(always)]
    fn write(&self, out: &mut [E], buffers: &mut RowBuffers<E>) {
        if self.item.loss.is_nan() {
            return out.fill(E::from_f64(f64::NAN));
        }
        if self.item.loss == f64::INFINITY {
            // The loss does not depend on the input here; PyTorch has NaN all the same.
            if self.torch() && !self.plan.zero_infinity {
                out.fill(E::from_f64(f64::NAN));
            }
            return;
        }
        let RowBuffers {
            raw,
            input,
            out: wide,
        } = buffers;
        if let Some(out) = E::as_real_mut(out) {
            return self.fill(out, raw, input);
        }
        wide.clear();
        wide.resize(out.len(), E::Real::ZERO);
        self.fill(wide, raw, input);
        E::narrow_slice(wide, out);
    }

    fn torch(&self) -> bool {
        self.plan.input == InputKind::LogProbs && self.plan.gradient == GradientKind::Torch
    }

    #[inline(always)]
    fn fill(&self, out: &mut [E::Real], raw: &mut Vec<E>, input: &mut Vec<E::Real>) {
        let classes = &self.item.classes;
        let width = classes.len() + 1;
        let posterior = &self.item.posterior[self.t / RUN * width..][..width];
        let lane = self.t % RUN;
        if !self.torch() && self.plan.input == InputKind::LogProbs {
            for (&class, posterior) in classes.iter().zip(posterior) {
                out[class as usize] = E::Real::ZERO - self.upstream * posterior[lane];
            }
            out[self.plan.blank] = E::Real::ZERO - self.upstream * posterior[classes.len()][lane];
            return;
        }
        let x = read_row(
            self.data,
            self.start,
            self.stride,
            self.plan.classes,
            raw,
            input,
        );
        let next = next_row(self.data, self.next, self.stride, self.plan.classes);
        match self.item.stats.get(self.t) {
            Some(stats) => softmax(x, stats, self.upstream, out, next),
            None => torch_exp(x, self.upstream, out, next),
        }
        for (&class, posterior) in classes.iter().zip(posterior) {
            out[class as usize] -= self.upstream * posterior[lane];
        }
        out[self.plan.blank] -= self.upstream * posterior[classes.len()][lane];
    }
}

/// `scale · exp(x)`, and NaN where `x` is −inf, as PyTorch has it.
#[inline(always)]
fn torch_exp<R: Real, E>(x: &[R], scale: R, out: &mut [R], next: &[E]) {
    // A logarithm of a probability is not above 0; if it is, it was none.
    if x.iter().fold(true, |all, &x| all & (x <= R::ZERO)) {
        let (maximum, sum) = (R::ZERO, 1.0);
        softmax(x, &RowStats { maximum, sum }, scale, out, next);
    } else {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = R::narrow(x.widen().exp()) * scale;
        }
    }
    let infinite = R::narrow(f64::NEG_INFINITY);
    for (out, &x) in out.iter_mut().zip(x) {
        *out = if x == infinite {
            R::narrow(f64::NAN)
        } else {
            *out
        };
    }
}
