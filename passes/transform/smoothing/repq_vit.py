"""RepQ-ViT: the scales and zero points of a quantizer per channel, folded so that one per tensor does the same.

Formula   per channel step d_j and zero point z_j of the clipped range with the least squared error; d = mean d_j,
          z = round(mean z_j); s_j = d_j / d, b_j = (z - z_j) d_j: then x_j / d_j + z_j = (x_j - b_j) / s_j / d + z
Shapes    s, b [coordinates]; b only where the graph admits a shift
Promise   Exact(1e-9)
Needs     samples; activations that are quantized
Source    Li et al. 2022, "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, safe_scale
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.spec import QuantSpec, round_through
from qcompiler.stats import Request

PERCENTILES = (0.999, 0.9999, 0.99999, 1.0)


@dataclass(frozen=True)
class RepqVit:
    """Reparameterises a quantizer per channel.

    Args:
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    online: bool = False
    guard: bool = True
    samples: int = 1024
    name: ClassVar[str] = "repq_vit"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """From clipped and from whole ranges; none where the activation stays float."""
        if site.spec is None or not len(site.rows):
            return []
        ranges = (clipped_ranges(site.rows.double(), site.spec, site.shiftable), (site.low, site.high))
        return [reparameterised(low, high, site.spec, site.shiftable) for low, high in ranges]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales and shifts folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)


def clipped_ranges(rows: Tensor, spec: QuantSpec, asymmetric: bool) -> tuple[Tensor, Tensor]:
    """Ends of each channel's range with the least squared error among clipped ones: [rows, n] -> [n], [n]."""
    best_low = best_high = rows.new_zeros(rows.shape[1])
    best_error = rows.new_full((rows.shape[1],), torch.inf)
    for share in PERCENTILES:
        low, high = rows.quantile(1 - share, 0), rows.quantile(share, 0)
        if not asymmetric:
            high = torch.maximum(-low, high)
            low = -high
        error = (channel_rounded(rows, low, high, spec) - rows).square().sum(0)
        better = error < best_error
        best_low, best_high = torch.where(better, low, best_low), torch.where(better, high, best_high)
        best_error = torch.where(better, error, best_error)
    return best_low, best_high


def channel_rounded(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """Rows on the grid of each channel's own range, whose zero point may lie outside the format; differentiable.

    Shapes: rows [..., n], low and high [n] -> as the rows. A channel without a range becomes its own constant.
    """
    steps = spec.format.highest - spec.format.lowest
    step = torch.where(high > low, (high - low) / steps, 1.0)
    zero = round_through(spec.format.lowest - low / step)
    codes = (round_through(rows / step) + zero).clamp(spec.format.lowest, spec.format.highest)
    return torch.where(high > low, (codes - zero) * step, low)


def reparameterised(low: Tensor, high: Tensor, spec: QuantSpec, shiftable: bool) -> Smoothing:
    """The vectors that make one quantizer of the tensor do what ranges per channel would: [n], [n]."""
    number = spec.format
    usable = high > low
    if not bool(usable.any()):
        return Smoothing(torch.ones_like(low), low.clone() if shiftable else None)
    if not shiftable:
        reach = torch.maximum(-low, high)
        return Smoothing(safe_scale(torch.where(reach > 0, reach / reach[reach > 0].mean(), 1.0)))
    step = (high - low) / (number.highest - number.lowest)
    zero = (number.lowest - low / torch.where(usable, step, 1.0)).round()
    common_step = step[usable].mean()
    common_zero = zero[usable].mean().clamp(number.lowest, number.highest).round()
    scale = safe_scale(torch.where(usable, step / common_step, 1.0))
    shift = torch.where(usable, (common_zero - zero) * scale * common_step, low)
    return Smoothing(scale, shift)
