"""JAX's side of the comparison, with optax; see compare.py.

optax.ctc_loss takes logits (N, T, C) and applies log_softmax itself, so it does that in every
mode. Log-probabilities are logits too: the values agree.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import worker


@jax.jit
def losses(logits, logit_paddings, labels, label_paddings):
    return optax.ctc_loss(logits, logit_paddings, labels, label_paddings, blank_id=0)


def total(*args):
    return losses(*args).sum()


forward = jax.jit(total)
step = jax.jit(jax.value_and_grad(total))


class Case:
    def __init__(self, tensors):
        frames, batch, _ = tensors["input"].shape
        labels = tensors["targets"]
        input_lengths, target_lengths = tensors["input_lengths"], tensors["target_lengths"]
        paddings = np.arange(frames)[None] >= input_lengths[:, None]
        label_paddings = np.arange(labels.shape[1])[None] >= target_lengths[:, None]
        # Its own order of dimensions, made outside of the measurement.
        self.args = (
            jnp.asarray(np.ascontiguousarray(tensors["input"].transpose(1, 0, 2))),
            jnp.asarray(paddings, dtype=jnp.float32),
            jnp.asarray(labels, dtype=jnp.int32),
            jnp.asarray(label_paddings, dtype=jnp.float32),
        )

    def run(self, mode):
        call = forward if mode == "score" else step
        jax.block_until_ready(call(*self.args))

    def result(self, mode):
        gradient = np.asarray(step(*self.args)[1]).transpose(1, 0, 2)
        return {
            "losses": np.asarray(losses(*self.args)),
            "gradient": np.ascontiguousarray(gradient),
        }


worker.serve(Case)
