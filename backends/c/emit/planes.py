"""Layers of few bits on both sides as products of bit planes; see `qc_gemm_bits.h`.

The meanings are those of the layers in bytes: sums are the same integers.
"""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.c.binary_packing import GROUP, WORD, chained, packed_planes
from qcompiler.backends.c.emit.dense import Window, bordered, rows_of, window_of
from qcompiler.backends.c.emit.finish import epilogue, padded, quantized, zero_point
from qcompiler.backends.c.extent import larger
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value, channels_last
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node
from qcompiler.spec import QuantSpec


def conv(generator: Generator, call: Call) -> Emitted:
    """A convolution of one or two spatial axes and one group."""
    x, codes = quantized(call, 0), _codes(generator, call)
    window = window_of(call, call.inputs[3:], codes.shape[2:])
    image = bordered(generator, generator.operand(x.codes), window, zero_point(generator, x))
    out = generator.room(call.node, channels_last(codes.ndim))
    fields = _weight(generator, call, np.moveaxis(codes, 1, -1).reshape(len(codes), -1, codes.shape[1]), out)
    for batch in range(out.shape[0]):
        source, target = image.sliced(0, batch, 1), out.sliced(0, batch, 1)
        planes = _image_planes(generator, call, source)
        fields |= _geometry(generator, window, source, planes, out.shape[2:])
        fields |= {"out": generator.pointer(target), "out_stride": out.strides[-1]}
        generator.call("gemm_bits", fields, math.prod(out.shape[2:]))
    return out


def linear(generator: Generator, call: Call) -> Emitted:
    """A linear layer."""
    codes = _codes(generator, call)
    rows = rows_of(generator, generator.operand(quantized(call, 0).codes))
    element, shift = generator.element(call.type)
    shape = generator.shape(call.node)
    out = generator.new(shape, element, None, shift)
    fields = _weight(generator, call, codes[:, None], out)
    planes = _packed(generator, call, rows, larger(rows.shape[0], 1), rows.strides[0], 0, rows.shape)
    fields |= {
        "input": generator.pointer(planes),
        "plane_stride": planes.strides[0],
        "width": larger(rows.shape[0], 1),
        "inner_stride": planes.strides[1],
        "outer_stride": 0,
        "out": generator.pointer(out),
        "out_stride": shape[-1],
    }
    generator.call("gemm_bits", fields, rows.shape[0])
    return out


def _codes(generator: Generator, call: Call) -> np.ndarray:
    return generator.program.param(quantized(call, 1).codes).numpy().astype(np.int64)


def _factors(spec: QuantSpec) -> list[int]:
    """What each bit of a code counts."""
    powers = [1 << bit for bit in range(spec.bits)]
    return [*powers[:-1], -powers[-1]] if spec.format.signed else powers


def _image_planes(generator: Generator, call: Call, image: Value) -> Value:
    """Planes [planes, pixels, bytes] of an image [1, C, ...] with its border."""
    _, channels, *space = image.shape
    outer = image.strides[-2] if len(space) > 1 else 0
    return _packed(generator, call, image, space[-1], image.strides[-1], outer, (math.prod(space), channels))


def _packed(
    generator: Generator, call: Call, source: Value, width: int, inner: int, outer: int, shape: tuple[int, ...]
) -> Value:
    """Planes [planes, rows, bytes] of rows of codes of `shape`."""
    rows, channels = shape
    planes = quantized(call, 0).spec.bits
    out = generator.new((planes, rows, -(-channels // (8 * WORD)) * WORD), "uint8_t")
    fields: dict[str, str | int] = {
        "input": generator.pointer(source),
        "width": width,
        "inner_stride": inner,
        "outer_stride": outer,
        "channels": channels,
        "planes": planes,
        "out": generator.pointer(out),
        "out_stride": out.strides[1],
        "plane_stride": out.strides[0],
    }
    generator.call("pack_planes", fields, rows)
    return out


def _geometry(
    generator: Generator, window: Window, image: Value, planes: Value, space: tuple[int, ...]
) -> dict[str, str | int]:
    """Where the windows of each output lie among packed pixels."""
    pixel = planes.strides[1]
    steps = (image.shape[-1] * pixel, pixel)[-len(space) :]
    places = np.zeros(1, np.int64)
    for size, step, dilation in zip(window.size, steps, window.dilation, strict=True):
        places = (places[:, None] + np.arange(size) * step * dilation).reshape(-1)
    return {
        "input": generator.pointer(planes),
        "plane_stride": planes.strides[0],
        "width": space[-1],
        "inner_stride": pixel * window.stride[-1],
        "outer_stride": steps[0] * window.stride[0] if len(space) > 1 else 0,
        "offsets": generator.pointer(generator.constant(places.astype(np.int32), "int32_t")),
    }


def _weight(generator: Generator, call: Call, taps: np.ndarray, out: Value) -> dict[str, str | int]:
    """Weights [N, taps, K], what bits count, and what becomes of the sums."""
    x, w = quantized(call, 0), quantized(call, 1)
    input_spec, weight_spec = x.spec, w.spec
    layout = generator.layout("gemm_bits")
    bits = np.stack([taps >> plane & 1 for plane in range(weight_spec.bits)])
    sums = taps.reshape(len(taps), -1).sum(1)
    wide = padded(sums.astype(np.int32), GROUP)
    factors = {"input": _factors(input_spec), "weight": _factors(weight_spec)}
    finish = epilogue(generator, call, x, w, sums, out, slice(None), zero=_zero(generator, x.zero_point))
    return {
        "weight": generator.pointer(generator.constant(packed_planes(bits, layout), "uint8_t")),
        "columns": taps.shape[0],
        "taps": taps.shape[1],
        "depth": taps.shape[2],
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "chained": int(chained(layout)),
        "input_planes": input_spec.bits,
        "weight_planes": weight_spec.bits,
        **{f"{side}_factor[{bit}]": factor for side, each in factors.items() for bit, factor in enumerate(each)},
        "weight_sum": generator.pointer(generator.constant(wide, "int32_t")),
        **{f"epilogue.{key}": text for key, text in finish.items()},
    }


def _zero(generator: Generator, zero_point: Node | None) -> int:
    """A zero point as a code: planes hold codes, not what is stored."""
    return 0 if zero_point is None else int(generator.program.param(zero_point).reshape(()))


KERNELS: dict[str, Emitter] = {"conv_bits": conv, "linear_bits": linear}
