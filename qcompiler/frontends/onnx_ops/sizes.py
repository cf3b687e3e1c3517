"""Shape arithmetic: integer tensors computed from shapes are folded symbolically instead of becoming operators.

Each rule gets a node whose inputs are all known or sizes, and returns the result as sizes, as a known tensor when every
element turned out fixed, or None when the result cannot be told from shapes (then the node is emitted on tensors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import sympy
import torch
from torch.utils._sympy.functions import Max, Min, PythonMod

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Result, Sizes, floor_divide
from qcompiler.frontends.onnx_ops.layout import axes_of
from qcompiler.ir.types import Dim

Rule = Callable[[OpContext], Result | None]
LARGEST = 1024


def simplify(sizes: Sizes, name: str) -> Sizes | Known:
    """A known tensor when every element is a number."""
    items = [_plain(item) for item in sizes.items.reshape(-1)]
    if all(isinstance(item, int) for item in items):
        return Known(name, torch.tensor(items, dtype=sizes.dtype).reshape(sizes.items.shape))
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return Sizes(array.reshape(sizes.items.shape), sizes.dtype)


def _plain(dim: Dim) -> Dim:
    return int(dim) if isinstance(dim, int | np.integer) or dim.is_Integer else dim


def _items(ctx: OpContext, index: int) -> np.ndarray:
    value = ctx.value(index)
    if isinstance(value, Sizes):
        return value.items
    tensor = ctx.constant(index, "a size")
    array = np.empty(tensor.numel(), dtype=object)
    array[:] = tensor.reshape(-1).tolist()
    return array.reshape(tuple(tensor.shape))


def _arithmetic(function: Callable[[Dim, Dim], Dim | None]) -> Rule:
    def rule(ctx: OpContext) -> Result | None:
        left, right = np.broadcast_arrays(_items(ctx, 0), _items(ctx, 1))
        results = [function(a, b) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        if any(result is None for result in results):
            return None
        array = np.empty(len(results), dtype=object)
        array[:] = results
        return Sizes(array.reshape(left.shape), _dtype(ctx))

    return rule


def _dtype(ctx: OpContext) -> torch.dtype:
    return next(value.dtype for value in ctx.inputs if isinstance(value, Sizes))


def _divide(left: Dim, right: Dim) -> Dim | None:
    signs = [sympy.sympify(dim).is_nonnegative for dim in (left, right)]
    return floor_divide(left, right) if all(signs) and right != 0 else None


def _modulo(left: Dim, right: Dim) -> Dim | None:
    signs = [sympy.sympify(dim).is_nonnegative for dim in (left, right)]
    if not all(signs) or right == 0:
        return None
    return cast(sympy.Expr, PythonMod(sympy.sympify(left), sympy.sympify(right)))


def _comparison(decide: Callable[[sympy.Expr], bool | None]) -> Rule:
    def rule(ctx: OpContext) -> Result | None:
        left, right = np.broadcast_arrays(_items(ctx, 0), _items(ctx, 1))
        pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
        truths = [decide(sympy.expand(sympy.sympify(a) - sympy.sympify(b))) for a, b in pairs]
        if any(truth is None for truth in truths):
            return None
        return Known(ctx.name, torch.tensor(truths, dtype=torch.bool).reshape(left.shape))

    return rule


def _where(ctx: OpContext) -> Result | None:
    condition = ctx.known(0)
    if condition is None:
        return None
    chosen = np.where(condition.numpy(), _items(ctx, 1), _items(ctx, 2))
    return Sizes(chosen.astype(object), _dtype(ctx))


def _moved(move: Callable[[OpContext, np.ndarray], np.ndarray | None]) -> Rule:
    def rule(ctx: OpContext) -> Result | None:
        moved = move(ctx, _items(ctx, 0))
        return None if moved is None else Sizes(np.array(moved, dtype=object), _dtype(ctx))

    return rule


def _gather(ctx: OpContext, items: np.ndarray) -> np.ndarray | None:
    indices = ctx.known(1)
    return None if indices is None else np.take(items, indices.numpy(), axis=ctx.integer("axis", 0))


def _slice(ctx: OpContext, items: np.ndarray) -> np.ndarray:
    if ctx.version < 10:
        starts, ends = ctx.integers("starts") or [], ctx.integers("ends") or []
        axes, steps = ctx.integers("axes"), [1] * len(starts)
    else:
        starts, ends = ctx.ints(1, "the starts"), ctx.ints(2, "the ends")
        axes = ctx.ints(3, "the axes") if ctx.has(3) else None
        steps = ctx.ints(4, "the steps") if ctx.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=True):
        items = items.take(range(*slice(start, end, step).indices(items.shape[axis])), axis=axis)
    return items


def _reshape(ctx: OpContext, items: np.ndarray) -> np.ndarray:
    return items.reshape(ctx.ints(1, "the shape"))


def _squeeze(ctx: OpContext, items: np.ndarray) -> np.ndarray:
    axes = axes_of(ctx, 13)
    return np.squeeze(items, None if axes is None else tuple(axes))


def _unsqueeze(ctx: OpContext, items: np.ndarray) -> np.ndarray:
    return np.expand_dims(items, tuple(axes_of(ctx, 13) or []))


def _expand(ctx: OpContext, items: np.ndarray) -> np.ndarray:
    return np.broadcast_to(items, np.broadcast_shapes(items.shape, tuple(ctx.ints(1, "the shape"))))


def _concat(ctx: OpContext) -> Result | None:
    parts = [_items(ctx, index) for index in range(len(ctx.inputs))]
    return Sizes(np.concatenate(parts, axis=ctx.integer("axis", 0)), _dtype(ctx))


def _split(ctx: OpContext) -> Result | None:
    items, axis, count = _items(ctx, 0), ctx.integer("axis", 0), len(ctx.node.outputs)
    sizes: Sequence[int] | None = ctx.integers("split") or (ctx.ints(1, "the part sizes") if ctx.has(1) else None)
    if sizes is None:
        each = math.ceil(items.shape[axis] / count)
        sizes = [each] * count
    return [Sizes(part, _dtype(ctx)) for part in np.split(items, np.cumsum(sizes)[:-1], axis=axis)]


def _cast(ctx: OpContext) -> Result | None:
    integers = {7: torch.int64, 6: torch.int32}
    dtype = integers.get(ctx.integer("to"))
    return None if dtype is None else Sizes(_items(ctx, 0), dtype)


def _product(ctx: OpContext) -> Result | None:
    items = _items(ctx, 0)
    if items.ndim != 1:
        return None
    total = math.prod(items, start=sympy.Integer(1))
    return Sizes(np.array([total] if ctx.integer("keepdims", 1) else total, dtype=object), _dtype(ctx))


def _scatter(ctx: OpContext) -> Result | None:
    indices = ctx.known(1)
    if indices is None or ctx.word("reduction", "none") != "none":
        return None
    items = _items(ctx, 0).copy()
    items[tuple(indices.numpy().T)] = _items(ctx, 2).reshape(indices.shape[:-1])
    return Sizes(items, _dtype(ctx))


SIZES: dict[str, Rule] = {
    "Add": _arithmetic(lambda left, right: left + right),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_divide),
    "Equal": _comparison(lambda gap: gap.is_zero),
    "Expand": _moved(_expand),
    "Gather": _moved(_gather),
    "Greater": _comparison(lambda gap: gap.is_positive),
    "GreaterOrEqual": _comparison(lambda gap: gap.is_nonnegative),
    "Less": _comparison(lambda gap: gap.is_negative),
    "LessOrEqual": _comparison(lambda gap: gap.is_nonpositive),
    "Max": _arithmetic(lambda left, right: cast(sympy.Expr, Max(left, right))),
    "Min": _arithmetic(lambda left, right: cast(sympy.Expr, Min(left, right))),
    "Mod": _arithmetic(_modulo),
    "Mul": _arithmetic(lambda left, right: left * right),
    "ReduceProd": _product,
    "Reshape": _moved(_reshape),
    "ScatterND": _scatter,
    "Slice": _moved(_slice),
    "Split": _split,
    "Squeeze": _moved(_squeeze),
    "Sub": _arithmetic(lambda left, right: left - right),
    "Unsqueeze": _moved(_unsqueeze),
    "Where": _where,
}
