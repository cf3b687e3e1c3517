"""Values per block, found from the elements of a tensor and given back to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats.extents import block_counts

Reduction = Literal["amin", "amax", "absmax"]


def expand_blocks(per_block: Tensor, block: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """Gives every element the value of its block.

    Shapes: per_block [ceil(shape[i] / block[i])] -> `shape`, same dtype. Axes with block 1 or one block in
    all are broadcast views and cost no memory. Raises SpecError when ranks or extents do not fit.
    """
    if per_block.dim() != len(block_counts(shape, block)):
        raise SpecError(
            f"{per_block.dim()}-dimensional block values for a block of rank {len(block)}",
            where=f"block {block}, values {tuple(per_block.shape)}",
        )
    for axis, (extent, size) in enumerate(zip(block, shape, strict=True)):
        if extent > 1 and extent < size:
            per_block = per_block.repeat_interleave(extent, dim=axis).narrow(axis, 0, size)
    return per_block.expand(torch.Size(shape))


def block_reduce(x: Tensor, block: tuple[int, ...], op: Reduction) -> Tensor:
    """Smallest, largest or largest absolute value of each block.

    Shapes: x [...] -> [ceil(x.shape[i] / block[i])], dtype of `x`; NaN in a block gives NaN.
    Raises SpecError when the ranks differ.
    """
    block_counts(x.shape, block)
    if op == "absmax":
        return torch.maximum(block_reduce(x, block, "amax"), -block_reduce(x, block, "amin")).abs()
    whole = [axis for axis, extent in enumerate(block) if extent == -1]
    if whole:
        x = x.amin(whole, keepdim=True) if op == "amin" else x.amax(whole, keepdim=True)
    for axis, extent in enumerate(block):
        if extent > 1:
            tiles = _tiles(x, axis, extent)
            x = tiles.amin(axis + 1) if op == "amin" else tiles.amax(axis + 1)
    return x


def _tiles(x: Tensor, axis: int, extent: int) -> Tensor:
    """Splits an axis into (blocks, extent); a short last block is filled with its own last slice."""
    size = x.shape[axis]
    missing = -size % extent
    if missing:
        tail_shape = list(x.shape)
        tail_shape[axis] = missing
        # Repeating an element of the block changes neither its minimum nor its maximum.
        x = torch.cat([x, x.narrow(axis, size - 1, 1).expand(tail_shape)], dim=axis)
    return x.unflatten(axis, (-1, extent))
