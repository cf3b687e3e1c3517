"""The solvers by name: one that proves its answer, one for a single resource, and heuristics to compare them with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from qcompiler.errors import SpecError
from qcompiler.passes.allocate.core import Core, Ints, make_core
from qcompiler.passes.allocate.dynamic_program import DynamicProgram
from qcompiler.passes.allocate.genetic import Genetic
from qcompiler.passes.allocate.greedy import greedy, one_shot
from qcompiler.passes.allocate.infeasible import infeasible
from qcompiler.passes.allocate.lagrangian import lagrangian_bound
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.problem import Problem, Solution, make_solution

SolverName = Literal["milp", "dynamic_program", "greedy", "one_shot", "genetic"]


class Solver(Protocol):
    """Finds a choice of a problem."""

    def solve(self, problem: Problem) -> Solution:
        """A choice that keeps the limits.

        Raises:
            InputError: when there is none; says which limit binds and the least that is possible.
        """
        ...


@dataclass(frozen=True)
class Heuristic:
    """A rule that gives a choice or none, with the Lagrangian bound as its certificate.

    Args:
        name: of the rule.
        rule: an option of each variable of a core, or None.
    """

    name: str
    rule: Callable[[Core], Ints | None]

    def solve(self, problem: Problem) -> Solution:
        """See `Solver`; where the rule fails and a choice exists, that of `milp` is returned."""
        found = self.attempt(problem) or Milp().attempt(problem)
        if found is None:
            raise infeasible(problem, Milp().attempt)
        return found

    def attempt(self, problem: Problem) -> Solution | None:
        """What the rule finds; None when it fails."""
        started = time.perf_counter()
        core = make_core(problem)
        picks = self.rule(core)
        if picks is None:
            return None
        bound = lagrangian_bound(core).value * core.unit + problem.fixed.get(problem.minimise, 0.0)
        return make_solution(problem, core.expand(picks), bound, self.name, time.perf_counter() - started)


def make_solver(name: SolverName, gap: float = 1e-6, seconds: float = 15.0) -> Solver:
    """The solver of a name.

    Args:
        name: see `SolverName`.
        gap: of `milp`, relative gap at which it may stop.
        seconds: of `milp`, time limit.

    Raises:
        SpecError: for an unknown name.
    """
    match name:
        case "milp":
            return Milp(gap, seconds)
        case "dynamic_program":
            return DynamicProgram()
        case "greedy":
            return Heuristic("greedy", lambda core: greedy(core, repair=False))
        case "one_shot":
            return Heuristic("one_shot", one_shot)
        case "genetic":
            return Heuristic("genetic", Genetic().search)
    raise SpecError(f"there is no solver '{name}'", mend=f"solvers: {', '.join(get_args(SolverName))}")
