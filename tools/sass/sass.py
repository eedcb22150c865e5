#!/usr/bin/env python3
"""Measures the CUDA kernels from their machine code, on a machine with no GPU. README.md says how to read it."""

import argparse
import math
import os
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import build
import kernels
import replay
from disassembly import SCOREBOARDS, BadText

DOCUMENT = build.ROOT / "docs" / "gpu.md"
BUDGETS = Path(__file__).with_name("budgets.toml")
BEGIN, END = "<!-- tools/sass: begin -->", "<!-- tools/sass: end -->"


@dataclass
class Figures:
    """What is measured of a kernel, or of one of its loops."""

    name: str
    values: dict
    hot: object = None
    # By the memory that loads come from.
    cycles: dict = field(default_factory=dict)

    @property
    def budgeted(self):
        """What is compared with a budget. A loop without its stores is the same code as with them."""
        if self.hot and not self.hot.stores:
            return {"cycles": self.values["cycles"]}
        return self.values


# Figures that a budget bounds from below.
LEAST = ("load_bits", "store_bits")


def of_kernel(name, used):
    return Figures(name, {"registers": used.registers, "stack": used.stack, "spilled": used.spilled})


def of_loop(hot):
    way = hot.loop.way
    cycles = {level: replay.cycles(way, memory, hot.stores) / hot.units for level, memory in replay.MEMORY.items()}
    values = {
        "instructions": len(way) / hot.units,
        "cycles": cycles["L2"],
        "spilled": sum(one.bits // 8 for one in way if one.accesses == "local"),
        "branches": hot.loop.inner_branches(),
        "load_bits": min(kernels.widths(hot.loop, kernels.is_load)),
    }
    if stored := kernels.widths(hot.loop, kernels.is_store):
        values["store_bits"] = min(stored)
    return Figures(f"{hot.kernel}: {hot.name}", values, hot, cycles)


def measure(code):
    """All figures: kernels first, then loops."""
    loops = []
    for name, function in code.functions.items():
        # With their states in global memory between rounds; their frames are those of the kernel without the suffix.
        if not name.endswith("_spill"):
            loops += map(of_loop, kernels.hot_loops(function))
    order = {image: i for i, image in enumerate(kernels.IMAGES)}
    images = sorted(order, key=len, reverse=True)

    def place(one):
        name = one.name.split(":")[0].removeprefix("ctc_")
        image = next((image for image in images if name.startswith(image)), f"rows_{name.split('_')[-1]}")
        return order[image], name

    return sorted((of_kernel(*one) for one in code.resources.items()), key=place), sorted(loops, key=place)


# ---- budgets


def allowed(figure, value):
    """A budget for what was measured."""
    if figure == "instructions" or figure == "cycles":
        most = value * (1.05 if figure == "cycles" else 1.03)
        return math.ceil(most) if most >= 30 else math.ceil(10 * most) / 10
    # Registers are given out by eights.
    return math.ceil(value / 8) * 8 if figure == "registers" else value


def as_toml(figures, version):
    lines = [
        "# What the kernels may take at most, and how wide their accesses are at least: tools/sass/run.sh --check.",
        "# Written by tools/sass/run.sh --set-budgets, with room for small changes: 3 % in instructions, 5 % in cycles",
        "# (of a unit, at the latency of the L2 cache), 8 registers.",
        f'nvcc = "{version}"',
        "",
    ]
    for one in figures:
        each = ", ".join(f"{figure} = {allowed(figure, value)}" for figure, value in one.budgeted.items())
        lines.append(f'"{one.name}" = {{ {each} }}')
    return "\n".join(lines) + "\n"


def compare(figures, budgets):
    """What is over its budget, or lacks one, a line each."""
    faults = []
    sections = {name: budget for name, budget in budgets.items() if isinstance(budget, dict)}
    for one in figures:
        budget = sections.pop(one.name, None)
        if budget is None:
            faults.append(f"{one.name}: there is no budget")
            continue
        for figure in sorted(budget.keys() | one.budgeted.keys()):
            value, bound = one.budgeted.get(figure), budget.get(figure)
            if value is None:
                faults.append(f"{one.name}: there is a budget for {figure}, which is not measured")
            elif bound is None:
                faults.append(f"{one.name}: {figure} is {value:.4g}, and there is no budget for it")
            elif value < bound if figure in LEAST else value > bound:
                side = "least" if figure in LEAST else "most"
                faults.append(f"{one.name}: {figure} is {value:.4g}, and its budget is at {side} {bound:.4g}")
    faults += [f"{name}: there is a budget, and nothing of that name is measured" for name in sections]
    return faults


def remedy(faults, budgets, version):
    """What to do about them."""
    of_loops = [name for name in (fault.rsplit(": ", 1)[0] for fault in faults) if ":" in name]
    lines = [f"{len(faults)} figures are not within their budgets (tools/sass/budgets.toml)."]
    if budgets.get("nvcc") != version:
        lines.append(f"The budgets are for nvcc {budgets.get('nvcc')}, and this is {version}.")
    if of_loops:
        lines.append(f'See a loop with its waits: tools/sass/run.sh --show "{of_loops[0]}".')
    lines.append(
        "If the change is worth that, set budgets and tables anew (tools/sass/run.sh --set-budgets --write) and "
        "say why in the commit."
    )
    return "\n".join(lines)


# ---- tables


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(left, right):
    return [row(*left, *right), "|" + "---|" * len(left) + "---:|" * len(right)]


def number(value):
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def bits(hot, wanted):
    return ", ".join(map(str, sorted(kernels.widths(hot.loop, wanted)))) or "–"


def scoreboards(hot):
    return len({one.write_barrier for one in hot.loop.way if kernels.is_load(one)})


def table_of_kernels(figures):
    lines = heading(["kernel"], ["registers", "stack, bytes", "spilled, bytes"])
    for one in figures:
        used = one.values
        lines.append(row(f"`{one.name}`", used["registers"], used["stack"], used["spilled"]))
    return lines


def table_of_loops(figures):
    lines = heading(
        ["kernel", "loop"],
        ["a turn", "instructions", "loads, bits", "stores, bits", "scoreboards", "branches", "spilled, bytes"]
        + [f"cycles, {level}" for level in replay.MEMORY],
    )
    for one in figures:
        hot, longest = one.hot, one.values["instructions"]
        shortest = len(hot.loop.shortest) / hot.units
        span = number(longest) if shortest == longest else f"{number(shortest)} to {number(longest)}"
        plural = {"entry": "entries"}.get(hot.unit, hot.unit + "s")
        lines.append(
            row(
                f"`{hot.kernel}`",
                hot.name,
                f"{hot.units} {hot.unit if hot.units == 1 else plural}",
                span,
                bits(hot, kernels.is_load),
                bits(hot, kernels.is_store) if hot.stores else "off",
                scoreboards(hot),
                one.values["branches"],
                one.values["spilled"],
                *map(number, one.cycles.values()),
            )
        )
    return lines


MEASURED = re.compile(r"^\| *(\d+) *\| *(train|score) *\| *[\d.]+ *\| *(\d+) *\|$", re.MULTILINE)


def tiling(labels):
    """Pairs a thread and tiles of a target, in f32: as in src/gpu/launch.rs."""
    pairs = 1 if labels < 32 else 2 if labels < 208 else 4
    first, halo = 32 * pairs, 16
    return pairs, 1 + math.ceil(max(labels + 1 - first, 0) / (first - halo))


def estimate(loops, labels, mode):
    """Cycles that a frame takes one tile of a target in f32. A direction takes half of the frames to the middle, and in
    training the other half behind it.
    """
    kernel = f"ctc_lattice_f32_{tiling(labels)[0]}"
    cycles = {one.hot.name: one.cycles["L2"] for one in loops if one.hot.kernel == kernel}
    if mode == "score":
        return cycles["sweep, no gradient"] / 2
    return (cycles["sweep"] + cycles["posterior pass"]) / 2


def table_of_frames(loops, document):
    """The replay beside what was measured on a GPU, which the document says above."""
    measured = MEASURED.findall(document)
    if not measured:
        raise build.Failed(f"{DOCUMENT} has no rows `| S | train or score | ns | cycles |` of measured frames any more")
    lines = heading(["S", "tiles", "mode"], ["replay of one tile", "measured", "measured / replay"])
    single = []
    for labels, mode, cycles in measured:
        guess, tiles = estimate(loops, int(labels), mode), tiling(int(labels))[1]
        ratio = int(cycles) / guess
        lines.append(row(labels, tiles, mode, number(guess), cycles, f"{ratio:.2f}"))
        single += [ratio] if tiles == 1 else []
    if single:
        span = f"{min(single):.2f} to {max(single):.2f}"
        lines += ["", f"Where a target is one tile, a measured frame takes {span} times the replay."]
    return lines


def report(code, document):
    of_kernels, loops = measure(code)
    return "\n".join(
        [
            "Hot loops, for a frame, an entry of a lane or a row:",
            "",
            *table_of_loops(loops),
            "",
            "A frame of the lattice in cycles (f32), by the replay at the latency of L2 and as measured on an H200:",
            "",
            *table_of_frames(loops, document),
            "",
            "Registers of a thread:",
            "",
            *table_of_kernels(of_kernels),
        ]
    )


def written(document, text):
    """The document with the text between its two marks."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise build.Failed(f"{DOCUMENT} must have the line {BEGIN} once, and behind it {END} once")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def listing(figures, name):
    """The loop of that name as it runs, with what its control words say."""
    for one in figures:
        if one.name == name and one.hot:
            lines = [f"{one.name}: {one.hot.loop}, {one.hot.units} times a {one.hot.unit}"]
            for code in one.hot.loop.way:
                waits = "".join(str(i) if code.waits >> i & 1 else "." for i in range(SCOREBOARDS))
                signals = " ".join(
                    f"{what}{board}"
                    for what, board in (("result", code.write_barrier), ("read", code.read_barrier))
                    if board < SCOREBOARDS
                )
                text = f"{code.guard} {code.opcode} {code.operands}".strip()
                lines.append(f"{code.address:6x}  waits {waits}  stall {code.stall:2}  {signals:15} {text}")
            return "\n".join(lines)
    loops = "\n  ".join(one.name for one in figures if one.hot)
    raise build.Failed(f"there is no loop {name!r}. These are:\n  {loops}")


def arguments():
    parser = argparse.ArgumentParser(prog="tools/sass/run.sh", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.relative_to(build.ROOT)}")
    parser.add_argument("--check", action="store_true", help="compare with budgets.toml; fail where one is exceeded")
    parser.add_argument("--set-budgets", action="store_true", help="write budgets.toml from what is measured now")
    parser.add_argument("--show", metavar="LOOP", help='list a loop, such as "ctc_lattice_f32_1: sweep"')
    parser.add_argument("--nvcc", default=os.environ.get("NVCC", "nvcc"), help="compiler (default: NVCC, or the path)")
    parser.add_argument("--nvdisasm", default="nvdisasm", help="disassembler (default: of the path)")
    parser.add_argument("--cache", type=Path, required=True, help="folder for machine code")
    return parser.parse_args()


def main():
    given = arguments()
    code = build.code(kernels.IMAGES, given.nvcc, given.nvdisasm, given.cache)
    of_kernels, loops = measure(code)
    figures = of_kernels + loops
    document = DOCUMENT.read_text()
    current = written(document, report(code, document))
    if given.show:
        print(listing(figures, given.show))
    if given.set_budgets:
        BUDGETS.write_text(as_toml(figures, code.version))
    if given.write:
        DOCUMENT.write_text(current)
        document = current
    if given.check:
        budgets = tomllib.loads(BUDGETS.read_text())
        if faults := compare(figures, budgets):
            print(*faults, remedy(faults, budgets, code.version), sep="\n", file=sys.stderr)
            return 1
        print(f"{len(figures)} kernels and loops are within their budgets")
        if current != document:
            print("The tables in docs/gpu.md are of other code: write them anew with tools/sass/run.sh --write.")
    if not (given.show or given.set_budgets or given.write or given.check):
        print(report(code, document))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BadText, build.Failed, kernels.NoLoop, OSError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"tools/sass: {error}")
