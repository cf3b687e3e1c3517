"""Pooling and resizing of images and sequences."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Attribute, Context, Emitted, Emitter


def _spread(values: list[int], rank: int) -> list[int]:
    return values * rank if len(values) == 1 else values


def _window(call: Call, rank: int) -> dict[str, Attribute]:
    kernel = _spread(call.integers("kernel_size"), rank)
    return {
        "kernel_shape": kernel,
        "strides": _spread(call.integers("stride"), rank) or kernel,
        "pads": _spread(call.integers("padding"), rank) * 2,
        "ceil_mode": int(call.flag("ceil_mode")),
    }


def _with_batch(context: Context, call: Call, kind: str, rank: int, attributes: dict[str, Attribute]) -> ir.Value:
    value = context.value(call.node_at("self"))
    if call.type.rank == rank + 2:
        return context.op(kind, [value], attributes)
    zero = context.ints([0])
    return context.op("Squeeze", [context.op(kind, [context.op("Unsqueeze", [value, zero])], attributes), zero])


def _max_pool(rank: int) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        attributes = {**_window(call, rank), "dilations": _spread(call.integers("dilation"), rank)}
        return _with_batch(context, call, "MaxPool", rank, attributes)

    return emit


def _max_pool_with_positions(rank: int) -> Emitter:
    """Positions count within one image plane; those of ONNX count through the whole tensor."""

    def emit(context: Context, call: Call) -> Emitted:
        first = call.types[0]
        source = call.node_at("self")
        spatial = call.shape("self")[2:]
        sizes = [size for size in spatial if isinstance(size, int)]
        if first is None or first.rank != rank + 2 or len(sizes) != rank:
            raise call.unsupported("positions of a symbolic size or without a batch axis", "fix the input size")
        attributes = {**_window(call, rank), "dilations": _spread(call.integers("dilation"), rank)}
        values, flat = context.ops("MaxPool", [context.value(source)], attributes, outputs=2)
        return [values, context.op("Mod", [flat, context.scalar(math.prod(sizes), torch.int64)])]

    return emit


def _average_pool(rank: int) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        divisor = call.raw("divisor_override")
        attributes = {**_window(call, rank), "count_include_pad": int(call.flag("count_include_pad"))}
        if divisor is None:
            return _with_batch(context, call, "AveragePool", rank, attributes)
        kernel = _spread(call.integers("kernel_size"), rank)
        if call.flag("ceil_mode"):
            raise call.unsupported("divisor_override together with ceil_mode")
        average = _with_batch(context, call, "AveragePool", rank, {**attributes, "count_include_pad": 1})
        factor = float(torch.tensor(kernel).prod()) / call.integer("divisor_override")
        return context.op("Mul", [average, context.scalar(factor, call.type.dtype)])

    return emit


def _adaptive_average_pool(rank: int) -> Emitter:
    """Average pooling where the output divides the input, else a product with a matrix per axis."""

    def emit(context: Context, call: Call) -> ir.Value:
        before, after = call.shape("self")[-rank:], call.integers("output_size")
        if all(size == 1 for size in after):
            return context.op(
                "ReduceMean",
                [context.value(call.node_at("self")), context.ints(range(-rank, 0))],
                {"keepdims": 1},
            )
        sizes = [size for size in before if isinstance(size, int)]
        if len(sizes) != rank:
            raise call.unsupported("adaptive pooling of a symbolic size to more than one cell", "fix the input size")
        if all(big % small == 0 for big, small in zip(sizes, after, strict=True)):
            kernel = [big // small for big, small in zip(sizes, after, strict=True)]
            return _with_batch(context, call, "AveragePool", rank, {"kernel_shape": kernel, "strides": kernel})
        return _averaged(context, call, sizes, after)

    return emit


def _averaged(context: Context, call: Call, before: list[int], after: list[int]) -> ir.Value:
    if len(before) > 2:
        raise call.unsupported("adaptive pooling of three axes that does not divide evenly")
    value = context.value(call.node_at("self"))
    columns = _averaging_matrix(before[-1], after[-1]).to(call.type.dtype)
    value = context.op("MatMul", [value, context.constant(columns)])
    if len(before) == 1:
        return value
    rows = _averaging_matrix(before[0], after[0]).to(call.type.dtype)
    return context.op("MatMul", [context.constant(rows.t().contiguous()), value])


def _averaging_matrix(before: int, after: int) -> torch.Tensor:
    """[before, after]: column j averages floor(j * before / after) up to ceil((j + 1) * before / after)."""
    matrix = torch.zeros(before, after, dtype=torch.float64)
    for cell in range(after):
        start, end = cell * before // after, -(-(cell + 1) * before // after)
        matrix[start:end, cell] = 1 / (end - start)
    return matrix


def _resize(mode: str, *, antialias: bool = False) -> Emitter:
    """Torch's conventions: nearest rounds down from the corner, the others align pixel centres or corners."""

    def emit(context: Context, call: Call) -> ir.Value:
        corners = mode != "nearest" and call.flag("align_corners")
        attributes: dict[str, Attribute] = {
            "mode": mode,
            "coordinate_transformation_mode": _coordinates(mode, corners),
            "nearest_mode": "floor",
            "cubic_coeff_a": -0.5 if antialias else -0.75,
            "antialias": int(antialias),
            "exclude_outside": int(antialias),
        }
        scales, sizes = _resize_target(context, call)
        return context.op("Resize", [context.value(call.node_at("input")), None, scales, sizes], attributes)

    return emit


