//! The lattice of one target: its tiles, and which of them are reachable.

use super::*;

/// The reachable pairs: those whose blank, and those whose label, can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    pub blanks: Range<usize>,
    pub labels: Range<usize>,
}

/// The lattice of one item.
#[derive(Debug, Default)]
pub(crate) struct ScaledLattice {
    pub blocks: FrameBlocks,
    /// `U_n`: labels of the target.
    pub labels: usize,
    /// Emissions per frame; the blank's is the last.
    pub entries: usize,
    /// The coarsest level to try.
    pub coarsest: Level,
    /// For each pair, the index of its label's emission in the frame.
    pub places: Vec<[u32; PAIRS]>,
    /// For each pair, 1 where its label may follow the preceding label (in the order of the direction) without a blank,
    /// else 0.
    pub forward_skip: Vec<Pairs>,
    pub backward_skip: Vec<Pairs>,
}

impl ScaledLattice {
    /// Sets up the lattice of `target`. A frame has `entries` emissions; that of label i is at index `places[i]`, that
    /// of the blank is the last.
    pub fn prepare(&mut self, frames: usize, target: &[u32], places: &[u32], entries: usize) {
        let labels = target.len();
        let tiles = labels / PAIRS + 1;
        assert!(places.iter().all(|&place| (place as usize) < entries));
        self.blocks = FrameBlocks { frames };
        self.labels = labels;
        self.entries = entries;
        self.places.clear();
        self.places.resize(tiles, [0; PAIRS]);
        self.places.as_flattened_mut()[..labels].copy_from_slice(places);
        for (skip, first) in [(&mut self.forward_skip, 1), (&mut self.backward_skip, 0)] {
            skip.clear();
            skip.resize(tiles, ZEROS);
            let skip = flat(skip).iter_mut().skip(first);
            for (skip, pair) in skip.zip(target.windows(2)) {
                *skip = f64::from(pair[0] != pair[1]);
            }
        }
    }

    /// The tiles with pairs that can be reached from the start before frame `block.end`, and from which the end can be
    /// reached after frame `block.start`.
    #[inline(always)]
    pub fn live(&self, block: &Range<usize>) -> Range<usize> {
        let low = self
            .labels
            .saturating_sub(self.blocks.frames - block.start + 1);
        let high = block.end.min(self.labels);
        low / PAIRS..high / PAIRS + 1
    }

    #[inline(always)]
    pub fn skip<D: Direction>(&self) -> &[Pairs] {
        if D::FORWARD {
            &self.forward_skip
        } else {
            &self.backward_skip
        }
    }

    /// The pairs that `D` can have reached after the frames of `block`. Updates `past`.
    #[inline(always)]
    pub fn reached<D: Direction>(&self, block: &Range<usize>, past: &mut Past) -> Reached {
        let consumed = if D::FORWARD {
            block.end
        } else {
            self.blocks.frames - block.start
        };
        while past.labels < self.labels && past.next < consumed {
            past.labels += 1;
            past.next += 1;
            if past.labels < self.labels {
                let i = if D::FORWARD {
                    past.labels
                } else {
                    self.labels - 1 - past.labels
                };
                // A repeated label takes one more frame, for the blank before it.
                past.next += usize::from(self.skip::<D>()[i / PAIRS].0[i % PAIRS] == 0.0);
            }
        }
        // The blank after a label takes one more frame, as does the next label if it differs.
        let labels = past.labels + usize::from(past.labels < self.labels && past.next == consumed);
        if D::FORWARD {
            Reached {
                blanks: 0..past.labels + 1,
                labels: 0..labels,
            }
        } else {
            Reached {
                blanks: self.labels - past.labels..self.labels + 1,
                labels: self.labels - labels..self.labels,
            }
        }
    }

    /// Sets `track` to the state before the first frame of `D`.
    pub fn start<D: Direction>(&self, track: &mut Track, allowance: Allowance) {
        let tiles = self.places.len();
        track.row.clear(tiles);
        track.trial.numbers.clear();
        track.kept.clear();
        track.past = Past::default();
        track.forgone.start(tiles, allowance);
        track.careful = Careful::default();
        track.patience = Patience::new(self.coarsest);
        let first = self.first::<D>();
        track.row.numbers[first / PAIRS].blank.0[first % PAIRS] = 1.0;
    }

    /// Reserves memory for the checkpoints of all blocks of `D`.
    pub fn reserve<D: Direction>(&self, track: &mut Track) -> Result<(), Stop> {
        let blocks = self.blocks.half::<D>();
        let tiles = blocks
            .clone()
            .map(|i| self.live(&self.blocks.frames_of(i..i + 1)).len());
        track.kept.reserve(blocks.len(), tiles.sum())
    }

    /// `U_n`: labels of the target.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// The pair whose blank `D` starts from.
    pub fn first<D: Direction>(&self) -> usize {
        if D::FORWARD { 0 } else { self.labels }
    }

    /// Sweeps `track` through `blocks`, which must be the next ones on the way to the middle. With `keep`, stores a
    /// checkpoint at the start of each.
    pub fn sweep<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        blocks: Range<usize>,
        table: Table<R>,
        keep: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Stop> {
        dispatch_simd(Sweep::<D, R> {
            lattice: self,
            track,
            blocks,
            table,
            keep,
            scratch,
            direction: PhantomData,
        })
    }

    /// Takes `track` past the middle, through the half that `other` has swept. `half` holds the emissions of that half;
    /// `to` receives the posteriors.
    pub fn posterior_pass<D: Direction, R: Real>(
        &self,
        track: &mut Track,
        other: &Track,
        met: PathProbability,
        half: HalfEmissions<R>,
        to: &mut dyn Posteriors<R>,
        scratch: &mut Scratch,
    ) {
        dispatch_simd(PosteriorPass::<D, R> {
            lattice: self,
            track,
            other,
            met,
            half,
            to,
            scratch,
            direction: PhantomData,
        })
    }
}
