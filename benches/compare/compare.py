"""This crate beside PyTorch, JAX (optax) and burn: the same inputs, in one run, in turn.

Each contender is a process of its own that waits for requests, so the turns can be short and
follow each other: A B C D, A B C D, and so on. A machine whose speed drifts is the same machine
for all of them within a round. A ratio is the median of the ratios of the rounds.

Before any measurement, the losses and gradients of all are compared with those of PyTorch in f64.
"""

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
THREADS = 2

# (T, N, C, S)
LATTICE = [(50, 16, 20, 30), (150, 64, 80, 20), (500, 16, 32, 80), (1000, 16, 32, 120)]
WIDE = [(500, 16, 5000, 60), (1500, 8, 1000, 200)]
CONTENDERS = {
    "ours": "candle-ctc",
    "before": "candle-ctc before",
    "torch": "PyTorch",
    "jax": "JAX optax (from logits)",
    "burn": "burn",
}

# How far a contender may be from PyTorch in f64, on the same f32 input: the loss as a share of
# itself, and an entry of the gradient. The others work in log space, where f32 loses digits as
# the log-probabilities of long sequences grow; burn's gradient loses most.
BOUNDS = {
    "ours": (1e-6, 5e-6),
    "before": (1e-6, 5e-6),
    "torch": (1e-4, 2e-2),
    "jax": (1e-4, 2e-2),
    "burn": (1e-4, 2e-1),
}


class Worker:
    """One contender's process."""

    def __init__(self, command, env):
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"a worker stopped: {self.process.args}")
        return json.loads(answer)

    def median(self, case, mode, seconds, warm):
        answer = self.ask(case=str(case), mode=mode, seconds=seconds, warm=warm)
        return statistics.median(answer["ms"])


def build(with_burn):
    """The programs in Rust."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = "cargo bench --bench compare --no-run --message-format json".split()
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = map(json.loads, output.stdout.splitlines())
    ours = [a["executable"] for a in artifacts if a.get("executable")][-1]
    command = ["cargo", "build", "--release", "--locked"]
    command += ["--manifest-path", HERE / "burn" / "Cargo.toml", "--target-dir", target / "burn"]
    if with_burn:
        subprocess.run(command, check=True)
    return ours, target / "burn" / "release" / "compare-burn"


def start(ours, burn, before, without, keep_heap):
    """The workers, each on the same two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    env = dict(os.environ)
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        env[name] = str(THREADS)
    env["JAX_PLATFORMS"] = "cpu"
    # glibc gives freed memory back to the system between steps unless told otherwise, and each step
    # pays for it again page by page.
    for name in ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"]:
        env.pop(name, None)
        if keep_heap:
            env[name] = str(4 << 30)
    commands = {
        "ours": [ours, "worker"],
        "before": [before, "worker"],
        "torch": [sys.executable, HERE / "worker_torch.py"],
        "jax": [sys.executable, HERE / "worker_jax.py"],
        "burn": [burn],
    }
    return {name: Worker(command, env) for name, command in commands.items() if name not in without}


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def write_inputs(folder, shapes, kind):
    """One file for each shape. Every item has T frames and S labels."""
    paths = {}
    for frames, batch, classes, labels in shapes:
        rng = np.random.default_rng(frames)
        x = rng.standard_normal((frames, batch, classes), dtype=np.float32)
        if kind == "log_probs":
            x = log_softmax(x).astype(np.float32)
        tensors = {
            "input": x,
            "targets": rng.integers(1, classes, (batch, labels), dtype=np.int64),
            "input_lengths": np.full(batch, frames, dtype=np.int64),
            "target_lengths": np.full(batch, labels, dtype=np.int64),
        }
        path = folder / f"{kind}-{frames}-{batch}-{classes}-{labels}.safetensors"
        save_file(tensors, path)
        paths[(frames, batch, classes, labels)] = path
    return paths


def check(workers, folder, case, shape, mode):
    """The errors of each contender against f64."""
    path = folder / "result.safetensors"
    # PyTorch's gradient at log-probabilities is that of logits behind a log_softmax:
    # exp(log p) − posterior. JAX has a log_softmax, so it gives the same; burn and this crate
    # give the derivative itself, −posterior.
    exact = {"ours", "before", "burn"} if mode == "train" else set()
    extra = np.exp(load_file(case)["input"].astype(np.float64)) if exact else 0.0
    workers["torch"].ask(case=str(case), mode=f"truth-{mode}", save=str(path))
    truth = load_file(path)
    errors = {}
    for name, worker in workers.items():
        worker.ask(case=str(case), mode=mode, save=str(path))
        result = load_file(path)
        gradient = result["gradient"] + (extra if name in exact else 0.0)
        loss = float(np.max(np.abs(result["losses"] / truth["losses"] - 1)))
        entry = float(np.max(np.abs(gradient - truth["gradient"])))
        errors[name] = (loss, entry)
    path.unlink()
    return errors


def disagreements(errors):
    """What is out of bounds, one line each."""
    return [
        f"{name} disagrees on {shape}, {mode}: loss {loss:.1e}, gradient {entry:.1e}"
        for (shape, mode), found in errors.items()
        for name, (loss, entry) in found.items()
        # A NaN is out of bounds too.
        if not (loss <= BOUNDS[name][0] and entry <= BOUNDS[name][1])
    ]


def measure(workers, case, contenders, rounds, seconds):
    """Medians of each round, {label: [ms]}; `contenders` is {label: (worker, mode)}."""
    rows = {label: [] for label in contenders}
    slow = set()
    for i in range(rounds):
        for label, (name, mode) in contenders.items():
            if label in slow and i >= 3:
                continue
            warm = 0 if label in slow else 1
            ms = workers[name].median(case, mode, seconds, warm)
            if ms > 2000:
                slow.add(label)
            rows[label].append(ms)
    return rows


