"""Metric-decoupled groups: each group of units has its own sensitivity, and what the groups weigh is searched.

Formula   loss_uk = weight_g * own_uk / sum_(v in g) max_m own_vm: the whole of a group at its worst counts `weight_g`,
          whatever it is measured in. Weights are tried, and the plan is kept that is best as a whole
Shapes    tables [unit][option]
Promise   the scale of a metric does not matter
Needs     one table per group
Source    Zhao et al. 2024, "MixDQ" and "ViDiT-Q" (groups with a metric each, and a sweep over how the budget is split);
          one budget for all and a sweep over weights instead of split budgets: own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcompiler.passes.allocate.problem import Table

_BOOSTS = (4.0, 0.25)


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
