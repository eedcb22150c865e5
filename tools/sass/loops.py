"""The loops of a function, by its graph of branches."""

from dataclasses import dataclass

from disassembly import BadText


@dataclass
class Block:
    instructions: list
    # Indices of the blocks that may follow.
    next: list


@dataclass
class Loop:
    function: object
    # How many loops it holds.
    inside: int
    # All its instructions, in the order of the code.
    instructions: list
    # Those of the longest and the shortest way round, in the order in which they run.
    way: list
    shortest: list

    def count(self, wanted):
        """How many instructions of the longest way round are `wanted`."""
        return sum(map(wanted, self.way))

    def inner_branches(self):
        """Branches of the longest way round that neither leave the loop nor go back to its head."""
        code, labels = self.function.instructions, self.function.labels
        here = {one.address for one in self.instructions}
        head = self.way[0].address

        def inner(one):
            at = labels.get(one.target)
            if one.name != "BRA" or is_rare(one) or at is None or at == len(code):
                return False
            return code[at].address in here and code[at].address != head

        return self.count(inner)

    def __str__(self):
        first, last = self.instructions[0].address, self.instructions[-1].address
        return f"0x{first:x} to 0x{last:x} of {self.function.name}"


def is_rare(branch):
    """BRA.DIV goes to code for a warp whose threads are not together."""
    return branch.opcode.startswith("BRA.DIV")


LEAVES = ("EXIT", "RET", "KILL", "BPT")
# To where a register says.
INDIRECT = ("BRX", "BRXU", "JMP", "JMX", "JMXU")


def blocks(function):
    """The basic blocks of a function, in its order. A call comes back, and BRA.DIV is never taken."""
    code = function.instructions
    starts = {0} | {at for at in function.labels.values() if at < len(code)}
    for i, one in enumerate(code):
        if one.name in INDIRECT:
            raise BadText(
                f"{function.name} branches to where a register says at 0x{one.address:x}: its loops are unknown"
            )
        if one.name in ("BRA", *LEAVES) and i + 1 < len(code):
            starts.add(i + 1)
    order = sorted(starts)
    index = {start: i for i, start in enumerate(order)}
    found = []
    for i, start in enumerate(order):
        end = order[i + 1] if i + 1 < len(order) else len(code)
        last = code[end - 1]
        following = [i + 1] if end < len(code) else []
        if last.name in LEAVES and last.always:
            following = []
        elif last.name == "BRA" and not is_rare(last):
            # A label of another function leaves this one.
            at = function.labels.get(last.target)
            target = [index[at]] if at in index else []
            following = target if last.always else target + following
        found.append(Block(code[start:end], following))
    return found


def reached(graph):
    seen = [False] * len(graph)
    stack = [0]
    while stack:
        at = stack.pop()
        if not seen[at]:
            seen[at] = True
            stack.extend(graph[at].next)
    return seen


def dominators(graph):
    """For each block, a set (bits) of the blocks that every way to it goes through; 0 where none leads to it."""
    seen = reached(graph)
    before = [[] for _ in graph]
    for i, block in enumerate(graph):
        for j in block.next if seen[i] else []:
            before[j].append(i)
    everything = (1 << len(graph)) - 1
    result = [everything if one else 0 for one in seen]
    result[0] = 1
    changed = True
    while changed:
        changed = False
        for i in range(1, len(graph)):
            if not seen[i]:
                continue
            common = everything
            for j in before[i]:
                common &= result[j]
            common |= 1 << i
            if common != result[i]:
                result[i] = common
                changed = True
    return result, before


def loops(function, preferred=lambda one: False):
    """The loops of a function, in the order of the code. Ways round go through as many `preferred` instructions as
    they can.

    A loop is the blocks from which a branch back to its first block can be reached, where each way into the loop leads
    through that block.
    """
    if not function.instructions:
        return []
    graph = blocks(function)
    dominated_by, before = dominators(graph)
    bodies = {}
    for i, block in enumerate(graph):
        for head in block.next:
            if dominated_by[i] >> head & 1:
                body = bodies.setdefault(head, {head})
                stack = [i]
                while stack:
                    at = stack.pop()
                    if at not in body:
                        body.add(at)
                        stack.extend(before[at])
    forward = [[j for j in block.next if not dominated_by[i] >> j & 1] for i, block in enumerate(graph)]
    found = []
    for head, body in sorted(bodies.items()):
        inside = sum(other != head and other in body for other in bodies)
        ways = [way_round(graph, forward, head, body, preferred, sign) for sign in (1, -1)]
        if None not in ways:
            everything = [one for i in sorted(body) for one in graph[i].instructions]
            found.append(Loop(function, inside, everything, *ways))
    return found


def way_round(graph, forward, head, body, preferred, sign):
    """The instructions of the way round with the most of them, or with a `sign` of -1 the fewest, with loops inside
    gone through once; None where a loop inside is entered in two places.
    """
    order = backwards(forward, head, body)
    if order is None:
        return None
    # From the end: the best way to a branch back.
    best = {}
    for at in order:
        ways = [best[j] for j in forward[at] if j in best]
        if head in graph[at].next:
            ways.append(((0, 0), []))
        if ways:
            (good, length), way = max(ways, key=lambda one: one[0])
            code = graph[at].instructions
            best[at] = ((good + sum(map(preferred, code)), length + sign * len(code)), [at] + way)
    return [one for i in best[head][1] for one in graph[i].instructions]


def backwards(forward, head, body):
    """The blocks that can be reached from the head of a loop, each behind all that may follow it; None where the
    branches forward have a circle.
    """
    order, done, open_ = [], set(), {head}
    stack = [(head, iter(forward[head]))]
    while stack:
        at, rest = stack[-1]
        following = next((j for j in rest if j in body and j not in done), None)
        if following is None:
            stack.pop()
            open_.remove(at)
            done.add(at)
            order.append(at)
        elif following in open_:
            return None
        else:
            open_.add(following)
            stack.append((following, iter(forward[following])))
    return order
