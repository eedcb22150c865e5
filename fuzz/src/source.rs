//! Arguments from bytes. Missing bytes read as 0, so every input is valid.

use crate::common::views::VIEWS;
use crate::common::{Rng, tensors};
use arbitrary::Unstructured;
use candle_core::{DType, Device, Tensor};
use candle_ctc::InputLayout;
use std::path::Path;
use std::sync::OnceLock;

/// The bytes of one execution.
pub struct Source<'a>(Unstructured<'a>);

/// A batch of emissions.
pub struct Emissions {
    /// (T, N, C) in any view; (N, T, C) for [`InputLayout::BatchMajor`].
    pub tensor: Tensor,
    pub layout: InputLayout,
    /// (T, N, C), as the dtype has them.
    pub values: Vec<f64>,
    pub frames: usize,
    pub items: usize,
    pub classes: usize,
}

impl Emissions {
    /// One item up to its length, as (frames, classes).
    pub fn item(&self, n: usize, frames: usize) -> Vec<f64> {
        let rows = (0..frames).map(|t| (t * self.items + n) * self.classes);
        rows.flat_map(|at| self.values[at..at + self.classes].iter().copied())
            .collect()
    }

    /// The view of one item, as (T, C).
    pub fn utterance(&self, n: usize) -> Tensor {
        let dim = match self.layout {
            InputLayout::TimeMajor => 1,
            InputLayout::BatchMajor => 0,
        };
        let item = self.tensor.narrow(dim, n, 1).unwrap();
        item.squeeze(dim).unwrap()
    }

    /// The dimension of the frames.
    pub fn time_dim(&self) -> usize {
        usize::from(self.layout == InputLayout::BatchMajor)
    }
}

const SPECIAL: [f64; 9] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f32::MIN as f64,
    f32::MAX as f64,
    0.0,
    -0.0,
    -1e-40,
    -87.5,
];

const SCALES: [f64; 8] = [0.1, 1.0, 4.0, 20.0, 90.0, 800.0, 1e6, 1e30];

/// The sizes at which the CPU code changes its way of computing: every `usize` constant that is declared in its source
/// as a number.
fn constants() -> &'static [usize] {
    static FOUND: OnceLock<Vec<usize>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../src"));
        let mut found = Vec::new();
        for part in ["cpu", "problem", "decode", "memory.rs"] {
            add_constants(&source.join(part), &mut found);
        }
        found.sort_unstable();
        found.dedup();
        assert!(found.len() > 10, "few constants in {source:?}: {found:?}");
        found
    })
}

fn add_constants(path: &Path, found: &mut Vec<usize>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            add_constants(&entry.unwrap().path(), found);
        }
        return;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let declared = text
        .lines()
        .filter_map(|line| line.split_once(": usize = ")?.1.strip_suffix(';'));
    found.extend(
        declared.filter_map(|number| match number.split_once(" << ") {
            Some((one, shift)) => Some(one.parse::<usize>().ok()? << shift.parse::<u32>().ok()?),
            None => number.parse().ok(),
        }),
    );
}

impl<'a> Source<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// At most `most`; likes small numbers, and those one off from the constants of the crate.
    pub fn size(&mut self, most: usize) -> usize {
        let size = match self.below(4) {
            0 => self.below(6),
            1 => self.pick(constants()) + self.below(3) - 1,
            2 => self.below(40),
            _ => self.below(most + 1),
        };
        size.min(most)
    }

    pub fn rng(&mut self) -> Rng {
        Rng::new(self.0.arbitrary::<u32>().unwrap_or(0).into())
    }

    /// Any f64, mostly an ordinary one.
    pub fn number(&mut self) -> f64 {
        match self.below(4) {
            0 => f64::from_bits(self.0.arbitrary().unwrap_or(0)),
            1 => self.pick(&[
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                0.0,
                1e100,
                -1e100,
            ]),
            _ => self.below(2001) as f64 / 100.0 - 10.0,
        }
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let count = self.below(most + 1).min(self.0.len());
        self.0.bytes(count).unwrap_or_default()
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.0.bytes(self.0.len()).unwrap_or_default()
    }

    pub fn dtype(&mut self) -> DType {
        self.pick(&tensors::FLOATS)
    }

    /// Three sizes of which the product is at most `most`, the last at least `classes`.
    pub fn shape(&mut self, most: usize, longest: usize, classes: usize) -> [usize; 3] {
        let first = self.below(3);
        let mut shape = [1, 1, classes];
        for step in 0..3 {
            let at = (first + step) % 3;
            let others: usize = (0..3)
                .filter(|&i| i != at)
                .map(|i| shape[i].max(1))
                .product();
            let room = (most / others).max(1);
            shape[at] = match at {
                0 => self.size(room.min(longest)),
                1 => match self.below(4) {
                    0 => self.size(room.min(40)),
                    _ => 1 + self.below(room.min(3)),
                },
                _ => self.size(room).max(classes),
            };
        }
        shape
    }

    /// Values of one distribution: of any scale, often normalised, with a few that are special.
    fn values(&mut self, [frames, items, classes]: [usize; 3]) -> Vec<f64> {
        let scale = self.pick(&SCALES);
        let mut values = self.rng().values(frames * items * classes, scale);
        if self.below(3) > 0 {
            for row in values.chunks_exact_mut(classes) {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
                row.iter_mut().for_each(|x| *x = (*x - largest) - sum.ln());
            }
        }
        for _ in 0..self.below(8) {
            if values.is_empty() {
                break;
            }
            let special = self.pick(&SPECIAL);
            let at = self.below(values.len());
            match self.below(4) {
                // A class in every frame, a frame, or one entry.
                0 => values
                    .iter_mut()
                    .skip(at % classes)
                    .step_by(classes)
                    .for_each(|x| *x = special),
                1 => values[at - at % classes..][..classes].fill(special),
                _ => values[at] = special,
            }
        }
        values
    }

    /// Emissions in any dtype, layout and view.
    pub fn emissions(&mut self, shape: [usize; 3]) -> Emissions {
        let dtype = self.dtype();
        self.emissions_of(shape, dtype)
    }

    pub fn emissions_of(&mut self, shape: [usize; 3], dtype: DType) -> Emissions {
        let [frames, items, classes] = shape;
        let values = self.values(shape);
        let mut tensor = tensors::floats(&values, &shape, dtype, &Device::Cpu);
        if !values.is_empty() {
            match self.below(VIEWS.len() + 4) {
                view if view < VIEWS.len() => {
                    let view = &VIEWS[view];
                    tensor = (view.view)(&(view.store)(&tensor).unwrap()).unwrap();
                }
                // A dimension of stride 0.
                at if at < VIEWS.len() + 3 => {
                    let one = tensor.narrow(at - VIEWS.len(), 0, 1).unwrap();
                    tensor = one.broadcast_as(&shape).unwrap();
                }
                _ => {}
            }
        }
        let values = tensors::read(&tensor.contiguous().unwrap());
        let layout = self.pick(&[InputLayout::TimeMajor, InputLayout::BatchMajor]);
        if layout == InputLayout::BatchMajor {
            tensor = tensor.transpose(0, 1).unwrap();
        }
        Emissions {
            tensor,
            layout,
            values,
            frames,
            items,
            classes,
        }
    }

    /// A target of at most `most` labels that are not the blank, often with repeats.
    pub fn target(&mut self, most: usize, classes: usize, blank: usize) -> Vec<usize> {
        if classes == 1 {
            return Vec::new();
        }
        let length = self.size(most);
        let repeats = self.pick(&[0.0, 0.3, 1.0]);
        self.rng().target(length, classes, blank, repeats)
    }
}
