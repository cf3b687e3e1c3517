"""Root mean square and layer normalization over the last axes.

Formula (n elements x of a row, 8 lanes of fused multiply-adds folded by halves, f the rounding to float32):
  rms   `inverse = 1 / sqrt(sum x^2 / n + eps)`, `(x * inverse) * weight`
  layer `mean = f(sum x / n)` in float64 of 4 lanes, `inverse = 1 / sqrt(sum (x - mean)^2 / n + eps)`,
        `fma((x - mean) * inverse, weight, bias)`
  What is left of a row after the lanes: four squares are rounded, then added one after the other; up to three more are
  fused multiply-adds. Short rows (rms < 16, layer < 8) are plain loops: squares summed in order, Welford's mean and
  variance, with true divisions and no fused multiply-add.
Shapes  input [..., *normalized_shape], weight and bias [*normalized_shape] -> as the input, float32
Source  onnxruntime 1.31, `MlasLayerNormF32` for AVX2 (wider machines run the same one) and its scalar fallback;
        Ba et al. 2016, "Layer Normalization"; Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.backends.reference.floats.fused import fused, halves

_LANES, _WIDE_LANES, _TAIL = 8, 4, 4
_SHORT_RMS, _SHORT_LAYER = 16, 8


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Root mean square normalization; other dtypes than float32 are left to torch."""
    if input.dtype != torch.float32:
        return torch.rms_norm(input, list(normalized_shape), weight, eps)
    rows, gain = _rows(input, normalized_shape), _flat(weight)
    epsilon = _single(torch.finfo(torch.float32).eps if eps is None else eps)
    if rows.shape[-1] < _SHORT_RMS:
        root = _root(_in_order(rows * rows), rows, epsilon).unsqueeze(-1)
        normal = rows / root
    else:
        normal = rows * _inverse(_squares(rows), rows, epsilon)
    return (normal if gain is None else normal * gain).reshape(input.shape)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Layer normalization; other dtypes than float32 are left to torch."""
    if input.dtype != torch.float32:
        return torch.layer_norm(input, list(normalized_shape), weight, bias, eps, cudnn_enable)
    rows, gain, offset = _rows(input, normalized_shape), _flat(weight), _flat(bias)
    epsilon = _single(eps)
    if rows.shape[-1] < _SHORT_LAYER:
        mean, squares = _welford(rows)
        root = _root(squares, rows, epsilon).unsqueeze(-1)
        normal = (rows - mean.unsqueeze(-1)) / root
        normal = normal if gain is None else normal * gain
        return (normal if offset is None else normal + offset).reshape(input.shape)
    centred = rows - _mean(rows).unsqueeze(-1)
    normal = centred * _inverse(_squares(centred), rows, epsilon)
    if offset is not None:
        normal = fused(normal, torch.ones(()) if gain is None else gain, offset)
    elif gain is not None:
        normal = normal * gain
    return normal.reshape(input.shape)


def _rows(input: Tensor, normalized_shape: Sequence[int]) -> Tensor:
    return input.reshape(-1, math.prod(normalized_shape))


def _flat(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.flatten()


def _single(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def _count(rows: Tensor) -> Tensor:
    return _single(rows.shape[-1])


def _root(squares: Tensor, rows: Tensor, epsilon: Tensor) -> Tensor:
    """The root of a mean square, rounded right: torch's own in float32 is not always."""
    return torch.sqrt((squares / _count(rows) + epsilon).double()).float()


def _inverse(squares: Tensor, rows: Tensor, epsilon: Tensor) -> Tensor:
    root = _root(squares, rows, epsilon)
    return (torch.ones_like(root) / root).unsqueeze(-1)


def _squares(rows: Tensor) -> Tensor:
    """The sum of the squares of every row."""
    size = rows.shape[-1]
    whole = size // _LANES * _LANES
    rounded = whole + (size - whole) // _TAIL * _TAIL
    lanes = torch.zeros(rows.shape[0], _LANES)
    for part in rows[:, :whole].split(_LANES, -1) if whole else ():
        lanes = fused(part, part, lanes)
    total = halves(lanes)
    for column in (rows[:, whole:rounded] * rows[:, whole:rounded]).unbind(-1):
        total = total + column
    for column in rows[:, rounded:].unbind(-1):
        total = fused(column, column, total)
    return total


def _mean(rows: Tensor) -> Tensor:
    size = rows.shape[-1]
    whole = size // _WIDE_LANES * _WIDE_LANES
    wide = rows.double()
    lanes = torch.zeros(rows.shape[0], _WIDE_LANES, dtype=torch.float64)
    for part in wide[:, :whole].split(_WIDE_LANES, -1):
        lanes = lanes + part
    total = halves(lanes)
    for column in wide[:, whole:].unbind(-1):
        total = total + column
    return (total / torch.full_like(total, size)).float()


def _in_order(terms: Tensor) -> Tensor:
    total = torch.zeros(terms.shape[0])
    for column in terms.unbind(-1):
        total = total + column
    return total


def _welford(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences from it; Welford 1962."""
    mean, squares = torch.zeros(rows.shape[0]), torch.zeros(rows.shape[0])
    for index, column in enumerate(rows.unbind(-1)):
        change = column - mean
        mean = mean + change / torch.full_like(change, index + 1)
        squares = squares + change * (column - mean)
    return mean, squares
