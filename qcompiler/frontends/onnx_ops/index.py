"""ONNX operators that pick or place elements by index."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(ctx: OpContext) -> Result:
    """Gather along one axis: a table lookup, a selection, or general indexing."""
    indices = ctx.known(1)
    if indices is not None:
        return _gather_known(ctx, indices)
    data = ctx.known(0)
    axis = ctx.integer("axis", 0)
    picked = ctx.tensor(1)
    table = ctx.tensor(0)
    axis = ctx.axis(axis, ctx.rank(table))
    if data is not None and data.dim() == 2 and data.is_floating_point() and axis == 0:
        return ctx.call("aten.embedding", table, picked)
    return ctx.call("aten.index.Tensor", table, [None] * axis + [picked])


def _gather_known(ctx: OpContext, indices: torch.Tensor) -> Node:
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.integer("axis", 0), ctx.rank(x))
    if indices.dim() == 0:
        return ctx.call("aten.select.int", x, axis, int(indices))
    size = ctx.shape(x)[axis]
    if bool((indices < 0).any()):
        if not isinstance(size, int):
            return ctx.call("aten.index.Tensor", x, [None] * axis + [ctx.tensor(1)])
        indices = torch.where(indices < 0, indices + size, indices)
    if indices.dim() == 1:
        return ctx.call("aten.index_select", x, axis, ctx.reform(1, f"wrapped{size}", indices))
    return ctx.call("aten.index.Tensor", x, [None] * axis + [ctx.reform(1, f"wrapped{size}", indices)])


def gather_elements(ctx: OpContext) -> Result:
    """GatherElements."""
    x, axis = ctx.tensor(0), ctx.integer("axis", 0)
    axis = ctx.axis(axis, ctx.rank(x))
    return ctx.call("aten.gather", x, axis, _wrapped(ctx, 1, x, axis))


def _wrapped(ctx: OpContext, index: int, x: Node, axis: int) -> Node:
    """Indices that count from the front."""
    indices, size = ctx.known(index), ctx.shape(x)[axis]
    if indices is not None and not bool((indices < 0).any()):
        return ctx.cast(ctx.tensor(index), torch.int64)
    if indices is not None and isinstance(size, int):
        return ctx.reform(index, f"wrapped{size}", torch.where(indices < 0, indices + size, indices).long())
    node = ctx.cast(ctx.tensor(index), torch.int64)
    behind = ctx.call("aten.lt.Scalar", node, 0)
    return ctx.call("aten.where.self", behind, ctx.call("aten.add.Tensor", node, ctx.size(size)), node)


def _coordinates(ctx: OpContext, indices: Node) -> list[Node]:
    indices = ctx.cast(indices, torch.int64)
    depth = ctx.static(ctx.shape(indices)[-1], "the length of an index tuple")
    last = ctx.rank(indices) - 1
    return [ctx.call("aten.select.int", indices, last, position) for position in range(depth)]


def gather_nd(ctx: OpContext) -> Result:
    """GatherND; batch axes are indexed by their own positions."""
    x, indices = ctx.tensor(0), ctx.tensor(1)
    batch = ctx.integer("batch_dims", 0)
    coordinates = _coordinates(ctx, indices)
    trailing = ctx.rank(indices) - 1
    positions = [
        _positions(ctx, ctx.static(ctx.shape(x)[axis], "a batch axis"), axis, trailing) for axis in range(batch)
    ]
    return ctx.call("aten.index.Tensor", x, [*positions, *coordinates])


def _positions(ctx: OpContext, size: int, axis: int, rank: int) -> Node:
    """`0, 1, 2, ...` along one axis of a tensor with `rank` axes."""
    shape = [size if other == axis else 1 for other in range(rank)]
    return ctx.fixed(f"{ctx.name}_positions{axis}", torch.arange(size).reshape(shape))


def scatter_nd(ctx: OpContext) -> Result:
    """ScatterND: overwrites, or combines with what is there."""
    reduction = ctx.word("reduction", "none")
    coordinates = _coordinates(ctx, ctx.tensor(1))
    if reduction in ("none", "add"):
        return ctx.call("aten.index_put", ctx.tensor(0), coordinates, ctx.tensor(2), reduction == "add")
    return _combined(ctx, coordinates, _REDUCTIONS[reduction])


def _combined(ctx: OpContext, coordinates: list[Node], reduction: str) -> Node:
    """Updates multiplied into, or compared with, the rows that the coordinates name."""
    x, updates = ctx.tensor(0), ctx.tensor(2)
    shape = [ctx.static(dim, "an axis of a combining ScatterND") for dim in ctx.shape(x)]
    depth = len(coordinates)
    row: Node | None = None
    for coordinate, size in zip(coordinates, shape, strict=False):
        front = ctx.call("aten.remainder.Scalar", coordinate, size)
        row = front if row is None else ctx.call("aten.add.Tensor", ctx.call("aten.mul.Tensor", row, size), front)
    if row is None:
        raise ctx.refuse("an index tuple of length zero is not supported")
    rows, width = math.prod(shape[:depth]), math.prod(shape[depth:])
    flat = ctx.call("aten.reshape", x, [rows, width])
    added = ctx.call("aten.reshape", updates, [-1, width])
    places = ctx.call("aten.expand", ctx.call("aten.reshape", row, [-1, 1]), [-1, width])
    result = ctx.call("aten.scatter_reduce.two", flat, 0, places, added, reduction)
    return ctx.call("aten.reshape", result, shape)


def scatter_elements(ctx: OpContext) -> Result:
    """ScatterElements (and Scatter, its older name)."""
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.integer("axis", 0), ctx.rank(x))
    indices, updates = _wrapped(ctx, 1, x, axis), ctx.tensor(2)
    reduction = ctx.word("reduction", "none")
    if reduction == "none":
        return ctx.call("aten.scatter.src", x, axis, indices, updates)
    return ctx.call("aten.scatter_reduce.two", x, axis, indices, updates, _REDUCTIONS[reduction])


def one_hot(ctx: OpContext) -> Result:
    """OneHot of a constant depth; negative indices count from the end, others outside hit nothing."""
    indices, axis = ctx.tensor(0), ctx.integer("axis", -1)
    depth = ctx.ints(1, "the depth")[0]
    axis = ctx.axis(axis, ctx.rank(indices) + 1)
    apart = ctx.call("aten.unsqueeze", indices, axis)
    behind = ctx.call("aten.lt.Scalar", apart, 0)
    wrapped = ctx.call("aten.where.self", behind, ctx.call("aten.add.Tensor", apart, depth), apart)
    trailing = ctx.rank(indices) - axis
    classes = torch.arange(depth).reshape([depth] + [1] * trailing).to(ctx.dtype(indices))
    hit = ctx.call("aten.eq.Tensor", wrapped, ctx.fixed(f"{ctx.name}_classes", classes))
    values = ctx.constant(2, "the on and off values")
    off, on = (ctx.fixed(f"{ctx.name}_{word}", values[position]) for position, word in enumerate(("off", "on")))
    return ctx.call("aten.where.self", hit, on, off)


def reverse_sequence(ctx: OpContext) -> Result:
    """ReverseSequence: the first `length` steps of each sequence backwards."""
    x, lengths = ctx.tensor(0), ctx.tensor(1)
    time, batch = ctx.integer("time_axis", 0), ctx.integer("batch_axis", 1)
    steps, rows = (
        ctx.call("aten.arange.start_step", 0, ctx.size(ctx.shape(x)[axis]), 1, kwargs={"dtype": torch.int64})
        for axis in (time, batch)
    )
    steps, rows = ctx.call("aten.unsqueeze", steps, 1 - time), ctx.call("aten.unsqueeze", rows, 1 - batch)
    counts = ctx.call("aten.unsqueeze", ctx.cast(lengths, torch.int64), time)
    mirrored = ctx.call("aten.sub.Tensor", ctx.call("aten.sub.Tensor", counts, 1), steps)
    places = ctx.call("aten.where.self", ctx.call("aten.lt.Tensor", steps, counts), mirrored, steps)
    return ctx.call("aten.index.Tensor", x, [places, rows] if time == 0 else [rows, places])


def tensor_scatter(ctx: OpContext) -> Result:
    """TensorScatter: writes the update into a cache from each sequence's own place on, around the end if asked to."""
    cache, update = ctx.tensor(0), ctx.tensor(1)
    rank = ctx.rank(cache)
    axis = ctx.axis(ctx.integer("axis", -2), rank)
    shape = [ctx.size(dim) for dim in ctx.shape(update)]
    steps = ctx.call("aten.arange.start_step", 0, shape[axis], 1, kwargs={"dtype": torch.int64})
    places = ctx.call("aten.reshape", steps, [-1 if other == axis else 1 for other in range(rank)])
    if ctx.has(2):
        start = ctx.call("aten.reshape", ctx.cast(ctx.tensor(2), torch.int64), [-1] + [1] * (rank - 1))
        places = ctx.call("aten.add.Tensor", places, start)
    if ctx.word("mode", "linear") == "circular":
        length = ctx.static(ctx.shape(cache)[axis], "the length of a circular cache")
        places = ctx.call("aten.remainder.Scalar", places, length)
    return ctx.call("aten.scatter.src", cache, axis, ctx.call("aten.expand", places, shape), update)


INDEX: dict[str, Operator] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
}
