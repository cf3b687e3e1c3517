"""Softmax, norms and products of activations from codes to codes, in integers; tables of any function of one code."""

from __future__ import annotations

import math

import numpy as np
import torch

from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.emit.finish import quantized
from qcompiler.backends.c.emit.fixed import fields, limits
from qcompiler.backends.c.emit.grid import grid_of, static
from qcompiler.backends.c.emit.nest import looped, moved, place
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand
from qcompiler.backends.reference.arithmetic import MOST_TERMS
from qcompiler.backends.reference.whole import NORM_BITS, Channels, Exponentials
from qcompiler.ir.program import Node

_LAYER_EPSILON, _SINGLE_EPSILON = 1e-5, 1.1920928955078125e-07


def softmax(generator: Generator, call: Call) -> Emitted:
    """Rows of codes; see `qc_softmax_i8.h`."""
    operand, grid = quantized(call, 0), grid_of(generator, call)
    scale, _ = static(generator, call, operand)
    rows = rows_of(generator, generator.operand(operand.codes))
    width = rows.shape[-1]
    if width > MOST_TERMS:
        raise call.unsupported(f"rows of {width}")
    known = Exponentials.of(scale, grid.scale)
    table = generator.constant(known.table.numpy().astype(np.uint32).view(np.uint8), "uint8_t")
    out = generator.new(generator.shape(call.node), "qc_act", None, grid.shift)
    generator.call(
        "softmax_i8",
        {
            "input": generator.pointer(rows),
            "input_stride": rows.strides[0],
            "width": width,
            "table": f"(const uint32_t *)(const void *)({generator.pointer(table)})",
            "mantissa": known.mantissa,
            "shift": known.shift,
            **limits(grid),
            "out": generator.pointer(out),
            "out_stride": width,
        },
        rows.shape[0],
    )
    return out


def layer_norm(generator: Generator, call: Call) -> Emitted:
    """Rows brought to mean 0 and variance 1; see `qc_norm_i8.h`."""
    eps = call.inputs[4] if len(call.inputs) > 4 else _LAYER_EPSILON
    return _normalized(generator, call, eps, centred=True)


def rms_norm(generator: Generator, call: Call) -> Emitted:
    """Rows divided by their root mean square."""
    eps = call.inputs[3] if len(call.inputs) > 3 else None
    return _normalized(generator, call, _SINGLE_EPSILON if eps is None else eps, centred=False)


