//! Finds how a vocabulary marks words, and with that the surface of each of its tokens.

use super::files::Source;
use super::surface::{Surface, WordMark, is_unspaced};
use std::collections::HashMap;
use unicode_segmentation::UnicodeSegmentation;

const SILENT: [&str; 14] = [
    "<blank>",
    "<blk>",
    "<ctc>",
    "<pad>",
    "[pad]",
    "<eps>",
    "<s>",
    "</s>",
    "<sos>",
    "<eos>",
    "<bos>",
    "<sos/eos>",
    "<mask>",
    "[mask]",
];

/// The kind of a token by its name alone.
enum Named {
    Silent,
    Byte(u8),
    Name,
    Text,
}

fn named(token: &str) -> Named {
    let lower = token.to_lowercase();
    if SILENT.contains(&lower.as_str()) || lower == "[cls]" || lower == "[sep]" {
        return Named::Silent;
    }
    if lower == "<space>" || lower == "</w>" {
        return Named::Text;
    }
    if let Some(inside) = token
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
    {
        let byte = inside.strip_prefix("0x").filter(|digits| digits.len() == 2);
        if let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            return Named::Byte(byte);
        }
        if inside.len() > 2 && inside.starts_with('|') && inside.ends_with('|') {
            return Named::Silent;
        }
        if is_name(inside.strip_prefix('/').unwrap_or(inside)) {
            return Named::Name;
        }
    }
    let square = token
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match square.is_some_and(|inside| inside.len() > 1 && is_name(inside)) {
        true => Named::Name,
        false => Named::Text,
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-:/ ".contains(&byte))
}

/// The tokens that stand for text, by their names and what the file says of them.
fn texts(source: &Source, blank: u32) -> impl Iterator<Item = &str> {
    let tokens = source.tokens.iter().zip(0..);
    tokens.filter_map(move |(token, class)| {
        let text = class != blank
            && !source.special.contains(&class)
            && source.unknown != Some(class)
            && !token.is_empty()
            && matches!(named(token), Named::Text);
        text.then_some(token.as_str())
    })
}

/// The word mark of a vocabulary, by what stands in it.
pub(super) fn find_mark(source: &Source, blank: u32) -> WordMark {
    let count =
        |fits: &dyn Fn(&str) -> bool| texts(source, blank).filter(|token| fits(token)).count();
    let has_more = |rest: Option<&str>| rest.is_some_and(|rest| !rest.is_empty());
    let prefix = |mark: &str| count(&|token| has_more(token.strip_prefix(mark)));
    let suffix = |mark: &str| count(&|token| has_more(token.strip_suffix(mark)));
    let marks = [
        (
            prefix("▁"),
            WordMark::Prefix {
                mark: "▁".into(),
                first_word: true,
            },
        ),
        (prefix("Ġ"), WordMark::ByteLevel { first_word: false }),
        (prefix("##"), WordMark::Continuation("##".into())),
        (suffix("</w>"), WordMark::EndOfWord("</w>".into())),
        (suffix("@@"), WordMark::Continued("@@".into())),
    ];
    // The first of the largest.
    let most = marks.into_iter().rev().max_by_key(|(count, _)| *count);
    if let Some((1.., mark)) = most {
        let bytes = byte_of_character();
        let in_alphabet = |token: &str| token.chars().all(|c| bytes.contains_key(&c));
        return match mark {
            WordMark::ByteLevel { first_word } if !texts(source, blank).all(in_alphabet) => {
                WordMark::Prefix {
                    mark: "Ġ".into(),
                    first_word,
                }
            }
            mark => mark,
        };
    }
    let has = |name: &str| texts(source, blank).any(|token| token == name);
    if source.scores.is_some() && has("▁") {
        // A SentencePiece model of characters.
        return WordMark::Prefix {
            mark: "▁".into(),
            first_word: true,
        };
    }
    let separator = ["<space>", " ", "▁", "|"]
        .into_iter()
        .find(|name| has(name));
    match separator {
        Some("|") if has("{") && has("}") => {}
        Some(separator) => return WordMark::Separator(separator.into()),
        None => {}
    }
    let unit = |token: &str| {
        token.graphemes(true).nth(1).is_some() && !token.chars().any(|c| c == ' ' || is_unspaced(c))
    };
    let spaced = count(&|token| token.contains(' '));
    match 4 * count(&unit) >= count(&|_| true).max(1) && spaced == 0 {
        true => WordMark::EachToken,
        false => WordMark::None,
    }
}

/// The surface of each token.
pub(super) fn surfaces(source: &Source, blank: u32, mark: &WordMark) -> Vec<Surface> {
    let bytes = byte_of_character();
    let surface = |(token, class): (&String, u32)| {
        if class == blank || token.is_empty() {
            return Surface::Silent;
        }
        if matches!(mark, WordMark::Separator(separator) if separator == token) {
            return Surface::Text(b" ".to_vec());
        }
        if source.unknown == Some(class) {
            return Surface::Name(token.clone().into_bytes());
        }
        match named(token) {
            Named::Silent => Surface::Silent,
            _ if source.special.contains(&class) => Surface::Silent,
            Named::Byte(byte) => Surface::Byte(byte),
            Named::Name => Surface::Name(token.clone().into_bytes()),
            Named::Text => Surface::Text(text_surface(token, mark, &bytes)),
        }
    };
    source.tokens.iter().zip(0..).map(surface).collect()
}

fn text_surface(token: &str, mark: &WordMark, bytes: &HashMap<char, u8>) -> Vec<u8> {
    // The rest of a token with the mark; a token that is only the mark stands for itself.
    let rest = |rest: Option<&str>| rest.filter(|rest| !rest.is_empty()).map(str::to_owned);
    let text = match mark {
        WordMark::Prefix { mark, .. } => token.replace(mark.as_str(), " "),
        WordMark::ByteLevel { .. } => {
            let byte = |c| bytes.get(&c).copied();
            match token.chars().map(byte).collect() {
                Some(bytes) => return bytes,
                None => token.to_owned(),
            }
        }
        WordMark::Continuation(mark) => {
            rest(token.strip_prefix(mark.as_str())).unwrap_or_else(|| format!(" {token}"))
        }
        WordMark::EndOfWord(mark) => match token.strip_suffix(mark.as_str()) {
            Some(rest) => format!("{rest} "),
            None => token.to_owned(),
        },
        WordMark::Continued(mark) => {
            rest(token.strip_suffix(mark.as_str())).unwrap_or_else(|| format!("{token} "))
        }
        WordMark::Separator(_) | WordMark::EachToken | WordMark::None => match token {
            "<space>" => " ".to_owned(),
            token => token.to_owned(),
        },
    };
    text.into_bytes()
}

/// GPT-2's alphabet for bytes: printable characters of Latin-1 stand for themselves, the others for the characters from
/// U+0100 on.
fn byte_of_character() -> HashMap<char, u8> {
    let mut next = 0x100;
    let character = |byte: u8| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    };
    let characters: Vec<char> = (0..=255).map(character).collect();
    characters.into_iter().zip(0..=255).collect()
}
