"""Sums that are made before their left or right operand is stored: fields of `qc_residual`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qcompiler.backends.c.emit.finish import quantized
from qcompiler.backends.c.emit.grid import Grid, grid_of, static
from qcompiler.backends.c.generator import Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand, operand_of
from qcompiler.backends.reference.arithmetic import fused_multiply_add


@dataclass(frozen=True)
class Factors:
    """What a sum of codes is computed with: `fma(left, a, fma(right, b, c))`."""

    left: float
    right: float
    constant: float

    @staticmethod
    def of(generator: Generator, call: Call, left: Operand, right: Operand, grid: Grid) -> Factors:
        """As in `backends.reference.pointwise.add`, zero points in the constant."""
        (sa, za), (sb, zb) = static(generator, call, left), static(generator, call, right)
        a, b = sa / grid.scale, sb / grid.scale
        constant = torch.tensor(grid.zero) - fused_multiply_add(a, za, b * zb)
        return Factors(float(a), float(b), float(constant))


@dataclass(frozen=True)
class Residual:
    """The sum that the codes of a layer are for.

    Args:
        call: of the sum.
        other: what is added, rows as those of the layer.
        leads: whether it is the left operand.
    """

    call: Call
    other: Value
    leads: bool

    def fields(self, generator: Generator, own: Grid, address: str) -> dict[str, str | int]:
        """Of `qc_residual`; the address is that of what is added, of one image of a batch."""
        grid = grid_of(generator, self.call)
        left, right = quantized(self.call, 0), quantized(self.call, 1)
        found = Factors.of(generator, self.call, left, right, grid)
        mine, theirs = (found.right, found.left) if self.leads else (found.left, found.right)
        return {
            "codes": address,
            "stride": self.other.strides[-1],
            "leads": int(self.leads),
            "own": float_text(mine),
            "factor": float_text(theirs),
            "constant": float_text(found.constant),
            "own_shift": float_text(own.shift),
            "shift": float_text(self.other.shift),
            "result_shift": float_text(grid.shift),
            "low": grid.stored(grid.low),
            "high": grid.stored(grid.high),
        }


def residual_of(generator: Generator, call: Call) -> Residual | None:
    """The sum that alone reads the codes of an image layer, when what is added lies in memory already."""
    users = list(call.node.users)
    if len(users) != 1 or call.node in generator.program.outputs or "result" not in call.arguments:
        return None
    (user,) = users
    if generator.program.op(user) != "qc.kernel" or user.args[0] != "add" or call.flag("fixed"):
        return None
    sum_ = Call(user, "add", dict(user.kwargs), tuple(user.args[1:]))
    operands = [operand_of(argument) for argument in sum_.inputs[:2]]
    places = [i for i, each in enumerate(operands) if each is not None and each.codes is call.node]
    other = operands[1 - places[0]] if len(places) == 1 else None
    if other is None or (operand_of(call.inputs[2]) is None and call.inputs[2] is not None):
        return None
    value = generator.bound.get(other.codes)
    shape = generator.shape(call.node)
    if not isinstance(value, Value) or value.shape != shape or generator.shape(user) != shape:
        return None
    rows = value.permuted(channels_last(len(shape))).reshaped((shape[0], math.prod(shape[2:]), shape[1]))
    beside = rows is not None and rows.strides[-1] == 1 and value.buffer.kind == "arena"
    return Residual(sum_, value, leads=places[0] == 1) if beside else None
