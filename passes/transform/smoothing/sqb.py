"""SQ-b: every channel is centred before its range is shared with the weights.

Formula   b_j = (max X_j + min X_j) / 2; s_j = max|X_j - b_j|^alpha / max|W_:j|^(1 - alpha); (X_j - b_j) / s_j, and
          W b goes into the biases of the readers
Shapes    s, b [coordinates]; b is zero where the graph admits no shift
Promise   Exact(1e-9)
Needs     extremes per channel; samples where a candidate is measured
Source    Tai, Wu 2024, "MPTQ-ViT: Mixed-Precision Post-Training Quantization for Vision Transformer" (SmoothQuant with
          bias term); the centre as the bias: own reading
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, centre, check_share, migrated
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class SqB:
    """Centres channels and moves range into the weights.

    Args:
        alpha: share of the activation's range that moves.
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    alpha: float = 0.5
    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "sqb"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        check_share(self.alpha)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One scale and shift."""
        shift = centre(site)
        spread = site.absmax if not site.shiftable else (site.high - site.low) / 2
        return [Smoothing(migrated(spread, site.columns, self.alpha, 1 - self.alpha), shift)]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales and shifts folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
