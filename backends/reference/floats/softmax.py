"""Softmax over one axis.

Formula `e = exp(x - max x)`, `e * (1 / sum e)`: lanes of sums over a row, then lanes folded (AVX-512: 16 lanes, the
        upper 8 onto the lower, then neighbours; AVX2: 8 lanes, neighbours)
        `exp` by `backends.reference.floats.powers`, its polynomial of degree 6
Shapes  any -> the same, float32
Source  onnxruntime 1.31, MLAS `MlasComputeSumExpF32Kernel`; the polynomial is that of expf by N. Juffa
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qcompiler.backends.reference.floats.fused import neighbours
from qcompiler.backends.reference.floats.powers import constant, power_of_e

Lanes = Literal[8, 16]
"""Float32 numbers in a vector: 16 with AVX-512, 8 with AVX2."""

_LEAST: dict[Lanes, float] = {16: -103.9720840454, 8: -88.3762626647949}
_LEAST_LANES: Lanes = 8
_POLYNOMIAL = tuple(
    map(
        float.fromhex,
        ("0x1.694000p-10", "0x1.125edcp-7", "0x1.555b5ap-5", "0x1.555450p-3", "0x1.fffff6p-2", "0x1p0", "0x1p0"),
    )
)


def lanes_here() -> Lanes:
    """The width of this machine's vectors, which onnxruntime would use on it."""
    return 16 if torch.cpu._is_avx512_supported() else 8


def softmax(self: Tensor, dim: int, dtype: torch.dtype | None = None, *, lanes: Lanes | None = None) -> Tensor:
    """Softmax; other dtypes than float32 are left to torch.

    Args:
        self: any shape.
        dim: the axis.
        dtype: of the result, None for that of `self`.
        lanes: of the machine, None for this one.
    """
    if self.dtype != torch.float32 or dtype not in (None, torch.float32):
        return torch.softmax(self, dim, dtype)
    width = lanes or lanes_here()
    rows = self.movedim(dim, -1)
    behind = (rows - rows.amax(-1, keepdim=True)).clamp(min=constant(_LEAST[width]))
    powers = power_of_e(behind, _POLYNOMIAL)
    total = _total(powers, width).unsqueeze(-1)
    return (powers * (torch.ones_like(total) / total)).movedim(-1, dim)


def _total(powers: Tensor, lanes: Lanes) -> Tensor:
    total = torch.zeros(*powers.shape[:-1], lanes)
    for part in powers.split(lanes, -1):
        total[..., : part.shape[-1]] += part
    if lanes > _LEAST_LANES:
        total = total[..., :_LEAST_LANES] + total[..., _LEAST_LANES:]
    return neighbours(total)
