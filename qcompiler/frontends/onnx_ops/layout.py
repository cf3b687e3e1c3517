"""ONNX operators that move data without changing it: reshapes, transposes, slices, pads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import sympy
import torch

from qcompiler.errors import VerifyError
from qcompiler.frontends.onnx_ops.context import OpContext, Result, Size, floor_divide
from qcompiler.frontends.onnx_ops.sliced import has_data_bounds, slice_by_data
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim

Operator = Callable[[OpContext], Result]


def reshape(ctx: OpContext) -> Result:
    """Reshape: 0 copies a dimension (unless `allowzero`), -1 is inferred."""
    x = ctx.tensor(0)
    wanted = ctx.dims(1, "the shape") if ctx.version >= 5 else list(ctx.integers("shape") or [])
    if not ctx.integer("allowzero", 0):
        wanted = [ctx.shape(x)[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    return _reshape(ctx, x, wanted)


def _reshape(ctx: OpContext, x: Node, wanted: Sequence[Dim]) -> Node:
    if tuple(wanted) == ctx.shape(x):
        return x
    return ctx.call("aten.reshape", x, [ctx.size(dim) for dim in wanted])


def flatten(ctx: OpContext) -> Result:
    """Flatten to two axes."""
    x = ctx.tensor(0)
    shape = ctx.shape(x)
    axis = ctx.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    left, right = (sympy.sympify(math.prod(part)) for part in (shape[:axis], shape[axis:]))
    if not left.is_Integer and not right.is_Integer:
        return _reshape(ctx, x, [left, -1])
    return _reshape(ctx, x, [int(dim) if dim.is_Integer else -1 for dim in (left, right)])


def transpose(ctx: OpContext) -> Result:
    """Transpose; reverses all axes without `perm`."""
    x = ctx.tensor(0)
    order = ctx.integers("perm") or list(reversed(range(ctx.rank(x))))
    return x if order == sorted(order) else ctx.call("aten.permute", x, order)


def axes_of(ctx: OpContext, since: int, index: int = 1) -> list[int] | None:
    """The axes of a node: an attribute before opset `since`, input `index` from then on; None when not given."""
    if ctx.version < since or ctx.attribute("axes"):
        return ctx.integers("axes")
    return ctx.ints(index, "the axes") if ctx.has(index) else None


def squeeze(ctx: OpContext) -> Result:
    """Squeeze: the given axes, or all of size one."""
    x = ctx.tensor(0)
    axes = axes_of(ctx, 13)
    if axes is None:
        axes = [axis for axis, dim in enumerate(ctx.shape(x)) if dim == 1]
    axes = sorted(ctx.axis(axis, ctx.rank(x)) for axis in axes)
    wrong = [axis for axis in axes if isinstance(ctx.shape(x)[axis], int) and ctx.shape(x)[axis] != 1]
    if wrong:
        raise VerifyError(f"axis {wrong[0]} has size {ctx.shape(x)[wrong[0]]}, and only axes of size 1 can be squeezed")
    if all(isinstance(ctx.shape(x)[axis], int) for axis in axes):
        return ctx.call("aten.squeeze.dims", x, axes) if axes else x
    # a free size can only be 1 where the model runs
    for axis in reversed(axes):
        x = ctx.call("aten.select.int", x, axis, 0)
    return x


def unsqueeze(ctx: OpContext) -> Result:
    """Unsqueeze, one axis at a time; axes count in the result."""
    x = ctx.tensor(0)
    axes = axes_of(ctx, 13) or []
    rank = ctx.rank(x) + len(axes)
    for axis in sorted(ctx.axis(axis, rank) for axis in axes):
        x = ctx.call("aten.unsqueeze", x, axis)
    return x


def expand(ctx: OpContext) -> Result:
    """Expand: broadcasts both ways, so a wanted 1 keeps the input's dimension."""
    x, wanted = ctx.tensor(0), ctx.dims(1, "the shape")
    shape = ctx.shape(x)
    rank = max(len(shape), len(wanted))
    shape, wanted = (1,) * (rank - len(shape)) + shape, [1] * (rank - len(wanted)) + wanted
    target = [have if want == 1 or want == have else want for have, want in zip(shape, wanted, strict=True)]
    if tuple(target) == ctx.shape(x):
        return x
    kept = [
        -1 if dim == have and rank == ctx.rank(x) else ctx.size(dim) for dim, have in zip(target, shape, strict=True)
    ]
    return ctx.call("aten.expand", x, kept)


