"""The dense core of an allocation problem: one variable per tie class, arrays instead of tables, rows of size one.

Formula   tied units become one variable whose tables are sums; a pinned one has one option left; options that another
          one beats in the objective and in every limited resource, whatever its partners in pairs choose, are dropped
Shapes    objective [variables, options], costs [resources, variables, options], pairs [..., pairs, options, options];
          absent options are infinite in the objective
Promise   an optimum of the core is an optimum of the problem
Needs     nothing
Source    dominance after Sinha and Zoltners 1979; with pairwise terms after Desmet et al. 1992, "dead-end elimination"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompiler.passes.allocate.problem import TOLERANCE, Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Core:
    """A problem as arrays.

    Args:
        problem: that it came from.
        groups: the units that each variable decides, sorted by name.
        objective: [variables, options], infinite where there is no such option; in units of `unit`.
        costs: [resources, variables, options]; 0 where there is no such option.
        limits: [resources], what is left of each limit once what is fixed is taken off; costs are in the same units.
        ends: [pairs, 2] variables.
        pair_objective: [pairs, options, options], infinite for what cannot be together.
        pair_costs: [resources, pairs, options, options].
        slack: [resources], how far above a limit still counts as rounding.
        unit: size of one unit of the objective.
    """

    problem: Problem
    groups: tuple[tuple[int, ...], ...]
    objective: Floats
    costs: Floats
    limits: Floats
    ends: Ints
    pair_objective: Floats
    pair_costs: Floats
    slack: Floats
    unit: float

    @property
    def alive(self) -> NDArray[np.bool_]:
        """[variables, options]: which options are left."""
        return np.isfinite(self.objective)

    @property
    def variables(self) -> int:
        """How many there are."""
        return len(self.groups)

    def expand(self, picks: Sequence[int] | Ints) -> tuple[int, ...]:
        """The option of each unit of the problem from that of each variable."""
        choice = [0] * len(self.problem.units)
        for group, pick in zip(self.groups, picks, strict=True):
            for unit in group:
                choice[unit] = int(pick)
        return tuple(choice)

    def value(self, picks: Ints) -> float:
        """The objective of a choice."""
        own = self.objective[np.arange(self.variables), picks].sum()
        pairs = self.pair_objective[np.arange(len(self.ends)), picks[self.ends[:, 0]], picks[self.ends[:, 1]]]
        return float(own + pairs.sum())

    def usage(self, picks: Ints) -> Floats:
        """[resources]: what a choice takes."""
        own = self.costs[:, np.arange(self.variables), picks].sum(1)
        pairs = self.pair_costs[:, np.arange(len(self.ends)), picks[self.ends[:, 0]], picks[self.ends[:, 1]]]
        return own + pairs.sum(1)

    def without(self, dropped: NDArray[np.bool_]) -> Core:
        """The core without some options, [variables, options]."""
        pairs = self.pair_objective.copy()
        pairs[dropped[self.ends[:, 0]][:, :, None] | dropped[self.ends[:, 1]][:, None, :]] = np.inf
        return replace(self, objective=np.where(dropped, np.inf, self.objective), pair_objective=pairs)


def make_core(problem: Problem, *, prune: bool = True) -> Core:
    """The core of a problem, dominated options left out if `prune`."""
    groups = _groups(problem)
    widest = max((len(unit.options) for unit in problem.units), default=1)
    names = list(problem.limits)
    place = {unit: number for number, group in enumerate(groups) for unit in group}
    tables = {name: _summed(problem, name, groups, widest) for name in {problem.minimise, *names}}
    pairs, doubled = _joined(problem, place, widest)
    for name, table in tables.items():
        for variable, extra in doubled.get(name, {}).items():
            table[variable] = table[variable] + extra
    objective = tables[problem.minimise]
    for group, row in zip(groups, objective, strict=True):
        _restrict(problem, group, row)
    for variable, extra in doubled.get("loss", {}).items():
        objective[variable][~np.isfinite(extra)] = np.inf
    alive = np.isfinite(objective)
    limits = np.array([problem.limits[name] - problem.fixed.get(name, 0.0) for name in names])
    slack = np.array([TOLERANCE * abs(problem.limits[name]) for name in names])
    costs = np.array([np.where(alive, tables[name], 0.0) for name in names]).reshape(len(names), len(groups), widest)
    ends = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    pair_objective, pair_costs = _pair_arrays(problem, names, pairs, ends, widest)
    core = Core(problem, groups, objective, costs, limits, ends, pair_objective, pair_costs, slack, 1.0)
    core = core.without(~alive)
    return _scaled(core.without(dominated(core)) if prune else core)


def dominated(core: Core) -> NDArray[np.bool_]:
    """[variables, options]: options that another one of the variable beats or equals in everything, in any company."""
    alive = core.alive
    worse = alive[:, :, None] & alive[:, None, :]
    rows = [(core.objective, core.pair_objective), *zip(core.costs, core.pair_costs, strict=True)]
    strictly = np.zeros_like(worse)
    for own, pairs in rows:
        # [variable, k, m]: the most by which m may be above k
        above = np.where(worse, _difference(own[:, None, :], own[:, :, None]), 0.0)
        possible = np.isfinite(core.pair_objective)
        for end, table, allowed in (
            (0, pairs, possible),
            (1, pairs.transpose(0, 2, 1), possible.transpose(0, 2, 1)),
        ):
            gap = np.where(allowed[:, :, None, :], _difference(table[:, None, :, :], table[:, :, None, :]), -np.inf)
            most = gap.max(3, initial=-np.inf)
            np.add.at(above, core.ends[:, end], np.where(np.isfinite(most) | (most > 0), most, 0.0))
        worse &= above <= 0
        strictly |= above < 0
    earlier = np.arange(alive.shape[1])[None, :] < np.arange(alive.shape[1])[:, None]
    return (worse & (strictly | earlier[None])).any(2)


def least_use(core: Core) -> Floats:
    """[resources]: a lower bound of what any choice takes."""
    own = np.where(core.alive[None], core.costs, np.inf).min(2).sum(1) if core.variables else 0.0
    pairs = np.where(np.isfinite(core.pair_objective)[None], core.pair_costs, np.inf).min((2, 3), initial=np.inf)
    return own + pairs.sum(1)


def within(core: Core, usage: Floats) -> bool:
    """Whether a usage keeps all limits."""
    return bool((usage <= core.limits + core.slack).all())


def _scaled(core: Core) -> Core:
    """Rows divided by their limits and the objective by its largest value: solvers think in absolute tolerances."""
    size = np.abs(core.limits)
    size = np.where(size > 0, size, 1.0)
    values = np.abs(core.objective[core.alive])
    unit = float(values.max(initial=0.0)) or 1.0
    return replace(
        core,
        objective=core.objective / unit,
        pair_objective=core.pair_objective / unit,
        costs=core.costs / size[:, None, None],
        pair_costs=core.pair_costs / size[:, None, None, None],
        limits=core.limits / size,
        slack=core.slack / size,
        unit=unit,
    )


def _groups(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Tie classes, transitively, sorted by the name of their first unit; so the order of units does not matter."""
    parent = list(range(len(problem.units)))

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for group in problem.ties:
        for unit in group[1:]:
            parent[root(unit)] = root(group[0])
    classes: dict[int, list[int]] = {}
    for unit in sorted(range(len(parent)), key=lambda unit: problem.units[unit].name):
        classes.setdefault(root(unit), []).append(unit)
    return tuple(tuple(members) for members in classes.values())


