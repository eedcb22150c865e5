//! Transcript scores and confidences against the definition.

use crate::common::oracle::{collapse, enumerate, recursion, repeats};
use crate::common::{Rng, for_confidence, tensors, tolerance, views};
use candle_core::{DType, Device, Result, Tensor};
use candle_ctc::{
    InputKind, InputLayout, ScoreOptions, rank_transcripts, score_transcripts,
    score_transcripts_batch, state_posteriors_batch, token_confidence_batch,
};
use proptest::prelude::*;

fn log_probs(rng: &mut Rng, rows: usize, classes: usize, scale: f64) -> Vec<f64> {
    let mut values = rng.values(rows * classes, scale);
    for row in values.chunks_exact_mut(classes) {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut().for_each(|x| *x -= sum.ln());
    }
    values
}

fn labels(target: &[usize]) -> Vec<u32> {
    target.iter().map(|&label| label as u32).collect()
}

fn all_labels(targets: &[Vec<usize>]) -> Vec<Vec<u32>> {
    targets.iter().map(|target| labels(target)).collect()
}

fn truths(values: &[f64], classes: usize, targets: &[Vec<usize>], blank: usize) -> Vec<f64> {
    targets
        .iter()
        .map(|target| -recursion(values, classes, target, blank).loss)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn scores_sum_over_all_paths(seed in any::<u64>(), frames in 1usize..7, blank in 0usize..3) {
        let mut rng = Rng::new(seed);
        let values = log_probs(&mut rng, frames, 3, 3.0);
        let targets: Vec<Vec<usize>> = (0..8).map(|_| { let u = rng.below(5); rng.target(u, 3, blank, 0.3) }).collect();
        let truth: Vec<f64> = targets.iter().map(|t| -enumerate(&values, 3, t, blank).loss).collect();
        let input = tensors::floats(&values, &[frames, 3], DType::F64, &Device::Cpu);
        let opts = ScoreOptions { blank, ..Default::default() };
        let got = score_transcripts(&input, &all_labels(&targets), opts).unwrap();
        tolerance::loss(DType::F64).check("scores", &got, &truth);
    }

    #[test]
    fn confidences_are_sums_over_all_paths(seed in any::<u64>(), frames in 1usize..7, length in 0usize..4) {
        let mut rng = Rng::new(seed);
        let values = log_probs(&mut rng, frames, 3, 3.0);
        let target = rng.target(length, 3, 0, 0.3);
        prop_assume!(length + repeats(&target) <= frames);
        let states = states_by_enumeration(&values, 3, &target);
        let input = tensors::floats(&values, &[frames, 3], DType::F64, &Device::Cpu);
        let joined = Tensor::from_vec(labels(&target), target.len(), &Device::Cpu).unwrap();
        let opts = ScoreOptions::default();
        let got = state_posteriors_batch(&input, &joined, frames, length, for_confidence(opts)).unwrap();
        prop_assert_eq!(got[0].dims(), &[frames, 2 * length + 1]);
        tolerance::gradient(DType::F64).check("states", &tensors::read(&got[0]), &states.concat());
        let tokens = &token_confidence_batch(&input, &joined, frames, length, for_confidence(opts)).unwrap()[0];
        prop_assert_eq!(tokens.len(), length);
        for (i, token) in tokens.iter().enumerate() {
            let gamma: Vec<f64> = states.iter().map(|row| row[2 * i + 1]).collect();
            let sum: f64 = gamma.iter().sum();
            let weigh = |f: &dyn Fn(usize) -> f64| (0..frames).map(|t| gamma[t] * f(t)).sum::<f64>();
            let p = |t: usize| values[t * 3 + target[i]].exp();
            let want = [
                gamma.iter().copied().fold(0.0, f64::max),
                weigh(&p) / sum,
                weigh(&|t| t as f64) / sum,
                sum,
            ];
            let got = [token.posterior, token.probability, token.expected_frame, token.expected_frames];
            prop_assert_eq!(token.token as usize, target[i]);
            tolerance::gradient(DType::F64).check("token", &got, &want);
            prop_assert!((0.0..=1.0).contains(&token.posterior) && (0.0..=1.0).contains(&token.probability));
        }
    }
}

