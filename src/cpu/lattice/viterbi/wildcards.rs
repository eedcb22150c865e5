//! The emissions of wildcards: of stars, and of audio outside the target.

use super::{DEAD, Failure, Item, NoPath};
use crate::cpu::simd::real::{Element, Real};
use crate::memory::room_for;
use crate::options::Wildcard;

/// What may stand for audio that the target leaves out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wildcards {
    /// A label, and its emission.
    pub star: Option<(u32, Wildcard)>,
    /// The emission of frames before the first label and after the last, where it is larger than the blank's.
    pub outside: Option<Wildcard>,
}

impl Wildcards {
    pub fn is_empty(&self) -> bool {
        self.star.is_none() && self.outside.is_none()
    }
}

/// The emissions of a wildcard for one item.
pub(super) enum WildcardEmissions {
    Constant(f64),
    Frames(Vec<f64>),
}

impl WildcardEmissions {
    #[inline(always)]
    pub fn at(&self, frame: usize) -> f64 {
        match self {
            Self::Constant(log_prob) => *log_prob,
            Self::Frames(log_probs) => log_probs[frame],
        }
    }
}

impl<E> Item<'_, E> {
    pub fn is_star(&self, label: u32) -> bool {
        matches!(&self.star, Some((star, _)) if *star == label)
    }

    /// The emission of the blanks before the first label and after the last, if it is not that of all blanks.
    #[inline(always)]
    pub fn outside_at(&self, frame: usize, blank: f64) -> Option<f64> {
        let outside = self.outside.as_ref()?.at(frame);
        Some(if outside > blank { outside } else { blank })
    }

    /// The emission of the blank of a pair, where that of most blanks is `blank`.
    pub fn blank_at(&self, frame: usize, pair: usize, blank: f64) -> f64 {
        let outer = pair == 0 || pair == self.target.len();
        match self.outside_at(frame, blank) {
            Some(outside) if outer => outside,
            _ => blank,
        }
    }
}

impl<E: Element> Item<'_, E> {
    /// Computes the emissions of wildcards that this item uses.
    pub fn prepare(&mut self, wildcards: Wildcards, classes: usize) -> Result<(), Failure> {
        let star = wildcards
            .star
            .filter(|(star, _)| self.target.contains(star));
        let label = wildcards.star.map(|(star, _)| star);
        if let Some((star, wildcard)) = star {
            self.star = Some((star, self.wildcard_emissions(wildcard, classes, label)?));
        }
        if let Some(wildcard) = wildcards.outside {
            self.outside = Some(self.wildcard_emissions(wildcard, classes, label)?);
        }
        Ok(())
    }

    fn wildcard_emissions(
        &self,
        wildcard: Wildcard,
        classes: usize,
        star: Option<u32>,
    ) -> Result<WildcardEmissions, Failure> {
        let (mean, penalty) = match wildcard {
            Wildcard::Constant(log_prob) => {
                return Ok(WildcardEmissions::Constant(f64::from(log_prob)));
            }
            Wildcard::Largest { penalty } => (false, f64::from(penalty)),
            Wildcard::Mean { penalty } => (true, f64::from(penalty)),
        };
        let what = format!("forced_align: the wildcard's emissions of item {}", self.n);
        let mut emissions = room_for(&what, &[self.frames])?;
        let counts = |class: usize| class != self.blank && star.map(|s| s as usize) != Some(class);
        let used: Vec<usize> = (0..classes).filter(|&class| counts(class)).collect();
        let (mut raw, mut wide) = (vec![E::zero(); used.len()], vec![E::Real::ZERO; used.len()]);
        for frame in 0..self.frames {
            let start = self.start + frame * self.strides.frame;
            for (to, class) in raw.iter_mut().zip(&used) {
                *to = self.data[start + class * self.strides.class];
            }
            E::widen_slice(&raw, &mut wide);
            let log_probs = || wide.iter().map(|x| x.widen());
            if let Some(place) = log_probs().position(|x| x.is_poison()) {
                let class = used[place];
                return Err(NoPath::Undefined { frame, class }.into());
            }
            let largest = log_probs().fold(DEAD, f64::max);
            let log_prob = if mean && largest > DEAD {
                let sum: f64 = log_probs().map(|x| (x - largest).exp()).sum();
                largest + (sum / used.len() as f64).ln()
            } else {
                largest
            };
            emissions.push(log_prob - penalty);
        }
        Ok(WildcardEmissions::Frames(emissions))
    }
}
