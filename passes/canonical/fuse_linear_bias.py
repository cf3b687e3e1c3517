"""A constant added right after a linear layer or convolution becomes its bias.

Formula   linear(x, W) + c = linear(x, W, c);  conv(x, W) + c = conv(x, W, c)
Shapes    c [out] for linear, [C, 1, ...] with any number of leading ones for convolutions
Promise   Exact: the same sum; layers that have a bias are left alone
Needs     normalized spelling, constants folded
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.pipeline import Context, Exact, Promise

TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", *TRANSPOSED)


@dataclass(frozen=True)
class FuseLinearBias:
    """Takes constant addends into layers without bias."""

    name: ClassVar[str] = "fuse_linear_bias"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with biases in their layers."""
        outputs = set(program.outputs)
        for node in program.nodes:
            layer, constant = node.args[:2] if program.op(node) == "aten.add.Tensor" else (None, None)
            if not isinstance(layer, Node) or program.op(layer) not in ("aten.linear", *CONVOLUTIONS):
                continue
            axis = -1 if program.op(layer) == "aten.linear" else 1
            row = as_bias(program, layer, constant, axis)
            if row is None or not isinstance(constant, Node):
                continue
            if layer in outputs or len(layer.users) != 1 or layer.args[2] is not None:
                why = "has other readers" if layer.args[2] is None else "has a bias already"
                ctx.refuse(node, f"%{layer.name} {why}", depth=2)
                continue
            bias = constant
            if program.shape(constant) != tuple(row.shape) or not constant < layer:
                bias = program.before(layer, self.name).param(str(constant.target), row)
            program.set_args(layer, (*layer.args[:2], bias, *layer.args[3:]), layer.kwargs)
            program.replace(node, layer)
        return program


def as_bias(program: Program, layer: Node, constant: object, axis: int) -> torch.Tensor | None:
    """A constant addend of a layer's result as a vector over its channels; None when it is none."""
    value = program.constant(constant)
    type_ = program.type(layer)
    if value is None or not isinstance(type_, TensorType) or value.dim() > type_.rank or value.dtype != type_.dtype:
        return None
    width = type_.shape[axis]
    shape = [1] * (type_.rank - value.dim()) + list(value.shape)
    if shape[axis] != width or value.numel() != width:
        return None
    return value.reshape(-1)
