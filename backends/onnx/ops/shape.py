"""Operators that move elements without computing: reshapes, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call, static_size
from qcompiler.backends.onnx.context import Attribute, Context, Emitted, Emitter
from qcompiler.ir.program import Node

_TO_END = 2**63 - 1
_TO_START = -(2**63)


def _reshape(context: Context, call: Call) -> ir.Value:
    value = context.value(call.node_at("self"))
    return context.reshape(value, call.shape("self"), call.type.shape, call.sizes("shape"))


def _permute(context: Context, call: Call) -> ir.Value:
    return context.op("Transpose", [context.value(call.node_at("self"))], {"perm": call.axes("dims", call.type.rank)})


def _unsqueeze(context: Context, call: Call) -> ir.Value:
    axis = call.axis("dim", call.type.rank)
    return context.op("Unsqueeze", [context.value(call.node_at("self")), context.ints([axis])])


def _squeeze(context: Context, call: Call) -> ir.Value:
    shape = call.shape("self")
    axes = [axis for axis in call.axes("dim", len(shape)) if shape[axis] == 1]
    value = context.value(call.node_at("self"))
    return context.op("Squeeze", [value, context.ints(axes)]) if axes else context.op("Identity", [value])


def _expand(context: Context, call: Call) -> ir.Value:
    before, after, sizes = call.shape("self"), call.type.shape, call.sizes("size")
    added = len(after) - len(before)
    target = [
        1 if axis >= added and before[axis - added] == dim else dim if isinstance(dim, int) else sizes[axis]
        for axis, dim in enumerate(after)
    ]
    return context.op("Expand", [context.value(call.node_at("self")), context.sizes(target)])


def _concatenate(context: Context, call: Call) -> ir.Value:
    nodes = [node for node in call.nodes("tensors") if node is not None and context.program.shape(node) != (0,)]
    values = [context.operand(node, call.type.dtype) for node in nodes]
    return context.op("Concat", values, {"axis": call.axis("dim", call.type.rank)})


def _stack(context: Context, call: Call) -> ir.Value:
    axis = call.axis("dim", call.type.rank)
    parts = [
        context.op("Unsqueeze", [context.operand(node, call.type.dtype), context.ints([axis])])
        for node in call.nodes("tensors")
        if node is not None
    ]
    return context.op("Concat", parts, {"axis": axis})


def _split(context: Context, call: Call) -> Emitted:
    sizes = context.sizes(call.sizes("split_sizes"))
    attributes = {"axis": call.axis("dim", len(call.shape("self")))}
    value = context.value(call.node_at("self"))
    return context.ops("Split", [value, sizes], attributes, outputs=len(call.types))


def cut(
    context: Context,
    value: ir.Value,
    axis: int,
    start: int | Node | ir.Value,
    end: int | Node | ir.Value,
    step: int = 1,
) -> ir.Value:
    """Part of a tensor along one axis."""
    bounds = [context.vector(start), context.vector(end), context.ints([axis]), context.ints([step])]
    return context.op("Slice", [value, *bounds])


def _slice(context: Context, call: Call) -> ir.Value:
    axis = call.axis("dim", len(call.shape("self")))
    start, end = call.size("start", 0), call.size("end", _TO_END)
    first = _first_of_sorted(context, call.node_at("self"), axis, end) if start == 0 and end != _TO_END else None
    if first is not None and call.integer("step") == 1:
        return first
    return cut(context, context.value(call.node_at("self")), axis, start, end, call.integer("step"))


def _first_of_sorted(context: Context, node: Node, axis: int, count: int | Node) -> ir.Value | None:
    """The first elements of a sorted axis as TopK, which need not sort the others; None for anything else."""
    source, which = (*node.args, None, None)[:2]
    if not isinstance(source, Node) or context.program.op(source) not in _SORTS or not isinstance(count, int):
        return None
    sort = Call(source, context.program.op(source), context.program.bind(source))
    shape = sort.shape("self")
    size = shape[axis]
    if sort.axis("dim", len(shape)) != axis or not isinstance(size, int) or not 0 < count <= size:
        return None
    attributes: dict[str, Attribute] = {"axis": axis, "largest": int(sort.flag("descending")), "sorted": 1}
    made: list[ir.Value] = []

    def part(index: int) -> ir.Value:
        if not made:
            made.extend(
                context.ops("TopK", [context.value(sort.node_at("self")), context.ints([count])], attributes, outputs=2)
            )
        return made[index]

    values = [context.memo(("first", source, count, index), lambda index=index: part(index)) for index in (0, 1)]
    return values[which] if isinstance(which, int) else None


def _select(context: Context, call: Call) -> ir.Value:
    axis = call.axis("dim", len(call.shape("self")))
    index = context.operand(call.raw("index"), torch.int64)
    return context.op("Gather", [context.value(call.node_at("self")), index], {"axis": axis})


def _slice_scatter(context: Context, call: Call) -> ir.Value:
    if call.integer("step") != 1:
        raise call.unsupported("a step between the written elements")
    axis = call.axis("dim", len(call.shape("self")))
    value, source = context.value(call.node_at("self")), context.value(call.node_at("src"))
    start, end = call.size("start", 0), call.size("end", _TO_END)
    return context.op(
        "Concat",
        [cut(context, value, axis, 0, start), source, cut(context, value, axis, end, _TO_END)],
        {"axis": axis},
    )


def onnx_pads(pads: Sequence[int | Node], rank: int) -> list[int | Node]:
    """Torch lists pads from the last axis backwards, ONNX all begins and then all ends.

    All axes are listed: ONNX Runtime's layout pass permutes the pads as if they were, and gets the `axes` form wrong.
    """
    untouched: list[int | Node] = [0] * (rank - len(pads) // 2)
    return [*untouched, *reversed(pads[::2]), *untouched, *reversed(pads[1::2])]


_SORTS = ("aten.sort", "aten.sort.stable")
_MAX_POOLS = frozenset(f"aten.max_pool{count}d" for count in (1, 2, 3))


def _pad(mode: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        pads = call.sizes("pad" if mode == "constant" else "padding")
        inputs = [context.value(call.node_at("self")), context.sizes(onnx_pads(pads, call.type.rank))]
        if mode == "constant":
            inputs.append(context.operand(call.raw("value"), call.type.dtype))
            if any(context.program.op(user) in _MAX_POOLS for user in call.node.users):
                # With its axes named, ONNX Runtime merges no zeros into a max pool, which pads with minus infinity.
                inputs.append(context.ints(range(call.type.rank)))
        return context.op("Pad", inputs, {"mode": mode})

    return emit


def _repeat(context: Context, call: Call) -> ir.Value:
    repeats = call.sizes("repeats")
    value = context.value(call.node_at("self"))
    added = len(repeats) - len(call.shape("self"))
    if added:
        value = context.op("Unsqueeze", [value, context.ints(range(added))])
    return context.op("Tile", [value, context.sizes(repeats)])


def repeat_each(context: Context, node: Node, axis: int, count: int) -> ir.Value:
    """A tensor with every slice along one axis standing `count` times in a row."""
    shape = context.program.shape(node)
    grouped = context.op("Unsqueeze", [context.value(node), context.ints([axis + 1])])
    copies = context.op("Expand", [grouped, context.ints([count] + [1] * (len(shape) - axis - 1))])
    sizes = [context.size(node, later) for later in range(axis + 1, len(shape))]
    length = shape[axis]
    # A leading 0 copies a dimension; at most one of those behind may be inferred.
    target = [*[0] * axis, length * count if isinstance(length, int) else -1, *sizes]
    return context.op("Reshape", [copies, context.sizes(target)])


def _repeat_interleave(context: Context, call: Call) -> ir.Value:
    if call.raw("dim") is None:
        raise call.unsupported("repeating the elements of the flattened tensor", "reshape to one axis and name it")
    axis = call.axis("dim", len(call.shape("self")))
    return repeat_each(context, call.node_at("self"), axis, call.integer("repeats"))


def _flip(context: Context, call: Call) -> ir.Value:
    axes = call.axes("dims", call.type.rank)
    bounds = [context.ints([size] * len(axes)) for size in (-1, _TO_START)]
    return context.op(
        "Slice",
        [context.value(call.node_at("self")), *bounds, context.ints(axes), context.ints([-1] * len(axes))],
    )


def _roll(context: Context, call: Call) -> ir.Value:
    axes, shifts = call.integers("dims"), call.sizes("shifts")
    value = context.value(call.node_at("self"))
    shape = call.shape("self")
    if axes:
        for axis, shift in zip(axes, shifts, strict=True):
            axis = axis % len(shape)
            value = _rolled(context, call, value, axis, shift, shape[axis])
        return value
    flat = context.op("Reshape", [value, context.ints([-1])])
    total = 1
    for dim in shape:
        total = total * dim
    rolled = _rolled(context, call, flat, 0, shifts[0], total)
    return context.op("Reshape", [rolled, context.shared("Shape", [value])])


def _rolled(context: Context, call: Call, value: ir.Value, axis: int, shift: int | Node, size: object) -> ir.Value:
    if not isinstance(shift, int):
        raise call.unsupported("the shift is symbolic")
    if isinstance(size, int):
        shift %= max(size, 1)
    if shift == 0:
        return value
    tail = cut(context, value, axis, -shift, _TO_END)
    return context.op("Concat", [tail, cut(context, value, axis, 0, -shift)], {"axis": axis})


def _pixel_shuffle(context: Context, call: Call) -> ir.Value:
    if call.type.rank != 4:
        raise call.unsupported("an input that is not [N, C, H, W]", "reshape to four axes")
    factor = call.integer("upscale_factor")
    return context.op("DepthToSpace", [context.value(call.node_at("self"))], {"blocksize": factor, "mode": "CRD"})


def _pixel_unshuffle(context: Context, call: Call) -> ir.Value:
    """Torch puts the offsets behind the channel, ONNX `SpaceToDepth` before it: swapped afterwards."""
    shape, factor = call.shape("self"), call.integer("downscale_factor")
    if len(shape) != 4 or not isinstance(shape[1], int):
        raise call.unsupported("an input that is not [N, C, H, W] with static C", "reshape to four axes")
    value = context.op("SpaceToDepth", [context.value(call.node_at("self"))], {"blocksize": factor})
    pixels = context.op("Reshape", [value, context.ints([0, factor * factor, shape[1], -1])])
    swapped = context.op("Transpose", [pixels], {"perm": [0, 2, 1, 3]})
    return context.op("Reshape", [swapped, context.op("Shape", [value])])


def _triangle(*, upper: bool) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        diagonal = static_size(call.raw("diagonal"))
        offset = (
            context.scalar(diagonal, torch.int64)
            if isinstance(diagonal, int)
            else context.operand(diagonal, torch.int64)
        )
        return context.op("Trilu", [context.value(call.node_at("self")), offset], {"upper": int(upper)})

    return emit


EMITTERS: dict[str, Emitter] = {
    "aten.reshape": _reshape,
    "aten.permute": _permute,
    "aten.unsqueeze": _unsqueeze,
    "aten.squeeze": _squeeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze,
    "aten.expand": _expand,
    "aten.cat": _concatenate,
    "aten.stack": _stack,
    "aten.split_with_sizes": _split,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.slice_scatter": _slice_scatter,
    "aten.constant_pad_nd": _pad("constant"),
    **{f"aten.reflection_pad{rank}d": _pad("reflect") for rank in (1, 2, 3)},
    **{f"aten.replication_pad{rank}d": _pad("edge") for rank in (1, 2, 3)},
    "aten.repeat": _repeat,
    "aten.repeat_interleave.self_int": _repeat_interleave,
    "aten.flip": _flip,
    "aten.roll": _roll,
    "aten.pixel_shuffle": _pixel_shuffle,
    "aten.pixel_unshuffle": _pixel_unshuffle,
    "aten.tril": _triangle(upper=False),
    "aten.triu": _triangle(upper=True),
}
