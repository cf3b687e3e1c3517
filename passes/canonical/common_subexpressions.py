"""Common subexpressions: equal calls of equal arguments are computed once.

Formula   two nodes are equal when operator, arguments and result type are; the later one's readers read the earlier one
Shapes    any
Promise   Structural
Needs     nothing; random operators are left alone
Source    own
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.site import is_random
from qcompiler.pipeline import Context, Promise, Structural


@dataclass(frozen=True)
class CommonSubexpressions:
    """Merges equal nodes."""

    name: ClassVar[str] = "common_subexpressions"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Structural()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without repeated work; results that were distinct outputs stay so."""
        outputs = set(program.outputs)
        seen: dict[Hashable, Node] = {}
        for node in program.nodes:
            if is_random(node):
                continue
            key = (program.op(node), _key(node.args), _key(node.kwargs), program.type(node))
            first = seen.setdefault(key, node)
            if first is not node and node not in outputs:
                program.replace(node, first)
        return program


def _key(value: object) -> Hashable:
    """A hashable image of nested arguments in which 1, 1.0 and true differ."""
    if isinstance(value, list | tuple):
        return tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _key(item)) for key, item in value.items()))
    if isinstance(value, bool | int | float):
        return type(value).__name__, repr(value)
    return value  # pyright: ignore[reportReturnType]
