//! Every size at which the CPU changes its way of computing, with one less and one more, against the plain lattice of
//! `common::lattice`; and the same for inputs at the ends of what numbers hold: sure models and masks.
//!
//! A test collects all that it finds wrong and panics once, so that a run says how far a fault reaches.

use crate::common::lattice::{Item, Sums, softmax_scale};
use crate::common::oracle::{Problem, collapse, repeats, uniform_loss};
use crate::common::tolerance::{self, Tolerance};
use crate::common::{Entry, Rng, devices, for_confidence, holds, run_problem, tensors};
use candle_core::{DType, Device};
use candle_ctc::{
    AlignOptions, Alignment, CtcLossOptions, InputKind, Reduction, ScoreOptions, forced_align,
    score_transcripts, score_transcripts_batch, state_posteriors_batch, token_confidence_batch,
};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

// Constants of the CPU code, under the names that they have there. `constants_are_those_of_the_source` fails when one
// changes, comes or goes.

/// Frames of a block, and pairs of a tile (`cpu/time.rs`, `cpu/lattice/scaled`).
const BLOCK_FRAMES: usize = 8;
/// Frames of a part of a block where pairs have exponents of their own (`cpu/lattice/scaled`).
const PART: usize = 4;
/// Lanes of the widest loops (`cpu/simd/lanes.rs`); pairs are rounded up to it in `cpu/lattice/viterbi.rs`.
const LANES: usize = 16;
/// Blocks of a half that are read at once: by one thread, and when threads share an item (`at_once` in `cpu/drivers/item.rs`,
/// `AT_ONCE` in `cpu/drivers/batch.rs`).
const AT_ONCE: [usize; 2] = [4, 16];
/// Items side by side, and the fewest for that (`cpu/lattice/scaled/interleaved.rs`).
const INTERLEAVED: usize = 8;
const FEWEST_INTERLEAVED: usize = 5;
/// Frames of a segment and pairs of a tile of the best path (`cpu/lattice/viterbi.rs`).
const SEGMENT: usize = 2048;
const TILE: usize = 1024;
/// Entries that a thread reads and writes at a time (`cpu/emissions/gather.rs`, `cpu/gradient.rs`).
const READ_SHARE: usize = 1 << 16;
const WRITE_SHARE: usize = 1 << 15;
/// Entries of a table of candidates, and the most blocks in it (`cpu/drivers/candidates.rs`).
const TABLE: usize = 1 << 16;
const TABLE_BLOCKS: usize = 64;
/// Bytes of a short row (`cpu/emissions/gather.rs`).
const SHORT: usize = 512;
/// Entries from which the next table is prefetched (`cpu/lattice/scaled`).
const LONG: usize = 64;
/// Classes for each of a sparse row (`cpu/gradient.rs`).
const FOR_EACH: usize = 16;
/// Bytes of a gradient from which it takes non-temporal stores (`cpu/simd/nontemporal.rs`), and from which it is in huge pages
/// (`cpu/gradient.rs`).
const STREAMED: usize = 16 << 20;
const HUGE: usize = 4 << 20;
/// Classes that are numbered by table (`problem/labels.rs`).
const DENSE: usize = 1 << 16;
/// Work, in about nanoseconds, from which a second thread is woken, and up to which memory is kept (`cpu/threads.rs`).
const WORTH_A_THREAD: usize = 1 << 14;
const SMALL: usize = 1 << 20;
/// Nats below the largest entry of a frame from which an emission is no plain f32 (`cpu/simd/real.rs`).
const LOWEST: f64 = -87.0;
/// Lanes of a warp; a lane takes 1, 2 or 4 pairs (`gpu/launch.rs`).
const WARP: usize = 32;

/// Each constant as its file declares it. Those that only describe the processor are here too, so that the list is
/// complete.
const DECLARED: [&str; 36] = [
    "MOST_OMITTED: usize = 12",
    "BLOCK_FRAMES: usize = 8",
    "PAIRS: usize = 8",
    "LANES: usize = 16",
    "AT_ONCE: usize = 16",
    "LANES: usize = 8",
    "FEWEST: usize = 5",
    "SEGMENT: usize = 2048",
    "TILE: usize = 1024",
    "SHARE: usize = 1 << 16",
    "SHARE: usize = 1 << 15",
    "TABLE: usize = 1 << 16",
    "SHORT: usize = 512",
    "LONG: usize = 64",
    "FOR_EACH: usize = 16",
    "FEWEST_BYTES: usize = 16 << 20",
    "FEWEST_BYTES: usize = 4 << 20",
    // Numbers up to which room for rows is not looked for: `rows_of_classes_that_fit_no_memory_are_an_error`.
    "ALWAYS: usize = 1 << 20",
    "DENSE: usize = 1 << 16",
    "WORTH_A_THREAD: usize = 1 << 14",
    "LOWEST: f32 = -87.0",
    // The least exponent of an emission in f64: `entries_far_apart`.
    "LOWEST_EXP: f64 = -1021.0",
    // The least exponent of a factor between tiles: `models_that_are_sure_of_something_else`.
    "MIN_NORMAL_EXP: i64 = -1022",
    // Registers of a square, blocks converted together, labels written together, blocks of a sum of exponentials,
    // frames from one normalisation of wide numbers to the next, frames and number of the parts of a block:
    // `frames_by_pairs`, `used_classes`, `classes_of_a_softmax`.
    "SIDE: usize = 8",
    "HALF: usize = SIDE / 2",
    "FEW: usize = 4",
    "FEW: usize = 8",
    "BLOCKS: usize = 16",
    "NORMALISE: usize = 2",
    "PART: usize = 4",
    "PARTS: usize = BLOCK_FRAMES.div_ceil(PART)",
    // Sizes in tests of units, and of a message.
    "CLASSES: usize = 4",
    "JOBS: usize = 1 << 12",
    "BYTES: usize = size_of::<(Tile, Scale, f64, Pairs)>()",
    // A line of the cache and a page of memory.
    "LINE: usize = 64",
    "PAGE: usize = 4096",
];

/// Thresholds that have no name.
const INLINE: [&str; 5] = [
    "if split { 16 } else { 4 }",
    "self.0 <= 1 << 20",
    "4 * rayon::current_num_threads()",
    "clamp(1, 64)",
    "4 * SHORT",
];

#[test]
fn constants_are_those_of_the_source() {
    fn files(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let [mut text, memory] = ["problem/labels.rs", "memory.rs"]
        .map(|file| std::fs::read_to_string(source.join(file)).unwrap());
    text.push_str(&memory);
    files(&source.join("cpu"), &mut text);
    let found: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim().split_once("const "))
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        .filter_map(|(_, rest)| rest.strip_suffix(';'))
        .filter(|rest| {
            rest.contains(": usize =")
                || rest.starts_with("LOWEST")
                || rest.starts_with("MIN_NORMAL_EXP")
        })
        .collect();
    let listed: BTreeSet<&str> = DECLARED.into_iter().collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "constants that this file does not know: {new:?}; constants that the source does not have: {gone:?}"
    );
    for inline in INLINE {
        assert!(text.contains(inline), "the source has no {inline:?}");
    }
}

/// What a test has compared, and what was wrong.
#[derive(Default)]
struct Checked {
    count: usize,
    /// What is allowed beside each tolerance.
    slack: f64,
    faults: Vec<String>,
}

impl Checked {
    fn near(&mut self, what: &str, got: &[f64], want: &[f64], tolerance: Tolerance) {
        self.count += 1;
        let tolerance = Tolerance {
            absolute: tolerance.absolute + self.slack,
            ..tolerance
        };
        if let Some(fault) = tolerance.fault(got, want) {
            self.faults.push(format!("{what}: {fault}"));
        }
    }

    fn holds(&mut self, what: &str, holds: bool, why: impl FnOnce() -> String) {
        self.count += 1;
        if !holds {
            self.faults.push(format!("{what}: {}", why()));
        }
    }

    fn merge(mut self, other: Checked) -> Checked {
        self.count += other.count;
        self.faults.extend(other.faults);
        self
    }

    /// Panics with all faults, or if fewer than `least` things were compared.
    #[track_caller]
    fn finish(self, least: usize) {
        println!("{} comparisons", self.count);
        assert!(
            self.count >= least,
            "only {} comparisons: the test has lost its cases",
            self.count
        );
        let shown = self.faults.iter().take(60).cloned().collect::<Vec<_>>();
        assert!(
            self.faults.is_empty(),
            "{} of {} comparisons are wrong:\n{}",
            self.faults.len(),
            self.count,
            shown.join("\n")
        );
    }
}

/// The numbers next to each of `these`, and each itself.
fn around(these: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let near = these.into_iter().flat_map(|x| x.saturating_sub(1)..=x + 1);
    near.collect::<BTreeSet<_>>().into_iter().collect()
}

fn log_softmax(values: &mut [f64], classes: usize) {
    for row in values.chunks_exact_mut(classes) {
        let (largest, sum) = softmax_scale(row);
        row.iter_mut().for_each(|x| *x = (*x - largest) - sum.ln());
    }
}

