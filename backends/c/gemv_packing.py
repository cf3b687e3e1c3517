"""Weights of few bits as places in tables of sums: the order that `qc_gemv_wna8.h` states."""

from __future__ import annotations

import numpy as np

PANEL = 32
"""Outputs whose places lie together: two in each of 16 bytes."""
MOST_INPUTS = 2048
"""Of a block, QC_GEMV_BLOCK."""
_GROUP = 4
_STEP = 16


def places(codes: np.ndarray, planes: int, block: int) -> np.ndarray:
    """Packs codes below 2^planes; inputs that are missing in a block, and missing outputs, are zero.

    Shapes: unsigned integers [N, K] -> uint8 [ceil(N / 32), bytes of a panel].
    """
    outputs, inputs = codes.shape
    padded = np.pad(codes, [(0, -outputs % PANEL), (0, 0)]).reshape(-1, PANEL, inputs)
    parts = [_block_places(padded[..., at : at + block], planes) for at in range(0, inputs, block)]
    return np.concatenate(parts, axis=1)


def codes_of_places(packed: np.ndarray, planes: int, block: int, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `places` for codes of [N, K] = `shape`, uint8."""
    outputs, inputs = shape
    parts: list[np.ndarray] = []
    at = 0
    for first in range(0, inputs, block):
        count = min(block, inputs - first)
        size = -(-count // _STEP) * _STEP // _GROUP * planes * (PANEL // 2)
        parts.append(_codes_of_block(packed[:, at : at + size], planes)[..., :count])
        at += size
    return np.concatenate(parts, axis=-1).reshape(-1, inputs)[:outputs]


def _block_places(codes: np.ndarray, planes: int) -> np.ndarray:
    """Shapes: [panels, 32, inputs of a block] -> [panels, planes * groups * 16]."""
    filled = np.pad(codes, [(0, 0), (0, 0), (0, -codes.shape[-1] % _STEP)]).astype(np.uint8)
    groups = filled.reshape(*filled.shape[:2], -1, _GROUP)
    bits = groups[..., None] >> np.arange(planes, dtype=np.uint8) & 1
    halves = (bits << np.arange(_GROUP, dtype=np.uint8)[:, None]).sum(-2, dtype=np.uint8)
    low, high = halves[:, : PANEL // 2], halves[:, PANEL // 2 :]
    return (low | high << 4).transpose(0, 3, 2, 1).reshape(len(codes), -1)


def _codes_of_block(packed: np.ndarray, planes: int) -> np.ndarray:
    """Shapes: [panels, planes * groups * 16] -> [panels, 32, inputs]."""
    both = packed.reshape(len(packed), planes, -1, PANEL // 2).transpose(0, 3, 2, 1)
    halves = np.concatenate((both & 15, both >> 4), axis=1)
    bits = halves[..., None, :] >> np.arange(_GROUP, dtype=np.uint8)[:, None] & 1
    codes = (bits << np.arange(planes, dtype=np.uint8)).sum(-1, dtype=np.uint8)
    return codes.reshape(len(packed), PANEL, -1)
