//! How the kernels are launched, as pure functions of sizes.

use super::sizes::Sizes;
use candle_core::{DType, Result};

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub kernel: String,
    pub blocks: usize,
    /// Of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
}

/// What a device allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Dynamic shared (threadgroup) memory of a block, in bytes.
    pub shared_bytes: usize,
}

/// Threads of a warp (SIMD-group).
const WARP: usize = 32;
/// Pairs that two neighbouring tiles of a lattice share: `CTC_HALO`.
const HALO: usize = 16;
/// Rows longer than this have a block for themselves, the others a warp.
const WIDE: usize = 1024;
/// Blocks beyond this take several rows.
const MOST_BLOCKS: usize = 1 << 20;

/// The pairs of states of a lattice that one thread holds, and the tiles that one direction has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiling {
    pub pairs: usize,
    pub tiles: usize,
}

/// A target of up to 31 labels has a pair a lane of one warp. Longer ones have two, and a warp for each
/// tile; from 208 labels on four, where the device has that kernel (f64 does not).
pub(crate) fn tiling(labels: usize, real: DType) -> Tiling {
    let most = 4;
    let tiles = |pairs: usize| {
        let first = WARP * pairs;
        1 + (labels + 1).saturating_sub(first).div_ceil(first - HALO)
    };
    let pairs = if labels < WARP {
        1
    } else if real == DType::F64 || tiles(2) <= most {
        2
    } else {
        4
    };
    Tiling {
        pairs,
        tiles: tiles(pairs),
    }
}

/// The most threads of a block of the lattice, so that its registers suffice.
const LATTICE_THREADS: usize = 256;

/// The launch of the lattice: one block an item. `max_threads` is what the device gives the kernel of that
/// name, which may be less than asked for: a block then takes several tiles in turn. Also how many bytes of
/// device memory an item needs for what does not fit shared memory, or 0.
pub(crate) fn lattice(
    sizes: &Sizes,
    real: DType,
    limits: Limits,
    max_threads: impl Fn(&str) -> Result<usize>,
) -> Result<(Launch, usize)> {
    let labels = sizes.labels as usize;
    let tiling = tiling(labels, real);
    let edge = if real == DType::F64 { 32 } else { 24 };
    let edges = 4 * (labels + 1) * edge;
    let fits = edges <= limits.shared_bytes;
    let kernel = format!(
        "ctc_lattice_{}_{}{}",
        real.as_str(),
        tiling.pairs,
        if fits { "" } else { "_spill" }
    );
    let most = max_threads(&kernel)?.min(LATTICE_THREADS) / (2 * WARP);
    let launch = Launch {
        blocks: sizes.batch as usize,
        threads: 2 * WARP * tiling.tiles.clamp(1, most.max(1)),
        shared_bytes: if fits { edges } else { 0 },
        kernel,
    };
    Ok((launch, if fits { 0 } else { edges }))
}

/// The launch of a kernel that has a row of classes for each frame and item, of which it reads `entries`;
/// and whether a row is a block's.
pub(crate) fn rows(name: &str, dtype: DType, sizes: &Sizes, entries: usize) -> (Launch, bool) {
    let rows = (sizes.frames * sizes.batch) as usize;
    let wide = entries > WIDE;
    let threads = if wide { 256 } else { 128 };
    let rows_of_a_block = if wide { 1 } else { threads / WARP };
    let launch = Launch {
        kernel: format!("ctc_{name}_{}", dtype.as_str()),
        blocks: rows.div_ceil(rows_of_a_block).min(MOST_BLOCKS),
        threads,
        shared_bytes: 0,
    };
    (launch, wide)
}

/// The launch that widens `count` integers of one dtype.
pub(crate) fn widen(dtype: DType, count: usize) -> Launch {
    Launch {
        kernel: format!("ctc_widen_{}", dtype.as_str()),
        blocks: count.div_ceil(256).clamp(1, MOST_BLOCKS),
        threads: 256,
        shared_bytes: 0,
    }
}

/// The launch that makes the tables of `batch` items on the device.
pub(crate) fn prepare(batch: usize) -> Launch {
    Launch {
        kernel: "ctc_prepare".into(),
        blocks: batch,
        threads: 256,
        shared_bytes: 0,
    }
}
