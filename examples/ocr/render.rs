//! Draws one line of text as a greyscale image, in a random typeface and style.
//!
//! The fonts are vector fonts embedded in the `dejavu` and `notosans` crates, so nothing has to
//! be installed or downloaded.

use ab_glyph::{Font, FontRef, Outline, OutlineCurve, OutlinedGlyph, PxScale, Rect, ScaleFont};
use ab_glyph::{Point, point};
use anyhow::{Context, Result};
use image::{GrayImage, Luma};
use rand::Rng;
use rand_distr::{Distribution, Normal};

/// Every line image has this height in pixels; the width follows from the text.
pub const HEIGHT: u32 = 32;

/// The typefaces to draw with.
pub struct Fonts(Vec<FontRef<'static>>);

impl Fonts {
    /// Loads the embedded faces: sans, serif and monospaced, upright, bold and italic.
    pub fn embedded() -> Result<Self> {
        let files: [&'static [u8]; 12] = [
            dejavu::sans::regular(),
            dejavu::sans::bold(),
            dejavu::sans::oblique(),
            dejavu::sans_condensed::regular(),
            dejavu::sans_mono::regular(),
            dejavu::serif::regular(),
            dejavu::serif::bold(),
            dejavu::serif::italic(),
            dejavu::serif_condensed::regular(),
            notosans::REGULAR_TTF,
            notosans::BOLD_TTF,
            notosans::ITALIC_TTF,
        ];
        let fonts = files
            .into_iter()
            .map(|bytes| FontRef::try_from_slice(bytes).context("an embedded font does not parse"))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self(fonts))
    }
}

/// Everything that varies from one line image to the next, except the text.
pub struct Style<'a> {
    font: &'a FontRef<'static>,
    /// Height of the face (ascender to descender) in pixels.
    size: f32,
    /// Horizontal stretch; 1 leaves the face as designed.
    stretch: f32,
    /// Horizontal shift per unit of height; positive leans to the right.
    slant: f32,
    /// Extra space after every character, in pixels.
    tracking: f32,
    /// Empty space left and right of the text, in pixels.
    margin: f32,
    /// Vertical position of the text within the free space, from 0 (top) to 1 (bottom).
    vertical: f32,
    /// Grey levels of the background and of the text, from 0 (black) to 255 (white).
    paper: f32,
    ink: f32,
    /// Standard deviation of the Gaussian blur, in pixels; 0 is sharp.
    blur: f32,
    /// Standard deviation of the noise added to every pixel, in grey levels.
    noise: f32,
}

impl<'a> Style<'a> {
    /// Draws a style at random.
    pub fn random(fonts: &'a Fonts, rng: &mut impl Rng) -> Self {
        Self {
            font: &fonts.0[rng.random_range(0..fonts.0.len())],
            size: rng.random_range(20.0..26.0),
            stretch: rng.random_range(0.9..1.1),
            slant: rng.random_range(-0.1..0.2),
            tracking: rng.random_range(0.0..1.5),
            margin: rng.random_range(3.0..8.0),
            vertical: rng.random_range(0.1..0.9),
            paper: rng.random_range(190.0..255.0),
            ink: rng.random_range(0.0..90.0),
            blur: rng.random_range(0.0..0.9),
            noise: rng.random_range(0.0..12.0),
        }
    }
}

/// Draws `text` in the given style. The random generator supplies the pixel noise.
pub fn render(text: &str, style: &Style, rng: &mut impl Rng) -> Result<GrayImage> {
    let scale = PxScale {
        x: style.size * style.stretch,
        y: style.size,
    };
    let font = style.font.as_scaled(scale);

    // Lay the glyphs out along the baseline.
    let baseline = font.ascent() + style.vertical * (HEIGHT as f32 - font.height()).max(0.0);
    let mut x = style.margin;
    let mut previous = None;
    let mut glyphs = Vec::new();
    for c in text.chars() {
        let id = font.glyph_id(c);
        if let Some(previous) = previous {
            x += font.kern(previous, id);
        }
        if let Some(outline) = style.font.outline(id) {
            let glyph = id.with_scale_and_position(scale, point(x, baseline));
            let outline = lean(outline, style.slant);
            glyphs.push(OutlinedGlyph::new(glyph, outline, font.scale_factor()));
        }
        x += font.h_advance(id) + style.tracking;
        previous = Some(id);
    }

    // Draw the glyphs: each pixel goes from paper to ink by how much of it is covered.
    let width = (x + style.margin).ceil().max(1.0) as u32;
    let mut coverage = vec![0f32; (width * HEIGHT) as usize];
    for glyph in &glyphs {
        let origin = glyph.px_bounds().min;
        glyph.draw(|dx, dy, amount| {
            let (px, py) = (
                origin.x as i64 + i64::from(dx),
                origin.y as i64 + i64::from(dy),
            );
            if (0..i64::from(width)).contains(&px) && (0..i64::from(HEIGHT)).contains(&py) {
                coverage[py as usize * width as usize + px as usize] += amount;
            }
        });
    }
    let grey = |c: f32| style.paper + (style.ink - style.paper) * c.min(1.0);
    let mut image = GrayImage::from_fn(width, HEIGHT, |px, py| {
        Luma([grey(coverage[(py * width + px) as usize]) as u8])
    });

    // Spoil it a little.
    if style.blur > 0.3 {
        image = image::imageops::blur(&image, style.blur);
    }
    let noise = Normal::new(0.0, style.noise).context("the noise level is not usable")?;
    for pixel in image.iter_mut() {
        *pixel = (f32::from(*pixel) + noise.sample(rng)).clamp(0.0, 255.0) as u8;
    }
    Ok(image)
}

/// Slants a glyph by shearing its outline about the baseline.
fn lean(outline: Outline, slant: f32) -> Outline {
    let shear = |p: Point| point(p.x + slant * p.y, p.y);
    let curves = outline
        .curves
        .into_iter()
        .map(|curve| match curve {
            OutlineCurve::Line(a, b) => OutlineCurve::Line(shear(a), shear(b)),
            OutlineCurve::Quad(a, b, c) => OutlineCurve::Quad(shear(a), shear(b), shear(c)),
            OutlineCurve::Cubic(a, b, c, d) => {
                OutlineCurve::Cubic(shear(a), shear(b), shear(c), shear(d))
            }
        })
        .collect();
    let Rect { min, max } = outline.bounds;
    let (a, b) = (slant * min.y, slant * max.y);
    let bounds = Rect {
        min: point(min.x + a.min(b), min.y),
        max: point(max.x + a.max(b), max.y),
    };
    Outline { bounds, curves }
}
