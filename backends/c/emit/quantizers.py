"""Quantizers: reals to codes and back, with scales that are known, or chosen while the model runs."""

from __future__ import annotations

import numpy as np
import torch

from qcompiler.backends.c.emit.binary import sign
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed, Operand
from qcompiler.backends.c.number import float_text, integer_text
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.formats import BINARY
from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType

Parameter = float | Value | None
"""A scale or zero point: a number when there is one, else a tensor that broadcasts; None when absent."""
_LEAST_STEP = 2.0**-60
"""Of what `qc_in_steps` takes; its inverse is the largest."""


def quantize(generator: Generator, call: Call) -> Emitted:
    """`clip(round(x / scale) + zero point)`; scales per tensor, channel or row, known now or at run time."""
    element, shift = generator.element(call.type)
    spec = call.type.spec
    if spec is None:
        raise call.unsupported("its result has no spec")
    if spec.format == BINARY:
        return sign(generator, call)
    chosen = _chosen(call)
    if chosen in generator.quantized:
        return generator.quantized[chosen]
    low, high = (float_text(limit + shift) for limit in (spec.format.lowest, spec.format.highest))
    source = generator.operand(call.node_at("x"))
    scale = _parameter(generator, call, "scale", source.shape)
    zero = _parameter(generator, call, "zero_point", source.shape)
    known = _code(scale, zero, (spec.format.lowest, spec.format.highest), shift)
    if known is not None:
        return generator.fused(call.node, Computed(element, source.shape, known, (source,), shift))
    parts: list[Operand] = [source]
    divisor = _text(scale, parts)
    if isinstance(zero, Value):
        point = f"({_text(zero, parts)} + {float_text(shift)})"
    else:
        point = float_text((zero or 0.0) + shift)
    text = f"qc_place({{0}} / {divisor}, {point}, {low}, {high})"
    return generator.fused(call.node, Computed(element, source.shape, text, tuple(parts), shift))


def _code(scale: Parameter, zero: Parameter, limits: tuple[float, float], shift: int) -> str | None:
    """A quantizer without a division, to the same bits, where scale and zero point are numbers."""
    if not isinstance(scale, float) or isinstance(zero, Value):
        return None
    step = np.float32(scale)
    if not _LEAST_STEP < step < 1 / _LEAST_STEP:
        return None
    inverse = float_text(float(np.float32(1) / step))
    numbers = (int(number) + shift for number in (zero or 0.0, *limits))
    return f"qc_code({{0}}, {float_text(scale)}, {inverse}, {', '.join(map(integer_text, numbers))})"


def _chosen(call: Call) -> Node | None:
    """The node that chose the scale at run time for the same tensor."""
    scale = call.raw("scale")
    source = scale.args[0] if isinstance(scale, Node) and scale.op == "call_function" and scale.args else None
    same = isinstance(source, Node) and source.args and source.args[0] is call.raw("x")
    return source if same and isinstance(source, Node) else None


def dequantize(generator: Generator, call: Call) -> Emitted:
    """`(code - zero point) * scale`."""
    codes = call.node_at("codes")
    source = generator.operand(codes)
    scale = _parameter(generator, call, "scale", source.shape)
    zero = _parameter(generator, call, "zero_point", source.shape)
    parts: list[Operand] = [source]
    text = f"(float){{0}} - {float_text(source.shift)}" if source.shift else "(float){0}"
    if zero is not None:
        text = f"{text} - {_text(zero, parts)}"
    text = f"({text}) * {_text(scale, parts)}"
    return generator.fused(call.node, Computed("float", generator.shape(call.node), text, tuple(parts)))


def choose_qparams(generator: Generator, call: Call) -> Emitted:
    """Scales and zero points of rows, or of a whole tensor; the kernel makes the codes on the way."""
    spec = call.spec()
    source = generator.contiguous(generator.operand(call.node_at("x")))
    shape = source.shape
    whole = all(size == -1 for size in spec.block)
    by_row = spec.block[-1] in (-1, shape[-1]) and all(size == 1 for size in spec.block[:-1])
    if not (whole or by_row) or len(spec.levels) != 1:
        raise call.unsupported(f"scales of {spec} at run time")
    rows = 1 if whole else source.count // shape[-1]
    width = source.count // rows
    flat = source.reshaped((rows, width)) or source
    scales = (1,) * len(shape) if whole else (*shape[:-1], 1)
    element, shift = generator.element(TensorType(torch.float32, (), spec))
    codes = generator.new(shape, element, None, shift)
    scale, zero = generator.new(scales, "float"), generator.new(scales, "int32_t", None, shift)
    symmetric = spec.levels[-1].zero_point == "none"
    fields: dict[str, str | int] = {
        "input": generator.pointer(flat),
        "input_stride": width,
        "width": width,
        "symmetric": int(symmetric),
        "lowest": float_text(spec.format.lowest),
        "highest": float_text(spec.format.highest),
        "shift": float_text(shift),
        "out": generator.pointer(codes),
        "out_stride": width,
        "scale": generator.pointer(scale),
        "zero": generator.pointer(zero),
    }
    generator.call("quantize_rows", fields, rows)
    generator.quantized[call.node] = codes
    return [scale, zero]


def _text(known: Parameter, parts: list[Operand]) -> str:
    """A parameter as C reads it: a number, or an element of one part more; 1 when it is absent."""
    if isinstance(known, Value):
        parts.append(known)
        return f"{{{len(parts) - 1}}}"
    return float_text(1.0 if known is None else known)


def _parameter(generator: Generator, call: Call, name: str, shape: tuple[int, ...]) -> Parameter:
    """The scale or zero point of a quantizer."""
    node = call.raw(name)
    if not isinstance(node, Node):
        return None
    known = generator.program.constant(node)
    if known is not None and known.numel() == 1:
        return float(known.reshape(()))
    value = generator.value(node)
    if value.count == 1:
        return value.reshaped((1,) * len(shape))
    fits = len(value.shape) == len(shape) and all(
        size in (1, whole) for size, whole in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise call.unsupported(f"scales of shape {value.shape} for {shape}: blocks have kernels of their own")
    return value


EMITTERS: dict[str, Emitter] = {
    "qc.quantize": quantize,
    "qc.dequantize": dequantize,
    "qc.choose_qparams": choose_qparams,
}
