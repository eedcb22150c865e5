//! Scores and alignments of tensors on a GPU, by its kernels, against the CPU's and the definition.
//!
//! Where the kernels are simulated, every tensor is on the CPU and takes their way. There the CPU's own alignment is had by
//! naming a star that no target has: wildcards are the CPU's alone.

use crate::common::oracle::{recursion, repeats};
use crate::common::{Rng, gpus, holds, tensors, tolerance};
use candle_core::{DType, Device, Tensor};
use candle_ctc::{
    AlignOptions, Alignment, InputKind, InputLayout, ScoreOptions, forced_align,
    forced_align_batch, rank_transcripts, score_transcripts, score_transcripts_batch,
};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

fn labels(target: &[usize]) -> Vec<u32> {
    target.iter().map(|&label| label as u32).collect()
}

/// Rows of a log-softmax, rounded to a dtype.
fn log_probs(rng: &mut Rng, rows: usize, classes: usize, scale: f64, dtype: DType) -> Vec<f64> {
    let mut values = rng.values(rows * classes, scale);
    for row in values.chunks_exact_mut(classes) {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut().for_each(|x| *x -= sum.ln());
    }
    tensors::rounded(&values, dtype)
}

/// The CPU's alignments.
fn on_cpu(
    input: &Tensor,
    targets: &Tensor,
    frames: &[usize],
    lengths: &[usize],
    opts: AlignOptions,
) -> Vec<Option<Alignment>> {
    let star = Some(u32::MAX);
    let input = input.to_device(&Device::Cpu).unwrap();
    let opts = AlignOptions { star, ..opts };
    forced_align_batch(&input, targets, frames, lengths, opts).unwrap()
}

/// The bits of an alignment's numbers.
fn bits(alignment: &Option<Alignment>) -> Option<(Vec<u32>, u64, Vec<u32>)> {
    let alignment = alignment.as_ref()?;
    let scores = alignment.frame_scores.iter().map(|score| score.to_bits());
    let score = alignment.score.to_bits();
    Some((alignment.labels.clone(), score, scores.collect()))
}

/// A batch whose items differ in frames and labels; `most` labels at most.
struct Batch {
    frames: Vec<usize>,
    targets: Vec<Vec<usize>>,
    classes: usize,
}

impl Batch {
    fn new(rng: &mut Rng, items: usize, steps: usize, classes: usize, most: usize) -> Self {
        let mut frames = vec![steps];
        let mut targets = vec![rng.target(most, classes, 1, 0.3)];
        while targets.len() < items {
            let length = rng.below(most + 1);
            let target = rng.target(length, classes, 1, 0.3);
            // The second item fits into its frames.
            let least = match frames.len() {
                1 => (length + repeats(&target)).min(steps),
                _ => 0,
            };
            frames.push(least + rng.below(steps + 1 - least));
            targets.push(target);
        }
        Self {
            frames,
            targets,
            classes,
        }
    }

    fn lengths(&self) -> Vec<usize> {
        self.targets.iter().map(Vec::len).collect()
    }

    fn joined(&self) -> Tensor {
        tensors::concatenated(&self.targets, DType::U32, &Device::Cpu)
    }

    fn check(&self, input: &Tensor, opts: AlignOptions) -> usize {
        let (joined, lengths) = (self.joined(), self.lengths());
        let got = forced_align_batch(input, &joined, &self.frames[..], &lengths[..], opts).unwrap();
        let want = on_cpu(input, &joined, &self.frames, &lengths, opts);
        for (n, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!(
                "{:?}, item {n}: {} of {lengths:?}",
                input.dtype(),
                self.frames[n]
            );
            match opts.input {
                InputKind::LogProbs => {
                    assert_eq!(bits(got), bits(want), "{what}");
                    assert_eq!(got, want, "{what}");
                }
                InputKind::Logits => self.check_logits(n, input.dtype(), got, want, &what),
            }
        }
        want.iter().flatten().count()
    }

