//! The hook for a language model or a lexicon in a beam search.

use candle_core::{Result, bail};
use std::sync::Arc;

/// A language model or a lexicon: it scores each token that extends a prefix.
///
/// The crate has [`TokenNgram`](crate::TokenNgram), [`Lexicon`](crate::Lexicon) and [`Hotwords`](crate::Hotwords),
/// which goes on top of any model; others are written as below.
///
/// The search calls [`score`](Self::score) for the tokens that may enter the beam, and once a frame
/// [`advance_all`](Self::advance_all) for the prefixes that did, which calls [`advance`](Self::advance) for each. The
/// weight of a prefix is the sum of its tokens' scores, so it does not depend on the
/// alignment.
///
/// * A language model returns `ln P(token | history)`.
/// * A lexicon returns 0 for a token that continues an entry and −inf for any other: a labelling with a score of −inf
///   never enters the beam.
/// * A model that scores all tokens at once does so in `start` and `advance`, and keeps the row in its state. A neural
///   model does so in `advance_all`, which gives it the whole beam as one batch; words in a
///   [`Lexicon`](crate::Lexicon) are scored one by one.
///
/// A model that is chosen at run time is a `Box<dyn LanguageModel<State = …>>`, for a batch `+ Sync`; one that several
/// streams share is an `Arc`, for a batch `+ Send + Sync`.
///
/// ```
/// use candle_core::Result;
/// use candle_ctc::LanguageModel;
///
/// /// `ln P(token | previous token)`; class 0 stands for the edges of the text.
/// struct Bigram(Vec<Vec<f64>>);
///
/// impl LanguageModel for Bigram {
///     type State = u32;
///
///     fn start(&self) -> Result<u32> {
///         Ok(0)
///     }
///
///     fn score(&self, &previous: &u32, token: u32) -> Result<f64> {
///         Ok(self.0[previous as usize][token as usize])
///     }
///
///     fn advance(&self, _previous: &u32, token: u32) -> Result<u32> {
///         Ok(token)
///     }
///
///     fn end(&self, &last: &u32) -> Result<f64> {
///         Ok(self.0[last as usize][0])
///     }
/// }
/// ```
pub trait LanguageModel {
    /// The model's state for a prefix.
    type State;

    /// The state of the empty prefix.
    ///
    /// # Errors
    /// Any error ends the search with that error, here and in the other functions.
    fn start(&self) -> Result<Self::State>;

    /// The score of `token` after the prefix of `state`, in nats; −inf forbids it. NaN and +inf are errors. It may be
    /// called many times with the same arguments.
    fn score(&self, state: &Self::State, token: u32) -> Result<f64>;

    /// The state after `token`.
    fn advance(&self, state: &Self::State, token: u32) -> Result<Self::State>;

    /// The states after these tokens, each of which follows the prefix of its state. The search calls it at most once a
    /// frame, for all new prefixes of the beam, and for those that come back to it after their states were dropped.
    /// Default: [`advance`](Self::advance) for each. A neural model overrides it to run its network once:
    ///
    /// ```
    /// use candle_core::{Device, Result, Tensor};
    /// use candle_ctc::{BeamOptions, LanguageModel, beam_search_with};
    /// use candle_nn::rnn::{GRU, GRUConfig, GRUState, RNN, gru};
    /// use candle_nn::{Embedding, Linear, Module, VarBuilder, VarMap, embedding, linear};
    ///
    /// const HIDDEN: usize = 16;
    ///
    /// /// A recurrent model of tokens.
    /// struct Recurrent {
    ///     embedding: Embedding,
    ///     cell: GRU,
    ///     head: Linear,
    /// }
    ///
    /// struct State {
    ///     /// `(HIDDEN)`.
    ///     hidden: Tensor,
    ///     /// The log-probability of each token.
    ///     next: Vec<f32>,
    /// }
    ///
    /// impl Recurrent {
    ///     /// A batch of steps: `(B, HIDDEN)` and `B` tokens.
    ///     fn step(&self, hidden: Tensor, tokens: Vec<u32>) -> Result<Vec<State>> {
    ///         let tokens = Tensor::new(tokens, hidden.device())?;
    ///         let hidden = self.cell.step(&self.embedding.forward(&tokens)?, &GRUState { h: hidden })?.h;
    ///         let next = candle_nn::ops::log_softmax(&self.head.forward(&hidden)?, 1)?.to_vec2()?;
    ///         let states = next.into_iter().enumerate();
    ///         states.map(|(item, next)| Ok(State { hidden: hidden.get(item)?, next })).collect()
    ///     }
    /// }
    ///
    /// impl LanguageModel for Recurrent {
    ///     type State = State;
    ///
    ///     /// Class 0, the blank, stands for the beginning of the text.
    ///     fn start(&self) -> Result<State> {
    ///         let hidden = Tensor::zeros((1, HIDDEN), candle_core::DType::F32, &Device::Cpu)?;
    ///         Ok(self.step(hidden, vec![0])?.remove(0))
    ///     }
    ///
    ///     fn score(&self, state: &State, token: u32) -> Result<f64> {
    ///         Ok(f64::from(state.next[token as usize]))
    ///     }
    ///
    ///     fn advance(&self, state: &State, token: u32) -> Result<State> {
    ///         Ok(self.advance_all(&[(state, token)])?.remove(0))
    ///     }
    ///
    ///     fn advance_all(&self, prefixes: &[(&State, u32)]) -> Result<Vec<State>> {
    ///         let hidden: Vec<&Tensor> = prefixes.iter().map(|(state, _)| &state.hidden).collect();
    ///         self.step(Tensor::stack(&hidden, 0)?, prefixes.iter().map(|(_, token)| *token).collect())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let (classes, weights) = (6, VarMap::new());
    /// let vb = VarBuilder::from_varmap(&weights, candle_core::DType::F32, &Device::Cpu);
    /// let model = Recurrent {
    ///     embedding: embedding(classes, 8, vb.pp("embedding"))?,
    ///     cell: gru(8, HIDDEN, GRUConfig::default(), vb.pp("cell"))?,
    ///     head: linear(HIDDEN, classes, vb.pp("head"))?,
    /// };
    /// let logits = Tensor::randn(0f32, 3., (40, classes), &Device::Cpu)?;
    /// let log_probs = candle_nn::ops::log_softmax(&logits, 1)?;
    /// let best = beam_search_with(&log_probs, &model, BeamOptions { lm_weight: 0.5, ..Default::default() })?;
    /// assert!(best[0].lm_score <= 0.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any error ends the search, and so does a number of states that is not that of the prefixes.
    fn advance_all(&self, prefixes: &[(&Self::State, u32)]) -> Result<Vec<Self::State>> {
        let states = prefixes.iter();
        states
            .map(|(state, token)| self.advance(state, *token))
            .collect()
    }

