"""AWQ: channels that carry large activations get larger weights, which rounding to nearest hurts less.

Formula   s_j = mean|X_j|^alpha / sqrt(max_k s_k * min_k s_k), alpha of 0, 1/20, ..., 19/20 with the least output error
Shapes    s [coordinates]
Promise   Exact(1e-9)
Needs     samples, on which every alpha is measured
Source    Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, migrated, safe_scale
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class Awq:
    """Protects the weights of salient channels.

    Args:
        grid: how many exponents are tried.
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    grid: int = 20
    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "awq"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise SpecError(f"a grid of {self.grid} exponents", mend="give 1 or more; 20 is usual")

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One vector for each exponent."""
        mean = site.rows.abs().mean(0, dtype=torch.float64)
        found = []
        for step in range(self.grid):
            scale = migrated(mean, site.columns, step / self.grid, 0.0)
            found.append(Smoothing(safe_scale(scale / (scale.amax() * scale.amin()).sqrt())))
        return found

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
