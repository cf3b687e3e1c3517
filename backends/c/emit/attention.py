"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_RANK = 4
_HEADS_INSIDE = (0, 2, 1, 3)
"""Results lie as [batch, length, heads, width], so that heads side by side are one vector of the next layer."""


def attention(generator: Generator, call: Call) -> Emitted:
    """`softmax(q k^T scale + mask) v` for every head; heads of keys may be shared by neighbouring ones of queries."""
    if call.number("dropout_p", 0.0):
        raise call.unsupported("dropout", "put the model in eval mode")
    shape = generator.shape(call.node)
    query, key, value = (_heads(generator, call, name) for name in ("query", "key", "value"))
    lead = shape[:-2] if len(shape) >= _RANK else (*[1] * (_RANK - len(shape)), *shape[:-2])
    batch, heads = math.prod(lead[:-1]), lead[-1]
    key_heads = key.shape[1] if call.flag("enable_gqa") else heads
    out = generator.new((batch, heads, *shape[-2:]), "float", _HEADS_INSIDE)
    length, depth = query.shape[-2:]
    fields: dict[str, str | int] = {}
    for name, each in (("query", query), ("key", key), ("value", value)):
        wide = each.expanded((batch, heads if name == "query" else key_heads, *each.shape[2:]))
        fields |= _places(generator, name, wide)
    fields |= _places(generator, "out", out)
    mask = call.optional("attn_mask")
    if mask is not None:
        fields |= _mask(generator, call, mask, (batch, heads, length, key.shape[2]))
    fields |= {
        "key_heads": key_heads,
        "shared": heads // key_heads,
        "length": length,
        "keys": key.shape[2],
        "depth": depth,
        "width": shape[-1],
        "causal": int(call.flag("is_causal")),
        "scale": float_text(call.number("scale", 1 / math.sqrt(depth))),
    }
    tasks = f"QC_ATTENTION_TASKS({batch}, {key_heads}, {heads // key_heads}, {length})"
    generator.call("attention", fields, tasks)
    return out.reshaped(shape) or generator.contiguous(out).reshaped(shape) or out


def _heads(generator: Generator, call: Call, name: str) -> Value:
    """Queries, keys or values as [batch, heads, length, width], floats of a row side by side."""
    value = generator.settled(generator.operand(call.node_at(name)))
    if value.element != "float":
        raise call.unsupported(f"'{name}' of {value.element}")
    if value.buffer.kind == "input" or (value.strides[-1] != 1 and value.shape[-1] != 1):
        value = generator.copied(value, range(len(value.shape)))
    return _four_axes(generator, value)


def _four_axes(generator: Generator, value: Value) -> Value:
    """Axes of one element in front, or leading axes merged."""
    missing = _RANK - len(value.shape)
    if missing >= 0:
        return replace(value, shape=(*[1] * missing, *value.shape), strides=(*[0] * missing, *value.strides), border=0)
    shape = (math.prod(value.shape[:-3]), *value.shape[-3:])
    return value.reshaped(shape) or generator.copied(value, range(len(value.shape))).reshaped(shape) or value


def _mask(generator: Generator, call: Call, node: Node, shape: Sequence[int]) -> dict[str, str]:
    """A number added to every score, or whether a key is seen at all."""
    value = generator.settled(generator.operand(node))
    name = {"float": "mask", "uint8_t": "keep"}.get(value.element)
    if name is None:
        raise call.unsupported(f"a mask of {value.element}")
    if len(value.shape) > _RANK:
        value = _four_axes(generator, generator.copied(value, range(len(value.shape))))
    wide = value.expanded(shape)
    if wide.strides[-1] != 1 and shape[-1] != 1:
        wide = generator.copied(value.expanded((*value.shape[:-1], shape[-1])), range(len(value.shape))).expanded(shape)
    return _places(generator, name, wide)


def _places(generator: Generator, name: str, value: Value) -> dict[str, str]:
    """Where heads lie, and the steps between them; axes of one element need none."""
    steps = [stride if size != 1 else 0 for size, stride in zip(value.shape, value.strides, strict=True)]
    address = "out" if name == "out" else name
    return {address: generator.pointer(value), f"{name}_steps": f"{{{steps[0]}, {steps[1]}, {steps[2]}}}"}


EMITTERS: dict[str, Emitter] = {"aten.scaled_dot_product_attention": attention}
