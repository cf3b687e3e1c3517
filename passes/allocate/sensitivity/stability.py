"""Whether losses would have come out alike on other samples: the bootstrap over the samples that they are means of.

Formula   samples are drawn anew with replacement N times; rank correlation of each table with the measured one, how
          often the solver then chooses another plan, and the share of units that change
Shapes    tables [unit][option]
Promise   deterministic for a seed; no further run of the program, sample losses being kept
Needs     losses by sample
Source    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"; Spearman 1904
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.passes.allocate.problem import Table

Draw = Callable[[int], Tensor]
"""Which of so many samples are looked at: int64 [samples]."""


@dataclass(frozen=True)
class Stability:
    """What resampling changes.

    Args:
        resamples: how many.
        rank: mean rank correlation with the measured table.
        least_rank: the smallest of them.
        other_plans: share of resamples that lead to another plan.
        other_units: mean share of units whose option changes.
    """

    resamples: int
    rank: float
    least_rank: float
    other_plans: float
    other_units: float

    def __str__(self) -> str:
        return (
            f"stability over {self.resamples} resamples: rank correlation {self.rank:.3f}, at least "
            f"{self.least_rank:.3f}; another plan in {self.other_plans:.0%}, {self.other_units:.1%} of units changed"
        )


def stability(
    table: Callable[[Draw], Table],
    solve: Callable[[Table], Sequence[int]] | None,
    resamples: int,
    seed: int,
) -> Stability:
    """Draws samples anew.

    Args:
        table: losses from what is drawn of the samples.
        solve: the choice for a table; None leaves plans out.
        resamples: how many times.
        seed: of the draws.
    """
    measured = table(torch.arange)
    chosen = solve(measured) if solve is not None else ()
    ranks: list[float] = []
    changed: list[float] = []
    for number in range(resamples):
        found = table(resampled(seed + number))
        ranks.append(spearman(flat(measured), flat(found)))
        again = solve(found) if solve is not None else ()
        changed.append(sum(a != b for a, b in zip(chosen, again, strict=True)) / max(len(chosen), 1))
    count = max(resamples, 1)
    return Stability(
        resamples, sum(ranks) / count, min(ranks, default=1.0), sum(map(bool, changed)) / count, sum(changed) / count
    )


def resampled(seed: int) -> Draw:
    """As many samples as there are, drawn with replacement."""

    def draw(count: int) -> Tensor:
        return torch.randint(count, (count,), generator=torch.Generator().manual_seed(seed))

    return draw


def flat(table: Table) -> Tensor:
    """All losses in one vector, float64."""
    return torch.tensor([value for row in table for value in row], dtype=torch.float64)


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two vectors, equal values sharing their mean rank; 1 where both are constant."""
    first, second = (_ranks(value) for value in (one, other))
    first, second = first - first.mean(), second - second.mean()
    scale = (first.square().sum() * second.square().sum()).sqrt()
    return float((first * second).sum() / scale) if scale > 0 else float(torch.equal(first, second))


def _ranks(value: Tensor) -> Tensor:
    _, inverse, counts = value.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]
