"""Softmax and norms of codes in whole numbers from end to end.

Every real that they need becomes an integer before the model runs: exponentials of the 256 differences of two codes,
the scales and offsets of channels. What is divided is divided once per row.

Source: Kim et al. 2021 (arXiv:2101.01321); Li and Gu 2023 (arXiv:2207.01405), which compute the exponential by shifts
  where a table is exact here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, check_terms
from qcompiler.backends.reference.fixed import MOST_SHIFT, Factor, placed, rounded_shift

_DIFFERENCES = 256
EXPONENT_BITS = 31
"""Behind the point of exponentials: 1 fits in 32 bits, and sums of rows in 46."""
QUOTIENT_BITS = 37
"""By which the parts of a row are finer than the steps of the result: an exponential times one of them has 61 bits."""
NORM_BITS = 20
"""Behind the point of a normalized number, whose magnitude is at most the root of the row's width: 2^8."""
PARAMETER_BITS = 28
"""Of the largest of a norm's factors and offsets: a normalized number times one of them fits in 63 bits."""
_ROOT = 61
_MOST_EPSILON = 2**60


@dataclass(frozen=True)
class Exponentials:
    """Softmax of one grid to another, in integers.

    Args:
        table: int64 [256], `round(exp(-d * sx) * 2^31)` for codes d below the largest.
        mantissa: of `1 / sy`, what a row is parted into.
        shift: of the result, 37 more than that of `1 / sy`.
    """

    table: Tensor
    mantissa: int
    shift: int

    @staticmethod
    def of(scale: Tensor, result: Tensor) -> Exponentials:
        """From codes of one scale to those of another."""
        powers = torch.exp(-torch.arange(_DIFFERENCES, dtype=torch.float64) * scale.double())
        steps = Factor.of(1 / result)
        shift = min(int(steps.shift) + QUOTIENT_BITS, MOST_SHIFT)
        return Exponentials((powers * 2.0**EXPONENT_BITS).round().long(), int(steps.mantissa), shift)


def softmax(self: Parts, dim: int, dtype: object = None, *, op: str, result: Parts, low: float, high: float) -> Tensor:
    """Softmax along the last axis.

    Formula: `e = table[largest q - q]`, `total = sum e`, `part = floor(mantissa * 2^37 / total)`,
      `clip(round(e * part / 2^shift) + zy)`, table, mantissa and shift as `Exponentials` says
    Shapes: any -> float32 codes. Raises UnsupportedError for rows whose sum might overflow.
    """
    x, grid = Codes.of(self), Grid.of(result, low, high)
    check_terms(x.codes.shape[-1])
    known = Exponentials.of(x.scale, grid.scale)
    codes = x.codes.long()
    e = known.table[codes.amax(-1, keepdim=True) - codes]
    part = (known.mantissa << QUOTIENT_BITS) // e.sum(-1, keepdim=True)
    return placed(rounded_shift(e * part, torch.tensor(known.shift)), grid)


