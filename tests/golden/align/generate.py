"""Writes cases.safetensors and cases.json: alignments and token spans from torchaudio on the CPU.

    pip install -r requirements.txt
    python generate.py

Log-probabilities are stored in f32 and torchaudio runs on them in f64, so the path is the best one of
the stored figures, not of sums rounded to f32. torchaudio aligns one utterance at a time; a case is a
batch, padded with zeros, and each of its items was aligned alone.
"""

import json
import pathlib

import torch
import torchaudio.functional as F
from safetensors.torch import save_file

GENERATOR = torch.Generator().manual_seed(77)
tensors, index = {}, []


def randint(low, high):
    return int(torch.randint(low, high, (1,), generator=GENERATOR))


def random_target(length, classes, blank, repeats):
    """Labels that are not the blank; each equals the one before it with probability `repeats`."""
    target = []
    for _ in range(length):
        if target and float(torch.rand(1, generator=GENERATOR)) < repeats:
            target.append(target[-1])
        else:
            others = [c for c in range(classes) if c != blank and c not in target[-1:]]
            target.append(others[randint(0, len(others))])
    return target


def case(name, frames, classes, lengths, blank=0, repeats=0.3, sharpness=1.0, star=False):
    """`lengths` holds (frames, labels) of each item. With `star`, every fifth label is the star, which
    is the class behind the last, with log-probability 0, as torchaudio's tutorials append it."""
    items, log_probs = [], torch.zeros(len(lengths), frames, classes)
    for n, (used, labels) in enumerate(lengths):
        target = random_target(labels, classes, blank, repeats)
        if star:
            target = [classes if i % 5 == 2 else label for i, label in enumerate(target)]
        logits = torch.randn(used, classes, generator=GENERATOR) * sharpness
        log_probs[n, :used] = logits.log_softmax(-1)
        emission = log_probs[n : n + 1, :used].double()
        if star:
            emission = torch.cat([emission, torch.zeros(1, used, 1, dtype=torch.float64)], dim=2)
        aligned, scores = F.forced_align(
            emission,
            torch.tensor([target], dtype=torch.int32),
            torch.tensor([used]),
            torch.tensor([labels]),
            blank,
        )
        spans = F.merge_tokens(aligned[0], scores[0], blank)
        items.append(
            {
                "target": target,
                "frames": used,
                "labels": aligned[0].tolist(),
                "score": scores[0].sum().item(),
                "frame_scores": scores[0].tolist() if used <= 60 else None,
                "spans": [[s.token, s.start, s.end, s.score] for s in spans],
            }
        )
    tensors[name] = log_probs
    index.append({"name": name, "blank": blank, "star": classes if star else None, "items": items})


case("short, mixed lengths", 12, 5, [(12, 4), (9, 3), (5, 2), (7, 1)])
case("no frame to spare", 9, 6, [(9, 9), (7, 7)], repeats=0.0)
case("every label repeats", 21, 4, [(21, 10), (19, 10)], repeats=1.0)
case("blank is not class 0", 30, 7, [(30, 8), (22, 6)], blank=4)
case("blank is the last class", 30, 7, [(30, 8), (22, 6)], blank=6)
case("sharp", 60, 12, [(60, 20), (50, 10), (31, 5)], sharpness=8.0)
case("longer than a block", 200, 32, [(200, 60), (180, 33), (120, 17)])
case("star", 40, 6, [(40, 11), (33, 7)], star=True)

here = pathlib.Path(__file__).parent
save_file(tensors, here / "cases.safetensors")
(here / "cases.json").write_text(json.dumps(index) + "\n")
