"""ONNX operators that read images between pixels, or put windows back into images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.frontends.onnx_ops.window import window_of
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]

_MODES = {"linear": 0, "bilinear": 0, "nearest": 1, "cubic": 2, "bicubic": 2}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}


def grid_sample(ctx: OpContext) -> Result:
    """GridSample over two or three axes."""
    x, grid = ctx.tensor(0), ctx.tensor(1)
    mode = _MODES[ctx.word("mode", "linear" if ctx.version >= 20 else "bilinear")]
    padding, aligned = _PADDING[ctx.word("padding_mode", "zeros")], bool(ctx.integer("align_corners", 0))
    rank = ctx.rank(x) - 2
    if rank not in (2, 3) or (rank == 3 and mode == 2):
        raise ctx.refuse(f"this mode over {rank} axes is not supported")
    return ctx.call(f"aten.grid_sampler_{rank}d", x, ctx.cast(grid, ctx.dtype(x)), mode, padding, aligned)


def deform_conv(ctx: OpContext) -> Result:
    """DeformConv over two axes: samples at shifted positions, then a matrix product; Zhu et al., arXiv:1811.11168."""
    x, weight, offset = (ctx.tensor(index) for index in range(3))
    if ctx.rank(x) != 4:
        raise ctx.refuse("only two spatial axes are supported")
    batch, channels, height, width = (ctx.static(dim, "an axis of a deformable convolution") for dim in ctx.shape(x))
    outputs, _, tall, wide = (ctx.static(dim, "a weight") for dim in ctx.shape(weight))
    rows, columns = (ctx.static(dim, "an axis of the offsets") for dim in ctx.shape(offset)[2:])
    shifts, groups = ctx.integer("offset_group", 1), ctx.integer("group", 1)
    ctx.integers("kernel_shape")
    window = window_of(ctx, (height, width), [tall, wide])
    taps = tall * wide
    places: list[Node] = []
    for axis, (taken, count) in enumerate(zip((height, width), (rows, columns), strict=True)):
        tap = torch.arange(window.kernel[axis]) * window.dilation[axis]
        start = torch.arange(count) * window.stride[axis] - window.begin[axis]
        grid = (tap.reshape(-1, 1) + start).double()
        base = grid.reshape(tall, 1, rows, 1) if axis == 0 else grid.reshape(1, wide, 1, columns)
        base = base.expand(tall, wide, rows, columns).reshape(1, taps, rows, columns).to(ctx.dtype(x))
        apart = ctx.call("aten.reshape", offset, [batch * shifts, taps, 2, rows, columns])
        moved = ctx.call(
            "aten.add.Tensor", ctx.call("aten.select.int", apart, 2, axis), ctx.fixed(f"{ctx.name}_base{axis}", base)
        )
        scaled = ctx.call("aten.mul.Tensor", moved, 2.0 / max(taken - 1, 1))
        places.append(ctx.call("aten.unsqueeze", ctx.call("aten.sub.Tensor", scaled, 1.0), 4))
    grid = ctx.call("aten.reshape", ctx.call("aten.cat", places[::-1], 4), [batch * shifts, taps * rows, columns, 2])
    images = ctx.call("aten.reshape", x, [batch * shifts, channels // shifts, height, width])
    sampled = ctx.call("aten.grid_sampler_2d", images, grid, 0, 0, True)
    if ctx.has(4):
        sampled = ctx.call("aten.reshape", sampled, [batch, shifts, channels // shifts, taps, rows, columns])
        mask = ctx.call("aten.reshape", ctx.tensor(4), [batch, shifts, 1, taps, rows, columns])
        sampled = ctx.call("aten.mul.Tensor", sampled, mask)
    inner = channels // groups * taps
    patches = ctx.call("aten.reshape", sampled, [batch, groups, inner, rows * columns])
    filters = ctx.call("aten.reshape", weight, [groups, outputs // groups, inner])
    result = ctx.call("aten.reshape", ctx.call("aten.matmul", filters, patches), [batch, outputs, rows, columns])
    if not ctx.has(3):
        return result
    return ctx.call("aten.add.Tensor", result, ctx.call("aten.reshape", ctx.tensor(3), [outputs, 1, 1]))


def roi_align(ctx: OpContext) -> Result:
    """RoiAlign with a fixed number of samples per bin; He et al., arXiv:1703.06870.

    Raises:
        UnsupportedError: for `sampling_ratio` 0, where that number depends on the size of each region.
    """
    x, regions, images = ctx.tensor(0), ctx.tensor(1), ctx.tensor(2)
    samples = ctx.integer("sampling_ratio", 0)
    if samples <= 0:
        raise ctx.refuse("a number of samples that depends on the regions is not supported", "set sampling_ratio")
    centred = ctx.word("coordinate_transformation_mode", "half_pixel") == "half_pixel" and ctx.version >= 16
    scaled = ctx.call("aten.mul.Tensor", regions, ctx.real("spatial_scale", 1.0))
    bounds = ctx.call("aten.sub.Tensor", scaled, 0.5) if centred else scaled
    bins = (ctx.integer("output_height", 1), ctx.integer("output_width", 1))
    sizes = [ctx.static(dim, "an axis of the image") for dim in ctx.shape(x)[2:]]
    readings = [_readings(ctx, bounds, axis, bins[axis], samples, sizes[axis], not centred) for axis in (0, 1)]
    pixels = ctx.call("aten.permute", x, [0, 2, 3, 1])
    chosen = ctx.call("aten.reshape", images, [-1, 1, 1])
    corners: list[Node] = []
    for row, row_weight in readings[0]:
        for column, column_weight in readings[1]:
            place = [chosen, ctx.call("aten.unsqueeze", row, 2), ctx.call("aten.unsqueeze", column, 1)]
            weight = ctx.call(
                "aten.mul.Tensor",
                ctx.call("aten.unsqueeze", row_weight, 2),
                ctx.call("aten.unsqueeze", column_weight, 1),
            )
            value = ctx.call("aten.index.Tensor", pixels, place)
            corners.append(ctx.call("aten.mul.Tensor", value, ctx.call("aten.unsqueeze", weight, 3)))
    largest = ctx.word("mode", "avg") == "max"
    joined = corners[0]
    for corner in corners[1:]:
        joined = ctx.call("aten.maximum" if largest else "aten.add.Tensor", joined, corner)
    channels = ctx.size(ctx.shape(x)[1])
    apart = ctx.call("aten.reshape", joined, [-1, bins[0], samples, bins[1], samples, channels])
    pooled = ctx.call("aten.amax" if largest else "aten.mean.dim", apart, [2, 4], False)
    return ctx.call("aten.permute", pooled, [0, 3, 1, 2])


def _readings(
    ctx: OpContext, bounds: Node, axis: int, bins: int, samples: int, size: int, forced: bool
) -> list[tuple[Node, Node]]:
    """Two pixels and their weights, `[regions, bins * samples]`, along one axis (0 down, 1 across)."""
    start = ctx.call("aten.slice.Tensor", bounds, 1, 1 - axis, 2 - axis, 1)
    extent = ctx.call("aten.sub.Tensor", ctx.call("aten.slice.Tensor", bounds, 1, 3 - axis, 4 - axis, 1), start)
    if forced:
        extent = ctx.call("aten.clamp", extent, 1.0, None)
    steps = (torch.arange(bins * samples).double() + 0.5) / (bins * samples)
    parts = ctx.fixed(f"{ctx.name}_steps{axis}", steps.to(ctx.dtype(bounds)))
    place = ctx.call("aten.add.Tensor", start, ctx.call("aten.mul.Tensor", extent, parts))
    inside = ctx.call(
        "aten.logical_and", ctx.call("aten.ge.Scalar", place, -1.0), ctx.call("aten.le.Scalar", place, float(size))
    )
    bounded = ctx.call("aten.clamp", place, 0.0, float(size - 1))
    low = ctx.call("aten.floor", bounded)
    far = ctx.cast(ctx.call("aten.mul.Tensor", ctx.call("aten.sub.Tensor", bounded, low), 1.0), ctx.dtype(bounds))
    near = ctx.call("aten.add.Tensor", ctx.call("aten.neg", far), 1.0)
    first = ctx.cast(low, torch.int64)
    second = ctx.call("aten.clamp", ctx.call("aten.add.Tensor", first, 1), None, size - 1)
    return [
        (place_, ctx.call("aten.where.ScalarOther", inside, weight, 0.0))
        for place_, weight in ((first, near), (second, far))
    ]


def col2im(ctx: OpContext) -> Result:
    """Col2Im: columns of windows added up where they overlap."""
    x = ctx.tensor(0)
    image, block = ctx.ints(1, "the image shape"), ctx.ints(2, "the block shape")
    window = window_of(ctx, tuple(image), block)
    padded = [size + begin + end for size, begin, end in zip(image, window.begin, window.end, strict=True)]
    places = _window_places(padded, block, window.stride, window.dilation)
    batch = ctx.size(ctx.shape(x)[0])
    channels = ctx.static(ctx.shape(x)[1], "the columns") // torch.Size(block).numel()
    count, total = places.numel(), torch.Size(padded).numel()
    flat = ctx.call("aten.reshape", x, [batch, channels, count])
    zeros = ctx.call("aten.full", [batch, channels, total], 0.0, kwargs={"dtype": ctx.dtype(x)})
    spread = ctx.call("aten.expand", ctx.fixed(f"{ctx.name}_places", places.reshape(-1)), [batch, channels, count])
    summed = ctx.call("aten.scatter_reduce.two", zeros, 2, spread, flat, "sum")
    result = ctx.call("aten.reshape", summed, [batch, channels, *padded])
    for axis, (begin, size) in enumerate(zip(window.begin, image, strict=True)):
        if padded[axis] != size:
            result = ctx.call("aten.slice.Tensor", result, axis + 2, begin, begin + size, 1)
    return result


def _window_places(
    sizes: Sequence[int], block: Sequence[int], stride: Sequence[int], step: Sequence[int]
) -> torch.Tensor:
    """Flat places `[block elements, windows]` in an image."""
    total = torch.zeros(1, 1, dtype=torch.int64)
    for size, width, move, gap in zip(sizes, block, stride, step, strict=True):
        starts = torch.arange(0, size - (width - 1) * gap, move)
        axis = torch.arange(width).reshape(-1, 1) * gap + starts
        total = total.reshape(len(total), 1, -1, 1) * size + axis.reshape(1, width, 1, len(starts))
        total = total.reshape(total.shape[0] * width, -1)
    return total


SAMPLING: dict[str, Operator] = {
    "Col2Im": col2im,
    "DeformConv": deform_conv,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
}
