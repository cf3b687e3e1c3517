"""ONNX operators that slide a window: convolutions, and the padding that pools share with them."""

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
    return convolve(ctx, ctx.tensor(0), ctx.tensor(1), ctx.optional(2))


def convolve(ctx: OpContext, x: Node, weight: Node, bias: Node | None) -> Node:
    """A convolution with the window of the node."""
    kernel = [ctx.static(dim, "the kernel") for dim in ctx.shape(weight)[2:]]
    window = window_of(ctx, ctx.shape(x)[2:], kernel)
    padding = window.begin
    if not window.symmetric:
        x, padding = pad_spatial(ctx, x, window.begin, window.end, 0.0), [0] * window.rank
    op = f"aten.conv{window.rank}d"
    return ctx.call(op, x, weight, bias, window.stride, padding, window.dilation, ctx.integer("group", 1))


def transposed_convolution(ctx: OpContext) -> Result:
    """ConvTranspose; uneven padding is cut off afterwards."""
    x, weight = ctx.tensor(0), ctx.tensor(1)
    kernel = [ctx.static(dim, "the kernel") for dim in ctx.shape(weight)[2:]]
    rank = len(kernel)
    window, extra = _transposed_window(ctx, ctx.shape(x)[2:], kernel)
    op = "aten.conv_transpose1d" if rank == 1 else f"aten.conv_transpose{rank}d.input"
    padding = window.begin if window.symmetric else [0] * rank
    groups = ctx.integer("group", 1)
    result = ctx.call(op, x, weight, ctx.optional(2), window.stride, padding, extra, groups, window.dilation)
    if window.symmetric:
        return result
    return pad_spatial(ctx, result, [-size for size in window.begin], [-size for size in window.end], 0.0)


def _transposed_window(ctx: OpContext, spatial: tuple[Dim, ...], kernel: list[int]) -> tuple[Window, list[int]]:
    """The window and the output padding, both as stated or as the wanted output shape asks for."""
    rank = len(kernel)
    stride = ctx.integers("strides") or [1] * rank
    dilation = ctx.integers("dilations") or [1] * rank
    extra = ctx.integers("output_padding") or [0] * rank
    mode = ctx.word("auto_pad", "NOTSET")
    wanted = ctx.integers("output_shape")
    if wanted is None and not mode.startswith("SAME"):
        pads = ctx.integers("pads") or [0] * (2 * rank)
        pads = [0] * (2 * rank) if mode == "VALID" else pads
        return Window(kernel, stride, dilation, pads[:rank], pads[rank:]), extra
    begin, end = [0] * rank, [0] * rank
    for axis in range(rank):
        reach, step = (kernel[axis] - 1) * dilation[axis] + 1, stride[axis]
        if wanted is None:
            surplus = reach - step + extra[axis]
        else:
            size = ctx.static(spatial[axis], "an axis with a wanted output shape")
            surplus = step * (size - 1) + extra[axis] + reach - wanted[-rank:][axis]
        if surplus < 0:
            extra, surplus = [*extra[:axis], extra[axis] - surplus, *extra[axis + 1 :]], 0
        small, large = surplus // 2, surplus - surplus // 2
        begin[axis], end[axis] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(kernel, stride, dilation, begin, end), extra


WINDOW: dict[str, Operator] = {"Conv": convolution, "ConvTranspose": transposed_convolution}
