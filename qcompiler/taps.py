"""What each weight of a convolution reads on average: enough for its mean output, and small whatever the image size.

A convolution is linear, so its mean output is `sum over channels and taps of W * m`, with m the mean, over samples and
output places, of what the tap reads; outside the image it reads 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.layout import memory_order
from qcompiler.stats import Accumulator


@dataclass(frozen=True)
class Window:
    """How a convolution slides along one axis.

    Args:
        taps: size of the kernel.
        stride: step between results; between inputs of a transposed convolution.
        padding: zeros before and after; results cut off on both sides of a transposed convolution.
        dilation: step between taps.
        transposed: whether inputs are spread over results.
        extra: results added behind by a transposed convolution.
    """

    taps: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False
    extra: int = 0

    def results(self, size: int) -> int:
        """Number of results for so many inputs."""
        span = self.dilation * (self.taps - 1) + 1
        if self.transposed:
            return (size - 1) * self.stride - 2 * self.padding + span + self.extra
        return (size + 2 * self.padding - span) // self.stride + 1

    def reads(self, tap: int, size: int) -> slice:
        """The inputs that the tap multiplies."""
        offset = tap * self.dilation - self.padding
        before = max(-(offset // self.stride), 0)
        if self.transposed:
            last = (self.results(size) - 1 - offset) // self.stride
            return slice(before, max(min(last + 1, size), before))
        first = before * self.stride + offset
        last = (self.results(size) - 1) * self.stride + offset
        return slice(first, max(min(last + 1, size), first), self.stride)


@dataclass(frozen=True)
class TapMeans:
    """Reducer: mean over samples and results of what each tap reads, per input channel.

    Args:
        windows: one for each axis behind the channel axis; images may have several sizes.

    Result: float64 [channels, *taps].
    """

    windows: tuple[Window, ...]

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _TapMeans(self.windows)


class _TapMeans:
    def __init__(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def update(self, value: Tensor) -> None:
        leading = value.dim() - 1 - len(self.windows)
        samples = math.prod(value.shape[:leading])
        results = math.prod(map(Window.results, self.windows, value.shape[leading + 1 :]))
        # Sums run fastest in the order in which the elements lie.
        order = memory_order(value)
        place = [order.index(axis) - leading for axis in range(leading, value.dim())]
        sums = value.detach().permute(order)
        sums = sums.sum(list(range(leading))) if leading else sums
        for window, axis in zip(self.windows, place[1:], strict=True):
            size, before = sums.shape[axis], (slice(None),) * axis
            parts = [sums[(*before, window.reads(tap, size))].sum(axis) for tap in range(window.taps)]
            sums = torch.stack(parts, axis).double()
        sums = sums.permute(place)
        self.total = self.total + sums / results
        self.count += samples

    def result(self) -> Tensor:
        return self.total / max(self.count, 1)
