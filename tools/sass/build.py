"""Machine code of the kernels: compiled as build.rs does, disassembled, and kept until something changes."""

import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import disassembly

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = "sm_90"
FLAGS = ["-fmad=false", "-O3", "-std=c++17"]
# Compilations at once, and how many versions of the kernels are kept.
JOBS = 2
KEPT = 8


class Failed(Exception):
    """A tool of the toolkit failed."""


@dataclass
class Resources:
    """What ptxas says of a kernel, and of the functions that it calls."""

    registers: int = 0
    stack: int = 0
    # Bytes of the instructions that spill registers, and that bring them back.
    spilled: int = 0


@dataclass
class Code:
    # By kernel.
    functions: dict
    resources: dict
    # Of nvcc, such as 13.0.88.
    version: str


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error}. Start tools/sass/run.sh, which brings it") from error
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def resources(log):
    """By kernel, from what `nvcc -res-usage` prints."""
    found = {}
    kernel = None
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found.setdefault(entry[1], Resources())
        elif kernel and (spills := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            kernel.spilled += int(spills[1]) + int(spills[2])
        elif kernel and (used := re.search(r"Used (\d+) registers", line)):
            kernel.registers = int(used[1])
            if stack := re.search(r"(\d+) bytes cumulative stack", line):
                kernel.stack = int(stack[1])
    return found


def compile_image(nvcc, image, folder):
    """Brings the machine code of an image, and what ptxas said, into the folder."""
    cubin, log = folder / f"{image}.cubin", folder / f"{image}.log"
    if log.exists():
        return
    # Another run may do the same at this moment.
    unfinished = folder / f"{image}.{os.getpid()}.cubin"
    command = [nvcc, "-cubin", f"-arch={ARCHITECTURE}", "-res-usage", *FLAGS, f"-DCTC_IMAGE=CTC_{image.upper()}"]
    said = run([*command, ROOT / "kernels" / "ctc.cu", "-o", unfinished])
    unfinished.replace(cubin)
    unfinished.with_suffix(".log").write_text("".join(said))
    unfinished.with_suffix(".log").replace(log)


def code(images, nvcc, nvdisasm, cache):
    """The kernels of these images."""
    version = re.search(r"V([\d.]+)", run([nvcc, "--version"])[0])[1]
    key = hashlib.sha256("\0".join([version, ARCHITECTURE, *FLAGS]).encode())
    for path in sorted((ROOT / "kernels").iterdir()):
        key.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    folder = cache / key.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(lambda image: compile_image(nvcc, image, folder), images))
        texts = list(pool.map(lambda image: run([nvdisasm, "-hex", "-c", folder / f"{image}.cubin"])[0], images))
    for old in sorted(cache.iterdir(), key=lambda one: one.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    functions = {}
    for text in texts:
        functions.update({one.name: one for one in disassembly.parse(text) if one.name == one.kernel})
    found = {}
    for image in images:
        found.update(resources((folder / f"{image}.log").read_text()))
    missing = functions.keys() - found.keys()
    if missing:
        raise Failed(f"ptxas did not say what {', '.join(sorted(missing))} use; is -res-usage still an option of nvcc?")
    return Code(functions, found, version)
