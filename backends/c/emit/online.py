"""Changes of basis on the last axis that run with the model."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.emit.products import product_of
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.lowering.call import Call
from qcompiler.hadamard import core, hadamard


def fast_hadamard(generator: Generator, call: Call) -> Emitted:
    """`(x * signs) H / sqrt(block)` on blocks of the last axis, by butterflies."""
    source = rows_of(generator, generator.operand(call.node_at("x")))
    shape = generator.shape(call.node)
    block = call.integer("block")
    order = core(block)
    out = generator.new(shape, "float")
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "input_stride": source.strides[0],
        "width": shape[-1],
        "block": block,
        "core": order,
        "scale": float_text(1 / math.sqrt(block)),
        "out": generator.pointer(out),
        "out_stride": shape[-1],
    }
    if order > 1:
        matrix = generator.constant(np.ascontiguousarray(hadamard(order).numpy().astype(np.int8)), "int8_t")
        fields["matrix"] = generator.pointer(matrix)
    signs = call.optional("signs")
    if signs is not None:
        fields["signs"] = generator.pointer(generator.contiguous(generator.operand(signs)))
    generator.call("hadamard", fields, source.shape[0])
    return out


def kronecker(generator: Generator, call: Call) -> Emitted:
    """The last axis as a matrix, a product on either side: first from the left, then from the right."""
    value = generator.contiguous(generator.operand(call.node_at("x")))
    left, right = call.optional("left"), call.optional("right")
    shape = generator.shape(call.node)
    outer = generator.shape(left)[0] if left is not None else shape[-1] // generator.shape(right)[0] if right else 1
    matrices = (value.count // shape[-1], outer, shape[-1] // outer)
    if left is not None:
        factor = generator.settled(generator.operand(left)).permuted((1, 0))
        value = product_of(generator, factor, value.reshaped(matrices) or value)
    if right is not None:
        rows = value.reshaped((matrices[0] * outer, matrices[2])) or value
        value = product_of(generator, rows, generator.settled(generator.operand(right)))
    return value.reshaped(shape) or value


EMITTERS: dict[str, Emitter] = {"qc.hadamard": fast_hadamard, "qc.kronecker": kronecker}
