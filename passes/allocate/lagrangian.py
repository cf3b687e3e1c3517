"""Lagrangian bound: prices on the limited resources make the units independent, and prove how good the best can be.

Formula   L(p) = sum_u min_k (loss_uk + sum_r p_r cost_uk^r) + sum_pairs min (...) - sum_r p_r limit_r <= optimum,
          p >= 0; maximised by cutting planes. A pair's table is split between its two ends by messages, so that its own
          minimum hurts as little as possible
Shapes    prices [resources]; reduced costs [variables, options]
Promise   a true lower bound whatever the prices are, up to rounding
Needs     a core; HiGHS for the small master program
Source    Fisher 1981, "The Lagrangian relaxation method"; Kelley 1960 (cutting planes); messages after Globerson and
          Jaakkola 2007, "Fixing max-product"
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np

from qcompiler.passes.allocate.core import Core, Floats, Ints

_ROUNDS = 200
_SWEEPS = 30
_LARGEST_PRICE = 1e7


@dataclass(frozen=True)
class Bound:
    """What prices prove.

    Args:
        value: no choice has a smaller objective, in units of the core; infinity when no choice keeps the limits.
        prices: of each resource.
        reduced: [variables, options], by how much the bound rises when an option is forced; infinite for absent ones.
        picks: the choice of each variable at these prices, which may break limits.
    """

    value: float
    prices: Floats
    reduced: Floats
    picks: Ints


def lagrangian_bound(core: Core) -> Bound:
    """The bound at the best prices."""
    if not core.variables:
        return Bound(0.0, np.zeros(len(core.limits)), core.objective, np.zeros(0, dtype=np.int64))
    prices = best_prices(core) if len(core.limits) else np.zeros(0)
    own, pairs = priced(core, prices)
    own = _with_messages(own, pairs, core.ends)
    least = own.min(1)
    rest = float(pairs.min((1, 2)).sum()) if len(core.ends) else 0.0
    value = float(least.sum()) + rest - float(prices @ core.limits)
    if not np.isfinite(value):
        return Bound(np.inf, prices, own, own.argmin(1))
    return Bound(value, prices, own - least[:, None], own.argmin(1))


def priced(core: Core, prices: Floats) -> tuple[Floats, Floats]:
    """Objective and pair objective with the resources paid for."""
    own = core.objective + np.tensordot(prices, core.costs, 1)
    return own, core.pair_objective + np.tensordot(prices, core.pair_costs, 1)


def best_prices(core: Core) -> Floats:
    """Prices that maximise the bound in which every pair is split in halves, which makes it concave."""
    master = _Master(len(core.limits))
    best, prices = -np.inf, np.zeros(len(core.limits))
    for _ in range(_ROUNDS):
        at = master.prices
        value, slope = _cut(core, at)
        if value > best:
            best, prices = value, at
        if master.height - best <= 1e-9 * max(abs(best), 1e-12):
            break
        master.add(value, slope, at)
    return prices


def _cut(core: Core, prices: Floats) -> tuple[float, Floats]:
    """The bound at some prices and its slope."""
    own, pairs = priced(core, prices)
    left, right = pairs.argmin(2), pairs.argmin(1)
    own = own.copy()
    np.add.at(own, core.ends[:, 0], pairs.min(2, initial=np.inf) / 2)
    np.add.at(own, core.ends[:, 1], pairs.min(1, initial=np.inf) / 2)
    picks = own.argmin(1)
    number, rows = np.arange(len(core.ends)), np.arange(core.variables)
    usage = core.costs[:, rows, picks].sum(1)
    for end, others in ((0, left), (1, right)):
        mine = picks[core.ends[:, end]]
        theirs = others[number, mine]
        first, second = (mine, theirs) if end == 0 else (theirs, mine)
        usage = usage + core.pair_costs[:, number, first, second].sum(1) / 2
    value = own[rows, picks].sum() - prices @ core.limits
    return float(value), usage - core.limits


class _Master:
    """The largest prices' bound that the cuts so far allow: a linear program that grows by one row each time."""

    def __init__(self, resources: int) -> None:
        self.program = highspy.Highs()
        self.program.setOptionValue("output_flag", False)
        self.program.setOptionValue("threads", 1)
        for _ in range(resources):
            self.program.addVar(0.0, _LARGEST_PRICE)
        self.program.addVar(-highspy.kHighsInf, highspy.kHighsInf)
        self.program.changeColCost(resources, -1.0)
        self.prices = np.zeros(resources)
        self.height = np.inf

    def add(self, value: float, slope: Floats, at: Floats) -> None:
        """Bound <= value + slope * (prices - at)."""
        columns = np.arange(len(slope) + 1, dtype=np.int32)
        row = np.append(-slope, 1.0)
        self.program.addRow(-highspy.kHighsInf, value - float(slope @ at), len(row), columns, row)
        self.program.run()
        found = np.array(self.program.getSolution().col_value)
        if len(found) == len(row):
            self.prices, self.height = np.maximum(found[:-1], 0.0), float(found[-1])


def _with_messages(own: Floats, pairs: Floats, ends: Ints) -> Floats:
    """Moves parts of the pairs' tables (changed in place) to the variables until neither gains; the sum stays."""
    own = own.copy()
    if not len(ends):
        return own
    for _ in range(_SWEEPS):
        before = own.min(1).sum() + pairs.min((1, 2)).sum()
        for number, (left, right) in enumerate(ends.tolist()):
            _balance(own, pairs[number], left, right)
        if own.min(1).sum() + pairs.min((1, 2)).sum() <= before + 1e-12 * abs(before):
            break
    return own


def _balance(own: Floats, table: Floats, left: int, right: int) -> None:
    """One pair takes all from its ends and gives each the half of what it could have."""
    rows, columns = np.isfinite(own[left]), np.isfinite(own[right])
    a, b = np.where(rows, own[left], 0.0), np.where(columns, own[right], 0.0)
    whole = table + a[:, None] + b[None, :]
    new_a, new_b = whole.min(1) / 2, whole.min(0) / 2
    rows, columns = rows & np.isfinite(new_a), columns & np.isfinite(new_b)
    own[left], own[right] = np.where(rows, new_a, np.inf), np.where(columns, new_b, np.inf)
    table += np.where(rows, a - np.where(rows, new_a, 0.0), 0.0)[:, None]
    table += np.where(columns, b - np.where(columns, new_b, 0.0), 0.0)[None, :]
