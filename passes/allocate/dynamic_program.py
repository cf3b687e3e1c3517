"""Exact allocation for one resource, and its whole frontier, by dynamic programming over sets of labels.

Formula   after each variable: the pairs (resource, objective) that no other beats in both. Variables that have pairs
          with later ones stay open: labels are kept apart by what was chosen for them
Shapes    labels per choice of the open variables; at most 1/step of each when the resource is rounded up to steps
Promise   the optimum, and every point of the frontier; with a step, within the limit, and no worse than the optimum
          of a limit that is smaller by one step for each variable
Needs     one limited resource at most; pairs that do not reach far when variables stand in graph order
Source    Nemhauser and Ullmann 1969; frontier as of Cai et al. 2020, "ZeroQ"; open choices as in bucket elimination,
          Dechter 1999
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qcompiler.errors import UnsupportedError
from qcompiler.passes.allocate.core import Core, Floats, Ints, make_core
from qcompiler.passes.allocate.infeasible import infeasible
from qcompiler.passes.allocate.problem import Problem, Solution, make_solution

_MOST = 1 << 22
"""Labels of one stage."""


@dataclass(frozen=True)
class DynamicProgram:
    """Solves by label setting.

    Args:
        step: resource is rounded up to multiples of this part of its limit; 0 is exact.
    """

    step: float = 0.0

    def solve(self, problem: Problem) -> Solution:
        """The optimum.

        Raises:
            InputError: when no choice keeps the limit.
            UnsupportedError: for several limited resources, or when there are too many labels.
        """
        found = self.attempt(problem)
        if found is None:
            raise infeasible(problem, self.attempt)
        return found

    def attempt(self, problem: Problem) -> Solution | None:
        """As `solve`; None when no choice keeps the limit."""
        started = time.perf_counter()
        if len(problem.limits) > 1:
            raise UnsupportedError(
                f"a dynamic program keeps one limit, not {', '.join(problem.limits)}", mend="use the solver `milp`"
            )
        core = make_core(problem)
        labels, back = self._run(core)
        if not len(labels.objective):
            return None
        best = int(np.lexsort((labels.cost, labels.objective))[0])
        choice = core.expand(back.trace(best))
        objective = problem.used(choice, problem.minimise)
        bound = objective if not self.step else -np.inf
        return make_solution(problem, choice, bound, "dynamic_program", time.perf_counter() - started)

    def frontier(self, problem: Problem, resource: str) -> list[tuple[int, ...]]:
        """The choices that no other beats in both the objective and a resource, cheapest first; limits are ignored.

        Raises:
            UnsupportedError: when there are too many labels.
        """
        core = make_core(replace(problem, limits={resource: _most(problem, resource)}))
        labels, back = self._run(core)
        return [core.expand(back.trace(number)) for number in np.argsort(labels.cost, kind="stable").tolist()]

    def _run(self, core: Core) -> tuple[_Labels, _Back]:
        plan = _Plan(core, self.step)
        sets: dict[_Open, _Labels] = {(): _Labels(np.zeros(1), np.zeros(1), np.zeros(1, np.int64))}
        back = _Back(plan.order)
        for position in range(core.variables):
            parts: dict[_Open, list[_Labels]] = {}
            offset = 0
            for picks, labels in sets.items():
                for key, grown in plan.grow(position, picks, labels, offset):
                    parts.setdefault(key, []).append(grown)
                offset += len(labels.cost)
            sets = {key: _pruned(found, plan.room[position]) for key, found in parts.items()}
            back.add([labels.origin for labels in sets.values()], core.objective.shape[1])
        return sets.get((), _Labels(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))), back


_Open = tuple[tuple[int, int], ...]
"""What was chosen for the open variables."""


@dataclass(frozen=True)
class _Labels:
    """Pairs of resource and objective, and where each came from."""

    cost: Floats
    objective: Floats
    origin: Ints


@dataclass
class _Back:
    """How to find the choice behind a label."""

    order: Sequence[int]
    origins: list[Ints] = field(default_factory=list)
    options: int = 1

    def add(self, origins: Sequence[Ints], options: int) -> None:
        """The origins of all labels of a stage, one set after the other."""
        self.origins.append(np.concatenate(origins) if origins else np.zeros(0, np.int64))
        self.options = options
        if len(self.origins[-1]) > _MOST:
            raise UnsupportedError(
                f"the dynamic program needs more than {_MOST} labels",
                mend="use the solver `milp`, or round the resource to steps",
            )

    def trace(self, label: int) -> Ints:
        """The option of each variable."""
        picks = np.zeros(len(self.order), dtype=np.int64)
        for variable, origins in zip(reversed(self.order), reversed(self.origins), strict=True):
            label, picks[variable] = divmod(int(origins[label]), self.options)
        return picks


class _Plan:
    """The order of the variables, and how labels grow along it."""

    def __init__(self, core: Core, step: float) -> None:
        self.core, self.step = core, step
        self.pairs = _pairs_of(core)
        self.order = elimination_order(self.pairs)
        place = {variable: position for position, variable in enumerate(self.order)}
        self.last = [max(place[one] for one in (variable, *self.pairs[variable])) for variable in range(len(place))]
        self.costs = core.costs[0] if len(core.limits) else np.zeros_like(core.objective)
        self.room = self._rooms(place)

    def _rooms(self, place: dict[int, int]) -> Floats:
        """[positions]: what may be used once a variable is chosen, so that the least of the others still fits."""
        if not len(self.core.limits):
            return np.full(len(self.order), np.inf)
        least = np.where(self.core.alive, self.costs, np.inf).min(1)[self.order]
        possible = np.isfinite(self.core.pair_objective)
        pairs = np.where(possible, self.core.pair_costs[0], np.inf).min((1, 2), initial=np.inf)
        for (left, right), value in zip(self.core.ends.tolist(), pairs, strict=True):
            least[max(place[left], place[right])] += value
        later = np.concatenate([np.cumsum(least[::-1])[::-1][1:], [0.0]])
        return self.core.limits[0] + self.core.slack[0] - later

    def grow(self, position: int, picks: _Open, labels: _Labels, offset: int) -> Iterator[tuple[_Open, _Labels]]:
        """What becomes of some labels with each option of the next variable."""
        variable, options = self.order[position], self.core.objective.shape[1]
        for option in np.flatnonzero(self.core.alive[variable]).tolist():
            loss, cost = float(self.core.objective[variable, option]), float(self.costs[variable, option])
            for other, pick in picks:
                if other in self.pairs[variable]:
                    more, extra = self._together((variable, option), (other, pick))
                    loss, cost = loss + more, cost + extra
            if np.isfinite(loss):
                key = tuple(one for one in (*picks, (variable, option)) if self.last[one[0]] > position)
                origin = (np.arange(len(labels.cost)) + offset) * options + option
                yield key, _Labels(labels.cost + self._rounded(cost), labels.objective + loss, origin)

    def _together(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
        (left, k), (right, m) = sorted((one, other))
        pair = self.pairs[left][right]
        cost = float(self.core.pair_costs[0, pair, k, m]) if len(self.core.limits) else 0.0
        return float(self.core.pair_objective[pair, k, m]), cost

    def _rounded(self, cost: float) -> float:
        return float(np.ceil(cost / self.step - 1e-9) * self.step) if self.step else cost


def elimination_order(pairs: Sequence[Mapping[int, int]]) -> list[int]:
    """The variables, those first that leave the fewest others open; `pairs` holds the partners of each."""
    left, order = set(range(len(pairs))), []
    while left:
        done = set(range(len(pairs))) - left
        waiting = {one for one in done if any(other in left for other in pairs[one])}
        chosen = min(left, key=lambda variable: (_opened(pairs, waiting, left, variable), variable))
        left.remove(chosen)
        order.append(chosen)
    return order


def _opened(pairs: Sequence[Mapping[int, int]], waiting: set[int], left: set[int], variable: int) -> int:
    """How many chosen variables have partners that are not, once `variable` is chosen too."""
    own = any(other != variable and other in left for other in pairs[variable])
    closed = sum(all(other == variable or other not in left for other in pairs[one]) for one in waiting)
    return len(waiting) + own - closed


def _pairs_of(core: Core) -> list[dict[int, int]]:
    """For each variable the number of its pair with each other one."""
    found: list[dict[int, int]] = [{} for _ in range(core.variables)]
    for number, (left, right) in enumerate(core.ends.tolist()):
        found[left][right] = number
        found[right][left] = number
    return found


def _pruned(parts: Sequence[_Labels], limit: float) -> _Labels:
    """The labels within the limit that no other one beats in both."""
    cost = np.concatenate([part.cost for part in parts])
    objective = np.concatenate([part.objective for part in parts])
    origin = np.concatenate([part.origin for part in parts])
    order = np.lexsort((origin, objective, cost))
    order = order[cost[order] <= limit]
    falling = objective[order]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], falling[:-1]])) if len(order) else falling
    order = order[falling < best_before]
    return _Labels(cost[order], objective[order], origin[order])


def _most(problem: Problem, resource: str) -> float:
    """More of a resource than any choice takes."""
    own = sum(max(*row, 0.0) for row in problem.table(resource))
    tables = [problem.pair_table(pair, resource) for pair in problem.pairs]
    pairs = sum(max(max(*row, 0.0) for row in table) for table in tables if table is not None)
    return problem.fixed.get(resource, 0.0) + own + pairs + 1.0
