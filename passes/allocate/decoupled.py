"""Metric-decoupled groups: each group of units has its own sensitivity, and what the groups weigh is searched.

Formula   shared budget: loss_uk = weight_g * own_uk / sum_(v in g) max_m own_vm: the whole of a group at its worst
          counts `weight_g`, whatever it is measured in. Weights are tried. Split budget: each group has a budget of its
          own, and ratios of the budgets are tried. The plan is kept that is best as a whole
Shapes    tables [unit][option]
Promise   the scale of a metric does not matter; split budgets add up to the whole one
Needs     one table per group
Source    Zhao et al. 2024, "MixDQ" and "ViDiT-Q" (groups with a metric each, and a sweep over how the budget is split;
          budgets here are limits, not bands around the mean); one budget for all and a sweep over weights: own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qcompiler.passes.allocate.problem import Problem, Table

_BOOSTS = (4.0, 0.25)
_LEAST, _MOST, _SPLITS = 0.46, 1.36, 10
"""Ratios of mean bits that are tried."""
_SPLIT = frozenset({"size", "average_bits", "bops"})
"""What is split; other limits hold for all groups together."""


def decoupled(tables: Sequence[Table], groups: Sequence[int], weights: Mapping[int, float] | None = None) -> Table:
    """One loss table from one for each group.

    Args:
        tables: of each group; rows of other groups' units are not read.
        groups: the group of each unit.
        weights: of each group, 1 where none is given.
    """
    worst = [
        math.fsum(max(row) for row, own in zip(table, groups, strict=True) if own == group)
        for group, table in enumerate(tables)
    ]
    factors = [(weights or {}).get(group, 1.0) / max(total, 1e-300) for group, total in enumerate(worst)]
    return [[value * factors[group] for value in tables[group][unit]] for unit, group in enumerate(groups)]


def weightings(groups: int) -> list[dict[int, float]]:
    """The weights to try: all alike, then each group heavier and lighter than the others."""
    return [{}, *({group: boost} for group in range(groups) for boost in _BOOSTS)] if groups > 1 else [{}]


def split_budgets(problem: Problem, groups: Sequence[int]) -> list[Problem]:
    """The problem with a budget of its own for each group, once for each way to split it that is tried.

    Formula: what is left of a limit L beside what is fixed goes to the groups as
    L_g = L k_g P_g / sum_h k_h P_h, P_g what the widest options of the group take; k_g is 0.46 to 1.36 in ten steps
    for one group and 1 for the others. With P the numbers of weights and bits as the resource, two groups have the mean
    bits b_g = k b_h, and b on the whole.

    Args:
        problem: with losses that need not be of one scale across groups.
        groups: the group of each unit.
    """
    kinds = sorted(set(groups))
    found: list[Problem] = []
    for group in kinds[1:] if len(kinds) > 1 else ():
        for step in range(_SPLITS):
            ratio = _LEAST + (_MOST - _LEAST) * step / (_SPLITS - 1)
            found.append(_split(problem, groups, {kind: ratio if kind == group else 1.0 for kind in kinds}))
    return found


def _split(problem: Problem, groups: Sequence[int], ratios: Mapping[int, float]) -> Problem:
    costs, limits = dict(problem.costs), dict(problem.limits)
    for name in sorted(_SPLIT & set(problem.limits)):
        table = problem.costs[name]
        left = problem.limits[name] - problem.fixed.get(name, 0.0)
        widest = {
            kind: ratio * math.fsum(max(row) for row, own in zip(table, groups, strict=True) if own == kind)
            for kind, ratio in ratios.items()
        }
        whole = math.fsum(widest.values())
        for kind in ratios:
            own_name = f"{name} of group {kind}"
            costs[own_name] = [row if own == kind else [0.0] * len(row) for row, own in zip(table, groups, strict=True)]
            limits[own_name] = left * widest[kind] / whole if whole else 0.0
    return replace(problem, costs=costs, limits=limits)
