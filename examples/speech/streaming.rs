//! A stream: the model and the search take the sound in chunks, and the text grows.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_ctc::text::Vocabulary;
use candle_ctc::{BeamOptions, BeamSearch, Hypothesis};
use candle_nn::ops::log_softmax;

use crate::corpus::Features;
use crate::features::BANDS;
use crate::model::{CONTEXT, Model, STRIDE};

/// Frames of the output in a chunk.
pub const CHUNK: usize = 20;

/// The options of the search. Text is certain when all of the beam agrees on it, so a beam that drops what is
/// unlikely, here e^4 times less likely than the best, is certain sooner.
pub fn options() -> BeamOptions<'static> {
    BeamOptions {
        beam_threshold: 4.0,
        ..Default::default()
    }
}

/// What was known after a chunk.
pub struct Step {
    /// Frames of the output so far.
    pub frames: usize,
    /// Text that can no longer change, and the rest of the best text so far.
    pub stable: String,
    pub open: String,
}

/// What came of a stream.
pub struct Streamed {
    pub steps: Vec<Step>,
    pub best: Hypothesis,
    /// The log-probabilities of all chunks, `(T, C)`.
    pub log_probs: Tensor,
}

/// Decodes features that arrive in chunks. The model is run on each chunk with [`CONTEXT`] frames on either side, so
/// the text lags behind the sound by that much.
pub fn stream(model: &Model, features: &[f32], vocabulary: &Vocabulary) -> Result<Streamed> {
    let frames = Model::output_frames(&[features.len() / BANDS])?[0];
    let mut search = BeamSearch::new(vocabulary.class_count(), options())?;
    let (mut steps, mut emissions) = (Vec::new(), Vec::new());
    for start in (0..frames).step_by(CHUNK) {
        let end = (start + CHUNK).min(frames);
        let first = start.saturating_sub(CONTEXT);
        let behind = STRIDE * BANDS * (end + CONTEXT);
        let window = &features[STRIDE * BANDS * first..behind.min(features.len())];
        let logits = model.forward(&Features::new(&[window])?)?.logits.detach();
        let logits = logits.narrow(1, start - first, end - start)?.squeeze(0)?;
        let log_probs = log_softmax(&logits, D::Minus1)?;
        search.push(&log_probs)?;

        let best = &search.hypotheses()?[0];
        let (stable, _) = best.tokens.split_at(search.stable_tokens());
        let (stable, text) = (vocabulary.decode(stable), vocabulary.decode(&best.tokens));
        steps.push(Step {
            frames: end,
            open: text[stable.len()..].to_owned(),
            stable,
        });
        emissions.push(log_probs);
    }
    Ok(Streamed {
        steps,
        best: search.finish()?.remove(0),
        log_probs: Tensor::cat(&emissions, 0)?,
    })
}
