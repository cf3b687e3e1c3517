"""Convolutions and linear layers over integers.

Formula (q codes, z zero points, s scales, x input, w weight, y result): `total = sum (qx - zx) * (qw - zw)` in int32.
  int32 bias:  `float(total + qb) * (sx * sw)`, requantized `clip(round(float(total + qb) * ((sx * sw) / sy)) + zy)`
  fixed:       `clip(round((total + qb) * ((sx * sw) / sy)) + zy)`, the product exact, as `fixed` says
  float bias:  `float(total) * (sx * sw) + b`, product and sum rounded apart, quantized by division by sy
Source: onnxruntime's QLinearConv, QGemm and MatMulIntegerToFloat, equal bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.backends.reference import fixed as integers
from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, along, apply, check_terms, requantize

Bias = Parts | Tensor | None


def conv(
    input: Parts,
    weight: Parts,
    bias: Bias,
    *window: object,
    op: str,
    result: Parts | None = None,
    low: float = 0,
    high: float = 0,
    fixed: bool = False,
) -> Tensor:
    """A convolution `op` of 1 to 3 spatial axes, transposed ones included.

    Shapes: as the ATen operator; `window` its arguments after the bias. Weight scales one or one per output channel.
    Returns float32 codes, float32 reals without `result`. Raises UnsupportedError when int32 might overflow.
    """
    x, w = Codes.of(input), Codes.of(weight)
    check_terms(math.prod(w.codes.shape[1:]))
    total = apply(op, x.offsets(), w.offsets(), None, *window)
    return _finish(total, x, w, bias, 1 - w.codes.dim(), result, low, high, fixed)


def linear(
    input: Parts,
    weight: Parts,
    bias: Bias = None,
    *,
    op: str,
    result: Parts | None = None,
    low: float = 0,
    high: float = 0,
    fixed: bool = False,
) -> Tensor:
    """A linear layer; with run-time scales it is the dynamic one.

    Shapes: input [..., K], weight [N, K], bias [N] -> [..., N]: codes, float32 reals without `result`.
    Raises UnsupportedError when int32 might overflow.
    """
    x, w = Codes.of(input), Codes.of(weight)
    check_terms(w.codes.shape[-1])
    total = torch.matmul(x.offsets(), w.offsets().t())
    return _finish(total, x, w, bias, -1, result, low, high, fixed)


def _finish(
    total: Tensor,
    x: Codes,
    w: Codes,
    bias: Bias,
    axis: int,
    result: Parts | None,
    low: float,
    high: float,
    fixed: bool,
) -> Tensor:
    rank = total.dim()
    factor = x.scale * along(w.scale, axis, rank)
    if isinstance(bias, Tensor):
        reals = total.float() * factor + along(bias.float(), axis, rank)
        return reals if result is None else Grid.of(result, low, high).quantize(reals)
    if bias is not None:
        total = total + along(Codes.of(bias).codes.double(), axis, rank)
    if result is None:
        return total.float() * factor
    grid = Grid.of(result, low, high)
    return (integers.requantize if fixed else requantize)(total, factor / grid.scale, grid)
