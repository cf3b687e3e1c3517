"""8-bit matrix products and convolutions beside those of ONNX Runtime and oneDNN (through torch)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import torch

from benchmarks.kernels.common import Contest, Epilogue, Image, Run, buffer, levels_here, library, onnx_runner, runner
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked, depthwise_taps

CODES, REALS_BIASED = 0, 2
_PEAK = """
#include <immintrin.h>
#include <stddef.h>
int qc_peak(size_t count) {
    __m512i sums[16], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(3);
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
    for (size_t n = 0; n < count; ++n) {
        __asm__ volatile("" : "+v"(a));
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    }
    int total = 0;
    for (int i = 0; i < 16; ++i) total += _mm512_reduce_add_epi32(sums[i]);
    return total;
}
"""
LINEAR = (
    (1, 768, 768),
    (1, 2048, 2048),
    (1, 4096, 4096),
    (4, 2048, 2048),
    (16, 768, 3072),
    (64, 768, 768),
    (128, 768, 768),
    (197, 192, 768),
    (128, 2048, 2048),
    (512, 768, 3072),
    (1024, 1024, 1024),
)
"""Rows, inputs, outputs."""
FLOAT_SCALE, OUT_SCALE = 0.02, 4.0


@dataclass(frozen=True)
class Window:
    """A convolution over a square image."""

    channels: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def out_size(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    def __str__(self) -> str:
        window = f"{self.kernel}x{self.kernel}{f' s{self.stride}' if self.stride > 1 else ''}"
        return f"{window} {self.channels}->{self.outputs} at {self.size}"


WINDOWS = (
    Window(3, 64, 224, 7, 2),
    Window(3, 32, 224, 3, 2),
    Window(16, 16, 32, 3),
    Window(64, 64, 56, 3),
    Window(128, 128, 28, 3),
    Window(256, 256, 14, 3),
    Window(512, 512, 7, 3),
    Window(128, 256, 28, 3, 2),
    Window(64, 256, 56, 1),
    Window(256, 64, 56, 1),
    Window(512, 128, 28, 1),
    Window(96, 24, 56, 1),
)
DEPTHWISE = tuple(
    Window(channels, channels, size, kernel, stride, channels)
    for channels, size, kernel, stride in (
        (96, 56, 3, 1),
        (32, 112, 3, 1),
        (96, 112, 3, 2),
        (144, 56, 3, 1),
        (384, 14, 3, 1),
        (960, 7, 3, 1),
        (240, 14, 5, 1),
    )
)


class Gemm(ctypes.Structure):
    """`qc_gemm_i8_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("width", "inner_stride", "outer_stride")),
        ("offsets", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("columns", "taps", "depth", "block_columns", "block_depth")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
        ("epilogue", Epilogue),
    )


class Depthwise(ctypes.Structure):
    """`qc_depthwise_i8_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("width", "inner_stride", "outer_stride")),
        ("offsets", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("channels", "taps", "block_columns", "block_depth", "block_lanes")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
        ("epilogue", Epilogue),
    )


def peak(operations: float) -> dict[str, Run | str]:
    """The work as far as the multipliers of AVX-512 are concerned: nothing but vpdpbusd."""
    if not levels_here("gemm_i8") or levels_here("gemm_i8")[0] is Isa.AVX2:
        return {"vpdpbusd": "no AVX-512 VNNI"}
    function = _peak_library().qc_peak
    steps = operations / (16 * 128)
    return {"vpdpbusd": lambda count: function(ctypes.c_size_t(max(1, round(steps * count))))}


@cache
def _peak_library() -> ctypes.CDLL:
    return library(_PEAK, Isa.AVX512)


def linear() -> Iterator[Contest]:
    """Linear layers with one scale for each output: float results, as in front of a softmax or a norm."""
    for rows, inputs, outputs in LINEAR:
        random = np.random.default_rng(0)
        codes = random.integers(0, 256, (rows, inputs), dtype=np.uint8)
        weight = random.integers(-127, 128, (outputs, inputs), dtype=np.int8)
        work = 2.0 * rows * inputs * outputs
        yield Contest(
            "gemm_i8",
            f"{rows}x{inputs}x{outputs}",
            work,
            {isa.value: _linear_ours(isa, codes, weight) for isa in levels_here("gemm_i8")},
            {"onnxruntime": _linear_onnx(codes, weight), "onednn": _linear_torch(codes, weight), **peak(work)},
        )


