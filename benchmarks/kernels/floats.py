"""Float kernels beside those of ONNX Runtime and oneDNN, the latter through torch: GFLOP/s, or elements per ns."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import onnx
import torch
from torch.nn import functional

from benchmarks.kernels.common import Contest, Run, buffer, levels_here, library, onnx_runner
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.floats import FLOAT_LAYOUT
from qcompiler.backends.c.packing import blocked

LINEAR = ((1, 2048, 2048), (16, 768, 3072), (64, 256, 256), (128, 2048, 2048), (197, 192, 768), (512, 768, 3072))
"""Rows, inputs, outputs."""
CONV = ((64, 64, 56, 3), (128, 128, 28, 3), (256, 256, 14, 3), (64, 256, 56, 1), (3, 64, 224, 7))
"""Inputs, outputs, size of the image, size of the window."""
DEPTHWISE = ((96, 56), (384, 14))
ROWS = ((197, 192), (512, 768), (1576, 197))
ATTENTION = ((3, 197, 197, 64), (8, 256, 256, 64), (8, 1, 512, 64))
"""Heads, rows, keys, width."""


def _struct(name: str, *fields: tuple[str, type]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def _fields(kind: type, *names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, kind) for name in names)


POINTER, SIZE, FLOAT, INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float, ctypes.c_int
GEMM = _struct(
    "Gemm",
    *_fields(POINTER, "input"),
    *_fields(SIZE, "width", "inner_stride", "outer_stride"),
    *_fields(POINTER, "offsets", "weight"),
    *_fields(SIZE, "columns", "taps", "depth"),
    *_fields(POINTER, "bias", "out"),
    *_fields(SIZE, "out_stride"),
    *_fields(FLOAT, "low", "high"),
)
DEPTHWISE_ARGS = _struct(
    "Depthwise",
    *_fields(POINTER, "input"),
    *_fields(SIZE, "width", "inner_stride", "outer_stride"),
    *_fields(POINTER, "offsets", "weight"),
    *_fields(SIZE, "channels", "taps"),
    *_fields(POINTER, "bias", "out"),
    *_fields(SIZE, "out_stride"),
    *_fields(FLOAT, "low", "high"),
)
SOFTMAX = _struct(
    "Softmax",
    *_fields(POINTER, "input"),
    *_fields(SIZE, "input_stride", "width"),
    *_fields(INT, "logarithm"),
    *_fields(POINTER, "out"),
    *_fields(SIZE, "out_stride"),
)
NORM = _struct(
    "Norm",
    *_fields(POINTER, "input"),
    *_fields(SIZE, "input_stride", "width"),
    *_fields(INT, "centred"),
    *_fields(FLOAT, "eps"),
    *_fields(POINTER, "weight", "bias", "out"),
    *_fields(SIZE, "out_stride"),
)
QUANTIZE = _struct(
    "Quantize",
    *_fields(POINTER, "input"),
    *_fields(SIZE, "input_stride", "width"),
    *_fields(INT, "symmetric"),
    *_fields(FLOAT, "lowest", "highest", "shift"),
    *_fields(POINTER, "out"),
    *_fields(SIZE, "out_stride"),
    *_fields(POINTER, "scale", "zero", "sum"),
)
STEPS = _struct("Steps", *_fields(SIZE, "batch", "head", "row"))
ATTENTION_ARGS = _struct(
    "Attention",
    *_fields(POINTER, "query", "key", "value"),
    *_fields(STEPS, "query_steps", "key_steps", "value_steps", "out_steps"),
    *_fields(POINTER, "mask", "keep"),
    *_fields(STEPS, "mask_steps", "keep_steps"),
    *_fields(SIZE, "key_heads", "shared", "length", "keys", "depth", "width"),
    *_fields(INT, "causal"),
    *_fields(SIZE, "past"),
    *_fields(FLOAT, "scale"),
    *_fields(POINTER, "out"),
)


@cache
def _library(kernel: str, isa: Isa) -> ctypes.CDLL:
    return library(MICRO_KERNELS[kernel].source(isa).read_text(), isa)


def _ours(kernel: str, args: type[ctypes.Structure], tasks: int, values: dict[str, object]) -> dict[str, Run]:
    """The kernel compiled for every level above portable C that this processor has, on the same arguments."""
    kept = {name: buffer(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    given = args(**{name: kept[name].ctypes.data if name in kept else value for name, value in values.items()})

    def run_of(isa: Isa) -> Run:
        loaded = _library(kernel, isa)
        function = ctypes.cast(loaded[f"qc_{kernel}_portable"], POINTER)

        def run(count: int) -> None:
            loaded.qc_repeat(function, ctypes.byref(given), SIZE(tasks), SIZE(count), None)
            assert kept

        return run

    return {isa.value: run_of(isa) for isa in levels_here("gemm_i8") if isa in (Isa.AVX512, Isa.AVX2)}


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _torch(call: Callable[..., torch.Tensor], *arrays: np.ndarray) -> Run:
    given = [torch.from_numpy(array) for array in arrays]

    def run(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                call(*given)

    return run


def _onnx(op: str, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], **options: object) -> Run:
    node = onnx.helper.make_node(op, [*inputs, *constants], ["y"], **options)  # pyright: ignore[reportArgumentType]
    return onnx_runner(node, inputs, constants, np.dtype(np.float32))


def linear() -> Iterator[Contest]:
    """Matrix products."""
    for rows, inputs, outputs in LINEAR:
        x, weight = _normal(rows, inputs), _normal(outputs, inputs)
        values: dict[str, object] = {
            "input": x,
            "width": rows,
            "inner_stride": inputs,
            "weight": blocked(weight[:, None], FLOAT_LAYOUT),
            "columns": outputs,
            "taps": 1,
            "depth": inputs,
            "out": np.zeros((rows, outputs), np.float32),
            "out_stride": outputs,
            "low": -math.inf,
            "high": math.inf,
        }
        peers = {
            "onnxruntime": _onnx("MatMul", {"x": x}, {"w": weight.T.copy()}),
            "onednn": _torch(functional.linear, x, weight),
        }
        ours = _ours("gemm_f32", GEMM, rows, values)
        yield Contest("gemm_f32", f"{rows}x{inputs}x{outputs}", 2.0 * rows * inputs * outputs, ours, peers)


def _image(size: int, channels: int, window: int) -> dict[str, object]:
    """An image with its border, and where windows lie in it; pixels of a line side by side are one tap."""
    wide = size + window - 1
    return {
        "input": _normal(wide, wide, channels),
        "width": size,
        "inner_stride": channels,
        "outer_stride": wide * channels,
        "low": -math.inf,
        "high": math.inf,
    }


def conv() -> Iterator[Contest]:
    """Convolutions of stride 1 without padding, so that nobody has to add a border."""
    for inputs, outputs, size, window in CONV:
        image, weight = _image(size, inputs, window), _normal(outputs, window, window, inputs)
        wide = size + window - 1
        values = {
            **image,
            "offsets": (np.arange(window) * wide * inputs).astype(np.int32),
            "weight": blocked(weight.reshape(outputs, window, -1), FLOAT_LAYOUT),
            "columns": outputs,
            "taps": window,
            "depth": window * inputs,
            "out": np.zeros((size, size, outputs), np.float32),
            "out_stride": outputs,
        }
        yield _convolution("gemm_f32", GEMM, values, weight.transpose(0, 3, 1, 2), size, 1)


def depthwise() -> Iterator[Contest]:
    """Depthwise convolutions, 3 x 3."""
    for channels, size in DEPTHWISE:
        wide = size + 2
        weight = _normal(9, channels)
        places = [(line * wide + pixel) * channels for line in range(3) for pixel in range(3)]
        values = {
            **_image(size, channels, 3),
            "offsets": np.array(places, np.int32),
            "weight": weight,
            "channels": channels,
            "taps": 9,
            "out": np.zeros((size, size, channels), np.float32),
            "out_stride": channels,
        }
        theirs = weight.T.reshape(channels, 1, 3, 3)
        yield _convolution("depthwise_f32", DEPTHWISE_ARGS, values, theirs, size, channels)


def _convolution(
    kernel: str,
    args: type[ctypes.Structure],
    values: dict[str, object],
    weight: np.ndarray,
    size: int,
    groups: int,
) -> Contest:
    image, weight = values["input"], np.ascontiguousarray(weight)
    assert isinstance(image, np.ndarray)
    x = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    peers = {
        "onnxruntime": _onnx("Conv", {"x": x}, {"w": weight}, group=groups),
        "onednn": _torch(lambda image, kernel: functional.conv2d(image, kernel, groups=groups), x, weight),
    }
    outputs, inputs, window, _ = weight.shape
    case = f"{window}x{window} {inputs * groups}->{outputs} at {size}"
    return Contest(kernel, case, 2.0 * size * size * weight.size, _ours(kernel, args, size * size, values), peers)


def rows() -> Iterator[Contest]:
    """Softmax, layer norm and run-time quantization, row by row."""
    for count, width in ROWS:
        x, ones, out = _normal(count, width), np.ones(width, np.float32), np.zeros((count, width), np.float32)
        dense: dict[str, object] = {"input": x, "input_stride": width, "width": width, "out_stride": width}
        case, elements = f"{count}x{width}", float(count * width)
        ours = _ours("softmax", SOFTMAX, count, {**dense, "out": out})
        peers = {"onnxruntime": _onnx("Softmax", {"x": x}, {}), "torch": _torch(lambda x: x.softmax(-1), x)}
        yield Contest("softmax", case, elements, ours, peers)
        ours = _ours(
            "norm", NORM, count, {**dense, "centred": 1, "eps": 1e-5, "weight": ones, "bias": ones, "out": out}
        )
        peers = {
            "onnxruntime": _onnx("LayerNormalization", {"x": x}, {"w": ones, "b": ones}),
            "torch": _torch(lambda x, w: functional.layer_norm(x, w.shape, w, w), x, ones),
        }
        yield Contest("norm", case, elements, ours, peers)
        quantized = {
            "symmetric": 0,
            "lowest": 0.0,
            "highest": 255.0,
            "out": np.zeros((count, width), np.uint8),
            "scale": np.zeros(count, np.float32),
            "zero": np.zeros(count, np.int32),
        }
        ours = _ours("quantize_rows", QUANTIZE, count, {**dense, **quantized})
        yield Contest("quantize_rows", case, elements, ours, {"onnxruntime": _dynamic(x)})


def _dynamic(x: np.ndarray) -> Run:
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    return onnx_runner(node, {"x": x}, {}, np.dtype(np.uint8))


def attention() -> Iterator[Contest]:
    """Attention of one image or sentence; heads lie side by side in a row for us, apart for torch."""
    for heads, length, keys, width in ATTENTION:
        q, k, v = _normal(length, heads, width), _normal(keys, heads, width), _normal(keys, heads, width)
        steps = STEPS(0, width, heads * width)
        values: dict[str, object] = {
            "query": q,
            "key": k,
            "value": v,
            "out": np.zeros_like(q),
            **dict.fromkeys(("query_steps", "key_steps", "value_steps", "out_steps"), steps),
            "key_heads": heads,
            "shared": 1,
            "length": length,
            "keys": keys,
            "depth": width,
            "width": width,
            "scale": 1 / math.sqrt(width),
        }
        tasks = heads * -(-length // 32)
        peers = {"torch": _torch(functional.scaled_dot_product_attention, *_apart(q, k, v))}
        case = f"{heads} heads {length}x{keys}x{width}"
        operations = 4.0 * heads * length * keys * width
        yield Contest("attention", case, operations, _ours("attention", ATTENTION_ARGS, tasks, values), peers)


def _apart(*arrays: np.ndarray) -> Sequence[np.ndarray]:
    return [np.ascontiguousarray(array.transpose(1, 0, 2)[None]) for array in arrays]
