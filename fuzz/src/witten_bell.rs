//! The probabilities of an n-gram model by the method of Witten and Bell, from plain counts.

/// Sentences with their marks.
pub struct Counts<'a> {
    sentences: Vec<Vec<&'a str>>,
    /// All words with `</s>`, and `<unk>`.
    words: Vec<&'a str>,
    /// How many of the words are in the text.
    seen: f64,
}

impl<'a> Counts<'a> {
    pub fn new(sentences: &[Vec<&'a str>]) -> Self {
        let marked = |sentence: &Vec<&'a str>| [&["<s>"], &sentence[..], &["</s>"]].concat();
        let sentences: Vec<Vec<&str>> = sentences.iter().map(marked).collect();
        let mut words = sentences.concat();
        words.retain(|word| *word != "<s>");
        words.sort_unstable();
        words.dedup();
        let seen = words.len() as f64;
        if !words.contains(&"<unk>") {
            words.push("<unk>");
        }
        Self {
            sentences,
            words,
            seen,
        }
    }

    /// The words behind a context, wherever it stands.
    fn followers(&self, context: &[&str]) -> Vec<&str> {
        let windows = self
            .sentences
            .iter()
            .flat_map(|sentence| sentence.windows(context.len() + 1));
        let windows = windows.filter(|window| window.starts_with(context));
        let last = windows.map(|window| window[context.len()]);
        last.filter(|word| *word != "<s>").collect()
    }

    /// The probability of a word behind a history that begins a sentence.
    pub fn prob(&self, order: usize, history: &[&str], word: &str) -> f64 {
        let start = ["<s>"];
        let history = start
            .iter()
            .chain(history.iter().map(|word| self.known(word)));
        let history: Vec<&str> = history.copied().collect();
        let first = history.len().saturating_sub(order - 1);
        self.prob_behind(&history[first..], self.known(word))
    }

    /// The word, or `<unk>`.
    fn known(&self, word: &str) -> &&'a str {
        let all = || self.words.iter();
        let place = all().position(|other| *other == word);
        let unknown = all().position(|other| *other == "<unk>");
        &self.words[place.or(unknown).expect("<unk> is a word")]
    }

    fn prob_behind(&self, context: &[&str], word: &str) -> f64 {
        let mut followers = self.followers(context);
        let all = followers.len() as f64;
        let own = followers.iter().filter(|other| **other == word).count() as f64;
        followers.sort_unstable();
        followers.dedup();
        let different = followers.len() as f64;
        match context {
            [] => (own + self.seen / self.words.len() as f64) / (all + self.seen),
            [_, shorter @ ..] => {
                let shorter = self.prob_behind(shorter, word);
                match all {
                    0.0 => shorter,
                    _ => (own + different * shorter) / (all + different),
                }
            }
        }
    }
}
