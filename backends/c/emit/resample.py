"""Axes whose elements become constant mixtures of others: resizing, adaptive means, mirrored borders.

Operators that treat every axis alike tell their own mixtures: each is called on the unit vectors of one axis at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import index

import numpy as np
import torch

from qcompiler.backends.c.emit.nest import block, declared, names, nested, over, place
from qcompiler.backends.c.extent import Extent, most
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.value import Value, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.ir import ops

_UNROLLED = 8
_IDLE = 2
Arguments = Callable[[Generator, Call, int, int], Sequence[object]]
"""Arguments behind the tensor for a call that changes one of so many axes."""


def picked(generator: Generator, source: Value, positions: Mapping[int, np.ndarray]) -> Value:
    """Copies elements whose indices along some axes are constants; the others stay."""
    shape = tuple(len(positions[axis]) if axis in positions else size for axis, size in enumerate(source.shape))
    out = generator.new(shape, source.element, source.order, source.shift)
    indices = names(len(shape))
    reads = [f"at{axis}[{index}]" if axis in positions else index for axis, index in enumerate(indices)]
    body = [f"out[{place(out, indices)}] = in[{place(source, reads)}];"]
    block(
        generator,
        [
            *declared(generator, out, {"in": source}),
            *[f"const int32_t *at{axis} = {_table(generator, found)};" for axis, found in positions.items()],
            *nested(over(out), body),
        ],
    )
    return out


def mixed(generator: Generator, source: Value, axis: int, matrix: np.ndarray) -> Value:
    """`out[o] = sum over i of matrix[o, i] * in[i]` along an axis, by a chain of fused multiply-adds over rising i."""
    if (np.count_nonzero(matrix, axis=1) <= 1).all() and (matrix.sum(axis=1) == 1).all():
        return picked(generator, source, {axis: matrix.argmax(axis=1)})
    positions, weights = _sparse(matrix)
    taps = positions.shape[1]
    shape = tuple(len(matrix) if i == axis else size for i, size in enumerate(source.shape))
    out = generator.new(shape, "float", source.order)
    indices = names(len(shape))
    reads = [f"at[{indices[axis]} * {taps} + t]" if i == axis else index for i, index in enumerate(indices)]
    term = f"fmaf(weight[{indices[axis]} * {taps} + t], in[{place(source, reads)}], sum)"
    target = f"out[{place(out, indices)}]"
    if taps <= _UNROLLED:
        text = "0.0f"
        for tap in range(taps):
            text = term.replace(" + t]", f" + {tap}]").replace("sum)", f"{text})")
        body = [f"{target} = {text};"]
    else:
        body = ["float sum = 0.0f;", *nested([("t", taps)], [f"sum = {term};"]), f"{target} = sum;"]
    stored = generator.pointer(generator.constant(weights, "float"))
    lines = [f"const int32_t *at = {_table(generator, positions)};", f"const float *weight = {stored};"]
    block(generator, [*declared(generator, out, {"in": source}), *lines, *nested(over(out), body)])
    return out


def _table(generator: Generator, positions: np.ndarray) -> str:
    return generator.pointer(generator.constant(positions.astype(np.int32), "int32_t"))


def _sparse(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights of what is not zero in every row, filled up with zeros at the last position."""
    taps = max(int(np.count_nonzero(matrix, axis=1).max()), 1)
    positions = np.zeros((len(matrix), taps), dtype=np.int32)
    weights = np.zeros((len(matrix), taps), dtype=np.float32)
    for row, found in enumerate(matrix):
        (used,) = np.nonzero(found)
        positions[row] = used[-1] if len(used) else 0
        positions[row, : len(used)], weights[row, : len(used)] = used, found[used]
    return positions, weights


def matrices(generator: Generator, call: Call, source: Value, rank: int, arguments: Arguments) -> dict[int, np.ndarray]:
    """What an operator does to each of the last `rank` axes, as matrices [results, elements]."""
    target = ops.op_target(call.op)
    first = len(source.shape) - rank
    found: dict[int, np.ndarray] = {}
    for position in range(rank):
        size = index(source.shape[first + position])
        shape = [size if i == position else 1 for i in range(rank)]
        # Other axes have two elements: with one, torch's anti-aliased resizing of tall images is wrong.
        wide = [size if i == position else _IDLE for i in range(rank)]
        units = torch.eye(size).reshape(size, 1, *shape).expand(size, 1, *wide).contiguous()
        result = target(units, *arguments(generator, call, position, rank))
        if not isinstance(result, torch.Tensor):
            raise call.unsupported("its result is not one tensor")
        for axis in range(rank):
            result = result if axis == position else result.narrow(2 + axis, 0, 1)
        matrix = result.reshape(size, -1).T.numpy()
        if not np.array_equal(matrix, np.eye(size)):
            found[first + position] = matrix
    return found


def _along(generator: Generator, call: Call, name: str, rank: int, arguments: Arguments) -> Emitted:
    source = generator.settled(generator.operand(call.node_at(name)))
    if source.order != channels_last(len(source.shape)) and len(source.shape) == rank + 2:
        source = generator.copied(source, channels_last(len(source.shape)))
    for axis, matrix in matrices(generator, call, source, rank, arguments).items():
        if source.element != "float" and np.count_nonzero(matrix) > len(matrix):
            raise call.unsupported(f"mixtures of {source.element}")
        source = mixed(generator, source, axis, matrix)
    return source