fn random(rng: &mut Rng, rows: usize, classes: usize) -> Vec<f64> {
    let mut values = rng.values(rows * classes, 3.0);
    log_softmax(&mut values, classes);
    values
}

/// `count` labels, no two of them the same as their neighbour.
fn without_repeats(count: usize, classes: usize) -> Vec<usize> {
    (0..count).map(|i| 1 + i % (classes - 1)).collect()
}

fn labels(target: &[usize]) -> Vec<u32> {
    target.iter().map(|&label| label as u32).collect()
}

/// A batch of items that all have these frames, in the numbers of a dtype.
fn same_frames(values: &[f64], classes: usize, targets: &[Vec<usize>], dtype: DType) -> Problem {
    let frames = values.len() / classes;
    let values = tensors::rounded(values, dtype);
    let rows = values.chunks_exact(classes);
    Problem {
        frames,
        classes,
        blank: 0,
        values: rows.flat_map(|row| row.repeat(targets.len())).collect(),
        targets: targets.to_vec(),
        input_lengths: vec![frames; targets.len()],
    }
}

/// The item `n` of a batch alone.
fn alone(p: &Problem, n: usize) -> Problem {
    Problem {
        frames: p.input_lengths[n],
        values: p.item(n),
        targets: vec![p.targets[n].clone()],
        input_lengths: vec![p.input_lengths[n]],
        ..p.clone()
    }
}

/// What is true of an item.
struct Known {
    values: Vec<f64>,
    classes: usize,
    target: Vec<usize>,
    sums: Sums,
    posterior: Vec<f64>,
    /// For logits.
    loss_of_logits: f64,
}

impl Known {
    fn new(values: Vec<f64>, classes: usize, target: &[usize]) -> Self {
        let item = Item {
            log_probs: &values,
            classes,
            target,
            blank: 0,
        };
        let sums = item.sums();
        Known {
            loss_of_logits: sums.loss_of_logits(&item),
            posterior: sums.classes(&item),
            sums,
            classes,
            target: target.to_vec(),
            values,
        }
    }

    fn of(p: &Problem) -> Vec<Known> {
        let items = (0..p.items()).into_par_iter();
        items
            .map(|n| Known::new(p.item(n), p.classes, &p.targets[n]))
            .collect()
    }

    fn item(&self) -> Item<'_> {
        Item {
            log_probs: &self.values,
            classes: self.classes,
            target: &self.target,
            blank: 0,
        }
    }

    fn loss(&self, entry: Entry) -> f64 {
        match entry {
            Entry::LogProbs => self.sums.loss,
            Entry::Logits => self.loss_of_logits,
        }
    }

    /// The gradient at one frame.
    fn gradient(&self, entry: Entry, t: usize) -> Vec<f64> {
        let posterior = &self.posterior[t * self.classes..][..self.classes];
        let row = &self.values[t * self.classes..][..self.classes];
        match (entry, self.loss(entry)) {
            (_, loss) if loss.is_nan() => vec![f64::NAN; self.classes],
            (_, f64::INFINITY) => vec![0.0; self.classes],
            (Entry::LogProbs, _) => posterior.iter().map(|p| -p).collect(),
            (Entry::Logits, _) => {
                let (largest, sum) = softmax_scale(row);
                let entries = row.iter().zip(posterior);
                entries
                    .map(|(x, p)| (x - largest).exp() / sum - p)
                    .collect()
            }
        }
    }
}

const NONE: CtcLossOptions = CtcLossOptions {
    blank: 0,
    reduction: Reduction::None,
    zero_infinity: false,
    gradient: candle_ctc::GradientKind::Exact,
    layout: candle_ctc::InputLayout::TimeMajor,
    checks: candle_ctc::Checks::Host,
};

/// Losses and gradients of a batch, and losses without gradients.
fn check_losses(
    checked: &mut Checked,
    what: &str,
    p: &Problem,
    known: &[&Known],
    dtype: DType,
    device: &Device,
) {
    for entry in Entry::ALL {
        let what = format!("{what} {dtype:?} {entry:?} N = {}", p.items());
        let losses: Vec<f64> = known.iter().map(|known| known.loss(entry)).collect();
        let mut gradient = vec![0.0; p.values.len()];
        for (n, known) in known.iter().enumerate() {
            for t in 0..p.input_lengths[n] {
                gradient[p.at(t, n, 0)..][..p.classes].copy_from_slice(&known.gradient(entry, t));
            }
        }
        let got = run_problem(entry, p, NONE, dtype, device, None).unwrap();
        checked.near(
            &format!("{what} loss"),
            &got.loss,
            &losses,
            tolerance::loss(dtype),
        );
        checked.near(
            &format!("{what} gradient"),
            &got.gradient,
            &gradient,
            tolerance::gradient(dtype),
        );
        let input = tensors::floats(&p.values, &[p.frames, p.items(), p.classes], dtype, device);
        let targets = tensors::padded(&p.targets, 0, 0, DType::U32, device);
        let lengths = p.target_lengths();
        let loss = entry
            .loss(&input, &targets, &p.input_lengths, &lengths, NONE)
            .unwrap();
        checked.near(
            &format!("{what} loss without a gradient"),
            &tensors::read(&loss),
            &losses,
            tolerance::loss(dtype),
        );
    }
}

/// The dtype of what is computed from an input for inference.
fn result_of(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// For rows that need not be normalised.
fn score_options(entry: Entry) -> ScoreOptions {
    ScoreOptions {
        input: match entry {
            Entry::LogProbs => InputKind::LogProbs,
            Entry::Logits => InputKind::Logits,
        },
        normalised: false,
        ..Default::default()
    }
}

/// The same for best paths.
fn align_options() -> AlignOptions<'static> {
    AlignOptions {
        normalised: false,
        ..Default::default()
    }
}

/// An error without its backtrace.
fn line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}

/// f64 sums of up to 4200 entries, in another order.
const BEST: Tolerance = Tolerance {
    absolute: 1e-9,
    relative: 1e-13,
};

fn check_alignment(checked: &mut Checked, what: &str, item: &Item, best: f64, got: &Alignment) {
    checked.near(&format!("{what} best score"), &[got.score], &[best], BEST);
    if got.labels.len() != item.frames() {
        checked.holds(what, false, || format!("{} labels", got.labels.len()));
        return;
    }
    let own = item.path_score(&got.labels);
    checked.near(&format!("{what} score of the path"), &[own], &[best], BEST);
    let path: Vec<usize> = got.labels.iter().map(|&label| label as usize).collect();
    checked.holds(what, collapse(&path, 0) == item.target, || {
        "the path does not read as the target".into()
    });
    let scores = path.iter().enumerate();
    let scores: Vec<f64> = scores
        .map(|(t, &class)| item.log_probs[t * item.classes + class])
        .collect();
    let frame_scores: Vec<f64> = got.frame_scores.iter().map(|&x| f64::from(x)).collect();
    let single = Tolerance {
        absolute: 1e-45,
        relative: 6e-8,
    };
    checked.near(
        &format!("{what} frame scores"),
        &frame_scores,
        &scores,
        single,
    );
    // A span for each token, in order, and blanks everywhere else.
    let tokens: Vec<usize> = got.spans.iter().map(|span| span.token as usize).collect();
    let mut covered = vec![0; path.len()];
    let mut last = 0;
    let mut ordered = true;
    for span in &got.spans {
        ordered &= last <= span.start && span.start < span.end && span.end <= path.len();
        last = span.end;
        if ordered {
            covered[span.start..span.end].fill(span.token as usize);
        }
    }
    checked.holds(
        what,
        ordered && tokens == item.target && covered == path,
        || format!("spans do not fit the path: {:?}", got.spans),
    );
}

/// Best paths, scores, posteriors of states and confidences.
fn check_inference(checked: &mut Checked, what: &str, p: &Problem, known: &[&Known], dtype: DType) {
    let what = format!("{what} {dtype:?} N = {}", p.items());
    let input = tensors::floats(
        &p.values,
        &[p.frames, p.items(), p.classes],
        dtype,
        &Device::Cpu,
    );
    let targets = tensors::padded(&p.targets, 0, 0, DType::U32, &Device::Cpu);
    let (lengths, frames) = (p.target_lengths(), &p.input_lengths);
    let result = result_of(dtype);

    let lists: Vec<Vec<Vec<u32>>> = p
        .targets
        .iter()
        .map(|target| vec![labels(target)])
        .collect();
    for entry in Entry::ALL {
        let opts = score_options(entry);
        let got = score_transcripts_batch(&input, frames, &lists, opts).unwrap();
        let want: Vec<f64> = known.iter().map(|known| -known.loss(entry)).collect();
        checked.near(
            &format!("{what} {entry:?} scores"),
            &got.concat(),
            &want,
            tolerance::loss(dtype),
        );
    }

    let opts = score_options(Entry::LogProbs);
    let got =
        state_posteriors_batch(&input, &targets, frames, &lengths, for_confidence(opts)).unwrap();
    let tokens =
        token_confidence_batch(&input, &targets, frames, &lengths, for_confidence(opts)).unwrap();
    for (n, known) in known.iter().enumerate() {
        let item = known.item();
        let what = format!("{what} item {n} U = {}", item.target.len());
        checked.near(
            &format!("{what} states"),
            &tensors::read(&got[n]),
            &known.sums.states(&item),
            tolerance::gradient(result),
        );
        let want: Vec<f64> = known
            .sums
            .tokens(&item)
            .iter()
            .flat_map(|t| {
                [
                    t.posterior,
                    t.probability,
                    t.expected_frame,
                    t.expected_frames,
                ]
            })
            .collect();
        let got: Vec<f64> = tokens[n]
            .iter()
            .flat_map(|t| {
                [
                    t.posterior,
                    t.probability,
                    t.expected_frame,
                    t.expected_frames,
                ]
            })
            .collect();
        checked.near(
            &format!("{what} confidence"),
            &got,
            &want,
            tolerance::gradient(result),
        );
        check_best_path(checked, &what, &item, dtype);
    }
}

