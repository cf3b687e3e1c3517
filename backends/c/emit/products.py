"""Matrix products, linear layers and convolutions of floats."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.c.emit.dense import Window, bordered, rows_of, window_of
from qcompiler.backends.c.emit.nest import images, looped, moved, place, taps
from qcompiler.backends.c.extent import larger
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.c.value import Value, broadcast, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_PANEL = 16


def conv(generator: Generator, call: Call) -> Emitted:
    """A convolution of one or two spatial axes; weights are constant."""
    weight = weight_of(generator, call)
    rank = weight.ndim - 2
    if rank > 2:
        raise call.unsupported(f"{rank} spatial axes")
    names = ("stride", "padding", "dilation", "groups")
    window = window_of(call, [call.arguments[name] for name in names], weight.shape[2:])
    source = generator.operand(call.node_at("input"))
    if len(source.shape) != weight.ndim:
        raise call.unsupported("an image without a batch axis")
    image = bordered(generator, source, window, 0)
    out = generator.new(generator.shape(call.node), "float", channels_last(rank + 2))
    bias = bias_of(generator, call)
    if window.groups > 1 and weight.shape[1] == 1 and weight.shape[0] == window.groups:
        _convolve(generator, "depthwise_f32", weight, bias, window, image, out)
        return out
    outputs = weight.shape[0] // window.groups
    for group in range(window.groups):
        picked = slice(group * outputs, (group + 1) * outputs)
        inputs = image.sliced(1, group * weight.shape[1], weight.shape[1])
        part = out.sliced(1, group * outputs, outputs)
        shared = bias.sliced(0, group * outputs, outputs) if bias is not None else None
        _convolve(generator, "gemm_f32", weight[picked], shared, window, inputs, part)
    return out


def _convolve(
    generator: Generator, name: str, weight: np.ndarray, bias: Value | None, window: Window, image: Value, out: Value
) -> None:
    ordered, places, depth = _taps(weight, window, image, joined=name == "gemm_f32")
    offsets = taps(generator, places)
    if name == "gemm_f32":
        packed = generator.constant(blocked(ordered, generator.layout(name)), "float")
        shape = {"columns": weight.shape[0], "taps": len(places), "depth": depth}
    else:
        packed = generator.constant(np.ascontiguousarray(ordered.reshape(len(ordered), -1).T), "float")
        shape = {"channels": weight.shape[0], "taps": len(places)}
    space = out.shape[2:]
    count = math.prod(space)
    inner = image.strides[-1] * window.stride[-1]
    outer = image.strides[-2] * window.stride[-2] if len(space) > 1 else 0
    for source, target in images(generator, image, out):
        fields: dict[str, str | int] = {
            "input": source,
            "width": out.shape[-1],
            "inner_stride": inner,
            "outer_stride": outer,
            "offsets": offsets,
            "weight": generator.pointer(packed),
            **shape,
            "bias": generator.pointer(bias) if bias is not None else "NULL",
            "out": target,
            "out_stride": out.strides[-1],
            "low": "-INFINITY",
            "high": "INFINITY",
        }
        generator.call(name, fields, count)


def _taps(weight: np.ndarray, window: Window, image: Value, *, joined: bool) -> tuple[np.ndarray, list[int], int]:
    """Weights as [N, taps, depth], where the taps begin, and their depth; pixels side by side are one tap."""
    channels = weight.shape[1]
    rows, columns = (1, *window.size)[-2:]
    row_step = image.strides[-2] * window.dilation[0] if len(window.size) > 1 else 0
    column_step = image.strides[-1] * window.dilation[-1]
    ordered = np.moveaxis(weight, 1, -1).reshape(weight.shape[0], rows * columns, channels)
    if joined and column_step == channels:
        merged = ordered.reshape(weight.shape[0], rows, columns * channels)
        return merged, [row * row_step for row in range(rows)], columns * channels
    places = [row * row_step + column * column_step for row in range(rows) for column in range(columns)]
    return ordered, places, channels


def linear(generator: Generator, call: Call) -> Emitted:
    """A linear layer; a weight that is not constant is packed while the model runs."""
    node = call.node_at("weight")
    source = rows_of(generator, generator.operand(call.node_at("input")))
    shape = generator.shape(call.node)
    out = generator.new(shape, "float")
    added = _added(generator, call, out)
    rows = math.prod(shape[:-1])
    known = generator.program.constant(node)
    if known is not None:
        packed = generator.constant(
            blocked(known.detach().numpy().astype(np.float32)[:, None], generator.layout("gemm_f32")), "float"
        )
    else:
        matrix = generator.settled(generator.operand(node))
        packed = _pack(generator, matrix.permuted((1, 0)))
    bias = bias_of(generator, call)
    rows_product(generator, source, packed, bias, out, rows, shape[-1], added=added)
    return out


def _added(generator: Generator, call: Call, out: Value) -> Value | None:
    """What a sum that alone reads a layer adds to it, when that lies in memory already: the layer makes the sum."""
    users = list(call.node.users)
    if len(users) != 1 or call.node in generator.program.outputs:
        return None
    (user,) = users
    others = [node for node in user.all_input_nodes if node is not call.node]
    plain = generator.program.op(user) == "aten.add.Tensor" and not user.kwargs and len(others) == 1
    value = generator.bound.get(others[0]) if plain else None
    if not isinstance(value, Value) or value.element != "float" or value.buffer.kind not in ("arena", "input"):
        return None
    if value.shape != out.shape or generator.shape(user) != out.shape or not value.dense:
        return None
    generator.summed[user] = out
    return value


def rows_product(
    generator: Generator,
    source: Value,
    packed: Value,
    bias: Value | None,
    out: Value,
    rows: int,
    columns: int,
    steps: tuple[str, str] = ("0", "0"),
    added: Value | None = None,
) -> None:
    """Rows times packed weights; `steps` move the first row of the source and of the result, which `added` is like."""
    fields: dict[str, str | int] = {
        "input": moved(generator, source, steps[0]),
        "width": larger(rows, 1),
        "inner_stride": source.strides[-2],
        "weight": generator.pointer(packed),
        "columns": columns,
        "taps": 1,
        "depth": source.shape[-1],
        "bias": generator.pointer(bias) if bias is not None else "NULL",
        "out": moved(generator, out, steps[1]),
        "out_stride": columns,
        "low": "-INFINITY",
        "high": "INFINITY",
    }
    if added is not None:
        fields |= {"added": generator.pointer(added), "added_stride": columns}
    generator.call("gemm_f32", fields, rows)


def _pack(generator: Generator, matrix: Value, step: str = "0") -> Value:
    """A matrix [K, N] of activations in the order of weights."""
    depth, columns = matrix.shape
    panels = -(-columns // _PANEL)
    packed = generator.new((panels, depth, _PANEL), "float")
    fields: dict[str, str | int] = {
        "input": moved(generator, matrix, step),
        "depth_stride": matrix.strides[0],
        "column_stride": matrix.strides[1],
        "depth": depth,
        "columns": columns,
        "out": generator.pointer(packed),
    }
    generator.call("pack_f32", fields, panels)
    return packed


def matmul(generator: Generator, call: Call, names: tuple[str, str] = ("self", "other")) -> Emitted:
    """A product of two tensors of matrices, leading axes broadcast."""
    left, right = (generator.settled(generator.operand(call.node_at(name))) for name in names)
    shape = generator.shape(call.node)
    if len(right.shape) == 1:
        right = right.permuted((0,)).reshaped((right.shape[0], 1)) or right
    if len(left.shape) == 1:
        left = left.reshaped((1, left.shape[0])) or left
    known = generator.program.constant(call.node_at(names[1]))
    packed = None
    if known is not None and known.ndim == 2:
        matrix = known.detach().numpy().astype(np.float32).T[:, None]
        packed = generator.constant(blocked(matrix, generator.layout("gemm_f32")), "float")
    out = product_of(generator, left, right, packed)
    return out.reshaped(shape) or out


def product_of(generator: Generator, left: Value, right: Value, packed: Value | None = None) -> Value:
    """Products of matrices [..., M, K] and [..., K, N], leading axes broadcast, one after the other.

    Args:
        generator: takes the calls.
        left: the rows.
        right: the columns.
        packed: `right` in the order of weights, when it is one matrix and known.
    """
    depth, columns = right.shape[-2:]
    if left.strides[-1] != 1 and depth != 1:
        left = generator.copied(left, range(len(left.shape)))
    lead = broadcast(left.shape[:-2], right.shape[:-2])
    shape = (*lead, left.shape[-2], columns)
    if math.prod(right.shape[:-2]) == 1 and (flat := left.reshaped((left.count // max(depth, 1), depth))) is not None:
        left, right, lead = flat, right.reshaped((depth, columns)) or right, ()
    rows = left.shape[-2]
    out = generator.new((*lead, rows, columns), "float")
    left, right = left.expanded((*lead, rows, depth)), right.expanded((*lead, depth, columns))
    one, other, result = (_first(value) for value in (left, right, out))
    counters = [f"b{axis}" for axis in range(len(lead))]
    steps = [place(value, [*counters, "0", "0"]) for value in (left, right, out)]
    with looped(generator, list(zip(counters, lead, strict=True))):
        panels = packed or _pack(generator, other, steps[1])
        rows_product(generator, one, panels, None, result, rows, columns, (steps[0], steps[2]))
    return out.reshaped(shape) or out


def _first(value: Value) -> Value:
    """The first matrix."""
    return Value(value.buffer, value.element, value.shape[-2:], value.strides[-2:], value.offset, value.shift)


def weight_of(generator: Generator, call: Call) -> np.ndarray:
    """The weight of a layer, which must be constant."""
    known = generator.program.constant(call.node_at("weight"))
    if known is None:
        raise call.unsupported("a weight that is not constant")
    return known.detach().numpy().astype(np.float32)


def bias_of(generator: Generator, call: Call) -> Value | None:
    """The bias of a layer, where it has one."""
    node = call.raw("bias")
    return generator.contiguous(generator.operand(node)) if isinstance(node, Node) else None


EMITTERS: dict[str, Emitter] = {
    "aten.conv1d": conv,
    "aten.conv2d": conv,
    "aten.linear": linear,
    "aten.matmul": matmul,
    "aten.bmm": lambda generator, call: matmul(generator, call, ("self", "mat2")),
    "aten.mm": lambda generator, call: matmul(generator, call, ("self", "mat2")),
}
