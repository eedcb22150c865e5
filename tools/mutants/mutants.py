"""Mutation testing in one build: every mutant is compiled into the crate at once, behind a switch.

    python tools/mutants/mutants.py WORK FILE.rs...      paths below src/, or folders

Instruments a copy of the crate in the folder WORK, builds its tests once, and finds out which test reaches which
mutant. Each mutant is then switched on in turn, and the tests that reach it are run until one fails: first those that
are fast and noticed many other mutants of its file. WORK/mutants.tsv has a line for each mutant: killed, survived,
unreached or explained, its key, and its line. Mutants whose keys stand in tests/faults/mutants.txt are explained there,
and not tried. Exits with 1 if another one survives or is unreached. Another run in WORK that builds the same programs
tries only what was not killed: it goes on after one that was cut off. Remove WORK to try all again.

Needs `pip install tree-sitter tree-sitter-rust`. SAMPLE=K/N takes each Nth mutant from number K on, ONLY=FILE those of lines
of an earlier mutants.tsv; BUDGET is the number of seconds that the tests of one mutant may take, 60 unless told; JOBS is
the number of programs at a time.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import tree_sitter
import tree_sitter_rust

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPLAINED = ROOT / "tests/faults/mutants.txt"
# The first reads the sources; the second takes long, and is about the program alone.
LEFT_OUT = re.compile(r"^(boundaries|cli)::")

# Operators, and what may stand in their place.
OPERATORS = {
    "+": ["-"],
    "-": ["+"],
    "*": ["/"],
    "/": ["*"],
    "%": ["/"],
    "==": ["!="],
    "!=": ["=="],
    "<": ["<=", ">"],
    "<=": ["<", ">"],
    ">": [">=", "<"],
    ">=": [">", "<"],
    "&&": ["||"],
    "||": ["&&"],
    "&": ["|"],
    "|": ["&"],
    "<<": [">>"],
    ">>": ["<<"],
    "+=": ["-="],
    "-=": ["+="],
    "*=": ["/="],
    "/=": ["*="],
    "|=": ["&="],
    "&=": ["|="],
}

# What a function returns at once, by its type.
VALUES = {
    "bool": ["true", "false"],
    "f64": ["0.0", "1.0"],
    "f32": ["0.0", "1.0"],
    "String": ["String::new()"],
    "()": ["()"],
    **{name: ["0", "1"] for name in ["usize", "u8", "u16", "u32", "u64", "u128", "i32", "i64"]},
}

SWITCH = """
//! Which mutant is on; written by tools/mutants.
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
const UNKNOWN: u32 = u32::MAX;
const TRACED: u32 = u32::MAX - 1;
static CURRENT: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: OnceLock<usize> = OnceLock::new();
#[inline]
pub(crate) fn on(mutant: u32) -> bool {
    let current = CURRENT.load(Relaxed);
    current == mutant || current >= TRACED && find(mutant)
}
#[cold]
#[inline(never)]
fn find(mutant: u32) -> bool {
    if CURRENT.load(Relaxed) == UNKNOWN {
        if let Ok(path) = std::env::var("MUTANT_TRACE") {
            REACHED.get_or_init(|| {
                let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
                let map = unsafe { memmap2::MmapMut::map_mut(&file).unwrap() };
                Box::leak(Box::new(map)).as_mut_ptr() as usize
            });
            CURRENT.store(TRACED, Relaxed);
        } else {
            let own = std::env::var("MUTANT").ok().and_then(|text| text.parse().ok());
            CURRENT.store(own.unwrap_or(0), Relaxed);
            return on(mutant);
        }
    }
    let first = *REACHED.get().unwrap();
    unsafe { (*((first + mutant as usize) as *const AtomicU8)).store(1, Relaxed) };
    false
}
"""


class Mutant:
    def __init__(self, key, place):
        self.key, self.place = key, place
        self.number = None


def values_of(text):
    """What a function with this return type may return in place of its result."""
    text = re.sub(r"\s+", " ", text.strip())
    if text in VALUES:
        return VALUES[text]
    inner = re.fullmatch(r"(?:candle_core::|Candle)?Result<(.*)>", text)
    if inner and "," not in re.sub(r"<[^<>]*>|\([^()]*\)", "", inner[1]):
        return [f"Ok({value})" for value in values_of(inner[1])]
    if text.startswith("Option<"):
        return ["None"]
    if text.startswith("Vec<"):
        return ["Vec::new()"]
    return []


class File:
    """A source file and its mutants."""

    def __init__(self, path, dropped, wanted=lambda key: True):
        self.path, self.dropped, self.wanted = path, dropped, wanted
        self.source = (ROOT / path).read_bytes()
        self.mutants = []
        self.seen = collections.Counter()
        self.function = ""

    def text(self, node):
        return self.source[node.start_byte : node.end_byte].decode()

    def add(self, node, change):
        """A new mutant, or None if it is not wanted or known not to compile."""
        line = " ".join(self.text(node).split())
        key = f"{self.path}: {self.function}: {change} in `{line[:70]}`"
        self.seen[key] += 1
        if self.seen[key] > 1:
            key += f" #{self.seen[key]}"
        if not self.wanted(key) or key in self.dropped:
            return None
        mutant = Mutant(key, f"{self.path}:{node.start_point[0] + 1}")
        self.mutants.append(mutant)
        return mutant

    def instrument(self, parser):
        tree = parser.parse(self.source)
        return self.visit(tree.root_node)

    def skips(self, node):
        if node.type in (
            "macro_invocation", "macro_definition", "attribute_item", "inner_attribute_item", "const_item",
            "static_item", "use_declaration", "line_comment", "block_comment", "array_type", "type_arguments",
            "string_literal", "const_block",
        ):  # fmt: skip
            return True
        if node.type == "mod_item":
            before = node.prev_named_sibling
            while before is not None and before.type in ("attribute_item", "line_comment"):
                if "cfg(test)" in self.text(before) or "cfg(all(test" in self.text(before):
                    return True
                before = before.prev_named_sibling
        if node.type == "function_item":
            head = self.source[node.start_byte : node.child_by_field_name("body").start_byte].decode()
            return " const fn " in f" {head}"
        return False

    def visit(self, node):
        """The text of a node with its mutants in it."""
        if self.skips(node):
            return self.text(node)
        outer = self.function
        if node.type == "function_item":
            self.function = self.text(node.child_by_field_name("name"))
        out, at = [], node.start_byte
        for child in node.children:
            out.append(self.source[at : child.start_byte].decode())
            out.append(self.visit(child))
            at = child.end_byte
        out.append(self.source[at : node.end_byte].decode())
        whole = "".join(out)
        whole = self.mutate(node, whole)
        self.function = outer
        return whole

    def mutate(self, node, whole):
        kind = node.type
        if kind == "block" and node.parent.type == "function_item":
            type_ = node.parent.child_by_field_name("return_type")
            values = values_of(self.text(type_)) if type_ else ["()"]
            switches = ""
            if node.named_child_count:
                for value in values:
                    mutant = self.add(node.parent, f"returns {value}")
                    if mutant:
                        switches += f" if crate::mutants::on({{{id(mutant)}}}) {{ return {value}; }}"
            return "{" + switches + whole[1:] if switches else whole
        if kind in ("binary_expression", "compound_assignment_expr"):
            operator = node.child_by_field_name("operator")
            name = self.text(operator)
            before = self.source[node.start_byte : operator.start_byte].decode()
            after = self.source[operator.end_byte : node.end_byte].decode()
            for other in OPERATORS.get(name, []):
                mutant = self.add(node, f"{name} to {other}")
                if mutant:
                    whole = self.choose(mutant, f"({before}) {other} ({after})", whole)
        elif kind == "unary_expression":
            sign = self.text(node.children[0])
            if sign in "!-" and node.children[1].type not in ("integer_literal", "float_literal"):
                mutant = self.add(node, f"without {sign}")
                if mutant:
                    whole = self.choose(mutant, self.text(node.children[1]), whole)
        elif kind == "expression_statement":
            what = node.children[0].type
            if what in ("call_expression", "try_expression") and whole.endswith(";"):
                mutant = self.add(node, "left out")
                if mutant:
                    whole = f"if !crate::mutants::on({{{id(mutant)}}}) {{ {whole} }}"
        return whole

    def choose(self, mutant, changed, whole):
        # In parentheses, so that it may stand in any expression, and begin with any.
        return f"(if crate::mutants::on({{{id(mutant)}}}) {{ ({changed}) }} else {{ ({whole}) }})"


def copy(work):
    """The crate's files, as git knows them, and what is changed in the working tree."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\n"):
        if name and (ROOT / name).is_file():
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
                shutil.copyfile(ROOT / name, target)
                shutil.copymode(ROOT / name, target)
    # A source that has moved since an earlier run.
    for path in (work / "src").rglob("*.rs"):
        if not (ROOT / path.relative_to(work)).exists():
            path.unlink()