/// The best path of one item, or the error where there is none.
fn check_best_path(checked: &mut Checked, what: &str, item: &Item, dtype: DType) {
    let frames = item.frames();
    let input = tensors::floats(item.log_probs, &[frames, item.classes], dtype, &Device::Cpu);
    let got = forced_align(&input, &labels(item.target), align_options());
    let best = item.best_score();
    match got {
        Ok(got) => check_alignment(checked, what, item, best, &got),
        Err(error) => checked.holds(what, best == f64::NEG_INFINITY, || {
            format!(
                "best path: {}, but there is one of score {best}",
                line(&error)
            )
        }),
    }
}

/// Many candidates for the same frames, and each of them alone.
fn check_candidates(checked: &mut Checked, what: &str, known: &[&Known], dtype: DType) {
    let (values, classes) = (&known[0].values, known[0].classes);
    let input = tensors::floats(
        values,
        &[values.len() / classes, classes],
        dtype,
        &Device::Cpu,
    );
    let all: Vec<Vec<u32>> = known.iter().map(|known| labels(&known.target)).collect();
    for entry in Entry::ALL {
        let opts = score_options(entry);
        let want: Vec<f64> = known.iter().map(|known| -known.loss(entry)).collect();
        let got = score_transcripts(&input, &all, opts).unwrap();
        checked.near(
            &format!("{what} {dtype:?} {entry:?} {} candidates", all.len()),
            &got,
            &want,
            tolerance::loss(dtype),
        );
    }
}

/// All of the above, the batch at once and each item alone.
fn check_everything(checked: &mut Checked, what: &str, p: &Problem, dtype: DType) {
    let known = Known::of(p);
    let all: Vec<&Known> = known.iter().collect();
    check_losses(checked, what, p, &all, dtype, &Device::Cpu);
    check_inference(checked, what, p, &all, dtype);
    for (n, known) in known.iter().enumerate() {
        let what = format!("{what} U = {}", known.target.len());
        check_losses(checked, &what, &alone(p, n), &[known], dtype, &Device::Cpu);
    }
}

/// Sizes of targets and of frames near what one tile, block, chunk and so on holds.
fn label_counts() -> Vec<usize> {
    around([
        0,
        BLOCK_FRAMES,
        2 * BLOCK_FRAMES,
        3 * BLOCK_FRAMES,
        32,
        5 * BLOCK_FRAMES,
        64,
        128,
        256,
    ])
}

fn frame_counts() -> Vec<usize> {
    let halves = AT_ONCE.map(|blocks| 2 * blocks * BLOCK_FRAMES);
    let frames = [
        1,
        PART,
        2 * PART,
        BLOCK_FRAMES + PART,
        BLOCK_FRAMES + 2 * PART,
        BLOCK_FRAMES,
        2 * BLOCK_FRAMES,
        3 * BLOCK_FRAMES,
        4 * BLOCK_FRAMES,
        5 * BLOCK_FRAMES,
        72,
        128,
        512,
    ];
    around(frames.into_iter().chain(halves))
}

/// All pairs of these sizes that fit, with everything that the crate computes.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn frames_by_pairs() {
    let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(1), 12);
    for frames in frame_counts().into_iter().filter(|&frames| frames > 0) {
        let values = random(&mut rng, frames, classes);
        let mut targets: Vec<Vec<usize>> = label_counts()
            .into_iter()
            .filter(|&length| length <= frames)
            .map(|length| rng.target(length, classes, 0, [0.0, 0.15][length % 2]))
            .filter(|target| target.len() + repeats(target) <= frames)
            .collect();
        // One that does not fit.
        targets.push(vec![3; frames / 2 + 1 + frames % 2]);
        targets.dedup();
        let p = same_frames(&values, classes, &targets, DType::F32);
        let known = Known::of(&p);
        let all: Vec<&Known> = known.iter().collect();
        let what = format!("T = {frames}");
        check_losses(&mut checked, &what, &p, &all, DType::F32, &Device::Cpu);
        check_candidates(&mut checked, &what, &all, DType::F32);
        for (n, known) in known.iter().enumerate() {
            let what = format!("{what} U = {}", known.target.len());
            check_losses(
                &mut checked,
                &what,
                &alone(&p, n),
                &[known],
                DType::F32,
                &Device::Cpu,
            );
            check_candidates(&mut checked, &what, &[known], DType::F32);
            check_best_path(&mut checked, &what, &known.item(), DType::F32);
        }
        if frames <= 130 {
            check_inference(&mut checked, &what, &p, &all, DType::F32);
        }
    }
    checked.finish(5000);
}

/// The loss of frames that are all alike, from its closed form: many more pairs of sizes.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn uniform_frames_have_the_closed_form() {
    let (mut checked, classes, pool) = (Checked::default(), 4, pool(2));
    let counts = label_counts().into_iter().chain(0..40);
    let counts: Vec<usize> = counts.collect::<BTreeSet<_>>().into_iter().collect();
    for frames in (1..=80).chain(frame_counts()).filter(|&frames| frames > 0) {
        let values = vec![f64::from(0.25f32.ln()); frames * classes];
        for repeated in [false, true] {
            let targets: Vec<Vec<usize>> = counts
                .iter()
                .map(|&length| match repeated {
                    false => without_repeats(length, classes),
                    true => (0..length).map(|i| 1 + i / 2 % 3).collect(),
                })
                .collect();
            let p = same_frames(&values, classes, &targets, DType::F32);
            let want: Vec<f64> = targets
                .iter()
                .map(|target| uniform_loss(frames, p.values[0], target.len(), repeats(target)))
                .collect();
            for n in [targets.len(), 1] {
                for (targets, want) in targets.chunks(n).zip(want.chunks(n)) {
                    let p = same_frames(&values, classes, targets, DType::F32);
                    let run =
                        || run_problem(Entry::LogProbs, &p, NONE, DType::F32, &Device::Cpu, None);
                    let got = pool.install(run).unwrap();
                    checked.near(
                        &format!("T = {frames} U = {} N = {n}", targets[0].len()),
                        &got.loss,
                        want,
                        tolerance::loss(DType::F32),
                    );
                }
            }
        }
    }
    checked.finish(5000);
}

