"""ONNX operators that make tensors, convert them, or ask for their shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir
import sympy
import torch

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Result, Sizes
from qcompiler.frontends.onnx_ops.narrow import narrowed, onnx_type
from qcompiler.frontends.onnx_ops.tensors import torch_dtype, torch_tensor
from qcompiler.ir.types import Dim

Operator = Callable[[OpContext], Result]

_SAME_WIDTH = {onnx_ir.DataType.UINT16: torch.int16, onnx_ir.DataType.UINT32: torch.int32}

_VALUES: dict[str, torch.dtype] = {
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


def constant(ctx: OpContext) -> Result:
    """Constant."""
    name = ctx.node.outputs[0].name or ctx.name
    attribute = ctx.attribute("value")
    if attribute is not None:
        return Known(name, torch_tensor(attribute.as_tensor(), ctx.where))
    for key, dtype in _VALUES.items():
        given = ctx.attribute(key)
        if given is not None:
            return Known(name, torch.tensor(given.value, dtype=dtype))
    raise ctx.refuse("only tensors, numbers and lists of numbers are supported")


def constant_of_shape(ctx: OpContext) -> Result:
    """ConstantOfShape."""
    attribute = ctx.attribute("value")
    value = torch_tensor(attribute.as_tensor(), ctx.where).reshape(()) if attribute else torch.zeros(())
    sizes = [ctx.size(dim) for dim in ctx.dims(0, "the shape")]
    return ctx.call("aten.full", sizes, value.item(), kwargs={"dtype": value.dtype})


def shape(ctx: OpContext) -> Result:
    """Shape, or a part of it: dimensions, not data."""
    dims = _dims_of(ctx)
    return Sizes(_objects(dims[ctx.integer("start", 0) : ctx.integer("end", len(dims))]))


def size(ctx: OpContext) -> Result:
    """Size: the number of elements."""
    return Sizes(np.array(math.prod(_dims_of(ctx), start=sympy.Integer(1)), dtype=object))


def _dims_of(ctx: OpContext) -> list[Dim]:
    value = ctx.value(0)
    if isinstance(value, Sizes):
        return list(value.items.shape)
    if isinstance(value, Known):
        return list(value.tensor.shape)
    ctx.emitter.remember_shape(value)
    return list(ctx.shape(value))


def _objects(dims: list[Dim]) -> np.ndarray:
    array = np.empty(len(dims), dtype=object)
    array[:] = dims
    return array


def arange(ctx: OpContext) -> Result:
    """Range between constants or sizes."""
    bounds = [ctx.scalar(index, 0) for index in range(3)]
    if any(bound is None for bound in bounds):
        bounds = [ctx.size(ctx.dims(index, "a bound of the range")[0]) for index in range(3)]
    known = ctx.known(0)
    dtype = torch.int64 if known is None else known.dtype
    return ctx.call("aten.arange.start_step", *bounds, kwargs={"dtype": dtype})


def eye_like(ctx: OpContext) -> Result:
    """EyeLike of a fixed shape."""
    x = ctx.tensor(0)
    rows, columns = (ctx.static(dim, "an identity matrix") for dim in ctx.shape(x))
    attribute = ctx.attribute("dtype")
    dtype = torch_dtype(onnx_ir.DataType(attribute.as_int()), ctx.where) if attribute else ctx.dtype(x)
    ones = torch.ones(rows, columns)
    diagonal = ctx.integer("k", 0)
    return Known(ctx.name, (torch.triu(ones, diagonal) * torch.tril(ones, diagonal)).to(dtype))


def cast(ctx: OpContext) -> Result:
    """Cast; to the same type it is the identity."""
    return _cast(ctx, onnx_ir.DataType(ctx.integer("to")))


def cast_like(ctx: OpContext) -> Result:
    """CastLike."""
    return _cast(ctx, onnx_type(ctx, 1))


def _cast(ctx: OpContext, target: onnx_ir.DataType) -> Result:
    value, dtype = ctx.value(0), torch_dtype(target, ctx.where)
    saturate = bool(ctx.integer("saturate", 1))
    if isinstance(value, Known) and value.tensor.dtype == dtype and onnx_type(ctx, 0) is target:
        return value
    return narrowed(ctx, ctx.tensor(0), target, saturate=saturate)


def bit_cast(ctx: OpContext) -> Result:
    """BitCast: the same bits read as another type of the same width."""
    x, target = ctx.tensor(0), onnx_ir.DataType(ctx.integer("to"))
    dtype = torch_dtype(target, ctx.where)
    bits = ctx.cast(x, _SAME_WIDTH.get(onnx_type(ctx, 0), ctx.dtype(x)))
    read = ctx.call("aten.view.dtype", bits, _SAME_WIDTH.get(target, dtype))
    return narrowed(ctx, read, target, saturate=False)


CREATE: dict[str, Operator] = {
    "BitCast": bit_cast,
    "Cast": cast,
    "CastLike": cast_like,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "Range": arange,
    "Shape": shape,
    "Size": size,
}
