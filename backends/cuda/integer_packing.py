"""Orders of codes in memory that kernels which multiply integers read: permutations of the codes, with inverses.

All rows are filled up to whole chunks of 16 bytes with zero bits, which count nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qcompiler.errors import InputError

CHUNK = 16
"""Bytes that a lane copies at once."""


def pack_bytes(codes: np.ndarray) -> np.ndarray:
    """int8 codes as they are: `gemm_i8` and `gemv_i8`, and inputs of `gemm_wna8`.

    Shapes: codes [N, K] int8 -> [N, K filled up to 16] int8.
    """
    return np.pad(codes.astype(np.int8), ((0, 0), (0, -codes.shape[1] % CHUNK)))


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two codes to a byte, the first in the low half: `gemm_w4a4` and `gemv_w4a4`, inputs and weights.

    Shapes: codes [N, K] -8..7 -> [N, 16 ceil(K / 32)] uint8. Raises InputError for codes beyond that.
    """
    return _fields(_filled(codes, 4).reshape(len(codes), -1, 2), 4)


def unpack_nibbles(packed: np.ndarray, depth: int) -> np.ndarray:
    """Inverse of `pack_nibbles`: [N, bytes] -> [N, depth] int8."""
    return _codes(packed, 4).reshape(len(packed), -1)[:, :depth]


def interleave(codes: np.ndarray, bits: Literal[2, 4]) -> np.ndarray:
    """Weights of `gemm_wna8` and `gemv_wna8`: runs of 16 bytes, whose byte b holds codes b, 16 + b, ... of the run.

    Lane l of a warp gets bytes 4 (l % 4) and on of column l / 4 by a load of matrices: field by field they are what it
    needs for an instruction over 32 codes.

    Shapes: codes [N, K] two's complement -> [N, 16 ceil(K bits / 128)] uint8. Raises InputError for codes that do not
    fit `bits`.
    """
    runs = _filled(codes, bits).reshape(len(codes), -1, 8 // bits, CHUNK)
    return _fields(runs.swapaxes(2, 3), bits).reshape(len(codes), -1)


def deinterleave(packed: np.ndarray, bits: Literal[2, 4], depth: int) -> np.ndarray:
    """Inverse of `interleave`: [N, bytes] -> [N, depth] int8."""
    runs = _codes(packed, bits).reshape(len(packed), -1, CHUNK, 8 // bits)
    return runs.swapaxes(2, 3).reshape(len(packed), -1)[:, :depth]


def pack_signs(codes: np.ndarray) -> np.ndarray:
    """Bits that are 1 for -1, the first in the lowest: `gemm_b1`, inputs and weights.

    Shapes: codes [N, K] of 1 and -1 -> [N, 16 ceil(K / 128)] uint8. Raises InputError for other codes.
    """
    if not (np.abs(codes) == 1).all():
        raise InputError("signs are codes 1 and -1", step="pack")
    bits = np.pad(codes < 0, ((0, 0), (0, -codes.shape[1] % (8 * CHUNK))))
    return np.packbits(bits, axis=1, bitorder="little")


def unpack_signs(packed: np.ndarray, depth: int) -> np.ndarray:
    """Inverse of `pack_signs`: [N, bytes] -> [N, depth] int8."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, :depth]
    return (1 - 2 * bits.astype(np.int8)).astype(np.int8)


def count_negative(packed: np.ndarray) -> np.ndarray:
    """Ones in each row of `pack_signs`, which is `column_sum` of `gemm_b1`: [N, bytes] -> [N] int32."""
    return np.unpackbits(packed, axis=1).sum(1, dtype=np.int32)


def by_group(values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """What groups have, as kernels read it: neighbours are the same group of neighbouring columns.

    Shapes: values [N, groups] -> [groups, N filled up to 2] of `dtype`.
    """
    return np.ascontiguousarray(np.pad(values.T, ((0, 0), (0, len(values) % 2))).astype(dtype))


def group_scales(scales: np.ndarray) -> np.ndarray:
    """Scales of groups as kernels read them: [N, groups] -> [groups, N filled up to 2] float16."""
    return by_group(scales, np.float16)


def _filled(codes: np.ndarray, bits: int) -> np.ndarray:
    """Fields of `bits` in bytes, in rows of whole chunks."""
    half = 1 << (bits - 1)
    if codes.size and (codes.min() < -half or codes.max() >= half):
        raise InputError(f"codes {codes.min()}..{codes.max()} do not fit {bits} bits", step="pack")
    filled = np.pad(codes.astype(np.int8), ((0, 0), (0, -codes.shape[1] % (CHUNK * 8 // bits))))
    return filled.view(np.uint8) & np.uint8(2 * half - 1)


def _fields(parts: np.ndarray, bits: int) -> np.ndarray:
    """[..., 8 / bits] fields -> [...] bytes, the first in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(parts << shifts, axis=-1)


def _codes(packed: np.ndarray, bits: int) -> np.ndarray:
    """[...] bytes -> [..., 8 / bits] codes."""
    tops = packed[..., None] << np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return tops.view(np.int8) >> np.int8(8 - bits)
