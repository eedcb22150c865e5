//! The progress of one direction, and the level at which its blocks are computed.

use super::*;

/// The states of one direction, and its checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Track {
    // Boxed, since the two are swapped after each block.
    pub row: Box<Row>,
    /// Receives the tentative result of a block that may be out of range. Without tiles until [`Track::make_ready`].
    pub trial: Box<Row>,
    pub kept: Checkpoints,
    pub past: Past,
    pub patience: Patience,
    pub forgone: Forgone,
    pub careful: Careful,
}

/// Granularity of the exponents of a block. A block that fails at one level is tried again at the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// One exponent per tile and block.
    #[default]
    Tiles,
    /// One per pair and 4 frames.
    Pairs,
    /// One per state and frame, which never fails.
    States,
}

impl Level {
    pub fn coarser(self) -> Self {
        match self {
            Self::States => Self::Pairs,
            _ => Self::Tiles,
        }
    }
}

/// Chooses the level at which to begin a block: after a coarser level has failed, it rarely succeeds in the next few
/// blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    pub coarsest: Level,
    /// The level at which the last block succeeded.
    pub level: Level,
    /// For how many blocks the coarser level was not tried after its last failure: twice as many each time.
    pub wait: u32,
    /// How many of these blocks are left.
    pub left: u32,
}

impl Patience {
    pub const LONGEST: u32 = 16;

    pub fn new(coarsest: Level) -> Self {
        Self {
            coarsest,
            level: coarsest,
            ..Default::default()
        }
    }

    pub fn first(&self) -> Level {
        match self.left {
            0 => self.level.coarser().max(self.coarsest),
            _ => self.level,
        }
    }

    /// Records that a block was begun at level `first` and succeeded at level `held`.
    #[inline(always)]
    pub fn done(&mut self, first: Level, held: Level) {
        if (self.left == 0) & (self.level == first) & (first == held) {
            return;
        }
        self.left = self.left.saturating_sub(1);
        if held > first {
            self.wait = (2 * self.wait).clamp(1, Self::LONGEST);
            self.left = self.wait;
        } else if held < self.level {
            self.wait = 0;
        }
        self.level = held;
    }
}

/// Chooses the blocks at [`Level::Tiles`] in which the smallest state above 0 of each tile is found as well. That costs
/// a little, and tells whether any state vanished where some are small.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Careful {
    pub on: bool,
    wait: u32,
    left: u32,
}

impl Careful {
    /// Whether to repeat the sweep of a block carefully. The sweep behind `settled` was already careful if
    /// `self.on`.
    pub fn tries(&mut self, settled: Settled, allowance: &Allowance) -> bool {
        if self.on {
            // Stay careful only while it is needed and helps.
            self.on = settled != Settled::Exact && !settled.loses();
            return false;
        }
        if !settled.loses() {
            return false;
        }
        let refused = matches!(settled, Settled::Bounded { allowed: false, .. });
        if refused && matches!(allowance, Allowance::Budget(_)) {
            return true;
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Takes note of a block that was swept once more.
    pub fn tried(&mut self, settled: Settled) {
        let helped = !settled.loses();
        self.on = helped;
        self.wait = if helped {
            1
        } else {
            (2 * self.wait).clamp(1, Patience::LONGEST)
        };
        self.left = self.wait;
    }
}

/// How far a direction can have come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// The number of labels that are reachable before the last consumed frame.
    pub labels: usize,
    /// The number of frames needed to reach the next label.
    pub next: usize,
}

impl Default for Past {
    fn default() -> Self {
        Self { labels: 0, next: 1 }
    }
}

/// Working memory of a block.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub emissions: Spread,
    pub range: Range8,
    /// For each tile, the smallest states above 0 in a block.
    pub smallest: Vec<Pairs>,
    /// `[tile][frame]`: the rows of the other direction, and their exponents where each state has its own.
    pub rows: Vec<[Tile; BLOCK_FRAMES]>,
    pub row_exponents: Vec<[Tile; BLOCK_FRAMES]>,
    /// Factors from product to posterior, by tile and by pair.
    pub tile_scales: Vec<f64>,
    pub scales: Vec<Pairs>,
    /// For each part of the block, the exponents of the other direction's pairs.
    pub part_exponents: [Vec<Pairs>; PARTS],
    /// For each entry, the posterior of its class in each frame.
    pub classes: Vec<Pairs>,
    pub other: Row,
    pub finer: Row,
}

impl Track {
    /// Makes room for tentative results. Interleaved lattices do without them.
    pub fn make_ready(&mut self) {
        let tiles = self.row.numbers.len();
        if self.trial.numbers.len() != tiles {
            self.trial.clear(tiles);
            self.forgone.make_ready();
        }
    }

    /// Starts a posterior pass from the row of `other`, with no checkpoints.
    pub fn follow(&mut self, other: &Track) {
        self.row.copy_from(&other.row);
        self.trial.numbers.clear();
        self.kept.clear();
    }
}
