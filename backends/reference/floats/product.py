"""Products of matrices.

Formula `alpha * sum a b (+ c)`: blocks of terms, each one chain of fused multiply-adds from zero; the first block is
        `alpha * chain` or `fma(chain, alpha, c)`, every further one is added by `fma(chain, alpha, result so far)`.
        A block has 128 terms; where the result is narrower than the sum is long, it doubles for each halving of 128
        columns that still covers the result, down to 16 columns. A single row by alpha = 1 is
        summed by fours, `((a0 b0 + a1 b1) + a2 b2) + a3 b3`, every product and sum rounded, then added to the result.
        A factor that is a constant is packed beforehand: blocks then have 256 terms, and a single row is like others.
Shapes  [..., M, K] by [..., K, N] -> [..., M, N], float32, batches broadcast
Source  onnxruntime 1.31, MLAS `MlasSgemmOperation` and `MlasSgemmPackedOperation` on one thread: FMA3 and AVX-512F
        kernels agree. Products of one row by a transposed factor that is no constant follow another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference.floats.fused import accumulate, fused
from qcompiler.backends.reference.floats.powers import constant

_BLOCK, _COLUMNS, _LEAST_COLUMNS = 128, 128, 16
_PACKED_BLOCK = 256
_AT_ONCE = 1 << 16
"""Elements of the result that are worked on together, so that they stay in a cache."""


def matmul(self: Tensor, other: Tensor) -> Tensor:
    """A matrix product of activations; other dtypes than float32, and vectors, are left to torch."""
    if self.dtype != torch.float32 or other.dtype != torch.float32 or min(self.dim(), other.dim()) < 2:
        return torch.matmul(self, other)
    return product(self, other)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer whose weight is a constant; the bias is what its first block is added to.

    Shapes: input [..., K], weight [N, K], bias [N] -> [..., N]; other dtypes than float32 are left to torch.
    """
    if input.dtype != torch.float32:
        return torch.nn.functional.linear(input, weight, bias)
    rows = input.reshape(-1, input.shape[-1])
    found = _blocks(rows, weight.t(), _PACKED_BLOCK, 1.0, None if bias is None else bias.expand(len(rows), -1))
    return found.reshape(*input.shape[:-1], weight.shape[0])


def product(left: Tensor, right: Tensor, alpha: float = 1.0, added: Tensor | None = None) -> Tensor:
    """A product of float32 matrices, times `alpha`, plus `added` [..., M, N].

    Shapes: left [..., M, K], right [..., K, N] -> [..., M, N].
    """
    rows, columns = left.shape[-2], right.shape[-1]
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    a, b = (x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (left, right))
    c = None if added is None else added.expand(*batch, rows, columns).reshape(-1, rows, columns)
    step = max(1, _AT_ONCE // max(1, rows * columns))
    found = [
        _together(a[at : at + step], b[at : at + step], alpha, None if c is None else c[at : at + step])
        for at in range(0, len(a), step)
    ]
    return torch.cat(found).reshape(*batch, rows, columns) if found else left.new_zeros(*batch, rows, columns)


def chains(rows: Tensor, matrix: Tensor) -> Tensor:
    """A product of float32 matrices without blocks: [M, K] by [K, N] -> [M, N]."""
    step = max(1, _AT_ONCE // matrix.shape[-1])
    return torch.cat([accumulate(part, matrix) for part in rows.split(step)])


def block_of(terms: int, columns: int) -> int:
    """How many terms are summed before the sum is added to the result."""
    block, width = _BLOCK, _COLUMNS
    while columns < terms and width > _LEAST_COLUMNS and width // 2 >= columns:
        block, width = 2 * block, width // 2
    return block


def _together(left: Tensor, right: Tensor, alpha: float, added: Tensor | None) -> Tensor:
    if left.shape[-2] == 1 and alpha == 1:
        return _one_row(left, right, added)
    return _blocks(left, right, block_of(left.shape[-1], right.shape[-1]), alpha, added)


def _blocks(left: Tensor, right: Tensor, block: int, alpha: float, added: Tensor | None) -> Tensor:
    factor = constant(alpha)
    for at in range(0, left.shape[-1], block):
        chain = accumulate(left[..., at : at + block], right[..., at : at + block, :])
        added = chain * factor if added is None else fused(chain, factor, added)
    return left.new_zeros(*left.shape[:-1], right.shape[-1]) if added is None else added


def _one_row(left: Tensor, right: Tensor, added: Tensor | None) -> Tensor:
    total = left.new_zeros(()) if added is None else added
    terms, at = left.shape[-1], 0
    products = left.transpose(-1, -2) * right
    for width in (4, 2, 1):
        while terms - at >= width:
            total = _in_order(products[..., at : at + width, :]) + total
            at += width
            if width < 4:
                break
    return total.expand(*left.shape[:-1], right.shape[-1])


def _in_order(terms: Tensor) -> Tensor:
    total, *others = terms.split(1, -2)
    for other in others:
        total = total + other
    return total
