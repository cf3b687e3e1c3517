"""GPTQ: columns are rounded one after the other; the later ones answer the error, in closed form.

Formula   min over the grid of |(V - W*) X|^2 by the column core, W* = W0 + shift W0 G H^-1 with G = C - H, the moment
          of what the float stream has over the quantized one. shift=0 is the published method; above it is the exact
          asymmetric pre-shift: |V X - W0 X~|^2 = |(V - W*) X|^2 + const at shift=1
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy; with `guard` no layer's objective is above that of the nearest grid values on the same scales
Needs     calibration data; activations calibrated. Scales that are set already stay
Source    Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"; the
          pre-shift is our own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, solve_by
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Gptq:
    """Rounds weights column by column.

    Args:
        shift: share of the asymmetric pre-shift; 0.5 is robust, 1 is exact and wants much data.
        act_order: whether columns with the largest inputs are solved first; scales are static then.
        groups: `static` scales from the float weight, or `dynamic` from partly solved columns.
        damping: share of the mean diagonal that is added to the second moment; grows until it can be factorised.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
        block: columns per matrix product.
        guard: whether a layer that comes out no better than nearest is rounded to nearest.
    """

    shift: float = 0.0
    act_order: bool = True
    groups: str = "static"
    damping: float = 0.01
    search: SearchName = "mse"
    block: int = 128
    guard: bool = True
    name: ClassVar[str] = "gptq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    @property
    def switches(self) -> Switches:
        """The method as switches of the family."""
        return Switches(
            self.act_order, self.groups, self.damping, self.search, self.block, self.guard, shift=self.shift
        )

    def __post_init__(self) -> None:
        _ = self.switches

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return solve_by(self.switches, program, ctx, self.name)
