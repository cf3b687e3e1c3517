"""What kernels do with codes besides products: each formula is that of its meaning in
`backends.reference`, in the same order of roundings.
"""

from __future__ import annotations

import math

import torch

from qcompiler.backends.c.emit import fixed
from qcompiler.backends.c.emit import shape as moving
from qcompiler.backends.c.emit.finish import quantized
from qcompiler.backends.c.emit.grid import Grid, grid_of, static
from qcompiler.backends.c.emit.pool import Pool, average_of, images, pooled
from qcompiler.backends.c.emit.residual import Factors
from qcompiler.backends.c.emit.whole import looked_up
from qcompiler.backends.c.extent import Extent
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.loops import Operand as Element
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import operand_of
from qcompiler.backends.reference import pointwise
from qcompiler.backends.reference.fixed import Weights
from qcompiler.ir import ops
from qcompiler.ir.program import Node

_TOKENS = 3
"""Axes of rows of a text: batch, places, channels."""
_MOST_AXES = 4
"""Of images that kernels of pools take."""


def code(position: int, shift: int) -> str:
    """A stored code as a float."""
    return f"((float){{{position}}} - {float_text(shift)})" if shift else f"(float){{{position}}}"


def settle(text: str, grid: Grid) -> str:
    """A rounded number of steps, zero point included, as a stored code within its limits."""
    shifted = f"{text} + {float_text(grid.shift)}" if grid.shift else text
    return f"qc_clamp({shifted}, {grid.stored(grid.low)}, {grid.stored(grid.high)})"


def _coded(generator: Generator, call: Call, text: str, grid: Grid, parts: tuple[Element, ...]) -> Emitted:
    return _made(generator, call, settle(text, grid), grid, parts)


def _made(generator: Generator, call: Call, text: str, grid: Grid, parts: tuple[Element, ...]) -> Emitted:
    return generator.fused(call.node, Computed("qc_act", generator.shape(call.node), text, parts, grid.shift))


def add(generator: Generator, call: Call) -> Emitted:
    """`clip(round(fma(qa, a, fma(qb, b, c))))`, the constants as in `backends.reference.pointwise.add`."""
    made = generator.summed.get(call.node)
    if made is not None:
        return made
    left, right = quantized(call, 0), quantized(call, 1)
    shapes = [generator.shape(operand.codes) for operand in (left, right)]
    if _repeats(*shapes):
        left, right = right, left
    grid = grid_of(generator, call)
    if call.flag("fixed"):
        scales = [static(generator, call, operand)[0] / grid.scale for operand in (left, right)]
        return _added(generator, call, grid, Weights.of(*map(float, scales)))
    factors = Factors.of(generator, call, left, right, grid)
    one, other = generator.operand(left.codes), generator.operand(right.codes)
    inner = f"fmaf({code(1, other.shift)}, {float_text(factors.right)}, {float_text(factors.constant)})"
    text = f"qc_round(fmaf({code(0, one.shift)}, {float_text(factors.left)}, {inner}))"
    return _coded(generator, call, text, grid, (one, other))


def _added(generator: Generator, call: Call, grid: Grid, factors: Weights) -> Emitted:
    """`clip(round(((qa - za) A + (qb - zb) B) / 2^shift) + zy)`, in whole numbers."""
    terms, parts = [], []
    for position, factor in enumerate((factors.left, factors.right)):
        operand = quantized(call, position)
        value, (_, zero) = generator.operand(operand.codes), static(generator, call, operand)
        terms.append(f"((int32_t){{{position}}} - {int(zero) + value.shift}) * {factor}")
        parts.append(value)
    return _made(generator, call, fixed.shifted(" + ".join(terms), factors.shift, grid, short=True), grid, tuple(parts))


