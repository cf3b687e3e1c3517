"""A choice under change: what every single exchange of an option would do to the objective and to the resources.

Formula   gain_uk = loss_uk - loss_u,x + sum over pairs of u of the same difference; exchanges of two as well
Shapes    changes [variables, options], usage changes [resources, variables, options]
Promise   usage and objective follow every exchange; a polished choice keeps the limits if the given one did
Needs     a core
Source    local search of Dyer et al. 1995 for the multiple-choice knapsack; own
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompiler.passes.allocate.core import Core, Floats, Ints, within

_SWAPPED = 64
"""Exchanges of two variables look at this many variables at most, those that gain most."""


class Choice:
    """One option for every variable, with what each exchange would change."""

    def __init__(self, core: Core, picks: Ints) -> None:
        self.core = core
        self.picks = picks.astype(np.int64).copy()
        self.neighbours: list[list[tuple[int, int, bool]]] = [[] for _ in range(core.variables)]
        for number, (left, right) in enumerate(core.ends.tolist()):
            self.neighbours[left].append((number, right, True))
            self.neighbours[right].append((number, left, False))
        self.objective = core.objective.copy()
        self.costs = core.costs.copy()
        for variable in range(core.variables):
            if self.neighbours[variable]:
                self._refresh(variable)
        self.usage = core.usage(self.picks)

    @property
    def value(self) -> float:
        """The objective."""
        return self.core.value(self.picks)

    @property
    def excess(self) -> Floats:
        """[resources]: how far above the limits, 0 where they are kept."""
        over = self.usage - self.core.limits
        return np.where(over > self.core.slack, over, 0.0)

    def changes(self) -> tuple[Floats, Floats]:
        """By how much the objective and the usage change with each exchange; infinite for absent options."""
        rows = np.arange(self.core.variables)
        now, used = self.objective[rows, self.picks], self.costs[:, rows, self.picks]
        # An option that its partners now forbid makes every way out look infinitely good, which it is.
        known = np.isfinite(now)
        gain = np.where(known[:, None], self.objective - np.where(known, now, 0.0)[:, None], -1e30)
        return np.where(np.isfinite(self.objective), gain, np.inf), self.costs - used[:, :, None]

    def move(self, variable: int, option: int) -> None:
        """Exchanges one option."""
        self.usage = self.usage + self.costs[:, variable, option] - self.costs[:, variable, self.picks[variable]]
        self.picks[variable] = option
        for _, other, _ in self.neighbours[variable]:
            self._refresh(other)

    def _refresh(self, variable: int) -> None:
        """Counts the pairs of a variable into its own row, the partners standing still."""
        row, costs = self.core.objective[variable].copy(), self.core.costs[:, variable].copy()
        for number, other, first in self.neighbours[variable]:
            at = self.picks[other]
            pair, pair_costs = self.core.pair_objective[number], self.core.pair_costs[:, number]
            row += pair[:, at] if first else pair[at]
            costs += pair_costs[:, :, at] if first else pair_costs[:, at]
        self.objective[variable], self.costs[:, variable] = row, costs


def polish(choice: Choice) -> Choice:
    """Exchanges one option, then two at once, as long as the objective falls and the limits are kept."""
    while _best_single(choice) or _best_double(choice):
        pass
    return choice


def _best_single(choice: Choice) -> bool:
    gain, cost = choice.changes()
    fits = _fits(choice, choice.usage[:, None, None] + cost)
    gain = np.where(fits, gain, np.inf)
    place = int(gain.argmin())
    variable, option = divmod(place, gain.shape[1])
    if not gain.size or gain[variable, option] >= -1e-15:
        return False
    choice.move(variable, option)
    return True


def _best_double(choice: Choice) -> bool:
    """One variable gains, another pays for it; pairs between the two are only seen by the check afterwards."""
    gain, cost = choice.changes()
    improving = np.argwhere(gain < -1e-15)
    order = np.argsort(gain[improving[:, 0], improving[:, 1]], kind="stable")[:_SWAPPED]
    for variable, option in improving[order].tolist():
        usage = choice.usage + cost[:, variable, option]
        total = np.where(_fits(choice, usage[:, None, None] + cost), gain, np.inf)
        total[variable] = np.inf
        place = int(total.argmin())
        other, second = divmod(place, total.shape[1])
        if total[other, second] + gain[variable, option] < -1e-15 and _try_both(
            choice, (variable, option), (other, second)
        ):
            return True
    return False


def _try_both(choice: Choice, first: tuple[int, int], second: tuple[int, int]) -> bool:
    before, value = choice.picks.copy(), choice.value
    for variable, option in (first, second):
        choice.move(variable, option)
    if choice.value < value and within(choice.core, choice.usage):
        return True
    for variable, _ in (second, first):
        choice.move(variable, int(before[variable]))
    return False


def _fits(choice: Choice, usage: Floats) -> NDArray[np.bool_]:
    """[variables, options]: whether a usage keeps the limits."""
    limits = (choice.core.limits + choice.core.slack)[:, None, None]
    return np.asarray((usage <= limits).all(0))
