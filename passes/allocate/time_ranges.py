"""Losses by range of one input, such as the time of a diffusion model: one plan that is good in every range.

Formula   the samples are sorted by the mean of the input and cut into N ranges of as many samples; loss_r is the loss
          table of range r alone. mean: minimise (1/N) sum_r loss_r(x). worst: the least t such that some x keeps
          loss_r(x) <= t for all r and all limits, by bisection between the best that any range alone allows and what
          the mean's plan has; then the mean is minimised under that t
Shapes    tables [unit][option]
Promise   no range is left out because it has few samples; whole plans are judged by their ranges too
Needs     results whose samples can be told apart. One plan, one set of weights and of static grids serve all ranges:
          what changes from range to range are numbers that are quantized dynamically
Source    Zhao et al. 2024, "ViDiT-Q" (sensitivity by range of time steps); the least worst range is own
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.errors import InputError, SpecError
from qcompiler.ir.program import Program
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.problem import LOSS, Problem, Table
from qcompiler.passes.allocate.solvers import Solver
from qcompiler.passes.allocate.trial import affordable_samples
from qcompiler.stats import Batch

_WORDS = re.compile(r"([1-9]\d*) over ([\w.]+)")
_ROUNDS = 10
_CLOSE = 1e-3
"""The bisection ends when its bounds are so close, as a part of themselves."""


@dataclass(frozen=True)
class Ranges:
    """Samples by range.

    Args:
        name: of the input.
        bounds: smallest and largest value of each range.
        members: numbers of the samples of each range: int64 [some].
        count: of all samples.
    """

    name: str
    bounds: tuple[tuple[float, float], ...]
    members: tuple[Tensor, ...]
    count: int

    def draw(self, number: int, count: int) -> Tensor:
        """The columns of one range out of a row of losses; a loss that has no part in samples belongs to all.

        Raises:
            InputError: when there is no column for each sample.
        """
        if count == 1:
            return torch.zeros(1, dtype=torch.int64)
        if count != self.count:
            raise InputError(
                f"{count} losses of {self.count} samples cannot be told apart by '{self.name}'",
                mend="ranges need results and inputs whose first axis runs over samples",
            )
        return self.members[number]

    def by_range(self, harms: Tensor) -> list[float]:
        """The mean of each range: float64 [samples] to as many numbers as there are ranges."""
        return [float(harms[self.draw(number, len(harms))].mean()) for number in range(len(self.members))]

    def describe(self, harms: Tensor) -> str:
        """The harm of each range in one line."""
        pairs = zip(self.bounds, self.by_range(harms), strict=True)
        return f"by range of {self.name}: " + ", ".join(f"{low:g}..{high:g} {harm:.4g}" for (low, high), harm in pairs)


def check_ranges(text: str) -> None:
    """Raises SpecError when the words cannot be read."""
    if text and not _WORDS.fullmatch(text):
        raise SpecError(f"cannot read the ranges '{text}'", mend="write N over INPUT, such as 4 over timestep")


def divide(program: Program, batches: Sequence[Batch], text: str) -> Ranges | None:
    """The samples that can be looked at, by range; None for no words.

    Args:
        program: at stage canonical.
        batches: flat inputs.
        text: `N over INPUT`.

    Raises:
        SpecError: for words that cannot be read, or an input that there is not.
        InputError: with fewer samples than ranges.
    """
    check_ranges(text)
    match = _WORDS.fullmatch(text)
    if match is None:
        return None
    names = [node.name for node in program.inputs]
    if match[2] not in names:
        raise SpecError(f"there is no input '{match[2]}'", mend=f"inputs: {', '.join(names)}")
    place, count = names.index(match[2]), int(match[1])
    values = [
        batch[place].double().flatten(1).mean(1) if batch[place].dim() > 1 else batch[place].double().reshape(-1)
        for batch in limit_samples(program, batches, affordable_samples(program, batches))
    ]
    every = torch.cat(values) if values else torch.zeros(0)
    if len(every) < count:
        raise InputError(f"{len(every)} samples for {count} ranges of '{match[2]}'", mend="pass more calibration data")
    parts = every.sort(stable=True).indices.tensor_split(count)
    bounds = tuple((float(every[part].min()), float(every[part].max())) for part in parts)
    return Ranges(match[2], bounds, tuple(part.sort().values for part in parts), len(every))


def mean_table(tables: Sequence[Table]) -> Table:
    """The mean of tables of one shape."""
    return [
        [math.fsum(values) / len(tables) for values in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)
    ]


def least_worst(problem: Problem, tables: Sequence[Table], solver: Solver) -> Problem:
    """The problem with a limit on the loss of each range, as low as can be.

    Args:
        problem: whose loss is minimised; what it limits stays limited.
        tables: of each range.
        solver: must be able to limit several resources.

    Raises:
        InputError: when the limits cannot be kept at all.
    """
    names = [f"{LOSS} of range {number}" for number in range(1, len(tables) + 1)]
    ranged = replace(problem, costs={**problem.costs, **dict(zip(names, tables, strict=True))})

    def limited(most: float) -> Problem:
        return replace(ranged, limits={**problem.limits, **dict.fromkeys(names, most)})

    def worst(choice: Sequence[int]) -> float:
        return max(ranged.used(choice, name) for name in names)

    high = worst(solver.solve(problem).choice)
    low = max(solver.solve(replace(problem, loss=table)).bound for table in tables)
    low = max(low, high * 1e-6)
    for _ in range(_ROUNDS):
        if high <= low * (1 + _CLOSE):
            break
        middle = math.sqrt(low * high)
        try:
            high = worst(solver.solve(limited(middle)).choice)
        except InputError:
            low = middle
    return limited(high)
