//! The command line.

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What the weights --alpha and --beta of a search may be.
pub const ALPHA_RANGE: RangeInclusive<f64> = 0.0..=1e100;
pub const BETA_RANGE: RangeInclusive<f64> = -1e6..=1e6;

/// What they are where none are given.
pub const DEFAULT_ALPHA: f64 = 1.0;
pub const DEFAULT_BETA: f64 = 0.0;

/// Scores, aligns and decodes the output of a CTC model.
///
/// Results go to standard output; errors, notes and progress to standard error. Exit codes: 0 if all went well, 1 if
/// something failed, 2 if an option is unknown, missing or in conflict with another, or has a value that cannot be
/// read. Of several files, one that fails does not stop the others, except in tune. In place of a file, - is standard
/// input for one of --file, --manifest, --lexicon and --hotwords and for the text of ngram --estimate, and standard
/// output for an output of align.
#[derive(Debug, Parser)]
#[command(name = "ctc", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ctc demo --out demo
  ctc align demo/emissions.npy --vocab demo/vocab.json \"the quick brown fox\"
  ctc decode demo/emissions.npy --vocab demo/vocab.json";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log-likelihoods of transcripts, most probable first.
    ///
    /// The table has the log-likelihood in nats, the same per token, the share of the transcript among those given, and
    /// the transcript; with a manifest also the file, in front. A transcript that the vocabulary cannot spell is an
    /// error unless --skip is given.
    #[command(after_help = SCORE_EXAMPLES)]
    Score(ScoreArgs),
    /// Where each token of a transcript stands. Prints JSON unless an output is named.
    #[command(after_help = ALIGN_EXAMPLES)]
    Align(AlignArgs),
    /// The words with their times, of a transcript or of the best transcript found.
    ///
    /// The table has the word, its start and end in seconds, its score (the mean log-probability of its frames, in
    /// nats) and its confidence (the smallest probability of its tokens, from 0 to 1; a dash for a word that the
    /// vocabulary cannot spell); with several files also the file, in front.
    #[command(after_help = WORDS_EXAMPLES)]
    Words(WordsArgs),
    /// The best transcripts, as score and text; with several files also the file, in front.
    ///
    /// The table has no header. Its columns, separated by tabs: the score and the text; with several files also the
    /// file, in front. The score is the log-probability in nats, with what the language model, the lexicon and the
    /// hotwords add to it. With --json that sum is total_score; score is the log-probability alone, and lm_score what
    /// they add.
    #[command(after_help = DECODE_EXAMPLES)]
    Decode(DecodeArgs),
    /// Where phrases stand, and how sure that is, in order of time; no transcript is needed.
    ///
    /// The table has the phrase, its start and end in seconds, its score, and the same per token. The score is the
    /// log-probability of the phrase less that of the best text there, in nats: 0 if the phrase is that text. Phrases
    /// are also found within longer words.
    #[command(after_help = SPOT_EXAMPLES)]
    Spot(SpotArgs),
    /// The weights --alpha and --beta with the fewest errors on transcribed files, for decode and words.
    ///
    /// Decodes all files with weights on a grid, and then with finer steps around the best. The table has no header.
    /// Its columns, separated by tabs: alpha, beta, the percentage of wrong words, and that of wrong characters; the
    /// best weights come first, of equally good ones those nearest to the defaults of --alpha and --beta. Case, and
    /// text that the vocabulary cannot spell, do not count.
    #[command(after_help = TUNE_EXAMPLES)]
    Tune(TuneArgs),
    /// Writes an n-gram model, from an ARPA file or from a text, in a form that --lm opens at once.
    ///
    /// The file is mapped into memory: it is not parsed again, and several processes share it. It belongs to this
    /// version of the program and to machines of this byte order; keep what it was made from.
    #[command(after_help = NGRAM_EXAMPLES)]
    Ngram(NgramArgs),
    /// Makes emissions and a vocabulary to try the other commands on.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

const SCORE_EXAMPLES: &str = "\
Examples:
  ctc score demo/emissions.npy --vocab demo/vocab.json \"the quick brown fox\" \"the quick brown box\"
  ctc score demo/emissions.npy --vocab demo/vocab.json \"The quick, brown fox!\" --skip
  ctc score demo/emissions.npy --vocab demo/vocab.json --file candidates.txt
  ctc score --vocab vocab.json --manifest list.tsv