/// `T` as needed for the tests of paths: all small ones, and those near the sizes of the best path's code.
fn path_lengths() -> Vec<usize> {
    let far = [TILE, SEGMENT, SEGMENT + LANES, 2 * SEGMENT];
    let alone = [
        SEGMENT + BLOCK_FRAMES,
        SEGMENT + 2 * LANES,
        3000,
        SEGMENT + TILE,
        2 * SEGMENT + LANES,
        4200,
    ];
    (1..=300)
        .chain(around(far))
        .chain(alone)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// A target and the only path of so many frames that reads as it: with a blank between each pair of repeats.
fn the_only_path(rng: &mut Rng, frames: usize, repeated: f64) -> (Vec<usize>, Vec<usize>) {
    let (mut target, mut path) = (Vec::new(), Vec::new());
    while path.len() < frames {
        match target.last() {
            Some(&last) if rng.unit() < repeated && path.len() + 2 <= frames => {
                path.extend([0, last]);
                target.push(last);
            }
            last => {
                let label = 1 + (last.unwrap_or(&0) + rng.below(2)) % 3;
                path.push(label);
                target.push(label);
            }
        }
    }
    assert_eq!(target.len() + repeats(&target), frames);
    (target, path)
}

/// Targets that leave no frame to spare have one path, whose score is the sum of its entries.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn targets_as_long_as_their_frames() {
    let cases: Vec<(usize, f64)> = path_lengths()
        .into_iter()
        .flat_map(|frames| [0.0, 0.1, 0.5, 1.0].map(|repeated| (frames, repeated)))
        .filter(|&(frames, repeated)| frames < TILE || repeated < 0.5)
        .collect();
    let checked = cases.into_par_iter().map(|(frames, repeated)| {
        let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(frames as u64), 4);
        let (target, path) = the_only_path(&mut rng, frames, repeated);
        let values = random(&mut rng, frames, classes);
        let p = same_frames(&values, classes, std::slice::from_ref(&target), DType::F32);
        let what = format!("T = {frames} U = {} R = {}", target.len(), repeats(&target));
        let entries = path.iter().enumerate();
        let score: f64 = entries.map(|(t, &c)| p.values[t * classes + c]).sum();
        let mut gradient = vec![0.0; frames * classes];
        for (t, &class) in path.iter().enumerate() {
            gradient[t * classes + class] = -1.0;
        }
        let got = run_problem(Entry::LogProbs, &p, NONE, DType::F32, &Device::Cpu, None).unwrap();
        let (loss, near) = (tolerance::loss(DType::F32), tolerance::gradient(DType::F32));
        checked.near(&format!("{what} loss"), &got.loss, &[-score], loss);
        checked.near(&format!("{what} gradient"), &got.gradient, &gradient, near);
        let input = tensors::floats(&p.values, &[frames, classes], DType::F32, &Device::Cpu);
        let opts = score_options(Entry::LogProbs);
        let scores = score_transcripts(&input, &[labels(&target)], opts).unwrap();
        checked.near(&format!("{what} score"), &scores, &[score], loss);
        match forced_align(&input, &labels(&target), align_options()) {
            Ok(got) => {
                checked.near(&format!("{what} best score"), &[got.score], &[score], BEST);
                checked.holds(&what, got.labels == labels(&path), || "another path".into());
            }
            Err(error) => checked.holds(&what, false, || format!("best path: {}", line(&error))),
        }
        if frames <= 140 {
            let targets = tensors::concatenated(&p.targets, DType::U32, &Device::Cpu);
            let confidence = token_confidence_batch(
                &input,
                &targets,
                frames,
                target.len(),
                for_confidence(opts),
            )
            .unwrap();
            let tokens = confidence[0].iter();
            let got: Vec<f64> = tokens
                .flat_map(|t| [t.posterior, t.expected_frames, t.expected_frame])
                .collect();
            let at = path.iter().enumerate().filter(|&(_, &class)| class > 0);
            let want: Vec<f64> = at.flat_map(|(t, _)| [1.0, 1.0, t as f64]).collect();
            checked.near(&format!("{what} confidence"), &got, &want, near);
        }
        checked
    });
    checked
        .reduce(Checked::default, Checked::merge)
        .finish(6000);
}

/// The same with one frame more, which makes about as many paths as there are states.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn targets_with_one_frame_to_spare() {
    let cases: Vec<(usize, f64)> = path_lengths()
        .into_iter()
        .filter(|&frames| frames > 1)
        .flat_map(|frames| [0.0, 0.3].map(|repeated| (frames, repeated)))
        .filter(|&(frames, repeated)| frames < TILE || repeated == 0.0)
        .collect();
    let checked = cases.into_par_iter().map(|(frames, repeated)| {
        let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(frames as u64), 4);
        let (target, _) = the_only_path(&mut rng, frames - 1, repeated);
        let values = random(&mut rng, frames, classes);
        let p = same_frames(&values, classes, &[target], DType::F32);
        let known = Known::of(&p);
        let what = format!("T = {frames} U = {}", p.targets[0].len());
        check_losses(
            &mut checked,
            &what,
            &p,
            &[&known[0]],
            DType::F32,
            &Device::Cpu,
        );
        check_best_path(&mut checked, &what, &known[0].item(), DType::F32);
        checked
    });
    checked
        .reduce(Checked::default, Checked::merge)
        .finish(5000);
}

/// The first of the inputs for which `forced_align` was once wrong: its only path has score 0.
#[test]
fn three_thousand_labels_in_three_thousand_frames() {
    let (frames, classes) = (3000, 4);
    let target: Vec<usize> = (0..frames).map(|i| 1 + i % 3).collect();
    let values = vec![0.0; frames * classes];
    let item = Item {
        log_probs: &values,
        classes,
        target: &target,
        blank: 0,
    };
    let mut checked = Checked::default();
    check_best_path(&mut checked, "T = U = 3000", &item, DType::F32);
    checked.finish(1);
}

/// The second: 15 labels early in the first segment, and two in the last two frames.
#[test]
fn the_last_two_of_2049_frames_take_a_label_each() {
    let (frames, classes) = (SEGMENT + 1, 18);
    let target: Vec<usize> = (1..=17).collect();
    let mut path = vec![0; frames];
    for i in 1..=15 {
        path[10 * i - 5] = i;
    }
    path[frames - 2] = 16;
    path[frames - 1] = 17;
    let mut checked = Checked::default();
    check_planted_path(&mut checked, "T = 2049 U = 17", &path, classes, &target);
    checked.finish(1);
}

/// A path at log-probability 0, with all else at −10, must be found as it is.
fn check_planted_path(
    checked: &mut Checked,
    what: &str,
    path: &[usize],
    classes: usize,
    target: &[usize],
) {
    assert_eq!(collapse(path, 0), target);
    let mut values = vec![-10.0f32; path.len() * classes];
    for (t, &class) in path.iter().enumerate() {
        values[t * classes + class] = 0.0;
    }
    let input = candle_core::Tensor::from_vec(values, (path.len(), classes), &Device::Cpu).unwrap();
    match forced_align(&input, &labels(target), align_options()) {
        Ok(got) => {
            let want = labels(path);
            checked.holds(what, got.score == 0.0 && got.labels == want, || {
                let first = (0..path.len()).find(|&t| got.labels[t] != want[t]);
                format!(
                    "score {} for 0; the first other frame is {first:?}",
                    got.score
                )
            });
            let starts =
                (0..path.len()).filter(|&t| path[t] > 0 && (t == 0 || path[t - 1] != path[t]));
            let spans = got.spans.iter().map(|span| span.start);
            checked.holds(what, spans.eq(starts), || "other spans".into());
        }
        Err(error) => checked.holds(what, false, || format!("score 0: {}", line(&error))),
    }
}

/// Where the labels of a segment are in it.
#[derive(Debug, Clone, Copy)]
enum Place {
    First,
    Last,
    Spread,
}

/// Paths with a number of labels in each segment: a segment that is full of them, or of all but a few, leaves the search
/// no frame to lose.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn best_paths_across_segments() {
    use Place::{First, Last, Spread};
    let near = |length: usize| {
        let counts = [
            0,
            1,
            LANES,
            length / 2,
            length.saturating_sub(LANES + 1),
            length.saturating_sub(LANES),
            length.saturating_sub(LANES - 1),
            length - 1,
            length,
        ];
        let counts = counts.into_iter().filter(|&count| count <= length);
        counts.collect::<BTreeSet<_>>()
    };
    let first = around([0, LANES, 2 * LANES, TILE, SEGMENT - LANES, SEGMENT - 1]);
    let mut cases: Vec<Vec<usize>> = Vec::new();
    let last_lengths = [
        1,
        2,
        BLOCK_FRAMES,
        LANES,
        LANES + 1,
        52,
        TILE,
        SEGMENT - 1,
        SEGMENT,
    ];
    for length in last_lengths {
        for &a in &first {
            cases.extend(near(length).into_iter().map(|b| vec![a, b, length]));
        }
    }
    for length in [1, LANES, 104] {
        for a in [0, LANES, SEGMENT] {
            for b in [0, 1, LANES, TILE, SEGMENT - LANES, SEGMENT - 1, SEGMENT] {
                cases.extend([0, 1, length - 1, length].map(|c| vec![a, b, c, length]));
            }
        }
    }
    let checked = cases.into_par_iter().enumerate().map(|(i, mut counts)| {
        let (mut checked, length) = (Checked::default(), counts.pop().unwrap());
        let places = [
            [Last, First, First],
            [First, Last, Last],
            [Spread; 3],
            [Last; 3],
        ][i % 4];
        let (mut path, mut target) = (Vec::new(), Vec::new());
        for (k, &count) in counts.iter().enumerate() {
            let segment = if k + 1 < counts.len() {
                SEGMENT
            } else {
                length
            };
            let start = path.len();
            path.resize(start + segment, 0);
            for j in 0..count {
                let at = match places[k] {
                    First => j,
                    Last => segment - count + j,
                    Spread => j * segment / count,
                };
                let label = 1 + target.len() % 3;
                path[start + at] = label;
                target.push(label);
            }
        }
        let what = format!(
            "T = {} U = {} with {counts:?} labels a segment, {places:?}",
            path.len(),
            target.len()
        );
        check_planted_path(&mut checked, &what, &path, 4, &target);
        checked
    });
    checked
        .reduce(Checked::default, Checked::merge)
        .finish(1000);
}

