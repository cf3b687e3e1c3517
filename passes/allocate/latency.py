"""Latency as a cost: what each option of each unit takes, and what two units that share a value take together.

Formula   tables are differences of whole predictions from those of one plan: of one unit, and of two units that share a
          value directly or through one operator. They are exact where at most two units change at one place; so a
          choice is predicted as a whole, the tables are taken anew around it, and the problem is solved again
Shapes    tables [unit][option], pair tables [option of the left][option of the right]
Promise   the plan that is taken keeps the limit by the prediction of the whole plan, not by the tables
Needs     a predictor
Source    sequential linear programming; differences of whole predictions are own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import ClassVar

from qcompiler.errors import InputError
from qcompiler.ir.program import Program
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.measures import Costs
from qcompiler.passes.allocate.predictor import Predictor
from qcompiler.passes.allocate.problem import TOLERANCE, Option, Pair, Problem, Table, Unit
from qcompiler.passes.allocate.units import FLOAT, Offer
from qcompiler.pipeline import Context

RESOURCE = "latency"
Choice = tuple[int, ...]
_ROUNDS = 4
_SAME = 1e-12
"""Seconds that are nothing."""


@dataclass(frozen=True)
class Latency:
    """Seconds of one call.

    Args:
        offered: units and options.
        predictor: of the same program.
    """

    resource: ClassVar[str] = RESOURCE
    offered: Offer
    predictor: Predictor

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """See `Cost`; the tables are taken around the fastest uniform plan."""
        del program, units, ctx
        offered = self._with_float()
        starts = [offered.uniform(name) for name in (*offered.schemes, FLOAT)]
        return self.around(min(starts, key=lambda choice: self.predictor.seconds(offered.plan(choice))))

    def seconds(self, choice: Choice) -> float:
        """Of a whole choice, as it is predicted."""
        return self.predictor.seconds(self.offered.plan(choice))

    def around(self, base: Choice) -> Costs:
        """The tables that are exact near one choice; the option behind the last of each unit is float."""
        offered, units = self._with_float(), self.offered.units

        @cache
        def of(*changes: tuple[int, int]) -> float:
            choice = list(base)
            for unit, option in changes:
                choice[unit] = option
            return self.predictor.seconds(offered.plan(choice))

        least = of()
        table = [[of((unit, option)) - least for option in range(len(each.options))] for unit, each in enumerate(units)]
        pairs: dict[tuple[int, int], Table] = {}
        for left, right in _neighbours(offered):
            options = product(range(len(units[left].options)), range(len(units[right].options)))
            flat = [of((left, k), (right, m)) - least - table[left][k] - table[right][m] for k, m in options]
            if any(abs(value) > _SAME for value in flat):
                width = len(units[right].options)
                pairs[left, right] = [flat[start : start + width] for start in range(0, len(flat), width)]
        return _shifted(Costs(table, least, self.predictor.seconds({}), pairs))

    def _with_float(self) -> Offer:
        units = self.offered.units
        free = [replace(unit, options=(*unit.options, Option(FLOAT)), pinned=None) for unit in units]
        return replace(self.offered, units=tuple(free))


def settled(
    problem: Problem,
    latency: Latency,
    judge: Judge,
    choose: Callable[[Problem], tuple[Choice, str]],
    log: Callable[[str], None],
) -> tuple[Choice, str]:
    """The least harmful choice that keeps the limit of latency as predicted as a whole, and a line about it.

    Args:
        problem: with the tables of `latency.measure`.
        latency: the cost.
        judge: says how harmful a choice is.
        choose: solves a problem.
        log: takes one line for the user.

    Raises:
        InputError: when none keeps it; says the least that was found.
    """
    tried: dict[Choice, str] = {}
    limit = problem.limits[RESOURCE]
    near = problem
    for _ in range(_ROUNDS):
        try:
            choice, note = choose(near)
        except InputError:
            if not tried:
                raise
            break
        if choice in tried:
            break
        tried[choice] = note
        near = _with_latency(problem, latency.around(choice))
    others = replace(problem, limits={name: most for name, most in problem.limits.items() if name != RESOURCE})
    for name, choice in judge.uniform(others).items():
        tried.setdefault(choice, f"uniform {name} is taken: no mixed plan that keeps the limits is better")
        changed = quicker(others, latency, choice)
        tried.setdefault(changed, f"uniform {name} is taken with every change that makes it faster")
    taken = {choice: latency.seconds(choice) for choice in tried}
    kept = [choice for choice, seconds in taken.items() if seconds <= limit * (1 + TOLERANCE)]
    if not kept:
        raise InputError(
            f"the budget cannot be met: latency can be {min(taken.values()):.4g} s at least, and {limit:.4g} s is "
            "allowed",
            mend="allow that much, or offer options that are faster",
        )
    best = min(kept, key=lambda choice: judge.harm(problem, choice))
    log(f"latency {taken[best]:.4g} s of {limit:.4g} s, {latency.predictor.described()}")
    return best, tried[best]


def quicker(problem: Problem, latency: Latency, choice: Choice) -> Choice:
    """A choice after every change of one unit that makes the whole faster and keeps the limits, one after another.

    Tables add up what three and more units save together wrongly; this needs none.

    Args:
        problem: says what is within the limits; latency is none of them.
        latency: the cost.
        choice: where it starts.
    """
    least = latency.seconds(choice)
    for place, unit in enumerate(problem.units):
        for option in range(len(unit.options) if unit.pinned is None else 0):
            changed = (*choice[:place], option, *choice[place + 1 :])
            if changed != choice and latency.seconds(changed) < least * (1 - TOLERANCE) and problem.feasible(changed):
                choice, least = changed, latency.seconds(changed)
    return choice


def _with_latency(problem: Problem, costs: Costs) -> Problem:
    """The problem with other tables of latency."""
    return replace(
        problem,
        costs={**problem.costs, RESOURCE: costs.table},
        fixed={**problem.fixed, RESOURCE: costs.fixed},
        pairs=tuple(_pairs(problem, costs.pairs)),
    )


def _pairs(problem: Problem, tables: Mapping[tuple[int, int], Table]) -> Iterator[Pair]:
    left_over = dict(tables)
    for pair in problem.pairs:
        place = (pair.left, pair.right)
        others = {name: table for name, table in pair.costs.items() if name != RESOURCE}
        own = {RESOURCE: left_over.pop(place)} if place in left_over else {}
        yield replace(pair, costs=others | own)
    sizes = [len(unit.options) for unit in problem.units]
    for (left, right), table in left_over.items():
        yield Pair(left, right, [[0.0] * sizes[right] for _ in range(sizes[left])], {RESOURCE: table})


def _shifted(costs: Costs) -> Costs:
    """The same costs with no negative entry: the least of each table goes to what is fixed."""
    fixed, table, pairs = costs.fixed, [], {}
    for row in costs.table:
        fixed += min(row)
        table.append([value - min(row) for value in row])
    for place, matrix in costs.pairs.items():
        least = min(map(min, matrix))
        fixed += least
        pairs[place] = [[value - least for value in row] for row in matrix]
    return Costs(table, fixed, costs.reference, pairs)


def _neighbours(offered: Offer) -> list[tuple[int, int]]:
    """Pairs of units that share a value, directly or through one operator between them."""
    owner = {name: number for number, unit in enumerate(offered.units) for name in unit.nodes}
    found: dict[tuple[int, int], None] = {}
    for node in offered.program.nodes:
        touching: set[int] = set()
        for near in (node, *node.users, *node.all_input_nodes):
            touching.update(owner[each.name] for each in (near, *near.users) if each.name in owner)
            touching.update(owner[each.name] for each in near.all_input_nodes if each.name in owner)
        if node.name in owner or any(near.name in owner for near in (*node.users, *node.all_input_nodes)):
            found.update(dict.fromkeys(combinations(sorted(touching), 2)))
    return list(found)