In list.tsv a line is a path, a tab and a transcript. Lines with the same path are ranked together:
  a.npy\tthe quick brown fox
  a.npy\tthe quick brown box
  b.npy\thello world";

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("transcripts").args(["texts", "file", "manifest"]).multiple(true).required(true),
    override_usage = "ctc score [OPTIONS] --vocab <VOCAB> <EMISSIONS> [TEXTS]... [--file <FILE>]\n       \
        ctc score [OPTIONS] --vocab <VOCAB> --manifest <MANIFEST>"
)]
pub struct ScoreArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): a .npy or .safetensors file.
    #[arg(required_unless_present = "manifest")]
    pub emissions: Option<PathBuf>,
    /// The transcripts.
    pub texts: Vec<String>,
    /// A file with more transcripts, one a line. Blank lines are skipped.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Score many files: each line is a path of emissions, a tab and a transcript. Paths are relative to the current
    /// directory, not to the list.
    #[arg(long, conflicts_with_all = ["emissions", "texts", "file"])]
    pub manifest: Option<PathBuf>,
    /// Rank by the log-likelihood of a token in place of that of the whole transcript.
    #[arg(long)]
    pub per_token: bool,
    /// Leave out text that the vocabulary cannot spell, such as punctuation, and name it on standard error. Transcripts
    /// from which different text was left out cannot be compared.
    #[arg(long)]
    pub skip: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

const ALIGN_EXAMPLES: &str = "\
Examples:
  ctc align demo/emissions.npy --vocab demo/vocab.json \"the quick brown fox\" --srt fox.srt --png fox.png
  ctc align demo/emissions.npy --vocab demo/vocab.json \"quick brown\" --partial
  ctc align demo/emissions.npy --vocab demo/vocab.json \"the 1st brown fox\" --lossy
  ctc align demo/emissions.npy --vocab demo/vocab.json --file demo/transcript.txt --srt -
  ctc align --vocab vocab.json --manifest list.tsv --textgrid grids --srt subtitles

In list.tsv a line is a path, a tab and a transcript:
  a.npy\tthe quick brown fox
  b.npy\thello world
The last example writes grids/a.TextGrid, grids/b.TextGrid, subtitles/a.srt and subtitles/b.srt.";

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("transcript").args(["text", "file", "manifest"]).required(true),
    override_usage = "ctc align [OPTIONS] --vocab <VOCAB> <EMISSIONS> <TEXT|--file <FILE>>\n       \
        ctc align [OPTIONS] --vocab <VOCAB> --manifest <MANIFEST>"
)]
pub struct AlignArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): a .npy or .safetensors file.
    #[arg(required_unless_present = "manifest")]
    pub emissions: Option<PathBuf>,
    /// The transcript.
    pub text: Option<String>,
    /// A file with the transcript, on one line or several.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Align many files: each line is a path of emissions, a tab and a transcript. Paths are relative to the current
    /// directory, not to the list. Prints one line of JSON for each. Outputs are then folders, with a file in them for
    /// each file of emissions.
    #[arg(long, conflicts_with = "emissions")]
    pub manifest: Option<PathBuf>,
    #[command(flatten)]
    pub fit: FitArgs,
    /// Write tokens and words with their times as JSON.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Write a Praat TextGrid with a tier of words and a tier of tokens.
    #[arg(long, value_name = "PATH")]
    pub textgrid: Option<PathBuf>,
    /// Write subtitles.
    #[arg(long, value_name = "PATH")]
    pub srt: Option<PathBuf>,
    /// Words in one subtitle, at most.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 7,
        value_parser = whole(1),
        allow_negative_numbers = true,
        requires = "srt"
    )]
    pub words_per_cue: usize,
    /// Draw the lattice with the path over the emissions, as SVG.
    #[arg(long, value_name = "PATH")]
    pub svg: Option<PathBuf>,
    /// The same picture as PNG.
    #[arg(long, value_name = "PATH")]
    pub png: Option<PathBuf>,
    #[command(flatten)]
    pub time: TimeArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

const WORDS_EXAMPLES: &str = "\
Examples:
  ctc words demo/emissions.npy --vocab demo/vocab.json
  ctc words demo/emissions.npy --vocab demo/vocab.json --text \"the quick brown fox\"
  ctc words a.npy b.npy --vocab vocab.json --json
  ctc words --vocab vocab.json --manifest list.tsv

In list.tsv a line is a path, a tab and a transcript:
  a.npy\tthe quick brown fox
  b.npy\thello world";

