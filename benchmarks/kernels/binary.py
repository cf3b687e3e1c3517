"""Products and convolutions of signs beside those of floats in ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.kernels.common import Contest, Epilogue, Image, Run, buffer, levels_here, onnx_runner, runner
from benchmarks.kernels.int8 import Window
from qcompiler.backends.c.binary_packing import bit_rows, chained, packed_planes, packed_signs
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS

REALS = 1
LINEAR = ((1, 4096, 4096), (16, 2048, 2048), (128, 2048, 2048), (256, 1152, 256), (512, 768, 3072), (1024, 1024, 1024))
"""Rows, inputs, outputs."""
WINDOWS = (Window(64, 64, 56, 3), Window(128, 128, 28, 3), Window(256, 256, 14, 3), Window(512, 512, 7, 3))
PLANES = ((1, 2), (2, 2), (4, 4))
"""Of weights, of activations."""


class Product(ctypes.Structure):
    """`qc_gemm_b1_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("width", "inner_stride", "outer_stride")),
        ("offsets", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("columns", "taps", "depth", "block_columns", "block_depth")),
        ("chained", ctypes.c_int),
        ("correction", ctypes.c_void_p),
        ("pattern", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
        ("threshold", ctypes.c_void_p),
        ("flip", ctypes.c_void_p),
        ("epilogue", Epilogue),
    )


class Planes(ctypes.Structure):
    """`qc_gemm_bits_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("plane_stride", "width", "inner_stride", "outer_stride")),
        ("offsets", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("columns", "taps", "depth", "block_columns", "block_depth")),
        ("chained", ctypes.c_int),
        *((name, ctypes.c_size_t) for name in ("input_planes", "weight_planes")),
        *((name, ctypes.c_int) for name in ("input_signs", "weight_signs")),
        *((name, ctypes.c_int32 * 4) for name in ("input_factor", "weight_factor")),
        *((name, ctypes.c_void_p) for name in ("weight_sum", "weight_scale")),
        ("input_scale", ctypes.c_float * 4),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
        ("epilogue", Epilogue),
    )


