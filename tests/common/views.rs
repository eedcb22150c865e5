//! Views that hold the same values in another memory layout.

use candle_core::{Result, Tensor};

/// A way to see a (T, N, C) tensor in another layout: `store` makes a contiguous base from a contiguous
/// tensor, and `view` gives the tensor back as a view into that base. `view(store(x))` equals `x`.
pub struct View {
    pub name: &'static str,
    pub store: fn(&Tensor) -> Result<Tensor>,
    pub view: fn(&Tensor) -> Result<Tensor>,
}

/// The bytes around a view: any read of them would show.
fn noise(like: &Tensor) -> Result<Tensor> {
    like.affine(0.0, 1e3)
}

fn surrounded(x: &Tensor, dim: usize) -> Result<Tensor> {
    let noise = noise(x)?;
    Tensor::cat(&[&noise, x, &noise], dim)?.contiguous()
}

fn middle(base: &Tensor, dim: usize) -> Result<Tensor> {
    let size = base.dim(dim)? / 3;
    base.narrow(dim, size, size)
}

pub const VIEWS: [View; 9] = [
    View {
        name: "time and batch transposed",
        store: |x| x.transpose(0, 1)?.contiguous(),
        view: |base| base.transpose(0, 1),
    },
    View {
        name: "classes before time",
        store: |x| x.permute((2, 1, 0))?.contiguous(),
        view: |base| base.permute((2, 1, 0)),
    },
    View {
        name: "classes before batch",
        store: |x| x.transpose(1, 2)?.contiguous(),
        view: |base| base.transpose(1, 2),
    },
    View {
        name: "narrowed in time, with an offset",
        store: |x| surrounded(x, 0),
        view: |base| middle(base, 0),
    },
    View {
        name: "narrowed in the batch",
        store: |x| surrounded(x, 1),
        view: |base| middle(base, 1),
    },
    View {
        name: "narrowed in the classes",
        store: |x| surrounded(x, 2),
        view: |base| middle(base, 2),
    },
    View {
        name: "every second frame",
        store: |x| Tensor::stack(&[x, &noise(x)?], 1)?.contiguous(),
        view: |base| base.narrow(1, 0, 1)?.squeeze(1),
    },
    View {
        name: "every second class",
        store: |x| Tensor::stack(&[&noise(x)?, x], 3)?.contiguous(),
        view: |base| base.narrow(3, 1, 1)?.squeeze(3),
    },
    View {
        name: "transposed, then narrowed in classes and time",
        store: |x| surrounded(&surrounded(&x.transpose(0, 1)?.contiguous()?, 1)?, 2),
        view: |base| middle(&middle(base, 1)?, 2)?.transpose(0, 1),
    },
];