/// The options of a search for a transcript, which is not needed where one is given.
const SEARCH: [&str; 5] = ["greedy", "beam", "lm", "lexicon", "hotwords"];

#[derive(Debug, Args)]
pub struct WordsArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): .npy or .safetensors files.
    #[arg(required_unless_present = "manifest")]
    pub emissions: Vec<PathBuf>,
    /// The transcript of all the files, in place of one that is searched for. Default: that of a beam search.
    #[arg(long, group = "transcript", conflicts_with_all = SEARCH)]
    pub text: Option<String>,
    /// The same from a file, on one line or several.
    #[arg(long, group = "transcript", conflicts_with_all = SEARCH)]
    pub file: Option<PathBuf>,
    /// Files with transcripts: each line is a path of emissions, a tab and a transcript. Paths are relative to the
    /// current directory, not to the list.
    #[arg(long, group = "transcript", conflicts_with = "emissions", conflicts_with_all = SEARCH)]
    pub manifest: Option<PathBuf>,
    #[command(flatten)]
    pub fit: FitArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Print JSON; of several files, a line for each.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub time: TimeArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

const DECODE_EXAMPLES: &str = "\
Examples:
  ctc decode demo/emissions.npy --vocab demo/vocab.json
  ctc decode demo/emissions.npy --vocab demo/vocab.json --beam 100 --n-best 5 --json
  ctc decode a.npy b.npy --vocab vocab.json --greedy
  ctc decode a.npy --vocab vocab.json --lm 4gram.arpa.gz --alpha 0.8 --beta 1 --unknown -5
  ctc decode a.npy --vocab vocab.json --lexicon words.txt --hotwords names.txt

In words.txt a line is a word, or a word and its tokens; in names.txt a phrase, or a phrase, a tab and its boost:
  hello                   Anya
  hello h e l l o         quick brown fox\t3

In the library, --beam is BeamOptions::beam_width; --alpha, --beta and --unknown are lm_weight, word_bonus and
unknown_score of LexiconOptions.";

#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): .npy or .safetensors files.
    #[arg(required = true)]
    pub emissions: Vec<PathBuf>,
    #[command(flatten)]
    pub search: SearchArgs,
    /// How many transcripts to print, at most.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = whole(1),
        allow_negative_numbers = true,
        conflicts_with = "greedy"
    )]
    pub n_best: usize,
    /// Print JSON, with the times of the tokens; of several files, a line for each.
    #[arg(long)]
    pub json: bool,
    /// Seconds from one frame to the next, for the times of --json.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0.02,
        value_parser = duration,
        allow_negative_numbers = true,
        requires = "json"
    )]
    pub hop: f64,
    #[command(flatten)]
    pub model: ModelArgs,
}

const SPOT_EXAMPLES: &str = "\
Examples:
  ctc spot demo/emissions.npy --vocab demo/vocab.json \"quick brown\" fox
  ctc spot demo/emissions.npy --vocab demo/vocab.json box --threshold -3
  ctc spot a.npy --vocab vocab.json --file phrases.txt --json";

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("wanted").args(["phrases", "file"]).multiple(true).required(true),
    override_usage = "ctc spot [OPTIONS] --vocab <VOCAB> <EMISSIONS> [PHRASES]... [--file <FILE>]"
)]
pub struct SpotArgs {
    /// Log-probabilities of shape (T, C) or (1, T, C): a .npy or .safetensors file.
    pub emissions: PathBuf,
    /// The phrases.
    pub phrases: Vec<String>,
    /// A file with more phrases, one a line.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The least score per token, at most 0.
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = -1.0,
        value_parser = at_most_zero,
        allow_hyphen_values = true
    )]
    pub threshold: f64,
    /// Print JSON, with the times of the tokens.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub time: TimeArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

const TUNE_EXAMPLES: &str = "\
Examples:
  ctc tune --manifest held_out.tsv --vocab vocab.json --lm 4gram.arpa.gz --unknown -5
  ctc tune --manifest held_out.tsv --vocab vocab.json --lm 4gram.arpa.gz --alphas 0.2,0.4,0.6 --betas 0,1 --rounds 0

In held_out.tsv a line is a path, a tab and a transcript:
  a.npy\tthe quick brown fox
  b.npy\thello world";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("tuned").args(["lm", "lexicon"]).multiple(true).required(true))]