class Pack(ctypes.Structure):
    """`qc_pack_bits_args`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("reals", "codes")),
        *((name, ctypes.c_size_t) for name in ("stride", "channels")),
        *((name, ctypes.c_void_p) for name in ("threshold", "code_threshold", "flip", "out")),
        ("out_stride", ctypes.c_size_t),
    )


def linear() -> Iterator[Contest]:
    """Linear layers to floats: ours from signs, and from floats that are packed to signs first."""
    for rows, inputs, outputs in LINEAR:
        random = np.random.default_rng(0)
        x = random.standard_normal((rows, inputs)).astype(np.float32)
        bits = random.integers(0, 2, (outputs, 1, inputs), dtype=np.uint8)
        weight = (1 - 2.0 * bits[:, 0].T).astype(np.float32)
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        peers: dict[str, Run | str] = {"onnxruntime fp32": onnx_runner(node, {"x": x}, {"w": weight}, np.dtype("f4"))}
        work, case = 2.0 * rows * inputs * outputs, f"{rows}x{inputs}x{outputs}"
        both = {isa.value: _linear(isa, x, bits) for isa in levels_here("gemm_b1")}
        yield Contest("gemm_b1", case, work, {level: runs[1] for level, runs in both.items()}, peers)
        yield Contest("pack_bits, gemm_b1", case, work, {level: _in_turn(*runs) for level, runs in both.items()}, peers)


def conv() -> Iterator[Contest]:
    """Convolutions, signs to signs; ours with the copy of the image inside its border."""
    for window in WINDOWS:
        random = np.random.default_rng(0)
        bits = random.integers(0, 2, (window.outputs, window.kernel**2, window.channels), dtype=np.uint8)
        weight = (1 - 2.0 * bits).astype(np.float32).reshape(window.outputs, window.kernel, window.kernel, -1)
        x = random.standard_normal((1, window.channels, window.size, window.size)).astype(np.float32)
        pads = [window.kernel // 2] * 4
        node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[window.kernel] * 2, pads=pads)
        constants = {"w": np.ascontiguousarray(weight.transpose(0, 3, 1, 2))}
        peer = onnx_runner(node, {"x": x}, constants, np.dtype("f4"))
        ours = {isa.value: _conv(isa, window, bits) for isa in levels_here("gemm_b1")}
        work = 2.0 * window.out_size**2 * bits.size
        yield Contest("gemm_b1", str(window), work, ours, {"onnxruntime fp32": peer})


def planes() -> Iterator[Contest]:
    """Linear layers of few bits, planes of bits to floats; operations are those of the numbers, not of the planes."""
    rows, inputs, outputs = 128, 2048, 2048
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, inputs)).astype(np.float32)
    weight = random.standard_normal((inputs, outputs)).astype(np.float32)
    peer = onnx_runner(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": x}, {"w": weight}, np.dtype("f4"))
    for of_weights, of_inputs in PLANES:
        ours = {
            isa.value: _planes(isa, (rows, inputs, outputs), of_weights, of_inputs) for isa in levels_here("gemm_bits")
        }
        case = f"W{of_weights}A{of_inputs} {rows}x{inputs}x{outputs}"
        yield Contest("gemm_bits", case, 2.0 * rows * inputs * outputs, ours, {"onnxruntime fp32": peer})


def _to_reals(outputs: int) -> tuple[Epilogue, list[np.ndarray]]:
    wide = -(-outputs // 64) * 64
    vectors = [buffer(np.zeros(wide, np.int32)), buffer(np.full(wide, 0.01, np.float32))]
    return Epilogue(REALS, *(vector.ctypes.data for vector in vectors)), vectors


def _linear(isa: Isa, x: np.ndarray, bits: np.ndarray) -> tuple[Run, Run]:
    """The packing, the product."""
    rows, inputs = x.shape
    outputs, layout = len(bits), MICRO_KERNELS["gemm_b1"].layout(isa)
    words = -(-inputs // 64)
    given, signs, packed = buffer(x), buffer(np.zeros((rows, words * 8), np.uint8)), buffer(packed_signs(bits, layout))
    out = buffer(np.zeros((rows, outputs), np.float32))
    epilogue, vectors = _to_reals(outputs)
    pack = Pack(given.ctypes.data, None, inputs, inputs, None, None, None, signs.ctypes.data, words * 8)
    args = Product(signs.ctypes.data, rows, words * 8, 0, None, packed.ctypes.data)
    args.columns, args.taps, args.depth, args.chained = outputs, 1, inputs, chained(layout)
    args.block_columns, args.block_depth = layout.columns, layout.depth
    args.out, args.out_stride, args.epilogue = out.ctypes.data, outputs, epilogue
    packing = runner("pack_bits", MICRO_KERNELS["pack_bits"].versions(isa)[0], pack, rows, [given, signs])
    return packing, runner("gemm_b1", isa, args, rows, [signs, packed, out, *vectors])


def _in_turn(first: Run, second: Run) -> Run:
    def run(count: int) -> None:
        for _ in range(count):
            first(1)
            second(1)

    return run


def _conv(isa: Isa, window: Window, bits: np.ndarray) -> Run:
    layout, border = MICRO_KERNELS["gemm_b1"].layout(isa), window.kernel // 2
    pixel, out_pixel = (-(-channels // 64) * 8 for channels in (window.channels, window.outputs))
    line = (window.size + 2 * border) * pixel
    image = buffer(bit_rows(np.random.default_rng(1).integers(0, 2, (window.size**2, window.channels))))
    inside = buffer(np.zeros((window.size + 2 * border, line), np.uint8))
    # Whole words of pixels that lie side by side: a row of the window is one tap.
    across = window.channels % 64 == 0
    places = [y * line + x * pixel for y in range(window.kernel) for x in range(1 if across else window.kernel)]
    offsets, packed = buffer(np.array(places, np.int32)), buffer(packed_signs(_taps(bits, len(places)), layout))
    wide = -(-window.outputs // 64) * 64
    out, threshold = buffer(np.zeros((window.out_size**2, out_pixel), np.uint8)), buffer(np.zeros(wide, np.int32))
    flip = buffer(np.zeros(wide // 8, np.uint8))
    args = Product(inside.ctypes.data, window.out_size, pixel, line, offsets.ctypes.data, packed.ctypes.data)
    args.columns, args.taps, args.depth = window.outputs, len(places), bits[0].size // len(places)
    args.block_columns, args.block_depth, args.chained = layout.columns, layout.depth, chained(layout)
    args.out, args.out_stride = out.ctypes.data, out_pixel
    args.threshold, args.flip = threshold.ctypes.data, flip.ctypes.data
    start = inside.ctypes.data + border * (line + pixel)
    copied = Image(image.ctypes.data, start, window.size, window.size * pixel, line)
    keep = [image, inside, offsets, packed, out, threshold, flip]
    return runner("gemm_b1", isa, args, window.out_size**2, keep, copied)


def _taps(bits: np.ndarray, taps: int) -> np.ndarray:
    return bits.reshape(len(bits), taps, -1)


def _planes(isa: Isa, shape: tuple[int, int, int], of_weights: int, of_inputs: int) -> Run:
    rows, inputs, outputs = shape
    random, layout = np.random.default_rng(0), MICRO_KERNELS["gemm_bits"].layout(isa)
    given = buffer(bit_rows(random.integers(0, 2, (of_inputs, rows, inputs))))
    packed = buffer(packed_planes(random.integers(0, 2, (of_weights, outputs, 1, inputs), dtype=np.uint8), layout))
    sums, out = buffer(np.zeros(outputs, np.int32)), buffer(np.zeros((rows, outputs), np.float32))
    epilogue, vectors = _to_reals(outputs)
    args = Planes(given.ctypes.data, given[0].nbytes, rows, given.shape[-1], 0, None, packed.ctypes.data)
    args.columns, args.taps, args.depth, args.chained = outputs, 1, inputs, chained(layout)
    args.block_columns, args.block_depth = layout.columns, layout.depth
    args.input_planes, args.weight_planes = of_inputs, of_weights
    args.input_factor, args.weight_factor = (1, 2, 4, 8), (1, 2, 4, -8)
    args.weight_sum, args.out, args.out_stride, args.epilogue = sums.ctypes.data, out.ctypes.data, outputs, epilogue
    return runner("gemm_bits", isa, args, rows, [given, packed, sums, out, *vectors])
