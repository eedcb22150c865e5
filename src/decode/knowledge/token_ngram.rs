//! An n-gram model of tokens as a language model.

use super::ngram::{NgramLm, NgramState};
use super::words::WordModel;
use crate::decode::language_model::LanguageModel;
use crate::text::Vocabulary;
use candle_core::{Result, bail};
use std::borrow::Borrow;

/// An [`NgramLm`] whose words are the tokens of a vocabulary: a model of characters, pieces or phonemes.
///
/// The model is an `NgramLm`, a reference to one, or an `Arc`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::text::Vocabulary;
/// use candle_ctc::{BeamOptions, NgramLm, TokenNgram, beam_search_with};
///
/// # fn main() -> candle_core::Result<()> {
/// let arpa = "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 a\n-1 b\n-2 <unk>\n\n\
///             \\2-grams:\n-0.1 a b\n\n\\end\\\n";
/// let model = NgramLm::from_arpa(arpa.as_bytes())?; // or from_path("characters.arpa.gz")
/// let vocabulary = Vocabulary::from_tokens(["<blank>", "a", "b"])?;
/// let tokens = TokenNgram::new(&model, &vocabulary)?;
///
/// let probs = [[0.1f32, 0.8, 0.1], [0.9, 0.05, 0.05], [0.1, 0.5, 0.4]];
/// let log_probs = Tensor::new(&probs, &Device::Cpu)?.log()?; // (T, C)
/// let best = beam_search_with(&log_probs, &tokens, BeamOptions::default())?.remove(0);
/// assert_eq!(vocabulary.decode(&best.tokens), "ab");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TokenNgram<M = NgramLm> {
    model: M,
    /// The model's word for each class.
    words: Vec<Option<u32>>,
}

impl<M: Borrow<NgramLm>> TokenNgram<M> {
    /// A model of the tokens of `vocabulary`, as its file writes them. A token that the model does not know scores as
    /// `<unk>`: see [`Self::unknown_classes`].
    ///
    /// # Errors
    ///
    /// If the model knows none of the tokens.
    pub fn new(model: M, vocabulary: &Vocabulary) -> Result<Self> {
        Self::with_names(model, vocabulary.tokens())
    }

    /// A model whose words are these names of the tokens, in the order of their classes. The blank's name is not used.
    ///
    /// # Errors
    ///
    /// If the model knows none of the names.
    pub fn with_names<S: AsRef<str>>(model: M, names: impl IntoIterator<Item = S>) -> Result<Self> {
        let lm = model.borrow();
        let mut first = None;
        let mut words = Vec::new();
        for name in names {
            words.push(lm.word_id(name.as_ref()));
            first.get_or_insert_with(|| name.as_ref().to_owned());
        }
        if words.iter().all(Option::is_none) {
            let some: Vec<&str> = lm.words().take(5).collect();
            bail!(
                "the n-gram model knows none of the {} tokens, such as {:?}; it has words such as {some:?}. A model of \
                 words goes into a Lexicon",
                words.len(),
                first.unwrap_or_default()
            )
        }
        Ok(Self { model, words })
    }

    /// The classes whose tokens the model does not know.
    pub fn unknown_classes(&self) -> Vec<u32> {
        let classes = (0..).zip(&self.words);
        let unknown = classes.filter(|(_, word)| word.is_none());
        unknown.map(|(class, _)| class).collect()
    }

    fn word(&self, token: u32) -> Result<Option<u32>> {
        match self.words.get(token as usize) {
            Some(word) => Ok(*word),
            None => bail!(
                "TokenNgram: token {token} is no class; the model was made for {} classes",
                self.words.len()
            ),
        }
    }
}

impl<M: Borrow<NgramLm>> LanguageModel for TokenNgram<M> {
    type State = NgramState;

    fn start(&self) -> Result<NgramState> {
        self.model.borrow().start()
    }

    fn score(&self, state: &NgramState, token: u32) -> Result<f64> {
        WordModel::score(self.model.borrow(), state, self.word(token)?)
    }

    fn advance(&self, state: &NgramState, token: u32) -> Result<NgramState> {
        WordModel::advance(self.model.borrow(), state, self.word(token)?)
    }

    fn end(&self, state: &NgramState) -> Result<f64> {
        WordModel::end(self.model.borrow(), state)
    }

    fn max_score(&self) -> f64 {
        WordModel::max_score(self.model.borrow())
    }

    fn state_key(&self, state: &NgramState) -> Option<u128> {
        WordModel::state_key(self.model.borrow(), state).map(u128::from)
    }
}
