"""RSQ: GPTQ with a second moment in which important tokens count more.

Formula   H = 2/N sum r_t x_t x_t^T; r from scores of the tokens, see `token_weights`: `attention`, the mass that each
          receives from all heads and queries; `rarity` in the calibration data; `norm` of what the layer reads;
          `first`, the first eighth of a sequence
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy; layers whose input is no sequence of the length of the scores are solved unweighted
Needs     calibration data; activations calibrated. The rotation of the published method is a transform of its own
Source    Sung et al. 2025, "RSQ: Learning from Important Tokens Leads to Better Quantized LLMs"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.front_to_back import solve_layers
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, one_of, second_order
from qcompiler.passes.solve.token_weights import Score, TokenWeights
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Rsq:
    """Rounds weights column by column for the tokens that matter.

    Args:
        score: `attention`, `rarity`, `norm` or `first`.
        least: weight of the least important token, 0 to 1; 1 weighs all alike.
        shift: as in `gptq`.
        act_order: whether columns with the largest inputs are solved first.
        damping: share of the mean diagonal that is added to the second moment.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
    """

    score: Score = "attention"
    least: float = 0.1
    shift: float = 0.0
    act_order: bool = True
    damping: float = 0.01
    search: SearchName = "mse"
    name: ClassVar[str] = "rsq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    @property
    def switches(self) -> Switches:
        """The method as switches of the family."""
        return Switches(self.act_order, damping=self.damping, search=self.search, guard=False, shift=self.shift)

    def __post_init__(self) -> None:
        one_of("score", self.score, get_args(Score))
        if not 0 <= self.least <= 1:
            raise SpecError(f"a least weight of {self.least}", mend="choose it between 0 and 1; 0.1 is usual")
        _ = self.switches

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        weigh = TokenWeights(program, self.score, self.least, ctx.batches)
        solver = second_order(self.switches)
        count = solve_layers(program, ctx, solver, self.switches.streams, self.name, weigh)
        ctx.log(f"{count} weights by {self.name}, tokens weighed by {self.score}")
        return program
