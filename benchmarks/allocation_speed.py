"""How long the whole allocation of a real model takes, with calibration data and without.

    python -m benchmarks.allocation_speed [--models squeezenet,resnet56,imdn] [--kinds output,gauss_newton] [--quick]

From the canonical program to the annotated one: units, losses, costs, solve, and the trial of whole plans, at an
average of 4.5 bits out of weights of 2 to 8, on 2 threads. `synthetic` makes its data itself.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.common import print_table, write_results
from benchmarks.models import CASES
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.mixed import DataName, MixedPrecision
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context

SAMPLES = 16
DATA: tuple[DataName, ...] = ("calibration", "synthetic")
Row = dict[str, object]


def rows_of(name: str, kinds: list[str], samples: int) -> list[Row]:
    """One row for each sensitivity and kind of data."""
    case = CASES[name]()
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=Recipe("none", ()))
    program = run_job(job)[1]
    rows: list[Row] = []
    for kind in kinds:
        for data in DATA:
            notes: list[str] = []
            context = Context(job.target, batches=job.batches if data == "calibration" else (), log=notes.append)
            pass_ = MixedPrecision(average_bits="4.5", sensitivity=kind, samples=samples, data=data)
            own = program.copy()
            started, worked = time.perf_counter(), time.process_time()
            pass_.run(own, context)
            row: Row = {"model": name, "sensitivity": kind, "data": data, "s": time.perf_counter() - started}
            rows.append(row | {"processor s": time.process_time() - worked, "told": notes[-1]})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measures and writes `results/allocation_speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="squeezenet,resnet56,imdn")
    parser.add_argument("--kinds", default="output,gauss_newton")
    parser.add_argument("--quick", action="store_true", help="resnet20 on 4 samples; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.quick:
        print_table(rows_of("resnet20", options.kinds.split(","), 4))
        return
    rows = [row for name in options.models.split(",") for row in rows_of(name, options.kinds.split(","), SAMPLES)]
    print_table(rows)
    print(write_results("allocation_speed", rows, f"{SAMPLES} samples, 2 threads"))


if __name__ == "__main__":
    main()
