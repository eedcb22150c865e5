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

/// Threads of a warp (SIMD-group).
const WARP: usize = 32;
/// Pairs that two neighbouring tiles of a lattice share: `CTC_HALO`.
const HALO: usize = 16;
/// Rows longer than this have a block for themselves, the others a warp.
const WIDE: usize = 1024;
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
    use crate::plan::{InputKind, Plan};

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
        let (launch, wide) = rows("gather", DType::BF16, &sizes(7, 5, 3), 40);
        assert_eq!((launch.blocks, launch.threads, wide), (9, 128, false));
        assert_eq!(launch.kernel, "ctc_gather_bf16");
        let (launch, wide) = rows("gradient", DType::F32, &sizes(7, 5, 3), 1025);
        assert_eq!((launch.blocks, launch.threads, wide), (35, 256, true));
        let (launch, _) = rows("gradient", DType::F32, &sizes(1 << 20, 8, 3), 1025);
        assert_eq!(launch.blocks, MOST_BLOCKS);
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
