//! Differentiable log-likelihoods of an n-best list: values and gradients against the definition.

use crate::common::oracle::{Problem, recursion};
use crate::common::views::VIEWS;
use crate::common::{Rng, bits, devices, holds, tensors, tolerance};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    CtcLossOptions, InputKind, Reduction, ScoreOptions, ctc_loss, ctc_loss_with_logits,
    score_transcripts, text, transcript_log_likelihoods,
};

const KINDS: [InputKind; 2] = [InputKind::LogProbs, InputKind::Logits];

/// One utterance and its list.
struct Case {
    frames: usize,
    classes: usize,
    blank: usize,
    /// (frames, classes)
    values: Vec<f64>,
    list: Vec<Vec<usize>>,
    kind: InputKind,
}

/// Softmax of each row, in logarithms.
fn log_softmax(values: &[f64], classes: usize) -> Vec<f64> {
    let problem = Problem {
        frames: values.len() / classes,
        classes,
        blank: 0,
        values: values.to_vec(),
        targets: vec![vec![]],
        input_lengths: vec![values.len() / classes],
    };
    problem.log_softmax().values
}

impl Case {
    /// A list with transcripts of several lengths, two equal ones, an empty one, and one that does not fit.
    fn new(seed: u64, frames: usize, classes: usize, kind: InputKind) -> Self {
        let (mut rng, blank) = (Rng::new(seed), 1);
        let mut list: Vec<Vec<usize>> = [frames / 2, frames / 3, 1]
            .map(|length| rng.target(length, classes, blank, 0.2))
            .to_vec();
        list.extend([vec![], list[0].clone(), vec![0; frames]]);
        let values = rng.values(frames * classes, 3.0);
        let values = match kind {
            InputKind::LogProbs => log_softmax(&values, classes),
            InputKind::Logits => values,
        };
        Self {
            frames,
            classes,
            blank,
            values,
            list,
            kind,
        }
    }

    fn opts(&self, per_token: bool) -> ScoreOptions {
        ScoreOptions {
            blank: self.blank,
            input: self.kind,
            per_token,
            ..Default::default()
        }
    }

    fn transcripts(&self) -> Vec<Vec<u32>> {
        let labels = |list: &Vec<usize>| list.iter().map(|&label| label as u32).collect();
        self.list.iter().map(labels).collect()
    }

    fn input(&self, dtype: DType, device: &Device) -> Tensor {
        tensors::floats(&self.values, &[self.frames, self.classes], dtype, device)
    }

    /// The values, and the gradient of their sum weighted by `upstream`, for an input with these entries.
    fn truth(&self, values: &[f64], upstream: &[f64], per_token: bool) -> (Vec<f64>, Vec<f64>) {
        let log_probs = match self.kind {
            InputKind::LogProbs => values.to_vec(),
            InputKind::Logits => log_softmax(values, self.classes),
        };
        let (mut all, mut gradient) = (Vec::new(), vec![0.0; values.len()]);
        for (target, upstream) in self.list.iter().zip(upstream) {
            let divisor = if per_token { target.len().max(1) } else { 1 } as f64;
            let truth = recursion(&log_probs, self.classes, target, self.blank);
            all.push(-truth.loss / divisor);
            if truth.loss == f64::INFINITY {
                continue;
            }
            for (i, gradient) in gradient.iter_mut().enumerate() {
                let softmax = match self.kind {
                    InputKind::LogProbs => 0.0,
                    InputKind::Logits => log_probs[i].exp(),
                };
                *gradient += upstream / divisor * (truth.posterior[i] - softmax);
            }
        }
        (all, gradient)
    }

    fn upstream(&self, seed: u64) -> Vec<f64> {
        Rng::new(seed).values(self.list.len(), 2.0)
    }
}

/// `Σ upstream · value`, leaving out values of −inf, of which 0 · −inf would make NaN.
fn weighted(values: &Tensor, upstream: &[f64]) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), values.dtype(), values.device())?;
    for (k, value) in tensors::read(values).into_iter().enumerate() {
        if value > f64::NEG_INFINITY {
            sum = (sum + values.get(k)?.affine(upstream[k], 0.0)?)?;
        }
    }
    Ok(sum)
}

