//! The data set: random lines of text, their images, and the tensors made of them.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::COLUMNS_PER_FRAME;
use crate::render::{Fonts, HEIGHT, Style, render};

/// The characters that the model can write. Class 0 is the CTC blank, so the character at index
/// `i` of this list is class `i + 1`.
pub const ALPHABET: &str = " abcdefghijklmnopqrstuvwxyz";

/// The class that stands for "no character here".
pub const BLANK: usize = 0;

/// Number of classes: the characters and the blank.
pub fn num_classes() -> usize {
    ALPHABET.chars().count() + 1
}

/// The classes that spell `text`.
pub fn encode(text: &str) -> Result<Vec<u32>> {
    text.chars()
        .map(|c| {
            let index = ALPHABET.chars().position(|a| a == c);
            index.map(|i| i as u32 + 1).with_context(|| format!("{c:?} is not in the alphabet"))
        })
        .collect()
}

/// The text that a list of classes spells; blanks and unknown classes are left out.
pub fn decode(classes: &[u32]) -> String {
    classes
        .iter()
        .filter_map(|&class| ALPHABET.chars().nth((class as usize).checked_sub(1)?))
        .collect()
}

/// Which part of the data a line belongs to. The parts draw from separate random streams.
#[derive(Clone, Copy, Debug)]
pub enum Split {
    Train,
    HeldOut,
}

/// One line of text and its image.
pub struct Line {
    pub text: String,
    pub image: GrayImage,
}

/// An endless supply of lines. The line at a given index is always the same one, for one seed.
pub struct Lines {
    fonts: Fonts,
    seed: u64,
    split: Split,
}

impl Lines {
    pub fn new(seed: u64, split: Split) -> Result<Self> {
        Ok(Self { fonts: Fonts::embedded()?, seed, split })
    }

    /// Makes the line with this index.
    pub fn line(&self, index: u64) -> Result<Line> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Even streams are for training and odd ones are held out; no two lines share a stream.
        rng.set_stream(2 * index + u64::from(matches!(self.split, Split::HeldOut)));
        let text = random_text(&mut rng);
        let style = Style::random(&self.fonts, &mut rng);
        let image = render(&text, &style, &mut rng)?;
        Ok(Line { text, image })
    }

    /// Makes the `count` lines that start at index `first`.
    pub fn lines(&self, first: u64, count: usize) -> Result<Vec<Line>> {
        (first..first + count as u64).map(|index| self.line(index)).collect()
    }
}

/// Lines of text as the tensors that the model and the loss take.
pub struct Batch {
    /// Images, `(lines, 1, HEIGHT, widest)`, dark ink positive. Each is brought to mean 0 and
    /// standard deviation 1, so that brightness and contrast do not matter. Narrower lines are
    /// continued with their last column.
    pub images: Tensor,
    /// The width of each image before it was continued.
    pub widths: Vec<usize>,
    /// Classes, `(lines, longest)`. Shorter lines are filled up; the loss skips the filling.
    pub targets: Tensor,
    /// The number of characters of each line.
    pub target_lengths: Vec<usize>,
}

impl Batch {
    pub fn new(lines: &[Line], device: &Device) -> Result<Self> {
        let widths: Vec<usize> = lines.iter().map(|l| l.image.width() as usize).collect();
        let widest = widths.iter().copied().max().context("a batch needs at least one line")?;
        let widest = widest.next_multiple_of(COLUMNS_PER_FRAME);
        let mut pixels = Vec::with_capacity(lines.len() * HEIGHT as usize * widest);
        for Line { image, .. } in lines {
            let (mean, deviation) = mean_and_deviation(image);
            for y in 0..HEIGHT {
                for x in 0..widest as u32 {
                    let &Luma([grey]) = image.get_pixel(x.min(image.width() - 1), y);
                    pixels.push((mean - f32::from(grey)) / deviation);
                }
            }
        }
        let images = Tensor::from_vec(pixels, (lines.len(), 1, HEIGHT as usize, widest), device)?;

        let encoded = lines.iter().map(|l| encode(&l.text)).collect::<Result<Vec<_>>>()?;
        let (targets, target_lengths) = pad_targets(encoded, device)?;
        Ok(Self { images, widths, targets, target_lengths })
    }
}

