"""Resize and Upsample: torch's interpolation where both compute the same coordinates, else a matrix per axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result, Size
from qcompiler.frontends.onnx_ops.resample import Axis, Filter
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim

Operator = Callable[[OpContext], Result]

_LINEAR = {1: "aten.upsample_linear1d.vec", 2: "aten.upsample_bilinear2d.vec", 3: "aten.upsample_trilinear3d.vec"}
_CUBIC = {2: "aten.upsample_bicubic2d.vec"}
_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")


@dataclass(frozen=True)
class Scaling:
    """One axis: its old and new size, the scale of coordinates (None when it follows from the sizes), its region."""

    old: Dim
    new: Dim
    scale: float | None
    region: tuple[float, float] = (0.0, 1.0)

    @property
    def factor(self) -> float | None:
        """New over old size, None when it is not fixed."""
        if self.scale is not None:
            return self.scale
        return self.new / self.old if isinstance(self.old, int) and isinstance(self.new, int) else None

    @property
    def whole(self) -> bool:
        """Whether the scale says no more than the sizes do."""
        return self.scale is None or self.scale == int(self.scale)


@dataclass(frozen=True)
class _Form:
    """The attributes of one node."""

    mode: str
    coordinates: str
    rounding: str = "floor"
    smooth: bool = False
    inside: bool = False
    sharpness: float = -0.75
    beyond: float = 0.0


def upsample(ctx: OpContext) -> Result:
    """Upsample (opsets 7 and 9) and Resize of opset 10: asymmetric coordinates, rounded down."""
    x = ctx.tensor(0)
    scales = ctx.reals("scales") or [float(scale) for scale in ctx.constant(1, "the scales").reshape(-1).tolist()]
    mode = ctx.word("mode", "nearest")
    scalings = [_scaled(ctx, old, scale) for old, scale in zip(ctx.shape(x), scales, strict=True)]
    return _resize(ctx, x, scalings, _Form(mode, "asymmetric"))


def resize(ctx: OpContext) -> Result:
    """Resize in the modes nearest, linear and cubic."""
    if ctx.version < 11:
        return upsample(ctx)
    x = ctx.tensor(0)
    form = _Form(
        ctx.word("mode", "nearest"),
        ctx.word("coordinate_transformation_mode", "half_pixel"),
        ctx.word("nearest_mode", "round_prefer_floor"),
        bool(ctx.integer("antialias", 0)),
        bool(ctx.integer("exclude_outside", 0)),
        ctx.real("cubic_coeff_a", -0.75),
        ctx.real("extrapolation_value", 0.0),
    )
    return _resize(ctx, x, _scalings(ctx, x, form), form)


def _scalings(ctx: OpContext, x: Node, form: _Form) -> list[Scaling]:
    axes = [ctx.axis(axis, ctx.rank(x)) for axis in ctx.integers("axes") or range(ctx.rank(x))]
    regions = _regions(ctx, axes) if form.coordinates == "tf_crop_and_resize" else {}
    policy = ctx.word("keep_aspect_ratio_policy", "stretch")
    scales = ctx.known(2)
    if scales is not None and scales.numel():
        given = dict(zip(axes, [float(scale) for scale in scales.reshape(-1).tolist()], strict=True))
        return [
            _scaled(ctx, old, given.get(axis, 1.0), regions.get(axis, (0.0, 1.0)))
            for axis, old in enumerate(ctx.shape(x))
        ]
    if not ctx.has(3):
        raise ctx.refuse("scales must be constant, or sizes computed from shapes")
    new = dict(zip(axes, ctx.dims(3, "the sizes"), strict=True))
    scalings = [
        Scaling(old, new.get(axis, old), None, regions.get(axis, (0.0, 1.0))) for axis, old in enumerate(ctx.shape(x))
    ]
    return scalings if policy == "stretch" else _proportional(ctx, scalings, axes, policy)


def _regions(ctx: OpContext, axes: Sequence[int]) -> Mapping[int, tuple[float, float]]:
    ends = [float(end) for end in ctx.constant(1, "the region of interest").reshape(-1).tolist()]
    return {axis: (ends[place], ends[len(axes) + place]) for place, axis in enumerate(axes)}


def _proportional(ctx: OpContext, scalings: Sequence[Scaling], axes: Sequence[int], policy: str) -> list[Scaling]:
    """One scale for all resized axes, so that no result is larger, or smaller, than was asked for."""
    sizes = {
        axis: (ctx.static(scalings[axis].old, "a size"), ctx.static(scalings[axis].new, "a size")) for axis in axes
    }
    scale = (min if policy == "not_larger" else max)(new / old for old, new in sizes.values())
    return [
        Scaling(item.old, math.floor(sizes[axis][0] * scale + 0.5), scale, item.region) if axis in sizes else item
        for axis, item in enumerate(scalings)
    ]


def _scaled(ctx: OpContext, old: Dim, scale: float, region: tuple[float, float] = (0.0, 1.0)) -> Scaling:
    if scale == int(scale):
        return Scaling(old, old * int(scale), scale, region)
    fixed = ctx.static(old, "an axis with a fractional scale")
    return Scaling(old, math.floor(fixed * scale), scale, region)


def _resize(ctx: OpContext, x: Node, scalings: Sequence[Scaling], form: _Form) -> Node:
    spatial = list(scalings[2:])
    fixed = len(scalings) > 2 and all(item.old == item.new and item.region == (0.0, 1.0) for item in scalings[:2])
    if form.mode == "nearest":
        return _nearest(ctx, x, scalings, form, fixed)
    ops = _LINEAR if form.mode == "linear" else _CUBIC
    if fixed and len(spatial) in ops and all(_agrees(item, form) for item in spatial):
        sizes, factors = _target(ctx, spatial)
        return ctx.call(ops[len(spatial)], x, sizes, form.coordinates == "align_corners", factors)
    if form.mode not in ("linear", "cubic"):
        raise ctx.refuse(f"mode '{form.mode}' is not supported")
    kernel = Filter(form.mode == "cubic", form.smooth, form.sharpness, form.inside)
    return _by_axis(ctx, x, scalings, form, lambda node, number, axis: _product(ctx, node, number, kernel.matrix(axis)))


def _agrees(scaling: Scaling, form: _Form) -> bool:
    """Whether torch's linear and cubic interpolation compute the same."""
    if form.smooth or form.inside or (form.mode == "cubic" and form.sharpness != -0.75):
        return False
    if form.coordinates == "align_corners":
        return scaling.whole
    return form.coordinates == "half_pixel" or (form.coordinates == "pytorch_half_pixel" and scaling.new != 1)


