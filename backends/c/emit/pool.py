"""Pools over windows: kernels for images whose channels lie side by side, loops for volumes and whole numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed, Operand
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Element, Value, channels_last
from qcompiler.backends.lowering.call import Call

_PLANE = 2
"""Spatial axes that kernels of pools have."""


@dataclass(frozen=True)
class Pool:
    """Geometry of a pool, per spatial axis."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def count(self) -> int:
        """Pixels of a window."""
        return math.prod(self.size)


def max_pool(generator: Generator, call: Call) -> Emitted:
    """The largest element of every window; what lies outside does not count. Codes are compared as they are."""
    return _max_pool(generator, call, generator.shape(call.node))


def max_pool_alone(generator: Generator, call: Call) -> Emitted:
    """`max_pool` where the operator also tells positions, which nothing may read."""
    if any(user.args[1] != 0 for user in call.node.users if user.users or user in generator.program.outputs):
        raise call.unsupported("positions of the largest elements")
    type_ = call.types[0]
    if type_ is None:
        raise call.unsupported("it has no result")
    return [_max_pool(generator, call, tuple(map(generator.size, type_.shape))), None]


def _max_pool(generator: Generator, call: Call, shape: tuple[int, ...]) -> Value:
    source = generator.operand(call.node_at("self"))
    rank = len(shape) - 2
    size = _spread(call.integers("kernel_size"), rank)
    stride = _spread(call.integers("stride"), rank) if call.raw("stride") else size
    pool = Pool(size, stride, _spread(call.integers("padding"), rank), _spread(call.integers("dilation"), rank))
    if rank > _PLANE or source.element not in ("qc_act", "float"):
        return _volumes(generator, generator.settled(source), shape, pool, mean=False)
    low, high = ("-128.0f", "127.0f") if generator.signed else ("0.0f", "255.0f")
    limits = {"kind": "QC_POOL_MAX", "low": low, "high": high} if source.element == "qc_act" else {"mean": 0}
    return pooled(generator, source, shape, pool, source.element, limits)


def pooled(
    generator: Generator,
    source: Operand,
    shape: Sequence[int],
    pool: Pool,
    element: Element,
    fields: Mapping[str, str | int],
    shift: int | None = None,
) -> Value:
    """A call of the kernel of a pool.

    Args:
        generator: takes the layer.
        source: images of floats or codes of one or two spatial axes.
        shape: of the result, or of one that has as many elements for each image.
        pool: the windows.
        element: of the source and the result.
        fields: of the kernel beside those of the geometry.
        shift: of the result; by default that of the source.
    """
    image = images(generator, source)
    rank = len(image.shape)
    sizes = shape[2:] if len(shape) == rank else (1,) * (rank - 2)
    out = generator.new(shape, element, channels_last(len(shape)), source.shift if shift is None else shift)
    arguments: dict[str, str | int] = {
        "input": generator.pointer(image),
        "window.extent": _plane(image.shape[2:], 1),
        "window.out_extent": _plane(sizes, 1),
        "window.size": _plane(pool.size, 1),
        "window.stride": _plane(pool.stride, 1),
        "window.dilation": _plane(pool.dilation, 1),
        "window.padding": _plane(pool.padding, 0),
        "window.image_step": image.strides[0],
        "window.line_step": image.strides[-2] if rank > _PLANE + 1 else 0,
        "window.pixel_step": image.strides[-1],
        "channels": image.shape[1],
        **fields,
        "out": generator.pointer(out),
        "out_stride": image.shape[1],
    }
    name = "pool_i8" if element == "qc_act" else "pool_f32"
    generator.call(name, arguments, shape[0] * math.prod(sizes))
    return out


def images(generator: Generator, source: Operand) -> Value:
    """Images whose channels lie side by side."""
    order = channels_last(len(source.shape))
    value = generator.settled(source, order)
    beside = value.strides[1] == 1 or value.shape[1] == 1
    return value if beside and value.buffer.kind == "arena" else generator.copied(value, order)


def _plane(numbers: Sequence[int], missing: int) -> str:
    """A number for lines and one for pixels; images of one axis have one line."""
    return "{" + ", ".join(map(str, [*[missing] * (_PLANE - len(numbers)), *numbers])) + "}"


def average_of(generator: Generator, call: Call, arguments: Sequence[object]) -> tuple[Pool, int, bool]:
    """The windows of an average pool, what their sums are divided by, and whether the last may be cut off.

    Args:
        generator: knows the shape of the result.
        call: the operator or its kernel.
        arguments: of the operator behind its tensor.

    Returns:
        Geometry; divisor, 0 for the number of pixels inside of the image; whether windows reach beyond the padding.
    """
    rank = len(generator.shape(call.node)) - 2
    size, stride, padding, beyond, counts_padding, divisor = [*arguments, *[None] * 6][:6]
    sizes = _spread(_list(size), rank)
    strides = _spread(_list(stride), rank) if _list(stride) else sizes
    pads = _spread(_list(padding), rank) if _list(padding) else (0,) * rank
    pool = Pool(sizes, strides, pads, (1,) * rank)
    if isinstance(divisor, int):
        return pool, divisor, False
    counted = pool.count if counts_padding is None or counts_padding else 0
    return pool, counted, bool(beyond) and counted > 0


