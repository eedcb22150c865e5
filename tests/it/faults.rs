//! What goes wrong outside: models that panic, graphs in other threads, variables that change.

use crate::common::{Entry, Rng, bits, tensors};
use crate::decode::{distribution, tensor};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    BeamOptions, BeamSearch, CtcLossOptions, GradientKind, InputKind, LanguageModel, Reduction,
    ScoreOptions, beam_search_batch_with, beam_search_with, ctc_loss_linear, ctc_loss_with_logits,
    transcript_log_likelihoods,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

const FRAMES: usize = 12;
const CLASSES: usize = 5;

/// A model with the same score for all tokens, which panics at one of its calls.
struct Panics {
    calls: AtomicUsize,
    at: usize,
}

impl Panics {
    fn call(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.at {
            panic!("the model breaks");
        }
    }
}

impl LanguageModel for Panics {
    type State = u32;

    fn start(&self) -> Result<u32> {
        Ok(0)
    }

    fn score(&self, depth: &u32, token: u32) -> Result<f64> {
        self.call();
        Ok(-0.1 * f64::from((depth + token) % 3))
    }

    fn advance(&self, depth: &u32, _token: u32) -> Result<u32> {
        self.call();
        Ok(depth + 1)
    }

    fn next_tokens(&self, depth: &u32, most: usize, tokens: &mut Vec<u32>) -> bool {
        self.call();
        assert!(most >= CLASSES);
        let all = 1..CLASSES as u32;
        tokens.extend(all.filter(|token| !(depth + token).is_multiple_of(4)));
        true
    }

    fn state_key(&self, depth: &u32) -> Option<u128> {
        self.call();
        Some(u128::from(depth % 12))
    }
}

#[test]
fn a_search_goes_on_when_the_language_model_has_panicked() {
    let mut rng = Rng::new(1);
    let input = tensor(&distribution(&mut rng, FRAMES, CLASSES, 2.0, 0.0), CLASSES);
    // With one hypothesis, the search asks for keys, too.
    let opts = BeamOptions {
        beam_width: 6,
        ..Default::default()
    };
    let model = |at| Panics {
        calls: 0.into(),
        at,
    };
    let sound = model(usize::MAX);
    let want = beam_search_with(&input, &sound, opts).unwrap();
    let calls = sound.calls.into_inner();
    assert!(calls > 100);
    for at in (0..calls).step_by(7) {
        let mut search = BeamSearch::with_language_model(CLASSES, model(at), opts).unwrap();
        let mut panics = 0;
        while search.frames() < FRAMES {
            let rest = input
                .narrow(0, search.frames(), FRAMES - search.frames())
                .unwrap();
            match catch_unwind(AssertUnwindSafe(|| search.push(&rest))) {
                Ok(pushed) => pushed.unwrap(),
                Err(_) => panics += 1,
            }
        }
        assert_eq!(
            (panics, search.finish().unwrap()),
            (1, want.clone()),
            "call {at}"
        );
    }

    // In a batch, on the threads of a pool, which can be used again.
    let batch = Tensor::stack(&[&input, &input, &input], 1).unwrap();
    let search = |model: &Panics| beam_search_batch_with(&batch, [FRAMES; 3], model, opts);
    let broken = model(calls + 3);
    assert!(catch_unwind(AssertUnwindSafe(|| search(&broken))).is_err());
    assert_eq!(search(&model(usize::MAX)).unwrap(), vec![want; 3]);
}

/// An input, and the arguments of a loss over it.
fn input(seed: u64, dtype: DType) -> Tensor {
    let values = Rng::new(seed).values(FRAMES * 2 * CLASSES, 2.0);
    let logits = tensors::floats(&values, &[FRAMES, 2, CLASSES], DType::F32, &Device::Cpu);
    let log_probs = candle_nn::ops::log_softmax(&logits, 2).unwrap();
    log_probs.to_dtype(dtype).unwrap()
}

fn loss(entry: Entry, leaf: &Tensor, gradient: GradientKind) -> Tensor {
    let targets = Tensor::new(&[[1u32, 2, 2], [4, 3, 0]], &Device::Cpu).unwrap();
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        gradient,
        ..Default::default()
    };
    entry
        .loss(leaf, &targets, &[FRAMES, FRAMES - 2], &[3, 2], opts)
        .unwrap()
}

#[test]
fn a_graph_may_be_followed_and_dropped_in_other_threads() {
    for entry in Entry::ALL {
        let leaf = Var::from_tensor(&input(3, DType::F32)).unwrap();
        let loss = loss(entry, &leaf, GradientKind::Exact);
        let gradient = || tensors::read(loss.backward().unwrap().get(&leaf).unwrap());
        let want = bits(&gradient());
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..4).map(|_| scope.spawn(|| bits(&gradient()))).collect();
            for other in others {
                assert_eq!(other.join().unwrap(), want);
            }
        });
        std::thread::spawn(move || drop(loss)).join().unwrap();
        assert_eq!(leaf.dims(), [FRAMES, 2, CLASSES]);
    }
}

