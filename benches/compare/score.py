"""Times PyTorch's ctc_loss on 64 transcripts of one utterance, whose emissions are expanded 64 times.

    pip install torch==2.15.0
    python benches/compare/score.py

The inputs are those of `transcripts.rs`, and so the printed sums must agree.
"""

import resource
import time

import numpy as np
import torch
import torch.nn.functional as F

state = 1


def below(bound):
    global state
    state = (state * 1664525 + 1013904223) % 2**32
    return state * bound >> 32


def log_probs(rows, classes):
    logits = (np.sin(0.37 * np.arange(rows * classes, dtype=np.float64)) * 3.0).astype(np.float32)
    logits = logits.reshape(rows, classes)
    sums = np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    return torch.from_numpy(logits - np.log(sums).astype(np.float32))


frames, classes, length, count = 1500, 5000, 200, 64
emissions = log_probs(frames, classes)
base = [1 + below(4999) for _ in range(length)]
n_best = []
for _ in range(count):
    target = list(base)
    for _ in range(10):
        place = below(200)
        label = 1 + below(4999)
        target[place] = label
    n_best.append(target)
unrelated = [[1 + below(4999) for _ in range(length)] for _ in range(count)]

print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
for name, candidates in [("n-best", n_best), ("unrelated", unrelated)]:
    targets = torch.tensor(candidates)
    lengths = torch.full((count,), frames), torch.full((count,), length)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            expanded = emissions[:, None].expand(frames, count, classes)
            loss = F.ctc_loss(expanded, targets, *lengths, reduction="none")
        best = min(best, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"score {name}: {best * 1e3:.2f} ms, sum {-loss.double().sum():.3f}; peak memory {peak:.0f} MB")
