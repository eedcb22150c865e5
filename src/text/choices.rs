//! What the caller chooses about a vocabulary.

use super::prepare::Case;
use super::surface::WordMark;
use std::collections::HashMap;

/// A token by its name or its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrClass {
    /// A token, as the file writes it.
    Token(String),
    /// A class.
    Class(u32),
}

impl From<&str> for TokenOrClass {
    fn from(token: &str) -> Self {
        Self::Token(token.to_owned())
    }
}

impl From<String> for TokenOrClass {
    fn from(token: String) -> Self {
        Self::Token(token)
    }
}

impl From<u32> for TokenOrClass {
    fn from(class: u32) -> Self {
        Self::Class(class)
    }
}

/// What the caller chooses.
#[derive(Debug, Clone, Default)]
pub(super) struct Choices {
    pub blank: Option<TokenOrClass>,
    pub mark: Option<WordMark>,
    pub case: Option<Case>,
    pub scores: Option<HashMap<String, f64>>,
}
