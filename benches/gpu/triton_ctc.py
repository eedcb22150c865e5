"""The CTC loss as a Triton kernel would usually be written: a program an item, log-space, its states in one vector.

Two kernels: forward variables with the loss, then backward variables with the gradient. The vector of states
passes to the next frame through memory, since Triton cannot shift one. f32, (T, N, C), padded targets.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _states(targets, n, labels, width: tl.constexpr, BLANK: tl.constexpr, BLOCK: tl.constexpr):
    """For each state its class, and whether the state two before it may be skipped to it and from it."""
    s = tl.arange(0, BLOCK)
    live = s < 2 * labels + 1
    label = s % 2 == 1
    at = targets + n * width + s // 2
    here = tl.load(at, mask=label & live, other=BLANK)
    before = tl.load(at - 1, mask=label & live & (s >= 3), other=BLANK)
    after = tl.load(at + 1, mask=label & (s + 2 < 2 * labels + 1), other=BLANK)
    into = label & live & (s >= 3) & (here != before)
    out = label & (s + 2 < 2 * labels + 1) & (here != after)
    return s, live, here, into, out


@triton.jit
def _log_sum(a, b, c):
    largest = tl.maximum(tl.maximum(a, b), c)
    safe = tl.where(largest == -float("inf"), 0.0, largest)
    return tl.log(tl.exp(a - safe) + tl.exp(b - safe) + tl.exp(c - safe)) + safe


@triton.jit
def _forward(log_probs, targets, frames, lengths, alpha, losses, batch, classes, max_frames, width: tl.constexpr,
             BLANK: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    used, labels = tl.load(frames + n), tl.load(lengths + n)
    s, live, here, into, _ = _states(targets, n, labels, width, BLANK, BLOCK)
    x = log_probs + n * classes + here
    step = batch.to(tl.int64) * classes
    row = alpha + n * max_frames * BLOCK + s
    none = -float("inf")
    value = tl.where((s < 2) & live, tl.load(x), none)
    tl.store(row, value)
    for _t in range(1, used):
        tl.debug_barrier()
        one = tl.load(row - 1, mask=s >= 1, other=none)
        two = tl.load(row - 2, mask=into, other=none)
        x += step
        row += BLOCK
        value = tl.where(live, _log_sum(value, one, two) + tl.load(x), none)
        tl.store(row, value)
    last = tl.where((s >= 2 * labels - 1) & live, value, none)
    largest = tl.max(last, 0)
    safe = tl.where(largest == none, 0.0, largest)
    tl.store(losses + n, -(tl.log(tl.sum(tl.exp(last - safe), 0)) + safe))


@triton.jit
def _backward(log_probs, targets, frames, lengths, alpha, beta, losses, gradient, batch, classes, max_frames,
              width: tl.constexpr, BLANK: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    used, labels = tl.load(frames + n), tl.load(lengths + n)
    s, live, here, _, out = _states(targets, n, labels, width, BLANK, BLOCK)
    step = batch.to(tl.int64) * classes
    at = n * classes + here + (used - 1) * step
    row = alpha + (n * max_frames + used - 1) * BLOCK + s
    # Two rows in turn for the backward variables.
    own = beta + n * 2 * BLOCK + s
    none = -float("inf")
    loss = tl.load(losses + n)
    x = tl.load(log_probs + at)
    value = tl.where((s >= 2 * labels - 1) & live, x, none)
    turn = 0
    for _t in range(used):
        posterior = tl.exp(tl.load(row) + value - x + loss)
        tl.atomic_add(gradient + at, tl.where(live, -posterior, 0.0), mask=live, sem="relaxed")
        tl.store(own + turn * BLOCK, value)
        tl.debug_barrier()
        one = tl.load(own + turn * BLOCK + 1, mask=s + 1 < 2 * labels + 1, other=none)
        two = tl.load(own + turn * BLOCK + 2, mask=out, other=none)
        turn = 1 - turn
        at -= step
        row -= BLOCK
        x = tl.load(log_probs + at, mask=at >= 0, other=0.0)
        value = tl.where(live, _log_sum(value, one, two) + x, none)


class Loss(torch.autograd.Function):
    """The sum of the losses; lengths and targets are tensors of int32 on the device."""

    @staticmethod
    def forward(ctx, log_probs, targets, frames, lengths):
        t, n, c = log_probs.shape
        block = triton.next_power_of_2(2 * targets.shape[1] + 1)
        alpha = torch.empty(n, t, block, device=log_probs.device)
        losses = torch.empty(n, device=log_probs.device)
        ctx.constants = dict(width=targets.shape[1], BLANK=0, BLOCK=block, num_warps=max(1, min(8, block // 64)))
        _forward[(n,)](log_probs, targets, frames, lengths, alpha, losses, n, c, t, **ctx.constants)
        ctx.save_for_backward(log_probs, targets, frames, lengths, alpha, losses)
        return losses.sum()

    @staticmethod
    def backward(ctx, upstream):
        log_probs, targets, frames, lengths, alpha, losses = ctx.saved_tensors
        t, n, c = log_probs.shape
        gradient = log_probs.exp()
        beta = torch.empty(n, 2, ctx.constants["BLOCK"], device=log_probs.device)
        _backward[(n,)](log_probs, targets, frames, lengths, alpha, beta, losses, gradient, n, c, t, **ctx.constants)
        return gradient * upstream, None, None, None


def ctc_loss(log_probs, targets, frames, lengths):
    return Loss.apply(log_probs, targets, frames, lengths)


def check(device="cuda"):
    """Loss and gradient against PyTorch's in f64; raises where they differ."""
    torch.manual_seed(0)
    t, n, c, s = 37, 3, 11, 7
    leaf = torch.randn(t, n, c, device=device).log_softmax(2).requires_grad_()
    targets = torch.randint(1, c, (n, s), device=device, dtype=torch.int32)
    frames = torch.tensor([37, 30, 25], device=device, dtype=torch.int32)
    lengths = torch.tensor([7, 3, 5], device=device, dtype=torch.int32)
    loss = ctc_loss(leaf, targets, frames, lengths)
    (got,) = torch.autograd.grad(loss, leaf)
    exact = leaf.detach().double().cpu().requires_grad_()
    truth = torch.nn.functional.ctc_loss(exact, targets.cpu().long(), frames.cpu().long(), lengths.cpu().long(), reduction="sum")
    (expected,) = torch.autograd.grad(truth, exact)
    used = (torch.arange(t)[:, None] < frames.cpu()[None, :])[:, :, None]
    torch.testing.assert_close(loss.cpu().double(), truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got.cpu().double() * used, expected * used, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    # With TRITON_INTERPRET=1 on a machine with no GPU.
    check("cuda" if torch.cuda.is_available() else "cpu")
    print("the Triton kernel agrees with PyTorch")