/// The mean and the standard deviation of the grey levels; the latter is at least 1.
fn mean_and_deviation(image: &GrayImage) -> (f32, f32) {
    let count = image.len() as f32;
    let mean = image.iter().map(|&grey| f32::from(grey)).sum::<f32>() / count;
    let variance = image.iter().map(|&grey| (f32::from(grey) - mean).powi(2)).sum::<f32>() / count;
    (mean, variance.sqrt().max(1.0))
}

/// Turns label sequences of different lengths into one `(count, longest)` tensor, and lengths.
pub fn pad_targets(mut encoded: Vec<Vec<u32>>, device: &Device) -> Result<(Tensor, Vec<usize>)> {
    let lengths: Vec<usize> = encoded.iter().map(Vec::len).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    for labels in &mut encoded {
        labels.resize(longest, BLANK as u32);
    }
    let count = encoded.len();
    let targets = Tensor::from_vec(encoded.concat(), (count, longest), device)?;
    Ok((targets, lengths))
}

/// The most characters that a line has.
const LONGEST: usize = 14;

/// As many words as fit on the line: half of them English, half of them made up.
fn random_text(rng: &mut impl Rng) -> String {
    let mut text = random_word(rng);
    loop {
        let word = random_word(rng);
        if text.len() + 1 + word.len() > LONGEST {
            return text;
        }
        text.push(' ');
        text.push_str(&word);
    }
}

fn random_word(rng: &mut impl Rng) -> String {
    match WORDS.choose(rng) {
        Some(word) if rng.random_bool(0.5) => (*word).to_string(),
        _ => made_up_word(rng),
    }
}

/// A word that nobody has seen before but that can be pronounced.
fn made_up_word(rng: &mut impl Rng) -> String {
    const STARTS: &[&str] = &[
        "b", "bl", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l",
        "m", "n", "p", "ph", "pl", "qu", "r", "s", "sh", "sk", "sp", "st", "t", "th", "tr", "v",
        "w", "x", "y", "z",
    ];
    const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "y", "ai", "ea", "ee", "ie", "oo", "ou"];
    const ENDS: &[&str] = &[
        "", "", "", "b", "ck", "d", "ff", "g", "j", "k", "l", "ll", "m", "n", "nd", "p", "r",
        "rk", "s", "ss", "t", "v", "w", "x", "z", "zz",
    ];
    let mut word = String::new();
    for _ in 0..rng.random_range(1..=2) {
        for part in [STARTS, VOWELS, ENDS] {
            word.push_str(part.choose(rng).copied().unwrap_or_default());
        }
    }
    word
}

