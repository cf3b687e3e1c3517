"""Products with weights that are codes of vectors in learned tables, beside dense products and unpacking first."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from benchmarks.kernels.common import Contest, Run, buffer, levels_here, library
from qcompiler.backends.c.codebook_packing import COLUMNS, block_scales, code_bits, vector_codes
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS

SHAPES = ((1, 768, 768), (1, 2048, 2048), (1, 4096, 4096), (16, 768, 3072), (128, 768, 768))
"""Rows, inputs, outputs."""
BOOKS = ((1, 16, 2), (1, 256, 4), (1, 256, 8), (2, 256, 8))
"""Tables, entries, elements of a vector."""


class Args(ctypes.Structure):
    """`qc_gemm_codebook_args`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("input_stride", ctypes.c_size_t),
        ("codes", ctypes.c_void_p),
        ("code_bits", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("table", "turned")),
        *((name, ctypes.c_size_t) for name in ("tables", "entries", "length")),
        *((name, ctypes.c_void_p) for name in ("scale", "bias")),
        *((name, ctypes.c_size_t) for name in ("rows", "columns", "depth", "block")),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_size_t),
    )


def linear() -> Iterator[Contest]:
    """Float activations; `dense` has the weight in float32, `unpacked` makes it from the codes at every call."""
    for rows, inputs, outputs in SHAPES:
        for tables, entries, length in BOOKS:
            random = np.random.default_rng(0)
            table = random.standard_normal((tables, entries, length)).astype(np.float32)
            codes = random.integers(0, entries, (tables, outputs, inputs // length))
            given = random.standard_normal((rows, inputs)).astype(np.float32)
            bits = tables * code_bits(entries) / length
            yield Contest(
                "gemm_codebook",
                f"{tables}x{entries}x{length} ({bits:g} bits) {rows}x{inputs}x{outputs}",
                2.0 * rows * inputs * outputs,
                {
                    isa.value: _ours(isa, given, codes, table)
                    for isa in levels_here("gemm_i8")
                    if isa in (Isa.AVX512, Isa.AVX2)
                },
                {"dense": _dense(given, codes, table), "unpacked": _unpacked(given, codes, table)},
            )


def _ours(isa: Isa, given: np.ndarray, codes: np.ndarray, table: np.ndarray) -> Run:
    tables, outputs, vectors = codes.shape
    bits = code_bits(table.shape[1])
    arrays = {
        "input": given,
        "codes": vector_codes(codes, bits),
        "table": table,
        "turned": np.ascontiguousarray(table.transpose(0, 2, 1)),
        "scale": block_scales(np.ones((outputs, 1), np.float32)),
        "out": np.zeros((len(given), outputs), np.float32),
    }
    kept = {name: buffer(array) for name, array in arrays.items()}
    args = Args(
        **{name: array.ctypes.data for name, array in kept.items()},
        input_stride=given.shape[1],
        code_bits=bits,
        tables=tables,
        entries=table.shape[1],
        length=table.shape[2],
        rows=len(given),
        columns=outputs,
        depth=given.shape[1],
        block=vectors,
        out_stride=outputs,
    )
    compiled = library(MICRO_KERNELS["gemm_codebook"].source(isa).read_text(), isa)
    function = ctypes.cast(compiled["qc_gemm_codebook_portable"], ctypes.c_void_p)
    tasks = ctypes.c_size_t(-(-outputs // COLUMNS))

    def run(count: int) -> None:
        compiled.qc_repeat(function, ctypes.byref(args), tasks, ctypes.c_size_t(count), None)
        assert kept

    return run


def _dense(given: np.ndarray, codes: np.ndarray, table: np.ndarray) -> Run:
    x, weight = torch.from_numpy(given), _weight(torch.from_numpy(codes), torch.from_numpy(table))

    def run(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                functional.linear(x, weight)

    return run


def _unpacked(given: np.ndarray, codes: np.ndarray, table: np.ndarray) -> Run:
    x, places, entries = (torch.from_numpy(array) for array in (given, codes, table))

    def run(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                functional.linear(x, _weight(places, entries))

    return run


def _weight(codes: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    parts = [functional.embedding(places, table).flatten(1) for places, table in zip(codes, tables, strict=True)]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
