//! The dense gradient: one row of classes for each frame and item, written once.

use crate::cpu::emissions::gather::{next_row, read_row};
use crate::cpu::emissions::softmax::{RowStats, chunk_from, softmax, stream_softmax, written};
use crate::cpu::emissions::table::ItemTable;
use crate::cpu::simd::isa::dispatch;
use crate::cpu::simd::lanes::LANES;
use crate::cpu::simd::nontemporal::StreamingWriter;
use crate::cpu::simd::prefetch::prefetch_all;
use crate::cpu::simd::real::{Element, Real};
use crate::cpu::threads::{Threads, run_jobs};
use crate::cpu::time::BLOCK_FRAMES;
use crate::memory::{prefer_huge_pages, room_for};
use crate::options::GradientKind;
use crate::problem::plan::{InputKind, LossProblem, Plan, Strides};
use candle_core::Result;
use std::mem::MaybeUninit;
use std::slice::ChunksExactMut;

/// The data that the backward pass needs from the forward pass.
pub(crate) struct Saved<R> {
    pub items: Vec<SavedItem<R>>,
}

pub(crate) struct SavedItem<R> {
    pub loss: f64,
    /// The classes that the target uses.
    pub classes: Vec<u32>,
    /// For each frame, the posteriors of the classes that the target uses, then of the blank, padded to whole blocks.
    /// Empty if the loss is NaN or +inf.
    pub posterior: Vec<[R; BLOCK_FRAMES]>,
    /// `T_n` elements for logits; empty for log-probabilities, and without posteriors.
    pub stats: Vec<RowStats<R>>,
}

impl<R> SavedItem<R> {
    /// What to keep of an item that uses these classes. In f64 the probability of a path can overflow: the loss is then
    /// −inf.
    pub fn new((loss, kept): (f64, Option<ItemTable<R>>), classes: Vec<u32>) -> Self {
        match kept.filter(|_| loss < f64::INFINITY) {
            None => Self {
                loss,
                classes: Vec::new(),
                posterior: Vec::new(),
                stats: Vec::new(),
            },
            Some(kept) => Self {
                loss,
                classes,
                posterior: kept.entries,
                stats: kept.stats,
            },
        }
    }

    /// The posteriors of the classes that the target uses and of the blank, in frame `t`. Empty if there are none.
    pub fn posteriors_at(&self, t: usize) -> &[R] {
        let (rows, width) = (self.posterior.as_flattened(), self.classes.len() + 1);
        rows.get(t * width..(t + 1) * width).unwrap_or_default()
    }
}

/// The loss of each item, and the data for the backward pass.
pub(crate) type Losses<R> = (Vec<f64>, Option<Saved<R>>);

/// Entries that a thread writes at a time; fewer for small gradients. More is no faster, and with a quarter of it a
/// large gradient takes 1.5 times as long.
const SHARE: usize = 1 << 15;

/// The gradient of `Σ_n upstream[n] · loss[n]` with respect to the input, in the input's shape. Fails if memory runs
/// out.
pub(crate) fn gradient<E: Element>(
    problem: &LossProblem,
    plan: &Plan,
    (data, strides): (&[E], Strides),
    saved: &Saved<E::Real>,
    upstream: &[E::Real],
) -> Result<Vec<E>> {
    let shape = plan.input.shape();
    let mut used = saved.items.iter().flat_map(|item| &item.classes);
    assert!(used.all(|&class| (class as usize) < plan.input.classes));
    let all = GradientWriter {
        problem,
        plan,
        data,
        strides,
        saved,
        upstream,
    };
    // SAFETY: each of the rows is written.
    unsafe {
        by_rows(
            &shape,
            #[inline(always)]
            |first, rows, buffers: &mut RowBuffers<E>| {
                let count: usize = shape.iter().product();
                let mut stream = all.stream(count * size_of::<E>());
                let mut row = all.row(first);
                for (i, out) in (first..).zip(rows) {
                    let next = all.row(i + 1);
                    all.write(&row, &next, out, stream.as_mut(), buffers);
                    row = next;
                }
            },
        )
    }
}

