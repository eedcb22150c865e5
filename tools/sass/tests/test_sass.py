"""Tests of the tool: on text that is kept (sample.sass), on loops made by hand, and with faults planted in both."""

import re
import tomllib
import unittest
from pathlib import Path

import build
import disassembly
import kernels
import loops
import replay
import sass

HERE = Path(__file__).resolve().parent
SAMPLE = (HERE / "sample.sass").read_text()
LOG = (HERE / "sample.log").read_text()
VERSION = "13.0.88"


def figures(text=SAMPLE, log=LOG):
    functions = {one.name: one for one in disassembly.parse(text) if one.name == one.kernel}
    found = sass.measure(build.Code(functions, build.resources(log), VERSION))
    return {one.name: one for one in found[0] + found[1]}


def instruction(opcode, operands="", stall=1, result=disassembly.NONE, read=disassembly.NONE, waits=()):
    bits = sum(1 << board for board in waits)
    return disassembly.Instruction(0, "", opcode, operands, stall, result, read, bits)


def assembled(*lines):
    """A function in the format of nvdisasm, from instructions and labels."""
    text = ['\t.section\t.text.kernel,"ax",@progbits', "kernel:", ".text.kernel:"]
    address = 0
    control = (1 | disassembly.NONE << 5 | disassembly.NONE << 8) << 41
    for line in lines:
        if line.endswith(":"):
            text.append(line)
        else:
            text.append(f"  /*{address:04x}*/  {line} ;  /* 0x{0:016x} */")
            text.append(f"  /* 0x{control:016x} */")
            address += 16
    return disassembly.parse("\n".join(text))[0]


class Text(unittest.TestCase):
    def test_an_instruction_has_its_control_word(self):
        sweep = next(one for one in disassembly.parse(SAMPLE) if one.name == "ctc_lattice_f32_1")
        shuffle = next(one for one in sweep.instructions if one.address == 0x2A0)
        # Its second half is 0x000e6200000e00ff, and from bit 41 on 0x731: 0b111_001_1_0001.
        self.assertEqual((shuffle.opcode, shuffle.operands), ("SHFL.UP", "PT, R5, R6, 0x1, RZ"))
        self.assertEqual((shuffle.stall, shuffle.write_barrier, shuffle.read_barrier), (1, 1, 7))

    def test_what_is_no_disassembly_is_refused(self):
        for text, says in (
            ("", "no function"),
            ("hello", "no function"),
            (re.sub(r"/\* 0x[0-9a-f]{16} \*/", "", SAMPLE), "no instruction with its encoding"),
            (SAMPLE.replace("  /* 0x", "  /* broken", 2), "line "),
        ):
            with self.assertRaisesRegex(disassembly.BadText, says):
                disassembly.parse(text)


class Loops(unittest.TestCase):
    def test_longest_and_shortest_way(self):
        function = assembled(
            ".top:", "FADD R0", "@P0 BRA `(.skip)", "FMUL R0", "FMUL R1", ".skip:", "@P1 BRA `(.top)", "EXIT",
        )  # fmt: skip
        (loop,) = loops.loops(function)
        self.assertEqual((len(loop.way), len(loop.shortest), loop.inner_branches()), (5, 3, 1))

    def test_a_loop_inside_is_gone_through_once(self):
        function = assembled(
            ".outer:", "FADD R0", ".inner:", "FMUL R0", "@P0 BRA `(.inner)", "@P1 BRA `(.outer)", "EXIT"
        )
        outer, inner = loops.loops(function)
        self.assertEqual((outer.inside, len(outer.way)), (1, 4))
        self.assertEqual((inner.inside, len(inner.way)), (0, 2))

    def test_a_way_with_what_is_preferred_goes_before_a_longer_one(self):
        function = assembled(
            ".top:", "@P0 BRA `(.other)", "FADD R0", "FADD R1", "FADD R2", "BRA `(.end)", ".other:", "MUFU.EX2 R0",
            ".end:", "@P1 BRA `(.top)", "EXIT",
        )  # fmt: skip
        self.assertEqual(len(loops.loops(function)[0].way), 6)
        (loop,) = loops.loops(function, kernels.is_power_of_two)
        self.assertEqual([one.name for one in loop.way], ["BRA", "MUFU", "BRA"])

    def test_code_for_a_warp_that_is_not_together_is_left_out(self):
        function = assembled(
            ".top:", "BRA.DIV UR4, `(.apart)", ".back:", "@P0 BRA `(.top)", "EXIT", ".apart:", "FADD R0", "FADD R0",
            "BRA `(.back)",
        )  # fmt: skip
        (loop,) = loops.loops(function)
        self.assertEqual((len(loop.way), loop.inner_branches()), (2, 0))

    def test_a_branch_into_the_middle_is_no_loop(self):
        function = assembled("@P0 BRA `(.middle)", ".top:", "FADD R0", ".middle:", "FMUL R0", "@P1 BRA `(.top)", "EXIT")
        self.assertEqual(loops.loops(function), [])

    def test_a_branch_to_an_unknown_place_is_refused(self):
        with self.assertRaisesRegex(disassembly.BadText, "kernel branches to where a register says at 0x10"):
            loops.loops(assembled("MOV R0, R1", "BRX R0 -0x20", "EXIT"))

    def test_a_large_loop(self):
        skips = [line for i in range(3000) for line in (f"@P0 BRA `(.skip{i})", "FADD R0", f".skip{i}:")]
        (loop,) = loops.loops(assembled(".top:", *skips, "@P1 BRA `(.top)", "EXIT"))
        self.assertEqual((len(loop.way), len(loop.shortest), loop.inner_branches()), (6001, 3001, 3000))


