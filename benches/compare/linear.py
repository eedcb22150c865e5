"""A training step of linear, log_softmax and ctc_loss in PyTorch: prints milliseconds and bytes of its peak.

linear.py FRAMES FEATURES CLASSES LABELS LENGTH...
"""

import pathlib
import sys
import time

import torch

torch.set_num_threads(2)
frames, features, classes, labels, *lengths = map(int, sys.argv[1:])
items = len(lengths)
hidden = torch.randn(frames, items, features, requires_grad=True)
weight = (torch.randn(classes, features) / features**0.5).requires_grad_()
bias = (0.1 * torch.randn(classes)).requires_grad_()
targets = (1 + torch.arange(items * labels) * 7919 % (classes - 1)).reshape(items, labels)


def step():
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_probs = torch.nn.functional.log_softmax(logits, 2)
    loss = torch.nn.functional.ctc_loss(
        log_probs, targets, tuple(lengths), (labels,) * items, reduction="sum"
    )
    loss.backward()
    hidden.grad = weight.grad = bias.grad = None


def resident(name):
    """Bytes: VmRSS is what the process holds now, VmHWM the most since `clear_refs` was written."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


pathlib.Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
times = []
for _ in range(2):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
print(1e3 * min(times), resident("VmHWM") - before)
