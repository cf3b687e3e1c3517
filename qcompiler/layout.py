"""The order of elements in memory: chosen for speed, never for meaning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LAST = (0, 2, 3, 1)


def channels_last(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The same values with images in the memory order in which convolutions and pools run fastest on a CPU.

    Shapes: any; floating [N, C, H, W] change their strides, all else is handed on.
    """
    images = [value.dim() == 4 and value.is_floating_point() for value in inputs]
    return [
        value.contiguous(memory_format=torch.channels_last) if image else value
        for value, image in zip(inputs, images, strict=True)
    ]


def memory_order(value: Tensor) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in memory; permuted by it a dense tensor flattens without a copy."""
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return _LAST
    return tuple(range(value.dim()))
