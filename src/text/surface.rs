//! What each token stands for in a text: its surface.
//!
//! A surface is a piece of text in which a space marks where a word begins or ends, whatever the vocabulary writes for
//! it. Surfaces in a row give the text, and tokens spell a text if their surfaces in a row are the text.

/// How a vocabulary marks words.
///
/// The mark is inferred from the tokens. Of the prefixes `▁` and `Ġ`, the continuation `##` and the endings `</w>`
/// and `@@`, the most frequent one is taken; tokens that are only the mark do not count. If no token has any of
/// them, the mark is a separator: the first of `<space>`, a space, `▁` and `|` that is a token. (With SentencePiece
/// scores, a token `▁` makes it a prefix. `|` is a plain character if `{` and `}` are tokens, too.) Without a
/// separator, the mark is [`WordMark::EachToken`] if at least a quarter of the tokens have several characters of a
/// script with spaces, as phonemes and words do, and no token contains a space; otherwise it is [`WordMark::None`].
/// [`VocabularyBuilder::word_mark`](super::VocabularyBuilder::word_mark) sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WordMark {
    /// A token between words, such as `|`, a space or `<space>`.
    Separator(String),
    /// A token that begins a word has a prefix, as SentencePiece's `▁`.
    Prefix {
        /// The prefix.
        mark: String,
        /// Whether the first word of a text has it, too. Inferred as true for `▁`, as SentencePiece writes it.
        first_word: bool,
    },
    /// Tokens are bytes in GPT-2's alphabet, in which `Ġ` is the space before a word.
    ByteLevel {
        /// Whether the first word of a text has the space, too. Inferred as false, as in GPT-2.
        first_word: bool,
    },
    /// A token that continues a word has a prefix, as WordPiece's `##`. Punctuation is a word of its own only where
    /// spaces stand around it, or where a `tokenizer.json` says so.
    Continuation(String),
    /// A token that ends a word has a suffix, as `</w>`.
    EndOfWord(String),
    /// A token that is followed by more of its word has a suffix, as `@@` of subword-nmt.
    Continued(String),
    /// Each token is a unit, such as a phoneme or a word. They are written with spaces between them.
    EachToken,
    /// Tokens are written one after the other.
    None,
}

impl WordMark {
    /// The text of the mark.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Separator(text)
            | Self::Prefix { mark: text, .. }
            | Self::Continuation(text)
            | Self::EndOfWord(text)
            | Self::Continued(text) => Some(text),
            Self::ByteLevel { .. } | Self::EachToken | Self::None => None,
        }
    }
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Surface {
    /// Text, in bytes: byte-level tokens may hold part of a character.
    Text(Vec<u8>),
    /// One byte of a character that has no token of its own.
    Byte(u8),
    /// Nothing: the blank and others that are not printed.
    Silent,
    /// A token that spells no text and is printed by its name.
    Name(Vec<u8>),
}

impl Surface {
    /// What is printed.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(bytes) | Self::Name(bytes) => bytes,
            Self::Byte(byte) => std::slice::from_ref(byte),
            Self::Silent => &[],
        }
    }
}

/// Han characters and kana.
pub(super) fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c), 0x3005..=0x3007 | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff
        | 0x20000..=0x3ffff)
}

/// Characters of scripts that put no spaces between words.
pub(super) fn is_unspaced(c: char) -> bool {
    // Thai and Lao, Myanmar, Khmer, Bopomofo.
    is_ideograph(c)
        || matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3100..=0x312f)
}
