"""What every range method answers, and what the methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from qcompiler.histogram import Histogram
from qcompiler.spec import Level, QuantSpec
from qcompiler.stats import Reducer

Ranges = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Energy:
    """How much an error in each channel of a value weighs in the results of the operators that read it.

    Args:
        axis: the channel axis.
        weights: one weight per channel.
    """

    axis: int
    weights: tuple[float, ...] = field(repr=False)


class RangeMethod(Protocol):
    """Chooses the range of values that a grid covers."""

    name: ClassVar[str]

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> Reducer:
        """What to measure of a value whose spec has this block; `energy` may be ignored."""
        ...

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks], finite, from what the reducer found of each value that shares the grid."""
        ...


def merged_extremes(answers: Sequence[Tensor]) -> Ranges:
    """Smallest low and largest high: [2, blocks] each -> [blocks], [blocks]."""
    found = torch.stack(list(answers))
    return found[:, 0].amin(0), found[:, 1].amax(0)


def merged_histograms(answers: Sequence[Tensor]) -> list[Histogram]:
    """One histogram per block from packed rows [blocks, 4 + n] of each value."""
    blocks = zip(*answers, strict=True)
    bins = max(answer.shape[1] for answer in answers)
    return [reduce(lambda one, two: one.merge(two, bins), map(Histogram.unpack, rows)) for rows in blocks]


def stacked(ranges: Sequence[tuple[float, float]]) -> Ranges:
    """Pairs of numbers as low and high [blocks]."""
    low, high = torch.tensor(ranges, dtype=torch.float32).reshape(-1, 2).unbind(1)
    return low, high


def row_spec(spec: QuantSpec) -> QuantSpec:
    """The same numbers with one scale per row of a matrix; scales of two levels count as exact."""
    level = spec.levels[0]
    scale = level.scale if len(spec.levels) == 1 else "f32"
    return QuantSpec(spec.format, (Level((1, -1), scale, level.zero_point),))