def concat(ctx: OpContext) -> Result:
    """Concat."""
    parts = ctx.tensors()
    if len(parts) == 1:
        return parts[0]
    return ctx.call("aten.cat", parts, ctx.axis(ctx.integer("axis", 1), ctx.rank(parts[0])))


def split(ctx: OpContext) -> Result:
    """Split into given sizes, or into equal parts of which the last may be smaller."""
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.integer("axis", 0), ctx.rank(x))
    count = len(ctx.node.outputs)
    sizes: Sequence[Dim] | None = ctx.integers("split")
    if sizes is None and ctx.has(1):
        sizes = ctx.dims(1, "the part sizes")
    if sizes is None:
        whole = ctx.static(ctx.shape(x)[axis], "an axis that is split into equal parts")
        each = -(-whole // count)
        sizes = [min(each, max(whole - each * part, 0)) for part in range(count)]
    if count == 1:
        return [x]
    return ctx.items(ctx.call("aten.split_with_sizes", x, [ctx.size(size) for size in sizes], axis), count)


def slice_(ctx: OpContext) -> Result:
    """Slice along any axes, forwards or backwards."""
    x = ctx.tensor(0)
    if ctx.version >= 10 and has_data_bounds(ctx):
        return slice_by_data(ctx)
    if ctx.version < 10:
        starts, ends = ctx.integers("starts") or [], ctx.integers("ends") or []
        axes = ctx.integers("axes") or list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts, ends = ctx.dims(1, "the starts"), ctx.dims(2, "the ends")
        axes = ctx.ints(3, "the axes") if ctx.has(3) else list(range(len(starts)))
        steps = ctx.ints(4, "the steps") if ctx.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _slice(ctx, x, start, end, ctx.axis(axis, ctx.rank(x)), step)
    return x


def _slice(ctx: OpContext, x: Node, start: Dim, end: Dim, axis: int, step: int) -> Node:
    size = ctx.shape(x)[axis]
    if step > 0:
        if start == 0 and step == 1 and (end == size or (isinstance(end, int) and end >= 2**31 - 1)):
            return x
        return ctx.call("aten.slice.Tensor", x, axis, ctx.size(start), ctx.size(end), step)
    flipped = ctx.call("aten.flip", x, [axis])
    if isinstance(size, int):
        first, last, _ = slice(int(start), int(end), step).indices(size)
        start, end = size - 1 - first, size - 1 - last
    elif start == -1 and isinstance(end, int) and end <= -(2**31) + 1:
        start, end = 0, 2**63 - 1
    else:
        raise ctx.refuse("a backward slice of a symbolic axis must cover all of it")
    if start == 0 and step == -1 and (end == size or not isinstance(size, int)):
        return flipped
    return ctx.call("aten.slice.Tensor", flipped, axis, start, end, -step)


def tile(ctx: OpContext) -> Result:
    """Tile."""
    x, repeats = ctx.tensor(0), ctx.dims(1, "the repeats")
    return (
        x
        if all(count == 1 for count in repeats)
        else ctx.call("aten.repeat", x, [ctx.size(count) for count in repeats])
    )


def pad(ctx: OpContext) -> Result:
    """Pad with a constant, by reflection, or with the edge."""
    x = ctx.tensor(0)
    rank = ctx.rank(x)
    if ctx.version < 11:
        pads: Sequence[Dim] = ctx.integers("pads") or []
        value = ctx.real("value", 0.0)
    else:
        pads = ctx.dims(1, "the pads")
        known = ctx.known(2)
        value = known.item() if known is not None else 0
    axes = ctx.ints(3, "the axes") if ctx.has(3) else list(range(rank))
    pairs: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        pairs[ctx.axis(axis, rank)] = (pads[position], pads[len(axes) + position])
    while pairs and pairs[0] == (0, 0):
        pairs.pop(0)
    if not pairs:
        return x
    sizes, mode = [ctx.size(size) for pair in reversed(pairs) for size in pair], ctx.word("mode", "constant")
    if mode == "constant" and ctx.version >= 11 and ctx.has(2) and ctx.known(2) is None:
        return _pad_with(ctx, x, sizes)
    if mode == "wrap" or (mode != "constant" and (len(pairs) > 3 or rank - len(pairs) > 2)):
        return _pad_by_index(ctx, x, pairs, mode)
    return _pad(ctx, x, sizes, mode, value)


def _pad_with(ctx: OpContext, x: Node, sizes: list[Size]) -> Node:
    """Pads with a value that is computed."""
    inside = ctx.call("aten.full_like", x, 1, kwargs={"dtype": torch.bool})
    kept, padded = (ctx.call("aten.constant_pad_nd", node, sizes, 0) for node in (inside, x))
    value = ctx.call("aten.reshape", ctx.tensor(2), [])
    return ctx.call("aten.where.self", kept, padded, value)


def _pad_by_index(ctx: OpContext, x: Node, pairs: list[tuple[Dim, Dim]], mode: str) -> Node:
    """Pads of fixed size over any axes: each axis is picked again by constant positions."""
    for axis, pair in enumerate(pairs, ctx.rank(x) - len(pairs)):
        size = ctx.static(ctx.shape(x)[axis], "a padded axis")
        begin, end = (ctx.static(item, "padding in this mode") for item in pair)
        places = torch.arange(-begin, size + end)
        if mode == "wrap":
            places = places % size
        elif mode == "edge":
            places = places.clamp(0, size - 1)
        else:
            places = (places.abs() if size > 1 else places * 0) % max(2 * size - 2, 1)
            places = torch.minimum(places, max(2 * size - 2, 0) - places) if size > 1 else places
        x = ctx.call("aten.index_select", x, axis, ctx.fixed(f"{ctx.name}_places{axis}", places))
    return x


def _pad(ctx: OpContext, x: Node, pads: list[Size], mode: str, value: float) -> Node:
    if mode == "constant":
        return ctx.call("aten.constant_pad_nd", x, pads, value)
    names = {"reflect": "reflection_pad", "edge": "replication_pad"}
    axes = len(pads) // 2
    if mode not in names:
        raise ctx.refuse(f"mode '{mode}' is not supported")
    rank = ctx.rank(x)
    if rank in (axes + 1, axes + 2):
        return ctx.call(f"aten.{names[mode]}{axes}d", x, pads)
    if rank == axes:
        return ctx.call(
            "aten.squeeze.dims", ctx.call(f"aten.{names[mode]}{axes}d", ctx.call("aten.unsqueeze", x, 0), pads), [0]
        )
    raise ctx.refuse(f"mode '{mode}' over {axes} of {rank} axes is not supported")


def depth_to_space(ctx: OpContext) -> Result:
    """DepthToSpace: blocks from consecutive channels (CRD) or from far ones (DCR)."""
    x, block = ctx.tensor(0), ctx.integer("blocksize")
    if ctx.word("mode", "DCR") == "CRD":
        return ctx.call("aten.pixel_shuffle", x, block)
    batch, channels, height, width = ctx.shape(x)
    depth = ctx.static(channels, "the channel axis") // (block * block)
    split_up = _reshape(ctx, x, [batch, block, block, depth, height, width])
    woven = ctx.call("aten.permute", split_up, [0, 3, 4, 1, 5, 2])
    return _reshape(ctx, woven, [batch, depth, height * block, width * block])


def space_to_depth(ctx: OpContext) -> Result:
    """SpaceToDepth."""
    x, block = ctx.tensor(0), ctx.integer("blocksize")
    batch, channels, height, width = ctx.shape(x)
    rows, columns = (floor_divide(dim, block) for dim in (height, width))
    split_up = _reshape(ctx, x, [batch, channels, rows, block, columns, block])
    gathered = ctx.call("aten.permute", split_up, [0, 3, 5, 1, 2, 4])
    return _reshape(ctx, gathered, [batch, channels * block * block, rows, columns])


def trilu(ctx: OpContext) -> Result:
    """Trilu: the upper or lower triangle."""
    diagonal = ctx.ints(1, "the diagonal")[0] if ctx.has(1) else 0
    return ctx.call("aten.triu" if ctx.integer("upper", 1) else "aten.tril", ctx.tensor(0), diagonal)


def identity(ctx: OpContext) -> Result:
    """Identity."""
    return ctx.value(0)


def dropout(ctx: OpContext) -> Result:
    """Dropout in inference."""
    training = ctx.known(2)
    if ctx.has(2) and (training is None or bool(training)):
        raise ctx.refuse("training mode is not supported", mend="export the model in eval mode")
    if len(ctx.node.outputs) == 1:
        return [ctx.value(0)]
    kept = ctx.call("aten.full_like", ctx.tensor(0), 1, kwargs={"dtype": torch.bool})
    return [ctx.value(0), kept]


LAYOUT: dict[str, Operator] = {
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Identity": identity,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
