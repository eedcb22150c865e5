"""Machine code as nvdisasm prints it: functions, instructions, and the control words between them.

The format is that of `nvdisasm -hex -c` for compute capability 7.0 and later: an instruction is 128 bits, and bits 105
to 125 of it say how it is scheduled. NVIDIA does not document them; the fields below are the ones that assemblers for
these machines use.
"""

import re
from dataclasses import dataclass, field

SCOREBOARDS = 6
# In the fields of a scoreboard: none.
NONE = 7


class BadText(Exception):
    """The text is not what nvdisasm prints for a supported machine."""


@dataclass(frozen=True)
class Instruction:
    address: int
    # The predicate in front of it, such as `@!P0`, or nothing.
    guard: str
    # The word itself with its modifiers, such as `LDG.E.128`.
    opcode: str
    operands: str
    # Cycles until the next instruction of the warp may issue.
    stall: int
    # The scoreboard that it clears when its result is there, and when its operands have been read.
    write_barrier: int
    read_barrier: int
    # The scoreboards that must be clear before it issues, a bit each.
    waits: int

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        """The label that a branch goes to."""
        found = re.search(r"`\((\S+?)\)", self.operands)
        return found[1] if found else None

    @property
    def always(self):
        """Whether a branch is taken by every thread that reaches it."""
        conditions = self.operands.split("`")[0].replace(" ", "").strip(",")
        return self.guard in ("", "@PT", "@UPT") and conditions in ("", "PT", "UPT")

    @property
    def accesses(self):
        """The memory that it reads or writes: `global`, `local`, `shared` or nothing."""
        return MEMORY.get(self.name)

    @property
    def is_load(self):
        return self.name in LOADS

    @property
    def bits(self):
        """How wide the access of a thread is."""
        for part in self.opcode.split(".")[1:]:
            if part in WIDTHS:
                return WIDTHS[part]
        return 32


# LD and ST are accesses of which the compiler does not know where they go; here they go to global memory.
MEMORY = {
    "LDG": "global", "STG": "global", "LD": "global", "ST": "global",
    "LDL": "local", "STL": "local", "LDS": "shared", "STS": "shared",
}  # fmt: skip
LOADS = {"LDG", "LD", "LDL", "LDS"}
WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


@dataclass
class Function:
    name: str
    # The kernel whose section it stands in: its own name, or that of the kernel which calls it.
    kernel: str
    instructions: list = field(default_factory=list)
    # Where each label stands, as an index into the instructions.
    labels: dict = field(default_factory=dict)


SECTION = re.compile(r'^\s+\.section\s+\.text\.(\w+),"ax"')
LABEL = re.compile(r"^([.$\w]\S*):\s*$")
ADDRESS = r"^\s+/\*([0-9a-f]{4,})\*/\s+"
ENCODING = r"\s+/\* 0x([0-9a-f]{16}) \*/\s*$"
FIRST = re.compile(ADDRESS + r"(?:(@!?\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;" + ENCODING)
SECOND = re.compile("^" + ENCODING)


def parse(text):
    """All functions of a disassembly, in its order."""
    functions = []
    kernel = None
    first = None
    for number, line in enumerate(text.splitlines(), 1):
        if first is not None:
            second = SECOND.match(line)
            if not second:
                raise BadText(f"line {number}: the second half of the instruction above is missing: {line.strip()!r}")
            functions[-1].instructions.append(instruction(first, int(second[1], 16)))
            first = None
        elif section := SECTION.match(line):
            kernel = section[1]
        elif label := LABEL.match(line):
            name = label[1]
            if name.startswith(".text."):
                continue
            if kernel is None:
                raise BadText(f"line {number}: the label {name} stands in no section of code")
            if not name.startswith("."):
                functions.append(Function(name, kernel))
            elif functions:
                functions[-1].labels[name] = len(functions[-1].instructions)
        elif re.match(ADDRESS, line):
            first = FIRST.match(line)
            if not first:
                raise BadText(f"line {number}: no instruction with its encoding (use nvdisasm -hex): {line.strip()!r}")
            if not functions:
                raise BadText(f"line {number}: an instruction stands before any function")
    if not functions:
        raise BadText("there is no function in this text; it should come from nvdisasm -hex -c")
    return functions


def instruction(first, second):
    control = second >> 41
    return Instruction(
        address=int(first[1], 16),
        guard=first[2] or "",
        opcode=first[3],
        operands=first[4],
        stall=control & 15,
        write_barrier=control >> 5 & 7,
        read_barrier=control >> 8 & 7,
        waits=control >> 11 & 63,
    )
