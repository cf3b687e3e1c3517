"""A histogram that grows with its data: bins on a lattice of powers of three, so that any two of them merge
exactly.

Bin `i` is centred on `i * 3**exponent` and zero always sits on a centre, so the many exact zeros of a
rectified activation are counted where they are. When the data outgrow the bins, three neighbours become one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.layout import memory_order
from qcompiler.reducers import split_blocks
from qcompiler.stats import Accumulator

FINEST = -78
"""Smallest exponent: its width is still a normal float32."""
_CHUNK = 1 << 22
_HEADER = 4


@dataclass(frozen=True)
class Histogram:
    """Counts of values on the lattice.

    Args:
        exponent: bins are `3**exponent` wide.
        first: index of the first bin.
        counts: [bins] float64, sums of weights (one per value where nothing is weighted).
        low: smallest value exactly, at most 0.
        high: largest value exactly, at least 0.
    """

    exponent: int
    first: int
    counts: Tensor
    low: float = 0.0
    high: float = 0.0

    @staticmethod
    def empty() -> Histogram:
        """No values at all."""
        return Histogram(FINEST, 0, torch.zeros(1, dtype=torch.float64))

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 3.0**self.exponent

    @property
    def centers(self) -> Tensor:
        """[bins] float64: the middle of each bin, held inside low .. high."""
        index = torch.arange(self.first, self.first + len(self.counts), dtype=torch.float64)
        return (index * self.width).clamp(self.low, self.high)

    def add(self, values: Tensor, weights: Tensor | None, low: float, high: float, bins: int) -> Histogram:
        """Counts more values.

        Args:
            values: [N] finite float32.
            weights: [N] or None.
            low: a number not above any value.
            high: a number not below any value.
            bins: most bins of the result, give or take the two at the ends.
        """
        low, high = min(low, self.low), max(high, self.high)
        exponent = max(self.exponent, _exponent(high - low, bins))
        width = 3.0**exponent
        first, last = round(low / width) - 1, round(high / width) + 1
        counts = torch.zeros(last - first + 1, dtype=torch.float64)
        for start in range(0, len(values), _CHUNK):
            index = (values[start : start + _CHUNK] / width).round_().sub_(first).to(torch.int32)
            chunk = None if weights is None else weights[start : start + _CHUNK]
            counts += torch.bincount(index, chunk, len(counts))
        return self.merge(Histogram(exponent, first, counts, low, high), bins)

    def merge(self, other: Histogram, bins: int) -> Histogram:
        """The histogram of both data sets, with at most `bins` bins, give or take the two at the ends."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = max(self.exponent, other.exponent, _exponent(high - low, bins))
        one, two = self.at(exponent), other.at(exponent)
        first = min(one.first, two.first)
        last = max(one.first + len(one.counts), two.first + len(two.counts))
        counts = torch.zeros(last - first, dtype=torch.float64)
        for part in (one, two):
            counts[part.first - first : part.first - first + len(part.counts)] += part.counts
        return Histogram(exponent, first, counts, low, high)

    def at(self, exponent: int) -> Histogram:
        """The same counts on a coarser lattice."""
        first, counts = self.first, self.counts
        for _ in range(exponent - self.exponent):
            coarse = (first + 1) // 3
            before = first - (3 * coarse - 1)
            after = -(before + len(counts)) % 3
            counts = torch.nn.functional.pad(counts, (before, after)).reshape(-1, 3).sum(1)
            first = coarse
        return Histogram(exponent, first, counts, self.low, self.high)

    def pack(self, bins: int) -> Tensor:
        """[4 + bins] float64: exponent, first, low, high, counts."""
        header = torch.tensor([self.exponent, self.first, self.low, self.high], dtype=torch.float64)
        return torch.cat([header, torch.nn.functional.pad(self.counts, (0, bins - len(self.counts)))])

    @staticmethod
    def unpack(packed: Tensor) -> Histogram:
        """Reads what `pack` wrote."""
        exponent, first, low, high = packed[:_HEADER].tolist()
        return Histogram(int(exponent), int(first), packed[_HEADER:], low, high)


@dataclass(frozen=True)
class Histograms:
    """Reducer: one histogram per block.

    Args:
        block: extents as in a spec, -1 = the whole axis.
        bins: most bins of one histogram.
        limit: most elements taken of one block of one batch, evenly spread; low and high stay exact.
        axis: axis along which the weights lie.
        weights: what an element counts, by its place along `axis`; every element counts 1 when empty.

    Result: [blocks, 4 + n] float64, each row a packed `Histogram`.
    """

    block: tuple[int, ...]
    bins: int = 4096
    limit: int | None = None
    axis: int = 0
    weights: tuple[float, ...] = ()

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        return _Accumulator(self)


class _Accumulator:
    def __init__(self, reducer: Histograms) -> None:
        self.reducer = reducer
        self.histograms: list[Histogram] = []
        self.weights = torch.tensor(reducer.weights, dtype=torch.float64) if reducer.weights else None

    def update(self, value: Tensor) -> None:
        if not value.numel():
            return
        blocks = list(split_blocks(value.detach().float(), self.reducer.block))
        self.histograms = self.histograms or [Histogram.empty() for _ in blocks]
        pairs = zip(self.histograms, blocks, strict=True)
        self.histograms = [self.added(histogram, corner, part) for histogram, (corner, part) in pairs]

    def added(self, histogram: Histogram, corner: tuple[int, ...], part: Tensor) -> Histogram:
        order, count, limit = memory_order(part), part.numel(), self.reducer.limit
        step = 1 if limit is None or count <= limit else spread_step(count, limit)
        values = part.permute(order).flatten()[::step]
        weights = None
        if self.weights is not None:
            axis = self.reducer.axis
            line = self.weights.narrow(0, corner[axis], part.shape[axis])
            inner = math.prod(part.shape[other] for other in order[order.index(axis) + 1 :])
            weights = line[torch.arange(0, count, step) // inner % len(line)]
        return histogram.add(values, weights, part.amin().item(), part.amax().item(), self.reducer.bins)

    def result(self) -> Tensor:
        found = self.histograms or [Histogram.empty()]
        bins = max(len(histogram.counts) for histogram in found)
        return torch.stack([histogram.pack(bins) for histogram in found])


def spread_step(count: int, limit: int) -> int:
    """Smallest step that takes at most `limit` of `count` elements, from the places of each axis alike."""
    step = -(-count // limit)
    while math.gcd(step, count) > 1:
        step += 1
    return step


def _exponent(span: float, bins: int) -> int:
    """Smallest exponent at which a span fits into so many bins."""
    if span <= 0.0:
        return FINEST
    return max(FINEST, math.ceil(math.log(span / (bins - 2), 3)))