/// Entries at random, near multiples of a segment, with the numbers of labels at which the window of a segment begins
/// with a block of lanes.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn best_paths_of_random_entries_near_segments() {
    let mut cases = Vec::new();
    let frames = [0, 1, 2, BLOCK_FRAMES, LANES, LANES + 1, 104];
    for frames in frames
        .into_iter()
        .flat_map(|more| [SEGMENT + more, 2 * SEGMENT + more])
    {
        let rest = (frames - 1) % SEGMENT + 1;
        let window = [rest, rest + LANES, rest + LANES + 1, rest + 10 * LANES];
        let lengths = [1, LANES + 1, TILE - 1, TILE, frames - LANES, frames - 1];
        let lengths = lengths.into_iter().chain(window);
        let lengths: BTreeSet<_> = lengths.filter(|&length| length <= frames).collect();
        cases.extend(lengths.into_iter().map(|length| (frames, length)));
    }
    let checked = cases.into_par_iter().map(|(frames, length)| {
        let (mut checked, classes) = (Checked::default(), 5);
        let mut rng = Rng::new((frames * 10_000 + length) as u64);
        let values = tensors::rounded(&random(&mut rng, frames, classes), DType::F32);
        let item = Item {
            log_probs: &values,
            classes,
            target: &without_repeats(length, classes),
            blank: 0,
        };
        let what = format!("T = {frames} U = {length}");
        check_best_path(&mut checked, &what, &item, DType::F32);
        checked
    });
    checked.reduce(Checked::default, Checked::merge).finish(500);
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
}

/// Items of all lengths: batches of one less, as many, and one more than go side by side on each thread, with what is
/// left over above and below the fewest that do; and few enough that threads share an item.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn batches_and_threads() {
    let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(2), 6);
    let most = 2 * 2 * INTERLEAVED + FEWEST_INTERLEAVED + 2;
    for longest in [70, 2 * AT_ONCE[1] * BLOCK_FRAMES + 1] {
        let mut targets = Vec::new();
        let mut input_lengths = Vec::new();
        for n in 0..most {
            let target = rng.target(n * 7 % 60, classes, 0, 0.1);
            let least = (target.len() + repeats(&target)).min(longest);
            input_lengths.push(match n % 9 {
                // Does not fit, or has no frames.
                3 => target.len() / 2,
                _ => least + rng.below(longest + 1 - least),
            });
            targets.push(target);
        }
        // The largest is part of all batches.
        input_lengths[0] = longest;
        let values = tensors::rounded(&random(&mut rng, longest * most, classes), DType::F32);
        let whole = Problem {
            frames: longest,
            classes,
            blank: 0,
            values,
            targets,
            input_lengths,
        };
        let known = Known::of(&whole);
        for threads in [1, 2] {
            let sizes: Vec<usize> = (1..=2 * INTERLEAVED)
                .chain(around([
                    INTERLEAVED * threads,
                    INTERLEAVED * threads + FEWEST_INTERLEAVED,
                    2 * INTERLEAVED * threads + FEWEST_INTERLEAVED,
                    4 * threads,
                ]))
                .collect();
            let pool = pool(threads);
            for items in sizes.into_iter().filter(|&items| items > 0) {
                let values = (0..longest).flat_map(|t| {
                    let start = whole.at(t, 0, 0);
                    whole.values[start..start + items * classes].to_vec()
                });
                let p = Problem {
                    values: values.collect(),
                    targets: whole.targets[..items].to_vec(),
                    input_lengths: whole.input_lengths[..items].to_vec(),
                    ..whole.clone()
                };
                let known: Vec<&Known> = known[..items].iter().collect();
                let what = format!("T = {longest}, {threads} threads");
                // In a pool of so many threads, and on the threads of candle.
                pool.install(|| {
                    check_losses(&mut checked, &what, &p, &known, DType::F32, &Device::Cpu);
                });
                if threads == 2 {
                    check_losses(&mut checked, &what, &p, &known, DType::F32, &Device::Cpu);
                }
            }
        }
    }
    checked.finish(500);
}

/// Candidates: as many as go side by side on each thread, and as there are blocks in a table.
#[test]
fn numbers_of_candidates() {
    let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(3), 9);
    let values = tensors::rounded(&random(&mut rng, 70, classes), DType::F32);
    let mut targets: Vec<Vec<usize>> = (0..4 * INTERLEAVED)
        .map(|n| rng.target(1 + n * 5 % 41, classes, 0, 0.1))
        .collect();
    targets[4] = vec![2; 40];
    let known: Vec<Known> = targets
        .par_iter()
        .map(|target| Known::new(values.clone(), classes, target))
        .collect();
    for threads in 1..=4usize {
        let pool = pool(threads);
        // Each direction has half of them.
        let full = INTERLEAVED * threads.div_ceil(2);
        let counts = around([1, full, full + FEWEST_INTERLEAVED, full + INTERLEAVED]);
        for count in counts.into_iter().filter(|&count| count > 0) {
            let known: Vec<&Known> = known[..count].iter().collect();
            let what = format!("{threads} threads");
            pool.install(|| check_candidates(&mut checked, &what, &known, DType::F32));
        }
    }
    // A table of the most blocks holds this many entries of a frame, and more of a frame mean fewer blocks.
    let entries = TABLE / BLOCK_FRAMES / TABLE_BLOCKS;
    for entries in around([entries, 2 * entries]) {
        let classes = entries + 3;
        for frames in around([2 * TABLE_BLOCKS * BLOCK_FRAMES]) {
            let values = tensors::rounded(&random(&mut rng, frames, classes), DType::F32);
            let all: Vec<usize> = (1..entries).collect();
            let targets = [all.clone(), all[..entries / 2].to_vec(), vec![1, 1]];
            let known: Vec<Known> = targets
                .par_iter()
                .map(|target| Known::new(values.clone(), classes, target))
                .collect();
            let known: Vec<&Known> = known.iter().collect();
            let what = format!("{entries} entries, T = {frames}");
            check_candidates(&mut checked, &what, &known, DType::F32);
        }
    }
    checked.finish(120);
}

/// As many distinct labels as are written together, as make a long table, as a thread converts at a time.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn used_classes() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(4));
    // So many entries of a frame are as much as one thread converts of all blocks at once.
    let shared = READ_SHARE / BLOCK_FRAMES / AT_ONCE[1];
    let counts = (1..=2 * BLOCK_FRAMES + 1)
        .chain(around([
            4 * BLOCK_FRAMES,
            LONG - 1,
            LONG,
            2 * LONG,
            shared - 1,
        ]))
        .chain([shared + 1]);
    for count in counts {
        for more in [1, 2, 30] {
            if more == 30 && count > 2 * BLOCK_FRAMES {
                continue;
            }
            let classes = count + more;
            let distinct: Vec<usize> = (1..=count).rev().collect();
            let twice = [&distinct[..], &distinct[..count.min(20)]].concat();
            let frames = twice.len() + 9 + 2 * AT_ONCE[0] * BLOCK_FRAMES;
            let values = random(&mut rng, frames, classes);
            let p = same_frames(&values, classes, &[distinct, twice], DType::F32);
            check_everything(&mut checked, &format!("C = {classes}"), &p, DType::F32);
        }
    }
    checked.finish(1000);
}

/// Rows of a softmax around what is summed at a time.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn classes_of_a_softmax() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(5));
    let counts = around([LANES, 2 * LANES, 3 * LANES, 16 * LANES, 32 * LANES]);
    for classes in (2..=2 * LANES).chain(counts) {
        for dtype in tensors::FLOATS {
            let target = without_repeats(3, classes.max(3).min(classes + 1).min(7));
            let target: Vec<usize> = target.iter().map(|&label| label.min(classes - 1)).collect();
            let values = rng.values(19 * classes, 4.0);
            let p = same_frames(&values, classes, &[target], dtype);
            let known = Known::of(&p);
            let what = format!("C = {classes}");
            check_losses(&mut checked, &what, &p, &[&known[0]], dtype, &Device::Cpu);
        }
    }
    checked.finish(1000);
}

/// Rows around a short one and four times that, in bytes: the last class that the target uses decides.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn bytes_of_a_row() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(6));
    for dtype in tensors::FLOATS {
        let entries = SHORT / dtype.size_in_bytes();
        for reach in around([entries, 4 * entries]) {
            for more in [0, 3] {
                let (classes, last) = (reach + more, reach - 1);
                let values = random(&mut rng, 5 * BLOCK_FRAMES + 3, classes);
                let targets = [vec![1, last, 2, last], vec![last]];
                let p = same_frames(&values, classes, &targets, dtype);
                check_everything(&mut checked, &format!("C = {classes}"), &p, dtype);
            }
        }
    }
    checked.finish(400);
}

/// Targets with labels around the last that has a place in a table.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn labels_beyond_the_table_of_classes() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(7));
    for last in around([DENSE]) {
        for classes in [last + 1, DENSE + 64] {
            let values = random(&mut rng, 5, classes);
            let targets = [vec![last, 1, last], vec![7, DENSE - 2], vec![1, 1, 1]];
            let p = same_frames(&values, classes, &targets, DType::F32);
            check_everything(&mut checked, &format!("label {last}"), &p, DType::F32);
        }
    }
    checked.finish(100);
}

