"""AdaRound: each weight goes to the neighbour on its grid that serves the layer's output best.

Formula   w^ = s (clip(floor(w / s) + h(V) + z) - z), h the rectified sigmoid; V by least error of the layer's output
          behind its activation, on quantized inputs against float outputs; up where V >= 0. On any grid: lower
          neighbour + h * distance to the upper one
Shapes    V as the weight
Promise   Lossy; on held-out examples no layer is worse than the nearest value
Needs     calibration data; linears and convolutions (other weights go to the nearest value); scales that are set
          already stay, the others are found by `search`
Source    Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.learned.drive import Plan, learn
from qcompiler.passes.solve.learned.variables import SoftRounding, rounding_rate
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.training import Schedule


@dataclass(frozen=True)
class AdaRound:
    """Learns the rounding of each layer.

    Args:
        iterations: steps per layer.
        rate: of V, 0: ten over the number of steps.
        rows: examples per step.
        penalty: weight of the term that drives V to an end, in units of the error of the nearest values.
        search: `minmax`, `mse` or `percentile`.
    """

    iterations: int = 1000
    rate: float = 0.0
    rows: int = 32
    penalty: float = 50.0
    search: SearchName = "mse"
    name: ClassVar[str] = "adaround"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        schedule = Schedule(self.iterations, self.penalty)
        return Plan(
            lambda start, seed, own: SoftRounding(start, rounding_rate(self.rate, self.iterations)),
            schedule,
            rows=self.rows,
            search=self.search,
        )

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