def _repeats(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether the meaning swaps the operands; see `backends.reference.pointwise`."""
    return len(left) == 0 or (left[-1] == 1 and len(right) > 0 and right[-1] > 1)


def mul(generator: Generator, call: Call) -> Emitted:
    """`clip(round(float((qa - za) * (qb - zb)) * ((sa * sb) / sy) + zy))`."""
    left, right, grid = quantized(call, 0), quantized(call, 1), grid_of(generator, call)
    (sa, za), (sb, zb) = static(generator, call, left), static(generator, call, right)
    one, other = generator.operand(left.codes), generator.operand(right.codes)
    product = f"(((int32_t){{0}} - {int(za) + one.shift}) * ((int32_t){{1}} - {int(zb) + other.shift}))"
    factor = (sa * sb) / grid.scale
    if call.flag("fixed"):
        return _made(generator, call, fixed.scaled(product, factor, grid), grid, (one, other))
    text = f"qc_round((float){product} * {float_text(float(factor))} + {float_text(grid.zero)})"
    return _coded(generator, call, text, grid, (one, other))


def concatenate(generator: Generator, call: Call) -> Emitted:
    """Tensors side by side; those of another grid than the result's are brought to it."""
    tensors, dim = call.inputs[0], call.inputs[1] if len(call.inputs) > 1 else 0
    grid = grid_of(generator, call)
    element, shift = generator.element(call.type)
    shape = generator.shape(call.node)
    axis = dim % len(shape) if isinstance(dim, int) else 0
    items = tensors if isinstance(tensors, list | tuple) else []
    operands = [operand for parts in items if (operand := operand_of(parts)) is not None]
    found = [generator.operand(operand.codes) for operand in operands]
    known = [each.order for each in found if isinstance(each, Value)]
    out = generator.joined.get(call.node) or generator.new(shape, element, known[0] if known else None, shift)
    start = 0
    for operand, each in zip(operands, found, strict=True):
        scale, point = static(generator, call, operand)
        size = each.shape[axis]
        part = out.sliced(axis, start, size)
        reals = f"({code(0, each.shift)} - {float_text(float(point))}) * {float_text(float(scale))}"
        text = settle(f"qc_round({reals} / {float_text(float(grid.scale))}) + {float_text(grid.zero)}", grid)
        start += size
        if float(scale) != float(grid.scale) or float(point) != grid.zero:
            generator.loop(part, Computed("qc_act", each.shape, text, (each,), shift))
        elif each != part:
            generator.loop(part, each)
    return out


def table(generator: Generator, call: Call) -> Emitted:
    """An elementwise function as a table of all codes, made by the meaning itself."""
    operand = quantized(call, 0)
    shift = generator.element(generator.program.tensor_type(operand.codes))[1]
    codes = torch.arange(256, dtype=torch.float32) - (128 if generator.signed else 0) - shift
    scale, zero = static(generator, call, operand)
    program = generator.program
    result = call.arguments["result"]
    found = pointwise.table(
        [codes, scale, zero],
        *call.inputs[1:],
        op=call.text("op"),
        result=[program.constant(part) for part in result] if isinstance(result, list | tuple) else [],
        low=call.number("low"),
        high=call.number("high"),
    )
    return looked_up(generator, call, operand, found)


def average_pool(generator: Generator, call: Call) -> Emitted:
    """`clip(round(mean((q - z) * s) / sy + zy))` over windows; in integers the formula of `global_mean`."""
    operand, grid = quantized(call, 0), grid_of(generator, call)
    scale, zero = static(generator, call, operand)
    source = generator.operand(operand.codes)
    pool, divisor, beyond = average_of(generator, call, call.inputs[1:])
    shape = generator.shape(call.node)
    if beyond or len(shape) > _MOST_AXES:
        raise call.unsupported("windows cut off at the end" if beyond else "volumes")
    if call.flag("fixed"):
        if not divisor:
            raise call.unsupported("windows of several sizes in integers")
        fields = _in_integers(generator, grid, scale / (grid.scale * float(divisor)), int(zero) + source.shift)
        return pooled(generator, source, shape, pool, "qc_act", fields, grid.shift)
    fields: dict[str, str | int] = {
        "kind": "QC_POOL_MEAN",
        "input_zero": float_text(float(zero) + source.shift),
        "input_scale": float_text(float(scale)),
        "divisor": float_text(divisor),
        "scale": float_text(float(grid.scale)),
        **_limits(grid),
        "zero_point": float_text(grid.zero),  # it is added before rounding, and rounds as a code does
        "shift": float_text(grid.shift),
    }
    return pooled(generator, source, shape, pool, "qc_act", fields, grid.shift)


def global_mean(generator: Generator, call: Call) -> Emitted:
    """`clip(round(float(sum (q - z)) * (sx / (sy * count))) + zy)`."""
    operand, grid = quantized(call, 0), grid_of(generator, call)
    scale, zero = static(generator, call, operand)
    codes, dims = generator.operand(operand.codes), call.inputs[1]
    if len(codes.shape) == _TOKENS and isinstance(dims, list | tuple) and list(dims) in ([1], [1 - _TOKENS]):
        codes = generator.settled(codes).permuted((0, 2, 1))
    image = images(generator, codes)
    count = math.prod(image.shape[2:])
    flat = image.reshaped((*image.shape[:2], count))
    if flat is None:
        flat = generator.copied(image, channels_last(len(image.shape))).reshaped((*image.shape[:2], count))
    if flat is None:
        raise call.unsupported("pixels at several distances")
    if call.flag("fixed"):
        fields = _in_integers(generator, grid, scale / (grid.scale * float(count)), int(zero) + flat.shift)
    else:
        fields = {
            "kind": "QC_POOL_TOTAL",
            "input_zero": float_text(float(zero) + flat.shift),
            "factor": _share(scale, grid, count),
            **_limits(grid),
        }
    pool = Pool((count,), (1,), (0,), (1,))
    return pooled(generator, flat, generator.shape(call.node), pool, "qc_act", fields, grid.shift)


def _share(scale: torch.Tensor, grid: Grid, count: int) -> str:
    """`sx / (sy * count)`, by the model itself where only a call tells the count."""
    if isinstance(count, Extent):
        return f"{float_text(float(scale))} / ({float_text(float(grid.scale))} * (float){count})"
    return float_text(float(scale / (grid.scale * float(count))))


def _limits(grid: Grid) -> dict[str, str]:
    return {"zero_point": grid.stored(grid.zero), "low": grid.stored(grid.low), "high": grid.stored(grid.high)}


def _in_integers(generator: Generator, grid: Grid, factor: torch.Tensor, zero: int) -> dict[str, str | int]:
    whole = fixed.fields(generator, factor, grid)
    return {"kind": "QC_POOL_FIXED", "whole_zero": zero, **{f"fixed.{name}": text for name, text in whole.items()}}


def carry(generator: Generator, call: Call) -> Emitted:
    """An operator that moves codes, written as it would be for reals."""
    moved = generator.emit(inner_call(call))
    spec = call.type.spec
    full = spec is None or (call.number("low") <= spec.format.lowest and call.number("high") >= spec.format.highest)
    return moved if full or isinstance(moved, list) else _limited(generator, call, moved)


def inner_call(call: Call) -> Call:
    """The ATen operator behind a kernel call, on codes."""
    op = call.text("op")
    first, *rest = call.inputs
    operand = operand_of(first)
    target = ops.op_target(op)
    bound = ops.bind(target, (operand.codes if operand else first, *rest), {})
    return Call(call.node, op, bound)


def _limited(generator: Generator, call: Call, moved: Element) -> Emitted:
    """In whole numbers, which need no other arithmetic."""
    grid = grid_of(generator, call)
    low, high = (fixed.limits(grid)[name] for name in ("low", "high"))
    away = grid.shift - moved.shift
    code_ = f"((int32_t){{0}} + {away})" if away else "(int32_t){0}"
    text = f"({code_} < {low} ? {low} : {code_} > {high} ? {high} : {code_})"
    return _made(generator, call, text, grid, (moved,))


def limit(generator: Generator, call: Call) -> Emitted:
    """A relu or clamp: codes between the codes of its bounds."""
    operand = quantized(call, 0)
    return _limited(generator, call, generator.operand(operand.codes))


def pad(generator: Generator, call: Call) -> Emitted:
    """Codes with the code of a number around them."""
    operand, grid = quantized(call, 0), grid_of(generator, call)
    source = generator.operand(operand.codes)
    _, pads, *rest = call.inputs
    value = rest[0] if rest else 0.0
    number = torch.tensor(float(value) if isinstance(value, int | float) else 0.0)
    filling = ((number / grid.scale).round() + grid.zero).clamp(grid.low, grid.high) + grid.shift
    sizes = [generator.size(size) for size in pads] if isinstance(pads, list | tuple) else []  # pyright: ignore[reportArgumentType]
    return moving.padded(generator, source, sizes, str(int(filling)), "qc_act", grid.shift)


def embedding(generator: Generator, call: Call) -> Emitted:
    """`(code - zero point) * scale` of the rows asked for; codes and scales per row or per tensor."""
    weight, indices = quantized(call, 0), call.inputs[1]
    if not isinstance(indices, Node):
        raise call.unsupported("its indices are not a tensor")
    program = generator.program
    codes = program.param(weight.codes).numpy()
    scale = program.param(weight.scale).float()
    zero = None if weight.zero_point is None else program.constant(weight.zero_point)
    spec = program.tensor_type(weight.codes).spec
    if spec is None or spec.block[1] not in (-1, codes.shape[1]) or not spec.format.is_integer or spec.bits > 8:
        raise call.unsupported(f"a table of {spec}")
    rows = codes.shape[0]
    signed = spec.format.signed
    stored = generator.constant(codes.astype("int8" if signed else "uint8"), "int8_t" if signed else "uint8_t")
    scales = generator.constant(scale.reshape(-1).expand(rows).contiguous().numpy(), "float")
    zeros = (
        None
        if zero is None
        else generator.constant(zero.float().reshape(-1).expand(rows).contiguous().numpy(), "float")
    )
    return _looked_up(generator, call, generator.contiguous(generator.operand(indices)), stored, scales, zeros)


def _looked_up(
    generator: Generator, call: Call, indices: Value, stored: Value, scales: Value, zeros: Value | None
) -> Value:
    rows, width = stored.shape[0], stored.shape[-1]
    out = generator.new((*indices.shape, width), "float")
    less = " - zero" if zeros is not None else ""
    count = f"(size_t){indices.count}" if isinstance(indices.count, Extent) else indices.count
    lines = [
        f"const int64_t *index = {generator.pointer(indices)};",
        f"const {stored.element} *table = {generator.pointer(stored)};",
        f"const float *scales = {generator.pointer(scales)};",
        *([f"const float *zeros = {generator.pointer(zeros)};"] if zeros is not None else []),
        f"float *out = {generator.pointer(out)};",
        f"for (size_t i = 0; i < {count}; ++i) {{",
        f"    const size_t row = qc_index(index[i], {rows});",
        "    const float scale = scales[row];",
        *(["    const float zero = zeros[row];"] if zeros is not None else []),
        f"    for (size_t j = 0; j < {width}; ++j)",
        f"        out[i * {width} + j] = ((float)table[row * {width} + j]{less}) * scale;",
        "}",
    ]
    generator.write("{", *(f"    {line}" for line in lines), "}")
    return out


KERNELS: dict[str, Emitter] = {
    "add": add,
    "mul": mul,
    "cat": concatenate,
    "table": table,
    "average_pool": average_pool,
    "global_mean": global_mean,
    "carry": carry,
    "resize": carry,
    "limit": limit,
    "pad": pad,
    "embedding_weight_only": embedding,
}
