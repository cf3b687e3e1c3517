"""Averages over integers.

Source: onnxruntime's QLinearGlobalAveragePool and QLinearAveragePool; equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, apply, check_terms, requantize


def global_mean(
    self: Parts, dim: Sequence[int], keepdim: bool = False, *, op: str, result: Parts, low: float, high: float
) -> Tensor:
    """The mean over the trailing axes `dim`: `clip(round(float(sum (q - z)) * (sx / (sy * count))) + zy)`.

    Raises UnsupportedError when int32 might overflow.
    """
    x, grid = Codes.of(self), Grid.of(result, low, high)
    total = x.offsets().sum(list(dim), keepdim=keepdim)
    count = x.codes.numel() // max(total.numel(), 1)
    check_terms(count)
    return requantize(total, x.scale / (grid.scale * float(count)), grid)


def average(self: Parts, *window: object, op: str, result: Parts, low: float, high: float) -> Tensor:
    """An average pool `op` over dequantized windows: `clip(round(mean / sy + zy))`, halves to even codes."""
    mean, grid = apply(op, Codes.of(self).reals(), *window), Grid.of(result, low, high)
    return (mean / grid.scale + grid.zero_point).round().clamp(grid.low, grid.high)
