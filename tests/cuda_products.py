"""Cases for the CUDA kernels that multiply codes, and what `qc_product.cuh` says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.cuda_harness import aligned

KINDS = {0: np.float32, 1: np.float16, 2: np.uint16, 3: np.int8, 4: np.int32}
"""Of results; bfloat16 as its bits."""
F32, F16, BF16, I8, I32, SIGNS = range(6)


@dataclass(frozen=True)
class Parts:
    """Which parts a product has behind its sums."""

    kind: int = F32
    per_row: bool = True
    per_column: bool = True
    bias: bool = False
    total_bias: bool = False
    row_zero: bool = False
    column_zero: bool = False
    residual: bool = False
    clamped: bool = False


PARTS = st.builds(
    Parts,
    st.sampled_from([F32, F16, BF16, I8, I32]),
    *(st.booleans() for _ in range(8)),
)


def finish_arguments(parts: Parts, x: np.ndarray, w: np.ndarray, seed: int) -> dict:
    """Arguments behind the codes, for inputs [rows, depth] and weights [columns, depth]."""
    rng = np.random.default_rng(seed)
    rows, columns = len(x), len(w)
    floats = parts.kind in (F32, F16, BF16)
    found = {
        "rows": rows,
        "columns": columns,
        "depth": x.shape[1],
        "splits": 1,
        "input_scale": rng.uniform(0.001, 0.1, rows if parts.per_row else 1).astype(np.float32),
        "weight_scale": rng.uniform(0.001, 0.1, columns if parts.per_column else 1).astype(np.float32),
        "input_scales": int(parts.per_row),
        "weight_scales": int(parts.per_column),
        "out_kind": parts.kind,
        "clamped": int(parts.clamped),
        "least": -3.0 if floats else -100.0,
        "most": 4.0 if floats else 90.0,
        "zero_point": 5.0,
        "out_scale": 0.25 if parts.bias else 0.0,
    }
    if parts.bias:
        found["bias"] = rng.normal(size=columns).astype(np.float32)
    if parts.total_bias:
        found["total_bias"] = rng.integers(-5000, 5000, columns, dtype=np.int32)
    if parts.row_zero:
        found["row_zero"] = rng.integers(-128, 128, rows, dtype=np.int32)
        found["column_sum"] = w.sum(1, dtype=np.int32)
    if parts.column_zero:
        found["column_zero"] = rng.integers(0, 16, columns, dtype=np.int32)
        found["row_sum"] = x.sum(1, dtype=np.int32)
    if parts.residual and floats:
        found["residual"] = bits(rng.normal(size=(rows, columns)).astype(np.float32), parts.kind)
    return found


def finished(total: np.ndarray, args: Mapping) -> np.ndarray:
    """What becomes of integer sums [rows, columns]."""
    if "total_bias" in args:
        total = total + args["total_bias"]
    if "row_zero" in args:
        total = total - args["row_zero"][:, None].astype(np.int64) * args["column_sum"]
    if "column_zero" in args:
        total = total - args["row_sum"][:, None].astype(np.int64) * args["column_zero"]
    if args["out_kind"] == I32:
        return total.astype(np.int32)
    return _stored(total.astype(np.float32) * (args["input_scale"][:, None] * args["weight_scale"]), args)


def _stored(real: np.ndarray, args: Mapping) -> np.ndarray:
    kind = args["out_kind"]
    if "bias" in args:
        real = real + args["bias"]
    if "residual" in args:
        real = real + numbers(args["residual"], kind)
    if kind == SIGNS:
        return signs(real)
    if kind == I8:
        real = real / np.float32(args["out_scale"]) if args["out_scale"] else real
        return np.clip(np.rint(real) + np.float32(args["zero_point"]), args["least"], args["most"]).astype(np.int8)
    if args["clamped"]:
        real = np.clip(real, np.float32(args["least"]), np.float32(args["most"]))
    assert real.dtype == np.float32
    return bits(real, kind)


def signs(real: np.ndarray) -> np.ndarray:
    """Bits of negative numbers, [rows, columns] -> [rows, words], whole fours of them."""
    padded = np.zeros((len(real), -(-real.shape[1] // 128) * 128), np.uint8)
    padded[:, : real.shape[1]] = real < 0
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint32)


def bits(real: np.ndarray, kind: int) -> np.ndarray:
    """float32 numbers as a kind of results holds them."""
    if kind != BF16:
        return real.astype(KINDS[kind])
    pattern = real.view(np.uint32).astype(np.uint64)
    return ((pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16).astype(np.uint16)


def numbers(array: np.ndarray, kind: int) -> np.ndarray:
    """Inverse of `bits`."""
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == BF16 else array.astype(np.float32)


def room(rows: int, columns: int, kind: int) -> np.ndarray:
    """For a result."""
    shape = (rows, -(-columns // 128) * 4) if kind == SIGNS else (rows, columns)
    return aligned(np.full(shape, 77, np.uint32 if kind == SIGNS else KINDS[kind]))
