"""Every kernel's meaning against onnxruntime, operator by operator and number by number.

    python -m benchmarks.simulation [--count 1000] [--only QLinearConv]

One row per pair of an operator and its numbers: `count` random tensors over random sizes, weights, scales and zero
points (a third of the programs with scales that put results right between two codes), among them tensors of one value,
of extremes only, of zeros, of denormals. Integers and integer epilogues must be equal in every element; float32 sums
may be off by the roundings that their kernel states.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from benchmarks.common import print_table, write_results
from tests.kernel_pairs import PAIRS, Pair

ROUNDS = 14
"""Random tensors for each random program."""


def measure(pair: Pair, count: int) -> dict[str, object]:
    """Compares `count` random tensors; raises nothing, a difference is a row that says so."""
    started = time.perf_counter()
    elements = unequal = missed = tensors = cut = 0
    worst = excess = 0.0
    seed = 0
    while tensors < count:
        bench = pair.bench(seed)
        session, kernels = bench.session()
        missed += not kernels & set(pair.realised)
        for number in range(min(ROUNDS, count - tensors)):
            bench.redraw(number)
            meant, ran = bench.meant(), bench.ran(session)
            difference = meant - ran
            elements, tensors = elements + meant.numel(), tensors + 1
            unequal += int((difference != 0).sum())
            cut += int(meant.numel() > 1 and bool((meant == meant.reshape(-1)[0]).all()))
            worst = max(worst, float(difference.abs().max())) if meant.numel() else worst
            excess = max(excess, pair.excess(bench, difference))
        seed += 1
    return {
        "operator": pair.operator,
        "numbers": pair.numbers,
        "programs": seed,
        "tensors": tensors,
        "elements": elements,
        "unequal": unequal,
        "allowed": "roundings" if pair.summed else f"{pair.steps} codes" if pair.steps else "nothing",
        "part of it": excess,
        "largest difference": worst,
        "other kernel": missed,
        "flat results": cut,
        "holds": excess <= 1 and not missed,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Measures all pairs and writes `results/simulation.json`; the exit code is 1 when one of them does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random tensors for each pair")
    parser.add_argument("--only", default="", help="pairs whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(pair, options.count) for pair in PAIRS if options.only in pair.name]
    print_table(rows)
    held = sum(bool(row["holds"]) for row in rows)
    print(f"{held} of {len(rows)} pairs hold, {sum(int(str(row['elements'])) for row in rows):,} elements")
    if not options.only:
        note = "kernel meanings against onnxruntime on the CPU; every element equal, float32 sums within what is stated"
        print(write_results("simulation", rows, note))
    sys.exit(held != len(rows))


if __name__ == "__main__":
    main()