def conv() -> Iterator[Contest]:
    """Convolutions, codes to codes; ours of an image that has its border, and with the copy of one that has not."""
    for window in WINDOWS:
        yield _conv_contest("gemm_i8", window)


def depthwise() -> Iterator[Contest]:
    """Depthwise convolutions, codes to codes; likewise."""
    for window in DEPTHWISE:
        yield _conv_contest("depthwise_i8", window)


def _epilogue(finish: int, outputs: int) -> tuple[Epilogue, list[np.ndarray]]:
    wide = -(-outputs // 64) * 64
    bias, factor, float_bias = (
        buffer(array)
        for array in (
            np.zeros(wide, np.int32),
            np.full(wide, FLOAT_SCALE**2 / (OUT_SCALE if finish == CODES else 1), np.float32),
            np.zeros(wide, np.float32),
        )
    )
    given = Epilogue(finish, bias.ctypes.data, factor.ctypes.data, float_bias.ctypes.data)
    given.scale, given.zero_point, given.low, given.high = 1.0, 128.0, 0.0, 255.0
    return given, [bias, factor, float_bias]


def _linear_ours(isa: Isa, codes: np.ndarray, weight: np.ndarray) -> Run:
    rows, inputs = codes.shape
    outputs = len(weight)
    layout = MICRO_KERNELS["gemm_i8"].layout(isa)
    given, packed, out = buffer(codes), buffer(blocked(weight, layout)), buffer(np.zeros((rows, outputs), np.float32))
    epilogue, vectors = _epilogue(REALS_BIASED, outputs)
    args = Gemm(given.ctypes.data, rows, inputs, 0, None, packed.ctypes.data)
    args.columns, args.taps, args.depth = outputs, 1, inputs
    args.block_columns, args.block_depth = layout.columns, layout.depth
    args.out, args.out_stride, args.epilogue = out.ctypes.data, outputs, epilogue
    return runner("gemm_i8", isa, args, rows, [given, packed, out, *vectors])


def _linear_onnx(codes: np.ndarray, weight: np.ndarray) -> Run:
    outputs = len(weight)
    names = ["a", "b", "a_scale", "b_scale", "a_zero", "b_zero", "bias"]
    node = onnx.helper.make_node("MatMulIntegerToFloat", names, ["out"], domain="com.microsoft")
    values = {
        "b": np.ascontiguousarray(weight.T),
        "a_scale": np.float32(FLOAT_SCALE),
        "b_scale": np.full(outputs, FLOAT_SCALE, np.float32),
        "a_zero": np.uint8(128),
        "b_zero": np.zeros(outputs, np.int8),
        "bias": np.zeros(outputs, np.float32),
    }
    constants = {name: np.asarray(value) for name, value in values.items()}
    return onnx_runner(node, {"a": codes}, constants, np.dtype("f4"))


def _linear_torch(codes: np.ndarray, weight: np.ndarray) -> Run | str:
    rows, inputs = codes.shape
    outputs = len(weight)
    given = torch.from_numpy(codes)
    scales, zeros = torch.full((outputs,), FLOAT_SCALE), torch.zeros(outputs, dtype=torch.int32)
    try:
        packed = torch.ops.onednn.qlinear_prepack(torch.from_numpy(weight).t(), [rows, inputs])
        rest = (packed, scales, zeros, torch.zeros(outputs), 1.0, 0, torch.float32, "none", [], "")
        torch.ops.onednn.qlinear_pointwise(given, FLOAT_SCALE, 128, *rest)
    except RuntimeError as error:
        return str(error).splitlines()[0][:60]

    def run(count: int) -> None:
        for _ in range(count):
            torch.ops.onednn.qlinear_pointwise(given, FLOAT_SCALE, 128, *rest)

    return run


def _conv_contest(kernel: str, window: Window) -> Contest:
    random = np.random.default_rng(0)
    depth = window.channels // window.groups
    image = random.integers(0, 256, (window.size, window.size, window.channels), dtype=np.uint8)
    weight = random.integers(-127, 128, (window.outputs, window.kernel, window.kernel, depth), dtype=np.int8)
    work = 2.0 * window.out_size**2 * window.outputs * window.kernel**2 * depth
    levels = levels_here(kernel)
    ours = {isa.value: _conv_ours(kernel, isa, window, image, weight, copied=False) for isa in levels}
    ours[f"{levels[0].value}, copied"] = _conv_ours(kernel, levels[0], window, image, weight, copied=True)
    peers = {"onnxruntime": _conv_onnx(window, image, weight), "onednn": _conv_torch(window, image, weight)}
    return Contest(kernel, str(window), work, ours, peers | peak(work))


def _conv_ours(kernel: str, isa: Isa, window: Window, image: np.ndarray, weight: np.ndarray, copied: bool) -> Run:
    layout = MICRO_KERNELS[kernel].layout(isa)
    size, channels = window.size, window.channels
    border = window.kernel // 2
    line = (size + 2 * border) * channels
    given, inside = buffer(image), buffer(np.full((size + 2 * border, line), 128, np.uint8))
    out = buffer(np.zeros((window.out_size**2, window.outputs), np.uint8))
    epilogue, vectors = _epilogue(CODES, window.outputs)
    # Pixels of a window row lie side by side: one tap.
    rows_only = window.groups == 1
    across = range(1) if rows_only else range(window.kernel)
    places = [y * line + x * channels for y in range(window.kernel) for x in across]
    offsets = buffer(np.array(places, dtype=np.int32))
    if window.groups > 1:
        codes, taps = depthwise_taps(weight[..., 0])
        offsets = buffer(np.array([y * line + x * channels for y, x in taps], dtype=np.int32))
        places = list(offsets)
    else:
        codes = weight.reshape(window.outputs, len(places), -1)
    packed = buffer(blocked(codes, layout))
    args = (Depthwise if window.groups > 1 else Gemm)(
        inside.ctypes.data if border else given.ctypes.data,
        window.out_size,
        window.stride * channels,
        window.stride * line,
        offsets.ctypes.data,
        packed.ctypes.data,
    )
    if isinstance(args, Depthwise):
        args.channels, args.taps, args.block_lanes = channels, len(places), layout.lanes
    else:
        args.columns, args.taps, args.depth = window.outputs, len(places), codes.shape[-1]
    args.block_columns, args.block_depth = layout.columns, layout.depth
    args.out, args.out_stride, args.epilogue = out.ctypes.data, window.outputs, epilogue
    start = inside.ctypes.data + border * line + border * channels
    copy = Image(given.ctypes.data, start, size, size * channels, line) if border and copied else None
    return runner(kernel, isa, args, window.out_size**2, [given, inside, out, offsets, packed, *vectors], copy)


def _conv_onnx(window: Window, image: np.ndarray, weight: np.ndarray) -> Run:
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias"]
    # In this form ONNX Runtime itself runs convolutions: no transposes around it.
    node = onnx.helper.make_node(
        "QLinearConv",
        names,
        ["out"],
        domain="com.microsoft",
        channels_last=1,
        group=window.groups,
        kernel_shape=[window.kernel] * 2,
        strides=[window.stride] * 2,
        pads=[window.kernel // 2] * 4,
    )
    constants = {
        "x_scale": np.float32(FLOAT_SCALE),
        "x_zero": np.uint8(128),
        "w": np.ascontiguousarray(weight.transpose(0, 3, 1, 2)),
        "w_scale": np.full(window.outputs, FLOAT_SCALE, np.float32),
        "w_zero": np.zeros(window.outputs, np.int8),
        "y_scale": np.float32(OUT_SCALE),
        "y_zero": np.uint8(128),
        "bias": np.zeros(window.outputs, np.int32),
    }
    given = {name: np.asarray(value) for name, value in constants.items()}
    return onnx_runner(node, {"x": image[None]}, given, np.dtype("u1"))


def _conv_torch(window: Window, image: np.ndarray, weight: np.ndarray) -> Run | str:
    pixels = torch.from_numpy(image[None]).permute(0, 3, 1, 2)
    codes = torch.from_numpy(weight).permute(0, 3, 1, 2).contiguous()
    scales, zeros = torch.full((window.outputs,), FLOAT_SCALE), torch.zeros(window.outputs, dtype=torch.int32)
    geometry = ([window.stride] * 2, [window.kernel // 2] * 2, [1, 1], window.groups)
    ops = torch.ops.onednn
    bias = torch.zeros(window.outputs)
    try:
        packed = ops.qconv_prepack(codes, scales, FLOAT_SCALE, 128, *geometry, list(pixels.shape))
        rest = (packed, scales, zeros, bias, *geometry, OUT_SCALE, 128, torch.uint8, "none", [], "")
        ops.qconv2d_pointwise(pixels, FLOAT_SCALE, 128, *rest)
    except RuntimeError as error:
        return str(error).splitlines()[0][:60]

    def run(count: int) -> None:
        for _ in range(count):
            ops.qconv2d_pointwise(pixels, FLOAT_SCALE, 128, *rest)

    return run
