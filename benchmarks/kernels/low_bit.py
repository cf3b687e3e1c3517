"""Products with weights of few bits beside ONNX Runtime's MatMulNBits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import onnx

from benchmarks.kernels.common import Contest, Run, buffer, levels_here, library, onnx_runner, runner
from qcompiler.backends.c.gemv_packing import PANEL, places
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.low_bit_packing import Bits, by_block, words

SHAPES = (
    (1, 768, 768),
    (1, 2048, 2048),
    (1, 4096, 4096),
    (4, 2048, 2048),
    (16, 768, 3072),
    (128, 768, 768),
    (128, 2048, 2048),
)
"""Rows, inputs, outputs."""
WIDTHS: tuple[Bits, ...] = (4, 3, 2, 8)
BLOCKS = (32, 128)
_NBITS = (2, 4, 8)


class Integers(ctypes.Structure):
    """`qc_gemm_wna8_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("input_stride", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("input_scale", "input_sum", "weight", "scale", "zero")),
        ("common_zero", ctypes.c_int32),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("rows", "columns", "depth", "block", "bits")),
        *((name, ctypes.c_size_t) for name in ("block_columns", "block_depth")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
    )


class Floats(ctypes.Structure):
    """`qc_gemm_wnf32_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("input_stride", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "zero")),
        ("common_zero", ctypes.c_int32),
        ("table", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("rows", "columns", "depth", "block", "bits", "block_columns")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
    )


