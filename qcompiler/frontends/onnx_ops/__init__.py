"""The ONNX operators that the front-end reads, one table per theme."""

from __future__ import annotations

from qcompiler.frontends.onnx_ops.activation import ACTIVATION
from qcompiler.frontends.onnx_ops.attention import ATTENTION
from qcompiler.frontends.onnx_ops.create import CREATE
from qcompiler.frontends.onnx_ops.index import INDEX
from qcompiler.frontends.onnx_ops.layout import LAYOUT
from qcompiler.frontends.onnx_ops.math import MATH, Operator
from qcompiler.frontends.onnx_ops.norm import NORM
from qcompiler.frontends.onnx_ops.recurrent import RECURRENT
from qcompiler.frontends.onnx_ops.reduce import REDUCE
from qcompiler.frontends.onnx_ops.resize import RESIZE
from qcompiler.frontends.onnx_ops.window import WINDOW

TABLES = (ACTIVATION, ATTENTION, CREATE, INDEX, LAYOUT, MATH, NORM, RECURRENT, REDUCE, RESIZE, WINDOW)
OPERATORS: dict[str, Operator] = {name: operator for table in TABLES for name, operator in table.items()}

_QUANTIZED = "the model is already quantized; start from the float model"
_CONTROL = "control flow that depends on data cannot be quantized ahead of time; export the model without it"
REFUSED: dict[str, str] = {
    "QuantizeLinear": _QUANTIZED,
    "DequantizeLinear": _QUANTIZED,
    "DynamicQuantizeLinear": _QUANTIZED,
    "QLinearConv": _QUANTIZED,
    "QLinearMatMul": _QUANTIZED,
    "ConvInteger": _QUANTIZED,
    "MatMulInteger": _QUANTIZED,
    "Loop": _CONTROL,
    "Scan": _CONTROL,
}

__all__ = ["OPERATORS", "REFUSED", "TABLES"]
