//! Language models of the fuzzer's own.

use candle_core::Result;
use candle_ctc::LanguageModel;
use std::cell::Cell;

/// A model that scores a token by a hash of it and of all tokens before it.
pub struct Hashed {
    pub seed: u64,
    /// Of so many scores, one is −inf.
    pub forbids: u64,
    /// The score of one in 64, in place of the usual one.
    pub bad: Option<f64>,
}

impl Hashed {
    fn mix(&self, prefix: u64, token: u64) -> u64 {
        let mixed = (prefix ^ token.wrapping_add(self.seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }

    fn number(&self, hash: u64) -> f64 {
        match self.bad {
            Some(bad) if hash >> 58 == 7 => bad,
            _ if hash % self.forbids == 0 => f64::NEG_INFINITY,
            _ => -((hash % 512) as f64) / 64.0,
        }
    }
}

impl LanguageModel for Hashed {
    type State = u64;

    fn start(&self) -> Result<u64> {
        Ok(1)
    }

    fn score(&self, prefix: &u64, token: u32) -> Result<f64> {
        Ok(self.number(self.mix(*prefix, token.into())))
    }

    fn advance(&self, prefix: &u64, token: u32) -> Result<u64> {
        Ok(self.mix(*prefix, token.into()))
    }

    fn end(&self, prefix: &u64) -> Result<f64> {
        Ok(self.number(self.mix(*prefix, 1 << 40)))
    }
}

/// A model with an `advance_all` other than its own.
pub struct Advancing<'a, L> {
    pub model: &'a L,
    pub way: Way,
    /// How many prefixes were advanced.
    pub advanced: Cell<usize>,
}

/// How prefixes are advanced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// One by one.
    Each,
    /// All at once, from the last on.
    Together,
    /// All at once; the last state is not returned.
    TooFew,
}

impl<L: LanguageModel> LanguageModel for Advancing<'_, L> {
    type State = L::State;

    fn start(&self) -> Result<L::State> {
        self.model.start()
    }

    fn score(&self, state: &L::State, token: u32) -> Result<f64> {
        self.model.score(state, token)
    }

    fn advance(&self, state: &L::State, token: u32) -> Result<L::State> {
        self.model.advance(state, token)
    }

    fn advance_all(&self, prefixes: &[(&L::State, u32)]) -> Result<Vec<L::State>> {
        self.advanced.set(self.advanced.get() + prefixes.len());
        let advance = |&(state, token): &(&L::State, u32)| self.model.advance(state, token);
        if self.way == Way::Each {
            return prefixes.iter().map(advance).collect();
        }
        let mut states: Vec<L::State> =
            prefixes.iter().rev().map(advance).collect::<Result<_>>()?;
        states.reverse();
        if self.way == Way::TooFew {
            states.pop();
        }
        Ok(states)
    }

    fn end(&self, state: &L::State) -> Result<f64> {
        self.model.end(state)
    }

    fn max_score(&self) -> f64 {
        self.model.max_score()
    }

    fn max_score_in(&self, state: &L::State) -> f64 {
        self.model.max_score_in(state)
    }

    fn next_tokens(&self, state: &L::State, most: usize, tokens: &mut Vec<u32>) -> bool {
        self.model.next_tokens(state, most, tokens)
    }

    fn state_key(&self, state: &L::State) -> Option<u128> {
        self.model.state_key(state)
    }

    fn is_constant(&self) -> bool {
        self.model.is_constant()
    }
}
