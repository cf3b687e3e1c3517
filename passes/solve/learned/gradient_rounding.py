"""Gradient-based rounding with the choices that mattered most in a study of it, each of them an option.

Formula   loss: squared error, by default each channel divided by its variance in the float model; freedom of a code:
          its two neighbours, one step from the nearest value, or the whole grid; variable: `sigmoid` (AdaRound's h)
          or `straight` (the weight itself through rounding, rates falling to 0); optimizer: Adam, Adam with falling
          rates, or the sign of the gradient
Shapes    as the weight
Promise   Lossy; on held-out examples no unit is worse than with the nearest values
Needs     calibration data; calibrated activations; linears and convolutions (other weights go to the nearest value)
Source    "Gradient-Based Post-Training Quantization: Challenging the Status Quo" (2023); the sign of the gradient:
          Cheng et al. 2024, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.learned.drive import Importance, Plan, UnitName, learn
from qcompiler.passes.solve.learned.variables import (
    Freedom,
    Quantized,
    SoftRounding,
    Straight,
    WeightVariable,
    rounding_rate,
    straight_rate,
)
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.training import OptimizerName, Schedule

VariableName = Literal["sigmoid", "straight"]


@dataclass(frozen=True)
class GradientRounding:
    """Learns weights with every choice open.

    Args:
        iterations: steps per unit.
        variable: `straight` or `sigmoid`, which knows only neighbours.
        freedom: `neighbours`, `step` or `whole`.
        optimizer: `adam`, `adam_cosine` or `sign`.
        importance: `none`, `channel` or `fisher`.
        unit: `layer` or `segment`.
        rate: of the weight in steps of its grid, 0: one over the number of steps; the sigmoid's is ten over it.
        range_rate: of the logarithm of weight scales, and of zero points, where the freedom is `whole`; 0 leaves them.
        step_rate: of the logarithm of activation scales; 0 leaves them.
        rows: examples per step.
        search: `minmax`, `mse` or `percentile`: where scales start.
    """

    iterations: int = 1000
    variable: VariableName = "straight"
    freedom: Freedom = "whole"
    optimizer: OptimizerName = "adam_cosine"
    importance: Importance = "channel"
    unit: UnitName = "layer"
    rate: float = 0.0
    range_rate: float = 0.001
    step_rate: float = 0.0
    rows: int = 32
    search: SearchName = "mse"
    name: ClassVar[str] = "gradient_rounding"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        for what, value, known in (
            ("variable", self.variable, get_args(VariableName)),
            ("freedom", self.freedom, get_args(Freedom)),
        ):
            if value not in known:
                raise SpecError(f"there is no {what} '{value}'", mend=f"choose one of {', '.join(known)}")
        if self.variable == "sigmoid" and self.freedom != "neighbours":
            raise SpecError(
                f"the variable sigmoid cannot leave its neighbours, freedom={self.freedom} asks for it",
                mend="choose freedom=neighbours, or variable=straight",
            )
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        return Plan(
            self._variable,
            Schedule(self.iterations, optimizer=self.optimizer),
            unit=self.unit,
            rows=self.rows,
            search=self.search,
            importance=self.importance,
            step_rate=self.step_rate,
        )

    def _variable(self, start: Quantized, seed: int, own: bool) -> WeightVariable:
        if self.variable == "sigmoid":
            return SoftRounding(start, rounding_rate(0.0, self.iterations))
        return Straight(start, straight_rate(self.rate, self.iterations), self.range_rate if own else 0.0, self.freedom)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        learn(program, ctx, self.plan(), self.name)
        return program
