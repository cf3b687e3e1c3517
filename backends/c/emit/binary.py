"""Convolutions and linear layers over signs: the bits of their input, the arguments of their products.

Codes 1 and -1 are stored by nobody unless somebody else asks for them: kernels of signs pack the reals in front of the
quantizer into bits, whole words for every pixel or row, and share them. A kernel whose result becomes signs at once
writes bits itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from qcompiler.backends.c.binary_packing import (
    WORD,
    bit_rows,
    border_corrections,
    chained,
    packed_signs,
    sign_thresholds,
)
from qcompiler.backends.c.emit.dense import Window, fill_border, rows_of, window_of
from qcompiler.backends.c.emit.finish import epilogue, padded, quantized
from qcompiler.backends.c.emit.nest import images
from qcompiler.backends.c.extent import larger
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed, Operand
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Value, channels_last, row_major
from qcompiler.backends.lowering.call import Call
from qcompiler.formats import BINARY
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program

_SMALLEST = -149
"""Exponent of the smallest positive float32."""


def sign(generator: Generator, call: Call) -> Emitted:
    """1 where a real over its scale is not less than zero, else -1."""
    source = generator.operand(call.node_at("x"))
    known = generator.packed.get(call.node)
    if known is not None:
        return known
    text = f"({{0}} < {float_text(_limit(generator, call))} ? -1 : 1)"
    return Computed("int8_t", source.shape, text, (source,))


def _limit(generator: Generator, call: Call) -> float:
    """Reals below it are less than zero once they are divided by the scale.

    It is zero, but for scales of 2 and more, by which the smallest reals become zero.
    """
    node = call.raw("scale")
    scale = generator.program.constant(node) if isinstance(node, Node) else None
    if scale is None or scale.numel() != 1 or call.raw("zero_point") is not None:
        raise call.unsupported("signs need one scale that is known, and no zero point")
    return 0.0 - math.ldexp(math.floor(float(scale.reshape(())) / 2), _SMALLEST)


def _quantizer(generator: Generator, call: Call, codes: Node) -> Call:
    """What makes signs of reals."""
    if codes.target is not ops.quantize:
        raise call.unsupported("its input is not made signs by a quantizer")
    return Call(codes, generator.program.op(codes), generator.program.bind(codes))


# -- bits of activations ---------------------------------------------------------------------------------------------


def _bit_image(generator: Generator, call: Call, codes: Node, border: int) -> Value:
    """Signs [B, C, ...] as bytes [B, 8 * ceil(C / 64), ...] in channels-last order, with zeros around them."""
    if codes not in generator.packed:
        quantizer = _quantizer(generator, call, codes)
        image = _channels_last(generator, generator.operand(quantizer.node_at("x")))
        batch, channels, *space = image.shape
        pixels = Value(image.buffer, "float", (batch * math.prod(space), channels), (channels, 1), image.offset)
        bits = _pack(generator, pixels, _limit(generator, quantizer))
        order = channels_last(len(image.shape))
        shape = (batch, bits.shape[1], *space)
        generator.packed[codes] = Value(bits.buffer, bits.element, shape, row_major(shape, order))
    known = generator.packed[codes]
    if known.border >= border:
        return known
    out = generator.new(known.shape, "uint8_t", channels_last(len(known.shape)), 0, border)
    fill_border(generator, out, 0)
    generator.loop(out, known)
    generator.packed[codes] = out
    return out


def _channels_last(generator: Generator, operand: Operand) -> Value:
    """An image whose pixels, channels innermost, follow each other without gaps."""
    order = channels_last(len(operand.shape))
    image = generator.settled(operand, order)
    ready = image.permuted(order).dense and image.buffer.kind != "input"
    return image if ready else generator.copied(image, order)


def _bit_rows(generator: Generator, call: Call, codes: Node) -> Value:
    """Signs [..., K] as bytes [rows, 8 * ceil(K / 64)]."""
    if codes not in generator.packed:
        quantizer = _quantizer(generator, call, codes)
        rows = rows_of(generator, generator.operand(quantizer.node_at("x")))
        generator.packed[codes] = _pack(generator, rows, _limit(generator, quantizer))
    return generator.packed[codes]


def _row_bytes(count: int) -> int:
    return -(-count // (8 * WORD)) * WORD


def _pack(generator: Generator, reals: Value, limit: float) -> Value:
    """Rows [M, K] of reals as bytes [M, 8 * ceil(K / 64)]: the bit 1 is what is less than `limit`."""
    rows, channels = reals.shape
    out = generator.new((rows, _row_bytes(channels)), "uint8_t")
    fields: dict[str, str | int] = {
        "reals": generator.pointer(reals),
        "stride": reals.strides[0],
        "channels": channels,
        "out": generator.pointer(out),
        "out_stride": out.strides[0],
    }
    if limit:
        fields["threshold"] = generator.pointer(generator.constant(np.full(channels, limit, np.float32), "float"))
    generator.call("pack_bits", fields, rows)
    return out


# -- products --------------------------------------------------------------------------------------------------------


def conv(generator: Generator, call: Call) -> Emitted:
    """A convolution of signs, of one or two spatial axes and one group; what lies around the image counts nothing."""
    codes = _weight(generator, call)
    rank = codes.ndim - 2
    window = window_of(call, call.inputs[3:], codes.shape[2:])
    if rank > 2 or window.groups > 1:
        raise call.unsupported(f"{rank} spatial axes, {window.groups} groups")
    image = _bit_image(generator, call, quantized(call, 0).codes, max(window.padding))
    start = image.offset - sum(pad * stride for pad, stride in zip(window.padding, image.strides[2:], strict=True))
    out, fields = _result(generator, call, generator.shape(call.node), codes[0].size)
    taps = np.moveaxis(codes < 0, 1, -1).reshape(codes.shape[0], -1, codes.shape[1])
    space = out.shape[2:]
    fields |= _geometry(generator, image, window, space)
    fields |= _corrections(generator, taps, window, image.shape[2:], space)
    fields |= _packed(generator, taps)
    first = Value(image.buffer, "uint8_t", image.shape, image.strides, start)
    for source, target in images(generator, first, out):
        places = {"input": source, "out": target, "out_stride": out.strides[-1]}
        generator.call("gemm_b1", {**places, **fields}, math.prod(space))
    return out


def linear(generator: Generator, call: Call) -> Emitted:
    """A linear layer of signs."""
    codes = _weight(generator, call)
    rows = _bit_rows(generator, call, quantized(call, 0).codes)
    out, fields = _result(generator, call, generator.shape(call.node), codes.shape[1])
    fields |= {"width": larger(rows.shape[0], 1), "inner_stride": rows.strides[0], "outer_stride": 0}
    fields |= _packed(generator, codes[:, None] < 0)
    places = {"input": generator.pointer(rows), "out": generator.pointer(out), "out_stride": out.strides[-2]}
    generator.call("gemm_b1", {**places, **fields}, rows.shape[0])
    return out


def _weight(generator: Generator, call: Call) -> np.ndarray:
    return generator.program.param(quantized(call, 1).codes).numpy()


def _packed(generator: Generator, taps: np.ndarray) -> dict[str, str | int]:
    """Weights [N, taps, K], true where they are -1."""
    layout = generator.layout("gemm_b1")
    return {
        "weight": generator.pointer(generator.constant(packed_signs(taps, layout), "uint8_t")),
        "columns": taps.shape[0],
        "taps": taps.shape[1],
        "depth": taps.shape[2],
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "chained": int(chained(layout)),
    }


def _geometry(generator: Generator, image: Value, window: Window, space: tuple[int, ...]) -> dict[str, str | int]:
    steps = [stride * dilation for stride, dilation in zip(image.strides[2:], window.dilation, strict=True)]
    places = np.zeros(1, np.int32)
    for size, step in zip(window.size, steps, strict=True):
        places = (places[:, None] + np.arange(size) * step).reshape(-1)
    return {
        "width": space[-1],
        "inner_stride": image.strides[-1] * window.stride[-1],
        "outer_stride": image.strides[-2] * window.stride[-2] if len(space) > 1 else 0,
        "offsets": generator.pointer(generator.constant(places.astype(np.int32), "int32_t")),
    }


def _corrections(
    generator: Generator, taps: np.ndarray, window: Window, image: tuple[int, ...], space: tuple[int, ...]
) -> dict[str, str | int]:
    """What the ones around an image add, by which taps lie there."""
    if not any(window.padding):
        return {}
    outside = _outside(window, image, space)
    patterns, which = np.unique(outside, axis=0, return_inverse=True)
    correction = generator.constant(border_corrections(taps, patterns), "int32_t")
    pattern = generator.constant(which.reshape(-1).astype(np.int16), "int16_t")
    return {"correction": generator.pointer(correction), "pattern": f"(const uint16_t *){generator.pointer(pattern)}"}


def _outside(window: Window, image: tuple[int, ...], space: tuple[int, ...]) -> np.ndarray:
    """Which taps of each window lie around the image: bool [windows, taps]."""
    found = np.zeros((1, 1), bool)
    for axis, count in enumerate(space):
        first = np.arange(count)[:, None] * window.stride[axis] - window.padding[axis]
        at = first + np.arange(window.size[axis]) * window.dilation[axis]
        missed = (at < 0) | (at >= image[axis])
        found = (found[:, None, :, None] | missed[None, :, None, :]).reshape(len(found) * count, -1)
    return found


def _result(generator: Generator, call: Call, shape: tuple[int, ...], terms: int) -> tuple[Value, dict[str, str | int]]:
    """Memory and epilogue of reals; of bits, with thresholds, where only kernels of signs read the result."""
    order = channels_last(len(shape)) if call.op == "conv_binary" else range(len(shape))
    x, w = quantized(call, 0), quantized(call, 1)
    quantizer = _following(generator, call)
    if quantizer is None:
        out = generator.room(call.node, order)
        columns = generator.shape(w.codes)[0]
        finish = epilogue(generator, call, x, w, np.zeros(columns, np.int64), out, slice(None))
        return out, {f"epilogue.{key}": text for key, text in finish.items()}
    batch, columns, *space = shape if call.op == "conv_binary" else (math.prod(shape[:-1]), shape[-1])
    bits = (batch, _row_bytes(columns), *space)
    out = generator.packed[quantizer.node] = generator.new(bits, "uint8_t", channels_last(len(bits)))
    return out, _thresholds(generator, call, _limit(generator, quantizer), columns, terms)


def _thresholds(generator: Generator, call: Call, limit: float, columns: int, terms: int) -> dict[str, str | int]:
    """For which sums a result is less than a number: by the formula of `backends.reference.dense`."""
    x, w = quantized(call, 0), quantized(call, 1)
    program = generator.program
    factor = program.param(x.scale).float().reshape(()) * program.param(w.scale).float().reshape(-1).expand(columns)
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    reals = program.param(bias).float() if isinstance(bias, Node) else torch.zeros(columns)
    threshold, flip = sign_thresholds(factor.numpy(), reals.numpy(), terms, limit)
    packed = generator.constant(bit_rows(flip), "uint8_t")
    known = generator.constant(padded(threshold, generator.panel), "int32_t")
    return {"threshold": generator.pointer(known), "flip": generator.pointer(packed)}


def _following(generator: Generator, call: Call) -> Call | None:
    """The quantizer that alone reads a result and makes signs for kernels of the same name alone."""
    program, users = generator.program, list(call.node.users)
    if len(users) != 1 or not _makes_signs(program, users[0]) or call.node in program.outputs:
        return None
    (quantizer,) = users
    alike = all(user.args and user.args[0] == call.op for user in quantizer.users)
    return _quantizer(generator, call, quantizer) if alike and quantizer not in program.outputs else None


def _makes_signs(program: Program, node: Node) -> bool:
    spec = program.tensor_type(node).spec if node.target is ops.quantize else None
    return spec is not None and spec.format == BINARY


KERNELS: dict[str, Emitter] = {"conv_binary": conv, "linear_binary": linear}
