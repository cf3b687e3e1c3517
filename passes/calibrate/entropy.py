"""Entropy: the range at which the quantized distribution tells least apart from the real one.

Formula   over thresholds t: P = histogram of |x| below t, the rest added to its last bin; Q = P's bins
          (without the rest) gathered into as many levels as the grid has on a side, each spread evenly over
          its filled bins; t = argmin KL(P || Q), the largest one on a tie; low = max(min x, -t), high =
          min(max x, t)
Shapes    one pair per block of the spec
Promise   inside the min-max range
Needs     calibration data; a histogram per block. Of little meaning at 4 bits and below
Source    Migacz 2017, "8-bit Inference with TensorRT"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.histogram import Histogram, Histograms
from qcompiler.passes.calibrate.method import Energy, Ranges, merged_histograms, stacked
from qcompiler.passes.calibrate.percentile import folded
from qcompiler.spec import QuantSpec

_THRESHOLDS = 128


@dataclass(frozen=True)
class Entropy:
    """Least Kullback-Leibler divergence."""

    name: ClassVar[str] = "entropy"

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> Histograms:
        """A histogram per block."""
        return Histograms(block)

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks]."""
        found = []
        for histogram in merged_histograms(answers):
            two_sided = histogram.low < 0 < histogram.high
            levels = 2 ** (spec.bits - 1 if two_sided or (spec.symmetric and spec.format.signed) else spec.bits)
            top = threshold(folded(histogram), levels)
            found.append((max(histogram.low, -top), min(histogram.high, top)))
        return stacked(found)


def threshold(histogram: Histogram, levels: int) -> float:
    """The best end of a one-sided histogram; its own end where it has no more bins than levels."""
    counts = histogram.counts.clone()
    if len(counts) < 2:
        return histogram.high
    # The spike of exact zeros is quantized without error at any range and would drown the rest.
    counts[0] = counts[1]
    used = int(counts.nonzero().max()) + 1 if bool(counts.any()) else 0
    if used <= levels:
        return histogram.high
    ends = torch.linspace(used, levels, min(_THRESHOLDS, used - levels + 1)).round().long().tolist()
    costs = [divergence(counts[:used], end, levels) for end in ends]
    best = ends[costs.index(min(costs))]
    return min(histogram.high, (best - 0.5) * histogram.width) if best < used else histogram.high


def divergence(counts: Tensor, end: int, levels: int) -> float:
    """KL(P || Q) with the histogram cut off after `end` bins."""
    kept = counts[:end]
    real = kept.clone()
    real[-1] += counts[end:].sum()
    level = torch.arange(end) * levels // end
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, kept)
    filled = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, (real > 0).double())
    spread = (mass / filled.clamp(min=1))[level] * (real > 0)
    if not bool(spread.sum() > 0):
        return float("inf")
    p, q = real / real.sum(), spread / spread.sum()
    if bool(((p > 0) & (q == 0)).any()):
        return float("inf")
    return torch.special.xlogy(p, p / q.clamp(min=torch.finfo(torch.float64).tiny)).sum().item()
