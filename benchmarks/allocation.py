"""Solved plans of real models at the bytes of uniform ones: against the best uniform plan, and against greedy.

    python -m benchmarks.allocation [--models resnet20,squeezenet,...] [--inside waterfill] [--quick]

Weights only, simulated exactly. The limit is the average bits, scales and zero points included, of `w4a16` and of
`w3a16`: one scale for each output channel. Widths from 2 to 8 are offered with scales per channel and, for matrices, in
groups of 128 and 64 and per channel in half precision; a uniform plan is one of these wherever it is offered, and the
best one within the limit is the reference. With `--inside` each weight may also spread the same bits unevenly over its
rows or columns; the best plan of one such option everywhere is told too. Losses are the divergence of the results with
one unit quantized at a time, on the first samples; all plans are compared on samples that nothing was chosen by, and
candidates on the first ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.models import CASES
from qcompiler.job import prepare, run_job
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.costs import AverageBits
from qcompiler.passes.allocate.harm import divergence
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.options import with_options
from qcompiler.passes.allocate.problem import Problem
from qcompiler.passes.allocate.sensitivity import measure_table
from qcompiler.passes.allocate.solvers import make_solver
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme

MODELS = ("resnet20", "squeezenet", "vit_mnist", "code_lm", "stories")
SAMPLES = {"lm": 16, "cnn": 64, "vit": 64}
QUICK_SAMPLES = {"lm": 2, "cnn": 8, "vit": 8}
FRESH = {"lm": 24, "cnn": 256, "vit": 256}
SCALES = ("", "g128", "g64", "_f16")
WIDTHS = (8, 6, 5, 4, 3, 2)
LIMITED = (4, 3)
CANDIDATES = 4
RESOURCE = "average_bits"
Row = dict[str, object]
Choice = tuple[int, ...]


@dataclass(frozen=True)
class Bed:
    """A model with what is offered and measured.

    Args:
        name: of the model.
        plain: the offer of uniform numbers.
        offered: the same with further options.
        problem: losses and bits, without a limit.
        own: on the samples that losses were measured on.
        fresh: on others.
        seconds: what measuring took.
    """

    name: str
    plain: Offer
    offered: Offer
    problem: Problem
    own: Trial
    fresh: Trial
    seconds: float

    def harm(self, trial: Trial, choice: Choice) -> float:
        """The divergence of a whole plan."""
        return divergence(trial.results(self.offered.plan(choice)))


def schemes(kind: str, quick: bool) -> list[str]:
    """What is offered to a kind of model."""
    scales = ("",) if kind == "cnn" or quick else SCALES
    return [f"w{width}a16{place}" for width in WIDTHS for place in scales if not (place.startswith("g") and width > 4)]


def prepared(name: str, inside: Sequence[str], quick: bool) -> Bed:
    """A model with its losses."""
    case = CASES[name]()
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=Recipe("none", ()))
    program = run_job(job)[1]
    used = list(limit_samples(program, job.batches, (QUICK_SAMPLES if quick else SAMPLES)[case.kind]))
    rest = list(job.batches)[len(used) :] or used
    ctx = Context(job.target, batches=used)
    plain = offer(program, job.target, [parse_scheme(text) for text in schemes(case.kind, quick)], ())
    started = time.perf_counter()
    offered = with_options(plain, inside, ctx)
    loss = measure_table("kl", program, offered.units, ctx)
    bits = AverageBits().measure(program, offered.units, ctx)
    seconds = time.perf_counter() - started
    problem = Problem(offered.units, loss, {RESOURCE: bits.table}, fixed={RESOURCE: bits.fixed})
    fresh = Trial(program, list(limit_samples(program, rest, FRESH[case.kind])))
    return Bed(name, plain, offered, problem, Trial(program, used), fresh, seconds)


def uniforms(bed: Bed, limit: float) -> Mapping[str, Choice]:
    """The plans of one option everywhere within a limit, by its name; where it is not offered, of its scheme."""
    names = dict.fromkeys(option.name for unit in bed.offered.units for option in unit.options)
    found = {name: everywhere(bed.offered, name) for name in names}
    return {name: choice for name, choice in found.items() if bed.problem.used(choice, RESOURCE) <= limit * (1 + 1e-9)}


def everywhere(offered: Offer, name: str) -> Choice:
    """One option wherever it is offered."""
    plain = offered.uniform(name.partition("+")[0])
    places = [[option.name for option in unit.options] for unit in offered.units]
    return tuple(found.index(name) if name in found else free for found, free in zip(places, plain, strict=True))


def rows_of(bed: Bed) -> list[Row]:
    """One row for each limit."""
    rows: list[Row] = []
    for width in LIMITED:
        limit = bed.problem.used(bed.offered.uniform(f"w{width}a16"), RESOURCE)
        problem = replace(bed.problem, limits={RESOURCE: limit})
        rivals = {name: bed.harm(bed.fresh, choice) for name, choice in uniforms(bed, limit).items()}
        best = min((name for name in rivals if name in bed.plain.schemes), key=lambda name: rivals[name])
        uneven = min(rivals, key=lambda name: rivals[name])
        greedy = make_solver("greedy").solve(problem)
        solution = Milp().solve(problem)
        chosen = min(candidates(problem, solution.choice, greedy.choice), key=lambda one: bed.harm(bed.own, one))
        names = [unit.options[option].name for unit, option in zip(bed.offered.units, chosen, strict=True)]
        row: Row = {
            "model": bed.name,
            "limit": f"w{width}a16",
            "bits": limit,
            "units": len(bed.offered.units),
            "options": max(len(unit.options) for unit in bed.offered.units),
            "best uniform": best,
            "uniform": rivals[best],
            "best option everywhere": uneven,
            "of it": rivals[uneven],
            "solved": bed.harm(bed.fresh, chosen),
            "first of the program": bed.harm(bed.fresh, solution.choice),
            "greedy": bed.harm(bed.fresh, greedy.choice),
            "gap": solution.gap,
            "inside": sum("+" in name for name in names),
            "s": bed.seconds,
        }
        row["of uniform"] = row["solved"] / row["uniform"]  # pyright: ignore[reportOperatorIssue]
        row["of the option"] = row["solved"] / rivals[uneven]  # pyright: ignore[reportOperatorIssue]
        row["of greedy"] = row["solved"] / row["greedy"]  # pyright: ignore[reportOperatorIssue]
        rows.append(row)
        print(row, flush=True)
    return rows


def candidates(problem: Problem, first: Choice, greedy: Choice) -> list[Choice]:
    """The best choices of the program, best first, and the greedy one."""
    found = [first]
    while len(found) < CANDIDATES:
        following = Milp().attempt(problem, found)
        if following is None:
            break
        found.append(following.choice)
    return [*found, greedy]


def main() -> None:
    """Prints the table; rows replace those of the same model in `results/allocation.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--inside", default="", help="ways to mix widths inside weights, | between them")
    parser.add_argument("--quick", action="store_true", help="few samples and options; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    inside = [word for word in options.inside.split("|") if word]
    rows = [row for name in options.models.split(",") for row in rows_of(prepared(name, inside, options.quick))]
    print_table(rows)
    if not options.quick:
        print(write_results("allocation", merged(rows), "divergence of the results on samples that nothing saw"))


def merged(rows: Sequence[Row]) -> list[Row]:
    """These rows and those of earlier runs of other models."""
    path = RESULTS / "allocation.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    return [row for row in earlier if row["model"] not in {new["model"] for new in rows}] + list(rows)


if __name__ == "__main__":
    main()
