"""The meaning of scale and zero point: from ranges to qparams, from reals to grid values and back.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"; ONNX QuantizeLinear and DequantizeLinear; Esser et al. 2020, "Learned Step Size Quantization"; OCP
Microscaling Formats 1.0, 6.3 (scales that are powers of two).
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.errors import InputError, SpecError
from qcompiler.formats import Codebook, Format, Integer, MiniFloat, scale_format
from qcompiler.formats.blocks import block_reduce, expand_blocks
from qcompiler.formats.extents import in_units_of
from qcompiler.formats.rounding import round_scale, round_through, saturate
from qcompiler.spec.lookup import index_through, value_through
from qcompiler.spec.parts import Parts
from qcompiler.spec.quantspec import QuantSpec

Scales = Tensor | tuple[Tensor, ...]
Limit = float | Tensor


def choose_qparams(x: Tensor, spec: QuantSpec) -> tuple[Scales, Tensor]:
    """Scale and zero point that cover the smallest and largest value of each block.

    Shapes: x any of the spec's rank -> as `qparams_from_range`. Raises SpecError when the ranks differ.
    """
    plain = x.detach().float()
    low, high = block_reduce(plain, spec.block, "amin"), block_reduce(plain, spec.block, "amax")
    return qparams_from_range(low, high, spec)


def qparams_from_range(low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Scales, Tensor]:
    """Scale and zero point of blocks whose values lie in low .. high.

    Formula: the range is widened to hold zero. Asymmetric: scale = (high - low) / (highest - lowest),
    zero = round(lowest - low / scale). Symmetric: scale = max(-low, high) / highest (only high if unsigned; the
    table of a codebook reaches to 1; a format without positive values counts from its lowest), zero = 0. Symmetric
    integers and small floats with one level of e8m0: 2^floor(log2(max(-low, high))) / 2^floor(log2(highest)), as
    the OCP standard says, so that the largest values may saturate. All in float32, the scale rounded to its stored
    format before the zero point is computed. Two levels: the outer scale maps the largest inner one to the top of
    its format. A block with nothing but zero gets scale 1, zero 0.
    Shapes: low, high [scale_shape] finite -> scale float32 [scale_shape], or a tuple with one tensor per
    level, innermost first; zero_point float32 [scale_shape], whole numbers.
    Raises SpecError when ranks or shapes differ.
    """
    if low.shape != high.shape or low.dim() != spec.rank:
        raise SpecError(
            f"ranges of shape {tuple(low.shape)} and {tuple(high.shape)} for a spec of rank {spec.rank}",
            where=str(spec),
            mend="give one low and one high per block",
        )
    low, high = low.detach().float().clamp(max=0), high.detach().float().clamp(min=0)
    lowest, highest = _limits(spec, low)
    if not spec.symmetric:
        span, steps = high - low, highest - lowest
        # Near the end of float32 the difference overflows although the scale does not.
        ideal = torch.where(torch.isinf(span), high / steps - low / steps, span / steps)
    else:
        signed = spec.format.signed or isinstance(spec.format, Codebook)
        span = torch.maximum(-low, high) if signed else high
        reach = _reach(lowest, highest)
        ideal = _floor_power(span) / _floor_power(torch.as_tensor(reach)) if _is_microscaled(spec) else span / reach
    empty = span == 0
    scales = _stored_scales(ideal, empty, spec)
    zero_point = torch.zeros_like(low)
    if not spec.symmetric:
        shifted = (lowest - low / _inner_effective(scales, spec)).round()
        zero_point = torch.where(empty, zero_point, _within(shifted, lowest, highest, spec))
    return (scales[0] if len(scales) == 1 else scales), zero_point


def quantize(
    x: Tensor, scale: Scales, zero_point: Tensor | None, spec: QuantSpec, table: Tensor | None = None
) -> Tensor:
    """Reals to grid values in a float carrier, differentiable by straight-through rounding.

    Formula: asymmetric `clamp(round(x / scale) + zero_point)`; symmetric `format.round(x / scale)`, the zero
    point is not read. Half to even; division, not multiplication by the reciprocal. The gradient is zero
    where it saturates. Codebook: the index of the nearest entry of `table` to x / scale. Segments round to their own
    format; what other parts add, `assembly` puts together.
    Shapes: x of the spec's rank, floating; scale and zero_point [scale_shape]; table [spec.table_shape]
    -> shape and dtype of `x` (codebooks of vectors: an index per vector along their axis).
    Raises InputError when `x` is no float tensor, SpecError when shapes do not fit the spec or a codebook has no
    table.
    """
    if not x.is_floating_point():
        raise InputError(f"quantize takes real numbers, not {x.dtype}", where=str(spec))
    ratio = x / effective_scale(scale, spec, x.shape)
    if isinstance(spec.format, Codebook):
        return index_through(ratio, _given(table, spec), spec, x.dtype)
    zero = None if spec.symmetric else _expanded_zero(zero_point, spec, x.shape)
    if spec.parts is None or not spec.parts.segments:
        return _grid_values(ratio, zero, spec.format, x.dtype)
    axis, sizes = spec.parts.along, _segment_sizes(spec, x.shape)
    ratios, zeros = ratio.split(sizes, axis), [None] * len(sizes) if zero is None else zero.split(sizes, axis)
    formats = [number for _, number in spec.parts.segments]
    slices = zip(ratios, zeros, formats, strict=True)
    return torch.cat([_grid_values(part, shift, number, x.dtype) for part, shift, number in slices], axis)


def dequantize(
    q: Tensor, scale: Scales, zero_point: Tensor | None, spec: QuantSpec, table: Tensor | None = None
) -> Tensor:
    """Grid values in a float carrier to reals: `(q - zero_point) * scale`; codebook: `table[q] * scale`.

    Shapes: q of the spec's rank; scale and zero_point [scale_shape]; table [spec.table_shape] -> shape and dtype
    of `q`; codebooks of vectors: `dimension` elements per index along their axis.
    Raises InputError when `q` is no float tensor, SpecError when shapes do not fit the spec or a codebook has no
    table.
    """
    if not q.is_floating_point():
        raise InputError(f"dequantize takes grid values in a float tensor, not {q.dtype}", where=str(spec))
    if isinstance(spec.format, Codebook):
        values = value_through(q, _given(table, spec), spec)
        return (values * effective_scale(scale, spec, values.shape)).to(q.dtype)
    step = effective_scale(scale, spec, q.shape)
    if spec.symmetric:
        return (q * step).to(q.dtype)
    offset = q - _expanded_zero(zero_point, spec, q.shape)
    own = not (offset.requires_grad or step.requires_grad) and offset.dtype == step.dtype
    return (offset.mul_(step) if own else offset * step).to(q.dtype)


def fake_quantize(x: Tensor, scale: Scales, zero_point: Tensor | None, spec: QuantSpec) -> Tensor:
    """The numbers that `x` becomes by quantizing and dequantizing; arguments and errors as for `quantize`."""
    return dequantize(quantize(x, scale, zero_point, spec), scale, zero_point, spec)


def nearest(x: Tensor, spec: QuantSpec) -> Tensor:
    """The nearest numbers of a spec, with ranges from the smallest and largest elements of `x`."""
    return fake_quantize(x, *choose_qparams(x, spec), spec)


def effective_scale(scale: Scales, spec: QuantSpec, shape: torch.Size) -> Tensor:
    """The scale of every element: the product of all levels, as a view of `shape` where blocks allow it.

    Raises SpecError when the number of scales differs from the number of levels, or shapes do not fit.
    """
    scales = (scale,) if isinstance(scale, Tensor) else scale
    if len(scales) != len(spec.levels):
        raise SpecError(f"{len(scales)} scale tensors for {len(spec.levels)} levels", where=str(spec))
    inner = _per_block(scales[0], spec, shape, "scale")
    return expand_blocks(_inner_effective((inner, *scales[1:]), spec), spec.block, shape)


def _inner_effective(scales: tuple[Tensor, ...], spec: QuantSpec) -> Tensor:
    """Product of all levels per innermost block; where it would underflow, the smallest normal number."""
    product = scales[0]
    for level, outer in enumerate(scales[1:], start=1):
        product = product * expand_blocks(outer, in_units_of(spec.levels[level].block, spec.block), product.shape)
    return product if len(scales) == 1 else product.clamp(min=torch.finfo(product.dtype).tiny)


def _grid_values(ratio: Tensor, zero: Tensor | None, number: Format, carrier: torch.dtype) -> Tensor:
    """`x / scale` to grid values; works in place on its own quotient where no gradient is asked."""
    if zero is None:
        grid_values = round_through(ratio, number)
    else:
        # Without a gradient the quotient is nobody else's: working in place saves most of the memory traffic.
        own = not ratio.requires_grad and ratio.dtype == zero.dtype
        shifted = ratio.round_().add_(zero) if own else round_through(ratio) + zero
        grid_values = saturate(shifted, number, out=shifted if own else None)
    if number.highest > torch.finfo(carrier).max:
        grid_values = saturate(grid_values, number, carrier=carrier)
    return grid_values.to(carrier)


def _limits(spec: QuantSpec, blocks: Tensor) -> tuple[Limit, Limit]:
    """Smallest and largest value of the format; with segments of that of each block, broadcastable to the blocks."""
    if isinstance(spec.format, Codebook):
        return -1.0, 1.0
    if spec.parts is None or not spec.parts.segments:
        return spec.format.lowest, spec.format.highest
    axis, extent = spec.parts.along, spec.block[spec.parts.along]
    rows = [(number.lowest, number.highest) for size, number in spec.parts.segments for _ in range(-(-size // extent))]
    if len(rows) != blocks.shape[axis]:
        raise SpecError(f"{blocks.shape[axis]} blocks for segments of {len(rows)}", where=str(spec))
    shape = [len(rows) if at == axis % blocks.dim() else 1 for at in range(blocks.dim())]
    lowest, highest = blocks.new_tensor(rows).T.reshape(2, *shape)
    return lowest, highest


def _reach(lowest: Limit, highest: Limit) -> Limit:
    """What the largest magnitude of a block is mapped to."""
    if isinstance(lowest, Tensor) or isinstance(highest, Tensor):
        return torch.where(torch.as_tensor(highest) > 0, highest, -lowest)
    return highest or -lowest


def _within(zero_point: Tensor, lowest: Limit, highest: Limit, spec: QuantSpec) -> Tensor:
    if isinstance(lowest, Tensor) and isinstance(highest, Tensor):
        return zero_point.clamp(lowest, highest)
    return saturate(zero_point, spec.format)


def _segment_sizes(spec: QuantSpec, shape: torch.Size) -> list[int]:
    parts = spec.parts or Parts()
    sizes = [size for size, _ in parts.segments]
    if sum(sizes) != shape[parts.along]:
        raise SpecError(f"segments of {sum(sizes)} elements for {shape[parts.along]}", where=str(spec))
    return sizes


def _given(table: Tensor | None, spec: QuantSpec) -> Tensor:
    if table is None:
        raise SpecError(f"{spec.format.name} needs its table of values", where=str(spec), mend="hand on the table")
    return table


def _is_microscaled(spec: QuantSpec) -> bool:
    """Whether the standard's rule for power-of-two scales holds: it wants a format whose top binade is in use."""
    return [level.scale for level in spec.levels] == ["e8m0"] and isinstance(spec.format, Integer | MiniFloat)


