//! How far a result may be from the truth, named once for each dtype.

use candle_core::DType;

/// `|got - want| <= absolute + relative * |want|`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    pub fn accepts(self, got: f64, want: f64) -> bool {
        if want.is_nan() {
            got.is_nan()
        } else if want.is_infinite() {
            got == want
        } else {
            (got - want).abs() <= self.absolute + self.relative * want.abs()
        }
    }

    /// Panics with the worst entry when any entry is out of tolerance.
    #[track_caller]
    pub fn check(self, what: &str, got: &[f64], want: &[f64]) {
        if let Some(fault) = self.fault(got, want) {
            panic!("{what}: {fault}");
        }
    }

    /// The worst entry, when any entry is out of tolerance.
    pub fn fault(self, got: &[f64], want: &[f64]) -> Option<String> {
        if got.len() != want.len() {
            return Some(format!("{} entries, not {}", got.len(), want.len()));
        }
        let wrong: Vec<usize> = (0..got.len())
            .filter(|&i| !self.accepts(got[i], want[i]))
            .collect();
        let distance = |i: usize| {
            let d = (got[i] - want[i]).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let &worst = wrong
            .iter()
            .max_by(|&&a, &&b| distance(a).total_cmp(&distance(b)))?;
        Some(format!(
            "{} of {} entries are wrong; the worst is entry {worst}: got {:e}, want {:e} ({self:?})",
            wrong.len(),
            got.len(),
            got[worst],
            want[worst],
        ))
    }
}

/// The loss of an input of this dtype, against the f64 truth for the same, already rounded, input.
pub fn loss(dtype: DType) -> Tolerance {
    match dtype {
        // A few hundred roundings of 1.1e-16 in the loss.
        DType::F64 => Tolerance {
            absolute: 1e-10,
            relative: 1e-13,
        },
        // Halves are accumulated in f32 and the loss is f32: 1.2e-7 a rounding, a few dozen of them.
        _ => Tolerance {
            absolute: 1e-5,
            relative: 1e-6,
        },
    }
}

/// The gradient at an input of this dtype, for upstream gradients of order one.
pub fn gradient(dtype: DType) -> Tolerance {
    match dtype {
        // Posteriors are sums of products of a few hundred factors, each rounded to 1.1e-16.
        DType::F64 => Tolerance {
            absolute: 1e-10,
            relative: 1e-10,
        },
        // The same in f32. A logit's rounding adds up to 1e-6.
        DType::F32 => Tolerance {
            absolute: 5e-6,
            relative: 5e-6,
        },
        // Computed in f32, then rounded to 11 bits, and again after the product with the upstream
        // gradient. Below 6e-5 the step of f16 is 6e-8, which the absolute part covers.
        DType::F16 => Tolerance {
            absolute: 5e-6,
            relative: 1.0 / 1024.0,
        },
        // The same with 8 bits.
        DType::BF16 => Tolerance {
            absolute: 5e-6,
            relative: 1.0 / 128.0,
        },
        other => panic!("no tolerance for {other:?}"),
    }
}

/// Figures of PyTorch in f64, when the crate runs in this dtype on the same f32 input.
pub fn golden(dtype: DType) -> Tolerance {
    match dtype {
        // Both are f64: only the order of operations differs.
        DType::F64 => Tolerance {
            absolute: 1e-10,
            relative: 1e-10,
        },
        // f32 arithmetic on inputs of up to 400 frames. Relative, since a loss may be several thousand.
        DType::F32 => Tolerance {
            absolute: 1e-5,
            relative: 1e-5,
        },
        other => panic!("no tolerance for {other:?}"),
    }
}

/// Central differences in f64 with a step of 1e-5: the truncation is about the step squared, and the
/// rounding of a loss of order 10 is divided by the step.
pub const FINITE_DIFFERENCES: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 1e-6,
};
