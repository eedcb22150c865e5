//! The words of an n-gram model and their numbers.

use super::storage::Array;
use super::trie::reserve;
use candle_core::Result;
use indexmap::IndexSet;

/// Words in the order of their numbers, and a way from a word to its number.
pub(super) struct Dictionary {
    /// The words one after the other.
    pub text: Array<u8>,
    /// Where each word ends in the text.
    pub ends: Array<u64>,
    /// The numbers of the words, in the order of their bytes.
    pub sorted: Array<u32>,
}

impl Dictionary {
    /// Different words.
    pub fn new(words: IndexSet<Box<str>>) -> Result<Self> {
        let (mut text, mut ends, mut sorted) = (Vec::new(), Vec::new(), Vec::new());
        let (count, bytes) = (words.len(), words.iter().map(|word| word.len()).sum());
        reserve(&mut text, bytes, bytes)?;
        reserve(&mut ends, count, count)?;
        for word in words {
            text.extend_from_slice(word.as_bytes());
            ends.push(text.len() as u64);
        }
        reserve(&mut sorted, count, count)?;
        sorted.extend(0..count as u32);
        let mut dictionary = Self {
            sorted: Vec::new().into(),
            text: text.into(),
            ends: ends.into(),
        };
        sorted.sort_unstable_by_key(|id| dictionary.bytes(*id));
        dictionary.sorted = sorted.into();
        Ok(dictionary)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the word with a number.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let before = (id as usize).checked_sub(1);
        let start = before.map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[id as usize] as usize]
    }

    pub fn id(&self, word: &str) -> Option<u32> {
        let at = self
            .sorted
            .binary_search_by(|id| self.bytes(*id).cmp(word.as_bytes()));
        Some(self.sorted[at.ok()?])
    }

    /// The words in the order of their numbers.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        // The text comes from strings, or was compared with UTF-8 as it was read.
        (0..self.len() as u32).map(|id| str::from_utf8(self.bytes(id)).unwrap_or_default())
    }
}
