//! Words and phrases that a beam search prefers.

use super::spelling::{BOUNDARY, Symbols};
use super::tree::{LabelTree, ROOT};
use crate::decode::language_model::{LanguageModel, NoLanguageModel};
use crate::text::Vocabulary;
use candle_core::{Result, bail};

/// Words and phrases with a boost each, on top of any [`LanguageModel`].
///
/// A text scores what the model gives it, and each occurrence of a phrase its boost in nats; occurrences may overlap.
/// [`BeamOptions::lm_weight`](crate::BeamOptions::lm_weight) multiplies both. A phrase occurs where its words stand as
/// whole words, by the marks of the vocabulary; where nothing marks words, wherever its tokens stand. Its tokens are
/// those of [`Vocabulary::encode`].
///
/// Each token of a phrase adds its share of the boost, so that a partial phrase stays in the beam. If the phrase is not
/// completed, the next token, or the end of the text, takes the shares back
/// ([`End::Ignored`](crate::End::Ignored) leaves them). A boost below 0 counts only at the end of the phrase.
///
/// The time that a token costs does not grow with the number of phrases: it is constant on average over a text, and at
/// most that of the tokens of a phrase (Aho and Corasick 1975, <https://doi.org/10.1145/360825.360855>).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_ctc::text::Vocabulary;
/// use candle_ctc::{BeamOptions, Hotwords, NoLanguageModel, beam_search_with};
///
/// # fn main() -> candle_core::Result<()> {
/// let vocabulary = Vocabulary::from_tokens(["<pad>", "|", "a", "e", "n", "y"])?;
/// let names = Hotwords::new(&vocabulary, [("Anya", 3.0), ("Yann", 3.0)], NoLanguageModel)?;
///
/// let row = |class: usize| (0..6).map(|c| if c == class { 0.75f32 } else { 0.05 }).collect::<Vec<_>>();
/// let last = vec![0.05, 0.05, 0.3, 0.4, 0.1, 0.1];
/// let probs = Tensor::new(vec![row(2), row(4), row(5), last], &Device::Cpu)?;
/// let best = beam_search_with(&probs.log()?, &names, BeamOptions::default())?.remove(0);
/// assert_eq!(vocabulary.decode(&best.tokens), "anya"); // without: "anye"
/// assert!((best.lm_score - 3.0).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Hotwords<L = NoLanguageModel> {
    model: L,
    symbols: Symbols,
    tree: LabelTree,
    /// For each node the longest proper suffix of its symbols that is a node.
    suffix: Vec<u32>,
    /// The sum of the boosts of all phrases that end with a node's symbols.
    earned: Vec<f64>,
    /// What the symbols of a node, or of a suffix, have earned of phrases that are not complete.
    credit: Vec<f64>,
    start: u32,
    max_boost: f64,
}

/// The state of a prefix, for [`Hotwords`].
#[derive(Debug, Clone)]
pub struct HotwordState<S> {
    node: u32,
    model: S,
}

impl<L> Hotwords<L> {
    /// Phrases with boosts, on top of a model: [`NoLanguageModel`], a [`Lexicon`](crate::Lexicon), a
    /// [`TokenNgram`](crate::TokenNgram) or any other. A phrase that occurs twice has its largest boost.
    ///
    /// # Errors
    ///
    /// A phrase that the vocabulary cannot spell, or that has no text; a boost that is not from −1e100 to 1e100.
    pub fn new<S: AsRef<str>>(
        vocabulary: &Vocabulary,
        phrases: impl IntoIterator<Item = (S, f64)>,
        model: L,
    ) -> Result<Self> {
        let symbols = Symbols::new(vocabulary);
        let mut sequences = Vec::new();
        let mut boosts = Vec::new();
        for (phrase, boost) in phrases {
            let phrase = phrase.as_ref();
            if boost.is_nan() || boost.abs() > 1e100 {
                bail!(
                    "Hotwords: the boost of {phrase:?} is {boost}; it must be from -1e100 to 1e100"
                )
            }
            if boosts.len() == u32::MAX as usize {
                bail!("Hotwords: there are more than {} phrases", u32::MAX)
            }
            let labels = match vocabulary.spell_words(phrase) {
                Ok(labels) => labels,
                Err(error) => bail!("Hotwords: {phrase:?} cannot be spelled: {error}"),
            };
            for labels in labels {
                let text = symbols.spell("Hotwords", &labels)?;
                if text.is_empty() {
                    bail!("Hotwords: the phrase {phrase:?} has no text")
                }
                sequences.push((whole_words(&symbols, text), boosts.len() as u32));
            }
            boosts.push(boost);
        }
        Self::over(symbols, LabelTree::new(sequences)?, &boosts, model)
    }