def ratio(rows, label, base="ours"):
    """The median over rounds of how many times as long `label` takes as `base`."""
    return statistics.median(a / b for a, b in zip(rows[label], rows[base]))


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def number(x):
    """Three digits."""
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def shape_text(shape):
    return ", ".join(map(str, shape))


def lattice_table(results, labels):
    """Times and ratios, one row for each shape, and the geometric mean of the ratios."""
    others = [label for label in labels if label != "ours"]
    head = ["T, N, C, S", "candle-ctc, ms"]
    for label in others:
        head += [f"{labels[label]}, ms", "ratio"]
    rows = []
    for shape, result in results.items():
        row = [shape_text(shape), number(statistics.median(result["ours"]))]
        for label in others:
            row += [number(statistics.median(result[label])), number(ratio(result, label))]
        rows.append(row)
    mean = ["geometric mean", ""]
    for label in others:
        mean += ["", number(geometric_mean([ratio(r, label) for r in results.values()]))]
    return table(head, rows + [mean])


def floor_table(results):
    head = ["T, N, C, S", "candle-ctc, ms", "three passes, ms", "GB/s"]
    head += ["candle's accumulation, ms", "candle-ctc / sum of both"]
    rows = []
    for shape, result in results.items():
        ours, floor, accumulate = (
            statistics.median(result[label]) for label in ["ours", "floor", "accumulate"]
        )
        size = 4 * shape[0] * shape[1] * shape[2]
        times = statistics.median(
            a / (b + c)
            for a, b, c in zip(result["ours"], result["floor"], result["accumulate"])
        )
        rows.append(
            [shape_text(shape), number(ours), number(floor), number(3 * size / floor / 1e6)]
            + [number(accumulate), number(times)]
        )
    return table(head, rows)


def error_table(errors):
    head = ["T, N, C, S"]
    for name in next(iter(errors.values())):
        head += [f"{CONTENDERS[name]}: loss", "gradient"]
    rows = []
    for (shape, mode), found in errors.items():
        kind = "logits" if mode == "logits" else "log-probabilities"
        row = [f"{shape_text(shape)}, {kind}"]
        for name in found:
            row += [f"{found[name][0]:.1e}", f"{found[name][1]:.1e}"]
        rows.append(row)
    return table(head, rows)


def machine():
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {}
    for name in ["torch", "jax", "optax"]:
        command = [sys.executable, "-c", f"import {name}; print({name}.__version__)"]
        versions[name] = subprocess.check_output(command, text=True).strip()
    lock = (HERE / "burn" / "Cargo.lock").read_text()
    versions["burn"] = lock.split('name = "burn"\nversion = "')[1].split('"')[0]
    load = os.getloadavg()[0]
    day = datetime.date.today()
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{day}; {cpu}, {THREADS} threads; load average at the start {load:.1f}; {listed}."


def replace_section(page, name, text):
    """Puts `text` between the markers of a section."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text()
    before, rest = old.split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--json", type=Path, help="a file for every median of every round")
    parser.add_argument("--heap", choices=["kept", "default"], default="kept")
    parser.add_argument("--without", nargs="*", default=[], choices=["jax", "burn"])
    parser.add_argument(
        "--before", type=Path, help="the program `compare` of another state of the crate, to measure beside this one"
    )
    args = parser.parse_args()
    if args.before is None:
        args.without.append("before")

    programs = build("burn" not in args.without)
    where = machine()
    workers = start(*programs, args.before, args.without, args.heap == "kept")
    parts = {"train": {}, "score": {}, "logits": {}}
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        plans = [("train", s, p) for s, p in write_inputs(folder, LATTICE, "log_probs").items()]
        plans += [("logits", s, p) for s, p in write_inputs(folder, WIDE, "logits").items()]
        for mode, shape, case in plans:
            print(f"{mode} {shape}", file=sys.stderr, flush=True)
            errors[(shape, mode)] = check(workers, folder, case, shape, mode)
            contenders = {name: (name, mode) for name in workers}
            if mode == "train":
                contenders["ours-torch"] = ("ours", "train-torch")
            else:
                contenders["floor"] = ("ours", "floor")
                contenders["accumulate"] = ("ours", "accumulate")
            result = measure(workers, case, contenders, args.rounds, args.seconds)
            parts[mode][shape] = result
            if mode == "train":
                scoring = {name: (name, "score") for name in workers}
                result = measure(workers, case, scoring, args.rounds, args.seconds)
                parts["score"][shape] = result

    labels = {name: label for name, label in CONTENDERS.items() if name in workers}
    with_torch = labels | {"ours-torch": "candle-ctc with `GradientKind::Torch`"}
    text = f"""Measured on {where}

### Loss and gradient from log-probabilities

{lattice_table(parts["train"], with_torch)}
### Scoring: the loss alone, no gradient tracked

{lattice_table(parts["score"], labels)}
### Loss and gradient from logits, many classes

{lattice_table(parts["logits"], labels)}
{floor_table(parts["logits"])}
### Largest errors against PyTorch in f64

Of the loss relative to itself, and of any entry of the gradient.

{error_table(errors)}"""
    if args.json:
        rows = {k: {shape_text(s): r for s, r in v.items()} for k, v in parts.items()}
        args.json.write_text(json.dumps(rows, indent=1))
    print(text)
    if args.write and args.heap == "kept":
        replace_section(PAGE, "compare", text)
    elif args.write:
        replace_section(PAGE, "compare-default", text.split("### Largest errors")[0])
    if wrong := disagreements(errors):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
