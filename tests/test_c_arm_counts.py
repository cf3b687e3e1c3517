"""Instructions of the kernels for ARM, counted under the emulator, stay what the table says that they are.

Counts are exact and repeat, but they are those of one compiler: other versions order and spill differently.
"""

from __future__ import annotations

import subprocess
from math import prod

import pytest

from benchmarks.kernels.arm_count import Count, Entry, count
from benchmarks.kernels_arm import FAMILIES
from qcompiler.backends.c.isa import LEVELS
from qcompiler.backends.c.toolchain import find_compiler
from qcompiler.errors import UnsupportedError

COMPILER = "12"
ENTRIES = tuple(entry for entries in FAMILIES.values() for entry in entries)


def counted(entry: Entry) -> Count:
    try:
        compiler = find_compiler(LEVELS[entry.isa].architecture)
        said = subprocess.run([*compiler.command, "-dumpversion"], capture_output=True, text=True, check=False)
        if said.stdout.split(".")[0].strip() != COMPILER:
            pytest.skip(f"counts are those of gcc {COMPILER}")
        return count(entry, entry.small)
    except UnsupportedError as error:
        pytest.skip(error.what)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kernel} {entry.isa.value} {entry.title}")
def test_the_inner_loop_has_no_more_instructions_than_stated(entry: Entry) -> None:
    found = counted(entry)
    instructions, macs = entry.loop
    assert found.loop_macs == macs
    assert len(found.loop) <= instructions, "\n".join(found.loop)
    assert found.passes * found.loop_macs <= prod(entry.small) < found.instructions * entry.bound


def test_counts_repeat() -> None:
    first = counted(ENTRIES[0])
    assert first == counted(ENTRIES[0])
