"""Convolutions, linear layers and matrix products."""

from __future__ import annotations

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.ir import ops
from qcompiler.ir.program import Node


def _bias(context: Context, call: Call) -> ir.Value | None:
    bias = call.optional("bias")
    return None if bias is None else context.value(bias)


def _spread(values: list[int], rank: int) -> list[int]:
    return values * rank if len(values) == 1 else values


def _batched(context: Context, call: Call, kind: str, rank: int, attributes: dict[str, list[int] | int]) -> ir.Value:
    """A convolution; an input without batch axis gets one for the time being."""
    value = context.value(call.node_at("input"))
    single = len(call.shape("input")) == rank + 1
    if single:
        value = context.op("Unsqueeze", [value, context.ints([0])])
    result = context.op(kind, [value, context.value(call.node_at("weight")), _bias(context, call)], attributes)
    return context.op("Squeeze", [result, context.ints([0])]) if single else result


def _convolution(rank: int) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        kernel = [int(size) for size in call.shape("weight")[2:]]
        dilations = _spread(call.integers("dilation"), rank)
        attributes: dict[str, list[int] | int] = {
            "kernel_shape": kernel,
            "strides": _spread(call.integers("stride"), rank),
            "pads": _pads(call, kernel, dilations),
            "dilations": dilations,
            "group": call.integer("groups"),
        }
        return _batched(context, call, "Conv", rank, attributes)

    return emit


def _pads(call: Call, kernel: list[int], dilations: list[int]) -> list[int]:
    padding = call.raw("padding")
    if padding == "valid":
        return [0] * 2 * len(kernel)
    if padding == "same":
        totals = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    return _spread(call.integers("padding"), len(kernel)) * 2


def _transposed_convolution(rank: int) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        attributes: dict[str, list[int] | int] = {
            "kernel_shape": [int(size) for size in call.shape("weight")[2:]],
            "strides": _spread(call.integers("stride"), rank),
            "pads": _spread(call.integers("padding"), rank) * 2,
            "output_padding": _spread(call.integers("output_padding"), rank),
            "dilations": _spread(call.integers("dilation"), rank),
            "group": call.integer("groups"),
        }
        return _batched(context, call, "ConvTranspose", rank, attributes)

    return emit


def _linear(context: Context, call: Call) -> ir.Value:
    source, matrix, bias = call.node_at("input"), call.node_at("weight"), _bias(context, call)
    if matrix.target is ops.dequantize:
        return rows_product(context, source, context.value(matrix), bias, int(call.shape("weight")[0]))
    value, weight = context.value(source), _transposed(context, matrix)
    if len(call.shape("input")) == 2:
        return context.op("Gemm", [value, weight, bias])
    product = context.op("MatMul", [value, weight])
    return product if bias is None else context.op("Add", [product, bias])


def _transposed(context: Context, matrix: Node) -> ir.Value:
    """A matrix the other way round: parameters are stored so, instead of being turned at run time."""
    if matrix.op == "get_attr":
        return context.parameter(matrix, transposed=True)
    rank = len(context.program.shape(matrix))
    return context.op("Transpose", [context.value(matrix)], {"perm": [*range(rank - 2), rank - 1, rank - 2]})


def rows_product(context: Context, source: Node, weight: ir.Value, bias: ir.Value | None, width: int) -> ir.Value:
    """Rows of `source` times a dequantized weight [N, K], as Gemm with transB: onnxruntime keeps this form in float.

    Where the weight is stored [K, N] or read by MatMul, it quantizes the activations to int8 on its own account.
    """
    value, shape = context.value(source), context.program.shape(source)
    if len(shape) != 2:
        value = context.op("Reshape", [value, context.ints([-1, int(shape[-1])])])
    product = context.op("Gemm", [value, weight, bias], {"transB": 1})
    return product if len(shape) == 2 else shaped_back(context, product, source, width)


def shaped_back(context: Context, matrix: ir.Value, source: Node, width: int) -> ir.Value:
    """A matrix of rows in the leading axes of `source`."""
    shape = context.program.shape(source)
    free = [axis for axis, dim in enumerate(shape[:-1]) if not isinstance(dim, int)]
    sizes = [-1 if [axis] == free else context.size(source, axis) for axis in range(len(shape) - 1)]
    result = context.op("Reshape", [matrix, context.sizes([*sizes, width])])
    result.type = matrix.type
    return result


def _matmul(context: Context, call: Call) -> ir.Value:
    right = call.raw("other") if "other" in call.arguments else call.raw("mat2")
    if not isinstance(right, Node):
        raise call.unsupported("the right operand must be a tensor")
    return context.op("MatMul", [context.value(call.node_at("self")), context.value(right)])


def _einsum(context: Context, call: Call) -> ir.Value:
    operands = [context.value(node) for node in call.nodes("tensors") if node is not None]
    return context.op("Einsum", operands, {"equation": call.text("equation")})


def _determinant(context: Context, call: Call) -> ir.Value:
    return context.op("Det", [context.value(call.node_at("A"))])


EMITTERS: dict[str, Emitter] = {
    **{f"aten.conv{rank}d": _convolution(rank) for rank in (1, 2, 3)},
    **{f"aten.conv{rank}d.padding": _convolution(rank) for rank in (1, 2, 3)},
    "aten.conv_transpose1d": _transposed_convolution(1),
    "aten.conv_transpose2d.input": _transposed_convolution(2),
    "aten.conv_transpose3d.input": _transposed_convolution(3),
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.einsum": _einsum,
    "aten.linalg_det": _determinant,
}
