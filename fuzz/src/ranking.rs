//! The order of candidates and their shares, by their definitions.

use candle_ctc::TranscriptScore;

/// That candidates of these lengths are ranked by their log-likelihoods.
pub fn check(ranked: &[TranscriptScore], lengths: &[usize], per_token: bool) {
    let mut indices: Vec<usize> = ranked.iter().map(|one| one.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..lengths.len()), "{ranked:?}");
    for one in ranked {
        let length = lengths[one.index].max(1) as f64;
        let want = one.log_likelihood / length;
        assert!(one.per_token == want || want.is_nan(), "{want} {one:?}");
        assert_eq!(one.per_token.is_nan(), want.is_nan(), "{one:?}");
    }
    let key = |one: &TranscriptScore| match per_token {
        true => one.per_token,
        false => one.log_likelihood,
    };
    for pair in ranked.windows(2) {
        let (first, second) = (key(&pair[0]), key(&pair[1]));
        let in_order = match (first.is_nan(), second.is_nan()) {
            (false, false) if first == second => pair[0].index < pair[1].index,
            (false, false) => first > second,
            (true, true) => pair[0].index < pair[1].index,
            (first_is_nan, _) => !first_is_nan,
        };
        assert!(in_order, "{pair:?}");
    }
    let keys = || ranked.iter().map(key).filter(|key| !key.is_nan());
    let largest = keys().fold(f64::NEG_INFINITY, f64::max);
    let share = |key: f64| match largest {
        f64::NEG_INFINITY => 0.0,
        largest => (key - largest).exp(),
    };
    let all: f64 = keys().map(share).sum();
    for one in ranked {
        let (key, got) = (key(one), one.probability);
        let want = if all > 0.0 { share(key) / all } else { 0.0 };
        let right = match key.is_nan() {
            true => got.is_nan(),
            false => (got - want).abs() <= 1e-12,
        };
        assert!(right, "{want} {one:?}");
    }
}