/// Shares of the work on one item: rows of logits that a thread reads at a time.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn shares_of_reading() {
    let (mut checked, mut rng, pool) = (Checked::default(), Rng::new(8), pool(2));
    let blocks = READ_SHARE / BLOCK_FRAMES;
    // Entries of a frame for which a share is 16 blocks, 15, 2 and 1.
    for entries in around([blocks / 16, blocks / 15, blocks / 2, blocks]) {
        let target = [3, 1, 3, 2];
        // The target uses three classes and the blank.
        let classes = entries - 4;
        let frames = 2 * AT_ONCE[1] * BLOCK_FRAMES
            + if classes < 1000 {
                2 * BLOCK_FRAMES + 1
            } else {
                1
            };
        let values = rng.values(frames * classes, 2.0);
        let p = same_frames(&values, classes, &[target.to_vec()], DType::F32);
        let known = Known::of(&p);
        let what = format!("C = {classes} T = {frames}");
        pool.install(|| {
            check_losses(
                &mut checked,
                &what,
                &p,
                &[&known[0]],
                DType::F32,
                &Device::Cpu,
            );
        });
    }
    checked.finish(70);
}

/// Shares of the gradient: so many entries that a thread writes one row, two, or half of a small gradient.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn shares_of_writing() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(9));
    let rows = around([WRITE_SHARE, WRITE_SHARE / 2]).into_iter();
    let halves = [
        (255, 257),
        (256, 256),
        (257, 255),
        (2 * WRITE_SHARE / 3, 3),
        (2 * WRITE_SHARE / 3 + 1, 3),
    ];
    for (classes, frames) in rows.map(|classes| (classes, 5)).chain(halves) {
        let values = random(&mut rng, frames, classes);
        let targets = [vec![classes - 1, 1], vec![2]];
        for targets in [&targets[..1], &targets] {
            let p = same_frames(&values, classes, targets, DType::F32);
            let known = Known::of(&p);
            let all: Vec<&Known> = known.iter().collect();
            let what = format!("C = {classes} T = {frames}");
            check_losses(&mut checked, &what, &p, &all, DType::F32, &Device::Cpu);
        }
    }
    checked.finish(100);
}

/// Gradients around the sizes from which they take huge pages and non-temporal stores, a row less and a row more, with as
/// many labels as make a row sparse.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn bytes_of_a_gradient() {
    let (mut checked, mut rng) = (Checked::default(), Rng::new(10));
    let classes = 1024;
    let sparse = classes / FOR_EACH;
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        for bytes in [HUGE, STREAMED] {
            let at = bytes / dtype.size_in_bytes() / classes;
            let counts = [
                (at - 1, 5),
                (at, sparse - 1),
                (at, sparse),
                (at + 1, sparse - 2),
            ];
            // Half precision never takes non-temporal stores.
            let counts = if dtype == DType::BF16 {
                &counts[1..2]
            } else {
                &counts
            };
            for &(frames, labels) in counts {
                let values = random(&mut rng, frames, classes);
                let target = (1..=labels).map(|i| classes - 3 * i).collect();
                let p = same_frames(&values, classes, &[target], dtype);
                let known = Known::of(&p);
                let what = format!("{bytes} bytes, T = {frames} U = {labels}");
                check_losses(&mut checked, &what, &p, &[&known[0]], dtype, &Device::Cpu);
            }
        }
    }
    // Rows that no line of the cache begins with, and items of different labels in turn.
    let classes = 1021;
    let values = random(&mut rng, STREAMED / 4 / classes / 2 + 1, classes);
    let targets = [vec![1020, 1, 1], vec![7, 1019, 3, 500]];
    let p = same_frames(&values, classes, &targets, DType::F32);
    let known = Known::of(&p);
    let all: Vec<&Known> = known.iter().collect();
    check_losses(&mut checked, "C = 1021", &p, &all, DType::F32, &Device::Cpu);
    checked.finish(100);
}

/// Work around the sizes from which a second thread helps and memory is not kept. A frame of logits counts as three for
/// each label, 30, and half of its classes.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn amounts_of_work() {
    let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(11), 8);
    for (work, labels) in [(2 * WORTH_A_THREAD, 10), (SMALL, 74)] {
        let frame = 3 * labels + 30 + classes / 2;
        assert!(work.is_multiple_of(frame));
        for frames in around([work / frame]) {
            let values = random(&mut rng, frames, classes);
            let target = rng.target(labels, classes, 0, 0.1);
            let p = same_frames(&values, classes, &[target], DType::F32);
            let known = Known::of(&p);
            let what = format!("T = {frames} U = {labels}");
            check_losses(
                &mut checked,
                &what,
                &p,
                &[&known[0]],
                DType::F32,
                &Device::Cpu,
            );
        }
    }
    checked.finish(36);
}

/// What a mask hides.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mask {
    Nothing,
    /// In one frame, all but the path.
    FrameButPath,
    /// In one frame, the path.
    PathInOneFrame,
    /// In one frame, all of it: no path is left.
    WholeFrame,
    /// A class that the target does not use, in all frames.
    UnusedClass,
    /// A class that it does use: no path is left.
    UsedClass,
    Blank,
    /// Everything but the path in bursts of 1 to 20 frames.
    Bursts,
    /// Some classes in bursts of 1 to 20 frames, but not the path.
    SomeInBursts,
    /// Everything but the path around the frame where directions meet.
    Middle,
    /// All labels around that frame.
    LabelsInTheMiddle,
    FirstBlock,
    LastBlock,
    /// Three entries of ten, anywhere off the path.
    Everywhere,
    AllButPath,
}

const MASKS: [Mask; 15] = [
    Mask::Nothing,
    Mask::FrameButPath,
    Mask::PathInOneFrame,
    Mask::WholeFrame,
    Mask::UnusedClass,
    Mask::UsedClass,
    Mask::Blank,
    Mask::Bursts,
    Mask::SomeInBursts,
    Mask::Middle,
    Mask::LabelsInTheMiddle,
    Mask::FirstBlock,
    Mask::LastBlock,
    Mask::Everywhere,
    Mask::AllButPath,
];

impl Mask {
    /// Sets masked entries to `value`.
    fn apply(self, rng: &mut Rng, values: &mut [f64], classes: usize, path: &[usize], value: f64) {
        let frames = path.len();
        let middle = frames.div_ceil(BLOCK_FRAMES).div_ceil(2) * BLOCK_FRAMES;
        let one = frames / 3;
        let mut burst = 0;
        for t in 0..frames {
            if burst == 0 && rng.below(12) == 0 {
                burst = 1 + rng.below(20);
            }
            let in_burst = burst > 0;
            burst = burst.saturating_sub(1);
            for class in 0..classes {
                let on_path = path[t] == class;
                let masked = match self {
                    Mask::Nothing => false,
                    Mask::FrameButPath => t == one && !on_path,
                    Mask::PathInOneFrame => t == one && on_path,
                    Mask::WholeFrame => t == one,
                    Mask::UnusedClass => class == classes - 1,
                    Mask::UsedClass => class == 1,
                    Mask::Blank => class == 0,
                    Mask::Bursts => in_burst && !on_path,
                    Mask::SomeInBursts => in_burst && !on_path && rng.below(2) == 0,
                    Mask::Middle => t + 1 >= middle && t < middle + 2 && !on_path,
                    Mask::LabelsInTheMiddle => t + 1 >= middle && t < middle + 2 && class > 0,
                    Mask::FirstBlock => t < BLOCK_FRAMES && !on_path,
                    Mask::LastBlock => t >= frames - frames.min(BLOCK_FRAMES) && !on_path,
                    Mask::Everywhere => !on_path && rng.below(10) < 3,
                    Mask::AllButPath => !on_path,
                };
                if masked {
                    values[t * classes + class] = value;
                }
            }
        }
    }
}

/// How far a sure model is ahead on its path.
fn leads() -> Vec<f64> {
    let edge = -LOWEST;
    vec![
        0.0,
        6.0,
        12.0,
        14.0,
        16.0,
        20.0,
        30.0,
        80.0,
        edge - 1.0,
        edge,
        edge + 1.0,
        edge + 2.0,
    ]
}

/// The labels spread evenly over the frames, blanks between, with a lead of so many nats over noise.
fn sure(
    rng: &mut Rng,
    frames: usize,
    classes: usize,
    target: &[usize],
    lead: f64,
) -> (Vec<f64>, Vec<usize>) {
    let mut path = vec![0; frames];
    for (i, &label) in target.iter().enumerate() {
        path[i * frames / target.len()] = label;
    }
    let mut values: Vec<f64> = (0..frames * classes).map(|_| rng.unit()).collect();
    for (t, &class) in path.iter().enumerate() {
        values[t * classes + class] += lead;
    }
    (values, path)
}

/// The classes of these tests; the target uses all but the last.
const MASKED_CLASSES: usize = 7;

