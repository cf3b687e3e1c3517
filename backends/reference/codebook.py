"""Linear layers whose weights are codes of vectors in learned tables.

Formula: `w = sum over tables of entry(code)`, vectors of a row one after the other, cut to the inputs that there are,
  `y = sum over blocks g of factor_g * (sum of block g of x w) + b`.
Source: Stock et al. 2020, "And the Bit Goes Down"; Egiazarian et al. 2024, "Extreme Compression of Large Language
  Models via Additive Quantization" (several tables).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def linear(
    input: Tensor,
    codes: Sequence[Tensor],
    tables: Sequence[Tensor],
    factor: Tensor,
    bias: Tensor | None = None,
    *,
    op: str,
    block: int,
) -> Tensor:
    """A linear layer; sums are float64, rounded once.

    Shapes: input [..., K], codes [N, ceil(K / length)] and tables [entries, length] of each summand, factor
    [N, ceil(vectors / block)], bias [N] -> [..., N] float32. `block` vectors share a factor.
    """
    total = torch.matmul(input.double(), reals(codes, tables, factor, block, input.shape[-1]).t())
    return (total if bias is None else total + bias.double()).float()


def reals(codes: Sequence[Tensor], tables: Sequence[Tensor], factor: Tensor, block: int, inputs: int) -> Tensor:
    """The weight in float64, [N, inputs]."""
    parts = [table.double()[each.long()].flatten(1) for each, table in zip(codes, tables, strict=True)]
    wide = factor.double().repeat_interleave(block * tables[0].shape[1], 1)
    return (torch.stack(parts).sum(0) * wide[:, : parts[0].shape[1]])[:, :inputs]


CODEBOOK_MEANINGS: Mapping[str, Callable[..., object]] = {"linear_codebook": linear}
"""What kernels of codes of vectors compute, beside `reference.MEANINGS`: onnxruntime has no such kernels."""
