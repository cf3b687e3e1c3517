"""Branches whose results differ in rank: the one after which the rest of the model has shapes is the one that is meant.

Exporters write such a branch for code like `if x.shape[2] == 1: x = x.squeeze(2)`. No type says both results, but often
the layers behind take only one of them, whatever the sizes: on the other way the model could not run anywhere. Only
conditions on sizes are decided so, and only when every import with other example sizes fails on the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir

from qcompiler.errors import UnsupportedError, VerifyError
from qcompiler.ir.program import Program

Decisions = Mapping[onnx_ir.Node, str]
BRANCHES = ("then_branch", "else_branch")


class BranchesDifferError(UnsupportedError):
    """An `If` whose branches have results that no type says both.

    Args:
        error: what is to be said when neither branch can be ruled out.
        node: the `If`.
    """

    def __init__(self, error: UnsupportedError, node: onnx_ir.Node) -> None:
        super().__init__(error.what, where=error.where, step=error.step, mend=error.mend)
        self.node = node


def settled(
    attempt: Callable[[int, Decisions], Program], scales: Sequence[int], scale: int, decided: Decisions
) -> Program:
    """The program with every such branch decided.

    Args:
        attempt: imports the model with example sizes at a scale, some branches decided.
        scales: all that may be tried.
        scale: to import with.
        decided: which branch of which node to take.

    Raises:
        BranchesDifferError: when the rest of the model has shapes behind either branch.
        VerifyError: when it has none behind both, or no branch is at fault.
    """
    try:
        return attempt(scale, decided)
    except BranchesDifferError as error:
        differ = error
    found: dict[str, Program] = {}
    failure: VerifyError | None = None
    for branch in BRANCHES:
        try:
            found[branch] = settled(attempt, scales, scale, {**decided, differ.node: branch})
        except VerifyError as error:
            failure = error
    if failure is None or not found:
        raise failure or differ
    ((taken, program),) = found.items()
    other = {**decided, differ.node: next(branch for branch in BRANCHES if branch != taken)}
    if any(_has_shapes(attempt, each, other) for each in scales if each != scale):
        raise differ
    return program


def _has_shapes(attempt: Callable[[int, Decisions], Program], scale: int, decided: Decisions) -> bool:
    try:
        attempt(scale, decided)
    except VerifyError:
        return False
    except UnsupportedError:
        return True
    return True
