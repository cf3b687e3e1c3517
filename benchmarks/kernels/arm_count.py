"""Exact counts of the instructions that a kernel for ARM executes, and what its inner loop costs on some processors.

The emulator of single programs (qemu-user) prints each block of code once (`-d in_asm`) and each time it is executed
(`-d exec,nochain`): executions by length, summed, is the number of instructions. A kernel is run twice on the same
arguments, once with all its tasks and once with none: the difference is what it executed, reading its arguments and the
start of the program excluded. Counts are exact and repeat; there is no sampling and no clock.

The steady loop is the block that multiplies with the most instructions executed, together with neighbours that ran as
often (a loop across a page is two blocks). Its text comes from the disassembler of the cross compiler, its cycles from
llvm-mca, which knows pipelines but no caches.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from qcompiler.backends.c.isa import LEVELS, Architecture, Isa
from qcompiler.errors import UnsupportedError
from tests.c_harness import Case, kernel_command

Shape = tuple[int, int, int]
"""Rows, columns and depth of a product; positions, channels and taps of a depthwise one."""

LAYER: Shape = (256, 256, 1152)
SMALL: Shape = (16, 16, 1152)

PROCESSORS = ("cortex-a55", "neoverse-n1", "neoverse-v1")
"""In order; out of order with two vector pipes (the core of cortex-a76, whose own model llvm lacks); with four."""
_OLDEST = 17
"""LLVM before this takes the pipelines of cortex-a57 for all of these."""
_ITERATIONS = 200
_DISASSEMBLERS: Mapping[Architecture, str] = {
    "arm64": "aarch64-linux-gnu-objdump",
    "arm32": "arm-linux-gnueabihf-objdump",
}


@dataclass(frozen=True)
class Entry:
    """One row of the table: a version of a kernel on one kind of work.

    Args:
        kernel: name of the micro-kernel.
        isa: of the version.
        title: what is multiplied, in words.
        product: start of the names of the instructions that multiply.
        macs: multiply-accumulates of one of them.
        bound: MAC per instruction of the best loop with its loads, worked out on paper.
        case: rows, columns, depth -> arguments, number of tasks.
        out: field that the kernel writes to.
        layer: what the table counts.
        small: enough for the loop to be what runs most.
        loop: instructions and MAC of one pass of the inner loop, as the compiler that the table was made with makes it.
    """

    kernel: str
    isa: Isa
    title: str
    product: str
    macs: float
    bound: float
    case: Callable[[int, int, int], tuple[Case, int]]
    out: str = "out"
    layer: Shape = LAYER
    small: Shape = SMALL
    loop: tuple[int, float] = field(kw_only=True)


@dataclass(frozen=True)
class Count:
    """What a kernel executed.

    Args:
        instructions: of the whole call.
        loop: text of the instructions of the steady loop.
        passes: how often it ran.
        loop_macs: multiply-accumulates of one pass.
    """

    instructions: int
    loop: tuple[str, ...]
    passes: int
    loop_macs: float

    @property
    def loop_rate(self) -> float:
        """MAC per instruction of the steady loop."""
        return self.loop_macs / len(self.loop)


def count(entry: Entry, shape: Shape) -> Count:
    """Runs one kernel under the emulator.

    Raises:
        UnsupportedError: when the cross compiler, its disassembler or the emulator is not here.
    """
    disassembler = _DISASSEMBLERS.get(LEVELS[entry.isa].architecture, "")
    if not shutil.which(disassembler):
        raise UnsupportedError("no disassembler for ARM is found", mend="install binutils-aarch64-linux-gnu")
    case, tasks = entry.case(*shape)
    with tempfile.TemporaryDirectory() as folder:
        worked, lengths, program = _run(entry, case, tasks, Path(folder))
        idle, more, _ = _run(entry, case, 0, Path(folder))
        lengths |= more
        worked.subtract(idle)
        for start, end, passes in _loops(worked, lengths):
            loop = _disassembled(disassembler, program, start, end)
            products = sum(line.startswith(entry.product) for line in loop)
            if products:
                total = sum(times * lengths[at] for at, times in worked.items())
                return Count(total, loop, passes, entry.macs * products)
    raise UnsupportedError(f"{entry.kernel} executes no {entry.product}", where=entry.title)


def instructions(command: Sequence[str]) -> int:
    """All that a program executes under the emulator that starts the command."""
    times, lengths = _executions(command)
    return sum(number * lengths[at] for at, number in times.items())


def _run(entry: Entry, case: Case, tasks: int, folder: Path) -> tuple[Counter[int], dict[int, int], str]:
    """Executions and lengths of blocks, and the program that they are of."""
    command = kernel_command(entry.kernel, entry.isa, [case], [(0, tasks)], folder, entry.out)
    return *_executions(command), command[-3]


def _executions(command: Sequence[str]) -> tuple[Counter[int], dict[int, int]]:
    """How often each block ran, and its number of instructions, both by address."""
    times: Counter[int] = Counter()
    lengths: dict[int, int] = {}
    start = -1
    watched = [command[0], "-d", "in_asm,exec,nochain", *command[1:]]
    with subprocess.Popen(watched, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Trace"):
                times[int(line.split("[", 1)[1].split("/", 2)[1], 16)] += 1
            elif line.startswith("IN:"):
                start = -1
            elif line.startswith("0x"):
                start = int(line[: line.index(":")], 16) if start < 0 else start
                lengths[start] = 1 if line.startswith(f"{start:#010x}:") else lengths[start] + 1
    if process.returncode:
        raise UnsupportedError(f"{command[0]} ended with status {process.returncode}")
    return times, lengths


def _loops(times: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """First address, address behind the last and number of passes of all stretches, what executed most first."""
    ran = {at: number for at, number in times.items() if number > 0}
    for most in sorted(ran, key=lambda at: ran[at] * lengths[at], reverse=True):
        alike = {at: at + 4 * lengths[at] for at, number in ran.items() if 0.8 < number / ran[most] < 1.25}
        start, end = most, alike[most]
        while end in alike:
            end = alike[end]
        before = {behind: at for at, behind in alike.items()}
        while start in before:
            start = before[start]
        yield start, end, ran[most]


def _disassembled(disassembler: str, program: str, start: int, end: int) -> tuple[str, ...]:
    command = [disassembler, "-d", "--no-show-raw-insn", f"--start-address={start}", f"--stop-address={end}", program]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^\s+[0-9a-f]+:\s+(\S.*)$", text, re.MULTILINE)
    return tuple(re.sub(r"\s*//.*|\s*@ .*", "", line).replace("\t", " ") for line in lines)


@cache
def find_simulator() -> str:
    """The llvm-mca that is new enough.

    Raises:
        UnsupportedError: when there is none.
    """
    for name in ("llvm-mca-22", "llvm-mca"):
        if shutil.which(name):
            text = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"LLVM version (\d+)", text)
            if version and int(version[1]) >= _OLDEST:
                return name
    raise UnsupportedError(
        f"no llvm-mca of version {_OLDEST} or newer is found, so there are no cycles", mend="install llvm-22"
    )


def cycles(loop: Sequence[str], processor: str) -> float:
    """Cycles of one pass through a loop in its steady state, everything in the first cache.

    Raises:
        UnsupportedError: when llvm-mca is not here.
    """
    body = [re.sub(r"[0-9a-f]+ <[^>]*>", ".Lloop", line) for line in loop]
    command = [find_simulator(), "-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm,+fullfp16"]
    done = subprocess.run(
        [*command, f"-iterations={_ITERATIONS}", "-"],
        input="\n".join([".Lloop:", *body, ""]),
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not found:
        raise UnsupportedError(f"llvm-mca does not read the loop: {done.stderr.strip().splitlines()[:1]}")
    return int(found[1]) / _ITERATIONS
