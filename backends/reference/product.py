"""Products of two activations over integers.

Formula: `total = sum (qa - za) * (qb - zb)` in int32, `clip(round(float(total) * ((sa * sb) / sy)) + zy)`.
Source: onnxruntime's QLinearMatMul, equal bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference import fixed as integers
from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, check_terms, requantize


def matmul(
    self: Parts, other: Parts, *, op: str, result: Parts, low: float, high: float, fixed: bool = False
) -> Tensor:
    """A matrix product, leading axes broadcast.

    Shapes: self [..., M, K], other [..., K, N] -> [..., M, N] codes. Raises UnsupportedError when int32 might overflow.
    """
    left, right, grid = Codes.of(self), Codes.of(other), Grid.of(result, low, high)
    check_terms(left.codes.shape[-1])
    total = torch.matmul(left.offsets(), right.offsets())
    return (integers.requantize if fixed else requantize)(total, left.scale * right.scale / grid.scale, grid)
