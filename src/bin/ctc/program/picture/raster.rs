//! The picture as PNG.

use super::{Anchor, Colour, FRAME, INK, PATH, Picture, Text};
use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use anyhow::{Context, Result};
use tiny_skia::{
    FilterQuality, LineJoin, Paint, PathBuilder, Pixmap, PixmapPaint, PremultipliedColorU8, Rect,
    Stroke, Transform,
};

/// Pixels per unit, so that text is sharp; one in a picture of more units than `SHARP`.
const SCALE: f64 = 2.0;
const SHARP: f64 = 8e6;

pub fn render(picture: &Picture) -> Result<Vec<u8>> {
    let scale = match picture.width * picture.height {
        units if units > SHARP => 1.0,
        _ => SCALE,
    };
    let (width, height) = (picture.width * scale, picture.height * scale);
    let mut canvas = Pixmap::new(width as u32, height as u32)
        .with_context(|| format!("a PNG of {width} x {height} pixels is too large"))?;
    canvas.fill(tiny_skia::Color::WHITE);
    let transform = Transform::from_scale(scale as f32, scale as f32);
    draw_heat_map(&mut canvas, picture, transform)?;

    let (left, top, width, height) = picture.area;
    let frame = Rect::from_xywh(left as f32, top as f32, width as f32, height as f32);
    let frame = PathBuilder::from_rect(frame.context("the picture has no size")?);
    let mut stroke = |path: &tiny_skia::Path, colour: Colour, width: f64| {
        let stroke = Stroke {
            width: width as f32,
            line_join: LineJoin::Round,
            ..Default::default()
        };
        canvas.stroke_path(path, &paint(colour), &stroke, transform, None);
    };
    stroke(&frame, FRAME, 1.0);
    // A path of one frame has no length.
    if let Some(path) = polyline(&picture.path) {
        stroke(&path, PATH, picture.path_width);
    }
    for line in &picture.lines {
        if let Some(path) = polyline(&[line.from, line.to]) {
            stroke(&path, INK, line.width);
        }
    }
    let font = FontRef::try_from_slice(dejavu::sans::regular()).context("cannot read the font")?;
    for text in &picture.texts {
        draw_text(&mut canvas, &font, text, scale as f32);
    }
    let size = (canvas.width(), canvas.height());
    encode(canvas.data(), size, png::ColorType::Rgba)
}

/// Pixels of 8 bits a channel as PNG.
pub fn encode(
    pixels: &[u8],
    (width, height): (u32, u32),
    colours: png::ColorType,
) -> Result<Vec<u8>> {
    let write = || -> Result<Vec<u8>, png::EncodingError> {
        let mut data = Vec::new();
        let mut encoder = png::Encoder::new(&mut data, width, height);
        encoder.set_color(colours);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(pixels)?;
        writer.finish()?;
        Ok(data)
    };
    write().context("cannot encode the picture")
}

fn draw_heat_map(canvas: &mut Pixmap, picture: &Picture, transform: Transform) -> Result<()> {
    let map = &picture.heat_map;
    let mut cells = Pixmap::new(map.frames as u32, map.states as u32)
        .context("the lattice is too large for a picture")?;
    for (cell, colour) in cells
        .pixels_mut()
        .iter_mut()
        .zip(map.pixels.chunks_exact(3))
    {
        *cell = tiny_skia::ColorU8::from_rgba(colour[0], colour[1], colour[2], 255).premultiply();
    }
    let (left, top, width, height) = picture.area;
    let cell = (width / map.frames as f64, height / map.states as f64);
    let place = Transform::from_row(
        cell.0 as f32,
        0.0,
        0.0,
        cell.1 as f32,
        left as f32,
        top as f32,
    );
    let paint = PixmapPaint {
        quality: FilterQuality::Nearest,
        ..Default::default()
    };
    canvas.draw_pixmap(
        0,
        0,
        cells.as_ref(),
        &paint,
        place.post_concat(transform),
        None,
    );
    Ok(())
}

fn paint([red, green, blue]: Colour) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, 255);
    paint
}

fn polyline(points: &[(f64, f64)]) -> Option<tiny_skia::Path> {
    let mut path = PathBuilder::new();
    for (index, &(x, y)) in points.iter().enumerate() {
        match index {
            0 => path.move_to(x as f32, y as f32),
            _ => path.line_to(x as f32, y as f32),
        }
    }
    path.finish()
}

fn draw_text(canvas: &mut Pixmap, font: &FontRef, text: &Text, scale: f32) {
    // A size is that of an em; ab_glyph's is the height of the font.
    let em = font.units_per_em().unwrap_or(1000.0);
    let size = PxScale::from(text.size as f32 * scale * font.height_unscaled() / em);
    let scaled = font.as_scaled(size);
    let glyphs: Vec<_> = text.content.chars().map(|c| font.glyph_id(c)).collect();
    let advance = |index: usize| {
        let kern = match index {
            0 => 0.0,
            _ => scaled.kern(glyphs[index - 1], glyphs[index]),
        };
        (kern, scaled.h_advance(glyphs[index]))
    };
    let width: f32 = (0..glyphs.len())
        .map(|index| advance(index).0 + advance(index).1)
        .sum();
    let mut x = text.at.0 as f32 * scale
        - match text.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
    let y = text.at.1 as f32 * scale;
    for (index, glyph) in glyphs.iter().enumerate() {
        let (kern, width) = advance(index);
        x += kern;
        let placed = glyph.with_scale_and_position(size, ab_glyph::point(x, y));
        x += width;
        if let Some(outline) = font.outline_glyph(placed) {
            let origin = outline.px_bounds().min;
            outline.draw(|dx, dy, coverage| {
                blend(
                    canvas,
                    origin.x as i64 + i64::from(dx),
                    origin.y as i64 + i64::from(dy),
                    coverage,
                );
            });
        }
    }
}

/// Mixes ink into a pixel, if it is one of the picture.
fn blend(canvas: &mut Pixmap, x: i64, y: i64, coverage: f32) {
    let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
    if !(0..width).contains(&x) || !(0..height).contains(&y) {
        return;
    }
    let pixel = &mut canvas.pixels_mut()[(y * width + x) as usize];
    let coverage = coverage.clamp(0.0, 1.0);
    let mix = |under: u8, ink: u8| {
        (f32::from(under) + (f32::from(ink) - f32::from(under)) * coverage) as u8
    };
    let (red, green, blue) = (
        mix(pixel.red(), INK[0]),
        mix(pixel.green(), INK[1]),
        mix(pixel.blue(), INK[2]),
    );
    // The canvas is opaque.
    if let Some(mixed) = PremultipliedColorU8::from_rgba(red, green, blue, 255) {
        *pixel = mixed;
    }
}
