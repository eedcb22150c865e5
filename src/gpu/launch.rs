//! How the kernels are launched, as pure functions of sizes.

use super::params::Sizes;
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

/// Threads of a warp (SIMD-group).
const WARP: usize = 32;
/// Pairs that two neighbouring tiles of a lattice share: `CTC_HALO`.
const HALO: usize = 16;
/// Rows of a gradient with fewer classes are short: `CTC_LONG_ROW`.
const LONG_ROW: usize = 256;
/// Rows of logits with up to so many classes are short for the sum of their exponentials.
const FEW_CLASSES: usize = 128;
/// Rows of which only so many emissions are wanted, or fewer, are short too.
const FEW_EMISSIONS: usize = 1024;
/// Warps of a block for short rows: `CTC_SHORT_WARPS`.
const SHORT_WARPS: usize = 4;
/// Consecutive frames of an item that a warp takes where rows are short, at most: `CTC_MOST_FRAMES`.
const MOST_FRAMES: usize = 8;
/// Blocks beyond this take several rows.
const MOST_BLOCKS: usize = 1 << 20;

/// From here on the bytes of the states of a frame, 32 a label for f64, exceed what the kernels multiply with.
const MOST_LABELS: usize = 1 << 26;

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

/// The most threads of a block of the lattice, so that its registers suffice. Kernels of one pair a lane have one
/// tile, and so 64.
pub(crate) const LATTICE_THREADS: usize = 256;

/// The launch of the lattice: one block an item, with `shared_bytes` of shared memory at most. `max_threads` is
/// what the device gives the kernel of that name, which may be less than asked for: a block then takes several
/// tiles in turn. Also how many bytes of device memory an item needs for what does not fit shared memory, or 0.
pub(crate) fn lattice(
    sizes: &Sizes,
    real: DType,
    shared_bytes: usize,
    max_threads: impl Fn(&str) -> Result<usize>,
) -> Result<(Launch, usize)> {
    let labels = sizes.labels as usize;
    if labels >= MOST_LABELS {
        candle_core::bail!(
            "ctc-loss: a target of {labels} labels; a GPU takes fewer than {MOST_LABELS}"
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

/// The launch that gathers emissions, of which a frame has `entries`; and whether a row is a block's, which is said to a
/// kernel for long rows alone.
pub(crate) fn gather(dtype: DType, sizes: &Sizes, entries: usize) -> (Launch, Option<bool>) {
    let classes = sizes.classes as usize;
    let short = match sizes.is_logits() {
        true => classes <= FEW_CLASSES,
        false => entries <= FEW_EMISSIONS,
    };
    match (short, sizes.is_logits()) {
        (true, _) => (short_rows("gather", dtype, sizes), None),
        (false, true) => long_rows("gather", dtype, sizes, classes, GATHERED_BYTES),
        (false, false) => long_rows("gather", dtype, sizes, entries, GATHERED_BYTES),
    }
}

/// The launch that writes the gradient, as [`gather`].
pub(crate) fn gradient(dtype: DType, sizes: &Sizes) -> (Launch, Option<bool>) {
    let classes = sizes.classes as usize;
    match classes < LONG_ROW {
        true => (short_rows("gradient", dtype, sizes), None),
        false => long_rows("gradient", dtype, sizes, classes, WRITTEN_BYTES),
    }
}

/// A warp takes some frames of an item, as `ctc_frames_of_a_warp` and `ctc_runs_of_an_item` say.
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

/// A thread for so many bytes of a row, from a warp to a block of 8. Beside the reading itself a row waits for memory a
/// few times, and many rows at once hide that. They should not be so many that the cache does not hold their gradients: a
/// target's classes are written last.
const GATHERED_BYTES: usize = 256;
const WRITTEN_BYTES: usize = 128;

/// A sum depends on the number of its threads, so that hangs on the length of a row alone.
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

/// The launch that adds up the losses of a batch.
pub(crate) fn reduce(real: DType) -> Launch {
    Launch {
        kernel: format!("ctc_reduce_{}", real.as_str()),
        blocks: 1,
        threads: 256,
        shared_bytes: 0,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{GradientKind, Reduction};
    use crate::problem::plan::{InputKind, Plan};

    fn sizes(frames: usize, batch: usize, labels: usize) -> Sizes {
        let plan = Plan {
            frames,
            batch,
            classes: 40,
            blank: 0,
            layout: None,
            input: InputKind::LogProbs,
            gradient: GradientKind::Exact,
            reduction: Reduction::None,
            zero_infinity: false,
            input_lengths: Vec::new(),
            labels: Vec::new(),
            label_offsets: Vec::new(),
            unread: None,
        };
        Sizes::new(&plan, labels, labels.min(39) + 1, true)
    }

    const SHARED_BYTES: usize = 47 << 10;

    /// Every pair of every length has a tile, and no tile is without one.
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
        let (launch, wide) = gather(DType::BF16, &of(7, 5, 10_000), FEW_EMISSIONS + 1);
        assert_eq!((launch.threads, wide), (128, Some(false)));
        assert_eq!(launch.kernel, "ctc_gather_bf16");
    }

    #[test]
    fn short_rows_have_the_warps_that_their_frames_take() {
        let (launch, wide) = gather(DType::BF16, &sizes(7, 5, 3), 4);
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
