//! Launch configurations of the kernels, as pure functions of sizes.

use super::params::Sizes;
use candle_core::{DType, Result};

/// The configuration of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub kernel: String,
    pub blocks: usize,
    /// Threads per block.
    pub threads: usize,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: usize,
}

/// Threads of a warp (SIMD-group).
pub(super) const WARP: usize = 32;
/// Pairs shared by two neighbouring tiles of a lattice: `CTC_HALO`.
const HALO: usize = 16;
/// Rows of a gradient with fewer classes than this are short: `CTC_LONG_ROW`.
const LONG_ROW: usize = 256;
/// Rows of logits with at most this many classes are short for the sum of their exponentials.
const FEW_CLASSES: usize = 128;
/// Rows of which at most this many emissions are used are short, too.
const FEW_EMISSIONS: usize = 1024;
/// Warps per block for short rows: `CTC_SHORT_WARPS`.
const SHORT_WARPS: usize = 4;
/// Maximum number of consecutive frames of an item per warp for short rows: `CTC_MOST_FRAMES`.
const MOST_FRAMES: usize = 8;
/// Maximum number of blocks; beyond it, each block takes several rows.
const MOST_BLOCKS: usize = 1 << 20;

/// From this many labels, the byte size of the states of a frame (32 bytes per pair in f64, one pair more than there are
/// labels) overflows the kernels' multiplications.
const MOST_LABELS: usize = (1 << 26) - 1;

/// Pairs of states per thread, and tiles per direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiling {
    pub pairs: usize,
    pub tiles: usize,
}

/// A target of up to 31 labels takes one warp, with one pair per lane. Longer targets have two pairs per lane, and one
/// warp per tile; from 208 labels, four pairs per lane, except in f64, which has no such kernel.
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

/// Maximum number of threads per block of the lattice, limited by registers. Kernels with one pair per lane have one
/// tile, and thus 64 threads.
pub(crate) const LATTICE_THREADS: usize = 256;