def _floor_power(x: Tensor) -> Tensor:
    """The largest power of two that is not above each positive real; zero for zero."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.where(fraction == 0, 0.0, 0.5), exponent)


def _stored_scales(ideal: Tensor, empty: Tensor, spec: QuantSpec) -> tuple[Tensor, ...]:
    """Splits the ideal scale of each innermost block into the stored scales of all levels."""
    outer_product = torch.ones_like(ideal)
    outers: list[Tensor] = []
    for level in reversed(range(1, len(spec.levels))):
        anchors = 1.0
        for inner in spec.levels[:level]:
            anchors *= scale_format(inner.scale).anchor
        block = in_units_of(spec.levels[level].block, spec.block)
        largest = block_reduce(torch.where(empty, 0.0, ideal / outer_product), block, "amax")
        stored = round_scale(torch.where(largest == 0, 1.0, largest / anchors), spec.levels[level].scale)
        outers.insert(0, stored)
        outer_product = outer_product * expand_blocks(stored, block, ideal.shape)
    inner = round_scale(torch.where(empty, 1.0, ideal / outer_product), spec.levels[0].scale)
    return (inner, *outers)


def _expanded_zero(zero_point: Tensor | None, spec: QuantSpec, shape: torch.Size) -> Tensor:
    if zero_point is None:
        raise SpecError("an asymmetric spec needs its zero point", where=str(spec))
    return expand_blocks(_per_block(zero_point, spec, shape, "zero point"), spec.block, shape)


def _per_block(values: Tensor, spec: QuantSpec, shape: torch.Size, what: str) -> Tensor:
    """Values in the shape that the spec asks for; a single one fits tensors of any rank, which may share it."""
    wanted = spec.levels[0].scale_shape(shape)
    if values.numel() == 1 and all(size == 1 for size in wanted):
        return values.reshape([1] * len(wanted))
    if tuple(values.shape) != wanted:
        raise SpecError(
            f"a {what} of shape {tuple(values.shape)} where the spec says {wanted}",
            where=f"{spec} on shape {tuple(shape)}",
        )
    return values
