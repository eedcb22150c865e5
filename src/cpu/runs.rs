//! How the frames of an item are cut up: in runs of a few, from the first frame on, and in two halves,
//! one for each direction.

use std::ops::Range;

/// Frames of a run. The last run of an item may have fewer.
pub(super) const RUN: usize = 8;

/// Forward or backward in time.
pub(super) trait Direction: Copy + Send + Sync {
    const FORWARD: bool;
    type Other: Direction<Other = Self>;
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Forward;

#[derive(Debug, Clone, Copy)]
pub(super) struct Backward;

impl Direction for Forward {
    const FORWARD: bool = true;
    type Other = Backward;
}

impl Direction for Backward {
    const FORWARD: bool = false;
    type Other = Forward;
}

/// A range from its start forward, from its end backward.
#[inline(always)]
pub(super) fn ordered<D: Direction>(range: Range<usize>) -> impl ExactSizeIterator<Item = usize> {
    (0..range.len()).map(move |i| nth::<D>(&range, i))
}

/// The `i`th of that.
#[inline(always)]
pub(super) fn nth<D: Direction>(range: &Range<usize>, i: usize) -> usize {
    if D::FORWARD {
        range.start + i
    } else {
        range.end - 1 - i
    }
}

/// The runs of an item.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Runs {
    /// `T_n`.
    pub frames: usize,
}

impl Runs {
    pub fn count(self) -> usize {
        self.frames.div_ceil(RUN)
    }

    /// The frame where the two directions meet: forward takes those before it.
    pub fn middle(self) -> usize {
        self.frames_of(self.half::<Forward>()).end
    }

    /// The runs that `D` takes on its way to the middle.
    #[inline(always)]
    pub fn half<D: Direction>(self) -> Range<usize> {
        let middle = self.count().div_ceil(2);
        if D::FORWARD {
            0..middle
        } else {
            middle..self.count()
        }
    }

    /// The frames of `runs`.
    #[inline(always)]
    pub fn frames_of(self, runs: Range<usize>) -> Range<usize> {
        let frame = |run: usize| (run * RUN).min(self.frames);
        frame(runs.start)..frame(runs.end)
    }

    /// The runs of `D` on its way to the middle, up to `at_once` at a time.
    pub fn chunks<D: Direction>(self, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.half::<D>().len()).step_by(at_once);
        starts.map(move |taken| self.chunk::<D>(taken, at_once))
    }

    /// The next `at_once` of them after `taken`, or what is left.
    pub fn chunk<D: Direction>(self, taken: usize, at_once: usize) -> Range<usize> {
        let half = self.half::<D>();
        let taken = taken.min(half.len());
        let count = at_once.min(half.len() - taken);
        if D::FORWARD {
            half.start + taken..half.start + taken + count
        } else {
            half.end - taken - count..half.end - taken
        }
    }
}

/// What belongs to the entries of some runs: for each run, for each entry of a frame, its frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table<'a, R> {
    /// The first run.
    pub first: usize,
    /// Entries of a frame.
    pub entries: usize,
    pub values: &'a [[R; RUN]],
    /// The emissions of the runs that are [`Entries::Raw`], in the places of their entries; none where no run is.
    pub wide: &'a [[f64; RUN]],
    /// By run.
    pub kinds: &'a [Entries],
}

/// What the entries of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Entries {
    /// Emissions, all above 0.
    #[default]
    Plain,
    /// Emissions, some of them 0.
    Masked,
    /// As they came, for they are too far apart for emissions in their type. Their emissions are made in f64.
    Raw(Depth),
}

/// How far emissions in f64 are below 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    /// Those above 0 are no less than 2^faintest.
    pub faintest: i32,
    /// Some are 0 in place of less than 2^cut.
    pub cut: Option<i32>,
    /// Some are 0, and rightly so.
    pub masked: bool,
}

impl Depth {
    /// Of emissions in f32.
    pub const PLAIN: Self = Self {
        faintest: -126,
        cut: None,
        masked: false,
    };
}

impl Entries {
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Raw(_))
    }

    #[inline(always)]
    pub fn depth(self) -> Depth {
        match self {
            Self::Raw(depth) => depth,
            _ => Depth::PLAIN,
        }
    }

    /// Whether no emission is 0.
    pub fn all_above_zero(self) -> bool {
        match self {
            Self::Plain => true,
            Self::Masked => false,
            Self::Raw(depth) => !depth.masked && depth.cut.is_none(),
        }
    }
}

impl<'a, R> Table<'a, R> {
    /// The emissions of a run that is [`Entries::Raw`].
    #[inline(always)]
    pub fn wide(&self, run: usize) -> &'a [[f64; RUN]] {
        let start = (run - self.first) * self.entries;
        &self.wide[start..start + self.entries]
    }

    #[inline(always)]
    pub fn kind(&self, run: usize) -> Entries {
        self.kinds[run - self.first]
    }

    #[inline(always)]
    pub fn run(&self, run: usize) -> &'a [[R; RUN]] {
        let start = (run - self.first) * self.entries;
        &self.values[start..start + self.entries]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_directions_share_all_frames() {
        for frames in 1..200 {
            let runs = Runs { frames };
            for at_once in [1, 2, 3, 100] {
                let mut early: Vec<usize> = runs
                    .chunks::<Forward>(at_once)
                    .flat_map(|some| runs.frames_of(some))
                    .collect();
                assert_eq!(early.len(), runs.middle());
                let mut late: Vec<_> = runs
                    .chunks::<Backward>(at_once)
                    .map(|some| runs.frames_of(some))
                    .collect();
                late.reverse();
                early.extend(late.into_iter().flatten());
                assert!(early.into_iter().eq(0..frames), "{frames}, {at_once}");
            }
        }
    }
}
