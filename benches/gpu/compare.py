"""The loss on a GPU beside PyTorch and JAX, in one run: compare.py PATH-OF-THE-GPU-BENCHMARK.

Needs PyTorch with CUDA; JAX with optax is measured where it is installed. Each shape is timed with CUDA
events (PyTorch) or by blocking (JAX), median of 30 rounds over 4 input sets, after a warm-up. The program
prints the table that docs/benchmarks.md has.
"""

import json
import statistics
import subprocess
import sys

ROUNDS, SETS = 30, 4


def torch_case(torch, shape):
    t, n, c, s = shape
    leaf = torch.randn(t, n, c, device="cuda").log_softmax(2).requires_grad_()
    return leaf, torch.randint(1, c, (n, s)), (t,) * n, (s,) * n


def torch_times(torch, shape, mode, cudnn):
    sets = [torch_case(torch, shape) for _ in range(SETS)]
    # cuDNN wants targets of 32 bits in one dimension on the CPU, and native code takes the rest.
    if cudnn:
        sets = [(leaf, y.int().flatten(), torch.tensor(a, dtype=torch.int32), torch.tensor(b, dtype=torch.int32))
                for leaf, y, a, b in sets]
    else:
        sets = [(leaf, y.cuda(), a, b) for leaf, y, a, b in sets]

    def turn():
        for leaf, targets, input_lengths, target_lengths in sets:
            x = leaf.log_softmax(2) if mode == "logits" else leaf
            loss = torch.nn.functional.ctc_loss(x, targets, input_lengths, target_lengths, reduction="sum")
            if mode != "score":
                leaf.grad = None
                loss.backward()

    with torch.backends.cudnn.flags(enabled=cudnn), torch.set_grad_enabled(mode != "score"):
        for _ in range(3):
            turn()
        times = []
        for _ in range(ROUNDS):
            start, end = torch.cuda.Event(True), torch.cuda.Event(True)
            start.record()
            turn()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / SETS)
    return statistics.median(times)


def jax_times(shape, mode):
    import time

    import jax
    import jax.numpy as jnp
    import optax

    t, n, c, s = shape
    keys = jax.random.split(jax.random.key(0), SETS)
    sets = [(jax.random.normal(k, (n, t, c)), jax.random.randint(k, (n, s), 1, c)) for k in keys]

    def loss(x, y):
        return optax.ctc_loss(x, jnp.zeros((n, t)), y, jnp.zeros((n, s))).sum()

    run = jax.jit(loss if mode == "score" else jax.value_and_grad(loss))
    for x, y in sets:
        jax.block_until_ready(run(x, y))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for x, y in sets:
            out = run(x, y)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) * 1e3 / SETS)
    return statistics.median(times)


def main():
    ours, copy = {}, None
    for line in subprocess.run([sys.argv[1], "--bench"], capture_output=True, text=True, check=True).stdout.splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        if row["who"] == "copy":
            copy = row["GB/s"]
        else:
            ours[tuple(row["shape"]), row["mode"]] = row["ms"]
    if copy is None:
        sys.exit("the benchmark found no GPU")
    import torch

    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; copy {copy:.0f} GB/s\n")
    print("| T, N, C, S | mode | candle-ctc, ms | candle's accumulation, ms | PyTorch, ms | ratio | cuDNN, ms | ratio | JAX optax, ms | ratio | of copy bandwidth |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (shape, mode), ms in ours.items():
        if mode == "accumulate" or shape[1] == 1:
            continue
        cells = [f"{ms:.3f}", f"{ours[shape, 'accumulate']:.3f}" if mode != "score" else ""]
        for peer in (
            lambda: torch_times(torch, shape, mode, False),
            lambda: torch_times(torch, shape, mode, True),
            lambda: jax_times(shape, mode),
        ):
            try:
                time = peer()
                cells += [f"{time:.3f}", f"{time / ms:.1f}"]
            except Exception as error:  # a peer that is not there, or does not take the shape
                print(f"{shape} {mode}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
                cells += ["", ""]
        t, n, c, _ = shape
        own = ms - ours[shape, "accumulate"]
        cells.append(f"{3 * 4 * t * n * c / own / 1e6 / copy:.0%}" if mode == "logits" else "")
        print(f"| {', '.join(map(str, shape))} | {mode} | " + " | ".join(cells) + " |")
    few, many = (ours[(t, 1, 32, 20), "score"] for t in (1000, 4000))
    step = (many - few) / 1500 * 1e6
    clock = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    mhz = float(clock.stdout.split()[0]) if clock.returncode == 0 else 0.0
    print(f"\nOne step of one warp: {step:.1f} ns, {step * mhz / 1e3:.0f} cycles at {mhz:.0f} MHz")


main()