/// Some common English words.
const WORDS: &[&str] = &[
    "able", "about", "above", "across", "after", "again", "against", "air", "all", "almost",
    "along", "also", "always", "among", "animal", "another", "answer", "any", "apple", "area",
    "arm", "army", "around", "art", "ask", "away", "baby", "back", "bag", "ball", "bank", "base",
    "bear", "beauty", "because", "become", "bed", "been", "before", "began", "begin", "behind",
    "best", "better", "between", "big", "bird", "black", "blue", "board", "boat", "body", "book",
    "both", "bottom", "box", "boy", "bread", "bring", "brother", "brown", "build", "busy", "but",
    "buy", "call", "came", "can", "car", "care", "carry", "case", "cat", "catch", "cause",
    "chair", "chance", "change", "check", "child", "choose", "circle", "city", "class", "clean",
    "clear", "climb", "clock", "close", "cloud", "coast", "coat", "cold", "colour", "come",
    "common", "cook", "cool", "copy", "corn", "could", "count", "cover", "cross", "cry", "cut",
    "dance", "dark", "day", "deal", "dear", "decide", "deep", "did", "door", "down", "draw",
    "dream", "dress", "drink", "drive", "drop", "dry", "during", "each", "ear", "early", "earth",
    "east", "easy", "eat", "edge", "effect", "egg", "eight", "either", "end", "energy", "enough",
    "equal", "even", "ever", "every", "exact", "eye", "face", "fact", "fair", "fall", "family",
    "far", "farm", "fast", "father", "fear", "feel", "few", "field", "fight", "figure", "fill",
    "final", "find", "fine", "finger", "finish", "fire", "first", "fish", "five", "fix", "flat",
    "floor", "flow", "fly", "follow", "food", "foot", "for", "force", "forest", "form", "four",
    "free", "fresh", "friend", "from", "front", "fruit", "full", "game", "garden", "gate", "gave",
    "get", "girl", "give", "glass", "gold", "good", "grand", "grass", "great", "green", "ground",
    "group", "grow", "guess", "had", "hair", "half", "hand", "happy", "hard", "has", "hat",
    "have", "head", "hear", "heart", "heat", "heavy", "held", "help", "her", "here", "high",
    "hill", "him", "history", "hold", "hole", "home", "hope", "horse", "hot", "hour", "house",
    "how", "huge", "human", "hundred", "hurry", "ice", "idea", "inch", "iron", "island", "job",
    "join", "joy", "judge", "jump", "just", "keep", "key", "kind", "king", "knew", "knife",
    "know", "lady", "lake", "land", "large", "last", "late", "laugh", "law", "lay", "lead",
    "leaf", "learn", "least", "leave", "left", "leg", "less", "letter", "level", "lie", "life",
    "lift", "light", "like", "line", "list", "listen", "little", "live", "long", "look", "lost",
    "lot", "loud", "love", "low", "luck", "machine", "made", "main", "make", "man", "many", "map",
    "mark", "market", "matter", "may", "mean", "meat", "meet", "melt", "men", "metal", "middle",
    "might", "mile", "milk", "mind", "minute", "miss", "money", "month", "moon", "more",
    "morning", "most", "mother", "motor", "mountain", "mouth", "move", "much", "music", "must",
    "name", "nature", "near", "neck", "need", "never", "new", "next", "night", "nine", "noise",
    "noon", "north", "nose", "note", "nothing", "notice", "now", "number", "object", "ocean",
    "off", "offer", "office", "oil", "old", "once", "one", "only", "open", "orange", "order",
    "other", "our", "out", "over", "own", "page", "paint", "pair", "paper", "parent", "part",
    "party", "pass", "past", "path", "pay", "people", "person", "piece", "place", "plain", "plan",
    "plane", "plant", "play", "please", "point", "poor", "press", "price", "print", "prove",
    "pull", "push", "put", "quart", "queen", "question", "quick", "quiet", "quite", "race",
    "radio", "rain", "raise", "ran", "reach", "read", "ready", "real", "reason", "red", "rest",
    "rich", "ride", "right", "ring", "river", "road", "rock", "roll", "room", "root", "rope",
    "rose", "round", "row", "rule", "run", "safe", "said", "sail", "salt", "same", "sand", "save",
    "say", "school", "science", "sea", "season", "seat", "second", "see", "seed", "seem", "self",
    "sell", "send", "sense", "serve", "set", "seven", "shade", "shape", "share", "sharp", "sheet",
    "ship", "shoe", "shop", "shore", "short", "should", "show", "side", "sight", "sign", "silver",
    "simple", "since", "sing", "sister", "sit", "six", "size", "skin", "sky", "sleep", "slip",
    "slow", "small", "smell", "smile", "snow", "soft", "soil", "some", "song", "soon", "sound",
    "south", "space", "speak", "speed", "spell", "spend", "spot", "spring", "square", "stand",
    "star", "start", "state", "stay", "steel", "step", "stick", "still", "stone", "stop", "store",
    "story", "stream", "street", "strong", "such", "sugar", "suit", "summer", "sun", "sure",
    "sweet", "swim", "table", "tail", "take", "talk", "tall", "taste", "teach", "team", "tell",
    "ten", "test", "than", "thank", "that", "the", "them", "then", "there", "these", "thick",
    "thin", "thing", "think", "third", "this", "though", "three", "through", "time", "tiny",
    "tire", "tone", "took", "tool", "top", "touch", "toward", "town", "track", "trade", "train",
    "travel", "tree", "true", "try", "tube", "turn", "twenty", "two", "under", "unit", "until",
    "use", "usual", "valley", "value", "vary", "very", "view", "village", "visit", "voice",
    "vowel", "wait", "walk", "wall", "want", "war", "warm", "was", "wash", "watch", "water",
    "wave", "way", "wear", "weather", "week", "weight", "well", "went", "were", "west", "wheel",
    "when", "where", "which", "while", "white", "who", "whole", "why", "wide", "wife", "wild",
    "will", "wind", "window", "wing", "winter", "wire", "wish", "with", "woman", "wonder", "wood",
    "word", "work", "world", "would", "write", "wrong", "yard", "year", "yellow", "yes", "yet",
    "you", "young", "zero", "zone",
];
