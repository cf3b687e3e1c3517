"""Instructions and cycles per multiply-accumulate of the kernels for ARM, without an ARM processor.

    python -m benchmarks.kernels_arm [--families int8,...]

Whole layers, packing of activations and making of results included, under qemu-user; how instructions are counted
stands in benchmarks/kernels/arm_count.py. `bound`, `loop` and `layer` are MAC per instruction; the columns of
processors are MAC per cycle of the loop by llvm-mca, and are empty when no llvm-mca that knows them is found. Families
that are left out keep what an earlier run wrote of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import prod

from benchmarks.common import merged, print_table, write_results
from benchmarks.kernels import arm_binary, arm_floats, arm_int8, arm_low_bit
from benchmarks.kernels.arm_count import PROCESSORS, Entry, count, cycles, find_simulator
from qcompiler.errors import UnsupportedError

NAME = "kernels_arm"
FAMILIES: Mapping[str, tuple[Entry, ...]] = {
    "int8": arm_int8.ENTRIES,
    "low_bit": arm_low_bit.ENTRIES,
    "binary": arm_binary.ENTRIES,
    "floats": arm_floats.ENTRIES,
}


def measure(entry: Entry, simulated: bool) -> dict[str, object]:
    """One row of the table."""
    found = count(entry, entry.layer)
    layer = prod(entry.layer) / found.instructions
    row: dict[str, object] = {
        "kernel": entry.kernel,
        "level": entry.isa.value,
        "loop of": entry.title,
        "size": "x".join(map(str, entry.layer)),
        "bound": entry.bound,
        "loop": found.loop_rate,
        "loop/bound": found.loop_rate / entry.bound,
        "layer": layer,
        "layer/bound": layer / entry.bound,
    }
    for processor in PROCESSORS:
        row[processor] = found.loop_macs / cycles(found.loop, processor) if simulated else None
    return row


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help="which, separated by commas")
    families = parser.parse_args().families.split(",")
    simulated, note = True, ""
    try:
        find_simulator()
    except UnsupportedError as error:
        simulated, note = False, f"{error.what} ({error.mend})"
        print(note)
    rows = [measure(entry, simulated) for family in families for entry in FAMILIES[family]]
    print_table(rows)
    write_results(NAME, merged(NAME, rows, ("kernel", "level", "loop of")), note)


if __name__ == "__main__":
    main()