pub struct TuneArgs {
    /// Files with transcripts: each line is a path of emissions, a tab and a transcript. Paths are relative to the
    /// current directory, not to the list. All emissions are held in memory.
    #[arg(long)]
    pub manifest: PathBuf,
    /// The width of the beam.
    #[arg(
        long,
        value_name = "WIDTH",
        default_value_t = 50,
        value_parser = whole(1),
        allow_negative_numbers = true
    )]
    pub beam: usize,
    #[command(flatten)]
    pub files: KnowledgeFiles,
    /// The values of alpha to begin with. Without --lm there is only one.
    #[arg(
        long,
        value_name = "WEIGHTS",
        value_delimiter = ',',
        default_value = "0,0.5,1,1.5,2",
        requires = "lm",
        value_parser = number(ALPHA_RANGE),
        allow_hyphen_values = true
    )]
    pub alphas: Vec<f64>,
    /// The values of beta to begin with, in nats.
    #[arg(
        long,
        value_name = "NATS",
        value_delimiter = ',',
        default_value = "-2,-1,0,1,2",
        value_parser = number(BETA_RANGE),
        allow_hyphen_values = true
    )]
    pub betas: Vec<f64>,
    /// How often to halve the steps around the best weights.
    #[arg(long, default_value_t = 2, value_parser = whole(0), allow_negative_numbers = true)]
    pub rounds: usize,
    /// Count wrong characters in place of wrong words.
    #[arg(long)]
    pub characters: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

const NGRAM_EXAMPLES: &str = "\
Examples:
  ctc ngram 4gram.arpa.gz 4gram.ngram
  ctc ngram 4gram.arpa.gz small.ngram --quantise
  ctc ngram transcripts.txt 3gram.ngram --estimate 3";

#[derive(Debug, Args)]
pub struct NgramArgs {
    /// A model in the ARPA format, plain or compressed with gzip, or one that this command has written; with --estimate, a
    /// text with a sentence on each line.
    pub input: PathBuf,
    /// The file to write.
    #[arg(value_parser = PathBufValueParser::new().try_map(not_standard_output))]
    pub out: PathBuf,
    /// Estimate a model of this order from the words of a text (Witten-Bell smoothing). Words are taken as they are: case
    /// and punctuation should be those of the vocabulary.
    #[arg(long, value_name = "ORDER", value_parser = order, allow_negative_numbers = true)]
    pub estimate: Option<usize>,
    /// Round the probabilities and backoffs of each order to 256 values: the file has about 70 % of the size.
    #[arg(long, visible_alias = "quantize")]
    pub quantise: bool,
}

const DEMO_EXAMPLES: &str = "\
Examples:
  ctc demo --out demo
  ctc demo --out demo --text \"hello world\"";

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The folder to write to.
    #[arg(long)]
    pub out: PathBuf,
    /// What the emissions say: letters and spaces.
    #[arg(long, default_value = "the quick brown fox")]
    pub text: String,
}

/// How a transcript may differ from the audio. The command has a group `transcript` of what names one.
#[derive(Debug, Args)]
pub struct FitArgs {
    /// The transcript covers only a part of the audio. A frame before or after it is worth its best class other than
    /// the blank less PENALTY nats (2 if none is given), or the blank.
    #[arg(long, value_name = "PENALTY", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = finite, requires = "transcript")]
    pub partial: Option<f32>,
    /// A star takes the place of text that the vocabulary cannot spell. It stands for any audio, so that the text has a
    /// place in the result; each of its frames is worth -PENALTY nats (-0.5 if none is given). The text is named on
    /// standard error. To leave it out instead: --skip.
    #[arg(long, value_name = "PENALTY", num_args = 0..=1, require_equals = true, default_missing_value = "0.5",
        value_parser = finite, requires = "transcript")]
    pub lossy: Option<f32>,
    /// Leave out text that the vocabulary cannot spell, such as punctuation, and name it on standard error.
    #[arg(long, requires = "transcript", conflicts_with = "lossy")]
    pub skip: bool,
}

/// How a transcript is found.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Take the best class of each frame in place of a beam search.
    #[arg(long, conflicts_with_all = ["beam", "lm", "lexicon", "hotwords"])]
    pub greedy: bool,
    /// The width of the beam.
    #[arg(
        long,
        value_name = "WIDTH",
        default_value_t = 50,
        value_parser = whole(1),
        allow_negative_numbers = true
    )]
    pub beam: usize,
    #[command(flatten)]
    pub knowledge: KnowledgeArgs,
}

