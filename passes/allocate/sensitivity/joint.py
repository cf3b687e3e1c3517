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
from qcompiler.measure import sample_count
from qcompiler.passes.allocate.harm import divergences, errors
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.additive import choose, fit
from qcompiler.passes.allocate.sensitivity.gradients import Kind, kind_of
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject
from qcompiler.passes.allocate.sensitivity.repair import orders
from qcompiler.passes.allocate.sensitivity.results import Metric, toggled
from qcompiler.passes.allocate.trial import Trial, affordable_samples


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
        harms = torch.cat(
            [torch.stack([_harm(trial, units, plan, metric) for plan in plans]) for trial in trials(subject)], 1
        )
        tables = zip(*(row.chunk(len(priors), 1) for row in alone), strict=True)
        means = [[row.mean(1) for row in rows] for rows in tables]
        setting = choose(means, plans, harms.mean(1))
        known, order = means[setting.prior], list(map(orders, units))
        whole = fit(known, plans, harms.mean(1), setting, order)
        parts = harms.tensor_split(min(self.groups, harms.shape[1]), 1)
        fits = [fit(known, plans, part.mean(1), setting, order) for part in parts]
        for unit, terms in enumerate(whole):
            found = torch.stack([each[unit] for each in fits], 1)
            lift = (terms - terms.min())[:, None]
            # Groups tell how steady a term is; what it is, all samples together tell better.
            yield torch.where(lift == 0, 0.0, found + lift - found.mean(1, keepdim=True))


def trials(subject: Subject) -> Iterator[Trial]:
    """Trials that see every batch, one after the other where there is no room for the activations of all at once."""
    batches = subject.ctx.batches
    if sum(map(sample_count, batches)) <= affordable_samples(subject.program, batches):
        yield subject.trial
        return
    for batch in batches:
        yield Trial(subject.program, [batch])


def _harm(trial: Trial, units: Sequence[Unit], plan: Sequence[int], metric: Metric) -> Tensor:
    picked = [unit.options[option].assignments for unit, option in zip(units, plan, strict=True)]
    return metric(trial.results({name: item for assignments in picked for name, item in assignments.items()}))


def random_plans(units: Sequence[Unit], count: int, seed: int) -> list[list[int]]:
    """Plans with any option of each unit, all alike likely; pinned units keep theirs."""
    draw = random.Random(seed)
    return [
        [draw.randrange(len(unit.options)) if unit.pinned is None else unit.pinned for unit in units]
        for _ in range(count)
    ]
