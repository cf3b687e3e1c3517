"""Weight ranges: sets the scales and zero points of weights and leaves the weights as they are.

Formula   see `search`: the extremes of each block, or a range inside them
Shapes    `level.scale_shape(weight.shape)`
Promise   Lossy; scales that are set already stay
Needs     weights quantized by static scales. `nearest` alone does this too; this pass is for what must see
          the quantized weight beside the float one, such as `bias_correction`
Source    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference: A whitepaper"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.driver import set_ranges
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class WeightRanges:
    """Sets the scales of weights.

    Args:
        search: `minmax`, `mse` or `percentile`.
        percentile: of `percentile`: share of a block below its upper end, in percent.
    """

    search: SearchName = "minmax"
    percentile: float = 99.9
    name: ClassVar[str] = "weight_ranges"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        Search(self.search, self.percentile)

    def run(self, program: Program, ctx: Context) -> Program:
        """Writes scales and zero points.

        Raises:
            InputError: when a weight holds NaN or infinity.
        """
        count = set_ranges(program, Search(self.search, self.percentile).range)
        ctx.log(f"{count} weight grids by {self.search}")
        return program