fn gradient_of(scalar: &Tensor, leaf: &Var) -> Tensor {
    let gradients = scalar.backward().unwrap();
    gradients
        .get(leaf)
        .expect("the leaf has a gradient")
        .clone()
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    for device in devices() {
        for (seed, (frames, classes)) in [(9, 4), (40, 7), (17, 90)].into_iter().enumerate() {
            for kind in KINDS {
                let case = Case::new(seed as u64, frames, classes, kind);
                for dtype in tensors::FLOATS {
                    if !holds(&device, dtype) {
                        continue;
                    }
                    for per_token in [false, true] {
                        let leaf = Var::from_tensor(&case.input(dtype, &device)).unwrap();
                        let opts = case.opts(per_token);
                        let values =
                            transcript_log_likelihoods(&leaf, &case.transcripts(), opts).unwrap();
                        let wide = if dtype == DType::F64 {
                            dtype
                        } else {
                            DType::F32
                        };
                        assert_eq!(
                            (values.dtype(), values.dims()),
                            (wide, &[case.list.len()][..])
                        );
                        let upstream = case.upstream(50);
                        let (want, gradient) =
                            case.truth(&tensors::read(&leaf), &upstream, per_token);
                        tolerance::loss(dtype).check("values", &tensors::read(&values), &want);
                        let scored = score_transcripts(&leaf, &case.transcripts(), opts).unwrap();
                        tolerance::loss(dtype).check("scores", &tensors::read(&values), &scored);
                        let got = gradient_of(&weighted(&values, &upstream).unwrap(), &leaf);
                        assert_eq!((got.dtype(), got.dims()), (dtype, leaf.dims()));
                        // Weights up to 2 for six transcripts.
                        let bound = tolerance::gradient(dtype);
                        let absolute = 8.0 * bound.absolute;
                        let bound = tolerance::Tolerance { absolute, ..bound };
                        let what = format!("{kind:?} {dtype:?} {per_token} {frames}");
                        bound.check(&what, &tensors::read(&got), &gradient);
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    const STEP: f64 = 1e-5;
    for device in devices() {
        if !holds(&device, DType::F64) {
            continue;
        }
        for kind in KINDS {
            for per_token in [false, true] {
                let case = Case::new(3, 8, 4, kind);
                let (upstream, transcripts) = (case.upstream(4), case.transcripts());
                // Moved log-probabilities are not quite normalised.
                let opts = ScoreOptions {
                    normalised: false,
                    ..case.opts(per_token)
                };
                let objective = |values: &[f64]| {
                    let input =
                        tensors::floats(values, &[case.frames, case.classes], DType::F64, &device);
                    let values = transcript_log_likelihoods(&input, &transcripts, opts).unwrap();
                    tensors::read(&weighted(&values, &upstream).unwrap())[0]
                };
                let leaf = Var::from_tensor(&case.input(DType::F64, &device)).unwrap();
                let values = transcript_log_likelihoods(&leaf, &transcripts, opts).unwrap();
                let got = gradient_of(&weighted(&values, &upstream).unwrap(), &leaf);
                let want: Vec<f64> = (0..case.values.len())
                    .map(|i| {
                        let at = |step: f64| {
                            let mut moved = case.values.clone();
                            moved[i] += step;
                            objective(&moved)
                        };
                        (at(STEP) - at(-STEP)) / (2.0 * STEP)
                    })
                    .collect();
                tolerance::FINITE_DIFFERENCES.check("gradient", &tensors::read(&got), &want);
            }
        }
    }
}

#[test]
fn a_list_is_as_many_losses() {
    for device in devices() {
        for dtype in [DType::F64, DType::F32] {
            if !holds(&device, dtype) {
                continue;
            }
            for kind in KINDS {
                let case = Case::new(5, 60, 12, kind);
                let (transcripts, upstream) = (case.transcripts(), case.upstream(6));
                let leaf = Var::from_tensor(&case.input(dtype, &device)).unwrap();
                let values = transcript_log_likelihoods(&leaf, &transcripts, case.opts(false));
                let values = values.unwrap();
                let opts = CtcLossOptions {
                    blank: case.blank,
                    reduction: Reduction::Sum,
                    ..Default::default()
                };
                let losses: Vec<Tensor> = transcripts
                    .iter()
                    .map(|labels| {
                        let targets =
                            Tensor::from_vec(labels.clone(), (1, labels.len()), &device).unwrap();
                        let (t, u) = (case.frames, labels.len());
                        match kind {
                            InputKind::LogProbs => ctc_loss(&leaf, &targets, t, u, opts),
                            InputKind::Logits => ctc_loss_with_logits(&leaf, &targets, t, u, opts),
                        }
                        .unwrap()
                    })
                    .collect();
                let want: Vec<f64> = losses
                    .iter()
                    .map(|loss| 0.0 - tensors::read(loss)[0])
                    .collect();
                assert_eq!(bits(&tensors::read(&values)), bits(&want), "{kind:?}");
                let losses = Tensor::stack(&losses, 0)
                    .unwrap()
                    .affine(-1.0, 0.0)
                    .unwrap();
                let want = gradient_of(&weighted(&losses, &upstream).unwrap(), &leaf);
                let got = gradient_of(&weighted(&values, &upstream).unwrap(), &leaf);
                let bound = match dtype {
                    DType::F64 => tolerance::Tolerance {
                        absolute: 1e-12,
                        relative: 1e-12,
                    },
                    dtype => tolerance::gradient(dtype),
                };
                bound.check("gradient", &tensors::read(&got), &tensors::read(&want));
            }
        }
    }
}

#[test]
fn views_and_dimensions_of_one_give_the_same_bits() {
    for device in devices() {
        for kind in KINDS {
            for dtype in [DType::F32, DType::BF16] {
                let case = Case::new(7, 30, 6, kind);
                let (transcripts, upstream) = (case.transcripts(), case.upstream(8));
                let input = case.input(dtype, &device).unsqueeze(1).unwrap(); // (T, 1, C)
                let results = |input: &Tensor, base: &Var| {
                    let values =
                        transcript_log_likelihoods(input, &transcripts, case.opts(false)).unwrap();
                    let gradient = gradient_of(&weighted(&values, &upstream).unwrap(), base);
                    (bits(&tensors::read(&values)), gradient)
                };
                let leaf = Var::from_tensor(&input).unwrap();
                let (values, gradient) = results(&leaf, &leaf);
                let gradient = bits(&tensors::read(&gradient));
                let flat = leaf.squeeze(1).unwrap();
                let (same, flat) = results(&flat, &leaf);
                assert_eq!(
                    (same, bits(&tensors::read(&flat))),
                    (values.clone(), gradient.clone())
                );
                for view in &VIEWS {
                    let base = Var::from_tensor(&(view.store)(&input).unwrap()).unwrap();
                    let (same, of_base) = results(&(view.view)(&base).unwrap(), &base);
                    let of_base = (view.view)(&of_base).unwrap();
                    assert_eq!(same, values, "{}", view.name);
                    assert_eq!(bits(&tensors::read(&of_base)), gradient, "{}", view.name);
                }
            }
        }
    }
}

#[test]
fn a_list_may_be_used_twice_and_beside_another() {
    for device in devices() {
        for kind in KINDS {
            let case = Case::new(9, 20, 6, kind);
            let other = Case {
                list: vec![vec![2, 2], vec![5]],
                ..Case::new(9, 20, 6, kind)
            };
            let leaf = Var::from_tensor(&case.input(DType::F32, &device)).unwrap();
            let values =
                transcript_log_likelihoods(&leaf, &case.transcripts(), case.opts(false)).unwrap();
            let others =
                transcript_log_likelihoods(&leaf, &other.transcripts(), case.opts(false)).unwrap();
            let (once, twice, beside) = (case.upstream(1), case.upstream(2), other.upstream(3));
            let sum = (weighted(&values, &once).unwrap() + weighted(&values, &twice).unwrap())
                .and_then(|sum| sum + weighted(&others, &beside).unwrap())
                .unwrap();
            let got = tensors::read(&gradient_of(&sum, &leaf));
            let entries = tensors::read(&leaf);
            let parts = [
                case.truth(&entries, &once, false).1,
                case.truth(&entries, &twice, false).1,
                other.truth(&entries, &beside, false).1,
            ];
            let want: Vec<f64> = (0..got.len())
                .map(|i| parts.iter().map(|part| part[i]).sum())
                .collect();
            let bound = tolerance::gradient(DType::F32);
            let absolute = 8.0 * bound.absolute;
            tolerance::Tolerance { absolute, ..bound }.check("gradient", &got, &want);
            // Twice backward: nothing is used up.
            let again = tensors::read(&gradient_of(&sum, &leaf));
            assert_eq!(bits(&got), bits(&again));
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_tracking_or_company() {
    for kind in KINDS {
        let case = Case::new(11, 300, 80, kind);
        let (transcripts, upstream) = (case.transcripts(), case.upstream(12));
        let input = case.input(DType::F32, &Device::Cpu);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let leaf = Var::from_tensor(&input).unwrap();
                let values =
                    transcript_log_likelihoods(&leaf, &transcripts, case.opts(false)).unwrap();
                let gradient = gradient_of(&weighted(&values, &upstream).unwrap(), &leaf);
                (
                    bits(&tensors::read(&values)),
                    bits(&tensors::read(&gradient)),
                )
            })
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
        let untracked = transcript_log_likelihoods(&input, &transcripts, case.opts(false)).unwrap();
        assert!(!untracked.track_op());
        assert_eq!(bits(&tensors::read(&untracked)), one.0);
        let alone =
            transcript_log_likelihoods(&input, &transcripts[..1], case.opts(false)).unwrap();
        assert_eq!(bits(&tensors::read(&alone)), one.0[..1]);
    }
}

#[test]
fn what_is_impossible_adds_nothing_and_what_is_nan_stays_nan() {
    for device in devices() {
        for kind in KINDS {
            let mut case = Case::new(13, 12, 6, kind);
            case.list = vec![vec![2, 3], vec![5, 2]];
            // Class 5 is masked in every frame.
            case.values
                .iter_mut()
                .skip(5)
                .step_by(6)
                .for_each(|x| *x = f64::NEG_INFINITY);
            if kind == InputKind::LogProbs {
                case.values = log_softmax(&case.values, 6);
            }
            let run = |case: &Case, upstream: &[f64]| {
                let leaf = Var::from_tensor(&case.input(DType::F32, &device)).unwrap();
                let values =
                    transcript_log_likelihoods(&leaf, &case.transcripts(), case.opts(false))
                        .unwrap();
                let upstream = tensors::floats(upstream, &[upstream.len()], DType::F32, &device);
                // The product of −inf is not used: only its gradient is.
                let gradient =
                    gradient_of(&(&values * upstream).unwrap().sum_all().unwrap(), &leaf);
                (tensors::read(&values), tensors::read(&gradient))
            };
            let (values, gradient) = run(&case, &[1.5, 2.0]);
            assert_eq!(values[1], f64::NEG_INFINITY);
            let mut first = case.transcripts();
            first.truncate(1);
            let alone = Case {
                list: vec![vec![2, 3]],
                values: case.values.clone(),
                ..case
            };
            let (value, of_first) = run(&alone, &[1.5]);
            assert_eq!(
                (bits(&value), bits(&of_first)),
                (bits(&values[..1]), bits(&gradient))
            );
            assert!(gradient.iter().any(|x| *x != 0.0));

            // A NaN at class 4, which the second transcript uses. For logits it is in the softmax of its frame.
            let mut case = Case {
                list: vec![vec![2, 3], vec![4]],
                ..alone
            };
            case.values[6 * 7 + 4] = f64::NAN;
            let (values, gradient) = run(&case, &[1.0, 1.0]);
            assert_eq!(values[0].is_nan(), kind == InputKind::Logits);
            assert!(values[1].is_nan());
            assert!(gradient.iter().all(|x| x.is_nan()), "{gradient:?}");
        }
    }
}

#[test]
fn an_utterance_without_frames_has_its_scores() {
    for device in devices() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            if !holds(&device, dtype) || device.is_metal() {
                continue; // Metal has no empty buffers.
            }
            let input = tensors::floats(&[], &[0, 5], dtype, &device);
            let list = [vec![], vec![1u32], vec![1, 1]];
            let values =
                transcript_log_likelihoods(&input, &list, ScoreOptions::default()).unwrap();
            assert_eq!(values.dtype() == DType::F64, dtype == DType::F64);
            let want = score_transcripts(&input, &list, ScoreOptions::default()).unwrap();
            assert_eq!(tensors::read(&values), want);
            assert_eq!(want, [0.0, f64::NEG_INFINITY, f64::NEG_INFINITY]);
        }
    }
}

#[test]
fn logits_of_one_frame_are_those_of_their_softmax() {
    let opts = ScoreOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    for logit in [0.0, 7.0] {
        let logits = tensors::floats(&[logit; 2], &[1, 2], DType::F64, &Device::Cpu);
        let values = transcript_log_likelihoods(&logits, &[vec![1u32], vec![]], opts).unwrap();
        for value in tensors::read(&values) {
            assert!((value + 2f64.ln()).abs() < 1e-12, "{logit}: {value}");
        }
    }
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let log_probs = Case::new(15, 6, 4, InputKind::LogProbs).input(DType::F32, &Device::Cpu);
    let error = |input: &Tensor, list: &[Vec<u32>], opts: ScoreOptions| {
        transcript_log_likelihoods(input, list, opts)
            .unwrap_err()
            .to_string()
    };
    let opts = ScoreOptions::default();
    let softmax = ScoreOptions {
        softmax: true,
        ..opts
    };
    for (message, expected) in [
        (error(&log_probs, &[], opts), "there are no transcripts"),
        (
            error(&log_probs, &[vec![1]], softmax),
            "softmax(&values, 0)",
        ),
        (
            error(&log_probs, &[vec![1], vec![4]], opts),
            "transcript 1 of item 0",
        ),
        (error(&log_probs, &[vec![0]], opts), "blank"),
        (
            error(&log_probs.exp().unwrap(), &[vec![1]], opts),
            "look like probabilities",
        ),
        (
            error(
                &log_probs.unsqueeze(0).unwrap().expand((2, 6, 4)).unwrap(),
                &[vec![1]],
                opts,
            ),
            "one item at a time",
        ),
        (
            error(&log_probs, &[vec![1]], ScoreOptions { blank: 9, ..opts }),
            "blank = 9 is not a class",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
        assert!(
            message.starts_with("transcript_log_likelihoods: "),
            "{message}"
        );
    }
    let integers = Tensor::zeros((6, 4), DType::U32, &Device::Cpu).unwrap();
    assert!(error(&integers, &[vec![1]], opts).contains("dtype"));
}

/// The expected word errors of a list, its weights the softmax of the scores, as docs/recipes.md computes it.
fn expected_errors(values: &Tensor, errors: &[f64]) -> Result<Tensor> {
    let errors = tensors::floats(errors, &[errors.len()], values.dtype(), values.device());
    (candle_nn::ops::softmax(values, 0)? * errors)?.sum_all()
}

#[test]
fn expected_word_errors_have_the_gradient_of_finite_differences() {
    const STEP: f64 = 1e-5;
    let words = ["", "a", "b", "c"];
    let spoken = |labels: &[u32]| -> String {
        let words: Vec<&str> = labels.iter().map(|&label| words[label as usize]).collect();
        words.join(" ")
    };
    let list: [Vec<u32>; 5] = [vec![1, 2, 3], vec![1, 3], vec![2, 2], vec![], vec![1, 2]];
    let errors: Vec<f64> = list
        .iter()
        .map(|labels| text::word_error_rate("a b c", &spoken(labels)).errors() as f64)
        .collect();
    assert_eq!(errors, [0.0, 1.0, 2.0, 3.0, 1.0]);
    let logits = Rng::new(17).values(7 * 4, 2.0);
    let opts = ScoreOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    for device in devices() {
        if !holds(&device, DType::F64) {
            continue;
        }
        let risk = |input: &Tensor| {
            let values = transcript_log_likelihoods(input, &list, opts).unwrap();
            expected_errors(&values, &errors).unwrap()
        };
        let leaf =
            Var::from_tensor(&tensors::floats(&logits, &[7, 4], DType::F64, &device)).unwrap();
        let got = tensors::read(&gradient_of(&risk(&leaf), &leaf));
        let want: Vec<f64> = (0..logits.len())
            .map(|i| {
                let at = |step: f64| {
                    let mut moved = logits.clone();
                    moved[i] += step;
                    let input = tensors::floats(&moved, &[7, 4], DType::F64, &device);
                    tensors::read(&risk(&input))[0]
                };
                (at(STEP) - at(-STEP)) / (2.0 * STEP)
            })
            .collect();
        assert!(want.iter().any(|x| x.abs() > 1e-3));
        tolerance::FINITE_DIFFERENCES.check("gradient of the risk", &got, &want);
    }
}
