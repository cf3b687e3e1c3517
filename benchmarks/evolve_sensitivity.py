"""Evolves a formula that ranks bit assignments, on small networks of its own: all 3^5 plans of each are tried.

    python -m benchmarks.evolve_sensitivity [--evaluations 400] [--seed 0] [--quick]

Two networks of five layers, one of linear layers and one of convolutions, are trained on the digits that ship with the
repository. Every layer gets 2, 3 or 4 bits; the harm of each of the 243 plans is the divergence of the results on test
images. Half of the plans of both networks are searched on, the other half decides what the figure is worth. The formula
that is found belongs into `FOUND` of passes/allocate/sensitivity/evolved.py.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.common import print_table, write_results
from benchmarks.zoo.data import CALIBRATION_FILE, GREY_LEVELS, TEST_FILE
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.harm import divergence
from qcompiler.passes.allocate.sensitivity.evolution import KNOWN, Trials, evolve
from qcompiler.passes.allocate.sensitivity.formula import Formula, ingredients, parse_formula
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context
from qcompiler.spec import parse_scheme

BITS = (4, 3, 2)
STEPS = 300


def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Test images in two halves, the first with labels to train on: x, y, x."""
    with np.load(TEST_FILE) as data:
        x = torch.from_numpy(data["x"].astype(np.float32) / GREY_LEVELS)
        y = torch.from_numpy(data["y"].astype(np.int64))
    return x[:350], y[:350], x[350:]


def networks() -> list[nn.Module]:
    """Five layers each, not trained."""
    linear = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU()]
    linear += [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    sizes = [(1, 16), (16, 16), (16, 32), (32, 16)]
    convolutions: list[nn.Module] = []
    for number, (narrow, wide) in enumerate(sizes):
        convolutions += [nn.Conv2d(narrow, wide, 3, 1 + number % 2, 1), nn.ReLU()]
    return [nn.Sequential(*linear), nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 10))]


def trained(module: nn.Module) -> nn.Module:
    """The module after a few steps on the digits."""
    x, y, _ = images()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randperm(len(x), generator=generator)[:64]
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    return module.eval()


def tried(module: nn.Module) -> Trials:
    """All plans of a network."""
    with np.load(CALIBRATION_FILE) as data:
        calibration = list(torch.from_numpy(data["x"])[:64].split(32))
    job = prepare(module, "simulation", calibration=calibration, recipe=Recipe("none", ()))
    program = run_job(job)[1]
    subject = Subject(program, Context(job.target, batches=list(job.batches)))
    found = offer(program, job.target, [parse_scheme(f"w{bits}a16") for bits in BITS], ())
    plans = list(itertools.product(range(len(BITS)), repeat=len(found.units)))
    trial = Trial(program, [[images()[2]]])
    harms = torch.tensor([divergence(trial.results(found.plan(plan))) for plan in plans], dtype=torch.float64)
    noise = [[subject.noise(option) for option in unit.options] for unit in found.units]
    return Trials(ingredients(subject, found.units), noise, plans, harms)


def half(trials: Trials, second: bool) -> Trials:
    """Every other plan, in an order that has nothing to do with them."""
    order = list(range(len(trials.plans)))
    random.Random(0).shuffle(order)
    kept = order[len(order) // 2 :] if second else order[: len(order) // 2]
    return Trials(trials.known, trials.noise, [trials.plans[at] for at in kept], trials.harms[kept])


class Several:
    """Trials of several networks, whose mean is the fitness."""

    def __init__(self, parts: Sequence[Trials]) -> None:
        self.parts = parts

    def fitness(self, formula: Formula) -> float | None:
        """Mean rank correlation; None when one refuses."""
        found = [part.fitness(formula) for part in self.parts]
        return None if None in found else sum(value for value in found if value is not None) / len(found)


def main() -> None:
    """Trains, tries, searches, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few formulas; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.perf_counter()
    trials = [tried(trained(module)) for module in networks()]
    built = time.perf_counter() - started
    searched, held = (Several([half(part, second) for part in trials]) for second in (False, True))
    found = evolve(searched, 60 if options.quick else options.evaluations, seed=options.seed)
    rows: list[dict[str, object]] = [
        {"formula": str(formula), "searched": searched.fitness(formula), "held out": held.fitness(formula)}
        for formula in (*map(parse_formula, KNOWN), found.formula)
    ]
    print_table(rows)
    print(f"{found.tried} formulas ranked, {found.screened} screened out; plans tried in {built:.0f} s")
    print(f'FOUND = "{found.formula}"')
    if not options.quick:
        command = f"python -m benchmarks.evolve_sensitivity --evaluations {options.evaluations} --seed {options.seed}"
        print(write_results("evolve_sensitivity", rows, f"the last row is FOUND, by {command}"))


if __name__ == "__main__":
    main()
