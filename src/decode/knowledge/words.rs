//! The hook for a model of words in a lexicon.

use crate::decode::language_model::NoLanguageModel;
use candle_core::Result;
use std::sync::Arc;

/// A language model of words, for a [`Lexicon`](crate::Lexicon): an [`NgramLm`](crate::NgramLm), a model of your own,
/// or [`NoLanguageModel`], which scores each word 0.
///
/// Words are numbers that the model chooses; `None` is a word that it does not know. A reference, a `Box` or an `Arc`
/// of a model is one, too.
pub trait WordModel {
    /// The model's state for the words so far. Readings of a prefix with equal states are one to the search.
    type State: Clone + PartialEq;

    /// The number of a word, if the model knows it: below `u32::MAX`, which a lexicon refuses.
    fn word_id(&self, word: &str) -> Option<u32>;

    /// The state at the beginning of a text.
    ///
    /// # Errors
    /// Any error ends the search with that error, here and in the other functions.
    fn start(&self) -> Result<Self::State>;

    /// The score of a word after the words of `state`, in nats; −inf forbids it.
    fn score(&self, state: &Self::State, word: Option<u32>) -> Result<f64>;

    /// The state after a word.
    fn advance(&self, state: &Self::State, word: Option<u32>) -> Result<Self::State>;

    /// The score of the end of the text, in nats. Default 0.
    fn end(&self, _state: &Self::State) -> Result<f64> {
        Ok(0.0)
    }

    /// The score of a word without any history, in nats: what a lexicon expects of it before it is complete. Default
    /// 0. It has no influence on the score of a finished word.
    fn estimate(&self, _word: Option<u32>) -> Result<f64> {
        Ok(0.0)
    }

    /// An upper bound of [`score`](Self::score). Default 0, which is right for log-probabilities.
    fn max_score(&self) -> f64 {
        0.0
    }

    /// A number that only equal states share: see [`LanguageModel::state_key`](crate::LanguageModel::state_key). Default
    /// `None`.
    fn state_key(&self, _state: &Self::State) -> Option<u64> {
        None
    }
}

macro_rules! through_a_pointer {
    ($($pointer:ty),*) => {$(
        impl<W: WordModel + ?Sized> WordModel for $pointer {
            type State = W::State;

            fn word_id(&self, word: &str) -> Option<u32> {
                (**self).word_id(word)
            }

            fn start(&self) -> Result<Self::State> {
                (**self).start()
            }

            fn score(&self, state: &Self::State, word: Option<u32>) -> Result<f64> {
                (**self).score(state, word)
            }

            fn advance(&self, state: &Self::State, word: Option<u32>) -> Result<Self::State> {
                (**self).advance(state, word)
            }

            fn end(&self, state: &Self::State) -> Result<f64> {
                (**self).end(state)
            }

            fn estimate(&self, word: Option<u32>) -> Result<f64> {
                (**self).estimate(word)
            }

            fn max_score(&self) -> f64 {
                (**self).max_score()
            }

            fn state_key(&self, state: &Self::State) -> Option<u64> {
                (**self).state_key(state)
            }
        }
    )*};
}

through_a_pointer!(&W, Box<W>, Arc<W>);

impl WordModel for NoLanguageModel {
    type State = ();

    /// Every word is known, and is the same to it.
    fn word_id(&self, _word: &str) -> Option<u32> {
        Some(0)
    }

    fn start(&self) -> Result<()> {
        Ok(())
    }

    fn score(&self, _state: &(), _word: Option<u32>) -> Result<f64> {
        Ok(0.0)
    }

    fn advance(&self, _state: &(), _word: Option<u32>) -> Result<()> {
        Ok(())
    }

    fn state_key(&self, _state: &()) -> Option<u64> {
        Some(0)
    }
}