    /// The score of the end of the text after the prefix of `state`, in nats. Default 0. A lexicon returns −inf in the
    /// middle of a word.
    fn end(&self, _state: &Self::State) -> Result<f64> {
        Ok(0.0)
    }

    /// An upper bound of [`score`](Self::score). The search uses it to skip tokens without scoring them. Default 0,
    /// which is right for log-probabilities; a model with positive scores must return its largest, or +inf. A score
    /// above it is an error.
    fn max_score(&self) -> f64 {
        0.0
    }

    /// An upper bound of [`score`](Self::score) in this state, which skips more tokens than a bound for all. A score
    /// above it is an error. Default [`max_score`](Self::max_score).
    fn max_score_in(&self, _state: &Self::State) -> f64 {
        self.max_score()
    }

    /// Lists the tokens that can follow a prefix: within a word of a lexicon, for example, only a few letters can.
    ///
    /// If at most `most` tokens can follow `state`, push all of them into `tokens`, which is empty, in any order and
    /// once each, and return true; no other token is then scored. Otherwise return false. A listed token may still
    /// score −inf. Default: false, so that any token may follow.
    fn next_tokens(&self, _state: &Self::State, _most: usize, _tokens: &mut Vec<u32>) -> bool {
        false
    }

    /// A key of the state, such as the number of an n-gram's history. Return equal keys only for states that score
    /// every continuation, including the end, identically. The search then drops one of two such prefixes with the same
    /// last token if the other scores at least as well (only with [`BeamOptions::n_best`](crate::BeamOptions::n_best)
    /// 1). Default `None`: no two states are known to be alike.
    fn state_key(&self, _state: &Self::State) -> Option<u128> {
        None
    }

    /// Whether every score is 0.
    #[doc(hidden)]
    fn is_constant(&self) -> bool {
        false
    }
}

macro_rules! through_a_pointer {
    ($($pointer:ty),*) => {$(
        impl<L: LanguageModel + ?Sized> LanguageModel for $pointer {
            type State = L::State;

            fn start(&self) -> Result<Self::State> {
                (**self).start()
            }

            fn score(&self, state: &Self::State, token: u32) -> Result<f64> {
                (**self).score(state, token)
            }

            fn advance(&self, state: &Self::State, token: u32) -> Result<Self::State> {
                (**self).advance(state, token)
            }

            fn advance_all(&self, prefixes: &[(&Self::State, u32)]) -> Result<Vec<Self::State>> {
                (**self).advance_all(prefixes)
            }

            fn end(&self, state: &Self::State) -> Result<f64> {
                (**self).end(state)
            }

            fn max_score(&self) -> f64 {
                (**self).max_score()
            }

            fn max_score_in(&self, state: &Self::State) -> f64 {
                (**self).max_score_in(state)
            }

            fn next_tokens(&self, state: &Self::State, most: usize, tokens: &mut Vec<u32>) -> bool {
                (**self).next_tokens(state, most, tokens)
            }

            fn state_key(&self, state: &Self::State) -> Option<u128> {
                (**self).state_key(state)
            }

            fn is_constant(&self) -> bool {
                (**self).is_constant()
            }
        }
    )*};
}

through_a_pointer!(&L, Box<L>, Arc<L>);

/// Checks the weight of a language model. The weighted sum over the tokens of a text stays finite.
pub(super) fn check_weight(function: &str, name: &str, weight: f64) -> Result<()> {
    const MOST: f64 = 1e100;
    if !(0.0..=MOST).contains(&weight) {
        bail!("{function}: {name} = {weight}; it must be from 0 to {MOST:e}")
    }
    Ok(())
}

/// No language model: every labelling has a weight of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoLanguageModel;

impl LanguageModel for NoLanguageModel {
    type State = ();

    #[inline]
    fn start(&self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn score(&self, _state: &(), _token: u32) -> Result<f64> {
        Ok(0.0)
    }

    #[inline]
    fn advance(&self, _state: &(), _token: u32) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn state_key(&self, _state: &()) -> Option<u128> {
        Some(0)
    }

    #[inline]
    fn is_constant(&self) -> bool {
        true
    }
}
