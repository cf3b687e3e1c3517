"""Nearest: each weight becomes the grid value next to it.

Formula   codes = round(w / s) + z, half to even, saturating
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy; where nothing saturates the error of a weight is at most half a step
Needs     weights quantized by static scales; scales that are set already (by `weight_ranges`) stay, the
          others are found by `search`
Source    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference: A whitepaper"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.ir.fill import Shelf
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.driver import Solved, finite_weight, put_codes, set_ranges, weight_sites
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.qparams import qparam_values
from qcompiler.spec import QuantSpec, qparams_from_range, quantize


@dataclass(frozen=True)
class Nearest:
    """Rounds weights to the nearest grid value and stores the codes.

    Args:
        search: `minmax`, `mse` or `percentile`.
        percentile: of `percentile`: share of a block below its upper end, in percent.
    """

    search: SearchName = "minmax"
    percentile: float = 99.9
    name: ClassVar[str] = "nearest"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        Search(self.search, self.percentile)

    def solve(self, weight: Tensor, spec: QuantSpec, curvature: Tensor | None = None) -> Solved:
        """Codes and scales of one weight; see `Solver`."""
        low, high = Search(self.search, self.percentile).range(weight, spec, curvature)
        scale, zero_point = qparams_from_range(low, high, spec)
        return Solved(quantize(weight, scale, zero_point, spec), scale, None if spec.symmetric else zero_point)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: when a weight holds NaN or infinity.
        """
        set_ranges(program, Search(self.search, self.percentile).range)
        sites, shelf = weight_sites(program), Shelf()
        for site in sites:
            scale, zero_point = qparam_values(program, site.qparams)
            weight = finite_weight(program, site.param)
            codes = shelf.keep(quantize(weight, scale, zero_point, site.spec), site.spec)
            put_codes(program, site, codes, self.name)
        ctx.log(f"{len(sites)} weights to the nearest grid value")
        return program