/// One model with one mask, for each dtype: the target that it is sure of, one that it is not sure of, and an empty one.
fn check_sure(
    checked: &mut Checked,
    (frames, length): (usize, usize),
    lead: f64,
    mask: Mask,
    value: f64,
    dtypes: &[DType],
) {
    let classes = MASKED_CLASSES;
    let mut rng = Rng::new((frames * 1000 + length) as u64 + lead as u64);
    let target = without_repeats(length, classes - 1);
    let (mut values, path) = sure(&mut rng, frames, classes, &target, lead);
    log_softmax(&mut values, classes);
    mask.apply(&mut rng, &mut values, classes, &path, value);
    let mut other = target.clone();
    other.truncate(length - length / 3);
    other.reverse();
    for &dtype in dtypes {
        let p = same_frames(
            &values,
            classes,
            &[target.clone(), other.clone(), vec![]],
            dtype,
        );
        let what = format!("T = {frames} U = {length} lead {lead}, {mask:?} at {value:e}");
        let known = Known::of(&p);
        let all: Vec<&Known> = known.iter().collect();
        // Where every path goes through an entry of −1e9, f64 has steps of 1.2e-7.
        let far = |known: &Known| known.sums.loss.is_finite() && known.sums.loss > 1e8;
        let coarse = dtype == DType::F64 && known.iter().any(far);
        checked.slack = if coarse { 6e-8 } else { 0.0 };
        check_losses(checked, &what, &p, &all, dtype, &Device::Cpu);
        check_candidates(checked, &what, &all, dtype);
        check_inference(checked, &what, &p, &all, dtype);
    }
}

/// All leads and all masks in short items of all dtypes.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn sure_models_and_masks_in_short_items() {
    let mut checked = Checked::default();
    for shape in [(24, 6), (29, 12), (17, 17)] {
        for lead in leads() {
            for mask in MASKS {
                for value in [f64::NEG_INFINITY, -1e9] {
                    if mask != Mask::Nothing || value == -1e9 {
                        check_sure(&mut checked, shape, lead, mask, value, &tensors::FLOATS);
                    }
                }
            }
        }
    }
    checked.finish(10_000);
}

/// The same in longer ones: several blocks on each side of the middle, several tiles.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn sure_models_and_masks_in_longer_items() {
    let mut checked = Checked::default();
    for shape in [(150, 20), (203, 64), (90, 90)] {
        for (i, lead) in leads().into_iter().enumerate() {
            for (j, mask) in MASKS.into_iter().enumerate() {
                for value in [f64::NEG_INFINITY, -1e9] {
                    if mask != Mask::Nothing || value == -1e9 {
                        // f32 always, and each other dtype in turn.
                        let dtypes = [DType::F32, tensors::FLOATS[1 + (i + j) % 3]];
                        check_sure(&mut checked, shape, lead, mask, value, &dtypes);
                    }
                }
            }
        }
    }
    checked.finish(10_000);
}

/// Sure models for long enough that a wrong turn is far behind: each lead over many frames.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn sure_models_over_many_frames() {
    let mut checked = Checked::default();
    for lead in leads() {
        for shape in [(1030, 100), (700, 340)] {
            let classes = MASKED_CLASSES;
            let mut rng = Rng::new(shape.0 as u64 + lead as u64);
            let target = without_repeats(shape.1, classes - 1);
            let (mut values, _) = sure(&mut rng, shape.0, classes, &target, lead);
            log_softmax(&mut values, classes);
            for dtype in [DType::F32, DType::F64] {
                let p = same_frames(&values, classes, std::slice::from_ref(&target), dtype);
                let known = Known::of(&p);
                let what = format!("T = {} U = {} lead {lead}", shape.0, shape.1);
                check_losses(&mut checked, &what, &p, &[&known[0]], dtype, &Device::Cpu);
                check_candidates(&mut checked, &what, &[&known[0]], dtype);
            }
        }
    }
    checked.finish(300);
}

/// Classes fall far behind for a while and come back, whatever the target wants: states of a tile are then as far apart
/// as its numbers hold, and further, and those that are behind may be the ones that count in the end.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn models_that_are_sure_of_something_else() {
    let mut checked = Checked::default();
    // With the last one, as with 362, what counts is hidden where the two directions meet.
    for seed in (0..500).chain([2474]) {
        let mut rng = Rng::new(7000 + seed);
        let (frames, classes) = (10 + rng.below(190), 2 + rng.below(6));
        // With what noise adds, just above and just below what a plain f32 holds.
        let depth = [30.0, 60.0, 80.0, -LOWEST - 3.5, -LOWEST - 1.0][rng.below(5)];
        let change = [0.01, 0.03, 0.1, 0.3][rng.below(4)];
        let repeated = [0.0, 0.1, 0.5, 0.9][rng.below(4)];
        let mut below = vec![0.0; classes];
        let mut values = Vec::with_capacity(frames * classes);
        for _ in 0..frames {
            for below in &mut below {
                if rng.unit() < change {
                    *below = [0.0, depth][rng.below(2)];
                }
                values.push(-*below - 3.0 * rng.unit());
            }
        }
        let mut targets: Vec<Vec<usize>> = [1.0, 0.7, 0.4, 0.2, 0.05]
            .iter()
            .map(|share| {
                let length = share * frames as f64 / (1.0 + repeated);
                rng.target(length as usize, classes, 0, repeated)
            })
            .collect();
        targets.retain(|target| target.len() + repeats(target) <= frames);
        targets.push(vec![1]);
        let dtype = [DType::F32, DType::F64][seed as usize % 2];
        let p = same_frames(&values, classes, &targets, dtype);
        let known = Known::of(&p);
        let all: Vec<&Known> = known.iter().collect();
        let what = format!("seed {seed}, T = {frames} C = {classes} depth {depth} change {change}");
        check_losses(&mut checked, &what, &p, &all, dtype, &Device::Cpu);
        check_candidates(&mut checked, &what, &all, dtype);
        if frames < 60 {
            check_inference(&mut checked, &what, &p, &all, dtype);
        }
    }
    checked.finish(3000);
}

/// Entries of a frame from 50 to 2000 nats apart: as noise, and a few far below the others for a while. Emissions are then
/// beyond f32, and beyond f64 too.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn entries_far_apart() {
    const SPREADS: [f64; 6] = [50.0, 90.0, 200.0, 700.0, 2000.0, 1e9];
    let one = |seed: usize| {
        let (mut checked, mut rng) = (Checked::default(), Rng::new(31_000 + seed as u64));
        let (spread, noise) = (SPREADS[seed % 6], seed % 12 < 5);
        let most = [9, 70, 600][seed / 12 % 3];
        let (frames, classes) = (1 + rng.below(most), 2 + rng.below(12));
        let (often, masked) = ([0.02, 0.2][rng.below(2)], [0.0, 0.0, 0.1][rng.below(3)]);
        let mut below = vec![0.0; classes];
        let mut values = Vec::with_capacity(frames * classes);
        for _ in 0..frames {
            for (class, below) in below.iter_mut().enumerate() {
                if rng.unit() < often {
                    *below = [0.0, spread][rng.below(2)];
                }
                let depth = if noise {
                    spread * rng.unit()
                } else {
                    *below + 4.0 * rng.unit()
                };
                let hidden = class > 0 && rng.unit() < masked;
                values.push(if hidden { f64::NEG_INFINITY } else { -depth });
            }
        }
        // Enough for lattices to go side by side.
        let repeated = [0.0, 0.3][rng.below(2)];
        let mut targets: Vec<Vec<usize>> = (0..20)
            .map(|i| {
                let share = if i == 0 { 1.0 } else { rng.unit() };
                rng.target((share * frames as f64) as usize, classes, 0, repeated)
            })
            .collect();
        targets.retain(|target| target.len() + repeats(target) <= frames);
        targets.push(vec![1]);
        let dtype = [DType::F32, DType::F64][seed / 6 % 2];
        let p = same_frames(&values, classes, &targets, dtype);
        let known = Known::of(&p);
        let all: Vec<&Known> = known.iter().collect();
        // The steps of the logarithms that this is held against.
        let largest = known
            .iter()
            .map(|known| known.sums.loss)
            .filter(|loss| loss.is_finite());
        checked.slack = 2.0 * f64::EPSILON * largest.fold(0.0, f64::max);
        let what = format!("seed {seed}, T = {frames} C = {classes} spread {spread} noise {noise}");
        check_losses(&mut checked, &what, &p, &all, dtype, &Device::Cpu);
        check_candidates(&mut checked, &what, &all, dtype);
        if frames < 100 {
            check_inference(&mut checked, &what, &p, &all, dtype);
        }
        // A batch too small for that.
        let few = alone(&p, 0);
        check_losses(&mut checked, &what, &few, &all[..1], dtype, &Device::Cpu);
        check_candidates(&mut checked, &what, &all[..1], dtype);
        checked
    };
    let checked = (0..180).into_par_iter().map(one);
    checked
        .reduce(Checked::default, Checked::merge)
        .finish(3000);
}

