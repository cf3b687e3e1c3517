"""ONNX operators that slide a window: convolutions and pools, and the padding they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim

Operator = Callable[[OpContext], Result]


@dataclass(frozen=True)
class Window:
    """The window of one node, one entry per spatial axis."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    begin: list[int]
    end: list[int]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def symmetric(self) -> bool:
        """Whether both ends are padded alike."""
        return self.begin == self.end


def window_of(ctx: OpContext, spatial: tuple[Dim, ...], kernel: list[int]) -> Window:
    """Reads strides, dilations and padding (`pads` or `auto_pad`)."""
    rank = len(kernel)
    stride = ctx.integers("strides") or [1] * rank
    dilation = ctx.integers("dilations") or [1] * rank
    mode = ctx.word("auto_pad", "NOTSET")
    pads = ctx.integers("pads") or [0] * (2 * rank)
    if mode == "VALID":
        pads = [0] * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same_padding(ctx, *axis) for axis in zip(spatial, kernel, stride, dilation, strict=True)]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = small + large if mode == "SAME_UPPER" else large + small
    return Window(kernel, stride, dilation, pads[:rank], pads[rank:])


def _same_padding(ctx: OpContext, size: Dim, kernel: int, stride: int, dilation: int) -> int:
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        return reach - 1
    fixed = ctx.static(size, "an axis with auto_pad and a stride above 1")
    return max((-(-fixed // stride) - 1) * stride + reach - fixed, 0)


def pad_spatial(ctx: OpContext, x: Node, begin: list[int], end: list[int], value: float) -> Node:
    """Pads the last axes of `x` with a constant."""
    if not any(begin) and not any(end):
        return x
    pairs = [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair]
    return ctx.call("aten.constant_pad_nd", x, pairs, value)


def convolution(ctx: OpContext) -> Result:
    """Conv; uneven padding becomes a pad in front."""
    x, weight = ctx.tensor(0), ctx.tensor(1)
    kernel = [ctx.static(dim, "the kernel") for dim in ctx.shape(weight)[2:]]
    window = window_of(ctx, ctx.shape(x)[2:], kernel)
    padding = window.begin
    if not window.symmetric:
        x, padding = pad_spatial(ctx, x, window.begin, window.end, 0.0), [0] * window.rank
    op = f"aten.conv{window.rank}d"
    return ctx.call(op, x, weight, ctx.optional(2), window.stride, padding, window.dilation, ctx.integer("group", 1))


def transposed_convolution(ctx: OpContext) -> Result:
    """ConvTranspose; uneven padding is cut off afterwards."""
    x, weight = ctx.tensor(0), ctx.tensor(1)
    kernel = [ctx.static(dim, "the kernel") for dim in ctx.shape(weight)[2:]]
    rank = len(kernel)
    if ctx.word("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ctx.refuse("auto_pad is not supported", mend="export the model with explicit pads")
    window = window_of(ctx, ctx.shape(x)[2:], kernel)
    extra = ctx.integers("output_padding") or [0] * rank
    if ctx.integers("output_shape"):
        raise ctx.refuse("output_shape is not supported", mend="export the model with explicit pads and output_padding")
    groups = ctx.integer("group", 1)
    op = "aten.conv_transpose1d" if rank == 1 else f"aten.conv_transpose{rank}d.input"
    padding = window.begin if window.symmetric else [0] * rank
    result = ctx.call(op, x, weight, ctx.optional(2), window.stride, padding, extra, groups, window.dilation)
    if window.symmetric:
        return result
    return pad_spatial(ctx, result, [-size for size in window.begin], [-size for size in window.end], 0.0)


def max_pool(ctx: OpContext) -> Result:
    """MaxPool without indices."""
    x = ctx.tensor(0)
    kernel = ctx.integers("kernel_shape") or []
    window = window_of(ctx, ctx.shape(x)[2:], kernel)
    padding = window.begin
    if not window.symmetric or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        x, padding = pad_spatial(ctx, x, window.begin, window.end, float("-inf")), [0] * window.rank
    ceil_mode = bool(ctx.integer("ceil_mode", 0))
    return ctx.call(f"aten.max_pool{window.rank}d", x, kernel, window.stride, padding, window.dilation, ceil_mode)


def average_pool(ctx: OpContext) -> Result:
    """AveragePool."""
    x = ctx.tensor(0)
    kernel = ctx.integers("kernel_shape") or []
    window = window_of(ctx, ctx.shape(x)[2:], kernel)
    counted = bool(ctx.integer("count_include_pad", 0))
    padding = window.begin
    if any(step != 1 for step in window.dilation):
        raise ctx.refuse("dilations are not supported")
    if not window.symmetric or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        if not counted:
            raise ctx.refuse("uneven padding that is not counted is not supported")
        x, padding = pad_spatial(ctx, x, window.begin, window.end, 0.0), [0] * window.rank
    ceil_mode = bool(ctx.integer("ceil_mode", 0))
    return ctx.call(f"aten.avg_pool{window.rank}d", x, kernel, window.stride, padding, ceil_mode, counted)


def global_pool(op: str) -> Operator:
    """A reduction over all spatial axes that keeps them."""

    def emit(ctx: OpContext) -> Result:
        x = ctx.tensor(0)
        return ctx.call(op, x, list(range(2, ctx.rank(x))), True)

    return emit


WINDOW: dict[str, Operator] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "GlobalAveragePool": global_pool("aten.mean.dim"),
    "GlobalMaxPool": global_pool("aten.amax"),
    "MaxPool": max_pool,
}