def _normalized(generator: Generator, call: Call, eps: object, *, centred: bool) -> Emitted:
    operand, grid = quantized(call, 0), grid_of(generator, call)
    scale, zero = static(generator, call, operand)
    over = call.inputs[1]
    width = math.prod(size for size in over if isinstance(size, int)) if isinstance(over, list | tuple) else 0
    if not isinstance(eps, int | float) or width > MOST_TERMS:
        raise call.unsupported(f"rows of {width}")
    source = generator.contiguous(generator.operand(operand.codes))
    rows = rows_of(generator, source.reshaped((source.count // width, width)) or source)
    weight, bias = _vector(generator, call, 2, width, 1.0), _vector(generator, call, 3 if centred else 9, width, 0.0)
    channels = Channels.of(scale, grid.scale, weight, bias, float(eps))
    vectors = [
        generator.constant(vector.numpy().astype(np.int32), "int32_t") for vector in (channels.weight, channels.bias)
    ]
    out = generator.new(generator.shape(call.node), "qc_act", None, grid.shift)
    generator.call(
        "norm_i8",
        {
            "input": generator.pointer(rows),
            "input_stride": rows.strides[0],
            "width": width,
            "centred": int(centred),
            "input_zero": int(zero) + rows.shift,
            "epsilon": channels.epsilon,
            "weight": generator.pointer(vectors[0]),
            "bias": generator.pointer(vectors[1]),
            "shift": channels.shift + NORM_BITS,
            **limits(grid),
            "out": generator.pointer(out),
            "out_stride": width,
        },
        rows.shape[0],
    )
    return out


def _vector(generator: Generator, call: Call, position: int, width: int, missing: float) -> torch.Tensor:
    node = call.inputs[position] if position < len(call.inputs) else None
    if not isinstance(node, Node):
        return torch.full((width,), missing)
    known = generator.program.constant(node)
    if known is None:
        raise call.unsupported("factors that are not constant")
    return known.detach().float().flatten()


def matmul(generator: Generator, call: Call) -> Emitted:
    """Products of two activations, leading axes broadcast, one after the other; see `qc_matmul_i8.h`."""
    left, right, grid = quantized(call, 0), quantized(call, 1), grid_of(generator, call)
    if not call.flag("fixed"):
        raise call.unsupported("requantization in floats", "set requantize=integer")
    (sa, za), (sb, zb) = static(generator, call, left), static(generator, call, right)
    shape = generator.shape(call.node)
    one, other = _matrices(generator, left, 1), _matrices(generator, right, 2)
    lead, depth = shape[:-2], one.shape[-1]
    if depth > MOST_TERMS:
        raise call.unsupported(f"a sum of {depth} products may overflow int32")
    out = generator.new(shape, "qc_act", None, grid.shift)
    one, other = one.expanded((*lead, shape[-2], depth)), other.expanded((*lead, depth, shape[-1]))
    counters = [f"b{axis}" for axis in range(len(lead))]
    steps = [place(value, [*counters, "0", "0"]) for value in (one, other, out)]
    arguments: dict[str, str | int] = {
        "left": moved(generator, one, steps[0]),
        "left_stride": one.strides[-2],
        "right": moved(generator, other, steps[1]),
        "depth_stride": other.strides[-2],
        "column_stride": other.strides[-1],
        "depth": depth,
        "columns": shape[-1],
        "left_zero": int(za) + one.shift,
        "right_zero": int(zb) + other.shift,
        **{f"fixed.{name}": text for name, text in fields(generator, sa * sb / grid.scale, grid).items()},
        "out": moved(generator, out, steps[2]),
        "out_stride": shape[-1],
    }
    with looped(generator, list(zip(counters, lead, strict=True))):
        generator.call("matmul_i8", arguments, shape[-2])
    return out


def _matrices(generator: Generator, operand: Operand, sides: int) -> Value:
    """Codes whose rows, or one of whose last two axes, lie side by side."""
    value = generator.settled(generator.operand(operand.codes))
    if value.buffer.kind != "input" and 1 in value.strides[-sides:]:
        return value
    return generator.copied(value, range(len(value.shape)))


def lookup(generator: Generator, call: Call) -> Emitted:
    """A table that came with the call."""
    table = call.inputs[1]
    known = generator.program.constant(table) if isinstance(table, Node) else None
    if known is None:
        raise call.unsupported("a table that is not constant")
    return looked_up(generator, call, quantized(call, 0), known)


def looked_up(generator: Generator, call: Call, operand: Operand, codes: torch.Tensor) -> Value:
    """Codes by way of a table of the results of all 256, the least first."""
    shift = generator.element(call.type)[1]
    source = generator.settled(generator.operand(operand.codes))
    if source.buffer.kind == "input" or not source.permuted(source.order).dense:
        source = generator.copied(source, source.order)
    stored = (codes.flatten() + shift).numpy().astype("int8" if generator.signed else "uint8")
    table = generator.constant(stored, "qc_act")
    out = generator.new(source.shape, "qc_act", source.order, shift)
    fields_ = {
        "input": generator.pointer(source),
        "count": source.count,
        "table": generator.pointer(table),
        "out": generator.pointer(out),
    }
    generator.call("lookup", fields_, f"QC_LOOKUP_TASKS({source.count})")
    return out


KERNELS: dict[str, Emitter] = {
    "softmax": softmax,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "matmul": matmul,
    "lookup": lookup,
}
