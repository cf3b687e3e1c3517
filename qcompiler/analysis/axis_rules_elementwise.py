"""Labels across operators that work element by element, and across sums, pools and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.axis_rules import Bound, Labels, Rule, Walk
from qcompiler.analysis.relations import REORDERINGS, ROTATIONS, SCALES, Mark, Norm, World
from qcompiler.ir.program import Node
from qcompiler.ir.types import SymbolType, TensorType

_CURVED = "an elementwise function"
_PRODUCT = "an elementwise product"


def same(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Linear in every element: nothing is refused."""
    codes = walk.labels(next(iter(bound.values())))
    if walk.is_float(node):
        return codes
    return _curved(walk, node, codes)


def _curved(walk: Walk, node: Node, codes: torch.Tensor) -> torch.Tensor:
    walk.relations.restrict(codes, ROTATIONS | SCALES, node, _CURVED)
    return codes


def curved(walk: Walk, node: Node, bound: Bound) -> Labels:
    """An arbitrary function of every element."""
    return _curved(walk, node, walk.labels(next(iter(bound.values()))))


def homogeneous(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A function that positive factors pass through."""
    codes = walk.labels(next(iter(bound.values())))
    walk.relations.restrict(codes, ROTATIONS, node, _CURVED)
    return codes


def clamp(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Bounds at zero let positive factors through, others do not."""
    bounds = [bound.get("min"), bound.get("max")]
    return (homogeneous if all(item is None or item == 0 for item in bounds) else curved)(walk, node, bound)


def prelu(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A slope per channel moves with its channel."""
    codes = walk.labels(bound["self"])
    walk.relations.restrict(codes, ROTATIONS, node, _CURVED)
    slopes = walk.shape(cast(Node, bound["weight"]))
    if slopes == (1,) or lb.is_fixed(codes):
        return codes
    if walk.program.constant(bound["weight"]) is None:
        return walk.refuse(node, "its slope is computed")
    row = walk.relations.row(codes, 1, node)
    walk.relations.mark(Mark(node, "weight", "multiplier", row, 0, worlds=World.MATRIX))
    return codes


def softmax(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Reordering its axis reorders the result."""
    codes = walk.labels(bound["self"])
    axis = cast(int, bound["dim"]) % codes.dim()
    if axis in lb.varying(codes):
        walk.relations.close(codes, axis, "general", node)
    return _curved(walk, node, codes)


# -- two operands -----------------------------------------------------------------------------------------------------


def _thin(first: torch.Tensor, second: torch.Tensor, rank: int) -> list[int]:
    """Axes of a result of `rank` axes along which labels of `second` change, if `first` is one element wide on all."""
    moving = lb.varying(second)
    places = [axis + first.dim() - second.dim() for axis in moving]
    if any(place >= 0 and first.shape[place] > 1 for place in places):
        return []
    return [axis + rank - second.dim() for axis in moving]


def _scalar(walk: Walk, value: object) -> bool:
    """Whether an operand is one known number, or a size."""
    if not isinstance(value, Node) or _is_size(value):
        return True
    return walk.is_constant(value) and all(size == 1 for size in walk.shape(value))


def _is_size(value: object) -> bool:
    return isinstance(value, Node) and isinstance(value.meta["type"], SymbolType)


def _zero(walk: Walk, value: object) -> bool:
    known = walk.program.constant(value)
    return value == 0 or (known is not None and bool((known == 0).all()))


def _merged(first: torch.Tensor, second: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Of labels that are tied, those that take less storage."""
    left, right = first.expand(shape), second.expand(shape)
    return left if lb.core(left).numel() <= lb.core(right).numel() else right


def add(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A sum ties its operands; a number becomes a vector, and one value for all channels asks for their mean."""
    shape = walk.shape(node)
    if _scalar(walk, bound["other"]):
        return _plus_number(walk, node, bound["other"], walk.labels(bound["self"]).expand(shape), "other")
    if _scalar(walk, bound["self"]):
        return _plus_number(walk, node, bound["self"], walk.labels(bound["other"]).expand(shape), "self")
    first, second = walk.wild(bound["self"], node), walk.wild(bound["other"], node)
    for wide, narrow in ((first, second), (second, first)):
        thin = _thin(narrow, wide, len(shape))
        if thin:
            return _plus_uniform(walk, node, wide.expand(shape), narrow, thin)
    walk.relations.tie(first, second, node)
    if lb.is_fixed(first) or lb.is_fixed(second):
        return lb.fixed(shape)
    return _merged(first, second, shape)


def _plus_number(walk: Walk, node: Node, number: object, codes: torch.Tensor, argument: str) -> torch.Tensor:
    axes = lb.varying(codes)
    if _zero(walk, number) or not axes:
        return codes
    if len(axes) > 1 or _is_size(number):
        return _curved(walk, node, codes)
    row = lb.core(codes).reshape(-1)
    walk.relations.mark(Mark(node, argument, "writer", row, axes[0]))
    return codes


def _plus_uniform(
    walk: Walk, node: Node, wide: torch.Tensor, narrow: torch.Tensor, axes: Sequence[int]
) -> torch.Tensor:
    for axis in axes:
        walk.relations.close(wide, axis, "keeping_mean", node)
    walk.relations.restrict(narrow, ROTATIONS | REORDERINGS, node, "is added to all channels")
    walk.relations.tie(wide, narrow, node, World.SCALE)
    return wide


def multiply(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Scales of a product add up; elements move together."""
    shape = walk.shape(node)
    divides = walk.program.op(node).startswith("aten.div")
    if _scalar(walk, bound["other"]):
        return walk.labels(bound["self"]).expand(shape)
    if _scalar(walk, bound["self"]):
        codes = walk.labels(bound["other"]).expand(shape)
        return _curved(walk, node, codes) if divides else codes
    if _vanishes(walk, bound["other"]) or (_vanishes(walk, bound["self"]) and not divides):
        return _free(walk, node)
    first, second = walk.labels(bound["self"]), walk.labels(bound["other"])
    if walk.is_constant(bound["other"]):
        return _table(walk, node, first, bound["other"], divides).expand(shape)
    if walk.is_constant(bound["self"]) and not divides:
        return _table(walk, node, second, bound["self"], False).expand(shape)
    if _thin(first, second, len(shape)) and _thin(second, first, len(shape)):
        found = walk.product(node, first, second ^ 1 if divides else second)
        for codes in (found, first, second):
            walk.relations.restrict(codes, ROTATIONS | REORDERINGS, node, "an outer product")
        return found.expand(shape)
    for wide, narrow in ((first, second), (second, first)):
        if _thin(narrow, wide, len(shape)) and not (divides and narrow is first):
            walk.relations.freeze(narrow, node, "multiplies all channels")
            return wide.expand(shape)
    return _product(walk, node, first, second, divides).expand(shape)


def _vanishes(walk: Walk, value: object) -> bool:
    """Whether an operand is a table of zeros, such as the first state of a recurrence."""
    if not isinstance(value, Node):
        return False
    if walk.program.op(value) == "aten.full":
        return bool(walk.program.bind(value)["fill_value"] == 0)
    table = value.op == "get_attr" and len([size for size in walk.shape(value) if size > 1]) > 1
    return table and _zero(walk, value)


def _free(walk: Walk, node: Node) -> torch.Tensor:
    """Labels of nothing but zeros, which stay zero whatever acts on them; axes of free size do not count."""
    dims = cast(TensorType, walk.program.type(node)).shape
    small = [dim if isinstance(dim, int) else 1 for dim in dims]
    return walk.relations.fresh(math.prod(small)).view(small).expand(walk.shape(node))


def _product(walk: Walk, node: Node, first: torch.Tensor, second: torch.Tensor, divides: bool) -> torch.Tensor:
    """Two values that both vary along the channels."""
    if lb.is_fixed(first) or lb.is_fixed(second):
        other = second if lb.is_fixed(first) else first
        walk.relations.restrict(other, ROTATIONS | REORDERINGS, node, _PRODUCT)
        if divides and lb.is_fixed(first):
            walk.relations.restrict(other, SCALES, node, _CURVED)
        return other
    found = walk.product(node, first, second if not divides else second ^ 1)
    walk.relations.tie(found, first, node, World.MATRIX)
    walk.relations.tie(found, second, node, World.MATRIX)
    walk.relations.restrict(found, ROTATIONS, node, _PRODUCT)
    return found


def _table(walk: Walk, node: Node, codes: torch.Tensor, constant: object, divides: bool) -> torch.Tensor:
    """A product with a constant: a gain where it has one axis, else numbers that stay with their elements."""
    relations, rank = walk.relations, len(walk.shape(node))
    table = cast(Node, constant)
    if lb.is_fixed(codes) or _thin(walk.labels(table), codes, rank):
        return codes
    wild = walk.wild(table, node, codes)
    if lb.is_fixed(wild):
        relations.restrict(codes, ROTATIONS | REORDERINGS, node, "a product with computed numbers")
        return codes
    relations.multiplied.append(lb.core(wild).reshape(-1))
    if table.op != "get_attr" or len([size for size in wild.shape if size > 1]) != 1:
        relations.restrict(wild, SCALES, node, "a table of factors")
        relations.restrict(codes, ROTATIONS, node, "a product with a table")
        relations.tie(wild, codes, node, World.MATRIX)
        return codes
    found = walk.product(node, codes, wild ^ 1 if divides else wild)
    relations.tie(found, codes, node, World.MATRIX)
    relations.tie(found, wild, node, World.MATRIX)
    relations.norms.append(Norm(node, lb.core(found).reshape(-1), True, False, multiplies=True))
    return found


def paired(walk: Walk, node: Node, bound: Bound) -> Labels:
    """The larger or smaller of two values: positive factors pass through."""
    codes = cast(torch.Tensor, add(walk, node, bound))
    walk.relations.restrict(codes, ROTATIONS, node, _CURVED)
    for name in ("self", "other"):
        if not isinstance(bound[name], Node):
            walk.relations.restrict(codes, SCALES, node, _CURVED)
    return codes


def compared(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Any function of two elements; elements move together."""
    shape = walk.shape(node)
    names = [name for name in ("self", "other") if name in bound and isinstance(bound[name], Node)]
    operands = [walk.labels(bound[name]) for name in names if not _scalar(walk, bound[name])]
    for codes in operands:
        _curved(walk, node, codes)
    return _moving_together(walk, node, operands, shape)


def _moving_together(walk: Walk, node: Node, operands: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """Ties the matrices of operands that are not one element wide where others change."""
    found = lb.fixed(shape)
    for position, codes in enumerate(operands):
        if position == 0 or _thin(found, codes, len(shape)):
            found = codes.expand(shape)
        elif not _thin(codes, found, len(shape)):
            walk.relations.tie(found, codes, node, World.MATRIX)
    return found


def where(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Chooses between two values; a choice that differs between channels moves with them."""
    shape = walk.shape(node)
    condition = walk.labels(bound["condition"])
    values = [bound["self"], bound["other"]]
    operands = [walk.wild(value, node) for value in values if not _scalar(walk, value)]
    numbers = [value for value in values if _scalar(walk, value) and not _zero(walk, value)]
    found = operands[0].expand(shape) if operands else lb.fixed(shape)
    if len(operands) == 2:
        walk.relations.tie(operands[0], operands[1], node)
        held = any(lb.is_fixed(codes) for codes in operands)
        found = lb.fixed(shape) if held else _merged(operands[0], operands[1], shape)
    if numbers:
        _curved(walk, node, found)
    if lb.varying(found) and not _thin(condition, found, len(shape)):
        walk.relations.restrict(found, ROTATIONS, node, "chooses element by element")
        walk.relations.tie(found, condition, node, World.MATRIX)
    return found


# -- along axes -------------------------------------------------------------------------------------------------------


def _reduced(walk: Walk, node: Node, bound: Bound) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels before and after axes are taken out along which nothing changes; fixed after others."""
    codes = walk.labels(bound["self"])
    dims = bound.get("dim")
    axes = [dims] if isinstance(dims, int) else list(cast(list[int], dims or range(codes.dim())))
    axes = sorted({axis % max(codes.dim(), 1) for axis in axes})
    shape = walk.first_shape(node)
    if set(axes) & set(lb.varying(codes)):
        for axis in set(axes) & set(lb.varying(codes)):
            walk.relations.close(codes, axis, "general", node)
        walk.relations.restrict(codes, ROTATIONS | SCALES, node, "reduces the axis")
        return codes, lb.fixed(shape)
    small = codes
    for axis in reversed(axes):
        small = small.narrow(axis, 0, min(1, codes.shape[axis])) if bound.get("keepdim") else small.select(axis, 0)
    return codes, small.expand(shape)


def averaged(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Sums and means."""
    return _reduced(walk, node, bound)[1]


def largest(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Largest and smallest elements; with their positions where the operator tells them."""
    codes, found = _reduced(walk, node, bound)
    walk.relations.restrict(codes, ROTATIONS, node, "takes the largest element")
    return found if walk.is_tensor(node) else [found, lb.fixed(found.shape)]


def spread(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Variances, norms and other curved reductions."""
    codes, found = _reduced(walk, node, bound)
    _curved(walk, node, codes)
    return found


def cumulated(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Running sums."""
    codes = walk.labels(bound["self"])
    if cast(int, bound["dim"]) % max(codes.dim(), 1) in lb.varying(codes):
        return walk.refuse(node, "sums up along the axis")
    return codes


def pooled(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Averages and interpolation over space."""
    codes, shape = walk.labels(next(iter(bound.values()))), walk.shape(node)
    if lb.is_fixed(codes):
        return lb.fixed(shape)
    axis = len(shape) - 1 - next(int(digit) for digit in walk.program.op(node) if digit.isdigit())
    return lb.along(walk.relations.row(codes, axis, node), shape, axis)


def pooled_largest(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Largest elements over space."""
    found = cast(torch.Tensor, pooled(walk, node, bound))
    walk.relations.restrict(found, ROTATIONS, node, "takes the largest element")
    return found


def made(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Values that depend on the shape of others only."""
    return lb.fixed(walk.shape(node))


_SAME = "neg _to_copy contiguous"
_HOMOGENEOUS = "relu abs leaky_relu"
_CURVED_OPS = (
    "gelu silu sigmoid tanh hardswish hardsigmoid elu celu selu softplus mish erf exp expm1 log log1p log2 sqrt rsqrt "
    "reciprocal sin cos tan asin acos atan sinh cosh asinh acosh atanh floor ceil round trunc sign square "
    "logical_not bitwise_not isnan isinf hardshrink softshrink threshold log_sigmoid pow.Tensor_Scalar "
    "eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar remainder.Scalar fmod.Scalar"
)
_COMPARED = (
    "eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor logical_and logical_or logical_xor bitwise_and.Tensor "
    "bitwise_or.Tensor bitwise_xor.Tensor pow.Tensor_Tensor remainder.Tensor fmod.Tensor floor_divide atan2"
)
_AVERAGED = "mean mean.dim sum sum.dim_IntList"
_LARGEST = "amax amin max.dim min.dim"
_SPREAD = "var.correction std.correction linalg_vector_norm logsumexp prod.dim_int any.dim any.dims all.dim all.dims"
_POOLED = (
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec "
    "upsample_bilinear2d.vec upsample_bicubic2d.vec upsample_trilinear3d.vec"
)
_MADE = "full_like ones_like zeros_like empty_like new_zeros new_ones new_full new_empty rand_like randn_like"


def _named(names: str, rule: Rule) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names.split()}


ELEMENTWISE: dict[str, Rule] = {
    **_named(_SAME, same),
    **_named(_HOMOGENEOUS, homogeneous),
    **_named(_CURVED_OPS, curved),
    **_named(_COMPARED, compared),
    **_named(_AVERAGED, averaged),
    **_named(_LARGEST, largest),
    **_named(_SPREAD, spread),
    **_named(_POOLED, pooled),
    **_named("max_pool1d max_pool2d max_pool3d", pooled_largest),
    **_named(_MADE, made),
    **_named("add.Tensor sub.Tensor", add),
    **_named("mul.Tensor div.Tensor", multiply),
    **_named("maximum minimum", paired),
    **_named("softmax.int log_softmax.int", softmax),
    "aten.clamp": clamp,
    "aten.prelu": prelu,
    "aten.where.self": where,
    "aten.cumsum": cumulated,
}
"""Operators that work element by element or along axes."""
