"""Cycles of a loop, from an in-order replay of one warp.

A warp issues its instructions in order. Each says how many cycles the next one must wait at least, and which
scoreboards must be clear before it. A scoreboard counts what is under way, so it is clear when all of it has arrived.
What is not modelled: other warps, divergence, fetching of instructions, conflicts of registers and of memory.
"""

from disassembly import SCOREBOARDS

# Cycles from issue to the result, for what signals a scoreboard: assumptions, for a GPU such as an H100.
SHUFFLE = 23
SHARED = 30
SPECIAL = 20
CONVERSION = 18
# Reading the operands of a store or a shuffle.
OPERANDS = 12
# What is not known.
OTHER = 20
LATENCY = {
    "SHFL": SHUFFLE, "LDS": SHARED, "MUFU": SPECIAL, "F2I": CONVERSION, "I2F": CONVERSION, "F2F": CONVERSION,
}  # fmt: skip
# Where a load from global memory finds its data.
MEMORY = {"L1": 34, "L2": 270, "HBM": 600}

TURNS = 16


def cycles(way, memory, stores=True):
    """Cycles of one turn of a loop, once it goes steadily. Without `stores` those to global memory are switched off by
    their predicates: they take their turn to issue and nothing else.
    """
    now = 0
    clear = [0] * SCOREBOARDS
    half = 0
    for turn in range(TURNS):
        if turn == TURNS // 2:
            half = now
        for one in way:
            for i in range(SCOREBOARDS):
                if one.waits >> i & 1:
                    now = max(now, clear[i])
            if stores or one.accesses != "global" or one.is_load:
                if one.write_barrier < SCOREBOARDS:
                    clear[one.write_barrier] = max(clear[one.write_barrier], now + latency(one, memory))
                if one.read_barrier < SCOREBOARDS:
                    clear[one.read_barrier] = max(clear[one.read_barrier], now + OPERANDS)
            now += max(1, one.stall)
    return (now - half) / (TURNS - TURNS // 2)


def latency(one, memory):
    if one.accesses == "global":
        return memory
    if one.accesses == "local":
        return MEMORY["L1"]
    return LATENCY.get(one.name, OTHER)
