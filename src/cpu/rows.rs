//! The dense side of the gradient: one row of classes for each frame and item, written once.

use super::Saved;
use super::emission::{next_row, read_row};
use super::fetch::fetch_all;
use super::isa::dispatch;
use super::lanes::LANES;
use super::real::{Element, Real};
use super::softmax::{RowStats, block_from, softmax, stream_softmax, written};
use super::stream::Stream;
use super::tasks::{Threads, share_out};
use crate::memory::{prefer_huge_pages, room_for};
use crate::options::GradientKind;
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::Result;
use std::mem::MaybeUninit;

/// Entries that a thread writes at a time: fewer where there are few in all. More than this is no
/// better, and with a quarter of it a large gradient takes half as long again.
const SHARE: usize = 1 << 15;

/// The gradient of `Σ_n upstream[n] · loss[n]` with respect to the input, in the input's shape. An error where
/// there is no memory for it.
pub(crate) fn gradient<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    saved: &Saved<E::Real>,
    upstream: &[E::Real],
) -> Result<Vec<E>> {
    let mut gradient = room_for("ctc-loss: the gradient", &plan.input_shape())?;
    let count = plan.frames * plan.batch * plan.classes;
    prefer_huge_pages(gradient.spare_capacity_mut());
    let mut used = saved.items.iter().flat_map(|item| &item.classes);
    assert!(used.all(|&class| (class as usize) < plan.classes));
    let rows = (SHARE.min(count / 2) / plan.classes).max(1);
    let all = Rows {
        plan,
        data,
        strides,
        saved,
        upstream,
    };
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
                    let mut stream = all.stream(count * size_of::<E>());
                    let mut row = all.row(share * rows);
                    for (i, out) in (share * rows..).zip(out.chunks_exact_mut(plan.classes)) {
                        let next = all.row(i + 1);
                        all.write(&row, &next, out, stream.as_mut(), buffers);
                        row = next;
                    }
                },
            );
        },
    );
    // SAFETY: `count` is a multiple of the classes, so each entry is in a row of some share, and
    // each row was written.
    unsafe { gradient.set_len(count) };
    Ok(gradient)
}

/// Fills memory with a number.
#[inline(always)]
fn filled<T: Copy>(memory: &mut [MaybeUninit<T>], number: T) -> &mut [T] {
    for entry in &mut *memory {
        entry.write(number);
    }
    // SAFETY: all entries were written just now.
    unsafe { written(memory) }
}

#[derive(Default)]
struct RowBuffers<E: Element> {
    raw: Vec<E>,
    input: Vec<E::Real>,
    out: Vec<E::Real>,
    /// By class: what the labels and the blank add to a row. 0 between rows.
    labels: Vec<E::Real>,
}

/// What all rows are written from.
struct Rows<'a, E: Element> {
    plan: &'a Plan,
    data: &'a [E],
    strides: Strides,
    saved: &'a Saved<E::Real>,
    upstream: &'a [E::Real],
}

/// One frame of one item.
struct Row<'a, R> {
    t: usize,
    n: usize,
    /// Where it starts in the input.
    start: usize,
    /// The classes that the target uses, and the posteriors of these and of the blank. There are none where
    /// the loss is no finite number.
    classes: &'a [u32],
    posterior: &'a [R],
}

impl<R> Row<'_, R> {
    /// Whether so few of the classes have a posterior that to spread these out costs less than it saves to write
    /// the row past the cache.
    fn is_sparse(&self, classes: usize) -> bool {
        const FOR_EACH: usize = 16;
        const _: () = assert!(FOR_EACH >= LANES);
        (self.classes.len() + 1) * FOR_EACH <= classes
    }
}

