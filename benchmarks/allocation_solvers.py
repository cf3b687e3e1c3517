"""Allocation: solvers against brute force and each other, and solved plans of real models against uniform ones.

    python -m benchmarks.allocation_solvers [--part instances|scale|models] [--models resnet20,squeezenet,...]

Instances: 200 random problems with ties, pair terms and one to three limits, all choices tried. Scale: 2,000 units of 8
options under two limits. Models: weights only, simulated exactly; the limit is the average bits of a uniform plan;
losses are measured on 64 calibration samples, plans compared on others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.models import CASES
from qcompiler.errors import InputError
from qcompiler.job import prepare, run_job
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.core import make_core
from qcompiler.passes.allocate.costs import AverageBits
from qcompiler.passes.allocate.dynamic_program import DynamicProgram
from qcompiler.passes.allocate.harm import Results, divergence, relative_error
from qcompiler.passes.allocate.lagrangian import lagrangian_bound
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.problem import LOSS, Option, Pair, Problem, Solution, Table, Unit
from qcompiler.passes.allocate.sensitivity import measure_table
from qcompiler.passes.allocate.solvers import SolverName, make_solver
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme

HEURISTICS: tuple[SolverName, ...] = ("greedy", "one_shot", "genetic")
WIDTHS = (8, 6, 5, 4, 3, 2)
GROUPED = ("code_lm", "stories")
LIMITED = (4, 3)
SAMPLES = 64
Row = dict[str, object]


def units(sizes: Sequence[int]) -> tuple[Unit, ...]:
    """Units of so many options."""
    return tuple(
        Unit(f"unit{number:05d}", tuple(Option(str(k)) for k in range(size))) for number, size in enumerate(sizes)
    )


def instance(seed: int, resources: int) -> Problem:
    """Up to 6 units of up to 4 options; half of them with two tied ones, pair terms on three in ten, some forbidden."""
    draw = random.Random(seed)
    count = draw.randint(2, 6)
    sizes = [draw.randint(1, 4) for _ in range(count)]
    first, second = draw.sample(range(count), 2)
    ties: tuple[tuple[int, ...], ...] = ()
    if draw.random() < 0.5:
        sizes[second] = sizes[first]
        ties = ((first, second),)
    names = ["size", "latency", "bops"][:resources]
    costs: dict[str, Table] = {
        name: [[float(draw.randint(1, 100)) for _ in range(size)] for size in sizes] for name in names
    }
    pairs: list[Pair] = []
    for left, right in itertools.combinations(range(count), 2):
        if draw.random() < 0.3:
            places = [(k, m) for k in range(sizes[left]) for m in range(sizes[right])]
            values = {at: draw.uniform(-0.3, 0.3) if draw.random() < 0.9 else math.inf for at in places}
            pairs.append(Pair(left, right, [[values[k, m] for m in range(sizes[right])] for k in range(sizes[left])]))
    limits = {name: sum(draw.uniform(min(row), max(row)) for row in rows) for name, rows in costs.items()}
    loss = [[draw.random() for _ in range(size)] for size in sizes]
    return Problem(units(sizes), loss, costs, limits, {}, tuple(pairs), ties)


def brute_force(problem: Problem) -> float | None:
    """The least objective, None when no choice keeps the limits."""
    choices = itertools.product(*(range(len(unit.options)) for unit in problem.units))
    return min((problem.used(one, LOSS) for one in choices if problem.feasible(one)), default=None)


def instances(count: int = 200) -> list[Row]:
    """How often each solver finds the optimum."""
    rows: dict[str, Row] = {}
    solvers = {"milp": Milp(gap=0.0), "dynamic_program": DynamicProgram(), **{n: make_solver(n) for n in HEURISTICS}}
    for name, solver in solvers.items():
        agree = tried = 0
        worst, started = 0.0, time.perf_counter()
        for seed in range(count):
            problem = instance(seed, 1 if name == "dynamic_program" else 1 + seed % 3)
            best = brute_force(problem)
            found = solver.attempt(problem)
            tried += 1
            if best is None or found is None:
                agree += best is None and found is None
                continue
            agree += abs(found.objective - best) <= 1e-9
            worst = max(worst, (found.objective - best) / abs(best))
        seconds = time.perf_counter() - started
        rows[name] = {
            "solver": name,
            "instances": tried,
            "optimal": agree,
            "worst": worst,
            "s, brute force too": seconds,
        }
    return list(rows.values())


def layered(count: int, options: int, seed: int, kind: str) -> Problem:
    """Large problems: `layers` (sizes over decades, loss falls by 4 with each bit), `random`, `correlated` (hard)."""
    draw = np.random.default_rng(seed)
    if kind == "layers":
        bits = np.arange(2, 2 + options)
        loss = draw.lognormal(0, 2, count)[:, None] * 4.0**-bits * draw.uniform(0.7, 1.3, (count, options))
        size = np.ceil(draw.lognormal(10, 1, count)[:, None] * bits / 8)
        latency = np.ceil(size * draw.lognormal(0, 0.3, count)[:, None] * draw.uniform(0.8, 1.2, (count, options)))
    else:
        size, latency = (draw.integers(100, 1000, (count, options)).astype(float) for _ in range(2))
        noise = draw.integers(0, 100, (count, options)) / 1000
        loss = (2.2 - (size + latency) / 1000 + noise) if kind == "correlated" else draw.random((count, options))
    costs: dict[str, Table] = {"size": size.tolist(), "latency": latency.tolist()}
    limits = {
        name: float(cost.min(1).sum() + 0.4 * (cost.max(1) - cost.min(1)).sum())
        for name, cost in (("size", size), ("latency", latency))
    }
    return Problem(units([options] * count), loss.tolist(), costs, limits)


def scale() -> list[Row]:
    """2,000 units of 8 options under two limits."""
    rows: list[Row] = []
    for kind, seed in itertools.product(("layers", "random", "correlated"), range(3)):
        problem = layered(2000, 8, seed, kind)
        core = make_core(problem)
        bound = lagrangian_bound(core)
        found = Milp(gap=1e-4, seconds=15).solve(problem)
        row: Row = {
            "kind": kind,
            "seed": seed,
            "options left": int(core.alive.sum()),
            "gap": found.gap,
            "s": found.seconds,
            "Lagrangian gap": 1 - bound.value * core.unit / found.objective,
        }
        for name in ("greedy", "one_shot"):
            rival = make_solver(name).solve(problem)
            row |= {f"{name} above": rival.objective / found.objective - 1, f"{name} s": rival.seconds}
        rows.append(row)
    return rows


def models(names: Sequence[str], kinds: Sequence[str]) -> list[Row]:
    """Solved plans against uniform ones."""
    return [row for name in names for row in model_rows(name, kinds)]


def model_rows(name: str, kinds: Sequence[str]) -> list[Row]:
    """One row for each sensitivity and limit."""
    case = CASES[name]()
    suffix = "g32" if name in GROUPED else ""
    schemes = {bits: parse_scheme(f"w{bits}a16{suffix}") for bits in WIDTHS}
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=Recipe("none", ()))
    program = run_job(job)[1]
    used = list(limit_samples(program, job.batches, SAMPLES))
    context = Context(job.target, batches=used)
    found = offer(program, job.target, list(schemes.values()), ())
    bits = AverageBits().measure(program, found.units, context)
    fresh = Trial(program, list(job.batches)[len(used) :] or used)
    metric = divergence if case.kind in ("cnn", "vit", "lm") else relative_error
    rows: list[Row] = []
    for kind in kinds:
        started = time.perf_counter()
        table = measure_table(kind, program, found.units, context)
        seconds = time.perf_counter() - started
        for width in LIMITED:
            uniform = found.uniform(schemes[width].name)
            problem = Problem(found.units, table, {"average_bits": bits.table})
            limit = problem.used(uniform, "average_bits")
            problem = replace(problem, limits={"average_bits": limit})
            row: Row = {"model": name, "units": len(found.units), "sensitivity": kind, "s": seconds, "bits": limit}
            row[f"uniform {metric.__name__}"] = judged(found, fresh, uniform, metric)
            for solver in ("milp", *HEURISTICS):
                solution = attempted(solver, problem)
                harm = judged(found, fresh, solution.choice, metric) if solution is not None else None
                row[solver] = harm
                row[f"{solver}, predicted"] = solution.objective if solution is not None else None
            rows.append(row)
            print(row, flush=True)
    return rows


def attempted(name: SolverName, problem: Problem) -> Solution | None:
    """What a solver finds, None when it finds nothing."""
    try:
        return make_solver(name).solve(problem)
    except InputError:
        return None


def judged(found: Offer, trial: Trial, choice: Sequence[int], metric: object) -> float:
    """The harm of a whole plan."""
    results: list[Results] = trial.results(found.plan(choice))
    return metric(results)  # pyright: ignore[reportCallIssue]


def main() -> None:
    """Runs a part; rows replace those of the same part and model in `results/allocation_solvers.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["instances", "scale", "models"], default="instances")
    parser.add_argument("--models", default="resnet20,squeezenet,vit_mnist,stories")
    parser.add_argument("--sensitivities", default="weight,local,output,kl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "models":
        rows = models(options.models.split(","), options.sensitivities.split(","))
    else:
        rows = instances() if options.part == "instances" else scale()
    print_table(rows)
    rows = [{"part": options.part, **row} for row in rows]
    print(write_results("allocation_solvers", merged(rows), "losses on 64 samples, plans compared on others"))


def merged(rows: list[Row]) -> list[Row]:
    """These rows and those of earlier runs of other parts and models."""
    path = RESULTS / "allocation_solvers.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    new = {(row["part"], row.get("model")) for row in rows}
    return [row for row in earlier if (row["part"], row.get("model")) not in new] + rows


if __name__ == "__main__":
    main()
