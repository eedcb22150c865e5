"""Beam search: candle-ctc beside pyctcdecode, on the same inputs, in one run.

    pip install pyctcdecode==0.5.0 numpy
    python benches/compare/decode.py [PROGRAM]

PROGRAM is the built `compare_decode`; without it, `cargo bench` builds and runs it. The script writes log-probabilities of (1500, 32), has both decode them at width 50 without a language
model, on one thread each, and prints the medians. pyctcdecode runs with its defaults (tokens
below e^-5 and beams 10 below the best are pruned); candle-ctc runs with nothing pruned, and once
more with those two thresholds.
"""

import logging
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

logging.disable(logging.WARNING)
from pyctcdecode import build_ctcdecoder  # noqa: E402

FRAMES, CLASSES, WIDTH, RUNS = 1500, 32, 50, 5


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def peaky(rng):
    """Like a trained acoustic model: the blank leads, and a label peaks every five frames."""
    logits = rng.normal(0, 1.5, (FRAMES, CLASSES))
    logits[:, 0] += 8
    at = np.arange(2, FRAMES, 5)
    logits[at, rng.integers(1, CLASSES, len(at))] += rng.uniform(6, 14, len(at))
    return log_softmax(logits)


def flat(rng):
    """Like an untrained one: unit normal logits."""
    return log_softmax(rng.normal(0, 1, (FRAMES, CLASSES)))


def median(run):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    root = pathlib.Path(__file__).parents[2]
    program = sys.argv[1:] or ["cargo", "bench", "--bench", "compare_decode", "--"]
    rng = np.random.default_rng(0)
    # The blank is the empty token. No space: pyctcdecode would look for words.
    labels = [""] + [chr(ord("a") + i) if i < 26 else str(i - 26) for i in range(CLASSES - 1)]
    decoder = build_ctcdecoder(labels)
    with tempfile.TemporaryDirectory() as folder:
        for name, make in [("peaky", peaky), ("flat", flat)]:
            log_probs = make(rng).astype(np.float32)
            path = pathlib.Path(folder) / f"{name}.npy"
            np.save(path, log_probs)
            theirs = median(lambda: decoder.decode_beams(log_probs, beam_width=WIDTH))
            best = decoder.decode_beams(log_probs, beam_width=WIDTH)[0]
            out = subprocess.run(
                [*program, str(path), str(WIDTH), str(RUNS)],
                cwd=root, check=True, capture_output=True, text=True,
            ).stdout
            figures = dict(line.split("\t", 1) for line in out.splitlines() if "\t" in line)
            ours, pruned = float(figures["exact"]), float(figures["pruned"])
            text = "".join(labels[int(token)] for token in figures["tokens"].split())
            print(
                f"{name}: pyctcdecode {theirs * 1e3:.1f} ms; candle-ctc {ours * 1e3:.1f} ms "
                f"({theirs / ours:.0f} times as fast), pruned alike {pruned * 1e3:.1f} ms "
                f"({theirs / pruned:.0f} times); same best text: {text == best[0].replace(' ', '')}; "
                f"log-probability {float(figures['score']):.3f} and {best[-1]:.3f}"
            )


if __name__ == "__main__":
    main()
