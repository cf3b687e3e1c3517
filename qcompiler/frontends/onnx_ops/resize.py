"""Resize and Upsample as torch's interpolation, where both compute the same coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result, Size
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim

Operator = Callable[[OpContext], Result]

_LINEAR = {1: "aten.upsample_linear1d.vec", 2: "aten.upsample_bilinear2d.vec", 3: "aten.upsample_trilinear3d.vec"}
_ROUNDED: dict[str, Callable[[float], float]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round_prefer_floor": lambda position: math.ceil(position - 0.5),
    "round_prefer_ceil": lambda position: math.floor(position + 0.5),
}


@dataclass(frozen=True)
class Scaling:
    """One spatial axis: its old and new size, and the scale of coordinates (None when it follows from the sizes)."""

    old: Dim
    new: Dim
    scale: float | None

    @property
    def factor(self) -> float | None:
        """New over old size, None when it is not fixed."""
        if self.scale is not None:
            return self.scale
        return self.new / self.old if isinstance(self.old, int) and isinstance(self.new, int) else None


def upsample(ctx: OpContext) -> Result:
    """Upsample (opsets 7 and 9): asymmetric coordinates, rounded down."""
    x = ctx.tensor(0)
    scales = ctx.reals("scales") or [float(scale) for scale in ctx.constant(1, "the scales").reshape(-1).tolist()]
    mode = ctx.word("mode", "nearest")
    return _resize(ctx, x, _from_scales(ctx, x, list(range(ctx.rank(x))), scales), mode, "asymmetric", "floor")


def resize(ctx: OpContext) -> Result:
    """Resize in the modes nearest, linear and cubic."""
    x = ctx.tensor(0)
    if ctx.version < 11:
        return upsample(ctx)
    axes = [ctx.axis(axis, ctx.rank(x)) for axis in ctx.integers("axes") or range(ctx.rank(x))]
    scales = ctx.known(2)
    if scales is not None and scales.numel():
        scalings = _from_scales(ctx, x, axes, [float(scale) for scale in scales.reshape(-1).tolist()])
    elif ctx.has(3):
        if ctx.word("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise ctx.refuse("keep_aspect_ratio_policy must be 'stretch'")
        new = dict(zip(axes, ctx.dims(3, "the sizes"), strict=True))
        scalings = [Scaling(old, new.get(axis, old), None) for axis, old in enumerate(ctx.shape(x))]
    else:
        raise ctx.refuse("scales must be constant, or sizes computed from shapes")
    if ctx.integer("exclude_outside", 0):
        raise ctx.refuse("exclude_outside is not supported")
    coordinates = ctx.word("coordinate_transformation_mode", "half_pixel")
    return _resize(
        ctx, x, scalings, ctx.word("mode", "nearest"), coordinates, ctx.word("nearest_mode", "round_prefer_floor")
    )


def _from_scales(ctx: OpContext, x: Node, axes: Sequence[int], scales: Sequence[float]) -> list[Scaling]:
    given = dict(zip(axes, scales, strict=True))
    return [_scaled(ctx, old, given.get(axis, 1.0)) for axis, old in enumerate(ctx.shape(x))]


def _scaled(ctx: OpContext, old: Dim, scale: float) -> Scaling:
    if scale == int(scale):
        return Scaling(old, old * int(scale), scale)
    return Scaling(old, math.floor(ctx.static(old, "an axis with a fractional scale") * scale), scale)


def _resize(ctx: OpContext, x: Node, scalings: Sequence[Scaling], mode: str, coordinates: str, rounding: str) -> Node:
    if any(scaling.old != scaling.new for scaling in scalings[:2]):
        raise ctx.refuse("the batch and channel axes must keep their size")
    spatial = list(scalings[2:])
    if mode == "nearest":
        return _nearest(ctx, x, spatial, coordinates, rounding)
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise ctx.refuse(f"coordinate_transformation_mode '{coordinates}' with mode '{mode}' is not supported")
    aligned = coordinates == "align_corners"
    sizes, factors = _target(ctx, spatial)
    smooth = bool(ctx.integer("antialias", 0))
    if mode == "linear" and not smooth and len(spatial) in _LINEAR:
        return ctx.call(_LINEAR[len(spatial)], x, sizes, aligned, factors)
    if mode not in ("linear", "cubic") or len(spatial) != 2 or ctx.real("cubic_coeff_a", -0.75) != -0.75:
        raise ctx.refuse(f"mode '{mode}' over {len(spatial)} axes in this form is not supported")
    name = "bilinear" if mode == "linear" else "bicubic"
    op = f"aten._upsample_{name}2d_aa.vec" if smooth else f"aten.upsample_{name}2d.vec"
    return ctx.call(op, x, sizes, aligned, factors)


def _target(ctx: OpContext, spatial: Sequence[Scaling]) -> tuple[list[Size] | None, list[float] | None]:
    """Sizes, or scale factors where a fractional scale says more than the sizes do."""
    fractional = any(scaling.scale is not None and scaling.scale != int(scaling.scale) for scaling in spatial)
    if fractional:
        return None, [float(scaling.factor or 1.0) for scaling in spatial]
    return [ctx.size(scaling.new) for scaling in spatial], None


def _nearest(ctx: OpContext, x: Node, spatial: Sequence[Scaling], coordinates: str, rounding: str) -> Node:
    if all(_rounds_down(scaling, coordinates, rounding) for scaling in spatial):
        if all(scaling.old == scaling.new for scaling in spatial):
            return x
        return ctx.call(f"aten.upsample_nearest{len(spatial)}d.vec", x, *_target(ctx, spatial))
    for axis, scaling in enumerate(spatial, 2):
        rows = _nearest_rows(ctx, scaling, coordinates, rounding)
        if rows != list(range(len(rows))) or scaling.old != scaling.new:
            x = ctx.call("aten.index_select", x, axis, ctx.fixed(f"{ctx.name}_rows{axis}", torch.tensor(rows)))
    return x


def _rounds_down(scaling: Scaling, coordinates: str, rounding: str) -> bool:
    """Whether the node picks row `floor(new * old_size / new_size)`, as torch does."""
    factor = scaling.factor
    if scaling.old == scaling.new or (coordinates == "asymmetric" and rounding == "floor"):
        return True
    if isinstance(scaling.old, int) and isinstance(scaling.new, int) and factor:
        rows = _source_rows(scaling.old, scaling.new, factor, coordinates, rounding)
        return rows == [min(math.floor(row / factor), scaling.old - 1) for row in range(scaling.new)]
    whole = factor is not None and factor == int(factor)
    return whole and (
        coordinates in ("half_pixel", "pytorch_half_pixel") or (factor == 2 and rounding == "round_prefer_floor")
    )


def _nearest_rows(ctx: OpContext, scaling: Scaling, coordinates: str, rounding: str) -> list[int]:
    old, new = ctx.static(scaling.old, "a resized axis"), ctx.static(scaling.new, "a resized axis")
    if coordinates == "tf_crop_and_resize":
        raise ctx.refuse("coordinate_transformation_mode 'tf_crop_and_resize' is not supported")
    return _source_rows(old, new, scaling.factor or 1.0, coordinates, rounding)


def _source_rows(old: int, new: int, factor: float, coordinates: str, rounding: str) -> list[int]:
    def position(row: int) -> float:
        if coordinates == "asymmetric":
            return row / factor
        if coordinates == "align_corners":
            return row * (old - 1) / (new - 1) if new > 1 else 0.0
        if coordinates == "pytorch_half_pixel" and new == 1:
            return 0.0
        return (row + 0.5) / factor - 0.5

    return [int(min(max(_ROUNDED[rounding](position(row)), 0), old - 1)) for row in range(new)]


RESIZE: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
