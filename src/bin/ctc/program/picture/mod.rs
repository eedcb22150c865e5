//! The lattice of a transcript over its emissions, with the best path.
//!
//! A row is a state of the lattice (blank, first token, blank, …, from the top), a column is a frame. The darker a
//! cell, the more probable is the state's label in that frame; tokens are blue and blanks grey.

mod heat_map;
mod raster;
mod vector;

use super::alignment::Aligned;
use super::input::Source;
use anyhow::{Result, ensure};
use heat_map::HeatMap;

/// Grows with the labels of the rows.
const MARGIN_LEFT: (f64, f64) = (44.0, 160.0);
const MARGIN_TOP: f64 = 58.0;
const MARGIN_RIGHT: f64 = 16.0;
const MARGIN_BOTTOM: f64 = 40.0;
/// About the width of a letter.
const LETTER: f64 = 7.0;
/// Cells of the heat map, at most: beyond this a viewer has trouble with it.
const MOST_CELLS: usize = 40_000_000;

/// What is drawn, in units of about a pixel. The origin is the upper left corner.
struct Picture {
    title: String,
    width: f64,
    height: f64,
    heat_map: HeatMap,
    /// Where the heat map is: left, top, width, height.
    area: (f64, f64, f64, f64),
    path: Vec<Point>,
    path_width: f64,
    lines: Vec<Line>,
    texts: Vec<Text>,
}

type Point = (f64, f64);

struct Line {
    from: Point,
    to: Point,
    width: f64,
}

struct Text {
    content: String,
    /// On the base line, at the anchor.
    at: Point,
    size: f64,
    anchor: Anchor,
}

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

type Colour = [u8; 3];
const INK: Colour = [0x33, 0x33, 0x33];
const FRAME: Colour = [0x99, 0x99, 0x99];
const PATH: Colour = [0xe4, 0x57, 0x2e];

pub fn svg(source: &Source, aligned: &Aligned) -> Result<String> {
    vector::render(&Picture::new(source, aligned)?)
}

pub fn png(source: &Source, aligned: &Aligned) -> Result<Vec<u8>> {
    raster::render(&Picture::new(source, aligned)?)
}

impl Picture {
    fn new(source: &Source, aligned: &Aligned) -> Result<Self> {
        let spans = &aligned.alignment.spans;
        let frames = source.frames;
        let states = 2 * spans.len() + 1;
        ensure!(
            frames.saturating_mul(states) <= MOST_CELLS,
            "a picture of {frames} frames and {states} states is too large: at most {MOST_CELLS} cells; \
             align a shorter part"
        );
        // Cells shrink as they get more, down to one pixel.
        let cell_width = (1100.0 / frames as f64).clamp(1.0, 14.0);
        let cell_height = (620.0 / states as f64).clamp(1.0, 14.0);
        let (width, height) = (frames as f64 * cell_width, states as f64 * cell_height);
        let longest = aligned.tokens.iter().map(|token| token.chars().count());
        let longest = longest.max().unwrap_or(0) as f64;
        let left = (LETTER * longest + 12.0).clamp(MARGIN_LEFT.0, MARGIN_LEFT.1);
        let x = |frame: f64| left + frame * cell_width;
        let y = |state: f64| MARGIN_TOP + state * cell_height;

        // Through the middle of its cells.
        let path = states_of(aligned, frames).into_iter().enumerate();
        let path = path.map(|(t, state)| (x(t as f64 + 0.5), y(state as f64 + 0.5)));

        let (mut lines, mut texts) = (Vec::new(), Vec::new());
        // The labels of the rows, as far as they can be read.
        let size = (1.7 * cell_height).min(13.0);
        if size >= 6.0 {
            for (i, token) in aligned.tokens.iter().enumerate() {
                let at = (left - 6.0, y(2.0 * i as f64 + 1.5) + 0.35 * size);
                texts.push(Text::new(token, at, size, Anchor::End));
            }
        }

        // The words above their frames.
        let mut free = 0.0;
        for word in &aligned.words {
            let (start, end) = (x(word.start as f64), x(word.end as f64));
            let top = MARGIN_TOP - 8.0;
            lines.push(Line {
                from: (start, top),
                to: (end, top),
                width: 2.0,
            });
            // Leave out what would run into the word before.
            let middle = (start + end) / 2.0;
            let half = LETTER / 2.0 * word.text.chars().count() as f64;
            if middle - half >= free {
                let at = (middle, MARGIN_TOP - 14.0);
                texts.push(Text::new(&word.text, at, 12.0, Anchor::Middle));
                free = middle + half + 4.0;
            }
        }
        let score = format!("log-probability of the path {:.2}", aligned.alignment.score);
        texts.push(Text::new(&score, (left, 20.0), 12.0, Anchor::Start));

        // The time axis.
        let step = tick(aligned.duration());
        let bottom = MARGIN_TOP + height;
        for i in 0..=(aligned.duration() / step + 1e-9) as usize {
            let seconds = i as f64 * step;
            let at = x(seconds / aligned.hop);
            lines.push(Line {
                from: (at, bottom),
                to: (at, bottom + 5.0),
                width: 1.0,
            });
            let below = (at, bottom + 18.0);
            texts.push(Text::new(&trimmed(seconds), below, 11.0, Anchor::Middle));
        }
        let below = (left + width / 2.0, bottom + 34.0);
        texts.push(Text::new("seconds", below, 11.0, Anchor::Middle));

        Ok(Self {
            title: format!("CTC alignment of {:?}", aligned.text),
            width: (left + width + MARGIN_RIGHT).ceil(),
            height: (MARGIN_TOP + height + MARGIN_BOTTOM).ceil(),
            heat_map: HeatMap::new(source, aligned)?,
            area: (left, MARGIN_TOP, width, height),
            path: path.collect(),
            path_width: (cell_width.min(cell_height) / 4.0).clamp(1.0, 2.5),
            lines,
            texts,
        })
    }
}

impl Text {
    fn new(content: &str, at: Point, size: f64, anchor: Anchor) -> Self {
        Self {
            content: content.to_owned(),
            at,
            size,
            anchor,
        }
    }
}

/// The state of the path at each frame.
fn states_of(aligned: &Aligned, frames: usize) -> Vec<usize> {
    let mut states = Vec::with_capacity(frames);
    for (i, span) in aligned.alignment.spans.iter().enumerate() {
        states.resize(span.start, 2 * i);
        states.resize(span.end, 2 * i + 1);
    }
    states.resize(frames, 2 * aligned.alignment.spans.len());
    states
}

/// A round number of seconds, of which about ten fit.
fn tick(duration: f64) -> f64 {
    let power = 10f64.powf((duration / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    *steps
        .iter()
        .find(|step| duration / **step <= 12.0)
        .unwrap_or(&steps[3])
}

fn trimmed(seconds: f64) -> String {
    let text = format!("{seconds:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
