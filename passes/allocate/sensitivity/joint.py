"""Losses fitted to whole plans: what a unit does while all others are quantized too.

Formula   log harm(plan) ~ c + b sum_u log(1 + toggled_uk / s) + sum_u d_uk over random plans, least squares with a
          ridge on d; s is the mean sum of toggled losses. A loss is b log(1 + toggled / s) + d, from the least of its
          unit. Harms are divergences for class scores, relative squared errors for others; toggled losses are either,
          they and the ridge being chosen by the error on left-out plans
Shapes    float64 [options, groups of samples] per unit
Promise   not below 0; additive in the logarithm of the harm, so that sums rank plans
Needs     calibration data; as many runs of the whole program as plans, besides those of the toggled losses
Source    main effects of a factorial design, Fisher 1935, on a prior of toggled losses: own
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.allocate.harm import divergences, errors
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.gradients import Kind, kind_of
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject
from qcompiler.passes.allocate.sensitivity.results import Metric, toggled

RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0)
_LEAST = 1e-12
_FREE = 1e-6
"""Ridge on the weight of the toggled losses: hardly any."""


@dataclass(frozen=True)
class JointFit:
    """Toggled losses corrected by what whole plans do.

    Args:
        plans: how many random plans are tried.
        groups: the samples are taken in so many groups, each with a fit of its own.
        loss: `auto`, `divergence` or `squares`.
    """

    plans: int = 300
    groups: int = 4
    loss: Kind = "auto"
    name: ClassVar[str] = "fitted"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.plans < 1 or self.groups < 1:
            raise SpecError(f"plans={self.plans}, groups={self.groups} make no fit", mend="both are above 0")

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        metric = divergences if kind_of(subject.program, self.loss) == "divergence" else errors
        priors = [errors] if metric is errors else [errors, divergences]
        alone = list(toggled(subject, units, lambda results: torch.cat([prior(results) for prior in priors])))
        plans = random_plans(units, self.plans, subject.ctx.seed)
        harms = torch.stack([self._harm(subject, units, plan, metric) for plan in plans])
        parts = torch.arange(harms.shape[1]).tensor_split(min(self.groups, harms.shape[1]))
        tables = list(zip(*(row.chunk(len(priors), 1) for row in alone), strict=True))
        fits = [
            fit([[row[:, part].mean(1) for row in rows] for rows in tables], plans, harms[:, part].mean(1))
            for part in parts
        ]
        for unit in range(len(units)):
            found = torch.stack([each[unit] for each in fits], 1)
            yield found - found[found.mean(1).argmin()]

    def _harm(
        self,
        subject: Subject,
        units: Sequence[Unit],
        plan: Sequence[int],
        metric: Metric,
    ) -> Tensor:
        picked = [unit.options[option].assignments for unit, option in zip(units, plan, strict=True)]
        together = {name: item for assignments in picked for name, item in assignments.items()}
        return metric(subject.trial.results(together))


def random_plans(units: Sequence[Unit], count: int, seed: int) -> list[list[int]]:
    """Plans with any option of each unit, all alike likely; pinned units keep theirs."""
    draw = random.Random(seed)
    return [
        [draw.randrange(len(unit.options)) if unit.pinned is None else unit.pinned for unit in units]
        for _ in range(count)
    ]


def fit(
    alone: Sequence[Sequence[Tensor]], plans: Sequence[Sequence[int]], harms: Tensor, ridges: Sequence[float] = RIDGES
) -> list[Tensor]:
    """Additive terms of the logarithm of the harm, on the prior and with the ridge that predict left-out plans best.

    Args:
        alone: of each prior, float64 [options] of each unit.
        plans: options by unit.
        harms: float64 [plans].
        ridges: to choose from.

    Returns:
        float64 [options] of each unit.
    """
    wanted = harms.clamp(min=_LEAST).log()
    fits = [_ridge_fit(rows, plans, wanted, ridge) for rows in alone for ridge in ridges]
    return min(fits, key=lambda found: found[0])[1]


def _ridge_fit(
    alone: Sequence[Tensor], plans: Sequence[Sequence[int]], wanted: Tensor, ridge: float
) -> tuple[float, list[Tensor]]:
    """Mean squared error on each plan when it is left out, and the terms."""
    sizes = [len(row) for row in alone]
    scale = max(float(sum(row.mean() for row in alone)), _LEAST)
    prior = torch.cat([torch.log1p(row / scale) for row in alone])
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    taken = torch.zeros(len(plans), sum(sizes), dtype=torch.float64)
    taken[torch.arange(len(plans))[:, None], starts + torch.tensor([list(plan) for plan in plans])] = 1
    columns = torch.cat([torch.ones(len(plans), 1, dtype=torch.float64), (taken @ prior)[:, None], taken], 1)
    penalty = torch.full((columns.shape[1],), ridge, dtype=torch.float64)
    penalty[:2] = _FREE
    solved = torch.linalg.solve(columns.T @ columns + penalty.diag(), columns.T)
    found = solved @ wanted
    # What a plan would be predicted without itself follows from how much it weighs in its own prediction.
    own = (columns * solved.T).sum(1).clamp(max=1 - _FREE)
    left_out = float(((wanted - columns @ found) / (1 - own)).square().mean())
    return left_out, list((found[2:] + found[1].clamp(min=0.0) * prior).split(sizes))
