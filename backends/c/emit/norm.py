"""Norms and softmax over rows."""

from __future__ import annotations

import math

from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_SINGLE_EPSILON = 1.1920928955078125e-07
_LANES = 16


def _vector(generator: Generator, call: Call, name: str) -> str:
    node = call.raw(name)
    return generator.pointer(generator.contiguous(generator.operand(node))) if isinstance(node, Node) else "NULL"


def layer_norm(generator: Generator, call: Call) -> Emitted:
    """Rows brought to mean 0 and variance 1."""
    return _normalized(generator, call, call.integers("normalized_shape"), centred=True)


def rms_norm(generator: Generator, call: Call) -> Emitted:
    """Rows divided by their root mean square."""
    return _normalized(generator, call, call.integers("normalized_shape"), centred=False)


def _normalized(generator: Generator, call: Call, over: list[int], *, centred: bool) -> Emitted:
    shape = generator.shape(call.node)
    width = math.prod(over)
    source = generator.contiguous(generator.operand(call.node_at("input")))
    flat = rows_of(generator, source.reshaped((source.count // width, width)) or source)
    out = generator.new(shape, "float")
    fields: dict[str, str | int] = {
        "input": generator.pointer(flat),
        "input_stride": flat.strides[0],
        "width": width,
        "centred": int(centred),
        "eps": float_text(call.number("eps", _SINGLE_EPSILON)),
        "weight": _vector(generator, call, "weight"),
        "bias": _vector(generator, call, "bias") if centred else "NULL",
        "out": generator.pointer(out),
        "out_stride": width,
    }
    generator.call("norm", fields, flat.shape[0])
    return out


def group_norm(generator: Generator, call: Call) -> Emitted:
    """Groups of channels of every image brought to mean 0 and variance 1, then scaled by channel."""
    return _by_group(generator, call, call.integer("num_groups"))


def instance_norm(generator: Generator, call: Call) -> Emitted:
    """Every channel of every image on its own."""
    if call.raw("running_mean") is not None:
        raise call.unsupported("running statistics")
    return _by_group(generator, call, generator.shape(call.node)[1])


def _by_group(generator: Generator, call: Call, groups: int) -> Emitted:
    shape = generator.shape(call.node)
    order = channels_last(len(shape))
    source = generator.settled(generator.operand(call.node_at("input")), order)
    if source.buffer.kind == "input" or not source.permuted(order).dense:
        source = generator.copied(source, order)
    images, channels = shape[:2]
    out = generator.new(shape, "float", order)
    scratch = generator.new((images, 2, -(-channels // _LANES) * _LANES), "float")
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "positions": math.prod(shape[2:]),
        "channels": channels,
        "groups": groups,
        "eps": float_text(call.number("eps")),
        "weight": _vector(generator, call, "weight"),
        "bias": _vector(generator, call, "bias"),
        "scratch": generator.pointer(scratch),
        "out": generator.pointer(out),
    }
    generator.call("group_norm", fields, images)
    return out


def softmax(generator: Generator, call: Call, logarithm: int = 0) -> Emitted:
    """Softmax, or its logarithm, along an axis, which is brought to the end when it is not there."""
    value = generator.settled(generator.operand(call.node_at("self")))
    axis = call.axis("dim", len(value.shape))
    axes = [i for i in range(len(value.shape)) if i != axis] + [axis]
    moved = generator.contiguous(value.permuted(axes))
    width = moved.shape[-1]
    out = generator.new(moved.shape, "float")
    fields: dict[str, str | int] = {
        "input": generator.pointer(moved),
        "input_stride": width,
        "width": width,
        "logarithm": logarithm,
        "out": generator.pointer(out),
        "out_stride": width,
    }
    generator.call("softmax", fields, moved.count // width)
    return out.permuted([axes.index(i) for i in range(len(axes))])


EMITTERS: dict[str, Emitter] = {
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": rms_norm,
    "aten.group_norm": group_norm,
    "aten.instance_norm": instance_norm,
    "aten.softmax.int": softmax,
    "aten.log_softmax.int": lambda generator, call: softmax(generator, call, 1),
}
