"""ONNX operators that pick or place elements by index."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


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
    """GatherElements; negative indices are wrapped when they are constant."""
    x, axis = ctx.tensor(0), ctx.integer("axis", 0)
    axis = ctx.axis(axis, ctx.rank(x))
    return ctx.call("aten.gather", x, axis, _wrapped(ctx, 1, x, axis))


def _wrapped(ctx: OpContext, index: int, x: Node, axis: int) -> Node:
    indices, size = ctx.known(index), ctx.shape(x)[axis]
    if indices is None or not bool((indices < 0).any()):
        return ctx.cast(ctx.tensor(index), torch.int64)
    size = ctx.static(size, "an axis with negative indices")
    return ctx.reform(index, f"wrapped{size}", torch.where(indices < 0, indices + size, indices).long())


def _coordinates(ctx: OpContext, indices: Node) -> list[Node]:
    depth = ctx.static(ctx.shape(indices)[-1], "the length of an index tuple")
    last = ctx.rank(indices) - 1
    return [ctx.call("aten.select.int", indices, last, position) for position in range(depth)]


def gather_nd(ctx: OpContext) -> Result:
    """GatherND without batch axes."""
    if ctx.integer("batch_dims", 0):
        raise ctx.refuse("batch_dims is not supported")
    return ctx.call("aten.index.Tensor", ctx.tensor(0), _coordinates(ctx, ctx.tensor(1)))


def scatter_nd(ctx: OpContext) -> Result:
    """ScatterND that overwrites or adds."""
    reduction = ctx.word("reduction", "none")
    if reduction not in ("none", "add"):
        raise ctx.refuse(f"reduction '{reduction}' is not supported")
    coordinates = _coordinates(ctx, ctx.tensor(1))
    return ctx.call("aten.index_put", ctx.tensor(0), coordinates, ctx.tensor(2), reduction == "add")


def scatter_elements(ctx: OpContext) -> Result:
    """ScatterElements (and Scatter, its older name)."""
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.integer("axis", 0), ctx.rank(x))
    indices, updates = _wrapped(ctx, 1, x, axis), ctx.tensor(2)
    reduction = ctx.word("reduction", "none")
    if reduction == "none":
        return ctx.call("aten.scatter.src", x, axis, indices, updates)
    return ctx.call("aten.scatter_reduce.two", x, axis, indices, updates, names[reduction])


def one_hot(ctx: OpContext) -> Result:
    """OneHot of a constant depth; negative indices count from the end."""
    indices, axis = ctx.tensor(0), ctx.integer("axis", -1)
    depth = ctx.ints(1, "the depth")[0]
    axis = ctx.axis(axis, ctx.rank(indices) + 1)
    wrapped = ctx.call("aten.remainder.Scalar", ctx.call("aten.unsqueeze", indices, axis), depth)
    trailing = ctx.rank(indices) - axis
    classes = torch.arange(depth).reshape([depth] + [1] * trailing).to(ctx.dtype(indices))
    hit = ctx.call("aten.eq.Tensor", wrapped, ctx.fixed(f"{ctx.name}_classes", classes))
    values = ctx.constant(2, "the on and off values")
    off, on = (ctx.fixed(f"{ctx.name}_{word}", values[position]) for position, word in enumerate(("off", "on")))
    return ctx.call("aten.where.self", hit, on, off)


INDEX: dict[str, Operator] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