/// A gradient of `shape`, whose last dimension is the classes. `write` writes some of its rows, from the given one on;
/// several threads share them. Fails if memory runs out.
///
/// # Safety
///
/// `write` must write every entry of the rows that it gets.
pub(super) unsafe fn by_rows<E: Element, B: Default + 'static>(
    shape: &[usize],
    write: impl Fn(usize, ChunksExactMut<MaybeUninit<E>>, &mut B) + Sync,
) -> Result<Vec<E>> {
    let mut gradient = room_for("ctc-loss: the gradient", shape)?;
    let (count, classes) = (shape.iter().product(), shape[shape.len() - 1]);
    prefer_huge_pages(gradient.spare_capacity_mut());
    let rows = (SHARE.min(count / 2) / classes).max(1);
    run_jobs(
        gradient.spare_capacity_mut()[..count]
            .chunks_mut(rows * classes)
            .enumerate(),
        Threads::Candle,
        usize::MAX,
        false,
        |(share, out), buffers: &mut B| {
            dispatch(
                #[inline(always)]
                || write(share * rows, out.chunks_exact_mut(classes), buffers),
            );
        },
    );
    // SAFETY: `count` is a multiple of the classes, so each entry is in a row of some share, and the caller guarantees
    // that each row was written.
    unsafe { gradient.set_len(count) };
    Ok(gradient)
}

/// Fills memory with a number.
#[inline(always)]
pub(super) fn filled<T: Copy>(memory: &mut [MaybeUninit<T>], number: T) -> &mut [T] {
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
    /// For each class, the contribution of the labels and the blank to a row. All 0 between rows.
    labels: Vec<E::Real>,
}

/// The inputs of all rows.
struct GradientWriter<'a, E: Element> {
    problem: &'a LossProblem,
    plan: &'a Plan,
    data: &'a [E],
    strides: Strides,
    saved: &'a Saved<E::Real>,
    upstream: &'a [E::Real],
}

/// One frame of one item.
struct GradientRow<'a, R> {
    t: usize,
    n: usize,
    /// Index of its first entry in the input.
    start: usize,
    /// The classes that the target uses, and the posteriors of these and of the blank. Empty if the loss is NaN or +inf.
    classes: &'a [u32],
    posterior: &'a [R],
}

impl<R> GradientRow<'_, R> {
    /// True if staging the few posteriors in a dense row costs less than non-temporal stores save.
    fn is_sparse(&self, classes: usize) -> bool {
        const FOR_EACH: usize = 16;
        const _: () = assert!(FOR_EACH >= LANES);
        (self.classes.len() + 1) * FOR_EACH <= classes
    }
}

