"""Fair-GPTQ: GPTQ with a penalty on what the layer makes of the difference between paired samples.

Formula   min |(V - W0) X|^2 + alpha |V D|^2, D the differences of pairs: W* = W0 - W0 B (H + B)^-1 with
          B = 2 alpha / pairs sum d d^T, then GPTQ from W* with the factors of H. `first_order` leaves B out of the
          inverse, as published; it diverges where B is not small against H, and refuses then
Shapes    codes as the weight; scale and zero point `level.scale_shape(weight.shape)`
Promise   Lossy
Needs     calibration data in which the first and second sample of a batch are a pair, the third and fourth, ...;
          activations calibrated
Source    "Fair-GPTQ: Bias-Aware Quantization for Large Language Models" 2025
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.solve.front_to_back import readers_of, solve_layers
from qcompiler.passes.solve.ranges import SearchName
from qcompiler.passes.solve.second_order import Switches, one_of, second_order
from qcompiler.pipeline import Context, Lossy, Promise

Where = Literal["residual", "all"]


@dataclass(frozen=True)
class FairGptq:
    """Rounds weights column by column and shrinks what they make of paired differences.

    Args:
        penalty: alpha.
        where: `residual`: layers whose result is added to a skip connection only; `all` layers.
        first_order: whether the inverse leaves the penalty out.
        act_order: whether columns with the largest inputs are solved first.
        damping: share of the mean diagonal that is added to the second moment.
        search: of ranges: `minmax`, `mse` (2.4 norm) or `percentile`.
    """

    penalty: float = 0.1
    where: Where = "residual"
    first_order: bool = False
    act_order: bool = False
    damping: float = 0.01
    search: SearchName = "mse"
    name: ClassVar[str] = "fair_gptq"
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
            penalty=self.penalty,
            first_order=self.first_order,
        )

    def __post_init__(self) -> None:
        one_of("where", self.where, get_args(Where))
        _ = self.switches

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
            SpecError: where the first-order answer diverges.
        """
        nodes = [reader.node for reader in readers_of(program)]
        chosen = {node.name for node in nodes if self.where == "all" or added(program, node)}
        solver = second_order(self.switches, lambda layer: layer.name in chosen)
        count = solve_layers(program, ctx, solver, self.switches.streams, self.name)
        ctx.log(f"{count} weights by {self.name}, {len(chosen)} of them with the penalty")
        return program


def added(program: Program, node: Node) -> bool:
    """Whether a result goes into one addition and nowhere else."""
    users = list(node.users)
    while len(users) == 1 and users[0].target in (ops.quantize, ops.dequantize):
        users = list(users[0].users)
    return len(users) == 1 and program.op(users[0]) == "aten.add.Tensor"
