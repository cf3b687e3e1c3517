"""The frontier of two resources: the choices that no other beats in both; by dynamic program or budget by budget.

Formula   all pairs (resource, objective) that no other dominates; or the optimum at each of several limits
Shapes    one solution per point, cheapest first
Promise   exact without other limits; else every point is optimal for its own limit, up to the solver's gap
Needs     a problem; the objective may be the loss or any resource
Source    Cai et al. 2020, "ZeroQ" (frontier of size and loss); curves as the way to compare allocations after
          Abdolrashidi et al. 2021
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qcompiler.errors import SpecError
from qcompiler.frontier import Frontier, Point
from qcompiler.passes.allocate.dynamic_program import DynamicProgram
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.problem import LOSS, Problem, Solution, make_solution

_POINTS, _GAP, _SECONDS = 16, 1e-3, 3.0


@dataclass(frozen=True)
class Axes:
    """What a frontier is drawn of.

    Args:
        resource: that is limited step by step.
        objective: that is minimised.
    """

    resource: str
    objective: str = LOSS

    @staticmethod
    def parse(text: str) -> list[Axes]:
        """Reads `size`, `size:loss` or `size:latency`, `|` between several; raises SpecError."""
        pairs = [word.strip().partition(":") for word in text.split("|") if word.strip()]
        found = [Axes(resource.strip(), objective.strip() or LOSS) for resource, _, objective in pairs]
        if any(not axes.resource or axes.resource in (axes.objective, LOSS) for axes in found):
            raise SpecError(f"'{text}' names no two resources", mend="for example size, or size:latency|average_bits")
        return found


def pareto(problem: Problem, axes: Axes, uniform: Mapping[str, Sequence[int]], chosen: Sequence[int]) -> Frontier:
    """The frontier of two resources, with the uniform plans and the chosen one beside it; all harm is predicted.

    Args:
        problem: whose limits are not looked at.
        axes: the two resources.
        uniform: choices by name of the scheme.
        chosen: the choice that was taken.

    Raises:
        InputError: when no choice is possible.
    """
    asked = replace(problem, minimise=axes.objective, limits={})
    beside = {problem.used(choice, axes.resource) for choice in (*uniform.values(), chosen)}
    found = frontier(asked, axes.resource, _POINTS, Milp(_GAP, _SECONDS), beside)

    def point(name: str, choice: Sequence[int]) -> Point:
        return Point(name, problem.used(choice, axes.resource), problem.used(choice, axes.objective))

    return Frontier(
        axes.resource,
        axes.objective,
        tuple(point("", solution.choice) for solution in found),
        tuple(Point("", solution.used[axes.resource], solution.bound) for solution in found),
        tuple(point(name, choice) for name, choice in uniform.items()),
        point("chosen", chosen),
        problem.limits.get(axes.resource),
    )


def exact_frontier(problem: Problem, resource: str) -> list[Solution]:
    """Every point of the frontier of the objective and a resource; limits are not looked at.

    Raises:
        UnsupportedError: when there are too many points; see `frontier`.
    """
    free = replace(problem, limits={})
    choices = DynamicProgram().frontier(free, resource)
    return [make_solution(free, choice, free.used(choice, free.minimise), "dynamic_program", 0.0) for choice in choices]


def frontier(
    problem: Problem, resource: str, points: int = 12, solver: Milp | None = None, at: Iterable[float] = ()
) -> list[Solution]:
    """The optimum at limits of a resource that grow by one factor, all other limits of the problem kept.

    Args:
        problem: whose own limit of the resource, if any, is not looked at.
        resource: that is limited.
        points: how many, at least 2.
        solver: with its gap and time limit.
        at: further limits.

    Returns:
        the solutions that no other one dominates.

    Raises:
        InputError: when no choice keeps the other limits.
    """
    solver = solver or Milp()
    others = {name: limit for name, limit in problem.limits.items() if name != resource}
    cheapest = solver.solve(replace(problem, minimise=resource, limits=others))
    richest = solver.solve(replace(problem, limits=others))
    low, high = cheapest.objective, richest.used[resource]
    found = [richest]
    shares = [number / max(points - 1, 1) for number in range(points - 1)]
    limits = [low * (high / low) ** share if low > 0 else low + (high - low) * share for share in shares]
    for limit in sorted({*limits, *at}):
        solution = solver.attempt(replace(problem, limits={**others, resource: limit}))
        found += [solution] if solution is not None else []
    return undominated(found, resource)


def undominated(solutions: Sequence[Solution], resource: str) -> list[Solution]:
    """Those that no other one beats in both the objective and a resource, cheapest first."""
    best, kept = float("inf"), []
    for solution in sorted(solutions, key=lambda one: (one.used[resource], one.objective)):
        if solution.objective < best:
            best = solution.objective
            kept.append(solution)
    return kept


def knee(solutions: Sequence[Solution], resource: str) -> int:
    """Number of the point that lies farthest below the straight line between the ends."""
    first, last = solutions[0], solutions[-1]
    wide = last.used[resource] - first.used[resource] or 1.0
    tall = first.objective - last.objective or 1.0

    def depth(solution: Solution) -> float:
        across = (solution.used[resource] - first.used[resource]) / wide
        return 1.0 - across - (solution.objective - last.objective) / tall

    return max(range(len(solutions)), key=lambda number: depth(solutions[number]))


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that points (resource, objective) dominate below a reference point; larger is better."""
    area, height = 0.0, reference[1]
    for across, value in sorted(points):
        if across < reference[0] and value < height:
            area += (reference[0] - across) * (height - value)
            height = value
    return area
