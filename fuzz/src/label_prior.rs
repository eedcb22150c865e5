//! The label prior, by its definition.

/// The logarithm of the mean probability of each class over the frames of items and over one more, which is uniform.
/// Items with NaN or +inf do not count; `None` without a frame that counts.
pub fn log_prior(items: &[Vec<f64>], classes: usize) -> Option<Vec<f64>> {
    let defined = |item: &&Vec<f64>| item.iter().all(|x| *x < f64::INFINITY);
    let rows = || {
        let items = items.iter().filter(defined);
        items.flat_map(|item| item.chunks_exact(classes))
    };
    let frames = rows().count() as f64;
    let mean = |class: usize| {
        let sum: f64 = rows().map(|row| row[class].exp()).sum();
        (sum + 1.0 / classes as f64) / (frames + 1.0)
    };
    (frames > 0.0).then(|| (0..classes).map(|class| mean(class).ln()).collect())
}