impl<'a, E: Element> GradientWriter<'a, E> {
    /// Row `i`; after the last row, an empty one.
    #[inline(always)]
    fn row(&self, i: usize) -> GradientRow<'a, E::Real> {
        let (t, n) = self.plan.input.frame_and_item(i);
        let (mut classes, mut posterior) = Default::default();
        if let Some(item) = self.saved.items.get(n) {
            classes = item.classes.as_slice();
            posterior = item.posteriors_at(t);
        }
        GradientRow {
            t,
            n,
            start: self.strides.offset + t * self.strides.frame + n * self.strides.item,
            classes,
            posterior,
        }
    }

    /// A writer for a gradient of `bytes` bytes, if non-temporal stores pay off. Gradients with rows that are read
    /// again do not use them.
    fn stream(&self, bytes: usize) -> Option<StreamingWriter> {
        if self.torch() {
            None
        } else {
            StreamingWriter::for_size(bytes)
        }
    }

    /// Writes `row`, and prefetches for `next`, the row after it.
    #[inline(always)]
    fn write(
        &self,
        row: &GradientRow<E::Real>,
        next: &GradientRow<E::Real>,
        out: &mut [MaybeUninit<E>],
        stream: Option<&mut StreamingWriter>,
        buffers: &mut RowBuffers<E>,
    ) {
        let loss = self.saved.items[row.n].loss;
        let infinite = E::Real::is_infinite_loss(loss);
        if row.t >= self.plan.input_lengths[row.n] {
            filled(out, E::zero());
        } else if loss.is_nan() || infinite {
            // The loss does not depend on the input where it is +inf; PyTorch returns NaN nonetheless.
            let zero = infinite && (!self.torch() || self.problem.zero_infinity);
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
            wide.reserve(out.len());
            let wide = &mut wide.spare_capacity_mut()[..out.len()];
            let wide = self.fill(row, next, wide, raw, input);
            E::narrow_slice(wide, filled(out, E::zero()));
        }
    }

    fn torch(&self) -> bool {
        self.plan.input.kind == InputKind::LogProbs && self.problem.gradient == GradientKind::Torch
    }

    /// Writes a row of an item whose loss is neither NaN nor +inf.
    #[inline(always)]
    fn fill<'b>(
        &self,
        row: &GradientRow<E::Real>,
        next: &GradientRow<E::Real>,
        out: &'b mut [MaybeUninit<E::Real>],
        raw: &mut Vec<E>,
        input: &mut Vec<E::Real>,
    ) -> &'b mut [E::Real] {
        prefetch_all(next.posterior);
        let upstream = self.upstream[row.n];
        let Some((&blank, labels)) = row.posterior.split_last() else {
            return filled(out, E::Real::ZERO);
        };
        if self.plan.input.kind == InputKind::LogProbs && !self.torch() {
            let out = filled(out, E::Real::ZERO);
            self.spread(out, row, (labels, blank));
            return out;
        }
        let (stride, classes) = (self.strides.class, self.plan.input.classes);
        let x = read_row(self.data, row.start, stride, classes, raw, input);
        let next = next_row(self.data, next.start, stride, classes);
        let out = match self.saved.items[row.n].stats.get(row.t) {
            Some(stats) => softmax(x, stats, upstream, out, next),
            None => torch_exp(x, upstream, out, next),
        };
        scatter::<_, true>(out, row.classes, labels, upstream);
        out[self.plan.input.blank] -= upstream * blank;
        out
    }

    /// Writes the contribution of the labels and the blank to a row of zeros.
    #[inline(always)]
    fn spread(
        &self,
        out: &mut [E::Real],
        row: &GradientRow<E::Real>,
        (labels, blank): (&[E::Real], E::Real),
    ) {
        let upstream = self.upstream[row.n];
        scatter::<_, false>(out, row.classes, labels, upstream);
        out[self.plan.input.blank] = E::Real::ZERO - upstream * blank;
    }

    /// Writes the same row as [`Self::fill`] with non-temporal stores. Such a row cannot be read back for subtraction,
    /// so the contributions of the labels are staged in a dense row first.
    #[inline(always)]
    fn stream_row(
        &self,
        row: &GradientRow<E::Real>,
        next: &GradientRow<E::Real>,
        (stream, out): (&mut StreamingWriter, &mut [MaybeUninit<E::Real>]),
        buffers: &mut RowBuffers<E>,
    ) {
        prefetch_all(next.posterior);
        let (stride, classes) = (self.strides.class, self.plan.input.classes);
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
                // SAFETY: `gradient` drops the stream before anyone else gets the memory.
                unsafe { stream_softmax(x, stats, upstream, &buffers.labels, out, next) };
            }
            // SAFETY: as above.
            None => unsafe { stream.fill(out, |at| *chunk_from(add, at)) },
        }
        for &class in row.classes {
            buffers.labels[class as usize] = E::Real::ZERO;
        }
        buffers.labels[self.plan.input.blank] = E::Real::ZERO;
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
            // SAFETY: `gradient` has checked that every class is below the length of a row.
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

/// `scale · exp(x)`, and NaN where `x` is −inf, as in PyTorch.
#[inline(always)]
fn torch_exp<'b, R: Real, E>(
    x: &[R],
    scale: R,
    out: &'b mut [MaybeUninit<R>],
    next: &[E],
) -> &'b mut [R] {
    // Inputs above 0 are not log-probabilities, and take the general path.
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
