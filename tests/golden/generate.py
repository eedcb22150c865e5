"""Writes cases.safetensors and cases.json: losses and gradients from PyTorch on the CPU.

    pip install -r requirements.txt
    python generate.py

Inputs are stored in f32 and PyTorch runs on them in f64, so each stored figure is the f64 truth of an
input that f32 and f64 hold alike. A case differentiates one of two leaves:

- "log_probs": the argument of ctc_loss. PyTorch's gradient there is `exp(log_probs) - posterior`, which is
  not the derivative, and is NaN for an item that cannot be aligned.
- "logits": the argument of a log_softmax before ctc_loss. The gradient there is the derivative.

The scalar that is differentiated is `sum(upstream * loss)`; without an upstream, the upstream is 1.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

GENERATOR = torch.Generator().manual_seed(20260)
NAN, INF = float("nan"), float("inf")
DTYPES = {
    "u8": torch.uint8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}

tensors, index = {}, []


def uniform(*shape):
    return torch.rand(shape, generator=GENERATOR, dtype=torch.float64)


def randint(low, high):
    return int(torch.randint(low, high, (1,), generator=GENERATOR))


def random_target(length, classes, blank, repeats=0.3):
    """A target of `length` labels without the blank; about `repeats` of them repeat their neighbour."""
    target = []
    for _ in range(length):
        if target and float(uniform(1)) < repeats:
            target.append(target[-1])
        else:
            label = randint(0, classes - 1)
            target.append(label + (label >= blank))
    return target


def case(
    name,
    frames,
    classes,
    targets,
    input_lengths=None,
    *,
    leaf="logits",
    blank=0,
    form="padded",
    padding=None,
    width=None,
    dtype="i64",
    reduction="mean",
    zero_infinity=False,
    upstream=None,
    scale=2.0,
    edit=None,
):
    """Runs PyTorch on one problem and stores it.

    `form`: "padded" (N, S), "concatenated" (sum of lengths), "unbatched" (T, C) with (S), or
    "unbatched_row" (T, C) with (1, S). `edit` changes the log-probabilities or logits in place.
    """
    items = len(targets)
    input_lengths = input_lengths or [frames] * items
    target_lengths = [len(target) for target in targets]
    values = (uniform(frames, items, classes) - 0.5) * 2 * scale
    if leaf == "log_probs":
        values = values.log_softmax(-1)
    if edit:
        edit(values)
    values = values.float()

    unbatched = form.startswith("unbatched")
    if unbatched:
        values = values.squeeze(1)
    if form in ("concatenated", "unbatched"):
        target = torch.tensor(sum(targets, []), dtype=DTYPES[dtype])
    else:
        width = max(target_lengths) if width is None else width
        padding = blank if padding is None else padding
        rows = [t + [padding] * (width - len(t)) for t in targets]
        target = torch.tensor(rows, dtype=DTYPES[dtype]).reshape(items, width)

    x = values.double().requires_grad_()
    loss = F.ctc_loss(
        x.log_softmax(-1) if leaf == "logits" else x,
        target,
        torch.tensor(input_lengths[0] if unbatched else input_lengths),
        torch.tensor(target_lengths[0] if unbatched else target_lengths),
        blank=blank,
        reduction=reduction,
        zero_infinity=zero_infinity,
    )
    weights = torch.ones_like(loss)
    if upstream is not None:
        weights = torch.tensor(upstream, dtype=torch.float64).reshape(loss.shape)
    (weights * loss).sum().backward()

    assert name not in [row["name"] for row in index], name
    tensors[f"{name}.input"] = values
    tensors[f"{name}.targets"] = target.long()
    tensors[f"{name}.loss"] = loss.detach()
    tensors[f"{name}.gradient"] = x.grad
    index.append(
        {
            "name": name,
            "leaf": leaf,
            "blank": blank,
            "targets_dtype": dtype,
            "input_lengths": input_lengths,
            "target_lengths": target_lengths,
            "reduction": reduction,
            "zero_infinity": zero_infinity,
            "upstream": upstream,
        }
    )


def set_class(frames, item, label, value):
    def edit(values):
        values[frames, item, label] = value

    return edit


BOTH = ("log_probs", "logits")

# Every reduction on the same shapes, at both leaves, with and without an upstream gradient.
for leaf in BOTH:
    for reduction in ("none", "mean", "sum"):
        for weighted in (False, True):
            upstream = None
            if weighted:
                upstream = [0.5, -2.0, 3.25] if reduction == "none" else [-1.75]
            case(
                f"reduction_{reduction}_{leaf}" + ("_weighted" if weighted else ""),
                11, 6, [random_target(n, 6, 0) for n in (4, 2, 3)], [11, 7, 9],
                leaf=leaf, reduction=reduction, upstream=upstream,
            )

# Target forms and dtypes.
for leaf in BOTH:
    for form in ("padded", "concatenated"):
        for dtype in DTYPES:
            case(
                f"{form}_{dtype}_{leaf}",
                9, 5, [random_target(n, 5, 0) for n in (3, 1, 4)],
                leaf=leaf, form=form, dtype=dtype, reduction="none",
            )
    for form in ("unbatched", "unbatched_row", "concatenated", "padded"):
        for reduction in ("none", "mean", "sum"):
            case(f"one_item_{form}_{reduction}_{leaf}", 8, 5, [random_target(3, 5, 0)], leaf=leaf, form=form, reduction=reduction)
    case(f"one_item_short_{leaf}", 8, 5, [random_target(2, 5, 0)], [5], leaf=leaf, form="unbatched")

# The blank in every place.
for leaf in BOTH:
    for blank in (1, 3, 6):
        case(
            f"blank_{blank}_{leaf}", 10, 7, [random_target(n, 7, blank) for n in (4, 0, 3)],
            leaf=leaf, blank=blank, reduction="none",
        )
    case(f"blank_last_concatenated_{leaf}", 10, 4, [random_target(n, 4, 3) for n in (2, 5)], leaf=leaf, blank=3, form="concatenated", reduction="sum")
    case(f"label_zero_with_blank_elsewhere_{leaf}", 7, 3, [[0, 0, 1], [0]], leaf=leaf, blank=2, reduction="none")

# Padding of the targets is not read.
for leaf in BOTH:
    for name, padding, dtype in (("minus_100", -100, "i64"), ("9999", 9999, "i32"), ("blank", 0, "i64"), ("255", 255, "u8"), ("minus_1", -1, "i16")):
        case(
            f"targets_padded_with_{name}_{leaf}", 9, 5, [random_target(n, 5, 0) for n in (1, 4, 0, 2)],
            leaf=leaf, padding=padding, width=6, dtype=dtype, reduction="none",
        )

# Empty targets and empty inputs.
for leaf in BOTH:
    for reduction in ("none", "mean", "sum"):
        case(f"one_target_empty_{reduction}_{leaf}", 8, 4, [[], [1, 2], []], [8, 8, 5], leaf=leaf, reduction=reduction)
    case(f"all_targets_empty_width_0_{leaf}", 6, 4, [[], []], leaf=leaf, width=0, reduction="none")
    case(f"all_targets_empty_width_3_{leaf}", 6, 4, [[], []], leaf=leaf, width=3, padding=-7, reduction="none")
    case(f"all_targets_empty_concatenated_{leaf}", 6, 4, [[], []], leaf=leaf, form="concatenated", reduction="sum")
    case(f"unbatched_target_empty_{leaf}", 6, 4, [[]], leaf=leaf, form="unbatched")
    for zero in (False, True):
        suffix = "_zeroed" if zero else ""
        case(f"input_length_0{suffix}_{leaf}", 6, 4, [[], [1, 2], [3]], [0, 0, 6], leaf=leaf, reduction="none", zero_infinity=zero)
        case(f"input_length_0_mean{suffix}_{leaf}", 6, 4, [[], [1, 2], [3]], [0, 0, 6], leaf=leaf, reduction="mean", zero_infinity=zero)

# Items that cannot be aligned.
for leaf in BOTH:
    for reduction in ("none", "mean", "sum"):
        for zero in (False, True):
            case(
                f"infeasible_{reduction}" + ("_zeroed" if zero else "") + f"_{leaf}",
                5, 4, [[1, 1, 1], [1, 2, 3], [2, 1]], [5, 2, 4],
                leaf=leaf, reduction=reduction, zero_infinity=zero,
                upstream=[1.5, 2.5, -0.5] if reduction == "none" else None,
            )
            case(
                f"infeasible_by_repeats_{reduction}" + ("_zeroed" if zero else "") + f"_{leaf}",
                4, 4, [[1, 1, 1], [2, 2]], leaf=leaf, reduction=reduction, zero_infinity=zero,
            )
    case(f"feasible_by_one_path_{leaf}", 5, 4, [[1, 1, 1], [1, 2, 3, 2, 1]], leaf=leaf, reduction="none")

# Repeats.
for leaf in BOTH:
    case(f"all_labels_the_same_{leaf}", 14, 4, [[2] * 6, [1] * 5], leaf=leaf, reduction="none")
    case(f"repeats_and_returns_{leaf}", 14, 5, [[1, 1, 2, 1, 1, 2, 2], [3, 1, 3, 1, 3, 3]], leaf=leaf, reduction="none")
    case(f"two_classes_{leaf}", 9, 2, [[1, 1, 1], [1]], leaf=leaf, reduction="none")

# A blank alone: the loss is zero after a softmax.
case("one_class_logits", 5, 1, [[], []], reduction="none")
case("one_class_log_probs", 5, 1, [[], []], leaf="log_probs", reduction="none", edit=lambda v: v.sub_(0.5))

# Frames beyond an item's length are not read. Only at log_probs: log_softmax spreads its own NaN.
for name, value in (("nan", NAN), ("inf", INF), ("minus_inf", -INF), ("huge", 1e30)):
    for reduction in ("none", "mean"):
        case(
            f"padding_frames_{name}_{reduction}_log_probs", 9, 5, [[1, 2], [3, 3]], [6, 9], leaf="log_probs",
            reduction=reduction, edit=set_class(slice(6, None), 0, slice(None), value),
        )

# -inf in a class, at some frames.
case("minus_inf_in_unused_class_log_probs", 8, 5, [[1, 2], [3]], leaf="log_probs", reduction="none", edit=set_class(slice(2, 5), 0, 4, -INF))
case("minus_inf_in_used_class_log_probs", 8, 5, [[1, 2], [3]], leaf="log_probs", reduction="none", edit=set_class(slice(2, 4), 0, 1, -INF))
case("minus_inf_in_blank_log_probs", 8, 5, [[1, 2], [3]], leaf="log_probs", reduction="none", edit=set_class(slice(2, 4), 0, 0, -INF))
for zero in (False, True):
    suffix = "_zeroed" if zero else ""
    case(f"minus_inf_makes_infeasible{suffix}_log_probs", 8, 5, [[1, 2], [3]], leaf="log_probs", reduction="none", zero_infinity=zero, edit=set_class(slice(None), 0, 2, -INF))
    case(f"minus_inf_everywhere_in_a_frame{suffix}_log_probs", 8, 5, [[1, 2], [3]], leaf="log_probs", reduction="mean", zero_infinity=zero, edit=set_class(4, 1, slice(None), -INF))

# Steep distributions: probabilities down to e^-60 a frame and beyond what f32 holds.
for leaf in BOTH:
    case(f"steep_{leaf}", 20, 6, [random_target(7, 6, 0), random_target(5, 6, 0)], leaf=leaf, scale=30.0, reduction="none")
    case(f"very_steep_{leaf}", 20, 6, [random_target(7, 6, 0), random_target(5, 6, 0)], leaf=leaf, scale=400.0, reduction="none")

# Larger sizes.
for leaf in BOTH:
    case(f"long_input_{leaf}", 400, 5, [random_target(20, 5, 0)], leaf=leaf, reduction="none")
    case(f"long_target_{leaf}", 150, 8, [random_target(60, 8, 0)], leaf=leaf, reduction="mean")
    case(f"many_classes_{leaf}", 12, 300, [random_target(5, 300, 0)], leaf=leaf, reduction="mean")
    case(f"many_classes_many_labels_{leaf}", 60, 40, [random_target(20, 40, 39), random_target(17, 40, 39)], [60, 51], leaf=leaf, blank=39, reduction="sum")
    lengths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    case(
        f"mixed_lengths_{leaf}", 24, 6, [random_target(n, 6, 0) for n in lengths], [24 - n for n in lengths],
        leaf=leaf, form="concatenated", reduction="none", upstream=[0.25 * n - 1 for n in lengths],
    )

# Log-probabilities that are not normalised, and some that are positive.
case("not_normalised_log_probs", 9, 5, [[1, 2, 2], [4]], leaf="log_probs", reduction="none", edit=lambda v: v.mul_(1.7).add_(0.4))

here = pathlib.Path(__file__).parent
save_file(tensors, here / "cases.safetensors")
rows = ",\n".join(json.dumps(row) for row in index)
(here / "cases.safetensors").chmod(0o644)
(here / "cases.json").write_text(f'{{"torch": "{torch.__version__.split("+")[0]}", "cases": [\n{rows}\n]}}\n')
print(len(index), "cases")
