"""Averages over integers.

Source: onnxruntime's QLinearGlobalAveragePool and QLinearAveragePool; equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from qcompiler.backends.reference import fixed as integers
from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, apply, check_terms, requantize


def global_mean(
    self: Parts,
    dim: Sequence[int],
    keepdim: bool = False,
    *,
    op: str,
    result: Parts,
    low: float,
    high: float,
    fixed: bool = False,
) -> Tensor:
    """The mean over the trailing axes `dim`: `clip(round(float(sum (q - z)) * (sx / (sy * count))) + zy)`.

    Raises UnsupportedError when int32 might overflow.
    """
    x, grid = Codes.of(self), Grid.of(result, low, high)
    total = x.offsets().sum(list(dim), keepdim=keepdim)
    count = x.codes.numel() // max(total.numel(), 1)
    check_terms(count)
    return (integers.requantize if fixed else requantize)(total, x.scale / (grid.scale * float(count)), grid)


def average(
    self: Parts, *window: object, op: str, result: Parts, low: float, high: float, fixed: bool = False
) -> Tensor:
    """An average pool `op` over dequantized windows: `clip(round(mean / sy + zy))`, halves to even codes.

    `fixed`: `clip(round(sum (q - z) * (sx / (sy * size))) + zy)`, the product exact; windows are whole ones, or count
    what lies around the image as zeros.
    """
    if fixed:
        return _whole_windows(self, window, op, Grid.of(result, low, high))
    mean, grid = apply(op, Codes.of(self).reals(), *window), Grid.of(result, low, high)
    return (mean / grid.scale + grid.zero_point).round().clamp(grid.low, grid.high)


def _whole_windows(self: Parts, window: Sequence[object], op: str, grid: Grid) -> Tensor:
    x, size, rank = Codes.of(self), window[0], int(op.removeprefix("aten.avg_pool")[0])
    sizes = [item for item in size if isinstance(item, int)] if isinstance(size, list | tuple) else []
    count = math.prod(sizes) if len(sizes) == rank else sizes[0] ** rank
    total = apply(op, x.offsets(), *window).mul(count).round()
    check_terms(count)
    return integers.requantize(total, x.scale / (grid.scale * float(count)), grid)
