"""Times torchaudio's CPU aligner on 16 utterances, one call each: it takes no batch.

    pip install torch==2.11.0 torchaudio==2.11.0
    python benches/compare/align.py

The inputs are those of `transcripts.rs`, and so the printed sums must agree to f32 rounding.
"""

import resource
import time
import warnings

import numpy as np
import torch
import torchaudio
import torchaudio.functional as F

warnings.simplefilter("ignore")
state = 1


def below(bound):
    global state
    state = (state * 1664525 + 1013904223) % 2**32
    return state * bound >> 32


items, frames, length, classes = 16, 1500, 200, 32
logits = (np.sin(0.37 * np.arange(items * frames * classes, dtype=np.float64)) * 3.0).astype(np.float32)
logits = logits.reshape(items, frames, classes)
sums = np.exp(logits.astype(np.float64)).sum(2, keepdims=True)
log_probs = torch.from_numpy(logits - np.log(sums).astype(np.float32))
targets = torch.tensor([1 + below(31) for _ in range(items * length)], dtype=torch.int32)
targets = targets.reshape(items, length)
lengths = torch.tensor([frames]), torch.tensor([length])

best = float("inf")
for _ in range(10):
    start = time.perf_counter()
    found = [F.forced_align(log_probs[n : n + 1], targets[n : n + 1], *lengths) for n in range(items)]
    best = min(best, time.perf_counter() - start)
total = sum(scores.double().sum().item() for _, scores in found)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(f"torchaudio {torchaudio.__version__}: align: {best * 1e3:.2f} ms, sum of scores {total:.3f}; peak memory {peak:.0f} MB")