impl<'a, E: Element> Rows<'a, E> {
    /// Row `i`; behind the last there is one that holds nothing.
    #[inline(always)]
    fn row(&self, i: usize) -> Row<'a, E::Real> {
        let (t, n) = self.plan.frame_and_item(i);
        let (mut classes, mut posterior) = Default::default();
        if let Some(item) = self.saved.items.get(n) {
            classes = item.classes.as_slice();
            let (rows, width) = (item.posterior.as_flattened(), classes.len() + 1);
            posterior = rows.get(t * width..(t + 1) * width).unwrap_or_default();
        }
        Row {
            t,
            n,
            start: self.strides.offset + t * self.strides.frame + n * self.strides.item,
            classes,
            posterior,
        }
    }

    /// For a gradient of so many bytes, if it is to be written past the cache. Rows that are gone through again
    /// are not.
    fn stream(&self, bytes: usize) -> Option<Stream> {
        if self.torch() {
            None
        } else {
            Stream::worth(bytes)
        }
    }

    /// Writes a row; `next` comes then.
    #[inline(always)]
    fn write(
        &self,
        row: &Row<E::Real>,
        next: &Row<E::Real>,
        out: &mut [MaybeUninit<E>],
        stream: Option<&mut Stream>,
        buffers: &mut RowBuffers<E>,
    ) {
        let loss = self.saved.items[row.n].loss;
        let infinite = E::Real::is_infinite_loss(loss);
        if row.t >= self.plan.input_lengths[row.n] {
            filled(out, E::zero());
        } else if loss.is_nan() || infinite {
            // The loss does not depend on the input where it is +inf; PyTorch has NaN all the same.
            let zero = infinite && (!self.torch() || self.plan.zero_infinity);
            filled(out, E::from_f64(if zero { 0.0 } else { f64::NAN }));
        } else if let Some(out) = E::as_real_uninit(out) {
            match stream.filter(|_| row.is_sparse(out.len())) {
                Some(stream) => self.stream_row(row, next, (stream, out), buffers),
                None => {
                    self.fill(row, next, out, &mut buffers.raw, &mut buffers.input);
                }
            }
        } else {
            let RowBuffers {
                raw,
                input,
                out: wide,
                ..
            } = buffers;
            wide.clear();
            wide.reserve(out.len());
            let wide = &mut wide.spare_capacity_mut()[..out.len()];
            let wide = self.fill(row, next, wide, raw, input);
            E::narrow_slice(wide, filled(out, E::zero()));
        }
    }

    fn torch(&self) -> bool {
        self.plan.input == InputKind::LogProbs && self.plan.gradient == GradientKind::Torch
    }

    /// Writes a row of an item whose loss is a number below +inf.
    #[inline(always)]
    fn fill<'b>(
        &self,
        row: &Row<E::Real>,
        next: &Row<E::Real>,
        out: &'b mut [MaybeUninit<E::Real>],
        raw: &mut Vec<E>,
        input: &mut Vec<E::Real>,
    ) -> &'b mut [E::Real] {
        fetch_all(next.posterior);
        let upstream = self.upstream[row.n];
        let Some((&blank, labels)) = row.posterior.split_last() else {
            return filled(out, E::Real::ZERO);
        };
        if self.plan.input == InputKind::LogProbs && !self.torch() {
            let out = filled(out, E::Real::ZERO);
            self.spread(out, row, (labels, blank));
            return out;
        }
        let (stride, classes) = (self.strides.class, self.plan.classes);
        let x = read_row(self.data, row.start, stride, classes, raw, input);
        let next = next_row(self.data, next.start, stride, classes);
        let out = match self.saved.items[row.n].stats.get(row.t) {
            Some(stats) => softmax(x, stats, upstream, out, next),
            None => torch_exp(x, upstream, out, next),
        };
        scatter::<_, true>(out, row.classes, labels, upstream);
        out[self.plan.blank] -= upstream * blank;
        out
    }

    /// Puts what the labels and the blank add to a row where it holds zeros.
    #[inline(always)]
    fn spread(
        &self,
        out: &mut [E::Real],
        row: &Row<E::Real>,
        (labels, blank): (&[E::Real], E::Real),
    ) {
        let upstream = self.upstream[row.n];
        scatter::<_, false>(out, row.classes, labels, upstream);
        out[self.plan.blank] = E::Real::ZERO - upstream * blank;
    }

    /// What [`Self::fill`] writes, past the cache. What is written like that can't be subtracted from, so what the
    /// labels add is spread out over the classes first.
    #[inline(always)]
    fn stream_row(
        &self,
        row: &Row<E::Real>,
        next: &Row<E::Real>,
        (stream, out): (&mut Stream, &mut [MaybeUninit<E::Real>]),
        buffers: &mut RowBuffers<E>,
    ) {
        fetch_all(next.posterior);
        let (stride, classes) = (self.strides.class, self.plan.classes);
        let (upstream, add) = (self.upstream[row.n], &mut buffers.labels);
        add.resize(classes, E::Real::ZERO);
        if let Some((&blank, labels)) = row.posterior.split_last() {
            self.spread(add, row, (labels, blank));
        }
        match self.saved.items[row.n].stats.get(row.t) {
            Some(stats) => {
                let RowBuffers { raw, input, .. } = buffers;
                let x = read_row(self.data, row.start, stride, classes, raw, input);
                let next = next_row(self.data, next.start, stride, classes);
                let out = (stream, out);
                // SAFETY: `gradient` has dropped the stream when it gives the memory to anyone.
                unsafe { stream_softmax(x, stats, upstream, &buffers.labels, out, next) };
            }
            // SAFETY: as above.
            None => unsafe { stream.fill(out, |at| *block_from(add, at)) },
        }
        for &class in row.classes {
            buffers.labels[class as usize] = E::Real::ZERO;
        }
        buffers.labels[self.plan.blank] = E::Real::ZERO;
    }
}

