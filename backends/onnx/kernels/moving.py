"""Kernels that move codes about, pick among them, or average them over whole images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import operand_of
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.kernels.operands import (
    dequantized,
    inner_call,
    integers,
    limited_codes,
    on_codes,
    operand_at,
    quantized,
)
from qcompiler.backends.onnx.ops.shape import onnx_pads
from qcompiler.backends.onnx.settings import Settings
from qcompiler.backends.reference.arithmetic import Grid
from qcompiler.errors import VerifyError


def carry(context: Context, call: Call, settings: Settings) -> ir.Value:
    """The operator itself, on integers."""
    moved = on_codes(context, call)
    moved.type = integers(context, operand_at(call, 0)).type
    return moved


def limit(context: Context, call: Call, settings: Settings) -> ir.Value:
    """A relu or clamp as Clip on integers."""
    codes = integers(context, operand_at(call, 0))
    return limited_codes(context, codes, call.number("low"), call.number("high"))


def pad(context: Context, call: Call, settings: Settings) -> ir.Value:
    """Pad on integers, with the code of the filling value; ONNX lists all begins, then all ends."""
    source = operand_at(call, 0)
    codes = integers(context, source)
    inner = inner_call(call, [source.codes, *call.inputs[1:]])
    pads, rank = inner.sizes("pad"), call.type.rank
    result = call.raw("result")
    target = operand_of([call.node, *result]) if isinstance(result, list | tuple) else None
    scale = context.program.constant(target.scale) if target else None
    if target is None or scale is None or codes.dtype is None:
        raise VerifyError("padding of codes needs a static scale", where=f"%{call.node.name}")
    zero = context.program.constant(target.zero_point)
    grid = Grid.of([scale, zero], call.number("low"), call.number("high"))
    filling = float(grid.quantize(scale.new_tensor(inner.number("value", 0))))
    inputs = [
        codes,
        context.sizes(onnx_pads(pads, rank)),
        context.constant(np.array(filling, dtype=codes.dtype.numpy())),
    ]
    padded = context.op("Pad", inputs, {"mode": "constant"})
    padded.type = codes.type
    return padded


def global_mean(context: Context, call: Call, settings: Settings) -> ir.Value:
    """GlobalAveragePool between Q/DQ, its spatial axes removed from the codes unless they are kept."""
    source = operand_at(call, 0)
    mean = context.op("GlobalAveragePool", [dequantized(context, source)])
    codes = quantized(context, call, mean, settings)
    inner = inner_call(call, [source.codes, *call.inputs[1:]])
    if inner.flag("keepdim"):
        return codes
    axes = range(2, len(context.program.shape(source.codes)))
    squeezed = context.op("Squeeze", [codes, context.ints(axes)])
    squeezed.type = codes.type
    return squeezed
