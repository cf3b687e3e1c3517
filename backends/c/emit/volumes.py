"""Convolutions of three axes, and transposed ones, as products of taps whose places are counted out.

A transposed convolution is written the way it is read: the results whose places leave the same rest when divided by the
stride see the same taps, and are an ordinary convolution of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from qcompiler.backends.c.emit.dense import Window, bordered, window_of
from qcompiler.backends.c.emit.nest import images
from qcompiler.backends.c.emit.products import bias_of, weight_of
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.c.value import Value, channels_last, row_major
from qcompiler.backends.lowering.call import Call

_GEOMETRY = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Phase:
    """Results along one axis that see the same taps.

    Args:
        first: of these results.
        count: of them.
        taps: that they see.
        places: of those in the image, counted from the first result; negative ones lie in front of it.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    places: tuple[int, ...]


def phases(results: int, size: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """Results o of a transposed convolution by o mod stride: i and k with `o = i * stride - padding + k * dilation`."""
    found: list[Phase] = []
    for first in range(min(stride, results)):
        taps = [tap for tap in range(size) if (first + padding - tap * dilation) % stride == 0]
        places = tuple((first + padding - tap * dilation) // stride for tap in taps)
        found.append(Phase(first, -(-(results - first) // stride), tuple(taps), places))
    return found


def tapped(
    generator: Generator,
    weight: np.ndarray,
    places: Sequence[int],
    bias: Value | None,
    image: Value,
    stride: Sequence[int],
    out: Value,
) -> None:
    """Products of all taps of every window.

    Args:
        generator: takes the calls.
        weight: [outputs, taps, inputs].
        places: of the taps from the first element of a window.
        bias: one per output.
        image: channels innermost, from the first element of the first window on.
        stride: between windows, by axis.
        out: channels innermost, rows of the last two axes at equal distances.
    """
    offsets = generator.constant(np.array(places, dtype=np.int32), "int32_t")
    packed = generator.constant(blocked(weight.astype(np.float32), generator.layout("gemm_f32")), "float")
    space = out.shape[2:]
    places_of = (
        places
        for lead in np.ndindex(*space[:-2])
        for places in images(generator, _at(image, lead, stride[:-2]), _at(out, lead, (1,) * len(lead)))
    )
    for source, target in places_of:
        fields: dict[str, str | int] = {
            "input": source,
            "width": out.shape[-1],
            "inner_stride": image.strides[-1] * stride[-1],
            "outer_stride": image.strides[-2] * stride[-2] if len(space) > 1 else 0,
            "offsets": generator.pointer(offsets),
            "weight": generator.pointer(packed),
            "columns": weight.shape[0],
            "taps": weight.shape[1],
            "depth": weight.shape[2],
            "bias": generator.pointer(bias) if bias is not None else "NULL",
            "out": target,
            "out_stride": out.strides[-1],
            "low": "-INFINITY",
            "high": "INFINITY",
        }
        generator.call("gemm_f32", fields, math.prod(space[-2:]))


def _at(value: Value, lead: Sequence[int], steps: Sequence[int]) -> Value:
    """The outer axes of space at an index."""
    for axis, index, step in zip(range(2, len(lead) + 2), lead, steps, strict=True):
        value = value.sliced(axis, index * step, 1)
    return value


def conv(generator: Generator, call: Call) -> Emitted:
    """A convolution of three axes."""
    weight = weight_of(generator, call)
    rank = weight.ndim - 2
    window = window_of(call, [call.arguments[name] for name in _GEOMETRY], weight.shape[2:])
    source = generator.operand(call.node_at("input"))
    if len(source.shape) != weight.ndim:
        raise call.unsupported("an image without a batch axis")
    image = bordered(generator, source, window, 0)
    out = generator.new(generator.shape(call.node), "float", channels_last(rank + 2))
    bias = bias_of(generator, call)
    steps = [step * dilation for step, dilation in zip(image.strides[2:], window.dilation, strict=True)]
    places = [sum(map(math.prod, zip(tap, steps, strict=True))) for tap in np.ndindex(*window.size)]
    inputs, outputs = weight.shape[1], weight.shape[0] // window.groups
    taps = np.moveaxis(weight.reshape(weight.shape[0], inputs, -1), 1, -1)
    for group in range(window.groups):
        picked = slice(group * outputs, (group + 1) * outputs)
        own = bias.sliced(0, group * outputs, outputs) if bias is not None else None
        part = out.sliced(1, group * outputs, outputs)
        tapped(generator, taps[picked], places, own, image.sliced(1, group * inputs, inputs), window.stride, part)
    return out


def transposed(generator: Generator, call: Call) -> Emitted:
    """A transposed convolution of one to three axes; weights are constant."""
    weight = weight_of(generator, call)
    rank = weight.ndim - 2
    window = window_of(call, [call.arguments[name] for name in _GEOMETRY], weight.shape[2:])
    source = generator.operand(call.node_at("input"))
    if len(source.shape) != weight.ndim:
        raise call.unsupported("an image without a batch axis")
    out = generator.new(generator.shape(call.node), "float", channels_last(rank + 2))
    numbers = zip(out.shape[2:], window.size, window.stride, window.padding, window.dilation, strict=True)
    axes = [phases(*each) for each in numbers]
    pads = [_reach(found, size) for found, size in zip(axes, source.shape[2:], strict=True)]
    ones = (1,) * rank
    image = bordered(generator, source, Window(ones, ones, tuple(pads), ones, 1), 0)
    room = generator.new((out.shape[0], out.shape[1], *(max(p.count for p in found) for found in axes)), "float")
    for chosen in product(*axes):
        shape = (*out.shape[:2], *(phase.count for phase in chosen))
        part = Value(room.buffer, "float", shape, row_major(shape, channels_last(rank + 2)))
        _phase(generator, call, weight, window.groups, chosen, pads, image, part)
        target = out
        for axis, (phase, step) in enumerate(zip(chosen, window.stride, strict=True), 2):
            target = target.sliced(axis, phase.first, phase.count, step)
        generator.loop(target, part)
    return out


def _reach(found: Sequence[Phase], size: int) -> int:
    """How far results look beyond either end of an axis."""
    before = [-place for phase in found for place in phase.places]
    behind = [place + phase.count - size for phase in found for place in phase.places]
    return max([0, *before, *behind])


def _phase(
    generator: Generator,
    call: Call,
    weight: np.ndarray,
    groups: int,
    chosen: Sequence[Phase],
    pads: Sequence[int],
    image: Value,
    out: Value,
) -> None:
    bias = bias_of(generator, call)
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    if not all(phase.taps for phase in chosen):
        wide = None if bias is None else bias.reshaped((1, bias.count, *[1] * len(chosen)))
        generator.loop(
            out, Computed("float", out.shape, "0.0f" if wide is None else "{0}", () if wide is None else (wide,))
        )
        return
    taps = weight[(slice(None), slice(None), *np.ix_(*(phase.taps for phase in chosen)))]
    taps = taps.reshape(*weight.shape[:2], -1)
    steps = image.strides[2:]
    places = [
        sum((place + pad) * step for place, pad, step in zip(tap, pads, steps, strict=True))
        for tap in product(*(phase.places for phase in chosen))
    ]
    for group in range(groups):
        own = bias.sliced(0, group * outputs, outputs) if bias is not None else None
        picked = np.moveaxis(taps[group * inputs : (group + 1) * inputs], 0, -1)
        source, part = image.sliced(1, group * inputs, inputs), out.sliced(1, group * outputs, outputs)
        tapped(generator, picked, places, own, source, (1,) * len(chosen), part)


EMITTERS: dict[str, Emitter] = {
    "aten.conv3d": conv,
    "aten.conv_transpose1d": transposed,
    "aten.conv_transpose2d.input": transposed,
    "aten.conv_transpose3d.input": transposed,
}