class Replay(unittest.TestCase):
    def test_stalls_add_up(self):
        way = [instruction("FADD", stall=4), instruction("FMUL", stall=6)]
        self.assertEqual(replay.cycles(way, 270), 10)

    def test_a_use_waits_for_its_load(self):
        way = [instruction("LDG.E", result=0), instruction("FADD", stall=2, waits=[0])]
        self.assertEqual([replay.cycles(way, memory) for memory in (34, 270)], [36, 272])

    def test_loads_with_one_scoreboard_are_waited_for_together(self):
        def way(board):
            return [instruction("LDG.E", result=0), instruction("LDG.E", result=board), instruction("FADD", waits=[0])]

        self.assertEqual([replay.cycles(way(board), 100) for board in (0, 1)], [102, 101])

    def test_a_load_a_turn_ahead_is_covered(self):
        way = [instruction("FADD", waits=[0]), instruction("LDG.E", result=0), instruction("FMUL", stall=14)]
        self.assertEqual([replay.cycles(way, memory) for memory in (10, 100)], [16, 101])

    def test_stores_that_are_off_hold_nothing_up(self):
        way = [instruction("STG.E", read=0), instruction("FADD", waits=[0])]
        self.assertEqual([replay.cycles(way, 270, stores) for stores in (True, False)], [replay.OPERANDS + 1, 2])


