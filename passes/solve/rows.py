"""Rows of a weight that have nothing to do with one another, a share of them at a time: what large weights need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcompiler.spec import QuantSpec


def row_slices(shape: Sequence[int], spec: QuantSpec, elements: int) -> list[slice]:
    """Slices of the first axis with at most so many elements each, one row at least.

    A single slice of everything where a block of some level spans rows.

    Args:
        shape: of the weight.
        spec: its numbers.
        elements: most elements of a slice.
    """
    rows = shape[0]
    if any(level.block[0] != 1 for level in spec.levels):
        return [slice(0, rows)]
    size = max(elements // max(math.prod(shape[1:]), 1), 1)
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]