class Quantizer(ctypes.Structure):
    """`qc_quantize_blocks_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("input_stride", "width", "block")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
        ("scale", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
    )


def integers() -> Iterator[Contest]:
    """Float activations that are quantized to 8 bits first, as MatMulNBits does at level 4."""
    for rows, inputs, outputs in SHAPES:
        for block in BLOCKS:
            for bits in WIDTHS:
                yield Contest(
                    "gemm_wna8",
                    f"w{bits}a8 b{block} {rows}x{inputs}x{outputs}",
                    2.0 * rows * inputs * outputs,
                    {isa.value: _integers(isa, rows, inputs, outputs, bits, block) for isa in levels_here("gemm_wna8")},
                    {"nbits": _nbits(rows, inputs, outputs, bits, block, 4)},
                )


def floats() -> Iterator[Contest]:
    """Float activations, beside MatMulNBits with floats (level 0) and with activations of 8 bits (level 4)."""
    for rows, inputs, outputs in SHAPES:
        for bits in WIDTHS:
            yield Contest(
                "gemm_wnf32",
                f"w{bits}a16 b128 {rows}x{inputs}x{outputs}",
                2.0 * rows * inputs * outputs,
                {isa.value: _floats(isa, rows, inputs, outputs, bits, 128) for isa in levels_here("gemm_wnf32")},
                {
                    "nbits": _nbits(rows, inputs, outputs, bits, 128, 4),
                    "nbits float": _nbits(rows, inputs, outputs, bits, 128, 0),
                },
            )


def _floats(isa: Isa, rows: int, inputs: int, outputs: int, bits: Bits, block: int) -> Run:
    random = np.random.default_rng(0)
    layout = MICRO_KERNELS["gemm_wnf32"].layout(isa)
    codes = random.integers(0, 1 << bits, (outputs, inputs), dtype=np.uint8)
    scale = np.full((outputs, -(-inputs // block)), 0.01, np.float32)
    arrays = {
        "input": random.standard_normal((rows, inputs)).astype(np.float32),
        "weight": words(codes, bits, layout, block),
        "scale": by_block(scale, layout.columns),
        "out": np.zeros((rows, outputs), np.float32),
    }
    kept = {name: buffer(array) for name, array in arrays.items()}
    args = Floats(
        **{name: array.ctypes.data for name, array in kept.items()},
        common_zero=1 << (bits - 1),
        input_stride=inputs,
        out_stride=outputs,
        rows=rows,
        columns=outputs,
        depth=inputs,
        block=block,
        bits=bits,
        block_columns=layout.columns,
    )
    return runner("gemm_wnf32", isa, args, -(-outputs // layout.columns), list(kept.values()))


def _integers(isa: Isa, rows: int, inputs: int, outputs: int, bits: Bits, block: int) -> Run:
    random = np.random.default_rng(0)
    layout = MICRO_KERNELS["gemm_wna8"].layout(isa)
    blocks = -(-inputs // block)
    codes = random.integers(0, 1 << bits, (outputs, inputs), dtype=np.uint8)
    arrays = {
        "input": random.integers(-127, 128, (rows, inputs), dtype=np.int8),
        "input_scale": np.full((rows, blocks), 0.01, np.float32),
        "input_sum": np.zeros((rows, blocks), np.int32),
        "weight": words(codes, bits, layout, block),
        "scale": by_block(np.full((outputs, blocks), 0.01, np.float32), layout.columns),
        "out": np.zeros((rows, outputs), np.float32),
    }
    kept = {name: buffer(array) for name, array in arrays.items()}
    args = Integers(
        **{name: array.ctypes.data for name, array in kept.items()},
        common_zero=1 << (bits - 1),
        input_stride=inputs,
        out_stride=outputs,
        rows=rows,
        columns=outputs,
        depth=inputs,
        block=block,
        bits=bits,
        block_columns=layout.columns,
        block_depth=layout.depth,
    )
    product = runner("gemm_wna8", isa, args, -(-outputs // layout.columns), list(kept.values()))
    quantize = _quantizer(isa, rows, inputs, block, kept)

    def run(count: int) -> None:
        quantize(count)
        product(count)

    return run


def _quantizer(isa: Isa, rows: int, inputs: int, block: int, kept: Mapping[str, np.ndarray]) -> Run:
    """Fills `input`, `input_scale` and `input_sum` of `kept`."""
    compiled = _quantizer_library(isa)
    version = MICRO_KERNELS["quantize_blocks"].versions(isa)[0]
    function = ctypes.cast(compiled[f"qc_quantize_blocks_{version.value}"], ctypes.c_void_p)
    given = buffer(np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32))
    codes, scale, sums = (kept[name].ctypes.data for name in ("input", "input_scale", "input_sum"))
    args = Quantizer(given.ctypes.data, inputs, inputs, block, codes, inputs, scale, sums)

    def run(count: int) -> None:
        compiled.qc_repeat(function, ctypes.byref(args), ctypes.c_size_t(rows), ctypes.c_size_t(count), None)
        assert given.size

    return run


@cache
def _quantizer_library(isa: Isa) -> ctypes.CDLL:
    return library(MICRO_KERNELS["quantize_blocks"].source(isa).read_text(), isa)


def _nbits(rows: int, inputs: int, outputs: int, bits: Bits, block: int, level: int) -> Run | str:
    """MatMulNBits; with four bits where it has none of as many."""
    taken = bits if bits in _NBITS else 4
    random = np.random.default_rng(0)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "weight", "scale"],
        ["out"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=taken,
        block_size=block,
        accuracy_level=level,
    )
    blocks = -(-inputs // block)
    constants = {
        "weight": random.integers(0, 256, (outputs, blocks, block * taken // 8), dtype=np.uint8),
        "scale": np.full(outputs * blocks, 0.01, np.float32),
    }
    given = random.standard_normal((rows, inputs)).astype(np.float32)
    return onnx_runner(node, {"x": given}, constants, np.dtype("f4"))


class Tables(ctypes.Structure):
    """`qc_gemv_wna8_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("input_stride", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("input_scale", "input_sum", "weight", "scale", "zero")),
        ("common_zero", ctypes.c_int32),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("rows", "columns", "depth", "block", "planes")),
        ("step", ctypes.c_int32),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
    )


def tables() -> Iterator[Contest]:
    """One row by tables of sums, beside the kernels that unpack the same codes (signs have two bits there)."""
    for rows, inputs, outputs in SHAPES:
        for planes in (1, 2, 3) if rows == 1 else ():
            codes: Bits = 3 if planes == 3 else 2
            yield Contest(
                "gemv_wna8",
                f"w{planes}a8 b128 {rows}x{inputs}x{outputs}",
                2.0 * rows * inputs * outputs,
                {Isa.AVX2.value: _tables(inputs, outputs, planes, 128)},
                {
                    f"unpacked {isa.value}": _integers(isa, rows, inputs, outputs, codes, 128)
                    for isa in levels_here("gemm_wna8")
                },
            )


def _tables(inputs: int, outputs: int, planes: int, block: int) -> Run:
    random = np.random.default_rng(0)
    blocks = -(-inputs // block)
    codes = random.integers(0, 1 << planes, (outputs, inputs), dtype=np.uint8)
    arrays = {
        "input": random.integers(-127, 128, (1, inputs), dtype=np.int8),
        "input_scale": np.full((1, blocks), 0.01, np.float32),
        "input_sum": np.zeros((1, blocks), np.int32),
        "weight": places(codes, planes, block),
        "scale": by_block(np.full((outputs, blocks), 0.01, np.float32), PANEL),
        "out": np.zeros((1, outputs), np.float32),
    }
    kept = {name: buffer(array) for name, array in arrays.items()}
    args = Tables(
        **{name: array.ctypes.data for name, array in kept.items()},
        common_zero=1 << (planes - 1),
        input_stride=inputs,
        out_stride=outputs,
        rows=1,
        columns=outputs,
        depth=inputs,
        block=block,
        planes=planes,
        step=1,
    )
    product = runner("gemv_wna8", Isa.AVX2, args, -(-outputs // PANEL), list(kept.values()))
    quantize = _quantizer(Isa.AVX2, 1, inputs, block, kept)

    def run(count: int) -> None:
        quantize(count)
        product(count)

    return run