    /// From logits, the log-softmax is rounded otherwise: a path that is as good to rounding.
    fn check_logits(
        &self,
        n: usize,
        dtype: DType,
        got: &Option<Alignment>,
        want: &Option<Alignment>,
        what: &str,
    ) {
        let (Some(got), Some(want)) = (got, want) else {
            assert_eq!(got, want, "{what}");
            return;
        };
        let within = match dtype {
            DType::F64 => 1e-12,
            _ => 2e-6 * self.frames[n].max(1) as f64,
        };
        assert!(
            (got.score - want.score).abs() <= within,
            "{what}: {} {}",
            got.score,
            want.score
        );
        let spans = |one: &Alignment| one.spans.iter().map(|span| span.token).collect::<Vec<_>>();
        assert_eq!(spans(got), spans(want), "{what}");
        if got.labels == want.labels {
            for (got, want) in got.frame_scores.iter().zip(&want.frame_scores) {
                assert!(
                    (got - want).abs() <= 1e-6 * (1.0 + want.abs()),
                    "{what}: {got} {want}"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn alignments_of_f32_have_the_cpus_bits() {
    check_alignments(&[DType::F32]);
}

#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn alignments_of_other_dtypes_have_the_cpus_bits() {
    check_alignments(&[DType::F64, DType::F16, DType::BF16]);
}

fn check_alignments(dtypes: &[DType]) {
    let mut rng = Rng::new(71);
    // Pairs below, at and above a warp and two; frames below and above the eight that are read at once.
    let shapes = [
        (1, 1, 0),
        (7, 3, 2),
        (8, 4, 3),
        (9, 5, 4),
        (70, 6, 31),
        (80, 9, 32),
        (150, 12, 63),
        (190, 5, 64),
    ];
    let (mut found, mut runs) = (0, 0);
    for device in gpus() {
        for &dtype in dtypes.iter().filter(|&&dtype| holds(&device, dtype)) {
            runs += 1;
            for (steps, classes, most) in shapes {
                let batch = Batch::new(&mut rng, 3, steps, classes.max(2), most);
                let classes = batch.classes;
                // A scale of 0 makes all paths equal: what breaks ties must be the same.
                for scale in [0.0, 4.0] {
                    let values = log_probs(&mut rng, 3 * steps, classes, scale, dtype);
                    let input = tensors::floats(&values, &[3, steps, classes], dtype, &device);
                    let opts = AlignOptions {
                        blank: 1,
                        ..AlignOptions::batch_major()
                    };
                    found += batch.check(&input, opts);
                    // A view that begins elsewhere, with other strides.
                    let wide = tensors::floats(
                        &log_probs(&mut rng, 5 * 4, steps * classes, scale, dtype),
                        &[classes, 5, 4 * steps],
                        dtype,
                        &device,
                    );
                    let view = wide.permute((1, 2, 0)).unwrap();
                    let view = view
                        .narrow(0, 2, 3)
                        .unwrap()
                        .narrow(1, steps, steps)
                        .unwrap();
                    let opts = AlignOptions {
                        normalised: false,
                        ..opts
                    };
                    found += batch.check(&view, opts);
                    let logits = AlignOptions {
                        input: InputKind::Logits,
                        ..opts
                    };
                    found += batch.check(&input, logits);
                    found += batch.check(&view, logits);
                }
            }
        }
    }
    assert!(found > 150 * runs, "{found} alignments");
}

/// Frames beyond one segment, and targets beyond one block of threads and beyond shared memory.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn long_alignments_have_the_cpus_bits() {
    let mut rng = Rng::new(72);
    for device in gpus() {
        let dtype = DType::F32;
        for (steps, most) in [
            (2047, 3),
            (2048, 9),
            (2049, 20),
            (4100, 40),
            (1300, 600),
            (2400, 1600),
            (3200, 2100),
        ] {
            let batch = Batch::new(&mut rng, 2, steps, 7, most);
            // With entries above 0, sums over more frames are larger: a state that stays behind would win.
            for (scale, more) in [(0.0, 0.0), (3.0, 0.0), (3.0, 4.0)] {
                let mut values = log_probs(&mut rng, 2 * steps, 7, scale, dtype);
                values.iter_mut().for_each(|value| *value += more);
                let values = tensors::rounded(&values, dtype);
                let input = tensors::floats(&values, &[steps, 2, 7], dtype, &device);
                let opts = AlignOptions {
                    blank: 1,
                    normalised: more == 0.0,
                    ..Default::default()
                };
                assert_eq!(
                    batch.check(&input, opts),
                    2,
                    "{steps} frames, {most} labels"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn items_without_a_path_and_entries_without_a_value_are_as_on_the_cpu() {
    for device in gpus() {
        let opts = AlignOptions {
            normalised: false,
            ..Default::default()
        };
        let mut values = vec![-1.0; 2 * 6 * 3];
        let floats = |values: &[f64]| tensors::floats(values, &[2, 6, 3], DType::F32, &device);
        let opts = AlignOptions {
            layout: InputLayout::BatchMajor,
            ..opts
        };
        let targets = Tensor::new(&[[1u32, 2], [2, 2]], &Device::Cpu).unwrap();
        // Item 1: label 2 is impossible wherever it stands.
        for frame in 0..6 {
            values[18 + 3 * frame + 2] = f64::NEG_INFINITY;
        }
        let got = forced_align_batch(&floats(&values), &targets, [6, 6], [2, 2], opts).unwrap();
        assert_eq!(got[0].as_ref().unwrap().score, -6.0);
        assert_eq!(got[1], None);
        // An item that does not fit, beside one that does.
        let got = forced_align_batch(&floats(&values), &targets, [2, 2], [2, 2], opts).unwrap();
        assert!(got[0].is_some() && got[1].is_none());
        // Both items have a path, so that only the bad entry sends them to the host.
        let values = vec![-1.0; 2 * 6 * 3];
        for bad in [f64::NAN, f64::INFINITY] {
            for logits in [false, true] {
                let input = if logits {
                    InputKind::Logits
                } else {
                    InputKind::LogProbs
                };
                let opts = AlignOptions { input, ..opts };
                // In the middle, and where no path can be.
                for (frame, class) in [(5, 1), (0, 2), (4, 2)] {
                    let mut values = values.clone();
                    values[3 * frame + class] = bad;
                    let error =
                        forced_align_batch(&floats(&values), &targets, [6, 6], [2, 2], opts);
                    let error = error.unwrap_err().to_string();
                    let place = format!("frame {frame}, class {class}");
                    assert!(
                        error.contains("item 0") && error.contains(&place),
                        "{error}"
                    );
                }
                let mut values = values.clone();
                values[3 * 4 + 2] = bad;
                // Behind the item's length it is not read.
                let got = forced_align_batch(&floats(&values), &targets, [4, 6], [2, 2], opts);
                assert!(got.unwrap()[0].is_some());
            }
        }
        // In a class that no label has, log-probabilities may be anything.
        let mut values = vec![-1.0; 6 * 3];
        values[1] = f64::NAN;
        let input = tensors::floats(&values, &[6, 3], DType::F32, &device);
        assert_eq!(forced_align(&input, &[2], opts).unwrap().score, -6.0);
        let none = tensors::floats(&[], &[0, 3], DType::F32, &device);
        if !device.is_metal() {
            assert_eq!(forced_align(&none, &[], opts).unwrap().score, 0.0);
        }
    }
}

fn check_scores(dtype: DType, got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    let tolerance = tolerance::loss(dtype);
    for (got, want) in got.iter().zip(want) {
        assert!(
            got == want || tolerance.accepts(*got, *want),
            "{what}: {got}, expected {want}"
        );
    }
}

#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn candidates_have_their_likelihoods() {
    let mut rng = Rng::new(73);
    for device in gpus() {
        for dtype in FLOATS.into_iter().filter(|&dtype| holds(&device, dtype)) {
            for (steps, classes, most) in [(5, 3, 3), (40, 6, 20), (60, 150, 40), (90, 300, 70)] {
                let lists: Vec<Vec<Vec<usize>>> = (0..3)
                    .map(|n| {
                        let count = [6, 0, 3][n];
                        let targets = (0..count).map(|k| {
                            let length = if k == 1 { 0 } else { rng.below(most + 1) };
                            rng.target(length, classes, 2, 0.3)
                        });
                        targets.collect()
                    })
                    .collect();
                let frames = [steps, 3, steps - 2];
                let values = log_probs(&mut rng, 3 * steps, classes, 2.0, dtype);
                let input = tensors::floats(&values, &[3, steps, classes], dtype, &device);
                let given: Vec<Vec<Vec<u32>>> = lists
                    .iter()
                    .map(|list| list.iter().map(|one| labels(one)).collect())
                    .collect();
                for kind in [InputKind::LogProbs, InputKind::Logits] {
                    let opts = ScoreOptions {
                        blank: 2,
                        input: kind,
                        ..ScoreOptions::batch_major()
                    };
                    let got = score_transcripts_batch(&input, &frames[..], &given, opts).unwrap();
                    for n in 0..3 {
                        let mut rows =
                            values[n * steps * classes..][..frames[n] * classes].to_vec();
                        if kind == InputKind::Logits {
                            for row in rows.chunks_exact_mut(classes) {
                                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                                row.iter_mut().for_each(|x| *x -= sum.ln());
                            }
                        }
                        let want: Vec<f64> = lists[n]
                            .iter()
                            .map(|one| -recursion(&rows, classes, one, 2).loss)
                            .collect();
                        let what = format!("{dtype:?}, {kind:?}, {steps} frames, item {n}");
                        check_scores(dtype, &got[n], &want, &what);
                        // The list of one utterance is the list of that item.
                        let utterance = input
                            .narrow(0, n, 1)
                            .unwrap()
                            .narrow(1, 0, frames[n])
                            .unwrap();
                        let one = score_transcripts(&utterance, &given[n], opts).unwrap();
                        assert_eq!(one, got[n], "{what}");
                    }
                }
            }
        }
    }
}

/// In f32, a score is more exact than an f32: what a transcript of -3000 nats has behind the point decides between two.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn scores_of_long_transcripts_keep_what_f32_has_no_room_for() {
    let mut rng = Rng::new(74);
    for device in gpus() {
        let (steps, classes) = (1500, 40);
        let values = log_probs(&mut rng, steps, classes, 4.0, DType::F32);
        let input = tensors::floats(&values, &[steps, classes], DType::F32, &device);
        let targets: Vec<Vec<usize>> = (0..3).map(|_| rng.target(100, classes, 0, 0.1)).collect();
        let given: Vec<Vec<u32>> = targets.iter().map(|target| labels(target)).collect();
        let got = score_transcripts(&input, &given, ScoreOptions::default()).unwrap();
        for (got, target) in got.iter().zip(&targets) {
            let want = -recursion(&values, classes, target, 0).loss;
            assert!(
                want < -1000.0 && (got - want).abs() < 2e-5,
                "{got}, expected {want}"
            );
        }
    }
}

/// An entry that would count as -inf beside another candidate's is a number.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn scores_of_candidates_that_another_is_far_above() {
    for device in gpus() {
        for mask in [-1.4e9f64, -1.6e9, -1e10] {
            // In the first frame class 1 is certain; the others differ there by less than the mask.
            let values: [[f64; 4]; 3] = [
                [mask, 0.0, 1.25 * mask, 1.5 * mask],
                [-1.0, -1.5, -1.25, -2.0],
                [-2.0, -1.0, -1.75, -1.5],
            ];
            let values = tensors::rounded(&values.concat(), DType::F32);
            let input = tensors::floats(&values, &[3, 4], DType::F32, &device);
            let targets = [vec![2], vec![3, 2], vec![], vec![3], vec![1], vec![1, 2]];
            let candidates: Vec<Vec<u32>> = targets.iter().map(|target| labels(target)).collect();
            let opts = ScoreOptions {
                normalised: false,
                ..Default::default()
            };
            let got = score_transcripts(&input, &candidates, opts).unwrap();
            let want: Vec<f64> = targets
                .iter()
                .map(|target| -recursion(&values, 4, target, 0).loss)
                .collect();
            check_scores(DType::F32, &got, &want, &format!("{mask:e}"));
        }
    }
}

/// A NaN or +inf makes those candidates NaN that use it, and no others; -inf makes them impossible.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn a_candidate_is_not_spoilt_by_anothers_entries() {
    for device in gpus() {
        let opts = ScoreOptions {
            normalised: false,
            ..Default::default()
        };
        let candidates = [vec![1u32], vec![2], vec![1, 2], vec![]];
        for (bad, spoilt) in [
            (f64::NAN, f64::NAN),
            (f64::INFINITY, f64::NAN),
            (f64::NEG_INFINITY, f64::NEG_INFINITY),
        ] {
            let mut values = vec![-1.0; 4 * 3];
            (0..4).for_each(|frame| values[3 * frame + 2] = bad);
            let input = tensors::floats(&values, &[4, 3], DType::F32, &device);
            let got = score_transcripts(&input, &candidates, opts).unwrap();
            let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
            assert!((got[0] - (10f64.ln() - 4.0)).abs() < 1e-6, "{got:?}");
            assert!(same(got[1], spoilt) && same(got[2], spoilt), "{got:?}");
            assert_eq!(got[3], -4.0);
        }
        let input = tensors::floats(&[-1.0; 12], &[4, 3], DType::F32, &device);
        let ranked = rank_transcripts(&input, &candidates, opts).unwrap();
        assert_eq!(ranked[0].index, 2);
        assert_eq!(ranked[3].index, 3);
    }
}

/// Offsets that rows of logits have in common cost a path no digits.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn offsets_of_logits_change_no_path() {
    for device in gpus() {
        let opts = AlignOptions {
            input: InputKind::Logits,
            ..Default::default()
        };
        let rows = [1e20, 1e20, 0.0, 5.0, 5.0, 0.0];
        let input = tensors::floats(&rows, &[3, 2], DType::F32, &device);
        assert_eq!(forced_align(&input, &[1], opts).unwrap().labels, [1, 1, 0]);
        if !holds(&device, DType::F64) {
            continue;
        }
        let mut rng = Rng::new(75);
        let plain = rng.values(200 * 5, 3.0);
        let offset: Vec<f64> = (0..plain.len())
            .map(|i| plain[i] + if i / 5 % 2 == 0 { 1e9 } else { -1e9 })
            .collect();
        let read = |values: &[f64]| {
            let input = tensors::floats(values, &[200, 5], DType::F64, &device);
            let alignment = forced_align(&input, &[1, 2, 3, 3, 4, 1, 2], opts).unwrap();
            (alignment.labels, alignment.score)
        };
        let (plain, offset) = (read(&plain), read(&offset));
        assert_eq!(plain.0, offset.0);
        assert!(
            (plain.1 - offset.1).abs() < 1e-3,
            "{} {}",
            plain.1,
            offset.1
        );
    }
}

/// Candidates that no memory would hold the lattice of are impossible where they do not fit, and change nothing for others.
#[test]
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", ctc_softgpu)),
    ignore = "needs a GPU or the simulation of its kernels"
)]
fn long_candidates_and_spoilt_lists_leave_the_others_alone() {
    for device in gpus() {
        let opts = ScoreOptions {
            normalised: false,
            ..ScoreOptions::batch_major()
        };
        let mut values = vec![-1.0; 3 * 4 * 3];
        // Label 2 of the second utterance.
        values[12 + 2] = f64::NAN;
        let input = tensors::floats(&values, &[3, 4, 3], DType::F32, &device);
        let long: Vec<u32> = (0..100_000).map(|i| 1 + i % 2).collect();
        let lists = [
            vec![vec![1u32], long, vec![]],
            vec![vec![1], vec![1, 2], vec![]],
            vec![vec![2]],
        ];
        let got = score_transcripts_batch(&input, [4, 4, 0], &lists, opts).unwrap();
        let one = 10f64.ln() - 4.0;
        assert!(
            (got[0][0] - one).abs() < 1e-6 && (got[1][0] - one).abs() < 1e-6,
            "{got:?}"
        );
        assert_eq!(got[0][1..], [f64::NEG_INFINITY, -4.0]);
        assert!(got[1][1].is_nan() && got[1][2] == -4.0);
        assert_eq!(got[2], [f64::NEG_INFINITY]);
    }
}
