"""Convolutions and linear layers over codes: arguments of the integer products, from the meanings of their kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.c.emit.finish import epilogue, quantized, zero_point
from qcompiler.backends.c.emit.grid import grid_of
from qcompiler.backends.c.emit.nest import images, taps
from qcompiler.backends.c.emit.residual import Residual, residual_of
from qcompiler.backends.c.extent import larger
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.number import float_text, integer_text
from qcompiler.backends.c.packing import blocked, depthwise_taps
from qcompiler.backends.c.value import Value, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand
from qcompiler.backends.reference.arithmetic import MOST_TERMS
from qcompiler.errors import UnsupportedError

_SHARED_DEPTH = 4
"""Taps that a level sums at once, for neighbouring windows to share columns: see qc_depthwise_i8.h."""


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution over images.

    Args:
        size: of the window, per spatial axis.
        stride: between windows.
        padding: pixels around the image.
        dilation: between pixels of a window.
        groups: of channels.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether every result reads one pixel, in order."""
        return all(size == 1 for size in self.size) and not any(self.padding)


def window_of(call: Call, arguments: Sequence[object], kernel: Sequence[int]) -> Window:
    """Stride, padding, dilation and groups, the arguments behind the bias."""
    stride, padding, dilation, groups = arguments[:4]
    rank = len(kernel)
    return Window(
        tuple(kernel),
        _numbers(call, stride, rank),
        _numbers(call, padding, rank),
        _numbers(call, dilation, rank),
        groups if isinstance(groups, int) else 1,
    )


def _numbers(call: Call, found: object, rank: int) -> tuple[int, ...]:
    items = list(found) if isinstance(found, list | tuple) else [found]
    if not all(isinstance(item, int) for item in items):
        raise call.unsupported("its window is not made of numbers")
    return tuple(items) if len(items) == rank else tuple(items) * rank  # pyright: ignore[reportReturnType]


def conv(generator: Generator, call: Call) -> Emitted:
    """A convolution of one or two spatial axes."""
    x, w = quantized(call, 0), quantized(call, 1)
    codes = generator.program.param(w.codes).numpy().astype(np.int64)
    rank = codes.ndim - 2
    if rank > 2:
        raise call.unsupported(f"{rank} spatial axes")
    window = window_of(call, call.inputs[3:], codes.shape[2:])
    image = bordered(generator, generator.operand(x.codes), window, zero_point(generator, x))
    depthwise = window.groups > 1 and codes.shape[1] == 1 and codes.shape[0] == window.groups
    if window.groups > 1 and not depthwise:
        return _grouped(generator, call, x, w, codes, window, image)
    if depthwise:
        out = _result(generator, call, channels_last(rank + 2))
        _convolve(generator, call, "depthwise_i8", x, w, codes, window, image, out, slice(None))
        return out
    residual = residual_of(generator, call)
    out = generator.room(call.node if residual is None else residual.call.node, channels_last(rank + 2))
    if residual is not None:
        generator.summed[residual.call.node] = out
    _convolve(generator, call, "gemm_i8", x, w, codes, window, image, out, slice(None), residual)
    return out


def _grouped(
    generator: Generator, call: Call, x: Operand, w: Operand, codes: np.ndarray, window: Window, image: Value
) -> Value:
    """Groups one after the other, each on its channels."""
    out = _result(generator, call, channels_last(codes.ndim))
    inputs, outputs = codes.shape[1], codes.shape[0] // window.groups
    for group in range(window.groups):
        picked = slice(group * outputs, (group + 1) * outputs)
        source = image.sliced(1, group * inputs, inputs)
        part = out.sliced(1, group * outputs, outputs)
        _convolve(generator, call, "gemm_i8", x, w, codes[picked], window, source, part, picked)
    return out


def _convolve(
    generator: Generator,
    call: Call,
    name: str,
    x: Operand,
    w: Operand,
    codes: np.ndarray,
    window: Window,
    image: Value,
    out: Value,
    picked: slice,
    residual: Residual | None = None,
) -> None:
    sums = codes.reshape(codes.shape[0], -1).sum(1)
    if math.prod(codes.shape[1:]) > MOST_TERMS:
        raise call.unsupported(f"a sum of {math.prod(codes.shape[1:])} products may overflow int32")
    packed, offsets, count, depth = _packed(generator, name, codes, window, image)
    finish = epilogue(generator, call, x, w, sums, out, picked)
    layout = generator.layout(name)
    space = list(out.shape[2:])
    columns = "channels" if name == "depthwise_i8" else "columns"
    others = [] if residual is None else [residual.other]
    for source, target, *other in images(generator, image, out, *others):
        fields: dict[str, str | int] = {
            "input": source,
            "width": space[-1],
            "inner_stride": image.strides[-1] * window.stride[-1],
            "outer_stride": image.strides[-2] * window.stride[-2] if len(space) > 1 else 0,
            "offsets": offsets,
            "weight": generator.pointer(packed),
            columns: codes.shape[0],
            "taps": count,
            "block_columns": layout.columns,
            "block_depth": layout.depth,
            "out": target,
            "out_stride": out.strides[-1],
            **{f"epilogue.{key}": text for key, text in finish.items()},
        }
        if residual is not None:
            added = residual.fields(generator, grid_of(generator, call), other[0])
            fields |= {f"epilogue.residual.{key}": text for key, text in added.items()}
        if name == "gemm_i8":
            fields["depth"] = depth
        else:
            fields["block_lanes"] = layout.lanes
        generator.call(name, fields, math.prod(space))