/// The launch of the lattice: one block per item, with at most `shared_bytes` of shared memory. `max_threads` returns
/// the device's limit for a kernel, which may be lower than the number of threads wanted: a block then takes several
/// tiles in turn. Also returns the bytes of device memory per item for edges that do not fit into shared memory, or 0.
pub(crate) fn lattice(
    sizes: &Sizes,
    real: DType,
    shared_bytes: usize,
    max_threads: impl Fn(&str) -> Result<usize>,
) -> Result<(Launch, usize)> {
    let labels = sizes.labels as usize;
    if labels >= MOST_LABELS {
        candle_core::bail!(
            "ctc: a target of {labels} labels; a GPU takes fewer than {MOST_LABELS}"
        );
    }
    let tiling = tiling(labels, real);
    let edge = if real == DType::F64 { 32 } else { 24 };
    let edges = 4 * (labels + 1) * edge;
    let fits = edges <= shared_bytes;
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

/// The launch that gathers emissions, `weighted` or as they are. For a kernel of long rows, also returns whether a whole
/// block takes one row.
pub(crate) fn gather(dtype: DType, sizes: &Sizes, weighted: bool) -> (Launch, Option<bool>) {
    let (classes, entries) = (sizes.classes as usize, sizes.entries as usize);
    let (reads, few) = match sizes.is_logits() {
        true => (classes, FEW_CLASSES),
        false => (entries, FEW_EMISSIONS),
    };
    match reads <= few {
        // There is one kernel with weights, for rows of any length.
        _ if weighted => long_rows("gather_weighted", dtype, sizes, reads, GATHERED_BYTES),
        true => (short_rows("gather", dtype, sizes), None),
        false => long_rows("gather", dtype, sizes, reads, GATHERED_BYTES),
    }
}

/// The launch that writes the gradient; returns the same as [`gather`].
pub(crate) fn gradient(dtype: DType, sizes: &Sizes) -> (Launch, Option<bool>) {
    let classes = sizes.classes as usize;
    match classes < LONG_ROW {
        true => (short_rows("gradient", dtype, sizes), None),
        false => long_rows("gradient", dtype, sizes, classes, WRITTEN_BYTES),
    }
}

/// A launch in which each warp takes a few frames of an item, as `ctc_frames_of_a_warp` and `ctc_runs_of_an_item`
/// define.
fn short_rows(name: &str, dtype: DType, sizes: &Sizes) -> Launch {
    let (frames, batch) = (sizes.frames as usize, sizes.batch as usize);
    let run = ((frames * batch) >> 13).clamp(1, MOST_FRAMES);
    let warps = frames.div_ceil(run) * batch;
    Launch {
        kernel: format!("ctc_{name}_short_{}", dtype.as_str()),
        blocks: warps.div_ceil(SHORT_WARPS).min(MOST_BLOCKS),
        threads: WARP * SHORT_WARPS,
        shared_bytes: 0,
    }
}

/// Bytes of a row per thread, which set the threads per row from one warp to a block of 8 warps. Besides reading, a row
/// waits for memory several times, and many concurrent rows hide that. Too many rows would evict their gradients from
/// the cache, where the target's classes are written last.
const GATHERED_BYTES: usize = 256;
const WRITTEN_BYTES: usize = 128;

/// A sum depends on its number of threads, so that number depends only on the length of a row.
fn long_rows(
    name: &str,
    dtype: DType,
    sizes: &Sizes,
    entries: usize,
    bytes: usize,
) -> (Launch, Option<bool>) {
    let rows = (sizes.frames * sizes.batch) as usize;
    let threads = (entries * dtype.size_in_bytes() / bytes).clamp(WARP, 256);
    let of_a_row = 1 << threads.ilog2();
    let wide = of_a_row > WARP;
    let of_a_block = if wide { 1 } else { SHORT_WARPS };
    let launch = Launch {
        kernel: format!("ctc_{name}_{}", dtype.as_str()),
        blocks: rows.div_ceil(of_a_block).min(MOST_BLOCKS),
        threads: of_a_row * of_a_block,
        shared_bytes: 0,
    };
    (launch, Some(wide))
}

/// Static shared memory of the kernel of best paths, at most.
const BEST_PATH_BYTES: usize = 2 << 10;

/// The launch that finds the best path of each item, and whether the states of a frame are in device memory, since they
/// do not fit into `shared_bytes`.
pub(crate) fn best_path(dtype: DType, sizes: &Sizes, shared_bytes: usize) -> (Launch, bool) {
    let pairs = sizes.labels as usize + 1;
    // Two rows of blanks and labels, in f64.
    let states = pairs.saturating_mul(4 * 8);
    let fits = states <= shared_bytes.saturating_sub(BEST_PATH_BYTES);
    let launch = Launch {
        kernel: format!("ctc_best_path_{}", dtype.as_str()),
        blocks: sizes.batch as usize,
        threads: pairs.next_multiple_of(WARP).min(512),
        shared_bytes: if fits { states } else { 0 },
    };
    (launch, !fits)
}

/// The launch that sums the losses of a batch.
pub(crate) fn reduce(real: DType) -> Launch {
    Launch {
        kernel: format!("ctc_reduce_{}", real.as_str()),
        blocks: 1,
        threads: 256,
        shared_bytes: 0,
    }
}

/// The launch that widens `count` integers of one dtype to i64.
pub(crate) fn widen(dtype: DType, count: usize) -> Launch {
    Launch {
        kernel: format!("ctc_widen_{}", dtype.as_str()),
        blocks: count.div_ceil(256).clamp(1, MOST_BLOCKS),
        threads: 256,
        shared_bytes: 0,
    }
}

/// The launch that computes the tables of `batch` items on the device.
pub(crate) fn prepare(batch: usize) -> Launch {
    Launch {
        kernel: "ctc_prepare".into(),
        blocks: batch,
        threads: 256,
        shared_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{GradientKind, Reduction};
    use crate::problem::plan::{Input, InputKind, LossProblem, Plan, Targets};

    fn sizes(frames: usize, batch: usize, labels: usize) -> Sizes {
        let plan = Plan {
            input: Input {
                frames,
                batch,
                classes: 40,
                blank: 0,
                layout: None,
                kind: InputKind::LogProbs,
            },
            input_lengths: Vec::new(),
            labels: Vec::new(),
            label_offsets: Vec::new(),
        };
        let problem = LossProblem {
            targets: Targets::Host(plan),
            gradient: GradientKind::Exact,
            reduction: Reduction::None,
            zero_infinity: false,
            weights: None,
        };
        Sizes::new(problem.input(), labels, labels.min(39) + 1).of_loss(&problem, true)
    }

    const SHARED_BYTES: usize = 47 << 10;

    /// Every pair of every target length has a tile, and no tile is empty.
    #[test]
    fn tiles_cover_all_pairs() {
        for real in [DType::F32, DType::F64] {
            for labels in 0..3000 {
                let Tiling { pairs, tiles } = tiling(labels, real);
                let covered = |tiles: usize| 32 * pairs + (tiles - 1) * (32 * pairs - HALO);
                assert!(covered(tiles) > labels, "{labels}");
                assert!(tiles == 1 || covered(tiles - 1) <= labels, "{labels}");
            }
        }
    }

    #[test]
    fn threads_are_two_directions_of_whole_warps_within_the_limit() {
        for labels in [0, 1, 31, 32, 100, 207, 208, 500, 5000] {
            for most in [64, 96, 128, 256, 1024] {
                let (launch, _) = lattice(&sizes(50, 3, labels), DType::F32, SHARED_BYTES, |_| {
                    Ok(most)
                })
                .unwrap();
                assert_eq!(launch.blocks, 3);
                assert_eq!(launch.threads % 64, 0);
                assert!(launch.threads <= most && launch.threads >= 64);
            }
        }
    }

    #[test]
    fn long_targets_leave_shared_memory() {
        let of =
            |labels, real| lattice(&sizes(9, 2, labels), real, SHARED_BYTES, |_| Ok(256)).unwrap();
        let (launch, spilled) = of(500, DType::F32);
        assert_eq!((launch.shared_bytes, spilled), (4 * 501 * 24, 0));
        assert_eq!(launch.kernel, "ctc_lattice_f32_4");
        let (launch, spilled) = of(501, DType::F32);
        assert_eq!((launch.shared_bytes, spilled), (0, 4 * 502 * 24));
        assert_eq!(launch.kernel, "ctc_lattice_f32_4_spill");
        let (launch, spilled) = of(400, DType::F64);
        assert_eq!((launch.shared_bytes, spilled), (0, 4 * 401 * 32));
        assert_eq!(launch.kernel, "ctc_lattice_f64_2_spill");
    }

    #[test]
    fn rows_fill_warps_or_blocks() {
        let of = |frames, batch, classes| {
            let mut sizes = sizes(frames, batch, 3);
            sizes.classes = classes;
            sizes
        };
        let (launch, wide) = gradient(DType::F32, &of(7, 5, 256));
        assert_eq!((launch.blocks, launch.threads, wide), (9, 128, Some(false)));
        assert_eq!(launch.kernel, "ctc_gradient_f32");
        let (launch, wide) = gradient(DType::F32, &of(7, 5, 2047));
        assert_eq!((launch.blocks, launch.threads, wide), (9, 128, Some(false)));
        let (launch, wide) = gradient(DType::F32, &of(7, 5, 2048));
        assert_eq!((launch.blocks, launch.threads, wide), (35, 64, Some(true)));
        let (launch, _) = gradient(DType::BF16, &of(7, 5, 10_000));
        assert_eq!(launch.threads, 128);
        let (launch, wide) = gradient(DType::F32, &of(7, 5, 1 << 20));
        assert_eq!((launch.blocks, launch.threads, wide), (35, 256, Some(true)));
        let (launch, _) = gradient(DType::F32, &of(1 << 20, 8, 5000));
        assert_eq!(launch.blocks, MOST_BLOCKS);
        let mut many = of(7, 5, 10_000);
        many.entries = FEW_EMISSIONS as i64 + 1;
        let (launch, wide) = gather(DType::F32, &of(7, 5, 3), true);
        assert_eq!((launch.blocks, launch.threads, wide), (9, 128, Some(false)));
        assert_eq!(launch.kernel, "ctc_gather_weighted_f32");
        let (launch, wide) = gather(DType::BF16, &many, false);
        assert_eq!((launch.threads, wide), (128, Some(false)));
        assert_eq!(launch.kernel, "ctc_gather_bf16");
    }

    #[test]
    fn short_rows_have_the_warps_that_their_frames_take() {
        let (launch, wide) = gather(DType::BF16, &sizes(7, 5, 3), false);
        assert_eq!((launch.blocks, launch.threads, wide), (9, 128, None));
        assert_eq!(launch.kernel, "ctc_gather_short_bf16");
        let (launch, _) = gradient(DType::F64, &sizes(8192, 2, 3));
        assert_eq!((launch.blocks, launch.threads), (4096 * 2 / 4, 128));
        assert_eq!(launch.kernel, "ctc_gradient_short_f64");
        let (launch, _) = gradient(DType::F32, &sizes(1001, 100, 3));
        assert_eq!(launch.blocks, 126 * 100 / 4);
    }

    #[test]
    fn a_frame_of_states_stays_below_2_gib() {
        let of = |labels| lattice(&sizes(1, 1, labels), DType::F64, SHARED_BYTES, |_| Ok(256));
        assert!(of(MOST_LABELS - 1).is_ok());
        assert!(of(MOST_LABELS).is_err());
        // As many pairs, of 32 bytes.
        assert!(i32::try_from(32 * MOST_LABELS).is_ok());
    }

    #[test]
    fn an_error_of_the_device_is_passed_on() {
        let refused = lattice(&sizes(7, 5, 3), DType::F32, SHARED_BYTES, |name| {
            candle_core::bail!("no {name}")
        });
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("ctc_lattice_f32_1")
        );
    }
}
