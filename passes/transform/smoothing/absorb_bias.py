"""High-bias absorption: what every sample has in common goes through a ReLU into the next biases.

Formula   c_i = max(0, min over the data of (W1 x + b1)_i); b1 - c, b2 + W2 c: relu(y - c) = relu(y) - c wherever y >= c
Shapes    one number per channel between a layer and a ReLU
Promise   Lossy: inputs that fall below everything in the data are cut off
Needs     extremes of the values in front of ReLUs whose readers are layers without zero padding
Source    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.3;
          the smallest value in the data instead of three deviations of a batch norm, which is folded by now: own
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from qcompiler.analysis.weights import CONVOLUTIONS, spatial_axes
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform.smoothing.online import answer_shift
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.reducers import Extremes
from qcompiler.stats import Request


@dataclass(frozen=True)
class AbsorbBias:
    """Narrows the ranges of activations that never come near zero."""

    name: ClassVar[str] = "absorb_bias"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Lossy()

    def requests(self, program: Program) -> list[Request]:
        """Extremes per channel in front of the ReLUs."""
        return [Request(layer.name, _extremes(program, layer)) for layer, _ in chains(program)]

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with moved biases.

        Raises:
            InputError: without calibration data.
        """
        moved = 0
        for layer, readers in list(chains(program)):
            common = ctx.stats.get(layer.name, _extremes(program, layer))[0].double().clamp(min=0)
            if not bool(common.any()):
                continue
            bias = program.own_param(layer, cast(Node, program.bind(layer)["bias"]), self.name)
            program.set_exact(bias, program.exact(bias) - common)
            for reader in readers:
                answer_shift(program, reader, common, self.name)
            moved += 1
        ctx.log(f"the biases of {moved} layers absorbed what all samples have in common")
        return program


def chains(program: Program) -> Iterator[tuple[Node, Sequence[Node]]]:
    """Layers with a bias behind which nothing but one ReLU stands, and what reads that."""
    for relu in program.nodes:
        source = relu.args[0] if program.op(relu) == "aten.relu" else None
        if not isinstance(source, Node) or relu in program.outputs or source in program.outputs:
            continue
        readers = list(relu.users)
        biased = _is_layer(program, source) and isinstance(program.bind(source)["bias"], Node)
        if biased and len(source.users) == 1 and readers and all(_takes_shift(program, one, relu) for one in readers):
            yield source, readers


def _is_layer(program: Program, node: Node) -> bool:
    op = program.op(node)
    return (op == "aten.linear" or op in CONVOLUTIONS) and program.constant(program.bind(node)["weight"]) is not None


def _takes_shift(program: Program, node: Node, source: Node) -> bool:
    if not _is_layer(program, node) or node.args[0] is not source:
        return False
    bound = program.bind(node)
    padding = bound.get("padding", 0)
    padded = any(bool(pad) for pad in padding) if isinstance(padding, list | tuple) else bool(padding)
    return not padded and int(str(bound.get("groups", 1))) == 1


def _extremes(program: Program, layer: Node) -> Extremes:
    rank = program.tensor_type(layer).rank
    axis = rank - 1 - (spatial_axes(program, layer) or 0)
    return Extremes(tuple(1 if place == axis else -1 for place in range(rank)))
