"""Speed of the kernels of generated C on this processor, beside the kernels of others, one thread.

    python -m benchmarks.kernels_cpu [--families gemm,conv] [--rounds 21] [--only TEXT]

All ways to do one piece of work run in turns in one process; figures are GOP/s (a multiply-accumulate is two
operations) by CPU time of the thread, medians; the columns `x PEER` say how much faster our best level is, medians of
the ratio in a round. Families that are left out keep what an earlier run wrote of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Iterator, Mapping

import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.kernels import binary, codebook, floats, int8, low_bit
from benchmarks.kernels.common import Contest, compete

FAMILIES: Mapping[str, Callable[[], Iterator[Contest]]] = {
    "gemm": int8.linear,
    "conv": int8.conv,
    "depthwise": int8.depthwise,
    "binary": binary.linear,
    "binary conv": binary.conv,
    "planes": binary.planes,
    "wna8": low_bit.integers,
    "wnf32": low_bit.floats,
    "tables": low_bit.tables,
    "codebook": codebook.linear,
    "gemm f32": floats.linear,
    "conv f32": floats.conv,
    "depthwise f32": floats.depthwise,
    "rows": floats.rows,
    "attention": floats.attention,
}
NAME = "kernels_cpu"
NOTE = "GOP/s of one thread, medians; x: how much faster our best level is"


def main() -> None:
    parser = argparse.ArgumentParser(description="kernels of generated C beside others, one thread")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="cases whose text contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for family in given.families.split(","):
        found = [compete(contest, given.rounds) for contest in FAMILIES[family]() if given.only in contest.case]
        print_table(found)
        print()
        rows += [{"family": family, **row} for row in found]
    if not given.only:
        write_results(NAME, [*_others(given.families.split(",")), *rows], NOTE)


def _others(families: Collection[str]) -> list[dict[str, object]]:
    """Rows of earlier runs of families that this one leaves out."""
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return [row for row in rows if row.get("family") not in (None, *families)]


if __name__ == "__main__":
    main()
