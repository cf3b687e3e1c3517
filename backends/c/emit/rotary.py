"""Rotary embeddings of heads."""

from __future__ import annotations

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_HEADS_INSIDE = (0, 2, 1, 3)


def rotary(generator: Generator, call: Call) -> Emitted:
    """Heads [batch, heads, length, depth] turned by tables of every place; see `qc_rotary.h`."""
    source = _side_by_side(generator, call, 0)
    batch, heads, length, depth = source.shape
    cos, sin = (_table(_side_by_side(generator, call, i)) for i in (1, 2))
    if cos.strides != sin.strides:
        cos, sin = (generator.copied(each, range(len(each.shape))) for each in (cos, sin))
    out = generator.new(source.shape, "float", _HEADS_INSIDE)
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "input_batch": source.strides[0],
        "input_row": source.strides[2],
        "input_head": source.strides[1],
        "cos": generator.pointer(cos),
        "sin": generator.pointer(sin),
        "table_batch": cos.strides[0] if cos.shape[0] != 1 else 0,
        "table_row": cos.strides[2],
        "length": length,
        "heads": heads,
        "depth": depth,
        "out": generator.pointer(out),
        "out_batch": out.strides[0],
        "out_row": out.strides[2],
        "out_head": out.strides[1],
    }
    generator.call("rotary", fields, batch * length)
    return out


def _side_by_side(generator: Generator, call: Call, position: int) -> Value:
    """An argument whose last axis has no gaps."""
    node = call.inputs[position]
    if not isinstance(node, Node):
        raise call.unsupported("its operands are not tensors")
    value = generator.settled(generator.operand(node))
    return value if value.strides[-1] == 1 else generator.copied(value, range(len(value.shape)))


def _table(value: Value) -> Value:
    """A table [batch or 1, 1, length, depth]."""
    return value.expanded((*[1] * (4 - len(value.shape)), *value.shape))


KERNELS: dict[str, Emitter] = {"rotary_heads": rotary}