def _target(ctx: OpContext, spatial: Sequence[Scaling]) -> tuple[list[Size] | None, list[float] | None]:
    """Sizes, or scale factors where a fractional scale says more than the sizes do."""
    if all(scaling.whole for scaling in spatial):
        return [ctx.size(scaling.new) for scaling in spatial], None
    return None, [float(scaling.factor or 1.0) for scaling in spatial]


def _by_axis(
    ctx: OpContext, x: Node, scalings: Sequence[Scaling], form: _Form, move: Callable[[Node, int, Axis], Node]
) -> Node:
    """`move` on each axis that changes, and the extrapolation value where a cropping Resize reads beyond the ends."""
    for number, scaling in enumerate(scalings):
        if scaling.old == scaling.new and scaling.factor in (None, 1.0) and scaling.region == (0.0, 1.0):
            continue
        axis = _axis(ctx, scaling, form)
        x = move(x, number, axis)
        beyond = axis.outside()
        if any(beyond):
            shape = [-1 if other == number else 1 for other in range(ctx.rank(x))]
            mask = ctx.fixed(f"{ctx.name}_beyond{number}", torch.tensor(beyond).reshape(shape))
            x = ctx.cast(ctx.call("aten.where.ScalarSelf", mask, form.beyond, x), ctx.dtype(x))
    return x


def _axis(ctx: OpContext, scaling: Scaling, form: _Form) -> Axis:
    old, new = ctx.static(scaling.old, "a resized axis"), ctx.static(scaling.new, "a resized axis")
    return Axis(old, new, scaling.factor or 1.0, form.coordinates, scaling.region)


def _product(ctx: OpContext, x: Node, number: int, matrix: torch.Tensor) -> Node:
    """Contraction of one axis with `[new, old]`."""
    weight = matrix.to(ctx.dtype(x))
    rank = ctx.rank(x)
    last = [axis for axis in range(rank) if axis != number] + [number]
    moved = x if number == rank - 1 else ctx.call("aten.permute", x, last)
    result = ctx.call("aten.matmul", moved, ctx.fixed(f"{ctx.name}_weights{number}", weight.t().contiguous()))
    back = [last.index(axis) for axis in range(rank)]
    return result if number == rank - 1 else ctx.call("aten.permute", result, back)


def _nearest(ctx: OpContext, x: Node, scalings: Sequence[Scaling], form: _Form, fixed: bool) -> Node:
    spatial = list(scalings[2:])
    if fixed and len(spatial) <= 3 and all(_rounds_down(scaling, form) for scaling in spatial):
        if all(scaling.old == scaling.new for scaling in spatial):
            return x
        return ctx.call(f"aten.upsample_nearest{len(spatial)}d.vec", x, *_target(ctx, spatial))

    def select(node: Node, number: int, axis: Axis) -> Node:
        rows = ctx.fixed(f"{ctx.name}_rows{number}", torch.tensor(axis.rows(form.rounding), dtype=torch.int64))
        return ctx.call("aten.index_select", node, number, rows)

    return _by_axis(ctx, x, scalings, form, select)


def _rounds_down(scaling: Scaling, form: _Form) -> bool:
    """Whether the node picks row `floor(new * old_size / new_size)`, as torch does."""
    if form.coordinates == "tf_crop_and_resize":
        return False
    factor = scaling.factor
    if scaling.old == scaling.new and factor in (None, 1.0):
        return True
    if isinstance(scaling.old, int) and isinstance(scaling.new, int) and factor:
        rows = Axis(scaling.old, scaling.new, factor, form.coordinates).rows(form.rounding)
        return rows == [min(math.floor(row / factor), scaling.old - 1) for row in range(scaling.new)]
    if form.coordinates == "asymmetric":
        return form.rounding == "floor"
    whole = factor is not None and factor == int(factor)
    return whole and (form.coordinates in _HALF_PIXEL or (factor == 2 and form.rounding == "round_prefer_floor"))


RESIZE: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
