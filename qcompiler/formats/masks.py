"""N:M masks: of every M neighbours, N are kept; a mask is stored as its rank among all such masks.

Source: Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"; Li et al. 2024,
"MVQ: Towards Efficient DNN Compression and Acceleration with Masked Vector Quantization" (the rank as code).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.formats.extents import mask_bits


def keep_largest(x: Tensor, kept: int, group: int, axis: int = -1) -> Tensor:
    """Marks the `kept` elements of largest magnitude of every `group` neighbours along an axis.

    Shapes: any -> bool of the same shape. Among equals the first is kept; a short last group keeps as many, or all
    that it has.
    """
    rows = x.detach().abs().movedim(axis, -1)
    missing = -rows.shape[-1] % group
    filled = torch.nn.functional.pad(rows, (0, missing), value=-1.0).unflatten(-1, (-1, group))
    order = filled.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(filled, dtype=torch.bool).scatter_(-1, order[..., :kept], True)
    return mask.flatten(-2)[..., : rows.shape[-1]].movedim(-1, axis)


def rank_masks(mask: Tensor, kept: int) -> Tensor:
    """The rank of each mask among all with `kept` ones, by the combinatorial number system.

    Shapes: mask [..., M] bool, `kept` ones in each -> [...] int64, below 2^mask_bits(kept, M).
    """
    binomials = _binomials(mask.shape[-1], kept)
    places = torch.arange(mask.shape[-1]).expand(mask.shape)
    # The j-th one (from 1) at place p contributes C(p, j).
    contributions = binomials[places, mask.long().cumsum(-1)]
    return torch.where(mask, contributions, 0).sum(-1)


def unrank_masks(ranks: Tensor, kept: int, group: int) -> Tensor:
    """Inverse of `rank_masks`. Shapes: [...] integers -> [..., group] bool."""
    binomials = _binomials(group, kept)
    rest, left = ranks.long().clone(), torch.full_like(ranks, kept, dtype=torch.int64)
    mask = torch.zeros((*ranks.shape, group), dtype=torch.bool)
    for place in reversed(range(group)):
        contribution = binomials[place, left]
        taken = (left > 0) & (rest >= contribution)
        mask[..., place] = taken
        rest -= torch.where(taken, contribution, 0)
        left -= taken.long()
    return mask


def _binomials(places: int, most: int) -> Tensor:
    return torch.tensor([[math.comb(place, count) for count in range(most + 1)] for place in range(places)])


__all__ = ["keep_largest", "mask_bits", "rank_masks", "unrank_masks"]
