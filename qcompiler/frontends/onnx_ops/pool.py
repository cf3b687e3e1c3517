"""ONNX pools as ATen calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.frontends.onnx_ops.window import Window, pad_spatial, window_of
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


def _window(ctx: OpContext, x: Node) -> Window:
    return window_of(ctx, ctx.shape(x)[2:], ctx.integers("kernel_shape") or [])


def max_pool(ctx: OpContext) -> Result:
    """MaxPool, with the flat positions of the maxima when they are read."""
    if len(ctx.node.outputs) > 1:
        return _with_positions(ctx)
    x = ctx.tensor(0)
    window = _window(ctx, x)
    padding = window.begin
    if not _is_plain(window):
        lowest = float("-inf") if ctx.dtype(x).is_floating_point else torch.iinfo(ctx.dtype(x)).min
        x, padding = pad_spatial(ctx, x, window.begin, window.end, lowest), [0] * window.rank
    ceil_mode = bool(ctx.integer("ceil_mode", 0))
    op = f"aten.max_pool{window.rank}d"
    return ctx.call(op, x, window.kernel, window.stride, padding, window.dilation, ceil_mode)


def _is_plain(window: Window) -> bool:
    """Whether torch's pools take this padding."""
    fits = all(2 * pad <= size for pad, size in zip(window.begin, window.kernel, strict=True))
    return window.symmetric and fits


def _with_positions(ctx: OpContext) -> Result:
    x = ctx.tensor(0)
    window = _window(ctx, x)
    if window.rank not in (2, 3) or not _is_plain(window):
        raise ctx.refuse("positions are supported for even padding over two or three axes alone")
    ceil_mode = bool(ctx.integer("ceil_mode", 0))
    op = f"aten.max_pool{window.rank}d_with_indices"
    call = ctx.call(op, x, window.kernel, window.stride, window.begin, window.dilation, ceil_mode)
    values, positions = ctx.items(call, 2)
    batch, channels, *spatial = ctx.shape(x)
    sizes = [ctx.static(dim, "an axis of a pool with positions") for dim in spatial]
    if ctx.integer("storage_order", 0):
        if window.rank != 2:
            raise ctx.refuse("positions by column are supported over two axes alone")
        positions = _by_column(ctx, positions, sizes)
    planes = ctx.call("aten.arange.start_step", 0, ctx.size(batch * channels), 1, kwargs={"dtype": torch.int64})
    starts = ctx.call("aten.mul.Tensor", planes, torch.Size(sizes).numel())
    shape = [ctx.size(batch), ctx.size(channels), *[1] * window.rank]
    return [values, ctx.call("aten.add.Tensor", positions, ctx.call("aten.reshape", starts, shape))]


def _by_column(ctx: OpContext, positions: Node, sizes: Sequence[int]) -> Node:
    height, width = sizes
    column = ctx.call("aten.remainder.Scalar", positions, width)
    row = ctx.call("aten.div.Tensor_mode", positions, width, kwargs={"rounding_mode": "floor"})
    return ctx.call("aten.add.Tensor", ctx.call("aten.mul.Tensor", column, height), row)


def average_pool(ctx: OpContext) -> Result:
    """AveragePool; forms that torch lacks are sums of windows over counts of elements."""
    x = ctx.tensor(0)
    window = _window(ctx, x)
    counted = bool(ctx.integer("count_include_pad", 0))
    padding = window.begin
    ceil_mode = bool(ctx.integer("ceil_mode", 0))
    if any(step != 1 for step in window.dilation) or (not _is_plain(window) and (not counted or ceil_mode)):
        return _averaged(ctx, x, window, counted)
    if not _is_plain(window):
        x, padding = pad_spatial(ctx, x, window.begin, window.end, 0.0), [0] * window.rank
    return ctx.call(f"aten.avg_pool{window.rank}d", x, window.kernel, window.stride, padding, ceil_mode, counted)


def _averaged(ctx: OpContext, x: Node, window: Window, counted: bool) -> Node:
    sizes = [ctx.static(dim, "an axis of this form of pool") for dim in ctx.shape(x)[2:]]
    reach = _overhang(ctx, window, sizes)
    ones = torch.ones([1, 1, *sizes], dtype=torch.float64)
    pads = [size for pair in zip(reversed(window.begin), reversed(window.end), strict=True) for size in pair]
    ones = torch.nn.functional.pad(ones, pads, value=1.0 if counted else 0.0)
    ones = torch.nn.functional.pad(ones, [size for extra in reversed(reach) for size in (0, extra)])
    counts = _CONVOLUTIONS[window.rank](
        ones, torch.ones([1, 1, *window.kernel], dtype=torch.float64), None, window.stride, 0, window.dilation
    )
    node = ctx.fixed(f"{ctx.name}_counts", counts.to(ctx.dtype(x)))
    return ctx.call("aten.div.Tensor", _summed(ctx, x, window, reach), node)