    /// The model under the hotwords.
    pub fn model(&self) -> &L {
        &self.model
    }

    fn over(symbols: Symbols, tree: LabelTree, boosts: &[f64], model: L) -> Result<Self> {
        let count = tree.len();
        // The boost of the phrase that a node completes, −inf where there is none.
        let own = |node: u32| {
            let entries = tree.entries(node).iter();
            let boosts = entries.map(|entry| boosts[*entry as usize]);
            boosts.fold(f64::NEG_INFINITY, f64::max)
        };
        let own: Vec<f64> = (0..count as u32).map(own).collect();
        // The tokens up to each node, and the best boost for a token among the phrases that go on behind it.
        let mut tokens = vec![0u32; count];
        for node in 0..count as u32 {
            for child in tree.children(node) {
                let is_token = tree.label(child) != BOUNDARY;
                tokens[child as usize] = tokens[node as usize] + u32::from(is_token);
            }
        }
        let mut best_share = vec![0f64; count];
        for node in (0..count as u32).rev() {
            for child in tree.children(node) {
                let share = (own[child as usize] / f64::from(tokens[child as usize].max(1)))
                    .max(best_share[child as usize]);
                best_share[node as usize] = best_share[node as usize].max(share);
            }
        }

        let mut automaton = Self {
            model,
            symbols,
            suffix: vec![ROOT; count],
            earned: vec![0.0; count],
            credit: vec![0.0; count],
            start: ROOT,
            max_boost: 0.0,
            tree,
        };
        // Suffixes are shorter, so they have smaller numbers.
        for node in 0..count as u32 {
            for child in automaton.tree.children(node) {
                let at = child as usize;
                let suffix = match node {
                    ROOT => ROOT,
                    node => {
                        automaton.next(automaton.suffix[node as usize], automaton.tree.label(child))
                    }
                };
                let boost = match own[at] {
                    f64::NEG_INFINITY => 0.0,
                    boost => boost,
                };
                automaton.suffix[at] = suffix;
                automaton.earned[at] = boost + automaton.earned[suffix as usize];
                let credit = best_share[at] * f64::from(tokens[at]);
                automaton.credit[at] = credit.max(automaton.credit[suffix as usize]);
            }
        }
        automaton.start = automaton.next(ROOT, BOUNDARY);
        automaton.max_boost = automaton.largest_gain();
        if !automaton.max_boost.is_finite() {
            bail!("Hotwords: the boosts of the phrases are too large to be added")
        }
        Ok(automaton)
    }

    /// A bound on what a token can earn: a boundary, itself and a boundary.
    fn largest_gain(&self) -> f64 {
        let (mut token, mut boundary) = (0f64, 0f64);
        for node in 0..self.tree.len() as u32 {
            for child in self.tree.children(node) {
                // Whatever node leads here has the parent as a suffix, and so at least its credit.
                let at = child as usize;
                let gain = self.earned[at] + self.credit[at] - self.credit[node as usize];
                let most = match self.tree.label(child) {
                    BOUNDARY => &mut boundary,
                    _ => &mut token,
                };
                *most = most.max(gain);
            }
        }
        let gain = token + 2.0 * boundary;
        gain + 1e-9 * (1.0 + gain)
    }

