"""What can be asked of a value in the statistics sweep: extremes, their moving average, means, moments and samples.

Every reducer is a frozen, hashable description; its accumulator holds a few numbers per block or pair of
channels, or a bounded number of samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.spec import block_reduce
from qcompiler.stats import Accumulator

_GOLDEN = (5**0.5 - 1) / 2


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


@dataclass(frozen=True)
class Samples:
    """Reducer: a share of the samples, spread evenly and without a pattern over all batches.

    Args:
        axis: the channel axis.
        limit: most samples to keep. With channels last a sample is a row of channels, otherwise one index of the first
            axis with everything behind it.

    Result: [rows, channels], or [samples, ...] in the value's own shape; its dtype.

    Raises:
        SpecError: when no samples are to be kept.
    """

    axis: int
    limit: int = 256

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise SpecError(f"{self.limit} samples are none", mend="ask for 1 or more")

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _Samples(self.axis, self.limit)


class _Samples:
    def __init__(self, axis: int, limit: int) -> None:
        self.axis, self.limit = axis, limit
        self.kept: list[Tensor] = []
        self.ranks = torch.zeros(0)
        self.seen = 0

    def update(self, value: Tensor) -> None:
        rows = value.detach().reshape(-1, value.shape[-1]) if self.axis in (-1, value.dim() - 1) else value.detach()
        # The fractional parts of multiples of the golden ratio: no period can hide in them.
        ranks = (torch.arange(self.seen, self.seen + len(rows), dtype=torch.float64) * _GOLDEN).frac()
        self.seen += len(rows)
        ranks, order = torch.cat([self.ranks, ranks]).sort()
        order, old = order[: self.limit], len(self.kept)
        self.ranks = ranks[: self.limit]
        self.kept = [self.kept[i] if i < old else rows[i - old].clone() for i in order.tolist()]

    def result(self) -> Tensor:
        return torch.stack(self.kept) if self.kept else torch.zeros(0)


@dataclass(frozen=True)
class SecondMoment:
    """Reducer: mean of `x x^T` over all rows of channels.

    Args:
        axis: the channel axis.

    Result: float64 [channels, channels].
    """

    axis: int

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _SecondMoment(self.axis)


class _SecondMoment:
    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def update(self, value: Tensor) -> None:
        rows = value.detach().movedim(self.axis, -1).flatten(0, -2)
        # A batch is summed in its own precision: its rounding is far below the noise of a finite sample.
        self.total = self.total + (rows.mT @ rows).double()
        self.count += len(rows)

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
