"""Percentile: a fixed share of the values may saturate on each side.

Formula   high = Q(p), low = Q(100 - p) of the values; symmetric signed: high = -low = Q(p) of |x|
Shapes    one pair per block of the spec
Promise   at most 100 - p percent of the values saturate on a side; right to within a bin of the histogram
Needs     calibration data; a histogram of every element per block
Source    Wu et al. 2020, "Integer Quantization for Deep Learning Inference: Principles and Empirical
          Evaluation"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.histogram import Histogram, Histograms
from qcompiler.passes.calibrate.method import Energy, Ranges, merged_histograms, stacked
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class Percentile:
    """Quantiles of the values.

    Args:
        percentile: share of the values below the upper end, in percent, above 50 and at most 100.
    """

    percentile: float = 99.998
    name: ClassVar[str] = "percentile"

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"percentile {self.percentile} is not between 50 and 100", mend="99.998 is usual")

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> Histograms:
        """A histogram per block."""
        return Histograms(block)

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks]."""
        found = merged_histograms(answers)
        if spec.symmetric and spec.format.signed:
            tops = [quantile(folded(histogram), self.percentile / 100) for histogram in found]
            return stacked([(-top, top) for top in tops])
        share = self.percentile / 100
        return stacked([(quantile(histogram, 1 - share), quantile(histogram, share)) for histogram in found])


def quantile(histogram: Histogram, share: float) -> float:
    """The centre of the bin at which this share of the counts is reached; 0.0 for an empty histogram."""
    cumulative = histogram.counts.cumsum(0)
    target = share * cumulative[-1]
    return histogram.centers[int(torch.searchsorted(cumulative, target).clamp(max=len(cumulative) - 1))].item()


def folded(histogram: Histogram) -> Histogram:
    """The histogram of the absolute values."""
    size = max(-histogram.first, histogram.first + len(histogram.counts) - 1) + 1
    counts = torch.zeros(size, dtype=torch.float64)
    index = torch.arange(histogram.first, histogram.first + len(histogram.counts)).abs()
    counts.index_add_(0, index, histogram.counts)
    return Histogram(histogram.exponent, 0, counts, 0.0, max(-histogram.low, histogram.high))
