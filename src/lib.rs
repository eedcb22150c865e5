//! Connectionist Temporal Classification (CTC) for [candle](https://docs.rs/candle-core): the loss for training speech,
//! handwriting, OCR and basecalling models, and functions that score, align and decode their output.
//!
//! # Training
//!
//! [`ctc_loss_with_logits`] takes the output of a model's last linear layer. [`ctc_loss`] takes log-probabilities, like
//! PyTorch's `CTCLoss`. [`CtcLoss`] stores the options of either. [`transcript_log_likelihoods`] is for training on
//! n-best lists.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_ctc::{CtcLossOptions, InputLayout, ctc_loss_with_logits};
//! use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap};
//!
//! # fn main() -> candle_core::Result<()> {
//! let device = Device::Cpu;
//! let weights = VarMap::new();
//! let model: Linear = candle_nn::linear(8, 5, VarBuilder::from_varmap(&weights, DType::F32, &device))?;
//! let mut optimizer = AdamW::new(weights.all_vars(), ParamsAdamW { lr: 0.05, ..Default::default() })?;
//!
//! let features = Tensor::randn(0f32, 1., (2, 12, 8), &device)?; // (N, T, features)
//! let targets = Tensor::new(&[[1u32, 2, 3], [4, 4, 0]], &device)?; // (N, S); row 1 is padded
//! let opts = CtcLossOptions { layout: InputLayout::BatchMajor, ..Default::default() };
//! for _ in 0..3 {
//!     let logits = model.forward(&features)?; // (N, T, C)
//!     let loss = ctc_loss_with_logits(&logits, &targets, [12, 10], [3, 2], opts)?;
//!     optimizer.backward_step(&loss)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Things to know:
//!
//! - Class 0 is the blank unless [`CtcLossOptions::blank`] says otherwise. Targets hold labels only; padding is not
//!   read and may hold anything, even the blank.
//! - Input lengths count frames of the model's output, after its strides, not pixels or samples of its input.
//! - For evaluation, `detach()` the input: nothing is kept for a gradient, which saves two thirds of the work or more.
//! - A target that is too long for its frames has a loss of +inf; see [`feasibility`](fn@feasibility) and
//!   [`CtcLossOptions::zero_infinity`].
//!
//! # Inference
//!
//! A function of one utterance takes slices; its form for a batch ends in `_batch` and takes tensors and lengths. These
//! functions take log-probabilities, or logits with [`InputKind::Logits`] in their options. Passing logits or
//! probabilities as log-probabilities is usually an error, see [`InputKind::LogProbs`]. One utterance is `(T, C)`, or
//! has a batch dimension of 1; it may have no frames.
//!
//! - [`score_transcripts`] and [`rank_transcripts`] score candidate transcripts of one utterance.
//! - [`token_confidence`] returns the confidence in each token, and its expected position; [`word_confidence`] that in
//!   each word.
//! - [`frame_confidence`] and [`span_confidence`] tell from the distributions alone how sure the model is.
//! - [`forced_align`] and [`forced_align_batch`] return the best path of a known transcript, its token spans and their
//!   times.
//! - [`greedy_decode`] and [`beam_search`] find a transcript; [`BeamSearch`] takes frames incrementally, and
//!   [`LanguageModel`] is its hook for a language model or a lexicon.
//! - [`NgramLm`] reads an n-gram model from an ARPA file. In a beam search it stands in a [`Lexicon`] of words, or in a
//!   [`TokenNgram`] of tokens; [`Hotwords`] on top of any of these prefer words and phrases.
//! - [`spot_keywords`] and [`spot_keywords_batch`] find given phrases without a transcript: where each is, and how sure
//!   that is.
//! - [`minimum_bayes_risk`] chooses from an n-best list the transcript with the fewest expected errors.
//! - [`PrefixScorer`] computes the prefix probabilities for joint attention/CTC decoding.
//!
//! # Text
//!
//! The module [`text`] goes from what people read to labels and back: [`text::Vocabulary`] reads the vocabulary of a
//! model, encodes transcripts and decodes labels; words with times become JSON, subtitles, TextGrid or CTM; texts are
//! compared by word and character error rate.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candle_ctc::text::{SubtitleOptions, Vocabulary, to_srt, word_error_rate};
//! use candle_ctc::{BeamOptions, ConfidenceOptions, beam_search, token_confidence};
//!
//! # fn main() -> candle_core::Result<()> {
//! let vocabulary = Vocabulary::from_tokens(["<blk>", "▁hi", "▁there"])?; // or from_path("tokens.txt")
//! let probs = [[0.1f32, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]];
//! let log_probs = Tensor::new(&probs, &Device::Cpu)?.log()?; // (T, C)
//!
//! let blank = vocabulary.blank();
//! let best = beam_search(&log_probs, BeamOptions { blank, ..Default::default() })?.remove(0);
//! assert_eq!(vocabulary.decode(&best.tokens), "hi there");
//!
//! let opts = ConfidenceOptions { blank, ..Default::default() };
//! let tokens = token_confidence(&log_probs, &best.tokens, opts)?;
//! assert!(tokens[0].posterior > 0.5);
//!
//! let words = vocabulary.words(&best.spans); // or the spans of forced_align, for a known transcript
//! assert_eq!(words[1].seconds(0.5), (1.0, 2.0)); // 0.5 seconds from one frame to the next
//! let srt = to_srt(&words, 0.5, SubtitleOptions::default())?;
//! assert_eq!(srt, "1\n00:00:00,000 --> 00:00:02,000\nhi there\n\n");
//! assert_eq!(word_error_rate("hi there", "high there").rate(), 0.5);
//! # Ok(())
//! # }
//! ```
//!
//! A model of HuggingFace's `Wav2Vec2ForCTC` from logits to words with times and confidence, and an hour or a sentence
//! that people wrote:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candle_ctc::text::{Unspellable, Vocabulary};
//! use candle_ctc::{AlignOptions, BeamOptions, ConfidenceOptions, InputKind, ScoreOptions};
//! use candle_ctc::{beam_search, forced_align, score_transcripts, token_confidence};
//!
//! # fn main() -> candle_core::Result<()> {
//! # let file = std::env::temp_dir().join("candle-ctc-doc-vocab.json");
//! # let tokens = ["<pad>", "<s>", "</s>", "<unk>", "|"].into_iter().map(String::from);
//! # let tokens = tokens.chain("ETAONIHSRDLUMWCFGYPBVK'XJQZ".chars().map(String::from));
//! # let entries: Vec<String> = tokens.enumerate().map(|(i, token)| format!("{token:?}: {i}")).collect();
//! # std::fs::write(&file, format!("{{{}}}", entries.join(", ")))?;
//! # let mut logits = vec![0f32; 12 * 32];
//! # for (t, class) in [11, 0, 5, 0, 15, 15, 0, 15, 8, 0, 0, 0].into_iter().enumerate() { logits[32 * t + class] = 9.; }
//! # let logits = Tensor::from_vec(logits, (1, 12, 32), &Device::Cpu)?;
//! let vocabulary = Vocabulary::from_path(file)?; // the model's vocab.json
//! let (blank, input) = (vocabulary.blank(), InputKind::Logits);
//! let special = vocabulary.special_classes(); // <s>, </s> and <unk>
//! let opts = BeamOptions { blank, input, suppress: &special, ..Default::default() };
//! let best = beam_search(&logits, opts)?.remove(0); // logits: (1, T, 32)
//! let tokens = token_confidence(&logits, &best.tokens, ConfidenceOptions { blank, input, ..Default::default() })?;
//! for word in vocabulary.words(&best.spans) {
//!     println!("{} {:?} {:.2}", word.text, word.seconds(0.02), word.confidence(&tokens)?.least);
//! #   assert_eq!((word.text.as_str(), word.start, word.end), ("HELLO", 0, 9));
//! #   assert!(word.confidence(&tokens)?.least > 0.9);
//! }
//!
//! // A sentence with capitals and punctuation, which the vocabulary lacks, and the times of its words.
//! let spelled = vocabulary.encode_lossy("Hello!", Unspellable::Skip)?;
//! let score = score_transcripts(&logits, &[&spelled.labels], ScoreOptions { blank, input, ..Default::default() })?[0];
//! let aligned = forced_align(&logits, &spelled.labels, AlignOptions { blank, input, ..Default::default() })?;
//! let words = vocabulary.words(&aligned.spans);
//! # assert!(score > -1.0 && words[0].text == "HELLO", "{score}");
//! # Ok(())
//! # }
//! ```
//!
//! # Exactness
//!
//! Nothing underflows at any length, and the recursion takes no logarithms. The lattice is computed in f64 on the CPU,
//! for input of every dtype, and on a GPU in f32 mantissas with an exponent each (f64 for f64). Results are
//! bit-identical in every run, for any number of threads, on AVX2, AVX-512 and NEON, for any view of the input, and
//! whatever else is in the batch. (Candidates that [`score_transcripts`] scores together share their emissions: a score
//! may differ from that of the candidate alone, for f32 and half-precision input by up to 8.2e-8 nats a frame where
//! all frames are alike: 1.64e-3 at T = 20000.)
//!
//! An entry more than 1.49e9 nats below the largest entry that the target uses in its frame counts as −inf. Likewise a
//! target's log-probability counts as −inf when it is more than 3.9e14 nats below the sum over frames of those largest
//! entries.
//!
//! # Devices
//!
//! The CPU, and for the loss and its gradient CUDA and Metal, with the features `cuda` and `metal`. The CUDA kernels of
//! 26 November 2026 were verified on an NVIDIA H200. Later changes were verified only by running the kernels on the
//! CPU: rows of any stride in the gradient, weights, the star, the linear layer, n-best lists, scores and alignments.
//! So was all of Metal, which has not run on a Mac yet. `docs/gpu.md` in the repository describes the verification.
//!
//! Lengths and targets may be on the host or on the device; see [`Checks`]. Scores and alignments are computed on the
//! device of the tensor (alignments on CUDA); [`greedy_decode`] finds the best classes there, and the confidences copy
//! the classes that targets use to the host. The other decoders run on the CPU.

