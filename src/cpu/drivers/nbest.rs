//! The losses of an n-best list: many transcripts of one utterance, each with its posteriors.
//!
//! The candidates are items of a batch that all read the same frames. The softmax statistics of logits are computed
//! once for all of them. Each candidate keeps its own sparse posteriors, `(T, K + 1)` numbers for the `K` classes that
//! it uses.

use crate::cpu::drivers::item::{Buffers, Problem, each_item};
use crate::cpu::emissions::gather::{RowBuffers, Source};
use crate::cpu::emissions::softmax::RowStats;
use crate::cpu::gradient::SavedItem;
use crate::cpu::nbest_gradient::SavedList;
use crate::cpu::simd::real::Element;
use crate::problem::plan::{InputKind, Plan, Strides};
use candle_core::Result;

/// The candidates of a list, with the posteriors of each if `keep` is set. The items of the plan are the candidates,
/// and all have the same frames; `strides.item` is 0.
pub(crate) fn solve_list<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
    keep: bool,
) -> Result<SavedList<E::Real>> {
    let stats = row_stats(plan, data, strides)?;
    let candidates = each_item(plan, |n, split, buffers: &mut Buffers<E>| {
        let used = buffers.numbering.classes(plan.target(n));
        let mut problem = Problem::new(plan, data, strides, n, &used, split);
        problem.source.known_stats = stats.as_deref();
        let solved = problem.solve_or_score(keep, buffers)?;
        Ok(SavedItem {
            stats: Vec::new(),
            ..SavedItem::new(solved, used.distinct)
        })
    })?;
    Ok(SavedList {
        candidates,
        stats: stats.unwrap_or_default(),
    })
}

/// The statistics of all rows of logits; `None` for log-probabilities.
fn row_stats<E: Element>(
    plan: &Plan,
    data: &[E],
    strides: Strides,
) -> Result<Option<Vec<RowStats<E::Real>>>> {
    if plan.input.kind == InputKind::LogProbs {
        return Ok(None);
    }
    let source = Source::new(plan, data, strides, 0, &[]);
    let mut table = source.room().map_err(|out| plan.out_of_memory(0, out))?;
    let blocks = 0..source.blocks().count();
    let buffers = &mut RowBuffers::default();
    source.gather(blocks, &mut table.entries, &mut table.stats, true, buffers);
    Ok(Some(table.stats))
}
