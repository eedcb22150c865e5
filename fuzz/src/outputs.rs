//! Readers of the files that words are written to.

use candle_ctc::text::{SubtitleOptions, Word};
use serde_json::Value;

/// What words are written with.
pub struct Written<'a> {
    pub words: &'a [Word],
    pub seconds_per_frame: f64,
    pub frames: usize,
}

/// Times and text.
type Interval = (f64, f64, String);

fn number(text: &str) -> f64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// A text without what the formats may change: white space, line ends and arrows.
fn bare(text: &str) -> String {
    let changes = |c: char| c.is_whitespace() || c == '-' || c == '>';
    text.chars().filter(|c| !changes(*c)).collect()
}

impl Written<'_> {
    fn intervals(&self) -> Vec<Interval> {
        let words = self.words.iter().map(|word| {
            let (start, end) = word.seconds(self.seconds_per_frame);
            (start, end, word.text.clone())
        });
        words.collect()
    }

    /// That intervals are these, up to the digits that a format has.
    fn compare(&self, got: &[Interval], want: &[Interval], digits: f64) {
        assert_eq!(got.len(), want.len(), "{got:?} for {want:?}");
        for (got, want) in got.iter().zip(want) {
            // Of times that are decades.
            let slack = 1.01 * digits + 1e-12 * want.1;
            let close = |a: f64, b: f64| (a - b).abs() <= slack;
            assert!(
                close(got.0, want.0) && close(got.1, want.1),
                "{got:?} for {want:?}"
            );
            assert_eq!(bare(&got.2), bare(&want.2));
        }
    }

    pub fn check_json(&self, output: &str) {
        let document: Value = serde_json::from_str(output).unwrap();
        let interval = |value: &Value| -> Interval {
            let time = |name: &str| value[name].as_f64().unwrap();
            let text = value["text"].as_str().unwrap();
            (time("start"), time("end"), text.to_owned())
        };
        let words = document["words"].as_array().unwrap();
        let found: Vec<Interval> = words.iter().map(interval).collect();
        self.compare(&found, &self.intervals(), 5e-7);
        let text = document["text"].as_str().unwrap();
        let words = self.words.iter().map(|word| word.text.as_str());
        assert_eq!(bare(text), bare(&words.collect::<String>()));
        for (found, word) in document["words"].as_array().unwrap().iter().zip(self.words) {
            assert!((found["score"].as_f64().unwrap() - f64::from(word.score)).abs() < 1e-6);
            assert_eq!(found["tokens"].as_array().unwrap().len(), word.tokens.len());
        }
    }

    /// `recording channel start duration word confidence` for each word that has frames.
    pub fn check_ctm(&self, output: &str, [recording, channel]: [&str; 2]) {
        let line = |line: &str| -> Interval {
            let fields: Vec<&str> = line.split(' ').collect();
            assert!(
                fields.len() == 6 && fields[..2] == [recording, channel],
                "{line:?}"
            );
            assert!((0.0..=1.0).contains(&number(fields[5])), "{line:?}");
            let start = number(fields[2]);
            (start, start + number(fields[3]), fields[4].to_owned())
        };
        let found: Vec<Interval> = output.lines().map(line).collect();
        let pairs = self.intervals().into_iter().zip(self.words);
        let shown = pairs.filter(|(_, word)| word.end > word.start);
        let shown: Vec<Interval> = shown.map(|(interval, _)| interval).collect();
        // Start and duration are rounded each.
        self.compare(&found, &shown, 1e-3);
    }

    /// The intervals of the first tier of a TextGrid fill the time, and those with text are the words.
    pub fn check_textgrid(&self, output: &str) {
        // Where a tier begins; a word may read like that.
        const TIER: &str = "item [";
        if self.words.iter().any(|word| word.text.contains(TIER)) {
            return;
        }
        let tier = output.split(TIER).nth(2).unwrap();
        let field = |name: &str| {
            let lines = tier.lines().filter_map(move |line| {
                let (key, value) = line.trim().split_once(" = ")?;
                (key == name).then(|| value.to_owned())
            });
            lines.collect::<Vec<String>>()
        };
        let times = |name: &str| -> Vec<f64> { field(name).iter().map(|x| number(x)).collect() };
        let (starts, ends) = (times("xmin"), times("xmax"));
        let texts = field("text");
        let text = |text: &String| text[1..text.len() - 1].replace("\"\"", "\"");
        // The first times are those of the tier.
        assert!(
            starts[0] == starts[1] && ends[0] == ends[ends.len() - 1],
            "{tier}"
        );
        assert_eq!(starts[2..], ends[1..ends.len() - 1], "{tier}");
        let intervals = starts[1..].iter().zip(&ends[1..]).zip(&texts);
        let intervals = intervals.map(|((start, end), x)| (*start, *end, text(x)));
        let is_word = |interval: &Interval| !bare(&interval.2).is_empty();
        let found: Vec<Interval> = intervals.filter(is_word).collect();
        let words: Vec<Interval> = self.intervals().into_iter().filter(is_word).collect();
        self.compare(&found, &words, 5e-7);
        let all = self.frames as f64 * self.seconds_per_frame;
        assert!(
            (ends[0] - all).abs() <= 1e-6 + 1e-12 * all,
            "{} {all}",
            ends[0]
        );
    }

    /// Cues are in order, last, have no more lines than they may, and together have the text of the words.
    pub fn check_cues(&self, output: &str, opts: SubtitleOptions) {
        let is_vtt = output.starts_with("WEBVTT");
        let mut blocks = output.split("\n\n").filter(|block| !block.is_empty());
        if is_vtt {
            assert_eq!(blocks.next(), Some("WEBVTT"));
        }
        let (mut text, mut last) = (String::new(), (0.0, 0.0));
        for (index, block) in blocks.enumerate() {
            let mut lines = block.split('\n');
            if !is_vtt {
                assert_eq!(lines.next(), Some(&*(index + 1).to_string()), "{output}");
            }
            let times = lines.next().unwrap();
            let (start, end) = times.split_once(" --> ").unwrap();
            let (start, end) = (seconds(start), seconds(end));
            assert!(start < end && last.0 <= start, "{output}");
            // A cue that would have no time is shown for a millisecond.
            assert!(
                last.1 <= start + 1e-9 || last.1 - last.0 < 1.5e-3,
                "{output}"
            );
            last = (start, end);
            let lines: Vec<&str> = lines.collect();
            assert!((1..=opts.lines).contains(&lines.len()), "{output}");
            text += &lines.concat();
        }
        if is_vtt {
            assert!(!text.contains(['<', '>']), "{text}");
            text = text
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&amp;", "&");
        }
        let words = self.words.iter().map(|word| word.text.as_str());
        assert_eq!(bare(&text), bare(&words.collect::<String>()));
    }
}

/// `hours:minutes:seconds,milliseconds`, or with a dot.
fn seconds(time: &str) -> f64 {
    let time = time.replace(',', ".");
    let parts: Vec<&str> = time.split(':').collect();
    let [hours, minutes, seconds] = parts[..] else {
        panic!("{time:?}")
    };
    let [minutes_of, seconds_of] = [number(minutes), number(seconds)];
    assert!(
        minutes_of < 60.0 && seconds_of < 60.0 && seconds.len() == 6,
        "{time:?}"
    );
    3600.0 * number(hours) + 60.0 * minutes_of + seconds_of
}
