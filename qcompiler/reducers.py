"""What can be asked of a value in the statistics sweep: extremes, their moving average, and means.

Every reducer is a frozen, hashable description; its accumulator holds a few numbers per block, never
samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.spec import block_reduce
from qcompiler.stats import Accumulator


@dataclass(frozen=True)
class Extremes:
    """Reducer: smallest and largest value of each block over all batches.

    Args:
        block: extents as in a spec, -1 = the whole axis.

    Result: [2, blocks] float32.
    """

    block: tuple[int, ...]

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _Extremes(self.block, None)


@dataclass(frozen=True)
class MovingExtremes:
    """Reducer: exponential moving average of the batches' smallest and largest values; the first starts it.

    Args:
        block: extents as in a spec, -1 = the whole axis.
        momentum: how much of the average stays at every batch.

    Result: [2, blocks] float32. It depends on the order of the batches.
    """

    block: tuple[int, ...]
    momentum: float = 0.9

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _Extremes(self.block, self.momentum)


class _Extremes:
    def __init__(self, block: tuple[int, ...], momentum: float | None) -> None:
        self.block, self.momentum = block, momentum
        self.found: Tensor | None = None

    def update(self, value: Tensor) -> None:
        if not value.numel():
            return
        now = extremes(value.detach(), self.block)
        if self.found is None:
            self.found = now
        elif self.momentum is None:
            self.found = torch.stack([torch.minimum(self.found[0], now[0]), torch.maximum(self.found[1], now[1])])
        else:
            self.found = self.momentum * self.found + (1 - self.momentum) * now

    def result(self) -> Tensor:
        return torch.zeros(2, 1) if self.found is None else self.found


@dataclass(frozen=True)
class Mean:
    """Reducer: mean of each channel.

    Args:
        axis: the channel axis.

    Result: float64 [channels].
    """

    axis: int

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _Mean(self.axis)


class _Mean:
    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def update(self, value: Tensor) -> None:
        others = [axis for axis in range(value.dim()) if axis != self.axis]
        self.total = self.total + (value.detach().sum(others, dtype=torch.float64) if others else value.double())
        self.count += math.prod(value.shape[axis] for axis in others)

    def result(self) -> Tensor:
        return self.total / max(self.count, 1)


def extremes(value: Tensor, block: tuple[int, ...]) -> Tensor:
    """Smallest and largest element of each block: [...] -> [2, blocks] float32."""
    if all(extent == -1 for extent in block):
        # aminmax is slow where channels come last in memory.
        return torch.stack([value.amin(), value.amax()]).float().reshape(2, 1)
    low, high = block_reduce(value, block, "amin"), block_reduce(value, block, "amax")
    return torch.stack([low, high]).float().flatten(1)


def split_blocks(value: Tensor, block: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The blocks of a tensor as views, each with the place of its first element; the last may be short."""
    sizes = [size if extent == -1 else extent for size, extent in zip(value.shape, block, strict=True)]
    for corner in itertools.product(*map(range, [0] * len(sizes), value.shape, sizes)):
        part = value
        for axis, (start, size) in enumerate(zip(corner, sizes, strict=True)):
            if size < value.shape[axis]:
                part = part.narrow(axis, start, min(size, value.shape[axis] - start))
        yield corner, part
