"""Signs and bit planes as the kernels read them.

A row of bits is the canonical little-endian stream (`qcompiler.formats.pack`) in whole words of 8 bytes per tap.
"""

from __future__ import annotations

import numpy as np

from qcompiler.backends.c.kernels.binary import X86_LAYOUT
from qcompiler.backends.c.kernels.row import Blocked
from qcompiler.backends.c.packing import blocked, unblocked

WORD = 8
"""Bytes of a word, whose multiple every row is."""
GROUP = 16
"""Outputs whose planes lie together in `packed_planes`."""


def bit_rows(bits: np.ndarray) -> np.ndarray:
    """Bits along the last axis in whole words, missing ones are zero.

    Shapes: bits [..., K] of 0 and 1 -> uint8 [..., 8 * ceil(K / 64)].
    """
    packed = np.packbits(bits.astype(bool), axis=-1, bitorder="little")
    return np.pad(packed, [(0, 0)] * (bits.ndim - 1) + [(0, -packed.shape[-1] % WORD)])


def bits_of_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `bit_rows` for rows of `count` bits."""
    return np.unpackbits(rows, axis=-1, count=count, bitorder="little")


def chained(layout: Blocked) -> bool:
    """Whether the second of each pair of words holds its exclusive or with the first in this layout."""
    return layout == X86_LAYOUT


def packed_signs(bits: np.ndarray, layout: Blocked) -> np.ndarray:
    """Weights of `gemm_b1`: the bit 1 is the weight -1.

    Shapes: bits [N, taps, K] -> uint8 [ceil(N / columns), runs, columns, depth].
    """
    rows = bit_rows(bits).reshape(bits.shape[0], -1)
    return blocked(_chain(rows) if chained(layout) else rows, layout)


def unpacked_signs(packed: np.ndarray, layout: Blocked, shape: tuple[int, int, int]) -> np.ndarray:
    """The inverse of `packed_signs` for bits of `shape`."""
    outputs, taps, depth = shape
    width = taps * -(-depth // (8 * WORD)) * WORD
    if chained(layout):
        rows = _chain(unblocked(packed, layout, (outputs, width + width % (2 * WORD))))[:, :width]
    else:
        rows = unblocked(packed, layout, (outputs, width))
    return bits_of_rows(rows.reshape(outputs, taps, -1), depth)


def packed_planes(bits: np.ndarray, layout: Blocked) -> np.ndarray:
    """Weights of `gemm_bits`.

    Shapes: bits [planes, N, taps, K] -> uint8 [ceil(16 * planes * ceil(N / 16) / columns), runs, columns, depth].
    """
    planes, outputs, taps, depth = bits.shape
    grouped = np.pad(bits, [(0, 0), (0, -outputs % GROUP), (0, 0), (0, 0)]).reshape(planes, -1, GROUP, taps, depth)
    return packed_signs(grouped.swapaxes(0, 1).reshape(-1, taps, depth), layout)


def unpacked_planes(packed: np.ndarray, layout: Blocked, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The inverse of `packed_planes` for bits of `shape`."""
    planes, outputs, taps, depth = shape
    groups = -(-outputs // GROUP)
    rows = unpacked_signs(packed, layout, (groups * planes * GROUP, taps, depth))
    grouped = rows.reshape(groups, planes, GROUP, taps, depth).swapaxes(0, 1)
    return grouped.reshape(planes, -1, taps, depth)[:, :outputs]


def _chain(rows: np.ndarray) -> np.ndarray:
    """Rows of an even number of words with the second of each pair chained to the first; its own inverse."""
    even = np.pad(rows, [(0, 0), (0, -rows.shape[1] % (2 * WORD))])
    pairs = even.reshape(rows.shape[0], -1, 2, WORD).copy()
    pairs[:, :, 1] ^= pairs[:, :, 0]
    return pairs.reshape(even.shape)


def border_corrections(bits: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """What taps outside of an image add when a row of ones stands for them: `correction` of `gemm_b1`.

    Shapes: bits [N, taps, K], outside bool [patterns, taps] -> int32 [patterns, N].
    """
    sums = bits.shape[2] - 2 * bits.sum(axis=2, dtype=np.int32)
    return outside.astype(np.int32) @ sums.T.astype(np.int32)


def sign_thresholds(
    factor: np.ndarray, bias: np.ndarray, terms: int, limit: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """When an affine map of a sum is below a limit, as a comparison of the sum: `threshold` and `flip` of `gemm_b1`.

    For every whole number t between -terms and terms, (t < threshold) xor flip is float(t) * factor + bias < limit in
    float32, product and sum rounded apart: both grow, or both fall, with t, so that the place is found by halving.

    Shapes: factor and bias float32 [N] -> int32 [N], uint8 [N] of 0 and 1.
    """
    factor, bias = factor.astype(np.float32), bias.astype(np.float32)
    flip = factor < 0
    low, high = np.full(len(factor), -terms, np.int32), np.full(len(factor), terms + 1, np.int32)
    for _ in range(int(2 * terms + 1).bit_length()):
        middle = (low + high) // 2
        less = middle.astype(np.float32) * factor + bias < np.float32(limit)
        before = (less != flip) & (low < high)
        low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
    return low.astype(np.int32), flip.astype(np.uint8)
