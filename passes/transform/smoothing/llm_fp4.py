"""Pre-shifted exponent bias: channels are scaled by powers of two, which costs floating-point weights nothing.

Formula   b_j = 2^E - log2 max|X_j| + log2(2 - 2^-M) - 1 the exponent bias at which channel j fits the format eEmM;
          r = min_j b_j; k_j = round(b_j) - round(r), at most 2^E - 1; X_j * 2^k_j, W_:j * 2^-k_j
Shapes    s = 2^-k [coordinates]
Promise   Exact(1e-9), and bit by bit as long as nothing underflows
Needs     the largest magnitude per channel; samples where it is measured
Source    Liu et al. 2023, "LLM-FP4: 4-Bit Floating-Point Quantized Transformers"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.formats import MiniFloat
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, safe_scale
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class PreShift:
    """Moves powers of two into the weights.

    Args:
        reach: largest exponent for formats that have no exponent bits of their own.
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    reach: int = 3
    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "preshift"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One vector; none where the activation stays float."""
        if site.spec is None:
            return []
        number = site.spec.format
        if isinstance(number, MiniFloat):
            moved = shifts(site.absmax, number.exponent, number.mantissa, 2**number.exponent - 1)
        else:
            moved = shifts(site.absmax, 0, 0, self.reach)
        return [Smoothing(safe_scale(2.0**-moved))]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)


def shifts(magnitudes: Tensor, exponent: int, mantissa: int, most: int) -> Tensor:
    """How many powers of two each channel moves up: [channels] -> the same, float64; channels of zeros move not."""
    found = magnitudes.double()
    biases = 2.0**exponent - found.log2() + math.log2(2 - 2.0**-mantissa) - 1
    used = found > 0
    if not bool(used.any()):
        return torch.zeros_like(found)
    moved = (biases.round() - biases[used].amin().round()).clamp(0, most)
    return torch.where(used, moved, 0.0)
