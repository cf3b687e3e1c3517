"""Float32 sums in the order of a processor's fused multiply-adds.

Source: MLAS, the linear algebra of onnxruntime; x86 instructions VFMADD and VHADDPS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import fused_multiply_add

_DROPPED = (1 << 29) - 1
"""Bits of a float64 mantissa that float32 has no place for; a 1 and zeros in them lie half way between two float32."""
_HALF_WAY = 1 << 28


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a * b + c` of float32 tensors, rounded once to float32.

    A float64 holds the product exactly. Its sum with a float32 rounds right to float32 at once, unless it came to lie
    half way between two of them; only then the sum is made again, rounded to odd. Below the normal numbers, where
    float32 has fewer places, a sum within 2^-53 of half way may round twice.
    """
    total = a.double() * b.double() + c.double()
    return fused_multiply_add(a, b, c) if _doubtful(total) else total.float()


def accumulate(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product whose every element is one chain of `fused` from zero, in the order of the terms.

    Shapes: left [..., M, K], right [..., K, N], batches broadcast -> [..., M, N] float32.
    """
    columns, rows = left.double().movedim(-1, 0).contiguous(), right.double().movedim(-2, 0).contiguous()
    shape = torch.broadcast_shapes((*columns.shape[1:], 1), (*rows.shape[1:-1], 1, rows.shape[-1]))
    total, before = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape)
    for column, row in zip(columns.unsqueeze(-1), rows.unsqueeze(-2), strict=True):
        total.addcmul_(column, row)
        if _doubtful(total):
            total.copy_(fused_multiply_add(column.float(), row.float(), before))
        before.copy_(total)
        total.copy_(before)
    return before


def _doubtful(total: Tensor) -> bool:
    return bool(((total.view(torch.int64) & _DROPPED) == _HALF_WAY).any())


def halves(lanes: Tensor) -> Tensor:
    """Lanes folded upper half onto lower half until one is left; lanes [..., 2^n] -> [...]."""
    while lanes.shape[-1] > 1:
        low, high = lanes.chunk(2, -1)
        lanes = low + high
    return lanes.squeeze(-1)


def neighbours(lanes: Tensor) -> Tensor:
    """Lanes added up pair by pair until one is left; lanes [..., 2^n] -> [...]."""
    while lanes.shape[-1] > 1:
        lanes = lanes[..., 0::2] + lanes[..., 1::2]
    return lanes.squeeze(-1)
