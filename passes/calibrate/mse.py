"""MSE: the range with the least mean squared quantization error.

Formula   argmin over (low, high) of sum_i n_i * (fq(x_i) - x_i)^2 over the bins of a histogram, first over
          common shrink factors of the exact min and max, then each end alone, then close around the best. With
          `weighted` an element counts as much as its channel's errors count in the operators that read it:
          n_c = sum ||W[:, c]||^2
Shapes    one pair per block of the spec
Promise   on the histogram never worse than min-max, which is the first candidate
Needs     calibration data; a histogram per block, of at most 2^17 elements of each batch
Source    Choukroun et al. 2019, "Low-bit Quantization of Neural Networks for Efficient Inference" (search by
          MSE); the weighting: own, the diagonal of Nagel et al. 2020, "Up or Down?", seen from the
          activation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.histogram import Histogram, Histograms
from qcompiler.passes.calibrate.method import Energy, Ranges, merged_histograms, row_spec, stacked
from qcompiler.spec import QuantSpec, fake_quantize, qparams_from_range

_SAMPLES = 1 << 17
_FACTORS = torch.logspace(0, -8, 65, base=2, dtype=torch.float64)
_CLOSE = torch.linspace(1.04, 0.96, 5, dtype=torch.float64)


@dataclass(frozen=True)
class Mse:
    """Least squared error.

    Args:
        weighted: count channels by the weights that multiply them.
    """

    weighted: bool = True
    name: ClassVar[str] = "mse"

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> Histograms:
        """A histogram per block."""
        if energy is None or not self.weighted:
            return Histograms(block, limit=_SAMPLES)
        return Histograms(block, limit=_SAMPLES, axis=energy.axis, weights=energy.weights)

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks]."""
        rows = row_spec(spec)
        return stacked([least_squares(histogram, rows) for histogram in merged_histograms(answers)])


def least_squares(histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
    """Low and high of one block; `spec` has one scale per row of a matrix."""
    low, high = histogram.low, histogram.high
    filled = histogram.counts > 0
    if low == high or not bool(filled.any()):
        return low, high
    values, counts = histogram.centers[filled], histogram.counts[filled]
    whole = torch.tensor([low, high], dtype=torch.float64)
    best = _least(values, counts, _FACTORS[:, None] * whole, spec)
    # One heavy tail must not drag the other end along, as common factors alone would have it.
    for end in (1, 0):
        apart = best.repeat(len(_FACTORS), 1)
        apart[:, end] = _FACTORS * whole[end]
        best = _least(values, counts, torch.cat([best[None], apart]), spec)
    close = torch.cartesian_prod(best[0] * _CLOSE, best[1] * _CLOSE).clamp(low, high)
    best = _least(values, counts, torch.cat([best[None], close]), spec)
    return best[0].item(), best[1].item()


def _least(values: Tensor, counts: Tensor, ranges: Tensor, spec: QuantSpec) -> Tensor:
    """The candidate with the least error, the first of equals: [k, 2] -> [2]."""
    return ranges[squared_errors(values, counts, ranges, spec).argmin()]


def squared_errors(values: Tensor, counts: Tensor, ranges: Tensor, spec: QuantSpec) -> Tensor:
    """Weighted squared error of each candidate: values [n], counts [n], ranges [k, 2] -> [k] float64."""
    scale, zero_point = qparams_from_range(ranges[:, :1], ranges[:, 1:], spec)
    x = values.float().expand(len(ranges), -1)
    error = fake_quantize(x, scale, zero_point, spec) - x
    return error.square_().double() @ counts