/// (frames, states) from all paths. A path that reads as the target has one sequence of states.
fn states_by_enumeration(values: &[f64], classes: usize, target: &[usize]) -> Vec<Vec<f64>> {
    let frames = values.len() / classes;
    let mut posterior = vec![vec![0.0; 2 * target.len() + 1]; frames];
    let mut path = vec![0; frames];
    loop {
        if collapse(&path, 0) == target {
            let weight: f64 = (0..frames)
                .map(|t| values[t * classes + path[t]])
                .sum::<f64>()
                .exp();
            let (mut state, mut last) = (0, 0);
            for (t, &label) in path.iter().enumerate() {
                if label != last {
                    state = match (label, last) {
                        (0, _) | (_, 0) => state + 1,
                        _ => state + 2,
                    };
                }
                last = label;
                posterior[t][state] += weight;
            }
        }
        let Some(t) = (0..frames).find(|&t| path[t] + 1 < classes) else {
            break;
        };
        path[t] += 1;
        path[..t].fill(0);
    }
    for row in &mut posterior {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    posterior
}

#[test]
fn large_lists_agree_with_the_recursion_for_every_dtype() {
    let mut rng = Rng::new(3);
    let (frames, classes) = (400, 300);
    let values = log_probs(&mut rng, frames, classes, 4.0);
    // Some share a prefix, one comes twice, one is empty, one does not fit.
    let base = rng.target(60, classes, 7, 0.1);
    let mut targets = vec![base.clone(), base.clone(), vec![], vec![3; 300]];
    for length in [1, 15, 16, 17, 40, 61, 100] {
        targets.push(rng.target(length, classes, 7, 0.1));
        targets.push([&base[..20], &rng.target(length, classes, 7, 0.1)].concat());
    }
    for dtype in tensors::FLOATS {
        let input = tensors::floats(&values, &[frames, classes], dtype, &Device::Cpu);
        let want = truths(&tensors::read(&input), classes, &targets, 7);
        let opts = ScoreOptions {
            blank: 7,
            ..Default::default()
        };
        let got = score_transcripts(&input, &all_labels(&targets), opts).unwrap();
        tolerance::loss(dtype).check("scores", &got, &want);
        assert_eq!(got[0].to_bits(), got[1].to_bits());
        assert_eq!(got[3], f64::NEG_INFINITY);
        // Alone or in company: the same to rounding.
        let alone = score_transcripts(&input, &all_labels(&targets[..1]), opts).unwrap();
        tolerance::loss(dtype).check("alone", &alone, &got[..1]);
    }
}

#[test]
fn the_number_of_threads_changes_no_score() {
    let mut rng = Rng::new(15);
    let values = log_probs(&mut rng, 30, 6, 3.0);
    let input = tensors::floats(&values, &[30, 6], DType::F32, &Device::Cpu);
    let targets: Vec<Vec<usize>> = (0..9).map(|length| rng.target(length, 6, 0, 0.2)).collect();
    let targets = all_labels(&targets);
    let go = || score_transcripts(&input, &targets, ScoreOptions::default()).unwrap();
    let want = go();
    for threads in [1, 2, 12] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        assert_eq!(pool.build().unwrap().install(go), want, "{threads}");
    }
}

/// Probabilities that are above 1 by one rounding in each frame.
#[test]
fn a_certain_transcript_has_0_whatever_its_rounding() {
    for (dtype, epsilon) in [
        (DType::F64, f64::EPSILON),
        (DType::F32, f64::from(f32::EPSILON)),
    ] {
        let values = [f64::NEG_INFINITY, epsilon].repeat(100);
        let input = tensors::floats(&values, &[100, 2], dtype, &Device::Cpu);
        let got = score_transcripts(&input, &[vec![1u32]], ScoreOptions::default()).unwrap();
        assert_eq!(got, [0.0], "{dtype:?}");
    }
}

