"""Operators that move elements: views where strides can say it, copies elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from qcompiler.backends.c.emit.elementwise import literal, operand_at
from qcompiler.backends.c.extent import Extent, most
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value, row_major
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

SOURCE = "self"


def reshape(generator: Generator, call: Call) -> Emitted:
    """Another shape of the same elements in row-major order."""
    value = generator.value(call.node_at(SOURCE))
    wanted = generator.shape(call.node)
    view = value.reshaped(wanted)
    if view is None:
        view = generator.copied(value, range(len(value.shape))).reshaped(wanted)
    if view is None:
        raise call.unsupported(f"{value.shape} cannot become {wanted}")
    return view


def permute(generator: Generator, call: Call) -> Emitted:
    """Axes in another order."""
    value = generator.value(call.node_at(SOURCE))
    return value.permuted(call.axes("dims", len(value.shape)))


def transpose(generator: Generator, call: Call) -> Emitted:
    """Two axes exchanged."""
    value = generator.value(call.node_at(SOURCE))
    axes = list(range(len(value.shape)))
    one, other = call.axis("dim0", len(axes)), call.axis("dim1", len(axes))
    axes[one], axes[other] = axes[other], axes[one]
    return value.permuted(axes)


def expand(generator: Generator, call: Call) -> Emitted:
    """Axes of one element repeated."""
    return generator.value(call.node_at(SOURCE)).expanded(generator.shape(call.node))


def slice_(generator: Generator, call: Call) -> Emitted:
    """A range of one axis."""
    value = generator.value(call.node_at(SOURCE))
    axis = call.axis("dim", len(value.shape))
    size = value.shape[axis]
    start = _bound(generator, call, "start", 0, size)
    return value.sliced(axis, start, generator.shape(call.node)[axis], call.integer("step"))


def select(generator: Generator, call: Call) -> Emitted:
    """One index of an axis, which goes."""
    value = generator.value(call.node_at(SOURCE))
    axis = call.axis("dim", len(value.shape))
    index = generator.size(call.size("index", 0))
    index += value.shape[axis] if index < 0 else 0
    picked = value.sliced(axis, index, 1)
    shape, strides = list(picked.shape), list(picked.strides)
    del shape[axis], strides[axis]
    return replace(picked, shape=tuple(shape), strides=tuple(strides))


def to_shape(generator: Generator, call: Call) -> Emitted:
    """Axes of one element added or removed."""
    value = generator.value(call.node_at(SOURCE))
    view = value.reshaped(generator.shape(call.node))
    if view is None:
        raise call.unsupported("more than axes of one element change")
    return view


def split(generator: Generator, call: Call) -> Emitted:
    """Pieces of an axis of given sizes."""
    value = generator.value(call.node_at(SOURCE))
    axis = call.axis("dim", len(value.shape))
    pieces: list[Value] = []
    start = 0
    for size in call.sizes("split_sizes"):
        count = generator.size(size)
        pieces.append(value.sliced(axis, start, count))
        start += count
    return list(pieces)


def unbind(generator: Generator, call: Call) -> Emitted:
    """Every index of an axis on its own."""
    value = generator.value(call.node_at(SOURCE))
    axis = call.axis("dim", len(value.shape))
    pieces = [value.sliced(axis, index, 1) for index in range(value.shape[axis])]
    shape = tuple(size for i, size in enumerate(value.shape) if i != axis)
    strides = tuple(stride for i, stride in enumerate(value.strides) if i != axis)
    return [replace(piece, shape=shape, strides=strides) for piece in pieces]


def flip(generator: Generator, call: Call) -> Emitted:
    """Axes backwards."""
    value = generator.value(call.node_at(SOURCE))
    for axis in call.axes("dims", len(value.shape)):
        value = value.sliced(axis, value.shape[axis] - 1, value.shape[axis], -1)
    return generator.copied(value, range(len(value.shape)))


def concatenate(generator: Generator, call: Call) -> Emitted:
    """Tensors side by side, each written to its part of the result."""
    nodes = [node for node in call.nodes("tensors") if node is not None]
    element, shift = generator.element(call.type)
    shape = generator.shape(call.node)
    axis = call.axis("dim", len(shape))
    # An empty tensor may have any number of axes.
    operands = [each for node in nodes if math.prod((each := generator.operand(node)).shape)]
    known = [operand.order for operand in operands if isinstance(operand, Value) and operand.shape.count(1) < 3]
    out = generator.joined.get(call.node) or generator.new(shape, element, known[0] if known else None, shift)
    start = 0
    for operand in operands:
        part = out.sliced(axis, start, operand.shape[axis])
        if operand != part:
            generator.loop(part, operand)
        start += operand.shape[axis]
    return out


def stack(generator: Generator, call: Call) -> Emitted:
    """Tensors along a new axis."""
    nodes = [node for node in call.nodes("tensors") if node is not None]
    element, shift = generator.element(call.type)
    shape = generator.shape(call.node)
    axis = call.axis("dim", len(shape))
    out = generator.new(shape, element, None, shift)
    for index, node in enumerate(nodes):
        part = out.sliced(axis, index, 1)
        kept = tuple(i for i in range(len(shape)) if i != axis)
        view = replace(part, shape=tuple(shape[i] for i in kept), strides=tuple(part.strides[i] for i in kept))
        generator.loop(view, generator.operand(node))
    return out


def pad(generator: Generator, call: Call) -> Emitted:
    """A constant around a tensor."""
    value = generator.operand(call.node_at(SOURCE))
    element, shift = generator.element(call.type)
    filling = float_text(call.number("value", 0.0)) if element == "float" else str(int(call.number("value", 0.0)))
    return padded(generator, value, [generator.size(size) for size in call.sizes("pad")], filling, element, shift)


def padded(
    generator: Generator, operand: Value | Computed, pads: list[int], filling: str, element: str, shift: int
) -> Value:
    """`operand` with `filling` around it; negative pads cut. `pads` counts from the last axis, as ATen does."""
    shape, moved = list(operand.shape), generator.settled(operand)
    for position in range(len(pads) // 2):
        axis = len(shape) - 1 - position
        before, after = pads[2 * position : 2 * position + 2]
        cut = moved.sliced(axis, max(-before, 0), moved.shape[axis] + min(before, 0) + min(after, 0))
        moved = cut
        shape[axis] += before + after
    out = generator.new(shape, moved.element, moved.order, shift)
    inner = out
    for position in range(len(pads) // 2):
        axis = len(shape) - 1 - position
        inner = inner.sliced(axis, max(pads[2 * position], 0), moved.shape[axis])
    if out.count != moved.count:
        generator.loop(out, Computed(moved.element, out.shape, filling, (), shift))
    generator.loop(inner, moved)
    del element
    return out


def repeat(generator: Generator, call: Call) -> Emitted:
    """Whole tensors side by side, along every axis."""
    value = generator.value(call.node_at(SOURCE))
    shape = generator.shape(call.node)
    times = [generator.size(size) for size in call.sizes("repeats")]
    missing = len(shape) - len(value.shape)
    sizes = (*[1] * missing, *value.shape)
    strides = (*[0] * missing, *value.strides)
    out = generator.new(shape, value.element, None, value.shift)
    cut_shape = tuple(size for pair in zip(times, sizes, strict=True) for size in pair)
    cut_strides = tuple(
        stride
        for time, size, stride in zip(times, sizes, out.strides, strict=True)
        for stride in (stride * size if time != 1 else 0, stride)
    )
    source = replace(
        value,
        shape=cut_shape,
        strides=tuple(each for stride in strides for each in (0, stride)),
        border=0,
    )
    generator.loop(replace(out, shape=cut_shape, strides=cut_strides), source)
    return out


def pixel_shuffle(generator: Generator, call: Call) -> Emitted:
    """Channels become pixels: [..., C r^2, H, W] -> [..., C, H r, W r]."""
    value, factor = generator.value(call.node_at(SOURCE)), call.integer("upscale_factor")
    *lead, channels, height, width = value.shape
    count = len(lead)
    cut = _cut(value, count, (channels // factor**2, factor, factor))
    axes = (*range(count), count, count + 3, count + 1, count + 4, count + 2)
    moved = cut.permuted(axes)
    shape = (*lead, channels // factor**2, height * factor, width * factor)
    return _merged(generator, moved, shape, (*range(count), count + 1, count + 2, count))


def pixel_unshuffle(generator: Generator, call: Call) -> Emitted:
    """Pixels become channels: [..., C, H r, W r] -> [..., C r^2, H, W]."""
    value, factor = generator.value(call.node_at(SOURCE)), call.integer("downscale_factor")
    *lead, channels, height, width = value.shape
    count = len(lead)
    shape = (*lead, channels, height // factor, factor, width // factor, factor)
    *outer, rows, columns = value.strides
    cut = replace(value, shape=shape, strides=(*outer, rows * factor, rows, columns * factor, columns), border=0)
    moved = cut.permuted((*range(count), count, count + 2, count + 4, count + 1, count + 3))
    merged = (*lead, channels * factor**2, height // factor, width // factor)
    return _merged(generator, moved, merged, None)


def _cut(value: Value, axis: int, sizes: tuple[int, ...]) -> Value:
    """One axis taken apart into several."""
    stride = value.strides[axis]
    inner = tuple(stride * step for step in row_major(sizes))
    return replace(
        value,
        shape=(*value.shape[:axis], *sizes, *value.shape[axis + 1 :]),
        strides=(*value.strides[:axis], *inner, *value.strides[axis + 1 :]),
        border=0,
    )


def _merged(generator: Generator, moved: Value, shape: tuple[int, ...], order: tuple[int, ...] | None) -> Value:
    """A copy whose neighbouring axes are merged to `shape`."""
    del order
    out = generator.copied(moved, range(len(moved.shape)))
    return replace(out, shape=shape, strides=row_major(shape))


def roll(generator: Generator, call: Call) -> Emitted:
    """Elements shifted around along axes."""
    value = generator.value(call.node_at(SOURCE))
    whole = value.shape
    shifts = [generator.size(size) for size in call.sizes("shifts")]
    axes = call.axes("dims", len(value.shape)) if call.sizes("dims") else [0]
    if not call.sizes("dims"):
        value = generator.contiguous(value).reshaped((value.count,)) or value
    for axis, shift in zip(axes, shifts, strict=True):
        size = value.shape[axis]
        out = generator.new(value.shape, value.element, value.order, value.shift)
        cut = shift % size
        if cut:
            generator.loop(out.sliced(axis, 0, cut), value.sliced(axis, size - cut, cut))
        generator.loop(out.sliced(axis, cut, size - cut), value.sliced(axis, 0, size - cut))
        value = out
    return value.reshaped(whole) or value


def full(generator: Generator, call: Call, filling: float | None = None) -> Emitted:
    """A constant tensor."""
    element, _ = generator.element(call.type)
    text = operand_at(generator, call, "fill_value", element) if filling is None else literal(filling, element)
    if not isinstance(text, str):
        raise call.unsupported("a tensor as what fills it")
    return generator.fused(call.node, Computed(element, generator.shape(call.node), text, ()))


def arange(generator: Generator, call: Call) -> Emitted:
    """Numbers in steps: constants, of which a call takes as many as it chooses."""
    start = _number(generator, call, "start", 0)
    step = _number(generator, call, "step", 1)
    element, _ = generator.element(call.type)
    (count,) = generator.shape(call.node)
    longest = most(count)
    if isinstance(start, Extent):
        found = generator.constant(np.arange(longest, dtype=np.int64), "int64_t").sliced(0, 0, count)
        return generator.fused(call.node, Computed(element, (count,), f"{start} + {step} * {{0}}", (found,)))
    numbers = torch.tensor([start + step * i for i in range(longest)], dtype=call.type.dtype)
    return generator.constant(np.asarray(numbers.numpy()), element).sliced(0, 0, count)


def _number(generator: Generator, call: Call, name: str, default: float) -> float:
    found = call.raw(name)
    if isinstance(found, Node):
        return generator.size(found)
    return found if isinstance(found, int | float) else default


def _bound(generator: Generator, call: Call, name: str, default: int, size: int) -> int:
    found = call.raw(name)
    value = default if found is None else generator.size(found)  # pyright: ignore[reportArgumentType]
    return min(max(value + size if value < 0 else value, 0), size)


EMITTERS: dict[str, Emitter] = {
    "aten.reshape": reshape,
    "aten.permute": permute,
    "aten.transpose.int": transpose,
    "aten.expand": expand,
    "aten.slice.Tensor": slice_,
    "aten.select.int": select,
    "aten.squeeze": to_shape,
    "aten.squeeze.dim": to_shape,
    "aten.squeeze.dims": to_shape,
    "aten.unsqueeze": to_shape,
    "aten.split_with_sizes": split,
    "aten.unbind.int": unbind,
    "aten.flip": flip,
    "aten.cat": concatenate,
    "aten.stack": stack,
    "aten.constant_pad_nd": pad,
    "aten.repeat": repeat,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.roll": roll,
    "aten.full": full,
    "aten.full_like": full,
    "aten.zeros": lambda generator, call: full(generator, call, 0.0),
    "aten.zeros_like": lambda generator, call: full(generator, call, 0.0),
    "aten.ones": lambda generator, call: full(generator, call, 1.0),
    "aten.ones_like": lambda generator, call: full(generator, call, 1.0),
    "aten.new_full": full,
    "aten.new_zeros": lambda generator, call: full(generator, call, 0.0),
    "aten.new_ones": lambda generator, call: full(generator, call, 1.0),
    "aten.arange": arange,
    "aten.arange.start": arange,
    "aten.arange.start_step": arange,
}
