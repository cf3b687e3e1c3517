"""BRECQ: the rounding of all weights of a segment at once, by least error of the segment's result.

Formula   as AdaRound, with E at the end of a stretch between two single-value cuts (a residual block, a lone layer with
          its activation); with `importance=fisher` each squared error counts (|g| / rms(g) + 1)^2, g the gradient of
          KL(float || quantized so far) at the result. Steps of static activations inside the segment are learned beside
          (`step_rate`), in their logarithm
Shapes    V as the weight
Promise   Lossy; on held-out examples no segment is worse than with the nearest values
Needs     calibration data; calibrated activations; linears and convolutions (other weights go to the nearest value)
Source    Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction"; Esser et al.
          2020, "Learned Step Size Quantization". Scaling g by its size: own, the bare |g| + 1 is 1 wherever gradients
          are small
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.learned.drive import Importance, Plan, learn
from qcompiler.passes.solve.learned.variables import SoftRounding, rounding_rate
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.training import Schedule


@dataclass(frozen=True)
class Brecq:
    """Learns the rounding of each segment.

    Args:
        iterations: steps per segment.
        rate: of V, 0: ten over the number of steps.
        step_rate: of the steps of static activations, 0 leaves them.
        rows: examples per step.
        penalty: weight of the term that drives V to an end, in units of the error of the nearest values.
        importance: `none`, `channel` or `fisher`.
        search: `minmax`, `mse` or `percentile`.
    """

    iterations: int = 1000
    rate: float = 0.0
    step_rate: float = 0.001
    rows: int = 32
    penalty: float = 50.0
    importance: Importance = "none"
    search: SearchName = "mse"
    name: ClassVar[str] = "brecq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        return Plan(
            lambda start, seed, own: SoftRounding(start, rounding_rate(self.rate, self.iterations)),
            Schedule(self.iterations, self.penalty),
            unit="segment",
            rows=self.rows,
            search=self.search,
            importance=self.importance,
            step_rate=self.step_rate,
        )

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
