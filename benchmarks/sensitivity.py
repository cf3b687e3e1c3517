"""Sensitivities on real models: does the sum over layers rank whole plans, how long does it take, how stable is it?

    python -m benchmarks.sensitivity [--models resnet20,...] [--kinds output,kl,...] [--data synthetic] [--quick]

Weights of 2 to 8 bits. 200 plans with a random width for every layer are tried as a whole on samples that no
sensitivity has seen; the rank correlation of their harm with the sum of losses is the figure. Stability: mean rank
correlation of loss tables of resampled calibration samples with the measured one.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from benchmarks.common import Row, merged, print_table, write_results
from benchmarks.deployed import inputs_of
from benchmarks.models import CASES
from qcompiler.errors import QCompilerError
from qcompiler.job import prepare, run_job
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.harm import Results, divergence, relative_error
from qcompiler.passes.allocate.mixed import DataName
from qcompiler.passes.allocate.problem import Table
from qcompiler.passes.allocate.sensitivity import SENSITIVITIES, measure, read_terms
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.sensitivity.stability import spearman, stability
from qcompiler.passes.allocate.sensitivity.synthetic import synthetic_batches
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme

WIDTHS = (8, 6, 5, 4, 3, 2)
GROUPED = ("code_lm", "stories")
SAMPLES, FRESH = 64, 64
SEQUENCES = 16


@dataclass(frozen=True)
class Ground:
    """A model with plans and what they really do.

    Args:
        offered: units and options.
        subject: calibration samples.
        plans: random choices.
        harms: of each plan on fresh samples.
    """

    offered: Offer
    subject: Subject
    plans: Sequence[Sequence[int]]
    harms: torch.Tensor


def ground(name: str, plans: int, samples: int, seed: int, data: DataName) -> Ground:
    """Traces a model and tries random plans."""
    case = CASES[name]()
    suffix = "g32" if name in GROUPED else ""
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=Recipe("none", ()))
    program = run_job(job)[1]
    used = list(limit_samples(program, job.batches, samples))
    fresh = list(job.batches)[len(used) :] or inputs_of(case, samples)
    rest = list(limit_samples(program, fresh, samples))
    found = offer(program, job.target, [parse_scheme(f"w{bits}a16{suffix}") for bits in WIDTHS], ())
    draw = random.Random(seed)
    choices = [[draw.randrange(len(unit.options)) for unit in found.units] for _ in range(plans)]
    metric = divergence if case.kind in ("cnn", "vit", "lm") else relative_error
    results: list[list[Results]] = [[] for _ in choices]
    for batch in rest:
        # A trial of all batches would leave out those whose activations do not fit beside the others.
        trial = Trial(program, [batch])
        for each, choice in zip(results, choices, strict=True):
            each += trial.results(found.plan(choice))
    harms = torch.tensor([metric(each) for each in results], dtype=torch.float64)
    seen = synthetic_batches(program, samples) if data == "synthetic" else used
    return Ground(found, Subject(program, Context(job.target, batches=seen)), choices, harms)


def predicted(table: Table, plans: Sequence[Sequence[int]]) -> torch.Tensor:
    """The sum of losses of each plan: float64 [plans]."""
    sums = [sum(row[option] for row, option in zip(table, plan, strict=True)) for plan in plans]
    return torch.tensor(sums, dtype=torch.float64)


def model_rows(name: str, kinds: Sequence[str], plans: int, samples: int, seed: int, data: DataName) -> list[Row]:
    """One row for each sensitivity."""
    started = time.perf_counter()
    base = ground(name, plans, samples, seed, data)
    print(
        f"{name}: {len(base.offered.units)} units, {plans} plans in {time.perf_counter() - started:.0f} s", flush=True
    )
    rows: list[Row] = []
    for kind in kinds:
        subject = Subject(base.subject.program, base.subject.ctx)
        row: Row = {"model": name, "sensitivity": kind, "data": data}
        started, worked = time.perf_counter(), time.process_time()
        try:
            losses = measure(read_terms(kind), subject, base.offered.units)
        except QCompilerError as error:
            rows.append(row | {"told": error.what})
            continue
        seconds, processor = time.perf_counter() - started, time.process_time() - worked
        steady = stability(losses.table, None, 20, 0)
        told = losses.repaired.partition(" losses")[0]
        row |= {"rank correlation": spearman(predicted(losses.table(), base.plans), base.harms)}
        row |= {"stability": steady.rank, "s": seconds, "processor s": processor, "repaired": told or "0"}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Measures and writes `results/sensitivity.json`; rows replace those of the same model, sensitivity and data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet20,squeezenet,vit_mnist,code_lm,stories")
    parser.add_argument("--kinds", default=",".join(kind.name for kind in SENSITIVITIES))
    parser.add_argument("--seed", type=int, default=7401, help="of the plans that are the truth")
    parser.add_argument("--data", default="calibration", choices=get_args(DataName), help="what losses are measured on")
    parser.add_argument("--quick", action="store_true", help="resnet20, 40 plans, 16 samples; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        print_table(model_rows("resnet20", options.kinds.split(","), 40, 16, options.seed, options.data))
        return
    note = f"200 random plans of seed {options.seed}, 2 to 8-bit weights; truth on fresh samples"
    for name in options.models.split(","):
        samples = SEQUENCES if name in GROUPED else SAMPLES
        rows = model_rows(name, options.kinds.split(","), 200, samples, options.seed, options.data)
        print_table(rows)
        print(write_results("sensitivity", merged("sensitivity", rows, ("model", "sensitivity", "data")), note))


if __name__ == "__main__":
    main()
