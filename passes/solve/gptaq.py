"""GPTAQ: columns are rounded one after the other, toward what the float stream would give.

Formula   GPTQ, and at column q the later ones also answer z_q (x~_q - x_q), the share of the difference of the streams
          that this column carries: F += z_q P[q, F], P = alpha SU(G U^T) U, G = C - H
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy
Needs     calibration data, both streams of it; activations calibrated. Scales that are set already stay
Source    Li et al. 2025, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, solve_by
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Gptaq:
    """Rounds weights column by column, toward the float stream.

    Args:
        alpha: share of the difference that is answered; 0.25 is the published constant, 1 wants much data.
        trailing: what a column hands on: `latent`, `clamped` or `quantized`; `auto` is the last at 2 bits and less.
        act_order: whether columns with the largest inputs are solved first.
        damping: share of the mean diagonal that is added to the second moment.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
    """

    alpha: float = 0.25
    trailing: str = "auto"
    act_order: bool = True
    damping: float = 0.01
    search: SearchName = "mse"
    name: ClassVar[str] = "gptaq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    @property
    def switches(self) -> Switches:
        """The method as switches of the family."""
        return Switches(
            self.act_order,
            damping=self.damping,
            search=self.search,
            guard=False,
            push=self.alpha,
            trailing=self.trailing,
        )

    def __post_init__(self) -> None:
        _ = self.switches

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return solve_by(self.switches, program, ctx, self.name)
