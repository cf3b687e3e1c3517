"""Quantized operands and results of a kernel call as ONNX values: the Q/DQ nodes that runtimes fuse into kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from torch.fx.node import Argument

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand, operand_of
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.dtypes import as_numpy, container
from qcompiler.backends.onnx.ops import EMITTERS
from qcompiler.backends.onnx.ops.quant import Layout, codes_value, layout_of, scale_value, zero_value
from qcompiler.backends.onnx.settings import Settings
from qcompiler.errors import UnsupportedError, VerifyError
from qcompiler.ir import ops
from qcompiler.spec import QuantSpec

_BYTE = 8


def operand_at(call: Call, position: int) -> Operand:
    """The quantized argument at a position; raises VerifyError when it is none."""
    found = operand_of(call.inputs[position]) if position < len(call.inputs) else None
    if found is None:
        raise VerifyError(f"argument {position} of kernel '{call.op}' is not quantized", where=f"%{call.node.name}")
    return found


def layout(context: Context, operand: Operand, *, transposed: bool = False) -> Layout:
    """How ONNX sees the scales of an operand."""
    found = layout_of(operand.spec, context.program.shape(operand.codes))
    return replace(found, axis=1 - found.axis) if transposed and found.kind != "tensor" else found


def integers(context: Context, operand: Operand, *, transposed: bool = False) -> ir.Value:
    """The codes; known ones of 8 bits or fewer as bytes, which is what integer kernels read."""
    if operand.codes.op != "get_attr" or operand.spec.bits > _BYTE or not operand.spec.format.is_integer:
        return codes_value(context, operand.codes, transposed=transposed)
    dtype = ir.DataType.INT8 if operand.spec.format.signed else ir.DataType.UINT8
    node, program = operand.codes, context.program
    shape = [int(dim) for dim in program.shape(node)]

    def stored() -> np.ndarray:
        value = program.param(node)
        return as_numpy(value.t() if transposed else value).astype(dtype.numpy())

    return context.memo(
        ("bytes", str(node.target), transposed),
        lambda: context.lazy(stored, dtype, shape[::-1] if transposed else shape, str(node.target)),
    )


def parameters(
    context: Context, operand: Operand, dtype: ir.DataType | None, *, transposed: bool = False
) -> tuple[ir.Value, ir.Value | None]:
    """Scale and zero point; explicit zeros when symmetric, because some integer kernels need them."""
    if dtype is None:
        raise UnsupportedError(f"%{operand.codes.name} has no element type", step="write onnx")
    seen = layout(context, operand, transposed=transposed)
    scale = scale_value(context, operand.scale, seen, transposed=transposed)
    return scale, zero_value(context, operand.zero_point, scale, seen, dtype, transposed=transposed)


def dequantized(
    context: Context, operand: Operand, codes: ir.Value | None = None, *, transposed: bool = False
) -> ir.Value:
    """DequantizeLinear of an operand; `codes` when they were reshaped on the way."""
    source = integers(context, operand, transposed=transposed) if codes is None else codes
    scale, zero = parameters(context, operand, source.dtype, transposed=transposed)
    attributes = layout(context, operand, transposed=transposed).attributes
    return context.op("DequantizeLinear", [source, scale, zero], attributes)


def quantized(context: Context, call: Call, reals: ir.Value, settings: Settings) -> ir.Value:
    """QuantizeLinear of a kernel's result, limits of an absorbed activation included; reals as they are without one."""
    result = call.raw("result")
    if not isinstance(result, list | tuple):
        return reals
    spec = call.type.spec
    operand = operand_of([call.node, *result])
    if operand is None or spec is None:
        raise VerifyError(f"the result of kernel '{call.op}' has no scale", where=f"%{call.node.name}")
    dtype = _code_type(context, spec)
    low, high = call.number("low"), call.number("high")
    limited = low > spec.format.lowest or high < spec.format.highest
    scale, zero = parameters(context, operand, dtype)
    if limited and settings.absorbed == "reals":
        reals = _limited_reals(context, operand, reals, low, high)
    codes = context.op("QuantizeLinear", [reals, scale, zero])
    codes.type = ir.TensorType(dtype)
    return limited_codes(context, codes, low, high) if limited and settings.absorbed == "codes" else codes


def _code_type(context: Context, spec: QuantSpec) -> ir.DataType:
    """The element type of codes that are computed; integers of 8 bits or fewer are bytes."""
    if spec.format.is_integer and spec.bits <= _BYTE:
        return ir.DataType.INT8 if spec.format.signed else ir.DataType.UINT8
    return container(spec.format, context.opset, stored=False)


def limited_codes(context: Context, codes: ir.Value, low: float, high: float) -> ir.Value:
    """Clip on integers."""
    if codes.dtype is None:
        raise UnsupportedError("the codes to clip have no element type", step="write onnx")
    limits = [context.constant(np.array(limit, dtype=codes.dtype.numpy())) for limit in (low, high)]
    clipped = context.op("Clip", [codes, *limits])
    clipped.type = codes.type
    return clipped


def _limited_reals(context: Context, operand: Operand, reals: ir.Value, low: float, high: float) -> ir.Value:
    """Relu or Clip before the quantizer: the form that compilers fuse into the operator in front."""
    scale, zero = (context.program.constant(node) for node in (operand.scale, operand.zero_point))
    if scale is None:
        raise VerifyError("an absorbed activation needs a static scale", where=f"%{operand.codes.name}")
    offset = 0.0 if zero is None else float(zero)
    if low == offset and high >= operand.spec.format.highest:
        return context.op("Relu", [reals])
    limits = [context.constant(np.array((limit - offset) * float(scale), dtype=np.float32)) for limit in (low, high)]
    return context.op("Clip", [reals, *limits])


def inner_call(call: Call, arguments: list[Argument]) -> Call:
    """The operator behind a kernel call, on other arguments."""
    op = call.text("op")
    return Call(call.node, op, ops.bind(ops.op_target(op), arguments, {}))


def on_codes(context: Context, call: Call) -> ir.Value:
    """The operator behind a kernel call, applied to the codes of its quantized arguments."""
    arguments = [_codes_of(argument) for argument in call.inputs]
    emitted = EMITTERS[call.text("op")](context, inner_call(call, arguments))
    if isinstance(emitted, list):
        raise UnsupportedError(f"{call.text('op')} has several results", step="write onnx")
    return emitted


def on_reals(context: Context, call: Call, settings: Settings) -> ir.Value:
    """The operator behind a kernel call between DequantizeLinear and QuantizeLinear."""
    found = [operand for argument in call.inputs for operand in _operands(argument)]
    with context.standing_in({operand.codes: dequantized(context, operand) for operand in found}):
        reals = on_codes(context, call)
    return quantized(context, call, reals, settings)


def _operands(argument: Argument) -> list[Operand]:
    found = operand_of(argument)
    if found is not None:
        return [found]
    items = argument if isinstance(argument, list | tuple) else []
    return [operand for item in items if (operand := operand_of(item)) is not None]


def _codes_of(argument: Argument) -> Argument:
    found = operand_of(argument)
    if found is not None:
        return found.codes
    if isinstance(argument, list | tuple):
        return [_codes_of(item) for item in argument]
    return argument
