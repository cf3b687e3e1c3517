"""Learned rounding on floating-point grids, where the distance of neighbours depends on the weight.

Formula   w^ = low + h(V / d) (high - low), low and high the grid values around w, d their distance in units of the
          row's least; d cancels in dw^/dV, so that all binades learn at the same speed
Shapes    V as the weight
Promise   Lossy; on held-out examples no unit is worse than with the nearest values. On uniform grids d = 1 and the
          method is AdaRound
Needs     calibration data; linears and convolutions (other weights go to the nearest value); clip ranges are fixed
          before (`search`, or `weight_ranges`)
Source    Chen et al. 2025, "FP4DiT: Towards Effective Floating Point Quantization for Diffusion Transformers"; Chen et
          al. 2024, "Low-Bitwidth Floating Point Quantization for Efficient High-Quality Diffusion Models"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.learned.drive import Plan, UnitName, learn
from qcompiler.passes.solve.learned.variables import SoftRounding, rounding_rate
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.training import Schedule

_BINADES = 3.0
"""How much farther V goes, on average, in units of the least step than in units of its own."""


@dataclass(frozen=True)
class FpRounding:
    """Learns the rounding of weights in low-bit floating point.

    Args:
        iterations: steps per unit.
        unit: `layer` or `segment`.
        scale_aware: divide V by the distance of the neighbours; without it this is AdaRound on the same grid.
        rate: of V, 0: ten over the number of steps, thirty where V is in units of the least step.
        rows: examples per step.
        penalty: weight of the term that drives V to an end, in units of the error of the nearest values.
        search: `minmax`, `mse` or `percentile`.
    """

    iterations: int = 1000
    unit: UnitName = "layer"
    scale_aware: bool = True
    rate: float = 0.0
    rows: int = 32
    penalty: float = 50.0
    search: SearchName = "mse"
    name: ClassVar[str] = "fp_rounding"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        return Plan(
            lambda start, seed, own: SoftRounding(start, self._rate(), self.scale_aware),
            Schedule(self.iterations, self.penalty),
            unit=self.unit,
            rows=self.rows,
            search=self.search,
        )

    def _rate(self) -> float:
        return self.rate or rounding_rate(0.0, self.iterations) * (_BINADES if self.scale_aware else 1.0)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
