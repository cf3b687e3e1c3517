"""Operators with weights: the float weight, and the axes it mixes."""

from __future__ import annotations

import torch

from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program

CONVOLUTIONS: dict[str, int] = {"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}
"""Spatial axes of each convolution; weights are [out, in / groups, *kernel]."""
TRANSPOSED: dict[str, int] = {
    "aten.conv_transpose1d": 1,
    "aten.conv_transpose2d.input": 2,
    "aten.conv_transpose3d.input": 3,
}
"""Spatial axes of each transposed convolution; weights are [in, out / groups, *kernel]."""


def spatial_axes(program: Program, node: Node) -> int | None:
    """Number of axes behind the channel axis of a linear (0) or a convolution; None for other operators."""
    op = program.op(node)
    return 0 if op == "aten.linear" else CONVOLUTIONS.get(op, TRANSPOSED.get(op))


def weight_quantizer(program: Program, node: Node) -> Node | None:
    """The quantize node between a float parameter and the weight argument of an operator."""
    weight = program.bind(node).get("weight")
    codes = weight.args[0] if isinstance(weight, Node) and weight.target is ops.dequantize else None
    if isinstance(codes, Node) and codes.target is ops.quantize and codes.all_input_nodes[0].op == "get_attr":
        return codes
    return None


def float_weight(program: Program, node: Node) -> torch.Tensor | None:
    """The weight of an operator before quantization; None where it is computed or already only codes."""
    quantizer = weight_quantizer(program, node)
    source = program.bind(node).get("weight") if quantizer is None else quantizer.all_input_nodes[0]
    weight = program.constant(source)
    return weight if weight is not None and weight.is_floating_point() else None
