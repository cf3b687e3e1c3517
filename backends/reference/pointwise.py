"""Sums, products, joins and tables over integers.

Source: onnxruntime's QLinearAdd, QLinearMul, QLinearConcat, QLinearSigmoid and QLinearLeakyRelu; equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.backends.reference import fixed as integers
from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, apply, fused_multiply_add

SIGMOID = "aten.sigmoid"
_LOGISTIC_REACH = 18.0
_LOGISTIC_UPPER = (
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
)
_LOGISTIC_LOWER = (
    6.10247389755681e-13,
    5.76102136993427e-09,
    6.29106785017040e-06,
    1.70198817374094e-03,
    1.16817656904453e-01,
    9.93151921023180e-01,
)


def add(self: Parts, other: Parts, *, op: str, result: Parts, low: float, high: float, fixed: bool = False) -> Tensor:
    """A sum with broadcasting.

    Formula: `a = sa / sy`, `b = sb / sy`, `c = zy - fma(a, za, b * zb)`,
    `clip(round(fma(qa, a, fma(qb, b, c))))`, each fma rounded once; `fixed`: as `fixed.add`.
    """
    left, right, grid = Codes.of(self), Codes.of(other), Grid.of(result, low, high)
    if fixed:
        return integers.add(left, right, grid)
    if _repeats(left.codes, right.codes):
        left, right = right, left
    a, b = left.scale / grid.scale, right.scale / grid.scale
    za, zb = _zero(left), _zero(right)
    constant = grid.zero_point - fused_multiply_add(a, za, b * zb)
    inner = fused_multiply_add(right.codes.float(), b, constant)
    return fused_multiply_add(left.codes.float(), a, inner).round().clamp(grid.low, grid.high)


def mul(self: Parts, other: Parts, *, op: str, result: Parts, low: float, high: float, fixed: bool = False) -> Tensor:
    """A product with broadcasting.

    Formula: `clip(round(float((qa - za) * (qb - zb)) * ((sa * sb) / sy) + zy))`: the zero point is added before
    rounding, so that halves go to even codes. `fixed`: behind it, and the product is exact.
    """
    left, right, grid = Codes.of(self), Codes.of(other), Grid.of(result, low, high)
    product, factor = left.offsets() * right.offsets(), (left.scale * right.scale) / grid.scale
    if fixed:
        return integers.requantize(product, factor, grid)
    steps = product.float() * factor
    return (steps + grid.zero_point).round().clamp(grid.low, grid.high)


def cat(tensors: Sequence[Parts], dim: int, *, op: str, result: Parts, low: float, high: float) -> Tensor:
    """Tensors side by side, each brought to the grid of the result: `quantize((q - z) * s)`."""
    grid = Grid.of(result, low, high)
    return torch.cat([grid.quantize(Codes.of(parts).reals()) for parts in tensors], dim)


def table(self: Parts, *options: object, op: str, result: Parts, low: float, high: float) -> Tensor:
    """An elementwise function, as a table of 256 codes would hold it: `quantize(op((q - z) * s))`."""
    reals = Codes.of(self).reals()
    found = logistic(reals) if op == SIGMOID else apply(op, reals, *options)
    return Grid.of(result, low, high).quantize(found)


def logistic(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))` as onnxruntime computes it in float32: `x * P(x^2) / Q(x^2) + 1/2` for |x| up to 18.

    P and Q by Horner's rule with fused multiply-adds; the coefficients are those of Eigen's rational approximation.
    """
    x = x.float().clamp(-_LOGISTIC_REACH, _LOGISTIC_REACH)
    square = x * x
    upper, lower = (_horner(square, coefficients) for coefficients in (_LOGISTIC_UPPER, _LOGISTIC_LOWER))
    return (upper * x / lower + 0.5).clamp(0, 1)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fused_multiply_add(total, x, torch.tensor(coefficient, dtype=torch.float32))
    return total


def _zero(operand: Codes) -> Tensor:
    return torch.zeros(()) if operand.zero_point is None else operand.zero_point


def _repeats(left: Tensor, right: Tensor) -> bool:
    """Whether each element of the left operand meets a row of the right one; the kernel then swaps them."""
    return left.dim() == 0 or (left.shape[-1] == 1 and right.dim() > 0 and right.shape[-1] > 1)
