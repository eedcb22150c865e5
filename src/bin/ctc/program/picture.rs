//! The lattice of a transcript over its emissions, with the best path, as SVG.
//!
//! A row is a state of the lattice (blank, first token, blank, …, from the top), a column is a
//! frame. The darker a cell, the more probable is the state's label in that frame; tokens are
//! blue and blanks grey.

use super::input::Source;
use super::output::Aligned;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use candle_core::DType;
use svg::Document;
use svg::node::element::{Group, Image, Line, Polyline, Rectangle, Text, Title};

const MARGIN_LEFT: f64 = 44.0;
const MARGIN_TOP: f64 = 58.0;
const MARGIN_RIGHT: f64 = 16.0;
const MARGIN_BOTTOM: f64 = 40.0;
/// Cells of the heat map, at most: beyond this a viewer has trouble with it.
const MOST_CELLS: usize = 40_000_000;
const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";
const INK: &str = "#333333";
const PATH: &str = "#e4572e";

pub fn draw(source: &Source, aligned: &Aligned) -> Result<String> {
    let spans = &aligned.alignment.spans;
    let frames = source.frames;
    let states = 2 * spans.len() + 1;
    ensure!(
        frames.saturating_mul(states) <= MOST_CELLS,
        "a picture of {frames} frames and {states} states is too large; at most {MOST_CELLS} cells"
    );
    // Cells shrink as they get more, down to one pixel.
    let cell_width = (1100.0 / frames as f64).clamp(1.0, 14.0);
    let cell_height = (620.0 / states as f64).clamp(1.0, 14.0);
    let (width, height) = (frames as f64 * cell_width, states as f64 * cell_height);
    let x = |frame: f64| MARGIN_LEFT + frame * cell_width;
    let y = |state: f64| MARGIN_TOP + state * cell_height;

    let total = (
        MARGIN_LEFT + width + MARGIN_RIGHT,
        MARGIN_TOP + height + MARGIN_BOTTOM,
    );
    let mut document = Document::new()
        .set("viewBox", (0, 0, total.0.ceil(), total.1.ceil()))
        .set("width", total.0.ceil())
        .set("height", total.1.ceil())
        .set("font-family", FONT)
        .add(Title::new(format!("CTC alignment of {:?}", aligned.text)))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        )
        .add(
            Image::new()
                .set("x", MARGIN_LEFT)
                .set("y", MARGIN_TOP)
                .set("width", width)
                .set("height", height)
                .set("preserveAspectRatio", "none")
                .set("style", "image-rendering: pixelated")
                .set("href", heat_map(source, aligned, states)?),
        )
        .add(
            Rectangle::new()
                .set("x", MARGIN_LEFT)
                .set("y", MARGIN_TOP)
                .set("width", width)
                .set("height", height)
                .set("fill", "none")
                .set("stroke", "#999999"),
        );

    // The path, through the middle of its cells.
    let points: Vec<String> = states_of(aligned, frames)
        .into_iter()
        .enumerate()
        .map(|(t, state)| format!("{:.1},{:.1}", x(t as f64 + 0.5), y(state as f64 + 0.5)))
        .collect();
    document = document.add(
        Polyline::new()
            .set("points", points.join(" "))
            .set("fill", "none")
            .set("stroke", PATH)
            .set(
                "stroke-width",
                (cell_width.min(cell_height) / 4.0).clamp(1.0, 2.5),
            )
            .set("stroke-linejoin", "round"),
    );

    // The labels of the rows, as far as they can be read.
    let size = (1.7 * cell_height).min(13.0);
    if size >= 6.0 {
        let mut labels = text_group(size, "end");
        for (i, token) in aligned.tokens.iter().enumerate() {
            let at = (MARGIN_LEFT - 6.0, y(2.0 * i as f64 + 1.5) + 0.35 * size);
            labels = labels.add(text(token, at));
        }
        document = document.add(labels);
    }

    // The words above their frames, with lines down to the lattice.
    let mut words = text_group(12.0, "middle");
    let mut free = 0.0;
    for word in &aligned.words {
        let (start, end) = (x(word.start as f64), x(word.end as f64));
        words = words.add(
            Line::new()
                .set("x1", start)
                .set("x2", end)
                .set("y1", MARGIN_TOP - 8.0)
                .set("y2", MARGIN_TOP - 8.0)
                .set("stroke", INK)
                .set("stroke-width", 2),
        );
        // About 7 units a letter: leave out what would run into the word before.
        let middle = (start + end) / 2.0;
        let half = 3.5 * word.text.chars().count() as f64;
        if middle - half >= free {
            words = words.add(text(&word.text, (middle, MARGIN_TOP - 14.0)));
            free = middle + half + 4.0;
        }
    }
    let score = format!("log-probability of the path {:.2}", aligned.alignment.score);
    document = document
        .add(words)
        .add(text_group(12.0, "start").add(text(&score, (MARGIN_LEFT, 20.0))));

    // The time axis.
    let mut axis = text_group(11.0, "middle");
    let step = tick(aligned.duration());
    let bottom = MARGIN_TOP + height;
    for i in 0..=(aligned.duration() / step + 1e-9) as usize {
        let seconds = i as f64 * step;
        let at = x(seconds / aligned.hop);
        axis = axis
            .add(
                Line::new()
                    .set("x1", at)
                    .set("x2", at)
                    .set("y1", bottom)
                    .set("y2", bottom + 5.0)
                    .set("stroke", INK),
            )
            .add(text(&trimmed(seconds), (at, bottom + 18.0)));
    }
    axis = axis.add(text("seconds", (MARGIN_LEFT + width / 2.0, bottom + 34.0)));
    Ok(document.add(axis).to_string())
}

fn text_group(size: f64, anchor: &str) -> Group {
    Group::new()
        .set("font-size", format!("{size:.1}"))
        .set("text-anchor", anchor)
        .set("fill", INK)
}

fn text(content: &str, (x, y): (f64, f64)) -> Text {
    Text::new(content)
        .set("x", format!("{x:.1}"))
        .set("y", format!("{y:.1}"))
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

/// The probabilities of the states as a PNG, one pixel a cell, in a data URI.
fn heat_map(source: &Source, aligned: &Aligned, states: usize) -> Result<String> {
    let rows = source.log_probs.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let classes: Vec<usize> = (0..states)
        .map(|state| match state % 2 {
            0 => source.vocabulary.blank(),
            _ => aligned.alignment.spans[state / 2].token as usize,
        })
        .collect();
    let mut pixels = Vec::with_capacity(3 * states * rows.len());
    for (state, class) in classes.into_iter().enumerate() {
        let colours = if state % 2 == 0 { BLANK } else { TOKEN };
        for row in &rows {
            // The square root lifts what is small.
            pixels.extend(shade(row[class].exp().clamp(0.0, 1.0).sqrt(), colours));
        }
    }
    let mut data = Vec::new();
    let mut encoder = png::Encoder::new(&mut data, rows.len() as u32, states as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder
        .write_header()
        .context("cannot encode the picture")?;
    writer
        .write_image_data(&pixels)
        .context("cannot encode the picture")?;
    writer.finish().context("cannot encode the picture")?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(data);
    Ok(format!("data:image/png;base64,{encoded}"))
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
