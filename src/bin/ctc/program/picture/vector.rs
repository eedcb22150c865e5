//! The picture as SVG.

use super::{Anchor, Colour, FRAME, INK, PATH, Picture, raster};
use anyhow::Result;
use base64::Engine;
use svg::Document;
use svg::node::element::{Image, Line, Polyline, Rectangle, Text, Title};

const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";

pub fn render(picture: &Picture) -> Result<String> {
    let (left, top, width, height) = picture.area;
    let mut document = Document::new()
        .set("viewBox", (0, 0, picture.width, picture.height))
        .set("width", picture.width)
        .set("height", picture.height)
        .set("font-family", FONT)
        .add(Title::new(picture.title.as_str()))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        )
        .add(
            Image::new()
                .set("x", left)
                .set("y", top)
                .set("width", width)
                .set("height", height)
                .set("preserveAspectRatio", "none")
                .set("style", "image-rendering: pixelated")
                .set("href", heat_map(picture)?),
        )
        .add(
            Rectangle::new()
                .set("x", left)
                .set("y", top)
                .set("width", width)
                .set("height", height)
                .set("fill", "none")
                .set("stroke", hex(FRAME)),
        );
    let points: Vec<String> = picture
        .path
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    document = document.add(
        Polyline::new()
            .set("points", points.join(" "))
            .set("fill", "none")
            .set("stroke", hex(PATH))
            .set("stroke-width", picture.path_width)
            .set("stroke-linejoin", "round"),
    );
    for line in &picture.lines {
        document = document.add(
            Line::new()
                .set("x1", line.from.0)
                .set("y1", line.from.1)
                .set("x2", line.to.0)
                .set("y2", line.to.1)
                .set("stroke", hex(INK))
                .set("stroke-width", line.width),
        );
    }
    for text in &picture.texts {
        let anchor = match text.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        document = document.add(
            Text::new(text.content.as_str())
                .set("x", format!("{:.1}", text.at.0))
                .set("y", format!("{:.1}", text.at.1))
                .set("font-size", format!("{:.1}", text.size))
                .set("text-anchor", anchor)
                .set("fill", hex(INK)),
        );
    }
    Ok(document.to_string())
}

/// A PNG, one pixel a cell, in a data URI.
fn heat_map(picture: &Picture) -> Result<String> {
    let map = &picture.heat_map;
    let size = (map.frames as u32, map.states as u32);
    let data = raster::encode(&map.pixels, size, png::ColorType::Rgb)?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(data);
    Ok(format!("data:image/png;base64,{encoded}"))
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}
