"""CrossQuant: columns give up most of their range, so that a scale per row fits all of them.

Formula   scales t_i^a c_j^(1-a) for row i and column j of X, t and c the largest magnitudes. The column part folds into
          the weights: s_j = c_j^(1-a); the row part is what a scale per token of X / s finds, or finer
Shapes    s [coordinates]
Promise   Exact(1e-9)
Needs     the largest magnitude per channel; activations with a dynamic scale per token; samples where it is measured
Source    Liu et al. 2024, "CrossQuant: A Post-Training Quantization Method with Smaller Quantization Kernel for Precise
          Large Language Model Compression"
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


@dataclass(frozen=True)
class CrossQuant:
    """Scales columns by a power of their largest magnitude.

    Args:
        alpha: the rows' share of the exponent.
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    alpha: float = 0.15
    online: bool = False
    guard: bool = True
    samples: int = 256
    name: ClassVar[str] = "crossquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        check_share(self.alpha)

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """One vector."""
        return [Smoothing(migrated(site.absmax, site.columns, 1 - self.alpha, 0.0))]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
