"""RepQuant: as RepQ-ViT, with both ends of each channel's range learned against the output of the layers.

Formula   min over l_j, u_j of sum over readers |Q(X) W^T - X W^T|^2 by Adam with straight-through rounding,
          l = m + sigmoid(a) (min - m), u = m + sigmoid(b) (max - m), m the median; then as RepQ-ViT
Shapes    s, b [coordinates]; b only where the graph admits a shift
Promise   Exact(1e-9); the learned ranges lose no more on the samples than the largest ones and RepQ-ViT's
Needs     samples; activations that are quantized
Source    Li et al. 2024, "RepQuant: Towards Accurate Post-Training Quantization of Large Transformer Models via Scale
          Reparameterization" (dual clipping); its parametrisation: own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, View
from qcompiler.passes.transform.smoothing.repq_vit import channel_rounded, clipped_ranges, reparameterised
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.spec import QuantSpec
from qcompiler.stats import Request

_START = 4.0


@dataclass(frozen=True)
class Repquant:
    """Reparameterises a learned quantizer per channel.

    Args:
        steps: of the optimiser.
        rate: of the optimiser.
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    steps: int = 100
    rate: float = 0.05
    online: bool = False
    guard: bool = True
    samples: int = 1024
    name: ClassVar[str] = "repquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """From learned and from clipped ranges; none where the activation stays float."""
        if site.spec is None or not len(site.rows):
            return []
        learned = learned_ranges(site, site.spec, self.steps, self.rate)
        ranges = (learned, clipped_ranges(site.rows.double(), site.spec, site.shiftable))
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


def learned_ranges(site: SmoothingSite, spec: QuantSpec, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    """Ends of each coordinate's range with the least output loss seen: [coordinates], [coordinates]."""
    rows = site.rows.double()
    middle = rows.median(0).values
    start = rows.new_full((2, site.size), _START, requires_grad=True)
    optimiser = torch.optim.Adam([start], lr=rate)
    starts = [(rows.amin(0), rows.amax(0)), clipped_ranges(rows, spec, True)]
    losses = [output_loss(site, low, high, spec).item() for low, high in starts]
    best, least = min(zip(starts, losses, strict=True), key=lambda pair: pair[1])
    for _ in range(steps):
        share = start.sigmoid()
        low, high = middle + share[0] * (rows.amin(0) - middle), middle + share[1] * (rows.amax(0) - middle)
        loss = output_loss(site, low, high, spec)
        if loss.item() < least:
            best, least = (low.detach(), high.detach()), loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return best


def output_loss(site: SmoothingSite, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """Squared output error of the float layers on inputs that are rounded in the ranges [coordinates]: a scalar."""
    return torch.stack([_view_loss(view, low, high, spec) for view in site.leading]).sum()


def _view_loss(view: View, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    inside, place = view.coordinate >= 0, view.coordinate.clamp(min=0)
    lows, highs = torch.where(inside, low[place], view.low), torch.where(inside, high[place], view.high)
    seen = view.seen.double()
    moved = channel_rounded(torch.movedim(seen, view.axis, -1), lows, highs, spec)
    rounded = torch.movedim(moved, -1, view.axis)
    errors = [
        (reader.product(rounded, weight) - reader.product(seen, weight)).square().sum()
        for reader in view.readers
        for weight in (reader.weight.double(),)
    ]
    return torch.stack(errors).sum()