def _summed(problem: Problem, name: str, groups: Sequence[Sequence[int]], widest: int) -> Floats:
    table = problem.table(name)
    rows = np.full((len(groups), widest), np.inf)
    for variable, group in enumerate(groups):
        rows[variable, : len(table[group[0]])] = np.sum([table[unit] for unit in group], axis=0)
    return rows


def _restrict(problem: Problem, group: Sequence[int], row: Floats) -> None:
    """Leaves only the pinned option."""
    for unit in group:
        pinned = problem.units[unit].pinned
        if pinned is not None:
            row[np.arange(len(row)) != pinned] = np.inf


_Tables = dict[str, Floats]


def _joined(
    problem: Problem, place: dict[int, int], widest: int
) -> tuple[dict[tuple[int, int], _Tables], dict[str, dict[int, Floats]]]:
    """Pair tables by two variables, and what pairs within one variable add to its own options."""
    pairs: dict[tuple[int, int], _Tables] = {}
    doubled: dict[str, dict[int, Floats]] = {}
    for pair in problem.pairs:
        left, right = place[pair.left], place[pair.right]
        for name, table in {"loss": pair.loss, **pair.costs}.items():
            array = np.array(table, dtype=np.float64)
            if left == right:
                extra = np.zeros(widest)
                extra[: len(array)] = np.diagonal(array)
                own = doubled.setdefault(name, {})
                own[left] = own.get(left, np.zeros(widest)) + extra
                continue
            key, array = ((left, right), array) if left < right else ((right, left), array.T)
            known = pairs.setdefault(key, {})
            known[name] = known[name] + array if name in known else array
    return pairs, doubled


def _pair_arrays(
    problem: Problem, names: Sequence[str], pairs: dict[tuple[int, int], _Tables], ends: Ints, widest: int
) -> tuple[Floats, Floats]:
    objective = np.full((len(ends), widest, widest), np.inf)
    costs = np.zeros((len(names), len(ends), widest, widest))
    for number, (left, right) in enumerate(ends.tolist()):
        tables = pairs[left, right]
        loss = tables["loss"]
        rows, columns = loss.shape
        own = tables.get(problem.minimise, np.zeros_like(loss))
        objective[number, :rows, :columns] = np.where(np.isfinite(loss), own, np.inf)
        for place, name in enumerate(names):
            table = tables.get(name, np.zeros_like(loss))
            costs[place, number, :rows, :columns] = np.where(np.isfinite(loss), table, 0.0)
    return objective, costs


def _difference(upper: Floats, lower: Floats) -> Floats:
    """`upper - lower` where the lower one is finite, else minus infinity."""
    finite = np.isfinite(lower)
    return np.where(finite, upper - np.where(finite, lower, 0.0), -np.inf)
