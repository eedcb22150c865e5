"""The kernels that are measured, and which of their loops are hot.

A loop is chosen by what it does, never by where it stands, and each rule says in words what it looks for. A rule that
fits no loop, or more than it may, is an error.
"""

from dataclasses import dataclass

import loops as graph

# What build.rs compiles, but for `common`, which has no hot loop.
IMAGES = [
    "lattice_f32_1", "lattice_f32_2", "lattice_f32_4", "lattice_f64", "rows_f32", "rows_bf16", "rows_f16", "rows_f64",
    "best_path",
]  # fmt: skip
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}


class NoLoop(Exception):
    """A rule does not tell which loop is meant."""


@dataclass
class HotLoop:
    kernel: str
    name: str
    # What a turn does: so many frames, entries of a lane, or rows.
    unit: str
    units: int
    loop: object
    # Whether its stores are switched on.
    stores: bool = True


def is_load(one):
    return one.accesses == "global" and one.is_load


def is_store(one):
    return one.accesses == "global" and not one.is_load


def is_shuffle(one):
    return one.name == "SHFL"


def is_shared(one):
    return one.accesses == "shared"


def is_power_of_two(one):
    return one.opcode.startswith("MUFU.EX2")


def exponential(dtype):
    """What tells an exponential: the device's power of two, or in f64 a polynomial."""
    return (lambda one: one.name == "DFMA") if dtype == "f64" else is_power_of_two


def widths(loop, wanted):
    """The widths in bits of the instructions that are `wanted`."""
    return {one.bits for one in loop.way if wanted(one)}


def hot_loops(function):
    """The hot loops of a kernel."""
    # A row's exponential is a power of two of the device where it is for logits: that way round is the one to see.
    found = graph.loops(function, is_power_of_two)
    kind, *rest = function.name.removeprefix("ctc_").split("_")
    if kind == "lattice":
        return lattice(function.name, found, rest[0])
    if kind == "best":
        return best_path(function.name, found)
    if rest[0] == "short":
        return {"gather": gather_short, "gradient": gradient_short}[kind](function.name, found, rest[1])
    if rest[0] == "weighted":
        return gather(function.name, found, rest[1])
    return {"gather": gather, "gradient": gradient}[kind](function.name, found, rest[0])


def refuse(kernel, rule, candidates):
    listed = "".join(f"\n  {one}: {len(one.way)} instructions" for one in candidates) or " none"
    raise NoLoop(
        f"{kernel}: which loop is hot is not clear. The rule: {rule}. What fits:{listed}\n"
        "If the loop has a new shape, change its rule in tools/sass/kernels.py."
    )


def lattice(kernel, found, dtype):
    """The frame loops. A frame shuffles the label below once: mantissa and exponent, a word each, in f64 two."""
    words = 4 if dtype == "f64" else 2

    def shuffles(loop):
        return loop.count(lambda one: one.opcode.startswith("SHFL.UP"))

    fitting = [one for one in found if one.inside == 0 and shuffles(one) and one.count(is_store)]
    rule = (
        "two loops with none inside which shuffle up and write to global memory; the sweep writes more in a frame than "
        f"the posterior pass; {words} shuffles are a frame"
    )
    if len(fitting) != 2 or any(shuffles(one) % words for one in fitting):
        refuse(kernel, rule, fitting)

    def written(loop):
        return loop.count(is_store) / shuffles(loop)

    posterior, sweep = sorted(fitting, key=written)
    if written(posterior) == written(sweep):
        refuse(kernel, rule, fitting)
    frames = shuffles(sweep) // words
    return [
        HotLoop(kernel, "sweep", "frame", frames, sweep),
        HotLoop(kernel, "posterior pass", "frame", shuffles(posterior) // words, posterior),
        HotLoop(kernel, "sweep, no gradient", "frame", frames, sweep, stores=False),
    ]


def best_path(kernel, found):
    """The frame loops of targets that have a thread for each pair. A frame ends in a barrier."""

    def barriers(loop):
        return loop.count(lambda one: one.name == "BAR")

    fitting = [one for one in found if one.inside == 0 and barriers(one) > 1 and one.count(is_load)]
    hot = []
    for name, writes in (("frames", False), ("frames, with origins", True)):
        kind = [one for one in fitting if bool(one.count(is_store)) == writes]
        if len(kind) != 1:
            rule = (
                "one loop with none inside, with several barriers and loads from global memory; where origins are kept, "
                "with stores there"
            )
            refuse(kernel, rule, kind)
        hot.append(HotLoop(kernel, name, "frame", barriers(kind[0]), kind[0]))
    return hot


def gather(kernel, found, dtype):
    """The loops over the entries of a long row, for its sum of exponentials."""
    return over_entries(kernel, found, dtype, set())


def gradient(kernel, found, dtype):
    """The loops over the entries of a long row, for its softmax. The exponential of log-probabilities takes more."""
    return over_entries(kernel, found, dtype, {128})


def over_entries(kernel, found, dtype, stored):
    """The loops that read whole vectors, and that read entries one by one; `stored` is how wide their stores are."""
    single = 8 * BYTES[dtype]
    hot = []
    for name, bits in (("whole vectors", 128), ("any stride", single)):
        fitting = [
            one
            for one in found
            if one.inside == 0
            and one.count(exponential(dtype))
            and not one.count(is_shared)
            and widths(one, is_load) == {bits}
            and widths(one, is_store) == stored
        ]
        if not fitting:
            rule = (
                f"for {name}: no loop inside, exponentials, no shared memory; loads from global memory are all of "
                f"{bits} bits, stores {'of 128' if stored else 'none'}; of several the one with the most entries a "
                "turn, then the fewest instructions"
            )
            refuse(kernel, rule, fitting)
        loop = min(fitting, key=lambda one: (-one.count(is_load), len(one.way)))
        hot.append(HotLoop(kernel, name, "entry", loop.count(is_load) * bits // single, loop))
    return hot


def gather_short(kernel, found, dtype):
    """The loops over the rows of a warp: their emissions, and their sums of exponentials."""
    plain = [one for one in found if one.inside == 0 and one.count(is_shuffle) and one.count(is_load)]
    kinds = {
        "emissions": [one for one in plain if one.count(is_store)],
        "sum": [one for one in plain if not one.count(is_store) and one.count(exponential(dtype))],
    }
    rule = (
        "with no loop inside, with shuffles and loads from global memory; the emissions are written, the sum has "
        "exponentials and no store; up to 32 classes take the fewest loads, up to 128 the most"
    )
    hot = []
    for name, fitting in kinds.items():
        if not fitting:
            refuse(kernel, rule, fitting)
        for classes, choose in ((32, min), (128, max)):
            loop = choose(fitting, key=lambda one: one.count(is_load))
            hot.append(HotLoop(kernel, f"{name}, up to {classes}", "row", 1, loop))
    return hot


def gradient_short(kernel, found, dtype):
    """The loop over the rows of a warp."""

    def reads_shared(one):
        return one.name == "LDS"

    def writes_shared(one):
        return one.name == "STS"

    does = (is_shuffle, is_load, is_store, reads_shared, writes_shared, exponential(dtype))
    fitting = [one for one in found if all(map(one.count, does))]
    if not fitting:
        refuse(
            kernel, "the smallest with shuffles, exponentials, loads and stores of shared and of global memory", fitting
        )
    loop = min(fitting, key=lambda one: len(one.instructions))
    return [HotLoop(kernel, "up to 32 classes", "row", 1, loop)]