def write(work, paths, dropped):
    """Writes the instrumented files; the mutants with their numbers."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
    mutants = []
    number, of = map(int, os.environ.get("SAMPLE", "0/1").split("/"))
    count = itertools.count()
    if "ONLY" in os.environ:
        lines = pathlib.Path(os.environ["ONLY"]).read_text().splitlines()
        only = {line.split("\t")[1] for line in lines}
        wanted = only.__contains__
    else:
        wanted = lambda key: next(count) % of == number
    for path in paths:
        file = File(path, dropped, wanted)
        text = file.instrument(parser)
        for mutant in file.mutants:
            mutants.append(mutant)
            mutant.number = len(mutants)
            text = text.replace("{%d}" % id(mutant), str(mutant.number))
        target = work / path
        if target.read_text() != text:
            target.write_text(text)
    lib = work / "src/lib.rs"
    if "mod mutants;" not in lib.read_text():
        lib.write_text(lib.read_text() + "\nmod mutants;\n")
    (work / "src/mutants.rs").write_text(SWITCH)
    return mutants


# The quickest build of the tests.
CONFIG = ["--config", str(ROOT / ".ci/simulated.toml")]
CARGO = ["--locked", "--features", "cli", "--message-format=json"]
ENV = {**os.environ, "CARGO_INCREMENTAL": "0"}


def errors(work):
    """The places in the instrumented files that do not compile: a file, a byte in it and the message."""
    run = subprocess.run(["cargo", *CONFIG, "check", "--lib", *CARGO], cwd=work, env=ENV, capture_output=True, text=True)
    found = []
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            for span in message["message"]["spans"]:
                if span["is_primary"]:
                    found.append((span["file_name"], span["byte_start"], message["message"]["message"]))
    if run.returncode and not found:
        sys.exit(run.stderr)
    return found


def guilty(work, mutants, found):
    """The mutants in whose switches the errors stand."""
    by_number = {mutant.number: mutant for mutant in mutants}
    bad = set()
    for name, at, message in found:
        text = (work / name).read_bytes()
        # The innermost switch before the error that is still open there.
        best = None
        for switch in re.finditer(rb"crate::mutants::on\((\d+)\)\) \{|crate::mutants::on\((\d+)\) \{", text[: at + 1]):
            depth, end = 0, switch.end() - 1
            while end < len(text):
                depth += {b"{": 1, b"}": -1}.get(text[end : end + 1], 0)
                end += 1
                if depth == 0:
                    break
            if end > at:
                best = int(switch[1] or switch[2])
        if best is None:
            # Both values of a choice have another type: take the nearest one.
            numbers = re.findall(rb"crate::mutants::on\((\d+)\)", text[: at + 40])
            best = int(numbers[-1]) if numbers else None
        if best not in by_number:
            sys.exit(f"{name}: {message}: no mutant is to blame")
        bad.add(by_number[best].key)
    return bad


def programs(work):
    run = subprocess.run(
        ["cargo", *CONFIG, "test", "--no-run", "--lib", "--test", "it", "--test", "golden_bits", *CARGO],
        cwd=work, env=ENV, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        sys.exit(run.stderr)
    found = []
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            # A copy: another build may put its own in that place.
            found.append(shutil.copy(message["executable"], work))
    return found


def tests_of(program, work):
    out = subprocess.run([program, "--list", "--format=terse"], cwd=work, capture_output=True, text=True).stdout
    names = [line.removesuffix(": test") for line in out.splitlines() if line.endswith(": test")]
    return [(program, name) for name in names if not LEFT_OUT.match(name)]


def limit():
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def run_tests(work, tests, seconds, **env):
    """The first of these tests of one program that fails or does not end; None if all pass."""
    program = tests[0][0]
    try:
        done = subprocess.run(
            [program, "--exact", "--test-threads=1", *(name for _, name in tests)],
            cwd=work, env={**ENV, "CARGO_MANIFEST_DIR": str(work), **env}, timeout=seconds, preexec_fn=limit,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode == 0:
            return None
        out = done.stdout
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
    # A test that ended the program or hangs has no result behind its name.
    bad = re.search(rb"^test (\S+) \.\.\. (?!ok|ignored)", out, re.MULTILINE)
    return (program, bad[1].decode()) if bad else tests[0]


def trace(work, test, count, number):
    """The time of a test, and the mutants that it reaches; None if it fails on the crate as it is."""
    path = work / f"trace-{number}"
    path.write_bytes(bytes(count + 1))
    start = time.time()
    passed = run_tests(work, [test], 600, MUTANT_TRACE=str(path)) is None
    took = time.time() - start
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as reached:
        found = [mutant for mutant in range(1, count + 1) if reached[mutant]]
    path.unlink()
    return (took, found) if passed else None


def trace_all(work, built, count, pool):
    """For each test that passes: its program, its name, its time, and the numbers of the mutants that it reaches."""
    tests = [test for program in built for test in tests_of(program, work)]
    traced = pool.map(lambda x: trace(work, x[1], count, x[0]), enumerate(tests))
    found = []
    for (program, name), result in zip(tests, traced):
        if result is None:
            print(f"left out, since it fails here: {name}", flush=True)
        else:
            found.append([program, name, *result])
    return found


class State:
    """What earlier runs of the same programs found: the mutants that each test reaches, and those that are killed."""

    def __init__(self, work, built):
        self.path = work / "traced.json"
        # Sorted, since cargo names them in the order in which they are ready.
        self.programs = sorted(hashlib.sha256(pathlib.Path(program).read_bytes()).hexdigest() for program in built)
        self.traced, self.killed = None, set()
        if not self.path.exists():
            return
        known = json.loads(self.path.read_text())
        if known["programs"] != self.programs:
            return
        self.traced = known["traced"]
        verdicts = work / "mutants.tsv"
        lines = verdicts.read_text().splitlines() if verdicts.exists() else []
        self.killed = {line.split("\t")[1] for line in lines if line.startswith("killed\t")}

    def write(self, traced):
        self.path.write_text(json.dumps({"programs": self.programs, "traced": traced}))


def judge(work, mutant, tests, times, budget, killers):
    """Whether a mutant is killed, survives, or is reached by no test."""
    if not tests:
        return "unreached"
    # First the tests that take least time for what they have killed in this file. Those beside the code begin with a lead.
    killers = killers[mutant.place.split(":")[0]]
    lead = lambda test: 20 if pathlib.Path(test[0]).name.startswith("candle_ctc-") else 0
    tests = sorted(tests, key=lambda test: times[test] / (1 + lead(test) + killers[test]))
    spent = 0.0
    at, size = 0, 1
    while at < len(tests) and spent < budget:
        # A run is of one program.
        some = list(itertools.takewhile(lambda test: test[0] == tests[at][0], tests[at : at + size]))
        at += len(some)
        size = min(2 * size, 16)
        expected = sum(times[test] for test in some)
        spent += expected
        failed = run_tests(work, some, 10 + 5 * expected, MUTANT=str(mutant.number))
        if failed:
            killers[failed] += 1
            return "killed"
    return "survived"


def main():
    work = pathlib.Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    copy(work)
    paths = []
    for name in sys.argv[2:]:
        path = ROOT / name
        paths += sorted(path.rglob("*.rs")) if path.is_dir() else [path]
    paths = [str(path.relative_to(ROOT)) for path in paths]
    dropped = set()
    while True:
        mutants = write(work, paths, dropped)
        found = errors(work)
        if not found:
            break
        bad = guilty(work, mutants, found)
        dropped |= bad
        print(f"{len(mutants)} mutants, {len(bad)} do not compile", flush=True)
    jobs = int(os.environ.get("JOBS", os.cpu_count()))
    print(f"{len(mutants)} mutants in {len(paths)} files; building the tests", flush=True)
    built = programs(work)
    state = State(work, built)
    explained = set()
    if EXPLAINED.exists():
        explained = {line.split(" -- ")[0].strip() for line in EXPLAINED.read_text().splitlines()}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        traced = state.traced or trace_all(work, built, len(mutants), pool)
        state.write(traced)
        reached_by = collections.defaultdict(list)
        times = {}
        for program, name, took, reached in traced:
            times[program, name] = took
            for number in reached:
                reached_by[number].append((program, name))
        print(f"{len(times)} tests, {sum(times.values()):.0f} s", flush=True)
        budget = float(os.environ.get("BUDGET", 60))
        killers = collections.defaultdict(collections.Counter)
        counts = collections.Counter()
        lock = threading.Lock()
        with open(work / "mutants.tsv", "w") as out:

            def note(mutant, verdict):
                with lock:
                    counts[verdict] += 1
                    print(verdict, mutant.key, mutant.place, sep="\t", file=out, flush=True)

            def try_out(mutant):
                note(mutant, judge(work, mutant, reached_by[mutant.number], times, budget, killers))

            # What is known comes first, so that it is known again if this run is cut off, too.
            left = []
            for mutant in mutants:
                if mutant.key in state.killed:
                    note(mutant, "killed")
                elif mutant.key in explained:
                    note(mutant, "explained")
                else:
                    left.append(mutant)
            # The loop passes on errors.
            for _ in pool.map(try_out, left):
                pass
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    sys.exit(counts["survived"] + counts["unreached"] > 0)


if __name__ == "__main__":
    main()