def _packed(
    generator: Generator, name: str, codes: np.ndarray, window: Window, image: Value
) -> tuple[Value, str, int, int]:
    """Packed weights, address of the offsets of the taps, how many there are, and inputs of each.

    The pixels of one row of the window lie side by side when nothing is skipped: they are one tap.
    """
    channels = codes.shape[1]
    rows, columns = (1, *window.size)[-2:]
    row_step = image.strides[-2] * window.dilation[0] if len(window.size) > 1 else 0
    column_step = image.strides[-1] * window.dilation[-1]
    layout = generator.layout(name)
    places = [(row, column) for row in range(rows) for column in range(columns)]
    if name == "depthwise_i8":
        order = codes.reshape(codes.shape[0], rows, columns)
        if layout.depth == _SHARED_DEPTH:
            order, places = depthwise_taps(order)
        order = order.reshape(codes.shape[0], -1)
    else:
        order = np.moveaxis(codes, 1, -1).reshape(codes.shape[0], rows * columns, channels)
        if column_step == channels:
            order = order.reshape(codes.shape[0], rows, columns * channels)
            places = [(row, 0) for row in range(rows)]
    steps = [row * row_step + column * column_step for row, column in places]
    offsets = taps(generator, steps)
    packed = blocked(order.astype(np.int8), layout)
    return generator.constant(packed, "int8_t"), offsets, len(steps), order.shape[-1]


def bordered(generator: Generator, operand: Value | Computed, window: Window, zero: int) -> Value:
    """An image in channels-last order whose border holds the zero point.

    Returns the view that starts at the first pixel of the first window: at the border, where there is one.
    """
    rank = len(operand.shape)
    order = channels_last(rank)
    wanted = max(window.padding, default=0)
    value = operand
    ready = isinstance(value, Value) and _is_image(value) and value.border >= wanted
    if not ready or not isinstance(value, Value):
        value = generator.new(operand.shape, operand.element, order, operand.shift, wanted)
        if wanted:
            fill_border(generator, value, zero)
        generator.loop(value, operand)
    elif value.buffer.kind == "input":
        value = generator.copied(value, order)
    shape = tuple(size if axis < 2 else size + 2 * window.padding[axis - 2] for axis, size in enumerate(value.shape))
    moved = value.offset - sum(pad * stride for pad, stride in zip(window.padding, value.strides[2:], strict=True))
    return Value(value.buffer, value.element, shape, value.strides, moved, value.shift)


def _is_image(value: Value) -> bool:
    """Whether channels are the innermost axis, without gaps between pixels of a row other than the border's."""
    return value.strides[1] == 1 or value.shape[1] == 1


def fill_border(generator: Generator, value: Value, zero: int) -> None:
    """Writes the zero point around an image."""
    border, rank = value.border, len(value.shape)
    whole = Value(
        value.buffer,
        value.element,
        tuple(size if axis < 2 else size + 2 * border for axis, size in enumerate(value.shape)),
        value.strides,
        value.offset - border * sum(value.strides[2:]),
        value.shift,
    )
    text = float_text(zero) if value.element == "float" else integer_text(zero)
    for axis in range(2, rank):
        for start in (0, whole.shape[axis] - border):
            part = whole.sliced(axis, start, border)
            for inner in range(2, axis):
                part = part.sliced(inner, border, value.shape[inner])
            generator.loop(part, Computed(value.element, part.shape, text, (), value.shift))


def linear(generator: Generator, call: Call) -> Emitted:
    """A linear layer; scales of its input may be known at run time only."""
    x, w = quantized(call, 0), quantized(call, 1)
    codes = generator.program.param(w.codes).numpy().astype(np.int64)
    if codes.shape[1] > MOST_TERMS:
        raise call.unsupported(f"a sum of {codes.shape[1]} products may overflow int32")
    source = rows_of(generator, generator.operand(x.codes))
    shape = generator.shape(call.node)
    element, shift = generator.element(call.type)
    out = generator.new(shape, element, None, shift)
    rows = math.prod(shape[:-1])
    finish = epilogue(generator, call, x, w, codes.sum(1), out, slice(None))
    layout = generator.layout("gemm_i8")
    packed = generator.constant(blocked(codes.astype(np.int8)[:, None], layout), "int8_t")
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "width": larger(rows, 1),
        "inner_stride": source.strides[-2],
        "outer_stride": 0,
        "weight": generator.pointer(packed),
        "columns": codes.shape[0],
        "taps": 1,
        "depth": codes.shape[1],
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": generator.pointer(out),
        "out_stride": shape[-1],
        **{f"epilogue.{key}": text for key, text in finish.items()},
    }
    generator.call("gemm_i8", fields, rows)
    return out


def rows_of(generator: Generator, operand: Value | Computed) -> Value:
    """A tensor as rows [M, K] at equal distances, inputs side by side."""
    value = generator.settled(operand)
    depth = value.shape[-1]
    flat = value.reshaped((-(-value.count // max(depth, 1)), depth))
    if flat is None or (flat.strides[-1] != 1 and depth != 1) or flat.buffer.kind == "input":
        flat = generator.copied(value, range(len(value.shape))).reshaped((value.count // max(depth, 1), depth))
    if flat is None:
        raise UnsupportedError(f"rows of {value.shape} do not lie at equal distances", step="emit")
    return flat


def _result(generator: Generator, call: Call, order: Sequence[int]) -> Value:
    """Memory for an image."""
    return generator.room(call.node, order)


KERNELS: dict[str, Emitter] = {"conv": conv, "linear": linear, "linear_dynamic": linear}