/// Between two labels that are sure in turn, a run of repeats that never is, with hardly a frame to spare. Paths that stay
/// in a sure label come to nothing, and are ahead of those that count by more than the numbers of a tile hold: before the
/// two directions meet, there, and beyond.
#[test]
#[cfg_attr(ctc_softgpu, ignore = "the CPU's numbers")]
fn paths_that_come_to_nothing_are_ahead() {
    let (mut checked, classes) = (Checked::default(), 6);
    // With the last one, what counts is hidden where the two directions meet.
    for seed in (0..1000).chain([5950]) {
        let mut rng = Rng::new(9000 + seed);
        let around = |rng: &mut Rng| without_repeats(rng.below(12), 3);
        let (before, after) = (around(&mut rng), around(&mut rng));
        let unsure = vec![3; 1 + rng.below(16)];
        let target = [&before[..], &[4], &unsure, &[5], &after].concat();
        let frames = target.len() + repeats(&target) + rng.below(4);
        let depth = [60.0, 75.0, -LOWEST - 3.5][rng.below(3)];
        // Where the first of the two ceases to be sure, and the second begins.
        let inner = before.len()..frames - after.len();
        let turn = inner.start + rng.below(inner.len() + 1);
        let mut values = Vec::with_capacity(frames * classes);
        for t in 0..frames {
            let sure = if t < turn { 4 } else { 5 };
            for class in 0..classes {
                let far = inner.contains(&t) && class != sure;
                values.push(if far { -depth } else { 0.0 } - 3.0 * rng.unit());
            }
        }
        let dtype = [DType::F32, DType::F64][seed as usize % 2];
        let p = same_frames(&values, classes, &[target], dtype);
        let known = Known::of(&p);
        let what = format!(
            "seed {seed}, T = {frames} with {} repeats behind label {}, depth {depth}",
            unsure.len(),
            before.len()
        );
        check_losses(&mut checked, &what, &p, &[&known[0]], dtype, &Device::Cpu);
        check_candidates(&mut checked, &what, &[&known[0]], dtype);
    }
    checked.finish(8000);
}

/// Targets that fill a warp with one, two and four pairs a lane, with one label less and more. On a GPU, or its
/// simulation, where there is one; everywhere on the CPU.
#[test]
fn pairs_of_a_warp() {
    let (mut checked, mut rng, classes) = (Checked::default(), Rng::new(12), 9);
    // A warp shares 16 pairs with its neighbour.
    let counts = around([0, WARP - 1, WARP, 2 * WARP, 3 * WARP + LANES, 4 * WARP]);
    for device in devices() {
        for dtype in [DType::F32, DType::F64] {
            if !holds(&device, dtype) {
                continue;
            }
            for &length in &counts {
                let target = rng.target(length, classes, 0, 0.1);
                let least = (length + repeats(&target)).max(1);
                for frames in [least, least + 1, least + BLOCK_FRAMES, 2 * least + 3] {
                    let values = random(&mut rng, frames, classes);
                    let p = same_frames(&values, classes, std::slice::from_ref(&target), dtype);
                    let known = Known::of(&p);
                    let what = format!("{:?} T = {frames} U = {length}", device.location());
                    check_losses(&mut checked, &what, &p, &[&known[0]], dtype, &device);
                }
            }
        }
    }
    checked.finish(700);
}

/// Two groups of paths for one target. One is far ahead at first, so that the other is lost beside it; then the second
/// spreads over many states while the first pays for each frame, and in the end both count.
struct Overtaking {
    /// The other classes have this log-probability where two are allowed.
    elsewhere: f64,
    /// Labels between the places of the two groups.
    chain: usize,
    /// By how much the second group falls behind, and in how many frames.
    depth: f64,
    falling: usize,
    /// Frames in which the second group catches up.
    catching: usize,
    /// What a frame of `catching` costs the first group.
    price: f64,
    /// The blank in these frames.
    blank: f64,
    /// Labels behind the chain.
    rest: usize,
    /// By how many frames the second half is longer than the first.
    shift: usize,
}

impl Overtaking {
    const CLASSES: usize = 7;
    /// The labels of the target: where the second group waits, where the first one goes on, a chain of two labels, where
    /// the first one waits, and what is behind it.
    const SECOND: usize = 1;
    const FIRST: usize = 2;
    const CHAIN: [usize; 2] = [3, 4];
    const END: usize = 5;
    const BEHIND: usize = 6;

    fn new(rng: &mut Rng) -> Self {
        // What the range of one tile, and of two, just holds, and what it does not.
        let [one, two] = [735.0 + 50.0 * rng.unit(), 1405.0 + 20.0 * rng.unit()];
        let depth = [one, two, two, 700.0 + 1000.0 * rng.unit()][rng.below(4)];
        let step = [14.0, 20.0, 40.0, 80.0, 86.0][rng.below(5)];
        Self {
            elsewhere: [f64::NEG_INFINITY, -1e4, -3000.0][rng.below(3)],
            chain: 36 + rng.below(24),
            depth,
            falling: (depth / step) as usize,
            catching: 150 + rng.below(180),
            price: 0.0,
            blank: [f64::NEG_INFINITY, -1.0][rng.below(2)],
            rest: rng.below(12),
            shift: [0, 8, 16, 40, 100][rng.below(5)],
        }
    }

    fn target(&self) -> Vec<usize> {
        let mut target = vec![Self::SECOND, Self::FIRST];
        target.extend((0..self.chain).map(|i| Self::CHAIN[i % 2]));
        target.push(Self::END);
        target.extend((0..self.rest).map(|i| [Self::BEHIND, Self::END][i % 2]));
        target
    }

    /// The frames. With `without`, the group that waits in this class ends where the groups meet again.
    fn values(&self, without: Option<usize>) -> Vec<f64> {
        let mut values = Vec::new();
        let mut frame = |allowed: &[(usize, f64)], elsewhere: f64| {
            let mut row = [elsewhere; Self::CLASSES];
            for &(class, log_prob) in allowed {
                row[class] = log_prob;
            }
            values.extend(row);
        };
        frame(&[(Self::SECOND, 0.0)], self.elsewhere);
        let fall = self.depth / self.falling as f64;
        for _ in 0..self.falling {
            frame(&[(Self::FIRST, 0.0), (Self::SECOND, -fall)], self.elsewhere);
        }
        for i in 0..self.chain {
            let chain = Self::CHAIN[i % 2];
            frame(&[(chain, 0.0), (Self::SECOND, 0.0)], self.elsewhere);
        }
        match without {
            None => frame(&[(Self::END, 0.0), (Self::SECOND, 0.0)], self.elsewhere),
            Some(Self::SECOND) => frame(&[(Self::END, 0.0)], f64::NEG_INFINITY),
            Some(_) => frame(&[(Self::SECOND, 0.0)], f64::NEG_INFINITY),
        }
        frame(&[(Self::END, 0.0), (Self::FIRST, 0.0)], self.elsewhere);
        let [one, other] = Self::CHAIN;
        let catching = [
            (one, 0.0),
            (other, 0.0),
            (Self::END, -self.price),
            (0, self.blank),
        ];
        for _ in 0..self.catching {
            frame(&catching, self.elsewhere);
        }
        let half = 1 + self.falling + self.chain + 2 + self.catching;
        for _ in 0..half.max(2 * self.target().len()) + self.shift {
            let rest = [(Self::END, 0.0), (Self::BEHIND, 0.0), (0, -0.5)];
            frame(&rest, self.elsewhere);
        }
        values
    }

    /// Sets the price so that the second group ends this many nats ahead.
    fn balance(&mut self, ahead: f64) {
        self.price = self.depth / self.catching as f64;
        for _ in 0..2 {
            let [first, second] = [Self::SECOND, Self::END].map(|without| {
                let values = self.values(Some(without));
                -Known::new(values, Self::CLASSES, &self.target()).sums.loss
            });
            if first.is_finite() && second.is_finite() {
                let change = (first - second) / self.catching as f64;
                self.price = (self.price + change).max(0.0);
            }
        }
        self.price += ahead / self.catching as f64;
    }
}

#[test]
#[cfg_attr(ctc_softgpu, ignore = "sizes of the CPU's code")]
fn what_is_lost_early_may_grow_and_count_in_the_end() {
    let seeds = (0..150u64).into_par_iter();
    let checked = seeds.map(|seed| {
        let mut rng = Rng::new(8000 + seed);
        let mut groups = Overtaking::new(&mut rng);
        groups.balance(90.0 * rng.unit() - 40.0);
        let (mut values, mut target) = (groups.values(None), groups.target());
        if seed % 3 == 0 {
            // The other direction loses them.
            let rows: Vec<&[f64]> = values.chunks_exact(Overtaking::CLASSES).rev().collect();
            values = rows.concat();
            target.reverse();
        }
        let targets = vec![target; 6];
        let p = same_frames(&values, Overtaking::CLASSES, &targets, DType::F64);
        let known = Known::of(&alone(&p, 0));
        let all: Vec<&Known> = targets.iter().map(|_| &known[0]).collect();
        let what = format!("seed {seed}");
        let mut checked = Checked::default();
        check_losses(&mut checked, &what, &p, &all, DType::F64, &Device::Cpu);
        check_candidates(&mut checked, &what, &all[..1], DType::F64);
        checked
    });
    checked
        .reduce(Checked::default, Checked::merge)
        .finish(1000);
}
