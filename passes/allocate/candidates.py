"""Whole plans that are tried against each other: the solver's, near ones, and those of other loss tables or budgets.

Formula   the solver's best choice, with ranges under the least limit on each; then the next best ones, the greedy one,
          and the best ones of other tables. With split budgets: the best choice of each split
Shapes    tables [unit][option]
Promise   every candidate keeps the limits
Needs     a solver
Source    see `decoupled` and `time_ranges`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qcompiler.errors import InputError
from qcompiler.passes.allocate.decoupled import split_budgets
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.problem import LOSS, Problem, Solution, Table
from qcompiler.passes.allocate.solvers import Solver, make_solver
from qcompiler.passes.allocate.time_ranges import least_worst

Choice = tuple[int, ...]
_TOLD = 4


@dataclass(frozen=True)
class Candidates:
    """What is tried.

    Args:
        solver: that solves.
        following: finds the next best choices; None where there is only one.
        count: how many best choices are tried.
        guard: try whole plans, and take the best; else the solver's is taken.
        others: loss tables besides the problem's.
        apart: loss tables of ranges of which none may suffer.
        groups: group of each unit, where each has a budget of its own; empty for one budget.
        log: is told of the solution.
    """

    solver: Solver
    following: Milp | None
    count: int
    guard: bool
    others: Sequence[Table]
    apart: Sequence[Table]
    groups: Sequence[int]
    log: Callable[[str], None]

    def best(self, problem: Problem, judge: Judge) -> tuple[Choice, str]:
        """The choice within the limits that is best as a whole, and a line about it.

        Raises:
            InputError: when no choice keeps the limits.
        """
        if self.groups:
            return judge.best(problem, self._split(problem))
        limited = least_worst(problem, self.apart, self.solver) if self.apart else problem
        solution = self.solver.solve(limited)
        self.log(describe_solution(limited, solution))
        if self.guard:
            return judge.best(problem, self._all(problem, solution))
        return solution.choice, f"predicted loss {solution.used[LOSS]:.4g}"

    def _all(self, problem: Problem, first: Solution) -> list[Choice]:
        """The best choices, best first, the greedy one, and those of other loss tables."""
        choices = [first.choice]
        while self.following is not None and len(choices) < self.count:
            following = self.following.attempt(problem, choices)
            if following is None:
                break
            choices.append(following.choice)
        choices.append(make_solver("greedy").solve(problem).choice)
        losses = [*self.others, *([problem.loss] if self.apart else [])]
        choices += [self.solver.solve(replace(problem, loss=loss)).choice for loss in losses]
        return list(dict.fromkeys(choices))

    def _split(self, problem: Problem) -> list[Choice]:
        """The best choice of each split of the budget that can be kept; of the whole budget where none can."""
        found: list[Choice] = []
        splits = split_budgets(problem, self.groups)
        for split in splits:
            try:
                found.append(self.solver.solve(split).choice)
            except InputError:
                continue
        self.log(f"{len(found)} of {len(splits)} splits of the budget can be kept")
        return list(dict.fromkeys(found)) or [self.solver.solve(problem).choice]


def describe_solution(problem: Problem, solution: Solution) -> str:
    """How good a solution is proven to be, and what it takes of each limit."""
    tightest = sorted(problem.limits, key=lambda name: solution.slack[name] / max(abs(problem.limits[name]), 1e-300))
    parts = [f"{name} {solution.used[name]:.6g} of {problem.limits[name]:.6g}" for name in tightest[:_TOLD]]
    proof = f"{problem.minimise} {solution.objective:.4g}, at least {solution.bound:.4g}, gap {solution.gap:.2g}"
    return "; ".join([f"{solution.solver}: {proof}, in {solution.seconds:.2f} s", *parts])
