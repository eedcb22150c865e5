//! The probabilities of the lattice's states as colours.

use super::super::alignment::Aligned;
use super::super::input::Source;
use anyhow::Result;
use candle_core::DType;

/// A pixel for each state and frame.
pub struct HeatMap {
    pub frames: usize,
    pub states: usize,
    /// Red, green and blue, state by state.
    pub pixels: Vec<u8>,
}

impl HeatMap {
    pub fn new(source: &Source, aligned: &Aligned) -> Result<Self> {
        let rows = source.log_probs.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let spans = &aligned.alignment.spans;
        let states = 2 * spans.len() + 1;
        let mut pixels = Vec::with_capacity(3 * states * rows.len());
        for state in 0..states {
            let (class, colours) = match state % 2 {
                0 => (source.vocabulary.blank(), BLANK),
                _ => (spans[state / 2].token as usize, TOKEN),
            };
            for row in &rows {
                // A star is no class: it has no probability. The square root lifts what is small.
                let level = row.get(class).map_or(0.0, |log_prob| log_prob.exp());
                pixels.extend(shade(level.clamp(0.0, 1.0).sqrt(), colours));
            }
        }
        Ok(Self {
            frames: rows.len(),
            states,
            pixels,
        })
    }
}

/// The colours of probability 0, 1/4 and 1. Blanks are grey, so that tokens stand out.
type Colours = [[f32; 3]; 3];
const TOKEN: Colours = [[255.0; 3], [146.0, 190.0, 222.0], [16.0, 62.0, 118.0]];
const BLANK: Colours = [[255.0; 3], [240.0, 241.0, 243.0], [214.0, 217.0, 222.0]];

fn shade(level: f32, [none, some, all]: Colours) -> [u8; 3] {
    let (from, to, part) = if level < 0.5 {
        (none, some, 2.0 * level)
    } else {
        (some, all, 2.0 * level - 1.0)
    };
    std::array::from_fn(|i| (from[i] + (to[i] - from[i]) * part) as u8)
}