@dataclass(frozen=True)
class Channels:
    """A norm's factors and offsets in steps of the result, in integers.

    Args:
        weight: int64 [width], `round(w / sy * 2^shift)`.
        bias: int64 [width], `round(b / sy * 2^shift)`.
        shift: such that the largest of both has 28 bits.
        epsilon: int64, `eps * (width / sx)^2`.
    """

    weight: Tensor
    bias: Tensor
    shift: int
    epsilon: int

    @staticmethod
    def of(scale: Tensor, result: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Channels:
        """Of float32 [width], each."""
        steps, offsets = (vector.double() / result.double() for vector in (weight, bias))
        most = max(float(steps.abs().max()), float(offsets.abs().max()))
        shift = min(max(PARAMETER_BITS - math.frexp(most)[1], 1 - NORM_BITS), MOST_SHIFT - NORM_BITS)
        factors, offsets = ((vector * 2.0**shift).round().long() for vector in (steps, offsets))
        wide = min(eps * (len(weight) / float(scale)) ** 2, _MOST_EPSILON)
        return Channels(factors, offsets, shift, round(wide))


def layer_norm(
    input: Parts,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
    *,
    op: str,
    result: Parts,
    low: float,
    high: float,
) -> Tensor:
    """Rows brought to mean 0 and variance 1, then scaled and moved by channel.

    Formula: n the width, `c = n q - sum q`, `W = sum of (n q - sum q)^2 / n + epsilon`, normalized `a = c / sqrt(W)` as
      `_normalized` says, `clip(round((a * weight + bias * 2^20) / 2^(20 + shift)) + zy)`
    Shapes: input [..., width], weight and bias [width] -> float32 codes. Raises UnsupportedError for rows that are too
      wide.
    """
    x, grid = Codes.of(input), Grid.of(result, low, high)
    codes = x.codes.long().flatten(-len(normalized_shape))
    return _norm(x, codes, codes.sum(-1, keepdim=True), weight, bias, eps, grid)


def rms_norm(
    input: Parts,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    op: str,
    result: Parts,
    low: float,
    high: float,
) -> Tensor:
    """Rows divided by their root mean square: `layer_norm` with `n z` for the sum of codes, and no offsets."""
    x, grid = Codes.of(input), Grid.of(result, low, high)
    codes = x.codes.long().flatten(-len(normalized_shape))
    width = codes.shape[-1]
    zero = torch.zeros(()) if x.zero_point is None else x.zero_point
    least = torch.finfo(torch.float32).eps if eps is None else eps
    return _norm(x, codes, (zero.long() * width).expand(*codes.shape[:-1], 1), weight, None, least, grid)


def _norm(
    x: Codes, codes: Tensor, centre: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, grid: Grid
) -> Tensor:
    width = codes.shape[-1]
    check_terms(width)
    ones, zeros = torch.ones(width), torch.zeros(width)
    channels = Channels.of(
        x.scale,
        grid.scale,
        ones if weight is None else weight.flatten(),
        zeros if bias is None else bias.flatten(),
        eps,
    )
    squares, total = (codes * codes).sum(-1, keepdim=True), codes.sum(-1, keepdim=True)
    spread = width * squares - 2 * centre * total + centre * centre + channels.epsilon
    normalized = _normalized(width * codes - centre, spread.clamp(min=1))
    wide = normalized * channels.weight + (channels.bias << NORM_BITS)
    shift = torch.tensor(channels.shift + NORM_BITS)
    return placed(rounded_shift(wide, shift), grid).reshape(x.codes.shape)


def _normalized(apart: Tensor, spread: Tensor) -> Tensor:
    """`apart / sqrt(spread)` with 20 bits behind the point, int64.

    Formula: `root = floor(sqrt(spread * 4^t))`, t such that it has 31 bits; `inverse = floor(2^61 / root)`,
      `round(apart * inverse / 2^(41 - t))`
    """
    doubled = (62 - bit_length(spread)) // 2
    inverse = (1 << _ROOT) // whole_root(spread << (2 * doubled))
    return rounded_shift(apart * inverse, _ROOT - NORM_BITS - doubled)


def bit_length(x: Tensor) -> Tensor:
    """Binary digits of positive int64."""
    length = torch.frexp(x.double())[1].long()
    return length - ((torch.ones_like(x) << (length - 1)) > x).long()


def whole_root(x: Tensor) -> Tensor:
    """`floor(sqrt(x))` of int64 below 2^62; the double is off by one at most."""
    root = x.double().sqrt().long()
    root = root - (root * root > x).long()
    return root + ((root + 1) * (root + 1) <= x).long()


def lookup(self: Parts, table: Tensor, *, op: str, result: Parts, low: float, high: float, least: float) -> Tensor:
    """`table[q - least]`: what `op`, and what stands before it, makes of each code.

    Shapes: any, table [256] -> float32 codes.
    """
    return table[(Codes.of(self).codes - least).long()]


WHOLE_MEANINGS: Mapping[str, Callable[..., object]] = {
    "softmax": softmax,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "lookup": lookup,
}
"""What kernels without floats compute, beside `reference.MEANINGS`: onnxruntime has no such kernels."""
