//! The oracle itself: two methods and a closed form that must agree.

use crate::common::Rng;
use crate::common::labellings::labellings;
use crate::common::lattice::Item;
use crate::common::oracle::{enumerate, recursion, repeats, uniform_loss};
use crate::common::tolerance::Tolerance;

/// Both are f64; the largest loss here is below 100.
const SAME: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 1e-12,
};

#[test]
fn recursion_equals_enumeration_of_all_paths() {
    let mut rng = Rng::new(1);
    let (mut feasible, mut infeasible) = (0, 0);
    for round in 0..400 {
        let classes = 2 + rng.below(3);
        let frames = rng.below(7);
        let blank = rng.below(classes);
        let length = rng.below(5);
        let target = rng.target(length, classes, blank, 0.4);
        let mut log_probs = rng.values(frames * classes, 4.0);
        if round % 3 == 0 {
            for x in &mut log_probs {
                if rng.unit() < 0.15 {
                    *x = f64::NEG_INFINITY;
                }
            }
        }
        let a = enumerate(&log_probs, classes, &target, blank);
        let b = recursion(&log_probs, classes, &target, blank);
        SAME.check("loss", &[b.loss], &[a.loss]);
        SAME.check("posterior", &b.posterior, &a.posterior);
        if a.loss.is_finite() {
            feasible += 1;
        } else {
            infeasible += 1;
        }
    }
    assert!(feasible > 100 && infeasible > 50, "{feasible} {infeasible}");
}

#[test]
fn uniform_loss_follows_the_closed_form() {
    let mut rng = Rng::new(2);
    for (frames, classes, length) in [
        (1, 2, 0),
        (7, 3, 3),
        (60, 5, 20),
        (500, 30, 100),
        (2000, 6, 5),
    ] {
        let target = rng.target(length, classes, 0, 0.3);
        let log_prob = -(classes as f64).ln();
        let truth = recursion(&vec![log_prob; frames * classes], classes, &target, 0);
        let want = uniform_loss(frames, log_prob, length, repeats(&target));
        Tolerance {
            absolute: 1e-9,
            relative: 1e-12,
        }
        .check("loss", &[truth.loss], &[want]);
    }
    assert_eq!(uniform_loss(3, -1.0, 3, 1), f64::INFINITY);
    assert_eq!(recursion(&[-1.0; 9], 3, &[1, 1, 2], 0).loss, f64::INFINITY);
}

#[test]
fn posterior_of_a_feasible_item_sums_to_one_at_each_frame() {
    let mut rng = Rng::new(3);
    let target = rng.target(40, 9, 4, 0.3);
    let truth = recursion(&rng.values(200 * 9, 20.0), 9, &target, 4);
    for frame in truth.posterior.chunks_exact(9) {
        SAME.check("sum", &[frame.iter().sum()], &[1.0]);
    }
}

#[test]
fn tolerance_rejects_what_it_should() {
    let t = Tolerance {
        absolute: 0.1,
        relative: 0.0,
    };
    assert!(
        t.accepts(1.05, 1.0)
            && t.accepts(f64::NAN, f64::NAN)
            && t.accepts(f64::INFINITY, f64::INFINITY)
    );
    assert!(!t.accepts(1.2, 1.0));
    assert!(!t.accepts(f64::NAN, 1.0) && !t.accepts(1.0, f64::NAN));
    assert!(!t.accepts(f64::INFINITY, 1.0) && !t.accepts(1.0, f64::INFINITY));
    assert!(!t.accepts(f64::NEG_INFINITY, f64::INFINITY));
}

/// The lattice, which has posteriors of states and best paths, too.
#[test]
fn the_lattice_equals_the_recursion_and_all_paths() {
    let mut rng = Rng::new(4);
    let mut possible = 0;
    for round in 0..600 {
        let classes = 2 + rng.below(4);
        let frames = 1 + rng.below(if round % 2 == 0 { 6 } else { 90 });
        let blank = rng.below(classes);
        // All lengths up to one that does not fit.
        let length = rng.below(frames + 2);
        let target = rng.target(length, classes, blank, [0.0, 0.3, 1.0][round % 3]);
        let mut log_probs = rng.values(frames * classes, 4.0);
        for x in &mut log_probs {
            if round % 5 == 0 && rng.unit() < 0.1 {
                *x = f64::NEG_INFINITY;
            }
        }
        let item = Item {
            log_probs: &log_probs,
            classes,
            target: &target,
            blank,
        };
        let sums = item.sums();
        let truth = recursion(&log_probs, classes, &target, blank);
        SAME.check("loss", &[sums.loss], &[truth.loss]);
        SAME.check("posterior", &sums.classes(&item), &truth.posterior);
        if truth.loss.is_finite() {
            possible += 1;
            for row in sums.states(&item).chunks_exact(2 * length + 1) {
                SAME.check("states", &[row.iter().sum()], &[1.0]);
            }
            assert_eq!(sums.tokens(&item).len(), length);
        }
        if frames < 6 {
            let labels: Vec<u32> = target.iter().map(|&label| label as u32).collect();
            let all = labellings(&log_probs, classes, blank);
            let own = all.iter().find(|labelling| labelling.tokens == labels);
            let best = own.map_or(f64::NEG_INFINITY, |labelling| labelling.best);
            SAME.check("best score", &[item.best_score()], &[best]);
            for path in own.iter().flat_map(|labelling| &labelling.paths) {
                let path: Vec<u32> = path.iter().map(|&class| class as u32).collect();
                SAME.check("path score", &[item.path_score(&path)], &[best]);
            }
        }
    }
    assert!(possible > 200, "{possible}");
}

/// Among log-probabilities of −1e9, differences of 1e-9 still count.
#[test]
fn the_lattice_keeps_small_numbers_beside_huge_ones() {
    let (far, near) = (-1e9, [-0.5, -1.25, -0.125]);
    // One label in three frames, all of whose entries are far below the blank's.
    let log_probs: Vec<f64> = near.iter().flat_map(|x| [0.0, far + x]).collect();
    let item = Item {
        log_probs: &log_probs,
        classes: 2,
        target: &[1],
        blank: 0,
    };
    // Paths with one frame in the label are the only ones that count.
    let exact = near.map(|x| (far + x) - far);
    let weights = exact.map(f64::exp);
    let sum: f64 = weights.iter().sum();
    let sums = item.sums();
    let want: Vec<f64> = weights
        .iter()
        .flat_map(|w| [1.0 - w / sum, w / sum])
        .collect();
    SAME.check("posterior", &sums.classes(&item), &want);
}
