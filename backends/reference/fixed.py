"""Requantization without floats, for processors that have none: a factor is its own mantissa and a shift.

Formula: a float32 factor f is exactly `mantissa * 2^-shift` with 2^23 <= mantissa < 2^24, so that `total * f` is exact
  in 64 bits and is rounded once, halves to even: `clip(round(total * f) + zy)`.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
  Inference", whose multiplier is rounded and whose product is rounded twice; neither happens here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid

_MANTISSA = 24
MOST_SHIFT = 62
"""Products of less than 2^55 are nothing long before; int64 shifts by no more."""
ADDED_BITS = 20
"""Of the larger factor of a sum of two codes: 255 * 2^20, twice, fits in 32 bits."""


@dataclass(frozen=True)
class Factor:
    """A positive factor in integers.

    Args:
        mantissa: int64, 2^23 to 2^24, any shape.
        shift: int64, 1 to 62, likewise.
    """

    mantissa: Tensor
    shift: Tensor

    @staticmethod
    def of(factor: Tensor) -> Factor:
        """Of a float32; factors above 2^23, with which every total but zero is out of reach, count as that."""
        part, exponent = torch.frexp(factor.float())
        mantissa, shift = (part.double() * 2.0**_MANTISSA).long(), _MANTISSA - exponent.long()
        large = shift < 1
        mantissa = torch.where(large, torch.full_like(mantissa, 1 << _MANTISSA), mantissa)
        return Factor(mantissa, shift.clamp(1, MOST_SHIFT))

    def times(self, total: Tensor) -> Tensor:
        """`round(total * factor)` of whole numbers below 2^31 in magnitude, int64."""
        return rounded_shift(total.long() * self.mantissa, self.shift)


def rounded_shift(x: Tensor, shift: Tensor) -> Tensor:
    """`round(x / 2^shift)` of int64, halves to even; the shift is at least 1."""
    one = torch.ones((), dtype=torch.int64)
    return (x + (one << (shift - 1)) - 1 + ((x >> shift) & 1)) >> shift


def placed(steps: Tensor, grid: Grid) -> Tensor:
    """`clip(steps + zero point)` of whole numbers, as float32 codes."""
    return (steps + grid.zero_point.long()).clamp(int(grid.low), int(grid.high)).float()


def requantize(total: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    """`clip(round(total * factor) + zero point)`, the product exact.

    Shapes: total [...] exact int32 in float64, factor broadcastable float32 -> float32 codes [...].
    """
    return placed(Factor.of(factor).times(total), grid)


@dataclass(frozen=True)
class Weights:
    """Two factors of one shift: `left * 2^-shift` and `right * 2^-shift`, the larger of 20 bits."""

    left: int
    right: int
    shift: int

    @staticmethod
    def of(left: float, right: float) -> Weights:
        """The nearest ones; the shift is 1 to 62, and factors too large for it count as the largest."""
        exponent = math.frexp(max(left, right))[1]
        shift = min(max(ADDED_BITS - exponent, 1), MOST_SHIFT)
        most = 1 << ADDED_BITS
        one, other = (min(round(math.ldexp(factor, shift)), most) for factor in (left, right))
        return Weights(one, other, shift)


def add(left: Codes, right: Codes, grid: Grid) -> Tensor:
    """`clip(round(((qa - za) A + (qb - zb) B) / 2^shift) + zy)`, A and B being `sa / sy` and `sb / sy` in integers."""
    factors = Weights.of(float(left.scale / grid.scale), float(right.scale / grid.scale))
    total = left.offsets().long() * factors.left + right.offsets().long() * factors.right
    return placed(rounded_shift(total, torch.tensor(factors.shift)), grid)
