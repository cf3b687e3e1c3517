"""SmoothQuant: a share of each channel's range moves from the activation into the weights that read it.

Formula   s_j = max|X_j|^alpha / max|W_:j|^(1 - alpha), the weights of all readers together; X_j / s_j, W_:j * s_j
Shapes    s [coordinates]; 1 where activation or weight are zero
Promise   Exact(1e-9)
Needs     the largest magnitude per channel; samples where a candidate is measured
Source    Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, check_share, migrated
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

GRID = (0.5, 0.3, 0.4, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)


@dataclass(frozen=True)
class SmoothQuant:
    """Moves range into the weights.

    Args:
        alpha: share of the activation's range that moves.
        search: whether the share with the least measured error is taken instead, for each group.
        online: whether values that nothing can absorb a scale for are multiplied when the model runs.
        guard: whether a group that comes out no better is left alone.
        samples: how many samples of each value errors are measured on.
    """

    alpha: float = 0.5
    search: bool = False
    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "smoothquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        check_share(self.alpha)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One vector, or one for each share that is searched."""
        alphas = GRID if self.search else (self.alpha,)
        return [Smoothing(migrated(site.absmax, site.columns, alpha, 1 - alpha)) for alpha in alphas]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
