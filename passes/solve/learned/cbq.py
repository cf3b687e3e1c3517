"""CBQ: windows of segments that overlap, so that each segment is also learned together with its successor.

Formula   window k: segments k .. k + window - 1, each window starting one segment later with what the last one learned;
          E(a, b) = |a - b|^2 + KL(softmax b || softmax a) at the window's end, once against the float stream and, with
          `homologous`, once against what the float window makes of the quantized input; V = V_0 + A B with `rank`
          columns in A (rank 0: a free V)
Shapes    A [rows, rank], B [rank, weights of a row]
Promise   Lossy; on held-out examples no window is worse than the one before left it
Needs     calibration data; calibrated activations; linears and convolutions (other weights go to the nearest value)
Source    Ding et al. 2024, "CBQ: Cross-Block Quantization for Large Language Models"; V_0 and the homologous term as
          the handbook derives them from the paper's words
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
class Cbq:
    """Learns the rounding of windows of segments.

    Args:
        window: segments that are learned together.
        rank: columns of A, 0 for a free V.
        iterations: steps per window.
        rate: of A and B, or of V, 0: ten over the number of steps.
        step_rate: of the steps of static activations, 0 leaves them.
        homologous: add the error against the float window on the quantized input.
        divergence: add the divergence of the results as distributions over channels.
        rows: examples per step.
        penalty: weight of the term that drives V to an end, in units of the error of the nearest values.
        search: `minmax`, `mse` or `percentile`.
    """

    window: int = 2
    rank: int = 0
    iterations: int = 500
    rate: float = 0.0
    step_rate: float = 0.001
    homologous: bool = True
    divergence: bool = True
    rows: int = 32
    penalty: float = 50.0
    search: SearchName = "mse"
    name: ClassVar[str] = "cbq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        return Plan(
            lambda start, seed, own: SoftRounding(
                start, rounding_rate(self.rate, self.iterations), rank=self.rank, seed=seed
            ),
            Schedule(self.iterations, self.penalty),
            unit="segment",
            window=self.window,
            rows=self.rows,
            search=self.search,
            divergence=self.divergence,
            homologous=self.homologous,
            step_rate=self.step_rate,
        )

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
