"""The loss on a GPU beside its peers, in one run: compare.py PATH-OF-THE-GPU-BENCHMARK.

Needs PyTorch with CUDA; Triton, and JAX with optax, are measured where they are installed. Each time is for one
call, from an idle device to an idle device by the host's clock: the median of up to 30 rounds over 4 input sets, after a
warm-up. The program prints the tables that docs/gpu.md has. `--without NAME` leaves a peer out (torch, cudnn, triton, jax).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# So that PyTorch has the memory that it needs beside JAX.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# A peer has this many rounds, or as many as it does in this many seconds.
ROUNDS, SECONDS = 30, 1.0
SETS = 4
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


def median_of(turn, wait):
    for _ in range(3):
        turn()
    wait()
    times, began = [], time.perf_counter()
    while len(times) < ROUNDS and time.perf_counter() < began + SECONDS:
        start = time.perf_counter()
        turn()
        wait()
        times.append((time.perf_counter() - start) * 1e3 / SETS)
    return statistics.median(times)


def torch_time(shape, dtype, mode, peer):
    """`peer`: torch, cudnn or triton. PyTorch has no loss in half precision: its input is made f32 first."""
    import torch

    t, n, c, s = shape
    sets = []
    for _ in range(SETS):
        leaf = torch.randn(t, n, c, device="cuda").log_softmax(2).to(getattr(torch, DTYPES[dtype])).requires_grad_()
        targets = torch.randint(1, c, (n, s))
        if peer == "torch":
            sets.append((leaf, targets.cuda(), (t,) * n, (s,) * n))
        elif peer == "cudnn":
            # cuDNN wants targets of 32 bits in one dimension on the CPU, and native code takes the rest.
            lengths = (torch.full((n,), length, dtype=torch.int32) for length in (t, s))
            sets.append((leaf, targets.int().flatten(), *lengths))
        else:
            lengths = (torch.full((n,), length, dtype=torch.int32, device="cuda") for length in (t, s))
            sets.append((leaf, targets.int().cuda(), *lengths))
    if peer == "triton":
        from triton_ctc import ctc_loss
    else:
        def ctc_loss(*arguments):
            return torch.nn.functional.ctc_loss(*arguments, reduction="sum")

    def turn():
        for leaf, *rest in sets:
            x = leaf.float().log_softmax(2) if mode == "logits" else leaf.float()
            loss = ctc_loss(x, *rest)
            if mode != "score":
                leaf.grad = None
                loss.backward()

    with torch.backends.cudnn.flags(enabled=peer == "cudnn"), torch.set_grad_enabled(mode != "score"):
        return median_of(turn, torch.cuda.synchronize)


def jax_time(shape, dtype, mode):
    import jax
    import jax.numpy as jnp
    import optax

    t, n, c, s = shape
    keys = jax.random.split(jax.random.key(0), SETS)
    sets = [(jax.random.normal(k, (n, t, c), dtype=DTYPES[dtype]), jax.random.randint(k, (n, s), 1, c)) for k in keys]

    def loss(x, y):
        return optax.ctc_loss(x.astype(jnp.float32), jnp.zeros((n, t)), y, jnp.zeros((n, s))).sum()

    run = jax.jit(loss if mode == "score" else jax.value_and_grad(loss))
    out = []

    def turn():
        out[:] = [run(x, y) for x, y in sets]

    return median_of(turn, lambda: jax.block_until_ready(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--without", action="append", default=[], choices=["torch", "cudnn", "triton", "jax"])
    arguments = parser.parse_args()
    rows, firsts, copy = {}, {}, None
    for line in subprocess.run([arguments.program, "--bench"], capture_output=True, text=True, check=True).stdout.splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        if row["who"] == "copy":
            copy = row["GB/s"]
        elif row["who"] == "first call":
            firsts[row["mode"]] = row["ms"]
        else:
            rows[tuple(row["shape"]), row["dtype"], row["mode"]] = row
    if copy is None:
        sys.exit("the benchmark found no GPU")
    import torch

    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; copy {copy:.0f} GB/s", end="; ")
    print(", ".join(f"first {mode}: {ms:.0f} ms" for mode, ms in firsts.items()), end="\n\n")
    try:
        import triton_ctc

        triton_ctc.check()
    except Exception as error:
        print(f"Triton: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    peers = {
        "torch": ("PyTorch", lambda *case: torch_time(*case, "torch")),
        "cudnn": ("cuDNN", lambda *case: torch_time(*case, "cudnn")),
        "triton": ("Triton", lambda *case: torch_time(*case, "triton")),
        "jax": ("JAX optax", jax_time),
    }
    peers = [peer for name, peer in peers.items() if name not in arguments.without]
    print("| T, N, C, S | dtype | mode | candle-ctc, ms | until queued |"
          + "".join(f" {name}, ms | ratio |" for name, _ in peers) + " of copy bandwidth |", flush=True)
    print("|---|---|---|---:|---:|" + "---:|---:|" * len(peers) + "---:|", flush=True)
    logits = {(shape, dtype) for shape, dtype, mode in rows if mode == "logits"}
    # Of a shape and dtype, the times of peers for loss and gradient: they make no difference between our two ways.
    trained = {}
    for (shape, dtype, mode), row in rows.items():
        if shape[1] == 1:
            continue
        cells = [f"{row['ms']:.3f}", f"{row['host']:.3f}"]
        for name, peer in peers:
            ms = trained.get((shape, dtype, name)) if mode == "gradient" else None
            if mode != "gradient":
                try:
                    ms = peer(shape, dtype, mode)
                except Exception as error:  # a peer that is not there, or does not take the shape
                    print(f"{name} {shape} {mode}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
                if mode != "score":
                    trained[shape, dtype, name] = ms
            cells += ["", ""] if ms is None else [f"{ms:.3f}", f"{ms / row['ms']:.1f}"]
        t, n, c, _ = shape
        bytes_moved = 3 * (2 if dtype in ("bf16", "f16") else 4) * t * n * c
        known = mode == "gradient" and (shape, dtype) in logits
        cells.append(f"{bytes_moved / row['ms'] / 1e6 / copy:.0%}" if known else "")
        print(f"| {', '.join(map(str, shape))} | {dtype} | {mode} | " + " | ".join(cells) + " |", flush=True)
    clock = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    mhz = float(clock.stdout.split()[0]) if clock.returncode == 0 else 0.0
    print(f"\n| S | mode | a frame, ns | cycles at {mhz:.0f} MHz |\n|---:|---|---:|---:|")
    slopes = {(shape[3], mode): [] for shape, _, mode in rows if shape[1] == 1}
    for (shape, _, mode), row in rows.items():
        if shape[1] == 1:
            slopes[shape[3], mode].append((shape[0], row["ms"]))
    for (labels, mode), ((few, less), (many, more)) in slopes.items():
        ns = (more - less) / (many - few) * 1e6
        print(f"| {labels} | {mode} | {ns:.1f} | {ns * mhz / 1e3:.0f} |")


main()