/// What a beam search knows of the language, and its weights.
#[derive(Debug, Args)]
pub struct KnowledgeArgs {
    #[command(flatten)]
    pub files: KnowledgeFiles,
    /// The weight of the language model's scores.
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = DEFAULT_ALPHA,
        requires = "lm",
        value_parser = number(ALPHA_RANGE),
        allow_negative_numbers = true
    )]
    pub alpha: f64,
    /// Added for each word of the lexicon or the language model, in nats.
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = DEFAULT_BETA,
        requires = "word_lists",
        value_parser = number(BETA_RANGE),
        allow_hyphen_values = true
    )]
    pub beta: f64,
}

/// What a beam search knows of the language.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("word_lists").args(["lm", "lexicon"]).multiple(true))]
pub struct KnowledgeFiles {
    /// An n-gram model of words in the ARPA format, plain or compressed with gzip, or from the command ngram. Only its
    /// words are found, unless there is a lexicon or a score for others.
    #[arg(long, value_name = "FILE")]
    pub lm: Option<PathBuf>,
    /// The words that may be found: a word on each line, or a word and its tokens, separated by spaces. A word may have
    /// several lines. Words without tokens that the vocabulary cannot spell as one word are left out, and named on
    /// standard error.
    #[arg(long, value_name = "FILE")]
    pub lexicon: Option<PathBuf>,
    /// Words and phrases to prefer: one on each line, or one, a tab and its boost in nats.
    #[arg(long, value_name = "FILE")]
    pub hotwords: Option<PathBuf>,
    /// The boost of hotwords that have none of their own, in nats.
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = 5.0,
        requires = "hotwords",
        value_parser = number(-1e100..=1e100),
        allow_hyphen_values = true
    )]
    pub boost: f64,
    /// Lets the search find other words, too, and adds this for each, in nats; below 0, such as -5. The language
    /// model's score of <unk>, times alpha, comes on top: without <unk> in the model it is -230, so that other words
    /// are hardly ever found.
    #[arg(
        long,
        value_name = "NATS",
        requires = "word_lists",
        value_parser = number(-1e9..=1e6),
        allow_hyphen_values = true
    )]
    pub unknown: Option<f64>,
}

/// What the emissions mean.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The vocabulary: vocab.json, tokenizer.json, a JSON list, SentencePiece's .vocab, or a file with a token, or a
    /// token and its class, on each line.
    #[arg(long)]
    pub vocab: PathBuf,
    /// Which tensor of a .safetensors file; not needed when there is only one. A .npy file has no names.
    #[arg(long)]
    pub tensor: Option<String>,
    /// Apply a log-softmax: the emissions are logits, or the probabilities of a frame do not sum to 1.
    #[arg(long)]
    pub logits: bool,
    /// The blank, as a class if it is a number, else as a token. Default: the token with a known name, such as <blank>,
    /// <blk> or <pad>.
    #[arg(long)]
    pub blank: Option<String>,
    /// The token between words. Default: how the vocabulary marks words.
    #[arg(long)]
    pub separator: Option<String>,
}

/// What turns frames into times.
#[derive(Debug, Args)]
pub struct TimeArgs {
    /// Seconds from one frame to the next.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0.02,
        value_parser = duration,
        allow_negative_numbers = true
    )]
    pub hop: f64,
}

fn whole(least: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text: &str| match text.parse::<usize>() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("it must be a whole number, at least {least}")),
    }
}

/// The order of an n-gram model.
fn order(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(order) if (1..=255).contains(&order) => Ok(order),
        _ => Err("it must be a whole number from 1 to 255".to_owned()),
    }
}

fn number(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text: &str| match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = (range.start(), range.end());
            Err(format!("it must be a number from {least:?} to {most:?}"))
        }
    }
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("it must be a finite number".to_owned()),
    }
}

fn at_most_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number <= 0.0 => Ok(number),
        _ => Err("it must be a number, at most 0".to_owned()),
    }
}

/// A model is mapped from its file, so that it must be one.
fn not_standard_output(path: PathBuf) -> Result<PathBuf, &'static str> {
    match path.as_os_str() == "-" {
        true => Err("the model cannot go to standard output; name a file"),
        false => Ok(path),
    }
}

fn duration(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1e-9..=1e9).contains(&seconds) => Ok(seconds),
        _ => Err("it must be a number of seconds from 1e-9 to 1e9".to_owned()),
    }
}
