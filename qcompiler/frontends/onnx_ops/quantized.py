"""Operators of models that are already quantized, as the plain arithmetic that they mean.

Integer sums are computed on whole numbers in float64, where they are exact; convolutions, which runtimes have in
float32 alone, in float32, where sums below 2^24 are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir
import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.frontends.onnx_ops.narrow import INTEGER_RANGES, narrowed, onnx_type
from qcompiler.frontends.onnx_ops.tensors import torch_dtype
from qcompiler.frontends.onnx_ops.window import convolve
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


def quantize(ctx: OpContext) -> Result:
    """QuantizeLinear: `saturate(round(x / scale) + zero_point)` per tensor, channel or block."""
    x = ctx.tensor(0)
    axis, block = _axis_and_block(ctx, x)
    wide = _wide(ctx, x, ctx.integer("precision", 0))
    quotient = ctx.call("aten.div.Tensor", ctx.cast(x, wide), _spread(ctx, 1, x, axis, block, wide))
    return _coded(ctx, quotient, _target_type(ctx, 2), _spread(ctx, 2, x, axis, block, wide) if ctx.has(2) else None)


def _axis_and_block(ctx: OpContext, x: Node) -> tuple[int, int]:
    axis, block = ctx.integer("axis", 1), ctx.integer("block_size", 0)
    scale = ctx.tensor(1)
    return (ctx.axis(axis, ctx.rank(x)) if ctx.rank(scale) else 0), block


def _wide(ctx: OpContext, x: Node, precision: int) -> torch.dtype:
    """The element type of the division: as stated, else float32 for the shorter ones."""
    if precision:
        return torch_dtype(onnx_ir.DataType(precision), ctx.where)
    return torch.float64 if ctx.dtype(x) == torch.float64 else torch.float32


def _target_type(ctx: OpContext, index: int) -> onnx_ir.DataType:
    stated = ctx.integer("output_dtype", 0)
    if ctx.has(index):
        return onnx_type(ctx, index)
    return onnx_ir.DataType(stated) if stated else onnx_ir.DataType.UINT8


def _spread(ctx: OpContext, index: int, x: Node, axis: int, block: int, dtype: torch.dtype) -> Node:
    """A scale or zero point, shaped to meet `x` element by element."""
    node = ctx.cast(ctx.tensor(index), dtype)
    rank = ctx.rank(x)
    if ctx.rank(node) == 0 or (ctx.rank(node) == 1 and ctx.shape(node)[0] == 1 and not block):
        return node
    if not block:
        return ctx.call("aten.reshape", node, [-1 if other == axis else 1 for other in range(rank)])
    shape = [ctx.static(dim, "an axis of a scale with blocks") for dim in ctx.shape(node)]
    apart = ctx.call("aten.unsqueeze", node, axis + 1)
    repeated = ctx.call("aten.expand", apart, [*shape[: axis + 1], block, *shape[axis + 1 :]])
    whole = ctx.call("aten.reshape", repeated, [*shape[:axis], shape[axis] * block, *shape[axis + 1 :]])
    size = ctx.shape(x)[axis]
    return whole if size == shape[axis] * block else ctx.call("aten.slice.Tensor", whole, axis, 0, ctx.size(size), 1)


def _coded(ctx: OpContext, x: Node, target: onnx_ir.DataType, zero_point: Node | None) -> Node:
    if target not in INTEGER_RANGES:
        return narrowed(ctx, x, target, saturate=bool(ctx.integer("saturate", 1)))
    rounded = ctx.call("aten.round", x)
    shifted = rounded if zero_point is None else ctx.call("aten.add.Tensor", rounded, zero_point)
    low, high = INTEGER_RANGES[target]
    return ctx.cast(ctx.call("aten.clamp", shifted, low, high), torch_dtype(target, ctx.where))


def dequantize(ctx: OpContext) -> Result:
    """DequantizeLinear: `(x - zero_point) * scale` per tensor, channel or block."""
    x = ctx.tensor(0)
    axis, block = _axis_and_block(ctx, x)
    stated = ctx.integer("output_dtype", 0)
    result = torch_dtype(onnx_ir.DataType(stated), ctx.where) if stated else ctx.dtype(ctx.tensor(1))
    wide = torch.float64 if ctx.dtype(x) == torch.int32 else torch.float32
    reals = ctx.cast(x, wide)
    if ctx.has(2):
        reals = ctx.call("aten.sub.Tensor", reals, _spread(ctx, 2, x, axis, block, wide))
    return ctx.cast(ctx.call("aten.mul.Tensor", reals, _spread(ctx, 1, x, axis, block, wide)), result)


def matmul_integer(ctx: OpContext) -> Result:
    """MatMulInteger: an int32 product of matrices less their zero points (per tensor, row of A, column of B)."""
    left, right = _centred(ctx, 0, 2, -2), _centred(ctx, 1, 3, -1)
    return ctx.cast(ctx.call("aten.matmul", left, right), torch.int32)


def conv_integer(ctx: OpContext) -> Result:
    """ConvInteger: an int32 convolution of tensors less their zero points (of the weight per tensor or channel)."""
    _, inner, *kernel = ctx.shape(ctx.tensor(1))
    terms = math.prod(ctx.static(dim, "the kernel") for dim in (inner, *kernel))
    wide = torch.float32 if terms * 255 * 255 < 2**24 else torch.float64
    x, weight = _centred(ctx, 0, 2, None, wide), _centred(ctx, 1, 3, 0, wide)
    return ctx.cast(convolve(ctx, x, weight, None), torch.int32)


def _centred(ctx: OpContext, index: int, zero_index: int, axis: int | None, wide: torch.dtype = torch.float64) -> Node:
    """Input `index` less its zero point, as whole numbers; `axis` is the one that a vector belongs to."""
    x = ctx.cast(ctx.tensor(index), wide)
    if not ctx.has(zero_index):
        return x
    zero = ctx.cast(ctx.tensor(zero_index), wide)
    if ctx.rank(zero) == 1 and axis is not None:
        place = axis % ctx.rank(x)
        zero = ctx.call("aten.reshape", zero, [-1 if other == place else 1 for other in range(ctx.rank(x))])
    return ctx.call("aten.sub.Tensor", x, zero)


def linear_matmul(ctx: OpContext) -> Result:
    """QLinearMatMul: quantized operands and result."""
    product = ctx.call("aten.matmul", _centred(ctx, 0, 2, -2), _centred(ctx, 3, 5, -1))
    rows = _reshaped(ctx, 1, ctx.rank(product), -2)
    columns = _reshaped(ctx, 4, ctx.rank(product), -1)
    return _requantized(ctx, product, ctx.call("aten.mul.Tensor", rows, columns))


def linear_conv(ctx: OpContext) -> Result:
    """QLinearConv: quantized operands and result, int32 bias."""
    single = torch.float32
    bias = ctx.cast(ctx.tensor(8), single) if ctx.has(8) else None
    product = convolve(ctx, _centred(ctx, 0, 2, None, single), _centred(ctx, 3, 5, 0, single), bias)
    channels = _reshaped(ctx, 4, ctx.rank(product), 1)
    return _requantized(ctx, product, ctx.call("aten.mul.Tensor", ctx.cast(ctx.tensor(1), torch.float32), channels))


def _reshaped(ctx: OpContext, index: int, rank: int, axis: int) -> Node:
    scale = ctx.cast(ctx.tensor(index), torch.float32)
    if ctx.rank(scale) != 1:
        return scale
    return ctx.call("aten.reshape", scale, [-1 if other == axis % rank else 1 for other in range(rank)])


def _requantized(ctx: OpContext, total: Node, scale: Node) -> Node:
    factor = ctx.call("aten.div.Tensor", scale, ctx.cast(ctx.tensor(6), torch.float32))
    reals = ctx.call("aten.mul.Tensor", ctx.cast(total, torch.float32), factor)
    return _coded(ctx, reals, onnx_type(ctx, 7), ctx.cast(ctx.tensor(7), torch.float32))


QUANTIZED: dict[str, Operator] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize,
    "MatMulInteger": matmul_integer,
    "QLinearConv": linear_conv,
    "QLinearMatMul": linear_matmul,
    "QuantizeLinear": quantize,
}
