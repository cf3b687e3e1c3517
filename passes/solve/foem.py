"""FOEM: GPTQ with a first-order term, which pulls every column toward its float weight before it is rounded.

Formula   z'_q = z_q - beta (z_q - W0_q);  e_q = (z'_q - v_q) - beta (z'_q - W0_q). The gradient is modelled as
          beta H (W - W0), so that H cancels. Each column is pulled once, those at the edges of blocks too
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy. The latent weights are the optimum of the calibration objective already, so the term cannot lower it:
          it acts as shrinkage toward the float weight and helps, if at all, where calibration data are few. At beta=1
          the result is the nearest grid value
Needs     calibration data; activations calibrated. Scales that are set already stay
Source    Zheng et al. 2026, "First-Order Error Matters: Accurate Compensation for Quantized Large Language Models"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, solve_by
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Foem:
    """Rounds weights column by column with a pull toward the float weight.

    Args:
        beta: strength of the pull; 0.1 to 0.25 is useful.
        alpha: as in `gptaq`, whose term may be combined; 0.25 then.
        act_order: whether columns with the largest inputs are solved first.
        damping: share of the mean diagonal that is added to the second moment.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
    """

    beta: float = 0.2
    alpha: float = 0.0
    act_order: bool = True
    damping: float = 0.01
    search: SearchName = "mse"
    name: ClassVar[str] = "foem"
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
            pull=self.beta,
            push=self.alpha,
        )

    def __post_init__(self) -> None:
        _ = self.switches

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return solve_by(self.switches, program, ctx, self.name)
