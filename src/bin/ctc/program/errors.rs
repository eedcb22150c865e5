//! Errors of the library in the words of the command line.

use anyhow::anyhow;

/// How an error for text that cannot be spelled ends.
const LOSSY: &str = "; encode_lossy leaves it out or puts a star for it";

/// What errors of the library name, and what the command line has for it.
const OPTIONS: [(&str, &str); 10] = [
    (LOSSY, ""),
    ("Vocabulary::builder().blank(...)", "--blank"),
    (
        "set VocabularyBuilder::word_mark",
        "name the token between words with --separator",
    ),
    (": see VocabularyBuilder::case", ""),
    (
        "use encode_tokens, or set WordMark::EachToken",
        "take spaces out",
    ),
    ("Lexicon: ", "--lm or --lexicon: "),
    ("Hotwords: ", "--hotwords: "),
    ("NgramLm::from_sentences: ", "--estimate: "),
    (
        "so it is not in the ARPA format",
        "so it is not in the ARPA format; to make a model of a text: ctc ngram --estimate ORDER",
    ),
    ("a smaller beam_width", "a smaller --beam"),
];

/// The first line of an error: candle may add a backtrace after it.
pub fn short(error: candle_core::Error) -> anyhow::Error {
    anyhow!(in_options(first_line(error)))
}

/// The same. An error for text that cannot be spelled ends in `hint`.
pub fn with_hint(error: candle_core::Error, hint: &str) -> anyhow::Error {
    let text = first_line(error).replace(LOSSY, &format!("; {hint}"));
    anyhow!(in_options(text))
}

fn first_line(error: candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or("unknown error").to_owned()
}

fn in_options(text: String) -> String {
    OPTIONS.iter().fold(text, |text, (of_library, option)| {
        text.replace(of_library, option)
    })
}