def _overhang(ctx: OpContext, window: Window, sizes: Sequence[int]) -> list[int]:
    """How far the last window reaches beyond the padded axis when sizes are rounded up."""
    if not ctx.integer("ceil_mode", 0):
        return [0] * window.rank
    extra: list[int] = []
    for axis, size in enumerate(sizes):
        span, step = (window.kernel[axis] - 1) * window.dilation[axis] + 1, window.stride[axis]
        room = size + window.begin[axis] + window.end[axis]
        last = -(-(room - span) // step)
        if last * step >= size + window.begin[axis]:
            last -= 1  # a window must start on the data or before it
        extra.append(max(last * step + span - room, 0))
    return extra


def _summed(ctx: OpContext, x: Node, window: Window, reach: Sequence[int]) -> Node:
    """Sums of windows: a convolution with ones, a channel at a time."""
    end = [pad + extra for pad, extra in zip(window.end, reach, strict=True)]
    padded = pad_spatial(ctx, x, window.begin, end, 0.0)
    shape = ctx.shape(padded)
    planes = ctx.call("aten.reshape", padded, [-1, 1, *(ctx.size(dim) for dim in shape[2:])])
    ones = ctx.fixed(f"{ctx.name}_ones", torch.ones([1, 1, *window.kernel], dtype=ctx.dtype(x)))
    op = f"aten.conv{window.rank}d"
    sums = ctx.call(op, planes, ones, None, window.stride, [0] * window.rank, window.dilation, 1)
    after = [ctx.size(dim) for dim in ctx.shape(sums)[2:]]
    return ctx.call("aten.reshape", sums, [ctx.size(shape[0]), ctx.size(shape[1]), *after])


def norm_pool(ctx: OpContext) -> Result:
    """LpPool: the p-norm of each window."""
    x, order = ctx.tensor(0), ctx.integer("p", 2)
    window = _window(ctx, x)
    sizes = [] if not ctx.integer("ceil_mode", 0) else [ctx.static(dim, "a size") for dim in ctx.shape(x)[2:]]
    reach = _overhang(ctx, window, sizes) if sizes else [0] * window.rank
    powers = ctx.call("aten.pow.Tensor_Scalar", ctx.call("aten.abs", x), order)
    return ctx.call("aten.pow.Tensor_Scalar", _summed(ctx, powers, window, reach), 1.0 / order)


def global_norm_pool(ctx: OpContext) -> Result:
    """GlobalLpPool."""
    x = ctx.tensor(0)
    return ctx.call("aten.linalg_vector_norm", x, ctx.integer("p", 2), list(range(2, ctx.rank(x))), True)


def global_pool(op: str) -> Operator:
    """A reduction over all spatial axes that keeps them."""

    def emit(ctx: OpContext) -> Result:
        x = ctx.tensor(0)
        return ctx.call(op, x, list(range(2, ctx.rank(x))), True)

    return emit


def max_unpool(ctx: OpContext) -> Result:
    """MaxUnpool: maxima put back at their positions, zeros elsewhere."""
    x, positions = ctx.tensor(0), ctx.tensor(1)
    window = _window(ctx, x)
    shape = [ctx.static(dim, "an axis of an unpooled tensor") for dim in ctx.shape(x)]
    spatial = [
        (size - 1) * step - begin - end + width
        for size, step, begin, end, width in zip(
            shape[2:], window.stride, window.begin, window.end, window.kernel, strict=True
        )
    ]
    inner = [*shape[:2], *spatial]
    zeros = ctx.fixed(f"{ctx.name}_zeros", torch.zeros(torch.Size(inner).numel(), dtype=ctx.dtype(x)))
    flat, places = (ctx.call("aten.reshape", node, [-1]) for node in (x, positions))
    result = ctx.call("aten.reshape", ctx.call("aten.scatter.src", zeros, 0, places, flat), inner)
    if not ctx.has(2):
        return result
    wanted = ctx.ints(2, "the output shape")
    grown = [wanted_size - size for wanted_size, size in zip(wanted, inner, strict=True)]
    return ctx.call("aten.constant_pad_nd", result, [size for extra in reversed(grown) for size in (0, extra)], 0)


def local_response(ctx: OpContext) -> Result:
    """LRN: divides by a power of the mean square over neighbouring channels; Krizhevsky et al., NeurIPS 2012."""
    x, size = ctx.tensor(0), ctx.integer("size")
    alpha, beta, bias = ctx.real("alpha", 1e-4), ctx.real("beta", 0.75), ctx.real("bias", 1.0)
    shape = [ctx.size(dim) for dim in ctx.shape(x)]
    squares = ctx.call("aten.reshape", ctx.call("aten.pow.Tensor_Scalar", x, 2), [shape[0], 1, shape[1], -1])
    before = (size - 1) // 2
    padded = ctx.call("aten.constant_pad_nd", squares, [0, 0, before, size - 1 - before], 0.0)
    mean = ctx.call("aten.avg_pool2d", padded, [size, 1], [1, 1], [0, 0], False, True)
    scaled = ctx.call("aten.add.Tensor", ctx.call("aten.mul.Tensor", mean, alpha), bias)
    factor = ctx.call("aten.reshape", ctx.call("aten.pow.Tensor_Scalar", scaled, beta), shape)
    return ctx.call("aten.div.Tensor", x, factor)


_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}

POOL: dict[str, Operator] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool("aten.mean.dim"),
    "GlobalLpPool": global_norm_pool,
    "GlobalMaxPool": global_pool("aten.amax"),
    "LRN": local_response,
    "LpPool": norm_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
