"""Beam search: candle-ctc beside flashlight-text (C++), fast-ctc-decode (Rust) and pyctcdecode, in one run.

    pip install -r benches/compare/requirements-decode.txt    # wheels for Python 3.8 to 3.11
    python benches/compare/decode.py [PROGRAM]

PROGRAM is the built `compare_decode`; without it, `cargo bench` builds and runs it. Each decodes log-probabilities of
(1500, 32) at width 50 without a language model, on one thread. candle-ctc, flashlight-text and fast-ctc-decode prune
nothing but the beam; pyctcdecode runs with its defaults (tokens below e^-5 and beams 10 below the best are dropped),
and candle-ctc once more with these thresholds. The times are medians. The log-likelihood of each one's best text is
computed here in f64, over all its paths.
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
import fast_ctc_decode  # noqa: E402
from flashlight.lib.text.decoder import (  # noqa: E402
    CriterionType,
    LexiconFreeDecoder,
    LexiconFreeDecoderOptions,
    ZeroLM,
)
from likelihood import log_likelihood, log_softmax  # noqa: E402
from pyctcdecode import build_ctcdecoder  # noqa: E402

FRAMES, CLASSES, WIDTH, RUNS = 1500, 32, 50, 5
# A pass of the program takes milliseconds; one of the others, up to seconds.
PROGRAM_RUNS = 51
LABELS = "abcdefghijklmnopqrstuvwxyz01234"
assert len(LABELS) == CLASSES - 1


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


def text_log_likelihood(log_probs, text):
    return log_likelihood(log_probs, [LABELS.index(c) + 1 for c in text])


def median(run):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def flashlight(log_probs):
    options = LexiconFreeDecoderOptions(
        beam_size=WIDTH,
        beam_size_token=CLASSES,
        beam_threshold=1e9,
        lm_weight=0.0,
        sil_score=0.0,
        log_add=True,
        criterion_type=CriterionType.CTC,
    )
    decoder = LexiconFreeDecoder(options, ZeroLM(), -1, 0, [])
    path = decoder.decode(log_probs.ctypes.data, FRAMES, CLASSES)[0].tokens
    changes = [token for token, before in zip(path, [-1, *path]) if token != before]
    return "".join(LABELS[token - 1] for token in changes if token > 0)


def fast(log_probs):
    probabilities = np.exp(log_probs)
    return fast_ctc_decode.beam_search(probabilities, "-" + LABELS, WIDTH, 0.0)[0]


def main():
    root = pathlib.Path(__file__).parents[2]
    program = sys.argv[1:] or ["cargo", "bench", "--bench", "compare_decode", "--"]
    rng = np.random.default_rng(0)
    # The blank is the empty token. No space: pyctcdecode would look for words.
    pruning = build_ctcdecoder(["", *LABELS])
    others = {
        "flashlight-text": flashlight,
        "fast-ctc-decode": fast,
        "pyctcdecode": lambda x: pruning.decode_beams(x, beam_width=WIDTH)[0][0],
    }
    print("| Emissions | | ms | times candle-ctc's | log-likelihood of the best text |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in [("peaky", peaky), ("flat", flat)]:
            log_probs = np.ascontiguousarray(make(rng), dtype=np.float32)
            path = pathlib.Path(folder) / f"{name}.npy"
            np.save(path, log_probs)
            out = subprocess.run(
                [*program, str(path), str(WIDTH), str(PROGRAM_RUNS)],
                cwd=root, check=True, capture_output=True, text=True,
            ).stdout
            figures = dict(line.split("\t", 1) for line in out.splitlines() if "\t" in line)
            ours = {kind: float(figures[kind]) * 1e3 for kind in ["exact", "pruned"]}
            text = "".join(LABELS[int(token) - 1] for token in figures["tokens"].split())
            likelihood = text_log_likelihood(log_probs, text)
            print(f"| {name} | candle-ctc | {ours['exact']:.1f} | 1 | {likelihood:.3f} |")
            print(f"| | with pyctcdecode's thresholds | {ours['pruned']:.1f} | | |")
            for other, decode in others.items():
                theirs = median(lambda: decode(log_probs))
                beside = ours["pruned" if other == "pyctcdecode" else "exact"]
                likelihood = text_log_likelihood(log_probs, decode(log_probs).replace(" ", ""))
                print(f"| | {other} | {theirs:.0f} | {theirs / beside:.0f} | {likelihood:.3f} |")


if __name__ == "__main__":
    main()
