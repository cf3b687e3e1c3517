"""Losses fitted to whole plans: what a unit does while all others are quantized too.

Formula   g(harm(plan)) ~ c + sum_u loss_uk over random plans, see `additive`; a loss counts from the least of its unit.
          Harms are divergences for class scores, relative squared errors for others; toggled losses are either, they,
          g and the ridge being chosen by the rank correlation of left-out plans
Shapes    float64 [options, groups of samples] per unit
Promise   not below 0; additive in g of the harm, so that sums rank plans
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
from qcompiler.passes.allocate.sensitivity.additive import choose, fit
from qcompiler.passes.allocate.sensitivity.gradients import Kind, kind_of
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject
from qcompiler.passes.allocate.sensitivity.repair import orders
from qcompiler.passes.allocate.sensitivity.results import Metric, toggled


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
        means = [[row.mean(1) for row in rows] for rows in tables]
        setting = choose(means, plans, harms.mean(1))
        known, order = tables[setting.prior], list(map(orders, units))
        fits = [
            fit([row[:, part].mean(1) for row in known], plans, harms[:, part].mean(1), setting, order)
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