def average_pool(generator: Generator, call: Call) -> Emitted:
    """The mean of every window, summed row by row in float32."""
    source = generator.operand(call.node_at("self"))
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    pool, divisor, beyond = average_of(generator, call, [call.arguments.get(name) for name in names])
    shape = generator.shape(call.node)
    known = float_text(1 if beyond else divisor)
    if len(shape) > _PLANE + 2:
        means = _volumes(generator, generator.settled(source), shape, pool, mean=True, divisor=known)
    else:
        means = pooled(generator, source, shape, pool, "float", {"mean": 1, "divisor": known})
    if not beyond:
        return means
    # A last window may reach beyond the padding, and what lies there counts for nothing.
    reach = generator.constant(_reach(pool, source.shape[2:], shape[2:]), "float")
    return generator.fused(call.node, Computed("float", shape, "{0} / {1}", (means, reach)))


def _reach(pool: Pool, extent: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """How many pixels of each window lie within the image and its padding."""
    counts = np.ones(tuple(sizes), np.float32)
    for axis, size in enumerate(sizes):
        start = np.arange(size) * pool.stride[axis] - pool.padding[axis]
        inside = np.minimum(extent[axis] + pool.padding[axis] - start, pool.size[axis])
        counts = counts * inside.reshape([-1 if each == axis else 1 for each in range(len(sizes))]).astype(np.float32)
    return counts


def _volumes(
    generator: Generator, source: Value, shape: Sequence[int], pool: Pool, *, mean: bool, divisor: str = ""
) -> Value:
    """Windows one element after the other: of three spatial axes, or of whole numbers."""
    out = generator.new(shape, source.element, channels_last(len(shape)), source.shift)
    if mean:
        result = "sum / count" if divisor == float_text(0) else f"sum / {divisor}"
        fold = "{ sum += x; count += 1.0f; }"
        _windows(generator, source, out, pool, "float sum = 0.0f, count = 0.0f;", fold, result, "(void)count;")
        return out
    fold = "{ best = !any || x > best || x != x ? x : best; any = 1; }"
    _windows(generator, source, out, pool, f"{source.element} best = 0; int any = 0;", fold, "best")
    return out


def _windows(
    generator: Generator,
    source: Value,
    out: Value,
    pool: Pool,
    start: str,
    fold: str,
    result: str,
    end: str = "",
) -> None:
    """Loops over results, then over each one's window."""
    rank = len(out.shape) - 2
    lines = [
        f"const {source.element} *in = {generator.pointer(source)};",
        f"{out.element} *out = {generator.pointer(out)};",
    ]
    outer = [("b", out.shape[0], 0), *((f"o{i}", out.shape[2 + i], 2 + i) for i in range(rank)), ("f", out.shape[1], 1)]
    for depth, (name, size, _) in enumerate(outer):
        lines.append(f"{'    ' * depth}for (ptrdiff_t {name} = 0; {name} < {size}; ++{name}) {{")
    tab = "    " * len(outer)
    lines.append(f"{tab}{start}")
    for i in range(rank):
        tab = "    " * (len(outer) + i)
        at = f"o{i} * {pool.stride[i]} + k{i} * {pool.dilation[i]} - {pool.padding[i]}"
        lines.append(f"{tab}for (ptrdiff_t k{i} = 0; k{i} < {pool.size[i]}; ++k{i}) {{")
        lines.append(f"{tab}    const ptrdiff_t p{i} = {at};")
        lines.append(f"{tab}    if (p{i} < 0 || p{i} >= {source.shape[2 + i]}) continue;")
    tab = "    " * (len(outer) + rank)
    place = " + ".join(
        f"{name} * {stride}"
        for name, stride in zip(("b", "f", *(f"p{i}" for i in range(rank))), source.strides, strict=True)
    )
    lines += [f"{tab}const {source.element} x = in[{place}];", f"{tab}{fold}"]
    lines += ["    " * (len(outer) + i) + "}" for i in reversed(range(rank))]
    tab = "    " * len(outer)
    target = " + ".join(f"{name} * {out.strides[axis]}" for name, _, axis in outer)
    lines += [f"{tab}out[{target}] = {result};", *([f"{tab}{end}"] if end else [])]
    lines += ["    " * depth + "}" for depth in reversed(range(len(outer)))]
    generator.write("{", *(f"    {line}" for line in lines), "}")


def _list(found: object) -> list[int]:
    items = found if isinstance(found, list | tuple) else [] if found is None else [found]
    return [item for item in items if isinstance(item, int)]


def _spread(found: list[int], rank: int) -> tuple[int, ...]:
    return tuple(found) if len(found) == rank else tuple(found[:1]) * rank


EMITTERS: dict[str, Emitter] = {
    "aten.max_pool1d": max_pool,
    "aten.max_pool2d": max_pool,
    "aten.max_pool3d": max_pool,
    "aten.max_pool2d_with_indices": max_pool_alone,
    "aten.max_pool3d_with_indices": max_pool_alone,
    "aten.avg_pool1d": average_pool,
    "aten.avg_pool2d": average_pool,
    "aten.avg_pool3d": average_pool,
}