mod align;
mod batch;
mod confidence;
mod cpu;
mod cpu_input;
mod decode;
mod distribution;
mod feasibility;
mod frame_confidence;
// Always compiled, so that its tests always run; used only with a GPU.
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    allow(dead_code, unused_imports, unused_variables)
)]
mod gpu;
mod label_prior;
mod likelihoods;
mod linear;
mod loss;
mod memory;
mod memory_needed;
mod op;
mod options;
mod precomputed;
mod problem;
mod reduce;
mod score;
mod spans;
mod star;
pub mod text;
mod unchanged;

pub use align::{AlignOptions, Alignment, forced_align, forced_align_batch};
pub use batch::{conv_lengths, pad_targets};
pub use confidence::{
    ConfidenceOptions, TokenConfidence, WordConfidence, state_posteriors, state_posteriors_batch,
    token_confidence, token_confidence_batch, word_confidence,
};
#[doc(hidden)]
pub use cpu::Isa;
pub use decode::{
    BeamOptions, BeamSearch, End, GreedyOptions, HotwordState, Hotwords, Hypothesis, KeywordHit,
    LanguageModel, Lexicon, LexiconOptions, LexiconState, NgramLm, NgramState, NoLanguageModel,
    PrefixScorer, PrefixScorerOptions, PrefixScores, PrefixState, SpotOptions, TokenNgram,
    WordModel, beam_search, beam_search_batch, beam_search_batch_with, beam_search_with,
    greedy_decode, greedy_decode_batch, minimum_bayes_risk, spot_keywords, spot_keywords_batch,
};
pub use feasibility::{Feasibility, feasibility};
pub use frame_confidence::{
    Aggregation, ConfidenceMeasure, fastq_qualities, frame_confidence, frame_confidence_batch,
    phred_quality, span_confidence,
};
pub use label_prior::LabelPrior;
pub use likelihoods::transcript_log_likelihoods;
pub use linear::ctc_loss_linear;
pub use loss::{
    CtcLoss, ctc_loss, ctc_loss_and_gradient, ctc_loss_and_gradient_with_logits,
    ctc_loss_with_logits,
};
pub use memory_needed::{MemoryNeeded, memory_needed};
pub use options::{
    Checks, CtcLossOptions, EmissionOptions, GradientKind, InputKind, InputLayout, Reduction,
    Wildcard,
};
pub use problem::lengths::{IntoLengths, Lengths};
pub use score::{
    ScoreOptions, TranscriptScore, rank_transcripts, rank_transcripts_batch, score_transcripts,
    score_transcripts_batch,
};
pub use spans::{Gaps, TokenSpan, WordSpan, fill_gaps, group_words};
pub use star::append_star;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../DESIGN.md")]
struct Design;

#[cfg(doctest)]
#[doc = include_str!("../docs/recipes.md")]
struct Recipes;

#[cfg(doctest)]
#[doc = include_str!("../docs/speech.md")]
struct Speech;
