//! Distances of sequences, by Levenshtein's table.

/// What an edit costs.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    pub substitution: f64,
    /// Of an element that only `found` has.
    pub insertion: f64,
    /// Of an element that only `said` has.
    pub deletion: f64,
}

/// The least cost of edits that make `found` of `said`.
pub fn distance<T: PartialEq>(said: &[T], found: &[T], costs: Costs) -> f64 {
    let mut table = vec![vec![0.0; found.len() + 1]; said.len() + 1];
    for i in 0..=said.len() {
        for j in 0..=found.len() {
            let deleted = (i > 0).then(|| table[i - 1][j] + costs.deletion);
            let inserted = (j > 0).then(|| table[i][j - 1] + costs.insertion);
            let matched = (i > 0 && j > 0).then(|| {
                let same = said[i - 1] == found[j - 1];
                table[i - 1][j - 1] + if same { 0.0 } else { costs.substitution }
            });
            let ways = [deleted, inserted, matched].into_iter().flatten();
            table[i][j] = ways.reduce(f64::min).unwrap_or(0.0);
        }
    }
    table[said.len()][found.len()]
}

/// Substitutions, insertions and deletions of an alignment with the fewest errors, and among these with the most
/// substitutions.
pub fn errors<T: PartialEq>(said: &[T], found: &[T]) -> [usize; 3] {
    // So little that it decides only between equal numbers of errors.
    const MORE: f64 = 1.0 / 65536.0;
    let costs = Costs {
        substitution: 1.0,
        insertion: 1.0 + MORE,
        deletion: 1.0 + MORE,
    };
    let cost = distance(said, found, costs);
    let all = cost.floor();
    let (all, gaps) = (all as usize, ((cost - all) / MORE) as usize);
    let insertions = (gaps + found.len() - said.len()) / 2;
    [all - gaps, insertions, gaps - insertions]
}
