"""When no choice keeps the limits: which one is to blame, and the least that it could be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qcompiler.errors import InputError
from qcompiler.passes.allocate.problem import Problem, Solution

Attempt = Callable[[Problem], Solution | None]
_TOLD = 4
"""Limits that are told of when they are only together too tight."""


def infeasible(problem: Problem, attempt: Attempt) -> InputError:
    """The error to raise.

    Args:
        problem: that has no solution.
        attempt: the best choice of a problem, None when there is none.
    """
    if attempt(replace(problem, limits={})) is None:
        return InputError(
            "no choice of options is allowed at all: pins, ties and forbidden pairs contradict each other",
            mend="pin fewer layers",
        )
    worst: dict[str, tuple[float, str]] = {}
    for name, limit in problem.limits.items():
        alone = attempt(replace(problem, minimise=name, limits={}))
        if alone is not None and not alone_fits(problem, name, alone):
            told = f"{name} can be {alone.objective:.7g} at least, and {limit:.7g} is allowed"
            kind, found = name.partition(" ")[0], (alone.objective - limit, told)
            # Peak memory is one limit for each step: the user named it once.
            worst[kind] = max(found, worst.get(kind, found), key=lambda pair: pair[0])
    if worst:
        return InputError(
            "the budget cannot be met: " + "; ".join(told for _, told in worst.values()),
            mend="allow that much, or offer options that take less",
        )
    texts: list[str] = []
    for name, limit in list(problem.limits.items())[:_TOLD]:
        others = {other: most for other, most in problem.limits.items() if other != name}
        rest = attempt(replace(problem, minimise=name, limits=others))
        if rest is not None:
            texts.append(f"{name} is then {rest.objective:.7g} at least, and {limit:.7g} is allowed")
    return InputError(
        "the limits of the budget cannot be met together; all others kept: " + "; ".join(texts),
        mend="allow more of one of them, or offer more options",
    )


def alone_fits(problem: Problem, name: str, solution: Solution) -> bool:
    """Whether one limit of a problem is kept."""
    return problem.excess(solution.choice, name) <= 0
