//! The hits of a phrase, by a table of the best paths for each first frame.

use crate::common::oracle::collapse;
use candle_ctc::KeywordHit;

/// One utterance: (frames, classes) log-probabilities or logits without NaN and +inf.
pub struct Utterance<'a> {
    pub values: &'a [f64],
    pub classes: usize,
    pub blank: usize,
}

/// The frames from `start` to before `end` and the score of their best path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    pub score: f64,
    pub start: usize,
    pub end: usize,
}

impl Utterance<'_> {
    /// How far a class is below the most probable one of a frame.
    fn ratio(&self, frame: usize, class: usize) -> f64 {
        let row = &self.values[frame * self.classes..][..self.classes];
        match row[class] {
            f64::NEG_INFINITY => f64::NEG_INFINITY,
            entry => entry - row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// The segments of which the best path scores at least `least`.
    fn segments(&self, phrase: &[u32], least: f64) -> Vec<Segment> {
        let mut symbols = vec![phrase[0] as usize];
        for &label in &phrase[1..] {
            symbols.extend([self.blank, label as usize]);
        }
        let frames = self.values.len() / self.classes;
        let ratios: Vec<Vec<f64>> = (0..frames)
            .map(|frame| {
                symbols
                    .iter()
                    .map(|&class| self.ratio(frame, class))
                    .collect()
            })
            .collect();
        let mut found = Vec::new();
        for start in 0..frames {
            let mut states = vec![f64::NEG_INFINITY; symbols.len()];
            for frame in start..frames {
                for at in (0..symbols.len()).rev() {
                    let mut best = states[at];
                    if at > 0 {
                        best = best.max(states[at - 1]);
                    }
                    if at > 1 && at % 2 == 0 && symbols[at] != symbols[at - 2] {
                        best = best.max(states[at - 2]);
                    }
                    if at == 0 && frame == start {
                        best = 0.0;
                    }
                    states[at] = best + ratios[frame][at];
                }
                let score = states[symbols.len() - 1];
                if score > f64::NEG_INFINITY && score >= least {
                    let end = frame + 1;
                    found.push(Segment { score, start, end });
                }
            }
        }
        found
    }

    /// The hits: the best segment, then the best that does not overlap it, and so on.
    pub fn hits(&self, phrase: &[u32], threshold: f64) -> Vec<Segment> {
        let gap = usize::from(phrase.first() == phrase.last());
        let mut segments = self.segments(phrase, threshold * phrase.len() as f64);
        segments.sort_by(|a, b| {
            let (score, start) = (b.score.total_cmp(&a.score), a.start.cmp(&b.start));
            score.then(start).then(b.end.cmp(&a.end))
        });
        let mut taken: Vec<Segment> = Vec::new();
        for one in segments {
            let apart =
                |other: &Segment| one.end + gap <= other.start || other.end + gap <= one.start;
            if taken.iter().all(apart) {
                taken.push(one);
            }
        }
        taken.sort_by_key(|segment| segment.start);
        taken
    }

    /// The spans of a hit are those of a path that reads as the phrase, and has the score of the hit.
    pub fn check_spans(&self, hit: &KeywordHit, phrase: &[u32]) {
        let mut path = vec![self.blank; hit.end - hit.start];
        let mut end = hit.start;
        for span in &hit.spans {
            assert!(end <= span.start && span.start < span.end, "{hit:?}");
            end = span.end;
            path[span.start - hit.start..end - hit.start].fill(span.token as usize);
        }
        assert!(end == hit.end && hit.spans[0].start == hit.start, "{hit:?}");
        let read = collapse(&path, self.blank);
        let read: Vec<u32> = read.into_iter().map(|class| class as u32).collect();
        assert_eq!(read, phrase, "{hit:?}");
        let ratios = (hit.start..).zip(&path);
        let score: f64 = ratios.map(|(frame, &class)| self.ratio(frame, class)).sum();
        let slack = 1e-9 * score.abs().max(1.0);
        assert!((score - hit.score).abs() <= slack, "{score} {hit:?}");
    }
}
