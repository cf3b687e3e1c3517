"""Operators that move codes about or pick among them: the numbers stay what they are, and so does the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, apply


def carry(self: Parts, *arguments: object, op: str, result: Parts, low: float, high: float) -> Tensor:
    """`op` applied to the codes: pools by maximum, reshapes, slices, nearest resizing."""
    moved = apply(op, Codes.of(self).codes.float(), *arguments)
    return moved.clamp(low, high)


def limit(self: Parts, *bounds: object, op: str, result: Parts, low: float, high: float) -> Tensor:
    """A relu or clamp: the codes of the bounds are `low` and `high`."""
    return Codes.of(self).codes.float().clamp(low, high)


def pad(
    self: Parts, pad: Sequence[int], value: float = 0, *, op: str, result: Parts, low: float, high: float
) -> Tensor:
    """Padding with the code of `value`."""
    filling = Grid.of(result, low, high).quantize(torch.tensor(float(value)))
    return torch.nn.functional.pad(Codes.of(self).codes.float(), list(pad), value=float(filling))
