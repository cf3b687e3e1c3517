"""Padding moves to where it costs nothing: into the convolution behind it, or into one pad with its neighbour.

Formula   conv(pad0(x, p), padding=q) = conv(x, padding=q + p) for p equal at both ends, else conv(pad0(x, p + q));
          pad(pad(x, p), q) = pad(x, p + q)
Shapes    any
Promise   Exact: the same numbers
Needs     normalized spelling
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.pipeline import Context, Exact, Promise

PAD = "aten.constant_pad_nd"
_COUNTS = {"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}


@dataclass(frozen=True)
class MergePads:
    """Merges constant padding."""

    name: ClassVar[str] = "merge_pads"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with fewer pads."""
        for node in program.nodes:
            op = program.op(node)
            source = node.args[0] if op == PAD or op in _COUNTS else None
            amounts = pad_amounts(program, source)
            if amounts is None or not isinstance(source, Node):
                continue
            if op == PAD:
                self.join(program, node, source, amounts)
            else:
                self.absorb(program, node, source, amounts, _COUNTS[op])
        return program

    def join(self, program: Program, outer: Node, inner: Node, first: list[int]) -> None:
        """Pads once by both amounts."""
        second = pad_amounts(program, outer)
        if second is None or outer.args[2] != inner.args[2]:
            return
        length = max(len(first), len(second))
        padded = [amounts + [0] * (length - len(amounts)) for amounts in (first, second)]
        total = [a + b for a, b in zip(*padded, strict=True)]
        program.set_args(outer, (inner.args[0], total, outer.args[2]))

    def absorb(self, program: Program, conv: Node, pad: Node, amounts: list[int], count: int) -> None:
        """Lets a convolution pad by itself, or where the ends differ leaves all of it to the pad."""
        ends = [amounts[2 * axis : 2 * axis + 2] for axis in range(len(amounts) // 2)]
        own = conv.args[4]
        if pad.args[2] != 0 or any(any(end) for end in ends[count:]) or not isinstance(own, list | tuple):
            return
        ends += [[0, 0]] * (count - len(ends))
        begins = [end[0] + size for end, size in zip(ends, reversed(own), strict=False)]  # pyright: ignore[reportOperatorIssue]
        finals = [end[1] + size for end, size in zip(ends, reversed(own), strict=False)]  # pyright: ignore[reportOperatorIssue]
        if begins == finals:
            program.set_args(conv, (pad.args[0], *conv.args[1:4], begins[::-1], *conv.args[5:]))
        elif any(own):
            total = [size for pair in zip(begins, finals, strict=True) for size in pair]
            alone = program.before(conv, self.name).call(PAD, pad.args[0], total, 0.0, name=pad.name)
            program.set_args(conv, (alone, *conv.args[1:4], [0] * count, *conv.args[5:]))


def pad_amounts(program: Program, node: object) -> list[int] | None:
    """Amounts of a constant pad that only adds; None for anything else."""
    if not isinstance(node, Node) or program.op(node) != PAD or not isinstance(node.args[1], list | tuple):
        return None
    amounts = [amount for amount in node.args[1] if isinstance(amount, int) and amount >= 0]
    return amounts if len(amounts) == len(node.args[1]) else None
