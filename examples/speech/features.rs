//! Sound to features: the logarithm of the energy in 40 bands of the mel scale, every 10 ms.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use realfft::{RealFftPlanner, RealToComplex};

/// Bands of the mel scale: the features of a frame.
pub const BANDS: usize = 40;

/// The lowest and the highest frequency of the bands, in Hz.
const RANGE: (f64, f64) = (60.0, 8000.0);

/// Energies below this count as silence, so that their logarithm stays finite.
const SILENCE: f32 = 1e-6;

/// Computes log-mel features of sound with one sample rate.
pub struct LogMel {
    /// Samples from one frame to the next.
    pub hop: usize,
    sample_rate: usize,
    transform: Arc<dyn RealToComplex<f32>>,
    /// Hann's window.
    window: Vec<f32>,
    /// The first bin of each band, and the weights of its bins.
    bands: Vec<(usize, Vec<f32>)>,
}

impl LogMel {
    /// Windows of 25 ms, 10 ms apart, rounded to samples.
    pub fn new(sample_rate: usize) -> Result<Self> {
        ensure!(
            sample_rate as f64 >= 2.0 * RANGE.1,
            "{sample_rate} samples a second are too few for frequencies up to {} Hz",
            RANGE.1
        );
        let (length, hop) = (sample_rate / 40, sample_rate / 100);
        let transform =
            RealFftPlanner::new().plan_fft_forward((2 * length).next_power_of_two() / 2);
        let window = (0..length)
            .map(|i| (std::f64::consts::PI * (i as f64 + 0.5) / length as f64).sin())
            .map(|sine| (sine * sine) as f32)
            .collect();
        let bins_per_hertz = transform.len() as f64 / sample_rate as f64;
        Ok(Self {
            hop,
            sample_rate,
            window,
            bands: triangles(bins_per_hertz),
            transform,
        })
    }

    /// Seconds from one frame to the next.
    pub fn seconds(&self) -> f64 {
        self.hop as f64 / self.sample_rate as f64
    }

    /// The features `(frames, BANDS)`, frame after frame. There is a frame for each whole hop of the sound, and its
    /// window lies around the middle of that hop: frame `t` stands for the time from `t` to `t + 1` hops.
    pub fn features(&self, samples: &[f32]) -> Result<Vec<f32>> {
        let before = (self.window.len() - self.hop) / 2;
        let mut input = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut features = Vec::with_capacity(samples.len() / self.hop * BANDS);
        for frame in 0..samples.len() / self.hop {
            input.fill(0.0);
            for (i, (value, weight)) in input.iter_mut().zip(&self.window).enumerate() {
                // Silence before the first sample and behind the last.
                let sample = (frame * self.hop + i).checked_sub(before);
                *value = weight * sample.and_then(|at| samples.get(at)).unwrap_or(&0.0);
            }
            self.transform
                .process(&mut input, &mut spectrum)
                .context("the Fourier transform failed")?;
            for (first, weights) in &self.bands {
                let bins = spectrum[*first..].iter().zip(weights);
                let energy: f32 = bins.map(|(bin, weight)| weight * bin.norm_sqr()).sum();
                features.push(energy.max(SILENCE).ln());
            }
        }
        Ok(features)
    }
}

/// Triangles of equal width on the mel scale, each from the middle of the one before to that of the next.
fn triangles(bins_per_hertz: f64) -> Vec<(usize, Vec<f32>)> {
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let bin = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0) * bins_per_hertz;
    let (low, high) = (mel(RANGE.0), mel(RANGE.1));
    let edges: Vec<f64> = (0..BANDS + 2)
        .map(|i| bin(low + (high - low) * i as f64 / (BANDS + 1) as f64))
        .collect();
    let triangle = |edges: &[f64]| {
        let (left, middle, right) = (edges[0], edges[1], edges[2]);
        let (first, last) = (left.ceil() as usize, right.floor() as usize);
        let weight = |bin: usize| {
            let bin = bin as f64;
            let rise = (bin - left) / (middle - left);
            let fall = (right - bin) / (right - middle);
            rise.min(fall) as f32
        };
        (first, (first..=last).map(weight).collect())
    };
    edges.windows(3).map(triangle).collect()
}
