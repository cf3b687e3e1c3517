"""Greedy: from the best options down, always the step that loses least for what it saves; then back up where it fits.

Formula   ratio = change of the objective / change of sum_r max(used_r - limit_r, 0) / limit_r; smallest first. Steps
          start where the variable stands, so they follow its convex hull
Shapes    see `core.Core`
Promise   keeps the limits if it returns; for one resource it is above the optimum by one step's change at most
Needs     a core
Source    "MPTQ-ViT: Mixed-Precision Post-Training Quantization for Vision Transformer" 2024 (greedy); hull steps after
          Zemel 1980
"""

from __future__ import annotations

import numpy as np

from qcompiler.passes.allocate.core import Core, Ints, within
from qcompiler.passes.allocate.moves import Choice, polish

_LEAST = 1e-12


def greedy(core: Core, *, repair: bool = True) -> Ints | None:
    """The greedy choice.

    Args:
        core: the problem.
        repair: improve it by single and double exchanges afterwards.

    Returns:
        an option of each variable; None when the steps end before the limits are kept.
    """
    choice = Choice(core, core.objective.argmin(1))
    return _descended(choice, repair)


def greedy_from(core: Core, picks: Ints, *, repair: bool = True) -> Ints | None:
    """The same from another choice, which may break limits."""
    return _descended(Choice(core, picks), repair)


def _descended(choice: Choice, repair: bool) -> Ints | None:
    for _ in range(2 * choice.core.objective.size + 1):
        if not choice.excess.any() and np.isfinite(choice.value):
            return polish(choice).picks if repair else choice.picks
        if not _step(choice):
            return None
    return None


def _step(choice: Choice) -> bool:
    """The exchange with the best ratio; False when none saves anything that is needed."""
    gain, cost = choice.changes()
    limits = choice.core.limits[:, None, None]
    excess = float(choice.excess.sum())
    # What saves more than is needed counts as what is needed; what breaks another limit counts against it.
    saved = excess - np.maximum(choice.usage[:, None, None] + cost - limits, 0.0).sum(0)
    wanted = np.isfinite(gain) & ((saved > _LEAST * excess) if excess else (gain < 0))
    if not wanted.any():
        return False
    ratio = np.where(wanted, gain / np.where(wanted, saved, 1.0) if excess else gain, np.inf)
    variable, option = divmod(int(ratio.argmin()), ratio.shape[1])
    choice.move(variable, option)
    return True


def one_shot(core: Core) -> Ints | None:
    """Ranks the variables once by what their cheapest option loses for what it saves, and lowers them in that order.

    The plain ranking of the training-free methods: no step looks at what was done before.

    Returns:
        an option of each variable; None when all are lowered and a limit is still broken.
    """
    choice = Choice(core, core.objective.argmin(1))
    if not (core.variables and core.alive.any(1).all()):
        return None if core.variables else choice.picks
    total = np.where(core.alive, core.costs.sum(0), np.inf)
    cheapest = total.argmin(1)
    rows = np.arange(core.variables)
    saved = core.costs.sum(0)[rows, choice.picks] - total[rows, cheapest]
    lost = core.objective[rows, cheapest] - core.objective[rows, choice.picks]
    for variable in np.argsort(lost / np.maximum(saved, 1e-30), kind="stable").tolist():
        if within(core, choice.usage) and np.isfinite(choice.value):
            return choice.picks
        if saved[variable] > 0:
            choice.move(variable, int(cheapest[variable]))
    return choice.picks if within(core, choice.usage) and np.isfinite(choice.value) else None
