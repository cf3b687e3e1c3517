"""Integer linear layers, static and dynamic. Convolutions need nothing special and are written by `on_reals`."""

from __future__ import annotations

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand, operand_of
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.kernels.operands import (
    dequantized,
    integers,
    operand_at,
    parameters,
    quantized,
)
from qcompiler.backends.onnx.names import MICROSOFT
from qcompiler.backends.onnx.ops.linear import shaped_back
from qcompiler.backends.onnx.settings import Settings
from qcompiler.ir.program import Node


def linear(context: Context, call: Call, settings: Settings) -> ir.Value:
    """A linear layer with static scales, in the form that the settings choose."""
    x, w = operand_at(call, 0), operand_at(call, 1)
    if settings.linear == "contrib":
        return quantized(context, call, _scaled_product(context, x, w, _float_bias(context, call)), settings)
    rank = len(context.program.shape(x.codes))
    if rank == 2:
        operands = [dequantized(context, x), dequantized(context, w, transposed=True), _bias(context, call)]
        return quantized(context, call, context.op("Gemm", operands), settings)
    if settings.linear == "matmul" or call.inputs[2] is None:
        product = context.op("MatMul", [dequantized(context, x), dequantized(context, w, transposed=True)])
        bias = _bias(context, call)
        reals = product if bias is None else context.op("Add", [product, bias])
        return quantized(context, call, reals, settings)
    return _as_matrix(context, call, x, w, settings)


def linear_dynamic(context: Context, call: Call, settings: Settings) -> ir.Value:
    """A linear layer whose input scale is found at run time."""
    x, w = operand_at(call, 0), operand_at(call, 1)
    bias = _float_bias(context, call)
    if settings.linear == "contrib":
        return _scaled_product(context, x, w, bias)
    codes, weight = integers(context, x), integers(context, w, transposed=True)
    scale, zero = parameters(context, x, codes.dtype)
    weight_scale, weight_zero = parameters(context, w, weight.dtype, transposed=True)
    total = context.op("MatMulInteger", [codes, weight, zero, weight_zero])
    reals = context.op("Cast", [total], {"to": ir.DataType.FLOAT.value})
    product = context.op("Mul", [reals, context.op("Mul", [scale, weight_scale])])
    return product if bias is None else context.op("Add", [product, bias])


def linear_wide(context: Context, call: Call, settings: Settings) -> ir.Value:
    """A linear layer between DequantizeLinear and QuantizeLinear, whatever the codes: compilers fuse it, or it runs
    on reals.
    """
    x, w = operand_at(call, 0), operand_at(call, 1)
    product = context.op("MatMul", [dequantized(context, x), dequantized(context, w, transposed=True)])
    bias = _float_bias(context, call)
    return quantized(context, call, product if bias is None else context.op("Add", [product, bias]), settings)


def _as_matrix(context: Context, call: Call, x: Operand, w: Operand, settings: Settings) -> ir.Value:
    """Rows as one matrix, so that Gemm can add an int32 bias; a MatMul with a bias behind it would run in float."""
    shape = context.program.shape(x.codes)
    flat = context.op("Reshape", [integers(context, x), context.ints([-1, int(shape[-1])])])
    flat.type = integers(context, x).type
    operands = [dequantized(context, x, flat), dequantized(context, w, transposed=True), _bias(context, call)]
    codes = quantized(context, call, context.op("Gemm", operands), settings)
    return shaped_back(context, codes, x.codes, int(context.program.shape(w.codes)[0]))


def _scaled_product(context: Context, x: Operand, w: Operand, bias: ir.Value | None) -> ir.Value:
    codes, weight = integers(context, x), integers(context, w, transposed=True)
    scale, zero = parameters(context, x, codes.dtype)
    weight_scale, weight_zero = parameters(context, w, weight.dtype, transposed=True)
    inputs = [codes, weight, scale, weight_scale, zero, weight_zero, bias]
    return context.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT)


def _bias(context: Context, call: Call) -> ir.Value | None:
    """The bias as int32 codes with their scale, or in float."""
    operand = operand_of(call.inputs[2])
    return _float_bias(context, call) if operand is None else dequantized(context, operand)


def _float_bias(context: Context, call: Call) -> ir.Value | None:
    bias = call.inputs[2]
    return context.value(bias) if isinstance(bias, Node) else None