#[test]
fn a_variable_that_changed_before_the_backward_pass_is_an_error_or_has_the_old_gradient() {
    let changed = "the input has changed since the loss was computed";
    for dtype in tensors::FLOATS {
        for entry in Entry::ALL {
            for gradient in [GradientKind::Exact, GradientKind::Torch] {
                let leaf = Var::from_tensor(&input(3, dtype)).unwrap();
                let loss = loss(entry, &leaf, gradient);
                let before = tensors::read(loss.backward().unwrap().get(&leaf).unwrap());
                leaf.set(&input(4, dtype)).unwrap();
                match loss.backward() {
                    Ok(gradients) => {
                        // From posteriors alone.
                        let after = tensors::read(gradients.get(&leaf).unwrap());
                        assert_eq!(bits(&after), bits(&before), "{entry:?} {dtype:?}");
                        assert!(entry == Entry::LogProbs && gradient == GradientKind::Exact);
                    }
                    Err(error) => {
                        let error = error.to_string();
                        assert!(
                            error.contains("ctc-loss") && error.contains(changed),
                            "{error}"
                        );
                        assert!(entry == Entry::Logits || gradient == GradientKind::Torch);
                    }
                }
            }
        }
        // A list of transcripts.
        let utterance = input(3, dtype).narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        for kind in [InputKind::LogProbs, InputKind::Logits] {
            let leaf = Var::from_tensor(&utterance.contiguous().unwrap()).unwrap();
            let opts = ScoreOptions {
                input: kind,
                ..Default::default()
            };
            let values = transcript_log_likelihoods(&leaf, &[vec![1, 2], vec![3]], opts).unwrap();
            let values = values.sum_all().unwrap();
            let before = tensors::read(values.backward().unwrap().get(&leaf).unwrap());
            leaf.set(&(leaf.as_tensor() * 2.0).unwrap()).unwrap();
            match values.backward() {
                Ok(gradients) => {
                    assert_eq!(kind, InputKind::LogProbs);
                    let after = tensors::read(gradients.get(&leaf).unwrap());
                    assert_eq!(bits(&after), bits(&before), "{dtype:?}");
                }
                Err(error) => {
                    assert_eq!(kind, InputKind::Logits);
                    assert!(error.to_string().contains(changed), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_variable_that_changed_behind_its_first_entries_is_an_error() {
    let (old, new) = (input(3, DType::F32), input(4, DType::F32));
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap();
    let first = flat(&old).narrow(0, 0, 2).unwrap();
    let rest = flat(&new).narrow(0, 2, old.elem_count() - 2).unwrap();
    let mixed = Tensor::cat(&[first, rest], 0).unwrap();
    let leaf = Var::from_tensor(&old).unwrap();
    let loss = loss(Entry::Logits, &leaf, GradientKind::Exact);
    leaf.set(&mixed.reshape(old.dims()).unwrap()).unwrap();
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("the input has changed"), "{error}");
}

#[test]
fn an_item_without_frames_may_change_before_the_backward_pass() {
    let (old, new) = (input(3, DType::F32), input(4, DType::F32));
    let leaf = Var::from_tensor(&old).unwrap();
    let targets = Tensor::new(&[[1u32], [2]], &Device::Cpu).unwrap();
    let opts = CtcLossOptions {
        reduction: Reduction::Sum,
        ..Default::default()
    };
    let loss = ctc_loss_with_logits(&leaf, &targets, [FRAMES, 0], [1, 0], opts).unwrap();
    let gradient = || tensors::read(loss.backward().unwrap().get(&leaf).unwrap());
    let want = bits(&gradient());
    let parts = [old.narrow(1, 0, 1).unwrap(), new.narrow(1, 1, 1).unwrap()];
    leaf.set(&Tensor::cat(&parts, 1).unwrap().contiguous().unwrap())
        .unwrap();
    assert_eq!(bits(&gradient()), want);
}

#[test]
fn a_linear_layer_that_changed_before_the_backward_pass_has_the_gradient_of_one_state() {
    let values = |seed, count| Rng::new(seed).values(count, 1.0);
    let tensor = |seed, dims: &[usize]| {
        let count = dims.iter().product();
        tensors::floats(&values(seed, count), dims, DType::F32, &Device::Cpu)
    };
    for reduction in [Reduction::Sum, Reduction::None] {
        let opts = CtcLossOptions {
            reduction,
            ..Default::default()
        };
        let targets = Tensor::new(&[[1u32, 2, 2], [4, 3, 0]], &Device::Cpu).unwrap();
        let run = |weight: &Tensor, hidden: &Tensor| {
            let (frames, labels) = ([FRAMES, FRAMES - 2], [3, 2]);
            ctc_loss_linear(hidden, weight, None, &targets, frames, labels, opts).unwrap()
        };
        let hidden = Var::from_tensor(&tensor(1, &[FRAMES, 2, 6])).unwrap();
        let gradient_at = |weight: &Tensor| {
            let loss = run(weight, &hidden).sum_all().unwrap();
            bits(&tensors::read(
                loss.backward().unwrap().get(&hidden).unwrap(),
            ))
        };
        let (old, new) = (tensor(2, &[CLASSES, 6]), tensor(3, &[CLASSES, 6]));
        let weight = Var::from_tensor(&old).unwrap();
        let loss = run(&weight, &hidden).sum_all().unwrap();
        weight.set(&new).unwrap();
        let gradients = loss.backward().unwrap();
        let got = bits(&tensors::read(gradients.get(&hidden).unwrap()));
        // A single loss has its gradients ready; the losses of items compute them anew.
        let at = if reduction == Reduction::Sum {
            &old
        } else {
            &new
        };
        assert_eq!(got, gradient_at(at), "{reduction:?}");
    }
}
