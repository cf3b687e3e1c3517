"""Conversions to element types that torch lacks or converts to otherwise: integers below a byte, 8 and 4-bit floats."""

from __future__ import annotations

import onnx_ir
import torch

from qcompiler.frontends.onnx_ops.context import Known, OpContext
from qcompiler.frontends.onnx_ops.tensors import onnx_dtype_of, torch_dtype
from qcompiler.ir.program import Node

_TYPE = onnx_ir.DataType
INTEGER_RANGES: dict[onnx_ir.DataType, tuple[int, int]] = {
    _TYPE.INT2: (-2, 1),
    _TYPE.UINT2: (0, 3),
    _TYPE.INT4: (-8, 7),
    _TYPE.UINT4: (0, 15),
    _TYPE.INT8: (-128, 127),
    _TYPE.UINT8: (0, 255),
    _TYPE.INT16: (-(2**15), 2**15 - 1),
    _TYPE.UINT16: (0, 2**16 - 1),
}
_SMALL_FLOATS = (_TYPE.FLOAT8E4M3FN, _TYPE.FLOAT8E4M3FNUZ, _TYPE.FLOAT8E5M2, _TYPE.FLOAT8E5M2FNUZ)
_WRAPPED = (_TYPE.INT2, _TYPE.UINT2, _TYPE.INT4, _TYPE.UINT4, _TYPE.UINT16, _TYPE.UINT32)
_BITS = {_TYPE.INT2: 2, _TYPE.UINT2: 2, _TYPE.INT4: 4, _TYPE.UINT4: 4, _TYPE.UINT16: 16, _TYPE.UINT32: 32}


def onnx_type(ctx: OpContext, index: int) -> onnx_ir.DataType:
    """The ONNX element type of an input, which says more than the torch type that carries it."""
    value = ctx.value(index)
    source = ctx.node.inputs[index]
    if source is not None and source.dtype is not None:
        return source.dtype
    if source is not None and source.const_value is not None:
        return source.const_value.dtype
    producer = source.producer() if source is not None else None
    attribute = producer.attributes.get("value") if producer is not None else None
    if attribute is not None and attribute.type == onnx_ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype
    plain = value.tensor.dtype if isinstance(value, Known) else ctx.dtype(ctx.tensor(index))
    return onnx_ir.DataType(onnx_dtype_of(plain))


def narrowed(ctx: OpContext, x: Node, target: onnx_ir.DataType, *, saturate: bool) -> Node:
    """`x` in another element type, by the rules of ONNX Cast.

    Args:
        ctx: the node.
        x: real or integer tensor.
        target: element type; integers below a byte are held in bytes, 4-bit floats in 8-bit ones.
        saturate: whether 8-bit floats stop at their largest number instead of becoming infinite or no number.
    """
    dtype = torch_dtype(target, ctx.where)
    if target is _TYPE.FLOAT4E2M1:
        return ctx.cast(_on_e2m1(ctx, ctx.cast(x, torch.float32)), dtype)
    if target in _SMALL_FLOATS and saturate:
        largest = torch.finfo(dtype).max
        return ctx.cast(ctx.call("aten.clamp", ctx.cast(x, torch.float32), -largest, largest), dtype)
    if target is _TYPE.FLOAT8E4M3FN and ctx.dtype(x) != dtype:
        return ctx.cast(_finite(ctx, ctx.cast(x, torch.float32)), dtype)
    if target in _WRAPPED and ctx.dtype(x) not in (dtype, torch.bool):
        return _wrapped(ctx, x, target, dtype)
    return ctx.cast(x, dtype)


def _finite(ctx: OpContext, x: Node) -> Node:
    """What rounds to more than the largest number of e4m3fn, which has no infinity, becomes no number."""
    beyond = ctx.call("aten.gt.Scalar", ctx.call("aten.abs", x), 464.0)
    return ctx.cast(ctx.call("aten.where.ScalarSelf", beyond, float("nan"), x), torch.float32)


def _wrapped(ctx: OpContext, x: Node, target: onnx_ir.DataType, dtype: torch.dtype) -> Node:
    """The low bits of whole numbers, the sign put back."""
    bits = _BITS[target]
    low = ctx.call("aten.bitwise_and.Scalar", ctx.cast(x, torch.int64), 2**bits - 1)
    if target in (_TYPE.INT2, _TYPE.INT4):
        sign = 2 ** (bits - 1)
        low = ctx.call("aten.sub.Tensor", ctx.call("aten.bitwise_xor.Scalar", low, sign), sign)
    return ctx.cast(low, dtype)


def _on_e2m1(ctx: OpContext, x: Node) -> Node:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; ties go to the even code."""
    real = ctx.call("aten.where.ScalarSelf", ctx.call("aten.isnan", x), -0.0, x)
    bounded = ctx.call("aten.clamp", ctx.cast(real, torch.float32), -6.0, 6.0)
    size = ctx.call("aten.abs", bounded)
    wide = ctx.call("aten.where.Scalar", ctx.call("aten.ge.Scalar", size, 4.0), 2.0, 1.0)
    narrow = ctx.call("aten.lt.Scalar", size, 2.0)
    step = ctx.call("aten.where.ScalarSelf", narrow, 0.5, ctx.cast(wide, torch.float32))
    step = ctx.cast(step, torch.float32)
    return ctx.call("aten.mul.Tensor", ctx.call("aten.round", ctx.call("aten.div.Tensor", bounded, step)), step)
