"""Rearrangements in a row become one, and those that do nothing go.

Formula   permute(permute(x, p), q) = permute(x, p[q]);  reshape(reshape(x)) = reshape(x);  a reshape that only drops
          axes of size one is a squeeze;  squeeze(slice(x, i, i + 1)) = select(x, i)
Shapes    any
Promise   Exact: the same numbers
Needs     normalized spelling
Source    own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import Dim
from qcompiler.pipeline import Context, Exact, Promise

PERMUTE, RESHAPE, SQUEEZE = "aten.permute", "aten.reshape", "aten.squeeze.dims"


@dataclass(frozen=True)
class FusePermutes:
    """Fuses permutes with permutes and reshapes with reshapes."""

    name: ClassVar[str] = "fuse_permutes"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with fewer rearrangements."""
        for node in program.nodes:
            op = program.op(node)
            if op == PERMUTE:
                self.permute(program, node)
            elif op == RESHAPE:
                self.reshape(program, node)
            elif op == SQUEEZE:
                self.squeeze(program, node)
        return program

    def permute(self, program: Program, node: Node) -> None:
        """Reads past an earlier permute; goes when nothing moves."""
        source, dims = node.args[0], axes_of(node)
        if isinstance(source, Node) and program.op(source) == PERMUTE:
            inner = axes_of(source)
            dims, source = [inner[axis] for axis in dims], source.args[0]
            program.set_args(node, (source, dims))
        if isinstance(source, Node) and dims == list(range(len(dims))):
            program.replace(node, source)

    def reshape(self, program: Program, node: Node) -> None:
        """Reads past earlier reshapes, squeezes and unsqueezes; goes when nothing changes."""
        source = node.args[0]
        if isinstance(source, Node) and program.op(source) in (RESHAPE, "aten.unsqueeze", SQUEEZE):
            before = program.type(node)
            program.set_args(node, (source.args[0], *node.args[1:]))
            if program.type(node) != before:
                program.set_args(node, (source, *node.args[1:]))
            source = node.args[0]
        if not isinstance(source, Node):
            return
        dropped = dropped_axes(program.shape(source), program.shape(node))
        if dropped == []:
            program.replace(node, source)
        elif dropped is not None:
            squeezed = program.before(node, self.name).call(SQUEEZE, source, dropped, name="squeeze")
            program.replace(node, squeezed)
            self.squeeze(program, squeezed)

    def squeeze(self, program: Program, node: Node) -> None:
        """Goes after an unsqueeze of the same axis; becomes a select when it drops the axis of a slice of one."""
        source = node.args[0]
        if not isinstance(source, Node):
            return
        undone = program.op(source) == "aten.unsqueeze" and node.args[1] == [source.args[1]]
        if undone and isinstance(source.args[0], Node):
            program.replace(node, source.args[0])
        if program.op(source) != "aten.slice.Tensor":
            return
        x, axis, start, _, step = source.args
        if node.args[1] == [axis] and isinstance(start, int) and start >= 0 and step == 1:
            chosen = program.before(node, self.name).call("aten.select.int", x, axis, start, name="select")
            program.replace(node, chosen)


def dropped_axes(before: Sequence[Dim], after: Sequence[Dim]) -> list[int] | None:
    """The axes of size one that are gone; None when anything else changed."""
    dropped: list[int] = []
    rest = list(after)
    for axis, dim in enumerate(before):
        if rest and rest[0] == dim:
            rest.pop(0)
        elif dim == 1:
            dropped.append(axis)
        else:
            return None
    return None if rest else dropped


def axes_of(node: Node) -> list[int]:
    """The axes of a permute."""
    dims = node.args[1]
    return [int(axis) for axis in dims] if isinstance(dims, list | tuple) else []  # pyright: ignore[reportArgumentType]
