"""Weights in the order in which kernels read them: named permutations of the canonical one."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.c.kernels.row import Blocked


def blocked(codes: np.ndarray, layout: Blocked) -> np.ndarray:
    """Panels of outputs, in each of them runs of inputs of every output; missing codes are zero.

    Shapes: [N, K] -> [ceil(N / columns), ceil(K / depth), columns, depth], [N, T, K] -> the same with T as second axis.
    """
    *_, depth = codes.shape
    outputs = codes.shape[0]
    rows = -(-outputs // layout.columns) * layout.columns
    runs = -(-depth // layout.depth) * layout.depth
    widths = [(0, rows - outputs), *[(0, 0)] * (codes.ndim - 2), (0, runs - depth)]
    padded = np.pad(codes, widths)
    middle = padded.shape[1:-1]
    split = padded.reshape(rows // layout.columns, layout.columns, *middle, runs // layout.depth, layout.depth)
    order = (0, *range(2, 2 + len(middle)), 2 + len(middle), 1, 3 + len(middle))
    return np.ascontiguousarray(split.transpose(order)[..., np.argsort(layout.place()), :])


def unblocked(packed: np.ndarray, layout: Blocked, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `blocked` for codes of `shape`."""
    middle = packed.ndim - 4
    order = (0, 2 + middle, *range(1, 1 + middle), 1 + middle, 3 + middle)
    panels, columns = packed.shape[0], layout.columns
    natural = packed[..., list(layout.place()), :].transpose(order)
    whole = natural.reshape(panels * columns, *packed.shape[1 : 1 + middle], -1)
    return whole[tuple(slice(size) for size in shape)]


def depthwise_taps(codes: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Taps of depthwise windows in the order that lets neighbours share work, see qc_depthwise_i8.h.

    Shapes: codes [C, height, width] -> [C, taps] and the place (y, x) of every tap. Small windows have a whole group of
    four taps for each column, filled up by taps with weights of zero; others are in row order.
    """
    channels, height, width = codes.shape
    if height > 4 or width != 3:
        return codes.reshape(channels, -1), [(y, x) for y in range(height) for x in range(width)]
    filled = np.pad(codes, ((0, 0), (0, 4 - height), (0, 0)))
    places = [(min(y, height - 1), x) for x in range(width) for y in range(4)]
    return np.ascontiguousarray(filled.transpose(0, 2, 1)).reshape(channels, -1), places
