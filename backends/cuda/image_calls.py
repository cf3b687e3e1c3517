"""What kernel calls on images say: sizes, grids, windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from qcompiler.backends.cuda.codes import IMAGE_RANK, SIGNAL_RANK
from qcompiler.backends.cuda.image_launches import Convolution, Result, Scaled, Size, Window, pair
from qcompiler.backends.cuda.layer import Layer, Port
from qcompiler.backends.cuda.settings import Settings
from qcompiler.backends.cuda.steps import Step
from qcompiler.backends.lowering.operands import Operand, operand_of
from qcompiler.errors import VerifyError
from qcompiler.ir.program import Node, Program

_ONE, _NONE = (1, 1), (0, 0)


class Workshop(Protocol):
    """Where layers are put together."""

    program: Program
    settings: Settings

    def layer(
        self,
        name: str,
        node: Node,
        meaning: str,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        weights: Mapping[str, Tensor],
        step: Step,
    ) -> Layer:
        """A layer with its weights, kept."""
        ...

    def name(self, wanted: str) -> str:
        """A name for a layer that no other has."""
        ...

    def rows(self, node: Node) -> Node:
        """The codes that a linear layer reads, in memory."""
        ...

    def refusal(self, node: Node, why: str) -> VerifyError:
        """Why a call cannot become a layer."""
        ...


@dataclass(frozen=True)
class Calls:
    """Reads kernel calls.

    Args:
        work: where layers are put together.
    """

    work: Workshop

    def convolution(self, node: Node, source: Size, out: Size) -> Convolution:
        """What a call computes."""
        program, read, weight = self.work.program, self.operand(node, 1), self.operand(node, 2)
        values, scale, bias = program.constant(weight.codes), program.constant(weight.scale), operand_of(node.args[3])
        if values is None or scale is None:
            raise self.work.refusal(node, "its weight is not constant")
        columns, *inputs = values.shape
        flat = len(inputs) == SIGNAL_RANK - 1
        values = values.detach().reshape(columns, inputs[0], *([1] * (IMAGE_RANK - 1 - len(inputs))), *inputs[1:])
        return Convolution(
            source=source,
            out=out,
            window=self.window(node, 4, (values.shape[2], values.shape[3]), flat),
            codes=self.scaled(node, read),
            weight=values,
            spec=weight.spec,
            scale=scale.detach(),
            bias=None if bias is None else program.constant(bias.codes),
            result=self.result(node),
            compute=self.work.settings.compute,
        )

    def operand(self, node: Node, place: int) -> Operand:
        """A quantized operand of a call."""
        found = operand_of(node.args[place])
        if found is None:
            raise self.work.refusal(node, "its operands are no codes")
        return found

    def scaled(self, node: Node, operand: Operand) -> Scaled:
        """The grid of an activation."""
        constant = self.work.program.constant
        scale = constant(operand.scale)
        if scale is None or scale.numel() != 1:
            raise self.work.refusal(node, "its activations have no constant scale")
        return Scaled.of(operand.spec, scale, constant(operand.zero_point))

    def result(self, node: Node) -> Result | None:
        """The grid of a call's result; None for reals."""
        parts, spec = node.kwargs.get("result"), self.work.program.tensor_type(node).spec
        scale, zero = parts if isinstance(parts, list | tuple) and len(parts) == 2 else (None, None)
        known = self.work.program.constant(scale)
        if known is None or spec is None:
            return None
        low, high = (number(node.kwargs[name]) for name in ("low", "high"))
        return Result(Scaled.of(spec, known, self.work.program.constant(zero)), low, high)

    def needed(self, node: Node) -> Result:
        """The grid of a result that is codes."""
        found = self.result(node)
        if found is None:
            raise self.work.refusal(node, "its result has no constant scale")
        return found

    def size(self, node: Node) -> Size:
        """Of an image of the program."""
        program = self.work.program
        channels, *sides = (program.dimensions.hint(dim) for dim in program.shape(node)[1:])
        return Size(channels, 1 if len(sides) == 1 else sides[0], sides[-1])

    def named(self, node: Node) -> str:
        """A name for the layer of a call."""
        return self.work.name(self.work.program.origin(node).module or node.name)

    def window(self, node: Node, first: int, size: tuple[int, int], flat: bool, dilated: bool = True) -> Window:
        """Of an operator whose argument of that number is its stride, with the padding and the dilation behind."""
        found = [node.args[place] if len(node.args) > place else None for place in range(first, first + 3)]
        stride, padding = pair(found[0], size), pair(found[1], _NONE)
        dilation = pair(found[2], _ONE) if dilated else _ONE
        if flat:
            stride, padding, dilation = (1, stride[1]), (0, padding[1]), (1, dilation[1])
        return Window(size, stride, padding, dilation)

    def pool(self, node: Node, dilated: bool = True) -> Window:
        """Of a pool, whose size comes first."""
        flat, size = self.work.program.tensor_type(node).rank == SIGNAL_RANK, pair(node.args[2], _ONE)
        return self.window(node, 3, (1, size[1]) if flat else size, flat, dilated)


def number(value: object) -> float:
    """A number among the arguments of a call."""
    return float(value) if isinstance(value, int | float) else 0.0
