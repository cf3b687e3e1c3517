"""AdaQuant: weight, bias, weight range and activation range of each layer by least error of its output.

Formula   min |f(Q_s(W + D), Q_a(x)) - y|^2 over D (in steps of the grid), s, z, the bias and the scale of a, gradients
          straight through the rounding, rates falling to 0; behind the layer's activation
Shapes    D as the weight
Promise   Lossy; on held-out examples no layer is worse than the nearest value
Needs     calibration data; calibrated activations; linears and convolutions (other weights go to the nearest value).
          `inputs=float` is the parallel form, in which layers know nothing of each other; `quantized` the sequential
Source    Hubara et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets". One optimizer with a
          rate for each kind of variable, in units that do not depend on the size of the tensors: own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.learned.drive import Plan, learn
from qcompiler.passes.solve.learned.variables import Straight, straight_rate
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.stats import Stream
from qcompiler.training import Schedule


@dataclass(frozen=True)
class AdaQuant:
    """Learns each layer.

    Args:
        inputs: `quantized` (sequential) or `float` (parallel).
        iterations: steps per layer.
        rate: of the weight, in steps of its grid; 0: one over the number of steps.
        range_rate: of the logarithm of weight scales, and of zero points; 0 leaves them.
        step_rate: of the logarithm of activation scales; 0 leaves them.
        bias_rate: of biases, in units of the size of biases and weights; 0 leaves them.
        rows: examples per step.
        search: `minmax`, `mse` or `percentile`: where scales start.
    """

    inputs: Stream = "quantized"
    iterations: int = 1000
    rate: float = 0.0
    range_rate: float = 0.001
    step_rate: float = 0.001
    bias_rate: float = 0.001
    rows: int = 32
    search: SearchName = "mse"
    name: ClassVar[str] = "adaquant"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        rate = straight_rate(self.rate, self.iterations)
        return Plan(
            lambda start, seed, own: Straight(start, rate, self.range_rate if own else 0.0),
            Schedule(self.iterations, optimizer="adam_cosine"),
            rows=self.rows,
            search=self.search,
            inputs=self.inputs,
            step_rate=self.step_rate,
            bias_rate=self.bias_rate,
        )

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
