"""Pools over windows, as loops: channels innermost, so that compilers vectorise over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Operand
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value, channels_last
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
    source = generator.settled(generator.operand(call.node_at("self")))
    rank = len(shape) - 2
    size = _spread(call.integers("kernel_size"), rank)
    stride = _spread(call.integers("stride"), rank) if call.raw("stride") else size
    pool = Pool(size, stride, _spread(call.integers("padding"), rank), _spread(call.integers("dilation"), rank))
    out = generator.new(shape, source.element, channels_last(len(shape)), source.shift)
    if source.element == "qc_act" and source.buffer.kind == "arena" and source.strides[1] == 1 and rank <= _PLANE:
        _largest_codes(generator, source, out, pool)
        return out
    best = f"{source.element} best = 0; int any = 0;"
    fold = "{ best = !any || x > best || x != x ? x : best; any = 1; }"
    _windows(generator, source, out, pool, best, fold, "best")
    return out


def _largest_codes(generator: Generator, source: Value, out: Value, pool: Pool) -> None:
    """The largest code of every window of an image whose channels lie side by side."""
    low, high = ("-128.0f", "127.0f") if generator.signed else ("0.0f", "255.0f")
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "window.extent": _plane(source.shape[2:], 1),
        "window.out_extent": _plane(out.shape[2:], 1),
        "window.size": _plane(pool.size, 1),
        "window.stride": _plane(pool.stride, 1),
        "window.dilation": _plane(pool.dilation, 1),
        "window.padding": _plane(pool.padding, 0),
        "window.image_step": source.strides[0],
        "window.line_step": source.strides[-2] if len(source.shape) > _PLANE + 1 else 0,
        "window.pixel_step": source.strides[-1],
        "channels": source.shape[1],
        "kind": "QC_POOL_MAX",
        "low": low,
        "high": high,
        "out": generator.pointer(out),
        "out_stride": out.strides[-1],
    }
    generator.call("pool_i8", fields, out.shape[0] * math.prod(out.shape[2:]))


def _plane(numbers: Sequence[int], missing: int) -> str:
    """A number for lines and one for pixels; images of one axis have one line."""
    return "{" + ", ".join(map(str, [*[missing] * (_PLANE - len(numbers)), *numbers])) + "}"


def average_pool(generator: Generator, call: Call) -> Emitted:
    """The mean of every window."""
    source = generator.settled(generator.operand(call.node_at("self")))
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return windowed_mean(generator, call, source, "{0}", [call.arguments.get(name) for name in names])


def windowed_mean(
    generator: Generator, call: Call, source: Value, element: str, arguments: Sequence[object]
) -> Operand:
    """Means over windows, summed row by row in float32.

    Args:
        generator: takes the layer.
        call: whose result has the shape of the means.
        source: images.
        element: expression of one element as a float, `{0}` what is stored.
        arguments: of the operator behind its tensor.
    """
    shape = generator.shape(call.node)
    rank = len(shape) - 2
    given = [*arguments, *[None] * 6][:6]
    size = _spread(_list(given[0]), rank)
    stride = _spread(_list(given[1]), rank) if _list(given[1]) else size
    padding = _spread(_list(given[2]), rank) if _list(given[2]) else (0,) * rank
    counts_padding = True if given[4] is None else bool(given[4])
    out = generator.new(shape, "float", channels_last(len(shape)))
    fold = f"{{ sum += {element.format('x')}; count += 1.0f; }}"
    pool = Pool(size, stride, padding, (1,) * rank)
    divisor = float_text(given[5] if isinstance(given[5], int) else math.prod(size))
    if given[3] and not isinstance(given[5], int):
        # A last window may reach beyond the padding, and what lies there counts for nothing.
        divisor = f"(float)({' * '.join(_reach(pool, source, axis) for axis in range(rank))})"
    result = f"sum / {divisor}" if counts_padding or given[5] else "sum / count"
    _windows(generator, source, out, pool, "float sum = 0.0f, count = 0.0f;", fold, result, "(void)count;")
    return out


def _reach(pool: Pool, source: Value, axis: int) -> str:
    """How much of a window lies within the image and its padding."""
    start = f"(o{axis} * {pool.stride[axis]} - {pool.padding[axis]})"
    end = source.shape[2 + axis] + pool.padding[axis]
    return f"({end} - {start} < {pool.size[axis]} ? {end} - {start} : {pool.size[axis]})"


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
