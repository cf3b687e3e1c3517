"""Where codes of a result lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qcompiler.backends.c.generator import Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand


@dataclass(frozen=True)
class Grid:
    """Where codes of a result lie.

    Args:
        scale: float32 of no axes.
        zero: the zero point.
        low: the smallest code.
        high: the largest code.
        shift: what is stored less the code.
    """

    scale: torch.Tensor
    zero: float
    low: float
    high: float
    shift: int

    def stored(self, code: float) -> str:
        """A code as it is stored, in C."""
        return float_text(code + self.shift)


def grid_of(generator: Generator, call: Call) -> Grid:
    """The grid of a kernel call's result."""
    result = call.arguments["result"]
    if not isinstance(result, list | tuple):
        raise call.unsupported("its result has no scale")
    scale = generator.program.constant(result[0])
    zero = generator.program.constant(result[1])
    if scale is None or scale.numel() != 1:
        raise call.unsupported("its result has more than one scale")
    return Grid(
        scale.float().reshape(()),
        0.0 if zero is None else float(zero.reshape(())),
        call.number("low"),
        call.number("high"),
        generator.element(call.type)[1],
    )


def static(generator: Generator, call: Call, operand: Operand) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of an operand, both of no axes."""
    scale = generator.program.constant(operand.scale)
    zero = None if operand.zero_point is None else generator.program.constant(operand.zero_point)
    if scale is None or scale.numel() != 1:
        raise call.unsupported("an operand with more than one scale")
    return scale.float().reshape(()), torch.zeros(()) if zero is None else zero.float().reshape(())