class Sample(unittest.TestCase):
    def test_counts(self):
        found = figures()
        # Counted by hand in sample.sass: addresses of the first and the last instruction, units a turn, widths.
        for name, first, last, units, loads, stores in (
            ("ctc_lattice_f32_1: sweep", 0x260, 0x480, 2, {32}, {64}),
            ("ctc_lattice_f32_1: posterior pass", 0x640, 0x780, 1, {32, 64}, {64}),
            ("ctc_lattice_f32_1: sweep, no gradient", 0x260, 0x480, 2, {32}, {64}),
            ("ctc_gradient_f32: whole vectors", 0x370, 0x4B0, 4, {128}, {128}),
            ("ctc_gradient_f32: any stride", 0x120, 0x290, 4, {32}, {128}),
        ):
            with self.subTest(name):
                one = found.pop(name)
                way = one.hot.loop.way
                self.assertEqual((way[0].address, way[-1].address, one.hot.units), (first, last, units))
                self.assertEqual(one.values["instructions"], ((last - first) // 16 + 1) / units)
                self.assertEqual(kernels.widths(one.hot.loop, kernels.is_load), loads)
                self.assertEqual(kernels.widths(one.hot.loop, kernels.is_store), stores)
                self.assertEqual((one.values["spilled"], one.values["branches"]), (0, 0))
        self.assertEqual(
            {name: one.values["registers"] for name, one in found.items()},
            {"ctc_lattice_f32_1": 26, "ctc_gradient_f32": 22},
        )

    def test_cycles_grow_with_the_latency_of_memory(self):
        for one in figures().values():
            if one.hot:
                levels = list(one.cycles.values())
                self.assertEqual(levels, sorted(levels))
                self.assertGreater(levels[-1], levels[0])

    def test_a_loop_that_is_missing_is_an_error_that_says_what_was_looked_for(self):
        for old, new, says in (
            ("SHFL.UP", "SHFL.BFLY", "ctc_lattice_f32_1.*two loops.* none"),
            ("LDG.E.128", "LDG.E.64", "ctc_gradient_f32.*loads from global memory are all of 128 bits.* none"),
            ("STG.E.64 desc[UR4][R2.64], R14", "MOV R14, R2", "ctc_lattice_f32_1.*two loops"),
        ):
            with self.assertRaisesRegex(kernels.NoLoop, re.compile(says, re.DOTALL)):
                figures(SAMPLE.replace(old, new))


class Budgets(unittest.TestCase):
    def setUp(self):
        self.budgets = tomllib.loads(sass.as_toml(figures().values(), VERSION))

    def faults(self, text=SAMPLE, log=LOG):
        return sass.compare(figures(text, log).values(), self.budgets)

    def test_what_they_were_made_of_keeps_them(self):
        self.assertEqual(self.faults(), [])

    def test_planted_faults_are_noticed(self):
        move, store, add = "IMAD.MOV.U32 R21, RZ, RZ, R14", "STG.E.64 desc[UR4][R2.64], R14", "/*0400*/  FADD"
        lines = SAMPLE.splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if move in line)
        spilling = SAMPLE.replace(move, "STL [R1], R14")
        narrow = SAMPLE.replace(store, store.replace(".64", "", 1))
        longer = "".join(lines[:at] + 3 * lines[at : at + 2] + lines[at + 2 :])
        branch = SAMPLE.replace(move, "@P1 BRA `(.L_x_12)").replace(f"  {add}", f".L_x_12:\n  {add}")
        registers = LOG.replace("Used 26 registers", "Used 33 registers")
        spills = LOG.replace("0 bytes spill stores", "8 bytes spill stores", 1)
        for text, log, says in (
            (spilling, LOG, "ctc_lattice_f32_1: sweep: spilled is 4, and its budget is at most 0"),
            (narrow, LOG, "ctc_lattice_f32_1: posterior pass: store_bits is 32, and its budget is at least 64"),
            (longer, LOG, "ctc_lattice_f32_1: sweep: instructions is 18.5, and its budget is at most 18.1"),
            (branch, LOG, "ctc_lattice_f32_1: sweep: branches is 1, and its budget is at most 0"),
            (SAMPLE, registers, "ctc_lattice_f32_1: registers is 33, and its budget is at most 32"),
            (SAMPLE, spills, "ctc_gradient_f32: spilled is 8, and its budget is at most 0"),
        ):
            with self.subTest(says):
                faults = self.faults(text, log)
                self.assertTrue(any(says in one for one in faults), faults)

    def test_longer_waits_are_noticed(self):
        lines = SAMPLE.splitlines(keepends=True)
        first = next(i for i, line in enumerate(lines) if "IMAD.MOV.U32 R21, RZ, RZ, R14" in line)
        for at in range(first + 1, first + 11, 2):
            control = int(re.search("0x([0-9a-f]{16})", lines[at])[1], 16) | 15 << 41
            lines[at] = f"  /* 0x{control:016x} */\n"
        faults = self.faults("".join(lines))
        self.assertEqual(
            [one.split(" is ")[0] for one in faults],
            ["ctc_lattice_f32_1: sweep: cycles", "ctc_lattice_f32_1: sweep, no gradient: cycles"],
        )

    def test_what_to_do_is_said(self):
        faults = self.faults(SAMPLE.replace("IMAD.MOV.U32 R21, RZ, RZ, R14", "STL [R1], R14"))
        said = sass.remedy(faults, self.budgets, VERSION)
        self.assertIn('--show "ctc_lattice_f32_1: sweep"', said)
        self.assertIn("--set-budgets", said)
        self.assertNotIn("nvcc", said)
        said = sass.remedy(["ctc_gradient_f32: registers is 33, and its budget is at most 24"], self.budgets, "13.1.1")
        self.assertIn("The budgets are for nvcc 13.0.88, and this is 13.1.1", said)
        self.assertNotIn("--show", said)

    def test_what_is_missing_on_either_side_is_noticed(self):
        self.budgets["ctc_other: loop"] = {"cycles": 1}
        del self.budgets["ctc_lattice_f32_1: sweep"]
        del self.budgets["ctc_gradient_f32"]["stack"]
        self.budgets["ctc_gradient_f32"]["heat"] = 1
        faults = "\n".join(self.faults())
        for says in (
            "ctc_other: loop: there is a budget, and nothing of that name is measured",
            "ctc_lattice_f32_1: sweep: there is no budget",
            "ctc_gradient_f32: stack is 0, and there is no budget for it",
            "ctc_gradient_f32: there is a budget for heat, which is not measured",
        ):
            self.assertIn(says, faults)

    def test_room(self):
        self.assertEqual(sass.allowed("instructions", 11.06), 11.4)
        self.assertEqual(sass.allowed("instructions", 134.25), 139)
        self.assertEqual(sass.allowed("cycles", 64.9), 69)
        self.assertEqual((sass.allowed("registers", 222), sass.allowed("spilled", 480)), (224, 480))


class Document(unittest.TestCase):
    def test_the_text_goes_between_the_marks(self):
        text = sass.written(f"a\n{sass.BEGIN}\nold\n{sass.END}\nb\n", "new")
        self.assertEqual(text, f"a\n{sass.BEGIN}\n\nnew\n\n{sass.END}\nb\n")
        self.assertEqual(sass.written(text, "new"), text)
        for broken in ("", sass.BEGIN, f"{sass.END}{sass.BEGIN}", f"{sass.BEGIN}{sass.BEGIN}{sass.END}"):
            with self.assertRaisesRegex(build.Failed, "must have the line"):
                sass.written(broken, "new")

    def test_measured_frames_stand_beside_the_replay(self):
        measured = "| 16 | train | 47.0 | 93 |\n| 16 | score | 20.5 | 41 |\n"
        found = [one for one in figures().values() if one.hot]
        cycles = {one.hot.name: one.cycles["L2"] for one in found}
        lines = sass.table_of_frames(found, measured)
        half = (cycles["sweep"] + cycles["posterior pass"]) / 2
        self.assertEqual(lines[2], f"| 16 | 1 | train | {sass.number(half)} | 93 | {93 / half:.2f} |")
        self.assertIn("| 16 | 1 | score |", lines[3])
        with self.assertRaisesRegex(build.Failed, "no rows"):
            sass.table_of_frames(found, "nothing")

    def test_tiles_are_those_of_the_launch(self):
        # From the tests of src/gpu/launch.rs, and from docs/gpu.md: three tiles at 120.
        self.assertEqual([sass.tiling(labels) for labels in (16, 31, 48, 63, 64, 120)],
                         [(1, 1), (1, 1), (2, 1), (2, 1), (2, 2), (2, 3)])  # fmt: skip

    def test_a_loop_can_be_listed(self):
        found = list(figures().values())
        lines = sass.listing(found, "ctc_gradient_f32: whole vectors").splitlines()
        self.assertEqual(len(lines), 1 + 21)
        self.assertIn("LDG.E.128 R4, desc[UR4][R2.64]", lines[3])
        with self.assertRaisesRegex(build.Failed, "ctc_lattice_f32_1: posterior pass"):
            sass.listing(found, "nothing")


class Build(unittest.TestCase):
    def test_kernels_are_compiled_as_build_rs_does(self):
        script = (build.ROOT / "build.rs").read_text()
        for flag in build.FLAGS:
            self.assertIn(f'"{flag}"', script)
        images = re.search(r"const IMAGES: .*?= \[(.*?)\]", script, re.DOTALL)[1]
        self.assertEqual(set(re.findall(r'"(\w+)"', images)) - {"common"}, set(kernels.IMAGES))

    def test_resources(self):
        log = LOG.replace("Used 26 registers", "Used 26 registers, 56 bytes cumulative stack size")
        log += "    56 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        found = build.resources(log)
        self.assertEqual(found["ctc_lattice_f32_1"], build.Resources(26, 56, 20))
        self.assertEqual(found["ctc_gradient_f32"], build.Resources(22, 0, 0))

    def test_a_tool_that_cannot_run_or_fails_is_named(self):
        with self.assertRaisesRegex(build.Failed, "no-such-compiler cannot be run"):
            build.run(["no-such-compiler"])
        with self.assertRaisesRegex(build.Failed, "false failed"):
            build.run(["false"])


if __name__ == "__main__":
    unittest.main()