    /// The node after a symbol: the longest suffix that is one.
    fn next(&self, mut node: u32, symbol: u32) -> u32 {
        loop {
            match self.tree.child(node, symbol) {
                Some(child) => return child,
                None if node == ROOT => return ROOT,
                None => node = self.suffix[node as usize],
            }
        }
    }

    /// The node after symbols, and what they earn.
    fn follow(&self, from: u32, symbols: impl Iterator<Item = u32>) -> (u32, f64) {
        let mut node = from;
        let mut earned = 0.0;
        for symbol in symbols {
            // Two boundaries in a row are one.
            if symbol == BOUNDARY && node != ROOT && self.tree.label(node) == BOUNDARY {
                continue;
            }
            node = self.next(node, symbol);
            earned += self.earned[node as usize];
        }
        (
            node,
            earned + self.credit[node as usize] - self.credit[from as usize],
        )
    }
}

impl<L: LanguageModel> Hotwords<L> {
    /// The state after a token, with that of the model.
    fn behind(
        &self,
        state: &HotwordState<L::State>,
        token: u32,
        model: L::State,
    ) -> Result<HotwordState<L::State>> {
        let edges = self.symbols.edges("Hotwords", token)?;
        let (node, _) = self.follow(state.node, Symbols::of(edges, token));
        Ok(HotwordState { node, model })
    }
}

impl<L: LanguageModel> LanguageModel for Hotwords<L> {
    type State = HotwordState<L::State>;

    fn start(&self) -> Result<Self::State> {
        Ok(HotwordState {
            node: self.start,
            model: self.model.start()?,
        })
    }

    fn score(&self, state: &Self::State, token: u32) -> Result<f64> {
        let edges = self.symbols.edges("Hotwords", token)?;
        let (_, boost) = self.follow(state.node, Symbols::of(edges, token));
        Ok(self.model.score(&state.model, token)? + boost)
    }

    fn advance(&self, state: &Self::State, token: u32) -> Result<Self::State> {
        self.behind(state, token, self.model.advance(&state.model, token)?)
    }

    fn advance_all(&self, prefixes: &[(&Self::State, u32)]) -> Result<Vec<Self::State>> {
        let under = prefixes.iter().map(|(state, token)| (&state.model, *token));
        let models = self.model.advance_all(&under.collect::<Vec<_>>())?;
        if models.len() != prefixes.len() {
            bail!(
                "Hotwords: the model's advance_all gave {} states for {} prefixes",
                models.len(),
                prefixes.len()
            )
        }
        let prefixes = prefixes.iter().zip(models);
        prefixes
            .map(|((state, token), model)| self.behind(state, *token, model))
            .collect()
    }

    fn end(&self, state: &Self::State) -> Result<f64> {
        let (last, boost) = self.follow(state.node, std::iter::once(BOUNDARY));
        let boost = boost - self.credit[last as usize];
        Ok(self.model.end(&state.model)? + boost)
    }

    fn max_score(&self) -> f64 {
        self.model.max_score() + self.max_boost
    }

    fn max_score_in(&self, state: &Self::State) -> f64 {
        self.model.max_score_in(&state.model) + self.max_boost
    }

    fn state_key(&self, state: &Self::State) -> Option<u128> {
        let under = self.model.state_key(&state.model)?;
        let shifted = under << u32::BITS;
        (shifted >> u32::BITS == under).then_some(shifted | u128::from(state.node))
    }

    fn next_tokens(&self, state: &Self::State, most: usize, tokens: &mut Vec<u32>) -> bool {
        self.model.next_tokens(&state.model, most, tokens)
    }
}

/// The symbols of a phrase with a boundary at each end that needs one.
fn whole_words(symbols: &Symbols, text: Vec<u32>) -> Vec<u32> {
    let edge = |symbol: Option<&u32>| match symbol {
        Some(&symbol) if !symbols.is_unspaced(symbol) => Some(BOUNDARY),
        _ => None,
    };
    let (before, after) = (edge(text.first()), edge(text.last()));
    before.into_iter().chain(text).chain(after).collect()
}