#[test]
fn batches_layouts_views_and_logits_agree() {
    let mut rng = Rng::new(9);
    let (frames, classes) = (30, 6);
    let values = log_probs(&mut rng, frames * 3, classes, 3.0);
    let lists: Vec<Vec<Vec<usize>>> = [3, 0, 5]
        .iter()
        .map(|&count| {
            (0..count)
                .map(|i| rng.target(2 * i, classes, 0, 0.2))
                .collect()
        })
        .collect();
    let input_lengths = [30, 12, 0];
    let candidates: Vec<Vec<Vec<u32>>> = lists.iter().map(|list| all_labels(list)).collect();
    let input = tensors::floats(&values, &[frames, 3, classes], DType::F32, &Device::Cpu);
    let exact = tensors::read(&input);
    let opts = ScoreOptions::default();
    let got = score_transcripts_batch(&input, input_lengths, &candidates, opts).unwrap();
    for n in 0..3 {
        let item: Vec<f64> = (0..input_lengths[n])
            .flat_map(|t| exact[(t * 3 + n) * classes..][..classes].to_vec())
            .collect();
        let want = truths(&item, classes, &lists[n], 0);
        tolerance::loss(DType::F32).check("batch", &got[n], &want);
    }
    for view in &views::VIEWS {
        let base = (view.store)(&input).unwrap();
        let seen = (view.view)(&base).unwrap();
        let same = score_transcripts_batch(&seen, input_lengths, &candidates, opts).unwrap();
        assert_eq!(got, same, "{}", view.name);
    }
    let batch_major = ScoreOptions {
        layout: InputLayout::BatchMajor,
        ..opts
    };
    let swapped = input.transpose(0, 1).unwrap();
    let same = score_transcripts_batch(&swapped, input_lengths, &candidates, batch_major).unwrap();
    assert_eq!(got, same);
    // Log-probabilities plus any number a frame are logits of the same distribution.
    let logits = ((&input * 1.0).unwrap() + 2.5).unwrap();
    let opts = ScoreOptions {
        input: InputKind::Logits,
        ..opts
    };
    let same = score_transcripts_batch(&logits, input_lengths, &candidates, opts).unwrap();
    let counts = |lists: &[Vec<f64>]| lists.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(
        (counts(&got), counts(&same)),
        (vec![3, 0, 5], vec![3, 0, 5])
    );
    for (a, b) in got.iter().flatten().zip(same.iter().flatten()) {
        assert!(a == b || (a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn normalisation_softmax_and_ranking_follow_from_the_scores() {
    let mut rng = Rng::new(10);
    let values = log_probs(&mut rng, 20, 5, 2.0);
    let input = tensors::floats(&values, &[20, 5], DType::F64, &Device::Cpu);
    let targets: Vec<Vec<u32>> = [0, 4, 9, 30]
        .iter()
        .map(|&u| labels(&rng.target(u, 5, 0, 0.0)))
        .collect();
    let opts = ScoreOptions::default();
    let raw = score_transcripts(&input, &targets, opts).unwrap();
    let per_token = ScoreOptions {
        per_token: true,
        ..opts
    };
    let each = score_transcripts(&input, &targets, per_token).unwrap();
    assert_eq!((raw.len(), each.len()), (4, 4));
    for ((each, raw), target) in each.iter().zip(&raw).zip(&targets) {
        assert_eq!(*each, raw / target.len().max(1) as f64);
    }
    for (per_token, base) in [(false, &raw), (true, &each)] {
        let softmax = ScoreOptions {
            softmax: true,
            per_token,
            ..opts
        };
        let shares = score_transcripts(&input, &targets, softmax).unwrap();
        let sum: f64 = base.iter().map(|x| x.exp()).sum();
        let want: Vec<f64> = base.iter().map(|x| x.exp() / sum).collect();
        tolerance::loss(DType::F64).check("softmax", &shares, &want);
        let ranked =
            rank_transcripts(&input, &targets, ScoreOptions { per_token, ..opts }).unwrap();
        assert_eq!(ranked.len(), 4);
        for entry in &ranked {
            assert_eq!(entry.log_likelihood, raw[entry.index]);
            assert_eq!(entry.per_token, each[entry.index]);
            assert_eq!(entry.probability, shares[entry.index]);
        }
        let order: Vec<f64> = ranked.iter().map(|entry| base[entry.index]).collect();
        assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
        assert_eq!(ranked.last().unwrap().index, 3); // it does not fit
    }
    // No candidate fits, and no candidate at all.
    let softmax = ScoreOptions {
        softmax: true,
        ..opts
    };
    assert_eq!(
        score_transcripts(&input, &targets[3..], softmax).unwrap(),
        [0.0]
    );
    assert!(
        score_transcripts(&input, &targets[..0], softmax)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn nan_and_huge_entries_concern_only_the_candidates_that_use_them() {
    let mut rng = Rng::new(11);
    let mut values = log_probs(&mut rng, 10, 4, 2.0);
    values[4 * 5 + 3] = f64::NAN;
    values[4 * 6 + 2] = -3e8;
    values[4 * 7 + 1] = f64::NEG_INFINITY;
    let targets = [
        vec![1],
        vec![2, 1],
        vec![3],
        vec![1, 2, 1, 2, 1, 2, 1, 2, 1, 2],
    ];
    for dtype in [DType::F32, DType::F64] {
        let input = tensors::floats(&values, &[10, 4], dtype, &Device::Cpu);
        let want = truths(&tensors::read(&input), 4, &targets, 0);
        let got =
            score_transcripts(&input, &all_labels(&targets), ScoreOptions::default()).unwrap();
        assert!(got[2].is_nan());
        tolerance::loss(dtype).check("scores", &got, &want);
        let ranked =
            rank_transcripts(&input, &all_labels(&targets), ScoreOptions::default()).unwrap();
        assert_eq!(ranked[3].index, 2);
    }
}

#[test]
fn a_nan_is_seen_where_no_candidate_fits() {
    let input = Tensor::new(&[[f64::NAN, -1.0], [-1.0, -1.0]], &Device::Cpu).unwrap();
    let score = |targets: &[Vec<usize>]| {
        score_transcripts(&input, &all_labels(targets), ScoreOptions::default()).unwrap()
    };
    assert!(score(&[vec![1, 1]])[0].is_nan());
    assert!(score(&[vec![1, 1], vec![1]])[0].is_nan());
}

#[test]
fn impossible_targets_have_no_confidence() {
    let input = Tensor::new(&[[-1.0f32, -1.0], [f32::NAN, -1.0]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[1u32, 1], &Device::Cpu).unwrap();
    let opts = ScoreOptions::default();
    let tokens = token_confidence_batch(&input, &targets, 2, 2, for_confidence(opts)).unwrap();
    assert_eq!(tokens[0].len(), 2);
    assert!(tokens[0].iter().all(|token| token.posterior.is_nan()));
    let states = state_posteriors_batch(&input, &targets, 2, 2, for_confidence(opts)).unwrap();
    assert_eq!(states[0].dims(), [2, 5]);
    assert!(tensors::read(&states[0]).iter().all(|x| x.is_nan()));
    let first = input.narrow(0, 0, 1).unwrap();
    let tokens = token_confidence_batch(&first, &targets, 1, 2, for_confidence(opts)).unwrap();
    assert_eq!(tokens[0].len(), 2);
    assert!(
        tokens[0]
            .iter()
            .all(|token| (token.posterior, token.expected_frames) == (0.0, 0.0))
    );
    let states = state_posteriors_batch(&first, &targets, 1, 2, for_confidence(opts)).unwrap();
    assert_eq!(tensors::read(&states[0]), [0.0; 5]);
    let none = state_posteriors_batch(
        &first,
        &targets.narrow(0, 0, 0).unwrap(),
        0,
        0,
        for_confidence(opts),
    )
    .unwrap();
    assert_eq!(none[0].dims(), [0, 1]);
}

#[test]
fn raw_scores_beyond_the_range_of_exp_have_defined_confidences() {
    // Class 1 is at 800 where class 2 must stand, and nothing of class 1 is left there.
    let values = [[-900.0, 800.0, -900.0], [-900.0, -900.0, 700.0]];
    let input = Tensor::new(&values, &Device::Cpu).unwrap();
    let opts = ScoreOptions {
        normalised: false,
        ..Default::default()
    };
    let targets = Tensor::new(&[2u32, 1], &Device::Cpu).unwrap();
    let tokens = &token_confidence_batch(&input, &targets, 2, 2, for_confidence(opts)).unwrap()[0];
    assert_eq!((tokens[0].probability, tokens[1].probability), (0.0, 0.0));
    let targets = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
    let tokens = &token_confidence_batch(&input, &targets, 2, 2, for_confidence(opts)).unwrap()[0];
    assert_eq!(tokens[0].probability, f64::INFINITY);
    assert!((tokens[1].probability.ln() - 700.0).abs() < 1e-9);
    for token in tokens {
        assert_eq!((token.posterior, token.expected_frames), (1.0, 1.0));
    }
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let message = result.expect_err("an error").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn errors_name_the_transcript_and_the_numbers() {
    let input = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
    let opts = ScoreOptions::default();
    let score = |transcript: &[u32]| score_transcripts(&input, &[&[1][..], transcript], opts);
    fails(
        score(&[2, 4]),
        &[
            "score_transcripts",
            "transcript 1",
            "label 4",
            "position 1",
            "C = 4",
        ],
    );
    fails(score(&[0]), &["transcript 1", "blank (0)", "position 0"]);
    let batch = Tensor::zeros((3, 2, 4), DType::F32, &Device::Cpu).unwrap();
    fails(
        score_transcripts(&batch, &[[1u32]], opts),
        &["(T, C)", "[3, 2, 4]"],
    );
    let lists = [vec![[1u32]]];
    fails(
        score_transcripts_batch(&batch, [3, 3], &lists, opts),
        &["1 items", "N = 2"],
    );
    let lists = [vec![[1u32]], vec![[9]]];
    fails(
        score_transcripts_batch(&batch, [3, 3], &lists, opts),
        &[
            "score_transcripts_batch",
            "transcript 0 of item 1",
            "label 9",
        ],
    );
    fails(
        score_transcripts_batch(&batch, [3, 4], &lists, opts),
        &["input_lengths[1] = 4", "T = 3"],
    );
    let targets = Tensor::new(&[[1u32], [8]], &Device::Cpu).unwrap();
    fails(
        token_confidence_batch(&batch, &targets, [3, 3], [1, 1], for_confidence(opts)),
        &["token_confidence_batch", "label 8"],
    );
    fails(
        state_posteriors_batch(&batch, &targets, [3, 3], [1, 1], for_confidence(opts)),
        &["state_posteriors_batch", "label 8"],
    );
    let integers = Tensor::zeros((3, 4), DType::U32, &Device::Cpu).unwrap();
    fails(
        rank_transcripts(&integers, &[[1u32]], opts),
        &["rank_transcripts", "U32"],
    );
}

#[test]
fn what_a_row_of_logits_has_in_common_does_not_matter() -> Result<()> {
    let options = ScoreOptions {
        input: InputKind::Logits,
        ..Default::default()
    };
    for dtype in [DType::F32, DType::F64] {
        // The third class is used by a candidate, so with the mask all are computed one by one.
        for third in [3.0, f64::NEG_INFINITY] {
            for offset in [0.0, -1e9, 1e12, -1e15, 1e30, f64::from(f32::MIN)] {
                let values = [0.0, 5.0, third, offset, offset, offset];
                let logits = Tensor::from_slice(&values, (2, 3), &Device::Cpu)?.to_dtype(dtype)?;
                let odds = [1.0, 5f64.exp(), third.exp()];
                let sum: f64 = odds.iter().sum();
                let want = ((2.0 * odds[1] + odds[0]) / sum / 3.0).ln();
                let what = format!("{dtype:?} {third} {offset:e}");
                let scores = score_transcripts(&logits, &[vec![1u32], vec![2, 1]], options)?;
                assert!((scores[0] - want).abs() < 1e-6, "{what}: {scores:?}");
                let targets = Tensor::new(&[1u32], &Device::Cpu)?;
                let confidence =
                    token_confidence_batch(&logits, &targets, 2, 1, for_confidence(options))?;
                // Averaged over the frames, by the posteriors there.
                let total = 2.0 * odds[1] + odds[0];
                let (early, late) = (2.0 * odds[1] / total, (odds[1] + odds[0]) / total);
                let mean = (early * odds[1] / sum + late / 3.0) / (early + late);
                let got = confidence[0][0].probability;
                assert!((got - mean).abs() < 1e-6, "{what}: {got} {mean}");
            }
        }
    }
    Ok(())
}

/// An entry that counts as −inf beside another candidate's is a number for the candidate alone.
#[test]
fn finite_masks_do_not_hide_a_candidate_among_others() -> Result<()> {
    for mask in [-1e9, -1.4e9, -1.6e9, -1e10, -1e12, -1e30] {
        for dtype in [DType::F64, DType::F32] {
            // Class 1 is certain in the first frame; the others differ there by less than the mask.
            let x = [
                [mask, 0.0, 1.25 * mask, 1.5 * mask],
                [-1.0, -1.5, -1.25, -2.0],
                [-2.0, -1.0, -1.75, -1.5],
            ];
            let x = Tensor::new(&x, &Device::Cpu)?.to_dtype(dtype)?;
            let mut lists: Vec<Vec<u32>> =
                vec![vec![2], vec![3, 2], vec![], vec![3], vec![1], vec![1, 2]];
            let opts = ScoreOptions {
                normalised: false,
                ..Default::default()
            };
            let alone: Vec<f64> = lists
                .iter()
                .map(|list| Ok(score_transcripts(&x, std::slice::from_ref(list), opts)?[0]))
                .collect::<Result<_>>()?;
            assert!(alone.iter().all(|score| score.is_finite()), "{alone:?}");
            // In company, in lists of all lengths, so that all ways are taken.
            for copies in [1, 20] {
                let more = (0..copies).map(|i| vec![1, 2 + i % 2]);
                lists.truncate(6);
                lists.extend(more);
                let scores = score_transcripts(&x, &lists, opts)?;
                for (score, alone) in scores.iter().zip(&alone) {
                    let off = (score - alone).abs();
                    assert!(
                        off <= 1e-6 + 1e-12 * alone.abs(),
                        "{mask} {dtype:?}: {score} for {alone}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_list_rounds_emissions_otherwise_by_no_more_than_the_docs_say() -> Result<()> {
    // All frames alike, so that their rounding adds up.
    const FRAMES: usize = 20000;
    let row = [-15.175_196_f32, -4.893_302_4, 0.969_288];
    let log_probs = Tensor::new(&row, &Device::Cpu)?.broadcast_as((FRAMES, 3))?;
    let opts = ScoreOptions {
        normalised: false,
        ..Default::default()
    };
    let alone = score_transcripts(&log_probs, &[[1u32]], opts)?[0];
    let together = score_transcripts(&log_probs, &[[1u32], [2]], opts)?[0];
    let frame = (alone - together).abs() / FRAMES as f64;
    assert!(frame < 8.2e-8, "{alone} {together}: {frame:e} a frame");
    Ok(())
}