def _resized(generator: Generator, call: Call, axis: int, rank: int) -> Sequence[object]:
    sizes = [generator.size(size) for size in call.sizes("output_size")]
    factors = call.raw("scale_factors")
    corners = [call.flag("align_corners")] if "align_corners" in call.arguments else []
    if sizes:
        return [[sizes[i] if i == axis else _IDLE for i in range(rank)], *corners, None]
    if not isinstance(factors, list | tuple):
        raise call.unsupported("neither a size nor a factor")
    return [None, *corners, [factors[i] if i == axis else 1.0 for i in range(rank)]]


def _adapted(generator: Generator, call: Call, axis: int, rank: int) -> Sequence[object]:
    sizes = [generator.size(size) for size in call.sizes("output_size")]
    return [[sizes[i] if i == axis else _IDLE for i in range(rank)]]


def _bordered(generator: Generator, call: Call, axis: int, rank: int) -> Sequence[object]:
    pads = [generator.size(size) for size in call.sizes("padding")]
    first = 2 * (rank - 1 - axis)
    return [[pad if first <= i < first + 2 else 0 for i, pad in enumerate(pads)]]


def resize(rank: int, generator: Generator, call: Call) -> Emitted:
    """Images of another size."""
    source = generator.operand(call.node_at("input"))
    if "nearest" in call.op and any(isinstance(size, Extent) for size in source.shape[2:]):
        return _repeated(generator, call, generator.settled(source))
    return _along(generator, call, "input", rank, _resized)


def _repeated(generator: Generator, call: Call, source: Value) -> Value:
    """Every pixel several times, where only a call tells how many pixels there are."""
    shape = generator.shape(call.node)
    times = [whole // size for whole, size in zip(shape, source.shape, strict=True)]
    if any(count * size != whole for count, size, whole in zip(times, source.shape, shape, strict=True)):
        raise call.unsupported(f"{source.shape} to {shape}", "resize by a whole factor")
    out = generator.new(shape, source.element, channels_last(len(shape)), source.shift)
    cut = tuple(size for pair in zip(source.shape, times, strict=True) for size in pair)
    strides = tuple(each for stride, count in zip(out.strides, times, strict=True) for each in (stride * count, stride))
    still = tuple(each for stride in source.strides for each in (stride, 0))
    generator.loop(replace(out, shape=cut, strides=strides), replace(source, shape=cut, strides=still, border=0))
    return out


def adaptive_mean(rank: int, generator: Generator, call: Call) -> Emitted:
    """Means over windows that share the image out."""
    return _along(generator, call, "self", rank, _adapted)


def border(rank: int, generator: Generator, call: Call) -> Emitted:
    """Borders made of the image itself."""
    return _along(generator, call, "self", rank, _bordered)


def repeat_each(generator: Generator, call: Call) -> Emitted:
    """Every element of an axis several times in a row."""
    source = generator.settled(generator.operand(call.node_at("self")))
    times = generator.size(call.size("repeats", 1))
    if call.raw("dim") is None:
        source = generator.contiguous(source).reshaped((source.count,)) or source
    axis = call.axis("dim", len(source.shape)) if call.raw("dim") is not None else 0
    return picked(generator, source, {axis: np.repeat(np.arange(source.shape[axis]), times)})


def triangle(keep: Callable[[np.ndarray, int], np.ndarray], generator: Generator, call: Call) -> Emitted:
    """The part of matrices on one side of a diagonal, zeros elsewhere; a smaller mask is the corner of a larger one."""
    operand = generator.operand(call.node_at("self"))
    element, shift = generator.element(call.type)
    rows, columns = operand.shape[-2:]
    mask = keep(np.ones((most(rows), most(columns)), dtype=np.uint8), call.integer("diagonal"))
    corner = generator.constant(mask, "uint8_t").sliced(0, 0, rows).sliced(1, 0, columns)
    parts = (operand, corner)
    return generator.fused(call.node, Computed(element, operand.shape, "({1} ? {0} : 0)", parts, shift))


_LINEAR = ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
EMITTERS: dict[str, Emitter] = {
    **{f"aten.upsample_{kind}.vec": partial(resize, int(kind[-2])) for kind in _LINEAR},
    **{f"aten.upsample_nearest{rank}d.vec": partial(resize, rank) for rank in (1, 2, 3)},
    **{f"aten._upsample_nearest_exact{rank}d.vec": partial(resize, rank) for rank in (1, 2, 3)},
    **{f"aten._upsample_{kind}2d_aa.vec": partial(resize, 2) for kind in ("bilinear", "bicubic")},
    **{f"aten.adaptive_avg_pool{rank}d": partial(adaptive_mean, rank) for rank in (1, 2, 3)},
    **{f"aten.reflection_pad{rank}d": partial(border, rank) for rank in (1, 2, 3)},
    **{f"aten.replication_pad{rank}d": partial(border, rank) for rank in (1, 2, 3)},
    "aten.repeat_interleave.self_int": repeat_each,
    "aten.tril": partial(triangle, np.tril),
    "aten.triu": partial(triangle, np.triu),
}