/// Subtracts `scale · posterior` from the entries of `classes`, or from 0 in their place.
#[inline(always)]
fn scatter<R: Real, const FROM_ENTRY: bool>(
    out: &mut [R],
    classes: &[u32],
    posterior: &[R],
    scale: R,
) {
    const FEW: usize = 8;
    let (class_blocks, classes) = classes.as_chunks::<FEW>();
    let (blocks, posterior) = posterior.as_chunks::<FEW>();
    for (classes, posterior) in class_blocks.iter().zip(blocks) {
        for k in 0..FEW {
            // SAFETY: `gradient` has seen that there are as many entries.
            let entry = unsafe { out.get_unchecked_mut(classes[k] as usize) };
            let from = if FROM_ENTRY { *entry } else { R::ZERO };
            *entry = from - scale * posterior[k];
        }
    }
    for (&class, &posterior) in classes.iter().zip(posterior) {
        let entry = &mut out[class as usize];
        let from = if FROM_ENTRY { *entry } else { R::ZERO };
        *entry = from - scale * posterior;
    }
}

/// `scale · exp(x)`, and NaN where `x` is −inf, as PyTorch has it.
#[inline(always)]
fn torch_exp<'b, R: Real, E>(
    x: &[R],
    scale: R,
    out: &'b mut [MaybeUninit<R>],
    next: &[E],
) -> &'b mut [R] {
    // A logarithm of a probability is not above 0; if it is, it was none.
    let out = if x.iter().fold(true, |all, &x| all & (x <= R::ZERO)) {
        let (maximum, sum) = (R::ZERO, 1.0);
        softmax(x, &RowStats { maximum, sum }, scale, out, next)
    } else {
        let out = filled(out, R::ZERO);
        for (out, &x) in out.iter_mut().zip(x) {
            *out = R::narrow(x.widen().exp()) * scale;
        }
        out
    };
    let infinite = R::narrow(f64::NEG_INFINITY);
    for (out, &x) in out.iter_mut().zip(x) {
        *out = if x == infinite {
            R::narrow(f64::NAN)
        } else {
            *out
        };
    }
    out
}
