"""Whole plans tried as they are: the guard that no allocation is worse than one scheme everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.passes.allocate.deployed import Tries
from qcompiler.passes.allocate.harm import divergences, errors
from qcompiler.passes.allocate.problem import LOSS, Problem, Solution
from qcompiler.passes.allocate.sensitivity import judged_by
from qcompiler.passes.allocate.solvers import Solver
from qcompiler.passes.allocate.time_ranges import Ranges
from qcompiler.passes.allocate.units import Offer

_ROUNDS = 8
_FLATTEST = 1e-4
"""The least predicted loss that is tried, as a part of the largest."""
Choice = tuple[int, ...]
Balance = Literal["worst", "mean"]


@dataclass(frozen=True)
class Judge:
    """Tries whole plans.

    Args:
        offered: units and options.
        trial: of the program; None without data, then the predicted loss counts.
        sensitivity: name of what filled the loss table; those of distributions are judged by divergence, all others
            by squared error.
        ranges: of an input that plans are judged by; None judges by the mean of all samples.
        balance: the worst range counts, or the mean of the ranges.
    """

    offered: Offer
    trial: Tries | None
    sensitivity: str
    ranges: Ranges | None = None
    balance: Balance = "worst"

    @property
    def by_divergence(self) -> bool:
        """Whether results are compared as distributions."""
        return judged_by(self.sensitivity, self.offered.program) == "divergence"

    @property
    def kind(self) -> str:
        """What `harm` is."""
        if self.trial is None:
            return "predicted loss"
        kind = "divergence of the results" if self.by_divergence else "error of the results"
        return kind if self.ranges is None else f"{kind} ({self.balance} range)"

    def harm(self, problem: Problem, choice: Choice) -> float:
        """Of a whole plan: measured where there is data, else predicted."""
        if self.trial is None:
            return problem.used(choice, LOSS)
        results = self.trial.results(self.offered.plan(choice))
        return self._whole(divergences(results) if self.by_divergence else errors(results))

    def drop(self, choice: Choice) -> float:
        """The squared error of the results as a part of their square, of ranges as they are balanced.

        Raises:
            InputError: without data.
        """
        if self.trial is None:
            raise InputError(
                "max_drop is measured on real samples, and there is no calibration data", mend="pass calibration=..."
            )
        return self._whole(errors(self.trial.results(self.offered.plan(choice))))

    def by_range(self, choice: Choice) -> str:
        """A line about the harm of each range; empty without ranges or data."""
        if self.trial is None or self.ranges is None:
            return ""
        results = self.trial.results(self.offered.plan(choice))
        return f"{self.kind}, " + self.ranges.describe(divergences(results) if self.by_divergence else errors(results))

    def _whole(self, harms: Tensor) -> float:
        """One number for the harms of samples."""
        if self.ranges is None:
            return float(harms.mean())
        parts = self.ranges.by_range(harms)
        return max(parts) if self.balance == "worst" else math.fsum(parts) / len(parts)

    def plans(self) -> Mapping[str, Choice]:
        """The uniform plans, by scheme."""
        return {name: self.offered.uniform(name) for name in self.offered.schemes}

    def uniform(self, problem: Problem) -> Mapping[str, Choice]:
        """The uniform plans that keep the limits, by scheme."""
        return {name: choice for name, choice in self.plans().items() if problem.feasible(choice)}

    def best(self, problem: Problem, choices: Sequence[Choice]) -> tuple[Choice, str]:
        """The best of some choices and of the uniform plans within the limits, and a line about it."""
        measured = [self.harm(problem, choice) for choice in choices]
        best = min(range(len(choices)), key=measured.__getitem__)
        rivals = {name: (self.harm(problem, choice), choice) for name, choice in self.uniform(problem).items()}
        if not rivals:
            return choices[best], f"{self.kind} {measured[best]:.4g}; no uniform plan keeps the budget"
        name, (rival, choice) = min(rivals.items(), key=lambda item: item[1][0])
        if rival < measured[best]:
            note = f"{self.kind} {rival:.4g} of uniform {name}, which is taken: the mixed plan has {measured[best]:.4g}"
            return choice, note
        return choices[best], f"{self.kind} {measured[best]:.4g}; of the best uniform plan, {name}, {rival:.4g}"

    def least(self, problem: Problem, solver: Solver, resource: str, allowed: float) -> tuple[Choice, str]:
        """The plan that takes least of a resource and whose measured error is allowed, and a line about it.

        The predicted loss is bounded, and the bound found by bisection of its logarithm: how it relates to the measured
        error need not be known.

        Raises:
            InputError: when even the least lossy plan has a larger error.
        """
        richest = solver.solve(replace(problem, minimise=LOSS))
        tried = {richest.choice: self.drop(richest.choice)}
        if tried[richest.choice] > allowed:
            raise InputError(
                f"the budget cannot be met: max_drop can be {tried[richest.choice]:.4g} at least, and {allowed:.4g} is "
                "allowed",
                mend="allow that much, or offer schemes with more bits",
            )
        found = [richest]
        high = math.fsum(max(row) for row in problem.loss)
        low = max(richest.used[LOSS], _FLATTEST * high)
        for _ in range(_ROUNDS):
            middle = math.sqrt(low * high)
            bounded = replace(problem, minimise=resource, limits={**problem.limits, LOSS: middle})
            solution = _attempt(solver, bounded)
            if solution is not None and tried.setdefault(solution.choice, self.drop(solution.choice)) <= allowed:
                found.append(solution)
                low = middle
            else:
                high = middle
        best = min(found, key=lambda solution: solution.used[resource])
        choice, used, name = best.choice, best.used[resource], "mixed"
        for scheme, rival in self.uniform(problem).items():
            if problem.used(rival, resource) < used and self.drop(rival) <= allowed:
                choice, used, name = rival, problem.used(rival, resource), f"uniform {scheme}"
        return choice, f"{name} plan: {resource} {used:.6g}, error of the results {self.drop(choice):.4g}"


def _attempt(solver: Solver, problem: Problem) -> Solution | None:
    try:
        return solver.solve(problem)
    except InputError:
        return None
