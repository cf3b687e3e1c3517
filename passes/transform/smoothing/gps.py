"""GPS: the scale that balances what a channel loses to its activation and to its weights, in closed form.

Formula   channels centred first. i the channel of the widest range, s* = sqrt(range X_i / range W_:i). With the steps
          that i sets, channel j adds A s^2 / s*^2 + B s*^2 / s^2 to the output error, A = |dX_j|^2 |W_:j|^2 and
          B = |X_j|^2 |dW_:j|^2, so that s_j = s* (B / A)^(1/4); at least what keeps i the widest
Shapes    s, b [coordinates]
Promise   Exact(1e-9)
Needs     extremes per channel, samples; activations that are quantized
Source    "PTQ4ARVG: Post-Training Quantization for AutoRegressive Visual Generation Models", 2026 (its scaling step)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.evaluate import rounded, row_spec
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, centre, safe_scale
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class Gps:
    """Balances the errors of activations and weights.

    Args:
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    online: bool = False
    guard: bool = True
    samples: int = 512
    name: ClassVar[str] = "gps"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One scale and shift; none where the activation stays float."""
        view = site.leading[0]
        if site.spec is None or not len(site.rows):
            return []
        shift = centre(site)
        rows = site.rows.double() - shift
        lost = rounded(rows, row_spec(site.spec, view.axis)) - rows
        activation = lost.square().sum(0) * site.energies
        weight = rows.square().sum(0) * site.lost_energies
        reach = torch.maximum(site.high - shift, shift - site.low)
        widest = int(reach.argmax())
        if not float(reach[widest] * site.columns[widest]):
            return []
        anchor = (reach[widest] / site.columns[widest]).sqrt()
        known = (activation > 0) & (weight > 0)
        scale = torch.where(known, anchor * (weight / torch.where(known, activation, 1.0)) ** 0.25, 1.0)
        scale = torch.maximum(scale, reach * anchor / reach[widest])
        scale[widest] = anchor
        return [Smoothing(safe_scale(scale), shift)]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
