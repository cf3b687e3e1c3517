"""The allocation problem as numbers: units, their options, what each option loses and costs, and what may be spent.

Formula   minimise   sum_u loss[u][x_u] + sum_(u,v) loss_uv[x_u][x_v]
          such that  fixed_r + sum_u cost_r[u][x_u] + sum_(u,v) cost_r,uv[x_u][x_v] <= limit_r   for every limited r,
          tied units take options of the same number, pinned units the pinned one.
          Any resource may be minimised instead of the loss, which may then be limited like a resource
Shapes    tables [unit][option], ragged; pair tables [option of the left][option of the right]
Promise   values only: nothing here reads a graph
Needs     finite tables; only a pair's loss may be infinite, which forbids the two options together
Source    multiple-choice knapsack, Sinha and Zoltners 1979; pairwise terms and everything else own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qcompiler.errors import SpecError
from qcompiler.plan import Assignment

Table = Sequence[Sequence[float]]
"""One number for each unit and option, or for each two options of a pair."""
LOSS = "loss"
TOLERANCE = 1e-9
"""A limit counts as kept up to this part of itself: sums of floating point numbers depend on their order."""
Status = Literal["optimal", "feasible"]


@dataclass(frozen=True)
class Option:
    """One way to run the nodes of a unit.

    Args:
        name: the scheme that the user offered, or `float`; `scheme+method` for one with several widths inside.
        assignments: by node name; a node that is missing stays in float.
        base: the offered scheme behind it, where that is not its name.
    """

    name: str
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    base: str = ""

    @property
    def scheme(self) -> str:
        """Name of the offered scheme."""
        return self.base or self.name


@dataclass(frozen=True)
class Unit:
    """What is decided at once.

    Args:
        name: of its first node.
        options: what may be chosen, at least one.
        nodes: operators that get the same option, because they share a weight, a kernel or a grid.
        pinned: number of the option that is given, None when it is free.
    """

    name: str
    options: tuple[Option, ...]
    nodes: tuple[str, ...] = ()
    pinned: int | None = None


@dataclass(frozen=True)
class Pair:
    """What two units lose or cost together, beyond what each does alone.

    Args:
        left: number of a unit.
        right: number of another.
        loss: [option of left][option of right]; infinity forbids a combination.
        costs: tables of the same shape by resource, such as the latency of a change of format between the two.
    """

    left: int
    right: int
    loss: Table
    costs: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """The whole problem.

    Args:
        units: in any order.
        loss: [unit][option], the expected harm; additive.
        costs: [unit][option] by resource, such as `size` in bytes.
        limits: the most of each limited resource; `loss` may be limited too.
        fixed: what is used of a resource whatever is chosen.
        pairs: terms of two units, at most one for each two.
        ties: groups of units, by number, that must take options of the same number.
        minimise: `loss` or a resource.
    """

    units: tuple[Unit, ...]
    loss: Table
    costs: Mapping[str, Table] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    ties: tuple[tuple[int, ...], ...] = ()
    minimise: str = LOSS

    def __post_init__(self) -> None:
        sizes = [len(unit.options) for unit in self.units]
        for name in (LOSS, *self.costs):
            _check_table(name, self.table(name), sizes)
        unknown = sorted((set(self.limits) | {self.minimise}) - {LOSS, *self.costs})
        if unknown:
            raise SpecError(f"nothing is known of '{unknown[0]}'", mend=f"tables: {', '.join([LOSS, *self.costs])}")
        for unit in self.units:
            if unit.pinned is not None and not 0 <= unit.pinned < len(unit.options):
                raise SpecError(f"unit '{unit.name}' has no option {unit.pinned}", mend=f"{len(unit.options)} options")
        for group in self.ties:
            if len({sizes[unit] for unit in group}) > 1:
                names = ", ".join(self.units[unit].name for unit in group)
                raise SpecError(f"tied units have different numbers of options: {names}")
        for pair in self.pairs:
            _check_pair(pair, sizes)
        if len({frozenset((pair.left, pair.right)) for pair in self.pairs}) < len(self.pairs):
            raise SpecError("two pairs speak of the same units", mend="add their tables up")

    def table(self, name: str) -> Table:
        """The table of a resource or of the loss."""
        return self.loss if name == LOSS else self.costs[name]

    def pair_table(self, pair: Pair, name: str) -> Table | None:
        """The table of a pair, None when it has none for the resource."""
        return pair.loss if name == LOSS else pair.costs.get(name)

    def used(self, choice: Sequence[int], name: str) -> float:
        """How much of a resource, or of the loss, a choice takes; summed exactly, so in any order of units."""
        table = self.table(name)
        terms = [self.fixed.get(name, 0.0)]
        terms += [table[unit][option] for unit, option in enumerate(choice)]
        for pair in self.pairs:
            own = self.pair_table(pair, name)
            if own is not None:
                terms.append(own[choice[pair.left]][choice[pair.right]])
        return math.fsum(terms) if all(map(math.isfinite, terms)) else math.inf

    def feasible(self, choice: Sequence[int]) -> bool:
        """Whether a choice keeps every limit, tie and pin."""
        pinned = all(unit.pinned in (None, option) for unit, option in zip(self.units, choice, strict=True))
        tied = all(len({choice[unit] for unit in group}) <= 1 for group in self.ties)
        possible = not self.pairs or math.isfinite(self.used(choice, LOSS))
        return pinned and tied and possible and all(self.excess(choice, name) <= 0 for name in self.limits)

    def excess(self, choice: Sequence[int], name: str) -> float:
        """How far a choice is above a limit, negative when it is below; the tolerance is taken off."""
        limit = self.limits[name]
        return self.used(choice, name) - limit - TOLERANCE * max(abs(limit), 1e-300)


@dataclass(frozen=True)
class Solution:
    """A choice and how good it is.

    Args:
        choice: number of the option of each unit.
        objective: what was minimised.
        bound: no choice has a smaller objective; minus infinity when the solver knows none.
        used: of the loss and of every resource.
        limits: those of the problem.
        solver: who found it.
        seconds: wall time.
    """

    choice: tuple[int, ...]
    objective: float
    bound: float
    used: Mapping[str, float]
    limits: Mapping[str, float]
    solver: str
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """How far the objective may be above the best there is, as a part of itself; 0 when proven optimal."""
        return max(self.objective - self.bound, 0.0) / max(abs(self.objective), 1e-30)

    @property
    def status(self) -> Status:
        """Whether it is proven optimal, up to a part of a million."""
        return "optimal" if self.objective == self.bound or self.gap <= 1e-6 else "feasible"

    @property
    def slack(self) -> Mapping[str, float]:
        """What is left of each limit."""
        return {name: limit - self.used[name] for name, limit in self.limits.items()}


def make_solution(problem: Problem, choice: Sequence[int], bound: float, solver: str, seconds: float) -> Solution:
    """A solution whose numbers are counted anew from the problem; a bound above the objective is rounding."""
    used = {name: problem.used(choice, name) for name in (LOSS, *problem.costs)}
    objective = used[problem.minimise]
    return Solution(tuple(choice), objective, min(bound, objective), used, dict(problem.limits), solver, seconds)


def _check_table(name: str, table: Table, sizes: Sequence[int]) -> None:
    if [len(row) for row in table] != list(sizes):
        raise SpecError(f"table '{name}' does not have one number for each option of each unit")
    if not all(math.isfinite(value) for row in table for value in row):
        raise SpecError(f"table '{name}' holds NaN or infinity", mend="leave options out that are impossible")
    if 0 in sizes:
        raise SpecError("a unit has no option")


def _check_pair(pair: Pair, sizes: Sequence[int]) -> None:
    if pair.left == pair.right:
        raise SpecError("a pair needs two different units")
    for name, table in {LOSS: pair.loss, **pair.costs}.items():
        if len(table) != sizes[pair.left] or any(len(row) != sizes[pair.right] for row in table):
            raise SpecError(f"the pair of units {pair.left} and {pair.right} has a '{name}' of another shape")
        for row in table:
            forbidden = all(math.isfinite(value) or (name == LOSS and value == math.inf) for value in row)
            if not forbidden:
                raise SpecError(f"the pair of units {pair.left} and {pair.right} has a '{name}' that is no number")
