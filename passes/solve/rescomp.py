"""ResComp: the residual of a column is measured against the float weight, not against the compensated one.

Formula   GPTQ, and at column q the later ones also answer (W0_q - z_q) x~_q, what earlier compensation has moved:
          F += (W0_q - z_q) R[q, F], R = recall SU(C U^T) U; with alpha above 0 the term of GPTAQ comes on top
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy. Without alpha, where the streams are one, it equals FOEM's error term without the pull: shrinkage
Needs     calibration data, both streams of it with alpha; activations calibrated. Scales that are set already stay
Source    "ResComp" 2026, residual compensation for GPTQ and GPTAQ
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, solve_by
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Rescomp:
    """Rounds weights column by column and takes compensation back in part.

    Args:
        recall: share of the moved weight that is answered.
        alpha: 0 is the variant on GPTQ, 0.25 that on GPTAQ.
        trailing: what a column hands on: `latent`, `clamped` or `quantized`; `auto` is the last at 2 bits and less.
        act_order: whether columns with the largest inputs are solved first.
        damping: share of the mean diagonal that is added to the second moment.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
    """

    recall: float = 0.25
    alpha: float = 0.0
    trailing: str = "auto"
    act_order: bool = True
    damping: float = 0.01
    search: SearchName = "mse"
    name: ClassVar[str] = "rescomp"
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
            recall=self.recall,
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
