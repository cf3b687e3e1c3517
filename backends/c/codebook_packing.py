"""Weights that are codes of vectors in tables, in the order that `qc_gemm_codebook.h` states."""

from __future__ import annotations

import numpy as np

COLUMNS = 64
"""Columns are filled up to a multiple of these."""
LONGEST = 16
"""Elements of a vector, QC_CODEBOOK_LENGTH."""
_WIDTHS = (4, 8, 16)


def code_bits(entries: int) -> int:
    """Bits in which codes of a table are stored; raises ValueError for more than 65536 entries."""
    found = next((width for width in _WIDTHS if entries <= 1 << width), None)
    if found is None:
        raise ValueError(f"{entries} entries are too many")
    return found


def vector_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs codes; missing columns are zero.

    Shapes: unsigned integers [tables, N, vectors of a row] -> uint8 [vectors, tables, bytes of a row of columns].
    """
    padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % COLUMNS), (0, 0)]).transpose(2, 0, 1)
    if bits == _WIDTHS[0]:
        return (padded[..., ::2] | padded[..., 1::2] << bits).astype(np.uint8)
    return np.ascontiguousarray(padded.astype(f"<u{bits // 8}")).view(np.uint8)


def codes_of_vectors(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """The inverse of `vector_codes`: int64 [tables, columns, vectors]."""
    if bits == _WIDTHS[0]:
        padded = np.stack((packed & 15, packed >> bits), -1).reshape(*packed.shape[:2], -1)
    else:
        padded = np.ascontiguousarray(packed).view(f"<u{bits // 8}")
    return padded.transpose(1, 2, 0)[:, :columns].astype(np.int64)


def block_scales(scale: np.ndarray) -> np.ndarray:
    """Scales [N, blocks] as float32 [blocks, N rounded up]."""
    return np.ascontiguousarray(np.pad(scale.T, [(0, 0), (0, -len(scale) % COLUMNS)]).astype(np.float32))
