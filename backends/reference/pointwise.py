"""Sums, products, joins and tables over integers.

Source: onnxruntime's QLinearAdd, QLinearMul, QLinearConcat, QLinearSigmoid and QLinearLeakyRelu; equal bit for bit,
tables of transcendental functions within one code where two libraries round the function differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, apply, fused_multiply_add


def add(self: Parts, other: Parts, *, op: str, result: Parts, low: float, high: float) -> Tensor:
    """A sum with broadcasting.

    Formula: `a = sa / sy`, `b = sb / sy`, `c = zy - fma(a, za, b * zb)`,
    `clip(round(fma(qa, a, fma(qb, b, c))))`, each fma rounded once.
    """
    left, right, grid = Codes.of(self), Codes.of(other), Grid.of(result, low, high)
    if _repeats(left.codes, right.codes):
        left, right = right, left
    a, b = left.scale / grid.scale, right.scale / grid.scale
    za, zb = _zero(left), _zero(right)
    constant = grid.zero_point - fused_multiply_add(a, za, b * zb)
    inner = fused_multiply_add(right.codes.float(), b, constant)
    return fused_multiply_add(left.codes.float(), a, inner).round().clamp(grid.low, grid.high)


def mul(self: Parts, other: Parts, *, op: str, result: Parts, low: float, high: float) -> Tensor:
    """A product with broadcasting: `quantize(((qa - za) * sa) * ((qb - zb) * sb))`."""
    return Grid.of(result, low, high).quantize(Codes.of(self).reals() * Codes.of(other).reals())


def cat(tensors: Sequence[Parts], dim: int, *, op: str, result: Parts, low: float, high: float) -> Tensor:
    """Tensors side by side, each brought to the grid of the result: `quantize((q - z) * s)`."""
    grid = Grid.of(result, low, high)
    return torch.cat([grid.quantize(Codes.of(parts).reals()) for parts in tensors], dim)


def table(self: Parts, *options: object, op: str, result: Parts, low: float, high: float) -> Tensor:
    """An elementwise function, as a table of 256 codes would hold it: `quantize(op((q - z) * s))`."""
    reals = apply(op, Codes.of(self).reals(), *options)
    return Grid.of(result, low, high).quantize(reals)


def _zero(operand: Codes) -> Tensor:
    return torch.zeros(()) if operand.zero_point is None else operand.zero_point


def _repeats(left: Tensor, right: Tensor) -> bool:
    """Whether each element of the left operand meets a row of the right one; the kernel then swaps them."""
    return left.dim() == 0 or (left.shape[-1] == 1 and right.dim() > 0 and right.shape[-1] > 1)
