"""CFP: only the channels that stand out are scaled, found by a coarse and a fine threshold.

Formula   v the sorted largest magnitudes. Coarse: O = {v > Q3 + 1.5 (Q3 - Q1)}. Fine: split O into reserved ones and
          outliers where Var(reserved) - (min outliers - max reserved)^2 is least. Outlier channels:
          s_j = sqrt(v_j / max reserved), others 1
Shapes    s [coordinates]
Promise   Exact(1e-9)
Needs     the largest magnitude per channel; samples where it is measured
Source    Ding et al. 2023, "CBQ: Cross-Block Quantization for Large Language Models" (coarse-to-fine preprocessing)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, safe_scale
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

# torch.quantile takes no more elements.
_MOST = 1 << 24


@dataclass(frozen=True)
class Cfp:
    """Scales outlier channels.

    Args:
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "cfp"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One vector; none where no channel stands out."""
        reserved, threshold = split_outliers(site.absmax)
        if not reserved > 0:
            return []
        outlier = site.absmax >= threshold
        scale = torch.where(outlier, (site.absmax / reserved).sqrt(), 1.0)
        return [Smoothing(safe_scale(scale))] if bool(outlier.any()) else []

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)


def split_outliers(magnitudes: Tensor) -> tuple[float, float]:
    """The largest magnitude that is no outlier, and the smallest that is one: any shape -> infinity when there is none.

    The fine split counts the gap between neighbours, so that a heavy tail without a gap keeps most of its values.
    """
    values = magnitudes.flatten().double().sort().values
    if not len(values):
        return 0.0, math.inf
    first, third = torch.quantile(values[:: 1 + len(values) // _MOST], values.new_tensor([0.25, 0.75])).tolist()
    start = int((values <= third + 1.5 * (third - first)).sum())
    tail = values[start:]
    if not len(tail):
        return values[-1].item(), math.inf
    counts = torch.arange(1, len(tail) + 1, dtype=torch.float64)
    variances = tail.square().cumsum(0) / counts - (tail.cumsum(0) / counts) ** 2
    gaps = tail - values[max(start - 1, 0) : max(start - 1, 0) + len(tail)]
    # Entry r is the score of r reserved values; the last one keeps them all.
    scores = torch.cat([variances.new_zeros(1), variances]) - torch.cat([gaps.square(), gaps.new_zeros(1)])
    split = int(scores.argmin())
    return values[max(start + split - 1, 0)].item(), tail[split].item() if split < len(tail) else math.inf