def _coordinates(mode: str, corners: bool) -> str:
    if mode == "nearest":
        return "asymmetric"
    return "align_corners" if corners else "half_pixel"


def _resize_target(context: Context, call: Call) -> tuple[ir.Value | None, ir.Value | None]:
    """Scales or sizes of all axes: where `axes` names some, the runtime's change of layout permutes them as if all."""
    factors = call.raw("scale_factors")
    if isinstance(factors, list | tuple) and factors:
        numbers = [factor for factor in factors if isinstance(factor, int | float)]
        if len(numbers) != len(factors):
            raise call.unsupported("a scale factor is symbolic")
        return context.constant(torch.tensor([1.0, 1.0, *numbers], dtype=torch.float32)), None
    source = call.node_at("input")
    kept = [context.size(source, axis) for axis in (0, 1)]
    return None, context.sizes([*kept, *call.sizes("output_size")])


def _sample(context: Context, call: Call) -> ir.Value:
    """Values of an image at places that another tensor names."""
    modes, paddings = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")
    attributes: dict[str, Attribute] = {
        "mode": modes[call.integer("interpolation_mode")],
        "padding_mode": paddings[call.integer("padding_mode")],
        "align_corners": int(call.flag("align_corners")),
    }
    return context.op("GridSample", [context.value(call.node_at(name)) for name in ("input", "grid")], attributes)


EMITTERS: dict[str, Emitter] = {
    **{f"aten.max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices": _max_pool_with_positions(rank) for rank in (2, 3)},
    **{f"aten.avg_pool{rank}d": _average_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": _adaptive_average_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.upsample_nearest{rank}d.vec": _resize("nearest") for rank in (1, 2, 3)},
    "aten.upsample_linear1d.vec": _resize("linear"),
    "aten.upsample_bilinear2d.vec": _resize("linear"),
    "aten.upsample_trilinear3d.vec": _resize("linear"),
    "aten.upsample_bicubic2d.vec": _resize("cubic"),
    "aten._upsample_bilinear2d_aa.vec": _resize("linear", antialias=True),
    "aten._upsample_bicubic2d_aa.vec": _resize("cubic", antialias=True),
    "aten.grid_sampler_2d": _sample,
    "aten.grid_sampler_3d": _sample,
}
