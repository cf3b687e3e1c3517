"""The allocation as a mixed-integer linear program: HiGHS, on what the Lagrangian bound leaves undecided.

Formula   x_uk binary, sum_k x_uk = 1; pairs as y_km >= 0 with sum_m y_km = x_uk and sum_k y_km = x_vm, which is tighter
          than three inequalities for each product. An option whose reduced cost takes the bound above a known choice is
          fixed to 0 beforehand
Shapes    see `core.Core`
Promise   the solution keeps every limit, counted anew; its bound is proven by HiGHS and by the Lagrangian
Needs     highspy; one thread and a fixed seed, so that the same problem gives the same choice
Source    Huangfu and Hall 2018 (HiGHS); reduced-cost fixing after Dantzig, Fulkerson and Johnson 1954; the local
          polytope after Schlesinger 1976
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from qcompiler.errors import InputError
from qcompiler.passes.allocate.core import Core, Floats, Ints, make_core, within
from qcompiler.passes.allocate.greedy import greedy, greedy_from
from qcompiler.passes.allocate.infeasible import infeasible
from qcompiler.passes.allocate.lagrangian import Bound, lagrangian_bound
from qcompiler.passes.allocate.problem import Problem, Solution, make_solution

_TIGHTENINGS = 4
_INFINITY = highspy.kHighsInf


@dataclass(frozen=True)
class Milp:
    """Solves by HiGHS.

    Args:
        gap: relative gap at which the search may stop; 0 proves the optimum.
        seconds: time limit of the search; the best choice so far is returned with its gap.
    """

    gap: float = 1e-6
    seconds: float = 60.0

    def solve(self, problem: Problem, forbidden: Sequence[Sequence[int]] = ()) -> Solution:
        """The best choice.

        Args:
            problem: see `Problem`.
            forbidden: choices that may not be returned, which gives the second best and so on.

        Raises:
            InputError: when no choice keeps the limits; says which one binds and the least that is possible.
        """
        found = self.attempt(problem, forbidden)
        if found is None:
            raise infeasible(problem, self.attempt)
        return found

    def attempt(self, problem: Problem, forbidden: Sequence[Sequence[int]] = ()) -> Solution | None:
        """As `solve`; None when no choice keeps the limits."""
        started = time.perf_counter()
        core = make_core(problem, prune=not forbidden)
        bound = lagrangian_bound(core)
        known = None if forbidden else _start(core, bound)
        picks, proven = self._searched(core, bound, known, forbidden)
        if picks is None:
            return None
        value = max(proven, bound.value) * core.unit + problem.fixed.get(problem.minimise, 0.0)
        return make_solution(problem, core.expand(picks), value, "milp", time.perf_counter() - started)

    def _searched(
        self, core: Core, bound: Bound, known: Ints | None, forbidden: Sequence[Sequence[int]]
    ) -> tuple[Ints | None, float]:
        """The best choice of the core and what HiGHS proves of it."""
        if known is not None:
            value = core.value(known)
            if value - bound.value <= self.gap * abs(value):
                return known, bound.value
            core = core.without(bound.reduced > value - bound.value + 1e-9 * max(abs(value), 1.0))
        margins = np.zeros(len(core.limits))
        for _ in range(_TIGHTENINGS):
            program = _Program(core, margins, forbidden)
            picks, proven = program.run(self, known)
            if picks is None:
                return known, -np.inf
            over = core.usage(picks) - core.limits
            if within(core, core.usage(picks)):
                better = known is None or core.value(picks) <= core.value(known)
                return (picks if better else known), proven
            margins = np.maximum(margins, np.maximum(over, 0.0) * 2)
        return known, -np.inf


def _start(core: Core, bound: Bound) -> Ints | None:
    """A good choice to begin with: that of the prices, mended; else the greedy one."""
    if not np.isfinite(bound.value):
        return None
    found = [picks for picks in (greedy_from(core, bound.picks),) if picks is not None] or [
        picks for picks in (greedy(core),) if picks is not None
    ]
    return min(found, key=core.value) if found else None


class _Program:
    """The rows and columns of a core, those of decided variables left out."""

    def __init__(self, core: Core, margins: Floats, forbidden: Sequence[Sequence[int]]) -> None:
        self.core = core
        self.places = [(int(v), int(k)) for v, k in np.argwhere(core.alive)]
        self.column = {place: number for number, place in enumerate(self.places)}
        self.highs = highspy.Highs()
        self.costs = [float(core.objective[place]) for place in self.places]
        self.rows: list[tuple[float, float, list[int], list[float]]] = []
        self._one_each()
        pair_columns = self._pairs()
        self._limits(margins, pair_columns)
        for choice in forbidden:
            self._forbid(choice)

    def run(self, how: Milp, known: Ints | None) -> tuple[Ints | None, float]:
        """The best choice, None when there is none, and the bound.

        Raises:
            InputError: when the time was over before a single choice was found.
        """
        self._load(how)
        if known is not None:
            self._hint(known)
        self.highs.run()
        info, status = self.highs.getInfo(), self.highs.getModelStatus()
        found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        if not found:
            if status == highspy.HighsModelStatus.kTimeLimit:
                raise InputError(f"no choice was found in {how.seconds:g} s", mend="allow more seconds")
            return None, -np.inf
        values = np.array(self.highs.getSolution().col_value[: len(self.places)])
        picks = np.zeros(self.core.variables, dtype=np.int64)
        best = np.full(self.core.variables, -1.0)
        for value, (variable, option) in zip(values, self.places, strict=True):
            if value > best[variable]:
                best[variable], picks[variable] = value, option
        proven = info.mip_dual_bound
        return picks, float(proven) if np.isfinite(proven) else -np.inf

    def _one_each(self) -> None:
        for variable in range(self.core.variables):
            columns = [self.column[variable, int(k)] for k in np.flatnonzero(self.core.alive[variable])]
            self.rows.append((1.0, 1.0, columns, [1.0] * len(columns)))

    def _pairs(self) -> list[tuple[int, int, int, int]]:
        """Columns for what two options do together; [column, pair, option of the left, option of the right]."""
        made: list[tuple[int, int, int, int]] = []
        for number, (left, right) in enumerate(self.core.ends.tolist()):
            table = self.core.pair_objective[number]
            by_end: dict[tuple[int, int], list[int]] = {}
            for k in np.flatnonzero(self.core.alive[left]).tolist():
                by_end.setdefault((left, k), [])
            for m in np.flatnonzero(self.core.alive[right]).tolist():
                by_end.setdefault((right, m), [])
            for k, m in np.argwhere(np.isfinite(table)).tolist():
                column = len(self.costs)
                self.costs.append(float(table[k, m]))
                made.append((column, number, k, m))
                by_end[left, k].append(column)
                by_end[right, m].append(column)
            for place, columns in by_end.items():
                self.rows.append((0.0, 0.0, [*columns, self.column[place]], [1.0] * len(columns) + [-1.0]))
        return made

    def _limits(self, margins: Floats, pair_columns: Sequence[tuple[int, int, int, int]]) -> None:
        for resource, limit in enumerate(self.core.limits):
            own = [float(self.core.costs[(resource, *place)]) for place in self.places]
            pairs = [float(self.core.pair_costs[resource, pair, k, m]) for _, pair, k, m in pair_columns]
            columns = [*range(len(self.places)), *(column for column, *_ in pair_columns)]
            self.rows.append((-_INFINITY, float(limit - margins[resource]), columns, own + pairs))

    def _forbid(self, choice: Sequence[int]) -> None:
        """At least one variable must differ."""
        picks = [choice[group[0]] for group in self.core.groups]
        columns = [self.column[place] for place in enumerate(picks) if place in self.column]
        if len(columns) == self.core.variables:
            self.rows.append((-_INFINITY, len(columns) - 1.0, columns, [1.0] * len(columns)))

    def _load(self, how: Milp) -> None:
        highs, count = self.highs, len(self.costs)
        highs.setOptionValue("output_flag", False)
        for name, value in (
            ("threads", 1),
            ("random_seed", 0),
            ("time_limit", how.seconds),
            ("mip_rel_gap", how.gap),
            ("mip_abs_gap", 0.0),
            ("mip_feasibility_tolerance", 1e-9),
            ("primal_feasibility_tolerance", 1e-9),
            ("dual_feasibility_tolerance", 1e-9),
        ):
            highs.setOptionValue(name, value)
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = count, len(self.rows)
        program.col_cost_ = np.array(self.costs)
        program.col_lower_, program.col_upper_ = np.zeros(count), np.ones(count)
        program.row_lower_ = np.array([row[0] for row in self.rows])
        program.row_upper_ = np.array([row[1] for row in self.rows])
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.cumsum([0, *(len(row[2]) for row in self.rows)]).astype(np.int32)
        program.a_matrix_.index_ = np.array([c for row in self.rows for c in row[2]], dtype=np.int32)
        program.a_matrix_.value_ = np.array([v for row in self.rows for v in row[3]])
        binary, free = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
        program.integrality_ = [binary] * len(self.places) + [free] * (count - len(self.places))
        highs.passModel(program)

    def _hint(self, known: Ints) -> None:
        solution = highspy.HighsSolution()
        values = [float(known[variable] == option) for variable, option in self.places]
        chosen = {(int(v), int(k)) for v, k in enumerate(known)}
        for number, (left, right) in enumerate(self.core.ends.tolist()):
            for k, m in np.argwhere(np.isfinite(self.core.pair_objective[number])).tolist():
                values.append(float((left, k) in chosen and (right, m) in chosen))
        solution.col_value = values
        self.highs.setSolution(solution)
